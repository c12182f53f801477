//! A journal's multi-line entries, in pieces of any size.
//!
//! Parsing must not panic, and its result must not depend on the pieces in which the bytes come.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_source::fuzzing;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    assert_eq!(fuzzing::journal(data, usize::from(cut)), fuzzing::journal(data, data.len()));
});
