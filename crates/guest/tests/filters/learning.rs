//! Addresses that are learnt: what passes before one is known and after, and which frames on a real
//! tap or macvtap are believed. The frames of DHCP were captured between a real server and client.

use std::net::Ipv4Addr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use taptrail_guest::learning::{FrameReader, Method, Sighting};
use taptrail_kernel::filter::Attachment;
use taptrail_kernel::packet::{FrameKind, open_packet_socket, receive_frame};

use crate::frames::{Frame, GATEWAY, GUEST};
use crate::lab::{self, Device, Lab};

const ACK: &[u8] = include_bytes!("../../src/learning/testdata/ack.bin");
const RELEASE: &[u8] = include_bytes!("../../src/learning/testdata/release.bin");
const LEASED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 135);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

const OWN: [u8; 4] = [192, 0, 2, 5];
const OTHER: [u8; 4] = [192, 0, 2, 99];
const ROUTER: [u8; 4] = [192, 0, 2, 1];

fn on_both(test: fn(Lab)) {
    for device in [Device::Tap, Device::Macvtap] {
        lab::in_own_network(move || test(Lab::new(device)));
    }
}

// Shows 2.40.
#[test]
fn until_a_lease_is_seen_dhcp_passes_and_nothing_else() {
    on_both(|lab| {
        let from_guest = [
            Frame::to_all(GUEST).udp([0; 4], [255; 4], 68, 67),
            Frame::to_all(GUEST).arp(1, GUEST, OWN),
            Frame::new(GUEST, GATEWAY).ipv4(OWN, ROUTER, 17),
            Frame::new(GUEST, GATEWAY).ipv4(OTHER, ROUTER, 17),
            Frame::new(GUEST, GATEWAY).udp([0; 4], ROUTER, 53, 53),
            Frame::new(GUEST, GATEWAY).ipv6("2001:db8::5", "2001:db8::1", 17),
        ]
        .map(|frame| frame.bytes());
        let to_guest = [
            Frame::new(GATEWAY, GUEST).udp(ROUTER, OWN, 67, 68),
            Frame::new(GATEWAY, GUEST).ipv4(ROUTER, OWN, 1),
            Frame::to_all(GATEWAY).arp(1, GATEWAY, ROUTER),
        ]
        .map(|frame| frame.bytes());
        let passes = |learnt: &[Ipv4Addr], more: &str| {
            lab.set_with(&format!("filter=clean-traffic,ip-learning=dhcp{more}"), learnt);
            (lab.sent_by_guest(&from_guest), lab.sent_to_guest(&to_guest))
        };
        let waiting = (vec![true, false, false, false, false, false], vec![true, false, false]);
        assert_eq!(passes(&[], ""), waiting);
        let own = Ipv4Addr::from(OWN);
        let known = (vec![true, true, true, false, true, false], vec![true, true, true]);
        assert_eq!(passes(&[own], ""), known);
        assert!(passes(&[own, OTHER.into()], "").0[3]);
        // After the end of the last lease.
        assert_eq!(passes(&[], ""), waiting);
        // Only the answers of the servers that are named.
        assert!(passes(&[], ",dhcpserver=192.0.2.1").1[0]);
        assert!(!passes(&[], ",dhcpserver=192.0.2.2").1[0]);
    });
}

// Shows 2.42.
#[test]
fn until_a_guest_has_sent_from_an_address_no_more_passes_than_is_needed_to_see_it() {
    on_both(|lab| {
        let frames = [
            Frame::to_all(GUEST).udp([0; 4], [255; 4], 68, 67),
            Frame::to_all(GUEST).arp(1, GUEST, OWN),
            Frame::to_all(GUEST).arp(1, GATEWAY, OWN),
            Frame::new(GUEST, GATEWAY).ipv4(OWN, ROUTER, 17),
        ]
        .map(|frame| frame.bytes());
        let socket = open_packet_socket(lab.ifindex(), FrameKind::ArpAndIpv4).unwrap();
        lab.set_with("filter=clean-traffic,ip-learning=any", &[]);
        let passed = lab.sent_by_guest(&frames);
        // What a macvtap sends is seen once it has passed.
        assert_eq!(passed, [true, lab.attachment() == Attachment::Macvtap, false, false]);
        let reader = FrameReader { mac: GUEST, method: Method::Any, servers: Vec::new() };
        let seen = sightings(&lab, &socket, &reader);
        assert_eq!(seen.first(), Some(&Sighting::First { address: OWN.into() }));
        lab.set_with("filter=clean-traffic,ip-learning=any", &[OWN.into()]);
        assert_eq!(lab.sent_by_guest(&frames), [true, true, false, true]);
    });
}

// Shows 2.41.
#[test]
fn the_kernel_says_which_way_a_frame_goes_whatever_is_in_it() {
    on_both(|lab| {
        let socket = open_packet_socket(lab.ifindex(), FrameKind::Dhcp).unwrap();
        let reader = FrameReader { mac: GUEST, method: Method::Dhcp, servers: Vec::new() };
        let seen = || sightings(&lab, &socket, &reader);
        // It may use any MAC, and a macvtap gets back what it sends to its own.
        lab.set_with("filter=no-ip-spoofing,ip-learning=dhcp", &[LEASED, SERVER]);

        lab.send_to_guest(ACK);
        let lease = Sighting::Lease { address: LEASED, server: SERVER, seconds: Some(120) };
        assert_eq!(seen(), [lease]);

        // The same frame from the guest: as the server sent it, to all, to itself, from its own MAC.
        let to = |destination: [u8; 6], source: [u8; 6]| [&destination, &source, &ACK[12..]].concat();
        let (all, server) = ([0xFF; 6], ACK[6..12].try_into().unwrap());
        for forged in [ACK.to_vec(), to(all, server), to(all, GUEST.0), to(GUEST.0, GUEST.0)] {
            lab.send_as_guest(&forged);
            assert_eq!(seen(), []);
        }
        // What the kernel's filter does not deliver.
        for (at, bytes) in [(14, [0x46, 0]), (20, [0x20, 0]), (20, [0, 1]), (23, [6, 0]), (36, [0, 69])] {
            let mut other = ACK.to_vec();
            other[at..at + 2].copy_from_slice(&bytes);
            lab.send_to_guest(&other);
        }
        lab.send_to_guest(&[&ACK[..12], &[0x81, 0, 0, 5], &ACK[12..]].concat());
        assert_eq!(frames(&socket), 0);

        lab.send_as_guest(RELEASE);
        assert_eq!(seen(), [Sighting::Release { address: LEASED }]);
        lab.send_to_guest(RELEASE);
        assert_eq!(seen(), []);
    });
}

/// What the frames say that have arrived.
fn sightings(lab: &Lab, socket: &std::os::fd::OwnedFd, reader: &FrameReader) -> Vec<Sighting> {
    let mut seen = Vec::new();
    each_frame(socket, |frame, outgoing| {
        let to_guest = outgoing == (lab.attachment() == Attachment::Tap);
        seen.extend(reader.read(frame, to_guest));
    });
    seen
}

fn frames(socket: &std::os::fd::OwnedFd) -> usize {
    let mut count = 0;
    each_frame(socket, |_, _| count += 1);
    count
}

fn each_frame(socket: &std::os::fd::OwnedFd, mut each: impl FnMut(&[u8], bool)) {
    let wait = Timespec::try_from(Duration::from_millis(100)).unwrap();
    while poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&wait)).unwrap() > 0 {
        let mut buffer = [0; 2048];
        if let Some(received) = receive_frame(socket, &mut buffer).unwrap() {
            each(&buffer[..received.length], received.outgoing);
        }
    }
}
