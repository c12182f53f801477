//! Sends events to journald by its own protocol, as fields that `journalctl` can match.
//!
//! One datagram is one entry: `FIELD=value` and a newline for each, or the field, a newline, the
//! value's length in eight bytes and the value, where that holds a newline (systemd's
//! JOURNAL_NATIVE_PROTOCOL).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use taptrail_trail::Severity;

use super::event::Event;

/// journald's socket.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";

/// The message id of all events: `journalctl MESSAGE_ID=…` finds these, and none of our log
/// messages.
const MESSAGE_ID: &str = "6c8f2f2d4a3b4f0f9b8d0a7c53e1d9a4";

/// A socket to journald.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// For this socket, which need not exist yet: journald may start later, and restart.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // An event that it does not take at once counts as missed.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Sends one event; `json` is the same event as a line.
    pub(super) fn send(&self, event: &Event<'_>, json: &str) -> io::Result<()> {
        let mut entry = entry(event);
        let short = entry.len();
        field(&mut entry, "TAPTRAIL_JSON", json);
        match self.socket.send_to(&entry, &self.path) {
            // Too long for a datagram: sent without its JSON.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                self.socket.send_to(&entry[..short], &self.path).map(drop)
            }
            sent => sent.map(drop),
        }
    }
}

fn entry(event: &Event<'_>) -> Vec<u8> {
    let mut entry = Vec::new();
    let failed = event.outcome == Some("failed") || event.state == Some("failed");
    // As syslog(3): 3 error, 4 warning, 5 notice, 6 informational. A severity has its own name.
    let priority = match event.severity {
        Some(Severity::Grave) => "3",
        Some(Severity::Warning) => "4",
        Some(Severity::Notice) => "5",
        None if failed => "5",
        None => "6",
    };
    field(&mut entry, "MESSAGE", &event.sentence());
    field(&mut entry, "MESSAGE_ID", MESSAGE_ID);
    field(&mut entry, "PRIORITY", priority);
    field(&mut entry, "SYSLOG_IDENTIFIER", "taptrail");
    field(&mut entry, "TAPTRAIL_EVENT", event.kind);
    let mut some = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            field(&mut entry, name, value);
        }
    };
    some("TAPTRAIL_FINDING", event.finding.map(|kind| kind.as_str()));
    some("TAPTRAIL_SEVERITY", event.severity.map(Severity::as_str));
    some("TAPTRAIL_GUEST", event.guest.map(|guest| guest.name.as_str()));
    some("TAPTRAIL_UUID", event.guest.map(|guest| guest.uuid.to_string()).as_deref());
    some("TAPTRAIL_MAC", event.mac.map(|mac| mac.to_string()).as_deref());
    some("TAPTRAIL_QEMU", event.pid.map(|pid| pid.to_string()).as_deref());
    some("TAPTRAIL_STATE", event.state);
    some("TAPTRAIL_OUTCOME", event.outcome);
    some("TAPTRAIL_REASON", event.reason);
    some("TAPTRAIL_BRIDGE_FROM", event.from.flatten());
    some("TAPTRAIL_BRIDGE_TO", event.to.flatten());
    some("TAPTRAIL_CERTAINTY", event.certainty.map(|certainty| certainty.as_str()));
    let devices = event.device.into_iter().chain(event.descriptors.iter().map(|held| held.device));
    for device in devices {
        // A field may be there more than once.
        some("TAPTRAIL_DEVICE", Some(&device.path));
        some("TAPTRAIL_KIND", Some(device.kind.as_str()));
        some("TAPTRAIL_RDEV", device.rdev.map(|rdev| rdev.to_string()).as_deref());
        some("TAPTRAIL_INTERFACE", device.dev.as_deref());
    }
    entry
}

fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use taptrail_record::{Device, GuestId, Outcome, Rdev};
    use taptrail_trail::{Finding, FindingKind, Incident};
    use taptrail_witness::watch::{EventKind, WatchEvent};
    use uuid::Uuid;

    use super::*;

    fn guest(name: &str) -> GuestId {
        GuestId { name: name.into(), uuid: Uuid::from_u128(7) }
    }

    /// The fields of an entry, as journald takes them apart.
    fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| matches!(byte, b'=' | b'\n')).unwrap();
            let (name, rest) = entry.split_at(end);
            let (value, rest) = match rest[0] {
                b'=' => rest[1..].split_at(rest[1..].iter().position(|byte| *byte == b'\n').unwrap()),
                _ => {
                    let (length, rest) = rest[1..].split_at(8);
                    rest.split_at(u64::from_le_bytes(length.try_into().unwrap()).try_into().unwrap())
                }
            };
            fields.push((text(name), text(value)));
            entry = &rest[1..];
        }
        fields
    }

    fn sent_fields(happening: &WatchEvent) -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journald = UnixDatagram::bind(&path).unwrap();
        let event = Event::of(happening);
        Journal::new(&path).unwrap().send(&event, &event.json()).unwrap();
        let mut datagram = vec![0; 1 << 20];
        let length = journald.recv(&mut datagram).unwrap();
        fields(&datagram[..length])
    }

    fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
        fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    // Shows 13.28.
    #[test]
    fn an_entry_has_what_happened_in_its_fields() {
        let device = Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into()));
        let kind = EventKind::Opened {
            guest: guest("web1"),
            mac: "52:54:00:00:00:01".parse().unwrap(),
            device,
            outcome: Outcome::Success,
        };
        let fields = sent_fields(&WatchEvent { time: Timestamp::UNIX_EPOCH, kind });
        for (name, expect) in [
            ("MESSAGE", "web1  52:54:00:00:00:01  opened /dev/net/tun 'vnet0'"),
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "taptrail"),
            ("TAPTRAIL_EVENT", "opened"),
            ("TAPTRAIL_GUEST", "web1"),
            ("TAPTRAIL_UUID", "00000000-0000-0000-0000-000000000007"),
            ("TAPTRAIL_MAC", "52:54:00:00:00:01"),
            ("TAPTRAIL_OUTCOME", "success"),
            ("TAPTRAIL_DEVICE", "/dev/net/tun"),
            ("TAPTRAIL_KIND", "tun"),
            ("TAPTRAIL_RDEV", "0A:C8"),
            ("TAPTRAIL_INTERFACE", "vnet0"),
        ] {
            assert_eq!(value(&fields, name), Some(expect), "{name} in {fields:?}");
        }
        let json: serde_json::Value = serde_json::from_str(value(&fields, "TAPTRAIL_JSON").unwrap()).unwrap();
        assert_eq!((&json["kind"], &json["device"]["dev"]), (&"opened".into(), &"vnet0".into()));
    }

    #[test]
    fn a_change_of_bridge_has_both_bridges_and_none_is_no_field() {
        let changed = |to: Option<&str>| EventKind::BridgeChanged {
            guest: guest("web1"),
            mac: "52:54:00:00:00:01".parse().ok(),
            device: Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into())),
            vm_pid: 4711,
            from: Some("br0".to_owned()),
            to: to.map(str::to_owned),
        };
        let fields = sent_fields(&WatchEvent { time: Timestamp::UNIX_EPOCH, kind: changed(Some("br1")) });
        for (name, expect) in [
            ("TAPTRAIL_EVENT", "bridge-changed"),
            ("TAPTRAIL_BRIDGE_FROM", "br0"),
            ("TAPTRAIL_BRIDGE_TO", "br1"),
            ("TAPTRAIL_INTERFACE", "vnet0"),
        ] {
            assert_eq!(value(&fields, name), Some(expect), "{name} in {fields:?}");
        }
        let fields = sent_fields(&WatchEvent { time: Timestamp::UNIX_EPOCH, kind: changed(None) });
        assert_eq!(value(&fields, "TAPTRAIL_BRIDGE_TO"), None);
        let message = value(&fields, "MESSAGE").unwrap();
        assert!(message.ends_with("/dev/net/tun 'vnet0' from br0 to no bridge, QEMU 4711"), "{message}");
        let json: serde_json::Value = serde_json::from_str(value(&fields, "TAPTRAIL_JSON").unwrap()).unwrap();
        assert_eq!((&json["from"], json.get("to")), (&"br0".into(), Some(&serde_json::Value::Null)));
    }

    fn finding(kind: FindingKind, name: &str, text: &str) -> WatchEvent {
        let finding = Finding {
            kind,
            host: "h1".into(),
            guest: Some(guest(name)),
            mac: None,
            device: None,
            time: Timestamp::UNIX_EPOCH,
            text: text.to_owned(),
            proof: Vec::new(),
            incident: Incident::default(),
        };
        WatchEvent { time: Timestamp::UNIX_EPOCH, kind: EventKind::Found(Box::new(finding)) }
    }

    // Shows 13.31.
    #[test]
    fn no_name_makes_a_field_and_findings_have_their_weight() {
        let fields = sent_fields(&finding(FindingKind::LogGap, "web1\nPRIORITY=0\nTAPTRAIL_UUID=x", "lost"));
        assert_eq!(value(&fields, "TAPTRAIL_GUEST"), Some("web1\nPRIORITY=0\nTAPTRAIL_UUID=x"));
        assert_eq!(value(&fields, "PRIORITY"), Some("3"));
        assert_eq!(
            fields.iter().filter(|(name, _)| name == "PRIORITY" || name == "TAPTRAIL_UUID").count(),
            2
        );
        assert_eq!(value(&fields, "TAPTRAIL_FINDING"), Some("log-gap"));
        assert_eq!(value(&fields, "TAPTRAIL_SEVERITY"), Some("grave"));
        assert!(value(&fields, "MESSAGE").unwrap().contains("\\nPRIORITY=0"));
        let fields = sent_fields(&finding(FindingKind::OpenFailed, "web1", "failed"));
        assert_eq!(value(&fields, "PRIORITY"), Some("4"));
        assert_eq!(value(&fields, "TAPTRAIL_SEVERITY"), Some("warning"));
        let json: serde_json::Value = serde_json::from_str(value(&fields, "TAPTRAIL_JSON").unwrap()).unwrap();
        assert_eq!((&json["severity"], json.get("follows")), (&"warning".into(), None));
    }

    #[test]
    fn an_event_too_long_for_a_datagram_is_sent_without_its_json() {
        let fields = sent_fields(&finding(FindingKind::OpenFailed, "web1", &"x".repeat(120_000)));
        assert_eq!(value(&fields, "TAPTRAIL_JSON"), None);
        assert!(value(&fields, "MESSAGE").is_some());
    }

    // Shows 13.30.
    #[test]
    fn a_journald_that_is_not_there_or_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = Journal::new(&path).unwrap();
        let happening = finding(FindingKind::OpenFailed, "web1", "failed");
        let send = |journal: &Journal| {
            let event = Event::of(&happening);
            journal.send(&event, &event.json())
        };
        assert!(send(&journal).is_err());
        let _journald = UnixDatagram::bind(&path).unwrap();
        assert!(send(&journal).is_ok(), "it has started");
        let full = (0..100_000).find_map(|_| send(&journal).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
