//! Entry points for fuzz targets: parsing without files and threads. Not part of the API.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use taptrail_trail::{Content, Entry, Trail};

use crate::feed::{Feed, MAX_LINE_BYTES, Piece};
use crate::follow::Checkpoint;
use crate::parsed_line::{Clock, ParsedLine};
use crate::scan::{Batch, Scanner};
use crate::shape::{self, Entries, first_time};

/// Reads a log's bytes like [`read`](crate::read), and feeds a trail with the entries.
pub fn log(bytes: &[u8]) -> Vec<Entry> {
    let feed = Feed::stream(Box::new(std::io::Cursor::new(bytes.to_vec())));
    let (scanner, mut piece, mut entries) = (Scanner::new(), Piece::default(), Vec::new());
    let mut clock = clock();
    // The scanner must not skip a line that parses. JSON could write the scanner's marks in several
    // ways, and journalctl uses only one, so JSON lines are not counted.
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| line.len() < MAX_LINE_BYTES);
    let read_marks = lines.filter(|line| {
        if let Some(when) = first_time(line) {
            when.resolve(&mut clock.clone());
        }
        matches!(shape::line(line), Ok(Some(_)))
    });
    let read_marks = read_marks.filter(|line| !line.contains(&b'{')).count();
    while let Ok(Some(_number)) = feed.fill(&mut piece) {
        let Batch { found, unreadable, .. } = scanner.scan(&piece);
        entries.extend(found.into_iter().map(|(line, found)| entry(line, found, &mut clock)));
        for (_, error) in unreadable {
            assert!(!error.to_string().is_empty());
        }
    }
    let opens = entries.iter().filter(|entry| matches!(entry.content, Content::KernelOpen(_))).count();
    assert!(entries.len() - opens >= read_marks, "{} of {read_marks}", entries.len() - opens);
    feed_trail(&entries);
    // Records of other resources come in addition, and change no other.
    let is_resource = |found: &(u64, ParsedLine)| matches!(found.1.content, Content::Resource(_));
    let Batch { mut found, .. } = Scanner::new().with_resources(true).lines(bytes, 0);
    found.retain(|one| !is_resource(one));
    let Batch { found: mut without, .. } = Scanner::new().lines(bytes, 0);
    without.retain(|one| !is_resource(one));
    assert_eq!(found, without);
    entries
}

/// Reads a journal's multi-line entries in pieces of `cut` bytes: an export, JSON over several
/// lines or `journalctl -o verbose`, recognized by their first bytes.
pub fn journal(bytes: &[u8], cut: usize) -> Vec<Entry> {
    let Some(mut journal) = Entries::begun_by(bytes) else { return Vec::new() };
    let (mut clock, mut entries) = (clock(), Vec::new());
    let mut take = |line, found: Result<ParsedLine, _>| {
        entries.extend(found.ok().map(|found| entry(line, found, &mut clock)))
    };
    for piece in bytes.chunks(cut.max(1)) {
        journal.push(piece, &mut take);
    }
    journal.finish(&mut take);
    feed_trail(&entries);
    entries
}

/// Searches a log for a date that shows whether the day comes first, in pieces of `cut` bytes and
/// at once.
pub fn date_order(bytes: &[u8], cut: usize) {
    struct Pieces<'a>(&'a [u8], usize);
    impl std::io::Read for Pieces<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let end = to.len().min(self.1);
            std::io::Read::read(&mut self.0, &mut to[..end])
        }
    }
    let whole = crate::order::day_first(bytes);
    let pieces = crate::order::day_first(Pieces(bytes, cut.max(1)));
    assert_eq!(whole.ok(), pieces.ok());
}

/// Parses a checkpoint. If it is valid, its text must be reproduced.
pub fn checkpoint(text: &str) {
    if let Ok(read) = text.parse::<Checkpoint>() {
        assert_eq!(read.to_string(), text);
        read.time();
    }
}

fn clock() -> Clock {
    Clock::new(TimeZone::UTC, Timestamp::from_second(1_800_000_000).unwrap_or_default())
}

fn entry(line: u64, found: ParsedLine, clock: &mut Clock) -> Entry {
    let ParsedLine { when, serial, host, writer, credentials, content, is_unauthenticated, .. } = found;
    let host: Arc<str> = host.map_or("?".into(), |host| host.as_str().into());
    Entry {
        host,
        time: when.resolve(clock),
        serial,
        writer,
        credentials,
        source: "fuzz".into(),
        line,
        content,
        text: None,
        copies: Vec::new(),
        unauthenticated: is_unauthenticated,
    }
}

fn feed_trail(entries: &[Entry]) {
    let mut trail = Trail::new();
    entries.iter().for_each(|entry| trail.feed(entry));
    trail.finish();
}
