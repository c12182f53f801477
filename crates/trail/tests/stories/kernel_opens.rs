//! The kernel's events of opens, with and without matching records.

use crate::fixtures::{findings, macvtap, tun, vhost};
use crate::log_builder::*;
use taptrail_record::{
    BridgeOpen, Device, DeviceKind, Event, KernelOpen, Outcome, Rdev, Requester, ResourceChange,
};
use taptrail_trail::{Content, Doubt, FindingKind};

const DAEMON: &str = "/usr/sbin/libvirtd";
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

fn by_interface(name: &str) -> Device {
    Device::new(name, None, None)
}

#[test]
fn a_macvtap_gets_its_node_from_the_kernel() {
    let decoy = Device { rdev: Some(Rdev { major: 1, minor: 3 }), ..by_interface("macvtap4") };
    for record in [by_interface("macvtap4"), decoy] {
        let log = LogBuilder::new().kernel_open(LIBVIRTD, DAEMON, &macvtap()).kernel_open(
            LIBVIRTD,
            DAEMON,
            &macvtap(),
        );
        let report = log.boot(1, &record, 40).report();
        assert_eq!(lines(&report), ["g1 macvtap x2 held - inferred -"]);
        assert_eq!(findings(&report), [""; 0]);
        let (path, rdev) = (macvtap().path, macvtap().rdev);
        let expected = Device { kind: DeviceKind::Macvtap, path, rdev, dev: Some("macvtap4".into()) };
        assert_eq!(report.holdings[0].device, expected);
        assert_eq!(report.holdings[0].proof.iter().map(|proof| proof.line).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}

#[test]
fn a_decoys_number_is_not_believed() {
    let decoy = Device { rdev: Some(Rdev { major: 1, minor: 3 }), ..by_interface("macvtap4") };
    let report = LogBuilder::new().boot(1, &decoy, 40).report();
    assert_eq!(lines(&report), ["g1 macvtap x? held - inferred -"]);
    assert_eq!(report.holdings[0].device.rdev, None);
    assert_eq!(findings(&report), ["unknown-device-number"]);
}

#[test]
fn an_event_that_is_read_after_its_record_is_the_same_open() {
    let log = LogBuilder::new().serial(101).ok(1, open(mac(1), &by_interface("macvtap4"))).serial(100);
    let log = log.kernel_open(LIBVIRTD, DAEMON, &macvtap()).serial(102);
    let report = log.ok(1, start(mac(1))).ok(1, op_start("booted", 40)).report();
    assert_eq!(report.holdings[0].device.path, "/dev/tap7");
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn an_event_after_a_record_is_not_of_that() {
    let log =
        LogBuilder::new().boot(1, &by_interface("macvtap4"), 40).kernel_open(LIBVIRTD, DAEMON, &macvtap());
    let report = log.boot(2, &by_interface("macvtap5"), 41).report();
    assert_eq!(report.holdings[0].device.path, "macvtap4");
    assert_eq!(report.holdings[1].device.path, "/dev/tap7");
    assert_eq!(findings(&report), ["unknown-device-number"]);
}

#[test]
fn of_two_boots_at_once_neither_node_is_guessed() {
    let other = Device::new("/dev/tap8", Some(Rdev { major: 246, minor: 3 }), None);
    let log =
        LogBuilder::new().kernel_open(LIBVIRTD, DAEMON, &macvtap()).kernel_open(LIBVIRTD, DAEMON, &other);
    let report = log.boot(1, &by_interface("macvtap0"), 40).boot(2, &by_interface("macvtap1"), 41).report();
    let paths: Vec<_> = report.holdings.iter().map(|holding| &holding.device.path[..]).collect();
    assert_eq!(paths, ["macvtap0", "macvtap1"]);
    assert_eq!(findings(&report), ["unknown-device-number", "unknown-device-number"]);
}

#[test]
fn of_two_boots_at_once_the_queues_are_not_guessed() {
    let mut log = LogBuilder::new();
    for _ in 0..3 {
        log = log.kernel_open(LIBVIRTD, DAEMON, &tun());
    }
    let log = log.ok(1, open(mac(1), &tun()));
    assert_eq!(lines(&log.report()), ["g1 tun x3 unknown - incomplete -"]);
    let report = log.ok(2, open(mac(2), &tun())).report();
    assert!(lines(&report).iter().all(|line| line.contains(" x? ")), "{report:?}");
}

#[test]
fn a_record_of_one_queue_admits_one_open() {
    let queue = |queue| Event::Open { mac: mac(1), device: tun(), queue: Some(queue) };
    let log =
        LogBuilder::new().kernel_open(LIBVIRTD, "taptrail", &tun()).kernel_open(LIBVIRTD, "taptrail", &tun());
    let log = log.ok(1, queue(0));
    assert_eq!(findings(&log.report()), ["grant-unknown", "unmanaged-open"]);
    let report = log.ok(1, queue(1)).report();
    assert_eq!(lines(&report), ["g1 tun x2 unknown - incomplete -"]);
    assert_eq!(findings(&report), ["grant-unknown"]);
}

#[test]
fn a_tap_that_qemu_opens_by_itself_is_reported_with_its_guest() {
    let log =
        LogBuilder::new().kernel_open(40, QEMU, &vhost()).boot(1, &tun(), 40).kernel_open(40, QEMU, &tun());
    let report = log.report();
    assert_eq!(findings(&report), ["unmanaged-open", "unmanaged-open"]);
    assert!(report.findings.iter().all(|finding| finding.guest == Some(guest(1))));
    assert_eq!(report.findings[0].device.as_ref().unwrap().kind, DeviceKind::VhostNet);
    assert!(report.findings[0].text.contains(QEMU), "{}", report.findings[0].text);
    assert_eq!(lines(&report), ["g1 tun x? held - inferred -"]);
}

#[test]
fn a_managers_silent_open_of_a_vdpa_device_is_no_finding_and_a_qemus_own_is() {
    let vdpa = Device::new("/dev/vhost-vdpa-0", Some(Rdev { major: 242, minor: 0 }), None);
    let log = LogBuilder::new().kernel_open(LIBVIRTD, DAEMON, &vdpa).after(30).boot(1, &tun(), 40);
    assert_eq!(findings(&log.report()), [""; 0]);
    let log = LogBuilder::new().boot(1, &tun(), 40).kernel_open(40, QEMU, &vdpa);
    assert_eq!(findings(&log.report()), ["unmanaged-open"]);
    // One that is on record is proven by the kernel's event.
    let report = LogBuilder::new().kernel_open(LIBVIRTD, DAEMON, &vdpa).boot(1, &vdpa, 40).report();
    assert_eq!(lines(&report), ["g1 vhost-vdpa x1 held - inferred -"]);
}

fn vdpa(number: u32) -> Device {
    let rdev = Some(Rdev { major: 242, minor: number });
    Device::new(format!("/dev/vhost-vdpa-{number}"), rdev, None)
}

// Shows 10.57.
#[test]
fn a_vdpa_device_that_the_kernel_saw_opened_is_possibly_the_one_that_qemu_got() {
    let booted = LogBuilder::new().kernel_open(LIBVIRTD, DAEMON, &vdpa(0)).after(30);
    let booted = booted.ok(1, start(mac(1))).ok(1, op_start("booted", 40));
    let plugged = LogBuilder::new().ok(1, op_start("booted", 40)).kernel_open(LIBVIRTD, DAEMON, &vdpa(0));
    let plugged = plugged.ok(1, attach(mac(1)));
    for log in [booted, plugged] {
        let report = log.report();
        assert_eq!(lines(&report), ["g1 vhost-vdpa x? unknown - incomplete -"]);
        assert_eq!(findings(&report), ["possible-device"]);
        let (found, holding) = (&report.findings[0], &report.holdings[0]);
        assert_eq!((&found.device, found.mac, found.proof.len()), (&Some(vdpa(0)), Some(mac(1)), 2));
        assert_eq!((&holding.device, holding.granted), (&vdpa(0), None));
        let possibly = holding.possibly_held[0];
        assert_eq!(
            (possibly.from, possibly.until, possibly.why),
            (holding.opened, None, Doubt::DeviceUnknown)
        );
        assert_eq!(holding.proof[0], found.proof[0], "the kernel's record is the open");
        // The end of the interface is the latest end of it.
        for ended in [log.clone().after(60).ok(1, detach(mac(1))), log.after(60).ok(1, op_stop("shutdown"))] {
            let report = ended.after(60).ok(2, op_start("booted", 41)).report();
            assert_eq!(lines(&report), ["g1 vhost-vdpa x? unknown - incomplete -"]);
            let until = report.holdings[0].possibly_held[0].until;
            assert_eq!(until, report.holdings[0].proof.last().map(|proof| proof.time));
            assert_eq!(findings(&report), ["possible-device"]);
        }
    }
}

// Shows 10.57.
#[test]
fn which_of_several_vdpa_devices_is_whose_is_not_known() {
    let log =
        LogBuilder::new().kernel_open(LIBVIRTD, DAEMON, &vdpa(0)).kernel_open(LIBVIRTD, DAEMON, &vdpa(1));
    // The second has an interface without any device: no record shows which.
    let log = log.kernel_open(LIBVIRTD, DAEMON, &vdpa(1)).ok(1, start(mac(1))).ok(1, start(mac(2)));
    let report = log.ok(1, op_start("booted", 40)).report();
    assert_eq!(lines(&report), ["g1 vhost-vdpa x? unknown - incomplete -"; 4]);
    assert_eq!(findings(&report), ["possible-device"; 2]);
    assert_eq!(report.findings[0].device, None);
    let text = "Its manager opened /dev/vhost-vdpa-0, /dev/vhost-vdpa-1, one of which may be its device";
    assert!(report.findings[0].text.ends_with(text), "{}", report.findings[0].text);
    // What another process opened, long before, or in vain, is no interface's.
    let log = LogBuilder::new().kernel_open(900, "/usr/bin/virtnetworkd", &vdpa(0));
    let log = log.kernel_open(LIBVIRTD, DAEMON, &vdpa(1)).after(61);
    let (pid, exe, ppid) = (LIBVIRTD, DAEMON.into(), Some(1));
    let refused = KernelOpen { pid, ppid, exe, device: vdpa(2), fd: None, errno: Some(16) };
    let report = log.entry(Content::KernelOpen(refused)).ok(1, start(mac(1))).report();
    assert_eq!(findings(&report), ["grant-without-open"]);
    assert_eq!(lines(&report), ["g1 unknown x? unknown - incomplete -"]);
}

impl LogBuilder {
    /// libvirt's record of a PCI device of the host's.
    pub(crate) fn host_pci(self, reason: &str, address: &str) -> Self {
        let (resource, reason, outcome) = ("dev".into(), reason.into(), Outcome::Success);
        let details = vec![("bus".into(), "pci".into()), ("device".into(), address.into())];
        let (guest, old, new) = (guest(1), None, None);
        self.entry(Content::Resource(ResourceChange { guest, resource, reason, outcome, old, new, details }))
    }
}

// Shows 10.57.
#[test]
fn a_pci_device_of_the_hosts_that_came_with_the_start_may_be_an_interfaces() {
    let (one, other) = ("0000:65:00.1", "0000:66:00.0");
    let booted = |log: LogBuilder| log.ok(1, op_start("booted", 40));
    let started = LogBuilder::new().ok(1, start(mac(1))).host_pci("start", one);
    let report = booted(started.clone()).report();
    assert_eq!(lines(&report), ["g1 unknown x? unknown - incomplete -"]);
    assert_eq!(&*report.holdings[0].device.path, one);
    assert_eq!(findings(&report), ["possible-device"]);
    let text = format!("Its guest got the host's PCI device {one}, which may be its device");
    assert!(report.findings[0].text.ends_with(&text), "{}", report.findings[0].text);
    assert_eq!(report.findings[0].proof.len(), 2);
    // A graphics card beside it, and both given up again.
    let log = booted(started.host_pci("start", other)).after(60);
    let log = log.host_pci("detach", other).host_pci("detach", one);
    let (report, gone) = (log.report(), log.entries[4].time);
    let devices = report.holdings.iter().map(|of| {
        let possibly = of.possibly_held[0];
        (&*of.device.path, of.proof.len(), possibly.from, possibly.until)
    });
    let mut devices: Vec<_> = devices.collect();
    devices.sort_unstable();
    let (granted, detached) = (Some(log.entries[0].time), Some(log.entries[5].time));
    let [first, second] = [(other, Some(gone)), (one, detached)].map(|(path, at)| (path, 3, granted, at));
    assert_eq!(devices, [second, first, ("?", 1, detached, None)]);
    assert!(report.findings[0].text.ends_with(&format!("may be its device, or {other}")));
    // Without an interface, of an interface with a device, and by hot-plug it is none of a trail.
    let log = LogBuilder::new().ok(1, open(mac(1), &tun())).ok(1, start(mac(1))).host_pci("start", one);
    let report = booted(log).host_pci("attach", other).host_pci("detach", one).report();
    assert_eq!(lines(&report), ["g1 tun x? held - inferred -"]);
    assert_eq!(findings(&report), [""; 0]);
    let report = booted(LogBuilder::new().host_pci("start", one)).report();
    assert_eq!(lines(&report), [""; 0]);
}

// Shows 5.27.
#[test]
fn an_open_that_qemu_was_refused_is_reported_with_its_guest() {
    let device = Device::new("/dev/net/tun", Some(Rdev::TUN), None);
    let open = KernelOpen { pid: 40, ppid: Some(1), exe: QEMU.into(), device, fd: None, errno: Some(13) };
    let refused = Content::KernelOpen(open);
    let before = LogBuilder::new().entry(refused.clone()).boot(1, &tun(), 40).report();
    let after = LogBuilder::new().boot(1, &tun(), 40).entry(refused).report();
    for report in [before, after] {
        assert_eq!(findings(&report), ["refused-open"]);
        assert_eq!(report.findings[0].guest, Some(guest(1)));
        let text = &report.findings[0].text;
        assert!(text.contains("tried to open") && text.contains("Permission denied"), "{text}");
        assert_eq!(lines(&report), ["g1 tun x? held - inferred -"]);
    }
}

#[test]
fn a_helper_that_qemu_runs_opens_for_its_guest() {
    let helper = KernelOpen {
        pid: 50,
        ppid: Some(40),
        exe: "/usr/lib/qemu/qemu-bridge-helper".into(),
        device: Device::new("/dev/net/tun", Some(Rdev::TUN), None),
        fd: Some(4),
        errno: None,
    };
    let log = LogBuilder::new().entry(Content::KernelOpen(helper)).boot(1, &vhost(), 40);
    assert_eq!(log.report().findings[0].guest, Some(guest(1)));
}

#[test]
fn an_open_without_a_record_is_reported_when_it_has_waited() {
    let log = LogBuilder::new().kernel_open(77, "/usr/sbin/openvpn", &tun()).boot(1, &vhost(), 40);
    assert_eq!(findings(&log.report()), ["unmanaged-open"]);
    let mut trail = taptrail_trail::Trail::new();
    let log = log.after(61).ok(1, op_stop("shutdown"));
    log.entries.iter().for_each(|entry| trail.feed(entry));
    let drained: Vec<_> = trail.drain_findings().collect();
    assert_eq!((drained.len(), drained[0].guest.clone()), (1, None));
    assert!(drained[0].text.contains("openvpn") && drained[0].text.contains("77"), "{}", drained[0].text);
}

#[test]
fn a_guest_managers_own_open_without_a_record_is_reported() {
    let log = LogBuilder::new().kernel_open(LIBVIRTD, DAEMON, &tun()).after(30).boot(1, &tun(), 40);
    assert_eq!(findings(&log.report()), ["unmanaged-open"], "30 s are too long for one open");
}

#[test]
fn opens_that_wait_are_not_kept_for_ever() {
    let mut log = LogBuilder::new();
    for _ in 0..1100 {
        log = log.kernel_open(77, "/usr/sbin/openvpn", &tun());
    }
    let mut trail = taptrail_trail::Trail::new();
    log.entries.iter().for_each(|entry| trail.feed(entry));
    assert_eq!(trail.drain_findings().count(), 1100 - 1024);
    assert_eq!(trail.finish().findings.len(), 1024);
}

#[test]
fn other_devices_and_failed_opens_are_none_of_ours() {
    let null = Device::new("/dev/null", Some(Rdev { major: 1, minor: 3 }), None);
    let refused = KernelOpen {
        pid: 77,
        ppid: None,
        exe: "/bin/cat".into(),
        device: Device::new("/dev/net/tun", Some(Rdev::TUN), None),
        fd: None,
        errno: Some(13),
    };
    let report =
        LogBuilder::new().kernel_open(77, "/bin/cat", &null).entry(Content::KernelOpen(refused)).report();
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_failed_record_of_an_open_that_worked_says_so() {
    let report =
        LogBuilder::new().kernel_open(LIBVIRTD, DAEMON, &tun()).failed(1, open(mac(1), &tun())).report();
    assert_eq!(findings(&report), ["open-failed"]);
    assert!(report.findings[0].text.contains("the kernel had opened it"), "{}", report.findings[0].text);
    assert_eq!(report.findings[0].proof.len(), 2);
}

#[test]
fn an_open_by_io_uring_or_without_a_name_is_reported_as_such() {
    let open = |path: &str, fd: Option<i32>| {
        let device = Device { path: path.into(), dev: None, ..tun() };
        let open = KernelOpen { pid: 77, ppid: Some(1), exe: "/tmp/opens".into(), device, fd, errno: None };
        let report = LogBuilder::new().entry(Content::KernelOpen(open)).report();
        assert_eq!(report.findings.len(), 1);
        assert_eq!(report.findings[0].kind, FindingKind::UnmanagedOpen);
        report.findings[0].text.clone()
    };
    let by_io_uring = "/tmp/opens (process 77) asked io_uring to open /dev/net/tun, and no record grants it";
    assert_eq!(open("/dev/net/tun", None), by_io_uring);
    let unnamed = "/tmp/opens (process 77) opened a tun without naming it, and no record grants it";
    assert_eq!(open("", Some(4)), unnamed);
}

/// The bridge helper's record of a tap, or of a request that it refused before it opened one.
fn bridge_open(device: Option<Device>, parent: u32) -> Content {
    Content::BridgeOpen(BridgeOpen {
        bridge: "br0".into(),
        outcome: if device.is_some() { Outcome::Success } else { Outcome::Failed },
        refusal: device.is_none().then(|| "acl".into()),
        device,
        errno: None,
        requester: Requester { uid: 1000, auid: 1000, pid: parent },
        start_time: None,
        claimed_name: Some(guest(1).name),
        claimed_uuid: Some(guest(1).uuid),
        netns: None,
        ifindex: None,
    })
}

#[test]
fn a_bridge_helpers_record_accounts_for_its_open_and_makes_no_holding() {
    const HELPER: &str = "/usr/libexec/taptrail-bridge-helper";
    let log = || LogBuilder::new().by(77).kernel_open(77, HELPER, &tun());
    let of_later = |log: LogBuilder| log.after(120).by(LIBVIRTD).boot(2, &vhost(), 41).report();
    let tap = || Some(Device::new("/dev/net/tun", Some(Rdev::TUN), Some("tap0".into())));

    let report = of_later(log().entry(bridge_open(tap(), 4711)));
    assert_eq!(findings(&report), [""; 0]);
    assert!(report.holdings.iter().all(|holding| holding.guest != guest(1)));
    // Without the record, with a refusal that opened nothing, or with another process's record.
    for log in [log(), log().entry(bridge_open(None, 4711)), log().by(78).entry(bridge_open(tap(), 4711))] {
        assert_eq!(findings(&of_later(log)), ["unmanaged-open"]);
    }
}

#[test]
fn a_tap_that_a_managed_guest_gets_from_a_bridge_helper_is_not_managed() {
    let open = KernelOpen {
        pid: 77,
        ppid: Some(40),
        exe: "/usr/libexec/taptrail-bridge-helper".into(),
        device: tun(),
        fd: Some(3),
        errno: None,
    };
    let log = LogBuilder::new().boot(1, &vhost(), 40).entry(Content::KernelOpen(open)).by(77);
    let report = log.entry(bridge_open(Some(tun()), 40)).report();
    assert_eq!(findings(&report), ["unmanaged-open"]);
}
