//! What is done to the whole machine, and so to a virtual one only: `scripts/test-vm` runs these tests.

#![allow(clippy::unwrap_used)]

mod world;

use std::process::Command;

use serde_json::json;
use world::World;

/// Sets the machine's clock by so many seconds.
fn step(seconds: i64) {
    let release = std::fs::read_to_string("/proc/cmdline").unwrap();
    assert!(release.contains("console=ttyS0"), "only a virtual machine's clock is set: {release}");
    let now = jiff::Timestamp::now().as_second() + seconds;
    assert!(Command::new("/bin/date").args(["-s", &format!("@{now}")]).output().unwrap().status.success());
}

#[test]
fn a_clock_that_steps_back_upsets_no_order() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01"]);
    step(-3600);
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02").ok();
    step(-3600);
    world.detach(&guest, 2, &["--timeout", "20s"]).ok();
    // Its supervisor is killed, and the guest taken up, with the clock behind what is on record.
    world.kill_supervisor("web1");
    step(-3600);
    world.taptrail(["adopt", "--background", "web1"]).ok();
    world.stop(&guest);
    step(3 * 3600);
    assert_eq!(
        world.story(),
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
