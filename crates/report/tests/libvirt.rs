//! Output made of the logs of a real libvirtd, in each format.

#![allow(clippy::unwrap_used)]

mod libvirt_log;

use taptrail_report::{
    Columns, DeviceFilter, Evidence, FileEvidence, Filter, Format, GroupBy, Hash, Presentation, Selected,
    Sink, Style, Summarizer, View, write_perfetto, write_svg,
};
use taptrail_trail::Severity;
use unicode_width::UnicodeWidthStr as _;

use self::libvirt_log::{feed_log, feed_logs};

const STYLE: Style = Style { width: None, color: false, utc: true, at: None };

const HOTPLUG: &str = "libvirt-9.0/06-hotplug";
const SAME_MAC: &str = "libvirt-9.0/16-same-mac";
const MULTIQUEUE: &str = "libvirt-12.9/04-multiqueue";
const MACVTAP: &str = "libvirt-9.0-kernel-rules/02-macvtap";

fn render(folder: &str, view: View, filter: Filter, format: Format) -> String {
    let mut out = Vec::new();
    let mut sink = Sink::new(view, filter, format, &mut out).unwrap();
    let input = feed_log(folder, &mut sink);
    sink.finish(input).unwrap();
    drop(sink);
    String::from_utf8(out).unwrap()
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
fn pictures() {
    let evidence = Evidence {
        program: "taptrail 0.1.0".to_owned(),
        command: ["taptrail", "report", "-o", "out", "audit.log"].map(str::to_owned).into(),
        generated: "2026-11-29T12:00:00Z".parse().unwrap(),
        files: vec![FileEvidence { path: "audit.log".to_owned(), hash: Hash::None("no hash".to_owned()) }],
        warnings: Vec::new(),
    };
    let trail = |folder, filter| {
        let mut selected = Selected::new(filter);
        let input = feed_log(folder, &mut selected);
        selected.finish(input)
    };
    let mac = Filter { mac: "52:54:00:00:06:aa".parse().ok(), ..Filter::default() };
    let mut trace = Vec::new();
    write_perfetto(&trail(HOTPLUG, mac), &evidence, &mut trace).unwrap();
    insta::assert_snapshot!(String::from_utf8(trace).unwrap());
    for folder in [HOTPLUG, SAME_MAC] {
        let mut figure = Vec::new();
        write_svg(&trail(folder, Filter::default()), &evidence, &STYLE, &mut figure).unwrap();
        insta::assert_snapshot!(String::from_utf8(figure).unwrap());
    }
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
