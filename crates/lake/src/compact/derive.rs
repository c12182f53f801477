//! Derives a host's rows from the entries of several readings.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use itertools::Itertools as _;
use jiff::Timestamp;
use taptrail_trail::{Content, Entry, Gap, GapReason, Span, Trail};

use super::coverage::Covered;
use super::merge::HostMerge;
use super::plan::{Derive, Plan, READINGS_AT_ONCE};
use crate::day_tables::DayTables;
use crate::tables::columns::micros;
use crate::{Conditions, Day, LakeError, RecordRow, Store, Table, Test};

/// How many hosts are derived at once.
const HOSTS_AT_ONCE: usize = 1024;

/// Derives the rows of the hosts for which the plan says so.
pub(super) fn derive(store: &Arc<Store>, plan: &Plan, scratch: &Path) -> Result<DayTables, LakeError> {
    let mut derived = DayTables::new(scratch);
    let mut hosts: Vec<_> = plan.derived().collect();
    hosts.sort_unstable_by_key(|(host, _)| *host);
    let mut rest = &hosts[..];
    while !rest.is_empty() {
        let (group, more) = rest.split_at(group_size(rest));
        derive_group(store, plan, group, &mut derived)?;
        rest = more;
    }
    Ok(derived)
}

/// How many of these hosts are derived together: one at least.
fn group_size(hosts: &[(&Arc<str>, &Derive)]) -> usize {
    let mut readings: BTreeSet<usize> = BTreeSet::new();
    let fits = |(_, how): &&(&Arc<str>, &Derive)| {
        readings.extend(how.readings.keys());
        readings.len() <= READINGS_AT_ONCE
    };
    hosts.iter().take(HOSTS_AT_ONCE).take_while(fits).count().max(1)
}

/// Derives the rows of some hosts that follow each other by name.
fn derive_group(
    store: &Arc<Store>,
    plan: &Plan,
    group: &[(&Arc<str>, &Derive)],
    derived: &mut DayTables,
) -> Result<(), LakeError> {
    let (Some((first, _)), Some((last, _))) = (group.first(), group.last()) else { return Ok(()) };
    let of_group =
        Conditions::default().and(vec![Test::Between("host", first.to_string(), last.to_string())]);
    let readings: BTreeSet<usize> = group.iter().flat_map(|(_, how)| how.readings.keys().copied()).collect();
    let begin = group.iter().map(|(_, how)| how.since.unwrap_or(Timestamp::MIN)).min().map(Day::of);
    let days: BTreeSet<Day> =
        readings.iter().flat_map(|reading| plan.days_of(*reading, Table::Records)).collect();
    let mut hosts: HashMap<&str, HostDerivation<'_>> =
        group.iter().map(|(host, how)| (&***host, HostDerivation::new(host, how))).collect();
    for day in days.into_iter().filter(|day| Some(*day) >= begin) {
        for (reading, row) in merged_records(store, plan, &readings, day, &of_group)? {
            let row = row?;
            if let Some(host) = hosts.get_mut(row.host.as_str()) {
                host.add(reading, row, derived)?;
            }
        }
    }
    hosts.into_values().try_for_each(|host| host.finish(derived))
}

/// The records of one day with their readings, merged by host and time. Those of one reading stay in
/// its order; an error comes first.
fn merged_records(
    store: &Arc<Store>,
    plan: &Plan,
    readings: &BTreeSet<usize>,
    day: Day,
    conditions: &Conditions,
) -> Result<impl Iterator<Item = (usize, Result<RecordRow, LakeError>)> + use<>, LakeError> {
    let of_reading = |reading: &usize| {
        let reading = *reading;
        let rows = plan.rows_for::<RecordRow>(store, reading, day, conditions)?;
        Ok(rows.map(move |row| (reading, row)))
    };
    let all: Vec<_> = readings.iter().map(of_reading).collect::<Result<_, LakeError>>()?;
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
        let last = self.how.readings.get(&reading).and_then(|own| own.spans.last());
        let is_tail = last.is_some_and(|last| last.span.until <= time);
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
        // A lake has no table of them.
        self.trail.drain_bridge_taps().for_each(drop);
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
