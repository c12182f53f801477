//! Turns a log's lines into entries, and sorts them.
//!
//! Lines are nearly in order: records wait in several queues, and logs may be concatenated the
//! wrong way round. So the last few thousand entries wait until it is certain that none comes
//! before them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use taptrail_trail::{Content, Entry, Gap, GapReason, MAX_FIRST_SERIAL, Unreadable, is_same_host};

use crate::collector::Collector;
use crate::losses::{Emission, LossTracker};
use crate::open::Stored;
use crate::ordered_entry::{EntryQueue, OrderKey, OrderedEntry};
use crate::parsed_line::{Clock, LogProgram, ParsedLine};
use crate::repeats::RepeatFilter;
use crate::runs::Run;
use crate::scan::Batch;
use crate::sequence::{LineLocation, MAX_LATE_SERIALS};
use crate::stream::Stream;
use crate::{NoteKind, SourceError};

/// Time may go back by at most this within a log that is in order.
const MAX_BACKWARD_STEP: SignedDuration = SignedDuration::from_mins(1);
/// A higher serial number with a time earlier by more than this shows that the clock was set back.
const MIN_CLOCK_STEP: SignedDuration = SignedDuration::from_secs(2);

/// Lines whose serial numbers do not rise, and those of a rotation and the next, are out of order
/// by less than this.
pub(crate) const SERIAL_REORDER_WINDOW: SignedDuration = SignedDuration::from_secs(5);

/// The latest moment within a time of whole seconds.
const MAX_SUBSECOND: SignedDuration = SignedDuration::from_millis(999);

/// Maximum number of entries waiting to be sorted.
const MAX_WAITING_ENTRIES: usize = 8192;

/// A serial number higher by less than this continues the one before, whatever the times.
const MAX_SERIAL_STEP: u32 = 4096;

/// A log's lines, read in batches and sorted.
pub(crate) struct OrderedLines {
    id: u32,
    name: Arc<str>,
    /// The path that it shares with its rotations.
    family: Arc<str>,
    stream: Stream,
    batch: std::vec::IntoIter<(u64, ParsedLine)>,
    /// Number of lines before the batch, and before the next one.
    before: u64,
    after: u64,
    clock: Clock,
    /// The host of lines that name none, and the host of the last line.
    default_host: Arc<str>,
    host: Arc<str>,
    last: Timestamp,
    /// Whether any line was parsed, whether one of them names no host, and whether one is a record.
    found: bool,
    unnamed: bool,
    has_records: bool,
    /// Whether there are raw audit lines of other types than `VIRT_…`.
    others: bool,
    /// Number of lines that look like records and were not read, and the first of them.
    unread: u64,
    first_unread: Option<u64>,
    stored: Stored,
    /// Size on disk when reading began, in bytes.
    expected: u64,
    counted: u64,
    bytes: u64,
    /// Entries waiting to be sorted, by order and line. They are large, and a map moves its values.
    waiting: BTreeMap<(OrderKey, u64), Box<OrderedEntry>>,
    ready: EntryQueue,
    ended: bool,
    /// Unreadable lines after the last entry.
    unparsed: VecDeque<u64>,
    /// The order key of the last entry read.
    latest: Option<OrderKey>,
    /// The order key of the last entry emitted.
    last_emitted: Option<OrderKey>,
    hosts: HashMap<Arc<str>, HostState>,
    repeats: RepeatFilter,
    losses: LossTracker,
}

/// The state of one host in the input.
#[derive(Debug, Default)]
struct HostState {
    /// The highest serial number, and its time in the order.
    newest: Option<(u32, Timestamp)>,
    /// The latest time in the order.
    placed: Option<Timestamp>,
    /// Time of its last emitted entry.
    last: Option<Timestamp>,
    boot: Option<u128>,
    /// The last serial number of its lines of any type.
    last_number: u32,
    /// The latest time of its lines of any type.
    latest: Timestamp,
    /// The lines at which its serial numbers restart as after a boot, with the latest time before.
    restarts: VecDeque<(u64, Timestamp)>,
    /// The boot id of the last line.
    last_boot: Option<u128>,
}

