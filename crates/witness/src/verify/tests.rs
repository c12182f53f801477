//! Comparisons of scans and trails that are made by hand.

use jiff::Timestamp;
use taptrail_kernel::proc::{HeldKind, ProcessId};
use taptrail_record::{Device, DeviceKind, GuestId, MacAddr, Rdev};
use taptrail_trail::{Certainty, EndedBy, Finding, FindingKind, Holding, Incident, State};
use uuid::Uuid;

use super::*;
use crate::scan::{
    HidingProcess, HostLink, Identity, IdentitySource, InterfaceName, Manager, ManagerKind, ManagerSource,
    PendingHandOver, Program, Unseen, UnseenProcess, UnseenReason,
};

/// Pids that no process has: the kernel's highest is 4,194,304.
const QEMU: u32 = 1_000_000_001;
const OTHER: u32 = 1_000_000_002;

const NETNS: u64 = 4_026_531_840;
const MACVTAP: Rdev = Rdev { major: 246, minor: 7 };

fn mac(last: u8) -> MacAddr {
    MacAddr::kvm([0, 0, last])
}

fn uuid() -> Uuid {
    Uuid::from_u128(1)
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_460_000 + second).unwrap()
}

fn files(numbers: &[u32]) -> Vec<ThreadDescriptor> {
    (10..).zip(numbers).map(|(fd, file)| ThreadDescriptor { fd, thread: QEMU, file: Some(*file) }).collect()
}

/// A tap of the guest's interface with this MAC.
fn tap(name: &str, last: u8, numbers: &[u32]) -> ScannedDevice {
    ScannedDevice {
        kind: HeldKind::Raw(DeviceKind::Tun),
        path: "/dev/net/tun".into(),
        rdev: Rdev::TUN,
        ifname: name.parse().ok(),
        netns: Some(NETNS),
        behind: Some(HostLink {
            index: 7,
            mac: Some(mac(last).host_side()),
            up: true,
            master: Some("br0".into()),
            lower: None,
            ethernet: true,
        }),
        descriptors: files(numbers),
    }
}

fn macvtap(name: &str, last: u8, number: u32) -> ScannedDevice {
    let tap = tap(name, last, &[number]);
    let behind = tap.behind.clone().map(|behind| HostLink { mac: Some(mac(last)), ..behind });
    let (kind, path) = (HeldKind::Raw(DeviceKind::Macvtap), "/dev/tap7".into());
    ScannedDevice { kind, path, rdev: MACVTAP, behind, ..tap }
}

fn vhosts(numbers: &[u32]) -> ScannedDevice {
    let kind = HeldKind::Raw(DeviceKind::VhostNet);
    let (path, rdev, descriptors) = ("/dev/vhost-net".into(), Rdev::VHOST_NET, files(numbers));
    ScannedDevice { kind, path, rdev, ifname: None, netns: None, behind: None, descriptors }
}

fn process(pid: u32, devices: Vec<ScannedDevice>) -> Holder {
    Holder {
        started: Some(time(0)),
        parent: Some(1),
        uid: Some(0),
        exe: Some("/usr/bin/x".into()),
        netns: Some(NETNS),
        ..Holder::of_test(ProcessId { pid, start_time: u64::from(pid) }, devices)
    }
}

fn qemu(devices: Vec<ScannedDevice>) -> Holder {
    let (name, uuid, by) = (Some("web1".into()), Some(uuid()), IdentitySource::CommandLine);
    let guest = Some(Identity { name, uuid, by, interfaces: Vec::new() });
    Holder { guest, ..process(QEMU, devices) }
}

fn scan(holders: Vec<Holder>) -> Scan {
    Scan { processes: holders.len(), holders, ..Scan::default() }
}

/// A holding from taptrail's own records.
fn exact(last: u8, device: Device, queues: u32) -> Holding {
    Holding {
        host: "h1".into(),
        guest: GuestId { name: "web1".into(), uuid: uuid() },
        mac: mac(last),
        device,
        queues: Some(queues),
        opened: Some(time(1)),
        granted: Some(time(2)),
        released: None,
        last_seen: None,
        end_doubt: None,
        uncertain_since: None,
        possibly_held: Vec::new(),
        state: State::Held,
        ended_by: None,
        certainty: Certainty::Definitive,
        pid: Some(QEMU),
        proof: Vec::new(),
    }
}

/// A holding from libvirt's records: a tap has no name, and the number of queues is unknown.
fn inferred(last: u8, device: Device) -> Holding {
    Holding { certainty: Certainty::Inferred, queues: None, ..exact(last, device, 1) }
}

fn tun(name: Option<&str>) -> Device {
    Device::new("/dev/net/tun", Some(Rdev::TUN), name.map(Into::into))
}

fn vhost() -> Device {
    Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None)
}

fn released(holding: Holding) -> Holding {
    let (state, ended_by) = (State::Released, Some(EndedBy::Detach));
    Holding { state, ended_by, released: Some(time(9)), ..holding }
}

/// The rows, one short line each.
fn lines(holders: Vec<Holder>, holdings: Vec<Holding>) -> Vec<String> {
    lines_of(&scan(holders), holdings)
}

