//! The protocols and attributes of rules, under libvirt's names: where each stands in a frame, and
//! what it takes.

use std::str::FromStr;

use taptrail_kernel::filter::{Base, Field, Ports};

/// A protocol that a rule can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Mac,
    Vlan,
    Stp,
    Arp,
    Rarp,
    Ip,
    Ipv6,
    /// A protocol above IP, which libvirt leaves to iptables: its rules have their say after the
    /// others.
    Transport(Transport),
}

/// A protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transport {
    /// Above IPv6; else above IPv4.
    pub(crate) v6: bool,
    /// Its number; `None` for all.
    pub(crate) number: Option<u8>,
}

/// The number of ICMPv6.
pub(crate) const ICMPV6: u8 = 58;

/// libvirt's names of protocols above IP; all but ICMP's have one with `-ipv6`, too.
const TRANSPORTS: [(&str, Option<u8>); 9] = [
    ("all", None),
    ("tcp", Some(6)),
    ("udp", Some(17)),
    ("udplite", Some(136)),
    ("sctp", Some(132)),
    ("esp", Some(50)),
    ("ah", Some(51)),
    ("icmp", Some(1)),
    ("igmp", Some(2)),
];

impl Protocol {
    /// The protocol as it is written.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        let lower = ["mac", "vlan", "stp", "arp", "rarp", "ip", "ipv6", "icmpv6"];
        let v6 = ["all-ipv6", "tcp-ipv6", "udp-ipv6", "udplite-ipv6", "sctp-ipv6", "esp-ipv6", "ah-ipv6"];
        lower.into_iter().chain(TRANSPORTS.iter().map(|(name, _)| *name)).chain(v6)
    }

    /// The number that is in a frame's ethertype, where the protocol has one.
    pub(crate) fn ethertype(self) -> Option<u16> {
        match self {
            Self::Mac | Self::Stp => None,
            Self::Vlan => Some(0x8100),
            Self::Arp => Some(0x0806),
            Self::Rarp => Some(0x8035),
            Self::Ip | Self::Transport(Transport { v6: false, .. }) => Some(0x0800),
            Self::Ipv6 | Self::Transport(Transport { v6: true, .. }) => Some(0x86DD),
        }
    }

    /// Whether one of its rules can have an attribute for which `of` says so.
    fn is(self, of: For) -> bool {
        match of {
            For::MacTarget => !matches!(self, Self::Transport(_) | Self::Stp | Self::Vlan),
            // Beside MACs, nft lists a tag's fields in other words than those that set them.
            For::MacSource => self != Self::Vlan,
            For::Protocols(protocols) => protocols.contains(&self),
            For::Ip4 => matches!(self, Self::Ip | Self::Transport(Transport { v6: false, .. })),
            For::Ip6 => matches!(self, Self::Ipv6 | Self::Transport(Transport { v6: true, .. })),
            For::TransportOf { v6 } => matches!(self, Self::Transport(of) if of.v6 == v6),
            For::Ports => {
                matches!(self, Self::Ip | Self::Ipv6)
                    || matches!(self, Self::Transport(Transport { number: Some(number), .. }) if ports(number).is_some())
            }
            For::Icmp => matches!(self, Self::Transport(Transport { number: Some(1), .. })),
            For::Icmpv6 => {
                self == Self::Ipv6 || matches!(self, Self::Transport(Transport { number: Some(ICMPV6), .. }))
            }
        }
    }
}

impl FromStr for Protocol {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "mac" => Self::Mac,
            "vlan" => Self::Vlan,
            "stp" => Self::Stp,
            "arp" => Self::Arp,
            "rarp" => Self::Rarp,
            "ip" => Self::Ip,
            "ipv6" => Self::Ipv6,
            "icmpv6" => Self::Transport(Transport { v6: true, number: Some(ICMPV6) }),
            text => {
                let (name, v6) = text.strip_suffix("-ipv6").map_or((text, false), |name| (name, true));
                let found = TRANSPORTS.iter().find(|(known, _)| *known == name).ok_or(())?;
                if v6 && matches!(found.1, Some(1 | 2)) {
                    return Err(());
                }
                Self::Transport(Transport { v6, number: found.1 })
            }
        })
    }
}

