//! A QEMU and its monitor.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use taptrail_kernel::device::Admitted;
use taptrail_qmp::{Monitor, NetdevTap, QmpError};
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(20);

/// A paused machine with free ports, whose unplugging needs no guest system.
pub(crate) struct Qemu {
    child: Child,
    pid: u32,
    pub(crate) monitor: Monitor,
    _place: tempfile::TempDir,
}

impl Qemu {
    pub(crate) fn start(uuid: Uuid) -> Self {
        Self::start_with(uuid, &[])
    }

    /// Starts one with more arguments.
    pub(crate) fn start_with(uuid: Uuid, arguments: &[&str]) -> Self {
        Self::started(Command::new("qemu-system-x86_64"), uuid, arguments)
    }

    /// Starts one in a pid namespace of its own, as its first process.
    pub(crate) fn in_container(uuid: Uuid) -> Self {
        let mut container = Command::new("/usr/bin/unshare");
        container.args(["--pid", "--fork", "--kill-child", "qemu-system-x86_64"]);
        let mut qemu = Self::started(container, uuid, &[]);
        let parent = qemu.pid;
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        qemu.pid = children.trim().parse().unwrap();
        qemu
    }

    fn started(mut command: Command, uuid: Uuid, arguments: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("monitor");
        let socket = format!("unix:{},server=on,wait=off", path.display());
        command
            .args(["-machine", "q35", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-S"])
            .args(["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"])
            .args(["-name", "guest=web1,debug-threads=on", "-uuid", &uuid.to_string(), "-qmp", &socket]);
        for port in 0..6 {
            command.args(["-device", &format!("pcie-root-port,id=port{port},chassis={port},slot={port}")]);
        }
        let child = command.args(arguments).spawn().expect("qemu-system-x86_64 is needed");
        let deadline = Instant::now() + LONG;
        let monitor = loop {
            match Monitor::connect(&path, deadline) {
                Ok(monitor) => break monitor,
                Err(QmpError::Connect { .. }) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error}"),
            }
        };
        Self { pid: child.id(), child, monitor, _place: place }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Gives QEMU devices as a backend.
    pub(crate) fn give(&mut self, id: &str, devices: &[Admitted]) {
        let mut fds = Vec::new();
        for (number, device) in devices.iter().enumerate() {
            let name = format!("fd-{id}-{number}");
            self.monitor.getfd(&name, device, LONG).unwrap();
            fds.push(name);
        }
        let tap = NetdevTap { id: format!("host{id}"), fds, vhost_fds: Vec::new(), send_buffer: None };
        self.monitor.netdev_add(&tap, LONG).unwrap();
    }

    /// Removes a backend, and its devices with it.
    pub(crate) fn take(&mut self, id: &str) {
        self.monitor.netdev_del(&format!("host{id}"), LONG).unwrap();
    }

    /// Opens a tap by the monitor, without a record.
    pub(crate) fn open_by_itself(&mut self, ifname: &str) {
        let tap = json!({
            "type": "tap", "id": "own", "ifname": ifname, "script": "no", "downscript": "no", "vhost": false
        });
        self.monitor.execute("netdev_add", tap, LONG).unwrap();
    }

    pub(crate) fn close_by_itself(&mut self) {
        self.monitor.execute("netdev_del", Map::from_iter([("id".to_owned(), "own".into())]), LONG).unwrap();
    }

    /// Makes its command line show another uuid, as any process can do.
    pub(crate) fn show_uuid(&self, own: Uuid, other: Uuid) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // arg_start and arg_end (proc(5), fields 48 and 49).
        let [from, to] = [45, 46].map(|at: usize| fields[at].parse::<u64>().unwrap());
        let memory = File::options().read(true).write(true).open(format!("/proc/{}/mem", self.pid)).unwrap();
        let mut arguments = vec![0; usize::try_from(to - from).unwrap()];
        memory.read_exact_at(&mut arguments, from).unwrap();
        let own = own.to_string();
        let at = arguments.windows(own.len()).position(|part| part == own.as_bytes()).unwrap();
        memory.write_all_at(other.to_string().as_bytes(), from + u64::try_from(at).unwrap()).unwrap();
        let shown = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap();
        assert!(!shown.windows(own.len()).any(|part| part == own.as_bytes()));
    }

    /// Kills it, and waits for its end.
    pub(crate) fn kill(&mut self) {
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
