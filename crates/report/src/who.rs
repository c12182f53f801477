//! Sessions as a compact table: who held what, one row each.

use compact_str::{CompactString, format_compact};
use taptrail_trail::{Certainty, Input, State};

use crate::explain::{Explanation, summary};
use crate::fold::fold;
use crate::style::TimeFormat;
use crate::table::{Cell, Table, bad, cell, display, warning};
use crate::text::{NONE, escape_name};
use crate::unauthenticated::{UNAUTHENTICATED_FOOTNOTE, UNAUTHENTICATED_MARK};
use crate::{Session, Style};

const HEADER: [&str; 7] = ["HOST", "GUEST", "MAC", "DEVICES", "FROM", "TO", "BASIS"];

/// The sessions of an answer, and a summary line.
pub(crate) fn answer(explanation: &Explanation, style: &Style) -> String {
    let mut text = explanation.readings().map_or_else(String::new, |readings| format!("{readings}\n\n"));
    let sessions = Session::group(&explanation.holdings);
    let style = Style { at: explanation.filter.at, ..*style };
    text.push_str(&table(&sessions, &style, &explanation.input));
    text.push('\n');
    for line in fold(&summary(explanation, &sessions), style.width.map_or(usize::MAX, usize::from)) {
        text.push_str(line);
        text.push('\n');
    }
    if sessions.iter().any(Session::is_unauthenticated) {
        text.push_str(UNAUTHENTICATED_FOOTNOTE);
    }
    text.push_str("With --explain, each is told with its records and findings\n");
    text
}

/// A row for each session; a block of two lines where rows are wider than the style.
fn table(sessions: &[Session<'_>], style: &Style, input: &Input) -> String {
    let clock = TimeFormat::new(style);
    let mut table = Table::new(style, &HEADER);
    for session in sessions {
        table.row([
            cell(escape_name(session.host())),
            cell(escape_name(&session.guest().name)),
            display(session.mac()),
            cell(devices(session)),
            cell(from(session, &clock)),
            cell(to(session, &clock)),
            basis(session, style, input),
        ]);
    }
    if table.fits(style) { table.text() } else { stacked(sessions, &clock, style, input) }
}

/// The same in four columns of two lines each, for 80 columns.
fn stacked(sessions: &[Session<'_>], clock: &TimeFormat, style: &Style, input: &Input) -> String {
    let mut table = Table::new(style, &["GUEST\nMAC", "HOST\nDEVICES", "FROM\nTO", "BASIS"]);
    for session in sessions {
        table.block([
            cell(format!("{}\n{}", escape_name(&session.guest().name), session.mac())),
            cell(format!("{}\n{}", escape_name(session.host()), devices(session))),
            cell(format!("{}\n{}", from(session, clock), to(session, clock))),
            basis(session, style, input),
        ]);
    }
    table.folded(style).text()
}

/// Each device once, by its interface or path.
fn devices(session: &Session<'_>) -> String {
    let mut names: Vec<String> = Vec::new();
    for of in &session.holdings {
        let name = of.device.dev.as_deref().unwrap_or(&of.device.path);
        let name = escape_name(name).into_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" ")
}

fn from(session: &Session<'_>, clock: &TimeFormat) -> CompactString {
    match (session.granted(), session.opened()) {
        (Some(granted), _) => clock.full(granted),
        (None, Some(opened)) => format_compact!("opened {}", clock.full(opened)),
        (None, None) => "before the records".into(),
    }
}

fn to(session: &Session<'_>, clock: &TimeFormat) -> CompactString {
    let since = session.granted().or(session.opened());
    match (session.state(), session.released()) {
        (State::Released, Some(released)) => clock.after(since, Some(released)),
        (State::Released, None) => NONE.into(),
        (state, _) => state.as_str().into(),
    }
}

/// How sure it is, and whether it was only possibly held at the time asked for.
fn basis(session: &Session<'_>, style: &Style, input: &Input) -> Cell {
    let mark = if session.is_unauthenticated() { UNAUTHENTICATED_MARK } else { "" };
    let possibly = style.at.is_some_and(|at| !session.is_held_at(at, input));
    let then = if possibly { "possibly held, " } else { "" };
    let word = format!("{then}{}{mark}", session.certainty().as_str());
    match session.certainty() {
        Certainty::Definitive if mark.is_empty() && !possibly => cell(word),
        Certainty::Doubtful => bad(&word),
        _ => warning(&word),
    }
}
