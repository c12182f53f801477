//! Parses `journalctl -o export`: a field is a line `NAME=value` or, if the value may contain any
//! bytes, a line `NAME`, the length as eight bytes (little-endian), the value and a newline. An
//! empty line ends an entry (systemd's JOURNAL_EXPORT_FORMATS).

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memchr_iter};

use super::JournalEntry;
use super::field::{Field, Value};
use super::text::EntryText;
use crate::parsed_line::ParsedLine;
use crate::shape::Unreadable;

/// Maximum size of a field that is kept, in bytes. A record has 9 kB.
const MAX_FIELD_BYTES: usize = 256 * 1024;

/// Maximum length of a field's name (journald accepts no longer one).
const MAX_NAME_BYTES: usize = 64;

/// Parses the export format from pieces of any size. Of an entry, only the few relevant fields are
/// kept.
#[derive(Debug, Default)]
pub(crate) struct Export {
    state: State,
    /// The beginning of an incomplete line or length.
    partial: Vec<u8>,
    /// The values of the entry's fields.
    kept: Vec<u8>,
    fields: [FieldState; Field::COUNT],
    /// Number of newlines so far, also in values.
    lines: u64,
    /// The line of the entry's first field, from 1; 0 before the entry begins.
    begin: u64,
    /// All bytes since the end of the entry before.
    text: EntryText,
}

#[derive(Debug, Default)]
enum State {
    /// In a line.
    #[default]
    Line,
    /// In an over-long line, until its end.
    LongLine,
    /// In the length of a value.
    Length(Option<Field>),
    /// In a value of which `left` bytes are to come. `keep`: its field, and its offset in `kept`.
    Data { left: u64, keep: Option<(Field, usize)> },
    /// At the newline after a value.
    End,
    /// After an error, until an empty line.
    Skip,
}

#[derive(Debug, Clone, Default)]
enum FieldState {
    #[default]
    Absent,
    Kept(Range<usize>),
    TooLong,
    Several,
}

impl Export {
    /// Whether a stream that begins with `head` is in the export format.
    pub(crate) fn is_begun_by(head: &[u8]) -> bool {
        [&b"__CURSOR="[..], b"__REALTIME_TIMESTAMP=", b"__MONOTONIC_TIMESTAMP=", b"__SEQNUM"]
            .iter()
            .any(|name| head.starts_with(name))
    }

    /// Keeps the text of each relevant entry.
    pub(super) fn keep_text(&mut self) {
        self.text.keep();
    }