impl HostState {
    /// Returns the time by which a line is sorted, the latest time before if the host boots at this
    /// line, and whether the order of this line and earlier ones is unknown. `order`: the line's
    /// own time.
    fn order(
        &mut self,
        line: u64,
        found: &ParsedLine,
        mut order: Timestamp,
    ) -> (Timestamp, Option<Timestamp>, bool) {
        let mut before_boot = None;
        while let Some((_, before)) = self.restarts.pop_front_if(|(restart, _)| *restart <= line) {
            before_boot = before_boot.max(Some(before));
        }
        let is_other_boot = found.boot.is_some() && self.last_boot.is_some() && self.last_boot != found.boot;
        if before_boot.is_some() || is_other_boot || found.content == Content::Boot {
            self.newest = None;
            before_boot = before_boot.max(self.placed);
        }
        self.last_boot = found.boot.or(self.last_boot);
        // The host's clock was behind at boot, or logs are in the wrong order.
        let mut is_disordered =
            before_boot.is_some_and(|before| before.duration_since(order) > SERIAL_REORDER_WINDOW);
        if let Some(serial) = found.serial {
            // A higher serial number is later, even if the clock was set back.
            if let Some((newest, at)) = self.newest
                && serial > newest
                && serial - newest < MAX_SERIAL_STEP
                && order < at
            {
                is_disordered |= at.duration_since(order) > MIN_CLOCK_STEP;
                order = at;
            }
            // Serial number and time fall, by more than late records do.
            let is_late =
                self.newest.is_some_and(|(newest, _)| serial < newest && newest - serial < MAX_LATE_SERIALS);
            is_disordered |= !is_late
                && self.placed.is_some_and(|placed| placed.duration_since(order) > SERIAL_REORDER_WINDOW);
            if self.newest.is_none_or(|(newest, at)| serial > newest || order > at) {
                self.newest = Some((serial, order));
            }
        }
        self.placed = self.placed.max(Some(order));
        (order, before_boot, is_disordered)
    }
}

/// A log that is open for collector.
pub(crate) struct LogInput {
    pub(crate) id: u32,
    pub(crate) name: Arc<str>,
    pub(crate) family: Arc<str>,
    pub(crate) stream: Stream,
    pub(crate) stored: Stored,
    pub(crate) expected: u64,
    pub(crate) clock: Clock,
    pub(crate) host: Arc<str>,
}

impl OrderedLines {
    pub(crate) fn new(begun: LogInput) -> Self {
        let LogInput { id, name, family, stream, stored, expected, clock, host } = begun;
        Self {
            id,
            name,
            family,
            stream,
            batch: Vec::new().into_iter(),
            before: 0,
            after: 0,
            clock,
            default_host: Arc::clone(&host),
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
            ready: EntryQueue::default(),
            ended: false,
            unparsed: VecDeque::new(),
            latest: None,
            last_emitted: None,
            hosts: HashMap::new(),
            losses: LossTracker::default(),
            repeats: RepeatFilter::default(),
        }
    }

    pub(crate) fn next(&mut self, collector: &mut Collector<'_>) -> Option<OrderedEntry> {
        loop {
            if let Some(placed) = self.ready.pop() {
                return Some(placed);
            }
            if self.waiting.len() > MAX_WAITING_ENTRIES || self.ended {
                match self.waiting.pop_first() {
                    Some(((key, _), placed)) => self.emit(key, *placed, collector),
                    None => {
                        match self.unread_at_end(collector).or_else(|| self.auditing_off_at_end(collector)) {
                            Some(gap) => self.ready.push(gap),
                            None => return None,
                        }
                    }
                }
                continue;
            }
            match self.batch.next() {
                Some((line, found)) => self.order_line(line, found, collector),
                None => self.read_batch(collector),
            }
        }
    }

    /// The gap for unreadable lines after the last entry.
    fn unread_at_end(&mut self, collector: &Collector<'_>) -> Option<OrderedEntry> {
        self.unparsed.pop_back()?;
        self.unparsed.clear();
        let since = Some(self.last).filter(|last| *last > Timestamp::MIN);
        let host = Arc::clone(&self.host);
        let time = collector.until(self.id, &host).max(since).unwrap_or(Timestamp::MIN);
        let content = Content::Gap(Gap { since, serials: None, why: GapReason::UnparsedLines });
        Some(self.entry_at_end(host, time, content))
    }

