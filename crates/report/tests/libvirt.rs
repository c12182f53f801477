//! Output made of the logs of a real libvirtd, in each format.

#![allow(clippy::unwrap_used)]

mod libvirt_log;

use taptrail_report::{DeviceFilter, Filter, Format, Sink, Style, View};

use self::libvirt_log::feed_log;

const STYLE: Style = Style { width: None, color: false, utc: true, at: None };

const HOTPLUG: &str = "libvirt-9.0/06-hotplug";
const SAME_MAC: &str = "libvirt-9.0/16-same-mac";
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
fn who_held_it_at_a_time() {
    let at = "2026-11-23T18:54:08Z".parse().ok();
    let filter = Filter { at: at.map(taptrail_report::QueryRange::at), granted: true, ..Filter::default() };
    insta::assert_snapshot!(render(HOTPLUG, View::Trail, filter, Format::Table(STYLE)));
}
