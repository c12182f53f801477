//! Two interfaces with one MAC: which record means which may stay open.

use crate::fixtures::{findings, macvtap, tun, vhost};
use crate::log_builder::*;
use taptrail_record::Device;
use taptrail_trail::{Content, Gap, GapReason};

fn by_interface() -> Device {
    Device::new("macvtap0", None, None)
}

/// One guest with a tap and a macvtap of one MAC.
fn twins() -> LogBuilder {
    let log = LogBuilder::new().ok(1, open(mac(1), &tun())).ok(1, open(mac(1), &by_interface()));
    log.ok(1, start(mac(1))).ok(1, start(mac(1))).ok(1, op_start("booted", 40))
}

#[test]
fn they_are_distinguished_at_their_start() {
    let report = twins().report();
    assert_eq!(lines(&report), ["g1 tun x? held - inferred -", "g1 macvtap x? held - inferred -"]);
    assert_eq!(findings(&report), ["duplicate-mac", "unknown-device-number"]);
}

#[test]
fn a_mac_that_may_be_free_again_is_not_said_to_be_used_twice() {
    let lost = || Content::Gap(Gap { since: None, serials: Some((7, 9)), why: GapReason::NeverWritten });
    let plug_in_again = |log: LogBuilder, guest: u8| {
        let log = if guest == 1 { log } else { log.ok(guest, op_start("booted", 41)) };
        log.ok(guest, open(mac(1), &tun())).ok(guest, attach(mac(1)))
    };
    for guest in [1, 2] {
        let complete = plug_in_again(LogBuilder::new().boot(1, &tun(), 40), guest).report();
        assert!(findings(&complete).contains(&"duplicate-mac"), "{guest}: {complete:?}");
        let lost = plug_in_again(LogBuilder::new().boot(1, &tun(), 40).entry(lost()), guest).report();
        assert!(!findings(&lost).contains(&"duplicate-mac"), "{guest}: {lost:?}");
    }
}

#[test]
fn a_detach_of_one_leaves_both_in_doubt() {
    let report = twins().after(10).ok(1, detach(mac(1))).after(10).ok(2, start(mac(2))).report();
    let bare = "g2 unknown x? unknown - incomplete -";
    assert_eq!(lines(&report), ["g1 tun x? held - ambiguous -", "g1 macvtap x? held - ambiguous -", bare]);
    assert_eq!(findings(&report)[2..], ["ambiguous-release", "grant-without-open"]);
    let finding = &report.findings[2];
    assert_eq!((finding.mac, finding.proof[0].line), (Some(mac(1)), 6));
    assert!(report.holdings[..2].iter().all(|holding| holding.proof.last().unwrap().line == 6));
}

#[test]
fn the_last_detach_ends_both_and_their_order_stays_in_doubt() {
    let report = twins().after(10).ok(1, detach(mac(1))).after(10).ok(1, detach(mac(1))).report();
    let ended = |kind| format!("g1 {kind} x? released detach ambiguous 20");
    assert_eq!(lines(&report), [ended("tun"), ended("macvtap")]);
    assert_eq!(findings(&report)[2..], ["ambiguous-release"]);
}

#[test]
fn a_stop_ends_all_doubt_of_what_is_held() {
    let report = twins().after(10).ok(1, detach(mac(1))).after(10).ok(1, op_stop("shutdown")).report();
    let ended = |kind| format!("g1 {kind} x? released stop ambiguous 20");
    assert_eq!(lines(&report), [ended("tun"), ended("macvtap")]);
}

#[test]
fn a_third_one_is_as_doubtful_after_its_own_detach() {
    let log = twins().after(10).ok(1, detach(mac(1))).ok(1, open(mac(1), &vhost())).ok(1, attach(mac(1)));
    assert_eq!(lines(&log.report())[2], "g1 vhost-net x? held - inferred -");
    let log = log.after(10).ok(1, detach(mac(1)));
    let report = log.report();
    assert!(lines(&report).iter().all(|line| line.ends_with("held - ambiguous -")), "{report:?}");
    let report = log.after(10).ok(1, detach(mac(1))).report();
    assert!(lines(&report).iter().all(|line| line.ends_with("released detach ambiguous 30")), "{report:?}");
}

#[test]
fn a_change_of_bridge_of_one_ends_none() {
    let report = twins().ok(1, detach(mac(1))).ok(1, attach(mac(1))).report();
    assert_eq!(lines(&report), ["g1 tun x? held - inferred -", "g1 macvtap x? held - inferred -"]);
    assert_eq!(findings(&report), ["duplicate-mac", "reattached-without-open", "unknown-device-number"]);
}

#[test]
fn an_end_that_names_its_device_leaves_no_doubt() {
    let own =
        |mac, device: &Device| taptrail_record::Event::Open { mac, device: device.clone(), queue: Some(0) };
    let close =
        |mac, device: &Device| taptrail_record::Event::Close { mac, device: device.clone(), queue: Some(0) };
    let log = LogBuilder::new().ok(1, own(mac(1), &tun())).ok(1, attach(mac(1)));
    let log = log.ok(1, own(mac(1), &macvtap())).ok(1, attach(mac(1)));
    let report = log.ok(1, close(mac(1), &tun())).ok(1, detach(mac(1))).report();
    assert_eq!(lines(&report), ["g1 tun x1 released detach inferred 0", "g1 macvtap x1 held - inferred -"]);
    assert_eq!(findings(&report), ["duplicate-mac"]);
}

#[test]
fn a_mac_that_moves_to_another_guest_is_no_duplicate() {
    let log = LogBuilder::new().boot(1, &tun(), 40).ok(2, op_start("booted", 41)).ok(1, detach(mac(1)));
    let report = log.ok(2, open(mac(1), &tun())).ok(2, attach(mac(1))).report();
    assert_eq!(lines(&report), ["g1 tun x? released detach inferred 0", "g2 tun x? held - inferred -"]);
    assert_eq!(findings(&report), [""; 0]);
    let two = twins().ok(2, op_start("booted", 41)).ok(1, detach(mac(1)));
    let report = two.ok(2, open(mac(1), &tun())).ok(2, attach(mac(1))).report();
    assert_eq!(findings(&report)[..2], ["duplicate-mac"; 2], "g1 has the other still");
}

#[test]
fn two_guests_with_one_mac_are_reported_once() {
    let log = LogBuilder::new().boot(1, &tun(), 40);
    let log = log.ok(2, open(mac(1), &tun())).ok(2, start(mac(1)));
    assert_eq!(findings(&log.report()), ["grant-unknown"], "it may not have started");
    let log = log.ok(2, op_start("booted", 41));
    let report = log.report();
    assert_eq!(findings(&report), ["duplicate-mac"]);
    assert_eq!(report.findings[0].guest, Some(guest(2)));
    assert!(report.findings[0].text.contains("'g1'"));
    assert_eq!(report.findings[0].proof.iter().map(|proof| proof.line).collect::<Vec<_>>(), [2, 6]);
    let again = log.ok(1, op_stop("shutdown")).ok(2, op_stop("shutdown")).boot(1, &tun(), 42);
    assert_eq!(findings(&again.report()), ["duplicate-mac"], "one after the other is none");
}

#[test]
fn one_mac_on_two_hosts_is_none() {
    let log = LogBuilder::new().boot(1, &tun(), 40).on("h2").ok(2, open(mac(1), &tun()));
    assert_eq!(findings(&log.ok(2, start(mac(1))).ok(2, op_start("booted", 40)).report()), [""; 0]);
}
