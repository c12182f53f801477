//! The devices that processes hold beside the trail's holdings, device by device.

mod table;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use taptrail_record::{MacAddr, Rdev};
use taptrail_trail::Holding;
use uuid::Uuid;

pub use self::table::verify_table;
use crate::text::{escape_name, escape_text};

/// The comparison of a host's devices with its trail; the JSON of `taptrail verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Each device of each process, and the holdings for which no process has the device.
    pub devices: Vec<VerifiedRow>,
    /// The number of devices for each verdict; no verdict is missing.
    pub counts: BTreeMap<&'static str, u64>,
    /// Differences that came and went during the scan: guests that started and stopped.
    pub in_motion: u64,
    /// The number of processes scanned.
    pub processes: u64,
    /// The names of network namespaces of devices and processes, by inode: as `ip netns` has them,
    /// and `own` for taptrail's.
    pub namespaces: BTreeMap<u64, String>,
    /// Processes, devices and descriptors that could not be looked into.
    pub unseen: UnseenReport,
    /// The trail that was read; none if there is no trail to compare with.
    pub trail: Option<TrailSummary>,
}

/// What a scan of a host could not see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UnseenReport {
    /// Processes whose descriptors could not be read.
    pub processes: Vec<UnseenRow>,
    /// Processes that hold more devices than the scan reads of one.
    pub crowded: Vec<UnseenRow>,
    /// The number of devices whose interface is in a network namespace that may not be entered.
    pub places: u64,
    /// Whether this is a container's pid namespace, with processes outside of it.
    pub outside: bool,
    /// The number of descriptors that could not be compared with those of other processes.
    pub copies: u64,
}

/// A process that could not be looked into, or not completely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnseenRow {
    /// Its process id.
    pub pid: u32,
    /// Its name as the kernel shows it; the process may have set it.
    pub name: Option<String>,
    /// Why: `permission`, `other-pid-namespace`, `crowded`, `failed`.
    pub why: &'static str,
}

impl UnseenReport {
    /// Whether a process may hold a device that the scan did not see. Descriptors that can't be
    /// compared hide copies, and no device.
    pub fn hides_devices(&self) -> bool {
        !self.processes.is_empty() || !self.crowded.is_empty() || self.places > 0
    }
}

/// The trail that devices were compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrailSummary {
    /// When it begins: earlier opens are on no record.
    #[serde(with = "crate::nics::millis")]
    pub begins: Option<Timestamp>,
    /// The number of records of this host.
    pub records: u64,
    /// The first few of the other hosts that it has records of; those records were left out.
    pub other_hosts: Vec<String>,
}

/// One device of one process, or some of its queues; or a holding for which no process has the
/// device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifiedRow {
    /// `accounted`, `unaccounted`, `missing`, `unknown`, `held-after-release`, `held-by-another`,
    /// `unaudited-kind`, `ignored`.
    pub verdict: &'static str,
    /// One sentence for people about the difference, if there is one.
    pub text: Option<String>,
    /// The process that holds it.
    pub process: Option<ProcessRow>,
    /// The guest that the process runs, if that is known.
    pub guest: Option<ProcessGuest>,
    /// The device.
    pub device: Option<HeldDeviceRow>,
    /// The number of queues: open files.
    pub queues: u32,
    /// The process ids of others that have the same open file, or the same interface.
    pub shared_with: Vec<u32>,
    /// How the device was matched with the holding: `name`, `libvirt`, `mac`, `elimination`,
    /// `count`.
    pub matched_by: Option<&'static str>,
    /// The trail's holding of it, with its proof.
    pub holding: Option<Holding>,
}

/// A process that holds a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessRow {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
    /// The same as a time.
    #[serde(with = "crate::nics::millis")]
    pub started: Option<Timestamp>,
    /// Its parent's process id.
    pub parent: Option<u32>,
    /// Its user id.
    pub uid: Option<u32>,
    /// Its program's path.
    pub exe: Option<String>,
    /// The kind of program: `qemu`, `hypervisor`, `network`, `vpn`, `manager`, `other`.
    pub program: &'static str,
    /// The inode of its network namespace.
    pub netns: Option<u64>,
    /// The manager of the guest that it runs, if that is known.
    pub manager: Option<ManagerRow>,
}

