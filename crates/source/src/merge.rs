//! Several inputs, in one order.

use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_trail::Entry;

use crate::duplicates::{self, Duplicates};
use crate::found::Clock;
use crate::input::rotation;
use crate::open::Opened;
use crate::reading::Reading;
use crate::track::{Origin, Place, Placed, Track};
use crate::{Input, SourceError, Take, shape};

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

fn wait(id: u32, input: Input, clock: &Clock, reading: &mut Reading<'_>) -> Result<Waiting, SourceError> {
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
            let begins = track.place().map_or(Timestamp::MAX, |place| place.time);
            return Ok(Waiting { begins, rotation: 0, track: Pending::Rows(track) });
        }
    };
    reading.total += opened.size.unwrap_or(0);
    // A log written to until yesterday has no line of today.
    let day = SignedDuration::from_hours(24);
    let limit = opened.modified.and_then(|time| time.saturating_add(day).ok());
    let clock = limit.map_or_else(|| clock.clone(), |limit| clock.until(limit));
    let clock = opened.clock(clock);
    // There may be many inputs: none keeps this while it waits.
    let head = std::mem::take(&mut opened.head);
    let first = head.split(|&byte| byte == b'\n').find_map(shape::first_time);
    let begins = first.map_or(Timestamp::MIN, |when| when.resolve(&mut clock.clone()));
    Ok(Waiting { begins, rotation, track: Pending::Log { id, name, opened, clock } })
}

/// An event's host, time and serial number, which name it.
type Last = (Arc<str>, Timestamp, u32);

/// Inputs on their way into one order.
pub(crate) struct Merge {
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
    /// Looks at the beginning of each input.
    pub(crate) fn new(
        inputs: Vec<Input>,
        threads: NonZero<usize>,
        clock: &Clock,
        reading: &mut Reading<'_>,
    ) -> Self {
        let mut duplicates = Duplicates::default();
        let single = inputs.len() == 1;
        let mut waiting = Vec::with_capacity(inputs.len());
        for (id, input) in (0..).zip(inputs) {
            reading.input.files += 1;
            match wait(id, input, clock, reading) {
                Ok(next) => waiting.push(next),
                Err(error) => reading.failed.push(error),
            }
        }
        for next in &waiting {
            if let Pending::Log { .. } = next.track {
                duplicates.coverage.has(next.rotation);
            }
        }
        waiting.sort_by_key(|next| (next.begins, std::cmp::Reverse(next.rotation)));
        let host = Arc::clone(&reading.own);
        let threads = threads.get();
        Self { waiting: waiting.into(), active: Vec::new(), duplicates, single, host, threads, last: None }
    }

    /// Tells all of them.
    pub(crate) fn run(&mut self, reading: &mut Reading<'_>, take: &mut Take<'_>) -> ControlFlow<()> {
        loop {
            let earliest = (0..self.active.len()).min_by_key(|&at| self.active[at].place());
            let place = earliest.and_then(|at| self.active[at].place());
            let begins = self.waiting.front().map(|next| Place::first_of(next.begins));
            match (earliest, begins) {
                (None, None) => return self.duplicates.forget(Timestamp::MAX, take),
                (_, Some(begins)) if place.is_none_or(|place| begins <= place) => self.activate(reading),
                (Some(at), _) => {
                    // It is the earliest until another's turn comes.
                    let others = self.active.iter().enumerate().filter(|(other, _)| *other != at);
                    let other = others.filter_map(|(_, track)| track.place()).min();
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
        until: Option<Place>,
        reading: &mut Reading<'_>,
        take: &mut Take<'_>,
    ) -> ControlFlow<()> {
        let mut head = self.active[at].head.take();
        while let Some(placed) = head {
            if until.is_some_and(|until| until < placed.place()) {
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
        until: Option<Place>,
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
        let alone = until.is_none_or(|until| until.time.duration_since(placed.order) > duplicates::KEPT);
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
