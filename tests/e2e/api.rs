//! The API of a guest's supervisor: callers, events, and what a client can't do to the supervisor.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::world::{CommandResult, EMPTY, World, mac};
use serde_json::{Value, json};
use taptrail_kernel::proc::{PidFd, ProcessId, Signal};
use taptrail_record::{Event, Outcome};

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";
const TWO: &str = "bridge=br0,mac=52:54:00:00:00:02,vhost=off";

/// Users of Debian under which no test runs.
const NOBODY: u32 = 65534;
const DAEMON: u32 = 1;

/// A world whose directories other users may traverse, with a taptrail that they can run.
struct OpenWorld {
    world: World,
    program: PathBuf,
}

impl OpenWorld {
    fn new() -> Self {
        let world = World::new();
        fs::set_permissions(world.path("."), PermissionsExt::from_mode(0o711)).unwrap();
        let program = world.path("taptrail");
        fs::copy(env!("CARGO_BIN_EXE_taptrail"), &program).unwrap();
        Self { world, program }
    }

    /// Runs taptrail as another user.
    fn taptrail_as(&self, uid: u32, arguments: &[&str]) -> CommandResult {
        let mut command = Command::new(&self.program);
        command.env_clear().env("TAPTRAIL_RUN_DIR", self.world.run_dir()).args(arguments);
        CommandResult::from(command.uid(uid).gid(uid).stdin(Stdio::null()).output().unwrap())
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.world.run_dir().join(path)).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.world.run_dir().join(path), PermissionsExt::from_mode(mode)).unwrap();
    }
}

/// A varlink connection without a client library.
struct RawConnection {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl RawConnection {
    fn connect(world: &World, guest: &str) -> Self {
        let stream = UnixStream::connect(world.run_dir().join(guest).join("api")).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    fn send(&mut self, call: &Value) {
        write!(self.stream, "{call}\0").unwrap();
    }

    fn answer(&mut self) -> Value {
        let mut answer = Vec::new();
        self.reader.read_until(0, &mut answer).unwrap();
        answer.pop();
        serde_json::from_slice(&answer).unwrap()
    }
}

fn events(world: &World, options: &[&str]) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut arguments = vec!["events", "web1"];
    arguments.extend(options);
    let mut child = world.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).peekable();
    // The first line says that the client listens.
    assert!(lines.peek().is_some());
    (child, lines)
}

// Shows 5.17.
#[test]
fn others_may_call_when_they_are_allowed_and_not_otherwise() {
    let open = OpenWorld::new();
    let world = &open.world;
    let first = world.start("web1", &[]);
    open.taptrail_as(NOBODY, &["nics", "web1"]).fails(1, "can't be reached");
    // Even with open modes the supervisor checks the caller.
    open.set_mode(".", 0o711);
    open.set_mode("web1", 0o711);
    open.set_mode("web1/api", 0o666);
    open.taptrail_as(NOBODY, &["nics", "web1"]).fails(1, "User 65534 may not ask this");
    open.taptrail_as(NOBODY, &["stop", "web1", "--force"]).fails(1, "User 65534 may not ask this");
    open.taptrail_as(NOBODY, &["events", "web1"]).fails(1, "User 65534 may not ask this");
    assert!(first.is_alive());
    world.stop(&first);

    let second = world.start("web2", &["--allow", "nobody"]);
    assert_eq!((open.mode("."), open.mode("web2"), open.mode("web2/api")), (0o711, 0o711, 0o666));
    for name in ["monitor", "lock", "log"] {
        assert_eq!(open.mode(&format!("web2/{name}")), 0o600, "{name}");
    }
    open.taptrail_as(NOBODY, &["attach", "web2", "--nic", ONE]).ok();
    assert_eq!(second.holds(), ["tun vnet0"]);
    open.taptrail_as(NOBODY, &["attach", "web2", "--nic", &format!("{TWO},tun-path=/dev/net/tun")])
        .fails(1, "tun-path=");
    open.taptrail_as(DAEMON, &["detach", "web2", &mac(1)]).fails(1, "User 1 may not ask this");
    let attached = world.records().into_iter().find(|record| matches!(record.event, Event::Attach { .. }));
    assert_eq!(attached.unwrap().requester.unwrap().uid, NOBODY);
    world.stop(&second);
    world.assert_clean();
}

