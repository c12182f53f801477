//! A hostile QEMU takes random steps, and the result is compared with what it really holds: no held
//! device is reported as definitively released, devices that processes show are on record as held,
//! and in the end nothing is left open.
//!
//! `TAPTRAIL_HOSTILE_STEPS` and `TAPTRAIL_HOSTILE_SEED` set the number of steps and the seed.

#![allow(clippy::print_stderr, reason = "a run that fails prints its steps")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use taptrail_kernel::link::Links;
use taptrail_ledger::StoredRecord;
use taptrail_record::{Descriptor, Event, GuestId, MacAddr, RecordType, parse_text};
use taptrail_trail::{Certainty, FindingKind, Holding, State};
use taptrail_witness::watch::EventKind;
use uuid::Uuid;

use crate::hidden::{Hidden, Orphan, Puppet, Way, lands};
use crate::lab::{Lab, ip, lab, mac};
use crate::manager::{Opened, attach, detach, id, lasting_tap, macvtap, op_start, op_stop, start, tap};

/// How long the expected end state may take to come.
const LONG: Duration = Duration::from_secs(20);

/// Persistent taps that were made by other programs, with their queues.
const LASTING: [(&str, u16); 3] = [("one0", 1), ("one1", 1), ("many0", 2)];

/// A random generator with a known seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*, https://www.jstatsoft.org/article/view/v008i14
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % limit
    }

    fn is(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    /// The index of a random item that fulfils a condition.
    fn of<T>(&mut self, all: &[T], is: impl Fn(&T) -> bool) -> Option<usize> {
        let those: Vec<usize> = (0..all.len()).filter(|at| is(&all[*at])).collect();
        (!those.is_empty()).then(|| those[self.below(those.len())])
    }
}

/// An open file of a device, and how it is kept.
#[derive(Debug)]
enum Kept {
    /// By this process, under its number.
    Own(OwnedFd),
    Hidden(Way, Hidden),
    /// By the puppet, under or behind this number.
    Theirs(RawFd, Theirs),
    Orphan(#[allow(dead_code, reason = "it is held")] Orphan),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theirs {
    Descriptor,
    Ring,
    Flight,
    Aside,
}

impl Kept {
    /// Whether `/proc` shows that QEMU has the device.
    fn is_shown(&self) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Hidden(way, _) => way.is_shown(),
            Self::Theirs(_, how) => *how == Theirs::Descriptor,
            Self::Orphan(_) => false,
        }
    }

    /// Whether it is under a number of QEMU's first thread.
    fn is_plain(&self) -> bool {
        matches!(self, Self::Own(_) | Self::Theirs(_, Theirs::Descriptor))
    }
}

/// A device that was opened for an interface.
#[derive(Debug)]
struct Plug {
    guest: usize,
    /// The puppet that has it; none if this process has it.
    puppet: Option<usize>,
    mac: MacAddr,
    dev: String,
    files: Vec<Kept>,
    /// Whether its link is deleted, so that its files reach no network.
    is_dead: bool,
    /// Whether its manager has recorded that QEMU has it.
    is_granted: bool,
    /// The number of events when its manager recorded the detach.
    detach_recorded: Option<usize>,
    /// Whether the current watcher has looked since it was opened.
    was_seen: bool,
    /// Whether a watcher has ended since it was opened.
    is_recalled: bool,
    /// Whether it was out of sight and is back: it may be closed on record.
    is_back: bool,
}

impl Plug {
    fn shown(&self) -> usize {
        self.files.iter().filter(|file| file.is_shown()).count()
    }

    fn is_plugged(&self) -> bool {
        self.is_granted && self.detach_recorded.is_none()
    }
}

struct Guest {
    id: GuestId,
    /// Whether this process is its QEMU.
    is_own: bool,
    puppet: Option<usize>,
    /// Whether its manager has recorded that it runs, and not that it has stopped.
    runs: bool,
    /// Whether its process has ended.
    has_ended: bool,
}

