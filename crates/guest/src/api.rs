//! The guest's varlink API, `org.taptrail.Guest`: the types, shared by server and client.
//!
//! Served by the guest's supervisor on `RUN_DIR/GUEST/api`; `varlinkctl introspect` shows it.
//! Reading calls (`Status`, `Nics`) are answered at once, from what the driver published last;
//! the others wait in the driver's queue.

use serde::{Deserialize, Serialize};
use zlink::introspect::{self, CustomType};

use crate::request::{Failure, InterfaceInfo, Snapshot};

/// One device of an interface, as QEMU holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Device {
    /// `tun`, `macvtap` or `vhost-net`.
    pub kind: String,
    /// What was opened.
    pub path: String,
    /// Its number as in records, `0A:C8`.
    pub rdev: Option<String>,
    /// The host interface behind it.
    pub dev: Option<String>,
    /// Which queue, from 0.
    pub queue: i64,
    /// Its descriptor's number in QEMU.
    pub qemu_fd: Option<i64>,
}

/// One interface of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Nic {
    /// What names it.
    pub mac: String,
    /// `bridge=br0`, `tap=NAME` or `macvtap=LOWER`.
    pub backend: String,
    /// The whole SPEC, as it came to be.
    pub spec: String,
    /// QEMU's model of the NIC.
    pub model: String,
    /// How many.
    pub queues: i64,
    /// Does QEMU have vhost-net for it?
    pub vhost: bool,
    /// The host interface behind it.
    pub ifname: String,
    /// `held`, `unplugging`, `revoked` or `kept`.
    pub state: String,
    /// When QEMU was seen to hold it: RFC 3339, UTC, milliseconds.
    pub since: String,
    /// One for each open(2).
    pub devices: Vec<Device>,
}

/// Answer to `Attach`, `Detach` and `Revoke`: the interface that came or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, introspect::Type)]
pub struct OneNic {
    /// The interface.
    pub nic: Nic,
}

/// Answer to `Nics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, introspect::Type)]
pub struct Nics {
    /// All interfaces, in the order they came.
    pub nics: Vec<Nic>,
}

/// Answer to `Status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, introspect::Type)]
pub struct Status {
    /// The guest's name.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// `starting`, `running`, `stopping` or `stopped`.
    pub state: String,
    /// QEMU's pid, once it runs.
    pub pid: Option<i64>,
    /// The supervisor's.
    pub supervisor_pid: i64,
    /// Since when it runs: RFC 3339, UTC, milliseconds.
    pub since: Option<String>,
    /// How many interfaces it has.
    pub nics: i64,
}

/// How a call ended when not well.
#[derive(Debug, Clone, PartialEq, Eq, zlink::ReplyError, introspect::ReplyError)]
#[zlink(interface = "org.taptrail.Guest")]
pub enum ApiError {
    /// Nothing was done: the request does not fit the guest, or not now.
    Refused {
        /// Why.
        reason: String,
    },
    /// It was tried, failed, and was rolled back as far as the reason says.
    Failed {
        /// Why.
        reason: String,
    },
    /// The guest did not answer in time; nothing was taken from it.
    TimedOut {
        /// What it did not do.
        reason: String,
    },
    /// The guest ended before the request was handled.
    Ended,
    /// The caller is neither root nor the supervisor's own user.
    Forbidden {
        /// The caller's.
        uid: i64,
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
            state: info.state.to_owned(),
            since: time(info.since),
            devices: info
                .devices
                .into_iter()
                .map(|held| Device {
                    kind: held.device.kind.to_string(),
                    path: held.device.path.into(),
                    rdev: held.device.rdev.map(|rdev| rdev.to_string()),
                    dev: held.device.dev.map(Into::into),
                    queue: i64::from(held.queue),
                    qemu_fd: held.qemu_fd.map(i64::from),
                })
                .collect(),
            spec,
        }
    }
}

impl From<Snapshot> for Nics {
    fn from(snapshot: Snapshot) -> Self {
        Self { nics: snapshot.interfaces.into_iter().map(Nic::from).collect() }
    }
}

/// RFC 3339, UTC, milliseconds.
pub(crate) fn time(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}
