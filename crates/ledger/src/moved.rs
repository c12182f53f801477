//! A ledger whose file was removed or replaced while it is open.
//!
//! SQLite continues to use the file that it has open, even if another file is at its path: what is
//! written then is lost with the last process that has it open. So each transaction first checks
//! the path, and an account is moved into the ledger that is there.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};

use crate::chain::{Head, Kind};
use crate::{DeviceKey, GuestKey, InterfaceKey, Ledger, LedgerError, StepKey};

/// The tables with a guest's rows, in the order in which they refer to each other, and their
/// columns with ids of rows.
const TABLES: [(&str, &[&str]); 5] = [
    ("guest", &["id"]),
    ("interface", &["id", "guest"]),
    ("record", &["id", "guest"]),
    ("device", &["id", "guest", "opened", "granted", "closed"]),
    ("step", &["id", "guest"]),
];

/// Device and inode of a file.
pub(crate) type FileId = (u64, u64);

/// The file at a path, if there is one.
pub(crate) fn file_id(path: &Path) -> Option<FileId> {
    std::fs::symlink_metadata(path).ok().map(|metadata: Metadata| (metadata.dev(), metadata.ino()))
}

/// Maps the keys of an account to those in the ledger into which it was moved.
///
/// Keys from before the move are translated; later keys are larger, and are returned unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovedKeys {
    /// The largest id before the move.
    largest: i64,
    /// The number added to each id.
    added: i64,
}

impl MovedKeys {
    fn id(self, id: i64) -> i64 {
        if id <= self.largest { id + self.added } else { id }
    }

    /// The guest's row now.
    pub fn guest(self, key: GuestKey) -> GuestKey {
        GuestKey(self.id(key.0))
    }

    /// An interface's row now.
    pub fn interface(self, key: InterfaceKey) -> InterfaceKey {
        InterfaceKey(self.id(key.0))
    }

    /// A device's row now.
    pub fn device(self, key: DeviceKey) -> DeviceKey {
        DeviceKey(self.id(key.0))
    }

    /// A step's row now.
    pub fn step(self, key: StepKey) -> StepKey {
        StepKey(self.id(key.0))
    }
}

impl Ledger {
    /// Checks that the file at the ledger's path is the one that is open.
    pub(crate) fn check_in_place(&self) -> Result<(), LedgerError> {
        match file_id(&self.path) {
            there if there == self.file_id => Ok(()),
            None => Err(LedgerError::Removed { path: self.path.clone() }),
            Some(_) => Err(LedgerError::Replaced { path: self.path.clone() }),
        }
    }

    /// Whether the file at the ledger's path is another one than the one that is open.
    pub fn is_replaced(&self) -> bool {
        matches!(self.check_in_place(), Err(LedgerError::Replaced { .. }))
    }

    /// Copies a guest's account, all of its rows, into another ledger, in one transaction.
    ///
    /// An older state of the same account in that ledger, for example one restored from a backup,
    /// is replaced.
    ///
    /// # Errors
    ///
    /// This ledger can't be read, or the other one can't be written. Nothing is copied then.
    pub fn move_account(&self, guest: GuestKey, to: &mut Self) -> Result<MovedKeys, LedgerError> {
        let write = |source| LedgerError::Write { source };
        let largest = largest_id(&self.connection).map_err(|source| LedgerError::Read { source })?;
        let tx = to.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(write)?;
        let mut head = Head::read(&tx).map_err(write)?;
        let there = largest_id(&tx).map_err(write)?.max(head.largest_record(&tx).map_err(write)?);
        let moved = MovedKeys { largest, added: largest.max(there).saturating_add(1) };
        for (table, ids) in TABLES {
            for mut row in self.rows_of(table, guest)? {
                for (column, value) in &mut row {
                    if let Value::Integer(id) = value
                        && ids.contains(&column.as_str())
                    {
                        *id = moved.id(*id);
                    }
                }
                if table == "guest" {
                    for older in remove_older(&tx, &row).map_err(write)? {
                        let at = (older, moved.id(guest.0), Timestamp::now().as_millisecond());
                        head.append_deletion(&tx, Kind::Replace, at).map_err(write)?;
                    }
                }
                let (columns, values): (Vec<_>, Vec<_>) = row.into_iter().unzip();
                let marks = vec!["?"; columns.len()].join(", ");
                let sql = format!("INSERT INTO {table} ({}) VALUES ({marks})", columns.join(", "));
                let inserted = tx
                    .prepare_cached(&sql)
                    .map_err(write)?
                    .insert(params_from_iter(values))
                    .map_err(write)?;
                // Under their new ids, the records are new ones of that ledger.
                if table == "record" {
                    head.append_record(&tx, inserted).map_err(write)?;
                }
            }
        }
        tx.commit().map_err(write)?;
        Ok(moved)
    }

    fn rows_of(&self, table: &str, guest: GuestKey) -> Result<Vec<Vec<(String, Value)>>, LedgerError> {
        let read = |source| LedgerError::Read { source };
        let column = if table == "guest" { "id" } else { "guest" };
        let sql = format!("SELECT * FROM {table} WHERE {column} = ?1 ORDER BY id");
        let mut statement = self.connection.prepare(&sql).map_err(read)?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let row = |row: &rusqlite::Row<'_>| {
            names.iter().enumerate().map(|(at, name)| Ok((name.clone(), row.get(at)?))).collect()
        };
        statement.query_map([guest.0], row).and_then(Iterator::collect).map_err(read)
    }
}

/// The largest id of any row.
fn largest_id(connection: &Connection) -> Result<i64, rusqlite::Error> {
    let ids = TABLES.map(|(table, _)| format!("SELECT max(id) AS id FROM {table}")).join(" UNION ALL ");
    connection.query_row(&format!("SELECT coalesce(max(id), 0) FROM ({ids})"), [], |row| row.get(0))
}

/// Removes older states of the account with this guest row: the same start of the same guest.
/// Returns their guests' ids.
fn remove_older(connection: &Connection, row: &[(String, Value)]) -> Result<Vec<i64>, rusqlite::Error> {
    let of = |name: &str| {
        row.iter().find(|(column, _)| column == name).map_or(Value::Null, |(_, value)| value.clone())
    };
    let same = [of("uuid"), of("boot_id"), of("begun")];
    let sql = "SELECT id FROM guest WHERE uuid = ?1 AND boot_id = ?2 AND begun = ?3";
    let mut statement = connection.prepare(sql)?;
    let older: Vec<i64> =
        statement.query_map(params_from_iter(same), |row| row.get(0))?.collect::<Result<_, _>>()?;
    for id in &older {
        for (table, _) in TABLES.iter().rev() {
            let column = if *table == "guest" { "id" } else { "guest" };
            connection.execute(&format!("DELETE FROM {table} WHERE {column} = ?1"), [id])?;
        }
    }
    Ok(older)
}