struct World {
    lab: Lab,
    random: Random,
    guests: Vec<Guest>,
    plugs: Vec<Plug>,
    /// How many devices were opened for an interface since its guest booted.
    opens: BTreeMap<(usize, MacAddr), u32>,
    puppets: Vec<Option<Puppet>>,
    /// The steps taken, for debugging.
    story: Vec<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.story.join("\n"));
            for stored in self.lab.ledger().into_records().map(Result::unwrap) {
                eprintln!("{} {} {}", stored.time, stored.kind, stored.text);
            }
            eprintln!("{:#?}", self.lab.report().holdings.iter().map(brief).collect::<Vec<_>>());
        }
    }
}

fn brief(holding: &Holding) -> String {
    let (name, last) = (&holding.guest.name, holding.mac.0[5]);
    let dev = holding.device.dev.as_deref().unwrap_or("-");
    let (state, certainty) = (holding.state.as_str(), holding.certainty.as_str());
    let doubt = holding.end_doubt.map_or("", |doubt| doubt.as_str());
    format!("{name} {last:02x} {dev} {state} {certainty} {doubt}")
}

impl World {
    fn new(mut lab: Lab, seed: u64) -> Self {
        lab.patience = Duration::from_millis(40);
        lab.watcher = None;
        lab.watch();
        for (name, queues) in LASTING {
            ip(&format!("tuntap add dev {name} mode tap{}", if queues > 1 { " multi_queue" } else { "" }));
        }
        let guest = |number: u128| {
            let GuestId { uuid, .. } = id();
            let id = GuestId {
                name: format!("web{number}").into(),
                uuid: Uuid::from_u128(uuid.as_u128() + (number << 64)),
            };
            Guest { id, is_own: number == 1, puppet: None, runs: false, has_ended: true }
        };
        let guests = vec![guest(1), guest(2), guest(3)];
        let (plugs, puppets, story) = (Vec::new(), Vec::new(), Vec::new());
        Self { lab, random: Random(seed), guests, plugs, opens: BTreeMap::new(), puppets, story }
    }

    fn logs(&mut self, what: String) {
        self.story.push(what);
    }

    fn round(&mut self) {
        if self.lab.watcher.is_some() {
            self.lab.round();
            let seen = self.plugs.iter_mut().filter(|plug| plug.is_plugged() && plug.shown() > 0);
            seen.for_each(|plug| plug.was_seen = true);
            self.assert_nothing_held_is_over();
        }
    }

    /// Lets the watcher look, or not: it may look between any two steps.
    fn may_round(&mut self) {
        if self.random.is(2) {
            self.logs("  (a look)".into());
            self.round();
        }
    }

    /// Each held device has a holding of its own that is not reported as definitively released.
    fn assert_nothing_held_is_over(&self) {
        let report = self.lab.report();
        let is_over = |holding: &Holding| {
            let is_certain = holding.certainty == Certainty::Definitive && holding.end_doubt.is_none();
            holding.state == State::Released && is_certain
        };
        let left: Vec<&Holding> = report.holdings.iter().filter(|holding| !is_over(holding)).collect();
        let held: Vec<&Plug> =
            self.plugs.iter().filter(|plug| !plug.files.is_empty() && !plug.is_dead).collect();
        let fits = |plug: &Plug, holding: &Holding| {
            (&holding.guest, holding.mac) == (&self.guests[plug.guest].id, plug.mac)
                && holding.device.dev.as_ref().is_none_or(|dev| *dev == *plug.dev)
        };
        let mut taken: Vec<Option<usize>> = vec![None; left.len()];
        for at in 0..held.len() {
            let is_matched = matches(at, &mut taken, &mut vec![false; left.len()], &|plug, holding| {
                fits(held[plug], left[holding])
            });
            assert!(
                is_matched,
                "{:?} is held and reported as released: {:#?}",
                held[at],
                self.lab.released()
            );
        }
    }

