use std::convert::Infallible;
use std::str::FromStr;

use jiff::Timestamp;
use taptrail_record::{Device, DeviceKind, GuestId, IfName, MacAddr, Rdev, socket_path};
use taptrail_trail::{
    BridgeTap, Doubt, Finding, FindingKind, GuestRun, Holding, RunState, Severity, State, is_same_host,
};
use uuid::Uuid;

use crate::Subject;
use crate::bridge_taps;
use crate::span::{Holds, QueryRange, holds};

/// Selects holdings and findings: those that meet all conditions that are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// What a query names in one word.
    pub subject: Option<Subject>,
    /// Host name, with or without its domain.
    pub host: Option<String>,
    /// One of these guests; any when empty.
    pub guests: Vec<GuestFilter>,
    /// The interface's address.
    pub mac: Option<MacAddr>,
    /// The device.
    pub device: Option<DeviceFilter>,
    /// Holdings that had not ended before this time.
    pub start: Option<Timestamp>,
    /// Holdings that began before this time (exclusive).
    pub end: Option<Timestamp>,
    /// Held, or possibly held, by QEMU at some moment of this time range.
    pub at: Option<QueryRange>,
    /// Held by QEMU as the trail ends.
    pub held: bool,
    /// Held by QEMU at any time.
    pub granted: bool,
    /// Findings of one of these kinds; any when empty.
    pub kinds: Vec<FindingKind>,
    /// Findings of at least this severity.
    pub severity: Option<Severity>,
}

impl Filter {
    /// Whether a holding matches.
    pub fn matches_holding(&self, holding: &Holding) -> bool {
        self.keeps(holding, Some(&holding.device), self.at)
    }

    /// Whether a holding would match if the filter's `at` were not set.
    pub(crate) fn matches_at_any_time(&self, holding: &Holding) -> bool {
        self.keeps(holding, Some(&holding.device), None)
    }

    /// As [`matches_holding`](Self::matches_holding), with this `at`. Without a device, the filter's
    /// device is not checked.
    fn keeps(&self, holding: &Holding, device: Option<&Device>, at: Option<QueryRange>) -> bool {
        // A start that failed may have passed the descriptors to QEMU before.
        let failed = holding.possibly_held.iter().any(|possibly| possibly.why == Doubt::Failed);
        let had = matches!(holding.state, State::Held | State::Released | State::Opening | State::Unknown)
            || failed
            || at.is_some();
        let Holding { host, guest, mac, .. } = holding;
        self.is_about(host, Some(guest), Some(*mac), device, true)
            && self.is_in_range(holding)
            && at.is_none_or(|at| holds(holding, at) != Holds::No)
            && (!self.held || holding.state == State::Held)
            && (!self.granted || had)
    }

    /// Whether a holding may match: its records lack the interface, number or path that the filter
    /// names.
    pub fn may_match(&self, holding: &Holding) -> bool {
        let asked = self.device.as_ref().is_some_and(|asked| asked.is_missing_in(&holding.device));
        let missing =
            asked || self.subject.as_ref().is_some_and(|asked| asked.is_missing_in(&holding.device));
        missing && self.keeps(holding, None, self.at)
    }

    /// Whether a guest's run matches: its guest and host, and the time in which it may have run.
    pub fn matches_run(&self, run: &GuestRun) -> bool {
        let span = QueryRange::of_run(run);
        self.is_about(&run.host, Some(&run.guest), None, None, true)
            && self.is_within(span)
            && self.at.is_none_or(|at| at.touches(span.from, span.to))
            && (!self.held || run.state == RunState::Running)
    }

