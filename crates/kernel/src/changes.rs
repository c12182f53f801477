//! The kernel's notifications of changes of links and filters, also those by other programs.
//!
//! A [`Changes`] is two sockets in the network namespace of the thread that opened it. A
//! notification only says which link or filter to check again. Only the move of a link to another
//! namespace is known by the notification alone: it is that of a deletion, and says that the link
//! still exists elsewhere.
//!
//! Of links, the kernel delivers the notifications of those that are followed, and no others: a
//! host on which many guests start or end at once would make each supervisor lose its own, and wake it
//! for all.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::filter::{interface_of_message, is_table_message};
use crate::netlink::{attribute, messages, u32_at};
use crate::socket_filter::{self, step};

/// `RTNLGRP_LINK` (linux/rtnetlink.h).
const RTNLGRP_LINK: u32 = 1;
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
/// Bytes of `struct ifinfomsg`, with the link's number at 4.
const IFINFOMSG: usize = 16;
/// The place of that number in a message: after its header (`struct nlmsghdr`).
const LINK_NUMBER: u32 = 16 + 4;
/// `IFLA_NEW_NETNSID` (linux/if_link.h): only in the notification of a move, not of a deletion
/// (`rtnl_fill_ifinfo()` in net/core/rtnetlink.c).
const IFLA_NEW_NETNSID: u16 = 45;
/// The largest datagram, in bytes; the kernel sends a smaller one for each link.
const MAX_DATAGRAM: usize = 32 * 1024;
/// The size of the buffer for notifications of links, in bytes. A notification takes some 2 KiB of it, and a tap of a
/// bridge that is closed has several: the system's default holds those of a dozen. Memory is used only
/// while they wait.
const BUFFER_BYTES: usize = 8 << 20;
/// The largest number of datagrams read at once, so that a busy host does not block other work.
const MAX_DATAGRAMS_PER_TURN: usize = 256;
/// The largest number of turns of reading before a link is reported as gone: more than a socket's
/// buffer holds.
const MAX_TURNS: usize = 64;

/// The links and filters to check again.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The ifindexes of links that were changed or deleted.
    pub links: Vec<u32>,
    /// The ifindexes of links whose taptrail filters were changed or removed.
    pub filters: Vec<u32>,
    /// Notifications were lost, or more are waiting than are read at once: anything may have
    /// changed.
    pub lost: bool,
}

