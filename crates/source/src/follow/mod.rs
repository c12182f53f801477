//! A log as it grows: what is written to it told once, in order, however it is rotated and whoever is
//! restarted meanwhile.
//!
//! Nothing here waits, and nothing has a thread: a [`Source`] says what to wait for
//! ([`awaited`](Source::awaited)), and each [`look`](Source::look) takes what is there, up to a bound.
//! What was told is named by a [`checkpoint`](Source::checkpoint), a short text; who opens a source with
//! the last one that was kept hears what followed, and nothing twice.
//!
//! ```text
//!             Follower            Piped              Messages
//!             a log's files       standard input     the kernel's broadcast
//!                 │ bytes              │ bytes            │ records
//!                 └──────────────▶  Lines  ◀──────────────┘
//!                     whole lines ──▶ scan, shape ──▶ Told { entries, … }
//!                     their numbers ─▶ Serials: what is missing
//! ```
//!
//! What can't be had any more is told in its place, as a [`Gap`](taptrail_trail::Gap).

mod checkpoint;
mod file;
mod lines;
mod messages;
mod piped;
mod place;
mod rotations;
mod serials;
#[cfg(test)]
mod tests;
mod wake;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use taptrail_trail::{Entry, Unreadable};

use crate::SourceError;

pub use self::checkpoint::{Checkpoint, NoCheckpoint};
pub use self::file::Follower;
pub use self::messages::Messages;
pub use self::piped::Piped;

/// A log that is followed.
pub trait Source {
    /// What is readable when there may be something to tell, if anything shows that.
    fn awaited(&self) -> Option<BorrowedFd<'_>>;

    /// After which time to look even though nothing is readable: where nothing shows that there is
    /// something to tell.
    fn look_within(&self) -> Option<Duration>;

    /// Takes what is there, up to a bound, and adds it to `told`. Never waits.
    ///
    /// # Errors
    ///
    /// The log can't be read now. Another look may work.
    fn look(&mut self, told: &mut Told) -> Result<(), SourceError>;

    /// Where the next look goes on.
    fn checkpoint(&self) -> Checkpoint;

    /// How much is there that was not looked at yet, in bytes, as far as is known.
    fn behind(&self) -> u64;
}

/// What looks have told.
#[derive(Debug, Default)]
pub struct Told {
    /// Entries in the order of their lines.
    pub entries: Vec<Entry>,
    /// How many lines were read.
    pub lines: u64,
    /// How many bytes they had.
    pub bytes: u64,
    /// How many of them should have been records and can't be believed.
    pub unreadable: u64,
    /// The first of those.
    pub located: Vec<Unreadable>,
    /// Whether there is more to read at once.
    pub more: bool,
    /// Whether nothing will follow: standard input has ended.
    pub ended: bool,
}

impl Told {
    /// How many lines are kept in `located`.
    pub const KEPT: usize = 20;
}

/// Whose log is followed, and how its times are read.
#[derive(Debug, Clone)]
pub struct About {
    /// The host of lines that name none.
    pub host: Arc<str>,
    /// The zone of times that name none.
    pub zone: TimeZone,
}

/// Where to begin when no checkpoint says where the last look was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Begin {
    /// With the oldest rotation that is there: so that guests are known that run already.
    #[default]
    Rotations,
    /// With the log as it is now, without its rotations.
    Log,
    /// With what is written from now on.
    End,
}
