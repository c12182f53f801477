//! The netlink socket for requests to the kernel's audit subsystem.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use crate::poll_timeout;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `NLMSG_ERROR`, also the acknowledgement when its code is 0 (linux/netlink.h).
pub(super) const NLMSG_ERROR: u16 = 2;
/// `AUDIT_GET` (linux/audit.h).
pub(super) const AUDIT_GET: u16 = 1000;
/// `sizeof(struct nlmsghdr)`.
pub(super) const HEADER: usize = 16;

const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;

/// Longest datagram read: a record's text (8970 bytes at most) or an error that echoes one.
pub(super) const MAX_DATAGRAM_BYTES: usize = 16 * 1024;

/// A raw NETLINK_AUDIT socket, bound to a port of the kernel's choice and to `groups`.
pub(super) fn open_socket(groups: u32, prepare: impl FnOnce(BorrowedFd<'_>)) -> Result<OwnedFd, Errno> {
    let fd = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::AUDIT),
    )?;
    prepare(fd.as_fd());
    rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
    Ok(fd)
}

/// Waits until `fd` is readable, or the deadline passes (false).
pub(super) fn wait_readable(fd: BorrowedFd<'_>, deadline: Instant) -> Result<bool, Errno> {
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match rustix::event::poll(&mut polled, poll_timeout(left).as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Reads one datagram of the kernel into `buffer`; `None` if nothing waits. Datagrams of other
/// senders are dropped.
pub(super) fn receive<'b>(fd: BorrowedFd<'_>, buffer: &'b mut [u8]) -> Result<Option<Reply<'b>>, Errno> {
    let length = loop {
        match rustix::net::recvfrom(fd, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((length, _, Some(from))) => {
                let kernel = SocketAddrNetlink::try_from(from).is_ok_and(|from| from.pid() == 0);
                if kernel && length >= HEADER {
                    break length;
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    };
    Ok(Reply::of(&buffer[..length]))
}

/// One message of the kernel. The audit subsystem sends one in each datagram. Some kernels count
/// `nlmsg_len` without its header, so the datagram's length is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply<'b> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'b [u8],
}

impl<'b> Reply<'b> {
    pub(super) fn of(datagram: &'b [u8]) -> Option<Self> {
        let (header, payload) = datagram.split_at_checked(HEADER)?;
        Some(Self { kind: u16::from_ne_bytes([header[4], header[5]]), sequence: word(header, 8)?, payload })
    }

    /// The code of an acknowledgement: `Ok` or the errno; `None` for any other message.
    pub(super) fn acknowledgement(&self) -> Option<Result<(), Errno>> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        let code = word(self.payload, 0)?.cast_signed();
        Some(if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(code.saturating_neg())) })
    }
}

/// The native 32-bit word at `offset`.
pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Requests that are sent in one datagram, by one system call.
#[derive(Debug, Default)]
pub(super) struct Requests {
    bytes: Vec<u8>,
}

impl Requests {
    /// Adds a request that has a reply; only a refusal is acknowledged.
    pub(super) fn ask(&mut self, kind: u16, sequence: u32) {
        self.push(kind, NLM_F_REQUEST, sequence, &[]);
    }

    /// Adds a record: its text and a final byte, which the kernel overwrites with NUL.
    pub(super) fn record(&mut self, kind: u16, sequence: u32, text: &str) {
        self.push(kind, NLM_F_REQUEST | NLM_F_ACK, sequence, &[text.as_bytes(), b"\0"]);
    }

    fn push(&mut self, kind: u16, flags: u16, sequence: u32, payload: &[&[u8]]) {
        let length = HEADER + payload.iter().map(|part| part.len()).sum::<usize>();
        // Bounded by MAX_TEXT_BYTES, which is checked before.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        for part in payload {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Sends all requests in one system call.
    pub(super) fn send(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        loop {
            // While the backlog is over its limit, the kernel blocks the sender here, whatever the
            // socket's flags, with the records queued already (`audit_receive()`).
            match rustix::net::send(fd, &self.bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_aligned_and_their_text_ends_with_a_nul() {
        let mut requests = Requests::default();
        requests.record(2501, 7, "ab");
        requests.ask(AUDIT_GET, 8);
        assert_eq!(requests.bytes.len(), 20 + 16);
        let first = Reply::of(&requests.bytes).unwrap();
        assert_eq!((first.kind, first.sequence), (2501, 7));
        assert_eq!(word(&requests.bytes, 0), Some(19));
        assert_eq!(&requests.bytes[16..20], b"ab\0\0");
        let second = Reply::of(&requests.bytes[20..]).unwrap();
        assert_eq!((second.kind, second.sequence), (AUDIT_GET, 8));
    }

    #[test]
    fn an_acknowledgement_carries_the_negated_errno() {
        let mut datagram = vec![0; HEADER];
        datagram[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        datagram.extend((-1_i32).to_ne_bytes());
        let reply = Reply::of(&datagram).unwrap();
        assert_eq!(reply.acknowledgement(), Some(Err(Errno::PERM)));
        assert_eq!(Reply::of(&datagram[..10]).map(|reply| reply.kind), None);
        // Cut short: no code, no panic.
        assert_eq!(Reply::of(&datagram[..18]).unwrap().acknowledgement(), None);
    }
}
