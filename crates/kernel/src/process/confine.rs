//! What a program of the user's, run beside the supervisor, is left with.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::Limit;
use super::inherit::{check, keep_only, prctl};
use super::privileges::{drop_bounding_set, set_limit};

/// Links, addresses, routes, bridges, nftables: what such a program is for.
const CAPABILITIES: CapabilitySet = CapabilitySet::NET_ADMIN;

/// Files that it creates are its user's to write.
const UMASK: libc::mode_t = 0o022;

/// Has a program run in a process group of its own, with stdio and no other descriptor, without
/// core dumps, with CAP_NET_ADMIN and no other capability, and without a way to regain one. It ends
/// with the thread that started it.
pub(crate) fn confine(command: &mut Command) {
    command.process_group(0);
    // SAFETY: `prepare` makes async-signal-safe calls only; it allocates, frees and locks nothing.
    unsafe { command.pre_exec(prepare) };
}

fn prepare() -> io::Result<()> {
    keep_only(&[])?;
    // SAFETY: only a number.
    unsafe { libc::umask(UMASK) };
    set_limit(Limit::NO_CORE)?;
    drop_bounding_set(CAPABILITIES)?;
    let kept = capabilities(None)?.permitted & CAPABILITIES;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    if kept.contains(CapabilitySet::NET_ADMIN) {
        // A supervisor that is not root has it by no other way.
        raise_net_admin()?;
    }
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
}

fn raise_net_admin() -> io::Result<()> {
    /// `CAP_NET_ADMIN` (linux/capability.h).
    const CAP_NET_ADMIN: libc::c_ulong = 12;
    let (raise, zero): (_, libc::c_ulong) = (libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, 0);
    // SAFETY: PR_CAP_AMBIENT takes numbers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, CAP_NET_ADMIN, zero, zero) })
}
