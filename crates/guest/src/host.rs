//! The host's side of interfaces: links, found by our marks; filters; and the last closes that the
//! kernel reports. `interface.rs` opens devices with it.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taptrail_kernel::changes::Changes;
use taptrail_kernel::filter::{FilterError, InterfaceFilter, Nft, NftTurns, filter_hooks};
use taptrail_kernel::link::{Link, LinkError, Links, MacvtapMode, PlacedLink};
use taptrail_kernel::proc::ProcessId;
use taptrail_kernel::process::AllowedBpf;
use taptrail_ledger::LiveInterface;
use taptrail_record::{GuestId, IfName, MacAddr};
use tracing::{debug, warn};

use crate::account::OpenDevice;
use crate::host_link::{HostLink, LinkLocation, LinkMatch, TapState, is_mark, mark};
use crate::host_side::Teardown;
use crate::learning::Learning;
use crate::open_files::{LastClose, OpenFiles};
use crate::run_dir;
use crate::spec::{Backend, NicSpec};

/// Attempts to set a filter that does not read back as it was set.
const MAX_FILTER_SETS: u32 = 5;

/// The leftovers of ended guests can't be removed.
#[derive(Debug, thiserror::Error)]
pub enum LeftOverError {
    /// The links can't be listed.
    #[error("Links can't be listed")]
    Links(#[from] LinkError),
    /// The kernel can't list its filters.
    #[error("Filters can't be listed")]
    Tables(#[source] std::io::Error),
    /// The filters can't be removed.
    #[error("Filters without an interface can't be removed")]
    Filters(#[from] FilterError),
}

/// What an interface leaves on the host beyond its descriptors.
#[derive(Debug, Default)]
pub(crate) struct HostResources {
    /// The link behind it.
    pub(crate) link: Option<HostLink>,
    /// The link was deleted while QEMU held its devices: its absence proves nothing about them.
    pub(crate) cut: bool,
    /// The filter that we set. It outlives the link.
    pub(crate) filter: Option<InterfaceFilter>,
    /// The ifindex in the name of a filter that an earlier supervisor set, and of which no rules are
    /// known.
    pub(crate) unknown_filter: Option<u32>,
    /// The generation of nftables at which the filter was read back.
    pub(crate) filter_seen: Option<u32>,
    /// The MAC that the link must keep; `None` where the link's owner decides.
    pub(crate) mac: Option<MacAddr>,
    /// A record says that the filter was lost, and it was not set again.
    pub(crate) filter_lost: bool,
    /// The addresses that the filter has learnt, and how more are.
    pub(crate) learning: Option<Learning>,
    /// What is to be done when the devices are released.
    pub(crate) teardown: Option<Teardown>,
}

impl HostResources {
    /// Whether the interface has lost its filter, and it could not be set again.
    pub(crate) fn lacks_filter(&self) -> bool {
        self.filter_lost && self.filter.is_some()
    }

    /// Takes the filter that was set just now, or none, under the name that its link has by now.
    pub(crate) fn now_has(&mut self, filter: Option<InterfaceFilter>) {
        self.filter = filter;
        if let (Some(filter), Some(link)) = (&mut self.filter, &self.link) {
            filter.ifname.clone_from(link.name());
        }
        (self.filter_lost, self.unknown_filter) = (false, None);
    }
}

/// What became of the link behind an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkChange {
    None,
    Renamed(IfName),
    /// It is in another network namespace, of this number in ours, under this name.
    MovedKeys(i32, String),
    Gone,
    /// It can't be found, and nothing shows that it was deleted.
    Unknown,
}

/// Links, filters and open files of this host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) links: Links,
    /// The kernel's notifications of changes to links and filters; `None` where they are not
    /// available.
    pub(crate) changes: Option<Changes>,
    /// Path of the nft program; `None` for the system's.
    nft: Option<PathBuf>,
    /// `None` where the file that is locked for it can't be opened.
    nft_turns: Option<Arc<NftTurns>>,
    /// The open files whose last closes the kernel reports; `None` without `--bpf`.
    pub(crate) open_files: Option<OpenFiles>,
}

impl Host {
    /// For a host with this run directory; `nft` is the path of the program, or none for the system's.
    pub(crate) fn open(run: &Path, nft: Option<PathBuf>) -> Result<Self, LinkError> {
        // Everything else works without it.
        let changes = Changes::subscribe()
            .inspect_err(|error| warn!("changes of links and filters are not monitored: {error}"))
            .ok();
        let nft_turns = run_dir::nft_turns(run)
            .inspect_err(
                |error| debug!(%error, "can't open the lock of nft: supervisors may run it at the same time"),
            )
            .ok()
            .map(|file| Arc::new(NftTurns::new(file)));
        Ok(Self { links: Links::open()?, changes, nft, nft_turns, open_files: None })
    }

