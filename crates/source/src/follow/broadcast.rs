//! Records received one by one: the kernel's audit broadcast.

use std::sync::Arc;

use taptrail_trail::GapReason;

use super::checkpoint::Checkpoint;
use super::line_reader::LineReader;
use super::{LineDefaults, PollBatch};

/// A source of records that arrive one at a time and can't be read again.
///
/// The caller receives the records and passes them in; see [`Source`](super::Source) for the other
/// sources.
pub struct BroadcastSource {
    lines: LineReader,
    text: Vec<u8>,
}

impl BroadcastSource {
    /// Continues after `checkpoint`. The caller need not pass all records, so missing serial
    /// numbers show a loss only across a pause.
    ///
    /// `caught_up`: another source, whose checkpoint this is, has reported everything up to the
    /// first record.
    pub fn new(
        defaults: LineDefaults,
        name: Arc<str>,
        checkpoint: Option<&Checkpoint>,
        caught_up: bool,
    ) -> Self {
        let mut lines = LineReader::new(defaults, name, checkpoint, false);
        if checkpoint.is_some() {
            lines.skip_known();
            if !caught_up {
                lines.note_loss(GapReason::NotListening);
            }
        }
        Self { lines, text: Vec::new() }
    }

    /// Takes one record: its type, and its text from `audit(` on.
    pub fn take(&mut self, kind: u16, text: &[u8], batch: &mut PollBatch) {
        self.text.clear();
        self.text.extend_from_slice(format!("type={kind} msg=").as_bytes());
        // A newline would begin another record.
        self.text.extend(text.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
        self.text.push(b'\n');
        self.lines.push(&self.text, batch);
    }

    /// Notes that records were lost before the next one.
    pub fn overrun(&mut self) {
        self.lines.note_loss(GapReason::Overrun);
    }

    /// The checkpoint after the last record.
    pub fn checkpoint(&self) -> Checkpoint {
        self.lines.checkpoint()
    }
}
