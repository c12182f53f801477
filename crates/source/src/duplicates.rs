//! One event told by several inputs is one event.
//!
//! A rotation may be there twice; a host's ledger, its audit log and libvirtd's own log tell the same
//! in three ways. What two inputs tell is one event when the kernel's serial number is the same, or,
//! where one of them kept none, when they say the same within a moment. What one program writes to one input
//! is here taken for told twice only where the serial number says so ([`crate::repeats`] has seen to the rest).
//! But a journal may have each event from the kernel's audit and from the kernel's log.
//!
//! The same comparison shows what an audit log that covers a time lacks.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Fragment, Record};
use taptrail_trail::{Content, Entry};

use crate::Take;
use crate::coverage::Coverage;
use crate::track::{Origin, Placed};
use crate::window::APART;

/// How long an event is remembered, so that others may tell it too.
pub(crate) const KEPT: SignedDuration = SignedDuration::from_secs(5);

/// The events of the last moments.
#[derive(Debug, Default)]
pub(crate) struct Duplicates {
    seen: VecDeque<Seen>,
    /// The number of the first in `seen`.
    first: u64,
    by_serial: HashMap<(Arc<str>, u32), u64>,
    by_claim: HashMap<Claim, Alike>,
    hasher: RandomState,
    pub(crate) coverage: Coverage,
}

/// Whether an event was told before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It was not. Its number, where others may tell it still.
    New(Option<u64>),
    /// It was, by the event of this number.
    Same(u64),
}

/// How many programs write to one input ([`crate::found::Voice`]).
const VOICES: u32 = 8;

/// A hash of what an event says of its host, and whether it has a serial number.
type Claim = (u64, bool);

/// Events that say the same.
#[derive(Debug, Default)]
struct Alike {
    /// Their numbers, the oldest first.
    numbers: VecDeque<u64>,
    /// For each input the number below which it has told them all, or is too late to.
    passed: Vec<(u32, u64)>,
}

/// How many events alike are looked at that an input may tell later, but not now.
const LOOKED_AT: usize = 64;

#[derive(Debug)]
struct Seen {
    time: Timestamp,
    order: Timestamp,
    serial: Option<u32>,
    host: Arc<str>,
    claim: Claim,
    tracks: Vec<u32>,
    /// Whether an audit log tells it.
    logged: bool,
    /// What to tell when no audit log does.
    lacking: Option<Box<Entry>>,
}

impl Duplicates {
    /// Notes that an audit log tells of this time, if it does.
    pub(crate) fn cover(&mut self, origin: Origin, entry: &Entry) {
        if is_logged(origin.is_rows, entry) {
            self.coverage.tells(&entry.host, origin, entry.time);
        }
    }

    /// Whether this is the first to tell the event. `alone`: no other input tells of this time.
    pub(crate) fn look(&mut self, origin: Origin, alone: bool, placed: &Placed) -> Look {
        let entry = &placed.entry;
        let Origin { id, is_rows, .. } = origin;
        // One input may have each event once by each program that writes to it.
        let track = id * VOICES + placed.voice as u32;
        let logged = is_logged(is_rows, entry);
        if alone && self.seen.is_empty() {
            return Look::New(None);
        }
        let claim = (self.hasher.hash_one((&entry.host, &entry.content)), entry.serial.is_some());
        if let Some(at) = self.find(track, claim, entry) {
            let seen = &mut self.seen[at];
            seen.tracks.push(track);
            seen.logged |= logged;
            return Look::Same(self.first + at as u64);
        }
        let number = self.first + self.seen.len() as u64;
        if let Some(serial) = entry.serial {
            self.by_serial.insert((Arc::clone(&entry.host), serial), number);
        }
        self.by_claim.entry(claim).or_default().numbers.push_back(number);
        self.seen.push_back(Seen {
            time: entry.time,
            order: placed.order,
            serial: entry.serial,
            host: Arc::clone(&entry.host),
            claim,
            tracks: vec![track],
            logged,
            lacking: if logged { None } else { lacking(entry, is_rows).map(Box::new) },
        });
        Look::New(Some(number))
    }

    fn find(&mut self, track: u32, claim: Claim, entry: &Entry) -> Option<usize> {
        let at = |number: u64| usize::try_from(number.checked_sub(self.first)?).ok();
        if let Some(serial) = entry.serial {
            let same = self.by_serial.get(&(Arc::clone(&entry.host), serial)).and_then(|&number| at(number));
            if let Some(same) = same.filter(|&same| self.seen[same].is_near(entry)) {
                return Some(same);
            }
        }
        let (said, has_serial) = claim;
        let bare = self.alike((said, false), track, entry);
        // Two serial numbers are two events.
        let numbered = if has_serial { None } else { self.alike((said, true), track, entry) };
        bare.into_iter().chain(numbered).min()
    }

    /// The first event that says the same and that this input did not tell yet. What an input has passed
    /// is not looked at again: a log may have any number of records alike.
    fn alike(&mut self, claim: Claim, track: u32, entry: &Entry) -> Option<usize> {
        let Alike { numbers, passed } = self.by_claim.get_mut(&claim)?;
        let place = passed.iter().position(|(of, _)| *of == track).unwrap_or_else(|| {
            passed.push((track, 0));
            passed.len() - 1
        });
        let passed = &mut passed[place].1;
        let (mut looked_at, from) = (0, numbers.partition_point(|number| number < passed));
        for number in numbers.range(from..) {
            let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
            let seen = &self.seen[at];
            let told = seen.tracks.contains(&track);
            if !told && seen.is_near(entry) {
                return Some(at);
            }
            if looked_at == 0 && (told || entry.time > seen.time) {
                *passed = number + 1;
                continue;
            }
            looked_at += 1;
            if looked_at == LOOKED_AT {
                break;
            }
        }
        None
    }

