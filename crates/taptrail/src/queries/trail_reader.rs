//! Derives holdings and findings from entries as they come.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write as _};
use std::mem::{Discriminant, discriminant};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use taptrail_guest::Dirs;
use taptrail_lake::LakeReader;
use taptrail_report::{Filter, Stats, TrailConsumer, escape_text, warnings};
use taptrail_source::{FileIdentity, Note, NoteKind, ReadOutcome, SerialRange, SourceError};
use taptrail_trail::{Content, Coverage, Entry, Input, Proof, Trail, Unreadable, is_same_host};

use super::lake::{self, Part};
use crate::cli::{Inputs, Sources};
use crate::output::Failure;
use crate::reading::{self, InputStamps, Read, SourceLines, Wanted};

/// Reads a trail and passes on its holdings and findings at once, so that memory does not grow with
/// the input.
pub(crate) struct TrailReader<'a, T: TrailConsumer> {
    trail: Trail,
    to: &'a mut T,
    wanted: Wanted,
    covers_now: bool,
    runs: bool,
    hashes: bool,
    entries: u64,
    foreign: u64,
}

/// The result of reading.
pub(crate) enum Answer {
    /// The input was read to its end.
    Complete(Box<ReadSummary>),
    /// The reader of our output has closed the pipe.
    Interrupted,
}

impl Answer {
    /// The summary of what was read; or, if there is no answer to print, the exit code, with the
    /// reasons printed.
    pub(super) fn complete(self, stats: bool) -> Result<Box<ReadSummary>, ExitCode> {
        match self {
            Self::Interrupted => Err(ExitCode::SUCCESS),
            Self::Complete(summary) if summary.is_none() => Err(summary.print_warnings(stats)),
            Self::Complete(summary) => Ok(summary),
        }
    }
}

/// A summary of what was read, and what could not be read.
pub(crate) struct ReadSummary {
    pub(super) stats: Stats,
    unreadable: Vec<Unreadable>,
    notes: Vec<String>,
    identities: HashMap<Arc<str>, FileIdentity>,
    serials: Vec<SerialRange>,
    failed: Vec<SourceError>,
    refused: Option<SourceError>,
    /// The hosts from whose ledgers guests that had ended were deleted, and up to when.
    pruned: Vec<(Arc<str>, Timestamp)>,
    /// The lake, if it was one that was read.
    lake: Option<LakeReader>,
}

impl<'a, T: TrailConsumer> TrailReader<'a, T> {
    pub(crate) fn new(to: &'a mut T) -> Self {
        Self {
            trail: Trail::new(),
            to,
            wanted: Wanted::default(),
            covers_now: true,
            runs: false,
            hashes: false,
            entries: 0,
            foreign: 0,
        }
    }

    /// Also passes on the runs of guests.
    pub(super) fn with_runs(to: &'a mut T) -> Self {
        Self { trail: Trail::with_runs(), runs: true, ..Self::new(to) }
    }

    /// Also reads the records of other resources than network devices.
    pub(super) fn with_resources(to: &'a mut T) -> Self {
        Self { wanted: Wanted { resources: true, ..Wanted::default() }, ..Self::new(to) }
    }

    /// Also passes on the runs of guests, and entries with the lines that they were read from.
    /// Nothing depends on the time of reading: this host's logs end with their last record, as those
    /// of any other host.
    pub(crate) fn for_archive(to: &'a mut T) -> Self {
        Self { wanted: Wanted { text: true, ..Wanted::default() }, covers_now: false, ..Self::with_runs(to) }
    }

    /// Also hashes the files of the input, if `hashes`.
    pub(super) fn with_hashes(self, hashes: bool) -> Self {
        Self { hashes, ..self }
    }

    /// Reads the input: of logs all, of a lake what the filter may select.
    pub(super) fn read(self, inputs: &Inputs, filter: &Filter, dirs: &Dirs) -> Result<Answer, Failure> {
        let Some(url) = &inputs.lake else { return self.read_logs(inputs, dirs) };
        if self.hashes {
            return Err(Failure::input(anyhow::anyhow!(
                "--hash hashes files, and a lake's manifests have the hashes of its objects: \
                 `taptrail lake check` compares them"
            )));
        }
        if self.wanted.resources {
            return Err(Failure::input(anyhow::anyhow!(
                "--all-events: a lake has no records of other resources than network devices: give the logs"
            )));
        }
        let begun = Instant::now();
        let part = if self.runs { Part::Runs } else { Part::Trail };
        let Some((lake, notes)) = lake::read(url, filter, part, self.to)? else {
            return Ok(Answer::Interrupted);
        };
        let input = lake::input(&lake);
        let stats = Stats { entries: input.lines, foreign: 0, elapsed: begun.elapsed(), input };
        let mut summary = ReadSummary::of(ReadOutcome::default(), stats);
        summary.notes = notes;
        summary.lake = Some(lake);
        Ok(Answer::Complete(Box::new(summary)))
    }

