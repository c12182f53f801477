//! Audit's own lines: raw, ENRICHED, the kernel's `type=2501 audit(…)`, and what `ausearch -i` makes of
//! them; and the text of a record where its type and time stand elsewhere.

use bstr::ByteSlice as _;
use jiff::Timestamp;
use taptrail_record::{Line, ParseError, RecordType, Stamp, parse_interpreted, parse_text};
use taptrail_trail::Content;

use super::{Unreadable, content, date, stamp};
use crate::found::{Found, Voice, When};

/// Stands between a record and the names that auditd resolved for it.
const ENRICHED: u8 = 0x1D;

/// Where the stamp is looked for: behind a host's name and a type.
const HEAD: usize = 512;

/// One line from its `type=` or `node=` on.
pub(super) fn line(line: &[u8]) -> Result<Option<Found>, Unreadable> {
    if !may_tell(line)? {
        return Ok(None);
    }
    match Line::parse(line) {
        Ok(parsed) if is_kernels(line) => {
            Ok(raw(&parsed)?.map(|found| Found { voice: Voice::Kernel, ..found }))
        }
        Ok(line) => raw(&line),
        Err(ParseError::NoType) => Err(Unreadable::Unknown),
        Err(ParseError::Stamp) => interpreted(line),
        Err(ParseError::Truncated) => cut(line),
        Err(error) => Err(error.into()),
    }
}

/// The line that a dispatcher's name stands before.
pub(super) fn dispatched(line: &[u8]) -> Option<&[u8]> {
    let (name, line) = line.split_once_str(b": ")?;
    is_dispatcher(name).then_some(line)
}

/// Whether a program passes audit's lines on.
pub(super) fn is_dispatcher(program: &[u8]) -> bool {
    matches!(program, b"audispd" | b"audisp-syslog" | b"audisp")
}

/// The time of a line of any type.
pub(super) fn time(line: &[u8]) -> Option<When> {
    let head = &line[..line.len().min(HEAD)];
    let (_, rest) = head.split_once_str(b"audit(")?;
    let (inner, _) = rest.split_once_str(b":")?;
    if let Some(moment) = stamp::unix(inner) {
        return Some(When::Exact(moment));
    }
    let (inner, _) = rest.split_once_str(b")")?;
    local(inner).map(|(when, _)| when)
}

/// A look at the type spares reading the many lines of others.
fn may_tell(line: &[u8]) -> Result<bool, Unreadable> {
    let line = match line.strip_prefix(b"node=") {
        Some(rest) => rest.split_once_str(b" ").map_or(b"".as_slice(), |(_, rest)| rest),
        None => line,
    };
    let name = line.strip_prefix(b"type=").ok_or(Unreadable::Unknown)?;
    match name.first() {
        Some(b'V') => Ok(name.starts_with(b"VIRT_RESOURCE ") || name.starts_with(b"VIRT_CONTROL ")),
        Some(b'S') => Ok(name.starts_with(b"SYSTEM_BOOT ")),
        Some(b'C') => Ok(name.starts_with(b"CONFIG_CHANGE ")),
        Some(b'D') => Ok(name.starts_with(b"DAEMON_")),
        Some(b'U') => Ok(name.starts_with(b"UNKNOWN[")),
        Some(byte) if byte.is_ascii_digit() => Ok(true),
        // A type that is of no concern.
        Some(byte) if byte.is_ascii_uppercase() => Ok(false),
        _ => Err(Unreadable::Unknown),
    }
}

fn raw(line: &Line<'_>) -> Result<Option<Found>, Unreadable> {
    let Some(record_type) = line.record_type.filter(|record_type| content::tells(*record_type)) else {
        return Ok(None);
    };
    // auditd knows the names of what it makes up itself.
    if content::is_daemons(record_type) && !line.type_name.starts_with(b"DAEMON_") {
        return Ok(None);
    }
    let content = match (record_type, line.text) {
        (RecordType::SYSTEM_BOOT, _) => Some(Content::Boot),
        _ if content::is_of_recording(record_type) => content::of_recording(record_type, line.pairs),
        (_, Some(text)) => content::of_record(record_type, text, parse_text(record_type, text))?,
        (_, None) => content::of_cut(record_type, b""),
    };
    content.map(|content| found(line, content)).transpose()
}

