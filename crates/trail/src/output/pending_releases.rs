//! What is told to be over and was seen in QEMU: whoever saw it will tell that it is gone.
//!
//! A guest's manager writes its detach or stop, and the watcher beside it its close records, moments before or
//! after. Only these name the devices.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use taptrail_record::Descriptor;
use uuid::Uuid;

use crate::state::open_holding::OpenHolding;
use crate::{EndedBy, Proof};

/// How many may wait. More are given up at once only where nobody watches any more.
const MAX_PENDING: usize = 4096;
/// How much time a watcher has: a log may end before.
const WATCHER_TIMEOUT: SignedDuration = SignedDuration::from_secs(10);

/// A draft that is over as far as its guest's manager tells.
#[derive(Debug)]
pub(crate) struct PendingEnd {
    pub(crate) open_holding: OpenHolding,
    pub(crate) cause: EndedBy,
    pub(crate) at: Option<Proof>,
}

/// Those of all hosts, in the order in which they were given up.
#[derive(Debug, Default)]
pub(crate) struct PendingReleases {
    pending: BTreeMap<u64, PendingEnd>,
    of_guest: HashMap<Uuid, Vec<u64>>,
    next: u64,
}

impl PendingReleases {
    /// Waits for the end of one. Returns the oldest when too many wait.
    pub(crate) fn add(&mut self, ending: PendingEnd) -> Option<PendingEnd> {
        self.of_guest.entry(ending.open_holding.holding.guest.uuid).or_default().push(self.next);
        self.pending.insert(self.next, ending);
        self.next += 1;
        if self.pending.len() <= MAX_PENDING {
            return None;
        }
        let oldest = *self.pending.first_key_value()?.0;
        self.remove(oldest)
    }

    /// Takes the one of which this very descriptor was seen.
    pub(crate) fn take_by_descriptor(
        &mut self,
        host: &str,
        guest: Uuid,
        descriptor: &Descriptor,
    ) -> Option<PendingEnd> {
        let is_meant = |number: &&u64| {
            self.pending.get(number).is_some_and(|ending| {
                *ending.open_holding.holding.host == *host
                    && descriptor.mac.is_none_or(|mac| mac == ending.open_holding.holding.mac)
                    && ending.open_holding.has_descriptor(descriptor)
            })
        };
        let number = *self.of_guest.get(&guest)?.iter().find(is_meant)?;
        self.remove(number)
    }

    fn remove(&mut self, number: u64) -> Option<PendingEnd> {
        let ending = self.pending.remove(&number)?;
        let uuid = ending.open_holding.holding.guest.uuid;
        if let Some(numbers) = self.of_guest.get_mut(&uuid) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.of_guest.remove(&uuid);
            }
        }
        Some(ending)
    }

    /// Takes all that waits.
    pub(crate) fn take_all(&mut self) -> Vec<PendingEnd> {
        self.of_guest.clear();
        std::mem::take(&mut self.pending).into_values().collect()
    }
}

impl PendingEnd {
    /// Whether its watcher may just not have told yet.
    pub(crate) fn is_recent(&self, now: Timestamp) -> bool {
        self.at.as_ref().is_some_and(|at| now.duration_since(at.time) <= WATCHER_TIMEOUT)
    }
}
