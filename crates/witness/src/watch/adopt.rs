//! Adopts what earlier watchers left in the ledger: their live guests, and the trail's state.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use taptrail_bpf::FileState;
use taptrail_kernel::proc::ProcessId;
use taptrail_ledger::{Guest as Row, LiveDevice, StoredRecord};
use taptrail_record::{Descriptor, Event, Record, RecordType, parse_text};
use taptrail_trail::{Content, Entry};

use super::find;
use super::guest::{GuestInstance, GuestInstanceId, Qemu};
use super::interfaces::{GrantProgress, ManagedInterface};
use super::known::{KnownDescriptor, holds};
use super::observe::LinkId;
use super::{WatchError, Watcher};

impl Watcher {
    pub(super) fn adopt_live_guests(&mut self) -> Result<(), WatchError> {
        let mut entries = Vec::new();
        // Until when a watcher was running, as far as known.
        let mut watched = self.last.map(|(time, _)| time);
        for row in self.ledger_writer.ledger.live_guests()? {
            let here = row.boot_id == self.ledger_writer.boot();
            let mut records = Vec::new();
            self.ledger_writer.ledger.each_record(row.key, |stored| {
                let read = parse_text(RecordType(stored.kind), stored.text.as_bytes());
                records.extend(read.ok().flatten().map(|record| (stored, record)));
            })?;
            if row.watched {
                watched = watched.max(Some(self.adopt_guest(&row, &records, here)?));
            }
            if here {
                let known =
                    records.into_iter().filter(|(stored, _)| row.watched || self.was_followed(stored));
                let host = &self.options.host;
                let source = self.ledger_writer.source();
                entries.extend(known.map(|(stored, record)| entry(host, source, &stored, record)));
            }
        }
        // The trail continues where it was. Its earlier findings were reported then.
        entries.sort_by_key(|entry| (entry.time, entry.serial));
        for entry in &entries {
            self.trail.feed(entry);
        }
        if let Some(watched) = watched {
            self.trail.advance(self.complete_until(watched));
        }
        self.trail.drain_ended().for_each(drop);
        self.trail.drain_findings().for_each(drop);
        Ok(())
    }

    /// Whether the log was followed up to this record of a supervisor's. Otherwise the record will
    /// still come by the log, unless the kernel did not log it.
    fn was_followed(&self, stored: &StoredRecord) -> bool {
        stored.logged.is_logged()
            && self.last.is_some_and(|(time, serial)| match (stored.serial, serial) {
                (Some(own), Some(last)) if stored.time == time => own <= last,
                _ => stored.time <= time,
            })
    }

    /// Adopts a guest. Returns the time of its last entry in the ledger.
    fn adopt_guest(
        &mut self,
        row: &Row,
        records: &[(StoredRecord, Record)],
        here: bool,
    ) -> Result<Timestamp, WatchError> {
        let instance: GuestInstanceId = self.next_number();
        self.ledger_writer.adopt_guest(instance, row.key);
        let mut devices = self.ledger_writer.ledger.live_devices(row.key)?;
        let all_seen_at = self.ledger_writer.ledger.last_observed(row.key)?;
        let now = Instant::now();
        let mut guest = GuestInstance::new(row.id.clone(), now);
        for (stored, record) in records {
            let number = self.next_number();
            match &record.event {
                Event::Seen(descriptor) => {
                    // A known descriptor that is recorded again should have been gone.
                    if guest.descriptors().any(|known| known == descriptor) {
                        guest.expire_detaches_until(stored.time, self.options.patience);
                    } else {
                        guest.adopt_descriptor(number, descriptor.clone());
                    }
                }
                Event::Gone(descriptor) => drop(guest.forget_descriptor(descriptor)),
                event => {
                    if matches!(event, Event::Open { .. }) {
                        self.ledger_writer.adopt_open(instance, number, stored.key());
                    }
                    let writer = stored.writer.filter(|_| stored.copied);
                    guest.apply_record(record, writer, stored.time, number, now);
                }
            }
        }
        let mut links = Vec::new();
        for (number, descriptor) in guest.known() {
            let is = |device: &LiveDevice| {
                Some(device.mac) == descriptor.mac
                    && device.qemu_fd.and_then(|fd| u32::try_from(fd).ok()) == Some(descriptor.fd)
                    && device.device == descriptor.device
            };
            if let Some(at) = devices.iter().position(is) {
                let device = devices.remove(at);
                self.ledger_writer.adopt_device(number, device.key);
                let link = device.netns_ifindex.map(|(netns, index)| LinkId { netns: Some(netns), index });
                links.extend(link.map(|link| (number, link)));
            }
        }
        guest.adopt_links(&links);
        guest.all_seen_at = Some(all_seen_at);
        let process = row.qemu.map(|qemu| ProcessId { pid: qemu.pid, start_time: qemu.start });
        if let Some(process) = process {
            let pid = process.pid;
            // The ledger has pid and start time. What its command line says by now does not matter.
            let found = if here { find::open_process(process) } else { Ok(None) };
            match found.map_err(|source| WatchError::Proc { what: "A watched guest's QEMU", source })? {
                Some(found) => {
                    let claims_guest = found.is_named(row.id.uuid);
                    guest.started_with = super::command_line::descriptors(&found.arguments);
                    guest.netdevs = super::command_line::netdevs(&found.arguments);
                    let pidfd = found.pidfd;
                    guest.qemu = Qemu::Runs { process, pidfd, seen_running: false, claims_guest };
                    self.pids.insert(pid, instance);
                }
                None => guest.qemu = Qemu::Lost { pid },
            }
        }
        // For a guest of an earlier boot no more records will come; if it never ran, it never will.
        guest.failed |= !here && process.is_none();
        self.guests.insert(instance, guest);
        if here {
            self.current.entry(row.id.uuid).or_default().push(instance);
        }
        Ok(all_seen_at)
    }
}

