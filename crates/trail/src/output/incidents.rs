//! Which findings have one cause.
//!
//! A start that fails leads to a finding for each interface and device of the guest. They are one
//! incident, and only because records show it: they are of one attempt, or one record shows all of
//! them. What may be independent is not joined: a vhost-net that could not be opened is no cause of
//! the failed start beside it, as guests start without one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, DeviceKind, Event, MacAddr, Outcome};
use uuid::Uuid;

use crate::model::entry::RecordEntry;
use crate::output::Output;
use crate::{FindingKind, Holding, Incident, Proof};

/// A failed attempt that is older than this is not the cause of a failed start or hot-plug: a start
/// or hot-plug does not take as long.
const MAX_ATTEMPT_TIME: SignedDuration = SignedDuration::from_mins(2);

/// How many failed attempts are remembered. Their outcome is among the next records of their guest.
const MAX_FAILED: usize = 64;

/// Numbers the incidents of each host, and tells which one a finding is of.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    /// How many each host has: the same whether its log is read alone or with other hosts'.
    counts: HashMap<Arc<str>, u64>,
    /// The incident of the attempt that is applied now; none in it if it has no finding yet.
    attempt: Option<Option<u64>>,
    /// The last record that showed ends without a record of their own, by kind of finding.
    ends: Vec<(FindingKind, EndKey, u64)>,
    failed: VecDeque<FailedAttempt>,
}

/// A record that shows several ends: of one guest, or of all guests of a host that booted.
#[derive(Debug, PartialEq, Eq)]
struct EndKey {
    host: Arc<str>,
    guest: Option<Uuid>,
    time: Timestamp,
    source: Arc<str>,
    line: u64,
}

/// An attempt to give an interface to QEMU that has failed, and whose last record may follow.
#[derive(Debug)]
struct FailedAttempt {
    host: Arc<str>,
    guest: Uuid,
    writer: Option<u32>,
    mac: MacAddr,
    at: Timestamp,
    incident: u64,
}

impl FailedAttempt {
    fn is_of(&self, entry: &RecordEntry<'_>) -> bool {
        self.host == entry.host
            && self.guest == entry.record.guest.uuid
            && self.writer == entry.writer
            && entry.time.duration_since(self.at).abs() <= MAX_ATTEMPT_TIME
    }
}

impl Incidents {
    /// A host's next incident, with its first finding.
    pub(crate) fn begin(&mut self, host: &Arc<str>) -> Incident {
        let count = match self.counts.get_mut(host) {
            Some(count) => count,
            None => self.counts.entry(Arc::clone(host)).or_default(),
        };
        *count += 1;
        Incident { number: *count, follows: false }
    }

    /// The incident of a finding of this kind: that of the attempt that is applied now, if it is
    /// about an attempt.
    pub(crate) fn of(&mut self, kind: FindingKind, host: &Arc<str>) -> Incident {
        match self.attempt {
            Some(Some(number)) if is_about_attempt(kind) => Incident { number, follows: true },
            Some(None) if is_about_attempt(kind) => {
                let incident = self.begin(host);
                self.attempt = Some(Some(incident.number));
                incident
            }
            _ => self.begin(host),
        }
    }

    /// Begins an attempt, within another if there is one, that has this incident so far. Returns the
    /// other, for [`leave`](Self::leave).
    fn enter(&mut self, incident: Option<u64>) -> Option<Option<u64>> {
        let outer = self.attempt;
        self.attempt = Some(incident.or(outer.flatten()));
        outer
    }

    /// Ends the attempt, whose incident was `before`, and returns its incident.
    fn leave(&mut self, before: Option<u64>, outer: Option<Option<u64>>) -> Option<u64> {
        let incident = self.attempt.flatten();
        // An incident that began within another attempt is the other's.
        let begun = incident.filter(|_| before.is_none());
        self.attempt = outer.map(|outer| outer.or(begun));
        incident
    }

