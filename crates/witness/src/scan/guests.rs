use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use compact_str::CompactString;
use taptrail_kernel::proc::{ProcessId, boot_id};
use taptrail_ledger::Ledger;
use taptrail_record::{GuestId, IfName, MacAddr};
use uuid::Uuid;

use super::{command_line, libvirt};

/// Where libvirt keeps the state of the guests of its system daemon.
pub const LIBVIRT: &str = "/run/libvirt/qemu";

/// What tells which guest a process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The state directory with the ledger.
    pub state: Option<PathBuf>,
    /// libvirt's directory of running guests.
    pub libvirt: Option<PathBuf>,
}

impl Sources {
    /// Those of this host, its ledger in the state directory given.
    pub fn of_host(state: impl Into<PathBuf>) -> Self {
        Self { state: Some(state.into()), libvirt: Some(PathBuf::from(LIBVIRT)) }
    }
}

/// The guest that a process runs, as far as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What its owner calls it.
    pub name: Option<CompactString>,
    /// What identifies it.
    pub uuid: Option<Uuid>,
    /// Who says so.
    pub by: KnownBy,
    /// Its interfaces, where libvirt has written them down.
    pub interfaces: Vec<Named>,
}

/// Who says which guest a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KnownBy {
    /// The ledger, by pid and start time.
    Ledger,
    /// libvirt's state of it, by pid; the process is older than what is written there, or its command line agrees.
    Libvirt,
    /// The process's command line alone, which may say anything.
    CommandLine,
}

impl KnownBy {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Libvirt => "libvirt",
            Self::CommandLine => "command-line",
        }
    }
}

/// An interface of a guest, and what it is called on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The guest's side.
    pub mac: MacAddr,
    /// The host's side.
    pub ifname: IfName,
}

/// The guests that are on record as running.
#[derive(Debug, Default)]
pub(super) struct Guests {
    ledger: HashMap<ProcessId, GuestId>,
    libvirt: HashMap<u32, libvirt::Domain>,
}

impl Guests {
    /// What can't be read tells nothing.
    pub(super) fn read(sources: &Sources) -> Self {
        let domains = sources.libvirt.as_deref().map(libvirt::domains).unwrap_or_default();
        Self {
            ledger: ledger(sources).unwrap_or_default(),
            libvirt: domains.into_iter().map(|domain| (domain.pid, domain)).collect(),
        }
    }

    /// The guest that a process with these arguments runs.
    pub(super) fn of(&self, process: ProcessId, arguments: &[OsString]) -> Option<Identity> {
        if let Some(GuestId { name, uuid }) = self.ledger.get(&process).cloned() {
            let by = KnownBy::Ledger;
            return Some(Identity { name: Some(name), uuid: Some(uuid), by, interfaces: Vec::new() });
        }
        let (name, uuid) = command_line::identity(arguments);
        // A pid alone may be another process's by now. One that was there when libvirt wrote it is libvirt's QEMU,
        // whatever its command line shows since; else that has to agree: libvirt starts no QEMU without -uuid.
        let domain = self.libvirt.get(&process.pid).filter(|domain| {
            domain.written.is_some_and(|written| process.started() < written) || Some(domain.uuid) == uuid
        });
        if let Some(libvirt::Domain { name, uuid, interfaces, .. }) = domain.cloned() {
            let by = KnownBy::Libvirt;
            return Some(Identity { name: Some(name.into()), uuid: Some(uuid), by, interfaces });
        }
        let by = KnownBy::CommandLine;
        (name.is_some() || uuid.is_some()).then_some(Identity { name, uuid, by, interfaces: Vec::new() })
    }
}

/// The QEMUs of this boot that the ledger knows.
fn ledger(sources: &Sources) -> Option<HashMap<ProcessId, GuestId>> {
    let boot = boot_id().ok()?.to_string();
    let guests = Ledger::open_to_read(sources.state.as_deref()?).ok()?.live_guests().ok()?;
    let of_this_boot = guests.into_iter().filter(|guest| guest.boot_id == boot);
    let known = of_this_boot.filter_map(|guest| {
        let qemu = guest.qemu?;
        Some((ProcessId { pid: qemu.pid, start_time: qemu.start }, guest.id))
    });
    Some(known.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";

    #[test]
    fn a_name_on_a_command_line_is_the_weakest_word() {
        let uuid: Uuid = UUID.parse().unwrap();
        let process = ProcessId { pid: 7, start_time: 70 };
        let other = ProcessId { start_time: 71, ..process };
        let told = |name: &str, arguments: &[&str], guests: &Guests, process| {
            let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
            let identity = guests.of(process, &arguments).unwrap();
            assert_eq!(identity.name.as_deref(), Some(name));
            identity.by
        };
        let shown = ["qemu", "-name", "shown", "-uuid", UUID];
        let mut guests = Guests::default();
        assert_eq!(told("shown", &shown, &guests, process), KnownBy::CommandLine);

        let written = Some(process.started());
        let interfaces = Vec::new();
        let domain = libvirt::Domain { pid: 7, name: "libvirt's".into(), uuid, interfaces, written };
        guests.libvirt.insert(7, domain);
        assert_eq!(told("libvirt's", &shown, &guests, process), KnownBy::Libvirt);
        let earlier = ProcessId { start_time: 1, ..process };
        assert_eq!(told("libvirt's", &shown[..3], &guests, earlier), KnownBy::Libvirt);
        let later = ProcessId { start_time: 7000, ..process };
        assert_eq!(told("shown", &shown[..3], &guests, later), KnownBy::CommandLine);

        guests.ledger.insert(process, GuestId { name: "ledger's".into(), uuid });
        assert_eq!(told("ledger's", &[], &guests, process), KnownBy::Ledger);
        assert_eq!(told("libvirt's", &shown, &guests, other), KnownBy::Libvirt);
        assert_eq!(guests.of(other, &[]), None);
    }
}
