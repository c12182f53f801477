//! Reconciles the descriptors that QEMU shows with those that are known and with its manager's
//! records.

use std::time::Duration;

use jiff::Timestamp;
use taptrail_bpf::FileState;
use taptrail_record::{Descriptor, Device, DeviceKind, MacAddr, Rdev};

use super::bind::{self, InterfaceCandidate, Match, UnboundDevice};
use super::evidence::EndCheck;
use super::guest::{BACKOFF_FACTOR, GuestInstance, LookContext, MAX_LOOK_DELAY, Observation, PendingDevice};
use super::interfaces::{GrantProgress, GrantedBy, ManagedInterface, OpenedDevice};
use super::known::{self, Absence, KnownDescriptor, Vanished, holds};
use super::observe::{FdSummary, ObservedDescriptor};
use super::vanished::{IN_TIME_TOLERANCE, update_link};

/// How many times the watcher's patience a hot-plug may take from its opens to its attach record.
const HOT_PLUG_PATIENCES: u32 = 6;

impl GuestInstance {
    /// Whether a quick scan shows exactly the known descriptors, and nothing is pending.
    pub(super) fn is_as_known(&self, summary: &FdSummary) -> bool {
        let settled = !self.needs_full_look
            && self.vanished.is_empty()
            && !self.held.iter().any(KnownDescriptor::is_closed)
            && self.unbound.is_empty()
            && self.interfaces.pending_detaches.is_empty()
            && self.stop.is_none()
            && !self.interfaces.all.iter().any(ManagedInterface::is_unreported);
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
        let unbound: Vec<_> = self.unbound_vdpa.iter().map(|device| (device.kind, device.rdev)).collect();
        let tracked = summary.iter().filter(|(_, kind, rdev, _)| !unbound.contains(&(*kind, Some(*rdev))));
        let is_there = |of: &(DeviceKind, Option<Rdev>)| {
            summary.iter().any(|(_, kind, rdev, _)| *of == (*kind, Some(*rdev)))
        };
        let mut seen: Vec<_> =
            tracked.map(|(fd, kind, rdev, name)| (*fd, *kind, Some(*rdev), name.as_deref())).collect();
        seen.sort_unstable();
        settled && known == seen && unbound.iter().all(is_there)
    }

    /// A quick scan has shown that all known descriptors are held.
    pub(super) fn mark_unchanged(&mut self, now: LookContext) {
        self.all_seen_at = Some(now.time);
        self.due = now.instant + now.every;
    }

    /// Takes the result of a full scan of QEMU.
    pub(super) fn reconcile(
        &mut self,
        pid: u32,
        seen: Vec<ObservedDescriptor>,
        now: LookContext,
        end: &mut EndCheck<'_>,
        next: &mut u64,
        observations: &mut Vec<Observation>,
    ) {
        self.needs_full_look = false;
        let since = *self.waiting_since.get_or_insert(now.instant);
        let waited = now.instant.duration_since(since);
        let unbound = self.match_known(seen, now, observations);
        let has_unbound_vhost = unbound.iter().any(|one| one.device.kind == DeviceKind::VhostNet);
        self.settle_vanished(|_, _| has_unbound_vhost, now, end, observations);
        let held = &self.held;
        self.interfaces.settle_detaches(|interface| holds(held, interface));
        let mut bound = Vec::new();
        self.bind(pid, unbound, now, waited, next, &mut bound);
        if has_unbound_vhost {
            self.settle_vanished(Self::may_be_unbound, now, end, observations);
        }
        observations.append(&mut bound);
        self.interfaces.settle_unseen_detaches();
        self.report_granted(pid, waited >= now.patience, observations);
        self.report_still_held(now, waited, observations);
        if !self.awaits_vanished() {
            self.all_seen_at = Some(now.time);
        }
        let awaits = !self.unbound.is_empty()
            || self.awaits_vanished()
            || !self.interfaces.pending_detaches.is_empty()
            || self.stop.as_ref().is_some_and(|stop| !stop.reported)
            || self.interfaces.all.iter().any(ManagedInterface::is_unreported)
            || (waited < now.patience * HOT_PLUG_PATIENCES
                && self.interfaces.all.iter().any(|interface| !interface.is_granted()));
        self.due = now.instant + if awaits { self.look_delay } else { now.every };
        self.look_delay = (self.look_delay * BACKOFF_FACTOR).min(MAX_LOOK_DELAY);
    }

