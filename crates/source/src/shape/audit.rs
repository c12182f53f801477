//! Parses audit's own lines: raw, ENRICHED, the kernel's `type=2501 audit(…)`, and the output of
//! `ausearch -i`; and the text of a record whose type and time stand elsewhere.

use bstr::ByteSlice as _;
use jiff::Timestamp;
use taptrail_record::{Line, ParseError, RecordType, Stamp, parse_interpreted, parse_resource, parse_text};
use taptrail_trail::{Content, Credentials};

use super::{Unreadable, content, date, stamp};
use crate::parsed_line::{LineTime, LogProgram, ParsedLine};

/// Separates a record from the names that auditd resolved for it.
const ENRICHED: u8 = 0x1D;

/// Bytes in which a line's stamp is searched, after a host's name and a type.
const STAMP_SEARCH_BYTES: usize = 512;

/// Parses a line from its `type=` or `node=` on.
pub(super) fn line(line: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    if !is_relevant_line(line)? {
        return Ok(None);
    }
    match Line::parse(line) {
        Ok(parsed) if is_kernels(line) => {
            Ok(raw(&parsed)?.map(|found| ParsedLine { program: LogProgram::Kernel, ..found }))
        }
        Ok(line) => raw(&line),
        Err(ParseError::NoType) => Err(Unreadable::Unknown),
        Err(ParseError::Stamp) => interpreted(line),
        Err(ParseError::Truncated) => truncated(line),
        Err(error) => Err(error.into()),
    }
}

/// Parses a raw line of another resource than a network device.
pub(super) fn resource(line: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    let Ok(line) = Line::parse(line) else { return Ok(None) };
    let (Some(record_type), Some(text)) = (line.record_type, line.text) else { return Ok(None) };
    let content = parse_resource(record_type, text)?.map(Content::Resource);
    content.map(|content| parsed_line(&line, content)).transpose()
}

/// The line after a dispatcher's name.
pub(super) fn dispatched(line: &[u8]) -> Option<&[u8]> {
    let (name, line) = line.split_once_str(b": ")?;
    is_dispatcher(name).then_some(line)
}

/// Whether a program relays audit's lines.
pub(super) fn is_dispatcher(program: &[u8]) -> bool {
    matches!(program, b"audispd" | b"audisp-syslog" | b"audisp")
}

/// The time of a line of any type.
pub(super) fn time(line: &[u8]) -> Option<LineTime> {
    let head = &line[..line.len().min(STAMP_SEARCH_BYTES)];
    let (_, rest) = head.split_once_str(b"audit(")?;
    let (inner, _) = rest.split_once_str(b":")?;
    if let Some(moment) = stamp::unix(inner) {
        return Some(LineTime::Exact(moment));
    }
    let (inner, _) = rest.split_once_str(b")")?;
    local(inner).map(|(when, _)| when)
}

/// Whether a line's type is relevant. It spares parsing the many others.
fn is_relevant_line(line: &[u8]) -> Result<bool, Unreadable> {
    let line = match line.strip_prefix(b"node=") {
        Some(rest) => rest.split_once_str(b" ").map_or(b"".as_slice(), |(_, rest)| rest),
        None => line,
    };
    let name = line.strip_prefix(b"type=").ok_or(Unreadable::Unknown)?;
    match name.first() {
        Some(b'V') => Ok(name.starts_with(b"VIRT_RESOURCE ") || name.starts_with(b"VIRT_CONTROL ")),
        Some(b'S') => Ok(name.starts_with(b"SYSTEM_BOOT ")),
        Some(b'C') => Ok(name.starts_with(b"CONFIG_CHANGE ")),
        Some(b'A') => Ok(name.starts_with(b"AVC ") || name.starts_with(b"ANOM_ABEND ")),
        Some(b'D') => Ok(name.starts_with(b"DAEMON_")),
        Some(b'U') => Ok(name.starts_with(b"UNKNOWN[")),
        Some(byte) if byte.is_ascii_digit() => Ok(true),
        // An irrelevant type.
        Some(byte) if byte.is_ascii_uppercase() => Ok(false),
        _ => Err(Unreadable::Unknown),
    }
}

fn raw(line: &Line<'_>) -> Result<Option<ParsedLine>, Unreadable> {
    let Some(record_type) = line.record_type.filter(|record_type| content::is_relevant(*record_type)) else {
        return Ok(None);
    };
    // auditd writes its own records with their type's name, never with a number.
    if content::is_auditd_type(record_type) && !line.type_name.starts_with(b"DAEMON_") {
        return Ok(None);
    }
    let content = match (record_type, line.text) {
        (RecordType::SYSTEM_BOOT, _) => Some(Content::Boot),
        _ if content::is_recording_type(record_type) => content::recording_change(record_type, line.pairs),
        _ if content::is_about_process(record_type) => content::of_process(record_type, line.pairs),
        (_, Some(text)) => content::record_content(record_type, text, parse_text(record_type, text))?,
        (_, None) => content::truncated_record(record_type, b""),
    };
    content.map(|content| parsed_line(line, content)).transpose()
}

