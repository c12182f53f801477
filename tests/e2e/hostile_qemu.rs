//! A QEMU that was taken over keeps descriptors in every way that a process without capabilities
//! has (`examples/hostile_qemu.rs`): no device that it holds is reported as definitively released,
//! no other guest's device is touched, and no filter is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::world::hostile::Hostile;
use crate::world::{World, mac};
use taptrail_record::{CloseDoubt, Event, Outcome, Record};

/// The ways to keep a descriptor that QEMU is asked to close.
const WAYS: [&str; 6] = ["lie", "dup", "thread", "flight", "ring", "child"];

fn closes(world: &World) -> Vec<Record> {
    let mut records = world.records();
    records.retain(|record| matches!(record.event, Event::Close { .. }));
    records
}

/// The one close of an interface; none while it is held.
fn close_of(world: &World, last: u8) -> Option<Option<CloseDoubt>> {
    let of = |record: &&Record| record.event.mac().is_some_and(|mac| mac.0[5] == last);
    closes(world).iter().find(of).map(|record| record.doubt)
}

/// The number of findings about devices that a process may hold after their release.
fn doubtful_releases(world: &World) -> usize {
    // The exit code shows only whether there are any findings.
    let done = world.taptrail(["findings", "--format", "json", "--kind", "doubtful-release"]);
    let found: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    found["findings"].as_array().unwrap().len()
}

// Shows 7.8.
#[test]
fn no_way_of_hiding_makes_a_tap_definitively_released() {
    for own in [true, false] {
        for (number, way) in WAYS.into_iter().enumerate() {
            let world = World::new();
            let hostile = Hostile::start(&world, "web1");
            world.ip("tuntap add dev mine mode tap");
            let backend = if own { "bridge=br0" } else { "tap=mine" };
            let last = u8::try_from(number + 1).unwrap();
            hostile.set_mode("deleted");
            let spec = format!("{backend},mac={},id=n1,vhost=off", mac(last));
            world.attach(&hostile.guest, &spec).ok();
            hostile.set_mode(&format!("{way} deleted no-carrier"));
            world.detach(&hostile.guest, last, &[]).fails(1, "still holds");
            let held_descriptors = hostile.held_descriptors();
            assert_eq!(held_descriptors.len(), 1, "{way}: {held_descriptors:?}");
            assert_eq!(close_of(&world, last), None, "{way}, own {own}");
            assert_eq!(world.trail()["holdings"][0]["state"], "held", "{way}");
            // QEMU closes it: then the release is definitive.
            if matches!(way, "lie" | "dup") {
                continue;
            }
            hostile.release_all();
            assert_eq!(close_of(&world, last), Some(None), "{way}, own {own}");
        }
    }
}

// Shows 7.8.
#[test]
fn a_macvtap_is_taken_with_its_link_whatever_is_hidden() {
    for way in ["thread", "flight", "ring", "child"] {
        let world = World::new();
        let hostile = Hostile::start(&world, "web1");
        hostile.set_mode("deleted");
        world.attach(&hostile.guest, "macvtap=lower,mac=52:54:00:00:00:01,id=n1,vhost=off").ok();
        hostile.set_mode(&format!("{way} deleted"));
        let done = world.detach(&hostile.guest, 1, &[]);
        if way == "thread" {
            // taptrail sees another thread's descriptor table.
            assert_eq!((done.code(), close_of(&world, 1)), (1, None), "{way}");
            world.detach(&hostile.guest, 1, &["--force"]).fails(1, "their link is deleted");
        } else {
            assert_eq!((done.code(), close_of(&world, 1)), (0, Some(None)), "{way}: {}", done.stderr);
        }
        assert_eq!(world.links(), Vec::<String>::new(), "{way}");
    }
}

