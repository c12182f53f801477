//! Links and filters that other programs rename, move, delete or flush while a guest runs: taptrail
//! identifies them by their marks, and never confuses them with others.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use crate::world::OwnedChild;
use crate::world::hostile::Hostile;
use crate::world::{Guest, World};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use taptrail_record::{CloseDoubt, Event};

const TAP: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";
const FILTERED: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off,filter=no-mac-spoofing";
const MACVTAP: &str = "macvtap=lower,mac=52:54:00:00:00:02,vhost=off";

/// A process in a second network namespace.
struct OtherNetns(OwnedChild);

impl OtherNetns {
    fn new() -> Self {
        let child = Command::new("/usr/bin/unshare").args(["--net", "/bin/sleep", "600"]).spawn().unwrap();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let there = format!("/proc/{}/ns/net", child.id());
        while std::fs::read_link(&there).is_ok_and(|there| there == own) {
            std::thread::yield_now();
        }
        Self(child.into())
    }

    /// Runs ip(8) there.
    fn ip(&self, arguments: &[&str]) -> String {
        let there = ["--net", "-t", &self.0.id().to_string(), "/sbin/ip"].map(str::to_owned);
        let output = Command::new("/usr/bin/nsenter").args(there).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn links(&self) -> String {
        self.ip(&["-o", "link"])
    }
}

/// A third network namespace without a process, which only a file keeps.
struct UnoccupiedNetns(std::path::PathBuf);

impl UnoccupiedNetns {
    fn new(world: &World) -> Self {
        let path = world.path("nowhere");
        std::fs::write(&path, "").unwrap();
        let net = format!("--net={}", path.display());
        let made = Command::new("/usr/bin/unshare").args([&net, "/bin/true"]).status().unwrap();
        assert!(made.success());
        Self(path)
    }

