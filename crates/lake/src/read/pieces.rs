//! What is read of a table, one after the other: months that are over, and days.

use std::collections::BTreeMap;

use super::LakeReader;
use crate::{Day, ObjectEntry, Table};

/// The generation's part.
const GENERATION: usize = 0;

/// What is read of a table at once.
#[derive(Debug, Clone)]
pub(super) enum Piece<'a> {
    /// A day's objects.
    Day(Day),
    /// The objects that a month has in place of those of its days. They may have rows of days that
    /// are not asked for.
    Month(Vec<&'a ObjectEntry>),
}

impl Piece<'_> {
    /// The first day of which it may have rows.
    pub(super) fn first_day(&self) -> Option<Day> {
        match self {
            Self::Day(day) => Some(*day),
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
            _ => days.into_iter().map(Piece::Day).collect(),
        });
        pieces.collect()
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
