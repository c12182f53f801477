//! A guest's interface on the host: from its SPEC to devices that are open, on record,
//! configured and filtered; and back.
//!
//! ```text
//!  SPEC ─▶ resolve ─▶ [make macvtap] ─▶ open(2) × devices × queues ─▶ record ─▶ configure ─▶ filter
//!          nothing is  ──────────────────── a failure from here on undoes what stands ───────────
//!          touched
//! ```
//!
//! An open stays on record whatever fails after it; the caller writes its close together with the
//! record of the failure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, DEV_VHOST_NET, DeviceError, MacvtapRequest, Opening, TapName, TapRequest,
    VdpaRequest, admit, open_macvtap, open_tap, open_vhost_net, open_vhost_user, open_vhost_vdpa,
};
use taptrail_kernel::filter::{FilterError, InterfaceFilter, Rules, filter_hooks};
use taptrail_kernel::link::{
    Change, Link, LinkError, Links, MacvtapMode, MacvtapName, NewMacvtap, PortVlans, TunInfo,
};
use taptrail_kernel::ovs::OvsError;
use taptrail_kernel::proc::{Holders, ProcessStatus};
use taptrail_kernel::script::{self, SCRIPT_TIMEOUT, ScriptError};
use taptrail_ledger::{InterfaceKey, StepKey};
use taptrail_record::{DeviceKind, IfName, MacAddr, Requester};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::account::{Account, AccountError, LedgerBatch, OpenDevice, Opens};
use crate::filter::FilterLoadError;
use crate::handover::{self, OpenFileCounts};
use crate::host::{Host, HostResources, pinned_mac};
use crate::host_link::{HostLink, LinkKind, is_mark, mark};
use crate::host_side::{Teardown, add_ovs_port, limit_bandwidth};
use crate::learning::{LearnError, Learning};
use crate::marked::{MarkedError, MarkedLink};
use crate::spec::{Backend, NicSpec, SocketPath, VdpaNode, Vhost};

/// How long to wait for a macvtap's node: udev makes it asynchronously.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many links below a link are checked.
const MAX_LOWER_LINKS: usize = 8;

