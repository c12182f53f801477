//! What reading came to, beside what it told.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use taptrail_trail::Unreadable;

use crate::{FileIdentity, SourceError};

/// What reading came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How much was read.
    pub input: taptrail_trail::Input,
    /// The first lines that should have been records and can't be believed, of all that
    /// `input.unreadable` counts.
    pub unreadable: Vec<Unreadable>,
    /// What the reader of the answer should know.
    pub notes: Vec<Note>,
    /// Which file each name was: a rotation may have given it to another since.
    pub identities: HashMap<Arc<str>, FileIdentity>,
    /// The inputs that could not be read, or not to their end.
    pub failed: Vec<SourceError>,
    /// Why there is no answer: whose records these are can't be told.
    pub refused: Option<SourceError>,
}

impl Outcome {
    /// How many lines are kept in `unreadable`.
    pub const KEPT: usize = 20;
}

/// What to know of how an input was read. Each is told once for each input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The input.
    pub source: Arc<str>,
    /// What.
    pub about: About,
}

/// What a [`Note`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Its times have no year.
    YearInferred,
    /// Its dates may have the month or the day first.
    DateGuessed,
    /// Its lines are not in order.
    BackInTime {
        /// The first line that goes back.
        line: u64,
    },
    /// Its lines name no host, and those of other inputs do.
    HostUnknown,
    /// It has lines, and none tells of a guest.
    Nothing,
    /// It has records without the kernel's serial numbers, or not all numbers: a lost record does not show.
    Unnumbered,
    /// It is taken for a host of its own, and its serial numbers go on in another directory's log.
    GoesOn,
    /// It has records of guests alone, and lacks serial numbers.
    Selected,
    /// It has lines that only say who wrote them: any local user can write such.
    Claimed,
    /// It has lines that look like records, and are in no shape that is read.
    Unread {
        /// How many.
        lines: u64,
        /// The first of them.
        first: u64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.source;
        match self.about {
            About::YearInferred => {
                write!(f, "{source}: its times name no year: the latest that fits is taken")
            }
            About::DateGuessed => write!(
                f,
                "{source}: its dates don't show whether month or day comes first: the month is taken"
            ),
            About::BackInTime { line } => write!(
                f,
                "{source}:{line}: goes back in time by more than a minute: its lines are put in order by their times"
            ),
            About::HostUnknown => write!(
                f,
                "{source}: its lines name no host as others do: --assume-host NAME=PATH says whose they are, and records in both are then read once"
            ),
            About::Unnumbered => write!(
                f,
                "{source}: it does not have all the kernel's serial numbers, so a record that it lost, or has in the wrong order, does not show"
            ),
            About::Claimed => write!(
                f,
                "{source}: not authenticated: it is a log's text, and any local user can write lines like the kernel's or \
                 auditd's there (logger -t kernel)"
            ),
            About::GoesOn => write!(
                f,
                "{source}: its serial numbers go on in the log of another directory, which is taken for another host's: if \
                 both are of one, --assume-host NAME=PATH for both, or --assume-host NAME, says so"
            ),
            About::Selected => write!(
                f,
                "{source}: it has guests' records alone, and serial numbers are missing: if they were selected by their \
                 type (ausearch -m, grep VIRT_), --extract says so"
            ),
            About::Unread { lines, first } => write!(
                f,
                "{source}: {lines} line{} like records, in a shape that is not read; the first is line {first}",
                if lines == 1 { " looks" } else { "s look" },
            ),
            About::Nothing => write!(f, "{source}: no line in it is about a guest"),
        }
    }
}
