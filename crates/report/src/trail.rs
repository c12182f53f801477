use std::fmt::Write as _;

use taptrail_trail::{Proof, Report, State};

use crate::bridge_taps;
use crate::findings::{count_incidents, each_table, findings_block, has_marks};
use crate::fold::fold;
use crate::sessions::sessions;
use crate::span::{Holds, holds_within_coverage};
use crate::style::TimeFormat;
use crate::unauthenticated::UNAUTHENTICATED_FOOTNOTE;
use crate::{Columns, Session, Style};

/// A trail's sessions or devices, its findings below them, and a summary line.
///
/// The first column is the host, if there is more than one.
pub fn trail_table(report: &Report, columns: &Columns, style: &Style) -> String {
    let clock = TimeFormat::new(style);
    let hosts = hosts(report);
    let all = Session::group(&report.holdings);
    let counts = counts(report, &all, style);
    let mut text = if report.holdings.is_empty() {
        "No holdings\n".to_owned()
    } else {
        sessions(report, all, columns, hosts, &clock, style)
    };
    if !report.bridge_taps.is_empty() {
        text.push('\n');
        text.push_str(&bridge_taps::block(&report.bridge_taps, hosts, style));
    }
    if !report.findings.is_empty() {
        text.push_str("\nFindings\n");
        text.push_str(&findings_block(report, style));
    }
    text.push('\n');
    let line = counts + &summary(report);
    for part in fold(&line, style.width.map_or(usize::MAX, usize::from)) {
        text.push_str(part);
        text.push('\n');
    }
    let has_marks =
        report.holdings.iter().any(|of| Proof::any_unauthenticated(&of.proof)) || has_marks(report);
    text.push_str(footnote(has_marks));
    text
}

/// How many sessions were held, and how many were not.
fn counts(report: &Report, sessions: &[Session<'_>], style: &Style) -> String {
    let number = |is: &dyn Fn(&Session<'_>) -> bool| sessions.iter().filter(|of| is(of)).count() as u64;
    if let Some(at) = style.at {
        let then = |of: &Session<'_>, what| {
            of.holdings.iter().any(|of| holds_within_coverage(of, at, &report.input) == what)
        };
        let held = number(&|of| then(of, Holds::Yes));
        let possibly = number(&|of| !then(of, Holds::Yes) && then(of, Holds::Possibly));
        return format!("{} held then, {possibly} possibly; ", count(held, "session"));
    }
    let held = number(&|of| of.was_held());
    let now = number(&|of| of.state() == State::Held);
    let never = number(&|of| of.was_never_granted());
    let unknown = sessions.len() as u64 - held - never;
    let mut parts = vec![match (held, now) {
        (0, _) => "no session held".to_owned(),
        (held, 0) => format!("{} held", count(held, "session")),
        (held, now) => format!("{} held, {} of them still", count(held, "session"), thousands(now)),
    }];
    parts.extend((unknown > 0).then(|| format!("{} unknown", thousands(unknown))));
    parts.extend((never > 0).then(|| format!("{} opened or tried and never granted", thousands(never))));
    parts.join(", ") + "; "
}

/// Findings alone, by kind or, with `each`, one by one, and a summary line.
pub fn findings_table(report: &Report, each: bool, style: &Style) -> String {
    let mut text = match (report.findings.is_empty(), each) {
        (true, _) => "No findings\n".to_owned(),
        (false, false) => findings_block(report, style),
        (false, true) => each_table(report, hosts(report), style),
    };
    text.push('\n');
    if !report.findings.is_empty() {
        // Writing to a String can't fail.
        let _ = write!(text, "{}; ", count(count_incidents(&report.findings), "incident"));
    }
    text.push_str(&summary(report));
    text.push('\n');
    let has_marks = if each {
        report.findings.iter().any(|finding| Proof::any_unauthenticated(&finding.proof))
    } else {
        has_marks(report)
    };
    text.push_str(footnote(has_marks));
    if !report.findings.is_empty() && !each {
        text.push_str("`taptrail findings --each` lists each finding, `--kind KIND` those of one kind;\n");
    }
    if !report.findings.is_empty() {
        text.push_str("`taptrail findings --help` says what each kind means\n");
    }
    text
}

/// Whether the report has more than one host.
pub(crate) fn hosts(report: &Report) -> bool {
    let holdings = report.holdings.iter().map(|holding| &holding.host);
    let taps = report.bridge_taps.iter().map(|tap| &tap.host);
    let mut all = holdings.chain(report.findings.iter().map(|finding| &finding.host)).chain(taps);
    let first = all.next();
    all.any(|host| Some(host) != first)
}

fn summary(report: &Report) -> String {
    let mut text = format!(
        "{}; {} read",
        count(report.findings.len() as u64, "finding"),
        count(report.input.records, "record"),
    );
    if report.input.unreadable > 0 {
        // Writing to a String can't fail.
        let _ = write!(text, ", {} unreadable", count(report.input.unreadable, "line"));
    }
    text
}

/// What the mark of unauthenticated lines means, if it is there.
fn footnote(has_marks: bool) -> &'static str {
    if has_marks { UNAUTHENTICATED_FOOTNOTE } else { "" }
}

pub(crate) fn count(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {what}{s}", thousands(number))
}

/// A number with commas between its thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use taptrail_trail::Finding;

    use super::*;
    use crate::sample::finding;

    fn of(time: i64, unauthenticated: bool) -> Finding {
        let mut finding = finding(Some("web1"), Some(1), time);
        finding.proof.iter_mut().for_each(|proof| proof.unauthenticated = unauthenticated);
        finding
    }

    #[test]
    fn the_footnote_stands_where_a_row_has_its_mark() {
        let style = Style { utc: true, ..Style::default() };
        // By kind, the row shows the newer one.
        for (older, newer) in [(false, false), (true, false), (false, true), (true, true)] {
            let report = Report { findings: vec![of(1, older), of(2, newer)], ..Report::default() };
            let tables = [
                (findings_table(&report, false, &style), newer),
                (findings_table(&report, true, &style), older || newer),
                (trail_table(&report, &Columns::default(), &style), newer),
            ];
            for (text, is_marked) in tables {
                let has_mark = text.lines().any(|line| line.ends_with("(serial 7)*"));
                assert_eq!(
                    (has_mark, text.contains(UNAUTHENTICATED_FOOTNOTE)),
                    (is_marked, is_marked),
                    "{text}"
                );
            }
        }
    }
}
