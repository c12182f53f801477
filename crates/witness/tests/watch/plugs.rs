//! Opens, grants and releases are bound to the descriptors in QEMU, and end when those are gone.

use taptrail_witness::watch::{EventKind, GuestState};

use crate::lab::{Container, holdings, ip, lab, mac};
use crate::manager::{Domain, attach, detach, id, lasting_tap, macvtap, op_start, start, tap};
use crate::qemu::Qemu;

// Shows 13.1.
#[test]
fn a_guest_is_recorded_definitively_from_its_opens_to_its_closes() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1), macvtap(mac(2), 2)]);
        lab.round();
        let pid = domain.qemu.pid();
        lab.assert_recorded(pid);
        assert_eq!(lab.recorded_devices().len(), 3);
        assert!(
            lab.recorded_devices()
                .iter()
                .any(|line| line.ends_with("macvtap0 02") && line.contains("/dev/tap"))
        );
        assert_eq!(
            lab.holdings(),
            ["tun vnet0 01 x1 held - definitive", "macvtap macvtap0 02 x2 held - definitive"]
        );

        lab.attaches(&mut domain, "net9", tap("vnet3", mac(3), 2));
        lab.round();
        lab.assert_recorded(pid);
        lab.detaches(&mut domain, "net1", mac(2));
        // As libvirt does.
        ip("link delete macvtap0");
        lab.round();
        lab.assert_recorded(pid);
        assert_eq!(lab.released(), ["macvtap macvtap0 02 x2 released detach definitive"]);

        domain.qemu.kill();
        lab.round();
        assert_eq!(lab.recorded_devices(), [""; 0], "closed at once");
        lab.stops(&domain, "destroyed");
        lab.round();
        assert_eq!(lab.guests()[0].ended.as_ref().unwrap().1, "destroyed");
        let all = [
            "tun vnet0 01 x1 released stop definitive",
            "macvtap macvtap0 02 x2 released detach definitive",
            "tun vnet3 03 x2 released stop definitive",
        ];
        assert_eq!(lab.holdings(), all);
        assert_eq!(holdings(&lab.report_of_both()), all);
        assert_eq!(lab.findings(), [""; 0]);
        assert_eq!(lab.report().findings, []);
        assert!(lab.ledger().faults().unwrap().is_empty());

        let events: Vec<String> = lab.happened.iter().map(|event| brief(&event.kind)).collect();
        assert_eq!(
            events,
            [
                "opened 01",
                "opened 02",
                "started",
                "granted 01 1",
                "granted 02 2",
                "opened 03",
                "granted 03 2",
                "released 02",
                "ended",
                "stopped destroyed",
                "released 01",
                "released 03",
            ]
        );
    });
}

fn brief(what: &EventKind) -> String {
    match what {
        EventKind::Opened { mac, .. } => format!("opened {:02x}", mac.0[5]),
        EventKind::Granted { mac, descriptors, .. } => {
            format!("granted {:02x} {}", mac.0[5], descriptors.len())
        }
        EventKind::Released(holding) => format!("released {:02x}", holding.mac.0[5]),
        EventKind::BridgeChanged { from, to, .. } => format!("bridge {from:?} {to:?}"),
        EventKind::Found(finding) => finding.kind.as_str().to_owned(),
        EventKind::Guest { state, .. } => match state {
            GuestState::Started { .. } => "started".to_owned(),
            GuestState::Failed => "failed".to_owned(),
            GuestState::Stopped { reason } => format!("stopped {reason}"),
            GuestState::Ended { .. } => "ended".to_owned(),
            GuestState::Gone { .. } => "gone".to_owned(),
        },
    }
}

// Shows 13.2.
#[test]
fn one_mac_comes_and_goes_and_each_time_is_a_holding() {
    lab(|mut lab| {
        let mut domain = lab.boots(Vec::new());
        for round in 0..3 {
            lab.attaches(&mut domain, "net0", tap(&format!("vnet{round}"), mac(1), 1));
            // The log may be read late: then it has the next open before the close.
            if round != 1 {
                lab.round();
            }
            lab.detaches(&mut domain, "net0", mac(1));
            if round != 1 {
                lab.round();
            }
        }
        lab.assert_recorded(domain.qemu.pid());
        assert_eq!(
            lab.holdings(),
            [
                "tun vnet0 01 x1 released detach definitive",
                "tun - 01 x? released detach inferred",
                "tun vnet2 01 x1 released detach definitive"
            ],
            "what was gone before the watcher looked is inferred"
        );
        assert_eq!(lab.findings(), [""; 0]);
    });
}

// Shows 13.4.
#[test]
fn the_closed_descriptor_shows_which_of_two_with_one_mac_was_unplugged() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1), tap("vnet1", mac(1), 1)]);
        lab.round();
        lab.detaches(&mut domain, "net1", mac(1));
        lab.round();
        lab.assert_recorded(domain.qemu.pid());
        assert_eq!(
            lab.holdings(),
            ["tun vnet0 01 x1 held - definitive", "tun vnet1 01 x1 released detach definitive"]
        );
        lab.detaches(&mut domain, "net0", mac(1));
        lab.round();
        assert_eq!(lab.findings(), ["duplicate-mac"]);
        assert!(lab.holdings().iter().all(|line| line.ends_with("released detach definitive")));
    });
}

