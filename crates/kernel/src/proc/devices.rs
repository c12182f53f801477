//! The raw network devices that a process holds, as `/proc/PID/fd` shows them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use taptrail_record::{DeviceKind, IfName, Rdev};

/// Dynamic majors of character devices lie above this one (Documentation/admin-guide/devices.txt).
const FIRST_DYNAMIC_MAJOR: u32 = 234;

/// A raw network device that a process holds open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDevice {
    /// The descriptor's number in that process.
    pub fd: RawFd,
    /// What it is, by its device number: a node may have any path.
    pub kind: DeviceKind,
    /// The node's path as that process opened it; ends in ` (deleted)` when the node is gone.
    pub path: PathBuf,
    /// The node's device number.
    pub rdev: Rdev,
    /// A tap's host interface, in the network namespace where it lives; `None` for one not yet
    /// configured, and for other kinds (a macvtap's path ends with its interface's index).
    pub ifname: Option<IfName>,
}

/// The taps, macvtaps and vhost-net devices that a process holds, ordered by descriptor.
///
/// Descriptors that vanish meanwhile are left out. Takes about 2 µs for each open descriptor, and
/// 20 µs more for each tap.
///
/// # Errors
/// ENOENT when the process is gone, EACCES without the right to look into it.
pub fn raw_devices(pid: u32) -> io::Result<Vec<HeldDevice>> {
    let open = |name: &str| -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(format!("/proc/{pid}/{name}"), flags, Mode::empty())?)
    };
    let descriptors = open("fd")?;
    let mut majors = DynamicMajors::default();
    let mut held = Vec::new();
    for entry in Dir::read_from(&descriptors)? {
        let entry = match entry {
            Ok(entry) => entry,
            // The process exited while its descriptors were read: it holds nothing now.
            Err(Errno::NOENT | Errno::SRCH) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let Some(fd) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        match device(descriptors.as_fd(), entry.file_name(), &mut majors) {
            Ok(Some((kind, path, rdev))) => {
                let ifname = if kind == DeviceKind::Tun { tap_name(pid, fd) } else { None };
                held.push(HeldDevice { fd, kind, path, rdev, ifname });
            }
            // Closed between the listing and the look, or all of them by the process's exit.
            Ok(None) | Err(Errno::NOENT | Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    held.sort_unstable_by_key(|device| device.fd);
    Ok(held)
}

/// The raw network device behind one descriptor, if it is one.
fn device(
    descriptors: BorrowedFd<'_>,
    name: &CStr,
    majors: &mut DynamicMajors,
) -> Result<Option<(DeviceKind, PathBuf, Rdev)>, Errno> {
    // The link is followed to the open file itself, whatever its path: a node of any name, in any
    // mount namespace, deleted or not, is found.
    let stat = rustix::fs::statat(descriptors, name, AtFlags::empty())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Ok(None);
    }
    let rdev = Rdev { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
    let Some(kind) = majors.kind_of(rdev) else { return Ok(None) };
    let path = rustix::fs::readlinkat(descriptors, name, Vec::new())?;
    Ok(Some((kind, PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes())), rdev)))
}

/// Which raw network device a character device's number means, if one.
pub(crate) fn raw_kind(rdev: Rdev) -> Option<DeviceKind> {
    DynamicMajors::default().kind_of(rdev)
}

/// The interface of a tap's descriptor: `iff:` in fdinfo (drivers/net/tun.c, `tun_chr_show_fdinfo()`).
fn tap_name(pid: u32, fd: RawFd) -> Option<IfName> {
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    info.lines().find_map(|line| line.strip_prefix("iff:"))?.trim_ascii().parse().ok()
}

/// The majors that this boot gave to drivers without a fixed one, read when first needed.
#[derive(Debug, Default)]
struct DynamicMajors(Option<Vec<u32>>);

impl DynamicMajors {
    fn kind_of(&mut self, rdev: Rdev) -> Option<DeviceKind> {
        match rdev {
            Rdev::TUN => Some(DeviceKind::Tun),
            Rdev::VHOST_NET => Some(DeviceKind::VhostNet),
            rdev if rdev.major >= FIRST_DYNAMIC_MAJOR && self.is_macvtap(rdev.major) => {
                Some(DeviceKind::Macvtap)
            }
            _ => None,
        }
    }

    fn is_macvtap(&mut self, major: u32) -> bool {
        self.0
            .get_or_insert_with(|| {
                macvtap_majors(&std::fs::read_to_string("/proc/devices").unwrap_or_default())
            })
            .contains(&major)
    }
}

/// The macvtap driver's majors in `/proc/devices`, proc(5).
fn macvtap_majors(devices: &str) -> Vec<u32> {
    devices
        .lines()
        .take_while(|line| !line.starts_with("Block devices:"))
        .filter_map(|line| line.trim_ascii().split_once(' '))
        .filter(|(_, driver)| *driver == "macvtap")
        .filter_map(|(major, _)| major.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_macvtap_driver_is_found_by_its_name() {
        let devices = "Character devices:\n  1 mem\n 10 misc\n242 macvtap\n243 macvtap2\n\nBlock devices:\n259 blkext\n";
        assert_eq!(macvtap_majors(devices), [242]);
        assert!(macvtap_majors("Character devices:\n\nBlock devices:\n242 macvtap\n").is_empty());
        assert!(macvtap_majors("").is_empty());
    }

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
