//! Converts each element of an `<interface>` to keys of a SPEC.

use std::borrow::Cow;

use roxmltree::{Attribute, Node};

use super::element::{Element, choose};
use super::error::{Fault, XmlProblem};
use super::network::{Definition, Network, Networks};
use super::settings::{self, NoPort, Setting, Shared, VirtualPort};
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
    /// A vhost-user backend.
    VhostUser,
}

/// What every type takes.
const CHILDREN: [&str; 20] = [
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
    "tune",
    "coalesce",
    "bandwidth",
    "virtualport",
    "vlan",
];

const ATTRIBUTES: &[&str] = &["type", "trustGuestRxFilters"];

/// The machine of a domain; of an interface alone, it is of this host's architecture.
#[derive(Debug, Clone, Copy)]
struct Machine<'d> {
    architecture: &'d str,
    kind: Option<&'d str>,
}

impl Machine<'_> {
    const OF_THE_HOST: Self = Self { architecture: std::env::consts::ARCH, kind: None };

    /// The model of an interface that names none: libvirt's default (`qemuDomainDefaultNetModel()`).
    /// None on a board, where it is the board's own NIC.
    fn default_model(self) -> Option<&'static str> {
        let is_virt = self.kind.is_none_or(|kind| kind == "virt" || kind.starts_with("virt-"));
        match self.architecture {
            "s390x" | "s390" => Some("virtio"),
            "aarch64" | "arm" | "armv6l" | "armv7l" | "armv7b" => is_virt.then_some("virtio"),
            "riscv64" | "riscv32" | "loongarch64" if is_virt => Some("virtio"),
            _ => Some("rtl8139"),
        }
    }
}

const NO_MODEL: &str = "there is no <model>: the NIC is libvirt's default for the machine, virtio or rtl8139";

pub(super) fn read(root: Node<'_, '_>, networks: &Networks) -> Result<FromXml, Fault> {
    let interface = Element::new(root)?;
    if interface.name() != "interface" {
        return Err(refuse_root(interface));
    }
    read_interface(interface, Machine::OF_THE_HOST, networks)
}

/// The interfaces of a domain, and the types of those that taptrail does not open.
pub(super) fn read_domain(root: Node<'_, '_>, networks: &Networks) -> Result<FromDomain, Fault> {
    let domain = Element::new(root)?;
    if domain.name() != "domain" {
        return Err(Fault::new(domain.span(), XmlProblem::NoDomain(quoted(domain.name()))));
    }
    let mut read = FromDomain::default();
    let os = domain.child("os").and_then(|os| os.child("type"));
    let text = |name| Some(os?.text_of(name)?.value());
    let machine = match text("arch") {
        Some(architecture) => Machine { architecture, kind: text("machine") },
        None => Machine::OF_THE_HOST,
    };
    for devices in domain.children("devices") {
        for interface in devices.children("interface") {
            match interface.needs("type")?.value() {
                // Its backend connects to QEMU, which is for the command line.
                "vhostuser" if is_server(interface) => read.left_out.push("vhostuser".to_owned()),
                "bridge" | "network" | "ethernet" | "direct" | "vdpa" | "vhostuser" => {
                    read.interfaces.push(read_interface(interface, machine, networks)?);
                }
                other => read.left_out.push(quoted(other)),
            }
        }
    }
    Ok(read)
}

/// Whether libvirt's default model of it is `virtio`, whatever the machine.
fn is_virtio(kind: Type) -> bool {
    matches!(kind, Type::Vdpa | Type::VhostUser)
}

/// Whether QEMU is to listen for its vhost-user backend.
fn is_server(interface: Element<'_>) -> bool {
    let mode = interface.child("source").and_then(|source| source.text_of("mode"));
    mode.is_some_and(|mode| mode.value() == "server")
}

