//! All inputs, told in one order.

use std::collections::HashMap;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::Arc;

use compact_str::CompactString;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use taptrail_trail::{Entry, HostSpan, InputFile, Unreadable};

use crate::covered::Covered;
use crate::found::Clock;
use crate::hosts::{Hosts, OwnNames, UNKNOWN, is_same};
use crate::identity::{Identity, Other};
use crate::merge::Merge;
use crate::numbers::{Missing, Numbers};
use crate::runs::Run;
use crate::sequence::{At, Sequence};
use crate::window::APART;
use crate::{About, FileIdentity, Input, Note, Outcome, SourceError};

/// How to read.
pub struct Options<'a> {
    /// The hosts of lines that name none.
    pub hosts: Hosts,
    /// The zone of times that name none.
    pub zone: TimeZone,
    /// The time that no line is after: what has no year is of the last one that fits.
    pub now: Timestamp,
    /// How many threads read a log.
    pub threads: NonZero<usize>,
    /// Whether inputs were selected by the type of their records: then a serial number that is not there is
    /// that of another record, and not of one that is lost.
    pub extract: bool,
    /// Told now and then how many bytes were read of how many there are (0 where that is not known).
    pub progress: Box<dyn FnMut(u64, u64) + 'a>,
}

impl Default for Options<'_> {
    /// A host unknown (`?`), this system's zone, clock and cores, and no progress reported.
    fn default() -> Self {
        Self {
            hosts: Hosts::default(),
            zone: TimeZone::system(),
            now: Timestamp::now(),
            threads: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
            extract: false,
            progress: Box::new(|_, _| {}),
        }
    }
}

/// The state of reading.
pub(crate) struct Reading<'a> {
    pub(crate) input: taptrail_trail::Input,
    unreadable: Vec<Unreadable>,
    notes: Vec<Note>,
    pub(crate) file_identities: HashMap<Arc<str>, FileIdentity>,
    pub(crate) failed: Vec<SourceError>,
    pub(crate) refused: Option<SourceError>,
    names: HashMap<CompactString, Arc<str>>,
    pub(crate) own_names: OwnNames,
    /// Of a host that is called by what other lines name: another that they name.
    beside: HashMap<Arc<str>, Arc<str>>,
    /// The inputs with lines that name no host, and the host whose they are taken for.
    pub(crate) unnamed: Vec<(Arc<str>, Arc<str>)>,
    /// The inputs with records that are not an audit log's own lines.
    pub(crate) unnumbered: Vec<u32>,
    /// The inputs that are audit logs of guests' records alone.
    pub(crate) selected: Vec<u32>,
    /// The one name that is given for lines without a host's.
    own: Option<Arc<str>>,
    pub(crate) covered: Covered,
    /// Where each input has each host's span of time.
    spans: HashMap<(u32, Arc<str>), usize>,
    numbers: HashMap<Arc<str>, Numbers>,
    sequences: HashMap<Arc<str>, Sequence>,
    identities: HashMap<Arc<str>, Identity>,
    extract: bool,
    pub(crate) total: u64,
    progress: Box<dyn FnMut(u64, u64) + 'a>,
}

