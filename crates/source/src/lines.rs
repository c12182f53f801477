//! A log's lines as entries, put in order.
//!
//! Lines come nearly in order: records wait for each other in queues, logs are joined the wrong way round.
//! So the last few thousand entries wait until it is certain that none comes before them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use taptrail_trail::{Content, Entry, Gap, GapReason, MAX_FIRST_SERIAL, Unreadable};

use crate::found::{Clock, Found, Voice};
use crate::hosts::is_same;
use crate::losses::{Losses, Told};
use crate::open::Stored;
use crate::reading::Reading;
use crate::repeats::Repeats;
use crate::runs::Run;
use crate::scan::Batch;
use crate::sequence::{At, LATE};
use crate::stream::Stream;
use crate::track::{Place, Placed, Ready};
use crate::{About, SourceError};

/// How far time may go back within a log that is in order.
const DISORDER: SignedDuration = SignedDuration::from_mins(1);
/// A later number whose time is so much earlier shows that the clock was set back.
const CLOCK_STEP: SignedDuration = SignedDuration::from_secs(2);

/// Lines whose numbers are no later ones, and those of a rotation and the next, are out of order by less than this.
pub(crate) const FALL: SignedDuration = SignedDuration::from_secs(5);

/// How late within its second something may have been.
const ALMOST: SignedDuration = SignedDuration::from_millis(999);

/// How many entries wait for others that belong before them.
const MAX_WAITING: usize = 8192;

/// A number so little above the one before goes on with it, whatever the clock says.
const NEAR: u32 = 4096;

/// A log's lines, by the batch.
pub(crate) struct Lines {
    id: u32,
    name: Arc<str>,
    /// What it has in common with its rotations.
    family: Arc<str>,
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
    /// Whether anything was found, whether some of it names no host, and whether it has records.
    found: bool,
    unnamed: bool,
    has_records: bool,
    /// Whether there are lines of an audit log that are not `VIRT_…`.
    others: bool,
    /// How many lines look like records and were not read, and the first of them.
    unread: u64,
    first_unread: Option<u64>,
    stored: Stored,
    /// How much of what is stored there was when the reading began.
    expected: u64,
    counted: u64,
    bytes: u64,
    /// What waits to be put in order, by its place and line.
    waiting: BTreeMap<(Place, u64), Placed>,
    ready: Ready,
    ended: bool,
    /// Lines that could not be read, behind the last one that was placed.
    doubtful: VecDeque<u64>,
    /// The place of the last entry that was read.
    latest: Option<Place>,
    /// The place of the last entry that was told.
    told: Option<Place>,
    hosts: HashMap<Arc<str>, OfHost>,
    repeats: Repeats,
    losses: Losses,
}

/// What the input has of one host.
#[derive(Debug, Default)]
struct OfHost {
    /// The highest number, and where it was put.
    newest: Option<(u32, Timestamp)>,
    /// The latest place of all.
    placed: Option<Timestamp>,
    /// When it was last told of.
    last: Option<Timestamp>,
    boot: Option<u128>,
    /// The last serial number of its lines, whatever they tell.
    last_number: u32,
    /// The latest time of its lines, whatever they tell.
    latest: Timestamp,
    /// The lines at which its numbers fall to those of a boot, and the latest time before.
    restarts: VecDeque<(u64, Timestamp)>,
    /// The boot of the last line.
    boot_read: Option<u128>,
}

impl OfHost {
    /// Where what a line tells is put, and whether the order of what was told before and this is not known. `order` is
    /// its time. Where the host starts anew at this line, also the latest time before.
    fn order(
        &mut self,
        line: u64,
        found: &Found,
        mut order: Timestamp,
    ) -> (Timestamp, Option<Timestamp>, bool) {
        let mut before_boot = None;
        while let Some((_, before)) = self.restarts.pop_front_if(|(restart, _)| *restart <= line) {
            before_boot = before_boot.max(Some(before));
        }
        let is_other_boot = found.boot.is_some() && self.boot_read.is_some() && self.boot_read != found.boot;
        if before_boot.is_some() || is_other_boot || found.content == Content::Boot {
            self.newest = None;
            before_boot = before_boot.max(self.placed);
        }
        self.boot_read = found.boot.or(self.boot_read);
        // The host's clock was behind as it started anew, or logs are in the wrong order.
        let mut is_disordered = before_boot.is_some_and(|before| before.duration_since(order) > FALL);
        if let Some(serial) = found.serial {
            // A number that goes on is later, whatever the clock was set to.
            if let Some((newest, at)) = self.newest
                && serial > newest
                && serial - newest < NEAR
                && order < at
            {
                is_disordered |= at.duration_since(order) > CLOCK_STEP;
                order = at;
            }
            // Numbers and times fall, and not as those of late records.
            let is_late = self.newest.is_some_and(|(newest, _)| serial < newest && newest - serial < LATE);
            is_disordered |=
                !is_late && self.placed.is_some_and(|placed| placed.duration_since(order) > FALL);
            if self.newest.is_none_or(|(newest, at)| serial > newest || order > at) {
                self.newest = Some((serial, order));
            }
        }
        self.placed = self.placed.max(Some(order));
        (order, before_boot, is_disordered)
    }
}

