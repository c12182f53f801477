//! A guest's account: writes each record to the kernel's audit and to the ledger.
//!
//! ```text
//!            Record ──text──▶ kernel audit ──▶ logged, or why not
//!                                   │
//!                                   ▼
//!                 one transaction: the record, and what it changes
//! ```
//!
//! The kernel comes first, so that the ledger can say whether the kernel logged the record. A
//! record in the ledger is never removed: a failure after it is another record. Records that the
//! kernel got and the ledger could not take go to a retry queue (outbox), and are committed before
//! anything else.

mod batch;
mod findings;
mod live;
mod opens;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::audit::{Audit, AuditError, LogTime, NotLogged};
use taptrail_kernel::filter::Rules;
use taptrail_kernel::proc::{ProcessId, boot_id, network_namespace};
use taptrail_ledger::{
    AuditOutcome, GuestKey, InterfaceKey, Ledger, LedgerError, Logged, MovedKeys, NewGuest, PendingRecord,
    Process, Step, StepKey, Tx,
};
use taptrail_record::{Event, GuestId, MacAddr, Outcome, Record, RecordType, Requester, TooLong, parse_text};
use tracing::warn;
use uuid::Uuid;

use crate::events::{EventKind, EventPublisher};

pub(crate) use batch::LedgerBatch;
use batch::{Change, LoggedBatch, LoggedRecord};
use findings::Findings;
pub(crate) use live::{Live, ledger_if_any, live_guests, own_guests, process_id};
pub(crate) use opens::{OpenDevice, Opens};

/// How long to retry the last commit of a guest that has ended.
const FINAL_COMMIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether records go to the kernel's audit. They always go to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditMode {
    /// No device is passed to QEMU unless the kernel is proven to have logged its records.
    Required,
    /// The kernel logs if it can; if not, each cause is logged once.
    #[default]
    Auto,
    /// Nothing is sent to the kernel's audit.
    Off,
}

