use std::collections::VecDeque;

use jiff::Timestamp;
use rusqlite::Row;
use taptrail_record::{GuestId, MacAddr};
use uuid::Uuid;

use crate::bridge_tap;
use crate::{AuditOutcome, GuestKey, Ledger, LedgerError, Process, RecordKey};

/// One start of one guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The key of its row in the ledger.
    pub key: GuestKey,
    /// Its name and uuid.
    pub id: GuestId,
    /// The boot in which it started (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Its supervisor, or the watcher that keeps its account.
    pub supervisor: Process,
    /// Whether it has another manager, and a watcher keeps its account.
    pub watched: bool,
    /// Its QEMU, once it ran.
    pub qemu: Option<Process>,
    /// When its supervisor started.
    pub begun: Timestamp,
    /// When its account was closed, and why; `None` while it is open.
    pub ended: Option<(Timestamp, String)>,
}

/// Consecutive rows of records.
type Page = VecDeque<Result<StoredRecord, LedgerError>>;

/// One audit record.
#[derive(Debug, Clone)]
pub struct StoredRecord {
    /// Its row's id, ascending in the order written.
    pub id: i64,
    /// When it was written.
    pub time: Timestamp,
    /// The audit record type's number.
    pub kind: u16,
    /// The text between `msg='` and `'`.
    pub text: String,
    /// Whether the kernel's audit logged it, and what shows it.
    pub logged: AuditOutcome,
    /// The kernel's serial number, if it was read back.
    pub serial: Option<u32>,
    /// The process that wrote it, if known: the guest's supervisor; for a watched guest, its
    /// manager or the watcher.
    pub writer: Option<u32>,
    /// The boot in which it was written; see [`Guest::boot_id`].
    pub boot_id: String,
    /// Whether it is a copy of another manager's record from the log.
    pub copied: bool,
}

impl StoredRecord {
    /// The key of its row in the ledger.
    pub fn key(&self) -> RecordKey {
        RecordKey(self.id)
    }
}

/// A step without an outcome, of a guest whose account is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenStep {
    /// The guest's uuid.
    pub guest: Uuid,
    /// The boot of the guest's account.
    pub boot_id: String,
    /// The supervisor that performs the step, if that process still runs.
    pub supervisor: Process,
    /// The interface, if the step is for one.
    pub mac: Option<MacAddr>,
}

/// An iterator over all records; see [`Ledger::into_records`].
#[derive(Debug)]
pub struct Records {
    ledger: Ledger,
    own: Pages,
    copies: Pages,
    steps: Vec<OpenStep>,
    pruned_until: Option<Timestamp>,
}

impl Records {
    /// Up to when guests that had ended were deleted, as of when the last record was read; none if
    /// none was, or the ledger is of a version that does not say.
    pub fn pruned_until(&self) -> Option<Timestamp> {
        self.pruned_until
    }

    /// The steps to open and hand over devices that had no outcome when the last record was read;
    /// empty before that.
    pub fn open_steps(&self) -> &[OpenStep] {
        &self.steps
    }

    /// Reads the next pages. The open steps are read in the transaction that finds no more records,
    /// because a grant is committed together with its step's outcome.
    fn fill(&mut self) -> Result<(), LedgerError> {
        let Self { ledger, own, copies, steps, pruned_until } = self;
        let failed = |source| LedgerError::Read { source };
        let reading = ledger.connection.unchecked_transaction().map_err(failed)?;
        let ends = own.last.is_some();
        own.fill(ledger)?;
        if ends && own.last.is_none() {
            *steps = ledger.open_hand_overs()?;
        }
        copies.fill(ledger)?;
        if own.last.is_none() && copies.last.is_none() {
            *pruned_until = ledger.pruned_until()?;
        }
        reading.finish().map_err(failed)
    }
}

/// Reads the rows of own records, or of copies, page by page.
#[derive(Debug)]
struct Pages {
    copied: bool,
    page: Page,
    /// The id of the last row read; none if there are no more.
    last: Option<i64>,
}

