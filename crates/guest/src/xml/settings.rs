//! Elements that an `<interface>`, a `<portgroup>` and a `<network>` have alike: VLANs, bandwidth and
//! the virtual port.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use roxmltree::Attribute;

use super::element::{Element, choose};
use super::error::{Fault, XmlProblem};
use crate::spec::{Given, Key, quoted};

/// A key of a SPEC with its value, and where both stand in the text.
#[derive(Debug, Clone)]
pub(super) struct Setting<'d> {
    pub(super) key: Key,
    pub(super) given: Given<'d>,
}

impl<'d> Setting<'d> {
    /// The value of an attribute, or what it means.
    pub(super) fn new(key: Key, at: Attribute<'d, 'd>, value: impl Into<Cow<'d, str>>) -> Self {
        let (key_span, value_span) = (at.range(), at.range_value());
        Self { key, given: Given { key_span, value_span, value: value.into() } }
    }

    fn of_element(key: Key, at: Element<'d>, value: String) -> Self {
        Self { key, given: Given { key_span: at.span(), value_span: at.span(), value: value.into() } }
    }
}

/// What a network's definition has for its interfaces, or one of its port groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) vlans: Vec<(Key, String)>,
    pub(super) bandwidth: Vec<(Key, String)>,
    pub(super) port: VirtualPort,
    pub(super) isolated: bool,
}

impl Shared {
    /// What the definition's own elements say. A network's bandwidth is its bridge's, not that of
    /// each of its interfaces.
    pub(super) fn read(element: Element<'_>) -> Result<Self, Fault> {
        let owned = |all: Vec<Setting<'_>>| {
            all.into_iter().map(|setting| (setting.key, setting.given.value.into_owned())).collect()
        };
        let bandwidth = match element.name() {
            "portgroup" => owned(bandwidth(element)?),
            _ => Vec::new(),
        };
        let isolated = match element.child("port") {
            Some(port) => port.attribute("isolated")?.is_some_and(|isolated| isolated.value() == "yes"),
            None => false,
        };
        Ok(Self { vlans: owned(vlans(element)?), bandwidth, port: VirtualPort::read(element)?, isolated })
    }
}

/// `<virtualport>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct VirtualPort {
    pub(super) kind: Option<String>,
    pub(super) interface_id: Option<String>,
    pub(super) profile: Option<String>,
}

impl VirtualPort {
    /// What it has to say; nothing, where there is none.
    pub(super) fn read(parent: Element<'_>) -> Result<Self, Fault> {
        let Some(port) = parent.child("virtualport") else { return Ok(Self::default()) };
        port.takes(&["type"], &["parameters"])?;
        let text = |attribute: Option<Attribute<'_, '_>>| attribute.map(|it| it.value().to_owned());
        let mut read = Self { kind: text(port.attribute("type")?), ..Self::default() };
        if let Some(parameters) = port.child("parameters") {
            parameters.takes(
                &["interfaceid", "profileid", "managerid", "typeid", "typeidversion", "instanceid"],
                &[],
            )?;
            read.interface_id = text(parameters.attribute("interfaceid")?);
            read.profile = text(parameters.text_of("profileid"));
        }
        Ok(read)
    }

    /// This one's, where it says something, and the other's.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            kind: self.kind.or(other.kind),
            interface_id: self.interface_id.or(other.interface_id),
            profile: self.profile.or(other.profile),
        }
    }

    /// The keys of a port of Open vSwitch; why it can't be one, if it is another's.
    pub(super) fn keys(&self) -> Result<Vec<(Key, String)>, NoPort> {
        const AS_A_TAP: &str = "'ethernet', and name it by <target dev='…' managed='no'/>";
        let no_port = |reason, help: String| Err(NoPort { reason, help });
        match self.kind.as_deref() {
            Some("openvswitch") => {
                let id = self.interface_id.clone().unwrap_or_else(|| "on".to_owned());
                let profile = self.profile.clone().map(|profile| (Key::OvsProfile, profile));
                Ok(std::iter::once((Key::Ovs, id)).chain(profile).collect())
            }
            Some("802.1Qbg") => no_port(
                "the switch has to associate the port, which lldpad negotiates for libvirt",
                format!(
                    "have lldpad associate a macvtap that is there, make this interface's type {AS_A_TAP}"
                ),
            ),
            Some("802.1Qbh") => no_port(
                "the switch has to associate the port, which libvirt asks of the network card's driver",
                format!("associate a macvtap that is there, make this interface's type {AS_A_TAP}"),
            ),
            Some("midonet") => no_port(
                "MidoNet's own program has to bind the port",
                format!("bind a tap that is there by mm-ctl, make this interface's type {AS_A_TAP}"),
            ),
            Some(_) => no_port("openvswitch is needed", "leave it out for a bridge of Linux".to_owned()),
            None => no_port(
                "it has no type, and no definition of its network says one",
                "give type='openvswitch' for a bridge of Open vSwitch; leave it out for one of Linux"
                    .to_owned(),
            ),
        }
    }
}

