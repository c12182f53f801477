//! Findings as a table.

use std::fmt::{self, Display, Write as _};

use compact_str::CompactString;
use taptrail_trail::{Finding, FindingKind, Proof, Report};

use crate::Style;
use crate::claims::MARK;
use crate::style::Clock;
use crate::table::{Cell, Plain, bad, cell, warning};
use crate::text::{NONE, cut, shown, whole};

/// The longest sentence shown, in characters: it may have names in it.
const LONGEST: usize = 400;

/// A row for each finding, or where those are wider than the style, its sentence and its last proof's
/// place on lines of their own.
pub(crate) fn findings(report: &Report, hosts: bool, clock: &Clock, style: &Style) -> String {
    let findings = &report.findings;
    let rows = |all: bool| {
        let columns = 3 + usize::from(hosts) + if all { 2 } else { 0 };
        let mut table = Plain::bare(style, columns);
        for finding in findings {
            let host = hosts.then(|| cell(shown(&finding.host)));
            let front = [
                cell(clock.full(finding.time)),
                kind(finding.kind),
                cell(finding.guest.as_ref().map_or(NONE.into(), |guest| shown(&guest.name))),
            ];
            let rest = all.then(|| [cell(sentence(finding)), cell(last_place(finding))]);
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
        let _ = write!(text, "{line}    {}\n    {}\n", sentence(finding), last_place(finding));
    }
    text
}

/// What a finding says, as a terminal may get it.
pub(crate) fn sentence(finding: &Finding) -> CompactString {
    cut(&finding.text, LONGEST)
}

fn last_place(finding: &Finding) -> String {
    let mark = if Proof::any_unauthenticated(&finding.proof) { MARK } else { "" };
    finding.proof.last().map_or(NONE.to_owned(), |proof| format!("{}{mark}", place(proof)))
}

/// Where a record can be looked up.
pub(crate) fn place(proof: &Proof) -> impl Display {
    fmt::from_fn(|f| {
        write!(f, "{}:{}", whole(&proof.source), proof.line)?;
        proof.serial.map_or(Ok(()), |serial| write!(f, " (serial {serial})"))
    })
}

/// Red is what is to be looked at first.
fn kind(kind: FindingKind) -> Cell {
    if is_grave(kind) { bad(kind.as_str()) } else { warning(kind.as_str()) }
}

/// Whether a finding of this kind may mean that somebody holds a device whom the trail does not show.
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
