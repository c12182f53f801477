use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use taptrail_record::{Device, GuestId, MacAddr};

use crate::Proof;

/// An error, a gap or a suspicious entry in a trail.
///
/// Serialised as one of a trail's `findings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The kind. JSON has its `severity` beside it.
    #[serde(flatten, serialize_with = "kind_and_severity")]
    pub kind: FindingKind,
    /// The host.
    pub host: Arc<str>,
    /// The guest, if it is about one that is known.
    pub guest: Option<GuestId>,
    /// The interface, if it is about one.
    pub mac: Option<MacAddr>,
    /// The device, if it is about one.
    pub device: Option<Device>,
    /// The time of the record that shows it.
    #[serde(with = "crate::time::exact")]
    pub time: Timestamp,
    /// One sentence for people.
    pub text: String,
    /// The records that show it, oldest first; [`Proof::MAX_PROOFS`] at most. If one of them is not
    /// authenticated, JSON has `unauthenticated_source` beside them.
    #[serde(flatten, serialize_with = "Proof::serialize_all")]
    pub proof: Vec<Proof>,
    /// The incident that it is a part of.
    #[serde(flatten)]
    pub incident: Incident,
}

/// Which findings have one cause.
///
/// Findings are of one incident only where records show it: they are of one attempt of one
/// interface or guest, or one record shows all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Incident {
    /// The same for all findings of an incident. The incidents of each host are counted from 1.
    #[serde(rename = "incident")]
    pub number: u64,
    /// Whether an earlier finding leads the incident, and this one follows from it or from the same
    /// record.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
}

/// How much a kind of finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Normal operation that is worth knowing.
    Notice,
    /// Something failed or is incomplete, and the trail shows it as it is.
    Warning,
    /// A process may hold a device that the trail does not show, records are lost or contradict each
    /// other, or a guest may have left its confinement: look first.
    Grave,
}

taptrail_record::word_table! {
    Severity:
    /// All severities, the least first.
    ALL,
    /// The word in JSON and tables.
    as_str,
    {
        Notice = "notice",
        Warning = "warning",
        Grave = "grave",
    }
}

impl Severity {
    /// One sentence that explains it.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Notice => "Normal operation that is worth knowing",
            Self::Warning => "Something failed or is incomplete, and the trail shows it as it is",
            Self::Grave => {
                "Look first: a process may hold a device that the trail does not show, records are lost or \
                 contradict each other, or a guest may have left its confinement"
            }
        }
    }
}

fn kind_and_severity<S: Serializer>(kind: &FindingKind, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        kind: FindingKind,
        severity: Severity,
    }
    Fields { kind: *kind, severity: kind.severity() }.serialize(to)
}

