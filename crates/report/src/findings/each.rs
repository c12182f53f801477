//! Each finding on its own: a row, with its sentence and location below it where rows are wider than
//! the style.

use compact_str::{CompactString, format_compact};
use taptrail_trail::{Finding, Report};

use super::incident::incidents;
use super::{add_detail, add_sentence, last_location, sentence, severity_cell, short_name};
use crate::Style;
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Table, cell};
use crate::text::NONE;

/// What a row shows; what it does not stands below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Columns {
    TimeAndKind,
    Guest,
    All,
}

/// A row for each finding. Those that follow from another stand below it, indented.
pub(crate) fn each_table(report: &Report, hosts: bool, style: &Style) -> String {
    let clock = TimeFormat::new(style);
    let incidents = incidents(&report.findings);
    let findings: Vec<(&Finding, bool)> = incidents
        .iter()
        .flat_map(|incident| incident.findings().enumerate().map(|(at, finding)| (finding, at > 0)))
        .collect();
    let table = |columns: Columns| {
        let mut header = vec!["TIME", "SEVERITY", "FINDING"];
        if columns >= Columns::Guest {
            header.extend(hosts.then_some("HOST").into_iter().chain(["GUEST"]));
        }
        if columns >= Columns::All {
            header.extend(["SENTENCE", "LAST RECORD"]);
        }
        let mut table = Table::new(style, &header);
        for (finding, follows) in &findings {
            let mut row = vec![
                cell(clock.full(finding.time)),
                severity_cell(finding.kind.severity()),
                cell(kind(finding, *follows)),
            ];
            if columns >= Columns::Guest {
                row.extend(hosts.then(|| cell(short_name(&finding.host, style))));
                row.push(cell(finding.guest.as_ref().map_or(NONE.into(), |of| short_name(&of.name, style))));
            }
            if columns >= Columns::All {
                row.extend([cell(sentence(finding)), cell(last_location(finding))]);
            }
            table.row(row);
        }
        table
    };
    let all = table(Columns::All);
    if all.fits(style) {
        return all.text();
    }
    let some = table(Columns::Guest);
    let (rows, guests) = if some.fits(style) { (some, true) } else { (table(Columns::TimeAndKind), false) };
    let mut rows = rows.rows();
    let mut text = rows.next().unwrap_or_default();
    for (row, (finding, _)) in rows.zip(&findings) {
        text.push_str(&row);
        if !guests {
            let host = hosts.then(|| format_compact!("Host {}", short_name(&finding.host, style)));
            let guest =
                finding.guest.as_ref().map(|of| format_compact!("Guest {}", short_name(&of.name, style)));
            add_detail(&mut text, guest.iter().map(CompactString::as_str), style);
            add_detail(&mut text, host.iter().map(CompactString::as_str), style);
        }
        add_sentence(&mut text, "", finding, style);
    }
    text
}

/// The kind, indented where it follows from the finding above.
fn kind(finding: &Finding, follows: bool) -> CompactString {
    let kind = finding.kind.as_str();
    if follows { format_compact!("  {kind}") } else { kind.into() }
}
