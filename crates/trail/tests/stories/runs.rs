//! The runs of guests, one for each QEMU.

use jiff::SignedDuration;
use taptrail_record::{Abend, Denial, Device, DeviceKind, Event, Reason, Record, Requester};
use taptrail_trail::{
    ActorRole, Certainty, Content, Credentials, EndedBy, Entry, FindingKind, Gap, GapReason, GuestRun,
    Report, RunState, Trail,
};

use crate::fixtures::{findings, tun};
use crate::log_builder::*;

const QEMU: u32 = 40;

impl LogBuilder {
    fn abend(self, pid: u32, signal: u32) -> Self {
        let (comm, exe) = ("CPU 0/KVM".into(), "/usr/bin/qemu-system-x86_64".into());
        self.entry(Content::Abend(Abend { pid, comm, exe, signal }))
    }

    fn denial(self, pid: u32, comm: &str, label: &str) -> Self {
        let device = Device::new("/dev/net/tun", None, None);
        let (comm, label, access) = (comm.into(), label.into(), "open".into());
        self.entry(Content::Denial(Denial { pid, comm, access, label, device }))
    }

    fn with_runs(&self) -> (Report, Vec<GuestRun>) {
        with_runs(&self.entries)
    }

    /// Each run in one line: guest, interfaces, start, how it ended and why, certainty.
    fn runs(&self) -> Vec<String> {
        let line = |run: &GuestRun| {
            let reason =
                |reason: &Option<Reason>| reason.as_ref().map_or("-".to_owned(), ToString::to_string);
            let (start, end) = (reason(&run.start_reason), reason(&run.end_reason));
            let by = run.ended_by.map_or("-", |by| by.as_str());
            let (guest, count, certainty) = (&run.guest.name, run.interfaces, run.certainty.as_str());
            format!("{guest} {count} {start} {} {by} {end} {certainty}", run.state.as_str())
        };
        self.with_runs().1.iter().map(line).collect()
    }
}

fn with_runs(entries: &[Entry]) -> (Report, Vec<GuestRun>) {
    let mut trail = Trail::with_runs();
    entries.iter().for_each(|entry| trail.feed(entry));
    trail.finish_with_runs()
}

#[test]
fn a_run_is_from_its_start_to_its_stop_with_all_interfaces_that_it_had() {
    let log = LogBuilder::new().boot(1, &tun(), QEMU);
    let log = log.ok(1, open(mac(2), &tun())).ok(1, attach(mac(2))).ok(1, detach(mac(2))).after(10);
    let log = log.ok(1, open(mac(2), &tun())).ok(1, attach(mac(2))).ok(1, op_stop("destroyed"));
    assert_eq!(log.runs(), ["g1 2 booted ended stop destroyed definitive"]);
    let (_, runs) = log.with_runs();
    let lines: Vec<_> = runs[0].proof.iter().map(|proof| proof.line).collect();
    assert_eq!((lines, runs[0].pid), (vec![3, 9], Some(QEMU)));
    // Two interfaces with one MAC, and none.
    let twins = LogBuilder::new().ok(1, start(mac(1))).ok(1, start(mac(1))).ok(1, op_start("booted", QEMU));
    assert_eq!(twins.runs(), ["g1 2 booted running - - definitive"]);
    let plain = LogBuilder::new().ok(1, op_start("restored", QEMU)).ok(1, op_stop("saved"));
    assert_eq!(plain.runs(), ["g1 0 restored ended stop saved definitive"]);
}

#[test]
fn a_start_that_failed_is_no_run() {
    let failed = |log: LogBuilder| log.failed(1, Event::GuestStart { reason: Reason::BOOTED, vm_pid: None });
    let log = failed(LogBuilder::new().ok(1, open(mac(1), &tun())).ok(1, start(mac(1))));
    assert!(log.runs().is_empty());
    // If its guest was known to run, that had ended before.
    let log = failed(LogBuilder::new().ok(1, op_start("booted", QEMU)));
    assert_eq!(log.runs(), ["g1 0 booted ended restart - incomplete"]);
}

