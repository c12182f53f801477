//! Changes to the clock of the whole machine: `scripts/test-vm` runs these tests in a virtual one.

use std::process::Command;

use crate::world::{World, mac};
use serde_json::json;
use taptrail_kernel::proc::{PidFd, ProcessId, Signal};

/// Sets the machine's clock by so many seconds.
fn step(seconds: i64) {
    let release = std::fs::read_to_string("/proc/cmdline").unwrap();
    assert!(release.contains("console=ttyS0"), "only a virtual machine's clock is set: {release}");
    let now = jiff::Timestamp::now().as_second() + seconds;
    assert!(Command::new("/bin/date").args(["-s", &format!("@{now}")]).output().unwrap().status.success());
}

// Shows 11.14.
#[test]
fn a_clock_that_steps_back_upsets_no_order() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01"]);
    step(-3600);
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02").ok();
    step(-3600);
    world.detach(&guest, 2, &["--timeout", "20s"]).ok();
    // Its supervisor is killed, and another adopts the guest, while the clock is behind the
    // records.
    world.kill_supervisor("web1");
    step(-3600);
    world.taptrail(["adopt", "--background", "web1"]).ok();
    world.stop(&guest);
    step(3 * 3600);
    assert_eq!(
        world.record_lines(),
        [
            "open 01 tun vnet0 q0",
            "open 01 vhost-net q0",
            "start 01",
            "guest booted",
            "open 02 tun vnet1 q0",
            "open 02 vhost-net q0",
            "attach 02",
            "close 02 tun vnet1 q0",
            "close 02 vhost-net q0",
            "detach 02",
            "close 01 tun vnet0 q0",
            "close 01 vhost-net q0",
            "guest destroyed",
        ]
    );
    let trail = world.trail();
    for holding in trail["holdings"].as_array().unwrap() {
        assert_eq!((&holding["state"], &holding["certainty"]), (&json!("released"), &json!("definitive")));
    }
    assert!(world.taptrail(["ledger", "check"]).ok().stdout.contains("is sound"));
    world.assert_clean();
}

/// As after a suspension of the host: nothing has run for a night, and the clock has gone on. (Here
/// the processes are stopped: nothing would wake a virtual machine that suspends itself.)
// Shows 11.14.
#[test]
fn a_host_that_was_asleep_goes_on_in_order() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01"]);
    let supervisor = PidFd::open(world.supervisor("web1")).unwrap();
    let qemu = PidFd::open(ProcessId::of(guest.pid).unwrap()).unwrap();
    let mac = mac(1);
    // A client waits for the guest's stop; the night does not count for its timeout.
    let mut waiting = world.command(["stop", "web1", "--timeout", "1h"]).spawn().unwrap();
    world.until("the guest is asked", || world.json(["list", "--json"])[0]["state"] == "stopping");
    for process in [&supervisor, &qemu] {
        process.send_signal(Signal::STOP).unwrap();
    }
    step(8 * 3600);
    for process in [&qemu, &supervisor] {
        process.send_signal(Signal::CONT).unwrap();
    }
    assert_eq!(world.json(["list", "--json"])[0]["state"], "stopping", "an hour is not over");
    assert_eq!(guest.holds(), ["tun vnet0", "vhost-net /dev/vhost-net"]);
    world.taptrail(["stop", "web1", "--force"]).ok();
    assert!(waiting.wait().unwrap().success());
    step(-8 * 3600);
    let trail = world.trail();
    let holding = &trail["holdings"][0];
    assert_eq!((&holding["mac"], &holding["certainty"]), (&json!(mac), &json!("definitive")));
    let time = |key: &str| holding[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time("released").duration_since(time("granted")).as_hours() >= 8);
    world.assert_clean();
}
