use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::encode::push_string;
use crate::{Descriptor, Device, Event, FilterAddress, GuestId, MacAddr, Notice, Outcome, Reason, Record};

/// The longest text that the kernel does not cut, in bytes (`AUDIT_MESSAGE_TEXT_MAX`,
/// linux/audit.h). A cut text loses its `res=`.
pub const MAX_TEXT_BYTES: usize = 8560;

/// The record's text does not fit into a kernel record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Record of guest '{guest}' would be {len} bytes long: the kernel keeps {MAX_TEXT_BYTES}")]
pub struct TooLong {
    /// The guest's name, cut to 64 characters.
    pub guest: String,
    /// The text's length in bytes.
    pub len: usize,
}

impl Record {
    /// The text between `msg='` and `'`: libvirt's pairs in libvirt's order, then taptrail's own,
    /// then the pairs that libaudit adds for the program `exe`.
    ///
    /// ```
    /// # use taptrail_record::{Device, Event, GuestId, Rdev, Record};
    /// # use std::path::Path;
    /// let guest = GuestId { name: "web1".into(), uuid: "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e".parse()? };
    /// let device = Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into()));
    /// let open = Event::Open { mac: "52:54:00:12:34:56".parse()?, device, queue: Some(0) };
    /// assert_eq!(
    ///     Record::success(guest, open).text(Path::new("/usr/bin/taptrail"))?,
    ///     "virt=kvm resrc=net reason=open vm=\"web1\" uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e \
    ///      net=52:54:00:12:34:56 path=\"/dev/net/tun\" rdev=0A:C8 dev=\"vnet0\" queue=0 \
    ///      exe=\"/usr/bin/taptrail\" hostname=? addr=? terminal=? res=success"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TooLong`] if the text exceeds [`MAX_TEXT_BYTES`], because of a very long guest name or
    /// path.
    pub fn text(&self, exe: &Path) -> Result<String, TooLong> {
        let mut text = Text(String::with_capacity(384));
        text.0.push_str("virt=kvm");
        text.event(self);
        text.optional_pair("errno", self.errno);
        text.optional_time("last-seen", self.last_seen);
        text.optional_pair("doubt", self.doubt);
        if let Some(requester) = self.requester {
            text.pair("req-uid", requester.uid);
            text.pair("req-auid", requester.auid);
            text.pair("req-pid", requester.pid);
        }
        text.end(&self.guest, self.outcome, exe)
    }
}

/// The text of a notice.
pub(crate) fn notice(notice: &Notice<'_>, exe: &Path) -> Result<String, TooLong> {
    let mut text = Text("virt=kvm".to_owned());
    text.net("finding", notice.guest);
    match notice.mac {
        Some(mac) => text.pair("net", mac),
        None => text.pair("net", "?"),
    }
    if let Some(device) = notice.device {
        text.node(device, None);
    }
    text.pair("finding", notice.finding);
    text.end(notice.guest, Outcome::Success, exe)
}

struct Text(String);

impl Text {
    fn event(&mut self, record: &Record) {
        match &record.event {
            Event::Open { mac, device, queue } => {
                self.net("open", &record.guest);
                self.device(*mac, device, *queue);
            }
            Event::Close { mac, device, queue } => {
                self.net("close", &record.guest);
                self.device(*mac, device, *queue);
            }
            Event::Keep { mac, device, queue, vm_pid } => {
                self.net("keep", &record.guest);
                self.device(*mac, device, *queue);
                self.optional_pair("vm-pid", *vm_pid);
            }
            Event::Filter { mac, device, address } => {
                self.net("filter", &record.guest);
                self.device(*mac, device, None);
                if let Some(FilterAddress { ip, change }) = address {
                    self.pair("ip", ip);
                    self.pair("ip-change", change.as_str());
                    self.optional_pair("dhcp-server", change.server());
                    self.optional_time("lease-end", change.until());
                }
            }
            Event::Mac { mac, device } => {
                self.net("mac", &record.guest);
                self.device(*mac, device, None);
            }
            Event::Update { mac, device, phase, settings } => {
                self.net(phase.as_str(), &record.guest);
                self.device(*mac, device, None);
                push_string(&mut self.0, "settings", settings.as_bytes());
            }
            Event::Seen(descriptor) => {
                self.net("seen", &record.guest);
                self.descriptor(descriptor);
            }
            Event::Gone(descriptor) => {
                self.net("close", &record.guest);
                self.descriptor(descriptor);
            }
            Event::Start { mac, vm_pid, fds } => {
                self.net("start", &record.guest);
                self.change(None, Some(*mac), *vm_pid, *fds);
            }
            Event::Attach { mac, vm_pid, fds } => {
                self.net("attach", &record.guest);
                self.change(None, Some(*mac), *vm_pid, *fds);
            }
            Event::Detach { mac, vm_pid, fds, forced } => {
                self.net("detach", &record.guest);
                self.change(Some(*mac), None, *vm_pid, *fds);
                if *forced {
                    self.pair("forced", "yes");
                }
            }
            Event::GuestStart { reason, vm_pid } => {
                self.pair("op", "start");
                self.control(reason, *vm_pid, &record.guest);
            }
            Event::GuestStop { reason, vm_pid } => {
                self.pair("op", "stop");
                self.control(reason, *vm_pid, &record.guest);
            }
            Event::GuestGone { vm_pid } => {
                self.pair("op", "gone");
                self.control(&Reason::EXITED, Some(*vm_pid), &record.guest);
            }
        }
    }

