use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use taptrail_record::{CloseDoubt, Device, GuestId, MacAddr};

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
    /// How many open(2)s of it there were: one for each queue. None where the records don't tell:
    /// libvirt writes one record whatever the queues, and what was opened before the trail begins has
    /// none. Known from taptrail's own records, from a watcher's, and where audit rules let the kernel
    /// record each open.
    pub queues: Option<u32>,
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
    /// Why its end is no proof that nobody holds it any more, as the writer of its close says.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "close_doubt")]
    pub end_doubt: Option<CloseDoubt>,
    /// From when on it is not certain that QEMU held it: records of that time may be missing, or one of
    /// several interfaces with its MAC was unplugged.
    #[serde(with = "crate::time::maybe")]
    pub uncertain_since: Option<Timestamp>,
    /// When QEMU may have held it, though no record says so, the earliest first.
    pub possibly_held: Vec<PossiblyHeld>,
    /// What became of it.
    pub state: State,
    /// What ended it, if it is over.
    pub ended_by: Option<EndedBy>,
    /// How far the records carry this.
    pub certainty: Certainty,
    /// The QEMU that got it, where told.
    pub pid: Option<u32>,
    /// The records that show it, oldest first; [`Proof::KEPT`] at most. Where one of them is not
    /// authenticated, `unauthenticated_source` stands beside them in JSON.
    #[serde(flatten, serialize_with = "Proof::serialize_all")]
    pub proof: Vec<Proof>,
}

/// What became of an opened device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The open(2) failed.
    OpenFailed,
    /// It was opened, and what follows is under way: its supervisor has it in hand, or the trail ends too soon
    /// after the open to tell.
    Opening,
    /// It was opened, and QEMU never got it, as far as its manager's records go.
    NeverGranted,
    /// It was opened, and whether QEMU got it is not known.
    Unknown,
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
            Self::Opening => "opening",
            Self::NeverGranted => "never-granted",
            Self::Unknown => "unknown",
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
    /// Records that would tell more are missing, or may be.
    Incomplete,
}

impl Certainty {
    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Definitive => "definitive",
            Self::Inferred => "inferred",
            Self::Ambiguous => "ambiguous",
            Self::Doubtful => "doubtful",
            Self::Incomplete => "incomplete",
        }
    }
}

/// A stretch of time in which QEMU may have held a device, though no record says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PossiblyHeld {
    /// From when on; none when that is before the trail begins.
    #[serde(with = "crate::time::maybe")]
    pub from: Option<Timestamp>,
    /// Until when, this time excluded; none when no record tells an end.
    #[serde(with = "crate::time::maybe")]
    pub until: Option<Timestamp>,
    /// Why that can't be excluded.
    pub why: Doubt,
}

/// Why QEMU may have held a device without a record that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    /// A manager records a grant only after QEMU has the descriptors.
    BeforeGrant,
    /// The start or hot-plug failed: QEMU may have had the descriptors until then.
    Failed,
    /// Nothing was recorded of what followed the open, though its manager records grants.
    NothingFollowed,
    /// Its manager recorded the open and no grant of anything.
    NoGrantsRecorded,
    /// The trail ends before it tells what followed.
    TrailEnds,
    /// Records of that time may be missing.
    RecordsLost,
    /// It ended unseen at some time in this stretch.
    EndUnseen,
    /// It was held as the trail began, and since when is not known.
    BeforeTrail,
    /// One of several interfaces with one MAC was unplugged, and no record tells which.
    Ambiguous,
    /// The records of its open contradict each other.
    Contradicted,
    /// It was closed, and what the kernel shows says that somebody may hold it still.
    CloseDoubted,
}

impl Doubt {
    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforeGrant => "before-grant",
            Self::Failed => "failed",
            Self::NothingFollowed => "nothing-followed",
            Self::NoGrantsRecorded => "no-grants-recorded",
            Self::TrailEnds => "trail-ends",
            Self::RecordsLost => "records-lost",
            Self::EndUnseen => "end-unseen",
            Self::BeforeTrail => "before-trail",
            Self::Ambiguous => "ambiguous",
            Self::Contradicted => "contradicted",
            Self::CloseDoubted => "close-doubted",
        }
    }
}

fn close_doubt<S: serde::Serializer>(doubt: &Option<CloseDoubt>, to: S) -> Result<S::Ok, S::Error> {
    doubt.map(CloseDoubt::as_str).serialize(to)
}

impl Holding {
    /// From when to when QEMU held it for certain, the end excluded; none when that is at no time, or
    /// not known of any.
    pub fn certainly_held(&self) -> Option<(Timestamp, Timestamp)> {
        if !matches!(self.state, State::Held | State::Released) {
            return None;
        }
        let from = self.granted.or_else(|| {
            // What was held as the trail began is certain from the record that shows it.
            self.proof.first().map(|proof| proof.time).filter(|_| self.opened.is_none())
        })?;
        let ends = [self.released, self.last_seen, self.uncertain_since];
        let until = ends.into_iter().flatten().min().unwrap_or(Timestamp::MAX);
        (from < until).then_some((from, until))
    }

    /// Fills [`possibly_held`](Self::possibly_held): `doubt` is why its grant or end is not certain, and
    /// `not_held_after` the time by which QEMU did not have it any more, where these are told.
    pub(crate) fn fill_possibly_held(&mut self, doubt: Option<Doubt>, not_held_after: Option<Timestamp>) {
        let not_held_after = not_held_after.or(self.released);
        let mut stretches = Vec::new();
        let mut add = |from: Option<Timestamp>, until: Option<Timestamp>, why| {
            if from.zip(until).is_none_or(|(from, until)| from < until) {
                stretches.push(PossiblyHeld { from, until, why });
            }
        };
        match self.state {
            State::OpenFailed => {}
            State::Opening | State::NeverGranted | State::Unknown => {
                add(self.opened, not_held_after, doubt.unwrap_or(Doubt::NothingFollowed));
            }
            State::Held | State::Released => {
                let before = if self.opened.is_some() { Doubt::BeforeGrant } else { Doubt::BeforeTrail };
                let end = not_held_after.filter(|_| self.state == State::Released);
                let tail = doubt.unwrap_or(Doubt::EndUnseen);
                match self.certainly_held() {
                    Some((from, until)) => {
                        add(self.opened, Some(from), before);
                        if until != Timestamp::MAX && end.is_none_or(|end| until < end) {
                            add(Some(until), end, tail);
                        }
                    }
                    None => {
                        add(self.opened, self.granted, before);
                        let why = if self.granted.is_some() { tail } else { doubt.unwrap_or(before) };
                        add(self.granted.or(self.opened), end, why);
                    }
                }
            }
        }
        if self.end_doubt.is_some_and(CloseDoubt::needs_a_look) && self.released.is_some() {
            stretches.push(PossiblyHeld { from: self.released, until: None, why: Doubt::CloseDoubted });
        }
        self.possibly_held = stretches;
    }
}
