//! Delays entries until no other input can report the same event.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use jiff::{SignedDuration, Timestamp};
use taptrail_trail::{Entry, LineRef};

use crate::ordered_entry::{EntrySink, OrderedEntry, is_in_audit_log};

/// The delayed entries, in order.
#[derive(Debug, Default)]
pub(crate) struct DuplicateWindow {
    /// Each with its event number in [`crate::duplicates`].
    waiting: VecDeque<(u64, PendingEntry)>,
}

#[derive(Debug)]
struct PendingEntry {
    placed: OrderedEntry,
    is_rows: bool,
}

/// Two inputs may report one event at times that differ by at most this: syslog has whole seconds,
/// and delays.
pub(crate) const DUPLICATE_SKEW: SignedDuration = SignedDuration::from_secs(2);

impl DuplicateWindow {
    /// Adds an entry that is delayed.
    pub(crate) fn push(&mut self, number: u64, placed: OrderedEntry, is_rows: bool) {
        self.waiting.push_back((number, PendingEntry { placed, is_rows }));
    }

    /// Merges another input's entry of the same event. If there is an audit log's line, that one is
    /// emitted, and the others are cited as copies.
    pub(crate) fn add_duplicate(&mut self, number: u64, copy: &Entry, is_rows: bool) {
        let Some((_, first)) = self.waiting.iter_mut().rev().find(|(of, _)| *of == number) else { return };
        let entry = &mut first.placed.entry;
        let own = |entry: &Entry| LineRef { source: entry.source.clone(), line: entry.line };
        // An entry that any user can write does not replace an authenticated one.
        let is_better = match (copy.unauthenticated, entry.unauthenticated) {
            (false, true) => true,
            (true, false) => false,
            _ => is_in_audit_log(is_rows, copy) && !is_in_audit_log(first.is_rows, entry),
        };
        if is_better {
            let mut copies = std::mem::take(&mut entry.copies);
            copies.truncate(MAX_COPIES - 1);
            copies.push(own(entry));
            let (serial, writer) = (copy.serial.or(entry.serial), copy.writer.or(entry.writer));
            let credentials = copy.credentials.or(entry.credentials);
            *entry = Entry { copies, serial, writer, credentials, ..copy.clone() };
            first.is_rows = is_rows;
        } else {
            entry.serial = entry.serial.or(copy.serial);
            entry.writer = entry.writer.or(copy.writer);
            entry.credentials = entry.credentials.or(copy.credentials);
            if entry.copies.len() < MAX_COPIES {
                entry.copies.push(own(copy));
            }
        }
    }

    /// Emits the entries that no entry from `now` on can duplicate.
    pub(crate) fn release(&mut self, now: Timestamp, sink: &mut EntrySink<'_>) -> ControlFlow<()> {
        while let Some((_, done)) =
            self.waiting.pop_front_if(|(_, oldest)| now.duration_since(oldest.placed.order) > DUPLICATE_SKEW)
        {
            sink(&done.placed.entry)?;
        }
        ControlFlow::Continue(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Maximum number of copies cited.
const MAX_COPIES: usize = 8;