    /// Whether a tap of the bridge helper's matches. Its MAC is not known, so it matches none; it
    /// matches the guest that its QEMU claims to be.
    pub fn matches_bridge_tap(&self, tap: &BridgeTap) -> bool {
        let claimed = tap.claimed_name.is_some() || tap.claimed_uuid.is_some();
        let guest = claimed.then(|| GuestId {
            name: tap.claimed_name.clone().unwrap_or_default(),
            uuid: tap.claimed_uuid.unwrap_or_default(),
        });
        let span = bridge_taps::range(tap);
        self.is_about(&tap.host, guest.as_ref(), None, Some(&tap.device), false)
            && self.is_within(span)
            && self.at.is_none_or(|at| at.touches(span.from, span.to))
            && (!self.held || tap.state == State::Held)
            && (!(self.granted || self.at.is_some()) || tap.state != State::NeverGranted)
    }

    /// Whether an event matches: its host, its guest and its time.
    pub(crate) fn matches_event(&self, host: &str, guest: Option<&GuestId>, time: Timestamp) -> bool {
        self.is_about(host, guest, None, None, false)
            && self.is_within(QueryRange::at(time))
            && self.at.is_none_or(|at| QueryRange::at(time).touches(at.from, at.to))
    }

    /// Whether a finding matches. One that names no guest, interface or device matches no filter
    /// for one.
    pub fn matches_finding(&self, finding: &Finding) -> bool {
        self.accepts(finding, false)
    }

    /// Whether a finding may concern a holding that matches: one that names no guest, interface or
    /// device may concern any.
    pub(crate) fn may_concern(&self, finding: &Finding) -> bool {
        self.accepts(finding, true)
    }

    /// Whether only the findings that concern a matching holding match.
    pub fn depends_on_holdings(&self) -> bool {
        self.at.is_some() || self.held || self.granted
    }

    fn accepts(&self, finding: &Finding, unnamed: bool) -> bool {
        let Finding { host, guest, mac, device, time, .. } = finding;
        self.is_about(host, guest.as_ref(), *mac, device.as_ref(), unnamed)
            && self.is_within(QueryRange { from: *time, to: *time })
            && (self.kinds.is_empty() || self.kinds.contains(&finding.kind))
            && self.severity.is_none_or(|least| finding.kind.severity() >= least)
    }

    /// `unnamed` is the result where the filter names a guest, interface or device, and the
    /// argument is none.
    fn is_about(
        &self,
        host: &str,
        guest: Option<&GuestId>,
        mac: Option<MacAddr>,
        device: Option<&Device>,
        unnamed: bool,
    ) -> bool {
        self.subject.as_ref().is_none_or(|asked| asked.matches(guest, mac, device, unnamed))
            && self.host.as_ref().is_none_or(|asked| is_same_host(asked, host))
            && (self.guests.is_empty()
                || guest.map_or(unnamed, |guest| self.guests.iter().any(|asked| asked.matches(guest))))
            && self.mac.is_none_or(|asked| mac.map_or(unnamed, |mac| mac == asked))
            && self.device.as_ref().is_none_or(|asked| device.map_or(unnamed, |device| asked.matches(device)))
    }

    /// Whether a holding was in the time range, or may have been: one whose end no record shows may
    /// have outlived its last record.
    fn is_in_range(&self, holding: &Holding) -> bool {
        let (from, to) = (self.start.unwrap_or(Timestamp::MIN), self.end.unwrap_or(Timestamp::MAX));
        self.is_within(QueryRange::of(holding)) || holds(holding, QueryRange { from, to }) != Holds::No
    }

    fn is_within(&self, span: QueryRange) -> bool {
        self.start.is_none_or(|start| span.to >= start) && self.end.is_none_or(|end| span.from < end)
    }
}

/// A guest, as `--guest` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestFilter {
    /// By its name.
    Name(String),
    /// By its uuid; also matches a guest whose name is this uuid.
    Uuid(Uuid),
}

impl GuestFilter {
    /// Whether it names this guest.
    pub fn matches(&self, guest: &GuestId) -> bool {
        match self {
            Self::Name(name) => guest.name == *name,
            Self::Uuid(uuid) => guest.uuid == *uuid || guest.name.parse() == Ok(*uuid),
        }
    }
}

