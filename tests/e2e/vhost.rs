//! A real `/dev/vhost-net`, from its open to its close. Where the running kernel has none,
//! `scripts/test-vm` runs these tests in a virtual machine.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use crate::world::auditing::{Auditing, records_of};
use crate::world::dhcp::{DhcpServer, PacketCapture};
use crate::world::hostile::Hostile;
use crate::world::procfs::descriptors;
use crate::world::qmp::{self, Qmp};
use crate::world::{EMPTY, Guest, World, mac};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getrlimit, pidfd_getfd, pidfd_open, prlimit,
};
use serde_json::{Value, json};
use taptrail_kernel::proc::{Signal, same_file};
use taptrail_record::{CloseDoubt, Event, Outcome};

const VHOST: &str = "vhost-net /dev/vhost-net";
const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=on";
const TWO_QUEUES: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=on,queues=2";

/// The records of opening two queues of a tap and their vhost-nets.
const OPENS: [&str; 4] =
    ["open 01 tun vnet0 q0", "open 01 tun vnet0 q1", "open 01 vhost-net q0", "open 01 vhost-net q1"];
/// The records of closing them.
const CLOSES: [&str; 4] =
    ["close 01 tun vnet0 q0", "close 01 tun vnet0 q1", "close 01 vhost-net q0", "close 01 vhost-net q1"];

/// The path and number in the close records of vhost-nets.
fn closed_vhosts(world: &World) -> Vec<(String, String)> {
    let vhost = |event| match event {
        Event::Close { device, .. } if device.kind.to_string() == "vhost-net" => {
            Some((device.path.to_string(), device.rdev.unwrap().to_string()))
        }
        _ => None,
    };
    world.records().into_iter().filter_map(|record| vhost(record.event)).collect()
}

// Shows 1.12.
#[test]
fn vhost_net_is_opened_where_it_is_wanted_and_nowhere_else() {
    let world = World::new();
    let guest = world.start(
        "web1",
        &[
            "--nic",
            ONE,
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:02",
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:03,vhost=off",
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:04,model=e1000",
        ],
    );
    assert_eq!(guest.holds(), ["tun vnet0", "tun vnet1", "tun vnet2", "tun vnet3", VHOST, VHOST]);
    let nics = world.nics(&guest);
    let vhost: Vec<_> = nics.as_array().unwrap().iter().map(|nic| nic["vhost"].as_bool().unwrap()).collect();
    assert_eq!(vhost, [true, true, false, false]);
    assert_eq!(descriptors(world.supervisor("web1").pid), [], "the supervisor keeps none");
    world.stop(&guest);
    assert_eq!(
        world.record_lines(),
        [
            "open 01 tun vnet0 q0",
            "open 01 vhost-net q0",
            "open 02 tun vnet1 q0",
            "open 02 vhost-net q0",
            "open 03 tun vnet2 q0",
            "open 04 tun vnet3 q0",
            "start 01",
            "start 02",
            "start 03",
            "start 04",
            "guest booted",
            "close 01 tun vnet0 q0",
            "close 01 vhost-net q0",
            "close 02 tun vnet1 q0",
            "close 02 vhost-net q0",
            "close 03 tun vnet2 q0",
            "close 04 tun vnet3 q0",
            "guest destroyed",
        ]
    );
    let path_and_number = ("/dev/vhost-net".to_owned(), "0A:EE".to_owned());
    assert_eq!(closed_vhosts(&world), [path_and_number.clone(), path_and_number]);
    let trail = world.trail();
    assert_eq!(trail["findings"], json!([]));
    for holding in trail["holdings"].as_array().unwrap() {
        assert_eq!(
            (&holding["state"], &holding["certainty"]),
            (&json!("released"), &json!("definitive")),
            "{holding:#}"
        );
    }
    world.assert_clean();
}

