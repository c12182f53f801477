//! The event stream of a guest: each record once the ledger has it, each finding, and each change
//! of state.
//!
//! The driver never waits for a subscriber. Events are queued for it up to a limit; a subscriber
//! that falls further behind gets an error with the number of lost events, and has to subscribe
//! again.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use taptrail_record::{MacAddr, Reason, Record};
use taptrail_trail::Finding;
use tokio::sync::broadcast;

use crate::state::{GuestState, InterfaceState, Snapshot};

/// Events that are queued for one subscriber. The end of a guest emits one event for each device at
/// once.
pub(crate) const MAX_QUEUED_EVENTS: usize = 4096;

/// An event of one guest.
#[derive(Debug, Clone)]
pub(crate) struct GuestEvent {
    /// Counted from 1 since the supervisor's start.
    pub(crate) sequence: u64,
    /// The record's time, or the time at which the state changed.
    pub(crate) time: Timestamp,
    /// What happened, with its facts.
    pub(crate) kind: EventKind,
}

/// The kinds of event.
#[derive(Debug, Clone)]
pub(crate) enum EventKind {
    /// The ledger has this record.
    Recorded {
        record: Box<Record>,
        /// Of a grant that failed: why.
        cause: Option<String>,
    },
    /// The records up to now lead to this finding.
    Found(Box<Finding>),
    /// The guest's state has changed.
    Guest {
        state: GuestState,
        /// Why it has stopped, once it has.
        reason: Option<Reason>,
    },
    /// An interface's state has changed.
    Interface {
        /// Its address, which identifies it.
        mac: MacAddr,
        /// The host interface behind it.
        ifname: String,
        /// [`InterfaceState::Gone`] when nothing is left of it.
        state: InterfaceState,
    },
}

/// The receiving end of one subscriber.
pub(crate) type Subscription = broadcast::Receiver<Arc<GuestEvent>>;

#[derive(Debug)]
struct PublisherState {
    last: u64,
    /// `None` once the stream is closed.
    sender: Option<broadcast::Sender<Arc<GuestEvent>>>,
}

/// Publishes the events of a guest; shared by the driver and the API's server.
#[derive(Debug, Clone)]
pub(crate) struct EventPublisher(Arc<Mutex<PublisherState>>);

impl EventPublisher {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(PublisherState {
            last: 0,
            sender: Some(broadcast::Sender::new(MAX_QUEUED_EVENTS)),
        })))
    }

    /// Sends one event to all subscribers.
    pub(crate) fn emit(&self, time: Timestamp, kind: EventKind) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.last += 1;
        let sequence = state.last;
        if let Some(sender) = &state.sender {
            // Fails when there is no subscriber.
            let _ = sender.send(Arc::new(GuestEvent { sequence, time, kind }));
        }
    }

    /// Emits an event for each difference between the two.
    pub(crate) fn emit_changes(&self, before: &Snapshot, after: &Snapshot) {
        for kind in changes(before, after) {
            self.emit(Timestamp::now(), kind);
        }
    }

    /// The sequence number of the last event, and a subscription to those that follow; `None` once
    /// the stream is closed.
    pub(crate) fn subscribe(&self) -> (u64, Option<Subscription>) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.last, state.sender.as_ref().map(broadcast::Sender::subscribe))
    }

    /// Closes the stream: subscribers get the events that are queued for them, and then its end.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sender = None;
    }
}

fn changes(before: &Snapshot, after: &Snapshot) -> Vec<EventKind> {
    // A revoked interface's MAC may have been attached again: the two differ by `since`.
    let of = |all: &Snapshot, mac, since| {
        all.interfaces.iter().find(|one| one.mac == mac && one.since == since).map(|one| one.state)
    };
    let mut changes = Vec::new();
    for one in &before.interfaces {
        if of(after, one.mac, one.since).is_none() {
            changes.push(EventKind::Interface {
                mac: one.mac,
                ifname: one.ifname.clone(),
                state: InterfaceState::Gone,
            });
        }
    }
    for one in &after.interfaces {
        if of(before, one.mac, one.since) != Some(one.state) {
            changes.push(EventKind::Interface { mac: one.mac, ifname: one.ifname.clone(), state: one.state });
        }
    }
    if before.state != after.state {
        changes.push(EventKind::Guest { state: after.state, reason: after.reason.clone() });
    }
    changes
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;

    fn state(state: GuestState) -> EventKind {
        EventKind::Guest { state, reason: None }
    }

    #[test]
    fn events_are_numbered_from_the_supervisors_start() {
        let events = EventPublisher::new();
        events.emit(Timestamp::now(), state(GuestState::Running));
        let (last, subscription) = events.subscribe();
        assert_eq!(last, 1);
        let mut subscription = subscription.unwrap();
        events.emit(Timestamp::now(), state(GuestState::Paused));
        assert_eq!(subscription.try_recv().unwrap().sequence, 2);
    }

    // Shows 5.32.
    #[test]
    fn a_slow_subscriber_gets_the_number_of_lost_events_and_blocks_nobody() {
        let events = EventPublisher::new();
        let mut subscription = events.subscribe().1.unwrap();
        for _ in 0..MAX_QUEUED_EVENTS + 3 {
            events.emit(Timestamp::now(), state(GuestState::Running));
        }
        assert!(matches!(subscription.try_recv(), Err(TryRecvError::Lagged(3))));
    }

    // Shows 5.31.
    #[test]
    fn events_before_the_close_are_received_after_it() {
        let events = EventPublisher::new();
        let mut subscription = events.subscribe().1.unwrap();
        events.emit(Timestamp::now(), state(GuestState::Stopped));
        events.close();
        events.emit(Timestamp::now(), state(GuestState::Running));
        assert_eq!(subscription.try_recv().unwrap().sequence, 1);
        assert!(matches!(subscription.try_recv(), Err(TryRecvError::Closed)));
        assert!(events.subscribe().1.is_none());
    }
}
