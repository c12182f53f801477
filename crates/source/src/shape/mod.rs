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
//! | `{` | one entry of a journal, as JSON; or what another tool makes of records | [`journal`], [`tools`] |
//! | a time, then a process id and a level | a line of libvirtd's log | [`libvirt`] |
//! | `[`, `<5>[`, `kern  :`, `5,1234,` and the like | the kernel's own log | [`ring`] |
//! | a time, then a host and a program | syslog's or a journal's text | [`syslog`] |
//! | the same, then `stdout F` | a line that the kubelet kept | [`tools`] |
//! | `-- Boot` | what journalctl prints between two boots | [`losses`] |
//!
//! A journal's export format is no shape of lines, because its fields hold any bytes; neither are objects and
//! entries of which each has several lines ([`Entries`]).

mod audit;
mod content;
mod date;
mod journal;
mod libvirt;
mod look;
mod losses;
mod months;
mod ring;
mod stamp;
mod syslog;
#[cfg(test)]
mod tests;
mod tools;

pub(crate) use content::host;
pub(crate) use journal::Entries;
#[cfg(test)]
pub(crate) use journal::Export;
pub(crate) use look::resembles_record;

use bstr::ByteSlice as _;
use compact_str::CompactString;
use taptrail_record::ParseError;
use taptrail_trail::Content;

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
    /// No shape reads it, or nobody says that who wrote it may be believed. Most lines of a log are such, and
    /// of no concern: it counts where it [looks like a record](resembles_record).
    #[error("Line has a form that is not known, or a writer that is not believed")]
    Unknown,
    /// The journal's export format is broken here.
    #[error("Journal export is broken: a field does not end where it says")]
    Broken,
}

/// A line of audit's within a line of another shape.
pub(crate) struct Carried<'a> {
    /// From its `type=` or `node=` on.
    pub(crate) line: &'a [u8],
    pub(crate) voice: Voice,
    /// The host that the outer line names; empty where it names none.
    pub(crate) host: &'a [u8],
    /// See [`Found::is_claimed`].
    pub(crate) is_claimed: bool,
}

/// What one line tells of a guest or of a network device of its; most tell nothing.
///
/// A boot that has no time of its own ([`When::Unknown`]) is before the next line.
///
/// # Errors
///
/// A line that should tell something but can't be read; [`Unreadable::Unknown`] where nobody knows what it
/// is.
pub(crate) fn line(line: &[u8]) -> Result<Option<Found>, Unreadable> {
    match line {
        [b't', b'y', b'p', b'e', b'=', ..] | [b'n', b'o', b'd', b'e', b'=', ..] => audit::line(line),
        _ => other(trim(line)),
    }
}

fn other(line: &[u8]) -> Result<Option<Found>, Unreadable> {
    match shaped(line) {
        Err(Unreadable::Unknown) => shaped(behind_file_name(line).ok_or(Unreadable::Unknown)?),
        told => told,
    }
}

fn shaped(line: &[u8]) -> Result<Option<Found>, Unreadable> {
    if let Some(object) = json(line) {
        return self::object(object);
    }
    if is_audits(line) {
        return audit::line(line);
    }
    if let Some(line) = audit::dispatched(line) {
        return Ok(audit::line(line)?.map(|found| Found { voice: Voice::Dispatcher, ..found }));
    }
    if let Some(boot) = losses::boot(line) {
        let found = Found::new(When::Unknown, Voice::Journald, Content::Boot);
        return Ok(Some(Found { boot, ..found }));
    }
    if let Some(message) = ring::message(line) {
        return syslog::kernel_ring(&message);
    }
    let Some((when, rest)) = stamp::front(line) else {
        return tools::launcher_line(line).unwrap_or(Err(Unreadable::Unknown));
    };
    if let Some(rest) = rest.strip_prefix(b": ") {
        return libvirt::line(when, rest);
    }
    // The kubelet's: who printed the line, and whether it is whole.
    if let Some(rest) = rest.strip_prefix(b" stdout ").or_else(|| rest.strip_prefix(b" stderr ")) {
        return tools::wrapped(rest.strip_prefix(b"F ").ok_or(Unreadable::Unknown)?);
    }
    // A console's collector may put its own time before the kernel's.
    match rest.strip_prefix(b" ").and_then(ring::stamped) {
        Some(message) => syslog::kernel(when, message.text),
        None => syslog::line(when, rest),
    }
}

