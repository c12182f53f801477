//! The answers of `who` and `explain`, made of the logs of a real libvirtd.

#![allow(clippy::unwrap_used)]

mod libvirt_log;

use taptrail_report::{
    CitedSources, Explainer, Explanation, Filter, QueryRange, Records, SourceKind, Style, Subject,
};
use taptrail_trail::{Proof, QueriedTime};

use self::libvirt_log::{feed_log, lines};

const STYLE: Style = Style { width: None, color: false, utc: true, at: None };

const HOTPLUG: &str = "libvirt-9.0/06-hotplug";
const FAILED_START: &str = "libvirt-9.0/08-fail-qemu";
const SAME_MAC: &str = "libvirt-9.0/16-same-mac";
const QUOTES: &str = "libvirt-9.0/23-quote-injection";
const MACVTAP: &str = "libvirt-9.0-kernel-rules/02-macvtap";
const VHOST_QUEUES: &str = "libvirt-9.0-vhost/v2-mq2";
const PASST: &str = "libvirt-12.9/26-passt";
const NEW_LIBVIRT: &str = "libvirt-12.9/06-hotplug";

fn explanation(folder: &str, subject: &str, filter: Filter, asked: Option<QueriedTime>) -> Explanation {
    let subject: Subject = subject.parse().unwrap();
    let mut explainer = Explainer::new(Filter { subject: Some(subject), ..filter });
    let mut input = feed_log(folder, &mut explainer);
    input.asked = asked;
    explainer.finish(input)
}

fn with_evidence(folder: &str, text: impl Fn(CitedSources<'_>) -> String) -> String {
    let lines = lines(folder);
    let line = |proof: &Proof| {
        let line = lines.get(usize::try_from(proof.line).ok()? - 1)?;
        Some(String::from_utf8_lossy(line).into_owned())
    };
    text(CitedSources { line: &line, kind: &|_| SourceKind::AuditLog })
}

fn explain(folder: &str, subject: &str, style: &Style, records: Records) -> String {
    let explanation = explanation(folder, subject, Filter::default(), None);
    with_evidence(folder, |evidence| explanation.text(style, evidence, records))
}

fn who(folder: &str, subject: &str, at: Option<&str>, style: &Style, all: bool) -> String {
    let at = at.map(|at| QueryRange::at(at.parse().unwrap()));
    let filter = Filter { at, granted: true, ..Filter::default() };
    let asked = |at: QueryRange| QueriedTime {
        from: Some(at.from),
        until: Some(at.to),
        unknown_on: vec!["h2".into(), "h\u{1b}3".into()],
        no_start_on: Vec::new(),
    };
    let explanation = explanation(folder, subject, filter, at.map(asked));
    let style = Style { at, ..*style };
    with_evidence(folder, |evidence| explanation.who(&style, evidence, all, None))
}

fn of_width(columns: u16) -> Style {
    Style { width: Some(columns), ..STYLE }
}

#[test]
fn one_hit_is_told_in_full() {
    let at = Some("2026-11-23T18:53:51Z");
    insta::assert_snapshot!("who_80", who(HOTPLUG, "5254.0000.06AA", at, &of_width(80), false));
    insta::assert_snapshot!("who_140", who(HOTPLUG, "5254.0000.06AA", at, &of_width(140), false));
    insta::assert_snapshot!("who_macvtap", who(MACVTAP, "macvtap4", None, &STYLE, false));
    insta::assert_snapshot!("who_queues", who(VHOST_QUEUES, "vhost-net", None, &STYLE, false));
    let at = Some("2026-11-23T18:55:09.150Z");
    insta::assert_snapshot!(
        "who_possibly",
        who(FAILED_START, "52:54:00:00:08:01", at, &of_width(140), false)
    );
}

#[test]
fn several_hits_are_one_row_each_unless_all_is_asked_for() {
    insta::assert_snapshot!("who_table_140", who(HOTPLUG, "t6-hotplug", None, &of_width(140), false));
    insta::assert_snapshot!("who_each", who(QUOTES, "tun", None, &of_width(140), true));
    insta::assert_snapshot!("who_table_80", who(HOTPLUG, "t6-hotplug", None, &of_width(80), false));
}

#[test]
fn an_explanation_has_the_records_decoded_or_as_they_are() {
    insta::assert_snapshot!(
        "explain_80",
        explain(HOTPLUG, "52:54:00:00:06:aa", &of_width(80), Records::Decoded)
    );
    insta::assert_snapshot!("explain_140", explain(SAME_MAC, "t16-a", &of_width(140), Records::Decoded));
    insta::assert_snapshot!("explain_wide", explain(MACVTAP, "macvtap", &STYLE, Records::Decoded));
    insta::assert_snapshot!("explain_raw", explain(MACVTAP, "52:54:00:00:02:01", &STYLE, Records::Raw));
    insta::assert_snapshot!("explain_new", explain(NEW_LIBVIRT, "tun", &of_width(140), Records::Decoded));
    let colored = Style { color: true, ..of_width(60) };
    let text = explain(MACVTAP, "52:54:00:00:02:01", &colored, Records::Decoded);
    insta::assert_snapshot!("explain_color", text.replace('\x1b', "ESC"));
}

#[test]
fn nothing_found_is_no_answer_and_says_what_is_near() {
    let at = Some("2026-11-23T18:53:54Z");
    insta::assert_snapshot!("who_nothing", who(HOTPLUG, "52:54:00:00:06:aa", at, &STYLE, false));
    insta::assert_snapshot!("who_similar", who(HOTPLUG, "T6-hotplgu", None, &STYLE, true));
}

// Shows 9.6.
// Shows 10.57.
#[test]
fn an_interface_without_a_recorded_open_was_got_with_an_unknown_device() {
    insta::assert_snapshot!(who(PASST, "52:54:00:00:26:01", None, &STYLE, false));
    let during = who(PASST, "52:54:00:00:26:01", Some("2026-11-29T00:29:05Z"), &STYLE, false);
    assert!(during.starts_with("QEMU of t26-passt got 52:54:00:00:26:01"), "{during}");
    let after = who(PASST, "52:54:00:00:26:01", Some("2026-11-29T00:29:16Z"), &STYLE, false);
    assert!(!after.contains("got"), "{after}");
}

#[test]
fn statements_fit_a_terminal_of_80_columns() {
    for folder in [HOTPLUG, FAILED_START, SAME_MAC, QUOTES, MACVTAP, VHOST_QUEUES, NEW_LIBVIRT] {
        for subject in ["tun", "vhost-net", "macvtap"] {
            let text = explain(folder, subject, &of_width(80), Records::Decoded);
            // A command is not folded: it is there to be copied.
            let wide = |line: &&str| line.chars().count() > 80 && !line.contains("ausearch -if");
            assert_eq!(text.lines().find(wide), None, "{text}");
        }
    }
}
