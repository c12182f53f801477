//! A builder for logs of several guests, hosts and daemons, with the kernel's events.

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, Event, GuestId, KernelOpen, MacAddr, Reason, Record};
use taptrail_trail::{Content, Entry, Holding, Report, Trail};

pub(crate) const LIBVIRTD: u32 = 812;

/// A log to which entries are added, each 10 ms after the last, with the next serial number.
#[derive(Debug, Clone)]
pub(crate) struct LogBuilder {
    pub(crate) entries: Vec<Entry>,
    next: Entry,
}

pub(crate) fn guest(number: u8) -> GuestId {
    GuestId { name: format!("g{number}").into(), uuid: uuid::Uuid::from_u128(number.into()) }
}

/// The MAC of each guest's first interface.
pub(crate) fn mac(number: u8) -> MacAddr {
    MacAddr::kvm([0, 0, number])
}

pub(crate) fn open(mac: MacAddr, device: &Device) -> Event {
    Event::Open { mac, device: Device { dev: None, ..device.clone() }, queue: None }
}

pub(crate) fn start(mac: MacAddr) -> Event {
    Event::Start { mac, vm_pid: None, fds: None }
}

pub(crate) fn attach(mac: MacAddr) -> Event {
    Event::Attach { mac, vm_pid: None, fds: None }
}

pub(crate) fn detach(mac: MacAddr) -> Event {
    Event::Detach { mac, vm_pid: None, fds: None, forced: false }
}

pub(crate) fn op_start(reason: &str, pid: u32) -> Event {
    Event::GuestStart { reason: reason.parse().unwrap(), vm_pid: Some(pid) }
}

pub(crate) fn op_stop(reason: &str) -> Event {
    Event::GuestStop { reason: reason.parse::<Reason>().unwrap(), vm_pid: None }
}

impl LogBuilder {
    pub(crate) fn new() -> Self {
        let time = "2026-11-23T20:31:00.017Z".parse().unwrap();
        let (host, source) = ("h1".into(), "audit.log".into());
        let (serial, writer, content) = (Some(100), Some(LIBVIRTD), Content::Boot);
        Self {
            entries: Vec::new(),
            next: Entry {
                host,
                time,
                serial,
                writer,
                credentials: None,
                source,
                line: 1,
                content,
                text: None,
                copies: Vec::new(),
                unauthenticated: false,
            },
        }
    }

    /// The process that sends the following records.
    pub(crate) fn by(mut self, writer: u32) -> Self {
        self.next.writer = Some(writer);
        self
    }

    /// The following records come from a source that does not keep their senders.
    pub(crate) fn by_unknown_writer(mut self) -> Self {
        self.next.writer = None;
        self
    }

    /// The host of the following records.
    pub(crate) fn on(mut self, host: &str) -> Self {
        self.next.host = host.into();
        self
    }

    pub(crate) fn after(mut self, seconds: i64) -> Self {
        self.next.time += SignedDuration::from_secs(seconds);
        self
    }

    /// The serial number of the next entry.
    pub(crate) fn serial(mut self, serial: u32) -> Self {
        self.next.serial = Some(serial);
        self
    }

    pub(crate) fn entry(mut self, content: Content) -> Self {
        self.entries.push(Entry { content, ..self.next.clone() });
        self.next.time += SignedDuration::from_millis(10);
        self.next.line += 1;
        self.next.serial = self.next.serial.map(|serial| serial + 1);
        self
    }

    pub(crate) fn ok(self, number: u8, event: Event) -> Self {
        self.entry(Content::Record(Record::success(guest(number), event)))
    }

    pub(crate) fn failed(self, number: u8, event: Event) -> Self {
        self.entry(Content::Record(Record::failed(guest(number), event, None)))
    }

    /// The kernel records that a process opened a device.
    pub(crate) fn kernel_open(self, pid: u32, exe: &str, device: &Device) -> Self {
        let device = Device { dev: None, ..device.clone() };
        let open = KernelOpen { pid, ppid: Some(1), exe: exe.into(), device, fd: Some(30), errno: None };
        self.entry(Content::KernelOpen(open))
    }

    /// All records of a boot of a guest with one interface and one device.
    pub(crate) fn boot(self, number: u8, device: &Device, pid: u32) -> Self {
        let mac = mac(number);
        self.ok(number, open(mac, device)).ok(number, start(mac)).ok(number, op_start("booted", pid))
    }

    pub(crate) fn report(&self) -> Report {
        let mut trail = Trail::new();
        self.entries.iter().for_each(|entry| trail.feed(entry));
        // The log goes on without further records.
        if let Some(last) = self.entries.last() {
            trail.cover(&last.host, last.time + SignedDuration::from_mins(10));
        }
        trail.finish()
    }
}

/// Each holding in one line: guest, device, queues, state, cause of its end, certainty, seconds.
pub(crate) fn lines(report: &Report) -> Vec<String> {
    let begin: Timestamp = "2026-11-23T20:31:00.017Z".parse().unwrap();
    let line = |h: &Holding| {
        let ended = h.ended_by.map_or("-", |by| by.as_str());
        let released = h.released.map_or("-".to_owned(), |at| at.duration_since(begin).as_secs().to_string());
        let (guest, kind) = (&h.guest.name, h.device.kind);
        let queues = h.queues.map_or("?".to_owned(), |queues| queues.to_string());
        format!("{guest} {kind} x{queues} {} {ended} {} {released}", h.state.as_str(), h.certainty.as_str())
    };
    report.holdings.iter().map(line).collect()
}