// Shows 5.17.
#[test]
fn allowed_users_are_checked_before_anything_else() {
    let world = World::new();
    world.try_start("web1", &["--allow", "no-such-user"], &EMPTY).fails(2, "no-such-user");
    world
        .try_start("web1", &["--allow", "nobody", "--user", "nobody"], &EMPTY)
        .fails(2, "QEMU runs as this user");
    world.taptrail(["adopt", "web1", "--allow", "4294967295"]).fails(2, "There is no user");

    let guest = world.start("web1", &["--user", "nobody", "--no-private-dev"]);
    world.kill_supervisor("web1");
    world.taptrail(["adopt", "web1", "--allow", "nobody"]).fails(1, "QEMU runs as this user");
    assert!(guest.is_alive());
    world.taptrail(["adopt", "web1", "--background", "--allow", "daemon"]).ok();
    world.stop(&guest);
}

// Shows 5.17.
#[test]
fn whom_the_last_supervisor_allowed_the_next_does_not() {
    let open = OpenWorld::new();
    let world = &open.world;
    let guest = world.start("web1", &["--allow", "65534", "--nic", ONE]);
    world.kill_supervisor("web1");
    world.taptrail(["adopt", "web1", "--background"]).ok();
    assert_eq!((open.mode("web1"), open.mode("web1/api")), (0o700, 0o600));
    open.taptrail_as(NOBODY, &["nics", "web1"]).fails(1, "can't be reached");
    world.kill_supervisor("web1");
    world.taptrail(["adopt", "web1", "--background", "--allow", "nobody"]).ok();
    assert_eq!((open.mode("web1/monitor"), open.mode("web1/api")), (0o600, 0o666));
    open.taptrail_as(NOBODY, &["detach", "web1", &mac(1), "--force"]).ok();
    assert_eq!(guest.holds(), Vec::<String>::new());
    world.stop(&guest);
    world.assert_clean();
}

// Shows 5.34.
#[test]
fn strangers_keep_nobody_out() {
    let open = OpenWorld::new();
    let world = &open.world;
    let guest = world.start("web1", &["--allow", "nobody"]);
    let held = connections(DAEMON, world.run_dir().join("web1/api"), 200);
    open.taptrail_as(NOBODY, &["nics", "web1"]).ok();
    drop(held);
    world.stop(&guest);
}

// Shows 5.39.
#[test]
fn idle_connections_of_an_allowed_user_lock_nobody_out() {
    let open = OpenWorld::new();
    let world = &open.world;
    let guest = world.start("web1", &["--allow", "nobody", "--nic", ONE]);
    let mut held = connections(NOBODY, world.run_dir().join("web1/api"), 70);
    open.taptrail_as(NOBODY, &["nics", "web1"]).ok();
    world.taptrail(["nics", "web1"]).ok();
    // The supervisor closed the oldest connections for the newer ones.
    assert_eq!(held[0].read(&mut [0]).unwrap(), 0);
    world.detach(&guest, 1, &["--force"]).ok();
    world.stop(&guest);
    world.assert_clean();
}

// Shows 5.39.
#[test]
fn many_busy_clients_of_an_allowed_user_do_not_lock_root_out() {
    let open = OpenWorld::new();
    let world = &open.world;
    let guest = world.start("web1", &["--allow", "nobody", "--nic", ONE]);
    let mut held = connections(NOBODY, world.run_dir().join("web1/api"), 16);
    for stream in &mut held {
        stream.write_all(b"{\"method\":\"org.taptrail.Guest.Monitor\",\"more\":true}\0").unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
    }
    open.taptrail_as(NOBODY, &["nics", "web1"]).fails(1, "Too many clients of user 65534");
    world.taptrail(["nics", "web1"]).ok();
    world.stop(&guest);
    world.assert_clean();
}

