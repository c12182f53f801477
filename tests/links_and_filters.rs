//! Links and filters that others rename, move, delete or flush while a guest runs: known again by what
//! they are, and never taken for another's.

#![allow(clippy::unwrap_used)]

mod world;

use std::process::Command;

use serde_json::Value;
use world::World;

const TAP: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";
const FILTERED: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off,filter=no-mac-spoofing";
const MACVTAP: &str = "macvtap=lower,mac=52:54:00:00:00:02,vhost=off";

/// A second network namespace, by the process that is in it.
struct Elsewhere(std::process::Child);

impl Elsewhere {
    fn new() -> Self {
        let child = Command::new("/usr/bin/unshare").args(["--net", "/bin/sleep", "600"]).spawn().unwrap();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let there = format!("/proc/{}/ns/net", child.id());
        while std::fs::read_link(&there).is_ok_and(|there| there == own) {
            std::thread::yield_now();
        }
        Self(child)
    }

    fn links(&self) -> String {
        let ip = ["--net", "-t", &self.0.id().to_string(), "/sbin/ip", "-o", "link"].map(str::to_owned);
        let output = Command::new("/usr/bin/nsenter").args(ip).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn index(world: &World, name: &str) -> u64 {
    world.link(name)["ifindex"].as_u64().unwrap()
}

fn kinds(trail: &Value) -> Vec<String> {
    let findings = trail["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_foreign_link_with_the_number_of_ours_is_left_alone() {
    let world = World::new();
    let elsewhere = Elsewhere::new();
    let guest = world.start("web1", &["--nic", TAP, "--nic", MACVTAP]);
    let (tap, macvtap) = (index(&world, "vnet0"), index(&world, "macvtap0"));
    world.ip("link delete vnet0");
    world.ip(&format!("link set macvtap0 netns {}", elsewhere.0.id()));
    world.ip(&format!("link add foreign1 index {tap} type bridge"));
    world.ip(&format!("link add foreign2 index {macvtap} type bridge"));
    world.detach(&guest, 1, &["--force"]).ok();
    world.detach(&guest, 2, &["--force"]).ok();
    assert_eq!(world.links(), ["foreign1", "foreign2"]);
    assert!(!elsewhere.links().contains("macvtap0"), "{}", elsewhere.links());
    world.stop(&guest);
    assert_eq!(world.links(), ["foreign1", "foreign2"]);
}

#[test]
fn a_link_that_was_moved_or_renamed_is_removed_with_its_guest() {
    let world = World::new();
    let elsewhere = Elsewhere::new();
    let guest = world.start("web1", &["--nic", MACVTAP]);
    world.ip(&format!("link set macvtap0 netns {}", elsewhere.0.id()));
    assert!(elsewhere.links().contains("macvtap0"));
    world.stop(&guest);
    assert!(!elsewhere.links().contains("macvtap0"), "{}", elsewhere.links());

    // And by `recover`, when supervisor and QEMU are gone.
    let guest = world.start("web2", &["--nic", &format!("{MACVTAP},filter=no-mac-spoofing")]);
    world.ip("link set macvtap0 down");
    world.ip("link set macvtap0 name mine");
    world.ip("link set lower name lower2");
    world.kill_supervisor(&guest.name);
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    world.taptrail(["recover"]).ok();
    assert_eq!(world.links(), ["lower2"]);
    assert_eq!(world.ruleset(), "");
}

#[test]
fn a_renamed_tap_keeps_its_filter() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", FILTERED]);
    world.ip("link set vnet0 name other0");
    world.until("the filter is on the new name", || world.ruleset().contains("\"other0\""));
    assert_eq!(world.nics(&guest)[0]["ifname"], "other0");
    world.detach(&guest, 1, &["--force"]).ok();
    world.stop(&guest);
    world.assert_clean();
}

#[test]
fn a_filter_that_somebody_flushes_is_set_again_and_a_finding() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", FILTERED]);
    let filter = world.ruleset();
    assert!(filter.contains("drop"));
    world.nft("flush ruleset");
    world.until("the filter stands again", || world.ruleset() == filter);
    world.until("both are on record", || world.story().iter().any(|line| line == "filter 01 tun vnet0"));
    assert!(world.story().contains(&"filter 01 tun vnet0 FAILED".to_owned()), "{:?}", world.story());
    assert_eq!(kinds(&world.trail()), ["filter-lost"]);
    // A rule alone.
    let rule = format!("flush chain netdev taptrail_if{} guest", index(&world, "vnet0"));
    world.nft(&rule);
    world.until("its rules stand again", || world.ruleset() == filter);
    // Another's table is nothing of ours.
    world.nft("add table inet somebodys");
    world.nft("delete table inet somebodys");
    world.stop(&guest);
    assert_eq!(kinds(&world.trail()), ["filter-lost", "filter-lost"]);
    world.assert_clean();
}

#[test]
fn an_interface_without_its_filter_can_be_revoked() {
    let world = World::new();
    // After its first run, nft is gone.
    let nft = world.path("nft");
    std::fs::copy("/usr/sbin/nft", &nft).unwrap();
    let nft_path = nft.display().to_string();
    let guest = world.start("web1", &["--nic", FILTERED, "--nft", &nft_path, "--revoke-unfiltered"]);
    std::fs::remove_file(&nft).unwrap();
    world.nft("flush ruleset");
    world.until("QEMU has no device", || guest.holds().is_empty());
    world.until("it is on record", || world.story().iter().any(|line| line == "revoke 01"));
    world.stop(&guest);
    world.assert_clean();
}

#[test]
fn what_is_stale_is_swept_before_a_tap_is_opened() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", FILTERED]);
    world.kill_supervisor(&guest.name);
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    assert!(world.ruleset().contains("drop"));
    // It gets the name of the tap that is gone, and none of its filter.
    let other = world.start("web2", &["--nic", "bridge=br0,mac=52:54:00:00:00:02,vhost=off"]);
    assert_eq!(other.holds(), ["tun vnet0"]);
    assert_eq!(world.ruleset(), "");
    world.stop(&other);
    world.taptrail(["recover"]).ok();
    world.assert_clean();
}
