//! Finds which processes of this host hold network devices, as the kernel shows it.
//!
//! ```text
//!   /proc/PID/fd ─▶ devices ─▶ grouped by interface ─▶ link: namespace, bridge, lower ─▶ copies: kcmp(2)
//!                     └─▶ process: start time, uid, program, guest (ledger, libvirt, command line)
//! ```
//!
//! A process that ends during the scan holds nothing. A process that can't be inspected is listed
//! with the reason.

pub(crate) mod command_line;
mod connections;
mod copies;
mod guests;
mod hand_overs;
mod hidden_taps;
mod libvirt;
mod manager;
mod netns;
mod program;
mod unseen;

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

use jiff::Timestamp;
use rustix::io::Errno;
use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::{
    DeviceNumbers, HeldDevice, HeldKind, ProcessId, ProcessStatus, command_line as arguments,
    deleted_macvtap, descriptor_tables, exe, held_devices, is_gone, processes, sees_all_processes,
};
use taptrail_record::{DeviceKind, IfName, Rdev};

pub use self::connections::SeenConnection;
pub(crate) use self::connections::is_connection;
pub use self::guests::LIBVIRT_STATE_DIR;
pub use self::guests::{Identity, IdentitySource, InterfaceName, Sources};
pub use self::hand_overs::PendingHandOver;
pub(crate) use self::hidden_taps::TapQueues;
pub use self::hidden_taps::{HiddenTap, HidingProcess};
pub(crate) use self::libvirt::interface_names;
pub use self::manager::{Manager, ManagerKind, ManagerSource};
pub use self::netns::HostLink;
pub use self::program::Program;
pub use self::unseen::{Unseen, UnseenProcess, UnseenReason};

use self::guests::GuestIndex;
use self::manager::Managed;
use self::netns::NetnsCache;

/// The most bytes of a command line that are read; libvirt's for a guest with 100 disks has 60 KiB.
pub(crate) const MAX_COMMAND_LINE_BYTES: u64 = 256 * 1024;

/// The most devices of one process that are read; QEMU accepts 256 queues for an interface.
const MAX_DEVICES_PER_PROCESS: usize = 8192;

/// The devices that the processes of this host hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// The processes that hold a device, in the order of their pids.
    pub holders: Vec<Holder>,
    /// How many processes were inspected.
    pub processes: usize,
    /// Taps with open files that no process shows. A process that could not be inspected may have
    /// them.
    pub hidden_taps: Vec<HiddenTap>,
    /// If there are hidden taps: the processes with open files that can't be inspected.
    pub hiding_processes: Vec<HidingProcess>,
    /// The connections to vhost-user backends that were looked for ([`Self::find_connections`]).
    pub connections: Vec<SeenConnection>,
    /// Hand-overs of devices by supervisors that are under way.
    pub pending_hand_overs: Vec<PendingHandOver>,
    /// What the scan could not see.
    pub unseen: Unseen,
    /// The inode of the scanner's own network namespace, where it is known.
    pub netns: Option<u64>,
}

/// A process that holds a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its pid and start time.
    pub process: ProcessId,
    /// Its pids in pid namespaces below ours, the innermost last. A manager in a container knows it
    /// by one of them.
    pub within: Vec<u32>,
    /// When it started, by this host's clock.
    pub started: Option<Timestamp>,
    /// The pid of its parent.
    pub parent: Option<u32>,
    /// The effective user id that it runs with; none if it could not be read.
    pub uid: Option<u32>,
    /// The path of its program, as the kernel shows it; ends in ` (deleted)` if the file is gone.
    pub exe: Option<PathBuf>,
    /// The kind of that program, by its file name.
    pub program: Program,
    /// The guest that it runs, where a source says so.
    pub guest: Option<Identity>,
    /// The manager of that guest, as far as it can be found; none if it runs no guest.
    pub manager: Option<Manager>,
    /// The inode of its network namespace. Its devices may be in others.
    pub netns: Option<u64>,
    /// The devices that it holds, each interface once.
    pub devices: Vec<ScannedDevice>,
}

#[cfg(test)]
impl Holder {
    /// A process of which nothing is known but what it holds.
    pub(crate) fn of_test(process: ProcessId, devices: Vec<ScannedDevice>) -> Self {
        Self {
            process,
            within: Vec::new(),
            started: None,
            parent: None,
            uid: None,
            exe: None,
            program: Program::Other,
            guest: None,
            manager: None,
            netns: None,
            devices,
        }
    }
}

