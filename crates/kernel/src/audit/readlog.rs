//! The kernel's own broadcast of what it logged: the proof that a record got there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;

use rustix::io::Errno;

use super::LogTime;
use super::group;
use super::socket::{DATAGRAM, receive};

/// The types let through: libvirt's range (`AUDIT_FIRST_VIRT_MSG` … `AUDIT_LAST_VIRT_MSG`, libaudit.h).
const HEARD: std::ops::RangeInclusive<u16> = 2500..=2599;
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
        let (socket, reliable) = group::join(&[HEARD])?;
        Ok(Self::with_socket(socket, reliable))
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
