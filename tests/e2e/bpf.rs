//! `--bpf` of the watcher and of the supervisor: a holding ends with the last close of its file, as
//! the kernel reports it.
//!
//! These tests need a kernel that may be traced, and a real QEMU: `scripts/test-vm` has both.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::devices::ForeignQemu;
use crate::world::OwnedChild;
use crate::world::hostile::Hostile;
use crate::world::log::{Log, MAC, UUID};
use crate::world::procfs::descriptors;
use crate::world::qmp::{self, Qmp};
use crate::world::vdpa::Vdpa;
use crate::world::{World, mac};
use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::{Value, json};
use taptrail_kernel::proc::{PidFd, ProcessId, Signal, children};
use taptrail_record::{CloseDoubt, DeviceKind, Event, Record};

/// Copies a descriptor of a process.
fn copy_from(pid: u32, fd: &Value) -> OwnedFd {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_getfd(pidfd, fd.as_i64().unwrap().try_into().unwrap(), PidfdGetfdFlags::empty()).unwrap()
}

/// A real QEMU with one tap, whose address is derived from the guest's as libvirt does it.
struct Qemu {
    child: OwnedChild,
    monitor: PathBuf,
}

impl Qemu {
    fn start(world: &World) -> Self {
        let monitor = world.path("monitor");
        let child = Command::new("qemu-system-x86_64")
            .args(["-machine", "none", "-nodefaults", "-display", "none", "-name", "web1", "-uuid", UUID])
            .args(["-netdev", "tap,id=n0,ifname=watched0,script=no,downscript=no,vhost=off"])
            .args(["-qmp", &qmp::option(&monitor)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(world.path("qemu.log")).unwrap())
            .spawn()
            .unwrap();
        let qemu = Self { child: child.into(), monitor };
        world.until("QEMU has its tap", || world.links().contains(&"watched0".to_owned()));
        world.ip("link set watched0 address fe:54:00:0a:0f:01");
        qemu
    }

    /// Copies one of its descriptors. Neither QEMU's table nor a record of its manager shows the
    /// copy.
    fn copy(&self, fd: &Value) -> OwnedFd {
        copy_from(self.child.id(), fd)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// `taptrail watch --bpf`.
struct Watch {
    child: OwnedChild,
    lines: PathBuf,
    errors: PathBuf,
}

impl Watch {
    fn start(world: &World, options: &[&str]) -> Self {
        let (lines, errors) = (world.path("watch.json"), world.path("watch.log"));
        let child = world
            .command([&["watch", "--bpf", "--json", "--every", "200ms"], options].concat())
            .stdin(Stdio::null())
            .stdout(File::create(&lines).unwrap())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        Self { child: child.into(), lines, errors }
    }

    fn all(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.lines).unwrap();
        // The last line may be incomplete yet.
        text.split_inclusive('\n')
            .filter_map(|line| serde_json::from_str(line.strip_suffix('\n')?).ok())
            .collect()
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }

    /// Waits for an event with these values.
    fn wait_for(&mut self, world: &World, what: &[(&str, &str)]) -> Value {
        let mut found = None;
        world.until(&format!("{what:?}"), || {
            let ended = self.child.try_wait().unwrap();
            let all = self.all();
            found = all.iter().find(|line| what.iter().all(|(name, value)| line[*name] == **value)).cloned();
            assert!(found.is_some() || ended.is_none(), "{what:?}: {ended:?} {all:#?} {}", self.errors());
            found.is_some()
        });
        found.unwrap()
    }

    fn signal(&self, signal: Signal) {
        PidFd::open(ProcessId::of(self.child.id()).unwrap()).unwrap().send_signal(signal).unwrap();
    }

    fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.errors());
    }
}

fn is_released(watch: &Watch) -> bool {
    watch.all().iter().any(|line| line["kind"] == "released")
}

fn trail(world: &World) -> Value {
    let ledger = world.state().join("ledger.sqlite");
    world.json(["trail", "--format", "json", ledger.to_str().unwrap()])
}

