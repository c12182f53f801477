//! What becomes of each host's rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::Span;

use super::Hole;
use super::coverage::{Covered, CoveredSpan, Joined, Readings, join};
use crate::manifest::ObjectEntry;
use crate::spool::{SortedRows, merged};
use crate::tables::columns::timestamp;
use crate::{
    Conditions, CoverageRow, Day, LakeError, Limits, ObjectReader, Row, Snapshot, SpanLogs, Store, Table,
    parallel,
};

/// The generation before, as a reading. The batches follow it.
pub(super) const COMPACTED: usize = 0;

/// How many readings are merged at once: each has an object open, and some thousand rows decoded.
pub(super) const READINGS_AT_ONCE: usize = 32;

/// What becomes of each host's rows.
pub(super) struct Plan {
    /// The objects of each reading, by table and day.
    readings: Vec<BTreeMap<(Table, Day), Vec<ObjectEntry>>>,
    hosts: Arc<HashMap<Arc<str>, Decision>>,
}

/// The hosts whose rows of a day are those of one reading.
pub(super) struct Taken {
    hosts: Arc<HashMap<Arc<str>, Decision>>,
    reading: usize,
    day: Day,
}

impl Taken {
    /// Whether the host's rows are those of the reading.
    pub(super) fn has(&self, host: &str) -> bool {
        let taken_from = match self.hosts.get(host) {
            None => Some(COMPACTED),
            Some(Decision::Take(reading)) => Some(*reading),
            Some(Decision::Derive(of)) => (!of.has(self.day)).then_some(COMPACTED),
        };
        taken_from == Some(self.reading)
    }
}

/// What becomes of a host's rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    /// They are those of one reading.
    Take(usize),
    /// They are derived from the entries of all readings.
    Derive(Box<Derive>),
}

/// How a host's rows are derived.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Derive {
    /// What readings cover.
    pub(super) readings: Readings,
    pub(super) joined: Joined,
    /// From which time its entries are read: a boot, at which nothing was held; or all.
    pub(super) since: Option<Timestamp>,
    /// From which day its rows are derived; those of earlier days are the generation's.
    pub(super) first_day: Option<Day>,
}

impl Derive {
    /// Whether the rows of a day are derived.
    pub(super) fn has(&self, day: Day) -> bool {
        self.first_day.is_none_or(|first| first <= day)
    }

    /// Until when the host's records go on.
    pub(super) fn end(&self) -> Timestamp {
        self.joined.covered.spans.last().map_or(Timestamp::MIN, |last| last.span.until)
    }
}