impl GuestInstance {
    /// Restores a descriptor that was seen before, as the ledger has it.
    pub(super) fn adopt_descriptor(&mut self, number: u64, descriptor: Descriptor) {
        let kind = descriptor.device.kind;
        let wants = |interface: &&mut ManagedInterface| {
            Some(interface.mac) == descriptor.mac && interface.is_granted()
        };
        let held = &self.held;
        let continues = |interface: &&mut ManagedInterface| {
            held.iter().any(|known| {
                known.interface == Some(interface.number) && known.descriptor.device == descriptor.device
            })
        };
        let lacks = |interface: &&mut ManagedInterface| {
            !held.iter().any(|known| {
                known.interface == Some(interface.number) && known.descriptor.device.kind == kind
            })
        };
        let first = descriptor.queue.unwrap_or(0) == 0;
        let interface = {
            let mut all = self.interfaces.all.iter_mut().filter(wants);
            if first { all.find(lacks) } else { all.rfind(continues) }
        };
        let interface = interface.map(|interface| {
            interface.mark_seen(kind);
            interface.advance(GrantProgress::Reported);
            interface.number
        });
        let fds = vec![descriptor.fd];
        self.held.push(KnownDescriptor {
            number,
            descriptor,
            fds,
            link: None,
            port: None,
            interface,
            file: FileState::Unknown,
        });
        self.needs_full_look = true;
    }

    /// Restores the places of the links behind these descriptors.
    fn adopt_links(&mut self, links: &[(u64, LinkId)]) {
        for known in &mut self.held {
            known.link = links.iter().find(|(number, _)| *number == known.number).map(|(_, link)| *link);
        }
    }

    /// Restores that a descriptor was gone. Returns its number.
    pub(super) fn forget_descriptor(&mut self, descriptor: &Descriptor) -> Option<u64> {
        let is = |known: &KnownDescriptor| {
            known.descriptor.fd == descriptor.fd && known.descriptor.device == descriptor.device
        };
        let at = self.held.iter().position(is)?;
        let known = self.held.remove(at);
        let held = &self.held;
        self.interfaces.settle_detaches(|interface| holds(held, interface));
        Some(known.number)
    }
}

fn entry(host: &Arc<str>, source: &Arc<str>, stored: &StoredRecord, record: Record) -> Entry {
    Entry {
        host: Arc::clone(host),
        time: stored.time,
        serial: stored.serial,
        writer: stored.writer,
        credentials: None,
        source: Arc::clone(source),
        line: u64::try_from(stored.id).unwrap_or_default(),
        content: Content::Record(record),
        text: None,
        copies: Vec::new(),
        unauthenticated: false,
    }
}
