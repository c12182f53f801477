//! A hash chain over the ledger's records, by which changes to the file show that taptrail did not
//! make.
//!
//! Each record has a row in the table `chain`, written in the same transaction: SHA-256 of the
//! record, and of the chain's row before it. A deletion by `prune`, or by a newer state of the same
//! account, is a row of the chain, too. [`Ledger::check_chain`](crate::Ledger::check_chain)
//! compares.
//!
//! There is no key: whoever can write the file can write the whole chain again. So it protects only
//! the records up to a [`ChainCheckpoint`], which is kept where that user can't change it.
//!
//! Records are what a trail is made of, so they are what the chain covers, with the name, uuid, boot
//! and beginning of their guest, as which a reader takes them. Devices, interfaces and steps are the
//! state of running guests: they change as long as their guest runs, and each fact about them that
//! lasts is in a record. A guest's supervisor, QEMU and end change, too, and are in records.

mod check;
mod checkpoint;
#[cfg(test)]
mod tests;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use ring::digest::{Context, SHA256};

pub use check::{ChainFault, ChainReport, CheckpointVerdict, NamedRecord, PrunedRows};
pub use checkpoint::{ChainCheckpoint, ChainHash, InvalidCheckpoint};

/// The version of the schema that added the chain.
pub(crate) const SINCE_VERSION: i64 = 5;

/// What a row of the chain is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A record was written.
    Record,
    /// An ended guest's records were deleted.
    Prune,
    /// A guest's records were deleted, because its account came from another ledger.
    Replace,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Prune => "prune",
            Self::Replace => "replace",
        }
    }
}

/// A row of the chain, without its hash.
#[derive(Debug, Clone, Copy)]
struct Link<'a> {
    number: i64,
    kind: &'a str,
    guest: i64,
    row: i64,
    time: i64,
    digest: &'a [u8],
}

impl Link<'_> {
    fn hash(&self, start: ChainHash, before: ChainHash) -> ChainHash {
        let mut hash = Hasher::new("taptrail ledger: row of the chain, 1");
        hash.bytes(&start.0);
        hash.bytes(&before.0);
        hash.integer(self.number);
        hash.bytes(self.kind.as_bytes());
        hash.integer(self.guest);
        hash.integer(self.row);
        hash.integer(self.time);
        hash.bytes(self.digest);
        hash.finish()
    }
}

/// SHA-256 of values that can't be taken for others: each has its type and its length.
struct Hasher(Context);

impl Hasher {
    fn new(what: &str) -> Self {
        let mut hash = Self(Context::new(&SHA256));
        hash.bytes(what.as_bytes());
        hash
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(b"t");
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn integer(&mut self, number: i64) {
        self.0.update(b"i");
        self.0.update(&number.to_be_bytes());
    }

    fn value(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.0.update(b"n"),
            ValueRef::Integer(number) => self.integer(number),
            ValueRef::Text(bytes) => self.bytes(bytes),
            // No column has these types: the tables are strict.
            ValueRef::Real(number) => {
                self.0.update(b"r");
                self.0.update(&number.to_be_bytes());
            }
            ValueRef::Blob(bytes) => {
                self.0.update(b"b");
                self.bytes(bytes);
            }
        }
    }

    fn finish(self) -> ChainHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        ChainHash(hash)
    }
}

/// The columns that a record's digest covers, of `record LEFT JOIN guest`. Of a text that is longer
/// than any that taptrail writes, the length alone: it has another type then.
pub(crate) const RECORD_COLUMNS: &str = "record.id, record.guest, record.time, record.type, \
iif(octet_length(record.text) <= 65536, record.text, octet_length(record.text)), \
iif(octet_length(record.logged) <= 65536, record.logged, octet_length(record.logged)), \
record.serial, record.writer, record.copied, \
iif(octet_length(guest.name) <= 65536, guest.name, octet_length(guest.name)), \
iif(octet_length(guest.uuid) <= 65536, guest.uuid, octet_length(guest.uuid)), \
iif(octet_length(guest.boot_id) <= 65536, guest.boot_id, octet_length(guest.boot_id)), \
guest.begun, guest.watched";

/// The number of [`RECORD_COLUMNS`].
pub(crate) const RECORD_COLUMN_COUNT: usize = 14;

