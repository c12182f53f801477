//! One guest with records and looks that are made by hand, for devices that a test host does not
//! have.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_bpf::{File, FileChanges, FileId, FileState, Held, RemainingFiles};
use taptrail_kernel::proc::{PidFd, ProcessId};
use taptrail_record::{CloseDoubt, Device, DeviceKind, Event, GuestId, MacAddr, Rdev, Reason, Record};

use super::command_line::Netdev;
use super::evidence::Doubt;
use super::guest::{GuestInstance, LookContext, Observation, Qemu};
use super::held_back::Backing;
use super::known::KnownDescriptor;
use super::observe::{LinkId, ObservedDescriptor};

const PID: u32 = 40;

fn mac(last: u8) -> MacAddr {
    MacAddr::kvm([0, 0, last])
}

fn id() -> GuestId {
    GuestId { name: "g".into(), uuid: uuid::Uuid::from_u128(1) }
}

fn tun(fd: u32, number: u32) -> ObservedDescriptor {
    let device = Device::new("/dev/net/tun", Some(Rdev::TUN), Some(format!("vnet{number}").into()));
    ObservedDescriptor {
        fds: vec![fd],
        device,
        link: Some(LinkId { netns: None, index: number }),
        address: None,
        libvirt_mac: None,
        port: None,
    }
}

/// A tap whose MAC is made from its interface's.
fn host_tap(fd: u32, number: u32, mac: MacAddr) -> ObservedDescriptor {
    ObservedDescriptor { address: Some(mac.host_side()), ..tun(fd, number) }
}

fn vhost(fd: u32) -> ObservedDescriptor {
    let device = Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None);
    ObservedDescriptor { fds: vec![fd], device, link: None, address: None, libvirt_mac: None, port: None }
}

/// A guest, and the current time.
struct Scene {
    guest: GuestInstance,
    now: LookContext,
    number: u64,
    /// What the kernel shows of vanished descriptors.
    shown: Result<(), Doubt>,
}

impl Scene {
    fn new() -> Self {
        let (patience, every) = (Duration::from_secs(5), Duration::from_secs(30));
        let (instant, time) = (Instant::now(), Timestamp::now());
        let (guest, now) =
            (GuestInstance::new(id(), instant), LookContext { instant, time, patience, every });
        let mut scene = Self { guest, now, number: 0, shown: Ok(()) };
        scene.record(Event::GuestStart { reason: Reason::BOOTED, vm_pid: Some(PID) });
        scene
    }

    fn record(&mut self, event: Event) {
        self.number += 1;
        self.guest.apply_record(
            &Record::success(id(), event),
            Some(812),
            self.now.time,
            self.number,
            self.now.instant,
        );
    }

    /// Writes the records of a hot-plug by libvirt: a tap with its vhost-net.
    fn record_attach(&mut self, mac: MacAddr) {
        for device in [tun(0, 0).device, vhost(0).device] {
            self.record(Event::Open { mac, device: Device { dev: None, ..device }, queue: None });
        }
        self.record(Event::Attach { mac, vm_pid: None, fds: None });
    }

    fn record_detach(&mut self, mac: MacAddr) {
        self.record(Event::Detach { mac, vm_pid: None, fds: None, forced: false });
    }

    fn advance(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.time += Duration::from_secs(seconds);
    }

    /// Looks. Returns what happened to each descriptor and its interface.
    fn look(&mut self, seen: &[ObservedDescriptor]) -> Vec<String> {
        let mut observations = Vec::new();
        let seen = seen.to_vec();
        self.guest.reconcile(PID, seen, self.now, &mut |_| self.shown, &mut self.number, &mut observations);
        let line = |what: &str, of: &taptrail_record::Descriptor| {
            let mac = of.mac.map_or("-".to_owned(), |mac| format!("{:02x}", mac.0[5]));
            let dev = of.device.dev.as_deref().unwrap_or("vhost");
            format!("{what} {mac} {dev} q{} fd{}", of.queue.unwrap(), of.fd)
        };
        let lines = observations.iter().filter_map(|observation| match observation {
            Observation::Seen { descriptor, .. } => Some(line("seen", descriptor)),
            Observation::StillHeld(descriptor) => Some(line("still", descriptor)),
            Observation::Gone { descriptor, doubt: None, .. } => Some(line("gone", descriptor)),
            Observation::Gone { descriptor, doubt: Some(doubt), .. } => {
                Some(format!("{} {}", line("gone", descriptor), doubt.why))
            }
            _ => None,
        });
        lines.collect()
    }
}