impl Pages {
    /// The number of rows in memory at a time.
    const ROWS_PER_PAGE: usize = 512;

    fn of(copied: bool) -> Self {
        Self { copied, page: VecDeque::new(), last: Some(i64::MIN) }
    }

    /// Reads the next page if this one is used up.
    fn fill(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        if self.page.is_empty()
            && let Some(last) = self.last.take()
        {
            (self.page, self.last) = ledger.page(self.copied, last, Self::ROWS_PER_PAGE)?;
        }
        Ok(())
    }

    /// The time of the next row; an invalid row comes first.
    fn head(&self) -> Option<Timestamp> {
        self.page.front().map(|row| row.as_ref().map_or(Timestamp::MIN, |row| row.time))
    }
}

impl Iterator for Records {
    type Item = Result<StoredRecord, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        let reads = |pages: &Pages| pages.page.is_empty() && pages.last.is_some();
        if (reads(&self.own) || reads(&self.copies))
            && let Err(error) = self.fill()
        {
            return Some(Err(error));
        }
        // A watcher may copy a record long after it was written.
        let first = match (self.own.head(), self.copies.head()) {
            (Some(own), Some(copy)) if copy <= own => &mut self.copies,
            (None, _) => &mut self.copies,
            (Some(_), _) => &mut self.own,
        };
        first.page.pop_front()
    }
}

impl Ledger {
    /// All guests, oldest first.
    ///
    /// # Errors
    ///
    /// The query fails, or a row is invalid.
    pub fn guests(&self) -> Result<Vec<Guest>, LedgerError> {
        self.guests_where("true")
    }

    /// The guests whose account is open, oldest first.
    ///
    /// # Errors
    ///
    /// The query fails, or a row is invalid.
    pub fn live_guests(&self) -> Result<Vec<Guest>, LedgerError> {
        self.guests_where("ended IS NULL")
    }

    /// The guests of the last thousand starts, oldest first.
    ///
    /// # Errors
    ///
    /// The query fails, or a row is invalid.
    pub fn recent_guests(&self) -> Result<Vec<Guest>, LedgerError> {
        self.guests_where("id > (SELECT max(id) FROM guest) - 1000")
    }

    /// The MACs of the last thousand opens, each once.
    ///
    /// # Errors
    ///
    /// The query fails, or a row is invalid.
    pub fn recent_macs(&self) -> Result<Vec<MacAddr>, LedgerError> {
        let failed = |source| LedgerError::Read { source };
        let sql = format!(
            "SELECT {mac}, max(id) FROM device WHERE id > (SELECT max(id) FROM device) - 1000 GROUP BY 1",
            mac = bounded("mac"),
        );
        let mut statement = self.connection.prepare(&sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut macs = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let id = row.get(1).map_err(failed)?;
            let mac = text_of(row, 0, "device", id)?;
            macs.push(mac.parse().map_err(|_| invalid_row("device", id, &mac, "MAC address"))?);
        }
        Ok(macs)
    }