fn lines_of(scan: &Scan, holdings: Vec<Holding>) -> Vec<String> {
    let expected = ExpectedState { holdings, ..ExpectedState::default() };
    let comparison = verify(scan, &expected, &Ignore::default());
    let line = |row: &Row<'_>| {
        let device = row.held.map_or_else(
            || row.holding.map(|holding| format!("{} {}", holding.device.kind, holding.mac.0[5])),
            |held| Some(held.ifname.as_ref().map_or(held.kind.to_string(), ToString::to_string)),
        );
        let matched = row.matched.map(|matched| format!(" by {}", matched.as_str())).unwrap_or_default();
        format!("{} {} x{}{matched}", row.verdict.as_str(), device.unwrap(), row.queues)
    };
    comparison.rows.iter().map(line).collect()
}

#[test]
fn what_the_kernel_counts_and_nobody_shows_is_hidden() {
    let hidden_taps = |name, last| {
        vec![HiddenTap { held: ScannedDevice { descriptors: Vec::new(), ..tap(name, last, &[]) }, queues: 2 }]
    };
    let files = taptrail_kernel::proc::HiddenFiles { in_flight: 2, registered: 1 };
    let seen = |holders, name, last| Scan {
        hidden_taps: hidden_taps(name, last),
        hiding_processes: vec![HidingProcess { pid: OTHER, files }],
        ..scan(holders)
    };
    // It is held, though the process that it is granted to does not show it.
    let hidden = seen(vec![], "vnet0", 9);
    assert_eq!(lines_of(&hidden, vec![exact(1, tun(Some("vnet0")), 2)]), ["hidden vnet0 x2"]);
    let expected =
        ExpectedState { holdings: vec![exact(1, tun(Some("vnet0")), 2)], ..ExpectedState::default() };
    let comparison = verify(&hidden, &expected, &Ignore::default());
    let text = comparison.rows[0].text.as_deref().unwrap();
    assert_eq!(
        text,
        "The kernel counts open files of vnet0 that no process shows; by the trail, it is held by 52:54:00:00:00:01 of guest \
         'web1'. Open files that can't be looked at are kept by process 1000000002 (2 in flight on its sockets and 1 \
         registered with io_uring)"
    );
    // libvirt's records have no name.
    assert_eq!(lines_of(&hidden, vec![inferred(1, tun(None))]), ["hidden vnet0 x2", "missing tun 1 x1"]);
    assert_eq!(lines_of(&seen(vec![], "vnet0", 1), vec![inferred(1, tun(None))]), ["hidden vnet0 x2"]);
    assert_eq!(lines_of(&hidden, vec![released(exact(1, tun(Some("vnet0")), 2))]), ["hidden vnet0 x2"]);
    let beside = seen(vec![qemu(vec![tap("vnet0", 1, &[0])])], "vnet0", 1);
    let found = lines_of(&beside, vec![exact(1, tun(Some("vnet0")), 1)]);
    assert_eq!(found, ["accounted vnet0 x1 by name", "hidden vnet0 x2"]);
}

#[test]
fn what_a_supervisor_is_about_to_give_is_no_difference() {
    let pending_hand_overs = |opened| PendingHandOver {
        supervisor: process(OTHER, vec![]).process,
        qemu: Some(qemu(vec![]).process),
        opened,
    };
    let both = || {
        let supervisor = process(OTHER, vec![tap("vnet1", 1, &[1]), vhosts(&[2])]);
        let qemu = qemu(vec![tap("vnet0", 1, &[0]), tap("vnet1", 1, &[1]), tap("vnet7", 1, &[3])]);
        vec![qemu, supervisor]
    };
    let seen =
        Scan { pending_hand_overs: vec![pending_hand_overs(vec![tun(Some("vnet1"))])], ..scan(both()) };
    let expected = || vec![exact(1, tun(Some("vnet0")), 1)];
    assert_eq!(
        lines_of(&seen, expected()),
        [
            "accounted vnet0 x1 by name",
            "opening vnet1 x1",
            "unaccounted vnet7 x1",
            "opening vnet1 x1",
            "opening vhost-net x1"
        ]
    );
    let seen = Scan { pending_hand_overs: vec![pending_hand_overs(vec![])], ..scan(both()) };
    assert_eq!(lines_of(&seen, expected())[1], "unaccounted vnet1 x1", "no open of it is on record");
    assert!(!Verdict::Opening.is_difference() && Verdict::Hidden.is_difference());
}

#[test]
fn what_the_trail_names_is_accounted_for_by_name() {
    let device = Device::new("/dev/tap7", Some(MACVTAP), Some("macvtap0".into()));
    let held = vec![tap("vnet0", 1, &[0, 1]), macvtap("macvtap0", 2, 2)];
    let expected = vec![exact(1, tun(Some("vnet0")), 2), exact(2, device, 1)];
    assert_eq!(
        lines(vec![qemu(held)], expected),
        ["accounted vnet0 x2 by name", "accounted macvtap0 x1 by name"]
    );
}

// Shows 14.9.
#[test]
fn libvirts_one_record_accounts_for_all_queues() {
    let held = vec![tap("vnet0", 1, &[0, 1, 2, 3]), macvtap("macvtap4", 2, 4), vhosts(&[5, 6, 7, 8, 9])];
    let macvtap = Device::new("macvtap4", None, None);
    let expected =
        vec![inferred(1, tun(None)), inferred(1, vhost()), inferred(2, macvtap), inferred(2, vhost())];
    assert_eq!(
        lines(vec![qemu(held)], expected),
        [
            "accounted macvtap4 x1 by name",
            "accounted vnet0 x4 by mac",
            "accounted vhost-net x4 by count",
            "accounted vhost-net x1 by count"
        ]
    );
}

