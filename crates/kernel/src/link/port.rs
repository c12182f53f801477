//! Settings of a bridge's port: isolation and VLANs.

use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridgePort, InfoPortData, InfoPortKind,
    LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::socket::Failed;
use super::{Link, LinkError, Links, answer, failure, number, numbered, quoted};
use crate::netlink::u32_at;

/// The VLAN that a bridge gives a new port (`default_pvid`).
const DEFAULT_VID: u16 = 1;

/// The VLANs of a bridge's port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortVlans<'a> {
    /// That of frames without a tag (`pvid`).
    pub untagged: Option<u16>,
    /// Frames of that VLAN leave with a tag nevertheless.
    pub leaves_tagged: bool,
    /// Those of frames with a tag.
    pub tagged: &'a [u16],
}

const PUT_IN_VLAN: &str = "put it in a VLAN";

impl PortVlans<'_> {
    /// Each VLAN, lowest first, and what becomes of its frames.
    fn list(&self) -> Vec<(u16, BridgeVlanInfoFlags)> {
        let mut all: Vec<_> = self
            .tagged
            .iter()
            .filter(|vid| Some(**vid) != self.untagged)
            .map(|vid| (*vid, BridgeVlanInfoFlags::empty()))
            .collect();
        all.extend(self.untagged.map(|vid| (vid, self.untagged_flags())));
        all.sort_by_key(|(vid, _)| *vid);
        all.dedup();
        all
    }

    fn untagged_flags(&self) -> BridgeVlanInfoFlags {
        match self.leaves_tagged {
            true => BridgeVlanInfoFlags::Pvid,
            false => BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged,
        }
    }
}

