//! `taptrail verify`: real processes compared with real trails, correct ones and deliberately wrong
//! ones.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::world::OwnedChild;
use crate::world::{CommandResult, EMPTY, World, mac};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde_json::{Value, json};
use taptrail_kernel::proc::{PidFd, ProcessId, Signal, raw_devices};
use taptrail_record::Event;

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";
const MACVTAP: &str = "macvtap=lower,mac=52:54:00:00:00:02,vhost=off";

/// Limits `verify` to this world: other tests' guests run on the same host. On some machines even
/// root may not inspect process 1.
const HERE: [&str; 4] = ["--netns", "/proc/self/ns/net", "--ignore-pid", "1"];

/// Only the test itself changes anything, so a short time is enough.
const STILL: [&str; 2] = ["--settle", "300ms"];

fn verify(world: &World, options: &[&str]) -> CommandResult {
    world.taptrail(["verify"].iter().chain(&HERE).chain(&STILL).chain(options))
}

/// The JSON of `verify`, which must have ended with this code.
#[track_caller]
fn verify_json(world: &World, options: &[&str], code: i32) -> Value {
    let options: Vec<_> = options.iter().copied().chain(["--format", "json"]).collect();
    let done = verify(world, &options);
    assert_eq!(done.code(), code, "{}{}", done.stdout, done.stderr);
    let answer = serde_json::from_str(&done.stdout).unwrap();
    crate::world::contract::assert_valid("verify", &answer);
    answer
}

/// The devices, one short line each.
fn lines(report: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let line = |row: &Value| {
        let kind =
            if row["device"].is_null() { &row["holding"]["device"]["kind"] } else { &row["device"]["kind"] };
        let name =
            if row["device"].is_null() { &row["holding"]["device"]["dev"] } else { &row["device"]["dev"] };
        format!("{} {} {} x{}", text(&row["verdict"]), text(kind), text(name), row["queues"])
    };
    report["devices"].as_array().unwrap().iter().map(line).collect()
}

/// The only device with this verdict.
#[track_caller]
fn only_row<'a>(report: &'a Value, verdict: &str) -> &'a Value {
    let mut rows = report["devices"].as_array().unwrap().iter().filter(|row| row["verdict"] == verdict);
    let row = rows.next().unwrap_or_else(|| panic!("nothing is {verdict}: {report:#}"));
    assert!(rows.next().is_none(), "more than one is {verdict}: {report:#}");
    row
}

/// A process that sleeps with a copy of a descriptor; it ends with this.
struct Sleeper(OwnedChild);

impl Sleeper {
    /// A process that copies another process's first device.
    fn with_copy_from(pid: u32) -> Self {
        Self::spawn_with_copy(pid, &["/bin/sleep", "1000"])
    }

    /// Runs this command, which execs the sleeper, with a copy of the process's first device.
    fn spawn_with_copy(pid: u32, command: &[&str]) -> Self {
        let source = PidFd::open(ProcessId::of(pid).unwrap()).unwrap();
        let device = raw_devices(pid).unwrap().remove(0);
        let copy: OwnedFd = pidfd_getfd(&source, device.fd, PidfdGetfdFlags::empty()).unwrap();
        let mut sleep = Command::new(command[0]);
        Self(sleep.args(&command[1..]).stdin(Stdio::from(copy)).spawn().unwrap().into())
    }

    /// Waits until it has executed `exe`.
    fn runs(self, world: &World, exe: &Path) -> Self {
        let link = format!("/proc/{}/exe", self.0.id());
        world.until("the sleeper sleeps", || fs::read_link(&link).is_ok_and(|now| now == exe));
        self
    }
}

/// A QEMU that opens a tap by itself.
fn unmanaged_qemu(world: &World, tap: &str) -> Sleeper {
    unmanaged_qemu_with(world, tap, &["-name", "by-hand"])
}

/// A QEMU that opens a tap by itself, with more arguments.
fn unmanaged_qemu_with(world: &World, tap: &str, arguments: &[&str]) -> Sleeper {
    let netdev = format!("tap,id=t,ifname={tap},script=no,downscript=no");
    let mut qemu = Command::new(EMPTY[0]);
    qemu.args(&EMPTY[1..]).args(["-S", "-netdev", &netdev]).args(arguments);
    let qemu = Sleeper(qemu.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap().into());
    world.until("QEMU has its tap", || {
        raw_devices(qemu.0.id()).is_ok_and(|held| held.iter().any(|held| held.ifname.is_some()))
    });
    qemu
}

