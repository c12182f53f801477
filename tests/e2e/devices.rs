//! Raw network devices beside tap, macvtap and vhost-net: vDPA and ipvtap, of a kernel that has them
//! (`scripts/test-vm`).

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use crate::watch::{Watch, kinds};
use crate::world::OwnedChild;
use crate::world::log::{Log, UUID};
use crate::world::procfs::descriptors;
use crate::world::vdpa::Vdpa;
use crate::world::{EMPTY, World, mac};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};

fn of(card: &Vdpa) -> String {
    format!("vdpa={},mac={}", card.node, mac(1))
}

/// The verdict and kind of each device of this world's guests.
fn verified(world: &World) -> Vec<String> {
    let report = world.json([
        "verify",
        "--format",
        "json",
        "--settle",
        "300ms",
        "--guest",
        "web1",
        "--ignore-pid",
        "1",
    ]);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let line = |row: &Value| {
        let kind =
            if row["device"].is_null() { &row["holding"]["device"]["kind"] } else { &row["device"]["kind"] };
        format!("{} {}", text(&row["verdict"]), text(kind))
    };
    report["devices"].as_array().unwrap().iter().map(line).collect()
}

/// Each holding is over, and shown to be.
#[track_caller]
fn assert_all_definitive(world: &World, count: usize, expected: &[&str]) {
    let trail = world.trail();
    let findings = trail["findings"].as_array().unwrap().iter();
    assert_eq!(findings.map(|finding| finding["kind"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    let holdings = trail["holdings"].as_array().unwrap();
    assert_eq!(holdings.len(), count, "{holdings:#?}");
    for holding in holdings {
        let state = (&holding["state"], &holding["certainty"]);
        assert_eq!(state, (&json!("released"), &json!("definitive")), "{holding:#}");
    }
}

// Shows 17.2.
#[test]
fn a_vdpa_device_is_plugged_proven_unplugged_and_plugged_again() {
    let world = World::new();
    let card = Vdpa::new("ttplug", &mac(1));
    let guest = world.start("web1", &[]);
    for _ in 0..2 {
        world.attach(&guest, &of(&card)).ok();
        assert_eq!(guest.holds(), [format!("vhost-vdpa {}", card.node)]);
        assert_eq!(descriptors(world.supervisor("web1").pid), [], "the supervisor keeps none");
        let nics = world.nics(&guest);
        assert_eq!(
            (&nics[0]["backend"], &nics[0]["ifname"], &nics[0]["vhost"]),
            (&json!(format!("vdpa={}", card.node)), &json!(card.short()), &json!(false))
        );
        assert_eq!(verified(&world), ["accounted vhost-vdpa"]);
        world.detach(&guest, 1, &["--timeout", "20s"]).ok();
        assert_eq!(descriptors(guest.pid), []);
    }
    world.stop(&guest);
    let round = ["open 01 vhost-vdpa q0", "attach 01", "close 01 vhost-vdpa q0", "detach 01"];
    assert_eq!(
        world.record_lines(),
        [&["guest booted"], &round[..], &round[..], &["guest destroyed"]].concat()
    );
    assert_all_definitive(&world, 2, &[]);
    world.assert_clean();
}

// Shows 17.2, 17.6.
#[test]
fn a_guest_starts_with_a_vdpa_device_and_its_end_releases_it() {
    let world = World::new();
    let card = Vdpa::new("ttstart", &mac(1));
    let guest =
        world.start("web1", &["--nic", &of(&card), "--nic", "bridge=br0,mac=52:54:00:00:00:02,vhost=off"]);
    assert_eq!(guest.holds(), ["tun vnet0".to_owned(), format!("vhost-vdpa {}", card.node)]);
    assert_eq!(verified(&world).len(), 2);
    world.kill_supervisor("web1");
    world.taptrail(["adopt", "--background", "web1"]).ok();
    assert_eq!(verified(&world), ["accounted vhost-vdpa", "accounted tun"]);
    guest.kill();
    world.until("the guest has ended", || world.record_lines().last().unwrap() == "guest crashed");
    assert_all_definitive(&world, 2, &[]);
    world.assert_clean();
    // Nobody holds it: the kernel allows one open.
    let next = world.start("web2", &["--nic", &of(&card)]);
    world.stop(&next);
    world.assert_clean();
}

/// A QEMU that has a vDPA device as libvirt gives it one: in a set of descriptors. Its process is
/// killed with this.
pub(crate) struct ForeignQemu(pub(crate) OwnedChild);

impl ForeignQemu {
    pub(crate) fn start(card: &Vdpa, mac: &str) -> Self {
        let device = File::options().read(true).write(true).open(&card.node).unwrap();
        fcntl_setfd(&device, FdFlags::empty()).unwrap();
        let child = Command::new("qemu-system-x86_64")
            .args(["-machine", "q35", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-S"])
            .args(["-name", "guest=web1", "-uuid", UUID])
            .args(["-add-fd", &format!("set=0,fd={},opaque={}", device.as_raw_fd(), card.node)])
            .args(["-netdev", r#"{"type":"vhost-vdpa","vhostdev":"/dev/fdset/0","id":"hostnet0"}"#])
            .args(["-device", &format!("virtio-net-pci,netdev=hostnet0,id=net0,mac={mac}")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child.into())
    }
}

// Shows 13.15, 17.6.
#[test]
fn a_vdpa_device_of_another_managers_guest_is_watched_accounted_for_and_released() {
    let world = World::new();
    let card = Vdpa::new("ttwatch", &mac(1));
    let qemu = ForeignQemu::start(&card, &mac(1));
    let pid = qemu.0.id();
    world.until("QEMU has two descriptors of it", || {
        descriptors(pid).iter().filter(|one| one.link == card.node).count() == 2
    });
    let mut log = Log::new(&world);
    log.granted("start", &mac(1));
    log.control(&format!("op=start reason=booted vm-pid={pid}"));
    let mut watch = Watch::start(&world, &[]);
    let granted = watch.wait_for(&world, &[("kind", "granted")]);
    let device = &granted["descriptors"][0]["device"];
    assert_eq!((&granted["mac"], &device["path"]), (&json!(mac(1)), &json!(card.node)));
    world.until("the ledger has it", || verified(&world) == ["accounted vhost-vdpa"]);
    drop(qemu);
    let released = watch.wait_for(&world, &[("kind", "released")]);
    assert_eq!(released["device"]["kind"], "vhost-vdpa");
    watch.stop();
    assert!(!kinds(&watch.all()).iter().any(|kind| kind.contains("finding")), "{:?}", watch.all());
    assert_all_definitive(&world, 1, &[]);
}

// Shows 17.2.
#[test]
fn a_plug_that_fails_or_is_cut_off_gives_the_vdpa_device_back() {
    let mut world = World::new();
    let card = Vdpa::new("ttback", &mac(1));
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:02,vhost=off,boot=1"]);
    world.attach(&guest, &format!("{},boot=1", of(&card))).fails(1, "bootindex");
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.attach(&guest, &of(&card)).ok();
    world.detach(&guest, 1, &["--timeout", "20s"]).ok();
    world.stop(&guest);
    world.assert_clean();

    world.extra.push(("FAILPOINTS".to_owned(), "attach::nic-added=return".to_owned()));
    let guest = world.start("web2", &[]);
    world.attach(&guest, &of(&card)).fails(1, "");
    world.supervisor_is_gone("web2");
    assert_eq!(guest.holds(), [format!("vhost-vdpa {}", card.node)]);
    world.extra.clear();
    world.taptrail(["adopt", "--background", "web2"]).ok();
    world.until("the NIC is gone", || world.nics(&guest) == json!([]));
    assert_eq!(guest.holds(), [""; 0]);
    world.attach(&guest, &of(&card)).ok();
    assert_eq!(guest.holds(), [format!("vhost-vdpa {}", card.node)]);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 17.3.
#[test]
fn what_is_no_vdpa_network_card_or_not_free_never_reaches_qemu() {
    let world = World::new();
    let card = Vdpa::new("ttfalse", &mac(1));
    let guest = world.start("web1", &[]);
    let refused = |spec: &str, why: &str| {
        world.attach(&guest, spec).fails(1, why);
        assert_eq!(descriptors(guest.pid), []);
        assert_eq!(world.open_accounts(), (0, 0));
    };
    let node = "/dev/vhost-vdpa-97";
    let _ = std::fs::remove_file(node);
    refused(&format!("vdpa={node}"), "No such file or directory");
    mknodat(CWD, node, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(10, 238)).unwrap();
    refused(&format!("vdpa={node}"), "is the character device 10:238, not a vDPA device");
    std::fs::remove_file(node).unwrap();
    refused(&format!("vdpa={},mac={}", card.node, mac(7)), "give its own, mac=52:54:00:00:00:01");
    let held = File::options().read(true).write(true).open(&card.node).unwrap();
    refused(&of(&card), &format!("is held already by process {}", std::process::id()));
    drop(held);
    world.attach(&guest, &of(&card)).ok();
    let other = world.start("web2", &[]);
    world.attach(&other, &of(&card)).fails(1, &format!("is held already by process {}", guest.pid));
    assert_eq!(guest.holds(), [format!("vhost-vdpa {}", card.node)]);
    world.stop(&other);
    world.stop(&guest);
    let record_lines = world.record_lines();
    let failed = record_lines.iter().filter(|line| *line == "open 01 vhost-vdpa q0 FAILED").count();
    assert_eq!(failed, 2, "{record_lines:?}");
    let count = |what: &str| record_lines.iter().filter(|line| line.starts_with(what)).count();
    let opened =
        record_lines.iter().filter(|line| line.starts_with("open") && !line.ends_with("FAILED")).count();
    assert_eq!(opened, count("close"), "{record_lines:?}");
    world.assert_clean();
}

// Shows 17.4.
#[test]
fn a_vdpa_device_is_not_revoked_under_its_nic() {
    let world = World::new();
    let card = Vdpa::new("ttrevoke", &mac(1));
    // Without native hot-plug an empty guest never releases a NIC.
    let guest = world.start_with("web1", &["--nic", &of(&card)], &EMPTY[..8]);
    world.detach(&guest, 1, &["--force"]).fails(1, "or stop the guest");
    world.detach(&guest, 1, &["--timeout", "300ms"]).fails(3, "holds it still");
    assert_eq!(guest.holds(), [format!("vhost-vdpa {}", card.node)]);
    world.stop(&guest);
    assert_all_definitive(&world, 1, &["detach-failed"]);
    world.assert_clean();
}

// Shows 17.1.
#[test]
fn an_ipvtap_is_opened_proven_and_released() {
    let world = World::new();
    world.ip("link add link lower name ipvtap0 type ipvtap mode l2");
    world.ip("link set ipvtap0 up");
    let link = world.link("ipvtap0");
    let address = link["address"].as_str().unwrap();
    let node = format!("macvtap /dev/tap{}", link["ifindex"]);
    let guest = world.start("web1", &[]);
    world.attach(&guest, "tap=ipvtap0,vhost=off").ok();
    assert_eq!(guest.holds(), std::slice::from_ref(&node));
    assert_eq!(world.nics(&guest)[0]["mac"], address);
    assert_eq!(verified(&world), ["accounted ipvtap"]);
    world.taptrail(["detach", "web1", address, "--timeout", "20s"]).ok();
    assert_eq!(guest.holds(), [""; 0]);
    assert_all_definitive(&world, 1, &[]);
    world.attach(&guest, "tap=ipvtap0,vhost=off,mac=52:54:00:00:00:09").fails(1, "has MAC");
    world.stop(&guest);
    let again = world.start("web2", &["--nic", "tap=ipvtap0,vhost=on"]);
    assert_eq!(again.holds(), [node, "vhost-net /dev/vhost-net".to_owned()]);
    world.stop(&again);
    world.ip("link del ipvtap0");
    world.assert_clean();
}