impl Links {
    /// Isolates a bridge's port from all other isolated ports, or ends the isolation.
    ///
    /// # Errors
    ///
    /// [`LinkError::NotAPort`] if it is not a bridge's port.
    pub fn set_isolated(&mut self, index: u32, isolated: bool) -> Result<(), LinkError> {
        const OPERATION: &str = "set the isolation of this port";
        self.port(index, OPERATION)?;
        let mut message = numbered(index);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(isolated)])),
        ]));
        // RTM_SETLINK ignores a port's data; RTM_NEWLINK of an existing link sets it.
        self.change(index, RouteNetlinkMessage::NewLink(message), OPERATION)
    }

    /// Puts a bridge's port into one VLAN: frames from the guest belong to it, frames to the guest
    /// lose their tag. The bridge's default VLAN 1 is removed from the port.
    ///
    /// # Errors
    ///
    /// [`LinkError::VlanFilteringOff`] if the bridge does not filter VLANs,
    /// [`LinkError::NoVlanFiltering`] if the kernel can't, [`LinkError::NotAPort`] if it is not a
    /// bridge's port.
    pub fn set_port_vlan(&mut self, index: u32, vid: u16) -> Result<(), LinkError> {
        self.set_port_vlans(index, &PortVlans { untagged: Some(vid), ..PortVlans::default() })
    }

    /// Has a bridge's port carry these VLANs and no others.
    ///
    /// # Errors
    ///
    /// As [`set_port_vlan`](Self::set_port_vlan).
    pub fn set_port_vlans(&mut self, index: u32, vlans: &PortVlans<'_>) -> Result<(), LinkError> {
        let Some(vid) = vlans.untagged.or(vlans.tagged.first().copied()) else { return Ok(()) };
        let (port, bridge) = self.port(index, PUT_IN_VLAN)?;
        match bridge.vlan_filtering {
            Some(true) => {}
            Some(false) => {
                return Err(LinkError::VlanFilteringOff { bridge: bridge.name, port: port.name, vid });
            }
            None => return Err(LinkError::NoVlanFiltering { port: port.name, vid }),
        }
        if vlans.untagged != Some(DEFAULT_VID) {
            self.vlan(&port, DEFAULT_VID, BridgeVlanInfoFlags::empty(), RouteNetlinkMessage::DelLink)?;
        }
        for (vid, flags) in vlans.list() {
            self.vlan(&port, vid, flags, RouteNetlinkMessage::SetLink)?;
        }
        Ok(())
    }

    /// Has a bridge's port carry these VLANs and no others, whatever it carried; none: the one that
    /// a bridge gives a new port. Reads them back.
    ///
    /// # Errors
    ///
    /// As [`set_port_vlan`](Self::set_port_vlan), or they read back otherwise.
    pub fn change_port_vlans(&mut self, index: u32, vlans: &PortVlans<'_>) -> Result<(), LinkError> {
        let (port, bridge) = self.port(index, PUT_IN_VLAN)?;
        let mut wanted = vlans.list();
        let is_plain = wanted.is_empty();
        if !is_plain {
            self.set_port_vlans(index, vlans)?;
        } else if bridge.vlan_filtering.is_none() {
            return Ok(());
        } else {
            wanted.push((DEFAULT_VID, BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged));
        }
        for (vid, _) in self.port_vlans(index)? {
            if !wanted.iter().any(|(known, _)| *known == vid) {
                self.vlan(&port, vid, BridgeVlanInfoFlags::empty(), RouteNetlinkMessage::DelLink)?;
            }
        }
        for (vid, flags) in wanted.iter().filter(|_| is_plain) {
            self.vlan(&port, *vid, *flags, RouteNetlinkMessage::SetLink)?;
        }
        let found = self.port_vlans(index)?;
        if found == wanted {
            return Ok(());
        }
        let describe = |all: &[(u16, BridgeVlanInfoFlags)]| {
            all.iter().map(|(vid, flags)| format!("{vid} {flags:?}")).collect::<Vec<_>>().join(", ")
        };
        Err(LinkError::Differs {
            link: quoted(&port.name),
            operation: PUT_IN_VLAN,
            wanted: describe(&wanted),
            found: describe(&found),
        })
    }

    /// The VLANs of a bridge's port, lowest first, and what becomes of their frames.
    fn port_vlans(&mut self, index: u32) -> Result<Vec<(u16, BridgeVlanInfoFlags)>, LinkError> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan]));
        let answers = self
            .socket
            .dump(&RouteNetlinkMessage::GetLink(message))
            .map_err(|failed| failure(failed, "list its VLANs", number(index)))?;
        let of_port = answers.iter().filter(|answer| u32_at(answer, 4) == Some(index));
        let mut all: Vec<_> = of_port.flat_map(|answer| answer::vlans(answer)).collect();
        all.sort_by_key(|(vid, _)| *vid);
        Ok(all)
    }

    /// A bridge's port, and its bridge.
    fn port(&mut self, index: u32, operation: &'static str) -> Result<(Link, Link), LinkError> {
        let missing = |index| LinkError::Missing { link: number(index), operation };
        let port = self.by_index(index)?.ok_or_else(|| missing(index))?;
        let master = match port.master {
            Some(master) => self.by_index(master)?,
            None => None,
        };
        match master {
            Some(bridge) if bridge.kind.as_deref() == Some("bridge") => Ok((port, bridge)),
            _ => Err(LinkError::NotAPort { link: port.name, operation }),
        }
    }

    fn vlan(
        &mut self,
        port: &Link,
        vid: u16,
        flags: BridgeVlanInfoFlags,
        verb: fn(LinkMessage) -> RouteNetlinkMessage,
    ) -> Result<(), LinkError> {
        let mut message = numbered(port.index);
        message.header.interface_family = AddressFamily::Bridge;
        message
            .attributes
            .push(LinkAttribute::AfSpecBridge(vec![AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid })]));
        match self.socket.request(verb(message), 0) {
            Ok(_) => Ok(()),
            Err(Failed::Refused(refusal)) if refusal.errno == Errno::OPNOTSUPP => {
                Err(LinkError::NoVlanFiltering { port: port.name.clone(), vid })
            }
            Err(failed) => Err(failure(failed, PUT_IN_VLAN, quoted(&port.name))),
        }
    }
}