// Shows 13.13.
#[test]
fn a_number_that_is_used_again_is_another_descriptor() {
    let mut scene = Scene::new();
    scene.record_attach(mac(1));
    assert_eq!(scene.look(&[tun(25, 5), vhost(27)]), ["seen 01 vnet5 q0 fd25", "seen 01 vhost q0 fd27"]);
    // Both happen between two looks, and QEMU takes the lowest free numbers.
    scene.record_detach(mac(1));
    scene.record_attach(mac(2));
    let seen = scene.look(&[tun(25, 6), vhost(27)]);
    assert_eq!(
        seen,
        ["gone 01 vnet5 q0 fd25", "gone 01 vhost q0 fd27", "seen 02 vnet6 q0 fd25", "seen 02 vhost q0 fd27"]
    );
    scene.advance(60);
    assert_eq!(scene.look(&[tun(25, 6), vhost(27)]), [""; 0]);
}

#[test]
fn a_device_that_is_there_before_its_records_waits_for_them() {
    let mut scene = Scene::new();
    scene.record_attach(mac(1));
    scene.look(&[tun(25, 5), vhost(27)]);
    // The watcher looks between the change and its records.
    assert_eq!(scene.look(&[tun(25, 6), vhost(27)]), ["gone 01 vnet5 q0 fd25"]);
    scene.record_detach(mac(1));
    scene.record_attach(mac(2));
    let seen = scene.look(&[tun(25, 6), vhost(27)]);
    assert_eq!(seen, ["gone 01 vhost q0 fd27", "seen 02 vnet6 q0 fd25", "seen 02 vhost q0 fd27"]);
    scene.advance(60);
    assert_eq!(scene.look(&[tun(25, 6), vhost(27)]), [""; 0]);
}

#[test]
fn a_vhost_net_that_stays_behind_is_reported() {
    let mut scene = Scene::new();
    scene.record_attach(mac(1));
    scene.look(&[tun(25, 5), vhost(27)]);
    scene.record_detach(mac(1));
    assert_eq!(scene.look(&[vhost(27)]), ["gone 01 vnet5 q0 fd25"]);
    scene.advance(5);
    assert_eq!(scene.look(&[vhost(27)]), ["still 01 vhost q0 fd27"]);
    scene.advance(60);
    assert_eq!(scene.look(&[vhost(27)]), [""; 0], "once");
    assert_eq!(scene.look(&[]), ["gone 01 vhost q0 fd27"]);
}

// A record is still to come.
#[test]
fn a_vhost_net_more_than_queues_is_another_interfaces() {
    let mut scene = Scene::new();
    scene.record_attach(mac(2));
    scene.record(Event::Open { mac: mac(1), device: Device { dev: None, ..tun(0, 0).device }, queue: None });
    let seen = scene.look(&[tun(20, 1), vhost(21), host_tap(22, 2, mac(1)), vhost(23)]);
    assert_eq!(seen, ["seen 02 vnet1 q0 fd20", "seen 02 vhost q0 fd21"]);
    scene.record(Event::Open { mac: mac(1), device: Device { dev: None, ..vhost(0).device }, queue: None });
    scene.record(Event::Attach { mac: mac(1), vm_pid: None, fds: None });
    scene.record_detach(mac(1));
    scene.record_attach(mac(1));
    // With two queues its vhost-nets have other numbers than before.
    let taps = [host_tap(22, 3, mac(1)), host_tap(23, 3, mac(1))];
    let seen = scene.look(&[&[tun(20, 1), vhost(21)], &taps[..], &[vhost(24), vhost(25)]].concat());
    let expected = ["vnet3 q0 fd22", "vnet3 q1 fd23", "vhost q0 fd24", "vhost q1 fd25"];
    assert_eq!(seen, expected.map(|one| format!("seen 01 {one}")));
}

/// Two interfaces, with vhost-nets as 21 and 23.
fn two_plugged() -> Scene {
    let mut scene = Scene::new();
    scene.record_attach(mac(1));
    scene.look(&[tun(20, 1), vhost(21)]);
    scene.record_attach(mac(2));
    scene.look(&[tun(20, 1), vhost(21), tun(22, 2), vhost(23)]);
    scene
}

