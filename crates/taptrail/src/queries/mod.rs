//! `taptrail summary`, `trail`, `who`, `explain`, `findings` and `report`: queries to a trail.

mod boot_time;
mod coverage;
mod query;
mod report;
mod summary;
mod time_range;
mod trail_reader;

use std::process::ExitCode;

use taptrail_guest::Dirs;
use taptrail_report::{Columns, Explainer, Filter, Presentation, Sink, View};

pub(crate) use self::query::{Query, moment};
pub(crate) use self::report::report;
pub(crate) use self::summary::summary;
use self::trail_reader::is_broken_pipe;
pub(crate) use self::trail_reader::{Answer, ReadSummary, TrailReader};
use crate::CommandResult;
use crate::cli::{Explain, Findings, Output, Sources, Trail, Who};
use crate::output::{Failure, print, stdout, style};

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

pub(crate) fn who(arguments: &Who, dirs: &Dirs) -> CommandResult {
    let mut query = Query::new(arguments.output.utc);
    query.target(&arguments.what);
    query.scope(&arguments.scope)?;
    query.filter.granted = true;
    sink(View::Trail, SESSIONS, query.filter, arguments.output, &arguments.sources, dirs)
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

/// Reads the input, and writes matching holdings and findings as they come.
fn sink(
    view: View,
    presentation: Presentation,
    filter: Filter,
    output: Output,
    sources: &Sources,
    dirs: &Dirs,
) -> CommandResult {
    let filter_used = filter.clone();
    let mut sink = match Sink::new(view, filter, output.format(style(output.utc)), stdout()) {
        Err(error) if is_broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
        sink => sink.map_err(trail_reader::unwritten)?.with_presentation(presentation),
    };
    let reader = TrailReader::new(&mut sink);
    let read = reader.read(sources, dirs)?;
    let answer = match read {
        Answer::Interrupted => return Ok(code(view, &sink, ExitCode::SUCCESS)),
        Answer::Complete(answer) if answer.is_none() => return Ok(answer.print_warnings(sources.stats)),
        Answer::Complete(answer) => answer,
    };
    let mut answer = answer;
    let count = sink.count();
    let none = view == View::Trail && count.holdings == 0;
    let unknown = coverage::note_unknown(&mut answer, &filter_used, none.then_some(count.maybe_matching));
    match sink.finish(answer.input()) {
        Err(error) if !is_broken_pipe(&error) => return Err(trail_reader::unwritten(error)),
        _ => {}
    }
    let done = answer.print_warnings(sources.stats);
    let found = sink.count().holdings + sink.count().findings > 0;
    Ok(code(
        view,
        &sink,
        if unknown && !found && done == ExitCode::SUCCESS { NOT_COVERED.into() } else { done },
    ))
}

/// The exit code of the command; `done` is that of reading the input.
fn code<W: std::io::Write>(view: View, sink: &Sink<W>, done: ExitCode) -> ExitCode {
    if matches!(view, View::Findings | View::EachFinding)
        && done == ExitCode::SUCCESS
        && sink.count().findings > 0
    {
        return ExitCode::from(FINDINGS_REPORTED);
    }
    done
}

pub(crate) fn explain(arguments: &Explain, dirs: &Dirs) -> CommandResult {
    let mut query = Query::new(arguments.utc);
    query.scope(&arguments.scope)?;
    let filter = arguments.what.clone().narrow(query.filter);
    let filter_used = filter.clone();
    let mut explainer = Explainer::new(filter);
    let answer = match TrailReader::new(&mut explainer).read(&arguments.sources, dirs)? {
        // `Explainer` writes nothing while it reads, so this does not happen.
        Answer::Interrupted => return Ok(ExitCode::SUCCESS),
        Answer::Complete(answer) if answer.is_none() => {
            return Ok(answer.print_warnings(arguments.sources.stats));
        }
        Answer::Complete(answer) => answer,
    };
    let mut answer = answer;
    let unknown = coverage::note_unknown(&mut answer, &filter_used, explainer.is_empty().then_some(0));
    let explanation = explainer.finish(answer.input());
    let lines = crate::reading::fetch_lines(
        explanation.proofs(),
        answer.identities(),
        crate::reading::MAX_EXPLAINED_LINES,
    );
    let line = |proof: &taptrail_trail::Proof| lines.get(proof);
    let style = style(arguments.utc);
    print(&if arguments.output.is_json() {
        explanation.json(&style, &line)?
    } else {
        explanation.text(&style, &line)
    })?;
    let done = answer.print_warnings(arguments.sources.stats);
    let nothing = explanation.is_empty() && done == ExitCode::SUCCESS;
    Ok(if unknown && nothing { NOT_COVERED.into() } else { done })
}
