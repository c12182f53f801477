//! Addresses that a guest's filter learns. Which frames are believed is shown by
//! `crates/guest/tests/filters/learning.rs` and `crates/guest/src/learning`.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use serde_json::Value;
use taptrail_kernel::device::Admitted;
use taptrail_record::{AddressChange, Event, FilterAddress};

use crate::world::dhcp::DhcpServer;
use crate::world::procfs::descriptors;
use crate::world::{EMPTY, Guest, World, tap_of_this_test};

/// A server's answer to this guest, captured (`crates/guest/src/learning/testdata/README.md`).
const ACK: &[u8] = include_bytes!("../../crates/guest/src/learning/testdata/ack.bin");
/// In it: the address, and the time of the lease.
const ADDRESS: usize = 14 + 28 + 16;
const LEASE_TIME: usize = 14 + 28 + 240 + 3 + 6 + 2;

const LEARNS: &str =
    "bridge=br0,mac=52:54:00:00:00:01,vhost=off,filter=clean-traffic,ip-learning=dhcp,dhcpserver=10.0.0.1";

/// A server on the bridge that gives what it is told to.
struct Server(Vec<Admitted>);

impl Server {
    fn on(world: &World) -> Self {
        let tap = tap_of_this_test("server0");
        world.ip("link set server0 master br0 up");
        Self(tap)
    }

    /// Gives the guest 10.0.0.`last` for some seconds.
    fn gives(&self, last: u8, seconds: u32) {
        let mut frame = ACK.to_vec();
        frame[ADDRESS..ADDRESS + 4].copy_from_slice(&[10, 0, 0, last]);
        frame[LEASE_TIME..LEASE_TIME + 4].copy_from_slice(&seconds.to_be_bytes());
        // A virtio-net header before it.
        let bytes = [&[0; 10][..], &frame].concat();
        rustix::io::write(self.0[0].as_fd(), &bytes).unwrap();
    }
}

/// The last number of each address that the guest's first interface has learnt.
fn learnt(world: &World, guest: &Guest) -> Vec<u8> {
    let nics = world.nics(guest);
    let addresses = nics[0]["addresses"].as_array().expect("it learns addresses").iter();
    let last =
        |address: &Value| address["ip"].as_str().unwrap().strip_prefix("10.0.0.").unwrap().parse().unwrap();
    addresses.map(last).collect()
}

/// The addresses that the guest may use by the rules.
fn in_force(world: &World) -> Vec<u8> {
    let rules = world.ruleset();
    let found = rules.lines().filter_map(|line| line.trim().strip_prefix("ip saddr 10.0.0."));
    found.filter_map(|rest| rest.strip_suffix(" return")?.parse().ok()).collect()
}

/// The changes of addresses that are on record, as `leased 5`.
fn changes(world: &World) -> Vec<String> {
    let records = world.records().into_iter();
    let changed = records.filter_map(|record| match record.event {
        Event::Filter { address: Some(FilterAddress { ip, change }), .. } => {
            let [.., last] = ip.octets();
            if let AddressChange::Leased { server, .. } = change {
                assert_eq!(server.to_string(), "10.0.0.1");
            }
            Some(format!("{} {last}", change.as_str()))
        }
        _ => None,
    });
    let mut changed: Vec<_> = changed.collect();
    // A supervisor that is killed after a record writes it again.
    changed.dedup();
    changed
}

fn findings(world: &World) -> Vec<Value> {
    world.trail()["findings"].as_array().cloned().unwrap_or_default()
}

