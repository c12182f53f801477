//! libvirt's records: they name no device at its end, and some are wrong.

use crate::fixtures::{
    booted, entries, failed, findings, holdings, libvirt::*, mac, macvtap, not_booted, ok, report_at_once,
    report_of, shut_down, tun, vhost,
};
use jiff::SignedDuration;
use taptrail_record::Device;
use taptrail_trail::{Content, Doubt, Entry, PossiblyHeld};

#[test]
fn a_stop_ends_all_by_inference() {
    let report =
        report_of(&[ok(open(&tun())), ok(open(&vhost())), ok(start()), ok(booted()), ok(shut_down())]);
    assert_eq!(holdings(&report), ["tun x? released stop inferred", "vhost-net x? released stop inferred"]);
    assert_eq!(findings(&report), [""; 0]);
    assert_eq!(report.holdings[0].pid, Some(crate::fixtures::PID));
}

#[test]
fn a_detach_ends_its_interface_by_inference() {
    let report = report_of(&[ok(booted()), ok(open(&tun())), ok(attach()), ok(detach()), ok(shut_down())]);
    assert_eq!(holdings(&report), ["tun x? released detach inferred"]);
}

#[test]
fn an_open_recorded_as_failed_and_as_successful_is_not_held() {
    let records =
        [ok(open(&tun())), failed(open(&no_vhost())), ok(open(&no_vhost())), ok(start()), ok(booted())];
    let report = report_at_once(&records);
    assert_eq!(
        holdings(&report),
        [
            "tun x? held - inferred",
            "vhost-net x? open-failed - definitive",
            "vhost-net x? never-granted - doubtful"
        ]
    );
    assert_eq!(findings(&report), ["open-failed", "contradictory-open"]);
}

#[test]
fn two_tries_of_one_open_do_not_contradict_each_other() {
    let other = Device { dev: None, ..macvtap() };
    let report = report_of(&[failed(open(&tun())), ok(open(&other)), ok(open(&no_vhost()))]);
    assert_eq!(findings(&report), ["open-failed", "grant-unknown", "grant-unknown"]);
    let late = report_of(&[failed(open(&tun())), failed(open(&no_vhost())), ok(open(&tun())), ok(attach())]);
    assert_eq!(holdings(&late)[2], "tun x? held - inferred");
    // libvirt records each attempt to open a tap once, however soon the next comes.
    let soon = report_at_once(&[ok(booted()), failed(open(&tun())), ok(open(&tun())), ok(attach())]);
    assert_eq!(holdings(&soon), ["tun x? open-failed - definitive", "tun x? held - inferred"]);
    assert_eq!(findings(&soon), ["open-failed"]);
}

#[test]
fn a_start_of_a_guest_that_never_ran_is_false() {
    let report = report_of(&[ok(open(&tun())), ok(start()), failed(not_booted())]);
    assert_eq!(holdings(&report), ["tun x? never-granted - inferred"]);
    assert_eq!(findings(&report), ["false-start", "open-without-grant"]);
    assert_eq!(report.findings[0].mac, Some(mac()));
    let report = report_of(&[failed(open(&tun())), ok(start()), failed(not_booted())]);
    assert_eq!(holdings(&report), ["tun x? open-failed - definitive"]);
    assert_eq!(findings(&report), ["open-failed", "false-start"]);
}

#[test]
fn a_change_of_bridge_goes_on_with_the_same_holding() {
    let report = report_of(&[
        ok(open(&tun())),
        ok(start()),
        ok(booted()),
        ok(detach()),
        failed(attach()),
        ok(attach()),
        ok(detach()),
        ok(attach()),
        ok(shut_down()),
    ]);
    assert_eq!(holdings(&report), ["tun x? released stop inferred"]);
    assert_eq!(findings(&report), ["attach-failed", "reattached-without-open", "reattached-without-open"]);
}

