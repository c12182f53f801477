//! Lines of syslog, and a journal's text: `May 12 12:48:00 host1 audit[385946]: VIRT_RESOURCE pid=…`.
//!
//! Anybody may give a log any text, and here also any program's name: what is believed of these lines
//! is no better than whoever kept them. A journal's JSON and export formats tell who wrote what.

use bstr::ByteSlice as _;

use super::{Unreadable, audit, content, libvirt, stamp};
use crate::found::{Found, Voice, When};

/// Who wrote a line, and what.
struct Written<'a> {
    host: &'a [u8],
    program: &'a [u8],
    pid: Option<u32>,
    text: &'a [u8],
}

impl Written<'_> {
    /// The host of a line counts where its record names none.
    fn named(&self, found: Option<Found>) -> Option<Found> {
        found.map(|found| Found { host: found.host.or_else(|| content::host(self.host)), ..found })
    }
}

/// A line from after its time on.
pub(super) fn line(when: When, rest: &[u8]) -> Result<Option<Found>, Unreadable> {
    let Some(written) = rest.strip_prefix(b" ").and_then(|rest| written(when, rest)) else { return Ok(None) };
    let found = match written.program {
        b"audit" if !written.text.starts_with(b"type=") => message(when, written.text)?,
        b"kernel" => kernel(written.text)?,
        program if program == b"audit" || audit::is_dispatcher(program) => {
            audit::line(audit::without_escaped_names(written.text))?
                .map(|found| Found { voice: Voice::Dispatcher, ..found })
        }
        program if libvirt::is_daemon(program) => libvirt::body(written.text)?.map(|(own, content)| Found {
            writer: written.pid,
            ..Found::new(own.unwrap_or(when), Voice::Manager, content)
        }),
        _ => None,
    };
    Ok(written.named(found))
}

/// A line of dmesg(1), `[  123.456789] audit: type=2501 audit(…): …`, or of a journal's text with times
/// since boot, which tell none.
pub(super) fn kernel_ring(line: &[u8]) -> Result<Option<Found>, Unreadable> {
    if let Some(record) = kernel_ring_record(line) {
        return Ok(audit::line(record)?.map(|found| Found { voice: Voice::Kernel, ..found }));
    }
    let Some(written) = uptime(line).and_then(tagged) else { return Ok(None) };
    match written.program {
        b"kernel" => Ok(written.named(kernel(written.text)?)),
        b"audit" => match audit::message(written.text) {
            Some(message) if content::tells(message.record_type) => Err(Unreadable::Time),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

/// The audit record in a line of dmesg(1).
pub(super) fn kernel_ring_record(line: &[u8]) -> Option<&[u8]> {
    let text = uptime(line)?;
    let text = text.strip_prefix(b"audit: ").unwrap_or(text);
    text.starts_with(b"type=").then_some(text)
}

/// What the kernel printed: no auditd took it.
pub(super) fn kernel(text: &[u8]) -> Result<Option<Found>, Unreadable> {
    let text = uptime(text).unwrap_or(text);
    let found = audit::line(audit::without_escaped_names(text.strip_prefix(b"audit: ").unwrap_or(text)))?;
    Ok(found.map(|found| Found { voice: Voice::Kernel, ..found }))
}

fn message(when: When, text: &[u8]) -> Result<Option<Found>, Unreadable> {
    let Some(message) = audit::message(text) else { return Ok(None) };
    let (writer, content) = message.content()?;
    Ok(content.map(|content| Found { writer, ..Found::new(when, Voice::Journald, content) }))
}

/// What follows `[  123.456789] `.
fn uptime(text: &[u8]) -> Option<&[u8]> {
    let (time, rest) = text.strip_prefix(b"[")?.split_once_str(b"] ")?;
    let (seconds, fraction) = time.trim_ascii_start().split_once_str(b".")?;
    (stamp::number::<u64>(seconds).is_some() && stamp::number::<u64>(fraction).is_some()).then_some(rest)
}

/// `host1 audit[385946]: text`, or RFC 5424's `host1 audit 385946 - - text`, whose times are exact.
fn written(when: When, rest: &[u8]) -> Option<Written<'_>> {
    tagged(rest).or_else(|| matches!(when, When::Exact(_)).then(|| rfc5424(rest))?)
}

/// `host1 audit[385946]: text`, `audit: text`
fn tagged(rest: &[u8]) -> Option<Written<'_>> {
    let (first, after) = rest.split_once_str(b" ")?;
    let (host, (program, pid), text) = match tag(first) {
        Some(tag) => (b"".as_slice(), tag, after),
        None => {
            let (second, text) = after.split_once_str(b" ")?;
            (first, tag(second)?, text)
        }
    };
    Some(Written { host, program, pid, text: text.trim_start_with(|c| c == ' ') })
}

/// `host1 audit 385946 - - text`
fn rfc5424(rest: &[u8]) -> Option<Written<'_>> {
    let mut words = rest.splitn_str(5, b" ");
    let (host, program, pid) = (words.next()?, words.next()?, words.next()?);
    let pid = match pid {
        b"-" => None,
        _ => Some(stamp::number(pid)?),
    };
    let text = words.nth(1)?;
    // None of these programs writes structured data; a collector may have added some.
    let text = match text.strip_prefix(b"- ") {
        Some(text) => text,
        None => text.strip_prefix(b"[")?.split_once_str(b"] ")?.1,
    };
    Some(Written { host, program, pid, text: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) })
}

/// `audit[385946]:`, `kernel:`
fn tag(word: &[u8]) -> Option<(&[u8], Option<u32>)> {
    let word = word.strip_suffix(b":")?;
    match word.strip_suffix(b"]").and_then(|word| word.rsplit_once_str(b"[")) {
        Some((program, pid)) => Some((program, stamp::number(pid))),
        None => Some((word, None)),
    }
}
