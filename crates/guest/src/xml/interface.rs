//! Converts each element of an `<interface>` to keys of a SPEC.

use std::borrow::Cow;

use roxmltree::{Attribute, Node};

use super::element::{Element, choose};
use super::error::{Fault, XmlProblem};
use crate::spec::{Given, Key, NicSpec, PartialSpec, quoted};

/// The types of interface that taptrail opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    /// A new tap on a bridge.
    Bridge,
    /// A tap that is there.
    Ethernet,
    /// A new macvtap.
    Direct,
}

/// What every type takes.
const CHILDREN: [&str; 9] =
    ["mac", "source", "model", "target", "mtu", "driver", "backend", "filterref", "alias"];

pub(super) fn read(root: Node<'_, '_>) -> Result<NicSpec, Fault> {
    let interface = Element::new(root)?;
    if interface.name() != "interface" {
        return Err(refuse_root(interface));
    }
    let kind = kind(interface)?;
    match kind {
        Type::Bridge => interface.takes(&["type"], &[&CHILDREN[..], &["port", "vlan"]].concat())?,
        Type::Ethernet | Type::Direct => interface.takes(&["type"], &CHILDREN)?,
    }

    let mut draft = PartialSpec::default();
    source(interface, kind, &mut draft)?;
    target(interface, kind, &mut draft)?;
    for (element, attribute, key) in
        [("mac", "address", Key::Mac), ("model", "type", Key::Model), ("mtu", "size", Key::Mtu)]
    {
        if let Some(element) = interface.child(element) {
            element.takes(&[attribute], &[])?;
            give(&mut draft, key, element.needs(attribute)?)?;
        }
    }
    driver(interface, &mut draft)?;
    backend(interface, kind, &mut draft)?;
    port(interface, &mut draft)?;
    vlan(interface, &mut draft)?;
    if let Some(filter) = interface.child("filterref") {
        filter.takes(&["filter"], &[])?;
        give(&mut draft, Key::Filter, filter.needs("filter")?)?;
    }
    alias(interface, &mut draft)?;
    Ok(draft.finish(interface.span())?)
}

fn refuse_root(root: Element<'_>) -> Fault {
    let fault = Fault::new(root.span(), XmlProblem::Root(quoted(root.name())));
    match root.name() {
        "domain" | "devices" => fault.help(
            "give one interface alone: virsh dumpxml GUEST --inactive --xpath '(//interface)[1]' writes the first",
        ),
        _ => fault,
    }
}

fn kind(interface: Element<'_>) -> Result<Type, Fault> {
    let attribute = interface.needs("type")?;
    match attribute.value() {
        "bridge" => Ok(Type::Bridge),
        "ethernet" => Ok(Type::Ethernet),
        "direct" => Ok(Type::Direct),
        other => {
            let fault = Fault::new(attribute.range_value(), XmlProblem::Type(quoted(other)));
            Err(match other {
                "network" => {
                    fault.help("use type='bridge' with the network's bridge, which virsh net-info names")
                }
                _ => fault.help("bridge, ethernet or direct is needed"),
            })
        }
    }
}

/// Takes the value of an attribute as the key's.
fn give<'d>(draft: &mut PartialSpec<'d>, key: Key, attribute: Attribute<'d, 'd>) -> Result<(), Fault> {
    give_as(draft, key, attribute, attribute.value())
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

fn source<'d>(interface: Element<'d>, kind: Type, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    match kind {
        Type::Bridge => {
            let source = interface.needs_child("source")?;
            source.takes(&["bridge"], &[])?;
            give(draft, Key::Bridge, source.needs("bridge")?)
        }
        Type::Direct => {
            let source = interface.needs_child("source")?;
            source.takes(&["dev", "mode"], &[])?;
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
        // An empty one is harmless.
        Type::Ethernet => interface.child("source").map_or(Ok(()), |source| source.takes(&[], &[])),
    }
}

fn target<'d>(interface: Element<'d>, kind: Type, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    if kind != Type::Ethernet {
        let Some(target) = interface.child("target") else { return Ok(()) };
        target.takes(&["dev"], &[])?;
        let name = target.needs("dev")?;
        return if made_by_libvirt(name.value()) { Ok(()) } else { give(draft, Key::Ifname, name) };
    }
    let missing = "taptrail opens a tap that exists; for a new one on a bridge use type='bridge'";
    let target = interface.needs_child("target").map_err(|fault| fault.help(missing))?;
    target.takes(&["dev", "managed"], &[])?;
    let name = target.needs("dev").map_err(|fault| fault.help(missing))?;
    let managed =
        target.attribute("managed")?.map(|it| choose(it, &[("yes", true), ("no", false)])).transpose()?;
    // libvirt replaces such a name by one of its own, unless managed='no'.
    if managed != Some(false) && made_by_libvirt(name.value()) {
        let fault = Fault::new(name.range_value(), XmlProblem::GeneratedName(quoted(name.value())));
        return Err(fault.help("with managed='no' an existing tap of this name is meant"));
    }
    give(draft, Key::Tap, name)
}

/// libvirt's `VIR_NET_GENERATED_*_PREFIX`: such a name in a live guest's XML was chosen by libvirt
/// and is ignored where XML is read, so that a copy does not collide with its original.
fn made_by_libvirt(name: &str) -> bool {
    ["vnet", "macvtap", "macvlan"].iter().any(|prefix| name.starts_with(prefix))
}

fn driver<'d>(interface: Element<'d>, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(driver) = interface.child("driver") else { return Ok(()) };
    driver.takes(&["name", "queues"], &[])?;
    if let Some(name) = driver.attribute("name")? {
        give_as(draft, Key::Vhost, name, choose(name, &[("vhost", "on"), ("qemu", "off")])?)?;
    }
    match driver.attribute("queues")? {
        Some(queues) => give(draft, Key::Queues, queues),
        None => Ok(()),
    }
}

/// Paths of the devices to open.
fn backend<'d>(interface: Element<'d>, kind: Type, draft: &mut PartialSpec<'d>) -> Result<(), Fault> {
    let Some(backend) = interface.child("backend") else { return Ok(()) };
    match kind {
        Type::Bridge | Type::Ethernet => backend.takes(&["tap", "vhost"], &[])?,
        Type::Direct => backend.takes(&["vhost"], &[])?,
    }
    for (name, key) in [("tap", Key::TunPath), ("vhost", Key::VhostPath)] {
        if let Some(path) = backend.attribute(name)? {
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
    vlan.takes(&[], &["tag"])?;
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
        own if own.starts_with("net") => Ok(()),
        other => Err(Fault::new(name.range_value(), XmlProblem::Alias(quoted(other)))),
    }
}
