//! The runs of guests, one for each QEMU: as a table, JSON, JSON lines or CSV.

mod table;

use std::collections::BTreeSet;
use std::io::{self, Write};

use compact_str::CompactString;
use serde::Serialize;
use taptrail_trail::{Finding, FindingKind, GuestRun, Holding, Input, Proof, RecordedActor, RunState};

pub use self::table::run_table;
use crate::csv::Rows;
use crate::json::write_jsonl;
use crate::sink::{Format, TrailConsumer};
use crate::{Filter, Style};

/// Writes the runs that a filter selects, in a format.
///
/// JSONL and CSV are written as runs end, so that memory does not grow with the trail.
#[derive(Debug)]
pub struct RunSink<W: Write> {
    filter: Filter,
    count: RunCount,
    output: Output<W>,
    /// Runs that are not written yet.
    deferred: Vec<GuestRun>,
    /// For a table: the names of guests with a start that failed, which is no run.
    not_started: BTreeSet<CompactString>,
}

/// How many runs were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunCount {
    /// All of them.
    pub runs: u64,
    /// Those that have not ended.
    pub running: u64,
}

#[derive(Debug)]
enum Output<W: Write> {
    Table(W, Style),
    Json(W),
    Jsonl(W),
    Csv(Box<Rows<W>>),
}

/// A line of JSONL.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum JsonLine<'a> {
    Run(&'a GuestRun),
    Input(&'a Input),
}

/// The JSON of all runs.
#[derive(Debug, Serialize)]
struct Runs<'a> {
    runs: &'a [GuestRun],
    input: &'a Input,
}

/// The columns of runs, which docs/schema.md describes.
pub(crate) const RUN_COLUMNS: &[&str] = &[
    "host",
    "guest",
    "uuid",
    "started",
    "start_reason",
    "ended",
    "last_seen",
    "uncertain_since",
    "state",
    "ended_by",
    "end_reason",
    "crashed",
    "signal",
    "interfaces",
    "pid",
    "certainty",
    "started_by",
    "started_by_uid",
    "started_by_auid",
    "started_by_ses",
    "started_by_pid",
    "stopped_by",
    "stopped_by_uid",
    "stopped_by_auid",
    "stopped_by_ses",
    "stopped_by_pid",
    "proof",
    "unauthenticated_source",
];

impl<W: Write> RunSink<W> {
    /// A sink that writes to `out`. The header of CSV is written at once.
    ///
    /// # Errors
    ///
    /// Writing to the output fails, or the format is [`Format::Ecs`], which has none of these.
    pub fn new(filter: Filter, format: Format, out: W) -> io::Result<Self> {
        let output = match format {
            Format::Table(style) => Output::Table(out, Style { at: filter.at, ..style }),
            Format::Json => Output::Json(out),
            Format::Jsonl => Output::Jsonl(out),
            Format::Csv => Output::Csv(Box::new(Rows::new(out, RUN_COLUMNS)?)),
            Format::Ecs => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self {
            filter,
            count: RunCount::default(),
            output,
            deferred: Vec::new(),
            not_started: BTreeSet::new(),
        })
    }

    /// How many runs were written so far.
    pub fn count(&self) -> RunCount {
        self.count
    }

    /// Writes what was deferred, and the summary of the input.
    ///
    /// # Errors
    ///
    /// Writing to the output fails.
    pub fn finish(&mut self, input: &Input) -> io::Result<()> {
        self.deferred.sort_by_cached_key(|run| run.proof.first().map(Proof::order));
        let runs = &self.deferred[..];
        match &mut self.output {
            Output::Table(out, style) => {
                out.write_all(run_table(runs, &self.not_started, input, style).as_bytes())?;
                out.flush()
            }
            Output::Json(out) => {
                crate::json::write_pretty(&mut *out, &Runs { runs, input })?;
                out.write_all(b"\n")?;
                out.flush()
            }
            Output::Jsonl(out) => {
                write_jsonl(out, &JsonLine::Input(input))?;
                out.flush()
            }
            Output::Csv(rows) => rows.flush(),
        }
    }
}

impl<W: Write> TrailConsumer for RunSink<W> {
    fn holding(&mut self, _: Holding) -> io::Result<()> {
        Ok(())
    }

    fn finding(&mut self, finding: Finding) -> io::Result<()> {
        let is_start = matches!(finding.kind, FindingKind::StartFailed | FindingKind::FalseStart);
        if let (Output::Table(..), true, Some(guest)) = (&self.output, is_start, &finding.guest)
            && self.filter.matches_event(&finding.host, Some(guest), finding.time)
        {
            self.not_started.insert(guest.name.clone());
        }
        Ok(())
    }

    fn run(&mut self, run: GuestRun) -> io::Result<()> {
        if !self.filter.matches_run(&run) {
            return Ok(());
        }
        self.count.runs += 1;
        self.count.running += u64::from(run.state == RunState::Running);
        match &mut self.output {
            Output::Table(..) | Output::Json(_) => self.deferred.push(run),
            Output::Jsonl(out) => write_jsonl(out, &JsonLine::Run(&run))?,
            Output::Csv(rows) => csv_row(rows, &run)?,
        }
        Ok(())
    }
}

fn csv_row<W: Write>(row: &mut Rows<W>, run: &GuestRun) -> io::Result<()> {
    row.outside(&run.host)?;
    row.outside(&run.guest.name)?;
    row.value(Some(run.guest.uuid))?;
    row.time(run.started)?;
    row.word(run.start_reason.as_ref().map_or("", |reason| reason.as_str()))?;
    row.time(run.ended)?;
    row.time(run.last_seen)?;
    row.time(run.uncertain_since)?;
    row.word(run.state.as_str())?;
    row.word(run.ended_by.map_or("", |by| by.as_str()))?;
    row.word(run.end_reason.as_ref().map_or("", |reason| reason.as_str()))?;
    row.time(run.crash.map(|crash| crash.time))?;
    row.value(run.crash.map(|crash| crash.signal))?;
    row.value(Some(run.interfaces))?;
    row.value(run.pid)?;
    row.word(run.certainty.as_str())?;
    for actor in [run.started_by, run.stopped_by] {
        let set = |id: fn(RecordedActor) -> u32| actor.map(id).filter(|id| *id != RecordedActor::UNSET);
        row.word(actor.map_or("", |actor| actor.role.as_str()))?;
        row.value(actor.map(|actor| actor.uid))?;
        row.value(set(|actor| actor.auid))?;
        row.value(set(|actor| actor.ses))?;
        row.value(actor.and_then(|actor| actor.pid))?;
    }
    row.proof(&run.proof)?;
    row.source(&run.proof)?;
    row.end()
}
