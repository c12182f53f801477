//! Properties that hold for any records in any order.

use proptest::prelude::*;
use taptrail_record::{
    Abend, Denial, Descriptor, Device, Event, Fragment, GuestId, KernelOpen, MacAddr, Outcome, Rdev, Reason,
    Record,
};
use uuid::Uuid;

use crate::{
    Certainty, Content, EndedBy, Entry, Finding, FindingKind, Gap, GapReason, GuestRun, Holding, Incident,
    Proof, Report, RunState, State, Trail,
};

fn event() -> impl Strategy<Value = Event> {
    let device = prop_oneof![
        (0..2_u8).prop_map(|n| Device::new("/dev/net/tun", Some(Rdev::TUN), Some(format!("vnet{n}").into()))),
        Just(Device::new("/dev/net/tun", Some(Rdev::TUN), None)),
        Just(Device::new("/dev/vhost-net", None, None)),
        Just(Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None)),
        Just(Device::new("macvtap0", None, None)),
    ];
    let queue = proptest::option::of(0..3_u32);
    let pid = proptest::option::of(Just(9_u32));
    let mac = (1..3_u8).prop_map(|n| MacAddr::kvm([0, 0, n]));
    (0..15, mac, device, queue, pid, any::<bool>()).prop_map(|(which, mac, device, queue, vm_pid, forced)| {
        match which {
            0..=3 => Event::Open { mac, device, queue },
            4..=5 => Event::Close { mac, device, queue },
            6 => Event::Keep { mac, device, queue, vm_pid },
            7 => Event::Start { mac, vm_pid, fds: None },
            8..=9 => Event::Attach { mac, vm_pid, fds: None },
            10..=11 => Event::Detach { mac, vm_pid, fds: None, forced },
            12 => Event::GuestStart { reason: Reason::BOOTED, vm_pid },
            13 => Event::GuestStart { reason: "migrated".parse().unwrap(), vm_pid },
            _ => Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid },
        }
    })
}

/// A watcher's record.
fn watched() -> impl Strategy<Value = Event> {
    let device = prop_oneof![
        (0..2_u8).prop_map(|n| Device::new("/dev/net/tun", Some(Rdev::TUN), Some(format!("vnet{n}").into()))),
        Just(Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None)),
        Just(Device::new("/dev/tap7", Some(Rdev { major: 246, minor: 1 }), Some("macvtap0".into()))),
    ];
    let mac = prop::option::weighted(0.9, (1..3_u8).prop_map(|n| MacAddr::kvm([0, 0, n])));
    (0..7, mac, device, prop::option::of(0..2_u32), 9..11_u32, 20..24_u32).prop_map(
        |(which, mac, device, queue, vm_pid, fd)| match which {
            0..=2 => Event::Seen(Descriptor { mac, device, queue, vm_pid, fd }),
            3..=5 => Event::Gone(Descriptor { mac, device, queue, vm_pid, fd }),
            _ => Event::GuestGone { vm_pid },
        },
    )
}

fn content() -> impl Strategy<Value = Content> {
    let opened = |(pid, tap): (u32, bool)| {
        let device = match tap {
            true => Device::new("/dev/tap7", Some(Rdev { major: 246, minor: 1 }), None),
            false => Device::new("/dev/net/tun", Some(Rdev::TUN), None),
        };
        let (exe, fd) = ("libvirtd".into(), Some(3));
        Content::KernelOpen(KernelOpen { pid, ppid: None, exe, device, fd, errno: None })
    };
    prop_oneof![
        6 => (7..11_u32, any::<bool>()).prop_map(opened),
        2 => (8..10_u32).prop_map(|pid| {
            Content::Abend(Abend { pid, comm: "qemu".into(), exe: "/usr/bin/qemu".into(), signal: 11 })
        }),
        2 => (8..10_u32).prop_map(|pid| {
            let device = Device::new("/dev/net/tun", None, None);
            Content::Denial(Denial { pid, comm: "qemu".into(), access: "open".into(), label: "svirt".into(), device })
        }),
        1 => Just(Content::Boot),
        1 => Just(Content::Truncated(Fragment::default())),
        1 => Just(Content::Unsent(Fragment::default())),
        1 => Just(Content::Gap(Gap { since: None, serials: Some((1, 2)), why: GapReason::Overrun })),
        1 => Just(Content::Foreign { exe: "docker".into() }),
    ]
}

