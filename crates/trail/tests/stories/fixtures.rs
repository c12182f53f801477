//! Records of one guest, written as text and read back, and the report of them.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, Event, GuestId, MacAddr, Rdev, Reason, Record, parse_text};
use taptrail_trail::{Content, Entry, Report, Trail};

pub(crate) const PID: u32 = 4711;

pub(crate) fn mac() -> MacAddr {
    MacAddr::kvm([0, 0, 1])
}

pub(crate) fn guest() -> GuestId {
    GuestId { name: "web1".into(), uuid: uuid::Uuid::from_u128(1) }
}

pub(crate) fn tun() -> Device {
    Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into()))
}

pub(crate) fn macvtap() -> Device {
    Device::new("/dev/tap7", Some(Rdev { major: 246, minor: 2 }), Some("macvtap0".into()))
}

pub(crate) fn vhost() -> Device {
    Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None)
}

pub(crate) fn ok(event: Event) -> Record {
    Record::success(guest(), event)
}

pub(crate) fn failed(event: Event) -> Record {
    Record::failed(guest(), event, None)
}

pub(crate) fn open(device: Device, queue: u32) -> Event {
    Event::Open { mac: mac(), device, queue: Some(queue) }
}

pub(crate) fn close(device: Device, queue: u32) -> Event {
    Event::Close { mac: mac(), device, queue: Some(queue) }
}

pub(crate) fn keep(device: Device, queue: u32) -> Event {
    Event::Keep { mac: mac(), device, queue: Some(queue), vm_pid: Some(PID) }
}

pub(crate) fn start() -> Event {
    Event::Start { mac: mac(), vm_pid: Some(PID), fds: Some(1) }
}

pub(crate) fn attach() -> Event {
    Event::Attach { mac: mac(), vm_pid: Some(PID), fds: Some(1) }
}

pub(crate) fn detach(forced: bool) -> Event {
    Event::Detach { mac: mac(), vm_pid: Some(PID), fds: Some(1), forced }
}

pub(crate) fn booted() -> Event {
    Event::GuestStart { reason: Reason::BOOTED, vm_pid: Some(PID) }
}

pub(crate) fn not_booted() -> Event {
    Event::GuestStart { reason: Reason::BOOTED, vm_pid: None }
}

pub(crate) fn stopped(reason: &str) -> Event {
    Event::GuestStop { reason: reason.parse().unwrap(), vm_pid: Some(PID) }
}

pub(crate) fn shut_down() -> Event {
    Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid: Some(PID) }
}

/// The same events as libvirt records them: without queue, interface and pid.
pub(crate) mod libvirt {
    use super::*;

    pub(crate) fn open(device: &Device) -> Event {
        let device = Device { dev: None, ..device.clone() };
        Event::Open { mac: mac(), device, queue: None }
    }

    pub(crate) fn no_vhost() -> Device {
        Device::new("/dev/vhost-net", None, None)
    }

    pub(crate) fn start() -> Event {
        Event::Start { mac: mac(), vm_pid: None, fds: None }
    }

    pub(crate) fn attach() -> Event {
        Event::Attach { mac: mac(), vm_pid: None, fds: None }
    }

    pub(crate) fn detach() -> Event {
        Event::Detach { mac: mac(), vm_pid: None, fds: None, forced: false }
    }
}

/// Entries of the records, one second apart, each written and read back.
pub(crate) fn entries(records: &[Record]) -> Vec<Entry> {
    let begin: Timestamp = "2026-11-23T20:31:00.017Z".parse().unwrap();
    let entry = |(line, record): (u64, &Record)| {
        let text = record.text(Path::new("/usr/bin/taptrail")).unwrap();
        let read = parse_text(record.record_type(), text.as_bytes()).unwrap().unwrap();
        assert_eq!(read, *record);
        let time = begin + SignedDuration::from_secs(i64::try_from(line).unwrap());
        let serial = u32::try_from(line).unwrap() + 100;
        Entry {
            host: "h1".into(),
            time,
            serial: Some(serial),
            source: "ledger".into(),
            line,
            writer: None,
            credentials: None,
            content: Content::Record(read),
            text: None,
            copies: Vec::new(),
            unauthenticated: false,
        }
    };
    (1..).zip(records).map(entry).collect()
}

pub(crate) fn report_of(records: &[Record]) -> Report {
    let mut trail = Trail::new();
    for entry in entries(records) {
        trail.feed(&entry);
        // The log goes on without further records.
        trail.cover(&entry.host, entry.time + SignedDuration::from_mins(10));
    }
    trail.finish()
}

/// The same with all records in one tick of the kernel's clock, as those of a boot often are.
pub(crate) fn report_at_once(records: &[Record]) -> Report {
    let mut trail = Trail::new();
    for entry in entries(records) {
        trail.feed(&Entry { time: Timestamp::UNIX_EPOCH, ..entry });
    }
    trail.cover(&"h1".into(), Timestamp::UNIX_EPOCH + SignedDuration::from_mins(10));
    trail.finish()
}

/// Each holding in one line: device, queues, state, cause of its end, certainty.
pub(crate) fn holdings(report: &Report) -> Vec<String> {
    let line = |h: &taptrail_trail::Holding| {
        let ended = h.ended_by.map_or("-", |by| by.as_str());
        let queues = h.queues.map_or("?".to_owned(), |queues| queues.to_string());
        format!("{} x{queues} {} {} {}", h.device.kind, h.state.as_str(), ended, h.certainty.as_str())
    };
    report.holdings.iter().map(line).collect()
}

pub(crate) fn findings(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.kind.as_str()).collect()
}
