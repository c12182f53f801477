//! Merges several inputs into one order.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_trail::{Content, Entry, Gap, GapReason};

use crate::collector::Collector;
use crate::duplicates::{self, Comparison, Duplicates};
use crate::hosts::Hosts;
use crate::lines::{LogInput, OrderedLines, SERIAL_REORDER_WINDOW};
use crate::log_paths::{family, rotation};
use crate::open::Opened;
use crate::ordered_entry::{EntrySink, OrderKey, OrderedEntry, Origin};
use crate::parsed_line::{Clock, LogProgram};
use crate::scan::Scanning;
use crate::serial_numbers::MissingSerials;
use crate::track::Track;
use crate::window::{DUPLICATE_SKEW, DuplicateWindow};
use crate::{Input, NoteKind, SourceError, deferred, shape};

/// An input that is not read yet.
struct PendingInput {
    /// No entry of the input is before this time.
    begins: Timestamp,
    /// Number of the rotation: the higher, the older.
    rotation: u32,
    track: PendingSource,
}

enum PendingSource {
    Log {
        id: u32,
        name: Arc<str>,
        opened: Box<Opened>,
        clock: Box<Clock>,
        host: Arc<str>,
        family: Arc<str>,
    },
    /// The first row is read at once.
    Rows(Box<Track>),
}

/// Opens an input and reads its beginning. `open_slots`: how many more files may be kept open until
/// they are read.
fn prepare(
    id: u32,
    input: Input,
    hosts: &Hosts,
    clock: &Clock,
    open_slots: &mut usize,
    collector: &mut Collector<'_>,
) -> Result<PendingInput, SourceError> {
    let mut named = None;
    let (mut opened, name, family, rotation, host, is_given) = match input {
        Input::File(_) | Input::Opened(_) => {
            let path = input.path().to_owned();
            let name = Arc::<str>::from(path.display().to_string());
            collector.add(Arc::clone(&name));
            let (rotation, host) = (rotation(&path), hosts.of_path(&path));
            let family = family(&path);
            collector.coverage.add_log(id, Arc::clone(&family), rotation);
            let is_given = hosts.is_given(&path);
            let opened = match input {
                Input::Opened(file) => Opened::deferred(file.deferred, &path)?,
                _ => {
                    let opened = Opened::file(&path)?;
                    named = Some(path);
                    opened
                }
            };
            (opened, name, family, rotation, host, is_given)
        }
        Input::Stdin => {
            collector.add("-".into());
            collector.coverage.add_log(id, "-".into(), 0);
            let opened = Opened::pipe(Box::new(std::io::stdin()), "-")?;
            (opened, Arc::from("-"), Arc::from("-"), 0, hosts.of_stdin(), hosts.is_given(Path::new("-")))
        }
        Input::Rows { name, bytes, rows } => {
            collector.add(Arc::clone(&name));
            collector.input.bytes += bytes;
            let mut track = Track::rows(id, name, rows);
            track.head = track.read(collector);
            let begins = track.order_key().map_or(Timestamp::MAX, |key| key.time);
            return Ok(PendingInput { begins, rotation: 0, track: PendingSource::Rows(Box::new(track)) });
        }
    };
    if let Some(identity) = opened.identity {
        collector.file_identities.insert(Arc::clone(&name), identity);
    }
    collector.total += opened.size.unwrap_or(0);
    // A log that was last written to yesterday has no line of today.
    let day = SignedDuration::from_hours(24);
    let limit = opened.modified.and_then(|time| time.saturating_add(day).ok());
    let clock = limit.map_or_else(|| clock.clone(), |limit| clock.limited_to(limit));
    let clock = opened.clock(clock);
    // Drop the head now: many inputs may be waiting.
    let head = std::mem::take(&mut opened.head);
    let times = head.split(|&byte| byte == b'\n').filter_map(shape::first_time);
    // The first lines may be slightly out of order.
    let first = times.map(|when| when.resolve(&mut clock.clone())).min();
    let begins = first.unwrap_or(Timestamp::MIN);
    if let Some(path) = named {
        match open_slots.checked_sub(1) {
            Some(left) => *open_slots = left,
            None => opened.close(&path).map_err(|source| SourceError::Open { path, source })?,
        }
    }
    if !is_given {
        for name in head.split(|&byte| byte == b'\n').filter_map(shape::first_host) {
            collector.observed_names.add(&host, name);
        }
    }
    Ok(PendingInput {
        begins,
        rotation,
        track: PendingSource::Log {
            id,
            name,
            opened: Box::new(opened),
            clock: Box::new(clock),
            host,
            family,
        },
    })
}

