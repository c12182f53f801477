use std::io::{self, Write};

use serde::Serialize;
use taptrail_trail::{BridgeTap, Entry, Finding, GuestRun, Holding, Input, Proof, Report};

use crate::csv::{FindingRows, HoldingRows};
use crate::findings::group_incidents;
use crate::json::write_jsonl;
use crate::span::{QueryRange, RelatedTimes};
use crate::{Columns, Filter, Style, findings_table, timeline, trail_table};

/// Consumes holdings and findings one at a time, in the order in which a trail emits them.
pub trait TrailConsumer {
    /// Takes a holding that has ended, or is held to the end of the trail.
    ///
    /// # Errors
    ///
    /// Writing to the output fails.
    fn holding(&mut self, holding: Holding) -> io::Result<()>;

    /// Takes a finding.
    ///
    /// # Errors
    ///
    /// Writing to the output fails.
    fn finding(&mut self, finding: Finding) -> io::Result<()>;

    /// Takes a tap that a bridge helper passed, once it has ended or the trail has.
    ///
    /// # Errors
    ///
    /// Writing to the output fails.
    fn bridge_tap(&mut self, _tap: BridgeTap) -> io::Result<()> {
        Ok(())
    }

    /// Whether it wants holdings. A reader that has holdings and findings in different places need not
    /// read those that nobody wants.
    fn wants_holdings(&self) -> bool {
        true
    }

    /// Whether it wants holdings that do not match what is asked for, to name what is near.
    fn wants_nearest(&self) -> bool {
        false
    }

    /// Takes an entry, before it is part of the trail.
    ///
    /// # Errors
    ///
    /// Writing to the output fails.
    fn entry(&mut self, _entry: &Entry) -> io::Result<()> {
        Ok(())
    }

    /// Takes a run of a guest that has ended, or that has not as the trail ends. Only trails that
    /// collect runs have any.
    ///
    /// # Errors
    ///
    /// Writing to the output fails.
    fn run(&mut self, _run: GuestRun) -> io::Result<()> {
        Ok(())
    }
}

/// The part of a trail that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Its holdings and its findings.
    Trail,
    /// Its findings; in a table, those of one kind together.
    Findings,
    /// Its findings; in a table, each on its own.
    EachFinding,
}

/// The format in which it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people: everything at the end, sorted by time; of one incident together.
    Table(Style),
    /// For programs: one object at the end, sorted by time; of one incident together.
    Json,
    /// For programs: one object on each line, written as soon as it is known.
    Jsonl,
    /// For spreadsheets: a row for each holding, or for each finding, written as soon as it is
    /// known.
    Csv,
    /// For SIEMs: a document of the Elastic Common Schema on each line, written as soon as it is
    /// known.
    Ecs,
}

/// How many holdings and findings were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Holdings.
    pub holdings: u64,
    /// Findings.
    pub findings: u64,
    /// Taps of a bridge helper's.
    pub bridge_taps: u64,
    /// Taps of a bridge helper's that CSV has no row for. They are not among `bridge_taps`.
    pub bridge_taps_left_out: u64,
    /// Holdings whose records lack what the filter compares. They are not among `holdings`.
    pub maybe_matching: u64,
}

/// Writes the part of a trail that a filter selects, in a format.
///
/// JSONL, CSV and ECS are written as holdings end, in the order of their ends, so that memory does not
/// grow with the trail. Findings are deferred only where the filter selects them by the holdings
/// that they concern.
#[derive(Debug)]
pub struct Sink<W: Write> {
    view: View,
    filter: Filter,
    count: Count,
    output: Output<W>,
    /// Holdings and findings that are not written yet.
    deferred: Report,
    related: RelatedTimes,
    presentation: Presentation,
}

/// How a table shows a trail's holdings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presentation {
    /// As rows of these columns.
    Rows(Columns),
    /// As a picture of text.
    Timeline {
        /// Without characters that are not ASCII.
        ascii: bool,
    },
}

#[derive(Debug)]
enum Output<W: Write> {
    Table(W, Style),
    Json(W),
    Jsonl(W),
    Holdings(HoldingRows<W>),
    Findings(FindingRows<W>),
    Ecs(W),
}

