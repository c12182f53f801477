//! The objects of months that are over. A question about one MAC or guest reads them in place of the
//! objects of their days: twelve for a year, where days have 365.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::lasting::Lasting;
use crate::layout::{Generation, MONTHS};
use crate::manifest::{GenerationManifest, ObjectEntry};
use crate::object::Encoded;
use crate::spool::{SortedRows, merged};
use crate::{
    Conditions, Day, FindingRow, HeldRow, LakeError, Limits, ObjectReader, Row, RunRow, Store, Table, Test,
};

/// The rows of an object: one is in memory while it is written. A month may have several, which are
/// in their order.
const MAX_ROWS: usize = 1 << 20;

/// The days of a month that has objects. Of one day, the day's own object does.
const MIN_DAYS: usize = 2;

/// The rows of each day that are in memory while those of a month are merged.
const DAYS_ROWS: usize = 512;

/// The objects of one table and month, in the order of their days.
pub(crate) type DayObjects<'a> = Vec<&'a ObjectEntry>;

/// Makes the rows of a month from the objects of its days.
pub(crate) type MonthRows<R> = fn(&Arc<Store>, &[&ObjectEntry]) -> Result<SortedRows<R>, LakeError>;

/// Writes the objects of months of a generation with these objects, which are there. `before`: the
/// generation before, whose objects of months stay if their days' objects are the same.
///
/// # Errors
///
/// An object can't be read, or the store fails.
pub fn write(
    store: &Arc<Store>,
    before: Option<&GenerationManifest>,
    objects: &[ObjectEntry],
    generation: Generation,
) -> Result<Vec<ObjectEntry>, LakeError> {
    let there = match before {
        Some(before) if !before.months.is_empty() => sizes(store)?,
        _ => HashMap::new(),
    };
    let mut writer = Writer { store, before, there, objects, generation, all: Vec::new() };
    writer.table::<HeldRow>(last_rows)?;
    writer.table::<RunRow>(last_rows)?;
    writer.table::<FindingRow>(findings)?;
    Ok(writer.all)
}

/// Whether all objects of months that a generation should have are there.
pub(crate) fn are_there(store: &Store, generation: &GenerationManifest) -> Result<bool, LakeError> {
    let wanted: Vec<(Table, Day)> = TABLES
        .iter()
        .flat_map(|table| of_months(&generation.objects, *table).into_keys().map(|of| (*table, of)))
        .collect();
    if wanted.is_empty() {
        return Ok(true);
    }
    let named: BTreeSet<(Table, Day)> = generation.months.iter().map(|of| (of.table, of.day)).collect();
    let there = sizes(store)?;
    let is_there = |object: &ObjectEntry| there.get(&object.path) == Some(&object.bytes);
    Ok(wanted.iter().all(|of| named.contains(of)) && generation.months.iter().all(is_there))
}

/// The tables of which months have objects.
const TABLES: [Table; 3] = [Table::Held, Table::Runs, Table::Findings];

/// The sizes of all objects of months that are there.
fn sizes(store: &Store) -> Result<HashMap<String, u64>, LakeError> {
    Ok(store.list(MONTHS)?.into_iter().map(|object| (object.path, object.bytes)).collect())
}

/// The objects of a table in each month that is over: before that of the last day of any table.
pub(crate) fn of_months(objects: &[ObjectEntry], table: Table) -> BTreeMap<Day, DayObjects<'_>> {
    let mut months: BTreeMap<Day, DayObjects<'_>> = BTreeMap::new();
    let Some(last) = objects.iter().map(|object| object.day.first_of_month()).max() else { return months };
    for object in objects.iter().filter(|of| of.table == table && of.day.first_of_month() < last) {
        months.entry(object.day.first_of_month()).or_default().push(object);
    }
    months.retain(|_, days| days.len() >= MIN_DAYS);
    months.values_mut().for_each(|days| days.sort_by_key(|object| object.day));
    months
}

/// The last rows of what has a row for each day, in their order.
pub(crate) fn last_rows<R: Lasting + 'static>(
    store: &Arc<Store>,
    days: &[&ObjectEntry],
) -> Result<SortedRows<R>, LakeError> {
    let of_day = |object: &&ObjectEntry| {
        let last = Conditions::default().and(vec![Test::Set("last")]);
        let reader = ObjectReader::open_for(store, &object.path, object.bytes, Limits::default(), last)?;
        Ok(Box::new(reader.rows_by(DAYS_ROWS)?) as SortedRows<R>)
    };
    Ok(merged(days.iter().map(of_day).collect::<Result<_, LakeError>>()?))
}

/// The findings, those of one day after those of the day before.
pub(crate) fn findings(
    store: &Arc<Store>,
    days: &[&ObjectEntry],
) -> Result<SortedRows<FindingRow>, LakeError> {
    let (store, days) = (Arc::clone(store), days.iter().map(|object| (*object).clone()).collect::<Vec<_>>());
    let of_day = move |object: ObjectEntry| -> SortedRows<FindingRow> {
        let open = || ObjectReader::open(&store, &object.path, object.bytes, Limits::default())?.rows();
        match open() {
            Ok(rows) => Box::new(rows),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    };
    Ok(Box::new(days.into_iter().flat_map(of_day)))
}

struct Writer<'a> {
    store: &'a Arc<Store>,
    before: Option<&'a GenerationManifest>,
    there: HashMap<String, u64>,
    objects: &'a [ObjectEntry],
    generation: Generation,
    all: Vec<ObjectEntry>,
}

impl Writer<'_> {
    fn table<R: Row>(&mut self, rows_of: MonthRows<R>) -> Result<(), LakeError> {
        let mut before = self.before.map(|of| of_months(&of.objects, R::TABLE)).unwrap_or_default();
        for (first, days) in of_months(self.objects, R::TABLE) {
            let before = before.remove(&first);
            if let Some(kept) =
                before.filter(|before| *before == days).and_then(|_| self.kept(R::TABLE, first))
            {
                self.all.extend(kept);
                continue;
            }
            let mut rows = rows_of(self.store, &days)?;
            // One at least, if it has no rows, too: then no day has to be read.
            let mut next = Some(Encoded::of_any(rows.by_ref().take(MAX_ROWS))?);
            while let Some(object) = next {
                let path = self.generation.month(R::TABLE, first, &object.sha256);
                self.all.push(object.put(self.store, first, path)?.1);
                next = Encoded::of(rows.by_ref().take(MAX_ROWS))?;
            }
        }
        Ok(())
    }

    /// The objects of a month in the generation before, if they are all there.
    fn kept(&self, table: Table, first: Day) -> Option<Vec<ObjectEntry>> {
        let of_month = self.before?.months.iter().filter(|of| of.table == table && of.day == first);
        let kept: Vec<ObjectEntry> = of_month.cloned().collect();
        let is_there = |object: &ObjectEntry| self.there.get(&object.path) == Some(&object.bytes);
        (!kept.is_empty() && kept.iter().all(is_there)).then_some(kept)
    }
}