    /// Removes the known descriptors from those that were seen, and returns the rest. Known
    /// descriptors that were not seen have vanished.
    fn match_known(
        &mut self,
        seen: Vec<ObservedDescriptor>,
        now: LookContext,
        observations: &mut Vec<Observation>,
    ) -> Vec<ObservedDescriptor> {
        let mut unbound: Vec<Option<ObservedDescriptor>> = seen.into_iter().map(Some).collect();
        let mut gone = Vec::new();
        self.held.retain_mut(|known| {
            let is = |observed: &Option<ObservedDescriptor>| {
                observed.as_ref().is_some_and(|observed| known.is(observed))
            };
            let found = if known.is_closed() { None } else { unbound.iter().position(is) };
            match found.and_then(|at| unbound[at].take()) {
                Some(observed) => {
                    known.fds = observed.fds;
                    update_link(known, observed.link, observations);
                    // A change of bridge is found where all bridges are read.
                    known.port = known.port.take().or(observed.port);
                    true
                }
                None => {
                    gone.push(known.clone());
                    false
                }
            }
        });
        let mut unbound: Vec<ObservedDescriptor> = unbound.into_iter().flatten().collect();
        self.match_moved(&mut gone, &mut unbound, now, observations);
        let reused = known::give_up_reused(&self.interfaces, &mut self.held, &mut unbound);
        let all_seen_at = self.all_seen_at;
        let gone = gone.into_iter().map(|known| (known, Absence::NotShown));
        for (known, absence) in gone.chain(reused) {
            let at_once = |at: Timestamp| now.time.duration_since(at).abs() <= IN_TIME_TOLERANCE;
            let mut detach = self
                .interfaces
                .pending_detaches
                .iter()
                .filter(|detach| Some(detach.mac) == known.descriptor.mac);
            let in_time = all_seen_at.is_some_and(at_once) || detach.any(|detach| at_once(detach.at));
            let last_seen = if in_time { None } else { all_seen_at };
            let (at, since) = (now.time, now.instant);
            self.vanished.push(Vanished { known, at, since, last_seen, all_seen_at, absence });
        }
        unbound
    }

    /// Assigns unbound descriptors to the interfaces that they serve, and reports those that serve
    /// none.
    fn bind(
        &mut self,
        pid: u32,
        observed: Vec<ObservedDescriptor>,
        now: LookContext,
        waited: Duration,
        next: &mut u64,
        observations: &mut Vec<Observation>,
    ) {
        let (unbound, mut descriptors) = group_by_device(observed);
        let (bound, lone) = self.find_interfaces(&unbound);
        let is_hot_plug = self.interfaces.all.iter().any(|interface| !interface.is_granted());
        let before = std::mem::take(&mut self.unbound);
        self.unbound_vdpa.clear();
        // Sorted by interface, backends first, so that a reader sees what belongs together.
        let mut order: Vec<usize> = (0..unbound.len()).collect();
        order.sort_by_key(|at| (bound[*at].candidate.unwrap_or(usize::MAX), unbound[*at].device.kind, *at));
        for at in order {
            let Match { candidate, mac } = bound[at];
            let (fd, device) = (unbound[at].fds[0], &unbound[at].device);
            let is_nobodys = candidate.is_none() && (mac.is_none() || self.from_start);
            if is_nobodys && device.kind == DeviceKind::VhostVdpa {
                self.unbound_vdpa.push(device.clone());
                continue;
            }
            let known = before.iter().find(|before| before.fd == fd && before.device == *device);
            let since = known.map_or(now.instant, |known| known.since);
            let interface = candidate.map(|candidate| &mut self.interfaces.all[candidate]);
            let age = now.instant.duration_since(since);
            let (age, patience) = match &interface {
                Some(interface) if !interface.is_granted() => {
                    (age.max(waited), now.patience * HOT_PLUG_PATIENCES)
                }
                Some(_) if lone[at] && is_hot_plug => (age.max(waited), now.patience),
                Some(_) => (age, Duration::ZERO),
                None => (age, now.patience),
            };
            if age < patience {
                let (device, is_opened) = (device.clone(), candidate.is_some());
                self.unbound.push(PendingDevice { fd, device, since, is_opened });
                continue;
            }
            let open = interface.as_ref().and_then(|interface| {
                let of = |opened: &&OpenedDevice| opened.device.kind == device.kind;
                interface.opened.iter().find(of).or(interface.opened.first()).map(|opened| opened.number)
            });
            let number = interface.map(|interface| {
                interface.grant(GrantedBy::Attach);
                interface.mark_seen(device.kind);
                interface.number
            });
            for observed in std::mem::take(&mut descriptors[at]) {
                let is_unexplained = number.is_none() && mac.is_none();
                if is_unexplained && self.take_for_vanished(&observed, now, observations) {
                    continue;
                }
                let known = self.new_known(pid, observed, number, mac, next);
                self.end_same_vanished(&known, now, observations);
                let (descriptor, link) = (known.descriptor.clone(), known.link);
                observations.push(Observation::Seen { number: known.number, descriptor, open, link });
                self.held.push(known);
            }
        }
        self.vdpa_is_ambiguous |= self.unbound_vdpa.len() > 1;
    }

