//! The devices that QEMU holds, as `/proc` and kcmp(2) show them; QEMU is not trusted.
//!
//! While we hold a descriptor too, kcmp(2) proves that QEMU's is the same open file. Afterwards
//! `/proc` shows what QEMU holds; what it does not show need not be released (`handover.rs`).
//!
//! A vhost-user socket is no device that is passed: QEMU makes the connection, and the kernel's list
//! of connections shows that it goes to the socket that was recorded.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use taptrail_kernel::device::Admitted;
use taptrail_kernel::proc::{HeldDevice, Holders, ProcessId, is_gone, same_file};
use taptrail_kernel::unix_sockets::{SocketFile, UnixSockets, sockets_of};

use crate::account::OpenDevice;

/// QEMU's descriptor of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FoundDescriptor {
    pub(crate) fd: RawFd,
    /// Of a vhost-user socket: the inode of the connection.
    pub(crate) connection: Option<u64>,
}

impl OpenDevice {
    /// QEMU was seen to hold it.
    pub(crate) fn is_found(&mut self, found: FoundDescriptor) {
        self.qemu_fd = Some(found.fd);
        self.connection = found.connection;
    }
}

/// The descriptor under which `qemu` holds each of `ours`, by kcmp(2), or, of a vhost-user socket, its
/// connection to that very socket, by the kernel's list of connections; `None` where it does not.
/// `others`: the connections of other interfaces.
pub(crate) fn find(
    qemu: &ProcessId,
    ours: &[Admitted],
    others: &[u64],
) -> io::Result<Vec<Option<FoundDescriptor>>> {
    let held = devices_of(qemu)?;
    let own = std::process::id();
    ours.iter()
        .map(|device| {
            if let Some(file) = device.socket_file() {
                return find_connection(qemu, file, others);
            }
            let facts = device.facts();
            for (thread, candidate) in held.iter().filter(|(_, held)| Some(held.rdev) == facts.rdev) {
                if same_file(own, device.as_fd().as_raw_fd(), *thread, candidate.fd)? {
                    return Ok(Some(FoundDescriptor { fd: candidate.fd, connection: None }));
                }
            }
            Ok(None)
        })
        .collect()
}

/// QEMU's connection to the listener on a socket, besides `others`; `None` if there is none, or several,
/// of which none is known to be it.
pub(crate) fn find_connection(
    qemu: &ProcessId,
    file: &SocketFile,
    others: &[u64],
) -> io::Result<Option<FoundDescriptor>> {
    let held = connections_of(qemu)?;
    let sockets = UnixSockets::of(held.iter().map(|(_, inode)| *inode))?;
    let ours: BTreeSet<u64> = sockets.connected_to(file).filter(|inode| !others.contains(inode)).collect();
    let mut found = held.iter().filter(|(_, inode)| ours.contains(inode));
    let found = found.next().map(|(fd, inode)| FoundDescriptor { fd: *fd, connection: Some(*inode) });
    Ok(found.filter(|_| ours.len() == 1))
}

/// The sockets of a process, with their inodes. A process that has ended holds nothing.
pub(crate) fn connections_of(process: &ProcessId) -> io::Result<Vec<(RawFd, u64)>> {
    match sockets_of(process.pid) {
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        other => other,
    }
}

/// The raw network devices that QEMU holds besides `known`.
pub(crate) fn unexpected_devices(qemu: &ProcessId, known: &[OpenDevice]) -> io::Result<Vec<HeldDevice>> {
    let held = devices_of(qemu)?.into_iter().map(|(_, held)| held);
    Ok(held.filter(|held| !known.iter().any(|device| matches(held, device))).collect())
}

/// For each of `unseen`, whose descriptor numbers in QEMU are not recorded: the number under which
/// QEMU holds it besides `known`.
///
/// Descriptors of two queues of one device can't be told apart: the first found is taken for the
/// first.
pub(crate) fn find_among_unexpected(
    qemu: &ProcessId,
    known: &[OpenDevice],
    unseen: &[OpenDevice],
) -> io::Result<Vec<Option<RawFd>>> {
    let mut unexpected_devices = unexpected_devices(qemu, known)?;
    let mut find = |device: &OpenDevice| {
        let at = unexpected_devices.iter().position(|held| matches(held, device))?;
        Some(unexpected_devices.remove(at).fd)
    };
    Ok(unseen.iter().map(&mut find).collect())
}

pub(crate) fn matches(held: &HeldDevice, device: &OpenDevice) -> bool {
    if Some(held.rdev) != device.device.rdev {
        return false;
    }
    match device.qemu_fd {
        // The link behind it may have been renamed or deleted: the open file is the same.
        Some(fd) => fd == held.fd,
        // Its number is not recorded: any descriptor that fits may be it.
        None => match &held.ifname {
            Some(name) => Some(name.as_str()) == device.device.dev.as_deref(),
            None => true,
        },
    }
}

/// The devices in all of a process's descriptor tables, each with the thread of the table. A
/// process that has ended holds nothing.
pub(crate) fn devices_of(process: &ProcessId) -> io::Result<Vec<(u32, HeldDevice)>> {
    match Holders::in_process(process.pid) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => Ok(other?.found.into_iter().map(|(_, thread, held)| (thread, held)).collect()),
    }
}
