//! For a program that an unprivileged user starts, and that has more rights than that user: by file
//! capabilities (setcap(8)) or because its file is setuid root.
//!
//! All that a process inherits over exec(2) is that user's choice. Such a program has one thread
//! when it calls these functions, and they come first.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::ptr;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::Limit;
use super::inherit::{check, prctl};
use super::privileges::set_limit;
use super::take_inherited;

/// Files that the program creates are only for its user.
const UMASK: libc::mode_t = 0o077;

/// Replaces what the caller chose for this process: no environment, a umask of 0077, no core dumps,
/// no pending alarm, default actions for signals but SIGPIPE, which is ignored, and none blocked;
/// no exec gains rights, and no other process of the user may trace it.
///
/// # Errors
///
/// A system call fails, which is not expected.
pub fn sanitize_process() -> io::Result<()> {
    // SAFETY: this thread is the only one, so nothing reads the environment meanwhile; the functions
    // take no pointers, or one to a set that sigemptyset initialises first.
    unsafe {
        check(libc::clearenv())?;
        libc::umask(UMASK);
        libc::alarm(0);
        for signal in 1..=libc::SIGRTMAX() {
            // SIGKILL, SIGSTOP and those of the C library refuse: they are as they must be.
            libc::signal(signal, if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL });
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()))?;
    }
    set_limit(Limit::NO_CORE)?;
    prctl(libc::PR_SET_DUMPABLE, 0)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Becomes the real user and group, for good, and drops all capabilities except those of `kept`
/// that the process has. Returns these.
///
/// The supplementary groups stay: a set-user-ID program has its caller's.
///
/// # Errors
///
/// A system call fails, which is not expected.
pub fn become_caller(kept: CapabilitySet) -> io::Result<CapabilitySet> {
    // So that the permitted capabilities outlast the change of user.
    prctl(libc::PR_SET_KEEPCAPS, 1)?;
    // SAFETY: only numbers. The three of each kind at once, so that no saved one remains; the group
    // first, because it needs the user's rights.
    unsafe {
        let (uid, gid) = (libc::getuid(), libc::getgid());
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    prctl(libc::PR_SET_KEEPCAPS, 0)?;
    let kept = capabilities(None)?.permitted & kept;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: none })?;
    Ok(kept)
}

/// As [`take_inherited`], and closes all other inherited descriptors above stderr.
///
/// # Errors
///
/// As [`take_inherited`]; or /proc/self/fd can't be read.
pub fn take_only_inherited(number: RawFd) -> io::Result<OwnedFd> {
    let taken = take_inherited(number)?;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let other = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(other) = other.filter(|other| *other != taken.as_raw_fd()) {
            // Stdio and this program's own descriptors are refused, and stay.
            drop(take_inherited(other));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd as _, IntoRawFd as _};

    use rustix::fs::{Mode, OFlags};
    use rustix::thread::CapabilitySet;

    use super::*;
    use crate::process::testing::status;

    #[test]
    fn only_one_inherited_descriptor_remains() {
        let open = |flags| rustix::fs::open("/dev/null", OFlags::RDONLY | flags, Mode::empty()).unwrap();
        let own = open(OFlags::CLOEXEC);
        let (given, other) = (open(OFlags::empty()).into_raw_fd(), open(OFlags::empty()).into_raw_fd());
        let taken = take_only_inherited(given).unwrap();
        assert_eq!(taken.as_raw_fd(), given);
        assert!(rustix::io::fcntl_getfd(&own).is_ok());
        assert!(!std::path::Path::new(&format!("/proc/self/fd/{other}")).exists());
    }

    #[test]
    fn the_process_keeps_only_the_capabilities_it_asks_for() {
        // nextest runs each test in a process of its own. Capabilities are a thread's.
        let kept = CapabilitySet::NET_ADMIN | CapabilitySet::AUDIT_WRITE;
        let had = capabilities(None).unwrap().permitted & kept;
        assert_eq!(become_caller(kept).unwrap(), had);
        assert_eq!(capabilities(None).unwrap().permitted, had);
        sanitize_process().unwrap();
        assert!(std::env::vars_os().next().is_none());
        assert_eq!(status(std::process::id(), "Umask"), "0077");
    }
}