// Shows 14.9.
#[test]
fn a_queue_more_than_taptrail_recorded_is_unaccounted_and_one_less_is_missing() {
    let expected = || vec![exact(1, tun(Some("vnet0")), 2), exact(1, vhost(), 2)];
    let held = vec![tap("vnet0", 1, &[0, 1, 2]), vhosts(&[3])];
    assert_eq!(
        lines(vec![qemu(held)], expected()),
        [
            "accounted vnet0 x2 by name",
            "accounted vhost-net x1 by count",
            "unaccounted vnet0 x1",
            "missing vhost-net 1 x1"
        ]
    );
    // A duplicated descriptor is not another queue.
    let mut twice = tap("vnet0", 1, &[0, 1]);
    twice.descriptors.push(ThreadDescriptor { fd: 99, thread: QEMU, file: Some(1) });
    assert_eq!(
        lines(vec![qemu(vec![twice, vhosts(&[3, 4])])], expected()),
        ["accounted vnet0 x2 by name", "accounted vhost-net x2 by count"]
    );
}

#[test]
fn vhost_nets_are_shared_out_so_that_each_interface_has_one() {
    let held = || vec![tap("vnet0", 1, &[0, 1]), tap("vnet1", 2, &[2, 3]), vhosts(&[4, 5, 6])];
    let expected =
        || vec![inferred(1, tun(None)), inferred(2, tun(None)), inferred(1, vhost()), inferred(2, vhost())];
    let found = lines(vec![qemu(held())], expected());
    assert_eq!(found[2..], ["accounted vhost-net x2 by count", "accounted vhost-net x1 by count"]);
    // One for which no descriptor is left is missing.
    let held = vec![tap("vnet0", 1, &[0, 1]), tap("vnet1", 2, &[2, 3]), vhosts(&[4])];
    let found = lines(vec![qemu(held)], expected());
    assert_eq!(found[2..], ["accounted vhost-net x1 by count", "missing vhost-net 2 x1"]);
}

#[test]
fn a_renamed_tap_is_known_by_its_address_and_a_strangers_is_not_taken_for_it() {
    let expected = || vec![exact(1, tun(Some("vnet0")), 1)];
    let renamed = vec![tap("uplink", 1, &[0])];
    assert_eq!(lines(vec![qemu(renamed)], expected()), ["accounted uplink x1 by mac"]);
    let strange = vec![tap("tap0", 9, &[0])];
    assert_eq!(lines(vec![qemu(strange)], expected()), ["unaccounted tap0 x1", "missing tun 1 x1"]);
}

#[test]
fn a_tap_of_another_address_is_known_by_what_libvirt_wrote_down() {
    let mut guest = qemu(vec![tap("mytap", 9, &[0])]);
    let named = InterfaceName { mac: mac(1), ifname: "mytap".parse().unwrap() };
    guest.guest.as_mut().unwrap().interfaces.push(named);
    assert_eq!(lines(vec![guest], vec![inferred(1, tun(None))]), ["accounted mytap x1 by libvirt"]);
}

#[test]
fn a_device_whose_link_is_gone_is_the_one_that_is_left() {
    let mut gone = tap("vnet0", 1, &[0]);
    (gone.ifname, gone.behind, gone.netns) = (None, None, None);
    let expected = vec![exact(1, tun(Some("vnet0")), 1)];
    assert_eq!(lines(vec![qemu(vec![gone])], expected), ["accounted tun x1 by elimination"]);
}

#[test]
fn what_nobody_holds_is_missing() {
    let expected = || vec![exact(1, tun(Some("vnet0")), 2)];
    assert_eq!(lines(vec![], expected()), ["missing tun 1 x2"]);
    assert_eq!(
        lines(vec![qemu(vec![vhosts(&[0])])], expected()),
        ["unaccounted vhost-net x1", "missing tun 1 x2"]
    );
}

// Shows 14.10.
#[test]
fn a_pid_that_is_another_guests_by_now_holds_nothing_for_this_one() {
    let expected = || vec![exact(1, tun(Some("vnet0")), 1)];
    let mut later = process(QEMU, vec![tap("vnet0", 3, &[0])]);
    assert_eq!(lines(vec![later.clone()], expected()), ["accounted vnet0 x1 by name"]);
    later.started = Some(time(100));
    assert_eq!(lines(vec![later], expected()), ["unaccounted vnet0 x1", "missing tun 1 x1"]);
    let mut other = qemu(vec![tap("vnet0", 3, &[0])]);
    other.started = Some(time(100));
    // Its command line may say so.
    assert_eq!(lines(vec![other.clone()], expected()), ["unaccounted vnet0 x1", "missing tun 1 x1"]);
    // Whatever the clock says, it is the guest.
    other.guest.as_mut().unwrap().by = IdentitySource::Ledger;
    assert_eq!(lines(vec![other.clone()], expected()), ["accounted vnet0 x1 by name"]);
    other.guest.as_mut().unwrap().uuid = Some(Uuid::from_u128(2));
    assert_eq!(lines(vec![other.clone()], expected()), ["unaccounted vnet0 x1", "missing tun 1 x1"]);
}

