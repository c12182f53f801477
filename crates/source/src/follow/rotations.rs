//! A log with its rotations, opened and in order.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use taptrail_record::Stamp;

use super::checkpoint::FileId;
use super::lines::stamped;
use crate::SourceError;
use crate::feed::MAX_LINE;
use crate::input::is_rotation;
use crate::kept::{FromStart, Handle, Kept, max_open};
use crate::open::Packing;

/// How often the names are read anew when a rotation changes them meanwhile.
const TRIES: usize = 10;

/// How many lines of a file may come before the first with a stamp.
const FRONT: usize = 16;

/// One file of a log. What was opened can be read whatever becomes of its name.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    file: Kept,
    pub(super) id: FileId,
    packing: Packing,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // What is no file, a pipe say, is not waited for.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let mut front = [0; 16];
        let read = file.read_at(&mut front, 0)?;
        let packing = Packing::of(&front[..read], "").map_err(io::Error::other)?;
        Ok(Self { path: path.to_owned(), file: Kept::Open(file), id: id(&about), packing })
    }

    pub(super) fn is_packed(&self) -> bool {
        self.packing != Packing::None
    }

    /// How many bytes it has, as stored.
    pub(super) fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    /// It, open.
    pub(super) fn file(&self) -> io::Result<Handle<'_>> {
        self.file.get()
    }

    /// It is to be read now, and stays open.
    pub(super) fn hold(&mut self) -> io::Result<()> {
        self.file.hold().map(|_| ())
    }

    pub(super) fn name(&self) -> Arc<str> {
        self.path.display().to_string().into()
    }

    /// Its bytes from the first on, unpacked. The position of `file` is not used and not changed.
    pub(super) fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        self.packing.open(Box::new(FromStart::of(self.file.get()?.try_clone()?)))
    }

    /// The first stamp in it; none where it is too damaged for one.
    pub(super) fn first_stamp(&self) -> io::Result<Option<Stamp>> {
        match self.read_first_stamp() {
            Err(error) if self.is_packed() && is_damage(&error) => Ok(None),
            read => read,
        }
    }

    fn read_first_stamp(&self) -> io::Result<Option<Stamp>> {
        let mut bytes = BufReader::new(self.reader()?);
        let mut line = Vec::new();
        for _ in 0..FRONT {
            line.clear();
            if (&mut bytes).take(MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if let Some(stamped) = stamped(&line) {
                return Ok(Some(stamped.stamp));
            }
        }
        Ok(None)
    }
}

/// Whether what is packed can't be unpacked, now or ever: errors of reading it have the system's number.
pub(super) fn is_damage(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}

pub(super) fn id(about: &fs::Metadata) -> FileId {
    FileId { dev: about.dev(), ino: about.ino() }
}

/// What the log's name stands for now, if for anything.
pub(super) fn id_of(log: &Path) -> Result<Option<FileId>, SourceError> {
    match fs::metadata(log) {
        Ok(about) => Ok(Some(id(&about))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SourceError::Open { path: log.to_owned(), source }),
    }
}

/// The log and its rotations, the oldest first: as they were at one moment, though they may be renamed
/// while they are opened.
pub(super) fn all(log: &Path) -> Result<Vec<LogFile>, SourceError> {
    let mut before = None;
    for _ in 0..TRIES {
        let names = names(log)?;
        // The newest are written to and renamed: they are kept open.
        let surplus = names.len().saturating_sub(max_open());
        let open = |(place, path)| {
            let mut log = LogFile::open(path)?;
            if place < surplus {
                log.file.close(path)?;
            }
            Ok(log)
        };
        let opened: Result<Vec<_>, _> = names
            .values()
            .enumerate()
            .map(|(place, path)| open((place, path)).map_err(|error: io::Error| (path, error)))
            .collect();
        let files = match opened {
            Ok(files) => files,
            // It was renamed, or removed, since its name was read.
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound => continue,
            Err((path, source)) => return Err(SourceError::Open { path: path.clone(), source }),
        };
        let ids: Vec<_> = files.iter().map(|file| (file.path.clone(), file.id)).collect();
        // Twice the same: nothing was renamed between the first name and the last file.
        if before.as_ref() == Some(&ids) {
            return Ok(files);
        }
        before = Some(ids);
    }
    let source = io::Error::other("it is rotated faster than its rotations can be opened");
    Err(SourceError::Open { path: log.to_owned(), source })
}

