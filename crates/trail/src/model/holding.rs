use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use taptrail_record::{CloseDoubt, Device, GuestId, MacAddr};

use crate::Proof;

/// One device, with all its queues, that one guest's interface held, or that was opened for it.
///
/// Serialised as one of a trail's `holdings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// The host.
    pub host: Arc<str>,
    /// The guest.
    pub guest: GuestId,
    /// The interface.
    pub mac: MacAddr,
    /// The device.
    pub device: Device,
    /// How many open(2)s of it there were: one for each queue. Known from taptrail's own records,
    /// from a watcher's, and where audit rules let the kernel record each open. None otherwise:
    /// libvirt writes one record for all queues, and a device opened before the trail begins has no
    /// record.
    pub queues: Option<u32>,
    /// When it was opened, or the open failed; none if that was before the trail begins.
    #[serde(with = "crate::time::maybe")]
    pub opened: Option<Timestamp>,
    /// When QEMU got it, if it did; none also if that was before the trail begins.
    #[serde(with = "crate::time::maybe")]
    pub granted: Option<Timestamp>,
    /// When it ended, if a record shows it. For an [`Ambiguous`](Certainty::Ambiguous) end, the
    /// time by which it had certainly ended.
    #[serde(with = "crate::time::maybe")]
    pub released: Option<Timestamp>,
    /// If its end was not seen, the latest time at which it had not ended: it ended between this
    /// time and `released`.
    #[serde(with = "crate::time::maybe")]
    pub last_seen: Option<Timestamp>,
    /// Why its close does not show that nobody holds it any more, as the writer of the close
    /// recorded.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "close_doubt")]
    pub end_doubt: Option<CloseDoubt>,
    /// The time from which it is not certain that QEMU held it: records of that time may be
    /// missing, or one of several interfaces with its MAC was unplugged.
    #[serde(with = "crate::time::maybe")]
    pub uncertain_since: Option<Timestamp>,
    /// When QEMU may have held it, though no record says so, the earliest first.
    pub possibly_held: Vec<PossiblyHeld>,
    /// What became of it.
    pub state: State,
    /// What ended it, if it has ended.
    pub ended_by: Option<EndedBy>,
    /// How sure it is.
    pub certainty: Certainty,
    /// The process id of the QEMU that got it, if a record has it.
    pub pid: Option<u32>,
    /// The records that show it, oldest first; [`Proof::MAX_PROOFS`] at most. If one of them is not
    /// authenticated, JSON has `unauthenticated_source` beside them.
    #[serde(flatten, serialize_with = "Proof::serialize_all")]
    pub proof: Vec<Proof>,
}

/// What became of an opened device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The open(2) failed.
    OpenFailed,
    /// It was opened, and its hand-over is in progress: its supervisor's step is in progress, or
    /// the trail ends too soon after the open to show the outcome.
    Opening,
    /// It was opened, and QEMU never got it, as far as its manager's records show.
    NeverGranted,
    /// It was opened, and whether QEMU got it is not known; or QEMU got its interface, and whether
    /// with it is not known.
    Unknown,
    /// QEMU has it.
    Held,
    /// QEMU had it.
    Released,
}

taptrail_record::word_table! {
    State:
    /// All states.
    ALL,
    /// The word in JSON and tables.
    as_str,
    {
        OpenFailed = "open-failed",
        Opening = "opening",
        NeverGranted = "never-granted",
        Unknown = "unknown",
        Held = "held",
        Released = "released",
    }
}

/// What ended a holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndedBy {
    /// The interface was unplugged.
    Detach,
    /// The guest ended.
    Stop,
    /// The device was closed, and no record gives the reason.
    Close,
    /// The device was taken from the guest with the interface still plugged in.
    Revoke,
    /// The guest started again, with no record of its end.
    Restart,
    /// The host rebooted, with no record of the guest's end.
    Reboot,
    /// Another guest's QEMU has the process id, with no record of this guest's end.
    PidReused,
}

taptrail_record::word_table! {
    EndedBy:
    /// All ends.
    ALL,
    /// The word in JSON and tables.
    as_str,
    {
        Detach = "detach",
        Stop = "stop",
        Close = "close",
        Revoke = "revoke",
        Restart = "restart",
        Reboot = "reboot",
        PidReused = "pid-reused",
    }
}

/// How sure a holding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// Records name the device at every step.
    Definitive,
    /// A record names only the interface or the guest; its devices follow from earlier records.
    Inferred,
    /// Another holding fits the same records as well: a detach ended one of several interfaces with
    /// one MAC in one guest, and no record shows which. Each stays held until it has certainly
    /// ended.
    Ambiguous,
    /// The records contradict each other.
    Doubtful,
    /// Records of it are missing, or may be.
    Incomplete,
}

taptrail_record::word_table! {
    Certainty:
    /// All degrees, the surest first.
    ALL,
    /// The word in JSON and tables.
    as_str,
    {
        Definitive = "definitive",
        Inferred = "inferred",
        Ambiguous = "ambiguous",
        Doubtful = "doubtful",
        Incomplete = "incomplete",
    }
}

/// An open comes at most this long before its grant: the time that a guest takes to start.
pub(crate) const MAX_OPEN_TO_GRANT: SignedDuration = SignedDuration::from_mins(2);

