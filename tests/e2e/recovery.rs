//! Supervisors that end before their guests, at every step, and the recovery of their guests.

use crate::world::OwnedChild;
use crate::world::hostile::Hostile;
use crate::world::procfs::descriptors;
use crate::world::{EMPTY, Guest, World};
use serde_json::{Value, json};
use taptrail_kernel::proc::{ProcessId, boot_id};
use taptrail_ledger::{Ledger, NewWatched, Process};
use taptrail_record::{Event, GuestId, Outcome};

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";

/// A tap and a macvtap of two queues each, both with a filter.
const BOTH: [&str; 2] = [
    "bridge=br0,mac=52:54:00:00:00:01,queues=2,vhost=off,filter=no-mac-spoofing",
    "macvtap=lower,mac=52:54:00:00:00:02,queues=2,vhost=off,filter=no-mac-spoofing",
];

/// A world whose supervisors end at this failpoint as by SIGKILL.
fn crashing_at(point: &str) -> World {
    let mut world = World::new();
    world.extra.push(("FAILPOINTS".to_owned(), format!("{point}=return")));
    world
}

/// Asserts that every successful open has its one close, or that QEMU holds it; and that `nics`
/// agrees with /proc.
fn assert_accounts_match(world: &World, guest: Option<&Guest>) {
    let (mut opened, mut closed) = (0, 0);
    for record in world.records() {
        match record.event {
            Event::Open { .. } if record.outcome == Outcome::Success => opened += 1,
            Event::Close { .. } => closed += 1,
            _ => {}
        }
    }
    let held = guest.map(|guest| descriptors(guest.pid)).unwrap_or_default();
    assert_eq!(opened, closed + held.len(), "{:?}", world.record_lines());
    if let Some(guest) = guest {
        let nics = world.nics(guest);
        let devices = nics.as_array().unwrap().iter().flat_map(|nic| nic["devices"].as_array().unwrap());
        let mut reported: Vec<i64> = devices.map(|device| device["qemu_fd"].as_i64().unwrap()).collect();
        reported.sort_unstable();
        let seen: Vec<i64> = held.iter().map(|held| i64::from(held.fd)).collect();
        assert_eq!(reported, seen, "{nics:#}");
        assert_eq!(
            world.open_accounts(),
            (u32::try_from(held.len()).unwrap(), 0),
            "{:?}",
            world.record_lines()
        );
    }
}

/// Runs `recover` twice: the second run has nothing to do.
fn recover(world: &World) -> Value {
    let reported = world.json(["recover", "--json"]);
    let records = world.records().len();
    let again = world.json(["recover", "--json"]);
    let still = |row: &Value| row["state"] == "orphaned" || row["state"] == "supervised";
    assert!(again.as_array().unwrap().iter().all(still), "{again:#}");
    assert_eq!(world.records().len(), records);
    reported
}

/// Gives the guest another supervisor.
fn adopt(world: &mut World, name: &str) -> Guest {
    world.extra.clear();
    world.supervisor_is_gone(name);
    world.taptrail(["adopt", "--background", name]).ok();
    world.last_guest().unwrap()
}

// Shows 4.7, 11.1.
#[test]
fn a_start_that_is_cut_off_anywhere_is_taken_back() {
    for point in [
        "start::intended",
        "open::intended",
        "open::opened",
        "open::on-record",
        "open::filtered",
        "start::spawned",
        "start::on-record",
        "start::greeted",
        "start::proved",
    ] {
        let mut world = crashing_at(point);
        let done = world.try_start("web1", &["--nic", BOTH[0], "--nic", BOTH[1]], &EMPTY);
        assert!(!done.success(), "{point}");
        world.extra.clear();
        world.supervisor_is_gone("web1");
        let qemu = world.last_guest();
        let reported = recover(&world);
        assert_eq!(reported[0]["state"], "start-taken-back", "{point}: {reported:#}");
        assert!(qemu.is_none_or(|qemu| !qemu.is_alive()), "{point}");
        assert_eq!(world.record_lines().last().unwrap(), "guest booted FAILED", "{point}");
        assert_accounts_match(&world, None);
        world.assert_clean();
        // The name and everything else is free.
        let guest = world.start("web1", &["--nic", BOTH[0], "--nic", BOTH[1]]);
        assert_accounts_match(&world, Some(&guest));
        world.stop(&guest);
        world.assert_clean();
    }
}

