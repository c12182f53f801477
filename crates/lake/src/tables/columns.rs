//! Columns' types, and values that several tables have.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use taptrail_trail::{LineRef, Proof};

/// Microseconds since 1970, UTC.
pub type Micros = i64;

pub(crate) fn micros(time: Timestamp) -> Micros {
    time.as_microsecond()
}

pub(crate) fn timestamp(micros: Micros) -> Option<Timestamp> {
    Timestamp::from_microsecond(micros).ok()
}

pub(crate) fn text(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Utf8, false))
}

pub(crate) fn maybe_text(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Utf8, true))
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

pub(crate) fn maybe_small(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Int32, true))
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
    source: String,
    line: i64,
    unauthenticated: bool,
    copies: Vec<LineRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct LineRow {
    source: String,
    line: i64,
}

pub(crate) fn proofs(name: &str) -> FieldRef {
    let copies = list("copies", vec![text("source"), int("line")]);
    let fields =
        vec![maybe_int("serial"), time("time"), text("source"), int("line"), flag("unauthenticated"), copies];
    list(name, fields)
}

impl ProofRow {
    /// The row of a proof.
    pub fn of(proof: &Proof) -> Self {
        Self {
            serial: proof.serial.map(i64::from),
            time: micros(proof.time),
            source: proof.source.to_string(),
            line: line_number(proof.line),
            unauthenticated: proof.unauthenticated,
            copies: proof
                .copies
                .iter()
                .map(|copy| LineRow { source: copy.source.to_string(), line: line_number(copy.line) })
                .collect(),
        }
    }

    /// The proof; none if a value is out of range.
    pub fn proof(self) -> Option<Proof> {
        Some(Proof {
            serial: self.serial.map(u32::try_from).transpose().ok()?,
            time: timestamp(self.time)?,
            source: self.source.into(),
            line: self.line.try_into().ok()?,
            copies: self
                .copies
                .into_iter()
                .map(|copy| Some(LineRef { source: copy.source.into(), line: copy.line.try_into().ok()? }))
                .collect::<Option<_>>()?,
            unauthenticated: self.unauthenticated,
        })
    }
}

/// A line's number; no log has more lines than an `i64` counts.
fn line_number(line: u64) -> i64 {
    i64::try_from(line).unwrap_or(i64::MAX)
}
