//! A QEMU inherits only recorded devices.

use std::path::Path;

use taptrail_kernel::device::Attempt;
use taptrail_kernel::process::SpawnRequest;

fn start(attempt: &Attempt) {
    let mut request = SpawnRequest::new(Path::new("/usr/bin/qemu-system-x86_64"), &[]);
    request.devices = &[attempt];
}

fn main() {}
