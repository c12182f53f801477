//! Lines from a descriptor: what auditd gives its plugins on their standard input.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use taptrail_trail::GapReason;

use super::checkpoint::Checkpoint;
use super::lines::Lines;
use super::{About, Source, Told};
use crate::SourceError;

/// How much is read at once, and how much by one look.
const READ: usize = 64 * 1024;
const PIECE: u64 = 512 * 1024;

/// A descriptor that gives a log's lines, and can't give them again.
pub struct Piped<F> {
    fd: F,
    name: Arc<str>,
    lines: Lines,
    buffer: Vec<u8>,
    ended: bool,
}

impl<F: AsFd> Piped<F> {
    /// Goes on behind `checkpoint`, with what is after it.
    ///
    /// `caught_up`: everything up to the first line was told by another source, whose checkpoint it is.
    pub fn new(
        fd: F,
        about: About,
        name: Arc<str>,
        checkpoint: Option<&Checkpoint>,
        caught_up: bool,
    ) -> Self {
        let mut lines = Lines::new(about, Arc::clone(&name), checkpoint, true);
        if checkpoint.is_some() {
            lines.skip_told();
            if !caught_up {
                lines.lost(GapReason::NotListening);
            }
        }
        Self { fd, name, lines, buffer: vec![0; READ], ended: false }
    }

    /// Whether a read would give something, or the end, at once.
    fn is_readable(&self) -> Result<bool, Errno> {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&Timespec::default())) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

impl<F: AsFd> Source for Piped<F> {
    fn awaited(&self) -> Option<BorrowedFd<'_>> {
        (!self.ended).then(|| self.fd.as_fd())
    }

    fn look_within(&self) -> Option<Duration> {
        None
    }

    fn look(&mut self, told: &mut Told) -> Result<(), SourceError> {
        let failed = |errno: Errno| SourceError::Read {
            name: self.name.to_string(),
            at: 0,
            source: io::Error::from(errno),
        };
        told.more = false;
        let before = told.bytes;
        while !self.ended && self.is_readable().map_err(failed)? {
            match rustix::io::read(&self.fd, &mut self.buffer) {
                Ok(0) => {
                    self.lines.finish(told);
                    self.ended = true;
                }
                Ok(read) => self.lines.push(&self.buffer[..read], told),
                Err(Errno::INTR | Errno::AGAIN) => break,
                Err(errno) => return Err(failed(errno)),
            }
            if told.bytes - before >= PIECE {
                told.more = true;
                break;
            }
        }
        told.ended = self.ended;
        Ok(())
    }

    fn checkpoint(&self) -> Checkpoint {
        self.lines.checkpoint()
    }

    fn behind(&self) -> u64 {
        // What a pipe holds is in memory alone.
        0
    }
}
