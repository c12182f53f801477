use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::{Device, Event, MacAddr};

use crate::draft::Draft;
use crate::entry::Claim;
use crate::{Certainty, EndedBy, Finding, FindingKind, Holding, Proof, State};

/// What the trail has told so far and nobody has fetched.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pub(crate) holdings: Vec<Holding>,
    pub(crate) findings: Vec<Finding>,
}

impl Out {
    /// A draft is over.
    pub(crate) fn end(&mut self, draft: Draft, cause: EndedBy, at: Option<&Proof>) {
        let holding = draft.end(cause, at);
        if holding.state == State::NeverGranted && holding.certainty != Certainty::Doubtful {
            let text =
                format!("{} was opened for {} and never given to QEMU", named(&holding.device), holding.mac);
            self.of(FindingKind::OpenWithoutGrant, &holding, text);
        }
        self.holdings.push(holding);
    }

    /// A finding about what one record says.
    pub(crate) fn say(&mut self, kind: FindingKind, entry: &Claim<'_>, text: String) {
        self.say_for(kind, entry, entry.record.event.mac(), text);
    }

    /// A finding about what one record says of an interface that it does not name.
    pub(crate) fn say_for(
        &mut self,
        kind: FindingKind,
        entry: &Claim<'_>,
        mac: Option<MacAddr>,
        text: String,
    ) {
        self.findings.push(Finding {
            kind,
            host: Arc::clone(&entry.host),
            guest: Some(entry.record.guest.clone()),
            mac,
            device: entry.record.event.device().cloned(),
            time: entry.time,
            text,
            proof: vec![entry.proof()],
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
