//! Parses libvirt's own log with `audit_logging=1`:
//! `26269: info : virDomainAuditNetDevice:318 : success=yes virt=kvm resrc=net …`, and its warnings
//! about records that it could not send.

use bstr::ByteSlice as _;
use taptrail_record::{Fragment, Outcome, ParseError, parse_claim};
use taptrail_trail::Content;

use super::{Unreadable, content, stamp};
use crate::parsed_line::{LineTime, LogProgram, ParsedLine};

/// Parses a line of the log from after the time on. The number there is a thread's, not the
/// daemon's.
pub(super) fn line(when: LineTime, rest: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    let content = message(header(rest).ok_or(Unreadable::Unknown)?)?;
    Ok(content.map(|content| ParsedLine::new(when, LogProgram::Manager, content)))
}

/// Parses a message in syslog or a journal: the bare message, or one in the form of libvirt's log,
/// with or without a time.
pub(super) fn body(body: &[u8]) -> Result<Option<(Option<LineTime>, Content)>, Unreadable> {
    let (when, rest) = match stamp::front(body) {
        Some((when, rest)) => (Some(when), rest.strip_prefix(b": ").unwrap_or(rest)),
        None => (None, body),
    };
    let text = match header(rest) {
        Some(text) => text,
        None if when.is_none() => rest,
        None => return Err(Unreadable::Unknown),
    };
    Ok(message(text)?.map(|content| (when, content)))
}

/// Whether a program is one of libvirt's daemons: `libvirtd`, `virtqemud`, `virtlxcd` …
pub(super) fn is_daemon(program: &[u8]) -> bool {
    let modular = || program.strip_prefix(b"virt").and_then(|rest| rest.strip_suffix(b"d"));
    program == b"libvirtd"
        || modular().is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_lowercase))
}

/// The message after `26269: info : virDomainAuditNetDevice:318 : `, if an auditing function wrote
/// it: other functions quote names and QEMU's messages.
fn header(rest: &[u8]) -> Option<&[u8]> {
    let (thread, rest) = rest.split_once_str(b": ")?;
    let (level, rest) = rest.split_once_str(b" : ")?;
    let (place, text) = rest.split_once_str(b" : ")?;
    let (function, line) = place.rsplit_once_str(b":")?;
    let is_header = stamp::number::<u64>(thread).is_some()
        && matches!(level, b"debug" | b"info" | b"warning" | b"error")
        && stamp::number::<u64>(line).is_some();
    (is_header && audits(function)).then_some(text)
}

/// Whether a function of libvirt writes audit records: `virDomainAuditNetDevice`, `virAuditSend` …
pub(super) fn audits(function: &[u8]) -> bool {
    function.contains_str(b"Audit") && function.iter().all(u8::is_ascii_alphanumeric)
}

/// Parses the message of an auditing function.
pub(super) fn message(message: &[u8]) -> Result<Option<Content>, Unreadable> {
    if let Some(text) = message.strip_prefix(b"Failed to send audit message ") {
        // The reason comes last: "…: Operation not permitted".
        let text = text.rsplit_once_str(b": ").map_or(text, |(text, _)| text);
        return Ok(content::is_about_guest(text).then(|| Content::Unsent(Fragment::of(text))));
    }
    let (text, outcome) = if let Some(text) = message.strip_prefix(b"success=yes ") {
        (text, Outcome::Success)
    } else if let Some(text) = message.strip_prefix(b"success=no ") {
        (text, Outcome::Failed)
    } else {
        return Err(Unreadable::Unknown);
    };
    match parse_claim(text, outcome) {
        Ok(record) => Ok(record.map(Content::Record)),
        Err(ParseError::Truncated) => {
            Ok(content::is_about_guest(text).then(|| Content::Truncated(Fragment::of(text))))
        }
        Err(error) => Err(error.into()),
    }
}
