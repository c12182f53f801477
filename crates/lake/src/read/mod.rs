//! Reads a lake: holdings, runs, findings, coverage and the lines of records.
//!
//! The last row of a holding has all that is known of it. A question about a time
//! therefore reads the last rows of that day and all later ones. What a holding may have been on an
//! earlier day is never concluded from the rows of that day: its device may be learned later.
//!
//! Before they are compacted, several batches, or a generation and batches, may have rows of one
//! host and day. Those of one *part* count: of the one that covers most of that day. Where a host
//! goes over from one part to another, what was open is looked for in the next part; if it is not
//! there, it is not certain from then on.

mod lines;
mod parts;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::{Certainty, Coverage, Doubt, Finding, GuestRun, Holding, RunState, State, is_same_host};

pub use self::lines::Lines;
use self::parts::Parts;
use crate::tables::columns::micros;
use crate::{
    Conditions, CoverageRow, Day, FindingRow, HeldRow, LakeError, Limits, Micros, ObjectEntry, ObjectReader,
    PossibleRow, Row, Rows, RunRow, Snapshot, Store, Table, Test,
};

/// A lake, as it is at one moment.
#[derive(Debug)]
pub struct LakeReader {
    store: Arc<Store>,
    snapshot: Snapshot,
    limits: Limits,
    /// The objects of each table and day, each with the number of its part.
    objects: BTreeMap<(Table, Day), Vec<(usize, ObjectEntry)>>,
    parts: Parts,
    coverage: Vec<Coverage>,
    /// Records of guests that each host's coverage counts.
    records: BTreeMap<String, u64>,
}

/// What is asked about. What is passed on may be more than that.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// What the last row of a holding or run, or a finding's row, must meet.
    pub conditions: Conditions,
    /// A host, with or without its domain.
    pub host: Option<String>,
    /// Only what had not ended before this time.
    pub since: Option<Timestamp>,
    /// Also what had, and may have been held later nevertheless.
    pub possibly: bool,
}

impl LakeReader {
    /// Looks at a lake, and reads its coverage.
    ///
    /// # Errors
    ///
    /// There is no lake, or it can't be read.
    pub fn open(store: Arc<Store>) -> Result<Self, LakeError> {
        let snapshot = Snapshot::existing(&store)?;
        let mut objects: BTreeMap<(Table, Day), Vec<(usize, ObjectEntry)>> = BTreeMap::new();
        let compacted = snapshot.generation.iter().map(|of| &of.objects);
        let pending = snapshot.batches.iter().map(|of| &of.objects);
        for (part, of_part) in compacted.chain(pending).enumerate() {
            for object in of_part {
                objects.entry((object.table, object.day)).or_default().push((part, object.clone()));
            }
        }
        let all = usize::from(snapshot.generation.is_some()) + snapshot.batches.len();
        let mut reader = Self {
            store,
            snapshot,
            limits: Limits::default(),
            objects,
            parts: Parts::One,
            coverage: Vec::new(),
            records: BTreeMap::new(),
        };
        if all > 1 {
            let mut covered = parts::Covered::new(all);
            reader.each_coverage_row(|part, day, row| covered.add(part, day, row))?;
            reader.parts = covered.parts();
        }
        reader.read_coverage()?;
        Ok(reader)
    }

    /// The manifests that it consists of.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The place.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    /// The coverage of each host, by name.
    pub fn coverage(&self) -> &[Coverage] {
        &self.coverage
    }

    /// Records of guests and their network devices that a host's coverage counts.
    pub fn records_of(&self, host: &str) -> u64 {
        self.records.get(host).copied().unwrap_or(0)
    }

    /// How many hosts have several parts, which are to be compacted to one.
    pub fn divided_hosts(&self) -> usize {
        self.parts.divided_hosts()
    }

    /// The bytes of all its objects.
    pub fn bytes(&self) -> u64 {
        self.objects.values().flatten().map(|(_, object)| object.bytes).sum()
    }

    /// The rows of a table, whether or not they count.
    pub fn rows_of(&self, table: Table) -> u64 {
        let of_table = self.objects.iter().filter(|((of, _), _)| *of == table);
        of_table.flat_map(|(_, objects)| objects).map(|(_, object)| object.rows).sum()
    }

