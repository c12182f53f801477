//! Parses the JSON that other programs make of audit records and a manager's log: go-audit, laurel,
//! auditbeat, virt-launcher; and of log collectors: Docker, Loki, the kubelet.
//!
//! The former name the writer themselves: an object without the fields for that is not trusted. A
//! collector names the program that printed a line, not the line's author, so of its lines only raw
//! audit lines, a manager's log and the objects of the former are parsed.

mod auditbeat;
mod go_audit;
mod launcher;
mod laurel;

use serde_json::Value;

use super::{Unreadable, audit, libvirt, stamp};
use crate::parsed_line::{LineTime, ParsedLine};

pub(super) use launcher::line as launcher_line;

/// Parses an object that is not a journal entry.
pub(super) fn object(object: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    let value = parse(object)?;
    match kept(&value) {
        Some((line, _)) => wrapped(line.ok_or(Unreadable::Unknown)?.as_bytes()),
        None => made(&value),
    }
}

/// The time of an object.
pub(super) fn when(object: &[u8]) -> Option<LineTime> {
    let value = parse(object).ok()?;
    if let Some((line, time)) = kept(&value) {
        let line = line.map(str::as_bytes).filter(|line| super::is_audits(line));
        return line.and_then(audit::time).or_else(|| moment(time));
    }
    auditbeat::when(&value)
        .or_else(|| go_audit::when(&value))
        .or_else(|| laurel::when(&value))
        .or_else(|| launcher::when(|key| string(&value, key)))
}

fn parse(object: &[u8]) -> Result<Value, Unreadable> {
    serde_json::from_slice(object).map_err(|error| Unreadable::Json { column: error.column() })
}

/// Parses an object that a program made of records.
fn made(value: &Value) -> Result<Option<ParsedLine>, Unreadable> {
    if launcher::is(|key| string(value, key)) {
        launcher::parse(|key| string(value, key))
    } else if go_audit::is(value) {
        go_audit::parse(value)
    } else if laurel::is(value) {
        laurel::parse(value)
    } else if auditbeat::is(value) {
        auditbeat::parse(value)
    } else {
        Err(Unreadable::Unknown)
    }
}

/// The line that Docker (`{"log":"…\n","stream":"stdout","time":"…"}`) or Loki
/// (`{"line":"…","timestamp":"…","labels":{…}}`) collected, and its time. Docker splits long lines,
/// and only the last part has a newline: such parts are not parsed.
fn kept(value: &Value) -> Option<(Option<&str>, &str)> {
    if let (Some(log), Some(_), Some(time)) =
        (string(value, "log"), string(value, "stream"), string(value, "time"))
    {
        return Some((log.strip_suffix('\n'), time));
    }
    let labelled = value.get("labels").is_some_and(Value::is_object);
    match (string(value, "line"), string(value, "timestamp")) {
        (Some(line), Some(time)) if labelled => Some((Some(line), time)),
        _ => None,
    }
}

/// Parses a line that a program printed, as a collector stored it.
pub(super) fn wrapped(line: &[u8]) -> Result<Option<ParsedLine>, Unreadable> {
    let line = super::trim(line);
    if super::is_audits(line) {
        return audit::line(line);
    }
    if line.starts_with(b"{") {
        return made(&parse(line)?);
    }
    if let Some(found) = launcher_line(line) {
        return found;
    }
    match stamp::front(line) {
        Some((when, rest)) => match rest.strip_prefix(b": ") {
            Some(rest) => libvirt::line(when, rest),
            None => Err(Unreadable::Unknown),
        },
        None => Err(Unreadable::Unknown),
    }
}

fn string<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

/// A number, or a string with one.
fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => u32::try_from(number.as_u64()?).ok(),
        Value::String(text) => stamp::number(text.as_bytes()),
        _ => None,
    }
}

/// A string, or a number as a string.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A time in the format of RFC 3339.
fn moment(text: &str) -> Option<LineTime> {
    let (when, rest) = stamp::iso(text.as_bytes())?;
    rest.is_empty().then_some(when)
}
