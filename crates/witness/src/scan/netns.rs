//! Finds the host links behind devices: their network namespace, and their bridge or lower link.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use taptrail_kernel::link::{Link, Links};
use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::{HeldDevice, HeldKind, ProcessId};
use taptrail_record::{DeviceKind, MacAddr, Rdev};

use super::{Holder, ScannedDevice};

/// A host interface as rtnetlink describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// Its index in its network namespace.
    pub index: u32,
    /// Its Ethernet address: a macvtap has the guest's, a tap mostly the guest's with FE in front.
    pub mac: Option<MacAddr>,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// The bridge, or other link, that it is a port of.
    pub master: Option<String>,
    /// Its lower link, such as the NIC under a macvtap.
    pub lower: Option<String>,
    /// Whether it carries Ethernet frames; a VPN's tun carries IP packets.
    pub ethernet: bool,
}

impl HostLink {
    /// Describes a link. `by_index` finds the other links of its namespace.
    pub(super) fn of<'a>(link: &Link, by_index: impl Fn(u32) -> Option<&'a Link>) -> Self {
        let name =
            |index| by_index(index).map_or_else(|| format!("number {index}"), |other| other.name.clone());
        Self {
            index: link.index,
            mac: link.mac,
            up: link.up,
            master: link.master.map(name),
            lower: link.lower.map(name),
            ethernet: link.tun.is_none_or(|tun| tun.tap),
        }
    }
}

/// The network namespaces that one scan meets, each read once.
#[derive(Debug, Default)]
pub(super) struct NetnsCache {
    spaces: HashMap<u64, NetNs>,
    /// By inode; none for a namespace that can't be entered.
    links: HashMap<u64, Option<NetnsLinks>>,
}

/// The links of one network namespace.
#[derive(Debug)]
struct NetnsLinks {
    links: HashMap<u32, Link>,
    taps: HashMap<String, u32>,
    macvtaps: HashMap<Rdev, u32>,
}

impl NetnsCache {
    /// The inode of a process's network namespace.
    pub(super) fn of_process(&mut self, pid: u32) -> Option<u64> {
        Some(self.remember(NetNs::of(pid).ok()?))
    }

    /// The inode of the network namespace of a tap's link, if the kernel says which; none for other
    /// devices.
    pub(super) fn of_tap(
        &mut self,
        process: ProcessId,
        thread: u32,
        held: &HeldDevice<HeldKind>,
    ) -> Option<u64> {
        // A pidfd refers to the descriptor table of the process's first thread.
        let has_link = held.kind == HeldKind::Raw(DeviceKind::Tun) && held.ifname.is_some();
        if !has_link || thread != process.pid {
            return None;
        }
        Some(self.remember(NetNs::of_tap(process, held.fd).ok()?))
    }

    fn remember(&mut self, space: NetNs) -> u64 {
        let inode = space.inode();
        self.spaces.entry(inode).or_insert(space);
        inode
    }

    /// Finds the link behind each device. Returns for how many devices it could not be looked up.
    pub(super) fn find(&mut self, holders: &mut [Holder]) -> usize {
        let mut unseen = 0;
        for holder in holders {
            for held in &mut holder.devices {
                let seen = match held.kind.raw() {
                    Some(DeviceKind::Tun) if held.ifname.is_some() => self.tap(held, holder.netns),
                    Some(DeviceKind::Macvtap) => self.macvtap(held, holder.netns),
                    _ => true,
                };
                unseen += usize::from(!seen);
            }
        }
        unseen
    }

    /// Finds a tap's link. Returns whether every namespace where it may be was read: a link can be
    /// gone while its device is still open.
    fn tap(&mut self, held: &mut ScannedDevice, process: Option<u64>) -> bool {
        // If the kernel does not say where the link is, it is most likely in the process's
        // namespace.
        let Some(netns) = held.netns.or(process) else { return false };
        let Some(space) = self.space(netns) else { return false };
        let index = held.ifname.as_ref().and_then(|name| space.taps.get(name.as_str()));
        let Some(link) = index.and_then(|index| space.links.get(index)) else {
            return held.netns.is_some();
        };
        held.netns = Some(netns);
        held.behind = Some(HostLink::of(link, |index| space.links.get(&index)));
        true
    }

    /// Finds a macvtap's link by its device number: the node's path may be from another mount
    /// namespace. If the node was deleted, the number may have passed to another macvtap.
    fn macvtap(&mut self, held: &mut ScannedDevice, process: Option<u64>) -> bool {
        let others = self.spaces.keys().copied().filter(|inode| Some(*inode) != process);
        let others: BTreeSet<u64> = others.collect();
        let mut all = process.is_some();
        for netns in process.into_iter().chain(others) {
            let Some(space) = self.space(netns) else {
                all = false;
                continue;
            };
            let Some(index) = space.macvtaps.get(&held.rdev) else { continue };
            let Some(link) = space.links.get(index) else { continue };
            if held.deleted_node_ifindex().is_some_and(|deleted| deleted != *index) {
                continue;
            }
            held.ifname = link.name.parse().ok();
            held.netns = Some(netns);
            held.behind = Some(HostLink::of(link, |index| space.links.get(&index)));
            return true;
        }
        all
    }

    fn space(&mut self, netns: u64) -> Option<&NetnsLinks> {
        match self.links.entry(netns) {
            Entry::Occupied(known) => known.into_mut().as_ref(),
            Entry::Vacant(unknown) => {
                let space = self.spaces.get(&netns).and_then(NetnsLinks::look);
                unknown.insert(space).as_ref()
            }
        }
    }
}

impl NetnsLinks {
    fn look(space: &NetNs) -> Option<Self> {
        let here = NetNs::own().is_ok_and(|own| own.inode() == space.inode());
        // Our own namespace can be read without the right to enter it.
        if here { Self::here() } else { space.enter(Self::here).ok()? }
    }

    fn here() -> Option<Self> {
        let mut rtnetlink = Links::open().ok()?;
        let links = rtnetlink.all().ok()?;
        let is_macvtap = |link: &&Link| matches!(link.kind.as_deref(), Some("macvtap" | "ipvtap"));
        let number =
            |link: &Link| Some((rtnetlink.macvtap_rdev(&link.name.parse().ok()?, link.index)?, link.index));
        let macvtaps = links.iter().filter(is_macvtap).filter_map(number).collect();
        let taps = links.iter().filter(|link| link.kind.as_deref() == Some("tun"));
        let taps = taps.map(|link| (link.name.clone(), link.index)).collect();
        let links = links.into_iter().map(|link| (link.index, link)).collect();
        Some(Self { links, taps, macvtaps })
    }
}
