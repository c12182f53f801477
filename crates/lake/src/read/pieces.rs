//! What is read of a table, one after the other: months that are over, and days.

use std::collections::BTreeMap;

use super::LakeReader;
use crate::{Day, ObjectEntry, Table};

/// The generation's part, if there is a generation.
pub(super) const GENERATION: usize = 0;

/// Of which parts something is read. Without a generation, only all of them can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// All of them.
    All,
    /// That of the generation.
    Generation,
    /// Those of the batches that wait to be compacted, where there is a generation.
    Batches,
}

impl Of {
    pub(super) fn has(self, part: usize) -> bool {
        match self {
            Self::All => true,
            Self::Generation => part == GENERATION,
            Self::Batches => part != GENERATION,
        }
    }
}

/// What is read of a table at once.
#[derive(Debug, Clone)]
pub(super) enum Piece<'a> {
    /// A day's objects of some parts.
    Day(Day, Of),
    /// The objects that a month has in place of those of its days. They may have rows of days that
    /// are not asked for.
    Month(Vec<&'a ObjectEntry>),
}

impl Piece<'_> {
    /// The first day of which it may have rows.
    pub(super) fn first_day(&self) -> Option<Day> {
        match self {
            Self::Day(day, _) => Some(*day),
            Self::Month(objects) => objects.first().map(|object| object.day),
        }
    }
}

impl LakeReader {
    /// These days of a table, in their order: of several of a month that has objects, the month.
    pub(super) fn pieces(&self, table: Table, days: impl Iterator<Item = Day>) -> Vec<Piece<'_>> {
        let mut months: BTreeMap<Day, Vec<Day>> = BTreeMap::new();
        days.for_each(|day| months.entry(day.first_of_month()).or_default().push(day));
        let pieces = months.into_iter().flat_map(|(first, days)| match self.month(table, first) {
            Some(objects) if days.len() > 1 => vec![Piece::Month(objects)],
            _ => days.into_iter().map(|day| Piece::Day(day, Of::All)).collect(),
        });
        pieces.collect()
    }

    /// A day's objects of some parts, each with the number of its part.
    pub(super) fn objects_of(
        &self,
        table: Table,
        day: Day,
        of: Of,
    ) -> impl Iterator<Item = &(usize, ObjectEntry)> {
        self.objects.get(&(table, day)).into_iter().flatten().filter(move |(part, _)| of.has(*part))
    }

    /// The objects that a month has, if its rows are those of the generation and no others.
    fn month(&self, table: Table, first: Day) -> Option<Vec<&ObjectEntry>> {
        let generation = self.snapshot.generation.as_ref()?;
        let of_month = generation.months.iter().filter(|of| of.table == table && of.day == first);
        let objects: Vec<&ObjectEntry> = of_month.collect();
        let last = first.last_of_month();
        let mut of_days = self.objects.range((table, first)..=(table, last)).flat_map(|(_, objects)| objects);
        let is_whole = !objects.is_empty()
            && of_days.all(|(part, _)| *part == GENERATION)
            && self.parts.are_only(GENERATION, first, last);
        is_whole.then_some(objects)
    }
}
