use std::fmt::Write as _;

use taptrail_trail::{Holding, Proof, Report, State};

use crate::Style;
use crate::findings::{count_incidents, each_table, findings_block};
use crate::holdings::holdings;
use crate::span::{Holds, holds_within_coverage};
use crate::style::TimeFormat;
use crate::unauthenticated::UNAUTHENTICATED_FOOTNOTE;

/// A trail's holdings, its findings below them, and a summary line.
///
/// The first column is the host, if there is more than one.
pub fn trail_table(report: &Report, style: &Style) -> String {
    let clock = TimeFormat::new(style);
    let hosts = hosts(report);
    let mut text = if report.holdings.is_empty() {
        "No holdings\n".to_owned()
    } else {
        holdings(report, hosts, &clock, style)
    };
    if !report.findings.is_empty() {
        text.push_str("\nFindings\n");
        text.push_str(&findings_block(report, style));
    }
    let all = count(report.holdings.len() as u64, "holding");
    let number = |held: &dyn Fn(&Holding) -> bool| report.holdings.iter().filter(|of| held(of)).count();
    // Writing to a String can't fail.
    let _ = match style.at {
        None => write!(text, "\n{all}, {} held; ", number(&|of| of.state == State::Held)),
        Some(at) => {
            let then = |what: Holds| number(&|of| holds_within_coverage(of, at, &report.input) == what);
            let (held, possibly) = (then(Holds::Yes), then(Holds::Possibly));
            write!(text, "\n{all}, {held} held then, {possibly} possibly; ")
        }
    };
    text.push_str(&summary(report));
    text
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
    let mut all = holdings.chain(report.findings.iter().map(|finding| &finding.host));
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
    text.push('\n');
    let marked = report.holdings.iter().any(|holding| Proof::any_unauthenticated(&holding.proof))
        || report.findings.iter().any(|finding| Proof::any_unauthenticated(&finding.proof));
    if marked {
        text.push_str(UNAUTHENTICATED_FOOTNOTE);
    }
    text
}

pub(crate) fn count(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}