/// The ledger as lines of an audit log.
fn exported(world: &World) -> (PathBuf, Vec<String>) {
    let lines = world.taptrail(["ledger", "export"]).ok().stdout.lines().map(str::to_owned).collect();
    (world.path("exported.log"), lines)
}

fn write(path: &Path, lines: &[String]) {
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

/// Numbers the events without a gap, as in a log without other events.
fn renumber(lines: &mut [String]) {
    let mut last = (String::new(), 0);
    for line in lines {
        let Some((head, stamped)) = line.split_once("audit(") else { continue };
        let (stamp, tail) = stamped.split_once(')').unwrap();
        let (time, _) = stamp.split_once(':').unwrap();
        if last.0 != stamp {
            last = (stamp.to_owned(), last.1 + 1);
        }
        *line = format!("{head}audit({time}:{}){tail}", last.1);
    }
}

// Shows 14.1.
#[test]
fn our_own_guests_are_accounted_for_all_their_lives() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", &format!("{ONE},queues=2"), "--nic", MACVTAP]);
    let both = ["accounted tun vnet0 x2", "accounted macvtap macvtap0 x1"];
    let seen = verify_json(&world, &[], 0);
    assert_eq!(lines(&seen), both);
    let row = &seen["devices"][0];
    assert_eq!((&row["process"]["pid"], &row["process"]["program"]), (&guest.pid.into(), &"qemu".into()));
    assert_eq!((&row["guest"]["name"], &row["guest"]["known_by"]), (&"web1".into(), &"ledger".into()));
    assert_eq!((&row["device"]["bridge"], &row["matched_by"]), (&"br0".into(), &"name".into()));
    assert_eq!(seen["devices"][1]["device"]["lower"], "lower");
    assert_eq!((&row["holding"]["mac"], &row["text"]), (&mac(1).into(), &Value::Null));
    assert_eq!(row["holding"]["proof"].as_array().unwrap().len(), 3, "two opens and a start");

    let third = "bridge=br0,mac=52:54:00:00:00:03,vhost=off";
    world.attach(&guest, third).ok();
    let all = ["accounted tun vnet0 x2", "accounted macvtap macvtap0 x1", "accounted tun vnet1 x1"];
    let mut seen = lines(&verify_json(&world, &[], 0));
    seen.sort();
    assert_eq!(seen, Vec::from_iter([all[1], all[0], all[2]]));
    world.detach(&guest, 3, &[]).ok();
    assert_eq!(lines(&verify_json(&world, &[], 0)), both);
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(lines(&verify_json(&world, &[], 0)), both[1..]);
    // The revoked MAC is attached again while its old NIC is still plugged.
    world.attach(&guest, ONE).ok();
    assert_eq!(lines(&verify_json(&world, &["--guest", "web1"], 0)).len(), 2);
    world.stop(&guest);
    let done = verify(&world, &[]).ok();
    assert!(done.stdout.starts_with("No devices\n\n0 devices accounted for; "), "{}", done.stdout);
    assert_eq!(done.stderr, "");
}

// Shows 14.2.
#[test]
fn a_leaked_copy_is_found_while_the_guest_runs_and_after_its_end() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let sleeper = Sleeper::with_copy_from(guest.pid);
    let seen = verify_json(&world, &[], 1);
    assert_eq!(lines(&seen), ["accounted tun vnet0 x1", "held-by-another tun vnet0 x1"]);
    let row = only_row(&seen, "held-by-another");
    assert_eq!((&row["process"]["pid"], &row["device"]["fds"]), (&sleeper.0.id().into(), &[0].into()));
    assert_eq!(row["shared_with"], Value::from([guest.pid].to_vec()));
    let text = row["text"].as_str().unwrap();
    let whose = format!("is granted to {} of guest 'web1' (pid {})", mac(1), guest.pid);
    assert!(text.contains("has a copy of /dev/net/tun (vnet0)") && text.ends_with(&whose), "{text}");
    assert_eq!(only_row(&seen, "accounted")["shared_with"], Value::from([sleeper.0.id()].to_vec()));

    // The guest's end deleted the interface, and the copy leads to nothing.
    world.stop(&guest);
    let seen = verify_json(&world, &[], 1);
    assert_eq!(lines(&seen), ["unaccounted tun - x1"]);
    let text = only_row(&seen, "unaccounted")["text"].as_str().unwrap();
    assert!(text.contains("holds /dev/net/tun (no interface), and no record grants it"), "{text}");
    drop(sleeper);
    verify(&world, &[]).ok();
}

