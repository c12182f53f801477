//! Bytes as they come into entries.

use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use memchr::{memchr, memchr_iter, memrchr};
use taptrail_record::{Line, Stamp};
use taptrail_trail::{Content, Entry, Gap, GapReason, Unreadable};

use super::checkpoint::{Checkpoint, Digest, LastLine, is_after, is_to_come, moment};
use super::serials::Serials;
use super::{About, Told};
use crate::feed::{CONTEXT, MAX_LINE};
use crate::found::{Clock, Found};
use crate::hosts::is_same;
use crate::losses::{self, Losses};
use crate::scan::{Batch, Scanner};

/// What a line is read with: its stamp is within so many bytes, behind a host's name and a type.
const HEAD: usize = 512;

/// The lines of one log, as its bytes come.
pub(super) struct Lines {
    about: About,
    source: Arc<str>,
    /// The last host named, beside the log's own.
    named: Arc<str>,
    scanner: Scanner,
    clock: Clock,
    /// What was told last, for lines that are understood together, and behind it what was not told yet.
    bytes: Vec<u8>,
    begin: usize,
    /// How many bytes before `begin` are those before the place in this file.
    own: usize,
    /// How many bytes of a line too long were thrown away; its end is still to come.
    thrown: u64,
    /// How many lines were told of this file.
    line: u64,
    last: Option<LastLine>,
    stamp: Option<Stamp>,
    /// The kernel's numbers, where the log has them all.
    serials: Option<Serials>,
    /// The newest number, where it has not.
    newest: Option<u32>,
    /// Whose they are: a log of several hosts has those of each.
    node: Option<Box<[u8]>>,
    daemon_ended: bool,
    /// All up to this was told before.
    skip: Option<Stamp>,
    /// Something may be missing before the next line.
    lost: Option<GapReason>,
    losses: Losses,
    /// The time of the last entry.
    placed: Option<Timestamp>,
}

impl Lines {
    /// The lines of a log that goes on where `checkpoint` was. `whole`: it has all the kernel's numbers.
    pub(super) fn new(about: About, source: Arc<str>, checkpoint: Option<&Checkpoint>, whole: bool) -> Self {
        let before = checkpoint.cloned().unwrap_or_default();
        Self {
            clock: Clock::new(about.zone.clone(), Timestamp::now()),
            named: Arc::clone(&about.host),
            about,
            source,
            scanner: Scanner::new(),
            bytes: Vec::new(),
            begin: 0,
            own: 0,
            thrown: 0,
            line: 0,
            serials: whole.then(|| before.serials()),
            newest: before.newest,
            last: before.last,
            stamp: before.stamp,
            node: None,
            daemon_ended: before.daemon_ended,
            skip: None,
            lost: None,
            losses: Losses::default(),
            placed: None,
        }
    }

    /// What follows is of this file, from behind its line `line`; `before` is what the file has before that.
    /// At its beginning, what was told last may belong to it: an event's records may be in two files.
    pub(super) fn begin(&mut self, source: Arc<str>, line: u64, before: &[u8]) {
        self.source = source;
        self.line = line;
        self.thrown = 0;
        self.bytes.truncate(self.begin);
        if !before.is_empty() {
            self.bytes.clear();
            self.bytes.extend_from_slice(before);
            if self.last.is_none() {
                let end = before.strip_suffix(b"\n").unwrap_or(before);
                let this = &before[memrchr(b'\n', end).map_or(0, |newline| newline + 1)..];
                let stamp = stamped(this).map(|stamped| stamped.stamp);
                self.last = Some(LastLine { digest: Digest::of_tail(this), stamp });
                self.stamp = self.stamp.or(stamp);
            }
        }
        self.begin = self.bytes.len();
        self.own = before.len();
    }

    /// Something may be missing before what comes next; its number tells, where it has one.
    pub(super) fn lost(&mut self, why: GapReason) {
        self.lost.get_or_insert(why);
    }

    /// Whether something may be missing before what comes next.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// What is not after the last stamp was told before: unless that is of a time yet to come, because the clock was
    /// set back. Then all that comes would seem to be before it.
    pub(super) fn skip_told(&mut self) {
        self.skip = self.stamp.filter(|stamp| !is_to_come(*stamp));
    }

    /// The last of the kernel's stamps in a line told.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// How many bytes came and are not told: a line without its end.
    pub(super) fn held(&self) -> u64 {
        (self.bytes.len() - self.begin) as u64 + self.thrown
    }

    /// The last bytes that came of this file, as many as are kept; and how many came after them.
    pub(super) fn came(&self) -> (&[u8], u64) {
        (&self.bytes[self.begin - self.own..], self.thrown)
    }

