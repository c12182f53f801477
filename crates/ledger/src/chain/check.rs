//! Recomputes the chain, and compares it with the records and with checkpoints.
//!
//! Records and rows of the chain are read side by side, each once: ids of records that are in the
//! ledger ascend along the chain, because a new record gets the largest id plus 1.

use std::fmt;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Rows};
use taptrail_record::visible;

use super::{
    ChainCheckpoint, ChainHash, IS_DELETED, Link, RECORD_COLUMN_COUNT, RECORD_COLUMNS, SINCE_VERSION, Start,
    hash_of, record_digest,
};
use crate::read::invalid_row;
use crate::{Ledger, LedgerError};

/// The largest number of faults, and of records outside of the chain, that a report lists.
const MAX_LISTED: usize = 100;

/// The longest name of a guest in a report, in characters.
const MAX_NAME_CHARS: usize = 64;

/// A record, as a report names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRecord {
    /// The id of its row in the ledger.
    pub record: i64,
    /// Its row of the chain, if it has one.
    pub row: Option<u64>,
    /// Its time: as the chain has it, or else as the record does.
    pub time: Option<Timestamp>,
    /// The name of its guest, as the ledger has it now.
    pub guest: Option<String>,
}

impl fmt::Display for NamedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}", self.record)?;
        if let Some(time) = self.time {
            write!(f, " of {time:.3}")?;
        }
        match (&self.guest, self.row) {
            (Some(guest), Some(row)) => write!(f, " (guest {}, row {row} of the chain)", visible(guest)),
            (Some(guest), None) => write!(f, " (guest {})", visible(guest)),
            (None, Some(row)) => write!(f, " (row {row} of the chain)"),
            (None, None) => Ok(()),
        }
    }
}

/// A change to the ledger's records, or to their chain, that taptrail did not make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainFault {
    /// A record is not as it was written, or its guest's name, uuid, boot or beginning is not.
    Altered(NamedRecord),
    /// A record is gone, and taptrail did not delete it.
    Removed(NamedRecord),
    /// A record that no taptrail wrote.
    Inserted(NamedRecord),
    /// A row of the chain does not follow from the one before it.
    Broken {
        /// The row's number.
        row: u64,
        /// The record that it is about.
        record: Option<NamedRecord>,
    },
    /// Rows of the chain are gone.
    Missing {
        /// The number of the first.
        from: u64,
        /// The number of the last.
        to: u64,
    },
    /// The beginning of the chain is gone, or invalid.
    NoStart,
}

impl ChainFault {
    /// Its kind, as one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Altered(_) => "record-altered",
            Self::Removed(_) => "record-removed",
            Self::Inserted(_) => "record-inserted",
            Self::Broken { .. } => "chain-altered",
            Self::Missing { .. } => "chain-removed",
            Self::NoStart => "start-altered",
        }
    }

    /// The record that it is about, if it is about one.
    pub fn record(&self) -> Option<&NamedRecord> {
        match self {
            Self::Altered(record) | Self::Removed(record) | Self::Inserted(record) => Some(record),
            Self::Broken { record, .. } => record.as_ref(),
            Self::Missing { .. } | Self::NoStart => None,
        }
    }

    /// The first and the last row of the chain that it is about.
    pub fn rows(&self) -> Option<(u64, u64)> {
        match self {
            Self::Altered(record) | Self::Removed(record) | Self::Inserted(record) => {
                record.row.map(|row| (row, row))
            }
            Self::Broken { row, .. } => Some((*row, *row)),
            Self::Missing { from, to } => Some((*from, *to)),
            Self::NoStart => None,
        }
    }
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Altered(record) => {
                write!(f, "{record} was altered, or its guest's name, uuid, boot or beginning was")
            }
            Self::Removed(record) => write!(f, "{record} was removed, and not by taptrail"),
            Self::Inserted(record) => write!(f, "{record} was inserted, and not by taptrail"),
            Self::Broken { row, record: None } => {
                write!(
                    f,
                    "row {row} of the chain does not follow from the one before it: one of them was altered"
                )
            }
            Self::Broken { row, record: Some(record) } => write!(
                f,
                "row {row} of the chain, about record {}, does not follow from the one before it: one of them was altered",
                record.record
            ),
            Self::Missing { from, to } if from == to => {
                write!(f, "row {from} of the chain was removed")
            }
            Self::Missing { from, to } => write!(f, "rows {from} to {to} of the chain were removed"),
            Self::NoStart => f.write_str("the beginning of the chain was removed or altered"),
        }
    }
}

