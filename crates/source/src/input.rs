//! What can be read: a file, an opened file, standard input, and rows.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use taptrail_trail::Entry;

use crate::deferred::{DeferredFile, FileIdentity};

/// Entries that do not come from a log, oldest first. An unreadable one is an error text.
pub type Rows = Box<dyn Iterator<Item = Result<Entry, String>> + Send>;

/// An input.
pub enum Input {
    /// A file of any shape, compressed or not, or a named pipe.
    File(PathBuf),
    /// A file of a snapshot, opened earlier.
    Opened(SnapshotFile),
    /// Standard input.
    Stdin,
    /// Entries from elsewhere: a ledger.
    Rows {
        /// The name of their source.
        name: Arc<str>,
        /// Their size on disk, in bytes.
        bytes: u64,
        /// The entries.
        rows: Rows,
    },
}

impl Input {
    /// Its path; `-` for standard input and rows.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Opened(file) => file.path(),
            Self::Stdin | Self::Rows { .. } => Path::new("-"),
        }
    }
}

/// A file that was opened when its name was listed, so that it is read even if it is renamed.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    pub(crate) identity: FileIdentity,
    pub(crate) deferred: DeferredFile,
    /// Compressed copies of it that stand beside it, and are not read.
    pub(crate) packed_copies: Vec<PathBuf>,
}

impl SnapshotFile {
    /// Its path when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file begins with these bytes.
    pub fn begins_with(&self, bytes: &[u8]) -> bool {
        let mut front = vec![0; bytes.len()];
        self.deferred.get().and_then(|file| file.read_exact_at(&mut front, 0)).is_ok() && front == bytes
    }

    /// Opens a file. `open_slots`: how many more files may be kept open; at 0 it is closed until it
    /// is read.
    pub(crate) fn open(path: &Path, open_slots: &mut usize) -> io::Result<Self> {
        // Do not block if the file is a pipe by now.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let mut deferred = DeferredFile::Open(file);
        match open_slots.checked_sub(1) {
            Some(left) => *open_slots = left,
            None => deferred.close(path)?,
        }
        Ok(Self {
            path: path.to_owned(),
            identity: FileIdentity::of(&about),
            deferred,
            packed_copies: Vec::new(),
        })
    }
}