impl FromStr for GuestFilter {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Uuid))
    }
}

/// A device, as `--device` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceFilter {
    /// By its kind.
    Kind(DeviceKind),
    /// By the path that was opened.
    Path(String),
    /// By its device number.
    Number(Rdev),
    /// By the host interface behind it.
    Interface(IfName),
}

impl DeviceFilter {
    /// Whether the device's records lack what the filter compares: libvirt's records of a tap have
    /// no interface name.
    pub(crate) fn is_missing_in(&self, device: &Device) -> bool {
        match self {
            Self::Kind(_) => device.kind == DeviceKind::Unknown,
            Self::Path(_) => device.kind == DeviceKind::Unknown && device.path.is_empty(),
            // A socket has no number: none is missing.
            Self::Number(_) => device.rdev.is_none() && device.kind != DeviceKind::VhostUser,
            Self::Interface(_) => {
                device.dev.is_none() && matches!(device.kind, DeviceKind::Tun | DeviceKind::Unknown)
            }
        }
    }

    /// Whether it names this device.
    pub fn matches(&self, device: &Device) -> bool {
        match self {
            Self::Kind(kind) => device.kind == *kind,
            Self::Path(path) => socket_path(&device.path) == path,
            Self::Number(number) => device.rdev == Some(*number),
            // libvirt's records have a macvtap's interface name as its path.
            Self::Interface(name) => {
                device.dev.as_deref() == Some(name.as_str()) || device.path == name.as_str()
            }
        }
    }
}

/// The text names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' names no device: a path (/dev/tap7), an interface (vnet0), a number (0A:C8), tun, macvtap, \
     vhost-net, vhost-vdpa or vhost-user is needed"
)]
pub struct DeviceFilterError(String);

