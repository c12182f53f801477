//! What reading finds beside the entries.

use std::collections::HashMap;
use std::sync::Arc;

use compact_str::CompactString;
use jiff::Timestamp;
use taptrail_trail::{Entry, HostSpan, InputFile, Unreadable, is_same_host};

use crate::coverage_builder::CoverageBuilder;
use crate::hosts::{Hosts, ObservedNames, UNKNOWN};
use crate::identity::{HostIdentity, IdentityConflict};
use crate::runs::Run;
use crate::sequence::{LineLocation, Sequence};
use crate::serial_numbers::{MissingSerials, SerialNumbers};
use crate::serial_ranges::SerialRanges;
use crate::window::DUPLICATE_SKEW;
use crate::{FileIdentity, Note, NoteKind, Progress, ReadOutcome, SourceError};

/// Collects what reading finds beside the entries: counts, notes, coverage, serial numbers and
/// identities of hosts.
pub(crate) struct Collector<'a> {
    pub(crate) input: taptrail_trail::Input,
    unreadable: Vec<Unreadable>,
    notes: Vec<Note>,
    pub(crate) file_identities: HashMap<Arc<str>, FileIdentity>,
    pub(crate) failed: Vec<SourceError>,
    pub(crate) refused: Option<SourceError>,
    interned_hosts: HashMap<CompactString, Arc<str>>,
    pub(crate) observed_names: ObservedNames,
    /// For a host whose name was taken from other lines: another host that they name.
    other_hosts: HashMap<Arc<str>, Arc<str>>,
    /// The inputs with lines that name no host, and the host assigned to those.
    pub(crate) unnamed: Vec<(Arc<str>, Arc<str>)>,
    /// The inputs with records that are not raw audit logs.
    pub(crate) unnumbered: Vec<u32>,
    /// The raw audit logs that have only guests' records.
    pub(crate) selected: Vec<u32>,
    /// The name given for all lines that name no host.
    assumed_host: Option<Arc<str>>,
    pub(crate) coverage: CoverageBuilder,
    /// Index of each host's time range in each input.
    spans: HashMap<(u32, Arc<str>), usize>,
    numbers: HashMap<Arc<str>, SerialNumbers>,
    /// The serial numbers of each host in each input.
    ranges: SerialRanges,
    sequences: HashMap<Arc<str>, Sequence>,
    identities: HashMap<Arc<str>, HostIdentity>,
    extract: bool,
    pub(crate) total: u64,
    progress: Box<dyn FnMut(Progress<'_>) + 'a>,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(hosts: &Hosts, extract: bool, progress: Box<dyn FnMut(Progress<'_>) + 'a>) -> Self {
        Self {
            input: taptrail_trail::Input::default(),
            unreadable: Vec::new(),
            notes: Vec::new(),
            file_identities: HashMap::new(),
            failed: Vec::new(),
            refused: None,
            interned_hosts: HashMap::new(),
            observed_names: ObservedNames::default(),
            other_hosts: HashMap::new(),
            unnamed: Vec::new(),
            unnumbered: Vec::new(),
            selected: Vec::new(),
            assumed_host: hosts.all().cloned(),
            coverage: CoverageBuilder::default(),
            spans: HashMap::new(),
            numbers: HashMap::new(),
            ranges: SerialRanges::default(),
            sequences: HashMap::new(),
            identities: HashMap::new(),
            extract,
            total: 0,
            progress,
        }
    }

    /// What was collected; `has_directory_hosts` says whether hosts were given by directories.
    pub(crate) fn finish(mut self, has_directory_hosts: bool) -> ReadOutcome {
        self.check_unnamed();
        if has_directory_hosts {
            self.note_directories();
        }
        self.note_unnumbered();
        self.note_selected();
        self.input.coverage = self.coverage.build(&self.input.files);
        let serials = self.ranges.build(&self.input.files, self.extract);
        ReadOutcome {
            input: self.input,
            serials,
            unreadable: self.unreadable,
            notes: self.notes,
            identities: self.file_identities,
            failed: self.failed,
            refused: self.refused,
        }
    }

    /// Adds an input with this name.
    pub(crate) fn add(&mut self, name: Arc<str>) {
        self.input.files.push(InputFile { path: name, ..InputFile::default() });
    }

    fn file(&mut self, id: u32) -> Option<&mut InputFile> {
        self.input.files.get_mut(usize::try_from(id).ok()?)
    }

    pub(crate) fn unreadable(&mut self, id: u32, line: Unreadable) {
        self.input.unreadable += 1;
        if let Some(file) = self.file(id) {
            file.unreadable += 1;
        }
        if self.unreadable.len() < ReadOutcome::MAX_UNREADABLE {
            self.unreadable.push(line);
        }
    }

    /// Counts lines that look like records and were not read.
    pub(crate) fn unread(&mut self, id: u32, lines: u64) {
        self.input.unread += lines;
        if let Some(file) = self.file(id) {
            file.unread += lines;
        }
    }

    /// Counts an entry that is not authenticated.
    pub(crate) fn count_unauthenticated(&mut self, id: u32) {
        let Some(file) = self.file(id) else { return };
        file.unauthenticated += 1;
        if file.unauthenticated == 1 {
            let source = Arc::clone(&file.path);
            self.note(&source, NoteKind::Unauthenticated);
        }
    }

    pub(crate) fn count_lines(&mut self, id: u32, lines: u64) {
        self.input.lines += lines;
        if let Some(file) = self.file(id) {
            file.lines += lines;
        }
    }

    /// Extends the time range that an input covers for a host, and counts its records. Returns the
    /// range's index in the input.
    pub(crate) fn cover(
        &mut self,
        id: u32,
        host: &Arc<str>,
        from: Timestamp,
        until: Timestamp,
        records: u64,
    ) -> Option<usize> {
        let newest = self.input.files.get(id as usize).and_then(|file| file.hosts.len().checked_sub(1));
        // Most inputs have one host: check the newest range first.
        let is_newest = |at: &usize| self.input.files[id as usize].hosts[*at].host == *host;
        let at = newest.filter(is_newest).or_else(|| self.spans.get(&(id, Arc::clone(host))).copied());
        let file = self.file(id)?;
        match at.and_then(|at| Some((at, file.hosts.get_mut(at)?))) {
            Some((at, span)) => {
                span.from = span.from.min(from);
                span.until = span.until.max(until);
                span.records += records;
                Some(at)
            }
            None => {
                file.hosts.push(HostSpan { host: Arc::clone(host), from, until, records });
                let at = file.hosts.len() - 1;
                self.spans.insert((id, Arc::clone(host)), at);
                Some(at)
            }
        }
    }

    /// The end of the time range that an input covers for a host.
    pub(crate) fn until(&self, id: u32, host: &Arc<str>) -> Option<Timestamp> {
        let at = *self.spans.get(&(id, Arc::clone(host)))?;
        Some(self.input.files.get(id as usize)?.hosts.get(at)?.until)
    }

    /// Adds serial numbers of a host in an input, to those of the time range with this index.
    /// `all_events`: they are those of all events, not only of guests'.
    pub(crate) fn add_range(&mut self, id: u32, span: Option<usize>, run: &Run, all_events: bool) {
        if let Some(span) = span {
            self.ranges.add(id, span, run, all_events);
        }
    }

    /// Adds serial numbers of a host that an input has.
    pub(crate) fn add_serials(&mut self, id: u32, host: &Arc<str>, run: &Run) {
        self.coverage.add_numbered(id);
        match self.numbers.get_mut(host) {
            Some(numbers) => numbers.add_run(run),
            None => self.numbers.entry(Arc::clone(host)).or_default().add_run(run),
        }
    }

    /// Checks the next serial numbers of a host in an input: they may show that they are from two
    /// hosts. `others`: the input also has lines that are not about guests.
    pub(crate) fn check_sequence(&mut self, host: &Arc<str>, run: &Run, at: LineLocation, others: bool) {
        let second = at.clone();
        let has_all_events = others && !self.extract;
        let earlier = self.sequence_of(host).take(run, at, has_all_events);
        if let Some(earlier) = earlier {
            self.refuse(host, &earlier, &second, "their serial numbers contradict each other");
        }
    }

    /// Notes a host's boot in an input.
    pub(crate) fn note_boot(&mut self, host: &Arc<str>, input: u32) {
        self.sequence_of(host).note_boot(input);
    }

    fn sequence_of(&mut self, host: &Arc<str>) -> &mut Sequence {
        self.sequences.entry(Arc::clone(host)).or_default()
    }

    /// Checks a host's machine id and boot id in a line: they may show that there are two hosts.
    pub(crate) fn check_identity(
        &mut self,
        host: &Arc<str>,
        machine: Option<u128>,
        boot: Option<u128>,
        time: Timestamp,
        at: &LineLocation,
    ) {
        let identity = self.identities.entry(Arc::clone(host)).or_default();
        match identity.take(machine, boot, time, at) {
            Some(IdentityConflict::Machine(earlier)) => {
                self.refuse(host, &earlier, at, "their machine ids differ")
            }
            Some(IdentityConflict::Boot(earlier)) => {
                self.refuse(host, &earlier, at, "they are of two boots at one time")
            }
            None => {}
        }
    }

    /// Notes the directories whose serial numbers continue in another one.
    fn note_directories(&mut self) {
        let unnamed =
            || self.sequences.iter().filter(|(host, _)| !self.interned_hosts.contains_key(&***host));
        let begins: HashMap<u32, &Sequence> =
            unnamed().filter_map(|(_, of)| Some((of.first()?, of))).collect();
        let on = |(_, of): (_, &Sequence)| of.continues_in(begins.get(&of.next()?)?);
        let mut sources: Vec<Arc<str>> = unnamed().filter_map(on).collect();
        sources.sort_unstable();
        for source in sources {
            self.note(&source, NoteKind::ContinuesElsewhere);
        }
    }

    fn refuse(&mut self, host: &Arc<str>, first: &LineLocation, second: &LineLocation, why: &'static str) {
        let (host, first, second) = (host.to_string(), first.to_string(), second.to_string());
        self.refused.get_or_insert(SourceError::TwoHosts { host, first, second, why });
    }

    /// Notes the serial number of a record that is in no log: no log needs to have it.
    pub(crate) fn note_unlogged(&mut self, entry: &Entry) {
        if let Some(serial) = entry.serial {
            let numbers = self.numbers.entry(Arc::clone(&entry.host)).or_default();
            numbers.add_unlogged(serial, entry.time.as_millisecond());
        }
    }

    /// Whether an unread record of an input shows by its missing serial number.
    pub(crate) fn counts_numbers(&self, id: u32) -> bool {
        self.coverage.is_numbered(id) && !self.extract
    }

    /// Whether an input has all of a host's serial numbers, as far as it is read.
    pub(crate) fn has_all_serials(&self, id: u32, host: &Arc<str>) -> bool {
        self.coverage.is_numbered(id) && self.numbers.get(host).is_some_and(SerialNumbers::is_complete)
    }

    /// The serial numbers of a host below `serial` that no input has, and that were not reported
    /// before.
    pub(crate) fn missing_before(&mut self, host: &Arc<str>, serial: u32) -> Option<MissingSerials> {
        let missing = self.numbers.get_mut(host)?.missing_before(serial).filter(|_| !self.extract)?;
        self.coverage.add_gap(host, missing.since, missing.until);
        Some(missing)
    }

    /// The remaining serial numbers of each host that no input has.
    pub(crate) fn missing_rest(&mut self) -> Vec<(Arc<str>, MissingSerials)> {
        let rest =
            self.numbers.iter_mut().filter_map(|(host, of)| Some((Arc::clone(host), of.take_remaining()?)));
        let mut rest: Vec<_> = rest.filter(|_| !self.extract).collect();
        rest.sort_by(|(a, one), (b, other)| (one.until, a).cmp(&(other.until, b)));
        for (host, missing) in &rest {
            self.coverage.add_gap(host, missing.since, missing.until);
        }
        rest
    }

    /// Path of the last input with entries of a host, or `?`.
    pub(crate) fn source_of(&self, host: &Arc<str>) -> Arc<str> {
        let covers = |file: &&InputFile| file.hosts.iter().any(|span| span.host == *host);
        self.input
            .files
            .iter()
            .rfind(covers)
            .map_or_else(|| Arc::from(UNKNOWN), |file| Arc::clone(&file.path))
    }

    /// Whether another raw audit log covers a host from `since` to `until`.
    pub(crate) fn is_covered_elsewhere(
        &self,
        id: u32,
        host: &Arc<str>,
        since: Timestamp,
        until: Timestamp,
    ) -> bool {
        self.coverage.is_covered_elsewhere(&self.input.files, id, host, since, until)
    }

    /// Notes that a log whose unnamed lines are of host `own` also has lines of `other`.
    pub(crate) fn note_other_host(&mut self, own: &Arc<str>, other: &Arc<str>) {
        if !self.other_hosts.contains_key(own) && self.observed_names.is_observed(own) {
            self.other_hosts.insert(Arc::clone(own), Arc::clone(other));
        }
    }

    /// Adds a note for each input whose lines name no host, or an error if they were assigned to
    /// one of several.
    fn check_unnamed(&mut self) {
        for (source, own) in std::mem::take(&mut self.unnamed) {
            if let Some(other) = self.other_hosts.get(&own) {
                let (one, other) = (own.to_string(), other.to_string());
                let refused = SourceError::SeveralNames { name: source.to_string(), one, other };
                self.refused.get_or_insert(refused);
            } else if self.assumed_host.is_none()
                && !self.interned_hosts.is_empty()
                && !self.observed_names.is_observed(&own)
            {
                self.note(&source, NoteKind::HostUnknown);
            }
        }
    }

    /// Adds a note for each input in which lost records show neither by its serial numbers nor by
    /// those of another input.
    fn note_unnumbered(&mut self) {
        for id in std::mem::take(&mut self.unnumbered) {
            let Some(file) = self.input.files.get(id as usize) else { continue };
            // Two inputs may have slightly different times for one event.
            let shows = |span: &HostSpan| {
                let (from, until) = (span.from + DUPLICATE_SKEW, span.until - DUPLICATE_SKEW);
                self.is_covered_elsewhere(id, &span.host, from.min(until), from.max(until))
            };
            if !file.hosts.iter().all(shows) {
                self.note(&Arc::clone(&file.path), NoteKind::Unnumbered);
            }
        }
    }

    /// Adds a note for each input that lacks serial numbers, probably because its records were
    /// selected.
    fn note_selected(&mut self) {
        for id in std::mem::take(&mut self.selected) {
            let Some(file) = self.input.files.get(id as usize) else { continue };
            if file.hosts.iter().any(|span| self.coverage.has_gaps(&span.host)) {
                self.note(&Arc::clone(&file.path), NoteKind::GuestRecordsOnly);
            }
        }
    }

    pub(crate) fn note(&mut self, source: &Arc<str>, kind: NoteKind) {
        let same = |note: &Note| {
            note.source == *source && std::mem::discriminant(&note.kind) == std::mem::discriminant(&kind)
        };
        if !self.notes.iter().any(same) {
            self.notes.push(Note { source: Arc::clone(source), kind });
        }
    }

    /// Counts bytes read of an input, and reports the progress.
    pub(crate) fn report_progress(&mut self, id: u32, bytes: u64) {
        self.input.bytes += bytes;
        let file = usize::try_from(id).ok().and_then(|id| self.input.files.get(id));
        let (bytes, total, lines) = (self.input.bytes, self.total, self.input.lines);
        (self.progress)(Progress { bytes, total, lines, input: file.map_or("", |file| &file.path) });
    }

    /// The shared string of a host's name.
    pub(crate) fn intern_host(&mut self, name: &CompactString) -> Arc<str> {
        if let Some(known) = self.interned_hosts.get(name) {
            return Arc::clone(known);
        }
        let own = self.assumed_host.as_ref().filter(|own| is_same_host(name, own));
        let host = own.map_or_else(|| Arc::from(name.as_str()), Arc::clone);
        self.interned_hosts.insert(name.clone(), Arc::clone(&host));
        host
    }
}
