//! Takes the log's records: applies them to the guests, and emits events.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use taptrail_kernel::proc::boot_time;
use taptrail_record::{Abend, Event, GuestId, KernelOpen, Outcome, Record};
use taptrail_trail::{Content, Entry};
use tracing::warn;
use uuid::Uuid;

use super::guest::{GuestInstance, GuestInstanceId};
use super::{EndedInstance, EventKind, GuestState, MAX_GUESTS, WatchEvent, Watcher};

/// The guest instance that a record is about.
enum InstanceOf {
    /// The record is about this live instance.
    Known(GuestInstanceId),
    /// A second instance, which `writer` starts beside `first`.
    Second { first: GuestInstanceId, writer: u32 },
    /// The record is about an instance that has ended.
    Ended,
    /// The watcher knows no instance that it may be about.
    None,
}

impl Watcher {
    /// Takes a record of a guest's manager.
    pub(super) fn ingest_record(&mut self, entry: &Entry, record: &Record) {
        self.emit_event_of(entry.time, record);
        let Some(instance) = self.instance_of(entry, record) else {
            return self.ingest_late_stop(entry, record);
        };
        let (number, now) = (self.next_number(), Instant::now());
        let open = matches!(record.event, Event::Open { .. }).then_some(number);
        self.ledger_writer.copy_record(instance, entry, record, open);
        if let Some(guest) = self.guests.get_mut(&instance) {
            guest.apply_record(record, entry.writer, entry.time, number, now);
        }
    }

    /// Takes an entry that is no record: it may be a reason to inspect guests.
    pub(super) fn ingest_hint(&mut self, content: &Content) {
        let now = Instant::now();
        match content {
            Content::KernelOpen(KernelOpen { pid, .. }) | Content::Abend(Abend { pid, .. }) => {
                let instance = self.pids.get(pid);
                if let Some(guest) = instance.and_then(|instance| self.guests.get_mut(instance)) {
                    guest.due = now;
                }
            }
            // Inspecting the guests shows the effects of the missing records.
            Content::Gap(_) => {
                self.discovery_due = true;
                self.guests.values_mut().for_each(|guest| guest.due = now);
            }
            _ => {}
        }
    }

    /// Emits the event of a record.
    fn emit_event_of(&mut self, time: Timestamp, record: &Record) {
        let (guest, done) = (record.guest.clone(), record.outcome == Outcome::Success);
        let kind = match &record.event {
            Event::Open { mac, device, .. } => {
                EventKind::Opened { guest, mac: *mac, device: device.clone(), outcome: record.outcome }
            }
            // Only our own supervisors write QEMU's pid there. For other managers the event comes
            // when the watcher has seen the device.
            Event::Start { mac, vm_pid: pid @ Some(_), .. }
            | Event::Attach { mac, vm_pid: pid @ Some(_), .. }
                if done =>
            {
                EventKind::Granted { guest, mac: *mac, vm_pid: *pid, descriptors: Vec::new() }
            }
            Event::GuestStart { vm_pid, .. } if done => {
                EventKind::Guest { guest, state: GuestState::Started { vm_pid: *vm_pid } }
            }
            Event::GuestStart { .. } => EventKind::Guest { guest, state: GuestState::Failed },
            Event::GuestStop { reason, .. } if done => {
                EventKind::Guest { guest, state: GuestState::Stopped { reason: reason.clone() } }
            }
            _ => return,
        };
        self.events.push(WatchEvent { time, kind });
    }

    /// The guest instance that a manager's record is about; a new one if the record begins one.
    fn instance_of(&mut self, entry: &Entry, record: &Record) -> Option<GuestInstanceId> {
        let uuid = record.guest.uuid;
        let begins =
            matches!(record.event, Event::Open { .. } | Event::Start { .. } | Event::GuestStart { .. });
        match self.find_instance(entry.writer, record, begins) {
            InstanceOf::Known(instance) => return Some(instance),
            InstanceOf::Ended => return None,
            InstanceOf::Second { first, writer } => {
                if self.guests.len() >= MAX_GUESTS {
                    return Some(first);
                }
                // What the second daemon has opened so far seemed to be a hot-plug for the first
                // instance.
                let first = self.guests.get_mut(&first);
                let opened = first.map(|first| first.interfaces.take_opened_by(writer)).unwrap_or_default();
                let instance = self.begin(&record.guest, entry.time);
                if let Some(second) = self.guests.get_mut(&instance) {
                    opened.into_iter().for_each(|(mac, opened)| second.interfaces.add_open(mac, opened));
                }
                return Some(instance);
            }
            InstanceOf::None => {}
        }
        if matches!(record.event, Event::GuestStop { .. }) {
            self.ours.remove(&uuid);
            return None;
        }
        let booted = Timestamp::try_from(boot_time()).unwrap_or(Timestamp::MIN);
        let of_this_boot = entry.time.duration_since(booted) > SignedDuration::from_secs(-1);
        if !of_this_boot || self.guests.len() >= MAX_GUESTS || self.is_ours(entry, record) {
            return None;
        }
        Some(self.begin(&record.guest, entry.time))
    }

