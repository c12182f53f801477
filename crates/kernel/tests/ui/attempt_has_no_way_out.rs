//! Nor can its descriptor be moved out of its parts.

use std::os::fd::OwnedFd;

use taptrail_kernel::device::Attempt;

fn steal(attempt: Attempt) -> Option<OwnedFd> {
    attempt.fd
}

fn main() {}
