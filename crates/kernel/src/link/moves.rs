//! Which links have left our network namespace: the kernel announces a move as it does a deletion, and
//! says with it that the link goes on elsewhere.

use std::collections::BTreeMap;
use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::changes::{RTM_DELLINK, RTNLGRP_LINK, drain, join};
use crate::netlink::{attribute, u32_at};

/// Bytes of `struct ifinfomsg`, with the link's number at 4.
const IFINFOMSG: usize = 16;
/// `IFLA_NEW_NETNSID` (linux/if_link.h): of a move, and of no deletion (`rtnl_fill_ifinfo()` in
/// net/core/rtnetlink.c).
const IFLA_NEW_NETNSID: u16 = 45;

/// How many turns of announcements are heard at once: more than a socket's buffer has.
const MAX_TURNS: usize = 64;

/// What is announced of the links that are followed.
pub struct Moves {
    socket: Socket,
    /// Whether each link that is followed has left, or may have, unheard.
    left: BTreeMap<u32, bool>,
}

impl std::fmt::Debug for Moves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moves").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Moves {
    /// Subscribes, in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses the socket, or membership in the group of links.
    pub fn subscribe() -> io::Result<Self> {
        Ok(Self { socket: join(NETLINK_ROUTE, RTNLGRP_LINK)?, left: BTreeMap::new() })
    }

    /// Follows a link that was seen here after the subscription.
    pub fn follow(&mut self, link: u32) {
        self.left.entry(link).or_insert(false);
        self.hear();
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
        self.hear();
        self.left.get(&link).copied().unwrap_or(true)
    }

    /// Hears what was announced, so that nothing is lost of what comes.
    pub fn hear(&mut self) {
        let left = &mut self.left;
        let (mut is_heard, mut is_lost) = (false, false);
        for _ in 0..MAX_TURNS {
            let Ok(drained) = drain(&self.socket, |kind, payload| {
                let moved = kind == RTM_DELLINK
                    && payload
                        .get(IFINFOMSG..)
                        .is_some_and(|attributes| attribute(attributes, IFLA_NEW_NETNSID).is_some());
                if moved && let Some(left) = u32_at(payload, 4).and_then(|link| left.get_mut(&link)) {
                    *left = true;
                }
            }) else {
                is_heard = false;
                break;
            };
            is_lost |= drained.lost;
            is_heard = !is_lost && !drained.more;
            if !drained.more {
                break;
            }
        }
        // Those that are here yet are seen here.
        if !is_heard {
            left.values_mut().for_each(|left| *left = true);
        }
    }
}
