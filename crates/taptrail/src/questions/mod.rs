//! `taptrail trail`, `who`, `explain` and `findings`: what trails tell.

mod ask;
mod clock;
mod known;
mod tell;
mod when;

use std::process::ExitCode;

use taptrail_guest::Dirs;
use taptrail_report::{Explainer, Filter, Sink, View};

use self::ask::Asked;
pub(crate) use self::ask::moment;
pub(crate) use self::tell::Whole;
use self::tell::{Answer, Teller, gone};
use crate::Done;
use crate::cli::{Explain, Findings, Output, Sources, Trail, Who};
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
    sink(View::Trail, asked.filter, arguments.output, &arguments.sources, dirs)
}

pub(crate) fn who(arguments: &Who, dirs: &Dirs) -> Done {
    let mut asked = Asked::new(arguments.output.utc);
    asked.target(&arguments.what);
    asked.at(arguments.at.as_deref())?;
    asked.filter.host = arguments.host.clone();
    asked.filter.granted = true;
    sink(View::Trail, asked.filter, arguments.output, &arguments.sources, dirs)
}

pub(crate) fn findings(arguments: &Findings, dirs: &Dirs) -> Done {
    let mut asked = Asked::new(arguments.output.utc);
    asked.about(&arguments.selection);
    asked.times(&arguments.times)?;
    asked.filter.kinds = arguments.kind.clone();
    let told = sink(View::Findings, asked.filter, arguments.output, &arguments.sources, dirs);
    // Whatever failed, it must not pass for a finding.
    told.map_err(|failure| failure.with_code(Failure::INPUT))
}

/// Reads, and writes what is asked for as it comes.
fn sink(view: View, filter: Filter, output: Output, sources: &Sources, dirs: &Dirs) -> Done {
    let asked_for = filter.clone();
    let mut sink = match Sink::new(view, filter, output.format(style(output.utc)), stdout()) {
        Err(error) if gone(&error) => return Ok(ExitCode::SUCCESS),
        sink => sink.map_err(tell::unwritten)?,
    };
    let teller = Teller::new(&mut sink);
    let read = teller.read(sources, dirs)?;
    let answer = match read {
        Answer::Cut => return Ok(code(view, &sink, ExitCode::SUCCESS)),
        Answer::Whole(answer) if answer.is_none() => return Ok(answer.say(sources.stats)),
        Answer::Whole(answer) => answer,
    };
    let mut answer = answer;
    let count = sink.count();
    let none = view == View::Trail && count.holdings == 0;
    let unknown = known::note_unknown(&mut answer, &asked_for, none.then_some(count.maybe_matching));
    match sink.finish(answer.input()) {
        Err(error) if !gone(&error) => return Err(tell::unwritten(error)),
        _ => {}
    }
    let done = answer.say(sources.stats);
    let found = sink.count().holdings + sink.count().findings > 0;
    Ok(code(
        view,
        &sink,
        if unknown && !found && done == ExitCode::SUCCESS { NOT_KNOWN.into() } else { done },
    ))
}

/// The exit code of an answer; `done` is that of the reading.
fn code<W: std::io::Write>(view: View, sink: &Sink<W>, done: ExitCode) -> ExitCode {
    if view == View::Findings && done == ExitCode::SUCCESS && sink.count().findings > 0 {
        return ExitCode::from(FOUND);
    }
    done
}

pub(crate) fn explain(arguments: &Explain, dirs: &Dirs) -> Done {
    let mut asked = Asked::new(arguments.utc);
    asked.at(arguments.at.as_deref())?;
    asked.filter.host = arguments.host.clone();
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
    let unknown = known::note_unknown(&mut answer, &asked_for, explainer.is_empty().then_some(0));
    let explanation = explainer.finish(answer.input());
    let lines = crate::reading::again(explanation.proofs(), answer.identities());
    let line = |proof: &taptrail_trail::Proof| lines.get(proof);
    let style = style(arguments.utc);
    print(&if arguments.output.is_json() {
        explanation.json(&style, &line)?
    } else {
        explanation.text(&style, &line)
    })?;
    let done = answer.say(arguments.sources.stats);
    let nothing = explanation.is_empty() && done == ExitCode::SUCCESS;
    Ok(if unknown && nothing { NOT_KNOWN.into() } else { done })
}
