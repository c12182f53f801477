//! A guest's interface on the host: from its SPEC to devices that are open, on record,
//! configured and filtered; and back.
//!
//! ```text
//!  SPEC ─▶ resolve ─▶ [make macvtap] ─▶ open(2) × devices × queues ─▶ books ─▶ configure ─▶ filter
//!          nothing is  ──────────────────── a failure from here on undoes what stands ───────────
//!          touched
//! ```
//!
//! What was opened stays on record whatever fails after it; its close is the caller's to post,
//! beside the record of what failed.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, DEV_VHOST_NET, DeviceError, MacvtapRequest, Opening, TapName, TapRequest, admit,
    open_macvtap, open_tap, open_vhost_net,
};
use taptrail_kernel::filter::{FilterError, Hook, MacFilter, Nft, filter_hooks};
use taptrail_kernel::link::{
    Change, Link, LinkError, Links, MacvtapMode, MacvtapName, Moves, NewMacvtap, PlacedLink, TunInfo,
};
use taptrail_kernel::proc::{Holders, ProcessId, Status};
use taptrail_kernel::process::BpfLeft;
use taptrail_ledger::{InterfaceKey, StepKey};
use taptrail_record::{DeviceKind, GuestId, IfName, MacAddr, Requester};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::account::{Account, AccountError, OpenDevice, Opens, Posting};
use crate::host_link::{HostLink, Likeness, LinkKind, Sight, TapState, is_mark, mark};
use crate::marked::{Marked, MarkedError};
use crate::open_files::{LastClose, OpenFiles};
use crate::spec::{Backend, Filter, NicSpec, Vhost};

/// How long a macvtap's node may take to appear: udev is asynchronous.
const NODE_WAIT: Duration = Duration::from_secs(5);

/// How many links are looked at, each standing on the next.
const MAX_LOWER_LINKS: usize = 8;

/// How often a filter is set that is not read back as it was set.
const MAX_FILTER_SETS: u32 = 5;

