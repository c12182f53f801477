//! The way into the kernel's broadcast of what it logs.
//!
//! Multicast group `AUDIT_NLGRP_READLOG` gets each record as it leaves the backlog queue, but only
//! in the **initial network namespace** (kernel/audit.c, `kauditd_send_multicast_skb()`); a socket
//! opened elsewhere joins and hears nothing. A socket keeps the namespace it was opened in, so one
//! is opened there by a thread that goes there for it.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::socket::open_socket;

/// `AUDIT_NLGRP_READLOG` (linux/audit.h) as a bit mask.
const READLOG: u32 = 1 << 0;
/// `PF_KTHREAD` (linux/sched.h), in field 9 of `/proc/PID/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// Types of records, both ends within.
pub(super) type Types = RangeInclusive<u16>;

/// A member of the group that gets records of these types, in the initial network namespace where that
/// can be reached (`true`), else here.
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

/// A member of the group in this thread's network namespace.
fn join_here(types: &[Types]) -> Result<OwnedFd, Errno> {
    open_socket(READLOG, |socket| {
        // Without the filter a busy host would only wake us more and fill the buffer sooner.
        if let Err(error) = attach_filter(socket, types) {
            tracing::debug!(%error, "the audit broadcast can't be filtered by type");
        }
    })
}

/// A member of the group in `namespace`: a thread of its own goes there and ends.
fn join_in(namespace: &File, types: &[Types]) -> Result<OwnedFd, Errno> {
    thread::scope(|scope| {
        let joining = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            join_here(types)
        });
        joining.join().unwrap_or(Err(Errno::IO))
    })
}

/// The initial network namespace, by way of kthreadd, which never leaves it. Process 2 is kthreadd
/// only in the initial pid namespace: `PF_KTHREAD` can't be feigned, as a name can.
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
    // Of the thread, not the process: each thread may be in another.
    match (namespace.metadata(), std::fs::metadata("/proc/thread-self/ns/net")) {
        (Ok(theirs), Ok(ours)) => theirs.ino() == ours.ino() && theirs.dev() == ours.dev(),
        _ => false,
    }
}

/// Lets only records of these types through, in the place of those that were let through before (classic BPF over the `nlmsghdr`).
pub(super) fn attach_filter(socket: BorrowedFd<'_>, types: &[Types]) -> io::Result<()> {
    let mut program = filter(types);
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&program)).map_err(io::Error::other)?;
    // SAFETY: `program` points to live instructions, as many as it says, and the kernel copies
    // them before the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(clippy::cast_possible_truncation, reason = "BPF codes are of 16 bits, and there are a few types")]
fn filter(types: &[Types]) -> Vec<libc::sock_filter> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let jump = libc::BPF_JMP | libc::BPF_K;
    let end = libc::BPF_RET | libc::BPF_K;
    // BPF loads bytes, and halves in network order; `nlmsg_type` stands in native order at 4.
    let (low, high) = if cfg!(target_endian = "little") { (4, 5) } else { (5, 4) };
    let mut program = vec![
        op(load, 0, 0, high),
        op(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 0, 0, 8),
        op(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        op(load, 0, 0, low),
        op(libc::BPF_ALU | libc::BPF_OR | libc::BPF_X, 0, 0, 0),
    ];
    for (left, types) in (0..types.len()).rev().zip(types) {
        // To the last instruction, over those for the types that are left and over the refusal.
        let taken = 2 * left as u8 + 1;
        program.push(op(jump | libc::BPF_JGE, 0, 1, (*types.start()).into()));
        program.push(op(jump | libc::BPF_JGT, 0, taken, (*types.end()).into()));
    }
    program.push(op(end, 0, 0, 0));
    program.push(op(end, 0, 0, u32::MAX));
    program
}
