//! Changes of links and filters that others make, as the kernel announces them.
//!
//! A [`Changes`] is two sockets in the network namespace of the thread that opened it. Nothing is
//! concluded from an announcement: it says where to look again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::io::Errno;

use crate::filter::{interface_of_message, is_table_message};
use crate::netlink::{messages, u32_at};

/// `RTNLGRP_LINK` (linux/rtnetlink.h).
pub(crate) const RTNLGRP_LINK: u32 = 1;
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;
const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
/// The most bytes of one datagram; the kernel announces links one by one, in less.
const MAX_DATAGRAM: usize = 32 * 1024;
/// How many datagrams are taken at once, so that a busy host keeps nobody from other work.
const MAX_DATAGRAMS_PER_TURN: usize = 256;

/// Where to look again.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The numbers of links that were changed or deleted.
    pub links: Vec<u32>,
    /// The numbers of links whose filters of ours were changed or removed.
    pub filters: Vec<u32>,
    /// Announcements were lost, or more are waiting than are taken at once: anything may have changed.
    pub lost: bool,
}

/// A subscription to what the kernel announces of links and of nftables.
pub struct Changes {
    links: Socket,
    /// None on a kernel without nftables.
    filters: Option<Socket>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    /// Subscribes, in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses a socket, or membership in the group of links.
    pub fn subscribe() -> io::Result<Self> {
        let links = join(NETLINK_ROUTE, RTNLGRP_LINK)?;
        let filters = match join(NETLINK_NETFILTER, NFNLGRP_NFTABLES) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::debug!(%error, "changes of nftables are not announced");
                None
            }
        };
        Ok(Self { links, filters })
    }

    /// What to poll for reading.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.links), self.filters.as_ref()].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Takes what was announced, without waiting.
    ///
    /// # Errors
    /// When a socket fails, which is not expected.
    pub fn take(&mut self) -> io::Result<Changed> {
        let mut changed = Changed::default();
        let Changed { links, filters, lost } = &mut changed;
        let drained = drain(&self.links, |kind, payload| {
            // `struct ifinfomsg`: family, type, index.
            if matches!(kind, RTM_NEWLINK | RTM_DELLINK) {
                links.extend(u32_at(payload, 4));
            }
        })?;
        *lost |= drained.lost || drained.more;
        if let Some(socket) = &self.filters {
            let drained = drain(socket, |kind, payload| {
                if is_table_message(kind) {
                    filters.extend(interface_of_message(payload));
                }
            })?;
            *lost |= drained.lost || drained.more;
        }
        for numbers in [links, filters] {
            numbers.sort_unstable();
            numbers.dedup();
        }
        Ok(changed)
    }
}

pub(crate) fn join(protocol: isize, group: u32) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    socket.add_membership(group)?;
    Ok(socket)
}

/// What a turn of [`drain`] left behind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Drained {
    /// The kernel dropped messages.
    pub(crate) lost: bool,
    /// More are waiting than are taken in one turn.
    pub(crate) more: bool,
}

/// Gives each waiting message, up to a bound.
pub(crate) fn drain(socket: &Socket, mut each: impl FnMut(u16, &[u8])) -> io::Result<Drained> {
    let mut drained = Drained::default();
    let mut buffer = Vec::with_capacity(MAX_DATAGRAM);
    for _ in 0..MAX_DATAGRAMS_PER_TURN {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => messages(&buffer).for_each(|message| each(message.kind, message.payload)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN) => return Ok(drained),
                Some(Errno::INTR) => {}
                Some(Errno::NOBUFS) => drained.lost = true,
                _ => return Err(error),
            },
        }
    }
    Ok(Drained { more: true, ..drained })
}
