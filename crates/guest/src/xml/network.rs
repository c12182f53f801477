//! libvirt's `<network>`: which bridge or device an interface of `type='network'` has.
//!
//! Format: libvirt's `formatnetwork`. Of a network that runs, libvirt keeps the same within a
//! `<networkstatus>`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use roxmltree::Node;

use super::element::{Element, choose};
use super::error::{Fault, XmlError, XmlProblem};
use super::settings::Shared;
use crate::spec::quoted;

/// Where libvirt keeps its networks: those that run first, whose bridge is certainly named.
const LIBVIRT: [&str; 2] = ["/run/libvirt/network", "/etc/libvirt/qemu/networks"];

/// What a network has for its bridge and its addresses, and for its interfaces.
const OF_THE_BRIDGE: [&str; 19] = [
    "name",
    "uuid",
    "title",
    "description",
    "metadata",
    "forward",
    "bridge",
    "mac",
    "mtu",
    "domain",
    "dns",
    "ip",
    "route",
    "dnsmasq",
    "bandwidth",
    // For its interfaces.
    "vlan",
    "virtualport",
    "portgroup",
    "port",
];

/// What the interfaces of a network have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Network {
    /// A port of this bridge.
    Bridge(String),
    /// A macvtap over this link, in this mode.
    Macvtap { lower: String, mode: &'static str },
    /// What taptrail can't give them.
    Other(String),
}

/// A network's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) network: Network,
    /// What each of its interfaces has.
    pub(super) shared: Shared,
    groups: Vec<Group>,
}

/// A port group: what those interfaces have that name it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    name: String,
    is_default: bool,
    shared: Shared,
}

impl Definition {
    /// The port group of a name; without one, the default group, if there is any.
    pub(super) fn group(&self, name: Option<&str>) -> Option<&Shared> {
        let is_it = |group: &&Group| name.map_or(group.is_default, |name| group.name == name);
        self.groups.iter().find(is_it).map(|group| &group.shared)
    }
}

/// The networks that interfaces may name.
#[derive(Debug, Default)]
pub struct Networks {
    given: Vec<(String, Definition)>,
    directories: Vec<PathBuf>,
}

impl Networks {
    /// Those of this host's libvirt.
    pub fn of_libvirt() -> Self {
        Self { given: Vec::new(), directories: LIBVIRT.map(PathBuf::from).into() }
    }

    /// Adds a network, as `virsh net-dumpxml` writes it. `file` is the text's name in messages. It
    /// comes before others of its name.
    ///
    /// # Errors
    /// The text is not XML, or not a network's.
    pub fn add(&mut self, text: &str, file: &str) -> Result<(), XmlError> {
        let read = super::document(text, network);
        let network = read.map_err(|fault| XmlError::new(file, text, fault))?;
        self.given.push(network);
        Ok(())
    }

    /// The network of a name; none if it is not known.
    pub(super) fn find(&self, name: &str) -> Option<Definition> {
        if let Some((_, network)) = self.given.iter().rev().find(|(of, _)| of == name) {
            return Some(network.clone());
        }
        // A name that is a path is no name of libvirt's.
        if name.contains('/') || name.starts_with('.') {
            return None;
        }
        let of_libvirt = self.directories.iter().find_map(|directory| {
            let text = read(&directory.join(format!("{name}.xml"))).ok()?;
            super::document(&text, network).ok()
        });
        of_libvirt.filter(|(of, _)| of == name).map(|(_, network)| network)
    }
}

/// The text of a file of libvirt's, which is not long.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(super::XML_LIMIT as u64).read_to_string(&mut text)?;
    Ok(text)
}

/// A network's name, and what its interfaces have.
fn network(root: Node<'_, '_>) -> Result<(String, Definition), Fault> {
    let mut network = Element::new(root)?;
    if network.name() == "networkstatus" {
        network = network.needs_child("network")?;
    }
    if network.name() != "network" {
        return Err(Fault::new(network.span(), XmlProblem::NoNetwork(quoted(network.name()))));
    }
    let name = network.needs_child("name")?.text().to_owned();
    let mut groups = Vec::new();
    for group in network.children("portgroup") {
        let is_default = group.attribute("default")?.is_some_and(|default| default.value() == "yes");
        let name = group.needs("name")?.value().to_owned();
        groups.push(Group { name, is_default, shared: Shared::read(group)? });
    }
    Ok((name, Definition { network: of_network(network)?, shared: Shared::read(network)?, groups }))
}

