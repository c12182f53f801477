//! Files that are read later: there may be more of them than a process may keep open.

use std::borrow::Borrow;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Deref;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::process::{Resource, getrlimit};

/// Maximum number of files kept open, whatever the process limit.
const MAX_OPEN_FILES: usize = 4096;

/// How many files may be kept open until they are read: an open file can be read even if its name
/// changes. The other half of the process limit is left for everything else.
pub(crate) fn max_open() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit
        .and_then(|limit| usize::try_from(limit / 2).ok())
        .map_or(MAX_OPEN_FILES, |half| half.min(MAX_OPEN_FILES))
}

/// Identity of a file, independent of its name. An inode number may be reused as soon as the file
/// is deleted: the birth time distinguishes the two, if the file system has it (statx(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIdentity {
    dev: u64,
    ino: u64,
    born: Option<SystemTime>,
}

impl FileIdentity {
    pub(crate) fn of(about: &fs::Metadata) -> Self {
        Self { dev: about.dev(), ino: about.ino(), born: about.created().ok() }
    }
}

/// A file that is read later: open, or to be reopened.
#[derive(Debug)]
pub(crate) enum DeferredFile {
    Open(File),
    Closed(ClosedFile),
}

/// A file by its name and identity: it may have another name when it is read.
#[derive(Debug)]
pub(crate) struct ClosedFile {
    path: PathBuf,
    id: FileIdentity,
    size: u64,
}

/// A deferred file, open.
pub(crate) enum FileRef<'a> {
    Borrowed(&'a File),
    Reopened(File),
}

impl DeferredFile {
    /// Closes the file until it is read.
    pub(crate) fn close(&mut self, path: &Path) -> io::Result<()> {
        if let Self::Open(file) = self {
            let about = file.metadata()?;
            let named = ClosedFile { path: path.to_owned(), id: FileIdentity::of(&about), size: about.len() };
            *self = Self::Closed(named);
        }
        Ok(())
    }

    /// The file, reopened if it is closed.
    pub(crate) fn get(&self) -> io::Result<FileRef<'_>> {
        match self {
            Self::Open(file) => Ok(FileRef::Borrowed(file)),
            Self::Closed(named) => Ok(FileRef::Reopened(named.open()?)),
        }
    }

    /// Reopens the file if it is closed, and keeps it open.
    pub(crate) fn keep_open(&mut self) -> io::Result<&File> {
        if let Self::Closed(named) = self {
            *self = Self::Open(named.open()?);
        }
        match self {
            Self::Open(file) => Ok(file),
            Self::Closed(_) => Err(io::Error::other("it is not open")),
        }
    }

    /// The file, reopened if it is closed, as an owned descriptor.
    pub(crate) fn into_file(self) -> io::Result<File> {
        match self {
            Self::Open(file) => Ok(file),
            Self::Closed(named) => named.open(),
        }
    }

    /// Whether the file is open.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Its size in bytes; for a closed file, the size when it was closed.
    pub(crate) fn size(&self) -> io::Result<u64> {
        match self {
            Self::Open(file) => Ok(file.metadata()?.len()),
            Self::Closed(named) => Ok(named.size),
        }
    }
}

impl ClosedFile {
    fn open(&self) -> io::Result<File> {
        self.id.open(&self.path)?.ok_or_else(|| {
            let gone = "it was rotated while being read, and removed before its turn came: there are more inputs than \
                        can be kept open";
            io::Error::new(io::ErrorKind::NotFound, gone)
        })
    }
}

impl FileIdentity {
    /// Opens the file that had this name, under whatever name it has now in the same directory;
    /// `None` if it is gone.
    ///
    /// # Errors
    ///
    /// The file or its directory can't be opened.
    pub fn open(self, path: &Path) -> io::Result<Option<File>> {
        if let Some(file) = self.open_if_same(path)? {
            return Ok(Some(file));
        }
        // It has been renamed, as by a rotation.
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.metadata().is_ok_and(|about| Self::of(&about) == self)
                && let Some(file) = self.open_if_same(&entry.path())?
            {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    fn open_if_same(self, path: &Path) -> io::Result<Option<File>> {
        match File::open(path) {
            Ok(file) => Ok((Self::of(&file.metadata()?) == self).then_some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Reads a file from its first byte on, without its file offset, which others may share.
pub(crate) struct FromStart<F> {
    file: F,
    at: u64,
}

impl<F: Borrow<File>> FromStart<F> {
    pub(crate) fn of(file: F) -> Self {
        Self { file, at: 0 }
    }
}

impl<F: Borrow<File>> Read for FromStart<F> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.borrow().read_at(to, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Deref for FileRef<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Self::Borrowed(file) => file,
            Self::Reopened(file) => file,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(deferred: &DeferredFile) -> io::Result<String> {
        let mut text = String::new();
        let file = deferred.get()?;
        (&*file).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_closed_file_is_found_by_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a.log.1"), "one").unwrap();
        let mut deferred = DeferredFile::Open(File::open(path("a.log.1")).unwrap());
        deferred.close(&path("a.log.1")).unwrap();
        assert!(matches!(deferred, DeferredFile::Closed(_)));
        assert_eq!((text(&deferred).unwrap().as_str(), deferred.size().unwrap()), ("one", 3));
        // A rotation renames it, and gives its name to another file.
        fs::rename(path("a.log.1"), path("a.log.2")).unwrap();
        fs::write(path("a.log.1"), "another").unwrap();
        assert_eq!(text(&deferred).unwrap(), "one");
        deferred.keep_open().unwrap();
        fs::remove_file(path("a.log.2")).unwrap();
        assert_eq!(deferred.size().unwrap(), 3);
        let mut gone = DeferredFile::Open(File::open(path("a.log.1")).unwrap());
        gone.close(&path("a.log.1")).unwrap();
        fs::remove_file(path("a.log.1")).unwrap();
        assert!(text(&gone).unwrap_err().to_string().contains("rotated while being read"));
    }
}
