//! Guests from files, as a service manager starts them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::world::OwnedChild;
use crate::world::{EMPTY, Guest, World};
use serde_json::json;
use taptrail_kernel::proc::{PidFd, ProcessId, Signal};

/// Writes the file of a guest with one interface.
fn write(world: &World, more: &str) -> PathBuf {
    let text = format!(
        "nics = [\"bridge=br0,mac=52:54:00:00:00:01,vhost=off\"]\nstop-timeout = \"1s\"\ncommand = {}\n{more}",
        json!(EMPTY)
    );
    let path = world.path("web1.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    path
}

/// `taptrail run --file`, as a service manager runs it.
struct Service(OwnedChild);

impl Service {
    fn start(world: &World, file: &Path) -> Self {
        let mut command = world.command(["run", "--file", file.to_str().unwrap()]);
        let log = std::fs::File::options().create(true).append(true).open(world.path("service.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let service = Self(command.spawn().unwrap().into());
        world.until("the guest runs", || world.supervisor_pid() == Some(service.0.id()) && world.runs());
        service
    }

    fn signal(&self, signal: Signal) {
        PidFd::open(ProcessId::of(self.0.id()).unwrap()).unwrap().send_signal(signal).unwrap();
    }
}

impl World {
    fn supervisor_pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.run_dir().join("web1/lock")).ok()?.trim().parse().ok()
    }

    fn runs(&self) -> bool {
        self.try_json(["list", "--json"]).is_some_and(|all| all[0]["state"] == "running")
    }
}

/// Reads the service manager's socket until a message contains `what`.
fn wait_for_message(socket: &UnixDatagram, what: &str) -> String {
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut buffer = [0; 1024];
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}"));
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.contains(what) {
            return text;
        }
    }
}

