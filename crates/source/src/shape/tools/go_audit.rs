//! Parses go-audit:
//! `{"sequence":184,"timestamp":"1663611405.645","messages":[{"type":2501,"data":"pid=1265 …"}]}`.

use serde_json::Value;
use taptrail_record::{KernelOpen, Line, PathRecord, RecordType, Syscall};
use taptrail_trail::Content;

use super::{number, string};
use crate::parsed_line::{LineTime, LogProgram, ParsedLine};
use crate::shape::{Unreadable, audit, stamp};

pub(super) fn is(value: &Value) -> bool {
    value.get("sequence").is_some() && value.get("messages").is_some_and(Value::is_array)
}

pub(super) fn when(value: &Value) -> Option<LineTime> {
    if !is(value) {
        return None;
    }
    stamp::unix(string(value, "timestamp")?.as_bytes()).map(LineTime::Exact)
}

pub(super) fn parse(value: &Value) -> Result<Option<ParsedLine>, Unreadable> {
    let messages = value.get("messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let messages = messages.iter().filter_map(|message| {
        let record_type = RecordType(u16::try_from(number(message.get("type")?)?).ok()?);
        Some((record_type, string(message, "data")?))
    });
    let mut parsed = (audit::Sender::default(), None);
    for (record_type, data) in messages.clone() {
        parsed = audit::Message { record_type, body: data.as_bytes() }.content()?;
        if parsed.1.is_some() {
            break;
        }
    }
    let (sender, content) = parsed;
    let Some(content) = content.or_else(|| opened(messages)) else { return Ok(None) };
    let serial = value.get("sequence").and_then(number).ok_or(Unreadable::Field { field: "sequence" })?;
    let when = when(value).ok_or(Unreadable::Time)?;
    Ok(Some(ParsedLine {
        serial: Some(serial),
        writer: sender.pid,
        credentials: sender.credentials,
        ..ParsedLine::new(when, LogProgram::Auditd, content)
    }))
}

/// The kernel's open(2) of a device: all its records are in one object.
fn opened<'a>(messages: impl Iterator<Item = (RecordType, &'a str)>) -> Option<Content> {
    let lines: Vec<_> = messages
        .filter(|(record_type, _)| matches!(*record_type, RecordType::SYSCALL | RecordType::PATH))
        .take(64)
        .map(|(record_type, data)| format!("type={} audit(0.000:0): {data}", record_type.number()))
        .collect();
    let lines: Vec<_> = lines.iter().filter_map(|line| Line::parse(line.as_bytes()).ok()).collect();
    let syscall = lines.iter().find_map(Syscall::of)?;
    let paths = lines.iter().filter_map(PathRecord::of);
    paths.filter_map(|path| KernelOpen::join(&syscall, &path)).next().map(Content::KernelOpen)
}
