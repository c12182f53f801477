//! `journalctl -o export`: a field is a line `NAME=value`, or, where the value may hold any bytes, a line
//! `NAME`, its length in eight bytes, the lowest first, the value and a newline. An empty line ends an
//! entry (systemd's JOURNAL_EXPORT_FORMATS).

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memchr_iter};

use super::Journal;
use super::field::{Field, Value};
use crate::found::Found;
use crate::shape::Unreadable;

/// The longest field that is kept. A record has 9 kB.
const MAX_FIELD: usize = 256 * 1024;

/// The longest name of a field (journald takes no longer one).
const MAX_NAME: usize = 64;

/// Reads the export format from pieces of any size. Of an entry no more is kept than the few fields that
/// tell something.
#[derive(Debug, Default)]
pub(crate) struct Export {
    state: State,
    /// What came of a line, or of a length, whose end has not come.
    held: Vec<u8>,
    /// The values of the entry's fields.
    kept: Vec<u8>,
    places: [Place; Field::COUNT],
    /// How many newlines have passed, in values too.
    lines: u64,
    /// The line of the entry's first field, from 1; 0 before it came.
    begin: u64,
}

#[derive(Debug, Default)]
enum State {
    /// In a line.
    #[default]
    Line,
    /// In a line too long, until its end.
    LongLine,
    /// In the length of a value.
    Length(Option<Field>),
    /// In a value, of which so much is to come, and which is kept from here on.
    Data { left: u64, keep: Option<(Field, usize)> },
    /// Where a value's newline is due.
    End,
    /// In something else, until an empty line.
    Lost,
}

#[derive(Debug, Clone, Default)]
enum Place {
    #[default]
    Absent,
    Kept(Range<usize>),
    TooLong,
    Several,
}

impl Export {
    /// Whether a stream that begins like this is in the export format.
    pub(crate) fn is_begun_by(head: &[u8]) -> bool {
        [&b"__CURSOR="[..], b"__REALTIME_TIMESTAMP=", b"__MONOTONIC_TIMESTAMP=", b"__SEQNUM"]
            .iter()
            .any(|name| head.starts_with(name))
    }

