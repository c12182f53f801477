use std::sync::Arc;

use compact_str::CompactString;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use taptrail_record::{Device, Requester};
use uuid::Uuid;

use crate::{Proof, State};

/// A tap that `taptrail-bridge-helper` passed to a user's QEMU. No record shows its guest or its
/// MAC, so it is no [`Holding`](crate::Holding).
///
/// Serialised as one of a trail's `bridge_taps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BridgeTap {
    /// The host.
    pub host: Arc<str>,
    /// The bridge that it was a port of when it was passed.
    pub bridge: CompactString,
    /// The tap.
    pub device: Device,
    /// Who asked for it: the user, the login user, and the helper's parent process, which is QEMU,
    /// a shell of it, or libvirt's session daemon.
    pub requester: Requester,
    /// That process's start time in clock ticks since boot; none if it had ended.
    pub start_time: Option<u64>,
    /// The guest's name on that process's command line, which the process chooses: a claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_name: Option<CompactString>,
    /// The guest's uuid there, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_uuid: Option<Uuid>,
    /// When it was passed.
    #[serde(with = "crate::time::exact")]
    pub passed: Timestamp,
    /// When nobody held it any more, if a record shows it.
    #[serde(with = "crate::time::maybe")]
    pub released: Option<Timestamp>,
    /// If its end was not seen, the latest time at which it had not ended: it ended between this
    /// time and `released`.
    #[serde(with = "crate::time::maybe")]
    pub last_seen: Option<Timestamp>,
    /// The time from which records that would show its end may be missing.
    #[serde(with = "crate::time::maybe")]
    pub uncertain_since: Option<Timestamp>,
    /// `held` if a watcher recorded it and has recorded no close; `unknown` if nobody was to record
    /// its close; `released`; `never-granted` if it could not be passed.
    pub state: State,
    /// What shows its end, if it has ended.
    pub ended_by: Option<BridgeTapEnd>,
    /// The records that show it, oldest first.
    #[serde(flatten, serialize_with = "Proof::serialize_all")]
    pub proof: Vec<Proof>,
}

/// What shows the end of a [`BridgeTap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BridgeTapEnd {
    /// A watcher's record of its close.
    Close,
    /// The host rebooted.
    Reboot,
    /// Another tap got its name, in the same network namespace.
    NameReused,
}

taptrail_record::word_table! {
    BridgeTapEnd:
    /// All ends.
    ALL,
    /// The word in JSON and tables.
    as_str,
    {
        Close = "close",
        Reboot = "reboot",
        NameReused = "name-reused",
    }
}