    /// Finds the interface of each unbound device, and whether it is a vhost-net whose interface
    /// has no known backend.
    fn find_interfaces(&self, unbound: &[UnboundDevice]) -> (Vec<Match>, Vec<bool>) {
        let leaving = self.interfaces.leaving();
        let candidate = |interface: &ManagedInterface| {
            let mut candidate = self.candidate(interface, leaving.contains(&interface.number));
            candidate.opened.extend(self.unrecorded_vdpa(interface));
            candidate
        };
        let candidates: Vec<InterfaceCandidate> = self.interfaces.all.iter().map(candidate).collect();
        let none = bind::StartFds::new();
        let start_fds = if self.from_start { &none } else { &self.started_with };
        let mut bound = bind::bind(&candidates, unbound, start_fds);
        // A vhost-net comes with its tap. Without one it may be another interface's, of which
        // records are still to come, or a vanished one.
        let lone = bind::lone_vhosts(&candidates, unbound, &bound);
        let loses_vhost = self.vanished.iter().any(Vanished::is_lost_vhost);
        for (bound, lone) in bound.iter_mut().zip(&lone) {
            if loses_vhost && *lone {
                *bound = Match::default();
            }
        }
        (bound, lone)
    }

    /// The vDPA device of an interface that no record shows opened: the one of QEMU's command line.
    /// Managers other than taptrail record none. Nothing shows which interface a device is for that
    /// was plugged in later: it may be a disk's, and the interface may have none.
    fn unrecorded_vdpa(&self, interface: &ManagedInterface) -> Option<Device> {
        let has_none = interface.opened.is_empty() && interface.is_granted() && !interface.is_seen();
        if !has_none || !interface.is_by_start() {
            return None;
        }
        let netdev = match &self.netdevs.get(&interface.mac)?[..] {
            [netdev] if netdev.is_vdpa() => netdev,
            _ => return None,
        };
        // A set of descriptors does not show its device: once several could be meant, the one that is
        // left may be a disk's.
        let named = netdev.path.as_deref().filter(|path| !path.starts_with("/dev/fdset/"));
        let path = named.or((!self.vdpa_is_ambiguous).then_some("?"))?;
        Some(Device { kind: DeviceKind::VhostVdpa, path: path.into(), rdev: None, dev: None })
    }

    fn new_known(
        &self,
        pid: u32,
        observed: ObservedDescriptor,
        interface: Option<u64>,
        mac: Option<MacAddr>,
        next: &mut u64,
    ) -> KnownDescriptor {
        let alike = self.held.iter().filter(|known| {
            known.interface == interface
                && known.descriptor.mac == mac
                && known.descriptor.device == observed.device
        });
        let queue = u32::try_from(alike.count()).ok();
        let fd = observed.fds.first().copied().unwrap_or_default();
        let descriptor = Descriptor { mac, device: observed.device, queue, vm_pid: pid, fd };
        *next += 1;
        let ObservedDescriptor { fds, link, port, .. } = observed;
        KnownDescriptor { number: *next, descriptor, fds, link, port, interface, file: FileState::Unknown }
    }