/// An interface's devices can't be opened, configured or filtered.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The SPEC names a link that does not exist.
    #[error("{role} '{name}' doesn't exist: make it first (`ip link show` lists what there is)")]
    NoLink {
        /// The role of the link in the SPEC.
        role: &'static str,
        /// The name of the link.
        name: String,
    },
    /// The file of an option ROM, on which QEMU would hang or fail.
    #[error("rom={path} can't be used: {reason}")]
    Rom {
        /// The path.
        path: String,
        /// Why.
        reason: String,
    },
    /// The SPEC names a link of another kind.
    #[error("Link '{name}' is a {kind}, not a {role}")]
    WrongKind {
        /// The role of the link in the SPEC.
        role: &'static str,
        /// The name of the link.
        name: String,
        /// The link's kind.
        kind: String,
    },
    /// The SPEC's address differs from that of the existing macvtap.
    #[error(
        "Macvtap '{name}' has MAC {has}, but mac={asked} is asked for: leave mac= out, or change one of them"
    )]
    OtherMac {
        /// The name of the macvtap.
        name: IfName,
        /// The MAC that the macvtap has.
        has: MacAddr,
        /// The MAC that the SPEC asks for.
        asked: MacAddr,
    },
    /// The link was made for a guest's interface: its alias is a mark.
    #[error(
        "Link '{name}' belongs to another interface of a guest ({mark}): name a link of your own; `taptrail recover` removes what ended guests left"
    )]
    GuestsOwn {
        /// The name of the link.
        name: IfName,
        /// Its mark: the guest's uuid and the interface's MAC.
        mark: String,
    },
    /// A guest that runs without an open account has the address.
    #[error(
        "Interface {mac} runs already: link '{link}' was made for it, and guest {guest}, which is not on record here, holds it{}; `taptrail list` and `taptrail recover` show what to do about it", held_by(.pid)
    )]
    RunsUnrecorded {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The name of the link.
        link: IfName,
        /// The uuid of the guest that holds the link.
        guest: Uuid,
        /// A process that holds it, if one is found.
        pid: Option<u32>,
    },
    /// Whether the address is free can't be determined.
    #[error("Whether another guest has {mac} already can't be seen")]
    MarkedLink {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The error beneath it, which says why.
        source: MarkedError,
    },
    /// A tap that is not persistent goes with its open file.
    #[error(
        "Tap '{name}' is not persistent: it belongs to the program that holds it; make one that stays (`ip tuntap add dev NAME mode tap user 0 group 65534`)"
    )]
    NotPersistent {
        /// The name of the tap.
        name: IfName,
    },
    /// The tap has no owner: every QEMU that runs as root could attach a queue, and would get a
    /// part of the guest's frames.
    #[error(
        "Tap '{name}' takes queues from every QEMU that runs as root, which would get frames of this guest: give it an owner and a group that no QEMU has (`ip tuntap add dev {name} mode tap multi_queue user 0 group 65534`)"
    )]
    OpenToAll {
        /// The name of the tap.
        name: IfName,
    },
    /// Another guest's QEMU could attach a queue.
    #[error(
        "Tap '{name}' takes queues from QEMU of guest '{guest}', which would get frames of this one: give it an owner and a group that no other guest's QEMU has (`ip tuntap add dev {name} mode tap multi_queue user 0 group 65534`)"
    )]
    OpenTo {
        /// The name of the tap.
        name: IfName,
        /// The other guest.
        guest: String,
    },
    /// Another process has the link open, and would get a part of the guest's frames.
    #[error("Link '{name}' is held already{}", held_by(.pid))]
    Held {
        /// The name of the link.
        name: IfName,
        /// A process that holds it, if one is found.
        pid: Option<u32>,
    },
    /// Another process has the vDPA device open.
    #[error("{path} is held already{}: a vDPA device has one holder", held_by(.pid))]
    VdpaHeld {
        /// The path of the device.
        path: PathBuf,
        /// A process that holds it, if one is found.
        pid: Option<u32>,
    },
    /// A guest's macvtap is on top of the tap, and would get its frames.
    #[error(
        "Tap '{name}' has macvtap '{macvtap}' of a guest on it, which would get its frames: detach that one first"
    )]
    Below {
        /// The name of the tap.
        name: IfName,
        /// The macvtap on top of it.
        macvtap: String,
    },
    /// Whether the link is held can't be determined.
    #[error("Whether a process holds link '{name}' already can't be determined")]
    Holders {
        /// The name of the link.
        name: IfName,
        /// The error beneath it, which says why.
        source: std::io::Error,
    },
    /// A device can't be opened.
    #[error("Device of interface {mac} can't be opened")]
    Device {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The error beneath it, which says why.
        source: DeviceError,
    },
    /// A link can't be made or configured.
    #[error("Link of interface {mac} can't be set up")]
    Link {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The error beneath it, which says why.
        source: LinkError,
    },
    /// The filter can't be set.
    #[error("Filter of interface {mac} can't be set")]
    Filter {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The error beneath it, which says why.
        source: FilterError,
    },
    /// The filters can't be used: one is unknown or wrong, or lacks the value of a variable.
    #[error("Filter of interface {mac} can't be used")]
    Filters {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The error beneath it, which says why.
        source: FilterLoadError,
    },
    /// The addresses of its filter can't be learnt.
    #[error("Addresses of interface {mac} can't be learnt")]
    Learn {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The error beneath it, which says why.
        source: LearnError,
    },
    /// The script can't be run, or failed.
    #[error("A script of interface {mac} can't be run, or failed")]
    Script {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The error beneath it, which says why.
        source: ScriptError,
    },
    /// Open vSwitch does not take the port.
    #[error("Interface {mac} can't be made a port of Open vSwitch bridge '{bridge}'")]
    Ovs {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The name of the bridge.
        bridge: IfName,
        /// The error beneath it, which says why.
        source: OvsError,
    },
    /// The opens could not be recorded as required.
    #[error("Devices of interface {mac} can't be granted")]
    Account {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The error beneath it, which says why.
        source: AccountError,
    },
}

fn held_by(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

/// An interface whose devices are open or granted.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) key: InterfaceKey,
    /// The SPEC, with the MAC and id that were chosen.
    pub(crate) spec: NicSpec,
    pub(crate) mac: MacAddr,
    pub(crate) id: String,
    pub(crate) ifname: IfName,
    /// The pcie-root-port that it is plugged into.
    pub(crate) port: Option<String>,
    pub(crate) devices: Vec<OpenDevice>,
    pub(crate) resources: HostResources,
}

