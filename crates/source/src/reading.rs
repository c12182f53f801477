//! All inputs, told in one order.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::Arc;

use compact_str::CompactString;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use taptrail_trail::Entry;

use crate::duplicates::{self, Duplicates};
use crate::found::Clock;
use crate::input::rotation;
use crate::open::Opened;
use crate::track::{Origin, Placed, Track};
use crate::{Input, SourceError, shape};

/// How to read.
pub struct Options<'a> {
    /// The host of lines that name none.
    pub host: Arc<str>,
    /// The zone of times that name none.
    pub zone: TimeZone,
    /// The time that no line is after: what has no year is of the last one that fits.
    pub now: Timestamp,
    /// How many threads read a log.
    pub threads: NonZero<usize>,
    /// Told now and then how many bytes were read of how many there are (0 where that is not known).
    pub progress: Box<dyn FnMut(u64, u64) + 'a>,
}

impl Default for Options<'_> {
    /// A host unknown (`?`), this system's zone, clock and cores, and nobody told.
    fn default() -> Self {
        Self {
            host: "?".into(),
            zone: TimeZone::system(),
            now: Timestamp::now(),
            threads: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
            progress: Box::new(|_, _| {}),
        }
    }
}

/// What reading came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How much was read.
    pub input: taptrail_trail::Input,
    /// The first lines that should have been records and can't be believed, of all that
    /// `input.unreadable` counts.
    pub unreadable: Vec<Unreadable>,
    /// What the reader of the answer should know.
    pub notes: Vec<Note>,
    /// The inputs that could not be read, or not to their end.
    pub failed: Vec<SourceError>,
}

/// A line that should have been a record and can't be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The input.
    pub source: Arc<str>,
    /// Which line of it, from 1.
    pub line: u64,
    /// Why, in a sentence.
    pub reason: String,
}

impl Outcome {
    /// How many lines are kept in `unreadable`.
    pub const KEPT: usize = 20;
}

/// What to know of how an input was read. Each is told once for each input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The input.
    pub source: Arc<str>,
    /// What.
    pub about: About,
}

/// What a [`Note`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Its times have no year.
    YearInferred,
    /// Its dates may have the month or the day first.
    DateGuessed,
    /// Its lines are not in order.
    BackInTime {
        /// The first line that goes back.
        line: u64,
    },
    /// Its lines name no host, and those of other inputs do.
    HostUnknown,
    /// It has lines, and none tells of a guest.
    Nothing,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.source;
        match self.about {
            About::YearInferred => {
                write!(f, "{source}: its times name no year: the latest that fits is taken")
            }
            About::DateGuessed => write!(
                f,
                "{source}: its dates don't show whether month or day comes first: the month is taken"
            ),
            About::BackInTime { line } => write!(
                f,
                "{source}:{line}: goes back in time by more than a minute: give joined logs one by one, and they are put in order"
            ),
            About::HostUnknown => write!(
                f,
                "{source}: its lines name no host as others do: --host says whose they are, and what both tell is told once"
            ),
            About::Nothing => write!(f, "{source}: no line of it tells of a guest"),
        }
    }
}

/// The state of reading.
pub(crate) struct Reading<'a> {
    pub(crate) input: taptrail_trail::Input,
    unreadable: Vec<Unreadable>,
    notes: Vec<Note>,
    pub(crate) failed: Vec<SourceError>,
    hosts: HashMap<CompactString, Arc<str>>,
    /// The inputs with lines that name no host.
    pub(crate) unnamed: Vec<Arc<str>>,
    /// The host of lines that name none.
    own: Arc<str>,
    total: u64,
    progress: Box<dyn FnMut(u64, u64) + 'a>,
}

impl Reading<'_> {
    pub(crate) fn unreadable(&mut self, line: Unreadable) {
        self.input.unreadable += 1;
        if self.unreadable.len() < Outcome::KEPT {
            self.unreadable.push(line);
        }
    }

    pub(crate) fn note(&mut self, source: &Arc<str>, about: About) {
        let same = |note: &Note| {
            note.source == *source && std::mem::discriminant(&note.about) == std::mem::discriminant(&about)
        };
        if !self.notes.iter().any(same) {
            self.notes.push(Note { source: Arc::clone(source), about });
        }
    }

    /// So many bytes more were read.
    pub(crate) fn read_on(&mut self, bytes: u64) {
        self.input.bytes += bytes;
        (self.progress)(self.input.bytes, self.total);
    }

    /// The one name of a host: entries share it.
    pub(crate) fn host(&mut self, name: &CompactString) -> Arc<str> {
        let own = &self.own;
        let named = || if is_same(name, own) { Arc::clone(own) } else { Arc::from(name.as_str()) };
        Arc::clone(self.hosts.entry(name.clone()).or_insert_with(named))
    }
}