/// Asserts that `last_close` releases the interface definitively, with the time of that close.
fn assert_released_by(world: &World, watch: &mut Watch, last_close: impl FnOnce()) -> Value {
    let before = Timestamp::now();
    last_close();
    let after = Timestamp::now();
    let released = watch.wait_for(world, &[("kind", "released"), ("mac", MAC)]);
    assert_eq!(released["certainty"], "definitive", "{released:#}");
    let trail = trail(world);
    let holding = &trail["holdings"][0];
    assert_eq!(
        (&holding["state"], &holding["certainty"]),
        (&"released".into(), &"definitive".into()),
        "{trail:#}"
    );
    // Events have milliseconds.
    let time: Timestamp = released["time"].as_str().unwrap().parse().unwrap();
    assert!(
        before.as_millisecond() <= time.as_millisecond() && time <= after,
        "{before} {released:#} {after}"
    );
    released
}

// Shows 13.18.
#[test]
fn a_device_that_another_process_has_is_released_when_that_process_closes_it() {
    let world = World::new();
    let (mut log, qemu) = (Log::new(&world), Qemu::start(&world));
    let mut watch = Watch::start(&world, &[]);
    log.boots(qemu.child.id());
    let granted = watch.wait_for(&world, &[("kind", "granted")]);
    let copy = qemu.copy(&granted["descriptors"][0]["fd"]);

    Qmp::connect(qemu.monitor.clone()).execute("netdev_del", json!({"id": "n0"}));
    log.granted("detach", MAC);
    // The watcher scans after each record, before it reports the record: the second scan is after
    // the detach.
    for last in [2, 3] {
        log.opened(&mac(last));
        watch.wait_for(&world, &[("kind", "opened"), ("mac", &mac(last))]);
    }
    assert!(!is_released(&watch), "{:#?}", watch.all());
    assert!(world.links().contains(&"watched0".to_owned()), "the tap is there, since somebody has it");

    let released = assert_released_by(&world, &mut watch, || drop(copy));
    assert_eq!(released["reason"], "detach");
    watch.stop();
}

#[test]
fn the_end_of_qemu_is_definitive_when_no_other_process_has_its_files() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    let numbers = world.path("taptrail.prom");
    let mut watch = Watch::start(&world, &["--metrics-file", numbers.to_str().unwrap()]);
    log.boots(qemu.child.id());
    watch.wait_for(&world, &[("kind", "granted")]);
    qemu.kill();
    let released = watch.wait_for(&world, &[("kind", "released")]);
    assert_eq!(released["certainty"], "definitive", "{}", watch.errors());
    assert!(fs::read_to_string(&numbers).unwrap().contains("\ntaptrail_bpf_loaded 1\n"));
    watch.stop();
}

// Shows 13.18.
#[test]
fn the_end_of_qemu_is_no_proof_while_another_process_has_its_files() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    let mut watch = Watch::start(&world, &[]);
    log.boots(qemu.child.id());
    let granted = watch.wait_for(&world, &[("kind", "granted")]);
    let copy = qemu.copy(&granted["descriptors"][0]["fd"]);
    qemu.kill();
    watch.wait_for(&world, &[("kind", "guest"), ("state", "ended")]);
    // The manager records the reason only after the watcher has stopped waiting for it.
    watch.wait_for(&world, &[("kind", "guest"), ("state", "gone")]);
    log.control("op=stop reason=destroyed");
    watch.wait_for(&world, &[("kind", "guest"), ("state", "stopped")]);
    assert!(!is_released(&watch), "{:#?}", watch.all());
    assert!(watch.errors().contains("is open still: somebody else has it"), "{}", watch.errors());
    let holding = &trail(&world)["holdings"][0];
    assert_eq!(holding["certainty"], "inferred", "its manager's word, and no more: {holding:#}");
    assert_released_by(&world, &mut watch, || drop(copy));
    watch.stop();
}

