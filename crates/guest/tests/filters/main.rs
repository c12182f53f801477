//! taptrail's own filters, by the frames that pass: a program in the guest's place writes to a real
//! tap or macvtap and reads from it, and another one does on the other side of a bridge.
//!
//! Each frame is sent without a filter first, where it must pass: so a frame that is missing later
//! was dropped by the filter.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod frames;
mod lab;
mod learning;

use taptrail_guest::spec::NicSpec;

use crate::Direction::{In, Out};
use crate::frames::{ARP, Frame, GATEWAY, GUEST, IPV4, OTHER, STRANGER};
use crate::lab::{Device, Lab};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

/// A frame and the filters that let it pass, of those in the table's head.
struct Row {
    what: &'static str,
    direction: Direction,
    frame: Frame,
    passes: [bool; 2],
}

fn row(direction: Direction, what: &'static str, frame: Frame, passes: [bool; 2]) -> Row {
    Row { what, direction, frame, passes }
}

/// `no-mac-spoofing`, `clean-traffic`.
const NONE: [bool; 2] = [false, false];
const FIRST: [bool; 2] = [true, false];
const BOTH: [bool; 2] = [true, true];

/// What libvirt's filters of these names do (libvirt 11.3), but for ARP that speaks for another
/// MAC, which libvirt's no-mac-spoofing lets pass.
fn table(device: Device) -> Vec<Row> {
    let own = [192, 0, 2, 5];
    let second = [192, 0, 2, 6];
    let foreign = [192, 0, 2, 99];
    let gateway = [192, 0, 2, 1];
    // On a macvtap the tag is still there when the frame is filtered.
    let tagged_arp = if device == Device::Tap { NONE } else { FIRST };
    vec![
        row(Out, "foreign Ethernet source", Frame::to_all(OTHER).of(0x88B5), NONE),
        row(Out, "foreign Ethernet source, IPv4", Frame::new(OTHER, GATEWAY).ipv4(own, gateway, 17), NONE),
        row(Out, "ARP with a foreign sender MAC", Frame::to_all(GUEST).arp(1, OTHER, own), NONE),
        row(Out, "the same, tagged", Frame::to_all(GUEST).arp(1, OTHER, own).tagged(5), tagged_arp),
        row(Out, "ARP poisoning", Frame::to_all(GUEST).arp(2, GUEST, foreign), FIRST),
        row(Out, "the same, tagged", Frame::to_all(GUEST).arp(2, GUEST, foreign).tagged(5), FIRST),
        row(Out, "foreign IPv4 source", Frame::new(GUEST, GATEWAY).ipv4(foreign, gateway, 17), FIRST),
        row(Out, "the same, tagged", Frame::new(GUEST, GATEWAY).ipv4(foreign, gateway, 17).tagged(5), FIRST),
        row(Out, "own IPv4, tagged", Frame::new(GUEST, GATEWAY).ipv4(own, gateway, 17).tagged(5), FIRST),
        row(Out, "TCP without an address", Frame::new(GUEST, GATEWAY).ipv4([0; 4], gateway, 6), FIRST),
        row(Out, "IPv6", Frame::new(GUEST, GATEWAY).ipv6("2001:db8::5", "2001:db8::1", 17), FIRST),
        row(
            Out,
            "forged router advertisement",
            Frame::to_all(GUEST).icmpv6("fe80::1", "ff02::1", 134, &[0; 8]),
            FIRST,
        ),
        row(Out, "foreign RARP", Frame::to_all(GUEST).rarp(OTHER), FIRST),
        row(Out, "STP", Frame::bpdu(GUEST), FIRST),
        row(Out, "another ethertype", Frame::to_all(GUEST).of(0x88B5), FIRST),
        row(Out, "own announcement by RARP", Frame::to_all(GUEST).rarp(GUEST), BOTH),
        row(Out, "own announcement by QEMU's old number", Frame::to_all(GUEST).of(0x0835), BOTH),
        row(Out, "DHCP discover", Frame::to_all(GUEST).udp([0; 4], [255; 4], 68, 67), BOTH),
        row(Out, "own IPv4", Frame::new(GUEST, GATEWAY).ipv4(own, gateway, 17), BOTH),
        row(Out, "own IPv4, second address", Frame::new(GUEST, GATEWAY).ipv4(second, gateway, 1), BOTH),
        row(Out, "broadcast", Frame::to_all(GUEST).ipv4(own, [255; 4], 17), BOTH),
        row(Out, "multicast", Frame::new(GUEST, frames::MULTICAST).ipv4(own, [224, 0, 0, 251], 17), BOTH),
        row(Out, "own ARP", Frame::to_all(GUEST).arp(1, GUEST, own), BOTH),
        row(Out, "own ARP, second address", Frame::to_all(GUEST).arp(2, GUEST, second), BOTH),
        row(In, "IPv6", Frame::new(GATEWAY, GUEST).ipv6("2001:db8::1", "2001:db8::5", 17), FIRST),
        row(In, "another ethertype", Frame::new(GATEWAY, GUEST).of(0x88B5), FIRST),
        row(In, "RARP of others", Frame::to_all(GATEWAY).rarp(OTHER), FIRST),
        row(In, "IPv4, tagged", Frame::new(GATEWAY, GUEST).ipv4(gateway, own, 17).tagged(5), FIRST),
        row(In, "IPv4", Frame::new(GATEWAY, GUEST).ipv4(gateway, own, 17), BOTH),
        row(In, "IPv4, broadcast", Frame::to_all(GATEWAY).ipv4(gateway, [255; 4], 17), BOTH),
        row(In, "ARP", Frame::to_all(GATEWAY).arp(1, GATEWAY, gateway), BOTH),
        row(In, "ARP, whoever speaks", Frame::new(GATEWAY, GUEST).arp(2, OTHER, foreign), BOTH),
    ]
}

