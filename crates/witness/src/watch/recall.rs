//! What the ledger knows from before: the guests that a watcher watched, and the trail up to where it was.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use taptrail_bpf::FileState;
use taptrail_kernel::proc::ProcessId;
use taptrail_ledger::{Guest as Row, LiveDevice, StoredRecord};
use taptrail_record::{Descriptor, Event, Record, RecordType, parse_text};
use taptrail_trail::{Content, Entry};

use super::books::Slot;
use super::find;
use super::guest::{Guest, Qemu};
use super::known::{Known, holds};
use super::plugs::Plug;
use super::sight::Place;
use super::{WatchError, Watcher};

impl Watcher {
    pub(super) fn recall(&mut self) -> Result<(), WatchError> {
        let mut entries = Vec::new();
        // Until when a watcher was here, as far as is known.
        let mut watched = self.last.map(|(time, _)| time);
        for row in self.books.ledger.live_guests()? {
            let here = row.boot_id == self.books.boot();
            let mut records = Vec::new();
            self.books.ledger.each_record(row.key, |stored| {
                let read = parse_text(RecordType(stored.kind), stored.text.as_bytes());
                records.extend(read.ok().flatten().map(|record| (stored, record)));
            })?;
            if row.watched {
                watched = watched.max(Some(self.recall_guest(&row, &records, here)?));
            }
            if here {
                let known = records.into_iter().filter(|(stored, _)| row.watched || self.was_taken(stored));
                let host = &self.options.host;
                let source = self.books.source();
                entries.extend(known.map(|(stored, record)| entry(host, source, &stored, record)));
            }
        }
        // The trail goes on where it was; what it found then was told then.
        entries.sort_by_key(|entry| (entry.time, entry.serial));
        for entry in &entries {
            self.trail.feed(entry);
        }
        if let Some(watched) = watched {
            self.trail.advance(self.passed(watched));
        }
        self.trail.drain_ended().for_each(drop);
        self.trail.drain_findings().for_each(drop);
        Ok(())
    }

    /// Whether the log was followed up to this record of a supervisor's, which else will come by the log. What the
    /// kernel did not log never will.
    fn was_taken(&self, stored: &StoredRecord) -> bool {
        let logged = matches!(&*stored.logged, "read-back" | "counters" | "ack");
        logged
            && self.last.is_some_and(|(time, serial)| match (stored.serial, serial) {
                (Some(own), Some(last)) if stored.time == time => own <= last,
                _ => stored.time <= time,
            })
    }

