//! Reads the frames by which an interface's addresses are learnt.
//!
//! Nothing in a frame is believed for being in it. A lease counts only in a frame on its way *to* the
//! guest, which the kernel says and no guest can claim; a release, and a first address, only in one
//! *from* it.

use std::net::Ipv4Addr;
use std::str::FromStr;

use etherparse::{ArpHardwareId, ArpPacketSlice, EtherType, Ethernet2HeaderSlice, Ipv4HeaderSlice, UdpSlice};
use serde::{Deserialize, Serialize};
use taptrail_record::MacAddr;

/// How an interface's addresses are learnt: libvirt's `CTRL_IP_LEARNING`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// From the leases that DHCP servers give to the guest.
    Dhcp,
    /// The first address from which the guest sends.
    Any,
}

impl Method {
    /// Both, in the order in which help names them.
    pub const ALL: [Self; 2] = [Self::Dhcp, Self::Any];

    /// The value of the key or the parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Any => "any",
        }
    }
}

impl FromStr for Method {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|method| method.as_str() == text).ok_or(())
    }
}

/// What a frame says about the guest's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sighting {
    /// A server gave the guest an address, or prolonged that.
    Lease {
        /// The address.
        address: Ipv4Addr,
        /// The IP address from which the answer came: a server's, or its relay's.
        server: Ipv4Addr,
        /// For how many seconds; `None` for ever.
        seconds: Option<u32>,
    },
    /// The guest gave an address up, or found that another host has it.
    Release {
        /// The address.
        address: Ipv4Addr,
    },
    /// The guest sent from this address.
    First {
        /// The address.
        address: Ipv4Addr,
    },
}

impl Sighting {
    /// The address.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Lease { address, .. } | Self::Release { address } | Self::First { address } => address,
        }
    }
}

/// Reads frames of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameReader {
    /// The guest's MAC.
    pub mac: MacAddr,
    /// What is looked for.
    pub method: Method,
    /// The servers that are believed; all, if there is none.
    pub servers: Vec<Ipv4Addr>,
}

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
const BROADCAST: [u8; 6] = [0xFF; 6];

// RFC 2131, figure 1: where the fields are that are read here, in bytes from the message's first.
const OP: usize = 0;
const HARDWARE_TYPE: usize = 1;
const HARDWARE_LENGTH: usize = 2;
const CLIENT_ADDRESS: usize = 12;
const YOUR_ADDRESS: usize = 16;
const HARDWARE_ADDRESS: usize = 28;
const COOKIE: usize = 236;
const OPTIONS: usize = 240;

const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];

// RFC 2132.
const PAD: u8 = 0;
const REQUESTED_ADDRESS: u8 = 50;
const LEASE_TIME: u8 = 51;
const MESSAGE_TYPE: u8 = 53;
const END: u8 = 255;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const RELEASE: u8 = 7;
/// A lease without end.
const INFINITE: u32 = u32::MAX;

impl FrameReader {
    /// What a frame says; `None` for one that says nothing, is malformed, or is not to be believed.
    pub fn read(&self, frame: &[u8], to_guest: bool) -> Option<Sighting> {
        let ethernet = Ethernet2HeaderSlice::from_slice(frame).ok()?;
        let packet = frame.get(ethernet.slice().len()..)?;
        let from_own_mac = ethernet.source() == self.mac.0;
        match (self.method, to_guest) {
            (Method::Dhcp, true) => {
                let is_for_guest = [self.mac.0, BROADCAST].contains(&ethernet.destination());
                // The guest's own frame, that came back: a server has another MAC.
                (is_for_guest && !from_own_mac).then(|| self.lease(ethernet.ether_type(), packet))?
            }
            (Method::Dhcp, false) => from_own_mac.then(|| self.release(ethernet.ether_type(), packet))?,
            (Method::Any, false) => from_own_mac.then(|| self.first(ethernet.ether_type(), packet))?,
            (Method::Any, true) => None,
        }
    }

    /// Whether it can say that of some frame.
    pub(super) fn can_say(&self, sighting: Sighting) -> bool {
        let is_of_method = match sighting {
            Sighting::Lease { server, .. } => self.method == Method::Dhcp && self.believes(server),
            Sighting::Release { .. } => self.method == Method::Dhcp,
            Sighting::First { .. } => self.method == Method::Any,
        };
        is_of_method && usable(sighting.address()).is_some()
    }

    fn believes(&self, server: Ipv4Addr) -> bool {
        self.servers.is_empty() || self.servers.contains(&server)
    }

    fn lease(&self, ether_type: EtherType, packet: &[u8]) -> Option<Sighting> {
        let (server, message) = udp(ether_type, packet, SERVER_PORT, CLIENT_PORT)?;
        let message = Message::read(message, BOOT_REPLY, self.mac)?;
        if message.kind != ACK || !self.believes(server) {
            return None;
        }
        // Without a lease time it answers DHCPINFORM, or is BOOTP.
        let seconds = message.lease_time.filter(|seconds| *seconds > 0)?;
        let address = usable(message.your_address)?;
        Some(Sighting::Lease { address, server, seconds: (seconds != INFINITE).then_some(seconds) })
    }

