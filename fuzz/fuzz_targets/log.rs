//! A log of any shape and from any writer, read completely.
//!
//! Parsing must not panic, and the entries of a line must not depend on the lines after it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_source::fuzzing;

fuzz_target!(|data: &[u8]| {
    let whole = fuzzing::log(data);
    if let Some(newline) = data.iter().position(|&byte| byte == b'\n') {
        let first = fuzzing::log(&data[..=newline]);
        let parsed = |entry: &taptrail_trail::Entry| (entry.line, entry.content.clone());
        assert!(first.iter().map(parsed).eq(whole.iter().take(first.len()).map(parsed)));
    }
});
