//! Findings that wait until QEMU was looked into: a grant without an open.
//!
//! Interfaces of many kinds need no raw network device (passt, slirp, vhost-user, hostdev,
//! sockets), so a manager grants them without an open. What QEMU holds, and what it was started
//! with, shows whether there is a device at all.

use std::collections::HashSet;
use std::time::Instant;

use taptrail_record::MacAddr;
use taptrail_trail::{Finding, FindingKind};

use super::books::Slot;
use super::guest::{Guest, Now, Qemu};
use super::{Happening, Watcher, What};

/// How many findings are held back at most. Others are reported at once.
const MAX_HELD_BACK: usize = 4096;

/// How much more than the watcher's patience QEMU has to be found and looked into.
const LOOK_TIMEOUT_PATIENCES: u32 = 3;

/// A finding that is held back.
#[derive(Debug)]
pub(super) struct HeldBack {
    finding: Box<Finding>,
    slot: Slot,
    mac: MacAddr,
    /// Until when a look is waited for: counted from the first time that the log is read to its
    /// end.
    pub(super) until: Option<Instant>,
}

/// What is behind an interface that was granted without an open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Backing {
    /// It can't be told yet.
    Pending,
    /// It can't be told: QEMU can't be looked into, or holds a device that may be this interface's.
    Unknown,
    /// QEMU holds a raw network device for it.
    Device,
    /// QEMU holds none.
    None,
    /// QEMU holds vhost-vdpa devices, which no manager records. `is_its`: the one that there is belongs to
    /// this interface; else one of them may.
    Vdpa { paths: Vec<String>, is_its: bool },
}

impl Guest {
    /// What is behind the interface with this MAC.
    pub(super) fn backing(&self, mac: MacAddr) -> Backing {
        let granted = |plug: &&super::plugs::Plug| plug.mac == mac && plug.granted;
        let mut plugs = self.plugs.all.iter().filter(granted).peekable();
        if self.held.iter().any(|known| known.descriptor.mac == Some(mac)) {
            return Backing::Device;
        }
        if !matches!(self.qemu, Qemu::Runs { .. }) {
            let may_come = matches!(self.qemu, Qemu::Unknown | Qemu::Told { .. });
            return if may_come { Backing::Pending } else { Backing::Unknown };
        }
        if plugs.peek().is_none() {
            return Backing::Unknown;
        }
        let (mut all_told, mut all_by_start) = (true, true);
        for plug in plugs {
            all_told &= plug.told;
            all_by_start &= plug.by_start;
        }
        if !all_told {
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

    /// The vhost-vdpa device of an interface: the path on the command line, or, where that names a
    /// set of descriptors, any that QEMU holds.
    fn vdpa_of(&self, path: Option<&str>) -> Vec<String> {
        match path.filter(|path| path.starts_with("/dev/vhost-vdpa")) {
            Some(path) => vec![path.to_owned()],
            None => self.vdpa.clone(),
        }
    }
}

impl Watcher {
    /// Holds a finding back, where a look into QEMU can tell more; gives it back where not.
    pub(super) fn hold_back(&mut self, finding: Finding) -> Option<Box<Finding>> {
        let finding = Box::new(finding);
        let (FindingKind::GrantWithoutOpen, Some(guest), Some(mac)) =
            (finding.kind, &finding.guest, finding.mac)
        else {
            return Some(finding);
        };
        let lives = self.current.get(&guest.uuid).into_iter().flatten().rev().copied();
        let has_it = |slot: &Slot| {
            let guest = self.guests.get(slot);
            guest.is_some_and(|guest| guest.plugs.all.iter().any(|plug| plug.mac == mac && plug.granted))
        };
        let Some(slot) = lives.clone().find(has_it).or_else(|| lives.clone().next()) else {
            return Some(finding);
        };
        if self.held_back.len() >= MAX_HELD_BACK {
            return Some(finding);
        }
        self.held_back.push(HeldBack { finding, slot, mac, until: None });
        None
    }

    /// Reports what was held back as it was found, or with what a look has shown, or drops it.
    /// `at_last`: nobody looks any more.
    pub(super) fn settle_held_back(&mut self, now: Now, at_last: bool) {
        for mut held in std::mem::take(&mut self.held_back) {
            let timeout = now.instant + now.patience * LOOK_TIMEOUT_PATIENCES;
            let until = *held.until.get_or_insert(timeout);
            let guest = self.guests.get(&held.slot);
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
            self.happened.push(Happening { time: held.finding.time, what: What::Found(held.finding) });
        }
    }
}
