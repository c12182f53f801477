use std::cell::Cell;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Transaction, params};
use taptrail_record::{DeviceKind, GuestId, LogProof, MacAddr, Rdev, Record, TooLong};

use crate::LedgerError;
use crate::chain::Head;

/// A row of `guest`: one start of one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuestKey(pub(crate) i64);

/// A row of `interface`: one interface of one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InterfaceKey(pub(crate) i64);

/// A row of `record`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordKey(pub(crate) i64);

impl RecordKey {
    /// The row's id: from 1, ascending in the order written.
    pub fn row(self) -> u64 {
        u64::try_from(self.0).unwrap_or_default()
    }
}

/// A row of `device`: one successful open(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceKey(pub(crate) i64);

/// A row of `step`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepKey(pub(crate) i64);

/// A process, identified by pid and start time, because pids are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its pid in the initial pid namespace.
    pub pid: u32,
    /// Its start time in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start: u64,
}

/// Whether the kernel's audit logged a record, and what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditOutcome {
    /// The kernel sent the record back.
    ReadBack,
    /// The kernel's counters show that it was logged.
    Counters,
    /// The kernel acknowledged it, which is no proof.
    Acknowledged,
    /// The kernel was not asked.
    Off,
    /// The record was read from the log.
    Copied,
    /// It was not logged, for this reason.
    NotLogged(String),
}

impl AuditOutcome {
    /// As in the ledger's table.
    pub fn as_str(&self) -> &str {
        match self {
            Self::ReadBack => "read-back",
            Self::Counters => "counters",
            Self::Acknowledged => "ack",
            Self::Off => "off",
            Self::Copied => "copied",
            Self::NotLogged(reason) => reason,
        }
    }

    /// Whether the record is in the kernel's log, as far as is known.
    pub fn is_logged(&self) -> bool {
        matches!(self, Self::ReadBack | Self::Counters | Self::Acknowledged)
    }
}

impl From<LogProof> for AuditOutcome {
    fn from(proof: LogProof) -> Self {
        match proof {
            LogProof::ReadBack => Self::ReadBack,
            LogProof::Counters => Self::Counters,
            LogProof::AckOnly => Self::Acknowledged,
        }
    }
}

impl From<String> for AuditOutcome {
    fn from(text: String) -> Self {
        let known = [Self::ReadBack, Self::Counters, Self::Acknowledged, Self::Off, Self::Copied];
        known.into_iter().find(|outcome| outcome.as_str() == text).unwrap_or(Self::NotLogged(text))
    }
}

/// Whether and how the kernel's audit logged a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// What became of it.
    pub outcome: AuditOutcome,
    /// The kernel's serial number, if the record was read back.
    pub serial: Option<u32>,
}

impl Logged {
    /// The kernel was not asked.
    pub const OFF: Self = Self { outcome: AuditOutcome::Off, serial: None };
}

/// An audit record to be inserted.
#[derive(Debug, Clone)]
pub struct NewRecord<'a> {
    /// When it was written.
    pub time: Timestamp,
    /// The audit record type's number.
    pub kind: u16,
    /// The text between `msg='` and `'`.
    pub text: &'a str,
    /// Whether and how the kernel's audit logged it.
    pub logged: Logged,
}

/// An audit record that is kept until a transaction inserts it.
#[derive(Debug, Clone)]
pub struct PendingRecord {
    /// When it was written.
    pub time: Timestamp,
    /// The audit record type's number.
    pub kind: u16,
    /// The text between `msg='` and `'`.
    pub text: String,
    /// Whether and how the kernel's audit logged it.
    pub logged: Logged,
}

impl PendingRecord {
    /// A record of program `exe`, which the kernel was not asked to log yet.
    ///
    /// # Errors
    ///
    /// The record's text would be cut: see [`Record::text`].
    pub fn new(record: &Record, exe: &Path, time: Timestamp) -> Result<Self, TooLong> {
        let (kind, text) = (record.record_type().number(), record.text(exe)?);
        Ok(Self { time, kind, text, logged: Logged::OFF })
    }

    /// The record as a transaction takes it.
    pub fn as_new(&self) -> NewRecord<'_> {
        NewRecord { time: self.time, kind: self.kind, text: &self.text, logged: self.logged.clone() }
    }
}

