//! Entry points for fuzz targets: an object without a store. Not part of the API.

use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;

use crate::{
    CoverageRow, FindingRow, HeldRow, LakeError, Limits, ObjectReader, RecordRow, Row, RunRow, Store, Table,
};

/// Reads bytes as an object of a table, and each of its rows as what it stands for. Returns how many
/// rows there are.
///
/// # Errors
///
/// The bytes are no such object.
pub fn object(table: Table, bytes: &[u8]) -> Result<usize, LakeError> {
    match table {
        Table::Held => rows(bytes, |row: HeldRow| drop(row.holding())),
        Table::Runs => rows(bytes, |row: RunRow| drop(row.run())),
        Table::Findings => rows(bytes, |row: FindingRow| drop(row.finding())),
        Table::Coverage => rows(bytes, |row: CoverageRow| drop(CoverageRow::coverage(vec![row]))),
        Table::Records => rows(bytes, |row: RecordRow| drop(row.entry())),
    }
}

fn rows<R: Row>(bytes: &[u8], take: impl Fn(R)) -> Result<usize, LakeError> {
    const PATH: &str = "object.parquet";
    let store = Arc::new(Store::of(Arc::new(InMemory::new()), "memory:".to_owned())?);
    store.put_new(PATH, Bytes::copy_from_slice(bytes))?;
    // Smaller than a reader's: what a fuzzer makes has a few kilobytes.
    let limits = Limits { read: 1 << 20, page: 1 << 20, values: 1 << 16, text: 1 << 16, ..Limits::default() };
    let reader = ObjectReader::<R>::open(&store, PATH, bytes.len() as u64, limits)?;
    let mut count = 0;
    for row in reader.rows()? {
        take(row?);
        count += 1;
    }
    Ok(count)
}
