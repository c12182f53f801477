//! Reads libvirt's state of its running guests: `NAME.xml` in `/run/libvirt/qemu`.
//!
//! Each file is a `<domstatus pid='…'>` around the `<domain>` as it runs (`virDomainObjFormat()`).
//! In it each interface has its MAC and the name of its `<target>`.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use roxmltree::{Document, Node, ParsingOptions};
use taptrail_record::MacAddr;
use uuid::Uuid;

use super::InterfaceName;

/// The most bytes of one file that are read; libvirt's file for a guest with 100 disks has 150 KiB.
const MAX_STATUS_BYTES: u64 = 4 * 1024 * 1024;
const MAX_XML_NODES: u32 = 200_000;

/// A guest that libvirt runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Domain {
    pub(super) pid: u32,
    pub(super) name: String,
    pub(super) uuid: Uuid,
    pub(super) interfaces: Vec<InterfaceName>,
    /// When the file was last written: the process was running then.
    pub(super) written: Option<SystemTime>,
}

/// The guests in libvirt's state directory. A file that can't be read or parsed is skipped.
pub(super) fn domains(directory: &Path) -> Vec<Domain> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let files = entries.flatten().map(|entry| entry.path());
    files
        .filter(|file| file.extension().is_some_and(|end| end == "xml"))
        .filter_map(|file| read(&file))
        .collect()
}

/// The interfaces of one guest in libvirt's state of it, if that is for the process with this pid.
pub(crate) fn interface_names(directory: &Path, name: &str, pid: u32) -> Vec<InterfaceName> {
    // libvirt allows no such name; other managers may.
    if name.contains('/') || name.starts_with('.') {
        return Vec::new();
    }
    let domain = read(&directory.join(format!("{name}.xml")));
    domain.filter(|domain| domain.pid == pid).map(|domain| domain.interfaces).unwrap_or_default()
}

fn read(file: &Path) -> Option<Domain> {
    let file = File::open(file).ok()?;
    let about = file.metadata().ok()?;
    if !about.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_STATUS_BYTES).read_to_string(&mut text).ok()?;
    Some(Domain { written: about.modified().ok(), ..parse(&text)? })
}

fn parse(text: &str) -> Option<Domain> {
    let options =
        ParsingOptions { allow_dtd: false, nodes_limit: MAX_XML_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).ok()?;
    let status = document.root_element();
    let pid = status.has_tag_name("domstatus").then(|| status.attribute("pid"))??;
    let domain = child(status, "domain")?;
    let text = |name| child(domain, name).and_then(|node| node.text());
    let devices = child(domain, "devices");
    let interfaces = devices.into_iter().flat_map(|devices| devices.children());
    Some(Domain {
        pid: pid.parse().ok()?,
        name: text("name")?.to_owned(),
        uuid: text("uuid")?.trim().parse().ok()?,
        interfaces: interfaces.filter(|node| node.has_tag_name("interface")).filter_map(interface).collect(),
        written: None,
    })
}

fn interface(node: Node<'_, '_>) -> Option<InterfaceName> {
    let mac: MacAddr = child(node, "mac")?.attribute("address")?.parse().ok()?;
    let ifname = child(node, "target")?.attribute("dev")?.parse().ok()?;
    Some(InterfaceName { mac, ifname })
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "<!-- WARNING -->
<domstatus state='running' reason='booted' pid='4711'>
  <monitor path='/var/lib/libvirt/qemu/domain-1-web1/monitor.sock' type='unix'/>
  <domain type='qemu' id='1'>
    <name>web1</name>
    <uuid>2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e</uuid>
    <devices>
      <interface type='bridge'>
        <mac address='52:54:00:00:00:01'/>
        <source bridge='br0'/>
        <target dev='vnet3'/>
      </interface>
      <interface type='user'><mac address='52:54:00:00:00:02'/></interface>
    </devices>
  </domain>
</domstatus>";

    #[test]
    fn a_running_guest_is_known_with_its_interfaces() {
        let domain = parse(STATUS).unwrap();
        assert_eq!((domain.pid, domain.name.as_str()), (4711, "web1"));
        let named = InterfaceName { mac: MacAddr::kvm([0, 0, 1]), ifname: "vnet3".parse().unwrap() };
        assert_eq!(domain.interfaces, [named]);
    }

    #[test]
    fn a_guests_own_file_is_read_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("web1.xml"), STATUS).unwrap();
        let named = |name: &str, pid| interface_names(directory.path(), name, pid).len();
        assert_eq!((named("web1", 4711), named("web1", 4712), named("web2", 4711)), (1, 0, 0));
        let beside = directory.path().join("run");
        std::fs::create_dir(&beside).unwrap();
        assert!(interface_names(&beside, "../web1", 4711).is_empty());
    }

    #[test]
    fn what_is_no_state_of_a_guest_is_skipped() {
        let configuration = &STATUS[STATUS.find("<domain").unwrap()..STATUS.find("</domstatus").unwrap()];
        for text in
            [configuration, "", "<domstatus pid='1'/>", "<!DOCTYPE a><domstatus pid='1'/>", &STATUS[..300]]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(domains(Path::new("/nonexistent")).is_empty());
    }
}
