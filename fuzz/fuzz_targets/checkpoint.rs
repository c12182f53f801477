//! Where a followed log was left, as a ledger may have kept it: a text of any kind.
//!
//! Reading must not panic, and there is one text for each checkpoint.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_source::fuzzing;

fuzz_target!(|text: &str| fuzzing::checkpoint(text));
