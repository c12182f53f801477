//! Every raw interface of libvirt's own test inputs: taken, or refused for a reason that is stated.
//!
//! `scripts/test-libvirt-xml` fetches libvirt's sources and runs it. They are not part of this
//! repository.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use taptrail_guest::xml::{self, Networks};

/// The types that a tap or macvtap carries.
const RAW: [&str; 4] = ["bridge", "network", "ethernet", "direct"];

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

#[test]
#[ignore = "needs libvirt's sources: scripts/test-libvirt-xml"]
fn libvirts_own_interfaces_are_taken_or_refused_for_a_reason() {
    let mut networks = Networks::default();
    for name in NETWORKS {
        let forward = if name.starts_with("hostdev") { "<forward mode='hostdev'/>" } else { "" };
        let groups = "<portgroup name='bob'/><portgroup name='sam'/>";
        let text = format!("<network><name>{name}</name>{forward}<bridge name='virbr0'/>{groups}</network>");
        networks.add(&text, name).unwrap();
    }
    let (mut taken, mut refused) = (0, BTreeMap::<String, Vec<String>>::new());
    let mut all = 0;
    for path in inputs() {
        let text = std::fs::read_to_string(&path).unwrap();
        let Ok(document) = roxmltree::Document::parse(&text) else { continue };
        let of_raw_type = |node: &roxmltree::Node<'_, '_>| {
            node.has_tag_name("interface") && node.attribute("type").is_some_and(|kind| RAW.contains(&kind))
        };
        for interface in document.descendants().filter(of_raw_type) {
            all += 1;
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match xml::parse(&text[interface.range()], &name, &networks) {
                Ok(read) => {
                    taken += 1;
                    println!("{name}: {}", read.nic);
                }
                Err(error) => refused.entry(error.problem.to_string()).or_default().push(name),
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
