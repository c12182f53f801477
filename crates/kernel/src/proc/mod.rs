//! Processes in /proc: which exist, which devices they hold, and whether two hold the same file.

mod devices;
mod hidden;
mod holders;
mod identity;
mod numbers;
mod pidfd;
mod process;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

pub use devices::{HeldDevice, deleted_macvtap, held_devices, raw_devices};
pub use hidden::{HiddenFiles, driver_open_files};
pub use holders::Holders;
pub use identity::{ProcessId, boot_time, is_exiting};
pub(crate) use numbers::raw_kind;
pub use numbers::{DeviceNumbers, HeldKind};
pub use pidfd::{PidFd, Signal};
pub use process::{
    ProcessStatus, command_line, deleted_path, descriptor_tables, exe, exe_file, has_capability, processes,
};

/// `KCMP_FILE` (linux/kcmp.h).
const KCMP_FILE: libc::c_int = 0;
/// `KCMP_FILES`, likewise.
const KCMP_FILES: libc::c_int = 2;

/// Whether reading from `/proc` failed because the process, the thread or the descriptor is gone.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH)
    )
}

/// Whether descriptor `a_fd` of process `a` and `b_fd` of `b` are the same open file, by kcmp(2):
/// the proof that a descriptor was passed, or is a copy.
///
/// # Errors
///
/// ESRCH if a process has ended, EBADF if a descriptor isn't open, EPERM without permission to
/// trace both, ENOSYS on a kernel without CONFIG_KCMP.
pub fn same_file(a: u32, a_fd: RawFd, b: u32, b_fd: RawFd) -> io::Result<bool> {
    Ok(compare_files((a, a_fd), (b, b_fd))?.is_eq())
}

/// The order of the open files of two processes' descriptors by kcmp(2), which is constant in one
/// boot: sorting by it finds the descriptors of the same file.
///
/// # Errors
///
/// As [`same_file`].
pub fn compare_files(a: (u32, RawFd), b: (u32, RawFd)) -> io::Result<Ordering> {
    let number =
        |value: RawFd| libc::c_ulong::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EBADF));
    kcmp(KCMP_FILE, (a.0, number(a.1)?), (b.0, number(b.1)?))
}

/// Whether two threads share their descriptor table.
fn same_table(a: u32, b: u32) -> io::Result<bool> {
    Ok(kcmp(KCMP_FILES, (a, 0), (b, 0))?.is_eq())
}

fn kcmp(kind: libc::c_int, a: (u32, libc::c_ulong), b: (u32, libc::c_ulong)) -> io::Result<Ordering> {
    // SAFETY: kcmp takes five numbers and touches no memory of ours.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, pid_t(a.0)?, pid_t(b.0)?, kind, a.1, b.1) };
    match order {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        order if order < 0 => Err(io::Error::last_os_error()),
        // 3 means not equal, without an order; no kernel returns it for files.
        _ => Ok(Ordering::Greater),
    }
}

/// The login uid of a process: the user who logged in, which su(1) does not change; `None` for a
/// process without a login (a service). From `/proc/PID/loginuid`, proc(5).
///
/// # Errors
///
/// ENOENT if the process has ended or the kernel has no audit.
pub fn login_uid(pid: u32) -> io::Result<Option<u32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/loginuid"))?;
    let uid = text.trim_end().parse().map_err(|_| malformed("loginuid"))?;
    Ok(Some(uid).filter(|uid| *uid != u32::MAX))
}

/// The children of a process, of all its threads (`/proc/PID/task/TID/children`, proc(5)). Empty on
/// a kernel without CONFIG_PROC_CHILDREN.
///
/// # Errors
///
/// The process has ended.
pub fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile; its children are reparented to another one.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("children")) else { continue };
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

/// The random id of this boot (`/proc/sys/kernel/random/boot_id`, random(4)).
///
/// # Errors
///
/// /proc is not mounted.
pub fn boot_id() -> io::Result<Uuid> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim_end().parse().map_err(|_| malformed("boot_id"))
}

