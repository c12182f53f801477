//! One guest, told things and looked at: what this machine has no devices for.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_bpf::{File, FileId, FileState, Heard, Held, Rest};
use taptrail_kernel::proc::{PidFd, ProcessId};
use taptrail_record::{CloseDoubt, Device, Event, GuestId, MacAddr, Rdev, Reason, Record};

use super::command_line::Netdev;
use super::guest::{Act, Guest, Now, Qemu};
use super::held_back::Backing;
use super::known::Known;
use super::release::Doubt;
use super::sight::{Place, Sight, Sighted};

const PID: u32 = 40;

fn mac(last: u8) -> MacAddr {
    MacAddr::kvm([0, 0, last])
}

fn id() -> GuestId {
    GuestId { name: "g".into(), uuid: uuid::Uuid::from_u128(1) }
}

fn tun(fd: u32, number: u32) -> Sighted {
    let device = Device::new("/dev/net/tun", Some(Rdev::TUN), Some(format!("vnet{number}").into()));
    Sighted {
        fds: vec![fd],
        device,
        link: Some(Place { netns: None, index: number }),
        address: None,
        named: None,
        port: None,
    }
}

fn vhost(fd: u32) -> Sighted {
    let device = Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None);
    Sighted { fds: vec![fd], device, link: None, address: None, named: None, port: None }
}

/// A guest in time.
struct Scene {
    guest: Guest,
    now: Now,
    number: u64,
    /// The vhost-vdpa devices that QEMU holds.
    vdpa: Vec<String>,
    /// What the kernel shows of what QEMU shows no more.
    shown: Result<(), Doubt>,
}

impl Scene {
    fn new() -> Self {
        let (patience, every) = (Duration::from_secs(5), Duration::from_secs(30));
        let (instant, time) = (Instant::now(), Timestamp::now());
        let (guest, now) = (Guest::new(id(), instant), Now { instant, time, patience, every });
        let mut scene = Self { guest, now, number: 0, vdpa: Vec::new(), shown: Ok(()) };
        scene.says(Event::GuestStart { reason: Reason::BOOTED, vm_pid: Some(PID) });
        scene
    }

    fn says(&mut self, event: Event) {
        self.number += 1;
        self.guest.tell(
            &Record::success(id(), event),
            Some(812),
            self.now.time,
            self.number,
            self.now.instant,
        );
    }

    /// As libvirt hot-plugs a tap with its vhost-net.
    fn attaches(&mut self, mac: MacAddr) {
        for device in [tun(0, 0).device, vhost(0).device] {
            self.says(Event::Open { mac, device: Device { dev: None, ..device }, queue: None });
        }
        self.says(Event::Attach { mac, vm_pid: None, fds: None });
    }

    fn detaches(&mut self, mac: MacAddr) {
        self.says(Event::Detach { mac, vm_pid: None, fds: None, forced: false });
    }

    fn after(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.time += Duration::from_secs(seconds);
    }

    /// A look, and what it brings to light: what happened to which descriptor of which interface.
    fn looks(&mut self, seen: &[Sighted]) -> Vec<String> {
        let mut acts = Vec::new();
        let seen = Sight { descriptors: seen.to_vec(), vdpa: self.vdpa.clone() };
        self.guest.look(PID, seen, self.now, &mut |_| self.shown, &mut self.number, &mut acts);
        let line = |what: &str, of: &taptrail_record::Descriptor| {
            let mac = of.mac.map_or("-".to_owned(), |mac| format!("{:02x}", mac.0[5]));
            let dev = of.device.dev.as_deref().unwrap_or("vhost");
            format!("{what} {mac} {dev} q{} fd{}", of.queue.unwrap(), of.fd)
        };
        let told = acts.iter().filter_map(|act| match act {
            Act::Seen { descriptor, .. } => Some(line("seen", descriptor)),
            Act::Still(descriptor) => Some(line("still", descriptor)),
            Act::Gone { descriptor, doubt: None, .. } => Some(line("gone", descriptor)),
            Act::Gone { descriptor, doubt: Some(doubt), .. } => {
                Some(format!("{} {}", line("gone", descriptor), doubt.why))
            }
            _ => None,
        });
        told.collect()
    }
}

