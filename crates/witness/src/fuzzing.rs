//! Entry points for fuzz targets. Not part of the API.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use taptrail_record::ClaimedGuest;

use crate::{scan, watch};

/// Reads a process's arguments, with NULs between, as those of each hypervisor.
pub fn command_line(bytes: &[u8]) {
    let arguments: Vec<_> =
        bytes.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect();
    for program in ["qemu-system-x86_64", "cloud-hypervisor", "firecracker", "crosvm"] {
        let name = scan::command_line::identity_by_program(Some(Path::new(program)), &arguments).name;
        assert!(name.is_none_or(|name| (1..=ClaimedGuest::MAX_NAME_BYTES).contains(&name.len())));
    }
    let descriptors = watch::command_line::descriptors(&arguments);
    assert!(descriptors.values().map(Vec::len).sum::<usize>() <= bytes.len(), "one byte gives one at most");
    let paths = watch::command_line::netdevs(&arguments).into_values().flatten().filter_map(|of| of.path);
    assert!(paths.map(|path| path.len()).sum::<usize>() <= bytes.len());
}
