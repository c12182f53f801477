//! What interfaces need of the host and leave on it: links, by our marks; filters; and what the kernel
//! tells of open files. `interface.rs` opens devices with it.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use taptrail_kernel::changes::Changes;
use taptrail_kernel::filter::{FilterError, Hook, MacFilter, Nft, filter_hooks};
use taptrail_kernel::link::{Link, LinkError, Links, MacvtapMode, PlacedLink};
use taptrail_kernel::proc::ProcessId;
use taptrail_kernel::process::AllowedBpf;
use taptrail_record::{GuestId, IfName, MacAddr};
use tracing::warn;

use crate::account::OpenDevice;
use crate::host_link::{HostLink, Likeness, LinkKind, Sight, TapState, is_mark, mark};
use crate::open_files::{LastClose, OpenFiles};
use crate::spec::{Backend, NicSpec};

/// How often a filter is set that is not read back as it was set.
const MAX_FILTER_SETS: u32 = 5;

/// What is left over of ended guests can't be removed.
#[derive(Debug, thiserror::Error)]
pub enum LeftOverError {
    /// The links can't be listed.
    #[error("Links can't be listed")]
    Links(#[from] LinkError),
    /// The kernel can't be asked which filters there are.
    #[error("Filters can't be listed")]
    Tables(#[source] std::io::Error),
    /// The filters can't be removed.
    #[error("Filters without an interface can't be removed")]
    Filters(#[from] FilterError),
}

/// What of an interface lasts on the host beyond its descriptors.
#[derive(Debug, Default)]
pub(crate) struct Lasting {
    /// The link behind it.
    pub(crate) link: Option<HostLink>,
    /// Its link was deleted from under devices that QEMU held: that it is not there shows nothing of them.
    pub(crate) cut: bool,
    /// The filter that we set: it outlives the link.
    pub(crate) filter: Option<MacFilter>,
    /// The generation of nftables at which the filter was read back.
    pub(crate) filter_seen: Option<u32>,
    /// The MAC that the link is to keep; none where that is not ours to say.
    pub(crate) mac: Option<MacAddr>,
    /// The filter is on record as lost, and was not set again.
    pub(crate) filter_lost: bool,
}

impl Lasting {
    /// The interface is to have a filter, and it could not be set again.
    pub(crate) fn lacks_filter(&self) -> bool {
        self.filter_lost && self.filter.is_some()
    }
}

/// What became of the link behind an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkChange {
    None,
    Renamed(IfName),
    /// It is in the network namespace that ours has this number for, under this name.
    MovedKeys(i32, String),
    Gone,
    /// It can't be found, and nothing shows that it was deleted.
    Unknown,
}

/// What interfaces need of the host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) links: Links,
    /// What others change of links and filters; none where that is not announced.
    pub(crate) changes: Option<Changes>,
    /// The nft program, where it is not the system's.
    nft: Option<PathBuf>,
    /// What the kernel tells of our open files, where it is asked.
    pub(crate) open_files: Option<OpenFiles>,
}

impl Host {
    pub(crate) fn open(nft: Option<PathBuf>) -> Result<Self, LinkError> {
        // Without it nothing else is lost.
        let changes = Changes::subscribe()
            .inspect_err(|error| warn!("changes of links and filters are not seen: {error}"))
            .ok();
        Ok(Self { links: Links::open()?, changes, nft, open_files: None })
    }

    /// Follows a link of this network namespace, so that its move is not taken for its deletion.
    pub(crate) fn follow(&mut self, link: HostLink) -> HostLink {
        if let Some(changes) = &mut self.changes {
            changes.follow(link.index());
        }
        link
    }

    /// Has the kernel tell last closes, where it may be asked. To be called before anything is opened, and before rights
    /// are given up.
    pub(crate) fn ask_for_last_closes(&mut self) {
        self.open_files = OpenFiles::ask();
    }

    /// What of bpf(2) is needed from then on.
    pub(crate) fn needs_bpf(&self) -> AllowedBpf {
        if self.open_files.is_some() { AllowedBpf::MapLookups } else { AllowedBpf::Nothing }
    }

    /// Takes what the kernel tells of open files.
    pub(crate) fn hear(&mut self) {
        if let Some(files) = &mut self.open_files {
            files.hear();
        }
    }

    /// Readable when the kernel has told something of open files.
    pub(crate) fn awaited(&self) -> Option<BorrowedFd<'_>> {
        self.open_files.as_ref().map(OpenFiles::as_fd)
    }

    /// Whether the kernel told a last close since this was asked last.
    pub(crate) fn hears_last_close(&mut self) -> bool {
        self.open_files.as_mut().is_some_and(|files| {
            files.hear();
            files.take_news()
        })
    }

