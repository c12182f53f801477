//! Network links by rtnetlink: find, create, set, delete.
//!
//! A [`Links`] is one socket in the network namespace of the thread that opened it. Each call is
//! one request with its acknowledgement; nothing is cached.
//!
//! ```no_run
//! use taptrail_kernel::link::{Change, Links};
//!
//! let mut links = Links::open()?;
//! if let (Some(tap), Some(bridge)) = (links.find(&"vnet0".parse()?)?, links.find(&"br0".parse()?)?) {
//!     links.configure(tap.index, &Change { master: Some(bridge.index), up: Some(true), ..Change::default() })?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod address;
pub(crate) mod answer;
mod bandwidth;
mod coalesce;
mod error;
mod identity;
mod macvtap;
mod port;
mod socket;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};
use rustix::io::Errno;
use taptrail_record::{IfName, MacAddr};

pub use address::{HostAddress, HostRoute};
pub use bandwidth::Bandwidth;
pub use error::LinkError;
pub use identity::PlacedLink;
pub use macvtap::{MacvtapMode, MacvtapName, NewMacvtap};
pub use port::PortVlans;
use socket::{Failed, RouteSocket};

use crate::sysfs::Sysfs;

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its ifindex, unique in its network namespace.
    pub index: u32,
    /// Its main name, also if it was found by an alternative one.
    pub name: String,
    /// Its alias: a text of at most 255 bytes without a meaning for the kernel (`ip link set …
    /// alias`). It stays with the link when that is renamed or moved.
    pub alias: Option<String>,
    /// The driver's kind: `bridge`, `tun` (a tap, too), `macvtap`, `veth`; hardware has none.
    pub kind: Option<String>,
    /// Its Ethernet address, if it has one of six bytes.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up (`IFF_UP`), whatever its carrier state.
    pub up: bool,
    /// The ifindex of its bridge.
    pub master: Option<u32>,
    /// The ifindex of its lower link; for a veth, of its peer.
    pub lower: Option<u32>,
    /// The state of a link of kind `tun`.
    pub tun: Option<TunInfo>,
    /// Whether a bridge filters VLANs; `None` for other links and for kernels without VLAN
    /// filtering.
    pub vlan_filtering: Option<bool>,
    /// Whether it is a bridge's port that is isolated from other such ports.
    pub isolated: bool,
}

/// The state of a tun or tap link (`tun_fill_info()` in drivers/net/tun.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunInfo {
    /// Whether it carries Ethernet frames; else it is a tun and carries IP packets.
    pub tap: bool,
    /// Whether it accepts several queues, with the flag `IFF_MULTI_QUEUE` only.
    pub multi_queue: bool,
    /// Whether it exists without descriptors.
    pub persistent: bool,
    /// The user who may attach to it without `CAP_NET_ADMIN`; any user, if there is no owner and no
    /// group.
    pub owner: Option<u32>,
    /// The group whose members may attach to it without `CAP_NET_ADMIN`.
    pub group: Option<u32>,
    /// The number of open files attached to it, wherever their descriptors are: also in flight on a
    /// socket, registered with io_uring, or disabled by `TUNSETQUEUE`. None for a tap with one
    /// queue, which the kernel does not count: see [`Links::tap_is_attached`].
    pub queues: Option<u32>,
}

impl TunInfo {
    /// Whether a process of this user and these groups can attach to it without `CAP_NET_ADMIN`
    /// (`tun_not_capable()` in drivers/net/tun.c).
    pub fn admits(&self, uid: u32, groups: &[u32]) -> bool {
        self.owner.is_none_or(|owner| owner == uid) && self.group.is_none_or(|group| groups.contains(&group))
    }
}

/// Settings of a link to change together; `None` does not change one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// The ifindex of its bridge; 0 for none.
    pub master: Option<u32>,
    /// Up or down.
    pub up: Option<bool>,
}

/// An rtnetlink socket for the links of one network namespace.
#[derive(Debug)]
pub struct Links {
    socket: RouteSocket,
    sysfs: Sysfs,
}

