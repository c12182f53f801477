//! What one process holds, beside what the trail says that it holds.

use taptrail_kernel::proc::HeldKind;
use taptrail_record::{DeviceKind, MacAddr};
use taptrail_trail::{Certainty, Holding};

use super::Matched;
use crate::scan::{Descriptor, Held, Holder};

/// What became of one process's devices.
#[derive(Debug, Default)]
pub(super) struct Bound<'a> {
    pub(super) accounted: Vec<(Part<'a>, &'a Holding, Matched)>,
    pub(super) left: Vec<Part<'a>>,
    /// What the trail says that it holds, and it does not: so many queues of each.
    pub(super) lacking: Vec<(&'a Holding, u32)>,
}

/// A device, or some of its queues.
#[derive(Debug, Clone)]
pub(super) struct Part<'a> {
    pub(super) held: &'a Held,
    /// The descriptors of each open file.
    pub(super) files: Vec<Vec<Descriptor>>,
}

impl<'a> Part<'a> {
    fn whole(held: &'a Held) -> Self {
        let mut files: Vec<Vec<Descriptor>> = Vec::new();
        for descriptor in &held.descriptors {
            let same =
                |file: &&mut Vec<Descriptor>| descriptor.file.is_some() && file[0].file == descriptor.file;
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

    /// Parts the first so many queues from the others.
    fn take(&mut self, queues: u32) -> Option<Self> {
        let queues = usize::try_from(queues).unwrap_or(usize::MAX).min(self.files.len());
        let rest = self.files.split_off(queues);
        let files = std::mem::replace(&mut self.files, rest);
        (!files.is_empty()).then_some(Self { held: self.held, files })
    }
}

/// Finds for each holding the device that it means, from the surest sign to the least.
pub(super) fn bind<'a>(holder: &'a Holder, holdings: &[&'a Holding]) -> Bound<'a> {
    let mut bound = Bound::default();
    let mut parts: Vec<Part<'a>> = holder.devices.iter().map(Part::whole).collect();
    let (vhosts, mut backends): (Vec<&Holding>, Vec<&Holding>) =
        holdings.iter().partition(|holding| holding.device.kind == DeviceKind::VhostNet);
    for matched in [Matched::Name, Matched::Libvirt, Matched::Mac, Matched::Elimination] {
        backends.retain(|holding| {
            let fits =
                |part: &&mut Part<'_>| !part.files.is_empty() && means(holder, part.held, holding, matched);
            let Some(part) = parts.iter_mut().find(fits) else { return true };
            let most = exactly(holding).unwrap_or(u32::MAX);
            let Some(taken) = part.take(most) else { return true };
            let lacking = exactly(holding).map_or(0, |queues| queues.saturating_sub(taken.queues()));
            if lacking > 0 {
                bound.lacking.push((holding, lacking));
            }
            bound.accounted.push((taken, holding, matched));
            false
        });
    }
    bound.lacking.extend(backends.into_iter().map(|holding| (holding, holding.queues.unwrap_or(1))));
    bind_vhosts(&vhosts, &mut parts, &mut bound);
    bound.left = parts.into_iter().filter(|part| !part.files.is_empty()).collect();
    bound
}

/// Nothing tells which vhost-net is whose: they are counted.
fn bind_vhosts<'a>(vhosts: &[&'a Holding], parts: &mut [Part<'a>], bound: &mut Bound<'a>) {
    let is_vhost = |part: &&mut Part<'_>| part.held.kind == HeldKind::Raw(DeviceKind::VhostNet);
    let mut part = parts.iter_mut().find(is_vhost);
    for (place, holding) in vhosts.iter().enumerate() {
        let queues = |(part, of, _): &(Part<'_>, &Holding, _)| (of.mac == holding.mac).then(|| part.queues());
        // libvirt's one record is of as many as the interface has queues.
        let told = exactly(holding).or_else(|| bound.accounted.iter().find_map(queues));
        let most = told.unwrap_or(u32::MAX);
        // Each after it is to have one.
        let after = u32::try_from(vhosts.len() - place - 1).unwrap_or(u32::MAX);
        let there = part.as_ref().map_or(0, |part| part.queues());
        let most = most.min(there.saturating_sub(after).max(1));
        let taken = part.as_mut().and_then(|part| part.take(most));
        let lacking = match &taken {
            Some(taken) => exactly(holding).map_or(0, |queues| queues.saturating_sub(taken.queues())),
            None => holding.queues.unwrap_or(1),
        };
        if lacking > 0 {
            bound.lacking.push((holding, lacking));
        }
        bound.accounted.extend(taken.map(|taken| (taken, *holding, Matched::Count)));
    }
}

/// How many queues there are, where the trail has a record of each: taptrail's own does.
fn exactly(holding: &Holding) -> Option<u32> {
    holding.queues.filter(|_| holding.certainty == Certainty::Definitive)
}

/// Whether a device that is held is the one that a holding means, by this sign.
pub(super) fn means(holder: &Holder, held: &Held, holding: &Holding, matched: Matched) -> bool {
    if held.kind != HeldKind::Raw(holding.device.kind) {
        return false;
    }
    let is_macvtap = holding.device.kind == DeviceKind::Macvtap;
    let ifname = held.ifname.as_ref().map(|name| name.as_str());
    match matched {
        // A macvtap's number is one of the host's, and all that it needs.
        Matched::Name if is_macvtap && holding.device.rdev.is_some() => {
            holding.device.rdev == Some(held.rdev)
        }
        Matched::Name => {
            let dev = holding.device.dev.as_deref();
            // libvirt names a macvtap by its interface.
            let name = dev.or_else(|| is_macvtap.then_some(holding.device.path.as_str()));
            name.is_some() && ifname == name
        }
        Matched::Libvirt => holder
            .guest
            .iter()
            .flat_map(|guest| &guest.interfaces)
            .any(|named| named.mac == holding.mac && Some(named.ifname.as_str()) == ifname),
        Matched::Mac => held.behind.as_ref().and_then(|behind| behind.mac).is_some_and(|mac| {
            // A tap's own address differs from the guest's in its first byte.
            if is_macvtap { mac == holding.mac } else { mac.host_side() == MacAddr::host_side(holding.mac) }
        }),
        // Its link is gone, or out of our sight: nothing speaks against it.
        Matched::Elimination => {
            held.behind.is_none() && (is_macvtap || held.rdev == taptrail_record::Rdev::TUN)
        }
        Matched::Count => held.kind == HeldKind::Raw(DeviceKind::VhostNet),
    }
}