#[test]
fn a_process_that_rewrites_its_arguments_stays_who_it_is() {
    let other = Uuid::from_u128(2);
    let mut rewritten = qemu(vec![tap("vnet0", 1, &[0])]);
    rewritten.guest.as_mut().unwrap().uuid = Some(other);
    let expected = || exact(1, tun(Some("vnet0")), 1);
    assert_eq!(lines(vec![rewritten.clone()], vec![expected()]), ["accounted vnet0 x1 by name"]);
    assert_eq!(lines(vec![rewritten.clone()], vec![released(expected())]), ["held-after-release vnet0 x1"]);
    // If the trail has holdings of the other guest, the process may be that guest's: the recorded
    // pid may be one of a container.
    let known = Holding { guest: GuestId { name: "b".into(), uuid: other }, pid: None, ..expected() };
    let known = Holding { device: tun(Some("vnet9")), ..known };
    let found = lines(vec![rewritten.clone()], vec![expected(), known]);
    assert!(found.contains(&"missing tun 1 x1".to_owned()), "{found:?}");
    // A process that started later is another one.
    rewritten.started = Some(time(100));
    assert_eq!(lines(vec![rewritten], vec![expected()]), ["unaccounted vnet0 x1", "missing tun 1 x1"]);
}

#[test]
fn without_a_pid_it_is_the_guests_first_process() {
    let expected = Holding { pid: None, ..inferred(1, tun(None)) };
    let parent = qemu(vec![tap("vnet0", 1, &[0])]);
    let mut child = qemu(vec![tap("vnet0", 1, &[0])]);
    child.process = ProcessId { pid: OTHER, start_time: 1 };
    child.parent = Some(QEMU);
    let found = lines(vec![parent, child], vec![expected]);
    assert_eq!(found, ["accounted vnet0 x1 by mac", "held-by-another vnet0 x1"]);
}

// Shows 14.2.
#[test]
fn a_copy_and_a_queue_in_another_process_are_held_by_another() {
    let expected = || vec![exact(1, tun(Some("vnet0")), 1), exact(1, vhost(), 1)];
    let guest = || qemu(vec![tap("vnet0", 1, &[0]), vhosts(&[1])]);
    let copies = process(OTHER, vec![tap("vnet0", 1, &[0]), vhosts(&[1])]);
    let found = lines(vec![guest(), copies], expected());
    assert_eq!(found[2..], ["held-by-another vnet0 x1", "held-by-another vhost-net x1"]);
    let opened = process(OTHER, vec![tap("vnet0", 1, &[2]), vhosts(&[3])]);
    let found = lines(vec![guest(), opened], expected());
    assert_eq!(found[2..], ["held-by-another vnet0 x1", "unaccounted vhost-net x1"]);
}

#[test]
fn a_device_that_another_process_has_instead_is_both() {
    let daemon = process(OTHER, vec![tap("vnet0", 1, &[0])]);
    let found = lines(vec![daemon], vec![exact(1, tun(Some("vnet0")), 1)]);
    assert_eq!(found, ["held-by-another vnet0 x1", "missing tun 1 x1"]);
}

#[test]
fn what_was_released_and_is_held_is_reported_so() {
    let expected = || vec![released(exact(1, tun(Some("vnet0")), 1)), released(exact(1, vhost(), 1))];
    let held = || vec![tap("vnet0", 1, &[0]), vhosts(&[1])];
    let found = lines(vec![qemu(held())], expected());
    assert_eq!(found, ["held-after-release vnet0 x1", "held-after-release vhost-net x1"]);
    // In another process only the MAC identifies it.
    let found = lines(vec![process(OTHER, held())], expected());
    assert_eq!(found, ["held-after-release vnet0 x1", "unaccounted vhost-net x1"]);
    let namesake = process(OTHER, vec![tap("vnet0", 9, &[0])]);
    assert_eq!(lines(vec![namesake], expected()), ["unaccounted vnet0 x1"]);
}

#[test]
fn an_interface_that_came_back_is_the_later_one() {
    let expected = vec![released(exact(1, tun(Some("vnet0")), 1)), exact(1, tun(Some("vnet1")), 1)];
    let found = lines(vec![qemu(vec![tap("vnet1", 1, &[0])])], expected);
    assert_eq!(found, ["accounted vnet1 x1 by name"]);
}

#[test]
fn of_interfaces_with_one_mac_one_is_enough() {
    let ambiguous = || Holding { certainty: Certainty::Ambiguous, ..inferred(1, tun(None)) };
    let one = qemu(vec![tap("vnet0", 1, &[0])]);
    let found = lines(vec![one], vec![ambiguous(), ambiguous()]);
    assert_eq!(found, ["accounted vnet0 x1 by mac"]);
    let two = qemu(vec![tap("vnet0", 1, &[0]), tap("vnet1", 1, &[1])]);
    let found = lines(vec![two], vec![ambiguous(), ambiguous()]);
    assert_eq!(found, ["accounted vnet0 x1 by mac", "accounted vnet1 x1 by mac"]);
    assert_eq!(lines(vec![], vec![ambiguous(), ambiguous()]), ["missing tun 1 x1"]);
}

