//! A descriptor from elsewhere can't be passed off as one on record.

use std::os::fd::OwnedFd;

use taptrail_kernel::device::{Admitted, OpenFacts};

fn forge(facts: OpenFacts, fd: OwnedFd) -> Admitted {
    Admitted { facts, fd }
}

fn main() {}