/// Sends every row, in both directions; returns which pass.
fn pass(lab: &Lab, rows: &[Row]) -> Vec<bool> {
    let select =
        |direction| rows.iter().filter(move |row| row.direction == direction).map(|row| row.frame.bytes());
    let mut from_guest = lab.sent_by_guest(&select(Out).collect::<Vec<_>>()).into_iter();
    let mut to_guest = lab.sent_to_guest(&select(In).collect::<Vec<_>>()).into_iter();
    rows.iter()
        .map(|row| match row.direction {
            Out => from_guest.next().unwrap(),
            In => to_guest.next().unwrap(),
        })
        .collect()
}

fn check_table(device: Device) {
    lab::in_own_network(move || {
        let lab = Lab::new(device);
        let rows = table(device);
        let report = |passed: &[bool], expected: &dyn Fn(&Row) -> bool| -> Vec<String> {
            rows.iter()
                .zip(passed)
                .filter(|(row, passed)| expected(row) != **passed)
                .map(|(row, passed)| format!("{:?} {}: passed={passed}", row.direction, row.what))
                .collect()
        };
        assert_eq!(report(&pass(&lab, &rows), &|_| true), [""; 0], "without a filter");
        let filters = ["filter=no-mac-spoofing", "filter=clean-traffic,ip=192.0.2.5,ip=192.0.2.6"];
        for (index, filter) in filters.into_iter().enumerate() {
            lab.set(filter);
            assert_eq!(report(&pass(&lab, &rows), &|row| row.passes[index]), [""; 0], "{filter}");
        }
        lab.unset();
        assert_eq!(report(&pass(&lab, &rows), &|_| true), [""; 0], "without the filter again");
    });
}

// Shows 2.4, 2.16.
#[test]
fn of_each_row_of_the_table_a_tap_passes_what_it_should() {
    check_table(Device::Tap);
}

// Shows 2.4, 2.16.
#[test]
fn of_each_row_of_the_table_a_macvtap_passes_what_it_should() {
    check_table(Device::Macvtap);
}

/// Filters and what passes with them.
struct Case {
    filter: &'static str,
    frames: Vec<(Direction, Frame, bool)>,
}