// Shows 14.18.
#[test]
fn a_tap_and_a_macvtap_with_one_mac_count_together_and_their_vhost_nets_with_them() {
    let doubtful = |holding| Holding { certainty: Certainty::Ambiguous, ..holding };
    let expected = |vhosts: usize| {
        let macvtap = Device::new("macvtap4", None, None);
        let backends = [inferred(1, tun(None)), inferred(1, macvtap)];
        let vhosts = std::iter::repeat_with(|| inferred(1, vhost())).take(vhosts);
        backends.into_iter().chain(vhosts).map(doubtful).collect::<Vec<_>>()
    };
    // Whichever was unplugged, with the one vhost-net or without it.
    let tap = || tap("vnet0", 1, &[0]);
    let macvtap = || macvtap("macvtap4", 1, 1);
    assert_eq!(lines(vec![qemu(vec![macvtap()])], expected(1)), ["accounted macvtap4 x1 by name"]);
    assert_eq!(lines(vec![qemu(vec![tap()])], expected(1)), ["accounted vnet0 x1 by mac"]);
    let found = lines(vec![qemu(vec![tap(), vhosts(&[2])])], expected(2));
    assert_eq!(found, ["accounted vnet0 x1 by mac", "accounted vhost-net x1 by count"]);
    // With both backends there no vhost-net may be gone.
    let found = lines(vec![qemu(vec![tap(), macvtap()])], expected(1));
    assert_eq!(found[2..], ["missing vhost-net 1 x1"]);
    // One of them has to be there.
    assert_eq!(lines(vec![], expected(2)), ["missing macvtap 1 x1", "missing vhost-net 1 x1"]);
}

#[test]
fn one_that_came_after_the_doubtful_ones_may_be_taken_for_one_of_them() {
    let doubtful = || Holding { certainty: Certainty::Ambiguous, ..inferred(1, tun(None)) };
    let expected = || vec![doubtful(), doubtful(), inferred(1, tun(None))];
    let two = qemu(vec![tap("vnet0", 1, &[0]), tap("vnet2", 1, &[1])]);
    assert_eq!(lines(vec![two], expected()), ["accounted vnet0 x1 by mac", "accounted vnet2 x1 by mac"]);
    // One of three was released, so two must be there.
    let one = qemu(vec![tap("vnet0", 1, &[0])]);
    assert_eq!(lines(vec![one], expected()), ["accounted vnet0 x1 by mac", "missing tun 1 x1"]);
}

// Shows 14.18.
#[test]
fn the_guest_of_a_process_decides_before_a_mac_does() {
    // Another guest's tap has the same address, and its process started before the trail.
    let other = |by| {
        let (name, uuid) = (Some("a".into()), Some(Uuid::from_u128(2)));
        let named = InterfaceName { mac: mac(1), ifname: "vnet0".parse().unwrap() };
        let guest = Some(Identity { name, uuid, by, interfaces: vec![named] });
        Holder { guest, ..process(OTHER, vec![tap("vnet0", 1, &[0])]) }
    };
    for by in [IdentitySource::Ledger, IdentitySource::Libvirt, IdentitySource::CommandLine] {
        let found = lines(vec![other(by)], vec![released(inferred(1, tun(None)))]);
        assert_eq!(found, ["unaccounted vnet0 x1"], "{by:?}");
        let found = lines(vec![other(by)], vec![inferred(1, tun(None))]);
        assert_eq!(found, ["unaccounted vnet0 x1", "missing tun 1 x1"], "{by:?}");
        let opened =
            Holding { state: State::NeverGranted, granted: None, pid: None, ..inferred(1, tun(None)) };
        assert_eq!(lines(vec![other(by)], vec![opened]), ["unaccounted vnet0 x1"], "{by:?}");
    }
    let mut named = other(IdentitySource::CommandLine);
    named.guest.as_mut().unwrap().uuid = None;
    let expected = || vec![released(inferred(1, tun(None)))];
    assert_eq!(lines(vec![named.clone()], expected()), ["unaccounted vnet0 x1"]);
    named.guest.as_mut().unwrap().name = Some("web1".into());
    assert_eq!(lines(vec![named], expected()), ["held-after-release vnet0 x1"]);
    // A shared open file proves it, whatever the command line says.
    let mut copy = other(IdentitySource::CommandLine);
    copy.devices = vec![tap("vnet0", 1, &[0])];
    let found = lines(vec![qemu(vec![tap("vnet0", 1, &[0])]), copy], vec![inferred(1, tun(None))]);
    assert_eq!(found, ["accounted vnet0 x1 by mac", "held-by-another vnet0 x1"]);
}

