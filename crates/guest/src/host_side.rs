//! What an interface sets on the host beside its link and its filter: limits of bandwidth, a port of
//! Open vSwitch, and the downscript; and what of it is taken back at the end.

use std::path::PathBuf;

use taptrail_kernel::link::{Bandwidth, LinkError, Links};
use taptrail_kernel::ovs::{Ovs, OvsError, OvsPort};
use taptrail_kernel::script::{self, SCRIPT_TIMEOUT};
use taptrail_record::{GuestId, IfName, MacAddr};
use tracing::warn;
use uuid::Uuid;

use crate::host_link::mark;
use crate::spec::{Backend, Limit, NicSpec};

/// What an interface leaves beside its link, which may be gone before.
#[derive(Debug)]
pub(crate) struct Teardown {
    pub(crate) ifname: IfName,
    /// The mark of a port of Open vSwitch.
    ovs_port: Option<String>,
    pub(crate) downscript: Option<PathBuf>,
}

impl Teardown {
    /// That of an interface, if it has anything to be done.
    pub(crate) fn new(guest: &GuestId, spec: &NicSpec, mac: MacAddr, ifname: IfName) -> Option<Self> {
        let ovs_port = ovs_port(guest, spec, mac);
        let downscript = spec.host.downscript.clone();
        let is_any = ovs_port.is_some() || downscript.is_some();
        is_any.then_some(Self { ifname, ovs_port, downscript })
    }

    /// Never stops at the first error; what can't be done is logged.
    pub(crate) fn run(self, mac: MacAddr) {
        let Self { ifname, ovs_port, downscript } = self;
        if let Some(script) = downscript
            && let Err(error) = script::run(&script, &ifname, SCRIPT_TIMEOUT)
        {
            warn!("{mac}: downscript for '{ifname}': {}", crate::chain(&error));
        }
        if let Some(mark) = ovs_port {
            remove_ovs_port(mac, &mark);
        }
    }
}

/// The mark of an interface's port of Open vSwitch, if it has one.
pub(crate) fn ovs_port(guest: &GuestId, spec: &NicSpec, mac: MacAddr) -> Option<String> {
    spec.host.ovs.as_ref().map(|_| mark(guest, mac))
}

/// Removes the port with this mark, if there is one: Open vSwitch keeps ports in its database, also
/// those of links that are gone. What can't be done is logged.
pub(crate) fn remove_ovs_port(mac: MacAddr, mark: &str) {
    if let Err(error) = Ovs::discover().and_then(|ovs| ovs.remove_port(mark)) {
        warn!("{mac}: its port of Open vSwitch may be left over: {}", crate::chain(&error));
    }
}

/// The limits of what an interface's link sends and receives. A macvtap sends what its guest sends; of
/// a tap, the guest receives what the link sends.
fn limits(spec: &NicSpec) -> (Option<Bandwidth>, Option<Bandwidth>) {
    let bytes = |limit: &Limit| Bandwidth {
        average: u64::from(limit.average) * 1000,
        peak: limit.peak.map(|peak| u64::from(peak) * 1000),
        burst: limit.burst.map(|burst| u64::from(burst) * 1024),
    };
    let (inbound, outbound) = (spec.host.inbound.as_ref().map(bytes), spec.host.outbound.as_ref().map(bytes));
    match spec.backend {
        Backend::Macvtap { .. } => (outbound, inbound),
        _ => (inbound, outbound),
    }
}

/// Limits what the guest sends and receives.
pub(crate) fn limit_bandwidth(links: &mut Links, spec: &NicSpec, index: u32) -> Result<(), LinkError> {
    let (sent, received) = limits(spec);
    if let Some(limit) = sent {
        links.limit_sent(index, &limit)?;
    }
    match received {
        Some(limit) => links.limit_received(index, &limit),
        None => Ok(()),
    }
}

/// Limits what the guest sends and receives in place of other limits, `from`.
pub(crate) fn change_bandwidth(
    links: &mut Links,
    from: &NicSpec,
    to: &NicSpec,
    index: u32,
) -> Result<(), LinkError> {
    // Of a change that was interrupted it is not known which of both are there.
    let (has, is_to_have) = (limits(from), limits(to));
    if has.0.is_some() || is_to_have.0.is_some() {
        links.end_limit_sent(index)?;
    }
    if has.1.is_some() || is_to_have.1.is_some() {
        links.end_limit_received(index)?;
    }
    limit_bandwidth(links, to, index)
}

/// Makes a tap a port of Open vSwitch.
pub(crate) fn add_ovs_port(
    guest: &GuestId,
    spec: &NicSpec,
    mac: MacAddr,
    (bridge, ifname): (&IfName, &IfName),
    mtu: u32,
) -> Result<(), OvsError> {
    let trunk: Vec<u16> = spec.host.trunk.iter().copied().collect();
    let ovs = spec.host.ovs.clone().unwrap_or_default();
    Ovs::discover()?.add_port(&OvsPort {
        bridge,
        ifname,
        mac,
        guest: guest.uuid,
        // The same each time for one interface of a guest.
        interface_id: ovs.interface_id.unwrap_or_else(|| interface_id(guest.uuid, mac)),
        profile: ovs.profile.as_deref(),
        mark: &mark(guest, mac),
        vlan: spec.vlan,
        trunk: &trunk,
        native_tagged: spec.host.native_tagged,
        mtu: Some(spec.mtu.unwrap_or(mtu)),
    })
}

/// An id for an interface that has none: of the guest's, with the address in its last six bytes.
fn interface_id(guest: Uuid, mac: MacAddr) -> Uuid {
    let mut bytes = *guest.as_bytes();
    bytes[10..].copy_from_slice(&mac.0);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
