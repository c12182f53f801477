//! How holdings and findings are emitted.

pub(crate) mod incidents;
pub(crate) mod pending_releases;
pub(crate) mod unnumbered;

use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::{Device, DeviceKind, Event, GuestId, MacAddr};

use crate::model::entry::RecordEntry;
use crate::output::incidents::Incidents;
use crate::output::pending_releases::{PendingEnd, PendingReleases};
use crate::output::unnumbered::UnnumberedGrant;
use crate::state::open_holding::OpenHolding;
use crate::state::run::Runs;
use crate::{BridgeTap, Certainty, Doubt, EndedBy, Finding, FindingKind, Holding, Incident, Proof, State};

/// The holdings and findings that nobody has fetched yet, and what waits to be emitted.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) holdings: Vec<Holding>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) bridge_taps: Vec<BridgeTap>,
    pub(crate) incidents: Incidents,
    /// The runs of guests, if they are asked for.
    pub(crate) runs: Option<Runs>,
    /// Devices whose release is recorded, and whose close a watcher has yet to record.
    pub(crate) pending_releases: PendingReleases,
    /// Devices without a number that QEMU got by the last entry.
    pub(crate) unnumbered: Vec<UnnumberedGrant>,
    /// The MACs that the current guest began to have (`true`) or ceased to have.
    pub(crate) mac_changes: Vec<(MacAddr, bool)>,
    /// Whether a grant without an open is reported before a watcher can have looked.
    pub(crate) reports_bare_grants_at_once: bool,
}

/// The guest that a finding is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuestRef<'a> {
    pub(crate) host: &'a Arc<str>,
    pub(crate) guest: &'a GuestId,
}

impl Output {
    /// Ends a holding. If a watcher saw its descriptors, the end waits for the watcher's close
    /// records.
    pub(crate) fn end_or_defer(&mut self, open_holding: OpenHolding, cause: EndedBy, at: Option<&Proof>) {
        if open_holding.is_seen_in_qemu() && open_holding.is_held() && cause != EndedBy::Reboot {
            if let Some(PendingEnd { open_holding, cause, at }) =
                self.pending_releases.add(PendingEnd { open_holding, cause, at: at.cloned() })
            {
                self.emit_ended(open_holding, cause, at.as_ref());
            }
            return;
        }
        self.emit_ended(open_holding, cause, at);
    }

    /// Ends a holding, without waiting for further records.
    pub(crate) fn emit_ended(&mut self, open_holding: OpenHolding, cause: EndedBy, at: Option<&Proof>) {
        self.report_unnumbered(&open_holding);
        let unclosed = open_holding.is_held() && open_holding.expects_closes();
        let unrecorded = open_holding.is_unrecorded();
        let holding = open_holding.end(cause, at);
        // The grant of its interface was reported.
        if !unrecorded {
            self.report_missing_grant(&holding);
        }
        if unclosed && matches!(cause, EndedBy::Detach | EndedBy::Stop | EndedBy::Revoke) {
            let text = format!(
                "{} gave up {} ({}), and no record shows the close of {}",
                holding.mac,
                device_name(&holding.device),
                cause.as_str(),
                if holding.queues.is_none_or(|queues| queues == 1) { "it" } else { "all its queues" },
            );
            self.report_end(FindingKind::NeverReleased, &holding, at, text);
        }
        self.report_doubtful_release(&holding);
        self.holdings.push(holding);
    }

    /// Reports a device that a process may hold after its close.
    fn report_doubtful_release(&mut self, holding: &Holding) {
        if let Some(doubt) = holding.end_doubt.filter(|doubt| doubt.needs_attention()) {
            let (device, mac) = (device_name(&holding.device), holding.mac);
            let text = format!("{mac} gave up {device}, and it may be held still: {}", doubt.sentence());
            self.report_for_holding(FindingKind::DoubtfulRelease, holding, text);
        }
    }

    /// Reports a device that was opened and that QEMU never got, or perhaps did not get.
    fn report_missing_grant(&mut self, holding: &Holding) {
        let (device, mac) = (device_name(&holding.device), holding.mac);
        match (holding.state, holding.certainty) {
            (State::NeverGranted, Certainty::Doubtful) => {}
            (State::NeverGranted, _) => {
                let failed = holding.possibly_held.iter().any(|possibly| possibly.why == Doubt::Failed);
                let text = if failed {
                    format!("{device} was opened for {mac}, which failed: QEMU may have had it until then")
                } else {
                    format!("{device} was opened for {mac} and never given to QEMU")
                };
                self.report_for_holding(FindingKind::OpenWithoutGrant, holding, text);
            }
            (State::Unknown, _) => {
                let why = match holding.possibly_held.first().map(|possibly| possibly.why) {
                    Some(Doubt::NoGrantsRecorded) => "its manager has recorded no grant of anything",
                    Some(Doubt::TrailEnds) => "the trail ends before the outcome",
                    _ => "records of that time may be missing",
                };
                let text =
                    format!("{device} was opened for {mac}, and whether QEMU got it is not known: {why}");
                self.report_for_holding(FindingKind::GrantUnknown, holding, text);
            }
            _ => {}
        }
    }

    /// The trail ends, and a watcher's close record has not come: no finding if it may still come.
    pub(crate) fn emit_pending(&mut self, pending_end: PendingEnd, now: Timestamp) {
        if pending_end.is_recent(now) {
            self.report_unnumbered(&pending_end.open_holding);
            self.holdings.push(pending_end.open_holding.end(pending_end.cause, pending_end.at.as_ref()));
        } else {
            self.emit_ended(pending_end.open_holding, pending_end.cause, pending_end.at.as_ref());
        }
    }

