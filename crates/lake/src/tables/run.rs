//! `runs`: a row for each run of a guest and UTC day on which it ran.

use std::cmp::Ordering;
use std::fmt;

use arrow_schema::FieldRef;
use compact_str::ToCompactString as _;
use serde::{Deserialize, Serialize};
use taptrail_record::GuestId;
use taptrail_trail::{ActorRole, Certainty, Crash, EndedBy, GuestRun, RecordedActor, RunState};

use super::columns::{
    Micros, ProofRow, all_proofs, flag, int, maybe_int, maybe_text, maybe_time, maybe_timestamp, maybe_word,
    micros, proofs, text, timestamp,
};
use crate::{Row, Table, Text};

/// A run on one day.
///
/// As with [`HeldRow`](crate::HeldRow), the row of the last day has all that is known of the run;
/// those of earlier days have what was known as the day ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The columns are `GuestRun`'s fields, and documented there.
pub struct RunRow {
    pub host: Text,
    pub guest: Text,
    pub uuid: Text,
    pub state: Text,
    pub certainty: Text,
    pub started: Option<Micros>,
    pub start_reason: Option<Text>,
    pub started_by: Option<Text>,
    pub started_by_uid: Option<i64>,
    pub started_by_auid: Option<i64>,
    pub started_by_ses: Option<i64>,
    pub started_by_pid: Option<i64>,
    pub ended: Option<Micros>,
    pub ended_by: Option<Text>,
    pub end_reason: Option<Text>,
    pub stopped_by: Option<Text>,
    pub stopped_by_uid: Option<i64>,
    pub stopped_by_auid: Option<i64>,
    pub stopped_by_ses: Option<i64>,
    pub stopped_by_pid: Option<i64>,
    pub last_seen: Option<Micros>,
    pub uncertain_since: Option<Micros>,
    pub crashed: Option<Micros>,
    pub crash_signal: Option<i64>,
    pub interfaces: i64,
    pub pid: Option<i64>,
    /// It began on this day: the rows to count for totals.
    pub first: bool,
    /// No later day has a row of it.
    pub last: bool,
    pub proof: Vec<ProofRow>,
}

/// A [`RecordedActor`], or none.
#[derive(Default)]
struct ActorColumns {
    role: Option<Text>,
    uid: Option<i64>,
    auid: Option<i64>,
    ses: Option<i64>,
    pid: Option<i64>,
}

impl ActorColumns {
    fn of(actor: Option<&RecordedActor>) -> Self {
        let unless_unset = |id: u32| (id != RecordedActor::UNSET).then_some(i64::from(id));
        actor.map_or_else(Self::default, |actor| Self {
            role: Some(actor.role.as_str().into()),
            uid: Some(actor.uid.into()),
            auid: unless_unset(actor.auid),
            ses: unless_unset(actor.ses),
            pid: actor.pid.map(i64::from),
        })
    }

    /// The actor; the outer none if a value is out of range.
    fn actor(self) -> Option<Option<RecordedActor>> {
        let Some(role) = self.role else { return Some(None) };
        let or_unset = |id: Option<i64>| id.map_or(Some(RecordedActor::UNSET), |id| id.try_into().ok());
        Some(Some(RecordedActor {
            role: ActorRole::from_word(role)?,
            uid: self.uid?.try_into().ok()?,
            auid: or_unset(self.auid)?,
            ses: or_unset(self.ses)?,
            pid: self.pid.map(u32::try_from).transpose().ok()?,
        }))
    }
}

impl RunRow {
    /// The row of a run.
    pub fn of(run: &GuestRun, first: bool, last: bool) -> Self {
        let started_by = ActorColumns::of(run.started_by.as_ref());
        let stopped_by = ActorColumns::of(run.stopped_by.as_ref());
        Self {
            host: Text::from(&*run.host),
            guest: Text::from(&*run.guest.name),
            uuid: run.guest.uuid.to_compact_string(),
            state: run.state.as_str().into(),
            certainty: run.certainty.as_str().into(),
            started: run.started.map(micros),
            start_reason: run.start_reason.as_ref().map(|value| value.to_compact_string()),
            started_by: started_by.role,
            started_by_uid: started_by.uid,
            started_by_auid: started_by.auid,
            started_by_ses: started_by.ses,
            started_by_pid: started_by.pid,
            ended: run.ended.map(micros),
            ended_by: run.ended_by.map(|cause| cause.as_str().into()),
            end_reason: run.end_reason.as_ref().map(|value| value.to_compact_string()),
            stopped_by: stopped_by.role,
            stopped_by_uid: stopped_by.uid,
            stopped_by_auid: stopped_by.auid,
            stopped_by_ses: stopped_by.ses,
            stopped_by_pid: stopped_by.pid,
            last_seen: run.last_seen.map(micros),
            uncertain_since: run.uncertain_since.map(micros),
            crashed: run.crash.map(|crash| micros(crash.time)),
            crash_signal: run.crash.map(|crash| crash.signal.into()),
            interfaces: run.interfaces.into(),
            pid: run.pid.map(i64::from),
            first,
            last,
            proof: run.proof.iter().map(ProofRow::of).collect(),
        }
    }

