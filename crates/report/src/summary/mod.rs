//! A trail in a few lines: range, hosts, interfaces, findings, losses; by guest, host, day or device.

mod group;
mod text;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use taptrail_trail::{
    BridgeTap, Coverage, Finding, FindingKind, Holding, Input, Report, Span, State, is_same_host,
};

pub use self::group::GroupBy;
use self::group::{Group, group};
use crate::sessions::real_devices;
use crate::sink::sort_by_time;
use crate::{Filter, Session, Style, TrailConsumer};

/// Collects the part of a trail that a filter selects, for a [`Summary`].
///
/// Its memory grows with the number of holdings. Of each, one record is kept.
#[derive(Debug)]
pub struct Summarizer {
    filter: Filter,
    report: Report,
}

impl Summarizer {
    /// One that selects by `filter`.
    pub fn new(filter: Filter) -> Self {
        Self { filter, report: Report::default() }
    }

    /// The summary. `by` adds a row for each guest, host, day or device; days are in the style's
    /// zone.
    pub fn finish(mut self, input: Input, by: Option<GroupBy>, style: &Style) -> Summary {
        self.report.input = input;
        sort_by_time(&mut self.report);
        let Filter { host, guests, mac, device, .. } = &self.filter;
        // That a host has nothing is an answer only where all of it was asked for.
        let is_whole = guests.is_empty() && mac.is_none() && device.is_none();
        let is_asked = |of: &Coverage| host.as_ref().is_none_or(|asked| is_same_host(asked, &of.host));
        let hosts = self.report.input.coverage.iter().filter(|of| is_whole && is_asked(of));
        let hosts: Vec<_> = hosts.map(|of| Arc::clone(&of.host)).collect();
        Summary::of(&self.report, by, &hosts, style)
    }
}

impl TrailConsumer for Summarizer {
    fn holding(&mut self, mut holding: Holding) -> io::Result<()> {
        if self.filter.matches_holding(&holding) {
            holding.proof.truncate(1);
            self.report.holdings.push(holding);
        }
        Ok(())
    }

    fn bridge_tap(&mut self, mut tap: BridgeTap) -> io::Result<()> {
        if self.filter.matches_bridge_tap(&tap) {
            tap.proof.clear();
            self.report.bridge_taps.push(tap);
        }
        Ok(())
    }

    fn finding(&mut self, mut finding: Finding) -> io::Result<()> {
        if self.filter.matches_finding(&finding) {
            finding.proof.clear();
            finding.text.clear();
            self.report.findings.push(finding);
        }
        Ok(())
    }
}

/// A trail in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The first and last time that the inputs cover, on any host.
    pub range: Option<Span>,
    /// Each host, by name.
    pub hosts: Vec<HostSummary>,
    /// How much was read.
    pub input: InputSummary,
    /// Interface sessions.
    pub sessions: SessionCounts,
    /// Sessions that were held, by how sure they are.
    pub basis: BTreeMap<&'static str, u64>,
    /// Devices, by kind.
    pub devices: BTreeMap<&'static str, DeviceCounts>,
    /// Taps of a bridge helper's, if there are any: they are no sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge_taps: Option<BridgeTapCounts>,
    /// Findings, by kind.
    pub findings: BTreeMap<&'static str, u64>,
    /// A row for each guest, host, day or device, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Grouped>,
    /// The assumptions that were made to read the input, and what is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The coverage of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostSummary {
    /// The host.
    pub host: String,
    /// The first and last time covered.
    #[serde(flatten)]
    pub range: Option<Span>,
    /// Time ranges that no input covers.
    pub uncovered: u64,
    /// Time ranges within the covered ones of which records may be missing.
    pub gaps: u64,
    /// The length of those, in milliseconds.
    pub gap_ms: u64,
    /// The time ranges of which records may be missing, because of a gap or as no input covers
    /// them.
    pub missing: Vec<Span>,
    /// Boots of the host, and other times at which no device was held without a record.
    pub starts: u64,
}

/// How much was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputSummary {
    /// Files, journals and ledgers.
    pub files: u64,
    /// Bytes, as stored.
    pub bytes: u64,
    /// Lines or rows.
    pub lines: u64,
    /// Records of guests and their network devices.
    pub records: u64,
    /// Lines that should have been records and could not be parsed or trusted.
    pub unreadable: u64,
    /// Lines that look like records and are in no shape that is read.
    pub unread: u64,
    /// Records that were read before, from a copy of their log.
    pub duplicates: u64,
}