/// Host, time and serial number, which identify an event.
type EventKey = (Arc<str>, Timestamp, u32);

/// Two sources may report one boot at times that differ by at most this.
const BOOT_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// The last known boot of a host: its boot id, the serial number and time of its event, and its
/// source.
type KnownBoot = (Option<u128>, Option<u32>, Timestamp, Arc<str>);

/// The merge of all inputs.
pub(crate) struct Merge {
    /// Inputs not begun yet, earliest first.
    waiting: VecDeque<PendingInput>,
    active: Vec<Track>,
    duplicates: Duplicates,
    window: DuplicateWindow,
    /// Whether there is only one input, and so far it is a raw audit log.
    is_single_raw_log: bool,
    scanning: Scanning,
    /// The last event, if there is only one input.
    last: Option<EventKey>,
    boots: HashMap<Arc<str>, KnownBoot>,
    /// Time of the first entry of a host in each rotation of a log.
    rotations: HashMap<(Arc<str>, Arc<str>), BTreeMap<u32, Timestamp>>,
    /// If hosts are named after directories: recent records of all hosts.
    recent_records: Option<RecentRecords>,
}

/// Recent records by content, each with its host and line.
#[derive(Debug, Default)]
struct RecentRecords {
    by_record: HashMap<(Timestamp, u32, Content), (Arc<str>, String)>,
    order: VecDeque<(Timestamp, u32, Content)>,
}

impl Merge {
    /// Opens all inputs and reads their beginnings.
    pub(crate) fn new(
        inputs: Vec<Input>,
        hosts: &Hosts,
        scanning: Scanning,
        clock: &Clock,
        collector: &mut Collector<'_>,
    ) -> Self {
        let mut duplicates = Duplicates::default();
        let is_single_raw_log = inputs.len() == 1;
        let mut waiting = Vec::with_capacity(inputs.len());
        let is_open = |input: &&Input| matches!(input, Input::Opened(file) if file.deferred.is_open());
        let mut open_slots = deferred::max_open().saturating_sub(inputs.iter().filter(is_open).count());
        for (id, input) in (0..).zip(inputs) {
            match prepare(id, input, hosts, clock, &mut open_slots, collector) {
                Ok(next) => waiting.push(next),
                Err(error) => collector.failed.push(error),
            }
        }
        for next in &mut waiting {
            if let PendingSource::Log { host, .. } = &mut next.track {
                duplicates.audit_spans.add_rotation(next.rotation);
                *host = collector.observed_names.resolve(host);
            }
        }
        waiting.sort_by_key(|next| (next.begins, std::cmp::Reverse(next.rotation)));
        Self {
            waiting: waiting.into(),
            active: Vec::new(),
            duplicates,
            window: DuplicateWindow::default(),
            is_single_raw_log,
            scanning,
            last: None,
            boots: HashMap::new(),
            rotations: HashMap::new(),
            recent_records: hosts.has_directory_hosts().then(RecentRecords::default),
        }
    }

