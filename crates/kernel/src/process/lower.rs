//! What a guest's program gives up for good, between fork and exec: async-signal-safe calls only.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::inherit::{check, prctl};
use super::{Credentials, Limit};

/// What QEMU makes is its user's alone.
const UMASK: libc::mode_t = 0o077;

/// With what a program goes on.
#[derive(Debug)]
pub(super) struct Lowered {
    /// Who it becomes; it stays who we are when `None`.
    pub(super) credentials: Option<Credentials>,
    /// Limits besides that of core dumps.
    pub(super) limits: Vec<Limit>,
}

impl Lowered {
    /// Gives up everything: limits while they may be raised still, then privileges.
    pub(super) fn lower(&self) -> io::Result<()> {
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
        // root stays root, and has no more rights than the owner of root's files: what libvirt does too.
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
        // Ambient capabilities would outlive the exec if we weren't root to begin with.
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
    }
}

fn set_limit(limit: Limit) -> io::Result<()> {
    let value = libc::rlimit { rlim_cur: limit.value, rlim_max: limit.value };
    // SAFETY: the kernel reads one live rlimit.
    check(unsafe { libc::setrlimit(limit.resource, &raw const value) })
}

/// An exec by root gives all capabilities of this set anew: no others than `kept` from now on.
pub(super) fn drop_bounding_set(kept: CapabilitySet) -> io::Result<()> {
    let dropped = |capability: &libc::c_ulong| kept.bits() & (1 << capability) == 0;
    for capability in (0..64).filter(dropped) {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            Err(error) => match error.raw_os_error() {
                // Behind the last that this kernel knows.
                Some(libc::EINVAL) => break,
                // Not root to begin with: no_new_privs keeps an exec from giving anything.
                Some(libc::EPERM) => break,
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// Becomes another user: groups before gid before uid, as each step needs what the next gives up.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one slice of gid_t.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: only numbers. The three of each kind at once, so that no saved one remains.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}
