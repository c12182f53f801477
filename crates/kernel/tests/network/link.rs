use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::io::Errno;
use taptrail_kernel::changes::{Changed, Changes};
use taptrail_kernel::device::{DEV_NET_TUN, TapName, TapRequest, open_tap};
use taptrail_kernel::link::{Change, Link, LinkError, Links};
use taptrail_record::MacAddr;

use crate::lab::{details, find, in_own_network, index, ip, name, opened, queues};

const MAC: MacAddr = MacAddr([0xfe, 0x54, 0, 0, 0, 1]);

fn bridge_and_veth() -> (u32, u32) {
    ip("link add br0 type bridge");
    ip("link add v0 type veth peer name v1");
    (index("br0"), index("v0"))
}

#[test]
fn a_link_is_found_by_any_of_its_names_and_by_number() {
    in_own_network(|| {
        let (bridge, veth) = bridge_and_veth();
        ip("link property add dev br0 altname lan-bridge");
        let mut links = Links::open().unwrap();
        let found = links.find(&name("lan-bridge")).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.index), ("br0", bridge));
        assert_eq!(found.kind.as_deref(), Some("bridge"));
        assert_eq!(links.by_index(veth).unwrap().unwrap().lower, Some(index("v1")));
        assert_eq!(links.find(&name("none")).unwrap(), None);
        assert_eq!(links.by_index(4711).unwrap(), None);
    });
}

#[test]
fn all_links_are_listed_however_many() {
    in_own_network(|| {
        for number in 0..100 {
            ip(&format!("link add b{number} type bridge"));
        }
        let all = Links::open().unwrap().all().unwrap();
        assert_eq!(all.iter().filter(|link| link.kind.as_deref() == Some("bridge")).count(), 100);
        assert!(all.iter().any(|link| link.name == "lo" && link.kind.is_none()));
    });
}

#[test]
fn settings_are_changed_together() {
    in_own_network(|| {
        let (bridge, veth) = bridge_and_veth();
        let change = Change { mac: Some(MAC), mtu: Some(1400), master: Some(bridge), up: Some(true) };
        Links::open().unwrap().configure(veth, &change).unwrap();
        let link = find("v0").unwrap();
        assert_eq!((link.mac, link.mtu, link.master, link.up), (Some(MAC), 1400, Some(bridge), true));
    });
}

#[test]
fn settings_are_changed_one_by_one() {
    in_own_network(|| {
        let (bridge, veth) = bridge_and_veth();
        let mut links = Links::open().unwrap();
        links.set_mac(veth, MAC).unwrap();
        links.set_mtu(veth, 1300).unwrap();
        links.set_master(veth, bridge).unwrap();
        links.set_up(veth, true).unwrap();
        let link = find("v0").unwrap();
        assert_eq!((link.mac, link.mtu, link.master, link.up), (Some(MAC), 1300, Some(bridge), true));

        links.set_master(veth, 0).unwrap();
        links.set_up(veth, false).unwrap();
        let link = find("v0").unwrap();
        assert_eq!((link.master, link.up), (None, false));
    });
}

#[test]
fn a_refusal_names_the_link_and_what_was_to_be_done() {
    in_own_network(|| {
        let (bridge, veth) = bridge_and_veth();
        let mut links = Links::open().unwrap();
        let error = links.set_mtu(veth, 1_000_000).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::INVAL));
        let text = error.to_string();
        assert!(text.starts_with("The kernel refused to set its MTU (link 'v0'"), "{text}");
        assert!(text.contains("mtu"), "the kernel's own words are missing: {text}");

        let error = links.set_master(veth, 4711).unwrap_err();
        assert!(!error.is_missing(), "it is the bridge that is missing: {error}");
        assert!(error.to_string().contains("make it a bridge's port (link 'v0'"), "{error}");

        let error = links.set_master(bridge, bridge).unwrap_err();
        assert!(matches!(error, LinkError::Refused { .. }), "{error:?}");
    });
}

#[test]
fn a_link_that_is_gone_can_be_told_from_one_that_can_not_be_deleted() {
    in_own_network(|| {
        let (bridge, _) = bridge_and_veth();
        let mut links = Links::open().unwrap();
        links.delete(bridge).unwrap();
        assert_eq!(find("br0"), None);
        let error = links.delete(bridge).unwrap_err();
        assert!(error.is_missing(), "{error:?}");
        assert_eq!(error.to_string(), format!("There is no link number {bridge} to delete it"));
        let error = links.delete(index("lo")).unwrap_err();
        assert!(!error.is_missing(), "{error:?}");
        assert_eq!(error.errno(), Some(Errno::OPNOTSUPP));
    });
}

