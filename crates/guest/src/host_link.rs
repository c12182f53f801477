//! The host's link behind an interface, and how it is identified.

use taptrail_kernel::filter::{Attachment, InterfaceFilter, Rules};
use taptrail_kernel::link::{Link, PlacedLink, TunInfo};
use taptrail_record::{GuestId, IfName, MacAddr};
use uuid::Uuid;

/// The first word of our marks.
const MARK: &str = "taptrail";

/// A link behind an interface of a guest.
///
/// Indexes and names are reused: another link may have both by the time this one is to be deleted.
/// A link that we made has our mark as its alias, and keeps it when it is renamed or moved.
/// Somebody may overwrite the alias: then the link is identified by its index, kind and MAC
/// together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostLink {
    kind: LinkKind,
    name: IfName,
    index: u32,
    /// `None` for a link that we did not make.
    mark: Option<String>,
    /// The MAC of a link that we made.
    mac: Option<MacAddr>,
    /// The properties of an existing tap when it was opened.
    tun: Option<TunInfo>,
}

/// How well a link matches the one in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkMatch {
    /// It is that link, with its mark if we made it.
    Same,
    /// It is that link, and somebody gave it another alias.
    Unmarked,
    /// It has the same index and kind; nothing else shows whether it is that link.
    Unclear,
    /// It is another link.
    Other,
}

/// Where a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkLocation {
    /// The link exists, in this place.
    Found(PlacedLink),
    /// It was deleted.
    Gone,
    /// It can't be found, and nothing shows that it was deleted.
    Unknown,
}

impl LinkLocation {
    pub(crate) fn found(self) -> Option<PlacedLink> {
        match self {
            Self::Found(placed) => Some(placed),
            Self::Gone | Self::Unknown => None,
        }
    }
}

/// The kind of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkKind {
    Tap,
    /// An existing ipvtap, too, which differs only in how its frames are told apart.
    Macvtap,
}

impl LinkKind {
    /// How filters are attached to it.
    pub(crate) fn attachment(self) -> Attachment {
        match self {
            Self::Tap => Attachment::Tap,
            Self::Macvtap => Attachment::Macvtap,
        }
    }
}

/// The state of a tap, by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TapState {
    /// There is no such link.
    Gone,
    /// No open file is attached to it.
    Idle,
    /// Open files are attached, whoever holds them: this many, where the kernel counts them.
    Attached(Option<u32>),
    /// It can't be found, and nothing shows that it was deleted.
    Unknown,
}

/// The alias of a link that was made for a guest's interface.
pub(crate) fn mark(guest: &GuestId, mac: MacAddr) -> String {
    format!("{MARK} {} {mac}", guest.uuid)
}

/// The guest's uuid and the interface's MAC in a mark.
pub fn read_mark(alias: &str) -> Option<(Uuid, MacAddr)> {
    let (uuid, mac) = alias.strip_prefix(MARK)?.strip_prefix(' ')?.split_once(' ')?;
    Some((uuid.parse().ok()?, mac.parse().ok()?))
}

/// Whether a link with this alias was made for some guest's interface.
pub(crate) fn is_mark(alias: &str) -> bool {
    alias.split(' ').next() == Some(MARK)
}

impl LinkKind {
    /// The kind of a link; `None` for a link that is no guest's device.
    pub(crate) fn of(link: &Link) -> Option<Self> {
        match link.kind.as_deref()? {
            "tun" => Some(Self::Tap),
            "macvtap" | "ipvtap" => Some(Self::Macvtap),
            _ => None,
        }
    }
}

impl HostLink {
    /// A link that we made.
    pub(crate) fn made(kind: LinkKind, name: IfName, index: u32, mark: String, mac: MacAddr) -> Self {
        Self { kind, name, index, mark: Some(mark), mac: Some(mac), tun: None }
    }

    /// A link that existed before.
    pub(crate) fn found(kind: LinkKind, name: IfName, index: u32, tun: Option<TunInfo>) -> Self {
        Self { kind, name, index, mark: None, mac: None, tun }
    }

    /// The filter of its interface, with these rules.
    pub(crate) fn filter(&self, rules: Rules) -> InterfaceFilter {
        let (ifindex, ifname) = (self.index, self.name.clone());
        InterfaceFilter { ifindex, ifname, attachment: self.kind.attachment(), rules: rules.into() }
    }

