//! What is told beside records that can be believed.

use crate::scene::*;
use crate::telling::{findings, tun};
use taptrail_record::Fragment;
use taptrail_trail::{Content, Gap, GapReason};

fn fragment() -> Fragment {
    let device = Some(taptrail_record::Device { dev: None, ..tun() });
    Fragment { name: Some("g1".into()), uuid: Some(guest(1).uuid), mac: Some(mac(1)), device }
}

#[test]
fn what_is_left_of_a_record_is_told_and_changes_nothing() {
    for (content, kind) in [
        (Content::Truncated(fragment()), "truncated-record"),
        (Content::Unsent(fragment()), "record-not-sent"),
        (Content::Missing(fragment()), "serial-gap"),
    ] {
        let report = Scene::new().tells(content).told();
        assert_eq!((lines(&report).len(), findings(&report)), (0, vec![kind]));
        let finding = &report.findings[0];
        assert_eq!((&finding.guest, finding.mac), (&Some(guest(1)), Some(mac(1))));
        assert!(finding.text.contains("'g1'") && finding.text.contains("/dev/net/tun"), "{}", finding.text);
        assert_eq!(report.input.records, 0);
    }
}

#[test]
fn a_stretch_of_a_log_that_is_lost_is_told_and_changes_nothing() {
    let told = |serials, why| {
        let since = "2026-11-23T20:31:05.017Z".parse().ok();
        let report =
            Scene::new().boots(1, &tun(), 40).tells(Content::Gap(Gap { since, serials, why })).told();
        assert_eq!((lines(&report).len(), findings(&report)), (1, vec!["log-gap"]));
        report.findings[0].text.clone()
    };
    assert_eq!(
        told(Some((7, 9)), GapReason::PositionLost),
        "The log was cut or rotated away before it was read to its end: audit events 7 to 9 are not known, from \
         2026-11-23T20:31:05.017Z on"
    );
    assert_eq!(
        told(Some((7, 7)), GapReason::NeverWritten),
        "The log lacks a stretch: audit event 7 is not known, from 2026-11-23T20:31:05.017Z on"
    );
    assert_eq!(
        told(None, GapReason::NotListening),
        "Records that the kernel sent while nobody listened are lost: what it said is not known, from \
         2026-11-23T20:31:05.017Z on"
    );
}

#[test]
fn a_fragment_without_a_name_has_that_of_its_running_guest() {
    let nameless = Fragment { name: None, mac: None, device: None, ..fragment() };
    let lost =
        |scene: Scene| scene.tells(Content::Truncated(nameless.clone())).told().findings.pop().unwrap();
    assert_eq!(lost(Scene::new().boots(1, &tun(), 40)).guest, Some(guest(1)));
    assert_eq!(lost(Scene::new().boots(2, &tun(), 40)).guest, None);
    assert_eq!(
        lost(Scene::new().tells(Content::Truncated(Fragment::default()))).text,
        "A record is cut off: the outcome of its operation is unknown"
    );
}

#[test]
fn an_open_that_a_lost_record_names_is_not_unaudited() {
    let report =
        Scene::new().kernel(LIBVIRTD, "libvirtd", &tun()).tells(Content::Truncated(fragment())).told();
    assert_eq!(findings(&report), ["truncated-record"]);
    let unsent = Scene::new().kernel(LIBVIRTD, "libvirtd", &tun()).by_nobody();
    assert_eq!(findings(&unsent.tells(Content::Unsent(fragment())).told()), ["record-not-sent"]);
}

#[test]
fn a_container_run_time_is_counted_once() {
    let by = |exe: &str| Content::Foreign { exe: exe.into() };
    let docker = "/usr/bin/dockerd-current";
    let scene = Scene::new().tells(by(docker)).tells(by("")).boots(1, &tun(), 40).tells(by(docker));
    let report = scene.on("h2").tells(by(docker)).told();
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
    let mut scene = Scene::new();
    for number in 0..100 {
        scene = scene.tells(Content::Foreign { exe: format!("/tmp/{number}").into() });
    }
    let report = scene.told();
    assert_eq!(report.findings.len(), 65);
    assert_eq!(report.findings[64].text, "Others wrote 36 VIRT_CONTROL records that name no guest");
}
