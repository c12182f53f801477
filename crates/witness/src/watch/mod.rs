//! Follows another manager's records and compares them continuously with what its QEMUs hold.
//!
//! ```text
//!   log ──take──▶ trail ──────────────────────────────────▶ findings, releases ─┐
//!            └──▶ guest: recorded interfaces ─┐                                 ├─commit─▶ events
//!   /proc/PID/fd, pidfd ──look────────────────┴▶ seen, close, gone ─▶ audit, ledger ┘
//! ```
//!
//! [`Watcher`] is driven by its caller: it has no thread, never blocks and follows no log. The
//! caller feeds it what the log has, lets it look, and commits. It does so again when the log
//! grows, when a descriptor of [`awaited`](Watcher::awaited) is readable, and at
//! [`next_look`](Watcher::next_look):
//!
//! ```no_run
//! # fn new_entries() -> Vec<taptrail_trail::Entry> { Vec::new() }
//! use taptrail_witness::watch::{WatchOptions, Watcher};
//!
//! let mut watcher = Watcher::open("/var/lib/taptrail".as_ref(), WatchOptions::of_host("h1"))?;
//! loop {
//!     new_entries().iter().for_each(|entry| watcher.take(entry));
//!     watcher.look();
//!     for event in watcher.commit(Some("up to here"))? {
//!         eprintln!("{event:?}");
//!     }
//! #   break;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A manager's records say which devices were opened for which interface, and when QEMU has them.
//! The watcher then inspects QEMU, which it holds by a pidfd, and binds each record to the
//! descriptors that are there. When a record says that QEMU gave devices up, or QEMU ends, the
//! watcher checks that they are gone, and writes that. A device that stays longer than such steps
//! take is recorded as still held. Changes without any record are found by periodic looks.
//!
//! taptrail's own guests are left to their supervisors, whose records are definitive. For them the
//! watcher only emits events.

mod adopt;
mod bind;
mod bridges;
mod change;
mod closes;
pub(crate) mod command_line;
mod error;
mod event;
mod evidence;
mod find;
mod guest;
mod held_back;
mod ingest;
mod interfaces;
mod known;
mod ledger_writer;
mod look;
mod observe;
#[cfg(test)]
mod properties;
mod reconcile;
#[cfg(test)]
mod tests;
mod vanished;

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

use self::evidence::{Evidence, Namespaces};
use self::guest::{GuestInstance, GuestInstanceId, LookContext, Qemu};
use self::held_back::HeldBack;
use self::ledger_writer::LedgerWriter;
use crate::scan::{Scanner, Sources};

pub use error::WatchError;
pub use event::{EventKind, GuestState, WatchEvent};

/// The most guests that are watched. No host has as many.
const MAX_GUESTS: usize = 16_384;
/// The most ended instances that are kept for a late stop record of their manager.
const MAX_ENDED_INSTANCES: usize = 1024;
/// How much later than due a look may come before the watcher counts as having been asleep.
const LOOK_SLACK: Duration = Duration::from_secs(2);
/// How often the ledger gets the times at which the guests were last inspected.
const LAST_SEEN_INTERVAL: SignedDuration = SignedDuration::from_mins(10);

/// Options of a watcher.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// This host's name in the log's entries. Entries of other hosts are skipped.
    pub host: Arc<str>,
    /// Whether observations and findings go into the kernel's audit log, too.
    pub emit_audit: bool,
    /// libvirt's directory with the state of running guests.
    pub libvirt: PathBuf,
    /// How long the watcher waits for what a record says before it reports a finding.
    pub patience: Duration,
    /// How often a guest is inspected when no record asks for it.
    pub every: Duration,
}

