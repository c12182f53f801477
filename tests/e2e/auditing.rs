//! The kernel's audit: logged records, refusals, and other programs that read the records.
//!
//! Auditing is one switch for the whole machine. These tests hold its lock, switch it only with
//! CI=true or TAPTRAIL_TEST_AUDIT=1, and restore its state.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::world::OwnedChild;
use crate::world::auditing::{self, Auditing, auditctl};
use crate::world::{EMPTY, World};
use taptrail_kernel::audit::{Audit, ReadLog};
use taptrail_ledger::{AuditOutcome, Ledger};
use taptrail_record::{Device, Event, GuestId, MacAddr, Rdev, Reason, Record};
use taptrail_source::{Input, ReadOptions, read};
use taptrail_witness::watch::{EventKind, GuestState, WatchOptions, Watcher};

/// Addresses of these tests alone: guests of other tests write to the same log, and two guests with
/// one address are a finding.
const ONE: &str = "bridge=br0,mac=52:54:00:0a:0d:01,vhost=off";

/// How each record in the ledger was logged, and its serial.
fn logged(world: &World) -> Vec<(AuditOutcome, Option<u32>)> {
    let ledger = Ledger::open_to_read(&world.state()).unwrap();
    ledger.into_records().map(Result::unwrap).map(|stored| (stored.logged, stored.serial)).collect()
}

fn detach(world: &World, last: u8, options: &[&str]) {
    let mac = format!("52:54:00:0a:0d:{last:02x}");
    world.taptrail([&["detach", "it's web1", &mac], options].concat()).ok();
}

/// Takes a guest through every step of its life, with one failure.
fn run_whole_lifecycle(world: &World) {
    let guest = world.start("it's web1", &["--nic", ONE]);
    world.attach(&guest, "macvtap=lower,mac=52:54:00:0a:0d:02,vhost=off").ok();
    world
        .attach(&guest, "bridge=br0,mac=52:54:00:0a:0d:03,tun-path=/dev/null,vhost=off")
        .fails(1, "/dev/null");
    detach(world, 2, &["--timeout", "20s"]);
    detach(world, 1, &["--force"]);
    world.stop(&guest);
}

// Shows 3.8, 3.11.
#[test]
fn required_auditing_that_is_off_starts_and_attaches_nothing() {
    let Some(_auditing) = Auditing::switch(false) else { return };
    let world = World::new();
    world
        .try_start("web1", &["--audit", "required", "--nic", ONE], &EMPTY)
        .fails(1, "Auditing is off in the kernel");
    assert_eq!(world.record_lines(), ["guest booted FAILED"], "nothing was opened");
    let run = ["run", "--name", "web1", "--audit", "required", "--nic", ONE, "--"];
    let stderr = world.taptrail(run.iter().chain(&EMPTY)).stderr;
    assert_eq!(stderr.matches("Auditing is off").count(), 1, "it is said once: {stderr}");
    // Without auditing the ledger has the trail, and the reason why the log lacks it.
    let guest = world.start("web2", &["--nic", ONE]);
    assert!(world.log("web2").contains("Auditing is off"), "{}", world.log("web2"));
    world.stop(&guest);
    for (outcome, serial) in logged(&world) {
        let AuditOutcome::NotLogged(reason) = &outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("Auditing is off") && serial.is_none(), "{reason}");
    }
    world.assert_clean();
}

// Shows 3.9.
#[test]
fn auditing_that_goes_off_refuses_the_next_attach_and_harms_no_guest() {
    let Some(_auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    let guest = world.start("web1", &["--audit", "required", "--nic", ONE]);
    auditctl(&["-e", "0"]);
    let done = world.attach(&guest, "bridge=br0,mac=52:54:00:0a:0d:02,vhost=off");
    auditctl(&["-e", "1"]);
    done.fails(1, "Auditing is off");
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.attach(&guest, "bridge=br0,mac=52:54:00:0a:0d:02,vhost=off").ok();
    world.stop(&guest);
    world.assert_clean();
}

// Shows 3.10.
#[test]
fn auditing_filtered_by_a_rule_is_named_and_required_takes_everything_back() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    auditing.rule(&["exclude,always", "-F", "msgtype=VIRT_RESOURCE"]);
    world
        .try_start("web1", &["--audit", "required", "--nic", ONE], &EMPTY)
        .fails(1, "An audit rule filters records of type 2501");
    assert_eq!(
        world.record_lines(),
        ["open 01 tun vnet0 q0", "start 01 FAILED", "close 01 tun vnet0 q0", "guest booted FAILED"]
    );
    world.assert_clean();
}

