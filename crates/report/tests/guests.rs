//! The runs and the events of guests in the logs of a real libvirtd, in each format.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;
use taptrail_record::{Abend, Denial, Device, Event, Line, Rdev, Requester, parse_resource};
use taptrail_report::{EventSink, Filter, Format, QueryRange, RunSink, Schema, Style, TrailConsumer};
use taptrail_trail::{Content, Coverage, Credentials, Entry, Gap, GapReason, Input, Span, Trail};

const STYLE: Style = Style { width: None, color: false, utc: true, at: None };
const NARROW: Style = Style { width: Some(80), ..STYLE };

const SAVED: &str = "libvirt-9.0/13-save-restore";
const KILLED_UNSEEN: &str = "libvirt-9.0-vhost-plug/06-killed-unseen";
const NAMES: &str = "libvirt-9.0/17-names";
const KILLED: &str = "libvirt-9.0/11-kill9";

fn entries(folder: &str, host: &str) -> Vec<Entry> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt");
    let log = fs::read(data.join(folder).join("audit.log")).unwrap();
    let entry = |(number, bytes): (u64, &[u8])| {
        let line = Line::parse(bytes).ok()?;
        let resource = || parse_resource(line.record_type?, line.text?).unwrap().map(Content::Resource);
        let content = line.record().unwrap().map(Content::Record).or_else(resource)?;
        let millis = line.stamp.seconds * 1000 + u64::from(line.stamp.millis);
        Some(Entry {
            host: host.into(),
            time: Timestamp::from_millisecond(i64::try_from(millis).unwrap()).unwrap(),
            serial: Some(line.stamp.serial),
            writer: line.pid,
            credentials: Some(Credentials { uid: line.uid?, auid: line.auid?, ses: line.ses? }),
            source: "audit.log".into(),
            line: number,
            content,
            text: None,
            copies: Vec::new(),
            unauthenticated: false,
        })
    };
    (1..).zip(log.split(|byte| *byte == b'\n')).filter_map(entry).collect()
}

/// Feeds entries to `to`.
fn feed(entries: &[Entry], to: &mut impl TrailConsumer) -> Input {
    let mut trail = Trail::with_runs();
    for entry in entries {
        to.entry(entry).unwrap();
        trail.feed(entry);
        trail.drain_findings().for_each(|finding| to.finding(finding).unwrap());
        trail.drain_runs().for_each(|run| to.run(run).unwrap());
    }
    let (rest, runs) = trail.finish_with_runs();
    rest.findings.into_iter().for_each(|finding| to.finding(finding).unwrap());
    runs.into_iter().for_each(|run| to.run(run).unwrap());
    let last = entries.last().unwrap();
    let spans = vec![Span { from: entries[0].time, until: last.time }];
    let coverage = vec![Coverage { host: last.host.clone(), spans, gaps: Vec::new(), starts: Vec::new() }];
    Input { records: rest.input.records, coverage, ..Input::default() }
}

fn runs(entries: &[Entry], filter: Filter, format: Format) -> String {
    let mut out = Vec::new();
    let mut sink = RunSink::new(filter, format, &mut out).unwrap();
    let input = feed(entries, &mut sink);
    sink.finish(&input).unwrap();
    drop(sink);
    String::from_utf8(out).unwrap().replace("\r\n", "\n")
}

fn events(entries: &[Entry], format: Format) -> String {
    let mut out = Vec::new();
    let mut sink = EventSink::new(Filter::default(), format, &mut out).unwrap();
    let input = feed(entries, &mut sink);
    sink.finish(&input).unwrap();
    drop(sink);
    String::from_utf8(out).unwrap().replace("\r\n", "\n")
}

/// A log in which the kernel recorded the fatal signal of the guest's QEMU.
fn crashed() -> Vec<Entry> {
    let mut entries = entries(KILLED, "h1");
    let stop = entries.pop().unwrap();
    let (comm, exe) = ("CPU 0/KVM".into(), "/usr/bin/qemu-system-x86_64".into());
    let content = Content::Abend(Abend { pid: 29269, comm, exe, signal: 11 });
    let time = stop.time - jiff::SignedDuration::from_secs(2);
    entries.push(Entry { content, time, serial: None, writer: None, credentials: None, ..stop.clone() });
    entries.push(stop);
    entries
}

#[test]
fn tables_of_runs() {
    for folder in [SAVED, KILLED_UNSEEN] {
        insta::assert_snapshot!(runs(&entries(folder, "h1"), Filter::default(), Format::Table(STYLE)));
    }
    for folder in [SAVED, NAMES] {
        insta::assert_snapshot!(runs(&entries(folder, "h1"), Filter::default(), Format::Table(NARROW)));
    }
    insta::assert_snapshot!(runs(&crashed(), Filter::default(), Format::Table(STYLE)));
    insta::assert_snapshot!(runs(&two_hosts(), Filter::default(), Format::Table(STYLE)));
    let none = Filter { host: Some("h3".to_owned()), ..Filter::default() };
    insta::assert_snapshot!(runs(&two_hosts(), none, Format::Table(STYLE)));
}

