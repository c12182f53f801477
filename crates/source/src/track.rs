//! One input on its way into the common order.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::{Content, Entry, Unreadable};

use crate::Rows;
use crate::covered::Covered;
use crate::found::Voice;
use crate::lines::Lines;
use crate::reading::Reading;

/// An entry, and where it belongs in the common order.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) entry: Entry,
    /// Its time, or the last moment it may have been, where its shape tells whole seconds only: who
    /// knows better comes first.
    pub(crate) order: Timestamp,
    /// Which program wrote its line.
    pub(crate) voice: Voice,
    /// The boot of its host, where a journal names it.
    pub(crate) boot: Option<u128>,
}

impl Placed {
    pub(crate) fn place(&self) -> Place {
        Place { time: self.order, unnumbered: self.entry.serial.is_none(), serial: self.entry.serial }
    }
}

/// A place in the common order. Of one moment, which the clock's ticks make long, the serial numbers tell what came first;
/// who has none knows less, and comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) time: Timestamp,
    unnumbered: bool,
    serial: Option<u32>,
}

impl Place {
    /// Before all others of that time.
    pub(crate) fn first_of(time: Timestamp) -> Self {
        Self { time, unnumbered: false, serial: None }
    }
}

/// Which input tells something, for [`crate::duplicates`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) id: u32,
    /// Whether it is no log, but rows.
    pub(crate) is_rows: bool,
    /// The higher, the older; 0 for what is no rotation.
    pub(crate) rotation: u32,
}

/// An input that is being told.
pub(crate) struct Track {
    pub(crate) origin: Origin,
    pub(crate) name: Arc<str>,
    /// Its next entry, if it has one.
    pub(crate) head: Option<Placed>,
    from: From,
}

enum From {
    Lines(Box<Lines>),
    Rows { rows: Rows, told: u64, begun: Begun },
}

/// Since when a ledger tells all that is held.
#[derive(Debug, Default)]
struct Begun {
    written: bool,
    watched: bool,
}

impl Begun {
    fn note(&mut self, entry: &Entry, covered: &mut Covered) {
        // Whoever runs guests begins with none. Beside a log of others' guests that tells little.
        if !std::mem::replace(&mut self.written, true) {
            covered.ledger(&entry.host, entry.time);
        }
        // Whoever watches looks at all that is held first.
        let watched = matches!(&entry.content, Content::Record(record) if record.event.is_watched());
        if watched && !std::mem::replace(&mut self.watched, true) {
            covered.start(&entry.host, entry.time);
        }
    }
}

impl Track {
    pub(crate) fn lines(origin: Origin, name: Arc<str>, lines: Lines) -> Self {
        Self { origin, name, head: None, from: From::Lines(Box::new(lines)) }
    }

    pub(crate) fn rows(id: u32, name: Arc<str>, rows: Rows) -> Self {
        let origin = Origin { id, is_rows: true, rotation: 0 };
        Self { origin, name, head: None, from: From::Rows { rows, told: 0, begun: Begun::default() } }
    }

    /// Where its next entry belongs, if it has one.
    pub(crate) fn place(&self) -> Option<Place> {
        self.head.as_ref().map(Placed::place)
    }

    /// The entry after `head`.
    pub(crate) fn read(&mut self, reading: &mut Reading<'_>) -> Option<Placed> {
        match &mut self.from {
            From::Lines(lines) => lines.next(reading),
            From::Rows { rows, told, begun } => loop {
                let row = rows.next()?;
                *told += 1;
                reading.count_lines(self.origin.id, 1);
                match row {
                    Ok(mut entry) => {
                        entry.host = reading.own_names.of(&entry.host);
                        begun.note(&entry, &mut reading.covered);
                        reading.cover(self.origin.id, &entry.host, entry.time, entry.time, 1);
                        reading.has(&entry);
                        break Some(Placed { order: entry.time, entry, voice: Voice::Auditd, boot: None });
                    }
                    Err(reason) => {
                        let (source, line) = (Arc::clone(&self.name), *told);
                        reading.unreadable(self.origin.id, Unreadable { source, line, reason });
                    }
                }
            },
        }
    }
}

/// Entries that wait to be told, in their order.
#[derive(Debug, Default)]
pub(crate) struct Ready(VecDeque<Placed>);

impl Ready {
    pub(crate) fn push(&mut self, placed: Placed) {
        self.0.push_back(placed);
    }

    pub(crate) fn pop(&mut self) -> Option<Placed> {
        self.0.pop_front()
    }
}