/// What the ledger says about a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointVerdict {
    /// The chain has the checkpoint's row with the same hash. Unless a fault is about an earlier
    /// row, the records up to it are those of the checkpoint.
    Holds,
    /// The chain's row has another hash: rows up to it were written again, or the ledger was
    /// restored from a copy that is older than the checkpoint, and written to since.
    Differs,
    /// The chain ends before the checkpoint's row: rows were removed from its end, or the ledger
    /// was restored from an older copy.
    RolledBack,
    /// The row is missing, within the chain.
    Removed,
    /// It is a checkpoint of another ledger.
    AnotherLedger,
    /// The row was deleted from the beginning of the chain, as `prune` does when all records up to
    /// it are deleted: nothing can be compared.
    Pruned,
}

impl CheckpointVerdict {
    /// Its name, as one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Differs => "differs",
            Self::RolledBack => "rolled-back",
            Self::Removed => "removed",
            Self::AnotherLedger => "another-ledger",
            Self::Pruned => "pruned",
        }
    }
}

/// The rows that were deleted from the beginning of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunedRows {
    /// Their number.
    pub rows: u64,
    /// When the last of them were deleted.
    pub at: Option<Timestamp>,
}

/// The result of [`Ledger::check_chain`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// The ledger's own random UUID, as it says.
    pub ledger: String,
    /// When the chain was begun.
    pub begun: Option<Timestamp>,
    /// The number of records that the ledger had then, if an older taptrail made it.
    pub older: Option<u64>,
    /// The number of the chain's last row.
    pub last_row: u64,
    /// Records that are as they were written, as the chain says.
    pub unchanged: u64,
    /// Rows of the chain whose records taptrail deleted, as the chain says.
    pub deleted: u64,
    /// When the last of them were deleted.
    pub deleted_at: Option<Timestamp>,
    /// The rows that were deleted from the beginning of the chain.
    pub pruned: Option<PrunedRows>,
    /// The first faults.
    pub faults: Vec<ChainFault>,
    /// The number of all faults.
    pub fault_count: u64,
    /// The first records outside of the chain that a process of an older taptrail may have written,
    /// which was running when the chain was begun. They look like inserted ones.
    pub outside: Vec<NamedRecord>,
    /// The number of all of these.
    pub outside_count: u64,
    /// What the ledger says about each checkpoint, in the order given.
    pub checkpoints: Vec<CheckpointVerdict>,
}

impl ChainReport {
    fn fault(&mut self, fault: ChainFault) {
        self.fault_count += 1;
        if self.faults.len() < MAX_LISTED {
            self.faults.push(fault);
        }
    }
}

impl Ledger {
    /// Recomputes the chain over all records, and compares it with checkpoints. None if the ledger
    /// has no chain, because an older taptrail made it.
    ///
    /// Without faults, and without a checkpoint, the records are unchanged unless somebody wrote the
    /// chain again after changing them. The pages of the file must be sound: see
    /// [`faults`](Self::faults). Reads the whole ledger, as it is at one moment.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if it can't be read.
    pub fn check_chain(&self, checkpoints: &[ChainCheckpoint]) -> Result<Option<ChainReport>, LedgerError> {
        if self.version < SINCE_VERSION {
            return Ok(None);
        }
        let moment = self.connection.unchecked_transaction().map_err(read)?;
        let report = self.compare(checkpoints)?;
        moment.finish().map_err(read)?;
        Ok(Some(report))
    }

