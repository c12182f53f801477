//! Settings of a link that change while a guest holds it. Each is read back.

use taptrail_kernel::link::{Change, Link, LinkError, PortVlans};
use taptrail_kernel::ovs::{Ovs, OvsError};
use taptrail_record::{GuestId, IfName, MacAddr};

use crate::host::{Host, HostResources};
use crate::host_link::HostLink;
use crate::host_side::{add_ovs_port, change_bandwidth};
use crate::spec::{Backend, NicSpec};

/// A setting of a link can't be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiveError {
    /// The kernel refused, or has something else.
    #[error("The host's link can't be changed")]
    Link(#[from] LinkError),
    /// Open vSwitch refused, or has something else.
    #[error("Open vSwitch's port can't be changed")]
    Ovs(#[from] OvsError),
    /// There is no such bridge.
    #[error("Bridge '{0}' doesn't exist: make it first (`ip link show` lists what there is)")]
    NoBridge(IfName),
    /// It is no bridge.
    #[error("Link '{0}' is no bridge")]
    NotABridge(IfName),
    /// What was set reads back otherwise.
    #[error("Link '{link}' has {found} now, not {wanted}")]
    Differs {
        /// The name of the link.
        link: IfName,
        /// What was set.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The MTU that a link had is not known.
    #[error("The MTU that '{0}' had before is not known")]
    NoMtu(IfName),
}

impl Host {
    /// The bridge that a SPEC names.
    pub(crate) fn bridge_of(&mut self, spec: &NicSpec) -> Result<Option<Link>, LiveError> {
        let Backend::Bridge(name) = &spec.backend else { return Ok(None) };
        let found = self.links.find(name)?.ok_or_else(|| LiveError::NoBridge(name.clone()))?;
        // A bridge of Open vSwitch is a link of any kind.
        match spec.host.ovs.is_some() || found.kind.as_deref() == Some("bridge") {
            true => Ok(Some(found)),
            false => Err(LiveError::NotABridge(name.clone())),
        }
    }

    /// Makes a tap the port that its SPEC says: of which bridge, in which VLANs, isolated or not.
    pub(crate) fn set_port(
        &mut self,
        guest: &GuestId,
        spec: &NicSpec,
        mac: MacAddr,
        link: &HostLink,
    ) -> Result<(), LiveError> {
        let Some(bridge) = self.bridge_of(spec)? else { return Ok(()) };
        let (name, index) = (link.name(), link.index());
        if let (Backend::Bridge(of), true) = (&spec.backend, spec.host.ovs.is_some()) {
            // One transaction, in which the port that is there goes.
            add_ovs_port(guest, spec, mac, (of, name), bridge.mtu)?;
            let found = Ovs::discover()?.bridge_of(name)?;
            self.links.set_mtu(index, spec.mtu.unwrap_or(bridge.mtu))?;
            return same(name, of.to_string(), found, "bridge");
        }
        let moves = self.link_now(link)?.master != Some(bridge.index);
        // One that could be moved in part only stays down: its frames are not for the new bridge.
        self.set_bridge_port(spec, index, moves.then_some(&bridge))?;
        self.links.set_up(index, true)?;
        let found = self.link_now(link)?;
        let has = |master: Option<u32>, up, isolated| {
            format!("bridge number {}, up: {up}, isolated: {isolated}", master.unwrap_or_default())
        };
        let wanted = has(Some(bridge.index), true, spec.isolated);
        same(name, wanted, has(found.master, found.up, found.isolated), "")
    }

    fn set_bridge_port(&mut self, spec: &NicSpec, index: u32, to: Option<&Link>) -> Result<(), LinkError> {
        if let Some(bridge) = to {
            // No frame passes in the VLAN that a bridge gives a new port, nor to isolated ports.
            self.links.set_up(index, false)?;
            let mtu = Some(spec.mtu.unwrap_or(bridge.mtu));
            self.links.configure(index, &Change { master: Some(bridge.index), mtu, ..Change::default() })?;
        }
        self.links.set_isolated(index, spec.isolated)?;
        let tagged: Vec<u16> = spec.host.trunk.iter().copied().collect();
        let (untagged, leaves_tagged) = (spec.vlan, spec.host.native_tagged);
        self.links.change_port_vlans(index, &PortVlans { untagged, leaves_tagged, tagged: &tagged })
    }

    /// The MTU of the link behind an interface.
    pub(crate) fn mtu_of(&mut self, resources: &HostResources) -> Option<u32> {
        Some(self.link_now(resources.link.as_ref()?).ok()?.mtu)
    }

    /// Sets a link's MTU.
    pub(crate) fn set_mtu(
        &mut self,
        guest: &GuestId,
        (spec, mtu): (&NicSpec, Option<u32>),
        mac: MacAddr,
        link: &HostLink,
    ) -> Result<(), LiveError> {
        let mtu = mtu.ok_or_else(|| LiveError::NoMtu(link.name().clone()))?;
        if spec.host.ovs.is_some() {
            // Open vSwitch sets its ports' MTU itself.
            self.set_port(guest, spec, mac, link)?;
        }
        self.links.set_mtu(link.index(), mtu)?;
        same(link.name(), mtu.to_string(), self.link_now(link)?.mtu.to_string(), "MTU")
    }

    /// Limits what a link sends and receives in place of other limits, `from`.
    pub(crate) fn set_bandwidth(
        &mut self,
        from: &NicSpec,
        to: &NicSpec,
        link: &HostLink,
    ) -> Result<(), LiveError> {
        Ok(change_bandwidth(&mut self.links, from, to, link.index())?)
    }

    /// Sets how many frames a tap collects; 0 without one in the SPEC, which a new tap has.
    pub(crate) fn set_rx_frames(&mut self, spec: &NicSpec, link: &HostLink) -> Result<(), LiveError> {
        Ok(self.links.set_rx_frames(link.index(), spec.host.rx_frames.unwrap_or(0))?)
    }

    fn link_now(&mut self, link: &HostLink) -> Result<Link, LiveError> {
        let missing = || LinkError::Missing { link: format!("'{}'", link.name()), operation: "read it back" };
        Ok(self.links.by_index(link.index())?.ok_or_else(missing)?)
    }
}

/// Compares what was set with what there is.
fn same(link: &IfName, wanted: String, found: String, what: &str) -> Result<(), LiveError> {
    if wanted == found {
        return Ok(());
    }
    let named = |value: String| format!("{what} {value}").trim_start().to_owned();
    Err(LiveError::Differs { link: link.clone(), wanted: named(wanted), found: named(found) })
}