// Shows 13.18.
#[test]
fn a_vdpa_device_is_released_by_its_last_close() {
    let world = World::new();
    let card = Vdpa::new("ttlast", MAC);
    let qemu = ForeignQemu::start(&card, MAC);
    let pid = qemu.0.id();
    world.until("QEMU has it", || descriptors(pid).iter().filter(|one| one.link == card.node).count() == 2);
    let mut log = Log::new(&world);
    log.granted("start", MAC);
    log.control(&format!("op=start reason=booted vm-pid={pid}"));
    let mut watch = Watch::start(&world, &[]);
    let granted = watch.wait_for(&world, &[("kind", "granted")]);
    let copy = copy_from(pid, &granted["descriptors"][0]["fd"]);
    drop(qemu);
    watch.wait_for(&world, &[("kind", "guest"), ("state", "gone")]);
    assert!(!is_released(&watch), "{:#?}", watch.all());
    assert_released_by(&world, &mut watch, || drop(copy));
    watch.stop();
    // The supervisor's own, beside a tap.
    let guest = world.start(
        "web2",
        &["--bpf", "--nic", &format!("vdpa={},mac={MAC}", card.node), "--nic", "bridge=br0,vhost=off"],
    );
    world.stop(&guest);
    let closes = world.records().into_iter().filter(|record| matches!(record.event, Event::Close { .. }));
    assert_eq!(closes.map(|record| record.doubt).collect::<Vec<_>>(), [None, None]);
}

#[test]
fn a_flood_of_events_hides_no_last_close_and_makes_none_up() {
    let world = World::new();
    let (mut log, qemu) = (Log::new(&world), Qemu::start(&world));
    let numbers = world.path("taptrail.prom");
    let mut watch = Watch::start(&world, &["--metrics-file", numbers.to_str().unwrap()]);
    log.boots(qemu.child.id());
    let granted = watch.wait_for(&world, &[("kind", "granted")]);
    let copy = qemu.copy(&granted["descriptors"][0]["fd"]);
    // More events than the kernel keeps for a process that does not read them.
    watch.signal(Signal::STOP);
    for _ in 0..10_000 {
        File::open("/dev/net/tun").unwrap();
    }
    Qmp::connect(qemu.monitor.clone()).execute("netdev_del", json!({"id": "n0"}));
    log.granted("detach", MAC);
    watch.signal(Signal::CONT);
    for last in [2, 3] {
        log.opened(&mac(last));
        watch.wait_for(&world, &[("kind", "opened"), ("mac", &mac(last))]);
    }
    assert!(!is_released(&watch), "{:#?}", watch.all());
    world.until("the loss is reported", || {
        fs::read_to_string(&numbers).is_ok_and(|text| {
            text.contains("\ntaptrail_bpf_events_lost_total ")
                && !text.contains("\ntaptrail_bpf_events_lost_total 0\n")
        })
    });
    assert_released_by(&world, &mut watch, || drop(copy));
    watch.stop();
}

/// Runs on any kernel: if the kernel may not be traced, one warning says so.
#[test]
fn watching_goes_on_without_bpf_where_the_kernel_has_none() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    let numbers = world.path("taptrail.prom");
    let mut watch = Watch::start(&world, &["--metrics-file", numbers.to_str().unwrap()]);
    log.boots(qemu.child.id());
    watch.wait_for(&world, &[("kind", "granted")]);
    qemu.kill();
    watch.wait_for(&world, &[("kind", "released"), ("certainty", "definitive")]);
    watch.stop();
    let is_loaded = taptrail_bpf::Kernel::load().is_ok();
    let warnings = watch.errors().matches("--bpf does nothing").count();
    assert_eq!(warnings, usize::from(!is_loaded), "{}", watch.errors());
    let loaded = format!("\ntaptrail_bpf_loaded {}\n", u8::from(is_loaded));
    assert!(fs::read_to_string(&numbers).unwrap().contains(&loaded));
}

/// A device that a hostile QEMU gets and does not close.
#[derive(Debug, Clone, Copy)]
struct Hidden {
    spec: &'static str,
    /// The part of the device that QEMU hides: a mode of `examples/hostile_qemu.rs`.
    mode: &'static str,
    kind: DeviceKind,
}

