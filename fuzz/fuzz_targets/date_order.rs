//! Searches a log for a date that shows whether the day comes first.
//!
//! The search must not panic, and its result must not depend on the pieces in which the bytes come.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_source::fuzzing;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    fuzzing::date_order(data, usize::from(cut));
});
