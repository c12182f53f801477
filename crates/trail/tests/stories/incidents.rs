//! Which findings are one incident.

use taptrail_record::{Device, Event, MacAddr, Record};
use taptrail_trail::Report;

use crate::fixtures::{
    attach, booted, close, failed, keep, libvirt, macvtap, not_booted, ok, open, report_of, shut_down, start,
    tun, vhost,
};
use crate::libvirt_data::{data, report};

/// Each incident: its findings, in the order in which they were reported.
fn incidents(report: &Report) -> Vec<String> {
    let mut incidents: Vec<(u64, String)> = Vec::new();
    for finding in &report.findings {
        let (number, kind) = (finding.incident.number, finding.kind.as_str());
        match incidents.iter_mut().find(|(of, _)| *of == number) {
            Some((_, kinds)) => {
                assert!(finding.incident.follows);
                *kinds += &format!(" + {kind}");
            }
            None => {
                assert!(!finding.incident.follows);
                incidents.push((number, kind.to_owned()));
            }
        }
    }
    incidents.into_iter().map(|(_, kinds)| kinds).collect()
}

fn second() -> MacAddr {
    MacAddr::kvm([0, 0, 2])
}

/// The record, of the second interface.
fn of_second(mut record: Record) -> Record {
    if let Event::Open { mac, .. }
    | Event::Close { mac, .. }
    | Event::Start { mac, .. }
    | Event::Attach { mac, .. } = &mut record.event
    {
        *mac = second();
    }
    record
}

#[test]
fn a_failed_boot_is_one_incident() {
    let own = [
        ok(open(tun(), 0)),
        of_second(ok(open(macvtap(), 0))),
        failed(start()),
        of_second(failed(start())),
        ok(close(tun(), 0)),
        of_second(ok(close(macvtap(), 0))),
        failed(not_booted()),
    ];
    assert_eq!(
        incidents(&report_of(&own)),
        ["start-failed + start-failed + open-without-grant + open-without-grant + start-failed"]
    );
    assert_eq!(
        incidents(&report(&data().join("libvirt-9.0-vhost-plug/10-boot-fails"))),
        [
            "false-start + open-without-grant + open-without-grant + false-start + open-without-grant + open-without-grant",
            "false-start + open-without-grant + open-without-grant + false-start + open-without-grant",
        ]
    );
}

#[test]
fn a_boot_that_fails_again_is_another_incident() {
    let boot = [ok(open(tun(), 0)), failed(start()), ok(close(tun(), 0)), failed(not_booted())];
    let one = "start-failed + open-without-grant + start-failed";
    assert_eq!(incidents(&report_of(&[&boot[..], &boot[..]].concat())), [one, one]);
    // Nothing of the first attempt explains a start that fails with no open of its own.
    assert_eq!(incidents(&report_of(&[&boot[..], &[failed(not_booted())]].concat())), [one, "start-failed"]);
}

#[test]
fn another_guests_failed_boot_is_another_incident() {
    let other = |mut record: Record| {
        record.guest.uuid = uuid::Uuid::from_u128(2);
        record
    };
    let boot = [ok(open(tun(), 0)), failed(start())];
    let end = [ok(close(tun(), 0)), failed(not_booted())];
    let both: Vec<Record> =
        [boot.to_vec(), boot.map(other).to_vec(), end.to_vec(), end.map(other).to_vec()].concat();
    let one = "start-failed + open-without-grant + start-failed";
    assert_eq!(incidents(&report_of(&both)), [one, one]);
}

#[test]
fn an_open_without_which_an_interface_can_not_be_is_the_cause_of_the_failure() {
    let opened = failed(open(Device::new("/dev/net/tun", None, None), 0));
    assert_eq!(
        incidents(&report_of(&[ok(booted()), opened.clone(), failed(attach())])),
        ["open-failed + attach-failed"]
    );
    assert_eq!(
        incidents(&report_of(&[opened.clone(), failed(start()), failed(not_booted())])),
        ["open-failed + start-failed + start-failed"]
    );
    // Another interface's hot-plug, and one after a hot-plug that worked, fail for reasons of their own.
    assert_eq!(
        incidents(&report_of(&[ok(booted()), opened.clone(), of_second(failed(attach()))])),
        ["open-failed", "attach-failed"]
    );
    let again = [ok(booted()), opened, ok(open(tun(), 0)), ok(attach()), failed(attach())];
    assert_eq!(incidents(&report_of(&again)), ["open-failed", "attach-failed"]);
}

