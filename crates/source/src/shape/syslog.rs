//! Lines of syslog, and a journal's text: `May 12 12:48:00 host1 audit[385946]: VIRT_RESOURCE pid=…`; and the
//! kernel's own log.
//!
//! Any local user may give a log any text, and here also any program's name (`logger -t kernel`): what these lines tell is
//! marked as claimed. Only a process id behind the kernel's name shows that it is not the kernel's. A journal's JSON and
//! export formats tell who wrote what.

use bstr::ByteSlice as _;

use super::{Carried, Unreadable, audit, content, libvirt, losses, ring, stamp};
use crate::found::{Found, Voice, When};

/// Who wrote a line, and what.
struct Written<'a> {
    host: &'a [u8],
    program: &'a [u8],
    pid: Option<u32>,
    text: &'a [u8],
}

impl<'a> Written<'a> {
    /// The host of a line counts where its record names none.
    fn named(&self, found: Option<Found>) -> Option<Found> {
        found.map(|found| Found {
            host: found.host.or_else(|| content::host(self.host)),
            is_claimed: true,
            ..found
        })
    }

    /// The line of audit's that it holds.
    fn carried(&self) -> Option<Carried<'a>> {
        let (voice, line) = match self.program {
            b"kernel" => (Voice::Kernel, record_of(unstamped(self.text))?),
            program if is_audits(program) => (Voice::Dispatcher, self.text),
            _ => return None,
        };
        (line.starts_with(b"type=") || line.starts_with(b"node=")).then_some(Carried {
            line: audit::without_escaped_names(line),
            voice,
            host: self.host,
            is_claimed: true,
        })
    }
}

/// A line from after its time on.
pub(super) fn line(when: When, rest: &[u8]) -> Result<Option<Found>, Unreadable> {
    let written = rest.strip_prefix(b" ").and_then(|rest| written(when, rest)).ok_or(Unreadable::Unknown)?;
    let found = match written.program {
        b"audit" if !written.text.starts_with(b"type=") => message(when, written.text)?,
        b"kernel" => kernel(when, unstamped(written.text))?,
        program if is_audits(program) => daemon(when, program, written.text)?,
        b"systemd-journald" | b"rsyslogd" => losses::of_logger(written.text)
            .map(|content| Some(Found::new(when, Voice::Journald, content)))
            .ok_or(Unreadable::Unknown)?,
        program if libvirt::is_daemon(program) => libvirt::body(written.text)?.map(|(own, content)| Found {
            writer: written.pid,
            ..Found::new(own.unwrap_or(when), Voice::Manager, content)
        }),
        _ => return Err(Unreadable::Unknown),
    };
    Ok(written.named(found))
}

/// The host that a line of the kernel or of a process names, from after its time on. Programs that keep logs of their
/// own may have any words there.
pub(super) fn host(when: When, rest: &[u8]) -> Option<&[u8]> {
    let written = written(when, rest.strip_prefix(b" ")?)?;
    let is_known = written.program == b"kernel" || is_audits(written.program) || written.pid.is_some();
    is_known.then_some(written.host)
}

/// The line of audit's that a line of syslog holds, from after its time on.
pub(super) fn carried<'a>(when: When, rest: &'a [u8]) -> Option<Carried<'a>> {
    written(when, rest.strip_prefix(b" ")?)?.carried()
}

/// Whether a program is auditd or passes on what auditd writes.
fn is_audits(program: &[u8]) -> bool {
    matches!(program, b"audit" | b"auditd") || audit::is_dispatcher(program)
}

/// What auditd or a dispatcher of its wrote: a line of audit's, or a message of its own.
pub(super) fn daemon(when: When, program: &[u8], text: &[u8]) -> Result<Option<Found>, Unreadable> {
    let voice = if program == b"auditd" { Voice::Auditd } else { Voice::Dispatcher };
    if let Some(content) = losses::of_daemon(text) {
        return Ok(Some(Found::new(when, voice, content)));
    }
    let found = audit::line(audit::without_escaped_names(text))?;
    Ok(found.map(|found| match found.voice {
        Voice::Kernel => found,
        _ => Found { voice, ..found },
    }))
}

/// A line of the kernel's own log, `[  123.456789] audit: type=2501 audit(…): …`, or of a journal's text with
/// times since boot, which tell none.
pub(super) fn kernel_ring(message: &ring::Message<'_>) -> Result<Option<Found>, Unreadable> {
    if let Some(written) = of_journal(message) {
        return match written.program {
            b"kernel" => Ok(written.named(kernel(When::Unknown, unstamped(written.text))?)),
            b"audit" => match audit::message(written.text) {
                Some(message) if content::is_dated(message.record_type) => Err(Unreadable::Time),
                Some(_) => Ok(None),
                None => Err(Unreadable::Unknown),
            },
            _ => Err(Unreadable::Unknown),
        };
    }
    kernel(message.when, message.text)
}

