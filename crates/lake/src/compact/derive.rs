//! Derives a host's rows from the entries of several readings.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use itertools::Itertools as _;
use jiff::Timestamp;
use taptrail_trail::{Content, Entry, Gap, GapReason, Span, Trail};

use super::coverage::Covered;
use super::merge::HostMerge;
use super::plan::{Derive, Plan};
use crate::day_tables::DayTables;
use crate::tables::columns::micros;
use crate::{Day, LakeError, RecordRow, Store, Table};

/// Derives the rows of the hosts for which the plan says so.
pub(super) fn derive(store: &Arc<Store>, plan: &Plan, scratch: &Path) -> Result<DayTables, LakeError> {
    let mut derived = DayTables::new(scratch)?;
    let mut hosts: HashMap<Arc<str>, HostDerivation<'_>> =
        plan.derived().map(|(host, how)| (Arc::clone(host), HostDerivation::new(host, how))).collect();
    let begin = hosts.values().map(|host| host.how.since.unwrap_or(Timestamp::MIN)).min();
    let Some(begin) = begin.map(Day::of) else { return Ok(derived) };
    for day in plan.days(Table::Records).range(begin..).copied() {
        for (reading, row) in merged_records(store, plan, day)? {
            let row = row?;
            if let Some(host) = hosts.get_mut(row.host.as_str()) {
                host.add(reading, row, &mut derived)?;
            }
        }
    }
    hosts.into_values().try_for_each(|host| host.finish(&mut derived))?;
    Ok(derived)
}

/// The records of one day with their readings, merged by host and time. Those of one reading stay in
/// its order; an error comes first.
fn merged_records(
    store: &Arc<Store>,
    plan: &Plan,
    day: Day,
) -> Result<impl Iterator<Item = (usize, Result<RecordRow, LakeError>)> + use<>, LakeError> {
    let of_reading = |reading| {
        let rows = plan.rows::<RecordRow>(store, reading, day)?;
        Ok(rows.map(move |row| (reading, row)))
    };
    let all: Vec<_> = (0..plan.readings()).map(of_reading).collect::<Result<_, LakeError>>()?;
    let key = |row: &RecordRow| (row.time, row.serial.is_none(), row.serial);
    Ok(all.into_iter().kmerge_by(move |(reading, row), (other_reading, other)| match (row, other) {
        (Ok(row), Ok(other)) => {
            let order = row.host.cmp(&other.host).then_with(|| key(row).cmp(&key(other)));
            order.then(reading.cmp(other_reading)).is_lt()
        }
        (row, other) => row.is_err() && other.is_ok(),
    }))
}

/// The derivation of one host.
struct HostDerivation<'a> {
    host: Arc<str>,
    how: &'a Derive,
    merge: HostMerge,
    trail: Trail,
    /// The times that no reading covers, the earliest first.
    holes: VecDeque<Span>,
}

impl<'a> HostDerivation<'a> {
    fn new(host: &Arc<str>, how: &'a Derive) -> Self {
        Self {
            host: Arc::clone(host),
            how,
            merge: HostMerge::default(),
            trail: Trail::with_runs(),
            holes: how.joined.holes.iter().copied().collect(),
        }
    }

    /// Adds a row of a reading.
    fn add(&mut self, reading: usize, row: RecordRow, to: &mut DayTables) -> Result<(), LakeError> {
        let time = row.time;
        if self.how.since.is_some_and(|since| time < micros(since)) || self.is_filled_gap(reading, &row) {
            return Ok(());
        }
        let mut merge = std::mem::take(&mut self.merge);
        merge.add(reading, row);
        let released = merge.release(time, &mut |row| self.feed(row, to));
        self.merge = merge;
        released
    }

    /// Whether it is a gap of one reading, and another reading has the records of that time.
    fn is_filled_gap(&self, reading: usize, row: &RecordRow) -> bool {
        if row.what != "gap" {
            return false;
        }
        let Ok(Entry { time, content: Content::Gap(gap), .. }) = row.clone().entry() else { return false };
        // A log that ends within an event lacks no more than that event.
        let own = &self.how.readings[reading];
        let is_tail = own.spans.last().is_some_and(|last| last.span.until <= time);
        let range = Span { from: gap.since.filter(|_| !is_tail).unwrap_or(time), until: time };
        Covered::fills(&self.how.readings, reading, range)
    }

    /// Feeds the trail with a merged row, and keeps it.
    fn feed(&mut self, row: RecordRow, to: &mut DayTables) -> Result<(), LakeError> {
        let entry = row.clone().entry().map_err(|error| LakeError::Rows {
            table: Table::Records.as_str(),
            reason: format!("host {}: {error}", self.host),
        })?;
        let day = Day::of(entry.time);
        while let Some(hole) = self.holes.pop_front_if(|hole| hole.until <= entry.time) {
            let gap = Gap { since: Some(hole.from), serials: None, why: GapReason::PositionLost };
            let content = Content::Gap(gap);
            self.feed_entry(&Entry { time: hole.until, serial: None, content, ..entry.clone() }, to)?;
        }
        self.feed_entry(&entry, to)?;
        if self.how.has(day) {
            to.add_record(&self.host, day, row)?;
        }
        Ok(())
    }

    fn feed_entry(&mut self, entry: &Entry, to: &mut DayTables) -> Result<(), LakeError> {
        self.trail.feed(entry);
        for holding in self.trail.drain_ended() {
            to.add_holding(&holding, self.how.end(), |day| self.how.has(day))?;
        }
        for run in self.trail.drain_runs() {
            to.add_run(&run, self.how.end(), |day| self.how.has(day))?;
        }
        for finding in self.trail.drain_findings() {
            to.add_finding(&finding, |day| self.how.has(day))?;
        }
        Ok(())
    }

    fn finish(mut self, to: &mut DayTables) -> Result<(), LakeError> {
        let mut merge = std::mem::take(&mut self.merge);
        merge.release(i64::MAX, &mut |row| self.feed(row, to))?;
        self.trail.cover(&self.host, self.how.end());
        let (rest, runs) = std::mem::take(&mut self.trail).finish_with_runs();
        let (end, has) = (self.how.end(), |day| self.how.has(day));
        rest.holdings.iter().try_for_each(|holding| to.add_holding(holding, end, has))?;
        rest.findings.iter().try_for_each(|finding| to.add_finding(finding, has))?;
        runs.iter().try_for_each(|run| to.add_run(run, end, has))?;
        for (day, row) in self.how.joined.covered.rows(&self.host) {
            if self.how.has(day) {
                to.coverage.push(day, row)?;
            }
        }
        Ok(())
    }
}
