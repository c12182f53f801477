use std::time::Duration;

use taptrail_kernel::device::Attempt;
use taptrail_qmp::Monitor;

fn hand_over(monitor: &mut Monitor, attempt: &Attempt) {
    let _ = monitor.getfd("fd0", attempt, Duration::from_secs(1));
}

fn main() {}
