//! One input of the merge.

use std::sync::Arc;

use taptrail_trail::{Content, Entry, Unreadable};

use crate::Rows;
use crate::collector::Collector;
use crate::coverage_builder::CoverageBuilder;
use crate::lines::OrderedLines;
use crate::ordered_entry::{OrderKey, OrderedEntry, Origin};
use crate::parsed_line::LogProgram;

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
    pub(crate) fn read(&mut self, collector: &mut Collector<'_>) -> Option<OrderedEntry> {
        match &mut self.source_kind {
            TrackSource::OrderedLines(lines) => lines.next(collector),
            TrackSource::Rows { rows, rows_read, begun } => loop {
                let row = rows.next()?;
                *rows_read += 1;
                collector.count_lines(self.origin.id, 1);
                match row {
                    Ok(mut entry) => {
                        entry.host = collector.observed_names.resolve(&entry.host);
                        begun.note(&entry, &mut collector.coverage);
                        collector.cover(self.origin.id, &entry.host, entry.time, entry.time, 1);
                        collector.note_unlogged(&entry);
                        break Some(OrderedEntry {
                            order: entry.time,
                            entry,
                            program: LogProgram::Auditd,
                            boot: None,
                        });
                    }
                    Err(reason) => {
                        let (source, line) = (Arc::clone(&self.name), *rows_read);
                        collector.unreadable(self.origin.id, Unreadable { source, line, reason });
                    }
                }
            },
        }
    }
}
