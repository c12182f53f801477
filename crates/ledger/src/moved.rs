//! A ledger whose file was removed or replaced while it is open.
//!
//! SQLite goes on with the file that it has open, whatever stands at its path: what is written then
//! goes with the last process that has it. So each transaction begins with a look at the path, and an
//! account is carried over into the ledger that stands there.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};

use crate::{DeviceKey, GuestKey, InterfaceKey, Ledger, LedgerError, StepKey};

/// The tables that have a guest's rows, in the order in which they refer to each other, and their columns that
/// hold the id of a row.
const TABLES: [(&str, &[&str]); 5] = [
    ("guest", &["id"]),
    ("interface", &["id", "guest"]),
    ("record", &["id", "guest"]),
    ("device", &["id", "guest", "opened", "granted", "closed"]),
    ("step", &["id", "guest"]),
];

/// Device and inode of a file.
pub(crate) type FileId = (u64, u64);

/// What stands at a path.
pub(crate) fn file_id(path: &Path) -> Option<FileId> {
    std::fs::symlink_metadata(path).ok().map(|about: Metadata| (about.dev(), about.ino()))
}

/// Where an account was carried over to: each of its rows has another id there.
///
/// An id that was given out before the move is found again by its number; those given out later are
/// larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The largest id that was given out before.
    largest: i64,
    /// What was added to each.
    added: i64,
}

impl Moved {
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
    /// Refuses when the file at the ledger's path is another one than the one that is open, or none.
    pub(crate) fn is_in_place(&self) -> Result<(), LedgerError> {
        match file_id(&self.path) {
            there if there == self.file_id => Ok(()),
            None => Err(LedgerError::Removed { path: self.path.clone() }),
            Some(_) => Err(LedgerError::Replaced { path: self.path.clone() }),
        }
    }

    /// Whether another file stands at the ledger's path than the one that is open.
    pub fn is_replaced(&self) -> bool {
        matches!(self.is_in_place(), Err(LedgerError::Replaced { .. }))
    }

    /// Carries a guest's account, all of its rows, over into another ledger, in one transaction.
    ///
    /// Where that has an older state of the very same account, as a ledger that was restored from a copy has, this
    /// one takes its place.
    ///
    /// # Errors
    /// When this one can't be read, or the other one not written. Nothing is carried over then.
    pub fn carry_over(&self, guest: GuestKey, to: &mut Self) -> Result<Moved, LedgerError> {
        let write = |source| LedgerError::Write { source };
        let largest = largest_id(&self.connection).map_err(|source| LedgerError::Read { source })?;
        let tx = to.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(write)?;
        let there = largest_id(&tx).map_err(write)?;
        let moved = Moved { largest, added: largest.max(there).saturating_add(1) };
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
                    forget_older(&tx, &row).map_err(write)?;
                }
                let (columns, values): (Vec<_>, Vec<_>) = row.into_iter().unzip();
                let marks = vec!["?"; columns.len()].join(", ");
                let sql = format!("INSERT INTO {table} ({}) VALUES ({marks})", columns.join(", "));
                tx.prepare_cached(&sql).map_err(write)?.insert(params_from_iter(values)).map_err(write)?;
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

/// Removes an older state of the account whose guest has this row: of the same start of the same guest.
fn forget_older(connection: &Connection, row: &[(String, Value)]) -> Result<(), rusqlite::Error> {
    let of = |name: &str| {
        row.iter().find(|(column, _)| column == name).map_or(Value::Null, |(_, value)| value.clone())
    };
    let same = [of("uuid"), of("boot_id"), of("begun")];
    let sql = "SELECT id FROM guest WHERE uuid = ?1 AND boot_id = ?2 AND begun = ?3";
    let mut statement = connection.prepare(sql)?;
    let older: Vec<i64> =
        statement.query_map(params_from_iter(same), |row| row.get(0))?.collect::<Result<_, _>>()?;
    for id in older {
        for (table, _) in TABLES.iter().rev() {
            let column = if *table == "guest" { "id" } else { "guest" };
            connection.execute(&format!("DELETE FROM {table} WHERE {column} = ?1"), [id])?;
        }
    }
    Ok(())
}
