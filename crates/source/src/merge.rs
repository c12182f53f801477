//! Several inputs, in one order.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_trail::{Content, Entry, Gap, GapReason};

use crate::duplicates::{self, Duplicates, Look};
use crate::found::{Clock, Voice};
use crate::hosts::Hosts;
use crate::input::{family, rotation};
use crate::lines::{Begun, FALL, Lines};
use crate::numbers::Missing;
use crate::open::Opened;
use crate::reading::Reading;
use crate::track::{Origin, Place, Placed, Track};
use crate::window::{APART, Window};
use crate::{Input, SourceError, Take, kept, shape};

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
        opened: Box<Opened>,
        clock: Box<Clock>,
        host: Arc<str>,
        family: Arc<str>,
    },
    /// Rows are asked for their first at once.
    Rows(Box<Track>),
}

/// Looks at the beginning of an input. `room` is how many files more may be kept open until they are read.
fn wait(
    id: u32,
    input: Input,
    hosts: &Hosts,
    clock: &Clock,
    room: &mut usize,
    reading: &mut Reading<'_>,
) -> Result<Waiting, SourceError> {
    let mut named = None;
    let (mut opened, name, family, rotation, host, is_given) = match input {
        Input::File(_) | Input::Kept(_) => {
            let path = input.path().to_owned();
            let name = Arc::<str>::from(path.display().to_string());
            reading.add(Arc::clone(&name));
            let (rotation, host) = (rotation(&path), hosts.of_path(&path));
            let family = family(&path);
            reading.covered.log(id, Arc::clone(&family), rotation);
            let is_given = hosts.is_given(&path);
            let opened = match input {
                Input::Kept(file) => Opened::kept(file.kept, &path)?,
                _ => {
                    let opened = Opened::file(&path)?;
                    named = Some(path);
                    opened
                }
            };
            (opened, name, family, rotation, host, is_given)
        }
        Input::Stdin => {
            reading.add("-".into());
            reading.covered.log(id, "-".into(), 0);
            let opened = Opened::pipe(Box::new(std::io::stdin()), "-")?;
            (opened, Arc::from("-"), Arc::from("-"), 0, hosts.of_stdin(), hosts.is_given(Path::new("-")))
        }
        Input::Rows { name, bytes, rows } => {
            reading.add(Arc::clone(&name));
            reading.input.bytes += bytes;
            let mut track = Track::rows(id, name, rows);
            track.head = track.read(reading);
            let begins = track.place().map_or(Timestamp::MAX, |place| place.time);
            return Ok(Waiting { begins, rotation: 0, track: Pending::Rows(Box::new(track)) });
        }
    };
    if let Some(identity) = opened.identity {
        reading.file_identities.insert(Arc::clone(&name), identity);
    }
    reading.total += opened.size.unwrap_or(0);
    // A log written to until yesterday has no line of today.
    let day = SignedDuration::from_hours(24);
    let limit = opened.modified.and_then(|time| time.saturating_add(day).ok());
    let clock = limit.map_or_else(|| clock.clone(), |limit| clock.until(limit));
    let clock = opened.clock(clock);
    // There may be many inputs: none keeps this while it waits.
    let head = std::mem::take(&mut opened.head);
    let times = head.split(|&byte| byte == b'\n').filter_map(shape::first_time);
    // Its first lines may be a little out of order.
    let first = times.map(|when| when.resolve(&mut clock.clone())).min();
    let begins = first.unwrap_or(Timestamp::MIN);
    if let Some(path) = named {
        match room.checked_sub(1) {
            Some(left) => *room = left,
            None => opened.close(&path).map_err(|source| SourceError::Open { path, source })?,
        }
    }
    if !is_given {
        for name in head.split(|&byte| byte == b'\n').filter_map(shape::first_host) {
            reading.own_names.tells(&host, name);
        }
    }
    Ok(Waiting {
        begins,
        rotation,
        track: Pending::Log { id, name, opened: Box::new(opened), clock: Box::new(clock), host, family },
    })
}

/// An event's host, time and serial number, which name it.
type Last = (Arc<str>, Timestamp, u32);

/// Two sources tell of one boot within this time.
const ONE_BOOT: SignedDuration = SignedDuration::from_mins(5);

/// When a host was last told to have started anew: which boot that was, the number of that event, and who told.
type Boot = (Option<u128>, Option<u32>, Timestamp, Arc<str>);

