//! Many rounds, many guests, many requests at once. `make test` runs a few of them, `make soak`
//! all.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::world::procfs::descriptors;
use crate::world::{EMPTY, Guest, World, mac};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// The amount from this environment variable, or the usual one of `make test`.
fn amount(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().map_or(usual, |number| number.parse().expect(variable))
}

fn spec(last: u8, queues: usize) -> String {
    format!("bridge=br0,mac={},queues={queues},vhost=off", mac(last))
}

/// A supervisor's open descriptors and its own memory in KiB. (It releases its text pages when
/// idle.)
fn resource_usage(world: &World, name: &str) -> (usize, u64) {
    let pid = world.supervisor(name).pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let resident = resident.trim().trim_end_matches(" kB").parse().unwrap();
    (std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), resident)
}

// Shows 11.13.
#[test]
fn rounds_of_attaching_and_detaching_leave_nothing_behind() {
    let rounds = amount("TAPTRAIL_SOAK_ROUNDS", 60);
    let world = World::new();
    let guest = world.start("web1", &[]);
    let mut taken = Vec::new();
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let begin = Instant::now();
        world.attach(&guest, &spec(1, 2)).ok();
        world.detach(&guest, 1, &["--timeout", "60s"]).ok();
        times.push(begin.elapsed());
        assert_eq!(descriptors(guest.pid), [], "round {round}");
        if (round + 1) % (rounds / 5) == 0 {
            taken.push(resource_usage(&world, "web1"));
        }
    }
    // The supervisor may not have noticed yet that the last client is gone.
    let descriptors = taken.iter().map(|(descriptors, _)| *descriptors).min().unwrap();
    world.until("all clients are gone", || resource_usage(&world, "web1").0 <= descriptors);
    let last = resource_usage(&world, "web1");
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort_unstable();
        times[times.len() / 2]
    };
    eprintln!(
        "{rounds} rounds: descriptors and KiB of its own after each fifth {taken:?}, then {last:?}; a round takes {:?}, of the \
         first fifth {:?}, of the last {:?}, at most {:?}",
        median(&times),
        median(&times[..rounds / 5]),
        median(&times[rounds - rounds / 5..]),
        times.iter().max()
    );
    assert_eq!(descriptors, last.0);
    // SQLite's cache may still grow (2 MiB, some 2,000 rounds), and a few pages come and go.
    let (before, more) = if rounds < 5000 { (taken[0].1, 3072) } else { (taken[1].1, 1024) };
    assert!(last.1 < before + more, "{before} KiB became {} KiB", last.1);
    world.stop(&guest);
    assert_eq!(world.records().len(), 2 + 6 * rounds);
    world.assert_clean();
}

// Shows 11.13.
#[test]
fn many_guests_side_by_side_have_accounts_of_their_own() {
    let guests = amount("TAPTRAIL_SOAK_GUESTS", 6);
    let world = World::new();
    let mut paused = EMPTY.to_vec();
    paused[4] = "8";
    paused.push("-S");
    let all: Vec<Guest> = (0..guests)
        .map(|number| {
            let spec =
                format!("bridge=br0,mac=52:54:00:00:{:02x}:{:02x},vhost=off", number / 256, number % 256);
            world.start_with(&format!("web{number}"), &["--nic", &spec, "--hotplug-ports", "1"], &paused)
        })
        .collect();
    let mut interfaces = BTreeSet::new();
    for guest in &all {
        let held = descriptors(guest.pid);
        assert_eq!(held.len(), 1, "{held:?}");
        interfaces.insert(held[0].iff.clone());
    }
    assert_eq!(interfaces.len(), guests, "each has a tap of its own");
    assert_eq!(world.open_accounts().0, u32::try_from(guests).unwrap());
    assert_eq!(world.json(["list", "--json"]).as_array().unwrap().len(), guests);
    let (_, resident) = resource_usage(&world, &all[guests / 2].name);
    eprintln!("{guests} guests; the supervisor of one takes {resident} KiB");
    for guest in &all {
        world.stop(guest);
    }
    world.assert_clean();
}

