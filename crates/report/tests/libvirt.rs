//! Output made of the logs of a real libvirtd, in each format.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use taptrail_record::Line;
use taptrail_report::{
    Columns, DeviceFilter, Explainer, Filter, Format, GroupBy, Presentation, Sink, Style, Subject,
    Summarizer, TrailConsumer, View,
};
use taptrail_trail::{Content, Coverage, Entry, Input, Proof, Severity, Span, Trail};
use unicode_width::UnicodeWidthStr as _;

const STYLE: Style = Style { width: None, color: false, utc: true, at: None };

const HOTPLUG: &str = "libvirt-9.0/06-hotplug";
const SAME_MAC: &str = "libvirt-9.0/16-same-mac";
const MULTIQUEUE: &str = "libvirt-12.9/04-multiqueue";
const MACVTAP: &str = "libvirt-9.0-kernel-rules/02-macvtap";

fn lines(folder: &str) -> Vec<Vec<u8>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt");
    let log = fs::read(data.join(folder).join("audit.log")).unwrap();
    log.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// Feeds a folder's log to `to`, line by line.
fn feed_log(folder: &str, to: &mut impl TrailConsumer) -> Input {
    feed_logs(&[("h1", folder)], to)
}

/// The same for the logs of several hosts, one after another.
fn feed_logs(logs: &[(&str, &str)], to: &mut impl TrailConsumer) -> Input {
    let mut trail = Trail::new();
    let mut input = Input {
        files: vec![taptrail_trail::InputFile { path: "audit.log".into(), ..Default::default() }],
        ..Input::default()
    };
    let lines = logs.iter().flat_map(|(host, folder)| (1..).zip(lines(folder)).map(|line| (*host, line)));
    for (host, (number, bytes)) in lines {
        if bytes.is_empty() {
            continue;
        }
        input.lines += 1;
        input.bytes += bytes.len() as u64 + 1;
        let line = Line::parse(&bytes).unwrap();
        let Some(record) = line.record().unwrap() else { continue };
        let millis = line.stamp.seconds * 1000 + u64::from(line.stamp.millis);
        let time = Timestamp::from_millisecond(i64::try_from(millis).unwrap()).unwrap();
        match input.coverage.last_mut().filter(|of| *of.host == *host) {
            Some(of) => of.spans[0].until = time,
            None => {
                let spans = vec![Span { from: time, until: time }];
                input.coverage.push(Coverage { host: host.into(), spans, gaps: vec![], starts: vec![] });
            }
        }
        trail.feed(&Entry {
            host: host.into(),
            time,
            serial: Some(line.stamp.serial),
            writer: line.pid,
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

/// What a terminal of some width shows.
fn table_at(width: u16, logs: &[(&str, &str)], columns: Columns) -> String {
    let mut out = Vec::new();
    let style = Style { width: Some(width), ..STYLE };
    let sink = Sink::new(View::Trail, Filter::default(), Format::Table(style), &mut out).unwrap();
    let mut sink = sink.with_presentation(Presentation::Rows(columns));
    let input = feed_logs(logs, &mut sink);
    sink.finish(input).unwrap();
    drop(sink);
    let text = String::from_utf8(out).unwrap();
    // Findings are shown by other tests.
    let end = text.find("\nFindings\n").unwrap_or(text.len());
    let table = text[..end].to_owned();
    let wide = |line: &&str| line.chars().count() > usize::from(width);
    assert_eq!(table.lines().find(wide), None, "{table}");
    table
}

#[test]
fn terminals_of_four_widths() {
    let folders = [HOTPLUG, SAME_MAC, "libvirt-9.0/08-fail-qemu", "libvirt-9.0/17-names", MULTIQUEUE];
    for width in [80, 100, 140, 200] {
        let tables = folders.map(|folder| table_at(width, &[("h1", folder)], Columns::Sessions));
        insta::assert_snapshot!(format!("sessions_at_{width}_columns"), tables.join("----\n"));
        let devices = [HOTPLUG, MACVTAP].map(|folder| table_at(width, &[("h1", folder)], Columns::Devices));
        insta::assert_snapshot!(format!("devices_at_{width}_columns"), devices.join("----\n"));
    }
}

/// The folders of libvirt's logs as the logs of as many hosts.
const HOSTS: [(&str, &str); 20] = [
    ("kvm01.example.org", "libvirt-9.0/01-bridge-tap"),
    ("kvm02.example.org", "libvirt-9.0/02-macvtap"),
    ("kvm03.example.org", "libvirt-9.0/02b-macvtap-fail"),
    ("kvm04.example.org", "libvirt-9.0/03-ethernet"),
    ("kvm05.example.org", "libvirt-9.0/04-multiqueue"),
    ("kvm06.example.org", "libvirt-9.0/05-two-nics-model"),
    ("kvm07.example.org", HOTPLUG),
    ("kvm08.example.org", "libvirt-9.0/06b-detach-noguest"),
    ("kvm09.example.org", "libvirt-9.0/07-fail-nwfilter"),
    ("kvm10.example.org", "libvirt-9.0/08-fail-qemu"),
    ("kvm11.example.org", "libvirt-9.0/09-vhost-absent"),
    ("kvm12.example.org", "libvirt-9.0/11-kill9"),
    ("kvm13.example.org", "libvirt-9.0/12-shutdown"),
    ("kvm14.example.org", "libvirt-9.0/13-save-restore"),
    ("kvm15.example.org", "libvirt-9.0/14-daemon-restart"),
    ("kvm16.example.org", "libvirt-9.0/15-update-bridge"),
    ("kvm17.example.org", SAME_MAC),
    ("kvm18.example.org", "libvirt-9.0/17-names"),
    ("kvm19.example.org", "libvirt-9.0/19-rename-redefine"),
    ("kvm20.example.org", "libvirt-9.0/23-quote-injection"),
];

#[test]
fn twenty_hosts() {
    for width in [80, 140] {
        let table = table_at(width, &HOSTS, Columns::Sessions);
        insta::assert_snapshot!(format!("twenty_hosts_at_{width}_columns"), table);
    }
}

#[test]
fn a_timeline() {
    for (number, log) in [("h1", HOTPLUG), ("h2", SAME_MAC)].into_iter().enumerate() {
        let mut out = Vec::new();
        let style = Style { width: Some(80), ..STYLE };
        let sink = Sink::new(View::Trail, Filter::default(), Format::Table(style), &mut out).unwrap();
        let mut sink = sink.with_presentation(Presentation::Timeline { ascii: number == 1 });
        let input = feed_logs(&[log], &mut sink);
        sink.finish(input).unwrap();
        drop(sink);
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }
}

#[test]
fn columns_that_are_named_are_shown_whole() {
    let mut out = Vec::new();
    let style = Style { width: Some(80), ..STYLE };
    let sink = Sink::new(View::Trail, Filter::default(), Format::Table(style), &mut out).unwrap();
    let mut sink =
        sink.with_presentation(Presentation::Rows("mac,uuid,path,rdev,state,from,proof".parse().unwrap()));
    let input = feed_log(MACVTAP, &mut sink);
    sink.finish(input).unwrap();
    drop(sink);
    let text = String::from_utf8(out).unwrap();
    insta::assert_snapshot!(text.split("\nFindings\n").next().unwrap());
}

#[test]
fn summaries() {
    for (width, logs, by) in [
        (None, &HOSTS[6..7], None),
        (None, &HOSTS[..], Some(GroupBy::Host)),
        (Some(80), &HOSTS[..], Some(GroupBy::Guest)),
        (None, &HOSTS[..], Some(GroupBy::Day)),
        (Some(80), &HOSTS[5..9], Some(GroupBy::Device)),
    ] {
        let mut summarizer = Summarizer::new(Filter::default());
        let input = feed_logs(logs, &mut summarizer);
        let style = Style { width, ..STYLE };
        let summary = summarizer.finish(input, by, &style);
        insta::assert_snapshot!(summary.text(&style));
    }
}

#[test]
fn a_summary_for_programs() {
    let mut summarizer = Summarizer::new(Filter::default());
    let input = feed_log(HOTPLUG, &mut summarizer);
    let summary = summarizer.finish(input, Some(GroupBy::Guest), &STYLE);
    insta::assert_snapshot!(taptrail_report::json(&summary).unwrap());
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

/// Findings at the widths of usual terminals.
fn findings_at_each_width(folder: &str, view: View) -> String {
    let at = |width| {
        let style = Style { width: Some(width), ..STYLE };
        format!("{width} columns\n\n{}", render(folder, view, Filter::default(), Format::Table(style)))
    };
    [80, 100, 140].map(at).join("\n")
}

#[test]
fn findings_by_kind() {
    for folder in [HOTPLUG, "libvirt-9.0/08-fail-qemu", "libvirt-9.0/09-vhost-absent", "libvirt-9.0/17-names"]
    {
        insta::assert_snapshot!(findings_at_each_width(folder, View::Findings));
    }
}

#[test]
fn findings_one_by_one() {
    for folder in ["libvirt-9.0/08-fail-qemu", "libvirt-9.0/17-names"] {
        insta::assert_snapshot!(findings_at_each_width(folder, View::EachFinding));
    }
}

#[test]
fn findings_fit_the_terminal() {
    for name in ["02b-macvtap-fail", "03-ethernet", "07-fail-nwfilter", "14-daemon-restart", "17-names"] {
        for view in [View::Findings, View::EachFinding] {
            for width in 75..150_u16 {
                let style = Style { width: Some(width), ..STYLE };
                let text =
                    render(&format!("libvirt-9.0/{name}"), view, Filter::default(), Format::Table(style));
                for line in text.lines().take_while(|line| !line.contains("read")) {
                    assert!(line.width() <= usize::from(width), "{width}: {line}");
                }
            }
        }
    }
}

#[test]
fn findings_of_a_severity() {
    let of = |severity| {
        let filter = Filter { severity: Some(severity), ..Filter::default() };
        let text = render("libvirt-9.0/07-fail-nwfilter", View::Findings, filter, Format::Jsonl);
        text.lines().filter(|line| line.starts_with(r#"{"finding""#)).count()
    };
    assert_eq!(Severity::ALL.map(of), [10, 9, 0]);
}
