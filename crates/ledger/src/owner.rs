//! Whose a ledger is: who can write to it can change what is on record.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::LedgerError;

/// A symbolic link in the place of the file is refused.
pub(crate) const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// Refuses a state directory that somebody else could put another ledger into.
pub(crate) fn check_directory(path: &Path) -> Result<(), LedgerError> {
    let about =
        std::fs::metadata(path).map_err(|source| LedgerError::Directory { path: path.to_owned(), source })?;
    check(path, &about)
}

/// Refuses a ledger that somebody else can write to.
pub(crate) fn check_file(path: &Path, file: &File) -> Result<(), LedgerError> {
    let about = file.metadata().map_err(|source| LedgerError::File { path: path.to_owned(), source })?;
    check_ledger(path, &about)
}

/// The same of what stands at its path.
pub(crate) fn check_ledger(path: &Path, about: &Metadata) -> Result<(), LedgerError> {
    if !about.is_file() {
        return Err(LedgerError::NotOurs {
            path: path.to_owned(),
            why: "it is not a regular file".to_owned(),
        });
    }
    check(path, about)
}

fn check(path: &Path, about: &Metadata) -> Result<(), LedgerError> {
    let refuse = |why: String| Err(LedgerError::NotOurs { path: path.to_owned(), why });
    let uid = about.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return refuse(format!("it belongs to user {uid}"));
    }
    match about.mode() & 0o7777 {
        mode if mode & 0o022 != 0 => refuse(format!("others may write to it (mode {mode:04o})")),
        _ => Ok(()),
    }
}
