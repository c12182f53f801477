//! Open files without a descriptor, and the kernel's counts of open files.
//!
//! A process can close its last descriptor of a file and still keep the file: sent to itself over a
//! unix socket, or registered with io_uring. `/proc/PID/fd` shows neither. But the fdinfo of the
//! socket or the ring has the number of such files, and the use count of a driver's module includes
//! each open file.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use taptrail_record::DeviceKind;

use super::{descriptor_tables, is_gone};

/// The largest part of one fdinfo file that is read, in bytes: a ring lists each of its files and
/// buffers, and its counts come before these lists, which a process can make long.
const MAX_FDINFO_BYTES: u64 = 64 * 1024;

/// The numbers of open files that a process keeps without a descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HiddenFiles {
    /// In flight: waiting in a unix socket of the process, which has not received them yet
    /// (`scm_fds` in the socket's fdinfo, Linux 5.7 and newer).
    pub in_flight: u32,
    /// Registered with io_uring (`UserFiles` in the ring's fdinfo).
    pub registered: u32,
}

impl HiddenFiles {
    /// Whether there are any.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// The hidden files of a process. It is unknown which files they are.
    ///
    /// The files in a ring or socket that has no descriptor itself are not counted: zero is no
    /// proof.
    ///
    /// # Errors
    ///
    /// ENOENT if the process has ended, EACCES without permission to inspect it.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut all = Self::default();
        for thread in descriptor_tables(pid)? {
            match Self::of_table(thread) {
                Ok(found) => {
                    all.in_flight = all.in_flight.saturating_add(found.in_flight);
                    all.registered = all.registered.saturating_add(found.registered);
                }
                // A thread may end before its process.
                Err(error) if thread != pid && is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    fn of_table(thread: u32) -> io::Result<Self> {
        let mut found = Self::default();
        for entry in std::fs::read_dir(format!("/proc/{thread}/fd"))? {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if is_gone(&error) => break,
                Err(error) => return Err(error),
            };
            let keeps_files = match keeps_files(&entry.path()) {
                Ok(keeps_files) => keeps_files,
                // Closed since the listing.
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            if !keeps_files {
                continue;
            }
            let info = Path::new("/proc").join(thread.to_string()).join("fdinfo").join(entry.file_name());
            match File::open(info).and_then(|info| Self::read(BufReader::new(info.take(MAX_FDINFO_BYTES)))) {
                Ok(more) => {
                    found.in_flight = found.in_flight.saturating_add(more.in_flight);
                    found.registered = found.registered.saturating_add(more.registered);
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn read(mut info: impl io::BufRead) -> io::Result<Self> {
        let mut found = Self::default();
        let mut line = String::new();
        while info.read_line(&mut line)? > 0 {
            let number = |key: &str| line.strip_prefix(key).and_then(|rest| rest.trim().parse().ok());
            if let Some(files) = number("scm_fds:") {
                found.in_flight = files;
            } else if let Some(files) = number("UserFiles:") {
                found.registered = files;
                // The list of their names follows, which the process can make long.
                break;
            }
            line.clear();
        }
        Ok(found)
    }
}

/// Whether a descriptor is a socket or an io_uring.
fn keeps_files(descriptor: &Path) -> io::Result<bool> {
    let about = statx(CWD, descriptor, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)?;
    Ok(match FileType::from_raw_mode(about.stx_mode.into()) {
        FileType::Socket => true,
        // An anonymous inode has no type at all.
        FileType::Unknown => std::fs::read_link(descriptor)?.as_os_str() == "anon_inode:[io_uring]",
        _ => false,
    })
}

/// The number of a driver's open files on the host, wherever they are kept: the use count of its
/// module (`/sys/module/…/refcnt`). None if the driver is built into the kernel, if `/sys` is not
/// mounted, and for taps, whose link counts its own queues
/// ([`TunInfo::queues`](crate::link::TunInfo)).
pub fn driver_open_files(kind: DeviceKind) -> Option<u32> {
    match kind {
        // Records don't distinguish the two.
        DeviceKind::Macvtap => Some(driver_uses("macvtap", "macvtap")? + driver_uses("ipvtap", "ipvtap")?),
        DeviceKind::VhostNet => module_uses("vhost_net"),
        // Its file operations have the same owner as its character device, and each has a use.
        // The first of them alone is a file that is being opened.
        DeviceKind::VhostVdpa => driver_uses("vhost-vdpa", "vhost_vdpa").map(|uses| uses.div_ceil(2)),
        // A socket has no driver: the kernel lists each by itself (`unix_sockets.rs`).
        DeviceKind::Tun | DeviceKind::VhostUser | DeviceKind::Unknown => None,
    }
}

/// As [`module_uses`]; 0 for a driver that is not in the kernel.
fn driver_uses(driver: &str, module: &str) -> Option<u32> {
    module_uses(module).or_else(|| {
        let devices = std::fs::read_to_string("/proc/devices").ok()?;
        let is_there = devices.lines().any(|line| line.split_ascii_whitespace().nth(1) == Some(driver));
        (!is_there).then_some(0)
    })
}

/// The uses of a module, which are those of its open files, and no other lasting ones:
/// drivers/vhost/net.c (misc_open()), drivers/net/macvtap.c, drivers/net/ipvlan/ipvtap.c and
/// drivers/vhost/vdpa.c (chrdev_open()).
fn module_uses(name: &str) -> Option<u32> {
    let module = Path::new("/sys/module").join(name);
    let text = std::fs::read_to_string(module.join("refcnt")).ok()?;
    let uses: u32 = text.trim_end().parse().ok()?;
    // Modules that depend on it are counted, too.
    let holders = std::fs::read_dir(module.join("holders")).map_or(0, Iterator::count);
    uses.checked_sub(u32::try_from(holders).ok()?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
        socketpair,
    };

    use super::*;

    fn found(info: &str) -> (u32, u32) {
        let found = HiddenFiles::read(info.as_bytes()).unwrap();
        (found.in_flight, found.registered)
    }

    #[test]
    fn a_sockets_and_a_rings_files_are_counted() {
        assert_eq!(found("pos:\t0\nflags:\t02000002\nmnt_id:\t10\nino:\t2092470\nscm_fds: 3\n"), (3, 0));
        assert_eq!(found("pos:\t0\nSqMask:\t0x3\nUserFiles:\t2\n    0: /dev/net/tun\nscm_fds: 9\n"), (0, 2));
        assert_eq!(found("pos:\t0\nUserFiles:\tmany\n"), (0, 0));
        assert_eq!(found(""), (0, 0));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the test sends what a hostile process would")]
    fn a_descriptor_in_flight_is_counted_until_it_is_taken() {
        let pid = std::process::id();
        let before = HiddenFiles::of(pid).unwrap();
        let (sender, receiver) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let file = File::open("/dev/null").unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(&sender, &[io::IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
        drop(file);
        let after = HiddenFiles::of(pid).unwrap();
        assert_eq!(after.in_flight, before.in_flight + 1);
        assert!(after.any());
        drop(receiver);
        assert_eq!(HiddenFiles::of(pid).unwrap().in_flight, before.in_flight);
        assert!(HiddenFiles::of(u32::MAX).is_err());
    }

    #[test]
    fn only_modules_count_their_open_files() {
        assert_eq!(driver_open_files(DeviceKind::Tun), None);
        let built_in = !Path::new("/sys/module/macvtap/refcnt").exists();
        assert_eq!(driver_open_files(DeviceKind::Macvtap).is_none(), built_in);
    }
}