/// Where an input comes from and how it is read.
pub(crate) struct Begun {
    pub(crate) id: u32,
    pub(crate) name: Arc<str>,
    pub(crate) family: Arc<str>,
    pub(crate) stream: Stream,
    pub(crate) stored: Stored,
    pub(crate) expected: u64,
    pub(crate) clock: Clock,
    pub(crate) host: Arc<str>,
}

impl Lines {
    pub(crate) fn new(begun: Begun) -> Self {
        let Begun { id, name, family, stream, stored, expected, clock, host } = begun;
        Self {
            id,
            name,
            family,
            stream,
            batch: Vec::new().into_iter(),
            before: 0,
            after: 0,
            clock,
            own: Arc::clone(&host),
            host,
            last: Timestamp::MIN,
            found: false,
            unnamed: false,
            has_records: false,
            others: false,
            unread: 0,
            first_unread: None,
            stored,
            expected,
            counted: 0,
            bytes: 0,
            waiting: BTreeMap::new(),
            ready: Ready::default(),
            ended: false,
            doubtful: VecDeque::new(),
            latest: None,
            told: None,
            hosts: HashMap::new(),
            losses: Losses::default(),
            repeats: Repeats::default(),
        }
    }

    pub(crate) fn next(&mut self, reading: &mut Reading<'_>) -> Option<Placed> {
        loop {
            if let Some(placed) = self.ready.pop() {
                return Some(placed);
            }
            if self.waiting.len() > MAX_WAITING || self.ended {
                match self.waiting.pop_first() {
                    Some(((place, _), placed)) => self.release(place, placed, reading),
                    None => match self.unread_end(reading).or_else(|| self.unrecorded_end(reading)) {
                        Some(gap) => self.ready.push(gap),
                        None => return None,
                    },
                }
                continue;
            }
            match self.batch.next() {
                Some((line, found)) => self.place(line, found, reading),
                None => self.read_on(reading),
            }
        }
    }

    /// What could not be read behind the last entry.
    fn unread_end(&mut self, reading: &Reading<'_>) -> Option<Placed> {
        self.doubtful.pop_back()?;
        self.doubtful.clear();
        let since = Some(self.last).filter(|last| *last > Timestamp::MIN);
        let host = Arc::clone(&self.host);
        let time = reading.until(self.id, &host).max(since).unwrap_or(Timestamp::MIN);
        let content = Content::Gap(Gap { since, serials: None, why: GapReason::UnparsedLines });
        Some(self.at_the_end(host, time, content))
    }

    fn at_the_end(&self, host: Arc<str>, time: Timestamp, content: Content) -> Placed {
        let (source, line) = (Arc::clone(&self.name), self.after);
        let entry = Entry {
            host,
            time,
            serial: None,
            writer: None,
            source,
            line,
            copies: Vec::new(),
            unauthenticated: false,
            content,
        };
        Placed { entry, order: time, voice: Voice::Auditd, boot: None }
    }

    /// Auditing was off as the input ended: what it would have told since is missing.
    fn unrecorded_end(&mut self, reading: &Reading<'_>) -> Option<Placed> {
        let (host, gap) = self.losses.rest()?;
        let since = gap.since.unwrap_or(Timestamp::MIN);
        let time = reading.until(self.id, &host).map_or(since, |until| until.max(since));
        Some(self.at_the_end(host, time, Content::Gap(gap)))
    }

    /// Takes the next batch, or notes the end.
    fn read_on(&mut self, reading: &mut Reading<'_>) {
        let batch = self.stream.next();
        let counted = self.stored.load(Ordering::Relaxed);
        reading.read_on(counted - self.counted);
        self.counted = counted;
        match batch {
            None => {
                self.ended = true;
                self.note_all(reading);
                if self.counted < self.expected {
                    let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut meanwhile");
                    self.fail(source, reading);
                }
            }
            Some(Err(source)) => {
                self.ended = true;
                self.note_all(reading);
                self.fail(source, reading);
            }
            Some(Ok(batch)) => self.begin(batch, reading),
        }
    }

    fn fail(&mut self, source: io::Error, reading: &mut Reading<'_>) {
        reading.failed.push(SourceError::Read { name: self.name.to_string(), at: self.bytes, source });
    }