/// Opens `count` connections of this user, without a call.
fn connections(uid: u32, api: PathBuf, count: usize) -> Vec<UnixStream> {
    let user = std::thread::spawn(move || {
        // For this thread alone: Linux has credentials for each thread.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(uid)).unwrap();
        (0..count).map(|_| UnixStream::connect(&api).unwrap()).collect()
    });
    user.join().unwrap()
}

#[test]
fn a_request_of_a_disconnected_client_is_not_begun() {
    let world = World::new();
    // A machine whose ports wait for a guest system that does not exist.
    let guest = world.start_with("web1", &["--nic", ONE], &EMPTY[..8]);
    let address = mac(1);
    let detach =
        world.command(["detach", "web1", &address, "--timeout", "1h"]).stderr(Stdio::null()).spawn().unwrap();
    world.until("the detach waits", || world.nics(&guest)[0]["state"] == "unplugging");
    let mut raw = RawConnection::connect(&world, "web1");
    raw.send(&json!({"method": "org.taptrail.Guest.Attach", "parameters": {"nic": TWO}}));
    drop(raw);
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(detach.wait_with_output().unwrap().status.code(), Some(1));
    // The supervisor does this after all earlier requests.
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:03,vhost=off").ok();
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 5.31.
#[test]
fn events_and_the_trail_agree() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let before = world.records().len();
    let (mut child, lines) = events(&world, &["--json"]);
    world.attach(&guest, TWO).ok();
    world.detach(&guest, 2, &["--timeout", "20s"]).ok();
    world.detach(&guest, 1, &["--force"]).ok();
    world.attach(&guest, "tap=no-such-tap,mac=52:54:00:00:00:03,vhost=off").fails(1, "no-such-tap");
    world.stop(&guest);
    let events: Vec<Value> = lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
    assert!(child.wait().unwrap().success());
    events.iter().for_each(|event| crate::world::contract::assert_valid("events", event));

    assert_eq!((&events[0]["kind"], &events[0]["state"]), (&json!("guest"), &json!("running")));
    let first = events[0]["sequence"].as_u64().unwrap();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence"], first + number as u64, "{event}");
        event["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }
    let last = events.last().unwrap();
    assert_eq!((&last["state"], &last["reason"]), (&json!("stopped"), &json!("destroyed")));

    let reported: Vec<_> = events.iter().filter(|event| event["outcome"].is_string()).map(fact).collect();
    let recorded: Vec<_> = world.records().iter().skip(before).map(recorded).collect();
    assert_eq!(reported, recorded);
    let asked = events.iter().find(|event| event["kind"] == "released").unwrap();
    assert_eq!(asked["requester"]["uid"], 0);

    let found: Vec<_> = events.iter().filter(|event| event["kind"] == "finding").collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["finding"], &found[0]["mac"]), (&json!("attach-failed"), &json!(mac(3))));
    let report = world.trail();
    assert_eq!(report["findings"].as_array().unwrap().len(), 1, "as the reader says");
    assert_eq!(report["findings"][0]["text"], found[0]["text"]);
    assert_eq!(report["findings"][0]["severity"], found[0]["severity"]);

    let states: Vec<_> = events
        .iter()
        .filter(|event| event["kind"] == "interface")
        .map(|event| {
            format!("{} {}", &event["mac"].as_str().unwrap()[15..], event["state"].as_str().unwrap())
        })
        .filter(|state| state != "02 unplugging")
        .collect();
    assert_eq!(states[..2], ["02 held", "02 gone"]);
    assert!(states[2..] == ["01 gone"] || states[2..] == ["01 revoked", "01 gone"], "{states:?}");
}

fn fact(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
    format!("{} {} {} {}", text("kind"), text("mac"), text("outcome"), event["forced"] == true)
}

