//! The hashes of inputs, so that somebody can show later that a report was made of them.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taptrail_guest::Dirs;
use taptrail_ledger::Ledger;
use taptrail_report::{FileEvidence, Hash};
use taptrail_source::FileIdentity;
use taptrail_trail::{InputFile, StoredHash};

use super::is_ledger;
use crate::cli::Sources;

/// The inputs' files before they are read: their sizes and the times of their last writes, by
/// device and inode.
#[derive(Debug)]
pub(crate) struct InputStamps(HashMap<(u64, u64), Stamp>);

#[derive(Debug)]
struct Stamp {
    path: PathBuf,
    size: u64,
    written: (i64, i64),
}

impl InputStamps {
    /// The current files.
    pub(crate) fn of(sources: &Sources, dirs: &Dirs) -> Self {
        let mut paths = Vec::new();
        if sources.files.is_empty() {
            paths.extend(taptrail_source::host_log_paths(sources.log.as_deref()).into_iter().flatten());
            paths.push(Ledger::file(&dirs.state));
        }
        for file in &sources.files {
            paths.extend(taptrail_source::log_paths(file).into_iter().flatten());
        }
        // A database has files of its own beside it.
        let beside = |path: &PathBuf| {
            ["-wal", "-shm"].map(|suffix| {
                let mut name = path.as_os_str().to_owned();
                name.push(suffix);
                PathBuf::from(name)
            })
        };
        let besides: Vec<_> = paths.iter().flat_map(beside).collect();
        paths.extend(besides);
        let stamps = paths.into_iter().filter_map(|path| {
            let about = fs::metadata(&path).ok()?;
            let written = (about.mtime(), about.mtime_nsec());
            Some(((about.dev(), about.ino()), Stamp { path, size: about.len(), written }))
        });
        Self(stamps.collect())
    }

    /// The input that is the file of this name now.
    pub(crate) fn find(&self, path: &Path) -> Option<&Path> {
        let about = fs::metadata(path).ok()?;
        self.0.get(&(about.dev(), about.ino())).map(|stamp| stamp.path.as_path())
    }

    /// What is known of the inputs now that they have been read. Each file is read once more, from
    /// its beginning to its end.
    pub(crate) fn hash(
        &self,
        files: &[InputFile],
        identities: &HashMap<Arc<str>, FileIdentity>,
    ) -> Vec<FileEvidence> {
        let one = |file: &InputFile| {
            let hash = self.hash_one(Path::new(&*file.path), identities.get(&file.path).copied());
            FileEvidence { path: file.path.to_string(), hash }
        };
        files.iter().map(one).collect()
    }

    /// As [`hash`](Self::hash), of files that have not changed since before they were read: of
    /// others, what was read is not known any more.
    pub(crate) fn stored_hash(&self, path: &Path, identity: Option<FileIdentity>) -> StoredHash {
        match self.hash_one(path, identity) {
            Hash::Sha256 { changed: true, .. } => StoredHash::None("it changed while it was read".to_owned()),
            Hash::Sha256 { sha256, bytes, .. } => StoredHash::Sha256 { sha256, size: bytes },
            Hash::None(why) => StoredHash::None(why.trim_start_matches("no hash: ").to_owned()),
        }
    }

    fn hash_one(&self, path: &Path, identity: Option<FileIdentity>) -> Hash {
        let none = |why: &str| Hash::None(format!("no hash: {why}"));
        if path == Path::new("-") {
            return none("standard input can be read once only");
        }
        if is_ledger(path) {
            return none("a ledger is a database, which goes on changing");
        }
        // A pipe must not be opened again.
        if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
            return none("it is no regular file, and can be read once only");
        }
        let Some(identity) = identity else { return none("it was not read") };
        let hashed = identity.open(path).and_then(|file| {
            let Some(file) = file else { return Ok(none("it was deleted while it was read")) };
            let before = file.metadata()?;
            let stamp = self.0.get(&(before.dev(), before.ino()));
            let is_as = |stamp: &Stamp, about: &fs::Metadata| {
                stamp.size == about.len() && stamp.written == (about.mtime(), about.mtime_nsec())
            };
            let hash = Hash::of(&file, false)?;
            let after = file.metadata()?;
            let changed = stamp.is_none_or(|stamp| !is_as(stamp, &after));
            Ok(match hash {
                Hash::Sha256 { sha256, bytes, .. } => {
                    Hash::Sha256 { sha256, bytes, changed: changed || bytes != after.len() }
                }
                none => none,
            })
        });
        hashed.unwrap_or_else(|error| none(&format!("it can't be read again ({error})")))
    }
}
