//! Checks of a ledger's owner and mode: any user who can write to it could forge records.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::LedgerError;

/// Opening a symbolic link instead of the file fails.
pub(crate) const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// Refuses a state directory into which another user could put a ledger.
pub(crate) fn check_directory(path: &Path) -> Result<(), LedgerError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| LedgerError::Directory { path: path.to_owned(), source })?;
    check(path, &metadata)
}

/// Refuses a ledger that another user can write to.
pub(crate) fn check_file(path: &Path, file: &File) -> Result<(), LedgerError> {
    let metadata = file.metadata().map_err(|source| LedgerError::File { path: path.to_owned(), source })?;
    check_ledger(path, &metadata)
}

/// The same, by the metadata of the file at its path.
pub(crate) fn check_ledger(path: &Path, metadata: &Metadata) -> Result<(), LedgerError> {
    if !metadata.is_file() {
        return Err(LedgerError::NotOurs {
            path: path.to_owned(),
            why: "it is not a regular file".to_owned(),
        });
    }
    check(path, metadata)
}

fn check(path: &Path, metadata: &Metadata) -> Result<(), LedgerError> {
    let refuse = |why: String| Err(LedgerError::NotOurs { path: path.to_owned(), why });
    let uid = metadata.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return refuse(format!("it belongs to user {uid}"));
    }
    match metadata.mode() & 0o7777 {
        mode if mode & 0o022 != 0 => refuse(format!("others may write to it (mode {mode:04o})")),
        _ => Ok(()),
    }
}
