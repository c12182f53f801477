use memchr::memchr;

use crate::feed::MAX_LINE;

/// Whole lines of what comes in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// What came of a line whose end has not come.
    held: Vec<u8>,
    /// Whether that line is too long, and nothing of it is kept.
    is_long: bool,
    /// How many newlines have passed.
    pub(super) passed: u64,
}

impl Lines {
    /// Takes the next bytes, and gives each line that ends in them with its number, from 1; none in place of one
    /// too long.
    pub(super) fn push(&mut self, mut bytes: &[u8], take: &mut dyn FnMut(u64, Option<&[u8]>)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            self.passed += 1;
            if std::mem::take(&mut self.is_long) || self.held.len() + line.len() >= MAX_LINE {
                take(self.passed, None);
            } else if self.held.is_empty() {
                take(self.passed, Some(line));
            } else {
                self.held.extend_from_slice(line);
                take(self.passed, Some(&self.held));
            }
            self.held.clear();
        }
        if self.held.len() + bytes.len() >= MAX_LINE {
            self.is_long = true;
            self.held.clear();
        }
        if !self.is_long {
            self.held.extend_from_slice(bytes);
        }
    }

    /// The last line, where it lacks its newline.
    pub(super) fn finish(self, take: &mut dyn FnMut(u64, Option<&[u8]>)) {
        if self.is_long {
            take(self.passed + 1, None);
        } else if !self.held.is_empty() {
            take(self.passed + 1, Some(&self.held));
        }
    }
}
