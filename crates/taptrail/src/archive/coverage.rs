//! The rows of what a reading covers, with the serial numbers at the ends of each span.

use taptrail_lake::{CoverageRow, Day, SpanLogs};
use taptrail_source::SerialRange;
use taptrail_trail::{Coverage, HostSpan, Input, Span};

/// The rows, with their days. By the serial numbers at the ends of its spans, a log that was archived
/// in pieces continues, where nothing between them is missing.
pub(super) fn coverage_rows(input: &Input, serials: &[SerialRange]) -> Vec<(Day, CoverageRow)> {
    let rows = |coverage| CoverageRow::all_with(coverage, |span| logs_of(input, serials, coverage, span));
    input.coverage.iter().flat_map(rows).collect()
}

/// What the logs within a span show.
fn logs_of(input: &Input, serials: &[SerialRange], coverage: &Coverage, span: &Span) -> SpanLogs {
    let mut logs = SpanLogs::default();
    for file in &input.files {
        let is_within =
            |of: &&HostSpan| of.host == coverage.host && span.from <= of.from && of.until <= span.until;
        for of in file.hosts.iter().filter(is_within) {
            logs.records += i64::try_from(of.records).unwrap_or(i64::MAX);
            // Of a selection of records the numbers between two pieces say nothing.
            let is_its =
                |range: &&SerialRange| range.all_events && range.source == file.path && range.host == of.host;
            let Some(range) = serials.iter().find(is_its) else { continue };
            if of.from == span.from {
                logs.first_serial = Some(range.first);
            }
            if of.until == span.until {
                logs.last_serial = Some(range.last);
            }
        }
    }
    logs
}

#[cfg(test)]
mod tests {
    use taptrail_trail::InputFile;

    use super::*;

    #[test]
    fn the_ends_of_a_span_have_the_numbers_of_its_logs() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let [begin, middle, end] =
            ["2026-11-28T10:00:00Z", "2026-11-29T10:00:00Z", "2026-11-30T10:00:00Z"].map(at);
        let file = |path: &str, from, until| InputFile {
            path: path.into(),
            hosts: vec![HostSpan { host: "h".into(), from, until, records: 4 }],
            ..InputFile::default()
        };
        let range = |source: &str, first, last, all_events| SerialRange {
            source: source.into(),
            host: "h".into(),
            first,
            last,
            all_events,
        };
        let input = Input {
            files: vec![file("audit.log.1", begin, middle), file("audit.log", middle, end)],
            coverage: vec![Coverage {
                host: "h".into(),
                spans: vec![Span { from: begin, until: end }],
                gaps: Vec::new(),
                starts: vec![begin],
            }],
            ..Input::default()
        };
        let serials = [range("audit.log.1", 5, 90, true), range("audit.log", 91, 200, true)];
        let of = |serials: &[SerialRange]| -> Vec<_> {
            let rows = coverage_rows(&input, serials).into_iter();
            rows.map(|(_, row)| (row.what, row.records, row.first_serial, row.last_serial)).collect()
        };
        let row = |what: &str, records, first, last| (what.into(), records, first, last);
        assert_eq!(
            of(&serials),
            [
                row("span", 8, Some(5), None),
                row("span", 0, None, None),
                row("span", 0, None, Some(200)),
                row("start", 0, None, None),
            ]
        );
        let selected = [range("audit.log.1", 5, 90, false), range("audit.log", 91, 200, true)];
        assert_eq!(of(&selected)[0], row("span", 8, None, None));
    }
}
