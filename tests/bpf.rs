//! `--bpf` of the watcher and of the supervisor: a descriptor ends with the last close of its file, by the kernel's
//! word.
//!
//! A kernel that may be traced is needed, with a real guest manager's QEMU: `scripts/test-vm` has both.

#![allow(clippy::unwrap_used)]

mod world;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::{Value, json};
use taptrail_kernel::proc::{PidFd, ProcessId, Signal, children};
use taptrail_record::{CloseDoubt, DeviceKind, Event, Record};
use world::hostile::Hostile;
use world::log::{Log, MAC, UUID};
use world::qmp::{self, Qmp};
use world::{World, mac};

/// A real QEMU with one tap, which has the address that libvirt gives a guest's.
struct Qemu {
    child: Child,
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
        let qemu = Self { child, monitor };
        world.until("QEMU has its tap", || world.links().contains(&"watched0".to_owned()));
        world.ip("link set watched0 address fe:54:00:0a:0f:01");
        qemu
    }

    /// A copy of a descriptor of its, which neither its own table nor any record of its manager's shows.
    fn copy(&self, fd: &Value) -> OwnedFd {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        pidfd_getfd(pidfd, fd.as_i64().unwrap().try_into().unwrap(), PidfdGetfdFlags::empty()).unwrap()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `taptrail watch --bpf`.
struct Watch {
    child: Child,
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
        Self { child, lines, errors }
    }

    fn all(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.lines).unwrap();
        // The last one may be under way.
        text.split_inclusive('\n')
            .filter_map(|line| serde_json::from_str(line.strip_suffix('\n')?).ok())
            .collect()
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }

    /// Waits for a line with these values.
    fn tells(&mut self, world: &World, what: &[(&str, &str)]) -> Value {
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

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_released(watch: &Watch) -> bool {
    watch.all().iter().any(|line| line["kind"] == "released")
}

fn trail(world: &World) -> Value {
    let ledger = world.state().join("ledger.sqlite");
    world.json(["trail", "--format", "json", ledger.to_str().unwrap()])
}

/// The interface is released, for good, by this and at its time.
fn assert_released_by(world: &World, watch: &mut Watch, last_close: impl FnOnce()) -> Value {
    let before = Timestamp::now();
    last_close();
    let after = Timestamp::now();
    let released = watch.tells(world, &[("kind", "released"), ("mac", MAC)]);
    assert_eq!(released["certainty"], "definitive", "{released:#}");
    let trail = trail(world);
    let holding = &trail["holdings"][0];
    assert_eq!(
        (&holding["state"], &holding["certainty"]),
        (&"released".into(), &"definitive".into()),
        "{trail:#}"
    );
    // Of what is told milliseconds are kept.
    let time: Timestamp = released["time"].as_str().unwrap().parse().unwrap();
    assert!(
        before.as_millisecond() <= time.as_millisecond() && time <= after,
        "{before} {released:#} {after}"
    );
    released
}

#[test]
fn what_somebody_else_has_is_released_when_that_one_lets_go_and_at_that_time() {
    let world = World::new();
    let (mut log, qemu) = (Log::new(&world), Qemu::start(&world));
    let mut watch = Watch::start(&world, &[]);
    log.boots(qemu.child.id());
    let granted = watch.tells(&world, &[("kind", "granted")]);
    let copy = qemu.copy(&granted["descriptors"][0]["fd"]);

    Qmp::connect(qemu.monitor.clone()).execute("netdev_del", json!({"id": "n0"}));
    log.granted("detach", MAC);
    // A look follows each record, before the record is told: the second one's is after the detach.
    for last in [2, 3] {
        log.opened(&mac(last));
        watch.tells(&world, &[("kind", "opened"), ("mac", &mac(last))]);
    }
    assert!(!is_released(&watch), "{:#?}", watch.all());
    assert!(world.links().contains(&"watched0".to_owned()), "the tap is there, since somebody has it");

    let released = assert_released_by(&world, &mut watch, || drop(copy));
    assert_eq!(released["reason"], "detach");
    watch.stop();
}

#[test]
fn the_end_of_qemu_is_definitive_when_nobody_else_has_what_it_had() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    let numbers = world.path("taptrail.prom");
    let mut watch = Watch::start(&world, &["--metrics-file", numbers.to_str().unwrap()]);
    log.boots(qemu.child.id());
    watch.tells(&world, &[("kind", "granted")]);
    qemu.kill();
    let released = watch.tells(&world, &[("kind", "released")]);
    assert_eq!(released["certainty"], "definitive", "{}", watch.errors());
    assert!(fs::read_to_string(&numbers).unwrap().contains("\ntaptrail_bpf_loaded 1\n"));
    watch.stop();
}

