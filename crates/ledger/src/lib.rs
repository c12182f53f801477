//! What this host's guests were given: durable, transactional, readable by anyone with SQLite.
//!
//! One database for the host, `ledger.sqlite` in the state directory, shared by all supervisors.
//! It keeps six tables (see `schema/`): the guests, their interfaces, each audit record as its
//! text, each device from its open to its close, the steps with a lasting effect, as intents
//! before and outcomes after, and what is watched. A commit is on the disk when it returns (WAL, full synchronous).
//!
//! The guests of another manager have an account, too, kept by a watcher: copies of that manager's
//! records, what the watcher itself saw, and up to where it has read (see [`Ledger::checkpoint`]).
//!
//! A ledger that is not this host's own, or that can't be written to, is read in a private copy: nothing is changed or
//! left beside it. Whatever is not exactly as a taptrail makes it (a view, a trigger, another table) is refused.
//!
//! This room never opens a device, never talks to the kernel's audit and never decides anything:
//! it remembers, and it refuses to forget twice (a device is closed exactly once).
//!
//! ```no_run
//! # fn main() -> Result<(), taptrail_ledger::LedgerError> {
//! let mut ledger = taptrail_ledger::Ledger::open(std::path::Path::new("/var/lib/taptrail"))?;
//! for guest in ledger.guests()? {
//!     eprintln!("{} since {}", guest.id.name, guest.begun);
//! }
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod copy;
mod error;
mod live;
mod moved;
mod owner;
mod read;
mod schema;
mod upkeep;
mod watch;
mod write;

pub use error::LedgerError;
pub use live::{LiveDevice, LiveInterface, LiveStep};
pub use moved::Moved;
pub use read::{Guest, OpenStep, Records, StoredRecord};
pub use upkeep::Pruned;
pub use watch::{Checkpoint, NewWatched};
pub use write::{
    DeviceKey, GuestKey, InterfaceKey, Logged, NewDevice, NewGuest, NewRecord, Process, RecordKey, Step,
    StepKey, Tx,
};

use std::fs::{DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::copy::{CopyError, PrivateCopy};

/// How long a supervisor waits for another one's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The host's ledger, open.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    /// The file that was opened.
    file_id: Option<moved::FileId>,
    /// Of its schema, when it was opened.
    version: i64,
}