    /// How many lines have passed.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// Takes the next bytes, and tells `tell` of each entry that tells something, or should, with the line
    /// of its first field.
    pub(crate) fn push(&mut self, mut bytes: &[u8], tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Line => self.line(bytes, tell),
                State::LongLine => self.long_line(bytes),
                State::Length(field) => self.length(bytes, field),
                State::Data { left, keep } => self.data(bytes, left, keep),
                State::End => self.end(bytes, tell),
                State::Lost => self.lost(bytes),
            };
        }
    }

    /// The stream ends here: an entry that lacks its end is told as far as its fields came whole.
    pub(crate) fn finish(mut self, tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) {
        self.entry(tell);
    }

    fn line<'b>(
        &mut self,
        bytes: &'b [u8],
        tell: &mut dyn FnMut(u64, Result<Found, Unreadable>),
    ) -> &'b [u8] {
        let Some(end) = memchr(b'\n', bytes) else {
            self.held.extend_from_slice(bytes);
            if self.held.len() > MAX_FIELD + MAX_NAME {
                let name = &self.held[..memchr(b'=', &self.held).unwrap_or(0)];
                if let Some(field) = Field::named(name) {
                    self.put(field, Place::TooLong);
                }
                self.held.clear();
                self.state = State::LongLine;
            }
            return b"";
        };
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        self.lines += 1;
        if self.held.is_empty() {
            self.field(line, tell);
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(line);
            self.field(&held, tell);
            held.clear();
            self.held = held;
        }
        rest
    }

    /// A whole line.
    fn field(&mut self, line: &[u8], tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) {
        if line.is_empty() {
            return self.entry(tell);
        }
        // journalctl's own remarks.
        if line.starts_with(b"-- ") {
            return;
        }
        if self.begin == 0 {
            self.begin = self.lines;
        }
        match memchr(b'=', line) {
            Some(equals) => {
                let value = &line[equals + 1..];
                if let Some(field) = Field::named(&line[..equals]) {
                    let from = self.kept.len();
                    self.kept.extend_from_slice(value);
                    self.put(field, Place::Kept(from..from + value.len()));
                }
            }
            None if is_name(line) => self.state = State::Length(Field::named(line)),
            None => self.lose(tell),
        }
    }

    fn put(&mut self, field: Field, place: Place) {
        let before = &mut self.places[field as usize];
        let first = matches!(before, Place::Absent);
        if let (Place::Kept(range), false) = (&place, first) {
            // No entry grows by what is not looked at.
            self.kept.truncate(range.start);
        }
        *before = if first { place } else { Place::Several };
    }

    fn long_line<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some(end) = memchr(b'\n', bytes) else { return b"" };
        self.lines += 1;
        self.state = State::Line;
        &bytes[end + 1..]
    }

    fn length<'b>(&mut self, bytes: &'b [u8], field: Option<Field>) -> &'b [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(8 - self.held.len()));
        // For sed(1) and its like they are lines, too.
        self.lines += memchr_iter(b'\n', taken).count() as u64;
        self.held.extend_from_slice(taken);
        if let Ok(length) = <[u8; 8]>::try_from(self.held.as_slice()) {
            self.held.clear();
            let left = u64::from_le_bytes(length);
            let fits = usize::try_from(left).is_ok_and(|left| left <= MAX_FIELD);
            if let (Some(field), false) = (field, fits) {
                self.put(field, Place::TooLong);
            }
            let keep = field.filter(|_| fits).map(|field| (field, self.kept.len()));
            self.state = if left == 0 { self.whole(keep) } else { State::Data { left, keep } };
        }
        rest
    }

    fn data<'b>(&mut self, bytes: &'b [u8], left: u64, keep: Option<(Field, usize)>) -> &'b [u8] {
        let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (taken, rest) = bytes.split_at(here);
        self.lines += memchr_iter(b'\n', taken).count() as u64;
        if keep.is_some() {
            self.kept.extend_from_slice(taken);
        }
        let left = left - here as u64;
        self.state = if left == 0 { self.whole(keep) } else { State::Data { left, keep } };
        rest
    }

    /// A value has come whole.
    fn whole(&mut self, keep: Option<(Field, usize)>) -> State {
        if let Some((field, from)) = keep {
            self.put(field, Place::Kept(from..self.kept.len()));
        }
        State::End
    }

    fn end<'b>(&mut self, bytes: &'b [u8], tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) -> &'b [u8] {
        match bytes.strip_prefix(b"\n") {
            Some(rest) => {
                self.lines += 1;
                self.state = State::Line;
                rest
            }
            None => {
                self.lose(tell);
                bytes
            }
        }
    }

    /// What comes is not what is due: the next entry may be read again.
    fn lose(&mut self, tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) {
        tell(self.begin, Err(Unreadable::Broken));
        self.clear();
        self.state = State::Lost;
    }

    fn lost<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let end = memchr(b'\n', bytes);
        // Whether the line is empty is all that is to be known of it.
        let empty = self.held.is_empty() && end == Some(0);
        match end {
            Some(end) => {
                self.lines += 1;
                self.held.clear();
                if empty {
                    self.state = State::Line;
                }
                &bytes[end + 1..]
            }
            None => {
                self.held.clear();
                self.held.push(b'x');
                b""
            }
        }
    }

    /// An entry has come whole.
    fn entry(&mut self, tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) {
        if self.begin != 0 {
            let found = self.journal().found();
            if let Some(found) = found.transpose() {
                tell(self.begin, found);
            }
        }
        self.clear();
    }

    fn journal(&self) -> Journal<'_> {
        let values = self.places.each_ref().map(|place| match place {
            Place::Absent => Value::Absent,
            Place::Kept(range) => Value::One(Cow::Borrowed(&self.kept[range.clone()])),
            Place::TooLong => Value::Withheld,
            Place::Several => Value::Several,
        });
        Journal { values }
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.places = Default::default();
        self.begin = 0;
    }
}

/// Whether a line without `=` may be a field's name.
fn is_name(line: &[u8]) -> bool {
    line.len() <= MAX_NAME
        && line.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
}