#[test]
fn a_number_that_is_used_again_is_another_descriptor() {
    let mut scene = Scene::new();
    scene.attaches(mac(1));
    assert_eq!(scene.looks(&[tun(25, 5), vhost(27)]), ["seen 01 vnet5 q0 fd25", "seen 01 vhost q0 fd27"]);
    // All between two looks, and QEMU takes the lowest free numbers.
    scene.detaches(mac(1));
    scene.attaches(mac(2));
    let told = scene.looks(&[tun(25, 6), vhost(27)]);
    assert_eq!(
        told,
        ["gone 01 vnet5 q0 fd25", "gone 01 vhost q0 fd27", "seen 02 vnet6 q0 fd25", "seen 02 vhost q0 fd27"]
    );
    scene.after(60);
    assert_eq!(scene.looks(&[tun(25, 6), vhost(27)]), [""; 0]);
}

#[test]
fn what_is_there_before_it_is_told_waits_for_its_records() {
    let mut scene = Scene::new();
    scene.attaches(mac(1));
    scene.looks(&[tun(25, 5), vhost(27)]);
    // Seen between the change and the records of it.
    assert_eq!(scene.looks(&[tun(25, 6), vhost(27)]), ["gone 01 vnet5 q0 fd25"]);
    scene.detaches(mac(1));
    scene.attaches(mac(2));
    let told = scene.looks(&[tun(25, 6), vhost(27)]);
    assert_eq!(told, ["gone 01 vhost q0 fd27", "seen 02 vnet6 q0 fd25", "seen 02 vhost q0 fd27"]);
    scene.after(60);
    assert_eq!(scene.looks(&[tun(25, 6), vhost(27)]), [""; 0]);
}

#[test]
fn a_vhost_net_that_stays_behind_is_told() {
    let mut scene = Scene::new();
    scene.attaches(mac(1));
    scene.looks(&[tun(25, 5), vhost(27)]);
    scene.detaches(mac(1));
    assert_eq!(scene.looks(&[vhost(27)]), ["gone 01 vnet5 q0 fd25"]);
    scene.after(5);
    assert_eq!(scene.looks(&[vhost(27)]), ["still 01 vhost q0 fd27"]);
    scene.after(60);
    assert_eq!(scene.looks(&[vhost(27)]), [""; 0], "once");
    assert_eq!(scene.looks(&[]), ["gone 01 vhost q0 fd27"]);
}

#[test]
fn a_duplicated_descriptor_is_one_and_is_held_as_long_as_any_of_it() {
    let mut scene = Scene::new();
    scene.attaches(mac(1));
    let both = Sighted { fds: vec![25, 40], ..tun(25, 5) };
    assert_eq!(scene.looks(&[both]), ["seen 01 vnet5 q0 fd25"]);
    assert_eq!(scene.looks(&[tun(40, 5)]), [""; 0]);
    assert_eq!(scene.looks(&[]), ["gone 01 vnet5 q0 fd25"]);
}

#[test]
fn what_vanishes_is_gone_when_the_kernel_shows_it_and_else_in_doubt() {
    let doubt = |why| Doubt { why, holder: None };
    let vanishes = || {
        let mut scene = Scene::new();
        scene.attaches(mac(1));
        scene.looks(&[tun(25, 5), vhost(27)]);
        scene.shown = Err(doubt(CloseDoubt::Attached));
        assert_eq!(scene.looks(&[vhost(27)]), [""; 0]);
        scene.after(4);
        assert_eq!(scene.looks(&[vhost(27)]), [""; 0], "it is looked for again");
        scene
    };
    let mut scene = vanishes();
    scene.shown = Ok(());
    assert_eq!(scene.looks(&[vhost(27)]), ["gone 01 vnet5 q0 fd25"]);

    let mut scene = vanishes();
    scene.after(1);
    assert_eq!(scene.looks(&[vhost(27)]), ["gone 01 vnet5 q0 fd25 attached"]);
    // It comes back: by now it is another one.
    scene.after(60);
    scene.looks(&[tun(25, 5), vhost(27)]);
    scene.after(60);
    assert_eq!(scene.looks(&[tun(25, 5), vhost(27)]), ["seen - vnet5 q0 fd25"]);

    // Under another number it is the same; and what was told to be given up is told to be there.
    let mut scene = vanishes();
    assert_eq!(scene.looks(&[vhost(27), tun(200, 5)]), [""; 0]);
    assert_eq!(scene.looks(&[tun(200, 5), vhost(300)]), [""; 0]);
    scene.detaches(mac(1));
    assert_eq!(scene.looks(&[]), [""; 0]);
    scene.after(1);
    assert_eq!(scene.looks(&[tun(25, 5)]), ["still 01 vnet5 q0 fd25"]);
    scene.after(5);
    assert_eq!(scene.looks(&[tun(25, 5)]), ["gone 01 vhost q0 fd27 attached"]);
}