/// An interface's devices can't be opened, configured or filtered.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The SPEC names a link that is not there.
    #[error("{role} '{name}' doesn't exist: make it first (`ip link show` lists what there is)")]
    NoLink {
        /// What it should be.
        role: &'static str,
        /// Its name.
        name: String,
    },
    /// The SPEC names a link of another kind.
    #[error("Link '{name}' is a {kind}, not a {role}")]
    WrongKind {
        /// What it should be.
        role: &'static str,
        /// Its name.
        name: String,
        /// What it is.
        kind: String,
    },
    /// The macvtap has an address already, and the SPEC says another.
    #[error(
        "Macvtap '{name}' has MAC {has}, but mac={asked} is asked for: leave mac= out, or change one of them"
    )]
    OtherMac {
        /// The macvtap.
        name: IfName,
        /// Its address.
        has: MacAddr,
        /// The SPEC's.
        asked: MacAddr,
    },
    /// The link was made for a guest's interface: `ip link show` has its mark.
    #[error(
        "Link '{name}' belongs to another interface of a guest ({mark}): name a link of your own; `taptrail recover` removes what ended guests left"
    )]
    GuestsOwn {
        /// The link.
        name: IfName,
        /// Its mark: the guest's uuid and the interface's MAC.
        mark: String,
    },
    /// A guest without an open account has the address.
    #[error(
        "Interface {mac} runs already: link '{link}' was made for it, and guest {guest}, which is not on record here, holds it{}; `taptrail list` and `taptrail recover` tell what to do with that one", held_by(.pid)
    )]
    RunsUnrecorded {
        /// The interface.
        mac: MacAddr,
        /// The link.
        link: IfName,
        /// The guest.
        guest: Uuid,
        /// Who holds it, where a process shows it.
        pid: Option<u32>,
    },
    /// Whether the address is free can't be seen.
    #[error("Whether another guest has {mac} already can't be seen")]
    Marked {
        /// The interface.
        mac: MacAddr,
        /// Why.
        source: MarkedError,
    },
    /// The tap goes with the open file that it belongs to.
    #[error(
        "Tap '{name}' is not persistent: it belongs to the program that holds it; make one that stays (`ip tuntap add dev NAME mode tap user 0 group 65534`)"
    )]
    NotPersistent {
        /// The tap.
        name: IfName,
    },
    /// Every QEMU that runs as root could attach a queue, and would get a part of the guest's frames.
    #[error(
        "Tap '{name}' takes queues from every QEMU that runs as root, which would get frames of this guest: give it an owner and a group that no QEMU has (`ip tuntap add dev {name} mode tap multi_queue user 0 group 65534`)"
    )]
    OpenToAll {
        /// The tap.
        name: IfName,
    },
    /// The same of another guest's QEMU.
    #[error(
        "Tap '{name}' takes queues from QEMU of guest '{guest}', which would get frames of this one: give it an owner and a group that no other guest's QEMU has (`ip tuntap add dev {name} mode tap multi_queue user 0 group 65534`)"
    )]
    OpenTo {
        /// The tap.
        name: IfName,
        /// The other guest.
        guest: String,
    },
    /// Somebody has it open, and would get a part of the guest's frames.
    #[error("Link '{name}' is held already{}", held_by(.pid))]
    Held {
        /// The link.
        name: IfName,
        /// Who holds it, where a process shows it.
        pid: Option<u32>,
    },
    /// A guest's macvtap stands on it, and would get its frames.
    #[error(
        "Tap '{name}' has macvtap '{macvtap}' of a guest on it, which would get its frames: detach that one first"
    )]
    Below {
        /// The tap.
        name: IfName,
        /// What stands on it.
        macvtap: String,
    },
    /// Who holds the link can't be seen.
    #[error("Whether link '{name}' is held already can't be seen")]
    Holders {
        /// The link.
        name: IfName,
        /// Why.
        source: std::io::Error,
    },
    /// A device can't be opened.
    #[error("Device of interface {mac} can't be opened")]
    Device {
        /// The interface.
        mac: MacAddr,
        /// Why.
        source: DeviceError,
    },
    /// A link can't be made or configured.
    #[error("Link of interface {mac} can't be set up")]
    Link {
        /// The interface.
        mac: MacAddr,
        /// Why.
        source: LinkError,
    },
    /// The filter can't be set.
    #[error("Filter of interface {mac} can't be set")]
    Filter {
        /// The interface.
        mac: MacAddr,
        /// Why.
        source: FilterError,
    },
    /// The open is not on record as it must be.
    #[error("Devices of interface {mac} can't be granted")]
    Account {
        /// The interface.
        mac: MacAddr,
        /// Why.
        source: AccountError,
    },
}

fn held_by(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

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

/// An interface whose devices are open or granted.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) key: InterfaceKey,
    /// As asked for, with MAC and id chosen.
    pub(crate) spec: NicSpec,
    pub(crate) mac: MacAddr,
    pub(crate) id: String,
    pub(crate) ifname: IfName,
    /// The pcie-root-port it takes.
    pub(crate) port: Option<String>,
    pub(crate) devices: Vec<OpenDevice>,
    pub(crate) lasting: Lasting,
}

/// An interface and its descriptors, ready to be handed over.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) interface: Interface,
    pub(crate) admitted: Vec<Admitted>,
    /// Its intents, to be ended with the hand-over.
    pub(crate) steps: Vec<StepKey>,
}

/// An interface that could not be opened. Nothing of it stands any more, except what `undo` says.
#[derive(Debug)]
pub(crate) struct OpenFailed {
    pub(crate) error: OpenError,
    /// It was begun: its end is the caller's to post.
    pub(crate) key: Option<InterfaceKey>,
    /// On record as open, closed in fact: their close records are the caller's to post.
    pub(crate) closed: Vec<OpenDevice>,
    /// Its intents, to be ended with those records.
    pub(crate) steps: Vec<StepKey>,
}