/// The digest of a row of [`RECORD_COLUMNS`].
fn record_digest(row: &Row<'_>) -> rusqlite::Result<ChainHash> {
    let mut hash = Hasher::new("taptrail ledger: record, 1");
    for column in 0..RECORD_COLUMN_COUNT {
        hash.value(row.get_ref(column)?);
    }
    Ok(hash.finish())
}

/// The digest of a row of the chain that has no record.
fn no_digest() -> ChainHash {
    Hasher::new("taptrail ledger: no record, 1").finish()
}

/// The row of `chain_start`.
#[derive(Debug, Clone)]
struct Start {
    ledger: String,
    begun: i64,
    older: Option<i64>,
    pruned: i64,
    pruned_hash: Option<ChainHash>,
    pruned_at: Option<i64>,
}

impl Start {
    /// The hash that stands before the chain's first row. Each row has it in its own hash, so that
    /// a row is of one ledger only.
    fn hash(&self) -> ChainHash {
        let mut hash = Hasher::new("taptrail ledger: start of the chain, 1");
        hash.bytes(self.ledger.as_bytes());
        hash.integer(self.begun);
        hash.value(self.older.map_or(ValueRef::Null, ValueRef::Integer));
        hash.finish()
    }

    /// The number of the last row before those that the table has, and its hash.
    fn before(&self) -> (i64, ChainHash) {
        match self.pruned {
            0 => (0, self.hash()),
            pruned => (pruned, self.pruned_hash.unwrap_or(ChainHash::ZERO)),
        }
    }

    /// Reads it; none if it is missing.
    fn read(connection: &Connection) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT iif(octet_length(ledger) <= 64, ledger, ''), begun, older, pruned,
                          iif(octet_length(pruned_hash) = 32, pruned_hash, NULL), pruned_at
                   FROM chain_start";
        let row = |row: &Row<'_>| {
            Ok(Self {
                // Not as a String: a hostile file may have anything there.
                ledger: String::from_utf8_lossy(row.get_ref(0)?.as_bytes().unwrap_or_default()).into_owned(),
                begun: row.get(1)?,
                older: row.get(2)?,
                pruned: row.get(3)?,
                pruned_hash: hash_of(row, 4)?,
                pruned_at: row.get(5)?,
            })
        };
        connection.prepare_cached(sql)?.query_row([], row).optional()
    }
}

/// A column with a hash; none if it has anything else.
fn hash_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<ChainHash>> {
    Ok(row.get_ref(column)?.as_bytes().ok().and_then(|bytes| bytes.try_into().ok()).map(ChainHash))
}

/// The end of the chain, within one transaction that writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    start: ChainHash,
    number: i64,
    hash: ChainHash,
    /// The largest id of a record, once it was asked for.
    largest_record: Option<i64>,
}

