//! Opens inputs, and detects their format by their first bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Cursor, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;

use crate::SourceError;
use crate::deferred::{DeferredFile, FileIdentity};
use crate::feed::{Feed, MAX_LINE_BYTES};
use crate::order;
use crate::parsed_line::Clock;
use crate::scan::Scanning;
use crate::shape::Entries;
use crate::stream::Stream;

/// Bytes of an input that are examined before it is read: enough for some lines.
const HEAD_BYTES: usize = 64 * 1024;

/// Maximum memory of a decoder, in bytes; `xz -9` and `zstd -19` need less.
const MAX_DECODER_BYTES: u64 = 128 * 1024 * 1024;

/// An open input and its first bytes. It is decompressed only when it is read: many rotations may
/// be waiting.
pub(crate) struct Opened {
    bytes: Bytes,
    packing: Packing,
    /// Its first bytes, decompressed; not needed to read it.
    pub(crate) head: Vec<u8>,
    /// The parser of its entries, if they have several lines.
    entries: Option<Box<Entries>>,
    /// Size on disk, if known.
    pub(crate) size: Option<u64>,
    /// Identity, if it is a file.
    pub(crate) identity: Option<FileIdentity>,
    /// Modification time.
    pub(crate) modified: Option<Timestamp>,
}

enum Bytes {
    File(DeferredFile),
    Pipe(Box<dyn Read + Send>),
}

/// Number of stored (compressed) bytes read so far.
pub(crate) type Stored = Arc<AtomicU64>;

impl Opened {
    /// Opens a file or a named pipe.
    pub(crate) fn file(path: &Path) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if about.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        if !about.is_file() {
            return Self::pipe(Box::new(file), &path.display().to_string());
        }
        Self::deferred(DeferredFile::Open(file), path)
    }

    /// Takes a file that was opened earlier, under this name.
    pub(crate) fn deferred(deferred: DeferredFile, path: &Path) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Open { path: path.to_owned(), source };
        let file = deferred.get().map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        let mut front = vec![0; HEAD_BYTES];
        let read = file.read_at(&mut front, 0).map_err(failed)?;
        front.truncate(read);
        let packing = Packing::of(&front, &path.display().to_string())?;
        let head = match packing {
            Packing::None => front,
            _ => packing.open(Box::new(&*file)).and_then(|mut bytes| head(&mut bytes)).map_err(failed)?,
        };
        drop(file);
        let modified = about.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
        let entries = Entries::begun_by(&head).map(Box::new);
        Ok(Self {
            bytes: Bytes::File(deferred),
            packing,
            head,
            entries,
            size: Some(about.len()),
            identity: Some(FileIdentity::of(&about)),
            modified,
        })
    }

    /// Takes a stream of bytes, compressed or not.
    pub(crate) fn pipe(mut bytes: Box<dyn Read + Send>, name: &str) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Read { name: name.to_owned(), at: 0, source };
        let front = head(&mut bytes).map_err(failed)?;
        let packing = Packing::of(&front, name)?;
        let bytes = Box::new(Cursor::new(front).chain(bytes));
        // Decompress now: a pipe can be read only once.
        let mut bytes = packing.open(bytes).map_err(failed)?;
        let head = head(&mut bytes).map_err(failed)?;
        let bytes = Bytes::Pipe(Box::new(Cursor::new(head.clone()).chain(bytes)));
        let entries = Entries::begun_by(&head).map(Box::new);
        Ok(Self { bytes, packing: Packing::None, head, entries, size: None, identity: None, modified: None })
    }

    /// Stored bytes that will be read, unless the file is truncated meanwhile; 0 if not known.
    pub(crate) fn expected(&self) -> u64 {
        // Compressed data may end before its file does.
        self.size.filter(|_| self.packing == Packing::None).unwrap_or(0)
    }

    /// The clock for its lines. If the first date is ambiguous, like 08/05, the whole file is
    /// searched for one that shows whether the day comes first. A pipe can't be searched.
    pub(crate) fn clock(&self, mut clock: Clock) -> Clock {
        let Bytes::File(file) = &self.bytes else { return clock };
        if !order::is_open(&self.head) {
            return clock;
        }
        let search = || {
            let file = file.get()?;
            (&*file).rewind()?;
            order::day_first(self.packing.open(Box::new(&*file))?)
        };
        // Read errors are reported when the file is read.
        if let Ok(Some(day_first)) = search() {
            clock.set_day_first(day_first);
        }
        clock
    }

    /// Closes its descriptor until it is read, if it can be reopened.
    pub(crate) fn close(&mut self, path: &Path) -> io::Result<()> {
        match &mut self.bytes {
            Bytes::File(file) => file.close(path),
            Bytes::Pipe(_) => Ok(()),
        }
    }

    /// Whether its entries have several lines each.
    pub(crate) fn has_multiline_entries(&self) -> bool {
        self.entries.is_some()
    }

    /// Begins to read it from the first byte.
    pub(crate) fn start(self, scanning: Scanning) -> io::Result<(Stream, Stored)> {
        let stored = Stored::default();
        let counted = |bytes| Counted { bytes, stored: Arc::clone(&stored) };
        let entries = self.entries;
        let bytes: Box<dyn Read + Send> = match self.bytes {
            Bytes::File(file) if self.packing == Packing::None && entries.is_none() => {
                let file = file.into_file()?;
                return Ok((Stream::of_lines(Feed::file(file, Arc::clone(&stored)), scanning)?, stored));
            }
            Bytes::File(file) => {
                let mut file = file.into_file()?;
                file.rewind()?;
                self.packing.open(Box::new(counted(Box::new(file))))?
            }
            Bytes::Pipe(bytes) => Box::new(counted(bytes)),
        };
        let stream = match entries {
            Some(mut entries) => {
                if scanning.keep_text {
                    entries.keep_text();
                }
                Stream::of_entries(bytes, *entries)
            }
            None => Stream::of_lines(Feed::stream(bytes), scanning),
        };
        Ok((stream?, stored))
    }
}

