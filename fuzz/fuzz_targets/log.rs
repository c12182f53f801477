//! A log of any shape, as anybody may have made it: read and told whole.
//!
//! Reading must not panic, and what is told of a log does not depend on what follows it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_source::fuzzing;

fuzz_target!(|data: &[u8]| {
    let whole = fuzzing::log(data);
    if let Some(newline) = data.iter().position(|&byte| byte == b'\n') {
        let first = fuzzing::log(&data[..=newline]);
        let told = |entry: &taptrail_trail::Entry| (entry.line, entry.content.clone());
        assert!(first.iter().map(told).eq(whole.iter().take(first.len()).map(told)));
    }
});
