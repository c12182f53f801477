//! Parses lines of syslog and of a journal's text:
//! `May 12 12:48:00 host1 audit[385946]: VIRT_RESOURCE pid=…`; and the kernel's own log.
//!
//! Any local user may log any text, here also under any program's name (`logger -t kernel`), so
//! these lines are marked as unauthenticated. A process id after the kernel's name shows that a
//! line is not the kernel's. A journal's JSON and export formats show who wrote an entry.

use bstr::ByteSlice as _;

use super::{EmbeddedRecord, Unreadable, audit, content, libvirt, losses, ring, stamp};
use crate::parsed_line::{LineTime, LogProgram, ParsedLine};

/// A syslog line, split into its parts.
struct SyslogLine<'a> {
    host: &'a [u8],
    program: &'a [u8],
    pid: Option<u32>,
    text: &'a [u8],
}

impl<'a> SyslogLine<'a> {
    /// Adds the line's host to a record that names none, and marks it as unauthenticated.
    fn named(&self, found: Option<ParsedLine>) -> Option<ParsedLine> {
        found.map(|found| ParsedLine {
            host: found.host.or_else(|| content::host(self.host)),
            is_unauthenticated: true,
            ..found
        })
    }

    /// The raw audit line that it contains.
    fn embedded_record(&self) -> Option<EmbeddedRecord<'a>> {
        let (program, line) = match self.program {
            b"kernel" => (LogProgram::Kernel, record_of(unstamped(self.text))?),
            program if is_audits(program) => (LogProgram::Dispatcher, self.text),
            _ => return None,
        };
        (line.starts_with(b"type=") || line.starts_with(b"node=")).then_some(EmbeddedRecord {
            line: audit::without_escaped_names(line),
            program,
            host: self.host,
            is_unauthenticated: true,
        })
    }
}

/// Parses a line from after its time on.
pub(super) fn line(when: LineTime, rest: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    let written = rest.strip_prefix(b" ").and_then(|rest| written(when, rest)).ok_or(Unreadable::Unknown)?;
    let found = match written.program {
        b"audit" if !written.text.starts_with(b"type=") => message(when, written.text)?,
        b"kernel" => kernel(when, unstamped(written.text))?,
        program if is_audits(program) => daemon(when, program, written.text)?,
        b"systemd-journald" | b"rsyslogd" => losses::of_logger(written.text)
            .map(|content| Some(ParsedLine::new(when, LogProgram::Journald, content)))
            .ok_or(Unreadable::Unknown)?,
        program if libvirt::is_daemon(program) => {
            libvirt::body(written.text)?.map(|(own, content)| ParsedLine {
                writer: written.pid,
                ..ParsedLine::new(own.unwrap_or(when), LogProgram::Manager, content)
            })
        }
        _ => return Err(Unreadable::Unknown),
    };
    Ok(written.named(found))
}

/// Parses a record of another resource than a network device, from after the line's time on.
pub(super) fn resource(when: LineTime, rest: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    let written = rest.strip_prefix(b" ").and_then(|rest| written(when, rest));
    let Some(written) = written.filter(|written| written.program == b"audit") else { return Ok(None) };
    let Some(message) = audit::message(written.text) else { return Ok(None) };
    let found = message.resource()?.map(|(sender, content)| ParsedLine {
        writer: sender.pid,
        credentials: sender.credentials,
        ..ParsedLine::new(when, LogProgram::Journald, content)
    });
    Ok(written.named(found))
}

/// The host that a line of the kernel or a process names, from after the line's time on. Other
/// programs' own logs may have any words there.
pub(super) fn host(when: LineTime, rest: &[u8]) -> Option<&[u8]> {
    let written = written(when, rest.strip_prefix(b" ")?)?;
    let is_known = written.program == b"kernel" || is_audits(written.program) || written.pid.is_some();
    is_known.then_some(written.host)
}

/// The raw audit line that a syslog line contains, from after the line's time on.
pub(super) fn embedded_record<'a>(when: LineTime, rest: &'a [u8]) -> Option<EmbeddedRecord<'a>> {
    written(when, rest.strip_prefix(b" ")?)?.embedded_record()
}

/// Whether a program is auditd or relays its lines.
fn is_audits(program: &[u8]) -> bool {
    matches!(program, b"audit" | b"auditd") || audit::is_dispatcher(program)
}

/// Parses a text from auditd or a dispatcher: a raw audit line, or a message of its own.
pub(super) fn daemon(when: LineTime, program: &[u8], text: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    let program = if program == b"auditd" { LogProgram::Auditd } else { LogProgram::Dispatcher };
    if let Some(content) = losses::of_daemon(text) {
        return Ok(Some(ParsedLine::new(when, program, content)));
    }
    let found = audit::line(audit::without_escaped_names(text))?;
    Ok(found.map(|found| match found.program {
        LogProgram::Kernel => found,
        _ => ParsedLine { program, ..found },
    }))
}

/// Parses a line of the kernel's own log, `[  123.456789] audit: type=2501 audit(…): …`, or of a
/// journal's text with times since boot, which give no date.
pub(super) fn kernel_ring(message: &ring::Message<'_>) -> Result<Option<ParsedLine>, Unreadable> {
    if let Some(written) = of_journal(message) {
        return match written.program {
            b"kernel" => Ok(written.named(kernel(LineTime::Unknown, unstamped(written.text))?)),
            b"audit" => match audit::message(written.text) {
                Some(message) if content::needs_time(message.record_type) => Err(Unreadable::Time),
                Some(_) => Ok(None),
                None => Err(Unreadable::Unknown),
            },
            _ => Err(Unreadable::Unknown),
        };
    }
    kernel(message.when, message.text)
}