#[test]
fn the_end_of_qemu_is_no_proof_while_somebody_else_has_what_it_had() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    let mut watch = Watch::start(&world, &[]);
    log.boots(qemu.child.id());
    let granted = watch.tells(&world, &[("kind", "granted")]);
    let copy = qemu.copy(&granted["descriptors"][0]["fd"]);
    qemu.kill();
    watch.tells(&world, &[("kind", "guest"), ("state", "ended")]);
    // Its manager does not say why, for longer than it is waited for; and then it does.
    watch.tells(&world, &[("kind", "guest"), ("state", "gone")]);
    log.control("op=stop reason=destroyed");
    watch.tells(&world, &[("kind", "guest"), ("state", "stopped")]);
    assert!(!is_released(&watch), "{:#?}", watch.all());
    assert!(watch.errors().contains("is open still: somebody else has it"), "{}", watch.errors());
    let holding = &trail(&world)["holdings"][0];
    assert_eq!(holding["certainty"], "inferred", "its manager's word, and no more: {holding:#}");
    assert_released_by(&world, &mut watch, || drop(copy));
    watch.stop();
}

#[test]
fn a_flood_of_events_hides_no_last_close_and_makes_none_up() {
    let world = World::new();
    let (mut log, qemu) = (Log::new(&world), Qemu::start(&world));
    let numbers = world.path("taptrail.prom");
    let mut watch = Watch::start(&world, &["--metrics-file", numbers.to_str().unwrap()]);
    log.boots(qemu.child.id());
    let granted = watch.tells(&world, &[("kind", "granted")]);
    let copy = qemu.copy(&granted["descriptors"][0]["fd"]);
    // More than the kernel keeps for one who does not read.
    watch.signal(Signal::STOP);
    for _ in 0..10_000 {
        File::open("/dev/net/tun").unwrap();
    }
    Qmp::connect(qemu.monitor.clone()).execute("netdev_del", json!({"id": "n0"}));
    log.granted("detach", MAC);
    watch.signal(Signal::CONT);
    for last in [2, 3] {
        log.opened(&mac(last));
        watch.tells(&world, &[("kind", "opened"), ("mac", &mac(last))]);
    }
    assert!(!is_released(&watch), "{:#?}", watch.all());
    world.until("the loss is told", || {
        fs::read_to_string(&numbers).is_ok_and(|text| {
            text.contains("\ntaptrail_bpf_events_lost_total ")
                && !text.contains("\ntaptrail_bpf_events_lost_total 0\n")
        })
    });
    assert_released_by(&world, &mut watch, || drop(copy));
    watch.stop();
}

/// On any kernel: of one that may not be traced, it is said once.
#[test]
fn watching_goes_on_without_the_kernels_word_where_there_is_none() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    let numbers = world.path("taptrail.prom");
    let mut watch = Watch::start(&world, &["--metrics-file", numbers.to_str().unwrap()]);
    log.boots(qemu.child.id());
    watch.tells(&world, &[("kind", "granted")]);
    qemu.kill();
    watch.tells(&world, &[("kind", "released"), ("certainty", "definitive")]);
    watch.stop();
    let is_told = taptrail_bpf::Kernel::load().is_ok();
    let said = watch.errors().matches("--bpf does nothing").count();
    assert_eq!(said, usize::from(!is_told), "{}", watch.errors());
    let loaded = format!("\ntaptrail_bpf_loaded {}\n", u8::from(is_told));
    assert!(fs::read_to_string(&numbers).unwrap().contains(&loaded));
}