    /// What the kernel has told of a device's open file; none where it shows nothing.
    pub(crate) fn last_close(&self, device: &OpenDevice) -> Option<LastClose> {
        self.open_files.as_ref()?.last_close(device)
    }

    /// Finds the open files of devices that QEMU holds already.
    pub(crate) fn find_files(&mut self, qemu: ProcessId, devices: &mut [OpenDevice]) {
        if let Some(files) = &mut self.open_files
            && let Err(error) = files.find(qemu, devices)
        {
            warn!("which files QEMU has open can't be seen: {error}");
        }
    }

    pub(crate) fn nft(&self) -> Result<Nft, FilterError> {
        self.nft.as_ref().map_or_else(Nft::discover, |path| Ok(Nft::at(path)))
    }

    /// Removes what of an interface lasts beyond its descriptors, never stopping at the first
    /// error; what can't be removed is said, and stays in `lasting`.
    pub(crate) fn undo(&mut self, mac: MacAddr, lasting: &mut Lasting) {
        // First its link: as long as that is there, its filter is needed. One of others stays, and shows as long as
        // QEMU keeps its device whether that is given up.
        if let Some(link) = lasting.link.take_if(|link| link.is_ours()) {
            let why = match self.delete_link(&link) {
                Ok(true) => None,
                Ok(false) => Some(
                    "it was moved to another network namespace or changed by others, and can't be found"
                        .to_owned(),
                ),
                Err(error) => Some(crate::chain(&error)),
            };
            match why {
                None => self.changes.iter_mut().for_each(|changes| changes.forget(link.index())),
                Some(why) => {
                    warn!("{mac}: link '{}' may be left over: {why}", link.name());
                    lasting.link = Some(link);
                }
            }
        }
        if let Some(link) = lasting.link.as_ref().filter(|link| !link.is_ours())
            && let Ok(sight) = self.find_link(link)
            && sight != Sight::Unknown
        {
            let now = sight.found().map(|placed| placed.link);
            for what in link.changed(now.as_ref()) {
                warn!(
                    "{mac}: tap '{}' is not {what} any more, as it was when it was opened: who held it may have changed that",
                    link.name()
                );
            }
        }
        let is_there = |link: &HostLink| {
            let found = self.links.by_index(link.index());
            found.is_ok_and(|found| found.is_some_and(|found| link.compare(&found) != Likeness::Other))
        };
        if lasting.filter.is_some()
            && lasting.link.as_ref().filter(|link| link.is_ours()).is_some_and(is_there)
        {
            return warn!("{mac}: its filter stays, since its link may be there");
        }
        if let Some(filter) = lasting.filter.take()
            && let Err(error) = self.nft().and_then(|nft| nft.remove(filter.ifindex))
        {
            warn!("{mac}: filter is left over: {}", crate::chain(&error));
        }
    }

    /// Deletes a link that we made, wherever it is by now and whatever it is called, and tells whether it is gone: it is
    /// not known to be where it can't be found. Another one in its place is left alone.
    pub(crate) fn delete_link(&mut self, link: &HostLink) -> Result<bool, LinkError> {
        let found = match self.find_link(link)? {
            Sight::Gone => return Ok(true),
            Sight::Unknown => return Ok(false),
            Sight::Found(found) => found,
        };
        if let Some(namespace) = found.namespace {
            warn!(
                "link '{}' was moved to another network namespace (number {namespace} here) as '{}': it is deleted there",
                link.name(),
                found.link.name
            );
        }
        match self.links.delete_placed(&found) {
            Err(error) if !error.is_missing() => return Err(error),
            _ => self.changes.iter_mut().for_each(|changes| changes.settle(link.index())),
        }
        Ok(true)
    }

    /// Where the link is now: by its number and by what it is, and by our mark where we made it.
    pub(crate) fn find_link(&mut self, link: &HostLink) -> Result<Sight, LinkError> {
        let here = self.links.by_index(link.index())?;
        let likeness = here.as_ref().map_or(Likeness::Other, |found| link.compare(found));
        if let (Some(found), Likeness::Same | Likeness::Unmarked) = (here, likeness) {
            self.changes.iter_mut().for_each(|changes| changes.settle(link.index()));
            return Ok(Sight::Found(PlacedLink { link: found, namespace: None }));
        }
        // Asked for after it was not found here.
        let left = self.changes.as_mut().is_none_or(|changes| changes.may_be_elsewhere(link.index()));
        // A move may give it another number, and another one back home.
        let elsewhere = match link.mark() {
            Some(mark) if left => self.links.find_anywhere(mark)?,
            Some(mark) => self.links.find_moved(mark)?,
            None => None,
        };
        Ok(match elsewhere {
            Some(placed) => Sight::Found(placed),
            None if left || likeness == Likeness::Unclear => Sight::Unknown,
            None => Sight::Gone,
        })
    }