    /// Passes on the holdings.
    ///
    /// # Errors
    ///
    /// An object can't be read, or `take` fails.
    pub fn holdings<E: From<LakeError>>(
        &self,
        question: &Question,
        take: &mut impl FnMut(Holding) -> Result<(), E>,
    ) -> Result<(), E> {
        self.whole::<HeldRow, E>(question, &mut |path, row| match row.holding() {
            Some(holding) => take(holding),
            None => Err(out_of_range(path).into()),
        })
    }

    /// Passes on the runs of guests.
    ///
    /// # Errors
    ///
    /// An object can't be read, or `take` fails.
    pub fn runs<E: From<LakeError>>(
        &self,
        question: &Question,
        take: &mut impl FnMut(GuestRun) -> Result<(), E>,
    ) -> Result<(), E> {
        self.whole::<RunRow, E>(question, &mut |path, row| match row.run() {
            Some(run) => take(run),
            None => Err(out_of_range(path).into()),
        })
    }

    /// Passes on the findings of a time, the ends included.
    ///
    /// # Errors
    ///
    /// An object can't be read, or `take` fails.
    pub fn findings<E: From<LakeError>>(
        &self,
        question: &Question,
        until: Option<Timestamp>,
        take: &mut impl FnMut(Finding) -> Result<(), E>,
    ) -> Result<(), E> {
        let conditions = self.of_time(question, until);
        for day in self.days(Table::Findings, question.since, until) {
            for (path, rows) in self.rows::<FindingRow>(day, &conditions)? {
                for row in rows {
                    take(row?.finding().ok_or_else(|| out_of_range(&path))?)?;
                }
            }
        }
        Ok(())
    }

    fn of_time(&self, question: &Question, until: Option<Timestamp>) -> Conditions {
        let (from, until) = (question.since.map_or(Micros::MIN, micros), until.map_or(Micros::MAX, micros));
        let conditions = self.conditions(question);
        if (from, until) == (Micros::MIN, Micros::MAX) {
            return conditions;
        }
        // A moment of the trail may be more exact than a microsecond.
        conditions.and(vec![Test::Within("time", from.saturating_sub(1), until.saturating_add(1))])
    }

    /// The conditions, and that of the host.
    fn conditions(&self, question: &Question) -> Conditions {
        let conditions = question.conditions.clone();
        let Some(asked) = &question.host else { return conditions };
        let named = self.coverage.iter().filter(|of| is_same_host(asked, &of.host));
        conditions.and(named.map(|of| Test::Is("host", of.host.to_string())).collect())
    }

    /// The days of a table from one time to another.
    fn days(
        &self,
        table: Table,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> impl Iterator<Item = Day> + use<'_> {
        let (since, until) = (since.map(Day::of), until.map(Day::of));
        let of_table = self.objects.keys().filter(move |(of, _)| *of == table).map(|(_, day)| *day);
        of_table.filter(move |day| {
            since.is_none_or(|since| since <= *day) && until.is_none_or(|until| *day <= until)
        })
    }

    /// The rows of a day that count and meet the conditions, by object. If there are several
    /// objects, each has its own order.
    #[allow(clippy::type_complexity)] // The iterator can't be named.
    fn rows<'a, R: Row + 'a>(
        &'a self,
        day: Day,
        conditions: &Conditions,
    ) -> Result<Vec<(Arc<str>, impl Iterator<Item = Result<R, LakeError>> + use<'a, R>)>, LakeError> {
        let objects = self.objects.get(&(R::TABLE, day)).into_iter().flatten();
        let open = objects.map(move |(part, object)| {
            let rows = self.open_object::<R>(object, conditions)?;
            let counts = move |row: &Result<R, LakeError>| {
                row.as_ref().map_or(true, |row| self.parts.counts(*part, row.host(), day))
            };
            Ok((Arc::from(object.path.as_str()), rows.filter(counts)))
        });
        open.collect()
    }

    fn open_object<R: Row>(
        &self,
        object: &ObjectEntry,
        conditions: &Conditions,
    ) -> Result<Rows<R>, LakeError> {
        let ObjectEntry { path, bytes, .. } = object;
        ObjectReader::open_for(&self.store, path, *bytes, self.limits, conditions.clone())?.rows()
    }

