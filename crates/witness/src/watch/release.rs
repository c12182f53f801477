//! Whether the kernel shows that nobody holds a device any more that a QEMU shows no more.
//!
//! A descriptor that is in no table of QEMU's may be held all the same: in flight on a socket, registered with io_uring, sent
//! to another process, inherited by a child. What shows its end is the kernel's own account of the device:
//!
//! - a tap's link is gone, or has no queue attached;
//! - a macvtap's link is gone: what was opened of it reaches no network any more;
//! - a macvtap or vhost-net has as many open files on this host, by the count of its driver, as all processes show
//!   together.
//!
//! Else a doubt is left, and named.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use taptrail_kernel::link::{LinkError, Links};
use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::{HeldDevice, HiddenFiles, Holders, driver_open_files};
use taptrail_ledger::Ledger;
use taptrail_record::{CloseDoubt, DeviceKind, Rdev};

use super::known::Known;
use super::sight::Place;
use crate::scan::Attached;

/// Whether the kernel shows the end of a descriptor; if not, what doubt is left.
pub(super) type ShownEnd<'a> = dyn FnMut(&Known) -> Result<(), Doubt> + 'a;

/// Why an end is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) why: CloseDoubt,
    /// A process that holds the device.
    pub(super) holder: Option<u32>,
}

impl From<CloseDoubt> for Doubt {
    fn from(why: CloseDoubt) -> Self {
        Self { why, holder: None }
    }
}

/// What the kernel shows, looked at once for all that is asked in one round.
#[derive(Debug)]
pub(super) struct Evidence {
    /// The QEMUs that are watched.
    watched: HashSet<u32>,
    /// Where the ledger is, which knows the other guests.
    state: PathBuf,
    supervised: Option<HashSet<u32>>,
    namespaces: Namespaces,
    visible: HashMap<DeviceKind, Option<Visible>>,
}

/// The descriptors of one kind that processes show.
#[derive(Debug)]
struct Visible {
    holders: Holders,
    /// Whether they are all that there are, by the driver's count.
    is_all: bool,
}

impl Evidence {
    pub(super) fn new(watched: HashSet<u32>, state: PathBuf, namespaces: Namespaces) -> Self {
        Self { watched, state, supervised: None, namespaces, visible: HashMap::new() }
    }

    /// The namespaces that were met, for the next round.
    pub(super) fn namespaces(self) -> Namespaces {
        self.namespaces
    }

    /// Whether it is shown that nobody holds it. `qemu` showed it last, and runs still if it is given.
    ///
    /// # Errors
    /// The doubt that is left.
    pub(super) fn of_end(&mut self, known: &Known, qemu: Option<u32>) -> Result<(), Doubt> {
        let device = &known.descriptor.device;
        match (device.kind, device.rdev) {
            (DeviceKind::Tun, _) => self.tap(known.link, qemu),
            (DeviceKind::Macvtap, Some(rdev)) => self.macvtap(known.link, rdev, qemu),
            (DeviceKind::VhostNet, _) => self.vhost(qemu),
            _ => Err(CloseDoubt::Uncounted.into()),
        }
    }

    fn tap(&mut self, place: Option<Place>, qemu: Option<u32>) -> Result<(), Doubt> {
        let Some(Place { netns: Some(netns), index }) = place else {
            return Err(CloseDoubt::Uncounted.into());
        };
        let tap = self.there(netns, |links| Attached::of(links, index));
        let Some(Ok(tap)) = tap else { return Err(CloseDoubt::Uncounted.into()) };
        let Some(tap) = tap.filter(|tap| tap.queues > 0) else { return Ok(()) };
        let Some(visible) = self.visible(DeviceKind::Tun) else { return Err(CloseDoubt::Attached.into()) };
        let shown = tap.shown(netns, &visible.holders);
        if let Some((pid, ..)) = shown.found.iter().find(|(pid, ..)| Some(*pid) != qemu) {
            return Err(Doubt { why: CloseDoubt::HeldElsewhere, holder: Some(*pid) });
        }
        let files = shown.open_files().unwrap_or(0);
        // The others are QEMU's other queues.
        if files >= tap.queues { Ok(()) } else { Err(CloseDoubt::Attached.into()) }
    }