// Shows 7.8, 10.51.
#[test]
fn a_macvtap_of_somebody_elses_is_released_with_a_doubt() {
    let ways = [
        ("", CloseDoubt::Uncounted),
        ("flight", CloseDoubt::Hidden),
        ("ring", CloseDoubt::Hidden),
        ("child", CloseDoubt::HeldElsewhere),
    ];
    for (number, (way, doubt)) in ways.into_iter().enumerate() {
        if way.is_empty() && Path::new("/sys/module/macvtap/refcnt").exists() {
            // A driver that is a module counts its open files, which shows the descriptor.
            continue;
        }
        let world = World::new();
        let hostile = Hostile::start(&world, "web1");
        // Another number each time: a previous namespace may still have the last one.
        let index = 100_000 + 4 * std::process::id() + u32::try_from(number).unwrap();
        world.ip(&format!("link add link lower name theirs index {index} type macvtap mode bridge"));
        world.ip("link set theirs address 52:54:00:00:00:01 up");
        hostile.set_mode("deleted");
        world.attach(&hostile.guest, "tap=theirs,mac=52:54:00:00:00:01,id=n1,vhost=off").ok();
        hostile.set_mode(&format!("{way} deleted"));
        let done = world.detach(&hostile.guest, 1, &["--json"]).ok();
        assert_eq!(close_of(&world, 1), Some(Some(doubt)), "{way}");
        let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!(report["devices"][0]["doubt"], doubt.as_str());
        // A missing kernel count is in the record, and is no finding.
        let somebody = doubt != CloseDoubt::Uncounted;
        assert_eq!(done.stderr.contains("may be held still"), somebody, "{way}: {}", done.stderr);
        assert_eq!(doubtful_releases(&world), usize::from(somebody), "{way}");
        let holding = &world.trail()["holdings"][0];
        assert_eq!(
            (&holding["certainty"], &holding["end_doubt"]),
            (&"inferred".into(), &doubt.as_str().into())
        );
    }
}

// Shows 8.8.
#[test]
fn the_end_of_qemu_is_no_proof_by_itself() {
    for (spec, doubt) in [
        ("bridge=br0,mac=52:54:00:00:00:01,id=n1,vhost=off", Some(CloseDoubt::HeldElsewhere)),
        ("tap=mine,mac=52:54:00:00:00:01,id=n1,vhost=off", Some(CloseDoubt::HeldElsewhere)),
        // Its link is deleted: a copy of the descriptor is useless.
        ("macvtap=lower,mac=52:54:00:00:00:01,id=n1,vhost=off", None),
    ] {
        let world = World::new();
        world.ip("tuntap add dev mine mode tap");
        let hostile = Hostile::start(&world, "web1");
        world.attach(&hostile.guest, spec).ok();
        hostile.set_mode("child deleted");
        let _ = world.detach(&hostile.guest, 1, &[]);
        let done = world.taptrail(["stop", "web1", "--force"]).ok();
        assert_eq!(close_of(&world, 1), Some(doubt), "{spec}");
        assert_eq!(done.stderr.contains("may be held still"), doubt.is_some(), "{spec}: {}", done.stderr);
        assert_eq!(doubtful_releases(&world), usize::from(doubt.is_some()), "{spec}");
        world.taptrail(["ledger", "check"]).ok();
        assert_eq!(world.links(), ["mine"], "{spec}");
    }
}

// Shows 8.8.
#[test]
fn a_tap_that_qemu_made_stay_goes_with_its_guest() {
    let world = World::new();
    let hostile = Hostile::start(&world, "web1");
    world.attach(&hostile.guest, "bridge=br0,mac=52:54:00:00:00:01,id=n1,vhost=off").ok();
    hostile.set_mode("persist deleted");
    world.detach(&hostile.guest, 1, &[]).ok();
    assert_eq!(close_of(&world, 1), Some(None));
    assert_eq!(world.links(), Vec::<String>::new());
    // `recover` deletes it if supervisor and QEMU have ended.
    hostile.set_mode("");
    world.attach(&hostile.guest, "bridge=br0,mac=52:54:00:00:00:02,id=n2,vhost=off").ok();
    world.kill_supervisor("web1");
    // QEMU makes the tap persistent, and ends.
    fs::write(hostile.directory.join("mode"), "persist").unwrap();
    let socket = world.run_dir().join("web1/monitor");
    let mut monitor = crate::world::qmp::Qmp::connect(socket);
    monitor.execute("netdev_del", serde_json::json!({"id": "host-n2"}));
    hostile.guest.kill();
    world.until("QEMU is gone", || !hostile.guest.is_alive());
    assert_eq!(world.links(), ["vnet0"]);
    world.taptrail(["recover"]).ok();
    world.assert_clean();
}

