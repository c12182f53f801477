//! Lines of any log, in any shape, as anybody may have made them.
//!
//! No line makes the reader fall, a reason why one can't be read is one line to show, and a record says the
//! same whichever way it came: audit's own, past its dispatcher, and through syslog.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_source::fuzz;

fuzz_target!(|data: &[u8]| {
    for line in data.split(|&byte| byte == b'\n') {
        let told = fuzz::line(line);
        if let Some(Err(reason)) = &told {
            assert_eq!(reason.lines().count(), 1);
            assert!(!reason.contains(char::is_control), "{reason}");
        }
        if line.starts_with(b"type=") {
            let dispatched = [b"audispd: ", line].concat();
            assert_eq!(ok(fuzz::line(&dispatched)), ok(told), "{}", String::from_utf8_lossy(line));
        }
    }
});

/// A dispatcher's line is as long as its prefix more, so the reasons may differ.
fn ok<T, E>(told: Option<Result<T, E>>) -> Option<Option<T>> {
    told.map(Result::ok)
}
