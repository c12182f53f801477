//! Parses the kernel's description of a link, attribute by attribute.
//!
//! Only the needed attributes are parsed, so that attributes which a later kernel adds or extends
//! can't make a reply unreadable.

use netlink_packet_route::link::BridgeVlanInfoFlags;
use taptrail_record::MacAddr;

use super::{Link, LinkError, TunInfo};
use crate::netlink::{attribute, attributes, text, u32_at};

/// Bytes of `struct ifinfomsg`: family, type, index, flags, change.
const IFINFOMSG: usize = 16;
const IFF_UP: u32 = 1;

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_ISOLATED: u16 = 33;
// linux/if_bridge.h
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_PROTOCOL: u16 = 8;
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;
const IFF_TAP: u8 = 2;

/// Reads the payload of an `RTM_NEWLINK`.
pub(crate) fn read(payload: &[u8]) -> Result<Link, LinkError> {
    let short = || LinkError::Answer { what: "a link's description is cut short".into() };
    let mut link = Link {
        index: u32_at(payload, 4).ok_or_else(short)?,
        name: String::new(),
        alias: None,
        kind: None,
        mac: None,
        mtu: 0,
        up: u32_at(payload, 8).ok_or_else(short)? & IFF_UP != 0,
        master: None,
        lower: None,
        tun: None,
        vlan_filtering: None,
        isolated: false,
    };
    for (kind, value) in attributes(payload.get(IFINFOMSG..).ok_or_else(short)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().ok().map(MacAddr),
            IFLA_IFNAME => link.name = text(value),
            IFLA_IFALIAS => link.alias = Some(text(value)).filter(|alias| !alias.is_empty()),
            IFLA_MTU => link.mtu = u32_at(value, 0).ok_or_else(short)?,
            IFLA_LINK => link.lower = u32_at(value, 0),
            IFLA_MASTER => link.master = u32_at(value, 0),
            IFLA_LINKINFO => info(&mut link, value),
            _ => {}
        }
    }
    if link.name.is_empty() {
        return Err(LinkError::Answer { what: format!("link number {} has no name", link.index) });
    }
    Ok(link)
}

fn info(link: &mut Link, nested: &[u8]) {
    // The kind comes before its data (rtnl_link_info_fill()).
    for (kind, value) in attributes(nested) {
        match (kind, link.kind.as_deref()) {
            (IFLA_INFO_KIND, _) => link.kind = Some(text(value)),
            (IFLA_INFO_DATA, Some("tun")) => link.tun = Some(tun(value)),
            (IFLA_INFO_DATA, Some("bridge")) => {
                link.vlan_filtering = vlan_filtering(value);
            }
            (IFLA_INFO_SLAVE_DATA, _) => {
                // Other masters have no attribute of that number.
                link.isolated = attribute(value, IFLA_BRPORT_ISOLATED) == Some(&[1]);
            }
            _ => {}
        }
    }
}

/// Reads the VLANs of a port in the payload of an `RTM_NEWLINK` of the bridges' family.
pub(crate) fn vlans(payload: &[u8]) -> Vec<(u16, BridgeVlanInfoFlags)> {
    let attributes_of_link = payload.get(IFINFOMSG..).unwrap_or_default();
    let nested = attribute(attributes_of_link, IFLA_AF_SPEC).unwrap_or_default();
    let vlans = attributes(nested).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO);
    let read = |(_, value): (u16, &[u8])| {
        let number = |at: usize| Some(u16::from_ne_bytes(value.get(at..at + 2)?.try_into().ok()?));
        Some((number(2)?, BridgeVlanInfoFlags::from_bits_retain(number(0)?)))
    };
    vlans.filter_map(read).collect()
}

/// Whether a bridge filters VLANs. A kernel without `CONFIG_BRIDGE_VLAN_FILTERING` reports 0, too,
/// but no protocol (`br_fill_info()` in net/bridge/br_netlink.c).
fn vlan_filtering(data: &[u8]) -> Option<bool> {
    attribute(data, IFLA_BR_VLAN_PROTOCOL)?;
    attribute(data, IFLA_BR_VLAN_FILTERING).map(|value| value.first() == Some(&1))
}

fn tun(data: &[u8]) -> TunInfo {
    let byte = |kind| attribute(data, kind).and_then(|value| value.first().copied());
    let count = |kind| attribute(data, kind).and_then(|value| u32_at(value, 0));
    TunInfo {
        tap: byte(IFLA_TUN_TYPE) == Some(IFF_TAP),
        multi_queue: byte(IFLA_TUN_MULTI_QUEUE) == Some(1),
        owner: count(IFLA_TUN_OWNER),
        group: count(IFLA_TUN_GROUP),
        persistent: byte(IFLA_TUN_PERSIST) == Some(1),
        queues: count(IFLA_TUN_NUM_QUEUES)
            .map(|queues| queues.saturating_add(count(IFLA_TUN_NUM_DISABLED_QUEUES).unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message() -> Vec<u8> {
        let data = [
            attribute(IFLA_TUN_TYPE, &[IFF_TAP]),
            attribute(IFLA_TUN_GROUP, &65_534_u32.to_ne_bytes()),
            attribute(IFLA_TUN_MULTI_QUEUE, &[1]),
            attribute(IFLA_TUN_NUM_QUEUES, &3_u32.to_ne_bytes()),
            attribute(IFLA_TUN_NUM_DISABLED_QUEUES, &1_u32.to_ne_bytes()),
        ]
        .concat();
        let info = [attribute(IFLA_INFO_KIND, b"tun\0"), attribute(IFLA_INFO_DATA, &data)].concat();
        let mut bytes = vec![0; IFINFOMSG];
        bytes[4] = 7;
        bytes[8] = 1;
        bytes.extend(attribute(IFLA_IFNAME, b"vnet0\0"));
        bytes.extend(attribute(0x3FFF, b"of a later kernel"));
        bytes.extend(attribute(IFLA_MTU, &1500_u32.to_ne_bytes()));
        bytes.extend(attribute(IFLA_IFALIAS, b"a note\0"));
        bytes.extend(attribute(IFLA_ADDRESS, &[0xfe, 0x54, 0, 0, 0, 1]));
        bytes.extend(attribute(IFLA_LINKINFO, &info));
        bytes
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn what_is_known_is_read_and_the_rest_passed_over() {
        let link = read(&message()).unwrap();
        assert_eq!((link.index, link.name.as_str(), link.mtu, link.up), (7, "vnet0", 1500, true));
        assert_eq!(link.mac.map(|mac| mac.to_string()).as_deref(), Some("fe:54:00:00:00:01"));
        let tun = TunInfo {
            tap: true,
            multi_queue: true,
            persistent: false,
            owner: None,
            group: Some(65_534),
            queues: Some(4),
        };
        assert!(tun.admits(7, &[12, 65_534]) && !tun.admits(0, &[0]));
        assert!(TunInfo { group: None, ..tun }.admits(7, &[]));
        assert!(!TunInfo { owner: Some(0), ..tun }.admits(7, &[65_534]));
        assert_eq!((link.tun, link.alias.as_deref()), (Some(tun), Some("a note")));
    }

    #[test]
    fn a_message_cut_anywhere_is_no_panic() {
        let message = message();
        for length in 0..message.len() {
            let _ = read(&message[..length]);
        }
        assert!(read(&message[..IFINFOMSG]).is_err(), "a link without a name");
    }
}
