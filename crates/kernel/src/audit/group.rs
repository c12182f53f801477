//! Joins the multicast group of audit records.
//!
//! Multicast group `AUDIT_NLGRP_READLOG` gets each record as it leaves the backlog queue, but only
//! in the **initial network namespace** (kernel/audit.c, `kauditd_send_multicast_skb()`); a socket
//! of another namespace joins and receives nothing. A socket keeps the namespace in which it was
//! opened, so a new thread enters the initial one and opens the socket there.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::socket::open_socket;
use crate::socket_filter::{self, step};

/// `AUDIT_NLGRP_READLOG` (linux/audit.h) as a bit mask.
const READLOG: u32 = 1 << 0;
/// `PF_KTHREAD` (linux/sched.h), in field 9 of `/proc/PID/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// A range of record types, inclusive.
pub(super) type Types = RangeInclusive<u16>;

/// A socket in the group, for records of these types: in the initial network namespace if that can
/// be entered (`true`), else in the calling thread's.
pub(super) fn join(types: &[Types]) -> Result<(OwnedFd, bool), Errno> {
    let Some(initial) = initial_network_namespace() else {
        return Ok((join_here(types)?, false));
    };
    if is_own_namespace(&initial) {
        return Ok((join_here(types)?, true));
    }
    match join_in(&initial, types) {
        Ok(socket) => Ok((socket, true)),
        Err(error) => {
            tracing::debug!(%error, "the initial network namespace can't be entered");
            Ok((join_here(types)?, false))
        }
    }
}

/// A socket in the group, in this thread's network namespace.
fn join_here(types: &[Types]) -> Result<OwnedFd, Errno> {
    open_socket(READLOG, |socket| {
        // Without the filter, a busy host only causes more wake-ups and fills the buffer sooner.
        if let Err(error) = attach_filter(socket, types) {
            tracing::debug!(%error, "the audit broadcast can't be filtered by type");
        }
    })
}

/// A socket in the group, in `namespace`: a new thread enters it, and ends.
fn join_in(namespace: &File, types: &[Types]) -> Result<OwnedFd, Errno> {
    thread::scope(|scope| {
        let joining = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            join_here(types)
        });
        joining.join().unwrap_or(Err(Errno::IO))
    })
}

/// The initial network namespace, through kthreadd, which never leaves it. Process 2 is kthreadd
/// only in the initial pid namespace; `PF_KTHREAD`, unlike a name, can't be faked.
fn initial_network_namespace() -> Option<File> {
    let stat = std::fs::read("/proc/2/stat").ok()?;
    let after_name = stat.iter().rposition(|byte| *byte == b')')?;
    // Fields 3 (state), 4 … 9 (flags) follow the name.
    let flags =
        stat[after_name + 1..].split(|byte| *byte == b' ').filter(|field| !field.is_empty()).nth(6)?;
    if std::str::from_utf8(flags).ok()?.parse::<u64>().ok()? & PF_KTHREAD == 0 {
        return None;
    }
    File::open("/proc/2/ns/net").ok()
}

fn is_own_namespace(namespace: &File) -> bool {
    // The thread's namespace, not the process's: each thread may be in another.
    match (namespace.metadata(), std::fs::metadata("/proc/thread-self/ns/net")) {
        (Ok(theirs), Ok(ours)) => theirs.ino() == ours.ino() && theirs.dev() == ours.dev(),
        _ => false,
    }
}

/// Attaches a filter that accepts only records of these types, and replaces an earlier one (classic
/// BPF over the `nlmsghdr`).
pub(super) fn attach_filter(socket: BorrowedFd<'_>, types: &[Types]) -> io::Result<()> {
    socket_filter::attach(socket, filter(types))
}

#[expect(clippy::cast_possible_truncation, reason = "there are a few types")]
fn filter(types: &[Types]) -> Vec<libc::sock_filter> {
    let load = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let jump = libc::BPF_JMP | libc::BPF_K;
    let end = libc::BPF_RET | libc::BPF_K;
    // BPF loads 16-bit words in network order, but `nlmsg_type` at 4 is in native order.
    let (low, high) = if cfg!(target_endian = "little") { (4, 5) } else { (5, 4) };
    let mut program = vec![
        step(load, 0, 0, high),
        step(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 0, 0, 8),
        step(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        step(load, 0, 0, low),
        step(libc::BPF_ALU | libc::BPF_OR | libc::BPF_X, 0, 0, 0),
    ];
    for (left, types) in (0..types.len()).rev().zip(types) {
        // Jumps to the last instruction, over those for the remaining types and over the refusal.
        let taken = 2 * left as u8 + 1;
        program.push(step(jump | libc::BPF_JGE, 0, 1, (*types.start()).into()));
        program.push(step(jump | libc::BPF_JGT, 0, taken, (*types.end()).into()));
    }
    program.push(step(end, 0, 0, 0));
    program.push(step(end, 0, 0, u32::MAX));
    program
}
