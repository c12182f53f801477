//! Merges what several readings recorded of one host.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::RecordRow;

/// Two readings may have one event at times that differ by at most this, if one of them lacks its
/// serial number: syslog has whole seconds, and delays.
const SKEW_MICROS: i64 = 2_000_000;

/// The recent events of one host.
///
/// Two rows of different readings are one event if they have the same serial number and time; or,
/// if one of them has no serial number, if their content is the same and their times are at most
/// [`SKEW_MICROS`] apart. A reading may have two equal rows: they are two events.
#[derive(Debug, Default)]
pub(crate) struct HostMerge {
    waiting: VecDeque<Waiting>,
    /// The number of the first of `waiting`.
    first: u64,
    by_serial: HashMap<(i64, i64), Vec<u64>>,
    by_content: HashMap<String, VecDeque<u64>>,
}

#[derive(Debug)]
struct Waiting {
    row: RecordRow,
    /// The readings that have it.
    readings: HashSet<usize>,
}

impl HostMerge {
    /// Adds a row of a reading. Rows come in the order of their times.
    pub(crate) fn add(&mut self, reading: usize, row: RecordRow) {
        if let Some(number) = self.find(reading, &row) {
            self.join(number, reading, row);
            return;
        }
        let number = self.first + self.waiting.len() as u64;
        if let Some(serial) = row.serial {
            self.by_serial.entry((row.time, serial)).or_default().push(number);
        }
        self.by_content.entry(row.content.clone()).or_default().push_back(number);
        self.waiting.push_back(Waiting { row, readings: HashSet::from([reading]) });
    }

    /// The earlier row of another reading that is the same event.
    fn find(&self, reading: usize, row: &RecordRow) -> Option<u64> {
        let is_free = |number: &u64| !self.get(*number).is_some_and(|of| of.readings.contains(&reading));
        if let Some(serial) = row.serial {
            let same = self.by_serial.get(&(row.time, serial)).into_iter().flatten();
            let same_kind = |number: &u64| self.get(*number).is_some_and(|of| of.row.what == row.what);
            if let Some(number) = same.copied().find(|number| is_free(number) && same_kind(number)) {
                return Some(number);
            }
        }
        let same = self.by_content.get(&row.content).into_iter().flatten();
        same.copied().find(|number| {
            is_free(number)
                && self.get(*number).is_some_and(|of| row.serial.is_none() || of.row.serial.is_none())
        })
    }

    fn get(&self, number: u64) -> Option<&Waiting> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.waiting.get(at)
    }

    /// Of two rows of one event, the one with a serial number is kept; then the one whose writer is
    /// known.
    fn join(&mut self, number: u64, reading: usize, row: RecordRow) {
        let Some(at) = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) else { return };
        let Some(Waiting { row: kept, readings }) = self.waiting.get_mut(at) else { return };
        readings.insert(reading);
        let rank = |row: &RecordRow| (row.serial.is_none(), row.unauthenticated);
        let other = if rank(&row) < rank(kept) {
            if let Some(serial) = row.serial.filter(|_| kept.serial.is_none()) {
                self.by_serial.entry((row.time, serial)).or_default().push(number);
            }
            std::mem::replace(kept, row)
        } else {
            row
        };
        kept.add_copy(other);
    }

    /// Passes on the rows that no row from `now` on can be the same event as.
    pub(crate) fn release<E>(
        &mut self,
        now: i64,
        to: &mut impl FnMut(RecordRow) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(Waiting { row, .. }) =
            self.waiting.pop_front_if(|of| now.saturating_sub(of.row.time) > SKEW_MICROS)
        {
            if let Some(serial) = row.serial {
                self.by_serial.remove(&(row.time, serial));
            }
            if let Some(same) = self.by_content.get_mut(&row.content) {
                same.pop_front();
                if same.is_empty() {
                    self.by_content.remove(&row.content);
                }
            }
            self.first += 1;
            to(row)?;
        }
        Ok(())
    }
}
