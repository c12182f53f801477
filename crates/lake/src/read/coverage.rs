//! What the hosts' records cover, and which part of the lake counts for each host and day.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::LakeReader;
use super::parts::{Covered, PartDays, Parts, part_of};
use super::pieces::{GENERATION, Of};
use crate::summary::HostCoverage;
use crate::{Conditions, CoverageRow, Day, LakeError, ObjectEntry, Row as _, Table, Text};

/// Pieces into which a generation's coverage of one host is cut at most: what somebody writes into a
/// lake must not fill the memory.
const MAX_CUT: usize = 1 << 18;

/// A row of one part and day.
struct Located {
    part: usize,
    day: Day,
    path: Arc<str>,
    row: CoverageRow,
}

/// Hosts of several parts, while they are read.
#[derive(Default)]
struct Joining {
    coverage: HostCoverage,
    days: HashMap<Text, Vec<PartDays>>,
    /// What the summary counts of each of them.
    records: BTreeMap<Text, i64>,
}

impl LakeReader {
    /// Reads the coverage. The summary has that of the generation: the objects of its days are read
    /// only if there is none, and those of few days where batches wait.
    pub(super) fn read_coverage(&mut self) -> Result<(), LakeError> {
        let summary = self.snapshot.summary().iter().find(|of| of.table == Table::Coverage);
        let has_generation = self.snapshot.generation.is_some();
        let mut of_summary = BTreeMap::new();
        let coverage = match (summary, self.snapshot.batches.len() + usize::from(has_generation)) {
            (Some(summary), 1) => {
                let mut coverage = HostCoverage::default();
                for row in self.open_object::<CoverageRow>(summary, &Conditions::default())? {
                    add(&mut coverage, &summary.path, &row?)?;
                }
                coverage
            }
            (_, 1) => self.coverage_of_days()?,
            (summary, _) => {
                let of = if summary.is_some() { Of::Batches } else { Of::All };
                let waiting = self.located_rows(of)?;
                let mut joining = Joining::default();
                if let Some(summary) = summary {
                    let path: Arc<str> = Arc::from(summary.path.as_str());
                    self.join(&path, summary, waiting, &mut joining)?;
                } else {
                    waiting.into_values().try_for_each(|rows| joining.add(rows))?;
                }
                self.parts = Parts::of(joining.days);
                of_summary = joining.records;
                joining.coverage
            }
        };
        of_summary.retain(|host, _| self.parts.has(GENERATION, host));
        self.without_superseded(&mut of_summary)?;
        for (coverage, records) in coverage.finish() {
            let of_summary = of_summary.get(&*coverage.host).copied().unwrap_or(0);
            let records = u64::try_from(records.saturating_add(of_summary)).unwrap_or(0);
            self.records.insert(coverage.host.to_string(), records);
            self.coverage.push(coverage);
        }
        Ok(())
    }

    /// The coverage that the objects of all days have, where there is one part alone.
    fn coverage_of_days(&self) -> Result<HostCoverage, LakeError> {
        let mut coverage = HostCoverage::default();
        for day in self.days(Table::Coverage, None, None) {
            let mut of_day = self.rows::<CoverageRow>(day, Of::All, &Conditions::default())?;
            if let [(path, rows)] = &mut of_day[..] {
                rows.try_for_each(|row| add(&mut coverage, path, &row?))?;
                continue;
            }
            let mut all = Vec::new();
            for (path, rows) in of_day {
                for row in rows {
                    all.push((row?, Arc::clone(&path)));
                }
            }
            all.sort_by(|(a, _), (b, _)| a.order(b));
            all.iter().try_for_each(|(row, path)| add(&mut coverage, path, row))?;
        }
        Ok(coverage)
    }

    /// The rows of all days of some parts, by host.
    fn located_rows(&self, of: Of) -> Result<BTreeMap<Text, Vec<Located>>, LakeError> {
        let mut hosts: BTreeMap<Text, Vec<Located>> = BTreeMap::new();
        for day in self.days(Table::Coverage, None, None) {
            let is_of = |part| of.has(part);
            self.each_row(day, is_of, &Conditions::default(), |part, path, row: CoverageRow| {
                let of_host = hosts.entry(row.host.clone()).or_default();
                of_host.push(Located { part, day, path: Arc::clone(path), row });
            })?;
        }
        Ok(hosts)
    }

