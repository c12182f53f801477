//! The arguments of a process that claims to be a hypervisor: no panic, and no more memory than they take.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_witness::fuzzing;

fuzz_target!(|arguments: &[u8]| fuzzing::command_line(arguments));
