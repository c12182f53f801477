//! Matches the devices that one process holds with the holdings that the trail has for it.

use std::path::Path;

use taptrail_kernel::proc::{HeldKind, deleted_path};
use taptrail_record::{DeviceKind, MacAddr};
use taptrail_trail::{Certainty, Holding};

use super::MatchMethod;
use crate::scan::{Holder, ScannedDevice, ThreadDescriptor};

/// The result of matching one process's devices.
#[derive(Debug, Default)]
pub(super) struct Matches<'a> {
    pub(super) accounted: Vec<(QueueGroup<'a>, &'a Holding, MatchMethod)>,
    pub(super) left: Vec<QueueGroup<'a>>,
    /// Holdings of the trail that the process lacks, and how many queues of each.
    pub(super) lacking: Vec<(&'a Holding, u32)>,
}

/// All queues of a device, or some of them.
#[derive(Debug, Clone)]
pub(super) struct QueueGroup<'a> {
    pub(super) held: &'a ScannedDevice,
    /// For each open file its descriptors.
    pub(super) files: Vec<Vec<ThreadDescriptor>>,
}

impl<'a> QueueGroup<'a> {
    fn all_of(held: &'a ScannedDevice) -> Self {
        let mut files: Vec<Vec<ThreadDescriptor>> = Vec::new();
        for descriptor in &held.descriptors {
            let same = |file: &&mut Vec<ThreadDescriptor>| {
                descriptor.file.is_some() && file[0].file == descriptor.file
            };
            match files.iter_mut().find(same) {
                Some(file) => file.push(*descriptor),
                None => files.push(vec![*descriptor]),
            }
        }
        Self { held, files }
    }

    pub(super) fn queues(&self) -> u32 {
        u32::try_from(self.files.len()).unwrap_or(u32::MAX)
    }

    /// Splits off the first `queues` queues; none if there are none.
    fn split_first(&mut self, queues: u32) -> Option<Self> {
        let queues = usize::try_from(queues).unwrap_or(usize::MAX).min(self.files.len());
        let rest = self.files.split_off(queues);
        let files = std::mem::replace(&mut self.files, rest);
        (!files.is_empty()).then_some(Self { held: self.held, files })
    }
}

/// Finds the device that each holding means. The surest method comes first.
pub(super) fn match_devices<'a>(holder: &'a Holder, holdings: &[&'a Holding]) -> Matches<'a> {
    let mut matches = Matches::default();
    let mut groups: Vec<QueueGroup<'a>> = holder.devices.iter().map(QueueGroup::all_of).collect();
    let (vhosts, mut backends): (Vec<&Holding>, Vec<&Holding>) =
        holdings.iter().partition(|holding| holding.device.kind == DeviceKind::VhostNet);
    for matched in [MatchMethod::Name, MatchMethod::Libvirt, MatchMethod::Mac, MatchMethod::Elimination] {
        backends.retain(|holding| {
            let fits = |group: &&mut QueueGroup<'_>| {
                !group.files.is_empty() && matches_by(holder, group.held, holding, matched)
            };
            let Some(group) = groups.iter_mut().find(fits) else { return true };
            let most = exact_queues(holding).unwrap_or(u32::MAX);
            let Some(taken) = group.split_first(most) else { return true };
            let lacking = exact_queues(holding).map_or(0, |queues| queues.saturating_sub(taken.queues()));
            if lacking > 0 {
                matches.lacking.push((holding, lacking));
            }
            matches.accounted.push((taken, holding, matched));
            false
        });
    }
    matches.lacking.extend(backends.into_iter().map(|holding| (holding, holding.queues.unwrap_or(1))));
    match_vhosts(&vhosts, &mut groups, &mut matches);
    matches.left = groups.into_iter().filter(|group| !group.files.is_empty()).collect();
    matches
}