// Shows 1.12.
#[test]
fn each_queue_has_a_vhost_net_of_its_own() {
    let world = World::new();
    let guest = world.start(
        "web1",
        &[
            "--nic",
            TWO_QUEUES,
            "--nic",
            "macvtap=lower,mac=52:54:00:00:00:02,vhost=on,queues=3",
            "--user",
            "nobody",
        ],
    );
    let node = format!("macvtap /dev/tap{}", world.link("macvtap0")["ifindex"]);
    let mut expected = vec![&*node; 3];
    expected.extend(["tun vnet0"; 2]);
    expected.extend([VHOST; 5]);
    assert_eq!(guest.holds(), expected);

    // Each descriptor that `nics` lists is the same in /proc, and is an open file of its own:
    // kcmp(2) finds no two alike, and none like a vhost-net opened here.
    let seen = descriptors(guest.pid);
    let nics = world.nics(&guest);
    let mut reported: Vec<_> = nics
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|nic| nic["devices"].as_array().unwrap())
        .map(|device| {
            let text = |key: &str| device[key].as_str().unwrap().to_owned();
            (i32::try_from(device["qemu_fd"].as_i64().unwrap()).unwrap(), text("path"), text("rdev"))
        })
        .collect();
    reported.sort();
    let found: Vec<_> = seen.iter().map(|seen| (seen.fd, seen.link.clone(), seen.rdev.clone())).collect();
    assert_eq!(reported, found);
    let vhosts: Vec<i32> = seen.iter().filter(|seen| seen.rdev == "0A:EE").map(|seen| seen.fd).collect();
    assert_eq!(vhosts.len(), 5);
    let (this, other) = (std::process::id(), File::open("/dev/vhost-net").unwrap());
    for &fd in &vhosts {
        let same = vhosts.iter().filter(|&&other| same_file(guest.pid, fd, guest.pid, other).unwrap());
        assert_eq!(same.count(), 1);
        assert!(!same_file(this, other.as_raw_fd(), guest.pid, fd).unwrap());
        let pidfd = pidfd_open(Pid::from_raw(guest.pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
        let copy = pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()).unwrap();
        assert!(same_file(this, copy.as_raw_fd(), guest.pid, fd).unwrap());
    }

    world.stop(&guest);
    let opens = |kind: &str| world.record_lines().iter().filter(|line| line.starts_with(kind)).count();
    assert_eq!((opens("open"), opens("close")), (10, 10));
    assert_eq!(closed_vhosts(&world).len(), 5);
    let trail = world.trail();
    let queues = |mac: &str, kind: &str| -> Value {
        let mut holdings = trail["holdings"].as_array().unwrap().iter();
        let of = |holding: &&Value| holding["mac"] == mac && holding["device"]["kind"] == kind;
        holdings.find(of).unwrap()["queues"].clone()
    };
    assert_eq!((queues(&mac(1), "tun"), queues(&mac(1), "vhost-net")), (json!(2), json!(2)));
    assert_eq!((queues(&mac(2), "macvtap"), queues(&mac(2), "vhost-net")), (json!(3), json!(3)));
    world.assert_clean();
}

// Shows 1.12.
#[test]
fn two_guests_hold_vhost_nets_of_their_own() {
    let world = World::new();
    let first = world.start("web1", &["--nic", ONE]);
    let second = world.start("web2", &["--nic", "bridge=br0,mac=52:54:00:00:00:02,vhost=on,queues=2"]);
    assert_eq!(first.holds(), ["tun vnet0", VHOST]);
    world.stop(&first);
    assert_eq!(second.holds(), ["tun vnet1", "tun vnet1", VHOST, VHOST]);
    let trail = world.trail();
    let holdings = trail["holdings"].as_array().unwrap().iter();
    let mut states: Vec<_> = holdings
        .map(|holding| (holding["guest"]["name"].as_str().unwrap(), holding["state"].as_str().unwrap()))
        .collect();
    states.sort_unstable();
    assert_eq!(states, [("web1", "released"), ("web1", "released"), ("web2", "held"), ("web2", "held")]);
    second.kill();
    world.until("the guest has ended", || world.record_lines().last().unwrap() == "guest crashed");
    assert_eq!(closed_vhosts(&world).len(), 3);
    world.assert_clean();
}

// Shows 6.1.
#[test]
fn one_mac_comes_and_goes_with_its_vhost_nets() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    for _ in 0..2 {
        world.attach(&guest, TWO_QUEUES).ok();
        assert_eq!(guest.holds(), ["tun vnet0", "tun vnet0", VHOST, VHOST]);
        world.detach(&guest, 1, &["--timeout", "20s"]).ok();
        assert_eq!(descriptors(guest.pid), []);
    }
    world.stop(&guest);
    let round = OPENS.iter().chain(&["attach 01"]).chain(&CLOSES).chain(&["detach 01"]);
    let mut record_lines = vec!["guest booted"];
    record_lines.extend(round.clone().chain(round));
    record_lines.push("guest destroyed");
    assert_eq!(world.record_lines(), record_lines);
    for holding in world.trail()["holdings"].as_array().unwrap() {
        assert_eq!((&holding["state"], &holding["ended_by"]), (&json!("released"), &json!("detach")));
        assert_eq!((&holding["certainty"], &holding["queues"]), (&json!("definitive"), &json!(2)));
    }
    world.assert_clean();
}