// Shows 14.3.
#[test]
fn a_device_opened_by_hand_is_found_and_may_be_known() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let qemu = unmanaged_qemu(&world, "byhand0");
    let seen = verify_json(&world, &[], 1);
    let row = only_row(&seen, "unaccounted");
    assert_eq!((&row["process"]["pid"], &row["device"]["dev"]), (&qemu.0.id().into(), &"byhand0".into()));
    assert_eq!(
        (&row["guest"]["name"], &row["guest"]["known_by"]),
        (&"by-hand".into(), &"command-line".into())
    );
    assert_eq!((&row["holding"], &seen["counts"]["accounted"]), (&Value::Null, &1.into()));

    // Its devices are shown without a supervisor, too.
    let nics = world.taptrail(["nics", "by-hand", "--format", "json"]).ok();
    let nics: Value = serde_json::from_str(&nics.stdout).unwrap();
    assert_eq!((&nics[0]["ifname"], &nics[0]["mac"]), (&"byhand0".into(), &Value::Null));
    world.taptrail(["nics", "nobody"]).fails(1, "Guest 'nobody' isn't running");

    let done = verify(&world, &[]);
    assert_eq!(done.code(), 1);
    assert!(done.stdout.starts_with("unaccounted         Process "), "{}", done.stdout);

    // With `--guest` the other guest is not reported.
    verify(&world, &["--guest", "web1"]).ok();
    verify(&world, &["--pid", &guest.pid.to_string()]).ok();
    assert_eq!(verify(&world, &["--pid", &qemu.0.id().to_string()]).code(), 1);

    let exe = fs::read_link(format!("/proc/{}/exe", qemu.0.id())).unwrap();
    let known = ["--ignore", exe.to_str().unwrap()];
    let seen = verify_json(&world, &known, 0);
    assert_eq!((&seen["counts"]["ignored"], &seen["counts"]["accounted"]), (&1.into(), &1.into()));
    let other = verify(&world, &["--ignore", "/bin/sleep"]);
    assert_eq!(other.code(), 1);
    verify(&world, &["--ignore", "qemu-system-x86_64"]).fails(2, "an absolute path is needed");
    drop(qemu);
    world.stop(&guest);
}

// Shows 14.19.
#[test]
fn the_manager_of_an_unrecorded_guest_is_named() {
    let world = World::new();
    world.start("web1", &[]);
    // As libvirt's QEMU driver writes it, embedded in virt-qemu-run.
    let files = world.path("root/lib/qemu/domain-1-job1");
    fs::create_dir_all(&files).unwrap();
    let key = files.join("master-key.aes");
    fs::write(&key, [7; 32]).unwrap();
    let secret =
        format!(r#"{{"qom-type":"secret","id":"masterKey0","format":"raw","file":"{}"}}"#, key.display());
    let qemu = unmanaged_qemu_with(&world, "vnet7", &["-name", "guest=job1", "-object", &secret]);
    let seen = verify_json(&world, &[], 1);
    let row = only_row(&seen, "unaccounted");
    let manager = &row["process"]["manager"];
    assert_eq!((&manager["kind"], &manager["known_by"]), (&"virt-qemu-run".into(), &"command-line".into()));
    assert_eq!(manager["path"], world.path("root").to_str().unwrap());
    let text = row["text"].as_str().unwrap();
    let manager = format!("virt-qemu-run (its files are in {})", world.path("root").display());
    let why = format!("and no record grants it: its manager, {manager}, writes no audit records");
    assert!(text.ends_with(&why), "{text}");
    drop(qemu);

    // A QEMU without a manager is a child of the process that started it.
    let _qemu = unmanaged_qemu(&world, "byhand0");
    let seen = verify_json(&world, &[], 1);
    let manager = &only_row(&seen, "unaccounted")["process"]["manager"];
    assert_eq!((&manager["kind"], &manager["pid"]), (&"other".into(), &std::process::id().into()));
    let text = only_row(&seen, "unaccounted")["text"].as_str().unwrap();
    assert!(text.contains("; no known guest manager started it: its parent is "), "{text}");
}

// Shows 14.18.
#[test]
fn another_guests_tap_with_the_same_mac_is_not_the_one_that_was_released() {
    let world = World::new();
    world.start("web1", &[]);
    // Recorded with libvirt 12.9: A is older than the log, and B with A's MAC started and stopped.
    let recorded = include_str!("../data/libvirt/libvirt-12.9/47-verify-same-mac/audit.log");
    let mut of_b: Vec<_> =
        recorded.lines().filter(|line| !line.contains("t47-a")).map(str::to_owned).collect();
    renumber(&mut of_b);
    let a = ["-name", "guest=t47-a", "-uuid", "4046b739-752c-42a9-b5a4-34ff59df2373"];
    let _qemu = unmanaged_qemu_with(&world, "vnet28", &a);
    let set = ["link", "set", "vnet28", "address", "fe:54:00:00:47:01"];
    assert!(Command::new("/sbin/ip").args(set).status().unwrap().success());
    let log = world.path("t47.log");
    // After B's end, and in a trail in which B still runs.
    let stop = of_b.iter().position(|line| line.contains("op=stop")).unwrap();
    write(&log, &of_b);
    let seen = verify_json(&world, &[log.to_str().unwrap()], 1);
    assert_eq!(lines(&seen), ["unaccounted tun vnet28 x1"]);
    write(&log, &of_b[..stop]);
    let seen = verify_json(&world, &[log.to_str().unwrap()], 1);
    assert_eq!(lines(&seen), ["unaccounted tun vnet28 x1", "missing tun - x1"]);
}

// Shows 14.3.
#[test]
fn a_known_program_with_a_guests_device_is_reported_all_the_same() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let _sleeper = Sleeper::with_copy_from(guest.pid);
    let seen = verify_json(&world, &["--ignore", "/bin/sleep"], 1);
    assert_eq!(lines(&seen), ["accounted tun vnet0 x1", "held-by-another tun vnet0 x1"]);
    world.stop(&guest);
}

