//! Faults and interference from the host, other programs and users, and what a supervisor
//! guarantees nevertheless.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::time::Duration;

use crate::world::{EMPTY, World, mac};
use serde_json::{Value, json};
use taptrail_kernel::link::Links;
use taptrail_kernel::proc::{PidFd, Signal};
use taptrail_ledger::Ledger;

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";

/// Locks the ledger for a while, as another program might.
fn hold_ledger(world: &World, time: Duration) -> std::thread::JoinHandle<()> {
    let connection = rusqlite::Connection::open(Ledger::file(&world.state())).unwrap();
    connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(time);
        connection.execute_batch("ROLLBACK").unwrap();
    })
}

// Shows 5.22.
#[test]
fn a_log_that_cannot_be_written_ends_no_supervisor() {
    let world = World::new();
    let mut arguments = vec!["run", "--name", "web1", "--nic", ONE, "--"];
    arguments.extend(EMPTY);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut supervisor = world.command(arguments).stdin(Stdio::null()).stderr(full).spawn().unwrap();
    world.until("the guest runs", || {
        world.try_json(["list", "--json"]).is_some_and(|all| all[0]["state"] == "running")
    });
    world.taptrail(["attach", "web1", "--nic", "bridge=br0,mac=52:54:00:00:00:02"]).ok();
    world.taptrail(["stop", "web1", "--force"]).ok();
    assert!(supervisor.wait().unwrap().success());
    world.assert_clean();
}

// Shows 4.8.
#[test]
fn records_that_a_locked_ledger_cannot_take_are_written_later_and_once() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02,vhost=off").ok();
    let held = hold_ledger(&world, Duration::from_secs(13));
    // Without the ledger no device is granted, but devices can be revoked.
    world
        .attach(&guest, "bridge=br0,mac=52:54:00:00:00:03,vhost=off")
        .fails(1, "Record is not in the ledger");
    world.detach(&guest, 2, &["--force"]).ok();
    assert_eq!(guest.holds(), ["tun vnet0"]);
    held.join().unwrap();
    world.stop(&guest);
    let record_lines = world.record_lines();
    assert_eq!(
        record_lines.iter().filter(|line| *line == "close 02 tun vnet1 q0").count(),
        1,
        "{record_lines:?}"
    );
    assert_eq!(record_lines.iter().filter(|line| *line == "revoke 02").count(), 1, "{record_lines:?}");
    assert_eq!(world.trail()["holdings"][1]["ended_by"], "revoke");
    world.assert_clean();
}

// Shows 7.6.
#[test]
fn a_renamed_tap_is_not_a_released_one() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.ip("link set vnet0 down");
    world.ip("link set vnet0 name other0");
    guest.signal(Signal::STOP);
    world.detach(&guest, 1, &["--force"]).fails(1, "QEMU still holds 1 of the devices");
    // The link is found by its mark, whatever its name, and deleted although QEMU does not answer.
    assert_eq!(guest.holds(), ["tun /dev/net/tun"]);
    assert_eq!(world.links(), Vec::<String>::new());
    assert_eq!(world.trail()["holdings"][0]["state"], "held");
    guest.signal(Signal::CONT);
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(guest.holds(), Vec::<String>::new());
    world.stop(&guest);
    assert_eq!(world.record_lines().iter().filter(|line| line.starts_with("close")).count(), 1);
    world.assert_clean();
}

// Shows 5.19.
#[test]
fn a_wrapper_that_keeps_qemu_as_its_child_is_refused() {
    let world = World::new();
    let wrapper = world.path("qemu");
    fs::write(&wrapper, "#!/bin/sh\n/usr/bin/qemu-system-x86_64 \"$@\"\nexit $?\n").unwrap();
    fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
    let mut qemu = EMPTY.to_vec();
    let wrapper = wrapper.display().to_string();
    qemu[0] = &wrapper;
    world.try_start("web1", &["--nic", ONE], &qemu).fails(1, "have it exec QEMU");
    assert_eq!(world.record_lines().last().unwrap(), "guest booted FAILED");
    // Its close records are true: the child went with the wrapper, and the tap with both.
    world.assert_clean();
}

