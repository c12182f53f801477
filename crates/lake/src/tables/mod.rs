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

use self::columns::LineRow;
use crate::{Day, Table};

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

    /// Takes away the places that it was read from, which change as a log is rotated.
    fn take_places(&mut self) -> Vec<Place> {
        Vec::new()
    }

    /// Puts back what [`take_places`](Self::take_places) took.
    fn put_places(&mut self, _places: Vec<Place>) {}

    /// The order of rows in an object.
    fn order(&self, other: &Self) -> Ordering;
}

/// Of the rows of each key those that are last; where none is, those of the latest day.
fn latest_of_each<R>(
    mut rows: Vec<(Day, R)>,
    by_key: impl Fn(&R, &R) -> Ordering,
    is_last: impl Fn(&R) -> bool,
) -> Vec<R> {
    // Within a key, what is taken comes first.
    let rank = |(day, row): &(Day, R)| (!is_last(row), std::cmp::Reverse(*day));
    rows.sort_by(|a, b| by_key(&a.1, &b.1).then_with(|| rank(a).cmp(&rank(b))));
    let mut all: Vec<R> = Vec::new();
    let mut best = None;
    for (day, row) in rows {
        let is_new = all.last().is_none_or(|before| by_key(before, &row).is_ne());
        let its_rank = (is_last(&row), day);
        if is_new {
            best = Some(its_rank);
        }
        if best.is_some_and(|best| best == its_rank || best.0 && its_rank.0) {
            all.push(row);
        }
    }
    all
}