    /// Tracks a link of this network namespace, so that its move is not taken for its deletion.
    pub(crate) fn follow(&mut self, link: HostLink) -> HostLink {
        if let Some(changes) = &mut self.changes {
            changes.follow(link.index());
            // What happened before it was followed is not announced. If this look fails, it is not
            // known where the link is, and a later one may find it.
            let _ = self.find_link(&link);
        }
        link
    }

    /// Loads the BPF program that reports last closes, if the kernel allows it. To be called before
    /// any device is opened, and before privileges are dropped.
    pub(crate) fn enable_last_closes(&mut self) {
        self.open_files = OpenFiles::load();
    }

    /// Which operations of bpf(2) are needed from then on.
    pub(crate) fn needs_bpf(&self) -> AllowedBpf {
        if self.open_files.is_some() { AllowedBpf::MapLookups } else { AllowedBpf::Nothing }
    }

    /// Reads the events of the BPF program.
    pub(crate) fn read_close_events(&mut self) {
        if let Some(files) = &mut self.open_files {
            files.read_close_events();
        }
    }

    /// Readable when the BPF program has events.
    pub(crate) fn close_events_fd(&self) -> Option<BorrowedFd<'_>> {
        self.open_files.as_ref().map(OpenFiles::as_fd)
    }

    /// Whether a last close was reported since the last call.
    pub(crate) fn take_last_closes(&mut self) -> bool {
        self.open_files.as_mut().is_some_and(|files| {
            files.read_close_events();
            files.take_closed()
        })
    }