    /// Reads logs and ledgers.
    pub(crate) fn read_logs(mut self, sources: &Sources, dirs: &Dirs) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let stamps = self.hashes.then(|| InputStamps::of(sources, dirs));
        let mut unwritten = None;
        let Read { outcome: read, ledgers } =
            reading::entries(sources, dirs, self.wanted, &mut |entry| match self.feed(entry) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    unwritten = Some(error);
                    ControlFlow::Break(())
                }
            })?;
        if read.refused.is_some() {
            let (entries, foreign) = (self.entries, self.foreign);
            let stats = Stats { input: read.input.clone(), entries, foreign, elapsed: begun.elapsed() };
            return Ok(Answer::Complete(Box::new(ReadSummary::of(read, stats))));
        }
        for Coverage { host, spans, .. } in &read.input.coverage {
            let until = spans.iter().map(|span| span.until).max();
            self.trail.cover(host, until.unwrap_or(Timestamp::MIN));
        }
        if sources.files.is_empty() && self.covers_now {
            // This host's own logs cover the time until now, whatever their last record.
            self.trail.cover_all(Timestamp::now());
        }
        ledgers.iter().for_each(|ledger| self.trail.set_steps_in_progress(&ledger.steps));
        let done = unwritten.map_or(Ok(()), Err);
        match done.and_then(|()| self.finish()) {
            Err(error) if is_broken_pipe(&error) => return Ok(Answer::Interrupted),
            written => written.map_err(self::unwritten)?,
        }
        let (entries, foreign) = (self.entries, self.foreign);
        let mut stats = Stats { input: read.input.clone(), entries, foreign, elapsed: begun.elapsed() };
        if let Some(stamps) = stamps {
            for file in &mut stats.input.files {
                let identity = read.identities.get(&file.path).copied();
                file.hash = Some(stamps.stored_hash(Path::new(&*file.path), identity));
            }
        }
        let mut summary = ReadSummary::of(read, stats);
        let pruned = ledgers.iter().filter_map(|of| Some((Arc::clone(&of.steps.host), of.pruned_until?)));
        summary.pruned.extend(pruned);
        Ok(Answer::Complete(Box::new(summary)))
    }

    fn feed(&mut self, entry: &Entry) -> io::Result<()> {
        self.entries += 1;
        self.foreign += u64::from(matches!(entry.content, Content::Foreign { .. }));
        self.to.entry(entry)?;
        self.trail.feed(entry);
        self.drain()
    }

    fn drain(&mut self) -> io::Result<()> {
        self.trail.drain_ended().try_for_each(|holding| self.to.holding(holding))?;
        self.trail.drain_findings().try_for_each(|finding| self.to.finding(finding))?;
        self.trail.drain_bridge_taps().try_for_each(|tap| self.to.bridge_tap(tap))?;
        self.trail.drain_runs().try_for_each(|run| self.to.run(run))
    }

    fn finish(&mut self) -> io::Result<()> {
        let (rest, runs) = std::mem::take(&mut self.trail).finish_with_runs();
        rest.holdings.into_iter().try_for_each(|holding| self.to.holding(holding))?;
        rest.findings.into_iter().try_for_each(|finding| self.to.finding(finding))?;
        rest.bridge_taps.into_iter().try_for_each(|tap| self.to.bridge_tap(tap))?;
        runs.into_iter().try_for_each(|run| self.to.run(run))
    }
}

impl ReadSummary {
    pub(crate) fn of(read: ReadOutcome, stats: Stats) -> Self {
        let ReadOutcome { unreadable, notes, identities, serials, failed, refused, .. } = read;
        let notes = some_of_each(&notes);
        Self {
            stats,
            unreadable,
            notes,
            identities,
            serials,
            failed,
            refused,
            pruned: Vec::new(),
            lake: None,
        }
    }

    /// Adds notes for the reader of the answer.
    pub(super) fn note(&mut self, lines: impl IntoIterator<Item = String>) {
        self.notes.extend(lines);
    }

    /// The identity of each input's file.
    pub(crate) fn identities(&self) -> &HashMap<Arc<str>, FileIdentity> {
        &self.identities
    }

    /// Up to when guests of a host that had ended were deleted from a ledger of it.
    pub(super) fn pruned_until(&self, host: &str) -> Option<Timestamp> {
        self.pruned.iter().filter(|(of, _)| is_same_host(of, host)).map(|(_, until)| *until).max()
    }

