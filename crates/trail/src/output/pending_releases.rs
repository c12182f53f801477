//! Devices whose release is recorded and that a watcher saw in QEMU: their end waits for the
//! watcher's close records.
//!
//! A guest's manager writes its detach or stop, and the watcher beside it its close records,
//! moments before or after. Only the close records name the devices.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use taptrail_record::Descriptor;
use uuid::Uuid;

use crate::state::open_holding::OpenHolding;
use crate::{EndedBy, Proof};

/// How many ends may wait. There are more only where the watcher has stopped.
const MAX_PENDING: usize = 4096;
/// How long a watcher may take: the log may end before its record.
const WATCHER_TIMEOUT: SignedDuration = SignedDuration::from_secs(10);

/// A holding that has ended by its manager's records.
#[derive(Debug)]
pub(crate) struct PendingEnd {
    pub(crate) open_holding: OpenHolding,
    pub(crate) cause: EndedBy,
    pub(crate) at: Option<Proof>,
}

/// The pending ends of all hosts, in the order of their releases.
#[derive(Debug, Default)]
pub(crate) struct PendingReleases {
    pending: BTreeMap<u64, PendingEnd>,
    of_guest: HashMap<Uuid, Vec<u64>>,
    next: u64,
}

impl PendingReleases {
    /// Adds one. Returns the oldest if too many wait.
    pub(crate) fn add(&mut self, pending_end: PendingEnd) -> Option<PendingEnd> {
        self.of_guest.entry(pending_end.open_holding.holding.guest.uuid).or_default().push(self.next);
        self.pending.insert(self.next, pending_end);
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
            self.pending.get(number).is_some_and(|pending_end| {
                *pending_end.open_holding.holding.host == *host
                    && descriptor.mac.is_none_or(|mac| mac == pending_end.open_holding.holding.mac)
                    && pending_end.open_holding.has_descriptor(descriptor)
            })
        };
        let number = *self.of_guest.get(&guest)?.iter().find(is_meant)?;
        self.remove(number)
    }

    fn remove(&mut self, number: u64) -> Option<PendingEnd> {
        let pending_end = self.pending.remove(&number)?;
        let uuid = pending_end.open_holding.holding.guest.uuid;
        if let Some(numbers) = self.of_guest.get_mut(&uuid) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.of_guest.remove(&uuid);
            }
        }
        Some(pending_end)
    }

    /// Takes all.
    pub(crate) fn take_all(&mut self) -> Vec<PendingEnd> {
        self.of_guest.clear();
        std::mem::take(&mut self.pending).into_values().collect()
    }
}

impl PendingEnd {
    /// Whether the watcher's record may still come.
    pub(crate) fn is_recent(&self, now: Timestamp) -> bool {
        self.at.as_ref().is_some_and(|at| now.duration_since(at.time) <= WATCHER_TIMEOUT)
    }
}
