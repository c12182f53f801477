use std::fmt::Write as _;

use comfy_table::Cell;
use taptrail_trail::{Certainty, Finding, FindingKind, Holding, Proof, Report, State};

use crate::Style;
use crate::style::Clock;
use crate::table::{Plain, bad, cell, good, number, warning};
use crate::text::{NONE, shown};

/// A trail: its holdings, its findings below them, and a line that sums up.
///
/// A host's column stands first when there is more than one.
pub fn trail_table(report: &Report, style: &Style) -> String {
    let clock = Clock::new(style);
    let hosts = {
        let first = report.holdings.first().map(|holding| &holding.host);
        let others = report.holdings.iter().map(|holding| &holding.host);
        let others = others.chain(report.findings.iter().map(|finding| &finding.host));
        first.is_some_and(|first| others.into_iter().any(|host| host != first))
    };
    let mut text = if report.holdings.is_empty() {
        "No holdings\n".to_owned()
    } else {
        holdings(&report.holdings, hosts, &clock, style)
    };
    if !report.findings.is_empty() {
        text.push_str("\nFindings\n");
        text.push_str(&findings(&report.findings, hosts, &clock, style));
    }
    text.push('\n');
    text.push_str(&summary(report));
    text
}

fn holdings(holdings: &[Holding], hosts: bool, clock: &Clock, style: &Style) -> String {
    let header = [
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
    let mut table = Plain::new(style, &header[usize::from(!hosts)..]);
    for holding in holdings {
        let device = &holding.device;
        let host = hosts.then(|| cell(shown(&holding.host)));
        table.row(host.into_iter().chain([
            cell(shown(&holding.guest.name)),
            cell(holding.mac),
            cell(device.kind),
            cell(shown(&device.path)),
            cell(device.dev.as_deref().map_or(NONE.to_owned(), shown)),
            cell(device.rdev.map_or(NONE.to_owned(), |rdev| rdev.to_string())),
            number(holding.queues),
            cell(clock.maybe(holding.opened)),
            cell(clock.after(holding.opened, holding.granted)),
            cell(clock.after(holding.opened, holding.released)),
            state(holding.state, holding.state.as_str()),
            cell(holding.ended_by.map_or(NONE, |by| by.as_str())),
            certainty(holding.certainty),
        ]));
    }
    if table.fits(style) { table.text() } else { stacked(holdings, hosts, clock, style) }
}

/// The same in four columns of three lines each, for 80 columns.
fn stacked(holdings: &[Holding], hosts: bool, clock: &Clock, style: &Style) -> String {
    let header = [
        if hosts { "GUEST\nMAC\nHOST" } else { "GUEST\nMAC" },
        "DEVICE\nPATH\nDEV RDEV QUEUES",
        "OPENED\nGRANTED\nRELEASED",
        "STATE\nENDED BY\nCERTAINTY",
    ];
    let mut table = Plain::folded(style, &header);
    for holding in holdings {
        let device = &holding.device;
        let host = if hosts { shown(&holding.host) } else { String::new() };
        let parts = [
            device.dev.as_deref().map(shown),
            device.rdev.map(|rdev| rdev.to_string()),
            Some(format!("x{}", holding.queues)),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        let ended_by = holding.ended_by.map_or(NONE, |by| by.as_str());
        let end = format!("{}\n{ended_by}\n{}", holding.state.as_str(), holding.certainty.as_str());
        table.block([
            cell(format!("{}\n{}\n{host}", shown(&holding.guest.name), holding.mac)),
            cell(format!("{}\n{}\n{}", device.kind, shown(&device.path), parts.join(" "))),
            cell(format!(
                "{}\n{}\n{}",
                clock.maybe(holding.opened),
                clock.after(holding.opened, holding.granted),
                clock.after(holding.opened, holding.released)
            )),
            state(holding.state, &end),
        ]);
    }
    table.text()
}

fn findings(findings: &[Finding], hosts: bool, clock: &Clock, style: &Style) -> String {
    let place = |finding: &Finding| finding.proof.last().map_or(NONE.to_owned(), place);
    let rows = |all: bool| {
        let mut table = Plain::new(style, &[]);
        for finding in findings {
            let host = hosts.then(|| cell(shown(&finding.host)));
            let front = [
                cell(clock.full(finding.time)),
                kind(finding.kind),
                cell(finding.guest.as_ref().map_or(NONE.to_owned(), |guest| shown(&guest.name))),
            ];
            let rest = all.then(|| [cell(shown(&finding.text)), cell(place(finding))]);
            table.row(host.into_iter().chain(front).chain(rest.into_iter().flatten()));
        }
        table
    };
    let table = rows(true);
    if table.fits(style) {
        return table.text();
    }
    let text = |finding: &Finding| format!("    {}\n    {}\n", shown(&finding.text), place(finding));
    rows(false)
        .lines()
        .into_iter()
        .zip(findings)
        .map(|(line, finding)| line + "\n" + &text(finding))
        .collect()
}

fn state(state: State, text: &str) -> Cell {
    match state {
        State::Held => good(text),
        State::OpenFailed | State::NeverGranted => warning(text),
        State::Released => cell(text),
    }
}

fn certainty(certainty: Certainty) -> Cell {
    match certainty {
        Certainty::Definitive => cell(certainty.as_str()),
        Certainty::Inferred | Certainty::Ambiguous => warning(certainty.as_str()),
        Certainty::Doubtful => bad(certainty.as_str()),
    }
}

/// Red is what may mean that somebody holds a device whom the trail does not show.
fn kind(kind: FindingKind) -> Cell {
    match kind {
        FindingKind::AttachFailed
        | FindingKind::CloseFailed
        | FindingKind::CloseWithoutOpen
        | FindingKind::ContradictoryOpen
        | FindingKind::DetachFailed
        | FindingKind::GrantWithoutOpen => bad(kind.as_str()),
        _ => warning(kind.as_str()),
    }
}

/// Where a record can be looked up.
fn place(proof: &Proof) -> String {
    let mut place = format!("{}:{}", shown(&proof.source), proof.line);
    if let Some(serial) = proof.serial {
        // Writing to a String can't fail.
        let _ = write!(place, " (serial {serial})");
    }
    place
}

fn summary(report: &Report) -> String {
    let held = report.holdings.iter().filter(|holding| holding.state == State::Held).count();
    let mut text = format!(
        "{}, {held} held; {}; {} read",
        count(report.holdings.len() as u64, "holding"),
        count(report.findings.len() as u64, "finding"),
        count(report.input.records, "record"),
    );
    if report.input.unreadable > 0 {
        // As above.
        let _ = write!(text, ", {} unreadable", count(report.input.unreadable, "line"));
    }
    text.push('\n');
    text
}

fn count(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}