fn cases() -> Vec<Case> {
    let own = [192, 0, 2, 5];
    let foreign = [192, 0, 2, 99];
    let gateway = [192, 0, 2, 1];
    let server = [192, 0, 2, 2];
    let own_v6 = "2001:db8::5";
    let other_type = || Frame::to_all(GUEST).of(0x88B5);
    let other_in = || Frame::new(GATEWAY, GUEST).of(0x88B5);
    let arp = || Frame::to_all(GUEST).arp(1, GUEST, own);
    let v4 = |from| Frame::new(GUEST, GATEWAY).ipv4(from, gateway, 17);
    let v4_in = || Frame::new(GATEWAY, GUEST).ipv4(gateway, own, 17);
    let v6 = |from| Frame::new(GUEST, GATEWAY).ipv6(from, "2001:db8::1", 17);
    let v6_in = || Frame::new(GATEWAY, GUEST).ipv6("2001:db8::1", own_v6, 17);
    let discover = || Frame::to_all(GUEST).udp([0; 4], [255; 4], 68, 67);
    let offer = |from| Frame::new(GATEWAY, GUEST).udp(from, own, 67, 68);
    let solicit = |from| Frame::to_all(GUEST).udp6(from, "ff02::1:2", 546, 547);
    let advertise = |from| Frame::new(GATEWAY, GUEST).udp6(from, "fe80::5", 547, 546);
    let case = |filter, frames| Case { filter, frames };
    vec![
        case(
            "filter=no-mac-spoofing",
            vec![(Out, other_type(), true), (Out, Frame::to_all(OTHER).of(0x88B5), false)],
        ),
        case(
            "filter=no-ip-spoofing,ip=192.0.2.5",
            vec![
                (Out, v4(own), true),
                (Out, v4(foreign), false),
                (Out, v4(foreign).tagged(5), false),
                (Out, discover(), true),
                (Out, Frame::new(GUEST, GATEWAY).ipv4([0; 4], gateway, 6), false),
                (Out, other_type(), true),
                (In, v4_in(), true),
            ],
        ),
        case(
            "filter=no-ipv6-spoofing,ipv6=2001:db8::5",
            vec![
                (Out, v6(own_v6), true),
                (Out, v6("2001:db8::99"), false),
                (Out, v6("fe80::1"), true),
                (Out, Frame::to_all(GUEST).icmpv6("fe80::1", "ff02::1", 134, &[0; 8]), false),
                (Out, other_type(), true),
            ],
        ),
        case(
            "filter=no-arp-mac-spoofing",
            vec![
                (Out, arp(), true),
                (Out, Frame::to_all(GUEST).arp(1, OTHER, own), false),
                (Out, other_type(), true),
            ],
        ),
        case(
            "filter=no-arp-ip-spoofing,ip=192.0.2.5",
            vec![
                (Out, arp(), true),
                (Out, Frame::to_all(GUEST).arp(2, GUEST, foreign), false),
                (Out, Frame::to_all(GUEST).arp(2, OTHER, own), true),
            ],
        ),
        case(
            "filter=no-arp-spoofing,ip=192.0.2.5",
            vec![
                (Out, arp(), true),
                (Out, Frame::to_all(GUEST).arp(2, GUEST, foreign), false),
                (Out, Frame::to_all(GUEST).arp(2, OTHER, own), false),
            ],
        ),
        case(
            "filter=clean-traffic,ip=192.0.2.5",
            vec![(Out, v4(own), true), (Out, v4(foreign), false), (In, v4_in(), true), (In, v6_in(), false)],
        ),
        case(
            "filter=clean-traffic-gateway,ip=192.0.2.5,gateway-mac=52:54:00:00:00:fe",
            vec![
                (Out, v4(own), true),
                (Out, v4(foreign), false),
                (Out, Frame::new(GUEST, STRANGER).ipv4(own, gateway, 17), false),
                (Out, arp(), true),
                (In, v4_in(), true),
                (In, Frame::new(OTHER, GUEST).ipv4(gateway, own, 17), false),
                (In, Frame::to_all(OTHER).arp(1, OTHER, foreign), true),
            ],
        ),
        case(
            "filter=no-other-l2-traffic",
            vec![(Out, other_type(), false), (Out, v4(own), false), (In, v4_in(), false)],
        ),
        case(
            "filter=no-other-rarp-traffic",
            vec![
                (Out, Frame::to_all(GUEST).rarp(GUEST), false),
                (In, Frame::to_all(GATEWAY).rarp(GATEWAY), false),
                (Out, other_type(), true),
            ],
        ),
        case(
            "filter=qemu-announce-self",
            vec![
                (Out, Frame::to_all(GUEST).rarp(GUEST), true),
                (Out, Frame::to_all(GUEST).rarp(OTHER), false),
                (Out, Frame::to_all(GUEST).of(0x0835), true),
                (In, Frame::to_all(GATEWAY).rarp(GUEST), true),
                (In, Frame::to_all(GATEWAY).rarp(GATEWAY), false),
            ],
        ),
        case(
            "filter=qemu-announce-self-rarp,filter=no-other-rarp-traffic",
            vec![
                (Out, Frame::to_all(GUEST).rarp(GUEST), true),
                (Out, Frame::new(GUEST, GATEWAY).rarp(GUEST), false),
                (Out, Frame::to_all(GUEST).rarp(OTHER), false),
            ],
        ),
        case(
            "filter=allow-arp,filter=no-other-l2-traffic",
            vec![
                (Out, arp(), true),
                (Out, arp().tagged(5), false),
                (Out, v4(own), false),
                (In, Frame::to_all(GATEWAY).arp(1, GATEWAY, gateway), true),
                (In, v4_in(), false),
            ],
        ),
        case(
            "filter=allow-ipv4,filter=no-other-l2-traffic",
            vec![
                (Out, v4(foreign), true),
                (Out, v6(own_v6), false),
                (In, v4_in(), true),
                (In, other_in(), false),
            ],
        ),
        case(
            "filter=allow-ipv6,filter=no-other-l2-traffic",
            vec![(Out, v6(own_v6), true), (Out, v4(own), false), (In, v6_in(), true), (In, v4_in(), false)],
        ),
        case(
            "filter=allow-incoming-ipv4,filter=no-other-l2-traffic",
            vec![
                (In, v4_in(), true),
                (In, v4_in().tagged(5), false),
                (In, v6_in(), false),
                (Out, v4(own), false),
            ],
        ),
        case(
            "filter=allow-incoming-ipv6,filter=no-other-l2-traffic",
            vec![(In, v6_in(), true), (In, v4_in(), false), (Out, v6(own_v6), false)],
        ),
        case(
            "filter=allow-dhcp,filter=no-other-l2-traffic",
            vec![
                (Out, discover(), true),
                (Out, Frame::to_all(GUEST).udp(own, [255; 4], 68, 67), false),
                (In, offer(foreign), true),
                (In, Frame::new(GATEWAY, GUEST).udp(server, own, 67, 69), false),
            ],
        ),
        case(
            "filter=allow-dhcp-server,filter=no-other-l2-traffic,dhcpserver=192.0.2.2",
            vec![(Out, discover(), true), (In, offer(server), true), (In, offer(foreign), false)],
        ),
        case(
            "filter=allow-dhcpv6,filter=no-other-l2-traffic",
            vec![
                (Out, solicit("fe80::5"), true),
                (Out, solicit("2001:db8::5"), false),
                (In, advertise("2001:db8::99"), true),
                (In, v6_in(), false),
            ],
        ),
        case(
            "filter=allow-dhcpv6-server,filter=no-other-l2-traffic,dhcpserver=2001:db8::2",
            vec![
                (Out, solicit("fe80::5"), true),
                (In, advertise("2001:db8::2"), true),
                (In, advertise("2001:db8::99"), false),
            ],
        ),
        case(
            "filter=no-mac-broadcast",
            vec![
                (Out, Frame::to_all(GUEST).ipv4(own, [255; 4], 17), false),
                (Out, v4(own), true),
                (Out, arp(), true),
                (In, Frame::to_all(GATEWAY).ipv4(gateway, [255; 4], 17), true),
            ],
        ),
        case(
            "filter=no-ip-multicast",
            vec![
                (Out, Frame::new(GUEST, frames::MULTICAST).ipv4(own, [224, 0, 0, 251], 17), false),
                (Out, Frame::new(GUEST, frames::MULTICAST).ipv4(own, [239, 255, 255, 250], 17), false),
                (Out, v4(own), true),
            ],
        ),
        case(
            "filter=no-ipv6-multicast",
            vec![(Out, Frame::to_all(GUEST).ipv6(own_v6, "ff02::fb", 17), false), (Out, v6(own_v6), true)],
        ),
        case("filter=clean-traffic-v6,ipv6=2001:db8::5", clean_v6()),
        case(
            "filter=clean-traffic,filter=clean-traffic-v6,ip=192.0.2.5,ipv6=2001:db8::5",
            [
                clean_v6()
                    .into_iter()
                    .filter(|(_, frame, _)| ![IPV4, ARP].contains(&frame.ethertype()))
                    .collect(),
                vec![
                    (Out, v4(own), true),
                    (Out, v4(foreign), false),
                    (Out, arp(), true),
                    (In, v4_in(), true),
                ],
            ]
            .concat(),
        ),
        case(
            "filter=no-router-advertisement",
            vec![
                (Out, Frame::to_all(GUEST).icmpv6("fe80::1", "ff02::1", 134, &[0; 8]), false),
                (Out, Frame::to_all(GUEST).icmpv6("fe80::1", "ff02::1", 137, &[0; 32]), false),
                (Out, Frame::to_all(GUEST).icmpv6("fe80::1", "ff02::1", 128, &[0; 4]), true),
            ],
        ),
    ]
}

