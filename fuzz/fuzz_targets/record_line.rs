//! Lines of an audit log, as anybody may have made them.
//!
//! The reader must not panic, and must be of one mind with the writer: what it believes, written and
//! read again, says the same.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use taptrail_record::{Line, parse_text};

fuzz_target!(|data: &[u8]| {
    for line in data.split(|&byte| byte == b'\n') {
        let Ok(line) = Line::parse(line) else { continue };
        let Ok(Some(record)) = line.record() else { continue };
        let Ok(text) = record.text(Path::new("/usr/bin/taptrail")) else { continue };
        assert_eq!(parse_text(record.record_type(), text.as_bytes()), Ok(Some(record)), "{text}");
    }
});