/// The kinds of device that a hostile QEMU is given: what is attached, and what of it is hidden.
const HIDDEN: [(&str, &str); 4] = [
    ("bridge=br0,vhost=off", ""),
    ("tap=mine,vhost=off", ""),
    ("macvtap=lower,vhost=off", ""),
    ("bridge=br0,vhost=on", "only-vhost"),
];

/// The closes on record, of one kind.
fn closes(world: &World, kind: DeviceKind) -> Vec<Record> {
    let mut records = world.records();
    let is = |record: &Record| matches!(&record.event, Event::Close { device, .. } if device.kind == kind);
    records.retain(is);
    records
}

/// Which kind is hidden.
fn kind((spec, mode): (&str, &str)) -> DeviceKind {
    match (spec, mode) {
        (_, "only-vhost") => DeviceKind::VhostNet,
        (spec, _) if spec.starts_with("macvtap") => DeviceKind::Macvtap,
        _ => DeviceKind::Tun,
    }
}

/// The holding of the device of this kind.
fn holding(world: &World, kind: DeviceKind) -> Value {
    let trail = world.trail();
    let of = |holding: &&Value| holding["device"]["kind"] == kind.as_str();
    trail["holdings"].as_array().unwrap().iter().rfind(of).unwrap_or_else(|| panic!("{trail:#}")).clone()
}

fn signal(process: ProcessId, signal: Signal) {
    PidFd::open(process).unwrap().send_signal(signal).unwrap();
}

#[test]
fn what_qemu_hides_is_held_without_a_doubt_and_released_at_its_last_close() {
    for hidden in HIDDEN {
        for way in ["thread", "flight", "ring", "child"] {
            let world = World::new();
            world.ip("tuntap add dev mine mode tap");
            let hostile = Hostile::start_with(&world, "web1", &["--bpf"]);
            let ((spec, mode), kind) = (hidden, kind(hidden));
            let case = format!("{spec} {way}");
            hostile.does("deleted");
            world.attach(&hostile.guest, &format!("{spec},mac={},id=n1", mac(1))).ok();
            hostile.does(&format!("{way} {mode} deleted"));
            world.detach(&hostile.guest, 1, &[]).fails(1, "still holds 1 of the devices");
            assert_eq!(hostile.truth().len(), 1, "{case}");
            assert_eq!(closes(&world, kind), [], "{case}");
            let held = holding(&world, kind);
            assert_eq!(
                (&held["state"], &held["end_doubt"]),
                (&"held".into(), &Value::Null),
                "{case}: {held:#}"
            );

            // It lets go when it is told to take another one; nobody asks the supervisor for this one.
            hostile.does("free deleted");
            world.attach(&hostile.guest, &format!("bridge=br0,vhost=off,mac={},id=n2", mac(2))).ok();
            assert_released(&world, kind, &case);
            assert_eq!(hostile.truth().len(), 1, "{case}: the other one");
        }
    }
}

/// The device of this kind is released, for good, without anything that anybody has to ask for.
fn assert_released(world: &World, kind: DeviceKind, case: &str) -> Value {
    world.until(&format!("{case}: the close"), || closes(world, kind).len() == 1);
    let close = &closes(world, kind)[0];
    assert_eq!((close.doubt, close.last_seen), (None, None), "{case}");
    let all = world.trail();
    let of =
        |holding: &&Value| holding["device"]["kind"] == kind.as_str() && holding["mac"] == mac(1).as_str();
    let holding = all["holdings"].as_array().unwrap().iter().find(of).unwrap_or_else(|| panic!("{all:#}"));
    let is = (&holding["state"], &holding["certainty"]);
    assert_eq!(is, (&"released".into(), &"definitive".into()), "{case}: {holding:#}");
    holding.clone()
}