    fn links(&self) -> String {
        let net = format!("--net={}", self.0.display());
        let output =
            Command::new("/usr/bin/nsenter").args([&net, "/sbin/ip", "-o", "link"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for UnoccupiedNetns {
    fn drop(&mut self) {
        let _ = Command::new("/bin/umount").arg(&self.0).status();
    }
}

/// The doubt of a device's close; none while it is held.
fn close_doubt(world: &World) -> Option<Option<CloseDoubt>> {
    let mut records = world.records();
    records.retain(|record| matches!(record.event, Event::Close { .. }));
    records.first().map(|record| record.doubt)
}

/// Makes a guest's supervisor check the changes.
fn force_check(world: &World, guest: &Guest) {
    world.attach(guest, "bridge=no-such,vhost=off").fails(1, "no-such");
}

fn index(world: &World, name: &str) -> u64 {
    world.link(name)["ifindex"].as_u64().unwrap()
}

fn kinds(trail: &Value) -> Vec<String> {
    let findings = trail["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
}

// Shows 2.10.
#[test]
fn a_foreign_link_with_the_number_of_ours_is_left_alone() {
    let world = World::new();
    let elsewhere = OtherNetns::new();
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

// Shows 2.10.
#[test]
fn a_link_that_was_moved_or_renamed_is_removed_with_its_guest() {
    let world = World::new();
    let elsewhere = OtherNetns::new();
    let guest = world.start("web1", &["--nic", MACVTAP]);
    world.ip(&format!("link set macvtap0 netns {}", elsewhere.0.id()));
    assert!(elsewhere.links().contains("macvtap0"));
    world.stop(&guest);
    assert!(!elsewhere.links().contains("macvtap0"), "{}", elsewhere.links());

    // `recover` removes it if supervisor and QEMU are gone.
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

// Shows 2.11.
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

// Shows 2.11.
#[test]
fn a_filter_that_somebody_flushes_is_set_again_and_a_finding() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", FILTERED]);
    let filter = world.ruleset();
    assert!(filter.contains("drop"));
    world.nft("flush ruleset");
    world.until("the filter stands again", || world.ruleset() == filter);
    world.until("both are on record", || {
        world.record_lines().iter().any(|line| line == "filter 01 tun vnet0")
    });
    assert!(
        world.record_lines().contains(&"filter 01 tun vnet0 FAILED".to_owned()),
        "{:?}",
        world.record_lines()
    );
    assert_eq!(kinds(&world.trail()), ["filter-lost"]);
    // Flushes one chain alone.
    let rule = format!("flush chain netdev taptrail_if{} from-guest", index(&world, "vnet0"));
    world.nft(&rule);
    world.until("its rules stand again", || world.ruleset() == filter);
    // Other tables do not matter.
    world.nft("add table inet somebodys");
    world.nft("delete table inet somebodys");
    world.stop(&guest);
    assert_eq!(kinds(&world.trail()), ["filter-lost", "filter-lost"]);
    world.assert_clean();
}

// Shows 2.11.
#[test]
fn a_link_or_filter_that_changes_while_its_guest_starts_is_noticed() {
    for change in ["flush ruleset", "rename"] {
        let world = World::new();
        // A QEMU that starts only when the file `go` exists.
        let (script, go) = (world.path("slow-qemu"), world.path("go"));
        let text = format!(
            "#!/bin/sh\nuntil [ -e {} ]; do sleep 0.02; done\nexec {} \"$@\"\n",
            go.display(),
            crate::world::EMPTY[0]
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let script = script.display().to_string();
        let mut arguments =
            vec!["run", "--background", "--name", "web1", "--revoke-unfiltered", "--nic", FILTERED, "--"];
        arguments.push(&script);
        arguments.extend(&crate::world::EMPTY[1..]);
        let mut run = world.command(arguments).spawn().unwrap();
        world.until("QEMU starts", || world.last_guest().is_some());
        let filter = world.ruleset();
        assert!(filter.contains("drop"), "{filter}");
        let name = if change == "rename" {
            world.ip("link set vnet0 name other0");
            "other0"
        } else {
            world.nft(change);
            "vnet0"
        };
        std::fs::write(go, "").unwrap();
        assert!(run.wait().unwrap().success());
        // The filter is in force as soon as the guest runs.
        assert_eq!(world.ruleset(), filter.replace("vnet0", name));
        let guest = world.last_guest().unwrap();
        assert_eq!(world.nics(&guest)[0]["ifname"], name);
        assert_eq!(guest.holds(), [format!("tun {name}")]);
        if change != "rename" {
            assert_eq!(kinds(&world.trail()), ["filter-lost"]);
        }
        world.stop(&guest);
        world.assert_clean();
    }
}

// Shows 2.11.
#[test]
fn a_filter_that_was_lost_without_a_supervisor_is_set_again_by_the_next() {
    for (nft, revoked) in [("/usr/sbin/nft", false), ("/nonexistent/nft", true)] {
        let world = World::new();
        let guest = world.start("web1", &["--nic", FILTERED]);
        let filter = world.ruleset();
        world.kill_supervisor(&guest.name);
        world.nft("flush ruleset");
        let adopt = ["adopt", "--background", "--revoke-unfiltered", "--nft", nft, "web1"];
        world.taptrail(adopt).ok();
        assert_eq!(kinds(&world.trail()), ["filter-lost"]);
        if revoked {
            assert_eq!(guest.holds(), Vec::<String>::new());
            assert!(world.record_lines().contains(&"revoke 01".to_owned()), "{:?}", world.record_lines());
        } else {
            assert_eq!((world.ruleset(), guest.holds()), (filter, vec!["tun vnet0".to_owned()]));
        }
        world.stop(&guest);
        world.assert_clean();
    }
}

// Shows 2.11.
#[test]
fn a_filter_that_is_put_out_of_force_is_set_again() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", FILTERED]);
    let filter = world.ruleset();
    let table = format!("taptrail_if{}", index(&world, "vnet0"));
    for (done, change) in [
        format!("add table netdev {table} {{ flags dormant; }}"),
        format!("insert rule netdev {table} from-guest accept"),
        format!("add chain netdev {table} from-guest {{ policy drop; }}"),
        format!("add set netdev {table} macs {{ type ether_addr; }}"),
    ]
    .iter()
    .enumerate()
    {
        world.nft(change);
        let again = || world.record_lines().iter().filter(|line| *line == "filter 01 tun vnet0").count();
        world.until("it is set again, on record", || again() == done + 1);
        assert_eq!((world.ruleset(), kinds(&world.trail()).len()), (filter.clone(), done + 1));
    }
    // A filter that was set dormant while no supervisor ran is set again, too.
    world.kill_supervisor(&guest.name);
    world.nft(&format!("add table netdev {table} {{ flags dormant; }}"));
    world.taptrail(["adopt", "--background", "web1"]).ok();
    assert_eq!(world.ruleset(), filter);
    world.stop(&guest);
    assert_eq!(kinds(&world.trail()), ["filter-lost"; 5]);
    world.assert_clean();
}

// Shows 2.11.
#[test]
fn a_tap_that_is_moved_away_has_lost_its_filter() {
    let world = World::new();
    let elsewhere = OtherNetns::new();
    let guest = world.start("web1", &["--nic", FILTERED]);
    let filter = world.ruleset();
    world.ip(&format!("link set vnet0 netns {}", elsewhere.0.id()));
    world.until("it is a finding", || kinds(&world.trail()) == ["filter-lost"]);
    assert_eq!(guest.holds(), ["tun vnet0"]);
    // Back in its namespace the tap gets its filter again, and may lose it once more.
    let home = nix::unistd::gettid().to_string();
    elsewhere.ip(&["link", "set", "vnet0", "netns", &home]);
    let back = "filter 01 tun vnet0".to_owned();
    world.until("it is in force again", || world.record_lines().contains(&back));
    world.until("the filter stands", || world.ruleset() == filter);
    world.ip(&format!("link set vnet0 netns {}", elsewhere.0.id()));
    world.until("it is a finding again", || kinds(&world.trail()) == ["filter-lost"; 2]);
    world.stop(&guest);
    world.assert_clean();

    // With `--revoke-unfiltered` the device is revoked.
    let guest = world.start("web2", &["--nic", FILTERED, "--revoke-unfiltered"]);
    world.ip(&format!("link set vnet0 netns {}", elsewhere.0.id()));
    world.until("QEMU has no device", || guest.holds().is_empty());
    world.until("it is on record", || world.record_lines().iter().any(|line| line == "revoke 01"));
    assert!(!elsewhere.links().contains("vnet0"), "{}", elsewhere.links());
    // The kernel did not announce here what became of each tap.
    let found = kinds(&world.trail());
    let of = |kind: &str| found.iter().filter(|found| *found == kind).count();
    assert_eq!((of("filter-lost"), of("doubtful-release"), found.len()), (3, 2, 5), "{found:?}");
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.11.
#[test]
fn a_tap_of_others_that_is_moved_away_has_lost_its_filter() {
    // The tap has no mark by which it could be found there.
    let world = World::new();
    let elsewhere = OtherNetns::new();
    world.ip("tuntap add dev mine mode tap");
    let spec = "tap=mine,mac=52:54:00:00:00:01,vhost=off,filter=no-mac-spoofing";
    let guest = world.start("web1", &["--nic", spec, "--revoke-unfiltered"]);
    world.ip(&format!("link set mine netns {} name theirs", elsewhere.0.id()));
    world.until("QEMU has no device", || guest.holds().is_empty());
    world.until("it is on record", || world.record_lines().iter().any(|line| line.starts_with("revoke 01")));
    assert_eq!(kinds(&world.trail()).first().map(String::as_str), Some("filter-lost"));
    assert!(elsewhere.links().contains("theirs"), "{}", elsewhere.links());
    world.stop(&guest);

    // A deleted tap has no filter any more, and passes no frames.
    world.ip("tuntap add dev mine mode tap");
    let guest = world.start("web2", &["--nic", spec, "--revoke-unfiltered"]);
    world.ip("link delete mine");
    world.until("it is logged", || world.log("web2").contains("'mine' was deleted"));
    world.stop(&guest);
    assert!(!world.record_lines().contains(&"filter 01 tun mine".to_owned()), "{:?}", world.record_lines());
    let lost = kinds(&world.trail()).iter().filter(|kind| *kind == "filter-lost").count();
    assert_eq!(lost, 1, "{:?}", world.record_lines());
}

// Shows 2.11.
#[test]
fn an_interface_without_its_filter_can_be_revoked() {
    let world = World::new();
    // nft is deleted after its first run.
    let nft = world.path("nft");
    std::fs::copy("/usr/sbin/nft", &nft).unwrap();
    let nft_path = nft.display().to_string();
    let guest = world.start("web1", &["--nic", FILTERED, "--nft", &nft_path, "--revoke-unfiltered"]);
    std::fs::remove_file(&nft).unwrap();
    world.nft("flush ruleset");
    world.until("QEMU has no device", || guest.holds().is_empty());
    world.until("it is on record", || world.record_lines().iter().any(|line| line == "revoke 01"));
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.13.
#[test]
fn a_mac_that_is_changed_is_set_back_and_a_finding() {
    // QEMU can change the MAC by its own descriptor, without any capability.
    let world = World::new();
    world.ip("tuntap add dev mine mode tap");
    world.ip("link set mine address 02:00:00:00:00:07");
    // A number of its own: the node in /dev is named by it, and all namespaces share /dev.
    world.ip("link add link lower name theirs index 7001 type macvtap mode bridge");
    let theirs = world.link("theirs")["address"].as_str().unwrap().to_owned();
    let nics = ["--nic", TAP, "--nic", MACVTAP, "--nic", "tap=mine,mac=52:54:00:00:00:03,vhost=off"];
    let guest = world.start("web1", &nics);
    world.attach(&guest, "tap=theirs,vhost=off").ok();
    let links = [
        ("vnet0", "fe:54:00:00:00:01"),
        ("macvtap0", "52:54:00:00:00:02"),
        ("mine", "02:00:00:00:00:07"),
        ("theirs", &theirs),
    ];
    for (done, (link, own)) in links.into_iter().enumerate() {
        assert_eq!(world.link(link)["address"], own);
        world.ip(&format!("link set {link} address 02:00:00:00:fe:fe"));
        world.until("it is on record", || kinds(&world.trail()).len() == done + 1);
        assert_eq!(world.link(link)["address"], own);
    }
    // A MAC that was changed while no supervisor ran is set back, too.
    world.kill_supervisor(&guest.name);
    world.ip("link set vnet0 address 02:00:00:00:fe:fe");
    world.taptrail(["adopt", "--background", "web1"]).ok();
    assert_eq!(world.link("vnet0")["address"], "fe:54:00:00:00:01");
    assert_eq!(kinds(&world.trail()), ["mac-changed"; 5]);
    assert!(
        world.record_lines().contains(&"mac 02 macvtap macvtap0".to_owned()),
        "{:?}",
        world.record_lines()
    );
    assert_eq!(world.nics(&guest).as_array().unwrap().len(), 4);
    world.stop(&guest);
}

// Shows 2.13.
#[test]
fn a_mac_that_is_changed_again_and_again_fills_no_ledger() {
    for revokes in [false, true] {
        let world = World::new();
        let mut options = vec!["--nic", FILTERED];
        options.extend(revokes.then_some("--revoke-unfiltered"));
        let guest = world.start("web1", &options);
        for _ in 0..if revokes { 9 } else { 12 } {
            world.ip("link set vnet0 address 02:00:00:00:fe:fe");
            world.until("it is set back, or revoked", || !world.ip("-o link").contains("02:00:00:00:fe:fe"));
        }
        world.until("it is revoked by choice", || guest.holds().is_empty() == revokes);
        assert_eq!(kinds(&world.trail()), ["mac-changed"; 8]);
        world.stop(&guest);
        world.assert_clean();
    }
}

// Shows 2.12.
#[test]
fn stale_filters_are_removed_before_a_tap_is_opened() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", FILTERED]);
    world.kill_supervisor(&guest.name);
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    assert!(world.ruleset().contains("drop"));
    // The new tap gets the name of the one that is gone, and no filter.
    let other = world.start("web2", &["--nic", "bridge=br0,mac=52:54:00:00:00:02,vhost=off"]);
    assert_eq!(other.holds(), ["tun vnet0"]);
    assert_eq!(world.ruleset(), "");
    world.stop(&other);
    world.taptrail(["recover"]).ok();
    world.assert_clean();
}

// Shows 2.14.
#[test]
fn a_tap_of_others_that_was_moved_and_renamed_is_held_still() {
    let world = World::new();
    let elsewhere = OtherNetns::new();
    world.ip("tuntap add dev mine mode tap");
    let guest = world.start("web1", &["--nic", "tap=mine,mac=52:54:00:00:00:01,vhost=off"]);
    world.ip(&format!("link set mine netns {} name other0", elsewhere.0.id()));
    force_check(&world, &guest);
    assert_eq!((guest.holds(), close_doubt(&world)), (vec!["tun other0".to_owned()], None));
    assert_eq!(world.nics(&guest)[0]["state"], "held");
    // Once QEMU has no descriptor of it, nothing shows whether another process has the tap.
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(close_doubt(&world), Some(Some(CloseDoubt::LinkUnknown)));
    world.stop(&guest);
}

// Shows 2.14.
#[test]
fn a_link_of_ours_with_another_alias_is_ours_still() {
    for (backend, name) in [(FILTERED, "vnet0"), (&*format!("{MACVTAP},filter=no-mac-spoofing"), "macvtap0")]
    {
        let world = World::new();
        let guest = world.start("web1", &["--nic", backend]);
        let mark = world.link(name)["ifalias"].clone();
        world.ip(&format!("link set {name} alias uplink"));
        world.until("it has its mark again", || world.link(name)["ifalias"] == mark);
        // A batch: the supervisor can't check in between.
        std::fs::write(world.path("changes"), format!("link set {name} alias uplink\nlink set {name} down\nlink set {name} name other0\nlink set other0 up\n")).unwrap();
        world.ip(&format!("-batch {}", world.path("changes").display()));
        world.until("the filter is on the new name", || world.ruleset().contains("\"other0\""));
        assert_eq!((close_doubt(&world), &world.nics(&guest)[0]["state"]), (None, &"held".into()));
        world.ip("link set other0 alias uplink");
        world.stop(&guest);
        assert_eq!(close_doubt(&world), Some(None));
        world.assert_clean();
    }
}

// Shows 2.14.
#[test]
fn a_link_that_nothing_identifies_keeps_its_filter_and_is_no_proof() {
    let world = World::new();
    let hostile = Hostile::start(&world, "web1");
    world.attach(&hostile.guest, &format!("{FILTERED},id=n1")).ok();
    hostile.set_mode("flight deleted");
    world.ip("link set vnet0 alias uplink address 02:00:00:00:00:09");
    world.detach(&hostile.guest, 1, &[]).ok();
    assert_eq!(close_doubt(&world), Some(Some(CloseDoubt::LinkUnknown)));
    assert_eq!(world.links(), ["vnet0"]);
    assert!(world.ruleset().contains("drop"), "{}", world.ruleset());
    world.stop(&hostile.guest);
}

// Shows 2.14.
#[test]
fn a_link_that_was_moved_on_is_found_or_no_proof() {
    for (found, backend, name) in [
        (true, TAP, "vnet0"),
        (false, TAP, "vnet0"),
        (true, MACVTAP, "macvtap0"),
        (false, MACVTAP, "macvtap0"),
    ] {
        let world = World::new();
        let (first, second, nowhere) = (OtherNetns::new(), OtherNetns::new(), UnoccupiedNetns::new(&world));
        let hostile = Hostile::start(&world, "web1");
        world.attach(&hostile.guest, &format!("{backend},id=n1")).ok();
        hostile.set_mode("flight deleted");
        world.ip(&format!("link set {name} netns {}", first.0.id()));
        let to = if found { second.0.id().to_string() } else { nowhere.0.display().to_string() };
        first.ip(&["link", "set", name, "netns", &to, "name", "other0"]);
        let mac = if name == "vnet0" { 1 } else { 2 };
        let done = world.detach(&hostile.guest, mac, &["--force"]);
        match (found, name) {
            (true, "vnet0") => {
                done.fails(1, "their link is deleted");
                assert_eq!(close_doubt(&world), None);
            }
            // The link was deleted where it was.
            (true, _) => assert_eq!((done.code(), close_doubt(&world)), (0, Some(None))),
            (false, _) => {
                assert_eq!(
                    (done.code(), close_doubt(&world)),
                    (0, Some(Some(CloseDoubt::LinkUnknown))),
                    "{name}"
                );
                assert!(nowhere.links().contains("other0"), "{}", nowhere.links());
            }
        }
        assert!(!second.links().contains("other0"), "{}", second.links());
        world.stop(&hostile.guest);
    }
}

#[test]
fn recover_names_what_an_ended_guest_left_in_another_namespace() {
    let world = World::new();
    let (first, second) = (OtherNetns::new(), OtherNetns::new());
    let guest = world.start("web1", &["--nic", MACVTAP]);
    world.kill_supervisor(&guest.name);
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    world.ip(&format!("link set macvtap0 netns {}", first.0.id()));
    let to = second.0.id().to_string();
    first.ip(&["link", "set", "macvtap0", "netns", &to, "name", "eth1"]);
    world.taptrail(["recover"]).ok();
    assert!(!second.links().contains("eth1"), "{}", second.links());
}

// Shows 2.15.
#[test]
fn a_macvtap_on_another_guests_device_is_refused() {
    let world = World::new();
    world.ip("tuntap add dev mine mode tap");
    world.ip("tuntap add dev idle mode tap");
    let owner = world.start(
        "owner",
        &[
            "--nic",
            "tap=mine,mac=52:54:00:00:00:01,vhost=off",
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:03,vhost=off",
        ],
    );
    world.ip("link add link mine name above type macvlan mode bridge");
    let other = world.start("other", &[]);
    for (lower, why) in [
        ("mine", "is held already"),
        ("above", "'mine' is held already"),
        ("vnet0", "belongs to another interface"),
    ] {
        for mode in ["bridge", "passthru"] {
            world
                .attach(&other, &format!("macvtap={lower},mode={mode},mac=52:54:00:00:00:02,vhost=off"))
                .fails(1, why);
        }
    }
    // The other way round: a guest that opens the tap afterwards would pass its frames to the
    // macvtap.
    world.attach(&other, "macvtap=idle,mac=52:54:00:00:00:02,vhost=off").ok();
    world.attach(&owner, "tap=idle,mac=52:54:00:00:00:04,vhost=off").fails(1, "has macvtap 'macvtap0'");
    world.stop(&other);
    world.stop(&owner);
}

// Shows 2.12.
#[test]
fn a_stale_filter_is_swept_though_another_link_has_its_number() {
    let world = World::new();
    world.ip("tuntap add dev mine mode tap");
    let keeper =
        world.start("web1", &["--nic", "tap=mine,mac=52:54:00:00:00:09,vhost=off,filter=no-mac-spoofing"]);
    let kept = world.ruleset();
    let guest = world.start("web2", &["--nic", FILTERED]);
    let number = index(&world, "vnet0");
    world.kill_supervisor(&guest.name);
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    world.ip(&format!("link add foreign1 index {number} type bridge"));
    // The new tap gets the name of the one that is gone, and no filter.
    let other = world.start("web3", &["--nic", "bridge=br0,mac=52:54:00:00:00:02,vhost=off"]);
    assert_eq!(other.holds(), ["tun vnet0"]);
    assert_eq!(world.ruleset(), kept);
    world.stop(&other);
    world.taptrail(["recover"]).ok();
    assert_eq!(world.ruleset(), kept);
    world.stop(&keeper);
    assert_eq!(kinds(&world.trail()), Vec::<String>::new());
    assert_eq!(world.links(), ["foreign1", "mine"]);
}

// Shows 2.45.
#[test]
fn a_filter_waits_for_its_turn_with_nft_longer_than_a_run_may_take() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    let lock = File::open(world.run_dir().join(".nft")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let mut attach = world.command(["attach", "web1", "--nic", FILTERED]).spawn().unwrap();
    // A run of nft has 5 s.
    std::thread::sleep(Duration::from_secs(6));
    assert!(attach.try_wait().unwrap().is_none() && world.tables().is_empty());
    drop(lock);
    assert!(attach.wait().unwrap().success());
    assert_eq!(guest.holds(), ["tun vnet0"]);
    assert!(world.tables().contains("taptrail_if"));
    world.stop(&guest);
    world.assert_clean();
}
