use std::io::ErrorKind;

use jiff::Timestamp;
use taptrail_kernel::proc::ProcessId;
use taptrail_ledger::{Guest, Ledger, LedgerError, LiveInterface, LiveStep, Process};
use taptrail_record::DeviceKind;

use super::{Account, AccountError, OpenDevice};
use crate::run_dir::Dirs;

/// taptrail's guests of this host whose accounts are open, oldest first. Watched guests are left
/// out: they have another manager.
pub(crate) fn live_guests(dirs: &Dirs) -> Result<Vec<Guest>, LedgerError> {
    ledger_if_any(dirs)?.map_or(Ok(Vec::new()), |ledger| own_guests(&ledger))
}

pub(crate) fn own_guests(ledger: &Ledger) -> Result<Vec<Guest>, LedgerError> {
    let mut guests = ledger.live_guests()?;
    guests.retain(|guest| !guest.watched);
    Ok(guests)
}

/// The process that a row of the ledger names.
pub(crate) fn process_id(on_record: Process) -> ProcessId {
    ProcessId { pid: on_record.pid, start_time: on_record.start }
}

/// Opens the host's ledger for reading; `None` if it does not exist yet.
pub(crate) fn ledger_if_any(dirs: &Dirs) -> Result<Option<Ledger>, LedgerError> {
    match Ledger::open_to_read(&dirs.state) {
        Ok(ledger) => Ok(Some(ledger)),
        Err(LedgerError::File { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The open part of an account, for the supervisor or recovery that takes it over.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) interfaces: Vec<LiveInterface>,
    /// The devices that QEMU was seen to hold.
    pub(crate) granted: Vec<OpenDevice>,
    /// The devices that were opened, and not yet seen in QEMU.
    pub(crate) opened: Vec<OpenDevice>,
    pub(crate) steps: Vec<LiveStep>,
    /// The latest time at which the account is known to have been accurate.
    pub(crate) last_observed: Timestamp,
    /// The network namespace of its links and filters, if that is known.
    pub(crate) netns: Option<u64>,
    /// The user gave -S: QEMU stays paused.
    pub(crate) paused: bool,
}

impl Live {
    /// All devices without a close record.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &OpenDevice> {
        self.granted.iter().chain(&self.opened)
    }
}

impl Account {
    /// Reads the open part of the account.
    pub(crate) fn live(&self) -> Result<Live, AccountError> {
        let (netns, paused) = self.ledger.netns_and_paused(self.key)?;
        let (mut granted, mut opened) = (Vec::new(), Vec::new());
        for live in self.ledger.live_devices(self.key)? {
            let connection = live.netns_ifindex.map(|(_, inode)| u64::from(inode));
            let connection = connection.filter(|_| live.device.kind == DeviceKind::VhostUser);
            let device = OpenDevice {
                key: live.key,
                mac: live.mac,
                device: live.device,
                queue: live.queue,
                qemu_fd: live.qemu_fd,
                connection,
                file: None,
                closed_at: None,
                doubt: None,
            };
            if live.granted { granted.push(device) } else { opened.push(device) }
        }
        Ok(Live {
            interfaces: self.ledger.live_interfaces(self.key)?,
            granted,
            opened,
            steps: self.ledger.live_steps(self.key)?,
            last_observed: self.ledger.last_observed(self.key)?,
            netns,
            paused,
        })
    }
}
