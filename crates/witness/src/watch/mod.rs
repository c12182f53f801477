//! The guests of another manager, watched: what its records tell is held against what their QEMUs hold, as it happens.
//!
//! ```text
//!   log ──take──▶ trail ──────────────────────────────▶ findings, releases ─┐
//!            └──▶ guest: interfaces told ─┐                                 ├─commit─▶ happenings
//!   /proc/PID/fd, pidfd ──look────────────┴▶ seen, close, gone ─▶ audit, ledger ┘
//! ```
//!
//! [`Watcher`] is driven from outside: it has no thread, waits for nothing and follows no log. Who drives it
//! takes what the log has, looks, and commits, and does so again when the log grows, when a descriptor of
//! [`awaited`](Watcher::awaited) is readable, and at [`next_look`](Watcher::next_look):
//!
//! ```no_run
//! # fn new_entries() -> Vec<taptrail_trail::Entry> { Vec::new() }
//! use taptrail_witness::watch::{WatchOptions, Watcher};
//!
//! let mut watcher = Watcher::open("/var/lib/taptrail".as_ref(), WatchOptions::of_host("h1"))?;
//! loop {
//!     new_entries().iter().for_each(|entry| watcher.take(entry));
//!     watcher.look();
//!     for happening in watcher.commit(Some("up to here"))? {
//!         eprintln!("{happening:?}");
//!     }
//! #   break;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A guest's manager tells by its records which devices were opened for which interface, and when QEMU has them. The
//! watcher then looks into QEMU, which a pidfd names for good, and binds each record to the descriptors that are
//! there. When it is told that they are given up, or QEMU ends, it sees that they are gone, and writes so. What is
//! there and should not be is seen and written, too, when it has stayed for longer than such things take. What
//! changes with no record at all is found by looking now and then.
//!
//! Guests of taptrail's own are left to their supervisors, whose records are definitive: of them it is only told what
//! happens.

mod bind;
mod books;
mod bridges;
mod change;
mod closes;
mod command_line;
mod error;
mod find;
mod guest;
mod happening;
mod held_back;
mod known;
mod look;
mod plugs;
#[cfg(test)]
mod properties;
mod recall;
mod release;
mod sight;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use taptrail_bpf::LastCloses;
use taptrail_ledger::Checkpoint;
use taptrail_trail::{Content, Entry, Holding, State, Trail};
use uuid::Uuid;

use self::books::{Books, Slot};
use self::guest::{Guest, Now, Qemu};
use self::held_back::HeldBack;
use self::release::{Evidence, Namespaces};
use crate::scan::{Scanner, Sources};

pub use error::WatchError;
pub use happening::{GuestState, Happening, What};

/// How many guests are watched at most. A host has not as many.
const GUESTS: usize = 16_384;
/// How many that have ended are remembered, for their manager's last word.
const ENDED: usize = 1024;
/// How much later than it is due a look may come.
const SLACK: Duration = Duration::from_secs(2);
/// How often the ledger is told up to when guests were looked at.
const NOTED: SignedDuration = SignedDuration::from_mins(10);

/// How to watch.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// This host, as the log's entries name it: those of others are passed over.
    pub host: Arc<str>,
    /// Whether what is seen and found goes into the kernel's audit, too.
    pub emit_audit: bool,
    /// Where libvirt keeps the state of running guests.
    pub libvirt: PathBuf,
    /// How long what is told may take to come true before that is a finding.
    pub patience: Duration,
    /// How often a guest is looked at of which nothing is told.
    pub every: Duration,
}

impl WatchOptions {
    /// Those of a host: libvirt where it is by default, 5 s of patience, a look every 30 s, no audit.
    pub fn of_host(host: impl Into<Arc<str>>) -> Self {
        Self {
            host: host.into(),
            emit_audit: false,
            libvirt: PathBuf::from(crate::scan::LIBVIRT),
            patience: Duration::from_secs(5),
            every: Duration::from_secs(30),
        }
    }
}