/// A device that a process holds, with all its descriptors there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedDevice {
    /// The kind of device, by its number.
    pub kind: HeldKind,
    /// The node's path as that process opened it.
    pub path: PathBuf,
    /// The device number of the node.
    pub rdev: Rdev,
    /// The host interface behind it, by its name in its own network namespace; only for taps and
    /// macvtaps.
    pub ifname: Option<IfName>,
    /// The inode of that namespace, where it is known.
    pub netns: Option<u64>,
    /// The interface as rtnetlink describes it, where it was found.
    pub behind: Option<HostLink>,
    /// The descriptors in the process's tables that refer to it.
    pub descriptors: Vec<ThreadDescriptor>,
}

/// One descriptor of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadDescriptor {
    /// Its number in the thread's table.
    pub fd: RawFd,
    /// The thread that has it: the first one, unless a thread has a descriptor table of its own.
    pub thread: u32,
    /// The open file behind it. Within one [`Scan`], equal numbers are one open file that was
    /// passed to another process, inherited or duplicated. None if the kernel did not compare it.
    pub file: Option<u32>,
}

impl ScannedDevice {
    /// The number of queues of it that the process holds: open files, each counted once.
    pub fn queues(&self) -> u32 {
        let mut files: Vec<_> = self.descriptors.iter().filter_map(|of| of.file).collect();
        files.sort_unstable();
        files.dedup();
        let unknown = self.descriptors.iter().filter(|of| of.file.is_none()).count();
        u32::try_from(files.len() + unknown).unwrap_or(u32::MAX)
    }

    /// The ifindex in the path of a macvtap's node (`/dev/tapN`) that was deleted. The link of that
    /// number is gone or was moved, and its device number may be another macvtap's by now.
    pub(crate) fn deleted_node_ifindex(&self) -> Option<u32> {
        let is_macvtap = self.kind.raw() == Some(DeviceKind::Macvtap);
        deleted_macvtap(&self.path).filter(|_| is_macvtap)
    }

    /// Whether its link is gone, so that nothing but its path distinguishes it from another macvtap
    /// that has its device number by now.
    pub(crate) fn is_dead(&self) -> bool {
        self.behind.is_none() && self.deleted_node_ifindex().is_some()
    }
}

/// Scans processes for the devices that they hold.
#[derive(Debug)]
pub struct Scanner {
    sources: Sources,
    numbers: DeviceNumbers,
}

impl Scanner {
    /// A scanner that looks up in `sources` which guest a process runs.
    pub fn new(sources: Sources) -> Self {
        Self { sources, numbers: DeviceNumbers::default() }
    }

    /// Scans all processes. Takes about 30 µs per process, and 200 µs more for each that holds a
    /// device.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn scan(&mut self) -> io::Result<Scan> {
        let pids = processes()?;
        let mut scan = self.scan_of(pids.iter().copied())?;
        scan.unseen.outside = !sees_all_processes()?;
        // Read after the processes: a hand-over that had ended by then is in the trail.
        scan.pending_hand_overs = hand_overs::read(&self.sources);
        Ok(scan)
    }

    /// Adds the hidden taps to a scan of all processes. Takes a few µs per process, and one
    /// question to the kernel per network namespace.
    pub fn find_hidden_taps(&self, scan: &mut Scan) {
        // The taps in a container's network namespace mostly belong to processes outside of it.
        if scan.unseen.outside {
            return;
        }
        let Ok(pids) = processes() else { return };
        scan.hidden_taps = hidden_taps::find(&scan.holders);
        if !scan.hidden_taps.is_empty() {
            scan.hiding_processes = hidden_taps::hiding_processes(&pids);
        }
    }

    /// Scans these processes.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn scan_of(&mut self, pids: impl IntoIterator<Item = u32>) -> io::Result<Scan> {
        let mut context = ScanContext::new(&self.sources);
        let mut scan = Scan::default();
        // A driver may have been loaded since.
        self.numbers = DeviceNumbers::default();
        for pid in pids {
            scan.processes += 1;
            match context.process(pid, &mut self.numbers) {
                Ok(Some(holder)) => scan.holders.push(holder),
                Ok(None) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => scan.unseen.processes.extend(UnseenProcess::refused(pid, &error)),
            }
        }
        scan.unseen.places = context.netns.find(&mut scan.holders);
        scan.unseen.copies = copies::number_open_files(&mut scan.holders);
        scan.unseen.crowded = context.crowded;
        scan.netns = NetNs::own().ok().map(|own| own.inode());
        Ok(scan)
    }

    /// Scans one process; none if it is gone, or holds nothing.
    ///
    /// EACCES without the right to inspect it.
    pub fn look(&mut self, process: ProcessId) -> io::Result<Option<Holder>> {
        let mut context = ScanContext::new(&self.sources);
        let found = match context.process(process.pid, &mut self.numbers) {
            Err(error) if is_gone(&error) => return Ok(None),
            found => found?,
        };
        let mut found: Vec<_> = found.into_iter().filter(|holder| holder.process == process).collect();
        context.netns.find(&mut found);
        copies::number_open_files(&mut found);
        Ok(found.pop())
    }
}

