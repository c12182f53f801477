//! Recognizes one event that several inputs report.
//!
//! A rotation may be given twice. A host's ledger, its audit log and libvirtd's own log report the
//! same event in three ways. Two entries are one event if they have the same serial number or, if
//! one of them has none, if their content is equal and their times are at most [`DUPLICATE_SKEW`]
//! apart. Two entries that one program wrote to one input are taken for duplicates only if their
//! serial numbers are equal; [`crate::repeats`] handles the others. But a journal may have each
//! event from both the kernel's audit and the kernel's log.
//!
//! The comparison also shows which events an audit log lacks although it covers their time.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Fragment, Record};
use taptrail_trail::{Content, Entry};

use crate::audit_spans::AuditSpans;
use crate::ordered_entry::{EntrySink, OrderedEntry, Origin, is_in_audit_log};
use crate::window::DUPLICATE_SKEW;

/// How long an event is kept for comparison with other inputs.
pub(crate) const EVENT_RETENTION: SignedDuration = SignedDuration::from_secs(5);

/// The recent events.
#[derive(Debug, Default)]
pub(crate) struct Duplicates {
    recent: VecDeque<RecentEvent>,
    /// The number of the first event in `recent`.
    first: u64,
    by_serial: HashMap<(Arc<str>, u32), u64>,
    by_content: HashMap<ContentHash, SameContent>,
    hasher: RandomState,
    pub(crate) audit_spans: AuditSpans,
}

/// Whether an event is known from an earlier entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// It is new. Its number, if other inputs may still report it.
    New(Option<u64>),
    /// It duplicates the event of this number.
    Duplicate(u64),
}

/// How many programs may write to one input ([`crate::parsed_line::LogProgram`]).
const PROGRAMS_PER_INPUT: u32 = 8;

/// Hash of an event's host and content, and whether the event has a serial number.
type ContentHash = (u64, bool);

/// Events with equal content.
#[derive(Debug, Default)]
struct SameContent {
    /// Their numbers, oldest first.
    numbers: VecDeque<u64>,
    /// For each input and program, the number below which it has reported all of them, or can't any
    /// more.
    passed: Vec<(u32, u64)>,
}

/// How many events with equal content are compared with one entry.
const MAX_CANDIDATES: usize = 64;

#[derive(Debug)]
struct RecentEvent {
    time: Timestamp,
    order: Timestamp,
    serial: Option<u32>,
    host: Arc<str>,
    content_hash: ContentHash,
    tracks: Vec<u32>,
    /// Whether an audit log has it.
    in_audit_log: bool,
    /// The entry to emit if no audit log has the event.
    missing_entry: Option<Box<Entry>>,
}

impl Duplicates {
    /// Notes that an audit log covers the entry's time, if the entry is an audit log's.
    pub(crate) fn cover(&mut self, origin: Origin, entry: &Entry) {
        if is_in_audit_log(origin.is_rows, entry) {
            self.audit_spans.add(&entry.host, origin, entry.time);
        }
    }

    /// Whether the entry's event is new. `alone`: no other input has entries near this time.
    pub(crate) fn check(&mut self, origin: Origin, alone: bool, placed: &OrderedEntry) -> Comparison {
        let entry = &placed.entry;
        let Origin { id, is_rows, .. } = origin;
        // One input may have each event once from each program that writes to it.
        let track = id * PROGRAMS_PER_INPUT + placed.program as u32;
        let in_audit_log = is_in_audit_log(is_rows, entry);
        if alone && self.recent.is_empty() {
            return Comparison::New(None);
        }
        let content_hash = (self.hasher.hash_one((&entry.host, &entry.content)), entry.serial.is_some());
        if let Some(at) = self.find(track, content_hash, entry) {
            let recent = &mut self.recent[at];
            recent.tracks.push(track);
            recent.in_audit_log |= in_audit_log;
            return Comparison::Duplicate(self.first + at as u64);
        }
        let number = self.first + self.recent.len() as u64;
        if let Some(serial) = entry.serial {
            self.by_serial.insert((Arc::clone(&entry.host), serial), number);
        }
        self.by_content.entry(content_hash).or_default().numbers.push_back(number);
        self.recent.push_back(RecentEvent {
            time: entry.time,
            order: placed.order,
            serial: entry.serial,
            host: Arc::clone(&entry.host),
            content_hash,
            tracks: vec![track],
            in_audit_log,
            missing_entry: if in_audit_log { None } else { missing_entry(entry, is_rows).map(Box::new) },
        });
        Comparison::New(Some(number))
    }

    fn find(&mut self, track: u32, content_hash: ContentHash, entry: &Entry) -> Option<usize> {
        let at = |number: u64| usize::try_from(number.checked_sub(self.first)?).ok();
        if let Some(serial) = entry.serial {
            let same = self.by_serial.get(&(Arc::clone(&entry.host), serial)).and_then(|&number| at(number));
            if let Some(same) = same.filter(|&same| self.recent[same].is_near(entry)) {
                return Some(same);
            }
        }
        let (hash, has_serial) = content_hash;
        let bare = self.find_same_content((hash, false), track, entry);
        // Two different serial numbers are two events.
        let numbered = if has_serial { None } else { self.find_same_content((hash, true), track, entry) };
        bare.into_iter().chain(numbered).min()
    }

