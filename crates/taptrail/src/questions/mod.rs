//! `taptrail trail`, `who`, `explain` and `findings`: what trails tell.

mod ask;
mod clock;
mod tell;
mod when;

use std::process::ExitCode;
use std::sync::Arc;

use taptrail_guest::Dirs;
use taptrail_report::{Explainer, Filter, Sink, Told};
use taptrail_trail::Coverage;

use self::ask::Asked;
pub(crate) use self::ask::moment;
pub(crate) use self::tell::Whole;
use self::tell::{Answer, Teller, gone};
use crate::Done;
use crate::cli::{Explain, Findings, Output, Page, Sources, Trail, Who};
use crate::output::{Failure, print, stdout, style};

/// The exit code of `findings` when there are any.
const FOUND: u8 = 1;

/// The exit code where nothing is found, and the time asked for is not covered.
const NOT_KNOWN: u8 = 4;

pub(crate) fn trail(arguments: &Trail, dirs: &Dirs) -> Done {
    let mut asked = Asked::new(arguments.output.utc);
    asked.about(&arguments.selection);
    asked.times(&arguments.times)?;
    asked.at(arguments.at.as_deref())?;
    asked.filter.held = arguments.held;
    sink(Told::Trail, asked.filter, arguments.output, &arguments.sources, dirs)
}

pub(crate) fn who(arguments: &Who, dirs: &Dirs) -> Done {
    let mut asked = Asked::new(arguments.output.utc);
    asked.target(&arguments.what);
    asked.at(arguments.at.as_deref())?;
    asked.filter.host = arguments.node.clone();
    asked.filter.granted = true;
    sink(Told::Trail, asked.filter, arguments.output, &arguments.sources, dirs)
}

pub(crate) fn findings(arguments: &Findings, dirs: &Dirs) -> Done {
    let mut asked = Asked::new(arguments.output.utc);
    asked.about(&arguments.selection);
    asked.times(&arguments.times)?;
    asked.filter.kinds = arguments.kind.clone();
    let told = sink(Told::Findings, asked.filter, arguments.output, &arguments.sources, dirs);
    // Whatever failed, it must not pass for a finding.
    told.map_err(|failure| failure.with_code(Failure::INPUT))
}

/// Reads, and writes what is asked for as it comes.
fn sink(told: Told, filter: Filter, output: Output, sources: &Sources, dirs: &Dirs) -> Done {
    let asked_for = filter.clone();
    let mut sink = match Sink::new(told, filter, output.format.of(style(output.utc)), stdout()) {
        Err(error) if gone(&error) => return Ok(ExitCode::SUCCESS),
        sink => sink.map_err(tell::unwritten)?,
    };
    let teller = Teller::new(&mut sink);
    let read = teller.read(sources, dirs)?;
    let answer = match read {
        Answer::Cut => return Ok(code(told, &sink, ExitCode::SUCCESS)),
        Answer::Whole(answer) if answer.is_none() => return Ok(answer.say(sources.stats)),
        Answer::Whole(answer) => answer,
    };
    let mut answer = answer;
    let unknown = cover(&mut answer, &asked_for);
    match sink.finish(answer.stats.input.clone()) {
        Err(error) if !gone(&error) => return Err(tell::unwritten(error)),
        _ => {}
    }
    let done = answer.say(sources.stats);
    let found = sink.count().holdings + sink.count().findings > 0;
    Ok(code(
        told,
        &sink,
        if unknown && !found && done == ExitCode::SUCCESS { NOT_KNOWN.into() } else { done },
    ))
}

/// The exit code of an answer; `done` is that of the reading.
fn code<W: std::io::Write>(told: Told, sink: &Sink<W>, done: ExitCode) -> ExitCode {
    if told == Told::Findings && done == ExitCode::SUCCESS && sink.count().findings > 0 {
        return ExitCode::from(FOUND);
    }
    done
}