// Shows 11.1.
#[test]
fn a_macvtap_made_and_not_opened_yet_is_removed() {
    let mut world = crashing_at("open::macvtap-made");
    assert!(!world.try_start("web1", &["--nic", BOTH[1]], &EMPTY).success());
    assert_eq!(world.links(), ["macvtap0"], "a macvtap outlives the process that made it");
    world.extra.clear();
    world.supervisor_is_gone("web1");
    // A new start of the guest recovers it, too.
    let guest = world.start("web1", &["--nic", BOTH[1]]);
    assert_eq!(world.links(), ["macvtap0"]);
    world.stop(&guest);
    assert_accounts_match(&world, None);
    world.assert_clean();
}

// Shows 11.2.
#[test]
fn a_guest_that_was_granted_its_devices_is_let_run_by_the_next_supervisor() {
    let mut world = crashing_at("start::granted");
    assert!(!world.try_start("web1", &["--nic", ONE], &EMPTY).success());
    world.supervisor_is_gone("web1");
    let reported = recover(&world);
    assert_eq!(reported[0]["state"], "orphaned", "{reported:#}");
    let guest = adopt(&mut world, "web1");
    assert_eq!(world.json(["list", "--json"])[0]["state"], "running");
    assert_accounts_match(&world, Some(&guest));
    world.stop(&guest);
    assert_eq!(
        world.record_lines(),
        ["open 01 tun vnet0 q0", "start 01", "guest booted", "close 01 tun vnet0 q0", "guest destroyed"]
    );
    world.assert_clean();
}

// Shows 4.7, 11.3.
#[test]
fn an_attach_that_is_cut_off_anywhere_is_taken_back() {
    for point in [
        "open::intended",
        "open::macvtap-made",
        "open::opened",
        "open::on-record",
        "open::filtered",
        "attach::given",
        "attach::netdev",
        "attach::nic-added",
    ] {
        for (number, nic) in BOTH.iter().enumerate() {
            if number == 0 && point == "open::macvtap-made" {
                continue;
            }
            let mut world = crashing_at(point);
            let guest = world.start("web1", &[]);
            world.attach(&guest, nic).fails(1, "");
            let guest = adopt(&mut world, "web1");
            world.until("the NIC is gone", || world.nics(&guest) == json!([]));
            assert_accounts_match(&world, Some(&guest));
            assert_eq!(world.links(), Vec::<String>::new(), "{point}");
            assert_eq!(world.tables(), "", "{point}");
            let failed = world.record_lines().iter().filter(|line| line.starts_with("attach")).count();
            assert_eq!(failed, 1, "{point}: {:?}", world.record_lines());
            // The same attach succeeds now.
            world.attach(&guest, nic).ok();
            assert_accounts_match(&world, Some(&guest));
            world.stop(&guest);
            assert_accounts_match(&world, None);
            world.assert_clean();
        }
    }
}

#[test]
fn a_device_of_the_users_own_is_not_taken_back_with_an_attach_of_its_name() {
    let mut world = crashing_at("attach::given");
    let socket = world.path("qmp");
    let option = crate::world::qmp::option(&socket);
    let own = ["-device", "pcie-root-port,id=dup,chassis=9", "-qmp", &option];
    let qemu: Vec<_> = EMPTY.iter().copied().chain(own).collect();
    let guest = world.start_with("web1", &[], &qemu);
    world.attach(&guest, &format!("{ONE},id=dup")).fails(1, "");
    let guest = adopt(&mut world, "web1");
    assert_accounts_match(&world, Some(&guest));
    assert_eq!(world.nics(&guest), json!([]));
    let devices =
        crate::world::qmp::Qmp::connect(socket).execute("qom-list", json!({"path": "/machine/peripheral"}));
    assert!(devices.as_array().unwrap().iter().any(|device| device["name"] == "dup"), "{devices:#}");
    world.stop(&guest);
    world.assert_clean();
}

