//! A guest's interfaces, from its manager's records.

use jiff::Timestamp;
use taptrail_record::{Device, DeviceKind, MacAddr};

/// The most interfaces of one guest that are followed, failed attempts included.
const MAX_INTERFACES_PER_GUEST: usize = 1024;
/// The most opens of one interface. It has a backend and a vhost-net; libvirt records a vhost-net
/// twice.
const MAX_OPENS_PER_INTERFACE: usize = 8;

/// One interface of a guest, from its first open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManagedInterface {
    pub(super) number: u64,
    pub(super) mac: MacAddr,
    pub(super) opened: Vec<OpenedDevice>,
    pub(super) state: InterfaceState,
    /// Whether its backend was seen. An interface gets no second one.
    pub(super) backend_seen: bool,
    /// Whether its vhost-net was seen.
    pub(super) accelerator_seen: bool,
}

/// The state of an interface, by its manager's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InterfaceState {
    /// A device was opened for it, and no record says that QEMU has it.
    Opened,
    /// QEMU has it.
    Granted { by: GrantedBy, progress: GrantProgress },
}

/// What gave QEMU an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GrantedBy {
    /// The guest's start.
    Start,
    /// A hot-plug.
    Attach,
}

/// How far the watcher has followed a granted interface; later ones include earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum GrantProgress {
    /// No event has reported yet that QEMU has it.
    Unreported,
    /// An event has reported that QEMU has it.
    Reported,
    /// A record says that it was given up, and it was still held after that.
    HeldAfterDetach,
}

/// A device that a record says was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenedDevice {
    pub(super) number: u64,
    pub(super) device: Device,
    /// The process that wrote the record.
    pub(super) writer: Option<u32>,
}

/// A detach record whose effect was not seen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PendingDetach {
    pub(super) number: u64,
    pub(super) mac: MacAddr,
    pub(super) at: Timestamp,
}

impl ManagedInterface {
    /// Whether a record says that QEMU has it.
    pub(super) fn is_granted(&self) -> bool {
        self.state != InterfaceState::Opened
    }

    /// Whether it came with the guest's start.
    pub(super) fn is_by_start(&self) -> bool {
        matches!(self.state, InterfaceState::Granted { by: GrantedBy::Start, .. })
    }

    /// Whether QEMU has it, and no event has reported that yet.
    pub(super) fn is_unreported(&self) -> bool {
        matches!(self.state, InterfaceState::Granted { progress: GrantProgress::Unreported, .. })
    }

    /// Whether a record says that it was given up, and it was still held after that.
    pub(super) fn is_held_after_detach(&self) -> bool {
        matches!(self.state, InterfaceState::Granted { progress: GrantProgress::HeldAfterDetach, .. })
    }

    /// QEMU has it. Changes nothing if that is known.
    pub(super) fn grant(&mut self, by: GrantedBy) {
        if self.state == InterfaceState::Opened {
            self.state = InterfaceState::Granted { by, progress: GrantProgress::Unreported };
        }
    }

    /// The watcher has followed it this far at least, if QEMU has it.
    pub(super) fn advance(&mut self, to: GrantProgress) {
        if let InterfaceState::Granted { progress, .. } = &mut self.state {
            *progress = to.max(*progress);
        }
    }

    /// Whether any of its descriptors were seen.
    pub(super) fn is_seen(&self) -> bool {
        self.backend_seen || self.accelerator_seen
    }

    /// Notes that a descriptor of it was seen.
    pub(super) fn mark_seen(&mut self, kind: DeviceKind) {
        if kind == DeviceKind::VhostNet {
            self.accelerator_seen = true;
        } else {
            self.backend_seen = true;
        }
    }
}

/// The interfaces of one guest, oldest first.
#[derive(Debug, Default)]
pub(super) struct InterfaceTable {
    pub(super) all: Vec<ManagedInterface>,
    pub(super) pending_detaches: Vec<PendingDetach>,
}

