//! A database that must not change, or can't: a copy of it, with what its write-ahead log has.
//!
//! SQLite reads a database in WAL mode only where it may write beside it, and tidies up after a writer that died. Neither
//! is for evidence, for read-only media, or for whoever may only read.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

/// How often a copy is begun anew because its original was written to meanwhile.
const TRIES: u32 = 10;
/// How long is waited before that.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the header of a write-ahead log is (SQLite's file format, section 4.1).
const WAL_HEADER: usize = 32;

/// A copy, in a directory of its own that goes with this. What has it open can go on reading.
#[derive(Debug)]
pub(crate) struct PrivateCopy {
    dir: TempDir,
}

/// No copy could be made.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The original can't be read.
    Original(io::Error),
    /// The copy can't be written.
    Copy(io::Error),
}

impl PrivateCopy {
    /// Copies a database as it is at one moment.
    pub(crate) fn of(path: &Path) -> Result<Self, CopyError> {
        // As SQLite does: the log lies beside the file that a link leads to.
        let path = fs::canonicalize(path).map_err(CopyError::Original)?;
        let mut wal = path.clone().into_os_string();
        wal.push("-wal");
        let wal = PathBuf::from(wal);
        let copy = Self { dir: directory().map_err(CopyError::Copy)? };
        for _ in 0..TRIES {
            if copy.is_taken(&path, &wal)? {
                return Ok(copy);
            }
            std::thread::sleep(PAUSE);
        }
        Err(CopyError::Original(io::Error::other("it is being written to all the time")))
    }

    /// The database's file.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("ledger.sqlite")
    }

    /// Copies both files, and tells whether they belong together.
    ///
    /// A writer changes the database only by what is in the log already. So the log is copied last: as long as it was
    /// not begun anew, which changes its header, it has whatever was carried over meanwhile.
    fn is_taken(&self, path: &Path, wal: &Path) -> Result<bool, CopyError> {
        let (log, mark) = (header(wal)?, mark(path)?);
        copy(path, &self.path())?;
        let copied = self.dir.path().join("ledger.sqlite-wal");
        if exists(wal)? {
            copy(wal, &copied)?;
        } else {
            remove(&copied)?;
        }
        let log_now = header(&copied)?;
        Ok(log == log_now && (log.is_some() || mark == self::mark(path)?))
    }
}

/// A directory of our own, mode 0700: where TMPDIR says, or where all may make one.
fn directory() -> io::Result<TempDir> {
    let mode = fs::Permissions::from_mode(0o700);
    let make = |within: &Path| {
        tempfile::Builder::new().prefix("taptrail-").permissions(mode.clone()).tempdir_in(within)
    };
    make(&std::env::temp_dir()).or_else(|first| make(Path::new("/tmp")).map_err(|_| first))
}

/// A file as it is: device, inode, bytes, and when it changed last.
type Mark = (u64, u64, u64, i64, i64);

fn mark(path: &Path) -> Result<Mark, CopyError> {
    let about = fs::metadata(path).map_err(CopyError::Original)?;
    if !about.is_file() {
        return Err(CopyError::Original(io::Error::other("it is not a regular file")));
    }
    Ok((about.dev(), about.ino(), about.len(), about.mtime(), about.mtime_nsec()))
}

fn exists(path: &Path) -> Result<bool, CopyError> {
    path.try_exists().map_err(CopyError::Original)
}

/// The header of a log, if it has one: without, nothing is in it.
fn header(wal: &Path) -> Result<Option<[u8; WAL_HEADER]>, CopyError> {
    let mut header = [0; WAL_HEADER];
    match File::open(wal).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) => Ok(Some(header)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
            Ok(None)
        }
        Err(error) => Err(CopyError::Original(error)),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), CopyError> {
    let mut from = File::open(from).map_err(CopyError::Original)?;
    let mut to = File::create(to).map_err(CopyError::Copy)?;
    io::copy(&mut from, &mut to).map_err(CopyError::Copy)?;
    Ok(())
}

fn remove(path: &Path) -> Result<(), CopyError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CopyError::Copy(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_copy_is_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("ledger.sqlite");
        fs::write(&original, "secret").unwrap();
        let copy = PrivateCopy::of(&original).unwrap();
        assert_eq!(fs::read(copy.path()).unwrap(), b"secret");
        let mode = fs::metadata(copy.path().parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