/// What an object of JSON tells.
fn object(object: &[u8]) -> Result<Option<Found>, Unreadable> {
    let entry = journal::json::entry(object)?;
    if entry.is_entry() { entry.found() } else { tools::object(object) }
}

/// Whether a line begins as audit's own do.
fn is_audits(line: &[u8]) -> bool {
    line.starts_with(b"type=") || line.starts_with(b"node=")
}

/// A line behind what grep puts before it: `audit.log:`, `./a/audit.log.1:17:`, `17:`. No blank stands there, and
/// no program names itself so.
fn behind_file_name(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().take(MAX_PATH).position(|byte| matches!(byte, b':' | b' '))?;
    let (name, rest) = (&line[..end], line[end..].strip_prefix(b":")?);
    let is_number = |text: &[u8]| stamp::number::<u64>(text).is_some();
    if is_number(name) {
        return Some(rest);
    }
    let known: [&[u8]; 5] = [b"audit", b"dmesg", b"journal", b"messages", b"syslog"];
    if !(name.contains(&b'/') || name.contains(&b'.') || known.contains(&name)) {
        return None;
    }
    match rest.split_once_str(b":") {
        Some((number, rest)) if is_number(number) => Some(rest),
        _ => Some(rest),
    }
}

/// A path is no longer (`PATH_MAX`, linux/limits.h).
const MAX_PATH: usize = 4096;

/// The line of audit's that a line of text is or holds.
pub(crate) fn carried(line: &[u8]) -> Option<Carried<'_>> {
    let line = trim(line);
    carried_in(line).or_else(|| carried_in(behind_file_name(line)?))
}

fn carried_in(line: &[u8]) -> Option<Carried<'_>> {
    if is_audits(line) {
        return Some(Carried { line, voice: Voice::Auditd, host: b"", is_claimed: false });
    }
    if let Some(line) = audit::dispatched(line) {
        return Some(Carried { line, voice: Voice::Dispatcher, host: b"", is_claimed: false });
    }
    if let Some(message) = ring::message(line) {
        return syslog::kernel_carried(&message);
    }
    let (when, rest) = stamp::front(line)?;
    if let Some(line) = rest.strip_prefix(b" stdout F ").or_else(|| rest.strip_prefix(b" stderr F ")) {
        return is_audits(line).then_some(Carried {
            line,
            voice: Voice::Auditd,
            host: b"",
            is_claimed: false,
        });
    }
    match rest.strip_prefix(b" ").and_then(ring::stamped) {
        Some(message) => syslog::kernel_carried(&message),
        None => syslog::carried(when, rest),
    }
}

/// The time that a line of any kind names at its front, whatever else it says.
pub(crate) fn first_time(line: &[u8]) -> Option<When> {
    let line = trim(line);
    time_of(line).or_else(|| time_of(behind_file_name(line)?))
}

fn time_of(line: &[u8]) -> Option<When> {
    if let Some(object) = json(line) {
        return journal::json::entry(object).ok()?.when().or_else(|| tools::when(object));
    }
    if let Some(value) = line.strip_prefix(b"__REALTIME_TIMESTAMP=") {
        return journal::moment(value);
    }
    if is_audits(line) {
        return audit::time(line);
    }
    if let Some(line) = audit::dispatched(line) {
        return audit::time(line);
    }
    if let Some(message) = ring::message(line) {
        let record = syslog::kernel_carried(&message).and_then(|carried| audit::time(carried.line));
        return record.or_else(|| Some(message.when).filter(|when| *when != When::Unknown));
    }
    stamp::front(line).map(|(when, _)| when)
}

/// The host that a line of any kind names, whatever else it says.
pub(crate) fn first_host(line: &[u8]) -> Option<CompactString> {
    let line = trim(line);
    if let Some(object) = json(line) {
        return content::host(journal::json::entry(object).ok()?.host()?);
    }
    if let Some(host) = line.strip_prefix(b"_HOSTNAME=") {
        return content::host(host);
    }
    let audits = line.strip_prefix(b"node=").or_else(|| audit::dispatched(line)?.strip_prefix(b"node="));
    if let Some((host, _)) = audits.and_then(|rest| rest.split_once_str(b" ")) {
        return content::host(host);
    }
    let (when, rest) = stamp::front(line)?;
    content::host(syslog::host(when, rest)?)
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
