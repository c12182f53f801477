//! The links that were made for guests' interfaces, found by their marks, and the processes that
//! hold them.

use std::io;
use std::path::PathBuf;

use taptrail_kernel::link::{LinkError, Links, PlacedLink};
use taptrail_kernel::proc::{Holders, ProcessId};
use taptrail_record::{DeviceKind, MacAddr};
use uuid::Uuid;

use crate::host_link::{HostLink, read_mark};

/// A link with a mark.
#[derive(Debug)]
pub(crate) struct MarkedLink {
    pub(crate) link: HostLink,
    /// The number of the network namespace that it is in; `None` for our own.
    pub(crate) namespace: Option<i32>,
    /// The guest that it was made for.
    pub(crate) guest: Uuid,
    /// The interface that it was made for.
    pub(crate) mac: MacAddr,
    /// A process that has a descriptor of its device, if one is found.
    pub(crate) holder: Option<ProcessId>,
    /// The kernel says that an open file is attached to it. Known only of taps in our network
    /// namespace.
    attached: bool,
}

/// The links can't be examined.
#[derive(Debug, thiserror::Error)]
pub enum MarkedError {
    /// They can't be listed.
    #[error("Links can't be listed")]
    Links(#[from] LinkError),
    /// Processes can't be listed.
    #[error("Processes can't be listed")]
    Look(#[source] io::Error),
}

impl MarkedLink {
    /// The links of our network namespace whose guest and MAC `wanted` accepts. Processes are
    /// scanned only if there are any.
    pub(crate) fn here(
        links: &mut Links,
        wanted: impl Fn(Uuid, MacAddr) -> bool,
    ) -> Result<Vec<Self>, MarkedError> {
        let placed = links.all()?.into_iter().filter_map(|link| {
            let of = link.alias.as_deref().and_then(read_mark).filter(|(guest, mac)| wanted(*guest, *mac))?;
            Some((of, PlacedLink { link, namespace: None }))
        });
        Self::of(placed.collect(), links)
    }

    /// All marked links, also those that were moved to other network namespaces.
    pub(crate) fn everywhere() -> Result<Vec<Self>, MarkedError> {
        let mut links = Links::open()?;
        let placed = links.all_with_alias(read_mark)?;
        Self::of(placed, &mut links)
    }

    fn of(placed: Vec<((Uuid, MacAddr), PlacedLink)>, links: &mut Links) -> Result<Vec<Self>, MarkedError> {
        if placed.is_empty() {
            return Ok(Vec::new());
        }
        let holders = |kind| Holders::of(kind).and_then(Holders::of_our_network).map_err(MarkedError::Look);
        let (taps, macvtaps) = (holders(DeviceKind::Tun)?, holders(DeviceKind::Macvtap)?);
        let mut all = Vec::with_capacity(placed.len());
        for ((guest, mac), PlacedLink { link, namespace }) in placed {
            let index = link.index;
            let Some(link) = HostLink::new(&link, link.alias.clone()) else { continue };
            let is_here = namespace.is_none();
            let holder = if link.is_tap() {
                taps.found.iter().find(|(_, _, held)| held.ifname.as_ref() == Some(link.name()))
            } else if is_here {
                let rdev = links.macvtap_rdev(link.name(), index);
                macvtaps.found.iter().find(|(_, _, held)| Some(held.rdev) == rdev)
            } else {
                // Our sysfs does not show it. It has kept its index, and so its node's name.
                let node = PathBuf::from(format!("/dev/tap{index}"));
                macvtaps.found.iter().find(|(_, _, held)| held.path == node)
            };
            let holder = holder.and_then(|(pid, ..)| ProcessId::of(*pid).ok());
            let attached = is_here && link.is_tap() && links.tap_is_attached(index)? == Some(true);
            all.push(Self { link, namespace, guest, mac, holder, attached });
        }
        Ok(all)
    }

    /// Whether a process is known to hold it.
    pub(crate) fn is_held(&self) -> bool {
        self.attached || self.holder.is_some_and(|holder| holder.is_alive())
    }
}