    fn compare(&self, checkpoints: &[ChainCheckpoint]) -> Result<ChainReport, LedgerError> {
        let start = Start::read(&self.connection).map_err(read)?;
        let mut check = Check::begin(self, start, checkpoints);
        let sql = format!(
            "SELECT {RECORD_COLUMNS}, guest.ended
             FROM record LEFT JOIN guest ON guest.id = record.guest ORDER BY record.id"
        );
        let mut statement = self.connection.prepare(&sql).map_err(read)?;
        let mut records = Records { rows: statement.query([]).map_err(read)?, next: None, last: None };
        records.advance()?;
        let sql = format!(
            "SELECT id, iif(octet_length(kind) <= 16, kind, ''), guest, row, time,
                    iif(octet_length(digest) = 32, digest, NULL), iif(octet_length(hash) = 32, hash, NULL),
                    kind = 'record' AND {IS_DELETED}
             FROM chain ORDER BY id"
        );
        let mut statement = self.connection.prepare(&sql).map_err(read)?;
        let mut rows = statement.query([]).map_err(read)?;
        while let Some(row) = rows.next().map_err(read)? {
            check.take(&ChainRow::of(row).map_err(read)?, &mut records)?;
        }
        while let Some(record) = records.next.take() {
            check.outside(record);
            records.advance()?;
        }
        Ok(check.finish())
    }

    fn guest_name(&self, guest: i64) -> Option<String> {
        let sql = "SELECT iif(octet_length(name) <= 65536, name, NULL) FROM guest WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql).ok()?;
        statement.query_row([guest], |row| Ok(name(row, 0))).optional().ok().flatten().flatten()
    }
}

fn read(source: rusqlite::Error) -> LedgerError {
    LedgerError::Read { source }
}

/// A guest's name, cut. It may be anything in a hostile file.
fn name(row: &Row<'_>, column: usize) -> Option<String> {
    let bytes = row.get_ref(column).ok()?.as_bytes().ok()?;
    Some(String::from_utf8_lossy(bytes).chars().take(MAX_NAME_CHARS).collect())
}

/// A number of a row, which is never negative unless somebody wrote it.
fn number(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// A row of the table `chain`.
struct ChainRow {
    number: i64,
    kind: String,
    guest: i64,
    row: i64,
    time: i64,
    digest: Option<ChainHash>,
    hash: Option<ChainHash>,
    is_deleted: bool,
}

impl ChainRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            kind: String::from_utf8_lossy(row.get_ref(1)?.as_bytes().unwrap_or_default()).into_owned(),
            guest: row.get(2)?,
            row: row.get(3)?,
            time: row.get(4)?,
            digest: hash_of(row, 5)?,
            hash: hash_of(row, 6)?,
            is_deleted: row.get(7)?,
        })
    }

    /// The hash that the row should have; none if its digest is invalid.
    fn expected(&self, start: ChainHash, before: ChainHash) -> Option<ChainHash> {
        let Self { number, guest, row, time, .. } = *self;
        let digest = self.digest?;
        Some(Link { number, kind: &self.kind, guest, row, time, digest: &digest.0 }.hash(start, before))
    }
}

/// A record, read for the comparison.
struct FoundRecord {
    id: i64,
    digest: ChainHash,
    time: i64,
    guest: Option<String>,
    /// Whether its guest is watched, and when its account was opened and closed.
    watched: bool,
    begun: Option<i64>,
    ended: Option<i64>,
}

/// The records, by id.
struct Records<'a> {
    rows: Rows<'a>,
    next: Option<FoundRecord>,
    last: Option<i64>,
}

impl Records<'_> {
    fn advance(&mut self) -> Result<(), LedgerError> {
        self.next = None;
        let Some(row) = self.rows.next().map_err(read)? else { return Ok(()) };
        let id: i64 = row.get(0).map_err(read)?;
        // A damaged or forged table may be a cycle.
        if self.last.is_some_and(|last| id <= last) {
            return Err(invalid_row("record", id, &id.to_string(), "row behind the one before it"));
        }
        self.last = Some(id);
        self.next = Some(FoundRecord {
            id,
            digest: record_digest(row).map_err(read)?,
            time: row.get(2).map_err(read)?,
            guest: name(row, 9),
            watched: row.get::<_, Option<i64>>(13).map_err(read)?.is_some_and(|watched| watched != 0),
            begun: row.get(12).map_err(read)?,
            ended: row.get(RECORD_COLUMN_COUNT).map_err(read)?,
        });
        Ok(())
    }
}

