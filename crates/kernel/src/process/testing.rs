//! Reads /proc of a child, for tests.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// The open descriptors of a child, in order, once they are as expected or after a timeout. spawn()
/// returns during the exec: the kernel may still be closing others, and then the loader opens and
/// closes libraries.
pub(super) fn settled_descriptors(pid: u32, expected: &[RawFd]) -> Vec<RawFd> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let seen = descriptors(pid);
        if seen == expected || Instant::now() > deadline {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn descriptors(pid: u32) -> Vec<RawFd> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut numbers: Vec<RawFd> =
        entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// One field of `/proc/PID/status`, its values separated by single spaces.
pub(super) fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}
