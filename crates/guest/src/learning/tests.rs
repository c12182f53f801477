//! What frames are believed. Those of `testdata` were captured between a real server and client.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use taptrail_record::MacAddr;

use super::*;

const DISCOVER: &[u8] = include_bytes!("testdata/discover.bin");
const OFFER: &[u8] = include_bytes!("testdata/offer.bin");
const REQUEST: &[u8] = include_bytes!("testdata/request.bin");
const ACK: &[u8] = include_bytes!("testdata/ack.bin");
const ENDLESS_ACK: &[u8] = include_bytes!("testdata/ack-forever.bin");
const RENEWAL_REQUEST: &[u8] = include_bytes!("testdata/renewal-request.bin");
const RENEWAL_ACK: &[u8] = include_bytes!("testdata/renewal-ack.bin");
const RELEASE: &[u8] = include_bytes!("testdata/release.bin");
const ARP: &[u8] = include_bytes!("testdata/arp.bin");

const GUEST: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// Where things are in the captured frames: Ethernet has 14 bytes, IP 20, UDP 8.
const IP: usize = 14;
const DHCP: usize = IP + 20 + 8;
const OPTIONS: usize = DHCP + 240;

fn reader(method: Method, servers: &[Ipv4Addr]) -> FrameReader {
    FrameReader { mac: GUEST, method, servers: servers.to_vec() }
}

fn dhcp() -> FrameReader {
    reader(Method::Dhcp, &[])
}

/// The address that the server gave.
fn leased() -> Ipv4Addr {
    match dhcp().read(ACK, true) {
        Some(Sighting::Lease { address, .. }) => address,
        other => panic!("{other:?}"),
    }
}

fn changed(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The frame with other options.
fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut frame = [&frame[..OPTIONS], options].concat();
    let ip = u16::try_from(frame.len() - IP).unwrap().to_be_bytes();
    frame[IP + 2..IP + 4].copy_from_slice(&ip);
    let udp = u16::try_from(frame.len() - IP - 20).unwrap().to_be_bytes();
    frame[IP + 24..IP + 26].copy_from_slice(&udp);
    frame
}

// Shows 2.40.
#[test]
fn of_a_whole_exchange_the_leases_and_the_release_are_read() {
    let address = leased();
    let lease = Some(Sighting::Lease { address, server: SERVER, seconds: Some(120) });
    let to_guest = |frame| dhcp().read(frame, true);
    assert_eq!((to_guest(OFFER), to_guest(ACK), to_guest(RENEWAL_ACK)), (None, lease, lease));
    assert!(matches!(to_guest(ENDLESS_ACK), Some(Sighting::Lease { seconds: None, .. })));
    let from_guest = |frame| dhcp().read(frame, false);
    for frame in [DISCOVER, REQUEST, RENEWAL_REQUEST, ARP] {
        assert_eq!(from_guest(frame), None);
    }
    assert_eq!(from_guest(RELEASE), Some(Sighting::Release { address }));
}

// Shows 2.41.
#[test]
fn a_lease_from_the_guest_and_a_release_to_it_are_not_believed() {
    for forged in [ACK.to_vec(), changed(ACK, 6, &GUEST.0), changed(ACK, 0, &[0xFF; 6])] {
        assert_eq!(dhcp().read(&forged, false), None);
    }
    // Its own frame, that somebody sent back.
    assert_eq!(dhcp().read(&changed(ACK, 6, &GUEST.0), true), None);
    assert_eq!(dhcp().read(RELEASE, true), None);
    assert_eq!(dhcp().read(&changed(RELEASE, 6, &[0x52, 0x54, 0, 0, 0, 9]), false), None);
}

// Shows 2.41.
#[test]
fn only_the_servers_that_are_named_are_believed() {
    assert!(reader(Method::Dhcp, &[[10, 0, 0, 9].into(), SERVER]).read(ACK, true).is_some());
    assert_eq!(reader(Method::Dhcp, &[[10, 0, 0, 9].into()]).read(ACK, true), None);
}

