//! Every interface of libvirt's own test inputs: a raw one is taken, or refused for a reason that is
//! stated; and what QEMU is given for it is what libvirt gives it, but for the differences that
//! docs/libvirt-inputs.md lists with their reasons.
//!
//! `scripts/test-libvirt-xml` fetches libvirt's sources and runs it. They are not part of this
//! repository.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod arguments;
mod differences;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arguments::LibvirtCommand;
use differences::Differences;
use roxmltree::{Document, Node};
use taptrail_guest::xml::{self, FromXml, Networks, XmlError};

/// The types that a tap or macvtap carries.
const RAW: [&str; 4] = ["bridge", "network", "ethernet", "direct"];

/// The types without a tap whose device is as that of a tap.
const OTHER: [&str; 7] = ["user", "client", "server", "mcast", "udp", "vhostuser", "vdpa"];

/// What of an interface is its device's.
const OF_THE_DEVICE: [&str; 9] =
    ["mac", "model", "driver", "boot", "acpi", "rom", "teaming", "address", "alias"];

/// How many are taken.
const TAKEN: usize = 24;

/// Why the others are refused: each needs another program of the host's, or is no tap at all.
const REASONS: [&str; 5] = [
    "<virtualport type='802.1Qb",
    // libvirt refuses it, too, where the network is a bridge.
    "<virtualport> is not supported: it has no type",
    "MidoNet",
    "'floor' is not supported",
    "it has PCI devices",
];

/// The networks that the inputs name: libvirt's tests answer for them with ports of a bridge.
const NETWORKS: [&str; 5] = [
    "nat-network;plug-network-basic",
    "nat-network;plug-bridge-basic",
    "openvswitch-net;plug-bridge-basic",
    "vepa-net;plug-bridge-basic",
    "hostdev;plug-hostdev-pci",
];

fn networks() -> Networks {
    let mut networks = Networks::default();
    for name in NETWORKS {
        let forward = if name.starts_with("hostdev") { "<forward mode='hostdev'/>" } else { "" };
        let groups = "<portgroup name='bob'/><portgroup name='sam'/>";
        let text = format!("<network><name>{name}</name>{forward}<bridge name='virbr0'/>{groups}</network>");
        networks.add(&text, name).unwrap();
    }
    networks
}

fn inputs() -> Vec<PathBuf> {
    let directory = std::env::var_os("LIBVIRT_TESTS").expect("LIBVIRT_TESTS names libvirt's tests directory");
    let directory = Path::new(&directory).join("qemuxmlconfdata");
    let mut all: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"))
        // What libvirt makes of them is called NAME.ARCHITECTURE-VERSION.xml.
        .filter(|path| !path.file_stem().unwrap().to_str().unwrap().contains('.'))
        .collect();
    all.sort();
    all
}

/// An interface in its domain.
struct Input<'d> {
    domain: Node<'d, 'd>,
    interface: Node<'d, 'd>,
    kind: &'d str,
}

impl<'d> Input<'d> {
    fn all(document: &'d Document<'d>) -> Vec<Self> {
        let domain = document.root_element();
        let interfaces = document.descendants().filter(|node| node.has_tag_name("interface"));
        interfaces
            .map(|interface| Self {
                domain,
                interface,
                kind: interface.attribute("type").unwrap_or_default(),
            })
            .collect()
    }

    fn text(&self, node: Node<'_, '_>) -> &'d str {
        &self.interface.document().input_text()[node.range()]
    }

    fn child(&self, name: &str) -> Option<Node<'d, 'd>> {
        self.interface.children().find(|node| node.has_tag_name(name))
    }

    /// As an interface alone in its domain.
    fn read(&self, interface: &str, networks: &Networks) -> Result<FromXml, XmlError> {
        let os = self.domain.children().find(|node| node.has_tag_name("os"));
        let os = os.map(|node| self.text(node)).unwrap_or_default();
        let text = format!("<domain>{os}<devices>{interface}</devices></domain>");
        let mut read = xml::parse_domain(&text, "domain.xml", networks)?;
        Ok(read.interfaces.remove(0))
    }

    /// Its device on a tap.
    fn on_a_tap(&self) -> String {
        let of_device = |node: &Node<'_, '_>| OF_THE_DEVICE.iter().any(|name| node.has_tag_name(*name));
        let children = self.interface.children().filter(of_device);
        let mut children: Vec<&str> = children.map(|node| self.text(node)).collect();
        // libvirt's own default for this type.
        if self.kind == "vhostuser" && self.child("model").is_none() {
            children.push("<model type='virtio'/>");
        }
        format!("<interface type='ethernet'>{}</interface>", children.join(""))
    }

    /// Whether QEMU connects to a vhost-user backend.
    fn is_vhost_user_client(&self) -> bool {
        let mode = self.child("source").and_then(|source| source.attribute("mode"));
        self.kind == "vhostuser" && mode == Some("client")
    }

    /// The properties that the interface itself names, which have to be the same.
    fn named(&self) -> Vec<&'static str> {
        let mut named = Vec::new();
        if self.child("boot").is_some() {
            named.push("bootindex");
        }
        let Some(address) = self.child("address") else { return named };
        let number = |name: &str| address.attribute(name).map(|text| text.trim_start_matches("0x"));
        let is_zero = |name: &str| number(name).is_none_or(|text| text.bytes().all(|digit| digit == b'0'));
        match address.attribute("type") {
            // The root bus; another is a controller of libvirt's numbering.
            Some("pci") if is_zero("domain") && is_zero("bus") && !is_zero("slot") => named.push("addr"),
            Some("ccw") if number("devno").is_some() => named.push("devno"),
            _ => {}
        }
        named
    }

    /// libvirt's arguments for it are the next of these that are not an earlier interface's.
    fn is_of(&self, mac: &str) -> bool {
        let own = self.child("mac").and_then(|node| node.attribute("address"));
        own.is_none_or(|own| own.eq_ignore_ascii_case(mac))
    }
}

