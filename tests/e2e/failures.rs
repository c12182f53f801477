//! A step that fails is rolled back, and the trail reports it as it was.

use std::os::unix::fs::PermissionsExt;

use crate::world::{EMPTY, World, mac};
use serde_json::json;
use taptrail_kernel::proc::Signal;

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";

// Shows 2.9.
#[test]
fn a_missing_bridge_is_named_before_anything_is_opened() {
    let world = World::new();
    world
        .try_start("web1", &["--nic", "bridge=nope,mac=52:54:00:00:00:01"], &EMPTY)
        .fails(1, "Bridge 'nope' doesn't exist");
    let guest = world.start("web2", &[]);
    world.attach(&guest, "bridge=nope,mac=52:54:00:00:00:01").fails(1, "Bridge 'nope' doesn't exist");
    world.attach(&guest, "bridge=lower,mac=52:54:00:00:00:01").fails(1, "'lower' is a veth, not a bridge");
    world.stop(&guest);
    assert_eq!(
        world.record_lines(),
        [
            "start 01 FAILED",
            "guest booted FAILED",
            "guest booted",
            "attach 01 FAILED",
            "attach 01 FAILED",
            "guest destroyed",
        ]
    );
    world.assert_clean();
}

// Shows 2.9.
#[test]
fn a_missing_lower_link_is_named() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    world.attach(&guest, "macvtap=nope,mac=52:54:00:00:00:01").fails(1, "Lower link 'nope' doesn't exist");
    world.attach(&guest, "tap=nope,mac=52:54:00:00:00:01").fails(1, "Tap 'nope' doesn't exist");
    world.stop(&guest);
    world.assert_clean();
}

// Shows 1.9.
#[test]
fn vhost_on_without_a_device_fails_and_the_tap_is_closed() {
    let world = World::new();
    let missing = world.path("vhost-net");
    let spec = format!("bridge=br0,mac=52:54:00:00:00:01,vhost=on,vhost-path={}", missing.display());
    world.try_start("web1", &["--nic", &spec], &EMPTY).fails(1, "No such file or directory");
    let guest = world.start("web2", &[]);
    world.attach(&guest, &spec).fails(1, "vhost-net");
    assert_eq!(guest.holds(), Vec::<String>::new());
    world.stop(&guest);
    // The path does not show the kind, and a device that was not opened has no number.
    let opens = ["open 01 tun vnet0 q0", "open 01 unknown q0 FAILED"];
    assert_eq!(
        world.record_lines()[..5],
        [opens[0], opens[1], "start 01 FAILED", "close 01 tun vnet0 q0", "guest booted FAILED",]
    );
    assert_eq!(
        world.record_lines()[5..],
        ["guest booted", opens[0], opens[1], "attach 01 FAILED", "close 01 tun vnet0 q0", "guest destroyed",]
    );
    let trail = world.trail();
    assert_eq!(trail["holdings"][0]["state"], "never-granted");
    assert_eq!(trail["holdings"][1]["state"], "open-failed");
    world.assert_clean();
}

// Shows 1.10.
#[test]
fn vhost_auto_goes_on_without_a_device_and_says_so() {
    let world = World::new();
    let missing = world.path("vhost-net");
    let spec = format!("bridge=br0,mac=52:54:00:00:00:01,vhost-path={}", missing.display());
    let guest = world.start("web1", &["--nic", &spec]);
    assert_eq!(guest.holds(), ["tun vnet0"]);
    assert_eq!(world.nics(&guest)[0]["vhost"], false);
    assert!(world.log("web1").contains("goes on without vhost-net"), "{}", world.log("web1"));
    let attached = world.attach(&guest, &spec.replace(":01", ":02")).ok().stdout;
    let says =
        format!("attached: 'vnet1' without vhost-net ({} can't be opened), 1 descriptor", missing.display());
    assert!(attached.contains(&says), "{attached}");
    world.stop(&guest);
    assert_eq!(world.record_lines()[..3], ["open 01 tun vnet0 q0", "open 01 unknown q0 FAILED", "start 01"]);
    world.assert_clean();
}