fn found(line: &Line<'_>, content: Content) -> Result<Found, Unreadable> {
    let is = |of: fn(RecordType) -> bool| line.record_type.is_some_and(of);
    Ok(Found {
        serial: (!is(content::is_daemons)).then_some(line.stamp.serial),
        host: line.node.and_then(|node| content::host(node)),
        // What these name is who asked for it.
        writer: line.pid.filter(|_| !is(content::is_of_recording)),
        ..Found::new(When::Exact(moment(line.stamp)?), Voice::Auditd, content)
    })
}

/// Whether a line has the form of the kernel's own log: `type=2501 audit(…): `. auditd writes `msg=audit(…)`.
fn is_kernels(line: &[u8]) -> bool {
    let rest = line.strip_prefix(b"type=").and_then(|rest| rest.split_once_str(b" "));
    rest.is_some_and(|(_, rest)| rest.starts_with(b"audit("))
}

fn moment(stamp: Stamp) -> Result<Timestamp, Unreadable> {
    let seconds = i64::try_from(stamp.seconds).map_err(|_| Unreadable::Time)?;
    Timestamp::new(seconds, i32::from(stamp.millis) * 1_000_000).map_err(|_| Unreadable::Time)
}

/// A raw line whose text has no closing quote.
fn cut(line: &[u8]) -> Result<Option<Found>, Unreadable> {
    let (head, text) = line.split_once_str(b" msg='").ok_or(ParseError::Truncated)?;
    let head = Line::parse(head)?;
    let text = text.find_byte(ENRICHED).map_or(text, |end| &text[..end]);
    let content = head.record_type.and_then(|record_type| content::of_cut(record_type, text));
    content.map(|content| found(&head, content)).transpose()
}

/// A line of `ausearch -i`: `type=VIRT_CONTROL msg=audit(08/05/2014 17:01:05.891:6471) : pid=1265 …`.
fn interpreted(line: &[u8]) -> Result<Option<Found>, Unreadable> {
    let line = line.trim_end_with(|c| matches!(c, '\n' | '\r' | ' '));
    let (node, rest) = match line.strip_prefix(b"node=") {
        Some(rest) => rest.split_once_str(b" ").unzip(),
        None => (None, Some(line)),
    };
    let header = || {
        let (name, rest) = rest?.strip_prefix(b"type=")?.split_once_str(b" ")?;
        let (inner, rest) = rest.strip_prefix(b"msg=audit(")?.split_once_str(b")")?;
        let rest = rest.trim_start_with(|c| c == ' ').strip_prefix(b":")?;
        Some((name, local(inner), rest))
    };
    let (name, stamp, rest) = header().ok_or(ParseError::Stamp)?;
    let Some(record_type) = RecordType::from_name(name).filter(|known| content::tells(*known)) else {
        return Ok(None);
    };
    let (when, serial) = stamp.ok_or(Unreadable::Time)?;
    if content::is_of_recording(record_type) {
        let content = content::of_recording(record_type, rest)
            .filter(|_| !content::is_daemons(record_type) || name.starts_with(b"DAEMON_"));
        let serial = serial.filter(|_| !content::is_daemons(record_type));
        let host = node.and_then(content::host);
        return Ok(content.map(|content| Found { serial, host, ..Found::new(when, Voice::Auditd, content) }));
    }
    let (writer, text) = if rest.contains_str(b"msg='") { body(rest) } else { unquoted(rest) };
    let content = match text {
        _ if record_type == RecordType::SYSTEM_BOOT => Some(Content::Boot),
        Text::Whole(text) => content::of_record(record_type, text, parse_interpreted(record_type, text))?
            .map(content::nameless),
        Text::Cut(text) => content::of_cut(record_type, text).map(content::nameless),
    };
    let host = node.and_then(content::host);
    Ok(content.map(|content| Found { serial, host, writer, ..Found::new(when, Voice::Auditd, content) }))
}

/// A date and a time as a locale writes them, and the serial number, which `audisp-syslog` leaves out.
fn local(inner: &[u8]) -> Option<(When, Option<u32>)> {
    let moment = |text: &[u8]| {
        let (day, time) = text.rsplit_once_str(b" ")?;
        date::local(day, time)
    };
    let numbered = || {
        let (time, serial) = inner.rsplit_once_str(b":")?;
        Some((moment(time)?, Some(stamp::number(serial)?)))
    };
    numbered().or_else(|| Some((moment(inner)?, None)))
}

