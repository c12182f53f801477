//! One open, one record: an attempt can't be recorded twice.

use taptrail_kernel::device::Attempt;

fn twice(attempt: Attempt) -> (Attempt, Attempt) {
    (attempt.clone(), attempt)
}

fn main() {}
