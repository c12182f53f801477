//! An object as the Parquet library reads it: by parts, each within limits.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::{LakeError, Limits, Store};

/// The bytes at the end of an object that are fetched with its footer: the page index lies there.
const TAIL: u64 = 64 << 10;

/// The last bytes of an object: the length of its footer, and Parquet's mark.
const MARK: usize = 8;

/// An object in a store.
#[derive(Clone)]
pub(crate) struct RemoteObject {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    file: Option<File>,
    path: Arc<str>,
    bytes: u64,
    limits: Limits,
    tail: Bytes,
    /// Whether only pages are read from here on.
    pages: AtomicBool,
    /// The store's error, which the library turns into text.
    failed: Mutex<Option<LakeError>>,
}

impl RemoteObject {
    /// Opens an object of this size, and checks the length of its footer.
    pub(crate) fn open(
        store: &Arc<Store>,
        path: &Arc<str>,
        bytes: u64,
        limits: Limits,
    ) -> Result<Self, LakeError> {
        if bytes > limits.object {
            return Err(LakeError::damaged(path, format!("it has {bytes} bytes")));
        }
        // A mark at each end, and the footer's length.
        if bytes < 12 {
            return Err(LakeError::damaged(path, "it is too short"));
        }
        let file = store.file(path)?;
        let mut object = Shared {
            store: Arc::clone(store),
            file,
            path: Arc::clone(path),
            bytes,
            limits,
            tail: Bytes::new(),
            pages: AtomicBool::new(false),
            failed: Mutex::new(None),
        };
        object.tail = object.fetch(bytes.saturating_sub(TAIL)..bytes)?;
        let mark = object.tail.len().checked_sub(MARK).and_then(|at| object.tail.get(at..));
        let footer = mark.and_then(|mark| Some(u32::from_le_bytes(mark.get(..4)?.try_into().ok()?)));
        match footer {
            Some(footer) if u64::from(footer) <= limits.footer => {}
            Some(footer) => return Err(LakeError::damaged(path, format!("its footer has {footer} bytes"))),
            None => return Err(LakeError::damaged(path, "it has no footer")),
        }
        Ok(Self { shared: Arc::new(object) })
    }

    /// From here on only pages are read: each is checked before it is decoded.
    pub(crate) fn check_pages(&self) {
        self.shared.pages.store(true, Ordering::Relaxed);
    }

    /// The object's error: the store's, or that it is damaged in this way.
    pub(crate) fn error(&self, reason: impl ToString) -> LakeError {
        let failed = self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.unwrap_or_else(|| LakeError::damaged(&self.shared.path, reason))
    }

    fn part(&self, range: Range<u64>) -> parquet::errors::Result<Bytes> {
        let part = self.shared.part(range)?;
        if self.shared.pages.load(Ordering::Relaxed) {
            check_page(&part, &self.shared.limits)?;
        }
        Ok(part)
    }
}

impl Shared {
    fn part(&self, range: Range<u64>) -> parquet::errors::Result<Bytes> {
        if range.end - range.start > self.limits.read {
            return Err(ParquetError::General(format!("a part of it has {} bytes", range.end - range.start)));
        }
        let tail = self.bytes - self.tail.len() as u64;
        if let Some(start) = range.start.checked_sub(tail) {
            let within = usize::try_from(start).ok().zip(usize::try_from(range.end - tail).ok());
            if let Some((start, end)) = within {
                return Ok(self.tail.slice(start..end));
            }
        }
        self.fetch(range).map_err(|error| {
            let text = error.to_string();
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            ParquetError::General(text)
        })
    }

    fn fetch(&self, range: Range<u64>) -> Result<Bytes, LakeError> {
        let Some(file) = &self.file else { return self.store.range(&self.path, range) };
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut part = vec![0; length];
        file.read_exact_at(&mut part, range.start)
            .map_err(|error| LakeError::damaged(&self.path, format!("it can't be read: {error}")))?;
        Ok(part.into())
    }
}

impl Length for RemoteObject {
    fn len(&self) -> u64 {
        self.shared.bytes
    }
}

impl ChunkReader for RemoteObject {
    type T = std::io::Cursor<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        // Pages are read by `get_bytes`, as the page index has their sizes.
        let end = start.saturating_add(TAIL).min(self.shared.bytes);
        let start = start.min(end);
        self.shared.part(start..end).map(std::io::Cursor::new)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let end = start.checked_add(length as u64).filter(|end| *end <= self.shared.bytes);
        let end =
            end.ok_or_else(|| ParquetError::EOF(format!("{length} bytes at {start} are outside it")))?;
        self.part(start..end)
    }
}

/// Checks a page by its header: how large it is when it is decompressed, and how many values it has.
/// The library allocates memory by these.
fn check_page(page: &[u8], limits: &Limits) -> parquet::errors::Result<()> {
    let header =
        PageHeader::parse(page).ok_or_else(|| ParquetError::General("a page has no header".into()))?;
    let is_within = |value: i64, most: u64| u64::try_from(value).is_ok_and(|value| value <= most);
    if !is_within(header.decompressed, limits.page) {
        return Err(ParquetError::General(format!("a page of it has {} bytes", header.decompressed)));
    }
    if !is_within(header.values, limits.values) {
        return Err(ParquetError::General(format!("a page of it has {} values", header.values)));
    }
    Ok(())
}

/// The part of a page's header that is checked (`PageHeader` in parquet.thrift, in Thrift's compact
/// protocol).
struct PageHeader {
    decompressed: i64,
    values: i64,
}

/// The compact protocol's types of a field.
const I32: u8 = 5;
const STRUCT: u8 = 12;

impl PageHeader {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut at = bytes.iter().copied();
        let mut decompressed = None;
        let mut field = 0;
        loop {
            let (next, kind) = field_of(at.next()?, field)?;
            field = next;
            match (field, kind) {
                (2, I32) => decompressed = Some(varint(&mut at)?),
                (1..=4, I32) => {
                    varint(&mut at)?;
                }
                // Of each kind of page, the first field has the number of its values.
                (5 | 7 | 8, STRUCT) => {
                    let (1, I32) = field_of(at.next()?, 0)? else { return None };
                    return Some(Self { decompressed: decompressed?, values: varint(&mut at)? });
                }
                _ => return None,
            }
        }
    }
}

/// The number and type of a field, by its first byte and the field before.
fn field_of(byte: u8, before: u8) -> Option<(u8, u8)> {
    let (step, kind) = (byte >> 4, byte & 15);
    // The long form is for steps over 15, of which there are none.
    (step > 0).then(|| before.checked_add(step)).flatten().map(|field| (field, kind))
}

/// A number in zigzag form.
fn varint(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut value: u64 = 0;
    for shift in (0..35).step_by(7) {
        let byte = bytes.next()?;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            let half = i64::try_from(value >> 1).ok()?;
            return Some(if value & 1 == 0 { half } else { -half - 1 });
        }
    }
    None
}