// Shows 12.1.
#[test]
fn a_guest_is_started_from_its_file_and_called_like_it() {
    let world = World::new();
    let file = write(&world, "uuid = \"2075bf55-5c6f-4153-a242-30d008f8ffb2\"\n");
    let done = world.taptrail(["run", "--background", "--file", file.to_str().unwrap()]).ok();
    assert!(done.stdout.starts_with("web1 2075bf55-5c6f-4153-a242-30d008f8ffb2 runs"), "{}", done.stdout);
    let guest = world.last_guest().unwrap();
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 12.6.
#[test]
fn a_supervisor_that_was_killed_is_followed_by_one_that_adopts_the_guest() {
    let world = World::new();
    let file = write(&world, "");
    let mut first = Service::start(&world, &file);
    let guest = world.last_guest().unwrap();
    first.signal(Signal::KILL);
    first.0.wait().unwrap();
    assert!(guest.is_alive());
    // A supervisor adopts the guest even if its file names a user that does not exist.
    write(&world, "user = \"no-such-user-at-all\"\n");
    let mut second = Service::start(&world, &file);
    assert_eq!(world.last_guest().unwrap().pid, guest.pid);
    assert_eq!(guest.holds(), ["tun vnet0"]);
    second.signal(Signal::TERM);
    let status = second.0.wait().unwrap();
    assert!(status.success(), "{status}: {}", std::fs::read_to_string(world.path("service.log")).unwrap());
    world.assert_clean();
    world.taptrail(["run", "--file", file.to_str().unwrap()]).fails(2, "There is no user");
}

// Shows 12.7.
#[test]
fn a_service_manager_is_notified_that_the_driver_lives_what_it_holds_and_that_it_ends() {
    let mut world = World::new();
    let socket = UnixDatagram::bind(world.path("notify")).unwrap();
    world.extra.push(("NOTIFY_SOCKET".to_owned(), world.path("notify").display().to_string()));
    world.extra.push(("WATCHDOG_USEC".to_owned(), "200000".to_owned()));
    let file = write(&world, "");
    let mut service = Service::start(&world, &file);
    let guest = world.last_guest().unwrap();
    wait_for_message(&socket, "READY=1");
    let pid = guest.pid;
    wait_for_message(
        &socket,
        &format!("STATUS=web1 runs, QEMU has pid {pid}: 1 interface, 1 descriptor held"),
    );
    for _ in 0..5 {
        wait_for_message(&socket, "WATCHDOG=1");
    }
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02,queues=2,vhost=off").ok();
    wait_for_message(&socket, ": 2 interfaces, 3 descriptors held");
    world.detach(&guest, 2, &["--timeout", "20s"]).ok();
    wait_for_message(&socket, ": 1 interface, 1 descriptor held");
    assert_no_notify_environment(&guest);
    service.signal(Signal::TERM);
    // `stop-timeout`, 1 s, and the time that the end itself may take.
    let extended = wait_for_message(&socket, "EXTEND_TIMEOUT_USEC=");
    let extended: u64 = extended.trim().split('=').next_back().unwrap().parse().unwrap();
    assert!((60_000_000..90_000_000).contains(&extended), "{extended}");
    wait_for_message(&socket, "STOPPING=1");
    assert!(service.0.wait().unwrap().success());
    world.assert_clean();
}

/// Asserts that QEMU's environment does not lead to the service manager.
fn assert_no_notify_environment(guest: &Guest) {
    let environment = std::fs::read(format!("/proc/{}/environ", guest.pid)).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"), "{environment}");
}

// Shows 12.8.
#[test]
fn a_driver_that_hangs_is_silent() {
    let mut world = World::new();
    let socket = UnixDatagram::bind(world.path("notify")).unwrap();
    world.extra.push(("NOTIFY_SOCKET".to_owned(), world.path("notify").display().to_string()));
    world.extra.push(("WATCHDOG_USEC".to_owned(), "200000".to_owned()));
    let file = write(&world, "");
    let service = Service::start(&world, &file);
    let guest = world.last_guest().unwrap();
    wait_for_message(&socket, "WATCHDOG=1");
    service.signal(Signal::STOP);
    socket.set_nonblocking(true).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut buffer = [0; 1024];
    while socket.recv(&mut buffer).is_ok() {}
    std::thread::sleep(Duration::from_millis(500));
    assert!(socket.recv(&mut buffer).is_err(), "pings come from something else than the driver");
    service.signal(Signal::CONT);
    socket.set_nonblocking(false).unwrap();
    wait_for_message(&socket, "WATCHDOG=1");
    world.stop(&guest);
}

// Shows 12.3, 12.4.
#[test]
fn a_file_is_checked_and_nothing_is_started() {
    let world = World::new();
    let file = write(&world, "");
    let file = file.to_str().unwrap();
    let done = world.taptrail(["check", file]).ok();
    assert_eq!(done.stdout, format!("{file}: ok\n"));
    assert_eq!(world.json(["check", "--json", file]), json!([{"file": file, "ok": true, "guest": "web1"}]));
    assert!(!world.state().exists() && !world.run_dir().exists(), "check makes nothing");

    let bad = world.path("bad.toml");
    let good_and_bad = ["check", file, bad.to_str().unwrap()];
    let says = |text: &str, says: &str| {
        std::fs::write(&bad, text).unwrap();
        let done = world.taptrail(good_and_bad).fails(2, says);
        assert_eq!(done.stdout, format!("{file}: ok\n"), "one that can't be used hides no other");
        assert!(done.stderr.contains("bad.toml:"), "{}", done.stderr);
    };
    says("command = ['no-such-qemu']\n", "QEMU 'no-such-qemu' is not in");
    says("command = ['/no/such/qemu']\n", "QEMU /no/such/qemu is not there");
    says("user = 'no-such-user-at-all'\ncommand = ['true']\n", "There is no user 'no-such-user-at-all'");
    says("env = ['NO_SUCH_VARIABLE']\ncommand = ['true']\n", "Variable NO_SUCH_VARIABLE is not set here");
    says(
        "devices = ['/dev/net/tun']\ncommand = ['true']\n",
        "--nic SPEC is an entry of 'nics' in a guest file",
    );
    says("command = ['true', '-name', 'x']\n", "--name is 'name' in a guest file");
    says("nics = ['bridge=br0,quues=4']\ncommand = ['true']\n", "did you mean 'queues'?");
    std::fs::write(&bad, "command = [\n  'true',\n  '-m', '1G',\n  '-netdev', 'tap,id=n0',\n]\n").unwrap();
    let done = world.taptrail(["check", bad.to_str().unwrap()]);
    let shown = done.stderr.replace(bad.to_str().unwrap(), "bad.toml");
    assert_eq!(
        shown,
        "error: Argument 3 of QEMU, '-netdev tap,id=n0', would open a tap that nobody records: use --nic bridge=BRIDGE in its place\n \
         --> bad.toml:4:3\n  |\n4 |   '-netdev', 'tap,id=n0',\n  |   ^^^^^^^^^\n  |\n  \
         = help: --nic SPEC is an entry of 'nics' in a guest file\n"
    );
}

// Shows 12.5.
#[test]
fn a_file_that_others_can_write_is_not_run() {
    let world = World::new();
    let file = write(&world, "");
    std::fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    for command in [["check"].as_slice(), &["run", "--file"]] {
        let arguments = command.iter().copied().chain([file.to_str().unwrap()]);
        world.taptrail(arguments).fails(2, "can be written by others than its owner (mode 0666)");
    }
}

#[test]
fn a_file_stands_alone() {
    let world = World::new();
    let file = write(&world, "");
    let file = file.to_str().unwrap();
    world.taptrail(["run", "--file", file, "--name", "x"]).fails(2, "cannot be used with");
    world.taptrail(["run", "--file", file, "--audit", "off"]).fails(2, "cannot be used with");
    world.taptrail(["run", "--file", file, "--", "true"]).fails(2, "cannot be used with");
    world.taptrail(["run", "--name", "x"]).fails(2, "required");
}

// Shows 12.9.
#[test]
fn the_packaged_example_can_be_used() {
    let world = World::new();
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    // A copy, because a checkout may belong to any user: only the text counts here.
    let example = world.path("web1.toml");
    std::fs::write(&example, std::fs::read(packaging.join("examples/web1.toml")).unwrap()).unwrap();
    world.taptrail(["check", example.to_str().unwrap()]).ok();
}