/// A check that is under way.
struct Check<'a> {
    ledger: &'a Ledger,
    start: Option<Start>,
    start_hash: ChainHash,
    checkpoints: &'a [ChainCheckpoint],
    report: ChainReport,
    /// The last row of the chain, and its hash; no hash if it can't be the next row's.
    last: (i64, Option<ChainHash>),
    /// The record of the last row that has one.
    last_record: Option<i64>,
    /// Whether the table had a row.
    has_rows: bool,
    /// Rows that were compared with the one before them, and those that did not follow from it.
    compared: u64,
    broken: u64,
}

impl<'a> Check<'a> {
    fn begin(ledger: &'a Ledger, start: Option<Start>, checkpoints: &'a [ChainCheckpoint]) -> Self {
        let time = |time: i64| Timestamp::from_millisecond(time).ok();
        let mut report = ChainReport {
            ledger: start.as_ref().map_or_else(String::new, |start| start.ledger.clone()),
            begun: start.as_ref().and_then(|start| time(start.begun)),
            older: start.as_ref().and_then(|start| start.older).map(number),
            last_row: 0,
            unchanged: 0,
            deleted: 0,
            deleted_at: None,
            pruned: start
                .as_ref()
                .filter(|start| start.pruned > 0)
                .map(|start| PrunedRows { rows: number(start.pruned), at: start.pruned_at.and_then(time) }),
            faults: Vec::new(),
            fault_count: 0,
            outside: Vec::new(),
            outside_count: 0,
            checkpoints: vec![CheckpointVerdict::Removed; checkpoints.len()],
        };
        let is_valid = start.as_ref().is_some_and(|start| {
            start.ledger.parse::<uuid::Uuid>().is_ok()
                && time(start.begun).is_some()
                && match start.pruned {
                    0 => start.pruned_hash.is_none(),
                    pruned => pruned > 0 && start.pruned_hash.is_some(),
                }
        });
        if !is_valid {
            report.fault(ChainFault::NoStart);
        }
        let start_hash = start.as_ref().map_or(ChainHash::ZERO, Start::hash);
        let last = match &start {
            Some(start) if is_valid => {
                let (number, hash) = start.before();
                (number, Some(hash))
            }
            _ => (0, None),
        };
        let mut check = Self {
            ledger,
            start,
            start_hash,
            checkpoints,
            report,
            last,
            last_record: None,
            has_rows: false,
            compared: 0,
            broken: 0,
        };
        check.compare_checkpoints();
        check
    }

    /// Compares the checkpoints of the last row.
    fn compare_checkpoints(&mut self) {
        let (row, hash) = self.last;
        for (checkpoint, verdict) in self.checkpoints.iter().zip(&mut self.report.checkpoints) {
            if i64::try_from(checkpoint.row) == Ok(row) {
                *verdict = match hash {
                    Some(hash) if hash == checkpoint.sha256 => CheckpointVerdict::Holds,
                    _ => CheckpointVerdict::Differs,
                };
            }
        }
    }

    fn take(&mut self, row: &ChainRow, records: &mut Records<'_>) -> Result<(), LedgerError> {
        if row.number <= self.last.0 {
            if self.has_rows {
                // As for records.
                let value = row.number.to_string();
                return Err(invalid_row("chain", row.number, &value, "row behind the one before it"));
            }
            // A row that was deleted, as the beginning of the chain says.
            self.report.fault(ChainFault::NoStart);
            self.last = (row.number.saturating_sub(1), None);
        }
        self.has_rows = true;
        let (last, before) = self.last;
        let next = last.saturating_add(1);
        if row.number > next {
            self.report.fault(ChainFault::Missing { from: number(next), to: number(row.number - 1) });
        }
        let follows = match before {
            Some(before) if row.number == next => {
                self.compared += 1;
                row.hash.is_some() && row.hash == row.expected(self.start_hash, before)
            }
            // What it follows is not known: its own hash is all there is.
            _ => row.hash.is_some() && row.digest.is_some(),
        };
        let is_record = row.kind == "record";
        if !follows || !matches!(row.kind.as_str(), "record" | "prune" | "replace") {
            self.broken += 1;
            let record = is_record.then(|| self.named(row));
            self.report.fault(ChainFault::Broken { row: number(row.number), record });
        }
        self.last = (row.number, row.hash);
        self.compare_checkpoints();
        match is_record {
            true if row.is_deleted => self.report.deleted += 1,
            true => self.compare_record(row, records)?,
            false => self.report.deleted_at = Timestamp::from_millisecond(row.time).ok(),
        }
        Ok(())
    }

