//! Parses one line of the protocol (QEMU's docs/interop/qmp-spec.txt).

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::error::{ErrorClass, QmpError, escape_text, excerpt};
use crate::event::Event;
use crate::version::Version;

/// A message of QEMU's.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    Greeting(Version),
    Event(Event),
    Reply { id: Option<u64>, answer: Answer },
}

#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Done(Value),
    Refused { class: ErrorClass, desc: String },
}

impl Message {
    /// Parses a line without its newline. `serde_json` bounds the depth of nesting (128).
    pub(crate) fn parse(line: &[u8]) -> Result<Self, QmpError> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|source| QmpError::Garbage { excerpt: excerpt(line), source })?;
        let message = match value {
            Value::Object(mut fields) => {
                if let Some(greeting) = fields.get("QMP") {
                    version(greeting).map(Self::Greeting)
                } else if fields.contains_key("event") {
                    event(&mut fields).map(Self::Event)
                } else {
                    reply(&mut fields)
                }
            }
            _ => None,
        };
        message.ok_or_else(|| QmpError::Unexpected {
            expected: "a greeting, an event or a reply".to_owned(),
            excerpt: excerpt(line),
        })
    }
}

fn version(greeting: &Value) -> Option<Version> {
    let qemu = greeting.get("version")?.get("qemu")?;
    let number = |key| u32::try_from(qemu.get(key)?.as_u64()?).ok();
    Some(Version { major: number("major")?, minor: number("minor")?, micro: number("micro")? })
}

fn event(fields: &mut Map<String, Value>) -> Option<Event> {
    let Value::String(name) = fields.get_mut("event")?.take() else {
        return None;
    };
    let time = fields.get("timestamp").and_then(time);
    let data = fields.get_mut("data").map(Value::take).unwrap_or_default();
    Some(Event { name, data, time })
}

/// The time of an event; none if QEMU wrote -1, because its clock failed, or a number out of range.
fn time(stamp: &Value) -> Option<SystemTime> {
    let seconds = stamp.get("seconds")?.as_u64()?;
    let micros = u32::try_from(stamp.get("microseconds")?.as_u64()?).ok().filter(|&n| n < 1_000_000)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, micros * 1000))
}

fn reply(fields: &mut Map<String, Value>) -> Option<Message> {
    let id = match fields.get("id") {
        None => None,
        Some(id) => Some(id.as_u64()?),
    };
    let answer = if let Some(value) = fields.get_mut("return") {
        Answer::Done(value.take())
    } else {
        let error = fields.get("error")?;
        let text = |key| error.get(key)?.as_str();
        Answer::Refused { class: ErrorClass::parse(text("class")?), desc: escape_text(text("desc")?) }
    };
    Some(Message::Reply { id, answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_recognised() {
        let greeting = br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#;
        assert_eq!(
            Message::parse(greeting).unwrap(),
            Message::Greeting(Version { major: 7, minor: 2, micro: 22 })
        );
        let reply = br#"{"return": {"running": true}, "id": 7}"#;
        let Message::Reply { id: Some(7), answer: Answer::Done(value) } = Message::parse(reply).unwrap()
        else {
            panic!("not a reply");
        };
        assert_eq!(value["running"], true);
        let refusal = br#"{"id": 3, "error": {"class": "DeviceNotFound", "desc": "no\u001b[1m"}}"#;
        assert_eq!(
            Message::parse(refusal).unwrap(),
            Message::Reply {
                id: Some(3),
                answer: Answer::Refused {
                    class: ErrorClass::DeviceNotFound,
                    desc: r"no\u{1b}[1m".to_owned()
                }
            }
        );
    }

    #[test]
    fn an_event_needs_neither_data_nor_a_sensible_clock() {
        for (stamp, known) in [
            (r#"{"seconds": 1700000000, "microseconds": 5}"#, true),
            (r#"{"seconds": -1, "microseconds": -1}"#, false),
            (r#"{"seconds": 18446744073709551615, "microseconds": 1}"#, false),
            (r#"{"seconds": 1, "microseconds": 4294967295}"#, false),
            ("7", false),
        ] {
            let line = format!(r#"{{"event": "STOP", "timestamp": {stamp}}}"#);
            let Message::Event(event) = Message::parse(line.as_bytes()).unwrap() else {
                panic!("not an event");
            };
            assert_eq!((event.name.as_str(), event.data, event.time.is_some()), ("STOP", Value::Null, known));
        }
    }

    #[test]
    fn other_json_breaks_the_protocol_and_other_text_is_garbage() {
        for line in ["7", "[]", "{}", r#"{"event": 7}"#, r#"{"return": {}, "id": "x"}"#, r#"{"error": "no"}"#]
        {
            assert!(matches!(Message::parse(line.as_bytes()), Err(QmpError::Unexpected { .. })), "{line}");
        }
        let deep = "[".repeat(100_000);
        for line in [b"HTTP/1.1 200 OK".as_slice(), b"", b"\xff\xfe", deep.as_bytes()] {
            assert!(matches!(Message::parse(line), Err(QmpError::Garbage { .. })));
        }
    }
}
