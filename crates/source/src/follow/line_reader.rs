//! Turns a log's bytes into entries as they arrive.

use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use memchr::{memchr, memchr_iter, memrchr};
use taptrail_record::{Line, Stamp};
use taptrail_trail::{Content, Entry, Gap, GapReason, Unreadable, is_same_host};

use super::checkpoint::{Checkpoint, Digest, LastLine, is_after, is_in_future, timestamp};
use super::serials::SerialTracker;
use super::{LineDefaults, PollBatch};
use crate::feed::{CONTEXT_BYTES, MAX_LINE_BYTES};
use crate::losses::{self, LossTracker};
use crate::parsed_line::{Clock, ParsedLine};
use crate::scan::{Batch, Scanner};

/// Bytes in which a line's stamp is searched, after a host's name and a type.
const STAMP_SEARCH_BYTES: usize = 512;

/// Reads the lines of one log as its bytes arrive.
pub(super) struct LineReader {
    defaults: LineDefaults,
    source: Arc<str>,
    /// The last host named in a line, other than the log's own.
    last_named_host: Arc<str>,
    scanner: Scanner,
    clock: Clock,
    /// The lines before `begin`, as context for lines that are parsed together, followed by the
    /// bytes that are not reported yet.
    bytes: Vec<u8>,
    begin: usize,
    /// How many bytes before `begin` are from the current file.
    context_len: usize,
    /// Bytes discarded of an over-long line whose end has not arrived yet.
    discarded: u64,
    /// Lines reported from the current file.
    line: u64,
    last: Option<LastLine>,
    stamp: Option<Stamp>,
    /// Tracks the kernel's serial numbers, if the log has all of them.
    serials: Option<SerialTracker>,
    /// The newest serial number, if it has not.
    newest: Option<u32>,
    /// The node whose serial numbers are tracked: a log may have those of several hosts.
    node: Option<Box<[u8]>>,
    daemon_ended: bool,
    /// Lines up to this stamp were reported before.
    skip_until: Option<Stamp>,
    /// Something may be missing before the next line, for this reason.
    lost: Option<GapReason>,
    losses: LossTracker,
    /// Time of the last entry.
    last_time: Option<Timestamp>,
}

impl LineReader {
    /// Continues a log after `checkpoint`. `has_all_serials`: the log has all of the kernel's
    /// serial numbers.
    pub(super) fn new(
        defaults: LineDefaults,
        source: Arc<str>,
        checkpoint: Option<&Checkpoint>,
        has_all_serials: bool,
    ) -> Self {
        let before = checkpoint.cloned().unwrap_or_default();
        Self {
            clock: Clock::new(defaults.zone.clone(), Timestamp::now()),
            last_named_host: Arc::clone(&defaults.host),
            defaults,
            source,
            scanner: Scanner::new(),
            bytes: Vec::new(),
            begin: 0,
            context_len: 0,
            discarded: 0,
            line: 0,
            serials: has_all_serials.then(|| before.serials()),
            newest: before.newest,
            last: before.last,
            stamp: before.stamp,
            node: None,
            daemon_ended: before.daemon_ended,
            skip_until: None,
            lost: None,
            losses: LossTracker::default(),
            last_time: None,
        }
    }

    /// The bytes that follow are from this file, after its line `line`; `before` is the context
    /// before them. At the file's beginning, the lines before stay as context: the records of one
    /// event may be in two files.
    pub(super) fn begin(&mut self, source: Arc<str>, line: u64, before: &[u8]) {
        self.source = source;
        self.line = line;
        self.discarded = 0;
        self.bytes.truncate(self.begin);
        if !before.is_empty() {
            self.bytes.clear();
            self.bytes.extend_from_slice(before);
            if self.last.is_none() {
                let end = before.strip_suffix(b"\n").unwrap_or(before);
                let this = &before[memrchr(b'\n', end).map_or(0, |newline| newline + 1)..];
                let stamp = parse_stamp(this).map(|stamped| stamped.stamp);
                self.last = Some(LastLine { digest: Digest::of_tail(this), stamp });
                self.stamp = self.stamp.or(stamp);
            }
        }
        self.begin = self.bytes.len();
        self.context_len = before.len();
    }