// Shows 14.19.
#[test]
fn a_manager_that_writes_no_records_is_named() {
    let managed = |kind, pid: Option<u32>, path: &str, uid| {
        let path = (!path.is_empty()).then(|| path.into());
        let by = ManagerSource::CommandLine;
        let manager = Some(Manager { kind, pid, path, uid, by });
        let holder = Holder { manager, ..process(QEMU, vec![tap("vnet0", 1, &[0])]) };
        let (scan, expected) =
            (scan(vec![holder]), ExpectedState { begins: Some(time(1)), ..ExpectedState::default() });
        let text = verify(&scan, &expected, &Ignore::default()).rows[0].text.clone().unwrap();
        text.split_once("no record grants it").unwrap().1.to_owned()
    };
    let older = format!("; the process is older than the trail, which begins at {:.0}", time(1));
    let holder = Holder {
        manager: Some(Manager {
            kind: ManagerKind::Taptrail,
            pid: Some(7),
            path: Some("/usr/bin/taptrail".into()),
            uid: None,
            by: ManagerSource::Parent,
        }),
        ..process(QEMU, vec![tap("vnet0", 1, &[0])])
    };
    let supervised = scan(vec![holder]);
    let text =
        verify(&supervised, &ExpectedState::default(), &Ignore::default()).rows[0].text.clone().unwrap();
    assert!(text.ends_with("no record grants it here: a taptrail (pid 7) supervises it with another --state-dir, whose ledger has its records"), "{text}");
    for (kind, pid, path, uid, expected) in [
        (
            ManagerKind::VirtQemuRun,
            None,
            "/tmp/r",
            None,
            ": its manager, virt-qemu-run (its files are in /tmp/r), writes no audit records".to_owned(),
        ),
        (
            ManagerKind::LibvirtSession,
            Some(7),
            "/usr/sbin/virtqemud",
            Some(1000),
            ": its manager, libvirt's session daemon of user 1000 (pid 7), writes no audit records"
                .to_owned(),
        ),
        (
            ManagerKind::Other,
            Some(7),
            "/bin/sh",
            None,
            format!("; no known guest manager started it: its parent is /bin/sh (pid 7){older}"),
        ),
        (
            ManagerKind::None,
            None,
            "",
            None,
            format!("; no known guest manager started it: its parent is process 1{older}"),
        ),
        (ManagerKind::Libvirt, None, "/var/lib/libvirt/qemu", None, older.clone()),
    ] {
        assert_eq!(managed(kind, pid, path, uid), expected);
    }
}

// Shows 14.17.
#[test]
fn what_a_process_may_hold_that_was_not_seen_is_unknown_and_not_missing() {
    let verdicts = |pid: Option<u32>, unseen: Unseen, holders: Vec<Holder>| {
        let holding = Holding { pid, ..exact(1, tun(Some("vnet0")), 2) };
        let expected = ExpectedState { holdings: vec![holding], ..ExpectedState::default() };
        let scan = Scan { unseen, ..scan(holders) };
        let rows = verify(&scan, &expected, &Ignore::default()).rows;
        assert!(rows.iter().all(|row| row.text.is_some() == row.verdict.is_difference()));
        rows.iter().map(|row| row.verdict).collect::<Vec<_>>()
    };
    let process = |pid| UnseenProcess { pid, name: None, within: Vec::new(), why: UnseenReason::Permission };
    let unseen = |pid| Unseen { processes: vec![process(pid)], ..Unseen::default() };
    assert_eq!(verdicts(Some(QEMU), unseen(QEMU), vec![]), [Verdict::Unknown]);
    assert_eq!(verdicts(Some(QEMU), unseen(OTHER), vec![]), [Verdict::Missing]);
    assert_eq!(verdicts(None, unseen(OTHER), vec![]), [Verdict::Unknown]);
    // A process that holds more than is read may hold the second queue, too.
    let crowded = Unseen { crowded: vec![process(QEMU)], ..Unseen::default() };
    let seen = verdicts(Some(QEMU), crowded, vec![qemu(vec![tap("vnet0", 1, &[0])])]);
    assert_eq!(seen, [Verdict::Accounted, Verdict::Unknown]);
    // The process that has it instead is reported, whatever is known of its owner.
    let other = super::tests::process(OTHER, vec![tap("vnet0", 1, &[0])]);
    assert_eq!(verdicts(Some(QEMU), unseen(QEMU), vec![other]), [Verdict::HeldByAnother, Verdict::Unknown]);
}

#[test]
fn what_missing_records_would_show_is_unknown() {
    let opened = Holding {
        state: State::Unknown,
        granted: None,
        pid: None,
        certainty: Certainty::Incomplete,
        ..exact(1, tun(None), 1)
    };
    let verdicts = |holding: &Holding, holders: Vec<Holder>| {
        let expected = ExpectedState { holdings: vec![holding.clone()], ..ExpectedState::default() };
        let scan = scan(holders);
        verify(&scan, &expected, &Ignore::default()).rows.iter().map(|row| row.verdict).collect::<Vec<_>>()
    };
    let held = || vec![qemu(vec![tap("vnet0", 1, &[0])])];
    // It is not known whether QEMU got the opened device.
    assert_eq!(verdicts(&opened, held()), [Verdict::Unknown]);
    assert_eq!(verdicts(&opened, vec![]), []);
    let another = process(OTHER, vec![tap("tap0", 9, &[0])]);
    assert_eq!(verdicts(&opened, vec![another]), [Verdict::Unaccounted]);
    // While QEMU is about to get it, the supervisor and then QEMU hold it.
    let opening = Holding { state: State::Opening, ..opened };
    let supervisor = process(OTHER, vec![tap("vnet0", 1, &[0])]);
    assert_eq!(verdicts(&opening, held()), [Verdict::Unknown]);
    assert_eq!(verdicts(&opening, vec![]), []);
    assert_eq!(verdicts(&opening, vec![process(OTHER, vec![tap("tap0", 9, &[0])])]), [Verdict::Unaccounted]);
    let seen = verdicts(&opening, vec![supervisor]);
    assert_eq!(seen, [Verdict::Unknown]);
    // It is not known whether QEMU still has the device.
    let lost = Holding { certainty: Certainty::Incomplete, ..inferred(1, tun(None)) };
    assert_eq!(verdicts(&lost, held()), [Verdict::Accounted]);
    assert_eq!(verdicts(&lost, vec![]), [Verdict::Unknown]);
}

