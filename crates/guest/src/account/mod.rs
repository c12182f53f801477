//! A guest's account: each record into the kernel's audit and into the ledger.
//!
//! ```text
//!            Record ──text──▶ kernel audit ──▶ logged, or why not
//!                                   │
//!                                   ▼
//!                 one transaction: the record, and what it changes
//! ```
//!
//! The kernel comes first, so that the ledger can say what the kernel did with the record. A
//! record that the ledger holds is never taken back: a refusal after it is another record. What
//! the kernel was told and the ledger could not take is owed to it, and is written before
//! anything else as soon as it can be.

mod findings;
mod live;
mod opens;
mod posting;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::audit::{Audit, AuditError, LogTime, NotLogged, Proof};
use taptrail_kernel::proc::{ProcessId, boot_id, network_namespace};
use taptrail_ledger::{
    GuestKey, InterfaceKey, Ledger, LedgerError, Logged, MovedKeys, NewGuest, Process, Step, StepKey, Tx,
};
use taptrail_record::{Event, GuestId, MacAddr, Outcome, Record, RecordType, Requester, TooLong, parse_text};
use tracing::warn;
use uuid::Uuid;

use crate::events::{Events, What};
use crate::process::process_id;

use findings::Findings;
pub(crate) use live::{Live, ledger_if_any, live_guests, own_guests};
pub(crate) use opens::{OpenDevice, Opens};
pub(crate) use posting::Posting;
use posting::{Change, Row, Written};

/// How long a guest's end waits for a ledger that can't be written.
const LAST_PATIENCE: Duration = Duration::from_secs(20);

/// How much the kernel's audit is asked for. The ledger is written always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditMode {
    /// Nothing is handed over whose records the kernel can't be shown to have logged.
    Required,
    /// The kernel logs when it can; when not, that is said once for each cause.
    #[default]
    Auto,
    /// The kernel is not asked.
    Off,
}