    /// Emits the entries of all inputs.
    pub(crate) fn run(&mut self, collector: &mut Collector<'_>, sink: &mut EntrySink<'_>) -> ControlFlow<()> {
        loop {
            let earliest = (0..self.active.len()).min_by_key(|&at| self.active[at].order_key());
            let key = earliest.and_then(|at| self.active[at].order_key());
            let begins = self.waiting.front().map(|next| OrderKey::first_of(next.begins));
            match (earliest, begins) {
                (None, None) => {
                    self.window.release(Timestamp::MAX, sink)?;
                    self.duplicates.forget(Timestamp::MAX, sink)?;
                    for (host, missing) in collector.missing_rest() {
                        let source = collector.source_of(&host);
                        sink(&gap_entry(host, source, missing))?;
                    }
                    return ControlFlow::Continue(());
                }
                (_, Some(begins)) if key.is_none_or(|key| begins <= key) => self.activate(collector),
                (Some(at), _) => {
                    // This input is the earliest up to the next entry of another.
                    let others = self.active.iter().enumerate().filter(|(other, _)| *other != at);
                    let other = others.filter_map(|(_, track)| track.order_key()).min();
                    let until = other.into_iter().chain(begins).min();
                    self.emit_until(at, until, collector, sink)?;
                }
                (None, Some(_)) => self.activate(collector),
            }
        }
    }

    /// Emits the entries of `active[at]` that come before `until`, the next entry of another input.
    fn emit_until(
        &mut self,
        at: usize,
        until: Option<OrderKey>,
        collector: &mut Collector<'_>,
        sink: &mut EntrySink<'_>,
    ) -> ControlFlow<()> {
        let mut head = self.active[at].head.take();
        while let Some(placed) = head {
            if until.is_some_and(|until| until < placed.order_key()) {
                self.active[at].head = Some(placed);
                return ControlFlow::Continue(());
            }
            let origin = self.active[at].origin;
            if self.adds_information(origin, &placed, collector)? {
                self.emit_or_merge(origin, placed, until, collector, sink)?;
            }
            let failed = collector.failed.len();
            head = self.active[at].read(collector);
            if collector.refused.is_some() {
                return ControlFlow::Break(());
            }
            if collector.failed.len() > failed {
                self.duplicates.audit_spans.remove_rotation(self.active[at].origin.rotation);
            }
        }
        self.active.swap_remove(at);
        ControlFlow::Continue(())
    }

    /// Whether an entry adds something to what other inputs have reported. Breaks off if the entry
    /// can't be from the host that it was assigned to.
    fn adds_information(
        &mut self,
        origin: Origin,
        placed: &OrderedEntry,
        collector: &mut Collector<'_>,
    ) -> ControlFlow<(), bool> {
        let entry = &placed.entry;
        match &entry.content {
            Content::Boot => {
                if !self.is_new_boot(placed) {
                    return ControlFlow::Continue(false);
                }
                collector.coverage.add_start(&entry.host, entry.time);
            }
            Content::Gap(gap) => {
                let since = gap.since.unwrap_or(entry.time);
                let covered = is_loss_of_one_log(gap.why)
                    && collector.is_covered_elsewhere(origin.id, &entry.host, since, entry.time);
                if !covered {
                    collector.coverage.add_gap(&entry.host, since, entry.time);
                }
                return ControlFlow::Continue(!covered);
            }
            Content::Truncated(_) | Content::Unsent(_) => {
                collector.coverage.add_gap(&entry.host, entry.time, entry.time);
            }
            Content::Record(_) => {
                if let Some(conflict) = self.conflict(entry) {
                    collector.refused = Some(conflict);
                    return ControlFlow::Break(());
                }
            }
            _ => {}
        }
        ControlFlow::Continue(true)
    }

    fn is_new_boot(&mut self, placed: &OrderedEntry) -> bool {
        let Entry { host, time, source, serial, .. } = &placed.entry;
        let known = self.boots.get(host).is_some_and(|(id, number, at, by)| {
            let apart = time.duration_since(*at).abs();
            match (id, placed.boot, number, serial) {
                (Some(before), Some(id), ..) => *before == id,
                (.., Some(before), Some(serial)) => before == serial && apart <= DUPLICATE_SKEW,
                _ => by != source && apart <= BOOT_SKEW,
            }
        });
        if !known {
            self.boots.insert(Arc::clone(host), (placed.boot, *serial, *time, Arc::clone(source)));
        }
        !known
    }

