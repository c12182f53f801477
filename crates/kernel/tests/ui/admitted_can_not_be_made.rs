//! A descriptor from elsewhere can't be turned into a recorded device.

use std::os::fd::OwnedFd;

use taptrail_kernel::device::{Admitted, OpenFacts};

fn forge(facts: OpenFacts, fd: OwnedFd) -> Admitted {
    Admitted { facts, fd }
}

fn main() {}