    /// Compares the record of a row, which should be in the ledger.
    fn compare_record(&mut self, row: &ChainRow, records: &mut Records<'_>) -> Result<(), LedgerError> {
        if self.last_record.is_some_and(|last| row.row <= last) {
            let record = Some(self.named(row));
            self.report.fault(ChainFault::Broken { row: number(row.number), record });
            return Ok(());
        }
        self.last_record = Some(row.row);
        while let Some(record) = records.next.take_if(|record| record.id < row.row) {
            self.outside(record);
            records.advance()?;
        }
        match records.next.take_if(|record| record.id == row.row) {
            Some(record) => {
                if row.digest == Some(record.digest) {
                    self.report.unchanged += 1;
                } else {
                    let fault = ChainFault::Altered(self.named(row));
                    self.report.fault(fault);
                }
                records.advance()
            }
            None => {
                let fault = ChainFault::Removed(self.named(row));
                self.report.fault(fault);
                Ok(())
            }
        }
    }

    fn named(&self, row: &ChainRow) -> NamedRecord {
        NamedRecord {
            record: row.row,
            row: Some(number(row.number)),
            time: Timestamp::from_millisecond(row.time).ok(),
            // Queried for what is listed only.
            guest: (self.report.faults.len() < MAX_LISTED)
                .then(|| self.ledger.guest_name(row.guest))
                .flatten(),
        }
    }

    /// A record without a row of the chain.
    fn outside(&mut self, record: FoundRecord) {
        let begun = self.start.as_ref().filter(|start| start.older.is_some()).map(|start| start.begun);
        // Processes of an older taptrail write on while a newer one has added the chain.
        let may_be_older = begun.is_some_and(|chain| {
            let was_open = record.begun.is_some_and(|begun| begun <= chain)
                && record.ended.is_none_or(|ended| ended >= chain);
            record.watched || was_open
        });
        let time = Timestamp::from_millisecond(record.time).ok();
        let named = NamedRecord { record: record.id, row: None, time, guest: record.guest };
        if !may_be_older {
            self.report.fault(ChainFault::Inserted(named));
            return;
        }
        self.report.outside_count += 1;
        if self.report.outside.len() < MAX_LISTED {
            self.report.outside.push(named);
        }
    }

    fn finish(self) -> ChainReport {
        let Self { mut report, start, checkpoints, last: (last, _), compared, broken, .. } = self;
        if compared > 1 && broken == compared {
            // Each row has the beginning in its hash: that was altered, and not each row.
            report.faults.retain(|fault| !matches!(fault, ChainFault::Broken { .. } | ChainFault::NoStart));
            report.faults.insert(0, ChainFault::NoStart);
            report.fault_count = report.fault_count.saturating_sub(broken).max(report.faults.len() as u64);
        }
        report.last_row = number(last);
        let pruned = start.as_ref().map_or(0, |start| number(start.pruned));
        for (checkpoint, verdict) in checkpoints.iter().zip(&mut report.checkpoints) {
            if checkpoint.ledger.to_string() != report.ledger {
                *verdict = CheckpointVerdict::AnotherLedger;
            } else if checkpoint.row > number(last) {
                *verdict = CheckpointVerdict::RolledBack;
            } else if checkpoint.row < pruned {
                *verdict = CheckpointVerdict::Pruned;
            }
        }
        report
    }
}
