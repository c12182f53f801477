//! Recent opens, and steps that a supervisor has in progress, are not reported as failed.

use jiff::SignedDuration;
use taptrail_record::{Event, Record};
use taptrail_trail::{Content, Entry, GapReason, LineRef, Report, State, StepsInProgress, Trail};

use crate::fixtures::{findings, open, tun, vhost};
use crate::log_builder::{self, LogBuilder, guest, mac};

const FIRST: u8 = 1;
const SECOND: u8 = 2;

/// The report of these entries, if the log goes on for `minutes` after the last.
fn report_of(entries: &[Entry], minutes: i64, ledger: Option<&StepsInProgress>) -> Report {
    let mut trail = Trail::new();
    entries.iter().for_each(|entry| trail.feed(entry));
    let last = entries.last().unwrap();
    trail.cover(&last.host, last.time + SignedDuration::from_mins(minutes));
    ledger.iter().for_each(|steps| trail.set_steps_in_progress(steps));
    trail.finish()
}

fn states(report: &Report) -> Vec<(&str, &str)> {
    report.holdings.iter().map(|holding| (holding.state.as_str(), holding.certainty.as_str())).collect()
}

/// The opens of one interface's tap and vhost-net, as taptrail's supervisor records them.
fn own_opens() -> Vec<Entry> {
    let open = |device| match open(device, 0) {
        Event::Open { device, queue, .. } => Event::Open { mac: mac(FIRST), device, queue },
        other => other,
    };
    LogBuilder::new().by(4711).ok(FIRST, open(tun())).ok(FIRST, open(vhost())).entries
}

fn libvirt_open() -> LogBuilder {
    LogBuilder::new().ok(FIRST, log_builder::open(mac(FIRST), &tun()))
}

/// The ledger with these entries, which lists steps of these guests.
fn ledger(entries: &[Entry], guests: &[u8]) -> StepsInProgress {
    let last = entries.last().unwrap();
    StepsInProgress {
        host: last.host.clone(),
        ledger: last.source.clone(),
        steps: guests.iter().map(|number| (guest(*number).uuid, None)).collect(),
    }
}

#[test]
fn an_open_just_before_the_log_ends_is_in_progress() {
    for entries in [own_opens(), libvirt_open().entries] {
        let report = report_of(&entries, 1, None);
        assert!(states(&report).iter().all(|state| *state == ("opening", "incomplete")), "{report:?}");
        assert_eq!(findings(&report), [""; 0]);
        let held = report.holdings[0].possibly_held[0];
        assert_eq!((held.from, held.until), (report.holdings[0].opened, None));
    }
}

#[test]
fn an_open_minutes_before_the_log_ends_is_unknown() {
    for entries in [own_opens(), libvirt_open().entries] {
        let report = report_of(&entries, 3, None);
        assert!(states(&report).iter().all(|state| *state == ("unknown", "incomplete")), "{report:?}");
        assert!(findings(&report).iter().all(|kind| *kind == "grant-unknown"));
        assert_eq!(findings(&report).len(), entries.len());
    }
}

#[test]
fn a_later_record_of_another_interface_makes_no_old_open_a_new_one() {
    let entries = LogBuilder::new()
        .ok(FIRST, log_builder::open(mac(FIRST), &tun()))
        .after(600)
        .ok(FIRST, log_builder::open(mac(SECOND), &tun()))
        .ok(FIRST, log_builder::attach(mac(SECOND)))
        .entries;
    let report = report_of(&entries, 1, None);
    assert_eq!(states(&report)[0].0, "never-granted");
    assert_eq!(findings(&report), ["open-without-grant"]);
}

#[test]
fn a_start_without_a_record_of_its_guests_start_is_in_progress() {
    let entries = libvirt_open().ok(FIRST, log_builder::start(mac(FIRST))).entries;
    assert_eq!(states(&report_of(&entries, 1, None)), [("opening", "incomplete")]);
    assert_eq!(states(&report_of(&entries, 3, None)), [("unknown", "incomplete")]);
}

#[test]
fn a_ledger_shows_what_is_in_progress_however_long_that_takes() {
    let entries = own_opens();
    let report = report_of(&entries, 600, Some(&ledger(&entries, &[FIRST])));
    assert_eq!(states(&report), [("opening", "definitive"); 2]);
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn what_a_ledger_does_not_list_is_not_in_progress_however_recent() {
    let entries = own_opens();
    for guests in [&[][..], &[SECOND]] {
        let report = report_of(&entries, 0, Some(&ledger(&entries, guests)));
        assert_eq!(states(&report), [("unknown", "incomplete"); 2], "{guests:?}");
        assert_eq!(findings(&report), ["grant-unknown"; 2]);
    }
}

#[test]
fn a_step_of_one_interface_says_nothing_of_another() {
    let entries = own_opens();
    let mut steps = ledger(&entries, &[FIRST]);
    steps.steps[0].1 = Some(mac(SECOND));
    assert_eq!(states(&report_of(&entries, 0, Some(&steps))), [("unknown", "incomplete"); 2]);
    steps.steps[0].1 = Some(mac(FIRST));
    assert_eq!(states(&report_of(&entries, 0, Some(&steps))), [("opening", "definitive"); 2]);
}

#[test]
fn a_ledger_that_has_it_not_decides_nothing() {
    let entries = own_opens();
    let older = StepsInProgress { ledger: "another".into(), ..ledger(&entries, &[]) };
    let others = StepsInProgress { host: "h2".into(), ..ledger(&entries, &[]) };
    for steps in [older, others] {
        assert_eq!(states(&report_of(&entries, 1, Some(&steps))), [("opening", "incomplete"); 2]);
    }
}

#[test]
fn a_ledger_decides_for_the_records_of_a_log_too() {
    let mut entries = own_opens();
    for entry in &mut entries {
        entry.copies = vec![LineRef { source: "ledger".into(), line: 1 }];
    }
    let steps = StepsInProgress { ledger: "ledger".into(), ..ledger(&entries, &[FIRST]) };
    assert_eq!(states(&report_of(&entries, 600, Some(&steps))), [("opening", "definitive"); 2]);
}

#[test]
fn a_ledger_of_ours_decides_nothing_of_another_managers_guests() {
    let entries = libvirt_open().entries;
    let report = report_of(&entries, 1, Some(&ledger(&entries, &[])));
    assert_eq!(states(&report), [("opening", "incomplete")]);
}

#[test]
fn where_records_are_lost_the_grant_may_be_among_them() {
    let gap = taptrail_trail::Gap { since: None, serials: None, why: GapReason::Backlog };
    let entries = libvirt_open().entry(Content::Gap(gap)).entries;
    assert_eq!(states(&report_of(&entries, 0, None)), [("unknown", "incomplete")]);
}

#[test]
fn what_was_granted_or_refused_is_not_in_progress() {
    let granted = libvirt_open().ok(FIRST, log_builder::attach(mac(FIRST))).entries;
    assert_eq!(report_of(&granted, 0, None).holdings[0].state, State::Held);
    let refused = libvirt_open().failed(FIRST, log_builder::attach(mac(FIRST))).entries;
    assert_eq!(report_of(&refused, 0, None).holdings[0].state, State::NeverGranted);
    let record = |number| Content::Record(Record::success(guest(number), log_builder::op_stop("shutdown")));
    let stopped = libvirt_open().entry(record(FIRST)).entries;
    assert_ne!(report_of(&stopped, 0, None).holdings[0].state, State::Opening);
}
