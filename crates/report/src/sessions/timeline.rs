//! A trail as a picture of text: a lane for each interface, time from left to right.

use std::collections::HashMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use taptrail_record::MacAddr;
use taptrail_trail::{Holding, Report, Span, State};
use uuid::Uuid;

use super::Session;
use crate::Style;
use crate::bridge_taps;
use crate::style::TimeFormat;
use crate::text::{duration, escape_name};
use crate::trail::hosts;

/// The width of a lane's label: two blanks, a MAC and two blanks.
const LABEL_WIDTH: usize = 21;

/// The width of the picture where the output is no terminal.
const DEFAULT_WIDTH: usize = 100;

/// A lane has no fewer columns than this, however narrow the terminal is.
const MIN_LANE_WIDTH: usize = 20;

/// What a column of a lane shows. Where several things are in one column, the last of them here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Nothing,
    Gap,
    PossiblyHeld,
    Held,
    Failed,
    Finding,
}

impl Mark {
    const ALL: [Self; 5] = [Self::Held, Self::PossiblyHeld, Self::Failed, Self::Finding, Self::Gap];

    fn character(self, ascii: bool) -> char {
        match (self, ascii) {
            (Self::Nothing, _) => ' ',
            (Self::Gap, false) => '░',
            (Self::Gap, true) => ':',
            (Self::PossiblyHeld, false) => '┄',
            (Self::PossiblyHeld, true) => '-',
            (Self::Held, false) => '━',
            (Self::Held, true) => '=',
            (Self::Failed, false) => '×',
            (Self::Failed, true) => 'x',
            (Self::Finding, _) => '!',
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Gap => "records may be missing",
            Self::PossiblyHeld => "possibly held",
            Self::Held => "held",
            Self::Failed => "open failed",
            Self::Finding => "finding",
        }
    }
}

/// A host, a guest and an interface.
type Key<'a> = (&'a str, Uuid, MacAddr);

/// The trail's interfaces as lanes; `ascii` for terminals without Unicode.
pub fn timeline(report: &Report, style: &Style, ascii: bool) -> String {
    let sessions = Session::group(&report.holdings);
    let Some(range) = range(report, &sessions) else {
        return "No holdings\n".to_owned() + &taps_block(report, style);
    };
    let width = style.width.map_or(DEFAULT_WIDTH, usize::from);
    let columns = width.saturating_sub(LABEL_WIDTH).max(MIN_LANE_WIDTH);
    let scale = Scale { range, columns };

    let mut lanes: Vec<(Key<'_>, &Session<'_>, Vec<Mark>)> = Vec::new();
    let mut known: HashMap<Key<'_>, usize> = HashMap::new();
    for session in &sessions {
        let key = (session.host(), session.guest().uuid, session.mac());
        let at = *known.entry(key).or_insert_with(|| {
            lanes.push((key, session, scale.empty_lane(report, session.host())));
            lanes.len() - 1
        });
        session.holdings.iter().for_each(|holding| scale.draw(holding, report, &mut lanes[at].2));
    }
    for finding in &report.findings {
        let Some((guest, mac)) = finding.guest.as_ref().zip(finding.mac) else { continue };
        if let Some(at) = known.get(&(&*finding.host, guest.uuid, mac)) {
            scale.put(&mut lanes[*at].2, finding.time, finding.time, Mark::Finding);
        }
    }
    // A guest's lanes stand together, in the order in which guests and interfaces began.
    let mut guests: HashMap<(&str, Uuid), usize> = HashMap::new();
    let order: Vec<_> = lanes
        .iter()
        .map(|((host, uuid, _), ..)| {
            let next = guests.len();
            *guests.entry((host, *uuid)).or_insert(next)
        })
        .collect();
    let mut places: Vec<_> = (0..lanes.len()).collect();
    places.sort_by_key(|at| order[*at]);

    let mut text = scale.axis(style);
    let several = lanes.iter().any(|((host, ..), ..)| *host != lanes[0].0.0);
    let mut last = None;
    let mut used = Vec::new();
    for at in places {
        let ((host, uuid, mac), session, marks) = &lanes[at];
        if last.replace((host, uuid)) != Some((host, uuid)) {
            let host = if several { format!(" on {}", escape_name(host)) } else { String::new() };
            // Writing to a String can't fail.
            let _ = writeln!(text, "{}{host}", escape_name(&session.guest().name));
        }
        used.extend(marks);
        let line: String = marks.iter().map(|mark| mark.character(ascii)).collect();
        let _ = writeln!(text, "{}", format!("  {mac}  {line}").trim_end());
    }
    let legend: Vec<_> = Mark::ALL
        .iter()
        .filter(|mark| used.contains(mark))
        .map(|mark| format!("{} {}", mark.character(ascii), mark.meaning()))
        .collect();
    let _ = writeln!(text, "\n{}", legend.join("   "));
    text + &taps_block(report, style)
}

/// The bridge helper's taps as rows: they have no interface that would be a lane.
fn taps_block(report: &Report, style: &Style) -> String {
    let taps = &report.bridge_taps;
    if taps.is_empty() {
        return String::new();
    }
    format!("\n{}", bridge_taps::block(taps, hosts(report), style))
}