/// Two hosts, one with a gap; and a guest whose end no record has.
fn two_hosts() -> Vec<Entry> {
    let mut both = entries(SAVED, "h1");
    let started = both.iter().position(|entry| {
        matches!(&entry.content, Content::Record(record) if matches!(record.event, Event::GuestStart { .. }))
    });
    let content = Content::Gap(Gap { since: None, serials: None, why: GapReason::Backlog });
    let started = started.unwrap();
    both.insert(started + 1, Entry { content, ..both[started].clone() });
    both.extend(entries(KILLED_UNSEEN, "h2"));
    let last = both.last().unwrap().clone();
    both.push(Entry {
        content: Content::Boot,
        time: last.time + jiff::SignedDuration::from_mins(90),
        ..last
    });
    both
}

#[test]
fn other_formats_of_runs() {
    let log = crashed();
    for format in [Format::Json, Format::Jsonl, Format::Csv] {
        insta::assert_snapshot!(runs(&log, Filter::default(), format));
    }
}

#[test]
fn runs_are_selected_by_their_time() {
    let log = entries(SAVED, "h1");
    let count = |filter: Filter| runs(&log, filter, Format::Csv).lines().count() - 1;
    let time = |second: u32| format!("2026-11-23T18:57:{second:02}Z").parse().ok();
    // Runs from 6.7 to 11.3, from 12.6 to 16.4 and from 17.9 to 21.3.
    let at = |second| count(Filter { at: time(second).map(QueryRange::at), ..Filter::default() });
    assert_eq!([6, 7, 11, 12, 13, 17, 18, 22].map(at), [0, 1, 1, 0, 1, 0, 1, 0]);
    assert_eq!(count(Filter { start: time(12), ..Filter::default() }), 2);
    assert_eq!(count(Filter { end: time(12), ..Filter::default() }), 1);
    assert_eq!(count(Filter { start: time(17), end: time(17), ..Filter::default() }), 0);
}

#[test]
fn events_of_all_resources() {
    let log = crashed();
    insta::assert_snapshot!(events(&log, Format::Table(STYLE)));
    insta::assert_snapshot!(events(&log, Format::Table(NARROW)));
    for format in [Format::Jsonl, Format::Csv] {
        insta::assert_snapshot!(events(&log, format));
    }
}

fn assert_valid(schema: &str, text: &str) -> Value {
    let schema = Schema::named(schema).unwrap().standalone().unwrap();
    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
    let value: Value = serde_json::from_str(text).unwrap();
    let faults: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
    assert!(faults.is_empty(), "{faults:#?} in {value:#}");
    value
}

/// A log that does not begin with its guest's start, from a source that any user can write to.
fn without_start() -> Vec<Entry> {
    let mut log = entries(KILLED, "h1");
    let start = log.iter().position(|entry| {
        matches!(&entry.content, Content::Record(record) if matches!(record.event, Event::GuestStart { .. }))
    });
    log.drain(..=start.unwrap());
    for entry in &mut log {
        (entry.serial, entry.credentials, entry.unauthenticated) = (None, None, true);
    }
    log
}

/// A log in which a guest runs to the end, and the kernel refused an access of a process of no guest.
fn running() -> Vec<Entry> {
    let mut log = entries(KILLED, "h1");
    let stop = log.pop().unwrap();
    let device = Device::new("/dev/net/tun", Some(Rdev::TUN), None);
    let (comm, access, label) = ("qemu".into(), "open".into(), "svirt_t".into());
    let content = Content::Denial(Denial { pid: 7, comm, access, label, device });
    log.push(Entry { content, writer: None, credentials: None, ..stop });
    log
}

/// A log whose records name the client, as taptrail's.
fn with_requester() -> Vec<Entry> {
    let mut log = entries(KILLED, "h1");
    for entry in &mut log {
        if let Content::Record(record) = &mut entry.content {
            record.requester = Some(Requester { uid: 1000, auid: 1000, pid: 7 });
        }
    }
    log
}

#[test]
fn runs_and_events_are_as_their_schemas_say_and_each_field_is_once_there_and_once_null() {
    // By field of a run or event: whether it was null, and whether it was anything else.
    let mut seen: BTreeMap<String, [bool; 2]> = BTreeMap::new();
    for log in [crashed(), running(), two_hosts(), without_start(), with_requester(), entries(NAMES, "h1")] {
        for (schema, list, text) in [
            ("guests", "runs", runs(&log, Filter::default(), Format::Json)),
            ("guest-events", "events", events(&log, Format::Json)),
        ] {
            let answer = assert_valid(schema, &text);
            let fields = answer[list].as_array().unwrap().iter().flat_map(|one| one.as_object().unwrap());
            for (name, value) in fields {
                seen.entry(format!("{schema} {name}")).or_default()[usize::from(!value.is_null())] = true;
            }
        }
        for lines in [runs(&log, Filter::default(), Format::Jsonl), events(&log, Format::Jsonl)] {
            lines.lines().for_each(|line| drop(assert_valid("guests-lines", line)));
        }
    }
    for (schema, definition) in [("guests", "run"), ("guest-events", "guest-event")] {
        let whole = Schema::named(schema).unwrap().standalone().unwrap();
        for (name, field) in whole["$defs"][definition]["properties"].as_object().unwrap() {
            let target = field["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/"));
            let types = &target.map_or(field, |target| &whole["$defs"][target])["type"];
            let or_null = field["anyOf"].is_array() || types.is_array();
            let place = format!("{schema} {name}");
            assert_eq!(seen.get(&place), Some(&[or_null, true]), "{place}");
        }
    }
}
