//! Network namespaces: finding and entering them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::ioctl::{Opcode, opcode};
use rustix::process::PidfdGetfdFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::proc::{PidFd, ProcessId, processes};

/// `_IO('T', 227)` in linux/if_tun.h: returns a descriptor of the network namespace of a tap's
/// link.
const TUNGETDEVNETNS: Opcode = opcode::none(b'T', 227);
/// `_IO(0xb7, 0x3)` in linux/nsfs.h: returns the type of a namespace.
const NS_GET_NSTYPE: Opcode = opcode::none(0xB7, 3);

/// An open network namespace, which exists at least as long as this.
#[derive(Debug)]
pub struct NetNs {
    file: OwnedFd,
    inode: u64,
}

impl NetNs {
    /// Where ip-netns(8) keeps network namespaces, even without processes.
    pub const DIR: &str = "/run/netns";

    /// The network namespaces that ip-netns(8) keeps: name and inode.
    pub fn named() -> impl Iterator<Item = (String, u64)> {
        let kept = std::fs::read_dir(Self::DIR).into_iter().flatten();
        kept.filter_map(|entry| {
            let entry = entry.ok()?;
            let inode = Self::at(&entry.path()).ok()?.inode();
            Some((entry.file_name().to_string_lossy().into_owned(), inode))
        })
    }

    /// The network namespace of a process.
    ///
    /// # Errors
    ///
    /// ENOENT if the process has ended, EACCES without permission to inspect it.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::at(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// /proc is not mounted.
    pub fn own() -> io::Result<Self> {
        Self::at(Path::new("/proc/thread-self/ns/net"))
    }

    /// All network namespaces with a process or a file in `/run/netns`, each once.
    pub fn all() -> impl Iterator<Item = Self> {
        let kept = std::fs::read_dir(Self::DIR).into_iter().flatten();
        let kept = kept.filter_map(|entry| Some(entry.ok()?.path()));
        let lived_in = processes().unwrap_or_default().into_iter();
        let lived_in = lived_in.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
        let mut known = BTreeSet::new();
        kept.chain(lived_in).filter_map(move |path| {
            // A process may have ended. Most are in a known namespace, which need not be opened
            // again.
            let inode = std::fs::metadata(&path).ok()?.ino();
            if known.contains(&inode) {
                return None;
            }
            let namespace = Self::at(&path).ok()?;
            known.insert(namespace.inode).then_some(namespace)
        })
    }

    /// The network namespace of a file: `/proc/PID/ns/net`, `/run/netns/NAME`.
    ///
    /// # Errors
    ///
    /// The file can't be opened, or is not a network namespace.
    pub fn at(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: takes no argument and touches no memory of ours; other files refuse it.
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as libc::Ioctl) };
        if kind != libc::CLONE_NEWNET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace"));
        }
        Ok(Self { inode: file.metadata()?.ino(), file: file.into() })
    }

    /// The network namespace of the link behind a tap's descriptor in any process.
    ///
    /// The calling process has a copy of the descriptor for some microseconds.
    ///
    /// # Errors
    ///
    /// ESRCH or EBADF if process or descriptor are gone, EPERM without permission to trace the
    /// process or over the namespace, EBADFD for a tap that is not configured.
    pub fn of_tap(process: ProcessId, fd: RawFd) -> io::Result<Self> {
        let pidfd = PidFd::open(process)?;
        let tap = rustix::process::pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty())?;
        // SAFETY: takes no argument and touches no memory of ours; a file that is no tap refuses
        // it.
        let number = unsafe { libc::ioctl(tap.as_raw_fd(), TUNGETDEVNETNS as libc::Ioctl) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, close-on-exec, and nothing else knows
        // it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
        Ok(Self { inode: file.metadata()?.ino(), file: file.into() })
    }

    /// The inode that identifies it: namespaces(7).
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The descriptor of the namespace's file in nsfs.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Calls `act` in a new network namespace, in a new thread. The namespace has a loopback link,
    /// which is down, and ends with the thread unless `act` keeps it.
    ///
    /// # Errors
    ///
    /// EPERM without `CAP_SYS_ADMIN`; ENOSPC at the limit of `user.max_net_namespaces`.
    pub fn with_new<T: Send>(act: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            // SAFETY: only this thread is in the new namespace, and it ends with `act`. A network
            // namespace has no part in the soundness of anything in memory.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            Ok(act())
        })
    }

    /// Calls `act` in the namespace, in a new thread.
    ///
    /// # Errors
    ///
    /// EPERM without `CAP_SYS_ADMIN`.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(act())
        })
    }
}

fn in_thread<T: Send>(act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let there = std::thread::Builder::new().spawn_scoped(scope, act)?;
        there.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
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
    fn a_new_namespace_ends_with_its_thread() {
        let here = NetNs::own().unwrap().inode();
        let there = NetNs::with_new(|| NetNs::own().unwrap().inode()).unwrap();
        assert_ne!(there, here);
        assert_eq!(NetNs::own().unwrap().inode(), here);
        assert!(!crate::proc::network_namespace_exists(there).unwrap());
    }

    #[test]
    fn other_files_are_no_network_namespaces() {
        for path in ["/proc/self/ns/mnt", "/dev/null", "/proc"] {
            assert_eq!(NetNs::at(Path::new(path)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        }
    }
}
