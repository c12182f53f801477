//! The form in which archives store a [`Record`]: one flat object, without the fields that the
//! record does not have. Archives outlast versions of this crate: fields may be added to the form,
//! and none is ever renamed or removed.

use std::net::Ipv4Addr;

use compact_str::CompactString;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address_change::ChangeWord;
use crate::{
    CloseDoubt, Descriptor, Device, DeviceKind, Event, FilterAddress, GuestId, MacAddr, Outcome, Rdev,
    Reason, Record, Requester, UpdatePhase,
};

/// The words of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EventWord {
    Open,
    Start,
    Attach,
    Detach,
    Keep,
    Close,
    Filter,
    Mac,
    Updating,
    Update,
    Seen,
    Gone,
    GuestStart,
    GuestStop,
    GuestGone,
}

/// A record's fields: borrowed to be written, owned once read.
#[derive(Serialize, Deserialize)]
struct Fields<Guest, Device, Reason> {
    guest: Guest,
    event: EventWord,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm_pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fd: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    forced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settings: Option<CompactString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_change: Option<ChangeWord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dhcp_server: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_end_ms: Option<u64>,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    requester: Option<Requester>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doubt: Option<CloseDoubt>,
}

/// A device without nulls. In reports it has them: see [`Device`].
#[derive(Serialize)]
struct CompactDevice<'a> {
    kind: DeviceKind,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<Rdev>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<&'a str>,
}

impl<'a> From<&'a Device> for CompactDevice<'a> {
    fn from(device: &'a Device) -> Self {
        Self { kind: device.kind, path: &device.path, rdev: device.rdev, dev: device.dev.as_deref() }
    }
}

/// Serializes a device without nulls.
pub(crate) fn device<S: Serializer>(device: &Device, to: S) -> Result<S::Ok, S::Error> {
    CompactDevice::from(device).serialize(to)
}

/// Serializes a device, if there is one, without nulls.
pub(crate) fn maybe_device<S: Serializer>(device: &Option<Device>, to: S) -> Result<S::Ok, S::Error> {
    device.as_ref().map(CompactDevice::from).serialize(to)
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields {
            guest: &self.guest,
            event: EventWord::Open,
            mac: self.event.mac(),
            device: self.event.device().map(CompactDevice::from),
            queue: None,
            vm_pid: None,
            fds: None,
            fd: None,
            forced: false,
            reason: None,
            settings: None,
            ip: None,
            ip_change: None,
            dhcp_server: None,
            lease_end_ms: None,
            outcome: self.outcome,
            requester: self.requester,
            errno: self.errno,
            last_seen_ms: self.last_seen,
            doubt: self.doubt,
        };
        fields.event = match &self.event {
            Event::Open { mac: _, device: _, queue } => {
                fields.queue = *queue;
                EventWord::Open
            }
            Event::Start { mac: _, vm_pid, fds } => {
                (fields.vm_pid, fields.fds) = (*vm_pid, *fds);
                EventWord::Start
            }
            Event::Attach { mac: _, vm_pid, fds } => {
                (fields.vm_pid, fields.fds) = (*vm_pid, *fds);
                EventWord::Attach
            }
            Event::Detach { mac: _, vm_pid, fds, forced } => {
                (fields.vm_pid, fields.fds, fields.forced) = (*vm_pid, *fds, *forced);
                EventWord::Detach
            }
            Event::Keep { mac: _, device: _, queue, vm_pid } => {
                (fields.queue, fields.vm_pid) = (*queue, *vm_pid);
                EventWord::Keep
            }
            Event::Close { mac: _, device: _, queue } => {
                fields.queue = *queue;
                EventWord::Close
            }
            Event::Filter { mac: _, device: _, address } => {
                if let Some(FilterAddress { ip, change }) = address {
                    (fields.ip, fields.ip_change) = (Some(*ip), Some(change.word()));
                    (fields.dhcp_server, fields.lease_end_ms) = (change.server(), change.until());
                }
                EventWord::Filter
            }
            Event::Mac { mac: _, device: _ } => EventWord::Mac,
            Event::Update { mac: _, device: _, phase, settings } => {
                fields.settings = Some(settings.clone());
                match phase {
                    UpdatePhase::Begin => EventWord::Updating,
                    UpdatePhase::End => EventWord::Update,
                }
            }
            Event::Seen(descriptor) | Event::Gone(descriptor) => {
                let Descriptor { mac: _, device: _, queue, vm_pid, fd } = descriptor;
                (fields.queue, fields.vm_pid, fields.fd) = (*queue, Some(*vm_pid), Some(*fd));
                if matches!(self.event, Event::Seen(_)) { EventWord::Seen } else { EventWord::Gone }
            }
            Event::GuestStart { reason, vm_pid } => {
                (fields.reason, fields.vm_pid) = (Some(reason.as_str()), *vm_pid);
                EventWord::GuestStart
            }
            Event::GuestStop { reason, vm_pid } => {
                (fields.reason, fields.vm_pid) = (Some(reason.as_str()), *vm_pid);
                EventWord::GuestStop
            }
            Event::GuestGone { vm_pid } => {
                fields.vm_pid = Some(*vm_pid);
                EventWord::GuestGone
            }
        };
        fields.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let fields = Fields::<GuestId, Device, Reason>::deserialize(from)?;
        fields.record().map_err(D::Error::missing_field)
    }
}

