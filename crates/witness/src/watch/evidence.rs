//! Checks whether the kernel shows that no process holds a device which QEMU does not show any
//! more.
//!
//! A descriptor that has left QEMU's table may still be held: in flight on a socket, registered
//! with io_uring, passed to another process, or inherited by a child. Only the kernel's own state
//! of the device shows its end:
//!
//! - a tap's link is gone, or has no queue attached;
//! - a macvtap's link is gone: what was opened of it reaches no network any more;
//! - a macvtap, vhost-net or vDPA device has as many open files on this host, by its driver's count, as all
//!   processes together show.
//!
//! Otherwise a doubt is recorded.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use taptrail_kernel::link::{LinkError, Links};
use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::{HeldDevice, HiddenFiles, Holders, driver_open_files};
use taptrail_ledger::Ledger;
use taptrail_record::{CloseDoubt, DeviceKind, Rdev};

use super::known::KnownDescriptor;
use super::observe::LinkId;
use crate::scan::TapQueues;

/// Checks whether the kernel shows the end of a descriptor; if not, returns the doubt.
pub(super) type EndCheck<'a> = dyn FnMut(&KnownDescriptor) -> Result<(), Doubt> + 'a;

/// Why the kernel does not show an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) why: CloseDoubt,
    /// The pid of a process that holds the device, if one was found.
    pub(super) holder: Option<u32>,
}

impl From<CloseDoubt> for Doubt {
    fn from(why: CloseDoubt) -> Self {
        Self { why, holder: None }
    }
}

/// The kernel's state of devices, read at most once per look.
#[derive(Debug)]
pub(super) struct Evidence {
    /// The pids of the watched QEMUs.
    watched: HashSet<u32>,
    /// The directory of the ledger, which has the guests of our supervisors.
    state: PathBuf,
    supervised: Option<HashSet<u32>>,
    namespaces: Namespaces,
    visible: HashMap<DeviceKind, Option<VisibleFiles>>,
}

/// The descriptors of one kind of device that processes show.
#[derive(Debug)]
struct VisibleFiles {
    holders: Holders,
    /// Whether they are all open files of that kind, by the driver's count.
    is_all: bool,
}

impl Evidence {
    pub(super) fn new(watched: HashSet<u32>, state: PathBuf, namespaces: Namespaces) -> Self {
        Self { watched, state, supervised: None, namespaces, visible: HashMap::new() }
    }

    /// Returns the namespaces that were opened, for the next look.
    pub(super) fn namespaces(self) -> Namespaces {
        self.namespaces
    }

    /// Checks whether no process holds a descriptor's device any more. `qemu`: the pid of the QEMU
    /// that showed it, if it still runs.
    ///
    /// The doubt, if the kernel does not show it.
    pub(super) fn check_end(&mut self, known: &KnownDescriptor, qemu: Option<u32>) -> Result<(), Doubt> {
        let device = &known.descriptor.device;
        match (device.kind, device.rdev) {
            (DeviceKind::Tun, _) => self.tap(known.link, qemu),
            (DeviceKind::Macvtap, Some(rdev)) => self.macvtap(known.link, rdev, qemu),
            (DeviceKind::VhostNet, _) => self.vhost(qemu),
            (DeviceKind::VhostVdpa, Some(rdev)) => self.numbered(DeviceKind::VhostVdpa, rdev, qemu),
            _ => Err(CloseDoubt::Uncounted.into()),
        }
    }

    fn tap(&mut self, link: Option<LinkId>, qemu: Option<u32>) -> Result<(), Doubt> {
        let Some(LinkId { netns: Some(netns), index }) = link else {
            return Err(CloseDoubt::Uncounted.into());
        };
        let tap = self.in_netns(netns, |links| TapQueues::of(links, index));
        let Some(Ok(tap)) = tap else { return Err(CloseDoubt::Uncounted.into()) };
        let Some(tap) = tap.filter(|tap| tap.queues > 0) else { return Ok(()) };
        let Some(visible) = self.visible(DeviceKind::Tun) else { return Err(CloseDoubt::Attached.into()) };
        let shown = tap.shown(netns, &visible.holders);
        if let Some((pid, ..)) = shown.found.iter().find(|(pid, ..)| Some(*pid) != qemu) {
            return Err(Doubt { why: CloseDoubt::HeldElsewhere, holder: Some(*pid) });
        }
        let files = shown.open_files().unwrap_or(0);
        // The other queues are QEMU's.
        if files >= tap.queues { Ok(()) } else { Err(CloseDoubt::Attached.into()) }
    }

    fn macvtap(&mut self, link: Option<LinkId>, rdev: Rdev, qemu: Option<u32>) -> Result<(), Doubt> {
        if let Some(LinkId { netns: Some(netns), index }) = link {
            let is_gone = self.in_netns(netns, |links| {
                let link = links.by_index(index)?;
                Ok(link.is_none_or(|link| !matches!(link.kind.as_deref(), Some("macvtap" | "ipvtap"))))
            });
            if let Some(Ok(true)) = is_gone {
                return Ok(());
            }
        }
        self.numbered(DeviceKind::Macvtap, rdev, qemu)
    }

