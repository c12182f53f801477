//! Frames like a guest's.

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU16, Ordering};

use taptrail_record::MacAddr;

pub(crate) const GUEST: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
pub(crate) const OTHER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 2]);
/// Who never sends: a bridge does not know where it is.
pub(crate) const STRANGER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 3]);
pub(crate) const GATEWAY: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 0xFE]);
pub(crate) const MULTICAST: MacAddr = MacAddr([0x01, 0, 0x5E, 0, 0, 0xFB]);
const ALL: MacAddr = MacAddr([0xFF; 6]);

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;

/// A frame in the making; each has a number of its own, by which it is known.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    source: MacAddr,
    destination: MacAddr,
    tag: Option<u16>,
    ethertype: u16,
    payload: Vec<u8>,
    number: u16,
}

static NUMBER: AtomicU16 = AtomicU16::new(1);

impl Frame {
    pub(crate) fn new(source: MacAddr, destination: MacAddr) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { source, destination, tag: None, ethertype: 0x88B5, payload: Vec::new(), number }
    }

    /// A broadcast.
    pub(crate) fn to_all(source: MacAddr) -> Self {
        Self::new(source, ALL)
    }

    pub(crate) fn ethertype(&self) -> u16 {
        self.ethertype
    }

    pub(crate) fn of(self, ethertype: u16) -> Self {
        Self { ethertype, payload: vec![0; 46], ..self }
    }

    pub(crate) fn tagged(self, vlan: u16) -> Self {
        Self { tag: Some(vlan), ..self }
    }

    pub(crate) fn arp(self, operation: u8, sender: MacAddr, address: [u8; 4]) -> Self {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, operation];
        arp.extend(sender.0);
        arp.extend(address);
        arp.extend([0; 6]);
        arp.extend([192, 0, 2, 1]);
        Self { ethertype: ARP, payload: arp, ..self }
    }

    /// What QEMU sends after a migration, for this MAC.
    pub(crate) fn rarp(self, mac: MacAddr) -> Self {
        let mut rarp = vec![0, 1, 8, 0, 6, 4, 0, 3];
        for _ in 0..2 {
            rarp.extend(mac.0);
            rarp.extend([0; 4]);
        }
        Self { ethertype: 0x8035, payload: rarp, ..self }
    }

    /// A configuration message of STP.
    pub(crate) fn bpdu(source: MacAddr) -> Self {
        let mut payload = vec![0x42, 0x42, 3];
        payload.extend([0; 35]);
        let frame = Self::new(source, MacAddr([0x01, 0x80, 0xC2, 0, 0, 0]));
        Self { ethertype: 38, payload, ..frame }
    }

    pub(crate) fn ipv4(self, source: [u8; 4], destination: [u8; 4], protocol: u8) -> Self {
        self.ipv4_with(source, destination, protocol, &[0; 20])
    }

    pub(crate) fn udp(self, source: [u8; 4], destination: [u8; 4], from: u16, to: u16) -> Self {
        self.ipv4_with(source, destination, 17, &udp(from, to))
    }

    fn ipv4_with(self, source: [u8; 4], destination: [u8; 4], protocol: u8, body: &[u8]) -> Self {
        let length = u16::try_from(20 + body.len()).unwrap().to_be_bytes();
        let number = self.number.to_be_bytes();
        let mut header = vec![0x45, 0, length[0], length[1], number[0], number[1], 0, 0, 64, protocol, 0, 0];
        header.extend(source);
        header.extend(destination);
        // RFC 791.
        let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = (sum & 0xFFFF) + (sum >> 16);
        header[10..12].copy_from_slice(&(!u16::try_from(folded & 0xFFFF).unwrap()).to_be_bytes());
        Self { ethertype: IPV4, payload: [&header, body].concat(), ..self }
    }

    pub(crate) fn ipv6(self, source: &str, destination: &str, next: u8) -> Self {
        self.ipv6_with(source, destination, next, &[0; 20])
    }

    pub(crate) fn udp6(self, source: &str, destination: &str, from: u16, to: u16) -> Self {
        self.ipv6_with(source, destination, 17, &udp(from, to))
    }

    pub(crate) fn icmpv6(self, source: &str, destination: &str, kind: u8, body: &[u8]) -> Self {
        self.ipv6_with(source, destination, 58, &[&[kind, 0, 0, 0][..], body].concat())
    }

    fn ipv6_with(self, source: &str, destination: &str, next: u8, body: &[u8]) -> Self {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let number = self.number.to_be_bytes();
        let mut packet = vec![0x60, 0, number[0], number[1], length[0], length[1], next, 255];
        packet.extend(address(source));
        packet.extend(address(destination));
        packet.extend(body);
        Self { ethertype: 0x86DD, payload: packet, ..self }
    }

    /// The frame, with its number at its end, behind what its protocol reads. A bridge may cut that
    /// off behind an IP packet, which has the number in its header, too.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut frame = self.destination.0.to_vec();
        frame.extend(self.source.0);
        if let Some(vlan) = self.tag {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(self.ethertype.to_be_bytes());
        frame.extend(&self.payload);
        frame.resize(frame.len().max(64), 0);
        frame.extend([0xA5, 0x5A]);
        frame.extend(self.number.to_be_bytes());
        frame
    }
}

pub(crate) fn address(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes(), [0, 12], [0, 0], [0, 0], [0, 0]].concat()
}
