//! Pending changes of the ledger, and how they are written.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use taptrail_ledger::{
    DeviceKey, GuestKey, LedgerError, NewDevice, NewWatched, PendingRecord, Process, RecordKey, Tx,
};
use taptrail_record::{Descriptor, Event, GuestId, Reason, Record};

use super::guest::GuestInstanceId;

/// A pending change of the ledger.
#[derive(Debug)]
pub(super) enum LedgerChange {
    Begins {
        id: GuestId,
        begun: Timestamp,
    },
    Adopted,
    Runs(Process),
    Copy {
        row: PendingRecord,
        writer: Option<u32>,
        open: Option<u64>,
    },
    /// A manager's record that came after the account's end.
    CopyLate {
        row: PendingRecord,
        writer: Option<u32>,
    },
    Own(Box<OwnRecord>),
    /// The place of the link behind a descriptor: its network namespace, and its index there.
    LinkFound {
        number: u64,
        at: (u64, u32),
    },
    LastSeen(Timestamp),
    Ends(Reason),
}

/// A record that the watcher makes itself.
#[derive(Debug)]
pub(super) struct OwnRecord {
    pub(super) record: Record,
    pub(super) row: PendingRecord,
    /// Whether the kernel was asked to log it; in vain, too.
    pub(super) is_sent: bool,
    pub(super) effect: DeviceEffect,
}

/// What one of our own records changes in the ledger's devices.
#[derive(Debug, Clone, Copy)]
pub(super) enum DeviceEffect {
    None,
    Seen { number: u64, open: Option<u64> },
    Gone { number: u64 },
}

/// Keys of the ledger's rows, by the watcher's numbers.
#[derive(Debug, Default)]
pub(super) struct LedgerKeys {
    pub(super) guests: HashMap<GuestInstanceId, GuestKey>,
    /// For each guest the records of its last opens, by their numbers.
    pub(super) opens: HashMap<GuestInstanceId, BTreeMap<u64, RecordKey>>,
    /// The devices, by the numbers of their descriptors.
    pub(super) devices: HashMap<u64, DeviceKey>,
}

/// The most opens of one guest that are kept until their descriptors are seen.
const MAX_OPENS_PER_GUEST: usize = 256;

impl LedgerKeys {
    pub(super) fn opened(&mut self, instance: GuestInstanceId, number: u64, key: RecordKey) {
        let opens = self.opens.entry(instance).or_default();
        opens.insert(number, key);
        while opens.len() > MAX_OPENS_PER_GUEST {
            opens.pop_first();
        }
    }

    fn open(&self, instance: GuestInstanceId, number: u64) -> Option<RecordKey> {
        self.opens.get(&instance)?.get(&number).copied()
    }
}

/// Applies changes in one transaction, and collects the keys of new rows.
pub(super) struct TxApplier<'a> {
    pub(super) keys: &'a LedgerKeys,
    pub(super) new: LedgerKeys,
    /// The keys of our own records, by their index among the changes.
    pub(super) rows: Vec<(usize, RecordKey)>,
}

impl TxApplier<'_> {
    pub(super) fn apply(
        &mut self,
        tx: &Tx<'_>,
        instance: GuestInstanceId,
        change: &LedgerChange,
        at: usize,
        (boot, own): (&str, Process),
    ) -> Result<(), LedgerError> {
        if let LedgerChange::Begins { id, begun } = change {
            let guest = NewWatched { id, boot_id: boot, watcher: own, begun: *begun };
            let key = tx.watched_begins(&guest)?;
            self.new.guests.insert(instance, key);
            return Ok(());
        }
        let Some(guest) = self.new.guests.get(&instance).or_else(|| self.keys.guests.get(&instance)).copied()
        else {
            return Ok(());
        };
        match change {
            LedgerChange::Begins { .. } => {}
            LedgerChange::Adopted => tx.guest_adopted(guest, own)?,
            LedgerChange::Runs(process) => tx.guest_runs(guest, *process)?,
            LedgerChange::Copy { row, writer, open } => {
                let key = tx.copy(guest, &row.as_new(), *writer)?;
                if let Some(open) = open {
                    self.new.opened(instance, *open, key);
                }
            }
            LedgerChange::CopyLate { row, writer } => {
                // The ledger may have deleted the account by now.
                if tx.has_guest(guest)? {
                    tx.copy(guest, &row.as_new(), *writer)?;
                }
            }
            LedgerChange::Own(own_record) => {
                let key = tx.watched(guest, &own_record.row.as_new(), own.pid)?;
                self.rows.push((at, key));
                self.apply_effect(tx, (instance, guest), key, own_record)?;
            }
            LedgerChange::LinkFound { number, at } => {
                // A descriptor of no interface has no device in the ledger.
                if let Some(device) = self.device(*number) {
                    tx.device_located(device, *at)?;
                }
            }
            LedgerChange::LastSeen(at) => tx.guest_seen(guest, *at)?,
            LedgerChange::Ends(reason) => tx.guest_ends(guest, reason.as_str())?,
        }
        Ok(())
    }

    fn device(&self, number: u64) -> Option<DeviceKey> {
        self.new.devices.get(&number).or_else(|| self.keys.devices.get(&number)).copied()
    }

    fn apply_effect(
        &mut self,
        tx: &Tx<'_>,
        (instance, guest): (GuestInstanceId, GuestKey),
        record: RecordKey,
        own_record: &OwnRecord,
    ) -> Result<(), LedgerError> {
        match own_record.effect {
            DeviceEffect::None => {}
            DeviceEffect::Seen { number, open } => {
                let Event::Seen(descriptor) = &own_record.record.event else { return Ok(()) };
                // Its interface is not known: it has a record, and no device.
                let Some(mac) = descriptor.mac else { return Ok(()) };
                let Descriptor { device, queue, fd, .. } = descriptor;
                let open = open.and_then(|open| {
                    self.new.open(instance, open).or_else(|| self.keys.open(instance, open))
                });
                let (path, dev) = (&*device.path, device.dev.as_deref());
                let queue = queue.unwrap_or(0);
                let new = NewDevice { mac, kind: device.kind, path, rdev: device.rdev, dev, queue };
                let key = tx.device_opened(guest, &new, open.unwrap_or(record))?;
                tx.device_granted(key, record, i32::try_from(*fd).ok())?;
                self.new.devices.insert(number, key);
            }
            DeviceEffect::Gone { number } => {
                if let Some(device) = self.device(number) {
                    tx.device_closed(device, record)?;
                }
            }
        }
        Ok(())
    }
}