/// Watches the guests of this host. See the [module](self).
#[derive(Debug)]
pub struct Watcher {
    options: WatchOptions,
    state: PathBuf,
    books: Books,
    trail: Trail,
    scanner: Scanner,
    guests: BTreeMap<Slot, Guest>,
    /// The lives of each guest, oldest first: two while it migrates from one daemon of this host to
    /// another.
    current: HashMap<Uuid, Vec<Slot>>,
    /// The guests that have a supervisor of ours, as far as they are told of.
    ours: HashSet<Uuid>,
    /// Lives that have ended.
    ended: VecDeque<EndedLife>,
    /// Their QEMUs.
    pids: HashMap<u32, Slot>,
    happened: Vec<Happening>,
    /// Findings that wait for a look into QEMU.
    held_back: Vec<HeldBack>,
    /// When to look at the bridges of guests' taps.
    bridges_due: Instant,
    /// The time and serial of the last entry taken.
    last: Option<(Timestamp, Option<u32>)>,
    /// When we last looked.
    awake: Timestamp,
    /// When the ledger was last told that guests were looked at.
    noted: Timestamp,
    /// The last number given.
    number: u64,
    /// Whether guests may run of which the log has never told.
    strangers: bool,
    /// The network namespaces of guests' links. Kept as long as one is watched there: a namespace goes with its last
    /// process, and what is in it can't be asked for then. It keeps no device.
    namespaces: Namespaces,
    /// What the kernel tells, where it is asked.
    closes: Option<LastCloses>,
}

/// A life that has ended.
#[derive(Debug)]
struct EndedLife {
    uuid: Uuid,
    slot: Slot,
    /// The manager's process that spoke for it.
    writer: Option<u32>,
}

impl Watcher {
    /// Takes up what the ledger in `state` has as live. What has ended meanwhile is ended by the first
    /// [`look`](Self::look), with the time span in which it did. One watcher at a time has a ledger.
    ///
    /// # Errors
    /// When the ledger can't be used, or the kernel's audit is to be told and can't be reached.
    pub fn open(state: &Path, options: WatchOptions) -> Result<Self, WatchError> {
        let books = Books::open(state, Arc::clone(&options.host), options.emit_audit)?;
        // The ledger's guests are known here by themselves, and by it no interfaces of theirs.
        let sources = Sources { state: None, libvirt: Some(options.libvirt.clone()) };
        let mut watcher = Self {
            strangers: books.checkpoint().is_none(),
            last: books.checkpoint().map(|checkpoint| (checkpoint.time, checkpoint.serial)),
            options,
            state: state.to_owned(),
            books,
            trail: Trail::for_watcher(),
            scanner: Scanner::new(sources),
            guests: BTreeMap::new(),
            current: HashMap::new(),
            ours: HashSet::new(),
            ended: VecDeque::new(),
            pids: HashMap::new(),
            happened: Vec::new(),
            held_back: Vec::new(),
            bridges_due: Instant::now(),
            awake: Timestamp::now(),
            noted: Timestamp::now(),
            number: 0,
            namespaces: Namespaces::default(),
            closes: None,
        };
        watcher.recall()?;
        Ok(watcher)
    }

    /// Up to where the log was followed when the ledger was last written, as it was given to
    /// [`commit`](Self::commit).
    pub fn checkpoint(&self) -> Option<&str> {
        self.books.checkpoint().map(|checkpoint| &*checkpoint.text)
    }

    /// Takes the next entry of the log. Nothing is looked at and nothing written.
    ///
    /// What is taken is in memory until the next [`commit`](Self::commit) that succeeds: a log is best read a few
    /// thousand entries at a time, and not on while the ledger can't be written.
    pub fn take(&mut self, entry: &Entry) {
        if entry.host != self.options.host {
            return;
        }
        self.last = Some((entry.time, entry.serial));
        match &entry.content {
            // What a watcher saw comes back by the log: our own eyes have told it already.
            Content::Record(record) if record.event.is_watched() => return,
            Content::Record(record) => {
                self.trail.feed(entry);
                self.told(entry, record);
            }
            content => {
                self.trail.feed(entry);
                self.hinted(content);
            }
        }
        self.gather();
    }

    /// The descriptors that are readable when a QEMU has ended, or the kernel tells something: then it is time to
    /// [`look`](Self::look).
    pub fn awaited(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let qemus = self.guests.values().filter_map(|guest| match &guest.qemu {
            Qemu::Runs { pidfd, .. } => Some(pidfd.as_fd()),
            _ => None,
        });
        qemus.chain(self.closes.iter().map(AsFd::as_fd))
    }

    /// When it is time to [`look`](Self::look) even if nothing has come.
    pub fn next_look(&self) -> Option<Instant> {
        let trail = self.trail.next_deadline().map(|due| {
            let left =
                due.duration_since(self.passed(Timestamp::now())).max(SignedDuration::ZERO).unsigned_abs();
            // Clocks are set.
            Instant::now() + left.min(self.options.every)
        });
        let held_back = self.held_back.iter().filter_map(|held| held.until);
        let guests = self.guests.values().map(|guest| guest.due);
        guests.chain(trail).chain(held_back).chain(self.bridges_due()).min()
    }