    fn macvtap(&mut self, place: Option<Place>, rdev: Rdev, qemu: Option<u32>) -> Result<(), Doubt> {
        if let Some(Place { netns: Some(netns), index }) = place {
            let is_gone = self.there(netns, |links| {
                let link = links.by_index(index)?;
                Ok(link.is_none_or(|link| link.kind.as_deref() != Some("macvtap")))
            });
            if let Some(Ok(true)) = is_gone {
                return Ok(());
            }
        }
        let Some(visible) = self.visible(DeviceKind::Macvtap) else { return Err(CloseDoubt::Unseen.into()) };
        let is_anothers = |(pid, _, held): &&(u32, u32, HeldDevice)| held.rdev == rdev && Some(*pid) != qemu;
        if let Some((pid, ..)) = visible.holders.found.iter().find(is_anothers) {
            return Err(Doubt { why: CloseDoubt::HeldElsewhere, holder: Some(*pid) });
        }
        visible.shows_all(qemu)
    }

    fn vhost(&mut self, qemu: Option<u32>) -> Result<(), Doubt> {
        let known = self.guests().clone();
        let Some(visible) = self.visible(DeviceKind::VhostNet) else { return Err(CloseDoubt::Unseen.into()) };
        visible.shows_all(qemu)?;
        // One says nothing of itself: whoever is no guest may have a copy.
        let is_strange = |(pid, ..): &&(u32, u32, HeldDevice)| !known.contains(pid) && Some(*pid) != qemu;
        match visible.holders.found.iter().find(is_strange) {
            Some((pid, ..)) => Err(Doubt { why: CloseDoubt::Uncounted, holder: Some(*pid) }),
            None => Ok(()),
        }
    }

    /// The processes that hold devices by right: the QEMUs that are watched, and those of the ledger with their supervisors.
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

    fn visible(&mut self, kind: DeviceKind) -> Option<&Visible> {
        self.visible.entry(kind).or_insert_with(|| Visible::of(kind)).as_ref()
    }

    /// Asks in a network namespace; none where there is no way into it.
    fn there<T: Send>(
        &mut self,
        netns: u64,
        ask: impl FnOnce(&mut Links) -> Result<T, LinkError> + Send,
    ) -> Option<Result<T, LinkError>> {
        let ask = || Links::open().and_then(|mut links| ask(&mut links));
        if NetNs::own().is_ok_and(|own| own.inode() == netns) {
            return Some(ask());
        }
        self.namespaces.meet(netns)?.enter(ask).ok()
    }
}

impl Visible {
    fn of(kind: DeviceKind) -> Option<Self> {
        let count = || driver_open_files(kind).map(|files| usize::try_from(files).unwrap_or(usize::MAX));
        let before = count();
        let holders = Holders::of(kind).ok()?;
        // A tap's link counts its own.
        let is_all = before.is_some() && before == holders.open_files().ok() && before == count();
        Some(Self { holders, is_all })
    }

    /// Whether nobody can hold one that is not shown.
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
    /// The one with this inode; none where it can't be seen.
    fn meet(&mut self, inode: u64) -> Option<&NetNs> {
        match self.0.entry(inode) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(unknown) => {
                Some(unknown.insert(NetNs::all().find(|space| space.inode() == inode)?))
            }
        }
    }

    /// Keeps these, and no others; our own needs not be kept.
    pub(super) fn keep(&mut self, wanted: impl Iterator<Item = u64>) {
        let own = NetNs::own().ok().map(|own| own.inode());
        let wanted: HashSet<u64> = wanted.filter(|inode| Some(*inode) != own).collect();
        self.0.retain(|inode, _| wanted.contains(inode));
        for inode in wanted {
            self.meet(inode);
        }
    }
}