// Shows 3.10.
#[test]
fn auditing_that_hides_the_grant_alone_takes_everything_back_too() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    auditing.rule(&["exclude,always", "-F", "msgtype=VIRT_CONTROL"]);
    world
        .try_start("web1", &["--audit", "required", "--nic", ONE], &EMPTY)
        .fails(1, "An audit rule filters records of type 2500");
    assert_eq!(
        world.record_lines(),
        [
            "open 01 tun vnet0 q0",
            "start 01",
            "guest booted",
            "start 01 FAILED",
            "close 01 tun vnet0 q0",
            "guest booted FAILED",
        ]
    );
    world.assert_clean();
}

// Shows 3.2.
#[test]
fn auditing_logs_each_record_with_the_serial_that_the_ledger_has() {
    let Some(_auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    // The audit module opens its socket outside of the world's namespace, which would hide the
    // broadcast.
    assert!(Audit::open().unwrap().reads_back());
    assert!(ReadLog::open().is_ok());
    run_whole_lifecycle(&world);
    let logged = logged(&world);
    let serials: Vec<u32> = logged.iter().filter_map(|(_, serial)| *serial).collect();
    assert_eq!(serials.len(), logged.len(), "{logged:?}");
    assert!(serials.is_sorted());
    assert!(logged.iter().all(|(outcome, _)| *outcome == AuditOutcome::ReadBack));
    let trail = world.trail();
    let proof = &trail["holdings"][0]["proof"][0];
    assert_eq!(proof["serial"], serials[0]);
}

// Shows 3.14.
#[test]
fn auditing_is_read_by_ausearch_aureport_and_auvirt() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    let log = auditing.start_daemon(&world.path(""));
    run_whole_lifecycle(&world);
    auditing.end_daemon();

    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let input = log.to_str().unwrap();
    let record_lines = world.record_lines();
    let serials: Vec<u32> = logged(&world).into_iter().map(|(_, serial)| serial.unwrap()).collect();
    let uuid = world.records()[0].guest.uuid.to_string();

    // ausearch finds every record by the guest's name or uuid, and by type. (Other guests of this
    // machine write to the same log.)
    for by in [["--vm-name", "it's web1"], ["--uuid", &uuid]] {
        let found = run("/sbin/ausearch", &[&["--input", input, "--raw"], &by[..]].concat());
        let ours: Vec<&str> = found.lines().filter(|line| line.contains(&uuid)).collect();
        assert_eq!(ours.len(), record_lines.len(), "{found}");
        for (line, serial) in ours.iter().zip(&serials) {
            assert!(line.contains(&format!(":{serial}): ")), "{line}");
        }
    }
    let failed =
        run("/sbin/ausearch", &["--input", input, "-m", "VIRT_RESOURCE", "--success", "no", "--raw"]);
    assert_eq!(failed.lines().filter(|line| line.contains(&uuid)).count(), 1, "{failed}");
    let printed = run("/sbin/ausearch", &["--input", input, "--uuid", &uuid, "--interpret"]);
    for pair in ["reason=close", "dev=\"vnet0\"", "queue=0", "forced=yes"] {
        assert!(printed.contains(pair), "{pair} is not in {printed}");
    }

    // aureport lists each with its outcome.
    let report = run("/sbin/aureport", &["--input", input, "--virt"]);
    for serial in serials {
        let row = report.lines().find(|line| line.ends_with(&format!(" {serial}")));
        assert!(row.is_some_and(|row| row.contains("VIRT_")), "{serial} is not in {report}");
    }

    // auvirt knows the guest, when it ran, and what it was given.
    let guests = run("/usr/bin/auvirt", &["--file", input, "--vm", "it's web1", "--all-events"]);
    assert!(guests.contains("it's web1"), "{guests}");
    assert!(guests.contains("start") && guests.contains("stop"), "{guests}");
    assert!(guests.contains("52:54:00:0a:0d:02"), "{guests}");

    // The whole log, read line by line, has the ledger's records.
    assert_eq!(auditing::records_of(&log, &uuid), world.records());
}

/// A trail's holdings without times and places: the ledger's clock is finer than that of the
/// kernel's audit.
fn holdings(trail: &serde_json::Value) -> Vec<String> {
    let of = |holding: &serde_json::Value, key: &str| holding[key].to_string();
    let keys = ["guest", "mac", "device", "queues", "state", "ended_by", "certainty", "pid"];
    let summarize = |holding: &serde_json::Value| keys.map(|key| of(holding, key)).join(" ");
    trail["holdings"].as_array().unwrap().iter().map(summarize).collect()
}