/// Notes the time that is asked for and the hosts of which it is not covered, if there are any. Whether so.
fn cover(answer: &mut Whole, asked: &Filter) -> bool {
    let hosts = &answer.stats.input.coverage;
    if let Some(host) = asked.host.clone().filter(|host| !hosts.iter().any(|of| *of.host == **host)) {
        answer.note([format!("No input tells of a host '{host}'")]);
        cover_time(answer, asked);
        return true;
    }
    cover_time(answer, asked)
}

fn cover_time(answer: &mut Whole, asked: &Filter) -> bool {
    let (from, until) = match (asked.at, asked.start, asked.end) {
        (Some(at), ..) => (Some(at.from), Some(at.to)),
        (None, None, None) => return false,
        (None, start, end) => (start, end),
    };
    let input = &mut answer.stats.input;
    let is_unknown = |coverage: &&Coverage| {
        let spans = &coverage.spans;
        match (asked.at, from, until) {
            (Some(at), ..) => !coverage.covers(at.from, at.to),
            // Of a longer time some must be covered.
            (None, from, until) => !spans.iter().any(|span| {
                from.is_none_or(|from| from <= span.until) && until.is_none_or(|until| span.from < until)
            }),
        }
    };
    let is_asked = |coverage: &&Coverage| asked.host.as_ref().is_none_or(|host| *host == *coverage.host);
    let unknown: Vec<&Coverage> = input.coverage.iter().filter(is_asked).filter(is_unknown).collect();
    let lines: Vec<String> = unknown.iter().take(SHOWN).map(|coverage| not_covered(coverage)).collect();
    let more = unknown.len().saturating_sub(SHOWN);
    let unknown_on: Vec<Arc<str>> = unknown.iter().map(|coverage| Arc::clone(&coverage.host)).collect();
    let is_empty = input.coverage.is_empty();
    let any = !unknown_on.is_empty() || is_empty;
    input.asked = Some(taptrail_trail::Asked { from, until, unknown_on });
    answer.note(lines);
    if is_empty {
        answer.note(["No input tells of any time".to_owned()]);
    }
    if more > 0 {
        answer.note([format!("Of {more} more hosts the time asked for is not covered")]);
    }
    any
}

/// How many hosts are named of which the time asked for is not covered.
const SHOWN: usize = 8;

fn not_covered(coverage: &Coverage) -> String {
    let Coverage { host, spans, gaps } = coverage;
    let covered = match (spans.first(), spans.last()) {
        (Some(first), Some(last)) => format!("its records are from {:.3} to {:.3}", first.from, last.until),
        _ => "it has no records".to_owned(),
    };
    let gaps = match gaps.len() {
        0 => String::new(),
        1 => ", with one gap".to_owned(),
        gaps => format!(", with {gaps} gaps"),
    };
    format!("Host {host}: what was held is not known of all the time asked for: {covered}{gaps}")
}

pub(crate) fn explain(arguments: &Explain, dirs: &Dirs) -> Done {
    let mut asked = Asked::new(arguments.utc);
    asked.at(arguments.at.as_deref())?;
    asked.filter.host = arguments.node.clone();
    let filter = arguments.what.clone().narrow(asked.filter);
    let asked_for = filter.clone();
    let mut explainer = Explainer::new(filter);
    let answer = match Teller::new(&mut explainer).read(&arguments.sources, dirs)? {
        // Nothing is written while it reads.
        Answer::Cut => return Ok(ExitCode::SUCCESS),
        Answer::Whole(answer) if answer.is_none() => return Ok(answer.say(arguments.sources.stats)),
        Answer::Whole(answer) => answer,
    };
    let mut answer = answer;
    let unknown = cover(&mut answer, &asked_for);
    let explanation = explainer.finish(answer.stats.input.clone());
    let lines = crate::reading::again(explanation.proofs());
    let line = |proof: &taptrail_trail::Proof| lines.get(proof);
    let style = style(arguments.utc);
    print(&match arguments.format {
        Page::Table => explanation.text(&style, &line),
        Page::Json => explanation.json(&style, &line)?,
    })?;
    let done = answer.say(arguments.sources.stats);
    let nothing = explanation.is_empty() && done == ExitCode::SUCCESS;
    Ok(if unknown && nothing { NOT_KNOWN.into() } else { done })
}