#[test]
fn a_vanished_vhost_net_is_not_what_another_interface_got() {
    let mut scene = two_plugged();
    scene.record_attach(mac(3));
    let seen = [tun(20, 1), tun(22, 2), vhost(23), tun(24, 3), vhost(25)];
    let expected = ["gone 01 vhost q0 fd21", "seen 03 vnet3 q0 fd24", "seen 03 vhost q0 fd25"];
    assert_eq!(scene.look(&seen), expected);
}

#[test]
fn a_moved_vhost_net_is_known_once_no_record_explains_it() {
    let mut scene = two_plugged();
    let open = |device| Event::Open { mac: mac(3), device: Device { dev: None, ..device }, queue: None };
    scene.record(open(tun(0, 0).device));
    scene.record(open(vhost(0).device));
    let seen = [tun(20, 1), tun(22, 2), vhost(23), tun(24, 3), vhost(25), vhost(30)];
    assert_eq!(scene.look(&seen), [""; 0], "the hot-plug is under way");
    scene.record(Event::Attach { mac: mac(3), vm_pid: None, fds: None });
    assert_eq!(scene.look(&seen), ["seen 03 vnet3 q0 fd24", "seen 03 vhost q0 fd25"]);
    scene.advance(5);
    assert_eq!(scene.look(&seen), [""; 0]);
    assert_eq!(scene.look(&seen[..5]), ["gone 01 vhost q0 fd21"]);
}

#[test]
fn a_vhost_net_that_stays_behind_under_another_number_is_not_released() {
    let mut scene = two_plugged();
    scene.record_detach(mac(1));
    let seen = [tun(22, 2), vhost(23), vhost(30)];
    assert_eq!(scene.look(&seen), ["gone 01 vnet1 q0 fd20"]);
    scene.advance(5);
    assert_eq!(scene.look(&seen), ["gone 01 vhost q0 fd21 uncounted", "seen - vhost q0 fd30"]);
}

#[test]
fn a_duplicated_descriptor_is_one_and_is_held_as_long_as_any_of_it() {
    let mut scene = Scene::new();
    scene.record_attach(mac(1));
    let both = ObservedDescriptor { fds: vec![25, 40], ..tun(25, 5) };
    assert_eq!(scene.look(&[both]), ["seen 01 vnet5 q0 fd25"]);
    assert_eq!(scene.look(&[tun(40, 5)]), [""; 0]);
    assert_eq!(scene.look(&[]), ["gone 01 vnet5 q0 fd25"]);
}

#[test]
fn what_vanishes_is_gone_when_the_kernel_shows_it_and_else_in_doubt() {
    let doubt = |why| Doubt { why, holder: None };
    let vanishing = || {
        let mut scene = Scene::new();
        scene.record_attach(mac(1));
        scene.look(&[tun(25, 5), vhost(27)]);
        scene.shown = Err(doubt(CloseDoubt::Attached));
        assert_eq!(scene.look(&[vhost(27)]), [""; 0]);
        scene.advance(4);
        assert_eq!(scene.look(&[vhost(27)]), [""; 0], "it is checked again");
        scene
    };
    let mut scene = vanishing();
    scene.shown = Ok(());
    assert_eq!(scene.look(&[vhost(27)]), ["gone 01 vnet5 q0 fd25"]);

    let mut scene = vanishing();
    scene.advance(1);
    assert_eq!(scene.look(&[vhost(27)]), ["gone 01 vnet5 q0 fd25 attached"]);
    // It comes back, and counts as another one by now.
    scene.advance(60);
    scene.look(&[tun(25, 5), vhost(27)]);
    scene.advance(60);
    assert_eq!(scene.look(&[tun(25, 5), vhost(27)]), ["seen - vnet5 q0 fd25"]);

    // Under another number it is the same one; and what a record says was given up is reported as
    // held.
    let mut scene = vanishing();
    assert_eq!(scene.look(&[vhost(27), tun(200, 5)]), [""; 0]);
    assert_eq!(scene.look(&[tun(200, 5), vhost(300)]), [""; 0]);
    scene.record_detach(mac(1));
    assert_eq!(scene.look(&[]), [""; 0]);
    scene.advance(1);
    assert_eq!(scene.look(&[tun(25, 5)]), ["still 01 vnet5 q0 fd25"]);
    scene.advance(5);
    assert_eq!(scene.look(&[tun(25, 5)]), ["gone 01 vhost q0 fd27 attached"]);
}