#[test]
fn an_end_that_no_record_has_is_between_two_times() {
    let twice = LogBuilder::new().boot(1, &tun(), QEMU).after(60).boot(1, &tun(), QEMU + 1);
    assert_eq!(
        twice.runs(),
        ["g1 1 booted ended restart - incomplete", "g1 1 booted running - - definitive"]
    );
    let (report, runs) = twice.with_runs();
    // As its device.
    let held = &report.holdings[0];
    assert_eq!((runs[0].last_seen, runs[0].ended), (held.last_seen, held.released));
    assert!(runs[0].last_seen >= runs[0].started && runs[0].last_seen < runs[0].ended);
    let reboot = LogBuilder::new().boot(1, &tun(), QEMU).after(60).entry(Content::Boot);
    assert_eq!(reboot.runs(), ["g1 1 booted ended reboot - incomplete"]);
    let reused = LogBuilder::new().boot(1, &tun(), QEMU).after(60).boot(2, &tun(), QEMU);
    assert_eq!(reused.runs()[0], "g1 1 booted ended pid-reused - incomplete");
}

#[test]
fn a_guest_from_before_the_trail_has_no_start() {
    let log = LogBuilder::new().ok(1, detach(mac(1))).after(10).ok(1, op_stop("shutdown"));
    assert_eq!(log.runs(), ["g1 1 - ended stop shutdown incomplete"]);
    let stop = LogBuilder::new().ok(1, op_stop("shutdown"));
    assert_eq!(stop.runs(), ["g1 0 - ended stop shutdown incomplete"]);
    // Only the record of the start is missing.
    let booted = LogBuilder::new().ok(1, open(mac(1), &tun())).ok(1, start(mac(1))).ok(1, op_stop("failed"));
    assert_eq!(booted.runs(), ["g1 1 - ended stop failed incomplete"]);
    let runs = LogBuilder::new().ok(1, open(mac(1), &tun())).ok(1, attach(mac(1)));
    assert_eq!(runs.runs(), ["g1 1 - running - - incomplete"]);
}

#[test]
fn a_gap_leaves_open_whether_it_was_one_run() {
    let gap = Content::Gap(Gap { since: None, serials: None, why: GapReason::Backlog });
    let log = LogBuilder::new().boot(1, &tun(), QEMU).after(60).entry(gap).ok(1, op_stop("shutdown"));
    assert_eq!(log.runs(), ["g1 1 booted ended stop shutdown incomplete"]);
    assert!(log.with_runs().1[0].uncertain_since.is_some());
}

#[test]
fn a_watchers_and_a_managers_record_of_an_end_are_one_end() {
    let gone = Event::GuestGone { vm_pid: QEMU };
    let log = LogBuilder::new().boot(1, &tun(), QEMU).after(5).by(77).ok(1, gone.clone()).by(LIBVIRTD);
    let (_, runs) = log.with_runs();
    let ended = runs[0].ended;
    assert_eq!(log.runs(), ["g1 1 booted ended stop exited definitive"]);
    let log = log.after(20).ok(1, op_stop("crashed"));
    assert_eq!(log.runs(), ["g1 1 booted ended stop crashed definitive"]);
    assert_eq!(log.with_runs().1[0].ended, ended, "the earlier record shows the end");
    // The stop of a guest that ran long after that is another's.
    let log = LogBuilder::new().boot(1, &tun(), QEMU).by(77).ok(1, gone).by(LIBVIRTD).after(3600);
    assert_eq!(log.ok(1, op_stop("shutdown")).runs().len(), 2);
}