    /// An error if a record was also found for another host: the directories are of one host.
    fn conflict(&mut self, entry: &Entry) -> Option<SourceError> {
        let serial = entry.serial?;
        let (one, first) = self.recent_records.as_mut()?.other(entry, serial)?;
        let (other, second) = (entry.host.to_string(), format!("{}:{}", entry.source, entry.line));
        Some(SourceError::OneHost { one, other, first, second })
    }

    /// A gap if a rotation continues after a newer one has begun: the clock was set back, and the
    /// order of their lines is not known.
    fn rotation_overlap(
        &mut self,
        origin: Origin,
        placed: &OrderedEntry,
        collector: &mut Collector<'_>,
    ) -> Option<Entry> {
        let family = collector.coverage.rotation_family(origin.id)?;
        let Entry { host, source, line, text, .. } = &placed.entry;
        let key = (Arc::clone(&family), Arc::clone(host));
        let begun = self.rotations.entry(key).or_default();
        let own = *begun.entry(origin.rotation).or_insert(placed.order);
        // Some logs number the newer rotation higher.
        let newer =
            begun.range(..origin.rotation).map(|(_, begun)| *begun).filter(|begun| own < *begun).min();
        let late = |order: Timestamp, since: Timestamp| order.duration_since(since) > SERIAL_REORDER_WINDOW;
        let (since, until) = if newer.is_some_and(|newer| late(placed.order, newer)) {
            (newer?, placed.order)
        } else {
            // An older rotation continues after this entry, or a newer one has begun before it.
            let has_begun = |rotation: u32| begun.get(&rotation).is_some_and(|begun| *begun < placed.order);
            let is_other = |track: &&Track| {
                let Origin { id, rotation, .. } = track.origin;
                (rotation > origin.rotation || (rotation < origin.rotation && has_begun(rotation)))
                    && collector.coverage.is_in_family(id, &family)
            };
            let heads = self.active.iter().filter(is_other).filter_map(|track| track.head.as_ref());
            let other = heads.filter(|head| head.entry.host == *host).map(|head| head.order).max()?;
            late(other, placed.order).then_some((placed.order, other))?
        };
        collector.coverage.add_gap(host, since, until);
        let gap = Gap { since: Some(since), serials: None, why: GapReason::Disordered };
        Some(Entry {
            host: Arc::clone(host),
            time: until,
            serial: None,
            writer: None,
            credentials: None,
            source: Arc::clone(source),
            line: *line,
            text: text.clone(),
            copies: Vec::new(),
            unauthenticated: false,
            content: Content::Gap(gap),
        })
    }

    /// Emits an entry, or merges it into another input's entry of the same event.
    fn emit_or_merge(
        &mut self,
        origin: Origin,
        placed: OrderedEntry,
        until: Option<OrderKey>,
        collector: &mut Collector<'_>,
        sink: &mut EntrySink<'_>,
    ) -> ControlFlow<()> {
        let rotation_overlap = self.rotation_overlap(origin, &placed, collector);
        let missing = placed
            .entry
            .serial
            .filter(|_| !origin.is_rows)
            .and_then(|serial| collector.missing_before(&placed.entry.host, serial))
            .map(|missing| {
                let Entry { host, source, line, text, .. } = &placed.entry;
                Entry {
                    line: *line,
                    text: text.clone(),
                    ..gap_entry(Arc::clone(host), Arc::clone(source), missing)
                }
            });
        for entry in rotation_overlap.into_iter().chain(missing) {
            // Emitted at once, or after the entries that wait for duplicates.
            if self.window.is_empty() {
                sink(&entry)?;
            } else {
                let gap = OrderedEntry { entry, order: placed.order, program: placed.program, boot: None };
                self.window.push(UNCOMPARED, gap, origin.is_rows);
            }
        }
        if self.is_single_raw_log {
            let Entry { host, time, serial, .. } = &placed.entry;
            // In a raw audit log, only the serial number shows a repeated event.
            let is_plain = placed.program == LogProgram::Auditd && (serial.is_some() || !is_record(&placed));
            if is_plain {
                let this = serial.map(|serial| (Arc::clone(host), *time, serial));
                let again = this.is_some() && this == self.last;
                self.last = this.or(self.last.take());
                if again {
                    collector.input.duplicates += 1;
                    return ControlFlow::Continue(());
                }
                collector.input.records += u64::from(is_record(&placed));
                return sink(&placed.entry);
            }
            self.is_single_raw_log = false;
        }
        let is_rows = origin.is_rows;
        self.duplicates.cover(origin, &placed.entry);
        self.window.release(placed.order, sink)?;
        self.duplicates.forget(placed.order, sink)?;
        let alone = until
            .is_none_or(|until| until.time.duration_since(placed.order) > duplicates::EVENT_RETENTION)
            && self.window.is_empty()
            && placed.program == LogProgram::Auditd;
        match self.duplicates.check(origin, alone, &placed) {
            Comparison::New(None) => {
                collector.input.records += u64::from(is_record(&placed));
                sink(&placed.entry)
            }
            Comparison::New(Some(number)) => {
                collector.input.records += u64::from(is_record(&placed));
                self.window.push(number, placed, is_rows);
                ControlFlow::Continue(())
            }
            Comparison::Duplicate(number) => {
                collector.input.duplicates += 1;
                self.window.add_duplicate(number, &placed.entry, is_rows);
                ControlFlow::Continue(())
            }
        }
    }