// Shows 2.14.
#[test]
fn a_revoked_tap_whose_open_file_is_hidden_is_not_reported_as_released() {
    for (way, doubt) in
        [("flight", CloseDoubt::Hidden), ("ring", CloseDoubt::Hidden), ("child", CloseDoubt::HeldElsewhere)]
    {
        let world = World::new();
        let hostile = Hostile::start(&world, "web1");
        world.attach(&hostile.guest, "bridge=br0,mac=52:54:00:00:00:01,id=n1,vhost=off").ok();
        hostile.set_mode(&format!("{way} deleted"));
        world.detach(&hostile.guest, 1, &["--force"]).fails(1, "their link is deleted");
        assert_eq!(close_of(&world, 1), None, "{way}");
        assert_eq!(world.links(), Vec::<String>::new(), "{way}");
        // No descriptor shows the device any more: that is no proof of its release.
        world.detach(&hostile.guest, 1, &["--force"]).ok();
        assert_eq!(close_of(&world, 1), Some(Some(doubt)), "{way}");
        assert_eq!(world.trail()["holdings"][0]["certainty"], "inferred", "{way}");
        world.stop(&hostile.guest);
    }
}

// Shows 2.14.
#[test]
fn a_tap_that_others_deleted_while_qemu_held_it_is_released_with_a_doubt() {
    let world = World::new();
    let hostile = Hostile::start(&world, "web1");
    world.attach(&hostile.guest, "bridge=br0,mac=52:54:00:00:00:01,id=n1,vhost=off").ok();
    world.ip("link delete vnet0");
    hostile.set_mode("flight deleted");
    world.detach(&hostile.guest, 1, &[]).ok();
    assert_eq!(close_of(&world, 1), Some(Some(CloseDoubt::Hidden)));
    world.stop(&hostile.guest);
}

// Shows 2.15.
#[test]
fn a_tap_to_which_another_qemu_could_attach_is_nobodys_device() {
    let world = World::new();
    let many =
        |name: &str, whose: &str| world.ip(&format!("tuntap add dev {name} mode tap multi_queue{whose}"));
    many("anybodys", "");
    many("roots", " user 0");
    many("groups", " group 0");
    many("users", " user 4242");
    many("closed", " user 0 group 65534");
    let nobody = world.start("web1", &[]);
    for name in ["anybodys", "roots", "groups"] {
        let spec = format!("tap={name},mac=52:54:00:00:00:01,vhost=off,queues=2");
        world.attach(&nobody, &spec).fails(1, "user 0 group 65534");
    }
    for name in ["users", "closed"] {
        let spec = format!("tap={name},mac=52:54:00:00:00:01,vhost=off,queues=2");
        world.attach(&nobody, &spec).ok();
        world.detach(&nobody, 1, &["--force"]).ok();
    }
    // A tap for one queue accepts no second one.
    world.ip("tuntap add dev single mode tap");
    world.attach(&nobody, "tap=single,mac=52:54:00:00:00:02,vhost=off").ok();
    world.stop(&nobody);
}