/// A record could not be written as required.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The ledger could not be written.
    #[error("Record is not in the ledger")]
    Ledger(#[from] LedgerError),
    /// The kernel's audit is required, and did not log the record.
    #[error("Audit is required, but the kernel did not log the record")]
    NotLogged(#[source] NotLogged),
    /// The kernel's audit is required, and can't be used.
    #[error("Audit is required, but the kernel's audit can't be used")]
    NoAudit(#[source] AuditError),
    /// The kernel accepted the record, but it is not proven that it logged it.
    #[error(
        "Audit is required, but whether the kernel logged the record can't be seen: CAP_AUDIT_READ or CAP_AUDIT_CONTROL is needed"
    )]
    Unproven,
    /// The rules of a filter can't be written as JSON.
    #[error("Filter's rules can't be written")]
    Rules(#[source] serde_json::Error),
    /// The guest's name makes a record too long.
    #[error("Record can't be written")]
    TooLong(#[from] TooLong),
    /// A guest of this name or uuid runs without a supervisor.
    #[error("Guest '{name}'{} runs on without a supervisor, as pid {pid}: `taptrail adopt` gives it one", with_uuid(.uuid))]
    Orphan {
        /// The name of the guest that runs.
        name: String,
        /// Its uuid, if the name differs from the requested guest's.
        uuid: Option<Uuid>,
        /// The pid of its QEMU.
        pid: u32,
    },
    /// A guest of this uuid is running, or one of this name in another run directory.
    #[error("Guest '{name}'{} is already running: its supervisor has pid {pid}", with_uuid(.uuid))]
    Supervised {
        /// The name of the guest that runs.
        name: String,
        /// Its uuid, if the name differs from the requested guest's.
        uuid: Option<Uuid>,
        /// The pid of its supervisor.
        pid: u32,
    },
    /// Facts about the host or this process can't be read.
    #[error("{what} can't be read")]
    Proc {
        /// What could not be read, as it begins a sentence.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The account of one guest.
#[derive(Debug)]
pub(crate) struct Account {
    ledger: Ledger,
    /// The state directory.
    state: PathBuf,
    /// The new keys of the account's rows after each replacement of the ledger, the oldest first.
    moves: Vec<MovedKeys>,
    audit: Option<Audit>,
    mode: AuditMode,
    guest: GuestId,
    key: GuestKey,
    exe: PathBuf,
    warned: BTreeSet<String>,
    /// The latest time of this supervisor's records.
    latest: Timestamp,
    /// Records that the kernel got and the ledger could not take, in order.
    outbox: Vec<LoggedBatch>,
    /// The publisher of records and findings, once the ledger has them.
    events: Option<EventPublisher>,
    /// Derives findings from the records.
    findings: Findings,
}

impl Account {
    /// Opens a new guest's account in the ledger of `state`. `paused`: the user gave -S.
    pub(crate) fn begin(
        state: &Path,
        mode: AuditMode,
        guest: GuestId,
        paused: bool,
    ) -> Result<Self, AccountError> {
        let proc = |what| move |source| AccountError::Proc { what, source };
        let boot = boot_id().map_err(proc("Boot id"))?.to_string();
        let netns = network_namespace().map_err(proc("Network namespace"))?;
        let supervisor = this_process()?;
        let begin = |ledger: &mut Ledger, guest: &GuestId| {
            orphan(ledger, guest, &boot)?;
            let tx = ledger.begin()?;
            let new = NewGuest { id: guest, boot_id: &boot, supervisor, netns, paused };
            let key = tx.guest_begins(&new)?;
            tx.commit()?;
            Ok(key)
        };
        Self::open(state, mode, guest, begin)
    }

    /// Opens the account of a guest whose supervisor has ended; the ledger still names that
    /// supervisor.
    pub(crate) fn take_up(
        state: &Path,
        mode: AuditMode,
        guest: &taptrail_ledger::Guest,
    ) -> Result<Self, AccountError> {
        let mut account = Self::open(state, mode, guest.id.clone(), |_, _| Ok(guest.key))?;
        let Self { ledger, findings, .. } = &mut account;
        ledger.each_record(guest.key, |stored| {
            if let Ok(Some(record)) = parse_text(RecordType(stored.kind), stored.text.as_bytes()) {
                // The previous supervisor has published its findings.
                let _ = findings.of(stored.time, &record);
            }
        })?;
        Ok(account)
    }

    fn open(
        state: &Path,
        mode: AuditMode,
        guest: GuestId,
        find: impl FnOnce(&mut Ledger, &GuestId) -> Result<GuestKey, AccountError>,
    ) -> Result<Self, AccountError> {
        let mut warned = BTreeSet::new();
        let audit = match (mode, Audit::open()) {
            (AuditMode::Off, _) => None,
            (_, Ok(audit)) => Some(audit),
            (AuditMode::Required, Err(error)) => return Err(AccountError::NoAudit(error)),
            (AuditMode::Auto, Err(error)) => {
                warn_once(&mut warned, &error);
                None
            }
        };
        let proc = |source| AccountError::Proc { what: "Path of this program", source };
        let exe = std::env::current_exe().map_err(proc)?;
        let mut ledger = Ledger::open(state)?;
        let key = find(&mut ledger, &guest)?;
        Ok(Self {
            ledger,
            state: state.to_owned(),
            moves: Vec::new(),
            audit,
            mode,
            guest,
            key,
            exe,
            warned,
            latest: Timestamp::UNIX_EPOCH,
            outbox: Vec::new(),
            events: None,
            findings: Findings::new(),
        })
    }

    /// Publishes each record there from now on, once the ledger has it.
    pub(crate) fn publish_to(&mut self, events: &EventPublisher) {
        self.events = Some(events.clone());
    }

    /// The guest of this account.
    pub(crate) fn guest(&self) -> &GuestId {
        &self.guest
    }

    /// Whether another guest than this one has an open account in the ledger.
    pub(crate) fn is_on_record(&self, guest: Uuid) -> Result<bool, AccountError> {
        Ok(guest != self.guest.uuid && own_guests(&self.ledger)?.iter().any(|other| other.id.uuid == guest))
    }

    /// Checks, in mode `required`, that the kernel's audit is enabled; called before any device is
    /// opened.
    pub(crate) fn ready(&mut self) -> Result<(), AccountError> {
        match (self.mode, &mut self.audit) {
            (AuditMode::Required, Some(audit)) => match audit.status() {
                Ok(status) if !status.enabled => Err(AccountError::NotLogged(NotLogged::Disabled)),
                Ok(status) if status.daemon.is_none() => {
                    let text = "No audit daemon takes the kernel's records: they go to its message log alone, which keeps them for a while at best";
                    if self.warned.insert(text.to_owned()) {
                        warn!("{text}");
                    }
                    Ok(())
                }
                // Without the right to query the status, reading the records back may still work.
                Ok(_) | Err(AuditError::StatusRefused) => Ok(()),
                Err(error) => Err(AccountError::NoAudit(error)),
            },
            _ => Ok(()),
        }
    }

    /// Writes a batch of records, and the ledger changes that belong to them.
    ///
    /// In mode `required` it returns an error for the first record that the kernel did not log; all
    /// records and changes are in the ledger even so. If the ledger can't be written, that is an
    /// error, too, and the batch goes to the retry queue.
    pub(crate) fn post(&mut self, batch: LedgerBatch) -> Result<(), AccountError> {
        let (written, refusal) = self.send(batch)?;
        self.commit(written)?;
        refusal.map_or(Ok(()), Err)
    }

    /// As [`post`](Self::post), for a batch that can still be refused: unless its records are
    /// logged and committed as required, none of its changes are made.
    pub(crate) fn post_or_refuse(&mut self, batch: LedgerBatch) -> Result<(), AccountError> {
        let (written, refusal) = self.send(batch)?;
        match refusal {
            Some(refusal) => {
                self.commit(written.without_changes())?;
                Err(refusal)
            }
            None => match self.transact(|tx, guest, moves| written.apply(tx, guest, moves)) {
                Ok(()) => {
                    self.emit(&written);
                    Ok(())
                }
                Err(error) => {
                    self.queue_for_retry(written.without_changes(), &error);
                    Err(error.into())
                }
            },
        }
    }

    /// Writes the guest's end; retries for a while if the ledger can't be written, as there is no
    /// later occasion.
    pub(crate) fn end(&mut self, batch: LedgerBatch) -> Result<(), AccountError> {
        let deadline = Instant::now() + FINAL_COMMIT_TIMEOUT;
        let mut posted = self.post(batch);
        if let Err(AccountError::Ledger(LedgerError::Removed { .. })) = &posted {
            // No new devices are granted, and the account must be kept: a new ledger is created.
            Ledger::open(&self.state)?;
            posted = self.update_ledger(|_, _| Ok(()));
        }
        while let Err(AccountError::Ledger(error)) = &posted
            && !self.outbox.is_empty()
            && Instant::now() < deadline
        {
            warn!("{}; trying again", crate::chain(error));
            std::thread::sleep(Duration::from_secs(1));
            posted = self.update_ledger(|_, _| Ok(()));
        }
        posted
    }

    /// Sends a batch's records to the kernel. Returns the batch for the ledger, and the error of
    /// mode `required`, if any.
    fn send(&mut self, batch: LedgerBatch) -> Result<(LoggedBatch, Option<AccountError>), AccountError> {
        let mut rows = Vec::with_capacity(batch.records.len());
        for (record, _) in &batch.records {
            rows.push(PendingRecord::new(record, &self.exe, Timestamp::now())?);
        }
        let (logged, refusal) = self.log(&rows);
        let refusal = refusal.filter(|_| self.mode == AuditMode::Required);
        let now = Timestamp::now();
        let mut records = Vec::with_capacity(rows.len());
        for ((row, (logged_at, logged)), (record, change)) in rows.into_iter().zip(logged).zip(batch.records)
        {
            // A record's time is that of the kernel's audit if it logged the record. A last close
            // is not dated before the latest record.
            let seen_at = change.as_ref().and_then(Change::seen_at).map(|at| at.max(self.latest));
            let time = logged_at.or(seen_at).unwrap_or(now);
            self.latest = self.latest.max(time);
            records.push((LoggedRecord { record, row: PendingRecord { time, logged, ..row } }, change));
        }
        Ok((
            LoggedBatch {
                records,
                completed_steps: batch.completed_steps,
                ended_interfaces: batch.ended_interfaces,
                changed_spec: batch.changed_spec,
                changed_rules: batch.changed_rules,
                guest_end: batch.guest_end,
                cause: batch.cause,
            },
            refusal,
        ))
    }

    fn commit(&mut self, written: LoggedBatch) -> Result<(), AccountError> {
        match self.transact(|tx, guest, moves| written.apply(tx, guest, moves)) {
            Ok(()) => {
                self.emit(&written);
                Ok(())
            }
            Err(error) => {
                self.queue_for_retry(written, &error);
                Err(error.into())
            }
        }
    }

    /// Publishes the records that are committed, and their findings.
    fn emit(&mut self, written: &LoggedBatch) {
        for (LoggedRecord { record, row }, _) in &written.records {
            let findings = self.findings.of(row.time, record);
            let Some(events) = &self.events else { continue };
            let is_failed_grant =
                matches!(record.event, Event::Attach { .. }) && record.outcome == Outcome::Failed;
            let cause = written.cause.clone().filter(|_| is_failed_grant);
            events.emit(row.time, EventKind::Recorded { record: Box::new(record.clone()), cause });
            for finding in findings {
                events.emit(finding.time, EventKind::Found(Box::new(finding)));
            }
        }
    }

    /// Queues a batch for a later commit if the error may pass.
    fn queue_for_retry(&mut self, written: LoggedBatch, error: &LedgerError) {
        if matches!(
            error,
            LedgerError::Write { .. } | LedgerError::Removed { .. } | LedgerError::Replaced { .. }
        ) {
            self.outbox.push(written);
        }
    }

    /// Runs one transaction of the ledger, which first commits the retry queue.
    fn transact<T>(
        &mut self,
        change: impl FnOnce(&Tx<'_>, GuestKey, &[MovedKeys]) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.follow_ledger()?;
        let tx = self.ledger.begin()?;
        for written in &self.outbox {
            written.apply(&tx, self.key, &self.moves)?;
        }
        let changed = change(&tx, self.key, &self.moves)?;
        tx.commit()?;
        for written in std::mem::take(&mut self.outbox) {
            self.emit(&written);
        }
        Ok(changed)
    }

    /// If the ledger's file was replaced, copies the account into the new file. If the file was
    /// removed, this fails, and the account waits for a new one.
    fn follow_ledger(&mut self) -> Result<(), LedgerError> {
        if !self.ledger.is_replaced() {
            return Ok(());
        }
        let mut ledger = Ledger::open(&self.state)?;
        let moved = self.ledger.move_account(self.key, &mut ledger)?;
        warn!("the ledger was replaced by another one: the guest's account was carried over into it");
        (self.ledger, self.key) = (ledger, moved.guest(self.key));
        self.moves.push(moved);
        Ok(())
    }

    /// The other guests of this host whose accounts are open.
    pub(crate) fn others(&self) -> Result<Vec<taptrail_ledger::Guest>, AccountError> {
        let mut guests = live::own_guests(&self.ledger)?;
        guests.retain(|guest| guest.key != self.key);
        Ok(guests)
    }

    /// Writes to the ledger only, without a record.
    pub(crate) fn update_ledger<T>(
        &mut self,
        change: impl FnOnce(&Tx<'_>, GuestKey) -> Result<T, LedgerError>,
    ) -> Result<T, AccountError> {
        Ok(self.transact(|tx, guest, _| change(tx, guest))?)
    }

    /// Writes the intent of a step to the ledger.
    pub(crate) fn intend(
        &mut self,
        step: Step,
        mac: Option<MacAddr>,
        detail: &str,
    ) -> Result<StepKey, AccountError> {
        self.update_ledger(|tx, guest| tx.intend(guest, step, mac, detail))
    }

    /// Writes the intent to open an interface's devices, make its link and set its filter.
    pub(crate) fn begin_interface(
        &mut self,
        mac: MacAddr,
        nic: &str,
        spec: &str,
        rules: Option<&Rules>,
    ) -> Result<(StepKey, InterfaceKey), AccountError> {
        let rules = rules.map(stored_rules).transpose()?;
        self.update_ledger(|tx, guest| {
            let interface = tx.interface_begins(guest, mac, nic, spec)?;
            if rules.is_some() {
                tx.interface_is_filtered(interface, rules.as_deref())?;
            }
            Ok((tx.intend(guest, Step::Open, Some(mac), spec)?, interface))
        })
    }

    /// Writes the intent to change an interface's settings, with its record: to be called before
    /// anything is changed. After an error nothing may be, and the caller records that.
    pub(crate) fn begin_update(
        &mut self,
        mac: MacAddr,
        begin: Record,
        settings: &str,
    ) -> Result<StepKey, AccountError> {
        let (written, refusal) = self.send(LedgerBatch::default().record(begin))?;
        if let Some(refusal) = refusal {
            self.commit(written)?;
            return Err(refusal);
        }
        let intended = self.transact(|tx, guest, moves| {
            written.apply(tx, guest, moves)?;
            tx.intend(guest, Step::Update, Some(mac), settings)
        });
        match intended {
            Ok(step) => {
                self.emit(&written);
                Ok(step)
            }
            Err(error) => {
                self.queue_for_retry(written, &error);
                Err(error.into())
            }
        }
    }

    /// Makes this process the guest's supervisor in the ledger.
    pub(crate) fn adopt(&mut self) -> Result<(), AccountError> {
        let supervisor = this_process()?;
        self.update_ledger(|tx, guest| tx.guest_adopted(guest, supervisor))
    }

    /// Builds a record of this guest.
    pub(crate) fn record(&self, event: Event, outcome: Outcome, requester: Option<Requester>) -> Record {
        Record {
            guest: self.guest.clone(),
            event,
            outcome,
            requester,
            errno: None,
            last_seen: None,
            doubt: None,
        }
    }

    /// Sends records to the kernel. Returns for each when and how it was logged, and the first reason
    /// why one was not.
    fn log(&mut self, rows: &[PendingRecord]) -> (Vec<(Option<Timestamp>, Logged)>, Option<AccountError>) {
        let Some(audit) = &mut self.audit else {
            return (vec![(None, Logged::OFF); rows.len()], None);
        };
        let texts: Vec<(u16, &str)> = rows.iter().map(|row| (row.kind, &*row.text)).collect();
        let mut refusal = None;
        let mut all = Vec::with_capacity(texts.len());
        for result in audit.log_all(&texts) {
            all.push(match result {
                Ok(logged) => {
                    if !logged.proof.is_proven() {
                        refusal.get_or_insert(AccountError::Unproven);
                    }
                    let time = logged
                        .time
                        .and_then(LogTime::as_millisecond)
                        .and_then(|time| Timestamp::from_millisecond(time).ok());
                    (time, Logged { outcome: logged.proof.into(), serial: logged.serial })
                }
                Err(reason) => {
                    // In mode `required` it is the error.
                    if self.mode == AuditMode::Auto {
                        warn_once(&mut self.warned, &reason);
                    }
                    let how = crate::chain(&reason);
                    refusal.get_or_insert(AccountError::NotLogged(reason));
                    (None, Logged { outcome: AuditOutcome::NotLogged(how), serial: None })
                }
            });
        }
        (all, refusal)
    }
}

/// The rules of a filter as the ledger has them.
pub(crate) fn stored_rules(rules: &Rules) -> Result<String, AccountError> {
    serde_json::to_string(rules).map_err(AccountError::Rules)
}

fn this_process() -> Result<Process, AccountError> {
    let failed = |source| AccountError::Proc { what: "Start time of this process", source };
    let own = ProcessId::of(std::process::id()).map_err(failed)?;
    Ok(Process { pid: own.pid, start: own.start_time })
}

/// Refuses a guest whose QEMU runs already: without a supervisor, or with one in another run
/// directory.
fn orphan(ledger: &Ledger, guest: &GuestId, boot: &str) -> Result<(), AccountError> {
    let same = |other: &GuestId| other.name == guest.name || other.uuid == guest.uuid;
    for other in own_guests(ledger)?.into_iter().filter(|other| other.boot_id == boot) {
        let Some(qemu) = other.qemu.filter(|_| same(&other.id)) else { continue };
        let supervisor = process_id(other.supervisor);
        let uuid = (other.id.name != guest.name).then_some(guest.uuid);
        if supervisor.is_alive() {
            return Err(AccountError::Supervised { name: other.id.name.into(), uuid, pid: supervisor.pid });
        }
        if process_id(qemu).is_alive() {
            return Err(AccountError::Orphan { name: other.id.name.into(), uuid, pid: qemu.pid });
        }
    }
    Ok(())
}

fn with_uuid(uuid: &Option<Uuid>) -> String {
    uuid.map(|uuid| format!(" has uuid {uuid}, too, and")).unwrap_or_default()
}

/// Logs a reason once, instead of for each record.
fn warn_once(said: &mut BTreeSet<String>, reason: &dyn std::error::Error) {
    let text = crate::chain(reason);
    if !said.contains(&text) {
        warn!("{text}; the ledger has the records all the same");
        said.insert(text);
    }
}
