//! What happens to a guest, told to whoever listens: each record once the books have it, and each change of state.
//!
//! The driver tells and never waits. What a listener has not taken yet waits for it, up to a limit; who is further
//! behind is told how much it has missed, and begins anew.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use taptrail_record::{MacAddr, Reason, Record};
use taptrail_trail::Finding;
use tokio::sync::broadcast;

use crate::request::Snapshot;

/// How many events wait for a listener. The end of a guest is one event for each device, told all at once.
pub(crate) const WAITING: usize = 4096;

/// One thing that happened.
#[derive(Debug, Clone)]
pub(crate) struct Happened {
    /// The first since the supervisor's start is 1.
    pub(crate) sequence: u64,
    /// When.
    pub(crate) time: Timestamp,
    /// What.
    pub(crate) what: What,
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// The books took this record.
    Recorded(Box<Record>),
    /// That record, or several together, show that something is wrong.
    Found(Box<Finding>),
    /// The guest is in another state now.
    Guest {
        /// As in [`Snapshot::state`].
        state: &'static str,
        /// Why it has stopped.
        reason: Option<Reason>,
    },
    /// An interface is in another state now.
    Interface {
        /// What names it.
        mac: MacAddr,
        /// The host interface behind it.
        ifname: String,
        /// `held`, `unplugging`, `revoked` or `kept`; `gone` when nothing is left of it.
        state: &'static str,
    },
}

/// What a listener hears.
pub(crate) type Listener = broadcast::Receiver<Arc<Happened>>;

#[derive(Debug)]
struct Teller {
    last: u64,
    /// `None` once nothing more is told.
    sender: Option<broadcast::Sender<Arc<Happened>>>,
}

/// Where events go, shared between who tells and who listens.
#[derive(Debug, Clone)]
pub(crate) struct Events(Arc<Mutex<Teller>>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Teller { last: 0, sender: Some(broadcast::Sender::new(WAITING)) })))
    }

    /// Tells one event.
    pub(crate) fn tell(&self, time: Timestamp, what: What) {
        let mut teller = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        teller.last += 1;
        let sequence = teller.last;
        if let Some(sender) = &teller.sender {
            // That nobody listens is no concern of who tells.
            let _ = sender.send(Arc::new(Happened { sequence, time, what }));
        }
    }

    /// Tells what is different in the second of these.
    pub(crate) fn tell_changes(&self, before: &Snapshot, after: &Snapshot) {
        for what in changes(before, after) {
            self.tell(Timestamp::now(), what);
        }
    }

    /// The number of the last event told, and all that follow; `None` when nothing will.
    pub(crate) fn listen(&self) -> (u64, Option<Listener>) {
        let teller = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (teller.last, teller.sender.as_ref().map(broadcast::Sender::subscribe))
    }

    /// Tells nothing any more: who listens hears what it has not taken yet, and then the end.
    pub(crate) fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sender = None;
    }
}

fn changes(before: &Snapshot, after: &Snapshot) -> Vec<What> {
    // A revoked interface's MAC may have come back: the two differ by their times.
    let of = |all: &Snapshot, mac, since| {
        all.interfaces.iter().find(|one| one.mac == mac && one.since == since).map(|one| one.state)
    };
    let mut changes = Vec::new();
    for one in &before.interfaces {
        if of(after, one.mac, one.since).is_none() {
            changes.push(What::Interface { mac: one.mac, ifname: one.ifname.clone(), state: "gone" });
        }
    }
    for one in &after.interfaces {
        if of(before, one.mac, one.since) != Some(one.state) {
            changes.push(What::Interface { mac: one.mac, ifname: one.ifname.clone(), state: one.state });
        }
    }
    if before.state != after.state {
        changes.push(What::Guest { state: after.state, reason: after.reason.clone() });
    }
    changes
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;

    fn state(state: &'static str) -> What {
        What::Guest { state, reason: None }
    }

    #[test]
    fn events_are_numbered_from_the_supervisors_start() {
        let events = Events::new();
        events.tell(Timestamp::now(), state("running"));
        let (last, listener) = events.listen();
        assert_eq!(last, 1);
        let mut listener = listener.unwrap();
        events.tell(Timestamp::now(), state("paused"));
        assert_eq!(listener.try_recv().unwrap().sequence, 2);
    }

    #[test]
    fn who_listens_too_slowly_is_told_what_it_missed_and_nobody_waits_for_it() {
        let events = Events::new();
        let mut listener = events.listen().1.unwrap();
        for _ in 0..WAITING + 3 {
            events.tell(Timestamp::now(), state("running"));
        }
        assert!(matches!(listener.try_recv(), Err(TryRecvError::Lagged(3))));
    }

    #[test]
    fn what_was_told_before_the_end_is_heard_after_it() {
        let events = Events::new();
        let mut listener = events.listen().1.unwrap();
        events.tell(Timestamp::now(), state("stopped"));
        events.end();
        events.tell(Timestamp::now(), state("running"));
        assert_eq!(listener.try_recv().unwrap().sequence, 1);
        assert!(matches!(listener.try_recv(), Err(TryRecvError::Closed)));
        assert!(events.listen().1.is_none());
    }
}
