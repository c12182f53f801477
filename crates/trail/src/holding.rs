use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use taptrail_record::{Device, GuestId, MacAddr};

use crate::Proof;

/// One device, with all its queues, held (or nearly) by one guest's interface.
///
/// Serialised as one of a trail's `holdings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// Where.
    pub host: Arc<str>,
    /// Who.
    pub guest: GuestId,
    /// By which interface.
    pub mac: MacAddr,
    /// What.
    pub device: Device,
    /// How many open(2)s of it are told. libvirt's records tell of one, whatever the queues; where
    /// audit rules let the kernel tell of each, they are counted. 0 for what was opened before the
    /// trail begins.
    pub queues: u32,
    /// When it was opened, or the open failed; none when that was before the trail begins.
    #[serde(with = "crate::time::maybe")]
    pub opened: Option<Timestamp>,
    /// When QEMU got it, if it did; none also when that was before the trail begins.
    #[serde(with = "crate::time::maybe")]
    pub granted: Option<Timestamp>,
    /// When it was over, if it is and that is told. Of an [`Ambiguous`](Certainty::Ambiguous) end the
    /// time by which it was certainly over.
    #[serde(with = "crate::time::maybe")]
    pub released: Option<Timestamp>,
    /// When nobody saw its end, the latest time at which it was not over yet: it was over at some
    /// moment from here to `released`.
    #[serde(with = "crate::time::maybe")]
    pub last_seen: Option<Timestamp>,
    /// What became of it.
    pub state: State,
    /// What ended it, if it is over.
    pub ended_by: Option<EndedBy>,
    /// How far the records carry this.
    pub certainty: Certainty,
    /// The QEMU that got it, where told.
    pub pid: Option<u32>,
    /// The records that show it, oldest first; [`Proof::KEPT`] at most.
    pub proof: Vec<Proof>,
}

/// What became of an opened device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The open(2) failed.
    OpenFailed,
    /// It was opened, and QEMU never got it.
    NeverGranted,
    /// QEMU has it.
    Held,
    /// QEMU had it.
    Released,
}

impl State {
    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenFailed => "open-failed",
            Self::NeverGranted => "never-granted",
            Self::Held => "held",
            Self::Released => "released",
        }
    }
}

/// What ended a holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndedBy {
    /// The interface was unplugged.
    Detach,
    /// The guest ended.
    Stop,
    /// The device was closed, and no record says why.
    Close,
    /// The device was taken from the guest with the interface still plugged in.
    Revoke,
    /// The guest started anew, with no record of its end.
    Restart,
    /// The host started anew, with no record of the guest's end.
    Reboot,
    /// QEMU's process id is another guest's by now, with no record of this guest's end.
    PidReused,
}

impl EndedBy {
    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Detach => "detach",
            Self::Stop => "stop",
            Self::Close => "close",
            Self::Revoke => "revoke",
            Self::Restart => "restart",
            Self::Reboot => "reboot",
            Self::PidReused => "pid-reused",
        }
    }
}

/// How far the records carry what a holding says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// Records name the device at every step.
    Definitive,
    /// A record names only the interface or the guest; which devices that means is by looking back.
    Inferred,
    /// Another holding fits the same records as well: of interfaces with one MAC in one guest, a
    /// detach ended one, and none tells which. Each stays held until no doubt is left that it is over.
    Ambiguous,
    /// The records contradict each other.
    Doubtful,
}

impl Certainty {
    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Definitive => "definitive",
            Self::Inferred => "inferred",
            Self::Ambiguous => "ambiguous",
            Self::Doubtful => "doubtful",
        }
    }
}
