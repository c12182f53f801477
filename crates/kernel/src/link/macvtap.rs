use std::fmt;
use std::str::FromStr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoMacVtap, LinkAttribute, LinkInfo};
use rustix::io::Errno;
use taptrail_record::{IfName, MacAddr, Rdev};

use super::socket::Failed;
use super::{Link, LinkError, Links, failure, numbered, quoted};
use crate::sysfs;

/// How macvtaps on one lower link communicate with each other (`ip link` manual, MACVLAN and
/// MACVTAP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MacvtapMode {
    /// They communicate directly.
    #[default]
    Bridge,
    /// Through the external switch, if it sends frames back to their port (hairpin mode).
    Vepa,
    /// Not at all.
    Private,
    /// There is only one macvtap; the lower link takes its MAC while it exists.
    Passthru,
}

impl MacvtapMode {
    /// The mode as `ip link` and configuration files spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Vepa => "vepa",
            Self::Private => "private",
            Self::Passthru => "passthru",
        }
    }

    fn to_kernel(self) -> netlink_packet_route::link::MacVtapMode {
        use netlink_packet_route::link::MacVtapMode as Kernel;
        match self {
            Self::Bridge => Kernel::Bridge,
            Self::Vepa => Kernel::Vepa,
            Self::Private => Kernel::Private,
            Self::Passthru => Kernel::Passthrough,
        }
    }
}

/// The text is not a macvtap's mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a macvtap's mode: bridge, vepa, private or passthru is needed")]
pub struct MacvtapModeError(String);

impl FromStr for MacvtapMode {
    type Err = MacvtapModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "bridge" => Ok(Self::Bridge),
            "vepa" => Ok(Self::Vepa),
            "private" => Ok(Self::Private),
            "passthru" => Ok(Self::Passthru),
            _ => Err(MacvtapModeError(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for MacvtapMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name of a new macvtap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MacvtapName {
    /// The first free name of a pattern with `%d`, such as `macvtap%d`.
    Pattern(String),
    /// This name, which no link may have.
    New(IfName),
}

/// A macvtap to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMacvtap {
    /// The name to give to the macvtap.
    pub name: MacvtapName,
    /// The ifindex of its lower link.
    pub lower_index: u32,
    /// How it communicates with other macvtaps.
    pub mode: MacvtapMode,
    /// Its Ethernet address, which is the guest's.
    pub mac: MacAddr,
    /// Its MTU in bytes; the lower link's when not given, and never more than that.
    pub mtu: Option<u32>,
}

/// How often another ifindex is tried for a macvtap whose node is in use.
const MAX_IFINDEX_ATTEMPTS: u32 = 16;
/// How many names of a pattern are tried before giving up.
const MAX_NAME_ATTEMPTS: u32 = 10_000;

impl Links {
    /// Creates a macvtap, down. Its node `/dev/tapN` appears some time later.
    ///
    /// An existing link is never reused: a name in use is [`LinkError::Exists`]. If the node of its
    /// ifindex belongs to a macvtap of another network namespace, it gets another ifindex, because
    /// it could not be opened.
    ///
    /// # Errors
    ///
    /// The name is in use or invalid, or the kernel refuses.
    pub fn create_macvtap(&mut self, new: &NewMacvtap) -> Result<Link, LinkError> {
        match &new.name {
            MacvtapName::New(name) => self.create_named(new, name),
            // The kernel could choose the name, but kernels before 6.2 do not report their choice
            // (NLM_F_ECHO); refusing a name in use takes microseconds.
            MacvtapName::Pattern(pattern) => {
                for number in 0..MAX_NAME_ATTEMPTS {
                    match self.create_named(new, &expand(pattern, number)?) {
                        Err(LinkError::Exists { .. }) => {}
                        done => return done,
                    }
                }
                Err(LinkError::Exists { name: pattern.clone() })
            }
        }
    }

    /// The device number of a macvtap, which its node `/dev/tapN` must have; `None` if there is no
    /// such macvtap, or no sysfs.
    pub fn macvtap_rdev(&self, ifname: &IfName, ifindex: u32) -> Option<Rdev> {
        self.sysfs.macvtap_rdev(ifname, ifindex)
    }

    fn create_named(&mut self, new: &NewMacvtap, name: &IfName) -> Result<Link, LinkError> {
        let mut link = self.create_numbered(new, name, 0)?;
        for _ in 0..MAX_IFINDEX_ATTEMPTS {
            if !self.sysfs.macvtap_node_is_taken(name, link.index) {
                break;
            }
            self.delete(link.index)?;
            let free = self.free_number(link.index)?;
            link = self.create_numbered(new, name, free)?;
        }
        if link.mac == Some(new.mac) {
            return Ok(link);
        }
        // A passthru macvtap always starts with the lower link's address. Setting its address also
        // sets the lower link's; the kernel restores that when the macvtap is deleted
        // (macvlan_set_mac_address() and macvlan_port_destroy() in drivers/net/macvlan.c).
        match self.set_mac(link.index, new.mac) {
            Ok(()) => Ok(Link { mac: Some(new.mac), ..link }),
            Err(error) => {
                // This error is more important than a failed deletion.
                let _ = self.delete(link.index);
                Err(error)
            }
        }
    }

    /// Creates it with the given ifindex; with 0, the kernel chooses it.
    fn create_numbered(&mut self, new: &NewMacvtap, name: &IfName, index: u32) -> Result<Link, LinkError> {
        let mut message = numbered(index);
        message.attributes = vec![
            LinkAttribute::IfName(name.to_string()),
            LinkAttribute::Link(new.lower_index),
            LinkAttribute::Address(new.mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVtap),
                LinkInfo::Data(InfoData::MacVtap(vec![InfoMacVtap::Mode(new.mode.to_kernel())])),
            ]),
        ];
        message.attributes.extend(new.mtu.map(LinkAttribute::Mtu));
        match self.socket.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => self
                .find(name)?
                .ok_or_else(|| LinkError::Missing { link: quoted(name.as_str()), operation: "describe it" }),
            Err(Failed::Refused(refusal)) if refusal.errno == Errno::EXIST => {
                Err(LinkError::Exists { name: name.to_string() })
            }
            Err(failed) => Err(failure(failed, "create this macvtap", quoted(name.as_str()))),
        }
    }

    /// The next ifindex that neither a link here nor a macvtap's node has.
    fn free_number(&mut self, after: u32) -> Result<u32, LinkError> {
        let mut number = after;
        loop {
            number += 1;
            if !sysfs::macvtap_node(number).exists() && self.by_index(number)?.is_none() {
                return Ok(number);
            }
        }
    }
}

fn expand(pattern: &str, number: u32) -> Result<IfName, LinkError> {
    let refuse = || LinkError::Pattern { pattern: pattern.to_owned() };
    let (head, tail) = pattern.split_once("%d").ok_or_else(refuse)?;
    format!("{head}{number}{tail}").parse().map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_expanded_once() {
        assert_eq!(expand("macvtap%d", 12).unwrap().as_str(), "macvtap12");
        assert_eq!(expand("t%dx", 0).unwrap().as_str(), "t0x");
        for pattern in ["macvtap", "macvtap%d%d", "%s", "a/%d", "averylongnames-%d0"] {
            assert!(expand(pattern, 1).is_err(), "{pattern}");
        }
    }
}
