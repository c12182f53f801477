//! What is told to be over and was seen in QEMU: whoever saw it will tell that it is gone.
//!
//! A guest's manager writes its detach or stop, and the watcher beside it its close records, moments before or
//! after. Only these name the devices.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use taptrail_record::Descriptor;
use uuid::Uuid;

use crate::state::open_holding::Draft;
use crate::{EndedBy, Proof};

/// How many may wait. More are given up at once only where nobody watches any more.
const MOST: usize = 4096;
/// How much time a watcher has: a log may end before.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// A draft that is over as far as its guest's manager tells.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) draft: Draft,
    pub(crate) cause: EndedBy,
    pub(crate) at: Option<Proof>,
}

/// Those of all hosts, in the order in which they were given up.
#[derive(Debug, Default)]
pub(crate) struct Late {
    waiting: BTreeMap<u64, Ending>,
    of_guest: HashMap<Uuid, Vec<u64>>,
    next: u64,
}

impl Late {
    /// Waits for the end of one. Returns the oldest when too many wait.
    pub(crate) fn wait(&mut self, ending: Ending) -> Option<Ending> {
        self.of_guest.entry(ending.draft.holding.guest.uuid).or_default().push(self.next);
        self.waiting.insert(self.next, ending);
        self.next += 1;
        if self.waiting.len() <= MOST {
            return None;
        }
        let oldest = *self.waiting.first_key_value()?.0;
        self.remove(oldest)
    }

    /// Takes the one of which this very descriptor was seen.
    pub(crate) fn take(&mut self, host: &str, guest: Uuid, descriptor: &Descriptor) -> Option<Ending> {
        let is_meant = |number: &&u64| {
            self.waiting.get(number).is_some_and(|ending| {
                *ending.draft.holding.host == *host
                    && descriptor.mac.is_none_or(|mac| mac == ending.draft.holding.mac)
                    && ending.draft.has(descriptor)
            })
        };
        let number = *self.of_guest.get(&guest)?.iter().find(is_meant)?;
        self.remove(number)
    }

    fn remove(&mut self, number: u64) -> Option<Ending> {
        let ending = self.waiting.remove(&number)?;
        let uuid = ending.draft.holding.guest.uuid;
        if let Some(numbers) = self.of_guest.get_mut(&uuid) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.of_guest.remove(&uuid);
            }
        }
        Some(ending)
    }

    /// Takes all that waits.
    pub(crate) fn rest(&mut self) -> Vec<Ending> {
        self.of_guest.clear();
        std::mem::take(&mut self.waiting).into_values().collect()
    }
}

impl Ending {
    /// Whether its watcher may just not have told yet.
    pub(crate) fn is_recent(&self, now: Timestamp) -> bool {
        self.at.as_ref().is_some_and(|at| now.duration_since(at.time) <= PATIENCE)
    }
}
