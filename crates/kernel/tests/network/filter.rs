use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, MacvtapRequest, TapName, TapRequest, open_macvtap, open_tap,
};
use taptrail_kernel::filter::{
    Attachment, Chain, Field, FilterError, InterfaceFilter, Match, Nft, Rule, Rules, Value, Verdict,
    filter_hooks,
};
use taptrail_kernel::link::{Change, Links, MacvtapMode, MacvtapName, NewMacvtap};
use taptrail_record::{IfName, MacAddr};

use crate::frames::{Ear, arp, plain, tagged_arp};
use crate::lab::{gone, in_own_network, index, ip, name, opened, queues};

const GUEST: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 2]);

fn nft() -> Nft {
    Nft::discover().unwrap()
}

fn program(name: &str) -> Nft {
    Nft::at(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/network/programs").join(name))
}

/// A filter that passes what has this MAC as its source, in ARP too.
fn filter(ifindex: u32, ifname: IfName, attachment: Attachment, mac: MacAddr) -> InterfaceFilter {
    let foreign =
        |field| Rule { matches: vec![Match::is_not(field, Value::Mac(mac))], verdict: Verdict::Drop };
    let rules = vec![foreign(Field::EtherSource), foreign(Field::ArpSourceMac)];
    let chain = Chain { name: "from-guest".to_owned(), entry: Some(0), rules };
    let rules = Rules { from_guest: vec![chain], to_guest: Vec::new() };
    InterfaceFilter { ifindex, ifname, attachment, rules: rules.into() }
}

fn ruleset() -> String {
    let output = std::process::Command::new(nft().path()).args(["list", "ruleset"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A tap on a bridge, with a veth that receives the frames that pass.
fn tap() -> (Admitted, Ear, InterfaceFilter) {
    ip("link add br0 type bridge");
    ip("link add v0 type veth peer name v1");
    for link in ["br0", "v0", "v1"] {
        ip(&format!("link set {link} up"));
    }
    ip("link set v0 master br0");
    let path = Path::new(DEV_NET_TUN);
    let request = TapRequest { path, name: TapName::Pattern("vnet%d"), queues: queues(1), vnet_hdr: false };
    let device = opened(open_tap(&request)).remove(0);
    let ifindex = index("vnet0");
    let change = Change { master: Some(index("br0")), up: Some(true), ..Change::default() };
    Links::open().unwrap().configure(ifindex, &change).unwrap();
    let filter = filter(ifindex, name("vnet0"), Attachment::Tap, GUEST);
    (device, Ear::at(index("v1")), filter)
}

/// A macvtap on a veth, whose other end receives the frames that pass.
fn macvtap() -> (Admitted, Ear, InterfaceFilter) {
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    ip("link set v1 up");
    let new = NewMacvtap {
        name: MacvtapName::Pattern("macvtap%d".into()),
        lower_index: index("v0"),
        mode: MacvtapMode::Bridge,
        mac: GUEST,
        mtu: None,
    };
    let mut links = Links::open().unwrap();
    let link = links.create_macvtap(&new).unwrap();
    links.set_up(link.index, true).unwrap();
    let ifname = name("macvtap0");
    let wait = Duration::from_secs(20);
    let request = MacvtapRequest {
        ifname: &ifname,
        ifindex: link.index,
        rdev: links.macvtap_rdev(&ifname, link.index),
        queues: queues(1),
        vnet_hdr: false,
        wait,
    };
    let device = opened(open_macvtap(&request)).remove(0);
    let filter = filter(link.index, ifname, Attachment::Macvtap, GUEST);
    (device, Ear::at(index("v1")), filter)
}

fn frames() -> Vec<Vec<u8>> {
    vec![plain(GUEST, 1), plain(OTHER, 2), arp(GUEST, GUEST), arp(GUEST, OTHER), arp(OTHER, GUEST)]
}

const ALL: [bool; 5] = [true; 5];
const OWN: [bool; 5] = [true, false, true, false, false];

// Shows 2.4.
#[test]
fn a_taps_guest_can_only_send_with_its_own_mac() {
    in_own_network(|| {
        let (device, ear, filter) = tap();
        let last = plain(GUEST, 99);
        assert_eq!(ear.hear(&device, &frames(), &last), ALL);
        nft().apply(&filter).unwrap();
        assert_eq!(ear.hear(&device, &frames(), &last), OWN);
        // The kernel removes the tag before it filters, so the ARP inside is checked.
        let tagged = [tagged_arp(OTHER, GUEST), tagged_arp(GUEST, OTHER)];
        assert_eq!(ear.hear(&device, &tagged, &last), [false, false]);
        nft().remove(filter.ifindex).unwrap();
        assert_eq!(ear.hear(&device, &frames(), &last), ALL);
    });
}

// Shows 2.4.
#[test]
fn a_macvtaps_guest_can_only_send_with_its_own_mac() {
    in_own_network(|| {
        let (device, ear, filter) = macvtap();
        let last = plain(GUEST, 99);
        assert_eq!(ear.hear(&device, &frames(), &last), ALL);
        nft().apply(&filter).unwrap();
        assert_eq!(ear.hear(&device, &frames(), &last), OWN);
        let tagged = [tagged_arp(OTHER, GUEST), tagged_arp(GUEST, OTHER)];
        assert_eq!(ear.hear(&device, &tagged, &last), [false, true]);
        nft().remove(filter.ifindex).unwrap();
        assert_eq!(ear.hear(&device, &frames(), &last), ALL);
    });
}

#[test]
fn a_filter_is_replaced_as_a_whole_and_removed_as_often_as_one_likes() {
    in_own_network(|| {
        let (_device, _ear, filter) = tap();
        let nft = nft();
        assert!(filter_hooks().unwrap().is_empty());
        nft.remove(filter.ifindex).unwrap();
        nft.apply(&filter).unwrap();
        nft.apply(&self::filter(filter.ifindex, filter.ifname.clone(), Attachment::Tap, OTHER)).unwrap();
        assert!(filter_hooks().unwrap().into_keys().eq([filter.ifindex]));
        let rules = ruleset();
        assert!(rules.contains(&OTHER.to_string()) && !rules.contains(&GUEST.to_string()), "{rules}");
        for _ in 0..2 {
            nft.remove(filter.ifindex).unwrap();
            assert_eq!(ruleset(), "");
        }
    });
}

// Shows 2.11.
#[test]
fn what_stands_and_is_not_what_was_set_is_not_in_force() {
    in_own_network(|| {
        let (_device, _ear, filter) = tap();
        let nft = nft();
        nft.apply(&filter).unwrap();
        let rules = ruleset();
        let table = format!("taptrail_if{}", filter.ifindex);
        let elsewhere = |devices| {
            let hook = rules.replace("device \"vnet0\"", devices);
            assert_ne!(hook, rules, "{rules}");
            format!("delete table netdev {table}; {hook}")
        };
        let changes = [
            format!("add table netdev {table} {{ flags dormant; }}"),
            format!("flush chain netdev {table} from-guest"),
            format!("insert rule netdev {table} from-guest accept"),
            format!("add chain netdev {table} other"),
            format!("add set netdev {table} macs {{ type ether_addr; }}"),
            format!("add chain netdev {table} from-guest {{ policy drop; }}"),
            elsewhere("device \"v0\""),
            elsewhere("devices = { v0, vnet0 }"),
            format!("delete table netdev {table}; {}", rules.replace("priority filter", "priority 7")),
        ];
        for change in changes {
            nft.apply(&filter).unwrap();
            nft.verify(&filter).unwrap();
            let status = std::process::Command::new(nft.path()).arg(&change).status().unwrap();
            assert!(status.success(), "{change}");
            let error = nft.verify(&filter).unwrap_err();
            assert!(matches!(error, FilterError::Differs { .. }), "{change}: {error:?}");
        }
    });
}

#[test]
fn a_filter_outlives_its_interface_and_is_removed_all_the_same() {
    in_own_network(|| {
        let (device, _ear, filter) = tap();
        let nft = nft();
        nft.apply(&filter).unwrap();
        drop(device);
        assert!(gone("vnet0"));
        assert!(filter_hooks().unwrap().into_keys().eq([filter.ifindex]));
        nft.remove(filter.ifindex).unwrap();
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn an_interface_that_is_not_there_is_refused_and_nothing_waits_for_it() {
    in_own_network(|| {
        let filter = filter(4711, name("none"), Attachment::Tap, GUEST);
        let error = nft().apply(&filter).unwrap_err();
        // Linux before 6.16 refuses it by itself.
        let known = matches!(error, FilterError::NoInterface { .. } | FilterError::Refused { .. });
        assert!(known, "{error:?}");
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn an_interface_of_another_number_is_refused() {
    in_own_network(|| {
        let (_device, _ear, filter) = tap();
        let error = nft().apply(&InterfaceFilter { ifindex: filter.ifindex + 1, ..filter }).unwrap_err();
        assert!(matches!(error, FilterError::NoInterface { .. }), "{error:?}");
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn a_refusal_is_in_the_programs_own_words() {
    in_own_network(|| {
        let (_device, _ear, filter) = tap();
        let error = program("asks-nonsense").apply(&filter).unwrap_err();
        assert!(matches!(error, FilterError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("Error: syntax error"), "{error}");
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn a_name_that_is_a_pattern_for_nft_is_refused() {
    for ifname in ["vnet*", "a\"b", "a\\b"] {
        let filter = filter(1, name(ifname), Attachment::Tap, GUEST);
        let error = Nft::at("/nonexistent/nft").apply(&filter).unwrap_err();
        assert!(matches!(error, FilterError::Name { .. }), "{error:?}");
    }
}

// Shows 2.8.
#[test]
fn a_program_that_is_not_there_is_named() {
    let filter = filter(1, name("vnet0"), Attachment::Tap, GUEST);
    let error = Nft::at("/nonexistent/nft").apply(&filter).unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/nft can't be started");
}

// Shows 2.5.
#[test]
fn what_is_read_back_otherwise_than_asked_for_is_refused_and_removed() {
    in_own_network(|| {
        let (_device, _ear, filter) = tap();
        let error = program("forgets-arp").apply(&filter).unwrap_err();
        assert!(matches!(error, FilterError::Differs { .. }), "{error:?}");
        assert!(error.to_string().contains("saddr ether"), "{error}");
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn what_can_not_be_taken_back_is_said_to_be_left() {
    in_own_network(|| {
        let (_device, _ear, filter) = tap();
        let error = program("refuses").apply(&filter).unwrap_err();
        let FilterError::TableLeft { table, removal, source } = error else { panic!("{error:?}") };
        assert_eq!(table, format!("taptrail_if{}", filter.ifindex));
        assert!(removal.to_string().ends_with("failed (exit status: 3): not today"), "{removal}");
        assert!(source.to_string().ends_with("failed (exit status: 3): not today"), "{source}");
    });
}

// Shows 2.8.
#[test]
fn a_program_that_hangs_is_killed() {
    let start = Instant::now();
    let error = program("hangs").with_timeout(Duration::from_millis(150)).remove(1).unwrap_err();
    assert!(matches!(error, FilterError::TimedOut { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_program_that_never_stops_talking_is_killed() {
    let error = program("chatters").remove(1).unwrap_err();
    assert!(matches!(error, FilterError::TooMuchOutput { .. }), "{error:?}");
}

#[test]
fn a_child_that_keeps_the_programs_streams_is_not_waited_for() {
    let start = Instant::now();
    program("leaves-a-child").remove(1).unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
}