// Shows 7.3.
#[test]
fn revoking_takes_the_vhost_nets_too() {
    let world = World::new();
    // Without native hot-plug an empty guest never releases a NIC.
    let guest = world.start_with("web1", &["--nic", TWO_QUEUES], &EMPTY[..8]);
    world.detach(&guest, 1, &["--timeout", "300ms"]).fails(3, "holds it still");
    assert_eq!(guest.holds(), ["tun vnet0", "tun vnet0", VHOST, VHOST]);
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(descriptors(guest.pid), [], "with the NIC still plugged");
    assert_eq!(world.nics(&guest)[0]["state"], "revoked");
    world.stop(&guest);
    let record_lines = world.record_lines();
    assert_eq!(record_lines[..6], [&OPENS[..], &["start 01", "guest booted"]].concat());
    assert_eq!(record_lines[6], "detach 01 FAILED");
    assert_eq!(record_lines[7..], [&CLOSES[..], &["revoke 01", "guest destroyed"]].concat());
    world.assert_clean();
}

// Shows 1.14.
#[test]
fn a_queue_whose_vhost_net_is_refused_leaves_the_truth_and_nothing_else() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    let supervisor = world.supervisor("web1").pid;
    let pid = Pid::from_raw(supervisor.cast_signed()).unwrap();
    // The supervisor inherited its limits from this test.
    let usual = getrlimit(Resource::Nofile);
    let idle = fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count();
    let limit = |descriptors: Option<u64>| {
        let current = descriptors.or(usual.current);
        let limit = Rlimit { current, maximum: usual.maximum };
        prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    };

    // One descriptor more each time: each open(2) but the first fails once, then later steps fail.
    // The first descriptor beyond the idle supervisor's own is the client's.
    let mut refused = Vec::new();
    for more in 1_u64.. {
        let before = world.records().len();
        limit(Some(u64::try_from(idle).unwrap() + more));
        let done = world.attach(&guest, TWO_QUEUES);
        limit(None);
        if done.success() {
            break;
        }
        assert_eq!(descriptors(guest.pid), [], "{}", done.stderr);
        assert_eq!(descriptors(supervisor), []);
        assert_eq!(world.links(), Vec::<String>::new());
        assert_eq!(world.open_accounts(), (0, 0));
        let records = &world.records()[before..];
        let opened = |record: &&taptrail_record::Record| matches!(record.event, Event::Open { .. });
        let failed = records.iter().filter(opened).find(|record| record.outcome == Outcome::Failed);
        let record_lines = world.record_lines().split_off(before);
        if let Some(failed) = failed {
            assert_eq!(failed.errno, Some(24), "EMFILE: {}", done.stderr);
            refused.push(record_lines.iter().position(|line| line.ends_with("FAILED")).unwrap());
        }
        let count = |what: &str| record_lines.iter().filter(|line| line.starts_with(what)).count();
        let opens =
            record_lines.iter().filter(|line| line.starts_with("open") && !line.ends_with("FAILED")).count();
        assert_eq!(opens, count("close"), "{record_lines:?}");
        assert!(more < 64, "{}", done.stderr);
    }
    refused.dedup();
    assert!(refused.ends_with(&[1, 2, 3]), "the tap's second queue, then the vhost-net's two: {refused:?}");
    assert_eq!(guest.holds(), ["tun vnet0", "tun vnet0", VHOST, VHOST]);
    world.stop(&guest);
    world.assert_clean();

    // Only the second queue's vhost-net was refused here.
    let record_lines = world.record_lines();
    let at = record_lines.iter().position(|line| line == "open 01 vhost-net q1 FAILED").unwrap();
    assert_eq!(
        record_lines[at - 3..=at + 4],
        [&OPENS[..3], &["open 01 vhost-net q1 FAILED", "attach 01 FAILED"], &CLOSES[..3]].concat()
    );
}

