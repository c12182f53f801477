use std::io::{self, Write};

use serde::Serialize;
use taptrail_trail::{Finding, Holding, Input, Proof, Report};

use crate::csv::{FindingRows, HoldingRows};
use crate::span::{Concerns, Span};
use crate::{Filter, Style, findings_table, trail_table};

/// Takes holdings and findings one at a time, in the order in which a trail tells them.
pub trait Take {
    /// Takes a holding that is over, or held to the end of the trail.
    ///
    /// # Errors
    ///
    /// What the output says.
    fn holding(&mut self, holding: Holding) -> io::Result<()>;

    /// Takes a finding.
    ///
    /// # Errors
    ///
    /// What the output says.
    fn finding(&mut self, finding: Finding) -> io::Result<()>;
}

/// What of a trail is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Its holdings and its findings.
    Trail,
    /// Its findings.
    Findings,
}

/// How it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people: all at the end, sorted by time.
    Table(Style),
    /// For programs: one object at the end, sorted by time.
    Json,
    /// For programs: an object on each line, written as soon as it is known.
    Jsonl,
    /// For spreadsheets: a row for each holding, or else for each finding, written as soon as it is
    /// known.
    Csv,
}

/// How much was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Holdings.
    pub holdings: u64,
    /// Findings.
    pub findings: u64,
    /// Holdings that may be asked for, of which the records don't tell: these are not among the holdings.
    pub perhaps: u64,
}

/// What is asked for of a trail, written in a format.
///
/// JSONL and CSV are written as holdings end, so that no memory grows with the trail; then holdings
/// stand in the order of their ends. Only where the filter makes it depend on holdings which findings
/// are told, those wait.
#[derive(Debug)]
pub struct Sink<W: Write> {
    told: Told,
    filter: Filter,
    count: Count,
    way: Way<W>,
    /// What is not written yet.
    waiting: Report,
    concerns: Concerns,
}

#[derive(Debug)]
enum Way<W: Write> {
    Table(W, Style),
    Json(W),
    Jsonl(W),
    Holdings(HoldingRows<W>),
    Findings(FindingRows<W>),
}