/// A vhost-net does not show which interface it serves, so they are only counted.
fn match_vhosts<'a>(vhosts: &[&'a Holding], groups: &mut [QueueGroup<'a>], matches: &mut Matches<'a>) {
    let is_vhost = |group: &&mut QueueGroup<'_>| group.held.kind == HeldKind::Raw(DeviceKind::VhostNet);
    let mut group = groups.iter_mut().find(is_vhost);
    for (place, holding) in vhosts.iter().enumerate() {
        let queues =
            |(group, of, _): &(QueueGroup<'_>, &Holding, _)| (of.mac == holding.mac).then(|| group.queues());
        // libvirt writes one record for as many vhost-nets as the interface has queues.
        let exact = exact_queues(holding).or_else(|| matches.accounted.iter().find_map(queues));
        let most = exact.unwrap_or(u32::MAX);
        // At least one is left for each holding after this one.
        let after = u32::try_from(vhosts.len() - place - 1).unwrap_or(u32::MAX);
        let there = group.as_ref().map_or(0, |group| group.queues());
        let most = most.min(there.saturating_sub(after).max(1));
        let taken = group.as_mut().and_then(|group| group.split_first(most));
        let lacking = match &taken {
            Some(taken) => exact_queues(holding).map_or(0, |queues| queues.saturating_sub(taken.queues())),
            None => holding.queues.unwrap_or(1),
        };
        if lacking > 0 {
            matches.lacking.push((holding, lacking));
        }
        matches.accounted.extend(taken.map(|taken| (taken, *holding, MatchMethod::Count)));
    }
}

/// The number of queues, if the trail has a record of each, as with taptrail's own records.
fn exact_queues(holding: &Holding) -> Option<u32> {
    holding.queues.filter(|_| holding.certainty == Certainty::Definitive)
}

/// Whether a held device is the one that a holding means, by this method.
pub(super) fn matches_by(
    holder: &Holder,
    held: &ScannedDevice,
    holding: &Holding,
    matched: MatchMethod,
) -> bool {
    if held.kind.raw() != Some(holding.device.kind) {
        return false;
    }
    let is_macvtap = holding.device.kind == DeviceKind::Macvtap;
    let is_numbered = is_macvtap || holding.device.kind == DeviceKind::VhostVdpa;
    let ifname = held.ifname.as_ref().map(|name| name.as_str());
    match matched {
        // The device number of a macvtap and of a vDPA device is unique on the host.
        MatchMethod::Name if is_numbered && holding.device.rdev.is_some() => {
            holding.device.rdev == Some(held.rdev) && (!held.is_dead() || has_path(held, holding))
        }
        MatchMethod::Name => {
            let dev = holding.device.dev.as_deref();
            // libvirt names a macvtap by its interface.
            let name = dev.or_else(|| is_macvtap.then_some(holding.device.path.as_str()));
            name.is_some() && ifname == name
        }
        MatchMethod::Libvirt => holder
            .guest
            .iter()
            .flat_map(|guest| &guest.interfaces)
            .any(|named| named.mac == holding.mac && Some(named.ifname.as_str()) == ifname),
        MatchMethod::Mac => held.behind.as_ref().and_then(|behind| behind.mac).is_some_and(|mac| {
            // A tap's own address differs from the guest's in its first byte.
            if is_macvtap { mac == holding.mac } else { mac.host_side() == MacAddr::host_side(holding.mac) }
        }),
        // Its link is gone, or can't be read: nothing contradicts a match.
        MatchMethod::Elimination => {
            held.behind.is_none() && (is_macvtap || held.rdev == taptrail_record::Rdev::TUN)
        }
        MatchMethod::Count => held.kind == HeldKind::Raw(DeviceKind::VhostNet),
        // Such a tap has no holding.
        MatchMethod::BridgeHelper => false,
    }
}

/// Whether a deleted macvtap's node had the path of the holding's.
fn has_path(held: &ScannedDevice, holding: &Holding) -> bool {
    let path = deleted_path(&held.path).and_then(Path::to_str);
    path == Some(holding.device.path.as_str())
}