    fn release(&self, ether_type: EtherType, packet: &[u8]) -> Option<Sighting> {
        let (_, message) = udp(ether_type, packet, CLIENT_PORT, SERVER_PORT)?;
        let message = Message::read(message, BOOT_REQUEST, self.mac)?;
        let address = match message.kind {
            RELEASE => message.client_address,
            DECLINE => message.requested_address?,
            _ => return None,
        };
        Some(Sighting::Release { address: usable(address)? })
    }

    fn first(&self, ether_type: EtherType, packet: &[u8]) -> Option<Sighting> {
        let address = match ether_type {
            EtherType::IPV4 => Ipv4HeaderSlice::from_slice(packet).ok()?.source_addr(),
            EtherType::ARP => {
                let arp = ArpPacketSlice::from_slice(packet).ok()?;
                let is_ipv4 = arp.hw_addr_type() == ArpHardwareId::ETHERNET
                    && arp.proto_addr_type() == EtherType::IPV4
                    && arp.sender_hw_addr() == self.mac.0;
                let sender: [u8; 4] = arp.sender_protocol_addr().try_into().ok()?;
                is_ipv4.then(|| Ipv4Addr::from(sender))?
            }
            _ => return None,
        };
        // A guest that waits for DHCP takes a link-local one until then (RFC 3927).
        let address = usable(address).filter(|address| !address.is_link_local())?;
        Some(Sighting::First { address })
    }
}

/// An address that one host can have.
fn usable(address: Ipv4Addr) -> Option<Ipv4Addr> {
    let is_reserved = matches!(address.octets()[0], 0 | 127 | 224..);
    (!is_reserved).then_some(address)
}

/// The source and the payload of a datagram between these ports, in a packet without options that is
/// no fragment. What follows the packet is Ethernet's padding.
fn udp(ether_type: EtherType, packet: &[u8], source: u16, destination: u16) -> Option<(Ipv4Addr, &[u8])> {
    if ether_type != EtherType::IPV4 {
        return None;
    }
    let header = Ipv4HeaderSlice::from_slice(packet).ok()?;
    let is_plain = header.ihl() == 5 && !header.is_fragmenting_payload();
    if !is_plain || header.protocol() != etherparse::IpNumber::UDP {
        return None;
    }
    let datagram = packet.get(header.slice().len()..usize::from(header.total_len()))?;
    let datagram = UdpSlice::from_slice(datagram).ok()?;
    let ports = (datagram.source_port(), datagram.destination_port());
    (ports == (source, destination)).then(|| (header.source_addr(), datagram.payload()))
}

/// The parts of a DHCP message that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    kind: u8,
    client_address: Ipv4Addr,
    your_address: Ipv4Addr,
    requested_address: Option<Ipv4Addr>,
    lease_time: Option<u32>,
}

impl Message {
    /// Reads a message about the client of this MAC.
    fn read(bytes: &[u8], op: u8, client: MacAddr) -> Option<Self> {
        let has = |at: usize, expected: &[u8]| bytes.get(at..at + expected.len()) == Some(expected);
        let is_dhcp = has(OP, &[op])
            && has(HARDWARE_TYPE, &[ETHERNET])
            && has(HARDWARE_LENGTH, &[6])
            && has(HARDWARE_ADDRESS, &client.0)
            && has(COOKIE, &MAGIC_COOKIE);
        if !is_dhcp {
            return None;
        }
        let [kind, lease_time, requested] =
            options(bytes.get(OPTIONS..)?, [MESSAGE_TYPE, LEASE_TIME, REQUESTED_ADDRESS])?;
        let address = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
        let [kind] = *kind? else { return None };
        Some(Self {
            kind,
            client_address: address(CLIENT_ADDRESS)?,
            your_address: address(YOUR_ADDRESS)?,
            requested_address: four_bytes(requested)?.map(Ipv4Addr::from),
            lease_time: four_bytes(lease_time)?.map(u32::from_be_bytes),
        })
    }
}

/// The value of an option of four bytes; the outer `None` if it has another length.
fn four_bytes(value: Option<&[u8]>) -> Option<Option<[u8; 4]>> {
    match value {
        None => Some(None),
        Some(value) => value.try_into().ok().map(Some),
    }
}

/// The values of these options; `None` where the options are malformed, or one of these is there
/// twice. Those in the fields of a server's name and a boot file (option 52) are not looked at.
fn options<const N: usize>(mut bytes: &[u8], wanted: [u8; N]) -> Option<[Option<&[u8]>; N]> {
    let mut found = [None; N];
    loop {
        match *bytes {
            [] | [END, ..] => return Some(found),
            [PAD, ref rest @ ..] => bytes = rest,
            [code, length, ref rest @ ..] => {
                let (value, rest) = rest.split_at_checked(length.into())?;
                if let Some(place) = wanted.iter().position(|option| *option == code)
                    && found[place].replace(value).is_some()
                {
                    return None;
                }
                bytes = rest;
            }
            [_] => return None,
        }
    }
}
