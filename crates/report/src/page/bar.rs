//! A session as it is drawn.

use jiff::Timestamp;
use taptrail_trail::{Certainty, Doubt, Holding, State};

use crate::Session;

/// A session in its row.
#[derive(Debug)]
pub(super) struct Bar<'a> {
    pub(super) session: Session<'a>,
    pub(super) row: usize,
    /// The time range in which QEMU certainly held a device of it; no end if none is known.
    pub(super) certain: Option<(Timestamp, Option<Timestamp>)>,
    /// The other time ranges in which QEMU may have, but for the time between open and grant.
    pub(super) weak: Vec<(Option<Timestamp>, Option<Timestamp>, Doubt)>,
}

impl<'a> Bar<'a> {
    pub(super) fn of(session: Session<'a>, row: usize) -> Self {
        let held: Vec<_> = session.main().filter_map(Holding::certainly_held).collect();
        let from = held.iter().map(|(from, _)| *from).min();
        let until = held.iter().map(|(_, until)| *until).max();
        let certain =
            from.zip(until).map(|(from, until)| (from, Some(until).filter(|at| *at < Timestamp::MAX)));
        let mut weak = Vec::new();
        for possibly in session.main().flat_map(|of| &of.possibly_held) {
            let range = (possibly.from, possibly.until, possibly.why);
            let is_between = possibly.why == Doubt::BeforeGrant && session.granted().is_some();
            if !is_between && !weak.contains(&range) {
                weak.push(range);
            }
        }
        Self { session, row, certain, weak }
    }

    pub(super) fn certainty(&self) -> Certainty {
        self.session.certainty()
    }
}

/// When a session begins; the least time, if that is before the trail.
pub(super) fn begin(session: &Session<'_>) -> Timestamp {
    if session.main().flat_map(|of| &of.possibly_held).any(|of| of.from.is_none()) {
        return Timestamp::MIN;
    }
    let proofs = session.holdings.iter().flat_map(|of| &of.proof);
    let known = session.opened().or_else(|| session.granted());
    known.or_else(|| proofs.map(|proof| proof.time).min()).unwrap_or(Timestamp::MIN)
}

/// The time at which a lane is free for the next session.
pub(super) fn end(session: &Session<'_>) -> Timestamp {
    match session.state() {
        State::Held | State::Opening | State::Unknown => Timestamp::MAX,
        State::Released => session.released().unwrap_or(Timestamp::MAX),
        State::OpenFailed | State::NeverGranted => {
            let ends = session.main().flat_map(|of| &of.possibly_held).filter_map(|of| of.until);
            ends.max().unwrap_or_else(|| begin(session))
        }
    }
}
