//! The place where a log was left, found again.

use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use jiff::SignedDuration;
use memchr::{memchr_iter, memmem};
use taptrail_record::Stamp;

use super::checkpoint::{Checkpoint, Digest, FilePlace, LastLine, moment};
use super::lines::stamped;
use super::rotations::{LogFile, is_damage};

/// How much is read of a file at once.
const PIECE: usize = 64 * 1024;

/// How far lines are out of order.
const DISORDER: SignedDuration = SignedDuration::from_mins(1);

/// A place in one of a log's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which file, of those given.
    pub(super) file: usize,
    pub(super) at: u64,
    pub(super) line: u64,
}

/// Where the log goes on behind `left`, if that place is there.
pub(super) fn find(files: &[LogFile], left: &Checkpoint) -> io::Result<Option<Place>> {
    let here = |(number, place): (usize, FilePlace)| Place { file: number, at: place.at, line: place.line };
    if let Some(place) = left.file.filter(|place| place.at > 0) {
        let same = files.iter().enumerate().filter(|(_, file)| file.id == place.id);
        // Its copies then, the newest first.
        let others = files.iter().enumerate().rev().filter(|(_, file)| file.id != place.id);
        for (number, file) in same.chain(others) {
            if holds(file, &place, left.last.as_ref())? {
                return Ok(Some(here((number, place))));
            }
        }
    }
    let searched = match (left.last, left.stamp) {
        (Some(LastLine { digest, stamp: Some(stamp) }), _) => search(files, stamp, digest)?,
        (_, Some(stamp)) => search(files, stamp, Digest::of_tail(b""))?,
        (_, None) => None,
    };
    // Of which nothing was read yet can't be told from another that has its inode by now.
    let untouched = left.file.filter(|place| place.at == 0);
    let same = untouched.and_then(|place| Some((files.iter().position(|file| file.id == place.id)?, place)));
    Ok(searched.or(same.map(here)))
}

/// Whether a file begins as it did, and has the same line before the place. One that is damaged before it does not.
fn holds(file: &LogFile, place: &FilePlace, last: Option<&LastLine>) -> io::Result<bool> {
    match reads_alike(file, place, last) {
        Err(error) if file.is_packed() && is_damage(&error) => Ok(false),
        read => read,
    }
}

fn reads_alike(file: &LogFile, place: &FilePlace, last: Option<&LastLine>) -> io::Result<bool> {
    let tail = last.map_or(0, |last| last.digest.len());
    if file.is_packed() {
        let mut bytes = file.reader()?;
        let Some(head) = take(&mut bytes, place.head.len())? else { return Ok(false) };
        if Digest::of_head(&head) != place.head {
            return Ok(false);
        }
        // The last line may be within the first bytes.
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
        let Some(rest) = take(&mut bytes, tail.saturating_sub(end.len()))? else { return Ok(false) };
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

/// So many bytes, unless there are fewer.
fn take(bytes: &mut impl Read, count: usize) -> io::Result<Option<Vec<u8>>> {
    let mut taken = vec![0; count];
    match bytes.read_exact(&mut taken) {
        Ok(()) => Ok(Some(taken)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Behind the last line told, by its time and number: behind the very line if it is there, else behind the
/// last line of its event.
fn search(files: &[LogFile], stamp: Stamp, digest: Digest) -> io::Result<Option<Place>> {
    let text = format!("({}.{:03}:{})", stamp.seconds, stamp.millis, stamp.serial);
    let wanted = memmem::Finder::new(text.as_bytes());
    for (number, file) in files.iter().enumerate().rev() {
        let first = file.first_stamp()?;
        if first.is_some_and(|first| is_long_after(first, stamp)) {
            continue;
        }
        if let Some((at, line)) = search_in(file, &wanted, stamp, digest)? {
            return Ok(Some(Place { file: number, at, line }));
        }
        if first.is_some_and(|first| is_long_after(stamp, first)) {
            // It covers that time, and does not have it.
            break;
        }
    }
    Ok(None)
}

/// Whether one stamp is later than another by more than disorder.
pub(super) fn is_long_after(one: Stamp, other: Stamp) -> bool {
    match (moment(one), moment(other)) {
        (Some(one), Some(other)) => one.duration_since(other) > DISORDER,
        _ => one > other,
    }
}

/// The place behind the line in one file: bytes and lines before it.
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
        buffer.resize(filled + PIECE, 0);
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
            // Its end may hold the beginning of it.
            for newline in memchr_iter(b'\n', &buffer) {
                line += 1;
                begin = newline + 1;
            }
            at += begin as u64;
            if begin == 0 && buffer.len() > crate::feed::MAX_LINE {
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
            if stamped(this).is_some_and(|stamped| stamped.stamp == stamp) {
                found = Some((at, line));
                if Digest::of_tail(this) == digest {
                    return Ok(found);
                }
            }
        }
    }
}