    /// How many lines were told of this file.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// What is to be kept of all this.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        let (newest, missing) = match &self.serials {
            Some(serials) => (serials.newest(), serials.missing().collect()),
            None => (self.newest, Vec::new()),
        };
        let (last, stamp, daemon_ended) = (self.last, self.stamp, self.daemon_ended);
        Checkpoint { file: None, last, stamp, newest, missing, daemon_ended }
    }

    /// Takes bytes that follow those before, and tells the lines that are whole.
    pub(super) fn push(&mut self, mut bytes: &[u8], told: &mut Told) {
        told.bytes += bytes.len() as u64;
        if self.thrown > 0 {
            let Some(newline) = memchr(b'\n', bytes) else {
                self.thrown += bytes.len() as u64;
                return;
            };
            self.thrown = 0;
            self.too_long(told);
            bytes = &bytes[newline + 1..];
        }
        let before = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        if let Some(newline) = memrchr(b'\n', &self.bytes[before..]) {
            self.tell(before + newline + 1, told);
        }
        let held = self.bytes.len() - self.begin;
        if held >= MAX_LINE {
            self.thrown = held as u64;
            self.bytes.truncate(self.begin);
        }
    }

    /// A line without its end is gone, and will not come.
    pub(super) fn drop_held(&mut self) {
        self.bytes.truncate(self.begin);
        self.thrown = 0;
    }

    /// What this file has from here on can't be had: it is packed, and damaged.
    pub(super) fn damaged(&mut self, why: &io::Error, told: &mut Told) {
        self.drop_held();
        self.unreadable(self.line + 1, format!("File is damaged, and the rest of it is lost: {why}"), told);
        self.lost(GapReason::Damaged);
    }

    /// Nothing more comes of this file: a line without its newline is told as it stands.
    pub(super) fn finish(&mut self, told: &mut Told) {
        if std::mem::take(&mut self.thrown) > 0 {
            self.too_long(told);
        }
        if self.begin < self.bytes.len() {
            self.bytes.push(b'\n');
            self.tell(self.bytes.len(), told);
        }
    }

    /// A line that was thrown away has its end.
    fn too_long(&mut self, told: &mut Told) {
        told.lines += 1;
        self.line += 1;
        // What is kept is not what comes before the place any more.
        self.own = 0;
        self.last = Some(LastLine { digest: Digest::of_tail(b""), stamp: None });
        self.unreadable(self.line, format!("Line is too long: {MAX_LINE} bytes are taken at most"), told);
    }

    fn unreadable(&self, line: u64, reason: String, told: &mut Told) {
        told.unreadable += 1;
        if told.located.len() < Told::KEPT {
            told.located.push(Unreadable { source: Arc::clone(&self.source), line, reason });
        }
    }

    /// Tells the lines up to `end`.
    fn tell(&mut self, end: usize, told: &mut Told) {
        let mut gaps = Vec::new();
        let from = self.number(end, &mut gaps);
        let Batch { found, unreadable, lines, .. } = self.scanner.lines(&self.bytes[..end], from);
        for (line, reason) in unreadable {
            self.unreadable(self.line + line + 1, reason.to_string(), told);
        }
        self.clock.set_limit(Timestamp::now());
        let mut gaps = gaps.into_iter().peekable();
        for (line, found) in found {
            while let Some((_, gap)) = gaps.next_if(|(before, _)| *before <= line) {
                told.entries.push(gap);
            }
            let entry = self.place(self.line + line + 1, found);
            self.put(entry, told);
        }
        told.entries.extend(gaps.map(|(_, gap)| gap));
        told.lines += lines;
        self.line += lines;
        self.own = (self.own + end - self.begin).min(CONTEXT).min(end);
        self.bytes.drain(..end.saturating_sub(CONTEXT));
        self.begin = end.min(CONTEXT);
    }

    /// Tells an entry, or what it says that its log lost.
    fn put(&mut self, entry: Entry, told: &mut Told) {
        let last = self.placed.replace(entry.time);
        let is_whole = self.serials.is_some();
        let gap = |gap| {
            let content = Content::Gap(gap);
            Entry { content, serial: None, writer: None, ..entry.clone() }
        };
        match self.losses.take(&entry.host, entry.time, &entry.content, is_whole, last) {
            losses::Told::Nothing => {}
            losses::Told::Same => told.entries.push(entry),
            losses::Told::Only(lost) => told.entries.push(gap(lost)),
            losses::Told::After(lost) => {
                let lost = gap(lost);
                told.entries.extend([lost, entry]);
            }
        }
    }

    /// Takes the stamps of the lines up to `end`. Where the first line begins that was not told before;
    /// what is missing comes before the line, from 0, that shows it.
    fn number(&mut self, end: usize, gaps: &mut Vec<(u64, Entry)>) -> usize {
        let (mut from, mut start, mut line) = (self.begin, self.begin, 0);
        let bytes = std::mem::take(&mut self.bytes);
        for newline in memchr_iter(b'\n', &bytes[self.begin..end]) {
            let next = self.begin + newline + 1;
            let this = &bytes[start..next];
            let stamped = stamped(this);
            let stamp = stamped.as_ref().map(|stamped| stamped.stamp);
            if self.skip.is_some_and(|skip| stamp.is_none_or(|stamp| !is_after(stamp, skip))) {
                self.line += 1;
                from = next;
            } else {
                self.skip = None;
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

    /// What the next line shows to be missing before it.
    fn missing(&mut self, stamped: Option<&Stamped<'_>>) -> Vec<Gap> {
        let Some(Stamped { node, stamp, daemon }) = stamped else {
            // A log that numbers nothing shows nothing.
            let unnumbered = self.stamp.is_none();
            let lost = self.lost.take_if(|_| unnumbered);
            return lost.map(|why| Gap { since: None, serials: None, why }).into_iter().collect();
        };
        if let Some(daemon) = daemon {
            // The daemon's own records have numbers of its own.
            self.daemon_ended = *daemon == Daemon::Ends;
            return Vec::new();
        }
        if **self.node.get_or_insert_with(|| (*node).into()) != **node {
            return Vec::new();
        }
        let ended = std::mem::take(&mut self.daemon_ended);
        let newest = self.serials.as_ref().map_or(self.newest, Serials::newest);
        self.newest = Some(stamp.serial);
        let lost = self.lost.take();
        let unwritten = match &mut self.serials {
            Some(serials) if lost.is_some() => serials.restart(Some(stamp.serial)),
            Some(serials) => serials.take(stamp.serial),
            None => Vec::new(),
        };
        let unwritten = unwritten.into_iter().map(|serials| Gap {
            since: None,
            serials: Some(serials),
            why: GapReason::NeverWritten,
        });
        unwritten.chain(lost.and_then(|why| self.across(newest, stamp.serial, ended, why))).collect()
    }

    /// What is missing between the number before a pause and the first after it.
    fn across(&self, newest: Option<u32>, serial: u32, ended: bool, why: GapReason) -> Option<Gap> {
        let serials = match newest.map(|newest| (newest, serial.wrapping_sub(newest))) {
            Some((_, 0 | 1)) => return None,
            Some((newest, ahead)) if ahead < u32::MAX / 2 => {
                Some((newest.wrapping_add(1), serial.wrapping_sub(1)))
            }
            // Another boot. A daemon that said that it ends had told all.
            _ if ended => return None,
            _ => None,
        };
        Some(Gap { since: self.stamp.and_then(moment), serials, why })
    }

    fn gap(&self, line: u64, stamp: Option<Stamp>, gap: Gap) -> Entry {
        Entry {
            host: Arc::clone(&self.about.host),
            time: stamp.and_then(moment).unwrap_or_else(Timestamp::now),
            serial: None,
            writer: None,
            source: Arc::clone(&self.source),
            line,
            content: Content::Gap(gap),
            copies: Vec::new(),
            unauthenticated: false,
        }
    }

    fn place(&mut self, line: u64, found: Found) -> Entry {
        let host = match found.host {
            None => Arc::clone(&self.about.host),
            Some(name) if is_same(&name, &self.about.host) => Arc::clone(&self.about.host),
            Some(name) => {
                if *name != *self.named {
                    self.named = name.as_str().into();
                }
                Arc::clone(&self.named)
            }
        };
        Entry {
            host,
            time: found.when.resolve(&mut self.clock),
            serial: found.serial,
            writer: found.writer,
            source: Arc::clone(&self.source),
            line,
            content: found.content,
            copies: Vec::new(),
            unauthenticated: found.is_claimed,
        }
    }
}

/// What audit's line says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamped<'a> {
    pub(super) node: &'a [u8],
    pub(super) stamp: Stamp,
    /// Whether the daemon made it up itself.
    pub(super) daemon: Option<Daemon>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Daemon {
    Ends,
    Other,
}

/// A line of audit's, without looking at what it tells.
pub(super) fn stamped(line: &[u8]) -> Option<Stamped<'_>> {
    let head = &line[..line.len().min(HEAD)];
    let end = memchr(b')', head)? + 1;
    let parsed = Line::parse(head.get(..=end)?).ok()?;
    let daemon = match parsed.type_name.strip_prefix(b"DAEMON_") {
        Some(b"END") => Some(Daemon::Ends),
        Some(_) => Some(Daemon::Other),
        None => None,
    };
    Some(Stamped { node: parsed.node.map_or(b"", |node| node), stamp: parsed.stamp, daemon })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_without_the_rest() {
        let stamp = Stamp { seconds: 1_795_460_022, millis: 944, serial: 2592 };
        let line = b"node=h1 type=SYSCALL msg=audit(1795460022.944:2592): arch=c000003e \xff";
        assert_eq!(stamped(line), Some(Stamped { node: b"h1", stamp, daemon: None }));
        let line = b"type=DAEMON_END msg=audit(1795460022.944:2592): op=terminate";
        assert_eq!(stamped(line), Some(Stamped { node: b"", stamp, daemon: Some(Daemon::Ends) }));
        for none in
            ["", ")", "type=X", "May 12 12:48:00 h audit[1]: VIRT_CONTROL (x)", "type=A msg=audit(1.2:3)"]
        {
            assert_eq!(stamped(none.as_bytes()), None, "{none}");
        }
    }
}
