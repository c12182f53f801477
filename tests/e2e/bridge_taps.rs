//! The accounts that `taptrail watch --bridge-taps` keeps of the bridge helper's taps.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal};
use taptrail_kernel::proc::ProcessId;

use crate::world::OwnedChild;
use crate::world::auditing::{Auditing, wait_for_log};
use crate::world::bridge_lab::{Lab, USER, UUID, as_user, receive};
use crate::world::{Guest, contract};

/// A watcher that keeps the accounts of the helper's taps, in a lab with a /run of its own.
struct TapWatcher(OwnedChild);

impl TapWatcher {
    const SOCKET: &'static str = "/run/taptrail-watch/bridge-taps";

    fn start(lab: &Lab) -> Self {
        if !Path::new("/run/of-this-lab").exists() {
            mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
            fs::write("/run/of-this-lab", "").unwrap();
        }
        let log = lab.world.path("no-guests.log");
        fs::write(&log, "").unwrap();
        let mut command = lab.world.command(["watch", "--silent", "--bridge-taps", "--log"]);
        let watch = command.arg(&log).stderr(Stdio::piped()).spawn().unwrap();
        let watcher = Self(watch.into());
        lab.world.until("the broker's socket", || watcher.is_served());
        watcher
    }

    fn is_served(&self) -> bool {
        as_user(Path::new("/usr/bin/perl")).args(["-e", &client("exit 0")]).status().unwrap().success()
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Ends in an orderly way.
    fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(self.0.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A program of Perl that connects to the broker, and then does this.
fn client(then: &str) -> String {
    format!(
        "use Socket; $^F = 255; socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or exit 9; \
         connect($s, pack_sockaddr_un('{}')) or exit 8; {then}",
        TapWatcher::SOCKET
    )
}

/// The ledger's taps.
fn ledger_taps(lab: &Lab) -> Vec<serde_json::Value> {
    let done = lab.world.taptrail(["trail", "--format", "json", &lab.ledger()]);
    let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    contract::assert_valid("trail", &json);
    json["bridge_taps"].as_array().cloned().unwrap_or_default()
}

fn bridge_nic(helper: &Path) -> [String; 4] {
    let netdev = format!("bridge,id=n0,br=br0,helper={}", helper.display());
    ["-netdev".to_owned(), netdev, "-device".to_owned(), "virtio-net-pci,netdev=n0".to_owned()]
}

// Shows 1.22, 13.43, 10.56.
#[test]
fn a_tap_has_an_account_in_the_ledger_until_qemu_ends() {
    let lab = Lab::new();
    let watcher = TapWatcher::start(&lab);
    let nic = bridge_nic(&lab.ours);
    let mut qemu = lab.qemu(&nic.each_ref().map(String::as_str));
    let guest = Guest { name: "web1".to_owned(), pid: qemu.id() };
    lab.world.until("QEMU has the tap", || guest.holds() == ["tun tap0"]);

    let taps = ledger_taps(&lab);
    assert_eq!(taps.len(), 1, "{taps:?}");
    let tap = &taps[0];
    let start = ProcessId::of(guest.pid).unwrap().start_time;
    assert_eq!(
        (&tap["state"], &tap["bridge"], &tap["device"]["dev"]),
        (&"held".into(), &"br0".into(), &"tap0".into())
    );
    assert_eq!((&tap["requester"]["pid"], &tap["start_time"]), (&guest.pid.into(), &start.into()));
    assert_eq!((&tap["requester"]["uid"], &tap["claimed_name"]), (&USER.into(), &"web1".into()));
    assert_eq!(tap["claimed_uuid"], UUID);

    // As people see it.
    let who = lab.world.taptrail(["who", "tap0", &lab.ledger()]).ok().stdout;
    for says in ["tap0 on bridge br0", "which proves nothing", "not yet: a watcher has recorded no close"] {
        assert!(who.contains(says), "'{says}' is not in: {who}");
    }
    let trail = lab.world.taptrail(["trail", &lab.ledger()]).ok().stdout;
    assert!(trail.contains("Taps of the bridge helper") && trail.contains("web1"), "{trail}");
    let explained = lab.world.taptrail(["explain", "web1", "--format", "json", &lab.ledger()]).ok().stdout;
    let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
    contract::assert_valid("explain", &explained);
    assert!(explained["bridge_taps"][0]["lines"][0]["raw"].as_str().unwrap().contains("reason=bridge-open"));
    // In every format: where it has no row, that is said.
    let ledger = lab.ledger();
    let ask = |words: &[&str]| lab.world.taptrail(words.iter().copied().chain([&*ledger]));
    let ecs = ask(&["trail", "--format", "ecs"]).stdout;
    let ecs: serde_json::Value = serde_json::from_str(&ecs).unwrap();
    assert_eq!(crate::world::ecs::faults(&ecs), Vec::<String>::new(), "{ecs:#}");
    assert_eq!(ecs["event"]["action"], "device-held");
    assert_eq!(ecs["user"]["id"], USER.to_string());
    let csv = ask(&["trail", "--format", "csv"]);
    assert!(csv.stderr.contains("1 tap of the bridge helper has no row in CSV"), "{}", csv.stderr);
    let summary = ask(&["summary"]).stdout;
    assert!(summary.contains("Bridge taps 1 passed, 1 of them still held"), "{summary}");
    let summary: serde_json::Value =
        serde_json::from_str(&ask(&["summary", "--format", "json"]).stdout).unwrap();
    contract::assert_valid("summary", &summary);
    let timeline = ask(&["trail", "--timeline"]).stdout;
    assert!(timeline.contains("Taps of the bridge helper"), "{timeline}");
    let figure = ask(&["report", "--format", "svg", "-o", "-"]);
    assert!(figure.stderr.contains("Left out: 1 tap of the bridge helper"), "{}", figure.stderr);
    // It is no guest, and `verify` takes the account for what it is.
    assert!(lab.world.taptrail(["list"]).ok().stdout.lines().count() <= 1);
    let pid = guest.pid.to_string();
    let verified =
        lab.world.taptrail(["verify", "--pid", &pid, "--settle", "0s", "--format", "json", &lab.ledger()]);
    let verified: serde_json::Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!(verified["devices"][0]["matched_by"], "bridge-helper", "{verified}");

    qemu.kill().unwrap();
    qemu.wait().unwrap();
    lab.world.until("the close", || ledger_taps(&lab)[0]["state"] == "released");
    let tap = ledger_taps(&lab).remove(0);
    assert_eq!((&tap["ended_by"], &tap["last_seen"]), (&"close".into(), &serde_json::Value::Null));
    watcher.stop();
    lab.world.taptrail(["ledger", "check"]).ok();
    assert_eq!(lab.world.links(), [""; 0]);
}

// Shows 1.23.
#[test]
fn a_helper_needs_no_broker_and_waits_for_none() {
    let lab = Lab::new();
    let watcher = TapWatcher::start(&lab);
    watcher.signal(Signal::STOP);
    let begun = Instant::now();
    let answer = lab.ask(&lab.ours, b"br0");
    assert_eq!(answer.tap(), "tap0");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(answer.stderr.contains("has not answered within 2 s"), "{}", answer.stderr);
    // A broker that hangs keeps no tap alive.
    drop(answer);
    lab.world.until("the tap is gone", || lab.world.links() == [""; 0]);
    watcher.kill();
    let answer = lab.ask(&lab.ours, b"br0");
    assert_eq!((answer.tap(), &*answer.stderr), ("tap0".to_owned(), ""));
    drop(answer);
    // The socket that it left is the next one's.
    let watcher = TapWatcher::start(&lab);
    let answer = lab.ask(&lab.ours, b"br0");
    assert_eq!((answer.tap(), &*answer.stderr), ("tap0".to_owned(), ""));
    drop(answer);
    lab.world.until("the close", || ledger_taps(&lab).iter().all(|tap| tap["state"] == "released"));
    assert_eq!(ledger_taps(&lab).len(), 1);
    watcher.stop();
}

// Shows 13.43.
#[test]
fn what_ends_while_nobody_watches_has_the_time_it_was_last_seen() {
    let lab = Lab::new();
    let watcher = TapWatcher::start(&lab);
    let (first, second) = (lab.ask(&lab.ours, b"br0"), lab.ask(&lab.ours, b"br0"));
    assert_eq!((first.tap(), second.tap()), ("tap0".to_owned(), "tap1".to_owned()));
    watcher.stop();
    drop(first);
    // Only the account of what is gone ends.
    let watcher = TapWatcher::start(&lab);
    lab.world.until("the close", || ledger_taps(&lab)[0]["state"] == "released");
    let taps = ledger_taps(&lab);
    assert!(taps[0]["last_seen"].is_string(), "{taps:?}");
    assert_eq!(taps[1]["state"], "held");
    watcher.kill();
    drop(second);
    let watcher = TapWatcher::start(&lab);
    lab.world.until("the close", || ledger_taps(&lab)[1]["state"] == "released");
    assert!(ledger_taps(&lab)[1]["last_seen"].is_string());
    watcher.stop();
    // A tap that somebody else still holds is not closed.
    let watcher = TapWatcher::start(&lab);
    let answer = lab.ask(&lab.ours, b"br0");
    let tap = answer.device.as_ref().unwrap().try_clone().unwrap();
    drop(answer);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(ledger_taps(&lab)[2]["state"], "held");
    drop(tap);
    lab.world.until("the close", || ledger_taps(&lab)[2]["state"] == "released");
    assert_eq!(ledger_taps(&lab)[2]["last_seen"], serde_json::Value::Null);
    watcher.stop();
}

// Shows 1.22.
#[test]
fn a_user_can_not_make_the_broker_record_anything() {
    let lab = Lab::new();
    let watcher = TapWatcher::start(&lab);
    let says = |program: &mut Command| {
        String::from_utf8_lossy(&program.stdin(Stdio::null()).output().unwrap().stdout).into_owned()
    };
    let read = client("recv($s, my $m, 999, 0); print $m;");
    let denied = "does not run the bridge helper";
    let perl = || as_user(Path::new("/usr/bin/perl"));
    assert!(says(perl().args(["-e", &read])).contains(denied));
    // In a user namespace of its own it has every capability, there.
    let unshared = says(as_user(Path::new("/usr/bin/unshare")).args(["-Ur", "/usr/bin/perl", "-e", &read]));
    assert!(unshared.is_empty() || unshared.contains(denied), "{unshared}");
    // A process that becomes the helper when it has connected: one account, by the helper's own
    // connection.
    let (ours, theirs) = UnixStream::pair().unwrap();
    fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
    let exec = client("exec @ARGV; exit 7");
    let mut racing = perl();
    racing.args(["-e", &exec]).arg(&lab.ours).arg("--br=br0").arg(format!("--fd={}", theirs.as_raw_fd()));
    assert!(racing.status().unwrap().success());
    let device = receive(&ours);
    assert!(device.is_some());
    assert_eq!(ledger_taps(&lab).len(), 1);
    // Many at once: a helper may have to do without, and gets its answer.
    let mut many: Vec<Child> =
        (0..30).map(|_| perl().args(["-e", &client("sleep 60")]).spawn().unwrap()).collect();
    assert_eq!(lab.ask(&lab.ours, b"br0").tap(), "tap1");
    for child in &mut many {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    drop(device);
    lab.world.until("the closes", || ledger_taps(&lab).iter().all(|tap| tap["state"] == "released"));
    watcher.stop();
}

// Shows 10.56.
#[test]
fn the_kernels_audit_alone_shows_a_tap() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let lab = Lab::new();
    let log = auditing.start_daemon(&lab.world.path(""));
    let answer = lab.ask(&lab.ours, b"br0");
    assert_eq!(answer.tap(), "tap0");
    wait_for_log(&log);
    let done = lab.world.taptrail(["who", "tap0", "--format", "json", log.to_str().unwrap()]).ok();
    let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let taps = json["bridge_taps"].as_array().unwrap();
    // Another test's helper may have asked, too.
    let ours = |tap: &&serde_json::Value| tap["requester"]["pid"] == std::process::id();
    let tap = taps.iter().find(ours).unwrap();
    assert_eq!((&tap["state"], &tap["released"]), (&"unknown".into(), &serde_json::Value::Null));
    assert_eq!(tap["requester"]["uid"], USER);
    auditing.end_daemon();
}
