//! The kernel's own broadcast of what it logged: the proof that a record got there.
//!
//! Multicast group `AUDIT_NLGRP_READLOG` gets each record as it leaves the backlog queue, but only
//! in the **initial network namespace** (kernel/audit.c, `kauditd_send_multicast_skb()`); a socket
//! opened elsewhere joins and hears nothing. A socket keeps the namespace it was opened in, so one
//! is opened there by a thread that goes there for it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::thread;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::LogTime;
use super::socket::{DATAGRAM, open_socket, receive};

/// `AUDIT_NLGRP_READLOG` (linux/audit.h) as a bit mask.
const READLOG: u32 = 1 << 0;
/// The types let through: libvirt's range (`AUDIT_FIRST_VIRT_MSG` … `AUDIT_LAST_VIRT_MSG`, libaudit.h).
const HEARD: std::ops::RangeInclusive<u16> = 2500..=2599;
/// `PF_KTHREAD` (linux/sched.h), in field 9 of `/proc/PID/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;
/// `PROC_PID_INIT_INO` (linux/proc_ns.h): the initial pid namespace's inode.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// A socket that hears the virtualisation records which the kernel logs.
#[derive(Debug)]
pub struct ReadLog {
    socket: OwnedFd,
    /// What is not heard was not logged: known by the namespace, or by having heard something.
    reliable: bool,
    /// The kernel dropped datagrams since the last [`drain`](Self::drain).
    overrun: bool,
    /// Our pid as records show it; `None` inside a pid namespace, where it isn't known.
    pid: Option<u32>,
    buffer: Box<[u8]>,
}

impl ReadLog {
    /// Joins the broadcast, in the initial network namespace where that can be reached, else here.
    ///
    /// # Errors
    /// EPERM without CAP_AUDIT_READ.
    pub fn open() -> Result<Self, Errno> {
        let Some(initial) = initial_network_namespace() else {
            return Ok(Self::with_socket(join()?, false));
        };
        if is_own_namespace(&initial) {
            return Ok(Self::with_socket(join()?, true));
        }
        match join_in(&initial) {
            Ok(socket) => Ok(Self::with_socket(socket, true)),
            Err(error) => {
                tracing::debug!(%error, "the initial network namespace can't be entered");
                Ok(Self::with_socket(join()?, false))
            }
        }
    }

    /// Hears on a socket that is a member of `AUDIT_NLGRP_READLOG` already. `reliable` says that
    /// it was opened in the initial network namespace.
    pub fn with_socket(socket: OwnedFd, reliable: bool) -> Self {
        let initial = std::fs::metadata("/proc/self/ns/pid")
            .is_ok_and(|namespace| namespace.ino() == INITIAL_PID_NAMESPACE);
        Self {
            socket,
            reliable,
            overrun: false,
            pid: initial.then(std::process::id),
            buffer: vec![0; DATAGRAM].into_boxed_slice(),
        }
    }

    /// Whether a record that isn't heard is a record that wasn't logged. Never so once datagrams
    /// were dropped; always so in the initial network namespace.
    pub(super) fn is_reliable(&self) -> bool {
        self.reliable && !self.overrun
    }

    /// Never heard anything, and may be where nothing can be heard.
    pub(super) fn is_deaf(&self) -> bool {
        !self.reliable
    }

    /// Records of this type are let through at all.
    pub(super) fn hears(kind: u16) -> bool {
        HEARD.contains(&kind)
    }

    /// Throws away what was logged since the last look.
    pub(super) fn drain(&mut self) -> Result<(), Errno> {
        self.read_own(|_| ())?;
        self.overrun = false;
        Ok(())
    }

