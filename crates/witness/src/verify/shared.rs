//! Which processes have a device together.

use std::collections::HashMap;

use taptrail_kernel::proc::HeldKind;
use taptrail_record::{DeviceKind, IfName, Rdev};

use super::bind::Part;
use crate::scan::{Held, Holder, Scan};

/// What two processes may have in common: one open file, or one interface by an open file each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Common {
    File(u32),
    Tap(u64, IfName),
    Macvtap(Rdev),
}

/// The processes that have each.
#[derive(Debug, Default)]
pub(super) struct Shared(HashMap<Common, Vec<u32>>);

impl Shared {
    pub(super) fn of(scan: &Scan) -> Self {
        let mut shared = Self::default();
        for holder in &scan.holders {
            for held in &holder.devices {
                let files = held.descriptors.iter().filter_map(|of| of.file).map(Common::File);
                for common in files.chain(interface(holder, held)) {
                    let pids = shared.0.entry(common).or_default();
                    if pids.last() != Some(&holder.process.pid) {
                        pids.push(holder.process.pid);
                    }
                }
            }
        }
        shared
    }

    /// The other processes that have what this part is of.
    pub(super) fn with(&self, holder: &Holder, part: &Part<'_>) -> Vec<u32> {
        let all = commons(holder, part).filter_map(|common| self.0.get(&common)).flatten();
        let mut pids: Vec<u32> = all.copied().filter(|pid| *pid != holder.process.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

/// By what a part may be known in another process; the files first.
pub(super) fn commons(holder: &Holder, part: &Part<'_>) -> impl Iterator<Item = Common> {
    let files: Vec<_> = part.files.iter().filter_map(|file| file[0].file).map(Common::File).collect();
    files.into_iter().chain(interface(holder, part.held))
}

fn interface(holder: &Holder, held: &Held) -> Option<Common> {
    match held.kind {
        HeldKind::Raw(DeviceKind::Tun) => {
            Some(Common::Tap(held.netns.or(holder.netns)?, held.ifname.clone()?))
        }
        HeldKind::Raw(DeviceKind::Macvtap) | HeldKind::Ipvtap => Some(Common::Macvtap(held.rdev)),
        _ => None,
    }
}