/// Whether two names are of one host: auditd may write `web1.example.org` where syslog writes `web1`.
fn is_same(a: &str, b: &str) -> bool {
    let (long, short) = if a.len() > b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|domain| domain.is_empty() || domain.starts_with('.'))
}

/// An input that is not yet told.
struct Waiting {
    /// No entry of it is before this.
    begins: Timestamp,
    /// The higher, the older.
    rotation: u32,
    track: Pending,
}

enum Pending {
    Log {
        id: u32,
        name: Arc<str>,
        opened: Opened,
        clock: Clock,
    },
    /// Rows are asked for their first at once.
    Rows(Track),
}

/// Takes entries, one at a time, until it breaks off.
pub type Take<'a> = dyn FnMut(&Entry) -> ControlFlow<()> + 'a;

/// Reads all inputs and gives each event once to `take`, in the order of their times; of one input in
/// the order of its lines.
///
/// An input that can't be read is named in the outcome, and the others are told.
pub fn read(inputs: Vec<Input>, options: Options<'_>, take: &mut Take<'_>) -> Outcome {
    let mut reading = Reading {
        input: taptrail_trail::Input::default(),
        unreadable: Vec::new(),
        notes: Vec::new(),
        failed: Vec::new(),
        hosts: HashMap::new(),
        unnamed: Vec::new(),
        own: Arc::clone(&options.host),
        total: 0,
        progress: options.progress,
    };
    let mut merge = Merge {
        waiting: VecDeque::new(),
        active: Vec::new(),
        duplicates: Duplicates::default(),
        single: inputs.len() == 1,
        host: options.host,
        threads: options.threads.get(),
        last: None,
    };
    let mut waiting = Vec::with_capacity(inputs.len());
    for (id, input) in (0..).zip(inputs) {
        reading.input.files += 1;
        match wait(id, input, &options.zone, options.now, &mut reading) {
            Ok(next) => waiting.push(next),
            Err(error) => reading.failed.push(error),
        }
    }
    for next in &waiting {
        if let Pending::Log { .. } = next.track {
            merge.duplicates.coverage.has(next.rotation);
        }
    }
    waiting.sort_by_key(|next| (next.begins, std::cmp::Reverse(next.rotation)));
    merge.waiting = waiting.into();
    // Whoever breaks off knows why.
    let _ = merge.run(&mut reading, take);
    if reading.hosts.values().any(|host| *host != reading.own) {
        for source in std::mem::take(&mut reading.unnamed) {
            reading.note(&source, About::HostUnknown);
        }
    }
    Outcome {
        input: reading.input,
        unreadable: reading.unreadable,
        notes: reading.notes,
        failed: reading.failed,
    }
}

fn wait(
    id: u32,
    input: Input,
    zone: &TimeZone,
    now: Timestamp,
    reading: &mut Reading<'_>,
) -> Result<Waiting, SourceError> {
    let (mut opened, name, rotation) = match input {
        Input::File(path) => {
            let opened = Opened::file(&path)?;
            (opened, Arc::<str>::from(path.display().to_string()), rotation(&path))
        }
        Input::Stdin => (Opened::pipe(Box::new(std::io::stdin()), "-")?, Arc::from("-"), 0),
        Input::Rows { name, bytes, rows } => {
            reading.input.bytes += bytes;
            let mut track = Track::rows(id, name, rows);
            track.head = track.read(reading);
            let begins = track.order().unwrap_or(Timestamp::MAX);
            return Ok(Waiting { begins, rotation: 0, track: Pending::Rows(track) });
        }
    };
    reading.total += opened.size.unwrap_or(0);
    // A log written to until yesterday has no line of today.
    let day = SignedDuration::from_hours(24);
    let limit =
        opened.modified.and_then(|time| time.saturating_add(day).ok()).map_or(now, |time| time.min(now));
    let clock = Clock::new(zone.clone(), limit);
    // There may be many inputs: none keeps this while it waits.
    let head = std::mem::take(&mut opened.head);
    let first = head.split(|&byte| byte == b'\n').find_map(shape::first_time);
    let begins = first.map_or(Timestamp::MIN, |when| when.resolve(&mut clock.clone()));
    Ok(Waiting { begins, rotation, track: Pending::Log { id, name, opened, clock } })
}