// Shows 8.7.
#[test]
fn signals_of_two_kinds_are_two_signals() {
    let world = World::new();
    let mut guest = world.foreground("web1", &["--nic", ONE, "--stop-timeout", "1h"], &EMPTY);
    guest.signal(Signal::INT);
    world.until("the guest is asked", || guest.stderr().contains("asked to shut down"));
    guest.signal(Signal::TERM);
    assert_eq!(guest.wait().code(), Some(0));
    world.assert_clean();
}

// Shows 8.7.
#[test]
fn a_stop_that_times_out_does_not_force_the_stop_of_another_client() {
    let world = World::new();
    let mut guest = world.foreground("web1", &["--nic", ONE, "--stop-timeout", "1h"], &EMPTY);
    guest.signal(Signal::TERM);
    world.until("the guest is asked", || guest.stderr().contains("asked to shut down"));
    world.taptrail(["stop", "web1", "--timeout", "200ms"]).fails(3, "runs on");
    assert_eq!(world.json(["list", "--json"])[0]["state"], "stopping");
    world.taptrail(["stop", "web1", "--force"]).ok();
    assert_eq!(guest.wait().code(), Some(0));
    world.assert_clean();
}

// Shows 7.7.
#[test]
fn a_revocation_waits_for_no_detach() {
    let world = World::new();
    let two = ["--nic", ONE, "--nic", "bridge=br0,mac=52:54:00:00:00:02,vhost=off"];
    let guest = world.start_with("web1", &two, &EMPTY[..8]);
    let mac = mac(1);
    let waiting =
        world.command(["detach", "web1", &mac, "--timeout", "1h"]).stderr(Stdio::null()).spawn().unwrap();
    world.until("the detach waits", || world.nics(&guest)[0]["state"] == "unplugging");
    world.detach(&guest, 2, &["--force"]).ok();
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(waiting.wait_with_output().unwrap().status.code(), Some(1));
    assert_eq!(guest.holds(), Vec::<String>::new());
    world.stop(&guest);
    world.assert_clean();
}

/// QEMU may report that a NIC is gone only when the next NIC has its id.
#[test]
fn a_nic_is_not_taken_for_the_one_that_had_its_id_before() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    for round in 0..20 {
        world.until("the id is free", || world.attach(&guest, &format!("{ONE},id=x")).success());
        assert_eq!(world.nics(&guest)[0]["state"], "held", "round {round}");
        assert_eq!(guest.holds(), ["tun vnet0"], "round {round}");
        world.detach(&guest, 1, &["--force"]).ok();
        // At the second request QEMU may know no such NIC before it reports that the NIC is gone.
        let _ = world.detach(&guest, 1, &["--force"]);
    }
    world.stop(&guest);
    world.assert_clean();
}

// Shows 4.9, 11.8.
#[test]
fn a_guest_that_lost_its_supervisor_is_not_started_beside_itself() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.kill_supervisor("web1");
    assert_eq!(guest.holds(), ["tun vnet0"], "QEMU outlives its supervisor");
    assert_eq!(world.trail()["holdings"][0]["state"], "held", "and the ledger knows");
    // `run` with its name adopts it.
    let again = world.try_start("web1", &["--nic", ONE], &EMPTY).ok();
    assert!(again.stderr.contains("is taken up as it is"), "{}", again.stderr);
    let listed = world.json(["list", "--json"]);
    assert_eq!((&listed[0]["pid"], &listed[0]["state"]), (&json!(guest.pid), &json!("running")));
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.stop(&guest);
    assert_eq!(world.record_lines().iter().filter(|line| line.starts_with("open")).count(), 1);
    world.assert_clean();
}

