//! Files that wait to be read, though there may be more of them than a process may have open.

use std::borrow::Borrow;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Deref;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::process::{Resource, getrlimit};

/// The most files that wait and are kept open, however many a process may have.
const MAX_OPEN: usize = 4096;

/// How many of the files that wait are kept open: what is open can be read whatever becomes of its name. The other
/// half of what this process may have is for all else.
pub(crate) fn max_open() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit / 2).ok()).map_or(MAX_OPEN, |half| half.min(MAX_OPEN))
}

/// Which file it is, whatever it is called. An inode's number may be given anew as soon as its file is gone: the time
/// of birth tells the two apart, where the file system has it (statx(2)).
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

/// A file that is read later: open, or to be opened again.
#[derive(Debug)]
pub(crate) enum Kept {
    Open(File),
    Named(Named),
}

/// A file by its name and its identity: it may have another name by the time that it is read.
#[derive(Debug)]
pub(crate) struct Named {
    path: PathBuf,
    id: FileIdentity,
    size: u64,
}

/// A kept file, open.
pub(crate) enum Handle<'a> {
    Kept(&'a File),
    Again(File),
}

impl Kept {
    /// Lets go of its descriptor until it is read.
    pub(crate) fn close(&mut self, path: &Path) -> io::Result<()> {
        if let Self::Open(file) = self {
            let about = file.metadata()?;
            let named = Named { path: path.to_owned(), id: FileIdentity::of(&about), size: about.len() };
            *self = Self::Named(named);
        }
        Ok(())
    }

    /// The file, opened again where it is not open.
    pub(crate) fn get(&self) -> io::Result<Handle<'_>> {
        match self {
            Self::Open(file) => Ok(Handle::Kept(file)),
            Self::Named(named) => Ok(Handle::Again(named.open()?)),
        }
    }

    /// The same, and it stays open.
    pub(crate) fn hold(&mut self) -> io::Result<&File> {
        if let Self::Named(named) = self {
            *self = Self::Open(named.open()?);
        }
        match self {
            Self::Open(file) => Ok(file),
            Self::Named(_) => Err(io::Error::other("it is not open")),
        }
    }

    /// The same, to be read to its end.
    pub(crate) fn into_file(self) -> io::Result<File> {
        match self {
            Self::Open(file) => Ok(file),
            Self::Named(named) => named.open(),
        }
    }

    /// Whether it is open now.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// How many bytes it has; of one that is not open, how many it had.
    pub(crate) fn size(&self) -> io::Result<u64> {
        match self {
            Self::Open(file) => Ok(file.metadata()?.len()),
            Self::Named(named) => Ok(named.size),
        }
    }
}

impl Named {
    fn open(&self) -> io::Result<File> {
        self.id.open(&self.path)?.ok_or_else(|| {
            let gone = "it was rotated while being read, and removed before its turn came: there are more inputs than \
                        can be kept open";
            io::Error::new(io::ErrorKind::NotFound, gone)
        })
    }
}

impl FileIdentity {
    /// Opens the file that had this name, by whatever name in the same directory it has now; `None` where it is gone.
    pub(crate) fn open(self, path: &Path) -> io::Result<Option<File>> {
        if let Some(file) = self.open_if_same(path)? {
            return Ok(Some(file));
        }
        // A rotation has renamed it since.
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

/// Reads a file from its first byte on, without its position, which is not ours alone.
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

impl Deref for Handle<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Self::Kept(file) => file,
            Self::Again(file) => file,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kept: &Kept) -> io::Result<String> {
        let mut text = String::new();
        let file = kept.get()?;
        (&*file).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_closed_file_is_found_again_by_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a.log.1"), "one").unwrap();
        let mut kept = Kept::Open(File::open(path("a.log.1")).unwrap());
        kept.close(&path("a.log.1")).unwrap();
        assert!(matches!(kept, Kept::Named(_)));
        assert_eq!((text(&kept).unwrap().as_str(), kept.size().unwrap()), ("one", 3));
        // A rotation renames it, and gives its name to another.
        fs::rename(path("a.log.1"), path("a.log.2")).unwrap();
        fs::write(path("a.log.1"), "another").unwrap();
        assert_eq!(text(&kept).unwrap(), "one");
        kept.hold().unwrap();
        fs::remove_file(path("a.log.2")).unwrap();
        assert_eq!(kept.size().unwrap(), 3);
        let mut gone = Kept::Open(File::open(path("a.log.1")).unwrap());
        gone.close(&path("a.log.1")).unwrap();
        fs::remove_file(path("a.log.1")).unwrap();
        assert!(text(&gone).unwrap_err().to_string().contains("rotated while being read"));
    }
}
