//! An event as a line of JSON, or as a sentence.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;
use taptrail_record::{CloseDoubt, Descriptor, Device, GuestId, MacAddr, Outcome};
use taptrail_report::{escape_name, escape_text};
use taptrail_trail::{Certainty, FindingKind, Proof, Severity};
use taptrail_witness::watch::{EventKind, GuestState, WatchEvent};

/// One event. Fields that do not belong to its kind are left out.
///
/// Fields and values are those of `taptrail events`, for guests of any manager.
#[derive(Debug, Serialize)]
pub(super) struct Event<'a> {
    /// RFC 3339, UTC, milliseconds.
    time: String,
    /// `opened`, `granted`, `released`, `bridge-changed`, `finding` or `guest`.
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guest: Option<&'a GuestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mac: Option<MacAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<&'a Device>,
    /// Of an open: `success` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<&'static str>,
    /// The process id of QEMU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    /// The descriptors that QEMU was seen to hold for the interface.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) descriptors: Vec<Held<'a>>,
    /// Of a guest: `started`, `failed`, `stopped` or `gone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<&'static str>,
    /// Why it was released, or stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certainty: Option<Certainty>,
    /// When it was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    granted: Option<String>,
    /// If nobody saw the end: the latest time at which it was still held.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
    /// Of a release: why it does not prove that nobody holds the device any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    end_doubt: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<u32>,
    /// Of a tap: the bridge that it was in, and is in; null for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<Option<&'a str>>,
    /// The kind of finding, as `taptrail findings` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) finding: Option<FindingKind>,
    /// How much a finding of this kind matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) severity: Option<Severity>,
    /// Whether it follows from a finding that was sent before, or from the same record.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    follows: bool,
    /// The finding in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// The records that show it, oldest first.
    #[serde(skip_serializing_if = "<[Proof]>::is_empty")]
    proof: &'a [Proof],
}

/// One descriptor in a QEMU.
#[derive(Debug, Serialize)]
pub(super) struct Held<'a> {
    fd: u32,
    pub(super) device: &'a Device,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<u32>,
}

impl<'a> From<&'a Descriptor> for Held<'a> {
    fn from(descriptor: &'a Descriptor) -> Self {
        Self { fd: descriptor.fd, device: &descriptor.device, queue: descriptor.queue }
    }
}

impl<'a> Event<'a> {
    fn new(time: Timestamp, kind: &'static str) -> Self {
        Self {
            time: rfc3339(time),
            kind,
            guest: None,
            mac: None,
            device: None,
            outcome: None,
            pid: None,
            descriptors: Vec::new(),
            state: None,
            reason: None,
            certainty: None,
            granted: None,
            last_seen: None,
            end_doubt: None,
            queues: None,
            from: None,
            to: None,
            finding: None,
            severity: None,
            follows: false,
            text: None,
            proof: &[],
        }
    }