    /// The incident of a holding whose end no record names, and which `at` shows.
    pub(crate) fn of_end(&mut self, kind: FindingKind, holding: &Holding, at: &Proof) -> Incident {
        let guest = (kind != FindingKind::ReleaseByReboot).then_some(holding.guest.uuid);
        let (host, source) = (Arc::clone(&holding.host), Arc::clone(&at.source));
        let key = EndKey { host, guest, time: at.time, source, line: at.line };
        if let Some((.., number)) = self.ends.iter().find(|(of, known, _)| *of == kind && *known == key) {
            return Incident { number: *number, follows: true };
        }
        let incident = self.begin(&holding.host);
        self.ends.retain(|(of, ..)| *of != kind);
        self.ends.push((kind, key, incident.number));
        incident
    }

    /// Remembers that an attempt has failed.
    pub(crate) fn remember_failed(&mut self, entry: &RecordEntry<'_>, mac: MacAddr, incident: u64) {
        self.failed.retain(|failed| !(failed.is_of(entry) && failed.mac == mac));
        if self.failed.len() == MAX_FAILED {
            self.failed.pop_front();
        }
        let (host, guest) = (Arc::clone(&entry.host), entry.record.guest.uuid);
        let (writer, at) = (entry.writer, entry.time);
        self.failed.push_back(FailedAttempt { host, guest, writer, mac, at, incident });
    }

    /// The incident of the attempt of which this is another record: of this interface, or, without
    /// a MAC, of any of the guest's.
    pub(crate) fn failed(&self, entry: &RecordEntry<'_>, mac: Option<MacAddr>) -> Option<u64> {
        let is_meant =
            |failed: &&FailedAttempt| failed.is_of(entry) && mac.is_none_or(|mac| failed.mac == mac);
        self.failed.iter().find(is_meant).map(|failed| failed.incident)
    }

    /// Forgets the failed attempts that a record, which was applied, shows to be over.
    pub(crate) fn forget_failed(&mut self, entry: &RecordEntry<'_>) {
        if self.failed.is_empty() {
            return;
        }
        let done = entry.record.outcome == Outcome::Success;
        let over = match &entry.record.event {
            Event::Open { mac, device, .. } if done && is_backend(device) => Some(*mac),
            Event::Attach { mac, .. } | Event::Detach { mac, .. } => Some(*mac),
            Event::GuestStart { .. } | Event::GuestStop { .. } => None,
            _ => return,
        };
        let uuid = entry.record.guest.uuid;
        let is_over = |of: &FailedAttempt| {
            of.host == entry.host && of.guest == uuid && over.is_none_or(|mac| of.mac == mac)
        };
        self.failed.retain(|of| !is_over(of));
    }
}

impl Output {
    /// Makes the findings of an attempt, which has this incident so far, if any. Afterwards it has
    /// the one of these findings.
    pub(crate) fn in_attempt<R>(
        &mut self,
        incident: &mut Option<u64>,
        make: impl FnOnce(&mut Self) -> R,
    ) -> R {
        let outer = self.incidents.enter(*incident);
        let made = make(self);
        *incident = self.incidents.leave(*incident, outer);
        made
    }
}

/// Whether a finding of this kind is about an attempt to give an interface to QEMU, or about one of
/// several interfaces with one MAC.
fn is_about_attempt(kind: FindingKind) -> bool {
    matches!(
        kind,
        FindingKind::AmbiguousRelease
            | FindingKind::AttachFailed
            | FindingKind::ContradictoryOpen
            | FindingKind::DuplicateMac
            | FindingKind::FalseStart
            | FindingKind::GrantUnknown
            | FindingKind::OpenWithoutGrant
            | FindingKind::StartFailed
    )
}

/// Whether an interface can't do without this device.
pub(crate) fn is_backend(device: &Device) -> bool {
    matches!(
        device.kind,
        DeviceKind::Tun | DeviceKind::Macvtap | DeviceKind::VhostVdpa | DeviceKind::VhostUser
    )
}