#[test]
fn the_exit_of_qemu_ends_nothing_that_the_kernel_shows_as_held() {
    for (shown, doubt) in [(Ok(()), None), (Err(CloseDoubt::HeldElsewhere), Some(CloseDoubt::HeldElsewhere))]
    {
        let mut scene = Scene::new();
        scene.record_attach(mac(1));
        scene.look(&[tun(25, 5)]);
        let mut observations = Vec::new();
        let mut end = |_: &KnownDescriptor| shown.map_err(Doubt::from);
        scene.guest.qemu_ended(PID, true, scene.now, &mut end, &mut observations);
        scene.record(Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid: None });
        let ends = |scene: &mut Scene| scene.guest.settle_end(scene.now, &mut Vec::new());
        assert_eq!(ends(&mut scene), doubt.is_none(), "the account waits for it");
        scene.advance(5);
        scene.guest.look_for_vanished(scene.now, &mut end, &mut observations);
        assert!(ends(&mut scene));
        let gone: Vec<_> = observations
            .iter()
            .filter_map(|observation| match observation {
                Observation::Gone { doubt, .. } => Some(doubt.map(|doubt| doubt.why)),
                _ => None,
            })
            .collect();
        assert_eq!(gone, [doubt]);
    }
}

#[test]
fn a_manager_has_the_same_time_to_record_the_end_whatever_the_kernel_took_to_show_it() {
    let mut scene = Scene::new();
    scene.record_attach(mac(1));
    scene.look(&[tun(25, 5)]);
    let at_last = scene.now.instant + scene.now.patience;
    let mut doubt = |_: &KnownDescriptor| Err(Doubt::from(CloseDoubt::Attached));
    scene.guest.qemu_ended(PID, true, scene.now, &mut doubt, &mut Vec::new());
    assert!(scene.guest.due < at_last, "it is checked soon");
    scene.advance(1);
    scene.guest.postpone_look(scene.now);
    scene.guest.look_for_vanished(scene.now, &mut |_| Ok(()), &mut Vec::new());
    assert_eq!(scene.guest.due, at_last);
}

#[test]
fn a_hot_plug_under_way_has_more_patience_than_what_nobody_opened() {
    let mut scene = Scene::new();
    let device = Device { dev: None, ..tun(0, 0).device };
    scene.record(Event::Open { mac: mac(1), device, queue: None });
    let strange = ObservedDescriptor { device: macvtap(), ..tun(30, 9) };
    let all = [tun(25, 5), strange];
    assert_eq!(scene.look(&all), [""; 0]);
    scene.advance(5);
    assert_eq!(scene.look(&all), ["seen - macvtap9 q0 fd30"]);
    scene.advance(26);
    assert_eq!(scene.look(&all), ["seen 01 vnet5 q0 fd25"]);
}

/// This process acts as QEMU.
fn runs() -> Qemu {
    let process = ProcessId::of(std::process::id()).unwrap();
    Qemu::Runs { process, pidfd: PidFd::open(process).unwrap(), seen_running: true, claims_guest: true }
}

fn file(number: u64) -> FileId {
    NonZeroU64::new(number).unwrap().into()
}

/// A scene in which QEMU has a tap as 25 and its vhost-net as 27, which are files 1 and 2 for the
/// kernel.
fn identified() -> Scene {
    let mut scene = Scene::new();
    scene.guest.qemu = runs();
    scene.record_attach(mac(1));
    scene.look(&[tun(25, 5), vhost(27)]);
    scene.identify(&[(25, tun(25, 5), 1), (27, vhost(27), 2)]);
    scene
}

impl Scene {
    fn held(fd: u32, observed: &ObservedDescriptor, number: u64) -> Held {
        let process = ProcessId::of(std::process::id()).unwrap();
        let Device { kind, rdev, .. } = observed.device;
        let file = File { id: Some(file(number)), kind, rdev: rdev.unwrap() };
        Held { file, process, thread: process.pid, fd }
    }

    fn identify(&mut self, files: &[(u32, ObservedDescriptor, u64)]) {
        let held: Vec<_> =
            files.iter().map(|(fd, observed, number)| Self::held(*fd, observed, *number)).collect();
        let summary: Vec<_> = files
            .iter()
            .map(|(fd, ObservedDescriptor { device, .. }, _)| {
                (*fd, device.kind, device.rdev.unwrap(), device.dev.as_ref().map(ToString::to_string))
            })
            .collect();
        self.guest.identify(&held, &summary, self.now.time);
    }

