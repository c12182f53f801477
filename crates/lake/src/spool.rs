//! Rows on their way into objects: sorted in pieces, on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use itertools::Itertools as _;

use crate::object::{ObjectReader, ObjectWriter, ROW_GROUP};
use crate::{Day, LakeError, Limits, Row, Store};

/// The rows of an object, or of several in one order.
pub type SortedRows<R> = Box<dyn Iterator<Item = Result<R, LakeError>>>;

/// Merges rows that are sorted. An error comes first.
pub(crate) fn merged<R: Row + 'static>(sorted: Vec<SortedRows<R>>) -> SortedRows<R> {
    let merged = sorted.into_iter().kmerge_by(|a, b| match (a, b) {
        (Ok(a), Ok(b)) => a.order(b).is_lt(),
        (Err(_), _) => true,
        (Ok(_), Err(_)) => false,
    });
    Box::new(merged)
}

/// How many pieces of a day are merged at once.
const PIECES_AT_ONCE: usize = 32;

/// Rows of one table, of any days and in any order. Only a row group is in memory.
pub struct Spool<R: Row> {
    store: Arc<Store>,
    rows: BTreeMap<Day, Vec<R>>,
    waiting: usize,
    /// The sorted pieces on disk: path and size.
    pieces: BTreeMap<Day, Vec<(String, u64)>>,
    written: usize,
}

impl<R: Row + 'static> Spool<R> {
    /// An empty spool in a directory, which spools of other tables may share.
    ///
    /// # Errors
    ///
    /// The directory can't be used.
    pub fn new(directory: &Path) -> Result<Self, LakeError> {
        let store = Arc::new(Store::directory(directory)?);
        Ok(Self { store, rows: BTreeMap::new(), waiting: 0, pieces: BTreeMap::new(), written: 0 })
    }

    /// Adds a row of a day.
    ///
    /// # Errors
    ///
    /// The disk is full, or the row can't be encoded.
    pub fn push(&mut self, day: Day, row: R) -> Result<(), LakeError> {
        self.rows.entry(day).or_default().push(row);
        self.waiting += 1;
        if self.waiting < ROW_GROUP { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), LakeError> {
        self.waiting = 0;
        for (day, mut rows) in std::mem::take(&mut self.rows) {
            rows.sort_by(Row::order);
            self.write_piece(day, rows.into_iter().map(Ok))?;
        }
        Ok(())
    }

    fn write_piece(
        &mut self,
        day: Day,
        rows: impl Iterator<Item = Result<R, LakeError>>,
    ) -> Result<(), LakeError> {
        let mut writer = ObjectWriter::new()?;
        for row in rows {
            writer.push(row?)?;
        }
        let object = writer.finish()?;
        let path = format!("{}/{}.parquet", R::TABLE, self.written);
        self.written += 1;
        let bytes = object.len() as u64;
        self.store.put_new(&path, object)?;
        self.pieces.entry(day).or_default().push((path, bytes));
        Ok(())
    }

    /// Merges pieces of a day until few are left: each that is read has rows in memory.
    fn merge_pieces(&mut self, day: Day) -> Result<(), LakeError> {
        loop {
            let pieces = self.pieces.entry(day).or_default();
            if pieces.len() <= PIECES_AT_ONCE {
                return Ok(());
            }
            let first: Vec<(String, u64)> = pieces.drain(..PIECES_AT_ONCE).collect();
            let rows = merged(first.iter().map(|piece| self.piece(piece)).collect::<Result<_, _>>()?);
            self.write_piece(day, rows)?;
            first.iter().try_for_each(|(path, _)| self.store.delete(path))?;
        }
    }

    fn piece(&self, (path, bytes): &(String, u64)) -> Result<SortedRows<R>, LakeError> {
        Ok(Box::new(ObjectReader::open(&self.store, path, *bytes, Limits::default())?.rows()?))
    }

    /// The days that have rows.
    pub fn days(&self) -> impl Iterator<Item = Day> {
        self.rows.keys().chain(self.pieces.keys()).copied()
    }

    /// Takes the rows of a day, in their order.
    ///
    /// # Errors
    ///
    /// What was written can't be read.
    pub fn take(&mut self, day: Day) -> Result<SortedRows<R>, LakeError> {
        let mut rows = self.rows.remove(&day).unwrap_or_default();
        self.waiting -= rows.len();
        rows.sort_by(Row::order);
        let mut sorted: Vec<SortedRows<R>> = vec![Box::new(rows.into_iter().map(Ok))];
        self.merge_pieces(day)?;
        for piece in self.pieces.remove(&day).unwrap_or_default() {
            sorted.push(self.piece(&piece)?);
        }
        Ok(merged(sorted))
    }
}
