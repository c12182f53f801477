//! Parses laurel:
//! `{"ID":"1663611405.645:184","NODE":"h","VIRT_RESOURCE":{"pid":1265,"virt":"kvm",…,"res":"success"}}`.

use serde_json::Value;
use taptrail_record::{RecordType, encode_fields, parse_text};
use taptrail_trail::{Content, Credentials};

use super::{number, string, text};
use crate::parsed_line::{LineTime, LogProgram, ParsedLine};
use crate::shape::{Unreadable, content, stamp};

/// The relevant record types.
const TYPES: [(&str, RecordType); 3] = [
    ("VIRT_RESOURCE", RecordType::VIRT_RESOURCE),
    ("VIRT_CONTROL", RecordType::VIRT_CONTROL),
    ("SYSTEM_BOOT", RecordType::SYSTEM_BOOT),
];

fn id(value: &Value) -> Option<(LineTime, u32)> {
    let (time, serial) = string(value, "ID")?.rsplit_once(':')?;
    Some((LineTime::Exact(stamp::unix(time.as_bytes())?), stamp::number(serial.as_bytes())?))
}

pub(super) fn is(value: &Value) -> bool {
    id(value).is_some()
}

pub(super) fn when(value: &Value) -> Option<LineTime> {
    id(value).map(|(when, _)| when)
}

pub(super) fn parse(value: &Value) -> Result<Option<ParsedLine>, Unreadable> {
    let (when, serial) = id(value).ok_or(Unreadable::Time)?;
    let record = TYPES.iter().find_map(|(name, record_type)| Some((*record_type, value.get(*name)?)));
    let Some((record_type, fields)) = record else { return Ok(None) };
    let content = if record_type == RecordType::SYSTEM_BOOT {
        Some(Content::Boot)
    } else {
        let encoded = encode_fields(|key| text(fields.get(key)?))?;
        let claim = parse_text(record_type, encoded.as_bytes());
        content::record_content(record_type, encoded.as_bytes(), claim)?
    };
    let field = |name: &str| fields.get(name).and_then(number);
    let writer = field("pid");
    let credentials = || Some(Credentials { uid: field("uid")?, auid: field("auid")?, ses: field("ses")? });
    let host = string(value, "NODE").and_then(|node| content::host(node.as_bytes()));
    Ok(content.map(|content| ParsedLine {
        serial: Some(serial),
        host,
        writer,
        credentials: credentials(),
        ..ParsedLine::new(when, LogProgram::Auditd, content)
    }))
}
