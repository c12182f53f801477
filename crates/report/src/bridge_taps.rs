//! Taps that a bridge helper passed to users' QEMUs: a row for each, and sentences.

use compact_str::{CompactString, format_compact};
use jiff::Timestamp;
use taptrail_record::Requester;
use taptrail_trail::{BridgeTap, BridgeTapEnd, State};

use crate::Style;
use crate::span::QueryRange;
use crate::style::{Clock, TimeFormat};
use crate::table::{Cell, Table, cell, display, good, number, warning};
use crate::text::{NONE, escape_name};
use crate::trail::count;

/// Above the rows.
pub(crate) const TITLE: &str = "Taps of the bridge helper, whose guest and MAC are on no record";

/// The columns that are dropped from a table that is too wide, the first first.
const DROPPED: [&str; 4] = ["PROCESS", "RELEASED", "BRIDGE", "HOST"];

/// The tap's time: until the end of time, unless a record shows an end.
pub(crate) fn range(tap: &BridgeTap) -> QueryRange {
    let open = matches!(tap.state, State::Held | State::Unknown);
    let to = tap.released.unwrap_or(if open { Timestamp::MAX } else { tap.passed });
    QueryRange { from: tap.passed, to: to.max(tap.passed) }
}

/// A title, and a row for each tap.
pub(crate) fn block(taps: &[BridgeTap], hosts: bool, style: &Style) -> String {
    let clock = TimeFormat::new(style);
    let mut names = vec!["PASSED", "RELEASED", "BRIDGE", "TAP", "UID", "PROCESS", "CLAIMS TO BE", "STATE"];
    if hosts {
        names.insert(0, "HOST");
    }
    let mut table = Table::new(style, &names);
    for tap in taps {
        let host = hosts.then(|| cell(escape_name(&tap.host)));
        table.row(host.into_iter().chain([
            cell(clock.full(tap.passed)),
            released(tap, &clock),
            cell(escape_name(&tap.bridge)),
            cell(tap.device.dev.as_deref().map_or(NONE.into(), escape_name)),
            number(tap.requester.uid),
            display(tap.requester.pid).aligned_right(),
            cell(tap.claimed_name.as_deref().map_or(NONE.into(), escape_name)),
            match tap.state {
                State::Held => good(tap.state.as_str()),
                State::Unknown => warning(tap.state.as_str()),
                state => cell(state.as_str()),
            },
        ]));
    }
    table.drop_columns(style, &names, &DROPPED, 0);
    let text = if table.fits(style) { table.text() } else { table.folded(style).text() };
    format!("{TITLE}\n{text}")
}

fn released(tap: &BridgeTap, clock: &TimeFormat) -> Cell {
    let time = clock.after(Some(tap.passed), tap.released);
    match tap.last_seen {
        Some(_) => cell(format_compact!("by {time}")),
        None => cell(time),
    }
}

/// Says that a picture has no lane for them.
pub(crate) fn left_out(taps: &[BridgeTap]) -> Option<String> {
    (!taps.is_empty()).then(|| {
        let taps = count(taps.len() as u64, "tap");
        format!(
            "{taps} of the bridge helper, whose guest and MAC are on no record: 'taptrail trail' has them"
        )
    })
}

/// What the tap is, as a heading.
pub(crate) fn heading(tap: &BridgeTap) -> String {
    let dev = tap.device.dev.as_deref().map_or(NONE.into(), escape_name);
    let (bridge, host) = (escape_name(&tap.bridge), escape_name(&tap.host));
    format!(
        "{dev} on bridge {bridge} of {host}, a tap of the bridge helper: its guest and MAC are on no record"
    )
}

/// What is known of it: labels and sentences.
pub(crate) fn statement(tap: &BridgeTap, clock: &impl Clock) -> Vec<(&'static str, String)> {
    let mut rows = vec![("Asked by", requester(tap))];
    rows.extend(claim(tap).map(|claim| ("Claims", claim)));
    rows.push(("Passed", clock.full(tap.passed).into_string()));
    rows.push(("Released", end(tap, clock)));
    if let Some(since) = tap.uncertain_since {
        rows.push(("Uncertain", format!("since {}: records may be missing", clock.full(since))));
    }
    rows
}

fn requester(tap: &BridgeTap) -> String {
    let Requester { uid, auid, pid } = tap.requester;
    let login: CompactString =
        if auid == Requester::UNSET { "no login user".into() } else { format_compact!("login user {auid}") };
    let start = tap.start_time.map_or(String::new(), |ticks| format!(", started at clock tick {ticks}"));
    format!("user {uid} ({login}), process {pid}{start}")
}

