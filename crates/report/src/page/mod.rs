//! Pictures of a trail: a page for a browser, a trace for a profiler's viewer, a figure for a
//! document. All show the same rows: a lane for each interface of a guest, a bar for each session.

mod bar;
mod collect;
mod data;
mod evidence;
mod html;
mod perfetto;
mod picture;
mod svg;
mod template;
mod zone;

use std::io::{self, Write};

use taptrail_trail::{Proof, Report};

pub use self::evidence::{Evidence, FileEvidence, Hash};
use self::picture::Picture;
use crate::explain::LineReader;
use crate::style::Style;

/// How many raw lines a page has at most.
pub const MAX_PAGE_LINES: usize = 200_000;

/// How many bytes of raw lines a page has at most.
pub(crate) const MAX_PAGE_LINE_BYTES: usize = 32 * 1024 * 1024;

/// How many sessions a page has at most: the latest.
pub(crate) const MAX_SESSIONS: usize = 500_000;

/// How many findings a page has at most: the latest.
pub(crate) const MAX_FINDINGS: usize = 200_000;

/// The proofs whose lines a page shows, the most important first: those of findings, then those of
/// holdings, the latest first.
pub fn page_proofs(report: &Report) -> impl Iterator<Item = &Proof> {
    let findings = report.findings.iter().rev().flat_map(|finding| &finding.proof);
    findings.chain(report.holdings.iter().rev().flat_map(|holding| &holding.proof))
}

/// Writes a page for a browser, which needs nothing else. The report is sorted by time. Returns
/// what was left out, a sentence each.
///
/// # Errors
///
/// Writing to the output fails.
pub fn write_html(
    report: &Report,
    evidence: &Evidence,
    style: &Style,
    lines: &LineReader<'_>,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    html::write(&Picture::of(report), evidence, style, lines, None, out)
}

/// As [`write_html`], a page that a server keeps up to date: it watches the server's `events`, and
/// loads itself again when they name another `generation` than its own.
///
/// # Errors
///
/// Writing to the output fails.
pub fn write_live_html(
    report: &Report,
    evidence: &Evidence,
    style: &Style,
    lines: &LineReader<'_>,
    generation: u64,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    html::write(&Picture::of(report), evidence, style, lines, Some(generation), out)
}

/// Writes a trace in the JSON of Chrome's trace events, as <https://ui.perfetto.dev> reads it.
///
/// # Errors
///
/// Writing to the output fails.
pub fn write_perfetto(report: &Report, evidence: &Evidence, out: &mut impl Write) -> io::Result<Vec<String>> {
    perfetto::write(&Picture::of(report), evidence, out)
}

/// Writes a figure for a document, in SVG. Returns what was left out, a sentence each.
///
/// # Errors
///
/// Writing to the output fails.
pub fn write_svg(
    report: &Report,
    evidence: &Evidence,
    style: &Style,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    svg::write(&Picture::of(report), evidence, style, out)
}