#[test]
#[ignore = "needs libvirt's sources: scripts/test-libvirt-xml"]
fn libvirts_own_interfaces_are_taken_or_refused_for_a_reason() {
    let networks = networks();
    let (mut taken, mut refused) = (0, BTreeMap::<String, Vec<String>>::new());
    let mut all = 0;
    for path in inputs() {
        let text = std::fs::read_to_string(&path).unwrap();
        let Ok(document) = Document::parse(&text) else { continue };
        for input in Input::all(&document).into_iter().filter(|input| RAW.contains(&input.kind)) {
            all += 1;
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match input.read(input.text(input.interface), &networks) {
                Ok(read) => {
                    taken += 1;
                    println!("{name}: {}", read.nic);
                }
                Err(error) => {
                    assert!(error.help.is_some(), "{name}: what to use in its place? {error}");
                    refused.entry(error.problem.to_string()).or_default().push(name);
                }
            }
        }
    }
    for (reason, files) in &refused {
        println!("{} refused: {reason}: {}", files.len(), files.join(" "));
    }
    println!("{taken} of {all} taken");
    assert!(all >= 28, "{all} raw interfaces: are these libvirt's tests?");
    assert!(taken >= TAKEN, "{taken} of {all} are taken");
    for reason in refused.keys() {
        assert!(REASONS.iter().any(|known| reason.contains(known)), "{reason}");
    }
}

#[test]
#[ignore = "needs libvirt's sources: scripts/test-libvirt-xml"]
fn qemu_is_given_what_libvirt_gives_it() {
    let (networks, table) = (networks(), Differences::of_the_document());
    let (mut whole, mut devices, mut wrong) = (0, 0, Vec::new());
    let mut refused = BTreeMap::<String, Vec<String>>::new();
    for path in inputs() {
        let text = std::fs::read_to_string(&path).unwrap();
        let Ok(document) = Document::parse(&text) else { continue };
        let inputs = Input::all(&document);
        if inputs.is_empty() {
            continue;
        }
        // Domains that libvirt refuses have none.
        let Some(command) = LibvirtCommand::of_domain(&path) else { continue };
        let mut nics = command.nics.iter().peekable();
        for (index, input) in inputs.iter().enumerate() {
            let name = format!("{} {index}", path.file_stem().unwrap().to_string_lossy());
            let Some(theirs) = nics.next_if(|nic| input.is_of(&nic.device["mac"])) else { continue };
            let is_whole = RAW.contains(&input.kind) || input.kind == "vdpa" || input.is_vhost_user_client();
            if !is_whole && !OTHER.contains(&input.kind) {
                continue;
            }
            let interface = if is_whole { input.text(input.interface).to_owned() } else { input.on_a_tap() };
            let ours = match input.read(&interface, &networks) {
                Ok(read) => command.with_taptrail(&read.nic),
                Err(error) => {
                    if !RAW.contains(&input.kind) {
                        refused.entry(error.problem.to_string()).or_default().push(name);
                    }
                    continue;
                }
            };
            let mut found = table.unexplained(&theirs.device, &ours.device);
            found.extend(input.named().into_iter().filter_map(|property| {
                let (theirs, ours) = (theirs.device.get(property), ours.device.get(property));
                (theirs != ours).then(|| format!("{property}: named, but {theirs:?} and {ours:?}"))
            }));
            devices += 1;
            if is_whole {
                whole += 1;
                found.extend(table.unexplained(&theirs.netdev, &ours.netdev));
            }
            wrong.extend(found.into_iter().map(|found| format!("{name}: {found}")));
        }
        let left: Vec<_> = nics.map(|nic| &nic.device).collect();
        assert!(left.is_empty(), "{}: whose are {left:?}?", path.display());
    }
    for (reason, files) in &refused {
        println!("{} refused on a tap: {reason}: {}", files.len(), files.join(", "));
    }
    println!("{whole} netdevs and {devices} devices compared");
    assert!(wrong.is_empty(), "{} differences without a reason:\n{}", wrong.len(), wrong.join("\n"));
    table.report();
}
