//! taptrail's own records: every end is definitive.

use crate::fixtures::*;
use taptrail_record::{CloseDoubt, Device, Event, Record, UpdatePhase};
use taptrail_trail::Doubt;

// Shows 9.3.
#[test]
fn a_whole_life_in_json() {
    let report = report_of(&[
        ok(open(tun(), 0)),
        ok(open(tun(), 1)),
        ok(open(vhost(), 0)),
        ok(open(vhost(), 1)),
        ok(start()),
        ok(booted()),
        ok(close(tun(), 0)),
        ok(close(tun(), 1)),
        ok(close(vhost(), 0)),
        ok(close(vhost(), 1)),
        ok(shut_down()),
    ]);
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
}

#[test]
fn a_failed_open_in_json() {
    let vhost = Device::new("/dev/vhost-net", None, None);
    let mut record = failed(open(vhost, 0));
    record.errno = Some(2);
    insta::assert_snapshot!(serde_json::to_string_pretty(&report_of(&[record])).unwrap());
}

#[test]
fn an_unplugged_interface_ends_by_detach() {
    let report = report_of(&[ok(open(tun(), 0)), ok(attach()), ok(close(tun(), 0)), ok(detach(false))]);
    assert_eq!(holdings(&report), ["tun x1 released detach definitive"]);
    assert_eq!(findings(&report), [""; 0]);
    let holding = &report.holdings[0];
    let seconds =
        |time: Option<jiff::Timestamp>| time.unwrap().duration_since(holding.opened.unwrap()).as_secs();
    assert_eq!((seconds(holding.granted), seconds(holding.released)), (1, 2));
    assert_eq!(holding.pid, Some(PID));
    assert_eq!(holding.proof.iter().map(|proof| proof.line).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

// Shows 17.8.
#[test]
fn a_vhost_user_socket_has_no_number_and_needs_none() {
    let socket = || Device::new("unix:/run/vhost0.sock", None, None);
    let report = report_of(&[ok(open(socket(), 0)), ok(start()), ok(booted()), ok(close(socket(), 0))]);
    assert_eq!(holdings(&report), ["vhost-user x1 released close definitive"]);
    assert_eq!(findings(&report), [""; 0]);
}

// Shows 9.13.
#[test]
fn an_update_without_an_outcome_is_unknown_and_one_with_an_outcome_is_not() {
    let update = |phase| Event::Update { mac: mac(), device: tun(), phase, settings: "vlan=7".into() };
    let (begin, end) = (|| ok(update(UpdatePhase::Begin)), || update(UpdatePhase::End));
    let runs = [ok(open(tun(), 0)), ok(start()), ok(booted())];
    let kinds = |more: &[Record]| findings(&report_of(&[&runs[..], more].concat()));
    for outcome in [ok(end()), failed(end())] {
        assert_eq!(kinds(&[begin(), outcome.clone()]), [""; 0]);
        assert_eq!(kinds(&[begin(), outcome, begin()]), ["update-unknown"], "the last one");
    }
    assert_eq!(kinds(&[begin()]), ["update-unknown"], "the trail ends");
    assert_eq!(kinds(&[begin(), ok(close(tun(), 0)), ok(shut_down())]), ["update-unknown"], "the guest ends");
    assert_eq!(kinds(&[begin(), begin(), ok(end())]), ["update-unknown"], "the next one begins");
}

#[test]
fn a_revoked_interface_ends_by_revoke() {
    let report =
        report_of(&[ok(open(macvtap(), 0)), ok(attach()), ok(close(macvtap(), 0)), ok(detach(true))]);
    assert_eq!(holdings(&report), ["macvtap x1 released revoke definitive"]);
}

#[test]
fn a_mac_comes_and_goes_three_times() {
    let round = [ok(open(tun(), 0)), ok(attach()), ok(close(tun(), 0)), ok(detach(false))];
    let report = report_of(&[&round[..], &round[..], &round[..2]].concat());
    assert_eq!(
        holdings(&report),
        [
            "tun x1 released detach definitive",
            "tun x1 released detach definitive",
            "tun x1 held - definitive"
        ]
    );
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_step_that_fails_between_open_and_attach_leaves_an_open_without_grant() {
    let report = report_of(&[ok(booted()), ok(open(tun(), 0)), ok(close(tun(), 0)), failed(attach())]);
    assert_eq!(holdings(&report), ["tun x1 never-granted close definitive"]);
    assert_eq!(findings(&report), ["open-without-grant", "attach-failed"]);
}

#[test]
fn an_attach_that_qemu_refuses_leaves_an_open_without_grant() {
    for refused in [attach(), start()] {
        let kind = if refused == attach() { "attach-failed" } else { "start-failed" };
        let report = report_of(&[ok(open(tun(), 0)), failed(refused), ok(close(tun(), 0))]);
        // It was on its way to QEMU, which may have had it.
        assert_eq!(holdings(&report), ["tun x1 never-granted close inferred"]);
        assert_eq!(report.holdings[0].possibly_held[0].why, Doubt::Failed);
        assert_eq!(findings(&report), [kind, "open-without-grant"]);
    }
}

#[test]
fn what_was_never_on_its_way_to_qemu_was_never_granted_for_certain() {
    for refused in [
        Event::Attach { mac: mac(), vm_pid: Some(PID), fds: None },
        Event::Start { mac: mac(), vm_pid: None, fds: None },
    ] {
        let report = report_of(&[ok(open(tun(), 0)), failed(refused), ok(close(tun(), 0))]);
        assert_eq!(holdings(&report), ["tun x1 never-granted close definitive"]);
    }
}

#[test]
fn what_qemu_keeps_after_a_failed_attach_is_held() {
    let records = [
        ok(booted()),
        ok(open(tun(), 0)),
        ok(open(tun(), 1)),
        ok(open(vhost(), 0)),
        failed(attach()),
        ok(close(tun(), 1)),
        ok(keep(tun(), 0)),
        ok(close(vhost(), 0)),
    ];
    let report = report_of(&records);
    assert_eq!(
        holdings(&report),
        [
            "tun x1 never-granted close inferred",
            "tun x1 held - definitive",
            "vhost-net x1 never-granted close inferred"
        ]
    );
    assert_eq!(
        findings(&report),
        ["attach-failed", "attach-failed", "open-without-grant", "open-without-grant"]
    );
    assert_eq!(report.findings[1].device, Some(tun()));
    let held = &report.holdings[1];
    assert_eq!((held.pid, held.granted), (Some(PID), Some(report.findings[1].time)));

    let ended = report_of(&[&records[..], &[ok(close(tun(), 0)), ok(shut_down())]].concat());
    assert_eq!(holdings(&ended)[1], "tun x1 released stop definitive");
}

#[test]
fn a_kept_device_outlives_another_life_of_its_interface() {
    let other = Device { dev: Some("vnet1".into()), ..tun() };
    let report = report_of(&[
        ok(open(tun(), 0)),
        failed(attach()),
        ok(keep(tun(), 0)),
        ok(open(other.clone(), 0)),
        ok(attach()),
        ok(close(other, 0)),
        ok(detach(false)),
    ]);
    assert_eq!(holdings(&report), ["tun x1 held - definitive", "tun x1 released detach definitive"]);
}

#[test]
fn a_failed_detach_ends_nothing() {
    let report = report_of(&[ok(open(tun(), 0)), ok(attach()), failed(detach(false))]);
    assert_eq!(holdings(&report), ["tun x1 held - definitive"]);
    assert_eq!(findings(&report), ["detach-failed"]);
}

#[test]
fn a_device_closed_without_a_recorded_reason_ends_by_close() {
    let report = report_of(&[ok(open(tun(), 0)), ok(attach()), ok(close(tun(), 0))]);
    assert_eq!(holdings(&report), ["tun x1 released close definitive"]);
}

#[test]
fn a_lost_close_leaves_its_end_inferred() {
    let report = report_of(&[
        ok(open(tun(), 0)),
        ok(open(vhost(), 0)),
        ok(attach()),
        ok(close(tun(), 0)),
        ok(detach(false)),
    ]);
    assert_eq!(
        holdings(&report),
        ["tun x1 released detach definitive", "vhost-net x1 released detach inferred"]
    );
}

#[test]
fn a_qemu_that_dies_between_its_start_and_its_guests_held_its_devices_even_so() {
    let report = report_of(&[ok(open(tun(), 0)), ok(start()), ok(close(tun(), 0)), failed(not_booted())]);
    assert_eq!(holdings(&report), ["tun x1 released stop definitive"]);
    assert_eq!(findings(&report), ["start-failed"]);
}

#[test]
fn a_start_undone_at_its_very_end_leaves_nothing_running() {
    let mut trail = taptrail_trail::Trail::new();
    let records = [
        ok(open(tun(), 0)),
        ok(start()),
        ok(booted()),
        failed(start()),
        ok(close(tun(), 0)),
        failed(not_booted()),
    ];
    entries(&records).iter().for_each(|entry| trail.feed(entry));
    assert!(trail.is_idle());
    let report = trail.finish();
    assert_eq!(holdings(&report), ["tun x1 released stop definitive"]);
    assert_eq!(findings(&report), ["start-failed", "start-failed"]);
}

#[test]
fn a_qemu_that_refuses_its_command_line_held_nothing() {
    let report = report_of(&[ok(open(tun(), 0)), ok(close(tun(), 0)), failed(not_booted())]);
    assert_eq!(holdings(&report), ["tun x1 never-granted close definitive"]);
    assert_eq!(findings(&report), ["open-without-grant", "start-failed"]);
}

#[test]
fn a_close_of_nothing_is_a_finding() {
    let report = report_of(&[ok(close(tun(), 0)), ok(keep(vhost(), 3))]);
    assert_eq!(holdings(&report), [""; 0]);
    assert_eq!(findings(&report), ["close-without-open", "attach-failed", "close-without-open"]);
}

#[test]
fn what_is_over_can_be_fetched_before_the_end() {
    let mut trail = taptrail_trail::Trail::new();
    let round = [ok(open(tun(), 0)), ok(attach()), ok(close(tun(), 0)), ok(detach(false))];
    for entry in entries(&[&round[..], &round[..1]].concat()) {
        trail.feed(&entry);
    }
    assert_eq!(trail.drain_ended().count(), 1);
    assert_eq!(trail.drain_ended().count(), 0);
    let report = trail.finish();
    assert_eq!(holdings(&report), ["tun x1 opening - incomplete"]);
    assert_eq!(report.input.records, 5);
}

/// The record of an end that its writer did not see.
fn unseen(mut record: Record) -> Record {
    record.last_seen = Some(1_795_465_860_017);
    record
}

#[test]
fn an_end_that_nobody_saw_has_the_time_until_which_it_had_not_come() {
    let report = report_of(&[
        ok(open(tun(), 0)),
        ok(start()),
        ok(booted()),
        unseen(ok(close(tun(), 0))),
        unseen(ok(stopped("unknown"))),
    ]);
    assert_eq!(holdings(&report), ["tun x1 released stop definitive"]);
    assert_eq!(findings(&report), [""; 0]);
    let holding = &report.holdings[0];
    assert_eq!(holding.last_seen.unwrap().as_millisecond(), 1_795_465_860_017);
    assert!(holding.last_seen < holding.released);
}

#[test]
fn what_is_closed_late_after_a_reboot_is_no_finding() {
    let report = report_of(&[
        unseen(ok(close(tun(), 0))),
        unseen(ok(close(vhost(), 0))),
        unseen(ok(stopped("unknown"))),
    ]);
    assert_eq!((holdings(&report), findings(&report)), (Vec::<String>::new(), Vec::new()));
}

/// The record of a close with a doubt.
fn doubted(mut record: Record, doubt: CloseDoubt) -> Record {
    record.doubt = Some(doubt);
    record
}

// Shows 10.51.
#[test]
fn a_close_with_a_doubt_is_inferred_and_says_which() {
    for doubt in CloseDoubt::ALL {
        let report = report_of(&[
            ok(open(tun(), 0)),
            ok(open(tun(), 1)),
            ok(attach()),
            doubted(ok(close(tun(), 0)), doubt),
            ok(close(tun(), 1)),
            ok(detach(false)),
        ]);
        assert_eq!(holdings(&report), ["tun x2 released detach inferred"], "{doubt}");
        assert_eq!(report.holdings[0].end_doubt, Some(doubt));
        let held_after = report.holdings[0].possibly_held.last().filter(|of| of.until.is_none());
        // Doubts of a device that nothing counts do not make it possibly held; the others do.
        let shown = !matches!(doubt, CloseDoubt::Uncounted | CloseDoubt::Unseen);
        assert_eq!(held_after.is_some(), shown, "{doubt}");
        // Those are a finding, one for all queues of a device.
        assert_eq!(findings(&report), ["doubtful-release"][..usize::from(shown)], "{doubt}");
        let explained = report.findings.iter().all(|finding| finding.text.ends_with(doubt.sentence()));
        assert!(explained, "{:?}", report.findings);
    }
}
