//! An entry on its way to the reader, and the common order of entries.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use jiff::Timestamp;
use taptrail_trail::Entry;

use crate::parsed_line::LogProgram;

/// Receives entries one at a time, until it breaks off.
pub type EntrySink<'a> = dyn FnMut(&Entry) -> ControlFlow<()> + 'a;

/// An entry with its position in the common order.
#[derive(Clone, Debug)]
pub(crate) struct OrderedEntry {
    pub(crate) entry: Entry,
    /// Its time or, if its shape has only whole seconds, the latest moment that it may mean:
    /// entries with more exact times come first.
    pub(crate) order: Timestamp,
    /// The program that wrote its line.
    pub(crate) program: LogProgram,
    /// The boot id of its host, if a journal names it.
    pub(crate) boot: Option<u128>,
}

impl OrderedEntry {
    pub(crate) fn order_key(&self) -> OrderKey {
        OrderKey { time: self.order, unnumbered: self.entry.serial.is_none(), serial: self.entry.serial }
    }
}

/// The sort key of the common order. Entries with equal times, of which clock ticks make many, are
/// ordered by their serial numbers; entries without one come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OrderKey {
    pub(crate) time: Timestamp,
    unnumbered: bool,
    serial: Option<u32>,
}

impl OrderKey {
    /// The key before all others of that time.
    pub(crate) fn first_of(time: Timestamp) -> Self {
        Self { time, unnumbered: false, serial: None }
    }
}

/// The input of an entry, for [`crate::duplicates`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) id: u32,
    /// Whether the input is rows of a ledger, not a log.
    pub(crate) is_rows: bool,
    /// Number of the rotation: the higher, the older; 0 if it is none.
    pub(crate) rotation: u32,
}

/// Entries ready to be emitted, in order.
#[derive(Debug, Default)]
pub(crate) struct EntryQueue(VecDeque<OrderedEntry>);

impl EntryQueue {
    pub(crate) fn push(&mut self, placed: OrderedEntry) {
        self.0.push_back(placed);
    }

    pub(crate) fn pop(&mut self) -> Option<OrderedEntry> {
        self.0.pop_front()
    }
}

/// Whether an audit log has it.
pub(crate) fn is_in_audit_log(is_rows: bool, entry: &Entry) -> bool {
    !is_rows && entry.serial.is_some()
}