// Shows 1.13.
#[test]
fn a_false_vhost_net_never_reaches_qemu() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    for (spec, says) in [("vhost=on,vhost-path=/dev/null", "1:3"), ("vhost-path=/dev/net/tun", "10:200")] {
        world.attach(&guest, &format!("bridge=br0,mac=52:54:00:00:00:01,{spec}")).fails(1, says);
    }
    assert!(guest.is_alive());
    world.stop(&guest);
    // The open(2) of the wrong device succeeded, and is on record as what it is.
    assert_eq!(
        world.record_lines()[1..6],
        [
            "open 01 tun vnet0 q0",
            "open 01 unknown q0",
            "attach 01 FAILED",
            "close 01 tun vnet0 q0",
            "close 01 unknown q0",
        ]
    );
    world.assert_clean();
}

// Shows 1.13.
#[test]
fn a_false_tun_is_refused() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    world
        .attach(&guest, "bridge=br0,mac=52:54:00:00:00:01,vhost=off,tun-path=/dev/null")
        .fails(1, "/dev/null");
    world.stop(&guest);
    assert_eq!(world.record_lines()[1..4], ["open 01 unknown q0", "attach 01 FAILED", "close 01 unknown q0"]);
    world.assert_clean();
}

/// Replaces nft by this script.
fn replace_nft(world: &mut World, script: &str) {
    let path = world.path("nft");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    world.extra.push(("TAPTRAIL_NFT".to_owned(), path.display().to_string()));
}

// Shows 2.6.
#[test]
fn a_refused_filter_leaves_an_open_that_was_never_granted() {
    let mut world = World::new();
    replace_nft(&mut world, "echo 'Error: no such thing as filters' >&2; exit 1");
    let filtered = format!("{ONE},filter=no-mac-spoofing");
    world.try_start("web1", &["--nic", &filtered], &EMPTY).fails(1, "no such thing as filters");
    let guest = world.start("web2", &[]);
    world.attach(&guest, &filtered).fails(1, "no such thing as filters");
    world
        .attach(&guest, "macvtap=lower,mac=52:54:00:00:00:02,vhost=off,filter=no-mac-spoofing")
        .fails(1, "Filter");
    assert_eq!(guest.holds(), Vec::<String>::new());
    world.stop(&guest);
    assert_eq!(
        world.record_lines(),
        [
            "open 01 tun vnet0 q0",
            "start 01 FAILED",
            "close 01 tun vnet0 q0",
            "guest booted FAILED",
            "guest booted",
            "open 01 tun vnet0 q0",
            "attach 01 FAILED",
            "close 01 tun vnet0 q0",
            "open 02 macvtap macvtap0 q0",
            "attach 02 FAILED",
            "close 02 macvtap macvtap0 q0",
            "guest destroyed",
        ]
    );
    let trail = world.trail();
    for holding in trail["holdings"].as_array().unwrap() {
        assert_eq!((&holding["state"], &holding["granted"]), (&json!("never-granted"), &json!(null)));
    }
    assert!(
        trail["findings"].as_array().unwrap().iter().any(|finding| finding["kind"] == "open-without-grant")
    );
    world.assert_clean();
}

// Shows 2.5.
#[test]
fn a_filter_that_reads_back_otherwise_is_refused() {
    for script in [
        // An nft that sets nothing and reports success.
        "cat >/dev/null; echo '{\"nftables\": []}'",
        // One that leaves out the last rule of what it sets.
        "if [ \"$2\" = -f ]; then /bin/sed 's/\\(.*\\),{\"add\":{\"rule\".*/\\1]}/' | /usr/sbin/nft \"$@\"; exit; fi\n\
         exec /usr/sbin/nft \"$@\"",
    ] {
        let mut world = World::new();
        replace_nft(&mut world, script);
        let guest = world.start("web1", &[]);
        for filter in ["no-mac-spoofing", "clean-traffic,ip=192.0.2.5"] {
            world.attach(&guest, &format!("{ONE},filter={filter}")).fails(1, "Filter of interface");
            assert_eq!((guest.holds(), world.ruleset()), (Vec::<String>::new(), String::new()));
        }
        world.stop(&guest);
        for holding in world.trail()["holdings"].as_array().unwrap() {
            assert_eq!(holding["state"], "never-granted");
        }
        world.assert_clean();
    }
}