impl Interface {
    /// Ends the interface of a QEMU that has ended; see [`handover::end_interface`].
    pub(crate) fn end(&mut self, host: &mut Host, counts: &mut OpenFileCounts) -> Vec<OpenDevice> {
        let devices = std::mem::take(&mut self.devices);
        handover::end_interface(self.mac, devices, &mut self.resources, true, host, counts)
    }
}

/// An interface and its descriptors, ready to be passed to QEMU.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) interface: Interface,
    pub(crate) admitted: Vec<Admitted>,
    /// The steps to complete when the descriptors are passed.
    pub(crate) steps: Vec<StepKey>,
}

/// An interface that could not be opened. Everything was undone; what could not be undone was
/// logged.
#[derive(Debug)]
pub(crate) struct OpenFailed {
    pub(crate) error: OpenError,
    /// Set if the ledger has the interface: the caller ends it there.
    pub(crate) key: Option<InterfaceKey>,
    /// Devices that are closed, and that the ledger has as open: the caller writes their close
    /// records.
    pub(crate) closed: Vec<OpenDevice>,
    /// The steps to complete with those records.
    pub(crate) steps: Vec<StepKey>,
}

/// The backend of a SPEC, resolved to links of the host before anything is changed.
enum ResolvedBackend {
    /// The port of a bridge, or of none.
    NewTap {
        bridge: Option<Link>,
    },
    /// The port of a bridge of Open vSwitch.
    OvsPort {
        bridge: IfName,
        /// The bridge's own.
        mtu: u32,
    },
    OldTap {
        name: IfName,
        tun: Option<TunInfo>,
    },
    NewMacvtap {
        lower: Link,
        mode: MacvtapMode,
    },
    OldMacvtap {
        name: IfName,
        index: u32,
    },
    Vdpa(VdpaNode),
    VhostUser(SocketPath),
}

impl ResolvedBackend {
    /// The kind of the link behind it; a vDPA device and a vhost-user backend have none.
    fn link_kind(&self) -> LinkKind {
        match self {
            Self::NewMacvtap { .. } | Self::OldMacvtap { .. } => LinkKind::Macvtap,
            Self::NewTap { .. } | Self::OvsPort { .. } | Self::OldTap { .. } => LinkKind::Tap,
            Self::Vdpa(_) | Self::VhostUser(_) => LinkKind::Tap,
        }
    }
}

impl Host {
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
        check_rom(&spec).map_err(refused)?;
        for path in [&spec.host.script, &spec.host.downscript].into_iter().flatten() {
            script::check(path).map_err(|source| refused(OpenError::Script { mac, source }))?;
        }
        let place = self.resolve(&spec, mac, account).map_err(refused)?;
        let attachment = place.link_kind().attachment();
        let rules = spec.filter.as_ref().map(|choice| choice.load_rules(mac, attachment, &[])).transpose();
        let rules = rules.map_err(|source| refused(OpenError::Filters { mac, source }))?;
        is_free(mac, account, &mut self.links).map_err(refused)?;
        let (step, key) = account
            .begin_interface(mac, &id, &spec.to_string(), rules.as_ref())
            .map_err(|source| refused(failed(source)))?;
        crash_point!("open::intended");
        if let Err(error) = self.sweep_filters() {
            warn!("{mac}: filters of links that are gone may be left over: {}", crate::chain(&error));
        }

