//! The state of one guest instance: what its manager's records say, and what QEMU was seen to hold.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::proc::{PidFd, ProcessId};
use taptrail_record::{Descriptor, Device, Event, GuestId, MacAddr, Outcome, Reason, Record};
use tracing::warn;

use super::command_line::Netdev;
use super::evidence::{Doubt, EndCheck};
use super::interfaces::{InterfaceTable, OpenedDevice, PendingDetach};
use super::known::{Absence, KnownDescriptor, Vanished, holds};
use super::observe::LinkId;

/// How long after the last record of an unfinished start its account is closed.
const ABANDONED_START_TIMEOUT: Duration = Duration::from_secs(3600);
/// The shortest pause between two looks; while something is pending, each pause is longer by
/// [`BACKOFF_FACTOR`], up to [`MAX_LOOK_DELAY`].
const MIN_LOOK_DELAY: Duration = Duration::from_millis(20);
pub(super) const BACKOFF_FACTOR: u32 = 2;
pub(super) const MAX_LOOK_DELAY: Duration = Duration::from_secs(1);

/// The number of a guest instance; each run of a guest has its own.
pub(super) type GuestInstanceId = u64;

/// One run of a guest, from its start to its end.
#[derive(Debug)]
pub(super) struct GuestInstance {
    pub(super) id: GuestId,
    /// The pid of the manager's process that writes its records, as far as known.
    pub(super) writer: Option<u32>,
    pub(super) interfaces: InterfaceTable,
    pub(super) held: Vec<KnownDescriptor>,
    /// Descriptors that QEMU does not show any more, and that another process may still hold, as
    /// far as the kernel shows.
    pub(super) vanished: Vec<Vanished>,
    /// Devices that belong to no interface yet, and wait for their records.
    pub(super) unbound: Vec<PendingDevice>,
    pub(super) qemu: Qemu,
    /// QEMU's pid in its manager's record. If the manager is in a container, that pid differs from
    /// ours.
    recorded_pid: Option<u32>,
    /// Whether a warning was logged that the process with that pid is not known.
    warned_unknown_pid: bool,
    /// Whether its manager's records show that it runs.
    pub(super) running: bool,
    pub(super) stop: Option<Stop>,
    /// Whether QEMU's end was recorded by us, because its manager had not.
    gone_reported: bool,
    /// Whether its start failed.
    pub(super) failed: bool,
    /// Whether its records begin with its start.
    pub(super) from_start: bool,
    /// The descriptors on QEMU's command line, by interface.
    pub(super) started_with: HashMap<MacAddr, Vec<u32>>,
    /// The backends on QEMU's command line, by interface.
    pub(super) netdevs: HashMap<MacAddr, Vec<Netdev>>,
    /// The vDPA devices that QEMU held at the last look, and that belong to no known interface.
    pub(super) unbound_vdpa: Vec<Device>,
    /// Whether it ever held several vDPA devices of which nothing shows for which interface they are.
    pub(super) vdpa_is_ambiguous: bool,
    /// Whether a quick scan is not enough, because the links behind its devices were not read yet.
    pub(super) needs_full_look: bool,
    /// When all known descriptors were last seen to be held.
    pub(super) all_seen_at: Option<Timestamp>,
    /// When the watcher has to look next.
    pub(super) due: Instant,
    pub(super) look_delay: Duration,
    /// Since when something is pending: from the first look after the last record.
    pub(super) waiting_since: Option<Instant>,
}

/// The state of its QEMU.
#[derive(Debug)]
pub(super) enum Qemu {
    /// No record has its pid.
    Unknown,
    /// A record of the time `at` has its pid; the process was not found yet.
    Recorded { pid: u32, at: Timestamp },
    /// It runs. `seen_running`: this watcher has seen it running before. `claims_guest`: its
    /// command line has the guest's uuid.
    Runs { process: ProcessId, pidfd: PidFd, seen_running: bool, claims_guest: bool },
    /// It ran at the last entry in the ledger, and has ended since.
    Lost { pid: u32 },
    /// It has ended. `last_seen`: the watcher has not looked since then; none if it saw the end in
    /// time.
    Gone { pid: u32, last_seen: Option<Timestamp> },
}