    /// Emits a holding that is not tracked any further: if QEMU has the device, it still has it.
    pub(crate) fn emit_unclosed(&mut self, open_holding: OpenHolding) {
        if open_holding.is_held() {
            self.report_unnumbered(&open_holding);
            self.holdings.push(open_holding.into_unended());
        } else {
            self.end_or_defer(open_holding, EndedBy::Close, None);
        }
    }

    /// Reports a device that QEMU got and whose number no record gave.
    pub(crate) fn report_unnumbered(&mut self, open_holding: &OpenHolding) {
        let device = &open_holding.holding.device;
        if !open_holding.number_pending || device.rdev.is_some() {
            return;
        }
        let what = match device.kind {
            DeviceKind::Macvtap => "by its interface alone",
            _ => "without its number",
        };
        let (device, mac) = (device_name(device), open_holding.holding.mac);
        let text = format!("QEMU got {device} for {mac}, which the records name {what}");
        self.report_for_holding(FindingKind::UnknownDeviceNumber, &open_holding.holding, text);
    }

    /// An interface that was in the MAC index ends with its guest.
    pub(crate) fn remove_from_mac_index(&mut self, mac: MacAddr, indexed_count: usize) {
        if indexed_count > 0 {
            self.mac_changes.push((mac, false));
        }
    }

    /// Reports a finding that is an incident of its own.
    pub(crate) fn report_alone(&mut self, finding: Finding) {
        let incident = self.incidents.begin(&finding.host);
        self.findings.push(Finding { incident, ..finding });
    }

    /// Reports a finding about one record. Returns its incident.
    pub(crate) fn report(&mut self, kind: FindingKind, entry: &RecordEntry<'_>, text: String) -> u64 {
        self.report_for_mac(kind, entry, entry.record.event.mac(), text)
    }

    /// Makes a finding about one record, to be reported later or not at all. It has no incident.
    pub(crate) fn finding(&self, kind: FindingKind, entry: &RecordEntry<'_>, text: String) -> Finding {
        Finding {
            kind,
            host: Arc::clone(&entry.host),
            guest: Some(entry.record.guest.clone()),
            mac: entry.record.event.mac(),
            device: entry.record.event.device().cloned(),
            time: entry.time,
            text,
            proof: vec![entry.proof()],
            incident: Incident::default(),
        }
    }

    /// Reports a finding about one record and an interface that the record does not name.
    pub(crate) fn report_for_mac(
        &mut self,
        kind: FindingKind,
        entry: &RecordEntry<'_>,
        mac: Option<MacAddr>,
        text: String,
    ) -> u64 {
        let (finding, incident) = (self.finding(kind, entry, text), self.incidents.of(kind, &entry.host));
        self.findings.push(Finding { mac, incident, ..finding });
        incident.number
    }

    /// Reports a finding about a guest, shown by one record.
    pub(crate) fn report_for_guest(
        &mut self,
        kind: FindingKind,
        guest_ref: GuestRef<'_>,
        mac: Option<MacAddr>,
        at: &Proof,
        text: String,
    ) {
        let incident = self.incidents.of(kind, guest_ref.host);
        self.findings.push(Finding {
            kind,
            host: Arc::clone(guest_ref.host),
            guest: Some(guest_ref.guest.clone()),
            mac,
            device: None,
            time: at.time,
            text,
            proof: vec![at.clone()],
            incident,
        });
    }

    /// Reports a finding about a holding, as it is now. Returns its incident.
    pub(crate) fn report_for_holding(&mut self, kind: FindingKind, holding: &Holding, text: String) -> u64 {
        let incident = self.incidents.of(kind, &holding.host);
        self.push_for_holding(kind, holding, text, incident);
        incident.number
    }

    /// Reports that no record shows the end of a holding, as `at` shows.
    pub(crate) fn report_end(
        &mut self,
        kind: FindingKind,
        holding: &Holding,
        at: Option<&Proof>,
        text: String,
    ) {
        let incident = match at {
            Some(at) => self.incidents.of_end(kind, holding, at),
            None => self.incidents.begin(&holding.host),
        };
        self.push_for_holding(kind, holding, text, incident);
    }

    fn push_for_holding(&mut self, kind: FindingKind, holding: &Holding, text: String, incident: Incident) {
        self.findings.push(Finding {
            kind,
            host: Arc::clone(&holding.host),
            guest: Some(holding.guest.clone()),
            mac: Some(holding.mac),
            device: Some(holding.device.clone()),
            time: holding.proof.last().map_or(Timestamp::UNIX_EPOCH, |proof| proof.time),
            text,
            proof: holding.proof.clone(),
            incident,
        });
    }
}

/// A device, as a sentence names it.
pub(crate) fn device_name(device: &Device) -> String {
    match &device.dev {
        // Opened by its handle (open_by_handle_at(2)).
        None if device.path.is_empty() => format!("a {} without naming it", device.kind),
        Some(dev) => format!("{} ({dev})", device.path),
        None => device.path.to_string(),
    }
}

/// Why a record's operation failed, as the end of a sentence.
pub(crate) fn errno_suffix(entry: &RecordEntry<'_>) -> String {
    match entry.record.errno {
        Some(errno) => format!(": {}", std::io::Error::from_raw_os_error(errno)),
        None => String::new(),
    }
}

/// The interface or guest that a record is about, as a sentence names it.
pub(crate) fn subject_name(entry: &RecordEntry<'_>) -> String {
    match entry.record.event.mac() {
        Some(mac) => mac.to_string(),
        None => format!("guest '{}'", entry.record.guest.name),
    }
}

/// The reason in a guest's start or stop record.
pub(crate) fn start_stop_reason(event: &Event) -> &str {
    match event {
        Event::GuestStart { reason, .. } | Event::GuestStop { reason, .. } => reason.as_str(),
        _ => "",
    }
}
