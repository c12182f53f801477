//! One interface of a guest as its user writes it: `bridge=br0,mac=52:54:00:12:34:56,queues=4`.
//!
//! This module accepts valid SPECs, and refuses others before anything is opened. It does not look
//! at the host: whether a bridge exists is checked later.
//!
//! ```text
//! SPEC text ── parse ──┐
//!                      ├── PartialSpec (keys, values, their places) ── finish ── NicSpec
//! <interface> ── xml ──┘
//! ```
//!
//! Both parsers fill a `PartialSpec`, so that one set of rules holds for
//! both, and an error points at its place in the text. The reference for users is
//! `docs/nic-spec.md`.

mod change;
mod draft;
mod error;
mod host_side;
mod key;
mod nic_id;
mod parse;
mod property;
mod unique;
mod value;
mod write;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use taptrail_record::{IfName, MacAddr};

pub use taptrail_kernel::link::MacvtapMode;

pub use self::change::SpecChange;
pub use self::error::{Problem, SpecError};
pub use self::host_side::{HostSide, Limit, OpenVswitch};
pub use self::key::Key;
pub use self::nic_id::{NicId, NicIdError};
pub use self::parse::SPEC_LIMIT;
pub use self::property::Property;
pub use self::unique::check_unique;

pub(crate) use self::change::Setting;
pub(crate) use self::draft::{Given, PartialSpec};
pub(crate) use self::error::{Fault, either, quoted};
pub(crate) use self::key::closest;
pub(crate) use self::property::InXml;
pub(crate) use self::unique::first_clash;

use crate::filter::FilterChoice;
use crate::qemu::model::Model;

/// One interface of a guest: what to open for it and how.
///
/// A value read from text keeps every rule of `docs/nic-spec.md`. Read with [`str::parse`], written
/// back in canonical form by `Display`, which is also how serde carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NicSpec {
    /// The host's side.
    pub backend: Backend,
    /// The guest's own address; `None`: one is made ([`random_mac`]).
    pub mac: Option<MacAddr>,
    /// The NIC that the guest sees.
    pub model: Model,
    /// Queue pairs, each with a descriptor of its own: 1 to 256, the kernel's `MAX_TAP_QUEUES`
    /// (drivers/net/tun.c) and macvtap's (include/linux/if_tap.h).
    pub queues: NonZeroU16,
    /// Whether to open vhost-net; [`Vhost::Off`] for a model that can't use it.
    pub vhost: Vhost,
    /// Bytes, 68 (RFC 791) to 65535; `None`: the bridge's or the lower link's.
    pub mtu: Option<u32>,
    /// The host's name for the interface; `None`: the kernel chooses. Never with [`Backend::Tap`].
    pub ifname: Option<IfName>,
    /// What the guest may send and receive; `None`: everything.
    pub filter: Option<FilterChoice>,
    /// The bridge forwards nothing between isolated ports. Only with [`Backend::Bridge`].
    pub isolated: bool,
    /// The bridge port's VLAN, 1 to 4094, untagged to the guest. Only with [`Backend::Bridge`].
    pub vlan: Option<u16>,
    /// QEMU's id of the NIC; `None`: one is made.
    pub id: Option<NicId>,
    /// Opened in place of `/dev/net/tun`; absolute. Never with [`Backend::Macvtap`].
    pub tun_path: Option<PathBuf>,
    /// Opened in place of `/dev/vhost-net`; absolute. Never with [`Vhost::Off`].
    pub vhost_path: Option<PathBuf>,
    /// What it sets on the host's side beside that.
    pub host: HostSide,
    /// What QEMU's device is set to beside that, as in a SPEC; what is absent is QEMU's default.
    pub properties: BTreeMap<Property, String>,
}

impl NicSpec {
    /// An interface on `backend` with every other setting at its default.
    pub fn new(backend: Backend) -> Self {
        let model = Model::default();
        Self {
            vhost: backend.default_vhost(&model),
            backend,
            mac: None,
            model,
            queues: NonZeroU16::MIN,
            mtu: None,
            ifname: None,
            filter: None,
            isolated: false,
            vlan: None,
            id: None,
            tun_path: None,
            vhost_path: None,
            host: HostSide::default(),
            properties: BTreeMap::new(),
        }
    }

    /// Whether the NIC has its place on the root bus, and needs no port.
    pub(crate) fn has_place(&self) -> bool {
        self.properties.keys().any(|property| property.is_place())
    }

