//! A datagram of the kernel's, which has names that users gave: no panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_kernel::fuzzing;

fuzz_target!(|datagram: &[u8]| fuzzing::netlink(datagram));