/// The raw audit line that a line of the kernel's log contains.
pub(super) fn kernel_record<'a>(message: &ring::Message<'a>) -> Option<EmbeddedRecord<'a>> {
    if let Some(written) = of_journal(message) {
        return written.embedded_record();
    }
    let line = record_of(message.text).filter(|line| line.starts_with(b"type="))?;
    Some(EmbeddedRecord {
        line: audit::without_escaped_names(line),
        program: LogProgram::Kernel,
        host: b"",
        is_unauthenticated: false,
    })
}

/// `journalctl -o short-monotonic` prints a host and a program after the time; the kernel's log
/// does not.
fn of_journal<'a>(message: &ring::Message<'a>) -> Option<SyslogLine<'a>> {
    let written = tagged(message.text)?;
    (message.when == LineTime::Unknown && !written.host.is_empty()).then_some(written)
}

/// Parses a kernel message: the kernel prints records if no auditd runs.
pub(super) fn kernel(when: LineTime, text: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    if let Some(content) = losses::of_kernel(text) {
        return Ok(Some(ParsedLine::new(when, LogProgram::Kernel, content)));
    }
    let line = record_of(text).ok_or(Unreadable::Unknown)?;
    let found = audit::line(audit::without_escaped_names(line))?;
    Ok(found.map(|found| ParsedLine { program: LogProgram::Kernel, ..found }))
}

/// The record in a kernel message.
fn record_of(text: &[u8]) -> Option<&[u8]> {
    let line = text.strip_prefix(b"audit: ").unwrap_or(text);
    line.starts_with(b"type=").then_some(line)
}

/// A kernel message without the time since boot that it may have in addition to the line's time.
pub(super) fn unstamped(text: &[u8]) -> &[u8] {
    ring::stamped(text).map_or(text, |message| message.text)
}

fn message(when: LineTime, text: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    // dmesg may print times like syslog's.
    if let Some(content) = losses::of_kernel(&[b"audit: ", text].concat()) {
        return Ok(Some(ParsedLine::new(when, LogProgram::Kernel, content)));
    }
    let message = audit::message(text).ok_or(Unreadable::Unknown)?;
    let (audit::Sender { pid: writer, credentials }, content) = message.content()?;
    Ok(content.map(|content| ParsedLine {
        writer,
        credentials,
        ..ParsedLine::new(when, LogProgram::Journald, content)
    }))
}

/// Splits `host1 audit[385946]: text`, or RFC 5424's `host1 audit 385946 - - text`, whose times are
/// exact.
fn written(when: LineTime, rest: &[u8]) -> Option<SyslogLine<'_>> {
    tagged(rest).or_else(|| matches!(when, LineTime::Exact(_)).then(|| rfc5424(rest))?)
}

/// Splits `host1 audit[385946]: text`, `audit: text`, `10.0.0.1 host1 audit: text` from a relay,
/// and `host1 kern.notice kernel: text` from busybox.
fn tagged(rest: &[u8]) -> Option<SyslogLine<'_>> {
    let (mut host, mut rest) = (b"".as_slice(), rest);
    for _ in 0..4 {
        let (word, after) = rest.split_once_str(b" ")?;
        if let Some((program, pid)) = tag(word) {
            return Some(SyslogLine { host, program, pid, text: after.trim_start_with(|c| c == ' ') });
        }
        if !stamp::is_priority(word) {
            // Of a relay's address and a host's name, the name is the line's host.
            if !host.is_empty() && !is_address(host) {
                return None;
            }
            host = word;
        }
        rest = after;
    }
    None
}

fn is_address(word: &[u8]) -> bool {
    word.len() <= 45 && word.to_str().is_ok_and(|word| word.parse::<std::net::IpAddr>().is_ok())
}

/// Splits `host1 audit 385946 - - text`.
fn rfc5424(rest: &[u8]) -> Option<SyslogLine<'_>> {
    let mut words = rest.splitn_str(5, b" ");
    let (host, program, pid) = (words.next()?, words.next()?, words.next()?);
    let pid = match pid {
        b"-" => None,
        _ => Some(stamp::number(pid)?),
    };
    let text = words.nth(1)?;
    // None of these programs writes structured data, but a collector may have added some.
    let text = match text.strip_prefix(b"- ") {
        Some(text) => text,
        None => structured_data(text)?.strip_prefix(b" ")?,
    };
    let host = if host == b"-" { b"" } else { host };
    Some(SyslogLine { host, program, pid, text: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) })
}

/// The text after `[id key="value \] " …][…]`.
fn structured_data(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    while let Some(mut inner) = rest.strip_prefix(b"[") {
        let mut quoted = false;
        rest = loop {
            let at = inner.find_byteset(if quoted { b"\"\\" } else { b"\"]" })?;
            let (byte, after) = (inner[at], &inner[at + 1..]);
            match byte {
                b']' => break after,
                b'"' => (quoted, inner) = (!quoted, after),
                _ => inner = after.get(1..)?,
            }
        };
    }
    (rest.len() < text.len()).then_some(rest)
}

/// Parses `audit[385946]:` and `kernel:`; `journalctl -o with-unit` prints a systemd unit instead.
fn tag(word: &[u8]) -> Option<(&[u8], Option<u32>)> {
    let word = word.strip_suffix(b":")?;
    let (program, pid) = match word.strip_suffix(b"]").and_then(|word| word.rsplit_once_str(b"[")) {
        Some((program, pid)) => (program, stamp::number(pid)),
        None => (word, None),
    };
    match program {
        // The kernel has no pid, and is no unit: this is another program.
        b"kernel" | b"kernel.service" if program.len() < word.len() || program != b"kernel" => {
            Some((word, None))
        }
        _ => Some((program.strip_suffix(b".service").unwrap_or(program), pid)),
    }
}