    /// Takes up a guest. Returns when it was last heard of.
    fn recall_guest(
        &mut self,
        row: &Row,
        records: &[(StoredRecord, Record)],
        here: bool,
    ) -> Result<Timestamp, WatchError> {
        let slot: Slot = self.next();
        self.books.recall(slot, row.key);
        let mut devices = self.books.ledger.live_devices(row.key)?;
        let looked = self.books.ledger.last_heard(row.key)?;
        let now = Instant::now();
        let mut guest = Guest::new(row.id.clone(), now);
        for (stored, record) in records {
            let number = self.next();
            match &record.event {
                Event::Seen(descriptor) => {
                    // What is known and told again should have been gone.
                    if guest.descriptors().any(|known| known == descriptor) {
                        guest.recall_still(stored.time, self.options.patience);
                    } else {
                        guest.recall(number, descriptor.clone());
                    }
                }
                Event::Gone(descriptor) => drop(guest.recall_gone(descriptor)),
                event => {
                    if matches!(event, Event::Open { .. }) {
                        self.books.recall_open(slot, number, stored.key());
                    }
                    let writer = stored.writer.filter(|_| stored.copied);
                    guest.tell(record, writer, stored.time, number, now);
                }
            }
        }
        let mut places = Vec::new();
        for (number, descriptor) in guest.known() {
            let is = |device: &LiveDevice| {
                Some(device.mac) == descriptor.mac
                    && device.qemu_fd.and_then(|fd| u32::try_from(fd).ok()) == Some(descriptor.fd)
                    && device.device == descriptor.device
            };
            if let Some(at) = devices.iter().position(is) {
                let device = devices.remove(at);
                self.books.recall_device(number, device.key);
                let place = device.place.map(|(netns, index)| Place { netns: Some(netns), index });
                places.extend(place.map(|place| (number, place)));
            }
        }
        guest.recall_places(&places);
        guest.looked = Some(looked);
        let process = row.qemu.map(|qemu| ProcessId { pid: qemu.pid, start_time: qemu.start });
        if let Some(process) = process {
            let pid = process.pid;
            // The ledger knows it by pid and start time. What it says of itself by now is no matter.
            let found = if here { find::open(process) } else { Ok(None) };
            match found.map_err(|source| WatchError::Proc { what: "A watched guest's QEMU", source })? {
                Some(found) => {
                    let named = found.is_named(row.id.uuid);
                    guest.started_with = super::command_line::descriptors(&found.arguments);
                    guest.netdevs = super::command_line::netdevs(&found.arguments);
                    let pidfd = found.pidfd;
                    guest.qemu = Qemu::Runs { process, pidfd, attended: false, named };
                    self.pids.insert(pid, slot);
                }
                None => guest.qemu = Qemu::Lost { pid },
            }
        }
        // Of an earlier boot nothing more is told, and what never ran never will.
        guest.failed |= !here && process.is_none();
        self.guests.insert(slot, guest);
        if here {
            self.current.entry(row.id.uuid).or_default().push(slot);
        }
        Ok(looked)
    }
}

impl Guest {
    /// Takes back what was seen before, as the ledger has it.
    pub(super) fn recall(&mut self, number: u64, descriptor: Descriptor) {
        let kind = descriptor.device.kind;
        let wants = |plug: &&mut Plug| Some(plug.mac) == descriptor.mac && plug.granted;
        let held = &self.held;
        let continues = |plug: &&mut Plug| {
            held.iter()
                .any(|known| known.plug == Some(plug.number) && known.descriptor.device == descriptor.device)
        };
        let lacks = |plug: &&mut Plug| {
            !held.iter().any(|known| known.plug == Some(plug.number) && known.descriptor.device.kind == kind)
        };
        let first = descriptor.queue.unwrap_or(0) == 0;
        let plug = {
            let mut all = self.plugs.all.iter_mut().filter(wants);
            if first { all.find(lacks) } else { all.rfind(continues) }
        };
        let plug = plug.map(|plug| {
            plug.see(kind);
            plug.told = true;
            plug.number
        });
        let fds = vec![descriptor.fd];
        self.held.push(Known {
            number,
            descriptor,
            fds,
            link: None,
            port: None,
            plug,
            file: FileState::Unknown,
        });
        self.needs_full_look = true;
    }

    /// Takes back where the interfaces behind these descriptors were seen last.
    fn recall_places(&mut self, places: &[(u64, Place)]) {
        for known in &mut self.held {
            known.link = places.iter().find(|(number, _)| *number == known.number).map(|(_, place)| *place);
        }
    }

    /// Takes back that a descriptor was seen to go. Tells which it was.
    pub(super) fn recall_gone(&mut self, descriptor: &Descriptor) -> Option<u64> {
        let is = |known: &Known| {
            known.descriptor.fd == descriptor.fd && known.descriptor.device == descriptor.device
        };
        let at = self.held.iter().position(is)?;
        let known = self.held.remove(at);
        let held = &self.held;
        self.plugs.settle(|plug| holds(held, plug));
        Some(known.number)
    }
}

fn entry(host: &Arc<str>, source: &Arc<str>, stored: &StoredRecord, record: Record) -> Entry {
    Entry {
        host: Arc::clone(host),
        time: stored.time,
        serial: stored.serial,
        writer: stored.writer,
        source: Arc::clone(source),
        line: u64::try_from(stored.id).unwrap_or_default(),
        content: Content::Record(record),
        copies: Vec::new(),
        unauthenticated: false,
    }
}