/// A record could not be made to last.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The ledger refused.
    #[error("Record is not in the ledger")]
    Ledger(#[from] LedgerError),
    /// The kernel's audit is needed and did not log.
    #[error("Audit is required, but the kernel did not log the record")]
    NotLogged(#[source] NotLogged),
    /// The kernel's audit is needed and can't be reached.
    #[error("Audit is required, but the kernel's audit can't be used")]
    NoAudit(#[source] AuditError),
    /// The kernel took the record, but nothing shows that it logged it.
    #[error(
        "Audit is required, but whether the kernel logged the record can't be seen: CAP_AUDIT_READ or CAP_AUDIT_CONTROL is needed"
    )]
    Unproven,
    /// The guest's name makes a record too long.
    #[error("Record can't be written")]
    TooLong(#[from] TooLong),
    /// A guest of this name or uuid has lost its supervisor and runs on.
    #[error("Guest '{name}'{} runs on without a supervisor, as pid {pid}: `taptrail adopt` gives it one", with_uuid(.uuid))]
    Orphan {
        /// The guest.
        name: String,
        /// Its uuid, where that is what it has in common with the one that was asked for.
        uuid: Option<Uuid>,
        /// Its QEMU's.
        pid: u32,
    },
    /// A guest of this uuid is there, or one of this name in another run directory.
    #[error("Guest '{name}'{} is already running: its supervisor has pid {pid}", with_uuid(.uuid))]
    Supervised {
        /// The guest.
        name: String,
        /// Its uuid, where that is what it has in common with the one that was asked for.
        uuid: Option<Uuid>,
        /// Its supervisor's.
        pid: u32,
    },
    /// The host can't be described.
    #[error("{what} can't be read")]
    Proc {
        /// What.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// The account of one guest.
#[derive(Debug)]
pub(crate) struct Account {
    ledger: Ledger,
    /// Where the ledger lies.
    state: PathBuf,
    /// Where the account was carried over to, when its ledger was replaced, the oldest first.
    moves: Vec<MovedKeys>,
    audit: Option<Audit>,
    mode: AuditMode,
    guest: GuestId,
    key: GuestKey,
    exe: PathBuf,
    complaints: BTreeSet<String>,
    /// The latest time that one of this supervisor's records has.
    latest: Timestamp,
    /// What the kernel was told and the ledger could not take, in order.
    owed: Vec<Written>,
    /// Where each record is told, once the ledger has it.
    events: Option<Events>,
    /// What these records bring to light.
    findings: Findings,
}

impl Account {
    /// Opens a new guest's account in the ledger of `state`. `paused`: it is not to be let run.
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

    /// Opens the account of a guest that has lost its supervisor; it stays on record as that one's.
    pub(crate) fn take_up(
        state: &Path,
        mode: AuditMode,
        guest: &taptrail_ledger::Guest,
    ) -> Result<Self, AccountError> {
        let mut account = Self::open(state, mode, guest.id.clone(), |_, _| Ok(guest.key))?;
        let Self { ledger, findings, .. } = &mut account;
        ledger.each_record(guest.key, |stored| {
            if let Ok(Some(record)) = parse_text(RecordType(stored.kind), stored.text.as_bytes()) {
                // What it brought to light was told by the one before us.
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
        let mut complaints = BTreeSet::new();
        let audit = match (mode, Audit::open()) {
            (AuditMode::Off, _) => None,
            (_, Ok(audit)) => Some(audit),
            (AuditMode::Required, Err(error)) => return Err(AccountError::NoAudit(error)),
            (AuditMode::Auto, Err(error)) => {
                complain(&mut complaints, &error);
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
            complaints,
            latest: Timestamp::UNIX_EPOCH,
            owed: Vec::new(),
            events: None,
            findings: Findings::new(),
        })
    }

    /// Each record is told there from now on, once the ledger has it.
    pub(crate) fn tell_to(&mut self, events: &Events) {
        self.events = Some(events.clone());
    }

    /// Whose account this is.
    pub(crate) fn guest(&self) -> &GuestId {
        &self.guest
    }

    /// Whether another guest than this one has an open account in the ledger.
    pub(crate) fn is_on_record(&self, guest: Uuid) -> Result<bool, AccountError> {
        Ok(guest != self.guest.uuid && own_guests(&self.ledger)?.iter().any(|other| other.id.uuid == guest))
    }

    /// Refuses, in mode `required`, while the kernel would not log: asked before anything is opened.
    pub(crate) fn ready(&mut self) -> Result<(), AccountError> {
        match (self.mode, &mut self.audit) {
            (AuditMode::Required, Some(audit)) => match audit.status() {
                Ok(status) if !status.enabled => Err(AccountError::NotLogged(NotLogged::Disabled)),
                Ok(status) if status.daemon.is_none() => {
                    let text = "No audit daemon takes the kernel's records: they go to its message log alone, which keeps them for a while at best";
                    if self.complaints.insert(text.to_owned()) {
                        warn!("{text}");
                    }
                    Ok(())
                }
                // Who may not ask for the status may still read its own records back.
                Ok(_) | Err(AuditError::StatusRefused) => Ok(()),
                Err(error) => Err(AccountError::NoAudit(error)),
            },
            _ => Ok(()),
        }
    }

    /// Posts records about the guest, with what they change in the ledger.
    ///
    /// The first of the records that the kernel should have logged and did not makes an error in
    /// mode `required`; they are all in the ledger even so, and what they change has changed. What
    /// the ledger can't take now is an error, too, and is owed to it.
    pub(crate) fn post(&mut self, posting: Posting) -> Result<(), AccountError> {
        let (written, refusal) = self.send(posting)?;
        self.commit(written)?;
        refusal.map_or(Ok(()), Err)
    }

    /// As [`post`](Self::post), for what can still be refused: without its records logged and in
    /// the ledger as they must be, nothing changes.
    pub(crate) fn post_or_refuse(&mut self, posting: Posting) -> Result<(), AccountError> {
        let (written, refusal) = self.send(posting)?;
        match refusal {
            Some(refusal) => {
                self.commit(written.without_changes())?;
                Err(refusal)
            }
            None => match self.transact(|tx, guest, moves| written.apply(tx, guest, moves)) {
                Ok(()) => {
                    self.tell(&written);
                    Ok(())
                }
                Err(error) => {
                    self.owe(written.without_changes(), &error);
                    Err(error.into())
                }
            },
        }
    }

    /// Posts the guest's end, and has patience with the ledger: there is no later occasion.
    pub(crate) fn end(&mut self, posting: Posting) -> Result<(), AccountError> {
        let deadline = Instant::now() + LAST_PATIENCE;
        let mut posted = self.post(posting);
        if let Err(AccountError::Ledger(LedgerError::Removed { .. })) = &posted {
            // Nothing is given any more, and what is on record has to be somewhere.
            Ledger::open(&self.state)?;
            posted = self.note(|_, _| Ok(()));
        }
        while let Err(AccountError::Ledger(error)) = &posted
            && !self.owed.is_empty()
            && Instant::now() < deadline
        {
            warn!("{}; trying again", crate::chain(error));
            std::thread::sleep(Duration::from_secs(1));
            posted = self.note(|_, _| Ok(()));
        }
        posted
    }

    /// Sends a posting's records to the kernel. Tells what there is to write of them, and why it is
    /// refused, if it is.
    fn send(&mut self, posting: Posting) -> Result<(Written, Option<AccountError>), AccountError> {
        let mut texts = Vec::with_capacity(posting.records.len());
        for (record, _) in &posting.records {
            texts.push((record.record_type().number(), record.text(&self.exe)?));
        }
        let (logged, refusal) = self.log(&texts);
        let refusal = refusal.filter(|_| self.mode == AuditMode::Required);
        let now = Timestamp::now();
        let mut rows = Vec::with_capacity(texts.len());
        for (((kind, text), (logged_at, logged)), (record, change)) in
            texts.into_iter().zip(logged).zip(posting.records)
        {
            // Records have the times of the kernel's audit, where it took them. No time is before one on record.
            let seen_at = change.as_ref().and_then(Change::seen_at).map(|at| at.max(self.latest));
            let time = logged_at.or(seen_at).unwrap_or(now);
            self.latest = self.latest.max(time);
            rows.push((Row { record, kind, text, time, logged }, change));
        }
        Ok((Written { rows, done: posting.done, over: posting.over, ends: posting.ends }, refusal))
    }

    fn commit(&mut self, written: Written) -> Result<(), AccountError> {
        match self.transact(|tx, guest, moves| written.apply(tx, guest, moves)) {
            Ok(()) => {
                self.tell(&written);
                Ok(())
            }
            Err(error) => {
                self.owe(written, &error);
                Err(error.into())
            }
        }
    }

    /// Tells who listens what the ledger has now, and what that brings to light.
    fn tell(&mut self, written: &Written) {
        for (row, _) in &written.rows {
            let findings = self.findings.of(row.time, &row.record);
            let Some(events) = &self.events else { continue };
            events.tell(row.time, What::Recorded(Box::new(row.record.clone())));
            for finding in findings {
                events.tell(finding.time, What::Found(Box::new(finding)));
            }
        }
    }

    /// Keeps for later what the ledger could not take now. What it would never take is not kept.
    fn owe(&mut self, written: Written, error: &LedgerError) {
        if matches!(
            error,
            LedgerError::Write { .. } | LedgerError::Removed { .. } | LedgerError::Replaced { .. }
        ) {
            self.owed.push(written);
        }
    }

    /// One transaction of the ledger, with what is owed to it first.
    fn transact<T>(
        &mut self,
        change: impl FnOnce(&Tx<'_>, GuestKey, &[MovedKeys]) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.follow_ledger()?;
        let tx = self.ledger.begin()?;
        for written in &self.owed {
            written.apply(&tx, self.key, &self.moves)?;
        }
        let changed = change(&tx, self.key, &self.moves)?;
        tx.commit()?;
        for written in std::mem::take(&mut self.owed) {
            self.tell(&written);
        }
        Ok(changed)
    }

    /// Carries the account over into the ledger that stands at the path now, if that is another one. Where none stands
    /// there, the account is kept for one.
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

    /// The other guests of the host whose accounts are open.
    pub(crate) fn others(&self) -> Result<Vec<taptrail_ledger::Guest>, AccountError> {
        let mut guests = live::own_guests(&self.ledger)?;
        guests.retain(|guest| guest.key != self.key);
        Ok(guests)
    }

    /// Notes in the ledger alone.
    pub(crate) fn note<T>(
        &mut self,
        change: impl FnOnce(&Tx<'_>, GuestKey) -> Result<T, LedgerError>,
    ) -> Result<T, AccountError> {
        Ok(self.transact(|tx, guest, _| change(tx, guest))?)
    }

    /// Notes that a step is about to be done.
    pub(crate) fn intend(
        &mut self,
        step: Step,
        mac: Option<MacAddr>,
        detail: &str,
    ) -> Result<StepKey, AccountError> {
        self.note(|tx, guest| tx.intend(guest, step, mac, detail))
    }

    /// Notes that an interface's devices are about to be opened, its link made and its filter set.
    pub(crate) fn begin_interface(
        &mut self,
        mac: MacAddr,
        nic: &str,
        spec: &str,
    ) -> Result<(StepKey, InterfaceKey), AccountError> {
        self.note(|tx, guest| {
            let interface = tx.interface_begins(guest, mac, nic, spec)?;
            Ok((tx.intend(guest, Step::Open, Some(mac), spec)?, interface))
        })
    }

    /// This process is the guest's supervisor from now on.
    pub(crate) fn adopt(&mut self) -> Result<(), AccountError> {
        let supervisor = this_process()?;
        self.note(|tx, guest| tx.guest_adopted(guest, supervisor))
    }

    /// A record of this guest.
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

    /// Sends texts to the kernel; tells for each when and whether it was logged, and the first
    /// reason why one was not.
    fn log(&mut self, texts: &[(u16, String)]) -> (Vec<(Option<Timestamp>, Logged)>, Option<AccountError>) {
        let Some(audit) = &mut self.audit else {
            let off = Logged { how: "off".to_owned(), serial: None };
            return (vec![(None, off); texts.len()], None);
        };
        let mut refusal = None;
        let mut all = Vec::with_capacity(texts.len());
        for result in audit.log_all(texts) {
            all.push(match result {
                Ok(logged) => {
                    if !logged.proof.is_proven() {
                        refusal.get_or_insert(AccountError::Unproven);
                    }
                    let how = match logged.proof {
                        Proof::ReadBack => "read-back",
                        Proof::Counters => "counters",
                        Proof::AckOnly => "ack",
                    };
                    let time = logged.time.and_then(kernel_time);
                    (time, Logged { how: how.to_owned(), serial: logged.serial })
                }
                Err(reason) => {
                    complain(&mut self.complaints, &reason);
                    let how = crate::chain(&reason);
                    refusal.get_or_insert(AccountError::NotLogged(reason));
                    (None, Logged { how, serial: None })
                }
            });
        }
        (all, refusal)
    }
}

fn this_process() -> Result<Process, AccountError> {
    let failed = |source| AccountError::Proc { what: "Start time of this process", source };
    let own = ProcessId::of(std::process::id()).map_err(failed)?;
    Ok(Process { pid: own.pid, start: own.start_time })
}

/// Refuses a guest whose QEMU is there already: from a supervisor that ended before it, or with one
/// that is elsewhere.
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

/// The kernel's own time of a record, as it stands in the log.
fn kernel_time(time: LogTime) -> Option<Timestamp> {
    let seconds = i64::try_from(time.seconds).ok()?;
    Timestamp::from_millisecond(seconds.checked_mul(1000)?.checked_add(i64::from(time.millis))?).ok()
}

/// Says a reason once: each record would repeat it.
fn complain(said: &mut BTreeSet<String>, reason: &dyn std::error::Error) {
    let text = crate::chain(reason);
    if !said.contains(&text) {
        warn!("{text}; the ledger has the records all the same");
        said.insert(text);
    }
}
