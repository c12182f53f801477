use std::fmt;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::{IfName, Rdev};

/// What kind of raw network device a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A tap, opened through `/dev/net/tun`.
    Tun,
    /// A macvtap's or ipvtap's own node, `/dev/tapN`: path and number are alike.
    Macvtap,
    /// The kernel's virtio-net backend, `/dev/vhost-net`.
    VhostNet,
    /// A vDPA device, `/dev/vhost-vdpa-N`: a NIC, or a part of one, that does virtio itself.
    VhostVdpa,
    /// A connection to a vhost-user backend, another process of the host: a Unix stream socket. It has
    /// no device number; its path is [`SOCKET_PREFIX`] and the path to which it is connected.
    VhostUser,
    /// The record's path and number do not show the kind.
    Unknown,
}

crate::word_table! {
    DeviceKind:
    /// All kinds.
    ALL,
    /// The kind as it stands in JSON, tables and the ledger.
    as_str,
    {
        Tun = "tun",
        Macvtap = "macvtap",
        VhostNet = "vhost-net",
        VhostVdpa = "vhost-vdpa",
        VhostUser = "vhost-user",
        Unknown = "unknown",
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One raw network device: the character device that was opened, and the host interface behind it.
///
/// Serialised as the `device` object of a trail's JSON: `kind`, `path`, `rdev` (`"0A:C8"` or null),
/// `dev` (or null).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Its kind; see [`Device::new`].
    pub kind: DeviceKind,
    /// The path that was opened; for libvirt's macvtaps the interface's name instead.
    pub path: CompactString,
    /// The device number, if the record has it.
    pub rdev: Option<Rdev>,
    /// The interface behind it (`vnet0`, `macvtap0`); none for vhost-net, for vDPA, for vhost-user and
    /// for a failed open.
    pub dev: Option<CompactString>,
}

impl Device {
    /// A device whose kind is derived from its number and path.
    ///
    /// The number takes precedence, because paths can be custom. The numbers of macvtaps and vDPA
    /// devices are assigned at run time, so they are recognised by the path: `/dev/tapN` or a bare
    /// interface name, and `/dev/vhost-vdpa-N`. A vhost-user socket is recognised by its prefix.
    pub fn new(path: impl Into<CompactString>, rdev: Option<Rdev>, dev: Option<CompactString>) -> Self {
        let path = path.into();
        Self { kind: DeviceKind::of(&path, rdev), path, rdev, dev }
    }
}

/// What precedes the path of a socket where the path of a device's node would stand: no path of an
/// open(2) of a device, and no interface, begins so.
pub const SOCKET_PREFIX: &str = "unix:";

/// The path of a vhost-user backend's socket in a [`Device::path`]; another device's is as it is.
pub fn socket_path(path: &str) -> &str {
    path.strip_prefix(SOCKET_PREFIX).unwrap_or(path)
}

impl DeviceKind {
    /// The kind, derived from a device's number, or else from its path.
    pub fn of(path: &str, rdev: Option<Rdev>) -> Self {
        match (rdev, path) {
            (Some(Rdev::TUN), _) | (None, "/dev/net/tun") => Self::Tun,
            (Some(Rdev::VHOST_NET), _) | (None, "/dev/vhost-net") => Self::VhostNet,
            (_, path) if is_macvtap_node(path.as_bytes()) => Self::Macvtap,
            (_, path) if is_vdpa_node(path.as_bytes()) => Self::VhostVdpa,
            (None, path) if path.starts_with(SOCKET_PREFIX) => Self::VhostUser,
            // libvirt asked for the number of a file with the interface's name in its own working
            // directory: the number, if there was such a file, says nothing of the macvtap.
            (_, name) if name != "?" && IfName::is_valid(name) => Self::Macvtap,
            _ => Self::Unknown,
        }
    }
}

/// Whether this is `/dev/tapN`.
pub(crate) fn is_macvtap_node(path: &[u8]) -> bool {
    path.strip_prefix(b"/dev/tap").is_some_and(is_number)
}

/// Whether this is `/dev/vhost-vdpa-N` (drivers/vhost/vdpa.c).
pub(crate) fn is_vdpa_node(path: &[u8]) -> bool {
    path.strip_prefix(b"/dev/vhost-vdpa-").is_some_and(is_number)
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_decides_the_kind_before_the_path() {
        let macvtap = Some(Rdev { major: 246, minor: 2 });
        for (path, rdev, kind) in [
            ("/dev/net/tun", Some(Rdev::TUN), DeviceKind::Tun),
            ("/dev/net/tun", None, DeviceKind::Tun),
            ("/run/mytun", Some(Rdev::TUN), DeviceKind::Tun),
            ("/run/myvhost", Some(Rdev::VHOST_NET), DeviceKind::VhostNet),
            ("/dev/vhost-net", None, DeviceKind::VhostNet),
            ("/dev/tap7", macvtap, DeviceKind::Macvtap),
            ("/dev/tap7", None, DeviceKind::Macvtap),
            ("macvtap0", None, DeviceKind::Macvtap),
            ("macvtap0", Some(Rdev { major: 1, minor: 3 }), DeviceKind::Macvtap),
            ("/dev/net/tun", macvtap, DeviceKind::Unknown),
            ("/dev/tap", None, DeviceKind::Unknown),
            ("/dev/vhost-vdpa-0", Some(Rdev { major: 242, minor: 0 }), DeviceKind::VhostVdpa),
            ("/dev/vhost-vdpa-12", None, DeviceKind::VhostVdpa),
            ("/dev/vhost-vdpa-0", Some(Rdev::VHOST_NET), DeviceKind::VhostNet),
            ("/dev/vhost-vdpa-", None, DeviceKind::Unknown),
            ("/dev/tapestry", None, DeviceKind::Unknown),
            ("unix:/run/vhost0.sock", None, DeviceKind::VhostUser),
            ("unix:/run/vhost0.sock", Some(Rdev::TUN), DeviceKind::Tun),
            ("/run/vhost0.sock", None, DeviceKind::Unknown),
            ("?", None, DeviceKind::Unknown),
            ("", None, DeviceKind::Unknown),
        ] {
            assert_eq!(DeviceKind::of(path, rdev), kind, "{path} {rdev:?}");
        }
    }
}