impl WatchOptions {
    /// The defaults: libvirt's default directory, 5 s of patience, a look every 30 s, no audit.
    pub fn of_host(host: impl Into<Arc<str>>) -> Self {
        Self {
            host: host.into(),
            emit_audit: false,
            libvirt: PathBuf::from(crate::scan::LIBVIRT_STATE_DIR),
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
    ledger_writer: LedgerWriter,
    trail: Trail,
    scanner: Scanner,
    guests: BTreeMap<GuestInstanceId, GuestInstance>,
    /// The live instances of each guest, oldest first: two while it migrates from one daemon of
    /// this host to another.
    current: HashMap<Uuid, Vec<GuestInstanceId>>,
    /// The guests of our own supervisors that records have named.
    ours: HashSet<Uuid>,
    /// Instances that have ended, oldest first.
    ended: VecDeque<EndedInstance>,
    /// The live guests by QEMU's pid.
    pids: HashMap<u32, GuestInstanceId>,
    events: Vec<WatchEvent>,
    /// Findings that wait until QEMU has been inspected.
    held_back: Vec<HeldBack>,
    /// When the bridges of guests' taps are due to be read.
    bridges_due: Instant,
    /// The time and serial number of the last entry taken.
    last: Option<(Timestamp, Option<u32>)>,
    /// The time of the last look.
    last_look_at: Timestamp,
    /// When the guests' last looks were last written to the ledger.
    last_seen_written: Timestamp,
    /// The last number that was given to an instance, record or descriptor.
    number: u64,
    /// Whether guests may run that the log does not have, so that all processes must be scanned.
    discovery_due: bool,
    /// The network namespaces of guests' links, kept while a guest has a link there: a namespace
    /// goes with its last process, and could not be queried then. Keeping it open keeps no device.
    namespaces: Namespaces,
    /// The kernel's report of last closes, if it is used.
    closes: Option<LastCloses>,
}

/// A guest instance that has ended.
#[derive(Debug)]
struct EndedInstance {
    uuid: Uuid,
    instance: GuestInstanceId,
    /// The manager's process that wrote its records.
    writer: Option<u32>,
}

impl Watcher {
    /// Adopts the guests that the ledger in `state` has as live. The first [`look`](Self::look)
    /// ends those that have ended meanwhile, with the time range in which they did. A ledger has
    /// one watcher at a time.
    ///
    /// When the ledger can't be used, or the kernel's audit is wanted and can't be reached.
    pub fn open(state: &Path, options: WatchOptions) -> Result<Self, WatchError> {
        let ledger_writer = LedgerWriter::open(state, Arc::clone(&options.host), options.emit_audit)?;
        // The watcher reads the ledger's guests itself; the ledger has no host names of interfaces.
        let sources = Sources { state: None, libvirt: Some(options.libvirt.clone()) };
        let mut watcher = Self {
            discovery_due: ledger_writer.checkpoint().is_none(),
            last: ledger_writer.checkpoint().map(|checkpoint| (checkpoint.time, checkpoint.serial)),
            options,
            state: state.to_owned(),
            ledger_writer,
            trail: Trail::for_watcher(),
            scanner: Scanner::new(sources),
            guests: BTreeMap::new(),
            current: HashMap::new(),
            ours: HashSet::new(),
            ended: VecDeque::new(),
            pids: HashMap::new(),
            events: Vec::new(),
            held_back: Vec::new(),
            bridges_due: Instant::now(),
            last_look_at: Timestamp::now(),
            last_seen_written: Timestamp::now(),
            number: 0,
            namespaces: Namespaces::default(),
            closes: None,
        };
        watcher.adopt_live_guests()?;
        Ok(watcher)
    }

    /// The checkpoint of the last successful [`commit`](Self::commit), as its caller gave it.
    pub fn checkpoint(&self) -> Option<&str> {
        self.ledger_writer.checkpoint().map(|checkpoint| &*checkpoint.text)
    }

    /// Takes the next entry of the log. It neither inspects processes nor writes.
    ///
    /// Entries stay in memory until the next successful [`commit`](Self::commit). So a caller reads
    /// a log a few thousand entries at a time, and stops reading while the ledger can't be written.
    pub fn take(&mut self, entry: &Entry) {
        if entry.host != self.options.host {
            return;
        }
        self.last = Some((entry.time, entry.serial));
        match &entry.content {
            // A watcher's own records come back by the log; they have been applied already.
            Content::Record(record) if record.event.is_observation() => return,
            Content::Record(record) => {
                self.trail.feed(entry);
                self.ingest_record(entry, record);
            }
            content => {
                self.trail.feed(entry);
                self.ingest_hint(content);
            }
        }
        self.collect_trail_output();
    }

    /// The descriptors that become readable when a QEMU has ended, or the kernel reports closes:
    /// then the caller should [`look`](Self::look).
    pub fn awaited(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let qemus = self.guests.values().filter_map(|guest| match &guest.qemu {
            Qemu::Runs { pidfd, .. } => Some(pidfd.as_fd()),
            _ => None,
        });
        qemus.chain(self.closes.iter().map(AsFd::as_fd))
    }

    /// When the caller should [`look`](Self::look) even if nothing has come.
    pub fn next_look(&self) -> Option<Instant> {
        let trail = self.trail.next_deadline().map(|due| {
            let left = due
                .duration_since(self.complete_until(Timestamp::now()))
                .max(SignedDuration::ZERO)
                .unsigned_abs();
            // The clock may have been set.
            Instant::now() + left.min(self.options.every)
        });
        let held_back = self.held_back.iter().filter_map(|held| held.until);
        let guests = self.guests.values().map(|guest| guest.due);
        guests.chain(trail).chain(held_back).chain(self.bridges_due()).min()
    }

    /// Inspects the guests with new records, with an ended QEMU, or whose time has come. To be
    /// called when the log has been read to its end.
    pub fn look(&mut self) {
        self.discover_unlogged_guests();
        let gone = self.ended_qemus();
        // After the check for ended QEMUs: an ended process has closed its descriptors, so the
        // kernel's report has all closes but those of shared files.
        self.receive_closes();
        let now = self.now();
        // If the watcher slept for longer than a look may take to come, it can't say when a QEMU
        // ended.
        let slept = now.time.duration_since(std::mem::replace(&mut self.last_look_at, now.time));
        let awake = slept.unsigned_abs() <= now.every + LOOK_SLACK;
        let due: Vec<GuestInstanceId> = self
            .guests
            .iter()
            .filter(|(instance, guest)| guest.due <= now.instant || gone.contains(instance))
            .map(|(instance, _)| *instance)
            .collect();
        self.find_qemus(&due);
        let watched = self.pids.keys().copied().collect();
        let mut evidence = Evidence::new(watched, self.state.clone(), std::mem::take(&mut self.namespaces));
        self.find_numbers(&due);
        for &instance in &due {
            let mut observations = Vec::new();
            self.look_at_guest(
                instance,
                gone.contains(&instance),
                awake,
                now,
                &mut evidence,
                &mut observations,
            );
            self.record_observations(instance, observations);
        }
        self.namespaces = evidence.namespaces();
        self.namespaces.keep(self.guests.values().flat_map(GuestInstance::namespaces));
        self.identify(&due);
        self.look_at_bridges(now);
        self.trail.advance(self.complete_until(now.time));
        self.collect_trail_output();
        self.settle_held_back(now, false);
        self.write_last_seen_if_due(now);
    }

    /// Writes all entries and observations in one transaction, with `checkpoint`: text that says
    /// from where to follow the log after the entries taken. Returns the events since the last
    /// commit, in order.
    ///
    /// When the ledger can't be written. Then no event is returned and nothing is lost; the next
    /// commit writes it all.
    pub fn commit(&mut self, checkpoint: Option<&str>) -> Result<Vec<WatchEvent>, WatchError> {
        // An empty log has been followed, too.
        let (time, serial) = self.last.unwrap_or_else(|| (Timestamp::now(), None));
        let checkpoint = checkpoint.map(|text| Checkpoint { text: text.to_owned(), time, serial });
        for entry in self.ledger_writer.commit(checkpoint)? {
            self.trail.feed(&entry);
        }
        self.collect_trail_output();
        while self.ended.len() > MAX_ENDED_INSTANCES {
            if let Some(ended) = self.ended.pop_front() {
                self.ledger_writer.forget(ended.instance);
            }
        }
        let events = std::mem::take(&mut self.events);
        for event in &events {
            if let EventKind::Found(finding) = &event.kind {
                self.ledger_writer.emit_finding(finding);
            }
        }
        Ok(events)
    }

    /// The devices that guests hold, by the trail; taptrail's own guests included.
    pub fn held(&self) -> impl Iterator<Item = &Holding> {
        self.trail.held()
    }

    /// The time until which a log that has been read to its end is complete: its writer may be late
    /// by up to the watcher's patience.
    fn complete_until(&self, now: Timestamp) -> Timestamp {
        let patience = SignedDuration::try_from(self.options.patience).unwrap_or(SignedDuration::MAX);
        now.checked_sub(patience).unwrap_or(Timestamp::MIN)
    }

    fn now(&self) -> LookContext {
        let WatchOptions { patience, every, .. } = self.options;
        LookContext { instant: Instant::now(), time: Timestamp::now(), patience, every }
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Inspects all guests, before the last commit, when the log has been read to its end: the
    /// ledger gets the time at which all known devices were still held. What ends later has ended
    /// after that.
    pub fn final_look(&mut self) {
        let now = Instant::now();
        self.guests.values_mut().for_each(|guest| guest.due = now);
        self.look();
        self.settle_held_back(self.now(), true);
        self.write_last_seen();
    }

    /// Writes when each guest was last inspected.
    fn write_last_seen(&mut self) {
        for (instance, guest) in &self.guests {
            if let (Qemu::Runs { .. }, Some(all_seen_at)) = (&guest.qemu, guest.all_seen_at) {
                self.ledger_writer.set_last_seen(*instance, all_seen_at);
            }
        }
    }

    /// Turns the trail's new releases and findings into events.
    fn collect_trail_output(&mut self) {
        let Self { trail, events, .. } = self;
        // They concern no guest: see `bridge_taps`.
        trail.drain_bridge_taps().for_each(drop);
        for holding in trail.drain_ended() {
            if holding.state == State::Released {
                let time = holding.released.unwrap_or_else(Timestamp::now);
                events.push(WatchEvent { time, kind: EventKind::Released(Box::new(holding)) });
            }
        }
        let findings: Vec<_> = trail.drain_findings().collect();
        for finding in findings {
            if let Some(finding) = self.hold_back(finding) {
                self.events.push(WatchEvent { time: finding.time, kind: EventKind::Found(finding) });
            }
        }
    }
}
