//! Follows a log as it grows: each line is reported once and in order, across rotations and
//! restarts.
//!
//! Nothing here blocks or has a thread. A [`Source`] has a descriptor to poll
//! ([`poll_fd`](Source::poll_fd)), and each [`poll`](Source::poll) reads what is available, up to a
//! limit. A [`checkpoint`](Source::checkpoint), a short text, names the last line reported. A
//! source that is opened with the last saved checkpoint continues with the next line.
//!
//! ```text
//!             Follower            PipeSource         BroadcastSource
//!             a log's files       standard input     the kernel's broadcast
//!                 │ bytes              │ bytes            │ records
//!                 └────────────▶ LineReader ◀─────────────┘
//!                     complete lines ─▶ scan, shape ─▶ PollBatch { entries, … }
//!                     their serial numbers ─▶ SerialTracker: gaps
//! ```
//!
//! What can't be read any more is reported in its place, as a [`Gap`](taptrail_trail::Gap).

mod broadcast;
mod checkpoint;
mod file;
mod line_reader;
mod notifier;
mod pipe;
mod resume;
mod rotations;
mod serials;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use taptrail_trail::{Entry, Unreadable};

use crate::SourceError;

pub use self::broadcast::BroadcastSource;
pub use self::checkpoint::{Checkpoint, InvalidCheckpoint};
pub use self::file::Follower;
pub use self::pipe::PipeSource;

/// A log that is followed.
pub trait Source {
    /// A descriptor that is readable when there may be new lines, if the source has one.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// How long to wait before a poll even if [`poll_fd`](Self::poll_fd) is not readable: changes
    /// may go unnoticed.
    fn poll_interval(&self) -> Option<Duration>;

    /// Reads what is available, up to a limit, and adds it to `batch`. Never blocks.
    ///
    /// # Errors
    ///
    /// The log can't be read now. A later poll may succeed.
    fn poll(&mut self, batch: &mut PollBatch) -> Result<(), SourceError>;

    /// The checkpoint from which the next poll continues.
    fn checkpoint(&self) -> Checkpoint;

    /// Bytes available and not read yet, as far as known.
    fn backlog_bytes(&self) -> u64;
}

/// What polls have read.
#[derive(Debug, Default)]
pub struct PollBatch {
    /// Entries in the order of their lines.
    pub entries: Vec<Entry>,
    /// Lines read.
    pub lines: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Lines that should be records and can't be parsed.
    pub unreadable: u64,
    /// The first of them.
    pub located: Vec<Unreadable>,
    /// Whether more can be read at once.
    pub more: bool,
    /// Whether the source has ended: standard input is closed.
    pub ended: bool,
}

impl PollBatch {
    /// Maximum length of `located`.
    pub const MAX_LOCATED: usize = 20;
}

/// Host and time zone of lines that name none.
#[derive(Debug, Clone)]
pub struct LineDefaults {
    /// The host of lines that name none.
    pub host: Arc<str>,
    /// The zone of times that name none.
    pub zone: TimeZone,
}

/// Where to begin without a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartPosition {
    /// At the oldest rotation, so that guests that already run are known.
    #[default]
    Rotations,
    /// At the first line of the current log, without its rotations.
    Log,
    /// At the end: only lines written from now on.
    End,
}