/// Interface sessions by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SessionCounts {
    /// QEMU got them.
    pub held: u64,
    /// Those of `held` that were held as the trail ends.
    pub still_held: u64,
    /// Whether QEMU got them is not known, or not yet.
    pub unknown: u64,
    /// They were opened, or an open was tried, and no record says that QEMU got them.
    pub never_granted: u64,
}

/// Devices of a kind by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DeviceCounts {
    /// QEMU got them.
    pub held: u64,
    /// Whether QEMU got them is not known, or not yet.
    pub unknown: u64,
    /// They were opened, and no record says that QEMU got them.
    pub never_granted: u64,
    /// Their open failed.
    pub open_failed: u64,
}

/// Taps of a bridge helper's by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BridgeTapCounts {
    /// They were passed.
    pub passed: u64,
    /// Those of `passed` that are held as the trail ends.
    pub still_held: u64,
    /// Those of `passed` whose end nobody was to record.
    pub unknown: u64,
    /// They could not be passed.
    pub never_passed: u64,
}

/// The rows of `--by`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grouped {
    /// What a row is.
    pub key: GroupBy,
    /// The rows, by name or by time.
    pub rows: Vec<Group>,
}

impl Summary {
    fn of(report: &Report, by: Option<GroupBy>, all_hosts: &[Arc<str>], style: &Style) -> Self {
        let sessions = Session::group(&report.holdings);
        let Input { bytes, lines, records, unreadable, unread, duplicates, .. } = report.input;
        let files = report.input.files.len() as u64;
        let mut summary = Self {
            range: range(report.input.coverage.iter().flat_map(|of| &of.spans)),
            hosts: report.input.coverage.iter().map(HostSummary::of).collect(),
            input: InputSummary { files, bytes, lines, records, unreadable, unread, duplicates },
            sessions: SessionCounts::default(),
            basis: BTreeMap::new(),
            devices: BTreeMap::new(),
            bridge_taps: None,
            findings: BTreeMap::new(),
            by: by.map(|key| Grouped { key, rows: group(report, &sessions, key, all_hosts, style) }),
            notes: report.input.notes.clone(),
        };
        for session in &sessions {
            summary.sessions.add(session);
            if session.was_held() {
                *summary.basis.entry(session.certainty().as_str()).or_default() += 1;
            }
            for holding in real_devices(session) {
                summary.devices.entry(holding.device.kind.as_str()).or_default().add(holding);
            }
        }
        for tap in &report.bridge_taps {
            summary.bridge_taps.get_or_insert_default().add(tap);
        }
        for finding in &report.findings {
            *summary.findings.entry(finding.kind.as_str()).or_default() += 1;
        }
        summary
    }

    /// The kinds of findings with their counts.
    fn kinds(&self) -> impl Iterator<Item = (FindingKind, u64)> {
        self.findings.iter().filter_map(|(word, count)| Some((FindingKind::from_word(word)?, *count)))
    }
}

impl HostSummary {
    fn of(coverage: &Coverage) -> Self {
        let Coverage { host, spans, gaps, starts } = coverage;
        let long = |gap: &Span| gap.until.duration_since(gap.from).as_millis().max(0).unsigned_abs();
        let gap_ms: u128 = gaps.iter().map(long).sum();
        Self {
            host: host.to_string(),
            range: range(spans),
            uncovered: (spans.len() as u64).saturating_sub(1),
            gaps: gaps.len() as u64,
            gap_ms: u64::try_from(gap_ms).unwrap_or(u64::MAX),
            missing: missing(spans, gaps),
            starts: starts.len() as u64,
        }
    }
}

impl SessionCounts {
    fn add(&mut self, session: &Session<'_>) {
        match session.state() {
            State::Held => {
                self.held += 1;
                self.still_held += 1;
            }
            State::Released => self.held += 1,
            State::Unknown | State::Opening => self.unknown += 1,
            State::NeverGranted | State::OpenFailed => self.never_granted += 1,
        }
    }
}

impl BridgeTapCounts {
    fn add(&mut self, tap: &BridgeTap) {
        match tap.state {
            State::NeverGranted | State::OpenFailed => {
                self.never_passed += 1;
                return;
            }
            State::Held => self.still_held += 1,
            State::Unknown | State::Opening => self.unknown += 1,
            State::Released => {}
        }
        self.passed += 1;
    }
}

impl DeviceCounts {
    fn add(&mut self, holding: &Holding) {
        let count = match holding.state {
            State::Held | State::Released => &mut self.held,
            State::Unknown | State::Opening => &mut self.unknown,
            State::NeverGranted => &mut self.never_granted,
            State::OpenFailed => &mut self.open_failed,
        };
        *count += 1;
    }
}