    /// A link as the kernel describes it; `None` for links of other kinds.
    pub(crate) fn new(link: &Link, mark: Option<String>) -> Option<Self> {
        let kind = LinkKind::of(link)?;
        let mac = link.mac.filter(|_| mark.is_some());
        Some(Self { kind, name: link.name.parse().ok()?, index: link.index, mark, mac, tun: None })
    }

    /// The name that was last seen.
    pub(crate) fn name(&self) -> &IfName {
        &self.name
    }

    /// Its index in our network namespace.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }

    /// Whether we made it, and so delete it.
    pub(crate) fn is_ours(&self) -> bool {
        self.mark.is_some()
    }

    pub(crate) fn kind(&self) -> LinkKind {
        self.kind
    }

    /// Stores the new name of a renamed link.
    pub(crate) fn set_name(&mut self, name: IfName) {
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

    /// The properties of an existing tap that have changed since it was opened: its holder can
    /// change them (`TUNSETPERSIST` and the like). `now` is `None` if the tap is gone.
    pub(crate) fn changed(&self, now: Option<&Link>) -> Vec<&'static str> {
        let Some(before) = &self.tun else { return Vec::new() };
        let Some(now) = now.and_then(|link| link.tun) else { return vec!["there"] };
        let kept = [
            (before.persistent == now.persistent, "persistent"),
            (before.owner == now.owner, "its owner's"),
            (before.group == now.group, "its group's"),
        ];
        kept.into_iter().filter(|(kept, _)| !kept).map(|(_, what)| what).collect()
    }

    /// Whether the link that has this index now is this link.
    pub(crate) fn compare(&self, found: &Link) -> LinkMatch {
        if LinkKind::of(found) != Some(self.kind) {
            return LinkMatch::Other;
        }
        match (&self.mark, &found.alias) {
            (None, _) => LinkMatch::Same,
            (Some(mark), Some(alias)) if mark == alias => LinkMatch::Same,
            (Some(_), Some(alias)) if is_mark(alias) => LinkMatch::Other,
            (Some(_), _) if self.mac.is_some() && self.mac == found.mac => LinkMatch::Unmarked,
            (Some(_), _) => LinkMatch::Unclear,
        }
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
            isolated: false,
        }
    }

    #[test]
    fn a_link_of_ours_is_known_by_its_mark_or_its_mac_and_never_by_its_number_alone() {
        let guest = GuestId { name: "web1".into(), uuid: uuid::Uuid::from_u128(7) };
        let mac = MacAddr::kvm([0, 0, 1]);
        let mark = mark(&guest, mac);
        let name = || "vnet0".parse().unwrap();
        let ours = HostLink::made(LinkKind::Tap, name(), 7, mark.clone(), mac.host_side());
        let with_mac = |alias: Option<&str>, mac| Link { mac: Some(mac), ..link("tun", alias) };
        for (found, expected) in [
            (link("tun", Some(&mark)), LinkMatch::Same),
            (with_mac(None, mac.host_side()), LinkMatch::Unmarked),
            (with_mac(Some("web1 uplink"), mac.host_side()), LinkMatch::Unmarked),
            (with_mac(Some("web1 uplink"), mac), LinkMatch::Unclear),
            (link("tun", None), LinkMatch::Unclear),
            (with_mac(Some("taptrail another"), mac.host_side()), LinkMatch::Other),
            (link("macvtap", Some(&mark)), LinkMatch::Other),
        ] {
            assert_eq!(ours.compare(&found), expected, "{found:?}");
        }
        let theirs = HostLink::found(LinkKind::Tap, name(), 7, None);
        assert_eq!(theirs.compare(&link("tun", Some("anything"))), LinkMatch::Same);
        assert_eq!(theirs.compare(&link("bridge", None)), LinkMatch::Other);
        assert!(!theirs.is_ours() && ours.is_ours());
        assert_eq!(read_mark(&mark), Some((guest.uuid, mac)));
        assert_eq!(read_mark("taptrail web1"), None);
        assert_eq!(HostLink::new(&link("bridge", None), None), None);
    }
}
