//! The network devices of guests that a process holds, from `/proc/PID/fd`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use taptrail_record::{DeviceKind, IfName, Rdev};

use super::numbers::{DeviceNumbers, HeldKind};
use super::process::deleted_path;

/// A device of a guest's network that a process holds open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDevice<K = DeviceKind> {
    /// The descriptor's number in that process.
    pub fd: RawFd,
    /// Its kind, by its device number: a node may have any path.
    pub kind: K,
    /// The node's path as that process opened it; ends in ` (deleted)` if the node was deleted.
    pub path: PathBuf,
    /// The node's device number.
    pub rdev: Rdev,
    /// A tap's host interface, in the interface's network namespace; `None` for one not yet
    /// configured, and for other kinds (a macvtap's path ends with its ifindex).
    pub ifname: Option<IfName>,
}

/// The ifindex in a path of `/proc/PID/fd` to a macvtap's node (`/dev/tapN`) that was deleted: open
/// files of a deleted macvtap keep its device number, which another macvtap may have by now. A
/// macvtap that was moved to another network namespace may have another ifindex there.
pub fn deleted_macvtap(path: &Path) -> Option<u32> {
    deleted_path(path)?.to_str()?.rsplit_once("/tap")?.1.parse().ok()
}

/// The raw network devices that a process holds, ordered by descriptor.
///
/// Descriptors that are closed meanwhile are left out. Takes about 2 µs for each open descriptor,
/// and 20 µs more for each tap.
///
/// # Errors
///
/// ENOENT if the process has ended, EACCES without permission to inspect it.
pub fn raw_devices(pid: u32) -> io::Result<Vec<HeldDevice>> {
    let held = held_devices(pid, &mut DeviceNumbers::default(), usize::MAX)?;
    let raw = held.into_iter().filter_map(|HeldDevice { fd, kind, path, rdev, ifname }| {
        Some(HeldDevice { fd, kind: kind.raw()?, path, rdev, ifname })
    });
    Ok(raw.collect())
}

/// As [`raw_devices`], also with devices of newer kinds, and at most `most` of them: any user may
/// open `/dev/net/tun` as often as the resource limits allow. `numbers` can be used for many
/// processes.
///
/// # Errors
///
/// As [`raw_devices`].
pub fn held_devices(
    pid: u32,
    numbers: &mut DeviceNumbers,
    most: usize,
) -> io::Result<Vec<HeldDevice<HeldKind>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptors: OwnedFd = rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty())?;
    let mut held = Vec::new();
    for entry in Dir::read_from(&descriptors)? {
        if held.len() >= most {
            break;
        }
        let entry = match entry {
            Ok(entry) => entry,
            // The process exited while its descriptors were read: it holds no devices now.
            Err(Errno::NOENT | Errno::SRCH) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let Some(fd) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        match device(descriptors.as_fd(), entry.file_name(), numbers) {
            Ok(Some((kind, path, rdev))) => {
                let ifname = if kind == HeldKind::Raw(DeviceKind::Tun) { tap_name(pid, fd) } else { None };
                held.push(HeldDevice { fd, kind, path, rdev, ifname });
            }
            // Closed between the listing and the look, or all of them by the process's exit.
            Ok(None) | Err(Errno::NOENT | Errno::SRCH) => {}
            // A file of a network file system whose server does not reply.
            Err(Errno::STALE | Errno::IO | Errno::NOTCONN | Errno::TIMEDOUT | Errno::HOSTDOWN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    held.sort_unstable_by_key(|device| device.fd);
    Ok(held)
}

/// The device behind one descriptor, if it is of a known kind.
fn device(
    descriptors: BorrowedFd<'_>,
    name: &CStr,
    numbers: &mut DeviceNumbers,
) -> Result<Option<(HeldKind, PathBuf, Rdev)>, Errno> {
    // statx(2) follows the link to the open file itself, whatever its path: a node of any name, in
    // any mount namespace, deleted or not. With these flags no file server is contacted: the kernel
    // has type and number. So a user's FUSE file system, which refuses access by root, is not
    // involved (fs/fuse/dir.c, `fuse_getattr()`). The kernel's audit, with rules, may contact the
    // server nevertheless (`audit_copy_fcaps()`).
    let about = rustix::fs::statx(descriptors, name, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    if FileType::from_raw_mode(about.stx_mode.into()) != FileType::CharacterDevice {
        return Ok(None);
    }
    let rdev = Rdev { major: about.stx_rdev_major, minor: about.stx_rdev_minor };
    let Some(kind) = numbers.kind_of(rdev) else { return Ok(None) };
    let path = rustix::fs::readlinkat(descriptors, name, Vec::new())?;
    Ok(Some((kind, PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes())), rdev)))
}

/// The interface of a tap's descriptor: `iff:` in fdinfo (drivers/net/tun.c,
/// `tun_chr_show_fdinfo()`).
fn tap_name(pid: u32, fd: RawFd) -> Option<IfName> {
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    info.lines().find_map(|line| line.strip_prefix("iff:"))?.trim_ascii().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_devices_holds_none() {
        let _file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(raw_devices(std::process::id()).unwrap(), []);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert_eq!(raw_devices(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