    fn guests_where(&self, condition: &str) -> Result<Vec<Guest>, LedgerError> {
        let failed = |source| LedgerError::Read { source };
        let mut statement = self
            .connection
            .prepare(&format!(
                "SELECT id, {name}, {uuid}, {boot_id}, supervisor_pid, supervisor_start, pid, pid_start,
                        begun, ended, {end_reason}, {watched} FROM guest
                 WHERE ({condition}) AND {watched} < {no_guest} ORDER BY id",
                name = bounded("name"),
                uuid = bounded("uuid"),
                boot_id = bounded("boot_id"),
                end_reason = bounded("end_reason"),
                watched = self.since_3("watched"),
                no_guest = bridge_tap::WATCHED,
            ))
            .map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut guests = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            guests.push(guest(row)?);
        }
        Ok(guests)
    }

    /// All records, page by page: the memory used does not grow with the ledger. The records of
    /// supervisors and watchers are in the order written, and copies of another manager's records
    /// between them, by their times. An invalid row is returned as an error, and the next row
    /// follows.
    pub fn into_records(self) -> Records {
        let copies = if self.version < 3 { Pages { last: None, ..Pages::of(true) } } else { Pages::of(true) };
        Records { ledger: self, own: Pages::of(false), copies, steps: Vec::new(), pruned_until: None }
    }

    fn pruned_until(&self) -> Result<Option<Timestamp>, LedgerError> {
        if self.version < 5 {
            return Ok(None);
        }
        // Pruned up to a time to come: nothing that ended after the deletion. The rows of deletions
        // that were pruned themselves are older than each record that is there. The index is used for
        // the first condition.
        let sql =
            "SELECT max(min(row, time)) FROM chain WHERE kind IN ('prune', 'replace') AND kind = 'prune'";
        let latest = self.connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
        let latest = latest.map_err(|source| LedgerError::Read { source })?;
        Ok(latest.map(|time| Timestamp::from_millisecond(time).unwrap_or(Timestamp::MAX)))
    }

    /// Own records, or copies, with ids after `last`, and the last id, if there were any.
    fn page(&self, copied: bool, last: i64, rows: usize) -> Result<(Page, Option<i64>), LedgerError> {
        let failed = |source| LedgerError::Read { source };
        let sql = format!(
            "SELECT {columns} FROM record LEFT JOIN guest ON guest.id = record.guest
             WHERE record.id > ?1 AND {of} = {wanted} ORDER BY record.id LIMIT ?2",
            columns = self.record_columns(),
            of = self.since_3("copied"),
            wanted = u8::from(copied),
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(failed)?;
        let mut rows = statement.query((last, i64::try_from(rows).unwrap_or(i64::MAX))).map_err(failed)?;
        let (mut page, mut last) = (VecDeque::new(), None);
        while let Some(row) = rows.next().map_err(failed)? {
            let id: i64 = row.get(0).map_err(failed)?;
            // A damaged or forged table may be a cycle.
            if last.is_some_and(|last| id <= last) {
                return Err(invalid_row("record", id, &id.to_string(), "row behind the one before it"));
            }
            last = Some(id);
            page.push_back(stored(row));
        }
        Ok((page, last))
    }

    /// The columns that [`stored`] reads.
    pub(crate) fn record_columns(&self) -> String {
        let writer = match self.version {
            ..3 => "supervisor_pid",
            // The writer of a copied record is not always known.
            _ => "CASE WHEN copied THEN writer ELSE coalesce(writer, supervisor_pid) END",
        };
        format!(
            "record.id, time, type, {text}, {logged}, serial, {writer}, {boot_id}, {copied}",
            text = bounded("text"),
            logged = bounded("logged"),
            boot_id = bounded("boot_id"),
            copied = self.since_3("copied"),
        )
    }

    /// A column that version 3 added; 0 in an older ledger.
    fn since_3(&self, column: &'static str) -> &'static str {
        if self.version < 3 { "0" } else { column }
    }

    /// Steps towards a grant that have no outcome, of guests whose account is open; the first 4096.
    fn open_hand_overs(&self) -> Result<Vec<OpenStep>, LedgerError> {
        let failed = |source| LedgerError::Read { source };
        let sql = format!(
            "SELECT {uuid}, {boot_id}, supervisor_pid, supervisor_start, {mac}, step.id
             FROM step JOIN guest ON guest.id = step.guest
             WHERE done IS NULL AND ended IS NULL AND kind IN ('start', 'open', 'hand-over')
             ORDER BY step.id LIMIT 4096",
            uuid = bounded("uuid"),
            boot_id = bounded("boot_id"),
            mac = bounded("mac"),
        );
        let mut statement = self.connection.prepare(&sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut steps = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let id = row.get(5).map_err(failed)?;
            let uuid = text_of(row, 0, "step", id)?;
            let mac: Option<String> = row.get(4).map_err(failed)?;
            let start: i64 = row.get(3).map_err(failed)?;
            steps.push(OpenStep {
                guest: uuid.parse().map_err(|_| invalid_row("step", id, &uuid, "uuid"))?,
                boot_id: text_of(row, 1, "step", id)?,
                supervisor: Process {
                    pid: row.get(2).map_err(failed)?,
                    start: u64::try_from(start).unwrap_or_default(),
                },
                mac: mac
                    .map(|mac| mac.parse().map_err(|_| invalid_row("step", id, &mac, "MAC address")))
                    .transpose()?,
            });
        }
        Ok(steps)
    }

    /// The size of the ledger's file in bytes, without its write-ahead log.
    pub fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// The number of devices without a close record.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Read`] if the query fails.
    pub fn open_devices(&self) -> Result<u32, LedgerError> {
        self.connection
            .query_row("SELECT count(*) FROM device WHERE closed IS NULL", [], |row| row.get(0))
            .map_err(|source| LedgerError::Read { source })
    }

    /// The number of steps without an outcome.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Read`] if the query fails.
    pub fn open_steps(&self) -> Result<u32, LedgerError> {
        self.connection
            .query_row("SELECT count(*) FROM step WHERE done IS NULL", [], |row| row.get(0))
            .map_err(|source| LedgerError::Read { source })
    }
}

/// A column of text, or NULL if it is longer than any text that taptrail writes: an audit record
/// has at most 8970 bytes (`MAX_AUDIT_MESSAGE_LENGTH`, linux/audit.h). SQLite knows the length
/// without reading the text.
pub(crate) fn bounded(column: &str) -> String {
    format!("iif(octet_length({column}) <= 65536, {column}, NULL)")
}

/// The text of a [`bounded`] column that is never NULL in a valid row.
pub(crate) fn text_of(
    row: &Row<'_>,
    column: usize,
    table: &'static str,
    id: i64,
) -> Result<String, LedgerError> {
    let text: Option<String> = row.get(column).map_err(|source| LedgerError::Read { source })?;
    text.ok_or_else(|| invalid_row(table, id, "…", "text of up to 64 KiB"))
}

fn guest(row: &Row<'_>) -> Result<Guest, LedgerError> {
    let failed = |source| LedgerError::Read { source };
    let id: i64 = row.get(0).map_err(failed)?;
    let uuid = text_of(row, 2, "guest", id)?;
    let process = |pid: Option<u32>, start: Option<i64>| {
        Some(Process { pid: pid?, start: u64::try_from(start?).unwrap_or_default() })
    };
    let supervisor = process(row.get(4).map_err(failed)?, row.get(5).map_err(failed)?);
    let ended: Option<i64> = row.get(9).map_err(failed)?;
    let reason: Option<String> = row.get(10).map_err(failed)?;
    Ok(Guest {
        key: GuestKey(id),
        id: GuestId {
            name: text_of(row, 1, "guest", id)?.into(),
            uuid: uuid.parse().map_err(|_| invalid_row("guest", id, &uuid, "uuid"))?,
        },
        boot_id: text_of(row, 3, "guest", id)?,
        supervisor: supervisor.ok_or_else(|| invalid_row("guest", id, "NULL", "process"))?,
        watched: row.get(11).map_err(failed)?,
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
        text: text_of(row, 3, "record", id)?,
        logged: text_of(row, 4, "record", id)?.into(),
        serial: row.get(5).map_err(failed)?,
        writer: row.get(6).map_err(failed)?,
        boot_id: text_of(row, 7, "record", id)?,
        copied: row.get(8).map_err(failed)?,
    })
}

pub(crate) fn time(table: &'static str, id: i64, milliseconds: i64) -> Result<Timestamp, LedgerError> {
    Timestamp::from_millisecond(milliseconds)
        .map_err(|_| invalid_row(table, id, &milliseconds.to_string(), "time in milliseconds"))
}

pub(crate) fn invalid_row(table: &'static str, id: i64, value: &str, what: &'static str) -> LedgerError {
    LedgerError::Row { table, id, value: value.chars().take(64).collect(), what }
}
