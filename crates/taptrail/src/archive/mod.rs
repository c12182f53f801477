//! `taptrail archive`: adds what logs and ledgers have to a lake.

mod checkpoint;
mod coverage;

use std::io;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use taptrail_guest::Dirs;
use taptrail_lake::{Archived, BatchWriter, LakeError, SentDays, Store};
use taptrail_report::TrailConsumer;
use taptrail_trail::{Entry, Finding, GuestRun, Holding, Input};

use self::checkpoint::Checkpoint;
use self::coverage::coverage_rows;
use crate::CommandResult;
use crate::cli::Archive;
use crate::output::{Failure, print, print_json};
use crate::queries::{Answer, ReadSummary, TrailReader};
use crate::reading::InputFingerprint;

pub(crate) fn archive(arguments: &Archive, dirs: &Dirs) -> CommandResult {
    let Archive { sources, to, output, .. } = arguments;
    let store = Store::open(to).map_err(Failure::input)?;
    let checkpoint = match &arguments.checkpoint {
        Some(path) => Some(Checkpoint::load(path, &store)?),
        None => None,
    };
    // Before it is read: what is written meanwhile is new.
    let fingerprint = InputFingerprint::of_files(sources, dirs);
    if let Some(checkpoint) = &checkpoint
        && checkpoint.has_all_of(fingerprint.as_ref())
    {
        return show(&Summary::unchanged(), to, output.is_json());
    }
    let mut collector = Collector { batch: BatchWriter::new()?, failed: None };
    let read = TrailReader::for_archive(&mut collector).read_logs(sources, dirs);
    let Collector { batch, failed } = collector;
    if let Some(failed) = failed {
        return Err(failed.into());
    }
    let answer = match read? {
        Answer::Interrupted => return Ok(ExitCode::SUCCESS),
        Answer::Complete(answer) if answer.is_none() => return Ok(answer.print_warnings(sources.stats)),
        Answer::Complete(answer) => answer,
    };
    let input = input(&answer);
    let coverage = coverage_rows(&input, answer.serials());
    let mut sent = checkpoint.as_ref().map_or_else(SentDays::unknown, Checkpoint::sent);
    let archived = batch
        .finish_after(&store, &input, coverage, &mut sent)
        .with_context(|| format!("The input can't be added to the lake {to}"))?;
    if let Some(checkpoint) = checkpoint {
        let batch = archived.as_ref().map(|archived| archived.batch.clone());
        // What could not be read is tried again.
        let fingerprint = fingerprint.filter(|_| !answer.has_failed());
        checkpoint.save(batch, fingerprint, sent)?;
    }
    let code = answer.print_warnings(sources.stats);
    show(&Summary::of(&input, archived), to, output.is_json())?;
    Ok(code)
}

/// What was read, with what could not be read: later answers from the lake say so, too.
fn input(answer: &ReadSummary) -> Input {
    let mut input = answer.input();
    input.notes.extend(answer.failures());
    input
}

/// Passes a reading on to a batch.
struct Collector {
    batch: BatchWriter,
    failed: Option<LakeError>,
}

impl Collector {
    fn keep(&mut self, done: Result<(), LakeError>) -> io::Result<()> {
        done.map_err(|error| {
            self.failed = Some(error);
            // Reading ends.
            io::ErrorKind::BrokenPipe.into()
        })
    }
}

impl TrailConsumer for Collector {
    fn holding(&mut self, holding: Holding) -> io::Result<()> {
        let done = self.batch.holding(holding);
        self.keep(done)
    }

    fn finding(&mut self, finding: Finding) -> io::Result<()> {
        let done = self.batch.finding(&finding);
        self.keep(done)
    }

    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        let done = self.batch.entry(entry);
        self.keep(done)
    }

    fn run(&mut self, run: GuestRun) -> io::Result<()> {
        let done = self.batch.run(run);
        self.keep(done)
    }
}

/// What was added, as JSON.
#[derive(Debug, Serialize)]
struct Summary {
    /// Whether the input is as it was at the last run: it was not read.
    unchanged: bool,
    lines: u64,
    records: u64,
    unreadable: u64,
    unread: u64,
    batch: Option<Archived>,
}

impl Summary {
    fn unchanged() -> Self {
        Self { unchanged: true, lines: 0, records: 0, unreadable: 0, unread: 0, batch: None }
    }

    fn of(input: &Input, batch: Option<Archived>) -> Self {
        let Input { lines, records, unreadable, unread, .. } = *input;
        Self { unchanged: false, lines, records, unreadable, unread, batch }
    }

    fn text(&self, to: &str) -> String {
        let Self { lines, records, .. } = self;
        match &self.batch {
            _ if self.unchanged => format!("Nothing has changed since the last batch for {to}\n"),
            None if *lines == 0 => "There is nothing to archive\n".to_owned(),
            None => format!("{lines} lines read; {to} has all of it\n"),
            Some(batch) if batch.existed => {
                format!("{lines} lines read; {to} has all of it, as batch {}\n", batch.batch)
            }
            Some(Archived { batch, hosts, days, rows, objects, objects_written, bytes, .. }) => format!(
                "{lines} lines read, {records} records; batch {batch} added to {to}\n\
                 hosts {hosts}, days {days}, rows {rows}, objects {objects} ({objects_written} new), {bytes} bytes\n"
            ),
        }
    }
}

fn show(summary: &Summary, to: &str, json: bool) -> CommandResult {
    if json { print_json(summary) } else { print(&summary.text(to)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[test]
    fn a_summary_is_as_its_schema_says() {
        let archived = Archived {
            batch: taptrail_lake::BatchId::of(["x"].into_iter()),
            existed: false,
            hosts: 1,
            days: 2,
            objects: 8,
            objects_written: 7,
            bytes: 4096,
            rows: 31,
        };
        let summary = Summary::of(&Input::default(), Some(archived));
        assert!(summary.text("file:///srv/lake").contains("objects 8 (7 new)"));
        for summary in [summary, Summary::unchanged()] {
            let summary = serde_json::to_value(summary).unwrap();
            contract::assert_valid("archive", &summary);
            for (place, changed) in contract::mutations(&summary) {
                assert!(!contract::faults("archive", &changed).is_empty(), "{place}");
            }
        }
    }
}