// Shows 5.20.
#[test]
fn more_ports_than_a_machine_takes_are_refused_before_anything_is_opened() {
    let world = World::new();
    world.try_start("web1", &["--nic", ONE, "--hotplug-ports", "32"], &EMPTY).fails(1, "33 PCIe ports");
    assert_eq!(world.links(), Vec::<String>::new());
}

// Shows 5.21.
#[test]
fn sockets_are_their_owners_and_a_directory_of_others_is_refused() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    let mode = |name: &str| {
        fs::symlink_metadata(world.run_dir().join("web1").join(name)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("api"), mode("monitor"), mode("log")), (0o600, 0o600, 0o600));
    world.stop(&guest);

    let others = world.run_dir().join("web2");
    fs::create_dir(&others).unwrap();
    fs::set_permissions(&others, PermissionsExt::from_mode(0o777)).unwrap();
    world.try_start("web2", &[], &EMPTY).fails(1, "only its owner");
    fs::set_permissions(&others, PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(world.path("victim"), "mine").unwrap();
    symlink(world.path("victim"), others.join("log")).unwrap();
    world.try_start("web2", &[], &EMPTY).fails(1, "log can't be created");
    assert_eq!(fs::read_to_string(world.path("victim")).unwrap(), "mine");
}

// Shows 9.7.
#[test]
fn a_record_that_cannot_be_read_is_counted_and_stops_no_trail() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.stop(&guest);
    let connection = rusqlite::Connection::open(Ledger::file(&world.state())).unwrap();
    connection.execute("UPDATE record SET time = 9223372036854775807 WHERE id = 2", []).unwrap();
    connection.execute("UPDATE record SET text = substr(text, 1, 60) WHERE id = 3", []).unwrap();
    let trail = world.trail();
    let counts = |of: &serde_json::Value| ["lines", "records", "unreadable"].map(|key| of[key].clone());
    assert_eq!(counts(&trail["input"]), [json!(5), json!(3), json!(2)]);
    let files = trail["input"]["files"].as_array().unwrap();
    assert_eq!((files.len(), &files[0]["lines"], &files[0]["unreadable"]), (1, &json!(5), &json!(2)));
    assert!(trail["input"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(trail["holdings"][0]["device"]["dev"], "vnet0");
}

// Shows 9.8.
#[test]
fn an_interrupted_reader_of_a_trail_is_no_error() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let mut trail = world.command(["trail", "--format", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(trail.stdout.take());
    assert!(trail.wait().unwrap().success());
    world.stop(&guest);
}

// Shows 11.11.
#[test]
fn links_that_vanish_under_a_guest_end_in_order_all_the_same() {
    let world = World::new();
    let guest =
        world.start("web1", &["--nic", ONE, "--nic", "macvtap=lower,mac=52:54:00:00:00:02,vhost=off"]);
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:03,vhost=off,filter=no-mac-spoofing").ok();
    for link in ["vnet0", "macvtap0", "vnet1"] {
        world.ip(&format!("link delete {link}"));
    }
    // QEMU holds descriptors without a link behind them.
    assert_eq!(guest.holds().len(), 3);
    world.detach(&guest, 3, &["--timeout", "20s"]).ok();
    assert_eq!(world.tables(), "", "the filter outlived its interface, and goes with the account");
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(guest.holds().len(), 1);
    world.stop(&guest);
    assert_eq!(world.record_lines().iter().filter(|line| line.starts_with("close")).count(), 3);
    world.assert_clean();
}

// Shows 2.44.
#[test]
fn a_burst_of_changes_of_others_links_leaves_no_release_in_doubt() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.ip("link add others type bridge");
    let mut links = Links::open().unwrap();
    let others = links.find(&"others".parse().unwrap()).unwrap().unwrap().index;
    let supervisor = PidFd::open(world.supervisor("web1")).unwrap();
    supervisor.send_signal(Signal::STOP).unwrap();
    // Each would be announced, and they are more than the buffer of a socket holds.
    (0..10_000).for_each(|mtu| links.set_mtu(others, 1_000 + mtu % 400).unwrap());
    guest.kill();
    world.until("the tap is gone", || world.links() == ["others"]);
    supervisor.send_signal(Signal::CONT).unwrap();
    world.supervisor_is_gone("web1");
    let holding = &world.trail()["holdings"][0];
    assert_eq!((&holding["certainty"], &holding["end_doubt"]), (&json!("definitive"), &Value::Null));
    world.ip("link delete others");
    world.assert_clean();
}

// Shows 11.11.
#[test]
fn a_bridge_that_is_deleted_takes_nothing_from_its_guests() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.ip("link delete br0");
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02,vhost=off").fails(1, "Bridge 'br0' doesn't exist");
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(guest.holds(), Vec::<String>::new());
    world.stop(&guest);
    world.assert_clean();
}

