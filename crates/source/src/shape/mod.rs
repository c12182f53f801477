//! Parses the shapes of logs: from the bytes of one line, or of one journal entry, to its content.
//! Nothing here reads a file or knows the line before.
//!
//! A shape is detected by how the line begins. The writer of a line decides whether it is trusted:
//! an audit record is one if audit, its dispatcher, the kernel or a guest manager wrote it. Similar
//! text within a line of another program is not.
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
//! A journal's export format is not line-based, because its fields may contain any bytes; neither
//! are multi-line objects and entries ([`Entries`]).

mod audit;
mod content;
mod date;
mod journal;
mod libvirt;
mod losses;
mod months;
mod resemblance;
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
pub(crate) use resemblance::resembles_record;

use bstr::ByteSlice as _;
use compact_str::CompactString;
use taptrail_record::ParseError;
use taptrail_trail::Content;

use crate::parsed_line::{LineTime, LogProgram, ParsedLine};

/// Why a line that should be a record can't be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// The record is invalid.
    #[error(transparent)]
    Record(#[from] ParseError),
    /// The record has no time, or an invalid one.
    #[error("Record has no readable time")]
    Time,
    /// The line begins like JSON and is none.
    #[error("Line is no JSON object of a journal, from column {column}")]
    Json { column: usize },
    /// A field's value has the wrong type.
    #[error("Journal entry has no valid '{field}'")]
    Field { field: &'static str },
    /// The line is longer than any record.
    #[error("Line is too long: {max} bytes are taken at most")]
    TooLong { max: usize },
    /// The line has no known shape, or its writer is not trusted. Most lines of a log are such and
    /// irrelevant: only those that [look like a record](resembles_record) are counted.
    #[error("Line has a form that is not known, or a writer that is not believed")]
    Unknown,
    /// The journal's export format is violated here.
    #[error("Journal export is broken: a field does not end where it says")]
    Broken,
}

/// A raw audit line within a line of another shape.
pub(crate) struct EmbeddedRecord<'a> {
    /// The audit line, from `type=` or `node=` on.
    pub(crate) line: &'a [u8],
    pub(crate) program: LogProgram,
    /// The host that the outer line names; empty if it names none.
    pub(crate) host: &'a [u8],
    /// See [`ParsedLine::is_unauthenticated`].
    pub(crate) is_unauthenticated: bool,
}

/// Parses one line. `None` if it is irrelevant, like most lines.
///
/// A boot without a time ([`LineTime::Unknown`]) comes before the next line.
///
/// # Errors
///
/// A line that should be a record can't be parsed; [`Unreadable::Unknown`] if its shape is unknown.
pub(crate) fn line(line: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    match line {
        [b't', b'y', b'p', b'e', b'=', ..] | [b'n', b'o', b'd', b'e', b'=', ..] => audit::line(line),
        _ => other(trim(line)),
    }
}

fn other(line: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    match shaped(line) {
        Err(Unreadable::Unknown) => shaped(behind_file_name(line).ok_or(Unreadable::Unknown)?),
        result => result,
    }
}

