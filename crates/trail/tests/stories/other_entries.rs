//! Entries that are no complete records: fragments, gaps, and records of other programs.

use crate::fixtures::{findings, tun};
use crate::log_builder::*;
use taptrail_record::Fragment;
use taptrail_trail::{Content, Gap, GapReason};

fn fragment() -> Fragment {
    let device = Some(taptrail_record::Device { dev: None, ..tun() });
    Fragment { name: Some("g1".into()), uuid: Some(guest(1).uuid), mac: Some(mac(1)), device }
}

#[test]
fn a_fragment_of_a_record_is_reported_and_changes_nothing() {
    for (content, kind) in [
        (Content::Truncated(fragment()), "truncated-record"),
        (Content::Unsent(fragment()), "record-not-sent"),
        (Content::Missing(fragment()), "serial-gap"),
    ] {
        let report = LogBuilder::new().entry(content).report();
        assert_eq!((lines(&report).len(), findings(&report)), (0, vec![kind]));
        let finding = &report.findings[0];
        assert_eq!((&finding.guest, finding.mac), (&Some(guest(1)), Some(mac(1))));
        assert!(finding.text.contains("'g1'") && finding.text.contains("/dev/net/tun"), "{}", finding.text);
        assert_eq!(report.input.records, 0);
    }
}

#[test]
fn a_lost_part_of_a_log_is_reported_and_changes_no_holding() {
    let gap_text = |serials, why| {
        let since = "2026-11-23T20:31:05.017Z".parse().ok();
        let report =
            LogBuilder::new().boot(1, &tun(), 40).entry(Content::Gap(Gap { since, serials, why })).report();
        assert_eq!((lines(&report).len(), findings(&report)), (1, vec!["log-gap"]));
        report.findings[0].text.clone()
    };
    assert_eq!(
        gap_text(Some((7, 9)), GapReason::PositionLost),
        "The log was cut or rotated away before it was read to its end: audit events 7 to 9 are not known, from \
         2026-11-23T20:31:05.017Z on"
    );
    assert_eq!(
        gap_text(Some((7, 7)), GapReason::NeverWritten),
        "The log lacks a stretch: audit event 7 is not known, from 2026-11-23T20:31:05.017Z on"
    );
    assert_eq!(
        gap_text(None, GapReason::NotListening),
        "Records that the kernel sent while nobody listened are lost: what it said is not known, from \
         2026-11-23T20:31:05.017Z on"
    );
}

#[test]
fn a_fragment_without_a_name_has_that_of_its_running_guest() {
    let nameless = Fragment { name: None, mac: None, device: None, ..fragment() };
    let lost =
        |log: LogBuilder| log.entry(Content::Truncated(nameless.clone())).report().findings.pop().unwrap();
    assert_eq!(lost(LogBuilder::new().boot(1, &tun(), 40)).guest, Some(guest(1)));
    assert_eq!(lost(LogBuilder::new().boot(2, &tun(), 40)).guest, None);
    assert_eq!(
        lost(LogBuilder::new().entry(Content::Truncated(Fragment::default()))).text,
        "A record is cut off: the outcome of its operation is unknown"
    );
}

#[test]
fn an_open_that_a_lost_record_names_is_not_unaudited() {
    let report = LogBuilder::new()
        .kernel_open(LIBVIRTD, "libvirtd", &tun())
        .entry(Content::Truncated(fragment()))
        .report();
    assert_eq!(findings(&report), ["truncated-record"]);
    let unsent = LogBuilder::new().kernel_open(LIBVIRTD, "libvirtd", &tun()).by_unknown_writer();
    assert_eq!(findings(&unsent.entry(Content::Unsent(fragment())).report()), ["record-not-sent"]);
}

#[test]
fn a_container_run_time_is_counted_once() {
    let by = |exe: &str| Content::Foreign { exe: exe.into() };
    let docker = "/usr/bin/dockerd-current";
    let log = LogBuilder::new().entry(by(docker)).entry(by("")).boot(1, &tun(), 40).entry(by(docker));
    let report = log.on("h2").entry(by(docker)).report();
    assert_eq!(findings(&report), ["foreign-control"; 3]);
    assert_eq!(
        report.findings.iter().map(|finding| &finding.text[..]).collect::<Vec<_>>(),
        [
            "A program that is not named wrote 1 VIRT_CONTROL record that names no guest",
            "/usr/bin/dockerd-current wrote 2 VIRT_CONTROL records that name no guest",
            "/usr/bin/dockerd-current wrote 1 VIRT_CONTROL record that names no guest",
        ]
    );
    assert_eq!(report.findings[1].proof.len(), 2);
}

#[test]
fn programs_without_number_are_counted_together() {
    let mut log = LogBuilder::new();
    for number in 0..100 {
        log = log.entry(Content::Foreign { exe: format!("/tmp/{number}").into() });
    }
    let report = log.report();
    assert_eq!(report.findings.len(), 65);
    assert_eq!(report.findings[64].text, "Others wrote 36 VIRT_CONTROL records that name no guest");
}
