//! Lines over a stream socket, with limits of size and time.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};

use crate::error::QmpError;

/// The longest line accepted from a peer, in bytes. QEMU's longest reply to this crate's commands
/// has a few KiB.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// The largest number of bytes read from the socket at once.
const READ_CHUNK_BYTES: usize = 64 << 10;

/// The result of [`Wire::fill`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    Some,
    Nothing,
}

/// The result of [`Wire::wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Whether the stream is readable or closed.
    pub(crate) stream: bool,
    /// The index of the first other descriptor that is readable or closed.
    pub(crate) other: Option<usize>,
}

/// Why [`Wire::send`] failed.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The peer accepted nothing in time: the stream can still be used.
    NothingSent,
    /// The peer accepted only a part in time: the stream can't be used any more.
    CutShort,
    Failed(QmpError),
}

#[derive(Debug)]
pub(crate) struct Wire {
    stream: UnixStream,
    /// Bytes read; those before `start` are parsed, those from there to `scanned` have no newline.
    inbox: Vec<u8>,
    start: usize,
    scanned: usize,
}

impl Wire {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, inbox: Vec::new(), start: 0, scanned: 0 }
    }

    /// The next complete line that was read, without its newline; empty lines are skipped.
    pub(crate) fn line(&mut self) -> Result<Option<&[u8]>, QmpError> {
        loop {
            let unseen = self.inbox.get(self.scanned..).unwrap_or_default();
            let end = unseen.iter().position(|&byte| byte == b'\n').map(|at| self.scanned + at);
            if end.unwrap_or(self.inbox.len()) - self.start > MAX_LINE_BYTES {
                return Err(QmpError::Oversized { limit: MAX_LINE_BYTES });
            }
            let Some(end) = end else {
                self.scanned = self.inbox.len();
                return Ok(None);
            };
            let line_range = self.start..end;
            self.start = end + 1;
            self.scanned = self.start;
            if self.inbox[line_range.clone()].iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Ok(Some(&self.inbox[line_range]));
            }
        }
    }

    /// Reads once, without blocking. Descriptors that a peer passes are not received: `recv` has no
    /// buffer for them, so the kernel closes them.
    pub(crate) fn fill(&mut self) -> Result<Filled, QmpError> {
        self.inbox.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        let mut chunk = [0; READ_CHUNK_BYTES];
        loop {
            return match recv(&self.stream, &mut chunk, RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => Err(QmpError::Closed),
                Ok((_, count)) => {
                    self.inbox.extend_from_slice(&chunk[..count]);
                    Ok(Filled::Some)
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(Filled::Nothing),
                Err(error) => Err(QmpError::Io { doing: "read from", source: error.into() }),
            };
        }
    }

    /// Waits until the stream or one of `others` is readable, or until the deadline.
    pub(crate) fn wait(&self, deadline: Instant, others: &[BorrowedFd<'_>]) -> Result<Ready, QmpError> {
        let mut watched = Vec::with_capacity(1 + others.len());
        watched.push(PollFd::new(&self.stream, PollFlags::IN));
        watched.extend(others.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        poll_until(&mut watched, deadline)?;
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (stream, others) = watched.split_at(1);
        Ok(Ready { stream: stream.iter().any(ready), other: others.iter().position(ready) })
    }

    /// Sends a complete line, and with its first byte the descriptor.
    pub(crate) fn send(
        &mut self,
        line: &[u8],
        mut descriptor: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<(), SendError> {
        let mut left = line;
        while !left.is_empty() {
            match send_once(&self.stream, left, descriptor) {
                Ok(count) => {
                    left = left.get(count..).unwrap_or_default();
                    descriptor = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut watched = [PollFd::new(&self.stream, PollFlags::OUT)];
                    if !poll_until(&mut watched, deadline).map_err(SendError::Failed)? {
                        let nothing_sent = left.len() == line.len();
                        return Err(if nothing_sent { SendError::NothingSent } else { SendError::CutShort });
                    }
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(SendError::Failed(QmpError::Closed)),
                Err(error) => {
                    return Err(SendError::Failed(QmpError::Io { doing: "write to", source: error.into() }));
                }
            }
        }
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

// The only function that sends a descriptor: `getfd` passes it one, and accepts only an audited
// one.
#[allow(clippy::disallowed_methods)]
fn send_once(stream: &UnixStream, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::NOBUFS);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, flags)
}

/// Polls until a descriptor is ready, or until the deadline (false). Polls once if the deadline has
/// passed.
fn poll_until(watched: &mut [PollFd<'_>], deadline: Instant) -> Result<bool, QmpError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A deadline too far for the kernel's clock is no deadline.
        let left = Timespec::try_from(left).ok();
        match poll(watched, left.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(QmpError::Io { doing: "wait for", source: io::Error::from(error) }),
        }
    }
}