/// A time range in which QEMU may have held a device, though no record says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PossiblyHeld {
    /// Its beginning; none if that is before the trail begins.
    #[serde(with = "crate::time::maybe")]
    pub from: Option<Timestamp>,
    /// Its end, this time excluded; none if no record shows an end.
    #[serde(with = "crate::time::maybe")]
    pub until: Option<Timestamp>,
    /// Why that can't be excluded.
    pub why: Doubt,
}

/// Why QEMU may have held a device without a record that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    /// A manager records a grant only after QEMU has the descriptors.
    BeforeGrant,
    /// The start or hot-plug failed: QEMU may have had the descriptors until then.
    Failed,
    /// No record follows the open, though its manager records grants.
    NothingFollowed,
    /// Its manager recorded the open and no grant of anything.
    NoGrantsRecorded,
    /// The trail ends before the outcome.
    TrailEnds,
    /// Records of that time may be missing.
    RecordsLost,
    /// It ended unseen at some time in this range.
    EndUnseen,
    /// It was held when the trail began; when it was granted is not known.
    BeforeTrail,
    /// One of several interfaces with one MAC was unplugged, and no record shows which.
    Ambiguous,
    /// The records of its open contradict each other.
    Contradicted,
    /// It was closed, and the kernel's data shows that a process may hold it still.
    CloseDoubted,
    /// QEMU got an interface, and no record says with which device, if any.
    DeviceUnknown,
}

taptrail_record::word_table! {
    Doubt:
    /// All reasons.
    ALL,
    /// The word in JSON and tables.
    as_str,
    {
        BeforeGrant = "before-grant",
        Failed = "failed",
        NothingFollowed = "nothing-followed",
        NoGrantsRecorded = "no-grants-recorded",
        TrailEnds = "trail-ends",
        RecordsLost = "records-lost",
        EndUnseen = "end-unseen",
        BeforeTrail = "before-trail",
        Ambiguous = "ambiguous",
        Contradicted = "contradicted",
        CloseDoubted = "close-doubted",
        DeviceUnknown = "device-unknown",
    }
}

fn close_doubt<S: serde::Serializer>(doubt: &Option<CloseDoubt>, to: S) -> Result<S::Ok, S::Error> {
    doubt.map(CloseDoubt::as_str).serialize(to)
}

impl Holding {
    /// The time range in which QEMU certainly held it, the end excluded; none if there is no such
    /// time.
    pub fn certainly_held(&self) -> Option<(Timestamp, Timestamp)> {
        if !matches!(self.state, State::Held | State::Released) {
            return None;
        }
        let from = self.granted.or_else(|| {
            // A device held when the trail began is certain from the record that shows it.
            self.proof.first().map(|proof| proof.time).filter(|_| self.opened.is_none())
        })?;
        let ends = [self.released, self.last_seen, self.uncertain_since];
        let until = ends.into_iter().flatten().min().unwrap_or(Timestamp::MAX);
        (from < until).then_some((from, until))
    }

    /// When it began, as far as records show: with its open, else with its grant; none if that was
    /// before the trail begins. Of a device that QEMU may have without a recorded open, with the
    /// grant of its interface.
    pub fn begun(&self) -> Option<Timestamp> {
        let is_known = matches!(self.state, State::Held | State::Released);
        let grant = || self.proof.first().filter(|_| !is_known).map(|proof| proof.time);
        self.opened.or(self.granted).or_else(grant)
    }

    /// Fills [`possibly_held`](Self::possibly_held). `doubt` is why its grant or end is not
    /// certain, and `latest_end` the time by which QEMU did not have it any more, where these are
    /// known.
    pub(crate) fn fill_possibly_held(&mut self, doubt: Option<Doubt>, latest_end: Option<Timestamp>) {
        let latest_end = latest_end.or(self.released);
        let mut ranges = Vec::new();
        let mut add = |from: Option<Timestamp>, until: Option<Timestamp>, why| {
            if from.zip(until).is_none_or(|(from, until)| from < until) {
                ranges.push(PossiblyHeld { from, until, why });
            }
        };
        match self.state {
            State::OpenFailed => {}
            State::Opening | State::NeverGranted | State::Unknown => {
                add(self.begun(), latest_end, doubt.unwrap_or(Doubt::NothingFollowed));
            }
            State::Held | State::Released => {
                let (opened, before) = match (self.opened, self.granted) {
                    (Some(opened), _) => (Some(opened), Doubt::BeforeGrant),
                    // Its open is in no record, and came shortly before.
                    (None, Some(granted)) => {
                        let earliest = granted.saturating_sub(MAX_OPEN_TO_GRANT).unwrap_or(granted);
                        (Some(earliest), Doubt::BeforeGrant)
                    }
                    (None, None) => (None, Doubt::BeforeTrail),
                };
                let end = latest_end.filter(|_| self.state == State::Released);
                let tail = doubt.unwrap_or(Doubt::EndUnseen);
                match self.certainly_held() {
                    Some((from, until)) => {
                        add(opened, Some(from), before);
                        if until != Timestamp::MAX && end.is_none_or(|end| until < end) {
                            add(Some(until), end, tail);
                        }
                    }
                    None => {
                        add(opened, self.granted, before);
                        let why = if self.granted.is_some() { tail } else { doubt.unwrap_or(before) };
                        add(self.granted.or(self.opened), end, why);
                    }
                }
            }
        }
        if self.end_doubt.is_some_and(CloseDoubt::needs_attention) && self.released.is_some() {
            ranges.push(PossiblyHeld { from: self.released, until: None, why: Doubt::CloseDoubted });
        }
        self.possibly_held = ranges;
    }
}
