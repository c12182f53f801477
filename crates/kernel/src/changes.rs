//! Changes of links and filters that others make, as the kernel announces them.
//!
//! A [`Changes`] is two sockets in the network namespace of the thread that opened it. Of what is there nothing is
//! concluded from an announcement: it says where to look again. Only that a link was moved to another namespace is
//! known by the announcement alone, which is that of a deletion and says that the link goes on elsewhere.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::io::Errno;

use crate::filter::{interface_of_message, is_table_message};
use crate::netlink::{attribute, messages, u32_at};

/// `RTNLGRP_LINK` (linux/rtnetlink.h).
const RTNLGRP_LINK: u32 = 1;
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
/// Bytes of `struct ifinfomsg`, with the link's number at 4.
const IFINFOMSG: usize = 16;
/// `IFLA_NEW_NETNSID` (linux/if_link.h): of a move, and of no deletion (`rtnl_fill_ifinfo()` in net/core/rtnetlink.c).
const IFLA_NEW_NETNSID: u16 = 45;
/// The most bytes of one datagram; the kernel announces links one by one, in less.
const MAX_DATAGRAM: usize = 32 * 1024;
/// How many datagrams are taken at once, so that a busy host keeps nobody from other work.
const MAX_DATAGRAMS_PER_TURN: usize = 256;
/// How many turns of announcements of links are heard before a link is told to be gone: more than a socket's buffer has.
const MAX_TURNS: usize = 64;

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
    /// Whether each link that is followed has left, or may have, unheard.
    left: BTreeMap<u32, bool>,
    /// What was heard of links and not taken yet.
    heard: Changed,
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
        Ok(Self { links, filters, left: BTreeMap::new(), heard: Changed::default() })
    }

    /// What to poll for reading.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.links), self.filters.as_ref()].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Whether [`take`](Self::take) has something that no descriptor shows any more.
    pub fn is_waiting(&self) -> bool {
        self.heard != Changed::default()
    }

    /// Takes what was announced, without waiting.
    ///
    /// # Errors
    /// When a socket fails, which is not expected.
    pub fn take(&mut self) -> io::Result<Changed> {
        self.hear_links()?;
        let mut changed = std::mem::take(&mut self.heard);
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

    /// Follows a link that was seen here after the subscription.
    pub fn follow(&mut self, link: u32) {
        self.left.entry(link).or_insert(false);
        self.hear_or_doubt();
    }

    /// A link was seen here, or deleted where it was: not to find it here is no question until more is heard of it.
    pub fn settle(&mut self, link: u32) {
        self.left.insert(link, false);
    }

    /// Follows a link no longer.
    pub fn forget(&mut self, link: u32) {
        self.left.remove(&link);
    }

    /// Whether a link that is not here may be elsewhere: it left, or nobody heard how it went.
    pub fn may_be_elsewhere(&mut self, link: u32) -> bool {
        self.hear_or_doubt();
        self.left.get(&link).copied().unwrap_or(true)
    }

    fn hear_or_doubt(&mut self) {
        if self.hear_links().is_err() {
            self.doubt();
        }
    }

    /// Any link that is followed may have left unheard. Those that are here yet are seen here.
    fn doubt(&mut self) {
        self.left.values_mut().for_each(|left| *left = true);
    }

    /// Hears what was announced of links.
    fn hear_links(&mut self) -> io::Result<()> {
        let Self { left, heard, .. } = self;
        let mut drained = Drained::default();
        for _ in 0..MAX_TURNS {
            let turn = drain(&self.links, |kind, payload| {
                // `struct ifinfomsg`: family, type, index.
                let Some(link) = u32_at(payload, 4).filter(|_| matches!(kind, RTM_NEWLINK | RTM_DELLINK))
                else {
                    return;
                };
                if heard.links.last() != Some(&link) {
                    heard.links.push(link);
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
            heard.lost = true;
            self.doubt();
        }
        Ok(())
    }
}

fn join(protocol: isize, group: u32) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    socket.add_membership(group)?;
    Ok(socket)
}

/// What a turn of [`drain`] left behind.
#[derive(Debug, Clone, Copy, Default)]
struct Drained {
    /// The kernel dropped messages.
    lost: bool,
    /// More are waiting than are taken in one turn.
    more: bool,
}

/// Gives each waiting message, up to a bound.
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