// Shows 11.11.
#[test]
fn a_filter_that_cannot_be_removed_is_logged_and_blocks_nothing() {
    let mut world = World::new();
    // This nft works until the file `broken` exists.
    let nft = world.path("nft");
    let broken = world.path("broken");
    fs::write(&nft, format!("#!/bin/sh\n[ -e {} ] && exit 1\nexec /usr/sbin/nft \"$@\"\n", broken.display()))
        .unwrap();
    fs::set_permissions(&nft, PermissionsExt::from_mode(0o755)).unwrap();
    world.extra.push(("TAPTRAIL_NFT".to_owned(), nft.display().to_string()));
    let guest = world.start("web1", &[]);
    world.attach(&guest, &format!("{ONE},filter=no-mac-spoofing")).ok();
    fs::write(&broken, "").unwrap();
    world.detach(&guest, 1, &["--timeout", "20s"]).ok();
    assert_eq!(guest.holds(), Vec::<String>::new());
    assert!(world.log("web1").contains("filter is left over"), "{}", world.log("web1"));
    assert_eq!(world.tables().lines().count(), 1);
    fs::remove_file(&broken).unwrap();
    world.attach(&guest, &format!("{ONE},filter=no-mac-spoofing")).ok();
    world.stop(&guest);
    world.taptrail(["recover"]).ok();
    world.assert_clean();
}

/// Starts a QEMU with a further monitor for its user.
fn with_own_monitor(world: &World, nics: &[&str]) -> (crate::world::Guest, crate::world::qmp::Qmp) {
    let socket = world.path("own-monitor");
    let option = crate::world::qmp::option(&socket);
    let qemu: Vec<&str> = EMPTY.iter().copied().chain(["-qmp", &option]).collect();
    let nics: Vec<&str> = nics.iter().flat_map(|nic| ["--nic", nic]).collect();
    let guest = world.start_with("web1", &nics, &qemu);
    (guest, crate::world::qmp::Qmp::connect(socket))
}

// Shows 7.10.
#[test]
fn a_device_that_the_user_takes_by_a_monitor_of_his_own_is_closed() {
    let world = World::new();
    let (guest, mut monitor) = with_own_monitor(&world, &[ONE]);
    // The kernel's announcement wakes a sleeping supervisor and shows when the device went.
    let asleep = format!("/proc/{}/wchan", world.supervisor("web1").pid);
    world.until("the supervisor sleeps", || fs::read_to_string(&asleep).unwrap().contains("poll"));
    monitor.execute("netdev_del", json!({"id": "host-nic0"}));
    world.until("its account is closed", || {
        world.record_lines().iter().any(|line| line == "close 01 tun vnet0 q0")
    });
    assert_eq!(world.nics(&guest)[0]["state"], "revoked");
    let holding = &world.trail()["holdings"][0];
    assert_eq!((&holding["state"], &holding["ended_by"]), (&json!("released"), &json!("close")));
    assert_eq!(
        (&holding["certainty"], &holding["last_seen"]),
        (&json!("definitive"), &Value::Null),
        "{holding}"
    );

    // The next device gets the same number and name, and is not confused with it.
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02,vhost=off").ok();
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.detach(&guest, 1, &["--force"]).fails(1, "taken already");
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.detach(&guest, 2, &["--force"]).ok();
    assert_eq!(guest.holds(), Vec::<String>::new());
    world.stop(&guest);
    assert_eq!(world.record_lines().iter().filter(|line| line.starts_with("close")).count(), 2);
    world.assert_clean();
}