fn read_interface(
    interface: Element<'_>,
    machine: Machine<'_>,
    networks: &Networks,
) -> Result<FromXml, Fault> {
    let (kind, network) = kind(interface, networks)?;
    match kind {
        Type::Bridge => interface.takes(ATTRIBUTES, &[&CHILDREN[..], &["port"]].concat())?,
        Type::Vdpa | Type::VhostUser => interface.takes(ATTRIBUTES, &CHILDREN)?,
        Type::Ethernet | Type::Direct => {
            interface.takes(ATTRIBUTES, &[&CHILDREN[..], &["script", "downscript"]].concat())?;
        }
    }
    rx_filters(interface, kind)?;
    let (network, shared) = network.map_or((None, Vec::new()), |(network, shared)| (Some(network), shared));

    let mut draft = PartialSpec::default();
    source(interface, kind, network, &mut draft)?;
    target(interface, kind, &mut draft)?;
    mac(interface, &mut draft)?;
    let model = model(interface, kind, machine, &mut draft)?;
    if let Some(mtu) = interface.child("mtu") {
        mtu.takes(&["size"], &[])?;
        give(&mut draft, Key::Mtu, mtu.needs("size")?)?;
    }
    driver(interface, &model, &mut draft)?;
    rom(interface, &mut draft)?;
    properties(interface, &model, &mut draft)?;
    backend(interface, kind, &model, &mut draft)?;
    port(interface, &shared, &mut draft)?;
    with_defaults(interface, settings::vlans(interface)?, &shared, |of| &of.vlans, &mut draft)?;
    with_defaults(interface, settings::bandwidth(interface)?, &shared, |of| &of.bandwidth, &mut draft)?;
    virtual_port(interface, &shared, &mut draft)?;
    send_buffer(interface, &mut draft)?;
    coalesce(interface, &mut draft)?;
    link(interface, &mut draft)?;
    scripts(interface, kind, &mut draft)?;
    if let Some(filter) = interface.child("filterref") {
        filters(filter, &mut draft)?;
    }
    alias(interface, &mut draft)?;
    let mut notes = Vec::new();
    if let Some(address) = interface.child("address")
        && !place(address, &model, &mut draft)?
    {
        notes.push("the place of <address> is not kept: the NIC gets a free one");
    }
    if interface.child("model").is_none() && !is_virtio(kind) {
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

/// A network, and what it and its port group have for an interface, the port group's first.
type OfNetwork = (Network, Vec<Shared>);

/// The type, and the network that says which bridge or device it has, if the interface does not.
fn kind(interface: Element<'_>, networks: &Networks) -> Result<(Type, Option<OfNetwork>), Fault> {
    let attribute = interface.needs("type")?;
    match attribute.value() {
        "bridge" => Ok((Type::Bridge, None)),
        "ethernet" => Ok((Type::Ethernet, None)),
        "direct" => Ok((Type::Direct, None)),
        "vdpa" => Ok((Type::Vdpa, None)),
        "vhostuser" => Ok((Type::VhostUser, None)),
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
            match networks.find(name.value()) {
                Some(definition) => {
                    let shared = of_definition(&definition, source)?;
                    match definition.network {
                        network @ Network::Bridge(_) => Ok((Type::Bridge, Some((network, shared)))),
                        network @ Network::Macvtap { .. } => Ok((Type::Direct, Some((network, shared)))),
                        Network::Other(reason) => {
                            let problem = XmlProblem::Network { name: quoted(name.value()), reason };
                            let help =
                                "give the interface a bridge or device of its own: type 'bridge' or 'direct'";
                            Err(Fault::new(name.range_value(), problem).help(help))
                        }
                    }
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
                "user" | "passt" | "hostdev" => "QEMU gets no tap of it: give it to QEMU on its command line",
                "server" | "client" | "mcast" | "udp" | "internal" | "null" => {
                    "QEMU opens its sockets itself: give it to QEMU on its command line"
                }
                _ => "bridge, network, ethernet, direct, vdpa or vhostuser is needed",
            }))
        }
    }
}

/// What a network's definition has for this interface: that of its port group, then its own.
fn of_definition(definition: &Definition, source: Element<'_>) -> Result<Vec<Shared>, Fault> {
    let group = source.attribute("portgroup")?;
    let Some(found) = definition.group(group.map(|group| group.value())) else {
        return match group {
            None => Ok(vec![definition.shared.clone()]),
            Some(group) => {
                let (name, text) = (source.needs("network")?.value(), group.value());
                let problem = XmlProblem::NoPortGroup { network: quoted(name), group: quoted(text) };
                Err(Fault::new(group.range_value(), problem))
            }
        };
    };
    Ok(vec![found.clone(), definition.shared.clone()])
}

