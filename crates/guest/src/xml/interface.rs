//! Converts each element of an `<interface>` to keys of a SPEC.

use std::borrow::Cow;

use roxmltree::{Attribute, Node};

use super::element::{Element, choose};
use super::error::{Fault, XmlProblem};
use super::network::{Network, Networks};
use super::{FromDomain, FromXml};
use crate::filter::FilterChoice;
use crate::qemu::model::Model;
use crate::spec::{Given, InXml, Key, PartialSpec, Problem, Property, quoted};

/// The types of interface that taptrail opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    /// A new tap on a bridge.
    Bridge,
    /// A tap that is there, or a new one without a bridge.
    Ethernet,
    /// A new macvtap.
    Direct,
    /// A vDPA device.
    Vdpa,
}

/// What every type takes.
const CHILDREN: [&str; 15] = [
    "mac",
    "source",
    "model",
    "target",
    "mtu",
    "driver",
    "backend",
    "filterref",
    "alias",
    "link",
    "boot",
    "acpi",
    "rom",
    "teaming",
    "address",
];

/// The model of an interface that names none: libvirt's default for this host's guests.
const DEFAULT_MODEL: &str =
    if cfg!(any(target_arch = "x86_64", target_arch = "x86")) { "rtl8139" } else { "virtio" };

const NO_MODEL: &str =
    "there is no <model>: the NIC is libvirt's default, which is rtl8139 on x86 and virtio elsewhere";

pub(super) fn read(root: Node<'_, '_>, networks: &Networks) -> Result<FromXml, Fault> {
    let interface = Element::new(root)?;
    if interface.name() != "interface" {
        return Err(refuse_root(interface));
    }
    read_interface(interface, networks)
}

/// The interfaces of a domain, and the types of those that taptrail does not open.
pub(super) fn read_domain(root: Node<'_, '_>, networks: &Networks) -> Result<FromDomain, Fault> {
    let domain = Element::new(root)?;
    if domain.name() != "domain" {
        return Err(Fault::new(domain.span(), XmlProblem::NoDomain(quoted(domain.name()))));
    }
    let mut read = FromDomain::default();
    for devices in domain.children("devices") {
        for interface in devices.children("interface") {
            match interface.needs("type")?.value() {
                "bridge" | "network" | "ethernet" | "direct" | "vdpa" => {
                    read.interfaces.push(read_interface(interface, networks)?);
                }
                other => read.left_out.push(quoted(other)),
            }
        }
    }
    Ok(read)
}

fn read_interface(interface: Element<'_>, networks: &Networks) -> Result<FromXml, Fault> {
    let (kind, network) = kind(interface, networks)?;
    match kind {
        Type::Bridge => interface.takes(&["type"], &[&CHILDREN[..], &["port", "vlan"]].concat())?,
        Type::Vdpa => interface.takes(&["type"], &CHILDREN)?,
        Type::Ethernet | Type::Direct => {
            interface.takes(&["type"], &[&CHILDREN[..], &["vlan", "script", "downscript"]].concat())?;
        }
    }

    let mut draft = PartialSpec::default();
    source(interface, kind, network, &mut draft)?;
    target(interface, kind, &mut draft)?;
    mac(interface, &mut draft)?;
    let model = model(interface, kind, &mut draft)?;
    if let Some(mtu) = interface.child("mtu") {
        mtu.takes(&["size"], &[])?;
        give(&mut draft, Key::Mtu, mtu.needs("size")?)?;
    }
    driver(interface, &model, &mut draft)?;
    rom(interface, &mut draft)?;
    properties(interface, &model, &mut draft)?;
    backend(interface, kind, &model, &mut draft)?;
    port(interface, &mut draft)?;
    vlan(interface, &mut draft)?;
    link(interface)?;
    scripts(interface)?;
    if let Some(filter) = interface.child("filterref") {
        filters(filter, &mut draft)?;
    }
    alias(interface, &mut draft)?;
    let mut notes = Vec::new();
    if interface.child("address").is_some() {
        notes.push("the place of <address> is not kept: the NIC gets a free one");
    }
    if interface.child("model").is_none() && kind != Type::Vdpa {
        notes.push(NO_MODEL);
    }
    Ok(FromXml { nic: draft.finish(interface.span())?, notes })
}

