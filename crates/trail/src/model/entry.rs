use std::sync::Arc;

use compact_str::CompactString;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use taptrail_record::{
    Abend, BridgeClose, BridgeOpen, Denial, Fragment, KernelOpen, MacAddr, ParseError, Record, RecordType,
    ResourceChange,
};
use uuid::Uuid;

use crate::{LineRef, Proof};

/// One item of an input, with its host, time and source: what a [`Trail`](crate::Trail) is fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The host that it is about. Guests of different hosts are never related to each other.
    pub host: Arc<str>,
    /// When the event happened. `source` gives no time finer than a microsecond.
    pub time: Timestamp,
    /// The kernel's serial number of the event, where the source kept it.
    pub serial: Option<u32>,
    /// The process that sent the record, as the kernel saw it, where the source kept it: a guest
    /// manager's daemon, or a supervisor.
    pub writer: Option<u32>,
    /// The credentials of that process, as the kernel logged them beside the record.
    pub credentials: Option<Credentials>,
    /// Where it was read: a file's path, a journal, a ledger.
    pub source: Arc<str>,
    /// Which line or row of the source it is, from 1.
    pub line: u64,
    /// The line or row itself, without its newline, if the reader was asked to keep it. An event
    /// that was read from several lines has all of them: an entry of a journal's export, of its
    /// pretty or verbose text, the two records of a kernel's open. None if it is longer than any
    /// record, or if the entry was read from no line: a gap at the end of a log. The bytes need not
    /// be UTF-8.
    pub text: Option<Arc<[u8]>>,
    /// Where else the same event was read.
    pub copies: Vec<LineRef>,
    /// Whether no input that has it shows which process wrote it.
    pub unauthenticated: bool,
    /// What the line or row says.
    pub content: Content,
}

/// The credentials of a process that wrote a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Login uid, which su(1) and sudo(8) don't change; [`u32::MAX`] for a daemon.
    pub auid: u32,
    /// Session id; [`u32::MAX`] for a daemon.
    pub ses: u32,
}

/// What one line or row says.
///
/// Serialised, and read again, as archives store it: an object with one member, which has the name
/// of the variant: `{"foreign":{"exe":"/usr/bin/crun"}}`. What is absent is left out. Archives
/// outlast versions of this crate: variants and fields may be added to that form, and none is ever
/// renamed or removed. Fields that are not known are skipped; a variant that is not known is an
/// error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A record of a guest or of one of its network devices.
    Record(Record),
    /// The kernel recorded an open(2) of a raw network device.
    KernelOpen(KernelOpen),
    /// `taptrail-bridge-helper` gave or refused its caller a tap. It is no guest's holding, but a
    /// [`BridgeTap`](crate::BridgeTap).
    BridgeOpen(BridgeOpen),
    /// A watcher saw that such a tap is closed.
    BridgeClose(BridgeClose),
    /// The kernel recorded that a process that runs a guest, as it seems, got a fatal signal.
    Abend(Abend),
    /// The kernel recorded that a process was refused the access to a raw network device.
    Denial(Denial),
    /// A record of another resource of a guest than a network device: only read where it is asked
    /// for, and no part of a trail.
    Resource(ResourceChange),
    /// A record is cut off: the outcome of its operation is unknown.
    Truncated(Fragment),
    /// The guest's manager could not send this record: no audit log has it.
    Unsent(Fragment),
    /// Another source shows this record with its serial number, and the audit log of its host,
    /// which covers its time, lacks it.
    Missing(Fragment),
    /// A part of a log is lost: records of that time may be missing.
    Gap(Gap),
    /// No records are written from here on, until [`RecordingResumed`](Self::RecordingResumed).
    #[serde(with = "super::stored::why")]
    RecordingStopped(GapReason),
    /// Records are written again.
    #[serde(with = "super::stored::why")]
    RecordingResumed(GapReason),
    /// The host booted.
    #[serde(with = "super::stored::no_fields")]
    Boot,
    /// A `VIRT_CONTROL` record of a program that knows no uuids: a container run-time.
    Foreign {
        /// The program's path, if the record has it.
        #[serde(default, skip_serializing_if = "CompactString::is_empty")]
        exe: CompactString,
    },
}

