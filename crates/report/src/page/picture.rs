//! The rows of a picture, and what is in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{GuestId, MacAddr};
use taptrail_trail::{Coverage, Finding, Report, Severity, State};
use uuid::Uuid;

use super::bar::{Bar, begin, end};
use super::{MAX_FINDINGS, MAX_SESSIONS};
use crate::{Session, bridge_taps};

/// Lanes of one interface at most. Further sessions at the same time are drawn over others.
const MAX_LANES: usize = 8;

/// A report as it is drawn.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    pub(super) report: &'a Report,
    pub(super) rows: Vec<Row<'a>>,
    /// The sessions by their rows, and in each by time.
    pub(super) bars: Vec<Bar<'a>>,
    pub(super) marks: Vec<Mark<'a>>,
    /// The first and the last time that is drawn.
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
    pub(super) counts: Counts,
    /// What was left out, a sentence each.
    pub(super) left_out: Vec<String>,
}

/// A row: of a host, of one of its guests, or of one of that guest's interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub(super) host: &'a str,
    pub(super) guest: Option<&'a GuestId>,
    pub(super) mac: Option<MacAddr>,
    /// Of the rows of one interface, from 0: sessions at the same time have different ones.
    pub(super) lane: usize,
}

/// A finding in its row.
#[derive(Debug)]
pub(super) struct Mark<'a> {
    pub(super) finding: &'a Finding,
    pub(super) row: usize,
    /// The bar that rests on the same record.
    pub(super) bar: Option<usize>,
}

/// The numbers of sessions and findings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Counts {
    pub(super) sessions: usize,
    /// QEMU had a device of them.
    pub(super) held: usize,
    /// Of those, the ones that it still has.
    pub(super) still_held: usize,
    /// QEMU never had it.
    pub(super) never: usize,
    /// It is not known.
    pub(super) unknown: usize,
    pub(super) findings: usize,
    pub(super) grave: usize,
}

impl<'a> Picture<'a> {
    pub(super) fn of(report: &'a Report) -> Self {
        Self::bounded(report, MAX_SESSIONS, MAX_FINDINGS)
    }

    fn bounded(report: &'a Report, most_sessions: usize, most_findings: usize) -> Self {
        let mut sessions = Session::group(&report.holdings);
        let mut findings: Vec<&Finding> = report.findings.iter().collect();
        let counts = Counts::of(&sessions, &findings);
        let mut left_out = Vec::new();
        keep_last(&mut sessions, most_sessions, "sessions", &mut left_out);
        keep_last(&mut findings, most_findings, "findings", &mut left_out);
        left_out.extend(bridge_taps::left_out(&report.bridge_taps));
        let (from, until) = range(report, &sessions, &findings);
        let mut picture = Self {
            report,
            rows: Vec::new(),
            bars: Vec::new(),
            marks: Vec::new(),
            from,
            until,
            counts,
            left_out,
        };
        picture.place(sessions, &findings);
        picture
    }

