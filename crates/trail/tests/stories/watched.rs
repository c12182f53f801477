//! A watcher's records beside those of a guest's manager: with them libvirt's guests end
//! definitively.

use crate::fixtures::{findings, macvtap, tun, vhost};
use crate::log_builder::*;
use jiff::SignedDuration;
use taptrail_record::{Descriptor, Device, Event, MacAddr, Rdev, Record};
use taptrail_trail::{Content, EndedBy, FindingKind, Trail};

const WATCHER: u32 = 77;
const QEMU: u32 = 40;

fn vnet(number: u32) -> Device {
    Device::new("/dev/net/tun", Some(Rdev::TUN), Some(format!("vnet{number}").into()))
}

fn descriptor(mac: MacAddr, device: &Device, queue: u32, fd: u32) -> Descriptor {
    Descriptor { mac: Some(mac), device: device.clone(), queue: Some(queue), vm_pid: QEMU, fd }
}

fn by_interface() -> Device {
    Device::new("macvtap0", None, None)
}

impl LogBuilder {
    fn watcher(self, number: u8, event: Event) -> Self {
        self.by(WATCHER).ok(number, event).by(LIBVIRTD)
    }

    fn seen(self, device: &Device, fd: u32) -> Self {
        self.watcher(1, Event::Seen(descriptor(mac(1), device, 0, fd)))
    }

    fn gone(self, device: &Device, fd: u32) -> Self {
        self.watcher(1, Event::Gone(descriptor(mac(1), device, 0, fd)))
    }

    fn unseen(self, device: &Device, fd: u32) -> Self {
        let mut record = Record::success(guest(1), Event::Gone(descriptor(mac(1), device, 0, fd)));
        record.last_seen = Some(1_795_465_860_017);
        self.by(WATCHER).entry(Content::Record(record)).by(LIBVIRTD)
    }

    /// A guest with a tap, whose descriptor the watcher saw.
    fn watched() -> Self {
        Self::new().boot(1, &tun(), QEMU).seen(&tun(), 25)
    }

    /// A guest that has two taps with one MAC.
    fn twins() -> Self {
        let log = Self::new().ok(1, open(mac(1), &tun())).ok(1, open(mac(1), &tun()));
        let log = log.ok(1, start(mac(1))).ok(1, start(mac(1))).ok(1, op_start("booted", QEMU));
        log.seen(&vnet(0), 25).seen(&vnet(1), 27)
    }
}