fn recorded(record: &taptrail_record::Record) -> String {
    let kind = match record.event {
        Event::Open { .. } => "opened",
        Event::Start { .. } | Event::Attach { .. } => "granted",
        Event::Detach { .. } => "released",
        Event::Keep { .. } => "kept",
        Event::Close { .. } => "closed",
        Event::Filter { .. } => "filter",
        Event::Mac { .. } => "mac",
        Event::Update { phase, .. } => phase.as_str(),
        Event::GuestStart { .. } => "started",
        Event::GuestStop { .. } => "ended",
        Event::Seen(_) | Event::Gone(_) | Event::GuestGone { .. } => unreachable!("a supervisor's record"),
    };
    let mac = record.event.mac().map_or("-".to_owned(), |mac| mac.to_string());
    let outcome = if record.outcome == Outcome::Success { "success" } else { "failed" };
    let forced = matches!(record.event, Event::Detach { forced: true, .. });
    format!("{kind} {mac} {outcome} {forced}")
}

// Shows 5.32.
#[test]
fn a_client_that_stops_reading_events_ends_without_an_error() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    let (mut interrupted, _lines) = events(&world, &[]);
    let id = ProcessId::of(interrupted.id()).unwrap();
    PidFd::open(id).unwrap().send_signal(Signal::INT).unwrap();
    assert_eq!(interrupted.wait().unwrap().code(), Some(0));
    let (mut closed, lines) = events(&world, &[]);
    drop(lines);
    world.attach(&guest, ONE).ok();
    assert_eq!(closed.wait().unwrap().code(), Some(0));
    world.stop(&guest);
}

// Shows 5.32.
#[test]
fn a_disconnected_client_frees_its_connection_slot() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    for _ in 0..70 {
        // The supervisor may not have noticed yet that the previous client is gone.
        world.until("there is a place", || {
            let mut raw = RawConnection::connect(&world, "web1");
            raw.send(&json!({"method": "org.taptrail.Guest.Monitor", "more": true}));
            raw.answer()["continues"] == true
        });
    }
    world.until("they are gone", || world.taptrail(["nics", "web1"]).success());
    world.stop(&guest);
}

// Shows 5.31.
#[test]
fn without_more_there_is_one_answer() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    let mut raw = RawConnection::connect(&world, "web1");
    raw.send(&json!({"method": "org.taptrail.Guest.Monitor"}));
    let answer = raw.answer();
    assert_eq!(answer["parameters"]["event"]["state"], "running");
    assert_ne!(answer["continues"], true);
    raw.send(&json!({"method": "org.taptrail.Guest.Status"}));
    assert_eq!(raw.answer()["parameters"]["name"], "web1");
    drop(raw);
    world.stop(&guest);
}

// Shows 5.33.
#[test]
fn a_call_without_an_end_is_cut_off() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    let mut raw = RawConnection::connect(&world, "web1");
    let sent = (0..100 << 10).take_while(|_| raw.stream.write_all(&[b' '; 1024]).is_ok()).count();
    assert!(sent < 4096, "{sent} KiB were taken");
    world.taptrail(["nics", "web1"]).ok();
    world.stop(&guest);
}

// Shows 5.16.
#[test]
fn a_request_that_waits_when_the_guest_ends_is_answered_with_ended() {
    let world = World::new();
    // A machine whose ports wait for a guest system that does not exist.
    let guest = world.start_with("web1", &["--nic", ONE], &EMPTY[..8]);
    let mac = mac(1);
    let detach =
        world.command(["detach", "web1", &mac, "--timeout", "1h"]).stderr(Stdio::null()).spawn().unwrap();
    world.until("the detach waits", || world.nics(&guest)[0]["state"] == "unplugging");
    let mut raw = RawConnection::connect(&world, "web1");
    raw.send(&json!({"method": "org.taptrail.Guest.Attach", "parameters": {"nic": TWO}}));
    world.stop(&guest);
    assert_eq!(raw.answer()["error"], "org.taptrail.Guest.Ended");
    assert_eq!(detach.wait_with_output().unwrap().status.code(), Some(1));
    assert!(!world.records().iter().any(|record| matches!(record.event, Event::Attach { .. })));
    world.assert_clean();
}