const TAP: Hidden = Hidden { spec: "bridge=br0,vhost=off", mode: "", kind: DeviceKind::Tun };
const THEIR_TAP: Hidden = Hidden { spec: "tap=mine,vhost=off", ..TAP };
const MACVTAP: Hidden = Hidden { spec: "macvtap=lower,vhost=off", mode: "", kind: DeviceKind::Macvtap };
const THEIR_MACVTAP: Hidden = Hidden { spec: "tap=theirs,vhost=off", ..MACVTAP };
const VHOST_NET: Hidden =
    Hidden { spec: "bridge=br0,vhost=on", mode: "only-vhost", kind: DeviceKind::VhostNet };

impl Hidden {
    /// Attaches the device to a hostile QEMU whose supervisor has `--bpf`.
    fn attach_to_hostile(self, world: &World) -> Hostile<'_> {
        if self.spec.contains("mine") {
            world.ip("tuntap add dev mine mode tap");
        }
        if self.spec.contains("theirs") {
            world.ip("link add link lower name theirs type macvtap mode bridge");
            world.ip(&format!("link set theirs address {} up", mac(1)));
        }
        let hostile = Hostile::start_with(world, "web1", &["--bpf", "--audit", "off"]);
        self.attach(world, &hostile);
        hostile
    }

    fn attach(self, world: &World, hostile: &Hostile<'_>) {
        hostile.set_mode("deleted");
        world.attach(&hostile.guest, &format!("{},mac={},id=n1", self.spec, mac(1))).ok();
    }

    /// Detaches the device, which QEMU hides in this way instead.
    fn hide(self, way: &str, world: &World, hostile: &Hostile<'_>) {
        let closes = self.closes(world);
        hostile.set_mode(&format!("{way} {} deleted", self.mode));
        let done = world.detach(&hostile.guest, 1, &[]);
        done.fails(1, "still holds 1 of the devices");
        assert_eq!(self.closes(world), closes, "{self:?} {way}");
        self.assert_held(world, hostile);
    }

    /// Asserts that the device is on record as held, without a doubt.
    fn assert_held(self, world: &World, hostile: &Hostile<'_>) {
        let held_descriptors = hostile.held_descriptors();
        assert_eq!(held_descriptors.len(), 1, "{self:?}: {held_descriptors:?}");
        let held = self.holding(world);
        let is = (&held["state"], held.get("end_doubt"));
        assert_eq!(is, (&"held".into(), None), "{self:?} {held_descriptors:?}: {held:#}");
    }

    fn closes(self, world: &World) -> Vec<Record> {
        let mut records = world.records();
        let is = |record: &Record| {
            let Event::Close { mac, device, .. } = &record.event else { return false };
            device.kind == self.kind && mac.0[5] == 1
        };
        records.retain(is);
        records
    }

    fn holding(self, world: &World) -> Value {
        let all = world.trail();
        let is = |holding: &&Value| {
            holding["device"]["kind"] == self.kind.as_str() && holding["mac"] == mac(1).as_str()
        };
        all["holdings"].as_array().unwrap().iter().rfind(is).unwrap_or_else(|| panic!("{all:#}")).clone()
    }

    /// Waits until the device is definitively released, without a further request; this is the
    /// `number`th close.
    fn wait_for_release(self, world: &World, number: usize) -> Value {
        world.until(&format!("{self:?}: the close"), || self.closes(world).len() > number);
        let close = &self.closes(world)[number];
        assert_eq!((close.doubt, close.last_seen), (None, None), "{self:?}");
        let holding = self.holding(world);
        let is = (&holding["state"], &holding["certainty"]);
        assert_eq!(is, (&"released".into(), &"definitive".into()), "{self:?}: {holding:#}");
        holding
    }

    fn is_held_until_it_is_let_go(self) {
        let world = World::new();
        let hostile = self.attach_to_hostile(&world);
        for (number, way) in ["thread", "flight", "ring", "child"].into_iter().enumerate() {
            self.hide(way, &world, &hostile);
            // QEMU closes it when it gets another device.
            hostile.set_mode("free deleted");
            world.attach(&hostile.guest, &format!("bridge=br0,vhost=off,mac={},id=n2", mac(2))).ok();
            self.wait_for_release(&world, number);
            assert_eq!(hostile.held_descriptors().len(), 1, "{self:?} {way}: the other one");
            world.detach(&hostile.guest, 2, &["--force"]).ok();
            self.attach(&world, &hostile);
        }
    }

    /// The doubt of the close at QEMU's end.
    fn doubt_at_the_end(self, way: &str) -> Option<CloseDoubt> {
        let world = World::new();
        let hostile = self.attach_to_hostile(&world);
        if !way.is_empty() {
            self.hide(way, &world, &hostile);
        }
        world.stop(&hostile.guest);
        world.taptrail(["ledger", "check"]).ok();
        let closes = self.closes(&world);
        assert_eq!(closes.len(), 1, "{self:?} {way}");
        closes[0].doubt
    }
}