/// Records of two guests by a few writers; with `others`, also other entries and a watcher's
/// records.
fn log(others: bool) -> impl Strategy<Value = Vec<Entry>> {
    let writer =
        prop::option::weighted(0.8, prop_oneof![8 => Just(7_u32), 1 => Just(8_u32), 1 => Just(9_u32)]);
    let event = match others {
        true => prop_oneof![3 => event(), 1 => watched()].boxed(),
        false => event().boxed(),
    };
    let record = (0..2_u128, event, prop::bool::weighted(0.8)).prop_map(|(number, event, done)| {
        let guest = GuestId { name: format!("g{number}").into(), uuid: Uuid::from_u128(number) };
        let outcome = if done { Outcome::Success } else { Outcome::Failed };
        Content::Record(Record {
            guest,
            event,
            outcome,
            requester: None,
            errno: None,
            last_seen: None,
            doubt: None,
        })
    });
    let content = match others {
        true => prop_oneof![4 => record, 1 => content()].boxed(),
        false => record.boxed(),
    };
    let one = (content, writer, 0..2_000_i64);
    prop::collection::vec(one, 0..80).prop_map(|all| {
        let mut millis = 0;
        let entry = |(line, (content, writer, pause))| {
            millis += pause;
            let time = jiff::Timestamp::from_millisecond(millis).unwrap();
            Entry {
                host: "h".into(),
                time,
                serial: None,
                source: "log".into(),
                line,
                writer,
                credentials: None,
                content,
                text: None,
                copies: Vec::new(),
                unauthenticated: false,
            }
        };
        (1..).zip(all).map(entry).collect()
    })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    log(false)
}

fn report_of(entries: &[Entry]) -> Report {
    let mut trail = Trail::new();
    entries.iter().for_each(|entry| trail.feed(entry));
    trail.cover(&"h".into(), LATER);
    trail.finish()
}

/// Long after the last entry.
const LATER: jiff::Timestamp = jiff::Timestamp::constant(1_000_000, 0);

/// The entries of one guest, with a process id that no other guest has.
fn of(entries: &[Entry], number: u128) -> Vec<Entry> {
    let mut of_guest = entries.to_vec();
    of_guest.retain_mut(|entry| match &mut entry.content {
        Content::Record(Record { guest, event, .. }) if guest.uuid == Uuid::from_u128(number) => {
            if let Event::GuestStart { vm_pid, .. }
            | Event::Start { vm_pid, .. }
            | Event::Attach { vm_pid, .. }
            | Event::Keep { vm_pid, .. } = event
            {
                *vm_pid = vm_pid.map(|_| 40 + u32::try_from(number).unwrap());
            }
            true
        }
        _ => false,
    });
    of_guest
}

fn opens(entries: &[Entry], outcome: Outcome) -> u32 {
    let open = |entry: &&Entry| {
        matches!(&entry.content, Content::Record(record)
            if matches!(record.event, Event::Open { .. }) && record.outcome == outcome)
    };
    u32::try_from(entries.iter().filter(open).count()).unwrap()
}

fn in_any_order(holdings: Vec<Holding>) -> Vec<String> {
    let mut all: Vec<_> = holdings.iter().map(|holding| format!("{holding:?}")).collect();
    all.sort();
    all
}

fn runs_of(entries: &[Entry]) -> (Report, Vec<GuestRun>) {
    let mut trail = Trail::with_runs();
    let mut runs = Vec::new();
    for entry in entries {
        trail.feed(entry);
        runs.extend(trail.drain_runs());
    }
    trail.cover(&"h".into(), LATER);
    let (report, rest) = trail.finish_with_runs();
    runs.extend(rest);
    (report, runs)
}

/// How many records of successes have such an event.
fn successes(entries: &[Entry], is: fn(&Event) -> bool) -> usize {
    let is_one = |entry: &&Entry| {
        matches!(&entry.content, Content::Record(record)
            if is(&record.event) && record.outcome == Outcome::Success)
    };
    entries.iter().filter(is_one).count()
}

