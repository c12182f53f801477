//! Rows give back what they were made of, through Parquet.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::option::of as maybe;
use proptest::prelude::*;
use proptest::sample::select;
use taptrail_record::{
    CloseDoubt, Device, DeviceKind, Event, Fragment, GuestId, MacAddr, Rdev, Reason, Record,
};
use taptrail_trail::{
    ActorRole, Certainty, Content, Coverage, Crash, Credentials, Doubt, EndedBy, Entry, Finding, FindingKind,
    Gap, GapReason, GuestRun, Holding, Incident, LineRef, PossiblyHeld, Proof, RecordedActor, RunState, Span,
    State,
};
use uuid::Uuid;

use super::columns::micros;
use crate::{
    CoverageRow, Day, FindingRow, HeldRow, Limits, ObjectReader, ObjectWriter, RecordRow, Row, RunRow, Store,
};

/// The rows after they were written as one object and read again.
fn through_parquet<R: Row>(rows: Vec<R>) -> Vec<R> {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
    let mut writer = ObjectWriter::new().unwrap();
    rows.into_iter().for_each(|row| writer.push(row).unwrap());
    let object = writer.finish().unwrap();
    store.put_new("x.parquet", object.clone()).unwrap();
    let reader =
        ObjectReader::<R>::open(&store, "x.parquet", object.len() as u64, Limits::default()).unwrap();
    reader.rows().unwrap().collect::<Result<_, _>>().unwrap()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9./-]{0,12}", ".{0,6}", Just("\u{fffd}\n\0\"".to_owned())]
}

fn name() -> impl Strategy<Value = Arc<str>> {
    text().prop_map(Arc::from)
}