#[test]
fn a_port_is_isolated_and_freed() {
    in_own_network(|| {
        let (bridge, veth) = bridge_and_veth();
        let mut links = Links::open().unwrap();
        let error = links.set_isolated(veth, true).unwrap_err();
        assert!(matches!(error, LinkError::NotAPort { .. }), "{error:?}");
        links.set_master(veth, bridge).unwrap();
        for isolated in [true, false] {
            links.set_isolated(veth, isolated).unwrap();
            assert_eq!(details("v0")["linkinfo"]["info_slave_data"]["isolated"], isolated);
        }
    });
}

#[test]
fn a_vlan_needs_a_bridges_port() {
    in_own_network(|| {
        let (_, veth) = bridge_and_veth();
        let error = Links::open().unwrap().set_port_vlan(veth, 7).unwrap_err();
        assert!(matches!(error, LinkError::NotAPort { .. }), "{error:?}");
    });
}

/// Whichever of the two this machine's kernel is.
// Shows 2.3.
#[test]
fn a_vlan_is_set_or_its_lack_is_named() {
    in_own_network(|| {
        let (bridge, veth) = bridge_and_veth();
        let mut links = Links::open().unwrap();
        links.set_master(veth, bridge).unwrap();
        let error = links.set_port_vlan(veth, 7).unwrap_err();
        if links.by_index(bridge).unwrap().unwrap().vlan_filtering.is_none() {
            assert!(matches!(error, LinkError::NoVlanFiltering { .. }), "{error:?}");
            assert!(error.to_string().contains("CONFIG_BRIDGE_VLAN_FILTERING"), "{error}");
            return;
        }
        assert!(matches!(error, LinkError::VlanFilteringOff { .. }), "{error:?}");
        ip("link set br0 type bridge vlan_filtering 1");
        links.set_port_vlan(veth, 7).unwrap();
        let output = std::process::Command::new("/usr/sbin/bridge")
            .args(["-json", "vlan", "show", "dev", "v0"])
            .output()
            .unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let vlans = shown[0]["vlans"].as_array().unwrap();
        assert_eq!(vlans.len(), 1, "{shown}");
        assert_eq!(vlans[0]["vlan"], 7);
        assert_eq!(vlans[0]["flags"], serde_json::json!(["PVID", "Egress Untagged"]));
    });
}

// Shows 7.8.
#[test]
fn a_tap_is_attached_as_long_as_an_open_file_is_whatever_it_does_to_its_carrier() {
    in_own_network(|| {
        ip("tuntap add dev tap1 mode tap");
        ip("tuntap add dev tap2 mode tap multi_queue");
        let mut links = Links::open().unwrap();
        for (name, number) in [("tap1", 1), ("tap2", 2)] {
            let index = index(name);
            assert_eq!(links.tap_is_attached(index).unwrap(), Some(false), "{name}");
            let mut devices = opened(open_tap(&TapRequest {
                path: Path::new(DEV_NET_TUN),
                name: TapName::Existing(&name.parse().unwrap()),
                queues: queues(number),
                vnet_hdr: true,
            }));
            assert_eq!(links.tap_is_attached(index).unwrap(), Some(true), "{name}");
            // A hidden holder: a copy of the last descriptor, and no carrier.
            let copy = devices.pop().unwrap().as_fd().try_clone_to_owned().unwrap();
            drop(devices);
            ip(&format!("link set dev {name} up"));
            ip(&format!("link set dev {name} carrier off"));
            assert_eq!(links.tap_is_attached(index).unwrap(), Some(true), "{name}");
            drop(copy);
            assert_eq!(links.tap_is_attached(index).unwrap(), Some(false), "{name}");
            ip(&format!("link delete dev {name}"));
            assert_eq!(links.tap_is_attached(index).unwrap(), None, "{name}");
        }
        ip("link add br0 type bridge");
        assert_eq!(links.tap_is_attached(index("br0")).unwrap(), None);
    });
}