fn shaped(line: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    if let Some(object) = json(line) {
        return self::object(object);
    }
    if is_audits(line) {
        return audit::line(line);
    }
    if let Some(line) = audit::dispatched(line) {
        return Ok(audit::line(line)?.map(|found| ParsedLine { program: LogProgram::Dispatcher, ..found }));
    }
    if let Some(boot) = losses::boot(line) {
        let found = ParsedLine::new(LineTime::Unknown, LogProgram::Journald, Content::Boot);
        return Ok(Some(ParsedLine { boot, ..found }));
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
    // The kubelet's format: the stream, and whether the line is complete.
    if let Some(rest) = rest.strip_prefix(b" stdout ").or_else(|| rest.strip_prefix(b" stderr ")) {
        return tools::wrapped(rest.strip_prefix(b"F ").ok_or(Unreadable::Unknown)?);
    }
    // A console's collector may put its own time before the kernel's.
    match rest.strip_prefix(b" ").and_then(ring::stamped) {
        Some(message) => syslog::kernel(when, message.text),
        None => syslog::line(when, rest),
    }
}

/// Parses the record of another resource than a network device in a line that is irrelevant for
/// [`line()`].
///
/// # Errors
///
/// It is such a record, but invalid.
pub(crate) fn resource(line: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    let line = trim(line);
    if let Some(record) = embedded_record(line) {
        let Some(found) = audit::resource(record.line)? else { return Ok(None) };
        return Ok(Some(ParsedLine {
            program: record.program,
            host: found.host.clone().or_else(|| host(record.host)),
            is_unauthenticated: record.is_unauthenticated,
            ..found
        }));
    }
    if let Some(object) = json(line) {
        return journal::json::entry(object)?.resource();
    }
    match stamp::front(line) {
        Some((when, rest)) => syslog::resource(when, rest),
        None => Ok(None),
    }
}

/// Parses a JSON object.
fn object(object: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    let entry = journal::json::entry(object)?;
    if entry.is_entry() { entry.parse() } else { tools::object(object) }
}

/// Whether a line begins like a raw audit line.
fn is_audits(line: &[u8]) -> bool {
    line.starts_with(b"type=") || line.starts_with(b"node=")
}

/// The line after grep's prefix: `audit.log:`, `./a/audit.log.1:17:`, `17:`. The prefix has no
/// blank, and no program has such a name.
fn behind_file_name(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().take(MAX_PATH_BYTES).position(|byte| matches!(byte, b':' | b' '))?;
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

/// Maximum length of a path (`PATH_MAX`, linux/limits.h).
const MAX_PATH_BYTES: usize = 4096;

/// The raw audit line that a text line is or contains.
pub(crate) fn embedded_record(line: &[u8]) -> Option<EmbeddedRecord<'_>> {
    let line = trim(line);
    embedded_record_in(line).or_else(|| embedded_record_in(behind_file_name(line)?))
}

fn embedded_record_in(line: &[u8]) -> Option<EmbeddedRecord<'_>> {
    if is_audits(line) {
        return Some(EmbeddedRecord {
            line,
            program: LogProgram::Auditd,
            host: b"",
            is_unauthenticated: false,
        });
    }
    if let Some(line) = audit::dispatched(line) {
        return Some(EmbeddedRecord {
            line,
            program: LogProgram::Dispatcher,
            host: b"",
            is_unauthenticated: false,
        });
    }
    if let Some(message) = ring::message(line) {
        return syslog::kernel_record(&message);
    }
    let (when, rest) = stamp::front(line)?;
    if let Some(line) = rest.strip_prefix(b" stdout F ").or_else(|| rest.strip_prefix(b" stderr F ")) {
        return is_audits(line).then_some(EmbeddedRecord {
            line,
            program: LogProgram::Auditd,
            host: b"",
            is_unauthenticated: false,
        });
    }
    match rest.strip_prefix(b" ").and_then(ring::stamped) {
        Some(message) => syslog::kernel_record(&message),
        None => syslog::embedded_record(when, rest),
    }
}

/// The time at the beginning of a line of any kind.
pub(crate) fn first_time(line: &[u8]) -> Option<LineTime> {
    let line = trim(line);
    time_of(line).or_else(|| time_of(behind_file_name(line)?))
}

fn time_of(line: &[u8]) -> Option<LineTime> {
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
        let record = syslog::kernel_record(&message).and_then(|record| audit::time(record.line));
        return record.or_else(|| Some(message.when).filter(|when| *when != LineTime::Unknown));
    }
    stamp::front(line).map(|(when, _)| when)
}

/// The host that a line of any kind names.
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

/// The object in a line of `journalctl -o json`, `json-seq` or `json-sse`.
fn json(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_prefix(b"\x1e").or_else(|| line.strip_prefix(b"data: ")).unwrap_or(line);
    line.starts_with(b"{").then_some(line)
}

/// Removes the line's end, zero bytes that a host's crash left in an unwritten block, and a byte
/// order mark.
fn trim(line: &[u8]) -> &[u8] {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let line = line.trim_start_with(|c| c == '\0');
    line.trim_end_with(|c| matches!(c, '\n' | '\r' | '\0'))
}