/// A device that was opened.
#[derive(Debug, Clone)]
pub struct NewDevice<'a> {
    /// The interface it was opened for.
    pub mac: MacAddr,
    /// The kind of the device.
    pub kind: DeviceKind,
    /// The path given to open(2).
    pub path: &'a str,
    /// Its device number.
    pub rdev: Option<Rdev>,
    /// The host interface behind it.
    pub dev: Option<&'a str>,
    /// The queue of the interface, from 0.
    pub queue: u32,
}

/// A step with a lasting effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The guest's start, from its first device to QEMU's first instruction.
    Start,
    /// An interface's devices are opened, its link created and configured, its filter set.
    Open,
    /// Descriptors are passed to QEMU.
    HandOver,
    /// QEMU closes its descriptors; link and filter are removed.
    Release,
    /// The settings of an interface are changed.
    Update,
    /// The guest's stop.
    Stop,
}

impl Step {
    pub(crate) const ALL: [Self; 6] =
        [Self::Start, Self::Open, Self::HandOver, Self::Release, Self::Update, Self::Stop];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Open => "open",
            Self::HandOver => "hand-over",
            Self::Release => "release",
            Self::Update => "update",
            Self::Stop => "stop",
        }
    }
}

/// A guest to be started.
#[derive(Debug, Clone, Copy)]
pub struct NewGuest<'a> {
    /// Its name and uuid.
    pub id: &'a GuestId,
    /// The boot in which it starts (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: &'a str,
    /// The process of its supervisor.
    pub supervisor: Process,
    /// The inode of its network namespace (`/proc/PID/ns/net`).
    pub netns: u64,
    /// Whether it stays paused after its start, because the user gave `-S`.
    pub paused: bool,
}

