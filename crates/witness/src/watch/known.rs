//! Known descriptors, and how they are recognized in the next scan.

use std::time::Instant;

use jiff::Timestamp;
use taptrail_bpf::FileState;
use taptrail_record::{Descriptor, DeviceKind};
use tracing::warn;

use super::bridges::SeenPort;
use super::interfaces::{InterfaceTable, ManagedInterface, OpenedDevice};
use super::observe::{LinkId, ObservedDescriptor};

/// A descriptor that was seen in QEMU.
#[derive(Debug, Clone)]
pub(super) struct KnownDescriptor {
    pub(super) number: u64,
    /// The descriptor as it was recorded.
    pub(super) descriptor: Descriptor,
    /// All its numbers in QEMU.
    pub(super) fds: Vec<u32>,
    /// The link behind it, once it was found.
    pub(super) link: Option<LinkId>,
    /// The bridge of that link when it was last read.
    pub(super) port: Option<SeenPort>,
    /// The number of the interface that it serves, if a record shows that.
    pub(super) interface: Option<u64>,
    /// What the kernel says of the file behind it, if its report is used (`closes.rs`).
    pub(super) file: FileState,
}

impl KnownDescriptor {
    /// Whether an observed descriptor is this one, under one of its numbers.
    pub(super) fn is(&self, observed: &ObservedDescriptor) -> bool {
        let (before, now) = (&self.descriptor.device, &observed.device);
        let behind = match (self.link, observed.link) {
            // A tap may have been renamed.
            (Some(link), Some(now)) if link.netns == now.netns => link.index == now.index,
            // In another network namespace the link may have another index, and in the end another
            // name.
            (Some(link), Some(now)) if link.index == now.index => true,
            _ => before.dev == now.dev || now.dev.is_none(),
        };
        self.fds.iter().any(|fd| observed.fds.contains(fd))
            && (before.kind, before.rdev) == (now.kind, now.rdev)
            && behind
    }

    /// Whether an observed descriptor is this one under other numbers, because QEMU has moved it.
    /// A vhost-net does not show that: vhost-nets are all alike.
    pub(super) fn has_moved_to(&self, observed: &ObservedDescriptor) -> bool {
        let (before, now) = (&self.descriptor.device, &observed.device);
        let is_same_link = match (self.link, observed.link) {
            (Some(link), Some(now)) => link == now,
            // One process at a time may open a vDPA device.
            _ => before.kind == DeviceKind::VhostVdpa || (before.dev.is_some() && before.dev == now.dev),
        };
        !self.is_closed()
            && !self.is_vhost()
            && (before.kind, before.rdev) == (now.kind, now.rdev)
            && is_same_link
    }

    /// Takes the numbers of the observed descriptor as which QEMU has it now.
    pub(super) fn move_to(&mut self, observed: &ObservedDescriptor) {
        warn!(
            "Process {} has its descriptor of {} under other numbers than before: {:?} for {:?}",
            self.descriptor.vm_pid, self.descriptor.device.path, observed.fds, self.fds
        );
        self.fds.clone_from(&observed.fds);
    }

    /// Whether the kernel says that its file is open in some process.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_open()
    }

    /// Whether the kernel says that its file is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.file.is_closed()
    }

    pub(super) fn is_vhost(&self) -> bool {
        self.descriptor.device.kind == DeviceKind::VhostNet
    }

    /// The same descriptor as if it was observed for the first time.
    fn as_observed(&self) -> ObservedDescriptor {
        let (fds, device, libvirt_mac) =
            (self.fds.clone(), self.descriptor.device.clone(), self.descriptor.mac);
        let libvirt_mac = libvirt_mac.filter(|_| !self.is_vhost());
        ObservedDescriptor {
            fds,
            device,
            link: self.link,
            address: None,
            libvirt_mac,
            port: self.port.clone(),
        }
    }
}

/// A descriptor that QEMU does not show any more.
#[derive(Debug)]
pub(super) struct Vanished {
    pub(super) known: KnownDescriptor,
    /// When it was first missed.
    pub(super) at: Timestamp,
    pub(super) since: Instant,
    /// When it was last seen; none if it was missed in time.
    pub(super) last_seen: Option<Timestamp>,
    /// When all known descriptors were last seen to be held, before it was missed.
    pub(super) all_seen_at: Option<Timestamp>,
    pub(super) absence: Absence,
}

/// What shows that a descriptor has vanished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// QEMU shows no such device under its number.
    NotShown,
    /// QEMU shows a vhost-net under its number, but its tap is gone, and another interface got one.
    /// vhost-nets are alike, and counted: whichever it is, there is one less than before.
    Counted,
    /// Only records show it: a descriptor with its number is there, which may be another one or the
    /// same.
    ByRecords,
}

impl Vanished {
    /// Whether it is a vhost-net whose file the kernel has not identified: one with its number may
    /// be another one.
    pub(super) fn is_unidentified_vhost(&self) -> bool {
        self.known.is_vhost() && matches!(self.known.file, FileState::Unknown | FileState::Lost)
    }

