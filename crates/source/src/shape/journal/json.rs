//! Parses `journalctl -o json`: an object for each entry. A value is a string; an array of byte
//! values if it is not printable UTF-8; null if it is too long; an array of these if the entry has
//! the field more than once.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::JournalEntry;
use super::field::{Field, Value};
use crate::shape::Unreadable;

/// Parses one entry.
pub(in crate::shape) fn entry(object: &[u8]) -> Result<JournalEntry<'_>, Unreadable> {
    serde_json::from_slice(object).map_err(|error| Unreadable::Json { column: error.column() })
}

impl<'de: 'a, 'a> Deserialize<'de> for JournalEntry<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = JournalEntry<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut journal = JournalEntry::default();
        while let Some(Name(name)) = map.next_key()? {
            match name {
                Some(field) => journal.put(field, map.next_value()?),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(journal)
    }
}

struct Name(Option<Field>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_identifier(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(Name(Field::named(name.as_bytes())))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ValueVisitor)
    }
}

/// Maps any other JSON value to [`Value::Several`]: it is not used, but the other fields are.
struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value::One(Cow::Borrowed(text.as_bytes())))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::One(Cow::Owned(text.as_bytes().to_vec())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Withheld)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Value::Several)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Value::Several)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Value::Several)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Value::Several)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Several)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut bytes = Vec::new();
        while let Some(Byte(byte)) = seq.next_element()? {
            let Some(byte) = byte else {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Several);
            };
            bytes.push(byte);
        }
        Ok(Value::One(Cow::Owned(bytes)))
    }
}

/// A number from 0 to 255; `None` for anything else.
struct Byte(Option<u8>);

impl<'de> Deserialize<'de> for Byte {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ByteVisitor)
    }
}

struct ByteVisitor;

impl<'de> Visitor<'de> for ByteVisitor {
    type Value = Byte;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte")
    }

    fn visit_u64<E>(self, number: u64) -> Result<Byte, E> {
        Ok(Byte(u8::try_from(number).ok()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Byte, E> {
        Ok(Byte(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Byte, E> {
        Ok(Byte(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Byte, E> {
        Ok(Byte(None))
    }

    fn visit_unit<E>(self) -> Result<Byte, E> {
        Ok(Byte(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Byte, E> {
        Ok(Byte(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Byte, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Byte(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Byte, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Byte(None))
    }
}
