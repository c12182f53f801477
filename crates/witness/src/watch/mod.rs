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
mod command_line;
mod error;
mod find;
mod guest;
mod happening;
mod known;
mod plugs;
#[cfg(test)]
mod properties;
mod recall;
mod sight;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec};
use taptrail_kernel::proc::{ProcessId, boot_time};
use taptrail_ledger::Checkpoint;
use taptrail_record::{Event, GuestId, MacAddr, Outcome, Record};
use taptrail_trail::{Content, Entry, State, Trail};
use tracing::warn;
use uuid::Uuid;

use self::books::{Books, Slot};
use self::find::Found;
use self::guest::{Act, Guest, Now, Qemu};
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
    books: Books,
    trail: Trail,
    scanner: Scanner,
    guests: BTreeMap<Slot, Guest>,
    /// The newest life of each guest.
    current: HashMap<Uuid, Slot>,
    /// The guests that have a supervisor of ours, as far as they are told of.
    ours: HashSet<Uuid>,
    /// Lives that have ended.
    ended: VecDeque<(Uuid, Slot)>,
    /// Their QEMUs.
    pids: HashMap<u32, Slot>,
    happened: Vec<Happening>,
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
}

impl Watcher {
    /// Takes up what the ledger in `state` has as live. One watcher at a time has a ledger. What has ended meanwhile is ended by the first
    /// [`look`](Self::look), with the time span in which it did.
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
            books,
            trail: Trail::new(),
            scanner: Scanner::new(sources),
            guests: BTreeMap::new(),
            current: HashMap::new(),
            ours: HashSet::new(),
            ended: VecDeque::new(),
            pids: HashMap::new(),
            happened: Vec::new(),
            awake: Timestamp::now(),
            noted: Timestamp::now(),
            number: 0,
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

    /// The descriptors that are readable when a QEMU has ended: then it is time to [`look`](Self::look).
    pub fn awaited(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.guests.values().filter_map(|guest| match &guest.qemu {
            Qemu::Runs { pidfd, .. } => Some(pidfd.as_fd()),
            _ => None,
        })
    }

    /// When it is time to [`look`](Self::look) even if nothing has come.
    pub fn next_look(&self) -> Option<Instant> {
        self.guests.values().map(|guest| guest.due).min()
    }