    /// Shows each record of this process that waits to be read; never blocks.
    pub(super) fn read_own(&mut self, mut see: impl FnMut(Heard<'_>)) -> Result<(), Errno> {
        loop {
            let reply = match receive(self.socket.as_fd(), &mut self.buffer) {
                Ok(Some(reply)) => reply,
                Ok(None) => return Ok(()),
                Err(Errno::NOBUFS) => {
                    self.overrun = true;
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            self.reliable = true;
            if let Some(heard) = Heard::parse(reply.kind, reply.payload)
                && self.pid.is_none_or(|pid| pid == heard.pid)
            {
                see(heard);
            }
        }
    }
}

impl AsFd for ReadLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A user-space record as the kernel logs it:
/// `audit(SECONDS.MILLIS:SERIAL): pid=… uid=… auid=… ses=… [subj=…] msg='TEXT'`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard<'b> {
    pub(super) kind: u16,
    pub(super) time: LogTime,
    pub(super) serial: u32,
    pid: u32,
    pub(super) text: &'b [u8],
}

impl<'b> Heard<'b> {
    fn parse(kind: u16, payload: &'b [u8]) -> Option<Self> {
        let end = payload.iter().rposition(|byte| !matches!(byte, 0 | b'\n'))?;
        let rest = payload[..=end].strip_prefix(b"audit(")?;
        let (seconds, rest) = split(rest, b".")?;
        let (millis, rest) = split(rest, b":")?;
        let (serial, rest) = split(rest, b"): pid=")?;
        let (pid, rest) = split(rest, b" ")?;
        let (_, text) = split(rest, b" msg='")?;
        Some(Self {
            kind,
            time: LogTime { seconds: number(seconds)?, millis: number(millis)? },
            serial: number(serial)?,
            pid: number(pid)?,
            text: text.strip_suffix(b"'")?,
        })
    }
}

fn split<'b>(bytes: &'b [u8], at: &[u8]) -> Option<(&'b [u8], &'b [u8])> {
    let start = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..start], &bytes[start + at.len()..]))
}

fn number<T: FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A member of the group in this thread's network namespace.
fn join() -> Result<OwnedFd, Errno> {
    open_socket(READLOG, |socket| {
        // Without the filter a busy host would only wake us more and fill the buffer sooner.
        if let Err(error) = attach_filter(socket) {
            tracing::debug!(%error, "the audit broadcast can't be filtered by type");
        }
    })
}

/// A member of the group in `namespace`: a thread of its own goes there and ends.
fn join_in(namespace: &File) -> Result<OwnedFd, Errno> {
    thread::scope(|scope| {
        let joining = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            join()
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
    if number::<u64>(flags)? & PF_KTHREAD == 0 {
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

/// Lets only records of [`HEARD`] types through (classic BPF over the `nlmsghdr`).
#[expect(clippy::cast_possible_truncation, reason = "BPF codes are of 16 bits, and the program is short")]
fn attach_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    // BPF loads bytes, and halves in network order; `nlmsg_type` stands in native order at 4.
    let (low, high) = if cfg!(target_endian = "little") { (4, 5) } else { (5, 4) };
    let [first_high, first_low] = HEARD.start().to_be_bytes().map(u32::from);
    let [last_high, last_low] = HEARD.end().to_be_bytes().map(u32::from);
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let at_least = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let above = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
    let end = libc::BPF_RET | libc::BPF_K;
    let mut program = [
        op(load, 0, 0, high),
        op(equal, 0, 2, first_high),
        op(load, 0, 0, low),
        op(at_least, 3, 4, first_low),
        op(equal, 0, 3, last_high),
        op(load, 0, 0, low),
        op(above, 1, 0, last_low),
        op(end, 0, 0, u32::MAX),
        op(end, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `program` points to live instructions, as many as it says, and the kernel copies
    // them before the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_record_gives_back_its_text_time_and_serial() {
        let payload = b"audit(1763930000.042:911): pid=4711 uid=0 auid=4294967295 ses=4294967295 \
            subj=unconfined msg='virt=kvm vm=\"it's\" msg='' res=success'";
        assert_eq!(
            Heard::parse(2501, payload),
            Some(Heard {
                kind: 2501,
                time: LogTime { seconds: 1_763_930_000, millis: 42 },
                serial: 911,
                pid: 4711,
                text: b"virt=kvm vm=\"it's\" msg='' res=success",
            })
        );
    }

    #[test]
    fn what_is_no_user_record_is_not_read() {
        for payload in ["", "'", "audit(1.2:3): op=connect res=1", "audit(1.2:3): pid=x uid=0 msg='a'"] {
            assert_eq!(Heard::parse(2501, payload.as_bytes()), None, "{payload}");
        }
    }
}