/// `clean-traffic-v6` with the address 2001:db8::5.
fn clean_v6() -> Vec<(Direction, Frame, bool)> {
    // Of 52:54:00:00:00:01 (RFC 4291, appendix A).
    let link_local = "fe80::5054:ff:fe00:1";
    let own = "2001:db8::5";
    let advert = |from, target, option: &[u8]| {
        let body = [&[0x60, 0, 0, 0][..], &frames::address(target), option].concat();
        Frame::to_all(GUEST).icmpv6(from, "ff02::1", 136, &body)
    };
    let solicit = |from, option: &[u8]| {
        let body = [&[0; 4][..], &frames::address("2001:db8::1"), option].concat();
        Frame::to_all(GUEST).icmpv6(from, "ff02::1:ff00:1", 135, &body)
    };
    let link = |kind: u8, mac: [u8; 6]| [&[kind, 1][..], &mac].concat();
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    vec![
        (Out, Frame::new(GUEST, GATEWAY).ipv6(own, "2001:db8::1", 6), true),
        (Out, Frame::new(GUEST, GATEWAY).ipv6(link_local, "fe80::1", 17), true),
        (Out, Frame::new(GUEST, GATEWAY).ipv6("2001:db8::99", "2001:db8::1", 6), false),
        (Out, Frame::new(GUEST, GATEWAY).ipv6("fe80::99", "2001:db8::1", 17), false),
        (Out, Frame::new(OTHER, GATEWAY).ipv6(own, "2001:db8::1", 6), false),
        (Out, Frame::new(GUEST, GATEWAY).ipv6(own, "2001:db8::1", 6).tagged(5), false),
        (Out, Frame::to_all(GUEST).icmpv6(link_local, "ff02::1", 134, &[0; 12]), false),
        (Out, Frame::to_all(GUEST).icmpv6(link_local, "ff02::1", 137, &[0; 36]), false),
        (Out, advert(own, own, &link(2, GUEST.0)), true),
        (Out, advert(link_local, link_local, &link(2, GUEST.0)), true),
        (Out, advert(own, own, &[]), true),
        (Out, advert(own, "2001:db8::1", &link(2, GUEST.0)), false),
        (Out, advert(own, own, &link(2, OTHER.0)), false),
        (Out, advert(own, own, &[nonce.to_vec(), link(2, OTHER.0)].concat()), false),
        (Out, solicit(own, &link(1, GUEST.0)), true),
        (Out, solicit(own, &link(1, OTHER.0)), false),
        (Out, solicit("::", &[]), true),
        (Out, solicit("::", &nonce), true),
        (Out, solicit("2001:db8::99", &link(1, GUEST.0)), false),
        (
            Out,
            Frame::to_all(GUEST).icmpv6(
                link_local,
                "ff02::2",
                133,
                &[&[0; 4][..], &link(1, GUEST.0)].concat(),
            ),
            true,
        ),
        (
            Out,
            Frame::to_all(GUEST).icmpv6(
                link_local,
                "ff02::2",
                133,
                &[&[0; 4][..], &link(1, OTHER.0)].concat(),
            ),
            false,
        ),
        (Out, Frame::to_all(GUEST).icmpv6("::", "ff02::16", 143, &[0; 24]), true),
        (Out, Frame::to_all(GUEST).icmpv6("::", "ff02::1", 128, &[0; 4]), false),
        (Out, Frame::to_all(GUEST).rarp(GUEST), true),
        (Out, Frame::new(GUEST, GATEWAY).ipv4([192, 0, 2, 5], [192, 0, 2, 1], 17), false),
        (Out, Frame::to_all(GUEST).of(0x88B5), false),
        (In, Frame::new(GATEWAY, GUEST).ipv6("2001:db8::1", own, 6), true),
        (In, Frame::to_all(GATEWAY).icmpv6("fe80::1", "ff02::1", 134, &[0; 12]), true),
        (In, Frame::new(GATEWAY, GUEST).ipv4([192, 0, 2, 1], [192, 0, 2, 5], 17), false),
    ]
}

