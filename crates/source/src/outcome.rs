//! The result of reading, apart from the entries.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use taptrail_trail::Unreadable;

use crate::{FileIdentity, SerialRange, SourceError};

/// The result of reading.
#[derive(Debug, Default)]
pub struct ReadOutcome {
    /// Counts of what was read, and the coverage.
    pub input: taptrail_trail::Input,
    /// The serial numbers of each host in each input that has them, in the order of `input.files` and
    /// their hosts.
    pub serials: Vec<SerialRange>,
    /// The first unreadable lines, of all that `input.unreadable` counts.
    pub unreadable: Vec<Unreadable>,
    /// Notes for the user about how inputs were read.
    pub notes: Vec<Note>,
    /// The identity of the file that each name had: a rotation may have renamed it.
    pub identities: HashMap<Arc<str>, FileIdentity>,
    /// Errors of inputs that could not be read, or not to their end.
    pub failed: Vec<SourceError>,
    /// Set if the result must not be used: the records can't be assigned to hosts.
    pub refused: Option<SourceError>,
}

impl ReadOutcome {
    /// Maximum length of `unreadable`.
    pub const MAX_UNREADABLE: usize = 20;
}

/// A note about how an input was read. There is at most one of a kind per input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The input.
    pub source: Arc<str>,
    /// The kind of note.
    pub kind: NoteKind,
}

/// The kind of a [`Note`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteKind {
    /// Its times have no year.
    YearInferred,
    /// Its dates may have the month or the day first.
    DateGuessed,
    /// Its lines are not in order of time.
    BackInTime {
        /// The first line that goes back in time.
        line: u64,
    },
    /// Its records of other resources are not read: its entries have several lines.
    ResourcesUnread,
    /// Its lines name no host, and those of other inputs do.
    HostUnknown,
    /// It has lines, and none is about a guest.
    NoGuestLines,
    /// It has records without serial numbers, or lacks some serial numbers: a lost record does not
    /// show.
    Unnumbered,
    /// It is taken for a host of its own, and its serial numbers continue in another directory's
    /// log.
    ContinuesElsewhere,
    /// It has only records of guests, and lacks serial numbers.
    GuestRecordsOnly,
    /// It has unauthenticated lines: any local user can write such lines.
    Unauthenticated,
    /// It has lines of a log, and is not read: a directory was searched, and its name is no log's.
    NotNamedAsLog,
    /// A directory beside others with logs, which has none.
    NoLogs,
    /// It is not read: what it has, the log beside it that it was compressed from has, too.
    PackedCopy,
    /// It has lines that look like records, in an unsupported shape.
    UnreadLines {
        /// The number of lines.
        lines: u64,
        /// The first of them.
        first: u64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.source;
        match self.kind {
            NoteKind::YearInferred => {
                write!(f, "{source}: its times name no year: the latest that fits is taken")
            }
            NoteKind::DateGuessed => write!(
                f,
                "{source}: its dates don't show whether month or day comes first: the month is taken"
            ),
            NoteKind::BackInTime { line } => write!(
                f,
                "{source}:{line}: goes back in time by more than a minute: its lines are put in order by their times"
            ),
            NoteKind::ResourcesUnread => write!(
                f,
                "{source}: its records of other resources than network devices are not read: give the journal as \
                 printed by 'journalctl -o json'"
            ),
            NoteKind::HostUnknown => write!(
                f,
                "{source}: its lines name no host as others do: --assume-host NAME=PATH says whose they are, and records in both are then read once"
            ),
            NoteKind::Unnumbered => write!(
                f,
                "{source}: it does not have all the kernel's serial numbers, so a record that it lost, or has in the wrong order, does not show"
            ),
            NoteKind::Unauthenticated => write!(
                f,
                "{source}: not authenticated: it is a log's text, and any local user can write lines like the kernel's or \
                 auditd's there (logger -t kernel)"
            ),
            NoteKind::ContinuesElsewhere => write!(
                f,
                "{source}: its serial numbers go on in the log of another directory, which is taken for another host's: if \
                 both are of one, --assume-host NAME=PATH for both, or --assume-host NAME, says so"
            ),
            NoteKind::GuestRecordsOnly => write!(
                f,
                "{source}: it has guests' records alone, and serial numbers are missing: if they were selected by their \
                 type (ausearch -m, grep VIRT_), --extract says so"
            ),
            NoteKind::UnreadLines { lines, first } => write!(
                f,
                "{source}: {lines} line{} like records, in a shape that is not read; the first is line {first}",
                if lines == 1 { " looks" } else { "s look" },
            ),
            NoteKind::NotNamedAsLog => write!(
                f,
                "{source}: not read, though it has lines of a log: in a directory, only files with a log's name are \
                 (NAME.log, syslog, messages). Name it as a FILE, too"
            ),
            NoteKind::NoLogs => write!(f, "{source}: no file in this directory has a log's name"),
            NoteKind::PackedCopy => write!(
                f,
                "{source}: not read: it is a compressed copy of {} beside it, whole or in part",
                Path::new(&**source).with_extension("").display()
            ),
            NoteKind::NoGuestLines => write!(f, "{source}: no line in it is about a guest"),
        }
    }
}