fn parsed_line(line: &Line<'_>, content: Content) -> Result<ParsedLine, Unreadable> {
    let is = |of: fn(RecordType) -> bool| line.record_type.is_some_and(of);
    let is_text_type = !is(content::is_recording_type) && !is(content::is_about_process);
    Ok(ParsedLine {
        serial: (!is(content::is_auditd_type)).then_some(line.stamp.serial),
        host: line.node.and_then(|node| content::host(node)),
        // In the kernel's own records they are those of another process.
        writer: line.pid.filter(|_| is_text_type),
        credentials: credentials(line).filter(|_| is_text_type),
        ..ParsedLine::new(LineTime::Exact(moment(line.stamp)?), LogProgram::Auditd, content)
    })
}

fn credentials(line: &Line<'_>) -> Option<Credentials> {
    Some(Credentials { uid: line.uid?, auid: line.auid?, ses: line.ses? })
}

/// Whether a line has the form of the kernel's log: `type=2501 audit(…): `. auditd writes
/// `msg=audit(…)`.
fn is_kernels(line: &[u8]) -> bool {
    let rest = line.strip_prefix(b"type=").and_then(|rest| rest.split_once_str(b" "));
    rest.is_some_and(|(_, rest)| rest.starts_with(b"audit("))
}

fn moment(stamp: Stamp) -> Result<Timestamp, Unreadable> {
    let seconds = i64::try_from(stamp.seconds).map_err(|_| Unreadable::Time)?;
    Timestamp::new(seconds, i32::from(stamp.millis) * 1_000_000).map_err(|_| Unreadable::Time)
}

/// Parses a raw line whose text has no closing quote.
fn truncated(line: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    let (head, text) = line.split_once_str(b" msg='").ok_or(ParseError::Truncated)?;
    let head = Line::parse(head)?;
    let text = text.find_byte(ENRICHED).map_or(text, |end| &text[..end]);
    let content = head.record_type.and_then(|record_type| content::truncated_record(record_type, text));
    content.map(|content| parsed_line(&head, content)).transpose()
}

/// Parses a line of `ausearch -i`:
/// `type=VIRT_CONTROL msg=audit(08/05/2014 17:01:05.891:6471) : pid=1265 …`.
fn interpreted(line: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
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
    let Some(record_type) = RecordType::from_name(name).filter(|known| content::is_relevant(*known)) else {
        return Ok(None);
    };
    if content::is_about_process(record_type) {
        // A process's name has no quotes here, and may imitate any pair.
        return Ok(None);
    }
    let (when, serial) = stamp.ok_or(Unreadable::Time)?;
    if content::is_recording_type(record_type) {
        let content = content::recording_change(record_type, rest)
            .filter(|_| !content::is_auditd_type(record_type) || name.starts_with(b"DAEMON_"));
        let serial = serial.filter(|_| !content::is_auditd_type(record_type));
        let host = node.and_then(content::host);
        return Ok(content.map(|content| ParsedLine {
            serial,
            host,
            ..ParsedLine::new(when, LogProgram::Auditd, content)
        }));
    }
    let (sender, text) = if rest.contains_str(b"msg='") { body(rest) } else { unquoted(rest) };
    let content = match text {
        _ if record_type == RecordType::SYSTEM_BOOT => Some(Content::Boot),
        Text::Complete(text) => {
            content::record_content(record_type, text, parse_interpreted(record_type, text))?
                .map(content::without_name)
        }
        Text::Truncated(text) => content::truncated_record(record_type, text).map(content::without_name),
    };
    let host = node.and_then(content::host);
    Ok(content.map(|content| ParsedLine {
        serial,
        host,
        writer: sender.pid,
        credentials: sender.credentials,
        ..ParsedLine::new(when, LogProgram::Auditd, content)
    }))
}