    /// Forgets what is long before `now`, and gives what an audit log should have told and did not.
    pub(crate) fn forget(&mut self, now: Timestamp, tell: &mut Take<'_>) -> ControlFlow<()> {
        while let Some(seen) = self.seen.pop_front_if(|seen| now.duration_since(seen.order) > KEPT) {
            let number = self.first;
            self.first += 1;
            if let Some(serial) = seen.serial {
                let key = (Arc::clone(&seen.host), serial);
                if self.by_serial.get(&key) == Some(&number) {
                    self.by_serial.remove(&key);
                }
            }
            if let Some(alike) = self.by_claim.get_mut(&seen.claim) {
                alike.numbers.pop_front_if(|oldest| *oldest == number);
                if alike.numbers.is_empty() {
                    self.by_claim.remove(&seen.claim);
                }
            }
            if let (false, Some(entry)) = (seen.logged, seen.lacking)
                && self.coverage.covers(&seen.host, seen.time)
            {
                tell(&entry)?;
            }
        }
        ControlFlow::Continue(())
    }
}

impl Seen {
    /// Whether an input may mean it with this.
    fn is_near(&self, entry: &Entry) -> bool {
        self.time.duration_since(entry.time).abs() <= APART
    }
}

/// Whether an audit log has it.
pub(crate) fn is_logged(is_rows: bool, entry: &Entry) -> bool {
    !is_rows && entry.serial.is_some()
}

/// What is to be told of an entry that an audit log lacks: a ledger's record with its serial number
/// was logged once; what libvirtd's own log tells never was.
fn lacking(entry: &Entry, is_rows: bool) -> Option<Entry> {
    let Content::Record(record) = &entry.content else { return None };
    let fragment = fragment(record);
    let content = match (is_rows, entry.serial, entry.writer) {
        (true, Some(_), _) => Content::Missing(fragment),
        (false, None, None) => Content::Unsent(fragment),
        _ => return None,
    };
    Some(Entry { content, ..entry.clone() })
}

/// Whom and what a record names.
fn fragment(record: &Record) -> Fragment {
    Fragment {
        name: Some(record.guest.name.clone()),
        uuid: Some(record.guest.uuid),
        mac: record.event.mac(),
        device: record.event.device().cloned(),
    }
}

#[cfg(test)]
mod tests {
    use taptrail_record::{Event, GuestId, MacAddr};
    use uuid::Uuid;

    use super::*;
    use crate::found::Voice;

    /// An entry at this millisecond; all say the same.
    fn placed(millis: i64, serial: Option<u32>) -> Placed {
        let guest = GuestId { name: "g".into(), uuid: Uuid::from_u128(1) };
        let event = Event::Detach { mac: MacAddr::kvm([0, 0, 1]), vm_pid: None, fds: None, forced: false };
        let (host, source) = (Arc::from("h1"), Arc::from("a.log"));
        let content = Content::Record(Record::success(guest, event));
        let time = Timestamp::from_millisecond(millis).unwrap();
        let entry = Entry {
            host,
            time,
            serial,
            writer: None,
            source,
            line: 1,
            content,
            copies: Vec::new(),
            unauthenticated: false,
        };
        Placed { order: time, entry, voice: Voice::Auditd, boot: None }
    }

    /// Which entries are new, by input, time and serial number.
    fn new(entries: impl IntoIterator<Item = (u32, i64, Option<u32>)>) -> Vec<bool> {
        let mut duplicates = Duplicates::default();
        let mut is_new = |(id, millis, serial)| {
            let origin = Origin { id, is_rows: false, rotation: 0 };
            let placed = placed(millis, serial);
            assert!(duplicates.forget(placed.order, &mut |_| ControlFlow::Continue(())).is_continue());
            matches!(duplicates.look(origin, false, &placed), Look::New(_))
        };
        entries.into_iter().map(&mut is_new).collect()
    }

    #[test]
    fn records_alike_of_one_input_are_each_paired_with_one_of_another() {
        let (a, b) = ((1, 0, Some(7)), (1, 10, Some(8)));
        assert_eq!(new([a, b, (2, 5, None), (2, 6, None), (2, 7, None)]), [true, true, false, false, true]);
        assert_eq!(new([(2, 0, None), (1, 1, None), (1, 2, None), (2, 3, None)]), [true, false, true, false]);
        assert_eq!(new([a, (2, 0, Some(8)), (3, 1, None), (3, 2, None)]), [true, true, false, false]);
        // Too late, and then one in time.
        assert_eq!(new([a, (1, 4000, Some(9)), (2, 4100, None)]), [true, true, false]);
    }

    #[test]
    fn any_number_of_records_alike_are_paired_in_a_moment() {
        const MANY: u32 = 100_000;
        for serial in [Some as fn(u32) -> Option<u32>, |_| None] {
            let log = |id: u32| (0..MANY).map(move |number| (id, 0, serial(number)));
            let told = new(log(1).chain(log(2)).chain(log(3)));
            assert!(told[..MANY as usize].iter().all(|new| *new));
            assert!(!told[MANY as usize..].contains(&true));
        }
    }
}