impl Ledger {
    /// Opens the ledger in `state_dir`, making both where they are missing (modes 0700 and 0600).
    ///
    /// One of up to 4 MiB is looked through for damage; a larger one is left to [`faults`](Self::faults).
    pub fn open(state_dir: &Path) -> Result<Self, LedgerError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(|source| LedgerError::Directory { path: state_dir.to_owned(), source })?;
        owner::check_directory(state_dir)?;
        let path = Self::file(state_dir);
        // SQLite makes its file with the umask's mode; made beforehand it gets ours, and its
        // -wal and -shm files follow the main file's.
        OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            // A link there would lead somewhere else.
            .custom_flags(owner::NOFOLLOW)
            .open(&path)
            .map_err(|source| LedgerError::File { path: path.clone(), source })
            .and_then(|file| owner::check_file(&path, &file))?;
        let mut ledger = Self::connect(path)?;
        write_ahead(&ledger.connection)
            .map_err(|source| LedgerError::Open { path: ledger.path.clone(), source })?;
        ledger.migrate()?;
        ledger.refuse_damage()?;
        Ok(ledger)
    }

    /// Opens the ledger in `state_dir` as it is, to read it where it will be written to: nothing is made, upgraded or
    /// looked through for damage. None where there is none.
    ///
    /// # Errors
    /// As of [`open_to_read`](Self::open_to_read); and where it can't be written to.
    pub fn open_existing(state_dir: &Path) -> Result<Option<Self>, LedgerError> {
        let path = Self::file(state_dir);
        let about = match std::fs::symlink_metadata(&path) {
            Ok(about) => about,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(source) => return Err(LedgerError::File { path, source }),
        };
        owner::check_directory(state_dir)?;
        owner::check_ledger(&path, &about)?;
        let ledger = Self::connect(path)?;
        if ledger.is_being_made()? { Ok(None) } else { ledger.checked().map(Some) }
    }

    /// Opens this host's ledger for reading, as supervisors and watchers write to it, and leaves it as it is. One that
    /// nobody has open, or that can't be read in place (read-only media), is read as
    /// [`open_file_to_read`](Self::open_file_to_read) does.
    ///
    /// # Errors
    /// [`LedgerError::NotOurs`] where others can write to the directory or the file: what it says may be theirs.
    pub fn open_to_read(state_dir: &Path) -> Result<Self, LedgerError> {
        let path = Self::file(state_dir);
        // Not opened for that: to close a file gives up the locks that SQLite has on it in this process (fcntl(2)).
        let about = std::fs::symlink_metadata(&path)
            .map_err(|source| LedgerError::File { path: path.clone(), source })?;
        owner::check_directory(state_dir)?;
        owner::check_ledger(&path, &about)?;
        // Whoever makes a ledger makes an empty file first, and all of its schema at once a moment later.
        let end = Instant::now() + BUSY_TIMEOUT;
        loop {
            let ledger = match Self::connect_to_read(&path) {
                Err(LedgerError::Open { source, .. }) if needs_to_write(&source) => {
                    Self::copy_of(path.clone())?
                }
                opened => opened?,
            };
            if !ledger.is_being_made()? || Instant::now() >= end {
                return match ledger.checked() {
                    Err(LedgerError::Open { source, .. }) if needs_to_write(&source) => {
                        Self::open_file_to_read(path)
                    }
                    checked => checked,
                };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Opens a ledger that a writer has open, and whose write-ahead log and the index of that are there. Only what of
    /// the index is locks, or is out of date since a writer died, is changed.
    fn connect_to_read(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Open { path: path.to_owned(), source };
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            Path::new(&name).exists()
        };
        // Where one is missing SQLite would make it, or can't open the other.
        if !beside("-wal") || !beside("-shm") {
            return Err(failed(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                None,
            )));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        harden(&connection).map_err(failed)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
        let version = version(&connection).map_err(failed)?;
        Ok(Self { connection, path: path.to_owned(), file_id: None, version })
    }

    /// Reads a ledger's file as it is now, with what its write-ahead log has, and without touching either: in a private
    /// copy, which is gone from its directory before this returns. It may be anybody's.
    pub fn open_file_to_read(path: PathBuf) -> Result<Self, LedgerError> {
        Self::copy_of(path)?.checked()
    }

    fn copy_of(path: PathBuf) -> Result<Self, LedgerError> {
        let copy = match PrivateCopy::of(&path) {
            Ok(copy) => copy,
            Err(CopyError::Original(source)) => return Err(LedgerError::File { path, source }),
            Err(CopyError::Copy(source)) => return Err(LedgerError::Copy { path, source }),
        };
        let failed = |source| LedgerError::Open { path: path.clone(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(copy.path(), flags).map_err(failed)?;
        harden(&connection).map_err(failed)?;
        // Alone, SQLite keeps the index of its log in memory: the copy needs no third file.
        connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE").map_err(failed)?;
        let version = version(&connection).map_err(failed)?;
        connection.execute_batch("PRAGMA query_only = ON").map_err(failed)?;
        drop(copy);
        Ok(Self { connection, path, file_id: None, version })
    }

    /// This ledger, if it is one that can be read.
    fn checked(mut self) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Open { path: self.path.clone(), source };
        // At one moment: another process may be bringing it up to a newer version.
        let moment = self.connection.unchecked_transaction().map_err(failed)?;
        let found = version(&moment).map_err(failed)?;
        // Reading takes of a version only what that has.
        let Some(steps) = schema::steps(found).filter(|steps| !steps.is_empty()) else {
            return Err(LedgerError::Version { path: self.path.clone(), found, known: schema::VERSION });
        };
        if let Some(what) = schema::differs(&moment, steps).map_err(failed)? {
            return Err(LedgerError::Foreign { path: self.path.clone(), what });
        }
        moment.finish().map_err(failed)?;
        self.version = found;
        Ok(self)
    }

    /// Where the ledger of `state_dir` lies.
    pub fn file(state_dir: &Path) -> PathBuf {
        state_dir.join("ledger.sqlite")
    }

    fn connect(path: PathBuf) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Open { path: path.clone(), source };
        let connection = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_NOFOLLOW,
        )
        .map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        harden(&connection).map_err(failed)?;
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(failed)?;
        let version = version(&connection).map_err(failed)?;
        let file_id = moved::file_id(&path);
        Ok(Self { connection, path, file_id, version })
    }

    /// Whether it has neither a schema nor a version yet.
    fn is_being_made(&self) -> Result<bool, LedgerError> {
        let failed = |source| LedgerError::Open { path: self.path.clone(), source };
        let empty = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)";
        Ok(self.version == 0 && self.connection.query_row(empty, [], |row| row.get(0)).map_err(failed)?)
    }

    fn migrate(&mut self) -> Result<(), LedgerError> {
        let failed = |source| LedgerError::Open { path: self.path.clone(), source };
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        // Asked again inside: another supervisor may have done it meanwhile.
        let found = version(&tx).map_err(failed)?;
        let Some(taken) = schema::steps(found) else {
            return Err(LedgerError::Version { path: self.path.clone(), found, known: schema::VERSION });
        };
        if let Some(what) = schema::differs(&tx, taken).map_err(failed)? {
            return Err(LedgerError::Foreign { path: self.path.clone(), what });
        }
        if found < schema::VERSION {
            for step in &schema::STEPS[taken.len()..] {
                tx.execute_batch(step).map_err(failed)?;
            }
            tx.pragma_update(None, "user_version", schema::VERSION).map_err(failed)?;
        }
        tx.commit().map_err(failed)?;
        self.version = schema::VERSION;
        Ok(())
    }

    /// Begins a transaction; nothing of it lasts until [`Tx::commit`].
    ///
    /// # Errors
    /// [`LedgerError::Removed`] and [`LedgerError::Replaced`] when the file at its path is not the one that is open.
    pub fn begin(&mut self) -> Result<Tx<'_>, LedgerError> {
        self.is_in_place()?;
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|source| LedgerError::Write { source })?;
        Ok(Tx::new(tx))
    }
}

/// The longest value that a ledger has, by far, in bytes.
const MAX_VALUE: i32 = 16 << 20;

/// A file may be anybody's: nothing that stands in its schema is trusted or run, and no value takes all memory.
fn harden(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.execute_batch("PRAGMA cell_size_check = ON")
}

/// Whether SQLite could not open a database because reading one takes the right to write beside it.
fn needs_to_write(error: &rusqlite::Error) -> bool {
    let writes = [ErrorCode::CannotOpen, ErrorCode::ReadOnly, ErrorCode::PermissionDenied];
    error.sqlite_error_code().is_some_and(|code| writes.contains(&code))
}

fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Sets the mode, which changes a new ledger's file: that has to be done alone, and there SQLite itself waits for nobody.
fn write_ahead(connection: &Connection) -> Result<(), rusqlite::Error> {
    let end = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connection.execute_batch("PRAGMA journal_mode = WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < end =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            set => return set,
        }
    }
}