// Shows 2.40, 2.43.
#[test]
fn leases_are_learnt_prolonged_and_lapse_and_the_next_supervisor_knows_them() {
    let world = World::new();
    let server = Server::on(&world);
    let guest = world.start("web1", &["--nic", LEARNS]);
    assert!(world.ruleset().contains("udp dport 68"), "{}", world.ruleset());
    assert_eq!((learnt(&world, &guest), in_force(&world)), (vec![], vec![]));

    server.gives(5, 3600);
    world.until("the first lease is in force", || in_force(&world) == [5]);
    server.gives(6, 8);
    world.until("the second lease is in force", || in_force(&world) == [5, 6]);
    world.until("it is shown", || learnt(&world, &guest) == [5, 6]);
    let text = world.taptrail(["nics", "web1"]).ok().stdout;
    assert!(text.contains("    10.0.0.5: leased by 10.0.0.1, until "), "{text}");

    // Prolonged: the rules stay, and so does the address.
    let rules = world.ruleset();
    let until = |world: &World| world.nics(&guest)[0]["addresses"][1]["until"].as_str().unwrap().to_owned();
    let first = until(&world);
    server.gives(6, 3600);
    world.until("the lease is prolonged", || until(&world) != first);
    assert_eq!(world.ruleset(), rules);
    server.gives(7, 4);
    world.until("the third lease is in force", || in_force(&world) == [5, 6, 7]);

    // The filter stands while no supervisor is there; what ends meanwhile ends with the next one.
    world.kill_supervisor("web1");
    assert_eq!(in_force(&world), [5, 6, 7]);
    std::thread::sleep(Duration::from_secs(5));
    world.taptrail(["adopt", "--background", "web1"]).ok();
    world.until("the third lease has ended", || in_force(&world) == [5, 6]);
    world.until("it is shown", || learnt(&world, &guest) == [5, 6]);
    server.gives(8, 2);
    world.until("the fourth lease is in force", || in_force(&world) == [5, 6, 8]);
    world.until("the fourth lease has ended", || in_force(&world) == [5, 6]);

    // One that was in force and not on record when the supervisor was killed, is by now.
    let all = ["leased 5", "leased 6", "leased 7", "expired 7", "leased 8", "expired 8"];
    world.until("all changes are on record", || changes(&world) == all);
    assert_eq!(findings(&world), [] as [Value; 0], "the filter was never lost");
    world.stop(&guest);
    assert_eq!(world.ruleset(), "");
    drop(server);
    world.assert_clean();
}

// Shows 2.41.
#[test]
fn a_flood_of_leases_is_limited() {
    let world = World::new();
    let server = Server::on(&world);
    let guest = world.start("web1", &["--nic", LEARNS]);
    for _ in 0..20 {
        for last in 1..=250 {
            server.gives(last, 3600);
        }
    }
    world.until("some are learnt", || !in_force(&world).is_empty());
    std::thread::sleep(Duration::from_secs(2));
    let most = 12;
    assert!(in_force(&world).len() <= most, "{:?}", in_force(&world));
    world.until("all are on record", || changes(&world).len() == in_force(&world).len());
    // The supervisor answers.
    let begun = Instant::now();
    world.stop(&guest);
    assert!(begun.elapsed() < Duration::from_secs(20));
    drop(server);
    world.assert_clean();
}

