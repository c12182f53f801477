//! One input on its way into the common order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::{SignedDuration, Timestamp};
use taptrail_trail::{Entry, Unreadable};

use crate::found::{Clock, Found};
use crate::open::Stored;
use crate::reading::Reading;
use crate::scan::Batch;
use crate::stream::Stream;
use crate::{About, Rows};

/// How far time may go back within a log that is in order: records wait for each other in queues, and
/// clocks are set.
const DISORDER: SignedDuration = SignedDuration::from_mins(1);

/// How late within its second something may have been.
const ALMOST: SignedDuration = SignedDuration::from_millis(999);

/// An entry, and where it belongs in the common order.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) entry: Entry,
    /// Its time, or the last moment it may have been, where its shape tells whole seconds only: who
    /// knows better comes first.
    pub(crate) order: Timestamp,
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
    told: Told,
}

enum Told {
    Lines(Box<Lines>),
    Rows { rows: Rows, told: u64 },
}

/// A log's lines, by the batch.
struct Lines {
    stream: Stream,
    batch: std::vec::IntoIter<(u64, Found)>,
    /// How many lines come before the batch, and before the one after it.
    before: u64,
    after: u64,
    clock: Clock,
    /// The host of lines that name none, and the last one named.
    own: Arc<str>,
    host: Arc<str>,
    last: Timestamp,
    /// Whether anything was found, and whether some of it names no host.
    told: bool,
    unnamed: bool,
    stored: Stored,
    /// How much of what is stored there was when the reading began.
    expected: u64,
    counted: u64,
    bytes: u64,
}

impl Track {
    pub(crate) fn lines(
        origin: Origin,
        name: Arc<str>,
        stream: Stream,
        stored: Stored,
        expected: u64,
        clock: Clock,
        host: Arc<str>,
    ) -> Self {
        let lines = Lines {
            stream,
            batch: Vec::new().into_iter(),
            before: 0,
            after: 0,
            clock,
            own: Arc::clone(&host),
            host,
            last: Timestamp::MIN,
            told: false,
            unnamed: false,
            stored,
            expected,
            counted: 0,
            bytes: 0,
        };
        Self { origin, name, head: None, told: Told::Lines(Box::new(lines)) }
    }

    pub(crate) fn rows(id: u32, name: Arc<str>, rows: Rows) -> Self {
        let origin = Origin { id, is_rows: true, rotation: 0 };
        Self { origin, name, head: None, told: Told::Rows { rows, told: 0 } }
    }

    /// Where its next entry belongs, if it has one.
    pub(crate) fn place(&self) -> Option<Place> {
        self.head.as_ref().map(Placed::place)
    }

    /// The entry after `head`.
    pub(crate) fn read(&mut self, reading: &mut Reading<'_>) -> Option<Placed> {
        match &mut self.told {
            Told::Lines(lines) => lines.next(&self.name, reading),
            Told::Rows { rows, told } => loop {
                let row = rows.next()?;
                *told += 1;
                reading.input.lines += 1;
                match row {
                    Ok(entry) => break Some(Placed { order: entry.time, entry }),
                    Err(reason) => {
                        let (source, line) = (Arc::clone(&self.name), *told);
                        reading.unreadable(Unreadable { source, line, reason });
                    }
                }
            },
        }
    }
}

impl Lines {
    fn next(&mut self, name: &Arc<str>, reading: &mut Reading<'_>) -> Option<Placed> {
        loop {
            if let Some((line, found)) = self.batch.next() {
                return Some(self.place(name, line, found, reading));
            }
            let batch = self.stream.next();
            let counted = self.stored.load(Ordering::Relaxed);
            reading.read_on(counted - self.counted);
            self.counted = counted;
            match batch {
                None => {
                    if self.clock.inferred {
                        reading.note(name, About::YearInferred);
                    }
                    if self.clock.guessed {
                        reading.note(name, About::DateGuessed);
                    }
                    if self.unnamed {
                        reading.unnamed.push(Arc::clone(name));
                    }
                    if !self.told && self.after > 0 {
                        reading.note(name, About::Nothing);
                    }
                    if self.counted < self.expected {
                        let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut meanwhile");
                        let (name, at) = (name.to_string(), self.bytes);
                        reading.failed.push(crate::SourceError::Read { name, at, source });
                    }
                    return None;
                }
                Some(Err(source)) => {
                    let name = name.to_string();
                    reading.failed.push(crate::SourceError::Read { name, at: self.bytes, source });
                    return None;
                }
                Some(Ok(batch)) => self.begin(name, batch, reading),
            }
        }
    }

    fn begin(&mut self, name: &Arc<str>, batch: Batch, reading: &mut Reading<'_>) {
        self.before = batch.before.unwrap_or(self.after);
        self.after += batch.lines;
        self.bytes += batch.bytes;
        reading.input.lines += batch.lines;
        for (line, reason) in batch.unreadable {
            let line = self.before + line + 1;
            reading.unreadable(Unreadable { source: Arc::clone(name), line, reason: reason.to_string() });
        }
        self.told |= !batch.found.is_empty();
        self.batch = batch.found.into_iter();
    }

    fn place(&mut self, name: &Arc<str>, line: u64, found: Found, reading: &mut Reading<'_>) -> Placed {
        let time = found.when.resolve(&mut self.clock);
        let line = self.before + line + 1;
        if time < self.last && self.last.duration_since(time) > DISORDER {
            reading.note(name, About::BackInTime { line });
        }
        self.last = time;
        let host = match found.host {
            None => {
                self.unnamed = true;
                Arc::clone(&self.own)
            }
            Some(host) => {
                if *host != *self.host {
                    self.host = reading.host(&host);
                }
                Arc::clone(&self.host)
            }
        };
        // syslog knows who sent a record, and neither its number nor the part of its second.
        let heard = found.serial.is_none() && found.writer.is_some();
        let whole = heard && time.subsec_nanosecond() == 0;
        let order = if whole { time.saturating_add(ALMOST).unwrap_or(time) } else { time };
        let entry = Entry {
            host,
            time,
            serial: found.serial,
            writer: found.writer,
            source: Arc::clone(name),
            line,
            content: found.content,
            copies: Vec::new(),
        };
        Placed { entry, order }
    }
}
