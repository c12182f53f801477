//! Finds the position of a checkpoint in a log's files.

use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use jiff::SignedDuration;
use memchr::{memchr_iter, memmem};
use taptrail_record::Stamp;

use super::checkpoint::{Checkpoint, Digest, FilePosition, LastLine, timestamp};
use super::line_reader::parse_stamp;
use super::rotations::{LogFile, is_damage};

/// Bytes per read.
const READ_BYTES: usize = 64 * 1024;

/// Lines are out of order by at most this.
const LINE_TIME_SKEW: SignedDuration = SignedDuration::from_mins(1);

/// A position in one of a log's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResumePosition {
    /// Index of the file.
    pub(super) file: usize,
    pub(super) at: u64,
    pub(super) line: u64,
}

/// The position after checkpoint `checkpoint`, if it exists.
pub(super) fn find_position(
    files: &[LogFile],
    checkpoint: &Checkpoint,
) -> io::Result<Option<ResumePosition>> {
    let here = |(number, place): (usize, FilePosition)| ResumePosition {
        file: number,
        at: place.at,
        line: place.line,
    };
    if let Some(place) = checkpoint.file.filter(|place| place.at > 0) {
        let same = files.iter().enumerate().filter(|(_, file)| file.id == place.id);
        // Then its copies, newest first.
        let others = files.iter().enumerate().rev().filter(|(_, file)| file.id != place.id);
        for (number, file) in same.chain(others) {
            if matches_position(file, &place, checkpoint.last.as_ref())? {
                return Ok(Some(here((number, place))));
            }
        }
    }
    let searched = match (checkpoint.last, checkpoint.stamp) {
        (Some(LastLine { digest, stamp: Some(stamp) }), _) => search(files, stamp, digest)?,
        (_, Some(stamp)) => search(files, stamp, Digest::of_tail(b""))?,
        (_, None) => None,
    };
    // If nothing was read of the file yet, it can't be distinguished from another with the same
    // inode.
    let untouched = checkpoint.file.filter(|place| place.at == 0);
    let same = untouched.and_then(|place| Some((files.iter().position(|file| file.id == place.id)?, place)));
    Ok(searched.or(same.map(here)))
}

/// Whether a file has the same first bytes and the same line before the position. False for a
/// compressed file that is damaged before it.
fn matches_position(file: &LogFile, place: &FilePosition, last: Option<&LastLine>) -> io::Result<bool> {
    match has_same_bytes(file, place, last) {
        Err(error) if file.is_packed() && is_damage(&error) => Ok(false),
        read => read,
    }
}

fn has_same_bytes(file: &LogFile, place: &FilePosition, last: Option<&LastLine>) -> io::Result<bool> {
    let tail = last.map_or(0, |last| last.digest.len());
    if file.is_packed() {
        let mut bytes = file.reader()?;
        let Some(head) = read_exactly(&mut bytes, place.head.len())? else { return Ok(false) };
        if Digest::of_head(&head) != place.head {
            return Ok(false);
        }
        // The last line may begin within the first bytes.
        let from = place.at.saturating_sub(tail as u64);
        let between = from.checked_sub(head.len() as u64);
        let mut end = match between {
            Some(between) => {
                let skipped = io::copy(&mut (&mut bytes).take(between), &mut io::sink())?;
                if skipped < between {
                    return Ok(false);
                }
                Vec::new()
            }
            None => head[usize::try_from(from).unwrap_or(head.len())..].to_vec(),
        };
        let Some(rest) = read_exactly(&mut bytes, tail.saturating_sub(end.len()))? else { return Ok(false) };
        end.extend_from_slice(&rest);
        end.truncate(tail);
        return Ok(last.is_none_or(|last| Digest::of_tail(&end) == last.digest));
    }
    if file.size()? < place.at {
        return Ok(false);
    }
    let mut head = vec![0; place.head.len()];
    let mut end = vec![0; tail];
    let from = place.at.saturating_sub(tail as u64);
    let open = file.file()?;
    let read = open.read_exact_at(&mut head, 0).and_then(|()| open.read_exact_at(&mut end, from));
    match read {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    Ok(Digest::of_head(&head) == place.head && last.is_none_or(|last| Digest::of_tail(&end) == last.digest))
}

/// Reads exactly `count` bytes; `None` if there are fewer.
fn read_exactly(bytes: &mut impl Read, count: usize) -> io::Result<Option<Vec<u8>>> {
    let mut taken = vec![0; count];
    match bytes.read_exact(&mut taken) {
        Ok(()) => Ok(Some(taken)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Searches the last reported line by its time and serial number. Returns the position after that
/// line or, if it is gone, after the last line of its event.
fn search(files: &[LogFile], stamp: Stamp, digest: Digest) -> io::Result<Option<ResumePosition>> {
    let text = format!("({}.{:03}:{})", stamp.seconds, stamp.millis, stamp.serial);
    let wanted = memmem::Finder::new(text.as_bytes());
    for (number, file) in files.iter().enumerate().rev() {
        let first = file.first_stamp()?;
        if first.is_some_and(|first| is_long_after(first, stamp)) {
            continue;
        }
        if let Some((at, line)) = search_in(file, &wanted, stamp, digest)? {
            return Ok(Some(ResumePosition { file: number, at, line }));
        }
        if first.is_some_and(|first| is_long_after(stamp, first)) {
            // The file covers that time and does not have the line.
            break;
        }
    }
    Ok(None)
}

/// Whether `one` is later than `other` by more than [`LINE_TIME_SKEW`].
pub(super) fn is_long_after(one: Stamp, other: Stamp) -> bool {
    match (timestamp(one), timestamp(other)) {
        (Some(one), Some(other)) => one.duration_since(other) > LINE_TIME_SKEW,
        _ => one > other,
    }
}

/// Searches one file. Returns the position after the line, in bytes and lines.
fn search_in(
    file: &LogFile,
    wanted: &memmem::Finder<'_>,
    stamp: Stamp,
    digest: Digest,
) -> io::Result<Option<(u64, u64)>> {
    let mut bytes = file.reader()?;
    let (mut buffer, mut begin, mut at, mut line) = (Vec::new(), 0, 0_u64, 0_u64);
    let mut found = None;
    loop {
        buffer.drain(..begin);
        let filled = buffer.len();
        buffer.resize(filled + READ_BYTES, 0);
        let read = match bytes.read(&mut buffer[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) if file.is_packed() && is_damage(&error) => return Ok(found),
            Err(error) => return Err(error),
            Ok(0) => return Ok(found),
            Ok(read) => read,
        };
        buffer.truncate(filled + read);
        begin = 0;
        if wanted.find(&buffer).is_none() {
            // The stamp may begin in the last, incomplete line.
            for newline in memchr_iter(b'\n', &buffer) {
                line += 1;
                begin = newline + 1;
            }
            at += begin as u64;
            if begin == 0 && buffer.len() > crate::feed::MAX_LINE_BYTES {
                at += buffer.len() as u64;
                begin = buffer.len();
            }
            continue;
        }
        for newline in memchr_iter(b'\n', &buffer) {
            let this = &buffer[begin..=newline];
            begin = newline + 1;
            at += this.len() as u64;
            line += 1;
            if parse_stamp(this).is_some_and(|stamped| stamped.stamp == stamp) {
                found = Some((at, line));
                if Digest::of_tail(this) == digest {
                    return Ok(found);
                }
            }
        }
    }
}