    fn each_coverage_row(&self, mut take: impl FnMut(usize, Day, &CoverageRow)) -> Result<(), LakeError> {
        for ((table, day), objects) in &self.objects {
            if *table != Table::Coverage {
                continue;
            }
            for (part, object) in objects {
                for row in self.open_object::<CoverageRow>(object, &Conditions::default())? {
                    take(*part, *day, &row?);
                }
            }
        }
        Ok(())
    }

    fn read_coverage(&mut self) -> Result<(), LakeError> {
        let mut hosts: BTreeMap<String, Coverage> = BTreeMap::new();
        let mut records: BTreeMap<String, u64> = BTreeMap::new();
        for day in self.days(Table::Coverage, None, None) {
            let mut of_day = self.rows::<CoverageRow>(day, &Conditions::default())?;
            let mut add = |path: &Arc<str>, row: &CoverageRow| {
                let new = || Coverage {
                    host: row.host.as_str().into(),
                    spans: Vec::new(),
                    gaps: Vec::new(),
                    starts: Vec::new(),
                };
                if !hosts.contains_key(&row.host) {
                    hosts.insert(row.host.clone(), new());
                }
                let of_row = u64::try_from(row.records).unwrap_or(0);
                match records.get_mut(&row.host) {
                    Some(of_host) => *of_host = of_host.saturating_add(of_row),
                    None => drop(records.insert(row.host.clone(), of_row)),
                }
                hosts
                    .get_mut(&row.host)
                    .and_then(|of_host| row.continue_with(of_host))
                    .ok_or_else(|| out_of_range(path))
            };
            if let [(path, rows)] = &mut of_day[..] {
                for row in rows {
                    add(path, &row?)?;
                }
                continue;
            }
            let mut all = Vec::new();
            for (path, rows) in of_day {
                for row in rows {
                    all.push((row?, Arc::clone(&path)));
                }
            }
            all.sort_by(|(a, _), (b, _)| a.order(b));
            all.iter().try_for_each(|(row, path)| add(path, row))?;
        }
        self.coverage = hosts.into_values().collect();
        self.records = records;
        Ok(())
    }

    /// Passes on the last row of each holding or run.
    fn whole<R: Lasting, E: From<LakeError>>(
        &self,
        question: &Question,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        let conditions = self.conditions(question);
        let last_rows = conditions.clone().and(vec![Test::Set("last")]);
        let since = question.since.map(Day::of);
        if question.possibly && since.is_some() {
            self.possibly_later(&last_rows, since, take)?;
        }
        for day in self.days(R::TABLE, question.since, None) {
            let ends = self.parts.ends(day);
            if ends.is_empty() {
                for (path, rows) in self.rows::<R>(day, &last_rows)? {
                    for row in rows {
                        take(&path, row?)?;
                    }
                }
                continue;
            }
            let mut open: Vec<(Arc<str>, R)> = Vec::new();
            for (path, rows) in self.rows::<R>(day, &conditions)? {
                for row in rows {
                    let row = row?;
                    let goes_over = ends.contains_key(row.host());
                    match row.is_last() {
                        true if goes_over && row.is_open() => open.push((Arc::clone(&path), row)),
                        true => take(&path, row)?,
                        false if goes_over => open.push((Arc::clone(&path), row)),
                        false => {}
                    }
                }
            }
            let continued = self.continued(&open, &ends)?;
            for (path, mut row) in open {
                if !continued.contains(&row.key_text()) {
                    row.make_uncertain(self.covered_until(row.host(), day));
                    take(&path, row)?;
                }
            }
        }
        Ok(())
    }

    /// Passes on what ended before a day, and may have been held on it nevertheless.
    fn possibly_later<R: Lasting, E: From<LakeError>>(
        &self,
        last_rows: &Conditions,
        day: Option<Day>,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(tests) = R::may_go_on() else { return Ok(()) };
        let conditions = last_rows.clone().and(tests);
        for before in self.days(R::TABLE, None, None).take_while(|before| Some(*before) < day) {
            let ends = self.parts.ends(before);
            for (path, rows) in self.rows::<R>(before, &conditions)? {
                for row in rows {
                    let mut row = row?;
                    if ends.contains_key(row.host()) && row.is_open() {
                        row.make_uncertain(self.covered_until(row.host(), before));
                    }
                    take(&path, row)?;
                }
            }
        }
        Ok(())
    }

