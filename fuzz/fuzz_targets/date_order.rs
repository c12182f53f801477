//! A log that is searched for a date which shows whether the day comes first.
//!
//! Searching must not panic, and finds the same however the bytes come.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_source::fuzzing;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    fuzzing::date_order(data, usize::from(cut));
});