#[test]
fn a_change_of_bridge_that_fails_for_good_leaves_qemu_what_it_has() {
    let records =
        [ok(open(&tun())), ok(start()), ok(booted()), ok(detach()), failed(attach()), failed(attach())];
    let report = report_of(&records);
    assert_eq!(holdings(&report), ["tun x? held - inferred"]);
    assert_eq!(findings(&report), ["attach-failed"; 2]);
    assert!(report.findings[0].text.contains("still has its devices"), "{}", report.findings[0].text);
    let ended = report_of(&[&records[..], &[ok(detach())]].concat());
    assert_eq!(holdings(&ended), ["tun x? released detach inferred"]);
    assert_eq!(ended.holdings[0].released, Some("2026-11-23T20:31:07.017Z".parse().unwrap()));
}

#[test]
fn an_attach_long_after_a_detach_is_no_change_of_bridge() {
    let mut trail = taptrail_trail::Trail::new();
    for entry in entries(&[ok(open(&tun())), ok(start()), ok(booted()), ok(detach()), ok(attach())]) {
        let later = SignedDuration::from_hours(i64::from(entry.line == 5));
        trail.feed(&Entry { time: entry.time + later, ..entry });
    }
    let report = trail.finish();
    assert_eq!(holdings(&report), ["tun x? released detach inferred", "unknown x? unknown - incomplete"]);
    assert_eq!(report.holdings[0].released, Some("2026-11-23T20:31:04.017Z".parse().unwrap()));
    assert_eq!(findings(&report), ["grant-without-open"]);
}

// Shows 10.57.
#[test]
fn a_grant_of_nothing_opened_is_a_finding_and_its_device_unknown() {
    let report = report_of(&[ok(start()), ok(booted()), ok(attach()), ok(detach())]);
    assert_eq!(findings(&report), ["grant-without-open", "grant-without-open"]);
    assert_eq!(holdings(&report), ["unknown x? unknown - incomplete"]);
    let [PossiblyHeld { from, until, why }] = report.holdings[0].possibly_held[..] else { panic!() };
    let time = |line: usize| Some(report.holdings[0].proof[line].time);
    assert_eq!((from, until, why), (time(0), time(1), Doubt::DeviceUnknown), "from its grant to its detach");
}

#[test]
fn a_detach_of_what_was_never_plugged_in_is_a_finding() {
    let report = report_of(&[ok(start()), ok(booted()), ok(detach()), ok(detach())]);
    assert_eq!(findings(&report), ["detach-without-grant", "grant-without-open"]);
    assert_eq!(holdings(&report), ["unknown x? unknown - incomplete"]);
}

#[test]
fn a_second_start_ends_the_first() {
    let run = [ok(open(&tun())), ok(start()), ok(booted())];
    let report = report_of(&[&run[..], &run[..]].concat());
    assert_eq!(holdings(&report), ["tun x? released restart inferred", "tun x? held - inferred"]);
    assert_eq!(findings(&report), ["release-by-restart"]);
    // What was opened for the second run does not show that the first had not ended.
    let first = &report.holdings[0];
    let booted = first.opened.map(|opened| opened + SignedDuration::from_secs(2));
    assert_eq!(first.last_seen, booted);
}

#[test]
fn a_hot_plug_given_up_without_a_word_is_never_granted() {
    let report = report_of(&[ok(booted()), ok(open(&tun())), ok(open(&tun())), ok(attach())]);
    assert_eq!(holdings(&report), ["tun x? never-granted - inferred", "tun x? held - inferred"]);
}

#[test]
fn a_reboot_ends_all_of_the_host() {
    let mut trail = taptrail_trail::Trail::new();
    let entries = crate::fixtures::entries(&[ok(open(&tun())), ok(start()), ok(booted()), ok(booted())]);
    entries[..3].iter().for_each(|entry| trail.feed(entry));
    for host in ["h2", "h1"] {
        trail.feed(&Entry { host: host.into(), content: Content::Boot, ..entries[3].clone() });
    }
    let report = trail.finish();
    assert_eq!(holdings(&report), ["tun x? released reboot inferred"]);
    assert_eq!(findings(&report), ["release-by-reboot"]);
}

#[test]
fn a_vhost_net_without_its_number_that_did_not_fail_is_held() {
    let report = report_of(&[ok(open(&no_vhost())), ok(start()), ok(booted())]);
    assert_eq!(holdings(&report), ["vhost-net x? held - inferred"]);
    assert_eq!(findings(&report), ["unknown-device-number"]);
}