/// A device that QEMU holds and that belongs to no interface yet.
#[derive(Debug)]
pub(super) struct PendingDevice {
    /// The lowest of its descriptors' numbers.
    pub(super) fd: u32,
    pub(super) device: Device,
    /// When it was first seen.
    pub(super) since: Instant,
    /// Whether there is an open record that may be its own.
    pub(super) is_opened: bool,
}

#[derive(Debug)]
pub(super) struct Stop {
    reason: Reason,
    pub(super) at: Timestamp,
    /// Whether the devices that QEMU held after that were reported.
    pub(super) reported: bool,
}

/// What a look has found, in the order in which it is recorded.
#[derive(Debug)]
pub(super) enum Observation {
    /// A descriptor was seen for the first time. `open`: the number of the record that opened it.
    Seen { number: u64, descriptor: Descriptor, open: Option<u64>, link: Option<LinkId> },
    /// The link behind a descriptor has another place than before.
    LinkMoved { number: u64, link: LinkId },
    /// A descriptor that should be gone is still held.
    StillHeld(Descriptor),
    /// A descriptor is gone. `at`: the time of its last close, if the kernel reported it.
    /// `last_seen`: the watcher has not looked since then. `doubt`: why the kernel does not show
    /// that no process holds the device any more.
    Gone {
        number: u64,
        descriptor: Descriptor,
        at: Option<Timestamp>,
        last_seen: Option<Timestamp>,
        doubt: Option<Doubt>,
    },
    /// QEMU has ended.
    QemuEnded { pid: u32 },
    /// QEMU has ended, and its manager wrote no record of it.
    GuestGone { pid: u32, last_seen: Option<Timestamp> },
    /// QEMU has an interface, with these descriptors.
    Granted { mac: MacAddr, pid: u32, descriptors: Vec<Descriptor> },
    /// The account has ended.
    AccountEnds(Reason),
}

/// The time of a look, and the options that it needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct LookContext {
    pub(super) instant: Instant,
    pub(super) time: Timestamp,
    pub(super) patience: Duration,
    pub(super) every: Duration,
}

impl GuestInstance {
    pub(super) fn new(id: GuestId, now: Instant) -> Self {
        Self {
            id,
            writer: None,
            interfaces: InterfaceTable::default(),
            held: Vec::new(),
            vanished: Vec::new(),
            unbound: Vec::new(),
            qemu: Qemu::Unknown,
            recorded_pid: None,
            warned_unknown_pid: false,
            running: false,
            stop: None,
            gone_reported: false,
            failed: false,
            from_start: false,
            started_with: HashMap::new(),
            netdevs: HashMap::new(),
            unbound_vdpa: Vec::new(),
            vdpa_is_ambiguous: false,
            needs_full_look: false,
            all_seen_at: None,
            due: now,
            look_delay: MIN_LOOK_DELAY,
            waiting_since: None,
        }
    }

    /// The recorded process does not exist any more: it has ended since.
    pub(super) fn mark_lost(&mut self) {
        if let Qemu::Recorded { pid, at } = self.qemu {
            self.all_seen_at = Some(at);
            self.qemu = Qemu::Lost { pid };
        }
    }

    /// The recorded pid, if no warning about it was logged yet.
    pub(super) fn unwarned_pid(&mut self) -> Option<u32> {
        let Qemu::Recorded { pid, .. } = self.qemu else { return None };
        (!std::mem::replace(&mut self.warned_unknown_pid, true)).then_some(pid)
    }