// Shows 2.16.
#[test]
fn each_filter_passes_what_it_says_and_drops_what_it_says() {
    lab::in_own_network(|| {
        let lab = Lab::new(Device::Tap);
        let mut wrong = Vec::new();
        for Case { filter, frames } in cases() {
            let rows: Vec<Row> = frames
                .into_iter()
                .map(|(direction, frame, passes)| row(direction, "", frame, [passes, true]))
                .collect();
            let mut compare = |passed: Vec<bool>, column: usize| {
                for (number, (row, passed)) in rows.iter().zip(passed).enumerate() {
                    if row.passes[column] != passed {
                        wrong.push(format!("{filter}: frame {number} ({:?}) passed={passed}", row.direction));
                    }
                }
            };
            lab.unset();
            compare(pass(&lab, &rows), 1);
            lab.set(filter);
            compare(pass(&lab, &rows), 0);
        }
        assert_eq!(wrong, [""; 0]);
    });
}

// Shows 2.26.
#[test]
fn no_frame_slips_through_while_a_filter_is_changed() {
    lab::in_own_network(|| {
        let lab = Lab::new(Device::Tap);
        lab.set("filter=no-mac-spoofing");
        let foreign = Frame::to_all(OTHER).of(0x88B5).bytes();
        let own = Frame::to_all(GUEST).of(0x0835).bytes();
        let (sent, passed) = lab.while_changing(
            &foreign,
            &[
                "filter=clean-traffic,ip=192.0.2.5",
                "filter=no-mac-spoofing",
                "filter=clean-traffic-v6,ipv6=2001:db8::5",
            ],
        );
        assert!(sent > 1000, "{sent}");
        assert_eq!(passed, 0, "of {sent}");
        assert_eq!(lab.sent_by_guest(&[own]), [true]);
    });
}

