//! Settings of a tap, as tc(8), ethtool(8), bridge(8) and ip(8) read them back.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::{Value, json};
use taptrail_kernel::device::{Admitted, DEV_NET_TUN, TapName, TapRequest, open_tap};
use taptrail_kernel::link::{Bandwidth, Change, HostAddress, HostRoute, LinkError, Links, PortVlans};

use taptrail_record::MacAddr;

use crate::frames::plain;
use crate::lab::{in_own_network, index, ip, name, opened, queues};

fn tap() -> Vec<Admitted> {
    let (path, name) = (Path::new(DEV_NET_TUN), TapName::Pattern("vnet%d"));
    opened(open_tap(&TapRequest { path, name, queues: queues(1), vnet_hdr: true }))
}

fn text(program: &str, args: &str) -> String {
    let output = Command::new(program).args(args.split_whitespace()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn json(program: &str, args: &str) -> Value {
    let output = Command::new(program).args(args.split_whitespace()).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{program} {args}: {error}: {output:?}"))
}

// Shows 2.20.
#[test]
fn what_a_tap_sends_is_limited() {
    in_own_network(|| {
        let _tap = tap();
        let mut links = Links::open().unwrap();
        let limit = Bandwidth { average: 1_000_000, peak: Some(4_000_000), burst: Some(1_048_576) };
        links.limit_sent(index("vnet0"), &limit).unwrap();
        let shown = text("/usr/sbin/tc", "class show dev vnet0");
        assert!(
            shown.contains("htb 1:1 root") && shown.contains("rate 8Mbit ceil 32Mbit burst 1Mb"),
            "{shown}"
        );
        let qdisc = json("/usr/sbin/tc", "-j qdisc show dev vnet0");
        assert_eq!(
            (&qdisc[0]["kind"], &qdisc[0]["options"]["default"]),
            (&json!("htb"), &json!("0x1")),
            "{qdisc}"
        );

        // A rate beyond 32 bits, on another tap; and what is there is not replaced.
        let _second = tap();
        let limit = Bandwidth { average: 10_000_000_000, peak: None, burst: None };
        links.limit_sent(index("vnet1"), &limit).unwrap();
        let shown = text("/usr/sbin/tc", "class show dev vnet1");
        assert!(shown.contains("rate 80Gbit ceil 80Gbit"), "{shown}");
        let error = links.limit_sent(index("vnet1"), &limit).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EXIST), "{error}");
    });
}

// Shows 2.20.
#[test]
fn what_a_tap_sends_takes_its_time() {
    const FRAMES: usize = 100;
    in_own_network(|| {
        let tap = tap();
        let mut links = Links::open().unwrap();
        let of = index("vnet0");
        let limit = Bandwidth { average: 200_000, peak: None, burst: Some(10_240) };
        links.limit_sent(of, &limit).unwrap();
        let address = HostAddress { address: "192.0.2.1".parse().unwrap(), peer: None, prefix: 24 };
        links.add_address(of, &address).unwrap();
        links.configure(of, &Change { up: Some(true), ..Change::default() }).unwrap();
        ip("neighbour add 192.0.2.2 lladdr 52:54:00:00:00:01 dev vnet0");
        let before = Instant::now();
        let sender = std::thread::spawn(|| {
            let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
            for _ in 0..FRAMES {
                socket.send_to(&[7; 1400], "192.0.2.2:9").unwrap();
            }
        });
        let (mut received, mut buffer) = (0, [0; 2048]);
        while received < FRAMES {
            match rustix::io::read(&tap[0], &mut buffer) {
                // The kernel sends some of its own (IPv6), which are shorter.
                Ok(length) => received += usize::from(length > 1400),
                Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
            assert!(before.elapsed() < Duration::from_secs(30), "{received} frames");
        }
        sender.join().unwrap();
        // 140 kB, less the burst, at 200 kB/s.
        assert!(before.elapsed() > Duration::from_millis(600), "{:?}", before.elapsed());
    });
}

// Shows 2.20.
#[test]
fn what_a_tap_receives_is_policed_or_the_lack_of_a_policer_is_named() {
    in_own_network(|| {
        let tap = tap();
        let mut links = Links::open().unwrap();
        let limit = Bandwidth { average: 128_000, peak: None, burst: Some(20_480) };
        if let Err(error) = links.limit_received(index("vnet0"), &limit) {
            // This kernel has none.
            assert!(matches!(error, LinkError::Refused { .. }), "{error:?}");
            assert!(error.to_string().contains("limit what it receives"), "{error}");
            assert!(!Path::new("/dev/vhost-net").exists(), "a kernel with vhost-net has one: {error}");
            return;
        }
        let shown = text("/usr/sbin/tc", "filter show dev vnet0 ingress");
        assert!(
            shown.contains("police") && shown.contains("rate 1024Kbit") && shown.contains("action drop"),
            "{shown}"
        );
        assert!(shown.contains("protocol all") && shown.contains("match 00000000/00000000 at 0"), "{shown}");
        // A guest that sends 140 kB at once: some 14 frames are its burst.
        links.configure(index("vnet0"), &Change { up: Some(true), ..Change::default() }).unwrap();
        let frame = [&[0; 10][..], &plain(MacAddr::kvm([0, 0, 1]), 7), &[0; 1340]].concat();
        for _ in 0..100 {
            assert_eq!(rustix::io::write(&tap[0], &frame), Ok(frame.len()));
        }
        let shown = text("/usr/sbin/tc", "-s filter show dev vnet0 ingress");
        let dropped: u32 =
            shown.split("(dropped ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        assert!((50..=90).contains(&dropped), "{shown}");
    });
}

// Shows 2.21.
#[test]
fn a_tap_collects_frames_and_other_links_do_not() {
    in_own_network(|| {
        let _tap = tap();
        let mut links = Links::open().unwrap();
        for frames in [7, 64, 0] {
            links.set_rx_frames(index("vnet0"), frames).unwrap();
            let shown = text("/usr/sbin/ethtool", "-c vnet0");
            let line = shown.lines().find(|line| line.starts_with("rx-frames:")).unwrap();
            assert_eq!(line.split_whitespace().last(), Some(frames.to_string().as_str()), "{shown}");
        }
        let error = links.set_rx_frames(index("vnet0"), 65).unwrap_err();
        assert!(error.to_string().contains("64 reads back, not 65"), "{error}");
        ip("link add br0 type bridge");
        let error = links.set_rx_frames(index("br0"), 7).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::OPNOTSUPP), "{error}");
        assert!(links.set_rx_frames(4711, 7).unwrap_err().is_missing());
    });
}