    /// Begins to read the first waiting input.
    fn activate(&mut self, collector: &mut Collector<'_>) {
        let Some(PendingInput { rotation, track, .. }) = self.waiting.pop_front() else { return };
        let failed = collector.failed.len();
        let begun = self.begin(track, rotation, collector);
        if collector.failed.len() > failed {
            self.duplicates.audit_spans.remove_rotation(rotation);
        }
        self.active.extend(begun);
    }

    /// The track of an input, if it has any entry.
    fn begin(&self, pending: PendingSource, rotation: u32, collector: &mut Collector<'_>) -> Option<Track> {
        let mut track = match pending {
            PendingSource::Rows(track) => *track,
            PendingSource::Log { id, name, opened, clock, host, family } => {
                let expected = opened.expected();
                if self.scanning.resources && opened.has_multiline_entries() {
                    collector.note(&name, NoteKind::ResourcesUnread);
                }
                match opened.start(self.scanning) {
                    Ok((stream, stored)) => {
                        let origin = Origin { id, is_rows: false, rotation };
                        let of = Arc::clone(&name);
                        let begun =
                            LogInput { id, name: of, family, stream, stored, expected, clock: *clock, host };
                        Track::lines(origin, name, OrderedLines::new(begun))
                    }
                    Err(source) => {
                        collector.failed.push(SourceError::Read { name: name.to_string(), at: 0, source });
                        return None;
                    }
                }
            }
        };
        if track.head.is_none() {
            track.head = track.read(collector);
        }
        track.head.is_some().then_some(track)
    }
}

/// Missing serial numbers, as an entry.
fn gap_entry(host: Arc<str>, source: Arc<str>, missing: MissingSerials) -> Entry {
    let MissingSerials { since, until, serials } = missing;
    let gap = Gap { since: Some(since), serials: Some(serials), why: GapReason::NeverWritten };
    let (time, content) = (until, Content::Gap(gap));
    Entry {
        host,
        time,
        serial: None,
        writer: None,
        credentials: None,
        source,
        line: 1,
        text: None,
        copies: Vec::new(),
        unauthenticated: false,
        content,
    }
}

/// Whether a loss affects only the log that reports it, and not the source of all logs.
fn is_loss_of_one_log(why: GapReason) -> bool {
    !matches!(why, GapReason::Backlog | GapReason::AuditingOff)
}

/// Event number of an entry that is not compared with others.
const UNCOMPARED: u64 = u64::MAX;

fn is_record(placed: &OrderedEntry) -> bool {
    matches!(placed.entry.content, Content::Record(_))
}

impl RecentRecords {
    /// Another host with the same record, and its line.
    fn other(&mut self, entry: &Entry, serial: u32) -> Option<(String, String)> {
        while self
            .order
            .pop_front_if(|(time, ..)| entry.time.duration_since(*time) > duplicates::EVENT_RETENTION)
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
