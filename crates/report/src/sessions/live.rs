//! What is held now, and what happened last, for views that are drawn again and again.

use jiff::Timestamp;
use taptrail_trail::{Certainty, Report, Severity, State};

use super::Session;
use super::devices::devices;
use crate::Style;
use crate::findings::sentence;
use crate::style::TimeFormat;
use crate::text::{NONE, duration, escape_name};

/// An interface session that has not ended. All text is safe for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRow {
    /// The host.
    pub host: String,
    /// The guest's name.
    pub guest: String,
    /// The interface's MAC.
    pub mac: String,
    /// Its devices in a few words.
    pub devices: String,
    /// When QEMU got it, or when it was opened.
    pub since: String,
    /// How long ago that is.
    pub age: String,
    /// Whether QEMU has it, or may have it.
    pub state: State,
    /// How sure it is.
    pub basis: Certainty,
}

/// The sessions that are held, or may be, at a time: the newest first.
pub fn live_rows(report: &Report, now: Timestamp, style: &Style) -> Vec<LiveRow> {
    let clock = TimeFormat::new(style);
    let today = Some(clock.date(now));
    let is_live = |of: &&Session<'_>| matches!(of.state(), State::Held | State::Opening | State::Unknown);
    let row = |session: &Session<'_>| {
        let since = session.granted().or(session.opened());
        LiveRow {
            host: escape_name(session.host()).into(),
            guest: escape_name(&session.guest().name).into(),
            mac: session.mac().to_string(),
            devices: devices(session),
            since: since.map_or(NONE.into(), |since| clock.short(since, today)).into(),
            age: since.map_or(NONE.into(), |since| duration(now.duration_since(since))).into(),
            state: session.state(),
            basis: session.certainty(),
        }
    };
    Session::group(&report.holdings).iter().filter(is_live).rev().map(row).collect()
}

/// Something that happened to an interface, or a finding. All text is safe for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveEvent {
    /// When.
    pub at: Timestamp,
    /// The same as text.
    pub time: String,
    /// `granted`, `released`, `open-failed`, `never-granted`, or the kind of a finding.
    pub what: &'static str,
    /// The guest's name; empty where it is about none.
    pub guest: String,
    /// A sentence, or MAC and devices.
    pub text: String,
    /// Whether it should be looked at first.
    pub grave: bool,
}

/// The last events, the newest first.
pub fn live_events(report: &Report, now: Timestamp, most: usize, style: &Style) -> Vec<LiveEvent> {
    let clock = TimeFormat::new(style);
    let today = Some(clock.date(now));
    let mut events = Vec::new();
    for session in Session::group(&report.holdings) {
        let end = match session.state() {
            State::OpenFailed => session.opened().map(|at| (at, "open-failed")),
            State::NeverGranted => session.opened().map(|at| (at, "never-granted")),
            _ => session.released().map(|at| (at, "released")),
        };
        let granted = session.granted().map(|at| (at, "granted"));
        for (at, what) in granted.into_iter().chain(end) {
            events.push(LiveEvent {
                at,
                time: clock.short(at, today).into(),
                what,
                guest: escape_name(&session.guest().name).into(),
                text: format!("{} {}", session.mac(), devices(&session)),
                grave: false,
            });
        }
    }
    events.extend(report.findings.iter().map(|finding| LiveEvent {
        at: finding.time,
        time: clock.short(finding.time, today).into(),
        what: finding.kind.as_str(),
        guest: finding.guest.as_ref().map_or(String::new(), |guest| escape_name(&guest.name).into()),
        text: sentence(finding).into(),
        grave: finding.kind.severity() == Severity::Grave,
    }));
    events.sort_by_key(|event| std::cmp::Reverse(event.at));
    events.truncate(most);
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{at, finding, holding};

    fn report() -> Report {
        Report {
            holdings: vec![
                holding("web1", 1, 10, Some(30)),
                holding("web\x1b2", 2, 20, None),
                holding("web3", 3, 25, None),
            ],
            findings: vec![finding(Some("web1"), Some(1), 28)],
            ..Report::default()
        }
    }

    #[test]
    fn what_is_held_is_shown_newest_first() {
        let style = Style { utc: true, ..Style::default() };
        let rows = live_rows(&report(), at(81), &style);
        let words: Vec<_> = rows.iter().map(|row| (&*row.guest, &*row.since, &*row.age)).collect();
        assert_eq!(words, [("web3", "00:00:26", "55.0s"), ("web\\u{1b}2", "00:00:21", "1m00s")]);
    }

    #[test]
    fn the_last_events_are_shown_newest_first() {
        let style = Style { utc: true, ..Style::default() };
        let all = live_events(&report(), at(81), 10, &style);
        let words: Vec<_> = all.iter().map(|event| (&*event.time, event.what, event.grave)).collect();
        assert_eq!(
            words,
            [
                ("00:00:30", "released", false),
                ("00:00:28", "open-failed", false),
                ("00:00:26", "granted", false),
                ("00:00:21", "granted", false),
                ("00:00:11", "granted", false),
            ]
        );
        assert_eq!(live_events(&report(), at(81), 2, &style), all[..2]);
    }
}