    /// Number of newlines so far.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// Takes the next bytes. Passes each relevant or unreadable entry to `emit`, with the line of
    /// its first field.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>),
    ) {
        while !bytes.is_empty() {
            let rest = match self.state {
                State::Line => self.line(bytes, emit),
                State::LongLine => self.long_line(bytes),
                State::Length(field) => self.length(bytes, field),
                State::Data { left, keep } => self.data(bytes, left, keep),
                State::End => self.end(bytes, emit),
                State::Skip => self.skip(bytes),
            };
            // An entry ends with an empty line, which is not of its text.
            self.text.add(&bytes[..bytes.len() - rest.len()]);
            bytes = rest;
        }
    }

    /// Ends the stream. An incomplete entry is parsed from its complete fields.
    pub(crate) fn finish(mut self, emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        self.entry(emit);
    }

    fn line<'b>(
        &mut self,
        bytes: &'b [u8],
        emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>),
    ) -> &'b [u8] {
        let Some(end) = memchr(b'\n', bytes) else {
            self.partial.extend_from_slice(bytes);
            if self.partial.len() > MAX_FIELD_BYTES + MAX_NAME_BYTES {
                let name = &self.partial[..memchr(b'=', &self.partial).unwrap_or(0)];
                if let Some(field) = Field::named(name) {
                    self.put(field, FieldState::TooLong);
                }
                self.partial.clear();
                self.state = State::LongLine;
            }
            return b"";
        };
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        self.lines += 1;
        if self.partial.is_empty() {
            self.field(line, emit);
        } else {
            let mut partial = std::mem::take(&mut self.partial);
            partial.extend_from_slice(line);
            self.field(&partial, emit);
            partial.clear();
            self.partial = partial;
        }
        rest
    }

    /// Parses a complete line.
    fn field(&mut self, line: &[u8], emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        if line.is_empty() {
            return self.entry(emit);
        }
        // Skip journalctl's own messages.
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
                    self.put(field, FieldState::Kept(from..from + value.len()));
                }
            }
            None if is_name(line) => self.state = State::Length(Field::named(line)),
            None => self.emit_broken(emit),
        }
    }

    fn put(&mut self, field: Field, state: FieldState) {
        let before = &mut self.fields[field as usize];
        let first = matches!(before, FieldState::Absent);
        if let (FieldState::Kept(range), false) = (&state, first) {
            // Drop the repeated value: it is not used.
            self.kept.truncate(range.start);
        }
        *before = if first { state } else { FieldState::Several };
    }

    fn long_line<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some(end) = memchr(b'\n', bytes) else { return b"" };
        self.lines += 1;
        self.state = State::Line;
        &bytes[end + 1..]
    }

    fn length<'b>(&mut self, bytes: &'b [u8], field: Option<Field>) -> &'b [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(8 - self.partial.len()));
        // Tools like sed(1) count these newlines too.
        self.lines += memchr_iter(b'\n', taken).count() as u64;
        self.partial.extend_from_slice(taken);
        if let Ok(length) = <[u8; 8]>::try_from(self.partial.as_slice()) {
            self.partial.clear();
            let left = u64::from_le_bytes(length);
            let fits = usize::try_from(left).is_ok_and(|left| left <= MAX_FIELD_BYTES);
            if let (Some(field), false) = (field, fits) {
                self.put(field, FieldState::TooLong);
            }
            let keep = field.filter(|_| fits).map(|field| (field, self.kept.len()));
            self.state = if left == 0 { self.end_value(keep) } else { State::Data { left, keep } };
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
        self.state = if left == 0 { self.end_value(keep) } else { State::Data { left, keep } };
        rest
    }

    /// Ends a value.
    fn end_value(&mut self, keep: Option<(Field, usize)>) -> State {
        if let Some((field, from)) = keep {
            self.put(field, FieldState::Kept(from..self.kept.len()));
        }
        State::End
    }

    fn end<'b>(
        &mut self,
        bytes: &'b [u8],
        emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>),
    ) -> &'b [u8] {
        match bytes.strip_prefix(b"\n") {
            Some(rest) => {
                self.lines += 1;
                self.state = State::Line;
                rest
            }
            None => {
                self.emit_broken(emit);
                bytes
            }
        }
    }

    /// Reports a format error. Parsing resumes at the next entry.
    fn emit_broken(&mut self, emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        emit(self.begin, Err(Unreadable::Broken));
        self.clear();
        self.state = State::Skip;
    }

    fn skip<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let end = memchr(b'\n', bytes);
        // Only whether the line is empty matters.
        let empty = self.partial.is_empty() && end == Some(0);
        match end {
            Some(end) => {
                self.lines += 1;
                self.partial.clear();
                if empty {
                    self.text.clear();
                    self.state = State::Line;
                }
                &bytes[end + 1..]
            }
            None => {
                self.partial.clear();
                self.partial.push(b'x');
                b""
            }
        }
    }

    /// Ends an entry.
    fn entry(&mut self, emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        if self.begin != 0 {
            let found = self.journal().parse();
            if let Some(found) = found.transpose() {
                let text = self.text.of(entry_lines(self.text.bytes()));
                emit(self.begin, found.map(|found| ParsedLine { text, ..found }));
            }
        }
        self.clear();
    }

    fn journal(&self) -> JournalEntry<'_> {
        let values = self.fields.each_ref().map(|state| match state {
            FieldState::Absent => Value::Absent,
            FieldState::Kept(range) => Value::One(Cow::Borrowed(&self.kept[range.clone()])),
            FieldState::TooLong => Value::Withheld,
            FieldState::Several => Value::Several,
        });
        JournalEntry { values }
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.fields = Default::default();
        self.begin = 0;
        self.text.clear();
    }
}

/// An entry's text: without the end of the entry before, journalctl's own messages, and the last
/// newline.
fn entry_lines(mut bytes: &[u8]) -> &[u8] {
    while bytes.starts_with(b"\n") || bytes.starts_with(b"-- ") {
        let end = memchr(b'\n', bytes).map_or(bytes.len(), |newline| newline + 1);
        bytes = &bytes[end..];
    }
    bytes.strip_suffix(b"\n").unwrap_or(bytes)
}

/// Whether a line without `=` may be a field's name.
fn is_name(line: &[u8]) -> bool {
    line.len() <= MAX_NAME_BYTES
        && line.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
}
