//! Reads a lake: holdings, runs, findings, coverage and the lines of records.
//!
//! The last row of a holding has all that is known of it. A question about a time
//! therefore reads the last rows of that day and all later ones. What a holding may have been on an
//! earlier day is never concluded from the rows of that day: its device may be learned later.
//!
//! Before they are compacted, several batches, or a generation and batches, may have rows of one
//! host and day. Those of one *part* count: of the one that covers most of that day. Where a host
//! goes over from one part to another, what was open is looked for in all that follow; if it is not
//! there, it is not certain from then on.

mod coverage;
mod last_rows;
mod lines;
mod parts;
mod pieces;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::{Coverage, Finding, GuestRun, Holding, Span, is_same_host};

pub use self::lines::Lines;
use self::parts::Parts;
use self::pieces::{GENERATION, Of, Piece};
use crate::parallel;
use crate::tables::columns::micros;
use crate::{
    Conditions, Day, FindingRow, HeldRow, LakeError, Limits, Micros, ObjectEntry, ObjectReader, Row, Rows,
    RunRow, Snapshot, Store, Table, Test,
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
    /// When.
    pub when: When,
}

/// The time that a question is about.
#[derive(Debug, Clone, Copy, Default)]
pub enum When {
    /// Any time.
    #[default]
    Any,
    /// What had not ended before this time.
    Since(Timestamp),
    /// What was at some moment of this time, or may have been.
    At(Span),
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
        let mut reader = Self {
            store,
            snapshot,
            limits: Limits::default(),
            objects,
            parts: Parts::default(),
            coverage: Vec::new(),
            records: BTreeMap::new(),
        };
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
        self.last_rows::<HeldRow, E>(question, &mut |path, row| match row.holding() {
            Some(holding) => take(holding),
            None => Err(LakeError::out_of_range(path).into()),
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
        self.last_rows::<RunRow, E>(question, &mut |path, row| match row.run() {
            Some(run) => take(run),
            None => Err(LakeError::out_of_range(path).into()),
        })
    }

    /// Passes on the findings of a time, the ends included. What the question says of the time does
    /// not count.
    ///
    /// # Errors
    ///
    /// An object can't be read, or `take` fails.
    pub fn findings<E: From<LakeError>>(
        &self,
        question: &Question,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        take: &mut impl FnMut(Finding) -> Result<(), E>,
    ) -> Result<(), E> {
        let conditions = self.of_time(question, since, until);
        let days = self.days(Table::Findings, since, until);
        let pieces = self.pieces(Table::Findings, days);
        self.of_pieces::<FindingRow, E>(&pieces, &conditions, &mut |path, _, row| {
            take(row.finding().ok_or_else(|| LakeError::out_of_range(path))?)
        })
    }

    /// Passes on the rows of some pieces that count and meet the conditions, each with the path and
    /// the day of its object. Several objects are read at once.
    fn of_pieces<R: Row, E: From<LakeError>>(
        &self,
        pieces: &[Piece<'_>],
        conditions: &Conditions,
        take: &mut impl FnMut(&Arc<str>, Day, R) -> Result<(), E>,
    ) -> Result<(), E> {
        let read = |piece: &Piece<'_>, to: &mut parallel::Sender<'_, (Arc<str>, Day, R)>| {
            match piece {
                Piece::Day(day, of) => {
                    for (path, rows) in self.rows::<R>(*day, *of, conditions)? {
                        for row in rows {
                            to.send((Arc::clone(&path), *day, row?))?;
                        }
                    }
                }
                Piece::Month(objects) => {
                    for object in objects {
                        let path: Arc<str> = Arc::from(object.path.as_str());
                        for row in self.open_object::<R>(object, conditions)? {
                            let row = row?;
                            if self.parts.has(GENERATION, row.host()) {
                                to.send((Arc::clone(&path), object.day, row))?;
                            }
                        }
                    }
                }
            }
            Ok(())
        };
        let parallelism = self.store.parallelism();
        parallel::in_order(parallelism, pieces, read, &mut |(path, day, row)| take(&path, day, row))
    }

    fn of_time(&self, question: &Question, since: Option<Timestamp>, until: Option<Timestamp>) -> Conditions {
        let (from, until) = (since.map_or(Micros::MIN, micros), until.map_or(Micros::MAX, micros));
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
        let day = |time: Option<Timestamp>, else_: Timestamp| Day::of(time.unwrap_or(else_));
        self.days_between(table, day(since, Timestamp::MIN), day(until, Timestamp::MAX))
    }

    /// The days of a table from a first to a last one.
    fn days_between(&self, table: Table, first: Day, last: Day) -> impl Iterator<Item = Day> + use<'_> {
        let days = (first <= last).then(|| self.objects.range((table, first)..=(table, last)));
        days.into_iter().flatten().map(|((_, day), _)| *day)
    }

    /// The rows that some parts have of a day, that count and meet the conditions, by object. If there
    /// are several objects, each has its own order.
    #[allow(clippy::type_complexity)] // The iterator can't be named.
    fn rows<'a, R: Row + 'a>(
        &'a self,
        day: Day,
        of: Of,
        conditions: &Conditions,
    ) -> Result<Vec<(Arc<str>, impl Iterator<Item = Result<R, LakeError>> + use<'a, R>)>, LakeError> {
        let open = self.objects_of(R::TABLE, day, of).map(move |(part, object)| {
            let rows = self.open_object::<R>(object, conditions)?;
            let counts = move |row: &Result<R, LakeError>| {
                row.as_ref().map_or(true, |row| self.parts.counts(*part, row.host(), day))
            };
            Ok((Arc::from(object.path.as_str()), rows.filter(counts)))
        });
        open.collect()
    }

    /// Passes on the rows that some parts have of a day and that meet the conditions, whether or not
    /// they count, each with its part and the path of its object.
    fn each_row<R: Row>(
        &self,
        day: Day,
        has: impl Fn(usize) -> bool,
        conditions: &Conditions,
        mut take: impl FnMut(usize, &Arc<str>, R),
    ) -> Result<(), LakeError> {
        for (part, object) in self.objects_of(R::TABLE, day, Of::All).filter(|(part, _)| has(*part)) {
            let path = Arc::from(object.path.as_str());
            for row in self.open_object(object, conditions)? {
                take(*part, &path, row?);
            }
        }
        Ok(())
    }

    fn open_object<R: Row>(
        &self,
        object: &ObjectEntry,
        conditions: &Conditions,
    ) -> Result<Rows<R>, LakeError> {
        let ObjectEntry { path, bytes, .. } = object;
        ObjectReader::open_for(&self.store, path, *bytes, self.limits, conditions.clone())?.rows()
    }
}
