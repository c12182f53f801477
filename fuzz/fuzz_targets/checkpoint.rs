//! The checkpoint of a followed log, as a ledger may have stored it: any text.
//!
//! Parsing must not panic, and each checkpoint has exactly one text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_source::fuzzing;

fuzz_target!(|text: &str| fuzzing::checkpoint(text));