    /// The kernel reports that a file was closed just now.
    fn report_close(&mut self, number: u64) -> Timestamp {
        let closed = HashMap::from([(file(number), self.now.time)]);
        assert!(self.guest.apply_closes(&FileChanges { closed, ..FileChanges::default() }, &|_, _| None));
        self.now.time
    }

    /// Looks. Returns the descriptors that are gone, with the kernel's time, and since when the
    /// watcher had not looked.
    fn look_for_gone(
        &mut self,
        seen: &[ObservedDescriptor],
    ) -> Vec<(u32, Option<Timestamp>, Option<Timestamp>)> {
        let mut observations = Vec::new();
        let seen = seen.to_vec();
        self.guest.reconcile(PID, seen, self.now, &mut |_| self.shown, &mut self.number, &mut observations);
        gone(observations)
    }
}

fn gone(observations: Vec<Observation>) -> Vec<(u32, Option<Timestamp>, Option<Timestamp>)> {
    let gone = observations.into_iter().filter_map(|observation| match observation {
        Observation::Gone { descriptor, at, last_seen, .. } => Some((descriptor.fd, at, last_seen)),
        _ => None,
    });
    gone.collect()
}

#[test]
fn what_somebody_else_has_is_not_gone_until_the_kernel_says_so() {
    let mut scene = identified();
    scene.record_detach(mac(1));
    assert_eq!(scene.look_for_gone(&[]), []);
    scene.advance(60);
    assert_eq!(scene.look(&[]), [""; 0], "neither gone, nor in QEMU still");
    let (tap, _) = (scene.report_close(1), scene.advance(1));
    assert_eq!(scene.look_for_gone(&[]), [(25, Some(tap), None)]);
    let vhost = scene.report_close(2);
    scene.advance(40);
    assert_eq!(scene.look_for_gone(&[]), [(27, Some(vhost), None)], "however late anybody looks");
    assert_eq!(scene.guest.descriptors().count(), 0);
}

#[test]
fn the_same_tap_under_the_same_number_may_be_another_file() {
    let mut scene = identified();
    let at = scene.report_close(1);
    scene.advance(1);
    assert_eq!(scene.look_for_gone(&[tun(25, 5), vhost(27)]), [(25, Some(at), None)]);
    scene.advance(6);
    assert_eq!(scene.look(&[tun(25, 5), vhost(27)]), ["seen - vnet5 q0 fd25"]);
}

#[test]
fn a_file_is_known_under_its_new_number() {
    let mut scene = identified();
    scene.guest.renumber(&[Scene::held(60, &tun(60, 5), 1), Scene::held(27, &vhost(27), 2)]);
    assert_eq!(scene.look(&[vhost(27), tun(60, 5)]), [""; 0]);
}

#[test]
fn what_qemus_end_leaves_open_is_not_released_and_neither_is_its_account() {
    let mut scene = identified();
    let at = scene.report_close(2);
    let mut observations = Vec::new();
    scene.guest.qemu_ended(PID, true, scene.now, &mut |_| Ok(()), &mut observations);
    assert_eq!(gone(std::mem::take(&mut observations)), [(27, Some(at), None)]);
    scene.advance(6);
    assert!(!scene.guest.settle_end(scene.now, &mut observations));
    assert!(matches!(observations[..], [Observation::GuestGone { pid: PID, .. }]), "once: {observations:?}");
    scene.record(Event::GuestStop { reason: Reason::DESTROYED, vm_pid: None });
    scene.advance(60);
    observations.clear();
    assert!(!scene.guest.settle_end(scene.now, &mut observations));
    assert!(observations.is_empty(), "{observations:?}");
    let at = scene.report_close(1);
    scene.guest.look_for_vanished(scene.now, &mut |_| Ok(()), &mut observations);
    assert!(scene.guest.settle_end(scene.now, &mut observations));
    assert!(
        matches!(&observations[..], [Observation::Gone { .. }, Observation::AccountEnds(reason)] if *reason == Reason::DESTROYED),
        "{observations:?}"
    );
    assert_eq!(gone(observations), [(25, Some(at), None)]);
}