/// An event's host, time and serial number, which name it.
type Last = (Arc<str>, Timestamp, u32);

/// Inputs on their way into one order.
struct Merge {
    /// Those not yet begun, the earliest first.
    waiting: VecDeque<Waiting>,
    active: Vec<Track>,
    duplicates: Duplicates,
    /// Whether there is but one input at all.
    single: bool,
    host: Arc<str>,
    threads: usize,
    /// Of a single input the last event.
    last: Option<Last>,
}

impl Merge {
    fn run(&mut self, reading: &mut Reading<'_>, take: &mut Take<'_>) -> ControlFlow<()> {
        loop {
            let earliest = (0..self.active.len()).min_by_key(|&at| self.active[at].order());
            let order = earliest.and_then(|at| self.active[at].order());
            let begins = self.waiting.front().map(|next| next.begins);
            match (earliest, begins) {
                (None, None) => return self.duplicates.forget(Timestamp::MAX, take),
                (_, Some(begins)) if order.is_none_or(|order| begins <= order) => self.activate(reading),
                (Some(at), _) => {
                    // It is the earliest until another's turn comes.
                    let others = self.active.iter().enumerate().filter(|(other, _)| *other != at);
                    let other = others.filter_map(|(_, track)| track.order()).min();
                    let until = other.into_iter().chain(begins).min();
                    self.tell(at, until, reading, take)?;
                }
                (None, Some(_)) => self.activate(reading),
            }
        }
    }

    /// Tells what `active[at]` has before another's turn comes.
    fn tell(
        &mut self,
        at: usize,
        until: Option<Timestamp>,
        reading: &mut Reading<'_>,
        take: &mut Take<'_>,
    ) -> ControlFlow<()> {
        let mut head = self.active[at].head.take();
        while let Some(placed) = head {
            if until.is_some_and(|until| until < placed.order) {
                self.active[at].head = Some(placed);
                return ControlFlow::Continue(());
            }
            if self.is_new(at, &placed, until, take)? {
                reading.input.records += 1;
                take(&placed.entry)?;
            } else {
                reading.input.duplicates += 1;
            }
            let failed = reading.failed.len();
            head = self.active[at].read(reading);
            if reading.failed.len() > failed {
                self.duplicates.coverage.lost(self.active[at].origin.rotation);
            }
        }
        self.active.swap_remove(at);
        ControlFlow::Continue(())
    }

    fn is_new(
        &mut self,
        at: usize,
        placed: &Placed,
        until: Option<Timestamp>,
        take: &mut Take<'_>,
    ) -> ControlFlow<(), bool> {
        if self.single {
            let Entry { host, time, serial, .. } = &placed.entry;
            let this = serial.map(|serial| (Arc::clone(host), *time, serial));
            let again = this.is_some() && this == self.last;
            self.last = this;
            return ControlFlow::Continue(!again);
        }
        self.duplicates.cover(self.active[at].origin, &placed.entry);
        self.duplicates.forget(placed.order, take)?;
        let alone = until.is_none_or(|until| until.duration_since(placed.order) > duplicates::KEPT);
        ControlFlow::Continue(self.duplicates.is_new(self.active[at].origin, alone, placed))
    }

    /// Begins to read the first of those that wait.
    fn activate(&mut self, reading: &mut Reading<'_>) {
        let Some(Waiting { rotation, track, .. }) = self.waiting.pop_front() else { return };
        let failed = reading.failed.len();
        let begun = self.begin(track, rotation, reading);
        if reading.failed.len() > failed {
            self.duplicates.coverage.lost(rotation);
        }
        self.active.extend(begun);
    }

    /// The track of an input, if it has an entry.
    fn begin(&self, pending: Pending, rotation: u32, reading: &mut Reading<'_>) -> Option<Track> {
        let mut track = match pending {
            Pending::Rows(track) => track,
            Pending::Log { id, name, opened, clock } => {
                let expected = opened.expected();
                match opened.start(self.threads) {
                    Ok((stream, stored)) => {
                        let origin = Origin { id, is_rows: false, rotation };
                        let host = Arc::clone(&self.host);
                        Track::lines(origin, name, stream, stored, expected, clock, host)
                    }
                    Err(source) => {
                        reading.failed.push(SourceError::Read { name: name.to_string(), at: 0, source });
                        return None;
                    }
                }
            }
        };
        if track.head.is_none() {
            track.head = track.read(reading);
        }
        track.head.is_some().then_some(track)
    }
}
