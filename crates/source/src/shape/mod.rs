//! The shapes in which a record is written down: from the bytes of one line, or of one journal entry,
//! to what it tells. Nothing here reads a file or knows the line before.
//!
//! A shape is found by how the line begins. Whose words a line carries decides whether they are
//! believed: an audit record is one when audit, its dispatcher, the kernel or a guest manager wrote
//! it, and no matter what else looks like one within a line of another program.
//!
//! | A line begins with | It is | See |
//! |---|---|---|
//! | `type=`, `node=` | audit's own, raw, ENRICHED or interpreted | [`audit`] |
//! | `audispd:` | the same, by its dispatcher | [`audit`] |
//! | `{` | one entry of a journal, as JSON | [`journal`] |
//! | a time, then a process id and a level | a line of libvirtd's log | [`libvirt`] |
//! | a time, then a host and a program | syslog's or a journal's text | [`syslog`] |
//!
//! A journal's export format is no shape of lines: its fields hold any bytes ([`Export`]).

mod audit;
mod content;
mod journal;
mod libvirt;
mod stamp;
mod syslog;
#[cfg(test)]
mod tests;

pub(crate) use journal::Export;

use bstr::ByteSlice as _;
use taptrail_record::ParseError;

use crate::found::{Found, Voice, When};

/// Why a line that should tell something can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// The record in it is none.
    #[error(transparent)]
    Record(#[from] ParseError),
    /// The record has no time, or none that exists.
    #[error("Record has no readable time")]
    Time,
    /// The line is no JSON, though it begins so.
    #[error("Line is no JSON object of a journal, from column {column}")]
    Json { column: usize },
    /// An entry's field has a value that is not of its kind.
    #[error("Journal entry has no valid '{field}'")]
    Field { field: &'static str },
    /// The line is longer than any that holds a record.
    #[error("Line is too long: {max} bytes are taken at most")]
    TooLong { max: usize },
    /// The journal's export format is broken here.
    #[error("Journal export is broken: a field does not end where it says")]
    Broken,
}

/// What one line tells of a guest or of a network device of its; most tell nothing.
///
/// # Errors
///
/// A line that should tell something but can't be read.
pub(crate) fn line(line: &[u8]) -> Result<Option<Found>, Unreadable> {
    match line {
        [b't', b'y', b'p', b'e', b'=', ..] | [b'n', b'o', b'd', b'e', b'=', ..] => audit::line(line),
        _ => other(trim(line)),
    }
}

fn other(line: &[u8]) -> Result<Option<Found>, Unreadable> {
    if let Some(object) = json(line) {
        return journal::json::entry(object)?.found();
    }
    match line.first() {
        Some(b't' | b'n') => audit::line(line),
        Some(b'a') => {
            let found = audit::dispatched(line).map_or(Ok(None), audit::line)?;
            Ok(found.map(|found| Found { voice: Voice::Dispatcher, ..found }))
        }
        Some(b'[') => syslog::kernel_ring(line),
        _ => match stamp::front(line) {
            None => Ok(None),
            Some((when, rest)) => match rest.strip_prefix(b": ") {
                Some(rest) => libvirt::line(when, rest),
                None => syslog::line(when, rest),
            },
        },
    }
}

/// The time that a line of any kind names at its front, whatever else it says.
pub(crate) fn first_time(line: &[u8]) -> Option<When> {
    let line = trim(line);
    if let Some(object) = json(line) {
        return journal::json::entry(object).ok()?.when();
    }
    if let Some(value) = line.strip_prefix(b"__REALTIME_TIMESTAMP=") {
        return journal::moment(value);
    }
    match line {
        [b't', b'y', b'p', b'e', b'=', ..] | [b'n', b'o', b'd', b'e', b'=', ..] => audit::time(line),
        _ => match audit::dispatched(line).or_else(|| syslog::kernel_ring_record(line)) {
            Some(line) => audit::time(line),
            None => stamp::front(line).map(|(when, _)| when),
        },
    }
}

/// One object of `journalctl -o json`, `json-seq` or `json-sse`.
fn json(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_prefix(b"\x1e").or_else(|| line.strip_prefix(b"data: ")).unwrap_or(line);
    line.starts_with(b"{").then_some(line)
}

/// Without the line's end, without what a crash of the host left of a block never written, and without
/// the mark that some editors put before a file's first line.
fn trim(line: &[u8]) -> &[u8] {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let line = line.trim_start_with(|c| c == '\0');
    line.trim_end_with(|c| matches!(c, '\n' | '\r' | '\0'))
}
