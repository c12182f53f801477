//! The rules of one interface's filter, in the kernel's terms: chains, matches of fields, verdicts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use taptrail_record::MacAddr;

/// The rules of both directions. A frame that no rule decides on passes.
///
/// A ledger keeps them by serde: variants and fields may be added, and none is renamed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// For frames that the guest sends.
    pub from_guest: Vec<Chain>,
    /// For frames that the guest receives.
    pub to_guest: Vec<Chain>,
}

impl Rules {
    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.from_guest.iter().chain(&self.to_guest).map(|chain| chain.rules.len()).sum()
    }
}

/// Rules that are tried one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its name, unique in the filter: letters, digits, `-` and `_`, first a letter.
    pub name: String,
    /// Its place among the direction's entry chains, lowest first; `None` for a chain that is only
    /// jumped to.
    pub entry: Option<i32>,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// A verdict on the frames that have all matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What a frame must have; nothing: every frame.
    pub matches: Vec<Match>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It passes the entry chain; later entry chains have their say.
    Accept,
    /// It is dropped.
    Drop,
    /// The chain that jumped here goes on with its next rule.
    Return,
    /// The chain of this name is tried.
    Jump(String),
}

/// A field that has, or does not have, a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The field.
    pub field: Field,
    /// The field must not have the value.
    pub negated: bool,
    /// The value.
    pub value: Value,
}

impl Match {
    /// The field has this value.
    pub fn is(field: Field, value: Value) -> Self {
        Self { field, negated: false, value }
    }

    /// The field does not have this value.
    pub fn is_not(field: Field, value: Value) -> Self {
        Self { field, negated: true, value }
    }
}

/// A field of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of their protocols, by their names there")]
pub enum Field {
    /// The protocol of the frame; of the frame in a VLAN tag, where the kernel has removed that.
    Protocol,
    EtherDestination,
    EtherSource,
    /// The ethertype as it is on the wire: with a VLAN tag, that tag's.
    EtherType,
    ArpHardware,
    ArpProtocol,
    ArpOperation,
    ArpSourceMac,
    ArpSourceIp,
    ArpTargetMac,
    ArpTargetIp,
    IpDscp,
    IpProtocol,
    IpSource,
    IpDestination,
    Ip6Length,
    Ip6Source,
    Ip6Destination,
    /// The protocol behind the IP header and its extensions.
    L4Protocol,
    SourcePort(Ports),
    DestinationPort(Ports),
    IcmpType,
    IcmpCode,
    Icmpv6Type,
    Icmpv6Code,
    /// Bits by their place.
    Raw {
        base: Base,
        /// In bits, from the header's first.
        offset: u16,
        bits: u16,
    },
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the protocols' names")]
pub enum Ports {
    Tcp,
    Udp,
    UdpLite,
    Sctp,
}

/// Where a raw field is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Base {
    /// The Ethernet header, with a VLAN tag where the frame has one.
    Ethernet,
    /// The header after Ethernet's.
    Network,
    /// The header after IP's.
    Transport,
}

/// What a field is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// A number.
    Number(u128),
    /// A number between two, both included.
    Numbers(u32, u32),
    /// A number, of which only the bits of a mask count.
    MaskedNumber {
        /// The bits that count.
        mask: u64,
        /// Their value.
        number: u64,
    },
    /// A MAC.
    Mac(MacAddr),
    /// A MAC, of which only the bits of a mask count.
    MaskedMac {
        /// The bits that count.
        mask: MacAddr,
        /// Their value.
        mac: MacAddr,
    },
    /// An address.
    Address(IpAddr),
    /// A network: its address, without bits beyond the prefix, and the prefix's length, shorter
    /// than an address.
    Network(IpAddr, u8),
    /// An IPv4 address, of which only the bits of a mask count.
    MaskedAddress {
        /// The bits that count.
        mask: Ipv4Addr,
        /// Their value.
        address: Ipv4Addr,
    },
    /// An address between two, both included.
    Addresses(IpAddr, IpAddr),
}

impl Value {
    /// The value of a raw field.
    pub(super) fn number(&self) -> Option<u128> {
        Some(match self {
            Self::Number(number) => *number,
            Self::Mac(mac) => mac.0.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)),
            Self::Address(IpAddr::V4(address)) => address.to_bits().into(),
            Self::Address(IpAddr::V6(address)) => address.to_bits(),
            _ => return None,
        })
    }

    /// A network, or an address where the prefix is all of it.
    pub fn network(address: IpAddr, prefix: u8) -> Option<Self> {
        let keep = |bits: u128, width: u32| {
            let host = width.checked_sub(prefix.into())?;
            Some(if host == 128 { 0 } else { bits >> host << host })
        };
        let (masked, width) = match address {
            IpAddr::V4(address) => {
                let bits = keep(address.to_bits().into(), 32)?;
                (IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).ok()?)), 32)
            }
            IpAddr::V6(address) => (IpAddr::V6(Ipv6Addr::from_bits(keep(address.to_bits(), 128)?)), 128),
        };
        Some(if prefix == width { Self::Address(address) } else { Self::Network(masked, prefix) })
    }
}