#[test]
fn what_was_lost_is_queried() {
    let mut scene = identified();
    let heard = scene.now.time;
    scene.advance(1);
    let lost = FileChanges { rest: RemainingFiles::Query(heard), ..FileChanges::default() };
    let ask = |asked: FileId, heard| (asked == file(1)).then_some(FileState::ClosedUnseen(heard));
    assert!(scene.guest.apply_closes(&lost, &ask));
    // The descriptor with that number is another file now.
    assert_eq!(
        scene.look_for_gone(&[tun(25, 5)]),
        [(25, None, Some(heard))],
        "the vhost-net is open elsewhere"
    );
}

#[test]
fn what_was_lost_and_can_not_be_queried_is_as_without_the_kernels_report() {
    let mut scene = identified();
    let lost = FileChanges { rest: RemainingFiles::Lost, ..FileChanges::default() };
    assert!(!scene.guest.apply_closes(&lost, &|_, _| None), "nothing shows that it was closed");
    scene.identify(&[(25, tun(25, 5), 1)]);
    scene.advance(1);
    // The tap is known to be open in another process; for the vhost-net the check without BPF
    // counts.
    assert_eq!(scene.look_for_gone(&[]), [(27, None, None)]);
}

fn macvtap() -> Device {
    Device::new("/dev/tap9", Some(Rdev { major: 246, minor: 9 }), Some("macvtap9".into()))
}

#[test]
fn queues_and_vhost_nets_of_several_interfaces_find_theirs() {
    let mut scene = Scene::new();
    for (mac, dev) in [(mac(1), "macvtap1"), (mac(2), "macvtap2")] {
        scene.record(Event::Open { mac, device: Device::new(dev, None, None), queue: None });
        let device = Device { dev: None, ..vhost(0).device };
        scene.record(Event::Open { mac, device, queue: None });
        scene.record(Event::Start { mac, vm_pid: None, fds: None });
    }
    let tap = |fd, number: u32| {
        let rdev = Some(Rdev { major: 246, minor: number });
        let device = Device::new(format!("/dev/tap{number}"), rdev, Some(format!("macvtap{number}").into()));
        ObservedDescriptor { device, ..tun(fd, number) }
    };
    let seen = scene.look(&[tap(30, 1), tap(31, 1), vhost(32), vhost(33), tap(34, 2), vhost(35)]);
    assert_eq!(
        seen,
        [
            "seen 01 macvtap1 q0 fd30",
            "seen 01 macvtap1 q1 fd31",
            "seen 01 vhost q0 fd32",
            "seen 01 vhost q1 fd33",
            "seen 02 macvtap2 q0 fd34",
            "seen 02 vhost q0 fd35"
        ]
    );
}

fn vdpa(fd: u32, number: u32) -> ObservedDescriptor {
    let rdev = Some(Rdev { major: 242, minor: number });
    let device = Device::new(format!("/dev/vhost-vdpa-{number}"), rdev, None);
    // The one of the set of descriptors, and QEMU's own.
    let fds = vec![fd, fd + 1];
    ObservedDescriptor { fds, device, link: None, address: None, libvirt_mac: None, port: None }
}

impl Scene {
    /// A guest that was started with these backends, one for each MAC from 1 on.
    fn started_with(netdevs: &[(&str, Option<&str>)]) -> Self {
        let mut scene = Self::new();
        scene.guest.qemu = runs();
        for (number, (kind, path)) in (1..).zip(netdevs) {
            let netdev = Netdev { kind: (*kind).into(), path: path.map(Into::into) };
            scene.guest.netdevs.insert(mac(number), vec![netdev]);
            scene.record(Event::Start { mac: mac(number), vm_pid: None, fds: None });
        }
        scene
    }

    fn record_bare_attach(&mut self, last: u8) {
        self.record(Event::Attach { mac: mac(last), vm_pid: None, fds: None });
    }
}

