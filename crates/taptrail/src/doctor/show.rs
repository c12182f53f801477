//! The checks as text and as JSON.

use std::fmt::Write as _;

use serde::Serialize;
use taptrail_record::visible;
use taptrail_report::{Style, fold};

use super::check::{Area, Check, Readiness, Status, Verdict, Weight};

/// The widths of the first columns.
const STATUS_WIDTH: usize = 8;
const ID_WIDTH: usize = 20;
/// Text is not folded into less.
const MIN_TEXT_WIDTH: usize = 20;

/// The colours of a terminal, as those of tables.
struct Paint(bool);

impl Paint {
    fn bold(&self, text: &str) -> String {
        self.of("\x1b[1m", text, "\x1b[0m")
    }

    fn status(&self, status: Status, text: &str) -> String {
        let on = match status {
            Status::Ok => "\x1b[38;5;2m",
            Status::Missing => "\x1b[38;5;1m",
            Status::Unknown => "\x1b[38;5;3m",
        };
        self.of(on, text, "\x1b[39m")
    }

    fn readiness(&self, readiness: Readiness, text: &str) -> String {
        let like = match readiness {
            Readiness::Ready => Status::Ok,
            Readiness::Lacking => Status::Missing,
            Readiness::Unknown => Status::Unknown,
        };
        self.status(like, text)
    }

    fn of(&self, on: &str, text: &str, off: &str) -> String {
        if self.0 { format!("{on}{text}{off}") } else { text.to_owned() }
    }
}

pub(super) fn text(checks: &[Check], verdicts: &[Verdict], style: &Style) -> String {
    let paint = Paint(style.color);
    let mut text = String::new();
    for area in Area::ALL {
        let of_area: Vec<_> = checks.iter().filter(|check| check.subject.area == area).collect();
        if of_area.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{}", paint.bold(area.heading()));
        for check in of_area {
            write_check(check, &paint, style, &mut text);
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{}", paint.bold("Jobs"));
    for verdict in verdicts {
        let word = format!("{:STATUS_WIDTH$}", verdict.readiness.as_str());
        let head =
            format!("{} {:ID_WIDTH$}", paint.readiness(verdict.readiness, &word), verdict.job.as_str());
        write_folded(&head, STATUS_WIDTH + 1 + ID_WIDTH, &sentence(verdict), style, &mut text);
    }
    text
}

fn write_check(check: &Check, paint: &Paint, style: &Style, text: &mut String) {
    let Check { subject, status, found, way_out } = check;
    let word = format!("{:STATUS_WIDTH$}", status.as_str());
    let head = format!("{} {:ID_WIDTH$}", paint.status(*status, &word), subject.id);
    write_folded(&head, STATUS_WIDTH + 1 + ID_WIDTH, &visible(found), style, text);
    let Some(way_out) = way_out else { return };
    let indent = STATUS_WIDTH + 1;
    let head = format!("{:indent$}", "");
    for line in
        [format!("Needed for: {}", subject.purpose), jobs(check), format!("Way out: {}", visible(way_out))]
    {
        write_folded(&head, indent, &line, style, text);
    }
}

/// Writes a text behind its head, which takes `indent` columns, in lines of the terminal's width.
fn write_folded(head: &str, indent: usize, folded: &str, style: &Style, text: &mut String) {
    let width = style.width.map_or(usize::MAX, usize::from).saturating_sub(indent).max(MIN_TEXT_WIDTH);
    for (number, line) in fold(folded, width).into_iter().enumerate() {
        let _ = match number {
            0 => writeln!(text, "{head}{line}"),
            _ => writeln!(text, "{:indent$}{line}", ""),
        };
    }
}

/// `Essential for run; useful for watch, read`
fn jobs(check: &Check) -> String {
    let mut text = String::new();
    for (weight, words) in [(Weight::Essential, "essential for "), (Weight::Useful, "useful for ")] {
        let of: Vec<_> = of_weight(check, weight).collect();
        if !of.is_empty() {
            text += if text.is_empty() { "" } else { "; " };
            text += words;
            text += &of.join(", ");
        }
    }
    text[..1].to_uppercase() + &text[1..]
}

/// The jobs that need it this much.
fn of_weight(check: &Check, weight: Weight) -> impl Iterator<Item = &'static str> {
    check.subject.needs.iter().filter(move |(_, known)| *known == weight).map(|(job, _)| job.as_str())
}

fn sentence(verdict: &Verdict) -> String {
    let mut parts = Vec::new();
    for (what, ids) in
        [("lacks", &verdict.missing), ("not known:", &verdict.unknown), ("better with", &verdict.without)]
    {
        if !ids.is_empty() {
            parts.push(format!("{what} {}", ids.join(", ")));
        }
    }
    if parts.is_empty() { "has all that it needs".to_owned() } else { parts.join("; ") }
}

/// The checks, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    checks: Vec<JsonCheck<'a>>,
    jobs: Vec<JsonJob<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonCheck<'a> {
    id: &'static str,
    area: &'static str,
    status: &'static str,
    found: &'a str,
    purpose: &'static str,
    essential_for: Vec<&'static str>,
    useful_for: Vec<&'static str>,
    way_out: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct JsonJob<'a> {
    job: &'static str,
    verdict: &'static str,
    missing: &'a [&'static str],
    unknown: &'a [&'static str],
    better_with: &'a [&'static str],
}

