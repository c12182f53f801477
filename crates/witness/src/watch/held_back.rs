//! Holds findings about a grant without an open back until QEMU has been inspected.
//!
//! Interfaces of many kinds need no raw network device (passt, slirp, vhost-user, hostdev,
//! sockets), so a manager grants them without an open. The devices that QEMU holds, and its command
//! line, show whether there is a device at all.

use std::time::Instant;

use taptrail_record::{DeviceKind, MacAddr};
use taptrail_trail::{Finding, FindingKind};

use super::command_line::Netdev;
use super::guest::{GuestInstance, GuestInstanceId, LookContext, Qemu};
use super::interfaces::ManagedInterface;
use super::{EventKind, WatchEvent, Watcher};

/// The most findings that are held back. Others are reported at once.
const MAX_HELD_BACK: usize = 4096;

/// The most vDPA devices that one finding names.
const MAX_NAMED: usize = 16;

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
    /// QEMU holds no raw network device for it, or a vDPA device that the watcher has recorded.
    None,
    /// QEMU holds vDPA devices, which no manager records, and one of them may be its device.
    Vdpa(Vec<String>),
}

impl GuestInstance {
    /// The backend of the interface with this MAC.
    pub(super) fn backing(&self, mac: MacAddr) -> Backing {
        let granted = |interface: &&ManagedInterface| interface.mac == mac && interface.is_granted();
        let mut interfaces = self.interfaces.all.iter().filter(granted).peekable();
        if let Some(known) = self.held.iter().find(|known| known.descriptor.mac == Some(mac)) {
            // No manager records the open of a vDPA device: what was seen is on record instead.
            let is_vdpa = known.descriptor.device.kind == DeviceKind::VhostVdpa;
            return if is_vdpa { Backing::None } else { Backing::Device };
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
        let vdpa = || match &self.unbound_vdpa[..] {
            [] => Backing::None,
            unbound => Backing::Vdpa(
                unbound.iter().take(MAX_NAMED).map(|unbound| unbound.path.to_string()).collect(),
            ),
        };
        match netdevs.filter(|netdevs| netdevs.iter().all(|netdev| !netdev.is_raw())) {
            Some(netdevs) if netdevs.iter().any(Netdev::is_vdpa) => vdpa(),
            Some(_) => Backing::None,
            // A device that belongs to no interface may be this one's.
            None if self.has_unbound() => Backing::Unknown,
            None if netdevs.is_none() => vdpa(),
            None => Backing::None,
        }
    }
}

impl Watcher {
    /// Holds a finding back if inspecting QEMU may explain it; returns it otherwise.
    pub(super) fn hold_back(&mut self, finding: Finding) -> Option<Box<Finding>> {
        let finding = Box::new(finding);
        let kinds = [FindingKind::GrantWithoutOpen, FindingKind::PossibleDevice];
        let (true, Some(guest), Some(mac)) = (kinds.contains(&finding.kind), &finding.guest, finding.mac)
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
                Backing::Vdpa(paths) if held.finding.kind == FindingKind::GrantWithoutOpen => {
                    held.finding.kind = FindingKind::PossibleDevice;
                    let which = if paths.len() == 1 { "which" } else { "one of which" };
                    held.finding.text +=
                        &format!(". QEMU holds {}, {which} may be its device", paths.join(", "));
                }
                Backing::Pending | Backing::Unknown | Backing::Device | Backing::Vdpa(_) => {}
            }
            self.events.push(WatchEvent { time: held.finding.time, kind: EventKind::Found(held.finding) });
        }
    }
}
