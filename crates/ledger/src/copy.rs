//! Private copies of databases that must not, or can't, be changed, with their write-ahead logs.
//!
//! SQLite reads a database in WAL mode only if it may write to its directory, and it recovers the
//! database after a writer died. Neither is acceptable for evidence, on read-only media, or for
//! users with read access only.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

/// How often copying is attempted if the original is written to meanwhile.
const MAX_COPY_ATTEMPTS: u32 = 10;
/// The delay between two attempts.
const COPY_RETRY_DELAY: Duration = Duration::from_millis(50);
/// The length of a write-ahead log's header (SQLite's file format, section 4.1).
const WAL_HEADER_BYTES: usize = 32;

/// A copy in a directory of its own, which is deleted on drop. A process that has it open can go on
/// reading.
#[derive(Debug)]
pub(crate) struct PrivateCopy {
    dir: TempDir,
}

/// Why a ledger could not be copied.
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
        // As SQLite does: the log is beside the file that a link refers to.
        let path = fs::canonicalize(path).map_err(CopyError::Original)?;
        let mut wal = path.clone().into_os_string();
        wal.push("-wal");
        let wal = PathBuf::from(wal);
        let copy = Self { dir: directory().map_err(CopyError::Copy)? };
        for _ in 0..MAX_COPY_ATTEMPTS {
            if copy.try_copy(&path, &wal)? {
                return Ok(copy);
            }
            std::thread::sleep(COPY_RETRY_DELAY);
        }
        Err(CopyError::Original(io::Error::other("it is being written to all the time")))
    }

    /// The database's file.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("ledger.sqlite")
    }

    /// Copies both files, and returns whether the copies are consistent.
    ///
    /// A writer changes the database only by a checkpoint, from pages that are in the log already.
    /// So the log is copied last: unless it was restarted, which changes its header, it has all
    /// pages that were checkpointed meanwhile.
    fn try_copy(&self, path: &Path, wal: &Path) -> Result<bool, CopyError> {
        let (log, before) = (header(wal)?, stamp(path)?);
        copy(path, &self.path())?;
        let copied = self.dir.path().join("ledger.sqlite-wal");
        if exists(wal)? {
            copy(wal, &copied)?;
        } else {
            remove(&copied)?;
        }
        let log_now = header(&copied)?;
        Ok(log == log_now && (log.is_some() || before == stamp(path)?))
    }
}

/// A new directory with mode 0700 in TMPDIR, or else in /tmp.
fn directory() -> io::Result<TempDir> {
    let mode = fs::Permissions::from_mode(0o700);
    let make = |within: &Path| {
        tempfile::Builder::new().prefix("taptrail-").permissions(mode.clone()).tempdir_in(within)
    };
    make(&std::env::temp_dir()).or_else(|first| make(Path::new("/tmp")).map_err(|_| first))
}

/// Device, inode, size in bytes and modification time (seconds, nanoseconds) of a file.
type FileStamp = (u64, u64, u64, i64, i64);

fn stamp(path: &Path) -> Result<FileStamp, CopyError> {
    let metadata = fs::metadata(path).map_err(CopyError::Original)?;
    if !metadata.is_file() {
        return Err(CopyError::Original(io::Error::other("it is not a regular file")));
    }
    Ok((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

fn exists(path: &Path) -> Result<bool, CopyError> {
    path.try_exists().map_err(CopyError::Original)
}

/// The header of a log; none if the log is empty or missing.
fn header(wal: &Path) -> Result<Option<[u8; WAL_HEADER_BYTES]>, CopyError> {
    let mut header = [0; WAL_HEADER_BYTES];
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
