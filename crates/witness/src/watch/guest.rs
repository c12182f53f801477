//! One life of a guest of another manager: what that tells, held against what QEMU holds.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use taptrail_bpf::FileState;
use taptrail_kernel::proc::{PidFd, ProcessId};
use taptrail_record::{
    CloseDoubt, Descriptor, Device, DeviceKind, Event, GuestId, MacAddr, Outcome, Reason, Record,
};
use tracing::warn;

use super::bind::{self, Loose, Wanting};
use super::command_line::Netdev;
use super::known::{self, Known, holds};
use super::plugs::{Detached, Opened, Plug, Plugs};
use super::release::{Doubt, ShownEnd};
use super::sight::{Glance, Place, Sight, Sighted};

/// How long after a record that should have been at once what it tells counts as seen in time.
const AT_ONCE: SignedDuration = SignedDuration::from_secs(2);
/// How much more patience a hot-plug under way has, of which only the opens are told.
const UNDER_WAY: u32 = 6;
/// How long a start may take of which nothing more is told.
const ABANDONED: Duration = Duration::from_secs(3600);
/// The least time between two looks, and how it grows while something is awaited.
const SOON: Duration = Duration::from_millis(20);
const GROWTH: u32 = 2;
const SLOWEST: Duration = Duration::from_secs(1);

/// One life of one guest.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) id: GuestId,
    /// The manager's process that speaks for it, as far as is known.
    pub(super) writer: Option<u32>,
    pub(super) plugs: Plugs,
    pub(super) held: Vec<Known>,
    /// Those that QEMU shows no more, and of which the kernel does not show yet that nobody holds them.
    vanished: Vec<Vanished>,
    /// Descriptors that belong to nothing told, by number and device, and since when they are there.
    loose: Vec<(u32, Device, Instant)>,
    pub(super) qemu: Qemu,
    /// QEMU's pid as its manager tells it: in a container that is another one than here.
    told_pid: Option<u32>,
    /// Whether it was said that the process of that number is not known.
    complained: bool,
    /// Whether its manager's records show that it runs.
    pub(super) running: bool,
    stop: Option<Stop>,
    /// Whether QEMU's end was told, which its manager had not.
    gone_told: bool,
    /// Whether its start failed.
    pub(super) failed: bool,
    /// Whether its records begin with its start.
    from_start: bool,
    /// Which descriptors QEMU was started with, by interface.
    pub(super) started_with: HashMap<MacAddr, Vec<u32>>,
    /// Which backends QEMU was started with, by interface.
    pub(super) netdevs: HashMap<MacAddr, Vec<Netdev>>,
    /// The vhost-vdpa devices that QEMU was last seen to hold.
    pub(super) vdpa: Vec<String>,
    /// Whether a glance is not enough: what is behind its devices was not seen yet.
    pub(super) needs_full_look: bool,
    /// When all that is known to be held was last seen to be.
    pub(super) looked: Option<Timestamp>,
    /// When to look again.
    pub(super) due: Instant,
    wait: Duration,
    /// Since when what is awaited is awaited: from the first look after the last record.
    since: Option<Instant>,
}

/// Its QEMU.
#[derive(Debug)]
pub(super) enum Qemu {
    /// No record has told its process.
    Unknown,
    /// Told by the record of this time, and not found yet.
    Told { pid: u32, at: Timestamp },
    /// It runs. `attended`: it was seen to run before, since we watch. `named`: it says that it runs this guest.
    Runs { process: ProcessId, pidfd: PidFd, attended: bool, named: bool },
    /// It ran when the ledger last heard of it, and has ended since.
    Lost { pid: u32 },
    /// It has ended. Nobody saw it since the time given, if there is one.
    Gone { pid: u32, last_seen: Option<Timestamp> },
}

/// A descriptor that QEMU shows no more.
#[derive(Debug)]
struct Vanished {
    known: Known,
    /// When it was missed first.
    at: Timestamp,
    since: Instant,
    /// When it was last seen; none where that was just before.
    last_seen: Option<Timestamp>,
    /// When QEMU was last looked into before, or when all was told.
    looked: Option<Timestamp>,
    /// Whether records alone show it: what is there may be another under its number, or itself.
    by_records: bool,
}

