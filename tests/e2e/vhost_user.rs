//! vhost-user interfaces, with a backend that does virtio (`world/vhost_user.rs`).

use std::fs::Permissions;
use std::fs::rename;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use crate::world::vhost_user::Backend;
use crate::world::{EMPTY, Guest, World, mac};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde_json::{Value, json};
use taptrail_kernel::proc::{PidFd, ProcessId};
use taptrail_kernel::unix_sockets::{SocketFile, UnixSockets, sockets_of};

/// An empty machine whose memory a backend can map.
fn shared(qemu: &[&'static str]) -> Vec<&'static str> {
    let memory = ["-object", "memory-backend-memfd,id=mem,size=32M", "-machine", "memory-backend=mem"];
    [qemu, &memory].concat()
}

/// The SPEC of an interface whose backend listens on this socket.
fn nic(socket: &Path, number: u8) -> String {
    format!("vhostuser={},mac={}", socket.display(), mac(number))
}

fn of(backend: &Backend) -> String {
    nic(&backend.socket, 1)
}

/// The path of a backend in records.
fn recorded(backend: &Backend) -> String {
    format!("unix:{}", backend.socket.display())
}

/// QEMU's connections to the backend, as ss(8) shows them.
fn connections(guest: &Guest, backend: &Backend) -> usize {
    let shown = std::process::Command::new("/usr/bin/ss").args(["-xnp"]).output().expect("ss");
    let shown = String::from_utf8(shown.stdout).expect("text");
    // The accepted end has the path, and names the other one.
    let socket = backend.socket.to_str().expect("a path");
    let peers = shown.lines().filter(|line| line.contains(socket));
    let peers: Vec<&str> = peers.filter_map(|line| line.split_whitespace().nth(7)).collect();
    let of_qemu = |line: &&str| line.contains(&format!("pid={},", guest.pid));
    let is_peer = |line: &&str| line.split_whitespace().nth(5).is_some_and(|inode| peers.contains(&inode));
    shown.lines().filter(of_qemu).filter(is_peer).count()
}

/// The verdict of `verify` on each device of this world's guest, with its path.
fn verified(world: &World) -> Vec<(String, String)> {
    // Other tests' guests run on the same host.
    let here = ["--netns", "/proc/self/ns/net", "--ignore-pid", "1"];
    let verify = ["verify", "--format", "json", "--settle", "300ms", "--guest", "web1"];
    let done = world.taptrail(verify.iter().chain(&here));
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let line = |row: &Value| (text(&row["verdict"]), text(&row["holding"]["device"]["path"]));
    report["devices"].as_array().unwrap().iter().map(line).collect()
}

/// Each holding of the backend is over, and shown to be.
#[track_caller]
fn assert_all_definitive(world: &World, backend: &Backend, count: usize) {
    let trail = world.trail();
    assert_eq!(trail["findings"], json!([]));
    let holdings = trail["holdings"].as_array().unwrap();
    assert_eq!(holdings.len(), count, "{holdings:#?}");
    for holding in holdings {
        let state = (&holding["state"], &holding["certainty"]);
        assert_eq!(state, (&json!("released"), &json!("definitive")), "{holding:#}");
        let path = recorded(backend);
        let device = json!({ "kind": "vhost-user", "path": path, "rdev": null, "dev": null });
        assert_eq!(holding["device"], device);
    }
}

// Shows 17.8, 17.14.
#[test]
fn a_vhost_user_interface_is_plugged_proven_unplugged_and_plugged_again() {
    let world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let guest = world.start_with("web1", &[], &shared(&EMPTY));
    for _ in 0..2 {
        world.attach(&guest, &of(&backend)).ok();
        assert_eq!(connections(&guest, &backend), 1);
        let nics = world.nics(&guest);
        let backend_words = json!(format!("vhostuser={}", backend.socket.display()));
        assert_eq!(verified(&world), [("accounted".to_owned(), recorded(&backend))]);
        assert_eq!((&nics[0]["backend"], &nics[0]["ifname"]), (&backend_words, &json!("vhost0.sock")));
        world.detach(&guest, 1, &["--timeout", "20s"]).ok();
        assert_eq!(connections(&guest, &backend), 0);
    }
    world.stop(&guest);
    let round = ["open 01 vhost-user q0", "attach 01", "close 01 vhost-user q0", "detach 01"];
    assert_eq!(
        world.record_lines(),
        [&["guest booted"], &round[..], &round[..], &["guest destroyed"]].concat()
    );
    assert_all_definitive(&world, &backend, 2);
    world.assert_clean();
}

// Shows 17.8, 17.9.
#[test]
fn a_guest_starts_with_a_vhost_user_interface_is_adopted_and_its_end_releases_it() {
    let world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let guest = world.start_with("web1", &["--nic", &format!("{},queues=2", of(&backend))], &shared(&EMPTY));
    assert_eq!(connections(&guest, &backend), 1);
    world.kill_supervisor("web1");
    world.taptrail(["adopt", "--background", "web1"]).ok();
    assert_eq!(world.nics(&guest)[0]["state"], "held");
    assert_eq!(connections(&guest, &backend), 1);
    guest.kill();
    world.until("the guest has ended", || world.record_lines().last().unwrap() == "guest crashed");
    assert_all_definitive(&world, &backend, 1);
    world.assert_clean();
    // Without a supervisor, too, the kernel's list shows the release.
    let guest = world.start_with("web1", &["--nic", &of(&backend)], &shared(&EMPTY));
    world.kill_supervisor("web1");
    guest.kill();
    world.until("QEMU has ended", || !guest.is_alive());
    world.taptrail(["recover"]).ok();
    assert_eq!(world.record_lines().last().unwrap(), "guest unknown");
    assert_all_definitive(&world, &backend, 2);
    world.assert_clean();
}

// Shows 17.9, 17.14.
#[test]
fn a_backend_that_dies_ends_the_holding_and_its_interface_can_be_detached() {
    let world = World::new();
    let mut backend = Backend::new(&world, "vhost0.sock");
    let guest = world.start_with("web1", &[], &shared(&EMPTY));
    world.attach(&guest, &of(&backend)).ok();
    world.kill_supervisor("web1");
    backend.kill();
    let verify = ["verify", "--guest", "web1", "--settle", "300ms", "--ignore-pid", "1"];
    world.until("QEMU has closed its end", || {
        let verified = world.taptrail(verify);
        verified.code() == 1 && verified.stdout.contains("missing")
    });
    world.taptrail(["adopt", "--background", "web1"]).ok();
    // A change has the supervisor look at what QEMU holds.
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02,vhost=off").ok();
    let state = |world: &World| world.nics(&guest)[0]["state"].clone();
    world.until("QEMU has closed its end", || state(&world) == "revoked");
    assert!(guest.is_alive());
    world.detach(&guest, 1, &[]).fails(1, "are taken already; the guest was asked once more");
    world.until("the NIC is gone", || world.nics(&guest).as_array().unwrap().len() == 1);
    // Its ids are free again.
    let next = Backend::new(&world, "next.sock");
    world.attach(&guest, &of(&next)).ok();
    world.stop(&guest);
    let lines = world.record_lines();
    assert_eq!(lines[..3], ["guest booted", "open 01 vhost-user q0", "attach 01"]);
    assert_eq!(lines.iter().filter(|line| *line == "close 01 vhost-user q0").count(), 2, "{lines:?}");
    let trail = world.trail();
    let doubtful = trail["holdings"].as_array().unwrap().iter().filter(|of| of["certainty"] != "definitive");
    assert_eq!(doubtful.collect::<Vec<_>>(), [] as [&Value; 0]);
    world.assert_clean();
}

// Shows 17.9.
#[test]
fn a_plug_that_fails_or_is_cut_off_gives_the_connection_back() {
    let mut world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let boot = "bridge=br0,mac=52:54:00:00:00:02,vhost=off,boot=1";
    let guest = world.start_with("web1", &["--nic", boot], &shared(&EMPTY));
    world.attach(&guest, &format!("{},boot=1", of(&backend))).fails(1, "bootindex");
    assert_eq!(connections(&guest, &backend), 0);
    world.attach(&guest, &of(&backend)).ok();
    world.stop(&guest);
    assert_eq!(world.open_accounts(), (0, 0));
    for (number, point) in
        ["open::on-record", "attach::given", "attach::netdev", "attach::nic-added"].into_iter().enumerate()
    {
        let name = format!("cut{number}");
        world.extra.push(("FAILPOINTS".to_owned(), format!("{point}=return")));
        let guest = world.start_with(&name, &[], &shared(&EMPTY));
        world.attach(&guest, &of(&backend)).fails(1, "");
        world.supervisor_is_gone(&name);
        assert_eq!(connections(&guest, &backend), usize::from(number > 0), "{point}");
        world.extra.clear();
        world.taptrail(["adopt", "--background", &name]).ok();
        world.until("the NIC is gone", || world.nics(&guest) == json!([]));
        assert_eq!(connections(&guest, &backend), 0, "{point}");
        world.attach(&guest, &of(&backend)).ok();
        assert_eq!(connections(&guest, &backend), 1);
        world.stop(&guest);
        assert_eq!(world.open_accounts(), (0, 0));
    }
    world.assert_clean();
}

// Shows 17.9, 17.10.
#[test]
fn a_program_that_is_no_backend_is_kept_on_record_until_it_lets_go() {
    let world = World::new();
    let guest = world.start_with("web1", &[], &shared(&EMPTY));
    let listener = UnixListener::bind(world.path("silent.sock")).unwrap();
    // It accepts, and never answers: QEMU waits.
    let spec = nic(&world.path("silent.sock"), 1);
    world.attach(&guest, &spec).fails(1, "QEMU still holds 1 of its descriptors");
    world.until("it is shown as kept", || world.nics(&guest)[0]["state"] == "kept");
    drop(listener);
    world.until("QEMU has closed it", || {
        world.nics(&guest).as_array().is_some_and(|nics| nics.iter().all(|nic| nic["state"] != "kept"))
    });
    world.stop(&guest);
    let expected =
        ["open 01 vhost-user q0", "attach 01 FAILED", "keep 01 vhost-user q0", "close 01 vhost-user q0"];
    assert_eq!(world.record_lines()[1..5], expected);
    assert_eq!(world.open_accounts(), (0, 0));
    world.assert_clean();
}

// Shows 17.8, 17.10.
#[test]
fn a_qemu_of_another_user_connects_with_that_users_rights() {
    let world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let open_to_all = |path: &Path| std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    open_to_all(backend.socket.parent().unwrap());
    let guest = world.start_with("web1", &["--user", "nobody"], &shared(&EMPTY));
    world.attach(&guest, &of(&backend)).fails(1, "Permission denied");
    open_to_all(&backend.socket);
    world.attach(&guest, &of(&backend)).ok();
    assert_eq!(connections(&guest, &backend), 1);
    world.stop(&guest);
    assert_eq!(world.open_accounts(), (0, 0));
    world.assert_clean();
}

// Shows 17.8.
#[test]
fn the_reader_knows_a_backend_by_its_socket() {
    let world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let guest = world.start_with("web1", &["--nic", &of(&backend)], &shared(&EMPTY));
    let socket = backend.socket.to_str().unwrap();
    let recorded = recorded(&backend);
    for named in [socket, &*recorded, "vhost-user"] {
        let who = world.taptrail(["who", named]).ok();
        assert!(who.stdout.contains(&format!("{recorded} (vhost-user)")), "{}", who.stdout);
        assert!(who.stdout.contains("web1"), "{}", who.stdout);
    }
    world.stop(&guest);
    let explained = world.taptrail(["explain", socket]).ok().stdout;
    assert!(explained.contains("definitive") && explained.contains("vhost-user"), "{explained}");
    let listed = world.taptrail(["trail", "--device", socket]).ok().stdout;
    assert!(listed.contains("vhost-user"), "{listed}");
    let csv = world.taptrail(["trail", "--device", "vhost-user", "--format", "csv"]).ok().stdout;
    assert!(csv.contains(&recorded), "{csv}");
    // In a lake, too, by either way of asking it.
    let lake = format!("file://{}", world.path("lake").display());
    world.taptrail(["archive", "--to", &lake]).ok();
    world.taptrail(["lake", "compact", &lake]).ok();
    for named in [socket, &*recorded] {
        let asked = world.taptrail(["trail", "--lake", &lake, "--device", named, "--format", "csv"]).ok();
        assert!(asked.stdout.contains(&recorded), "{}", asked.stdout);
        let native = ["--engine", "taptrail", "--run", "--json"];
        let sql = [&["lake", "sql", &lake, "trail", "--device", named][..], &native].concat();
        let answer = world.taptrail(sql).ok();
        assert!(answer.stdout.contains(&recorded), "{}", answer.stdout);
    }
    world.assert_clean();
}

// Shows 17.10.
#[test]
fn what_is_no_listening_socket_never_becomes_a_nic() {
    let world = World::new();
    let guest = world.start_with("web1", &[], &shared(&EMPTY));
    let spec = |name: &str| nic(&world.path(name), 1);
    world.attach(&guest, &spec("missing")).fails(1, "No such file or directory");
    std::fs::write(world.path("file"), "").unwrap();
    world.attach(&guest, &spec("file")).fails(1, "is a regular file, not the socket of a vhost-user backend");
    let listener = UnixListener::bind(world.path("socket")).unwrap();
    symlink(world.path("socket"), world.path("link")).unwrap();
    world.attach(&guest, &spec("link")).fails(1, "is a symbolic link, not the socket");
    // A socket without its listener.
    drop(listener);
    world.attach(&guest, &spec("socket")).fails(1, "Connection refused");
    assert_eq!(world.open_accounts(), (0, 0));
    assert_eq!(world.nics(&guest), json!([]));
    world.stop(&guest);
    let failed = ["open 01 vhost-user q0 FAILED", "attach 01 FAILED"];
    let closed = ["open 01 vhost-user q0", "attach 01 FAILED", "close 01 vhost-user q0"];
    let refused = [&failed[..], &closed, &closed, &closed].concat();
    assert_eq!(world.record_lines(), [&["guest booted"], &refused[..], &["guest destroyed"]].concat());
    // The same at a start, which fails as a whole.
    let started = world.try_start("web2", &["--nic", &spec("socket")], &shared(&EMPTY));
    started.fails(1, "QEMU refused to start the guest");
    assert_eq!(world.open_accounts(), (0, 0));
    world.assert_clean();
}

// Shows 17.11.
#[test]
fn memory_that_no_backend_can_map_is_refused_with_what_to_write() {
    let world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let guest = world.start("web1", &[]);
    let attached = world.attach(&guest, &of(&backend));
    attached.fails(1, "'pc.ram' is not shared; start QEMU with `-object memory-backend-memfd,");
    let unshared =
        ["-object", "memory-backend-ram,id=mem,size=32M,share=on", "-machine", "memory-backend=mem"];
    let unshared = [&EMPTY[..], &unshared].concat();
    world.try_start("web2", &["--nic", &of(&backend)], &unshared).fails(1, "'mem' is not shared");
    assert_eq!(world.open_accounts(), (0, 0));
    world.stop(&guest);
    world.assert_clean();
}

// Shows 17.12.
#[test]
fn a_vhost_user_connection_is_not_revoked_under_its_nic() {
    let world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let guest = world.start_with("web1", &["--nic", &of(&backend)], &shared(&EMPTY[..8]));
    world.detach(&guest, 1, &["--force"]).fails(1, "or stop the guest");
    assert_eq!(connections(&guest, &backend), 1);
    world.stop(&guest);
    assert_all_definitive(&world, &backend, 1);
    world.assert_clean();
}

/// QEMU's connection to the backend, held by this process too.
fn copied(guest: &Guest, backend: &Backend) -> std::os::fd::OwnedFd {
    let held = sockets_of(guest.pid).unwrap();
    let sockets = UnixSockets::of(held.iter().map(|(_, inode)| *inode)).unwrap();
    let file = SocketFile::at(&backend.socket);
    let connected: Vec<u64> = sockets.connected_to(&file).collect();
    let (fd, _) = held.iter().find(|(_, inode)| connected.contains(inode)).expect("a connection");
    let qemu = PidFd::open(ProcessId::of(guest.pid).unwrap()).unwrap();
    pidfd_getfd(&qemu, *fd, PidfdGetfdFlags::empty()).unwrap()
}

// Shows 17.9.
#[test]
fn a_copy_of_the_connection_keeps_it_from_being_released() {
    let world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let guest = world.start_with("web1", &[], &shared(&EMPTY));
    world.attach(&guest, &of(&backend)).ok();
    let copy = copied(&guest, &backend);
    world.detach(&guest, 1, &["--timeout", "2s"]).fails(1, "QEMU still holds 1 of the devices");
    let is_closed = || world.record_lines().iter().any(|line| line == "close 01 vhost-user q0");
    assert!(!is_closed(), "{:?}", world.record_lines());
    drop(copy);
    world.until("the last copy is closed", is_closed);
    world.stop(&guest);
    let holding = &world.trail()["holdings"][0];
    assert_eq!((&holding["state"], &holding["certainty"]), (&json!("released"), &json!("definitive")));
    world.assert_clean();
}

// Shows 17.8, 17.9.
#[test]
fn a_socket_that_is_swapped_before_qemu_connects_is_not_granted() {
    let mut world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let other = Backend::new(&world, "other.sock");
    world.extra.push(("FAILPOINTS".to_owned(), "open::on-record=sleep(2000)".to_owned()));
    let guest = world.start_with("web1", &[], &shared(&EMPTY));
    let mut attach = world.command(["attach", "web1", "--nic", &of(&backend)]);
    let attach = attach.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    world.until("it is open", || world.record_lines().iter().any(|line| line == "open 01 vhost-user q0"));
    rename(&other.socket, &backend.socket).unwrap();
    let attached = attach.wait_with_output().unwrap();
    let text = String::from_utf8(attached.stderr).unwrap();
    assert_eq!(attached.status.code(), Some(1), "{text}");
    assert!(text.contains("doesn't hold"), "{text}");
    world.stop(&guest);
    let expected = ["open 01 vhost-user q0", "attach 01 FAILED", "close 01 vhost-user q0"];
    assert_eq!(world.record_lines()[1..4], expected);
    assert_eq!(world.open_accounts(), (0, 0));
    world.assert_clean();
}

// Shows 17.9, 17.14.
#[test]
fn what_takes_the_path_of_a_connected_socket_hides_no_connection() {
    let mut world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let guest = world.start_with("web1", &[], &shared(&EMPTY));
    // The name by which the backend bound it shows whose it is.
    world.attach(&guest, &of(&backend)).ok();
    let moved = world.path("moved.sock");
    rename(&backend.socket, &moved).unwrap();
    let other = UnixListener::bind(&backend.socket).unwrap();
    assert_eq!(verified(&world)[0].0, "accounted");
    world.detach(&guest, 1, &["--timeout", "20s"]).ok();
    // By another name nothing does.
    let spec = nic(&moved, 1);
    world.attach(&guest, &spec).ok();
    assert_eq!(verified(&world)[0].0, "accounted");
    rename(&backend.socket, &moved).unwrap();
    assert_eq!(verified(&world)[0].0, "unknown");
    world.kill_supervisor("web1");
    world.taptrail(["adopt", "--background", "web1"]).ok();
    assert_eq!(world.nics(&guest)[0]["state"], "held");
    world.detach(&guest, 1, &["--timeout", "20s"]).ok();
    world.stop(&guest);
    drop(other);
    // A plug is cut off, and the guest does not release its NIC.
    let backend = Backend::new(&world, "next.sock");
    world.extra.push(("FAILPOINTS".to_owned(), "attach::nic-added=return".to_owned()));
    let guest = world.start_with("web2", &[], &shared(&EMPTY[..8]));
    rename(&backend.socket, &moved).unwrap();
    world.attach(&guest, &spec).fails(1, "");
    world.supervisor_is_gone("web2");
    world.extra.clear();
    std::fs::remove_file(&moved).unwrap();
    let _other = UnixListener::bind(&moved).unwrap();
    world.taptrail(["adopt", "--background", "web2"]).ok();
    assert_eq!(world.nics(&guest)[0]["state"], "kept");
    assert_eq!(connections(&guest, &backend), 1);
    let kept = world.record_lines();
    assert_eq!(kept.last().unwrap(), "keep 01 vhost-user q0", "{kept:?}");
    world.stop(&guest);
    let trail = world.trail();
    let doubtful = trail["holdings"].as_array().unwrap().iter().filter(|of| of["certainty"] != "definitive");
    assert_eq!(doubtful.collect::<Vec<_>>(), [] as [&Value; 0]);
    assert_eq!(world.open_accounts(), (0, 0));
    world.assert_clean();
}

// Shows 17.9.
#[test]
fn a_connection_that_was_found_is_kept_though_its_path_is_anothers() {
    let world = World::new();
    let guest = world.start_with("web1", &[], &shared(&EMPTY));
    let path = world.path("silent.sock");
    let listener = UnixListener::bind(world.path("bound.sock")).unwrap();
    rename(world.path("bound.sock"), &path).unwrap();
    let spec = nic(&path, 1);
    let mut attach = world.command(["attach", "web1", "--nic", &spec]);
    let attach = attach.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It never answers: QEMU waits.
    let (connection, _) = listener.accept().unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    let attached = attach.wait_with_output().unwrap();
    let text = String::from_utf8(attached.stderr).unwrap();
    assert!(text.contains("QEMU still holds 1 of its descriptors"), "{text}");
    drop((connection, listener));
    world.until("QEMU has closed it", || {
        world.nics(&guest).as_array().is_some_and(|nics| nics.iter().all(|nic| nic["state"] != "kept"))
    });
    world.stop(&guest);
    let expected =
        ["open 01 vhost-user q0", "attach 01 FAILED", "keep 01 vhost-user q0", "close 01 vhost-user q0"];
    assert_eq!(world.record_lines()[1..5], expected);
    let trail = world.trail();
    assert_eq!(trail["holdings"][0]["certainty"], "definitive", "{trail:#}");
    world.assert_clean();
}

// Shows 17.8, 17.9.
#[test]
fn a_connection_that_qemu_had_before_is_not_taken_for_the_interfaces() {
    let world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    // By its own command line, to the same backend, and to one that accepts nobody.
    let deaf = world.path("deaf.sock");
    let _listener = UnixListener::bind(&deaf).unwrap();
    let chardev = |id: &str, path: &Path| -> &'static str {
        String::leak(format!("socket,id={id},path={}", path.display()))
    };
    let own = ["-chardev", chardev("own", &backend.socket), "-chardev", chardev("deaf", &deaf)];
    let guest = world.start_with("web1", &[], &shared(&[&EMPTY[..], &own].concat()));
    world.attach(&guest, &of(&backend)).ok();
    assert_eq!(connections(&guest, &backend), 2);
    world.detach(&guest, 1, &["--timeout", "20s"]).ok();
    assert_eq!(connections(&guest, &backend), 1, "its own one");
    // Nor is it, where a plug fails.
    let nobody = world.path("nobody.sock");
    drop(UnixListener::bind(&nobody).unwrap());
    let spec = nic(&nobody, 2);
    let failed = world.attach(&guest, &spec);
    assert!(!failed.stderr.contains("still holds"), "{}", failed.stderr);
    world.stop(&guest);
    let rounds = [
        "open 01 vhost-user q0",
        "attach 01",
        "close 01 vhost-user q0",
        "detach 01",
        "open 02 vhost-user q0",
        "attach 02 FAILED",
        "close 02 vhost-user q0",
    ];
    assert_eq!(world.record_lines()[1..8], rounds);
    world.assert_clean();
}

// Shows 17.15.
#[test]
fn one_socket_for_two_interfaces_is_refused_by_whatever_path() {
    let world = World::new();
    let backend = Backend::new(&world, "vhost0.sock");
    let second = |path: &Path| nic(path, 2);
    let link = world.path("link.sock");
    std::fs::hard_link(&backend.socket, &link).unwrap();
    let dotted = backend.socket.parent().unwrap().join("./vhost0.sock");
    let guest = world.start_with("web1", &["--nic", &of(&backend)], &shared(&EMPTY));
    world.attach(&guest, &second(&backend.socket)).fails(1, "is in use by this guest's interface");
    for path in [&link, &dotted] {
        world.attach(&guest, &second(path)).fails(1, "is the socket of another interface of this guest");
    }
    assert_eq!(connections(&guest, &backend), 1);
    world.stop(&guest);
    let nics = ["--nic", &of(&backend), "--nic", &second(&link)];
    world.try_start("web2", &nics, &shared(&EMPTY)).fails(1, "is the socket of interface");
    assert_eq!(world.open_accounts(), (0, 0));
    world.assert_clean();
}
