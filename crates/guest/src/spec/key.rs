use std::fmt;
use std::str::FromStr;

use super::{Property, Setting};

/// A key of a SPEC. The order is the canonical one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is described with its field of NicSpec")]
pub enum Key {
    Bridge,
    Tap,
    NewTap,
    Macvtap,
    Vdpa,
    VhostUser,
    Mode,
    Mac,
    Model,
    Queues,
    Vhost,
    Mtu,
    Ifname,
    Filter,
    Ip,
    Ipv6,
    Dhcpserver,
    GatewayMac,
    FilterParameter,
    IpLearning,
    Isolated,
    Vlan,
    Id,
    TunPath,
    VhostPath,
    LinkState,
    SendBuffer,
    Trunk,
    VlanMode,
    Ovs,
    OvsProfile,
    RxFrames,
    Inbound,
    Outbound,
    HostIp,
    HostRoute,
    Script,
    Downscript,
    /// A property of QEMU's device.
    Device(Property),
}

impl Key {
    /// How many keys there are.
    pub(super) const COUNT: usize = Self::OWN.len() + Property::COUNT;

    /// Every key, in canonical order.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::OWN.into_iter().chain(Property::all().map(Self::Device))
    }

    /// The place in the canonical order.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Device(property) => Self::OWN.len() + property.index(),
            own => Self::OWN.iter().position(|key| *key == own).unwrap_or_default(),
        }
    }

    /// Those that are no property of QEMU's device.
    pub(super) const OWN: [Self; 38] = [
        Self::Bridge,
        Self::Tap,
        Self::NewTap,
        Self::Macvtap,
        Self::Vdpa,
        Self::VhostUser,
        Self::Mode,
        Self::Mac,
        Self::Model,
        Self::Queues,
        Self::Vhost,
        Self::Mtu,
        Self::Ifname,
        Self::Filter,
        Self::Ip,
        Self::Ipv6,
        Self::Dhcpserver,
        Self::GatewayMac,
        Self::FilterParameter,
        Self::IpLearning,
        Self::Isolated,
        Self::Vlan,
        Self::Id,
        Self::TunPath,
        Self::VhostPath,
        Self::LinkState,
        Self::SendBuffer,
        Self::Trunk,
        Self::VlanMode,
        Self::Ovs,
        Self::OvsProfile,
        Self::RxFrames,
        Self::Inbound,
        Self::Outbound,
        Self::HostIp,
        Self::HostRoute,
        Self::Script,
        Self::Downscript,
    ];

    /// Those that may be given several times: filters, and the values of their variables.
    pub(super) const REPEATED: [Self; 6] =
        [Self::Filter, Self::Ip, Self::Ipv6, Self::Dhcpserver, Self::GatewayMac, Self::FilterParameter];

    /// Whether it may be given several times.
    pub fn can_repeat(self) -> bool {
        Self::REPEATED.contains(&self)
    }

    /// Whether it can change while the guest runs.
    pub fn can_change(self) -> bool {
        self.setting().is_ok()
    }

    /// What is set again when it changes while the guest runs, or why it can't.
    pub(super) fn setting(self) -> Result<Setting, &'static str> {
        Ok(match self {
            Self::Filter
            | Self::Ip
            | Self::Ipv6
            | Self::Dhcpserver
            | Self::GatewayMac
            | Self::IpLearning
            | Self::FilterParameter => Setting::Filter,
            Self::Bridge | Self::Isolated | Self::Vlan | Self::Trunk | Self::VlanMode => Setting::Port,
            Self::LinkState => Setting::Carrier,
            Self::Mtu => Setting::Mtu,
            Self::RxFrames => Setting::RxFrames,
            Self::Inbound | Self::Outbound => Setting::Bandwidth,
            Self::Tap | Self::NewTap | Self::Macvtap | Self::Vdpa | Self::VhostUser | Self::Mode => {
                return Err("its devices would have to be opened again");
            }
            Self::Queues | Self::Vhost | Self::TunPath | Self::VhostPath => {
                return Err("its devices would have to be opened again");
            }
            Self::Mac | Self::Model | Self::Id | Self::Device(_) => {
                return Err("QEMU takes it when the NIC is plugged");
            }
            Self::SendBuffer => return Err("QEMU takes it with the tap"),
            Self::Ifname => return Err("records have the interface by it"),
            Self::Ovs | Self::OvsProfile => return Err("a controller of Open vSwitch knows the port by it"),
            Self::HostIp | Self::HostRoute | Self::Script | Self::Downscript => {
                return Err("it is done when the link is made, and taken back with it");
            }
        })
    }

    /// The key as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Tap => "tap",
            Self::NewTap => "new-tap",
            Self::Macvtap => "macvtap",
            Self::Vdpa => "vdpa",
            Self::VhostUser => "vhostuser",
            Self::Mode => "mode",
            Self::Mac => "mac",
            Self::Model => "model",
            Self::Queues => "queues",
            Self::Vhost => "vhost",
            Self::Mtu => "mtu",
            Self::Ifname => "ifname",
            Self::Filter => "filter",
            Self::Ip => "ip",
            Self::Ipv6 => "ipv6",
            Self::Dhcpserver => "dhcpserver",
            Self::GatewayMac => "gateway-mac",
            Self::FilterParameter => "filter-parameter",
            Self::IpLearning => "ip-learning",
            Self::Isolated => "isolated",
            Self::Vlan => "vlan",
            Self::Id => "id",
            Self::TunPath => "tun-path",
            Self::VhostPath => "vhost-path",
            Self::LinkState => "link",
            Self::SendBuffer => "sndbuf",
            Self::Trunk => "trunk",
            Self::VlanMode => "vlan-mode",
            Self::Ovs => "ovs",
            Self::OvsProfile => "ovs-profile",
            Self::RxFrames => "rx-frames",
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::HostIp => "host-ip",
            Self::HostRoute => "host-route",
            Self::Script => "script",
            Self::Downscript => "downscript",
            Self::Device(property) => property.as_str(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::all().find(|key| key.as_str() == text).ok_or(())
    }
}

/// The one of `candidates` that was probably meant by `word`.
pub(crate) fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Far longer than any candidate: nothing to compare, and the distance is quadratic.
    if word.len() > 64 {
        return None;
    }
    let word = word.trim().to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| {
            // One slip in three characters, and never every character.
            let length = candidate.len().max(word.len());
            *distance <= (length / 3).max(1) && *distance < candidate.len()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back() {
        for key in Key::all() {
            assert_eq!(key.as_str().parse(), Ok(key));
        }
        assert!(Key::all().is_sorted());
        assert!(Key::all().map(Key::index).eq(0..Key::COUNT));
    }

    #[test]
    fn a_slip_finds_its_key_and_noise_finds_none() {
        let keys = || Key::all().map(Key::as_str);
        for (word, key) in [
            ("brige", "bridge"),
            ("MAC", "mac"),
            (" mac", "mac"),
            ("tunpath", "tun-path"),
            ("ifnmae", "ifname"),
            ("vhostpath", "vhost-path"),
        ] {
            assert_eq!(closest(word, keys()), Some(key), "{word}");
        }
        for word in ["", "x", "firewall", "bandwidth", &"a".repeat(4096)] {
            assert_eq!(closest(word, keys()), None, "{word}");
        }
    }
}