        let mut resources = HostResources::default();
        let mut opens = Opens::new(account, mac, requester);
        // Opens that are reported from here on are those below.
        self.read_close_events();
        let built = self.build(&spec, mac, (&place, rules), &mut opens, &mut resources);
        let Opens { account, open: mut devices, hand_over, .. } = opens;
        if let Some(files) = &mut self.open_files {
            files.follow(&mut devices);
        }
        let steps: Vec<_> = [Some(step), hand_over].into_iter().flatten().collect();
        let closed = built.and_then(|(ifname, admitted, unused)| {
            let unused: Vec<_> = unused.iter().map(|index| devices[*index].clone()).collect();
            if !unused.is_empty() {
                // Closed here, in the ledger or by the retry queue: must not be closed again.
                devices.retain(|device| !unused.contains(device));
                let batch = LedgerBatch::default().close_devices(account, &unused);
                account.post(batch).map_err(failed)?;
            }
            Ok((ifname, admitted))
        });
        match closed {
            Ok((ifname, admitted)) => Ok(Opened {
                interface: Interface { key, spec, mac, id, ifname, port: None, devices, resources },
                admitted,
                steps,
            }),
            Err(error) => {
                self.undo(mac, &mut resources);
                Err(Box::new(OpenFailed { error, key: Some(key), closed: devices, steps }))
            }
        }
    }

    fn resolve(
        &mut self,
        spec: &NicSpec,
        mac: MacAddr,
        account: &Account,
    ) -> Result<ResolvedBackend, OpenError> {
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
            // Its link is one of Open vSwitch's kinds, or a tap: Open vSwitch says whether it is a
            // bridge.
            Backend::Bridge(name) if spec.host.ovs.is_some() => {
                let mtu = find("Bridge", name)?.mtu;
                Ok(ResolvedBackend::OvsPort { bridge: name.clone(), mtu })
            }
            Backend::Bridge(name) => {
                let bridge = find("Bridge", name)?;
                match bridge.kind.as_deref() {
                    Some("bridge") => Ok(ResolvedBackend::NewTap { bridge: Some(bridge) }),
                    _ => wrong("bridge", &bridge),
                }
            }
            Backend::NewTap => Ok(ResolvedBackend::NewTap { bridge: None }),
            Backend::Vdpa(node) => Ok(ResolvedBackend::Vdpa(node.clone())),
            Backend::VhostUser(socket) => Ok(ResolvedBackend::VhostUser(socket.clone())),
            Backend::Macvtap { lower, mode } => {
                let lower = find("Lower link", lower)?;
                self.is_no_guests(&lower, mac)?;
                Ok(ResolvedBackend::NewMacvtap { lower, mode: *mode })
            }
            Backend::Tap(name) => {
                let link = find("Tap", name)?;
                match LinkKind::of(&link) {
                    Some(LinkKind::Tap) => self.free_tap(name, &link, mac, account),
                    Some(LinkKind::Macvtap) => match link.mac {
                        Some(has) if has != mac => {
                            Err(OpenError::OtherMac { name: name.clone(), has, asked: mac })
                        }
                        _ => self.free_macvtap(name, &link),
                    },
                    None => wrong("tap, macvtap or ipvtap", &link),
                }
            }
        }
    }

    /// Refuses a lower link that is a guest's device, or is on top of one: a macvtap on it would
    /// get that guest's frames.
    fn is_no_guests(&mut self, lower: &Link, mac: MacAddr) -> Result<(), OpenError> {
        let failed = |source| OpenError::Link { mac, source };
        let mut link = lower.clone();
        // A VLAN or macvlan on top of a tap gets the tap's frames, too.
        for _ in 0..MAX_LOWER_LINKS {
            let name = link
                .name
                .parse()
                .map_err(|_| OpenError::NoLink { role: "Lower link", name: link.name.clone() })?;
            not_marked(&name, &link)?;
            if link.tun.is_some() && self.links.tap_is_attached(link.index).map_err(failed)? == Some(true) {
                return Err(held(name));
            }
            if LinkKind::of(&link) == Some(LinkKind::Macvtap) {
                self.macvtap_is_free(&name, link.index)?;
            }
            // The lower link of a veth is its peer.
            let below = link.lower.filter(|_| link.kind.as_deref() != Some("veth"));
            match below.map(|index| self.links.by_index(index)).transpose().map_err(failed)?.flatten() {
                Some(below) => link = below,
                None => break,
            }
        }
        Ok(())
    }

    /// Refuses a link that has a guest's macvtap on top of it, which would get the frames.
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

    /// An existing tap, if no other process holds it or could attach to it.
    fn free_tap(
        &mut self,
        name: &IfName,
        link: &Link,
        mac: MacAddr,
        account: &Account,
    ) -> Result<ResolvedBackend, OpenError> {
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
        Ok(ResolvedBackend::OldTap { name: name.clone(), tun: link.tun })
    }

    /// An existing macvtap, if no other process holds it. The kernel does not count its queues.
    fn free_macvtap(&mut self, name: &IfName, link: &Link) -> Result<ResolvedBackend, OpenError> {
        not_marked(name, link)?;
        self.macvtap_is_free(name, link.index)?;
        Ok(ResolvedBackend::OldMacvtap { name: name.clone(), index: link.index })
    }

    /// Refuses a macvtap that another process holds.
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

    /// Refuses an existing tap to which another process attached queues while we did.
    fn only_ours(&mut self, name: &IfName, index: u32, ours: u32, mac: MacAddr) -> Result<(), OpenError> {
        let link = self.links.by_index(index).map_err(|source| OpenError::Link { mac, source })?;
        match link.and_then(|link| link.tun?.queues) {
            Some(queues) if queues > ours => Err(OpenError::Held { name: name.clone(), pid: None }),
            _ => Ok(()),
        }
    }

    /// The MAC of an existing macvtap or ipvtap, which the guest's interface must have, too.
    pub(crate) fn mac_of(&mut self, spec: &NicSpec) -> Option<MacAddr> {
        let Backend::Tap(name) = &spec.backend else { return None };
        let link = self.links.find(name).ok().flatten()?;
        link.mac.filter(|_| LinkKind::of(&link) == Some(LinkKind::Macvtap))
    }

    fn open_macvtap(&self, spec: &NicSpec, ifname: &IfName, ifindex: u32) -> Opening {
        open_macvtap(&MacvtapRequest {
            ifname,
            ifindex,
            rdev: self.links.macvtap_rdev(ifname, ifindex),
            queues: spec.queues,
            vnet_hdr: spec.model.has_vnet_hdr(),
            wait: NODE_TIMEOUT,
        })
    }

    /// Makes or finds the link, opens, records, configures and filters. After an error the recorded
    /// opens are in `opens` and the link in `resources`, and every descriptor is closed.
    fn build(
        &mut self,
        spec: &NicSpec,
        mac: MacAddr,
        (place, rules): (&ResolvedBackend, Option<Rules>),
        opens: &mut Opens<'_>,
        resources: &mut HostResources,
    ) -> Result<(IfName, Vec<Admitted>, Vec<usize>), OpenError> {
        let failed = |source| OpenError::Link { mac, source };
        let mut opening = match place {
            ResolvedBackend::NewTap { .. } | ResolvedBackend::OvsPort { .. } => {
                open_tap_device(spec, new_tap_name(spec))
            }
            ResolvedBackend::OldTap { name, .. } => open_tap_device(spec, TapName::Existing(name)),
            ResolvedBackend::NewMacvtap { lower, mode } => {
                let (name, index) = self.make_macvtap(spec, mac, (lower, *mode))?;
                crash_point!("open::macvtap-made");
                let mark = mark(opens.account.guest(), mac);
                let link = HostLink::made(LinkKind::Macvtap, name.clone(), index, mark.clone(), mac);
                resources.link = Some(self.follow(link));
                if let Err(source) = self.links.set_alias(index, &mark) {
                    // Without its mark it could not be found later.
                    let _ = self.links.delete(index);
                    return Err(failed(source));
                }
                self.open_macvtap(spec, &name, index)
            }
            ResolvedBackend::OldMacvtap { name, index } => self.open_macvtap(spec, name, *index),
            ResolvedBackend::Vdpa(node) => {
                let admitted = open_vdpa(node, mac, opens)?;
                return Ok((node.name().clone(), admitted, Vec::new()));
            }
            ResolvedBackend::VhostUser(socket) => {
                let opening = open_vhost_user(socket.path());
                crash_point!("open::opened");
                let opened = opening.admit(opens).map_err(|source| OpenError::Account { mac, source })?;
                crash_point!("open::on-record");
                return match opened {
                    (admitted, None) => Ok((socket.name().clone(), admitted, Vec::new())),
                    (_, Some(source)) => Err(OpenError::Device { mac, source }),
                };
            }
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
            // Only a device that can't be opened is done without; a wrong one may be an attack.
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
            ResolvedBackend::NewTap { .. } | ResolvedBackend::OvsPort { .. } => {
                let mark = mark(opens.account.guest(), mac);
                self.links.set_alias(index, &mark).map_err(failed)?;
                let link = HostLink::made(LinkKind::Tap, name.clone(), index, mark, mac.host_side());
                resources.link = Some(self.follow(link));
            }
            ResolvedBackend::OldTap { tun, .. } => {
                self.only_ours(&name, index, spec.queues.get().into(), mac)?;
                let link = HostLink::found(LinkKind::Tap, name.clone(), index, *tun);
                resources.link = Some(self.follow(link));
            }
            ResolvedBackend::OldMacvtap { .. } => {
                self.macvtap_is_free(&name, index)?;
                let link = HostLink::found(LinkKind::Macvtap, name.clone(), index, None);
                resources.link = Some(self.follow(link));
            }
            ResolvedBackend::NewMacvtap { .. } | ResolvedBackend::Vdpa(_) | ResolvedBackend::VhostUser(_) => {
            }
        }
        self.configure(spec, mac, place, index).map_err(failed)?;
        limit_bandwidth(&mut self.links, spec, index).map_err(failed)?;
        resources.teardown = Teardown::new(opens.account.guest(), spec, mac, name.clone());
        if let ResolvedBackend::OvsPort { bridge, mtu } = place {
            let added = add_ovs_port(opens.account.guest(), spec, mac, (bridge, &name), *mtu);
            added.map_err(|source| OpenError::Ovs { mac, bridge: bridge.clone(), source })?;
        }
        resources.mac = pinned_mac(spec, &link, mac);
        if let Some(rules) = rules {
            let kind = place.link_kind();
            let (ifindex, ifname) = (index, name.clone());
            let filter =
                InterfaceFilter { ifindex, ifname, attachment: kind.attachment(), rules: rules.into() };
            let nft = self.nft().map_err(|source| OpenError::Filter { mac, source })?;
            resources.filter_seen = nft.apply(&filter).map_err(|source| OpenError::Filter { mac, source })?;
            resources.filter = Some(filter);
            if let Some(reader) = spec.filter.as_ref().and_then(|choice| choice.frame_reader(mac)) {
                let mut learning = Learning::new(reader, kind.attachment(), index);
                learning.start().map_err(|source| OpenError::Learn { mac, source })?;
                resources.learning = Some(learning);
            }
        } else if let ResolvedBackend::OldTap { .. } | ResolvedBackend::OldMacvtap { .. } = place
            && filter_hooks().is_ok_and(|hooks| hooks.contains_key(&index))
        {
            // A filter of the guest that had the link before.
            let removed = self.nft().and_then(|nft| nft.remove(index));
            removed.map_err(|source| OpenError::Filter { mac, source })?;
        }
        crash_point!("open::filtered");
        if spec.makes_link() {
            // Set up last: no frame passes before the filter is in force.
            self.links.configure(index, &Change { up: Some(true), ..Change::default() }).map_err(failed)?;
        }
        for route in &spec.host.routes {
            // The kernel takes none by way of a link that is down.
            self.links.add_route(index, route).map_err(failed)?;
        }
        if let Some(script) = &spec.host.script {
            script::run(script, &name, SCRIPT_TIMEOUT).map_err(|source| OpenError::Script { mac, source })?;
            crash_point!("open::script-run");
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
        place: &ResolvedBackend,
        index: u32,
    ) -> Result<(), LinkError> {
        if let Some(frames) = spec.host.rx_frames {
            self.links.set_rx_frames(index, frames)?;
        }
        match place {
            ResolvedBackend::NewTap { bridge } => {
                self.links.configure(
                    index,
                    &Change {
                        mac: Some(mac.host_side()),
                        mtu: spec.mtu.or(bridge.as_ref().map(|bridge| bridge.mtu)),
                        master: bridge.as_ref().map(|bridge| bridge.index),
                        up: None,
                    },
                )?;
                if spec.isolated {
                    self.links.set_isolated(index, true)?;
                }
                let tagged: Vec<u16> = spec.host.trunk.iter().copied().collect();
                let (untagged, leaves_tagged) = (spec.vlan, spec.host.native_tagged);
                self.links.set_port_vlans(index, &PortVlans { untagged, leaves_tagged, tagged: &tagged })?;
                for address in &spec.host.addresses {
                    self.links.add_address(index, address)?;
                }
                Ok(())
            }
            ResolvedBackend::OvsPort { mtu, .. } => {
                let (mac, mtu) = (Some(mac.host_side()), Some(spec.mtu.unwrap_or(*mtu)));
                self.links.configure(index, &Change { mac, mtu, ..Change::default() })
            }
            // An existing link belongs to its owner: only what the SPEC names is changed.
            ResolvedBackend::OldTap { .. } | ResolvedBackend::OldMacvtap { .. } => match spec.mtu {
                Some(mtu) => self.links.configure(index, &Change { mtu: Some(mtu), ..Change::default() }),
                None => Ok(()),
            },
            ResolvedBackend::NewMacvtap { .. } | ResolvedBackend::Vdpa(_) | ResolvedBackend::VhostUser(_) => {
                Ok(())
            }
        }
    }
}

