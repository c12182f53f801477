//! What a watcher keeps: guests that another manager runs, and up to where it has followed that manager's log.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};
use taptrail_record::GuestId;
use uuid::Uuid;

use crate::read::time;
use crate::write::integer;
use crate::{DeviceKey, GuestKey, Ledger, LedgerError, NewRecord, Process, RecordKey, Tx};

/// How far a record's time may be from that of an account, in milliseconds.
const TOLERANCE: i64 = 10_000;

/// A guest of another manager, of which a watcher begins to keep an account.
#[derive(Debug, Clone, Copy)]
pub struct NewWatched<'a> {
    /// Who.
    pub id: &'a GuestId,
    /// The boot it belongs to.
    pub boot_id: &'a str,
    /// The watcher.
    pub watcher: Process,
    /// When the log first told of it.
    pub begun: Timestamp,
}

/// Up to where a log is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// As the follower wrote it.
    pub text: String,
    /// The time of the last entry taken.
    pub time: Timestamp,
    /// Its serial number, where it had one.
    pub serial: Option<u32>,
}

impl Ledger {
    /// Up to where the watcher of this host has followed its log.
    ///
    /// # Errors
    /// When the ledger can't be read, or is older than watching.
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
    /// Whether a guest with this uuid had a supervisor of ours at this time.
    ///
    /// # Errors
    /// When the ledger can't be read.
    pub fn is_supervised(&self, guest: Uuid, at: Timestamp) -> Result<bool, LedgerError> {
        // Its first record is a moment older than its account, or seems to be.
        let sql = "SELECT EXISTS (SELECT 1 FROM guest WHERE uuid = ?1 AND watched = 0
                   AND begun <= ?2 + ?3 AND (ended IS NULL OR ended >= ?2 - ?3))";
        let values = params![guest.to_string(), at.as_millisecond(), TOLERANCE];
        let failed = |source| LedgerError::Read { source };
        self.connection
            .prepare_cached(sql)
            .map_err(failed)?
            .query_row(values, |row| row.get(0))
            .map_err(failed)
    }
}

impl Tx<'_> {
    /// A watched guest's account begins: until [`guest_ends`](Self::guest_ends) it is open.
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

    /// All that is open of a guest was seen to be there at this time.
    pub fn guest_seen(&self, guest: GuestKey, at: Timestamp) -> Result<(), LedgerError> {
        self.once(
            "note when it was seen of",
            "guest",
            guest.0,
            "UPDATE guest SET seen = ?2 WHERE id = ?1 AND ended IS NULL",
            params![guest.0, at.as_millisecond()],
        )
    }

    /// The interface behind a device was seen there: its network namespace, by inode, and its number in it.
    pub fn device_placed(&self, device: DeviceKey, (netns, ifindex): (u64, u32)) -> Result<(), LedgerError> {
        self.once(
            "note the place of",
            "device",
            device.0,
            "UPDATE device SET netns = ?2, ifindex = ?3 WHERE id = ?1 AND closed IS NULL",
            params![device.0, netns.cast_signed(), ifindex],
        )
    }

    /// Whether a guest is on record: one that has ended may be pruned.
    pub fn has_guest(&self, guest: GuestKey) -> Result<bool, LedgerError> {
        let sql = "SELECT count(*) FROM guest WHERE id = ?1";
        let failed = |source| LedgerError::Write { source };
        let found: u32 = self.inner.query_row(sql, [guest.0], |row| row.get(0)).map_err(failed)?;
        Ok(found > 0)
    }

    /// Remembers another manager's record as its log has it; `writer` is the manager.
    pub fn copy(
        &self,
        guest: GuestKey,
        record: &NewRecord<'_>,
        writer: Option<u32>,
    ) -> Result<RecordKey, LedgerError> {
        self.insert_record(guest, record, writer, true)
    }

    /// Remembers a watcher's own record.
    pub fn watched(
        &self,
        guest: GuestKey,
        record: &NewRecord<'_>,
        watcher: u32,
    ) -> Result<RecordKey, LedgerError> {
        self.insert_record(guest, record, Some(watcher), false)
    }

    /// Remembers up to where the log is followed.
    pub fn follow(&self, checkpoint: &Checkpoint) -> Result<(), LedgerError> {
        self.execute(
            "INSERT INTO watch (id, checkpoint, time, serial) VALUES (1, ?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET checkpoint = ?1, time = ?2, serial = ?3",
            params![checkpoint.text, checkpoint.time.as_millisecond(), checkpoint.serial],
        )?;
        Ok(())
    }
}