/// A line of JSONL.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Item<'a> {
    Holding(&'a Holding),
    Finding(&'a Finding),
    Input(&'a Input),
}

/// All of the findings, in the shape of their JSON.
#[derive(Debug, Serialize)]
struct Findings<'a> {
    findings: &'a [Finding],
    input: &'a Input,
}

impl<W: Write> Sink<W> {
    /// Begins an answer; of CSV the header is written at once.
    ///
    /// # Errors
    ///
    /// What the output says.
    pub fn new(told: Told, filter: Filter, format: Format, out: W) -> io::Result<Self> {
        let way = match (format, told) {
            (Format::Table(style), _) => Way::Table(out, Style { at: filter.at, ..style }),
            (Format::Json, _) => Way::Json(out),
            (Format::Jsonl, _) => Way::Jsonl(out),
            (Format::Csv, Told::Trail) => Way::Holdings(HoldingRows::new(out)?),
            (Format::Csv, Told::Findings) => Way::Findings(FindingRows::new(out)?),
        };
        let (waiting, concerns) = (Report::default(), Concerns::default());
        Ok(Self { told, filter, count: Count::default(), way, waiting, concerns })
    }

    /// How much was told so far.
    pub fn count(&self) -> Count {
        self.count
    }

    /// Writes what waits, and what was read.
    ///
    /// # Errors
    ///
    /// What the output says.
    pub fn finish(&mut self, input: Input) -> io::Result<()> {
        if self.filter.follows_holdings() {
            for finding in std::mem::take(&mut self.waiting.findings) {
                if self.concerns.concern(&finding) {
                    self.tell(finding)?;
                }
            }
        }
        let mut report = std::mem::take(&mut self.waiting);
        report.input = input;
        sort(&mut report);
        match &mut self.way {
            Way::Table(out, style) => {
                let text = match self.told {
                    Told::Trail => trail_table(&report, style),
                    Told::Findings => findings_table(&report, style),
                };
                out.write_all(text.as_bytes())?;
                out.flush()
            }
            Way::Json(out) => {
                let Report { findings, input, .. } = &report;
                match self.told {
                    Told::Trail => crate::json::write_pretty(&mut *out, &report)?,
                    Told::Findings => crate::json::write_pretty(&mut *out, &Findings { findings, input })?,
                }
                out.write_all(b"\n")?;
                out.flush()
            }
            Way::Jsonl(out) => {
                line(out, &Item::Input(&report.input))?;
                out.flush()
            }
            Way::Holdings(rows) => rows.flush(),
            Way::Findings(rows) => rows.flush(),
        }
    }

    /// Tells a finding that is asked for.
    fn tell(&mut self, finding: Finding) -> io::Result<()> {
        self.count.findings += 1;
        match &mut self.way {
            Way::Table(..) | Way::Json(_) => self.waiting.findings.push(finding),
            Way::Jsonl(out) => line(out, &Item::Finding(&finding))?,
            Way::Findings(rows) => rows.row(&finding)?,
            Way::Holdings(_) => {}
        }
        Ok(())
    }
}

impl<W: Write> Take for Sink<W> {
    fn holding(&mut self, holding: Holding) -> io::Result<()> {
        if self.told != Told::Trail || !self.filter.keeps_holding(&holding) {
            self.count.perhaps += u64::from(self.filter.may_mean(&holding));
            return Ok(());
        }
        self.count.holdings += 1;
        if self.filter.follows_holdings() {
            self.concerns.add(&holding);
        }
        match &mut self.way {
            Way::Table(..) | Way::Json(_) => self.waiting.holdings.push(holding),
            Way::Jsonl(out) => line(out, &Item::Holding(&holding))?,
            Way::Holdings(rows) => rows.row(&holding)?,
            Way::Findings(_) => {}
        }
        Ok(())
    }

    fn finding(&mut self, finding: Finding) -> io::Result<()> {
        if self.filter.follows_holdings() {
            if self.filter.may_concern(&finding) {
                self.waiting.findings.push(finding);
            }
            return Ok(());
        }
        if self.filter.keeps_finding(&finding) { self.tell(finding) } else { Ok(()) }
    }
}

fn line(out: &mut impl Write, item: &Item<'_>) -> io::Result<()> {
    crate::json::write_line(&mut *out, item)?;
    out.write_all(b"\n")
}

/// Newest last.
pub(crate) fn sort(report: &mut Report) {
    let first = |holding: &Holding| holding.proof.first().map(Proof::order);
    report.holdings.sort_by_cached_key(|holding| (Span::of(holding).from, first(holding)));
    report.findings.sort_by_key(|finding| finding.time);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{at, finding, holding};

    fn told(told: Told, filter: Filter, format: Format) -> (String, Count) {
        let mut out = Vec::new();
        let mut sink = Sink::new(told, filter, format, &mut out).unwrap();
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
            let (text, count) = told(Told::Trail, Filter::default(), format);
            assert!(text.find(":10.000").unwrap() < text.find(":20.000").unwrap(), "{text}");
            assert_eq!(count, Count { holdings: 2, findings: 3, perhaps: 0 });
        }
        for format in [Format::Jsonl, Format::Csv] {
            let (text, count) = told(Told::Trail, Filter::default(), format);
            assert!(text.find(":20.000").unwrap() < text.find(":10.000").unwrap(), "{text}");
            assert_eq!(count, Count { holdings: 2, findings: 3, perhaps: 0 });
        }
    }

    #[test]
    fn a_line_of_json_is_one_thing() {
        let (text, _) = told(Told::Trail, Filter::default(), Format::Jsonl);
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
        for (what, rows) in [(Told::Trail, 2), (Told::Findings, 3)] {
            let (text, _) = told(what, Filter::default(), Format::Csv);
            let mut reader = ::csv::ReaderBuilder::new().flexible(false).from_reader(text.as_bytes());
            assert_eq!(reader.records().map(Result::unwrap).count(), rows);
            assert!(text.ends_with("\r\n"));
        }
    }

    #[test]
    fn findings_alone_have_no_holdings() {
        for format in [Format::Table(Style::default()), Format::Json, Format::Jsonl, Format::Csv] {
            let (text, count) = told(Told::Findings, Filter::default(), format);
            assert!(!text.contains("released"), "{text}");
            assert_eq!(count, Count { holdings: 0, findings: 3, perhaps: 0 });
        }
    }

    #[test]
    fn what_was_held_at_a_time_brings_the_findings_that_concern_it() {
        let filter = Filter {
            at: Some(Span::at(at(23))),
            mac: Some("52:54:00:00:00:02".parse().unwrap()),
            ..Filter::default()
        };
        for format in [Format::Table(Style::default()), Format::Json, Format::Jsonl] {
            let (text, count) = told(Told::Trail, filter.clone(), format);
            // One about the guest as a whole concerns its interfaces.
            assert!(text.contains("At 22") && text.contains("At 24") && !text.contains("At 40"), "{text}");
            assert_eq!(count, Count { holdings: 1, findings: 2, perhaps: 0 });
        }
        let granted = Filter { granted: true, ..Filter::default() };
        let (text, _) = told(Told::Trail, granted, Format::Jsonl);
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
            let mut sink = Sink::new(Told::Trail, Filter::default(), format, Gone).unwrap();
            let error = sink.finish(Input::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{format:?}");
        }
    }
}
