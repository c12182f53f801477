use std::path::PathBuf;

/// Why the ledger can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The state directory can't be created.
    #[error("State directory {path} can't be created", path = path.display())]
    Directory {
        /// The path of the state directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file can't be opened or created.
    #[error("Ledger {path} can't be opened", path = path.display())]
    File {
        /// The path of the ledger's file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// SQLite can't open the file, or it is not a ledger.
    #[error("Ledger {path} can't be opened as a database", path = path.display())]
    Open {
        /// The path of the ledger's file.
        path: PathBuf,
        /// The error of SQLite, which says why.
        source: rusqlite::Error,
    },
    /// It can only be read from a copy, and the copy can't be created.
    #[error("Ledger {path} can't be copied to {dir}, where it would be read (TMPDIR names another directory)", path = path.display(), dir = std::env::temp_dir().display())]
    Copy {
        /// The path of the ledger's file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The database's schema is not taptrail's.
    #[error("Ledger {path} is not as taptrail makes it, and nothing of it is believed: {what}", path = path.display())]
    Foreign {
        /// The path of the ledger's file.
        path: PathBuf,
        /// The first difference.
        what: String,
    },
    /// The ledger was written by another version of taptrail.
    #[error("Ledger {path} has schema version {found}, but this taptrail knows {known}: {}", if found > known { "a newer taptrail wrote it" } else { "it is not a ledger that was ever written to" }, path = path.display())]
    Version {
        /// The path of the ledger's file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// This program's schema version.
        known: i64,
    },
    /// The file, or its directory, belongs to another user, or others can write to it.
    #[error("Ledger path {path} is refused, because {why}: give it to root with mode 0700 (a directory) or 0600 (the ledger), or use another --state-dir; named as a FILE, it is read as anybody's", path = .path.display())]
    NotOurs {
        /// The file or directory.
        path: PathBuf,
        /// Why it is refused, as a clause.
        why: String,
    },
    /// The file was removed while it was open.
    #[error("Ledger {path} was removed: nothing is given to a guest without a ledger; the next `taptrail run` makes a new one, into which running guests are taken", path = .path.display())]
    Removed {
        /// The ledger's path.
        path: PathBuf,
    },
    /// The file was replaced by another one while it was open.
    #[error("Ledger {path} was replaced by another file", path = .path.display())]
    Replaced {
        /// The ledger's path.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("Ledger {path} is damaged ({fault}): `taptrail ledger check` lists the faults", path = path.display())]
    Damaged {
        /// The path of the ledger's file.
        path: PathBuf,
        /// SQLite's description of the damage.
        fault: String,
    },
    /// A transaction failed; nothing of it was written.
    #[error("Ledger can't be written")]
    Write {
        /// The error of SQLite, which says why.
        source: rusqlite::Error,
    },
    /// A query failed.
    #[error("Ledger can't be read")]
    Read {
        /// The error of SQLite, which says why.
        source: rusqlite::Error,
    },
    /// A row has a value that taptrail never writes.
    #[error("Ledger row {table}:{id} holds '{value}', which is not a {what}")]
    Row {
        /// The name of the table.
        table: &'static str,
        /// The id of the row in that table.
        id: i64,
        /// The value, cut at 64 characters.
        value: String,
        /// The expected kind of value.
        what: &'static str,
    },
    /// An operation that may happen once for a row was done before: closing, granting, ending.
    #[error("Ledger refuses to {what} {table} row {id}: that was done before, or the row is missing")]
    AlreadyDone {
        /// The operation that was refused, as a verb.
        what: &'static str,
        /// The name of the table.
        table: &'static str,
        /// The id of the row in that table.
        id: i64,
    },
}