/// Reads some lines of a file, e.g. to show them as proof: the keys of `wanted` are line numbers
/// from 1, the texts are put into its values. `identity` is the file that was read before, if
/// known: it is found even if it was renamed.
///
/// # Errors
///
/// The file can't be opened or read so far, or is not a regular file.
pub fn read_lines(
    path: &Path,
    identity: Option<FileIdentity>,
    wanted: &mut BTreeMap<u64, Option<Vec<u8>>>,
) -> io::Result<()> {
    let file = match identity {
        Some(identity) => identity.open(path)?.ok_or(io::ErrorKind::NotFound)?,
        None => File::open(path)?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut front = [0; 16];
    let read = file.read_at(&mut front, 0)?;
    let packing = Packing::of(&front[..read], "").unwrap_or(Packing::None);
    let mut bytes = BufReader::with_capacity(HEAD_BYTES, packing.open(Box::new(file))?);
    let mut before = 0;
    for (&line, text) in wanted {
        while before + 1 < line {
            if bytes.skip_until(b'\n')? == 0 {
                return Ok(());
            }
            before += 1;
        }
        let mut found = Vec::new();
        if (&mut bytes).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut found)? == 0 {
            return Ok(());
        }
        if found.pop_if(|last| *last == b'\n').is_none() {
            bytes.skip_until(b'\n')?;
        }
        before += 1;
        *text = Some(found);
    }
    Ok(())
}

/// Counts the bytes read.
struct Counted {
    bytes: Box<dyn Read + Send>,
    stored: Stored,
}

