//! Descriptors that were seen before, and how they are known again.

use taptrail_bpf::FileState;
use taptrail_record::{Descriptor, DeviceKind};

use super::bridges::SeenPort;
use super::plugs::{Opened, Plug, Plugs};
use super::sight::{Place, Sighted};

/// A descriptor that was seen.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) number: u64,
    /// As on record.
    pub(super) descriptor: Descriptor,
    /// All its numbers in QEMU.
    pub(super) fds: Vec<u32>,
    /// The interface behind it, once it was found.
    pub(super) link: Option<Place>,
    /// What that interface was a port of when it was last seen.
    pub(super) port: Option<SeenPort>,
    /// The interface of the guest that it serves, where that is told.
    pub(super) plug: Option<u64>,
    /// What the kernel says of the file behind it, where it is asked (`closes.rs`).
    pub(super) file: FileState,
}

impl Known {
    /// Whether it is what was sighted, under one of its numbers.
    pub(super) fn is(&self, sighted: &Sighted) -> bool {
        let (before, now) = (&self.descriptor.device, &sighted.device);
        let behind = match (self.link, sighted.link) {
            // A tap may have another name by now.
            (Some(link), Some(now)) if link.netns == now.netns => link.index == now.index,
            // In another network namespace it may have another number, and in the end another name.
            (Some(link), Some(now)) if link.index == now.index => true,
            _ => before.dev == now.dev || now.dev.is_none(),
        };
        self.fds.iter().any(|fd| sighted.fds.contains(fd))
            && (before.kind, before.rdev) == (now.kind, now.rdev)
            && behind
    }

    /// Whether it is what was sighted under other numbers only: who holds it has moved it. `is_backed`: the interface
    /// that it serves has its tap still.
    pub(super) fn has_moved_to(&self, sighted: &Sighted, is_backed: bool) -> bool {
        let (before, now) = (&self.descriptor.device, &sighted.device);
        (before.kind, before.rdev) == (now.kind, now.rdev)
            && match before.kind {
                // A vhost-net says nothing of itself, and goes with its tap.
                DeviceKind::VhostNet => is_backed,
                _ => match (self.link, sighted.link) {
                    (Some(link), Some(now)) => link == now,
                    _ => before.dev.is_some() && before.dev == now.dev,
                },
            }
    }

    /// Whether the kernel says that somebody has it.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_open()
    }

    /// Whether the kernel says that nobody has it.
    pub(super) fn is_closed(&self) -> bool {
        self.file.is_closed()
    }

    fn is_vhost(&self) -> bool {
        self.descriptor.device.kind == DeviceKind::VhostNet
    }

    /// The same descriptor as one that nobody knows.
    fn forgotten(&self) -> Sighted {
        let (fds, device, named) = (self.fds.clone(), self.descriptor.device.clone(), self.descriptor.mac);
        let named = named.filter(|_| !self.is_vhost());
        Sighted { fds, device, link: self.link, address: None, named, port: self.port.clone() }
    }
}

/// Whether descriptors of an interface are known.
pub(super) fn holds(held: &[Known], plug: u64) -> bool {
    held.iter().any(|known| known.plug == Some(plug))
}

/// QEMU gives a new descriptor the lowest free number, which is mostly that of the one that went before: where nothing
/// but the records shows that it is another, they do. Returns what is given up by them alone: QEMU may have kept that,
/// and hidden the new one.
pub(super) fn give_up_reused(plugs: &Plugs, held: &mut Vec<Known>, loose: &mut Vec<Sighted>) -> Vec<Known> {
    let replaced = replaced(plugs, held, loose);
    let left = accelerators_left(plugs, held);
    let is_over = |known: &mut Known| {
        let by_records = |plug| Some(plug) == replaced || (known.is_vhost() && left.contains(&plug));
        !known.is_open() && known.plug.is_some_and(by_records)
    };
    let reused: Vec<Known> = held.extract_if(.., is_over).collect();
    loose.extend(reused.iter().map(Known::forgotten));
    loose.sort_by_key(|sighted| sighted.fds.first().copied());
    reused
}

/// A tap that outlives its descriptors may be opened again for the same interface: where one was given up, another given,
/// and nothing else is there, that is the new one.
fn replaced(plugs: &Plugs, held: &[Known], loose: &[Sighted]) -> Option<u64> {
    let is_given_up = |plug: &&Plug| plug.granted && !plug.over && holds(held, plug.number);
    // What is seen to be gone is what was given up.
    let is_gone = |plug: &Plug| plug.granted && plug.is_seen() && !holds(held, plug.number);
    let is_replaced = |old: &&Plug| {
        let mut detached = plugs.detached.iter().filter(|detached| detached.mac == old.mac);
        let is_told_of_another = plugs.all.iter().any(|plug| plug.mac == old.mac && is_gone(plug));
        !is_told_of_another
            && detached.any(|detached| {
                plugs.all.iter().any(|new| {
                    let is_there =
                        |opened: &Opened| loose.iter().any(|one| one.device.kind == opened.device.kind);
                    // What is told to be given up as well shows nothing.
                    let is_leaving =
                        plugs.detached.iter().any(|later| later.mac == new.mac && later.number > new.number);
                    (new.mac, new.granted, new.is_seen(), is_leaving) == (old.mac, true, false, false)
                        && (old.number..new.number).contains(&detached.number)
                        && !new.opened.is_empty()
                        && !new.opened.iter().any(is_there)
                })
            })
    };
    plugs.all.iter().filter(is_given_up).find(is_replaced).map(|plug| plug.number)
}

/// A vhost-net goes with its tap, and nothing tells one from another. Those whose tap is gone are another interface's,
/// where one waits for some.
fn accelerators_left(plugs: &Plugs, held: &[Known]) -> Vec<u64> {
    let has = |plug: &Plug, vhost: bool| {
        held.iter().any(|known| known.plug == Some(plug.number) && known.is_vhost() == vhost)
    };
    let waits = |plug: &Plug| {
        let opened = plug.opened.iter().any(|opened| opened.device.kind == DeviceKind::VhostNet);
        plug.granted && !plug.over && opened && !plug.accelerated
    };
    if !plugs.all.iter().any(waits) {
        return Vec::new();
    }
    let left = plugs.all.iter().filter(|plug| plug.backed && has(plug, true) && !has(plug, false));
    left.map(|plug| plug.number).collect()
}