// Shows 14.2.
#[test]
fn a_copy_in_a_container_is_found() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let sleep = fs::canonicalize("/bin/sleep").unwrap();
    let container = ["/usr/bin/unshare", "--net", "--mount", "--ipc", "--uts", "/bin/sleep", "1000"];
    let _sleeper = Sleeper::spawn_with_copy(guest.pid, &container).runs(&world, &sleep);
    let seen = verify_json(&world, &[], 1);
    let row = only_row(&seen, "held-by-another");
    // The tap is where it was; only its holder is elsewhere.
    assert_eq!(row["device"]["netns"], only_row(&seen, "accounted")["device"]["netns"]);
    assert_ne!(row["device"]["netns"], row["process"]["netns"]);
    assert_eq!((&row["device"]["dev"], &row["device"]["bridge"]), (&"vnet0".into(), &"br0".into()));
    world.stop(&guest);
}

// Shows 14.20.
#[test]
fn a_tap_that_no_process_shows_is_hidden() {
    let world = World::new();
    world.start("web1", &[]);
    let script = r#"
        open(my $tap, "+<", "/dev/net/tun") or die;
        my $request = pack("a16Sx22", "hidden0", 0x1002);
        ioctl($tap, 0x400454ca, $request) or die;
        my $parameters = "\0" x 120;
        my $ring = syscall(425, 4, $parameters);
        $ring >= 0 && syscall(427, $ring, 2, pack("i", fileno $tap), 1) == 0 or die "$!";
        close $tap;
        $| = 1;
        print "hidden\n";
        sleep 1000;"#;
    let mut hider = Command::new("/usr/bin/perl");
    let mut hider = Sleeper(hider.args(["-e", script]).stdout(Stdio::piped()).spawn().unwrap().into());
    let mut line = String::new();
    BufReader::new(hider.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "hidden\n");
    let seen = verify_json(&world, &[], 1);
    assert_eq!(lines(&seen), ["hidden tun hidden0 x1"]);
    let text = only_row(&seen, "hidden")["text"].as_str().unwrap();
    let keeper = format!("process {} (1 registered with io_uring)", hider.0.id());
    assert!(text.starts_with("The kernel counts an open file of hidden0 that no process shows"), "{text}");
    assert!(text.contains(&keeper), "{text}");
    drop(hider);
    assert_eq!(lines(&verify_json(&world, &[], 0)), [""; 0]);
    // Persistent taps that no process has open are not reported.
    world.ip("tuntap add dev idle0 mode tap");
    world.ip("tuntap add dev idle1 mode tap multi_queue");
    assert_eq!(lines(&verify_json(&world, &[], 0)), [""; 0]);
}