/// What became of the link behind an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkChange {
    None,
    Renamed(IfName),
    /// It is in the network namespace that ours has this number for, under this name.
    Moved(i32, String),
    Gone,
    /// It can't be found, and nothing shows that it was deleted.
    Unknown,
}

/// What interfaces need of the host.
#[derive(Debug)]
pub(crate) struct Host {
    links: Links,
    /// Which links have left our network namespace; none where that is not announced.
    moves: Option<Moves>,
    /// The nft program, where it is not the system's.
    nft: Option<PathBuf>,
    /// What the kernel tells of our open files, where it is asked.
    open_files: Option<OpenFiles>,
}

/// Where an interface's frames go, found before anything is touched.
enum Place {
    NewTap { bridge: Link },
    OldTap { name: IfName, tun: Option<TunInfo> },
    NewMacvtap { lower: Link, mode: MacvtapMode },
    OldMacvtap { name: IfName, index: u32 },
}

impl Host {
    pub(crate) fn open(nft: Option<PathBuf>) -> Result<Self, LinkError> {
        let moves = Moves::subscribe()
            .inspect_err(|error| {
                warn!("links that are moved to other network namespaces are not heard of: {error}")
            })
            .ok();
        Ok(Self { links: Links::open()?, moves, nft, open_files: None })
    }

    /// Hears which links were moved, so that no announcement is lost.
    pub(crate) fn hear_moves(&mut self) {
        if let Some(moves) = &mut self.moves {
            moves.hear();
        }
    }

    /// Follows a link of this network namespace, so that its move is not taken for its deletion.
    fn follow(&mut self, link: HostLink) -> HostLink {
        if let Some(moves) = &mut self.moves {
            moves.follow(link.index());
        }
        link
    }

    /// Has the kernel tell last closes, where it may be asked. To be called before anything is opened, and before rights
    /// are given up.
    pub(crate) fn ask_for_last_closes(&mut self) {
        self.open_files = OpenFiles::ask();
    }

    /// What of bpf(2) is needed from then on.
    pub(crate) fn needs_bpf(&self) -> BpfLeft {
        if self.open_files.is_some() { BpfLeft::MapLookups } else { BpfLeft::Nothing }
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

    fn nft(&self) -> Result<Nft, FilterError> {
        self.nft.as_ref().map_or_else(Nft::discover, |path| Ok(Nft::at(path)))
    }

    /// Opens, configures and filters the devices of one interface. `spec` has its MAC and id.
    pub(crate) fn open_interface(
        &mut self,
        spec: NicSpec,
        mac: MacAddr,
        id: String,
        account: &mut Account,
        requester: Option<Requester>,
    ) -> Result<Opened, Box<OpenFailed>> {
        let refused =
            |error| Box::new(OpenFailed { error, key: None, closed: Vec::new(), steps: Vec::new() });
        let failed = |source| OpenError::Account { mac, source };
        let place = self.resolve(&spec, mac, account).map_err(refused)?;
        is_free(mac, account).map_err(refused)?;
        let (step, key) =
            account.begin_interface(mac, &id, &spec.to_string()).map_err(|source| refused(failed(source)))?;
        crash_point!("open::intended");
        if let Err(error) = self.sweep_filters() {
            warn!("{mac}: filters of links that are gone may be left over: {}", crate::chain(&error));
        }

        let mut lasting = Lasting::default();
        let mut opens = Opens::new(account, mac, requester);
        // Opens that are told after this are those that follow.
        self.hear();
        let built = self.build(&spec, mac, &place, &mut opens, &mut lasting);
        let Opens { account, open: mut devices, hand_over, .. } = opens;
        if let Some(files) = &mut self.open_files {
            files.follow(&mut devices);
        }
        let steps: Vec<_> = [Some(step), hand_over].into_iter().flatten().collect();
        let closed = built.and_then(|(ifname, admitted, unused)| {
            let unused: Vec<_> = unused.iter().map(|index| devices[*index].clone()).collect();
            if !unused.is_empty() {
                // Closed in the ledger, or owed to it: either way not once more.
                devices.retain(|device| !unused.contains(device));
                let posting = Posting::default().closes(account, &unused);
                account.post(posting).map_err(failed)?;
            }
            Ok((ifname, admitted))
        });
        match closed {
            Ok((ifname, admitted)) => Ok(Opened {
                interface: Interface { key, spec, mac, id, ifname, port: None, devices, lasting },
                admitted,
                steps,
            }),
            Err(error) => {
                self.undo(mac, &mut lasting);
                Err(Box::new(OpenFailed { error, key: Some(key), closed: devices, steps }))
            }
        }
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
                None => self.moves.iter_mut().for_each(|moves| moves.forget(link.index())),
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
            _ => self.moves.iter_mut().for_each(|moves| moves.settle(link.index())),
        }
        Ok(true)
    }