#[test]
fn what_was_opened_and_not_granted_is_unaccounted_with_its_record() {
    let opened =
        Holding { state: State::NeverGranted, granted: None, pid: None, ..exact(1, tun(Some("vnet0")), 1) };
    let expected =
        ExpectedState { holdings: vec![opened], begins: Some(time(5)), ..ExpectedState::default() };
    let scan = scan(vec![process(OTHER, vec![tap("vnet0", 1, &[0]), tap("tap0", 9, &[1])])]);
    let rows = verify(&scan, &expected, &Ignore::default()).rows;
    assert_eq!((rows[0].verdict, rows[0].holding), (Verdict::Unaccounted, expected.holdings.first()));
    let text = |row: &Row<'_>| row.text.clone().unwrap();
    assert!(
        text(&rows[0])
            .ends_with("it was opened for 52:54:00:00:00:01 of guest 'web1' and never given to QEMU")
    );
    assert!(text(&rows[1]).contains("older than the trail, which begins at"), "{}", text(&rows[1]));
}

// Shows 14.13.
#[test]
fn what_a_watcher_saw_and_no_record_grants_is_not_accounted_for() {
    let holdings = || vec![exact(1, tun(Some("vnet0")), 1), exact(2, tun(Some("vnet1")), 1)];
    let objection = |kind, last, name, second| Finding {
        kind,
        host: "h1".into(),
        guest: Some(GuestId { name: "web1".into(), uuid: uuid() }),
        mac: Some(mac(last)),
        device: Some(tun(Some(name))),
        time: time(second),
        text: "It is so".into(),
        proof: Vec::new(),
        incident: Incident::default(),
    };
    let verdicts = |objections| {
        let expected = ExpectedState { holdings: holdings(), objections, ..ExpectedState::default() };
        let scan = scan(vec![qemu(vec![tap("vnet0", 1, &[0]), tap("vnet1", 2, &[1])])]);
        verify(&scan, &expected, &Ignore::default()).rows.iter().map(|row| row.verdict).collect::<Vec<_>>()
    };
    let both = vec![
        objection(FindingKind::UnaccountedDevice, 1, "vnet0", 5),
        objection(FindingKind::HeldAfterRelease, 2, "vnet1", 5),
    ];
    assert_eq!(verdicts(both), [Verdict::Unaccounted, Verdict::AfterRelease]);
    // A device that was opened since is another one.
    let before = vec![objection(FindingKind::HeldAfterRelease, 1, "vnet0", 0)];
    assert_eq!(verdicts(before), [Verdict::Accounted; 2]);
}

// Shows 14.15, 17.6, 17.7.
#[test]
fn unaudited_kinds_are_no_difference() {
    let kinds = [HeldKind::Vfio, HeldKind::Raw(DeviceKind::VhostVdpa), HeldKind::VhostVsock];
    let held = kinds.map(|kind| ScannedDevice { kind, ..vhosts(&[0]) }).to_vec();
    let found = lines(vec![qemu(held)], vec![]);
    assert_eq!(found, ["vfio", "vhost-vdpa", "vhost-vsock"].map(|kind| format!("unaudited-kind {kind} x1")));
}

// Shows 17.1.
#[test]
fn an_ipvtap_is_accounted_for_as_a_macvtap_is() {
    let ipvtap = ScannedDevice { kind: HeldKind::Ipvtap, ..macvtap("ipvtap0", 1, 0) };
    let device = Device::new("/dev/tap7", Some(MACVTAP), Some("ipvtap0".into()));
    assert_eq!(
        lines(vec![qemu(vec![ipvtap.clone()])], vec![exact(1, device, 1)]),
        ["accounted ipvtap0 x1 by name"]
    );
    assert_eq!(lines(vec![qemu(vec![ipvtap])], vec![]), ["unaccounted ipvtap0 x1"]);
}

#[test]
fn a_known_program_is_ignored_but_not_with_a_guests_device() {
    let own = std::process::id();
    let exe = std::env::current_exe().unwrap();
    let program = |devices| Holder { exe: Some(exe.clone()), ..process(own, devices) };
    let ignore = Ignore::of(std::slice::from_ref(&exe), &[]);
    let verdicts = |expected: Vec<Holding>, ignore: &Ignore| {
        let expected = ExpectedState { holdings: expected, ..ExpectedState::default() };
        let scan = scan(vec![program(vec![tap("tun0", 9, &[0]), tap("vnet0", 1, &[1])])]);
        verify(&scan, &expected, ignore).rows.iter().map(|row| row.verdict).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(vec![], &ignore), [Verdict::Ignored; 2]);
    assert_eq!(verdicts(vec![], &Ignore::of(&["/bin/sh".into()], &[])), [Verdict::Unaccounted; 2]);
    assert_eq!(verdicts(vec![], &Ignore::of(&[], &[own])), [Verdict::Ignored; 2]);
    let expected = vec![released(exact(1, tun(Some("vnet0")), 1))];
    assert_eq!(verdicts(expected, &ignore), [Verdict::Ignored, Verdict::AfterRelease]);
}

