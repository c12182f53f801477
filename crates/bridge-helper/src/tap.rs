//! Opens a tap on a bridge.

use std::num::NonZeroU16;
use std::path::Path;

use taptrail_kernel::device::{DEV_NET_TUN, Opening, TapName, TapRequest, open_tap};
use taptrail_kernel::link::{Change, Link, LinkError, Links};
use taptrail_record::{IfName, MacAddr};

/// The pattern of a tap's name, as qemu-bridge-helper has it.
const TAP_NAME: &str = "tap%d";
/// The first byte of a tap's MAC. A bridge takes the lowest MAC of its ports for its own, and must
/// not take a tap's, which comes and goes.
const FIRST_MAC_BYTE: u8 = 0xfe;

/// Why there is no such bridge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BridgeError {
    /// No link has this name.
    #[error("There is no bridge '{0}'")]
    Missing(IfName),
    /// The link is something else.
    #[error("Link '{0}' is no bridge")]
    NotABridge(IfName),
    /// The ACL's names are main names.
    #[error("'{0}' is an alternative name of bridge '{1}', and the ACL knows bridges by their main names")]
    Alternative(IfName, String),
    /// The links can't be read.
    #[error("Network links can't be read")]
    Link(#[from] LinkError),
}

/// The tap could not be made a port of its bridge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    /// The tap was deleted, or moved away.
    #[error("Tap '{0}' has vanished")]
    Vanished(IfName),
    /// The kernel refused.
    #[error("The tap can't be made a port of the bridge")]
    Link(#[from] LinkError),
}

/// Finds the bridge with this main name.
pub(crate) fn find_bridge(links: &mut Links, name: &IfName) -> Result<Link, BridgeError> {
    let link = links.find(name)?.ok_or_else(|| BridgeError::Missing(name.clone()))?;
    if link.kind.as_deref() != Some("bridge") {
        return Err(BridgeError::NotABridge(name.clone()));
    }
    if link.name != name.as_str() {
        return Err(BridgeError::Alternative(name.clone(), link.name));
    }
    Ok(link)
}

/// Opens a tap with one queue, which vanishes with its descriptor.
pub(crate) fn open(vnet_hdr: bool) -> Opening {
    open_tap(&TapRequest {
        path: Path::new(DEV_NET_TUN),
        name: TapName::Pattern(TAP_NAME),
        queues: NonZeroU16::MIN,
        vnet_hdr,
    })
}

/// Makes the tap a port of the bridge, with the bridge's MTU, and sets it up.
pub(crate) fn connect(links: &mut Links, tap: &IfName, bridge: &Link) -> Result<(), PortError> {
    let tap = links.find(tap)?.ok_or_else(|| PortError::Vanished(tap.clone()))?;
    let mac = tap.mac.map(|MacAddr(mut bytes)| {
        bytes[0] = FIRST_MAC_BYTE;
        MacAddr(bytes)
    });
    let change = Change { mac, mtu: Some(bridge.mtu), master: Some(bridge.index), up: Some(true) };
    Ok(links.configure(tap.index, &change)?)
}