/// Former words of kinds, which users' filters and rules may still have.
const FORMER_WORDS: [(&str, FindingKind); 1] = [("unaudited-open", FindingKind::UnmanagedOpen)];

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident: $severity:ident = $word:literal,)+) => {
        /// The kind of a [`Finding`].
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

            /// How much it matters.
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$kind => Severity::$severity,)+
                }
            }

            /// The kind with this word, or with this former word.
            pub fn from_word(word: &str) -> Option<Self> {
                let of = |word: &str| Self::ALL.iter().copied().find(|kind| kind.as_str() == word);
                let former = || FORMER_WORDS.iter().find(|(former, _)| *former == word);
                of(word).or_else(|| former().map(|(_, kind)| *kind))
            }

            /// Its former words.
            pub fn former_words(self) -> impl Iterator<Item = &'static str> {
                FORMER_WORDS.iter().filter(move |(_, kind)| *kind == self).map(|(word, _)| *word)
            }

            /// One sentence that explains it.
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
    OpenFailed: Warning = "open-failed",
    /// A device was opened, and QEMU never got it.
    OpenWithoutGrant: Warning = "open-without-grant",
    /// A device was opened, and it is not known whether QEMU got it.
    GrantUnknown: Warning = "grant-unknown",
    /// One open is recorded both as failed and as successful.
    ContradictoryOpen: Warning = "contradictory-open",
    /// QEMU got an interface, and no open of a device is recorded for it.
    GrantWithoutOpen: Grave = "grant-without-open",
    /// QEMU got an interface without a recorded open, and other records show a device that may be the interface's.
    PossibleDevice: Notice = "possible-device",
    /// An interface was unplugged and plugged in again with no open between: the same descriptors.
    ReattachedWithoutOpen: Notice = "reattached-without-open",
    /// An interface could not be handed to QEMU as it started, or QEMU did not start.
    StartFailed: Warning = "start-failed",
    /// An interface is recorded as started in a guest that never ran.
    FalseStart: Warning = "false-start",
    /// A hot-plug failed; if the finding names a device, QEMU still holds that.
    AttachFailed: Grave = "attach-failed",
    /// A hot-unplug failed: the guest keeps the interface.
    DetachFailed: Warning = "detach-failed",
    /// An interface was unplugged that no record shows plugged in.
    DetachWithoutGrant: Grave = "detach-without-grant",
    /// A guest could not be stopped.
    StopFailed: Warning = "stop-failed",
    /// The filter of an interface was not in force: somebody else changed or removed it.
    FilterLost: Grave = "filter-lost",
    /// The link behind an interface had another MAC than it was given: it may have got frames of others.
    MacChanged: Grave = "mac-changed",
    /// It is not known whether an interface's settings were changed: the change was begun, and no record has its outcome.
    UpdateUnknown: Warning = "update-unknown",
    /// A device could not be closed.
    CloseFailed: Grave = "close-failed",
    /// A device was closed, or kept by QEMU, and no record shows its open.
    CloseWithoutOpen: Grave = "close-without-open",
    /// A guest started twice without a stop between: its earlier holdings ended unobserved.
    ReleaseByRestart: Warning = "release-by-restart",
    /// A host rebooted without a stop of its guests: their holdings ended unobserved.
    ReleaseByReboot: Warning = "release-by-reboot",
    /// A device must have been released, and no record shows it.
    NeverReleased: Grave = "never-released",
    /// QEMU was observed to hold a device after the record of its release.
    HeldAfterRelease: Grave = "held-after-release",
    /// A device was released, and somebody may hold it still: the writer of its close saw a holder, or could not exclude one.
    DoubtfulRelease: Grave = "doubtful-release",
    /// One of several interfaces with the same MAC was unplugged, and no record shows which.
    AmbiguousRelease: Warning = "ambiguous-release",
    /// Two interfaces on one host have the same MAC at once.
    DuplicateMac: Warning = "duplicate-mac",
    /// QEMU got a device, and no record shows its number.
    UnknownDeviceNumber: Notice = "unknown-device-number",
    /// The kernel logged an open of a device, and no manager recorded it.
    UnmanagedOpen: Grave = "unmanaged-open",
    /// QEMU was observed to hold a device that no record grants.
    UnaccountedDevice: Grave = "unaccounted-device",
    /// A guest's QEMU tried to open a device itself, and was refused.
    RefusedOpen: Grave = "refused-open",
    /// A security module refused a guest's QEMU the access to a device.
    AccessDenied: Warning = "access-denied",
    /// A guest's QEMU got a fatal signal.
    QemuCrashed: Warning = "qemu-crashed",
    /// A guest's manager could not send a record to the audit.
    RecordNotSent: Grave = "record-not-sent",
    /// A record is cut off: the outcome of its operation is unknown.
    TruncatedRecord: Grave = "truncated-record",
    /// The audit log lacks a record that another source has.
    SerialGap: Grave = "serial-gap",
    /// Records of a time range are missing, or may be.
    LogGap: Grave = "log-gap",
    /// The manager of a running guest restarted.
    DaemonRestarted: Notice = "daemon-restarted",
    /// A program other than a guest manager writes `VIRT_CONTROL` records.
    ForeignControl: Notice = "foreign-control",
}