#[test]
fn the_exit_of_qemu_ends_nothing_that_the_kernel_shows_as_held() {
    for (shown, doubt) in [(Ok(()), None), (Err(CloseDoubt::HeldElsewhere), Some(CloseDoubt::HeldElsewhere))]
    {
        let mut scene = Scene::new();
        scene.attaches(mac(1));
        scene.looks(&[tun(25, 5)]);
        let mut acts = Vec::new();
        let mut end = |_: &Known| shown.map_err(Doubt::from);
        scene.guest.ended(PID, true, scene.now, &mut end, &mut acts);
        scene.says(Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid: None });
        let ends = |scene: &mut Scene| scene.guest.settle_end(scene.now, &mut Vec::new());
        assert_eq!(ends(&mut scene), doubt.is_none(), "the account waits for it");
        scene.after(5);
        scene.guest.look_for_vanished(scene.now, &mut end, &mut acts);
        assert!(ends(&mut scene));
        let gone: Vec<_> = acts
            .iter()
            .filter_map(|act| match act {
                Act::Gone { doubt, .. } => Some(doubt.map(|doubt| doubt.why)),
                _ => None,
            })
            .collect();
        assert_eq!(gone, [doubt]);
    }
}

#[test]
fn a_manager_has_as_long_to_tell_the_end_as_before_whatever_the_kernel_took_to_show_it() {
    let mut scene = Scene::new();
    scene.attaches(mac(1));
    scene.looks(&[tun(25, 5)]);
    let at_last = scene.now.instant + scene.now.patience;
    let mut doubt = |_: &Known| Err(Doubt::from(CloseDoubt::Attached));
    scene.guest.ended(PID, true, scene.now, &mut doubt, &mut Vec::new());
    assert!(scene.guest.due < at_last, "it is looked for soon");
    scene.after(1);
    scene.guest.later(scene.now);
    scene.guest.look_for_vanished(scene.now, &mut |_| Ok(()), &mut Vec::new());
    assert_eq!(scene.guest.due, at_last);
}

#[test]
fn a_hot_plug_under_way_has_more_patience_than_what_nobody_opened() {
    let mut scene = Scene::new();
    let device = Device { dev: None, ..tun(0, 0).device };
    scene.says(Event::Open { mac: mac(1), device, queue: None });
    let strange = Sighted { device: macvtap(), ..tun(30, 9) };
    let all = [tun(25, 5), strange];
    assert_eq!(scene.looks(&all), [""; 0]);
    scene.after(5);
    assert_eq!(scene.looks(&all), ["seen - macvtap9 q0 fd30"]);
    scene.after(26);
    assert_eq!(scene.looks(&all), ["seen 01 vnet5 q0 fd25"]);
}

/// This process plays QEMU.
fn runs() -> Qemu {
    let process = ProcessId::of(std::process::id()).unwrap();
    Qemu::Runs { process, pidfd: PidFd::open(process).unwrap(), attended: true, named: true }
}

fn file(number: u64) -> FileId {
    NonZeroU64::new(number).unwrap().into()
}

/// A scene in which QEMU has a tap as 25 and its vhost-net as 27, which the kernel calls files 1 and 2.
fn identified() -> Scene {
    let mut scene = Scene::new();
    scene.guest.qemu = runs();
    scene.attaches(mac(1));
    scene.looks(&[tun(25, 5), vhost(27)]);
    scene.identifies(&[(25, tun(25, 5), 1), (27, vhost(27), 2)]);
    scene
}

impl Scene {
    fn held(fd: u32, sighted: &Sighted, number: u64) -> Held {
        let process = ProcessId::of(std::process::id()).unwrap();
        let Device { kind, rdev, .. } = sighted.device;
        let file = File { id: Some(file(number)), kind, rdev: rdev.unwrap() };
        Held { file, process, thread: process.pid, fd }
    }

