//! Checking a ledger for damage, and pruning old guests.

use jiff::Timestamp;
use rusqlite::TransactionBehavior;

use crate::chain::{self, Head, Kind};
use crate::{Ledger, LedgerError};

/// The largest ledger, in bytes, that is checked whenever it is opened, which takes some
/// milliseconds.
const MAX_CHECKED_ON_OPEN_BYTES: u64 = 4 << 20;

/// The largest number of faults reported.
const MAX_FAULTS: usize = 100;

/// Faults, as a sentence, and a query for the ids of the rows that have them.
const RULES: [(&str, &str); 4] = [
    (
        "device {} was never closed, though its guest has ended",
        "SELECT device.id FROM device JOIN guest ON guest.id = device.guest
         WHERE closed IS NULL AND ended IS NOT NULL",
    ),
    (
        "step {} has no outcome, though its guest has ended",
        "SELECT step.id FROM step JOIN guest ON guest.id = step.guest WHERE done IS NULL AND ended IS NOT NULL",
    ),
    (
        "interface {} has no end, though its guest has",
        "SELECT interface.id FROM interface JOIN guest ON guest.id = interface.guest
         WHERE interface.ended IS NULL AND guest.ended IS NOT NULL",
    ),
    (
        "device {} has records of another guest",
        "SELECT device.id FROM device JOIN record ON record.id IN (opened, granted, closed)
         WHERE record.guest <> device.guest",
    ),
];

/// The number of rows that were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Starts of guests.
    pub guests: u64,
    /// Records of these starts.
    pub records: u64,
}

impl Ledger {
    /// Refuses a damaged ledger, before anything is written that might be lost.
    pub(crate) fn refuse_damage(&self) -> Result<(), LedgerError> {
        if self.bytes() > MAX_CHECKED_ON_OPEN_BYTES {
            return Ok(());
        }
        let failed = |source| LedgerError::Open { path: self.path.clone(), source };
        let fault: String =
            self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if fault == "ok" { Ok(()) } else { Err(LedgerError::Damaged { path: self.path.clone(), fault }) }
    }

    /// Checks the ledger, and returns a sentence for each fault: in pages and indices (SQLite's own
    /// check), in references, and open rows of ended guests. Reads the whole ledger.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Read`] if it is too damaged to be read.
    pub fn faults(&self) -> Result<Vec<String>, LedgerError> {
        let failed = |source| LedgerError::Read { source };
        let mut faults = Vec::new();
        self.each(
            "PRAGMA integrity_check(100)",
            |row| row.get(0),
            |fault: String| {
                if fault != "ok" {
                    faults.push(fault);
                }
            },
        )
        .map_err(failed)?;
        if !faults.is_empty() {
            // The other checks need intact pages.
            return Ok(faults);
        }
        let reference = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, String>(2)?))
        };
        self.each("PRAGMA foreign_key_check", reference, |(table, row, parent)| {
            faults
                .push(format!("{table} {} refers to a {parent} that is not there", row.unwrap_or_default()));
        })
        .map_err(failed)?;
        for (fault, query) in RULES {
            self.each(
                query,
                |row| row.get(0),
                |id: i64| {
                    faults.push(fault.replace("{}", &id.to_string()));
                },
            )
            .map_err(failed)?;
        }
        faults.truncate(MAX_FAULTS);
        Ok(faults)
    }

    fn each<T>(
        &self,
        sql: &str,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
        take: impl FnMut(T),
    ) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([], read)?.collect::<Result<Vec<_>, _>>()?;
        rows.into_iter().for_each(take);
        Ok(())
    }

    /// What [`prune`](Self::prune) would remove.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Read`].
    pub fn prunable(&self, before: Timestamp) -> Result<Pruned, LedgerError> {
        let count =
            "SELECT count(*), coalesce(sum((SELECT count(*) FROM record WHERE record.guest = guest.id)), 0)
                     FROM guest WHERE ended < ?1";
        let number = |row: &rusqlite::Row<'_>, at: usize| row.get::<_, i64>(at).map(i64::unsigned_abs);
        self.connection
            .query_row(count, [before.as_millisecond()], |row| {
                Ok(Pruned { guests: number(row, 0)?, records: number(row, 1)? })
            })
            .map_err(|source| LedgerError::Read { source })
    }

    /// Removes guests that ended before a time, with all of their rows. Open accounts stay, however
    /// old.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`]; guests that were removed before the error stay removed.
    pub fn prune(&mut self, before: Timestamp) -> Result<Pruned, LedgerError> {
        let failed = |source| LedgerError::Write { source };
        let mut pruned = Pruned::default();
        loop {
            // One guest in each transaction, so that supervisors wait only briefly.
            let tx =
                self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
            let oldest = tx.query_row(
                "SELECT min(id) FROM guest WHERE ended < ?1",
                [before.as_millisecond()],
                |row| row.get::<_, Option<i64>>(0),
            );
            let Some(guest) = oldest.map_err(failed)? else { return Ok(pruned) };
            for table in ["step", "device", "interface"] {
                tx.execute(&format!("DELETE FROM {table} WHERE guest = ?1"), [guest]).map_err(failed)?;
            }
            let records = tx.execute("DELETE FROM record WHERE guest = ?1", [guest]).map_err(failed)?;
            tx.execute("DELETE FROM guest WHERE id = ?1", [guest]).map_err(failed)?;
            let now = Timestamp::now().as_millisecond();
            Head::read(&tx)
                .and_then(|mut head| {
                    head.append_deletion(&tx, Kind::Prune, (guest, before.as_millisecond(), now))?;
                    chain::trim(&tx, now)
                })
                .map_err(failed)?;
            tx.commit().map_err(failed)?;
            pruned.guests += 1;
            pruned.records += records as u64;
        }
    }
}