impl Reading<'_> {
    /// The next input has this name.
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
        if self.unreadable.len() < Outcome::KEPT {
            self.unreadable.push(line);
        }
    }

    /// So many lines of an input look like records and were not read.
    pub(crate) fn unread(&mut self, id: u32, lines: u64) {
        self.input.unread += lines;
        if let Some(file) = self.file(id) {
            file.unread += lines;
        }
    }

    /// A line of an input tells something, and only says who wrote it.
    pub(crate) fn claimed(&mut self, id: u32) {
        let Some(file) = self.file(id) else { return };
        file.unauthenticated += 1;
        if file.unauthenticated == 1 {
            let source = Arc::clone(&file.path);
            self.note(&source, About::Claimed);
        }
    }

    pub(crate) fn count_lines(&mut self, id: u32, lines: u64) {
        self.input.lines += lines;
        if let Some(file) = self.file(id) {
            file.lines += lines;
        }
    }

    /// An input tells of a host from `from` to `until`, by so many records.
    pub(crate) fn cover(
        &mut self,
        id: u32,
        host: &Arc<str>,
        from: Timestamp,
        until: Timestamp,
        records: u64,
    ) {
        let newest = self.input.files.get(id as usize).and_then(|file| file.hosts.len().checked_sub(1));
        // Most inputs tell of one host, and need no look at the others.
        let is_newest = |at: &usize| self.input.files[id as usize].hosts[*at].host == *host;
        let at = newest.filter(is_newest).or_else(|| self.spans.get(&(id, Arc::clone(host))).copied());
        let Some(file) = self.file(id) else { return };
        match at.and_then(|at| file.hosts.get_mut(at)) {
            Some(span) => {
                span.from = span.from.min(from);
                span.until = span.until.max(until);
                span.records += records;
            }
            None => {
                file.hosts.push(HostSpan { host: Arc::clone(host), from, until, records });
                let at = file.hosts.len() - 1;
                self.spans.insert((id, Arc::clone(host)), at);
            }
        }
    }

    /// Until when an input tells of a host.
    pub(crate) fn until(&self, id: u32, host: &Arc<str>) -> Option<Timestamp> {
        let at = *self.spans.get(&(id, Arc::clone(host)))?;
        Some(self.input.files.get(id as usize)?.hosts.get(at)?.until)
    }

    /// An input has these serial numbers of a host.
    pub(crate) fn numbers(&mut self, id: u32, host: &Arc<str>, run: &Run) {
        self.covered.numbered(id);
        match self.numbers.get_mut(host) {
            Some(numbers) => numbers.take(run),
            None => self.numbers.entry(Arc::clone(host)).or_default().take(run),
        }
    }

    /// The next numbers of a host that an input has; with them it may show that they are of two hosts. `others`: it
    /// has lines of others than guests, too.
    pub(crate) fn sequence(&mut self, host: &Arc<str>, run: &Run, at: At, others: bool) {
        let second = at.clone();
        let is_whole = others && !self.extract;
        let earlier = self.sequence_of(host).take(run, at, is_whole);
        if let Some(earlier) = earlier {
            self.refuse(host, &earlier, &second, "their serial numbers contradict each other");
        }
    }

    /// A host starts anew, as an input tells.
    pub(crate) fn boots(&mut self, host: &Arc<str>, input: u32) {
        self.sequence_of(host).boots(input);
    }

    fn sequence_of(&mut self, host: &Arc<str>) -> &mut Sequence {
        self.sequences.entry(Arc::clone(host)).or_default()
    }

    /// A line of a host tells its machine id and its boot, which may show that there are two.
    pub(crate) fn identity(
        &mut self,
        host: &Arc<str>,
        machine: Option<u128>,
        boot: Option<u128>,
        time: Timestamp,
        at: &At,
    ) {
        let identity = self.identities.entry(Arc::clone(host)).or_default();
        match identity.take(machine, boot, time, at) {
            Some(Other::Machine(earlier)) => self.refuse(host, &earlier, at, "their machine ids differ"),
            Some(Other::Boot(earlier)) => {
                self.refuse(host, &earlier, at, "they are of two boots at one time")
            }
            None => {}
        }
    }

    /// Directories are taken for hosts: names those whose numbers go on in another's.
    fn note_directories(&mut self) {
        let unnamed = || self.sequences.iter().filter(|(host, _)| !self.names.contains_key(&***host));
        let begins: HashMap<u32, &Sequence> =
            unnamed().filter_map(|(_, of)| Some((of.first()?, of))).collect();
        let on = |(_, of): (_, &Sequence)| of.goes_on_in(begins.get(&of.next()?)?);
        let mut sources: Vec<Arc<str>> = unnamed().filter_map(on).collect();
        sources.sort_unstable();
        for source in sources {
            self.note(&source, About::GoesOn);
        }
    }

    fn refuse(&mut self, host: &Arc<str>, first: &At, second: &At, why: &'static str) {
        let (host, first, second) = (host.to_string(), first.to_string(), second.to_string());
        self.refused.get_or_insert(SourceError::TwoHosts { host, first, second, why });
    }

    /// A record that is no log's has this serial number: no log needs to have it.
    pub(crate) fn has(&mut self, entry: &Entry) {
        if let Some(serial) = entry.serial {
            let numbers = self.numbers.entry(Arc::clone(&entry.host)).or_default();
            numbers.take_elsewhere(serial, entry.time.as_millisecond());
        }
    }

    /// Whether a record of an input that is not read shows by its number.
    pub(crate) fn counts_numbers(&self, id: u32) -> bool {
        self.covered.is_numbered(id) && !self.extract
    }

    /// Whether an input has all of a host's serial numbers, as far as is read.
    pub(crate) fn is_whole(&self, id: u32, host: &Arc<str>) -> bool {
        self.covered.is_numbered(id) && self.numbers.get(host).is_some_and(Numbers::is_whole)
    }

    /// What all inputs together lack of a host before this serial number.
    pub(crate) fn missing_before(&mut self, host: &Arc<str>, serial: u32) -> Option<Missing> {
        let missing = self.numbers.get_mut(host)?.missing_before(serial).filter(|_| !self.extract)?;
        self.covered.gap(host, missing.since, missing.until);
        Some(missing)
    }

    /// What all inputs together lack of each host behind its last record.
    pub(crate) fn missing_rest(&mut self) -> Vec<(Arc<str>, Missing)> {
        let rest = self.numbers.iter_mut().filter_map(|(host, of)| Some((Arc::clone(host), of.rest()?)));
        let mut rest: Vec<_> = rest.filter(|_| !self.extract).collect();
        rest.sort_by(|(a, one), (b, other)| (one.until, a).cmp(&(other.until, b)));
        for (host, missing) in &rest {
            self.covered.gap(host, missing.since, missing.until);
        }
        rest
    }

    /// The input that tells of a host.
    pub(crate) fn source_of(&self, host: &Arc<str>) -> Arc<str> {
        let tells = |file: &&InputFile| file.hosts.iter().any(|span| span.host == *host);
        self.input.files.iter().rfind(tells).map_or_else(|| Arc::from(UNKNOWN), |file| Arc::clone(&file.path))
    }

    /// Whether another audit log tells of a host from `since` to `until`.
    pub(crate) fn is_covered_elsewhere(
        &self,
        id: u32,
        host: &Arc<str>,
        since: Timestamp,
        until: Timestamp,
    ) -> bool {
        self.covered.is_covered_elsewhere(&self.input.files, id, host, since, until)
    }

    /// A log whose lines that name no host are `own`'s has lines of another.
    pub(crate) fn beside(&mut self, own: &Arc<str>, other: &Arc<str>) {
        if !self.beside.contains_key(own) && self.own_names.has(own) {
            self.beside.insert(Arc::clone(own), Arc::clone(other));
        }
    }

    /// Names the inputs whose lines name no host; there is no answer where they were taken for one of several.
    fn judge_unnamed(&mut self) {
        for (source, own) in std::mem::take(&mut self.unnamed) {
            if let Some(other) = self.beside.get(&own) {
                let (one, other) = (own.to_string(), other.to_string());
                let refused = SourceError::SeveralNames { name: source.to_string(), one, other };
                self.refused.get_or_insert(refused);
            } else if self.own.is_none() && !self.names.is_empty() && !self.own_names.has(&own) {
                self.note(&source, About::HostUnknown);
            }
        }
    }

    /// Names the inputs of which a lost record shows neither in their numbers nor in another input's.
    fn note_unnumbered(&mut self) {
        for id in std::mem::take(&mut self.unnumbered) {
            let Some(file) = self.input.files.get(id as usize) else { continue };
            // What is told twice has times that differ by a little.
            let shows = |span: &HostSpan| {
                let (from, until) = (span.from + APART, span.until - APART);
                self.is_covered_elsewhere(id, &span.host, from.min(until), from.max(until))
            };
            if !file.hosts.iter().all(shows) {
                self.note(&Arc::clone(&file.path), About::Unnumbered);
            }
        }
    }

    /// Names the inputs that lack serial numbers because somebody selected their records, as it seems.
    fn note_selected(&mut self) {
        for id in std::mem::take(&mut self.selected) {
            let Some(file) = self.input.files.get(id as usize) else { continue };
            if file.hosts.iter().any(|span| self.covered.has_gaps(&span.host)) {
                self.note(&Arc::clone(&file.path), About::Selected);
            }
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
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let own = self.own.as_ref().filter(|own| is_same(name, own));
        let host = own.map_or_else(|| Arc::from(name.as_str()), Arc::clone);
        self.names.insert(name.clone(), Arc::clone(&host));
        host
    }
}