/// Why a virtual port is not taken, and what to use.
#[derive(Debug)]
pub(super) struct NoPort {
    pub(super) reason: &'static str,
    pub(super) help: String,
}

/// `<vlan>`: one tag, which the guest does not see; or a trunk of several.
pub(super) fn vlans<'d>(parent: Element<'d>) -> Result<Vec<Setting<'d>>, Fault> {
    let Some(vlan) = parent.child("vlan") else { return Ok(Vec::new()) };
    vlan.takes_repeated(&["trunk"], &[], &["tag"])?;
    let first = vlan.needs_child("tag")?;
    let tags: Vec<Element<'d>> = vlan.children("tag").collect();
    for tag in &tags {
        tag.takes(&["id", "nativeMode"], &[])?;
    }
    let trunk = match vlan.attribute("trunk")? {
        Some(trunk) => Some((trunk, choose(trunk, &[("yes", true), ("no", false)])?)),
        None => None,
    };
    let native = tags.iter().find_map(|tag| Some((*tag, tag.text_of("nativeMode")?)));
    // As in libvirt: several tags, or a native one, are a trunk.
    let is_trunk = trunk.is_some_and(|(_, yes)| yes) || tags.len() > 1 || native.is_some();
    if let Some((attribute, false)) = trunk
        && is_trunk
    {
        let what = format!("{}='no' with several tags", attribute.name());
        let reason = "they are a trunk";
        return Err(Fault::new(attribute.range(), XmlProblem::Unsupported { what, reason }));
    }
    if !is_trunk {
        let id = first.needs("id")?;
        return Ok(vec![Setting::new(Key::Vlan, id, id.value())]);
    }
    let mut settings = Vec::new();
    if let Some((tag, mode)) = native {
        let id = tag.needs("id")?;
        settings.push(Setting::new(Key::Vlan, id, id.value()));
        let word = choose(mode, &[("tagged", "tagged"), ("untagged", "untagged")])?;
        settings.push(Setting::new(Key::VlanMode, mode, word));
    }
    let ids = tags.iter().map(|tag| digits(tag.needs("id")?)).collect::<Result<Vec<_>, Fault>>()?;
    settings.push(Setting::new(Key::Trunk, first.needs("id")?, ids.join("+")));
    Ok(settings)
}

/// The value of an attribute that has to be a number: a part of a value with several.
fn digits<'d>(attribute: Attribute<'d, 'd>) -> Result<&'d str, Fault> {
    let text = attribute.value();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text);
    }
    Err(unsuitable(attribute, "a number is needed"))
}

fn unsuitable(attribute: Attribute<'_, '_>, reason: &'static str) -> Fault {
    let what = format!("{}='{}'", attribute.name(), quoted(attribute.value()));
    Fault::new(attribute.range_value(), XmlProblem::Unsupported { what, reason })
}