// Shows 5.9, 5.10.
#[test]
fn a_command_line_that_qemu_refuses_ends_with_qemus_code_and_a_closed_account() {
    let world = World::new();
    let wrong: Vec<_> = EMPTY.iter().copied().chain(["-device", "no-such-device"]).collect();
    let done = world.try_start("web1", &["--nic", ONE], &wrong);
    done.fails(1, "QEMU refused to start the guest");
    assert!(world.log("web1").contains("no-such-device"), "QEMU's own words are kept: {}", world.log("web1"));
    assert_eq!(
        world.record_lines(),
        ["open 01 tun vnet0 q0", "start 01 FAILED", "close 01 tun vnet0 q0", "guest booted FAILED",]
    );
    assert_eq!(world.trail()["holdings"][0]["state"], "never-granted");
    world.assert_clean();
}

// Shows 5.9.
#[test]
fn a_program_that_cannot_run_closes_the_account_too() {
    let world = World::new();
    let wrong = world.path("qemu");
    std::fs::write(&wrong, "not a program").unwrap();
    let wrong = wrong.display().to_string();
    world.try_start("web1", &["--nic", ONE], &[&wrong]).fails(1, "can't be run");
    assert_eq!(world.record_lines().last().unwrap(), "guest booted FAILED");
    world.assert_clean();
}

// Shows 6.3.
#[test]
fn a_nic_that_qemu_refuses_is_taken_back() {
    let world = World::new();
    let taken: Vec<_> = EMPTY.iter().copied().chain(["-device", "pcie-root-port,id=dup,chassis=9"]).collect();
    let guest = world.start_with("web1", &[], &taken);
    world.attach(&guest, &format!("{ONE},id=dup")).fails(1, "QEMU refused device_add");
    assert_eq!(guest.holds(), Vec::<String>::new());
    assert_eq!(world.nics(&guest), json!([]));
    world.attach(&guest, ONE).ok();
    world.stop(&guest);
    assert_eq!(
        world.record_lines()[1..4],
        ["open 01 tun vnet0 q0", "attach 01 FAILED", "close 01 tun vnet0 q0"]
    );
    world.assert_clean();
}

// Shows 6.4.
#[test]
fn a_netdev_that_qemu_refuses_is_taken_back() {
    let world = World::new();
    let taken: Vec<_> = EMPTY.iter().copied().chain(["-netdev", "user,id=host-dup"]).collect();
    let guest = world.start_with("web1", &[], &taken);
    world.attach(&guest, &format!("{ONE},id=dup,queues=2")).fails(1, "QEMU refused netdev_add");
    assert_eq!(guest.holds(), Vec::<String>::new());
    world.stop(&guest);
    assert_eq!(
        world.record_lines()[1..6],
        [
            "open 01 tun vnet0 q0",
            "open 01 tun vnet0 q1",
            "attach 01 FAILED",
            "close 01 tun vnet0 q0",
            "close 01 tun vnet0 q1",
        ]
    );
    world.assert_clean();
}

// Shows 4.5, 6.6.
#[test]
fn a_qemu_that_is_killed_in_the_middle_of_an_attach_leaves_nothing_behind() {
    let mut world = World::new();
    world.extra.push(("FAILPOINTS".to_owned(), "attach::netdev=sleep(2000)".to_owned()));
    let guest = world.start("web1", &[]);
    let attach = world.command(["attach", "web1", "--nic", ONE]).spawn().unwrap();
    world.until("the descriptor is in QEMU", || guest.holds() == ["tun vnet0"]);
    guest.kill();
    let status = attach.wait_with_output().unwrap().status;
    assert_eq!(status.code(), Some(1));
    world.until("the guest has ended", || !world.run_dir().join("web1/lock").exists());
    assert!(
        world.log("web1").contains("has ended (crashed)"),
        "the log of a crash is kept: {}",
        world.log("web1")
    );
    assert_eq!(
        world.record_lines(),
        [
            "guest booted",
            "open 01 tun vnet0 q0",
            "attach 01 FAILED",
            "close 01 tun vnet0 q0",
            "guest crashed",
        ]
    );
    world.assert_clean();
}