fn signal(process: ProcessId, signal: Signal) {
    PidFd::open(process).unwrap().send_signal(signal).unwrap();
}

fn child_of(hostile: &Hostile<'_>) -> ProcessId {
    ProcessId::of(children(hostile.guest.pid).unwrap()[0]).unwrap()
}

// Shows 13.19.
#[test]
fn a_tap_that_qemu_hides_is_held_until_its_last_close() {
    TAP.is_held_until_it_is_let_go();
}

// Shows 13.19.
#[test]
fn a_persistent_tap_that_qemu_hides_is_held_until_its_last_close() {
    THEIR_TAP.is_held_until_it_is_let_go();
}

#[test]
fn a_macvtap_that_qemu_hides_is_held_until_its_last_close() {
    MACVTAP.is_held_until_it_is_let_go();
}

#[test]
fn a_macvtap_of_others_that_qemu_hides_is_held_until_its_last_close() {
    THEIR_MACVTAP.is_held_until_it_is_let_go();
}

// Shows 13.19.
#[test]
fn a_vhost_net_that_qemu_hides_is_held_until_its_last_close() {
    VHOST_NET.is_held_until_it_is_let_go();
}

// Shows 13.19.
#[test]
fn a_last_close_has_the_kernels_time_however_late_the_supervisor_looks() {
    let world = World::new();
    let hostile = TAP.attach_to_hostile(&world);
    TAP.hide("child", &world, &hostile);
    let (child, supervisor) = (child_of(&hostile), world.supervisor("web1"));
    signal(supervisor, Signal::STOP);
    let before = Timestamp::now();
    signal(child, Signal::KILL);
    world.until("the tap goes with its last open file", || world.links().is_empty());
    let after = Timestamp::now();
    // Records have milliseconds.
    world.until("a later millisecond", || Timestamp::now().as_millisecond() > after.as_millisecond() + 1);
    signal(supervisor, Signal::CONT);
    let holding = TAP.wait_for_release(&world, 0);
    let end: Timestamp = holding["released"].as_str().unwrap().parse().unwrap();
    assert!(before.as_millisecond() <= end.as_millisecond() && end <= after, "{before} {holding:#} {after}");
}

#[test]
fn the_end_of_a_supervised_qemu_is_no_proof_while_another_process_has_its_files() {
    for (hidden, doubt) in [
        (TAP, Some(CloseDoubt::HeldElsewhere)),
        (THEIR_TAP, Some(CloseDoubt::HeldElsewhere)),
        // Its link is deleted: a copy of the descriptor is useless.
        (MACVTAP, None),
        (THEIR_MACVTAP, Some(CloseDoubt::HeldElsewhere)),
        (VHOST_NET, Some(CloseDoubt::Uncounted)),
    ] {
        assert_eq!(hidden.doubt_at_the_end("child"), doubt, "{hidden:?}");
    }
}

#[test]
fn the_end_of_a_supervised_qemu_is_definitive_when_no_other_process_has_its_files() {
    for hidden in [TAP, THEIR_TAP, MACVTAP, THEIR_MACVTAP, VHOST_NET] {
        assert_eq!(hidden.doubt_at_the_end(""), None, "{hidden:?}");
    }
}

