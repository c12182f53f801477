use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use taptrail_record::{GuestId, Reason, Requester};

use crate::model::entry::RecordEntry;
use crate::{Certainty, EndedBy, Proof};

/// One run of a guest: one QEMU, from its start to its end.
///
/// Serialised as one of the `runs` of `taptrail guests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestRun {
    /// The host.
    pub host: Arc<str>,
    /// The guest.
    pub guest: GuestId,
    /// The time of the record of its start; none if there is no such record, as for a guest that
    /// ran before the trail begins.
    #[serde(with = "crate::time::maybe")]
    pub started: Option<Timestamp>,
    /// How it started, as its manager recorded: `booted`, `restored`, `migrated`, `from-snapshot` …
    pub start_reason: Option<Reason>,
    /// Who started it, as far as the record shows.
    pub started_by: Option<RecordedActor>,
    /// The time of the record that shows its end. See [`last_seen`](Self::last_seen).
    #[serde(with = "crate::time::maybe")]
    pub ended: Option<Timestamp>,
    /// If no record has its end, the latest time at which it had not ended: it ended between this
    /// time and `ended`.
    #[serde(with = "crate::time::maybe")]
    pub last_seen: Option<Timestamp>,
    /// The time from which it is not certain that it ran, and whether it ran once: records of that
    /// time may be missing.
    #[serde(with = "crate::time::maybe")]
    pub uncertain_since: Option<Timestamp>,
    /// Whether it has ended.
    pub state: RunState,
    /// What shows that it has ended.
    pub ended_by: Option<EndedBy>,
    /// Why it ended, as its manager recorded: `shutdown`, `destroyed`, `crashed`, `failed`,
    /// `migrated`, `saved` …; `exited` if only a watcher saw the end of the process.
    pub end_reason: Option<Reason>,
    /// Who ended it, as far as the record shows.
    pub stopped_by: Option<RecordedActor>,
    /// The fatal signal of its QEMU, if the kernel recorded one.
    pub crash: Option<Crash>,
    /// How many interfaces it had: those with one MAC count as often as it had them at once.
    pub interfaces: u32,
    /// The process id of its QEMU, if a record has it.
    pub pid: Option<u32>,
    /// [`Definitive`](Certainty::Definitive) if records show its start and its end, or that it has
    /// not ended; otherwise [`Incomplete`](Certainty::Incomplete).
    pub certainty: Certainty,
    /// The records that show it, oldest first. If one of them is not authenticated, JSON has
    /// `unauthenticated_source` beside them.
    #[serde(flatten, serialize_with = "Proof::serialize_all")]
    pub proof: Vec<Proof>,
}

/// Whether a guest's run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// No record shows its end.
    Running,
    /// It has ended, or is about to: see [`GuestRun::crash`].
    Ended,
}

taptrail_record::word_table! {
    RunState:
    /// Both states.
    ALL,
    /// The word in JSON and tables.
    as_str,
    {
        Running = "running",
        Ended = "ended",
    }
}

/// The fatal signal of a guest's QEMU, from the kernel's `ANOM_ABEND` record.
///
/// The kernel writes it when the process has got the signal, before a core dump: the process
/// ended at this time or after it.
///
/// Serialised as `{"time": …, "signal": 11, "signal_name": "SIGSEGV"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crash {
    /// The time of the record.
    pub time: Timestamp,
    /// The signal's number.
    pub signal: u32,
}

/// The signals that dump core, by their numbers on x86, ARM, POWER, RISC-V and S/390 (signal(7)).
const SIGNALS: [(u32, &str); 10] = [
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (11, "SIGSEGV"),
    (24, "SIGXCPU"),
    (25, "SIGXFSZ"),
    (31, "SIGSYS"),
];

impl Crash {
    /// The signal's name, if it is one of those that the kernel records.
    pub fn signal_name(&self) -> Option<&'static str> {
        SIGNALS.iter().find(|(number, _)| *number == self.signal).map(|(_, name)| *name)
    }
}

impl Serialize for Crash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields {
            #[serde(with = "crate::time::exact")]
            time: Timestamp,
            signal: u32,
            signal_name: Option<&'static str>,
        }
        Fields { time: self.time, signal: self.signal, signal_name: self.signal_name() }.serialize(to)
    }
}

/// Who is on record for a guest's start or stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct RecordedActor {
    /// What the process is.
    pub role: ActorRole,
    /// Its user id.
    pub uid: u32,
    /// Its login uid; none if it has no login, as daemons.
    #[serde(serialize_with = "unless_unset")]
    pub auid: u32,
    /// Its session id; none if it has no login, or the record does not have it.
    #[serde(serialize_with = "unless_unset")]
    pub ses: u32,
    /// Its process id.
    pub pid: Option<u32>,
}

/// Which process a [`RecordedActor`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActorRole {
    /// The client that asked for it: the record names it.
    Requester,
    /// The process that wrote the record: the guest's manager. libvirt does not record who asked
    /// it.
    Manager,
}

taptrail_record::word_table! {
    ActorRole:
    /// Both roles.
    ALL,
    /// The word in JSON and tables.
    as_str,
    {
        Requester = "requester",
        Manager = "manager",
    }
}

impl RecordedActor {
    /// The login uid of a process without a login; see [`Requester::UNSET`].
    pub const UNSET: u32 = Requester::UNSET;

    pub(crate) fn of(entry: &RecordEntry<'_>) -> Option<Self> {
        if let Some(Requester { uid, auid, pid }) = entry.record.requester {
            return Some(Self { role: ActorRole::Requester, uid, auid, ses: Self::UNSET, pid: Some(pid) });
        }
        let credentials = entry.credentials?;
        Some(Self {
            role: ActorRole::Manager,
            uid: credentials.uid,
            auid: credentials.auid,
            ses: credentials.ses,
            pid: entry.writer,
        })
    }
}

fn unless_unset<S: Serializer>(id: &u32, to: S) -> Result<S::Ok, S::Error> {
    Some(*id).filter(|id| *id != RecordedActor::UNSET).serialize(to)
}