impl Head {
    /// Reads the end of the chain. A chain that was tampered with does not keep records from being
    /// written: what is missing counts as zeros, and a check finds it.
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let start = Start::read(connection)?;
        let (first, before) = match &start {
            Some(start) => (start.hash(), start.before()),
            None => (ChainHash::ZERO, (0, ChainHash::ZERO)),
        };
        let sql = "SELECT id, iif(octet_length(hash) = 32, hash, NULL) FROM chain ORDER BY id DESC LIMIT 1";
        let row = |row: &Row<'_>| Ok((row.get(0)?, hash_of(row, 1)?.unwrap_or(ChainHash::ZERO)));
        let last: Option<(i64, ChainHash)> = connection.prepare_cached(sql)?.query_row([], row).optional()?;
        let (number, hash) = last.unwrap_or(before);
        Ok(Self { start: first, number, hash, largest_record: None })
    }

    /// The largest id of a record that is in the ledger or was the last in the chain. The id of a
    /// record that somebody removed from the end is not given to another one: that would be taken
    /// for the removed one, altered.
    pub(crate) fn largest_record(&mut self, connection: &Connection) -> rusqlite::Result<i64> {
        if let Some(largest) = self.largest_record {
            return Ok(largest);
        }
        let sql = "SELECT max(coalesce((SELECT max(id) FROM record), 0),
                              coalesce((SELECT row FROM chain WHERE kind = 'record' ORDER BY id DESC LIMIT 1), 0))";
        let largest = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        self.largest_record = Some(largest);
        Ok(largest)
    }

    fn append(
        &mut self,
        connection: &Connection,
        kind: Kind,
        (guest, row, time): (i64, i64, i64),
        digest: ChainHash,
    ) -> rusqlite::Result<()> {
        let number = self.number.saturating_add(1);
        let link = Link { number, kind: kind.as_str(), guest, row, time, digest: &digest.0 };
        let hash = link.hash(self.start, self.hash);
        let sql = "INSERT INTO chain (id, kind, guest, row, time, digest, hash)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let values = params![number, link.kind, guest, row, time, digest.0, hash.0];
        connection.prepare_cached(sql)?.execute(values)?;
        (self.number, self.hash) = (number, hash);
        Ok(())
    }

    /// Appends a record that was inserted in this transaction.
    pub(crate) fn append_record(&mut self, connection: &Connection, record: i64) -> rusqlite::Result<()> {
        // Read back: a check computes the digest from the same columns.
        let sql = format!(
            "SELECT {RECORD_COLUMNS} FROM record LEFT JOIN guest ON guest.id = record.guest WHERE record.id = ?1"
        );
        let row = |row: &Row<'_>| Ok((row.get(1)?, row.get(2)?, record_digest(row)?));
        let (guest, time, digest) = connection.prepare_cached(&sql)?.query_row([record], row)?;
        self.largest_record = self.largest_record.map(|largest| largest.max(record));
        self.append(connection, Kind::Record, (guest, record, time), digest)
    }

    /// Appends the deletion of a guest's records: `row` as in the table's definition.
    pub(crate) fn append_deletion(
        &mut self,
        connection: &Connection,
        kind: Kind,
        at: (i64, i64, i64),
    ) -> rusqlite::Result<()> {
        self.append(connection, kind, at, no_digest())
    }
}

/// Begins the chain of a ledger. `is_new`: the ledger was made in this transaction; otherwise the
/// records that it has are chained as they are now.
pub(crate) fn begin(connection: &Connection, is_new: bool, now: i64) -> rusqlite::Result<()> {
    let older: Option<i64> = if is_new {
        None
    } else {
        Some(connection.query_row("SELECT count(*) FROM record", [], |row| row.get(0))?)
    };
    let ledger = uuid::Uuid::new_v4().to_string();
    let sql = "INSERT INTO chain_start (id, ledger, begun, older) VALUES (1, ?1, ?2, ?3)";
    connection.execute(sql, params![ledger, now, older])?;
    let mut head = Head::read(connection)?;
    let sql = format!(
        "SELECT {RECORD_COLUMNS} FROM record LEFT JOIN guest ON guest.id = record.guest ORDER BY record.id"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let at = (row.get(1)?, row.get(0)?, row.get(2)?);
        head.append(connection, Kind::Record, at, record_digest(row)?)?;
    }
    Ok(())
}

/// Whether a row of the chain, named `chain`, has a record that was deleted since, as a later row
/// says.
const IS_DELETED: &str = "EXISTS (SELECT 1 FROM chain AS later WHERE later.guest = chain.guest \
AND later.kind IN ('prune', 'replace') AND later.id > chain.id)";

/// Removes the rows at the beginning of the chain whose records were all deleted; `chain_start`
/// keeps their number and the last one's hash. The chain's last row stays.
pub(crate) fn trim(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    let Some(start) = Start::read(connection)? else { return Ok(()) };
    let sql = format!(
        "SELECT coalesce((SELECT id FROM chain WHERE kind = 'record' AND NOT {IS_DELETED} ORDER BY id LIMIT 1),
                         (SELECT max(id) FROM chain), 0)"
    );
    let first: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
    let last = first.saturating_sub(1);
    if last <= start.pruned {
        return Ok(());
    }
    connection.execute(
        "UPDATE chain_start SET pruned = ?1, pruned_at = ?2, pruned_hash = (SELECT hash FROM chain WHERE id = ?1)",
        params![last, now],
    )?;
    connection.execute("DELETE FROM chain WHERE id <= ?1", [last])?;
    Ok(())
}