// Shows 11.3.
#[test]
fn an_attach_that_was_granted_stays() {
    let mut world = crashing_at("attach::granted");
    let guest = world.start("web1", &[]);
    world.attach(&guest, BOTH[1]).fails(1, "");
    let guest = adopt(&mut world, "web1");
    assert_eq!(world.nics(&guest)[0]["state"], "held");
    assert_accounts_match(&world, Some(&guest));
    world.detach(&guest, 2, &["--timeout", "20s"]).ok();
    assert_accounts_match(&world, Some(&guest));
    assert_eq!((world.links(), world.tables()), (Vec::new(), String::new()));
    world.stop(&guest);
    world.assert_clean();
}

// Shows 11.4.
#[test]
fn a_detach_that_is_cut_off_anywhere_is_finished_or_leaves_the_interface() {
    for point in
        ["detach::intended", "detach::asked", "release::intended", "release::let-go", "release::undone"]
    {
        for (number, nic) in BOTH.iter().enumerate() {
            let mut world = crashing_at(point);
            let guest = world.start("web1", &[]);
            world.attach(&guest, nic).ok();
            world.detach(&guest, u8::try_from(number).unwrap() + 1, &[]).fails(1, "");
            let guest = adopt(&mut world, "web1");
            assert_accounts_match(&world, Some(&guest));
            let nics = world.nics(&guest);
            // Whether the guest was asked to release the NIC: an empty guest does so at once.
            let stays = point == "detach::intended";
            assert_eq!(nics.as_array().unwrap().len(), usize::from(stays), "{point}: {nics:#}");
            if stays {
                assert_eq!(nics[0]["state"], "held");
            } else {
                assert_eq!((world.links(), world.tables()), (Vec::new(), String::new()), "{point}");
                assert_eq!(world.trail()["holdings"][0]["ended_by"], "detach", "{point}");
            }
            world.stop(&guest);
            assert_accounts_match(&world, None);
            world.assert_clean();
        }
    }
}

// Shows 11.4.
#[test]
fn a_revocation_that_is_cut_off_is_finished() {
    for point in ["release::intended", "release::let-go", "release::undone"] {
        let mut world = crashing_at(point);
        // Without native hot-plug an empty guest never releases a NIC.
        let guest = world.start_with("web1", &["--nic", BOTH[0]], &EMPTY[..8]);
        world.detach(&guest, 1, &["--force"]).fails(1, "");
        let guest = adopt(&mut world, "web1");
        assert_accounts_match(&world, Some(&guest));
        assert_eq!(world.nics(&guest)[0]["state"], "revoked", "{point}");
        assert_eq!(world.trail()["holdings"][0]["ended_by"], "revoke", "{point}");
        assert_eq!((world.links(), world.tables()), (Vec::new(), String::new()), "{point}");
        // Its MAC may be attached again.
        world.attach(&guest, BOTH[0]).ok();
        assert_accounts_match(&world, Some(&guest));
        world.stop(&guest);
        world.assert_clean();
    }
}

// Shows 11.5.
#[test]
fn a_stop_that_is_cut_off_leaves_a_guest_or_its_end() {
    for point in ["stop::intended", "stop::ended", "stop::undone"] {
        let mut world = crashing_at(point);
        let guest = world.start("web1", &["--nic", BOTH[0], "--nic", BOTH[1]]);
        let force = if point == "stop::intended" { "--timeout=1s" } else { "--force" };
        world.taptrail(["stop", "web1", force]).fails(1, "");
        world.extra.clear();
        world.supervisor_is_gone("web1");
        if point == "stop::intended" {
            let guest = adopt(&mut world, "web1");
            assert_accounts_match(&world, Some(&guest));
            world.stop(&guest);
        } else {
            assert!(!guest.is_alive());
            assert_eq!(recover(&world)[0]["state"], "closed");
            assert_eq!(world.record_lines().last().unwrap(), "guest unknown");
        }
        assert_accounts_match(&world, None);
        world.assert_clean();
    }
}

