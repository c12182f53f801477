use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use taptrail_guest::Dirs;
use taptrail_ledger::Ledger;
use taptrail_source::Input;

use crate::cli::Sources;

/// How much there is of a trail: whether it has grown shows without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent(BTreeMap<PathBuf, Option<Mark>>);

/// A file as it is: device, inode, bytes, and when it was written to last.
type Mark = (u64, u64, u64, (i64, i64));

impl Extent {
    /// What there is now.
    pub(crate) fn of(sources: &Sources, dirs: &Dirs) -> Self {
        let mut files = Vec::new();
        if sources.files.is_empty() {
            files.extend(taptrail_source::host_logs(sources.log.as_deref()).into_iter().flatten());
        }
        for file in &sources.files {
            files.extend(taptrail_source::expand(file).into_iter().flatten());
        }
        let mut paths: Vec<PathBuf> = files.into_iter().filter_map(path).collect();
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

fn path(input: Input) -> Option<PathBuf> {
    match input {
        Input::File(path) => Some(path),
        Input::Stdin | Input::Rows { .. } => None,
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.dev(), about.ino(), about.len(), (about.mtime(), about.mtime_nsec())))
}