    /// Looks at the guests of which something was told, whose QEMU has ended, or whose time has come. To be called
    /// when the log is read to its end as far as it is written.
    pub fn look(&mut self) {
        self.meet_strangers();
        let gone = self.gone();
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
        for slot in due {
            let mut acts = Vec::new();
            self.look_at(slot, gone.contains(&slot), awake, now, &mut acts);
            self.act(slot, acts);
        }
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
            if let Some((_, slot)) = self.ended.pop_front() {
                self.books.forget(slot);
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
    pub fn held(&self) -> impl Iterator<Item = &taptrail_trail::Holding> {
        self.trail.held()
    }

    fn now(&self) -> Now {
        let WatchOptions { patience, every, .. } = self.options;
        Now { instant: Instant::now(), time: Timestamp::now(), patience, every }
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// A record of a guest's manager.
    fn told(&mut self, entry: &Entry, record: &Record) {
        self.tell(entry.time, record);
        let Some(slot) = self.slot(entry, record) else { return self.told_late(entry, record) };
        let (number, now) = (self.next(), Instant::now());
        let open = matches!(record.event, Event::Open { .. }).then_some(number);
        self.books.copy(slot, entry, record, open);
        if let Some(guest) = self.guests.get_mut(&slot) {
            guest.tell(record, entry.time, number, now);
        }
    }

    /// What is told besides records may be a reason to look.
    fn hinted(&mut self, content: &Content) {
        let now = Instant::now();
        match content {
            Content::KernelOpen(open) => {
                let slot = self.pids.get(&open.pid);
                if let Some(guest) = slot.and_then(|slot| self.guests.get_mut(slot)) {
                    guest.due = now;
                }
            }
            // Whatever was told there, it can be seen what became of it.
            Content::Gap(_) => {
                self.strangers = true;
                self.guests.values_mut().for_each(|guest| guest.due = now);
            }
            _ => {}
        }
    }

    /// Tells who listens what a record says.
    fn tell(&mut self, time: Timestamp, record: &Record) {
        let (guest, done) = (record.guest.clone(), record.outcome == Outcome::Success);
        let what = match &record.event {
            Event::Open { mac, device, .. } => {
                What::Opened { guest, mac: *mac, device: device.clone(), outcome: record.outcome }
            }
            // Only a supervisor of ours tells QEMU's process there; of others it is told when it was seen.
            Event::Start { mac, vm_pid: pid @ Some(_), .. }
            | Event::Attach { mac, vm_pid: pid @ Some(_), .. }
                if done =>
            {
                What::Granted { guest, mac: *mac, vm_pid: *pid, descriptors: Vec::new() }
            }
            Event::GuestStart { vm_pid, .. } if done => {
                What::Guest { guest, state: GuestState::Started { vm_pid: *vm_pid } }
            }
            Event::GuestStart { .. } => What::Guest { guest, state: GuestState::Failed },
            Event::GuestStop { reason, .. } if done => {
                What::Guest { guest, state: GuestState::Stopped { reason: reason.clone() } }
            }
            _ => return,
        };
        self.happened.push(Happening { time, what });
    }

    /// The life of a guest that a record of its manager's is of; a new one where it begins one.
    fn slot(&mut self, entry: &Entry, record: &Record) -> Option<Slot> {
        let uuid = record.guest.uuid;
        let begins =
            matches!(record.event, Event::Open { .. } | Event::Start { .. } | Event::GuestStart { .. });
        if let Some(slot) = self.current.get(&uuid)
            && self.guests.get(slot).is_some_and(|guest| !(begins && guest.is_over()))
        {
            return Some(*slot);
        }
        if matches!(record.event, Event::GuestStop { .. }) {
            self.ours.remove(&uuid);
            return None;
        }
        let booted = Timestamp::try_from(boot_time()).unwrap_or(Timestamp::MIN);
        let of_this_boot = entry.time.duration_since(booted) > SignedDuration::from_secs(-1);
        if !of_this_boot || self.guests.len() >= GUESTS || self.is_ours(entry, record) {
            return None;
        }
        Some(self.begin(&record.guest, entry.time))
    }

    /// The last word of a guest that has ended is kept with it.
    fn told_late(&mut self, entry: &Entry, record: &Record) {
        let ended = self.ended.iter().rev().find(|(of, _)| *of == record.guest.uuid);
        if let (Event::GuestStop { .. }, Some((_, slot))) = (&record.event, ended) {
            self.books.copy_late(*slot, entry, record);
        }
    }

    fn begin(&mut self, id: &GuestId, begun: Timestamp) -> Slot {
        let slot = self.next();
        self.guests.insert(slot, Guest::new(id.clone(), Instant::now()));
        self.current.insert(id.uuid, slot);
        self.books.begins(slot, id.clone(), begun);
        slot
    }

    /// Whether a record is of a guest of taptrail's own.
    fn is_ours(&mut self, entry: &Entry, record: &Record) -> bool {
        let uuid = record.guest.uuid;
        if self.ours.contains(&uuid) {
            return true;
        }
        // What only our supervisors tell.
        let marked = match &record.event {
            Event::Open { queue, .. } => queue.is_some(),
            Event::Start { vm_pid, .. } | Event::Attach { vm_pid, .. } | Event::Detach { vm_pid, .. } => {
                vm_pid.is_some()
            }
            Event::Close { .. } | Event::Keep { .. } => true,
            _ => false,
        };
        let supervised = marked
            || self.books.ledger.is_supervised(uuid, entry.time).unwrap_or_else(|error| {
                warn!("{error}: guest '{}' is taken for another manager's", record.guest.name);
                false
            });
        if supervised && self.ours.len() < GUESTS {
            self.ours.insert(uuid);
        }
        supervised
    }

    /// The guests whose QEMU has ended.
    fn gone(&self) -> Vec<Slot> {
        let running = self.guests.iter().filter_map(|(slot, guest)| match &guest.qemu {
            Qemu::Runs { pidfd, .. } => Some((*slot, pidfd)),
            _ => None,
        });
        let (slots, mut polled): (Vec<Slot>, Vec<PollFd<'_>>) =
            running.map(|(slot, pidfd)| (slot, PollFd::new(pidfd, PollFlags::IN))).unzip();
        if polled.is_empty() || rustix::event::poll(&mut polled, Some(&Timespec::default())).is_err() {
            return Vec::new();
        }
        let gone = slots.into_iter().zip(polled).filter(|(_, polled)| !polled.revents().is_empty());
        gone.map(|(slot, _)| slot).collect()
    }

    /// Finds the QEMUs of guests that are told to run, and no record tells as which process.
    fn search(&mut self, due: &[Slot]) {
        let unknown = |slot: &&Slot| {
            let guest = self.guests.get(slot);
            guest.is_some_and(|guest| {
                guest.running && !guest.is_stopped() && matches!(guest.qemu, Qemu::Unknown)
            })
        };
        let unknown: Vec<Slot> = due.iter().filter(unknown).copied().collect();
        if unknown.is_empty() {
            return;
        }
        let Ok(scan) = self.scanner.scan().inspect_err(|error| warn!("Processes can't be seen: {error}"))
        else {
            return;
        };
        for slot in unknown {
            let Some(guest) = self.guests.get(&slot) else { continue };
            let is_told = |sighted: &sight::Sighted| guest.plugs.tell_of(sighted);
            let Some(process) = find::by_uuid(&scan.holders, guest.id.uuid, is_told) else { continue };
            if let Ok(Some(found)) = find::open(process, guest.id.uuid) {
                self.has_found(slot, found);
            }
        }
    }

    /// At the first look of all, and after a gap in the log: the guests of libvirt's of which it has not told.
    fn meet_strangers(&mut self) {
        if !std::mem::take(&mut self.strangers) {
            return;
        }
        let Ok(scan) = self.scanner.scan().inspect_err(|error| warn!("Processes can't be seen: {error}"))
        else {
            return;
        };
        for holder in scan.holders {
            let Some(guest) = holder.guest.filter(|guest| guest.by == crate::scan::KnownBy::Libvirt) else {
                continue;
            };
            let (Some(name), Some(uuid)) = (guest.name, guest.uuid) else { continue };
            if self.current.contains_key(&uuid) || self.guests.len() >= GUESTS {
                continue;
            }
            let begun = Timestamp::try_from(holder.process.started()).unwrap_or_else(|_| Timestamp::now());
            let slot = self.begin(&GuestId { name, uuid }, begun);
            if let Some(guest) = self.guests.get_mut(&slot) {
                guest.running = true;
            }
            if let Ok(Some(found)) = find::open(holder.process, uuid) {
                self.has_found(slot, found);
            }
        }
    }

    fn has_found(&mut self, slot: Slot, found: Found) {
        let Some(guest) = self.guests.get_mut(&slot) else { return };
        let Found { process, pidfd, arguments } = found;
        guest.started_with = command_line::descriptors(&arguments);
        guest.qemu = Qemu::Runs { process, pidfd, attended: false };
        self.pids.insert(process.pid, slot);
        self.books.runs(slot, process);
    }

    fn look_at(&mut self, slot: Slot, gone: bool, awake: bool, now: Now, acts: &mut Vec<Act>) {
        if let Some((pid, at)) = self.guests.get(&slot).and_then(|guest| match guest.qemu {
            Qemu::Told { pid, at } => Some((pid, at)),
            _ => None,
        }) {
            let Some(uuid) = self.guests.get(&slot).map(|guest| guest.id.uuid) else { return };
            match find::told(pid, at, uuid) {
                Ok(Some(found)) => self.has_found(slot, found),
                Ok(None) => {
                    if let Some(guest) = self.guests.get_mut(&slot) {
                        guest.looked = Some(at);
                        guest.ended(pid, false, now, acts);
                    }
                }
                Err(error) => warn!("Process {pid} can't be looked at: {error}"),
            }
        }
        let Some(guest) = self.guests.get_mut(&slot) else { return };
        match &mut guest.qemu {
            Qemu::Runs { process, attended, .. } if gone => {
                let (pid, attended) = (process.pid, *attended && awake);
                self.pids.remove(&pid);
                guest.ended(pid, attended, now, acts);
            }
            Qemu::Lost { pid } => {
                let pid = *pid;
                guest.ended(pid, false, now, acts);
            }
            Qemu::Runs { process, attended, .. } => {
                let process = *process;
                *attended = true;
                match see(guest, &self.options.libvirt, process) {
                    Ok(None) => guest.is_seen(now),
                    Ok(Some(seen)) => guest.look(process.pid, seen, now, &mut self.number, acts),
                    // Its pidfd will tell.
                    Err(error) if find::is_gone(&error) => guest.later(now),
                    Err(error) => {
                        warn!("QEMU of guest '{}' can't be looked into: {error}", guest.id.name);
                        guest.later(now);
                    }
                }
            }
            _ => guest.later(now),
        }
        if let Some(guest) = self.guests.get_mut(&slot) {
            guest.settle_end(now, acts);
        }
    }

    /// Puts on record what a look brought to light.
    fn act(&mut self, slot: Slot, acts: Vec<Act>) {
        let Some(id) = self.guests.get(&slot).map(|guest| guest.id.clone()) else { return };
        let record = |event, last_seen: Option<Timestamp>| {
            let last_seen = last_seen.and_then(|at| u64::try_from(at.as_millisecond()).ok());
            Record { last_seen, ..Record::success(id.clone(), event) }
        };
        for act in acts {
            match act {
                Act::Seen { number, descriptor, open } => {
                    let record = record(Event::Seen(descriptor), None);
                    self.books.seen(slot, record, number, open);
                }
                Act::Still(descriptor) => self.books.says(slot, record(Event::Seen(descriptor), None)),
                Act::Gone { number, descriptor, last_seen } => {
                    self.books.gone(slot, record(Event::Gone(descriptor), last_seen), number);
                }
                Act::GuestGone { pid, last_seen } => {
                    self.books.says(slot, record(Event::GuestGone { vm_pid: pid }, last_seen));
                    let what = What::Guest { guest: id.clone(), state: GuestState::Gone { vm_pid: pid } };
                    self.happened.push(Happening { time: Timestamp::now(), what });
                }
                Act::Granted { mac, pid, descriptors } => self.granted(&id, mac, pid, descriptors),
                Act::Ends(reason) => {
                    self.books.ends(slot, reason);
                    self.guests.remove(&slot);
                    if self.current.get(&id.uuid) == Some(&slot) {
                        self.current.remove(&id.uuid);
                    }
                    self.ended.push_back((id.uuid, slot));
                }
            }
        }
    }

    fn granted(
        &mut self,
        guest: &GuestId,
        mac: MacAddr,
        pid: u32,
        descriptors: Vec<taptrail_record::Descriptor>,
    ) {
        let what = What::Granted { guest: guest.clone(), mac, vm_pid: Some(pid), descriptors };
        self.happened.push(Happening { time: Timestamp::now(), what });
    }

    /// Lets the ledger know now and then up to when all was there.
    fn note(&mut self, now: Now) {
        if now.time.duration_since(self.noted) >= NOTED {
            self.noted = now.time;
            self.leave();
        }
    }

    /// To be called before the last commit of all: the ledger is to know up to when all was there that is known to be
    /// held. What ends from then on has ended after that.
    pub fn leave(&mut self) {
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
        happened.extend(
            trail
                .drain_findings()
                .map(|finding| Happening { time: finding.time, what: What::Found(Box::new(finding)) }),
        );
    }
}

/// Looks into a QEMU: none when all is as it is known.
fn see(guest: &Guest, libvirt: &Path, process: ProcessId) -> std::io::Result<Option<Vec<sight::Sighted>>> {
    if guest.looked.is_some() && guest.is_as_known(&sight::glance(process)?) {
        return Ok(None);
    }
    sight::look(process, libvirt, &guest.id.name).map(Some)
}