    pub(super) fn of(happening: &'a WatchEvent) -> Self {
        let new = |kind| Self::new(happening.time, kind);
        match &happening.kind {
            EventKind::Opened { guest, mac, device, outcome } => Self {
                guest: Some(guest),
                mac: Some(*mac),
                device: Some(device),
                outcome: Some(outcome.as_str()),
                ..new("opened")
            },
            EventKind::Granted { guest, mac, vm_pid, descriptors } => Self {
                guest: Some(guest),
                mac: Some(*mac),
                pid: *vm_pid,
                descriptors: descriptors.iter().map(Held::from).collect(),
                ..new("granted")
            },
            EventKind::Released(holding) => Self {
                guest: Some(&holding.guest),
                mac: Some(holding.mac),
                device: Some(&holding.device),
                pid: holding.pid,
                reason: holding.ended_by.map(|cause| cause.as_str()),
                certainty: Some(holding.certainty),
                granted: holding.granted.map(rfc3339),
                last_seen: holding.last_seen.map(rfc3339),
                end_doubt: holding.end_doubt.map(CloseDoubt::as_str),
                queues: holding.queues,
                proof: &holding.proof,
                ..new("released")
            },
            EventKind::BridgeChanged { guest, mac, device, vm_pid, from, to } => Self {
                guest: Some(guest),
                mac: *mac,
                device: Some(device),
                pid: Some(*vm_pid),
                from: Some(from.as_deref()),
                to: Some(to.as_deref()),
                ..new("bridge-changed")
            },
            EventKind::Found(finding) => Self {
                guest: finding.guest.as_ref(),
                mac: finding.mac,
                device: finding.device.as_ref(),
                finding: Some(finding.kind),
                severity: Some(finding.kind.severity()),
                follows: finding.incident.follows,
                text: Some(&finding.text),
                proof: &finding.proof,
                ..new("finding")
            },
            EventKind::Guest { guest, state } => {
                let (state, pid, reason) = match state {
                    GuestState::Started { vm_pid } => ("started", *vm_pid, None),
                    GuestState::Failed => ("failed", None, None),
                    GuestState::Stopped { reason } => ("stopped", None, Some(reason.as_str())),
                    GuestState::Ended { vm_pid } => ("ended", Some(*vm_pid), None),
                    GuestState::Gone { vm_pid } => ("gone", Some(*vm_pid), None),
                };
                Self { guest: Some(guest), state: Some(state), pid, reason, ..new("guest") }
            }
        }
    }

