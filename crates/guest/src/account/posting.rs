use jiff::Timestamp;
use std::os::fd::RawFd;

use taptrail_ledger::{
    DeviceKey, GuestKey, InterfaceKey, LedgerError, Logged, MovedKeys, NewRecord, StepKey, Tx,
};
use taptrail_record::{Outcome, Reason, Record};

use super::{Account, OpenDevice};

/// What a record changes in the ledger besides being there.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// QEMU was seen to hold these devices, under these numbers.
    Granted(Vec<(DeviceKey, Option<RawFd>)>),
    /// The device is over; at this time, where the kernel told it.
    Closed(DeviceKey, Option<Timestamp>),
}

impl Change {
    /// When the kernel saw it, where it told.
    pub(super) fn seen_at(&self) -> Option<Timestamp> {
        match self {
            Self::Closed(_, at) => *at,
            Self::Granted(_) => None,
        }
    }
}

/// Records to be posted together, and what they change in the ledger.
#[derive(Debug, Default)]
pub(crate) struct Posting {
    pub(super) records: Vec<(Record, Option<Change>)>,
    pub(super) done: Vec<(StepKey, String)>,
    pub(super) over: Vec<InterfaceKey>,
    pub(super) ends: Option<Reason>,
}

impl Posting {
    /// A record that changes nothing.
    pub(crate) fn says(mut self, record: Record) -> Self {
        self.records.push((record, None));
        self
    }

    /// A record by which QEMU was seen to hold `devices`.
    pub(crate) fn grants<'a>(
        mut self,
        record: Record,
        devices: impl IntoIterator<Item = &'a OpenDevice>,
    ) -> Self {
        let granted = devices.into_iter().map(|device| (device.key, device.qemu_fd)).collect();
        self.records.push((record, Some(Change::Granted(granted))));
        self
    }

    /// The close records of devices that are over.
    pub(crate) fn closes<'a>(
        mut self,
        account: &Account,
        devices: impl IntoIterator<Item = &'a OpenDevice>,
    ) -> Self {
        for device in devices {
            self.close(account, device, None);
        }
        self
    }

    fn close(&mut self, account: &Account, device: &OpenDevice, last_seen: Option<Timestamp>) {
        let mut record = account.record(device.close(), Outcome::Success, None);
        record.doubt = device.doubt;
        // What the kernel saw end has no span of time.
        let last_seen = last_seen.filter(|_| device.closed_at.is_none());
        record.last_seen = last_seen.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        self.records.push((record, Some(Change::Closed(device.key, device.closed_at))));
    }

    /// The close records of devices whose end nobody but the kernel saw, if it did: they were there at `last_seen` and
    /// are gone now.
    pub(crate) fn closes_unseen<'a>(
        mut self,
        account: &Account,
        devices: impl IntoIterator<Item = &'a OpenDevice>,
        last_seen: Timestamp,
    ) -> Self {
        for device in devices {
            self.close(account, device, Some(last_seen));
        }
        self
    }

    /// Interfaces of which nothing is left with this, in QEMU or on the host.
    pub(crate) fn over(mut self, interfaces: impl IntoIterator<Item = InterfaceKey>) -> Self {
        self.over.extend(interfaces);
        self
    }

    /// Steps that are over with this.
    pub(crate) fn done<'a>(mut self, steps: impl IntoIterator<Item = &'a StepKey>, outcome: &str) -> Self {
        self.done.extend(steps.into_iter().map(|step| (*step, outcome.to_owned())));
        self
    }

    /// The guest's account is over with this.
    pub(crate) fn ends(mut self, reason: &Reason) -> Self {
        self.ends = Some(reason.clone());
        self
    }
}

/// A record as it goes into the ledger.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) record: Record,
    pub(super) kind: u16,
    pub(super) text: String,
    pub(super) time: Timestamp,
    pub(super) logged: Logged,
}

impl Row {
    pub(super) fn new_record(&self) -> NewRecord<'_> {
        NewRecord { time: self.time, kind: self.kind, text: &self.text, logged: self.logged.clone() }
    }
}

/// A posting that the kernel was told of, and the ledger is to take.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) rows: Vec<(Row, Option<Change>)>,
    pub(super) done: Vec<(StepKey, String)>,
    pub(super) over: Vec<InterfaceKey>,
    pub(super) ends: Option<Reason>,
}

impl Written {
    /// The records alone: they were written, but what they say did not come to be.
    pub(super) fn without_changes(self) -> Self {
        let rows = self.rows.into_iter().map(|(row, _)| (row, None)).collect();
        Self { rows, done: Vec::new(), over: Vec::new(), ends: None }
    }

    /// Writes it; `moves` say where the account was carried over to since its rows were made.
    pub(super) fn apply(&self, tx: &Tx<'_>, guest: GuestKey, moves: &[MovedKeys]) -> Result<(), LedgerError> {
        for (row, change) in &self.rows {
            let key = tx.record(guest, &row.new_record())?;
            match change {
                Some(Change::Granted(devices)) => {
                    for (device, fd) in devices {
                        tx.device_granted(
                            moves.iter().fold(*device, |key, moved| moved.device(key)),
                            key,
                            *fd,
                        )?;
                    }
                }
                Some(Change::Closed(device, _)) => {
                    tx.device_closed(moves.iter().fold(*device, |key, moved| moved.device(key)), key)?;
                }
                None => {}
            }
        }
        for (step, outcome) in &self.done {
            tx.done(moves.iter().fold(*step, |key, moved| moved.step(key)), outcome)?;
        }
        for interface in &self.over {
            tx.interface_ends(moves.iter().fold(*interface, |key, moved| moved.interface(key)))?;
        }
        match &self.ends {
            Some(reason) => tx.guest_ends(guest, reason.as_str()),
            None => Ok(()),
        }
    }
}