/// Inputs on their way into one order.
pub(crate) struct Merge {
    /// Those not yet begun, the earliest first.
    waiting: VecDeque<Waiting>,
    active: Vec<Track>,
    duplicates: Duplicates,
    window: Window,
    /// Whether there is but one input at all, and it has shown no second way to tell an event.
    plain: bool,
    threads: usize,
    /// Of a single input the last event.
    last: Option<Last>,
    boots: HashMap<Arc<str>, Boot>,
    /// When each rotation of a log first told of a host.
    rotations: HashMap<(Arc<str>, Arc<str>), BTreeMap<u32, Timestamp>>,
    /// Where each directory is taken for a host: the records of the last moments, of whichever host.
    anyones: Option<Anyones>,
}

/// The records of the last moments by what they say, with a host and a line of each.
#[derive(Debug, Default)]
struct Anyones {
    by_record: HashMap<(Timestamp, u32, Content), (Arc<str>, String)>,
    order: VecDeque<(Timestamp, u32, Content)>,
}

impl Merge {
    /// Looks at the beginning of each input.
    pub(crate) fn new(
        inputs: Vec<Input>,
        hosts: &Hosts,
        threads: NonZero<usize>,
        clock: &Clock,
        reading: &mut Reading<'_>,
    ) -> Self {
        let mut duplicates = Duplicates::default();
        let plain = inputs.len() == 1;
        let mut waiting = Vec::with_capacity(inputs.len());
        let is_open = |input: &&Input| matches!(input, Input::Kept(file) if file.kept.is_open());
        let mut room = kept::max_open().saturating_sub(inputs.iter().filter(is_open).count());
        for (id, input) in (0..).zip(inputs) {
            match wait(id, input, hosts, clock, &mut room, reading) {
                Ok(next) => waiting.push(next),
                Err(error) => reading.failed.push(error),
            }
        }
        for next in &mut waiting {
            if let Pending::Log { host, .. } = &mut next.track {
                duplicates.coverage.has(next.rotation);
                *host = reading.own_names.of(host);
            }
        }
        waiting.sort_by_key(|next| (next.begins, std::cmp::Reverse(next.rotation)));
        Self {
            waiting: waiting.into(),
            active: Vec::new(),
            duplicates,
            window: Window::default(),
            plain,
            threads: threads.get(),
            last: None,
            boots: HashMap::new(),
            rotations: HashMap::new(),
            anyones: hosts.are_directories().then(Anyones::default),
        }
    }