    /// Where the link is now: by its number and by what it is, and by our mark where we made it.
    pub(crate) fn find_link(&mut self, link: &HostLink) -> Result<Sight, LinkError> {
        let here = self.links.by_index(link.index())?;
        let likeness = here.as_ref().map_or(Likeness::Other, |found| link.compare(found));
        if let (Some(found), Likeness::Same | Likeness::Unmarked) = (here, likeness) {
            self.moves.iter_mut().for_each(|moves| moves.settle(link.index()));
            return Ok(Sight::Found(PlacedLink { link: found, namespace: None }));
        }
        // Asked for after it was not found here.
        let left = self.moves.as_mut().is_none_or(|moves| moves.may_be_elsewhere(link.index()));
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
            return Ok(LinkChange::Moved(number, found.name));
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

    fn resolve(&mut self, spec: &NicSpec, mac: MacAddr, account: &Account) -> Result<Place, OpenError> {
        let mut find = |role, name: &IfName| {
            self.links
                .find(name)
                .map_err(|source| OpenError::Link { mac, source })?
                .ok_or_else(|| OpenError::NoLink { role, name: name.to_string() })
        };
        let wrong = |role, link: &Link| {
            let kind = link.kind.clone().unwrap_or_else(|| "physical link".to_owned());
            Err(OpenError::WrongKind { role, name: link.name.clone(), kind })
        };
        match &spec.backend {
            Backend::Bridge(name) => {
                let bridge = find("Bridge", name)?;
                match bridge.kind.as_deref() {
                    Some("bridge") => Ok(Place::NewTap { bridge }),
                    _ => wrong("bridge", &bridge),
                }
            }
            Backend::Macvtap { lower, mode } => {
                let lower = find("Lower link", lower)?;
                self.is_no_guests(&lower, mac)?;
                Ok(Place::NewMacvtap { lower, mode: *mode })
            }
            Backend::Tap(name) => {
                let link = find("Tap", name)?;
                match link.kind.as_deref() {
                    Some("tun") => self.free_tap(name, &link, mac, account),
                    Some("macvtap") => match link.mac {
                        Some(has) if has != mac => {
                            Err(OpenError::OtherMac { name: name.clone(), has, asked: mac })
                        }
                        _ => self.free_macvtap(name, &link),
                    },
                    _ => wrong("tap or macvtap", &link),
                }
            }
        }
    }

    /// Refuses a lower link that is a guest's device, or stands on one: a macvtap on it would get that guest's frames.
    fn is_no_guests(&mut self, lower: &Link, mac: MacAddr) -> Result<(), OpenError> {
        let failed = |source| OpenError::Link { mac, source };
        let mut link = lower.clone();
        // What stands on a tap, a VLAN or a macvlan, gets its frames, too.
        for _ in 0..MAX_LOWER_LINKS {
            let name = link
                .name
                .parse()
                .map_err(|_| OpenError::NoLink { role: "Lower link", name: link.name.clone() })?;
            not_marked(&name, &link)?;
            if link.tun.is_some() && self.links.tap_is_attached(link.index).map_err(failed)? == Some(true) {
                return Err(held(name));
            }
            if link.kind.as_deref() == Some("macvtap") {
                self.macvtap_is_free(&name, link.index)?;
            }
            // A veth's is its peer.
            let below = link.lower.filter(|_| link.kind.as_deref() != Some("veth"));
            match below.map(|index| self.links.by_index(index)).transpose().map_err(failed)?.flatten() {
                Some(below) => link = below,
                None => break,
            }
        }
        Ok(())
    }

    /// Refuses a link on which there is a macvtap of a guest's, which would get the frames.
    fn has_no_macvtap(&mut self, name: &IfName, index: u32, mac: MacAddr) -> Result<(), OpenError> {
        let links = self.links.all().map_err(|source| OpenError::Link { mac, source })?;
        let on_it = links.into_iter().find(|link| {
            link.lower == Some(index)
                && link.kind.as_deref() == Some("macvtap")
                && link.alias.as_deref().is_some_and(is_mark)
        });
        match on_it {
            Some(link) => Err(OpenError::Below { name: name.clone(), macvtap: link.name }),
            None => Ok(()),
        }
    }

    /// An existing tap, if it is nobody's.
    fn free_tap(
        &mut self,
        name: &IfName,
        link: &Link,
        mac: MacAddr,
        account: &Account,
    ) -> Result<Place, OpenError> {
        not_marked(name, link)?;
        if link.tun.is_some_and(|tun| !tun.persistent) {
            return Err(OpenError::NotPersistent { name: name.clone() });
        }
        let attached = self.links.tap_is_attached(link.index);
        if attached.map_err(|source| OpenError::Link { mac, source })? == Some(true) {
            return Err(held(name.clone()));
        }
        self.has_no_macvtap(name, link.index, mac)?;
        closed_to_others(name, link, mac, account)?;
        Ok(Place::OldTap { name: name.clone(), tun: link.tun })
    }

    /// An existing macvtap, if it is nobody's. The kernel keeps no count of its queues.
    fn free_macvtap(&mut self, name: &IfName, link: &Link) -> Result<Place, OpenError> {
        not_marked(name, link)?;
        self.macvtap_is_free(name, link.index)?;
        Ok(Place::OldMacvtap { name: name.clone(), index: link.index })
    }

    /// Refuses a macvtap that another process than this one holds.
    fn macvtap_is_free(&self, name: &IfName, index: u32) -> Result<(), OpenError> {
        let rdev = self.links.macvtap_rdev(name, index);
        let holders = Holders::of(DeviceKind::Macvtap)
            .and_then(Holders::of_our_network)
            .map_err(|source| OpenError::Holders { name: name.clone(), source })?;
        let own = std::process::id();
        let other = holders.found.iter().find(|(pid, _, held)| *pid != own && Some(held.rdev) == rdev);
        match other {
            Some((pid, ..)) => Err(OpenError::Held { name: name.clone(), pid: Some(*pid) }),
            None => Ok(()),
        }
    }

    /// Refuses a tap of somebody else's to which others attached queues while ours were.
    fn only_ours(&mut self, name: &IfName, index: u32, ours: u32, mac: MacAddr) -> Result<(), OpenError> {
        let link = self.links.by_index(index).map_err(|source| OpenError::Link { mac, source })?;
        match link.and_then(|link| link.tun?.queues) {
            Some(queues) if queues > ours => Err(OpenError::Held { name: name.clone(), pid: None }),
            _ => Ok(()),
        }
    }

    /// The MAC of an existing macvtap, which its interface has to have.
    pub(crate) fn mac_of(&mut self, spec: &NicSpec) -> Option<MacAddr> {
        let Backend::Tap(name) = &spec.backend else { return None };
        let link = self.links.find(name).ok().flatten()?;
        (link.kind.as_deref() == Some("macvtap")).then_some(link.mac).flatten()
    }

    fn open_macvtap(&self, spec: &NicSpec, ifname: &IfName, ifindex: u32) -> Opening {
        open_macvtap(&MacvtapRequest {
            ifname,
            ifindex,
            rdev: self.links.macvtap_rdev(ifname, ifindex),
            queues: spec.queues,
            vnet_hdr: spec.model.has_vnet_hdr(),
            wait: NODE_WAIT,
        })
    }

    /// Does it; on error what stands is in `opens` and `lasting`, and every descriptor is closed.
    fn build(
        &mut self,
        spec: &NicSpec,
        mac: MacAddr,
        place: &Place,
        opens: &mut Opens<'_>,
        lasting: &mut Lasting,
    ) -> Result<(IfName, Vec<Admitted>, Vec<usize>), OpenError> {
        let failed = |source| OpenError::Link { mac, source };
        let mut opening = match place {
            Place::NewTap { .. } => open_tap_device(spec, new_tap_name(spec)),
            Place::OldTap { name, .. } => open_tap_device(spec, TapName::Existing(name)),
            Place::NewMacvtap { lower, mode } => {
                let (name, index) = self.make_macvtap(spec, mac, (lower, *mode))?;
                crash_point!("open::macvtap-made");
                let mark = mark(opens.account.guest(), mac);
                let link = HostLink::made(LinkKind::Macvtap, name.clone(), index, mark.clone(), mac);
                lasting.link = Some(self.follow(link));
                if let Err(source) = self.links.set_alias(index, &mark) {
                    // Without its mark it would not be known again.
                    let _ = self.links.delete(index);
                    return Err(failed(source));
                }
                self.open_macvtap(spec, &name, index)
            }
            Place::OldMacvtap { name, index } => self.open_macvtap(spec, name, *index),
        };
        let taps = opening.attempts.len();
        let mut vhost_error: Option<DeviceError> = None;
        if opening.error.is_none() && spec.vhost != Vhost::Off {
            let path = spec.vhost_path.as_deref().unwrap_or(Path::new(DEV_VHOST_NET));
            let vhost = open_vhost_net(path, spec.queues);
            opening.attempts.extend(vhost.attempts);
            vhost_error = vhost.error;
        }
        crash_point!("open::opened");
        let mut admitted =
            admit(opening.attempts, opens).map_err(|source| OpenError::Account { mac, source })?;
        if let Some(source) = opening.error {
            return Err(OpenError::Device { mac, source });
        }
        let mut unused = Vec::new();
        if let Some(source) = vhost_error {
            // Only a device that is not to be had is gone without; a false one is somebody's doing.
            if spec.vhost == Vhost::On || !matches!(source, DeviceError::Open { .. }) {
                return Err(OpenError::Device { mac, source });
            }
            warn!("{mac}: goes on without vhost-net: {}", crate::chain(&source));
            unused.extend(taps..admitted.len());
            admitted.truncate(taps);
        }
        crash_point!("open::on-record");
        let (name, link) = self.tap_link(&admitted, mac)?;
        let index = link.index;
        match place {
            Place::NewTap { .. } => {
                let mark = mark(opens.account.guest(), mac);
                self.links.set_alias(index, &mark).map_err(failed)?;
                let link = HostLink::made(LinkKind::Tap, name.clone(), index, mark, mac.host_side());
                lasting.link = Some(self.follow(link));
            }
            Place::OldTap { tun, .. } => {
                self.only_ours(&name, index, spec.queues.get().into(), mac)?;
                let link = HostLink::found(LinkKind::Tap, name.clone(), index, *tun);
                lasting.link = Some(self.follow(link));
            }
            Place::OldMacvtap { .. } => {
                self.macvtap_is_free(&name, index)?;
                let link = HostLink::found(LinkKind::Macvtap, name.clone(), index, None);
                lasting.link = Some(self.follow(link));
            }
            Place::NewMacvtap { .. } => {}
        }
        self.configure(spec, mac, place, index).map_err(failed)?;
        lasting.mac = pinned_mac(spec, &link, mac);
        if spec.filter == Some(Filter::NoMacSpoofing) {
            let kind = lasting.link.as_ref().map_or(LinkKind::Tap, HostLink::kind);
            let filter = mac_filter(kind, name.clone(), index, mac);
            let nft = self.nft().map_err(|source| OpenError::Filter { mac, source })?;
            lasting.filter_seen = nft.apply(&filter).map_err(|source| OpenError::Filter { mac, source })?;
            lasting.filter = Some(filter);
        } else if let Place::OldTap { .. } | Place::OldMacvtap { .. } = place
            && filter_hooks().is_ok_and(|hooks| hooks.contains_key(&index))
        {
            // Of an interface that it was another guest's before.
            let removed = self.nft().and_then(|nft| nft.remove(index));
            removed.map_err(|source| OpenError::Filter { mac, source })?;
        }
        crash_point!("open::filtered");
        if let Place::NewTap { .. } | Place::NewMacvtap { .. } = place {
            // Up last: no frame passes before its filter stands.
            self.links.configure(index, &Change { up: Some(true), ..Change::default() }).map_err(failed)?;
        }
        debug!("{mac}: '{name}' is ready");
        Ok((name, admitted, unused))
    }

    fn make_macvtap(
        &mut self,
        spec: &NicSpec,
        mac: MacAddr,
        (lower, mode): (&Link, MacvtapMode),
    ) -> Result<(IfName, u32), OpenError> {
        let name = match &spec.ifname {
            Some(name) => MacvtapName::New(name.clone()),
            None => MacvtapName::Pattern("macvtap%d".to_owned()),
        };
        let new = NewMacvtap { name, lower_index: lower.index, mode, mac, mtu: spec.mtu };
        let link = self.links.create_macvtap(&new).map_err(|source| OpenError::Link { mac, source })?;
        match link.name.parse() {
            Ok(name) => Ok((name, link.index)),
            Err(_) => Err(OpenError::NoLink { role: "Macvtap", name: link.name }),
        }
    }

    /// The link behind the first descriptor.
    fn tap_link(&mut self, admitted: &[Admitted], mac: MacAddr) -> Result<(IfName, Link), OpenError> {
        let name = admitted.first().and_then(|device| device.facts().dev.clone());
        let Some(name) = name else {
            return Err(OpenError::NoLink { role: "Tap", name: "?".to_owned() });
        };
        match self.links.find(&name).map_err(|source| OpenError::Link { mac, source })? {
            Some(link) => Ok((name, link)),
            None => Err(OpenError::NoLink { role: "Tap", name: name.to_string() }),
        }
    }

    fn configure(
        &mut self,
        spec: &NicSpec,
        mac: MacAddr,
        place: &Place,
        index: u32,
    ) -> Result<(), LinkError> {
        match place {
            Place::NewTap { bridge } => {
                self.links.configure(
                    index,
                    &Change {
                        mac: Some(mac.host_side()),
                        mtu: Some(spec.mtu.unwrap_or(bridge.mtu)),
                        master: Some(bridge.index),
                        up: None,
                    },
                )?;
                if spec.isolated {
                    self.links.set_isolated(index, true)?;
                }
                if let Some(vlan) = spec.vlan {
                    self.links.set_port_vlan(index, vlan)?;
                }
                Ok(())
            }
            // What was there before us is its owner's: only what the SPEC asks for is changed.
            Place::OldTap { .. } | Place::OldMacvtap { .. } => match spec.mtu {
                Some(mtu) => self.links.configure(index, &Change { mtu: Some(mtu), ..Change::default() }),
                None => Ok(()),
            },
            Place::NewMacvtap { .. } => Ok(()),
        }
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
fn pinned_mac(spec: &NicSpec, link: &Link, mac: MacAddr) -> Option<MacAddr> {
    match &spec.backend {
        Backend::Bridge(_) => Some(mac.host_side()),
        // It has its lower link's, and that link to itself.
        Backend::Macvtap { mode: MacvtapMode::Passthru, .. } => None,
        Backend::Macvtap { .. } => Some(mac),
        // One of others keeps what it had: of a macvtap that is the guest's.
        Backend::Tap(_) => link.mac,
    }
}

fn mac_filter(kind: LinkKind, ifname: IfName, ifindex: u32, mac: MacAddr) -> MacFilter {
    let hook = match kind {
        LinkKind::Tap => Hook::Ingress,
        LinkKind::Macvtap => Hook::Egress,
    };
    MacFilter { ifindex, ifname, hook, mac }
}

/// Refuses the address of an interface of a guest that runs without an open account.
fn is_free(mac: MacAddr, account: &Account) -> Result<(), OpenError> {
    let held = || -> Result<Vec<Marked>, OpenError> {
        let mut all = Marked::here(|_, of| of == mac).map_err(|source| OpenError::Marked { mac, source })?;
        all.retain(Marked::is_held);
        Ok(all)
    };
    for marked in held()? {
        let on_record =
            account.is_on_record(marked.guest).map_err(|source| OpenError::Account { mac, source })?;
        // Looked at again: one that ended with its account is over.
        if !on_record && let Some(still) = held()?.into_iter().find(|of| of.guest == marked.guest) {
            let (link, guest) = (still.link.name().clone(), still.guest);
            let pid = still.holder.map(|holder| holder.pid);
            return Err(OpenError::RunsUnrecorded { mac, link, guest, pid });
        }
    }
    Ok(())
}

/// Refuses a link that was made for an interface of a guest: its filter, its end and its account are that one's.
fn not_marked(name: &IfName, link: &Link) -> Result<(), OpenError> {
    match &link.alias {
        Some(alias) if is_mark(alias) => {
            Err(OpenError::GuestsOwn { name: name.clone(), mark: alias.chars().take(80).collect() })
        }
        _ => Ok(()),
    }
}

/// Refuses a tap to which another guest's QEMU could attach while this guest holds it.
///
/// An open file of the tun device can be attached to another tap once its own is deleted (`tun_set_iff()` in
/// drivers/net/tun.c), and a QEMU may hide one. A tap for one queue takes no second one, from nobody.
fn closed_to_others(name: &IfName, link: &Link, mac: MacAddr, account: &Account) -> Result<(), OpenError> {
    let Some(tun) = link.tun.filter(|tun| tun.multi_queue) else { return Ok(()) };
    // As every QEMU without a user of its own.
    if tun.admits(0, &[0]) {
        return Err(OpenError::OpenToAll { name: name.clone() });
    }
    for guest in account.others().map_err(|source| OpenError::Account { mac, source })? {
        let Some(qemu) = guest.qemu else { continue };
        // One that has ended attaches to nothing.
        let Ok(status) = Status::of(qemu.pid) else { continue };
        if tun.admits(status.uid, &status.groups) {
            return Err(OpenError::OpenTo { name: name.clone(), guest: guest.id.name.to_string() });
        }
    }
    Ok(())
}

/// A tap that is held, and by whom, where a process shows it.
fn held(name: IfName) -> OpenError {
    let holders = Holders::of(DeviceKind::Tun).and_then(Holders::of_our_network).unwrap_or_default();
    let held = holders.found.into_iter().find(|(_, _, held)| held.ifname.as_ref() == Some(&name));
    OpenError::Held { name, pid: held.map(|(pid, ..)| pid) }
}

fn open_tap_device(spec: &NicSpec, name: TapName<'_>) -> Opening {
    open_tap(&TapRequest {
        path: spec.tun_path.as_deref().unwrap_or(Path::new(DEV_NET_TUN)),
        name,
        queues: spec.queues,
        vnet_hdr: spec.model.has_vnet_hdr(),
    })
}

fn new_tap_name(spec: &NicSpec) -> TapName<'_> {
    match &spec.ifname {
        Some(name) => TapName::New(name),
        None => TapName::Pattern("vnet%d"),
    }
}