fn time() -> impl Strategy<Value = Timestamp> {
    let years = 10_000_000_000_000_000_i64;
    prop_oneof![
        Just(0),
        -1_000_000..1_000_000_i64,
        -years..years,
        Just(micros(Timestamp::MAX)),
        Just(Timestamp::MIN.as_microsecond())
    ]
    .prop_map(|micros| Timestamp::from_microsecond(micros).unwrap())
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn guest() -> impl Strategy<Value = GuestId> {
    (text(), uuid()).prop_map(|(name, uuid)| GuestId { name: name.into(), uuid })
}

fn device() -> impl Strategy<Value = Device> {
    let rdev = (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Rdev { major, minor });
    (select(&DeviceKind::ALL[..]), text(), maybe(rdev), maybe(text())).prop_map(|(kind, path, rdev, dev)| {
        Device { kind, path: path.into(), rdev, dev: dev.map(Into::into) }
    })
}

fn proofs() -> impl Strategy<Value = Vec<Proof>> {
    let line = || 0..u64::try_from(i64::MAX).unwrap();
    let copies = vec((name(), line()).prop_map(|(source, line)| LineRef { source, line }), 0..3);
    let proof = (maybe(any::<u32>()), time(), name(), line(), copies, any::<bool>()).prop_map(
        |(serial, time, source, line, copies, unauthenticated)| Proof {
            serial,
            time,
            source,
            line,
            copies,
            unauthenticated,
        },
    );
    vec(proof, 0..4)
}

fn holding() -> impl Strategy<Value = Holding> {
    let possibly = (maybe(time()), maybe(time()), select(&Doubt::ALL[..]))
        .prop_map(|(from, until, why)| PossiblyHeld { from, until, why });
    let what = (name(), guest(), any::<[u8; 6]>().prop_map(MacAddr), device(), maybe(any::<u32>()));
    let times = [maybe(time()), maybe(time()), maybe(time()), maybe(time()), maybe(time())];
    let end = (
        select(&State::ALL[..]),
        select(&Certainty::ALL[..]),
        maybe(select(&EndedBy::ALL[..])),
        maybe(select(&CloseDoubt::ALL[..])),
    );
    (what, times, end, maybe(any::<u32>()), vec(possibly, 0..3), proofs()).prop_map(
        |(what, times, end, pid, possibly_held, proof)| {
            let (host, guest, mac, device, queues) = what;
            let [opened, granted, released, last_seen, uncertain_since] = times;
            let (state, certainty, ended_by, end_doubt) = end;
            Holding {
                host,
                guest,
                mac,
                device,
                queues,
                opened,
                granted,
                released,
                last_seen,
                end_doubt,
                uncertain_since,
                possibly_held,
                state,
                ended_by,
                certainty,
                pid,
                proof,
            }
        },
    )
}

fn run() -> impl Strategy<Value = GuestRun> {
    let reason = || maybe("[a-zA-Z0-9_-]{1,20}".prop_map(|word| word.parse::<Reason>().unwrap()));
    let actor = || {
        let role = select(&ActorRole::ALL[..]);
        let id = || prop_oneof![any::<u32>(), Just(RecordedActor::UNSET)];
        maybe(
            (role, any::<u32>(), id(), id(), maybe(any::<u32>()))
                .prop_map(|(role, uid, auid, ses, pid)| RecordedActor { role, uid, auid, ses, pid }),
        )
    };
    let crash = maybe((time(), any::<u32>()).prop_map(|(time, signal)| Crash { time, signal }));
    let what = (name(), guest(), any::<u32>(), maybe(any::<u32>()));
    let times = [maybe(time()), maybe(time()), maybe(time()), maybe(time())];
    let end =
        (select(&RunState::ALL[..]), select(&Certainty::ALL[..]), maybe(select(&EndedBy::ALL[..])), crash);
    (what, times, end, (reason(), reason()), (actor(), actor()), proofs()).prop_map(
        |(what, times, end, reasons, actors, proof)| {
            let (host, guest, interfaces, pid) = what;
            let [started, ended, last_seen, uncertain_since] = times;
            let (state, certainty, ended_by, crash) = end;
            GuestRun {
                host,
                guest,
                started,
                start_reason: reasons.0,
                started_by: actors.0,
                ended,
                last_seen,
                uncertain_since,
                state,
                ended_by,
                end_reason: reasons.1,
                stopped_by: actors.1,
                crash,
                interfaces,
                pid,
                certainty,
                proof,
            }
        },
    )
}

fn finding() -> impl Strategy<Value = Finding> {
    let about = (name(), maybe(guest()), maybe(any::<[u8; 6]>().prop_map(MacAddr)), maybe(device()), time());
    let incident = (0..u64::try_from(i64::MAX).unwrap(), any::<bool>())
        .prop_map(|(number, follows)| Incident { number, follows });
    (select(FindingKind::ALL), about, text(), incident, proofs()).prop_map(
        |(kind, (host, guest, mac, device, time), text, incident, proof)| Finding {
            kind,
            host,
            guest,
            mac,
            device,
            time,
            text,
            proof,
            incident,
        },
    )
}

fn content() -> impl Strategy<Value = Content> {
    let mac = any::<[u8; 6]>().prop_map(MacAddr);
    let record = (guest(), mac.clone(), maybe(any::<u32>()), maybe(any::<u32>())).prop_map(
        |(guest, mac, vm_pid, fds)| {
            Content::Record(Record::success(guest, Event::Attach { mac, vm_pid, fds }))
        },
    );
    let cut = || {
        (maybe(text()), maybe(uuid()), maybe(mac.clone()), maybe(device()))
            .prop_map(|(name, uuid, mac, device)| Fragment { name: name.map(Into::into), uuid, mac, device })
    };
    let gap = (maybe(time()), maybe(any::<(u32, u32)>()), select(&GapReason::ALL[..]))
        .prop_map(|(since, serials, why)| Content::Gap(Gap { since, serials, why }));
    prop_oneof![
        record,
        cut().prop_map(Content::Truncated),
        cut().prop_map(Content::Missing),
        gap,
        select(&GapReason::ALL[..]).prop_map(Content::RecordingStopped),
        Just(Content::Boot),
        text().prop_map(|exe| Content::Foreign { exe: exe.into() }),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let credentials =
        maybe(any::<(u32, u32, u32)>().prop_map(|(uid, auid, ses)| Credentials { uid, auid, ses }));
    let bytes = maybe(vec(any::<u8>(), 0..9).prop_map(Arc::from));
    (name(), credentials, maybe(any::<u32>()), proofs(), content(), bytes).prop_filter_map(
        "a place",
        |(host, credentials, writer, mut proofs, content, text)| {
            let Proof { serial, time, source, line, copies, unauthenticated } = proofs.pop()?;
            Some(Entry {
                host,
                time,
                serial,
                writer,
                credentials,
                source,
                line,
                text,
                copies,
                unauthenticated,
                content,
            })
        },
    )
}

/// Ranges that do not touch, the earliest first.
fn ranges() -> impl Strategy<Value = Vec<Span>> {
    let hours = 60 * 60 * 1_000_000_i64;
    let midnight = "2026-02-27T00:00:00Z".parse::<Timestamp>().unwrap();
    let length = || prop_oneof![Just(0), Just(24 * hours), Just(1), 0..60 * hours];
    vec((length(), length()), 0..5).prop_map(move |steps| {
        let mut at = midnight;
        steps
            .into_iter()
            .map(|(apart, long)| {
                let from = at + SignedDuration::from_micros(apart);
                let until = from + SignedDuration::from_micros(long);
                at = until + SignedDuration::from_micros(1);
                Span { from, until }
            })
            .collect()
    })
}

fn coverage() -> impl Strategy<Value = Vec<Coverage>> {
    let starts = vec(time(), 0..4).prop_map(|mut starts| {
        starts.sort();
        starts
    });
    let of_host = (ranges(), ranges(), starts).prop_map(|(spans, gaps, starts)| Coverage {
        host: "".into(),
        spans,
        gaps,
        starts,
    });
    vec(of_host, 0..4).prop_map(|mut all| {
        for (number, one) in all.iter_mut().enumerate() {
            one.host = format!("host{number}").into();
        }
        all.retain(|one| !(one.spans.is_empty() && one.gaps.is_empty() && one.starts.is_empty()));
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn holdings_come_back(holdings in vec(holding(), 1..8)) {
        let rows: Vec<_> = holdings.iter().map(|holding| HeldRow::of(holding, true, false)).collect();
        let read = through_parquet(rows.clone());
        prop_assert_eq!(&read, &rows);
        let back: Option<Vec<_>> = read.into_iter().map(HeldRow::holding).collect();
        prop_assert_eq!(back, Some(holdings));
    }

    #[test]
    fn runs_come_back(runs in vec(run(), 1..8)) {
        let rows: Vec<_> = runs.iter().map(|run| RunRow::of(run, false, true)).collect();
        let read = through_parquet(rows.clone());
        prop_assert_eq!(&read, &rows);
        let back: Option<Vec<_>> = read.into_iter().map(RunRow::run).collect();
        prop_assert_eq!(back, Some(runs));
    }

    #[test]
    fn findings_come_back(findings in vec(finding(), 1..8)) {
        let read = through_parquet(findings.iter().map(FindingRow::of).collect());
        let back: Option<Vec<_>> = read.into_iter().map(FindingRow::finding).collect();
        prop_assert_eq!(back, Some(findings));
    }

    #[test]
    fn entries_come_back(entries in vec(entry(), 1..8)) {
        let rows: Vec<_> = entries.iter().zip(0..).map(|(entry, position)| RecordRow::of(entry, position)).collect();
        let read = through_parquet(rows.clone());
        prop_assert_eq!(&read, &rows);
        let back: Result<Vec<_>, _> = read.into_iter().map(RecordRow::entry).collect();
        prop_assert_eq!(back.unwrap(), entries);
    }

    #[test]
    fn coverage_comes_back_from_the_days(all in coverage()) {
        let rows: Vec<_> = all.iter().flat_map(CoverageRow::all_of).collect();
        for (day, row) in &rows {
            let (since, until) = (day.start().as_microsecond(), day.end().as_microsecond());
            prop_assert!(since <= row.since && row.since <= row.until && row.until <= until, "{day} {row:?}");
        }
        let mut read = through_parquet(rows.into_iter().map(|(_, row)| row).collect());
        read.reverse();
        prop_assert_eq!(CoverageRow::coverage(read), Some(all));
    }
}

#[test]
fn a_range_is_cut_at_each_midnight() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let span = Span { from: at("2026-02-27T23:00:00Z"), until: at("2026-03-01T00:00:00Z") };
    let coverage = Coverage { host: "h".into(), spans: vec![span], gaps: Vec::new(), starts: Vec::new() };
    let rows = CoverageRow::all_of(&coverage);
    let days: Vec<_> = rows.iter().map(|(day, row)| (day.to_string(), row.until - row.since)).collect();
    let hour = 60 * 60 * 1_000_000;
    // Its last moment is the next day's.
    let expected = [("2026-02-27", hour), ("2026-02-28", 24 * hour), ("2026-03-01", 0)];
    assert_eq!(days, expected.map(|(day, length)| (day.to_owned(), length)));
    assert_eq!(rows[1].0, Day::of(at("2026-02-28T12:00:00Z")));
}

#[test]
fn a_value_that_is_none_is_no_answer() {
    let row = || {
        let coverage = Coverage {
            host: "h".into(),
            spans: Vec::new(),
            gaps: Vec::new(),
            starts: vec![Timestamp::UNIX_EPOCH],
        };
        CoverageRow::all_of(&coverage).remove(0).1
    };
    assert!(CoverageRow::coverage(vec![CoverageRow { since: i64::MAX, ..row() }]).is_none());
    let entry = Entry {
        host: "h".into(),
        time: Timestamp::UNIX_EPOCH,
        serial: None,
        writer: None,
        credentials: None,
        source: "x".into(),
        line: 1,
        text: None,
        copies: Vec::new(),
        unauthenticated: false,
        content: Content::Boot,
    };
    let mut record = RecordRow::of(&entry, 0);
    assert_eq!(record.what, "boot");
    record.content = "{\"of-later\":{}}".to_owned();
    assert!(record.entry().unwrap_err().to_string().contains("of-later"));
    let later = CoverageRow { what: "made up".into(), ..row() };
    assert_eq!(CoverageRow::coverage(vec![later]).unwrap()[0].starts, []);
}

#[test]
fn a_holdings_key_does_not_depend_on_its_device_or_the_logs_name() {
    let at = |second: i64| Timestamp::from_second(second).unwrap();
    let proof = |time, source: &str| Proof {
        serial: Some(7),
        time,
        source: source.into(),
        line: 1,
        copies: Vec::new(),
        unauthenticated: false,
    };
    let holding = |host: &str, path: &str, source: &str| Holding {
        host: host.into(),
        guest: GuestId { name: "web1".into(), uuid: Uuid::from_u128(1) },
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        device: Device::new(path, None, None),
        queues: None,
        opened: None,
        granted: Some(at(5)),
        released: None,
        last_seen: None,
        end_doubt: None,
        uncertain_since: None,
        possibly_held: Vec::new(),
        state: State::Held,
        ended_by: None,
        certainty: Certainty::Inferred,
        pid: None,
        proof: vec![proof(at(5), source)],
    };
    let row = |host, path, source| HeldRow::of(&holding(host, path, source), false, false);
    let first = row("a", "?", "audit.log");
    // Its node was learned later, and its log was rotated.
    let (later, other) = (row("a", "/dev/tap7", "audit.log.1"), row("b", "?", "audit.log"));
    assert!(first.key() == later.key() && first.key() != other.key());
}