/// The line of audit's that a line of the kernel's log holds.
pub(super) fn kernel_carried<'a>(message: &ring::Message<'a>) -> Option<Carried<'a>> {
    if let Some(written) = of_journal(message) {
        return written.carried();
    }
    let line = record_of(message.text).filter(|line| line.starts_with(b"type="))?;
    Some(Carried {
        line: audit::without_escaped_names(line),
        voice: Voice::Kernel,
        host: b"",
        is_claimed: false,
    })
}

/// `journalctl -o short-monotonic` names a host and a program behind the time, the kernel's log does not.
fn of_journal<'a>(message: &ring::Message<'a>) -> Option<Written<'a>> {
    let written = tagged(message.text)?;
    (message.when == When::Unknown && !written.host.is_empty()).then_some(written)
}

/// What the kernel printed: no auditd took it.
pub(super) fn kernel(when: When, text: &[u8]) -> Result<Option<Found>, Unreadable> {
    if let Some(content) = losses::of_kernel(text) {
        return Ok(Some(Found::new(when, Voice::Kernel, content)));
    }
    let line = record_of(text).ok_or(Unreadable::Unknown)?;
    let found = audit::line(audit::without_escaped_names(line))?;
    Ok(found.map(|found| Found { voice: Voice::Kernel, ..found }))
}

/// The record in a message of the kernel's.
fn record_of(text: &[u8]) -> Option<&[u8]> {
    let line = text.strip_prefix(b"audit: ").unwrap_or(text);
    line.starts_with(b"type=").then_some(line)
}

/// A message of the kernel's without the time since boot that it may have besides the line's own.
pub(super) fn unstamped(text: &[u8]) -> &[u8] {
    ring::stamped(text).map_or(text, |message| message.text)
}

fn message(when: When, text: &[u8]) -> Result<Option<Found>, Unreadable> {
    // dmesg's times may stand where syslog's do.
    if let Some(content) = losses::of_kernel(&[b"audit: ", text].concat()) {
        return Ok(Some(Found::new(when, Voice::Kernel, content)));
    }
    let message = audit::message(text).ok_or(Unreadable::Unknown)?;
    let (writer, content) = message.content()?;
    Ok(content.map(|content| Found { writer, ..Found::new(when, Voice::Journald, content) }))
}

/// `host1 audit[385946]: text`, or RFC 5424's `host1 audit 385946 - - text`, whose times are exact.
fn written(when: When, rest: &[u8]) -> Option<Written<'_>> {
    tagged(rest).or_else(|| matches!(when, When::Exact(_)).then(|| rfc5424(rest))?)
}

/// `host1 audit[385946]: text`, `audit: text`, `10.0.0.1 host1 audit: text` behind a relay, and
/// `host1 kern.notice kernel: text` of busybox.
fn tagged(rest: &[u8]) -> Option<Written<'_>> {
    let (mut host, mut rest) = (b"".as_slice(), rest);
    for _ in 0..4 {
        let (word, after) = rest.split_once_str(b" ")?;
        if let Some((program, pid)) = tag(word) {
            return Some(Written { host, program, pid, text: after.trim_start_with(|c| c == ' ') });
        }
        if !stamp::is_priority(word) {
            // Of a relay's address and a host's name, the name tells whose line it is.
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
        None => structured_data(text)?.strip_prefix(b" ")?,
    };
    let host = if host == b"-" { b"" } else { host };
    Some(Written { host, program, pid, text: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) })
}

/// What follows `[id key="value \] " …][…]`.
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

/// `audit[385946]:`, `kernel:`; `journalctl -o with-unit` names a unit of the system's instead.
fn tag(word: &[u8]) -> Option<(&[u8], Option<u32>)> {
    let word = word.strip_suffix(b":")?;
    let (program, pid) = match word.strip_suffix(b"]").and_then(|word| word.rsplit_once_str(b"[")) {
        Some((program, pid)) => (program, stamp::number(pid)),
        None => (word, None),
    };
    match program {
        // The kernel has none, and no unit is it.
        b"kernel" | b"kernel.service" if program.len() < word.len() || program != b"kernel" => {
            Some((word, None))
        }
        _ => Some((program.strip_suffix(b".service").unwrap_or(program), pid)),
    }
}
