//! `taptrail summary`, `trail`, `who`, `explain`, `findings` and `report`: queries to a trail.

mod boot_time;
mod coverage;
mod guests;
mod lake;
mod query;
mod report;
mod summary;
mod time_range;
mod trail_reader;
mod who;

use std::process::ExitCode;

use taptrail_guest::Dirs;
use taptrail_report::{Columns, Count, Filter, Presentation, Sink, View};

pub(crate) use self::coverage::{MAX_HOSTS_NAMED, more_hosts};
pub(crate) use self::guests::guests;
pub(crate) use self::query::{Query, moment};
pub(crate) use self::report::report;
pub(crate) use self::summary::summary;
pub(crate) use self::trail_reader::{Answer, ReadSummary, TrailReader};
pub(crate) use self::trail_reader::{is_broken_pipe, unwritten};
pub(crate) use self::who::{explain, who};
use crate::CommandResult;
use crate::cli::{Findings, Inputs, Output, Trail};
use crate::output::{Failure, paged_stdout, style};

/// The exit code of `findings` when there are findings.
const FINDINGS_REPORTED: u8 = 1;

/// The exit code when nothing is found, and the logs do not cover the time in question.
const NOT_COVERED: u8 = 4;

/// A row for each interface session.
const SESSIONS: Presentation = Presentation::Rows(Columns::Sessions);

pub(crate) fn trail(arguments: &Trail, dirs: &Dirs) -> CommandResult {
    let mut query = Query::new(arguments.output.utc);
    query.about(&arguments.selection);
    query.times(&arguments.times)?;
    query.at(arguments.at.as_deref())?;
    query.filter.held = arguments.held;
    let presentation = arguments.presentation();
    sink(View::Trail, presentation, query.filter, arguments.output, &arguments.sources, dirs)
}

pub(crate) fn findings(arguments: &Findings, dirs: &Dirs) -> CommandResult {
    let mut query = Query::new(arguments.output.utc);
    query.about(&arguments.selection);
    query.times(&arguments.times)?;
    query.filter.kinds = arguments.kind.clone();
    query.filter.severity = arguments.severity;
    let view = if arguments.each { View::EachFinding } else { View::Findings };
    let result = sink(view, SESSIONS, query.filter, arguments.output, &arguments.sources, dirs);
    // Exit code 1 would mean that there are findings.
    result.map_err(|failure| failure.with_code(Failure::INPUT))
}

/// Whether to hash the inputs: only JSON has their hashes.
fn hashes(hash: bool, has_input: bool) -> Result<bool, Failure> {
    if hash && !has_input {
        return Err(Failure::input(anyhow::anyhow!(
            "--hash adds hashes to the inputs in JSON, and this format has no inputs: add --format json"
        )));
    }
    Ok(hash)
}

/// Reads the input, and writes matching holdings and findings as they come.
fn sink(
    view: View,
    presentation: Presentation,
    filter: Filter,
    output: Output,
    sources: &Inputs,
    dirs: &Dirs,
) -> CommandResult {
    let hashes = hashes(output.hash, output.has_input())?;
    let filter_used = filter.clone();
    let out = paged_stdout(output.is_table());
    let mut sink = match Sink::new(view, filter, output.format(style(output.utc)), out) {
        Err(error) if is_broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
        sink => sink.map_err(unwritten)?.with_presentation(presentation),
    };
    let read = TrailReader::new(&mut sink).with_hashes(hashes).read(sources, &filter_used, dirs)?;
    let mut answer = match read {
        Answer::Interrupted => return Ok(code(view, sink.count(), ExitCode::SUCCESS)),
        Answer::Complete(answer) if answer.is_none() => return Ok(answer.print_warnings(sources.stats)),
        Answer::Complete(answer) => answer,
    };
    let count = sink.count();
    let none = view == View::Trail && count.holdings + count.bridge_taps == 0;
    let unknown = coverage::note_unknown(&mut answer, &filter_used, none.then_some(count.maybe_matching));
    coverage::note_left_out(&mut answer, &count);
    match sink.finish(answer.input()) {
        Err(error) if !is_broken_pipe(&error) => return Err(unwritten(error)),
        _ => {}
    }
    let count = sink.count();
    // The pager ends before warnings are printed.
    drop(sink);
    let done = answer.print_warnings(sources.stats);
    let found = count.holdings + count.findings + count.bridge_taps > 0;
    let not_covered = unknown && !found && done == ExitCode::SUCCESS;
    Ok(code(view, count, if not_covered { NOT_COVERED.into() } else { done }))
}

/// The exit code of the command; `done` is that of reading the input.
fn code(view: View, count: Count, done: ExitCode) -> ExitCode {
    let findings = matches!(view, View::Findings | View::EachFinding);
    if findings && done == ExitCode::SUCCESS && count.findings > 0 {
        return ExitCode::from(FINDINGS_REPORTED);
    }
    done
}
