//! The run of a guest while the trail tracks it. When a run begins and ends is decided where a
//! guest's records are applied ([`crate::state::lifecycle`]); here it is put into a [`GuestRun`].

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Event, GuestId, MacAddr, Outcome, Reason};

use crate::model::entry::RecordEntry;
use crate::model::run::RecordedActor;
use crate::output::Output;
use crate::state::guest::Guest;
use crate::state::operation::Phase;
use crate::time::after;
use crate::{Certainty, Crash, EndedBy, GuestRun, Proof, RunState};

/// A run that has not ended.
#[derive(Debug)]
pub(crate) struct OpenRun {
    run: GuestRun,
    /// The interfaces that it had, each MAC with the highest number of interfaces at one time.
    interfaces: Vec<(MacAddr, usize)>,
}

/// How many MACs of one run are counted.
const MAX_MACS: usize = 1024;

/// How long after a watcher saw the end of a QEMU its manager's stop record may come.
const STOP_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);

/// How many runs may wait for a manager's stop record.
const MAX_GONE: usize = 1024;

/// The runs that nobody has fetched yet.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) ended: Vec<GuestRun>,
    /// Those whose end a watcher saw: their manager's stop record has the reason.
    gone: VecDeque<GuestRun>,
}

impl OpenRun {
    fn new(host: &Arc<str>, guest: &GuestId) -> Self {
        let run = GuestRun {
            host: Arc::clone(host),
            guest: guest.clone(),
            started: None,
            start_reason: None,
            started_by: None,
            ended: None,
            last_seen: None,
            uncertain_since: None,
            state: RunState::Running,
            ended_by: None,
            end_reason: None,
            stopped_by: None,
            crash: None,
            interfaces: 0,
            pid: None,
            certainty: Certainty::Definitive,
            proof: Vec::new(),
        };
        Self { run, interfaces: Vec::new() }
    }

    /// A run that a record shows, and not from its start.
    fn begun_unseen(entry: &RecordEntry<'_>) -> Self {
        let mut this = Self::new(&entry.host, &entry.record.guest);
        entry.proof().add_to(&mut this.run.proof);
        this
    }

    fn started(entry: &RecordEntry<'_>, reason: &Reason) -> Self {
        let mut this = Self::begun_unseen(entry);
        this.run.started = Some(entry.time);
        this.run.start_reason = Some(reason.clone());
        this.run.started_by = RecordedActor::of(entry);
        this
    }

    fn count(&mut self, mac: MacAddr, at_once: usize) {
        let known = self.interfaces.iter().position(|(known, _)| *known == mac);
        match known {
            Some(at) => self.interfaces[at].1 = at_once.max(self.interfaces[at].1),
            None if at_once > 0 && self.interfaces.len() < MAX_MACS => self.interfaces.push((mac, at_once)),
            None => {}
        }
    }

    pub(crate) fn mark_records_lost(&mut self, since: Timestamp) {
        let before = self.run.uncertain_since;
        self.run.uncertain_since = Some(before.map_or(since, |before| before.min(since)));
    }

    pub(crate) fn crashed(&mut self, crash: Crash, at: Proof) {
        self.run.crash = Some(crash);
        at.add_to(&mut self.run.proof);
    }

    pub(crate) fn withdraw_crash(&mut self) {
        self.run.crash = None;
    }

    /// A record of its end, or of its process's end.
    fn stop(mut self, entry: &RecordEntry<'_>) -> GuestRun {
        self.run.ended = Some(entry.time);
        self.run.ended_by = Some(EndedBy::Stop);
        // Written by a process that took over the account: nobody saw the end.
        let last_seen = entry.record.last_seen.and_then(|time| i64::try_from(time).ok());
        self.run.last_seen = last_seen.and_then(|time| Timestamp::from_millisecond(time).ok());
        self.finish(RunState::Ended).with_stop(entry)
    }

    /// Something else shows that it has ended: at `last_seen` it had not.
    fn end_unseen(mut self, cause: EndedBy, last_seen: Timestamp, at: &Proof) -> GuestRun {
        self.run.ended = Some(at.time);
        self.run.ended_by = Some(cause);
        self.run.last_seen = Some(self.run.crash.map_or(last_seen, |crash| crash.time)).max(self.run.started);
        at.clone().add_to(&mut self.run.proof);
        self.finish(RunState::Ended)
    }

    /// The trail ends.
    fn still_running(self) -> GuestRun {
        let state = if self.run.crash.is_some() { RunState::Ended } else { RunState::Running };
        self.finish(state)
    }

    fn finish(mut self, state: RunState) -> GuestRun {
        let count = self.interfaces.iter().map(|(_, count)| count).sum::<usize>();
        self.run.interfaces = u32::try_from(count).unwrap_or(u32::MAX);
        self.run.state = state;
        let unseen = self.run.started.is_none()
            || self.run.last_seen.is_some()
            || (state == RunState::Ended && self.run.ended.is_none());
        if unseen || self.run.uncertain_since.is_some() {
            self.run.certainty = Certainty::Incomplete;
        }
        self.run
    }
}

