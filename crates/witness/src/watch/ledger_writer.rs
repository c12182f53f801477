//! Writes observations into the kernel's audit log, if that is wanted, and then into the ledger, in
//! one transaction.
//!
//! Changes that the ledger can't take now stay pending, in order, and go with the next commit. They
//! are not sent to the kernel again.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use taptrail_kernel::audit::{Audit, LogTime};
use taptrail_kernel::proc::{ProcessId, boot_id};
use taptrail_ledger::{
    AuditOutcome, Checkpoint, DeviceKey, GuestKey, Ledger, Logged, PendingRecord, Process, RecordKey,
};
use taptrail_record::{GuestId, Notice, Reason, Record};
use taptrail_trail::{Content, Entry, Finding};
use tracing::warn;

use super::WatchError;
use super::change::{DeviceEffect, LedgerChange, LedgerKeys, OwnRecord, TxApplier};
use super::guest::GuestInstanceId;
use super::observe::LinkId;

/// The program in the text of a copied record, which does not keep the original.
const UNKNOWN: &str = "?";

/// The lock file of a watcher, in the state directory.
const LOCK: &str = "watch.lock";

#[derive(Debug)]
pub(super) struct LedgerWriter {
    pub(super) ledger: Ledger,
    /// Locked while this watcher lives.
    _lock: File,
    audit: Option<Audit>,
    exe: PathBuf,
    boot: String,
    own: Process,
    host: Arc<str>,
    source: Arc<str>,
    keys: LedgerKeys,
    pending: Vec<(GuestInstanceId, LedgerChange)>,
    checkpoint: Option<Checkpoint>,
    /// The reasons for which the kernel's audit refused records. Each is logged once.
    warned: HashSet<String>,
}

impl LedgerWriter {
    pub(super) fn open(state: &Path, host: Arc<str>, emit: bool) -> Result<Self, WatchError> {
        let proc = |what| move |source| WatchError::Proc { what, source };
        let own = ProcessId::of(std::process::id()).map_err(proc("Start time of this process"))?;
        let ledger = Ledger::open(state)?;
        let lock = lock(&state.join(LOCK))?;
        let checkpoint = ledger.checkpoint()?;
        Ok(Self {
            ledger,
            _lock: lock,
            audit: emit.then(Audit::open).transpose()?,
            exe: std::env::current_exe().map_err(proc("Path of this program"))?,
            boot: boot_id().map_err(proc("Boot id"))?.to_string(),
            own: Process { pid: own.pid, start: own.start_time },
            host,
            source: Ledger::file(state).display().to_string().into(),
            keys: LedgerKeys::default(),
            pending: Vec::new(),
            checkpoint,
            warned: HashSet::new(),
        })
    }

    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    pub(super) fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// The checkpoint of the last commit.
    pub(super) fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// Adopts an account that the ledger has.
    pub(super) fn adopt_guest(&mut self, instance: GuestInstanceId, key: GuestKey) {
        self.keys.guests.insert(instance, key);
        self.pending.push((instance, LedgerChange::Adopted));
    }

    pub(super) fn adopt_open(&mut self, instance: GuestInstanceId, number: u64, key: RecordKey) {
        self.keys.opened(instance, number, key);
    }

    pub(super) fn adopt_device(&mut self, number: u64, key: DeviceKey) {
        self.keys.devices.insert(number, key);
    }

    pub(super) fn begin_guest(&mut self, instance: GuestInstanceId, id: GuestId, begun: Timestamp) {
        self.pending.push((instance, LedgerChange::Begins { id, begun }));
    }

    pub(super) fn set_qemu(&mut self, instance: GuestInstanceId, process: ProcessId) {
        let process = Process { pid: process.pid, start: process.start_time };
        self.pending.push((instance, LedgerChange::Runs(process)));
    }

    /// Copies a record of the guest's manager from the log.
    pub(super) fn copy_record(
        &mut self,
        instance: GuestInstanceId,
        entry: &Entry,
        record: &Record,
        open: Option<u64>,
    ) {
        if let Some(row) = copied(entry, record) {
            self.pending.push((instance, LedgerChange::Copy { row, writer: entry.writer, open }));
        }
    }

