//! Ends that no record of the guest itself shows.

use crate::fixtures::{findings, tun, vhost};
use crate::log_builder::*;
use taptrail_record::{Device, Event};
use taptrail_trail::Content;

#[test]
fn a_serial_that_restarts_is_a_reboot() {
    let log = LogBuilder::new().serial(9000).boot(1, &tun(), 40).boot(2, &tun(), 41).after(60);
    let report = log.serial(7).boot(1, &tun(), 40).report();
    assert_eq!(
        lines(&report),
        [
            "g1 tun x? released reboot inferred 60",
            "g2 tun x? released reboot inferred 60",
            "g1 tun x? held - inferred -"
        ]
    );
    assert_eq!(findings(&report), ["release-by-reboot", "release-by-reboot"]);
    assert_eq!(report.findings[0].proof.last().unwrap().serial, Some(7));
}

#[test]
fn serials_that_fall_and_not_to_those_of_a_boot_leave_all_unknown() {
    let log = LogBuilder::new().serial(9000).boot(1, &tun(), 40).boot(2, &tun(), 41).after(60);
    let report = log.serial(700).boot(3, &tun(), 42).report();
    assert_eq!(
        lines(&report),
        ["g1 tun x? held - incomplete -", "g2 tun x? held - incomplete -", "g3 tun x? held - inferred -"]
    );
    assert_eq!(findings(&report), ["log-gap"]);
}

#[test]
fn a_recorded_reboot_is_one_reboot() {
    let log = LogBuilder::new().boot(1, &tun(), 40).after(60).serial(3).entry(Content::Boot).after(10);
    assert_eq!(lines(&log.boot(2, &tun(), 40).report())[1], "g2 tun x? held - inferred -");
}

#[test]
fn a_reboot_of_one_host_is_none_of_another() {
    let report =
        LogBuilder::new().boot(1, &tun(), 40).on("h2").after(60).serial(7).boot(2, &tun(), 40).report();
    assert!(lines(&report).iter().all(|line| line.contains("held")), "{report:?}");
}

#[test]
fn a_process_id_that_another_guest_has_ends_the_first() {
    let log = LogBuilder::new().boot(1, &tun(), 40).ok(1, open(mac(3), &vhost())).ok(1, attach(mac(3)));
    let report = log.after(10).boot(2, &tun(), 40).report();
    assert_eq!(
        lines(&report),
        [
            "g1 tun x? released pid-reused inferred 10",
            "g1 vhost-net x? released pid-reused inferred 10",
            "g2 tun x? held - inferred -"
        ]
    );
    assert_eq!(findings(&report), ["never-released", "never-released"]);
    assert_eq!(report.findings[0].guest, Some(guest(1)));
}

#[test]
fn a_guest_whose_end_is_recorded_frees_its_process_id() {
    let log = LogBuilder::new().boot(1, &tun(), 40).ok(1, op_stop("shutdown")).boot(2, &tun(), 40);
    let report = log.ok(2, op_stop("shutdown")).boot(1, &tun(), 40).report();
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_stop_without_the_close_of_a_device_is_a_finding() {
    let queue = |queue| Event::Open { mac: mac(1), device: tun(), queue: Some(queue) };
    let close = Event::Close { mac: mac(1), device: tun(), queue: Some(0) };
    let log =
        LogBuilder::new().ok(1, queue(0)).ok(1, queue(1)).ok(1, start(mac(1))).ok(1, op_start("booted", 4));
    let outcome = |log: LogBuilder| {
        let report = log.report();
        (lines(&report), findings(&report))
    };
    let (held, found) = outcome(log.ok(1, close.clone()).ok(1, op_stop("shutdown")));
    assert_eq!((&*held[0], &*found), ("g1 tun x2 released stop inferred 0", &["never-released"][..]));
    let log = LogBuilder::new().ok(1, queue(0)).ok(1, attach(mac(1)));
    let (held, found) = outcome(log.ok(1, close).ok(1, detach(mac(1))));
    assert_eq!((&*held[0], found.len()), ("g1 tun x1 released detach inferred 0", 0));
    let log = LogBuilder::new().ok(1, queue(0)).ok(1, attach(mac(1)));
    assert_eq!(outcome(log.ok(1, detach(mac(1))).ok(1, op_stop("shutdown"))).1, ["never-released"]);
}

#[test]
fn more_of_one_mac_than_a_guest_can_have_is_emitted_as_it_is() {
    let mut log = LogBuilder::new();
    for _ in 0..400 {
        log = log.ok(1, open(mac(1), &tun())).ok(1, attach(mac(1)));
    }
    let report = log.report();
    assert_eq!(report.holdings.len(), 400);
    assert!(lines(&report).iter().all(|line| line.contains("held")));
    assert_eq!(lines(&report)[0], "g1 tun x? held - ambiguous -");
    let mut log = LogBuilder::new();
    for _ in 0..400 {
        log = log.ok(1, open(mac(1), &tun())).ok(1, open(mac(1), &Device::new("/dev/tap9", None, None)));
    }
    let report = log.report();
    assert_eq!(report.holdings.len(), 800);
    assert!(lines(&report).iter().all(|line| line.contains("never-granted") || line.contains("unknown")));
}
