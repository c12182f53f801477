//! The few lines of a piece that tell something, read.

use aho_corasick::packed::Searcher;
use bstr::ByteSlice as _;
use memchr::{memchr_iter, memmem};
use taptrail_trail::Content;

use crate::feed::{MAX_LINE, Piece};
use crate::found::{Found, When};
use crate::kernel;
use crate::runs::{Run, Runs};
use crate::shape::{self, Unreadable};

/// What one piece tells.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// What was found, each with its line in the piece, from 0.
    pub(crate) found: Vec<(u64, Found)>,
    /// Lines that should have been records and can't be believed, likewise.
    pub(crate) unreadable: Vec<(u64, Unreadable)>,
    /// The kernel's numbers in the lines of an audit log.
    pub(crate) runs: Vec<Run>,
    /// Whether an audit log has lines of another kind than `VIRT_…`.
    pub(crate) others: bool,
    /// How many lines look as if they held a guest's record, but have a form that is not known or a writer
    /// that is not believed.
    pub(crate) unread: u64,
    /// The first of them, likewise.
    pub(crate) first_unread: Option<u64>,
    /// The lines of both kinds, likewise; of many, the first ones and the last.
    pub(crate) doubtful: Vec<u64>,
    /// How many lines begin in the piece.
    pub(crate) lines: u64,
    /// How many lines come before those counted in `found`, where not all that were read.
    pub(crate) before: Option<u64>,
    /// How many bytes it stands for.
    pub(crate) bytes: u64,
}

/// How many lines that could not be read are told apart.
const MAX_DOUBTFUL: usize = 256;

impl Batch {
    /// Takes what a line told; an unknown one only where it looks like a record.
    pub(crate) fn push(&mut self, line: u64, told: Result<Option<Found>, Unreadable>) {
        if told.is_err() {
            self.doubtful.truncate(MAX_DOUBTFUL - 1);
            self.doubtful.push(line);
        }
        match told {
            Ok(Some(found)) => self.found.push((line, found)),
            Ok(None) => {}
            Err(Unreadable::Unknown) => {
                self.unread += 1;
                self.first_unread.get_or_insert(line);
            }
            Err(error) => self.unreadable.push((line, error)),
        }
    }
}