    /// Copies a late stop record, for an account that has ended.
    pub(super) fn copy_late_record(&mut self, instance: GuestInstanceId, entry: &Entry, record: &Record) {
        if let Some(row) = copied(entry, record) {
            self.pending.push((instance, LedgerChange::CopyLate { row, writer: entry.writer }));
        }
    }

    pub(super) fn record_seen(
        &mut self,
        instance: GuestInstanceId,
        record: Record,
        number: u64,
        open: Option<u64>,
    ) {
        self.push_own(instance, record, DeviceEffect::Seen { number, open }, None);
    }

    /// Writes where the link behind a descriptor is.
    pub(super) fn record_link(&mut self, instance: GuestInstanceId, number: u64, link: LinkId) {
        if let Some(netns) = link.netns {
            self.pending.push((instance, LedgerChange::LinkFound { number, at: (netns, link.index) }));
        }
    }

    /// `at`: the time of the close, if the kernel reported it.
    pub(super) fn record_gone(
        &mut self,
        instance: GuestInstanceId,
        record: Record,
        number: u64,
        at: Option<Timestamp>,
    ) {
        self.push_own(instance, record, DeviceEffect::Gone { number }, at);
    }

    pub(super) fn record(&mut self, instance: GuestInstanceId, record: Record) {
        self.push_own(instance, record, DeviceEffect::None, None);
    }

    fn push_own(
        &mut self,
        instance: GuestInstanceId,
        record: Record,
        effect: DeviceEffect,
        at: Option<Timestamp>,
    ) {
        let Some(row) = row(&record, &self.exe, at.unwrap_or_else(Timestamp::now)) else { return };
        let own = OwnRecord { record, row, is_sent: false, effect };
        self.pending.push((instance, LedgerChange::Own(Box::new(own))));
    }

    /// All known descriptors of the guest were held at this time.
    pub(super) fn set_last_seen(&mut self, instance: GuestInstanceId, at: Timestamp) {
        self.pending.push((instance, LedgerChange::LastSeen(at)));
    }

    pub(super) fn end_guest(&mut self, instance: GuestInstanceId, reason: Reason) {
        self.pending.push((instance, LedgerChange::Ends(reason)));
    }

    /// Drops the keys of an account that has ended.
    pub(super) fn forget(&mut self, instance: GuestInstanceId) {
        self.keys.guests.remove(&instance);
        self.keys.opens.remove(&instance);
    }

    /// Writes all pending changes, and the checkpoint. Returns our own records as a reader of the
    /// ledger will get them.
    pub(super) fn commit(&mut self, checkpoint: Option<Checkpoint>) -> Result<Vec<Entry>, WatchError> {
        let checkpoint = checkpoint.filter(|checkpoint| Some(checkpoint) != self.checkpoint.as_ref());
        if self.pending.is_empty() && checkpoint.is_none() {
            return Ok(Vec::new());
        }
        self.log_own_records();
        let tx = self.ledger.begin()?;
        let mut written = TxApplier { keys: &self.keys, new: LedgerKeys::default(), rows: Vec::new() };
        for (at, (instance, change)) in self.pending.iter().enumerate() {
            written.apply(&tx, *instance, change, at, (&self.boot, self.own))?;
        }
        if let Some(checkpoint) = &checkpoint {
            tx.save_checkpoint(checkpoint)?;
        }
        let TxApplier { new, rows, .. } = written;
        tx.commit()?;
        self.keys.guests.extend(new.guests);
        for (instance, opens) in new.opens {
            opens.into_iter().for_each(|(number, key)| self.keys.opened(instance, number, key));
        }
        self.keys.devices.extend(new.devices);
        if checkpoint.is_some() {
            self.checkpoint = checkpoint;
        }
        Ok(self.take_committed(&rows))
    }