impl FromStr for DeviceFilter {
    type Err = DeviceFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Tables have shorter words for some.
        let word = match text {
            "tap" => "tun",
            "vhost" => "vhost-net",
            "vdpa" => "vhost-vdpa",
            word => word,
        };
        let known = DeviceKind::ALL.iter().filter(|kind| **kind != DeviceKind::Unknown);
        if let Some(kind) = known.copied().find(|kind| kind.as_str() == word) {
            Ok(Self::Kind(kind))
        } else if socket_path(text).starts_with('/') {
            Ok(Self::Path(socket_path(text).to_owned()))
        } else if let Ok(number) = text.parse() {
            Ok(Self::Number(number))
        } else if let Ok(name) = text.parse() {
            Ok(Self::Interface(name))
        } else {
            Err(DeviceFilterError(text.chars().take(64).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use taptrail_trail::{Doubt, PossiblyHeld};

    use super::*;
    use crate::sample::{at, bridge_tap, finding, holding};

    fn keeps(filter: Filter, holding: &Holding) -> bool {
        filter.matches_holding(holding)
    }

    #[test]
    fn a_kind_is_known_by_the_words_of_tables_too() {
        let kind = |text: &str| match text.parse() {
            Ok(DeviceFilter::Kind(kind)) => Some(kind.as_str()),
            _ => None,
        };
        for kind_of in DeviceKind::ALL.iter().filter(|kind| **kind != DeviceKind::Unknown) {
            assert_eq!(kind(kind_of.as_str()), Some(kind_of.as_str()));
        }
        let words = ["tap", "vhost", "vdpa", "tap0", "unknown"].map(kind);
        assert_eq!(words, [Some("tun"), Some("vhost-net"), Some("vhost-vdpa"), None, None]);
    }

    #[test]
    fn a_number_asked_for_is_missing_in_no_socket() {
        let device = |kind| Device { kind, path: "unix:/run/v.sock".into(), rdev: None, dev: None };
        let number: DeviceFilter = "0A:C8".parse().unwrap();
        assert!(!number.is_missing_in(&device(DeviceKind::VhostUser)));
        assert!(number.is_missing_in(&device(DeviceKind::Tun)));
    }

    #[test]
    fn nothing_asked_for_is_everything() {
        assert!(keeps(Filter::default(), &holding("web1", 1, 10, None)));
        assert!(Filter::default().matches_finding(&finding(None, None, 10)));
    }

    #[test]
    fn a_holding_is_held_from_its_grant_until_its_release() {
        let over = holding("web1", 1, 10, Some(20));
        let held = |time, holding: &Holding| {
            let asked = Filter { at: Some(QueryRange::at(at(time))), ..Filter::default() };
            asked.matches_holding(holding)
        };
        let at_times: Vec<i64> = (8..24).filter(|time| held(*time, &over)).collect();
        assert_eq!(at_times, Vec::from_iter(11..20));
        let lasting = holding("web1", 1, 10, None);
        assert!(!held(10, &lasting) && held(11, &lasting) && held(1_000_000, &lasting));
        let possibly = PossiblyHeld { from: None, until: Some(at(10)), why: Doubt::BeforeTrail };
        let before = Holding { opened: None, granted: None, possibly_held: vec![possibly], ..lasting };
        assert!(held(-1_000_000, &before), "possibly");
        let failed = Holding { state: State::OpenFailed, granted: None, ..over.clone() };
        assert!(!held(15, &failed));
        // No record shows its end: the last record of its proof bounds it.
        let unseen = Holding { released: None, last_seen: Some(at(20)), ..over };
        assert!(held(19, &unseen) && !held(20, &unseen));
    }

    #[test]
    fn a_window_takes_what_overlaps_it() {
        let holding = holding("web1", 1, 10, Some(20));
        let within = |start: i64, end: i64| {
            keeps(Filter { start: Some(at(start)), end: Some(at(end)), ..Filter::default() }, &holding)
        };
        assert!(within(0, 11) && within(12, 13) && within(20, 30) && within(0, 100));
        assert!(!within(0, 10) && !within(21, 30));
        let possibly = PossiblyHeld { from: Some(at(15)), until: None, why: Doubt::EndUnseen };
        let unseen = Holding {
            state: State::Unknown,
            released: None,
            possibly_held: vec![possibly],
            ..holding.clone()
        };
        let later = Filter { start: Some(at(1_000)), ..Filter::default() };
        assert!(keeps(later.clone(), &unseen) && !keeps(later, &holding), "it may be held still");
        let of = |start, end| Filter { start: Some(at(start)), end: Some(at(end)), ..Filter::default() };
        assert!(of(5, 6).matches_finding(&finding(None, None, 5)));
        assert!(!of(5, 6).matches_finding(&finding(None, None, 6)));
    }

    #[test]
    fn what_is_held_and_what_ever_was_differ() {
        let (over, lasting) = (holding("web1", 1, 10, Some(20)), holding("web1", 1, 10, None));
        let never = Holding { state: State::NeverGranted, granted: None, ..over.clone() };
        let held = Filter { held: true, ..Filter::default() };
        let granted = Filter { granted: true, ..Filter::default() };
        assert_eq!([&over, &lasting, &never].map(|one| held.matches_holding(one)), [false, true, false]);
        assert_eq!([&over, &lasting, &never].map(|one| granted.matches_holding(one)), [true, true, false]);
    }

    #[test]
    fn names_are_whole_and_macs_exact() {
        let holding = holding("web1", 1, 10, None);
        let guest = |name: &str| Filter { guests: vec![name.parse().unwrap()], ..Filter::default() };
        assert!(keeps(guest("web1"), &holding));
        assert!(!keeps(guest("web"), &holding));
        let mac = |last| Filter { mac: Some(MacAddr::kvm([0, 0, last])), ..Filter::default() };
        assert!(keeps(mac(1), &holding) && !keeps(mac(2), &holding));
        assert!(!mac(1).matches_finding(&finding(Some("web1"), None, 10)));
        assert!(!guest("web1").matches_finding(&finding(None, None, 10)));
        let host = |name: &str| Filter { host: Some(name.to_owned()), ..Filter::default() };
        assert!(keeps(host("h1"), &holding) && keeps(host("h1.example.org"), &holding));
        assert!(!keeps(host("h2"), &holding) && !keeps(host("h"), &holding));
        let kinds = Filter { kinds: vec![FindingKind::FalseStart], ..Filter::default() };
        assert!(!kinds.matches_finding(&finding(None, None, 10)));
        let least = |severity| Filter { severity: Some(severity), ..Filter::default() };
        let keeps = Severity::ALL.map(|severity| least(severity).matches_finding(&finding(None, None, 10)));
        assert_eq!(keeps, [true, true, false]);
    }

    #[test]
    fn a_device_is_known_by_kind_path_number_or_interface() {
        let tap = holding("web1", 1, 10, None).device;
        let macvtap = Device::new("macvtap4", None, None);
        let matching = |text: &str| {
            let asked: DeviceFilter = text.parse().unwrap();
            (asked.matches(&tap), asked.matches(&macvtap))
        };
        for text in ["tun", "/dev/net/tun", "0A:C8", "0a:c8", "vnet0"] {
            assert_eq!(matching(text), (true, false), "{text}");
        }
        for text in ["macvtap", "macvtap4"] {
            assert_eq!(matching(text), (false, true), "{text}");
        }
        assert_eq!(matching("vhost-net"), (false, false));
        for text in ["", "a b", "0A:C8:1", "a-name-that-is-too-long"] {
            assert!(text.parse::<DeviceFilter>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bridge_helpers_tap_is_known_by_tap_time_and_claim() {
        let (over, lasting) = (bridge_tap(10, Some(20)), bridge_tap(10, None));
        let matches = |filter: Filter, tap: &BridgeTap| filter.matches_bridge_tap(tap);
        let at_time = |time| Filter { at: Some(QueryRange::at(at(time))), ..Filter::default() };
        let times: Vec<i64> = (8..24).filter(|time| matches(at_time(*time), &over)).collect();
        assert_eq!(times, Vec::from_iter(10..20));
        assert!(matches(at_time(1_000_000), &lasting));
        for text in ["tap0", "web1", "tun"] {
            let subject = Some(text.parse().unwrap());
            assert!(matches(Filter { subject, ..Filter::default() }, &over), "{text}");
        }
        let guest = |name: &str| Filter { guests: vec![name.parse().unwrap()], ..Filter::default() };
        assert!(matches(guest("web1"), &over) && !matches(guest("web2"), &over));
        let unnamed = BridgeTap { claimed_name: None, ..over.clone() };
        assert!(!matches(guest("web1"), &unnamed) && matches(Filter::default(), &unnamed));
        // No record has its MAC, so no MAC is its.
        let mac = Filter { mac: Some(MacAddr::kvm([0, 0, 1])), ..Filter::default() };
        assert!(!matches(mac, &over));
        let held = || Filter { held: true, ..Filter::default() };
        assert!(matches(held(), &lasting) && !matches(held(), &over));
        let never = BridgeTap { state: State::NeverGranted, ended_by: None, ..over };
        assert!(!matches(Filter { granted: true, ..Filter::default() }, &never));
        assert!(!matches(at_time(12), &never) && matches(Filter::default(), &never));
    }

    #[test]
    fn a_guest_is_meant_by_its_name_or_its_uuid() {
        let uuid = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";
        let guest = |name: &str, uuid: Uuid| GuestId { name: name.into(), uuid };
        let asked: GuestFilter = uuid.parse().unwrap();
        assert!(asked.matches(&guest("web1", uuid.parse().unwrap())));
        assert!(asked.matches(&guest(uuid, Uuid::nil())));
        assert!(!asked.matches(&guest("web1", Uuid::nil())));
        let named: GuestFilter = "web1".parse().unwrap();
        assert!(named.matches(&guest("web1", Uuid::nil())) && !named.matches(&guest("web2", Uuid::nil())));
    }
}