#[derive(Debug)]
struct Stop {
    reason: Reason,
    at: Timestamp,
    /// Whether that QEMU lives on is told.
    told: bool,
}

/// What a look brought to light, in the order in which it is to be told.
#[derive(Debug)]
pub(super) enum Act {
    /// A descriptor was seen for the first time; of the open with this number.
    Seen { number: u64, descriptor: Descriptor, open: Option<u64>, link: Option<Place> },
    /// The interface behind a descriptor was seen somewhere else than before.
    Placed { number: u64, link: Place },
    /// One that should be gone is not.
    Still(Descriptor),
    /// A descriptor is gone, `at` a time that the kernel told; nobody looked since the time given. With a doubt where the kernel does not show that nobody
    /// holds the device any more.
    Gone {
        number: u64,
        descriptor: Descriptor,
        at: Option<Timestamp>,
        last_seen: Option<Timestamp>,
        doubt: Option<Doubt>,
    },
    /// QEMU has ended, and what it held was told to be gone.
    Ended { pid: u32 },
    /// Nobody else said that QEMU has ended.
    GuestGone { pid: u32, last_seen: Option<Timestamp> },
    /// QEMU has an interface, with these descriptors.
    Granted { mac: MacAddr, pid: u32, descriptors: Vec<Descriptor> },
    /// The account is over.
    Ends(Reason),
}

/// When it is, and how to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) time: Timestamp,
    pub(super) patience: Duration,
    pub(super) every: Duration,
}

impl Guest {
    pub(super) fn new(id: GuestId, now: Instant) -> Self {
        Self {
            id,
            writer: None,
            plugs: Plugs::default(),
            held: Vec::new(),
            vanished: Vec::new(),
            loose: Vec::new(),
            qemu: Qemu::Unknown,
            told_pid: None,
            complained: false,
            running: false,
            stop: None,
            gone_told: false,
            failed: false,
            from_start: false,
            started_with: HashMap::new(),
            netdevs: HashMap::new(),
            vdpa: Vec::new(),
            needs_full_look: false,
            looked: None,
            due: now,
            wait: SOON,
            since: None,
        }
    }

    /// The process that its manager told is not there any more: it has ended since.
    pub(super) fn is_lost(&mut self) {
        if let Qemu::Told { pid, at } = self.qemu {
            self.looked = Some(at);
            self.qemu = Qemu::Lost { pid };
        }
    }

    /// The pid that its manager told, the first time that it is asked for.
    pub(super) fn complain(&mut self) -> Option<u32> {
        let Qemu::Told { pid, .. } = self.qemu else { return None };
        (!std::mem::replace(&mut self.complained, true)).then_some(pid)
    }

    /// Nothing is to be looked at: it is to be seen later whether something has changed.
    pub(super) fn later(&mut self, now: Now) {
        self.due = now.instant + if self.is_stopped() { self.wait } else { now.every };
        self.wait = (self.wait * GROWTH).min(SLOWEST);
    }

    /// Whether this life of it is over, so that what begins is another.
    pub(super) fn is_over(&self) -> bool {
        self.is_stopped() || matches!(self.qemu, Qemu::Lost { .. } | Qemu::Gone { .. })
    }

