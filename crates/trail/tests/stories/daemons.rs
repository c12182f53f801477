//! The writers of a guest's records: daemons that restart, and migration between two on one host.

use crate::fixtures::{findings, tun, vhost};
use crate::log_builder::*;
use taptrail_record::{Device, Event};

const RESTARTED: u32 = 9000;

#[test]
fn a_restarted_daemon_goes_on_with_its_guests() {
    let log = LogBuilder::new().boot(1, &tun(), 40).boot(2, &tun(), 41).by(RESTARTED);
    let log = log.ok(1, open(mac(3), &vhost())).ok(1, attach(mac(3))).ok(1, detach(mac(3)));
    let report = log.after(10).ok(1, op_stop("shutdown")).ok(2, op_stop("shutdown")).report();
    assert_eq!(
        lines(&report),
        [
            "g1 tun x? released stop inferred 10",
            "g2 tun x? released stop inferred 10",
            "g1 vhost-net x? released detach inferred 0"
        ]
    );
    assert_eq!(findings(&report), ["daemon-restarted"], "once, not for each guest");
    assert_eq!(report.findings[0].proof[0].line, 8);
}

#[test]
fn a_stop_by_a_new_daemon_ends_what_an_old_one_started() {
    let report = LogBuilder::new().boot(1, &tun(), 40).by(RESTARTED).ok(1, op_stop("failed")).report();
    assert_eq!(lines(&report), ["g1 tun x? released stop inferred 0"]);
    assert_eq!(findings(&report), ["daemon-restarted"]);
}

#[test]
fn a_failed_hot_plug_by_a_new_daemon_is_still_of_the_running_guest() {
    let log = LogBuilder::new().boot(1, &tun(), 40).by(RESTARTED).ok(1, open(mac(3), &vhost()));
    let report = log.failed(1, attach(mac(3))).report();
    assert_eq!(lines(&report), ["g1 tun x? held - inferred -", "g1 vhost-net x? never-granted - inferred -"]);
    assert_eq!(findings(&report), ["daemon-restarted", "attach-failed", "open-without-grant"]);
}

#[test]
fn two_supervisors_of_two_guests_are_no_daemon_that_restarted() {
    let log = LogBuilder::new().by(500).boot(1, &tun(), 501).by(600).boot(2, &tun(), 601);
    let report = log.by(500).ok(1, op_stop("shutdown")).by(600).ok(2, op_stop("shutdown")).report();
    assert_eq!(findings(&report), [""; 0]);
    assert!(lines(&report).iter().all(|line| line.contains("released stop")));
}

