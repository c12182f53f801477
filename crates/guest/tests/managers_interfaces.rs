//! The raw interfaces in the tests of programs that write libvirt's XML: taken, or refused for a reason
//! that is stated.
//!
//! `scripts/test-managers-xml` fetches the sources and runs it. They are not part of this repository.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::Path;

use roxmltree::Document;
use taptrail_guest::xml::{self, Networks};

/// The types that taptrail opens.
const RAW: [&str; 5] = ["bridge", "network", "ethernet", "direct", "vdpa"];

/// How many are taken at least of each program's.
const TAKEN: [(&str, usize); 3] = [("virt-manager", 177), ("nova", 43), ("kubevirt", 5)];

/// Why the others are refused.
const REASONS: [&str; 7] = [
    // Another program of the host's binds the port.
    "<virtualport type='802.1Qb",
    // libvirt refuses these, too.
    "multicast MAC address",
    "'filter' has no effect on a port of Open vSwitch",
    "Element <source> is missing",
    // A macvtap keeps its MAC; a tap that is there keeps its owner's queues.
    "trustGuestRxFilters='yes' is not supported",
    "'inbound' has no meaning with 'tap'",
    // libvirt reads it for its networks alone.
    "'portgroup' is not supported: only networks have",
];

/// The texts of the interfaces in a file, XML or a program's.
fn interfaces(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    let is_interface = |text: &str| {
        // A template of a program has gaps, and a difference of two files has lines of both.
        let is_changed = |line: &str| line.starts_with('-') || line.starts_with('+');
        !text.contains("%s") && !text.contains("%(") && !text.lines().any(is_changed)
    };
    while let Some(start) = rest.find("<interface type=") {
        rest = &rest[start..];
        let head = rest.find('>').unwrap_or(rest.len() - 1);
        let end = if rest[..head].ends_with('/') {
            head + 1
        } else {
            match rest.find("</interface>") {
                Some(end) => end + "</interface>".len(),
                None => break,
            }
        };
        found.extend(Some(&rest[..end]).filter(|text| is_interface(text)));
        rest = &rest[end..];
    }
    found
}

fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Each network that an interface names is a bridge's, with the port group that it names.
fn networks(document: &Document<'_>) -> Networks {
    let mut networks = Networks::default();
    for source in document.descendants().filter(|node| node.has_tag_name("source")) {
        let Some(name) = source.attribute("network") else { continue };
        let group = source.attribute("portgroup").map(|name| format!("<portgroup name='{name}'/>"));
        let group = group.unwrap_or_default();
        let text = format!("<network><name>{name}</name><bridge name='virbr0'/>{group}</network>");
        networks.add(&text, name).unwrap();
    }
    networks
}

/// Taken, all, and why others are refused.
fn count(directory: &Path) -> (usize, usize, BTreeMap<String, Vec<String>>) {
    let (mut taken, mut all, mut refused) = (0, 0, BTreeMap::<String, Vec<String>>::new());
    let mut paths = Vec::new();
    files(directory, &mut paths);
    paths.sort();
    for path in paths {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for interface in interfaces(&text) {
            let Ok(document) = Document::parse(interface) else { continue };
            if !RAW.contains(&document.root_element().attribute("type").unwrap_or_default()) {
                continue;
            }
            all += 1;
            let name = path.strip_prefix(directory).unwrap().to_string_lossy().into_owned();
            match xml::parse(interface, &name, &networks(&document)) {
                Ok(_) => taken += 1,
                Err(error) => {
                    let help = error.help.map(|help| format!(" ({help})")).unwrap_or_default();
                    refused.entry(format!("{}{help}", error.problem)).or_default().push(name);
                }
            }
        }
    }
    (taken, all, refused)
}

#[test]
#[ignore = "needs sources of other programs: scripts/test-managers-xml"]
fn interfaces_of_other_programs_are_taken_or_refused_for_a_reason() {
    let sources =
        std::env::var_os("MANAGERS_SOURCES").expect("MANAGERS_SOURCES names a directory of sources");
    for (program, least) in TAKEN {
        let (taken, all, refused) = count(&Path::new(&sources).join(program));
        println!("{program}: {taken} of {all} taken");
        for (reason, files) in &refused {
            println!("  {} refused: {reason}: {}", files.len(), files.join(" "));
            assert!(REASONS.iter().any(|known| reason.contains(known)), "{reason}");
        }
        assert!(taken >= least, "{program}: {taken} of {all}");
    }
}
