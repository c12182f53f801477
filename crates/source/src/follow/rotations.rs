//! Opens a log and its rotations, in order.

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
use super::line_reader::parse_stamp;
use crate::SourceError;
use crate::deferred::{DeferredFile, FileRef, FromStart, max_open};
use crate::feed::MAX_LINE_BYTES;
use crate::log_paths::is_rotation;
use crate::open::Packing;

/// How often the directory is listed while rotations change the names.
const MAX_LISTINGS: usize = 10;

/// Maximum number of lines before a file's first stamp.
const MAX_LINES_BEFORE_STAMP: usize = 16;

/// One file of a log. An open file can be read even if its name changes.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    file: DeferredFile,
    pub(super) id: FileId,
    packing: Packing,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Do not block on anything but a file, e.g. a pipe.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let mut front = [0; 16];
        let read = file.read_at(&mut front, 0)?;
        let packing = Packing::of(&front[..read], "").map_err(io::Error::other)?;
        Ok(Self { path: path.to_owned(), file: DeferredFile::Open(file), id: id(&about), packing })
    }

    pub(super) fn is_packed(&self) -> bool {
        self.packing != Packing::None
    }

    /// Its size on disk, in bytes.
    pub(super) fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    /// The open file.
    pub(super) fn file(&self) -> io::Result<FileRef<'_>> {
        self.file.get()
    }

    /// Opens the file if needed, and keeps it open.
    pub(super) fn keep_open(&mut self) -> io::Result<()> {
        self.file.keep_open().map(|_| ())
    }

    pub(super) fn name(&self) -> Arc<str> {
        self.path.display().to_string().into()
    }

    /// Its bytes from the first on, decompressed. The file's own offset is neither used nor
    /// changed.
    pub(super) fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        self.packing.open(Box::new(FromStart::of(self.file.get()?.try_clone()?)))
    }

    /// The first stamp in the file; `None` if it is too damaged to have one.
    pub(super) fn first_stamp(&self) -> io::Result<Option<Stamp>> {
        match self.read_first_stamp() {
            Err(error) if self.is_packed() && is_damage(&error) => Ok(None),
            read => read,
        }
    }

    fn read_first_stamp(&self) -> io::Result<Option<Stamp>> {
        let mut bytes = BufReader::new(self.reader()?);
        let mut line = Vec::new();
        for _ in 0..MAX_LINES_BEFORE_STAMP {
            line.clear();
            if (&mut bytes).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if let Some(stamped) = parse_stamp(&line) {
                return Ok(Some(stamped.stamp));
            }
        }
        Ok(None)
    }
}

/// Whether an error shows damaged compressed data. Errors of reading the file have an errno.
pub(super) fn is_damage(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}

pub(super) fn id(about: &fs::Metadata) -> FileId {
    FileId { dev: about.dev(), ino: about.ino() }
}

/// The file that has the log's name now, if any.
pub(super) fn id_of(log: &Path) -> Result<Option<FileId>, SourceError> {
    match fs::metadata(log) {
        Ok(about) => Ok(Some(id(&about))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SourceError::Open { path: log.to_owned(), source }),
    }
}

/// Opens the log and its rotations, oldest first, as they were at one moment, although they may be
/// renamed meanwhile.
pub(super) fn all(log: &Path) -> Result<Vec<LogFile>, SourceError> {
    let mut before = None;
    for _ in 0..MAX_LISTINGS {
        let names = names(log)?;
        // The newest files are written to and renamed: keep those open.
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
            // It was renamed or removed after the directory was listed.
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound => continue,
            Err((path, source)) => return Err(SourceError::Open { path: path.clone(), source }),
        };
        let ids: Vec<_> = files.iter().map(|file| (file.path.clone(), file.id)).collect();
        // Two equal listings: nothing was renamed between the first name and the last file.
        if before.as_ref() == Some(&ids) {
            return Ok(files);
        }
        before = Some(ids);
    }
    let source = io::Error::other("it is rotated faster than its rotations can be opened");
    Err(SourceError::Open { path: log.to_owned(), source })
}

/// Age of a file among its log's rotations; the oldest is the least.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// `audit.log-20261123`: by date.
    Dated(OsString),
    /// `audit.log.2`: the higher, the older.
    Numbered(std::cmp::Reverse<u32>),
    /// The log itself.
    Live,
}

/// The paths of a log's files. While a rotation is being compressed, it exists in both forms, and
/// only the uncompressed one counts.
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
            // Named like the log, with or without a directory: paths are compared.
            names.insert(age, log.with_file_name(&file));
        }
    }
    Ok(names)
}

/// Whether a directory entry may be a regular file. Directories and dangling links are no
/// rotations, whatever their names.
fn may_be_file(entry: &fs::DirEntry) -> bool {
    match entry.file_type() {
        Ok(kind) if kind.is_symlink() => fs::metadata(entry.path()).is_ok_and(|about| about.is_file()),
        // If it is gone by now, opening it fails.
        kind => kind.map_or(true, |kind| kind.is_file()),
    }
}

/// The age of a file by its name, and whether its suffix says that it is compressed. Other files
/// beside a log, an editor's or a compressor's temporary ones, are no rotations.
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
