use std::os::fd::RawFd;

use jiff::Timestamp;
use taptrail_bpf::FileId;
use taptrail_kernel::device::{OpenFacts, OpenRecorder};
use taptrail_kernel::unix_sockets::SocketFile;
use taptrail_ledger::{DeviceKey, NewDevice, Step, StepKey};
use taptrail_record::{CloseDoubt, Device, DeviceKind, Event, MacAddr, Outcome, Requester, SOCKET_PREFIX};

use super::{Account, AccountError, LedgerBatch};

/// A device that is open by the ledger: opened, and not yet closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenDevice {
    pub(crate) key: DeviceKey,
    pub(crate) mac: MacAddr,
    pub(crate) device: Device,
    pub(crate) queue: u32,
    /// Its descriptor number in QEMU, once it was found there.
    pub(crate) qemu_fd: Option<RawFd>,
    /// Of a vhost-user socket: its file, where that is known.
    pub(crate) socket: Option<SocketFile>,
    /// Of a vhost-user socket: the inode of QEMU's connection, once it was found there.
    pub(crate) connection: Option<u64>,
    /// Its open file, where the kernel reports its last close.
    pub(crate) file: Option<FileId>,
    /// Once it is closed: when the kernel saw its last close.
    pub(crate) closed_at: Option<Timestamp>,
    /// Once it is closed: why that does not prove that nobody holds it.
    pub(crate) doubt: Option<CloseDoubt>,
}

impl OpenDevice {
    /// The event of its close.
    pub(crate) fn close(&self) -> Event {
        Event::Close { mac: self.mac, device: self.device.clone(), queue: Some(self.queue) }
    }

    /// The event that QEMU keeps it after a failed attach.
    pub(crate) fn keep(&self, vm_pid: u32) -> Event {
        let device = self.device.clone();
        Event::Keep { mac: self.mac, device, queue: Some(self.queue), vm_pid: Some(vm_pid) }
    }
}

/// Records the opens of one interface.
#[derive(Debug)]
pub(crate) struct Opens<'a> {
    pub(crate) account: &'a mut Account,
    pub(crate) mac: MacAddr,
    pub(crate) requester: Option<Requester>,
    /// The devices that the ledger has as open, in the order of the opens, also if the record was
    /// refused.
    pub(crate) open: Vec<OpenDevice>,
    /// The intent to pass them to QEMU, committed together with them.
    pub(crate) hand_over: Option<StepKey>,
}

impl<'a> Opens<'a> {
    pub(crate) fn new(account: &'a mut Account, mac: MacAddr, requester: Option<Requester>) -> Self {
        Self { account, mac, requester, open: Vec::new(), hand_over: None }
    }
}

impl OpenRecorder for Opens<'_> {
    type Error = AccountError;

    fn record(&mut self, opens: &[OpenFacts]) -> Result<(), AccountError> {
        let (mac, requester) = (self.mac, self.requester);
        let described: Vec<_> = opens.iter().map(|facts| (device(facts), facts)).collect();
        let mut batch = LedgerBatch::default();
        for (device, facts) in &described {
            let event = Event::Open { mac, device: device.clone(), queue: Some(facts.queue) };
            let outcome = if facts.outcome.is_ok() { Outcome::Success } else { Outcome::Failed };
            let mut record = self.account.record(event, outcome, requester);
            record.errno = facts.outcome.err().map(|errno| errno.raw_os_error());
            batch = batch.record(record);
        }
        let (written, refusal) = self.account.send(batch)?;
        let entered = self.account.transact(|tx, guest, _| {
            let mut open = Vec::new();
            for ((device, facts), (logged, _)) in described.iter().zip(&written.records) {
                let opened = tx.record(guest, &logged.row.as_new())?;
                if facts.outcome.is_ok() {
                    let new = NewDevice {
                        mac,
                        kind: device.kind,
                        path: &device.path,
                        rdev: device.rdev,
                        dev: device.dev.as_deref(),
                        queue: facts.queue,
                    };
                    let key = tx.device_opened(guest, &new, opened)?;
                    if let Some((of, inode)) = facts.socket.as_ref().and_then(SocketFile::id) {
                        tx.device_located(key, (of.into(), inode))?;
                    }
                    let device = device.clone();
                    open.push(OpenDevice {
                        key,
                        mac,
                        device,
                        queue: facts.queue,
                        qemu_fd: None,
                        socket: facts.socket.clone(),
                        connection: None,
                        file: None,
                        closed_at: None,
                        doubt: None,
                    });
                }
            }
            // In the same transaction: each commit costs a write to the disk.
            let hand_over = tx.intend(guest, Step::HandOver, Some(mac), "")?;
            Ok((open, hand_over))
        });
        match entered {
            Ok((open, hand_over)) => {
                self.open = open;
                self.hand_over = Some(hand_over);
                self.account.emit(&written);
                refusal.map_or(Ok(()), Err)
            }
            Err(error) => {
                // The descriptors are closed unused. The kernel's log gets their closes, too, and
                // the ledger gets both when it can be written.
                self.account.queue_for_retry(written, &error);
                let opened = described.into_iter().filter(|(_, facts)| facts.outcome.is_ok());
                let close_devices = opened.fold(LedgerBatch::default(), |batch, (device, facts)| {
                    let event = Event::Close { mac, device, queue: Some(facts.queue) };
                    batch.record(self.account.record(event, Outcome::Success, None))
                });
                let (written, _) = self.account.send(close_devices)?;
                self.account.queue_for_retry(written, &error);
                Err(error.into())
            }
        }
    }
}

fn device(facts: &OpenFacts) -> Device {
    let path = facts.path.to_string_lossy();
    let path = match facts.kind {
        DeviceKind::VhostUser => format!("{SOCKET_PREFIX}{path}").into(),
        _ => path.into(),
    };
    Device {
        kind: facts.kind,
        path,
        rdev: facts.rdev,
        dev: facts.dev.as_ref().map(|dev| dev.as_str().into()),
    }
}