    /// A device whose number is its own: whether all open files of its kind are seen, and none is of
    /// it.
    fn numbered(&mut self, kind: DeviceKind, rdev: Rdev, qemu: Option<u32>) -> Result<(), Doubt> {
        let Some(visible) = self.visible(kind) else { return Err(CloseDoubt::Unseen.into()) };
        let is_of_another =
            |(pid, _, held): &&(u32, u32, HeldDevice)| held.rdev == rdev && Some(*pid) != qemu;
        if let Some((pid, ..)) = visible.holders.found.iter().find(is_of_another) {
            return Err(Doubt { why: CloseDoubt::HeldElsewhere, holder: Some(*pid) });
        }
        visible.shows_all(qemu)
    }

    fn vhost(&mut self, qemu: Option<u32>) -> Result<(), Doubt> {
        let known = self.guests().clone();
        let Some(visible) = self.visible(DeviceKind::VhostNet) else { return Err(CloseDoubt::Unseen.into()) };
        visible.shows_all(qemu)?;
        // A vhost-net does not show what it serves: a process that is no guest may have a copy.
        let is_strange = |(pid, ..): &&(u32, u32, HeldDevice)| !known.contains(pid) && Some(*pid) != qemu;
        match visible.holders.found.iter().find(is_strange) {
            Some((pid, ..)) => Err(Doubt { why: CloseDoubt::Uncounted, holder: Some(*pid) }),
            None => Ok(()),
        }
    }

    /// The pids that may hold devices: the watched QEMUs, and the ledger's QEMUs and supervisors.
    fn guests(&mut self) -> &HashSet<u32> {
        let Self { watched, state, supervised, .. } = self;
        supervised.get_or_insert_with(|| {
            let live =
                Ledger::open_to_read(state).and_then(|ledger| ledger.live_guests()).unwrap_or_default();
            let ours = live.into_iter().flat_map(|guest| {
                let supervisor = (!guest.watched).then_some(guest.supervisor.pid);
                guest.qemu.map(|qemu| qemu.pid).into_iter().chain(supervisor)
            });
            ours.chain(watched.iter().copied()).collect()
        })
    }

    fn visible(&mut self, kind: DeviceKind) -> Option<&VisibleFiles> {
        self.visible.entry(kind).or_insert_with(|| VisibleFiles::of(kind)).as_ref()
    }

    /// Runs `ask` in a network namespace; none if it cannot be entered.
    fn in_netns<T: Send>(
        &mut self,
        netns: u64,
        ask: impl FnOnce(&mut Links) -> Result<T, LinkError> + Send,
    ) -> Option<Result<T, LinkError>> {
        let ask = || Links::open().and_then(|mut links| ask(&mut links));
        if NetNs::own().is_ok_and(|own| own.inode() == netns) {
            return Some(ask());
        }
        self.namespaces.find_or_open(netns)?.enter(ask).ok()
    }
}

impl VisibleFiles {
    fn of(kind: DeviceKind) -> Option<Self> {
        let count = || driver_open_files(kind).map(|files| usize::try_from(files).unwrap_or(usize::MAX));
        let before = count();
        let holders = Holders::of(kind).ok()?;
        // A tap's open files are counted by its link.
        let is_all = before.is_some() && before == holders.open_files().ok() && before == count();
        Some(Self { holders, is_all })
    }

    /// Checks that there is no open file that no process shows.
    fn shows_all(&self, qemu: Option<u32>) -> Result<(), Doubt> {
        if self.is_all {
            return Ok(());
        }
        let hides = |pid| HiddenFiles::of(pid).is_ok_and(HiddenFiles::any);
        Err(match qemu {
            Some(pid) if hides(pid) => CloseDoubt::Hidden.into(),
            _ if self.holders.unseen > 0 => CloseDoubt::Unseen.into(),
            _ => CloseDoubt::Uncounted.into(),
        })
    }
}

/// Network namespaces by their inodes.
#[derive(Debug, Default)]
pub(super) struct Namespaces(HashMap<u64, NetNs>);

impl Namespaces {
    /// The namespace with this inode; none if it can't be found.
    fn find_or_open(&mut self, inode: u64) -> Option<&NetNs> {
        match self.0.entry(inode) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(unknown) => {
                Some(unknown.insert(NetNs::all().find(|space| space.inode() == inode)?))
            }
        }
    }

    /// Keeps these namespaces open, and closes the others. Our own need not be kept.
    pub(super) fn keep(&mut self, wanted: impl Iterator<Item = u64>) {
        let own = NetNs::own().ok().map(|own| own.inode());
        let wanted: HashSet<u64> = wanted.filter(|inode| Some(*inode) != own).collect();
        self.0.retain(|inode, _| wanted.contains(inode));
        for inode in wanted {
            self.find_or_open(inode);
        }
    }
}
