use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use compact_str::CompactString;
use taptrail_kernel::proc::{ProcessId, boot_id};
use taptrail_ledger::Ledger;
use taptrail_record::{ClaimedGuest, GuestId, IfName, MacAddr};
use uuid::Uuid;

use super::{command_line, libvirt};

/// Where libvirt's system daemon keeps the state of its guests.
pub const LIBVIRT_STATE_DIR: &str = "/run/libvirt/qemu";

/// Where a scan looks up which guest a process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The state directory with the ledger.
    pub state: Option<PathBuf>,
    /// libvirt's directory with the state of its guests.
    pub libvirt: Option<PathBuf>,
}

impl Sources {
    /// This host's ledger, in the state directory given, and libvirt's default directory.
    pub fn of_host(state: impl Into<PathBuf>) -> Self {
        Self { state: Some(state.into()), libvirt: Some(PathBuf::from(LIBVIRT_STATE_DIR)) }
    }
}

/// The guest that a process runs, as far as a source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name of the guest; none if the source has none.
    pub name: Option<CompactString>,
    /// The uuid of the guest; none if the source has none.
    pub uuid: Option<Uuid>,
    /// The source that says so.
    pub by: IdentitySource,
    /// Its interfaces, if libvirt's state is the source.
    pub interfaces: Vec<InterfaceName>,
}

/// The source that says which guest a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentitySource {
    /// The ledger, by pid and start time.
    Ledger,
    /// libvirt's state of the guest, by pid; the process started before that state was written, or
    /// its command line has the same uuid.
    Libvirt,
    /// The process's command line alone, which may contain anything.
    CommandLine,
}

impl IdentitySource {
    /// The word that stands for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Libvirt => "libvirt",
            Self::CommandLine => "command-line",
        }
    }
}

/// An interface of a guest, and the name of its host interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceName {
    /// The MAC on the guest's side.
    pub mac: MacAddr,
    /// The name of the host interface.
    pub ifname: IfName,
}

/// The guests that the ledger and libvirt's state have as running.
#[derive(Debug, Default)]
pub(super) struct GuestIndex {
    ledger: HashMap<ProcessId, GuestId>,
    libvirt: HashMap<u32, libvirt::Domain>,
}

impl GuestIndex {
    /// Reads both sources. A source that can't be read counts as empty.
    pub(super) fn read(sources: &Sources) -> Self {
        let domains = sources.libvirt.as_deref().map(libvirt::domains).unwrap_or_default();
        Self {
            ledger: ledger(sources).unwrap_or_default(),
            libvirt: domains.into_iter().map(|domain| (domain.pid, domain)).collect(),
        }
    }

    /// The guest that a process with this program and these arguments runs.
    pub(super) fn of(
        &self,
        process: ProcessId,
        exe: Option<&Path>,
        arguments: &[OsString],
    ) -> Option<Identity> {
        if let Some(GuestId { name, uuid }) = self.ledger.get(&process).cloned() {
            let by = IdentitySource::Ledger;
            return Some(Identity { name: Some(name), uuid: Some(uuid), by, interfaces: Vec::new() });
        }
        let ClaimedGuest { name, uuid } = command_line::identity_by_program(exe, arguments);
        // A pid alone may have passed to another process by now. A process that is older than
        // libvirt's state file is libvirt's QEMU, whatever its command line shows. For a younger
        // one the uuid has to agree: libvirt starts no QEMU without -uuid.
        let domain = self.libvirt.get(&process.pid).filter(|domain| {
            domain.written.is_some_and(|written| process.started() < written) || Some(domain.uuid) == uuid
        });
        if let Some(libvirt::Domain { name, uuid, interfaces, .. }) = domain.cloned() {
            let by = IdentitySource::Libvirt;
            return Some(Identity { name: Some(name.into()), uuid: Some(uuid), by, interfaces });
        }
        let by = IdentitySource::CommandLine;
        (name.is_some() || uuid.is_some()).then_some(Identity { name, uuid, by, interfaces: Vec::new() })
    }
}

/// The QEMUs that the ledger has for this boot.
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
    fn a_name_on_a_command_line_is_the_weakest_source() {
        let uuid: Uuid = UUID.parse().unwrap();
        let process = ProcessId { pid: 7, start_time: 70 };
        let other = ProcessId { start_time: 71, ..process };
        let identify = |name: &str, arguments: &[&str], guests: &GuestIndex, process| {
            let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
            let identity = guests.of(process, None, &arguments).unwrap();
            assert_eq!(identity.name.as_deref(), Some(name));
            identity.by
        };
        let shown = ["qemu", "-name", "shown", "-uuid", UUID];
        let mut guests = GuestIndex::default();
        assert_eq!(identify("shown", &shown, &guests, process), IdentitySource::CommandLine);

        let written = Some(process.started());
        let interfaces = Vec::new();
        let domain = libvirt::Domain { pid: 7, name: "libvirt's".into(), uuid, interfaces, written };
        guests.libvirt.insert(7, domain);
        assert_eq!(identify("libvirt's", &shown, &guests, process), IdentitySource::Libvirt);
        let earlier = ProcessId { start_time: 1, ..process };
        assert_eq!(identify("libvirt's", &shown[..3], &guests, earlier), IdentitySource::Libvirt);
        let later = ProcessId { start_time: 7000, ..process };
        assert_eq!(identify("shown", &shown[..3], &guests, later), IdentitySource::CommandLine);

        guests.ledger.insert(process, GuestId { name: "ledger's".into(), uuid });
        assert_eq!(identify("ledger's", &[], &guests, process), IdentitySource::Ledger);
        assert_eq!(identify("libvirt's", &shown, &guests, other), IdentitySource::Libvirt);
        assert_eq!(guests.of(other, None, &[]), None);
    }
}
