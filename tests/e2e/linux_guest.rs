//! A Linux guest that uses its NICs and releases them on request, while `/proc`, QEMU and the trail
//! are compared. `make test-linux-guest` runs these tests, in a virtual machine with a
//! `/dev/vhost-net`.

pub(crate) mod system;
mod watch;

use std::path::Path;
use std::time::Instant;

use crate::world::procfs::{Descriptor, descriptors};
use crate::world::{Guest, World};
use serde_json::{Value, json};
use system::{System, ping, wait};
use watch::{Sample, Sampler};

const FIRST: &str = "52:54:00:00:00:02";
const SECOND: &str = "52:54:00:00:01:03";
const ROUNDS: usize = 5;

// Shows 7.5.
#[test]
fn a_linux_guest_releases_the_nics_that_it_used() {
    rounds(&[]);
}

// Shows 7.5.
#[test]
fn a_linux_guest_lets_go_by_pci_expresss_own_hot_plugging() {
    rounds(&["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]);
}

/// Plugs, uses and unplugs a NIC with two queues and vhost-net, five times, beside another NIC; and
/// once more while the guest's processors are stopped at the request.
fn rounds(options: &[&str]) {
    let scene = Scene::set(options);
    let Scene { world, system, guest, first } = &scene;

    let watch = Sampler::begin(guest.pid);
    for round in 1..=ROUNDS {
        let begin = Instant::now();
        scene.plug(round);
        let used = begin.elapsed();
        world.taptrail(["detach", "web1", SECOND, "--timeout", "3m"]).ok();
        assert_eq!(descriptors(guest.pid), *first, "round {round}: a released device is gone");
        let detached = begin.elapsed();
        scene.assert_unplugged(round);
        eprintln!("round {round}: used after {used:.1?}, detached after {detached:.1?}");
    }

    let both = scene.plug(ROUNDS + 1);
    system.set_paused(true);
    world.taptrail(["detach", "web1", SECOND, "--timeout", "1s"]).fails(3, "did not let go");
    assert_eq!(descriptors(guest.pid), both, "a NIC that the guest does not release is held");
    assert_eq!(reported_devices(world, guest), both);
    system.set_paused(false);
    wait("it lets go later", || reported_devices(world, guest) == *first);
    assert_eq!(descriptors(guest.pid), *first, "a device that was released late is gone");
    scene.assert_unplugged(ROUNDS + 1);

    let samples = watch.end();
    world.taptrail(["stop", "web1", "--timeout", "3m"]).ok();
    scene.assert_recorded(&samples);
    world.ip("link delete br1");
    world.assert_clean();
}

/// A Linux guest that has booted, with one NIC, and a port for another on a bridge of its own.
struct Scene {
    world: World,
    system: System,
    guest: Guest,
    /// QEMU's descriptors for the first NIC.
    first: Vec<Descriptor>,
}

impl Scene {
    fn set(options: &[&str]) -> Self {
        let world = World::new();
        for command in [
            "address add 10.0.0.1/24 dev br0",
            "link add br1 type bridge",
            "link set br1 up",
            "address add 10.0.1.1/24 dev br1",
        ] {
            world.ip(command);
        }
        let system = System::new(&world);
        let accelerator = if Path::new("/dev/kvm").exists() { "kvm" } else { "tcg" };
        let spec = format!("bridge=br0,mac={FIRST},queues=2,vhost=on");
        let begin = Instant::now();
        let guest = system.start(&world, &spec, accelerator, options);
        system.wait_for_line(&format!("nic eth0 {FIRST} 10.0.0.2 queues=2"), 1);
        ping("10.0.0.2");
        eprintln!("booted and on the network after {:.1?}", begin.elapsed());
        system.assert_vhost_in_use(1);
        let first = descriptors(guest.pid);
        assert_eq!(names(&first), ["/dev/vhost-net", "/dev/vhost-net", "vnet0", "vnet0"]);
        assert_eq!(reported_devices(&world, &guest), first);
        Self { world, system, guest, first }
    }

    /// Plugs the second NIC and has the guest use it. Returns QEMU's descriptors.
    fn plug(&self, times: usize) -> Vec<Descriptor> {
        let Self { world, system, guest, first } = self;
        world.attach(guest, &format!("bridge=br1,mac={SECOND},queues=2,vhost=on")).ok();
        let both = descriptors(guest.pid);
        assert_eq!(
            names(both.iter().filter(|one| !first.contains(one))),
            ["/dev/vhost-net", "/dev/vhost-net", "vnet1", "vnet1"]
        );
        assert_eq!(reported_devices(world, guest), both);

        system.wait_for_line(&format!("nic eth1 {SECOND} 10.0.1.3 queues=2"), times);
        ping("10.0.1.3");
        system.assert_vhost_in_use(2);
        assert_eq!(descriptors(guest.pid), both);
        both
    }

    /// Asserts that the second NIC is gone for taptrail and for the guest, which goes on with the
    /// first.
    fn assert_unplugged(&self, times: usize) {
        assert_eq!(reported_devices(&self.world, &self.guest), self.first);
        self.system.wait_for_line(&format!("gone eth1 {SECOND}"), times);
        ping("10.0.0.2");
    }

    /// Asserts that records and trail agree with the samples.
    fn assert_recorded(&self, samples: &[Sample]) {
        assert_eq!(self.world.record_lines(), record_lines());
        let trail = self.world.trail();
        let findings = trail["findings"].as_array().unwrap().iter().map(|finding| &finding["kind"]);
        assert_eq!(findings.collect::<Vec<_>>(), ["detach-failed"]);
        let holdings = trail["holdings"].as_array().unwrap();
        let of = |mac: &str, kind: &str| -> Vec<&Value> {
            holdings.iter().filter(|of| of["mac"] == mac && of["device"]["kind"] == kind).collect()
        };
        for (mac, times, end) in [(FIRST, 1, "stop"), (SECOND, ROUNDS + 1, "detach")] {
            for kind in ["tun", "vhost-net"] {
                let holdings = of(mac, kind);
                assert_eq!(holdings.len(), times, "{mac} {kind}");
                for holding in holdings {
                    assert_eq!((&holding["state"], &holding["ended_by"]), (&json!("released"), &json!(end)));
                    assert_eq!(
                        (&holding["certainty"], &holding["queues"]),
                        (&json!("definitive"), &json!(2))
                    );
                }
            }
        }
        let is_second = |one: &Descriptor| !self.first.contains(one);
        watch::compare(samples, &of(SECOND, "tun"), 2, |one| is_second(one) && one.iff.is_some());
        watch::compare(samples, &of(SECOND, "vhost-net"), 2, |one| is_second(one) && one.iff.is_none());
    }
}

/// The interface of each descriptor, or its node if it has no interface.
fn names<'a>(all: impl IntoIterator<Item = &'a Descriptor>) -> Vec<&'a str> {
    let mut names: Vec<&str> =
        all.into_iter().map(|one| one.iff.as_ref().unwrap_or(&one.link).as_str()).collect();
    names.sort_unstable();
    names
}