impl Plan {
    pub(super) fn new(store: &Arc<Store>, snapshot: &Snapshot) -> Result<Self, LakeError> {
        let mut readings = vec![BTreeMap::<_, Vec<_>>::new()];
        let batches = snapshot.batches.iter().map(|batch| &batch.objects);
        readings.extend(batches.map(|_| BTreeMap::new()));
        let compacted = snapshot.generation.iter().map(|last| (COMPACTED, &last.objects));
        let pending = (1..).zip(snapshot.batches.iter().map(|batch| &batch.objects));
        for (number, objects) in compacted.chain(pending) {
            for object in objects {
                readings[number].entry((object.table, object.day)).or_default().push(object.clone());
            }
        }
        let mut plan = Self { readings, hosts: Arc::default() };
        let affected: BTreeSet<&str> =
            snapshot.batches.iter().flat_map(|batch| batch.hosts.iter().map(String::as_str)).collect();
        let numbers = 0..plan.readings.len();
        let objects: Vec<(usize, Day)> = numbers
            .flat_map(|number| {
                plan.days_of(number, Table::Coverage).into_iter().map(move |day| (number, day))
            })
            .collect();
        let read = |(number, day): &(usize, Day), to: &mut parallel::Sender<'_, (usize, CoverageRow)>| {
            for row in plan.rows::<CoverageRow>(store, *number, *day)? {
                let row = row?;
                if affected.contains(row.host.as_str()) {
                    to.send((*number, row))?;
                }
            }
            Ok(())
        };
        let mut covered: HashMap<Arc<str>, Readings> = HashMap::new();
        let mut take = |(number, row): (usize, CoverageRow)| {
            let of = covered.entry(row.host.as_str().into()).or_default();
            add(of.entry(number).or_default(), &row);
            Ok::<_, LakeError>(())
        };
        parallel::in_order(store.parallelism(), &objects, read, &mut take)?;
        plan.hosts = Arc::new(covered.into_iter().map(|(host, readings)| (host, decide(readings))).collect());
        Ok(plan)
    }

    /// The days of a reading that have rows of a table.
    pub(super) fn days_of(&self, reading: usize, table: Table) -> Vec<Day> {
        let of_table = self.readings[reading].keys().filter(|(of, _)| *of == table);
        of_table.map(|(_, day)| *day).collect()
    }

    /// The days of any reading that have rows of a table.
    pub(super) fn days(&self, table: Table) -> BTreeSet<Day> {
        (0..self.readings.len()).flat_map(|reading| self.days_of(reading, table)).collect()
    }

    /// How many readings there are, the generation included.
    pub(super) fn readings(&self) -> usize {
        self.readings.len()
    }

    /// The objects of a reading.
    pub(super) fn objects(&self, reading: usize, table: Table, day: Day) -> &[ObjectEntry] {
        self.readings[reading].get(&(table, day)).map_or(&[], Vec::as_slice)
    }

    /// The rows of a reading on one day.
    pub(super) fn rows<R: Row + 'static>(
        &self,
        store: &Arc<Store>,
        reading: usize,
        day: Day,
    ) -> Result<SortedRows<R>, LakeError> {
        self.rows_for(store, reading, day, &Conditions::default())
    }

    /// The rows of a reading on one day that meet the conditions.
    pub(super) fn rows_for<R: Row + 'static>(
        &self,
        store: &Arc<Store>,
        reading: usize,
        day: Day,
        conditions: &Conditions,
    ) -> Result<SortedRows<R>, LakeError> {
        let mut sorted: Vec<SortedRows<R>> = Vec::new();
        for ObjectEntry { path, bytes, .. } in self.objects(reading, R::TABLE, day) {
            let reader = ObjectReader::open_for(store, path, *bytes, Limits::default(), conditions.clone())?;
            sorted.push(Box::new(reader.rows()?));
        }
        Ok(merged(sorted))
    }

    /// The hosts whose rows of a day are those of a reading.
    pub(super) fn taken(&self, reading: usize, day: Day) -> Taken {
        Taken { hosts: Arc::clone(&self.hosts), reading, day }
    }

    /// The hosts whose rows are derived.
    pub(super) fn derived(&self) -> impl Iterator<Item = (&Arc<str>, &Derive)> {
        self.hosts.iter().filter_map(|(host, decision)| match decision {
            Decision::Derive(of) => Some((host, &**of)),
            Decision::Take(_) => None,
        })
    }

    /// The first day on which a row may differ from the generation's; none if any may.
    pub(super) fn first_changed_day(&self) -> Option<Day> {
        let first = |decision: &Decision| match decision {
            Decision::Take(COMPACTED) => Some(None),
            Decision::Take(_) => None,
            Decision::Derive(of) => of.first_day.map(Some),
        };
        // Outside: any day may. Inside: none does.
        let firsts: Option<Vec<Option<Day>>> = self.hosts.values().map(first).collect();
        firsts?.into_iter().flatten().min()
    }

    pub(super) fn derived_hosts(&self) -> usize {
        self.derived().count()
    }

    /// The times that no reading covers between those that readings cover.
    pub(super) fn holes(&self) -> Vec<Hole> {
        let of = |(host, of): (&Arc<str>, &Derive)| {
            let holes = of.joined.holes.iter();
            holes.map(|hole| Hole { host: Arc::clone(host), time: *hole }).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = self.derived().flat_map(of).collect();
        all.sort_unstable();
        all
    }
}

