use std::os::unix::fs::MetadataExt as _;

use jiff::Timestamp;
use taptrail_kernel::proc::ProcessId;
use taptrail_record::GuestId;
use taptrail_trail::Holding;
use uuid::Uuid;

use super::Row;
use super::claims::is_in_time;

/// Which of a host's devices are asked about. All are held against each other; the others are not told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only of these guests: their names or uuids.
    pub guests: Vec<String>,
    /// Only of these processes.
    pub pids: Vec<u32>,
    /// Only in this network namespace, by its inode.
    pub netns: Option<u64>,
}

impl Scope {
    /// Whether a row is asked about.
    pub fn has(&self, row: &Row<'_>) -> bool {
        self.is_guest(row) && self.is_pid(row) && self.is_here(row)
    }

    fn is_guest(&self, row: &Row<'_>) -> bool {
        let is = |name: Option<&str>, uuid: Option<Uuid>| {
            let uuid = uuid.map(|uuid| uuid.to_string());
            self.guests.iter().any(|guest| Some(guest.as_str()) == name || Some(guest) == uuid.as_ref())
        };
        let told = row.holding.map(|holding| &holding.guest);
        let seen = row.holder.and_then(|holder| holder.guest.as_ref());
        self.guests.is_empty()
            || told.is_some_and(|GuestId { name, uuid }| is(Some(name), Some(*uuid)))
            || seen.is_some_and(|guest| is(guest.name.as_deref(), guest.uuid))
    }

    fn is_pid(&self, row: &Row<'_>) -> bool {
        let pid = row.holder.map(|holder| holder.process.pid);
        let told = row.holding.and_then(|holding| holding.pid);
        self.pids.is_empty() || self.pids.iter().any(|wanted| Some(*wanted) == pid || Some(*wanted) == told)
    }

    /// Where its interface is, or else its process. What nobody holds is where its process is, if that lives.
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

/// Where the process of a holding is: not where another is that has its pid by now.
fn netns(holding: &Holding) -> Option<u64> {
    let process = ProcessId::of(holding.pid?).ok()?;
    let started = Timestamp::try_from(process.started()).ok();
    let place = std::fs::metadata(format!("/proc/{}/ns/net", process.pid)).ok()?;
    is_in_time(started, holding).then(|| place.ino())
}
