//! What was opened a moment ago, and what a supervisor has in hand: neither is said to have come to nothing.

use jiff::SignedDuration;
use taptrail_record::{Event, Record};
use taptrail_trail::{Content, Entry, GapReason, LineRef, Report, State, StepsInProgress, Trail};

use crate::scene::{self, Scene, guest, mac};
use crate::telling::{findings, open, tun, vhost};

const FIRST: u8 = 1;
const SECOND: u8 = 2;

/// What is told of an interface whose tap and vhost-net were opened, `minutes` before its log ends.
fn told(entries: &[Entry], minutes: i64, ledger: Option<&StepsInProgress>) -> Report {
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

/// The opens of one guest's interface, as a supervisor of ours tells them.
fn own() -> Vec<Entry> {
    let open = |device| match open(device, 0) {
        Event::Open { device, queue, .. } => Event::Open { mac: mac(FIRST), device, queue },
        other => other,
    };
    Scene::new().by(4711).ok(FIRST, open(tun())).ok(FIRST, open(vhost())).entries
}

fn libvirt() -> Scene {
    Scene::new().ok(FIRST, scene::open(mac(FIRST), &tun()))
}

/// The ledger that has these entries, and names these guests' steps.
fn ledger(entries: &[Entry], guests: &[u8]) -> StepsInProgress {
    let last = entries.last().unwrap();
    StepsInProgress {
        host: last.host.clone(),
        ledger: last.source.clone(),
        steps: guests.iter().map(|number| (guest(*number).uuid, None)).collect(),
    }
}

#[test]
fn what_was_opened_a_moment_before_the_log_ends_is_under_way() {
    for entries in [own(), libvirt().entries] {
        let report = told(&entries, 1, None);
        assert!(states(&report).iter().all(|state| *state == ("opening", "incomplete")), "{report:?}");
        assert_eq!(findings(&report), [""; 0]);
        let held = report.holdings[0].possibly_held[0];
        assert_eq!((held.from, held.until), (report.holdings[0].opened, None));
    }
}

#[test]
fn what_a_log_goes_on_after_for_minutes_came_to_nothing_that_is_known() {
    for entries in [own(), libvirt().entries] {
        let report = told(&entries, 3, None);
        assert!(states(&report).iter().all(|state| *state == ("unknown", "incomplete")), "{report:?}");
        assert!(findings(&report).iter().all(|kind| *kind == "grant-unknown"));
        assert_eq!(findings(&report).len(), entries.len());
    }
}

#[test]
fn another_interface_of_the_guest_that_is_told_of_later_makes_no_old_open_a_new_one() {
    let entries = Scene::new()
        .ok(FIRST, scene::open(mac(FIRST), &tun()))
        .after(600)
        .ok(FIRST, scene::open(mac(SECOND), &tun()))
        .ok(FIRST, scene::attach(mac(SECOND)))
        .entries;
    let report = told(&entries, 1, None);
    assert_eq!(states(&report)[0].0, "never-granted");
    assert_eq!(findings(&report), ["open-without-grant"]);
}

#[test]
fn a_start_that_is_told_and_whose_guest_is_not_is_under_way() {
    let entries = libvirt().ok(FIRST, scene::start(mac(FIRST))).entries;
    assert_eq!(states(&told(&entries, 1, None)), [("opening", "incomplete")]);
    assert_eq!(states(&told(&entries, 3, None)), [("unknown", "incomplete")]);
}

#[test]
fn a_ledger_knows_what_is_in_hand_however_long_that_takes() {
    let entries = own();
    let report = told(&entries, 600, Some(&ledger(&entries, &[FIRST])));
    assert_eq!(states(&report), [("opening", "definitive"); 2]);
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn what_a_ledger_does_not_have_in_hand_is_not_under_way_however_recent() {
    let entries = own();
    for guests in [&[][..], &[SECOND]] {
        let report = told(&entries, 0, Some(&ledger(&entries, guests)));
        assert_eq!(states(&report), [("unknown", "incomplete"); 2], "{guests:?}");
        assert_eq!(findings(&report), ["grant-unknown"; 2]);
    }
}

#[test]
fn a_step_of_one_interface_says_nothing_of_another() {
    let entries = own();
    let mut steps = ledger(&entries, &[FIRST]);
    steps.steps[0].1 = Some(mac(SECOND));
    assert_eq!(states(&told(&entries, 0, Some(&steps))), [("unknown", "incomplete"); 2]);
    steps.steps[0].1 = Some(mac(FIRST));
    assert_eq!(states(&told(&entries, 0, Some(&steps))), [("opening", "definitive"); 2]);
}

#[test]
fn a_ledger_that_has_it_not_decides_nothing() {
    let entries = own();
    let older = StepsInProgress { ledger: "another".into(), ..ledger(&entries, &[]) };
    let others = StepsInProgress { host: "h2".into(), ..ledger(&entries, &[]) };
    for steps in [older, others] {
        assert_eq!(states(&told(&entries, 1, Some(&steps))), [("opening", "incomplete"); 2]);
    }
}

#[test]
fn a_ledger_decides_of_what_a_log_tells_too() {
    let mut entries = own();
    for entry in &mut entries {
        entry.copies = vec![LineRef { source: "ledger".into(), line: 1 }];
    }
    let steps = StepsInProgress { ledger: "ledger".into(), ..ledger(&entries, &[FIRST]) };
    assert_eq!(states(&told(&entries, 600, Some(&steps))), [("opening", "definitive"); 2]);
}

#[test]
fn a_ledger_of_ours_decides_nothing_of_another_managers_guests() {
    let entries = libvirt().entries;
    let report = told(&entries, 1, Some(&ledger(&entries, &[])));
    assert_eq!(states(&report), [("opening", "incomplete")]);
}

#[test]
fn where_records_are_lost_the_grant_may_be_among_them() {
    let gap = taptrail_trail::Gap { since: None, serials: None, why: GapReason::Backlog };
    let entries = libvirt().tells(Content::Gap(gap)).entries;
    assert_eq!(states(&told(&entries, 0, None)), [("unknown", "incomplete")]);
}

#[test]
fn what_was_granted_or_refused_is_not_under_way() {
    let granted = libvirt().ok(FIRST, scene::attach(mac(FIRST))).entries;
    assert_eq!(told(&granted, 0, None).holdings[0].state, State::Held);
    let refused = libvirt().failed(FIRST, scene::attach(mac(FIRST))).entries;
    assert_eq!(told(&refused, 0, None).holdings[0].state, State::NeverGranted);
    let record = |number| Content::Record(Record::success(guest(number), scene::op_stop("shutdown")));
    let stopped = libvirt().tells(record(FIRST)).entries;
    assert_ne!(told(&stopped, 0, None).holdings[0].state, State::Opening);
}