    /// Joins what a summary has of the generation with what waits. A summary's rows of a host come one
    /// after the other.
    fn join(
        &self,
        path: &Arc<str>,
        summary: &ObjectEntry,
        mut waiting: BTreeMap<Text, Vec<Located>>,
        joining: &mut Joining,
    ) -> Result<(), LakeError> {
        let out_of_range = || LakeError::out_of_range(path);
        let mut rows: Vec<Located> = Vec::new();
        // Until the first day of which something waits, what the generation has counts as it is.
        let (mut uncut_until, mut cut) = (None, 0);
        for row in self.open_object::<CoverageRow>(summary, &Conditions::default())? {
            let mut row = row?;
            if rows.first().is_some_and(|of| of.row.host != row.host) {
                joining.add(std::mem::take(&mut rows))?;
            }
            if rows.is_empty() {
                let of_host = waiting.remove(&row.host).unwrap_or_default();
                (uncut_until, cut) = (of_host.iter().map(|of| of.day).min(), 0);
                rows = of_host;
            }
            let Some(uncut_until) = uncut_until else {
                joining.add_whole(path, &row)?;
                continue;
            };
            let of_host = joining.records.entry(row.host.clone()).or_default();
            *of_host = of_host.saturating_add(std::mem::take(&mut row.records).max(0));
            for (day, row) in row.by_day_from(uncut_until).ok_or_else(out_of_range)? {
                cut += 1;
                if cut > MAX_CUT {
                    return Err(out_of_range());
                }
                rows.push(Located { part: GENERATION, day, path: Arc::clone(path), row });
            }
        }
        joining.add(rows)?;
        waiting.into_values().try_for_each(|rows| joining.add(rows))
    }

    /// Subtracts from the records that the summary counts of hosts those of days on which a batch
    /// counts in place of the generation.
    fn without_superseded(&self, records: &mut BTreeMap<Text, i64>) -> Result<(), LakeError> {
        if records.is_empty() {
            return Ok(());
        }
        let Some(first) = self.parts.first_without(GENERATION) else { return Ok(()) };
        for day in self.days(Table::Coverage, Some(first.start()), None) {
            let is_generation = |part| part == GENERATION;
            self.each_row(day, is_generation, &Conditions::default(), |part, _, row: CoverageRow| {
                let counts = self.parts.counts(part, row.host(), day);
                if let Some(of_host) = records.get_mut(&row.host).filter(|_| !counts) {
                    *of_host = of_host.saturating_sub(row.records.max(0));
                }
            })?;
        }
        Ok(())
    }
}

impl Joining {
    /// Adds a row of a host of which nothing waits.
    fn add_whole(&mut self, path: &str, row: &CoverageRow) -> Result<(), LakeError> {
        let (first, last) = row.days().ok_or_else(|| LakeError::out_of_range(path))?;
        let days = self.days.entry(row.host.clone()).or_default();
        match days.last_mut() {
            Some(of) => (of.covered, of.last) = (of.covered.max(last), of.last.max(last)),
            None => days.push(PartDays { part: GENERATION, first, covered: last, last }),
        }
        add(&mut self.coverage, path, row)
    }

    /// Adds all rows of one host.
    fn add(&mut self, mut rows: Vec<Located>) -> Result<(), LakeError> {
        let Some(host) = rows.first().map(|of| of.row.host.clone()) else { return Ok(()) };
        let mut covered = Covered::default();
        rows.iter().for_each(|of| covered.add(of.part, of.day, &of.row));
        let days = covered.choose();
        rows.retain(|of| part_of(&days, of.day).is_none_or(|part| part == of.part));
        rows.sort_by(|a, b| a.row.order(&b.row));
        self.days.insert(host, days);
        rows.iter().try_for_each(|of| add(&mut self.coverage, &of.path, &of.row))
    }
}

fn add(coverage: &mut HostCoverage, path: &str, row: &CoverageRow) -> Result<(), LakeError> {
    coverage.add(row).ok_or_else(|| LakeError::out_of_range(path))
}
