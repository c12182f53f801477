//! Finds a link by its alias, which stays with the link when it is renamed, or moved to another
//! network namespace.

use std::os::fd::AsRawFd as _;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use rustix::io::Errno;

use super::socket::Failed;
use super::{Link, LinkError, Links, answer, failure, number, numbered};
use crate::netlink::{attribute, u32_at};
use crate::netns::NetNs;

/// `NETNSA_NSID` (linux/net_namespace.h).
const NETNSA_NSID: u16 = 1;
/// Bytes of `struct rtgenmsg` with its padding.
const RTGENMSG: usize = 4;

/// A link, and the network namespace that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedLink {
    /// The link, with its name and ifindex in that namespace.
    pub link: Link,
    /// The nsid of that namespace in the socket's own; none for a link in the socket's own
    /// namespace.
    pub namespace: Option<i32>,
}

impl Links {
    /// The link with this alias: in the socket's own network namespace, or in one that it was moved
    /// to.
    ///
    /// # Errors
    ///
    /// The links of the own namespace, or the nsids of others, can't be listed.
    pub fn find_alias(&mut self, alias: &str) -> Result<Option<PlacedLink>, LinkError> {
        match with(alias, self.all()?) {
            Some(link) => Ok(Some(PlacedLink { link, namespace: None })),
            None => self.find_moved(alias),
        }
    }

    /// The link with this alias in another network namespace with an nsid in the socket's own, as
    /// each has to which a link was moved from here (`dev_change_net_namespace()` in
    /// net/core/dev.c).
    ///
    /// A namespace that may not be inspected is skipped.
    ///
    /// # Errors
    ///
    /// The nsids of others can't be listed.
    pub fn find_moved(&mut self, alias: &str) -> Result<Option<PlacedLink>, LinkError> {
        for namespace in self.known_namespaces()? {
            let Ok(links) = self.all_in(namespace) else { continue };
            if let Some(link) = with(alias, links) {
                return Ok(Some(PlacedLink { link, namespace: Some(namespace) }));
            }
        }
        Ok(None)
    }

    /// The link with this alias in any network namespace that has a process or a file in
    /// `/run/netns`.
    ///
    /// Assigns an nsid to each of these namespaces.
    ///
    /// # Errors
    ///
    /// As [`find_alias`](Self::find_alias).
    pub fn find_anywhere(&mut self, alias: &str) -> Result<Option<PlacedLink>, LinkError> {
        if let Some(found) = self.find_alias(alias)? {
            return Ok(Some(found));
        }
        self.number_namespaces();
        self.find_moved(alias)
    }

    /// All links with an alias for which `wanted` gives something: here, and in each network
    /// namespace that a process is in or a file of `/run/netns` keeps. Gives each of these a number
    /// in ours.
    ///
    /// # Errors
    /// As those of [`find_alias`](Self::find_alias).
    pub fn all_with_alias<T>(
        &mut self,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<(T, PlacedLink)>, LinkError> {
        let mut places = vec![(None, self.all()?)];
        self.number_namespaces();
        for namespace in self.known_namespaces()? {
            // Its last process may have ended meanwhile.
            places.extend(self.all_in(namespace).ok().map(|links| (Some(namespace), links)));
        }
        let placed = places
            .into_iter()
            .flat_map(|(namespace, links)| links.into_iter().map(move |link| PlacedLink { link, namespace }));
        Ok(placed.filter_map(|placed| Some((wanted(placed.link.alias.as_deref()?)?, placed))).collect())
    }

    /// Gives each network namespace that can be seen a number in ours, by which it can be asked.
    /// One that can't be numbered is passed over.
    fn number_namespaces(&mut self) {
        let Ok(own) = NetNs::own() else { return };
        // One at a time: each is a descriptor.
        for namespace in NetNs::all().filter(|namespace| namespace.inode() != own.inode()) {
            let Ok(number) = u32::try_from(namespace.as_fd().as_raw_fd()) else { continue };
            let mut message = NsidMessage::default();
            // -1: the kernel chooses (`rtnl_net_newid()` in net/core/net_namespace.c).
            message.attributes = vec![NsidAttribute::Id(-1), NsidAttribute::Fd(number)];
            // It refuses one that has a number.
            let _ = self.socket.request(RouteNetlinkMessage::NewNsId(message), 0);
        }
    }

    /// Deletes a link where it is.
    ///
    /// # Errors
    /// As those of [`delete`](Self::delete).
    pub fn delete_placed(&mut self, placed: &PlacedLink) -> Result<(), LinkError> {
        let Some(namespace) = placed.namespace else { return self.delete(placed.link.index) };
        let mut message = numbered(placed.link.index);
        message.attributes.push(LinkAttribute::IfNetnsId(namespace));
        match self.socket.request(RouteNetlinkMessage::DelLink(message), 0) {
            Ok(_) => Ok(()),
            Err(Failed::Refused(refusal)) if refusal.errno == Errno::NODEV => {
                Err(LinkError::Missing { link: number(placed.link.index), operation: "delete it" })
            }
            Err(failed) => Err(failure(failed, "delete it", format!("'{}'", placed.link.name))),
        }
    }

    /// The numbers that our network namespace has for others.
    fn known_namespaces(&mut self) -> Result<Vec<i32>, LinkError> {
        let request = RouteNetlinkMessage::GetNsId(NsidMessage::default());
        let answers = self
            .socket
            .dump(&request)
            .map_err(|failed| failure(failed, "list network namespaces", "of any name".to_owned()))?;
        let number = |payload: &Vec<u8>| {
            let attributes = payload.get(RTGENMSG..)?;
            let value = attribute(attributes, NETNSA_NSID)?;
            u32_at(value, 0).map(u32::cast_signed).filter(|number| *number >= 0)
        };
        Ok(answers.iter().filter_map(number).collect())
    }

    fn all_in(&mut self, namespace: i32) -> Result<Vec<Link>, LinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfNetnsId(namespace));
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.socket.dump(&RouteNetlinkMessage::GetLink(message)) {
            Ok(answers) => answers.iter().map(|payload| answer::read(payload)).collect(),
            Err(failed) => Err(failure(failed, "list them", format!("in namespace {namespace}"))),
        }
    }
}

fn with(alias: &str, links: Vec<Link>) -> Option<Link> {
    links.into_iter().find(|link| link.alias.as_deref() == Some(alias))
}