    fn identifies(&mut self, files: &[(u32, Sighted, u64)]) {
        let held: Vec<_> =
            files.iter().map(|(fd, sighted, number)| Self::held(*fd, sighted, *number)).collect();
        let glance: Vec<_> = files
            .iter()
            .map(|(fd, Sighted { device, .. }, _)| {
                (*fd, device.kind, device.rdev.unwrap(), device.dev.as_ref().map(ToString::to_string))
            })
            .collect();
        self.guest.identify(&held, &glance, self.now.time);
    }

    /// The kernel tells that a file was closed just now.
    fn closes(&mut self, number: u64) -> Timestamp {
        let closed = HashMap::from([(file(number), self.now.time)]);
        assert!(self.guest.hear(&Heard { closed, ..Heard::default() }, &|_, _| None));
        self.now.time
    }

    /// A look, and what is gone by it: when by the kernel's word, and since when nobody looked.
    fn loses(&mut self, seen: &[Sighted]) -> Vec<(u32, Option<Timestamp>, Option<Timestamp>)> {
        let mut acts = Vec::new();
        let seen = Sight { descriptors: seen.to_vec(), vdpa: Vec::new() };
        self.guest.look(PID, seen, self.now, &mut |_| self.shown, &mut self.number, &mut acts);
        gone(acts)
    }
}

fn gone(acts: Vec<Act>) -> Vec<(u32, Option<Timestamp>, Option<Timestamp>)> {
    let gone = acts.into_iter().filter_map(|act| match act {
        Act::Gone { descriptor, at, last_seen, .. } => Some((descriptor.fd, at, last_seen)),
        _ => None,
    });
    gone.collect()
}

#[test]
fn what_somebody_else_has_is_not_gone_until_the_kernel_says_so() {
    let mut scene = identified();
    scene.detaches(mac(1));
    assert_eq!(scene.loses(&[]), []);
    scene.after(60);
    assert_eq!(scene.looks(&[]), [""; 0], "neither gone, nor in QEMU still");
    let (tap, _) = (scene.closes(1), scene.after(1));
    assert_eq!(scene.loses(&[]), [(25, Some(tap), None)]);
    let vhost = scene.closes(2);
    scene.after(40);
    assert_eq!(scene.loses(&[]), [(27, Some(vhost), None)], "however late anybody looks");
    assert_eq!(scene.guest.descriptors().count(), 0);
}

#[test]
fn the_same_tap_under_the_same_number_may_be_another_file() {
    let mut scene = identified();
    let at = scene.closes(1);
    scene.after(1);
    assert_eq!(scene.loses(&[tun(25, 5), vhost(27)]), [(25, Some(at), None)]);
    scene.after(6);
    assert_eq!(scene.looks(&[tun(25, 5), vhost(27)]), ["seen - vnet5 q0 fd25"]);
}

#[test]
fn a_file_is_known_under_its_new_number() {
    let mut scene = identified();
    scene.guest.renumber(&[Scene::held(60, &tun(60, 5), 1), Scene::held(27, &vhost(27), 2)]);
    assert_eq!(scene.looks(&[vhost(27), tun(60, 5)]), [""; 0]);
}

#[test]
fn what_qemus_end_leaves_open_is_not_released_and_neither_is_its_account() {
    let mut scene = identified();
    let at = scene.closes(2);
    let mut acts = Vec::new();
    scene.guest.ended(PID, true, scene.now, &mut |_| Ok(()), &mut acts);
    assert_eq!(gone(std::mem::take(&mut acts)), [(27, Some(at), None)]);
    scene.after(6);
    assert!(!scene.guest.settle_end(scene.now, &mut acts));
    assert!(matches!(acts[..], [Act::GuestGone { pid: PID, .. }]), "once: {acts:?}");
    scene.says(Event::GuestStop { reason: Reason::DESTROYED, vm_pid: None });
    scene.after(60);
    acts.clear();
    assert!(!scene.guest.settle_end(scene.now, &mut acts));
    assert!(acts.is_empty(), "{acts:?}");
    let at = scene.closes(1);
    scene.guest.look_for_vanished(scene.now, &mut |_| Ok(()), &mut acts);
    assert!(scene.guest.settle_end(scene.now, &mut acts));
    assert!(
        matches!(&acts[..], [Act::Gone { .. }, Act::Ends(reason)] if *reason == Reason::DESTROYED),
        "{acts:?}"
    );
    assert_eq!(gone(acts), [(25, Some(at), None)]);
}

