//! This host's database of guests, records, devices and steps: durable, transactional, readable
//! with SQLite.
//!
//! There is one database per host, `ledger.sqlite` in the state directory, shared by all
//! supervisors. It has these tables (see `schema/`): guests, their interfaces, audit records as text,
//! devices from open to close, steps with a lasting effect (write-ahead intent and outcome), the
//! watcher's checkpoint, and a hash chain over the records (see [`Ledger::check_chain`]). A commit is on the disk when it returns (WAL, full synchronous).
//!
//! A watcher keeps accounts for the guests of another manager: copies of that manager's records,
//! its own observations, and the checkpoint up to which it has read the log (see
//! [`Ledger::checkpoint`]).
//!
//! A ledger of another host, or one that can't be written to, is read from a private copy: nothing
//! beside it is changed or created. A database that is not exactly as taptrail makes it (with a
//! view, a trigger, another table) is refused.
//!
//! This crate never opens a device, never uses the kernel's audit and makes no decisions. It ends
//! each row exactly once: a second close of a device is an error.
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

mod bridge_tap;
mod chain;
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

pub use bridge_tap::{LiveBridgeTap, NewBridgeTap};
pub use chain::{
    ChainCheckpoint, ChainFault, ChainHash, ChainReport, CheckpointVerdict, InvalidCheckpoint, NamedRecord,
    PrunedRows,
};
pub use error::LedgerError;
pub use live::{LiveDevice, LiveInterface, LiveStep};
pub use moved::MovedKeys;
pub use read::{Guest, OpenStep, Records, StoredRecord};
pub use upkeep::Pruned;
pub use watch::{Checkpoint, NewWatched};
pub use write::{
    AuditOutcome, DeviceKey, GuestKey, InterfaceKey, Logged, NewDevice, NewGuest, NewRecord, PendingRecord,
    Process, RecordKey, Step, StepKey, Tx,
};

use std::fs::{DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::copy::{CopyError, PrivateCopy};

/// How long a supervisor waits for another supervisor's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long [`Ledger::open_at_once`] waits for another process.
const AT_ONCE_TIMEOUT: Duration = Duration::from_millis(20);

/// The largest ledger in bytes that [`Ledger::open_at_once`] copies.
const MAX_COPY_AT_ONCE: u64 = 4 << 20;

/// The host's ledger, open.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    /// The file that was opened.
    file_id: Option<moved::FileId>,
    /// The version of its schema when it was opened.
    version: i64,
}

impl Ledger {
    /// The version of the schema that this crate writes.
    pub const VERSION: i64 = schema::VERSION;

    /// The version of the ledger's schema when it was opened.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Opens the ledger in `state_dir` for writing, and creates both if missing (modes 0700 and
    /// 0600).
    ///
    /// A ledger of up to 4 MiB is checked for damage; for a larger one use
    /// [`faults`](Self::faults).
    ///
    /// # Errors
    ///
    /// The directory or the file can't be created or opened, others can write to it, it is damaged,
    /// or it is not a ledger of this or an earlier version.
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
            // A symbolic link could lead anywhere.
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

    /// Opens the ledger in `state_dir` for writing, without creating, migrating or checking it.
    /// None if there is no ledger.
    ///
    /// # Errors
    ///
    /// As [`open_to_read`](Self::open_to_read); or it can't be written to.
    pub fn open_existing(state_dir: &Path) -> Result<Option<Self>, LedgerError> {
        let path = match Self::checked_file(state_dir) {
            Err(LedgerError::File { source, .. })
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            checked => checked?,
        };
        let ledger = Self::connect(path)?;
        if ledger.is_empty()? { Ok(None) } else { ledger.check_schema().map(Some) }
    }