impl Links {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// [`LinkError::Socket`] if the kernel refuses the socket.
    pub fn open() -> Result<Self, LinkError> {
        Ok(Self { socket: RouteSocket::open()?, sysfs: Sysfs::open() })
    }

    /// Finds a link by name, or by one of its alternative names.
    ///
    /// # Errors
    ///
    /// The request fails, or the reply can't be parsed.
    pub fn find(&mut self, name: &IfName) -> Result<Option<Link>, LinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        self.get(message, || quoted(name.as_str()))
    }

    /// Finds a link by its ifindex.
    ///
    /// # Errors
    ///
    /// The request fails, or the reply can't be parsed.
    pub fn by_index(&mut self, index: u32) -> Result<Option<Link>, LinkError> {
        self.get(numbered(index), || number(index))
    }

    /// All links, in the order of their ifindexes.
    ///
    /// # Errors
    ///
    /// The request fails, or the reply can't be parsed.
    pub fn all(&mut self) -> Result<Vec<Link>, LinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.socket.dump(&RouteNetlinkMessage::GetLink(message)) {
            Ok(answers) => answers.iter().map(|payload| answer::read(payload)).collect(),
            Err(failed) => Err(failure(failed, "list them", "of any name".to_owned())),
        }
    }

    fn get(
        &mut self,
        mut message: LinkMessage,
        link: impl Fn() -> String,
    ) -> Result<Option<Link>, LinkError> {
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.socket.request(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => match answers.first() {
                Some(payload) => answer::read(payload).map(Some),
                None => Err(LinkError::Answer { what: format!("link {} is not described", link()) }),
            },
            Err(Failed::Refused(refusal)) if refusal.errno == Errno::NODEV => Ok(None),
            Err(failed) => Err(failure(failed, "describe it", link())),
        }
    }

    /// Changes several settings by one request.
    ///
    /// The kernel changes one after the other (`do_setlink()` in net/core/rtnetlink.c) and stops at
    /// the first that it refuses: earlier ones stay changed.
    ///
    /// # Errors
    ///
    /// There is no such link, or the kernel refuses.
    pub fn configure(&mut self, index: u32, change: &Change) -> Result<(), LinkError> {
        let operation = match change {
            Change { mac: Some(_), mtu: None, master: None, up: None } => "set its MAC",
            Change { mac: None, mtu: Some(_), master: None, up: None } => "set its MTU",
            Change { mac: None, mtu: None, master: Some(0), up: None } => "take it from its bridge",
            Change { mac: None, mtu: None, master: Some(_), up: None } => "make it a bridge's port",
            Change { mac: None, mtu: None, master: None, up: Some(true) } => "set it up",
            Change { mac: None, mtu: None, master: None, up: Some(false) } => "set it down",
            _ => "configure it",
        };
        let mut message = numbered(index);
        if let Some(mac) = change.mac {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        }
        if let Some(mtu) = change.mtu {
            message.attributes.push(LinkAttribute::Mtu(mtu));
        }
        if let Some(master) = change.master {
            message.attributes.push(LinkAttribute::Controller(master));
        }
        if let Some(up) = change.up {
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
            message.header.change_mask = LinkFlags::Up;
        }
        self.change(index, RouteNetlinkMessage::SetLink(message), operation)
    }

    /// Sets a link's Ethernet address.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn set_mac(&mut self, index: u32, mac: MacAddr) -> Result<(), LinkError> {
        self.configure(index, &Change { mac: Some(mac), ..Change::default() })
    }

    /// Sets a link's MTU, in bytes.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), LinkError> {
        self.configure(index, &Change { mtu: Some(mtu), ..Change::default() })
    }

    /// Sets a link up, or down.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), LinkError> {
        self.configure(index, &Change { up: Some(up), ..Change::default() })
    }

    /// Makes a link a port of the bridge with this ifindex; 0 removes it from its bridge.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn set_master(&mut self, index: u32, bridge: u32) -> Result<(), LinkError> {
        self.configure(index, &Change { master: Some(bridge), ..Change::default() })
    }

    /// Whether an open file is attached to a tap, wherever its descriptors are; none if there is no
    /// such link, or it is not a tap.
    ///
    /// For a tap with several queues, the kernel reports their number. For one with a single queue,
    /// it refuses to switch the carrier on if no file is attached (`tun_net_change_carrier()` in
    /// drivers/net/tun.c). If a holder had switched the carrier off, this switches it on.
    ///
    /// # Errors
    ///
    /// The kernel refuses for another reason.
    pub fn tap_is_attached(&mut self, index: u32) -> Result<Option<bool>, LinkError> {
        let Some(tun) = self.by_index(index)?.and_then(|link| link.tun) else { return Ok(None) };
        if let Some(queues) = tun.queues {
            return Ok(Some(queues > 0));
        }
        let mut message = numbered(index);
        message.attributes.push(LinkAttribute::Carrier(1));
        match self.socket.request(RouteNetlinkMessage::SetLink(message), 0) {
            Ok(_) => Ok(Some(true)),
            Err(Failed::Refused(refusal)) if refusal.errno == Errno::PERM => {
                // Without CAP_NET_ADMIN, the kernel refuses every request in this way. A request
                // that changes nothing distinguishes the two cases.
                match self.socket.request(RouteNetlinkMessage::SetLink(numbered(index)), 0) {
                    Ok(_) => Ok(Some(false)),
                    Err(Failed::Refused(refusal)) if refusal.errno == Errno::NODEV => Ok(None),
                    Err(failed) => Err(failure(failed, "ask whether it is attached", number(index))),
                }
            }
            Err(Failed::Refused(refusal)) if refusal.errno == Errno::NODEV => Ok(None),
            Err(failed) => Err(failure(failed, "ask whether it is attached", number(index))),
        }
    }

    /// Sets a link's alias; an empty one removes it.
    ///
    /// # Errors
    ///
    /// There is no such link, or the kernel refuses: an alias has at most 255 bytes.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> Result<(), LinkError> {
        let mut message = numbered(index);
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.change(index, RouteNetlinkMessage::SetLink(message), "set its alias")
    }

    /// Deletes a link, even if its device is open.
    ///
    /// # Errors
    ///
    /// [`LinkError::Missing`] if there is none, or the kernel refuses.
    pub fn delete(&mut self, index: u32) -> Result<(), LinkError> {
        self.change(index, RouteNetlinkMessage::DelLink(numbered(index)), "delete it")
    }

    /// Sends a request that changes a link, and whose only reply is the acknowledgement.
    fn change(
        &mut self,
        index: u32,
        message: RouteNetlinkMessage,
        operation: &'static str,
    ) -> Result<(), LinkError> {
        self.request_change(index, message, 0, operation)
    }

    /// As [`change`](Self::change), of what is not there yet.
    fn create(
        &mut self,
        index: u32,
        message: RouteNetlinkMessage,
        operation: &'static str,
    ) -> Result<(), LinkError> {
        self.request_change(index, message, NLM_F_CREATE | NLM_F_EXCL, operation)
    }

    /// As [`change`](Self::change), with flags of the request.
    fn request_change(
        &mut self,
        index: u32,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &'static str,
    ) -> Result<(), LinkError> {
        match self.socket.request(message, flags) {
            Ok(_) => Ok(()),
            Err(failed) => {
                // The link's name is read only after a failure.
                let link = self.by_index(index).ok().flatten().map(|link| quoted(&link.name));
                Err(match (failed, link) {
                    // If the link exists, its new bridge is missing.
                    (Failed::Refused(refusal), None) if refusal.errno == Errno::NODEV => {
                        LinkError::Missing { link: number(index), operation }
                    }
                    (failed, link) => failure(failed, operation, link.unwrap_or_else(|| number(index))),
                })
            }
        }
    }
}

fn numbered(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn failure(failed: Failed, operation: &'static str, link: String) -> LinkError {
    match failed {
        Failed::Broken(error) => error,
        Failed::Refused(refusal) => {
            LinkError::Refused { link, operation, reason: refusal.reason, source: refusal.errno }
        }
    }
}

fn quoted(name: &str) -> String {
    format!("'{name}'")
}

fn number(index: u32) -> String {
    format!("number {index}")
}