/// What is read once for a whole scan.
struct ScanContext {
    guests: GuestIndex,
    netns: NetnsCache,
    crowded: Vec<UnseenProcess>,
}

impl ScanContext {
    fn new(sources: &Sources) -> Self {
        Self { guests: GuestIndex::read(sources), netns: NetnsCache::default(), crowded: Vec::new() }
    }

    /// Scans one process, without the links behind its devices and without comparing open files.
    fn process(&mut self, pid: u32, numbers: &mut DeviceNumbers) -> io::Result<Option<Holder>> {
        let mut all = |pid| -> io::Result<Vec<(u32, HeldDevice<HeldKind>)>> {
            let mut all = Vec::new();
            for thread in descriptor_tables(pid)? {
                match held_devices(thread, numbers, MAX_DEVICES_PER_PROCESS + 1 - all.len()) {
                    Ok(held) => all.extend(held.into_iter().map(|held| (thread, held))),
                    // One of its threads may end before it.
                    Err(error) if thread != pid && is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(all)
        };
        if all(pid)?.is_empty() {
            return Ok(None);
        }
        // Read again, now that its start time is known: most processes hold nothing, and their
        // start time is not needed.
        let process = ProcessId::of(pid)?;
        let mut held = all(pid)?;
        if held.len() > MAX_DEVICES_PER_PROCESS {
            held.truncate(MAX_DEVICES_PER_PROCESS);
            self.crowded.push(UnseenProcess::crowded(pid));
        }
        let Some((thread, _)) = held.first() else { return Ok(None) };
        // The first thread may have ended; then it shows nothing of the process.
        let thread = *thread;
        let arguments = arguments(thread, MAX_COMMAND_LINE_BYTES).unwrap_or_default();
        let exe = exe(thread).ok();
        let netns = self.netns.of_process(thread);
        let mut devices: Vec<_> = held
            .into_iter()
            .map(|(thread, held)| (self.netns.of_tap(process, thread, &held), thread, held))
            .collect();
        let lost = |(place, _, held): &(Option<u64>, u32, HeldDevice<HeldKind>)| {
            place.is_none() && (held.ifname.is_some() || netns.is_none())
        };
        if devices.iter().any(lost) {
            // A device that was closed meanwhile, or went with its process, has no place any more:
            // no process holds it.
            let still = all(pid)?;
            devices.retain(|of| !lost(of) || still.contains(&(of.1, of.2.clone())));
        }
        if devices.is_empty() {
            return Ok(None);
        }
        let status = ProcessStatus::of(thread).ok();
        let program = Program::of(exe.as_deref());
        let guest = self.guests.of(process, exe.as_deref(), &arguments);
        let (parent, uid) = (status.as_ref().map(|of| of.parent), status.as_ref().map(|of| of.uid));
        let managed = Managed { program, guest: guest.as_ref(), arguments: &arguments, parent, uid };
        let manager = managed.manager();
        let holder = Holder {
            process,
            started: Timestamp::try_from(process.started()).ok(),
            parent,
            uid,
            within: status.map(|status| status.within).unwrap_or_default(),
            program,
            guest,
            manager,
            exe,
            netns,
            devices: grouped(devices),
        };
        // Else the pid has passed to another process, and part of what was read is that one's.
        if ProcessId::of(pid)? != process {
            return Err(Errno::SRCH.into());
        }
        Ok(Some(holder))
    }
}

/// Merges the descriptors of one interface, or of one node.
fn grouped(devices: Vec<(Option<u64>, u32, HeldDevice<HeldKind>)>) -> Vec<ScannedDevice> {
    let mut groups: Vec<ScannedDevice> = Vec::new();
    for (netns, thread, HeldDevice { fd, kind, path, rdev, ifname }) in devices {
        let descriptor = ThreadDescriptor { fd, thread, file: None };
        let is_macvtap = kind.raw() == Some(DeviceKind::Macvtap);
        let same = |of: &&mut ScannedDevice| {
            (of.kind, of.rdev, of.netns) == (kind, rdev, netns)
                && of.ifname == ifname
                // A deleted macvtap's device number may be another one's.
                && (!is_macvtap || of.path == path)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.descriptors.push(descriptor),
            None => {
                let descriptors = vec![descriptor];
                groups.push(ScannedDevice { kind, path, rdev, ifname, netns, behind: None, descriptors });
            }
        }
    }
    groups
}