    fn entry_at_end(&self, host: Arc<str>, time: Timestamp, content: Content) -> OrderedEntry {
        let (source, line) = (Arc::clone(&self.name), self.after);
        let entry = Entry {
            host,
            time,
            serial: None,
            writer: None,
            credentials: None,
            source,
            line,
            text: None,
            copies: Vec::new(),
            unauthenticated: false,
            content,
        };
        OrderedEntry { entry, order: time, program: LogProgram::Auditd, boot: None }
    }

    /// The gap from when auditing was turned off to the end of the input.
    fn auditing_off_at_end(&mut self, collector: &Collector<'_>) -> Option<OrderedEntry> {
        let (host, gap) = self.losses.take_open_gap()?;
        let since = gap.since.unwrap_or(Timestamp::MIN);
        let time = collector.until(self.id, &host).map_or(since, |until| until.max(since));
        Some(self.entry_at_end(host, time, Content::Gap(gap)))
    }

    /// Takes the next batch, or ends the input.
    fn read_batch(&mut self, collector: &mut Collector<'_>) {
        let batch = self.stream.next();
        let counted = self.stored.load(Ordering::Relaxed);
        collector.report_progress(self.id, counted - self.counted);
        self.counted = counted;
        match batch {
            None => {
                self.ended = true;
                self.note_all(collector);
                if self.counted < self.expected {
                    let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut meanwhile");
                    self.fail(source, collector);
                }
            }
            Some(Err(source)) => {
                self.ended = true;
                self.note_all(collector);
                self.fail(source, collector);
            }
            Some(Ok(batch)) => self.start_batch(batch, collector),
        }
    }

    fn fail(&mut self, source: io::Error, collector: &mut Collector<'_>) {
        collector.failed.push(SourceError::Read { name: self.name.to_string(), at: self.bytes, source });
    }

    fn note_all(&mut self, collector: &mut Collector<'_>) {
        if self.clock.year_inferred {
            collector.note(&self.name, NoteKind::YearInferred);
        }
        if self.clock.date_guessed {
            collector.note(&self.name, NoteKind::DateGuessed);
        }
        if self.unnamed {
            collector.unnamed.push((Arc::clone(&self.name), Arc::clone(&self.default_host)));
        }
        match collector.coverage.is_numbered(self.id) {
            false if self.has_records => collector.unnumbered.push(self.id),
            true if !self.others => collector.selected.push(self.id),
            _ => {}
        }
        if let Some(first) = self.first_unread {
            collector.note(&self.name, NoteKind::UnreadLines { lines: self.unread, first });
        }
        if !self.found && self.after > 0 {
            collector.note(&self.name, NoteKind::NoGuestLines);
        }
    }

    fn start_batch(&mut self, batch: Batch, collector: &mut Collector<'_>) {
        self.before = batch.before.unwrap_or(self.after);
        self.after += batch.lines;
        self.bytes += batch.bytes;
        self.others |= batch.others;
        collector.count_lines(self.id, batch.lines);
        for (line, reason) in batch.unreadable {
            let line = self.before + line + 1;
            let source = Arc::clone(&self.name);
            collector.unreadable(self.id, Unreadable { source, line, reason: reason.to_string() });
        }
        self.unparsed.extend(batch.unparsed.iter().map(|line| self.before + line + 1));
        if batch.unread > 0 {
            self.unread += batch.unread;
            let first = batch.first_unread.map(|line| self.before + line + 1);
            self.first_unread = self.first_unread.or(first);
            collector.unread(self.id, batch.unread);
        }
        for run in &batch.runs {
            let host = if run.node.is_empty() {
                Arc::clone(&self.default_host)
            } else {
                self.named(&CompactString::from_utf8_lossy(&run.node), collector)
            };
            let moment = |millis| Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
            let span = collector.cover(self.id, &host, moment(run.since), moment(run.until), 0);
            collector.add_range(self.id, span, run, self.others);
            collector.add_serials(self.id, &host, run);
            let at = self.at(self.before + run.line + 1, true);
            let of = self.hosts.entry(Arc::clone(&host)).or_default();
            if run.first <= MAX_FIRST_SERIAL && run.first < of.last_number {
                of.restarts.push_back((at.line, of.latest));
            }
            of.last_number = run.last;
            of.latest = of.latest.max(moment(run.until));
            collector.check_sequence(&host, run, at, self.others);
        }
        self.found |= !batch.found.is_empty();
        self.batch = batch.found.into_iter();
    }

