//! Holds findings about a grant without an open back until QEMU has been inspected.
//!
//! Interfaces of many kinds need no raw network device (passt, slirp, vhost-user, hostdev,
//! sockets), so a manager grants them without an open. The devices that QEMU holds, and its command
//! line, show whether there is a device at all.

use std::collections::HashSet;
use std::time::Instant;

use taptrail_record::MacAddr;
use taptrail_trail::{Finding, FindingKind};

use super::guest::{GuestInstance, GuestInstanceId, LookContext, Qemu};
use super::interfaces::ManagedInterface;
use super::{EventKind, WatchEvent, Watcher};

/// The most findings that are held back. Others are reported at once.
const MAX_HELD_BACK: usize = 4096;

/// For how many times the watcher's patience a finding waits for QEMU to be found and inspected.
const LOOK_TIMEOUT_PATIENCES: u32 = 3;

/// A finding that is held back.
#[derive(Debug)]
pub(super) struct HeldBack {
    finding: Box<Finding>,
    instance: GuestInstanceId,
    mac: MacAddr,
    /// Until when it waits for a look: counted from the first time that the log has been read to
    /// its end.
    pub(super) until: Option<Instant>,
}

/// The backend of an interface that was granted without an open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Backing {
    /// The next looks will show it.
    Pending,
    /// Unknown: QEMU can't be inspected, or holds a device that may be this interface's.
    Unknown,
    /// QEMU holds a raw network device for it.
    Device,
    /// QEMU holds no raw network device for it.
    None,
    /// QEMU holds vhost-vdpa devices, which no manager records. `is_its`: there is only one, and it
    /// belongs to this interface; otherwise one of them may.
    Vdpa { paths: Vec<String>, is_its: bool },
}

impl GuestInstance {
    /// The backend of the interface with this MAC.
    pub(super) fn backing(&self, mac: MacAddr) -> Backing {
        let granted = |interface: &&ManagedInterface| interface.mac == mac && interface.is_granted();
        let mut interfaces = self.interfaces.all.iter().filter(granted).peekable();
        if self.held.iter().any(|known| known.descriptor.mac == Some(mac)) {
            return Backing::Device;
        }
        if !matches!(self.qemu, Qemu::Runs { .. }) {
            let may_come = matches!(self.qemu, Qemu::Unknown | Qemu::Recorded { .. });
            return if may_come { Backing::Pending } else { Backing::Unknown };
        }
        if interfaces.peek().is_none() {
            return Backing::Unknown;
        }
        let (mut all_reported, mut all_by_start) = (true, true);
        for interface in interfaces {
            all_reported &= !interface.is_unreported();
            all_by_start &= interface.is_by_start();
        }
        if !all_reported {
            return Backing::Pending;
        }
        let netdevs = if all_by_start { self.netdevs.get(&mac) } else { None };
        match netdevs.filter(|netdevs| netdevs.iter().all(|netdev| !netdev.is_raw())) {
            Some(netdevs) => {
                let vdpa = netdevs.iter().filter(|netdev| netdev.is_vdpa());
                let paths: HashSet<_> =
                    vdpa.flat_map(|netdev| self.vdpa_of(netdev.path.as_deref())).collect();
                let mut paths: Vec<String> = paths.into_iter().collect();
                paths.sort();
                let is_its = paths.len() == 1;
                if paths.is_empty() { Backing::None } else { Backing::Vdpa { paths, is_its } }
            }
            // A device that belongs to no interface may be this one's.
            None if self.has_unbound() => Backing::Unknown,
            None if !self.vdpa.is_empty() && netdevs.is_none() => {
                Backing::Vdpa { paths: self.vdpa.clone(), is_its: false }
            }
            None => Backing::None,
        }
    }

    /// The vhost-vdpa device of an interface: the path on the command line, or, if that names a set
    /// of descriptors, any that QEMU holds.
    fn vdpa_of(&self, path: Option<&str>) -> Vec<String> {
        match path.filter(|path| path.starts_with("/dev/vhost-vdpa")) {
            Some(path) => vec![path.to_owned()],
            None => self.vdpa.clone(),
        }
    }
}

impl Watcher {
    /// Holds a finding back if inspecting QEMU may explain it; returns it otherwise.
    pub(super) fn hold_back(&mut self, finding: Finding) -> Option<Box<Finding>> {
        let finding = Box::new(finding);
        let (FindingKind::GrantWithoutOpen, Some(guest), Some(mac)) =
            (finding.kind, &finding.guest, finding.mac)
        else {
            return Some(finding);
        };
        let instances = self.current.get(&guest.uuid).into_iter().flatten().rev().copied();
        let has_it = |instance: &GuestInstanceId| {
            let guest = self.guests.get(instance);
            guest.is_some_and(|guest| {
                guest.interfaces.all.iter().any(|interface| interface.mac == mac && interface.is_granted())
            })
        };
        let Some(instance) = instances.clone().find(has_it).or_else(|| instances.clone().next()) else {
            return Some(finding);
        };
        if self.held_back.len() >= MAX_HELD_BACK {
            return Some(finding);
        }
        self.held_back.push(HeldBack { finding, instance, mac, until: None });
        None
    }

    /// Reports the held-back findings, with what QEMU's inspection has shown, or drops them.
    /// `at_last`: there will be no further look.
    pub(super) fn settle_held_back(&mut self, now: LookContext, at_last: bool) {
        for mut held in std::mem::take(&mut self.held_back) {
            let timeout = now.instant + now.patience * LOOK_TIMEOUT_PATIENCES;
            let until = *held.until.get_or_insert(timeout);
            let guest = self.guests.get(&held.instance);
            match guest.map_or(Backing::Unknown, |guest| guest.backing(held.mac)) {
                Backing::Pending if !at_last && until > now.instant => {
                    self.held_back.push(held);
                    continue;
                }
                Backing::None => continue,
                Backing::Vdpa { paths, is_its } => {
                    let what = if is_its { "is its device" } else { "may be its device" };
                    let paths = paths.join(", ");
                    held.finding.text += &format!(
                        ". QEMU holds {paths}, which {what}: managers open vDPA devices without a record"
                    );
                }
                Backing::Pending | Backing::Unknown | Backing::Device => {}
            }
            self.events.push(WatchEvent { time: held.finding.time, kind: EventKind::Found(held.finding) });
        }
    }
}