#[test]
fn what_was_lost_is_asked_for() {
    let mut scene = identified();
    let heard = scene.now.time;
    scene.after(1);
    let told = Heard { rest: Rest::Ask(heard), ..Heard::default() };
    let ask = |asked: FileId, heard| (asked == file(1)).then_some(FileState::ClosedUnheard(heard));
    assert!(scene.guest.hear(&told, &ask));
    // What has that number now is another file.
    assert_eq!(scene.loses(&[tun(25, 5)]), [(25, None, Some(heard))], "the vhost-net is open elsewhere");
}

#[test]
fn what_was_lost_and_can_not_be_asked_for_is_as_without_the_kernels_word() {
    let mut scene = identified();
    let told = Heard { rest: Rest::Lost, ..Heard::default() };
    assert!(!scene.guest.hear(&told, &|_, _| None), "nobody says that it was closed");
    scene.identifies(&[(25, tun(25, 5), 1)]);
    scene.after(1);
    // The tap is known to be open elsewhere; of the other it counts what is shown without BPF.
    assert_eq!(scene.loses(&[]), [(27, None, None)]);
}

fn macvtap() -> Device {
    Device::new("/dev/tap9", Some(Rdev { major: 246, minor: 9 }), Some("macvtap9".into()))
}

#[test]
fn queues_and_vhost_nets_of_several_interfaces_find_theirs() {
    let mut scene = Scene::new();
    for (mac, dev) in [(mac(1), "macvtap1"), (mac(2), "macvtap2")] {
        scene.says(Event::Open { mac, device: Device::new(dev, None, None), queue: None });
        let device = Device { dev: None, ..vhost(0).device };
        scene.says(Event::Open { mac, device, queue: None });
        scene.says(Event::Start { mac, vm_pid: None, fds: None });
    }
    let tap = |fd, number: u32| {
        let rdev = Some(Rdev { major: 246, minor: number });
        let device = Device::new(format!("/dev/tap{number}"), rdev, Some(format!("macvtap{number}").into()));
        Sighted { device, ..tun(fd, number) }
    };
    let told = scene.looks(&[tap(30, 1), tap(31, 1), vhost(32), vhost(33), tap(34, 2), vhost(35)]);
    assert_eq!(
        told,
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

#[test]
fn a_vdpa_device_is_named_and_what_is_nobodys_leaves_a_grant_in_doubt() {
    let mut scene = Scene::new();
    assert_eq!(scene.guest.backing(mac(1)), Backing::Pending, "QEMU was not found yet");
    scene.guest.qemu = runs();
    let netdev = |kind: &str, path: Option<&str>| Netdev { kind: kind.into(), path: path.map(Into::into) };
    scene.guest.netdevs.insert(mac(1), vec![netdev("vhost-vdpa", Some("/dev/fdset/0"))]);
    scene.guest.netdevs.insert(mac(2), vec![netdev("stream", None)]);
    for last in [1, 2] {
        scene.says(Event::Start { mac: mac(last), vm_pid: None, fds: None });
    }
    assert_eq!(scene.guest.backing(mac(2)), Backing::Pending, "QEMU was not looked into yet");
    scene.vdpa = vec!["/dev/vhost-vdpa-0".into()];
    scene.looks(&[]);
    let vdpa = |is_its| Backing::Vdpa { paths: vec!["/dev/vhost-vdpa-0".into()], is_its };
    assert_eq!(scene.guest.backing(mac(1)), vdpa(true));
    assert_eq!(scene.guest.backing(mac(2)), Backing::None);
    // Of a hot-plug no command line tells: it may be one.
    scene.says(Event::Attach { mac: mac(3), vm_pid: None, fds: None });
    scene.looks(&[]);
    assert_eq!(scene.guest.backing(mac(3)), Backing::Pending);
    scene.after(6);
    scene.looks(&[]);
    assert_eq!(scene.guest.backing(mac(3)), vdpa(false));
    // So may a tap that belongs to no interface.
    scene.looks(&[Sighted { address: Some(mac(9).host_side()), ..tun(30, 0) }]);
    assert_eq!(scene.guest.backing(mac(3)), Backing::Unknown);
    assert_eq!(scene.guest.backing(mac(2)), Backing::None, "the command line shows that it has none");
    assert_eq!(scene.guest.backing(mac(4)), Backing::Unknown, "there is no such interface");
}