    /// Whether it is a vhost-net that QEMU may have under another number.
    pub(super) fn is_lost_vhost(&self) -> bool {
        self.absence == Absence::NotShown && self.is_unidentified_vhost()
    }
}

/// Whether descriptors of the interface with this number are known.
pub(super) fn holds(held: &[KnownDescriptor], interface: u64) -> bool {
    held.iter().any(|known| known.interface == Some(interface))
}

/// QEMU gives a new descriptor the lowest free number, mostly that of the one that was closed
/// before. If only the records show that it is another one, they decide. Returns the descriptors
/// that are given up, and what shows that: QEMU may have kept the old one, and hidden the new one.
pub(super) fn give_up_reused(
    interfaces: &InterfaceTable,
    held: &mut Vec<KnownDescriptor>,
    unbound: &mut Vec<ObservedDescriptor>,
) -> Vec<(KnownDescriptor, Absence)> {
    let replaced = replaced(interfaces, held, unbound);
    let left = accelerators_left(interfaces, held);
    // If there is a new vhost-net for that interface, its number is no sign that this one is gone.
    let is_other_there = unbound.iter().any(|observed| observed.device.kind == DeviceKind::VhostNet);
    let counted = if is_other_there { Absence::ByRecords } else { Absence::Counted };
    let absence = |known: &KnownDescriptor| match known.interface.filter(|_| !known.is_open())? {
        interface if Some(interface) == replaced => Some(Absence::ByRecords),
        interface if known.is_vhost() && left.contains(&interface) => Some(counted),
        _ => None,
    };
    let mut reused = Vec::new();
    for known in std::mem::take(held) {
        match absence(&known) {
            Some(absence) => {
                unbound.push(known.as_observed());
                reused.push((known, absence));
            }
            None => held.push(known),
        }
    }
    unbound.sort_by_key(|observed| observed.fds.first().copied());
    reused
}

/// A persistent tap may be opened again for the same interface. If one interface was detached,
/// another attached, and there is no other backend, the descriptors belong to the new one. Returns
/// the number of the old one.
fn replaced(
    interfaces: &InterfaceTable,
    held: &[KnownDescriptor],
    unbound: &[ObservedDescriptor],
) -> Option<u64> {
    let is_given_up = |interface: &&ManagedInterface| {
        interface.is_granted() && !interface.is_held_after_detach() && holds(held, interface.number)
    };
    // An interface whose descriptors are gone is the one that was detached.
    let is_gone = |interface: &ManagedInterface| {
        interface.is_granted() && interface.is_seen() && !holds(held, interface.number)
    };
    let is_replaced = |old: &&ManagedInterface| {
        let mut detach = interfaces.pending_detaches.iter().filter(|detach| detach.mac == old.mac);
        let is_other_gone =
            interfaces.all.iter().any(|interface| interface.mac == old.mac && is_gone(interface));
        !is_other_gone
            && detach.any(|detach| {
                interfaces.all.iter().any(|new| {
                    let mut backends = new
                        .opened
                        .iter()
                        .filter(|opened| opened.device.kind != DeviceKind::VhostNet)
                        .peekable();
                    let is_observed = |opened: &OpenedDevice| {
                        unbound.iter().any(|one| one.device.kind == opened.device.kind)
                    };
                    // A new interface that is detached as well proves nothing.
                    let is_leaving = interfaces
                        .pending_detaches
                        .iter()
                        .any(|later| later.mac == new.mac && later.number > new.number);
                    (new.mac, new.is_granted(), new.is_seen(), is_leaving) == (old.mac, true, false, false)
                        && (old.number..new.number).contains(&detach.number)
                        && backends.peek().is_some()
                        && !backends.any(is_observed)
                })
            })
    };
    interfaces.all.iter().filter(is_given_up).find(is_replaced).map(|interface| interface.number)
}

/// A vhost-net goes with its tap, and vhost-nets are all alike. Those of an interface without its
/// tap belong to another interface, if one waits for some.
fn accelerators_left(interfaces: &InterfaceTable, held: &[KnownDescriptor]) -> Vec<u64> {
    let has = |interface: &ManagedInterface, vhost: bool| {
        held.iter().any(|known| known.interface == Some(interface.number) && known.is_vhost() == vhost)
    };
    let waits = |interface: &ManagedInterface| {
        let opened = interface.opened.iter().any(|opened| opened.device.kind == DeviceKind::VhostNet);
        interface.is_granted() && !interface.is_held_after_detach() && opened && !interface.accelerator_seen
    };
    if !interfaces.all.iter().any(waits) {
        return Vec::new();
    }
    let left = interfaces
        .all
        .iter()
        .filter(|interface| interface.backend_seen && has(interface, true) && !has(interface, false));
    left.map(|interface| interface.number).collect()
}
