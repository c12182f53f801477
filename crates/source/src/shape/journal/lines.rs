use memchr::memchr;

use crate::feed::MAX_LINE_BYTES;

/// Splits pieces of any size into complete lines.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    /// The beginning of an incomplete line.
    partial: Vec<u8>,
    /// Whether that line is too long and is discarded.
    is_long: bool,
    /// Number of newlines so far.
    pub(super) passed: u64,
}

impl LineSplitter {
    /// Takes the next bytes. Passes each line that ends in them to `take` with its number, from 1;
    /// `None` for an over-long line.
    pub(super) fn push(&mut self, mut bytes: &[u8], take: &mut dyn FnMut(u64, Option<&[u8]>)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            self.passed += 1;
            if std::mem::take(&mut self.is_long) || self.partial.len() + line.len() >= MAX_LINE_BYTES {
                take(self.passed, None);
            } else if self.partial.is_empty() {
                take(self.passed, Some(line));
            } else {
                self.partial.extend_from_slice(line);
                take(self.passed, Some(&self.partial));
            }
            self.partial.clear();
        }
        if self.partial.len() + bytes.len() >= MAX_LINE_BYTES {
            self.is_long = true;
            self.partial.clear();
        }
        if !self.is_long {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Passes the last line, if it has no newline.
    pub(super) fn finish(self, take: &mut dyn FnMut(u64, Option<&[u8]>)) {
        if self.is_long {
            take(self.passed + 1, None);
        } else if !self.partial.is_empty() {
            take(self.passed + 1, Some(&self.partial));
        }
    }
}