fn refuse_root(root: Element<'_>) -> Fault {
    let fault = Fault::new(root.span(), XmlProblem::Root(quoted(root.name())));
    match root.name() {
        "domain" => fault.help("--domain FILE takes all interfaces of a domain"),
        _ => fault,
    }
}

/// The type, and the network that says which bridge or device it has, if the interface does not.
fn kind(interface: Element<'_>, networks: &Networks) -> Result<(Type, Option<Network>), Fault> {
    let attribute = interface.needs("type")?;
    match attribute.value() {
        "bridge" => Ok((Type::Bridge, None)),
        "ethernet" => Ok((Type::Ethernet, None)),
        "direct" => Ok((Type::Direct, None)),
        "vdpa" => Ok((Type::Vdpa, None)),
        // What libvirt made of a network stands in the XML of a guest that runs.
        "network" => {
            let source = interface.needs_child("source")?;
            if source.attribute("bridge")?.is_some() {
                return Ok((Type::Bridge, None));
            }
            if source.attribute("dev")?.is_some() {
                return Ok((Type::Direct, None));
            }
            let name = source.needs("network")?;
            if let Some(group) = source.attribute("portgroup")? {
                let problem =
                    XmlProblem::Attribute { name: group.name().to_owned(), element: source.title() };
                return Err(Fault::new(group.range(), problem));
            }
            match networks.find(name.value()) {
                Some(network @ Network::Bridge(_)) => Ok((Type::Bridge, Some(network))),
                Some(network @ Network::Macvtap { .. }) => Ok((Type::Direct, Some(network))),
                Some(Network::Other(reason)) => {
                    let problem = XmlProblem::Network { name: quoted(name.value()), reason };
                    Err(Fault::new(name.range_value(), problem))
                }
                None => {
                    let problem = XmlProblem::UnknownNetwork(quoted(name.value()));
                    Err(Fault::new(name.range_value(), problem)
                        .help("give its definition, which virsh net-dumpxml writes, with --network FILE"))
                }
            }
        }
        other => {
            let fault = Fault::new(attribute.range_value(), XmlProblem::Type(quoted(other)));
            Err(fault.help(match other {
                "user" | "passt" | "vhostuser" | "hostdev" => {
                    "QEMU gets no tap of it: give it to QEMU on its command line"
                }
                "server" | "client" | "mcast" | "udp" | "internal" | "null" => {
                    "QEMU opens its sockets itself: give it to QEMU on its command line"
                }
                _ => "bridge, network, ethernet, direct or vdpa is needed",
            }))
        }
    }
}

/// Takes the value of an attribute as the key's.
fn give<'d>(draft: &mut PartialSpec<'d>, key: Key, attribute: Attribute<'d, 'd>) -> Result<(), Fault> {
    give_as(draft, key, attribute, attribute.value())
}

/// A `<filterref>` with its `<parameter>`s.
fn filters<'d>(filter: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    filter.takes_many(&["filter"], &["parameter"])?;
    give(draft, Key::Filter, filter.needs("filter")?)?;
    for parameter in filter.children("parameter") {
        parameter.takes(&["name", "value"], &[])?;
        let (name, value) = (parameter.needs("name")?, parameter.needs("value")?);
        let (key, start) = FilterChoice::key_for(name.value());
        let given = Given {
            key_span: name.range(),
            value_span: value.range_value(),
            value: format!("{start}{}", value.value()).into(),
        };
        draft.give(key, given)?;
    }
    Ok(())
}

