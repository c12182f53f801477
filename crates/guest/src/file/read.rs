//! Reads the file, if only root and our own user can have written it.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The longest file, in bytes.
pub const FILE_LIMIT: u64 = 1024 * 1024;

/// A guest's file can't be read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It can't be opened or read.
    #[error("Guest file {path} can't be read", path = .path.display())]
    Io {
        /// The file's path.
        path: PathBuf,
        /// The system's error, which says why.
        #[source]
        source: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("Guest file {path} is not a regular file", path = .0.display())]
    NoFile(PathBuf),
    /// It belongs to another user, while its contents are run as root.
    #[error("Guest file {path} belongs to uid {owner}, not to root or to us (uid {us})", path = .path.display())]
    Owner {
        /// The file's path.
        path: PathBuf,
        /// The owner's uid.
        owner: u32,
        /// The effective uid of this process.
        us: u32,
    },
    /// Other users can change it.
    #[error("Guest file {path} can be written by others than its owner (mode {mode:04o}): chmod go-w", path = .path.display())]
    Writable {
        /// The file's path.
        path: PathBuf,
        /// The file's permission bits.
        mode: u32,
    },
    /// Longer than [`FILE_LIMIT`].
    #[error("Guest file {path} is longer than {FILE_LIMIT} bytes", path = .0.display())]
    TooLong(PathBuf),
    /// The text is not UTF-8.
    #[error("Guest file {path} is not UTF-8 text in line {line}", path = .path.display())]
    NoText {
        /// The file's path.
        path: PathBuf,
        /// Where it is not, from 1.
        line: usize,
    },
}

/// Reads a guest's file.
///
/// Follows symbolic links, as is usual below `/etc`: what counts is the owner and mode of the open
/// file.
///
/// # Errors
/// See [`ReadError`].
pub fn read(path: &Path) -> Result<String, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    // Without NONBLOCK, opening a pipe in its place would block.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(ReadError::NoFile(path.to_owned()));
    }
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != 0 && found.uid() != us {
        return Err(ReadError::Owner { path: path.to_owned(), owner: found.uid(), us });
    }
    if found.mode() & 0o022 != 0 {
        return Err(ReadError::Writable { path: path.to_owned(), mode: found.mode() & 0o7777 });
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(ReadError::TooLong(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        ReadError::NoText { path: path.to_owned(), line }
    })
}