    /// Notes that something may be missing before the next line. Its serial number decides, if it
    /// has one.
    pub(super) fn note_loss(&mut self, why: GapReason) {
        self.lost.get_or_insert(why);
    }

    /// Whether something may be missing before the next line.
    pub(super) fn has_pending_loss(&self) -> bool {
        self.lost.is_some()
    }

    /// Skips lines that are not after the last stamp: they were reported before. But not if that
    /// stamp is in the future because the clock was set back: all new lines would be skipped.
    pub(super) fn skip_known(&mut self) {
        self.skip_until = self.stamp.filter(|stamp| !is_in_future(*stamp));
    }

    /// The kernel's stamp of the last reported line that has one.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// Bytes of an incomplete line at the end, not reported yet.
    pub(super) fn unfinished_bytes(&self) -> u64 {
        (self.bytes.len() - self.begin) as u64 + self.discarded
    }

    /// The last bytes of the current file that are kept, and how many bytes came after them.
    pub(super) fn recent_bytes(&self) -> (&[u8], u64) {
        (&self.bytes[self.begin - self.context_len..], self.discarded)
    }

    /// Lines reported from the current file.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The checkpoint, without the position in a file.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        let (newest, missing) = match &self.serials {
            Some(serials) => (serials.newest(), serials.missing().collect()),
            None => (self.newest, Vec::new()),
        };
        let (last, stamp, daemon_ended) = (self.last, self.stamp, self.daemon_ended);
        Checkpoint { file: None, last, stamp, newest, missing, daemon_ended }
    }

    /// Takes the next bytes, and reports the lines that are complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], batch: &mut PollBatch) {
        batch.bytes += bytes.len() as u64;
        if self.discarded > 0 {
            let Some(newline) = memchr(b'\n', bytes) else {
                self.discarded += bytes.len() as u64;
                return;
            };
            self.discarded = 0;
            self.emit_too_long(batch);
            bytes = &bytes[newline + 1..];
        }
        let before = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        if let Some(newline) = memrchr(b'\n', &self.bytes[before..]) {
            self.emit_lines(before + newline + 1, batch);
        }
        let unfinished_bytes = self.bytes.len() - self.begin;
        if unfinished_bytes >= MAX_LINE_BYTES {
            self.discarded = unfinished_bytes as u64;
            self.bytes.truncate(self.begin);
        }
    }

    /// Drops the incomplete line at the end: its rest will not come.
    pub(super) fn drop_unfinished(&mut self) {
        self.bytes.truncate(self.begin);
        self.discarded = 0;
    }

    /// Reports that the rest of this file can't be read: it is compressed, and damaged.
    pub(super) fn damaged(&mut self, why: &io::Error, batch: &mut PollBatch) {
        self.drop_unfinished();
        self.unreadable(self.line + 1, format!("File is damaged, and the rest of it is lost: {why}"), batch);
        self.note_loss(GapReason::Damaged);
    }

    /// Ends the current file: a last line without newline is reported as it is.
    pub(super) fn finish(&mut self, batch: &mut PollBatch) {
        if std::mem::take(&mut self.discarded) > 0 {
            self.emit_too_long(batch);
        }
        if self.begin < self.bytes.len() {
            self.bytes.push(b'\n');
            self.emit_lines(self.bytes.len(), batch);
        }
    }

    /// Reports a discarded line as too long.
    fn emit_too_long(&mut self, batch: &mut PollBatch) {
        batch.lines += 1;
        self.line += 1;
        // The bytes kept are no longer those before the current position.
        self.context_len = 0;
        self.last = Some(LastLine { digest: Digest::of_tail(b""), stamp: None });
        self.unreadable(
            self.line,
            format!("Line is too long: {MAX_LINE_BYTES} bytes are taken at most"),
            batch,
        );
    }

    fn unreadable(&self, line: u64, reason: String, batch: &mut PollBatch) {
        batch.unreadable += 1;
        if batch.located.len() < PollBatch::MAX_LOCATED {
            batch.located.push(Unreadable { source: Arc::clone(&self.source), line, reason });
        }
    }

    /// Reports the lines up to `end`.
    fn emit_lines(&mut self, end: usize, batch: &mut PollBatch) {
        let mut gaps = Vec::new();
        let from = self.track_serials(end, &mut gaps);
        let Batch { found, unreadable, lines, .. } = self.scanner.lines(&self.bytes[..end], from);
        for (line, reason) in unreadable {
            self.unreadable(self.line + line + 1, reason.to_string(), batch);
        }
        self.clock.set_limit(Timestamp::now());
        let mut gaps = gaps.into_iter().peekable();
        for (line, found) in found {
            while let Some((_, gap)) = gaps.next_if(|(before, _)| *before <= line) {
                batch.entries.push(gap);
            }
            let entry = self.entry_of(self.line + line + 1, found);
            self.emit(entry, batch);
        }
        batch.entries.extend(gaps.map(|(_, gap)| gap));
        batch.lines += lines;
        self.line += lines;
        self.context_len = (self.context_len + end - self.begin).min(CONTEXT_BYTES).min(end);
        self.bytes.drain(..end.saturating_sub(CONTEXT_BYTES));
        self.begin = end.min(CONTEXT_BYTES);
    }

    /// Emits an entry, or the gap that it reports.
    fn emit(&mut self, entry: Entry, batch: &mut PollBatch) {
        let last = self.last_time.replace(entry.time);
        let has_all_serials = self.serials.is_some();
        let gap = |gap| {
            let content = Content::Gap(gap);
            Entry { content, serial: None, writer: None, ..entry.clone() }
        };
        match self.losses.observe(&entry.host, entry.time, &entry.content, has_all_serials, last) {
            losses::Emission::Nothing => {}
            losses::Emission::Entry => batch.entries.push(entry),
            losses::Emission::Gap(lost) => batch.entries.push(gap(lost)),
            losses::Emission::GapThenEntry(lost) => {
                let lost = gap(lost);
                batch.entries.extend([lost, entry]);
            }
        }
    }

    /// Tracks the serial numbers of the lines up to `end`. Returns the offset of the first line
    /// that was not reported before. Gaps are added with the line, from 0, before which they
    /// belong.
    fn track_serials(&mut self, end: usize, gaps: &mut Vec<(u64, Entry)>) -> usize {
        let (mut from, mut start, mut line) = (self.begin, self.begin, 0);
        let bytes = std::mem::take(&mut self.bytes);
        for newline in memchr_iter(b'\n', &bytes[self.begin..end]) {
            let next = self.begin + newline + 1;
            let this = &bytes[start..next];
            let stamped = parse_stamp(this);
            let stamp = stamped.as_ref().map(|stamped| stamped.stamp);
            if self
                .skip_until
                .is_some_and(|skip_until| stamp.is_none_or(|stamp| !is_after(stamp, skip_until)))
            {
                self.line += 1;
                from = next;
            } else {
                self.skip_until = None;
                for gap in self.missing(stamped.as_ref()) {
                    gaps.push((line, self.gap(self.line + line + 1, stamp, gap)));
                }
                line += 1;
            }
            if next == end {
                self.last = Some(LastLine { digest: Digest::of_tail(this), stamp });
            }
            self.stamp = stamp.or(self.stamp);
            start = next;
        }
        self.bytes = bytes;
        from
    }

    /// The gaps that the next line shows before it.
    fn missing(&mut self, stamped: Option<&StampedLine<'_>>) -> Vec<Gap> {
        let Some(StampedLine { node, stamp, daemon }) = stamped else {
            // A log without serial numbers shows no range.
            let unnumbered = self.stamp.is_none();
            let lost = self.lost.take_if(|_| unnumbered);
            return lost.map(|why| Gap { since: None, serials: None, why }).into_iter().collect();
        };
        if let Some(daemon) = daemon {
            // auditd numbers its own records with its own counter.
            self.daemon_ended = *daemon == DaemonRecord::End;
            return Vec::new();
        }
        if **self.node.get_or_insert_with(|| (*node).into()) != **node {
            return Vec::new();
        }
        let ended = std::mem::take(&mut self.daemon_ended);
        let newest = self.serials.as_ref().map_or(self.newest, SerialTracker::newest);
        self.newest = Some(stamp.serial);
        let lost = self.lost.take();
        let unwritten = match &mut self.serials {
            Some(serials) if lost.is_some() => serials.start_boot(Some(stamp.serial)),
            Some(serials) => serials.observe(stamp.serial),
            None => Vec::new(),
        };
        let unwritten = unwritten.into_iter().map(|serials| Gap {
            since: None,
            serials: Some(serials),
            why: GapReason::NeverWritten,
        });
        unwritten
            .chain(lost.and_then(|why| self.gap_across_pause(newest, stamp.serial, ended, why)))
            .collect()
    }

    /// The gap between the last serial number before a pause and the first after it.
    fn gap_across_pause(&self, newest: Option<u32>, serial: u32, ended: bool, why: GapReason) -> Option<Gap> {
        let serials = match newest.map(|newest| (newest, serial.wrapping_sub(newest))) {
            Some((_, 0 | 1)) => return None,
            Some((newest, ahead)) if ahead < u32::MAX / 2 => {
                Some((newest.wrapping_add(1), serial.wrapping_sub(1)))
            }
            // Another boot. If auditd's last record was its end, it had written everything.
            _ if ended => return None,
            _ => None,
        };
        Some(Gap { since: self.stamp.and_then(timestamp), serials, why })
    }

    fn gap(&self, line: u64, stamp: Option<Stamp>, gap: Gap) -> Entry {
        Entry {
            host: Arc::clone(&self.defaults.host),
            time: stamp.and_then(timestamp).unwrap_or_else(Timestamp::now),
            serial: None,
            writer: None,
            credentials: None,
            source: Arc::clone(&self.source),
            line,
            content: Content::Gap(gap),
            text: None,
            copies: Vec::new(),
            unauthenticated: false,
        }
    }

    fn entry_of(&mut self, line: u64, found: ParsedLine) -> Entry {
        let host = match found.host {
            None => Arc::clone(&self.defaults.host),
            Some(name) if is_same_host(&name, &self.defaults.host) => Arc::clone(&self.defaults.host),
            Some(name) => {
                if *name != *self.last_named_host {
                    self.last_named_host = name.as_str().into();
                }
                Arc::clone(&self.last_named_host)
            }
        };
        Entry {
            host,
            time: found.when.resolve(&mut self.clock),
            serial: found.serial,
            writer: found.writer,
            credentials: found.credentials,
            source: Arc::clone(&self.source),
            line,
            content: found.content,
            text: found.text,
            copies: Vec::new(),
            unauthenticated: found.is_unauthenticated,
        }
    }
}

