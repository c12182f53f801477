//! Drops a guest's program's privileges for good, between fork and exec: async-signal-safe calls
//! only.

use std::io;

use rustix::process::{Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::inherit::{check, prctl};
use super::{Credentials, Limit};

/// Files that QEMU creates are only for its user.
const UMASK: libc::mode_t = 0o077;

/// The user and limits with which a program continues; it has no capabilities.
#[derive(Debug)]
pub(super) struct PrivilegeDrop {
    /// Its user and groups; unchanged if `None`.
    pub(super) credentials: Option<Credentials>,
    /// Limits in addition to that of core dumps.
    pub(super) limits: Vec<Limit>,
}

impl PrivilegeDrop {
    /// Sets the limits, while they may still be raised, and then drops all privileges.
    pub(super) fn apply(&self) -> io::Result<()> {
        // SAFETY: only a number.
        unsafe { libc::umask(UMASK) };
        set_limit(Limit::NO_CORE)?;
        for limit in &self.limits {
            set_limit(*limit)?;
        }
        drop_bounding_set(CapabilitySet::empty())?;
        if let Some(user) = &self.credentials {
            become_user(user.uid, user.gid, &user.groups)?;
        }
        // root stays root, with the rights of the owner of root's files only, as in libvirt.
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
        // Ambient capabilities would survive the exec of a process that is not root.
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
    }
}

pub(super) fn set_limit(limit: Limit) -> io::Result<()> {
    Ok(setrlimit(limit.resource, Rlimit { current: limit.value, maximum: limit.value })?)
}

/// Drops all capabilities except `kept` from the bounding set, from which an exec by root regains
/// them.
pub(super) fn drop_bounding_set(kept: CapabilitySet) -> io::Result<()> {
    let dropped = |capability: &libc::c_ulong| kept.bits() & (1 << capability) == 0;
    for capability in (0..64).filter(dropped) {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            Err(error) => match error.raw_os_error() {
                // Beyond the last capability of this kernel.
                Some(libc::EINVAL) => break,
                // Not root: no_new_privs prevents an exec from gaining capabilities.
                Some(libc::EPERM) => break,
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// Becomes another user: groups before gid before uid, because each step needs privileges that the
/// next drops.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one slice of gid_t.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: only numbers. The three of each kind at once, so that no saved one remains.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}