/// The kernel's name of a protocol with ports.
pub(crate) fn ports(number: u8) -> Option<Ports> {
    Some(match number {
        6 => Ports::Tcp,
        17 => Ports::Udp,
        132 => Ports::Sctp,
        136 => Ports::UdpLite,
        _ => return None,
    })
}

/// Which protocols have an attribute.
#[derive(Debug, Clone, Copy)]
enum For {
    /// All below those above IP, but VLAN, and STP, which has one destination.
    MacTarget,
    /// All but VLAN.
    MacSource,
    Protocols(&'static [Protocol]),
    Ip4,
    Ip6,
    /// All above this version of IP.
    TransportOf {
        v6: bool,
    },
    Ports,
    Icmp,
    Icmpv6,
}

/// Which part of a comparison an attribute is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The value, or the first of a range.
    Value,
    /// The last of a range.
    End,
    /// Which bits of the value count.
    Mask,
}

/// What an attribute takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mac,
    Ipv4,
    Ipv6,
    /// A number up to `max`, or one of the names.
    Number {
        max: u32,
        names: &'static [(&'static str, u32)],
    },
}

/// An attribute of a protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute {
    pub(crate) name: &'static str,
    of: For,
    /// Its field, where the guest is the sender as the rule has it.
    pub(crate) field: Field,
    /// Its field in the other direction of an `inout` rule.
    pub(crate) reversed: Field,
    pub(crate) part: Part,
    pub(crate) kind: Kind,
}

impl Attribute {
    /// The attribute of this name that rules of a protocol have.
    pub(crate) fn find(protocol: Protocol, name: &str) -> Option<&'static Self> {
        ATTRIBUTES.iter().find(|attribute| attribute.name == name && protocol.is(attribute.of))
    }

    /// The attributes that rules of a protocol have.
    pub(crate) fn all(protocol: Protocol) -> impl Iterator<Item = &'static str> {
        ATTRIBUTES.iter().filter(move |attribute| protocol.is(attribute.of)).map(|attribute| attribute.name)
    }
}

/// Attributes of libvirt's that can't be used, each with the reason.
pub(crate) fn why_not(name: &str) -> Option<&'static str> {
    Some(match name {
        "gratuitous" => "nftables can't compare two fields of an ARP packet: compare each with an address",
        "connlimit-above" => "interfaces have no connection tracking in nftables (family netdev)",
        "ipset" | "ipsetflags" => {
            "sets of iptables can't be used by nftables: list the addresses in a variable"
        }
        "option" | "flags" => "TCP's flags and options are not supported: leave the attribute out",
        _ => return None,
    })
}

const ETHERTYPES: &[(&str, u32)] = &[("arp", 0x0806), ("rarp", 0x8035), ("ipv4", 0x0800), ("ipv6", 0x86DD)];
const OPCODES: &[(&str, u32)] = &[
    ("Request", 1),
    ("Reply", 2),
    ("Request_Reverse", 3),
    ("Reply_Reverse", 4),
    ("DRARP_Request", 5),
    ("DRARP_Reply", 6),
    ("DRARP_Error", 7),
    ("InARP_Request", 8),
    ("ARP_NAK", 10),
];
const PROTOCOLS: &[(&str, u32)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
];

const U8: Kind = Kind::Number { max: 0xFF, names: &[] };
const U16: Kind = Kind::Number { max: 0xFFFF, names: &[] };
const U32: Kind = Kind::Number { max: u32::MAX, names: &[] };
const ETHERTYPE: Kind = Kind::Number { max: 0xFFFF, names: ETHERTYPES };
const OPCODE: Kind = Kind::Number { max: 0xFFFF, names: OPCODES };
const IP_PROTOCOL: Kind = Kind::Number { max: 0xFF, names: PROTOCOLS };

