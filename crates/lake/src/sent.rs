//! Which days were sent before, so that they need not be sent again.

use std::collections::BTreeMap;
use std::io;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::layout::hex;
use crate::{Day, Row, Table};

/// The days of a reading that a lake has, each with the sums of its tables' rows.
///
/// It saves work and nothing depends on it: what is sent twice has the same names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SentDays {
    days: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(skip)]
    is_unknown: bool,
}

impl SentDays {
    /// What was sent is not known, and is not kept.
    pub fn unknown() -> Self {
        Self { days: BTreeMap::new(), is_unknown: true }
    }

    pub(crate) fn is_kept(&self) -> bool {
        !self.is_unknown
    }

    /// Those of the next reading: none yet.
    pub(crate) fn begin(&self) -> Self {
        Self { days: BTreeMap::new(), is_unknown: self.is_unknown }
    }

    /// Adds a day with the sums of its tables. Returns whether it was sent before, as it is now.
    pub(crate) fn add(&mut self, day: Day, sums: Vec<(Table, String)>, before: &Self) -> bool {
        if self.is_unknown {
            return false;
        }
        let sums = sums.into_iter().map(|(table, sum)| (table.to_string(), sum)).collect();
        let is_same = before.days.get(&day.to_string()) == Some(&sums);
        self.days.insert(day.to_string(), sums);
        is_same
    }
}

/// The SHA-256 of rows without the names of files and the numbers of lines: a log that is rotated has
/// other names and the same lines.
pub(crate) struct RowsSum(Context);

impl Default for RowsSum {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl RowsSum {
    /// Adds a row, and returns it.
    pub(crate) fn add<R: Row>(&mut self, mut row: R) -> R {
        let places = row.take_places();
        // Neither writing to a sum fails, nor any row as JSON.
        let _ = serde_json::to_writer(&mut *self, &row);
        row.put_places(places);
        row
    }

    pub(crate) fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

impl io::Write for RowsSum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