/// From the first event to the last, or to the end of the logs where something is held.
fn range(report: &Report, sessions: &[Session<'_>]) -> Option<Span> {
    let holdings = || sessions.iter().flat_map(|session| &session.holdings);
    let proofs = || holdings().flat_map(|holding| &holding.proof).map(|proof| proof.time);
    let first = holdings().filter_map(|of| of.opened.or(of.granted)).chain(proofs()).min()?;
    let ends = report.input.coverage.iter().filter_map(|of| of.spans.last()).map(|span| span.until);
    let is_held = holdings().any(|of| of.state == State::Held);
    let last = proofs().chain(holdings().filter_map(|of| of.released)).max()?;
    let last = ends.filter(|_| is_held).chain([last]).max()?;
    Some(Span { from: first, until: last })
}

/// Times as columns.
struct Scale {
    range: Span,
    columns: usize,
}

impl Scale {
    fn column(&self, time: Timestamp) -> usize {
        let all = self.range.until.duration_since(self.range.from).as_nanos().max(1);
        let part = time.duration_since(self.range.from).as_nanos().clamp(0, all);
        let columns = i128::try_from(self.columns).unwrap_or(1);
        usize::try_from(part * columns / all).unwrap_or_default().min(self.columns - 1)
    }

    fn put(&self, lane: &mut [Mark], from: Timestamp, until: Timestamp, mark: Mark) {
        if until < self.range.from || from > self.range.until {
            return;
        }
        for cell in &mut lane[self.column(from)..=self.column(until)] {
            *cell = (*cell).max(mark);
        }
    }

    fn empty_lane(&self, report: &Report, host: &str) -> Vec<Mark> {
        let mut lane = vec![Mark::Nothing; self.columns];
        let coverage = report.input.coverage.iter().find(|of| *of.host == *host);
        for gap in coverage.iter().flat_map(|of| &of.gaps) {
            self.put(&mut lane, gap.from, gap.until, Mark::Gap);
        }
        lane
    }

    fn draw(&self, holding: &Holding, report: &Report, lane: &mut [Mark]) {
        let coverage = report.input.coverage.iter().find(|of| *of.host == *holding.host);
        let known = coverage.and_then(|of| of.spans.last()).map_or(self.range.until, |last| last.until);
        if let Some((from, until)) = holding.certainly_held() {
            self.put(lane, from, until.min(known), Mark::Held);
        }
        for possibly in &holding.possibly_held {
            let from = possibly.from.unwrap_or(self.range.from);
            // Without an end it may last for ever: it is drawn to the end of what is known.
            self.put(lane, from, possibly.until.unwrap_or(known).max(from), Mark::PossiblyHeld);
        }
        if holding.state == State::OpenFailed
            && let Some(opened) = holding.opened
        {
            self.put(lane, opened, opened, Mark::Failed);
        }
    }

    /// The day and zone, and below it the times at the left, in the middle and at the right.
    fn axis(&self, style: &Style) -> String {
        let clock = TimeFormat::new(style);
        let Span { from, until } = self.range;
        let long = until.duration_since(from);
        let day = clock.date(from);
        let times = [from, from + long / 2, until].map(|time| clock.short(time, Some(day)));
        let mut line = times[0].to_string();
        let middle = (self.columns / 2).saturating_sub(times[1].len() / 2);
        let right = self.columns.saturating_sub(times[2].len());
        for (at, time) in [(middle, &times[1]), (right, &times[2])] {
            // A time that has no room beside the one before it is left out.
            if at > line.len() {
                // Writing to a String can't fail.
                let _ = write!(line, "{:blanks$}{time}", "", blanks = at - line.len());
            }
        }
        format!("{}, {}\n{:LABEL_WIDTH$}{line}\n", clock.day(day), duration(long), "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{at, finding, holding};

    fn picture(report: &Report, width: u16, ascii: bool) -> String {
        timeline(report, &Style { utc: true, width: Some(width), ..Style::default() }, ascii)
    }

    #[test]
    fn a_lane_shows_when_an_interface_was_held() {
        let failed = Holding {
            state: State::OpenFailed,
            granted: None,
            possibly_held: Vec::new(),
            ..holding("web1", 2, 30, None)
        };
        let holdings = vec![holding("web1", 1, 0, Some(20)), holding("db", 3, 10, Some(40)), failed];
        let report =
            Report { holdings, findings: vec![finding(Some("web1"), Some(1), 40)], ..Report::default() };
        assert_eq!(
            picture(&report, 61, true),
            "1970-01-01 UTC, 40.0s
                     00:00:00        00:00:20        00:00:40
web1
  52:54:00:00:00:01   ====================                  !
  52:54:00:00:00:02                                x
db
  52:54:00:00:00:03             =============================

= held   x open failed   ! finding
"
        );
        assert!(picture(&report, 61, false).contains("━━━"));
    }

    #[test]
    fn a_terminal_of_no_width_gets_a_narrow_picture() {
        let report = Report { holdings: vec![holding("web1", 1, 0, None)], ..Report::default() };
        let text = picture(&report, 0, true);
        assert!(text.lines().skip(1).all(|line| line.len() <= LABEL_WIDTH + MIN_LANE_WIDTH), "{text}");
        assert_eq!(picture(&Report::default(), 80, true), "No holdings\n");
    }

    #[test]
    fn what_is_not_known_is_drawn_apart() {
        let gaps = vec![Span { from: at(10), until: at(20) }];
        let coverage =
            taptrail_trail::Coverage { host: "h1".into(), spans: Vec::new(), gaps, starts: vec![] };
        let mut report = Report { holdings: vec![holding("web1", 1, 0, Some(8))], ..Report::default() };
        report.holdings.push(holding("web1", 1, 30, Some(40)));
        report.input.coverage.push(coverage);
        assert!(
            picture(&report, 61, true).contains("======== :::::::::::"),
            "{}",
            picture(&report, 61, true)
        );
    }
}