    fn note_all(&mut self, reading: &mut Reading<'_>) {
        if self.clock.inferred {
            reading.note(&self.name, About::YearInferred);
        }
        if self.clock.guessed {
            reading.note(&self.name, About::DateGuessed);
        }
        if self.unnamed {
            reading.unnamed.push((Arc::clone(&self.name), Arc::clone(&self.own)));
        }
        match reading.covered.is_numbered(self.id) {
            false if self.has_records => reading.unnumbered.push(self.id),
            true if !self.others => reading.selected.push(self.id),
            _ => {}
        }
        if let Some(first) = self.first_unread {
            reading.note(&self.name, About::Unread { lines: self.unread, first });
        }
        if !self.found && self.after > 0 {
            reading.note(&self.name, About::Nothing);
        }
    }

    fn begin(&mut self, batch: Batch, reading: &mut Reading<'_>) {
        self.before = batch.before.unwrap_or(self.after);
        self.after += batch.lines;
        self.bytes += batch.bytes;
        self.others |= batch.others;
        reading.count_lines(self.id, batch.lines);
        for (line, reason) in batch.unreadable {
            let line = self.before + line + 1;
            let source = Arc::clone(&self.name);
            reading.unreadable(self.id, Unreadable { source, line, reason: reason.to_string() });
        }
        self.doubtful.extend(batch.doubtful.iter().map(|line| self.before + line + 1));
        if batch.unread > 0 {
            self.unread += batch.unread;
            let first = batch.first_unread.map(|line| self.before + line + 1);
            self.first_unread = self.first_unread.or(first);
            reading.unread(self.id, batch.unread);
        }
        for run in &batch.runs {
            let host = if run.node.is_empty() {
                Arc::clone(&self.own)
            } else {
                self.named(&CompactString::from_utf8_lossy(&run.node), reading)
            };
            let moment = |millis| Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
            reading.cover(self.id, &host, moment(run.since), moment(run.until), 0);
            reading.numbers(self.id, &host, run);
            let at = self.at(self.before + run.line + 1, true);
            let of = self.hosts.entry(Arc::clone(&host)).or_default();
            if run.first <= MAX_FIRST_SERIAL && run.first < of.last_number {
                of.restarts.push_back((at.line, of.latest));
            }
            of.last_number = run.last;
            of.latest = of.latest.max(moment(run.until));
            reading.sequence(&host, run, at, self.others);
        }
        self.found |= !batch.found.is_empty();
        self.batch = batch.found.into_iter();
    }

    /// The host of lines that name this one.
    fn named(&self, name: &CompactString, reading: &mut Reading<'_>) -> Arc<str> {
        if is_same(name, &self.own) {
            return Arc::clone(&self.own);
        }
        let host = reading.host(name);
        reading.beside(&self.own, &host);
        host
    }

    fn at(&self, line: u64, is_raw: bool) -> At {
        let (family, source) = (Arc::clone(&self.family), Arc::clone(&self.name));
        At { input: self.id, is_raw, family, source, line }
    }