// Shows 9.2, 11.6.
#[test]
fn a_guest_that_ended_unseen_is_closed_with_the_time_in_which_it_did() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", BOTH[1]]);
    world.kill_supervisor("web1");
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    assert_eq!(world.links(), ["macvtap0"]);
    assert_eq!(world.json(["list", "--json"])[0]["state"], "unsettled");
    let reported = recover(&world);
    assert_eq!(world.json(["list", "--json"]), json!([]));
    assert_eq!((&reported[0]["state"], &reported[0]["devices"]), (&json!("closed"), &json!(2)));
    let holding = &world.trail()["holdings"][0];
    assert_eq!((&holding["state"], &holding["certainty"]), (&json!("released"), &json!("definitive")));
    let time = |key: &str| holding[key].as_str().unwrap().to_owned();
    assert!(time("granted") <= time("last_seen") && time("last_seen") <= time("released"), "{holding:#}");
    let explained = world.taptrail(["explain", "web1"]).ok().stdout;
    assert!(explained.contains(" until some time between "), "{explained}");
    assert_accounts_match(&world, None);
    world.assert_clean();
    world.taptrail(["recover"]).ok();
}

// Shows 11.6.
#[test]
fn a_device_that_was_closed_without_a_supervisor_is_recorded_at_the_adoption() {
    let mut world = World::new();
    let socket = world.path("qmp");
    let option = crate::world::qmp::option(&socket);
    let qemu: Vec<_> = EMPTY.iter().copied().chain(["-qmp", &option]).collect();
    let guest = world.start_with("web1", &["--nic", BOTH[0], "--nic", BOTH[1]], &qemu);
    world.kill_supervisor("web1");
    crate::world::qmp::Qmp::connect(socket).execute("netdev_del", json!({"id": "host-nic1"}));
    assert_eq!(descriptors(guest.pid).len(), 2);
    let guest = adopt(&mut world, "web1");
    assert_accounts_match(&world, Some(&guest));
    let nics = world.nics(&guest);
    let states: Vec<_> = nics.as_array().unwrap().iter().map(|nic| nic["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["held", "revoked"]);
    assert_eq!(world.links(), ["vnet0"]);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 11.7.
#[test]
fn a_reboot_of_the_host_closes_all_accounts() {
    let world = World::new();
    let first = world.start("web1", &["--nic", ONE]);
    let second = world.start("web2", &["--nic", "bridge=br0,mac=52:54:00:00:00:02,vhost=off"]);
    for guest in [&first, &second] {
        world.kill_supervisor(&guest.name);
        guest.kill();
        world.until("QEMU is gone", || !guest.is_alive());
    }
    // As after a reboot: another boot id, and pids that may belong to other processes.
    let connection = rusqlite::Connection::open(Ledger::file(&world.state())).unwrap();
    let own = std::process::id();
    connection.execute("UPDATE guest SET boot_id = 'another', pid = ?1, supervisor_pid = ?1", [own]).unwrap();
    drop(connection);
    let reported = recover(&world);
    let states: Vec<_> =
        reported.as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["closed", "closed"]);
    assert_accounts_match(&world, None);
    assert_eq!(world.open_accounts(), (0, 0));
}

// Shows 9.2, 11.8.
#[test]
fn an_adopted_guest_is_supervised_to_its_end() {
    let mut world = World::new();
    let guest = world.start("web1", &["--nic", ONE, "--nic", BOTH[1]]);
    let before = world.nics(&guest);
    world.kill_supervisor("web1");
    world.taptrail(["nics", "web1"]).fails(1, "runs on without a supervisor");
    let listed = world.json(["list", "--json"]);
    assert_eq!((&listed[0]["state"], &listed[0]["pid"]), (&json!("orphaned"), &json!(guest.pid)));
    assert_eq!(listed[0]["nics"], 2);
    let guest = adopt(&mut world, "web1");
    let after = world.nics(&guest);
    for (before, after) in before.as_array().unwrap().iter().zip(after.as_array().unwrap()) {
        for key in ["mac", "backend", "devices", "ifname", "model", "queues", "state"] {
            assert_eq!(before[key], after[key], "{key}");
        }
    }
    // The new supervisor knows which ports are in use.
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:03,vhost=off").ok();
    world.detach(&guest, 3, &["--timeout", "20s"]).ok();
    assert_accounts_match(&world, Some(&guest));
    // A third supervisor does, too.
    world.kill_supervisor("web1");
    let guest = adopt(&mut world, "web1");
    assert_accounts_match(&world, Some(&guest));
    guest.kill();
    world.until("its end is on record", || world.record_lines().last().unwrap() == "guest crashed");
    assert_accounts_match(&world, None);
    world.assert_clean();
}

// Shows 11.9.
#[test]
fn a_guest_that_does_not_exist_is_not_adopted() {
    let world = World::new();
    world.taptrail(["adopt", "web1"]).fails(1, "No guest 'web1' is on record as running");
    let guest = world.start("web1", &["--nic", ONE]);
    world.taptrail(["adopt", "web1"]).fails(1, "already running");
    let supervised = world.json(["recover", "--json"]);
    assert_eq!(supervised[0]["state"], "supervised");
    world.stop(&guest);
    assert_eq!(world.taptrail(["recover"]).ok().stdout, "Nothing was left behind\n");
}

// Shows 9.9.
#[test]
fn a_guest_of_another_manager_is_shown_and_left_alone() {
    let world = World::new();
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let qemu = ProcessId::of(child.id()).unwrap();
    let (qemu, boot) = (Process { pid: qemu.pid, start: qemu.start_time }, boot_id().unwrap().to_string());
    let mut ledger = Ledger::open(&world.state()).unwrap();
    let tx = ledger.begin().unwrap();
    for (number, qemu) in [(1, qemu), (2, Process { start: qemu.start + 1, ..qemu })] {
        let id = &GuestId { name: format!("web{number}").into(), uuid: uuid::Uuid::from_u128(number) };
        let watcher = Process { pid: u32::MAX, start: 1 };
        let watched = NewWatched { id, boot_id: &boot, watcher, begun: jiff::Timestamp::now() };
        let key = tx.watched_begins(&watched).unwrap();
        tx.guest_runs(key, qemu).unwrap();
    }
    tx.commit().unwrap();
    let listed = world.json(["list", "--json"]);
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&json!("web1"), &json!("watched")), "{listed:#}");
    assert_eq!(listed.as_array().unwrap().len(), 1, "one whose QEMU is gone awaits its watcher");
    assert_eq!(recover(&world), json!([]));
    world.taptrail(["adopt", "--background", "web1"]).fails(1, "web1");
    let guest = world.start("web1", &["--nic", ONE]);
    world.stop(&guest);
    assert_eq!(ledger.live_guests().unwrap().len(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A process whose arguments look like a guest's QEMU.
struct FakeQemu(OwnedChild);

impl FakeQemu {
    fn start(name: &str) -> Self {
        let words = ["-name", &format!("guest={name}"), "-uuid", "00000000-0000-4000-8000-000000000001"];
        let monitor = ["-chardev", "socket,id=taptrail-monitor,fd=3"];
        // A shell shows all of its arguments while it waits.
        let mut shell = std::process::Command::new("/bin/sh");
        let shell = shell.args(["-c", "read line; exit 0", "sh"]).args(words).args(monitor);
        Self(shell.stdin(std::process::Stdio::piped()).spawn().unwrap().into())
    }
}

/// Removes a ledger's files.
fn remove_ledger(world: &World) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = Ledger::file(&world.state()).into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
}

// Shows 11.15.
#[test]
fn a_guest_on_no_record_is_listed_by_what_it_holds_and_ended_by_its_name() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", BOTH[0], "--nic", BOTH[1]]);
    let bare = world.start("bare", &[]);
    for name in ["web1", "bare"] {
        world.kill_supervisor(name);
    }
    remove_ledger(&world);
    let listed = world.taptrail(["list", "--json"]).ok();
    let rows: Value = serde_json::from_str(&listed.stdout).unwrap();
    for (row, (guest, nics)) in rows.as_array().unwrap().iter().zip([(&bare, 0), (&guest, 2)]) {
        assert_eq!((&row["name"], &row["state"]), (&json!(guest.name), &json!("unrecorded")));
        assert_eq!((&row["pid"], &row["nics"]), (&json!(guest.pid), &json!(nics)));
    }
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert!(listed.stderr.contains("`taptrail stop web1 --force` ends it"), "{}", listed.stderr);
    world.taptrail(["nics", "web1"]).fails(1, "is not on record here");

    // A process that only claims a name is listed without a supervisor, and does not reserve the
    // name.
    let mut fake = FakeQemu::start("web2");
    let rows = world.json(["list", "--json"]);
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "web2").unwrap();
    assert_eq!((&row["pid"], &row["nics"]), (&json!(fake.0.id()), &json!(0)));
    assert_eq!(row.get("supervisor"), None);
    let named = world.start("web2", &[]);
    let rows = world.json(["list", "--json"]);
    let states: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["name"] == "web2")
        .map(|row| &row["state"])
        .collect();
    assert!(states.contains(&&json!("running")) && states.len() == 2, "{rows:#}");
    world.stop(&named);
    world.taptrail(["stop", "web2", "--force"]).ok();
    assert!(!fake.0.wait().unwrap().success());

    // No other guest gets its MAC meanwhile.
    world.try_start("web2", &["--nic", ONE], &EMPTY).fails(1, "52:54:00:00:00:01 runs already");
    let other = world.start("web2", &[]);
    world.attach(&other, ONE).fails(1, "52:54:00:00:00:01 runs already");
    world.attach(&other, "bridge=br0,mac=52:54:00:00:00:03,vhost=off").ok();
    let done = world.taptrail(["recover"]);
    assert_eq!((done.code(), done.stdout.matches("runs as process").count()), (1, 2), "{}", done.stdout);

    world.taptrail(["stop", "web1", "--force"]).ok();
    world.taptrail(["stop", "bare", "--force"]).ok();
    assert!(!guest.is_alive() && !bare.is_alive());
    world.taptrail(["recover"]).ok();
    assert_eq!(world.links(), ["vnet1"]);
    world.attach(&other, ONE).ok();
    world.stop(&other);
    assert_eq!(world.json(["list", "--json"]), json!([]));
    world.assert_clean();
}