fn kinds(trail: &serde_json::Value) -> Vec<&str> {
    trail["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].as_str().unwrap()).collect()
}

// Shows 10.9.
#[test]
fn auditing_the_log_the_ledger_and_both_together_give_one_trail() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    let log = auditing.start_daemon(&world.path(""));
    run_whole_lifecycle(&world);
    auditing.end_daemon();
    let uuid = world.records()[0].guest.uuid.to_string();
    let ledger = Ledger::file(&world.state());
    let read = |files: &[&Path]| {
        let files = files.iter().map(|file| file.to_str().unwrap());
        world.json(["trail", "--format", "json", "--guest", &uuid].into_iter().chain(files))
    };
    let (logged, remembered, both) = (read(&[&log]), read(&[&ledger]), read(&[&log, &ledger]));
    assert_eq!(holdings(&logged), holdings(&remembered));
    assert_eq!(holdings(&both), holdings(&remembered));
    assert_eq!(kinds(&both), kinds(&remembered));
    assert_eq!(kinds(&logged), kinds(&remembered));
    assert_eq!(both["input"]["duplicates"], world.records().len());

    // The serial number shows a record that is missing from the log, and the ledger has the record.
    let text = fs::read(&log).unwrap();
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    // Guests of other tests write to this log, too.
    let gone = |line: &&[u8]| {
        let line = String::from_utf8_lossy(line);
        !(line.contains("reason=attach") && line.contains(&uuid))
    };
    fs::write(&log, lines.filter(gone).collect::<Vec<_>>().concat()).unwrap();
    let both = read(&[&log, &ledger]);
    assert_eq!(holdings(&both), holdings(&remembered));
    assert_eq!(kinds(&both).iter().filter(|kind| **kind == "serial-gap").count(), 2, "{both:#}");
}

// Shows 10.10.
#[test]
fn auditing_by_the_kernels_own_rules_shows_the_opens_that_nobody_admits() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    let log = auditing.start_daemon(&world.path(""));
    auditing.packaged_rules();
    let ours = concat!("exe=", env!("CARGO_BIN_EXE_taptrail"));
    let opens = "open,openat,openat2,creat";
    auditing.rule(&["always,exit", "-F", "arch=b64", "-S", opens, "-F", "dir=/dev", "-F", ours]);
    let guest = world.start("web1", &["--nic", ONE]);
    world.attach(&guest, "macvtap=lower,mac=52:54:00:0a:0d:02,queues=2,vhost=off").ok();
    let stranger = Command::new("/usr/bin/head").args(["--bytes=0", "/dev/net/tun"]).output().unwrap();
    assert!(stranger.status.success());
    world.stop(&guest);
    auditing.end_daemon();

    let supervisor = Ledger::open_to_read(&world.state()).unwrap().guests().unwrap()[0].supervisor.pid;
    let trail = world.json(["trail", "--format", "json", log.to_str().unwrap()]);
    let unaudited: Vec<&str> = trail["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["kind"] == "unmanaged-open")
        .map(|finding| finding["text"].as_str().unwrap())
        .collect();
    // Other programs of this machine may open taps meanwhile.
    assert_eq!(unaudited.iter().filter(|text| text.contains("/usr/bin/head")).count(), 1, "{unaudited:?}");
    let pid = supervisor.to_string();
    assert!(!unaudited.iter().any(|text| text.contains(&pid)), "{unaudited:?}");
    // The kernel's records are among the proofs of holdings from taptrail's records.
    let uuid = world.records()[0].guest.uuid.to_string();
    let holdings = trail["holdings"].as_array().unwrap().iter();
    let held: Vec<_> = holdings.filter(|holding| holding["guest"]["uuid"] == uuid.as_str()).collect();
    assert_eq!(held.len(), 2, "{trail:#}");
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for holding in held {
        let proof = holding["proof"].as_array().unwrap().iter();
        let mut of = proof.map(|proof| lines[usize::try_from(proof["line"].as_u64().unwrap()).unwrap() - 1]);
        assert!(of.any(|line| line.starts_with("type=PATH ")), "{holding:#}");
    }
}

/// A QEMU that another manager started with a tap of its own, and that manager's records, as
/// libvirt writes them.
struct ForeignGuest {
    qemu: OwnedChild,
    guest: GuestId,
    audit: Audit,
}

impl ForeignGuest {
    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x0a, 0x0d, 0x21]);

    fn boots(world: &World) -> Self {
        world.ip("tuntap add dev vnet0 mode tap");
        world.ip("link set vnet0 address fe:54:00:0a:0d:21");
        let guest = GuestId { name: "web2".into(), uuid: uuid::Uuid::new_v4() };
        let mut foreign = Self { audit: Audit::open().unwrap(), qemu: qemu(&guest).into(), guest };
        let device = Device::new("/dev/net/tun", Some(Rdev::TUN), None);
        foreign.log_record(Event::Open { mac: Self::MAC, device, queue: None });
        foreign.log_record(Event::Start { mac: Self::MAC, vm_pid: None, fds: None });
        let pid = foreign.qemu.id();
        world.until("QEMU's tap", || !crate::world::procfs::descriptors(pid).is_empty());
        foreign.log_record(Event::GuestStart { reason: Reason::BOOTED, vm_pid: Some(pid) });
        foreign
    }

    fn log_record(&mut self, event: Event) {
        let record = Record::success(self.guest.clone(), event);
        let text = record.text(Path::new("/usr/sbin/libvirtd")).unwrap();
        self.audit.log(record.record_type().number(), &text).unwrap();
    }

    fn kill_qemu(&mut self) {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
    }
}