#[test]
fn what_was_seen_is_held_definitively() {
    let report = LogBuilder::watched().report();
    assert_eq!(lines(&report), ["g1 tun x1 held - definitive -"]);
    let holding = &report.holdings[0];
    assert_eq!((&holding.device, holding.pid), (&tun(), Some(QEMU)));
    assert_eq!(holding.proof.iter().map(|proof| proof.line).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(findings(&report), [""; 0]);
}

// Shows 13.2.
#[test]
fn a_detach_and_its_closes_may_come_in_any_order() {
    for log in [
        LogBuilder::watched().after(10).ok(1, detach(mac(1))).gone(&tun(), 25),
        LogBuilder::watched().after(10).gone(&tun(), 25).ok(1, detach(mac(1))),
    ] {
        let report = log.report();
        assert_eq!(lines(&report), ["g1 tun x1 released detach definitive 10"]);
        assert_eq!(findings(&report), [""; 0]);
        assert_eq!(report.holdings[0].proof.len(), 5);
    }
}

// Shows 13.2.
#[test]
fn a_stop_and_its_closes_may_come_in_any_order() {
    let gone = |log: LogBuilder| log.gone(&tun(), 25);
    let stop = |log: LogBuilder| log.ok(1, op_stop("shutdown"));
    let guest_gone = |log: LogBuilder| log.watcher(1, Event::GuestGone { vm_pid: QEMU });
    for log in [
        gone(stop(LogBuilder::watched().after(10))),
        stop(gone(LogBuilder::watched().after(10))),
        stop(guest_gone(gone(LogBuilder::watched().after(10)))),
        guest_gone(gone(stop(LogBuilder::watched().after(10)))),
    ] {
        let mut trail = Trail::new();
        log.entries.iter().for_each(|entry| trail.feed(entry));
        assert!(trail.is_idle());
        let report = trail.finish();
        assert_eq!(lines(&report), ["g1 tun x1 released stop definitive 10"]);
        assert_eq!(findings(&report), [""; 0]);
    }
}

// Shows 13.3.
#[test]
fn an_end_that_no_daemon_noticed_is_definitive_and_its_late_word_is_no_finding() {
    let log = LogBuilder::watched().after(10).gone(&tun(), 25);
    let log = log.watcher(1, Event::GuestGone { vm_pid: QEMU });
    assert_eq!(lines(&log.report()), ["g1 tun x1 released stop definitive 10"]);
    let report = log.after(3600).by(9000).ok(1, op_stop("failed")).report();
    assert_eq!(lines(&report), ["g1 tun x1 released stop definitive 10"]);
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_watcher_is_no_restarted_daemon() {
    let log = LogBuilder::watched().ok(1, open(mac(2), &vhost())).ok(1, attach(mac(2)));
    let report = log.gone(&tun(), 25).ok(1, detach(mac(1))).ok(1, op_stop("shutdown")).report();
    assert_eq!(findings(&report), [""; 0]);
}

// Shows 13.1.
#[test]
fn a_macvtap_has_its_node_by_being_seen() {
    let log = LogBuilder::new().ok(1, open(mac(1), &by_interface())).ok(1, start(mac(1)));
    let log = log.ok(1, op_start("booted", QEMU)).seen(&macvtap(), 25);
    let report = log.after(60).ok(2, op_start("booted", 41)).report();
    assert_eq!(lines(&report), ["g1 macvtap x1 held - definitive -"]);
    assert_eq!(report.holdings[0].device, macvtap());
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_number_that_nobody_saw_stays_unknown() {
    let log = LogBuilder::new().ok(1, open(mac(1), &by_interface())).ok(1, attach(mac(1))).after(60);
    let report = log.ok(1, detach(mac(1))).report();
    assert_eq!(findings(&report), ["unknown-device-number"]);
    assert_eq!(report.findings[0].proof.len(), 2);
}

// Shows 13.1.
#[test]
fn each_queue_of_one_record_is_seen_and_closed() {
    let seen =
        |log: LogBuilder, queue, fd| log.watcher(1, Event::Seen(descriptor(mac(1), &tun(), queue, fd)));
    let gone =
        |log: LogBuilder, queue, fd| log.watcher(1, Event::Gone(descriptor(mac(1), &tun(), queue, fd)));
    let log = seen(seen(LogBuilder::new().boot(1, &tun(), QEMU), 0, 25), 1, 26).after(10);
    assert_eq!(lines(&log.report()), ["g1 tun x2 held - definitive -"]);
    let log = gone(log.ok(1, detach(mac(1))), 1, 26);
    assert_eq!(
        lines(&log.report()),
        ["g1 tun x2 released detach inferred 10"],
        "one queue is not closed yet"
    );
    let report = gone(log, 0, 25).report();
    assert_eq!(lines(&report), ["g1 tun x2 released detach definitive 10"]);
    assert_eq!(findings(&report), [""; 0]);
}

// Shows 13.4.
#[test]
fn the_one_of_two_with_one_mac_that_went_is_the_one_that_ended() {
    for first in [true, false] {
        let log = LogBuilder::twins().after(10);
        let log = match first {
            true => log.ok(1, detach(mac(1))).gone(&vnet(1), 27),
            false => log.gone(&vnet(1), 27).ok(1, detach(mac(1))),
        };
        let report = log.report();
        assert_eq!(
            lines(&report),
            ["g1 tun x1 held - definitive -", "g1 tun x1 released detach definitive 10"]
        );
        assert_eq!(report.holdings[1].device, vnet(1));
        assert_eq!(findings(&report), ["duplicate-mac"]);
        let report = twins_ended(first).report();
        assert!(lines(&report).iter().all(|line| line.contains("released detach definitive")), "{report:?}");
        assert_eq!(findings(&report), ["duplicate-mac"]);
    }
}

/// Both twins are detached, one after the other; the detach or the watcher's record comes first.
fn twins_ended(detach_first: bool) -> LogBuilder {
    let one = |log: LogBuilder, device: &Device, fd| match detach_first {
        true => log.ok(1, detach(mac(1))).gone(device, fd),
        false => log.gone(device, fd).ok(1, detach(mac(1))),
    };
    let log = one(LogBuilder::twins().after(10), &vnet(1), 27).after(10);
    one(log, &vnet(0), 25).after(60).ok(2, op_start("booted", 41))
}

#[test]
fn two_detaches_of_twins_before_their_closes_end_both() {
    let log = LogBuilder::twins().after(10).ok(1, detach(mac(1))).ok(1, detach(mac(1)));
    let report = log.gone(&vnet(1), 27).gone(&vnet(0), 25).report();
    assert!(lines(&report).iter().all(|line| line.contains("released detach definitive")), "{report:?}");
    assert_eq!(findings(&report), ["duplicate-mac"]);
}

#[test]
fn twins_are_in_doubt_when_no_record_shows_which_went() {
    let report = LogBuilder::twins().after(10).ok(1, detach(mac(1))).report();
    assert_eq!(lines(&report), ["g1 tun x1 held - ambiguous -"; 2]);
    assert_eq!(findings(&report), ["duplicate-mac", "ambiguous-release"]);
    assert_eq!((report.findings[1].mac, report.findings[1].proof[0].line), (Some(mac(1)), 8));
}

// Shows 13.4.
#[test]
fn vhost_nets_of_twins_are_distinguished_by_their_descriptors() {
    let log = LogBuilder::new().ok(1, open(mac(1), &tun())).ok(1, open(mac(1), &vhost()));
    let log = log.ok(1, open(mac(1), &tun())).ok(1, open(mac(1), &vhost()));
    let log = log.ok(1, start(mac(1))).ok(1, start(mac(1))).ok(1, op_start("booted", QEMU));
    let log = log.seen(&vnet(0), 25).seen(&vhost(), 26).seen(&vnet(1), 27).seen(&vhost(), 28).after(10);
    let report = log.ok(1, detach(mac(1))).gone(&vnet(1), 27).gone(&vhost(), 28).report();
    assert_eq!(
        lines(&report),
        [
            "g1 tun x1 held - definitive -",
            "g1 vhost-net x1 held - definitive -",
            "g1 tun x1 released detach definitive 10",
            "g1 vhost-net x1 released detach definitive 10"
        ]
    );
}

// Shows 13.5.
#[test]
fn a_change_of_bridge_closes_nothing() {
    let log = LogBuilder::watched().after(10).ok(1, detach(mac(1))).ok(1, attach(mac(1)));
    let report = log.report();
    assert_eq!(lines(&report), ["g1 tun x1 held - definitive -"]);
    assert_eq!(findings(&report), ["reattached-without-open"]);
    let report = log.after(10).ok(1, detach(mac(1))).gone(&tun(), 25).report();
    assert_eq!(lines(&report), ["g1 tun x1 released detach definitive 20"]);
}

// Shows 13.6.
#[test]
fn what_is_seen_after_its_detach_is_held_and_a_finding() {
    for between in [true, false] {
        let mut log = LogBuilder::watched().after(10).ok(1, detach(mac(1)));
        if between {
            log = log.ok(1, open(mac(2), &vhost())).ok(1, attach(mac(2)));
        }
        let log = log.after(5).seen(&tun(), 25);
        let report = log.report();
        assert_eq!(lines(&report)[0], "g1 tun x1 held - definitive -");
        assert_eq!(findings(&report), ["held-after-release"]);
        assert_eq!(report.findings[0].device, Some(tun()));
        let report = log.after(10).gone(&tun(), 25).report();
        assert_eq!(lines(&report)[0], "g1 tun x1 released close definitive 25");
        assert_eq!(findings(&report), ["held-after-release"]);
    }
}

#[test]
fn what_is_seen_of_another_interface_says_nothing_of_a_detach() {
    let log = LogBuilder::watched().ok(1, open(mac(2), &tun())).ok(1, attach(mac(2))).after(10);
    let log = log.ok(1, detach(mac(1)));
    let log = log.watcher(1, Event::Seen(descriptor(mac(2), &vnet(3), 0, 30)));
    let changed = log.ok(1, attach(mac(1))).report();
    assert_eq!(lines(&changed), ["g1 tun x1 held - definitive -"; 2]);
    assert_eq!(findings(&changed), ["reattached-without-open"]);
}

// Shows 13.6.
#[test]
fn what_is_seen_after_its_stop_is_held_until_it_is_gone() {
    let log = LogBuilder::watched().after(10).ok(1, op_stop("shutdown")).after(5).seen(&tun(), 25);
    assert_eq!(lines(&log.report()), ["g1 tun x1 held - definitive -"]);
    assert_eq!(findings(&log.report()), ["held-after-release"]);
    let log = log.after(5).gone(&tun(), 25).watcher(1, Event::GuestGone { vm_pid: QEMU });
    let mut trail = Trail::new();
    log.entries.iter().for_each(|entry| trail.feed(entry));
    assert!(trail.is_idle());
    assert_eq!(lines(&trail.finish()), ["g1 tun x1 released stop definitive 20"]);
}

// Shows 10.57.
#[test]
fn a_pci_device_of_the_hosts_is_none_that_a_watcher_looks_for() {
    let log = LogBuilder::new().ok(1, open(mac(2), &tun())).ok(1, start(mac(2))).ok(1, start(mac(1)));
    let booted = |log: LogBuilder| {
        let log = log.ok(1, op_start("booted", QEMU));
        log.watcher(1, Event::Seen(descriptor(mac(2), &tun(), 0, 25))).after(60).ok(2, op_start("booted", 41))
    };
    let report = booted(log.clone()).report();
    assert_eq!(lines(&report), ["g1 tun x1 held - definitive -"]);
    let report = booted(log.host_pci("start", "0000:65:00.1")).report();
    assert_eq!(lines(&report), ["g1 tun x1 held - definitive -", "g1 unknown x? unknown - incomplete -"]);
    assert!(findings(&report).contains(&"possible-device"));
}

// Shows 13.6.
#[test]
fn what_no_record_admits_is_a_finding() {
    let log = LogBuilder::watched().seen(&vnet(7), 31);
    let report = log.report();
    assert_eq!(lines(&report), ["g1 tun x1 held - definitive -", "g1 tun x1 held - definitive -"]);
    assert_eq!(findings(&report), ["unaccounted-device"]);
    assert_eq!((report.holdings[0].opened, &report.holdings[0].device), (None, &vnet(7)));

    let unknown = Descriptor { mac: None, ..descriptor(mac(1), &vnet(7), 0, 31) };
    let log = LogBuilder::watched().watcher(1, Event::Seen(unknown.clone()));
    let report = log.watcher(1, Event::Gone(unknown)).report();
    assert_eq!(lines(&report), ["g1 tun x1 held - definitive -"]);
    assert_eq!(findings(&report), ["unaccounted-device"]);
    assert_eq!((report.findings[0].mac, &report.findings[0].device), (None, &Some(vnet(7))));
    assert!(report.findings[0].text.contains("(process 40)"), "{}", report.findings[0].text);
}

#[test]
fn a_seen_device_without_a_recorded_open_is_no_second_finding() {
    let log = LogBuilder::new().ok(1, start(mac(1))).ok(1, op_start("booted", QEMU)).seen(&tun(), 25);
    let report = log.after(10).ok(1, detach(mac(1))).gone(&tun(), 25).report();
    assert_eq!(lines(&report), ["g1 tun x1 released detach definitive 10"]);
    assert_eq!(findings(&report), ["grant-without-open"]);
}

// Shows 13.15.
#[test]
fn a_vdpa_device_that_was_seen_is_held_since_its_interface_was_granted() {
    let vdpa = Device::new("/dev/vhost-vdpa-0", Some(Rdev { major: 242, minor: 0 }), None);
    let unlogged = LogBuilder::new().ok(1, start(mac(1))).ok(1, op_start("booted", QEMU));
    let logged = LogBuilder::new().kernel_open(LIBVIRTD, "/usr/sbin/libvirtd", &vdpa);
    let logged = logged.ok(1, start(mac(1))).ok(1, op_start("booted", QEMU));
    for (log, has_open) in [(unlogged, false), (logged, true)] {
        let granted = log.entries[usize::from(has_open)].time;
        let log = log.seen(&vdpa, 25).after(10);
        let report = log.report();
        assert_eq!(lines(&report), ["g1 vhost-vdpa x1 held - definitive -"]);
        assert_eq!(findings(&report), [""; 0]);
        let holding = &report.holdings[0];
        assert_eq!((holding.granted, holding.opened.is_some()), (Some(granted), has_open));
        let earliest = if has_open { log.entries[0].time } else { granted - SignedDuration::from_mins(2) };
        assert_eq!(holding.possibly_held[0].from, Some(earliest));
        for ended in
            [log.clone().ok(1, detach(mac(1))).gone(&vdpa, 25), log.gone(&vdpa, 25).ok(1, detach(mac(1)))]
        {
            let report = ended.report();
            assert_eq!(lines(&report), ["g1 vhost-vdpa x1 released detach definitive 10"]);
            assert_eq!(findings(&report), [""; 0]);
        }
    }
}

#[test]
fn what_qemu_kept_of_a_hot_plug_without_a_word_is_held() {
    let log = LogBuilder::new().ok(1, op_start("booted", QEMU)).ok(1, open(mac(1), &tun())).after(5);
    let report = log.seen(&tun(), 25).report();
    assert_eq!(lines(&report), ["g1 tun x1 held - definitive -"]);
    assert_eq!(findings(&report), ["attach-failed"]);
}

// Shows 13.7.
#[test]
fn a_watcher_that_is_down_leaves_ends_inferred() {
    let log = LogBuilder::watched().after(10).ok(1, op_stop("shutdown"));
    assert_eq!(findings(&log.report()), [""; 0], "its record may still come");
    let log = log.after(60).ok(2, op_start("booted", 41));
    let report = log.report();
    assert_eq!(lines(&report), ["g1 tun x1 released stop inferred 10"]);
    assert_eq!(findings(&report), ["never-released"]);
    let report = log.after(3600).unseen(&tun(), 25).report();
    assert_eq!(lines(&report), ["g1 tun x1 released stop definitive 3670"]);
    assert_eq!(report.holdings[0].last_seen.unwrap().as_millisecond(), 1_795_465_860_017);
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn the_word_of_an_earlier_life_does_not_end_a_later_one() {
    let log = LogBuilder::watched().after(10).ok(1, op_stop("shutdown"));
    let log = log.ok(1, open(mac(1), &tun())).watcher(1, Event::GuestGone { vm_pid: QEMU });
    let log = log.ok(1, start(mac(1))).ok(1, op_start("booted", 41)).gone(&tun(), 25);
    let report = log.watcher(1, Event::GuestGone { vm_pid: QEMU }).report();
    assert_eq!(lines(&report), ["g1 tun x1 released stop definitive 10", "g1 tun x? held - inferred -"]);
    assert_eq!(report.holdings[1].pid, Some(41));
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_guest_older_than_its_trail_is_known_by_what_was_seen() {
    let log = LogBuilder::new().seen(&tun(), 25);
    let report = log.report();
    assert_eq!(lines(&report), ["g1 tun x1 held - definitive -"]);
    assert_eq!((report.holdings[0].pid, report.holdings[0].granted), (Some(QEMU), None));
    let log = log.after(10).ok(1, detach(mac(1))).gone(&tun(), 25).ok(1, op_stop("shutdown"));
    let report = log.report();
    assert_eq!(lines(&report), ["g1 tun x1 released detach definitive 10"]);
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_close_of_what_was_never_seen_is_a_finding() {
    let report = LogBuilder::new().boot(1, &vhost(), QEMU).gone(&tun(), 25).report();
    assert_eq!(findings(&report), ["close-without-open"]);
    assert_eq!(lines(&report), ["g1 vhost-net x? held - inferred -"]);
    let report = LogBuilder::new().boot(1, &tun(), QEMU).gone(&tun(), 25).ok(1, op_stop("shutdown")).report();
    assert_eq!(lines(&report), ["g1 tun x1 released stop definitive 0"], "it names the recorded device");
}

#[test]
fn a_reboot_waits_for_nobody() {
    let report = LogBuilder::watched().after(10).entry(Content::Boot).unseen(&tun(), 25).report();
    assert_eq!(report.holdings[0].ended_by, Some(EndedBy::Reboot));
    assert_eq!(findings(&report), ["release-by-reboot"]);
}

#[test]
fn ends_beyond_the_limit_are_emitted_at_once() {
    let mut log = LogBuilder::new();
    for number in 0..=4096_u32 {
        let mac = MacAddr::kvm([1, u8::try_from(number / 256).unwrap(), u8::try_from(number % 256).unwrap()]);
        log = log.watcher(1, Event::Seen(descriptor(mac, &vnet(number), 0, number))).ok(1, detach(mac));
    }
    let mut trail = Trail::new();
    log.ok(1, op_stop("shutdown")).entries.iter().for_each(|entry| trail.feed(entry));
    assert_eq!(trail.drain_ended().count(), 1);
    assert_eq!(trail.finish().holdings.len(), 4096);
}

#[test]
fn a_trail_that_is_followed_waits_no_longer_than_it_must() {
    let mut trail = Trail::new();
    let log = LogBuilder::watched().ok(1, open(mac(2), &vhost())).ok(1, attach(mac(2))).ok(1, detach(mac(2)));
    let log = log.kernel_open(70, "/usr/bin/vpn", &tun());
    log.entries.iter().for_each(|entry| trail.feed(entry));
    let detached = log.entries[log.entries.len() - 2].time;
    assert!(trail.next_deadline().unwrap() > detached);
    trail.advance(detached + SignedDuration::from_secs(5));
    assert_eq!((trail.drain_ended().count(), trail.held().count()), (0, 2), "it may be a change of bridge");
    trail.advance(trail.next_deadline().unwrap());
    let ended: Vec<_> = trail.drain_ended().map(|holding| (holding.mac, holding.released)).collect();
    assert_eq!(ended, [(mac(2), Some(detached))]);
    assert_eq!((trail.held().count(), trail.drain_findings().count()), (1, 0));
    trail.advance(trail.next_deadline().unwrap());
    let found: Vec<_> = trail.drain_findings().map(|finding| finding.kind).collect();
    assert_eq!((found, trail.next_deadline()), (vec![FindingKind::UnmanagedOpen], None));
    // Later entries are still taken.
    let fed = log.entries.len();
    let log = log.gone(&tun(), 25).ok(1, op_stop("shutdown"));
    log.entries[fed..].iter().for_each(|entry| trail.feed(entry));
    assert_eq!(trail.drain_ended().count(), 1);
}