// Shows 10.52.
#[test]
fn a_watcher_may_see_an_end_before_it_reads_of_the_signal() {
    let gone = Event::GuestGone { vm_pid: QEMU };
    let mut log = LogBuilder::new().boot(1, &tun(), QEMU).after(5).abend(QEMU, 6).by(77).ok(1, gone);
    assert_eq!(findings(&log.report()), ["qemu-crashed"]);
    log.entries.swap(3, 4);
    assert_eq!(findings(&log.report()), ["qemu-crashed"]);
    // Another process has the number by then.
    log.entries[4].time += SignedDuration::from_secs(5);
    assert!(findings(&log.report()).is_empty());
}

#[test]
fn who_asked_is_the_requester_or_else_the_writer() {
    let mut log = LogBuilder::new().ok(1, op_start("booted", QEMU)).ok(1, op_stop("shutdown"));
    assert_eq!(log.with_runs().1[0].started_by, None, "its source does not keep it");
    log.entries[0].credentials = Some(Credentials { uid: 0, auid: u32::MAX, ses: u32::MAX });
    let requester = Some(Requester { uid: 1000, auid: 1000, pid: 5 });
    let Content::Record(record) = &log.entries[1].content else { panic!() };
    log.entries[1].content = Content::Record(Record { requester, ..record.clone() });
    let (_, runs) = log.with_runs();
    let (by, stopped_by) = (runs[0].started_by.unwrap(), runs[0].stopped_by.unwrap());
    assert_eq!((by.role, by.uid, by.pid), (ActorRole::Manager, 0, Some(LIBVIRTD)));
    assert_eq!((stopped_by.role, stopped_by.uid, stopped_by.pid), (ActorRole::Requester, 1000, Some(5)));
    let json = serde_json::to_value(&runs[0]).unwrap();
    assert!(json["started_by"]["auid"].is_null() && json["stopped_by"]["auid"] == 1000, "{json:#}");
}

// Shows 10.53.
#[test]
fn a_fatal_signal_is_the_latest_time_at_which_qemu_certainly_had_its_devices() {
    let log = LogBuilder::new().boot(1, &tun(), QEMU).after(60).abend(QEMU, 11);
    let (report, runs) = log.with_runs();
    let crash = runs[0].crash.unwrap();
    assert_eq!((crash.signal_name(), runs[0].state, runs[0].ended), (Some("SIGSEGV"), RunState::Ended, None));
    // No record shows the release.
    assert_eq!(lines(&report), ["g1 tun x? held - inferred -"]);
    assert_eq!(report.holdings[0].certainly_held().unwrap().1, crash.time);
    assert_eq!(findings(&report), ["qemu-crashed"]);
    let log = log.after(300).ok(1, op_stop("failed"));
    assert_eq!(log.runs(), ["g1 1 booted ended stop failed definitive"]);
    let (report, runs) = log.with_runs();
    let holding = &report.holdings[0];
    assert_eq!((holding.last_seen, holding.released), (Some(crash.time), runs[0].ended));
    assert_eq!((holding.ended_by, holding.certainty), (Some(EndedBy::Stop), Certainty::Inferred));
    // Or the daemon does not come back before the next start.
    let log = LogBuilder::new().boot(1, &tun(), QEMU).after(60).abend(QEMU, 6).after(60).boot(1, &tun(), 41);
    let (report, runs) = log.with_runs();
    assert_eq!(
        (runs[0].last_seen, runs[0].crash.map(|crash| crash.time)),
        (report.holdings[0].last_seen, runs[0].last_seen)
    );
    assert_eq!(runs[1].crash, None);
}