    /// Whether its manager has told its end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_some() || self.failed
    }

    /// What a process that is its QEMU is called on record: as its manager calls it, so that both tell of one.
    pub(super) fn on_record(&self, pid: u32) -> u32 {
        self.told_pid.unwrap_or(pid)
    }

    /// Takes a record that its manager's process `writer` wrote; `number` is new.
    pub(super) fn tell(
        &mut self,
        record: &Record,
        writer: Option<u32>,
        time: Timestamp,
        number: u64,
        now: Instant,
    ) {
        let done = record.outcome == Outcome::Success;
        // Another process that opens something may be about to start a second life of this guest.
        if self.writer.is_none() || !matches!(record.event, Event::Open { .. }) {
            self.writer = writer.or(self.writer);
        }
        match (&record.event, done) {
            (Event::Open { mac, device, .. }, true) => {
                self.plugs.opened(*mac, Opened { number, device: device.clone(), writer });
            }
            (Event::Start { mac, .. }, true) => {
                self.from_start = true;
                self.plugs.started(*mac, number);
            }
            (Event::Start { mac, .. }, false) => self.plugs.refused(*mac, true),
            (Event::Attach { mac, .. }, true) => {
                self.running = true;
                self.plugs.attached(*mac, number);
            }
            (Event::Attach { mac, .. }, false) => {
                self.running = true;
                self.plugs.refused(*mac, false);
            }
            (Event::Detach { mac, .. }, true) => {
                self.running = true;
                let held = &self.held;
                let detached = Detached { number, mac: *mac, at: time };
                self.plugs.detached(detached, |plug| holds(held, plug));
            }
            (Event::Detach { .. }, false) => self.running = true,
            (Event::GuestStart { vm_pid, .. }, true) => {
                (self.running, self.from_start) = (true, true);
                self.plugs.ran();
                if let (Some(pid), Qemu::Unknown) = (*vm_pid, &self.qemu) {
                    self.told_pid = Some(pid);
                    self.qemu = Qemu::Told { pid, at: time };
                }
            }
            (Event::GuestStart { .. }, false) => self.failed |= !self.running,
            (Event::GuestStop { reason, .. }, true) => {
                self.stop = Some(Stop { reason: reason.clone(), at: time, told: false });
            }
            _ => {}
        }
        (self.due, self.wait, self.since) = (now, SOON, None);
    }

    /// The descriptors that are known to be held.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.held.iter().map(|known| &known.descriptor)
    }

    /// The network namespaces that the links behind its devices are in.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = u64> {
        let vanished = self.vanished.iter().map(|vanished| &vanished.known);
        self.held.iter().chain(vanished).filter_map(|known| known.link?.netns)
    }

    /// The numbers under which these are known.
    pub(super) fn known(&self) -> impl Iterator<Item = (u64, &Descriptor)> {
        self.held.iter().map(|known| (known.number, &known.descriptor))
    }

    /// Whether a glance shows what is known, and nothing is awaited.
    pub(super) fn is_as_known(&self, glance: &Glance) -> bool {
        let settled = !self.needs_full_look
            && self.vanished.is_empty()
            && !self.held.iter().any(Known::is_closed)
            && self.loose.is_empty()
            && self.plugs.detached.is_empty()
            && self.stop.is_none()
            && self.plugs.all.iter().all(|plug| plug.told || !plug.granted);
        let mut known: Vec<_> = self
            .held
            .iter()
            .flat_map(|known| {
                let device = &known.descriptor.device;
                known.fds.iter().map(|fd| (*fd, device.kind, device.rdev, tap_name(device)))
            })
            .collect();
        known.sort_unstable();
        known.dedup();
        let mut seen: Vec<_> =
            glance.iter().map(|(fd, kind, rdev, name)| (*fd, *kind, Some(*rdev), name.as_deref())).collect();
        seen.sort_unstable();
        settled && known == seen
    }

    /// All that is known is there, as a glance shows.
    pub(super) fn is_seen(&mut self, now: Now) {
        self.looked = Some(now.time);
        self.due = now.instant + now.every;
    }

    /// QEMU was looked into.
    pub(super) fn look(
        &mut self,
        pid: u32,
        seen: Sight,
        now: Now,
        end: &mut ShownEnd<'_>,
        next: &mut u64,
        acts: &mut Vec<Act>,
    ) {
        let Sight { descriptors: seen, vdpa } = seen;
        (self.vdpa, self.needs_full_look) = (vdpa, false);
        let since = *self.since.get_or_insert(now.instant);
        let waited = now.instant.duration_since(since);
        let loose = self.match_known(seen, now, acts);
        self.settle_vanished(now, end, acts);
        let held = &self.held;
        self.plugs.settle(|plug| holds(held, plug));
        self.bind(pid, loose, now, waited, next, acts);
        self.plugs.settle_unseen();
        self.tell_still(now, waited, acts);
        self.tell_granted(pid, waited >= now.patience, acts);
        if !self.awaits_vanished() {
            self.looked = Some(now.time);
        }
        let awaits = !self.loose.is_empty()
            || self.awaits_vanished()
            || !self.plugs.detached.is_empty()
            || self.stop.as_ref().is_some_and(|stop| !stop.told)
            || self.plugs.all.iter().any(|plug| plug.granted && !plug.told)
            || (waited < now.patience * UNDER_WAY && self.plugs.all.iter().any(|plug| !plug.granted));
        self.due = now.instant + if awaits { self.wait } else { now.every };
        self.wait = (self.wait * GROWTH).min(SLOWEST);
    }

    /// Parts what is known from what is loose; what is known and not there is gone.
    fn match_known(&mut self, seen: Vec<Sighted>, now: Now, acts: &mut Vec<Act>) -> Vec<Sighted> {
        let mut loose: Vec<Option<Sighted>> = seen.into_iter().map(Some).collect();
        let mut gone = Vec::new();
        self.held.retain_mut(|known| {
            let is = |sighted: &Option<Sighted>| sighted.as_ref().is_some_and(|sighted| known.is(sighted));
            let found = if known.is_closed() { None } else { loose.iter().position(is) };
            match found.and_then(|at| loose[at].take()) {
                Some(sighted) => {
                    known.fds = sighted.fds;
                    place(known, sighted.link, acts);
                    // A change is seen where all bridges are looked at.
                    known.port = known.port.take().or(sighted.port);
                    true
                }
                None => {
                    gone.push(known.clone());
                    false
                }
            }
        });
        let mut loose: Vec<Sighted> = loose.into_iter().flatten().collect();
        self.match_moved(&mut gone, &mut loose, now, acts);
        let reused = known::give_up_reused(&self.plugs, &mut self.held, &mut loose);
        let looked = self.looked;
        let gone = gone.into_iter().map(|known| (known, false));
        // All vhost-nets are alike, and counted: whichever it is, there is one less than before.
        let reused = reused.into_iter().map(|known| {
            let is_counted = known.descriptor.device.kind == DeviceKind::VhostNet;
            (known, !is_counted)
        });
        for (known, by_records) in gone.chain(reused) {
            let at_once = |at: Timestamp| now.time.duration_since(at).abs() <= AT_ONCE;
            let mut detached =
                self.plugs.detached.iter().filter(|detached| Some(detached.mac) == known.descriptor.mac);
            let in_time = looked.is_some_and(at_once) || detached.any(|detached| at_once(detached.at));
            let last_seen = if in_time { None } else { looked };
            let (at, since) = (now.time, now.instant);
            self.vanished.push(Vanished { known, at, since, last_seen, looked, by_records });
        }
        loose
    }

    /// Knows again what is there under another number, at once or later: QEMU may duplicate a descriptor before it
    /// closes the one that is known.
    fn match_moved(
        &mut self,
        gone: &mut Vec<Known>,
        loose: &mut Vec<Sighted>,
        now: Now,
        acts: &mut Vec<Act>,
    ) {
        let is_backed = |held: &[Known], plug: Option<u64>| {
            held.iter().any(|known| {
                known.plug.is_some()
                    && known.plug == plug
                    && known.descriptor.device.kind != DeviceKind::VhostNet
            })
        };
        let held = &self.held;
        let mut back: Vec<Known> = gone
            .extract_if(.., |known| {
                let is_backed = is_backed(held, known.plug);
                take_moved(known, is_backed, loose, acts)
            })
            .collect();
        for Vanished { mut known, at, since, last_seen, looked, by_records } in
            std::mem::take(&mut self.vanished)
        {
            let is_backed = is_backed(&self.held, known.plug);
            let again = loose.iter().position(|sighted| !known.is_closed() && known.is(sighted));
            let is_back = match again.map(|at| loose.remove(at)) {
                Some(sighted) => {
                    known.fds = sighted.fds;
                    place(&mut known, sighted.link, acts);
                    true
                }
                None => take_moved(&mut known, is_backed, loose, acts),
            };
            if !is_back {
                self.vanished.push(Vanished { known, at, since, last_seen, looked, by_records });
                continue;
            }
            // It was told to be given up, and that was believed.
            if now.time > at && !self.plugs.all.iter().any(|plug| Some(plug.number) == known.plug) {
                acts.push(Act::Still(known.descriptor.clone()));
            }
            back.push(known);
        }
        self.held.append(&mut back);
    }

    /// Ends what the kernel shows to be given up, and after some patience the others, with the doubt that is left.
    fn settle_vanished(&mut self, now: Now, end: &mut ShownEnd<'_>, acts: &mut Vec<Act>) {
        for vanished in std::mem::take(&mut self.vanished) {
            let shown = match vanished.known.file {
                // Somebody else has it. Its end is the last close, whoever has it meanwhile.
                FileState::Open { .. } => {
                    self.vanished.push(vanished);
                    continue;
                }
                FileState::Closed(_) | FileState::ClosedUnheard(_) => Ok(()),
                FileState::Unknown | FileState::Lost if vanished.by_records => {
                    Err(CloseDoubt::Uncounted.into())
                }
                FileState::Unknown | FileState::Lost => end(&vanished.known),
            };
            match shown {
                Err(_) if now.instant.duration_since(vanished.since) < now.patience => {
                    self.vanished.push(vanished);
                }
                shown => acts.push(vanished.ends(now, shown.err())),
            }
        }
    }

    /// Looks again for what vanished: QEMU can't be asked any more.
    pub(super) fn look_for_vanished(&mut self, now: Now, end: &mut ShownEnd<'_>, acts: &mut Vec<Act>) {
        self.settle_vanished(now, end, acts);
        if self.awaits_vanished() {
            self.due = now.instant + self.wait;
            self.wait = (self.wait * GROWTH).min(SLOWEST);
        } else if let (Qemu::Gone { .. }, Some(since)) = (&self.qemu, self.since) {
            // Its manager has so long to say why.
            self.due = self.due.min(since + now.patience);
        }
    }

    /// Gives what is loose to the interfaces that it serves, and tells of what serves none.
    fn bind(
        &mut self,
        pid: u32,
        sighted: Vec<Sighted>,
        now: Now,
        waited: Duration,
        next: &mut u64,
        acts: &mut Vec<Act>,
    ) {
        let mut devices: Vec<(Loose, Vec<Sighted>)> = Vec::new();
        for one in sighted {
            let same = |(loose, _): &&mut (Loose, Vec<Sighted>)| {
                loose.device == one.device && one.device.kind != DeviceKind::VhostNet
            };
            let number = one.fds.first().copied().unwrap_or_default();
            match devices.iter_mut().find(same) {
                Some((loose, all)) => {
                    loose.fds.push(number);
                    all.push(one);
                }
                None => {
                    let (device, address, named) = (one.device.clone(), one.address, one.named);
                    devices.push((Loose { device, address, named, fds: vec![number] }, vec![one]));
                }
            }
        }
        let leaving = self.plugs.leaving();
        let wanting: Vec<Wanting> =
            self.plugs.all.iter().map(|plug| self.wanting(plug, leaving.contains(&plug.number))).collect();
        let loose: Vec<Loose> = devices.iter().map(|(loose, _)| loose.clone()).collect();
        let none = bind::Before::new();
        let bound = bind::bind(&wanting, &loose, if self.from_start { &none } else { &self.started_with });
        let before = std::mem::take(&mut self.loose);
        // In the order of their interfaces, backends first: so a reader sees what belongs together.
        let mut order: Vec<usize> = (0..devices.len()).collect();
        order.sort_by_key(|at| (bound[*at].wanting.unwrap_or(usize::MAX), devices[*at].0.device.kind, *at));
        for at in order {
            let (loose, all) = &mut devices[at];
            let known = before.iter().find(|(fd, device, _)| *fd == loose.fds[0] && *device == loose.device);
            let since = known.map_or(now.instant, |(.., since)| *since);
            let plug = bound[at].wanting.map(|wanting| &mut self.plugs.all[wanting]);
            let patience = match &plug {
                Some(plug) if plug.granted => Duration::ZERO,
                Some(_) => now.patience * UNDER_WAY,
                None => now.patience,
            };
            if now.instant.duration_since(since).max(if plug.is_some() { waited } else { Duration::ZERO })
                < patience
            {
                self.loose.push((loose.fds[0], loose.device.clone(), since));
                continue;
            }
            let open = plug.as_ref().and_then(|plug| {
                let of = |opened: &&Opened| opened.device.kind == loose.device.kind;
                plug.opened.iter().find(of).or(plug.opened.first()).map(|opened| opened.number)
            });
            let number = plug.map(|plug| {
                plug.granted = true;
                plug.see(loose.device.kind);
                plug.number
            });
            for sighted in all.drain(..) {
                let known = self.known_from(pid, sighted, number, bound[at].mac, next);
                // A reader takes them for one where the first has no end.
                let is_same = |vanished: &mut Vanished| {
                    let before = &vanished.known.descriptor;
                    before.fd == known.descriptor.fd && before.device == known.descriptor.device
                };
                for vanished in self.vanished.extract_if(.., is_same) {
                    acts.push(vanished.ends(now, Some(Doubt { why: CloseDoubt::Uncounted, holder: None })));
                }
                let (descriptor, link) = (known.descriptor.clone(), known.link);
                acts.push(Act::Seen { number: known.number, descriptor, open, link });
                self.held.push(known);
            }
        }
    }

    fn known_from(
        &self,
        pid: u32,
        sighted: Sighted,
        plug: Option<u64>,
        mac: Option<MacAddr>,
        next: &mut u64,
    ) -> Known {
        let alike = self.held.iter().filter(|known| {
            known.plug == plug && known.descriptor.mac == mac && known.descriptor.device == sighted.device
        });
        let queue = u32::try_from(alike.count()).ok();
        let fd = sighted.fds.first().copied().unwrap_or_default();
        let descriptor = Descriptor { mac, device: sighted.device, queue, vm_pid: pid, fd };
        *next += 1;
        let Sighted { fds, link, port, .. } = sighted;
        Known { number: *next, descriptor, fds, link, port, plug, file: FileState::Unknown }
    }

    fn wanting(&self, plug: &Plug, leaving: bool) -> Wanting {
        let mut seen: Vec<(Device, Vec<u32>)> = Vec::new();
        for known in self.held.iter().filter(|known| known.plug == Some(plug.number)) {
            match seen.iter_mut().find(|(device, _)| *device == known.descriptor.device) {
                Some((_, fds)) => fds.push(known.descriptor.fd),
                None => seen.push((known.descriptor.device.clone(), vec![known.descriptor.fd])),
            }
        }
        let unseen = |opened: &&Opened| !plug.has_seen(opened.device.kind);
        let opened = match plug.over {
            true => Vec::new(),
            false => plug.opened.iter().filter(unseen).map(|opened| opened.device.clone()).collect(),
        };
        let started_with = match plug.by_start {
            true => self.started_with.get(&plug.mac).cloned().unwrap_or_default(),
            false => Vec::new(),
        };
        Wanting { mac: plug.mac, opened, seen, granted: plug.granted, leaving, started_with }
    }

    /// What should be gone, and is not, is told once.
    fn tell_still(&mut self, now: Now, waited: Duration, acts: &mut Vec<Act>) {
        let meant = self.plugs.stays(|at| now.time.duration_since(at).unsigned_abs() >= now.patience);
        let is_meant = |known: &&Known| known.plug.is_some_and(|plug| meant.contains(&plug));
        acts.extend(self.held.iter().filter(is_meant).map(|known| Act::Still(known.descriptor.clone())));
        if let Some(stop) = self.stop.as_mut().filter(|stop| !stop.told && waited >= now.patience) {
            stop.told = true;
            acts.extend(self.held.iter().map(|known| Act::Still(known.descriptor.clone())));
        }
    }

    /// Takes back that what should have been gone by then was told to be there.
    pub(super) fn recall_still(&mut self, then: Timestamp, patience: Duration) {
        let is_late = |at: Timestamp| then.duration_since(at).unsigned_abs() >= patience;
        self.plugs.stays(is_late);
        if let Some(stop) = &mut self.stop {
            stop.told |= is_late(stop.at);
        }
    }

    /// Tells of each interface that QEMU has it, once that was seen or is not to be seen.
    fn tell_granted(&mut self, pid: u32, at_last: bool, acts: &mut Vec<Act>) {
        for plug in &mut self.plugs.all {
            // An interface that needs no raw device has not to be waited for.
            let needs_none = || {
                let netdevs = self.netdevs.get(&plug.mac).filter(|_| plug.by_start && plug.opened.is_empty());
                netdevs.is_some_and(|netdevs| netdevs.iter().all(|netdev| !netdev.is_raw()))
            };
            if plug.told || !plug.granted || !(plug.is_seen() || at_last || needs_none()) {
                continue;
            }
            plug.told = true;
            let of = self.held.iter().filter(|known| known.plug == Some(plug.number));
            let descriptors = of.map(|known| known.descriptor.clone()).collect();
            acts.push(Act::Granted { mac: plug.mac, pid, descriptors });
        }
    }

    /// Whether QEMU holds a device that belongs to no known interface.
    pub(super) fn has_unbound(&self) -> bool {
        !self.loose.is_empty() || self.held.iter().any(|known| known.descriptor.mac.is_none())
    }

    /// QEMU has ended: what it held itself went with it. Whether somebody else holds it is looked for.
    pub(super) fn ended(
        &mut self,
        pid: u32,
        attended: bool,
        now: Now,
        end: &mut ShownEnd<'_>,
        acts: &mut Vec<Act>,
    ) {
        let looked = self.looked;
        let last_seen = if attended { None } else { looked };
        // What a watcher before us told, it is not told again.
        if attended || !self.held.is_empty() || !self.vanished.is_empty() {
            acts.push(Act::Ended { pid });
        }
        let vanished = self.held.drain(..).map(|known| {
            let looked = if attended { Some(now.time) } else { looked };
            let (at, since, by_records) = (now.time, now.instant, false);
            Vanished { known, at, since, last_seen, looked, by_records }
        });
        self.vanished.extend(vanished);
        self.loose.clear();
        self.plugs = Plugs::default();
        self.qemu = Qemu::Gone { pid, last_seen };
        (self.since, self.wait, self.due) = (Some(now.instant), SOON, now.instant + now.patience);
        self.look_for_vanished(now, end, acts);
        for Vanished { known, .. } in self.vanished.iter().filter(|vanished| vanished.known.is_open()) {
            warn!(
                "QEMU of guest '{}' has ended, and its descriptor {} of {} is open still: somebody else has it",
                self.id.name, known.descriptor.fd, known.descriptor.device.path
            );
        }
    }

    /// All that is known, QEMU may show it or not.
    pub(super) fn all_known(&mut self) -> impl Iterator<Item = &mut Known> {
        let vanished = self.vanished.iter_mut().map(|vanished| &mut vanished.known);
        self.held.iter_mut().chain(vanished)
    }

    /// Whether the kernel says that somebody has what QEMU shows no more.
    pub(super) fn has_open_vanished(&self) -> bool {
        self.vanished.iter().any(|vanished| vanished.known.is_open())
    }

    /// Whether it is to be looked for what QEMU shows no more. What is open the kernel tells the end of.
    fn awaits_vanished(&self) -> bool {
        self.vanished.iter().any(|vanished| !vanished.known.is_open())
    }

    /// Whether the account is over, and by whose word.
    pub(super) fn settle_end(&mut self, now: Now, acts: &mut Vec<Act>) -> bool {
        let since = *self.since.get_or_insert(now.instant);
        let waited = now.instant.duration_since(since);
        if let Qemu::Gone { pid, last_seen } = self.qemu
            && self.stop.is_none()
            && !self.failed
            && waited >= now.patience
            && !self.awaits_vanished()
            && !std::mem::replace(&mut self.gone_told, true)
        {
            acts.push(Act::GuestGone { pid, last_seen });
        }
        match (&self.qemu, &self.stop) {
            // First what it held has its end.
            _ if !self.vanished.is_empty() => return false,
            (Qemu::Gone { .. } | Qemu::Unknown, Some(stop)) => acts.push(Act::Ends(stop.reason.clone())),
            (Qemu::Gone { .. } | Qemu::Unknown, None) if self.failed => acts.push(Act::Ends(Reason::FAILED)),
            // Which process it was is not known, and its manager says that it is over.
            (Qemu::Told { .. }, Some(stop)) if waited >= now.patience => {
                acts.push(Act::Ends(stop.reason.clone()));
            }
            // Its pid may be a container's, and this another process: what holds nothing, nobody has to wait for.
            (Qemu::Runs { named: false, .. }, Some(stop))
                if waited >= now.patience && self.held.is_empty() && self.loose.is_empty() =>
            {
                acts.push(Act::Ends(stop.reason.clone()));
            }
            (Qemu::Gone { .. }, None) if self.gone_told => acts.push(Act::Ends(Reason::EXITED)),
            // Its start was never finished, and its manager says no more.
            (Qemu::Unknown, None) if !self.running && waited >= ABANDONED => {
                acts.push(Act::Ends(Reason::UNKNOWN));
            }
            _ => return false,
        }
        true
    }
}

