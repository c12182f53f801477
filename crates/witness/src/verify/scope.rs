use std::os::unix::fs::MetadataExt as _;

use jiff::Timestamp;
use taptrail_kernel::proc::ProcessId;
use taptrail_record::GuestId;
use taptrail_trail::Holding;
use uuid::Uuid;

use super::Row;
use super::holder::is_in_time;

/// A selection of a host's devices. The comparison covers all of them; only the selected ones are
/// reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only these guests, by name or uuid; all if empty.
    pub guests: Vec<String>,
    /// Only these processes; all if empty.
    pub pids: Vec<u32>,
    /// Only in this network namespace, by its inode.
    pub netns: Option<u64>,
}

impl Scope {
    /// Whether a row is selected.
    pub fn has(&self, row: &Row<'_>) -> bool {
        self.is_guest(row) && self.is_pid(row) && self.is_here(row)
    }

    fn is_guest(&self, row: &Row<'_>) -> bool {
        let is = |name: Option<&str>, uuid: Option<Uuid>| {
            let uuid = uuid.map(|uuid| uuid.to_string());
            self.guests.iter().any(|guest| Some(guest.as_str()) == name || Some(guest) == uuid.as_ref())
        };
        let named = row.holding.map(|holding| &holding.guest);
        let seen = row.holder.and_then(|holder| holder.guest.as_ref());
        self.guests.is_empty()
            || named.is_some_and(|GuestId { name, uuid }| is(Some(name), Some(*uuid)))
            || seen.is_some_and(|guest| is(guest.name.as_deref(), guest.uuid))
    }

    fn is_pid(&self, row: &Row<'_>) -> bool {
        let pid = row.holder.map(|holder| holder.process.pid);
        let recorded = row.holding.and_then(|holding| holding.pid);
        self.pids.is_empty()
            || self.pids.iter().any(|wanted| Some(*wanted) == pid || Some(*wanted) == recorded)
    }

    /// Whether a row is in the network namespace: by its interface, or else by its process. A
    /// missing device counts as where its process is, if that is alive.
    fn is_here(&self, row: &Row<'_>) -> bool {
        let Some(wanted) = self.netns else { return true };
        let place = match (row.holder, row.held) {
            (Some(holder), Some(held)) => held.netns.or(holder.netns),
            (None, Some(held)) => held.netns,
            _ => row.holding.and_then(netns),
        };
        place.is_none_or(|place| place == wanted)
    }
}

/// The network namespace of the process of a holding, unless its pid has passed to another process.
fn netns(holding: &Holding) -> Option<u64> {
    let process = ProcessId::of(holding.pid?).ok()?;
    let started = Timestamp::try_from(process.started()).ok();
    let place = std::fs::metadata(format!("/proc/{}/ns/net", process.pid)).ok()?;
    is_in_time(started, holding).then(|| place.ino())
}