/// The attribute means `value` of the key.
fn give_as<'d>(
    draft: &mut PartialSpec<'d>,
    key: Key,
    attribute: Attribute<'d, 'd>,
    value: &'d str,
) -> Result<(), Fault> {
    let value = Cow::Borrowed(value);
    Ok(draft.give(key, Given { key_span: attribute.range(), value_span: attribute.range_value(), value })?)
}

/// Refuses what does not say where the guest's frames go. A network's name and port are libvirt's own
/// affair: the bridge or the device stands beside them.
fn takes_source(interface: Element<'_>, source: Element<'_>, own: &[&str]) -> Result<(), Fault> {
    match interface.needs("type")?.value() {
        "network" => source.takes(&[own, &["network", "portid", "portgroup"]].concat(), &[]),
        _ => source.takes(own, &[]),
    }
}

/// The value of a network's definition, to which the network's name points.
fn give_of_network<'d>(
    draft: &mut PartialSpec<'d>,
    key: Key,
    name: Attribute<'d, 'd>,
    value: impl Into<Cow<'d, str>>,
) -> Result<(), Fault> {
    let (key_span, value_span) = (name.range(), name.range_value());
    Ok(draft.give(key, Given { key_span, value_span, value: value.into() })?)
}

fn source<'d>(
    interface: Element<'d>,
    kind: Type,
    network: Option<Network>,
    draft: &mut PartialSpec<'d>,
) -> Result<(), Fault> {
    if let Some(network) = network {
        let source = interface.needs_child("source")?;
        takes_source(interface, source, &[])?;
        let name = source.needs("network")?;
        return match network {
            Network::Bridge(bridge) => give_of_network(draft, Key::Bridge, name, bridge),
            Network::Macvtap { lower, mode } => {
                give_of_network(draft, Key::Macvtap, name, lower)?;
                give_of_network(draft, Key::Mode, name, mode)
            }
            // It was refused before.
            Network::Other(_) => Ok(()),
        };
    }
    match kind {
        Type::Bridge => {
            let source = interface.needs_child("source")?;
            takes_source(interface, source, &["bridge"])?;
            give(draft, Key::Bridge, source.needs("bridge")?)
        }
        Type::Direct => {
            let source = interface.needs_child("source")?;
            takes_source(interface, source, &["dev", "mode"])?;
            let lower = source.needs("dev")?;
            give(draft, Key::Macvtap, lower)?;
            let Some(mode) = source.attribute("mode")? else {
                // libvirt's default, not ours.
                return give_as(draft, Key::Mode, lower, "vepa");
            };
            let word = choose(
                mode,
                &[
                    ("vepa", "vepa"),
                    ("bridge", "bridge"),
                    ("private", "private"),
                    ("passthrough", "passthru"),
                ],
            )?;
            give_as(draft, Key::Mode, mode, word)
        }
        Type::Vdpa => {
            let source = interface.needs_child("source")?;
            source.takes(&["dev"], &[])?;
            give(draft, Key::Vdpa, source.needs("dev")?)
        }
        // An empty one is harmless.
        Type::Ethernet => interface.child("source").map_or(Ok(()), |source| source.takes(&[], &[])),
    }
}

fn target<'d>(interface: Element<'d>, kind: Type, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    if kind != Type::Ethernet {
        let Some(target) = interface.child("target") else { return Ok(()) };
        target.takes(&["dev", "managed"], &[])?;
        if let Some(managed) = target.attribute("managed")? {
            choose(managed, &[("yes", ())])?;
        }
        let Some(name) = target.attribute("dev")? else { return Ok(()) };
        return if made_by_libvirt(name.value()) { Ok(()) } else { give(draft, Key::Ifname, name) };
    }
    let Some(target) = interface.child("target") else {
        return give_as(draft, Key::NewTap, interface.needs("type")?, "on");
    };
    target.takes(&["dev", "managed"], &[])?;
    let managed =
        target.attribute("managed")?.map(|it| choose(it, &[("yes", true), ("no", false)])).transpose()?;
    match target.attribute("dev")? {
        // libvirt replaces such a name by one of its own, unless managed='no'.
        Some(name) if managed == Some(false) || !made_by_libvirt(name.value()) => give(draft, Key::Tap, name),
        None if managed == Some(false) => target.needs("dev").map(drop),
        _ => give_as(draft, Key::NewTap, interface.needs("type")?, "on"),
    }
}

