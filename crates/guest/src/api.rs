//! The guest's varlink API, `org.taptrail.Guest`: the types, shared by server and client.
//!
//! Served by the guest's supervisor on `RUN_DIR/GUEST/api`; `varlinkctl introspect` shows it.
//! `Status` and `Nics` are answered at once, from the state that the driver published last; the
//! other calls wait in the driver's queue.

use serde::{Deserialize, Serialize};
use taptrail_record::{Event as Said, FilterAddress, Record};
use zlink::introspect::{self, CustomType};

use crate::events::{EventKind, GuestEvent};
use crate::learning::LearntAddress;
use crate::request::Failure;
use crate::state::{InterfaceInfo, Snapshot};

/// One device of an interface, as QEMU holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Device {
    /// `tun`, `macvtap`, `vhost-net`, `vhost-vdpa` or `vhost-user`.
    pub kind: String,
    /// The path that was opened.
    pub path: String,
    /// Its number as in records, `0A:C8`.
    pub rdev: Option<String>,
    /// The host interface behind it.
    pub dev: Option<String>,
    /// Which queue, from 0.
    pub queue: i64,
    /// Its descriptor's number in QEMU.
    pub qemu_fd: Option<i64>,
    /// Of a released device: why its close does not prove that nobody holds it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// One interface of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Nic {
    /// Its address, which identifies it.
    pub mac: String,
    /// `bridge=br0`, `tap=NAME`, `macvtap=LOWER`, `vdpa=NODE` or `vhostuser=SOCKET`.
    pub backend: String,
    /// The whole SPEC, with the MAC and id that were chosen.
    pub spec: String,
    /// QEMU's model of the NIC.
    pub model: String,
    /// How many queue pairs the NIC has.
    pub queues: i64,
    /// Whether QEMU has vhost-net for it.
    pub vhost: bool,
    /// The host interface behind it; of a vDPA device, its node's name in `/dev`; of a vhost-user
    /// backend, its socket's.
    pub ifname: String,
    /// `held`, `unplugging`, `revoked` or `kept`.
    pub state: String,
    /// When QEMU was first seen to hold it: RFC 3339, UTC, milliseconds.
    pub since: String,
    /// One for each open(2).
    pub devices: Vec<Device>,
    /// The addresses that its filter has learnt; absent where it learns none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<Address>>,
}

/// An address that the filter of an interface has learnt, and lets the guest use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Address {
    /// The IPv4 address.
    pub ip: String,
    /// The DHCP server that gave it, or its relay; absent for the address from which the guest sent
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// When its lease ends unless it is prolonged: RFC 3339, UTC, milliseconds; absent where it does
    /// not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Answer to `Attach`, `Detach` and `Revoke`: the interface that was attached or released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, introspect::Type)]
pub struct OneNic {
    /// The interface that was attached or released.
    pub nic: Nic,
}

/// Answer to `Nics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, introspect::Type)]
pub struct Nics {
    /// All interfaces, in the order in which they were attached.
    pub nics: Vec<Nic>,
}

/// The client of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Requester {
    /// The uid of the client's process.
    pub uid: i64,
    /// The user who logged in, where one did.
    pub login_uid: Option<i64>,
    /// The pid of the client.
    pub pid: i64,
}

/// One event: a record, a finding, or a change of state. Fields that do not belong to its kind are
/// left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Event {
    /// From 1, since the supervisor's start, without a gap.
    pub sequence: i64,
    /// RFC 3339, UTC, milliseconds; a record's own.
    pub time: String,
    /// Of a record `opened`, `granted`, `released`, `kept`, `closed`, `started` or `ended`;
    /// otherwise `finding`, `guest` or `interface`.
    pub kind: String,
    /// The new state of the guest or the interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Of a grant `start` or `attach`, of a release `detach`; of a guest why it started or stopped; of
    /// an address that a filter learns `leased`, `seen`, `expired` or `released`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `success` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why an open failed: errno(3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i64>,
    /// The MAC of the interface that the event is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The host interface behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// The device that the event is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// How many descriptors were granted or released.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fds: Option<i64>,
    /// Released with the NIC still plugged?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced: Option<bool>,
    /// The address that a filter lets the guest use from then on, or does not any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The DHCP server that gave the address, or its relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp_server: Option<String>,
    /// When the lease ends unless it is prolonged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_end: Option<String>,
    /// Where nobody saw it happen: the latest time at which it had not happened yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// Of a close: why it does not prove that nobody holds the device any more.
    pub doubt: Option<String>,
    /// The client that requested it; absent where the supervisor acted by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requester: Option<Requester>,
    /// The kind of finding, as `taptrail findings` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finding: Option<String>,
    /// How much it matters: `grave`, `warning` or `notice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// The finding in a sentence; of a grant that failed, why; of `updating` and `update`, the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Answer to `Monitor`: one event; more follow unless it is the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, introspect::Type)]