// Shows 14.20.
#[test]
fn a_device_that_a_supervisor_is_about_to_hand_over_is_opening() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    guest.signal(Signal::STOP);
    let mut attach = world.command(["attach", "web1", "--nic", ONE]);
    let mut attach = attach.stdout(Stdio::null()).spawn().unwrap();
    world.until("its open is on record", || {
        world.records().iter().any(|record| matches!(record.event, Event::Open { .. }))
    });
    let seen = verify_json(&world, &[], 0);
    assert_eq!(lines(&seen), ["opening tun vnet0 x1"]);
    assert_eq!(only_row(&seen, "opening")["process"]["pid"], world.supervisor("web1").pid);
    guest.signal(Signal::CONT);
    assert!(attach.wait().unwrap().success());
    assert_eq!(lines(&verify_json(&world, &[], 0)), ["accounted tun vnet0 x1"]);
    world.stop(&guest);
}

// Shows 14.22.
#[test]
fn a_guest_of_another_hypervisor_is_named_by_its_command_line() {
    let world = World::new();
    world.start("web1", &[]);
    let qemu = unmanaged_qemu(&world, "byhand0");
    // A shell takes any arguments: it stands for each program, and stops itself.
    for (program, arguments, name) in [
        ("cloud-hypervisor", ["--api-socket", "path=/run/vm1.sock"], "/run/vm1.sock"),
        ("firecracker-v1.7.0-x86_64", ["--id", "vm2"], "vm2"),
        ("crosvm", ["--name", "vm3"], "vm3"),
    ] {
        let exe = world.path(program);
        fs::copy("/bin/bash", &exe).unwrap();
        let stop = [exe.to_str().unwrap(), "-c", "kill -STOP $$", "run"];
        let _held =
            Sleeper::spawn_with_copy(qemu.0.id(), &[&stop[..], &arguments].concat()).runs(&world, &exe);
        let seen = verify_json(&world, &["--guest", name], 1);
        let row = only_row(&seen, "unaccounted");
        assert_eq!(row["process"]["program"], "hypervisor");
        assert_eq!(row["guest"], json!({ "name": name, "uuid": null, "known_by": "command-line" }));
    }
}

// Shows 14.3.
#[test]
fn a_program_is_known_by_its_file_and_not_by_its_name() {
    let world = World::new();
    world.start("web1", &[]);
    let qemu = unmanaged_qemu(&world, "byhand0");
    let (known, other) = (world.path("cloud-hypervisor"), world.path("other"));
    fs::copy("/bin/sleep", &known).unwrap();
    fs::copy("/bin/sleep", &other).unwrap();
    let ignore = ["--ignore", known.to_str().unwrap()];

    let first = Sleeper::spawn_with_copy(qemu.0.id(), &[ignore[1], "1000"]).runs(&world, &known);
    drop(qemu);
    let seen = verify_json(&world, &[], 1);
    let row = only_row(&seen, "unaccounted");
    assert_eq!(
        (&row["process"]["program"], &row["device"]["dev"]),
        (&"hypervisor".into(), &"byhand0".into())
    );
    assert_eq!(verify_json(&world, &ignore, 0)["counts"]["ignored"], 1);
    // An update replaces its file, and the process runs on.
    fs::rename(&other, &known).unwrap();
    assert_eq!(verify_json(&world, &ignore, 0)["counts"]["ignored"], 1);

    // Another file under its name, in a mount namespace, as in a container.
    fs::copy("/bin/sleep", &other).unwrap();
    let script =
        format!("mount --bind {} {} && exec {} 1000", other.display(), known.display(), known.display());
    let container = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", &script];
    let second = Sleeper::spawn_with_copy(first.0.id(), &container).runs(&world, &known);
    drop(first);
    let seen = verify_json(&world, &ignore, 1);
    assert_eq!(only_row(&seen, "unaccounted")["process"]["exe"], known.to_str().unwrap());
    drop(second);
}

// Shows 14.4.
#[test]
fn what_the_trail_has_as_held_and_nobody_holds_is_missing() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", &format!("{ONE},queues=2"), "--nic", MACVTAP]);
    world.kill_supervisor("web1");
    // QEMU runs on without its supervisor, and keeps its devices.
    verify(&world, &[]).ok();
    guest.kill();
    world.until("QEMU has ended", || !guest.is_alive());
    let seen = verify_json(&world, &[], 1);
    assert_eq!(lines(&seen), ["missing tun vnet0 x2", "missing macvtap macvtap0 x1"]);
    let row = &seen["devices"][0];
    assert_eq!(
        (&row["process"], &row["device"], &row["holding"]["pid"]),
        (&Value::Null, &Value::Null, &guest.pid.into())
    );
    assert!(row["text"].as_str().unwrap().ends_with(&format!("its process {} is gone", guest.pid)), "{row}");
    world.taptrail(["recover"]).ok();
    assert_eq!(lines(&verify_json(&world, &[], 0)), Vec::<String>::new());
}