#[test]
fn a_last_close_has_the_kernels_time_however_late_the_supervisor_looks() {
    let world = World::new();
    let hostile = Hostile::start_with(&world, "web1", &["--bpf", "--audit", "off"]);
    hostile.does("deleted");
    world.attach(&hostile.guest, &format!("bridge=br0,vhost=off,mac={},id=n1", mac(1))).ok();
    hostile.does("child deleted");
    world.detach(&hostile.guest, 1, &[]).fails(1, "still holds 1 of the devices");
    let child = ProcessId::of(children(hostile.guest.pid).unwrap()[0]).unwrap();
    let supervisor = world.supervisor("web1");
    signal(supervisor, Signal::STOP);
    let before = Timestamp::now();
    signal(child, Signal::KILL);
    world.until("the tap goes with its last open file", || world.links().is_empty());
    let after = Timestamp::now();
    // A tick of every clock there is.
    std::thread::sleep(std::time::Duration::from_millis(20));
    signal(supervisor, Signal::CONT);
    let holding = assert_released(&world, DeviceKind::Tun, "child");
    let end: Timestamp = holding["end"]["time"].as_str().unwrap().parse().unwrap();
    assert!(before.as_millisecond() <= end.as_millisecond() && end <= after, "{before} {holding:#} {after}");
}

#[test]
fn the_end_of_a_supervised_qemu_is_no_proof_while_somebody_else_has_what_it_had() {
    for (hidden, doubt) in [
        (HIDDEN[0], Some(CloseDoubt::HeldElsewhere)),
        (HIDDEN[1], Some(CloseDoubt::HeldElsewhere)),
        // Its link is deleted: whoever has a copy has nothing.
        (HIDDEN[2], None),
        (("tap=theirs,vhost=off", ""), Some(CloseDoubt::HeldElsewhere)),
        (HIDDEN[3], Some(CloseDoubt::Uncounted)),
    ] {
        for (way, doubt) in [("child", doubt), ("", None)] {
            let world = World::new();
            world.ip("tuntap add dev mine mode tap");
            world.ip("link add link lower name theirs type macvtap mode bridge");
            world.ip(&format!("link set theirs address {} up", mac(1)));
            let hostile = Hostile::start_with(&world, "web1", &["--bpf"]);
            let ((spec, mode), case) = (hidden, format!("{hidden:?} {way}"));
            let kind = if spec.starts_with("tap=theirs") { DeviceKind::Macvtap } else { kind(hidden) };
            hostile.does("deleted");
            world.attach(&hostile.guest, &format!("{spec},mac={},id=n1", mac(1))).ok();
            hostile.does(&format!("{way} {mode} deleted"));
            let done = world.detach(&hostile.guest, 1, &[]);
            assert_eq!(done.code(), i32::from(!way.is_empty()), "{case}: {}", done.stderr);
            world.stop(&hostile.guest);
            let closes = closes(&world, kind);
            assert_eq!(closes.iter().map(|close| close.doubt).collect::<Vec<_>>(), [doubt], "{case}");
            world.taptrail(["ledger", "check"]).ok();
        }
    }
}

/// Who has a macvtap can open its node once more: that is one more queue of the same device.
#[test]
fn a_macvtap_that_was_opened_again_is_not_released_with_the_first_file() {
    let world = World::new();
    world.ip("link add link lower name theirs type macvtap mode bridge");
    world.ip(&format!("link set theirs address {} up", mac(1)));
    let hostile = Hostile::start_with(&world, "web1", &["--bpf"]);
    hostile.does("deleted");
    world.attach(&hostile.guest, &format!("tap=theirs,vhost=off,mac={},id=n1", mac(1))).ok();
    hostile.does("reopen deleted");
    world.detach(&hostile.guest, 1, &[]).ok();
    assert_eq!(hostile.truth().len(), 1, "in flight");
    let doubts: Vec<_> = closes(&world, DeviceKind::Macvtap).iter().map(|close| close.doubt).collect();
    assert_eq!(doubts, [Some(CloseDoubt::Hidden)]);
}

