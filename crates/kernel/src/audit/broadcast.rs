//! The kernel's multicast of the audit records that it logs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::error::AuditError;
use super::group::{self, Types};
use super::socket::{MAX_DATAGRAM_BYTES, receive};

/// The record types that a trail can use: a boot (`AUDIT_SYSTEM_BOOT`), an open(2) that matches an
/// audit rule (`AUDIT_SYSCALL` and `AUDIT_PATH`), and guest managers' records
/// (`AUDIT_VIRT_CONTROL`, `AUDIT_VIRT_RESOURCE`).
const RECEIVED_TYPES: [Types; 4] = [1127..=1127, 1300..=1300, 1302..=1302, 2500..=2501];

/// The size of the receive buffer in bytes: some thousands of records, at the kernel's size for
/// each.
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// The kernel's multicast of records about guests.
///
/// It has the records from now on. The kernel drops records that are not read in time, and reports
/// that.
#[derive(Debug)]
pub struct Broadcast {
    socket: OwnedFd,
    buffer: Box<[u8]>,
    /// Whether records were lost after those that wait. Until those are read, the filter accepts no
    /// more.
    overrun: bool,
}

/// An item of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BroadcastItem<'b> {
    /// A record: its type, and its text from `audit(` on.
    Record {
        /// Its type (libaudit.h).
        kind: u16,
        /// `audit(SECONDS.MILLIS:SERIAL): …`
        text: &'b [u8],
    },
    /// Some records were lost before the next one.
    Overrun,
}

impl Broadcast {
    /// Joins the multicast group.
    ///
    /// # Errors
    ///
    /// [`AuditError::MulticastUnavailable`] if the multicast can't be received here,
    /// [`AuditError::Unsupported`] without an audit subsystem.
    pub fn open() -> Result<Self, AuditError> {
        Self::with_receive_buffer(RECEIVE_BUFFER_BYTES)
    }

    /// Joins the multicast group, with a receive buffer of this size in bytes.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn with_receive_buffer(bytes: usize) -> Result<Self, AuditError> {
        let (socket, reliable) = group::join(&RECEIVED_TYPES).map_err(|errno| match errno {
            Errno::PERM => AuditError::MulticastUnavailable,
            Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => AuditError::Unsupported,
            errno => AuditError::Io(errno.into()),
        })?;
        if !reliable {
            return Err(AuditError::MulticastUnavailable);
        }
        // Beyond net.core.rmem_max if permitted, else up to it.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, bytes)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, bytes))
            .map_err(|errno| AuditError::Io(errno.into()))?;
        Ok(Self { socket, buffer: vec![0; MAX_DATAGRAM_BYTES].into_boxed_slice(), overrun: false })
    }

    /// Calls `give` for each waiting item, at most `at_most`, and returns whether there may be
    /// more. Never blocks.
    ///
    /// # Errors
    ///
    /// The socket failed.
    pub fn take(&mut self, at_most: usize, mut give: impl FnMut(BroadcastItem<'_>)) -> io::Result<bool> {
        for _ in 0..at_most {
            match receive(self.socket.as_fd(), &mut self.buffer) {
                Ok(None) if self.overrun => {
                    group::attach_filter(self.socket.as_fd(), &RECEIVED_TYPES)?;
                    self.overrun = false;
                    give(BroadcastItem::Overrun);
                }
                Ok(None) => return Ok(false),
                Ok(Some(reply)) => {
                    // The filter may not be attached, so types are checked again.
                    if RECEIVED_TYPES.iter().any(|types| types.contains(&reply.kind)) {
                        let end = reply.payload.iter().rposition(|byte| !matches!(byte, 0 | b'\n'));
                        let text = &reply.payload[..end.map_or(0, |end| end + 1)];
                        give(BroadcastItem::Record { kind: reply.kind, text });
                    }
                }
                // The kernel reports the loss before the waiting records, which came before it;
                // once the last of those is read, it queues records again (`netlink_overrun()`,
                // `netlink_rcv_wake()`). The filter accepts nothing until then, so that the loss is
                // reported at its position.
                Err(Errno::NOBUFS) => {
                    group::attach_filter(self.socket.as_fd(), &[])?;
                    self.overrun = true;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }
}

impl AsFd for Broadcast {
    /// Readable when records wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
