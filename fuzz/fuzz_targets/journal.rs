//! A journal's entries, in JSON and in the export format.
//!
//! Nothing makes the reader fall, and an export tells the same whatever pieces it comes in.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_source::fuzz;

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let whole = fuzz::export(bytes, bytes.len());
    assert_eq!(fuzz::export(bytes, usize::from(piece)), whole);
    assert!(whole.is_sorted_by_key(|(line, _)| *line));
    let newlines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert!(whole.iter().all(|(line, _)| (1..=newlines + 1).contains(line)));
    for object in bytes.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{")) {
        if let Some(Err(reason)) = fuzz::line(object) {
            assert!(!reason.contains(char::is_control), "{reason}");
        }
    }
});