// Shows 1.14.
#[test]
fn a_device_cgroup_that_refuses_vhost_net_fails_only_an_attach_that_demands_it() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    let cgroup = DeviceCgroup::refusing(&world, "c 10:238 rwm");
    cgroup.add_process(world.supervisor("web1").pid);
    world.attach(&guest, TWO_QUEUES).fails(1, "Operation not permitted");
    assert_eq!(guest.holds(), Vec::<String>::new());
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:01").ok();
    assert_eq!(guest.holds(), ["tun vnet0"]);
    assert_eq!(world.nics(&guest)[0]["vhost"], false);
    assert!(world.log("web1").contains("goes on without vhost-net"), "{}", world.log("web1"));
    world.stop(&guest);
    let refused = "open 01 vhost-net q0 FAILED";
    assert_eq!(
        world.record_lines()[1..],
        [
            OPENS[0],
            OPENS[1],
            refused,
            "attach 01 FAILED",
            CLOSES[0],
            CLOSES[1],
            OPENS[0],
            refused,
            "attach 01",
            CLOSES[0],
            "guest destroyed"
        ]
    );
    let records = world.records();
    let open = records.iter().find(|record| record.outcome == Outcome::Failed).unwrap();
    assert_eq!(open.errno, Some(1), "EPERM");
    world.assert_clean();
}

// Shows 1.13.
#[test]
fn a_false_node_in_the_place_of_vhost_net_never_reaches_qemu() {
    let world = World::new();
    // In a mount namespace of this test's own.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(&["--make-rprivate", "/"]);
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:09,vhost=on"]);
    for (number, (major, minor)) in [(1, 3), (10, 200)].into_iter().enumerate() {
        let node = world.path(&format!("node{number}"));
        mknodat(CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(major, minor))
            .unwrap();
        mount(&["--bind", node.to_str().unwrap(), "/dev/vhost-net"]);
        let says = format!("{major}:{minor}");
        world.attach(&guest, TWO_QUEUES).fails(1, &says);
        // By default an attach goes on without a vhost-net, but not with a false one.
        world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:01").fails(1, &says);
        world.try_start("web2", &["--nic", ONE], &EMPTY).fails(1, &says);
        mount(&["--unmount"]);
    }
    assert_eq!(guest.holds(), ["tun vnet0", VHOST]);
    world.attach(&guest, ONE).ok();
    world.stop(&guest);
    world.assert_clean();
}

fn mount(arguments: &[&str]) {
    let status = match arguments {
        ["--unmount"] => Command::new("/bin/umount").arg("/dev/vhost-net").status(),
        _ => Command::new("/bin/mount").args(arguments).status(),
    };
    assert!(status.unwrap().success(), "mount {arguments:?}");
}

// Shows 6.5.
#[test]
fn what_qemu_keeps_after_a_failed_attach_counts_vhost_nets_too() {
    let mut world = World::new();
    // The last of the four descriptors is useless: QEMU 7.2 has taken the others for good by then.
    world.extra.push(("FAILPOINTS".to_owned(), "getfd::useless=3*off->1*return->off".to_owned()));
    let guest = world.start("web1", &[]);
    let done = world.attach(&guest, TWO_QUEUES);
    assert_eq!(done.code(), 1, "{}", done.stderr);
    assert!(guest.is_alive(), "{}", world.log("web1"));
    let seen = descriptors(guest.pid);
    let kept = world.record_lines()[5..].iter().filter(|line| line.starts_with("keep")).count();
    let closed = world.record_lines()[5..].iter().filter(|line| line.starts_with("close")).count();
    assert_eq!((kept, closed), (seen.len(), 4 - seen.len()), "{:?}", world.record_lines());
    let vhosts = seen.iter().filter(|seen| seen.rdev == "0A:EE").count();
    let kept_on_record =
        world.record_lines().iter().filter(|line| line.starts_with("keep 01 vhost-net")).count();
    assert_eq!(vhosts, kept_on_record);
    world.stop(&guest);
    assert_eq!(world.record_lines().iter().filter(|line| line.starts_with("close")).count(), 4);
    world.assert_clean();
}

// Shows 7.6.
#[test]
fn a_stopped_qemu_still_holds_what_it_was_not_seen_to_give_up() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", TWO_QUEUES]);
    guest.signal(Signal::STOP);
    world.detach(&guest, 1, &["--force"]).fails(1, "QEMU still holds 4 of the devices");
    // The link is deleted: no frame passes.
    assert_eq!(guest.holds(), ["tun /dev/net/tun", "tun /dev/net/tun", VHOST, VHOST]);
    guest.signal(Signal::CONT);
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(descriptors(guest.pid), []);
    world.stop(&guest);
    assert_eq!(closed_vhosts(&world).len(), 2);
    world.assert_clean();
}

