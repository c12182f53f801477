//! Findings as a table.

use std::fmt::{self, Display, Write as _};

use compact_str::CompactString;
use taptrail_trail::{Finding, FindingKind, Proof, Report};

use crate::Style;
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Cell, Table, bad, cell, warning};
use crate::text::{NONE, cut, escape_name, escape_text};
use crate::unauthenticated::UNAUTHENTICATED_MARK;

/// The longest sentence shown, in characters: sentences contain names from outside.
const MAX_SENTENCE_CHARS: usize = 400;

/// A row for each finding. Where rows are wider than the style, a finding's sentence and the
/// location of its last proof stand on lines of their own.
pub(crate) fn findings(report: &Report, hosts: bool, clock: &TimeFormat, style: &Style) -> String {
    let findings = &report.findings;
    let rows = |all: bool| {
        let columns = 3 + usize::from(hosts) + if all { 2 } else { 0 };
        let mut table = Table::without_header(style, columns);
        for finding in findings {
            let host = hosts.then(|| cell(escape_name(&finding.host)));
            let front = [
                cell(clock.full(finding.time)),
                kind(finding.kind),
                cell(finding.guest.as_ref().map_or(NONE.into(), |guest| escape_name(&guest.name))),
            ];
            let rest = all.then(|| [cell(sentence(finding)), cell(last_location(finding))]);
            table.row(host.into_iter().chain(front).chain(rest.into_iter().flatten()));
        }
        table
    };
    let table = rows(true);
    if table.fits(style) {
        return table.text();
    }
    let table = rows(false);
    let mut text = String::new();
    for (line, finding) in table.rows().zip(findings) {
        // Writing to a String can't fail.
        let _ = write!(text, "{line}    {}\n    {}\n", sentence(finding), last_location(finding));
    }
    text
}

/// A finding's sentence, safe for a terminal.
pub(crate) fn sentence(finding: &Finding) -> CompactString {
    cut(&finding.text, MAX_SENTENCE_CHARS)
}

fn last_location(finding: &Finding) -> String {
    let mark = if Proof::any_unauthenticated(&finding.proof) { UNAUTHENTICATED_MARK } else { "" };
    finding.proof.last().map_or(NONE.to_owned(), |proof| format!("{}{mark}", location(proof)))
}

/// A record's location, as `FILE:LINE (serial N)`.
pub(crate) fn location(proof: &Proof) -> impl Display {
    fmt::from_fn(|f| {
        write!(f, "{}:{}", escape_text(&proof.source), proof.line)?;
        proof.serial.map_or(Ok(()), |serial| write!(f, " (serial {serial})"))
    })
}

/// Grave findings are red, the others yellow.
fn kind(kind: FindingKind) -> Cell {
    if is_grave(kind) { bad(kind.as_str()) } else { warning(kind.as_str()) }
}

/// Whether a finding of this kind may mean that a process holds a device that the trail does not
/// show.
pub fn is_grave(kind: FindingKind) -> bool {
    matches!(
        kind,
        FindingKind::AttachFailed
            | FindingKind::CloseFailed
            | FindingKind::CloseWithoutOpen
            | FindingKind::ContradictoryOpen
            | FindingKind::DetachFailed
            | FindingKind::GrantWithoutOpen
            | FindingKind::LogGap
            | FindingKind::NeverReleased
            | FindingKind::RecordNotSent
            | FindingKind::SerialGap
            | FindingKind::TruncatedRecord
            | FindingKind::UnmanagedOpen
    )
}