// Shows 11.15.
#[test]
fn a_guest_of_removed_directories_is_listed_with_its_supervisor_and_not_started_twice() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let supervisor = world.supervisor("web1");
    std::fs::remove_dir_all(world.run_dir()).unwrap();
    std::fs::remove_dir_all(world.state()).unwrap();
    let row = &world.json(["list", "--json"])[0];
    assert_eq!((&row["name"], &row["state"]), (&json!("web1"), &json!("unrecorded")));
    assert_eq!((&row["pid"], &row["supervisor"]), (&json!(guest.pid), &json!(supervisor.pid)));
    world.try_start("web1", &[], &EMPTY).fails(1, "Guest 'web1' runs already");
    world.taptrail(["stop", "web1", "--force"]).ok();
    assert!(!guest.is_alive());
    world.until("its supervisor ends", || !supervisor.is_alive());
    // The supervisor made a ledger for the guest's end.
    world.assert_clean();
    assert_eq!(world.record_lines().last().unwrap(), "guest crashed");
}

/// Runs taptrail in another network namespace, which ends with it.
fn in_other_netns(world: &World, words: &[&str]) -> crate::world::CommandResult {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            world.taptrail(words)
        });
        there.join().unwrap()
    })
}

// Shows 11.17.
#[test]
fn a_guest_of_another_network_namespace_is_recovered_only_from_there() {
    let mut world = World::new();
    let guest = world.start("web1", &["--nic", BOTH[0], "--nic", BOTH[1]]);
    world.kill_supervisor("web1");
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    let records = world.records().len();
    for _ in 0..2 {
        let done = in_other_netns(&world, &["recover"]);
        assert_eq!(done.code(), 1, "{}", done.stdout);
        assert!(done.stdout.contains("are in another network namespace"), "{}", done.stdout);
    }
    let done = in_other_netns(&world, &["recover", "--json"]);
    let reported: Value = serde_json::from_str(&done.stdout).unwrap();
    let here = taptrail_kernel::proc::network_namespace().unwrap();
    assert_eq!((&reported[0]["state"], &reported[0]["netns"]), (&json!("elsewhere"), &json!(here)));
    let mut again = vec!["run", "--background", "--name", "web1", "--"];
    again.extend(EMPTY);
    in_other_netns(&world, &again).fails(1, "is in another network namespace");
    assert_eq!((world.records().len(), world.open_accounts().0), (records, 4));
    assert_eq!(recover(&world)[0]["state"], "closed");
    assert_accounts_match(&world, None);
    world.assert_clean();

    // An interrupted start, too: taptrail touches neither its QEMU nor its links from elsewhere.
    world.extra.push(("FAILPOINTS".to_owned(), "start::spawned=return".to_owned()));
    assert!(!world.try_start("web1", &["--nic", ONE], &EMPTY).success());
    world.extra.clear();
    world.supervisor_is_gone("web1");
    assert_eq!(in_other_netns(&world, &["recover"]).code(), 1);
    assert_eq!(world.links(), ["vnet0"]);
    assert_eq!(recover(&world)[0]["state"], "start-taken-back");
    world.assert_clean();
}