pub struct OneEvent {
    /// The event that happened, or the state at first.
    pub event: Event,
}

/// Answer to `Status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, introspect::Type)]
pub struct Status {
    /// The guest's name.
    pub name: String,
    /// The guest's uuid.
    pub uuid: String,
    /// `starting`, `running`, `paused`, `stopping` or `stopped`.
    pub state: String,
    /// QEMU's pid, once it runs.
    pub pid: Option<i64>,
    /// The supervisor's pid.
    pub supervisor_pid: i64,
    /// Since when it runs: RFC 3339, UTC, milliseconds.
    pub since: Option<String>,
    /// How many interfaces it has.
    pub nics: i64,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, zlink::ReplyError, introspect::ReplyError)]
#[zlink(interface = "org.taptrail.Guest")]
pub enum ApiError {
    /// Nothing was done: the request does not fit the guest, or its current state.
    Refused {
        /// Why it was refused, or failed, as a sentence.
        reason: String,
    },
    /// The driver tried it, failed, and rolled back as far as the reason says.
    Failed {
        /// Why it was refused, or failed, as a sentence.
        reason: String,
    },
    /// The guest did not answer in time; it keeps its devices.
    TimedOut {
        /// What the guest did not do.
        reason: String,
    },
    /// The guest, or its supervisor, ended before the request was handled.
    Ended,
    /// The caller is neither root nor the supervisor's own user, and none of those allowed.
    Forbidden {
        /// The caller's uid.
        uid: i64,
    },
    /// The subscriber was too slow; its stream of events ends here.
    Lagged {
        /// The number of events that it missed.
        missed: i64,
    },
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(reason) => Self::Refused { reason },
            Failure::Failed(reason) => Self::Failed { reason },
            Failure::TimedOut(reason) => Self::TimedOut { reason },
        }
    }
}

impl From<InterfaceInfo> for Nic {
    fn from(info: InterfaceInfo) -> Self {
        let spec = info.spec.to_string();
        Self {
            mac: info.mac.to_string(),
            backend: info.spec.backend.to_string(),
            model: info.spec.model.to_string(),
            queues: i64::from(info.spec.queues.get()),
            vhost: info.vhost(),
            ifname: info.ifname,
            state: info.state.as_str().to_owned(),
            since: time(info.since),
            devices: info
                .devices
                .into_iter()
                .map(|held| Device {
                    doubt: held.doubt.map(|doubt| doubt.as_str().to_owned()),
                    ..device(held.device, held.queue, held.qemu_fd)
                })
                .collect(),
            addresses: info.addresses.map(|learnt| learnt.into_iter().map(Address::from).collect()),
            spec,
        }
    }
}

impl From<LearntAddress> for Address {
    fn from(learnt: LearntAddress) -> Self {
        Self {
            ip: learnt.address.to_string(),
            server: learnt.server.map(|server| server.to_string()),
            until: learnt.until.map(time),
        }
    }
}

impl From<Snapshot> for Nics {
    fn from(snapshot: Snapshot) -> Self {
        Self { nics: snapshot.interfaces.into_iter().map(Nic::from).collect() }
    }
}

impl From<&GuestEvent> for Event {
    fn from(happened: &GuestEvent) -> Self {
        let mut event = Self {
            sequence: i64::try_from(happened.sequence).unwrap_or(i64::MAX),
            time: time(happened.time),
            kind: String::new(),
            state: None,
            reason: None,
            outcome: None,
            errno: None,
            mac: None,
            ifname: None,
            device: None,
            fds: None,
            forced: None,
            ip: None,
            dhcp_server: None,
            lease_end: None,
            last_seen: None,
            doubt: None,
            requester: None,
            finding: None,
            severity: None,
            text: None,
        };
        match &happened.kind {
            EventKind::Recorded { record, cause } => {
                event.recorded(record);
                event.text.clone_from(cause);
            }
            EventKind::Found(found) => {
                "finding".clone_into(&mut event.kind);
                event.finding = Some(found.kind.as_str().to_owned());
                event.severity = Some(found.kind.severity().as_str().to_owned());
                event.text = Some(found.text.clone());
                event.mac = found.mac.map(|mac| mac.to_string());
                event.device = found.device.clone().map(|of| device(of, 0, None));
            }
            EventKind::Guest { state, reason } => {
                "guest".clone_into(&mut event.kind);
                event.state = Some(state.as_str().to_owned());
                event.reason = reason.as_ref().map(ToString::to_string);
            }
            EventKind::Interface { mac, ifname, state } => {
                "interface".clone_into(&mut event.kind);
                event.mac = Some(mac.to_string());
                event.ifname = Some(ifname.clone());
                event.state = Some(state.as_str().to_owned());
            }
        }
        event
    }
}