#[test]
fn what_qemu_holds_when_it_is_taken_up_is_held_until_its_last_close() {
    for hidden in HIDDEN {
        let world = World::new();
        world.ip("tuntap add dev mine mode tap");
        let hostile = Hostile::start_with(&world, "web1", &["--bpf"]);
        let ((spec, mode), kind, case) = (hidden, kind(hidden), format!("{hidden:?}"));
        hostile.does("deleted");
        world.attach(&hostile.guest, &format!("{spec},mac={},id=n1", mac(1))).ok();
        world.kill_supervisor("web1");
        world.taptrail(["adopt", "--bpf", "--background", "web1"]).ok();
        assert!(!world.log("web1").contains("--bpf does nothing"), "{}", world.log("web1"));
        hostile.does(&format!("flight {mode} deleted"));
        world.detach(&hostile.guest, 1, &["--force"]).fails(1, "still holds 1 of the devices");
        assert_eq!(closes(&world, kind), [], "{case}");
        hostile.does("free deleted");
        world.attach(&hostile.guest, &format!("bridge=br0,vhost=off,mac={},id=n2", mac(2))).ok();
        world.detach(&hostile.guest, 1, &["--force"]);
        // What was there before is shown by the kernel's accounts, as without its word.
        world.until(&format!("{case}: the close"), || closes(&world, kind).len() == 1);
        assert_eq!(closes(&world, kind)[0].doubt, None, "{case}");
    }
}

#[test]
fn a_flood_of_events_hides_no_last_close_from_the_supervisor_and_makes_none_up() {
    let world = World::new();
    let hostile = Hostile::start_with(&world, "web1", &["--bpf"]);
    hostile.does("deleted");
    world.attach(&hostile.guest, &format!("bridge=br0,vhost=on,mac={},id=n1", mac(1))).ok();
    hostile.does("child only-vhost deleted");
    world.detach(&hostile.guest, 1, &[]).fails(1, "still holds 1 of the devices");
    let child = ProcessId::of(children(hostile.guest.pid).unwrap()[0]).unwrap();
    let supervisor = world.supervisor("web1");
    let flood = || {
        // More than the kernel keeps for one who does not read.
        signal(supervisor, Signal::STOP);
        for _ in 0..10_000 {
            File::open("/dev/net/tun").unwrap();
        }
    };
    flood();
    signal(supervisor, Signal::CONT);
    world.until("the loss is told", || {
        world.log("web1").contains("The kernel told more by BPF than was read")
    });
    world.detach(&hostile.guest, 1, &[]).fails(1, "still holds 1 of the devices");
    assert_eq!(closes(&world, DeviceKind::VhostNet), []);
    flood();
    signal(child, Signal::KILL);
    world.until("the child is gone", || !child.is_alive());
    signal(supervisor, Signal::CONT);
    world.until("the close", || closes(&world, DeviceKind::VhostNet).len() == 1);
    assert_eq!(closes(&world, DeviceKind::VhostNet)[0].doubt, None);
}

/// On any kernel: of one that may not be traced, it is said once.
#[test]
fn supervising_goes_on_without_the_kernels_word_where_there_is_none() {
    let world = World::new();
    let file = world.path("web2.toml");
    let command = format!("bpf = true\ncommand = {:?}\n", world::EMPTY);
    fs::write(&file, command).unwrap();
    let guest = world.start("web1", &["--bpf"]);
    world.attach(&guest, &format!("bridge=br0,vhost=off,mac={}", mac(1))).ok();
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(closes(&world, DeviceKind::Tun)[0].doubt, None);
    world.taptrail(["run", "--background", "--file", file.to_str().unwrap()]).ok();
    world.kill_supervisor("web1");
    let said = || ["web1", "web2"].map(|name| world.log(name).matches("--bpf does nothing").count());
    let is_told = taptrail_bpf::Kernel::load().is_ok();
    assert_eq!(said(), [usize::from(!is_told); 2], "{}", world.log("web1"));
    world.taptrail(["adopt", "--bpf", "--background", "web1"]).ok();
    assert_eq!(said()[0], 2 * usize::from(!is_told), "{}", world.log("web1"));
    world.taptrail(["stop", "web2", "--force"]).ok();
    world.stop(&guest);
    world.assert_clean();
}