/// A machine that boots from the network, with a monitor for the test.
fn pxe(option: &str) -> Vec<&str> {
    let mut qemu = EMPTY.to_vec();
    qemu[4] = "64";
    qemu.extend(["-boot", "n", "-qmp", option]);
    qemu
}

// Shows 1.15.
#[test]
fn a_guest_gets_its_address_through_tap_and_vhost_net() {
    let world = World::new();
    let (server, capture) = (DhcpServer::at(&world, "br0"), PacketCapture::new());
    let option = qmp::option(&world.path("qmp"));
    let nic = format!("{ONE},filter=no-mac-spoofing");
    let guest = world.start_with("web1", &["--nic", &nic], &pxe(&option));
    assert_dhcp_works(&world, &guest, &server, &capture);
    assert_eq!(guest.holds(), ["tun vnet0", VHOST]);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 1.15.
#[test]
fn a_guest_gets_its_address_through_macvtap_and_vhost_net() {
    let world = World::new();
    let (server, capture) = (DhcpServer::at(&world, "upper"), PacketCapture::new());
    let option = qmp::option(&world.path("qmp"));
    let nic = "macvtap=lower,mac=52:54:00:00:00:01,vhost=on";
    let guest = world.start_with("web1", &["--nic", nic], &pxe(&option));
    assert_dhcp_works(&world, &guest, &server, &capture);
    world.stop(&guest);
    world.assert_clean();
}

/// Asserts that the guest's ROM gets an address by DHCP, and that its frames pass through the
/// kernel's vhost.
fn assert_dhcp_works(world: &World, guest: &Guest, server: &DhcpServer, capture: &PacketCapture) {
    let mut monitor = Qmp::connect(world.path("qmp"));
    world.until("vhost is started", || monitor.vhost_started() == [true]);
    assert!(capture.saw_dhcp_from([0x52, 0x54, 0, 0, 0, 1]), "{}", server.log());
    world.until("the guest has an address", || server.leased(&mac(1)).is_some());
    // vhost's kernel thread is one of QEMU's, or a kernel thread of that name (before Linux 6.4).
    let vhost = format!("vhost-{}", guest.pid);
    let named = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == vhost);
    let threads = fs::read_dir(format!("/proc/{}/task", guest.pid)).unwrap();
    let all = fs::read_dir("/proc").unwrap();
    assert!(threads.chain(all).any(|entry| named(&entry.unwrap().path())), "no thread is named {vhost}");
}

// Shows 3.14.
#[test]
fn auditing_and_the_ledger_agree_on_vhost_nets() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    let log = auditing.start_daemon(&world.path(""));
    // MACs of its own: guests of other tests write to the same log, and two guests with one MAC are
    // a finding.
    let nic = "bridge=br0,mac=52:54:00:0a:0d:01,vhost=on";
    let guest = world.start("web1", &["--audit", "required", "--nic", nic]);
    world.attach(&guest, "macvtap=lower,mac=52:54:00:0a:0d:02,vhost=on,queues=2").ok();
    world.taptrail(["detach", "web1", "52:54:00:0a:0d:02", "--timeout", "20s"]).ok();
    world.stop(&guest);
    auditing.end_daemon();
    let uuid = world.records()[0].guest.uuid.to_string();
    assert_eq!(records_of(&log, &uuid), world.records());
    let of_log = world.json(["trail", "--format", "json", "--guest", &uuid, log.to_str().unwrap()]);
    let summarize = |trail: &Value| -> Vec<String> {
        let keys = ["mac", "device", "queues", "state", "ended_by", "certainty"];
        let holdings = trail["holdings"].as_array().unwrap().iter();
        holdings.map(|holding| keys.map(|key| holding[key].to_string()).join(" ")).collect()
    };
    assert_eq!(summarize(&of_log), summarize(&world.trail()));
    assert_eq!(of_log["findings"], json!([]));
    world.assert_clean();
}

/// A device cgroup of version 1: version 2 has BPF programs instead of lists.
struct DeviceCgroup {
    root: std::path::PathBuf,
}

impl DeviceCgroup {
    fn refusing(world: &World, device: &str) -> Self {
        let root = world.path("devices");
        fs::create_dir(&root).unwrap();
        mount(&["-t", "cgroup", "-o", "devices", "devices", root.to_str().unwrap()]);
        let group = root.join("taptrail");
        fs::create_dir(&group).unwrap();
        fs::write(group.join("devices.deny"), device).unwrap();
        Self { root }
    }