    /// The keys of some rows that the next part of their host continues.
    fn continued<R: Lasting>(
        &self,
        open: &[(Arc<str>, R)],
        ends: &HashMap<&str, Day>,
    ) -> Result<HashSet<String>, LakeError> {
        let mut continued = HashSet::new();
        let next_days: BTreeSet<Day> =
            open.iter().filter_map(|(_, row)| ends.get(row.host())).copied().collect();
        for next in next_days {
            let on_day = |row: &R| ends.get(row.host()) == Some(&next);
            let wanted: HashSet<String> =
                open.iter().map(|(_, row)| row).filter(|row| on_day(row)).map(R::key_text).collect();
            let hosts: BTreeSet<&str> =
                open.iter().map(|(_, row)| row).filter(|row| on_day(row)).map(R::host).collect();
            let of_hosts = hosts.into_iter().map(|host| Test::Is("host", host.to_owned())).collect();
            for (_, rows) in self.rows::<R>(next, &Conditions(vec![of_hosts]))? {
                for row in rows {
                    let key = row?.key_text();
                    if wanted.contains(&key) {
                        continued.insert(key);
                    }
                }
            }
        }
        Ok(continued)
    }

    /// Until when a host's records of a day go on.
    fn covered_until(&self, host: &str, day: Day) -> Timestamp {
        let of_host = self.coverage.binary_search_by(|of| (*of.host).cmp(host)).ok();
        let spans = of_host.map_or(&[][..], |at| &self.coverage[at].spans[..]);
        let last = spans.iter().rev().find(|span| span.from < day.end());
        last.map_or(day.start(), |last| last.until.min(day.end()))
    }
}

fn out_of_range(path: &(impl AsRef<str> + ?Sized)) -> LakeError {
    LakeError::damaged(&Arc::from(path.as_ref()), "a value of it is out of range")
}

/// A row of what lives from day to day.
trait Lasting: Row {
    /// Whether it is the last row.
    fn is_last(&self) -> bool;

    /// Whether no end of it is known.
    fn is_open(&self) -> bool;

    /// Its key, which is the same on all its days.
    fn key_text(&self) -> String;

    /// What happened to it from this time on is not known.
    fn make_uncertain(&mut self, since: Timestamp);

    /// Which last rows may be of something that went on; none if none may.
    fn may_go_on() -> Option<Vec<Test>>;
}

impl Lasting for HeldRow {
    fn is_last(&self) -> bool {
        self.last
    }

    fn is_open(&self) -> bool {
        ![State::Released, State::OpenFailed].map(State::as_str).contains(&&*self.state)
    }

    fn key_text(&self) -> String {
        format!("{:?}", self.key())
    }

    fn make_uncertain(&mut self, since: Timestamp) {
        let since = micros(since);
        self.uncertain_since = Some(self.uncertain_since.map_or(since, |known| known.min(since)));
        Certainty::Incomplete.as_str().clone_into(&mut self.certainty);
        self.possibly_held.push(PossibleRow {
            from: Some(since),
            until: None,
            why: Doubt::RecordsLost.as_str().to_owned(),
        });
    }

    fn may_go_on() -> Option<Vec<Test>> {
        let state = |state: State| Test::Is("state", state.as_str().to_owned());
        Some(vec![
            Test::Some("end_doubt"),
            Test::Some("last_seen"),
            Test::Some("uncertain_since"),
            state(State::Held),
            state(State::NeverGranted),
            state(State::Opening),
            state(State::Unknown),
        ])
    }
}

impl Lasting for RunRow {
    fn is_last(&self) -> bool {
        self.last
    }

    fn is_open(&self) -> bool {
        self.state == RunState::Running.as_str()
    }

    fn key_text(&self) -> String {
        format!("{:?}", self.key())
    }

    fn make_uncertain(&mut self, since: Timestamp) {
        let since = micros(since);
        self.uncertain_since = Some(self.uncertain_since.map_or(since, |known| known.min(since)));
        Certainty::Incomplete.as_str().clone_into(&mut self.certainty);
    }

    fn may_go_on() -> Option<Vec<Test>> {
        Some(vec![Test::Is("state", RunState::Running.as_str().to_owned())])
    }
}