/// A process with a macvtap's descriptor can open its node again, which adds a queue to the same
/// device.
#[test]
fn a_macvtap_that_was_opened_again_is_not_released_with_the_first_file() {
    let world = World::new();
    let hostile = THEIR_MACVTAP.attach_to_hostile(&world);
    hostile.set_mode("reopen deleted");
    world.detach(&hostile.guest, 1, &[]).ok();
    assert_eq!(hostile.held_descriptors().len(), 1, "in flight");
    let doubts: Vec<_> = THEIR_MACVTAP.closes(&world).iter().map(|close| close.doubt).collect();
    assert_eq!(doubts, [Some(CloseDoubt::Hidden)]);
}

#[test]
fn a_device_that_qemu_holds_at_an_adoption_is_held_until_its_last_close() {
    for hidden in [THEIR_MACVTAP, VHOST_NET] {
        let world = World::new();
        let hostile = hidden.attach_to_hostile(&world);
        world.kill_supervisor("web1");
        // QEMU reports no NIC, so the new supervisor asks it to close the rest of one.
        hostile.set_mode(&format!("flight {} deleted", hidden.mode));
        world.taptrail(["adopt", "--bpf", "--audit", "off", "--background", "web1"]).ok();
        assert_eq!(hidden.closes(&world), [], "{hidden:?}");
        hidden.assert_held(&world, &hostile);
        hostile.set_mode("free deleted");
        world.attach(&hostile.guest, &format!("bridge=br0,vhost=off,mac={},id=n2", mac(2))).ok();
        // For a file that was open before, the kernel's count for the device decides, as without
        // `--bpf`.
        world.until(&format!("{hidden:?}: the close"), || hidden.closes(&world).len() == 1);
        assert_eq!(hidden.closes(&world)[0].doubt, None, "{hidden:?}");
    }
}

#[test]
fn a_flood_of_events_hides_no_last_close_from_the_supervisor_and_makes_none_up() {
    let world = World::new();
    let hostile = VHOST_NET.attach_to_hostile(&world);
    VHOST_NET.hide("child", &world, &hostile);
    let (child, supervisor) = (child_of(&hostile), world.supervisor("web1"));
    let flood = || {
        // More events than the kernel keeps for a process that does not read them.
        signal(supervisor, Signal::STOP);
        for _ in 0..10_000 {
            File::open("/dev/net/tun").unwrap();
        }
    };
    flood();
    signal(supervisor, Signal::CONT);
    world.until("the loss is reported", || {
        world.log("web1").contains("The BPF program sent events faster than they were read")
    });
    world.detach(&hostile.guest, 1, &[]).fails(1, "still holds 1 of the devices");
    assert_eq!(VHOST_NET.closes(&world), []);
    flood();
    signal(child, Signal::KILL);
    world.until("the child is gone", || !child.is_alive());
    signal(supervisor, Signal::CONT);
    world.until("the close", || VHOST_NET.closes(&world).len() == 1);
    assert_eq!(VHOST_NET.closes(&world)[0].doubt, None);
}

/// Runs on any kernel: if the kernel may not be traced, one warning says so.
// Shows 13.19.
#[test]
fn supervising_goes_on_without_bpf_where_the_kernel_has_none() {
    let world = World::new();
    let file = world.path("web2.toml");
    fs::write(&file, format!("bpf = true\ncommand = {:?}\n", crate::world::EMPTY)).unwrap();
    let guest = world.start("web1", &["--bpf"]);
    world.attach(&guest, &format!("{},mac={}", TAP.spec, mac(1))).ok();
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(TAP.closes(&world)[0].doubt, None);
    world.taptrail(["run", "--background", "--file", file.to_str().unwrap()]).ok();
    let warnings = || ["web1", "web2"].map(|name| world.log(name).matches("--bpf does nothing").count());
    let once = usize::from(taptrail_bpf::Kernel::load().is_err());
    assert_eq!(warnings(), [once; 2], "{}", world.log("web1"));
    world.kill_supervisor("web1");
    world.taptrail(["adopt", "--bpf", "--background", "web1"]).ok();
    assert_eq!(warnings(), [2 * once, once], "{}", world.log("web1"));
    world.taptrail(["stop", "web2", "--force"]).ok();
    world.stop(&guest);
    world.assert_clean();
}