    fn add_process(&self, pid: u32) {
        fs::write(self.root.join("taptrail/cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for DeviceCgroup {
    fn drop(&mut self) {
        let _ = Command::new("/bin/umount").arg(&self.root).status();
    }
}

// Shows 14.12.
#[test]
fn verify_accounts_for_vhost_nets_by_their_number_and_finds_a_copy() {
    let world = World::new();
    let second = "bridge=br0,mac=52:54:00:00:00:02,vhost=on";
    let guest = world.start("web1", &["--nic", TWO_QUEUES, "--nic", second]);
    let verify = |code: i32| {
        let scope = ["verify", "--netns", "/proc/self/ns/net", "--ignore-pid", "1", "--settle", "300ms"];
        let done = world.taptrail(scope.iter().chain(&["--format", "json"]));
        assert_eq!(done.code(), code, "{}{}", done.stdout, done.stderr);
        let reported: Value = serde_json::from_str(&done.stdout).unwrap();
        let line = |row: &Value| {
            let (verdict, kind) = (row["verdict"].as_str().unwrap(), row["device"]["kind"].as_str().unwrap());
            format!("{verdict} {kind} x{} {}", row["queues"], row["holding"]["mac"].as_str().unwrap())
        };
        let mut lines: Vec<_> = reported["devices"].as_array().unwrap().iter().map(line).collect();
        lines.sort();
        lines
    };
    let accounted = [
        "accounted tun x1 52:54:00:00:00:02",
        "accounted tun x2 52:54:00:00:00:01",
        "accounted vhost-net x1 52:54:00:00:00:02",
        "accounted vhost-net x2 52:54:00:00:00:01",
    ];
    assert_eq!(verify(0), accounted);

    let vhost = descriptors(guest.pid).into_iter().find(|held| held.link == "/dev/vhost-net").unwrap();
    let qemu = pidfd_open(Pid::from_raw(guest.pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    let copy = pidfd_getfd(&qemu, vhost.fd, PidfdGetfdFlags::empty()).unwrap();
    let mut sleeper = Command::new("/bin/sleep").arg("1000").stdin(copy).spawn().unwrap();
    let seen = verify(1);
    assert_eq!((&seen[..4], seen.len()), (&accounted.map(str::to_owned)[..], 5));
    assert!(seen[4].starts_with("held-by-another vhost-net x1 "), "{seen:?}");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();

    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(verify(0), [accounted[0], accounted[2]]);
    world.stop(&guest);
}

#[test]
fn a_vhost_net_that_is_hidden_is_not_definitively_released() {
    for (way, doubt) in [("", None), ("flight", Some(CloseDoubt::Hidden)), ("ring", Some(CloseDoubt::Hidden))]
    {
        let world = World::new();
        let hostile = Hostile::start(&world, "web1");
        hostile.set_mode("deleted");
        world.attach(&hostile.guest, "bridge=br0,mac=52:54:00:00:00:01,id=n1,vhost=on").ok();
        hostile.set_mode(&format!("{way} deleted only-vhost"));
        world.detach(&hostile.guest, 1, &[]).ok();
        assert_eq!(hostile.held_descriptors().len(), usize::from(doubt.is_some()), "{way}");
        let mut closes = world.records();
        closes.retain(|record| matches!(record.event, Event::Close { .. }));
        let doubts: Vec<_> = closes.iter().map(|record| record.doubt).collect();
        // The tap is gone with its link. For the vhost-net, taptrail sees all open files that the
        // driver counts, or not.
        assert_eq!(doubts, [None, doubt], "{way}");
    }
}

// Shows 16.1.
#[test]
fn the_doctor_sees_vhost_net_and_loads_no_module() {
    let world = World::new();
    let modules = || {
        let text = fs::read_to_string("/proc/modules").unwrap();
        let mut names: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let before = modules();
    let answer = world.taptrail(["doctor", "--for", "run", "--json"]).ok();
    assert_eq!(modules(), before);
    let answer: Value = serde_json::from_str(&answer.stdout).unwrap();
    let status = |id: &str| {
        let checks = answer["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap()["status"].clone()
    };
    for id in ["tun", "vhost-net", "macvtap", "bridge", "nft-netdev", "bpf"] {
        assert_eq!(status(id), "ok", "{id} in {answer:#}");
    }
    assert_eq!(answer["jobs"][0]["verdict"], "ready");
}