impl Fields<GuestId, Device, Reason> {
    /// The record, or the name of a field that its event must have.
    fn record(self) -> Result<Record, &'static str> {
        let Self { queue, vm_pid, fds, forced, .. } = self;
        let mac = self.mac.ok_or("mac");
        let device = self.device.ok_or("device");
        let reason = self.reason.ok_or("reason");
        let qemu = vm_pid.ok_or("vm_pid");
        let event = match self.event {
            EventWord::Open => Event::Open { mac: mac?, device: device?, queue },
            EventWord::Start => Event::Start { mac: mac?, vm_pid, fds },
            EventWord::Attach => Event::Attach { mac: mac?, vm_pid, fds },
            EventWord::Detach => Event::Detach { mac: mac?, vm_pid, fds, forced },
            EventWord::Keep => Event::Keep { mac: mac?, device: device?, queue, vm_pid },
            EventWord::Close => Event::Close { mac: mac?, device: device?, queue },
            EventWord::Filter => {
                let Self { ip, ip_change, dhcp_server, lease_end_ms, .. } = self;
                let address = FilterAddress::of(ip, ip_change, dhcp_server, lease_end_ms);
                Event::Filter { mac: mac?, device: device?, address: address.ok_or("ip_change")? }
            }
            EventWord::Mac => Event::Mac { mac: mac?, device: device? },
            EventWord::Updating | EventWord::Update => {
                let ends = self.event == EventWord::Update;
                let phase = if ends { UpdatePhase::End } else { UpdatePhase::Begin };
                let settings = self.settings.ok_or("settings")?;
                Event::Update { mac: mac?, device: device?, phase, settings }
            }
            EventWord::Seen | EventWord::Gone => {
                let fd = self.fd.ok_or("fd")?;
                let descriptor = Descriptor { mac: mac.ok(), device: device?, queue, vm_pid: qemu?, fd };
                if self.event == EventWord::Seen { Event::Seen(descriptor) } else { Event::Gone(descriptor) }
            }
            EventWord::GuestStart => Event::GuestStart { reason: reason?, vm_pid },
            EventWord::GuestStop => Event::GuestStop { reason: reason?, vm_pid },
            EventWord::GuestGone => Event::GuestGone { vm_pid: qemu? },
        };
        let Self { guest, outcome, requester, errno, last_seen_ms: last_seen, doubt, .. } = self;
        Ok(Record { guest, event, outcome, requester, errno, last_seen, doubt })
    }
}
