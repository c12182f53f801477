use std::collections::VecDeque;

use jiff::Timestamp;
use rusqlite::Row;
use taptrail_record::GuestId;

use crate::{GuestKey, Ledger, LedgerError, Process};

/// One start of one guest, as remembered.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its row.
    pub key: GuestKey,
    /// Who.
    pub id: GuestId,
    /// The boot it belongs to.
    pub boot_id: String,
    /// Its supervisor.
    pub supervisor: Process,
    /// Its QEMU, once it ran.
    pub qemu: Option<Process>,
    /// When its supervisor began.
    pub begun: Timestamp,
    /// When its account was closed, and why; `None` while it is open.
    pub ended: Option<(Timestamp, String)>,
}

/// Some rows of records.
type Page = VecDeque<Result<StoredRecord, LedgerError>>;

/// One audit record, as remembered.
#[derive(Debug, Clone)]
pub struct StoredRecord {
    /// Its row: counts up in the order written.
    pub id: i64,
    /// When it was written.
    pub time: Timestamp,
    /// The audit record type's number.
    pub kind: u16,
    /// What stands between `msg='` and `'`.
    pub text: String,
    /// What the kernel's audit did with it; see [`Logged`](crate::Logged).
    pub logged: String,
    /// The kernel's serial number, where it was read back.
    pub serial: Option<u32>,
    /// The supervisor that wrote it, and the boot in which it did.
    pub supervisor: u32,
    /// See [`Guest::boot_id`].
    pub boot_id: String,
}

/// All records, in the order written; see [`Ledger::into_records`].
#[derive(Debug)]
pub struct Records {
    ledger: Ledger,
    page: Page,
    /// The last row read, or none when there are no more.
    last: Option<i64>,
}

impl Records {
    /// How many rows are in memory at one time.
    const PAGE: usize = 512;
}

impl Iterator for Records {
    type Item = Result<StoredRecord, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty() {
            match self.ledger.page(self.last.take()?, Self::PAGE) {
                Ok((page, last)) => (self.page, self.last) = (page, last),
                Err(error) => return Some(Err(error)),
            }
        }
        self.page.pop_front()
    }
}

impl Ledger {
    /// All guests, oldest first.
    pub fn guests(&self) -> Result<Vec<Guest>, LedgerError> {
        self.guests_where("true")
    }

    /// The guests whose account is open, oldest first.
    pub fn live_guests(&self) -> Result<Vec<Guest>, LedgerError> {
        self.guests_where("ended IS NULL")
    }

    fn guests_where(&self, condition: &str) -> Result<Vec<Guest>, LedgerError> {
        let failed = |source| LedgerError::Read { source };
        let mut statement = self
            .connection
            .prepare(&format!(
                "SELECT id, name, uuid, boot_id, supervisor_pid, supervisor_start, pid, pid_start,
                        begun, ended, end_reason FROM guest WHERE {condition} ORDER BY id"
            ))
            .map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut guests = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            guests.push(guest(row)?);
        }
        Ok(guests)
    }

    /// All records, in the order written, some at a time: the memory used does not grow with the
    /// ledger. A row that holds no record is given as its error, and the next follows.
    pub fn into_records(self) -> Records {
        Records { ledger: self, page: VecDeque::new(), last: Some(i64::MIN) }
    }

    /// The rows after `last`, and the last of them, if there were any.
    fn page(&self, last: i64, rows: usize) -> Result<(Page, Option<i64>), LedgerError> {
        let failed = |source| LedgerError::Read { source };
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT record.id, time, type, text, logged, serial, supervisor_pid, boot_id
                 FROM record LEFT JOIN guest ON guest.id = record.guest
                 WHERE record.id > ?1 ORDER BY record.id LIMIT ?2",
            )
            .map_err(failed)?;
        let mut rows = statement.query((last, i64::try_from(rows).unwrap_or(i64::MAX))).map_err(failed)?;
        let (mut page, mut last) = (VecDeque::new(), None);
        while let Some(row) = rows.next().map_err(failed)? {
            last = Some(row.get(0).map_err(failed)?);
            page.push_back(stored(row));
        }
        Ok((page, last))
    }

    /// How many bytes the ledger's file has, its log not counted.
    pub fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// How many devices have no close record yet.
    pub fn open_devices(&self) -> Result<u32, LedgerError> {
        self.connection
            .query_row("SELECT count(*) FROM device WHERE closed IS NULL", [], |row| row.get(0))
            .map_err(|source| LedgerError::Read { source })
    }

    /// How many steps have no outcome yet.
    pub fn open_steps(&self) -> Result<u32, LedgerError> {
        self.connection
            .query_row("SELECT count(*) FROM step WHERE done IS NULL", [], |row| row.get(0))
            .map_err(|source| LedgerError::Read { source })
    }
}

fn guest(row: &Row<'_>) -> Result<Guest, LedgerError> {
    let failed = |source| LedgerError::Read { source };
    let id: i64 = row.get(0).map_err(failed)?;
    let uuid: String = row.get(2).map_err(failed)?;
    let process = |pid: Option<u32>, start: Option<i64>| {
        Some(Process { pid: pid?, start: u64::try_from(start?).unwrap_or_default() })
    };
    let supervisor = process(row.get(4).map_err(failed)?, row.get(5).map_err(failed)?);
    let ended: Option<i64> = row.get(9).map_err(failed)?;
    let reason: Option<String> = row.get(10).map_err(failed)?;
    Ok(Guest {
        key: GuestKey(id),
        id: GuestId {
            name: row.get::<_, String>(1).map_err(failed)?.into(),
            uuid: uuid.parse().map_err(|_| bad("guest", id, &uuid, "uuid"))?,
        },
        boot_id: row.get(3).map_err(failed)?,
        supervisor: supervisor.ok_or_else(|| bad("guest", id, "NULL", "process"))?,
        qemu: process(row.get(6).map_err(failed)?, row.get(7).map_err(failed)?),
        begun: time("guest", id, row.get(8).map_err(failed)?)?,
        ended: match (ended, reason) {
            (Some(ended), Some(reason)) => Some((time("guest", id, ended)?, reason)),
            _ => None,
        },
    })
}

pub(crate) fn stored(row: &Row<'_>) -> Result<StoredRecord, LedgerError> {
    let failed = |source| LedgerError::Read { source };
    let id: i64 = row.get(0).map_err(failed)?;
    Ok(StoredRecord {
        id,
        time: time("record", id, row.get(1).map_err(failed)?)?,
        kind: row.get(2).map_err(failed)?,
        text: row.get(3).map_err(failed)?,
        logged: row.get(4).map_err(failed)?,
        serial: row.get(5).map_err(failed)?,
        supervisor: row.get(6).map_err(failed)?,
        boot_id: row.get(7).map_err(failed)?,
    })
}

pub(crate) fn time(table: &'static str, id: i64, milliseconds: i64) -> Result<Timestamp, LedgerError> {
    Timestamp::from_millisecond(milliseconds)
        .map_err(|_| bad(table, id, &milliseconds.to_string(), "time in milliseconds"))
}

pub(crate) fn bad(table: &'static str, id: i64, value: &str, what: &'static str) -> LedgerError {
    LedgerError::Row { table, id, value: value.chars().take(64).collect(), what }
}
