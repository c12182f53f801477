//! The links that were made for guests' interfaces, by their marks, and who holds them.

use std::io;
use std::path::PathBuf;

use taptrail_kernel::link::{LinkError, Links, PlacedLink};
use taptrail_kernel::proc::{Holders, ProcessId};
use taptrail_record::{DeviceKind, MacAddr};
use uuid::Uuid;

use crate::host_link::{HostLink, read_mark};

/// A link with a mark.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) link: HostLink,
    /// The number of the network namespace that it is in; none for our own.
    pub(crate) namespace: Option<i32>,
    /// Whose interface it was made for.
    pub(crate) guest: Uuid,
    /// That interface.
    pub(crate) mac: MacAddr,
    /// The process that holds its device, where one shows it.
    pub(crate) holder: Option<ProcessId>,
    /// The kernel counts an open file of it, whoever holds that: known of taps in our network namespace alone.
    attached: bool,
}

/// The links can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum MarkedError {
    /// They can't be listed.
    #[error("Links can't be listed")]
    Links(#[from] LinkError),
    /// Processes can't be listed.
    #[error("Processes can't be listed")]
    Look(#[source] io::Error),
}

impl Marked {
    /// Those of our network namespace that were made for such an interface of such a guest. Processes are looked through
    /// only where there are any.
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

    /// All of them, also where they were moved to.
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
                // A sysfs of ours does not show it; it has kept its number, and its node.
                let node = PathBuf::from(format!("/dev/tap{index}"));
                macvtaps.found.iter().find(|(_, _, held)| held.path == node)
            };
            let holder = holder.and_then(|(pid, ..)| ProcessId::of(*pid).ok());
            let attached = is_here && link.is_tap() && links.tap_is_attached(index)? == Some(true);
            all.push(Self { link, namespace, guest, mac, holder, attached });
        }
        Ok(all)
    }

    /// Whether somebody holds it, as far as that is shown.
    pub(crate) fn is_held(&self) -> bool {
        self.attached || self.holder.is_some_and(|holder| holder.is_alive())
    }
}