    fn place(&mut self, line: u64, found: Found, reading: &mut Reading<'_>) {
        let time = found.when.resolve(&mut self.clock);
        let line = self.before + line + 1;
        let is_remark = matches!(
            found.content,
            Content::Gap(_) | Content::Boot | Content::RecordingStopped(_) | Content::RecordingResumed(_)
        );
        let host = match &found.host {
            // What a log says of itself is of the host that it tells of.
            None if is_remark && self.latest.is_some() => Arc::clone(&self.host),
            None => {
                self.unnamed = true;
                self.host = Arc::clone(&self.own);
                Arc::clone(&self.own)
            }
            Some(host) => {
                if **host != *self.host {
                    self.host = self.named(host, reading);
                }
                Arc::clone(&self.host)
            }
        };
        let is_record = matches!(found.content, Content::Record(_));
        if time > Timestamp::MIN {
            reading.cover(self.id, &host, time, time, u64::from(is_record));
        }
        if found.is_claimed {
            reading.claimed(self.id);
        }
        self.has_records |= is_record;
        if found.content == Content::Boot {
            reading.boots(&host, self.id);
        }
        if found.machine.is_some() || found.boot.is_some() {
            reading.identity(&host, found.machine, found.boot, time, &self.at(line, false));
        }
        // Of an audit log's own lines all numbers were taken.
        if let Some(serial) = found.serial.filter(|_| is_record && !reading.covered.is_numbered(self.id)) {
            let run = Run::of(serial, serial, time.as_millisecond());
            reading.sequence(&host, &run, self.at(line, false), false);
        }
        // syslog knows who sent a record, and neither its number nor the part of its second.
        let heard = found.serial.is_none() && found.writer.is_some();
        let whole = heard && time.subsec_nanosecond() == 0;
        let order = if whole { time.saturating_add(ALMOST).unwrap_or(time) } else { time };
        let of = self.hosts.entry(Arc::clone(&host)).or_default();
        let (order, before_boot, mut is_disordered) = of.order(line, &found, order);
        if found.serial.is_none() && time < self.last && self.last.duration_since(time) > DISORDER {
            reading.note(&self.name, About::BackInTime { line });
            is_disordered = true;
        }
        let before_it = Some(self.last).filter(|last| *last > Timestamp::MIN);
        let latest = std::mem::replace(&mut self.last, time).max(time).max(before_boot.unwrap_or(time));
        let entry = Entry {
            host,
            time,
            serial: found.serial,
            writer: found.writer,
            source: Arc::clone(&self.name),
            line,
            copies: Vec::new(),
            unauthenticated: found.is_claimed,
            content: found.content,
        };
        let mut placed = Placed { entry, order, voice: found.voice, boot: found.boot };
        let mut place = placed.place();
        // A remark of whole seconds belongs behind the line before it.
        if is_remark
            && let Some(latest) = self.latest
            && place < latest
            && latest.time.duration_since(time) <= ALMOST
        {
            place = latest;
            (placed.order, placed.entry.time) = (latest.time, latest.time);
        }
        self.latest = Some(place);
        if self.told.is_some_and(|told| place < told) {
            return self.refuse(line, reading);
        }
        if self.doubtful.front().is_some_and(|front| *front < line) {
            while self.doubtful.pop_front_if(|front| *front < line).is_some() {}
            // The number of this shows what is missing before it.
            if !(placed.entry.serial.is_some() && reading.counts_numbers(self.id)) {
                let since = before_it.filter(|before| *before < time);
                let gap = Content::Gap(Gap { since, serials: None, why: GapReason::UnparsedLines });
                self.waiting.insert((place, line - 1), before(&placed, placed.order, gap));
            }
        }
        if is_disordered {
            // Which of its lines came first in that time is not known.
            let gap = Gap { since: Some(time), serials: None, why: GapReason::Disordered };
            let gap = before(&placed, latest, Content::Gap(gap));
            let gap = Placed { entry: Entry { time: latest, ..gap.entry }, ..gap };
            // A number has its place in the order: the gap's is just before it.
            let before = if placed.entry.serial.is_some() { (place, line - 1) } else { (gap.place(), line) };
            self.waiting.insert(before, gap);
        }
        self.waiting.insert((place, line), placed);
    }

    /// What belongs before what was told can't be told any more.
    fn refuse(&mut self, line: u64, reading: &mut Reading<'_>) {
        if !self.ended {
            self.ended = true;
            self.note_all(reading);
            reading.failed.push(SourceError::Disorder { name: self.name.to_string(), line });
        }
        self.batch = Vec::new().into_iter();
    }

    /// Tells an entry, and before it what its log says that it lost.
    fn release(&mut self, place: Place, placed: Placed, reading: &mut Reading<'_>) {
        self.told = Some(place);
        if self.repeats.is_copy(&placed, self.waiting.values()) {
            reading.input.duplicates += 1;
            return;
        }
        let host = Arc::clone(&placed.entry.host);
        let of = self.hosts.entry(Arc::clone(&host)).or_default();
        let last = of.last.replace(placed.entry.time);
        let restarted = match (placed.boot, &placed.entry.content) {
            (Some(boot), Content::Boot) => {
                of.boot = Some(boot);
                false
            }
            (Some(boot), _) => of.boot.replace(boot).is_some_and(|before| before != boot),
            (None, _) => false,
        };
        if restarted {
            self.ready.push(before(&placed, placed.order, Content::Boot));
        }
        // Auditing begins some events after a boot: before it was on, no guest ran.
        let begins = matches!(placed.entry.content, Content::RecordingResumed(GapReason::AuditingOff))
            && placed.entry.serial.is_some_and(|serial| serial <= MAX_FIRST_SERIAL);
        if begins && !self.losses.is_stopped(&host) {
            return;
        }
        let is_whole = reading.is_whole(self.id, &host);
        let told = self.losses.take(&host, placed.entry.time, &placed.entry.content, is_whole, last);
        match told {
            Told::Nothing => {}
            Told::Same => {
                let mut placed = placed;
                if let Content::Gap(gap) = &mut placed.entry.content {
                    gap.since = gap.since.or(last);
                }
                self.ready.push(placed);
            }
            Told::Only(gap) => {
                let entry = Entry { content: Content::Gap(gap), serial: None, ..placed.entry };
                self.ready.push(Placed { entry, ..placed });
            }
            Told::After(gap) => {
                self.ready.push(before(&placed, placed.order, Content::Gap(gap)));
                self.ready.push(placed);
            }
        }
    }
}

/// Something that is told just before an entry, by the same line.
fn before(of: &Placed, order: Timestamp, content: Content) -> Placed {
    let entry = Entry { content, serial: None, writer: None, ..of.entry.clone() };
    Placed { entry, order, voice: of.voice, boot: of.boot }
}