    /// The reported state of a device's open file; `None` where it proves nothing.
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
        let nft = self.nft.as_ref().map_or_else(Nft::discover, |path| Ok(Nft::at(path)))?;
        Ok(match &self.nft_turns {
            Some(turns) => nft.with_turns(Arc::clone(turns)),
            None => nft,
        })
    }

    /// Removes an interface's link and filter, never stopping at the first error. What can't be
    /// removed is logged, and stays in `resources`.
    pub(crate) fn undo(&mut self, mac: MacAddr, resources: &mut HostResources) {
        if let Some(mut teardown) = resources.teardown.take() {
            // A link that is gone leaves its name to others.
            if !self.is_own_or_free(&teardown.ifname, resources.link.as_ref())
                && teardown.downscript.take().is_some()
            {
                warn!("{mac}: its downscript is not run: '{}' is another link's name now", teardown.ifname);
            }
            teardown.run(mac);
        }
        // First the link, as it needs its filter while it exists. A link that is not ours stays,
        // also in `resources`: while QEMU keeps its device, the link shows whether that is
        // released.
        if let Some(link) = resources.link.take_if(|link| link.is_ours()) {
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
                    resources.link = Some(link);
                }
            }
        }
        if let Some(link) = resources.link.as_ref().filter(|link| !link.is_ours())
            && let Ok(sight) = self.find_link(link)
            && sight != LinkLocation::Unknown
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
            found.is_ok_and(|found| found.is_some_and(|found| link.compare(&found) != LinkMatch::Other))
        };
        let filter = resources.filter.as_ref().map(|filter| filter.ifindex).or(resources.unknown_filter);
        if filter.is_some() && resources.link.as_ref().filter(|link| link.is_ours()).is_some_and(is_there) {
            return warn!("{mac}: its filter stays, since its link may be there");
        }
        (resources.filter, resources.unknown_filter, resources.learning) = (None, None, None);
        if let Some(ifindex) = filter
            && let Err(error) = self.nft().and_then(|nft| nft.remove(ifindex))
        {
            warn!("{mac}: filter is left over: {}", crate::chain(&error));
        }
    }

    /// Deletes a link that we made, in whatever network namespace it is and whatever its name.
    /// Returns whether it is gone; false if it can't be found. Another link in its place is left
    /// alone.
    pub(crate) fn delete_link(&mut self, link: &HostLink) -> Result<bool, LinkError> {
        let found = match self.find_link(link)? {
            LinkLocation::Gone => return Ok(true),
            LinkLocation::Unknown => return Ok(false),
            LinkLocation::Found(found) => found,
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

    /// Finds the link by its index and properties, and by our mark if we made it.
    pub(crate) fn find_link(&mut self, link: &HostLink) -> Result<LinkLocation, LinkError> {
        let here = self.links.by_index(link.index())?;
        let likeness = here.as_ref().map_or(LinkMatch::Other, |found| link.compare(found));
        if let (Some(found), LinkMatch::Same | LinkMatch::Unmarked) = (here, likeness) {
            self.changes.iter_mut().for_each(|changes| changes.settle(link.index()));
            return Ok(LinkLocation::Found(PlacedLink { link: found, namespace: None }));
        }
        // Checked after it was not found here.
        let left = self.changes.as_mut().is_none_or(|changes| changes.may_be_elsewhere(link.index()));
        // Each move between namespaces may change its index.
        let elsewhere = match link.mark() {
            Some(mark) if left => self.links.find_anywhere(mark)?,
            Some(mark) => self.links.find_moved(mark)?,
            None => None,
        };
        Ok(match elsewhere {
            Some(placed) => LinkLocation::Found(placed),
            None if left || likeness == LinkMatch::Unclear => LinkLocation::Unknown,
            None => LinkLocation::Gone,
        })
    }

    /// The link with this mark, in our network namespace or where it was moved to.
    pub(crate) fn marked(&mut self, mark: String) -> Result<Option<HostLink>, LinkError> {
        let found = self.links.find_alias(&mark)?;
        Ok(found.and_then(|found| HostLink::new(&found.link, Some(mark))))
    }

    /// The state of the tap behind an interface, in whatever network namespace it is.
    pub(crate) fn tap_state(&mut self, link: &HostLink) -> Result<TapState, LinkError> {
        let PlacedLink { link: found, namespace } = match self.find_link(link)? {
            LinkLocation::Found(placed) => placed,
            LinkLocation::Gone => return Ok(TapState::Gone),
            LinkLocation::Unknown => return Ok(TapState::Unknown),
        };
        let tun = found.tun;
        if tun.is_none_or(|tun| !tun.persistent) {
            // A tap that is not persistent exists as long as an open file is attached to it.
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
            // That can't be queried from here.
            (None, Some(_)) => TapState::Attached(None),
        })
    }

    /// The current name of the link behind an interface.
    pub(crate) fn name_of(&mut self, link: &HostLink) -> Option<String> {
        Some(self.find_link(link).ok()?.found()?.link.name)
    }

    /// The link and the filter that another supervisor made for an interface, which is on record as
    /// `row` with this SPEC.
    ///
    /// A link that we made is found by its mark, in any network namespace and under any name. A
    /// start that was interrupted may have left a link without a mark: it is found by the name in
    /// the records of its devices, if any. A tap is gone with its last descriptor, and another link
    /// may have its name then: so a tap counts only if QEMU `holds` it.
    pub(crate) fn find_left_over(
        &mut self,
        guest: &GuestId,
        row: &LiveInterface,
        spec: &NicSpec,
        holds: bool,
    ) -> Result<HostResources, LinkError> {
        let mut resources = self.find_left_over_link(guest, row, spec, holds)?;
        // Without a name in its records nothing was done with the link yet.
        let name = match &resources.link {
            Some(link) => Some(link.name().clone()),
            None => row.ifname.as_deref().and_then(|name| name.parse().ok()),
        };
        resources.teardown = name.and_then(|name| Teardown::new(guest, spec, row.mac, name));
        Ok(resources)
    }

    fn find_left_over_link(
        &mut self,
        guest: &GuestId,
        row: &LiveInterface,
        spec: &NicSpec,
        holds: bool,
    ) -> Result<HostResources, LinkError> {
        let (mac, ifname) = (row.mac, row.ifname.as_deref());
        let mark = mark(guest, mac);
        if let Some(PlacedLink { link, namespace }) = self.links.find_anywhere(&mark)? {
            let mut resources = resources(spec, &link, row, Some(mark));
            if namespace.is_none() {
                resources.link = resources.link.map(|link| self.follow(link));
            }
            return Ok(resources);
        }
        let mut links = self.links.all()?;
        // A marked link is another interface's, whatever its name.
        links.retain(|link| !link.alias.as_deref().is_some_and(is_mark));
        let named = |link: &&Link| ifname.is_none_or(|name| link.name == name);
        let (found, ours) = match &spec.backend {
            Backend::Bridge(_) | Backend::NewTap => {
                let tap = |link: &&Link| {
                    // With an alias of somebody else, its MAC shows that it is ours.
                    let alias = link.alias.is_none() || link.mac == Some(mac.host_side());
                    holds && ifname.is_some() && link.kind.as_deref() == Some("tun") && alias
                };
                (links.iter().filter(tap).find(named), true)
            }
            Backend::Macvtap { lower, .. } => {
                // The kernel allows one macvtap with this MAC on a lower link
                // (drivers/net/macvlan.c).
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
            Backend::Vdpa(_) | Backend::VhostUser(_) => (None, false),
        };
        let Some(link) = found.cloned() else { return Ok(HostResources::default()) };
        if ours {
            // From here on it is found by its mark.
            self.links.set_alias(link.index, &mark)?;
        }
        let mut resources = resources(spec, &link, row, ours.then_some(mark));
        resources.link = resources.link.map(|link| self.follow(link));
        Ok(resources)
    }

    /// Removes filters of ours whose interface no longer exists: from Linux 6.16 on they would
    /// apply to the next interface of that name.
    pub(crate) fn sweep_filters(&mut self) -> Result<(), LeftOverError> {
        let filters = filter_hooks().map_err(LeftOverError::Tables)?;
        if filters.is_empty() {
            return Ok(());
        }
        // Listed after the filters: a new interface has its link before its filter.
        let links = self.links.all()?;
        for (number, hook) in filters {
            // Another link may have this index by now. A link of ours has a mark; other links are
            // compared with the name in the filter.
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

    /// Finds out whether the link behind an interface was renamed, moved or deleted. A new name is
    /// stored for the link and its filter.
    pub(crate) fn refresh_link(&mut self, resources: &mut HostResources) -> Result<LinkChange, LinkError> {
        let Some(link) = &mut resources.link else { return Ok(LinkChange::None) };
        let PlacedLink { link: found, namespace } = match self.find_link(link)? {
            LinkLocation::Found(placed) => placed,
            LinkLocation::Gone => return Ok(LinkChange::Gone),
            LinkLocation::Unknown => return Ok(LinkChange::Unknown),
        };
        if let Some(number) = namespace {
            return Ok(LinkChange::MovedKeys(number, found.name));
        }
        if let (LinkMatch::Unmarked, Some(mark)) = (link.compare(&found), link.mark()) {
            // Restored, so that the link is found whatever else is changed, also by `recover`.
            self.links.set_alias(found.index, mark)?;
            let alias: String = found.alias.unwrap_or_default().chars().take(64).collect();
            warn!("link '{}' has its mark again as its alias, in place of {alias:?}", found.name);
        }
        match found.name.parse::<IfName>() {
            Ok(name) if name != *link.name() => {
                link.set_name(name.clone());
                if let Some(filter) = &mut resources.filter {
                    filter.ifname = name.clone();
                }
                Ok(LinkChange::Renamed(name))
            }
            _ => Ok(LinkChange::None),
        }
    }

    /// Whether a name is that of this link, or of none.
    fn is_own_or_free(&mut self, name: &IfName, own: Option<&HostLink>) -> bool {
        match self.links.find(name) {
            Ok(None) => true,
            Ok(Some(found)) => own.is_some_and(|own| own.compare(&found) != LinkMatch::Other),
            Err(_) => false,
        }
    }

    /// Restores the MAC of an interface's link; returns the MAC that it had instead, if it was
    /// changed.
    pub(crate) fn restore_mac(&mut self, resources: &HostResources) -> Result<Option<MacAddr>, LinkError> {
        let (Some(link), Some(mac)) = (&resources.link, resources.mac) else { return Ok(None) };
        let found = self.links.by_index(link.index())?.filter(|found| link.compare(found) == LinkMatch::Same);
        let Some(other) = found.and_then(|found| found.mac).filter(|found| *found != mac) else {
            return Ok(None);
        };
        self.links.set_mac(link.index(), mac)?;
        Ok(Some(other))
    }

    /// Verifies that a filter is in force.
    pub(crate) fn filter_is_in_force(&self, filter: &InterfaceFilter) -> Result<(), FilterError> {
        self.nft()?.verify(filter)
    }

    /// Sets a filter again; retries while others change nftables.
    pub(crate) fn set_filter(&self, filter: &InterfaceFilter) -> Result<Option<u32>, FilterError> {
        let nft = self.nft()?;
        for _ in 1..MAX_FILTER_SETS {
            match nft.apply(filter) {
                // Somebody changed it before it was read back, and it was removed.
                Err(FilterError::Differs { .. }) => {}
                set => return set,
            }
        }
        nft.apply(filter)
    }
}

fn resources(spec: &NicSpec, link: &Link, row: &LiveInterface, mark: Option<String>) -> HostResources {
    let mac = row.mac;
    let pinned = pinned_mac(spec, link, mac);
    let link = HostLink::new(link, mark);
    let filter = link.as_ref().zip(spec.filter.as_ref()).and_then(|(link, choice)| {
        let rules = match &row.rules {
            Some(stored) => serde_json::from_str(stored).map_err(|error| error.to_string()),
            // An older taptrail did not keep them.
            None => {
                choice.load_rules(mac, link.kind().attachment(), &[]).map_err(|error| crate::chain(&error))
            }
        };
        let rules = rules.inspect_err(|why| warn!("{mac}: its filter's rules are not known: {why}"));
        Some(link.filter(rules.ok()?))
    });
    let is_unknown = spec.filter.is_some() && filter.is_none();
    HostResources {
        unknown_filter: link.as_ref().filter(|_| is_unknown).map(HostLink::index),
        cut: false,
        teardown: None,
        filter_seen: None,
        mac: pinned,
        filter_lost: false,
        learning: None,
        filter,
        link,
    }
}

/// The MAC that the link behind an interface must keep: QEMU, which holds its device, could change
/// it, and would get frames of others.
pub(crate) fn pinned_mac(spec: &NicSpec, link: &Link, mac: MacAddr) -> Option<MacAddr> {
    match &spec.backend {
        Backend::Bridge(_) | Backend::NewTap => Some(mac.host_side()),
        // It has the MAC of its lower link, and exclusive use of that.
        Backend::Macvtap { mode: MacvtapMode::Passthru, .. } => None,
        Backend::Macvtap { .. } => Some(mac),
        // An existing link keeps its MAC; a macvtap's is the guest's.
        Backend::Tap(_) => link.mac,
        Backend::Vdpa(_) | Backend::VhostUser(_) => None,
    }
}
