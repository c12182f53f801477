//! The links that were made for guests' interfaces, by their marks, and who holds them.

use std::io;

use taptrail_kernel::link::{LinkError, Links};
use taptrail_kernel::proc::{Holders, ProcessId};
use taptrail_record::{DeviceKind, MacAddr};
use uuid::Uuid;

use crate::host_link::{HostLink, read_mark};

/// A link of our network namespace with a mark.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) link: HostLink,
    /// Whose interface it was made for.
    pub(crate) guest: Uuid,
    /// That interface.
    pub(crate) mac: MacAddr,
    /// The process that holds its device, where one shows it.
    pub(crate) holder: Option<ProcessId>,
    /// The kernel counts an open file of it, whoever holds that: known of taps alone.
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
    /// Those with a mark of an interface with such an address.
    pub(crate) fn all(mut wanted: impl FnMut(MacAddr) -> bool) -> Result<Vec<Self>, MarkedError> {
        let mut links = Links::open()?;
        let mut marked = Vec::new();
        for link in links.all()? {
            let Some((guest, mac)) = link.alias.as_deref().and_then(read_mark) else { continue };
            let Some(known) = HostLink::new(&link, link.alias.clone()) else { continue };
            if wanted(mac) {
                marked.push((guest, mac, known));
            }
        }
        if marked.is_empty() {
            return Ok(Vec::new());
        }
        let holders = |kind| Holders::of(kind).and_then(Holders::of_our_network).map_err(MarkedError::Look);
        let (taps, macvtaps) = (holders(DeviceKind::Tun)?, holders(DeviceKind::Macvtap)?);
        let mut all = Vec::with_capacity(marked.len());
        for (guest, mac, link) in marked {
            let rdev = links.macvtap_rdev(link.name(), link.index());
            let holder = match link.is_tap() {
                true => taps.found.iter().find(|(_, _, held)| held.ifname.as_ref() == Some(link.name())),
                false => macvtaps.found.iter().find(|(_, _, held)| Some(held.rdev) == rdev),
            };
            let holder = holder.and_then(|(pid, ..)| ProcessId::of(*pid).ok());
            let attached = link.is_tap() && links.tap_is_attached(link.index())? == Some(true);
            all.push(Self { link, guest, mac, holder, attached });
        }
        Ok(all)
    }

    /// Whether somebody holds it, as far as that is shown.
    pub(crate) fn is_held(&self) -> bool {
        self.attached || self.holder.is_some_and(|holder| holder.is_alive())
    }
}
