//! The real QEMU takes the command lines that are built, and says itself which of its options take
//! a value. Needs root and qemu-system-x86_64.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic, its helpers too")]

use std::convert::Infallible;
use std::ffi::OsString;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use taptrail_guest::qemu::{Additions, CommandLine, NicOnCommandLine, Ports, device_properties};
use taptrail_guest::spec::{NicSpec, Property};
use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, OpenFacts, OpenRecorder, TapName, TapRequest, open_tap,
};
use taptrail_kernel::proc::raw_devices;
use taptrail_kernel::process::{SpawnRequest, spawn};
use taptrail_qmp::{Monitor, NetdevTap, Waited};
use taptrail_record::GuestId;
use uuid::Uuid;

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const LONG: Duration = Duration::from_secs(20);

fn later() -> Instant {
    Instant::now() + LONG
}

struct FakeRecorder;

impl OpenRecorder for FakeRecorder {
    type Error = Infallible;

    fn record(&mut self, _: &[OpenFacts]) -> Result<(), Infallible> {
        Ok(())
    }
}

fn taps(name: &str, queues: u16) -> Vec<Admitted> {
    let name = name.parse().unwrap();
    let request = TapRequest {
        path: DEV_NET_TUN.as_ref(),
        name: TapName::New(&name),
        queues: NonZeroU16::new(queues).unwrap(),
        vnet_hdr: true,
    };
    let (devices, error) = open_tap(&request).admit(&mut FakeRecorder).unwrap();
    assert!(error.is_none(), "{error:?}");
    devices
}

fn own_network_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .expect("root is needed for a network namespace");
}

fn nic(number: usize, model: &str, taps: &[Admitted], port: Option<&String>) -> NicOnCommandLine {
    NicOnCommandLine {
        id: format!("nic{number}"),
        netdev_id: format!("net{number}"),
        spec: spec(model, taps.len()),
        mac: format!("52:54:00:00:00:0{number}").parse().unwrap(),
        fds: taps.iter().map(|tap| tap.as_fd().as_raw_fd()).collect(),
        vhost_fds: Vec::new(),
        bus: port.cloned(),
    }
}

fn spec(model: &str, queues: usize) -> NicSpec {
    format!("tap=tap0,model={model},queues={queues},mtu=1400").parse().unwrap()
}

/// A NIC of this SPEC, as the machine of a command line has it.
fn settled(program: &str, machine: &str, spec: &str, taps: &[Admitted]) -> NicOnCommandLine {
    let command = CommandLine::parse(program, ["-M", machine].map(OsString::from)).unwrap();
    let mut spec: NicSpec = spec.parse().unwrap();
    command.virtio_bus().settle(&mut spec).unwrap();
    NicOnCommandLine { spec, ..nic(0, "virtio", taps, None) }
}

struct Guest {
    child: Child,
    monitor: Monitor,
    _place: tempfile::TempDir,
}

impl Guest {
    fn start(words: &[&str], nics: &[NicOnCommandLine], ports: &Ports, devices: &[&Admitted]) -> Self {
        Self::start_with(QEMU, words, nics, ports, devices)
    }

    fn start_with(
        program: &str,
        words: &[&str],
        nics: &[NicOnCommandLine],
        ports: &Ports,
        devices: &[&Admitted],
    ) -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("monitor");
        let listener = UnixListener::bind(&path).unwrap();
        let command = CommandLine::parse(program, words.iter().map(OsString::from)).unwrap();
        let guest = GuestId { name: "web,1=a".into(), uuid: Uuid::from_u128(7) };
        let args = command.with(&Additions {
            guest: &guest,
            monitor_fd: listener.as_raw_fd(),
            nics,
            ports,
            sandbox: true,
        });
        let mut request = SpawnRequest::new(Path::new(program), &args);
        request.devices = devices;
        request.monitor = Some(&listener);
        request.stdin = Stdio::null();
        let child = spawn(request).unwrap();
        let monitor = Monitor::connect(&path, later()).unwrap();
        Self { child, monitor, _place: place }
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Value {
        self.monitor.execute(command, arguments, LONG).unwrap()
    }

