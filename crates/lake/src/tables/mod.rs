//! The tables' rows, as they lie in Parquet.

pub(crate) mod columns;
pub(crate) mod held;

use std::cmp::Ordering;

use arrow_schema::FieldRef;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Table;

/// A row of a table: a plain struct whose fields are the table's columns.
///
/// Times are microseconds since 1970 (UTC), words are those of JSON. Columns may be added, and are
/// null in older objects; none is ever removed or changed.
pub trait Row: Serialize + DeserializeOwned + Send {
    /// The table.
    const TABLE: Table;

    /// The table's columns.
    fn columns() -> Vec<FieldRef>;

    /// The order of rows in an object.
    fn order(&self, other: &Self) -> Ordering;
}