    fn place(&mut self, sessions: Vec<Session<'a>>, findings: &[&'a Finding]) {
        // Each host, its guests by name, and their interfaces with their sessions.
        type Interfaces<'a> = BTreeMap<MacAddr, Vec<Session<'a>>>;
        let mut names: HashMap<(&'a str, Uuid), &'a GuestId> = HashMap::new();
        let of_findings = findings.iter().filter_map(|of| Some((&*of.host, of.guest.as_ref()?)));
        let of_sessions = sessions.iter().map(|of| (of.host(), of.guest()));
        // A guest that was renamed has the name that it had last.
        for (host, guest) in of_findings.chain(of_sessions) {
            names.insert((host, guest.uuid), guest);
        }
        let mut hosts: BTreeMap<&'a str, BTreeMap<(&'a str, Uuid), Interfaces<'a>>> = BTreeMap::new();
        for coverage in &self.report.input.coverage {
            hosts.entry(&coverage.host).or_default();
        }
        let key = |host: &'a str, guest: &GuestId| {
            (names.get(&(host, guest.uuid)).map_or("", |named| named.name.as_str()), guest.uuid)
        };
        for finding in findings {
            let guests = hosts.entry(&finding.host).or_default();
            let Some(guest) = &finding.guest else { continue };
            let interfaces = guests.entry(key(&finding.host, guest)).or_default();
            if let Some(mac) = finding.mac {
                interfaces.entry(mac).or_default();
            }
        }
        for session in sessions {
            let guests = hosts.entry(session.host()).or_default();
            let interfaces = guests.entry(key(session.host(), session.guest())).or_default();
            interfaces.entry(session.mac()).or_default().push(session);
        }
        let mut places: HashMap<(&'a str, Option<Uuid>, Option<MacAddr>), usize> = HashMap::new();
        for (host, guests) in hosts {
            places.insert((host, None, None), self.rows.len());
            self.rows.push(Row { host, guest: None, mac: None, lane: 0 });
            for ((_, uuid), interfaces) in guests {
                let guest = names.get(&(host, uuid)).copied();
                places.insert((host, Some(uuid), None), self.rows.len());
                self.rows.push(Row { host, guest, mac: None, lane: 0 });
                for (mac, sessions) in interfaces {
                    let mac = Some(mac);
                    places.insert((host, Some(uuid), mac), self.rows.len());
                    self.interface(Row { host, guest, mac, lane: 0 }, sessions);
                }
            }
        }
        let bars = self.bars_by_record();
        for finding in findings {
            let guest = finding.guest.as_ref().map(|guest| guest.uuid);
            let mac = finding.mac.filter(|_| guest.is_some());
            // What is about a whole guest or host is no part of one session.
            let shown = finding.proof.last().zip(guest).zip(mac);
            let bar = shown.and_then(|((proof, guest), mac)| {
                bars.get(&(&*proof.source, proof.line, guest, mac)).copied()
            });
            let row = bar.map(|bar| self.bars[bar].row);
            let row = row.or_else(|| places.get(&(&*finding.host, guest, mac)).copied());
            self.marks.push(Mark { finding, row: row.unwrap_or_default(), bar });
        }
    }

    /// The bars by the records that show them: one that stops a guest ends several interfaces.
    fn bars_by_record(&self) -> HashMap<(&'a str, u64, Uuid, MacAddr), usize> {
        let mut bars = HashMap::new();
        for (at, bar) in self.bars.iter().enumerate() {
            let proofs = bar.session.holdings.iter().flat_map(|holding| &holding.proof);
            let (guest, mac) = (bar.session.guest().uuid, bar.session.mac());
            for proof in proofs {
                bars.entry((&*proof.source, proof.line, guest, mac)).or_insert(at);
            }
        }
        bars
    }

    /// Adds an interface's lanes: sessions at the same time are beside each other.
    fn interface(&mut self, row: Row<'a>, mut sessions: Vec<Session<'a>>) {
        sessions.sort_by_key(begin);
        let mut lanes: Vec<(Timestamp, Vec<Session<'a>>)> = vec![(Timestamp::MIN, Vec::new())];
        for session in sessions {
            let (from, until) = (begin(&session), end(&session));
            let free = lanes.iter().position(|(last, _)| *last <= from);
            let lane = free.unwrap_or_else(|| {
                if lanes.len() < MAX_LANES {
                    lanes.push((Timestamp::MIN, Vec::new()));
                }
                lanes.len() - 1
            });
            lanes[lane].0 = lanes[lane].0.max(until);
            lanes[lane].1.push(session);
        }
        for (lane, (_, sessions)) in lanes.into_iter().enumerate() {
            let at = self.rows.len();
            self.rows.push(Row { lane, ..row });
            self.bars.extend(sessions.into_iter().map(|session| Bar::of(session, at)));
        }
    }

    /// The coverage of a host.
    pub(super) fn coverage(&self, host: &str) -> Option<&'a Coverage> {
        self.report.input.coverage.iter().find(|of| &*of.host == host)
    }

    /// How many hosts, guests and interfaces have rows.
    pub(super) fn counted_rows(&self) -> (usize, usize, usize) {
        let hosts: BTreeSet<&str> = self.rows.iter().map(|row| row.host).collect();
        let guests = self.rows.iter().filter(|row| row.guest.is_some() && row.mac.is_none()).count();
        let interfaces = self.rows.iter().filter(|row| row.mac.is_some() && row.lane == 0).count();
        (hosts.len(), guests, interfaces)
    }
}