    /// Sets the time of the next look when this look could not inspect QEMU.
    pub(super) fn postpone_look(&mut self, now: LookContext) {
        self.due = now.instant + if self.is_stopped() { self.look_delay } else { now.every };
        self.look_delay = (self.look_delay * BACKOFF_FACTOR).min(MAX_LOOK_DELAY);
    }

    /// Whether this instance is over, so that a new start begins another.
    pub(super) fn is_over(&self) -> bool {
        self.is_stopped() || matches!(self.qemu, Qemu::Lost { .. } | Qemu::Gone { .. })
    }

    /// Whether its manager has recorded its end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_some() || self.failed
    }

    /// QEMU's pid as our records have it: the manager's number for it, so that both name the same
    /// process.
    pub(super) fn pid_on_record(&self, pid: u32) -> u32 {
        self.recorded_pid.unwrap_or(pid)
    }

    /// Applies a record that the manager's process `writer` wrote. `number` is a new number.
    pub(super) fn apply_record(
        &mut self,
        record: &Record,
        writer: Option<u32>,
        time: Timestamp,
        number: u64,
        now: Instant,
    ) {
        let done = record.outcome == Outcome::Success;
        // Another process that opens a device may be about to start a second instance of this
        // guest.
        if self.writer.is_none() || !matches!(record.event, Event::Open { .. }) {
            self.writer = writer.or(self.writer);
        }
        match (&record.event, done) {
            (Event::Open { mac, device, .. }, true) => {
                self.interfaces.add_open(*mac, OpenedDevice { number, device: device.clone(), writer });
            }
            (Event::Start { mac, .. }, true) => {
                self.from_start = true;
                self.interfaces.mark_started(*mac, number);
            }
            (Event::Start { mac, .. }, false) => self.interfaces.drop_refused(*mac, true),
            (Event::Attach { mac, .. }, true) => {
                self.running = true;
                self.interfaces.mark_attached(*mac, number);
            }
            (Event::Attach { mac, .. }, false) => {
                self.running = true;
                self.interfaces.drop_refused(*mac, false);
            }
            (Event::Detach { mac, .. }, true) => {
                self.running = true;
                let held = &self.held;
                let detach = PendingDetach { number, mac: *mac, at: time };
                self.interfaces.add_detach(detach, |interface| holds(held, interface));
            }
            (Event::Detach { .. }, false) => self.running = true,
            (Event::GuestStart { vm_pid, .. }, true) => {
                (self.running, self.from_start) = (true, true);
                self.interfaces.drop_ungranted();
                if let (Some(pid), Qemu::Unknown) = (*vm_pid, &self.qemu) {
                    self.recorded_pid = Some(pid);
                    self.qemu = Qemu::Recorded { pid, at: time };
                }
            }
            (Event::GuestStart { .. }, false) => self.failed |= !self.running,
            (Event::GuestStop { reason, .. }, true) => {
                self.stop = Some(Stop { reason: reason.clone(), at: time, reported: false });
            }
            _ => {}
        }
        (self.due, self.look_delay, self.waiting_since) = (now, MIN_LOOK_DELAY, None);
    }

    /// The known descriptors.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.held.iter().map(|known| &known.descriptor)
    }

    /// The network namespaces of the links behind its devices.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = u64> {
        let vanished = self.vanished.iter().map(|vanished| &vanished.known);
        self.held.iter().chain(vanished).filter_map(|known| known.link?.netns)
    }

    /// The known descriptors with their numbers.
    pub(super) fn known(&self) -> impl Iterator<Item = (u64, &Descriptor)> {
        self.held.iter().map(|known| (known.number, &known.descriptor))
    }

    /// Restores, after a restart, that descriptors which should have been gone at `then` were
    /// reported as held.
    pub(super) fn expire_detaches_until(&mut self, then: Timestamp, patience: Duration) {
        let is_late = |at: Timestamp| then.duration_since(at).unsigned_abs() >= patience;
        self.interfaces.expire_detaches(is_late);
        if let Some(stop) = &mut self.stop {
            stop.reported |= is_late(stop.at);
        }
    }

    /// QEMU has ended, and its own descriptors with it. The next looks check whether another
    /// process holds the devices.
    pub(super) fn qemu_ended(
        &mut self,
        pid: u32,
        seen_running: bool,
        now: LookContext,
        end: &mut EndCheck<'_>,
        observations: &mut Vec<Observation>,
    ) {
        let all_seen_at = self.all_seen_at;
        let last_seen = if seen_running { None } else { all_seen_at };
        // If an earlier watcher recorded the closes, QEMU's end is not reported again.
        if seen_running || !self.held.is_empty() || !self.vanished.is_empty() {
            observations.push(Observation::QemuEnded { pid });
        }
        let vanished = self.held.drain(..).map(|known| {
            let all_seen_at = if seen_running { Some(now.time) } else { all_seen_at };
            let (at, since, absence) = (now.time, now.instant, Absence::NotShown);
            Vanished { known, at, since, last_seen, all_seen_at, absence }
        });
        self.vanished.extend(vanished);
        self.unbound.clear();
        self.interfaces = InterfaceTable::default();
        self.qemu = Qemu::Gone { pid, last_seen };
        (self.waiting_since, self.look_delay, self.due) =
            (Some(now.instant), MIN_LOOK_DELAY, now.instant + now.patience);
        self.look_for_vanished(now, end, observations);
        for Vanished { known, .. } in self.vanished.iter().filter(|vanished| vanished.known.is_open()) {
            warn!(
                "QEMU of guest '{}' has ended, and its descriptor {} of {} is open still: somebody else has it",
                self.id.name, known.descriptor.fd, known.descriptor.device.path
            );
        }
    }

    /// Ends the account if it is over, with the manager's reason if there is one. Returns whether
    /// it is over.
    pub(super) fn settle_end(&mut self, now: LookContext, observations: &mut Vec<Observation>) -> bool {
        let waiting_since = *self.waiting_since.get_or_insert(now.instant);
        let waited = now.instant.duration_since(waiting_since);
        if let Qemu::Gone { pid, last_seen } = self.qemu
            && self.stop.is_none()
            && !self.failed
            && waited >= now.patience
            && !self.awaits_vanished()
            && !std::mem::replace(&mut self.gone_reported, true)
        {
            observations.push(Observation::GuestGone { pid, last_seen });
        }
        match (&self.qemu, &self.stop) {
            // The descriptors must have their ends first.
            _ if !self.vanished.is_empty() => return false,
            (Qemu::Gone { .. } | Qemu::Unknown, Some(stop)) => {
                observations.push(Observation::AccountEnds(stop.reason.clone()));
            }
            (Qemu::Gone { .. } | Qemu::Unknown, None) if self.failed => {
                observations.push(Observation::AccountEnds(Reason::FAILED));
            }
            // Its process was never found, and its manager has recorded its stop.
            (Qemu::Recorded { .. }, Some(stop)) if waited >= now.patience => {
                observations.push(Observation::AccountEnds(stop.reason.clone()));
            }
            // Its pid may be one of a container, and this another process. A process without
            // devices need not be waited for.
            (Qemu::Runs { claims_guest: false, .. }, Some(stop))
                if waited >= now.patience && self.held.is_empty() && self.unbound.is_empty() =>
            {
                observations.push(Observation::AccountEnds(stop.reason.clone()));
            }
            (Qemu::Gone { .. }, None) if self.gone_reported => {
                observations.push(Observation::AccountEnds(Reason::EXITED));
            }
            // Its start was never finished, and its manager writes no more records.
            (Qemu::Unknown, None) if !self.running && waited >= ABANDONED_START_TIMEOUT => {
                observations.push(Observation::AccountEnds(Reason::UNKNOWN));
            }
            _ => return false,
        }
        true
    }
}