    /// Takes the committed changes, and returns our own records among them as entries.
    fn take_committed(&mut self, rows: &[(usize, RecordKey)]) -> Vec<Entry> {
        let mut rows = rows.iter().copied().peekable();
        let mut entries = Vec::new();
        for (at, (_, change)) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let key = rows.next_if(|(of, _)| *of == at).map(|(_, key)| key);
            if let LedgerChange::Own(own) = change {
                let OwnRecord { record, row, effect, .. } = *own;
                if let DeviceEffect::Gone { number } = effect {
                    self.keys.devices.remove(&number);
                }
                let line = key.map_or(0, RecordKey::row);
                let serial = row.logged.serial;
                let (host, source) = (Arc::clone(&self.host), Arc::clone(&self.source));
                let (writer, content) = (Some(self.own.pid), Content::Record(record));
                entries.push(Entry {
                    host,
                    time: row.time,
                    serial,
                    writer,
                    credentials: None,
                    source,
                    line,
                    content,
                    text: None,
                    copies: Vec::new(),
                    unauthenticated: false,
                });
            }
        }
        entries
    }

    /// Writes a finding about a guest to the kernel's audit log.
    pub(super) fn emit_finding(&mut self, finding: &Finding) {
        let (Some(audit), Some(guest)) = (&mut self.audit, &finding.guest) else { return };
        let (kind, device) = (finding.kind.as_str(), finding.device.as_ref());
        let notice = Notice { guest, mac: finding.mac, device, finding: kind };
        let text = notice.text(&self.exe).map_err(|error| error.to_string());
        let kernel =
            |text: String| audit.log(Notice::RECORD_TYPE.number(), &text).map_err(|why| why.to_string());
        if let Err(reason) = text.and_then(kernel) {
            warn_once(&mut self.warned, reason);
        }
    }

    /// Writes our own pending records to the kernel's audit log, each once.
    fn log_own_records(&mut self) {
        let Some(audit) = &mut self.audit else { return };
        let mut rows: Vec<&mut PendingRecord> = self
            .pending
            .iter_mut()
            .filter_map(|(_, change)| match change {
                LedgerChange::Own(own) if !own.is_sent => {
                    own.is_sent = true;
                    Some(&mut own.row)
                }
                _ => None,
            })
            .collect();
        let texts: Vec<(u16, &str)> = rows.iter().map(|row| (row.kind, &*row.text)).collect();
        let outcomes = audit.log_all(&texts);
        for (row, outcome) in rows.iter_mut().zip(outcomes) {
            row.logged = match outcome {
                Ok(logged) => {
                    row.time = logged
                        .time
                        .and_then(LogTime::as_millisecond)
                        .and_then(|time| Timestamp::from_millisecond(time).ok())
                        .unwrap_or(row.time);
                    Logged { outcome: logged.proof.into(), serial: logged.serial }
                }
                Err(reason) => {
                    let how = reason.to_string();
                    warn_once(&mut self.warned, how.clone());
                    Logged { outcome: AuditOutcome::NotLogged(how), serial: None }
                }
            };
        }
    }
}

/// The most reasons that are logged.
const MAX_WARNED_REASONS: usize = 64;

/// Logs a reason once: each record would repeat it.
fn warn_once(warned: &mut HashSet<String>, reason: String) {
    if warned.len() < MAX_WARNED_REASONS && !warned.contains(&reason) {
        warn!("{reason}: the kernel does not log the watcher's records; the ledger has them");
        warned.insert(reason);
    }
}

/// Locks the ledger against other watchers.
fn lock(path: &Path) -> Result<File, WatchError> {
    let failed = |source| WatchError::Lock { path: path.to_owned(), source };
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(WatchError::Taken { path: path.to_owned() }),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// A copy of a record from the log.
fn copied(entry: &Entry, record: &Record) -> Option<PendingRecord> {
    let logged = Logged { outcome: AuditOutcome::Copied, serial: entry.serial };
    Some(PendingRecord { logged, ..row(record, Path::new(UNKNOWN), entry.time)? })
}

/// A record's row; none if its text would be cut, which only a name of thousands of bytes causes.
fn row(record: &Record, exe: &Path, time: Timestamp) -> Option<PendingRecord> {
    PendingRecord::new(record, exe, time).inspect_err(|error| warn!("{error}; it is not kept")).ok()
}