#[test]
fn processes_that_share_a_device_are_named() {
    let scan =
        scan(vec![process(QEMU, vec![tap("tap0", 9, &[0])]), process(OTHER, vec![tap("tap0", 9, &[1])])]);
    let expected = ExpectedState::default();
    let rows = verify(&scan, &expected, &Ignore::default()).rows;
    assert_eq!((&rows[0].shared, &rows[1].shared), (&vec![OTHER], &vec![QEMU]));
}

#[test]
fn a_deleted_macvtap_is_not_the_one_that_has_its_number() {
    let live = macvtap("macvtap0", 1, 0);
    let path = "/dev/tap5 (deleted)".into();
    let dead = ScannedDevice { path, ifname: None, netns: None, behind: None, ..macvtap("macvtap0", 1, 1) };
    assert!(dead.is_dead() && !live.is_dead());
    let scan = scan(vec![qemu(vec![live]), process(OTHER, vec![dead])]);
    let device = Device::new("/dev/tap7", Some(MACVTAP), Some("macvtap0".into()));
    let expected = ExpectedState { holdings: vec![exact(1, device, 1)], ..ExpectedState::default() };
    let rows = verify(&scan, &expected, &Ignore::default()).rows;
    let verdicts: Vec<_> = rows.iter().map(|row| (row.verdict, row.shared.clone())).collect();
    assert_eq!(verdicts, [(Verdict::Accounted, vec![]), (Verdict::Unaccounted, vec![])]);
}

#[test]
fn a_scope_narrows_what_is_reported() {
    let mut elsewhere = tap("tap0", 9, &[5]);
    elsewhere.netns = Some(1);
    let scan = scan(vec![qemu(vec![tap("vnet0", 1, &[0])]), process(OTHER, vec![elsewhere])]);
    let expected = ExpectedState {
        holdings: vec![exact(1, tun(Some("vnet0")), 1), exact(2, tun(None), 1)],
        ..ExpectedState::default()
    };
    let comparison = verify(&scan, &expected, &Ignore::default());
    let count = |scope: Scope| comparison.rows.iter().filter(|row| scope.has(row)).count();
    assert_eq!(count(Scope::default()), 3);
    assert_eq!(count(Scope { pids: vec![QEMU], ..Scope::default() }), 2);
    assert_eq!(count(Scope { pids: vec![OTHER, QEMU], ..Scope::default() }), 3);
    assert_eq!(count(Scope { guests: vec!["web1".into()], ..Scope::default() }), 2);
    assert_eq!(count(Scope { guests: vec![uuid().to_string()], ..Scope::default() }), 2);
    assert_eq!(count(Scope { guests: vec!["web2".into()], ..Scope::default() }), 0);
    // The process of a missing device is gone, and may have been in any namespace.
    assert_eq!(count(Scope { netns: Some(1), ..Scope::default() }), 2);
    assert_eq!(count(Scope { netns: Some(NETNS), ..Scope::default() }), 2);
}

// Shows 14.21.
#[test]
fn a_tap_of_the_bridge_helpers_is_its_parents_or_a_qemu_of_the_same_user() {
    let record = |process: Option<u32>| BridgeTap {
        bridge: "br0".to_owned(),
        dev: "tap0".to_owned(),
        uid: 1000,
        parent: process.map(|pid| ProcessId { pid, start_time: u64::from(pid) }),
        passed: time(5),
    };
    let found = |tap: BridgeTap, holder: Holder| {
        let scan = Scan { netns: Some(NETNS), ..scan(vec![holder]) };
        let expected = ExpectedState { bridge_taps: vec![tap], ..ExpectedState::default() };
        let rows = verify(&scan, &expected, &Ignore::default()).rows;
        (rows[0].verdict, rows[0].matched)
    };
    let yes = (Verdict::Accounted, Some(MatchMethod::BridgeHelper));
    let no = (Verdict::Unaccounted, None);
    let held = || vec![tap("tap0", 1, &[0])];
    let users = |devices| Holder { uid: Some(1000), program: Program::Qemu, ..process(QEMU, devices) };
    // The helper's parent, whatever it is; else a QEMU of the user.
    assert_eq!(found(record(Some(QEMU)), process(QEMU, held())), yes);
    assert_eq!(found(record(Some(OTHER)), process(QEMU, held())), no);
    assert_eq!(found(record(Some(OTHER)), users(held())), yes);
    assert_eq!(found(record(None), users(held())), yes);
    // Another user's, another tap, another bridge, another namespace, a QEMU of later.
    assert_eq!(found(record(None), Holder { uid: Some(1001), ..users(held()) }), no);
    assert_eq!(found(record(Some(QEMU)), users(vec![tap("tap1", 1, &[0])])), no);
    let mut moved = tap("tap0", 1, &[0]);
    moved.behind.as_mut().unwrap().master = Some("br1".to_owned());
    assert_eq!(found(record(Some(QEMU)), users(vec![moved])), no);
    let elsewhere = ScannedDevice { netns: Some(7), ..tap("tap0", 1, &[0]) };
    assert_eq!(found(record(None), users(vec![elsewhere])), no);
    assert_eq!(found(record(None), Holder { started: Some(time(66)), ..users(held()) }), no);
    assert_eq!(found(record(None), Holder { started: None, ..users(held()) }), no);
}