impl GuestRun {
    /// With what its manager's stop record, or the watcher's, says.
    fn with_stop(mut self, entry: &RecordEntry<'_>) -> Self {
        self.end_reason = match &entry.record.event {
            Event::GuestStop { reason, .. } => Some(reason.clone()),
            _ => Some(Reason::EXITED),
        };
        self.stopped_by = RecordedActor::of(entry).filter(|_| !entry.record.event.is_observation());
        entry.proof().add_to(&mut self.proof);
        self
    }
}

impl Runs {
    /// The guest ended by this record; `run` is none if the trail did not know that it ran, and
    /// `guest` is what it knows of it then.
    fn stop(&mut self, run: Option<OpenRun>, guest: Option<&Guest>, entry: &RecordEntry<'_>) {
        if entry.record.event.is_observation() {
            let Some(run) = run else { return };
            self.gone.push_back(run.stop(entry));
            if self.gone.len() > MAX_GONE {
                self.ended.extend(self.gone.pop_front());
            }
            return;
        }
        let uuid = entry.record.guest.uuid;
        let is_same = |run: &GuestRun| run.host == entry.host && run.guest.uuid == uuid;
        let gone = if run.is_none() { self.gone.iter().position(is_same) } else { None };
        let ended = match (run, gone.and_then(|at| self.gone.remove(at))) {
            (Some(run), _) => run.stop(entry),
            (None, Some(gone)) => gone.with_stop(entry),
            (None, None) => {
                let mut run = OpenRun::new(&entry.host, &entry.record.guest);
                // The record of its start may be missing, and those of its interfaces not.
                let interfaces = guest.into_iter().flat_map(|guest| guest.interfaces.iter_with_mac());
                interfaces.for_each(|(mac, one)| {
                    let booted = one.operations.iter().filter(|operation| operation.phase == Phase::Booted);
                    run.count(mac, booted.count().max(one.count_plugged()));
                });
                run.run.pid = match entry.record.event {
                    Event::GuestStop { vm_pid, .. } => vm_pid,
                    _ => None,
                };
                run.stop(entry)
            }
        };
        self.ended.push(ended);
    }

    /// Ends the waits for stop records that were not written by `now`.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        let is_due = |run: &mut GuestRun| run.ended.is_none_or(|ended| after(ended, STOP_TIMEOUT) < now);
        while let Some(run) = self.gone.pop_front_if(is_due) {
            self.ended.push(run);
        }
    }

    /// All that have ended, in the order of their ends.
    pub(crate) fn take_all(mut self) -> Vec<GuestRun> {
        self.ended.extend(self.gone);
        self.ended
    }
}

impl Guest {
    /// A record was applied: begins a run if it shows that the guest runs, and counts the
    /// interface that it is about.
    pub(crate) fn follow_run(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        if out.runs.is_none() {
            return;
        }
        let done = entry.record.outcome == Outcome::Success;
        match &entry.record.event {
            Event::GuestStart { reason, .. } if done => {
                let mut run = OpenRun::started(entry, reason);
                self.interfaces.iter_mut().for_each(|(mac, one)| run.count(mac, one.count_plugged()));
                self.run = Some(run);
            }
            _ if !self.running => return self.end_run_unseen(EndedBy::Restart, None, &entry.proof(), out),
            _ => {}
        }
        let run = self.run.get_or_insert_with(|| OpenRun::begun_unseen(entry));
        run.run.pid = self.pid.or(run.run.pid);
        if let Some(mac) = entry.record.event.mac() {
            let plugged = self.interfaces.get(mac).map_or(0, |interface| interface.count_plugged());
            // What is unplugged now was plugged before.
            let detached = matches!(entry.record.event, Event::Detach { .. }) && done;
            run.count(mac, plugged.max(usize::from(detached)));
        }
    }

    pub(crate) fn stop_run(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        let run = self.run.take();
        if let Some(runs) = &mut out.runs {
            runs.stop(run, Some(self), entry);
        }
    }

    /// No record has the end of its run, and `at` shows that it has ended.
    pub(crate) fn end_run_unseen(
        &mut self,
        cause: EndedBy,
        last_seen: Option<Timestamp>,
        at: &Proof,
        out: &mut Output,
    ) {
        if let (Some(run), Some(runs)) = (self.run.take(), &mut out.runs) {
            runs.ended.push(run.end_unseen(cause, last_seen.unwrap_or(self.last_time), at));
        }
    }

    /// The guest is not tracked any further, and has not ended.
    pub(crate) fn leave_run(&mut self, out: &mut Output) {
        if let (Some(run), Some(runs)) = (self.run.take(), &mut out.runs) {
            runs.ended.push(run.still_running());
        }
    }
}

/// A guest that the trail did not know has ended.
pub(crate) fn stop_of_unknown_guest(entry: &RecordEntry<'_>, out: &mut Output) {
    if let Some(runs) = &mut out.runs {
        runs.stop(None, None, entry);
    }
}
