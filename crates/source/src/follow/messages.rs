//! Records as they are heard one by one: the kernel's broadcast.

use std::sync::Arc;

use taptrail_trail::GapReason;

use super::checkpoint::Checkpoint;
use super::lines::Lines;
use super::{About, Told};

/// Records that come one at a time and can't be had again.
///
/// Whoever hears them gives them; see [`Source`](super::Source) for what else there is.
pub struct Messages {
    lines: Lines,
    text: Vec<u8>,
}

impl Messages {
    /// Goes on behind `checkpoint`, with what is after it. Not all records need be given, so their
    /// numbers tell nothing of a loss but across a pause.
    ///
    /// `caught_up`: everything up to the first record was told by another source, whose checkpoint it is.
    pub fn new(about: About, name: Arc<str>, checkpoint: Option<&Checkpoint>, caught_up: bool) -> Self {
        let mut lines = Lines::new(about, name, checkpoint, false);
        if checkpoint.is_some() {
            lines.skip_told();
            if !caught_up {
                lines.lost(GapReason::NotListening);
            }
        }
        Self { lines, text: Vec::new() }
    }

    /// Takes one record: its type, and its text from `audit(` on.
    pub fn take(&mut self, kind: u16, text: &[u8], told: &mut Told) {
        self.text.clear();
        self.text.extend_from_slice(format!("type={kind} msg=").as_bytes());
        // A newline would be another record's beginning.
        self.text.extend(text.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
        self.text.push(b'\n');
        self.lines.push(&self.text, told);
    }

    /// Records were lost before the next one.
    pub fn overrun(&mut self) {
        self.lines.lost(GapReason::Overrun);
    }

    /// Behind the last record given.
    pub fn checkpoint(&self) -> Checkpoint {
        self.lines.checkpoint()
    }
}
