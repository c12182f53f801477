//! The accounts of taps that the bridge helper passed to users' QEMUs. They have records, and no
//! guest.

use jiff::Timestamp;
use rusqlite::params;
use uuid::Uuid;

use crate::read::{bounded, text_of, time};
use crate::write::integer;
use crate::{GuestKey, Ledger, LedgerError, NewRecord, Process, Tx};

/// The value of `guest.watched` in such an account.
pub(crate) const WATCHED: u8 = 2;

/// How many open accounts are read.
const MAX_OPEN: u32 = 4096;

/// A tap that was passed.
#[derive(Debug, Clone, Copy)]
pub struct NewBridgeTap<'a> {
    /// The boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: &'a str,
    /// The process of the watcher that keeps the account.
    pub watcher: Process,
    /// The process that asked for the tap, if it had not ended.
    pub requester: Option<Process>,
    /// The inode of the tap's network namespace.
    pub netns: u64,
}

/// An account that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveBridgeTap {
    /// The key of its row in the ledger.
    pub key: GuestKey,
    /// The boot in which the tap was passed.
    pub boot_id: String,
    /// When the tap was last known to be open.
    pub last_seen: Timestamp,
    /// The text of the record of its open.
    pub opened: String,
}

impl Ledger {
    /// The open accounts of the bridge helper's taps, oldest first; the first 4096.
    ///
    /// # Errors
    ///
    /// The query fails, or a row is invalid.
    pub fn live_bridge_taps(&self) -> Result<Vec<LiveBridgeTap>, LedgerError> {
        let failed = |source| LedgerError::Read { source };
        let sql = format!(
            "SELECT id, {boot_id}, coalesce(seen, begun),
                    (SELECT {text} FROM record WHERE record.guest = guest.id ORDER BY record.id LIMIT 1)
             FROM guest WHERE watched = {WATCHED} AND ended IS NULL ORDER BY id LIMIT {MAX_OPEN}",
            boot_id = bounded("boot_id"),
            text = bounded("text"),
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut taps = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let id = row.get(0).map_err(failed)?;
            taps.push(LiveBridgeTap {
                key: GuestKey(id),
                boot_id: text_of(row, 1, "guest", id)?,
                last_seen: time("guest", id, row.get(2).map_err(failed)?)?,
                opened: text_of(row, 3, "guest", id)?,
            });
        }
        Ok(taps)
    }
}

impl Tx<'_> {
    /// Opens the account of a tap, until [`bridge_tap_closed`](Self::bridge_tap_closed).
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`].
    pub fn bridge_tap_opened(
        &self,
        tap: &NewBridgeTap<'_>,
        record: &NewRecord<'_>,
    ) -> Result<GuestKey, LedgerError> {
        let account = self
            .insert(
                "INSERT INTO guest (name, uuid, boot_id, supervisor_pid, supervisor_start, begun, netns, pid, pid_start, watched)
                 VALUES ('', ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    Uuid::nil().to_string(),
                    tap.boot_id,
                    tap.watcher.pid,
                    integer(tap.watcher.start),
                    record.time.as_millisecond(),
                    integer(tap.netns),
                    tap.requester.map(|process| process.pid),
                    tap.requester.map(|process| integer(process.start)),
                    WATCHED
                ],
            )
            .map(GuestKey)?;
        self.watched(account, record, tap.watcher.pid)?;
        Ok(account)
    }

    /// Ends the account of a tap that is closed.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if it has ended; [`LedgerError::Write`].
    pub fn bridge_tap_closed(
        &self,
        tap: GuestKey,
        record: &NewRecord<'_>,
        watcher: u32,
    ) -> Result<(), LedgerError> {
        self.watched(tap, record, watcher)?;
        self.guest_ends(tap, "closed")
    }
}
