//! The descriptors on QEMU's command line.

use std::collections::BTreeMap;

use serde_json::Value;

/// A guest as on its QEMU's command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CommandLine {
    pub(super) uuid: String,
    /// By descriptor.
    nics: BTreeMap<u32, Nic>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) netdev: String,
    pub(super) mac: Option<String>,
}

impl CommandLine {
    /// Reads `/proc/PID/cmdline`; none of a QEMU that is no guest, such as one that libvirt asks
    /// what it can do.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let words: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let values = |option: &str| {
            let after = words.iter().zip(words.iter().skip(1)).filter(move |(word, _)| *word == option);
            after.map(|(_, value)| value.as_ref()).collect::<Vec<_>>()
        };
        let uuid = (*values("-uuid").first()?).to_owned();
        let mut macs = BTreeMap::new();
        for device in values("-device").into_iter().filter_map(object) {
            if let (Some(netdev), Some(mac)) = (text(&device, "netdev"), text(&device, "mac")) {
                macs.insert(netdev, mac);
            }
        }
        let mut nics = BTreeMap::new();
        for device in values("-netdev").into_iter().filter_map(object) {
            let Some(netdev) = text(&device, "id") else { continue };
            for fd in ["fd", "fds", "vhostfd", "vhostfds"].iter().filter_map(|key| text(&device, key)) {
                for number in fd.split(':').filter_map(|number| number.parse().ok()) {
                    let nic = Nic { mac: macs.get(&netdev).cloned(), netdev: netdev.clone() };
                    nics.insert(number, nic);
                }
            }
        }
        Some(Self { uuid, nics })
    }

    /// The interface that this descriptor was given for.
    pub(super) fn nic(&self, fd: u32) -> Option<&Nic> {
        self.nics.get(&fd)
    }
}

/// libvirt writes these options' values as JSON.
fn object(value: &str) -> Option<Value> {
    serde_json::from_str(value).ok().filter(Value::is_object)
}

fn text(object: &Value, key: &str) -> Option<String> {
    Some(object.get(key)?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "7a7a0000-0000-4000-8000-000000000001";

    fn parse(words: &[&str]) -> Option<CommandLine> {
        CommandLine::parse(words.join("\0").as_bytes())
    }

    #[test]
    fn each_descriptor_has_its_interface() {
        let found = parse(&[
            "/usr/bin/qemu-system-x86_64",
            "-uuid",
            UUID,
            "-netdev",
            r#"{"type":"tap","fds":"30:31","vhost":true,"vhostfds":"32:33","id":"hostnet0"}"#,
            "-device",
            r#"{"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0","mac":"52:54:00:00:00:01"}"#,
            "-netdev",
            r#"{"type":"tap","fd":"34","id":"hostnet1"}"#,
            "-device",
            r#"{"driver":"virtio-blk"}"#,
            "-device",
            "isa-serial,chardev=c0",
            "",
        ])
        .unwrap();
        assert_eq!(found.uuid, UUID);
        for fd in 30..34 {
            let nic = found.nic(fd).unwrap();
            assert_eq!((&*nic.netdev, nic.mac.as_deref()), ("hostnet0", Some("52:54:00:00:00:01")));
        }
        assert_eq!(found.nic(34), Some(&Nic { netdev: "hostnet1".to_owned(), mac: None }));
        assert_eq!(found.nic(35), None);
    }

    #[test]
    fn a_qemu_without_a_uuid_is_no_guest() {
        assert_eq!(parse(&["qemu-system-x86_64", "-machine", "none", "-qmp", "unix:/x"]), None);
        assert_eq!(parse(&["qemu-system-x86_64", "-uuid"]), None);
        assert_eq!(parse(&[]), None);
    }
}
