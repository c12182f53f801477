//! The rows of all tables on their way into objects.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::{Finding, GuestRun, Holding};

use crate::slice::{held_rows, run_rows};
use crate::spool::Spool;
use crate::{CoverageRow, Day, FindingRow, HeldRow, LakeError, RecordRow, RunRow};

/// The rows of all tables, by day.
pub(crate) struct DayTables {
    pub(crate) held: Spool<HeldRow>,
    pub(crate) runs: Spool<RunRow>,
    pub(crate) findings: Spool<FindingRow>,
    pub(crate) coverage: Spool<CoverageRow>,
    pub(crate) records: Spool<RecordRow>,
    record_positions: Positions,
    finding_positions: Positions,
}

impl DayTables {
    /// Tables without rows, which are sorted in this directory.
    pub(crate) fn new(scratch: &Path) -> Self {
        Self {
            held: Spool::new(scratch),
            runs: Spool::new(scratch),
            findings: Spool::new(scratch),
            coverage: Spool::new(scratch),
            records: Spool::new(scratch),
            record_positions: Positions::default(),
            finding_positions: Positions::default(),
        }
    }

    /// Adds a record, in the order in which the trail is fed.
    pub(crate) fn add_record(
        &mut self,
        host: &Arc<str>,
        day: Day,
        mut row: RecordRow,
    ) -> Result<(), LakeError> {
        row.position = self.record_positions.next(host, day);
        self.records.push(day, row)
    }

    /// Adds the rows of a holding, of the days that are wanted. `end`: see [`held_rows`].
    pub(crate) fn add_holding(
        &mut self,
        holding: &Holding,
        end: Timestamp,
        is_wanted: impl Fn(Day) -> bool,
    ) -> Result<(), LakeError> {
        let rows = held_rows(holding, end).into_iter().filter(|(day, _)| is_wanted(*day));
        rows.into_iter().try_for_each(|(day, row)| self.held.push(day, row))
    }

    /// Adds the rows of a run, as [`add_holding`](Self::add_holding).
    pub(crate) fn add_run(
        &mut self,
        run: &GuestRun,
        end: Timestamp,
        is_wanted: impl Fn(Day) -> bool,
    ) -> Result<(), LakeError> {
        let rows = run_rows(run, end).into_iter().filter(|(day, _)| is_wanted(*day));
        rows.into_iter().try_for_each(|(day, row)| self.runs.push(day, row))
    }

    /// Adds a finding, in the order in which they are made, if its day is wanted.
    pub(crate) fn add_finding(
        &mut self,
        finding: &Finding,
        is_wanted: impl Fn(Day) -> bool,
    ) -> Result<(), LakeError> {
        let day = Day::of(finding.time);
        if !is_wanted(day) {
            return Ok(());
        }
        let position = self.finding_positions.next(&finding.host, day);
        self.findings.push(day, FindingRow { position, ..FindingRow::of(finding) })
    }

    /// The days that have rows.
    pub(crate) fn days(&self) -> BTreeSet<Day> {
        let Self { held, runs, findings, coverage, records, .. } = self;
        let derived = held.days().chain(runs.days()).chain(findings.days());
        derived.chain(coverage.days()).chain(records.days()).collect()
    }
}

/// Counts what comes of each host, from 0 on each day.
#[derive(Debug, Default)]
struct Positions(HashMap<Arc<str>, (Day, i64)>);

impl Positions {
    /// The position of the next one of a host.
    fn next(&mut self, host: &Arc<str>, day: Day) -> i64 {
        match self.0.get_mut(host) {
            Some((last, position)) if *last >= day => {
                // A time may be of the day before: its position goes on from the next one's.
                *position += 1;
                *position
            }
            Some(last) => {
                *last = (day, 0);
                0
            }
            None => {
                self.0.insert(Arc::clone(host), (day, 0));
                0
            }
        }
    }
}
