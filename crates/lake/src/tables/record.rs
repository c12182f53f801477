//! `records`: the entries from which everything else is derived.

use std::cmp::Ordering;
use std::fmt;

use arrow_schema::FieldRef;
use compact_str::ToCompactString as _;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use taptrail_record::{Fragment, GuestId, MacAddr};
use taptrail_trail::{Content, Credentials, Entry};
use uuid::Uuid;

use super::Place;
use super::columns::{
    LineRow, Micros, copies, flag, int, line_number, maybe_binary, maybe_int, maybe_text, micros, text, time,
    timestamp,
};
use crate::{Row, Table, Text};

/// An entry: what a trail is fed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The columns are `Entry`'s fields, and documented there.
pub struct RecordRow {
    pub host: Text,
    /// Its place in the order in which a trail is fed, from 0 on each day of the host: of one time,
    /// it decides.
    pub position: i64,
    pub time: Micros,
    pub serial: Option<i64>,
    /// The name of the content's variant, as in its JSON: `record`, `kernel-open`, `gap` …
    pub what: Text,
    /// The guest that it names.
    pub guest: Option<Text>,
    pub uuid: Option<Text>,
    pub mac: Option<Text>,
    pub writer: Option<i64>,
    pub uid: Option<i64>,
    pub auid: Option<i64>,
    pub ses: Option<i64>,
    pub source: Text,
    pub line: i64,
    pub copies: Vec<LineRow>,
    pub unauthenticated: bool,
    /// The line or row, where the reader kept it.
    pub text: Option<RawText>,
    /// The [`Content`] as JSON.
    pub content: String,
}

/// The bytes of a line. They need not be UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawText(pub Vec<u8>);

impl Serialize for RawText {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RawText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = RawText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a line")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<RawText, E> {
                Ok(RawText(bytes.to_vec()))
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

/// The guest and interface that an entry names.
#[derive(Default)]
struct Subject<'a> {
    name: Option<&'a str>,
    uuid: Option<Uuid>,
    mac: Option<MacAddr>,
}

impl<'a> Subject<'a> {
    fn of(content: &'a Content) -> Self {
        let guest = |guest: &'a GuestId, mac| Self { name: Some(&guest.name), uuid: Some(guest.uuid), mac };
        match content {
            Content::Record(record) => guest(&record.guest, record.event.mac()),
            Content::Resource(change) => guest(&change.guest, None),
            Content::Truncated(part) | Content::Unsent(part) | Content::Missing(part) => {
                let Fragment { name, uuid, mac, .. } = part;
                Self { name: name.as_deref(), uuid: *uuid, mac: *mac }
            }
            _ => Self::default(),
        }
    }
}

impl RecordRow {
    /// The row of an entry: the `position`-th of its host and day.
    pub fn of(entry: &Entry, position: i64) -> Self {
        let Subject { name, uuid, mac } = Subject::of(&entry.content);
        // All of its keys are text, so this does not fail.
        let content = serde_json::to_string(&entry.content).unwrap_or_default();
        Self {
            host: Text::from(&*entry.host),
            position,
            time: micros(entry.time),
            serial: entry.serial.map(i64::from),
            what: variant(&content).into(),
            guest: name.map(Text::from),
            uuid: uuid.map(|uuid| uuid.to_compact_string()),
            mac: mac.map(|mac| mac.to_compact_string()),
            writer: entry.writer.map(i64::from),
            uid: entry.credentials.map(|of| of.uid.into()),
            auid: entry.credentials.map(|of| of.auid.into()),
            ses: entry.credentials.map(|of| of.ses.into()),
            source: Text::from(&*entry.source),
            line: line_number(entry.line),
            copies: entry.copies.iter().map(LineRow::of).collect(),
            unauthenticated: entry.unauthenticated,
            text: entry.text.as_deref().map(|text| RawText(text.to_vec())),
            content,
        }
    }

    /// Another row of the same event: its line is where else that was read.
    pub(crate) fn add_copy(&mut self, other: Self) {
        let of = |row: &Self| LineRow { source: row.source.clone(), line: row.line };
        let own = of(self);
        for copy in std::iter::once(of(&other)).chain(other.copies) {
            if copy != own && !self.copies.contains(&copy) {
                self.copies.push(copy);
            }
        }
    }

    /// The entry.
    ///
    /// # Errors
    ///
    /// A value is out of range, or the content is none that this version knows: what its host's
    /// trail is can't be said then.
    pub fn entry(self) -> Result<Entry, UnknownRecord> {
        let content =
            serde_json::from_str(&self.content).map_err(|error| UnknownRecord(error.to_string()))?;
        self.with_content(content).ok_or_else(|| UnknownRecord("a number is out of range".to_owned()))
    }

    fn with_content(self, content: Content) -> Option<Entry> {
        let id = |id: Option<i64>| id.map(u32::try_from).transpose().ok();
        let credentials = match (id(self.uid)?, id(self.auid)?, id(self.ses)?) {
            (Some(uid), Some(auid), Some(ses)) => Some(Credentials { uid, auid, ses }),
            _ => None,
        };
        Some(Entry {
            host: self.host.into(),
            time: timestamp(self.time)?,
            serial: id(self.serial)?,
            writer: id(self.writer)?,
            credentials,
            source: self.source.into(),
            line: self.line.try_into().ok()?,
            copies: self.copies.into_iter().map(LineRow::line_ref).collect::<Option<_>>()?,
            unauthenticated: self.unauthenticated,
            text: self.text.map(|text| text.0.into()),
            content,
        })
    }
}

/// The name of the one member of an object, as JSON.
fn variant(content: &str) -> &str {
    content.split('"').nth(1).unwrap_or_default()
}

/// A row of `records` that is no entry, or one of a later version.
#[derive(Debug, thiserror::Error)]
#[error("a record can't be read: {0}")]
pub struct UnknownRecord(String);

impl Row for RecordRow {
    const TABLE: Table = Table::Records;

    fn columns() -> Vec<FieldRef> {
        vec![
            text("host"),
            int("position"),
            time("time"),
            maybe_int("serial"),
            text("what"),
            maybe_text("guest"),
            maybe_text("uuid"),
            maybe_text("mac"),
            maybe_int("writer"),
            maybe_int("uid"),
            maybe_int("auid"),
            maybe_int("ses"),
            text("source"),
            int("line"),
            copies(),
            flag("unauthenticated"),
            maybe_binary("text"),
            text("content"),
        ]
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn take_places(&mut self) -> Vec<Place> {
        let line = LineRow { source: std::mem::take(&mut self.source), line: std::mem::take(&mut self.line) };
        vec![(line, std::mem::take(&mut self.copies))]
    }

    fn put_places(&mut self, places: Vec<Place>) {
        for (LineRow { source, line }, copies) in places {
            (self.source, self.line, self.copies) = (source, line, copies);
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        let place = |row: &Self| (row.time, row.position, row.serial, row.line);
        self.host
            .cmp(&other.host)
            .then_with(|| place(self).cmp(&place(other)))
            .then_with(|| (&self.source, &self.content).cmp(&(&other.source, &other.content)))
    }
}