// Shows 7.2.
#[test]
fn a_nic_that_the_guest_does_not_release_in_time_stays_held() {
    let world = World::new();
    let guest = world.start_with("web1", &["--nic", ONE], &EMPTY[..8]);
    world.detach(&guest, 1, &["--timeout", "200ms"]).fails(3, "holds it still");
    assert_eq!(guest.holds(), ["tun vnet0"]);
    assert_eq!(world.trail()["holdings"][0]["state"], "held");
    assert!(
        world.trail()["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|finding| finding["kind"] == "detach-failed")
    );
    world.stop(&guest);
    world.assert_clean();
}

// Shows 8.4.
#[test]
fn a_stop_ends_a_detach_that_waits() {
    let world = World::new();
    let guest = world.start_with("web1", &["--nic", ONE], &EMPTY[..8]);
    let mac = mac(1);
    let waiting = world.command(["detach", "web1", &mac, "--timeout", "1h"]).spawn().unwrap();
    world.until("the detach waits", || world.nics(&guest)[0]["state"] == "unplugging");
    world.stop(&guest);
    assert_eq!(waiting.wait_with_output().unwrap().status.code(), Some(1));
    world.assert_clean();
}

// Shows 8.2.
#[test]
fn a_guest_that_does_not_shut_down_in_time_runs_on() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.taptrail(["stop", "web1", "--timeout", "200ms"]).fails(3, "did not shut down in time");
    assert!(guest.is_alive());
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 8.5.
#[test]
fn a_qemu_that_answers_nothing_is_killed_by_force() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    guest.signal(Signal::STOP);
    // Its monitor is silent, and its descriptors are visible nevertheless.
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.stop(&guest);
    assert!(!guest.is_alive());
    assert_eq!(world.record_lines()[3..], ["close 01 tun vnet0 q0", "guest destroyed"]);
    world.assert_clean();
}

// Shows 8.6.
#[test]
fn a_start_may_be_stopped_before_qemu_answers() {
    let world = World::new();
    let silent = world.path("qemu");
    std::fs::write(&silent, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&silent, PermissionsExt::from_mode(0o755)).unwrap();
    let mut start =
        world.command(["run", "--name", "web1", "--nic", ONE, "--"]).arg(&silent).spawn().unwrap();
    world.until("the start waits", || {
        world.try_json(["list", "--json"]).is_some_and(|all| all[0]["state"] == "starting")
    });
    world.until("the tap is open", || world.links() == ["vnet0"]);
    world.taptrail(["stop", "web1"]).ok();
    assert_eq!(start.wait().unwrap().code(), Some(1));
    assert_eq!(
        world.record_lines(),
        ["open 01 tun vnet0 q0", "start 01 FAILED", "close 01 tun vnet0 q0", "guest booted FAILED"]
    );
    world.assert_clean();
}

// Shows 5.12.
#[test]
fn an_error_in_a_spec_is_pointed_at() {
    let world = World::new();
    for (spec, says) in [
        ("bridge=br0,colour=red", "colour"),
        ("bridge=br0,mac=52:54:00", "52:54:00"),
        ("mac=52:54:00:00:00:01", "bridge="),
    ] {
        let done = world.try_start("web1", &["--nic", spec], &EMPTY);
        assert!(done.stderr.contains('^'), "{}", done.stderr);
        done.fails(2, says);
    }
    let guest = world.start("web2", &["--nic", ONE]);
    world.attach(&guest, ONE).fails(1, "MAC 52:54:00:00:00:01 is in use by this guest");
    world
        .attach(&guest, "bridge=br0,mac=52:54:00:00:00:02,ifname=vnet0,vhost=off")
        .fails(1, "'vnet0' exists already");
    world.detach(&guest, 9, &[]).fails(1, "no interface 52:54:00:00:00:09");
    assert!(!world.record_lines().iter().any(|line| line == "detach 09 FAILED"), "a refusal is no attempt");
    world.stop(&guest);
    world.assert_clean();
}

// Shows 5.4.
#[test]
fn a_command_line_that_opens_a_tap_by_itself_is_refused_with_what_to_use_instead() {
    let world = World::new();
    for (arguments, instead) in [
        (vec!["-netdev", "tap,id=n0,ifname=vnet5,script=no"], "--nic tap=vnet5"),
        (vec!["-netdev", "bridge,id=n0,br=br0"], "--nic bridge=br0"),
        (vec!["-nic", "bridge,br=br0,model=e1000"], "--nic bridge=br0"),
        (vec!["-net", "tap"], "--nic"),
        (
            vec!["-netdev", "{\"type\":\"tap\",\"id\":\"n0\",\"ifname\":\"vnet5\"}"],
            "--nic bridge=BRIDGE,ifname=vnet5",
        ),
    ] {
        let all: Vec<_> = EMPTY.iter().copied().chain(arguments).collect();
        world.try_start("web1", &[], &all).fails(2, instead);
    }
    assert!(!world.state().join("ledger.sqlite").exists(), "nothing was begun");
}