#[test]
fn a_new_life_under_a_new_supervisor_is_no_daemon_that_restarted() {
    let run = |log: LogBuilder, by: u32| log.by(by).boot(1, &tun(), by + 1).ok(1, op_stop("shutdown"));
    let report = run(run(LogBuilder::new(), 500), 600).report();
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_boot_under_a_new_daemon_shows_that_the_first_life_ended_unseen() {
    let report = LogBuilder::new().boot(1, &tun(), 40).after(10).by(RESTARTED).boot(1, &tun(), 41).report();
    assert_eq!(lines(&report), ["g1 tun x? released restart inferred 10", "g1 tun x? held - inferred -"]);
    assert_eq!(findings(&report), ["release-by-restart"]);
}

#[test]
fn what_a_dead_daemon_had_only_opened_may_have_been_granted() {
    let log = LogBuilder::new().ok(1, open(mac(1), &tun())).by(RESTARTED).boot(1, &tun(), 41);
    let report = log.report();
    assert_eq!(lines(&report), ["g1 tun x? unknown - incomplete -", "g1 tun x? held - inferred -"]);
    assert_eq!(findings(&report), ["grant-unknown"]);
}

#[test]
fn a_failed_boot_under_a_second_daemon_leaves_the_first_alone() {
    let log =
        LogBuilder::new().boot(1, &tun(), 40).by(RESTARTED).ok(1, open(mac(1), &tun())).ok(1, start(mac(1)));
    let report =
        log.failed(1, Event::GuestStart { reason: "migrated".parse().unwrap(), vm_pid: None }).report();
    assert_eq!(lines(&report), ["g1 tun x? held - inferred -", "g1 tun x? never-granted - inferred -"]);
    assert_eq!(findings(&report), ["false-start", "open-without-grant"]);
}

/// The guest runs under libvirtd, and under a second daemon of the same host to which it migrates.
fn migrating() -> LogBuilder {
    let log = LogBuilder::new().boot(1, &tun(), 40).after(10).by(RESTARTED);
    log.ok(1, open(mac(1), &vhost())).ok(1, start(mac(1))).ok(1, op_start("migrated", 41))
}

#[test]
fn a_guest_that_migrates_on_one_host_is_two_meanwhile() {
    let report = migrating().report();
    assert_eq!(lines(&report), ["g1 tun x? held - inferred -", "g1 vhost-net x? held - inferred -"]);
    assert_eq!(report.holdings.iter().map(|holding| holding.pid).collect::<Vec<_>>(), [Some(40), Some(41)]);
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn each_of_the_two_ends_by_its_own_daemons_word() {
    let log = migrating().after(10).by(LIBVIRTD).ok(1, op_stop("migrated"));
    let report = log.report();
    assert_eq!(lines(&report), ["g1 tun x? released stop inferred 20", "g1 vhost-net x? held - inferred -"]);
    let report = log.after(10).by(RESTARTED).ok(1, op_stop("shutdown")).report();
    assert_eq!(lines(&report)[1], "g1 vhost-net x? released stop inferred 30");
    assert_eq!(findings(&report), [""; 0]);

    let refused = migrating().after(10).ok(1, op_stop("failed"));
    assert_eq!(
        lines(&refused.report()),
        ["g1 tun x? held - inferred -", "g1 vhost-net x? released stop inferred 20"]
    );
}

#[test]
fn a_record_without_its_sender_is_of_the_newest() {
    let report = migrating().by_unknown_writer().ok(1, detach(mac(1))).report();
    assert_eq!(
        lines(&report),
        ["g1 tun x? held - inferred -", "g1 vhost-net x? released detach inferred 10"]
    );
}

#[test]
fn a_guest_known_without_a_sender_is_the_one_that_a_sender_means() {
    let report = LogBuilder::new()
        .by_unknown_writer()
        .boot(1, &tun(), 40)
        .by(RESTARTED)
        .ok(1, op_stop("shutdown"))
        .report();
    assert_eq!(lines(&report), ["g1 tun x? released stop inferred 0"]);
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_guest_that_migrates_between_hosts_is_two() {
    let log = LogBuilder::new().boot(1, &tun(), 40).on("h2").by(700);
    let log = log.ok(1, open(mac(1), &tun())).ok(1, start(mac(1))).ok(1, op_start("migrated", 40));
    let report = log.on("h1").by(LIBVIRTD).ok(1, op_stop("migrated")).report();
    assert_eq!(lines(&report), ["g1 tun x? released stop inferred 0", "g1 tun x? held - inferred -"]);
    assert_eq!(findings(&report), [""; 0]);
    assert_eq!([&*report.holdings[0].host, &*report.holdings[1].host], ["h1", "h2"]);
}

#[test]
fn a_close_by_a_second_supervisor_is_of_what_that_opened() {
    let own = Device::new("/dev/net/tun", Some(taptrail_record::Rdev::TUN), Some("vnet7".into()));
    let log = LogBuilder::new().boot(1, &tun(), 40).by(RESTARTED);
    let log = log.ok(1, Event::Open { mac: mac(1), device: own.clone(), queue: Some(0) });
    let report = log.ok(1, Event::Close { mac: mac(1), device: own, queue: Some(0) }).report();
    assert_eq!(lines(&report)[0], "g1 tun x? held - inferred -");
    assert_eq!(findings(&report), ["open-without-grant"]);
}
