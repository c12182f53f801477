//! The names by which QEMU knows what it is given, and MACs that nobody has.

use std::io;

use taptrail_record::MacAddr;

use crate::spec::random_mac;

/// The first of `nic0`, `nic1` … that is not in use.
pub(super) fn free_id(taken: impl Fn(&str) -> bool) -> String {
    let mut number = 0_u32;
    loop {
        let id = format!("nic{number}");
        if !taken(&id) {
            return id;
        }
        number += 1;
    }
}

/// A random MAC that is not in use.
pub(super) fn free_mac(taken: impl Fn(MacAddr) -> bool) -> io::Result<MacAddr> {
    loop {
        let mac = random_mac()?;
        if !taken(mac) {
            return Ok(mac);
        }
    }
}

/// The id of an interface's netdev in QEMU, and of its connection to a vhost-user backend.
pub(super) fn netdev_id(id: &str) -> String {
    format!("host-{id}")
}

/// The name of a descriptor in QEMU (`getfd`) until a netdev takes it.
pub(super) fn descriptor_name(id: &str, index: usize) -> String {
    format!("taptrail-{id}-{index}")
}
