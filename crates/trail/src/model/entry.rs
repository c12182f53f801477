use std::sync::Arc;

use compact_str::CompactString;
use jiff::Timestamp;
use taptrail_record::{Fragment, KernelOpen, MacAddr, Record};
use uuid::Uuid;

use crate::{LineRef, Proof};

/// One thing told, with its place in the world: what a [`Trail`](crate::Trail) is fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The host it speaks of. Guests of different hosts never meet.
    pub host: Arc<str>,
    /// When the event happened.
    pub time: Timestamp,
    /// The kernel's serial number of the event, where the source kept it.
    pub serial: Option<u32>,
    /// The process that sent the record, as the kernel saw it, where the source kept it: a guest
    /// manager's daemon, or a supervisor.
    pub writer: Option<u32>,
    /// Where it was read: a file's path, a journal, a ledger.
    pub source: Arc<str>,
    /// Which line or row of the source it is, from 1.
    pub line: u64,
    /// Where else the same event was read.
    pub copies: Vec<LineRef>,
    /// Whether no input that has it shows who wrote it.
    pub unauthenticated: bool,
    /// What is told.
    pub content: Content,
}

/// What one line or row tells.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// A record of a guest or of a network device of its.
    Record(Record),
    /// The kernel saw an open(2) of a raw network device.
    KernelOpen(KernelOpen),
    /// A record is cut off: the outcome of its operation is unknown.
    Truncated(Fragment),
    /// The guest's manager could not send this record: no audit log has it.
    Unsent(Fragment),
    /// Another source shows this record with its serial number, and the audit log of its host, which
    /// covers its time, lacks it.
    Missing(Fragment),
    /// A stretch of a log is lost: records of that time may be missing.
    Gap(Gap),
    /// Nothing is recorded from here on, until [`RecordingResumed`](Self::RecordingResumed).
    RecordingStopped(GapReason),
    /// Records are written again.
    RecordingResumed(GapReason),
    /// The host started anew.
    Boot,
    /// A `VIRT_CONTROL` of a program that knows no uuids: a container run-time.
    Foreign {
        /// The program, where told.
        exe: CompactString,
    },
}

/// The interfaces that live supervisors of a host were opening devices for, or handing them to QEMU, as its ledger was
/// read. Whatever else in that ledger is open and not granted, nobody is about to grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepsInProgress {
    /// The host.
    pub host: Arc<str>,
    /// The ledger: the [`source`](Entry::source) of its entries.
    pub ledger: Arc<str>,
    /// Guests, and of which interface of theirs; all of a guest's, without one.
    pub steps: Vec<(Uuid, Option<MacAddr>)>,
}

/// What can't be read any more, as far as the kernel's serial numbers tell: all between two events that
/// were read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gap {
    /// When the event before it happened, if one was read.
    pub since: Option<Timestamp>,
    /// The serial numbers of the first and the last event that may be missing, where they are known.
    pub serials: Option<(u32, u32)>,
    /// Why it can't be read.
    pub why: GapReason,
}

/// Why a stretch of a log is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The log's own numbers show that it was never written.
    NeverWritten,
    /// The place up to which it was read is gone from the log and its rotations.
    PositionLost,
    /// A packed rotation of the log is damaged: what it has from there on can't be had.
    Damaged,
    /// It was sent while nobody listened, and can't be had again.
    NotListening,
    /// It was sent faster than it was taken.
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
    /// The log goes back in time: its lines are not in order, or the clock was set.
    Disordered,
    /// Its serial numbers fall, and not to those of a boot: the host started anew and the beginning is missing, or
    /// these are another host's.
    SerialsFell,
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

/// A record of a guest, with the entry that holds it.
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