    /// The link with this mark, in our network namespace or where it was moved to.
    pub(crate) fn marked(&mut self, mark: String) -> Result<Option<HostLink>, LinkError> {
        let found = self.links.find_alias(&mark)?;
        Ok(found.and_then(|found| HostLink::new(&found.link, Some(mark))))
    }

    /// What the kernel says of the tap behind an interface, wherever it is by now.
    pub(crate) fn tap_state(&mut self, link: &HostLink) -> Result<TapState, LinkError> {
        let PlacedLink { link: found, namespace } = match self.find_link(link)? {
            Sight::Found(placed) => placed,
            Sight::Gone => return Ok(TapState::Gone),
            Sight::Unknown => return Ok(TapState::Unknown),
        };
        let tun = found.tun;
        if tun.is_none_or(|tun| !tun.persistent) {
            // It is there as long as an open file is attached to it.
            return Ok(TapState::Attached(tun.and_then(|tun| tun.queues)));
        }
        Ok(match (tun.and_then(|tun| tun.queues), namespace) {
            (Some(0), _) => TapState::Idle,
            (queues @ Some(_), _) => TapState::Attached(queues),
            (None, None) => match self.links.tap_is_attached(found.index)? {
                None => TapState::Gone,
                Some(false) => TapState::Idle,
                Some(true) => TapState::Attached(None),
            },
            // Not to be asked from here.
            (None, Some(_)) => TapState::Attached(None),
        })
    }

    /// The name of the link behind an interface now.
    pub(crate) fn name_of(&mut self, link: &HostLink) -> Option<String> {
        Some(self.find_link(link).ok()?.found()?.link.name)
    }

    /// What is left on the host of an interface that another supervisor made: its link and its filter.
    ///
    /// A link that we made is known by our mark, wherever it is and whatever it is called. Without one, as of a start
    /// that was cut off before the link had it: `ifname` is what its devices were on record with, if they came that far.
    /// A tap goes with its last descriptor, and its name may be another's by then: it counts only while QEMU is known
    /// to `hold` it.
    pub(crate) fn left_over(
        &mut self,
        guest: &GuestId,
        spec: &NicSpec,
        mac: MacAddr,
        ifname: Option<&str>,
        holds: bool,
    ) -> Result<Lasting, LinkError> {
        let mark = mark(guest, mac);
        if let Some(PlacedLink { link, namespace }) = self.links.find_anywhere(&mark)? {
            let mut lasting = lasting(spec, &link, mac, Some(mark));
            if namespace.is_none() {
                lasting.link = lasting.link.map(|link| self.follow(link));
            }
            return Ok(lasting);
        }
        let mut links = self.links.all()?;
        // Another interface's of a guest, whatever it is called.
        links.retain(|link| !link.alias.as_deref().is_some_and(is_mark));
        let named = |link: &&Link| ifname.is_none_or(|name| link.name == name);
        let (found, ours) = match &spec.backend {
            Backend::Bridge(_) => {
                let tap = |link: &&Link| {
                    // With another alias than none, its MAC tells that it is ours.
                    let alias = link.alias.is_none() || link.mac == Some(mac.host_side());
                    holds && ifname.is_some() && link.kind.as_deref() == Some("tun") && alias
                };
                (links.iter().filter(tap).find(named), true)
            }
            Backend::Macvtap { lower, .. } => {
                // The kernel has at most one with this MAC on one lower link (drivers/net/macvlan.c).
                let lower = links.iter().find(|link| link.name == lower.as_str()).map(|link| link.index);
                let macvtap = |link: &&Link| {
                    link.kind.as_deref() == Some("macvtap")
                        && link.mac == Some(mac)
                        && link.lower.is_some()
                        && link.lower == lower
                };
                (links.iter().filter(macvtap).find(named), true)
            }
            Backend::Tap(name) => (links.iter().find(|link| link.name == name.as_str()), false),
        };
        let Some(link) = found.cloned() else { return Ok(Lasting::default()) };
        if ours {
            // So that it is known from here on.
            self.links.set_alias(link.index, &mark)?;
        }
        let mut lasting = lasting(spec, &link, mac, ours.then_some(mark));
        lasting.link = lasting.link.map(|link| self.follow(link));
        Ok(lasting)
    }

