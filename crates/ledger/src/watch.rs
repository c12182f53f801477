//! A watcher's rows: the guests of another manager, and the checkpoint up to which it has read the
//! log.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};
use taptrail_record::GuestId;
use uuid::Uuid;

use crate::read::time;
use crate::write::integer;
use crate::{DeviceKey, GuestKey, Ledger, LedgerError, NewRecord, Process, RecordKey, Tx};

/// How far a record's time may be outside of its account's time, in milliseconds.
const ACCOUNT_TOLERANCE_MS: i64 = 10_000;

/// A guest of another manager, for which a watcher opens an account.
#[derive(Debug, Clone, Copy)]
pub struct NewWatched<'a> {
    /// Its name and uuid.
    pub id: &'a GuestId,
    /// The boot in which it started (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: &'a str,
    /// The process of the watcher that keeps the account.
    pub watcher: Process,
    /// The time of its first record in the log.
    pub begun: Timestamp,
}

/// The position up to which a log was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The position, in the follower's own format.
    pub text: String,
    /// The time of the last entry read.
    pub time: Timestamp,
    /// Its serial number, if it had one.
    pub serial: Option<u32>,
}

impl Ledger {
    /// The checkpoint of this host's watcher.
    ///
    /// # Errors
    ///
    /// The ledger can't be read, or its version has no checkpoints.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, LedgerError> {
        let failed = |source| LedgerError::Read { source };
        let row = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<u32>>(2)?))
        };
        let sql = "SELECT checkpoint, time, serial FROM watch";
        let found = self.connection.query_row(sql, [], row).optional().map_err(failed)?;
        let Some((text, at, serial)) = found else { return Ok(None) };
        Ok(Some(Checkpoint { text, time: time("watch", 1, at)?, serial }))
    }
}

impl Ledger {
    /// Whether a guest with this uuid had a taptrail supervisor at this time.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Read`] if the query fails.
    pub fn is_supervised(&self, guest: Uuid, at: Timestamp) -> Result<bool, LedgerError> {
        // A guest's first record is slightly older than its account, or seems to be.
        let sql = "SELECT EXISTS (SELECT 1 FROM guest WHERE uuid = ?1 AND watched = 0
                   AND begun <= ?2 + ?3 AND (ended IS NULL OR ended >= ?2 - ?3))";
        let values = params![guest.to_string(), at.as_millisecond(), ACCOUNT_TOLERANCE_MS];
        let failed = |source| LedgerError::Read { source };
        self.connection
            .prepare_cached(sql)
            .map_err(failed)?
            .query_row(values, |row| row.get(0))
            .map_err(failed)
    }
}

impl Tx<'_> {
    /// Opens a watched guest's account, until [`guest_ends`](Self::guest_ends).
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`].
    pub fn watched_begins(&self, guest: &NewWatched<'_>) -> Result<GuestKey, LedgerError> {
        self.insert(
            "INSERT INTO guest (name, uuid, boot_id, supervisor_pid, supervisor_start, begun, watched)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)",
            params![
                guest.id.name.as_str(),
                guest.id.uuid.to_string(),
                guest.boot_id,
                guest.watcher.pid,
                integer(guest.watcher.start),
                guest.begun.as_millisecond()
            ],
        )
        .map(GuestKey)
    }

    /// Sets the time at which the watcher last saw all open devices of a guest.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if the guest has ended; [`LedgerError::Write`].
    pub fn guest_seen(&self, guest: GuestKey, at: Timestamp) -> Result<(), LedgerError> {
        self.update_once(
            "note when it was seen of",
            "guest",
            guest.0,
            "UPDATE guest SET seen = ?2 WHERE id = ?1 AND ended IS NULL",
            params![guest.0, at.as_millisecond()],
        )
    }

    /// Sets where the watcher saw the interface behind a device: the inode of its network
    /// namespace, and its ifindex. The supervisor of a guest sets that of QEMU's connection to a
    /// vhost-user backend, and its inode; until that is known, the device number and inode of the socket.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if the device is closed; [`LedgerError::Write`].
    pub fn device_located(&self, device: DeviceKey, (netns, ifindex): (u64, u32)) -> Result<(), LedgerError> {
        self.update_once(
            "note the place of",
            "device",
            device.0,
            "UPDATE device SET netns = ?2, ifindex = ?3 WHERE id = ?1 AND closed IS NULL",
            params![device.0, netns.cast_signed(), ifindex],
        )
    }

    /// Whether the ledger has a guest; one that has ended may have been pruned.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`] if the query fails.
    pub fn has_guest(&self, guest: GuestKey) -> Result<bool, LedgerError> {
        let sql = "SELECT count(*) FROM guest WHERE id = ?1";
        let failed = |source| LedgerError::Write { source };
        let found: u32 = self.inner.query_row(sql, [guest.0], |row| row.get(0)).map_err(failed)?;
        Ok(found > 0)
    }

    /// Inserts a copy of another manager's record from the log; `writer` is the manager's process
    /// id.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`].
    pub fn copy(
        &self,
        guest: GuestKey,
        record: &NewRecord<'_>,
        writer: Option<u32>,
    ) -> Result<RecordKey, LedgerError> {
        self.insert_record(guest, record, writer, true)
    }

    /// Inserts a watcher's own record; `watcher` is its process id.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`].
    pub fn watched(
        &self,
        guest: GuestKey,
        record: &NewRecord<'_>,
        watcher: u32,
    ) -> Result<RecordKey, LedgerError> {
        self.insert_record(guest, record, Some(watcher), false)
    }

    /// Saves the checkpoint up to which the log was read.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`].
    pub fn save_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), LedgerError> {
        self.execute(
            "INSERT INTO watch (id, checkpoint, time, serial) VALUES (1, ?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET checkpoint = ?1, time = ?2, serial = ?3",
            params![checkpoint.text, checkpoint.time.as_millisecond(), checkpoint.serial],
        )?;
        Ok(())
    }
}