    /// Which instance of its guest a record is about. A guest that migrates from one daemon of this
    /// host to another has two instances for a while, and the writer of a record decides between
    /// them. A daemon that was restarted speaks for the running instance, so an unknown writer
    /// begins a second instance only by a start.
    fn find_instance(&self, writer: Option<u32>, record: &Record, begins: bool) -> InstanceOf {
        let uuid = record.guest.uuid;
        let instances = self.current.get(&uuid).into_iter().flatten().filter_map(|instance| {
            let guest = self.guests.get(instance)?;
            (!(begins && guest.is_over())).then_some((*instance, guest))
        });
        let instances: Vec<(GuestInstanceId, &GuestInstance)> = instances.collect();
        let Some((newest, _)) = instances.last().copied() else { return InstanceOf::None };
        let Some(writer) = writer else { return InstanceOf::Known(newest) };
        let find = |is: &dyn Fn(&GuestInstance) -> bool| {
            instances.iter().rev().find(|(_, guest)| is(guest)).map(|(instance, _)| *instance)
        };
        let own =
            find(&|guest| guest.writer == Some(writer)).or_else(|| find(&|guest| guest.writer.is_none()));
        if let Some(own) = own {
            return InstanceOf::Known(own);
        }
        let first = find(&|guest| guest.running).unwrap_or(newest);
        match record.event {
            Event::Start { .. } | Event::GuestStart { .. } => InstanceOf::Second { first, writer },
            Event::GuestStop { .. } if self.find_ended_instance(uuid, Some(writer)).is_some() => {
                InstanceOf::Ended
            }
            _ => InstanceOf::Known(first),
        }
    }

    /// The last ended instance of a guest; with `writer`, the last one whose records that process
    /// wrote.
    fn find_ended_instance(&self, uuid: Uuid, writer: Option<u32>) -> Option<GuestInstanceId> {
        let is = |ended: &&EndedInstance| ended.uuid == uuid && (writer.is_none() || ended.writer == writer);
        self.ended.iter().rev().find(is).map(|ended| ended.instance)
    }

    /// Keeps a late stop record with its ended instance.
    fn ingest_late_stop(&mut self, entry: &Entry, record: &Record) {
        let uuid = record.guest.uuid;
        let ended =
            self.find_ended_instance(uuid, entry.writer).or_else(|| self.find_ended_instance(uuid, None));
        if let (Event::GuestStop { .. }, Some(instance)) = (&record.event, ended) {
            self.ledger_writer.copy_late_record(instance, entry, record);
        }
    }

    pub(super) fn begin(&mut self, id: &GuestId, begun: Timestamp) -> GuestInstanceId {
        let instance = self.next_number();
        self.guests.insert(instance, GuestInstance::new(id.clone(), Instant::now()));
        self.current.entry(id.uuid).or_default().push(instance);
        self.ledger_writer.begin_guest(instance, id.clone(), begun);
        instance
    }

    /// Whether a record is about one of taptrail's own guests.
    fn is_ours(&mut self, entry: &Entry, record: &Record) -> bool {
        let uuid = record.guest.uuid;
        if self.ours.contains(&uuid) {
            return true;
        }
        // Only our own supervisors write these.
        let marked = match &record.event {
            Event::Open { queue, .. } => queue.is_some(),
            Event::Start { vm_pid, .. } | Event::Attach { vm_pid, .. } | Event::Detach { vm_pid, .. } => {
                vm_pid.is_some()
            }
            Event::Close { .. }
            | Event::Keep { .. }
            | Event::Filter { .. }
            | Event::Mac { .. }
            | Event::Update { .. } => true,
            _ => false,
        };
        let supervised = marked
            || self.ledger_writer.ledger.is_supervised(uuid, entry.time).unwrap_or_else(|error| {
                warn!("{error}: guest '{}' is taken for another manager's", record.guest.name);
                false
            });
        if supervised && self.ours.len() < MAX_GUESTS {
            self.ours.insert(uuid);
        }
        supervised
    }
}