/// The descriptors that taptrail reports in QEMU.
fn reported_devices(world: &World, guest: &Guest) -> Vec<Descriptor> {
    let nics = world.nics(guest);
    let devices = nics.as_array().unwrap().iter().flat_map(|nic| nic["devices"].as_array().unwrap());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut reported: Vec<Descriptor> = devices
        .map(|device| Descriptor {
            fd: i32::try_from(device["qemu_fd"].as_i64().unwrap()).unwrap(),
            link: text(&device["path"]).unwrap(),
            rdev: text(&device["rdev"]).unwrap(),
            iff: text(&device["dev"]),
        })
        .collect();
    reported.sort();
    reported
}

/// The expected records, one line each.
fn record_lines() -> Vec<String> {
    let devices = |what: &str, mac: &str, tap: &str| {
        [
            format!("tun {tap} q0"),
            format!("tun {tap} q1"),
            "vhost-net q0".to_owned(),
            "vhost-net q1".to_owned(),
        ]
        .map(|device| format!("{what} {mac} {device}"))
    };
    let mut record_lines = Vec::from(devices("open", "02", "vnet0"));
    record_lines.extend(["start 02", "guest booted"].map(str::to_owned));
    for round in 0..=ROUNDS {
        record_lines.extend(devices("open", "03", "vnet1"));
        record_lines.push("attach 03".to_owned());
        if round == ROUNDS {
            record_lines.push("detach 03 FAILED".to_owned());
        }
        record_lines.extend(devices("close", "03", "vnet1"));
        record_lines.push("detach 03".to_owned());
    }
    record_lines.extend(devices("close", "02", "vnet0"));
    record_lines.push("guest shutdown".to_owned());
    record_lines
}
