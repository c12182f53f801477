//! Findings as tables: grouped by kind, or each on its own.

mod each;
mod grouped;
mod incident;

use std::fmt::{self, Display};

use compact_str::CompactString;
use taptrail_trail::{Finding, Proof, Report, Severity};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::Style;
use crate::fold::{fold, fold_pieces};
use crate::table::{Cell, bad, cell, warning};
use crate::text::{NONE, cut, escape_name, escape_text};
use crate::unauthenticated::UNAUTHENTICATED_MARK;

pub(crate) use each::each_table;
pub(crate) use incident::{count_incidents, group_incidents};

/// The longest sentence shown, in characters: sentences contain names from outside.
const MAX_SENTENCE_CHARS: usize = 400;

/// The longest name shown where the width is limited, in columns of a terminal.
const MAX_NAME_COLUMNS: usize = 32;

/// The blanks before a line below a row.
const DETAIL_INDENT: usize = 4;

/// Lines below a row are folded no narrower than this.
const MIN_DETAIL_WIDTH: usize = 20;

/// A report's findings by kind, what to look at first on top: for each kind its count, its first and
/// last time, its guests, and the last sentence with its location. Empty where there are none.
pub fn findings_block(report: &Report, style: &Style) -> String {
    if report.findings.is_empty() { String::new() } else { grouped::grouped_table(report, style) }
}

/// A finding's sentence, safe for a terminal.
pub(crate) fn sentence(finding: &Finding) -> CompactString {
    cut(&finding.text, MAX_SENTENCE_CHARS)
}

/// Whether one of the [`findings_block`]'s rows has a mark of unauthenticated lines.
pub(crate) fn has_marks(report: &Report) -> bool {
    grouped::examples(report).any(is_marked)
}

fn is_marked(finding: &Finding) -> bool {
    Proof::any_unauthenticated(&finding.proof)
}

fn last_location(finding: &Finding) -> String {
    let mark = if is_marked(finding) { UNAUTHENTICATED_MARK } else { "" };
    finding.proof.last().map_or(NONE.to_owned(), |proof| format!("{}{mark}", location(proof)))
}

/// A record's location, as `FILE:LINE (serial N)`.
pub(crate) fn location(proof: &Proof) -> impl Display {
    fmt::from_fn(|f| {
        write!(f, "{}:{}", escape_text(&proof.source), proof.line)?;
        proof.serial.map_or(Ok(()), |serial| write!(f, " (serial {serial})"))
    })
}

/// A name from outside, safe for a terminal. Where the width is limited, a long one is cut further:
/// one guest's long name takes no column from the others.
fn short_name(name: &str, style: &Style) -> CompactString {
    let name = escape_name(name);
    if style.width.is_none() || name.width() <= MAX_NAME_COLUMNS {
        return name;
    }
    let mut taken = 0;
    let is_within = |c: &char| {
        taken += c.width().unwrap_or_default();
        taken < MAX_NAME_COLUMNS
    };
    let mut short: CompactString = name.chars().take_while(is_within).collect();
    short.push('…');
    short
}

/// The word, in red if it is grave, in yellow if it is a warning.
fn severity_cell(severity: Severity) -> Cell {
    match severity {
        Severity::Grave => bad(severity.as_str()),
        Severity::Warning => warning(severity.as_str()),
        Severity::Notice => cell(severity.as_str()),
    }
}

/// The columns of a line below a row.
fn detail_width(style: &Style) -> usize {
    style.width.map_or(usize::MAX, usize::from).saturating_sub(DETAIL_INDENT).max(MIN_DETAIL_WIDTH)
}

/// The lines below a row, indented: of pieces that are not cut, such as words, paths and times.
fn add_detail<'a>(text: &mut String, pieces: impl IntoIterator<Item = &'a str>, style: &Style) {
    for line in fold_pieces(pieces, detail_width(style)) {
        text.extend(std::iter::repeat_n(' ', DETAIL_INDENT));
        text.push_str(&line);
        text.push('\n');
    }
}

/// The sentence of a finding below its row, and where it is shown.
fn add_sentence(text: &mut String, before: &str, finding: &Finding, style: &Style) {
    let sentence = sentence(finding);
    let before = Some(before).filter(|before| !before.is_empty());
    // A guest's name may be wider than a line, and is cut there; a path is not.
    let width = detail_width(style);
    let parts = |word| if str::contains(word, '/') { vec![word] } else { fold(word, width) };
    add_detail(text, before.into_iter().chain(sentence.split(' ').flat_map(parts)), style);
    add_detail(text, [last_location(finding).as_str()], style);
}
