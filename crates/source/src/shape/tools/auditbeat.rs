//! Parses the Elastic Common Schema, as written by auditbeat and others:
//! `{"@timestamp":"…","auditd":{"sequence":184,"message_type":"virt_resource","result":"success","data":{"virt":"kvm",…}},…}`,
//! also with dotted names.

use serde_json::Value;
use taptrail_record::{RecordType, encode_fields, parse_text};

use super::{moment, number, string, text};
use crate::parsed_line::{LineTime, LogProgram, ParsedLine};
use crate::shape::{self, Unreadable, audit, content};

/// The value with a dotted name.
fn get<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    if let Some(found) = value.get(name) {
        return Some(found);
    }
    // Each part may be an object.
    name.match_indices('.').find_map(|(dot, _)| get(value.get(&name[..dot])?, &name[dot + 1..]))
}

pub(super) fn is(value: &Value) -> bool {
    value.get("@timestamp").is_some() && get(value, "auditd.message_type").is_some()
}

pub(super) fn when(value: &Value) -> Option<LineTime> {
    moment(string(value, "@timestamp")?)
}

pub(super) fn parse(value: &Value) -> Result<Option<ParsedLine>, Unreadable> {
    let host = get(value, "host.name").or_else(|| get(value, "host.hostname")).and_then(Value::as_str);
    let host = host.and_then(|host| content::host(host.as_bytes()));
    if let Some(line) = original(value) {
        let found = audit::line(line.as_bytes())?;
        return Ok(found.map(|found| ParsedLine { host: found.host.clone().or(host), ..found }));
    }
    let record_type = match get(value, "auditd.message_type").and_then(Value::as_str) {
        Some("virt_resource") => RecordType::VIRT_RESOURCE,
        Some("virt_control") => RecordType::VIRT_CONTROL,
        _ => return Ok(None),
    };
    let outcome = match get(value, "auditd.result").and_then(Value::as_str) {
        Some("success") => Some("success"),
        Some("fail" | "failed" | "failure") => Some("failed"),
        _ => None,
    };
    let encoded = encode_fields(|key| match key {
        "res" => outcome.map(str::to_owned),
        "exe" => get(value, "process.executable").and_then(text),
        key => get(value, "auditd.data").and_then(|data| data.get(key)).and_then(text),
    })?;
    let claim = parse_text(record_type, encoded.as_bytes());
    let Some(content) = content::record_content(record_type, encoded.as_bytes(), claim)? else {
        return Ok(None);
    };
    let serial = get(value, "auditd.sequence").and_then(number);
    let writer = get(value, "process.pid").and_then(number);
    let when = when(value).ok_or(Unreadable::Time)?;
    Ok(Some(ParsedLine { serial, host, writer, ..ParsedLine::new(when, LogProgram::Auditd, content) }))
}

/// The line from which the object was made, if it contains it.
fn original(value: &Value) -> Option<&str> {
    let line = match get(value, "event.original")? {
        Value::String(line) => line,
        Value::Array(lines) => match lines.as_slice() {
            [Value::String(line)] => line,
            _ => return None,
        },
        _ => return None,
    };
    shape::is_audits(line.as_bytes()).then_some(line)
}