    /// The host with this name.
    fn named(&self, name: &CompactString, collector: &mut Collector<'_>) -> Arc<str> {
        if is_same_host(name, &self.default_host) {
            return Arc::clone(&self.default_host);
        }
        let host = collector.intern_host(name);
        collector.note_other_host(&self.default_host, &host);
        host
    }

    fn at(&self, line: u64, is_raw: bool) -> LineLocation {
        let (family, source) = (Arc::clone(&self.family), Arc::clone(&self.name));
        LineLocation { input: self.id, is_raw, family, source, line }
    }

    fn order_line(&mut self, line: u64, found: ParsedLine, collector: &mut Collector<'_>) {
        let time = found.when.resolve(&mut self.clock);
        let line = self.before + line + 1;
        let is_log_message = matches!(
            found.content,
            Content::Gap(_) | Content::Boot | Content::RecordingStopped(_) | Content::RecordingResumed(_)
        );
        let host = match &found.host {
            // A log's message about itself belongs to the host of the lines before.
            None if is_log_message && self.latest.is_some() => Arc::clone(&self.host),
            None => {
                self.unnamed = true;
                self.host = Arc::clone(&self.default_host);
                Arc::clone(&self.default_host)
            }
            Some(host) => {
                if **host != *self.host {
                    self.host = self.named(host, collector);
                }
                Arc::clone(&self.host)
            }
        };
        let is_record = matches!(found.content, Content::Record(_));
        let mut span = None;
        if time > Timestamp::MIN {
            span = collector.cover(self.id, &host, time, time, u64::from(is_record));
        }
        if found.is_unauthenticated {
            collector.count_unauthenticated(self.id);
        }
        self.has_records |= is_record;
        if found.content == Content::Boot {
            collector.note_boot(&host, self.id);
        }
        if found.machine.is_some() || found.boot.is_some() {
            collector.check_identity(&host, found.machine, found.boot, time, &self.at(line, false));
        }
        // In a raw audit log, all serial numbers are taken in `start_batch`.
        if let Some(serial) = found.serial.filter(|_| is_record && !collector.coverage.is_numbered(self.id)) {
            let run = Run::of(serial, serial, time.as_millisecond());
            collector.add_range(self.id, span, &run, false);
            collector.check_sequence(&host, &run, self.at(line, false), false);
        }
        // syslog has a record's writer, but neither its serial number nor fractions of a second.
        let is_from_syslog = found.serial.is_none() && found.writer.is_some();
        let is_whole_second = is_from_syslog && time.subsec_nanosecond() == 0;
        let order = if is_whole_second { time.saturating_add(MAX_SUBSECOND).unwrap_or(time) } else { time };
        let of = self.hosts.entry(Arc::clone(&host)).or_default();
        let (order, before_boot, mut is_disordered) = of.order(line, &found, order);
        if found.serial.is_none() && time < self.last && self.last.duration_since(time) > MAX_BACKWARD_STEP {
            collector.note(&self.name, NoteKind::BackInTime { line });
            is_disordered = true;
        }
        let before_it = Some(self.last).filter(|last| *last > Timestamp::MIN);
        let latest = std::mem::replace(&mut self.last, time).max(time).max(before_boot.unwrap_or(time));
        let entry = Entry {
            host,
            time,
            serial: found.serial,
            writer: found.writer,
            credentials: found.credentials,
            source: Arc::clone(&self.name),
            line,
            text: found.text,
            copies: Vec::new(),
            unauthenticated: found.is_unauthenticated,
            content: found.content,
        };
        let mut placed = OrderedEntry { entry, order, program: found.program, boot: found.boot };
        let mut key = placed.order_key();
        // A message about the log, in whole seconds, belongs after the line before it.
        if is_log_message
            && let Some(latest) = self.latest
            && key < latest
            && latest.time.duration_since(time) <= MAX_SUBSECOND
        {
            key = latest;
            (placed.order, placed.entry.time) = (latest.time, latest.time);
        }
        self.latest = Some(key);
        if self.last_emitted.is_some_and(|last_emitted| key < last_emitted) {
            return self.fail_disorder(line, collector);
        }
        if self.unparsed.front().is_some_and(|front| *front < line) {
            while self.unparsed.pop_front_if(|front| *front < line).is_some() {}
            // This entry's serial number shows what is missing before it.
            if !(placed.entry.serial.is_some() && collector.counts_numbers(self.id)) {
                let since = before_it.filter(|before| *before < time);
                let gap = Content::Gap(Gap { since, serials: None, why: GapReason::UnparsedLines });
                self.waiting.insert((key, line - 1), Box::new(entry_before(&placed, placed.order, gap)));
            }
        }
        if is_disordered {
            // The order of the lines in that time is not known.
            let gap = Gap { since: Some(time), serials: None, why: GapReason::Disordered };
            let gap = entry_before(&placed, latest, Content::Gap(gap));
            let gap = OrderedEntry { entry: Entry { time: latest, ..gap.entry }, ..gap };
            // An entry with a serial number has a fixed place in the order: the gap goes directly
            // before it.
            let before =
                if placed.entry.serial.is_some() { (key, line - 1) } else { (gap.order_key(), line) };
            self.waiting.insert(before, Box::new(gap));
        }
        self.waiting.insert((key, line), Box::new(placed));
    }