// Shows 5.50.
#[test]
fn the_process_that_reads_frames_can_do_nothing_else_and_ends_with_its_supervisor() {
    let world = World::new();
    let server = Server::on(&world);
    let guest = world.start("web1", &["--nic", LEARNS]);
    let reader = reader(&world);
    let status = std::fs::read_to_string(format!("/proc/{reader}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
        line.trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
    assert_eq!(std::fs::read_dir(format!("/proc/{reader}/fd")).unwrap().count(), 3);
    assert_eq!(descriptors(reader), [], "it has no device");
    assert_eq!(std::fs::read(format!("/proc/{reader}/environ")).unwrap(), b"");

    // One that fails is replaced.
    let process = rustix::process::Pid::from_raw(reader.cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    world.until("another reads frames", || {
        server.gives(5, 3600);
        in_force(&world) == [5]
    });
    let second = self::reader(&world);
    assert_ne!(second, reader);

    world.kill_supervisor("web1");
    world.until("it has ended", || !std::path::Path::new(&format!("/proc/{second}/fd/0")).exists());
    world.taptrail(["adopt", "--background", "web1"]).ok();
    assert_eq!(learnt(&world, &guest), [5]);
    let third = self::reader(&world);
    world.taptrail(["set-filter", "web1", "52:54:00:00:00:01", "no-mac-spoofing"]).ok();
    world.until("nothing is learnt any more", || {
        !std::path::Path::new(&format!("/proc/{third}/fd/0")).exists()
    });
    assert_eq!(world.nics(&guest)[0].get("addresses"), None);
    world.stop(&guest);
    drop(server);
    world.assert_clean();
}

/// The process that reads frames for the supervisor.
fn reader(world: &World) -> u32 {
    let supervisor = world.supervisor("web1").pid;
    let mut found = None;
    world.until("a process reads frames", || {
        let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"));
        found = children.unwrap_or_default().split_whitespace().find_map(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            (line.contains("learn-addresses") && status.contains("Seccomp:\t2")).then(|| pid.parse().unwrap())
        });
        found.is_some()
    });
    found.unwrap()
}

/// A machine that boots from the network.
fn pxe() -> Vec<&'static str> {
    let mut qemu = EMPTY.to_vec();
    qemu[4] = "64";
    qemu.extend(["-boot", "n"]);
    qemu
}

// Shows 2.40.
#[test]
fn a_real_guest_gets_its_address_from_a_real_server_and_may_use_it() {
    let world = World::new();
    let server = DhcpServer::at(&world, "br0");
    let guest = world.start_with("web1", &["--nic", LEARNS], &pxe());
    world.until("the guest has an address", || server.leased("52:54:00:00:00:01").is_some());
    let leased = server.leased("52:54:00:00:00:01").unwrap();
    world.until("the address is learnt", || !in_force(&world).is_empty());
    assert_eq!(leased, format!("10.0.0.{}", in_force(&world)[0]));
    world.until("it is on record", || changes(&world).len() == 1);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.42.
#[test]
fn the_address_from_which_a_guest_sends_first_is_the_only_one() {
    for (backend, link) in [("bridge=br0", "br0"), ("macvtap=lower", "upper")] {
        let world = World::new();
        // The guest asks for the server's MAC, to load a program from it.
        let server = DhcpServer::with(&world, link, &["--dhcp-boot=nothing,,10.0.0.1"]);
        let nic = format!("{backend},mac=52:54:00:00:00:01,vhost=off,filter=clean-traffic,ip-learning=any");
        let guest = world.start_with("web1", &["--nic", &nic], &pxe());
        world.until("its address is learnt", || !learnt(&world, &guest).is_empty());
        assert_eq!(server.leased("52:54:00:00:00:01"), Some(format!("10.0.0.{}", learnt(&world, &guest)[0])));
        assert_eq!(in_force(&world), learnt(&world, &guest));
        // Nothing is left to be learnt, also for the next supervisor.
        let supervisor = world.supervisor("web1").pid;
        let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"));
        assert_eq!(children.unwrap().split_whitespace().count(), 1, "QEMU alone");
        world.kill_supervisor("web1");
        world.taptrail(["adopt", "--background", "web1"]).ok();
        assert_eq!(in_force(&world), learnt(&world, &guest));
        assert_eq!(findings(&world), [] as [Value; 0]);
        world.stop(&guest);
        drop(server);
        world.assert_clean();
    }
}

// Shows 2.26, 2.40.
#[test]
fn a_changed_filter_keeps_what_was_learnt_in_the_same_way() {
    let world = World::new();
    let server = Server::on(&world);
    let guest = world.start("web1", &[]);
    world.attach(&guest, LEARNS).ok();
    server.gives(5, 3600);
    world.until("the lease is in force", || in_force(&world) == [5]);
    let set = |filter: &str| world.taptrail(["set-filter", "web1", "52:54:00:00:00:01", filter]);
    set("clean-traffic,filter=no-mac-broadcast,ip-learning=dhcp,dhcpserver=10.0.0.1").ok();
    assert_eq!((in_force(&world), learnt(&world, &guest)), (vec![5], vec![5]));
    set("clean-traffic,ip-learning=dhcp").ok();
    assert_eq!(
        (in_force(&world), learnt(&world, &guest)),
        (vec![], vec![]),
        "other servers are believed now"
    );
    server.gives(6, 3600);
    world.until("the lease is in force", || in_force(&world) == [6]);
    set("clean-traffic,ip=10.0.0.9").ok();
    assert_eq!(in_force(&world), [9]);
    server.gives(7, 3600);
    set("clean-traffic,ip=10.0.0.9,ip-learning=dhcp").fails(2, "there is nothing to learn");
    set("no-mac-spoofing,ip-learning=dhcp").fails(2, "No filter of the interface uses $IP");
    set("clean-traffic,ip-learning=arp").fails(2, "no way to learn addresses");
    assert_eq!(in_force(&world), [9]);

    // What an earlier filter or interface has learnt does not come back with the next supervisor.
    let next_supervisor = || {
        world.kill_supervisor("web1");
        world.taptrail(["adopt", "--background", "web1"]).ok();
        (in_force(&world), learnt(&world, &guest))
    };
    set("clean-traffic,ip-learning=dhcp").ok();
    assert_eq!(next_supervisor(), (vec![], vec![]));
    server.gives(8, 3600);
    world.until("the lease is in force", || in_force(&world) == [8]);
    world.detach(&guest, 1, &["--timeout", "20s"]).ok();
    world.attach(&guest, LEARNS).ok();
    assert_eq!(next_supervisor(), (vec![], vec![]));
    assert_eq!(findings(&world), [] as [Value; 0]);
    world.stop(&guest);
    drop(server);
    world.assert_clean();
}
