//! `taptrail guests`.

use std::process::ExitCode;

use taptrail_guest::Dirs;
use taptrail_report::{EventSink, Filter, RunSink};

use super::query::Query;
use super::trail_reader::{self, TrailReader, is_broken_pipe};
use super::{NOT_COVERED, coverage, hashes};
use crate::CommandResult;
use crate::cli::Guests;
use crate::output::{Failure, stdout, style};

pub(crate) fn guests(arguments: &Guests, dirs: &Dirs) -> CommandResult {
    if arguments.output.is_ecs() {
        return Err(Failure::input(anyhow::anyhow!(
            "`guests` has no --format ecs: jsonl has a line for each run or event; `trail` and `findings` have ecs"
        )));
    }
    let hashes = hashes(arguments.output.hash, arguments.output.has_input())?;
    let mut query = Query::new(arguments.output.utc);
    query.filter.guests.clone_from(&arguments.guest);
    query.filter.host.clone_from(&arguments.host);
    query.range(arguments.start.as_deref(), arguments.end.as_deref())?;
    query.at(arguments.at.as_deref())?;
    let filter_used = query.filter.clone();
    if arguments.all_events {
        return all_events(arguments, query.filter, dirs);
    }
    let format = arguments.output.format(style(arguments.output.utc));
    let mut sink = match RunSink::new(query.filter, format, stdout()) {
        Err(error) if is_broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
        sink => sink.map_err(trail_reader::unwritten)?,
    };
    let mut answer = match TrailReader::with_runs(&mut sink)
        .with_hashes(hashes)
        .read(&arguments.sources, &filter_used, dirs)?
        .complete(arguments.sources.stats)
    {
        Ok(answer) => answer,
        Err(code) => return Ok(code),
    };
    let found = sink.count().runs > 0;
    let unknown = coverage::note_unknown(&mut answer, &filter_used, (!found).then_some(0));
    match sink.finish(&answer.input()) {
        Err(error) if !is_broken_pipe(&error) => return Err(trail_reader::unwritten(error)),
        _ => {}
    }
    let done = answer.print_warnings(arguments.sources.stats);
    Ok(if unknown && !found && done == ExitCode::SUCCESS { NOT_COVERED.into() } else { done })
}

fn all_events(arguments: &Guests, filter: Filter, dirs: &Dirs) -> CommandResult {
    let filter_used = filter.clone();
    let format = arguments.output.format(style(arguments.output.utc));
    let mut sink = match EventSink::new(filter, format, stdout()) {
        Err(error) if is_broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
        sink => sink.map_err(trail_reader::unwritten)?,
    };
    let mut answer = match TrailReader::with_resources(&mut sink)
        .with_hashes(arguments.output.hash)
        .read(&arguments.sources, &filter_used, dirs)?
        .complete(arguments.sources.stats)
    {
        Ok(answer) => answer,
        Err(code) => return Ok(code),
    };
    let found = sink.count() > 0;
    // An event is a record: only the times without records are not known.
    let unknown = coverage::note_unknown(&mut answer, &filter_used, None);
    match sink.finish(&answer.input()) {
        Err(error) if !is_broken_pipe(&error) => return Err(trail_reader::unwritten(error)),
        _ => {}
    }
    let done = answer.print_warnings(arguments.sources.stats);
    Ok(if unknown && !found && done == ExitCode::SUCCESS { NOT_COVERED.into() } else { done })
}