/// A subscription to the kernel's notifications of links and nftables.
pub struct Changes {
    links: Socket,
    /// None on a kernel without nftables.
    filters: Option<Socket>,
    /// For each followed link, whether it has left, or may have left without a notification. The
    /// kernel delivers the notifications of these.
    left: BTreeMap<u32, bool>,
    /// Changes of links that were read and not taken yet.
    pending: Changed,
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
    ///
    /// The kernel refuses a socket, or membership in the multicast group of links.
    pub fn subscribe() -> io::Result<Self> {
        let links = join(NETLINK_ROUTE, RTNLGRP_LINK)?;
        // Without CAP_NET_ADMIN it keeps the system's size, and more is lost.
        let _ = sockopt::set_socket_recv_buffer_size_force(links.as_fd(), BUFFER_BYTES);
        let filters = match join(NETLINK_NETFILTER, NFNLGRP_NFTABLES) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::debug!(%error, "changes of nftables are not announced");
                None
            }
        };
        let changes = Self { links, filters, left: BTreeMap::new(), pending: Changed::default() };
        changes.select_links()?;
        Ok(changes)
    }

    /// The descriptors to poll for reading.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.links), self.filters.as_ref()].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Whether [`take`](Self::take) returns changes that were read already, so that no descriptor
    /// is readable.
    pub fn is_waiting(&self) -> bool {
        self.pending != Changed::default()
    }

    /// The changes since the last call; never blocks.
    ///
    /// # Errors
    ///
    /// A socket fails, which is not expected.
    pub fn take(&mut self) -> io::Result<Changed> {
        self.read_links()?;
        let mut changed = std::mem::take(&mut self.pending);
        let Changed { links, filters, lost } = &mut changed;
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

    /// Follows a link. It may have left until it is found in this namespace afterwards
    /// ([`settle`](Self::settle)).
    pub fn follow(&mut self, link: u32) {
        if self.left.contains_key(&link) {
            return;
        }
        self.left.insert(link, true);
        if let Err(error) = self.select_links() {
            tracing::debug!(%error, "a link can't be followed");
            self.left.remove(&link);
        }
    }

    /// Notes that a link that is followed was found in this namespace, or was deleted: it is not
    /// elsewhere until there is another notification of it.
    pub fn settle(&mut self, link: u32) {
        self.left.entry(link).and_modify(|left| *left = false);
    }

    /// Stops following a link.
    pub fn forget(&mut self, link: u32) {
        if self.left.remove(&link).is_some() {
            // If it fails, there are more notifications than needed.
            let _ = self.select_links();
        }
    }

    /// Makes the kernel deliver the notifications of followed links alone; of all, if they are too
    /// many for a filter.
    fn select_links(&self) -> io::Result<()> {
        let socket = self.links.as_fd();
        let followed = self.left.keys().copied();
        socket_filter::attach(socket, selection(followed)).or_else(|_| socket_filter::detach(socket))
    }

    /// Whether a link that is not in this namespace may be in another one: it has left, or
    /// notifications were lost.
    pub fn may_be_elsewhere(&mut self, link: u32) -> bool {
        self.read_or_assume_left();
        self.left.get(&link).copied().unwrap_or(true)
    }

    fn read_or_assume_left(&mut self) {
        if self.read_links().is_err() {
            self.assume_left();
        }
    }

    /// Marks all followed links as possibly left. Those that are still here will be found here.
    fn assume_left(&mut self) {
        self.left.values_mut().for_each(|left| *left = true);
    }

    /// Reads the notifications of links.
    fn read_links(&mut self) -> io::Result<()> {
        let Self { left, pending, .. } = self;
        let mut drained = Drained::default();
        for _ in 0..MAX_TURNS {
            let turn = drain(&self.links, |kind, payload| {
                // `struct ifinfomsg`: family, type, index.
                let Some(link) = u32_at(payload, 4).filter(|_| matches!(kind, RTM_NEWLINK | RTM_DELLINK))
                else {
                    return;
                };
                if pending.links.last() != Some(&link) {
                    pending.links.push(link);
                }
                let attributes = payload.get(IFINFOMSG..).unwrap_or_default();
                if kind == RTM_DELLINK && attribute(attributes, IFLA_NEW_NETNSID).is_some() {
                    left.entry(link).and_modify(|left| *left = true);
                }
            })?;
            drained = Drained { lost: drained.lost || turn.lost, more: turn.more };
            if !drained.more {
                break;
            }
        }
        if drained.lost || drained.more {
            pending.lost = true;
            self.assume_left();
        }
        Ok(())
    }
}

/// A socket's filter that passes messages about these links.
fn selection(links: impl Iterator<Item = u32>) -> Vec<libc::sock_filter> {
    let load = step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, LINK_NUMBER);
    let pass = |bytes| step(libc::BPF_RET | libc::BPF_K, 0, 0, bytes);
    let mut program = vec![load];
    for link in links {
        // Loads are big-endian, and netlink's numbers are the host's.
        let number = u32::from_be_bytes(link.to_ne_bytes());
        program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number));
        program.push(pass(u32::MAX));
    }
    program.push(pass(0));
    program
}

fn join(protocol: isize, group: u32) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    socket.add_membership(group)?;
    Ok(socket)
}

/// The result of a turn of [`drain`].
#[derive(Debug, Clone, Copy, Default)]
struct Drained {
    /// Whether the kernel dropped messages.
    lost: bool,
    /// Whether more are waiting than are read in one turn.
    more: bool,
}

/// Calls `each` for each waiting message, up to a limit.
fn drain(socket: &Socket, mut each: impl FnMut(u16, &[u8])) -> io::Result<Drained> {
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
