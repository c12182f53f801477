use jiff::Timestamp;
use std::os::fd::RawFd;

use taptrail_kernel::proc::network_namespace;
use taptrail_ledger::{
    DeviceKey, GuestKey, InterfaceKey, LedgerError, MovedKeys, PendingRecord, StepKey, Tx,
};
use taptrail_record::{Outcome, Reason, Record};

use super::{Account, OpenDevice};

/// The change of the ledger that belongs to a record.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// QEMU holds these devices.
    Granted(Vec<GrantedDevice>),
    /// The device is closed; at this time, where the kernel reported its last close.
    Closed(DeviceKey, Option<Timestamp>),
}

/// A device that QEMU was seen to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct GrantedDevice {
    key: DeviceKey,
    /// The descriptor's number in QEMU.
    fd: Option<RawFd>,
    /// Of a vhost-user socket: the network namespace and the inode of its connection.
    connection: Option<(u64, u32)>,
}

impl Change {
    /// The time at which the kernel saw it, where it was reported.
    pub(super) fn seen_at(&self) -> Option<Timestamp> {
        match self {
            Self::Closed(_, at) => *at,
            Self::Granted(_) => None,
        }
    }
}

/// Records that are committed together, and the ledger changes that belong to them.
#[derive(Debug, Default)]
pub(crate) struct LedgerBatch {
    pub(super) records: Vec<(Record, Option<Change>)>,
    pub(super) completed_steps: Vec<(StepKey, String)>,
    pub(super) ended_interfaces: Vec<InterfaceKey>,
    pub(super) changed_spec: Option<(InterfaceKey, String)>,
    /// The rules of an interface's filter; `None` within if it has no filter any more.
    pub(super) changed_rules: Option<(InterfaceKey, Option<String>)>,
    pub(super) guest_end: Option<Reason>,
    pub(super) cause: Option<String>,
}

impl LedgerBatch {
    /// Adds a record without a change.
    pub(crate) fn record(mut self, record: Record) -> Self {
        self.records.push((record, None));
        self
    }

    /// Adds a record that grants `devices`, which QEMU was seen to hold.
    pub(crate) fn grant<'a>(
        mut self,
        record: Record,
        devices: impl IntoIterator<Item = &'a OpenDevice>,
    ) -> Self {
        let granted = devices.into_iter().map(|device| GrantedDevice {
            key: device.key,
            fd: device.qemu_fd,
            connection: device.connection.and_then(|inode| {
                // An inode of a socket is an `unsigned int` (the kernel's get_next_ino()).
                Some((network_namespace().ok()?, u32::try_from(inode).ok()?))
            }),
        });
        let granted = granted.collect();
        self.records.push((record, Some(Change::Granted(granted))));
        self
    }

    /// Adds the close records of devices.
    pub(crate) fn close_devices<'a>(
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
        // A last close that the kernel reported has an exact time, and no time span.
        let last_seen = last_seen.filter(|_| device.closed_at.is_none());
        record.last_seen = last_seen.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        self.records.push((record, Some(Change::Closed(device.key, device.closed_at))));
    }

    /// Adds the close records of devices whose end only the kernel may have seen: they were held at
    /// `last_seen`, and are not now.
    pub(crate) fn close_devices_unseen<'a>(
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

    /// Ends interfaces that have nothing left in QEMU and on the host.
    pub(crate) fn end_interfaces(mut self, interfaces: impl IntoIterator<Item = InterfaceKey>) -> Self {
        self.ended_interfaces.extend(interfaces);
        self
    }

    /// Gives an interface its new SPEC.
    pub(crate) fn change_spec(mut self, key: InterfaceKey, spec: String) -> Self {
        self.changed_spec = Some((key, spec));
        self
    }

    /// Gives the filter of an interface its new rules; without any, it has none any more.
    pub(crate) fn change_rules(mut self, key: InterfaceKey, rules: Option<String>) -> Self {
        self.changed_rules = Some((key, rules));
        self
    }

    /// Completes steps, with their outcome.
    pub(crate) fn complete_steps<'a>(
        mut self,
        steps: impl IntoIterator<Item = &'a StepKey>,
        outcome: &str,
    ) -> Self {
        self.completed_steps.extend(steps.into_iter().map(|step| (*step, outcome.to_owned())));
        self
    }

    /// Says why its grant failed, for subscribers: the record has no place for it.
    pub(crate) fn caused_by(mut self, cause: String) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Closes the guest's account.
    pub(crate) fn end_guest(mut self, reason: &Reason) -> Self {
        self.guest_end = Some(reason.clone());
        self
    }
}

/// A record, and the row that it is in the ledger.
#[derive(Debug)]
pub(super) struct LoggedRecord {
    pub(super) record: Record,
    pub(super) row: PendingRecord,
}

/// A batch whose records went to the kernel, for the ledger.
#[derive(Debug)]
pub(super) struct LoggedBatch {
    pub(super) records: Vec<(LoggedRecord, Option<Change>)>,
    pub(super) completed_steps: Vec<(StepKey, String)>,
    pub(super) ended_interfaces: Vec<InterfaceKey>,
    pub(super) changed_spec: Option<(InterfaceKey, String)>,
    pub(super) changed_rules: Option<(InterfaceKey, Option<String>)>,
    pub(super) guest_end: Option<Reason>,
    pub(super) cause: Option<String>,
}

impl LoggedBatch {
    /// The records alone: they were logged, but their changes were not made.
    pub(super) fn without_changes(self) -> Self {
        let records = self.records.into_iter().map(|(logged, _)| (logged, None)).collect();
        Self {
            records,
            completed_steps: Vec::new(),
            ended_interfaces: Vec::new(),
            changed_spec: None,
            changed_rules: None,
            guest_end: None,
            cause: self.cause,
        }
    }

    /// Writes the batch. `moves` map its keys if the account was copied to another ledger
    /// meanwhile.
    pub(super) fn apply(&self, tx: &Tx<'_>, guest: GuestKey, moves: &[MovedKeys]) -> Result<(), LedgerError> {
        for (LoggedRecord { row, .. }, change) in &self.records {
            let key = tx.record(guest, &row.as_new())?;
            match change {
                Some(Change::Granted(devices)) => {
                    for device in devices {
                        let of = moves.iter().fold(device.key, |key, moved| moved.device(key));
                        tx.device_granted(of, key, device.fd)?;
                        if let Some(connection) = device.connection {
                            tx.device_located(of, connection)?;
                        }
                    }
                }
                Some(Change::Closed(device, _)) => {
                    tx.device_closed(moves.iter().fold(*device, |key, moved| moved.device(key)), key)?;
                }
                None => {}
            }
        }
        for (step, outcome) in &self.completed_steps {
            tx.done(moves.iter().fold(*step, |key, moved| moved.step(key)), outcome)?;
        }
        let moved = |key: InterfaceKey| moves.iter().fold(key, |key, moved| moved.interface(key));
        if let Some((key, spec)) = &self.changed_spec {
            tx.interface_changes(moved(*key), spec)?;
        }
        if let Some((key, rules)) = &self.changed_rules {
            tx.interface_is_filtered(moved(*key), rules.as_deref())?;
        }
        for interface in &self.ended_interfaces {
            tx.interface_ends(moved(*interface))?;
        }
        match &self.guest_end {
            Some(reason) => tx.guest_ends(guest, reason.as_str()),
            None => Ok(()),
        }
    }
}