impl Content {
    /// The content of an audit record about a tap of the bridge helper's; none if the record is
    /// another one.
    ///
    /// # Errors
    ///
    /// It is one, and cut off or invalid.
    pub fn of_bridge_tap(record_type: RecordType, text: &[u8]) -> Result<Option<Self>, ParseError> {
        if let Some(open) = BridgeOpen::parse(record_type, text)? {
            return Ok(Some(Self::BridgeOpen(open)));
        }
        Ok(BridgeClose::parse(record_type, text)?.map(Self::BridgeClose))
    }
}

/// The interfaces whose devices live supervisors of a host were opening or passing to QEMU when its
/// ledger was read. No supervisor is about to grant any other device that the ledger shows open and
/// not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepsInProgress {
    /// The host.
    pub host: Arc<str>,
    /// The ledger: the [`source`](Entry::source) of its entries.
    pub ledger: Arc<str>,
    /// Each step's guest and interface; without a MAC, all interfaces of the guest.
    pub steps: Vec<(Uuid, Option<MacAddr>)>,
}

/// A part of a log that can't be read: what was between two events that were read, as far as the
/// kernel's serial numbers show.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gap {
    /// The time of the event before it, if one was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The serial numbers of the first and the last event that may be missing, where they are
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serials: Option<(u32, u32)>,
    /// Why it is missing.
    pub why: GapReason,
}

/// Why a part of a log is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The log's own serial numbers show that it was never written.
    NeverWritten,
    /// The position up to which it was read is gone from the log and its rotations.
    PositionLost,
    /// A compressed rotation of the log is damaged: the rest of it can't be read.
    Damaged,
    /// The kernel sent it while no reader listened, and does not send it again.
    NotListening,
    /// The kernel sent it faster than it was read.
    Overrun,
    /// The kernel log's rate limit dropped lines (`callbacks suppressed`).
    RateLimited,
    /// The kernel dropped records (`audit_lost`, `backlog limit exceeded`).
    Backlog,
    /// auditd or one of its dispatchers dropped records because its queue was full.
    QueueFull,
    /// Auditing was switched off (`audit_enabled=0`).
    AuditingOff,
    /// auditd did not run.
    AuditdStopped,
    /// auditd stopped writing, because the disk was full or failed.
    Suspended,
    /// Lines that look like records could not be read.
    UnparsedLines,
    /// The log's times go back: its lines are not in order, or the clock was set.
    Disordered,
    /// Its serial numbers fall, and not to those of a boot: the host booted and the beginning is
    /// missing, or these lines are another host's.
    SerialsFell,
}

taptrail_record::word_table! {
    GapReason:
    /// All reasons.
    ALL,
    /// The word in archives.
    as_str,
    {
        NeverWritten = "never-written",
        PositionLost = "position-lost",
        Damaged = "damaged",
        NotListening = "not-listening",
        Overrun = "overrun",
        RateLimited = "rate-limited",
        Backlog = "backlog",
        QueueFull = "queue-full",
        AuditingOff = "auditing-off",
        AuditdStopped = "auditd-stopped",
        Suspended = "suspended",
        UnparsedLines = "unparsed-lines",
        Disordered = "disordered",
        SerialsFell = "serials-fell",
    }
}

impl Entry {
    pub(crate) fn proof(&self) -> Proof {
        Proof {
            serial: self.serial,
            time: self.time,
            source: Arc::clone(&self.source),
            line: self.line,
            copies: self.copies.clone(),
            unauthenticated: self.unauthenticated,
        }
    }
}

/// A record of a guest, with the entry that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordEntry<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) record: &'a Record,
}

impl std::ops::Deref for RecordEntry<'_> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        self.entry
    }
}
