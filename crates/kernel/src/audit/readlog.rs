//! The kernel's multicast of logged records, as the proof that a record was logged.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;

use rustix::io::Errno;

use super::LogTime;
use super::group;
use super::socket::{MAX_DATAGRAM_BYTES, receive};

/// The record types that are received: libvirt's range (`AUDIT_FIRST_VIRT_MSG` …
/// `AUDIT_LAST_VIRT_MSG`, libaudit.h).
const RECEIVED_TYPES: std::ops::RangeInclusive<u16> = 2500..=2599;
/// `PROC_PID_INIT_INO` (linux/proc_ns.h): the initial pid namespace's inode.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// A socket that receives the virtualisation records which the kernel logs.
#[derive(Debug)]
pub struct ReadLog {
    socket: OwnedFd,
    /// Whether a record that is not received was not logged: because of the namespace, or because a
    /// record was received before.
    reliable: bool,
    /// Whether the kernel dropped datagrams since the last [`drain`](Self::drain).
    overrun: bool,
    /// This process's pid in records; `None` inside a pid namespace, where it is unknown.
    pid: Option<u32>,
    buffer: Box<[u8]>,
}

impl ReadLog {
    /// Joins the multicast group, in the initial network namespace if that can be entered, else
    /// here.
    ///
    /// # Errors
    ///
    /// EPERM without CAP_AUDIT_READ.
    pub fn open() -> Result<Self, Errno> {
        let (socket, reliable) = group::join(&[RECEIVED_TYPES])?;
        Ok(Self::with_socket(socket, reliable))
    }

    /// Receives on a socket that is a member of `AUDIT_NLGRP_READLOG` already. `reliable` is
    /// whether it was opened in the initial network namespace.
    pub fn with_socket(socket: OwnedFd, reliable: bool) -> Self {
        let initial = std::fs::metadata("/proc/self/ns/pid")
            .is_ok_and(|namespace| namespace.ino() == INITIAL_PID_NAMESPACE);
        Self {
            socket,
            reliable,
            overrun: false,
            pid: initial.then(std::process::id),
            buffer: vec![0; MAX_DATAGRAM_BYTES].into_boxed_slice(),
        }
    }

    /// Whether a record that is not received was not logged. False once datagrams were dropped;
    /// otherwise true in the initial network namespace.
    pub(super) fn is_reliable(&self) -> bool {
        self.reliable && !self.overrun
    }

    /// Whether it has never received anything, and may be in a namespace where it can't.
    pub(super) fn may_receive_nothing(&self) -> bool {
        !self.reliable
    }

    /// Whether records of this type are received.
    pub(super) fn receives(kind: u16) -> bool {
        RECEIVED_TYPES.contains(&kind)
    }

    /// Discards all waiting records.
    pub(super) fn drain(&mut self) -> Result<(), Errno> {
        self.read_own(|_| ())?;
        self.overrun = false;
        Ok(())
    }

    /// Calls `see` for each waiting record of this process; never blocks.
    pub(super) fn read_own(&mut self, mut see: impl FnMut(BroadcastRecord<'_>)) -> Result<(), Errno> {
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
            if let Some(record) = BroadcastRecord::parse(reply.kind, reply.payload)
                && self.pid.is_none_or(|pid| pid == record.pid)
            {
                see(record);
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
pub(super) struct BroadcastRecord<'b> {
    pub(super) kind: u16,
    pub(super) time: LogTime,
    pub(super) serial: u32,
    pid: u32,
    pub(super) text: &'b [u8],
}

impl<'b> BroadcastRecord<'b> {
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
            BroadcastRecord::parse(2501, payload),
            Some(BroadcastRecord {
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
            assert_eq!(BroadcastRecord::parse(2501, payload.as_bytes()), None, "{payload}");
        }
    }
}