    /// Opens this host's ledger for reading while supervisors and watchers write to it, and does
    /// not change it. A ledger that no process has open, or that can't be read in place (read-only
    /// media), is read as by [`open_file_to_read`](Self::open_file_to_read).
    ///
    /// # Errors
    ///
    /// [`LedgerError::NotOurs`] if others can write to the directory or the file, and so may have
    /// changed its contents; or it can't be opened, or is not a ledger of this or an earlier
    /// version.
    pub fn open_to_read(state_dir: &Path) -> Result<Self, LedgerError> {
        let path = Self::checked_file(state_dir)?;
        // A process that creates a ledger first creates an empty file, and then the whole schema at
        // once.
        let end = Instant::now() + BUSY_TIMEOUT;
        loop {
            let ledger = match Self::connect_to_read(&path) {
                Err(LedgerError::Open { source, .. }) if needs_write_access(&source) => {
                    Self::copy_of(path.clone())?
                }
                opened => opened?,
            };
            if !ledger.is_empty()? || Instant::now() >= end {
                return match ledger.check_schema() {
                    Err(LedgerError::Open { source, .. }) if needs_write_access(&source) => {
                        Self::open_file_to_read(path)
                    }
                    checked => checked,
                };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As [`open_to_read`](Self::open_to_read), for whoever must not wait: `None` if the ledger is
    /// just being made, or if it would have to be copied and has, with its
    /// write-ahead log, more than 4 MiB.
    ///
    /// # Errors
    ///
    /// As [`open_to_read`](Self::open_to_read); or another process has locked it.
    pub fn open_at_once(state_dir: &Path) -> Result<Option<Self>, LedgerError> {
        let path = Self::checked_file(state_dir)?;
        let ledger = match Self::connect_to_read(&path) {
            Err(LedgerError::Open { source, .. }) if needs_write_access(&source) => {
                let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
                let mut log = path.clone().into_os_string();
                log.push("-wal");
                if bytes(&path).saturating_add(bytes(Path::new(&log))) > MAX_COPY_AT_ONCE {
                    return Ok(None);
                }
                Self::copy_of(path)?
            }
            opened => opened?,
        };
        let failed = |source| LedgerError::Open { path: ledger.path.clone(), source };
        ledger.connection.busy_timeout(AT_ONCE_TIMEOUT).map_err(failed)?;
        if ledger.is_empty()? { Ok(None) } else { ledger.check_schema().map(Some) }
    }

    /// The path of the ledger in `state_dir`, which nobody else can have written to.
    fn checked_file(state_dir: &Path) -> Result<PathBuf, LedgerError> {
        let path = Self::file(state_dir);
        // Without opening the file: closing it would release SQLite's locks on it in this process
        // (fcntl(2)).
        let metadata = std::fs::symlink_metadata(&path)
            .map_err(|source| LedgerError::File { path: path.clone(), source })?;
        owner::check_directory(state_dir)?;
        owner::check_ledger(&path, &metadata)?;
        Ok(path)
    }

    /// Opens a ledger that a writer has open, and that has a write-ahead log and its index (`-wal`,
    /// `-shm`). SQLite changes only the locks in the index, and recovers the index if a writer
    /// died.
    fn connect_to_read(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Open { path: path.to_owned(), source };
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            Path::new(&name).exists()
        };
        // If one is missing, SQLite would create it, or can't open the other.
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

    /// Opens a ledger's file, including its write-ahead log, from a private copy, without changing
    /// the original. The copy is deleted from its directory before this returns. The file may
    /// belong to anyone.
    ///
    /// # Errors
    ///
    /// The file can't be read or copied, or is not a ledger of this or an earlier version.
    pub fn open_file_to_read(path: PathBuf) -> Result<Self, LedgerError> {
        Self::copy_of(path)?.check_schema()
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
        // With an exclusive lock, SQLite keeps the index of its log in memory: the copy needs no
        // third file.
        connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE").map_err(failed)?;
        let version = version(&connection).map_err(failed)?;
        connection.execute_batch("PRAGMA query_only = ON").map_err(failed)?;
        drop(copy);
        Ok(Self { connection, path, file_id: None, version })
    }

    /// Checks version and schema, and returns the ledger if it can be read.
    fn check_schema(mut self) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Open { path: self.path.clone(), source };
        // In one transaction: another process may be migrating it.
        let moment = self.connection.unchecked_transaction().map_err(failed)?;
        let found = version(&moment).map_err(failed)?;
        // The queries handle each older version.
        let Some(steps) = schema::steps(found).filter(|steps| !steps.is_empty()) else {
            return Err(LedgerError::Version { path: self.path.clone(), found, known: schema::VERSION });
        };
        if let Some(what) = schema::find_difference(&moment, steps).map_err(failed)? {
            return Err(LedgerError::Foreign { path: self.path.clone(), what });
        }
        moment.finish().map_err(failed)?;
        self.version = found;
        Ok(self)
    }

    /// The path of the ledger in `state_dir`.
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

    /// Whether another process is still creating it: it has neither a schema nor a version yet.
    fn is_empty(&self) -> Result<bool, LedgerError> {
        let failed = |source| LedgerError::Open { path: self.path.clone(), source };
        let empty = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)";
        Ok(self.version == 0 && self.connection.query_row(empty, [], |row| row.get(0)).map_err(failed)?)
    }

    fn migrate(&mut self) -> Result<(), LedgerError> {
        let failed = |source| LedgerError::Open { path: self.path.clone(), source };
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        // Read again within the transaction: another supervisor may have migrated it meanwhile.
        let found = version(&tx).map_err(failed)?;
        let Some(taken) = schema::steps(found) else {
            return Err(LedgerError::Version { path: self.path.clone(), found, known: schema::VERSION });
        };
        if let Some(what) = schema::find_difference(&tx, taken).map_err(failed)? {
            return Err(LedgerError::Foreign { path: self.path.clone(), what });
        }
        if found < schema::VERSION {
            for step in &schema::STEPS[taken.len()..] {
                tx.execute_batch(step).map_err(failed)?;
            }
            if found < chain::SINCE_VERSION {
                chain::begin(&tx, found == 0, Timestamp::now().as_millisecond()).map_err(failed)?;
            }
            tx.pragma_update(None, "user_version", schema::VERSION).map_err(failed)?;
        }
        tx.commit().map_err(failed)?;
        self.version = schema::VERSION;
        Ok(())
    }

    /// Begins a transaction, which [`Tx::commit`] makes durable.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Removed`] and [`LedgerError::Replaced`] if the file at its path is not the
    /// one that is open; [`LedgerError::Write`] if SQLite can't begin a transaction.
    pub fn begin(&mut self) -> Result<Tx<'_>, LedgerError> {
        self.check_in_place()?;
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|source| LedgerError::Write { source })?;
        // Another process may have migrated it since it was opened.
        let version = match self.version {
            known if known >= chain::SINCE_VERSION => known,
            _ => version(&tx).map_err(|source| LedgerError::Write { source })?,
        };
        Ok(Tx::new(tx, version >= chain::SINCE_VERSION))
    }
}

/// The longest value that SQLite reads, in bytes: far more than a ledger has.
const MAX_VALUE_BYTES: i32 = 16 << 20;

/// Protects against a hostile file: SQLite runs nothing of its schema, and no value takes all
/// memory. Statements stay as they were prepared.
fn harden(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    // Without it, SQLite prepares a statement again whenever another value is bound to it: that takes
    // longer than inserting the row.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.execute_batch("PRAGMA cell_size_check = ON")
}

/// Whether SQLite could not open a database because reading it needs write access to the directory.
fn needs_write_access(error: &rusqlite::Error) -> bool {
    let writes = [ErrorCode::CannotOpen, ErrorCode::ReadOnly, ErrorCode::PermissionDenied];
    error.sqlite_error_code().is_some_and(|code| writes.contains(&code))
}

fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Sets WAL mode. On a new file that needs an exclusive lock, for which SQLite's busy timeout does
/// not apply.
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