impl Event {
    /// Sets the fields of a record.
    fn recorded(&mut self, record: &Record) {
        let kind = match &record.event {
            Said::Open { .. } => "opened",
            Said::Start { .. } | Said::Attach { .. } => "granted",
            Said::Detach { .. } => "released",
            Said::Keep { .. } => "kept",
            Said::Close { .. } => "closed",
            Said::Filter { .. } => "filter",
            Said::Mac { .. } => "mac",
            Said::Update { phase, .. } => phase.as_str(),
            Said::GuestStart { .. } => "started",
            Said::GuestStop { .. } => "ended",
            // Records of a watcher; a supervisor writes none.
            Said::Seen(_) => "seen",
            Said::Gone(_) => "closed",
            Said::GuestGone { .. } => "ended",
        };
        kind.clone_into(&mut self.kind);
        self.mac = record.event.mac().map(|mac| mac.to_string());
        match &record.event {
            Said::Open { device: of, queue, .. }
            | Said::Close { device: of, queue, .. }
            | Said::Keep { device: of, queue, .. } => {
                self.device = Some(device(of.clone(), queue.unwrap_or(0), None));
            }
            Said::Filter { device: of, address, .. } => {
                self.device = Some(device(of.clone(), 0, None));
                if let Some(FilterAddress { ip, change }) = address {
                    self.ip = Some(ip.to_string());
                    self.reason = Some(change.as_str().to_owned());
                    self.dhcp_server = change.server().map(|server| server.to_string());
                    self.lease_end = change.until().and_then(from_millis);
                }
            }
            Said::Update { device: of, settings, .. } => {
                self.device = Some(device(of.clone(), 0, None));
                self.text = Some(settings.to_string());
            }
            Said::Mac { device: of, .. } => self.device = Some(device(of.clone(), 0, None)),
            Said::Start { fds, .. } => self.handed("start", *fds),
            Said::Attach { fds, .. } => self.handed("attach", *fds),
            Said::Detach { fds, forced, .. } => {
                self.handed("detach", *fds);
                self.forced = Some(*forced);
            }
            Said::GuestStart { reason, .. } | Said::GuestStop { reason, .. } => {
                self.reason = Some(reason.to_string());
            }
            Said::Seen(of) | Said::Gone(of) => {
                self.device = Some(device(of.device.clone(), of.queue.unwrap_or(0), None));
            }
            Said::GuestGone { .. } => {}
        }
        self.outcome = Some(record.outcome.as_str().to_owned());
        self.errno = record.errno.map(i64::from);
        self.doubt = record.doubt.map(|doubt| doubt.as_str().to_owned());
        self.last_seen = record.last_seen.and_then(from_millis);
        self.requester = record.requester.map(|requester| Requester {
            uid: i64::from(requester.uid),
            login_uid: (requester.auid != taptrail_record::Requester::UNSET)
                .then(|| i64::from(requester.auid)),
            pid: i64::from(requester.pid),
        });
    }

    fn handed(&mut self, reason: &str, fds: Option<u32>) {
        self.reason = Some(reason.to_owned());
        self.fds = fds.map(i64::from);
    }
}

fn device(device: taptrail_record::Device, queue: u32, qemu_fd: Option<i32>) -> Device {
    Device {
        kind: device.kind.to_string(),
        path: device.path.into(),
        rdev: device.rdev.map(|rdev| rdev.to_string()),
        dev: device.dev.map(Into::into),
        queue: i64::from(queue),
        qemu_fd: qemu_fd.map(i64::from),
        doubt: None,
    }
}

fn from_millis(millis: u64) -> Option<String> {
    jiff::Timestamp::from_millisecond(i64::try_from(millis).ok()?).ok().map(time)
}

/// RFC 3339, UTC, milliseconds.
pub(crate) fn time(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}