impl<'a> Json<'a> {
    pub(super) fn of(checks: &'a [Check], verdicts: &'a [Verdict]) -> Self {
        let check = |check: &'a Check| JsonCheck {
            id: check.subject.id,
            area: check.subject.area.as_str(),
            status: check.status.as_str(),
            found: &check.found,
            purpose: check.subject.purpose,
            essential_for: of_weight(check, Weight::Essential).collect(),
            useful_for: of_weight(check, Weight::Useful).collect(),
            way_out: check.way_out.as_deref(),
        };
        let job = |verdict: &'a Verdict| JsonJob {
            job: verdict.job.as_str(),
            verdict: verdict.readiness.as_str(),
            missing: &verdict.missing,
            unknown: &verdict.unknown,
            better_with: &verdict.without,
        };
        Self { checks: checks.iter().map(check).collect(), jobs: verdicts.iter().map(job).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Subject;
    use super::*;
    use crate::cli::Job;
    use crate::contract;

    const THING: Subject = Subject {
        area: Area::Kernel,
        id: "thing",
        purpose: "tests",
        needs: &[(Job::Run, Weight::Essential), (Job::Read, Weight::Useful)],
    };

    fn checks() -> [Check; 3] {
        [THING.ok("there"), THING.missing("gone\u{1b}[2J", "get it"), THING.unknown("unseen", "be root")]
    }

    #[test]
    fn what_was_found_is_as_its_schema_says() {
        let checks = checks();
        let verdicts = [Verdict::of(Job::Run, &checks), Verdict::of(Job::Read, &checks)];
        let json = serde_json::to_value(Json::of(&checks, &verdicts)).unwrap();
        contract::assert_valid("doctor", &json);
        for (place, changed) in contract::mutations(&json) {
            assert!(!contract::faults("doctor", &changed).is_empty(), "{place}");
        }
    }

    #[test]
    fn a_line_says_what_is_there_and_what_to_do() {
        let checks = checks();
        let style = |width, color| Style { width, color, utc: false, at: None };
        let verdicts = [Verdict::of(Job::Run, &checks)];
        let expected = "\
Kernel
ok       thing               there
missing  thing               gone\\u{1b}[2J
         Needed for: tests
         Essential for run; useful for read
         Way out: get it
unknown  thing               unseen
         Needed for: tests
         Essential for run; useful for read
         Way out: be root

Jobs
lacking  run                 lacks thing; not known: thing
";
        assert_eq!(text(&checks, &verdicts, &style(None, false)), expected);
        assert!(text(&checks, &[], &style(None, true)).contains("\u{1b}[38;5;1mmissing \u{1b}[39m thing"));
        let narrow = text(&checks, &verdicts, &style(Some(50), false));
        let lines =
            "lacking  run                 lacks thing; not\n                             known: thing\n";
        assert!(narrow.ends_with(lines) && narrow.lines().all(|line| line.len() <= 50), "{narrow}");
    }
}
