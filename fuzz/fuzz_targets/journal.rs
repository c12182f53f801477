//! A journal's export: fields of any bytes, in pieces of any size.
//!
//! Reading must not panic, and tells the same however the bytes come.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_source::fuzzing;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    assert_eq!(fuzzing::journal(data, usize::from(cut)), fuzzing::journal(data, data.len()));
});