/// libvirt's `VIR_NET_GENERATED_*_PREFIX`: such a name in a live guest's XML was chosen by libvirt
/// and is ignored where XML is read, so that a copy does not collide with its original.
fn made_by_libvirt(name: &str) -> bool {
    ["vnet", "macvtap", "macvlan"].iter().any(|prefix| name.starts_with(prefix))
}

fn mac<'d>(interface: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(mac) = interface.child("mac") else { return Ok(()) };
    // Both say how libvirt treats an address of VMware's, and who made it.
    mac.takes(&["address", "type", "check"], &[])?;
    give(draft, Key::Mac, mac.needs("address")?)
}

/// The model, whose names libvirt reads in any case. Returns it.
fn model<'d>(interface: Element<'d>, kind: Type, draft: &mut PartialSpec<'d>) -> Result<Model, Fault> {
    let Some(element) = interface.child("model") else {
        if kind == Type::Vdpa {
            return Ok(Model::default());
        }
        // Here, because a default is no text that an error can point at.
        let (key_span, value_span) = (interface.span(), interface.span());
        draft.give(Key::Model, Given { key_span, value_span, value: DEFAULT_MODEL.into() })?;
        return Ok(Model::parse(DEFAULT_MODEL).unwrap_or_default());
    };
    element.takes(&["type"], &[])?;
    let attribute = element.needs("type")?;
    let name = attribute.value().to_ascii_lowercase();
    let (key_span, value_span) = (attribute.range(), attribute.range_value());
    let model = Model::parse(&name).map_err(|error| Fault::new(value_span.clone(), Problem::Model(error)))?;
    draft.give(Key::Model, Given { key_span, value_span, value: name.into() })?;
    Ok(model)
}

fn driver<'d>(interface: Element<'d>, model: &Model, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(driver) = interface.child("driver") else { return Ok(()) };
    driver.takes(&[&["name", "queues"][..], &attributes_of(&["driver"])].concat(), &["host", "guest"])?;
    for child in ["host", "guest"] {
        if let Some(element) = driver.child(child) {
            element.takes(&attributes_of(&["driver", child]), &[])?;
        }
    }
    // libvirt reads it for virtio alone.
    if !model.is_virtio() {
        return Ok(());
    }
    if let Some(name) = driver.attribute("name")? {
        give_as(draft, Key::Vhost, name, choose(name, &[("vhost", "on"), ("qemu", "off")])?)?;
    }
    match driver.attribute("queues")? {
        Some(queues) => give(draft, Key::Queues, queues),
        None => Ok(()),
    }
}

/// The attributes of an element that are properties of QEMU's device.
fn attributes_of(path: &[&str]) -> Vec<&'static str> {
    let of_element = Property::all().map(Property::in_xml).filter(|place| place.path == path);
    of_element.map(|place| place.attribute).collect()
}

/// What is passed on to QEMU's device.
fn properties<'d>(interface: Element<'d>, model: &Model, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    for name in ["boot", "acpi", "teaming"] {
        if let Some(element) = interface.child(name) {
            element.takes(&attributes_of(&[name]), &[])?;
        }
    }
    for property in Property::all() {
        let InXml { path, attribute, words } = property.in_xml();
        // libvirt reads a driver's for virtio alone; others are refused where the model has none.
        if path.first() == Some(&"driver") && !property.is_of(model) {
            continue;
        }
        let element = path.iter().try_fold(interface, |around, name| around.child(name));
        let Some(element) = element else { continue };
        let Some(attribute) = element.attribute(attribute)? else { continue };
        let value = if words.is_empty() { attribute.value() } else { choose(attribute, words)? };
        give_as(draft, Key::Device(property), attribute, value)?;
    }
    Ok(())
}

