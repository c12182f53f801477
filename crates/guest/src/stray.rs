//! Links that carry the mark of a guest of which the ledger knows nothing: its file was removed, or is
//! another host's.

use std::collections::BTreeSet;

use taptrail_kernel::link::{Link, Links};
use taptrail_kernel::proc::Holders;
use taptrail_record::{DeviceKind, IfName, MacAddr};
use uuid::Uuid;

use crate::account::live_guests;
use crate::host_link::{HostLink, read_mark};
use crate::interface::Host;
use crate::recovery::{RecoverError, RecoverOptions};

/// A link that was made for a guest's interface, and no account of that guest is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Its name.
    pub link: IfName,
    /// The guest.
    pub uuid: Uuid,
    /// The guest's interface.
    pub mac: MacAddr,
    /// What became of it.
    pub state: StrayState,
}

/// What became of a stray link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrayState {
    /// A process holds its device.
    Held {
        /// Which.
        pid: u32,
    },
    /// The kernel says that it is held, and no process shows it.
    Attached,
    /// Nobody held it, and it is deleted.
    Deleted,
}

/// Looks for links of guests without an account; deletes those that nobody holds.
///
/// # Errors
/// When links or processes can't be looked at, or the ledger can't be read.
pub fn strays(options: &RecoverOptions) -> Result<Vec<Stray>, RecoverError> {
    let mut links = Links::open()?;
    let marked: Vec<_> = links
        .all()?
        .into_iter()
        .filter_map(|link| Some((read_mark(link.alias.as_deref()?)?, link)))
        .collect();
    if marked.is_empty() {
        return Ok(Vec::new());
    }
    // Read after the links: a guest's account is there before its first link.
    let known: BTreeSet<Uuid> = live_guests(&options.dirs)?.into_iter().map(|guest| guest.id.uuid).collect();
    let mut host = Host::open(options.nft.clone())?;
    let mut strays = Vec::new();
    for ((uuid, mac), link) in marked.into_iter().filter(|((uuid, _), _)| !known.contains(uuid)) {
        let Some(known) = HostLink::new(&link, link.alias.clone()) else { continue };
        let state = match holder(&links, &known, &link)? {
            Some(pid) => StrayState::Held { pid },
            None if known.is_tap() && links.tap_is_attached(link.index)? == Some(true) => {
                StrayState::Attached
            }
            None => {
                host.delete_link(&known)?;
                StrayState::Deleted
            }
        };
        strays.push(Stray { link: known.name().clone(), uuid, mac, state });
    }
    Ok(strays)
}

/// The process that holds the device of a link, where one shows it.
fn holder(links: &Links, known: &HostLink, link: &Link) -> Result<Option<u32>, RecoverError> {
    let kind = if known.is_tap() { DeviceKind::Tun } else { DeviceKind::Macvtap };
    let holders = Holders::of(kind).and_then(Holders::of_our_network).map_err(RecoverError::Look)?;
    let rdev = links.macvtap_rdev(known.name(), link.index);
    let found = holders.found.iter().find(|(_, _, held)| match kind {
        DeviceKind::Tun => held.ifname.as_ref() == Some(known.name()),
        _ => Some(held.rdev) == rdev,
    });
    Ok(found.map(|(pid, ..)| *pid))
}