/// Takes entries, one at a time, until it breaks off.
pub type Take<'a> = dyn FnMut(&Entry) -> ControlFlow<()> + 'a;

/// Reads all inputs and gives each event once to `take`, in the order of their times; of one input in
/// the order of its lines, as far as those are in order.
///
/// An input that can't be read is named in the outcome, and the others are told. Where the records of two
/// hosts can't be told apart, reading ends, and the outcome says so: what was given to `take` is no answer.
pub fn read(inputs: Vec<Input>, options: Options<'_>, take: &mut Take<'_>) -> Outcome {
    let mut reading = Reading {
        input: taptrail_trail::Input::default(),
        unreadable: Vec::new(),
        notes: Vec::new(),
        file_identities: HashMap::new(),
        failed: Vec::new(),
        refused: None,
        names: HashMap::new(),
        own_names: OwnNames::default(),
        beside: HashMap::new(),
        unnamed: Vec::new(),
        unnumbered: Vec::new(),
        selected: Vec::new(),
        own: options.hosts.all().cloned(),
        covered: Covered::default(),
        spans: HashMap::new(),
        numbers: HashMap::new(),
        sequences: HashMap::new(),
        identities: HashMap::new(),
        extract: options.extract,
        total: 0,
        progress: options.progress,
    };
    let are_directories = options.hosts.are_directories();
    let clock = Clock::new(options.zone, options.now);
    let mut merge = Merge::new(inputs, &options.hosts, options.threads, &clock, &mut reading);
    // Whoever breaks off knows why.
    let _ = merge.run(&mut reading, take);
    reading.judge_unnamed();
    if are_directories {
        reading.note_directories();
    }
    reading.note_unnumbered();
    reading.note_selected();
    reading.input.coverage = reading.covered.of(&reading.input.files);
    Outcome {
        input: reading.input,
        unreadable: reading.unreadable,
        notes: reading.notes,
        identities: reading.file_identities,
        failed: reading.failed,
        refused: reading.refused,
    }
}
