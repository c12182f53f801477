//! Splits an input's bytes into pieces that begin and end at line boundaries.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memchr::{memchr, memrchr};

/// Bytes per piece: small enough for a core's cache, large enough that the system call's cost does
/// not matter.
const PIECE_BYTES: usize = 1024 * 1024;

/// Bytes before a piece that come with it, so that a line can be parsed together with those before
/// it.
pub(crate) const CONTEXT_BYTES: usize = 8 * 1024;

/// Maximum bytes parsed of one line. The rest of a longer line is skipped.
pub(crate) const MAX_LINE_BYTES: usize = 256 * 1024;

/// Alignment of the memory that a file is read into. Allocators put a large buffer 16 bytes after
/// a page's begin. There, the kernel's copy (`rep movsb`) takes a third longer on an AMD EPYC of
/// 2022, and with 8 bytes three times as long.
const READ_ALIGNMENT: usize = 64;

/// Complete lines, with the context before them.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that are unused, so that what is read is aligned.
    unused: usize,
    /// Offset of the first line after the unused bytes.
    begin: usize,
    /// Input bytes that this piece accounts for.
    pub(crate) size: u64,
}

impl Piece {
    /// All bytes, and the offset of the first line. The last line has no newline if it is the
    /// input's last, or too long.
    pub(crate) fn lines(&self) -> (&[u8], usize) {
        (&self.bytes[self.unused..], self.begin)
    }
}

/// Hands out an input's pieces to several threads.
#[derive(Debug)]
pub(crate) enum Feed {
    /// A file that is read at any offset: the threads read in parallel.
    File(FileFeed),
    /// Sequential bytes, from a pipe or a decompressor.
    Stream(Mutex<StreamFeed>),
}

impl Feed {
    /// Reads a file. The number of bytes read is added to `stored`.
    pub(crate) fn file(file: File, stored: Arc<AtomicU64>) -> Self {
        Self::File(FileFeed { file, next: AtomicU64::new(0), stored })
    }

    pub(crate) fn stream(bytes: Box<dyn Read + Send>) -> Self {
        Self::Stream(Mutex::new(StreamFeed {
            bytes,
            next: 0,
            carry: Vec::new(),
            begin: 0,
            over_long: false,
            ended: false,
            failed: None,
        }))
    }

    /// Fills `piece` with the next piece and returns its number, from 0; `None` at the end.
    pub(crate) fn fill(&self, piece: &mut Piece) -> io::Result<Option<u64>> {
        match self {
            Self::File(feed) => feed.fill(piece),
            Self::Stream(feed) => feed.lock().unwrap_or_else(PoisonError::into_inner).fill(piece),
        }
    }
}

/// See [`Feed::File`]. Piece N has the lines that begin in the Nth `PIECE_BYTES` bytes of the file.
#[derive(Debug)]
pub(crate) struct FileFeed {
    file: File,
    next: AtomicU64,
    stored: Arc<AtomicU64>,
}

impl FileFeed {
    fn fill(&self, piece: &mut Piece) -> io::Result<Option<u64>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let at = number.saturating_mul(PIECE_BYTES as u64);
        let context = if number == 0 { 0 } else { CONTEXT_BYTES };
        let from = at - context as u64;
        let bytes = &mut piece.bytes;
        // The bytes beyond the piece usually contain the rest of its last line.
        let end = context + PIECE_BYTES;
        bytes.resize(READ_ALIGNMENT + end + CONTEXT_BYTES, 0);
        let unused = bytes.as_ptr().align_offset(READ_ALIGNMENT).min(READ_ALIGNMENT);
        let read = self.read(&mut bytes[unused..unused + end + CONTEXT_BYTES], from)?;
        bytes.truncate(unused + read);
        piece.unused = unused;
        if read <= context {
            // No line begins here: the file ends, or was truncated meanwhile.
            return Ok(None);
        }
        piece.size = (read.min(end) - context) as u64;
        self.stored.fetch_add(piece.size, Ordering::Relaxed);
        piece.begin = match context.checked_sub(1) {
            None => 0,
            Some(before) => match memchr(b'\n', &bytes[unused + before..]) {
                Some(newline) => before + newline + 1,
                None => read,
            },
        };
        if piece.begin >= end {
            // A line that began earlier is longer than this piece.
            piece.begin = piece.begin.min(end);
            bytes.truncate(unused + piece.begin);
        } else if read > end {
            match memchr(b'\n', &bytes[unused + end - 1..]) {
                Some(newline) => bytes.truncate(unused + end + newline),
                None if read == end + CONTEXT_BYTES => self.finish_line(bytes, from + read as u64)?,
                None => {}
            }
        }
        Ok(Some(number))
    }

    /// Reads until the last line is complete, or longer than [`MAX_LINE_BYTES`].
    fn finish_line(&self, bytes: &mut Vec<u8>, mut at: u64) -> io::Result<()> {
        let mut line = bytes.len() - memrchr(b'\n', bytes).map_or(0, |newline| newline + 1);
        while line < MAX_LINE_BYTES {
            let end = bytes.len();
            bytes.resize(end + 8 * CONTEXT_BYTES, 0);
            let read = self.read(&mut bytes[end..], at)?;
            let newline = memchr(b'\n', &bytes[end..end + read]);
            bytes.truncate(end + newline.map_or(read, |newline| newline + 1));
            if newline.is_some() || read < 8 * CONTEXT_BYTES {
                return Ok(());
            }
            at += read as u64;
            line += read;
        }
        Ok(())
    }

    /// Fills `bytes`, unless the file ends first.
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// See [`Feed::Stream`].
pub(crate) struct StreamFeed {
    bytes: Box<dyn Read + Send>,
    next: u64,
    /// Bytes read and not handed out yet, with the context before them.
    carry: Vec<u8>,
    /// Offset in `carry` where the context ends.
    begin: usize,
    /// Whether the first part of an over-long line was handed out, and its rest is skipped.
    over_long: bool,
    ended: bool,
    /// The read error that ended the input. Returned once, after all bytes read before it.
    failed: Option<io::Error>,
}

