//! How holdings and findings are emitted.

pub(crate) mod pending_releases;
pub(crate) mod unnumbered;

use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::{Device, DeviceKind, Event, GuestId, MacAddr};

use crate::model::entry::Claim;
use crate::output::pending_releases::{Ending, Late};
use crate::output::unnumbered::Unnumbered;
use crate::state::open_holding::Draft;
use crate::{Certainty, Doubt, EndedBy, Finding, FindingKind, Holding, Proof, State};

/// What the trail has told so far and nobody has fetched.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pub(crate) holdings: Vec<Holding>,
    pub(crate) findings: Vec<Finding>,
    /// What is told to be over and whose watcher has yet to tell.
    pub(crate) late: Late,
    /// What QEMU got just now without its number.
    pub(crate) unnumbered: Vec<Unnumbered>,
    /// The MACs that the guest now looked at began (`true`) or ceased to have.
    pub(crate) shifts: Vec<(MacAddr, bool)>,
    /// Whether a grant without an open is reported before a watcher can have looked.
    pub(crate) looks_itself: bool,
}

/// The guest that a finding is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whose<'a> {
    pub(crate) host: &'a Arc<str>,
    pub(crate) guest: &'a GuestId,
}

impl Out {
    /// A draft is over. If a watcher saw its descriptors, it will tell that they are gone.
    pub(crate) fn end(&mut self, draft: Draft, cause: EndedBy, at: Option<&Proof>) {
        if draft.is_seen() && draft.is_open() && draft.is_granted() && cause != EndedBy::Reboot {
            if let Some(Ending { draft, cause, at }) =
                self.late.wait(Ending { draft, cause, at: at.cloned() })
            {
                self.close(draft, cause, at.as_ref());
            }
            return;
        }
        self.close(draft, cause, at);
    }

    /// A draft is over, whatever else may be told.
    pub(crate) fn close(&mut self, draft: Draft, cause: EndedBy, at: Option<&Proof>) {
        self.tell_unnumbered(&draft);
        let unclosed = draft.is_granted() && draft.is_open() && draft.closes_follow();
        let holding = draft.end(cause, at);
        self.judge_grant(&holding);
        if unclosed && matches!(cause, EndedBy::Detach | EndedBy::Stop | EndedBy::Revoke) {
            let text = format!(
                "{} gave up {} ({}), and no record shows the close of {}",
                holding.mac,
                named(&holding.device),
                cause.as_str(),
                if holding.queues.is_none_or(|queues| queues == 1) { "it" } else { "all its queues" },
            );
            self.of(FindingKind::NeverReleased, &holding, text);
        }
        self.judge_end(&holding);
        self.holdings.push(holding);
    }

    /// Tells of a device that somebody may hold after its close.
    fn judge_end(&mut self, holding: &Holding) {
        if let Some(doubt) = holding.end_doubt.filter(|doubt| doubt.needs_a_look()) {
            let (device, mac) = (named(&holding.device), holding.mac);
            let text = format!("{mac} gave up {device}, and it may be held still: {}", doubt.sentence());
            self.of(FindingKind::DoubtfulRelease, holding, text);
        }
    }

    /// Tells of a device that was opened and that QEMU never got, or perhaps did not get.
    fn judge_grant(&mut self, holding: &Holding) {
        let (device, mac) = (named(&holding.device), holding.mac);
        match (holding.state, holding.certainty) {
            (State::NeverGranted, Certainty::Doubtful) => {}
            (State::NeverGranted, _) => {
                let failed = holding.possibly_held.iter().any(|possibly| possibly.why == Doubt::Failed);
                let text = if failed {
                    format!("{device} was opened for {mac}, which failed: QEMU may have had it until then")
                } else {
                    format!("{device} was opened for {mac} and never given to QEMU")
                };
                self.of(FindingKind::OpenWithoutGrant, holding, text);
            }
            (State::Unknown, _) => {
                let why = match holding.possibly_held.first().map(|possibly| possibly.why) {
                    Some(Doubt::NoGrantsRecorded) => "its manager has recorded no grant of anything",
                    Some(Doubt::TrailEnds) => "the trail ends before the outcome",
                    _ => "records of that time may be missing",
                };
                let text =
                    format!("{device} was opened for {mac}, and whether QEMU got it is not known: {why}");
                self.of(FindingKind::GrantUnknown, holding, text);
            }
            _ => {}
        }
    }