/// Opens and records a vDPA device. It has no link that could be configured or filtered.
fn open_vdpa(node: &VdpaNode, mac: MacAddr, opens: &mut Opens<'_>) -> Result<Vec<Admitted>, OpenError> {
    let path = node.path();
    let Opening { attempts, error } = open_vhost_vdpa(&VdpaRequest { path: &path, mac });
    crash_point!("open::opened");
    let admitted = admit(attempts, opens).map_err(|source| OpenError::Account { mac, source })?;
    crash_point!("open::on-record");
    match error {
        None => Ok(admitted),
        Some(DeviceError::Open { source: Errno::BUSY, .. }) => {
            let holders = Holders::of(DeviceKind::VhostVdpa).unwrap_or_default();
            let held = holders.found.iter().find(|(_, _, held)| held.path == path);
            Err(OpenError::VdpaHeld { path, pid: held.map(|(pid, ..)| *pid) })
        }
        Some(source) => Err(OpenError::Device { mac, source }),
    }
}

/// Refuses what QEMU can't read to its end as an option ROM: it would hang in opening a FIFO. QEMU
/// opens the path again: this spares mistakes, and whoever names the file is trusted with it.
fn check_rom(spec: &NicSpec) -> Result<(), OpenError> {
    let Some((_, path)) = spec.properties.iter().find(|(property, value)| property.is_path(value)) else {
        return Ok(());
    };
    let reason = match std::fs::metadata(path) {
        Ok(about) if about.is_file() => return Ok(()),
        Ok(_) => "it is no regular file".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(OpenError::Rom { path: path.clone(), reason })
}

/// Refuses an address that a guest without an open account has.
fn is_free(mac: MacAddr, account: &Account, links: &mut Links) -> Result<(), OpenError> {
    let mut held = || -> Result<Vec<MarkedLink>, OpenError> {
        let all = MarkedLink::here(links, |_, of| of == mac);
        let mut all = all.map_err(|source| OpenError::MarkedLink { mac, source })?;
        all.retain(MarkedLink::is_held);
        Ok(all)
    };
    for marked in held()? {
        let on_record =
            account.is_on_record(marked.guest).map_err(|source| OpenError::Account { mac, source })?;
        // Scanned again: a guest that has ended meanwhile, and whose account was closed, is no
        // obstacle.
        if !on_record && let Some(still) = held()?.into_iter().find(|of| of.guest == marked.guest) {
            let (link, guest) = (still.link.name().clone(), still.guest);
            let pid = still.holder.map(|holder| holder.pid);
            return Err(OpenError::RunsUnrecorded { mac, link, guest, pid });
        }
    }
    Ok(())
}

/// Refuses a link that was made for an interface of a guest: it is filtered, deleted and accounted
/// for with that interface.
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
/// An open file of the tun device can be attached to another tap once its own is deleted
/// (`tun_set_iff()` in drivers/net/tun.c), and a QEMU may hide one. A tap without multi_queue never
/// takes a second queue.
fn closed_to_others(name: &IfName, link: &Link, mac: MacAddr, account: &Account) -> Result<(), OpenError> {
    let Some(tun) = link.tun.filter(|tun| tun.multi_queue) else { return Ok(()) };
    // Root is the user of every QEMU that was started without --user.
    if tun.admits(0, &[0]) {
        return Err(OpenError::OpenToAll { name: name.clone() });
    }
    for guest in account.others().map_err(|source| OpenError::Account { mac, source })? {
        let Some(qemu) = guest.qemu else { continue };
        // A QEMU that has ended attaches to nothing.
        let Ok(status) = ProcessStatus::of(qemu.pid) else { continue };
        if tun.admits(status.uid, &status.groups) {
            return Err(OpenError::OpenTo { name: name.clone(), guest: guest.id.name.to_string() });
        }
    }
    Ok(())
}

/// The error for a tap that is held, with its holder if one is found.
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