// Shows 10.53.
#[test]
fn a_fatal_signal_of_another_process_says_nothing() {
    let crashes = |log: &LogBuilder| log.with_runs().1.iter().filter(|run| run.crash.is_some()).count();
    let booted = LogBuilder::new().boot(1, &tun(), QEMU).after(60);
    assert_eq!(crashes(&booted), 0);
    // The number is free again once a record shows the end.
    let ended = LogBuilder::new().boot(1, &tun(), QEMU).ok(1, op_stop("shutdown")).abend(QEMU, 11);
    assert_eq!(crashes(&ended), 0);
    let other = LogBuilder::new().boot(1, &tun(), QEMU).abend(QEMU + 1, 11);
    assert_eq!(crashes(&other), 0);
    let restarted = LogBuilder::new().boot(1, &tun(), QEMU).boot(1, &tun(), 41).abend(QEMU, 11);
    assert_eq!(crashes(&restarted), 0);
    let of_two = LogBuilder::new().boot(1, &tun(), QEMU).boot(2, &tun(), 41).abend(41, 11);
    assert_eq!(of_two.with_runs().1.iter().map(|run| run.crash.is_some()).collect::<Vec<_>>(), [false, true]);
    // A guest that goes on was not meant.
    let alive = LogBuilder::new().boot(1, &tun(), QEMU).abend(QEMU, 11).after(3600);
    let alive = alive.ok(1, open(mac(2), &tun())).ok(1, attach(mac(2)));
    assert_eq!(crashes(&alive), 0);
    assert!(alive.with_runs().0.holdings.iter().all(|holding| holding.last_seen.is_none()));
}

// Shows 10.54.
#[test]
fn a_refused_access_is_of_the_guest_with_the_process_or_the_profile() {
    let found = |log: &LogBuilder| -> Vec<(Option<String>, String)> {
        let denied =
            log.report().findings.into_iter().filter(|found| found.kind == FindingKind::AccessDenied);
        denied.map(|found| (found.guest.map(|guest| guest.name.into()), found.text)).collect()
    };
    let (svirt, other) = ("system_u:system_r:svirt_t:s0:c1,c2", "system_u:system_r:openvpn_t:s0");
    let running = LogBuilder::new().boot(1, &tun(), QEMU).denial(QEMU, "worker", svirt);
    let text = format!("QEMU of guest 'g1' (process {QEMU}) was refused 'open' of /dev/net/tun, as {svirt}");
    assert_eq!(found(&running), [(Some("g1".to_owned()), text)]);
    // Again and again is once.
    assert_eq!(found(&running.denial(QEMU, "worker", svirt).denial(QEMU, "worker", svirt)).len(), 1);
    // At a boot, the record with the process comes last.
    let booting = LogBuilder::new().denial(QEMU, "worker", svirt).boot(1, &tun(), QEMU);
    assert_eq!(found(&booting)[0].0.as_deref(), Some("g1"));
    let profile = format!("libvirt-{}", guest(1).uuid);
    let by_label = LogBuilder::new().ok(1, open(mac(1), &tun())).denial(99, "worker", &profile);
    assert_eq!(found(&by_label)[0].0.as_deref(), Some("g1"));
    // A QEMU that is not known, and a program that is none.
    let unknown = LogBuilder::new().denial(99, "worker", svirt);
    let text = format!(
        "worker (process 99), which runs a guest that is not known, was refused 'open' of /dev/net/tun, as {svirt}"
    );
    assert_eq!(found(&unknown), [(None, text)]);
    assert!(found(&LogBuilder::new().denial(99, "openvpn", other)).is_empty());
    let late = LogBuilder::new().denial(QEMU, "worker", svirt).after(3600).boot(1, &tun(), QEMU);
    assert_eq!(found(&late)[0].0, None, "another process had the number");
    let mut trail = Trail::new();
    late.entries[..1].iter().for_each(|entry| trail.feed(entry));
    let deadline = trail.next_deadline().unwrap();
    assert_eq!(deadline.duration_since(late.entries[0].time).as_secs(), 60);
    trail.advance(deadline + SignedDuration::from_secs(1));
    assert_eq!(
        trail.drain_findings().map(|found| found.device.unwrap().kind).collect::<Vec<_>>(),
        [DeviceKind::Tun]
    );
}
