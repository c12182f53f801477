//! A real QEMU with real taps, whose descriptors are checked in /proc. Needs root and
//! qemu-system-x86_64.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic, its helpers too")]

use std::convert::Infallible;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Map, Value, json};
use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, OpenFacts, OpenRecorder, TapName, TapRequest, open_tap,
};
use taptrail_kernel::link::Links;
use taptrail_kernel::proc::{HeldDevice, raw_devices, same_file};
use taptrail_qmp::{ErrorClass, Monitor, NetdevTap, QmpError, Version, Waited};

const LONG_TIMEOUT: Duration = Duration::from_secs(20);

fn long_deadline() -> Instant {
    Instant::now() + LONG_TIMEOUT
}

/// A paused q35 with one free PCI port as its only device; hot-unplug needs no guest system there.
struct Qemu {
    child: Child,
    dir: tempfile::TempDir,
}

impl Qemu {
    fn start() -> (Self, Monitor) {
        let dir = tempfile::tempdir().unwrap();
        let socket = format!("unix:{},server=on,wait=off", dir.path().join("monitor").display());
        let child = Command::new("qemu-system-x86_64")
            .args(["-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-S"])
            .args(["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"])
            .args(["-device", "pcie-root-port,id=port0,chassis=200,slot=200"])
            .args(["-qmp", &socket])
            .spawn()
            .expect("qemu-system-x86_64 is needed");
        let qemu = Self { child, dir };
        let monitor = loop {
            match Monitor::connect(qemu.socket(), long_deadline()) {
                Ok(monitor) => break monitor,
                Err(QmpError::Connect { .. }) => thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error}"),
            }
        };
        (qemu, monitor)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("monitor")
    }

    /// The raw network devices that QEMU holds.
    fn held(&self) -> Vec<HeldDevice> {
        raw_devices(self.child.id()).unwrap()
    }

    fn holds(&self, device: &Admitted) -> bool {
        let ours = device.as_fd().as_raw_fd();
        let same = |held: &HeldDevice| same_file(std::process::id(), ours, self.child.id(), held.fd).unwrap();
        self.held().iter().any(same)
    }

    fn pidfd(&self) -> OwnedFd {
        pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A recorder that accepts every open.
struct FakeRecorder;

impl OpenRecorder for FakeRecorder {
    type Error = Infallible;

    fn record(&mut self, _: &[OpenFacts]) -> Result<(), Infallible> {
        Ok(())
    }
}

/// A new tap in a network namespace of the calling thread's own.
fn taps(name: &str, queues: u16, vnet_hdr: bool) -> Vec<Admitted> {
    let name = name.parse().unwrap();
    let request = TapRequest {
        path: DEV_NET_TUN.as_ref(),
        name: TapName::New(&name),
        queues: NonZeroU16::new(queues).unwrap(),
        vnet_hdr,
    };
    let (devices, error) = open_tap(&request).admit(&mut FakeRecorder).unwrap();
    assert!(error.is_none(), "{error:?}");
    devices
}

fn own_network_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .expect("root is needed for a network namespace");
}

fn backend(fds: &[&str], vhost_fds: &[&str]) -> NetdevTap {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    NetdevTap { id: "net0".to_owned(), fds: names(fds), vhost_fds: names(vhost_fds), send_buffer: None }
}

fn nic(more: Value) -> Map<String, Value> {
    let Value::Object(mut properties) =
        json!({ "driver": "virtio-net-pci", "id": "nic0", "netdev": "net0", "bus": "port0" })
    else {
        unreachable!()
    };
    properties.extend(more.as_object().cloned().unwrap_or_default());
    properties
}

