//! Where interfaces are: which network namespace, on which bridge or lower link.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use taptrail_kernel::link::{Link, Links};
use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::{HeldDevice, HeldKind, ProcessId};
use taptrail_record::{DeviceKind, MacAddr, Rdev};

use super::{Held, Holder};

/// An interface as rtnetlink describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Its number in its network namespace.
    pub index: u32,
    /// Its Ethernet address: a macvtap's is the guest's, a tap's mostly the guest's with FE in front.
    pub mac: Option<MacAddr>,
    /// Set up by its administrator.
    pub up: bool,
    /// The bridge, or other link, that it is a port of.
    pub master: Option<String>,
    /// The link that it stands on.
    pub lower: Option<String>,
    /// Whether it carries Ethernet frames; a VPN's tun carries IP packets.
    pub ethernet: bool,
}

impl Behind {
    /// A link, and those of its namespace by their numbers.
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

/// The network namespaces that one scan meets, each looked into once.
#[derive(Debug, Default)]
pub(super) struct Places {
    spaces: HashMap<u64, NetNs>,
    /// None where we may not look.
    links: HashMap<u64, Option<Space>>,
}

/// The links of one network namespace.
#[derive(Debug)]
struct Space {
    links: HashMap<u32, Link>,
    taps: HashMap<String, u32>,
    macvtaps: HashMap<Rdev, u32>,
}

impl Places {
    /// The namespace of a process.
    pub(super) fn of_process(&mut self, pid: u32) -> Option<u64> {
        Some(self.meet(NetNs::of(pid).ok()?))
    }

    /// The namespace of a tap's interface, where the kernel tells it; of other devices none.
    pub(super) fn of_tap(
        &mut self,
        process: ProcessId,
        thread: u32,
        held: &HeldDevice<HeldKind>,
    ) -> Option<u64> {
        // A pidfd means the first thread's descriptors.
        let told = held.kind == HeldKind::Raw(DeviceKind::Tun) && held.ifname.is_some();
        if !told || thread != process.pid {
            return None;
        }
        Some(self.meet(NetNs::of_tap(process, held.fd).ok()?))
    }

    fn meet(&mut self, space: NetNs) -> u64 {
        let inode = space.inode();
        self.spaces.entry(inode).or_insert(space);
        inode
    }

    /// Finds what is behind each device; tells for how many it can't be seen.
    pub(super) fn find(&mut self, holders: &mut [Holder]) -> usize {
        let mut unseen = 0;
        for holder in holders {
            for held in &mut holder.devices {
                let seen = match held.kind {
                    HeldKind::Raw(DeviceKind::Tun) if held.ifname.is_some() => self.tap(held, holder.netns),
                    HeldKind::Raw(DeviceKind::Macvtap) | HeldKind::Ipvtap => self.macvtap(held, holder.netns),
                    _ => true,
                };
                unseen += usize::from(!seen);
            }
        }
        unseen
    }

    /// Tells whether all was seen that may have been it: a link can be gone, and its device still open.
    fn tap(&mut self, held: &mut Held, process: Option<u64>) -> bool {
        // Where the kernel does not tell, most are where their process is.
        let Some(netns) = held.netns.or(process) else { return false };
        let Some(space) = self.space(netns) else { return false };
        let index = held.ifname.as_ref().and_then(|name| space.taps.get(name.as_str()));
        let Some(link) = index.and_then(|index| space.links.get(index)) else {
            return held.netns.is_some();
        };
        held.netns = Some(netns);
        held.behind = Some(Behind::of(link, |index| space.links.get(&index)));
        true
    }

    /// A macvtap's interface is known by its number: the node's path may be another namespace's.
    fn macvtap(&mut self, held: &mut Held, process: Option<u64>) -> bool {
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
            held.ifname = link.name.parse().ok();
            held.netns = Some(netns);
            held.behind = Some(Behind::of(link, |index| space.links.get(&index)));
            return true;
        }
        all
    }

    fn space(&mut self, netns: u64) -> Option<&Space> {
        match self.links.entry(netns) {
            Entry::Occupied(known) => known.into_mut().as_ref(),
            Entry::Vacant(unknown) => {
                let space = self.spaces.get(&netns).and_then(Space::look);
                unknown.insert(space).as_ref()
            }
        }
    }
}

impl Space {
    fn look(space: &NetNs) -> Option<Self> {
        let here = NetNs::own().is_ok_and(|own| own.inode() == space.inode());
        // Our own needs no right to enter it.
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