impl InterfaceTable {
    /// Adds an open: to the newest attempt for this MAC, or to a new one.
    pub(super) fn add_open(&mut self, mac: MacAddr, opened: OpenedDevice) {
        let backend = opened.device.kind != DeviceKind::VhostNet;
        let takes = |interface: &ManagedInterface| {
            let has = |opened: &OpenedDevice| opened.device.kind != DeviceKind::VhostNet;
            !interface.is_granted()
                && interface.opened.len() < MAX_OPENS_PER_INTERFACE
                && !(backend && interface.opened.iter().any(has))
                && interface.opened.iter().all(|before| before.writer == opened.writer)
        };
        match self.all.iter_mut().rev().find(|interface| interface.mac == mac) {
            Some(newest) if takes(newest) => newest.opened.push(opened),
            _ => self.add(mac, opened.number, vec![opened]),
        }
    }

    /// Removes and returns the opens of a process that QEMU did not get.
    pub(super) fn take_opened_by(&mut self, writer: u32) -> Vec<(MacAddr, OpenedDevice)> {
        let is_by = |interface: &mut ManagedInterface| {
            !interface.is_granted() && interface.opened.iter().any(|opened| opened.writer == Some(writer))
        };
        let taken: Vec<ManagedInterface> = self.all.extract_if(.., is_by).collect();
        taken
            .into_iter()
            .flat_map(|interface| interface.opened.into_iter().map(move |opened| (interface.mac, opened)))
            .collect()
    }

    fn add(&mut self, mac: MacAddr, number: u64, opened: Vec<OpenedDevice>) {
        if self.all.len() == MAX_INTERFACES_PER_GUEST {
            self.all.remove(0);
        }
        let (state, backend_seen, accelerator_seen) = (InterfaceState::Opened, false, false);
        self.all.push(ManagedInterface { number, mac, opened, state, backend_seen, accelerator_seen });
    }

    /// QEMU has an interface since its start, or is about to start with it.
    pub(super) fn mark_started(&mut self, mac: MacAddr, number: u64) {
        let at = self.all.iter().position(|interface| interface.mac == mac && !interface.is_granted());
        let at = at.unwrap_or_else(|| {
            self.add(mac, number, Vec::new());
            self.all.len() - 1
        });
        self.all[at].grant(GrantedBy::Start);
    }

    /// QEMU got an interface by hot-plug.
    pub(super) fn mark_attached(&mut self, mac: MacAddr, number: u64) {
        let Some(at) = self.all.iter().rposition(|interface| interface.mac == mac && !interface.is_granted())
        else {
            // An attach without an open, just after a detach, is a change of bridge: nothing was
            // given up.
            if !self.cancel_detach(mac) {
                self.add(mac, number, Vec::new());
                let newest = self.all.len() - 1;
                self.all[newest].grant(GrantedBy::Attach);
            }
            return;
        };
        self.all[at].grant(GrantedBy::Attach);
        // Earlier attempts were abandoned without a record.
        let mut index = 0;
        self.all.retain(|interface| {
            index += 1;
            interface.mac != mac || interface.is_granted() || index > at
        });
    }

    /// QEMU did not get an interface.
    pub(super) fn drop_refused(&mut self, mac: MacAddr, at_start: bool) {
        let opening = |interface: &ManagedInterface| interface.mac == mac && !interface.is_granted();
        let at = match at_start {
            true => self.all.iter().position(opening),
            false => self.all.iter().rposition(opening),
        };
        match at {
            Some(at) => drop(self.all.remove(at)),
            // A change of bridge has failed: QEMU still has the interface.
            None => drop(self.cancel_detach(mac)),
        }
    }

    fn cancel_detach(&mut self, mac: MacAddr) -> bool {
        let at = self.pending_detaches.iter().rposition(|detach| detach.mac == mac);
        at.map(|at| self.pending_detaches.remove(at)).is_some()
    }