/// Finds the lines that tell something among the many that don't: one look at each.
///
/// An audit log has some hundred lines for each one of a guest's, so most of the time goes into this.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// What no line of another shape that tells something can lack.
    marks: Option<Searcher>,
    rdev: memmem::Finder<'static>,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        let marks = [
            // Names of record types, in text and journals; and libvirt's own log.
            "VIRT_",
            "virt=",
            "\"virt_",
            "resrc=net",
            "SYSTEM_BOOT",
            // The same as numbers.
            "type=25",
            "TYPE\":\"25",
            "TYPE\": \"25",
            "TYPE\" : \"25",
            "TYPE=25",
            "AUDIT25",
            "audit-25",
            "UNKNOWN[25",
            "=1127",
            "\"1127\"",
            "AUDIT1127",
            "audit-1127",
            "[1127",
            // libvirt's own log of its first years, which had no `virt=`.
            "success=yes",
            "success=no",
            "send audit",
            // A journal's JSON gives what is no UTF-8 byte by byte.
            "MESSAGE\":[",
            "MESSAGE\" : [",
            // The kernel's own records of an open(2).
            "rdev=0a:c8",
            "rdev=0a:ee",
            "name=\"/dev/tap",
            // What was not written.
            "callbacks supp",
            "audit_lost=",
            "audit_backlog=",
            "limit exceeded",
            "queue overflow",
            "memory in audit_",
            "audit_enabled=",
            "DAEMON_",
            "Audit daemon",
            "dropping event",
            "queue full",
            "event lost",
            "kernel messages",
            "messages from ",
            "to rate-limiting",
            "messages dropped",
            // Another boot.
            "Linux version ",
            "-- Boot ",
            "-- Reboot",
        ];
        Self { marks: Searcher::new(marks), rdev: memmem::Finder::new(b" rdev=") }
    }

    /// Reads all lines of a piece.
    pub(crate) fn scan(&self, piece: &Piece) -> Batch {
        let (bytes, begin) = piece.lines();
        Batch { bytes: piece.size, ..self.lines(bytes, begin) }
    }

    /// Reads all lines of `bytes` from `begin` on; what is before may be needed to understand them.
    pub(crate) fn lines(&self, bytes: &[u8], begin: usize) -> Batch {
        let mut batch = Batch::default();
        let mut runs = Runs::default();
        let mut start = begin;
        for newline in memchr_iter(b'\n', &bytes[begin..]) {
            let end = begin + newline;
            self.line(bytes, start, end, &mut runs, &mut batch);
            start = end + 1;
        }
        if start < bytes.len() {
            self.line(bytes, start, bytes.len(), &mut runs, &mut batch);
        }
        (batch.runs, batch.others) = runs.finish();
        batch
    }

    /// `bytes[start..end]` is a line; what is before it may be needed to understand it.
    fn line(&self, bytes: &[u8], start: usize, end: usize, runs: &mut Runs, batch: &mut Batch) {
        let number = batch.lines;
        batch.lines += 1;
        let line = &bytes[start..end];
        let told = match self.interest(line) {
            _ if line.len() >= MAX_LINE => Err(Unreadable::TooLong { max: MAX_LINE }),
            Interest::None => Ok(None),
            Interest::Record => shape::line(line),
            // A guest may be named so that its record looks like one.
            Interest::Path => {
                kernel::open(bytes, start, end).map_or_else(|| shape::line(line), |open| Ok(Some(open)))
            }
        };
        // The number of a record that can't be read is missing.
        let is_numbered = line.starts_with(b"type=") || line.starts_with(b"node=");
        let is_none = matches!(told, Err(Unreadable::Unknown)) && !shape::resembles_record(line);
        if is_numbered && (is_none || told.is_ok()) {
            runs.take(line, number);
        }
        match told {
            _ if is_none => {}
            Ok(Some(found)) if found.content == Content::Boot && found.when == When::Unknown => {
                let when = bytes.get(end + 1..).map_or(When::Unknown, time_after);
                batch.push(number, Ok(Some(Found { when, ..found })));
            }
            told => batch.push(number, told),
        }
    }

    fn interest(&self, line: &[u8]) -> Interest {
        let kind = match line {
            [b't', b'y', b'p', b'e', b'=', kind @ ..] => kind,
            [b'n', b'o', b'd', b'e', b'=', rest @ ..] => match rest.split_once_str(b" type=") {
                Some((_, kind)) => kind,
                None => return self.other(line),
            },
            _ => return self.other(line),
        };
        let begins = |name: &[u8]| kind.starts_with(name);
        match kind.first() {
            Some(b'V') if begins(b"VIRT_") => Interest::Record,
            Some(b'U') if begins(b"UNKNOWN[") => Interest::Record,
            Some(b'S') if begins(b"SYSTEM_BOOT ") => Interest::Record,
            Some(b'C') if begins(b"CONFIG_CHANGE ") => Interest::Record,
            Some(b'D') if begins(b"DAEMON_") => Interest::Record,
            Some(b'1') if begins(b"1302 ") => self.path_interest(kind),
            Some(b'1' | b'2') => Interest::Record,
            Some(b'P') if begins(b"PATH ") => self.path_interest(kind),
            Some(byte) if byte.is_ascii_uppercase() => Interest::None,
            // No type begins so.
            _ => self.other(line),
        }
    }

    /// A line of any shape but audit's own.
    fn other(&self, line: &[u8]) -> Interest {
        if self.marks.as_ref().is_some_and(|marks| marks.find(line).is_none()) {
            return Interest::None;
        }
        let path = [&b"type=PATH "[..], b"type=1302 "].iter().find_map(|kind| memmem::find(line, kind));
        match path.map(|at| self.path_interest(&line[at..])) {
            Some(Interest::Path) => Interest::Path,
            _ => Interest::Record,
        }
    }

    /// Whether a `PATH` record may be of a raw network device: by its number, or by the name that
    /// macvtaps have, whose number is another on each host.
    fn path_interest(&self, record: &[u8]) -> Interest {
        let Some(at) = self.rdev.find(record) else { return Interest::None };
        let number = &record[at + " rdev=".len()..];
        let fixed = number.starts_with(b"0a:c8") || number.starts_with(b"0a:ee");
        let device = !number.starts_with(b"00:00");
        if fixed || device && memmem::find(&record[..at], b"name=\"/dev/tap").is_some() {
            Interest::Path
        } else {
            Interest::None
        }
    }
}

/// The time of the first line that names one, before another boot begins.
fn time_after(bytes: &[u8]) -> When {
    // The kernel's log has many lines before its first record, which alone is dated. What was looked at for
    // one boot is not looked at for another, so that this never takes long.
    let bytes = &bytes[..bytes.len().min(MAX_LINE)];
    for line in bytes.split(|&byte| byte == b'\n') {
        if let Some(when) = shape::first_time(line) {
            return when;
        }
        if line.starts_with(b"-- ") || memmem::find(line, b"Linux version ").is_some() {
            break;
        }
    }
    When::Unknown
}

/// What a line is worth.
#[derive(Debug, PartialEq, Eq)]
enum Interest {
    /// Nothing.
    None,
    /// It may be a record, or hold one.
    Record,
    /// It may be the part of a kernel's open record that names the device.
    Path,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_are_looked_for_all_at_once() {
        assert!(Scanner::new().marks.is_some(), "too many for this processor: all lines would be read");
    }
}