/// libvirt follows the addresses that a trusted guest gives its NIC, on a macvtap. The bridge's own
/// kind of tap filters nothing.
fn rx_filters(interface: Element<'_>, kind: Type) -> Result<(), Fault> {
    let Some(trusts) = interface.attribute("trustGuestRxFilters")? else { return Ok(()) };
    let trusted = choose(trusts, &[("yes", true), ("no", false)])?;
    if trusted && kind == Type::Direct {
        let what = "trustGuestRxFilters='yes'".to_owned();
        let reason = "a macvtap keeps the MAC that it is on record with";
        return Err(Fault::new(trusts.range(), XmlProblem::Unsupported { what, reason }));
    }
    Ok(())
}

/// Takes what the interface itself says, or else what the definition of its network has for it.
fn with_defaults<'d>(
    interface: Element<'d>,
    own: Vec<Setting<'d>>,
    shared: &[Shared],
    of: impl Fn(&Shared) -> &Vec<(Key, String)>,
    draft: &mut PartialSpec<'d>,
) -> Result<(), Fault> {
    if !own.is_empty() {
        return own.into_iter().try_for_each(|Setting { key, given }| Ok(draft.give(key, given)?));
    }
    match shared.iter().map(of).find(|all| !all.is_empty()) {
        Some(all) => give_all_of_network(interface, all, draft),
        None => Ok(()),
    }
}

fn give_all_of_network<'d>(
    interface: Element<'d>,
    all: &[(Key, String)],
    draft: &mut PartialSpec<'d>,
) -> Result<(), Fault> {
    let name = interface.needs_child("source")?.needs("network")?;
    all.iter().try_for_each(|(key, value)| give_of_network(draft, *key, name, value.clone()))
}

fn virtual_port<'d>(
    interface: Element<'d>,
    shared: &[Shared],
    draft: &mut PartialSpec<'d>,
) -> Result<(), Fault> {
    let own = VirtualPort::read(interface)?;
    let port = shared.iter().fold(own, |port, shared| port.or(shared.port.clone()));
    let Some(element) = interface.child("virtualport") else {
        // The network's, if it has one.
        return match port.keys() {
            Ok(keys) => give_all_of_network(interface, &keys, draft),
            Err(_) if port == VirtualPort::default() => Ok(()),
            Err(why) => Err(unsupported_port(interface, &port, why)),
        };
    };
    match port.keys() {
        Ok(keys) => keys.into_iter().try_for_each(|(key, value)| {
            let (key_span, value_span) = (element.span(), element.span());
            Ok(draft.give(key, Given { key_span, value_span, value: value.into() })?)
        }),
        Err(why) => Err(unsupported_port(element, &port, why)),
    }
}

fn unsupported_port(at: Element<'_>, port: &VirtualPort, why: NoPort) -> Fault {
    let what = match &port.kind {
        Some(kind) => format!("<virtualport type='{}'>", quoted(kind)),
        None => "<virtualport>".to_owned(),
    };
    Fault::new(at.span(), XmlProblem::Unsupported { what, reason: why.reason }).help(why.help)
}

fn send_buffer<'d>(interface: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(tune) = interface.child("tune") else { return Ok(()) };
    tune.takes(&[], &["sndbuf"])?;
    let Some(sndbuf) = tune.child("sndbuf") else { return Ok(()) };
    sndbuf.takes(&[], &[])?;
    let (key_span, value_span) = (sndbuf.span(), sndbuf.span());
    Ok(draft.give(Key::SendBuffer, Given { key_span, value_span, value: sndbuf.text().into() })?)
}

/// Frames that the tap collects: what of `<coalesce>` libvirt has.
fn coalesce<'d>(interface: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(coalesce) = interface.child("coalesce") else { return Ok(()) };
    coalesce.takes(&[], &["rx"])?;
    let Some(rx) = coalesce.child("rx") else { return Ok(()) };
    rx.takes(&[], &["frames"])?;
    let Some(frames) = rx.child("frames") else { return Ok(()) };
    frames.takes(&["max"], &[])?;
    frames.attribute("max")?.map_or(Ok(()), |max| give(draft, Key::RxFrames, max))
}

/// Takes the value of an attribute as the key's.
fn give<'d>(draft: &mut PartialSpec<'d>, key: Key, attribute: Attribute<'d, 'd>) -> Result<(), Fault> {
    give_as(draft, key, attribute, attribute.value())
}