#[test]
fn all_24_of_libvirts_filters_have_a_case() {
    let libvirts = [
        "allow-arp",
        "allow-dhcp",
        "allow-dhcp-server",
        "allow-dhcpv6",
        "allow-dhcpv6-server",
        "allow-incoming-ipv4",
        "allow-incoming-ipv6",
        "allow-ipv4",
        "allow-ipv6",
        "clean-traffic",
        "clean-traffic-gateway",
        "no-arp-ip-spoofing",
        "no-arp-mac-spoofing",
        "no-arp-spoofing",
        "no-ip-multicast",
        "no-ip-spoofing",
        "no-ipv6-multicast",
        "no-ipv6-spoofing",
        "no-mac-broadcast",
        "no-mac-spoofing",
        "no-other-l2-traffic",
        "no-other-rarp-traffic",
        "qemu-announce-self",
        "qemu-announce-self-rarp",
    ];
    for name in libvirts {
        let is_of = |case: &Case| {
            let spec: NicSpec = format!("bridge=br0,{}", case.filter).parse().unwrap();
            let drops = case.frames.iter().any(|(.., passes)| !passes);
            drops && spec.filter.unwrap().filters().iter().any(|filter| filter == name)
        };
        assert!(cases().iter().any(is_of), "{name}");
    }
}
