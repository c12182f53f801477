//! The host's link behind an interface, and by what it is known again.

use taptrail_kernel::link::Link;
use taptrail_record::{GuestId, IfName, MacAddr};
use uuid::Uuid;

/// The first word of our marks.
const MARK: &str = "taptrail";

/// A link behind an interface of a guest.
///
/// Numbers and names are given again: another link may have both by the time that this one is to be deleted. A link
/// that we made carries our mark as its alias, which it keeps when it is renamed or moved; only with that is it ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostLink {
    kind: LinkKind,
    name: IfName,
    index: u32,
    /// None of one that somebody else made.
    mark: Option<String>,
}

/// What kind of link it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkKind {
    Tap,
    Macvtap,
}

/// What the kernel says of a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TapState {
    /// There is no such link.
    Gone,
    /// No open file is attached to it.
    Idle,
    /// Open files are, whoever holds them: so many, where the kernel counts them.
    Attached(Option<u32>),
}

/// The alias of a link that was made for a guest's interface.
pub(crate) fn mark(guest: &GuestId, mac: MacAddr) -> String {
    format!("{MARK} {} {mac}", guest.uuid)
}

/// The guest's uuid and the interface's MAC in a mark.
pub(crate) fn read_mark(alias: &str) -> Option<(Uuid, MacAddr)> {
    let (uuid, mac) = alias.strip_prefix(MARK)?.strip_prefix(' ')?.split_once(' ')?;
    Some((uuid.parse().ok()?, mac.parse().ok()?))
}

/// Whether a link with this alias was made for some guest's interface.
pub(crate) fn is_mark(alias: &str) -> bool {
    alias.split(' ').next() == Some(MARK)
}

impl LinkKind {
    /// The kernel's word.
    fn as_str(self) -> &'static str {
        match self {
            Self::Tap => "tun",
            Self::Macvtap => "macvtap",
        }
    }
}

impl HostLink {
    /// One that we made.
    pub(crate) fn made(kind: LinkKind, name: IfName, index: u32, mark: String) -> Self {
        Self { kind, name, index, mark: Some(mark) }
    }

    /// One that was there.
    pub(crate) fn found(kind: LinkKind, name: IfName, index: u32) -> Self {
        Self { kind, name, index, mark: None }
    }

    /// A link as the kernel describes it; none of another kind.
    pub(crate) fn new(link: &Link, mark: Option<String>) -> Option<Self> {
        let kind = [LinkKind::Tap, LinkKind::Macvtap]
            .into_iter()
            .find(|kind| link.kind.as_deref() == Some(kind.as_str()))?;
        Some(Self { kind, name: link.name.parse().ok()?, index: link.index, mark })
    }

    /// The name that it had when we met it.
    pub(crate) fn name(&self) -> &IfName {
        &self.name
    }

    /// Its number in our network namespace.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }

    /// Whether we made it, and are to delete it.
    pub(crate) fn is_ours(&self) -> bool {
        self.mark.is_some()
    }

    pub(crate) fn kind(&self) -> LinkKind {
        self.kind
    }

    /// It has been renamed.
    pub(crate) fn is_called(&mut self, name: IfName) {
        self.name = name;
    }

    pub(crate) fn is_tap(&self) -> bool {
        self.kind == LinkKind::Tap
    }

    pub(crate) fn is_own_tap(&self) -> bool {
        self.is_tap() && self.is_ours()
    }

    pub(crate) fn is_own_macvtap(&self) -> bool {
        self.kind == LinkKind::Macvtap && self.is_ours()
    }

    /// Whether what has its number now is this link.
    pub(crate) fn is(&self, found: &Link) -> bool {
        let kind = found.kind.as_deref() == Some(self.kind.as_str());
        kind && self.mark.as_ref().is_none_or(|mark| found.alias.as_ref() == Some(mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: &str, alias: Option<&str>) -> Link {
        Link {
            index: 7,
            name: "vnet0".to_owned(),
            alias: alias.map(str::to_owned),
            kind: Some(kind.to_owned()),
            mac: None,
            mtu: 1500,
            up: true,
            master: None,
            lower: None,
            tun: None,
            vlan_filtering: None,
        }
    }

    #[test]
    fn a_link_of_ours_is_known_by_its_mark_and_never_by_its_number_alone() {
        let guest = GuestId { name: "web1".into(), uuid: uuid::Uuid::from_u128(7) };
        let mark = mark(&guest, MacAddr::kvm([0, 0, 1]));
        let ours = HostLink::made(LinkKind::Tap, "vnet0".parse().unwrap(), 7, mark.clone());
        assert!(ours.is(&link("tun", Some(&mark))));
        for other in [link("tun", None), link("tun", Some("web1")), link("macvtap", Some(&mark))] {
            assert!(!ours.is(&other), "{other:?}");
        }
        let theirs = HostLink::found(LinkKind::Tap, "vnet0".parse().unwrap(), 7);
        assert!(theirs.is(&link("tun", Some("anything"))) && !theirs.is(&link("bridge", None)));
        assert!(!theirs.is_ours() && ours.is_ours());
        assert_eq!(read_mark(&mark), Some((guest.uuid, MacAddr::kvm([0, 0, 1]))));
        assert_eq!(read_mark("taptrail web1"), None);
        assert_eq!(HostLink::new(&link("bridge", None), None), None);
    }
}