/// The header of a raw audit line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StampedLine<'a> {
    pub(super) node: &'a [u8],
    pub(super) stamp: Stamp,
    /// Set for auditd's own records (`DAEMON_…`).
    pub(super) daemon: Option<DaemonRecord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DaemonRecord {
    End,
    Other,
}

/// Parses the header of a raw audit line, without its text.
pub(super) fn parse_stamp(line: &[u8]) -> Option<StampedLine<'_>> {
    let head = &line[..line.len().min(STAMP_SEARCH_BYTES)];
    let end = memchr(b')', head)? + 1;
    let parsed = Line::parse(head.get(..=end)?).ok()?;
    let daemon = match parsed.type_name.strip_prefix(b"DAEMON_") {
        Some(b"END") => Some(DaemonRecord::End),
        Some(_) => Some(DaemonRecord::Other),
        None => None,
    };
    Some(StampedLine { node: parsed.node.map_or(b"", |node| node), stamp: parsed.stamp, daemon })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_without_the_rest() {
        let stamp = Stamp { seconds: 1_795_460_022, millis: 944, serial: 2592 };
        let line = b"node=h1 type=SYSCALL msg=audit(1795460022.944:2592): arch=c000003e \xff";
        assert_eq!(parse_stamp(line), Some(StampedLine { node: b"h1", stamp, daemon: None }));
        let line = b"type=DAEMON_END msg=audit(1795460022.944:2592): op=terminate";
        assert_eq!(
            parse_stamp(line),
            Some(StampedLine { node: b"", stamp, daemon: Some(DaemonRecord::End) })
        );
        for none in
            ["", ")", "type=X", "May 12 12:48:00 h audit[1]: VIRT_CONTROL (x)", "type=A msg=audit(1.2:3)"]
        {
            assert_eq!(parse_stamp(none.as_bytes()), None, "{none}");
        }
    }
}
