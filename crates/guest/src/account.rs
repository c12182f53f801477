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
//! record that the ledger holds is never taken back: a refusal after it is another record.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use taptrail_kernel::audit::{Audit, AuditError, LogTime, NotLogged, Proof};
use taptrail_kernel::device::{Books, OpenFacts};
use taptrail_kernel::proc::{ProcessId, boot_id};
use taptrail_ledger::{
    DeviceKey, GuestKey, Ledger, LedgerError, Logged, NewDevice, NewRecord, Process, RecordKey, Step,
    StepKey, Tx,
};
use taptrail_record::{Device, Event, GuestId, MacAddr, Outcome, Reason, Record, Requester, TooLong};
use tracing::warn;

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
    /// The host can't be described.
    #[error("{what} can't be read")]
    Proc {
        /// What.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl AccountError {
    /// Is the record in no book of ours?
    pub(crate) fn is_unwritten(&self) -> bool {
        !matches!(self, Self::NotLogged(_) | Self::Unproven)
    }
}

/// A device whose account is open: opened, not yet closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenDevice {
    pub(crate) key: DeviceKey,
    pub(crate) mac: MacAddr,
    pub(crate) device: Device,
    pub(crate) queue: u32,
    /// Its number in QEMU, once it was seen there.
    pub(crate) qemu_fd: Option<RawFd>,
}

impl OpenDevice {
    /// The event of its definitive end.
    pub(crate) fn close(&self) -> Event {
        Event::Close { mac: self.mac, device: self.device.clone(), queue: Some(self.queue) }
    }

    /// The event of its being kept by QEMU after a failed attach.
    pub(crate) fn keep(&self, vm_pid: u32) -> Event {
        let device = self.device.clone();
        Event::Keep { mac: self.mac, device, queue: Some(self.queue), vm_pid: Some(vm_pid) }
    }
}

/// The account of one guest.
#[derive(Debug)]
pub(crate) struct Account {
    ledger: Ledger,
    audit: Option<Audit>,
    mode: AuditMode,
    guest: GuestId,
    key: GuestKey,
    exe: PathBuf,
    complaints: BTreeSet<String>,
}

impl Account {
    /// Opens the guest's account in the ledger of `state`.
    pub(crate) fn begin(state: &Path, mode: AuditMode, guest: GuestId) -> Result<Self, AccountError> {
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
        let proc = |what| move |source| AccountError::Proc { what, source };
        let exe = std::env::current_exe().map_err(proc("Path of this program"))?;
        let boot = boot_id().map_err(proc("Boot id"))?;
        let own = ProcessId::of(std::process::id()).map_err(proc("Start time of this process"))?;
        let mut ledger = Ledger::open(state)?;
        let tx = ledger.begin()?;
        let key =
            tx.guest_begins(&guest, &boot.to_string(), Process { pid: own.pid, start: own.start_time })?;
        tx.commit()?;
        Ok(Self { ledger, audit, mode, guest, key, exe, complaints })
    }