// Shows 14.5.
#[test]
fn a_device_that_its_guest_holds_after_its_release_is_found() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    // A trail with a detach that never happened, read instead of the ledger.
    let (log, mut trail) = exported(&world);
    write(&log, &trail);
    let log = log.to_str().unwrap();
    assert_eq!(lines(&verify_json(&world, &[log], 0)), ["accounted tun vnet0 x1"]);
    let line = |reason: &str| trail.iter().find(|line| line.contains(reason)).unwrap();
    let later = |line: &str, serial: u32| {
        let (head, stamped) = line.split_once("audit(").unwrap();
        let (stamp, tail) = stamped.split_once(')').unwrap();
        let second: u64 = stamp.split('.').next().unwrap().parse().unwrap();
        format!("{head}audit({}.000:{serial}){tail}", second + 1)
    };
    let close = later(&line("reason=open").replace("reason=open", "reason=close"), 3);
    let none_before = format!("old-net=\"?\" new-net=\"{}\"", mac(1));
    let none_after = format!("old-net=\"{}\" new-net=\"?\"", mac(1));
    let detach =
        line("reason=start").replace("reason=start", "reason=detach").replace(&none_before, &none_after);
    assert!(detach.contains(&none_after), "{detach}");
    let detach = later(&detach, 4);
    trail.extend([close, detach]);
    write(Path::new(log), &trail);
    let seen = verify_json(&world, &[log], 1);
    assert_eq!(lines(&seen), ["held-after-release tun vnet0 x1"]);
    let row = only_row(&seen, "held-after-release");
    assert_eq!(row["process"]["pid"], guest.pid);
    world.stop(&guest);
}

#[test]
fn a_guest_without_any_record_is_unaccounted() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let log = world.path("other.log");
    let (_, trail) = exported(&world);
    // The trail of another guest, which has ended.
    let (_, uuid) = trail[0].split_once("uuid=").unwrap();
    let uuid = uuid.split_whitespace().next().unwrap();
    let another =
        |line: &String| line.replace("web1", "db1").replace(uuid, "00000000-0000-0000-0000-0000000000db");
    let other: Vec<_> = trail.iter().map(another).collect();
    write(&log, &other[..1]);
    let seen = verify_json(&world, &[log.to_str().unwrap(), "--guest", "web1"], 1);
    assert_eq!(lines(&seen)[0], "unaccounted tun vnet0 x1");
    world.stop(&guest);
}

// Shows 14.6.
#[test]
fn a_grant_that_comes_late_is_no_alarm() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let (log, trail) = exported(&world);
    // The log as it is while QEMU has its device and its manager is about to record that.
    let granted = trail.iter().position(|line| line.contains("reason=start")).unwrap();
    write(&log, &trail[..granted]);
    let mut verify = world
        .command(["verify", "-v", "--settle", "10m"].iter().chain(&HERE))
        .arg(&log)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(verify.stderr.take().unwrap()).lines();
    assert!(stderr.any(|line| line.unwrap().contains("looking again in")), "it did not look again");
    let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(trail[granted..].join("\n").as_bytes()).unwrap();
    file.write_all(b"\n").unwrap();
    assert!(stderr.all(|line| line.is_ok()));
    let done = CommandResult::from(verify.wait_with_output().unwrap()).ok();
    assert!(
        done.stdout.ends_with("1 device accounted for; ") || done.stdout.contains("1 device accounted for;")
    );
    world.stop(&guest);
}

// Shows 14.6.
#[test]
fn guests_that_come_and_go_are_no_alarm() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..15 {
                let last = 10 + round;
                let spec = format!("bridge=br0,vhost=off,mac={}", mac(last));
                world.attach(&guest, &spec).ok();
                world.detach(&guest, last, &[]).ok();
            }
            let second = world.start("web2", &["--nic", "bridge=br0,vhost=off,mac=52:54:00:00:00:03"]);
            world.stop(&second);
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            world.taptrail(["verify"].iter().chain(&HERE)).ok();
        }
    });
    world.stop(&guest);
}

