//! The objects of a new generation.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::plan::{COMPACTED, Plan};
use crate::day_tables::DayTables;
use crate::layout::Generation;
use crate::manifest::ObjectEntry;
use crate::object::Encoded;
use crate::spool::{SortedRows, Spool, merged};
use crate::{Day, LakeError, Row, Store};

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
            let mut sorted = vec![derived.take(day)?];
            for reading in 0..plan.readings() {
                let taken = plan.taken(reading, day);
                let rows = plan.rows::<R>(store, reading, day)?;
                sorted.push(Box::new(
                    rows.filter(move |row| row.as_ref().map_or(true, |row| taken.has(row.host()))),
                ));
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
