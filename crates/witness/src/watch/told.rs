//! What the log tells: to whom of the guests it is told, and to who listens.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use taptrail_kernel::proc::boot_time;
use taptrail_record::{Event, GuestId, Outcome, Record};
use taptrail_trail::{Content, Entry};
use tracing::warn;
use uuid::Uuid;

use super::books::Slot;
use super::guest::Guest;
use super::{EndedLife, GUESTS, GuestState, Happening, Watcher, What};

/// The life of a guest that a record is of.
enum LifeOf {
    /// This one.
    Known(Slot),
    /// A second one that begins beside `first`: `writer` starts it.
    Second { first: Slot, writer: u32 },
    /// One that has ended.
    Ended,
    /// None is known.
    None,
}

impl Watcher {
    /// A record of a guest's manager.
    pub(super) fn told(&mut self, entry: &Entry, record: &Record) {
        self.tell(entry.time, record);
        let Some(slot) = self.slot(entry, record) else { return self.told_late(entry, record) };
        let (number, now) = (self.next(), Instant::now());
        let open = matches!(record.event, Event::Open { .. }).then_some(number);
        self.books.copy(slot, entry, record, open);
        if let Some(guest) = self.guests.get_mut(&slot) {
            guest.tell(record, entry.writer, entry.time, number, now);
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
        match self.life_of(entry.writer, record, begins) {
            LifeOf::Known(slot) => return Some(slot),
            LifeOf::Ended => return None,
            LifeOf::Second { first, writer } => {
                if self.guests.len() >= GUESTS {
                    return Some(first);
                }
                // What its daemon has opened so far may have been a hot-plug for the first: now it
                // is known.
                let first = self.guests.get_mut(&first);
                let opened = first.map(|first| first.plugs.take_opened_by(writer)).unwrap_or_default();
                let slot = self.begin(&record.guest, entry.time);
                if let Some(second) = self.guests.get_mut(&slot) {
                    opened.into_iter().for_each(|(mac, opened)| second.plugs.opened(mac, opened));
                }
                return Some(slot);
            }
            LifeOf::None => {}
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

    /// Which life of its guest a record is of. A guest that migrates from one daemon of this host
    /// to another runs twice, and its two lives are told apart by which daemon speaks. A daemon
    /// that started anew speaks for the running one, so a writer that nobody knows begins a second
    /// life only by a start.
    fn life_of(&self, writer: Option<u32>, record: &Record, begins: bool) -> LifeOf {
        let uuid = record.guest.uuid;
        let lives = self.current.get(&uuid).into_iter().flatten().filter_map(|slot| {
            let guest = self.guests.get(slot)?;
            (!(begins && guest.is_over())).then_some((*slot, guest))
        });
        let lives: Vec<(Slot, &Guest)> = lives.collect();
        let Some((newest, _)) = lives.last().copied() else { return LifeOf::None };
        let Some(writer) = writer else { return LifeOf::Known(newest) };
        let find = |is: &dyn Fn(&Guest) -> bool| {
            lives.iter().rev().find(|(_, guest)| is(guest)).map(|(slot, _)| *slot)
        };
        let own =
            find(&|guest| guest.writer == Some(writer)).or_else(|| find(&|guest| guest.writer.is_none()));
        if let Some(own) = own {
            return LifeOf::Known(own);
        }
        let first = find(&|guest| guest.running).unwrap_or(newest);
        match record.event {
            Event::Start { .. } | Event::GuestStart { .. } => LifeOf::Second { first, writer },
            Event::GuestStop { .. } if self.ended_life(uuid, Some(writer)).is_some() => LifeOf::Ended,
            _ => LifeOf::Known(first),
        }
    }

    /// The last life of a guest that has ended, and for which this process spoke, if one is given.
    fn ended_life(&self, uuid: Uuid, writer: Option<u32>) -> Option<Slot> {
        let is = |ended: &&EndedLife| ended.uuid == uuid && (writer.is_none() || ended.writer == writer);
        self.ended.iter().rev().find(is).map(|ended| ended.slot)
    }

    /// The last word of a guest that has ended is kept with it.
    fn told_late(&mut self, entry: &Entry, record: &Record) {
        let uuid = record.guest.uuid;
        let ended = self.ended_life(uuid, entry.writer).or_else(|| self.ended_life(uuid, None));
        if let (Event::GuestStop { .. }, Some(slot)) = (&record.event, ended) {
            self.books.copy_late(slot, entry, record);
        }
    }

    pub(super) fn begin(&mut self, id: &GuestId, begun: Timestamp) -> Slot {
        let slot = self.next();
        self.guests.insert(slot, Guest::new(id.clone(), Instant::now()));
        self.current.entry(id.uuid).or_default().push(slot);
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
            Event::Close { .. } | Event::Keep { .. } | Event::Filter { .. } | Event::Mac { .. } => true,
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