// Shows 14.7.
#[test]
fn processes_that_can_not_be_seen_are_named() {
    const NOBODY: u32 = 65534;
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let mut others: Vec<Child> =
        (0..9).map(|_| Command::new("/bin/sleep").arg("600").spawn().unwrap()).collect();
    let (log, mut trail) = exported(&world);
    renumber(&mut trail);
    write(&log, &trail);
    fs::set_permissions(world.path("."), PermissionsExt::from_mode(0o711)).unwrap();
    let program = world.path("taptrail");
    fs::copy(env!("CARGO_BIN_EXE_taptrail"), &program).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.env("TAPTRAIL_STATE_DIR", world.state()).env("TAPTRAIL_AUDIT_LOG", world.path("audit.log"));
        let command = command.args(["verify", "--settle", "0s"]).args(arguments).stdin(Stdio::null());
        CommandResult::from(command.uid(NOBODY).gid(NOBODY).output().unwrap())
    };
    // Other users may not read the ledger.
    run(&[])
        .fails(2, "ledger.sqlite")
        .fails(2, "processes may hold could not be seen: root, or CAP_SYS_PTRACE, is needed");
    let pid = guest.pid.to_string();
    let asked = [log.to_str().unwrap(), "--pid", &pid];
    let named = format!("pid {pid} 'qemu-system-x86' (permission)");
    run(&asked)
        .fails(2, "What 1 process may hold could not be seen: root, or CAP_SYS_PTRACE, is needed")
        .fails(2, &named);
    let seen: Value =
        serde_json::from_str(&run(&[asked[0], asked[1], asked[2], "--format", "json"]).stdout).unwrap();
    // Whether the process has the device is unknown, so it is no difference.
    assert_eq!(lines(&seen), ["unknown tun vnet0 x1"]);
    let unseen = &seen["unseen"]["processes"][0];
    assert_eq!((&unseen["pid"], &unseen["name"]), (&guest.pid.into(), &"qemu-system-x86".into()));
    assert_eq!((&unseen["why"], &seen["unseen"]["crowded"]), (&"permission".into(), &Value::Array(vec![])));
    // Only eight processes are named.
    let all = run(&[asked[0]]);
    assert!(all.stderr.contains(" more\n"), "{}", all.stderr);
    guest.kill();
    let proc = Path::new("/proc").join(&pid);
    world.until("QEMU has ended with all its threads", || !proc.exists());
    // Processes of other users that could not be seen hide no difference.
    run(&[asked[0]]).fails(1, " more\n");
    run(&asked).fails(1, "");
    for other in &mut others {
        other.kill().unwrap();
        other.wait().unwrap();
    }
}

// Shows 14.4.
#[test]
fn what_is_missing_is_not_where_another_process_with_its_pid_is() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    // A process in another namespace, which started an hour after the grant in the trail.
    let mut elsewhere = Command::new("/usr/bin/unshare");
    let elsewhere = Sleeper(elsewhere.args(["--net", "/bin/sleep", "1000"]).spawn().unwrap().into());
    let sleep = fs::canonicalize("/bin/sleep").unwrap();
    let elsewhere = elsewhere.runs(&world, &sleep);
    let (log, mut trail) = exported(&world);
    renumber(&mut trail);
    let (own, other) = (format!("vm-pid={} ", guest.pid), format!("vm-pid={} ", elsewhere.0.id()));
    let earlier = |line: &String| {
        let (before, rest) = line.split_once("msg=audit(").unwrap();
        let (seconds, after) = rest.split_once('.').unwrap();
        let seconds = seconds.parse::<u64>().unwrap() - 3600;
        format!("{before}msg=audit({seconds}.{}", after.replace(&own, &other))
    };
    write(&log, &trail.iter().map(earlier).collect::<Vec<_>>());
    world.stop(&guest);
    let seen = verify_json(&world, &[log.to_str().unwrap()], 1);
    assert_eq!(lines(&seen), ["missing tun vnet0 x1"]);
}

