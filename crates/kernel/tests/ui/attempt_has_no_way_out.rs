//! Nor does its descriptor come out by taking it apart.

use std::os::fd::OwnedFd;

use taptrail_kernel::device::Attempt;

fn steal(attempt: Attempt) -> Option<OwnedFd> {
    attempt.fd
}

fn main() {}