// Shows 2.41.
#[test]
fn what_is_not_exactly_a_lease_of_the_guest_is_none() {
    let type_and = |rest: &[u8]| with_options(ACK, &[&[53, 1, 5], rest, &[255]].concat());
    let lasts = [51, 4, 0, 0, 0, 60];
    assert!(dhcp().read(&type_and(&lasts), true).is_some());
    let cases = [
        ("another Ethernet destination", changed(ACK, 0, &[0x52, 0x54, 0, 0, 0, 2])),
        ("another ethertype", changed(ACK, 12, &[0x86, 0xDD])),
        ("a VLAN tag", [&ACK[..12], &[0x81, 0, 0, 5], &ACK[12..]].concat()),
        ("more fragments", changed(ACK, IP + 6, &[0x20, 0])),
        ("a later fragment", changed(ACK, IP + 6, &[0, 1])),
        ("IP with options", changed(ACK, IP, &[0x46])),
        ("IP of version 6", changed(ACK, IP, &[0x65])),
        ("TCP", changed(ACK, IP + 9, &[6])),
        ("another source port", changed(ACK, IP + 20, &[0, 69])),
        ("another destination port", changed(ACK, IP + 22, &[0, 67])),
        ("IP longer than the frame", changed(ACK, IP + 2, &[0xFF, 0xFF])),
        ("UDP longer than the packet", changed(ACK, IP + 24, &[0xFF, 0xFF])),
        ("UDP shorter than its header", changed(ACK, IP + 24, &[0, 7])),
        ("a request", changed(ACK, DHCP, &[1])),
        ("another kind of hardware", changed(ACK, DHCP + 1, &[6])),
        ("a hardware address of 16 bytes", changed(ACK, DHCP + 2, &[16])),
        ("another client", changed(ACK, DHCP + 28 + 5, &[2])),
        ("no cookie", changed(ACK, DHCP + 236, &[0])),
        ("no address", changed(ACK, DHCP + 16, &[0; 4])),
        ("a multicast address", changed(ACK, DHCP + 16, &[224, 0, 0, 1])),
        ("the broadcast address", changed(ACK, DHCP + 16, &[255; 4])),
        ("a loopback address", changed(ACK, DHCP + 16, &[127, 0, 0, 1])),
        ("no options", with_options(ACK, &[])),
        ("no message type", with_options(ACK, &[&lasts[..], &[255]].concat())),
        ("no lease time", type_and(&[])),
        ("no time at all", type_and(&[51, 4, 0, 0, 0, 0])),
        ("a lease time of three bytes", type_and(&[51, 3, 0, 0, 60])),
        ("a lease time behind the end", type_and(&[&[255][..], &lasts].concat())),
        ("two lease times", type_and(&[lasts, lasts].concat())),
        ("two message types", type_and(&[&lasts[..], &[53, 1, 5]].concat())),
        ("an option longer than the rest", type_and(&[&lasts[..], &[12, 200, 1]].concat())),
        ("an option without a length", with_options(ACK, &[&[53, 1, 5], &lasts[..], &[12]].concat())),
        ("a refusal", with_options(ACK, &[&[53, 1, 6], &lasts[..], &[255]].concat())),
    ];
    for (what, frame) in cases {
        assert_eq!(dhcp().read(&frame, true), None, "{what}");
    }
    for length in 0..ACK.len() {
        assert_eq!(dhcp().read(&ACK[..length], true), None, "cut at {length}");
    }
    // Ethernet's padding is no part of the packet.
    assert_eq!(dhcp().read(&[ACK, &[0xFF; 30]].concat(), true), dhcp().read(ACK, true));
}

#[test]
fn a_guest_that_finds_its_address_taken_declines_it() {
    let address = leased();
    let declined = [&[53, 1, 4, 50, 4], &address.octets()[..], &[255]].concat();
    let frame = with_options(REQUEST, &declined);
    assert_eq!(dhcp().read(&frame, false), Some(Sighting::Release { address }));
}

// Shows 2.42.
#[test]
fn the_first_address_is_the_senders_in_arp_or_ip() {
    let any = reader(Method::Any, &[]);
    let first = Some(Sighting::First { address: leased() });
    assert_eq!((any.read(ARP, false), any.read(RENEWAL_REQUEST, false)), (first, first));
    assert_eq!((any.read(ARP, true), any.read(ACK, true)), (None, None));
    let sender = IP + 14;
    for (what, frame) in [
        ("a probe before the address is used", changed(ARP, sender, &[0; 4])),
        ("a link-local address", changed(ARP, sender, &[169, 254, 1, 1])),
        ("a multicast address", changed(ARP, sender, &[224, 0, 0, 1])),
        ("another host's MAC", changed(ARP, IP + 8, &[0x52, 0x54, 0, 0, 0, 2])),
        ("another Ethernet source", changed(ARP, 6, &[0x52, 0x54, 0, 0, 0, 2])),
        ("no Ethernet", changed(ARP, IP, &[0, 6])),
        ("no IPv4", changed(ARP, IP + 2, &[0x86, 0xDD])),
        ("addresses of other lengths", changed(ARP, IP + 4, &[4, 6])),
        ("a request without an address", DISCOVER.to_vec()),
    ] {
        assert_eq!(any.read(&frame, false), None, "{what}");
    }
}

// Shows 2.41.
#[test]
fn a_reader_that_says_what_it_cannot_have_seen_is_not_believed() {
    let address = leased();
    let lease = Sighting::Lease { address, server: SERVER, seconds: None };
    let (release, first) = (Sighting::Release { address }, Sighting::First { address });
    let can_say = |reader: &FrameReader| [lease, release, first].map(|said| reader.can_say(said));
    assert_eq!(can_say(&dhcp()), [true, true, false]);
    assert_eq!(can_say(&reader(Method::Dhcp, &[[10, 0, 0, 9].into()])), [false, true, false]);
    assert_eq!(can_say(&reader(Method::Any, &[])), [false, false, true]);
    let nobodys = Sighting::Lease { address: [224, 0, 0, 1].into(), server: SERVER, seconds: None };
    assert!(!dhcp().can_say(nobodys));
}

proptest! {
    // Shows 2.41.
    #[test]
    fn no_frame_of_the_guests_is_a_lease(
        frame in prop::collection::vec(any::<u8>(), 0..600),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut mutated = ACK.to_vec();
        for (at, byte) in flips {
            let at = at.index(mutated.len());
            mutated[at] = byte;
        }
        for frame in [frame, mutated] {
            for method in Method::ALL {
                let said = reader(method, &[]).read(&frame, false);
                let is_lease = matches!(said, Some(Sighting::Lease { .. }));
                prop_assert!(!is_lease, "{:?}", said);
            }
            let believed = reader(Method::Dhcp, &[SERVER]).read(&frame, true);
            if let Some(said) = believed {
                let is_its = matches!(said, Sighting::Lease { server, .. } if server == SERVER);
                prop_assert!(is_its, "{:?}", said);
            }
        }
    }
}
