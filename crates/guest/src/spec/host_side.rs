//! Settings of an interface on the host's side: its link's VLANs, limits, addresses and scripts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use taptrail_kernel::link::{HostAddress, HostRoute};
use uuid::Uuid;

use super::Key;
use super::error::{Problem, quoted};
use super::value::{self, number};

/// Between the items of a list.
const BETWEEN: char = '+';

/// What an interface sets on the host's side beside its link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSide {
    /// The guest's NIC has no carrier.
    pub link_down: bool,
    /// Bytes of the tap's socket that may wait to be received; 0: no limit.
    pub send_buffer: Option<u32>,
    /// The VLANs of the port's tagged frames.
    pub trunk: BTreeSet<u16>,
    /// Frames of [`vlan`](super::NicSpec::vlan) reach the guest with a tag, too.
    pub native_tagged: bool,
    /// The bridge is one of Open vSwitch.
    pub ovs: Option<OpenVswitch>,
    /// Frames of the guest that the tap collects before the host gets them.
    pub rx_frames: Option<u32>,
    /// The limit of what the guest receives.
    pub inbound: Option<Limit>,
    /// The limit of what the guest sends.
    pub outbound: Option<Limit>,
    /// The host's addresses on the link.
    pub addresses: Vec<HostAddress>,
    /// The host's routes by way of the link.
    pub routes: Vec<HostRoute>,
    /// The program that configures the link before its device is granted.
    pub script: Option<PathBuf>,
    /// The program that is run when the devices are released.
    pub downscript: Option<PathBuf>,
}

/// A port of Open vSwitch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenVswitch {
    /// The id by which a controller knows the port; `None`: one is made.
    pub interface_id: Option<Uuid>,
    /// The port's profile, for a controller.
    pub profile: Option<String>,
}

/// A limit in one direction, in libvirt's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Thousands of bytes a second.
    pub average: u32,
    /// Thousands of bytes a second, while nothing else has to be sent.
    pub peak: Option<u32>,
    /// KiB that may pass at once.
    pub burst: Option<u32>,
}

fn form(key: Key, text: &str, form: &'static str) -> Problem {
    Problem::Form { key, text: quoted(text), form }
}

fn items<T>(text: &str, read: impl Fn(&str) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
    text.split(BETWEEN).map(read).collect()
}

pub(super) fn list<T>(items: impl IntoIterator<Item = T>, write: impl Fn(T) -> String) -> String {
    items.into_iter().map(write).collect::<Vec<_>>().join(&BETWEEN.to_string())
}

pub(super) fn trunk(text: &str) -> Result<BTreeSet<u16>, Problem> {
    let tag = |text: &str| value::small_number(Key::Trunk, text, 1..=4094);
    Ok(items(text, tag)?.into_iter().collect())
}

/// `on`, or the port's id.
pub(super) fn ovs(text: &str) -> Result<OpenVswitch, Problem> {
    let interface_id = match text {
        "on" => None,
        id => Some(id.parse().map_err(|_| form(Key::Ovs, id, "on, or the port's UUID"))?),
    };
    Ok(OpenVswitch { interface_id, profile: None })
}

pub(super) fn limit(key: Key, text: &str) -> Result<Limit, Problem> {
    let parts: Vec<&str> = text.split(':').collect();
    let whole = || form(key, text, "AVERAGE[:[PEAK][:BURST]]");
    let part = |text: &str| number(key, text, 1..=u32::MAX);
    let optional =
        |index: usize| parts.get(index).filter(|text| !text.is_empty()).map(|text| part(text)).transpose();
    match parts[..] {
        [average] | [average, _] | [average, _, _] => {
            Ok(Limit { average: part(average)?, peak: optional(1)?, burst: optional(2)? })
        }
        _ => Err(whole()),
    }
}

pub(super) fn written_limit(limit: &Limit) -> String {
    let part = |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
    let text = format!("{}:{}:{}", limit.average, part(limit.peak), part(limit.burst));
    text.trim_end_matches(':').to_owned()
}

/// An address and the length of a prefix.
fn network<'t>(key: Key, text: &'t str, needed: &'static str) -> Result<(&'t str, u8), Problem> {
    let (address, prefix) = text.split_once('/').ok_or_else(|| form(key, text, needed))?;
    let prefix = number(key, prefix, 0..=128)?;
    Ok((address, u8::try_from(prefix).unwrap_or(u8::MAX)))
}

/// Addresses of one family, and a prefix that it has.
fn same_family(addresses: &[IpAddr], prefix: u8) -> bool {
    addresses.iter().all(IpAddr::is_ipv4) && prefix <= 32
        || addresses.iter().all(IpAddr::is_ipv6) && prefix <= 128
}

pub(super) fn addresses(text: &str) -> Result<Vec<HostAddress>, Problem> {
    const FORM: &str = "ADDRESS[@PEER]/PREFIX";
    items(text, |item| {
        let wrong = || form(Key::HostIp, item, FORM);
        let (addresses, prefix) = network(Key::HostIp, item, FORM)?;
        let ip = |text: &str| text.parse::<IpAddr>().map_err(|_| wrong());
        let (address, peer) = match addresses.split_once('@') {
            Some((address, peer)) => (ip(address)?, Some(ip(peer)?)),
            None => (ip(addresses)?, None),
        };
        let all: Vec<IpAddr> = std::iter::once(address).chain(peer).collect();
        same_family(&all, prefix).then_some(HostAddress { address, peer, prefix }).ok_or_else(wrong)
    })
}

pub(super) fn written_address(of: &HostAddress) -> String {
    let peer = of.peer.map(|peer| format!("@{peer}")).unwrap_or_default();
    format!("{}{peer}/{}", of.address, of.prefix)
}

pub(super) fn routes(text: &str) -> Result<Vec<HostRoute>, Problem> {
    const FORM: &str = "NETWORK/PREFIX[@GATEWAY][@METRIC]";
    items(text, |item| {
        let wrong = || form(Key::HostRoute, item, FORM);
        let mut parts = item.split('@');
        let (address, prefix) = network(Key::HostRoute, parts.next().unwrap_or_default(), FORM)?;
        let network: IpAddr = address.parse().map_err(|_| wrong())?;
        let (mut gateway, mut metric) = (None, None);
        for part in parts {
            // An address has a point or a colon.
            if let Ok(address) = part.parse::<IpAddr>()
                && gateway.is_none()
                && metric.is_none()
            {
                gateway = Some(address);
            } else if metric.is_none() {
                metric = Some(number(Key::HostRoute, part, 0..=u32::MAX)?);
            } else {
                return Err(wrong());
            }
        }
        let all: Vec<IpAddr> = std::iter::once(network).chain(gateway).collect();
        same_family(&all, prefix).then_some(HostRoute { network, prefix, gateway, metric }).ok_or_else(wrong)
    })
}

pub(super) fn written_route(of: &HostRoute) -> String {
    let gateway = of.gateway.map(|gateway| format!("@{gateway}")).unwrap_or_default();
    let metric = of.metric.map(|metric| format!("@{metric}")).unwrap_or_default();
    format!("{}/{}{gateway}{metric}", of.network, of.prefix)
}

/// A text for a controller: its bytes are few and visible.
pub(super) fn profile(text: &str) -> Result<String, Problem> {
    if text.len() > value::PATH_LIMIT {
        return Err(form(Key::OvsProfile, text, "a text of at most 512 bytes"));
    }
    Ok(text.to_owned())
}
