//! What is to last: into the kernel's audit, where that is asked for, and then into the ledger, in one transaction.
//!
//! What the ledger can't take now is kept, in order, and goes with the next commit; the kernel is not told again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use taptrail_kernel::audit::{Audit, LogTime, Proof};
use taptrail_kernel::proc::{ProcessId, boot_id};
use taptrail_ledger::{
    Checkpoint, DeviceKey, GuestKey, Ledger, LedgerError, Logged, NewDevice, NewRecord, NewWatched, Process,
    RecordKey, Tx,
};
use taptrail_record::{Descriptor, Event, GuestId, Notice, Reason, Record};
use taptrail_trail::{Content, Entry, Finding};
use tracing::warn;

use super::WatchError;

/// The program of a record that was copied: its text does not keep it.
const UNKNOWN: &str = "?";

/// The file in the state directory that a watcher locks.
const LOCK: &str = "watch.lock";

/// One life of a guest.
pub(super) type Slot = u64;

/// What changes in the ledger.
#[derive(Debug)]
enum Change {
    Begins {
        id: GuestId,
        begun: Timestamp,
    },
    Adopted,
    Runs(Process),
    Copy {
        row: Row,
        writer: Option<u32>,
        open: Option<u64>,
    },
    /// One that came after the account's end.
    Late {
        row: Row,
        writer: Option<u32>,
    },
    Own(Box<Own>),
    Seen(Timestamp),
    Ends(Reason),
}

/// A record of our own.
#[derive(Debug)]
struct Own {
    record: Record,
    row: Row,
    effect: Effect,
}

/// What a record of our own says of a device.
#[derive(Debug, Clone, Copy)]
enum Effect {
    None,
    Seen { number: u64, open: Option<u64> },
    Gone { number: u64 },
}

/// A record on its way into the ledger.
#[derive(Debug)]
struct Row {
    time: Timestamp,
    kind: u16,
    text: String,
    /// None as long as the kernel was not told.
    logged: Option<Logged>,
}

/// Rows of the ledger by our own numbers.
#[derive(Debug, Default)]
struct Keys {
    guests: HashMap<Slot, GuestKey>,
    /// Of each guest the records of its last opens, by their numbers.
    opens: HashMap<Slot, BTreeMap<u64, RecordKey>>,
    /// By the number of a descriptor.
    devices: HashMap<u64, DeviceKey>,
}

/// How many opens of one guest are remembered until their descriptors are seen.
const OPENS: usize = 256;

impl Keys {
    fn opened(&mut self, slot: Slot, number: u64, key: RecordKey) {
        let opens = self.opens.entry(slot).or_default();
        opens.insert(number, key);
        while opens.len() > OPENS {
            opens.pop_first();
        }
    }

    fn open(&self, slot: Slot, number: u64) -> Option<RecordKey> {
        self.opens.get(&slot)?.get(&number).copied()
    }
}

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
        self.say(slot, record, Effect::Seen { number, open });
    }

    pub(super) fn gone(&mut self, slot: Slot, record: Record, number: u64) {
        self.say(slot, record, Effect::Gone { number });
    }

    pub(super) fn says(&mut self, slot: Slot, record: Record) {
        self.say(slot, record, Effect::None);
    }

    fn say(&mut self, slot: Slot, record: Record, effect: Effect) {
        let Some(text) = text(&record, &self.exe) else { return };
        let row = Row { time: Timestamp::now(), kind: record.record_type().number(), text, logged: None };
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
                entries.push(Entry { host, time: row.time, serial, writer, source, line, content });
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
            warn!("{reason}: finding {kind} of guest '{}' is not in the kernel's audit", guest.name);
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
                    warn!("{reason}; the ledger has the record all the same");
                    Logged { how: reason.to_string(), serial: None }
                }
            });
        }
    }
}

/// One transaction, with the rows that it makes.
struct Writing<'a> {
    keys: &'a Keys,
    new: Keys,
    /// The row of each of our own records, by its place among the changes.
    rows: Vec<(usize, RecordKey)>,
}

impl Writing<'_> {
    fn apply(
        &mut self,
        tx: &Tx<'_>,
        slot: Slot,
        change: &Change,
        at: usize,
        (boot, own): (&str, Process),
    ) -> Result<(), LedgerError> {
        if let Change::Begins { id, begun } = change {
            let guest = NewWatched { id, boot_id: boot, watcher: own, begun: *begun };
            let key = tx.watched_begins(&guest)?;
            self.new.guests.insert(slot, key);
            return Ok(());
        }
        let Some(guest) = self.new.guests.get(&slot).or_else(|| self.keys.guests.get(&slot)).copied() else {
            return Ok(());
        };
        match change {
            Change::Begins { .. } => {}
            Change::Adopted => tx.guest_adopted(guest, own)?,
            Change::Runs(process) => tx.guest_runs(guest, *process)?,
            Change::Copy { row, writer, open } => {
                let key = tx.copy(guest, &row.new_record(), *writer)?;
                if let Some(open) = open {
                    self.new.opened(slot, *open, key);
                }
            }
            Change::Late { row, writer } => {
                // It may be forgotten by now.
                if tx.has_guest(guest)? {
                    tx.copy(guest, &row.new_record(), *writer)?;
                }
            }
            Change::Own(said) => {
                let key = tx.watched(guest, &said.row.new_record(), own.pid)?;
                self.rows.push((at, key));
                self.apply_effect(tx, (slot, guest), key, said)?;
            }
            Change::Seen(at) => tx.guest_seen(guest, *at)?,
            Change::Ends(reason) => tx.guest_ends(guest, reason.as_str())?,
        }
        Ok(())
    }

    fn apply_effect(
        &mut self,
        tx: &Tx<'_>,
        (slot, guest): (Slot, GuestKey),
        record: RecordKey,
        said: &Own,
    ) -> Result<(), LedgerError> {
        match said.effect {
            Effect::None => {}
            Effect::Seen { number, open } => {
                let Event::Seen(descriptor) = &said.record.event else { return Ok(()) };
                // Whose it is nobody knows: its record alone tells of it.
                let Some(mac) = descriptor.mac else { return Ok(()) };
                let Descriptor { device, queue, fd, .. } = descriptor;
                let open =
                    open.and_then(|open| self.new.open(slot, open).or_else(|| self.keys.open(slot, open)));
                let (path, dev) = (&*device.path, device.dev.as_deref());
                let queue = queue.unwrap_or(0);
                let new = NewDevice { mac, kind: device.kind, path, rdev: device.rdev, dev, queue };
                let key = tx.device_opened(guest, &new, open.unwrap_or(record))?;
                tx.device_granted(key, record, i32::try_from(*fd).ok())?;
                self.new.devices.insert(number, key);
            }
            Effect::Gone { number } => {
                let device = self.new.devices.get(&number).or_else(|| self.keys.devices.get(&number));
                if let Some(device) = device {
                    tx.device_closed(*device, record)?;
                }
            }
        }
        Ok(())
    }
}

impl Row {
    fn new_record(&self) -> NewRecord<'_> {
        let logged = self.logged.clone().unwrap_or(Logged { how: "off".to_owned(), serial: None });
        NewRecord { time: self.time, kind: self.kind, text: &self.text, logged }
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