fn qemu(guest: &GuestId) -> std::process::Child {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-S"]);
    command.args(["-name", &guest.name, "-uuid", &guest.uuid.to_string()]);
    command.args(["-netdev", "tap,id=hostnet0,ifname=vnet0,script=no,downscript=no"]);
    command.spawn().unwrap()
}

/// Feeds a watcher the log's lines that it has not taken yet, and lets it scan.
fn watch(watcher: &mut Watcher, log: &Path, taken: &mut usize) -> Vec<EventKind> {
    auditing::wait_for_log(log);
    let mut entries = Vec::new();
    let options = ReadOptions { hosts: taptrail_source::Hosts::one("h1"), ..ReadOptions::default() };
    let outcome = read(vec![Input::File(log.to_owned())], options, &mut |entry| {
        entries.push(entry.clone());
        ControlFlow::Continue(())
    });
    assert!(outcome.failed.is_empty());
    entries[*taken..].iter().for_each(|entry| watcher.take(entry));
    *taken = entries.len();
    watcher.look();
    watcher.commit(Some("here")).unwrap().into_iter().map(|event| event.kind).collect()
}

// Shows 13.12.
#[test]
fn auditing_has_what_a_watcher_saw_and_found() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    let log = auditing.start_daemon(&world.path(""));
    let options = WatchOptions {
        emit_audit: true,
        patience: Duration::from_millis(100),
        every: Duration::from_millis(50),
        ..WatchOptions::of_host("h1")
    };
    let mut watcher = Watcher::open(&world.state(), options).unwrap();
    let (mut foreign, mut taken) = (ForeignGuest::boots(&world), 0);
    watch(&mut watcher, &log, &mut taken);
    // The watcher's own records come back through the log, and cause no event.
    watch(&mut watcher, &log, &mut taken);
    foreign.log_record(Event::Detach { mac: ForeignGuest::MAC, vm_pid: None, fds: None, forced: false });
    world.until("the finding", || {
        let happened = watch(&mut watcher, &log, &mut taken);
        happened.iter().any(
            |what| matches!(what, EventKind::Found(found) if found.kind.as_str() == "held-after-release"),
        )
    });
    foreign.kill_qemu();
    world.until("the guest's end", || {
        let happened = watch(&mut watcher, &log, &mut taken);
        happened.iter().any(|what| matches!(what, EventKind::Guest { state: GuestState::Gone { .. }, .. }))
    });
    auditing.end_daemon();

    let uuid = foreign.guest.uuid.to_string();
    let text = fs::read_to_string(&log).unwrap();
    let printed: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(&uuid))
        .map(|line| {
            let words = ["reason=", "op=", "finding="].iter().filter_map(|key| line.split_once(key));
            words.map(|(_, rest)| rest.split(' ').next().unwrap()).next_back().unwrap()
        })
        .collect();
    assert_eq!(
        printed,
        ["open", "start", "start", "seen", "detach", "seen", "held-after-release", "close", "gone"],
        "{text}"
    );
    let ausearch = |arguments: &[&str]| {
        let input = ["--input", log.to_str().unwrap(), "--uuid", &uuid];
        let output = Command::new("/sbin/ausearch").args(input).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ausearch(&["--raw"]).lines().count(), printed.len());
    let interpreted = ausearch(&["--interpret"]);
    for pair in ["reason=seen", "dev=\"vnet0\"", &format!("vm-pid={} fd=", foreign.qemu.id()), "op=gone"] {
        assert!(interpreted.contains(pair), "{pair} is not in {interpreted}");
    }

    // Log and ledger have the same records under the same serial numbers.
    let ledger = Ledger::file(&world.state());
    let read = |files: &[&Path]| {
        let files = files.iter().map(|file| file.to_str().unwrap());
        world.json(["trail", "--format", "json", "--guest", &uuid].into_iter().chain(files))
    };
    let (logged, both) = (read(&[&log]), read(&[&log, &ledger]));
    assert_eq!(holdings(&logged), holdings(&both));
    assert_eq!((holdings(&both).len(), kinds(&both)), (1, vec!["held-after-release"]), "{both:#}");
    assert_eq!(both["holdings"][0]["certainty"], "definitive");
    assert_eq!(both["input"]["duplicates"], 8, "all but the finding");
    // ausearch's interpreted output gives the same trail.
    let words = world.path("interpreted");
    fs::write(&words, interpreted).unwrap();
    assert_eq!(holdings(&read(&[&words])), holdings(&logged));
}
