//! Parses `journalctl -o verbose`: a line with the time and the cursor, then a line for each field,
//! indented by four blanks. Continuation lines of a value are indented further, and are no fields.

use std::borrow::Cow;

use bstr::ByteSlice as _;

use super::JournalEntry;
use super::field::{Field, Value};
use super::lines::LineSplitter;
use super::text::EntryText;
use crate::parsed_line::ParsedLine;
use crate::shape::{Unreadable, stamp};

/// See [`Entries`](super::Entries).
#[derive(Debug, Default)]
pub(crate) struct Verbose {
    lines: LineSplitter,
    entry: Entry,
}

#[derive(Debug, Default)]
struct Entry {
    journal: JournalEntry<'static>,
    /// Its first line, from 1; 0 before the entry begins.
    begin: u64,
    /// The field of the line before.
    last: Option<Field>,
    /// Its lines.
    text: EntryText,
}

/// Whether an entry begins with this line:
/// `Wed 2026-11-25 02:02:25.123456 UTC [s=…;i=…;b=…;m=…;t=…;x=…]`.
pub(super) fn is_head(line: &[u8]) -> bool {
    stamp::front(line).is_some() && cursor(line).is_some()
}

fn cursor(line: &[u8]) -> Option<&[u8]> {
    let cursor = line.trim_ascii_end().strip_suffix(b"]")?;
    let at = cursor.rfind(b" [s=")?;
    let cursor = &cursor[at + 2..];
    cursor.contains_str(b";t=").then_some(cursor)
}

impl Verbose {
    pub(super) fn keep_text(&mut self) {
        self.entry.text.keep();
    }

    pub(super) fn lines(&self) -> u64 {
        self.lines.passed
    }

    pub(super) fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        let entry = &mut self.entry;
        self.lines.push(bytes, &mut |number, line| entry.line(number, line, emit));
    }

    pub(super) fn finish(self, emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        let Self { lines, mut entry } = self;
        lines.finish(&mut |number, line| entry.line(number, line, emit));
        entry.end(emit);
    }
}

impl Entry {
    fn line(
        &mut self,
        number: u64,
        line: Option<&[u8]>,
        emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>),
    ) {
        // The field of an over-long line is not known.
        let Some(line) = line else { return self.text.set_long() };
        let Some(field) = line.strip_prefix(b"    ") else {
            self.end(emit);
            if is_head(line) {
                self.begin = number;
                self.text.add_line(line);
                let time = cursor(line).and_then(|cursor| {
                    let time = cursor.split_str(b";").find_map(|pair| pair.strip_prefix(b"t="))?;
                    u64::from_str_radix(time.to_str().ok()?, 16).ok()
                });
                if let Some(time) = time {
                    self.journal.put(Field::Time, Value::One(Cow::Owned(time.to_string().into_bytes())));
                }
            }
            return;
        };
        if self.begin > 0 {
            self.text.add_line(line);
        }
        let named = field.split_once_str(b"=").and_then(|(name, value)| Some((Field::named(name)?, value)));
        match (named, self.last) {
            (Some((field, value)), _) => {
                let value = value.trim_end_with(|c| c == '\r');
                let is_withheld = value.starts_with(b"[") && value.ends_with(b"B blob data]");
                let value =
                    if is_withheld { Value::Withheld } else { Value::One(Cow::Owned(value.to_vec())) };
                self.journal.put(field, value);
                self.last = Some(field);
            }
            // A continuation line: no relevant value has several lines.
            (None, Some(last)) if field.starts_with(b" ") => self.journal.put(last, Value::Several),
            (None, _) => self.last = None,
        }
    }

    fn end(&mut self, emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        let (begin, journal) = (self.begin, std::mem::take(&mut self.journal));
        (self.begin, self.last) = (0, None);
        if begin > 0
            && let Some(found) = journal.parse().transpose()
        {
            let text = self.text.of(self.text.bytes());
            emit(begin, found.map(|found| ParsedLine { text, ..found }));
        }
        self.text.clear();
    }
}