/// A transaction: all of it is durable after [`commit`](Self::commit), or else nothing of it.
#[derive(Debug)]
pub struct Tx<'a> {
    pub(crate) inner: Transaction<'a>,
    now: Timestamp,
    /// The end of the chain, once this transaction has appended to it.
    head: Cell<Option<Head>>,
    /// Whether the ledger has a chain; a later migration chains the records of one that has not.
    is_chained: bool,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(inner: Transaction<'a>, is_chained: bool) -> Self {
        Self { inner, now: Timestamp::now(), head: Cell::new(None), is_chained }
    }

    /// Opens a guest's account, until [`guest_ends`](Self::guest_ends).
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`].
    pub fn guest_begins(&self, guest: &NewGuest<'_>) -> Result<GuestKey, LedgerError> {
        self.insert(
            "INSERT INTO guest (name, uuid, boot_id, supervisor_pid, supervisor_start, begun, netns, paused)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                guest.id.name.as_str(),
                guest.id.uuid.to_string(),
                guest.boot_id,
                guest.supervisor.pid,
                integer(guest.supervisor.start),
                self.now.as_millisecond(),
                integer(guest.netns),
                guest.paused
            ],
        )
        .map(GuestKey)
    }

    /// Sets another supervisor, or watcher, for the guest.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if the guest has ended; [`LedgerError::Write`].
    pub fn guest_adopted(&self, guest: GuestKey, supervisor: Process) -> Result<(), LedgerError> {
        self.update_once(
            "give another supervisor to",
            "guest",
            guest.0,
            "UPDATE guest SET supervisor_pid = ?2, supervisor_start = ?3 WHERE id = ?1 AND ended IS NULL",
            params![guest.0, supervisor.pid, integer(supervisor.start)],
        )
    }

    /// Sets the guest's QEMU process.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if it is set; [`LedgerError::Write`].
    pub fn guest_runs(&self, guest: GuestKey, qemu: Process) -> Result<(), LedgerError> {
        self.update_once(
            "note the process of",
            "guest",
            guest.0,
            "UPDATE guest SET pid = ?2, pid_start = ?3 WHERE id = ?1 AND pid IS NULL",
            params![guest.0, qemu.pid, integer(qemu.start)],
        )
    }

    /// Closes the guest's account and its interfaces, and ends steps that another process than its
    /// supervisor began.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if the guest has ended; [`LedgerError::Write`].
    pub fn guest_ends(&self, guest: GuestKey, reason: &str) -> Result<(), LedgerError> {
        self.execute(
            "UPDATE step SET done = ?2, outcome = 'guest ended' WHERE guest = ?1 AND done IS NULL",
            params![guest.0, self.now.as_millisecond()],
        )?;
        self.execute(
            "UPDATE interface SET ended = ?2 WHERE guest = ?1 AND ended IS NULL",
            params![guest.0, self.now.as_millisecond()],
        )?;
        self.update_once(
            "end",
            "guest",
            guest.0,
            "UPDATE guest SET ended = ?2, end_reason = ?3 WHERE id = ?1 AND ended IS NULL",
            params![guest.0, self.now.as_millisecond(), reason],
        )
    }

    /// Begins an interface: until [`interface_ends`](Self::interface_ends), QEMU or the host may
    /// have parts of it.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`].
    pub fn interface_begins(
        &self,
        guest: GuestKey,
        mac: MacAddr,
        nic: &str,
        spec: &str,
    ) -> Result<InterfaceKey, LedgerError> {
        // The release of an earlier interface with this address, which another process than the
        // supervisor began.
        self.execute(
            "UPDATE step SET done = ?4, outcome = 'superseded'
             WHERE guest = ?1 AND mac = ?2 AND kind = ?3 AND done IS NULL",
            params![guest.0, mac.to_string(), Step::Release.as_str(), self.now.as_millisecond()],
        )?;
        self.insert(
            "INSERT INTO interface (guest, mac, nic, spec, begun) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![guest.0, mac.to_string(), nic, spec, self.now.as_millisecond()],
        )
        .map(InterfaceKey)
    }

    /// Sets the SPEC of an interface that was changed.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if it has ended; [`LedgerError::Write`].
    pub fn interface_changes(&self, interface: InterfaceKey, spec: &str) -> Result<(), LedgerError> {
        self.update_once(
            "change",
            "interface",
            interface.0,
            "UPDATE interface SET spec = ?2 WHERE id = ?1 AND ended IS NULL",
            params![interface.0, spec],
        )
    }

    /// Sets the rules of an interface's filter, which may change while it is held.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if the interface has ended; [`LedgerError::Write`].
    pub fn interface_is_filtered(
        &self,
        interface: InterfaceKey,
        rules: Option<&str>,
    ) -> Result<(), LedgerError> {
        self.update_once(
            "note the filter of",
            "interface",
            interface.0,
            "UPDATE interface SET rules = ?2 WHERE id = ?1 AND ended IS NULL",
            params![interface.0, rules],
        )
    }

    /// Ends an interface: neither QEMU nor the host has any part of it.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if it has ended; [`LedgerError::Write`].
    pub fn interface_ends(&self, interface: InterfaceKey) -> Result<(), LedgerError> {
        self.update_once(
            "end",
            "interface",
            interface.0,
            "UPDATE interface SET ended = ?2 WHERE id = ?1 AND ended IS NULL",
            params![interface.0, self.now.as_millisecond()],
        )
    }

    /// Inserts the write-ahead intent of a step.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`].
    pub fn intend(
        &self,
        guest: GuestKey,
        step: Step,
        mac: Option<MacAddr>,
        detail: &str,
    ) -> Result<StepKey, LedgerError> {
        self.insert(
            "INSERT INTO step (guest, kind, mac, detail, intended) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                guest.0,
                step.as_str(),
                mac.map(|mac| mac.to_string()),
                detail,
                self.now.as_millisecond()
            ],
        )
        .map(StepKey)
    }

    /// Sets the outcome of a step.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if it has one; [`LedgerError::Write`].
    pub fn done(&self, step: StepKey, outcome: &str) -> Result<(), LedgerError> {
        self.update_once(
            "end",
            "step",
            step.0,
            "UPDATE step SET done = ?2, outcome = ?3 WHERE id = ?1 AND done IS NULL",
            params![step.0, self.now.as_millisecond(), outcome],
        )
    }

    /// Inserts an audit record of the guest's supervisor.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`].
    pub fn record(&self, guest: GuestKey, record: &NewRecord<'_>) -> Result<RecordKey, LedgerError> {
        self.insert_record(guest, record, None, false)
    }

    pub(crate) fn insert_record(
        &self,
        guest: GuestKey,
        record: &NewRecord<'_>,
        writer: Option<u32>,
        copied: bool,
    ) -> Result<RecordKey, LedgerError> {
        let failed = |source| LedgerError::Write { source };
        // Read within the transaction, and dropped with it: a batch that is written again after a
        // failure continues the chain as it is then.
        let mut head = match self.head.get() {
            None if self.is_chained => Some(Head::read(&self.inner).map_err(failed)?),
            head => head,
        };
        let largest =
            head.as_mut().map(|head| head.largest_record(&self.inner)).transpose().map_err(failed)?;
        let record = self.insert(
            "INSERT INTO record (id, guest, time, type, text, logged, serial, writer, copied)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                // Otherwise SQLite chooses one.
                largest.and_then(|largest| largest.checked_add(1)),
                guest.0,
                record.time.as_millisecond(),
                record.kind,
                record.text,
                record.logged.outcome.as_str(),
                record.logged.serial,
                writer,
                copied
            ],
        )?;
        if let Some(head) = &mut head {
            head.append_record(&self.inner, record).map_err(failed)?;
        }
        self.head.set(head);
        Ok(RecordKey(record))
    }

    /// Inserts an opened device, which is open until [`device_closed`](Self::device_closed).
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`].
    pub fn device_opened(
        &self,
        guest: GuestKey,
        device: &NewDevice<'_>,
        opened: RecordKey,
    ) -> Result<DeviceKey, LedgerError> {
        self.insert(
            "INSERT INTO device (guest, mac, kind, path, rdev, dev, queue, opened)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                guest.0,
                device.mac.to_string(),
                device.kind.as_str(),
                device.path,
                device.rdev.map(|rdev| rdev.to_string()),
                device.dev,
                device.queue,
                opened.0
            ],
        )
        .map(DeviceKey)
    }

    /// Sets the grant of a device. `qemu_fd` is the descriptor's number in QEMU; `None` if QEMU's
    /// descriptors could not be read, so that the device counts as held.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if the device is granted or closed; [`LedgerError::Write`].
    pub fn device_granted(
        &self,
        device: DeviceKey,
        granted: RecordKey,
        qemu_fd: Option<i32>,
    ) -> Result<(), LedgerError> {
        self.update_once(
            "grant",
            "device",
            device.0,
            "UPDATE device SET granted = ?2, qemu_fd = ?3 WHERE id = ?1 AND granted IS NULL AND closed IS NULL",
            params![device.0, granted.0, qemu_fd],
        )
    }

    /// Sets the close of a device: exactly once for each open.
    ///
    /// # Errors
    ///
    /// [`LedgerError::AlreadyDone`] if it is closed; [`LedgerError::Write`].
    pub fn device_closed(&self, device: DeviceKey, closed: RecordKey) -> Result<(), LedgerError> {
        self.update_once(
            "close",
            "device",
            device.0,
            "UPDATE device SET closed = ?2 WHERE id = ?1 AND closed IS NULL",
            params![device.0, closed.0],
        )
    }

    /// Commits the transaction; it is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`]; nothing is written then.
    pub fn commit(self) -> Result<(), LedgerError> {
        self.inner.commit().map_err(|source| LedgerError::Write { source })
    }

    pub(crate) fn insert(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<i64, LedgerError> {
        let failed = |source| LedgerError::Write { source };
        self.inner.prepare_cached(sql).map_err(failed)?.insert(values).map_err(failed)
    }

    pub(crate) fn update_once(
        &self,
        what: &'static str,
        table: &'static str,
        id: i64,
        sql: &str,
        values: &[&dyn rusqlite::ToSql],
    ) -> Result<(), LedgerError> {
        match self.execute(sql, values)? {
            1 => Ok(()),
            _ => Err(LedgerError::AlreadyDone { what, table, id }),
        }
    }

    pub(crate) fn execute(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<usize, LedgerError> {
        let failed = |source| LedgerError::Write { source };
        self.inner.prepare_cached(sql).map_err(failed)?.execute(values).map_err(failed)
    }
}

/// The number as SQLite stores it. The kernel never gives a number that does not fit.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