// Shows 7.10.
#[test]
fn a_macvtap_that_the_user_takes_by_a_monitor_of_his_own_is_closed_soon() {
    let world = World::new();
    let (guest, mut monitor) =
        with_own_monitor(&world, &["macvtap=lower,mac=52:54:00:00:00:01,vhost=off,filter=no-mac-spoofing"]);
    monitor.execute("netdev_del", json!({"id": "host-nic0"}));
    // The kernel announces nothing: the supervisor checks before the next hot-plug, and
    // periodically.
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02,vhost=off").ok();
    assert!(
        world.record_lines().iter().any(|line| line == "close 01 macvtap macvtap0 q0"),
        "{:?}",
        world.record_lines()
    );
    assert_eq!(world.links(), ["vnet0"]);
    monitor.execute("quit", json!({}));
    world.until("the guest has ended", || {
        world.record_lines().last().is_some_and(|line| line == "guest destroyed")
    });
    world.until("all is removed", || world.links().is_empty());
    world.assert_clean();
}

/// Removes the ledger's files, as an administrator in a hurry might.
fn remove_ledger(world: &World) {
    let file = Ledger::file(&world.state());
    for suffix in ["", "-wal", "-shm"] {
        let mut name = file.clone().into_os_string();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
}

// Shows 4.15.
#[test]
fn without_its_ledger_a_guest_gets_nothing_and_a_new_one_takes_its_account() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    remove_ledger(&world);
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02,vhost=off").fails(1, "was removed");
    assert_eq!(guest.holds(), ["tun vnet0"]);
    assert!(!crate::world::exists(&Ledger::file(&world.state())), "nobody made another one");

    // Another guest's start makes a ledger, and this guest's account moves into it with the next
    // change.
    let other = world.start("web2", &["--nic", "bridge=br0,mac=52:54:00:00:00:03,vhost=off"]);
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02,vhost=off").ok();
    let holdings = world.trail()["holdings"].as_array().unwrap().clone();
    let held = holdings.iter().filter(|holding| holding["state"] == "held").count();
    assert_eq!((holdings.len(), held), (3, 3), "{holdings:?}");
    world.detach(&guest, 1, &["--force"]).ok();
    world.stop(&guest);
    world.stop(&other);
    world.taptrail(["ledger", "check"]).ok();
    world.assert_clean();
}

// Shows 4.15.
#[test]
fn a_guest_that_ends_without_a_ledger_makes_one_for_its_end() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    remove_ledger(&world);
    world.stop(&guest);
    assert_eq!(
        world.record_lines(),
        ["open 01 tun vnet0 q0", "start 01", "guest booted", "close 01 tun vnet0 q0", "guest destroyed"]
    );
    world.assert_clean();
}

// Shows 4.16.
#[test]
fn a_guest_without_an_account_is_found_by_the_links_that_it_holds() {
    let world = World::new();
    let guest =
        world.start("web1", &["--nic", ONE, "--nic", "macvtap=lower,mac=52:54:00:00:00:02,vhost=off"]);
    world.kill_supervisor("web1");
    remove_ledger(&world);
    let done = world.taptrail(["recover"]);
    assert_eq!(done.code(), 1);
    let held = format!("runs as process {}", guest.pid);
    assert_eq!(done.stdout.matches(&held).count(), 2, "{}", done.stdout);
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    let done = world.taptrail(["recover"]);
    assert!(done.success());
    assert!(done.stdout.contains("was left over: it is deleted"), "{}", done.stdout);
    assert_eq!(world.links(), Vec::<String>::new());
    assert!(world.taptrail(["recover"]).stdout.contains("Nothing was left behind"));
}