    /// Looks at the guests of which something was told, whose QEMU has ended, or whose time has come. To be called
    /// when the log is read to its end as far as it is written.
    pub fn look(&mut self) {
        self.meet_strangers();
        let gone = self.gone();
        // After that: whoever has ended has closed by then all that nobody else has.
        self.hear();
        let now = self.now();
        // Who slept for longer than a look takes to come saw nothing meanwhile.
        let slept = now.time.duration_since(std::mem::replace(&mut self.awake, now.time));
        let awake = slept.unsigned_abs() <= now.every + SLACK;
        let due: Vec<Slot> = self
            .guests
            .iter()
            .filter(|(slot, guest)| guest.due <= now.instant || gone.contains(slot))
            .map(|(slot, _)| *slot)
            .collect();
        self.search(&due);
        let watched = self.pids.keys().copied().collect();
        let mut evidence = Evidence::new(watched, self.state.clone(), std::mem::take(&mut self.namespaces));
        self.find_numbers(&due);
        for &slot in &due {
            let mut acts = Vec::new();
            self.look_at(slot, gone.contains(&slot), awake, now, &mut evidence, &mut acts);
            self.act(slot, acts);
        }
        self.namespaces = evidence.namespaces();
        self.namespaces.keep(self.guests.values().flat_map(Guest::namespaces));
        self.identify(&due);
        self.look_at_bridges(now);
        self.trail.advance(self.passed(now.time));
        self.gather();
        self.settle_held_back(now, false);
        self.note(now);
    }

    /// Makes all that was taken and seen last, in one transaction with `checkpoint`: text that tells where to follow
    /// the log from, after what was taken. Returns what happened since the last commit, in order.
    ///
    /// # Errors
    /// When the ledger can't be written: then nothing is told, nothing is lost, and the next commit does it all.
    pub fn commit(&mut self, checkpoint: Option<&str>) -> Result<Vec<Happening>, WatchError> {
        // A log that has told nothing yet was followed all the same.
        let (time, serial) = self.last.unwrap_or_else(|| (Timestamp::now(), None));
        let checkpoint = checkpoint.map(|text| Checkpoint { text: text.to_owned(), time, serial });
        for entry in self.books.commit(checkpoint)? {
            self.trail.feed(&entry);
        }
        self.gather();
        while self.ended.len() > ENDED {
            if let Some(ended) = self.ended.pop_front() {
                self.books.forget(ended.slot);
            }
        }
        let happened = std::mem::take(&mut self.happened);
        for happening in &happened {
            if let What::Found(finding) = &happening.what {
                self.books.notify(finding);
            }
        }
        Ok(happened)
    }

    /// The devices that guests hold, as far as the trail tells: those of taptrail's own guests, too.
    pub fn held(&self) -> impl Iterator<Item = &Holding> {
        self.trail.held()
    }

    /// Up to when a log that is read to its end has told all by a time: its writer may be as late as we are patient.
    fn passed(&self, now: Timestamp) -> Timestamp {
        let patience = SignedDuration::try_from(self.options.patience).unwrap_or(SignedDuration::MAX);
        now.checked_sub(patience).unwrap_or(Timestamp::MIN)
    }

    fn now(&self) -> Now {
        let WatchOptions { patience, every, .. } = self.options;
        Now { instant: Instant::now(), time: Timestamp::now(), patience, every }
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Looks a last time, before the last commit of all, when the log is read to its end: the ledger is to know up to
    /// when all was there that is known to be held. What ends from then on has ended after that.
    pub fn leave(&mut self) {
        let now = Instant::now();
        self.guests.values_mut().for_each(|guest| guest.due = now);
        self.look();
        self.settle_held_back(self.now(), true);
        self.note_looked();
    }

    /// Lets the ledger know when each guest was looked at last.
    fn note_looked(&mut self) {
        for (slot, guest) in &self.guests {
            if let (Qemu::Runs { .. }, Some(looked)) = (&guest.qemu, guest.looked) {
                self.books.looked(*slot, looked);
            }
        }
    }

    /// Takes from the trail what it tells.
    fn gather(&mut self) {
        let Self { trail, happened, .. } = self;
        for holding in trail.drain_ended() {
            if holding.state == State::Released {
                let time = holding.released.unwrap_or_else(Timestamp::now);
                happened.push(Happening { time, what: What::Released(Box::new(holding)) });
            }
        }
        let findings: Vec<_> = trail.drain_findings().collect();
        for finding in findings {
            if let Some(finding) = self.hold_back(finding) {
                self.happened.push(Happening { time: finding.time, what: What::Found(finding) });
            }
        }
    }
}