    /// Ends the input with an error: the line belongs before entries that were emitted already.
    fn fail_disorder(&mut self, line: u64, collector: &mut Collector<'_>) {
        if !self.ended {
            self.ended = true;
            self.note_all(collector);
            collector.failed.push(SourceError::Disorder { name: self.name.to_string(), line });
        }
        self.batch = Vec::new().into_iter();
    }

    /// Emits an entry, and before it the loss that its log reports.
    fn emit(&mut self, key: OrderKey, placed: OrderedEntry, collector: &mut Collector<'_>) {
        self.last_emitted = Some(key);
        if self.repeats.is_copy(&placed, self.waiting.values().map(|placed| &**placed)) {
            collector.input.duplicates += 1;
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
            self.ready.push(entry_before(&placed, placed.order, Content::Boot));
        }
        // Auditing is turned on some events after a boot: no guest ran before.
        let begins = matches!(placed.entry.content, Content::RecordingResumed(GapReason::AuditingOff))
            && placed.entry.serial.is_some_and(|serial| serial <= MAX_FIRST_SERIAL);
        if begins && !self.losses.is_stopped(&host) {
            return;
        }
        let has_all_serials = collector.has_all_serials(self.id, &host);
        let emission =
            self.losses.observe(&host, placed.entry.time, &placed.entry.content, has_all_serials, last);
        match emission {
            Emission::Nothing => {}
            Emission::Entry => {
                let mut placed = placed;
                if let Content::Gap(gap) = &mut placed.entry.content {
                    gap.since = gap.since.or(last);
                }
                self.ready.push(placed);
            }
            Emission::Gap(gap) => {
                let entry = Entry { content: Content::Gap(gap), serial: None, ..placed.entry };
                self.ready.push(OrderedEntry { entry, ..placed });
            }
            Emission::GapThenEntry(gap) => {
                self.ready.push(entry_before(&placed, placed.order, Content::Gap(gap)));
                self.ready.push(placed);
            }
        }
    }
}

/// An entry directly before another, from the same line.
fn entry_before(of: &OrderedEntry, order: Timestamp, content: Content) -> OrderedEntry {
    let entry = Entry { content, serial: None, writer: None, ..of.entry.clone() };
    OrderedEntry { entry, order, program: of.program, boot: of.boot }
}