#[test]
fn a_network_namespace_that_is_gone_keeps_no_account_open() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.kill_supervisor("web1");
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    // This thread was the last one in the guest's namespace.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let reported = world.json(["recover", "--json"]);
    assert_eq!(reported[0]["state"], "closed", "{reported:#}");
    assert_eq!(world.trail()["holdings"][0]["end_doubt"], "unseen");
    assert_eq!(world.open_accounts(), (0, 0));
}

// Shows 11.17.
#[test]
fn a_guest_of_another_state_directory_is_left_to_it() {
    let world = World::new();
    let hostile = Hostile::start(&world, "web1");
    world.attach(&hostile.guest, "macvtap=lower,mac=52:54:00:00:00:01,id=n1,vhost=off").ok();
    world.attach(&hostile.guest, "bridge=br0,mac=52:54:00:00:00:02,id=n2,vhost=off").ok();
    let other = |words: &[&str]| {
        let mut command = world.command(words);
        crate::world::CommandResult::from(
            command.env("TAPTRAIL_STATE_DIR", world.path("other")).output().unwrap(),
        )
    };
    let links = ["macvtap0", "vnet0"];
    let done = other(&["recover"]);
    let reached = format!("--state-dir={} reaches it", world.state().display());
    assert_eq!(done.stdout.matches(&reached).count(), 2, "{}", done.stdout);
    assert_eq!(done.code(), 0, "nothing is wrong with it");
    assert_eq!(world.links(), links);
    // No supervisor, and a macvtap whose descriptor is hidden: QEMU still runs.
    world.kill_supervisor("web1");
    hostile.set_mode("flight deleted");
    let mut monitor = crate::world::qmp::Qmp::connect(world.run_dir().join("web1/monitor"));
    monitor.execute("netdev_del", json!({"id": "host-n1"}));
    assert_eq!(hostile.guest.holds(), ["tun vnet0"]);
    let done = other(&["recover"]);
    let runs = format!("runs as process {}", hostile.guest.pid);
    assert_eq!(done.stdout.matches(&runs).count(), 2, "{}", done.stdout);
    assert_eq!((done.code(), world.links()), (1, links.map(str::to_owned).to_vec()));
    // Once QEMU has ended, the links belong to no guest.
    hostile.guest.kill();
    world.until("QEMU is gone", || !hostile.guest.is_alive());
    assert!(other(&["recover"]).success());
    assert_eq!(world.links(), Vec::<String>::new());
}