impl Read for Counted {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(to)?;
        self.stored.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads the first bytes: one system call, or more until there is a complete line.
fn head(bytes: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD_BYTES];
    let mut filled = 0;
    // A pipe may deliver a line an hour: do not wait for more than is needed to detect the shape.
    while filled < HEAD_BYTES && !(filled >= 8 && head[..filled].contains(&b'\n')) {
        match bytes.read(&mut head[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(filled);
    Ok(head)
}

/// The compression of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Packing {
    /// Detects the compression by the first bytes (RFC 1952, section 2.3.1; the .xz file format,
    /// section 2.1.1.1; RFC 8878, section 3.1.1; systemd's JOURNAL_FILE_FORMAT; and the magic
    /// numbers of unsupported formats).
    pub(crate) fn of(head: &[u8], name: &str) -> Result<Self, SourceError> {
        let not_read = |format, command| Err(SourceError::Packed { name: name.to_owned(), format, command });
        Ok(match head {
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => {
                return not_read("packed by bzip2", "bzip2 -dc");
            }
            [0x04, 0x22, 0x4D, 0x18, ..] => return not_read("packed by lz4", "lz4 -dc"),
            [b'P', b'K', 3, 4, ..] => return not_read("a ZIP archive", "unzip -p"),
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => return not_read("text in UTF-16", "iconv -f UTF-16"),
            [0x1F, 0x8B, ..] => Self::Gzip,
            [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Self::Zstd,
            [b'L', b'P', b'K', b'S', b'H', b'H', b'R', b'H', ..] => {
                return Err(SourceError::BinaryJournal { name: name.to_owned() });
            }
            _ => Self::None,
        })
    }

    pub(crate) fn open<'a>(self, bytes: Box<dyn Read + Send + 'a>) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => bytes,
            Self::Gzip => Box::new(MultiGzDecoder::new(bytes)),
            Self::Xz => {
                let flags = liblzma::stream::CONCATENATED;
                let decoder = liblzma::stream::Stream::new_stream_decoder(MAX_DECODER_BYTES, flags)?;
                Box::new(liblzma::read::XzDecoder::new_stream(bytes, decoder))
            }
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(bytes)?;
                decoder.window_log_max(MAX_DECODER_BYTES.ilog2())?;
                Box::new(decoder)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use jiff::tz::TimeZone;

    use super::*;
    use crate::shape::first_time;

    // Shows 10.40.
    #[test]
    fn unsupported_formats_are_named_with_a_command_that_decodes_them() {
        for (head, what) in [
            (&b"BZh91AY&SY"[..], "bzip2 -dc a"),
            (b"\x04\x22\x4d\x18", "lz4 -dc a"),
            (b"PK\x03\x04", "unzip -p a"),
            (b"\xff\xfet\0", "iconv -f UTF-16 a"),
        ] {
            let error = Packing::of(head, "a").unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    fn first_day(log: &[u8], date_guessed: bool) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(log).unwrap();
        let opened = Opened::file(file.path()).unwrap();
        let mut clock = opened.clock(Clock::new(TimeZone::UTC, Timestamp::MAX));
        let first = first_time(&opened.head[..opened.head.len().min(100)]).unwrap();
        let day = first.resolve(&mut clock).strftime("%F").to_string();
        assert_eq!(clock.date_guessed, date_guessed);
        // The search has not consumed the file.
        let (mut stream, _) = opened
            .start(Scanning { threads: std::num::NonZero::<usize>::MIN, resources: false, keep_text: false })
            .unwrap();
        let lines: u64 = std::iter::from_fn(|| stream.next()).map(|batch| batch.unwrap().lines).sum();
        assert_eq!(lines, 2001);
        day
    }

    #[test]
    fn a_date_at_the_end_of_a_file_decides_how_the_first_is_read() {
        let line = |date: &str| format!("type=CWD msg=audit({date}/2014 17:01:05.891:1) : cwd=/\n");
        let log = |last: &str| format!("{}{}", line("08/05").repeat(2000), line(last)).into_bytes();
        for (last, day, date_guessed) in
            [("25/11", "2014-05-08", false), ("11/25", "2014-08-05", false), ("09/05", "2014-08-05", true)]
        {
            let log = log(last);
            assert_eq!(first_day(&log, date_guessed), day, "{last}");
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(&log).unwrap();
            assert_eq!(first_day(&packed.finish().unwrap(), date_guessed), day, "{last}, packed");
        }
    }
}
