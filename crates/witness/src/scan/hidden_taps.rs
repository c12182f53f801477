//! Taps that have more open files attached than processes show.
//!
//! The kernel counts the files that are attached to a tap, wherever their descriptors are. A file
//! in flight on a socket, or registered with io_uring, is in no process's table.

use std::collections::{HashMap, HashSet};

use taptrail_kernel::link::{Link, LinkError, Links};
use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::{HeldDevice, HeldKind, HiddenFiles, Holders, ProcessId};
use taptrail_record::{DeviceKind, Rdev};

use super::netns::HostLink;
use super::{Holder, ScannedDevice};

/// The path of a tap's node. No process shows by which path a hidden tap was opened.
const DEV_NET_TUN: &str = "/dev/net/tun";

/// A tap with open files that no process shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenTap {
    /// The tap, without a descriptor.
    pub held: ScannedDevice,
    /// How many open files the kernel counts beyond those that processes show.
    pub queues: u32,
}

/// A process with open files that can't be inspected: in flight on its sockets, or registered with
/// io_uring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HidingProcess {
    /// The pid of the process.
    pub pid: u32,
    /// How many files are in flight, and how many are registered.
    pub files: HiddenFiles,
}

/// A tap as the kernel counts it.
#[derive(Debug)]
pub(crate) struct TapQueues {
    pub(crate) name: String,
    /// How many open files are attached to it.
    pub(crate) queues: usize,
}

impl TapQueues {
    /// Reads how many files are attached to a tap now; none where there is no such tap.
    pub(crate) fn of(links: &mut Links, index: u32) -> Result<Option<Self>, LinkError> {
        let is_tap = |link: &Link| link.tun.is_some();
        let Some(link) = links.by_index(index)?.filter(is_tap) else { return Ok(None) };
        let is_attached = links.tap_is_attached(index)?.unwrap_or(false);
        let queues = link.tun.and_then(|tun| tun.queues).unwrap_or(1);
        let queues = if is_attached { usize::try_from(queues).unwrap_or(usize::MAX) } else { 0 };
        Ok(Some(Self { name: link.name, queues }))
    }

    /// Those of `holders` that are this tap's descriptors.
    pub(crate) fn shown(&self, netns: u64, holders: &Holders) -> Holders {
        let is_its = |(pid, thread, held): &&(u32, u32, HeldDevice)| {
            held.ifname.as_ref().is_some_and(|ifname| ifname.as_str() == self.name)
                && namespace(*pid, *thread, held) == Some(netns)
        };
        Holders { found: holders.found.iter().filter(is_its).cloned().collect(), unseen: 0 }
    }
}

/// The network namespace of a tap's link: asked of its descriptor, or else that of its thread.
fn namespace(pid: u32, thread: u32, held: &HeldDevice) -> Option<u64> {
    let of_tap = || NetNs::of_tap(ProcessId::of(pid)?, held.fd);
    // A pidfd refers to the descriptor table of the process's first thread.
    let tap = if thread == pid { of_tap().ok() } else { None };
    tap.or_else(|| NetNs::of(thread).ok()).map(|netns| netns.inode())
}

/// Looks for hidden taps in all network namespaces that can be entered.
pub(super) fn find(holders: &[Holder]) -> Vec<HiddenTap> {
    let mut suspected = Vec::new();
    for space in NetNs::all() {
        let netns = space.inode();
        let look = || Links::open().and_then(|mut links| links.all()).unwrap_or_default();
        let Some(links) = within(&space, look) else { continue };
        let is_suspected = |link: &Link| {
            link.tun.is_some_and(|tun| {
                let shown = shown(netns, &link.name, holders);
                match tun.queues {
                    Some(queues) => queues > shown,
                    // The kernel does not say how many queues it has; a persistent tap may have
                    // none.
                    None => shown == 0,
                }
            })
        };
        let found = links.iter().filter(|link| is_suspected(link));
        suspected.extend(found.map(|link| {
            (netns, link.index, HostLink::of(link, |index| links.iter().find(|link| link.index == index)))
        }));
    }
    confirm(suspected)
}

/// Keeps what is still so on a second look: a tap may have come or gone in between.
fn confirm(suspected: Vec<(u64, u32, HostLink)>) -> Vec<HiddenTap> {
    if suspected.is_empty() {
        return Vec::new();
    }
    let spaces: HashMap<u64, NetNs> = NetNs::all().map(|space| (space.inode(), space)).collect();
    let ask = |netns: &u64, index: u32| {
        let space = spaces.get(netns)?;
        let ask = || Links::open().and_then(|mut links| TapQueues::of(&mut links, index)).ok().flatten();
        within(space, ask).flatten()
    };
    let before: Vec<_> = suspected.iter().map(|(netns, index, _)| ask(netns, *index)).collect();
    let Ok(holders) = Holders::of(DeviceKind::Tun) else { return Vec::new() };
    let mut all = Vec::new();
    for ((netns, index, behind), before) in suspected.into_iter().zip(before) {
        let (Some(before), Some(after)) = (before, ask(&netns, index)) else { continue };
        let Ok(files) = after.shown(netns, &holders).open_files() else { continue };
        let queues = before.queues.min(after.queues).saturating_sub(files);
        let Some(queues) = u32::try_from(queues).ok().filter(|queues| *queues > 0) else { continue };
        let held = ScannedDevice {
            kind: HeldKind::Raw(DeviceKind::Tun),
            path: DEV_NET_TUN.into(),
            rdev: Rdev::TUN,
            ifname: after.name.parse().ok(),
            netns: Some(netns),
            behind: Some(behind),
            descriptors: Vec::new(),
        };
        all.push(HiddenTap { held, queues });
    }
    all
}

/// The processes with open files that can't be inspected.
pub(super) fn hiding_processes(pids: &[u32]) -> Vec<HidingProcess> {
    let files = |pid: &u32| HiddenFiles::of(*pid).ok().filter(|files| files.any());
    pids.iter().filter_map(|pid| Some(HidingProcess { pid: *pid, files: files(pid)? })).collect()
}

/// How many open files of a tap these holders show.
fn shown(netns: u64, name: &str, holders: &[Holder]) -> u32 {
    let (mut files, mut others) = (HashSet::new(), 0);
    for holder in holders {
        for held in &holder.devices {
            let is_its = held.kind == HeldKind::Raw(DeviceKind::Tun)
                && held.ifname.as_ref().is_some_and(|ifname| ifname.as_str() == name)
                && held.netns.or(holder.netns) == Some(netns);
            for descriptor in held.descriptors.iter().filter(|_| is_its) {
                match descriptor.file {
                    Some(file) => {
                        files.insert(file);
                    }
                    None => others += 1,
                }
            }
        }
    }
    u32::try_from(files.len() + others).unwrap_or(u32::MAX)
}

/// Runs `ask` in a network namespace; none if it cannot be entered.
fn within<T: Send>(space: &NetNs, ask: impl FnOnce() -> T + Send) -> Option<T> {
    let is_own = NetNs::own().is_ok_and(|own| own.inode() == space.inode());
    if is_own { Some(ask()) } else { space.enter(ask).ok() }
}