// Shows 10.50.
#[test]
fn what_qemu_got_in_an_attach_that_failed_is_not_reported_as_never_granted_for_certain() {
    for how in ["exit-netdev", "refuse-netdev", "refuse-getfd"] {
        let world = World::new();
        let hostile = Hostile::start(&world, "web1");
        hostile.set_mode(how);
        world.attach(&hostile.guest, "bridge=br0,mac=52:54:00:00:00:01,id=n1,vhost=off").fails(1, "QEMU");
        let trail = world.trail();
        let holding = &trail["holdings"][0];
        assert_eq!(
            (&holding["state"], &holding["certainty"]),
            (&"never-granted".into(), &"inferred".into()),
            "{how}"
        );
        assert_eq!(holding["possibly_held"][0]["why"], "failed", "{how}: {holding:#}");
        if how != "exit-netdev" {
            world.stop(&hostile.guest);
        }
    }
    // Here no descriptor was being handed over.
    let world = World::new();
    let guest = world.start("web1", &[]);
    let refused = "bridge=br0,mac=52:54:00:00:00:01,vhost=off,vlan=7";
    world.attach(&guest, refused).fails(1, "VLAN");
    assert_eq!(world.trail()["holdings"][0]["certainty"], "definitive");
    world.stop(&guest);
}

// Shows 1.6.
#[test]
fn what_qemu_changed_of_a_tap_of_others_is_reported() {
    for (how, warning) in [("own", "is not its owner's any more"), ("no-persist", "is not there any more")] {
        let world = World::new();
        world.ip("tuntap add dev mine mode tap user 0");
        let hostile = Hostile::start(&world, "web1");
        world.attach(&hostile.guest, "tap=mine,mac=52:54:00:00:00:01,id=n1,vhost=off").ok();
        hostile.set_mode(&format!("{how} deleted"));
        world.detach(&hostile.guest, 1, &[]).ok();
        let log = fs::read_to_string(world.run_dir().join("web1/log")).unwrap();
        assert!(log.contains(warning), "{how}: {log}");
        world.stop(&hostile.guest);
    }
}

/// A random generator whose seed a test can report.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*, https://www.jstatsoft.org/article/view/v008i14
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[usize::try_from(self.below(words.len() as u64)).unwrap()]
    }
}

