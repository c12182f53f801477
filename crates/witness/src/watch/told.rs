//! What the log tells: to whom of the guests it is told, and to who listens.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use taptrail_kernel::proc::boot_time;
use taptrail_record::{Event, GuestId, Outcome, Record};
use taptrail_trail::{Content, Entry};
use tracing::warn;

use super::books::Slot;
use super::guest::Guest;
use super::{GUESTS, GuestState, Happening, Watcher, What};

impl Watcher {
    /// A record of a guest's manager.
    pub(super) fn told(&mut self, entry: &Entry, record: &Record) {
        self.tell(entry.time, record);
        let Some(slot) = self.slot(entry, record) else { return self.told_late(entry, record) };
        let (number, now) = (self.next(), Instant::now());
        let open = matches!(record.event, Event::Open { .. }).then_some(number);
        self.books.copy(slot, entry, record, open);
        if let Some(guest) = self.guests.get_mut(&slot) {
            guest.tell(record, entry.time, number, now);
        }
    }

    /// What is told besides records may be a reason to look.
    pub(super) fn hinted(&mut self, content: &Content) {
        let now = Instant::now();
        match content {
            Content::KernelOpen(open) => {
                let slot = self.pids.get(&open.pid);
                if let Some(guest) = slot.and_then(|slot| self.guests.get_mut(slot)) {
                    guest.due = now;
                }
            }
            // Whatever was told there, it can be seen what became of it.
            Content::Gap(_) => {
                self.strangers = true;
                self.guests.values_mut().for_each(|guest| guest.due = now);
            }
            _ => {}
        }
    }

    /// Tells who listens what a record says.
    fn tell(&mut self, time: Timestamp, record: &Record) {
        let (guest, done) = (record.guest.clone(), record.outcome == Outcome::Success);
        let what = match &record.event {
            Event::Open { mac, device, .. } => {
                What::Opened { guest, mac: *mac, device: device.clone(), outcome: record.outcome }
            }
            // Only a supervisor of ours tells QEMU's process there; of others it is told when it was seen.
            Event::Start { mac, vm_pid: pid @ Some(_), .. }
            | Event::Attach { mac, vm_pid: pid @ Some(_), .. }
                if done =>
            {
                What::Granted { guest, mac: *mac, vm_pid: *pid, descriptors: Vec::new() }
            }
            Event::GuestStart { vm_pid, .. } if done => {
                What::Guest { guest, state: GuestState::Started { vm_pid: *vm_pid } }
            }
            Event::GuestStart { .. } => What::Guest { guest, state: GuestState::Failed },
            Event::GuestStop { reason, .. } if done => {
                What::Guest { guest, state: GuestState::Stopped { reason: reason.clone() } }
            }
            _ => return,
        };
        self.happened.push(Happening { time, what });
    }

    /// The life of a guest that a record of its manager's is of; a new one where it begins one.
    fn slot(&mut self, entry: &Entry, record: &Record) -> Option<Slot> {
        let uuid = record.guest.uuid;
        let begins =
            matches!(record.event, Event::Open { .. } | Event::Start { .. } | Event::GuestStart { .. });
        if let Some(slot) = self.current.get(&uuid)
            && self.guests.get(slot).is_some_and(|guest| !(begins && guest.is_over()))
        {
            return Some(*slot);
        }
        if matches!(record.event, Event::GuestStop { .. }) {
            self.ours.remove(&uuid);
            return None;
        }
        let booted = Timestamp::try_from(boot_time()).unwrap_or(Timestamp::MIN);
        let of_this_boot = entry.time.duration_since(booted) > SignedDuration::from_secs(-1);
        if !of_this_boot || self.guests.len() >= GUESTS || self.is_ours(entry, record) {
            return None;
        }
        Some(self.begin(&record.guest, entry.time))
    }

    /// The last word of a guest that has ended is kept with it.
    fn told_late(&mut self, entry: &Entry, record: &Record) {
        let ended = self.ended.iter().rev().find(|(of, _)| *of == record.guest.uuid);
        if let (Event::GuestStop { .. }, Some((_, slot))) = (&record.event, ended) {
            self.books.copy_late(*slot, entry, record);
        }
    }

    pub(super) fn begin(&mut self, id: &GuestId, begun: Timestamp) -> Slot {
        let slot = self.next();
        self.guests.insert(slot, Guest::new(id.clone(), Instant::now()));
        self.current.insert(id.uuid, slot);
        self.books.begins(slot, id.clone(), begun);
        slot
    }

    /// Whether a record is of a guest of taptrail's own.
    fn is_ours(&mut self, entry: &Entry, record: &Record) -> bool {
        let uuid = record.guest.uuid;
        if self.ours.contains(&uuid) {
            return true;
        }
        // What only our supervisors tell.
        let marked = match &record.event {
            Event::Open { queue, .. } => queue.is_some(),
            Event::Start { vm_pid, .. } | Event::Attach { vm_pid, .. } | Event::Detach { vm_pid, .. } => {
                vm_pid.is_some()
            }
            Event::Close { .. } | Event::Keep { .. } => true,
            _ => false,
        };
        let supervised = marked
            || self.books.ledger.is_supervised(uuid, entry.time).unwrap_or_else(|error| {
                warn!("{error}: guest '{}' is taken for another manager's", record.guest.name);
                false
            });
        if supervised && self.ours.len() < GUESTS {
            self.ours.insert(uuid);
        }
        supervised
    }
}