const fn raw(base: Base, offset: u16, bits: u16) -> Field {
    Field::Raw { base, offset, bits }
}

/// An attribute that is the same in both directions.
const fn same(name: &'static str, of: For, field: Field, part: Part, kind: Kind) -> Attribute {
    Attribute { name, of, field, reversed: field, part, kind }
}

/// An attribute of the one side, which is the other's in the other direction.
const fn side(name: &'static str, of: For, sides: (Field, Field), part: Part, kind: Kind) -> Attribute {
    Attribute { name, of, field: sides.0, reversed: sides.1, part, kind }
}

const ARP: For = For::Protocols(&[Protocol::Arp]);
const RARP: For = For::Protocols(&[Protocol::Rarp]);
const STP: For = For::Protocols(&[Protocol::Stp]);
const VLAN: For = For::Protocols(&[Protocol::Vlan]);
const IP: For = For::Protocols(&[Protocol::Ip]);
const IPV6: For = For::Protocols(&[Protocol::Ipv6]);

const MAC_SOURCE: (Field, Field) = (Field::EtherSource, Field::EtherDestination);
const MAC_TARGET: (Field, Field) = (Field::EtherDestination, Field::EtherSource);
const ARP_SOURCE: (Field, Field) = (Field::ArpSourceMac, Field::ArpTargetMac);
const ARP_TARGET: (Field, Field) = (Field::ArpTargetMac, Field::ArpSourceMac);
const ARP_SOURCE_IP: (Field, Field) = (Field::ArpSourceIp, Field::ArpTargetIp);
const ARP_TARGET_IP: (Field, Field) = (Field::ArpTargetIp, Field::ArpSourceIp);
const IP_SOURCE: (Field, Field) = (Field::IpSource, Field::IpDestination);
const IP_TARGET: (Field, Field) = (Field::IpDestination, Field::IpSource);
const IP6_SOURCE: (Field, Field) = (Field::Ip6Source, Field::Ip6Destination);
const IP6_TARGET: (Field, Field) = (Field::Ip6Destination, Field::Ip6Source);
const PORT_SOURCE: (Field, Field) = (Field::SourcePort(Ports::Udp), Field::DestinationPort(Ports::Udp));
const PORT_TARGET: (Field, Field) = (Field::DestinationPort(Ports::Udp), Field::SourcePort(Ports::Udp));
// RFC 903: an ARP packet under another ethertype, of which nftables knows no fields.
const RARP_SOURCE: (Field, Field) = (raw(Base::Network, 64, 48), raw(Base::Network, 144, 48));
const RARP_TARGET: (Field, Field) = (raw(Base::Network, 144, 48), raw(Base::Network, 64, 48));
const RARP_SOURCE_IP: (Field, Field) = (raw(Base::Network, 112, 32), raw(Base::Network, 192, 32));
const RARP_TARGET_IP: (Field, Field) = (raw(Base::Network, 192, 32), raw(Base::Network, 112, 32));
const VLAN_ID: Kind = Kind::Number { max: 0xFFF, names: &[] };
/// The tag's 16 bits, of which the lowest 12 are the id.
pub(crate) const VLAN_TAG: Field = raw(Base::Ethernet, 112, 16);
const DSCP: Kind = Kind::Number { max: 0x3F, names: &[] };

/// A field of a BPDU (IEEE 802.1D, 9.3), by its byte there: after Ethernet's 14 and LLC's 3 bytes.
const fn bpdu(byte: u16, bits: u16) -> Field {
    raw(Base::Ethernet, (17 + byte) * 8, bits)
}