// Shows 2.22.
#[test]
fn a_tap_gets_addresses_and_routes_of_the_hosts_side() {
    in_own_network(|| {
        let tap = tap();
        let mut links = Links::open().unwrap();
        let of = index("vnet0");
        let address = |text: &str, peer: Option<&str>, prefix| HostAddress {
            address: text.parse().unwrap(),
            peer: peer.map(|peer| peer.parse().unwrap()),
            prefix,
        };
        links.add_address(of, &address("192.0.2.1", Some("192.0.2.9"), 32)).unwrap();
        links.add_address(of, &address("2001:db8::1", None, 64)).unwrap();
        let error = links.add_address(of, &address("2001:db8::1", None, 64)).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EXIST), "{error}");
        links.configure(of, &Change { up: Some(true), ..Change::default() }).unwrap();
        let route = |network: &str, prefix, gateway: Option<&str>, metric| HostRoute {
            network: network.parse().unwrap(),
            prefix,
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            metric,
        };
        links.add_route(of, &route("198.51.100.0", 24, Some("192.0.2.9"), Some(5))).unwrap();
        links.add_route(of, &route("203.0.113.0", 24, None, None)).unwrap();
        links.add_route(of, &route("2001:db8:1::", 48, Some("2001:db8::2"), None)).unwrap();
        let error = links.add_route(of, &route("10.0.0.0", 8, Some("172.16.0.1"), None)).unwrap_err();
        assert!(error.to_string().contains("add a route"), "{error}");

        let shown = json("/usr/sbin/ip", "-j addr show dev vnet0");
        let found: Vec<&Value> = shown[0]["addr_info"].as_array().unwrap().iter().collect();
        let first = found.iter().find(|of| of["local"] == "192.0.2.1").unwrap();
        assert_eq!((&first["address"], &first["prefixlen"]), (&json!("192.0.2.9"), &json!(32)), "{shown}");
        assert!(found.iter().any(|of| of["local"] == "2001:db8::1" && of["prefixlen"] == 64), "{shown}");
        let routes = [json("/usr/sbin/ip", "-j route"), json("/usr/sbin/ip", "-j -6 route")];
        let route = |to: &str| {
            routes
                .iter()
                .flat_map(|all| all.as_array().unwrap())
                .find(|route| route["dst"] == to)
                .unwrap()
                .clone()
        };
        let routed = route("198.51.100.0/24");
        assert_eq!((&routed["gateway"], &routed["metric"]), (&json!("192.0.2.9"), &json!(5)), "{routed}");
        assert_eq!(route("203.0.113.0/24")["scope"], "link");
        assert_eq!(route("2001:db8:1::/48")["gateway"], "2001:db8::2");
        drop(tap);
    });
}

// Shows 2.23.
#[test]
fn a_port_is_a_vlan_trunk() {
    in_own_network(|| {
        ip("link add br0 type bridge");
        let _tap = tap();
        let mut links = Links::open().unwrap();
        let port = index("vnet0");
        links.set_master(port, index("br0")).unwrap();
        if links.find(&name("br0")).unwrap().unwrap().vlan_filtering.is_none() {
            let trunk = PortVlans { tagged: &[7], ..PortVlans::default() };
            let error = links.set_port_vlans(port, &trunk).unwrap_err();
            assert!(matches!(error, LinkError::NoVlanFiltering { vid: 7, .. }), "{error:?}");
            return;
        }
        ip("link set br0 type bridge vlan_filtering 1");
        let of = |vlans: &PortVlans<'_>, links: &mut Links| {
            links.set_port_vlans(port, vlans).unwrap();
            let shown = json("/usr/sbin/bridge", "-j vlan show dev vnet0");
            let all = shown[0]["vlans"].as_array().unwrap().clone();
            all.into_iter()
                .map(|vlan| (vlan["vlan"].as_u64().unwrap(), vlan["flags"].clone()))
                .collect::<Vec<_>>()
        };
        let trunk = PortVlans { tagged: &[42, 47], ..PortVlans::default() };
        assert_eq!(of(&trunk, &mut links), [(42, Value::Null), (47, Value::Null)]);
        let native = PortVlans { untagged: Some(42), leaves_tagged: true, tagged: &[42, 47] };
        assert_eq!(of(&native, &mut links), [(42, json!(["PVID"])), (47, Value::Null)]);
        let untagged = PortVlans { leaves_tagged: false, ..native };
        assert_eq!(of(&untagged, &mut links), [(42, json!(["PVID", "Egress Untagged"])), (47, Value::Null)]);
    });
}