impl Vanished {
    /// Its end, as it is seen now; with a doubt where the kernel does not show it.
    fn ends(self, now: Now, doubt: Option<Doubt>) -> Act {
        // What took long to be shown ended at some time since it was last seen.
        let is_late = now.time.duration_since(self.at) > AT_ONCE;
        let last_seen = if is_late { self.last_seen.or(self.looked) } else { self.last_seen };
        let Known { number, descriptor, file, .. } = self.known;
        let (at, last_seen) = match file {
            FileState::Closed(at) => (Some(at), None),
            FileState::ClosedUnheard(open) => (None, Some(open)),
            FileState::Unknown | FileState::Open { .. } | FileState::Lost => (None, last_seen),
        };
        Act::Gone { number, descriptor, at, last_seen, doubt }
    }
}

/// Takes over where the interface behind a descriptor is by now.
fn place(known: &mut Known, link: Option<Place>, acts: &mut Vec<Act>) {
    if let Some(link) = link.filter(|link| Some(*link) != known.link) {
        known.link = Some(link);
        acts.push(Act::Placed { number: known.number, link });
    }
}

/// Takes out of what is loose what a descriptor has become under another number.
fn take_moved(known: &mut Known, is_backed: bool, loose: &mut Vec<Sighted>, acts: &mut Vec<Act>) -> bool {
    if known.is_closed() {
        return false;
    }
    let at = loose.iter().position(|sighted| known.has_moved_to(sighted, is_backed));
    let Some(sighted) = at.map(|at| loose.remove(at)) else { return false };
    warn!(
        "Process {} has its descriptor of {} under other numbers than before: {:?} for {:?}",
        known.descriptor.vm_pid, known.descriptor.device.path, sighted.fds, known.fds
    );
    known.fds = sighted.fds;
    place(known, sighted.link, acts);
    true
}

/// What a glance tells of a device's interface.
pub(super) fn tap_name(device: &Device) -> Option<&str> {
    device.dev.as_deref().filter(|_| device.kind == DeviceKind::Tun)
}