fn add(covered: &mut Covered, row: &CoverageRow) {
    let (Some(from), Some(until)) = (timestamp(row.since), timestamp(row.until)) else { return };
    let span = Span { from, until };
    let serial = |serial: Option<i64>| serial.and_then(|serial| u32::try_from(serial).ok());
    match row.what.as_str() {
        CoverageRow::SPAN => {
            let logs = SpanLogs {
                records: row.records,
                first_serial: serial(row.first_serial),
                last_serial: serial(row.last_serial),
            };
            match covered.spans.last_mut() {
                // Cut at midnight.
                Some(last) if last.span.until == from => {
                    last.span.until = until;
                    last.logs.records = last.logs.records.saturating_add(logs.records);
                    last.logs.last_serial = logs.last_serial.or(last.logs.last_serial);
                }
                _ => covered.spans.push(CoveredSpan { span, logs }),
            }
        }
        CoverageRow::GAP => match covered.gaps.last_mut() {
            Some(last) if last.until == from => last.until = until,
            _ => covered.gaps.push(span),
        },
        CoverageRow::START => covered.starts.push(from),
        // A later version's.
        _ => {}
    }
}

/// Decides about a host of which a batch has something.
fn decide(readings: Readings) -> Decision {
    let known = || readings.iter().filter(|(_, of)| !of.spans.is_empty());
    // The generation first: then nothing changes.
    let all = known().find(|(_, one)| known().all(|(_, other)| one.contains(other)));
    if let Some((all, _)) = all {
        return Decision::Take(*all);
    }
    let joined = join(&readings);
    let begins = |of: &Covered| of.spans.first().map(|first| Day::of(first.span.from));
    // The last day of the generation says that holdings are held at its end.
    let compacted = readings.get(&COMPACTED).and_then(|compacted| compacted.spans.last());
    let ends = compacted.map(|last| Day::of(last.span.until));
    let pending = readings.iter().filter(|(number, _)| **number != COMPACTED);
    let changed = pending.filter_map(|(_, of)| begins(of)).chain(ends).min();
    let is_before = |start: &&Timestamp| changed.is_some_and(|changed| Day::of(**start) < changed);
    let since =
        if ends.is_none() { None } else { joined.covered.starts.iter().rev().find(is_before).copied() };
    let first_day = since.and_then(|since| Day::of(since).next());
    Decision::Derive(Box::new(Derive { readings, joined, since, first_day }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64, hour: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400 + hour * 3600).unwrap()
    }

    fn covered(from: Timestamp, until: Timestamp, records: i64, starts: &[Timestamp]) -> Covered {
        let span = Span { from, until };
        let logs = SpanLogs { records, ..SpanLogs::default() };
        let spans = vec![CoveredSpan { span, logs }];
        Covered { spans, gaps: Vec::new(), starts: starts.to_vec() }
    }

    fn decide<const N: usize>(readings: [Covered; N]) -> Decision {
        super::decide(readings.into_iter().enumerate().collect())
    }

    #[test]
    fn the_reading_that_knows_all_is_taken() {
        let of = |records| covered(at(0, 0), at(9, 0), records, &[]);
        let (all, part) = (of(9), of(8));
        assert_eq!(decide([all.clone(), part.clone()]), Decision::Take(0));
        assert_eq!(decide([part.clone(), Covered::default(), all.clone()]), Decision::Take(2));
        assert_eq!(decide([all.clone(), all.clone()]), Decision::Take(0), "nothing changes");
        assert_eq!(decide([Covered::default(), part.clone(), part]), Decision::Take(1));
        // A longer log has more records, and may lack those of the other's ledger.
        let shorter = covered(at(1, 0), at(8, 0), 4, &[]);
        assert!(matches!(decide([Covered::default(), all, shorter]), Decision::Derive(_)));
    }

    #[test]
    fn a_host_is_derived_from_the_last_boot_before_what_changes() {
        let boots = [at(2, 5), at(4, 5), at(6, 5)];
        let compacted = covered(at(0, 0), at(7, 0), 7, &boots);
        let later = covered(at(6, 0), at(9, 0), 3, &boots[2..]);
        let Decision::Derive(of) = decide([compacted.clone(), later]) else { panic!("both know something") };
        assert_eq!((of.since, of.first_day), (Some(at(4, 5)), Some(Day::of(at(5, 0)))));
        let earlier = covered(at(1, 0) - jiff::SignedDuration::from_hours(48), at(1, 0), 3, &[]);
        let Decision::Derive(of) = decide([compacted, earlier]) else { panic!("both know something") };
        assert_eq!((of.since, of.first_day), (None, None));
    }
}
