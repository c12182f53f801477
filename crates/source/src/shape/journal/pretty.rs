//! Objects of JSON over several lines: `journalctl -o json-pretty`, and any tool's behind `jq .`. An object begins
//! with a line `{` and ends with a line `}`: those within it are indented.

use super::lines::Lines;
use crate::found::Found;
use crate::shape::{self, Unreadable, resembles_record};

/// The longest object that is kept. One with all fields of a record has some 20 kB.
const MAX_OBJECT: usize = 1024 * 1024;

/// See [`Entries`](super::Entries).
#[derive(Debug, Default)]
pub(crate) struct Pretty {
    lines: Lines,
    object: Object,
}

#[derive(Debug, Default)]
struct Object {
    /// Its lines, so far.
    bytes: Vec<u8>,
    /// Its first line, from 1; 0 outside of one.
    begin: u64,
    is_long: bool,
}

impl Pretty {
    pub(super) fn lines(&self) -> u64 {
        self.lines.passed
    }

    pub(super) fn push(&mut self, bytes: &[u8], tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) {
        let object = &mut self.object;
        self.lines.push(bytes, &mut |number, line| object.line(number, line, tell));
    }

    pub(super) fn finish(self, tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) {
        let Self { lines, mut object } = self;
        lines.finish(&mut |number, line| object.line(number, line, tell));
        if object.begin > 0 {
            object.end(tell);
        }
    }
}

impl Object {
    fn line(
        &mut self,
        number: u64,
        line: Option<&[u8]>,
        tell: &mut dyn FnMut(u64, Result<Found, Unreadable>),
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
                told(number, shape::line(line), line, tell);
            }
            return;
        }
        if self.bytes.len() + line.len() >= MAX_OBJECT {
            self.is_long = true;
            self.bytes.clear();
        }
        if !self.is_long {
            self.bytes.push(b'\n');
            // A list of objects has a comma between them.
            self.bytes.extend_from_slice(if end == b"}," { b"}" } else { line });
        }
        if matches!(end, b"}" | b"},") {
            self.end(tell);
        }
    }

    fn end(&mut self, tell: &mut dyn FnMut(u64, Result<Found, Unreadable>)) {
        if self.is_long {
            tell(self.begin, Err(Unreadable::TooLong { max: MAX_OBJECT }));
        } else {
            told(self.begin, shape::object(&self.bytes), &self.bytes, tell);
        }
        self.bytes.clear();
        self.begin = 0;
        self.is_long = false;
    }
}

/// Tells what was found; an object that is broken or unknown only where it looks like a record.
fn told(
    number: u64,
    found: Result<Option<Found>, Unreadable>,
    bytes: &[u8],
    tell: &mut dyn FnMut(u64, Result<Found, Unreadable>),
) {
    match found {
        Ok(None) => {}
        Ok(Some(found)) => tell(number, Ok(found)),
        Err(Unreadable::Unknown | Unreadable::Json { .. }) if !resembles_record(bytes) => {}
        Err(error) => tell(number, Err(error)),
    }
}