/// Parses a date and time in a locale's format, and the serial number, which `audisp-syslog` leaves
/// out.
fn local(inner: &[u8]) -> Option<(LineTime, Option<u32>)> {
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

/// The sender and the text of a record that `audisp-syslog` interpreted:
/// `pid=1265 uid=root … virt=kvm …`, without the quotes around the text. The kernel's pairs before
/// it have other names.
fn unquoted(body: &[u8]) -> (Sender, Text<'_>) {
    let begin = [&b" virt="[..], b" resrc=", b" op="].iter().filter_map(|key| body.find(key)).min();
    let (head, text) = body.split_at(begin.unwrap_or(body.len()));
    (
        Sender::of(head),
        if text.is_empty() { Text::Truncated(text) } else { Text::Complete(text.trim_ascii()) },
    )
}

/// Parses `VIRT_RESOURCE pid=385946 uid=0 … msg='…'`, as a journal and syslog store a record, into
/// type and body.
pub(super) fn message(message: &[u8]) -> Option<Message<'_>> {
    let (name, body) = message.split_once_str(b" ")?;
    let is_name = || {
        name.len() > 2
            && name.iter().all(|byte| {
                byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'[' | b']')
            })
    };
    // Most types are irrelevant, and their numbers are not needed.
    let record_type = named(name).or_else(|| is_name().then_some(IRRELEVANT_TYPE))?;
    Some(Message { record_type, body })
}

/// Stands for all irrelevant types; no type has this number.
const IRRELEVANT_TYPE: RecordType = RecordType(0);

/// The process that sent a record, from the kernel's pairs before its text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sender {
    pub(super) pid: Option<u32>,
    pub(super) credentials: Option<Credentials>,
}

impl Sender {
    fn of(head: &[u8]) -> Self {
        let (mut pid, mut uid, mut auid, mut ses) = (None, None, None, None);
        for word in head.split_str(b" ") {
            let Some((key, value)) = word.split_once_str(b"=") else { continue };
            let number = match key {
                b"pid" => &mut pid,
                b"uid" => &mut uid,
                b"auid" => &mut auid,
                b"ses" => &mut ses,
                _ => continue,
            };
            *number = number.or_else(|| stamp::number(value));
        }
        let credentials = uid.zip(auid).zip(ses).map(|((uid, auid), ses)| Credentials { uid, auid, ses });
        Self { pid, credentials }
    }
}

/// A record without its stamp.
pub(super) struct Message<'a> {
    pub(super) record_type: RecordType,
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    /// The content, if it is a record of another resource than a network device.
    pub(super) fn resource(&self) -> Result<Option<(Sender, Content)>, Unreadable> {
        let (sender, Text::Complete(text)) = body(self.body) else { return Ok(None) };
        let content = parse_resource(self.record_type, text)?.map(Content::Resource);
        Ok(content.map(|content| (sender, content)))
    }

    pub(super) fn content(&self) -> Result<(Sender, Option<Content>), Unreadable> {
        let record_type = self.record_type;
        if !content::is_relevant(record_type) {
            return Ok((Sender::default(), None));
        }
        if content::is_recording_type(record_type) {
            // auditd's own records don't come from the kernel, so they are not in a journal.
            let content = content::recording_change(record_type, self.body);
            return Ok((Sender::default(), content.filter(|_| !content::is_auditd_type(record_type))));
        }
        if content::is_about_process(record_type) {
            return Ok((Sender::default(), content::of_process(record_type, self.body)));
        }
        let (sender, text) = body(self.body);
        let content = match text {
            _ if record_type == RecordType::SYSTEM_BOOT => Some(Content::Boot),
            Text::Complete(text) => {
                content::record_content(record_type, text, parse_text(record_type, text))?
            }
            Text::Truncated(text) => content::truncated_record(record_type, text),
        };
        Ok((sender, content))
    }
}

/// The type with this name; journald makes up names for types that it doesn't know.
fn named(name: &[u8]) -> Option<RecordType> {
    let number = name
        .strip_prefix(b"AUDIT")
        .or_else(|| name.strip_prefix(b"<audit-").and_then(|rest| rest.strip_suffix(b">")))
        .and_then(stamp::number);
    number.map(RecordType).or_else(|| RecordType::from_name(name))
}

/// The text between `msg='` and `'`, complete or not.
enum Text<'a> {
    Complete(&'a [u8]),
    Truncated(&'a [u8]),
}

/// The sender and the text in a record's body.
fn body(body: &[u8]) -> (Sender, Text<'_>) {
    let (head, text) = body.split_once_str(b"msg='").unwrap_or((body, b""));
    // As in a raw line: a name may contain a quote, so the last one closes.
    let text = match text.rfind_byte(b'\'') {
        Some(close) => Text::Complete(&text[..close]),
        None => Text::Truncated(text),
    };
    (Sender::of(head), text)
}

/// Cuts off the names that auditd resolved, if the separator was escaped as `#035`, as rsyslog
/// does. No guest's name can imitate that: a name with a `"` is encoded as hex.
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