/// A line of JSONL.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum JsonLine<'a> {
    Holding(&'a Holding),
    Finding(&'a Finding),
    #[serde(rename = "bridge_tap")]
    BridgeTap(&'a BridgeTap),
    Input(&'a Input),
}

/// The JSON of all findings.
#[derive(Debug, Serialize)]
struct Findings<'a> {
    findings: &'a [Finding],
    input: &'a Input,
}

impl<W: Write> Sink<W> {
    /// A sink that writes to `out`. The header of CSV is written at once.
    ///
    /// # Errors
    ///
    /// Writing to the output fails.
    pub fn new(view: View, filter: Filter, format: Format, out: W) -> io::Result<Self> {
        let output = match (format, view) {
            (Format::Table(style), _) => Output::Table(out, Style { at: filter.at, ..style }),
            (Format::Json, _) => Output::Json(out),
            (Format::Jsonl, _) => Output::Jsonl(out),
            (Format::Ecs, _) => Output::Ecs(out),
            (Format::Csv, View::Trail) => Output::Holdings(HoldingRows::new(out)?),
            (Format::Csv, View::Findings | View::EachFinding) => Output::Findings(FindingRows::new(out)?),
        };
        let (deferred, related) = (Report::default(), RelatedTimes::default());
        let (count, presentation) = (Count::default(), Presentation::Rows(Columns::default()));
        Ok(Self { view, filter, count, output, deferred, related, presentation })
    }

    /// With another presentation of holdings in a table.
    #[must_use]
    pub fn with_presentation(self, presentation: Presentation) -> Self {
        Self { presentation, ..self }
    }

    /// How many holdings and findings were written so far.
    pub fn count(&self) -> Count {
        self.count
    }

    /// Writes what was deferred, and the summary of the input.
    ///
    /// # Errors
    ///
    /// Writing to the output fails.
    pub fn finish(&mut self, input: Input) -> io::Result<()> {
        if self.filter.depends_on_holdings() {
            for finding in std::mem::take(&mut self.deferred.findings) {
                if self.related.contains(&finding) {
                    self.emit_finding(finding)?;
                }
            }
        }
        let mut report = std::mem::take(&mut self.deferred);
        report.input = input;
        sort_by_time(&mut report);
        group_incidents(&mut report.findings);
        match &mut self.output {
            Output::Table(out, style) => {
                let text = match (self.view, &self.presentation) {
                    (View::Trail, Presentation::Rows(columns)) => trail_table(&report, columns, style),
                    (View::Trail, Presentation::Timeline { ascii }) => timeline(&report, style, *ascii),
                    (View::Findings, _) => findings_table(&report, false, style),
                    (View::EachFinding, _) => findings_table(&report, true, style),
                };
                out.write_all(text.as_bytes())?;
                out.flush()
            }
            Output::Json(out) => {
                let Report { findings, input, .. } = &report;
                match self.view {
                    View::Trail => crate::json::write_pretty(&mut *out, &report)?,
                    View::Findings | View::EachFinding => {
                        crate::json::write_pretty(&mut *out, &Findings { findings, input })?;
                    }
                }
                out.write_all(b"\n")?;
                out.flush()
            }
            Output::Jsonl(out) => {
                write_jsonl(out, &JsonLine::Input(&report.input))?;
                out.flush()
            }
            Output::Holdings(rows) => rows.flush(),
            Output::Findings(rows) => rows.flush(),
            Output::Ecs(out) => out.flush(),
        }
    }

    /// Writes or defers a finding that matches.
    fn emit_finding(&mut self, finding: Finding) -> io::Result<()> {
        self.count.findings += 1;
        match &mut self.output {
            Output::Table(..) | Output::Json(_) => self.deferred.findings.push(finding),
            Output::Jsonl(out) => write_jsonl(out, &JsonLine::Finding(&finding))?,
            Output::Findings(rows) => rows.row(&finding)?,
            Output::Ecs(out) => crate::ecs::write_finding(out, &finding)?,
            Output::Holdings(_) => {}
        }
        Ok(())
    }
}

impl<W: Write> TrailConsumer for Sink<W> {
    fn wants_holdings(&self) -> bool {
        self.view == View::Trail || self.filter.depends_on_holdings()
    }

    fn holding(&mut self, holding: Holding) -> io::Result<()> {
        if self.view != View::Trail || !self.filter.matches_holding(&holding) {
            self.count.maybe_matching += u64::from(self.filter.may_match(&holding));
            return Ok(());
        }
        self.count.holdings += 1;
        if self.filter.depends_on_holdings() {
            self.related.add(&holding);
        }
        match &mut self.output {
            Output::Table(..) | Output::Json(_) => self.deferred.holdings.push(holding),
            Output::Jsonl(out) => write_jsonl(out, &JsonLine::Holding(&holding))?,
            Output::Holdings(rows) => rows.row(&holding)?,
            Output::Ecs(out) => crate::ecs::write_holding(out, &holding)?,
            Output::Findings(_) => {}
        }
        Ok(())
    }

    fn bridge_tap(&mut self, tap: BridgeTap) -> io::Result<()> {
        if self.view != View::Trail || !self.filter.matches_bridge_tap(&tap) {
            return Ok(());
        }
        match &mut self.output {
            Output::Table(..) | Output::Json(_) => self.deferred.bridge_taps.push(tap),
            Output::Jsonl(out) => write_jsonl(out, &JsonLine::BridgeTap(&tap))?,
            Output::Ecs(out) => crate::ecs::write_bridge_tap(out, &tap)?,
            Output::Holdings(_) | Output::Findings(_) => {
                self.count.bridge_taps_left_out += 1;
                return Ok(());
            }
        }
        self.count.bridge_taps += 1;
        Ok(())
    }

    fn finding(&mut self, finding: Finding) -> io::Result<()> {
        if self.filter.depends_on_holdings() {
            if self.filter.may_concern(&finding) {
                self.deferred.findings.push(finding);
            }
            return Ok(());
        }
        if self.filter.matches_finding(&finding) { self.emit_finding(finding) } else { Ok(()) }
    }
}

/// Sorts a trail's holdings and findings by time, newest last.
pub(crate) fn sort_by_time(report: &mut Report) {
    let first = |holding: &Holding| holding.proof.first().map(Proof::order);
    report.holdings.sort_by_cached_key(|holding| (QueryRange::of(holding).from, first(holding)));
    report.findings.sort_by_key(|finding| finding.time);
    report.bridge_taps.sort_by_key(|tap| (tap.passed, tap.proof.first().map(Proof::order)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{at, finding, holding};

    fn view(view: View, filter: Filter, format: Format) -> (String, Count) {
        let mut out = Vec::new();
        let mut sink = Sink::new(view, filter, format, &mut out).unwrap();
        sink.holding(holding("web1", 2, 20, Some(25))).unwrap();
        sink.finding(finding(Some("web1"), Some(2), 22)).unwrap();
        sink.finding(finding(Some("web1"), Some(1), 40)).unwrap();
        sink.holding(holding("web1", 1, 10, Some(30))).unwrap();
        sink.finding(finding(Some("web1"), None, 24)).unwrap();
        sink.finish(Input { records: 6, ..Input::default() }).unwrap();
        let count = sink.count();
        drop(sink);
        (String::from_utf8(out).unwrap(), count)
    }

    #[test]
    fn tables_and_json_are_sorted_by_time_and_lines_come_as_they_are_known() {
        for format in [Format::Table(Style::default()), Format::Json] {
            let (text, count) = view(View::Trail, Filter::default(), format);
            assert!(text.find("00:00:00:01").unwrap() < text.find("00:00:00:02").unwrap(), "{text}");
            assert_eq!(count, Count { holdings: 2, findings: 3, ..Count::default() });
        }
        for format in [Format::Jsonl, Format::Csv, Format::Ecs] {
            let (text, count) = view(View::Trail, Filter::default(), format);
            assert!(text.find("00:00:00:02").unwrap() < text.find("00:00:00:01").unwrap(), "{text}");
            assert_eq!(count, Count { holdings: 2, findings: 3, ..Count::default() });
        }
    }

    #[test]
    fn a_line_of_json_is_one_thing() {
        let (text, _) = view(View::Trail, Filter::default(), Format::Jsonl);
        let keys: Vec<String> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Map<_, _>>(line).unwrap().keys().cloned().collect()
            })
            .collect();
        assert_eq!(keys, ["holding", "finding", "finding", "holding", "finding", "input"]);
    }

    #[test]
    fn csv_has_as_many_fields_in_each_row_as_in_its_header() {
        for (what, rows) in [(View::Trail, 2), (View::Findings, 3)] {
            let (text, _) = view(what, Filter::default(), Format::Csv);
            let mut reader = ::csv::ReaderBuilder::new().flexible(false).from_reader(text.as_bytes());
            assert_eq!(reader.records().map(Result::unwrap).count(), rows);
            assert!(text.ends_with("\r\n"));
        }
    }

    #[test]
    fn findings_alone_have_no_holdings() {
        for format in [Format::Table(Style::default()), Format::Json, Format::Jsonl, Format::Csv, Format::Ecs]
        {
            let (text, count) = view(View::Findings, Filter::default(), format);
            assert!(!text.contains("released"), "{text}");
            assert_eq!(count, Count { findings: 3, ..Count::default() });
        }
    }

    #[test]
    fn what_was_held_at_a_time_brings_the_findings_that_concern_it() {
        let filter = Filter {
            at: Some(QueryRange::at(at(23))),
            mac: Some("52:54:00:00:00:02".parse().unwrap()),
            ..Filter::default()
        };
        for format in [Format::Table(Style::default()), Format::Json, Format::Jsonl] {
            let (text, count) = view(View::Trail, filter.clone(), format);
            // A finding about the whole guest concerns its interfaces.
            assert!(text.contains("At 24") && !text.contains("At 40"), "{text}");
            // A table has the last of each kind.
            assert!(matches!(format, Format::Table(_)) || text.contains("At 22"), "{text}");
            assert_eq!(count, Count { holdings: 1, findings: 2, ..Count::default() });
        }
        let granted = Filter { granted: true, ..Filter::default() };
        let (text, _) = view(View::Trail, granted, Format::Jsonl);
        assert!(text.contains("At 22") && !text.contains("At 40"), "{text}");
    }

    #[test]
    fn a_reader_who_has_gone_is_known_as_one() {
        #[derive(Debug)]
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for format in [Format::Table(Style::default()), Format::Json, Format::Jsonl, Format::Csv] {
            let mut sink = Sink::new(View::Trail, Filter::default(), format, Gone).unwrap();
            let error = sink.finish(Input::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{format:?}");
        }
    }
}