#[test]
fn a_tap_that_is_given_again_under_its_old_number_was_given_up_before() {
    lab(|mut lab| {
        ip("tuntap add dev own0 mode tap vnet_hdr");
        let mut domain = lab.boots(vec![lasting_tap("own0", mac(1), 1)]);
        lab.round();
        let before = lab.recorded_devices();
        // All of this before the watcher looks again.
        lab.detaches(&mut domain, "net0", mac(1));
        lab.attaches(&mut domain, "net1", lasting_tap("own0", mac(1), 1));
        lab.run_past_patience();
        assert_eq!(lab.recorded_devices(), before, "the same number and interface");
        assert_eq!(
            lab.holdings(),
            ["tun own0 01 x1 released detach inferred", "tun own0 01 x1 held - definitive"]
        );
        assert_eq!(lab.findings(), [""; 0]);
    });
}

// Shows 13.5.
#[test]
fn a_change_of_bridge_closes_nothing() {
    lab(|mut lab| {
        ip("link add br1 type bridge");
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        let before = lab.recorded_devices();
        ip("link set vnet0 master br1");
        // The watcher may look between the two records.
        lab.log_record(&domain.id, detach(mac(1)));
        lab.round();
        lab.log_record(&domain.id, attach(mac(1)));
        lab.run_past_patience();
        assert_eq!(lab.recorded_devices(), before);
        lab.log_record(&domain.id, detach(mac(1)));
        lab.log_failure(&domain.id, attach(mac(1)));
        lab.run_past_patience();
        assert_eq!(lab.recorded_devices(), before);
        assert_eq!(lab.findings(), ["reattached-without-open", "attach-failed"]);
        lab.detaches(&mut domain, "net0", mac(1));
        lab.round();
        assert_eq!(lab.released(), ["tun vnet0 01 x1 released detach definitive"]);
    });
}

// Shows 13.5.
#[test]
fn a_renamed_tap_is_not_a_released_one() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        ip("link set vnet0 name uplink7");
        lab.run_past_patience();
        assert_eq!(lab.recorded_devices().len(), 1);
        assert_eq!(lab.findings(), [""; 0]);
        lab.detaches(&mut domain, "net0", mac(1));
        lab.round();
        assert_eq!(lab.released(), ["tun vnet0 01 x1 released detach definitive"]);
    });
}

// Shows 13.5.
#[test]
fn a_tap_that_is_moved_into_a_container_is_not_a_released_one() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![tap("vnet0", mac(1), 1)]);
        lab.round();
        let mut links = taptrail_kernel::link::Links::open().unwrap();
        let number = links.find(&"vnet0".parse().unwrap()).unwrap().unwrap().index;
        let container = Container::start();
        // Its index is taken by another link there.
        let inside = format!("-t {} -n /sbin/ip link add taken index {number} type bridge", container.pid());
        let done = std::process::Command::new("/usr/bin/nsenter").args(inside.split(' ')).status().unwrap();
        assert!(done.success());
        container.takes("vnet0", "");
        lab.attaches(&mut domain, "net1", tap("vnet1", mac(2), 1));
        lab.run_past_patience();
        assert_eq!(lab.findings(), [""; 0]);
        assert_eq!(lab.released(), [""; 0]);
        lab.assert_recorded(domain.qemu.pid());
        lab.detaches(&mut domain, "net0", mac(1));
        lab.round();
        assert_eq!(lab.released(), ["tun vnet0 01 x1 released detach definitive"]);
    });
}

// Shows 13.5.
#[test]
fn a_link_that_vanishes_is_no_release_either() {
    lab(|mut lab| {
        let mut domain = lab.boots(vec![macvtap(mac(1), 1)]);
        lab.round();
        ip("link del macvtap0");
        lab.run_past_patience();
        assert_eq!(lab.recorded_devices().len(), 1);
        lab.detaches(&mut domain, "net0", mac(1));
        lab.round();
        assert_eq!(lab.released(), ["macvtap macvtap0 01 x1 released detach definitive"]);
        assert_eq!(lab.findings(), [""; 0]);
    });
}

// Shows 13.9.
#[test]
fn a_guest_in_a_container_is_found_by_its_number_there() {
    lab(|mut lab| {
        let id = id();
        let opened = tap("vnet0", mac(1), 2);
        lab.log_open(&id, &opened);
        let mut qemu = Qemu::in_container(id.uuid);
        qemu.give("net0", &opened.devices);
        drop(opened);
        lab.log_record(&id, start(mac(1)));
        // Its manager is in the container, too. Outside, that is the pid of the first process of
        // all.
        lab.log_record(&id, op_start(1));
        let mut domain = Domain { id, qemu };
        lab.run_until("its devices", |lab| lab.recorded_devices().len() == 2);
        lab.assert_recorded(domain.qemu.pid());
        assert_eq!(lab.guests()[0].qemu.unwrap().pid, domain.qemu.pid());
        lab.attaches(&mut domain, "net1", tap("vnet1", mac(2), 1));
        lab.round();
        lab.assert_recorded(domain.qemu.pid());
        // The next watcher finds it as well.
        lab.watcher = None;
        lab.watch();
        lab.detaches(&mut domain, "net1", mac(2));
        lab.round();
        lab.assert_recorded(domain.qemu.pid());
        domain.qemu.kill();
        lab.run_until("its end", |lab| lab.recorded_devices().is_empty());
        lab.stops(&domain, "shutdown");
        lab.run_until("the account's end", |lab| lab.guests()[0].ended.is_some());
        assert_eq!(
            lab.holdings(),
            ["tun vnet0 01 x2 released stop definitive", "tun vnet1 02 x1 released detach definitive"]
        );
        assert_eq!(lab.findings(), [""; 0]);
        assert_eq!(lab.guests().len(), 1);
        assert_eq!(lab.guests()[0].ended.as_ref().unwrap().1, "shutdown");
    });
}
