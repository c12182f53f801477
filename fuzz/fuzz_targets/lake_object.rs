//! A Parquet object of a lake, of each table: no panic, no hang, bounded memory.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use taptrail_lake::{Table, fuzzing};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    // The first byte chooses the table: what fits one must not be taken for another.
    let Some((table, object)) = bytes.split_first() else { return Corpus::Reject };
    let table = Table::ALL[usize::from(*table) % Table::ALL.len()];
    let _ = fuzzing::object(table, object);
    Corpus::Keep
});