fn rom<'d>(interface: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(rom) = interface.child("rom") else { return Ok(()) };
    rom.takes(&[&["enabled"][..], &attributes_of(&["rom"])].concat(), &[])?;
    let Some(enabled) = rom.attribute("enabled")? else { return Ok(()) };
    if choose(enabled, &[("yes", true), ("no", false)])? {
        return Ok(());
    }
    // As libvirt: nothing else has a meaning then.
    rom.takes(&["enabled"], &[])?;
    match Property::all().find(|property| property.as_str() == "rom") {
        Some(property) => give_as(draft, Key::Device(property), enabled, "off"),
        None => Ok(()),
    }
}

/// A link that is up, as it is without the element.
fn link(interface: Element<'_>) -> Result<(), Fault> {
    let Some(link) = interface.child("link") else { return Ok(()) };
    link.takes(&["state"], &[])?;
    choose(link.needs("state")?, &[("up", ())])
}

/// No script, written out.
fn scripts(interface: Element<'_>) -> Result<(), Fault> {
    for name in ["script", "downscript"] {
        let Some(script) = interface.child(name) else { continue };
        script.takes(&["path"], &[])?;
        if let Some(path) = script.text_of("path") {
            let problem = XmlProblem::Element { name: name.to_owned(), parent: interface.title() };
            return Err(Fault::new(path.range(), problem)
                .help("remove it: taptrail runs no scripts, and configures the link itself"));
        }
    }
    Ok(())
}

/// Paths of the devices to open.
fn backend<'d>(
    interface: Element<'d>,
    kind: Type,
    model: &Model,
    draft: &mut PartialSpec<'d>,
) -> Result<(), Fault> {
    let Some(backend) = interface.child("backend") else { return Ok(()) };
    match kind {
        Type::Bridge | Type::Ethernet => backend.takes(&["tap", "vhost"], &[])?,
        Type::Direct => backend.takes(&["vhost"], &[])?,
        // Neither is opened for it.
        Type::Vdpa => backend.takes(&[], &[])?,
    }
    for (name, key) in [("tap", Key::TunPath), ("vhost", Key::VhostPath)] {
        // As libvirt, which opens no vhost-net for another model.
        if let Some(path) = backend.attribute(name)?.filter(|_| name == "tap" || model.is_virtio()) {
            give(draft, key, path)?;
        }
    }
    Ok(())
}

fn port<'d>(interface: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(port) = interface.child("port") else { return Ok(()) };
    port.takes(&["isolated"], &[])?;
    let isolated = port.needs("isolated")?;
    give_as(draft, Key::Isolated, isolated, choose(isolated, &[("yes", "on"), ("no", "off")])?)
}

/// One tag, which the guest does not see. A trunk has several, or trunk='yes'.
fn vlan<'d>(interface: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(vlan) = interface.child("vlan") else { return Ok(()) };
    vlan.takes(&["trunk"], &["tag"])?;
    if let Some(trunk) = vlan.attribute("trunk")? {
        choose(trunk, &[("no", ())])?;
    }
    let tag = vlan.needs_child("tag")?;
    tag.takes(&["id"], &[])?;
    give(draft, Key::Vlan, tag.needs("id")?)
}

/// A user's alias becomes QEMU's id; libvirt's own alias has no meaning here.
fn alias<'d>(interface: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(alias) = interface.child("alias") else { return Ok(()) };
    alias.takes(&["name"], &[])?;
    let name = alias.needs("name")?;
    match name.value() {
        user if user.starts_with("ua-") => give(draft, Key::Id, name),
        // libvirt's own.
        _ => Ok(()),
    }
}
