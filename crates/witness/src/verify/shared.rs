//! Finds processes that share a device.

use std::collections::HashMap;
use std::path::PathBuf;

use taptrail_record::{DeviceKind, IfName, Rdev};

use super::matching::QueueGroup;
use crate::scan::{Holder, Scan, ScannedDevice};

/// By what two processes share a device: one open file, or one interface through an open file each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum SharedKey {
    File(u32),
    Tap(u64, IfName),
    /// With the node's path if the link is gone.
    Macvtap(Rdev, Option<PathBuf>),
}

/// The pids of the processes with each shared device.
#[derive(Debug, Default)]
pub(super) struct SharedDevices(HashMap<SharedKey, Vec<u32>>);

impl SharedDevices {
    pub(super) fn of(scan: &Scan) -> Self {
        let mut shared = Self::default();
        for holder in &scan.holders {
            for held in &holder.devices {
                let files = held.descriptors.iter().filter_map(|of| of.file).map(SharedKey::File);
                for key in files.chain(interface(holder, held)) {
                    let pids = shared.0.entry(key).or_default();
                    if pids.last() != Some(&holder.process.pid) {
                        pids.push(holder.process.pid);
                    }
                }
            }
        }
        shared
    }

    /// The other processes that share the device of this group.
    pub(super) fn with(&self, holder: &Holder, group: &QueueGroup<'_>) -> Vec<u32> {
        let all = shared_keys(holder, group).filter_map(|key| self.0.get(&key)).flatten();
        let mut pids: Vec<u32> = all.copied().filter(|pid| *pid != holder.process.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

/// The keys by which a group may be found in another process; open files come first.
pub(super) fn shared_keys(holder: &Holder, group: &QueueGroup<'_>) -> impl Iterator<Item = SharedKey> {
    let files: Vec<_> = group.files.iter().filter_map(|file| file[0].file).map(SharedKey::File).collect();
    files.into_iter().chain(interface(holder, group.held))
}

fn interface(holder: &Holder, held: &ScannedDevice) -> Option<SharedKey> {
    match held.kind.raw() {
        Some(DeviceKind::Tun) => Some(SharedKey::Tap(held.netns.or(holder.netns)?, held.ifname.clone()?)),
        Some(DeviceKind::Macvtap) => {
            Some(SharedKey::Macvtap(held.rdev, held.is_dead().then(|| held.path.clone())))
        }
        _ => None,
    }
}