    /// Tells all of them.
    pub(crate) fn run(&mut self, reading: &mut Reading<'_>, take: &mut Take<'_>) -> ControlFlow<()> {
        loop {
            let earliest = (0..self.active.len()).min_by_key(|&at| self.active[at].place());
            let place = earliest.and_then(|at| self.active[at].place());
            let begins = self.waiting.front().map(|next| Place::first_of(next.begins));
            match (earliest, begins) {
                (None, None) => {
                    self.window.release(Timestamp::MAX, take)?;
                    self.duplicates.forget(Timestamp::MAX, take)?;
                    for (host, missing) in reading.missing_rest() {
                        let source = reading.source_of(&host);
                        take(&gap_of(host, source, missing))?;
                    }
                    return ControlFlow::Continue(());
                }
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
            let origin = self.active[at].origin;
            if self.is_of_interest(origin, &placed, reading)? {
                self.compare(origin, placed, until, reading, take)?;
            }
            let failed = reading.failed.len();
            head = self.active[at].read(reading);
            if reading.refused.is_some() {
                return ControlFlow::Break(());
            }
            if reading.failed.len() > failed {
                self.duplicates.coverage.lost(self.active[at].origin.rotation);
            }
        }
        self.active.swap_remove(at);
        ControlFlow::Continue(())
    }

    /// Whether an entry tells something beside what others have told. Breaks off where it can't be of the host
    /// that it is said to be of.
    fn is_of_interest(
        &mut self,
        origin: Origin,
        placed: &Placed,
        reading: &mut Reading<'_>,
    ) -> ControlFlow<(), bool> {
        let entry = &placed.entry;
        match &entry.content {
            Content::Boot => {
                if !self.is_new_boot(placed) {
                    return ControlFlow::Continue(false);
                }
                reading.covered.start(&entry.host, entry.time);
            }
            Content::Gap(gap) => {
                let since = gap.since.unwrap_or(entry.time);
                let covered = is_of_one_log(gap.why)
                    && reading.is_covered_elsewhere(origin.id, &entry.host, since, entry.time);
                if !covered {
                    reading.covered.gap(&entry.host, since, entry.time);
                }
                return ControlFlow::Continue(!covered);
            }
            Content::Truncated(_) | Content::Unsent(_) => {
                reading.covered.gap(&entry.host, entry.time, entry.time);
            }
            Content::Record(_) => {
                if let Some(conflict) = self.conflict(entry) {
                    reading.refused = Some(conflict);
                    return ControlFlow::Break(());
                }
            }
            _ => {}
        }
        ControlFlow::Continue(true)
    }

    fn is_new_boot(&mut self, placed: &Placed) -> bool {
        let Entry { host, time, source, serial, .. } = &placed.entry;
        let known = self.boots.get(host).is_some_and(|(id, number, at, by)| {
            let apart = time.duration_since(*at).abs();
            match (id, placed.boot, number, serial) {
                (Some(before), Some(id), ..) => *before == id,
                (.., Some(before), Some(serial)) => before == serial && apart <= APART,
                _ => by != source && apart <= ONE_BOOT,
            }
        });
        if !known {
            self.boots.insert(Arc::clone(host), (placed.boot, *serial, *time, Arc::clone(source)));
        }
        !known
    }

    /// Why a record can't be of the host that it is said to be of: that of its directory.
    fn conflict(&mut self, entry: &Entry) -> Option<SourceError> {
        let serial = entry.serial?;
        let (one, first) = self.anyones.as_mut()?.other(entry, serial)?;
        let (other, second) = (entry.host.to_string(), format!("{}:{}", entry.source, entry.line));
        Some(SourceError::OneHost { one, other, first, second })
    }

    /// A rotation goes on after a newer one has begun: the clock was set back, and which of their lines came first is
    /// not known.
    fn out_of_turn(&mut self, origin: Origin, placed: &Placed, reading: &mut Reading<'_>) -> Option<Entry> {
        let family = reading.covered.rotated(origin.id)?;
        let Entry { host, source, line, .. } = &placed.entry;
        let key = (Arc::clone(&family), Arc::clone(host));
        let begun = self.rotations.entry(key).or_default();
        let own = *begun.entry(origin.rotation).or_insert(placed.order);
        // Some call the newer one the older.
        let newer =
            begun.range(..origin.rotation).map(|(_, begun)| *begun).filter(|begun| own < *begun).min();
        let late = |order: Timestamp, since: Timestamp| order.duration_since(since) > FALL;
        let (since, until) = if newer.is_some_and(|newer| late(placed.order, newer)) {
            (newer?, placed.order)
        } else {
            // An older rotation goes on behind this, or a newer one that has begun before.
            let has_begun = |rotation: u32| begun.get(&rotation).is_some_and(|begun| *begun < placed.order);
            let is_other = |track: &&Track| {
                let Origin { id, rotation, .. } = track.origin;
                (rotation > origin.rotation || (rotation < origin.rotation && has_begun(rotation)))
                    && reading.covered.is_of(id, &family)
            };
            let heads = self.active.iter().filter(is_other).filter_map(|track| track.head.as_ref());
            let other = heads.filter(|head| head.entry.host == *host).map(|head| head.order).max()?;
            late(other, placed.order).then_some((placed.order, other))?
        };
        reading.covered.gap(host, since, until);
        let gap = Gap { since: Some(since), serials: None, why: GapReason::Disordered };
        Some(Entry {
            host: Arc::clone(host),
            time: until,
            serial: None,
            writer: None,
            source: Arc::clone(source),
            line: *line,
            copies: Vec::new(),
            unauthenticated: false,
            content: Content::Gap(gap),
        })
    }

    /// Tells an entry, unless another has told the same.
    fn compare(
        &mut self,
        origin: Origin,
        placed: Placed,
        until: Option<Place>,
        reading: &mut Reading<'_>,
        take: &mut Take<'_>,
    ) -> ControlFlow<()> {
        let out_of_turn = self.out_of_turn(origin, &placed, reading);
        let missing = placed
            .entry
            .serial
            .filter(|_| !origin.is_rows)
            .and_then(|serial| reading.missing_before(&placed.entry.host, serial))
            .map(|missing| {
                let Entry { host, source, line, .. } = &placed.entry;
                Entry { line: *line, ..gap_of(Arc::clone(host), Arc::clone(source), missing) }
            });
        for entry in out_of_turn.into_iter().chain(missing) {
            // Told at once, or behind what may be told better still.
            if self.window.is_empty() {
                take(&entry)?;
            } else {
                let gap = Placed { entry, order: placed.order, voice: placed.voice, boot: None };
                self.window.push(UNCOMPARED, gap, origin.is_rows);
            }
        }
        if self.plain {
            let Entry { host, time, serial, .. } = &placed.entry;
            // Whoever has all numbers can tell an event twice by its number alone.
            let is_plain = placed.voice == Voice::Auditd && (serial.is_some() || !is_record(&placed));
            if is_plain {
                let this = serial.map(|serial| (Arc::clone(host), *time, serial));
                let again = this.is_some() && this == self.last;
                self.last = this.or(self.last.take());
                if again {
                    reading.input.duplicates += 1;
                    return ControlFlow::Continue(());
                }
                reading.input.records += u64::from(is_record(&placed));
                return take(&placed.entry);
            }
            self.plain = false;
        }
        let is_rows = origin.is_rows;
        self.duplicates.cover(origin, &placed.entry);
        self.window.release(placed.order, take)?;
        self.duplicates.forget(placed.order, take)?;
        let alone = until.is_none_or(|until| until.time.duration_since(placed.order) > duplicates::KEPT)
            && self.window.is_empty()
            && placed.voice == Voice::Auditd;
        match self.duplicates.look(origin, alone, &placed) {
            Look::New(None) => {
                reading.input.records += u64::from(is_record(&placed));
                take(&placed.entry)
            }
            Look::New(Some(number)) => {
                reading.input.records += u64::from(is_record(&placed));
                self.window.push(number, placed, is_rows);
                ControlFlow::Continue(())
            }
            Look::Same(number) => {
                reading.input.duplicates += 1;
                self.window.copy(number, &placed.entry, is_rows);
                ControlFlow::Continue(())
            }
        }
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
            Pending::Rows(track) => *track,
            Pending::Log { id, name, opened, clock, host, family } => {
                let expected = opened.expected();
                match opened.start(self.threads) {
                    Ok((stream, stored)) => {
                        let origin = Origin { id, is_rows: false, rotation };
                        let of = Arc::clone(&name);
                        let begun =
                            Begun { id, name: of, family, stream, stored, expected, clock: *clock, host };
                        Track::lines(origin, name, Lines::new(begun))
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

/// What is missing, as an entry.
fn gap_of(host: Arc<str>, source: Arc<str>, missing: Missing) -> Entry {
    let Missing { since, until, serials } = missing;
    let gap = Gap { since: Some(since), serials: Some(serials), why: GapReason::NeverWritten };
    let (time, content) = (until, Content::Gap(gap));
    Entry {
        host,
        time,
        serial: None,
        writer: None,
        source,
        line: 1,
        copies: Vec::new(),
        unauthenticated: false,
        content,
    }
}

/// Whether a loss is of the log that tells of it alone, and not of what all logs are written from.
fn is_of_one_log(why: GapReason) -> bool {
    !matches!(why, GapReason::Backlog | GapReason::AuditingOff)
}

/// The number of what is not compared with other events.
const UNCOMPARED: u64 = u64::MAX;

fn is_record(placed: &Placed) -> bool {
    matches!(placed.entry.content, Content::Record(_))
}

impl Anyones {
    /// Another host of which the same record was told.
    fn other(&mut self, entry: &Entry, serial: u32) -> Option<(String, String)> {
        while self
            .order
            .pop_front_if(|(time, ..)| entry.time.duration_since(*time) > duplicates::KEPT)
            .map(|key| self.by_record.remove(&key))
            .is_some()
        {}
        let key = (entry.time, serial, entry.content.clone());
        match self.by_record.get(&key) {
            Some((host, line)) if *host != entry.host => Some((host.to_string(), line.clone())),
            Some(_) => None,
            None => {
                let line = format!("{}:{}", entry.source, entry.line);
                self.order.push_back(key.clone());
                self.by_record.insert(key, (Arc::clone(&entry.host), line));
                None
            }
        }
    }
}