    /// Whether a new link is made for the interface.
    pub(crate) fn makes_link(&self) -> bool {
        !matches!(self.backend, Backend::Tap(_) | Backend::Vdpa(_) | Backend::VhostUser(_))
    }

    /// Whether QEMU closes the interface's device only once the NIC is unplugged: 7.2 forgets the
    /// netdev of a plugged vDPA NIC, and keeps its descriptor until it ends; without its vhost-user
    /// netdev the NIC has QEMU fail an assertion.
    pub(crate) fn closes_after_unplug(&self) -> bool {
        matches!(self.backend, Backend::Vdpa(_) | Backend::VhostUser(_))
    }
}

/// The host's side of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// A new tap as a port of this bridge.
    Bridge(IfName),
    /// An existing link of this name: a persistent tap or a macvtap, told apart when it is opened.
    Tap(IfName),
    /// A new tap that is no bridge's port: its frames are routed, or go where a program puts it.
    NewTap,
    /// A new macvtap.
    Macvtap {
        /// The link it is created over.
        lower: IfName,
        /// The mode: how it communicates with other macvtaps on the same link.
        mode: MacvtapMode,
    },
    /// A vDPA device.
    Vdpa(VdpaNode),
    /// A vhost-user backend: a process that listens on this socket.
    VhostUser(SocketPath),
}

impl Backend {
    /// Whether vhost-net is opened beside it if the SPEC has no `vhost=`.
    pub(crate) fn default_vhost(&self, model: &Model) -> Vhost {
        match self {
            Self::Vdpa(_) | Self::VhostUser(_) => Vhost::Off,
            _ if model.can_vhost() => Vhost::Auto,
            _ => Vhost::Off,
        }
    }
}

/// The node of a vDPA device, `/dev/vhost-vdpa-N`. Records and releases know the device by this
/// path, so no other is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VdpaNode(IfName);

impl VdpaNode {
    const DIRECTORY: &str = "/dev/";

    /// The node of this path; `None` for another path.
    pub fn new(path: &str) -> Option<Self> {
        let name = path.strip_prefix(Self::DIRECTORY)?;
        let number = name.strip_prefix("vhost-vdpa-")?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        name.parse().ok().filter(|_| is_number).map(Self)
    }

    /// Its name in `/dev`, which stands for the device where other interfaces have a link.
    pub(crate) fn name(&self) -> &IfName {
        &self.0
    }

    /// The path.
    pub fn path(&self) -> PathBuf {
        Path::new(Self::DIRECTORY).join(self.0.as_str())
    }
}

impl fmt::Display for VdpaNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::DIRECTORY, self.0)
    }
}

/// The path of a Unix socket, as connect(2) takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPath {
    path: String,
    name: IfName,
}

impl SocketPath {
    /// Bytes of `sun_path` (unix(7)), the last of which is NUL.
    pub const LIMIT: usize = 107;

    /// This path; `None` if it is relative or too long.
    pub fn new(path: &str) -> Option<Self> {
        if !path.starts_with('/') || path.len() > Self::LIMIT {
            return None;
        }
        let name = path.rsplit('/').next().and_then(|name| name.parse().ok());
        let name = name.or_else(|| "vhost-user".parse().ok())?;
        Some(Self { path: path.to_owned(), name })
    }

    /// What stands for the backend where other interfaces have a link: the socket's own name, if a link
    /// could have it.
    pub(crate) fn name(&self) -> &IfName {
        &self.name
    }

    /// The path.
    pub fn path(&self) -> &Path {
        Path::new(&self.path)
    }

    /// The path, as text.
    pub fn as_str(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.path)
    }
}

/// Whether vhost-net carries the queues in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vhost {
    /// Required: the start fails without the device.
    On,
    /// The device is not opened.
    Off,
    /// Used if the device can be opened.
    Auto,
}

impl Vhost {
    /// The setting as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Auto => "auto",
        }
    }
}

/// A random address in QEMU's and KVM's range `52:54:00`.
///
/// One of 2²⁴: the caller has to check whether it is in use, and to retry.
///
/// # Errors
/// When getrandom(2) fails; in practice only where a seccomp filter refuses it.
pub fn random_mac() -> io::Result<MacAddr> {
    let mut tail = [0; 3];
    // Never short: getrandom(2) fills up to 256 bytes whole.
    rustix::rand::getrandom(&mut tail, rustix::rand::GetRandomFlags::empty())?;
    Ok(MacAddr::kvm(tail))
}