fn refused(result: Result<(), QmpError>) -> String {
    match result {
        Err(QmpError::Refused { desc, .. }) => desc,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_monitor_greets_one_client_at_a_time() {
    let (qemu, mut monitor) = Qemu::start();
    assert!(monitor.version() >= Version { major: 7, minor: 0, micro: 0 }, "{}", monitor.version());
    let status = monitor.query_status(LONG_TIMEOUT).unwrap();
    assert_eq!((status.status.as_str(), status.running), ("prelaunch", false));
    let second = Monitor::connect(qemu.socket(), Instant::now() + Duration::from_millis(100));
    assert!(matches!(second, Err(QmpError::TimedOut { .. })));
    drop(monitor);
    let mut again = Monitor::connect(qemu.socket(), long_deadline()).unwrap();
    again.cont(LONG_TIMEOUT).unwrap();
    assert!(again.query_status(LONG_TIMEOUT).unwrap().running);
    let resumed = again.wait_event(long_deadline(), &[], |event| event.name == "RESUME").unwrap();
    assert!(matches!(resumed, Waited::Event(event) if event.time.is_some()));
}

#[test]
fn refusals_have_their_class() {
    let (_qemu, mut monitor) = Qemu::start();
    let class = |result: Result<Value, QmpError>| match result {
        Err(QmpError::Refused { class, .. }) => class,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(class(monitor.execute("no-such", Value::Null, LONG_TIMEOUT)), ErrorClass::CommandNotFound);
    assert_eq!(
        class(monitor.device_del("nic0", LONG_TIMEOUT).map(|()| Value::Null)),
        ErrorClass::DeviceNotFound
    );
    assert_eq!(class(monitor.closefd("none", LONG_TIMEOUT).map(|()| Value::Null)), ErrorClass::Generic);
}

// Shows 7.1.
#[test]
fn a_tap_goes_to_qemu_and_comes_back() {
    own_network_namespace();
    let (qemu, mut monitor) = Qemu::start();
    for queues in [1, 4] {
        let taps = taps("tap0", queues, true);
        let names: Vec<String> = (0..taps.len()).map(|n| format!("tap0-{n}")).collect();
        for (name, tap) in names.iter().zip(&taps) {
            assert!(!qemu.holds(tap));
            monitor.getfd(name, tap, LONG_TIMEOUT).unwrap();
            assert!(qemu.holds(tap));
        }
        assert_eq!(qemu.held().len(), taps.len());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        monitor.netdev_add(&backend(&names, &[]), LONG_TIMEOUT).unwrap();
        // Multi-queue is a property of the device, as in the guest crate.
        let more = if queues > 1 { json!({ "mq": true, "vectors": 2 * queues + 2 }) } else { json!({}) };
        monitor.device_add(&nic(more), LONG_TIMEOUT).unwrap();
        assert!(taps.iter().all(|tap| qemu.holds(tap)));

        monitor.device_del("nic0", LONG_TIMEOUT).unwrap();
        let gone = monitor
            .wait_event(long_deadline(), &[], |event| {
                event.name == "DEVICE_DELETED" && event.text("device") == Some("nic0")
            })
            .unwrap();
        assert!(matches!(gone, Waited::Event(_)), "{gone:?}");
        assert!(taps.iter().all(|tap| qemu.holds(tap)), "unplugged is not released");
        monitor.netdev_del("net0", LONG_TIMEOUT).unwrap();
        assert_eq!(qemu.held(), []);
    }
}

#[test]
fn a_descriptor_nothing_used_is_taken_back_by_its_name() {
    own_network_namespace();
    let (qemu, mut monitor) = Qemu::start();
    let taps = taps("tap0", 1, true);
    monitor.getfd("tap0-0", &taps[0], LONG_TIMEOUT).unwrap();
    drop(monitor);
    let mut monitor = Monitor::connect(qemu.socket(), long_deadline()).unwrap();
    assert!(qemu.holds(&taps[0]), "a reconnect doesn't close it");
    monitor.closefd("tap0-0", LONG_TIMEOUT).unwrap();
    assert_eq!(qemu.held(), []);
    assert_eq!(refused(monitor.closefd("tap0-0", LONG_TIMEOUT)), "File descriptor named 'tap0-0' not found");
}

#[test]
fn an_uncooperative_guest_loses_its_device_at_once() {
    own_network_namespace();
    let (qemu, mut monitor) = Qemu::start();
    let taps = taps("tap0", 1, true);
    monitor.getfd("tap0-0", &taps[0], LONG_TIMEOUT).unwrap();
    monitor.netdev_add(&backend(&["tap0-0"], &[]), LONG_TIMEOUT).unwrap();
    monitor.device_add(&nic(json!({})), LONG_TIMEOUT).unwrap();
    monitor.netdev_del("net0", LONG_TIMEOUT).unwrap();
    assert_eq!(qemu.held(), [], "the NIC is still plugged, the tap is gone");
    monitor.device_del("nic0", LONG_TIMEOUT).unwrap();
}

/// The descriptors that QEMU 7.2 keeps after a failed `netdev_add`, and how to take them back.
// Shows 6.5.
#[test]
fn a_failed_backend_keeps_what_came_before_the_bad_descriptor() {
    own_network_namespace();
    let (qemu, mut monitor) = Qemu::start();
    let taps = taps("tap0", 3, true);
    monitor.getfd("good", &taps[0], LONG_TIMEOUT).unwrap();
    monitor.getfd("last", &taps[2], LONG_TIMEOUT).unwrap();
    let why = refused(monitor.netdev_add(&backend(&["good", "missing", "last"], &[]), LONG_TIMEOUT));
    assert_eq!(why, "File descriptor named 'missing' has not been found");
    assert!(qemu.holds(&taps[0]) && qemu.holds(&taps[2]));

    // A descriptor behind the bad one can still be closed by its name.
    monitor.closefd("last", LONG_TIMEOUT).unwrap();
    assert!(!qemu.holds(&taps[2]));
    // The good one has lost its name, and its netdev can't be deleted...
    refused(monitor.closefd("good", LONG_TIMEOUT));
    if monitor.version() < (Version { major: 8, minor: 0, micro: 0 }) {
        assert_eq!(refused(monitor.netdev_del("net0", LONG_TIMEOUT)), "Device 'net0' is not a netdev");
        assert_eq!(
            refused(monitor.netdev_add(&backend(&["good"], &[]), LONG_TIMEOUT)),
            "Duplicate ID 'net0'"
        );
        // ... but a NIC can use it, and hot-plugging and unplugging that closes nothing.
        monitor.device_add(&nic(json!({})), LONG_TIMEOUT).unwrap();
        monitor.device_del("nic0", LONG_TIMEOUT).unwrap();
        monitor.wait_event(long_deadline(), &[], |event| event.text("device") == Some("nic0")).unwrap();
        refused(monitor.netdev_del("net0", LONG_TIMEOUT));
        assert!(qemu.holds(&taps[0]));
    }

    // Deleting its link makes the descriptor useless.
    let mut links = Links::open().unwrap();
    let link = links.find(&"tap0".parse().unwrap()).unwrap().unwrap();
    links.delete(link.index).unwrap();
    assert!(qemu.held().iter().all(|held| held.ifname.is_none()), "{:?}", qemu.held());
}

#[test]
fn taps_that_disagree_on_their_header_are_both_kept() {
    own_network_namespace();
    let (qemu, mut monitor) = Qemu::start();
    let (with, without) = (taps("tap0", 1, true), taps("tap1", 1, false));
    monitor.getfd("with", &with[0], LONG_TIMEOUT).unwrap();
    monitor.getfd("without", &without[0], LONG_TIMEOUT).unwrap();
    let why = refused(monitor.netdev_add(&backend(&["with", "without"], &[]), LONG_TIMEOUT));
    assert_eq!(why, "vnet_hdr not consistent across given tap fds");
    for name in ["with", "without"] {
        refused(monitor.closefd(name, LONG_TIMEOUT));
    }
    assert!(qemu.holds(&with[0]) && qemu.holds(&without[0]));
}

#[test]
fn a_vhost_that_does_not_work_is_a_refusal_and_not_the_guests_end() {
    own_network_namespace();
    let (mut qemu, mut monitor) = Qemu::start();
    let taps = taps("tap0", 4, true);
    for (name, tap) in ["t0", "t1", "v0", "v1"].iter().zip(&taps) {
        monitor.getfd(name, tap, LONG_TIMEOUT).unwrap();
    }
    let why = refused(monitor.netdev_add(&backend(&["t0", "t1"], &["v0", "v1"]), LONG_TIMEOUT));
    assert_eq!(why, "vhost-net requested but could not be initialized");
    assert!(qemu.child.try_wait().unwrap().is_none());
    // QEMU has closed the queue that failed; the others still have their names.
    for name in ["t1", "v1"] {
        monitor.closefd(name, LONG_TIMEOUT).unwrap();
    }
    assert_eq!(qemu.held(), []);
}

#[test]
fn qemus_own_end_is_an_event_then_an_interrupt() {
    let (mut qemu, mut monitor) = Qemu::start();
    let pidfd = qemu.pidfd();
    monitor.quit(LONG_TIMEOUT).unwrap();
    let shutdown = monitor.wait_event(long_deadline(), &[], |event| event.name == "SHUTDOWN").unwrap();
    assert!(matches!(shutdown, Waited::Event(event) if event.text("reason") == Some("host-qmp-quit")));
    qemu.child.wait().unwrap();
    let end = monitor.wait_event(long_deadline(), &[pidfd.as_fd()], |_| false).unwrap();
    assert_eq!(end, Waited::Interrupted(0));
}

#[test]
fn a_killed_qemu_closes_its_monitor_without_a_word() {
    let (mut qemu, mut monitor) = Qemu::start();
    qemu.child.kill().unwrap();
    qemu.child.wait().unwrap();
    assert!(matches!(monitor.query_status(LONG_TIMEOUT), Err(QmpError::Closed)));
    assert!(matches!(monitor.pending_event(), Err(QmpError::Poisoned { .. })));
}