    fn property(&mut self, nic: &str, property: &str) -> Value {
        self.ask("qom-get", json!({ "path": format!("/machine/peripheral/{nic}"), "property": property }))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// Shows 5.1.
#[test]
fn qemu_starts_with_the_nics_it_was_given_and_takes_more() {
    own_network_namespace();
    let (single, several) = (taps("tap0", 1), taps("tap1", 3));
    let ports = Ports::new(4);
    let nics =
        [nic(0, "e1000e", &single, ports.names.first()), nic(1, "virtio", &several, ports.names.get(1))];
    let devices: Vec<&Admitted> = single.iter().chain(&several).collect();
    let words = ["-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-global"];
    let words = [&words[..], &["ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]].concat();
    let mut guest = Guest::start(&words, &nics, &ports, &devices);

    assert_eq!(guest.ask("query-name", Value::Null), json!({ "name": "web,1=a" }));
    assert_eq!(
        guest.ask("query-uuid", Value::Null),
        json!({ "UUID": "00000000-0000-0000-0000-000000000007" })
    );
    assert_eq!(guest.monitor.query_status(LONG).unwrap().status, "prelaunch");
    assert_eq!(guest.property("nic1", "mq"), true);
    assert_eq!(guest.property("nic1", "vectors"), 8);
    assert_eq!(guest.property("nic1", "host_mtu"), 1400);
    assert_eq!(raw_devices(guest.child.id()).unwrap().len(), 4);

    // A slot that is full from the start has power, so its NIC goes only when a guest system lets
    // go of it. The taps go all the same.
    for netdev in ["net0", "net1"] {
        guest.monitor.netdev_del(netdev, LONG).unwrap();
    }
    assert_eq!(raw_devices(guest.child.id()).unwrap(), []);

    let later_one = taps("tap2", 2);
    for (name, tap) in ["q0", "q1"].iter().zip(&later_one) {
        guest.monitor.getfd(name, tap, LONG).unwrap();
    }
    let backend = NetdevTap {
        id: "net9".to_owned(),
        fds: vec!["q0".to_owned(), "q1".to_owned()],
        vhost_fds: vec![],
        send_buffer: None,
    };
    guest.monitor.netdev_add(&backend, LONG).unwrap();
    let mac = "52:54:00:00:00:09".parse().unwrap();
    let port = ports.names.last().map(String::as_str);
    let properties = device_properties("nic9", "net9", &spec("virtio", 2), mac, port);
    guest.monitor.device_add(&properties, LONG).unwrap();
    assert_eq!(guest.property("nic9", "vectors"), 6);
    assert_eq!(guest.property("nic9", "mq"), true);
    guest.monitor.device_del("nic9", LONG).unwrap();
    let gone = guest.monitor.wait_event(later(), &[], |event| {
        event.name == "DEVICE_DELETED" && event.text("device") == Some("nic9")
    });
    assert!(matches!(gone, Ok(Waited::Event(_))), "{gone:?}");
}

// Shows 5.42.
#[test]
fn qemu_sets_each_property_of_the_device_at_its_start_and_hot_plugged() {
    own_network_namespace();
    let spec: NicSpec = "tap=tap0,boot=3,acpi-index=9,rom=off,rom-bar=off,rx-queue-size=512,tx-queue-size=256,tx-mode=timer,\
                         ioeventfd=off,event-idx=off,iommu=on,ats=on,packed=on,page-per-vq=on,rss=on,hash=on,failover=on,csum=off,\
                         gso=off,host-tso4=off,host-tso6=off,host-ecn=off,host-ufo=off,mrg-rxbuf=off,guest-csum=off,\
                         guest-tso4=off,guest-tso6=off,guest-ecn=off,guest-ufo=off"
        .parse()
        .unwrap();
    // A place on the root bus is in the place of a port: tests/e2e/host_side.rs. A device number is
    // s390x's.
    let places = ["address", "devno"];
    let all = Property::all().filter(|property| !places.contains(&property.as_str())).count();
    assert_eq!(spec.properties.len(), all, "each is set");
    let single = taps("tap0", 1);
    let ports = Ports::new(2);
    let first = NicOnCommandLine { spec: spec.clone(), ..nic(0, "virtio", &single, ports.names.first()) };
    let devices: Vec<&Admitted> = single.iter().collect();
    let words = ["-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none"];
    let mut guest = Guest::start(&words, &[first], &ports, &devices);

    let later_one = taps("tap1", 1);
    guest.monitor.getfd("q0", &later_one[0], LONG).unwrap();
    let backend =
        NetdevTap { id: "net9".to_owned(), fds: vec!["q0".to_owned()], vhost_fds: vec![], send_buffer: None };
    guest.monitor.netdev_add(&backend, LONG).unwrap();
    let mac = "52:54:00:00:00:09".parse().unwrap();
    let mut spec = spec;
    // Each device has its own.
    for property in Property::all().filter(|property| ["boot", "acpi-index"].contains(&property.as_str())) {
        spec.properties.insert(property, "4".to_owned());
    }
    let port = ports.names.last().map(String::as_str);
    let properties = device_properties("nic9", "net9", &spec, mac, port);
    guest.monitor.device_add(&properties, LONG).unwrap();

    let off = [
        "ioeventfd",
        "event_idx",
        "csum",
        "gso",
        "host_tso4",
        "host_tso6",
        "host_ecn",
        "host_ufo",
        "mrg_rxbuf",
    ];
    let guest_off = ["guest_csum", "guest_tso4", "guest_tso6", "guest_ecn", "guest_ufo"];
    let on = ["iommu_platform", "ats", "packed", "page-per-vq", "rss", "hash", "failover"];
    for (nic, own) in [("nic0", [3, 9]), ("nic9", [4, 4])] {
        let mut expected = vec![
            ("bootindex", json!(own[0])),
            ("acpi-index", json!(own[1])),
            ("romfile", json!("")),
            ("rombar", json!(0)),
            ("rx_queue_size", json!(512)),
            ("tx_queue_size", json!(256)),
            ("tx", json!("timer")),
        ];
        expected.extend(off.iter().chain(&guest_off).map(|name| (*name, json!(false))));
        expected.extend(on.iter().map(|name| (*name, json!(true))));
        assert_eq!(expected.len(), all);
        for (name, value) in expected {
            assert_eq!(guest.property(nic, name), value, "{name} of {nic}");
        }
    }
}

/// The machine's virtio NIC starts with what a SPEC sets, and its machine is known by the monitor as it is
/// by the command line.
fn starts_with_its_virtio(
    program: &str,
    machine: &str,
    spec: &str,
    driver: &str,
    expected: &[(&str, Value)],
) {
    let several = taps("tap0", 2);
    let first = settled(program, machine, spec, &several);
    assert_eq!(first.spec.model.qemu_driver(), driver, "{machine}");
    let devices: Vec<&Admitted> = several.iter().collect();
    // Debian's firmware, wherever the program is.
    let words = ["-L", "/usr/share/qemu", "-machine", machine, "-accel", "tcg", "-nodefaults"];
    let words = [&words[..], &["-display", "none"]].concat();
    let mut guest = Guest::start_with(program, &words, &[first], &Ports::default(), &devices);
    assert_eq!(guest.property("nic0", "type"), driver, "{machine}");
    for (name, value) in [("host_mtu", json!(1400)), ("mq", json!(true))].iter().chain(expected) {
        assert_eq!(&guest.property("nic0", name), value, "{name} on {machine}");
    }
    let found = guest.monitor.machine(LONG).unwrap().unwrap();
    let known = program.rsplit("qemu-system-").next().unwrap();
    assert_eq!(found.architecture, known);
    assert!(found.kind.starts_with(machine.split(',').next().unwrap()), "{found:?}");
    assert_eq!(found.pcie, machine.ends_with("pcie=on"), "{found:?}");
}

// Shows 5.48.
#[test]
fn virtio_is_memory_mapped_on_a_microvm_and_pci_where_it_has_pci() {
    own_network_namespace();
    let spec = "tap=tap0,queues=2,mtu=1400,packed=on,event-idx=off,boot=2";
    let set = [("packed", json!(true)), ("event_idx", json!(false)), ("bootindex", json!(2))];
    starts_with_its_virtio(QEMU, "microvm", spec, "virtio-net-device", &set);
    starts_with_its_virtio(QEMU, "microvm,pcie=on", spec, "virtio-net-pci", &set);
}

#[test]
#[ignore = "needs QEMU for s390x, Arm and m68k: Debian's qemu-system-misc and qemu-system-arm"]
fn virtio_is_what_machines_of_other_architectures_have() {
    own_network_namespace();
    let bin = std::env::var("QEMU_BIN").unwrap_or_else(|_| "/usr/bin".to_owned());
    let program = |architecture: &str| format!("{bin}/qemu-system-{architecture}");
    let spec = "tap=tap0,queues=2,mtu=1400,packed=on,event-idx=off,boot=2";
    let set = [("packed", json!(true)), ("event_idx", json!(false)), ("bootindex", json!(2))];
    let on_mmio = [("arm", "vexpress-a15"), ("m68k", "virt")];
    for (architecture, machine) in on_mmio {
        starts_with_its_virtio(&program(architecture), machine, spec, "virtio-net-device", &set);
    }
    // ROMs are of another package.
    let on_pci = format!("{spec},rom=off");
    starts_with_its_virtio(&program("aarch64"), "virt", &on_pci, "virtio-net-pci", &set);
    let (s390x, machine) = (program("s390x"), "s390-ccw-virtio");
    starts_with_its_virtio(&s390x, machine, spec, "virtio-net-ccw", &set);
    let spec = "tap=tap0,queues=2,mtu=1400,devno=fe.0.00a1";
    starts_with_its_virtio(&s390x, machine, spec, "virtio-net-ccw", &[("devno", json!("fe.0.00a1"))]);
    let spec = "tap=tap0,queues=2,mtu=1400,rom=off,address=05";
    starts_with_its_virtio(&s390x, machine, spec, "virtio-net-pci", &[("vectors", json!(6))]);
}

#[test]
fn the_most_ports_fit_beside_a_users_own_devices() {
    let words = [
        "-machine",
        "q35",
        "-accel",
        "tcg",
        "-nodefaults",
        "-display",
        "none",
        "-device",
        "pcie-root-port,id=mine,chassis=1,slot=1",
        "-device",
        "virtio-rng-pci",
    ];
    let mut guest = Guest::start(&words, &[], &Ports::new(usize::MAX), &[]);
    assert_eq!(guest.monitor.query_status(LONG).unwrap().status, "prelaunch");
}

#[test]
fn the_default_machine_takes_a_nic_without_a_port() {
    own_network_namespace();
    let single = taps("tap0", 1);
    let nics = [nic(0, "rtl8139", &single, None)];
    let devices: Vec<&Admitted> = single.iter().collect();
    let words = ["-accel", "tcg", "-nodefaults", "-display", "none"];
    let mut guest = Guest::start(&words, &nics, &Ports::default(), &devices);
    assert_eq!(guest.property("nic0", "mac"), "52:54:00:00:00:00");
}

#[test]
fn a_guest_paused_by_its_user_starts_paused_too() {
    let words = ["-M", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-sandbox", "off"];
    let mut guest = Guest::start(&words, &[], &Ports::new(1), &[]);
    assert!(!guest.monitor.query_status(LONG).unwrap().running);
}