    /// How many descriptors of each device are on record as held, of an interface or of none.
    fn recorded(&self) -> BTreeMap<(Uuid, String), usize> {
        let ledger = self.lab.ledger();
        let mut held = BTreeSet::new();
        for guest in ledger.live_guests().unwrap() {
            let read = |stored: StoredRecord| {
                let record = parse_text(RecordType(stored.kind), stored.text.as_bytes()).unwrap().unwrap();
                let key = |descriptor: &Descriptor| {
                    let dev = descriptor.device.dev.clone().unwrap_or_default().to_string();
                    (guest.id.uuid, dev, descriptor.fd)
                };
                match &record.event {
                    Event::Seen(descriptor) => drop(held.insert(key(descriptor))),
                    Event::Gone(descriptor) => drop(held.remove(&key(descriptor))),
                    _ => {}
                }
            };
            ledger.each_record(guest.key, read).unwrap();
        }
        let mut recorded = BTreeMap::new();
        for (guest, dev, _) in held {
            *recorded.entry((guest, dev)).or_default() += 1;
        }
        recorded
    }

    /// Devices that processes show and that are not on record, and missing findings.
    fn complaints(&self) -> Vec<String> {
        let recorded = self.recorded();
        let mut shown: BTreeMap<(Uuid, String), usize> = BTreeMap::new();
        let mut all = Vec::new();
        for plug in self.plugs.iter().filter(|plug| plug.is_granted && !plug.is_dead) {
            let guest = &self.guests[plug.guest].id;
            if plug.shown() == 0 || plug.is_back {
                continue;
            }
            *shown.entry((guest.uuid, plug.dev.clone())).or_default() += plug.shown();
            // Of several interfaces with one MAC the detach may have been another's.
            let is_alone = self.opens.get(&(plug.guest, plug.mac)) == Some(&1);
            let is_known = is_alone && plug.was_seen && !plug.is_recalled;
            let Some(since) = plug.detach_recorded.filter(|_| is_known) else { continue };
            let is_found = self.lab.happened[since..].iter().any(|event| match &event.kind {
                EventKind::Found(finding) => {
                    (finding.kind, finding.mac) == (FindingKind::HeldAfterRelease, Some(plug.mac))
                        && finding.guest.as_ref() == Some(guest)
                }
                _ => false,
            });
            if !is_found {
                all.push(format!("no held-after-release of {plug:?}"));
            }
        }
        for (key, shown) in shown {
            if recorded.get(&key).copied().unwrap_or(0) < shown {
                all.push(format!("{key:?} is shown {shown} times, and on record are {recorded:?}"));
            }
        }
        all
    }

    /// Looks until the state is as expected.
    fn comes_to_rest(&mut self) {
        self.logs("comes to rest".into());
        self.watches();
        self.lab.run_past_patience();
        self.eventually(Self::complaints);
    }