    /// The lake, if it was one that was read.
    pub(super) fn lake(&self) -> Option<&LakeReader> {
        self.lake.as_ref()
    }

    /// Reads the lines of some proofs of these hosts again; `most` of them at most.
    pub(super) fn fetch_lines<'p>(
        &self,
        hosts: &BTreeSet<&str>,
        proofs: impl Iterator<Item = &'p Proof>,
        most: usize,
    ) -> Result<SourceLines, Failure> {
        match &self.lake {
            None => Ok(reading::fetch_lines(proofs, &self.identities, most)),
            Some(lake) => {
                let lines = lake.lines(hosts, proofs.take(most)).map_err(Failure::input)?;
                Ok(SourceLines::of_lake(lines))
            }
        }
    }

    /// The serial numbers of each host in each input.
    pub(crate) fn serials(&self) -> &[SerialRange] {
        &self.serials
    }

    /// The summary of the input, with all notes.
    pub(crate) fn input(&self) -> Input {
        Input { notes: self.notes.clone(), ..self.stats.input.clone() }
    }

    /// Whether an input could not be read at all.
    pub(crate) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// The inputs that could not be read, a sentence each.
    pub(crate) fn failures(&self) -> impl Iterator<Item = String> {
        self.failed.iter().map(|error| taptrail_guest::chain(error))
    }

    /// Whether to print no answer, as it would look like a valid one: nothing could be read, or the
    /// host of the records is not known.
    pub(crate) fn is_none(&self) -> bool {
        self.is_refused() || self.is_unread()
    }

    /// Why there is no answer, if there is none.
    pub(crate) fn failure(&self) -> Option<Failure> {
        if !self.is_none() {
            return None;
        }
        let mut reasons = self.failed.iter().chain(&self.refused).map(|error| taptrail_guest::chain(error));
        let reason = reasons.next().unwrap_or_else(|| "No line of the input can be read".to_owned());
        Some(Failure::input(anyhow::anyhow!(reason)))
    }

    /// Whether the host of the records is not known.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Whether nothing useful of the input was read.
    fn is_unread(&self) -> bool {
        let Input { lines, records, coverage, unread, unreadable, .. } = &self.stats.input;
        let none_of_records = *records == 0 && unread + unreadable > 0;
        none_of_records || (*lines == 0 && !self.failed.is_empty()) || (*lines > 0 && coverage.is_empty())
    }

    /// What could not be read, and notes about reading, a line each.
    pub(super) fn warnings(&self) -> String {
        let mut text = String::new();
        let line = |text: &mut String, error: &SourceError| {
            text.push_str(&escape_text(&taptrail_guest::chain(error)));
            text.push('\n');
        };
        self.failed.iter().for_each(|error| line(&mut text, error));
        text.push_str(&warnings(&self.unreadable, self.stats.input.unreadable, &self.notes));
        // Last, where it is seen: there is no answer.
        self.refused.iter().for_each(|error| line(&mut text, error));
        text
    }

    /// Prints on standard error what could not be read, and with `stats` how long reading took.
    /// Returns the exit code of reading.
    pub(crate) fn print_warnings(&self, stats: bool) -> ExitCode {
        let text = self.warnings();
        let text: String = text.lines().flat_map(|line| ["taptrail: ", line, "\n"]).collect();
        let stats = if stats { self.stats.text() } else { String::new() };
        // There is no other place to report an error of this.
        let _ = write!(io::stderr(), "{text}{stats}");
        if self.failed.is_empty() && !self.is_none() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(Failure::INPUT)
        }
    }
}

/// Notes of one kind that are shown: there may be thousands of inputs.
const MAX_NOTES_OF_A_KIND: usize = 8;

fn some_of_each(notes: &[Note]) -> Vec<String> {
    let mut counts: Vec<(Discriminant<NoteKind>, usize)> = Vec::new();
    let mut shown = Vec::new();
    for note in notes {
        let kind = discriminant(&note.kind);
        let at = counts.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            counts.push((kind, 0));
            counts.len() - 1
        });
        counts[at].1 += 1;
        if counts[at].1 <= MAX_NOTES_OF_A_KIND {
            shown.push(note.to_string());
        }
    }
    let more: usize = counts.iter().map(|(_, count)| count.saturating_sub(MAX_NOTES_OF_A_KIND)).sum();
    if more > 0 {
        let notes = if more == 1 { "note" } else { "notes" };
        shown.push(format!("{more} more {notes} like these, about other inputs"));
    }
    shown
}

/// Whether the reader has closed the pipe: it has read enough.
pub(crate) fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

pub(crate) fn unwritten(error: io::Error) -> Failure {
    anyhow::Error::new(error).context("Standard output can't be written").into()
}
