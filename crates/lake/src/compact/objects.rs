//! The objects of a new generation.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::plan::{COMPACTED, Plan, READINGS_AT_ONCE};
use crate::day_tables::DayTables;
use crate::layout::Generation;
use crate::manifest::ObjectEntry;
use crate::object::Encoded;
use crate::spool::{SortedRows, Spool, merged};
use crate::{Day, LakeError, Row, Store, parallel};

/// The objects of a new generation.
pub(super) struct NewObjects {
    /// All of them, in the order of their paths.
    pub(super) objects: Vec<ObjectEntry>,
    /// How many were written.
    pub(super) written: usize,
    /// How many are the last generation's.
    pub(super) kept: usize,
}

impl NewObjects {
    /// Writes the objects that are not as they were.
    pub(super) fn write(
        store: &Arc<Store>,
        plan: &Plan,
        derived: DayTables,
        generation: Generation,
    ) -> Result<Self, LakeError> {
        let mut all = Self { objects: Vec::new(), written: 0, kept: 0 };
        let DayTables { held, runs, findings, coverage, records, .. } = derived;
        all.write_table(store, plan, held, generation)?;
        all.write_table(store, plan, runs, generation)?;
        all.write_table(store, plan, findings, generation)?;
        all.write_table(store, plan, coverage, generation)?;
        all.write_table(store, plan, records, generation)?;
        all.objects.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(all)
    }

    fn write_table<R: Row + 'static>(
        &mut self,
        store: &Arc<Store>,
        plan: &Plan,
        mut derived: Spool<R>,
        generation: Generation,
    ) -> Result<(), LakeError> {
        let mut days: BTreeSet<Day> = plan.days(R::TABLE);
        days.extend(derived.days());
        let first_changed = plan.first_changed_day();
        for day in days {
            let before = plan.objects(COMPACTED, R::TABLE, day).first();
            if let Some(before) = before
                && first_changed.is_some_and(|first| day < first)
            {
                self.objects.push(before.clone());
                self.kept += 1;
                continue;
            }
            let has_rows = |reading: &usize| !plan.objects(*reading, R::TABLE, day).is_empty();
            let mut readings: Vec<usize> = (0..plan.readings()).filter(has_rows).collect();
            if readings.len() > READINGS_AT_ONCE {
                // The generation's rows, which are the most, are in their order.
                let pending = readings.split_off(usize::from(readings.first() == Some(&COMPACTED)));
                spool(store, plan, &pending, day, &mut derived)?;
            }
            let mut sorted = vec![derived.take(day)?];
            for reading in readings {
                sorted.push(Box::new(taken_rows(store, plan, reading, day)?));
            }
            self.write_object(store, merged(sorted), day, before, generation)?;
        }
        Ok(())
    }

    fn write_object<R: Row + 'static>(
        &mut self,
        store: &Store,
        rows: SortedRows<R>,
        day: Day,
        before: Option<&ObjectEntry>,
        generation: Generation,
    ) -> Result<(), LakeError> {
        let Some(object) = Encoded::of(rows)? else { return Ok(()) };
        if let Some(before) = before.filter(|before| before.sha256 == object.sha256) {
            self.objects.push(before.clone());
            self.kept += 1;
            return Ok(());
        }
        let path = generation.object(R::TABLE, day, &object.sha256);
        self.objects.push(object.put(store, day, path)?.1);
        self.written += 1;
        Ok(())
    }
}

/// The rows of a reading on one day that are the new generation's.
fn taken_rows<R: Row + 'static>(
    store: &Arc<Store>,
    plan: &Plan,
    reading: usize,
    day: Day,
) -> Result<impl Iterator<Item = Result<R, LakeError>> + use<R>, LakeError> {
    let taken = plan.taken(reading, day);
    let rows = plan.rows::<R>(store, reading, day)?;
    Ok(rows.filter(move |row| row.as_ref().map_or(true, |row| taken.has(row.host()))))
}

/// Adds the rows of many readings to those of a day.
fn spool<R: Row + 'static>(
    store: &Arc<Store>,
    plan: &Plan,
    readings: &[usize],
    day: Day,
    to: &mut Spool<R>,
) -> Result<(), LakeError> {
    let read = |reading: &usize, to: &mut parallel::Sender<'_, R>| {
        for row in taken_rows(store, plan, *reading, day)? {
            to.send(row?)?;
        }
        Ok(())
    };
    parallel::in_order(store.parallelism(), readings, read, &mut |row| to.push(day, row))
}