    fn eventually(&mut self, complaints: impl Fn(&Self) -> Vec<String>) {
        let deadline = Instant::now() + LONG;
        loop {
            self.round();
            let left = complaints(self);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{left:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn watches(&mut self) {
        if self.lab.watcher.is_none() {
            self.logs("a watcher begins".into());
            self.lab.watch();
            self.round();
        }
    }

    fn rests(&mut self) {
        self.logs("the watcher ends".into());
        if self.random.is(2)
            && let Some(watcher) = &mut self.lab.watcher
        {
            watcher.final_look();
            self.lab.happened.extend(watcher.commit(None).unwrap());
        }
        self.lab.watcher = None;
        self.plugs.iter_mut().for_each(|plug| plug.is_recalled = true);
    }

    /// Opens a device for an interface, if one can be opened now.
    fn opens(&mut self, guest: usize, mac: MacAddr) -> Option<Plug> {
        let exists = |name: &str| Links::open().unwrap().find(&name.parse().unwrap()).unwrap().is_some();
        // A device belongs to one interface at a time, whatever QEMU keeps.
        let may_open = |name: &str, queues: u16| {
            let mut held = self.plugs.iter().filter(|plug| plug.dev == name && !plug.files.is_empty());
            held.all(|plug| queues > 1 && (plug.guest, plug.mac) == (guest, mac))
        };
        let kinds = if self.guests[guest].is_own { 4 } else { 6 };
        let (opened, dev) = match self.random.below(kinds) {
            0..=2 => {
                let dev = (0..8).map(|number| format!("vnet{number}")).find(|name| !exists(name))?;
                (tap(&dev, mac, if self.random.is(3) { 2 } else { 1 }), dev)
            }
            3 => {
                let (dev, queues) = LASTING[self.random.below(LASTING.len())];
                if !may_open(dev, queues) {
                    return None;
                }
                (lasting_tap(dev, mac, queues), dev.to_owned())
            }
            _ => {
                let opened = macvtap(mac, 1 + u16::from(self.random.is(3)));
                let dev = opened.recorded.path.to_string();
                (opened, dev)
            }
        };
        self.lab.log_open(&self.guests[guest].id.clone(), &opened);
        let puppet = self.guests[guest].puppet;
        self.logs(format!("web{} opens {dev} x{} for {mac}", guest + 1, opened.devices.len()));
        let files = self.gives(puppet, opened);
        *self.opens.entry((guest, mac)).or_default() += 1;
        Some(Plug {
            guest,
            puppet,
            mac,
            dev,
            files,
            is_dead: false,
            is_granted: false,
            detach_recorded: None,
            was_seen: false,
            is_recalled: false,
            is_back: false,
        })
    }

    /// Passes a device from the manager to QEMU.
    fn gives(&mut self, puppet: Option<usize>, opened: Opened) -> Vec<Kept> {
        let mut give = |file: OwnedFd| match puppet {
            Some(puppet) => Kept::Theirs(self.puppet(puppet).takes(&file), Theirs::Descriptor),
            None => Kept::Own(file),
        };
        let files = opened.devices.into_iter().map(|device| device.as_fd().try_clone_to_owned().unwrap());
        files.map(&mut give).collect()
    }

    fn puppet(&mut self, puppet: usize) -> &mut Puppet {
        self.puppets[puppet].as_mut().unwrap()
    }

    /// A MAC of a guest that its manager does not use now.
    fn free_mac(&mut self, guest: usize) -> Option<MacAddr> {
        let last = u8::try_from(16 * (guest + 1) + self.random.below(4)).unwrap();
        let is_used = self.plugs.iter().any(|plug| plug.mac == mac(last) && plug.is_plugged());
        (!is_used).then(|| mac(last))
    }

    fn boots(&mut self, guest: usize) {
        let id = self.guests[guest].id.clone();
        if self.guests[guest].is_own {
            // It is the same process as before: its last instance must be over.
            if self.lab.guests().iter().any(|row| row.id == id && row.ended.is_none()) {
                return;
            }
        } else {
            self.puppets.push(Some(Puppet::start()));
            self.guests[guest].puppet = Some(self.puppets.len() - 1);
        }
        self.logs(format!("web{} boots", guest + 1));
        self.opens.retain(|(of, _), _| *of != guest);
        for plug in self.plugs.iter_mut().filter(|plug| plug.guest == guest) {
            plug.detach_recorded.get_or_insert(self.lab.happened.len());
        }
        let mut macs = Vec::new();
        for _ in 0..self.random.below(3) {
            if let Some(mac) = self.free_mac(guest)
                && !macs.contains(&mac)
                && let Some(mut plug) = self.opens(guest, mac)
            {
                macs.push(mac);
                plug.is_granted = true;
                self.plugs.push(plug);
            }
        }
        for mac in macs {
            self.lab.log_record(&id, start(mac));
        }
        let pid = self.guests[guest].puppet.map_or_else(std::process::id, |at| self.puppet(at).pid());
        self.lab.log_record(&id, op_start(pid));
        (self.guests[guest].runs, self.guests[guest].has_ended) = (true, false);
    }

    fn plugs_in(&mut self, guest: usize) {
        let Some(mac) = self.free_mac(guest) else { return };
        let id = self.guests[guest].id.clone();
        let Some(plug) = self.opens(guest, mac) else { return };
        self.plugs.push(plug);
        let at = self.plugs.len() - 1;
        self.may_round();
        if self.random.is(8) {
            self.logs("  … and it fails".into());
            // QEMU gives it back, or not.
            if self.random.is(2) {
                self.gives_up(at, true);
            }
            self.lab.log_failure(&id, attach(mac));
        } else {
            self.lab.log_record(&id, attach(mac));
            self.plugs[at].is_granted = true;
        }
    }

    /// QEMU hides files, gives files up, or does nothing.
    fn pretends(&mut self, at: usize) {
        for file in 0..self.plugs[at].files.len() {
            if self.random.is(2) {
                self.hides(at, file);
            }
        }
        if self.random.is(2) {
            self.gives_up(at, false);
        }
    }

    /// QEMU hides a file.
    fn hides(&mut self, at: usize, file: usize) {
        if !self.plugs[at].files[file].is_plain() {
            return;
        }
        let way = self.random.below(4);
        let kept = self.plugs[at].files.remove(file);
        let kept = match kept {
            Kept::Own(file) => {
                let way = [Way::Number, Way::Thread, Way::Flight, Way::Child][way];
                Kept::Hidden(way, way.hides(file))
            }
            Kept::Theirs(fd, _) => {
                let puppet = self.plugs[at].puppet.unwrap();
                let puppet = self.puppet(puppet);
                match way {
                    0 => Kept::Theirs(puppet.moves(fd), Theirs::Descriptor),
                    1 => Kept::Theirs(puppet.registers(fd), Theirs::Ring),
                    2 => Kept::Theirs(puppet.sends(fd), Theirs::Flight),
                    _ => Kept::Orphan(puppet.leaves(fd)),
                }
            }
            kept => kept,
        };
        self.logs(format!("  {} of {} is kept as {kept:?}", self.plugs[at].dev, self.plugs[at].mac));
        self.plugs[at].files.insert(file, kept);
    }

    /// QEMU gives files up: all, or those that are not hidden.
    fn gives_up(&mut self, at: usize, all: bool) {
        let Plug { dev, mac, .. } = &self.plugs[at];
        self.story.push(format!(
            "  {dev} of {mac} is given up, {}",
            if all { "all" } else { "those that are not hidden" }
        ));
        let files = std::mem::take(&mut self.plugs[at].files);
        for file in files {
            match file {
                file if !all && !file.is_plain() => self.plugs[at].files.push(file),
                Kept::Theirs(fd, _) => {
                    let puppet = self.plugs[at].puppet.unwrap();
                    self.puppet(puppet).closes(fd);
                }
                file => drop(file),
            }
        }
    }

    fn unplugs(&mut self, at: usize) {
        let Plug { guest, mac, .. } = self.plugs[at];
        let id = self.guests[guest].id.clone();
        self.logs(format!("web{} unplugs {mac}", guest + 1));
        if self.random.is(4) {
            self.records_detach(at, &id);
            self.may_round();
            self.pretends(at);
        } else {
            self.pretends(at);
            self.may_round();
            self.records_detach(at, &id);
        }
        let plug = &mut self.plugs[at];
        if plug.dev.starts_with("macvtap") && !plug.is_dead && self.random.is(2) {
            self.story.push(format!("  {} is deleted", plug.dev));
            ip(&format!("link delete {}", plug.dev));
            plug.is_dead = true;
        }
    }

    fn records_detach(&mut self, at: usize, id: &GuestId) {
        self.logs("  … which is recorded".into());
        self.lab.log_record(id, detach(self.plugs[at].mac));
        self.plugs[at].detach_recorded = Some(self.lab.happened.len());
    }

    fn changes_bridge(&mut self, at: usize) {
        let Plug { guest, mac, .. } = self.plugs[at];
        let id = self.guests[guest].id.clone();
        self.logs(format!("web{} changes the bridge of {mac}", guest + 1));
        self.lab.log_record(&id, detach(mac));
        self.may_round();
        self.lab.log_record(&id, attach(mac));
    }

    /// A file that was out of sight comes back; or one goes out of sight and stays open.
    fn turns(&mut self, at: usize) {
        let Some(file) = self.random.of(&self.plugs[at].files, |_| true) else { return };
        let kept = self.plugs[at].files.remove(file);
        let puppet = self.plugs[at].puppet;
        let is_many = self.plugs[at].dev == "many0" || (self.plugs[at].files.len() > 1);
        let mut is_back = true;
        let kept = match kept {
            Kept::Hidden(Way::Flight, Hidden::Flight(ref socket)) => Kept::Own(lands(socket)),
            Kept::Theirs(fd, Theirs::Flight) => {
                Kept::Theirs(self.puppet(puppet.unwrap()).lands(fd), Theirs::Descriptor)
            }
            Kept::Theirs(fd, Theirs::Aside) => {
                self.puppet(puppet.unwrap()).sets_aside(fd, false);
                Kept::Theirs(fd, Theirs::Descriptor)
            }
            Kept::Theirs(fd, Theirs::Descriptor) if is_many && !self.plugs[at].dev.starts_with("macvtap") => {
                self.puppet(puppet.unwrap()).sets_aside(fd, true);
                Kept::Theirs(fd, Theirs::Aside)
            }
            Kept::Theirs(fd, Theirs::Descriptor) if self.plugs[at].dev.starts_with("vnet") => {
                self.puppet(puppet.unwrap()).makes_stay(fd);
                is_back = false;
                self.logs("stays:".into());
                Kept::Theirs(fd, Theirs::Descriptor)
            }
            kept => {
                is_back = false;
                kept
            }
        };
        self.logs(format!("{} of {} turns to {kept:?}", self.plugs[at].dev, self.plugs[at].mac));
        self.plugs[at].is_back |= is_back;
        self.plugs[at].files.insert(file, kept);
    }

    /// Ends a guest: its manager records the stop, and QEMU may be killed before or after.
    fn ends(&mut self, guest: usize) {
        let id = self.guests[guest].id.clone();
        let (is_recorded_first, is_killed) =
            (self.random.is(2), !self.guests[guest].is_own && !self.random.is(4));
        if is_recorded_first {
            self.stops(guest, &id);
            self.may_round();
        }
        if is_killed {
            self.dies(guest);
            self.may_round();
        }
        if !is_recorded_first {
            self.stops(guest, &id);
        }
    }

    fn stops(&mut self, guest: usize, id: &GuestId) {
        self.logs(format!("web{} stops, by its manager", guest + 1));
        self.lab.log_record(id, op_stop("shutdown"));
        self.guests[guest].runs = false;
        for plug in self.plugs.iter_mut().filter(|plug| plug.guest == guest) {
            plug.detach_recorded.get_or_insert(self.lab.happened.len());
        }
    }

    fn dies(&mut self, guest: usize) {
        self.logs(format!("web{} dies", guest + 1));
        self.guests[guest].has_ended = true;
        let puppet = self.guests[guest].puppet;
        self.ends_puppet(puppet.unwrap());
    }

    fn ends_puppet(&mut self, puppet: usize) {
        self.puppets[puppet] = None;
        for plug in self.plugs.iter_mut().filter(|plug| plug.puppet == Some(puppet)) {
            plug.files.retain(|file| !matches!(file, Kept::Theirs(..)));
        }
    }

    fn steps(&mut self) {
        let guest = self.random.below(self.guests.len());
        if !self.guests[guest].runs && self.random.is(3) {
            return self.boots(guest);
        }
        let (is_running, puppet) = (self.guests[guest].runs, self.guests[guest].puppet);
        let runs = |plug: &Plug| plug.guest == guest && plug.is_plugged();
        let here = |plug: &Plug| runs(plug) && plug.files.iter().any(Kept::is_plain);
        match self.random.below(24) {
            0..=7 if self.guests[guest].runs && !self.guests[guest].has_ended => self.plugs_in(guest),
            8..=12 => {
                // Or one that was unplugged before.
                let is_again = self.random.is(8);
                let is_its = |plug: &Plug| match is_again {
                    true => plug.guest == guest && plug.is_granted && plug.puppet == puppet,
                    false => runs(plug),
                };
                if let Some(at) = self.random.of(&self.plugs, is_its).filter(|_| is_running) {
                    self.unplugs(at);
                }
            }
            13 => {
                if let Some(at) = self.random.of(&self.plugs, here) {
                    self.logs("without a record:".into());
                    self.pretends(at);
                }
            }
            14..=16 => {
                if let Some(at) = self.random.of(&self.plugs, |plug| !plug.files.is_empty()) {
                    self.gives_up(at, true);
                }
            }
            17 => {
                if let Some(at) = self.random.of(&self.plugs, here) {
                    self.changes_bridge(at);
                }
            }
            18 | 19 => {
                if let Some(at) = self.random.of(&self.plugs, |plug| !plug.files.is_empty()) {
                    self.turns(at);
                }
            }
            20 if self.lab.watcher.is_some() => self.rests(),
            20 | 21 => self.watches(),
            22 => {
                let lost: Vec<usize> = (0..self.puppets.len())
                    .filter(|at| self.puppets[*at].is_some())
                    .filter(|at| !self.guests.iter().any(|guest| guest.puppet == Some(*at) && guest.runs))
                    .collect();
                for puppet in lost {
                    self.logs(format!("puppet {puppet} ends at last"));
                    self.ends_puppet(puppet);
                }
            }
            23 if self.guests[guest].runs => self.ends(guest),
            _ => {}
        }
    }

    /// QEMU gives everything up, and the managers record all ends.
    fn ends_all(&mut self) {
        self.logs("all ends".into());
        for at in 0..self.plugs.len() {
            self.gives_up(at, true);
        }
        for guest in 0..self.guests.len() {
            if self.guests[guest].runs {
                let id = self.guests[guest].id.clone();
                self.stops(guest, &id);
            }
        }
        for puppet in 0..self.puppets.len() {
            self.ends_puppet(puppet);
        }
        self.watches();
        self.eventually(|world| {
            let open = world.lab.guests().into_iter().filter(|row| row.ended.is_none());
            let open = open.map(|row| format!("{} is open", row.id.name));
            open.chain(world.lab.recorded_devices()).collect()
        });
        assert!(self.lab.ledger().faults().unwrap().is_empty());
        let report = self.lab.report();
        let is_open = |holding: &&Holding| matches!(holding.state, State::Held | State::Opening);
        let open: Vec<String> = report.holdings.iter().filter(is_open).map(brief).collect();
        assert_eq!(open, [""; 0]);
    }
}

/// Finds a match for `one`, which may take another's match if that one finds a new one.
fn matches(
    one: usize,
    taken: &mut [Option<usize>],
    tried: &mut [bool],
    fits: &dyn Fn(usize, usize) -> bool,
) -> bool {
    for at in 0..taken.len() {
        if tried[at] || !fits(one, at) {
            continue;
        }
        tried[at] = true;
        if taken[at].is_none_or(|other| matches(other, taken, tried, fits)) {
            taken[at] = Some(one);
            return true;
        }
    }
    false
}

// Shows 13.17.
#[test]
fn whatever_a_hostile_qemu_does_nothing_held_is_reported_as_released() {
    let number = |name, otherwise| {
        std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
    };
    let (steps, seed) = (number("TAPTRAIL_HOSTILE_STEPS", 80), number("TAPTRAIL_HOSTILE_SEED", 20_261_129));
    lab(|lab| {
        let mut world = World::new(lab, seed);
        for step in 0..steps {
            world.logs(format!("seed {seed}, step {step}:"));
            world.steps();
            world.may_round();
            if world.random.is(8) {
                world.comes_to_rest();
            }
        }
        world.ends_all();
    });
}