/// A `<filterref>` with its `<parameter>`s.
fn filters<'d>(filter: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    filter.takes_repeated(&["filter"], &[], &["parameter"])?;
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
        _ => {
            if let Some(group) = source.text_of("portgroup") {
                let what = "'portgroup'".to_owned();
                let reason = "only networks have port groups, and libvirt ignores it here";
                let fault = Fault::new(group.range(), XmlProblem::Unsupported { what, reason });
                return Err(fault.help("leave it out, or make the interface's type 'network'"));
            }
            source.takes(own, &[])
        }
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
        Type::VhostUser => {
            let source = interface.needs_child("source")?;
            source.takes(&["type", "path", "mode"], &["reconnect"])?;
            choose(source.needs("type")?, &[("unix", ())])?;
            let mode = source.needs("mode")?;
            if choose(mode, &[("client", false), ("server", true)])? {
                let what = format!("{} mode='server'", source.title());
                let reason = "QEMU would take whoever connects, on no record";
                return Err(Fault::new(mode.range(), XmlProblem::Unsupported { what, reason })
                    .help("have the backend listen, and use mode='client'"));
            }
            if let Some(reconnect) = source.child("reconnect") {
                reconnect.takes(&["enabled", "timeout"], &[])?;
                let enabled = reconnect.needs("enabled")?;
                if choose(enabled, &[("no", false), ("yes", true)])? {
                    let what = format!("{} enabled='yes'", reconnect.title());
                    let reason = "QEMU would connect again, on no record";
                    return Err(Fault::new(enabled.range(), XmlProblem::Unsupported { what, reason })
                        .help("leave it out, and attach the interface again when the backend is back"));
                }
            }
            give(draft, Key::VhostUser, source.needs("path")?)
        }
        Type::Ethernet => {
            let Some(source) = interface.child("source") else { return Ok(()) };
            source.takes_repeated(&[], &[], &["ip", "route"])?;
            let all = settings::addresses(source)?;
            all.into_iter().try_for_each(|Setting { key, given }| Ok(draft.give(key, given)?))
        }
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
        if kind == Type::VhostUser {
            // libvirt shows the backend's port there, and makes nothing of it.
            return Ok(());
        }
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
fn model<'d>(
    interface: Element<'d>,
    kind: Type,
    machine: Machine<'_>,
    draft: &mut PartialSpec<'d>,
) -> Result<Model, Fault> {
    let (name, key_span, value_span) = match interface.child("model") {
        Some(element) => {
            element.takes(&["type"], &[])?;
            let attribute = element.needs("type")?;
            (attribute.value().to_ascii_lowercase(), attribute.range(), attribute.range_value())
        }
        None if is_virtio(kind) => ("virtio".to_owned(), interface.span(), interface.span()),
        // Here, because a default is no text that an error can point at.
        None => match machine.default_model() {
            Some(model) => (model.to_owned(), interface.span(), interface.span()),
            None => {
                let what = "<interface> without a <model>".to_owned();
                let reason = "the NIC of this machine's board can't be plugged";
                let fault = Fault::new(interface.span(), XmlProblem::Unsupported { what, reason });
                return Err(fault.help("add <model type='virtio'/>"));
            }
        },
    };
    let mut model =
        Model::parse(&name).map_err(|error| Fault::new(value_span.clone(), Problem::Model(error)))?;
    let transport = interface.child("address").and_then(|address| address.text_of("type"));
    if let Some(transport) = transport.filter(|kind| kind.value() == "virtio-mmio") {
        model = model.on_mmio().ok_or_else(|| {
            let what = "<address type='virtio-mmio'>".to_owned();
            Fault::new(transport.range(), XmlProblem::Unsupported { what, reason: "the model is not virtio" })
        })?;
    }
    let value = if model == Model::default() { "virtio".into() } else { model.to_string().into() };
    draft.give(Key::Model, Given { key_span, value_span, value })?;
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
    for property in Property::all().filter(|property| !property.is_place()) {
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

/// A place on the root bus, which is bus 0, or in the channel subsystem. Another bus is a controller of
/// libvirt's numbering, which the guest has no part of; a virtio-mmio transport has no number. Returns
/// whether it is kept.
fn place<'d>(address: Element<'d>, model: &Model, draft: &mut PartialSpec<'d>) -> Result<bool, Fault> {
    let number = |name: &str| -> Result<Option<u32>, Fault> {
        let Some(attribute) = address.attribute(name)? else { return Ok(Some(0)) };
        let text = attribute.value();
        Ok(match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        })
    };
    let unreadable = |attribute: Attribute<'_, '_>| {
        let problem = XmlProblem::Unsupported { what: address.title(), reason: "its numbers can't be read" };
        Fault::new(attribute.range(), problem)
    };
    let (key, attribute, value) = match address.text_of("type").map(|kind| kind.value()) {
        Some("pci") if model.is_pci() => {
            let (domain, bus) = (number("domain")?, number("bus")?);
            let Some(attribute) = address.text_of("slot") else { return Ok(false) };
            let (slot, function) = (number("slot")?, number("function")?);
            // libvirt's own word for no place yet.
            if (domain, bus) != (Some(0), Some(0)) || slot == Some(0) {
                return Ok(false);
            }
            if let Some(multifunction) = address.attribute("multifunction")? {
                choose(multifunction, &[("off", ())])?;
            }
            let (Some(slot), Some(function)) = (slot, function) else { return Err(unreadable(attribute)) };
            let value =
                if function == 0 { format!("{slot:02x}") } else { format!("{slot:02x}.{function:x}") };
            ("address", attribute, value)
        }
        Some("ccw") => {
            address.takes(&["type", "cssid", "ssid", "devno"], &[])?;
            // Without a number, libvirt chooses one, and QEMU does.
            let Some(attribute) = address.text_of("devno") else { return Ok(true) };
            let (subsystem, set) = (address.needs("cssid")?, address.needs("ssid")?);
            let (Some(cssid), Some(ssid), Some(devno)) =
                (number("cssid")?, number("ssid")?, number("devno")?)
            else {
                return Err(unreadable(attribute));
            };
            if cssid > 0xfe || ssid > 3 {
                return Err(unreadable(if ssid > 3 { set } else { subsystem }));
            }
            ("devno", attribute, format!("{cssid:x}.{ssid:x}.{devno:04x}"))
        }
        Some("virtio-mmio") => {
            address.takes(&["type"], &[])?;
            return Ok(true);
        }
        _ => return Ok(false),
    };
    let Some(property) = Property::all().find(|property| property.as_str() == key) else { return Ok(false) };
    let (key_span, value_span) = (attribute.range(), attribute.range_value());
    draft.give(Key::Device(property), Given { key_span, value_span, value: value.into() })?;
    Ok(true)
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

fn link<'d>(interface: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(link) = interface.child("link") else { return Ok(()) };
    link.takes(&["state"], &[])?;
    let state = link.needs("state")?;
    give_as(draft, Key::LinkState, state, choose(state, &[("up", "up"), ("down", "down")])?)
}