    /// Takes a detach record. `holds`: whether descriptors of the interface with this number are
    /// known.
    pub(super) fn add_detach(&mut self, detach: PendingDetach, holds: impl Fn(u64) -> bool) {
        let mac = detach.mac;
        // An interface that is still held after a detach may be detached once more.
        let is_repeated = !self.all.iter().any(|interface| {
            interface.mac == mac && interface.is_granted() && !interface.is_held_after_detach()
        });
        let is_meant = |interface: &ManagedInterface| {
            interface.mac == mac && interface.is_granted() && interface.is_held_after_detach() == is_repeated
        };
        // An interface whose descriptors are gone is the one that was detached.
        let gone = self
            .all
            .iter()
            .position(|interface| is_meant(interface) && !holds(interface.number) && interface.is_seen());
        match gone {
            Some(at) => drop(self.all.remove(at)),
            // Else the next look decides, or an attach that cancels the detach.
            None if self.all.iter().any(is_meant)
                && self.pending_detaches.len() < MAX_INTERFACES_PER_GUEST =>
            {
                self.pending_detaches.push(detach);
            }
            None => {}
        }
    }

    /// The numbers of interfaces that were never seen, as many as the pending detaches may mean.
    pub(super) fn leaving(&self) -> Vec<u64> {
        let mut leaving = Vec::new();
        for detach in &self.pending_detaches {
            let is_meant = |interface: &&ManagedInterface| {
                interface.mac == detach.mac
                    && interface.is_granted()
                    && !interface.is_seen()
                    && !leaving.contains(&interface.number)
            };
            leaving.extend(self.all.iter().find(is_meant).map(|interface| interface.number));
        }
        leaving
    }

    /// All descriptors have been assigned: an interface that has no backend by now, and a pending
    /// detach, is over.
    pub(super) fn settle_unseen_detaches(&mut self) {
        self.pending_detaches.retain(|detach| {
            let is_meant = |interface: &ManagedInterface| {
                interface.mac == detach.mac && interface.is_granted() && !interface.backend_seen
            };
            let Some(at) = self.all.iter().position(is_meant) else { return true };
            let over = self.all.remove(at);
            // The detach does not mean one that was opened later: the one before it has been taken
            // for this one, and waits for the rest of it.
            let is_taken_for_it = |interface: &&mut ManagedInterface| {
                interface.mac == detach.mac && interface.is_granted() && interface.number < detach.number
            };
            let before = self.all.iter_mut().filter(|_| over.number > detach.number).find(is_taken_for_it);
            if let Some(before) = before {
                before.opened = over.opened;
                before.accelerator_seen = over.accelerator_seen;
            }
            false
        });
    }

    /// The guest runs: interfaces that its start did not give it, it will not get.
    pub(super) fn drop_ungranted(&mut self) {
        self.all.retain(|interface| interface.is_granted());
    }

    /// Removes interfaces whose descriptors are all gone, one for each pending detach.
    pub(super) fn settle_detaches(&mut self, holds: impl Fn(u64) -> bool) {
        self.all.retain(|interface| !interface.is_held_after_detach() || holds(interface.number));
        self.pending_detaches.retain(|detach| {
            let is_gone = |interface: &ManagedInterface| {
                interface.mac == detach.mac
                    && interface.is_granted()
                    && interface.is_seen()
                    && !holds(interface.number)
            };
            let gone = self.all.iter().position(is_gone);
            gone.map(|at| self.all.remove(at)).is_none()
        });
    }

    /// Drops the detaches that had no effect for too long. Returns the interfaces that they may
    /// mean.
    pub(super) fn expire_detaches(&mut self, is_late: impl Fn(Timestamp) -> bool) -> Vec<u64> {
        let mut meant = Vec::new();
        for detach in self.pending_detaches.extract_if(.., |detach| is_late(detach.at)) {
            // An interface that was opened later is another one.
            let is_its = |interface: &ManagedInterface| {
                interface.mac == detach.mac
                    && interface.is_granted()
                    && interface.is_seen()
                    && interface.number < detach.number
            };
            let is_repeated =
                !self.all.iter().any(|interface| is_its(interface) && !interface.is_held_after_detach());
            let is_meant = |interface: &&mut ManagedInterface| {
                is_its(interface) && interface.is_held_after_detach() == is_repeated
            };
            let mut interfaces = self.all.iter_mut().filter(is_meant);
            if let Some(first) = interfaces.next() {
                first.advance(GrantProgress::HeldAfterDetach);
                meant.push(first.number);
            }
            meant.extend(interfaces.map(|interface| interface.number));
        }
        meant
    }
}
