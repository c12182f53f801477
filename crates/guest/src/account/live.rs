use std::io::ErrorKind;
use std::path::Path;

use jiff::Timestamp;
use taptrail_kernel::proc::{ProcessId, network_namespace};
use taptrail_kernel::unix_sockets::SocketFile;
use taptrail_ledger::{Guest, Ledger, LedgerError, LiveInterface, LiveStep, Process};
use taptrail_record::{CloseDoubt, DeviceKind, socket_path};

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

/// No namespace has a lesser inode (`PROC_DYNAMIC_FIRST` of the kernel's fs/proc/generic.c, and below it
/// those of the first namespaces), and no file system's device number reaches it: a vhost-user socket's
/// place in the ledger is that of its file until QEMU's connection is known.
const FIRST_NAMESPACE: u64 = 0xf000_0000 - 64;

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
        let here = network_namespace().ok();
        let (mut granted, mut opened) = (Vec::new(), Vec::new());
        for live in self.ledger.live_devices(self.key)? {
            let is_socket = live.device.kind == DeviceKind::VhostUser;
            let path = Path::new(socket_path(&live.device.path));
            let (mut socket, mut connection, mut doubt) = (None, None, None);
            match live.netns_ifindex.filter(|_| is_socket) {
                Some((of, inode)) if Some(of) == here => connection = Some(u64::from(inode)),
                // The kernel lists only those of our own network namespace.
                Some((of, _)) if of >= FIRST_NAMESPACE => doubt = Some(CloseDoubt::Uncounted),
                Some((of, inode)) => {
                    socket = u32::try_from(of).ok().map(|of| SocketFile::with_id(path, (of, inode)));
                }
                None => {}
            }
            let device = OpenDevice {
                key: live.key,
                mac: live.mac,
                device: live.device,
                queue: live.queue,
                qemu_fd: live.qemu_fd,
                socket,
                connection,
                file: None,
                closed_at: None,
                doubt,
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
