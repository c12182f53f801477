//! IP addresses and routes of a link on the host's side.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{LinkError, Links};

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostAddress {
    /// The host's own address.
    pub address: IpAddr,
    /// The address at the other end, if it is a point-to-point link.
    pub peer: Option<IpAddr>,
    /// The length of the network's prefix, which is the peer's if there is one.
    pub prefix: u8,
}

/// A route by way of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRoute {
    /// The network's address.
    pub network: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
    /// The next hop; without one, the network is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Its metric; without one, the kernel's default.
    pub metric: Option<u32>,
}

impl Links {
    /// Gives a link an address. It goes with the link.
    ///
    /// # Errors
    ///
    /// The kernel refuses: the link has the address already, for example.
    pub fn add_address(&mut self, index: u32, address: &HostAddress) -> Result<(), LinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.address);
        message.header.prefix_len = address.prefix;
        message.header.index = index;
        // The kernel's "address" is the other end of a point-to-point link.
        message.attributes.push(AddressAttribute::Local(address.address));
        message.attributes.push(AddressAttribute::Address(address.peer.unwrap_or(address.address)));
        self.create(index, RouteNetlinkMessage::NewAddress(message), "give it an address")
    }

    /// Adds a route by way of a link, which has to be up. It goes with the link.
    ///
    /// # Errors
    ///
    /// The kernel refuses: there is such a route, or its gateway is on no network of the link's.
    pub fn add_route(&mut self, index: u32, route: &HostRoute) -> Result<(), LinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(route.network);
        message.header.destination_prefix_length = route.prefix;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Destination(route.network.into()));
        if let Some(gateway) = route.gateway {
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        }
        if let Some(metric) = route.metric {
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        message.attributes.push(RouteAttribute::Oif(index));
        self.create(index, RouteNetlinkMessage::NewRoute(message), "add a route")
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