/// The writer and the text of a record that `audisp-syslog` interpreted: `pid=1265 uid=root … virt=kvm …`,
/// without the quotes around the text. The kernel's pairs before it have names of their own.
fn unquoted(body: &[u8]) -> (Option<u32>, Text<'_>) {
    let begin = [&b" virt="[..], b" resrc=", b" op="].iter().filter_map(|key| body.find(key)).min();
    let (head, text) = body.split_at(begin.unwrap_or(body.len()));
    let pid = head.split_str(b" ").find_map(|word| stamp::number(word.strip_prefix(b"pid=")?));
    (pid, if text.is_empty() { Text::Cut(text) } else { Text::Whole(text.trim_ascii()) })
}

/// `VIRT_RESOURCE pid=385946 uid=0 … msg='…'`: a record as a journal and syslog keep it. The type, the
/// writer and what it tells.
pub(super) fn message(message: &[u8]) -> Option<Message<'_>> {
    let (name, body) = message.split_once_str(b" ")?;
    let is_name = || {
        name.len() > 2
            && name.iter().all(|byte| {
                byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'[' | b']')
            })
    };
    // Most types have names that are of no concern here.
    let record_type = named(name).or_else(|| is_name().then_some(OTHER))?;
    Some(Message { record_type, body })
}

/// No type has this number.
const OTHER: RecordType = RecordType(0);

/// A record without its stamp.
pub(super) struct Message<'a> {
    pub(super) record_type: RecordType,
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    pub(super) fn content(&self) -> Result<(Option<u32>, Option<Content>), Unreadable> {
        let record_type = self.record_type;
        if !content::tells(record_type) {
            return Ok((None, None));
        }
        if content::is_of_recording(record_type) {
            // The kernel knows nothing of what auditd makes up itself.
            let content = content::of_recording(record_type, self.body);
            return Ok((None, content.filter(|_| !content::is_daemons(record_type))));
        }
        let (writer, text) = body(self.body);
        let content = match text {
            _ if record_type == RecordType::SYSTEM_BOOT => Some(Content::Boot),
            Text::Whole(text) => content::of_record(record_type, text, parse_text(record_type, text))?,
            Text::Cut(text) => content::of_cut(record_type, text),
        };
        Ok((writer, content))
    }
}

/// A type's name; journald has names of its own for those that it doesn't know.
fn named(name: &[u8]) -> Option<RecordType> {
    let number = name
        .strip_prefix(b"AUDIT")
        .or_else(|| name.strip_prefix(b"<audit-").and_then(|rest| rest.strip_suffix(b">")))
        .and_then(stamp::number);
    number.map(RecordType).or_else(|| RecordType::from_name(name))
}

/// What stands between `msg='` and `'`, as far as it is there.
enum Text<'a> {
    Whole(&'a [u8]),
    Cut(&'a [u8]),
}

/// The writer and the text of what follows a stamp.
fn body(body: &[u8]) -> (Option<u32>, Text<'_>) {
    let (head, text) = body.split_once_str(b"msg='").unwrap_or((body, b""));
    let pid = head.split_str(b" ").find_map(|word| stamp::number(word.strip_prefix(b"pid=")?));
    // As in a raw line: a name may hold a quote, so the last one closes.
    let text = match text.rfind_byte(b'\'') {
        Some(close) => Text::Whole(&text[..close]),
        None => Text::Cut(text),
    };
    (pid, text)
}

/// Cuts off what auditd resolved, where a log's writer wrote the byte before it as `#035`: rsyslog does.
/// No name can imitate that: one with a `"` is written as hex.
pub(super) fn without_escaped_names(line: &[u8]) -> &[u8] {
    let Some(at) = line.rfind(b"'#035") else { return line };
    let mut rest = &line[at + 5..];
    while !rest.is_empty() {
        let pair = rest.split_once_str(b"=\"").filter(|(key, _)| {
            !key.is_empty() && key.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'_')
        });
        let Some((_, after)) = pair.and_then(|(_, value)| value.split_once_str(b"\"")) else {
            return line;
        };
        match after {
            [] => rest = after,
            [b' ', after @ ..] => rest = after,
            _ => return line,
        }
    }
    &line[..=at]
}