    /// One line of JSON, without its newline.
    pub(super) fn json(&self) -> String {
        // Strings, numbers and lists: serializing them can't fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// `2026-11-23T22:04:15.600Z web1 52:54:00:12:34:56 opened /dev/net/tun 'vnet0'`
    pub(super) fn line(&self) -> String {
        format!("{}  {}", self.time, self.sentence())
    }

    /// The same without the time.
    pub(super) fn sentence(&self) -> String {
        let mut line = String::new();
        if let Some(guest) = self.guest {
            let _ = write!(line, "{}  ", escape_name(&guest.name));
        }
        if let Some(mac) = self.mac {
            let _ = write!(line, "{mac}  ");
        }
        match (self.finding, self.state) {
            (Some(finding), _) => {
                let text = escape_text(self.text.unwrap_or_default());
                let _ = write!(line, "finding {}: {text}", finding.as_str());
                return line;
            }
            (_, Some("ended")) => line += "its process has ended",
            (_, Some("failed")) => line += "the guest did not start",
            (_, Some(state)) => {
                let _ = write!(line, "the guest is {state}");
            }
            _ => line += self.kind,
        }
        if let Some(of) = self.device {
            line += &device(of);
        }
        if let (Some(from), Some(to)) = (self.from, self.to) {
            let _ = write!(line, " from {} to {}", bridge(from), bridge(to));
        }
        for (number, held) in self.descriptors.iter().enumerate() {
            line += if number == 0 { "" } else { "," };
            let _ = write!(line, "{} as fd {}", device(held.device), held.fd);
        }
        if self.outcome == Some(Outcome::Failed.as_str()) {
            line += " FAILED";
        }
        if let Some(reason) = self.reason {
            let _ = write!(line, " ({})", escape_name(reason));
        }
        if let Some(pid) = self.pid {
            let _ = write!(line, ", QEMU {pid}");
        }
        if let Some(certainty) = self.certainty {
            let _ = write!(line, ", {}", certainty.as_str());
        }
        if let Some(time) = &self.last_seen {
            let _ = write!(line, ", unseen since {time}");
        }
        if let Some(doubt) = self.end_doubt {
            let _ = write!(line, ", doubt: {doubt}");
        }
        line
    }
}

fn bridge(name: Option<&str>) -> String {
    name.map_or_else(|| "no bridge".to_owned(), |name| escape_name(name).into())
}

fn device(device: &Device) -> String {
    let behind = device.dev.as_ref().map(|dev| format!(" '{}'", escape_name(dev)));
    format!(" {}{}", escape_name(&device.path), behind.unwrap_or_default())
}

fn rfc3339(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use taptrail_record::{Rdev, Reason};
    use taptrail_trail::{EndedBy, Finding, Holding, State};
    use uuid::Uuid;

    use super::*;
    use crate::contract;

    fn happenings() -> Vec<EventKind> {
        let time = Timestamp::UNIX_EPOCH;
        let guest = GuestId { name: "web1".into(), uuid: Uuid::from_u128(7) };
        let mac = MacAddr::kvm([0, 0, 1]);
        let device = Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into()));
        let descriptor = Descriptor { mac: None, device: device.clone(), queue: Some(0), vm_pid: 7, fd: 30 };
        let proof = Proof {
            serial: Some(9),
            time,
            source: "audit.log".into(),
            line: 3,
            copies: Vec::new(),
            unauthenticated: false,
        };
        let holding = Holding {
            host: "h1".into(),
            guest: guest.clone(),
            mac,
            device: device.clone(),
            queues: Some(1),
            opened: Some(time),
            granted: Some(time),
            released: Some(time),
            last_seen: Some(time),
            end_doubt: Some(CloseDoubt::Unseen),
            uncertain_since: None,
            possibly_held: Vec::new(),
            state: State::Released,
            ended_by: Some(EndedBy::Stop),
            certainty: Certainty::Inferred,
            pid: Some(7),
            proof: vec![proof.clone()],
        };
        let bare = Holding {
            granted: None,
            last_seen: None,
            end_doubt: None,
            queues: None,
            ended_by: None,
            pid: None,
            proof: Vec::new(),
            ..holding.clone()
        };
        let finding = Finding {
            kind: FindingKind::UnaccountedDevice,
            host: "h1".into(),
            guest: Some(guest.clone()),
            mac: Some(mac),
            device: Some(device.clone()),
            time,
            text: "QEMU holds it".to_owned(),
            incident: taptrail_trail::Incident::default(),
            proof: vec![proof],
        };
        let of_host = Finding { guest: None, mac: None, device: None, proof: Vec::new(), ..finding.clone() };
        let moved = |mac, from: Option<&str>, to: Option<&str>| EventKind::BridgeChanged {
            guest: guest.clone(),
            mac,
            device: device.clone(),
            vm_pid: 7,
            from: from.map(Into::into),
            to: to.map(Into::into),
        };
        let granted =
            |vm_pid, descriptors| EventKind::Granted { guest: guest.clone(), mac, vm_pid, descriptors };
        let opened =
            |outcome| EventKind::Opened { guest: guest.clone(), mac, device: device.clone(), outcome };
        let mut all = vec![
            opened(Outcome::Success),
            opened(Outcome::Failed),
            granted(Some(7), vec![descriptor]),
            granted(None, Vec::new()),
            EventKind::Released(Box::new(holding)),
            EventKind::Released(Box::new(bare)),
            moved(Some(mac), Some("br0"), None),
            moved(None, None, Some("br0")),
            EventKind::Found(Box::new(finding)),
            EventKind::Found(Box::new(of_host)),
        ];
        let states = [
            GuestState::Started { vm_pid: Some(7) },
            GuestState::Started { vm_pid: None },
            GuestState::Failed,
            GuestState::Stopped { reason: Reason::SHUTDOWN },
            GuestState::Ended { vm_pid: 7 },
            GuestState::Gone { vm_pid: 7 },
        ];
        all.extend(states.map(|state| EventKind::Guest { guest: guest.clone(), state }));
        all
    }

    #[test]
    fn a_line_of_json_is_as_its_schema_says() {
        for kind in happenings() {
            let happening = WatchEvent { time: Timestamp::UNIX_EPOCH, kind };
            let line = serde_json::from_str(&Event::of(&happening).json()).unwrap();
            contract::assert_valid("watch", &line);
            for (place, changed) in contract::mutations(&line) {
                assert!(!contract::faults("watch", &changed).is_empty(), "{place} of {line}");
            }
        }
    }
}