proptest! {
    #[test]
    fn each_start_and_each_stop_is_of_exactly_one_run(entries in log(true)) {
        let (_, runs) = runs_of(&entries);
        let started = runs.iter().filter(|run| run.started.is_some()).count();
        prop_assert_eq!(started, successes(&entries, |event| matches!(event, Event::GuestStart { .. })));
        let stopped = runs.iter().filter(|run| run.end_reason == Some(Reason::SHUTDOWN)).count();
        prop_assert_eq!(stopped, successes(&entries, |event| matches!(event, Event::GuestStop { .. })));
    }

    #[test]
    fn a_runs_parts_agree_with_each_other(entries in log(true)) {
        for run in runs_of(&entries).1 {
            prop_assert_eq!(run.ended.is_some(), run.ended_by.is_some());
            prop_assert_eq!(run.state == RunState::Ended, run.ended.is_some() || run.crash.is_some());
            prop_assert_eq!(run.end_reason.is_some(), run.ended_by == Some(EndedBy::Stop));
            prop_assert!(run.ended.zip(run.started).is_none_or(|(ended, started)| ended >= started));
            prop_assert!(run.last_seen.zip(run.ended).is_none_or(|(last_seen, ended)| last_seen <= ended));
            prop_assert!(run.crash.is_none_or(|crash| run.started.is_none_or(|started| crash.time >= started)));
            prop_assert!((1..=Proof::MAX_PROOFS).contains(&run.proof.len()));
            let unseen = run.started.is_none() || run.uncertain_since.is_some() || run.last_seen.is_some();
            prop_assert!(!unseen || run.certainty == Certainty::Incomplete);
        }
    }

    #[test]
    fn runs_change_nothing_else(entries in log(true)) {
        let (with, without) = (runs_of(&entries).0, report_of(&entries));
        prop_assert_eq!(with.findings, without.findings);
        prop_assert_eq!(with.holdings, without.holdings);
    }

    // Shows 9.4.
    #[test]
    fn every_open_is_in_exactly_one_holding(entries in entries()) {
        let report = report_of(&entries);
        let queues = |failed| -> u32 {
            let opened = report.holdings.iter().filter(|holding| holding.opened.is_some());
            let of = opened.filter(|holding| (holding.state == State::OpenFailed) == failed);
            of.map(|holding| holding.queues.unwrap_or(1)).sum()
        };
        prop_assert_eq!(queues(false), opens(&entries, Outcome::Success));
        prop_assert_eq!(queues(true), opens(&entries, Outcome::Failed));
    }

    #[test]
    fn what_a_watcher_saw_takes_no_open_away(entries in log(true)) {
        let of = |failed| {
            let holdings = report_of(&entries).holdings.into_iter();
            let all = holdings.filter(move |one| one.opened.is_some() && (one.state == State::OpenFailed) == failed);
            all.map(|holding| holding.queues.unwrap_or(1)).sum::<u32>()
        };
        prop_assert!(of(false) >= opens(&entries, Outcome::Success));
        prop_assert_eq!(of(true), opens(&entries, Outcome::Failed));
    }

    #[test]
    fn a_holdings_parts_agree_with_each_other(entries in log(true)) {
        for holding in report_of(&entries).holdings {
            let held = matches!(holding.state, State::Held | State::Released);
            // A device held since before the trail begins was granted at an unknown time.
            let unknown = matches!(holding.state, State::Unknown | State::Opening) && &*holding.device.path == "?";
            prop_assert_eq!(held, holding.granted.is_some() || (holding.opened.is_none() && !unknown));
            prop_assert!(holding.queues.is_none_or(|queues| queues > 0));
            prop_assert!(holding.granted.is_none_or(|at| holding.opened.is_none_or(|opened| at >= opened)));
            prop_assert!(holding.released.is_none_or(|at| holding.granted.or(holding.opened).is_none_or(|from| at >= from)));
            prop_assert_eq!(holding.released.is_some(), holding.ended_by.is_some());
            prop_assert_eq!(holding.state == State::Released, held && holding.ended_by.is_some());
            prop_assert!((1..=Proof::MAX_PROOFS).contains(&holding.proof.len()));
            if holding.certainty == Certainty::Definitive {
                let unseen = [Some(EndedBy::Restart), Some(EndedBy::Reboot), Some(EndedBy::PidReused)];
                prop_assert!(!unseen.contains(&holding.ended_by));
            }
        }
    }

    #[test]
    fn a_finding_shows_where_it_comes_from(entries in log(true)) {
        for finding in report_of(&entries).findings {
            prop_assert!((1..=Proof::MAX_PROOFS).contains(&finding.proof.len()));
            prop_assert!(!finding.text.is_empty());
        }
    }

    #[test]
    fn every_finding_is_in_exactly_one_incident(entries in log(true)) {
        let findings = report_of(&entries).findings;
        let mut leads: Vec<&Finding> = Vec::new();
        for finding in &findings {
            let Incident { number, follows } = finding.incident;
            if !follows {
                leads.push(finding);
                continue;
            }
            let first = leads.iter().find(|first| first.incident.number == number);
            let first = *first.ok_or_else(|| TestCaseError::fail(format!("nothing leads {finding:?}")))?;
            let reboot = first.kind == FindingKind::ReleaseByReboot;
            prop_assert_eq!(&first.host, &finding.host);
            prop_assert!(reboot || first.guest == finding.guest, "{:?} {:?}", first, finding);
            let of_end = matches!(
                first.kind,
                FindingKind::NeverReleased | FindingKind::ReleaseByRestart | FindingKind::ReleaseByReboot
            );
            prop_assert!(!of_end || first.kind == finding.kind);
        }
        let mut numbers: Vec<_> = leads.iter().map(|first| first.incident.number).collect();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (1..=leads.len() as u64).collect::<Vec<_>>());
    }

    // Shows 9.4.
    #[test]
    fn stops_leave_nothing_held_and_nothing_in_memory(mut entries in log(true)) {
        let last = entries.last().map_or(jiff::Timestamp::UNIX_EPOCH, |entry| entry.time);
        // A guest can have an instance for each writer, and for each process that was seen.
        for guest in [0, 1].repeat(8) {
            let guest = GuestId { name: "g".into(), uuid: Uuid::from_u128(guest) };
            let event = Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid: None };
            let content = Content::Record(Record::success(guest, event));
            let (host, source) = ("h".into(), "log".into());
            entries.push(Entry { host, time: last, serial: None, source, line: 1000, writer: None, credentials: None, content, text: None, copies: Vec::new(), unauthenticated: false });
        }
        let mut trail = Trail::new();
        entries.iter().for_each(|entry| trail.feed(entry));
        prop_assert!(trail.is_idle());
        prop_assert!(trail.drain_ended().all(|holding| holding.state != State::Held));
        // The watcher's close records may come later.
        prop_assert!(trail.finish().holdings.iter().all(|holding| holding.state == State::Released));
    }

    #[test]
    fn draining_early_gives_the_same_report(entries in log(true)) {
        let all = report_of(&entries);
        let mut trail = Trail::new();
        let (mut holdings, mut findings) = (Vec::new(), Vec::new());
        for entry in &entries {
            trail.feed(entry);
            holdings.extend(trail.drain_ended());
            findings.extend(trail.drain_findings());
        }
        trail.cover(&"h".into(), LATER);
        let rest = trail.finish();
        holdings.extend(rest.holdings);
        findings.extend(rest.findings);
        prop_assert_eq!(findings, all.findings);
        prop_assert_eq!(in_any_order(holdings), in_any_order(all.holdings));
    }

    // Shows 10.12.
    #[test]
    fn a_log_in_two_parts_gives_the_same_report(entries in log(true), at in any::<prop::sample::Index>()) {
        let all = report_of(&entries);
        let mut trail = Trail::new();
        let (first, second) = entries.split_at(at.index(entries.len() + 1));
        first.iter().for_each(|entry| trail.feed(entry));
        let mut holdings: Vec<_> = trail.drain_ended().collect();
        second.iter().for_each(|entry| trail.feed(entry));
        trail.cover(&"h".into(), LATER);
        let rest = trail.finish();
        holdings.extend(rest.holdings);
        prop_assert_eq!(rest.findings, all.findings);
        prop_assert_eq!(in_any_order(holdings), in_any_order(all.holdings));
    }

    // Shows 10.12.
    #[test]
    fn interleaved_guests_have_the_holdings_of_each_alone(
        entries in entries(),
        order in prop::collection::vec(any::<bool>(), 80),
    ) {
        let guests = [of(&entries, 0), of(&entries, 1)];
        let mut mixed = Vec::new();
        let [mut first, mut second] = [guests[0].iter().peekable(), guests[1].iter().peekable()];
        let mut order = order.iter();
        while first.peek().is_some() || second.peek().is_some() {
            let turn = *order.next().unwrap_or(&true);
            let next = if turn { first.next().or_else(|| second.next()) } else { second.next().or_else(|| first.next()) };
            mixed.extend(next.cloned());
        }
        let mut alone = report_of(&guests[0]).holdings;
        alone.extend(report_of(&guests[1]).holdings);
        prop_assert_eq!(in_any_order(report_of(&mixed).holdings), in_any_order(alone));
    }
}