fn claim(tap: &BridgeTap) -> Option<String> {
    let name = tap.claimed_name.as_deref().map(|name| format!("'{}'", escape_name(name)));
    let uuid = tap.claimed_uuid.map(|uuid| uuid.to_string());
    let guest: Vec<String> = name.into_iter().chain(uuid).collect();
    let guest = guest.join(", ");
    (!guest.is_empty()).then(|| format!("to be guest {guest}, by its command line, which proves nothing"))
}

fn end(tap: &BridgeTap, clock: &impl Clock) -> String {
    let passed = Some(tap.passed);
    let time = || clock.after(passed, tap.released);
    match (tap.state, tap.ended_by) {
        (State::Held, _) => "not yet: a watcher has recorded no close".to_owned(),
        (State::NeverGranted, _) => "at once: it could not be passed".to_owned(),
        (_, Some(by)) => {
            let why = match by {
                BridgeTapEnd::Close => "a watcher's record of the close",
                BridgeTapEnd::Reboot => "the host booted again",
                BridgeTapEnd::NameReused => "another tap got its name",
            };
            match tap.last_seen {
                Some(seen) => format!("between {} and {}: {why}", clock.after(passed, Some(seen)), time()),
                None => format!("{}: {why}", time()),
            }
        }
        (_, None) => "not known: no watcher was to record the close".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{at, bridge_tap};

    #[test]
    fn a_row_has_what_is_known() {
        let style = Style { utc: true, ..Style::default() };
        let taps = [
            bridge_tap(10, Some(30)),
            BridgeTap { claimed_name: None, state: State::Unknown, ..bridge_tap(20, None) },
            BridgeTap {
                last_seen: Some(at(31)),
                ended_by: Some(BridgeTapEnd::Reboot),
                ..bridge_tap(30, Some(90_000))
            },
        ];
        insta::assert_snapshot!(block(&taps, true, &style), @r"
        Taps of the bridge helper, whose guest and MAC are on no record
        HOST  PASSED                   RELEASED                    BRIDGE  TAP   UID   PROCESS  CLAIMS TO BE  STATE
        h1    1970-01-01 00:00:10.000  00:00:30.000                br0     tap0  1000     4711  web1          released
        h1    1970-01-01 00:00:20.000  -                           br0     tap0  1000     4711  -             unknown
        h1    1970-01-01 00:00:30.000  by 1970-01-02 01:00:00.000  br0     tap0  1000     4711  web1          released
        ");
        let narrow = block(&taps, false, &Style { width: Some(60), ..style });
        assert!(narrow.lines().skip(1).all(|line| line.chars().count() <= 60), "{narrow}");
        for name in ["TAP", "UID", "CLAIMS TO BE", "STATE"] {
            assert!(narrow.contains(name), "{narrow}");
        }
    }

    #[test]
    fn sentences_claim_no_more_than_the_records() {
        let style = Style { utc: true, ..Style::default() };
        let text = |tap: &BridgeTap| {
            let rows = statement(tap, &TimeFormat::new(&style));
            rows.iter().map(|(label, text)| format!("{label}: {text}\n")).collect::<String>()
        };
        insta::assert_snapshot!(text(&bridge_tap(10, Some(30))), @r"
        Asked by: user 1000 (login user 1000), process 4711, started at clock tick 778899
        Claims: to be guest 'web1', by its command line, which proves nothing
        Passed: 1970-01-01 00:00:10.000
        Released: 00:00:30.000: a watcher's record of the close
        ");
        let unknown = BridgeTap {
            state: State::Unknown,
            claimed_name: Some("a\u{1b}[31m".into()),
            uncertain_since: Some(at(20)),
            ..bridge_tap(10, None)
        };
        insta::assert_snapshot!(text(&unknown), @r"
        Asked by: user 1000 (login user 1000), process 4711, started at clock tick 778899
        Claims: to be guest 'a\u{1b}[31m', by its command line, which proves nothing
        Passed: 1970-01-01 00:00:10.000
        Released: not known: no watcher was to record the close
        Uncertain: since 1970-01-01 00:00:20.000: records may be missing
        ");
        assert!(text(&bridge_tap(10, None)).contains("not yet"));
        let by_boot = BridgeTap {
            last_seen: Some(at(20)),
            ended_by: Some(BridgeTapEnd::Reboot),
            ..bridge_tap(10, Some(30))
        };
        assert!(text(&by_boot).contains("between 00:00:20.000 and 00:00:30.000: the host booted again"));
    }
}