// Shows 5.7.
#[test]
fn an_attach_without_a_free_port_is_refused() {
    let world = World::new();
    let guest = world.start("web1", &["--hotplug-ports", "1"]);
    world.attach(&guest, ONE).ok();
    world.attach(&guest, "bridge=br0,vhost=off").fails(1, "--hotplug-ports");
    world.detach(&guest, 1, &["--timeout", "20s"]).ok();
    world.attach(&guest, "bridge=br0,vhost=off").ok();
    world.stop(&guest);
}

#[test]
fn missing_arguments_are_named_and_no_option_that_the_environment_has() {
    let world = World::new();
    for (arguments, usage) in [
        (&["attach"][..], "Usage: taptrail attach <--nic <SPEC>|--xml <FILE>|--domain <FILE>> <GUEST>"),
        (&["detach"], "Usage: taptrail detach <GUEST> <MAC>"),
        (&["run"], "\n       taptrail run [OPTIONS] --file <FILE>"),
    ] {
        let done = world.taptrail(arguments);
        assert!(done.code() == 2 && done.stderr.contains(usage), "{}", done.stderr);
        assert!(!done.stderr.contains("--state-dir"), "{}", done.stderr);
    }
}

// Shows 5.14.
#[test]
fn one_name_is_one_guest() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.try_start("web1", &[], &EMPTY).fails(1, "already running");
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.taptrail(["nics", "web2"]).fails(1, "isn't running");
    world.stop(&guest);
    world.taptrail(["attach", "web1", "--nic", ONE]).fails(1, "isn't running");
    // Its name is free as soon as the stop has its answer.
    let again = world.start("web1", &["--nic", ONE]);
    world.stop(&again);
    world.assert_clean();
}

// Shows 4.3.
#[test]
fn without_a_ledger_nothing_is_opened() {
    let world = World::new();
    std::fs::write(world.state(), "a file where a directory should be").unwrap();
    world.try_start("web1", &["--nic", ONE], &EMPTY).fails(1, "State directory");
    assert_eq!(world.links(), Vec::<String>::new());
    world.taptrail(["trail"]).fails(2, "ledger");
}

// Shows 6.5.
#[test]
fn what_qemu_keeps_after_a_failed_attach_is_on_record_as_held() {
    let mut world = World::new();
    // The second descriptor is useless: QEMU 7.2 has taken the first one for good by then.
    world.extra.push(("FAILPOINTS".to_owned(), "getfd::useless=1*off->1*return->off".to_owned()));
    let guest = world.start("web1", &[]);
    let done = world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:01,queues=2,vhost=off");
    let held = guest.holds();
    let trail = world.trail();
    if held.is_empty() {
        // This QEMU closed its descriptors: everything is closed.
        done.fails(1, "QEMU refused netdev_add");
        assert_eq!(
            world.record_lines()[3..],
            ["attach 01 FAILED", "close 01 tun vnet0 q0", "close 01 tun vnet0 q1"]
        );
    } else {
        done.fails(1, "QEMU still holds 1 of its descriptors");
        assert_eq!(held, ["tun /dev/net/tun"], "a descriptor without its link: a tap of nothing");
        assert_eq!(world.links(), Vec::<String>::new());
        assert_eq!(
            world.record_lines()[3..],
            ["attach 01 FAILED", "keep 01 tun vnet0 q0", "close 01 tun vnet0 q1"]
        );
        assert_eq!(world.nics(&guest)[0]["state"], "kept");
        let holding = trail["holdings"].as_array().unwrap().iter().find(|holding| holding["state"] == "held");
        assert_eq!(holding.unwrap()["queues"], 1);
        assert!(
            trail["findings"].as_array().unwrap().iter().any(|finding| finding["kind"] == "attach-failed")
        );
        world.attach(&guest, ONE).fails(1, "in use by this guest (kept)");
    }
    world.stop(&guest);
    assert_eq!(world.record_lines().last().unwrap(), "guest destroyed");
    world.assert_clean();
}