impl std::fmt::Debug for StreamFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamFeed").field("next", &self.next).finish_non_exhaustive()
    }
}

impl StreamFeed {
    fn fill(&mut self, piece: &mut Piece) -> io::Result<Option<u64>> {
        let bytes = &mut piece.bytes;
        bytes.clear();
        bytes.append(&mut self.carry);
        (piece.unused, piece.begin) = (0, self.begin);
        piece.size = 0;
        loop {
            let end = bytes.len();
            let lines = if self.ended {
                Some(end)
            } else {
                memrchr(b'\n', &bytes[piece.begin..]).map(|at| piece.begin + at + 1)
            };
            match lines {
                Some(lines) if self.ended || lines - piece.begin >= PIECE_BYTES / 2 => {
                    return self
                        .give(piece, lines)
                        .map_or_else(|| self.failed.take().map_or(Ok(None), Err), |number| Ok(Some(number)));
                }
                _ if end - piece.begin >= MAX_LINE_BYTES => {
                    let lines = lines.unwrap_or(end);
                    self.over_long = lines == end && bytes.last() != Some(&b'\n');
                    return Ok(self.give(piece, lines));
                }
                _ => {}
            }
            bytes.resize(end + PIECE_BYTES / 4, 0);
            let read = match self.bytes.read(&mut bytes[end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    bytes.truncate(end);
                    continue;
                }
                Err(error) => {
                    self.failed = Some(error);
                    0
                }
                Ok(read) => read,
            };
            bytes.truncate(end + read);
            piece.size += read as u64;
            self.ended = read == 0;
            if self.over_long {
                let rest = memchr(b'\n', &bytes[end..]);
                self.over_long = rest.is_none();
                bytes.drain(end..rest.map_or(bytes.len(), |newline| end + newline + 1));
            }
        }
    }

    /// Hands out the lines up to `end` and keeps the rest, with its context.
    fn give(&mut self, piece: &mut Piece, end: usize) -> Option<u64> {
        let from = end.saturating_sub(CONTEXT_BYTES);
        self.carry.extend_from_slice(&piece.bytes[from..]);
        self.begin = end - from;
        piece.bytes.truncate(end);
        if piece.begin == end && self.ended {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use proptest::prelude::*;

    use super::*;

    /// The lines of all pieces, and the sum of their sizes.
    fn lines(feed: &Feed) -> (Vec<Vec<u8>>, u64) {
        let (mut piece, mut lines, mut size) = (Piece::default(), Vec::new(), 0);
        while let Some(_number) = feed.fill(&mut piece).unwrap() {
            size += piece.size;
            let (bytes, begin) = piece.lines();
            let text = &bytes[begin..];
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            if begin < bytes.len() {
                lines.extend(text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec));
            }
        }
        (lines, size)
    }

    fn file(bytes: &[u8]) -> Feed {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        Feed::file(file, Arc::default())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_line_comes_once_and_whole(lengths in prop::collection::vec(prop_oneof![0..200_usize, 8_000..9_000_usize, 60_000..250_000_usize], 0..60), torn in any::<bool>()) {
            let mut bytes = Vec::new();
            let mut expect = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let line = vec![b'a' + u8::try_from(number % 26).unwrap(); length];
                bytes.extend_from_slice(&line);
                bytes.push(b'\n');
                expect.push(line);
            }
            if torn {
                bytes.extend_from_slice(b"torn");
                expect.push(b"torn".to_vec());
            }
            let size = bytes.len() as u64;
            prop_assert_eq!(lines(&file(&bytes)), (expect.clone(), size));
            prop_assert_eq!(lines(&Feed::stream(Box::new(io::Cursor::new(bytes)))), (expect, size));
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_ends_there() {
        let mut log = tempfile::tempfile().unwrap();
        log.write_all(&b"a line\n".repeat(PIECE_BYTES)).unwrap();
        let feed = Feed::file(log.try_clone().unwrap(), Arc::default());
        let mut piece = Piece::default();
        assert_eq!(feed.fill(&mut piece).unwrap(), Some(0));
        log.set_len(PIECE_BYTES as u64 + 10).unwrap();
        assert_eq!(feed.fill(&mut piece).unwrap(), Some(1));
        assert_eq!(piece.size, 10);
        assert_eq!(feed.fill(&mut piece).unwrap(), None);
    }

    #[test]
    fn a_line_too_long_is_given_in_part_and_its_rest_passed_over() {
        let mut bytes = b"first\n".to_vec();
        bytes.resize(10 * 1024 * 1024, b'x');
        bytes.extend_from_slice(b"\nlast\n");
        for feed in [file(&bytes), Feed::stream(Box::new(io::Cursor::new(bytes.clone())))] {
            let (lines, size) = lines(&feed);
            assert_eq!((lines.len(), size), (3, bytes.len() as u64));
            assert_eq!((lines[0].as_slice(), lines[2].as_slice()), (b"first".as_slice(), b"last".as_slice()));
            assert!(
                (MAX_LINE_BYTES..PIECE_BYTES + 2 * CONTEXT_BYTES).contains(&lines[1].len()),
                "{}",
                lines[1].len()
            );
        }
    }
}