// Shows 2.10.
#[test]
fn a_link_is_found_by_its_alias_renamed_and_in_another_namespace() {
    in_own_network(|| {
        let mut links = Links::open().unwrap();
        ip("link add one type bridge");
        links.set_alias(index("one"), "of guest 7").unwrap();
        assert_eq!(find("one").unwrap().alias.as_deref(), Some("of guest 7"));
        ip("link set dev one name two");
        let found = links.find_alias("of guest 7").unwrap().unwrap();
        assert_eq!((found.link.name.as_str(), found.namespace), ("two", None));
        assert_eq!(links.find_alias("of guest 8").unwrap(), None);
        links.set_alias(index("two"), "").unwrap();
        assert_eq!(find("two").unwrap().alias, None);

        let (there, stay) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        let (send, leave) = (there.0, stay.1);
        let other = std::thread::spawn(move || {
            in_own_network(move || {
                let thread = rustix::thread::gettid().as_raw_nonzero().get();
                send.send(thread).unwrap();
                let _ = leave.recv();
                ip("-json link show")
            })
        });
        let thread = there.1.recv().unwrap();
        ip("link add mover type veth peer name stayer");
        links.set_alias(index("mover"), "of guest 9").unwrap();
        ip(&format!("link set dev mover netns /proc/{thread}/ns/net"));
        let found = links.find_alias("of guest 9").unwrap().unwrap();
        assert_eq!(found.link.name, "mover");
        assert!(found.namespace.is_some());
        links.delete_placed(&found).unwrap();
        assert_eq!(links.find_alias("of guest 9").unwrap(), None);
        assert!(links.delete_placed(&found).unwrap_err().is_missing());
        drop(stay.0);
        assert!(!other.join().unwrap().contains("mover"));
    });
}

#[test]
fn a_move_is_told_from_a_deletion() {
    in_own_network(|| {
        let (there, stay) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        let (send, leave) = (there.0, stay.1);
        let other = std::thread::spawn(move || {
            in_own_network(move || {
                send.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
                let _ = leave.recv();
            });
        });
        let thread = there.1.recv().unwrap();
        let mut changes = Changes::subscribe().unwrap();
        for name in ["mover", "goner", "stayer"] {
            ip(&format!("link add {name} type bridge"));
        }
        ip("link add free type veth peer name far");
        let (goner, stayer, free) = (index("goner"), index("stayer"), index("free"));
        for link in [goner, stayer, free] {
            changes.follow(link);
            // It may have left before it was followed.
            assert!(changes.may_be_elsewhere(link));
            changes.settle(link);
        }
        ip("link delete goner");
        ip(&format!("link set dev free netns /proc/{thread}/ns/net"));
        assert!(changes.may_be_elsewhere(free) && !changes.may_be_elsewhere(goner));
        assert!(!changes.may_be_elsewhere(stayer));
        // A link that is not followed is not reported, and takes no room from those that are.
        let mut links = Links::open().unwrap();
        let mover = index("mover");
        let mut reported = [goner, free];
        reported.sort_unstable();
        assert_eq!(changes.take().unwrap().links, reported);
        (0..10_000).for_each(|mtu| links.set_mtu(mover, 1000 + mtu % 400).unwrap());
        assert!(changes.may_be_elsewhere(mover) && !changes.may_be_elsewhere(stayer));
        assert_eq!(changes.take().unwrap(), Changed::default());
        changes.settle(free);
        assert!(!changes.may_be_elsewhere(free));
        // More notifications than fit: the loss is reported.
        (0..10_000).for_each(|mtu| links.set_mtu(stayer, 1000 + mtu % 400).unwrap());
        assert!(changes.may_be_elsewhere(stayer));
        drop(stay.0);
        other.join().unwrap();
    });
}

#[test]
fn a_list_is_whole_while_others_make_and_delete_links() {
    in_own_network(|| {
        let mut links = Links::open().unwrap();
        for number in 0..60 {
            ip(&format!("link add stays{number} type bridge"));
        }
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                let mut made = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    ip("link add comes type bridge");
                    ip("link delete comes");
                    made += 1;
                }
                made
            });
            let stays = |all: Vec<Link>| all.iter().filter(|link| link.name.starts_with("stays")).count();
            let found: Vec<_> = (0..300).map(|_| links.all().map(stays)).collect();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(found.iter().all(|found| matches!(found, Ok(60))), "{found:?}");
            assert!(others.join().unwrap() > 0);
        });
    });
}
