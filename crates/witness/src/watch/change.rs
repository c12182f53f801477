//! What changes in the ledger, and how it is written.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use taptrail_ledger::{
    DeviceKey, GuestKey, LedgerError, Logged, NewDevice, NewRecord, NewWatched, Process, RecordKey, Tx,
};
use taptrail_record::{Descriptor, Event, GuestId, Reason, Record};

use super::books::Slot;

/// What changes in the ledger.
#[derive(Debug)]
pub(super) enum Change {
    Begins {
        id: GuestId,
        begun: Timestamp,
    },
    Adopted,
    Runs(Process),
    Copy {
        row: Row,
        writer: Option<u32>,
        open: Option<u64>,
    },
    /// One that came after the account's end.
    Late {
        row: Row,
        writer: Option<u32>,
    },
    Own(Box<Own>),
    /// The interface behind a descriptor was seen there: its network namespace, and its number in it.
    Placed {
        number: u64,
        at: (u64, u32),
    },
    Seen(Timestamp),
    Ends(Reason),
}

/// A record of our own.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) record: Record,
    pub(super) row: Row,
    pub(super) effect: Effect,
}

/// What a record of our own says of a device.
#[derive(Debug, Clone, Copy)]
pub(super) enum Effect {
    None,
    Seen { number: u64, open: Option<u64> },
    Gone { number: u64 },
}

/// A record on its way into the ledger.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) time: Timestamp,
    pub(super) kind: u16,
    pub(super) text: String,
    /// None as long as the kernel was not told.
    pub(super) logged: Option<Logged>,
}

/// Rows of the ledger by our own numbers.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) guests: HashMap<Slot, GuestKey>,
    /// Of each guest the records of its last opens, by their numbers.
    pub(super) opens: HashMap<Slot, BTreeMap<u64, RecordKey>>,
    /// By the number of a descriptor.
    pub(super) devices: HashMap<u64, DeviceKey>,
}

/// How many opens of one guest are remembered until their descriptors are seen.
const OPENS: usize = 256;

impl Keys {
    pub(super) fn opened(&mut self, slot: Slot, number: u64, key: RecordKey) {
        let opens = self.opens.entry(slot).or_default();
        opens.insert(number, key);
        while opens.len() > OPENS {
            opens.pop_first();
        }
    }

    fn open(&self, slot: Slot, number: u64) -> Option<RecordKey> {
        self.opens.get(&slot)?.get(&number).copied()
    }
}

/// One transaction, with the rows that it makes.
pub(super) struct Writing<'a> {
    pub(super) keys: &'a Keys,
    pub(super) new: Keys,
    /// The row of each of our own records, by its place among the changes.
    pub(super) rows: Vec<(usize, RecordKey)>,
}

impl Writing<'_> {
    pub(super) fn apply(
        &mut self,
        tx: &Tx<'_>,
        slot: Slot,
        change: &Change,
        at: usize,
        (boot, own): (&str, Process),
    ) -> Result<(), LedgerError> {
        if let Change::Begins { id, begun } = change {
            let guest = NewWatched { id, boot_id: boot, watcher: own, begun: *begun };
            let key = tx.watched_begins(&guest)?;
            self.new.guests.insert(slot, key);
            return Ok(());
        }
        let Some(guest) = self.new.guests.get(&slot).or_else(|| self.keys.guests.get(&slot)).copied() else {
            return Ok(());
        };
        match change {
            Change::Begins { .. } => {}
            Change::Adopted => tx.guest_adopted(guest, own)?,
            Change::Runs(process) => tx.guest_runs(guest, *process)?,
            Change::Copy { row, writer, open } => {
                let key = tx.copy(guest, &row.new_record(), *writer)?;
                if let Some(open) = open {
                    self.new.opened(slot, *open, key);
                }
            }
            Change::Late { row, writer } => {
                // It may be forgotten by now.
                if tx.has_guest(guest)? {
                    tx.copy(guest, &row.new_record(), *writer)?;
                }
            }
            Change::Own(said) => {
                let key = tx.watched(guest, &said.row.new_record(), own.pid)?;
                self.rows.push((at, key));
                self.apply_effect(tx, (slot, guest), key, said)?;
            }
            Change::Placed { number, at } => {
                // What belongs to no interface has no device in the ledger.
                if let Some(device) = self.device(*number) {
                    tx.device_placed(device, *at)?;
                }
            }
            Change::Seen(at) => tx.guest_seen(guest, *at)?,
            Change::Ends(reason) => tx.guest_ends(guest, reason.as_str())?,
        }
        Ok(())
    }

    fn device(&self, number: u64) -> Option<DeviceKey> {
        self.new.devices.get(&number).or_else(|| self.keys.devices.get(&number)).copied()
    }

    fn apply_effect(
        &mut self,
        tx: &Tx<'_>,
        (slot, guest): (Slot, GuestKey),
        record: RecordKey,
        said: &Own,
    ) -> Result<(), LedgerError> {
        match said.effect {
            Effect::None => {}
            Effect::Seen { number, open } => {
                let Event::Seen(descriptor) = &said.record.event else { return Ok(()) };
                // Whose it is nobody knows: its record alone tells of it.
                let Some(mac) = descriptor.mac else { return Ok(()) };
                let Descriptor { device, queue, fd, .. } = descriptor;
                let open =
                    open.and_then(|open| self.new.open(slot, open).or_else(|| self.keys.open(slot, open)));
                let (path, dev) = (&*device.path, device.dev.as_deref());
                let queue = queue.unwrap_or(0);
                let new = NewDevice { mac, kind: device.kind, path, rdev: device.rdev, dev, queue };
                let key = tx.device_opened(guest, &new, open.unwrap_or(record))?;
                tx.device_granted(key, record, i32::try_from(*fd).ok())?;
                self.new.devices.insert(number, key);
            }
            Effect::Gone { number } => {
                if let Some(device) = self.device(number) {
                    tx.device_closed(device, record)?;
                }
            }
        }
        Ok(())
    }
}

impl Row {
    fn new_record(&self) -> NewRecord<'_> {
        let logged = self.logged.clone().unwrap_or(Logged { how: "off".to_owned(), serial: None });
        NewRecord { time: self.time, kind: self.kind, text: &self.text, logged }
    }
}