/// The inode of the calling thread's network namespace (namespaces(7)).
///
/// # Errors
///
/// /proc is not mounted.
pub fn network_namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// The inode of a process's network namespace.
///
/// # Errors
///
/// ENOENT if the process has ended, EACCES without permission to inspect it.
pub fn network_namespace_of(pid: u32) -> io::Result<u64> {
    Ok(std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino())
}

/// Whether a network namespace is known to exist: a thread is in it, or a process has a descriptor
/// of it, or has it in its mounts, as after `ip netns add`. A namespace that only a socket or a
/// device keeps is not found.
///
/// # Errors
///
/// /proc can't be read.
pub fn network_namespace_exists(netns: u64) -> io::Result<bool> {
    let name = format!("net:[{netns}]");
    let is_it = |link: &Path| std::fs::read_link(link).is_ok_and(|to| to.as_os_str() == name.as_str());
    // Errors of a process that ends meanwhile are ignored.
    let within = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut mounts = BTreeSet::new();
    for pid in processes()? {
        let process = Path::new("/proc").join(pid.to_string());
        if within(process.join("task")).any(|thread| is_it(&thread.path().join("ns/net")))
            || within(process.join("fd")).any(|file| is_it(&file.path()))
        {
            return Ok(true);
        }
        let Ok(namespace) = std::fs::read_link(process.join("ns/mnt")) else { continue };
        if mounts.insert(namespace)
            && let Ok(table) = std::fs::read_to_string(process.join("mountinfo"))
            // The mount's root (proc_pid_mountinfo(5)).
            && table.lines().any(|line| line.split(' ').nth(3) == Some(name.as_str()))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether this is the initial pid namespace, from which all processes of the system are visible.
///
/// # Errors
///
/// /proc is not mounted.
pub fn sees_all_processes() -> io::Result<bool> {
    /// `PROC_PID_INIT_INO` of linux/proc_ns.h.
    const FIRST: u64 = 0xEFFF_FFFC;
    Ok(std::fs::metadata("/proc/self/ns/pid")?.ino() == FIRST)
}

fn pid_t(pid: u32) -> io::Result<libc::pid_t> {
    libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc shows a malformed {what}"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_copy_is_the_same_file_and_a_second_open_is_not() {
        let first = File::open("/dev/null").unwrap();
        let copy = first.try_clone().unwrap();
        let second = File::open("/dev/null").unwrap();
        let own = std::process::id();
        assert!(same_file(own, first.as_raw_fd(), own, copy.as_raw_fd()).unwrap());
        assert!(!same_file(own, first.as_raw_fd(), own, second.as_raw_fd()).unwrap());
    }

    #[test]
    fn a_closed_descriptor_is_no_file_at_all() {
        let file = File::open("/dev/null").unwrap();
        let own = std::process::id();
        let error = same_file(own, file.as_raw_fd(), own, 1_000_000).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        let error = same_file(own, file.as_raw_fd(), own, -1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_deleted_file_is_shown_with_the_path_that_it_had() {
        assert_eq!(deleted_path(Path::new("/dev/tap5 (deleted)")), Some(Path::new("/dev/tap5")));
        assert_eq!(deleted_path(Path::new("/dev/tap5")), None);
    }

    #[test]
    fn the_boot_has_one_identity() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }

    #[test]
    fn a_network_namespace_exists_as_long_as_something_shows_it() {
        assert!(network_namespace_exists(network_namespace().unwrap()).unwrap());
        let file = std::thread::spawn(|| {
            // SAFETY: only this thread, which ends at once, is in another network namespace.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let file = file.join().unwrap();
        let netns = file.metadata().unwrap().ino();
        assert!(network_namespace_exists(netns).unwrap(), "a descriptor shows it");
        drop(file);
        assert!(!network_namespace_exists(netns).unwrap());
    }

    #[test]
    fn a_process_acts_as_its_user() {
        assert_eq!(ProcessStatus::of(std::process::id()).unwrap().uid, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn a_login_uid_that_is_not_set_is_none() {
        // Whatever this machine says, it is a number or nothing.
        let shown = std::fs::read_to_string("/proc/self/loginuid").unwrap();
        let expected = shown.trim_end().parse().ok().filter(|uid| *uid != u32::MAX);
        assert_eq!(login_uid(std::process::id()).unwrap(), expected);
    }
}