fn of_network(network: Element<'_>) -> Result<Network, Fault> {
    let other = |what: &str| Ok(Network::Other(what.to_owned()));
    if let Some(unknown) = network.child_names().find(|name| !OF_THE_BRIDGE.contains(name)) {
        return other(&format!("it has <{}>, which taptrail does not set up", quoted(unknown)));
    }
    let bridge = match network.child("bridge") {
        Some(bridge) if bridge.attribute("macTableManager")?.is_some_and(|it| it.value() == "libvirt") => {
            return other("its bridge learns no addresses (macTableManager), which taptrail does not set up");
        }
        Some(bridge) => bridge.attribute("name")?,
        None => None,
    };
    let Some(forward) = network.child("forward") else {
        return match bridge {
            Some(bridge) => Ok(Network::Bridge(bridge.value().to_owned())),
            None => other("its bridge is not named: libvirt names it when the network is defined"),
        };
    };
    // libvirt's default.
    let mode = forward.attribute("mode")?.map_or("nat", |mode| mode.value());
    if let (Some(bridge), "nat" | "route" | "open" | "bridge") = (bridge, mode) {
        return Ok(Network::Bridge(bridge.value().to_owned()));
    }
    match mode {
        "bridge" | "private" | "vepa" | "passthrough" => {
            if network.attribute("trustGuestRxFilters")?.is_some_and(|trusts| trusts.value() == "yes") {
                return other(
                    "it has trustGuestRxFilters, and a macvtap keeps the MAC that it is on record with",
                );
            }
            let words =
                [("bridge", "bridge"), ("private", "private"), ("vepa", "vepa"), ("passthrough", "passthru")];
            let mode = match forward.attribute("mode")? {
                Some(mode) => choose(mode, &words)?,
                None => "bridge",
            };
            let devices: Vec<Element<'_>> = forward.children("interface").collect();
            match devices[..] {
                [only] => Ok(Network::Macvtap { lower: only.needs("dev")?.value().to_owned(), mode }),
                [] => match forward.attribute("dev")? {
                    Some(dev) => Ok(Network::Macvtap { lower: dev.value().to_owned(), mode }),
                    None => other("it names no device"),
                },
                _ => {
                    other("it has several devices, of which libvirt chooses one: name it with type='direct'")
                }
            }
        }
        "hostdev" => other("it has PCI devices: give one to QEMU on its command line"),
        _ => other("its bridge is not named: libvirt names it when the network is defined"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(inner: &str) -> Network {
        let mut networks = Networks::default();
        networks.add(&format!("<network><name>n</name>{inner}</network>"), "n.xml").unwrap();
        networks.find("n").unwrap().network
    }

    #[test]
    fn each_way_of_forwarding_has_its_backend() {
        let bridge = |name: &str| Network::Bridge(name.to_owned());
        let macvtap = |mode| Network::Macvtap { lower: "eth0".to_owned(), mode };
        for (inner, expected) in [
            ("<bridge name='virbr1'/>", bridge("virbr1")),
            (
                "<forward mode='nat'/><bridge name='virbr0' stp='on' delay='0'/><ip address='192.0.2.1'/>",
                bridge("virbr0"),
            ),
            ("<forward/><bridge name='virbr0'/>", bridge("virbr0")),
            ("<forward mode='route' dev='eth1'/><bridge name='virbr0'/>", bridge("virbr0")),
            ("<forward mode='bridge'/><bridge name='br0'/>", bridge("br0")),
            ("<forward mode='bridge'><interface dev='eth0'/></forward>", macvtap("bridge")),
            ("<forward mode='passthrough' dev='eth0'/>", macvtap("passthru")),
            ("<forward mode='vepa' dev='eth0'><interface dev='eth0'/></forward>", macvtap("vepa")),
        ] {
            assert_eq!(of(inner), expected, "{inner}");
        }
        for inner in [
            "",
            "<forward mode='nat'/>",
            "<forward mode='hostdev'/>",
            "<forward mode='bridge'><interface dev='a'/><interface dev='b'/></forward>",
            "<bridge name='br0'/><zone/>",
            "<bridge name='br0' macTableManager='libvirt'/>",
        ] {
            assert!(matches!(of(inner), Network::Other(_)), "{inner}");
        }
    }

    #[test]
    fn libvirts_own_files_are_found_by_the_networks_name() {
        let directory = tempfile::tempdir().unwrap();
        let status = "<networkstatus><class_id bitmap='0-2'/><network><name>default</name>\
                      <forward mode='nat'/><bridge name='virbr7'/></network></networkstatus>";
        std::fs::write(directory.path().join("default.xml"), status).unwrap();
        std::fs::write(directory.path().join("other.xml"), status).unwrap();
        let mut networks = Networks { given: Vec::new(), directories: vec![directory.path().to_owned()] };
        let found = |networks: &Networks, name: &str| networks.find(name).map(|found| found.network);
        assert_eq!(found(&networks, "default"), Some(Network::Bridge("virbr7".to_owned())));
        for name in ["other", "none", "../default", "."] {
            assert_eq!(found(&networks, name), None, "{name}");
        }
        // What is given comes first.
        networks.add("<network><name>default</name><bridge name='mine'/></network>", "n.xml").unwrap();
        assert_eq!(found(&networks, "default"), Some(Network::Bridge("mine".to_owned())));
        assert!(networks.add("<pool/>", "n.xml").is_err());
    }
}