// Shows 14.16.
#[test]
fn a_qemu_in_a_container_is_known_by_its_number_there() {
    let world = World::new();
    // Its manager is in the container, too, and knows QEMU by its number there: 1, the first of the
    // pid namespace.
    let uuid = uuid::Uuid::new_v4();
    let netdev = "tap,id=t,ifname=box0,script=no,downscript=no";
    let mut container = Command::new("/usr/bin/unshare");
    container.args(["--pid", "--fork", "--kill-child"]).args(EMPTY);
    container.args(["-S", "-name", "guest=box1", "-uuid", &uuid.to_string(), "-netdev", netdev]);
    let container = Sleeper(container.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap().into());
    let parent = container.0.id();
    let child =
        || fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?.trim().parse().ok();
    world.until("QEMU has its tap", || {
        let held = child().and_then(|pid| raw_devices(pid).ok());
        held.is_some_and(|held| held.iter().any(|held| held.ifname.is_some()))
    });
    let address = mac(7).replacen("52", "fe", 1);
    let set = Command::new("/sbin/ip").args(["link", "set", "box0", "address", &address]).status().unwrap();
    assert!(set.success());
    let now = jiff::Timestamp::now().as_second();
    let line = |serial: u32, kind: &str, text: &str| {
        format!(
            "type={kind} msg=audit({now}.000:{serial}): pid=812 uid=0 auid=4294967295 ses=4294967295 msg='virt=kvm {text} \
             exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success'"
        )
    };
    let of = format!("vm=\"box1\" uuid={uuid}");
    let net = mac(7);
    let trail = [
        line(
            7,
            "VIRT_RESOURCE",
            &format!("resrc=net reason=open {of} net={net} path=\"/dev/net/tun\" rdev=0A:C8"),
        ),
        line(8, "VIRT_RESOURCE", &format!("resrc=net reason=start {of} old-net=\"?\" new-net=\"{net}\"")),
        line(9, "VIRT_CONTROL", &format!("op=start reason=booted {of} vm-pid=1")),
    ];
    let log = world.path("audit-of-container.log");
    write(&log, &trail);
    let seen = verify_json(&world, &[log.to_str().unwrap()], 0);
    assert_eq!(lines(&seen), ["accounted tun box0 x1"]);
    let row = only_row(&seen, "accounted");
    assert_eq!((&row["process"]["pid"], &row["holding"]["pid"]), (&child().unwrap().into(), &1.into()));
    // If the record has another number, it does not mean this QEMU.
    write(&log, &trail.map(|line| line.replace("vm-pid=1 ", "vm-pid=2 ")));
    let seen = verify_json(&world, &[log.to_str().unwrap()], 1);
    assert_eq!(only_row(&seen, "held-by-another")["process"]["pid"], child().unwrap());
}

// Shows 14.7.
#[test]
fn a_container_says_that_it_does_not_see_all() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let (log, trail) = exported(&world);
    write(&log, &trail[..0]);
    let mut container = Command::new("/usr/bin/unshare");
    container.args(["--pid", "--fork", "--mount-proc", env!("CARGO_BIN_EXE_taptrail"), "verify"]).args(HERE);
    let done = CommandResult::from(container.arg(&log).stdin(Stdio::null()).output().unwrap()).ok();
    assert!(done.stdout.starts_with("No devices\n"), "{}", done.stdout);
    assert!(done.stderr.contains("Processes outside of this container (its pid namespace) are not seen"));
    world.stop(&guest);
}

#[test]
fn without_a_trail_what_processes_hold_is_listed_and_not_judged() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let none = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    command.args(["verify", "--format", "json"]).args(HERE);
    command.arg("--log").arg(none.path().join("audit.log")).arg("--state-dir").arg(none.path());
    let done = CommandResult::from(command.stdin(Stdio::null()).output().unwrap());
    let done = done.fails(2, "There is no trail on this host");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(lines(&report), ["unknown tun vnet0 x1"]);
    assert_eq!(report["devices"][0]["guest"]["name"], "web1");
    assert_eq!((&report["devices"][0]["text"], &report["trail"]), (&Value::Null, &Value::Null));
    let space = report["devices"][0]["process"]["netns"].to_string();
    assert_eq!(report["namespaces"][space], "own");
    world.stop(&guest);
}

#[test]
fn arguments_that_mean_nothing_are_refused() {
    let world = World::new();
    let done = world.taptrail(["verify", "--netns", "no-such-name"]);
    done.fails(2, "--netns can't be used: /run/netns/no-such-name");
    let done = world.taptrail(["verify", "--netns", "/dev/null"]);
    done.fails(2, "--netns can't be used: /dev/null: not a network namespace");
    // Without a trail there is nothing to compare with.
    verify(&world, &[]).fails(2, "There is no trail on this host");
}
