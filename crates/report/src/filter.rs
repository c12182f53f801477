use std::convert::Infallible;
use std::str::FromStr;

use jiff::Timestamp;
use taptrail_record::{Device, DeviceKind, IfName, MacAddr, Rdev};
use taptrail_trail::{Finding, FindingKind, Holding, State};
use uuid::Uuid;

use crate::span::Span;

/// What is asked for. All that is set must be so; nothing set asks for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// On this host.
    pub host: Option<String>,
    /// Of the guest of this name.
    pub guest: Option<String>,
    /// Of the guest of this uuid.
    pub uuid: Option<Uuid>,
    /// Of this interface.
    pub mac: Option<MacAddr>,
    /// Of such a device.
    pub device: Option<DeviceFilter>,
    /// Not over before.
    pub start: Option<Timestamp>,
    /// Begun before, this time itself excluded.
    pub end: Option<Timestamp>,
    /// Held by QEMU at this time.
    pub at: Option<Timestamp>,
    /// Held by QEMU as the trail ends.
    pub held: bool,
    /// Held by QEMU at any time.
    pub granted: bool,
    /// Findings of one of these kinds; of all when empty.
    pub kinds: Vec<FindingKind>,
}

impl Filter {
    /// Whether a holding is asked for.
    pub fn keeps_holding(&self, holding: &Holding) -> bool {
        let had = matches!(holding.state, State::Held | State::Released);
        self.is_about(&holding.host, Some((&holding.guest.name, holding.guest.uuid)), Some(holding.mac))
            && self.device.as_ref().is_none_or(|device| device.matches(&holding.device))
            && self.is_within(Span::of(holding))
            && self.at.is_none_or(|at| Span::held(holding).is_some_and(|span| span.contains(at)))
            && (!self.held || holding.state == State::Held)
            && (!self.granted || had)
    }

    /// Whether a finding is asked for. One that names no guest, interface or device is about none.
    pub fn keeps_finding(&self, finding: &Finding) -> bool {
        let guest = finding.guest.as_ref().map(|guest| (guest.name.as_str(), guest.uuid));
        let device = |asked: &DeviceFilter| finding.device.as_ref().is_some_and(|told| asked.matches(told));
        self.is_about(&finding.host, guest, finding.mac)
            && self.device.as_ref().is_none_or(device)
            && self.is_within(Span { from: finding.time, to: finding.time })
            && (self.kinds.is_empty() || self.kinds.contains(&finding.kind))
    }

    /// Whether it depends on the holdings which findings are asked for: those that concern them.
    pub(crate) fn follows_holdings(&self) -> bool {
        self.at.is_some() || self.held || self.granted
    }

    fn is_about(&self, host: &str, guest: Option<(&str, Uuid)>, mac: Option<MacAddr>) -> bool {
        self.host.as_ref().is_none_or(|asked| asked == host)
            && self.guest.as_ref().is_none_or(|asked| guest.is_some_and(|(name, _)| asked == name))
            && self.uuid.is_none_or(|asked| guest.is_some_and(|(_, uuid)| asked == uuid))
            && self.mac.is_none_or(|asked| mac == Some(asked))
    }

    fn is_within(&self, span: Span) -> bool {
        self.start.is_none_or(|start| span.to >= start) && self.end.is_none_or(|end| span.from < end)
    }
}

/// Devices that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceFilter {
    /// Of this kind.
    Kind(DeviceKind),
    /// Opened by this path.
    Path(String),
    /// With this number.
    Number(Rdev),
    /// With this host's interface behind it.
    Interface(IfName),
}

impl DeviceFilter {
    /// Whether this device is asked for.
    pub fn matches(&self, device: &Device) -> bool {
        match self {
            Self::Kind(kind) => device.kind == *kind,
            Self::Path(path) => device.path == *path,
            Self::Number(number) => device.rdev == Some(*number),
            // libvirt's records have a macvtap's interface for its path.
            Self::Interface(name) => {
                device.dev.as_deref() == Some(name.as_str()) || device.path == name.as_str()
            }
        }
    }
}

/// The text names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' names no device: a path (/dev/tap7), an interface (vnet0), a number (0A:C8), tun, macvtap or \
     vhost-net is needed"
)]
pub struct DeviceFilterError(String);

impl FromStr for DeviceFilter {
    type Err = DeviceFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kinds = [DeviceKind::Tun, DeviceKind::Macvtap, DeviceKind::VhostNet];
        if let Some(kind) = kinds.into_iter().find(|kind| kind.as_str() == text) {
            Ok(Self::Kind(kind))
        } else if text.starts_with('/') {
            Ok(Self::Path(text.to_owned()))
        } else if let Ok(number) = text.parse() {
            Ok(Self::Number(number))
        } else if let Ok(name) = text.parse() {
            Ok(Self::Interface(name))
        } else {
            Err(DeviceFilterError(text.chars().take(64).collect()))
        }
    }
}

/// Whom or what a question is about, as it was asked: an interface, or else a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The interface with this MAC, of whatever guest.
    Interface(MacAddr),
    /// The guest of this uuid.
    Uuid(Uuid),
    /// The guests of this name.
    Name(String),
}

impl FromStr for Subject {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if let Ok(mac) = text.parse() {
            Self::Interface(mac)
        } else if let Ok(uuid) = text.parse() {
            Self::Uuid(uuid)
        } else {
            Self::Name(text.to_owned())
        })
    }
}

impl Subject {
    /// Narrows a filter to this subject.
    pub fn narrow(self, filter: Filter) -> Filter {
        match self {
            Self::Interface(mac) => Filter { mac: Some(mac), ..filter },
            Self::Uuid(uuid) => Filter { uuid: Some(uuid), ..filter },
            Self::Name(name) => Filter { guest: Some(name), ..filter },
        }
    }
}