/// Keeps the last of some things that are sorted by time.
fn keep_last<T>(all: &mut Vec<T>, most: usize, what: &str, left_out: &mut Vec<String>) {
    let more = all.len().saturating_sub(most);
    if more > 0 {
        all.drain(..more);
        left_out.push(format!(
            "{more} {what}, the oldest: {most} at most are shown. Give a time or a guest to see others"
        ));
    }
}

impl Counts {
    fn of(sessions: &[Session<'_>], findings: &[&Finding]) -> Self {
        let number = |is: &dyn Fn(&Session<'_>) -> bool| sessions.iter().filter(|of| is(of)).count();
        let held = number(&|of| of.was_held());
        let never = number(&|of| of.was_never_granted());
        Self {
            sessions: sessions.len(),
            held,
            still_held: number(&|of| of.state() == State::Held),
            never,
            unknown: sessions.len() - held - never,
            findings: findings.len(),
            grave: findings.iter().filter(|of| of.kind.severity() == Severity::Grave).count(),
        }
    }
}

/// From the first to the last time of anything that is drawn; a second at least.
fn range(report: &Report, sessions: &[Session<'_>], findings: &[&Finding]) -> (Timestamp, Timestamp) {
    let spans = report.input.coverage.iter().flat_map(|of| &of.spans);
    let times = spans.flat_map(|span| [span.from, span.until]);
    let times = times.chain(findings.iter().map(|of| of.time));
    let times = times.chain(sessions.iter().flat_map(|of| {
        let last = of.holdings.iter().filter_map(|of| of.released).max();
        let shown = of.first().proof.first().map(|proof| proof.time);
        [Some(begin(of)), of.granted(), shown, last].into_iter().flatten()
    }));
    let (mut first, mut last) = (Timestamp::MAX, Timestamp::MIN);
    for time in times.filter(|time| *time > Timestamp::MIN) {
        (first, last) = (first.min(time), last.max(time));
    }
    if first > last {
        (first, last) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
    }
    let least = first.checked_add(SignedDuration::from_secs(1)).unwrap_or(first);
    (first, last.max(least))
}

#[cfg(test)]
mod tests {
    use taptrail_trail::{Doubt, Holding};

    use super::*;
    use crate::sample::{at, finding, holding};

    fn rows<'a>(picture: &Picture<'a>) -> Vec<(&'a str, Option<MacAddr>, usize)> {
        let name = |row: &Row<'a>| row.guest.map_or(row.host, |guest| guest.name.as_str());
        picture.rows.iter().map(|row| (name(row), row.mac, row.lane)).collect()
    }

    #[test]
    fn a_row_for_each_host_guest_and_interface() {
        let report = Report {
            holdings: vec![
                holding("web2", 1, 5, Some(6)),
                holding("web1", 2, 10, Some(20)),
                holding("web1", 1, 30, None),
            ],
            findings: vec![
                finding(None, None, 8),
                finding(Some("db"), None, 9),
                finding(Some("web1"), Some(1), 30),
            ],
            ..Report::default()
        };
        let picture = Picture::of(&report);
        let mac = |last| Some(MacAddr::kvm([0, 0, last]));
        let expected = [
            ("h1", None, 0),
            ("db", None, 0),
            ("web1", None, 0),
            ("web1", mac(1), 0),
            ("web1", mac(2), 0),
            ("web2", None, 0),
            ("web2", mac(1), 0),
        ];
        assert_eq!(rows(&picture), expected);
        assert_eq!(picture.bars.iter().map(|bar| bar.row).collect::<Vec<_>>(), [3, 4, 6]);
        assert_eq!(
            picture.marks.iter().map(|mark| (mark.row, mark.bar)).collect::<Vec<_>>(),
            [(0, None), (1, None), (3, Some(0))]
        );
        assert_eq!((picture.from, picture.until), (at(5), at(31)));
        assert_eq!(picture.counted_rows(), (1, 3, 3));
    }

    #[test]
    fn sessions_at_the_same_time_have_lanes_of_their_own() {
        let all: Vec<_> = (0..12).map(|nth| holding("web1", 1, 10 + 5 * nth, None)).collect();
        let report = Report { holdings: all, ..Report::default() };
        let picture = Picture::of(&report);
        assert_eq!(picture.rows.len(), 2 + MAX_LANES);
        assert_eq!(picture.bars.len(), 12);
        let report = Report {
            holdings: (0..12).map(|nth| holding("web1", 1, 10 * nth, Some(10 * nth + 5))).collect(),
            ..Report::default()
        };
        assert_eq!(Picture::of(&report).rows.len(), 3);
    }

    #[test]
    fn what_is_too_much_is_left_out_and_said() {
        let report = Report {
            holdings: (1..=5).map(|nth| holding("web1", 1, 10 * nth, Some(10 * nth + 5))).collect(),
            findings: (1..=5).map(|nth| finding(None, None, 100 * nth)).collect(),
            ..Report::default()
        };
        let picture = Picture::bounded(&report, 2, 3);
        let bars: Vec<_> = picture.bars.iter().map(|bar| begin(&bar.session)).collect();
        assert_eq!(bars, [at(40), at(50)]);
        assert_eq!((picture.counts.sessions, picture.counts.findings, picture.marks.len()), (5, 5, 3));
        assert!(
            picture.left_out[0].starts_with("3 sessions, the oldest: 2 at most"),
            "{:?}",
            picture.left_out
        );
        assert!(picture.left_out[1].starts_with("2 findings, "), "{:?}", picture.left_out);
    }

    #[test]
    fn what_was_held_before_the_trail_begins_with_the_picture() {
        let possibly =
            |until| taptrail_trail::PossiblyHeld { from: None, until: Some(until), why: Doubt::BeforeTrail };
        let before = holding("web1", 1, 10, Some(20));
        let before = Holding { opened: None, granted: None, possibly_held: vec![possibly(at(11))], ..before };
        let report = Report { holdings: vec![before, holding("web1", 1, 30, Some(40))], ..Report::default() };
        let picture = Picture::of(&report);
        assert_eq!(begin(&picture.bars[0].session), Timestamp::MIN);
        assert_eq!(picture.bars[0].certain, Some((at(10), Some(at(20)))));
        assert_eq!((picture.from, picture.until), (at(10), at(40)));
    }

    #[test]
    fn what_is_about_a_whole_guest_is_in_its_row() {
        let mut all = vec![finding(Some("web1"), None, 20), finding(Some("web1"), Some(2), 20)];
        // The record of the guest's stop shows both.
        all.iter_mut().for_each(|one| one.proof[0].line = 20);
        let report = Report {
            holdings: vec![holding("web1", 1, 10, Some(20)), holding("web1", 2, 10, Some(20))],
            findings: all,
            ..Report::default()
        };
        let picture = Picture::of(&report);
        let marks: Vec<_> = picture.marks.iter().map(|mark| (mark.row, mark.bar)).collect();
        assert_eq!(marks, [(1, None), (3, Some(1))]);
    }

    #[test]
    fn nothing_is_a_picture_too() {
        let report = Report::default();
        let picture = Picture::of(&report);
        assert!(picture.rows.is_empty() && picture.from < picture.until);
    }
}
