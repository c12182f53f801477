use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use taptrail_guest::Dirs;
use taptrail_ledger::Ledger;

use crate::cli::Sources;

/// A fingerprint of a trail's files: shows whether they have changed without reading them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputFingerprint(BTreeMap<PathBuf, Option<FileStamp>>);

/// A file's device, inode, size in bytes, and time of the last write.
type FileStamp = (u64, u64, u64, (i64, i64));

impl InputFingerprint {
    /// The current fingerprint, if all inputs are files or directories of files: a pipe shows nothing.
    pub(crate) fn of_files(sources: &Sources, dirs: &Dirs) -> Option<Self> {
        let is_kept = |path: &PathBuf| {
            std::fs::metadata(path).is_ok_and(|about| about.is_file() || about.is_dir())
                && path.to_str().is_some()
        };
        let fingerprint = sources.files.iter().all(is_kept).then(|| Self::of(sources, dirs))?;
        fingerprint.0.keys().all(|path| path.to_str().is_some()).then_some(fingerprint)
    }

    /// The current fingerprint.
    pub(crate) fn of(sources: &Sources, dirs: &Dirs) -> Self {
        let mut paths = Vec::new();
        if sources.files.is_empty() {
            paths.extend(taptrail_source::host_log_paths(sources.log.as_deref()).into_iter().flatten());
        }
        for file in &sources.files {
            paths.extend(taptrail_source::log_paths(file).into_iter().flatten());
        }
        if sources.files.is_empty() {
            paths.push(Ledger::file(&dirs.state));
        }
        // The last transactions of a ledger are in its WAL file.
        let wal_of: Vec<_> = paths.iter().map(|path| wal_of(path)).collect();
        paths.extend(wal_of);
        Self(paths.into_iter().map(|path| (path.clone(), file_stamp(&path))).collect())
    }
}

/// The path of SQLite's write-ahead log of a database.
fn wal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn file_stamp(path: &Path) -> Option<FileStamp> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.dev(), about.ino(), about.len(), (about.mtime(), about.mtime_nsec())))
}
