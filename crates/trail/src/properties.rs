//! What holds for any records in any order.

use proptest::prelude::*;
use taptrail_record::{Device, Event, GuestId, MacAddr, Outcome, Rdev, Reason, Record};
use uuid::Uuid;

use crate::{Certainty, Content, EndedBy, Entry, Proof, Report, State, Trail};

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
    (0..14, mac, device, queue, pid, any::<bool>()).prop_map(|(which, mac, device, queue, vm_pid, forced)| {
        match which {
            0..=3 => Event::Open { mac, device, queue },
            4..=5 => Event::Close { mac, device, queue },
            6 => Event::Keep { mac, device, queue, vm_pid },
            7 => Event::Start { mac, vm_pid, fds: None },
            8..=9 => Event::Attach { mac, vm_pid, fds: None },
            10..=11 => Event::Detach { mac, vm_pid, fds: None, forced },
            12 => Event::GuestStart { reason: Reason::BOOTED, vm_pid },
            _ => Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid },
        }
    })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (0..2_u128, event(), prop::bool::weighted(0.8), 0..2_000_i64);
    prop::collection::vec(one, 0..80).prop_map(|all| {
        let mut millis = 0;
        let entry = |(line, (guest, event, done, pause))| {
            millis += pause;
            let guest = GuestId { name: format!("g{guest}").into(), uuid: Uuid::from_u128(guest) };
            let outcome = if done { Outcome::Success } else { Outcome::Failed };
            Entry {
                host: "h".into(),
                time: jiff::Timestamp::from_millisecond(millis).unwrap(),
                serial: None,
                source: "log".into(),
                line,
                writer: None,
                content: Content::Record(Record { guest, event, outcome, requester: None, errno: None }),
            }
        };
        (1..).zip(all).map(entry).collect()
    })
}

fn tell(entries: &[Entry]) -> Report {
    let mut trail = Trail::new();
    entries.iter().for_each(|entry| trail.feed(entry));
    trail.finish()
}

fn opens(entries: &[Entry], outcome: Outcome) -> u32 {
    let open = |entry: &&Entry| {
        matches!(&entry.content, Content::Record(record)
            if matches!(record.event, Event::Open { .. }) && record.outcome == outcome)
    };
    u32::try_from(entries.iter().filter(open).count()).unwrap()
}

proptest! {
    #[test]
    fn every_open_is_in_exactly_one_holding(entries in entries()) {
        let report = tell(&entries);
        let queues = |failed| -> u32 {
            let of = report.holdings.iter().filter(|holding| (holding.state == State::OpenFailed) == failed);
            of.map(|holding| holding.queues).sum()
        };
        prop_assert_eq!(queues(false), opens(&entries, Outcome::Success));
        prop_assert_eq!(queues(true), opens(&entries, Outcome::Failed));
    }

    #[test]
    fn a_holdings_parts_agree_with_each_other(entries in entries()) {
        for holding in tell(&entries).holdings {
            let granted = holding.granted.is_some();
            prop_assert_eq!(granted, matches!(holding.state, State::Held | State::Released));
            prop_assert!(holding.granted.is_none_or(|at| holding.opened.is_none_or(|opened| at >= opened)));
            prop_assert!(holding.released.is_none_or(|at| holding.granted.or(holding.opened).is_none_or(|from| at >= from)));
            prop_assert_eq!(holding.released.is_some(), holding.ended_by.is_some());
            prop_assert_eq!(holding.state == State::Released, granted && holding.ended_by.is_some());
            prop_assert!((1..=Proof::KEPT).contains(&holding.proof.len()));
            if holding.certainty == Certainty::Definitive {
                let unseen = [Some(EndedBy::Restart), Some(EndedBy::Reboot)];
                prop_assert!(!unseen.contains(&holding.ended_by));
            }
        }
    }

    #[test]
    fn a_stop_leaves_nothing_held_and_nothing_in_memory(mut entries in entries()) {
        let last = entries.last().map_or(jiff::Timestamp::UNIX_EPOCH, |entry| entry.time);
        for guest in 0..2 {
            let guest = GuestId { name: "g".into(), uuid: Uuid::from_u128(guest) };
            let event = Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid: None };
            let record = Record::success(guest, event);
            let source = "log".into();
            entries.push(Entry { host: "h".into(), time: last, serial: None, source, line: 1000, writer: None, content: Content::Record(record) });
        }
        let mut trail = Trail::new();
        entries.iter().for_each(|entry| trail.feed(entry));
        prop_assert!(trail.is_idle());
        prop_assert!(trail.drain_ended().all(|holding| holding.state != State::Held));
        prop_assert_eq!(trail.finish().holdings, []);
    }

    #[test]
    fn fetching_early_tells_the_same(entries in entries()) {
        let whole = tell(&entries);
        let mut trail = Trail::new();
        let (mut holdings, mut findings) = (Vec::new(), Vec::new());
        for entry in &entries {
            trail.feed(entry);
            holdings.extend(trail.drain_ended());
            findings.extend(trail.drain_findings());
        }
        let rest = trail.finish();
        holdings.extend(rest.holdings);
        findings.extend(rest.findings);
        holdings.sort_by_key(|holding| (holding.opened, holding.proof[0].line));
        prop_assert_eq!(findings, whole.findings);
        prop_assert_eq!(holdings.len(), whole.holdings.len());
    }
}