/// Programs that configure a tap; libvirt runs none for a macvtap.
fn scripts<'d>(interface: Element<'d>, kind: Type, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    for (name, key) in [("script", Key::Script), ("downscript", Key::Downscript)] {
        let Some(script) = interface.child(name) else { continue };
        script.takes(&["path"], &[])?;
        match script.text_of("path") {
            Some(path) if kind == Type::Ethernet => give(draft, key, path)?,
            Some(path) => {
                let problem = XmlProblem::Element { name: name.to_owned(), parent: interface.title() };
                return Err(Fault::new(path.range(), problem));
            }
            None => {}
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
        Type::Vdpa | Type::VhostUser => backend.takes(&[], &[])?,
    }
    for (name, key) in [("tap", Key::TunPath), ("vhost", Key::VhostPath)] {
        // As libvirt, which opens no vhost-net for another model.
        if let Some(path) = backend.attribute(name)?.filter(|_| name == "tap" || model.is_virtio()) {
            give(draft, key, path)?;
        }
    }
    Ok(())
}

fn port<'d>(interface: Element<'d>, shared: &[Shared], draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(port) = interface.child("port") else {
        let isolated = shared.iter().any(|shared| shared.isolated);
        let all = [(Key::Isolated, "on".to_owned())];
        return if isolated { give_all_of_network(interface, &all, draft) } else { Ok(()) };
    };
    port.takes(&["isolated"], &[])?;
    let isolated = port.needs("isolated")?;
    give_as(draft, Key::Isolated, isolated, choose(isolated, &[("yes", "on"), ("no", "off")])?)
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