/// The gaps, and the ranges between the spans, in order; ranges that touch are one.
fn missing(spans: &[Span], gaps: &[Span]) -> Vec<Span> {
    let uncovered = spans.windows(2).map(|two| Span { from: two[0].until, until: two[1].from });
    let mut all: Vec<Span> = uncovered.chain(gaps.iter().copied()).collect();
    all.sort_unstable();
    let mut joined: Vec<Span> = Vec::with_capacity(all.len());
    for range in all {
        match joined.last_mut() {
            Some(last) if range.from <= last.until => last.until = last.until.max(range.until),
            _ => joined.push(range),
        }
    }
    joined
}

/// From the first moment of some ranges to the last.
fn range<'a>(spans: impl IntoIterator<Item = &'a Span>) -> Option<Span> {
    let widen =
        |all: Span, one: &Span| Span { from: all.from.min(one.from), until: all.until.max(one.until) };
    let mut spans = spans.into_iter();
    let first = *spans.next()?;
    Some(spans.fold(first, widen))
}

/// The earlier or later of two times, where one may not be known.
fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{at, bridge_tap, holding};

    fn span(from: i64, until: i64) -> Span {
        Span { from: at(from), until: at(until) }
    }

    fn coverage(host: &str, spans: &[Span], gaps: &[Span]) -> Coverage {
        Coverage { host: host.into(), spans: spans.to_vec(), gaps: gaps.to_vec(), starts: Vec::new() }
    }

    #[test]
    fn taps_of_the_bridge_helper_are_counted_apart() {
        let mut summarizer = Summarizer::new(Filter::default());
        let of = |state| BridgeTap { state, ..bridge_tap(10, None) };
        let taps = [of(State::Held), of(State::Unknown), of(State::NeverGranted), bridge_tap(10, Some(30))];
        taps.into_iter().for_each(|tap| summarizer.bridge_tap(tap).unwrap());
        let summary = summarizer.finish(Input::default(), None, &Style::default());
        let text = summary.text(&Style::default());
        let line = text.lines().find(|line| line.starts_with("Bridge taps")).unwrap();
        assert_eq!(line, "Bridge taps 3 passed, 1 of them still held, 1 with an unknown end; 1 never passed");
        assert_eq!(summary.sessions, SessionCounts::default());
    }

    #[test]
    fn guests_of_one_name_are_told_apart_by_their_uuids() {
        let mut summarizer = Summarizer::new(Filter::default());
        let mut other = holding("web1", 2, 10, None);
        other.guest.uuid = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e".parse().unwrap();
        let all = [holding("web1", 1, 10, None), other, holding("web2", 3, 10, None)];
        all.into_iter().for_each(|holding| summarizer.holding(holding).unwrap());
        let text = summarizer.finish(Input::default(), Some(GroupBy::Guest), &Style::default());
        let text = text.text(&Style::default());
        let names = text.lines().skip_while(|line| !line.starts_with("GUEST")).skip(1);
        let names: Vec<_> = names.map(|line| line.split("  ").next().unwrap()).collect();
        let first = holding("web1", 1, 10, None).guest.uuid.to_string();
        let first = format!("web1 ({})", first.split('-').next().unwrap());
        let mut expect = [first.as_str(), "web1 (2ea4e9f1)", "web2"];
        expect.sort_unstable();
        assert_eq!(names, expect, "{text}");
    }

    #[test]
    fn what_is_missing_is_named_by_host_once() {
        let day = 86_400;
        let coverage = vec![
            // The numbers of the rotation that is missing are a gap, and nothing covers its time.
            coverage("a", &[span(0, 100), span(5000, 2 * day)], &[span(100, 5000), span(5000, 5010)]),
            coverage("b", &[span(0, 100)], &[]),
            coverage("c", &[span(0, day)], &[span(1, 2), span(4, 5), span(7, 8)]),
        ];
        let input = Input { coverage, ..Input::default() };
        let style = Style { utc: true, ..Style::default() };
        let summary = Summarizer::new(Filter::default()).finish(input.clone(), Some(GroupBy::Host), &style);
        assert_eq!(summary.hosts[0].missing, [span(100, 5010)]);
        insta::assert_snapshot!(summary.text(&style));
        // A host that was not asked for, or that a guest was asked for on, has no row of zeros.
        let rows = |filter| Summarizer::new(filter).finish(input.clone(), Some(GroupBy::Host), &style).by;
        let names = |filter| -> Vec<String> {
            rows(filter).into_iter().flat_map(|by| by.rows).map(|row| row.host).collect()
        };
        assert_eq!(names(Filter { host: Some("b".into()), ..Filter::default() }), ["b"]);
        assert!(names(Filter { guests: vec!["web".parse().unwrap()], ..Filter::default() }).is_empty());
    }
}
