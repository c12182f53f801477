//! `taptrail who` and `explain`: who held something when, and the records that prove it.

use std::path::Path;
use std::process::ExitCode;

use taptrail_guest::Dirs;
use taptrail_report::{
    CitedSources, Columns, Explainer, Explanation, Filter, Records, Sink, Style, Subject, View,
};
use taptrail_trail::Proof;

use super::query::Query;
use super::trail_reader::{self, TrailReader, is_broken_pipe};
use super::{NOT_COVERED, ReadSummary, coverage, hashes};
use crate::CommandResult;
use crate::cli::{Explain, Inputs, Output, Scope, Who};
use crate::output::{Failure, page, print, stdout, style};
use crate::reading::MAX_EXPLAINED_LINES;

/// The exit code when nothing is found, and the logs cover it: as grep's.
const NOTHING_FOUND: u8 = 1;

pub(crate) fn who(arguments: &Who, dirs: &Dirs) -> CommandResult {
    let Who { what, sources, scope, explain, columns, output } = arguments;
    hashes(output.hash, output.has_input())?;
    check_files(what, sources, output.utc)?;
    let mut filter = filter(what, scope, output.utc)?;
    filter.granted = true;
    as_grep(if output.is_table() {
        explained(filter, sources, dirs, output.utc, Form::Who { all: *explain, columns: columns.as_ref() })
    } else {
        written(filter, *output, sources, dirs)
    })
}

pub(crate) fn explain(arguments: &Explain, dirs: &Dirs) -> CommandResult {
    let Explain { what, sources, scope, raw, output, hash, utc } = arguments;
    check_files(what, sources, *utc)?;
    let filter = filter(what, scope, *utc)?;
    let hashes = hashes(*hash, output.is_json())?;
    let form = match (output.is_json(), raw) {
        (true, _) => Form::Json { hashes },
        (false, true) => Form::Explain(Records::Raw),
        (false, false) => Form::Explain(Records::Decoded),
    };
    as_grep(explained(filter, sources, dirs, *utc, form))
}

/// The form of an answer.
#[derive(Clone, Copy)]
enum Form<'a> {
    /// A row for each session; of a single one, or with `all` of each, a statement, unless columns
    /// are asked for.
    Who { all: bool, columns: Option<&'a Columns> },
    /// A statement about each session, and its records.
    Explain(Records),
    /// All of it, for programs; with the hashes of the inputs.
    Json { hashes: bool },
}

impl Form<'_> {
    /// Whether it cites the lines of records, which are read again for that.
    fn cites_lines(self, of: &Explanation) -> bool {
        match self {
            Self::Who { all, columns } => all || (columns.is_none() && of.sessions() == 1),
            Self::Explain(_) | Self::Json { .. } => true,
        }
    }

    fn print(self, of: &Explanation, style: &Style, evidence: CitedSources<'_>) -> CommandResult {
        match self {
            Self::Who { all, columns } => page(&of.who(style, evidence, all, columns)),
            Self::Explain(records) => page(&of.text(style, evidence, records)),
            Self::Json { .. } => print(&of.json(style, evidence.line)?),
        }
    }
}

/// An error that names the way out if the arguments' order, or a missing `--at`, makes something
/// else of a FILE that is none.
fn check_files(what: &Subject, sources: &Inputs, utc: bool) -> Result<(), Failure> {
    let Some(file) = sources.files.iter().find(|file| **file != *Path::new("-") && !file.exists()) else {
        return Ok(());
    };
    let text = file.display();
    if Query::new(utc).is_time(&text.to_string()) {
        let error = anyhow::anyhow!("'{text}' is a time, and no FILE: --at '{text}' asks for it");
        return Err(Failure::input(error));
    }
    if Path::new(what.text()).exists() && !what.text().starts_with("/dev/") {
        return Err(Failure::input(anyhow::anyhow!(
            "'{}' is a FILE, and '{text}' is none: the MAC, device or guest is the first argument, and FILEs follow it",
            what.text()
        )));
    }
    Ok(())
}

/// Exit code 1 would mean that nothing was found.
fn as_grep(result: CommandResult) -> CommandResult {
    result.map_err(
        |failure| if failure.code() == NOTHING_FOUND { failure.with_code(Failure::INPUT) } else { failure },
    )
}

fn filter(what: &Subject, scope: &Scope, utc: bool) -> Result<Filter, Failure> {
    let mut query = Query::new(utc);
    query.scope(scope)?;
    query.filter.subject = Some(what.clone());
    Ok(query.filter)
}

/// Reads the input, and prints the answer.
fn explained(filter: Filter, sources: &Inputs, dirs: &Dirs, utc: bool, form: Form<'_>) -> CommandResult {
    let asked = filter.clone();
    let mut explainer = Explainer::new(filter);
    let reader = TrailReader::new(&mut explainer).with_hashes(matches!(form, Form::Json { hashes: true }));
    let mut read = match reader.read(sources, &asked, dirs)?.complete(sources.stats) {
        Ok(read) => read,
        Err(code) => return Ok(code),
    };
    let none = explainer.is_empty().then(|| explainer.maybe_matching());
    let unknown = coverage::note_unknown(&mut read, &asked, none);
    let explanation = explainer.finish(read.input());
    let cited = form.cites_lines(&explanation).then(|| explanation.proofs()).into_iter().flatten();
    let lines = read.fetch_lines(&explanation.hosts().collect(), cited, MAX_EXPLAINED_LINES)?;
    let line = |proof: &Proof| lines.get(proof);
    let kind = |source: &str| lines.kind(source);
    let evidence = CitedSources { line: &line, kind: &kind };
    form.print(&explanation, &style(utc), evidence)?;
    Ok(code(&read, sources, !explanation.is_empty(), unknown))
}

/// Reads the input, and writes matching holdings and findings as they come.
fn written(filter: Filter, output: Output, sources: &Inputs, dirs: &Dirs) -> CommandResult {
    let asked = filter.clone();
    let mut sink = match Sink::new(View::Trail, filter, output.format(style(output.utc)), stdout()) {
        Err(error) if is_broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
        sink => sink.map_err(trail_reader::unwritten)?,
    };
    let reader = TrailReader::new(&mut sink).with_hashes(output.hash);
    let mut read = match reader.read(sources, &asked, dirs)?.complete(sources.stats) {
        Ok(read) => read,
        Err(code) => return Ok(code),
    };
    let count = sink.count();
    let none = (count.holdings + count.bridge_taps == 0).then_some(count.maybe_matching);
    let unknown = coverage::note_unknown(&mut read, &asked, none);
    coverage::note_left_out(&mut read, &count);
    match sink.finish(read.input()) {
        Err(error) if !is_broken_pipe(&error) => return Err(trail_reader::unwritten(error)),
        _ => {}
    }
    let count = sink.count();
    Ok(code(&read, sources, count.holdings + count.findings + count.bridge_taps > 0, unknown))
}

/// Prints what could not be read, and returns the exit code.
fn code(read: &ReadSummary, sources: &Inputs, found: bool, unknown: bool) -> ExitCode {
    let done = read.print_warnings(sources.stats);
    match (found, unknown) {
        _ if done != ExitCode::SUCCESS => done,
        (true, _) => done,
        (false, true) => NOT_COVERED.into(),
        (false, false) => NOTHING_FOUND.into(),
    }
}