/// The manager of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManagerRow {
    /// `taptrail`, `libvirt`, `libvirt-session`, `virt-qemu-run`, `other`, or `none`: a child of
    /// the first process.
    pub kind: &'static str,
    /// Its process id, if known.
    pub pid: Option<u32>,
    /// Its program's file, or the directory with its files.
    pub path: Option<String>,
    /// The user whose session it belongs to.
    pub uid: Option<u32>,
    /// The source of this: `ledger`, `libvirt`, `command-line` (which may say anything), `parent`.
    pub known_by: &'static str,
}

/// The guest that a process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessGuest {
    /// Its name.
    pub name: Option<String>,
    /// Its uuid.
    pub uuid: Option<Uuid>,
    /// The source of name and uuid: `ledger`, `libvirt`, `command-line`.
    pub known_by: &'static str,
}

/// A device as a process holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldDeviceRow {
    /// `tun`, `macvtap`, `vhost-net`, or a kind that no audit record names.
    pub kind: &'static str,
    /// The node's path as the process opened it.
    pub path: String,
    /// The node's number.
    pub rdev: Rdev,
    /// The host interface.
    pub dev: Option<String>,
    /// The inode of the network namespace that the interface is in.
    pub netns: Option<u64>,
    /// The host interface's own address.
    pub mac: Option<MacAddr>,
    /// The bridge that it is a port of.
    pub bridge: Option<String>,
    /// The lower link of a macvtap.
    pub lower: Option<String>,
    /// The descriptors' numbers in that process.
    pub fds: Vec<i32>,
}

/// The number of processes that a line names.
const MAX_NAMED_PROCESSES: usize = 8;

/// Lines for people about what the scan could not see.
pub fn unseen_lines(unseen: &UnseenReport) -> Vec<String> {
    let mut lines = Vec::new();
    let plural =
        |number: u64, one: &str, many: &str| format!("{number} {}", if number == 1 { one } else { many });
    if !unseen.processes.is_empty() {
        let of = plural(unseen.processes.len() as u64, "process", "processes");
        let need = match unseen.processes.iter().all(|process| process.why == "failed") {
            true => "reading their descriptors failed",
            false => "root, or CAP_SYS_PTRACE, is needed, with all capabilities that they have",
        };
        let named = named_processes(&unseen.processes);
        lines.push(format!("What {of} may hold could not be seen: {need}: {named}"));
    }
    if !unseen.crowded.is_empty() {
        let of = plural(unseen.crowded.len() as u64, "process holds", "processes hold");
        lines.push(format!("{of} more devices than were looked at: {}", named_processes(&unseen.crowded)));
    }
    if unseen.places > 0 {
        let of = plural(unseen.places, "device", "devices");
        lines.push(format!(
            "The interfaces of {of} are in network namespaces that could not be looked into: CAP_SYS_ADMIN is needed"
        ));
    }
    if unseen.outside {
        lines.push("Processes outside of this container (its pid namespace) are not seen".to_owned());
    }
    if unseen.copies > 0 {
        let of = plural(unseen.copies, "descriptor is a copy", "descriptors are copies");
        lines.push(format!("Whether {of} could not be seen: root and a kernel with kcmp(2) are needed"));
    }
    lines
}

/// `pid 1 'init' (permission), pid 812 'x' (permission) and 3 more`
fn named_processes(processes: &[UnseenRow]) -> String {
    let named = |process: &UnseenRow| {
        let name =
            process.name.as_deref().map(|name| format!(" '{}'", escape_text(name))).unwrap_or_default();
        format!("pid {}{name} ({})", process.pid, process.why)
    };
    let named: Vec<_> = processes.iter().take(MAX_NAMED_PROCESSES).map(named).collect();
    let more = processes.len() - named.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

/// A line for people about the trail's records of other hosts, if there are any.
pub fn other_hosts_line(trail: &TrailSummary) -> Option<String> {
    let others: Vec<_> = trail.other_hosts.iter().map(|host| escape_name(host)).collect();
    let line = "Records of other hosts are left out; --host HOST says if one of them is this one";
    (!others.is_empty()).then(|| format!("{line}: {}", others.join(", ")))
}