    fn net(&mut self, reason: &str, guest: &GuestId) {
        self.pair("resrc", "net");
        self.pair("reason", reason);
        self.guest(guest);
    }

    fn control(&mut self, reason: &Reason, vm_pid: Option<u32>, guest: &GuestId) {
        self.pair("reason", reason);
        self.guest(guest);
        self.pair("vm-pid", vm_pid.unwrap_or(0));
    }

    fn guest(&mut self, guest: &GuestId) {
        push_string(&mut self.0, "vm", guest.name.as_bytes());
        self.pair("uuid", guest.uuid);
    }

    /// Appends the pairs that libaudit adds for the program `exe`.
    fn end(mut self, guest: &GuestId, outcome: Outcome, exe: &Path) -> Result<String, TooLong> {
        push_string(&mut self.0, "exe", exe.as_os_str().as_bytes());
        self.0.push_str(" hostname=? addr=? terminal=?");
        self.pair("res", outcome.as_str());
        if self.0.len() > MAX_TEXT_BYTES {
            return Err(TooLong { guest: guest.name.chars().take(64).collect(), len: self.0.len() });
        }
        Ok(self.0)
    }

    fn descriptor(&mut self, descriptor: &Descriptor) {
        match descriptor.mac {
            Some(mac) => self.pair("net", mac),
            None => self.pair("net", "?"),
        }
        self.node(&descriptor.device, descriptor.queue);
        self.pair("vm-pid", descriptor.vm_pid);
        self.pair("fd", descriptor.fd);
    }

    fn device(&mut self, mac: MacAddr, device: &Device, queue: Option<u32>) {
        self.pair("net", mac);
        self.node(device, queue);
    }

    fn node(&mut self, device: &Device, queue: Option<u32>) {
        push_string(&mut self.0, "path", device.path.as_bytes());
        match device.rdev {
            Some(rdev) => self.pair("rdev", rdev),
            None => self.pair("rdev", "?"),
        }
        if let Some(dev) = &device.dev {
            push_string(&mut self.0, "dev", dev.as_bytes());
        }
        self.optional_pair("queue", queue);
    }

    fn change(&mut self, old: Option<MacAddr>, new: Option<MacAddr>, vm_pid: Option<u32>, fds: Option<u32>) {
        for (key, mac) in [("old-net", old), ("new-net", new)] {
            match mac {
                Some(mac) => self.pair(key, format_args!("\"{mac}\"")),
                None => self.pair(key, "\"?\""),
            }
        }
        self.optional_pair("vm-pid", vm_pid);
        self.optional_pair("fds", fds);
    }

    fn optional_pair(&mut self, key: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.pair(key, value);
        }
    }

    /// A time in milliseconds since 1970, as `SECONDS.mmm`.
    fn optional_time(&mut self, key: &str, time: Option<u64>) {
        if let Some(time) = time {
            self.pair(key, format_args!("{}.{:03}", time / 1000, time % 1000));
        }
    }

    fn pair(&mut self, key: &str, value: impl fmt::Display) {
        // Writing to a String can't fail.
        let _ = write!(self.0, " {key}={value}");
    }
}
