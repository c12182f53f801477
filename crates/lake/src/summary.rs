//! The summary of a generation: what a question about one time must know of all days. With it, such
//! a question reads the objects of that day, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use taptrail_trail::Coverage;

use crate::lasting::Lasting;
use crate::layout::Generation;
use crate::manifest::{GenerationManifest, ObjectEntry};
use crate::object::Encoded;
use crate::spool::{SortedRows, Spool, merged};
use crate::{
    Conditions, CoverageRow, Day, HeldRow, LakeError, Limits, ObjectReader, Row, RunRow, Store, Table, Test,
    Text,
};

/// The coverage of hosts, from their rows.
#[derive(Debug, Default)]
pub(crate) struct HostCoverage(BTreeMap<Text, (Coverage, i64)>);

impl HostCoverage {
    /// Adds a row; those of a host come in their order. None if a value of it is out of range.
    pub(crate) fn add(&mut self, row: &CoverageRow) -> Option<()> {
        if !self.0.contains_key(&row.host) {
            let host = row.host.as_str().into();
            let none = Coverage { host, spans: Vec::new(), gaps: Vec::new(), starts: Vec::new() };
            self.0.insert(row.host.clone(), (none, 0));
        }
        let (coverage, records) = self.0.get_mut(&row.host)?;
        *records = records.saturating_add(row.records.max(0));
        row.continue_with(coverage)
    }

    /// Each host's coverage, by name, with the records that it counts.
    pub(crate) fn finish(self) -> impl Iterator<Item = (Coverage, i64)> {
        self.0.into_values()
    }

    /// The rows of a summary.
    fn rows(self) -> Vec<CoverageRow> {
        let of_host = |(coverage, records): (Coverage, i64)| {
            let mut rows = CoverageRow::uncut(&coverage);
            rows.sort_by(Row::order);
            if let Some(first) = rows.first_mut() {
                first.records = records;
            }
            rows
        };
        self.finish().flat_map(of_host).collect()
    }
}

/// Writes the summary of a generation with these objects, which are there. `before`: the generation
/// before, whose summary has the rows of the objects that both have.
///
/// # Errors
///
/// An object can't be read, or the store fails.
pub fn write(
    store: &Arc<Store>,
    before: Option<&GenerationManifest>,
    objects: &[ObjectEntry],
    generation: Generation,
    scratch: &Path,
) -> Result<Vec<ObjectEntry>, LakeError> {
    let coverage = Encoded::of(coverage(store, objects)?.rows().into_iter().map(Ok))?;
    // One that was lost or altered is not gone on from.
    let before = before.filter(|before| is_whole(store, &before.summary));
    let held = Encoded::of(Changes::of::<HeldRow>(before, objects).rows::<HeldRow>(store, scratch)?)?;
    let runs = Encoded::of(Changes::of::<RunRow>(before, objects).rows::<RunRow>(store, scratch)?)?;
    let Some(last) = objects.iter().map(|object| object.day).max() else { return Ok(Vec::new()) };
    let put = |object: Encoded| {
        let path = generation.summary(object.table, &object.sha256);
        Ok(object.put(store, last, path)?.1)
    };
    [coverage, held, runs].into_iter().flatten().map(put).collect()
}

fn coverage(store: &Arc<Store>, objects: &[ObjectEntry]) -> Result<HostCoverage, LakeError> {
    let mut coverage = HostCoverage::default();
    let mut of_days: Vec<&ObjectEntry> =
        objects.iter().filter(|object| object.table == Table::Coverage).collect();
    of_days.sort_by_key(|object| object.day);
    for object in of_days {
        let ObjectEntry { path, bytes, .. } = object;
        for row in ObjectReader::<CoverageRow>::open(store, path, *bytes, Limits::default())?.rows()? {
            coverage.add(&row?).ok_or_else(|| LakeError::out_of_range(path))?;
        }
    }
    Ok(coverage)
}

/// The rows of the summary of some objects, which are made without that of the generation before.
pub(crate) struct Rows<'a> {
    pub(crate) store: &'a Arc<Store>,
    pub(crate) objects: &'a [ObjectEntry],
    pub(crate) scratch: &'a Path,
}

impl Rows<'_> {
    pub(crate) fn coverage(&self) -> Result<SortedRows<CoverageRow>, LakeError> {
        Ok(Box::new(coverage(self.store, self.objects)?.rows().into_iter().map(Ok)))
    }

    /// Those of holdings or runs.
    pub(crate) fn lasting<R: Lasting + 'static>(&self) -> Result<SortedRows<R>, LakeError> {
        Changes::of::<R>(None, self.objects).rows(self.store, self.scratch)
    }
}

