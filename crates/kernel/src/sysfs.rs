//! The device number of a macvtap, from sysfs.
//!
//! The number in a macvtap's node, `/dev/tapN`, is the ifindex of its link, which is unique only in
//! its network namespace: two namespaces may have a macvtap 5, and devtmpfs shows only the first.
//! So the node's path does not identify a macvtap, but its device number, which is unique on the
//! host, does. A mounted `/sys` shows the links of the network namespace in which it was mounted,
//! which may not be the calling thread's.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, major, minor, openat, stat};
use rustix::io::{Errno, retry_on_intr};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use taptrail_record::{IfName, Rdev};

/// Where sysfs is mounted.
const SYS: &str = "/sys";

/// A sysfs that shows the links of one network namespace; none if it can't be mounted or opened.
#[derive(Debug)]
pub(crate) struct Sysfs(Option<OwnedFd>);

impl Sysfs {
    /// The sysfs of the calling thread's network namespace. Needs `CAP_SYS_ADMIN` only here.
    pub(crate) fn open() -> Self {
        Self(mount().or_else(|_| openat(CWD, SYS, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())).ok())
    }

    /// The device number of a macvtap; `None` if there is none, or no sysfs.
    pub(crate) fn macvtap_rdev(&self, ifname: &IfName, ifindex: u32) -> Option<Rdev> {
        // macvtap_device_event() in drivers/net/macvtap.c links the device below its interface.
        let text = read(self.0.as_ref()?, &format!("class/net/{ifname}/tap{ifindex}/dev")).ok()?;
        let (major, minor) = text.trim_end().split_once(':')?;
        Some(Rdev { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// Whether the node of a new macvtap belongs to one with the same ifindex in another network
    /// namespace.
    pub(crate) fn macvtap_node_is_taken(&self, ifname: &IfName, ifindex: u32) -> bool {
        let (Some(rdev), Ok(stat)) = (self.macvtap_rdev(ifname, ifindex), stat(macvtap_node(ifindex))) else {
            return false;
        };
        Rdev { major: major(stat.st_rdev), minor: minor(stat.st_rdev) } != rdev
    }
}

/// The path of a macvtap's node.
pub(crate) fn macvtap_node(ifindex: u32) -> PathBuf {
    format!("/dev/tap{ifindex}").into()
}

/// Creates a detached mount of sysfs, which shows the calling thread's network namespace. Needs
/// `CAP_SYS_ADMIN`; without it, `/sys` is used.
fn mount() -> Result<OwnedFd, Errno> {
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

fn read(root: impl AsFd, path: &str) -> Result<String, Errno> {
    let file = openat(root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // "MAJOR:MINOR\n", which sysfs returns in one read.
    let mut bytes = [0; 32];
    let length = retry_on_intr(|| rustix::io::read(&file, &mut bytes))?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}