// Shows 13.15.
#[test]
fn a_vdpa_device_is_its_interfaces_by_the_command_line() {
    // As libvirt starts one, and as one is started with paths.
    for (one, other) in [("/dev/fdset/0", "/dev/vhost-vdpa-7"), ("/dev/vhost-vdpa-0", "/dev/vhost-vdpa-7")] {
        let mut scene =
            Scene::started_with(&[("vhost-vdpa", Some(one)), ("stream", None), ("vhost-vdpa", Some(other))]);
        assert_eq!(scene.guest.backing(mac(2)), Backing::Pending, "QEMU was not inspected yet");
        let all = [vdpa(25, 0), vdpa(27, 7)];
        assert_eq!(scene.look(&all), ["seen 01 vhost q0 fd25", "seen 03 vhost q0 fd27"]);
        for last in [1, 2, 3] {
            assert_eq!(scene.guest.backing(mac(last)), Backing::None);
        }
        scene.advance(60);
        assert_eq!(scene.look(&all), [""; 0]);
        // Its number does not matter, and its end is the kernel's word.
        let moved = ObservedDescriptor { fds: vec![40], ..vdpa(0, 0) };
        assert_eq!(scene.look(&[moved, all[1].clone()]), [""; 0]);
        scene.record_detach(mac(1));
        assert_eq!(scene.look(&all[1..]), ["gone 01 vhost q0 fd25"]);
        scene.shown = Err(CloseDoubt::Uncounted.into());
        assert_eq!(scene.look(&[]), [""; 0]);
        scene.advance(6);
        assert_eq!(scene.look(&[]), ["gone 03 vhost q0 fd27 uncounted"]);
    }
}

// Shows 13.15.
#[test]
fn which_of_two_vdpa_devices_is_whose_is_not_guessed() {
    let fdset = ("vhost-vdpa", Some("/dev/fdset/0"));
    let mut scene = Scene::started_with(&[fdset, fdset]);
    assert_eq!(scene.look(&[vdpa(25, 0), vdpa(27, 1)]), [""; 0]);
    let both = Backing::Vdpa(vec!["/dev/vhost-vdpa-0".into(), "/dev/vhost-vdpa-1".into()]);
    assert_eq!(scene.guest.backing(mac(1)), both);
    let summary: Vec<_> = [(25, 0), (26, 0), (27, 1), (28, 1)]
        .map(|(fd, minor)| (fd, DeviceKind::VhostVdpa, Rdev { major: 242, minor }, None))
        .into();
    assert!(scene.guest.is_as_known(&summary), "they need no full look each time");
    // A path that is another device's is no device of it.
    let mut scene = Scene::started_with(&[("vhost-vdpa", Some("/dev/vhost-vdpa-3"))]);
    assert_eq!(scene.look(&[vdpa(25, 0)]), [""; 0]);
    assert_eq!(scene.guest.backing(mac(1)), Backing::Vdpa(vec!["/dev/vhost-vdpa-0".into()]));
}

// Shows 13.15.
#[test]
fn a_vdpa_device_that_came_with_a_hot_plug_may_be_of_that_interface() {
    let mut scene = Scene::started_with(&[]);
    assert_eq!(scene.look(&[]), [""; 0]);
    scene.advance(40);
    // It may be a disk's, and the interface one without any device.
    scene.record_bare_attach(1);
    assert_eq!(scene.look(&[vdpa(25, 0)]), [""; 0]);
    assert_eq!(scene.guest.backing(mac(1)), Backing::Pending);
    scene.advance(6);
    assert_eq!(scene.look(&[vdpa(25, 0)]), [""; 0]);
    let may_be = Backing::Vdpa(vec!["/dev/vhost-vdpa-0".into()]);
    assert_eq!(scene.guest.backing(mac(1)), may_be);
    // A tap that belongs to no interface may be its backend, too.
    let other = ObservedDescriptor { address: Some(mac(9).host_side()), ..tun(30, 0) };
    scene.look(&[vdpa(25, 0), other]);
    assert_eq!(scene.guest.backing(mac(1)), Backing::Unknown);
    assert_eq!(scene.guest.backing(mac(4)), Backing::Unknown, "there is no such interface");
}

// Shows 13.15.
#[test]
fn a_vdpa_device_that_was_one_of_several_stays_nobodys() {
    let mut scene = Scene::started_with(&[("vhost-vdpa", Some("/dev/fdset/0"))]);
    // One is a disk's.
    assert_eq!(scene.look(&[vdpa(25, 0), vdpa(27, 1)]), [""; 0]);
    assert_eq!(scene.look(&[vdpa(27, 1)]), [""; 0]);
    // A device that is gone is looked for again.
    let summary = |numbers: &[u32]| -> Vec<_> {
        let of = |&minor: &u32| (27 + minor, DeviceKind::VhostVdpa, Rdev { major: 242, minor }, None);
        numbers.iter().map(of).collect()
    };
    assert!(scene.guest.is_as_known(&summary(&[1])) && !scene.guest.is_as_known(&summary(&[])));
}