    fn candidate(&self, interface: &ManagedInterface, leaving: bool) -> InterfaceCandidate {
        let mut seen: Vec<(Device, Vec<u32>)> = Vec::new();
        for known in self.held.iter().filter(|known| known.interface == Some(interface.number)) {
            match seen.iter_mut().find(|(device, _)| *device == known.descriptor.device) {
                Some((_, fds)) => fds.push(known.descriptor.fd),
                None => seen.push((known.descriptor.device.clone(), vec![known.descriptor.fd])),
            }
        }
        // A vhost-net goes with its tap.
        let is_without_tap =
            interface.backend_seen && seen.iter().all(|(device, _)| device.kind == DeviceKind::VhostNet);
        let is_expected = |opened: &&OpenedDevice| match opened.device.kind {
            DeviceKind::VhostNet => !interface.accelerator_seen && !is_without_tap,
            _ => !interface.backend_seen,
        };
        let opened = match interface.is_held_after_detach() {
            true => Vec::new(),
            false => {
                interface.opened.iter().filter(is_expected).map(|opened| opened.device.clone()).collect()
            }
        };
        let started_with = match interface.is_by_start() {
            true => self.started_with.get(&interface.mac).cloned().unwrap_or_default(),
            false => Vec::new(),
        };
        InterfaceCandidate {
            mac: interface.mac,
            opened,
            seen,
            granted: interface.is_granted(),
            leaving,
            started_with,
        }
    }

    /// Reports once each descriptor that should be gone and is not.
    fn report_still_held(&mut self, now: LookContext, waited: Duration, observations: &mut Vec<Observation>) {
        let meant =
            self.interfaces.expire_detaches(|at| now.time.duration_since(at).unsigned_abs() >= now.patience);
        let is_meant =
            |known: &&KnownDescriptor| known.interface.is_some_and(|interface| meant.contains(&interface));
        observations.extend(
            self.held.iter().filter(is_meant).map(|known| Observation::StillHeld(known.descriptor.clone())),
        );
        if let Some(stop) = self.stop.as_mut().filter(|stop| !stop.reported && waited >= now.patience) {
            stop.reported = true;
            observations
                .extend(self.held.iter().map(|known| Observation::StillHeld(known.descriptor.clone())));
        }
    }

    /// Reports that QEMU has an interface, once its descriptors were seen or are not expected any
    /// more.
    fn report_granted(&mut self, pid: u32, at_last: bool, observations: &mut Vec<Observation>) {
        for interface in &mut self.interfaces.all {
            // An interface without a raw device need not be waited for.
            let needs_none = || {
                let netdevs = self
                    .netdevs
                    .get(&interface.mac)
                    .filter(|_| interface.is_by_start() && interface.opened.is_empty());
                netdevs.is_some_and(|netdevs| netdevs.iter().all(|netdev| !netdev.is_raw()))
            };
            if !interface.is_unreported() || !(interface.is_seen() || at_last || needs_none()) {
                continue;
            }
            interface.advance(GrantProgress::Reported);
            let of = self.held.iter().filter(|known| known.interface == Some(interface.number));
            let descriptors = of.map(|known| known.descriptor.clone()).collect();
            observations.push(Observation::Granted { mac: interface.mac, pid, descriptors });
        }
    }

    /// Whether QEMU holds a device that belongs to no known interface.
    pub(super) fn has_unbound(&self) -> bool {
        !self.unbound.is_empty() || self.held.iter().any(|known| known.descriptor.mac.is_none())
    }
}

/// The name of a tap's link, as a quick scan shows it; none for other devices.
pub(super) fn tap_name(device: &Device) -> Option<&str> {
    device.dev.as_deref().filter(|_| device.kind == DeviceKind::Tun)
}

/// Groups descriptors by their devices. vhost-nets are all alike, and each is a device of its own.
fn group_by_device(observed: Vec<ObservedDescriptor>) -> (Vec<UnboundDevice>, Vec<Vec<ObservedDescriptor>>) {
    let mut devices: Vec<UnboundDevice> = Vec::new();
    let mut descriptors: Vec<Vec<ObservedDescriptor>> = Vec::new();
    for one in observed {
        let is_same =
            |unbound: &UnboundDevice| unbound.device == one.device && one.device.kind != DeviceKind::VhostNet;
        let fd = one.fds.first().copied().unwrap_or_default();
        if let Some(at) = devices.iter().position(is_same) {
            devices[at].fds.push(fd);
            descriptors[at].push(one);
        } else {
            let (device, address, libvirt_mac) = (one.device.clone(), one.address, one.libvirt_mac);
            devices.push(UnboundDevice { device, address, libvirt_mac, fds: vec![fd] });
            descriptors.push(vec![one]);
        }
    }
    (devices, descriptors)
}