/// Compares the records with the descriptors that QEMU really holds, after each random action.
// Shows 7.9.
#[test]
fn whatever_a_hostile_qemu_does_nothing_held_is_reported_as_released() {
    let number = |name, otherwise| {
        std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
    };
    let (steps, seed) = (number("TAPTRAIL_HOSTILE_STEPS", 60), number("TAPTRAIL_HOSTILE_SEED", 20_261_129));
    let mut random = Random(seed);
    let world = World::new();
    world.ip("tuntap add dev mine mode tap");
    // Another guest, whose device and filter must stay as they are.
    let victim = world
        .start("victim", &["--nic", "bridge=br0,mac=52:54:00:00:00:aa,vhost=off,filter=no-mac-spoofing"]);
    let (victims_tap, victims_filter) = (world.link("vnet0")["ifindex"].clone(), world.ruleset());
    let hostile = Hostile::start(&world, "web1");
    let mut checked = world.records().len();
    // The last NIC of each MAC, and its link, whose number is not reused: a MAC is not granted
    // again while any of its devices is held.
    let mut given = BTreeMap::new();
    let mut links = world.numbered_links();
    for step in 0..steps {
        let last = u8::try_from(1 + random.below(3)).unwrap();
        let mode = [
            random.of(&["", "deleted", "deleted", "deleted-twice"]),
            random.of(&["", "", "lie", "dup", "thread", "flight", "ring", "child"]),
            random.of(&["", "", "", "free", "refuse-getfd", "refuse-netdev", "refuse-device"]),
            random.of(&["", "", "", "persist", "no-carrier", "hide-closefd"]),
        ]
        .join(" ");
        hostile.set_mode(&mode);
        let given_before = given.clone();
        let action = match random.below(4) {
            0 | 1 => {
                let backend = random.of(&["bridge=br0", "macvtap=lower", "tap=mine", "tap=vnet0"]);
                let filter = random.of(&["", ",filter=no-mac-spoofing"]);
                let spec = format!("{backend},mac={},id=s{step},vhost=off{filter}", mac(last));
                let held = world.nics(&hostile.guest);
                let held = held
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|nic| nic["mac"] == mac(last).as_str() && nic["state"] != "revoked");
                let done = world.attach(&hostile.guest, &spec);
                let now = world.numbered_links();
                let made = now.iter().find(|link| !links.contains(link));
                // A held device may be gone by the time of the attach, which then succeeds.
                if !held || done.success() || made.is_some() {
                    let is_mine = |link: &&(String, u64)| class(backend) == "mine" && link.0 == "mine";
                    let link = made.or_else(|| now.iter().find(is_mine));
                    given.insert((last, class(backend)), (format!("s{step}"), link.cloned()));
                }
                spec
            }
            2 => {
                let _ = world.detach(&hostile.guest, last, &["--timeout", "1s"]);
                format!("detach {last}")
            }
            _ => {
                let _ = world.detach(&hostile.guest, last, &["--force"]);
                format!("detach {last} --force")
            }
        };
        let context = format!("seed {seed}, step {step}: {action} ({mode})");
        // A device that was reported as definitively closed is not held. A macvtap goes with its
        // link; an open file of a tap outlives its link.
        let held_descriptors = hostile.held_descriptors();
        links = world.numbered_links();
        let all = world.records();
        // Devices that were opened in this step were for its own NIC, which may not have got them.
        let mut opened = BTreeSet::new();
        for record in &all[checked..] {
            let (mac, device) = match &record.event {
                Event::Open { mac, device, .. } if record.outcome == Outcome::Success => {
                    opened.insert((mac.0[5], device.dev.clone()));
                    continue;
                }
                Event::Close { mac, device, .. } => (mac.0[5], device),
                _ => continue,
            };
            let dev = device.dev.as_deref().unwrap_or_default();
            let own = (format!("s{step}"), None);
            let (id, link) = if opened.contains(&(mac, device.dev.clone())) {
                given.get(&(mac, class(dev))).filter(|(id, _)| *id == own.0).unwrap_or(&own)
            } else {
                &given_before[&(mac, class(dev))]
            };
            // Another link may have its name by now.
            let is_there = class(dev) != "macvtap" || link.as_ref().is_some_and(|link| links.contains(link));
            let held = held_descriptors.contains_key(&format!("taptrail-{id}-0")) && is_there;
            assert!(record.doubt.is_some() || !held, "{context}: {record:?} with {held_descriptors:?}");
        }
        checked = all.len();
        assert_eq!(victim.holds(), ["tun vnet0"], "{context}");
        assert_eq!(world.link("vnet0")["ifindex"], victims_tap, "{context}");
        let filters = world.ruleset();
        let table = victims_filter.lines().next().unwrap();
        assert!(filters.contains(table) && filters.contains("52:54:00:00:00:aa"), "{context}: {filters}");
    }
    let records = world.records().len();
    world.stop(&hostile.guest);
    world.stop(&victim);
    world.taptrail(["ledger", "check"]).ok();
    assert_eq!(world.links(), ["mine"]);
    // A filter outlasts whoever may hold its tap.
    let may_be_held = |record: &Record| match &record.event {
        Event::Close { device, .. } => record.doubt.is_some() && device.dev.as_deref() == Some("mine"),
        _ => false,
    };
    if !world.records()[records..].iter().any(may_be_held) {
        assert_eq!(world.ruleset(), "");
    }
    assert_eq!(world.open_accounts(), (0, 0));
}

/// The class of a device, by its backend or by its interface name: a MAC may get a device of
/// another class within one step.
fn class(name: &str) -> &'static str {
    match name {
        "mine" | "tap=mine" => "mine",
        name if name.starts_with("macvtap") => "macvtap",
        _ => "tap",
    }
}