/// Whether the objects of a summary are there as they were written.
pub(crate) fn is_whole(store: &Store, summary: &[ObjectEntry]) -> bool {
    let is_there = |object: &ObjectEntry| {
        store.sha256(&object.path, object.bytes).is_ok_and(|sha256| sha256 == object.sha256)
    };
    !summary.is_empty() && summary.iter().all(is_there)
}

/// The first day of which there are objects of a table.
fn first_kept(objects: &[ObjectEntry], table: Table) -> Option<Day> {
    objects.iter().filter(|object| object.table == table).map(|object| object.day).min()
}

/// What distinguishes a generation's objects from those of the one before.
struct Changes<'a> {
    summary: &'a [ObjectEntry],
    removed: Vec<&'a ObjectEntry>,
    added: Vec<&'a ObjectEntry>,
    /// The first day of the table.
    kept: Day,
}

impl<'a> Changes<'a> {
    fn of<R: Row>(before: Option<&'a GenerationManifest>, objects: &'a [ObjectEntry]) -> Self {
        let first = first_kept(objects, R::TABLE);
        let kept = first.unwrap_or_else(|| Day::of(jiff::Timestamp::MIN));
        // Where another day is the first, rows belong to the summary whose objects are as they were.
        let is_same = |before: &&GenerationManifest| first_kept(&before.objects, R::TABLE) == first;
        let Some(before) = before.filter(is_same) else {
            return Self { summary: &[], removed: Vec::new(), added: objects.iter().collect(), kept };
        };
        let paths = |of: &'a [ObjectEntry]| of.iter().map(|object| &*object.path).collect::<BTreeSet<&str>>();
        let (old, new) = (paths(&before.objects), paths(objects));
        Self {
            summary: &before.summary,
            removed: before.objects.iter().filter(|object| !new.contains(&*object.path)).collect(),
            added: objects.iter().filter(|object| !old.contains(&*object.path)).collect(),
            kept,
        }
    }

    /// The summary's rows of a table, in their order.
    fn rows<R: Lasting + 'static>(
        &self,
        store: &Arc<Store>,
        scratch: &Path,
    ) -> Result<SortedRows<R>, LakeError> {
        let mut sorted: Vec<SortedRows<R>> = Vec::new();
        for ObjectEntry { path, bytes, .. } in self.summary.iter().filter(|of| of.table == R::TABLE) {
            sorted.push(Box::new(ObjectReader::open(store, path, *bytes, Limits::default())?.rows()?));
        }
        let mut removed = elsewhere::<R>(store, &self.removed, self.kept, scratch)?.peekable();
        sorted.push(elsewhere(store, &self.added, self.kept, scratch)?);
        // Rows that differ in little, as in since when an end is uncertain, have one place in the order.
        let mut same_place: Vec<R> = Vec::new();
        let mut if_it_stays = move |row: R| {
            same_place.retain(|gone| gone.order(&row).is_eq());
            let is_due =
                |gone: &Result<R, LakeError>| gone.as_ref().map_or(true, |gone| gone.order(&row).is_le());
            while let Some(gone) = removed.next_if(is_due) {
                same_place.extend(Some(gone?).filter(|gone| gone.order(&row).is_eq()));
            }
            match same_place.iter().position(|gone| *gone == row) {
                Some(at) => {
                    same_place.swap_remove(at);
                    Ok(None)
                }
                None => Ok(Some(row)),
            }
        };
        let rows = merged(sorted).filter_map(move |row| row.and_then(&mut if_it_stays).transpose());
        Ok(Box::new(rows))
    }
}

/// The last rows in some objects of what may have been on a day that it has no row of, in their
/// order.
fn elsewhere<R: Lasting + 'static>(
    store: &Arc<Store>,
    objects: &[&ObjectEntry],
    kept: Day,
    scratch: &Path,
) -> Result<SortedRows<R>, LakeError> {
    // It is removed with the directory that it is in.
    let directory = tempfile::tempdir_in(scratch).map_err(LakeError::Scratch)?.keep();
    let mut spool = Spool::<R>::new(&directory);
    let any_day = Day::of(jiff::Timestamp::UNIX_EPOCH);
    for ObjectEntry { day, path, bytes, .. } in objects.iter().filter(|object| object.table == R::TABLE) {
        let last = Conditions::default().and(vec![Test::Set("last")]);
        for row in ObjectReader::<R>::open_for(store, path, *bytes, Limits::default(), last)?.rows()? {
            let row = row?;
            if row.may_be_elsewhere(*day, kept) {
                spool.push(any_day, row)?;
            }
        }
    }
    spool.take(any_day)
}
