use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use taptrail_guest::Dirs;
use taptrail_ledger::Ledger;

use crate::cli::Sources;

/// How much there is of a trail: whether it has grown shows without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent(BTreeMap<PathBuf, Option<Mark>>);

/// A file as it is: device, inode, bytes, and when it was written to last.
type Mark = (u64, u64, u64, (i64, i64));

impl Extent {
    /// What there is now.
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
        // What was written to a ledger last is beside it.
        let beside: Vec<_> = paths.iter().map(|path| beside(path)).collect();
        paths.extend(beside);
        Self(paths.into_iter().map(|path| (path.clone(), mark(&path))).collect())
    }
}

/// Where SQLite keeps what it has yet to put into a database's file.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn mark(path: &Path) -> Option<Mark> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.dev(), about.ino(), about.len(), (about.mtime(), about.mtime_nsec())))
}
