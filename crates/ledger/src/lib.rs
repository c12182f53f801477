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

mod error;
mod live;
mod moved;
mod owner;
mod read;
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
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

/// The steps from an empty file to the schema that this program writes. A ledger's version is how many of them it has
/// taken: a newer one is refused, an older one takes the rest. A step that was released never changes.
const SCHEMA: [&str; 4] = [
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
];

/// The version of the whole.
#[allow(clippy::cast_possible_wrap)] // A handful.
const SCHEMA_VERSION: i64 = SCHEMA.len() as i64;

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
        ledger.migrate()?;
        ledger.refuse_damage()?;
        Ok(ledger)
    }

    /// Opens an existing ledger of a state directory for reading.
    pub fn open_to_read(state_dir: &Path) -> Result<Self, LedgerError> {
        Self::open_file_to_read(Self::file(state_dir))
    }

    /// Opens an existing ledger's file for reading.
    pub fn open_file_to_read(path: PathBuf) -> Result<Self, LedgerError> {
        if let Err(source) = std::fs::metadata(&path) {
            return Err(LedgerError::File { path, source });
        }
        // Reading a WAL database takes the right to write its index; its tables are left as they are.
        let mut ledger = Self::connect(path)?;
        ledger.await_maker()?;
        let found = ledger.version;
        // Reading takes of a version only what that has.
        if !(1..=SCHEMA_VERSION).contains(&found) {
            return Err(LedgerError::Version { path: ledger.path, found, known: SCHEMA_VERSION });
        }
        Ok(ledger)
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
        write_ahead(&connection).map_err(failed)?;
        connection
            .execute_batch(
                "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
                 PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;",
            )
            .map_err(failed)?;
        let version = version(&connection).map_err(failed)?;
        let file_id = moved::file_id(&path);
        Ok(Self { connection, path, file_id, version })
    }

    /// Whoever makes a ledger makes an empty file first, and all of its schema at once a moment later.
    fn await_maker(&mut self) -> Result<(), LedgerError> {
        let failed = |source| LedgerError::Open { path: self.path.clone(), source };
        let end = Instant::now() + BUSY_TIMEOUT;
        let empty = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)";
        while self.version == 0 {
            // Asked first: where there is a schema, its version is there.
            let empty: bool = self.connection.query_row(empty, [], |row| row.get(0)).map_err(failed)?;
            self.version = version(&self.connection).map_err(failed)?;
            if !empty || Instant::now() >= end {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn migrate(&mut self) -> Result<(), LedgerError> {
        let failed = |source| LedgerError::Open { path: self.path.clone(), source };
        if self.version == SCHEMA_VERSION {
            return Ok(());
        }
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        // Asked again inside: another supervisor may have done it meanwhile.
        let found = version(&tx).map_err(failed)?;
        let Some(steps) = usize::try_from(found).ok().and_then(|taken| SCHEMA.get(taken..)) else {
            return Err(LedgerError::Version { path: self.path.clone(), found, known: SCHEMA_VERSION });
        };
        for step in steps {
            tx.execute_batch(step).map_err(failed)?;
        }
        tx.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(failed)?;
        tx.commit().map_err(failed)?;
        self.version = SCHEMA_VERSION;
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
