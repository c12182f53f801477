//! The tables' rows, as they lie in Parquet.

pub(crate) mod columns;
pub(crate) mod coverage;
pub(crate) mod finding;
pub(crate) mod held;
pub(crate) mod record;
pub(crate) mod run;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use arrow_schema::FieldRef;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::columns::{LineRow, ProofRow};
use crate::Table;

/// Where a row, or one of its proofs, was read: its line, and its copies.
pub type Place = (LineRow, Vec<LineRow>);

/// A row of a table: a plain struct whose fields are the table's columns.
///
/// Times are microseconds since 1970 (UTC), words are those of JSON. Columns may be added, and are
/// null in older objects; none is ever removed or changed.
pub trait Row: Serialize + DeserializeOwned + Send {
    /// The table.
    const TABLE: Table;

    /// The table's columns.
    fn columns() -> Vec<FieldRef>;

    /// The host that the row is about.
    fn host(&self) -> &str;

    /// The proofs of what it says.
    fn proofs(&mut self) -> &mut [ProofRow] {
        &mut []
    }

    /// Takes away the places that it was read from, which change as a log is rotated.
    fn take_places(&mut self) -> Vec<Place> {
        self.proofs().iter_mut().map(ProofRow::take_place).collect()
    }

    /// Puts back what [`take_places`](Self::take_places) took.
    fn put_places(&mut self, places: Vec<Place>) {
        self.proofs().iter_mut().zip(places).for_each(|(proof, place)| proof.put_place(place));
    }

    /// The order of rows in an object.
    fn order(&self, other: &Self) -> Ordering;
}
