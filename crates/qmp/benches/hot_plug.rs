//! The time that QEMU itself takes to hot-plug an interface: the part of an attach that no client
//! can shorten.
//!
//! A paused QEMU as the supervisor starts it, a tap that is up on a bridge, and a client that sends
//! only the three commands: it writes no record, and does not check whether QEMU has the
//! descriptor. `all` is from the first command to the last reply; the others are its parts.
//!
//! Needs root and qemu-system-x86_64. The interface is unplugged between the measurements.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::convert::Infallible;
use std::num::NonZeroU16;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Map, Value, json};
use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, OpenFacts, OpenRecorder, TapName, TapRequest, open_tap,
};
use taptrail_kernel::link::{Change, Links};
use taptrail_qmp::{Monitor, NetdevTap, QmpError, Waited};

const LONG_TIMEOUT: Duration = Duration::from_secs(20);

/// The pause before each measurement, so that QEMU is idle.
const SETTLE_TIME: Duration = Duration::from_millis(20);

fn main() {
    // First, because criterion runs cargo to find its directory, and cargo may need the network.
    let mut criterion = Criterion::default().configure_from_args();
    unshare(CloneFlags::CLONE_NEWNET).expect("root and network namespaces are needed");
    ip("link add br0 type bridge");
    ip("link set br0 up");
    let mut group = criterion.benchmark_group("hot_plug");
    // Unplugging is not timed, but takes ten times as long.
    group.sampling_mode(SamplingMode::Flat).sample_size(50);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(8));

    let (_qemu, mut monitor) = Qemu::start();
    let mut links = Links::open().unwrap();
    let mut measure = |name: &str, part: fn(&HotPlug) -> Duration| {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                (0..rounds).map(|_| part(&HotPlug::measure(&mut monitor, &mut links))).sum()
            });
        });
    };
    measure("all", |times| times.getfd + times.netdev_add + times.device_add);
    measure("getfd", |times| times.getfd);
    measure("netdev_add", |times| times.netdev_add);
    measure("device_add", |times| times.device_add);
    group.finish();
    criterion.final_summary();
}

/// The time that each of QEMU's replies took.
struct HotPlug {
    getfd: Duration,
    netdev_add: Duration,
    device_add: Duration,
}

impl HotPlug {
    /// Hot-plugs an interface, and unplugs it again.
    fn measure(monitor: &mut Monitor, links: &mut Links) -> Self {
        let tap = tap(links);
        let netdev = NetdevTap {
            id: "host-nic0".to_owned(),
            fds: vec!["tap".to_owned()],
            vhost_fds: Vec::new(),
            send_buffer: None,
        };
        let nic = nic();
        thread::sleep(SETTLE_TIME);

        let begun = Instant::now();
        monitor.getfd("tap", &tap, LONG_TIMEOUT).unwrap();
        let given = Instant::now();
        monitor.netdev_add(&netdev, LONG_TIMEOUT).unwrap();
        let added = Instant::now();
        monitor.device_add(&nic, LONG_TIMEOUT).unwrap();
        let plugged = Instant::now();

        drop(tap);
        monitor.device_del("nic0", LONG_TIMEOUT).unwrap();
        let gone = monitor
            .wait_event(Instant::now() + LONG_TIMEOUT, &[], |event| {
                event.name == "DEVICE_DELETED" && event.text("device") == Some("nic0")
            })
            .unwrap();
        assert!(matches!(gone, Waited::Event(_)), "{gone:?}");
        monitor.netdev_del("host-nic0", LONG_TIMEOUT).unwrap();
        Self { getfd: given - begun, netdev_add: added - given, device_add: plugged - added }
    }
}

/// A new tap, up on the bridge.
fn tap(links: &mut Links) -> Admitted {
    struct FakeRecorder;
    impl OpenRecorder for FakeRecorder {
        type Error = Infallible;
        fn record(&mut self, _: &[OpenFacts]) -> Result<(), Infallible> {
            Ok(())
        }
    }
    let request = TapRequest {
        path: DEV_NET_TUN.as_ref(),
        name: TapName::Pattern("vnet%d"),
        queues: NonZeroU16::MIN,
        vnet_hdr: true,
    };
    let (mut devices, error) = open_tap(&request).admit(&mut FakeRecorder).unwrap();
    assert!(error.is_none(), "{error:?}");
    let tap = devices.pop().unwrap();
    let bridge = links.find(&"br0".parse().unwrap()).unwrap().unwrap();
    let link = links.find(tap.facts().dev.as_ref().unwrap()).unwrap().unwrap();
    let change = Change { master: Some(bridge.index), up: Some(true), ..Change::default() };
    links.configure(link.index, &change).unwrap();
    tap
}

fn nic() -> Map<String, Value> {
    let properties = json!({
        "driver": "virtio-net-pci", "id": "nic0", "netdev": "host-nic0",
        "mac": "52:54:00:00:00:01", "bus": "port0",
    });
    properties.as_object().cloned().unwrap()
}

fn ip(args: &str) {
    let status =
        Command::new("/usr/sbin/ip").args(args.split_whitespace()).status().expect("ip(8) is needed");
    assert!(status.success(), "ip {args}: {status}");
}

/// A paused q35 with the PCI ports and the sandbox that the supervisor adds.
struct Qemu {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Qemu {
    fn start() -> (Self, Monitor) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("monitor");
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35,accel=tcg", "-m", "64", "-nodefaults", "-display", "none", "-S"])
            .args(["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"])
            .args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()));
        for port in 0..5 {
            let slot = 255 - port;
            let device = format!("pcie-root-port,id=port{port},bus=pcie.0,chassis={slot},slot={slot}");
            command.args(["-device", &device]);
        }
        let child = command.spawn().expect("qemu-system-x86_64 is needed");
        let qemu = Self { child, _dir: dir };
        loop {
            match Monitor::connect(&socket, Instant::now() + LONG_TIMEOUT) {
                Ok(monitor) => return (qemu, monitor),
                Err(QmpError::Connect { .. }) => thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
