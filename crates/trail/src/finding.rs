use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use taptrail_record::{Device, GuestId, MacAddr};

use crate::Proof;

/// A place where the trail is wrong, incomplete or worth a look.
///
/// Serialised as one of a trail's `findings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What sort of place.
    pub kind: FindingKind,
    /// Where.
    pub host: Arc<str>,
    /// Whose, where told.
    pub guest: Option<GuestId>,
    /// Of which interface, when it is one's.
    pub mac: Option<MacAddr>,
    /// Of which device, when it is one's.
    pub device: Option<Device>,
    /// When it showed.
    #[serde(with = "crate::time::exact")]
    pub time: Timestamp,
    /// One sentence for people.
    pub text: String,
    /// The records that show it, oldest first; [`Proof::KEPT`] at most.
    pub proof: Vec<Proof>,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $word:literal,)+) => {
        /// What sort of place a [`Finding`] is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum FindingKind {
            $($(#[doc = $doc])+ #[serde(rename = $word)] $kind,)+
        }

        impl FindingKind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// The word in JSON and tables.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)+
                }
            }

            /// One sentence that says what it is.
            pub fn summary(self) -> &'static str {
                match self {
                    $(Self::$kind => concat!($($doc),+).trim_ascii_start(),)+
                }
            }
        }
    };
}

kinds! {
    /// An open(2) failed.
    OpenFailed = "open-failed",
    /// A device was opened, and QEMU never got it.
    OpenWithoutGrant = "open-without-grant",
    /// A device was opened, and the records do not tell whether QEMU got it.
    GrantUnknown = "grant-unknown",
    /// One open is told both as failed and as done.
    ContradictoryOpen = "contradictory-open",
    /// QEMU got an interface, and no open of a device is told for it.
    GrantWithoutOpen = "grant-without-open",
    /// An interface was unplugged and plugged in again with no open between: the same descriptors.
    ReattachedWithoutOpen = "reattached-without-open",
    /// An interface could not be handed to QEMU as it started, or QEMU did not start.
    StartFailed = "start-failed",
    /// An interface is told as started in a guest that never ran.
    FalseStart = "false-start",
    /// A hot-plug failed; if the finding names a device, QEMU still holds that.
    AttachFailed = "attach-failed",
    /// A hot-unplug failed: the guest keeps the interface.
    DetachFailed = "detach-failed",
    /// An interface was unplugged that no record shows plugged in.
    DetachWithoutGrant = "detach-without-grant",
    /// A guest could not be stopped.
    StopFailed = "stop-failed",
    /// A device could not be closed.
    CloseFailed = "close-failed",
    /// A device was closed, or kept by QEMU, whose open is not told.
    CloseWithoutOpen = "close-without-open",
    /// A guest started twice with no stop between: what it held before ended unseen.
    ReleaseByRestart = "release-by-restart",
    /// A host started anew with no stop of its guests: what they held ended unseen.
    ReleaseByReboot = "release-by-reboot",
    /// A device must be given up, and no record tells its end.
    NeverReleased = "never-released",
    /// QEMU was seen to hold a device that it is told to have given up.
    HeldAfterRelease = "held-after-release",
    /// One of a guest's interfaces with one MAC was unplugged, and nothing tells which.
    AmbiguousRelease = "ambiguous-release",
    /// Two running interfaces of one host have one MAC.
    DuplicateMac = "duplicate-mac",
    /// QEMU got a device whose number no record tells.
    UnknownDeviceNumber = "unknown-device-number",
    /// The kernel saw a device opened, and no record admits it.
    UnauditedOpen = "unaudited-open",
    /// QEMU was seen to hold a device that no record admits.
    UnaccountedDevice = "unaccounted-device",
    /// A guest's QEMU tried to open a device by itself, and was refused.
    RefusedOpen = "refused-open",
    /// A guest's manager could not send a record: the audit never saw it.
    RecordNotSent = "record-not-sent",
    /// A record lost its end: how its operation ended is unknown.
    TruncatedRecord = "truncated-record",
    /// The audit log lacks a record that another source has.
    SerialGap = "serial-gap",
    /// A stretch of a log is missing: what it told is not known.
    LogGap = "log-gap",
    /// Another process than before speaks for a running guest: its manager started anew.
    DaemonRestarted = "daemon-restarted",
    /// A program that knows no guests writes `VIRT_CONTROL` records.
    ForeignControl = "foreign-control",
}