    /// The run; none if a value is out of range.
    pub fn run(self) -> Option<GuestRun> {
        let started_by = ActorColumns {
            role: self.started_by,
            uid: self.started_by_uid,
            auid: self.started_by_auid,
            ses: self.started_by_ses,
            pid: self.started_by_pid,
        };
        let stopped_by = ActorColumns {
            role: self.stopped_by,
            uid: self.stopped_by_uid,
            auid: self.stopped_by_auid,
            ses: self.stopped_by_ses,
            pid: self.stopped_by_pid,
        };
        let crash = match self.crashed {
            Some(time) => Some(Crash { time: timestamp(time)?, signal: self.crash_signal?.try_into().ok()? }),
            None => None,
        };
        Some(GuestRun {
            host: self.host.into(),
            guest: GuestId { name: self.guest, uuid: self.uuid.parse().ok()? },
            started: maybe_timestamp(self.started)?,
            start_reason: self.start_reason.map(|word| word.parse()).transpose().ok()?,
            started_by: started_by.actor()?,
            ended: maybe_timestamp(self.ended)?,
            last_seen: maybe_timestamp(self.last_seen)?,
            uncertain_since: maybe_timestamp(self.uncertain_since)?,
            state: RunState::from_word(self.state)?,
            ended_by: maybe_word(self.ended_by, |word| EndedBy::from_word(word))?,
            end_reason: self.end_reason.map(|word| word.parse()).transpose().ok()?,
            stopped_by: stopped_by.actor()?,
            crash,
            interfaces: self.interfaces.try_into().ok()?,
            pid: self.pid.map(u32::try_from).transpose().ok()?,
            certainty: Certainty::from_word(self.certainty)?,
            proof: all_proofs(self.proof)?,
        })
    }

    /// What identifies the run, the same on all its days and in every reading of its records.
    pub fn key(&self) -> impl Ord + fmt::Debug + use<'_> {
        (&self.host, &self.uuid, self.started, self.proof.first().map(ProofRow::event))
    }
}

impl Row for RunRow {
    const TABLE: Table = Table::Runs;

    fn columns() -> Vec<FieldRef> {
        vec![
            text("host"),
            text("guest"),
            text("uuid"),
            text("state"),
            text("certainty"),
            maybe_time("started"),
            maybe_text("start_reason"),
            maybe_text("started_by"),
            maybe_int("started_by_uid"),
            maybe_int("started_by_auid"),
            maybe_int("started_by_ses"),
            maybe_int("started_by_pid"),
            maybe_time("ended"),
            maybe_text("ended_by"),
            maybe_text("end_reason"),
            maybe_text("stopped_by"),
            maybe_int("stopped_by_uid"),
            maybe_int("stopped_by_auid"),
            maybe_int("stopped_by_ses"),
            maybe_int("stopped_by_pid"),
            maybe_time("last_seen"),
            maybe_time("uncertain_since"),
            maybe_time("crashed"),
            maybe_int("crash_signal"),
            int("interfaces"),
            maybe_int("pid"),
            flag("first"),
            flag("last"),
            proofs("proof"),
        ]
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn proofs(&mut self) -> &mut [ProofRow] {
        &mut self.proof
    }

    fn order(&self, other: &Self) -> Ordering {
        (&self.uuid, self.started)
            .cmp(&(&other.uuid, other.started))
            .then_with(|| self.key().cmp(&other.key()))
            .then_with(|| (self.ended, self.last, &self.proof).cmp(&(other.ended, other.last, &other.proof)))
    }
}
