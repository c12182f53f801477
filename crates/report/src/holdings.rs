//! Holdings as a table.

use compact_str::{CompactString, format_compact};
use taptrail_trail::{Certainty, Holding, Proof, Report, State};

use crate::Style;
use crate::span::{Holds, holds_within_coverage};
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Cell, Table, bad, cell, display, good, number, warning};
use crate::text::{NONE, escape_name};
use crate::unauthenticated::UNAUTHENTICATED_MARK;

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

/// A row for each holding, or a block of three lines where rows are wider than the style.
pub(crate) fn holdings(report: &Report, hosts: bool, clock: &TimeFormat, style: &Style) -> String {
    let holdings = &report.holdings;
    let mut table = Table::new(style, &HEADER[usize::from(!hosts)..]);
    if style.width.is_none() {
        table.reserve_rows(holdings.len());
    }
    for holding in holdings {
        let device = &holding.device;
        let then = style.at.map(|at| holds_within_coverage(holding, at, &report.input));
        let host = hosts.then(|| cell(escape_name(&holding.host)));
        table.row(host.into_iter().chain([
            cell(escape_name(&holding.guest.name)),
            display(holding.mac),
            cell(device.kind.as_str()),
            cell(escape_name(&device.path)),
            cell(device.dev.as_deref().map_or(NONE.into(), escape_name)),
            device.rdev.map_or_else(|| cell(NONE), display),
            queues(holding.queues),
            cell(clock.optional(holding.opened)),
            cell(clock.after(holding.opened, holding.granted)),
            cell(clock.after(holding.opened, holding.released)),
            state(holding, then, state_word(holding, then)),
            cell(holding.ended_by.map_or(NONE, |by| by.as_str())),
            certainty(holding),
        ]));
        if holdings.len() > MIN_ROWS_TO_CHECK_FIT && !table.fits(style) {
            break;
        }
    }
    if table.fits(style) { table.text() } else { stacked(report, hosts, clock, style) }
}

/// With more holdings than this, the table's width is checked after each row, to stop early.
const MIN_ROWS_TO_CHECK_FIT: usize = 100;

/// The same in four columns of three lines each, for 80 columns.
fn stacked(report: &Report, hosts: bool, clock: &TimeFormat, style: &Style) -> String {
    let header = [
        if hosts { "GUEST\nMAC\nHOST" } else { "GUEST\nMAC" },
        "DEVICE\nPATH\nDEV RDEV QUEUES",
        "OPENED\nGRANTED\nRELEASED",
        "STATE\nENDED BY\nCERTAINTY",
    ];
    let mut table = Table::new(style, &header);
    for holding in &report.holdings {
        let device = &holding.device;
        let then = style.at.map(|at| holds_within_coverage(holding, at, &report.input));
        let host = if hosts { escape_name(&holding.host) } else { "".into() };
        let parts = [
            device.dev.as_deref().map(escape_name),
            device.rdev.map(|rdev| format_compact!("{rdev}")),
            holding.queues.map(|queues| format_compact!("x{queues}")),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        let ended_by = holding.ended_by.map_or(NONE, |by| by.as_str());
        let word = state_word(holding, then);
        let end = format!("{word}\n{ended_by}\n{}", certainty_word(holding));
        table.block([
            cell(format_compact!("{}\n{}\n{host}", escape_name(&holding.guest.name), holding.mac)),
            cell(format_compact!("{}\n{}\n{}", device.kind, escape_name(&device.path), parts.join(" "))),
            cell(format_compact!(
                "{}\n{}\n{}",
                clock.optional(holding.opened),
                clock.after(holding.opened, holding.granted),
                clock.after(holding.opened, holding.released)
            )),
            state(holding, then, &end),
        ]);
    }
    table.folded(style).text()
}

/// `?` where the records do not contain the number of queues.
fn queues(queues: Option<u32>) -> Cell {
    queues.map_or_else(|| number("?"), number)
}

/// The holding's state, or `possibly-held` if that is all that is known for the filter's time.
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

/// The certainty, with a mark where it rests on unauthenticated lines.
fn certainty_word(holding: &Holding) -> CompactString {
    let mark = if Proof::any_unauthenticated(&holding.proof) { UNAUTHENTICATED_MARK } else { "" };
    format_compact!("{}{mark}", holding.certainty.as_str())
}

fn certainty(holding: &Holding) -> Cell {
    let word = certainty_word(holding);
    match holding.certainty {
        Certainty::Definitive if word.ends_with(UNAUTHENTICATED_MARK) => warning(&word),
        Certainty::Definitive => cell(word),
        Certainty::Inferred | Certainty::Ambiguous | Certainty::Incomplete => warning(&word),
        Certainty::Doubtful => bad(&word),
    }
}