#[test]
fn a_failed_vhost_net_is_no_cause_of_what_fails_beside_it() {
    let records = [
        ok(booted()),
        ok(open(tun(), 0)),
        failed(open(libvirt::no_vhost(), 0)),
        failed(attach()),
        ok(close(tun(), 0)),
    ];
    assert_eq!(incidents(&report_of(&records)), ["open-failed", "attach-failed + open-without-grant"]);
    assert_eq!(
        incidents(&report(&data().join("libvirt-9.0/08-fail-qemu"))),
        [
            "open-failed + contradictory-open",
            "false-start + open-without-grant",
            "open-failed + contradictory-open",
            "open-failed + contradictory-open",
            "false-start + open-without-grant + false-start + open-without-grant",
        ]
    );
}

#[test]
fn an_old_failure_explains_nothing() {
    let mut entries = crate::fixtures::entries(&[
        failed(open(Device::new("/dev/net/tun", None, None), 0)),
        failed(not_booted()),
    ]);
    entries[1].time = entries[0].time + jiff::SignedDuration::from_mins(3);
    let mut trail = taptrail_trail::Trail::new();
    entries.iter().for_each(|entry| trail.feed(entry));
    assert_eq!(incidents(&trail.finish()), ["open-failed", "start-failed"]);
}

#[test]
fn what_qemu_keeps_is_of_the_hot_plug_that_failed() {
    let records = [
        ok(booted()),
        ok(open(tun(), 0)),
        ok(open(vhost(), 0)),
        failed(attach()),
        ok(keep(tun(), 0)),
        ok(close(vhost(), 0)),
    ];
    assert_eq!(incidents(&report_of(&records)), ["attach-failed + attach-failed + open-without-grant"]);
}

#[test]
fn one_open_with_two_records_is_one_incident() {
    let opens = [failed(libvirt::open(&libvirt::no_vhost())), ok(libvirt::open(&libvirt::no_vhost()))];
    for order in [[0, 1], [1, 0]] {
        let [first, second] = order.map(|at: usize| opens[at].clone());
        let report = report_of(&[ok(libvirt::open(&tun())), first, second]);
        assert_eq!(incidents(&report)[0], "open-failed + contradictory-open");
    }
}

#[test]
fn a_grant_in_a_start_that_failed_is_of_that_start() {
    assert_eq!(
        incidents(&report(&data().join("libvirt-9.0/02b-macvtap-fail"))),
        ["false-start + grant-without-open"]
    );
}

#[test]
fn ends_that_one_record_shows_are_one_incident() {
    let held = [
        ok(open(tun(), 0)),
        of_second(ok(open(macvtap(), 0))),
        ok(start()),
        of_second(ok(start())),
        ok(booted()),
    ];
    let stopped = [&held[..], &[ok(shut_down())]].concat();
    assert_eq!(incidents(&report_of(&stopped)), ["never-released + never-released"]);
    let restarted = [&held[..], &[ok(booted())]].concat();
    assert_eq!(incidents(&report_of(&restarted)), ["release-by-restart + release-by-restart"]);
    let twice = [&stopped[..], &stopped[..]].concat();
    assert_eq!(incidents(&report_of(&twice)), ["never-released + never-released"; 2]);
}

#[test]
fn releases_of_interfaces_with_one_mac_follow_from_that() {
    assert_eq!(
        incidents(&report(&data().join("libvirt-9.0-vhost-plug/12-same-mac"))),
        ["duplicate-mac + ambiguous-release"]
    );
}

#[test]
fn an_attempt_without_an_outcome_is_one_incident() {
    let opens = [ok(libvirt::open(&tun())), ok(libvirt::open(&vhost()))];
    let stopped = [&opens[..], &[ok(shut_down())]].concat();
    assert_eq!(incidents(&report_of(&stopped)), ["grant-unknown + grant-unknown"]);
    let twice = [&opens[..], &[ok(shut_down())], &opens[..], &[ok(shut_down())]].concat();
    assert_eq!(incidents(&report_of(&twice)), ["grant-unknown + grant-unknown"; 2]);
}