/// `<bandwidth>`.
pub(super) fn bandwidth<'d>(parent: Element<'d>) -> Result<Vec<Setting<'d>>, Fault> {
    let Some(bandwidth) = parent.child("bandwidth") else { return Ok(Vec::new()) };
    bandwidth.takes(&[], &["inbound", "outbound"])?;
    let mut settings = Vec::new();
    for (name, key) in [("inbound", Key::Inbound), ("outbound", Key::Outbound)] {
        let Some(limit) = bandwidth.child(name) else { continue };
        limit.takes(&["average", "peak", "burst", "floor"], &[])?;
        if let Some(floor) = limit.attribute("floor")? {
            let what = "A bandwidth's 'floor'".to_owned();
            let reason = "it is a share of the network's bridge, which libvirt's network daemon divides";
            let fault = Fault::new(floor.range(), XmlProblem::Unsupported { what, reason });
            return Err(fault.help("limit the bridge's other interfaces: give theirs an 'average'"));
        }
        let parts = ["peak", "burst"].map(|name| limit.text_of(name));
        if limit.text_of("average").is_none() && parts.iter().all(Option::is_none) {
            continue;
        }
        let average = limit.needs("average")?;
        let mut text = digits(average)?.to_owned();
        for part in parts {
            text.push(':');
            text.push_str(part.map_or(Ok(""), digits)?);
        }
        settings.push(Setting::new(key, average, text.trim_end_matches(':').to_owned()));
    }
    Ok(settings)
}

/// `<source>` of a tap without a bridge: addresses and routes of the host's side.
pub(super) fn addresses<'d>(source: Element<'d>) -> Result<Vec<Setting<'d>>, Fault> {
    let mut settings = Vec::new();
    let mut all = Vec::new();
    for ip in source.children("ip") {
        ip.takes(&["address", "family", "prefix", "peer"], &[])?;
        let address = address(ip, ip.needs("address")?)?;
        let peer = match ip.attribute("peer")? {
            Some(peer) => format!("@{}", self::address(ip, peer)?),
            None => String::new(),
        };
        let prefix = ip
            .text_of("prefix")
            .map_or_else(|| Ok(default_prefix(address)), |prefix| digits(prefix).map(str::to_owned))?;
        all.push(format!("{address}{peer}/{prefix}"));
    }
    if let Some(first) = source.children("ip").next() {
        settings.push(Setting::of_element(Key::HostIp, first, all.join("+")));
    }
    let mut all = Vec::new();
    for route in source.children("route") {
        route.takes(&["family", "address", "prefix", "netmask", "gateway", "metric"], &[])?;
        let network = address(route, route.needs("address")?)?;
        let prefix = match (route.text_of("prefix"), route.text_of("netmask")) {
            (Some(prefix), _) => digits(prefix)?.to_owned(),
            (None, Some(mask)) => {
                let bits = mask.value().parse().map(|mask: Ipv4Addr| u32::from(mask));
                let bits = bits.ok().filter(|bits| bits.leading_ones() + bits.trailing_zeros() >= 32);
                bits.ok_or_else(|| unsuitable(mask, "a netmask is needed"))?.leading_ones().to_string()
            }
            (None, None) => default_prefix(network),
        };
        let gateway = match route.attribute("gateway")? {
            Some(gateway) => format!("@{}", address(route, gateway)?),
            None => String::new(),
        };
        let metric = match route.attribute("metric")? {
            Some(metric) => format!("@{}", digits(metric)?),
            None => String::new(),
        };
        all.push(format!("{network}/{prefix}{gateway}{metric}"));
    }
    if let Some(first) = source.children("route").next() {
        settings.push(Setting::of_element(Key::HostRoute, first, all.join("+")));
    }
    Ok(settings)
}

/// An address of the element's family, which is IPv4 unless it says otherwise.
fn address(element: Element<'_>, attribute: Attribute<'_, '_>) -> Result<IpAddr, Fault> {
    let is_v6 = match element.text_of("family") {
        Some(family) => choose(family, &[("ipv4", false), ("ipv6", true)])?,
        None => false,
    };
    let address = attribute.value().parse().ok().filter(|address: &IpAddr| address.is_ipv6() == is_v6);
    let needed = if is_v6 { "an IPv6 address is needed" } else { "an IPv4 address is needed" };
    address.ok_or_else(|| unsuitable(attribute, needed))
}

/// libvirt's default for the length of a prefix: that of the address's class; 64 for IPv6.
fn default_prefix(address: IpAddr) -> String {
    let length: u8 = match address {
        address if address.is_unspecified() => 0,
        IpAddr::V6(_) => 64,
        IpAddr::V4(address) => match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            192..=223 => 24,
            _ => 32,
        },
    };
    length.to_string()
}