/// A supervisor that is stopped by SIGSTOP: to its clients it looks like one that hangs.
struct HungSupervisor(PidFd);

impl HungSupervisor {
    fn supervisor(world: &World, guest: &str) -> Self {
        let id = world.supervisor(guest);
        let pidfd = PidFd::open(id).unwrap();
        pidfd.send_signal(Signal::STOP).unwrap();
        // The kernel stops one thread first, and then the others.
        world.until("all its threads are stopped", || {
            let mut threads = fs::read_dir(format!("/proc/{}/task", id.pid)).unwrap();
            threads.all(|thread| {
                let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
                status.contains("State:\tT")
            })
        });
        Self(pidfd)
    }

    fn resume(&self) {
        self.0.send_signal(Signal::CONT).unwrap();
    }
}

impl Drop for HungSupervisor {
    fn drop(&mut self) {
        // After a failed test the harness ends the guest by a request to the supervisor.
        let _ = self.0.send_signal(Signal::CONT);
    }
}

// Shows 5.37.
#[test]
fn a_request_to_a_supervisor_that_hangs_is_reported_as_not_done_and_is_not_done_later() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let other = world.start("web2", &[]);
    let hung = HungSupervisor::supervisor(&world, "web1");
    let pid = world.supervisor("web1").pid;
    // A client that sends a request without asking for the status first, and disconnects.
    let mut raw = RawConnection::connect(&world, "web1");
    raw.send(&json!({"method": "org.taptrail.Guest.Revoke", "parameters": {"mac": mac(1)}}));
    drop(raw);

    let address = mac(1);
    let asked: [&[&str]; 7] = [
        &["attach", "web1", "--nic", TWO],
        &["detach", "web1", &address],
        &["stop", "web1"],
        &["nics", "web1"],
        &["events", "web1"],
        &["adopt", "web1", "--background"],
        &["recover", "--json"],
    ];
    let children: Vec<_> = asked
        .iter()
        .map(|words| world.command(*words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let all = world.taptrail(["list", "--json"]).ok();
    let rows: Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!((&rows[0]["name"], &rows[0]["state"]), (&json!("web1"), &json!("unresponsive")));
    assert_eq!((&rows[0]["pid"], &rows[0]["supervisor"]), (&json!(guest.pid), &json!(pid)));
    assert_eq!((&rows[1]["name"], &rows[1]["state"]), (&json!("web2"), &json!("running")));
    assert!(all.stderr.contains(&format!("kill -KILL {pid}")), "{}", all.stderr);
    for (words, child) in asked.iter().zip(children) {
        let done = CommandResult::from(child.wait_with_output().unwrap());
        if words[0] == "recover" {
            let reported: Value = serde_json::from_str(&done.ok().stdout).unwrap();
            assert_eq!(reported[0]["state"], "unresponsive");
            continue;
        }
        assert_eq!(done.code(), 3, "{words:?}: {}", done.stderr);
        assert!(done.stderr.contains("does not answer"), "{words:?}: {}", done.stderr);
        assert!(done.stderr.contains(&format!("kill -KILL {pid}")), "{words:?}: {}", done.stderr);
    }

    let before = world.records().len();
    hung.resume();
    // The supervisor takes this request after all that waited before.
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:03,vhost=off").ok();
    assert_eq!(guest.holds(), ["tun vnet0", "tun vnet1"]);
    assert_eq!(world.records().len(), before + 2, "{:?}", world.record_lines());
    world.stop(&guest);
    world.stop(&other);
    world.assert_clean();
}

// Shows 5.37.
#[test]
fn a_guest_is_ended_without_its_supervisor_and_its_account_is_closed_by_the_supervisor_or_by_recovery() {
    for resume in [true, false] {
        let world = World::new();
        let guest = world.start("web1", &["--nic", ONE]);
        let hung = HungSupervisor::supervisor(&world, "web1");
        let done = world.taptrail(["stop", "web1", "--force"]).ok();
        assert!(done.stderr.contains("was ended without it"), "{}", done.stderr);
        assert!(!guest.is_alive());
        assert_eq!(world.open_accounts().0, 1);
        if resume {
            hung.resume();
            world.until("its account is closed", || world.open_accounts() == (0, 0));
            assert_eq!(world.record_lines().last().unwrap(), "guest crashed");
        } else {
            world.kill_supervisor("web1");
            world.taptrail(["recover"]).ok();
            assert_eq!(world.record_lines().last().unwrap(), "guest unknown");
        }
        world.until("its claim is gone", || !world.run_dir().join("web1/lock").exists());
        world.assert_clean();
    }
}

// Shows 11.16.
#[test]
fn a_revocation_from_a_supervisor_that_hangs_takes_the_link_and_the_next_supervisor_finishes_it() {
    for resume in [true, false] {
        let world = World::new();
        world.ip("tuntap add dev mine mode tap");
        let three = "tap=mine,mac=52:54:00:00:00:03,vhost=off";
        let guest = world.start("web1", &["--nic", ONE, "--nic", TWO, "--nic", three]);
        let hung = HungSupervisor::supervisor(&world, "web1");
        // taptrail does not delete a tap that it did not make.
        let done = world.detach(&guest, 3, &["--force"]);
        done.fails(3, "ip link set dev mine down");
        let done = world.detach(&guest, 1, &["--force"]);
        done.fails(3, "Link 'vnet0' was deleted without it");
        // The second time there is nothing more to take.
        world.detach(&guest, 1, &["--force"]).fails(3, "QEMU holds 52:54:00:00:00:01 still");
        assert_eq!(world.links(), ["mine", "vnet1"]);
        assert_eq!(guest.holds(), ["tun /dev/net/tun", "tun mine", "tun vnet1"]);
        assert_eq!(world.open_accounts(), (3, 1), "begun, and not finished");
        if resume {
            hung.resume();
            world.detach(&guest, 1, &["--force"]).ok();
        } else {
            world.kill_supervisor("web1");
            world.taptrail(["adopt", "web1", "--background"]).ok();
        }
        assert_eq!(guest.holds(), ["tun mine", "tun vnet1"]);
        let holding = &world.trail()["holdings"][0];
        assert_eq!((&holding["state"], &holding["ended_by"]), (&json!("released"), &json!("revoke")));
        // The link was deleted while QEMU held the device: nothing shows what became of the open
        // file.
        assert_eq!((&holding["certainty"], &holding["end_doubt"]), (&json!("inferred"), &json!("uncounted")));
        // A link that later gets its address is another one.
        world.attach(&guest, ONE).ok();
        world.kill_supervisor("web1");
        world.taptrail(["adopt", "web1", "--background"]).ok();
        assert_eq!(guest.holds(), ["tun mine", "tun vnet0", "tun vnet1"]);
        world.stop(&guest);
        assert_eq!(world.open_accounts(), (0, 0));
        assert_eq!(world.links(), ["mine"]);
    }
}

// Shows 11.16.
#[test]
fn a_guest_whose_run_directory_was_removed_is_cut_off_and_ended_all_the_same() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let pid = world.supervisor("web1").pid;
    fs::remove_dir_all(world.run_dir()).unwrap();
    let listed = world.taptrail(["list", "--json"]).ok();
    let rows: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!((&rows[0]["state"], &rows[0]["pid"]), (&json!("unresponsive"), &json!(guest.pid)));
    assert!(listed.stderr.contains(&format!("kill -TERM {pid}")), "{}", listed.stderr);
    world.taptrail(["stop", "web1"]).fails(1, "its run directory was removed");
    world.detach(&guest, 1, &["--force"]).fails(3, "Link 'vnet0' was deleted without it");
    let done = world.taptrail(["stop", "web1", "--force"]).ok();
    assert!(done.stderr.contains("was ended without it"), "{}", done.stderr);
    assert!(!guest.is_alive());
    world.until("its supervisor closes the account", || world.open_accounts() == (0, 0));
    world.assert_clean();
}

