use std::sync::Arc;

use crate::parsed_line::MAX_TEXT_BYTES;

/// Collects the text of an entry with several lines, if it is to be kept.
#[derive(Debug, Default)]
pub(super) struct EntryText {
    is_kept: bool,
    bytes: Vec<u8>,
    is_long: bool,
}

impl EntryText {
    /// The text of each entry is to be kept.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Appends bytes.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        if !self.is_kept || self.is_long {
            return;
        }
        if self.bytes.len() + bytes.len() > MAX_TEXT_BYTES {
            return self.set_long();
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a line.
    pub(super) fn add_line(&mut self, line: &[u8]) {
        if !self.bytes.is_empty() {
            self.add(b"\n");
        }
        self.add(line);
    }

    /// The text is longer than what is kept.
    pub(super) fn set_long(&mut self) {
        self.is_long = true;
        self.bytes.clear();
    }

    /// Begins the text of the next entry.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.is_long = false;
    }

    /// The bytes so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// These bytes as the text of an entry, if it is kept and not too long.
    pub(super) fn of(&self, bytes: &[u8]) -> Option<Arc<[u8]>> {
        (self.is_kept && !self.is_long && bytes.len() <= MAX_TEXT_BYTES).then(|| bytes.into())
    }
}
