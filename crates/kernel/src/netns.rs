//! Network namespaces: which one something is in, and acting there.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::ioctl::{Opcode, opcode};
use rustix::process::PidfdGetfdFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::proc::{PidFd, ProcessId, processes};

/// Where ip-netns(8) keeps network namespaces that no process need be in.
const RUN_NETNS: &str = "/run/netns";
/// `_IO('T', 227)` in linux/if_tun.h: a descriptor of the namespace that a tap's link is in.
const TUNGETDEVNETNS: Opcode = opcode::none(b'T', 227);
/// `_IO(0xb7, 0x3)` in linux/nsfs.h: what kind of namespace a file is of.
const NS_GET_NSTYPE: Opcode = opcode::none(0xB7, 3);

/// A network namespace, kept open: it stays as long as this does.
#[derive(Debug)]
pub struct NetNs {
    file: OwnedFd,
    inode: u64,
}

impl NetNs {
    /// That of a process.
    ///
    /// # Errors
    /// ENOENT when the process is gone, EACCES without the right to look into it.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::at(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// That of the calling thread.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn own() -> io::Result<Self> {
        Self::at(Path::new("/proc/thread-self/ns/net"))
    }

    /// Each that can be seen, once: a process is in it, or a file of `/run/netns` keeps it.
    pub fn all() -> impl Iterator<Item = Self> {
        let kept = std::fs::read_dir(RUN_NETNS).into_iter().flatten();
        let kept = kept.filter_map(|entry| Some(entry.ok()?.path()));
        let lived_in = processes().unwrap_or_default().into_iter();
        let lived_in = lived_in.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
        let mut known = BTreeSet::new();
        kept.chain(lived_in).filter_map(move |path| {
            // A process may have ended. Most are in one that is known: no descriptor for those.
            let inode = std::fs::metadata(&path).ok()?.ino();
            if known.contains(&inode) {
                return None;
            }
            let namespace = Self::at(&path).ok()?;
            known.insert(namespace.inode).then_some(namespace)
        })
    }

    /// That of a file: `/proc/PID/ns/net`, `/run/netns/NAME`.
    ///
    /// # Errors
    /// When the file can't be opened, or is no network namespace's.
    pub fn at(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: takes no argument and touches no memory of ours; other files refuse it.
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as libc::Ioctl) };
        if kind != libc::CLONE_NEWNET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace"));
        }
        Ok(Self { inode: file.metadata()?.ino(), file: file.into() })
    }

    /// That of the link behind a tap's descriptor, wherever the process that holds it is.
    ///
    /// For some microseconds the descriptor is ours, too.
    ///
    /// # Errors
    /// ESRCH or EBADF when process or descriptor are gone, EPERM without the rights to trace the process
    /// and over the namespace, EBADFD for a tap that is not configured.
    pub fn of_tap(process: ProcessId, fd: RawFd) -> io::Result<Self> {
        let pidfd = PidFd::open(process)?;
        let tap = rustix::process::pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty())?;
        // SAFETY: takes no argument and touches no memory of ours; a file that is no tap refuses it.
        let number = unsafe { libc::ioctl(tap.as_raw_fd(), TUNGETDEVNETNS as libc::Ioctl) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, close-on-exec, and nothing else knows it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
        Ok(Self { inode: file.metadata()?.ino(), file: file.into() })
    }

    /// The inode by which it is known: namespaces(7).
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Its file.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Acts in it, by a thread of its own.
    ///
    /// # Errors
    /// EPERM without `CAP_SYS_ADMIN`.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let there = std::thread::Builder::new().spawn_scoped(scope, || {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(act())
            })?;
            there.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_entered_by_a_thread_of_its_own() {
        let here = NetNs::own().unwrap();
        let there = std::thread::spawn(|| {
            // SAFETY: the thread's own network namespace only.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            NetNs::own().unwrap()
        });
        let there = there.join().unwrap();
        assert_ne!(here.inode(), there.inode());
        let seen = there.enter(|| NetNs::own().unwrap().inode()).unwrap();
        assert_eq!((seen, NetNs::own().unwrap().inode()), (there.inode(), here.inode()));
    }

    #[test]
    fn other_files_are_no_network_namespaces() {
        for path in ["/proc/self/ns/mnt", "/dev/null", "/proc"] {
            assert_eq!(NetNs::at(Path::new(path)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        }
    }
}