static ATTRIBUTES: &[Attribute] = &[
    side("srcmacaddr", For::MacSource, MAC_SOURCE, Part::Value, Kind::Mac),
    side("srcmacmask", For::MacSource, MAC_SOURCE, Part::Mask, Kind::Mac),
    side("dstmacaddr", For::MacTarget, MAC_TARGET, Part::Value, Kind::Mac),
    side("dstmacmask", For::MacTarget, MAC_TARGET, Part::Mask, Kind::Mac),
    same("protocolid", For::Protocols(&[Protocol::Mac]), Field::EtherType, Part::Value, ETHERTYPE),
    same("vlanid", VLAN, VLAN_TAG, Part::Value, VLAN_ID),
    same("encap-protocol", VLAN, raw(Base::Ethernet, 128, 16), Part::Value, ETHERTYPE),
    same("type", STP, bpdu(3, 8), Part::Value, U8),
    same("flags", STP, bpdu(4, 8), Part::Value, U8),
    same("root-priority", STP, bpdu(5, 16), Part::Value, U16),
    same("root-priority-hi", STP, bpdu(5, 16), Part::End, U16),
    same("root-address", STP, bpdu(7, 48), Part::Value, Kind::Mac),
    same("root-address-mask", STP, bpdu(7, 48), Part::Mask, Kind::Mac),
    same("root-cost", STP, bpdu(13, 32), Part::Value, U32),
    same("root-cost-hi", STP, bpdu(13, 32), Part::End, U32),
    same("sender-priority", STP, bpdu(17, 16), Part::Value, U16),
    same("sender-priority-hi", STP, bpdu(17, 16), Part::End, U16),
    same("sender-address", STP, bpdu(19, 48), Part::Value, Kind::Mac),
    same("sender-address-mask", STP, bpdu(19, 48), Part::Mask, Kind::Mac),
    same("port", STP, bpdu(25, 16), Part::Value, U16),
    same("port-hi", STP, bpdu(25, 16), Part::End, U16),
    same("age", STP, bpdu(27, 16), Part::Value, U16),
    same("age-hi", STP, bpdu(27, 16), Part::End, U16),
    same("max-age", STP, bpdu(29, 16), Part::Value, U16),
    same("max-age-hi", STP, bpdu(29, 16), Part::End, U16),
    same("hello-time", STP, bpdu(31, 16), Part::Value, U16),
    same("hello-time-hi", STP, bpdu(31, 16), Part::End, U16),
    same("forward-delay", STP, bpdu(33, 16), Part::Value, U16),
    same("forward-delay-hi", STP, bpdu(33, 16), Part::End, U16),
    same("hwtype", ARP, Field::ArpHardware, Part::Value, U16),
    same("protocoltype", ARP, Field::ArpProtocol, Part::Value, U16),
    same("opcode", ARP, Field::ArpOperation, Part::Value, OPCODE),
    side("arpsrcmacaddr", ARP, ARP_SOURCE, Part::Value, Kind::Mac),
    side("arpdstmacaddr", ARP, ARP_TARGET, Part::Value, Kind::Mac),
    side("arpsrcipaddr", ARP, ARP_SOURCE_IP, Part::Value, Kind::Ipv4),
    side("arpsrcipmask", ARP, ARP_SOURCE_IP, Part::Mask, Kind::Ipv4),
    side("arpdstipaddr", ARP, ARP_TARGET_IP, Part::Value, Kind::Ipv4),
    side("arpdstipmask", ARP, ARP_TARGET_IP, Part::Mask, Kind::Ipv4),
    same("hwtype", RARP, raw(Base::Network, 0, 16), Part::Value, U16),
    same("protocoltype", RARP, raw(Base::Network, 16, 16), Part::Value, U16),
    same("opcode", RARP, raw(Base::Network, 48, 16), Part::Value, OPCODE),
    side("arpsrcmacaddr", RARP, RARP_SOURCE, Part::Value, Kind::Mac),
    side("arpdstmacaddr", RARP, RARP_TARGET, Part::Value, Kind::Mac),
    side("arpsrcipaddr", RARP, RARP_SOURCE_IP, Part::Value, Kind::Ipv4),
    side("arpdstipaddr", RARP, RARP_TARGET_IP, Part::Value, Kind::Ipv4),
    side("srcipaddr", For::Ip4, IP_SOURCE, Part::Value, Kind::Ipv4),
    side("srcipmask", For::Ip4, IP_SOURCE, Part::Mask, Kind::Ipv4),
    side("dstipaddr", For::Ip4, IP_TARGET, Part::Value, Kind::Ipv4),
    side("dstipmask", For::Ip4, IP_TARGET, Part::Mask, Kind::Ipv4),
    side("srcipfrom", For::TransportOf { v6: false }, IP_SOURCE, Part::Value, Kind::Ipv4),
    side("srcipto", For::TransportOf { v6: false }, IP_SOURCE, Part::End, Kind::Ipv4),
    side("dstipfrom", For::TransportOf { v6: false }, IP_TARGET, Part::Value, Kind::Ipv4),
    side("dstipto", For::TransportOf { v6: false }, IP_TARGET, Part::End, Kind::Ipv4),
    side("srcipaddr", For::Ip6, IP6_SOURCE, Part::Value, Kind::Ipv6),
    side("srcipmask", For::Ip6, IP6_SOURCE, Part::Mask, Kind::Ipv6),
    side("dstipaddr", For::Ip6, IP6_TARGET, Part::Value, Kind::Ipv6),
    side("dstipmask", For::Ip6, IP6_TARGET, Part::Mask, Kind::Ipv6),
    side("srcipfrom", For::TransportOf { v6: true }, IP6_SOURCE, Part::Value, Kind::Ipv6),
    side("srcipto", For::TransportOf { v6: true }, IP6_SOURCE, Part::End, Kind::Ipv6),
    side("dstipfrom", For::TransportOf { v6: true }, IP6_TARGET, Part::Value, Kind::Ipv6),
    side("dstipto", For::TransportOf { v6: true }, IP6_TARGET, Part::End, Kind::Ipv6),
    same("protocol", IP, Field::IpProtocol, Part::Value, IP_PROTOCOL),
    same("protocol", IPV6, Field::L4Protocol, Part::Value, IP_PROTOCOL),
    same("dscp", For::Ip4, Field::IpDscp, Part::Value, DSCP),
    side("srcportstart", For::Ports, PORT_SOURCE, Part::Value, U16),
    side("srcportend", For::Ports, PORT_SOURCE, Part::End, U16),
    side("dstportstart", For::Ports, PORT_TARGET, Part::Value, U16),
    side("dstportend", For::Ports, PORT_TARGET, Part::End, U16),
    same("type", For::Icmp, Field::IcmpType, Part::Value, U8),
    same("code", For::Icmp, Field::IcmpCode, Part::Value, U8),
    same("type", For::Icmpv6, Field::Icmpv6Type, Part::Value, U8),
    same("typeend", For::Icmpv6, Field::Icmpv6Type, Part::End, U8),
    same("code", For::Icmpv6, Field::Icmpv6Code, Part::Value, U8),
    same("codeend", For::Icmpv6, Field::Icmpv6Code, Part::End, U8),
    // Not libvirt's: neighbour discovery (RFC 4861, 4.1 to 4.4).
    same("length", IPV6, Field::Ip6Length, Part::Value, U16),
    same("nd-target", IPV6, raw(Base::Transport, 64, 128), Part::Value, Kind::Ipv6),
    same("nd-option", IPV6, raw(Base::Transport, 192, 16), Part::Value, ND_OPTION),
    same("nd-option-mac", IPV6, raw(Base::Transport, 208, 48), Part::Value, Kind::Mac),
    same("rs-option", IPV6, raw(Base::Transport, 64, 16), Part::Value, ND_OPTION),
    same("rs-option-mac", IPV6, raw(Base::Transport, 80, 48), Part::Value, Kind::Mac),
];

/// An option's type and its length of 8 bytes.
const ND_OPTION: Kind = Kind::Number {
    max: 0xFFFF,
    names: &[("source-link-address", 0x0101), ("target-link-address", 0x0201), ("nonce", 0x0E01)],
};
