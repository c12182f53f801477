//! What is to last: into the kernel's audit, where that is asked for, and then into the ledger, in one transaction.
//!
//! What the ledger can't take now is kept, in order, and goes with the next commit; the kernel is not told again.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use taptrail_kernel::audit::{Audit, LogTime, Proof};
use taptrail_kernel::proc::{ProcessId, boot_id};
use taptrail_ledger::{Checkpoint, DeviceKey, GuestKey, Ledger, Logged, Process, RecordKey};
use taptrail_record::{GuestId, Notice, Reason, Record};
use taptrail_trail::{Content, Entry, Finding};
use tracing::warn;

use super::WatchError;
use super::change::{Change, Effect, Keys, Own, Row, Writing};
use super::sight::Place;

/// The program of a record that was copied: its text does not keep it.
const UNKNOWN: &str = "?";

/// The file in the state directory that a watcher locks.
const LOCK: &str = "watch.lock";

/// One life of a guest.
pub(super) type Slot = u64;

#[derive(Debug)]
pub(super) struct Books {
    pub(super) ledger: Ledger,
    /// Locked as long as we watch.
    _lock: File,
    audit: Option<Audit>,
    exe: PathBuf,
    boot: String,
    own: Process,
    host: Arc<str>,
    source: Arc<str>,
    keys: Keys,
    pending: Vec<(Slot, Change)>,
    checkpoint: Option<Checkpoint>,
    /// Why the kernel's audit did not take something, each reason once.
    complaints: HashSet<String>,
}