    /// The first event with equal content that this input has not reported yet. Events that the
    /// input has passed are not compared again: a log may have any number of equal records.
    fn find_same_content(&mut self, content_hash: ContentHash, track: u32, entry: &Entry) -> Option<usize> {
        let SameContent { numbers, passed } = self.by_content.get_mut(&content_hash)?;
        let place = passed.iter().position(|(of, _)| *of == track).unwrap_or_else(|| {
            passed.push((track, 0));
            passed.len() - 1
        });
        let passed = &mut passed[place].1;
        let (mut candidates, from) = (0, numbers.partition_point(|number| number < passed));
        for number in numbers.range(from..) {
            let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
            let recent = &self.recent[at];
            let is_known = recent.tracks.contains(&track);
            if !is_known && recent.is_near(entry) {
                return Some(at);
            }
            if candidates == 0 && (is_known || entry.time > recent.time) {
                *passed = number + 1;
                continue;
            }
            candidates += 1;
            if candidates == MAX_CANDIDATES {
                break;
            }
        }
        None
    }

    /// Drops events older than [`EVENT_RETENTION`] before `now`, and emits those that an audit log
    /// covers and lacks.
    pub(crate) fn forget(&mut self, now: Timestamp, sink: &mut EntrySink<'_>) -> ControlFlow<()> {
        while let Some(recent) =
            self.recent.pop_front_if(|recent| now.duration_since(recent.order) > EVENT_RETENTION)
        {
            let number = self.first;
            self.first += 1;
            if let Some(serial) = recent.serial {
                let key = (Arc::clone(&recent.host), serial);
                if self.by_serial.get(&key) == Some(&number) {
                    self.by_serial.remove(&key);
                }
            }
            if let Some(same) = self.by_content.get_mut(&recent.content_hash) {
                same.numbers.pop_front_if(|oldest| *oldest == number);
                if same.numbers.is_empty() {
                    self.by_content.remove(&recent.content_hash);
                }
            }
            if let (false, Some(entry)) = (recent.in_audit_log, recent.missing_entry)
                && self.audit_spans.covers(&recent.host, recent.time)
            {
                sink(&entry)?;
            }
        }
        ControlFlow::Continue(())
    }
}

impl RecentEvent {
    /// Whether the entry's time is near enough for the same event.
    fn is_near(&self, entry: &Entry) -> bool {
        self.time.duration_since(entry.time).abs() <= DUPLICATE_SKEW
    }
}

/// The entry to emit if the audit log lacks this one. A ledger's record with a serial number was
/// logged once, so it is missing. A record in libvirtd's own log was never sent to audit.
fn missing_entry(entry: &Entry, is_rows: bool) -> Option<Entry> {
    let Content::Record(record) = &entry.content else { return None };
    let fragment = fragment(record);
    let content = match (is_rows, entry.serial, entry.writer) {
        (true, Some(_), _) => Content::Missing(fragment),
        (false, None, None) => Content::Unsent(fragment),
        _ => return None,
    };
    Some(Entry { content, ..entry.clone() })
}

/// The guest, interface and device that a record names.
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
    use crate::parsed_line::LogProgram;

    /// An entry at this millisecond. All have equal content.
    fn placed(millis: i64, serial: Option<u32>) -> OrderedEntry {
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
            credentials: None,
            source,
            line: 1,
            content,
            text: None,
            copies: Vec::new(),
            unauthenticated: false,
        };
        OrderedEntry { order: time, entry, program: LogProgram::Auditd, boot: None }
    }

    /// Whether each entry (input, time, serial number) is new.
    fn new(entries: impl IntoIterator<Item = (u32, i64, Option<u32>)>) -> Vec<bool> {
        let mut duplicates = Duplicates::default();
        let mut is_new = |(id, millis, serial)| {
            let origin = Origin { id, is_rows: false, rotation: 0 };
            let placed = placed(millis, serial);
            assert!(duplicates.forget(placed.order, &mut |_| ControlFlow::Continue(())).is_continue());
            matches!(duplicates.check(origin, false, &placed), Comparison::New(_))
        };
        entries.into_iter().map(&mut is_new).collect()
    }

    #[test]
    fn records_alike_of_one_input_are_each_paired_with_one_of_another() {
        let (a, b) = ((1, 0, Some(7)), (1, 10, Some(8)));
        assert_eq!(new([a, b, (2, 5, None), (2, 6, None), (2, 7, None)]), [true, true, false, false, true]);
        assert_eq!(new([(2, 0, None), (1, 1, None), (1, 2, None), (2, 3, None)]), [true, false, true, false]);
        assert_eq!(new([a, (2, 0, Some(8)), (3, 1, None), (3, 2, None)]), [true, true, false, false]);
        // The first is too old, the second near enough.
        assert_eq!(new([a, (1, 4000, Some(9)), (2, 4100, None)]), [true, true, false]);
    }

    #[test]
    fn any_number_of_records_alike_are_paired_in_a_moment() {
        const MANY: u32 = 100_000;
        for serial in [Some as fn(u32) -> Option<u32>, |_| None] {
            let log = |id: u32| (0..MANY).map(move |number| (id, 0, serial(number)));
            let is_new = new(log(1).chain(log(2)).chain(log(3)));
            assert!(is_new[..MANY as usize].iter().all(|new| *new));
            assert!(!is_new[MANY as usize..].contains(&true));
        }
    }
}