#[test]
fn names_that_come_and_go_from_several_shells_are_started_and_stopped_without_a_failure() {
    const NAMES: usize = 8;
    const SHELLS: usize = 4;
    const QEMU: [&str; 7] =
        ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S"];
    let starts = amount("TAPTRAIL_SOAK_STARTS", 60);
    let world = World::new();
    let left = AtomicUsize::new(starts);
    // For each guest name: how many turns have begun, and how many have ended.
    let turns: [(AtomicUsize, AtomicUsize); NAMES] = Default::default();
    let (done, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let turn = |number: usize| {
        let (begun, ended) = &turns[number];
        let name = format!("web{number}");
        let before = (ended.load(SeqCst), begun.fetch_add(1, SeqCst));
        let start = world.try_start(&name, &["--audit", "off"], &QEMU);
        if start.success() {
            assert!(world.run_dir().join(&name).join("monitor").exists(), "{name} has lost its monitor");
            world.taptrail(["stop", &name, "--force"]).ok();
            done.fetch_add(1, SeqCst);
        } else {
            let alone = before.0 == before.1 && begun.load(SeqCst) == before.1 + 1;
            assert!(!alone, "{name}, which nobody else had, did not start: {}", start.stderr);
            let taken = ["already running", "by another process: try again"];
            assert!(taken.iter().any(|why| start.stderr.contains(why)), "{}", start.stderr);
            refused.fetch_add(1, SeqCst);
        }
        ended.fetch_add(1, SeqCst);
    };
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for shell in 0..SHELLS {
            let (left, turn) = (&left, &turn);
            scope.spawn(move || {
                let mut number = shell;
                while left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                    // Each shell goes through the names with its own stride, so they meet.
                    number = (number + 2 * shell + 1) % NAMES;
                    turn(number);
                }
            });
        }
    });
    eprintln!(
        "{starts} starts by {SHELLS} shells in {:?}: {done:?} guests, {refused:?} names taken",
        begin.elapsed()
    );
    assert_eq!(taptrail_guest::guests(&world.run_dir()).unwrap(), [""; 0], "directories are left over");
    world.assert_clean();
}

/// A random request about a guest; the first number is the MAC's last byte.
#[derive(Debug, Clone, Copy)]
enum Request {
    Attach(u8, usize),
    Detach(u8),
    Revoke(u8),
    /// Two requests at once, about one MAC.
    Both(u8),
    /// The supervisor is killed, and another one adopts the guest.
    Crash,
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => (1_u8..4, 1_usize..4).prop_map(|(mac, queues)| Request::Attach(mac, queues)),
        3 => (1_u8..4).prop_map(Request::Detach),
        1 => (1_u8..4).prop_map(Request::Revoke),
        1 => (1_u8..4).prop_map(Request::Both),
        1 => Just(Request::Crash),
    ]
}

// Shows 11.12.
#[test]
fn after_random_requests_ledger_proc_and_requests_agree() {
    let requests = amount("TAPTRAIL_SOAK_REQUESTS", 80);
    let mut runner = TestRunner::new(Config {
        cases: 1,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&prop::collection::vec(any_request(), requests), |all| {
        let world = World::new();
        let guest = world.start("web1", &["--hotplug-ports", "12"]);
        // How many queues each MAC has.
        let mut model: [Option<usize>; 4] = [None; 4];
        for one in all {
            apply(&world, &guest, one, &mut model);
            let held: usize = model.iter().flatten().sum();
            prop_assert_eq!(descriptors(guest.pid).len(), held, "{:?} {:?}", one, model);
            prop_assert_eq!(world.open_accounts(), (u32::try_from(held).unwrap(), 0), "{:?}", one);
            let nics = world.nics(&guest);
            let reported: usize =
                nics.as_array().unwrap().iter().map(|nic| nic["devices"].as_array().unwrap().len()).sum();
            prop_assert_eq!(reported, held, "{:?}: {:#}", one, nics);
        }
        world.stop(&guest);
        world.assert_clean();
        Ok::<(), TestCaseError>(())
    });
    result.unwrap();
}

fn apply(world: &World, guest: &Guest, request: Request, model: &mut [Option<usize>; 4]) {
    match request {
        Request::Attach(last, queues) => {
            let done = world.attach(guest, &spec(last, queues));
            let held = &mut model[usize::from(last)];
            assert_eq!(done.success(), held.is_none(), "{}", done.stderr);
            held.get_or_insert(queues);
        }
        Request::Detach(last) => {
            let done = world.detach(guest, last, &["--timeout", "60s"]);
            let held = model[usize::from(last)].take();
            // A revoked NIC may still be plugged.
            assert!(done.success() || held.is_none(), "{}", done.stderr);
        }
        Request::Revoke(last) => {
            let done = world.detach(guest, last, &["--force"]);
            let held = model[usize::from(last)].take();
            assert!(done.success() || held.is_none(), "{}", done.stderr);
        }
        Request::Both(last) => {
            // Either may come first; the result is read from the supervisor.
            let address = mac(last);
            let attach = world.command(["attach", "web1", "--nic", &spec(last, 1)]).output();
            let quiet =
                |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut detach = quiet(world.command(["detach", "web1", &address, "--timeout", "60s"]));
            let mut again = quiet(world.command(["attach", "web1", "--nic", &spec(last, 1)]));
            drop((attach.unwrap(), detach.wait().unwrap(), again.wait().unwrap()));
            let nics = world.nics(guest);
            let nic =
                nics.as_array().unwrap().iter().find(|nic| nic["mac"] == address && nic["state"] == "held");
            model[usize::from(last)] = nic.map(|nic| nic["devices"].as_array().unwrap().len());
        }
        Request::Crash => {
            world.kill_supervisor("web1");
            world.taptrail(["adopt", "--background", "web1"]).ok();
        }
    }
}
