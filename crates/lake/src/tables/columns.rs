//! Columns' types, and values that several tables have.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use taptrail_trail::{LineRef, Proof};

/// A text of a row. Most are short: a row has a dozen, and none of those is allocated by itself.
pub type Text = compact_str::CompactString;

/// Microseconds since 1970, UTC.
pub type Micros = i64;

pub(crate) fn micros(time: Timestamp) -> Micros {
    time.as_microsecond().min(LAST)
}

/// The last time that [`timestamp`] reads: the fraction of the calendar's last second is cut.
const LAST: Micros = 253_402_207_200_000_000;

pub(crate) fn timestamp(micros: Micros) -> Option<Timestamp> {
    Timestamp::from_microsecond(micros).ok()
}

/// The time, if there is one; the outer none if it is out of range.
#[allow(clippy::option_option)] // One says that the value is bad, the other that there is none.
pub(crate) fn maybe_timestamp(micros: Option<Micros>) -> Option<Option<Timestamp>> {
    micros.map_or(Some(None), |micros| timestamp(micros).map(Some))
}

/// The value of a word, if there is one; the outer none if no value has this word.
#[allow(clippy::option_option)] // As above.
pub(crate) fn maybe_word<T>(word: Option<Text>, of: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    word.map_or(Some(None), |word| of(&word).map(Some))
}

pub(crate) fn text(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Utf8, false))
}

pub(crate) fn maybe_text(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Utf8, true))
}

pub(crate) fn maybe_binary(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Binary, true))
}

pub(crate) fn time(name: &str) -> FieldRef {
    Arc::new(Field::new(name, time_type(), false))
}

pub(crate) fn maybe_time(name: &str) -> FieldRef {
    Arc::new(Field::new(name, time_type(), true))
}

pub(crate) fn flag(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Boolean, false))
}

pub(crate) fn int(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Int64, false))
}

pub(crate) fn maybe_int(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Int64, true))
}

pub(crate) fn list(name: &str, fields: Vec<FieldRef>) -> FieldRef {
    let element = Field::new("element", DataType::Struct(fields.into()), false);
    Arc::new(Field::new(name, DataType::List(Arc::new(element)), false))
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A [`Proof`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProofRow {
    serial: Option<i64>,
    time: Micros,
    source: Text,
    line: i64,
    unauthenticated: bool,
    copies: Vec<LineRow>,
}

/// Another line with the same event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // A `LineRef`'s fields.
pub struct LineRow {
    pub source: Text,
    pub line: i64,
}

impl LineRow {
    pub(crate) fn of(line: &LineRef) -> Self {
        Self { source: Text::from(&*line.source), line: line_number(line.line) }
    }

    /// The line; none if its number is out of range.
    pub(crate) fn line_ref(self) -> Option<LineRef> {
        Some(LineRef { source: self.source.into(), line: self.line.try_into().ok()? })
    }
}

pub(crate) fn proofs(name: &str) -> FieldRef {
    let fields = vec![
        maybe_int("serial"),
        time("time"),
        text("source"),
        int("line"),
        flag("unauthenticated"),
        copies(),
    ];
    list(name, fields)
}

/// Where else an event was read.
pub(crate) fn copies() -> FieldRef {
    list("copies", vec![text("source"), int("line")])
}

impl ProofRow {
    /// The row of a proof.
    pub fn of(proof: &Proof) -> Self {
        Self {
            serial: proof.serial.map(i64::from),
            time: micros(proof.time),
            source: Text::from(&*proof.source),
            line: line_number(proof.line),
            unauthenticated: proof.unauthenticated,
            copies: proof.copies.iter().map(LineRow::of).collect(),
        }
    }

    pub(crate) fn take_place(&mut self) -> super::Place {
        let line = LineRow { source: std::mem::take(&mut self.source), line: std::mem::take(&mut self.line) };
        (line, std::mem::take(&mut self.copies))
    }

    pub(crate) fn put_place(&mut self, (LineRow { source, line }, copies): super::Place) {
        (self.source, self.line, self.copies) = (source, line, copies);
    }

    /// The event that it is about, in whatever file it is read.
    pub fn event(&self) -> (Micros, Option<i64>) {
        (self.time, self.serial)
    }

    /// The proof; none if a value is out of range.
    pub fn proof(self) -> Option<Proof> {
        Some(Proof {
            serial: self.serial.map(u32::try_from).transpose().ok()?,
            time: timestamp(self.time)?,
            source: self.source.into(),
            line: self.line.try_into().ok()?,
            copies: self.copies.into_iter().map(LineRow::line_ref).collect::<Option<_>>()?,
            unauthenticated: self.unauthenticated,
        })
    }
}

/// The proofs of a row; none if a value is out of range.
pub(crate) fn all_proofs(rows: Vec<ProofRow>) -> Option<Vec<Proof>> {
    rows.into_iter().map(ProofRow::proof).collect()
}

/// A line's number; no log has more lines than an `i64` counts.
pub(crate) fn line_number(line: u64) -> i64 {
    i64::try_from(line).unwrap_or(i64::MAX)
}