    /// Whose account this is.
    pub(crate) fn guest(&self) -> &GuestId {
        &self.guest
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

    /// Posts records about the guest, with what they change in the ledger; `change` gets their
    /// rows in the same order.
    ///
    /// The first of the records that the kernel should have logged and did not makes an error in
    /// mode `required`; they are all in the ledger even so, and what they change has changed.
    pub(crate) fn post(
        &mut self,
        records: &[Record],
        change: impl FnOnce(&Tx<'_>, GuestKey, &[RecordKey]) -> Result<(), LedgerError>,
    ) -> Result<(), AccountError> {
        self.write(records, |tx, guest, keys, _| change(tx, guest, keys))
    }

    /// As [`post`](Self::post), for what can still be refused: without its records logged as they
    /// must be, nothing changes.
    pub(crate) fn post_or_refuse(
        &mut self,
        records: &[Record],
        change: impl FnOnce(&Tx<'_>, GuestKey, &[RecordKey]) -> Result<(), LedgerError>,
    ) -> Result<(), AccountError> {
        self.write(records, |tx, guest, keys, logged| if logged { change(tx, guest, keys) } else { Ok(()) })
    }

    fn write(
        &mut self,
        records: &[Record],
        change: impl FnOnce(&Tx<'_>, GuestKey, &[RecordKey], bool) -> Result<(), LedgerError>,
    ) -> Result<(), AccountError> {
        let mut texts = Vec::with_capacity(records.len());
        for record in records {
            texts.push((record.record_type().number(), record.text(&self.exe)?));
        }
        let (logged, refusal) = self.log(&texts);
        let refusal = refusal.filter(|_| self.mode == AuditMode::Required);
        let tx = self.ledger.begin()?;
        let mut keys = Vec::with_capacity(texts.len());
        for ((kind, text), (time, logged)) in texts.iter().zip(logged) {
            keys.push(tx.record(self.key, &NewRecord { time, kind: *kind, text, logged })?);
        }
        change(&tx, self.key, &keys, refusal.is_none())?;
        tx.commit()?;
        refusal.map_or(Ok(()), Err)
    }

    /// Notes in the ledger alone.
    pub(crate) fn note<T>(
        &mut self,
        change: impl FnOnce(&Tx<'_>, GuestKey) -> Result<T, LedgerError>,
    ) -> Result<T, AccountError> {
        let tx = self.ledger.begin()?;
        let noted = change(&tx, self.key)?;
        tx.commit()?;
        Ok(noted)
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

    /// A record of this guest.
    pub(crate) fn record(&self, event: Event, outcome: Outcome, requester: Option<Requester>) -> Record {
        Record { guest: self.guest.clone(), event, outcome, requester, errno: None }
    }

    /// Posts the definitive end of devices between the records `first` and `last`, with what else
    /// changes in the ledger; `change` gets the rows of all of them.
    pub(crate) fn close(
        &mut self,
        first: Vec<Record>,
        devices: &[OpenDevice],
        last: Vec<Record>,
        change: impl FnOnce(&Tx<'_>, GuestKey, &[RecordKey]) -> Result<(), LedgerError>,
    ) -> Result<(), AccountError> {
        let mut records = first;
        let before = records.len();
        records.extend(devices.iter().map(|device| self.record(device.close(), Outcome::Success, None)));
        records.extend(last);
        self.post(&records, |tx, guest, keys| {
            for (device, key) in devices.iter().zip(&keys[before..]) {
                tx.device_closed(device.key, *key)?;
            }
            change(tx, guest, keys)
        })
    }

    /// Tells the kernel alone of closes whose opens the ledger could not take.
    pub(crate) fn tell_kernel(&mut self, closes: Vec<Event>) {
        let records = closes.into_iter().map(|event| self.record(event, Outcome::Success, None));
        let texts: Vec<_> = records
            .filter_map(|record| Some((record.record_type().number(), record.text(&self.exe).ok()?)))
            .collect();
        self.log(&texts);
    }

    /// Posts the guest's end and closes its account.
    pub(crate) fn end(
        &mut self,
        devices: &[OpenDevice],
        last: Record,
        reason: &Reason,
        steps: &[StepKey],
    ) -> Result<(), AccountError> {
        self.close(Vec::new(), devices, vec![last], |tx, guest, _| {
            for step in steps {
                tx.done(*step, reason.as_str())?;
            }
            tx.guest_ends(guest, reason.as_str())
        })
    }

    /// Sends texts to the kernel; tells for each when and whether it was logged, and the first
    /// reason why one was not.
    fn log(&mut self, texts: &[(u16, String)]) -> (Vec<(Timestamp, Logged)>, Option<AccountError>) {
        let now = Timestamp::now();
        let Some(audit) = &mut self.audit else {
            let off = Logged { how: "off".to_owned(), serial: None };
            return (vec![(now, off); texts.len()], None);
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
                    let time = logged.time.and_then(kernel_time).unwrap_or(now);
                    (time, Logged { how: how.to_owned(), serial: logged.serial })
                }
                Err(reason) => {
                    complain(&mut self.complaints, &reason);
                    let how = crate::chain(&reason);
                    refusal.get_or_insert(AccountError::NotLogged(reason));
                    (now, Logged { how, serial: None })
                }
            });
        }
        (all, refusal)
    }
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

/// The books into which the opens of one interface are entered.
#[derive(Debug)]
pub(crate) struct Opens<'a> {
    pub(crate) account: &'a mut Account,
    pub(crate) mac: MacAddr,
    pub(crate) requester: Option<Requester>,
    /// What is on record as open, in the order of the opens, refused or not.
    pub(crate) open: Vec<OpenDevice>,
    /// The intent to hand them over, on record together with them.
    pub(crate) hand_over: Option<StepKey>,
    /// Open records that the kernel may have logged, but that are not in the ledger.
    pub(crate) unledgered: Vec<Event>,
}

impl<'a> Opens<'a> {
    pub(crate) fn new(account: &'a mut Account, mac: MacAddr, requester: Option<Requester>) -> Self {
        Self { account, mac, requester, open: Vec::new(), hand_over: None, unledgered: Vec::new() }
    }
}

impl Books for Opens<'_> {
    type Error = AccountError;

    fn enter(&mut self, opens: &[OpenFacts]) -> Result<(), AccountError> {
        let mac = self.mac;
        let described: Vec<_> = opens.iter().map(|facts| (device(facts), facts)).collect();
        let records: Vec<_> = described
            .iter()
            .map(|(device, facts)| {
                let queue = Some(facts.queue);
                let event = Event::Open { mac, device: device.clone(), queue };
                let outcome = if facts.outcome.is_ok() { Outcome::Success } else { Outcome::Failed };
                let mut record = self.account.record(event, outcome, self.requester);
                record.errno = facts.outcome.err().map(|errno| errno.raw_os_error());
                record
            })
            .collect();
        let mut entered = Vec::new();
        let mut hand_over = None;
        let posted = self.account.post(&records, |tx, guest, keys| {
            for ((device, facts), key) in described.iter().zip(keys) {
                if facts.outcome.is_ok() {
                    let new = NewDevice {
                        mac,
                        kind: device.kind,
                        path: &device.path,
                        rdev: device.rdev,
                        dev: device.dev.as_deref(),
                        queue: facts.queue,
                    };
                    let key = tx.device_opened(guest, &new, *key)?;
                    let device = device.clone();
                    entered.push(OpenDevice { key, mac, device, queue: facts.queue, qemu_fd: None });
                }
            }
            // In the same commit: each one costs a write to the disk.
            hand_over = Some(tx.intend(guest, Step::HandOver, Some(mac), "")?);
            Ok(())
        });
        match &posted {
            Err(error) if error.is_unwritten() => {
                let opened = described.into_iter().filter(|(_, facts)| facts.outcome.is_ok());
                self.unledgered = opened
                    .map(|(device, facts)| Event::Close { mac, device, queue: Some(facts.queue) })
                    .collect();
            }
            _ => {
                self.open = entered;
                self.hand_over = hand_over;
            }
        }
        posted
    }
}

fn device(facts: &OpenFacts) -> Device {
    Device {
        kind: facts.kind,
        path: facts.path.to_string_lossy().into_owned(),
        rdev: facts.rdev,
        dev: facts.dev.as_ref().map(ToString::to_string),
    }
}