    /// Removes filters of ours whose interface does not exist any more: from Linux 6.16 on they take hold of the next
    /// interface of its name.
    pub(crate) fn sweep_filters(&mut self) -> Result<(), LeftOverError> {
        let filters = filter_hooks().map_err(LeftOverError::Tables)?;
        if filters.is_empty() {
            return Ok(());
        }
        // Listed after them: an interface that is being made has its link before its filter.
        let links = self.links.all()?;
        for (number, hook) in filters {
            // Another link may have the number by now. One of ours has its mark; one of others is what the filter says.
            let is_filtered = |link: &Link| {
                link.index == number
                    && (link.alias.as_deref().is_some_and(is_mark) || hook.devices.contains(&link.name))
            };
            if !links.iter().any(is_filtered) {
                self.nft()?.remove(number)?;
            }
        }
        Ok(())
    }

    /// What became of the link behind an interface; its new name is taken over, and its filter's with it.
    pub(crate) fn look_at_link(&mut self, lasting: &mut Lasting) -> Result<LinkChange, LinkError> {
        let Some(link) = &mut lasting.link else { return Ok(LinkChange::None) };
        let PlacedLink { link: found, namespace } = match self.find_link(link)? {
            Sight::Found(placed) => placed,
            Sight::Gone => return Ok(LinkChange::Gone),
            Sight::Unknown => return Ok(LinkChange::Unknown),
        };
        if let Some(number) = namespace {
            return Ok(LinkChange::MovedKeys(number, found.name));
        }
        if let (Likeness::Unmarked, Some(mark)) = (link.compare(&found), link.mark()) {
            // So that it is known whatever else is changed, and by `recover`.
            self.links.set_alias(found.index, mark)?;
            let alias: String = found.alias.unwrap_or_default().chars().take(64).collect();
            warn!("link '{}' has its mark again as its alias, in place of {alias:?}", found.name);
        }
        match found.name.parse::<IfName>() {
            Ok(name) if name != *link.name() => {
                link.is_called(name.clone());
                if let Some(filter) = &mut lasting.filter {
                    filter.ifname = name.clone();
                }
                Ok(LinkChange::Renamed(name))
            }
            _ => Ok(LinkChange::None),
        }
    }

    /// Sets the MAC of an interface's link back to what it was given; tells which it had, if it had another.
    pub(crate) fn set_mac_back(&mut self, lasting: &Lasting) -> Result<Option<MacAddr>, LinkError> {
        let (Some(link), Some(mac)) = (&lasting.link, lasting.mac) else { return Ok(None) };
        let found = self.links.by_index(link.index())?.filter(|found| link.compare(found) == Likeness::Same);
        let Some(other) = found.and_then(|found| found.mac).filter(|found| *found != mac) else {
            return Ok(None);
        };
        self.links.set_mac(link.index(), mac)?;
        Ok(Some(other))
    }

    /// Shows that a filter is in force.
    pub(crate) fn filter_is_in_force(&self, filter: &MacFilter) -> Result<(), FilterError> {
        self.nft()?.verify(filter)
    }

    /// Sets a filter again, also while others change nftables.
    pub(crate) fn set_filter(&self, filter: &MacFilter) -> Result<Option<u32>, FilterError> {
        let nft = self.nft()?;
        for _ in 1..MAX_FILTER_SETS {
            match nft.apply(filter) {
                // Somebody changed it before it was read back, and it is removed.
                Err(FilterError::Differs { .. }) => {}
                set => return set,
            }
        }
        nft.apply(filter)
    }
}

fn lasting(spec: &NicSpec, link: &Link, mac: MacAddr, mark: Option<String>) -> Lasting {
    let pinned = pinned_mac(spec, link, mac);
    let link = HostLink::new(link, mark);
    let filter = link.as_ref().filter(|_| spec.filter.is_some());
    Lasting {
        cut: false,
        filter_seen: None,
        mac: pinned,
        filter_lost: false,
        filter: filter.map(|link| mac_filter(link.kind(), link.name().clone(), link.index(), mac)),
        link,
    }
}

/// The MAC that the link behind an interface is to keep: who holds its device can change it, and would get frames of
/// others.
pub(crate) fn pinned_mac(spec: &NicSpec, link: &Link, mac: MacAddr) -> Option<MacAddr> {
    match &spec.backend {
        Backend::Bridge(_) => Some(mac.host_side()),
        // It has its lower link's, and that link to itself.
        Backend::Macvtap { mode: MacvtapMode::Passthru, .. } => None,
        Backend::Macvtap { .. } => Some(mac),
        // One of others keeps what it had: of a macvtap that is the guest's.
        Backend::Tap(_) => link.mac,
    }
}

pub(crate) fn mac_filter(kind: LinkKind, ifname: IfName, ifindex: u32, mac: MacAddr) -> MacFilter {
    let hook = match kind {
        LinkKind::Tap => Hook::Ingress,
        LinkKind::Macvtap => Hook::Egress,
    };
    MacFilter { ifindex, ifname, hook, mac }
}
