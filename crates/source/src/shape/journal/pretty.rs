//! Parses JSON objects over several lines: `journalctl -o json-pretty`, and any tool's output after
//! `jq .`. An object begins with a line `{` and ends with a line `}`: nested objects are indented.

use super::lines::LineSplitter;
use crate::parsed_line::ParsedLine;
use crate::shape::{self, Unreadable, resembles_record};

/// Maximum size of an object, in bytes. One with all fields of a record has about 20 kB.
const MAX_OBJECT_BYTES: usize = 1024 * 1024;

/// See [`Entries`](super::Entries).
#[derive(Debug, Default)]
pub(crate) struct Pretty {
    lines: LineSplitter,
    object: Object,
}

#[derive(Debug, Default)]
struct Object {
    /// Its lines so far.
    bytes: Vec<u8>,
    /// Its first line, from 1; 0 outside of an object.
    begin: u64,
    is_long: bool,
    keep_text: bool,
}

impl Pretty {
    pub(super) fn keep_text(&mut self) {
        self.object.keep_text = true;
    }

    pub(super) fn lines(&self) -> u64 {
        self.lines.passed
    }

    pub(super) fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        let object = &mut self.object;
        self.lines.push(bytes, &mut |number, line| object.line(number, line, emit));
    }

    pub(super) fn finish(self, emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        let Self { lines, mut object } = self;
        lines.finish(&mut |number, line| object.line(number, line, emit));
        if object.begin > 0 {
            object.end(emit);
        }
    }
}

impl Object {
    fn line(
        &mut self,
        number: u64,
        line: Option<&[u8]>,
        emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>),
    ) {
        let Some(line) = line else {
            self.is_long = self.begin > 0;
            return;
        };
        let end = line.trim_ascii_end();
        if self.begin == 0 {
            if end == b"{" {
                self.begin = number;
                self.bytes.extend_from_slice(line);
            } else {
                emit_parsed(number, shape::line(line), line, self.keep_text, emit);
            }
            return;
        }
        if self.bytes.len() + line.len() >= MAX_OBJECT_BYTES {
            self.is_long = true;
            self.bytes.clear();
        }
        if !self.is_long {
            self.bytes.push(b'\n');
            // A list of objects has commas between them.
            self.bytes.extend_from_slice(if end == b"}," { b"}" } else { line });
        }
        if matches!(end, b"}" | b"},") {
            self.end(emit);
        }
    }

    fn end(&mut self, emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>)) {
        if self.is_long {
            emit(self.begin, Err(Unreadable::TooLong { max: MAX_OBJECT_BYTES }));
        } else {
            emit_parsed(self.begin, shape::object(&self.bytes), &self.bytes, self.keep_text, emit);
        }
        self.bytes.clear();
        self.begin = 0;
        self.is_long = false;
    }
}

/// Emits the result. An object that is broken or unknown is reported only if it looks like a
/// record.
fn emit_parsed(
    number: u64,
    found: Result<Option<ParsedLine>, Unreadable>,
    bytes: &[u8],
    keep_text: bool,
    emit: &mut dyn FnMut(u64, Result<ParsedLine, Unreadable>),
) {
    match found {
        Ok(None) => {}
        Ok(Some(found)) => emit(number, Ok(if keep_text { found.with_text(bytes) } else { found })),
        Err(Unreadable::Unknown | Unreadable::Json { .. }) if !resembles_record(bytes) => {}
        Err(error) => emit(number, Err(error)),
    }
}
