//! Functions for the child between fork and exec. All are async-signal-safe: the parent may have
//! had other threads, which may have held any lock (signal-safety(7)).

use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// The first descriptor above stdin, stdout and stderr.
const FIRST: RawFd = 3;

/// Keeps only stdio and `keep` open over the exec, with their numbers.
pub(super) fn keep_only(keep: &[RawFd]) -> io::Result<()> {
    close_others_on_exec()?;
    for fd in keep {
        // SAFETY: F_SETFD changes a flag of a number; a wrong one gives EBADF.
        check(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) })?;
    }
    Ok(())
}

fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: only marks descriptors as close-on-exec: none changes or closes under its owner.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked == 0 {
        return Ok(());
    }
    // ENOSYS before Linux 5.9, EINVAL for the flag before 5.11.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit to write to.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    let last = RawFd::try_from(limit.rlim_cur).unwrap_or(RawFd::MAX);
    for fd in FIRST..last {
        // SAFETY: as in `keep_only`; numbers that aren't open give EBADF, which is what is wanted.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Blocks SIGINT: it stays blocked over the exec.
pub(super) fn block_sigint() -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset before it is used, and both live on our stack.
    check(unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut())
    })
}

/// Leads a session of its own, without a controlling terminal.
pub(super) fn new_session() -> io::Result<()> {
    // SAFETY: no arguments; a child is never a group leader already.
    check(unsafe { libc::setsid() })
}

pub(super) fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take numbers only.
    check(unsafe { libc::prctl(option, argument, zero, zero, zero) })
}

pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
