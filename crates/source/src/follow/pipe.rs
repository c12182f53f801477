//! Lines from a file descriptor, e.g. those that auditd writes to its plugins' standard input.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use taptrail_trail::GapReason;

use super::checkpoint::Checkpoint;
use super::line_reader::LineReader;
use super::{LineDefaults, PollBatch, Source};
use crate::SourceError;

/// Bytes per read, and per poll.
const READ_BYTES: usize = 64 * 1024;
const MAX_BYTES_PER_POLL: u64 = 512 * 1024;

/// A file descriptor with a log's lines, which can't be read again.
pub struct PipeSource<F> {
    fd: F,
    name: Arc<str>,
    lines: LineReader,
    buffer: Vec<u8>,
    ended: bool,
}

impl<F: AsFd> PipeSource<F> {
    /// Continues after `checkpoint`.
    ///
    /// `caught_up`: another source, whose checkpoint this is, has reported everything up to the
    /// first line.
    pub fn new(
        fd: F,
        defaults: LineDefaults,
        name: Arc<str>,
        checkpoint: Option<&Checkpoint>,
        caught_up: bool,
    ) -> Self {
        let mut lines = LineReader::new(defaults, Arc::clone(&name), checkpoint, true);
        if checkpoint.is_some() {
            lines.skip_known();
            if !caught_up {
                lines.note_loss(GapReason::NotListening);
            }
        }
        Self { fd, name, lines, buffer: vec![0; READ_BYTES], ended: false }
    }

    /// Whether a read would return data, or the end, without blocking.
    fn is_readable(&self) -> Result<bool, Errno> {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&Timespec::default())) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

impl<F: AsFd> Source for PipeSource<F> {
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.ended).then(|| self.fd.as_fd())
    }

    fn poll_interval(&self) -> Option<Duration> {
        None
    }

    fn poll(&mut self, batch: &mut PollBatch) -> Result<(), SourceError> {
        let failed = |errno: Errno| SourceError::Read {
            name: self.name.to_string(),
            at: 0,
            source: io::Error::from(errno),
        };
        batch.more = false;
        let before = batch.bytes;
        while !self.ended && self.is_readable().map_err(failed)? {
            match rustix::io::read(&self.fd, &mut self.buffer) {
                Ok(0) => {
                    self.lines.finish(batch);
                    self.ended = true;
                }
                Ok(read) => self.lines.push(&self.buffer[..read], batch),
                Err(Errno::INTR | Errno::AGAIN) => break,
                Err(errno) => return Err(failed(errno)),
            }
            if batch.bytes - before >= MAX_BYTES_PER_POLL {
                batch.more = true;
                break;
            }
        }
        batch.ended = self.ended;
        Ok(())
    }

    fn checkpoint(&self) -> Checkpoint {
        self.lines.checkpoint()
    }

    fn backlog_bytes(&self) -> u64 {
        // The size of a pipe's backlog is not known.
        0
    }
}