    /// A draft is over, and nothing more is told: its watcher may just not have told yet.
    pub(crate) fn leave(&mut self, ending: Ending, now: Timestamp) {
        if ending.is_recent(now) {
            self.tell_unnumbered(&ending.draft);
            self.holdings.push(ending.draft.end(ending.cause, ending.at.as_ref()));
        } else {
            self.close(ending.draft, ending.cause, ending.at.as_ref());
        }
    }

    /// A draft is followed no further: what QEMU has it still has.
    pub(crate) fn as_it_stands(&mut self, draft: Draft) {
        if draft.is_granted() && draft.is_open() {
            self.tell_unnumbered(&draft);
            self.holdings.push(draft.into_unended());
        } else {
            self.end(draft, EndedBy::Close, None);
        }
    }

    /// No record told the number of what QEMU got.
    pub(crate) fn tell_unnumbered(&mut self, draft: &Draft) {
        let device = &draft.holding.device;
        if !draft.unnumbered || device.rdev.is_some() {
            return;
        }
        let what = match device.kind {
            DeviceKind::Macvtap => "by its interface alone",
            _ => "without its number",
        };
        let (device, mac) = (named(device), draft.holding.mac);
        let text = format!("QEMU got {device} for {mac}, which the records name {what}");
        self.of(FindingKind::UnknownDeviceNumber, &draft.holding, text);
    }

    /// An interface goes with its guest.
    pub(crate) fn unlist(&mut self, mac: MacAddr, listed: usize) {
        if listed > 0 {
            self.shifts.push((mac, false));
        }
    }

    /// A finding about what one record says.
    pub(crate) fn say(&mut self, kind: FindingKind, entry: &Claim<'_>, text: String) {
        self.say_for(kind, entry, entry.record.event.mac(), text);
    }

    /// The same, to be told later or not at all.
    pub(crate) fn finding(&self, kind: FindingKind, entry: &Claim<'_>, text: String) -> Finding {
        Finding {
            kind,
            host: Arc::clone(&entry.host),
            guest: Some(entry.record.guest.clone()),
            mac: entry.record.event.mac(),
            device: entry.record.event.device().cloned(),
            time: entry.time,
            text,
            proof: vec![entry.proof()],
        }
    }

    /// A finding about what one record says of an interface that it does not name.
    pub(crate) fn say_for(
        &mut self,
        kind: FindingKind,
        entry: &Claim<'_>,
        mac: Option<MacAddr>,
        text: String,
    ) {
        let finding = self.finding(kind, entry, text);
        self.findings.push(Finding { mac, ..finding });
    }

    /// A finding about a guest, shown by one record.
    pub(crate) fn tell(
        &mut self,
        kind: FindingKind,
        whose: Whose<'_>,
        mac: Option<MacAddr>,
        at: &Proof,
        text: String,
    ) {
        self.findings.push(Finding {
            kind,
            host: Arc::clone(whose.host),
            guest: Some(whose.guest.clone()),
            mac,
            device: None,
            time: at.time,
            text,
            proof: vec![at.clone()],
        });
    }

    /// A finding about a holding, as it stands.
    pub(crate) fn of(&mut self, kind: FindingKind, holding: &Holding, text: String) {
        self.findings.push(Finding {
            kind,
            host: Arc::clone(&holding.host),
            guest: Some(holding.guest.clone()),
            mac: Some(holding.mac),
            device: Some(holding.device.clone()),
            time: holding.proof.last().map_or(Timestamp::UNIX_EPOCH, |proof| proof.time),
            text,
            proof: holding.proof.clone(),
        });
    }
}

/// A device as a sentence names it.
pub(crate) fn named(device: &Device) -> String {
    match &device.dev {
        // Opened by its handle (open_by_handle_at(2)).
        None if device.path.is_empty() => format!("a {} without naming it", device.kind),
        Some(dev) => format!("{} ({dev})", device.path),
        None => device.path.to_string(),
    }
}

/// Why a record's operation failed, as the end of a sentence.
pub(crate) fn why(entry: &Claim<'_>) -> String {
    match entry.record.errno {
        Some(errno) => format!(": {}", std::io::Error::from_raw_os_error(errno)),
        None => String::new(),
    }
}

/// The interface or guest that a record is about, as a sentence names it.
pub(crate) fn whose(entry: &Claim<'_>) -> String {
    match entry.record.event.mac() {
        Some(mac) => mac.to_string(),
        None => format!("guest '{}'", entry.record.guest.name),
    }
}

/// The reason in a guest's start or stop record.
pub(crate) fn reason(event: &Event) -> &str {
    match event {
        Event::GuestStart { reason, .. } | Event::GuestStop { reason, .. } => reason.as_str(),
        _ => "",
    }
}