#[test]
fn a_guest_whose_supervisor_hangs_is_adopted_as_the_message_says() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let _hung = HungSupervisor::supervisor(&world, "web1");
    world.kill_supervisor("web1");
    world.taptrail(["nics", "web1"]).fails(1, "`taptrail adopt web1`");
    world.taptrail(["adopt", "web1", "--background"]).ok();
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(guest.holds(), Vec::<String>::new());
    world.kill_supervisor("web1");
    let done = world.taptrail(["stop", "web1", "--force"]).ok();
    assert!(done.stderr.contains("had no supervisor"), "{}", done.stderr);
    assert!(!guest.is_alive());
    world.taptrail(["recover"]).ok();
    world.assert_clean();
}

// Shows 5.38.
#[test]
fn a_guest_of_another_run_directory_is_listed_with_where_it_is() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let other = world.path("other");
    let elsewhere = |words: &[&str]| {
        let mut command = world.command(words);
        CommandResult::from(command.env("TAPTRAIL_RUN_DIR", &other).output().unwrap())
    };
    let here = format!("--run-dir={}", world.run_dir().display());
    let listed = elsewhere(&["list", "--json"]).ok();
    let rows: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!((&rows[0]["name"], &rows[0]["state"]), (&json!("web1"), &json!("elsewhere")));
    assert_eq!(rows[0]["run_dir"], world.run_dir().to_str().unwrap());
    assert_eq!(rows[0]["pid"], guest.pid);
    assert!(listed.stderr.contains(&here), "{}", listed.stderr);
    elsewhere(&["nics", "web1"]).fails(1, &here);
    elsewhere(&["stop", "web1", "--force"]).fails(1, &here);
    // Nor does that directory's taptrail adopt the guest, or start it a second time.
    let supervisor = format!("its supervisor has pid {}", world.supervisor("web1").pid);
    elsewhere(&["adopt", "web1", "--background"]).fails(1, &supervisor);
    let mut again = vec!["run", "--background", "--name", "web1", "--"];
    again.extend(EMPTY);
    elsewhere(&again).fails(1, &supervisor);
    assert!(guest.is_alive());
    // Under another name it is the same directory.
    let alias = world.path("alias");
    std::os::unix::fs::symlink(world.run_dir(), &alias).unwrap();
    let mut command = world.command(["list", "--json"]);
    let listed = CommandResult::from(command.env("TAPTRAIL_RUN_DIR", &alias).output().unwrap()).ok();
    assert_eq!(serde_json::from_str::<Value>(&listed.stdout).unwrap()[0]["state"], "running");
    world.stop(&guest);
    world.assert_clean();
}

#[test]
fn a_guest_of_another_state_directory_keeps_its_monitor() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.kill_supervisor("web1");
    let mut again = vec!["run", "--background", "--name", "web1", "--"];
    again.extend(EMPTY);
    let mut command = world.command(&again);
    let done = CommandResult::from(command.env("TAPTRAIL_STATE_DIR", world.path("other")).output().unwrap());
    done.fails(1, "this state directory has no record of it");
    world.taptrail(["adopt", "web1", "--background"]).ok();
    // Nor does taptrail start a second guest with its uuid.
    let listed = world.json(["list", "--json"]);
    let uuid = listed[0]["uuid"].as_str().unwrap();
    let done = world.try_start("web2", &["--uuid", uuid], &EMPTY);
    done.fails(1, &format!("Guest 'web1' has uuid {uuid}, too, and is already running"));
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.stop(&guest);
    world.assert_clean();
}
