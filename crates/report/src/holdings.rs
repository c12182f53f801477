//! Holdings as a table.

use compact_str::{CompactString, format_compact};
use taptrail_trail::{Certainty, Holding, Proof, Report, State};

use crate::Style;
use crate::claims::MARK;
use crate::span::{Holds, holds_by};
use crate::style::Clock;
use crate::table::{Cell, Plain, bad, cell, good, number, told, warning};
use crate::text::{NONE, shown};

const HEADER: [&str; 14] = [
    "HOST",
    "GUEST",
    "MAC",
    "DEVICE",
    "PATH",
    "DEV",
    "RDEV",
    "QUEUES",
    "OPENED",
    "GRANTED",
    "RELEASED",
    "STATE",
    "ENDED BY",
    "CERTAINTY",
];

/// A row for each holding, or where those are wider than the style, a block of three lines.
pub(crate) fn holdings(report: &Report, hosts: bool, clock: &Clock, style: &Style) -> String {
    let holdings = &report.holdings;
    let mut table = Plain::new(style, &HEADER[usize::from(!hosts)..]);
    if style.width.is_none() {
        table.expect(holdings.len());
    }
    for holding in holdings {
        let device = &holding.device;
        let then = style.at.map(|at| holds_by(holding, at, &report.input));
        let host = hosts.then(|| cell(shown(&holding.host)));
        table.row(host.into_iter().chain([
            cell(shown(&holding.guest.name)),
            told(holding.mac),
            cell(device.kind.as_str()),
            cell(shown(&device.path)),
            cell(device.dev.as_deref().map_or(NONE.into(), shown)),
            device.rdev.map_or_else(|| cell(NONE), told),
            queues(holding.queues),
            cell(clock.maybe(holding.opened)),
            cell(clock.after(holding.opened, holding.granted)),
            cell(clock.after(holding.opened, holding.released)),
            state(holding, then, state_word(holding, then)),
            cell(holding.ended_by.map_or(NONE, |by| by.as_str())),
            certainty(holding),
        ]));
        if holdings.len() > FEW && !table.fits(style) {
            break;
        }
    }
    if table.fits(style) { table.text() } else { stacked(report, hosts, clock, style) }
}

/// From how many holdings on it pays to look, row by row, whether the table fits still.
const FEW: usize = 100;

/// The same in four columns of three lines each, for 80 columns.
fn stacked(report: &Report, hosts: bool, clock: &Clock, style: &Style) -> String {
    let header = [
        if hosts { "GUEST\nMAC\nHOST" } else { "GUEST\nMAC" },
        "DEVICE\nPATH\nDEV RDEV QUEUES",
        "OPENED\nGRANTED\nRELEASED",
        "STATE\nENDED BY\nCERTAINTY",
    ];
    let mut table = Plain::new(style, &header);
    for holding in &report.holdings {
        let device = &holding.device;
        let then = style.at.map(|at| holds_by(holding, at, &report.input));
        let host = if hosts { shown(&holding.host) } else { "".into() };
        let parts = [
            device.dev.as_deref().map(shown),
            device.rdev.map(|rdev| format_compact!("{rdev}")),
            holding.queues.map(|queues| format_compact!("x{queues}")),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        let ended_by = holding.ended_by.map_or(NONE, |by| by.as_str());
        let word = state_word(holding, then);
        let end = format!("{word}\n{ended_by}\n{}", certainty_word(holding));
        table.block([
            cell(format_compact!("{}\n{}\n{host}", shown(&holding.guest.name), holding.mac)),
            cell(format_compact!("{}\n{}\n{}", device.kind, shown(&device.path), parts.join(" "))),
            cell(format_compact!(
                "{}\n{}\n{}",
                clock.maybe(holding.opened),
                clock.after(holding.opened, holding.granted),
                clock.after(holding.opened, holding.released)
            )),
            state(holding, then, &end),
        ]);
    }
    table.folded(style).text()
}

/// `?` where the records don't tell.
fn queues(queues: Option<u32>) -> Cell {
    queues.map_or_else(|| number("?"), number)
}

/// What became of it; or that it was only possibly held at the time that is asked for.
fn state_word(holding: &Holding, then: Option<Holds>) -> &'static str {
    match then {
        Some(Holds::Possibly) => "possibly-held",
        _ => holding.state.as_str(),
    }
}

fn state(holding: &Holding, then: Option<Holds>, text: &str) -> Cell {
    match (then, holding.state) {
        (Some(Holds::Possibly), _) => warning(text),
        (_, State::Held) => good(text),
        (_, State::OpenFailed | State::NeverGranted | State::Unknown) => warning(text),
        (_, State::Opening | State::Released) => cell(text),
    }
}

/// How certain it is, marked where that rests on what is not authenticated.
fn certainty_word(holding: &Holding) -> CompactString {
    let mark = if Proof::any_unauthenticated(&holding.proof) { MARK } else { "" };
    format_compact!("{}{mark}", holding.certainty.as_str())
}

fn certainty(holding: &Holding) -> Cell {
    let word = certainty_word(holding);
    match holding.certainty {
        Certainty::Definitive if word.ends_with(MARK) => warning(&word),
        Certainty::Definitive => cell(word),
        Certainty::Inferred | Certainty::Ambiguous | Certainty::Incomplete => warning(&word),
        Certainty::Doubtful => bad(&word),
    }
}