/// Where a file is among its log's rotations; the oldest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// `audit.log-20261123`: by date.
    Dated(OsString),
    /// `audit.log.2`: the higher the older.
    Numbered(std::cmp::Reverse<u32>),
    /// The log itself.
    Live,
}

/// The paths of a log's files. One that is there both packed and as it was, while it is packed, counts
/// once: as it was.
fn names(log: &Path) -> Result<BTreeMap<Age, PathBuf>, SourceError> {
    let dir = match log.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let failed = |source| SourceError::Directory { path: dir.to_owned(), source };
    let Some(name) = log.file_name() else { return Ok(BTreeMap::new()) };
    let mut names: BTreeMap<Age, PathBuf> = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name();
        if !is_rotation(&file, name) {
            continue;
        }
        let Some((age, packed)) = age(&file, name) else { continue };
        if age != Age::Live && !may_be_file(&entry) {
            continue;
        }
        if !packed || !names.contains_key(&age) {
            // As the log is named, with a directory or without: paths are compared.
            names.insert(age, log.with_file_name(&file));
        }
    }
    Ok(names)
}

/// Whether a name is a file's: a directory, or a link that leads nowhere, is no rotation, whatever it is called.
fn may_be_file(entry: &fs::DirEntry) -> bool {
    match entry.file_type() {
        Ok(kind) if kind.is_symlink() => fs::metadata(entry.path()).is_ok_and(|about| about.is_file()),
        // One that is gone by now shows when it is opened.
        kind => kind.map_or(true, |kind| kind.is_file()),
    }
}

/// The age of a file by its name, and whether that says that it is packed. Others beside a log, an
/// editor's or a temporary one of whoever packs it, are none of its rotations.
fn age(file: &OsStr, log: &OsStr) -> Option<(Age, bool)> {
    let rest = file.as_encoded_bytes().strip_prefix(log.as_encoded_bytes())?;
    if rest.is_empty() {
        return Some((Age::Live, false));
    }
    let suffix = [b".gz".as_slice(), b".xz", b".zst"].into_iter().find(|suffix| rest.ends_with(suffix));
    let rest = std::str::from_utf8(&rest[..rest.len() - suffix.map_or(0, <[u8]>::len)]).ok()?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let age = match (rest.strip_prefix('.'), rest.strip_prefix('-')) {
        (Some(number), _) if digits(number) => Age::Numbered(std::cmp::Reverse(number.parse().ok()?)),
        (_, Some(date)) if date.split(['-', '.']).all(digits) => Age::Dated(date.into()),
        _ => return None,
    };
    Some((age, suffix.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_are_in_order_and_nothing_else_is_one() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "audit.log",
            "audit.log.1",
            "audit.log.10",
            "audit.log.2",
            "audit.log.2.gz",
            "audit.log.3.xz",
            "audit.log-20261120",
            "audit.log-20261119.gz",
            "audit.log.tmp",
            "audit.log.1.gz.part",
            "audit.log~",
            "audit.log.",
            "other.log",
        ] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let files = all(&dir.path().join("audit.log")).unwrap();
        let names: Vec<_> =
            files.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "audit.log-20261119.gz",
                "audit.log-20261120",
                "audit.log.10",
                "audit.log.3.xz",
                "audit.log.2",
                "audit.log.1",
                "audit.log",
            ]
        );
    }
}