impl Books {
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
            keys: Keys::default(),
            pending: Vec::new(),
            checkpoint,
            complaints: HashSet::new(),
        })
    }

    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    pub(super) fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// Up to where the log was followed when the ledger was last written.
    pub(super) fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// An account that the ledger has already.
    pub(super) fn recall(&mut self, slot: Slot, key: GuestKey) {
        self.keys.guests.insert(slot, key);
        self.pending.push((slot, Change::Adopted));
    }

    pub(super) fn recall_open(&mut self, slot: Slot, number: u64, key: RecordKey) {
        self.keys.opened(slot, number, key);
    }

    pub(super) fn recall_device(&mut self, number: u64, key: DeviceKey) {
        self.keys.devices.insert(number, key);
    }

    pub(super) fn begins(&mut self, slot: Slot, id: GuestId, begun: Timestamp) {
        self.pending.push((slot, Change::Begins { id, begun }));
    }

    pub(super) fn runs(&mut self, slot: Slot, process: ProcessId) {
        let process = Process { pid: process.pid, start: process.start_time };
        self.pending.push((slot, Change::Runs(process)));
    }

    /// A record of the guest's manager, as the log has it.
    pub(super) fn copy(&mut self, slot: Slot, entry: &Entry, record: &Record, open: Option<u64>) {
        if let Some(row) = copied(entry, record) {
            self.pending.push((slot, Change::Copy { row, writer: entry.writer, open }));
        }
    }

    /// The last word of the guest's manager, of an account that has ended.
    pub(super) fn copy_late(&mut self, slot: Slot, entry: &Entry, record: &Record) {
        if let Some(row) = copied(entry, record) {
            self.pending.push((slot, Change::Late { row, writer: entry.writer }));
        }
    }

    pub(super) fn seen(&mut self, slot: Slot, record: Record, number: u64, open: Option<u64>) {
        self.say(slot, record, Effect::Seen { number, open }, None);
    }

    /// The interface behind a descriptor was seen there.
    pub(super) fn placed(&mut self, slot: Slot, number: u64, link: Place) {
        if let Some(netns) = link.netns {
            self.pending.push((slot, Change::Placed { number, at: (netns, link.index) }));
        }
    }

    /// `at`: when, where the kernel told.
    pub(super) fn gone(&mut self, slot: Slot, record: Record, number: u64, at: Option<Timestamp>) {
        self.say(slot, record, Effect::Gone { number }, at);
    }

    pub(super) fn says(&mut self, slot: Slot, record: Record) {
        self.say(slot, record, Effect::None, None);
    }

    fn say(&mut self, slot: Slot, record: Record, effect: Effect, at: Option<Timestamp>) {
        let Some(text) = text(&record, &self.exe) else { return };
        let time = at.unwrap_or_else(Timestamp::now);
        let row = Row { time, kind: record.record_type().number(), text, logged: None };
        self.pending.push((slot, Change::Own(Box::new(Own { record, row, effect }))));
    }

    /// All that is known to be held was there at this time.
    pub(super) fn looked(&mut self, slot: Slot, at: Timestamp) {
        self.pending.push((slot, Change::Seen(at)));
    }

    pub(super) fn ends(&mut self, slot: Slot, reason: Reason) {
        self.pending.push((slot, Change::Ends(reason)));
    }

    /// Forgets an account that has ended.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.keys.guests.remove(&slot);
        self.keys.opens.remove(&slot);
    }

    /// Writes all that is pending, and up to where the log is followed. Returns our own records as a reader of the
    /// ledger will have them.
    pub(super) fn commit(&mut self, checkpoint: Option<Checkpoint>) -> Result<Vec<Entry>, WatchError> {
        let checkpoint = checkpoint.filter(|checkpoint| Some(checkpoint) != self.checkpoint.as_ref());
        if self.pending.is_empty() && checkpoint.is_none() {
            return Ok(Vec::new());
        }
        self.log();
        let tx = self.ledger.begin()?;
        let mut written = Writing { keys: &self.keys, new: Keys::default(), rows: Vec::new() };
        for (at, (slot, change)) in self.pending.iter().enumerate() {
            written.apply(&tx, *slot, change, at, (&self.boot, self.own))?;
        }
        if let Some(checkpoint) = &checkpoint {
            tx.follow(checkpoint)?;
        }
        let Writing { new, rows, .. } = written;
        tx.commit()?;
        self.keys.guests.extend(new.guests);
        for (slot, opens) in new.opens {
            opens.into_iter().for_each(|(number, key)| self.keys.opened(slot, number, key));
        }
        self.keys.devices.extend(new.devices);
        if checkpoint.is_some() {
            self.checkpoint = checkpoint;
        }
        Ok(self.told(&rows))
    }

    /// What was written, as entries; nothing is pending any more.
    fn told(&mut self, rows: &[(usize, RecordKey)]) -> Vec<Entry> {
        let mut rows = rows.iter().copied().peekable();
        let mut entries = Vec::new();
        for (at, (_, change)) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let key = rows.next_if(|(of, _)| *of == at).map(|(_, key)| key);
            if let Change::Own(own) = change {
                let Own { record, row, effect } = *own;
                if let Effect::Gone { number } = effect {
                    self.keys.devices.remove(&number);
                }
                let line = key.map_or(0, RecordKey::row);
                let serial = row.logged.and_then(|logged| logged.serial);
                let (host, source) = (Arc::clone(&self.host), Arc::clone(&self.source));
                let (writer, content) = (Some(self.own.pid), Content::Record(record));
                entries.push(Entry {
                    host,
                    time: row.time,
                    serial,
                    writer,
                    source,
                    line,
                    content,
                    copies: Vec::new(),
                    unauthenticated: false,
                });
            }
        }
        entries
    }

    /// Tells the kernel's audit of a finding about a guest.
    pub(super) fn notify(&mut self, finding: &Finding) {
        let (Some(audit), Some(guest)) = (&mut self.audit, &finding.guest) else { return };
        let (kind, device) = (finding.kind.as_str(), finding.device.as_ref());
        let notice = Notice { guest, mac: finding.mac, device, finding: kind };
        let text = notice.text(&self.exe).map_err(|error| error.to_string());
        let kernel =
            |text: String| audit.log(Notice::RECORD_TYPE.number(), &text).map_err(|why| why.to_string());
        if let Err(reason) = text.and_then(kernel) {
            complain(&mut self.complaints, reason);
        }
    }

    /// Tells the kernel's audit of our own records, each once.
    fn log(&mut self) {
        let mut rows: Vec<&mut Row> = self
            .pending
            .iter_mut()
            .filter_map(|(_, change)| match change {
                Change::Own(own) if own.row.logged.is_none() => Some(&mut own.row),
                _ => None,
            })
            .collect();
        let Some(audit) = &mut self.audit else {
            for row in rows {
                row.logged = Some(Logged { how: "off".to_owned(), serial: None });
            }
            return;
        };
        let texts: Vec<(u16, &str)> = rows.iter().map(|row| (row.kind, &*row.text)).collect();
        let outcomes = audit.log_all(&texts);
        for (row, outcome) in rows.iter_mut().zip(outcomes) {
            row.logged = Some(match outcome {
                Ok(logged) => {
                    let how = match logged.proof {
                        Proof::ReadBack => "read-back",
                        Proof::Counters => "counters",
                        Proof::AckOnly => "ack",
                    };
                    row.time = logged.time.and_then(kernel_time).unwrap_or(row.time);
                    Logged { how: how.to_owned(), serial: logged.serial }
                }
                Err(reason) => {
                    let how = reason.to_string();
                    complain(&mut self.complaints, how.clone());
                    Logged { how, serial: None }
                }
            });
        }
    }
}

/// How many reasons are remembered.
const COMPLAINTS: usize = 64;

/// Says a reason once: each record would repeat it.
fn complain(said: &mut HashSet<String>, reason: String) {
    if said.len() < COMPLAINTS && !said.contains(&reason) {
        warn!("{reason}: the kernel's audit lacks what is seen or found; the ledger has it all the same");
        said.insert(reason);
    }
}

/// Makes sure that nobody else watches by this ledger.
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

/// A record as the log has it.
fn copied(entry: &Entry, record: &Record) -> Option<Row> {
    let text = text(record, Path::new(UNKNOWN))?;
    let logged = Some(Logged { how: "copied".to_owned(), serial: entry.serial });
    Some(Row { time: entry.time, kind: record.record_type().number(), text, logged })
}

/// A record's text. What would be cut is not written: only a name of thousands of bytes makes it so long.
fn text(record: &Record, exe: &Path) -> Option<String> {
    record.text(exe).inspect_err(|error| warn!("{error}; it is not kept")).ok()
}

fn kernel_time(time: LogTime) -> Option<Timestamp> {
    let seconds = i64::try_from(time.seconds).ok()?;
    Timestamp::from_millisecond(seconds.checked_mul(1000)?.checked_add(i64::from(time.millis))?).ok()
}
