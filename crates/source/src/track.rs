//! One input of the merge, and the order of its entries.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::{Content, Entry, Unreadable};

use crate::Rows;
use crate::coverage_builder::CoverageBuilder;
use crate::lines::OrderedLines;
use crate::parsed_line::LogProgram;
use crate::reading::Reading;

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

/// An input that is being read.
pub(crate) struct Track {
    pub(crate) origin: Origin,
    pub(crate) name: Arc<str>,
    /// Its next entry, if it has one.
    pub(crate) head: Option<OrderedEntry>,
    source_kind: TrackSource,
}

enum TrackSource {
    OrderedLines(Box<OrderedLines>),
    Rows { rows: Rows, rows_read: u64, begun: LedgerStart },
}

/// Notes since when a ledger records everything that guests hold.
#[derive(Debug, Default)]
struct LedgerStart {
    written: bool,
    watched: bool,
}

impl LedgerStart {
    fn note(&mut self, entry: &Entry, coverage: &mut CoverageBuilder) {
        // The supervisor's ledger begins without guests. Beside a log of other managers' guests,
        // that shows little.
        if !std::mem::replace(&mut self.written, true) {
            coverage.add_ledger_start(&entry.host, entry.time);
        }
        // A watcher begins by recording everything that is held.
        let watched = matches!(&entry.content, Content::Record(record) if record.event.is_observation());
        if watched && !std::mem::replace(&mut self.watched, true) {
            coverage.add_start(&entry.host, entry.time);
        }
    }
}

impl Track {
    pub(crate) fn lines(origin: Origin, name: Arc<str>, lines: OrderedLines) -> Self {
        Self { origin, name, head: None, source_kind: TrackSource::OrderedLines(Box::new(lines)) }
    }

    pub(crate) fn rows(id: u32, name: Arc<str>, rows: Rows) -> Self {
        let origin = Origin { id, is_rows: true, rotation: 0 };
        Self {
            origin,
            name,
            head: None,
            source_kind: TrackSource::Rows { rows, rows_read: 0, begun: LedgerStart::default() },
        }
    }

    /// The order key of its next entry, if it has one.
    pub(crate) fn order_key(&self) -> Option<OrderKey> {
        self.head.as_ref().map(OrderedEntry::order_key)
    }

    /// Reads the entry after `head`.
    pub(crate) fn read(&mut self, reading: &mut Reading<'_>) -> Option<OrderedEntry> {
        match &mut self.source_kind {
            TrackSource::OrderedLines(lines) => lines.next(reading),
            TrackSource::Rows { rows, rows_read, begun } => loop {
                let row = rows.next()?;
                *rows_read += 1;
                reading.count_lines(self.origin.id, 1);
                match row {
                    Ok(mut entry) => {
                        entry.host = reading.observed_names.resolve(&entry.host);
                        begun.note(&entry, &mut reading.coverage);
                        reading.cover(self.origin.id, &entry.host, entry.time, entry.time, 1);
                        reading.note_unlogged(&entry);
                        break Some(OrderedEntry {
                            order: entry.time,
                            entry,
                            program: LogProgram::Auditd,
                            boot: None,
                        });
                    }
                    Err(reason) => {
                        let (source, line) = (Arc::clone(&self.name), *rows_read);
                        reading.unreadable(self.origin.id, Unreadable { source, line, reason });
                    }
                }
            },
        }
    }
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
