//! All that the kernel logs, as it logs it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::error::AuditError;
use super::group::{self, Types};
use super::socket::{DATAGRAM, receive};

/// What a trail can use: a boot (`AUDIT_SYSTEM_BOOT`), an open(2) that a rule asks for (`AUDIT_SYSCALL` and
/// `AUDIT_PATH`), and what guest managers say (`AUDIT_VIRT_CONTROL`, `AUDIT_VIRT_RESOURCE`).
const HEARD: [Types; 4] = [1127..=1127, 1300..=1300, 1302..=1302, 2500..=2501];

/// How much may wait to be taken: some thousands of records, at the kernel's own size for each.
const ROOM: usize = 16 * 1024 * 1024;

/// The kernel's broadcast of what it logs about guests.
///
/// It tells what happens from now on, and waits for nobody: what is not taken in time is lost, which the
/// kernel says.
#[derive(Debug)]
pub struct Broadcast {
    socket: OwnedFd,
    buffer: Box<[u8]>,
    /// Records were lost behind what waits. Until that is taken nothing more is let in.
    overrun: bool,
}

/// What a broadcast gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'b> {
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
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// [`AuditError::NotHeard`] where the broadcast can't be heard, [`AuditError::Unsupported`] without an
    /// audit subsystem.
    pub fn open() -> Result<Self, AuditError> {
        Self::with_room(ROOM)
    }

    /// Listens with room for so many bytes of records that wait to be taken.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn with_room(room: usize) -> Result<Self, AuditError> {
        let (socket, reliable) = group::join(&HEARD).map_err(|errno| match errno {
            Errno::PERM => AuditError::NotHeard,
            Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => AuditError::Unsupported,
            errno => AuditError::Io(errno.into()),
        })?;
        if !reliable {
            return Err(AuditError::NotHeard);
        }
        // Beyond net.core.rmem_max where that is allowed, up to it where not.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, room)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, room))
            .map_err(|errno| AuditError::Io(errno.into()))?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM].into_boxed_slice(), overrun: false })
    }

    /// Gives what waits, at most so many records; whether there may be more. Never waits.
    ///
    /// # Errors
    ///
    /// The socket failed.
    pub fn take(&mut self, at_most: usize, mut give: impl FnMut(Said<'_>)) -> io::Result<bool> {
        for _ in 0..at_most {
            match receive(self.socket.as_fd(), &mut self.buffer) {
                Ok(None) if self.overrun => {
                    group::attach_filter(self.socket.as_fd(), &HEARD)?;
                    self.overrun = false;
                    give(Said::Overrun);
                }
                Ok(None) => return Ok(false),
                Ok(Some(reply)) => {
                    // The filter is a help, and no promise.
                    if HEARD.iter().any(|types| types.contains(&reply.kind)) {
                        let end = reply.payload.iter().rposition(|byte| !matches!(byte, 0 | b'\n'));
                        let text = &reply.payload[..end.map_or(0, |end| end + 1)];
                        give(Said::Record { kind: reply.kind, text });
                    }
                }
                // Told before what waits, though that came before the loss; and as soon as the last of it is taken,
                // there is room for what came after (`netlink_overrun()`, `netlink_rcv_wake()`). For the loss to have
                // its place, nothing is let in between.
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
    /// Readable when something waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
