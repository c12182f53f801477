//! Output made of the logs of a real libvirtd, in each format.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use taptrail_record::Line;
use taptrail_report::{DeviceFilter, Explainer, Filter, Format, Sink, Style, Subject, TrailConsumer, View};
use taptrail_trail::{Content, Entry, Input, Proof, Trail};

const STYLE: Style = Style { width: None, color: false, utc: true, at: None };

const HOTPLUG: &str = "libvirt-9.0/06-hotplug";
const SAME_MAC: &str = "libvirt-9.0/16-same-mac";
const MACVTAP: &str = "libvirt-9.0-kernel-rules/02-macvtap";

fn lines(folder: &str) -> Vec<Vec<u8>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt");
    let log = fs::read(data.join(folder).join("audit.log")).unwrap();
    log.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// Feeds a folder's log to `to`, line by line.
fn feed_log(folder: &str, to: &mut impl TrailConsumer) -> Input {
    let mut trail = Trail::new();
    let mut input = Input {
        files: vec![taptrail_trail::InputFile { path: "audit.log".into(), ..Default::default() }],
        ..Input::default()
    };
    for (number, bytes) in (1..).zip(lines(folder)) {
        if bytes.is_empty() {
            continue;
        }
        input.lines += 1;
        input.bytes += bytes.len() as u64 + 1;
        let line = Line::parse(&bytes).unwrap();
        let Some(record) = line.record().unwrap() else { continue };
        let millis = line.stamp.seconds * 1000 + u64::from(line.stamp.millis);
        trail.feed(&Entry {
            host: "h1".into(),
            time: Timestamp::from_millisecond(i64::try_from(millis).unwrap()).unwrap(),
            serial: Some(line.stamp.serial),
            writer: line.pid,
            credentials: None,
            source: "audit.log".into(),
            line: number,
            content: Content::Record(record),
            copies: Vec::new(),
            unauthenticated: false,
        });
        trail.drain_ended().for_each(|holding| to.holding(holding).unwrap());
        trail.drain_findings().for_each(|finding| to.finding(finding).unwrap());
    }
    let rest = trail.finish();
    rest.holdings.into_iter().for_each(|holding| to.holding(holding).unwrap());
    rest.findings.into_iter().for_each(|finding| to.finding(finding).unwrap());
    Input { records: rest.input.records, ..input }
}

fn render(folder: &str, view: View, filter: Filter, format: Format) -> String {
    let mut out = Vec::new();
    let mut sink = Sink::new(view, filter, format, &mut out).unwrap();
    let input = feed_log(folder, &mut sink);
    sink.finish(input).unwrap();
    drop(sink);
    String::from_utf8(out).unwrap()
}

fn explanation(folder: &str, subject: &str, style: &Style) -> String {
    let subject: Subject = subject.parse().unwrap();
    let mut explainer = Explainer::new(subject.narrow(Filter::default()));
    let input = feed_log(folder, &mut explainer);
    let lines = lines(folder);
    let line = |proof: &Proof| {
        let line = lines.get(usize::try_from(proof.line).ok()? - 1)?;
        Some(String::from_utf8_lossy(line).into_owned())
    };
    explainer.finish(input).text(style, &line)
}

#[test]
fn tables() {
    for folder in [HOTPLUG, SAME_MAC, MACVTAP] {
        insta::assert_snapshot!(render(folder, View::Trail, Filter::default(), Format::Table(STYLE)));
    }
    let narrow = Style { width: Some(80), ..STYLE };
    insta::assert_snapshot!(render(MACVTAP, View::Trail, Filter::default(), Format::Table(narrow)));
    insta::assert_snapshot!(render(MACVTAP, View::Findings, Filter::default(), Format::Table(STYLE)));
}

#[test]
fn json() {
    let macvtaps: DeviceFilter = "macvtap".parse().unwrap();
    let macvtaps = Filter { device: Some(macvtaps), ..Filter::default() };
    insta::assert_snapshot!(render(HOTPLUG, View::Trail, macvtaps, Format::Json));
    let other = Filter { guests: vec!["t16-b".parse().unwrap()], ..Filter::default() };
    insta::assert_snapshot!(render(SAME_MAC, View::Trail, other, Format::Json));
    insta::assert_snapshot!(render(MACVTAP, View::Trail, Filter::default(), Format::Json));
    insta::assert_snapshot!(render(MACVTAP, View::Findings, Filter::default(), Format::Json));
}

#[test]
fn lines_of_json() {
    insta::assert_snapshot!(render(MACVTAP, View::Trail, Filter::default(), Format::Jsonl));
}

#[test]
fn csv() {
    // Snapshots have LF line ends.
    let plain = |text: String| text.replace("\r\n", "\n");
    for folder in [HOTPLUG, SAME_MAC, MACVTAP] {
        insta::assert_snapshot!(plain(render(folder, View::Trail, Filter::default(), Format::Csv)));
    }
    insta::assert_snapshot!(plain(render(SAME_MAC, View::Findings, Filter::default(), Format::Csv)));
}

#[test]
fn explanations() {
    insta::assert_snapshot!(explanation(HOTPLUG, "52:54:00:00:06:aa", &STYLE));
    insta::assert_snapshot!(explanation(SAME_MAC, "t16-a", &STYLE));
    insta::assert_snapshot!(explanation(MACVTAP, "f7049c40-f525-4286-8d21-759822fa6d5d", &STYLE));
    let narrow = Style { width: Some(60), color: true, ..STYLE };
    let text = explanation(MACVTAP, "52:54:00:00:02:01", &narrow);
    insta::assert_snapshot!(text.replace('\x1b', "ESC"));
}

#[test]
fn who_held_it_at_a_time() {
    let at = "2026-11-23T18:54:08Z".parse().ok();
    let filter = Filter { at: at.map(taptrail_report::QueryRange::at), granted: true, ..Filter::default() };
    insta::assert_snapshot!(render(HOTPLUG, View::Trail, filter, Format::Table(STYLE)));
}
