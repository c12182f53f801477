//! `taptrail trail`, `who`, `explain` and `findings`: what trails tell.

mod ask;
mod clock;
mod tell;
mod when;

use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
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
    let none = told == Told::Trail && sink.count().holdings == 0;
    let unknown = cover(&mut answer, &asked_for, none);
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

/// Notes the time that is asked for and the hosts of which it is not known what was held then, if there are any.
/// Whether so. `none`: no holding is told.
fn cover(answer: &mut Whole, asked: &Filter, none: bool) -> bool {
    let hosts = &answer.stats.input.coverage;
    if let Some(host) = asked.host.clone().filter(|host| !hosts.iter().any(|of| *of.host == **host)) {
        answer.note([format!("No input tells of a host '{host}'")]);
        cover_time(answer, asked, none);
        return true;
    }
    cover_time(answer, asked, none)
}

fn cover_time(answer: &mut Whole, asked: &Filter, none: bool) -> bool {
    let (from, until) = match (asked.at, asked.start, asked.end) {
        (Some(at), ..) => (Some(at.from), Some(at.to)),
        (None, None, None) => return false,
        (None, start, end) => (start, end),
    };
    let input = &mut answer.stats.input;
    // Without an end, all that is there is asked for.
    let span = |of: &Coverage| {
        let all = of.spans.first().zip(of.spans.last()).map(|(first, last)| (first.from, last.until));
        (from.or(all.map(|(first, _)| first)), until.or(all.map(|(_, last)| last)))
    };
    let is = |of: &Coverage, is: fn(&Coverage, Timestamp, Timestamp) -> bool| {
        let (from, until) = span(of);
        from.zip(until).is_some_and(|(from, until)| is(of, from, until))
    };
    let hosts =
        || input.coverage.iter().filter(|of| asked.host.as_ref().is_none_or(|host| **host == *of.host));
    let unknown: Vec<&Coverage> = hosts().filter(|of| !is(of, Coverage::covers)).collect();
    let no_start: Vec<&Coverage> =
        hosts().filter(|of| none && is(of, Coverage::covers) && !is(of, Coverage::knows_all)).collect();
    let names = |of: &[&Coverage]| of.iter().map(|of| Arc::clone(&of.host)).collect();
    let told =
        taptrail_trail::Asked { from, until, unknown_on: names(&unknown), no_start_on: names(&no_start) };
    let is_empty = input.coverage.is_empty();
    let mut lines: Vec<String> = unknown.iter().take(SHOWN).map(|of| not_covered(of)).collect();
    lines.extend(more(unknown.len(), "the time asked for is not covered"));
    lines.extend(no_start.iter().take(SHOWN).map(|of| no_start_before(of)));
    lines
        .extend(more(no_start.len(), "guests may have run since before their records begin, or since a gap"));
    if is_empty {
        lines.push("No input tells of any time".to_owned());
    }
    let any = !unknown.is_empty() || !no_start.is_empty() || is_empty;
    input.asked = Some(told);
    answer.note(lines);
    any
}

/// How many hosts are named of which what is asked for is not known.
const SHOWN: usize = 8;

fn more(all: usize, what: &str) -> Option<String> {
    let more = all.saturating_sub(SHOWN);
    (more > 0).then(|| format!("{more} more hosts: {what}"))
}

fn not_covered(coverage: &Coverage) -> String {
    let Coverage { host, spans, gaps, .. } = coverage;
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

fn no_start_before(coverage: &Coverage) -> String {
    let Coverage { host, spans, gaps, .. } = coverage;
    let begin = spans.first().map_or_else(String::new, |first| format!(" ({:.3})", first.from));
    let gap = if gaps.is_empty() { "" } else { ", or since a gap in them" };
    format!(
        "Host {host}: no record says that anything was held then, but a guest may have run since before the \
         records begin{begin}{gap}. Add older logs, back to a boot of the host"
    )
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
    let unknown = cover(&mut answer, &asked_for, explainer.is_empty());
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
