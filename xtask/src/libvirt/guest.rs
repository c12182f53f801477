//! Guests and their interfaces, as libvirt's XML.

use std::fmt::Write;

/// A small machine without a disk or an operating system: its firmware looks for a network to boot
/// from.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) nics: Vec<Nic>,
}

/// An interface.
#[derive(Clone, Debug)]
pub(super) struct Nic {
    pub(super) mac: String,
    source: Source,
    queues: u32,
    backend: Option<&'static str>,
    filter: Option<&'static str>,
    /// A file for the NIC's ROM.
    rom: Option<&'static str>,
    link_down: bool,
    /// libvirt's alias of it, which differs for two interfaces with the same MAC.
    alias: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum Source {
    Bridge(&'static str),
    Macvtap(&'static str),
    /// A tap that libvirt makes by this name and leaves to others.
    Ethernet(&'static str),
}

impl Nic {
    pub(super) fn bridge(bridge: &'static str, mac: &str) -> Self {
        Self::of(Source::Bridge(bridge), mac)
    }

    pub(super) fn macvtap(lower: &'static str, mac: &str) -> Self {
        Self::of(Source::Macvtap(lower), mac)
    }

    pub(super) fn ethernet(name: &'static str, mac: &str) -> Self {
        Self::of(Source::Ethernet(name), mac)
    }

    fn of(source: Source, mac: &str) -> Self {
        let mac = mac.to_owned();
        Self { mac, source, queues: 1, backend: None, filter: None, rom: None, link_down: false, alias: None }
    }

    pub(super) fn queues(mut self, queues: u32) -> Self {
        self.queues = queues;
        self
    }

    /// Asks for `vhost` or `qemu` by name, instead of what libvirt takes by itself.
    pub(super) fn backend(mut self, name: &'static str) -> Self {
        self.backend = Some(name);
        self
    }

    pub(super) fn filter(mut self, name: &'static str) -> Self {
        self.filter = Some(name);
        self
    }

    pub(super) fn rom(mut self, file: &'static str) -> Self {
        self.rom = Some(file);
        self
    }

    pub(super) fn link_down(mut self) -> Self {
        self.link_down = true;
        self
    }

    /// It begins with `ua-`.
    pub(super) fn alias(mut self, name: &'static str) -> Self {
        self.alias = Some(name);
        self
    }

    pub(super) fn xml(&self) -> String {
        let mut xml = String::new();
        let (kind, source) = match self.source {
            Source::Bridge(name) => ("bridge", format!("<source bridge='{name}'/>")),
            Source::Macvtap(lower) => ("direct", format!("<source dev='{lower}' mode='bridge'/>")),
            Source::Ethernet(name) => ("ethernet", format!("<target dev='{name}'/>")),
        };
        let _ = write!(xml, "<interface type='{kind}'><mac address='{}'/>{source}", self.mac);
        xml.push_str("<model type='virtio'/>");
        let mut driver = String::new();
        if let Some(name) = self.backend {
            let _ = write!(driver, " name='{name}'");
        }
        if self.queues > 1 {
            let _ = write!(driver, " queues='{}'", self.queues);
        }
        if !driver.is_empty() {
            let _ = write!(xml, "<driver{driver}/>");
        }
        if let Some(filter) = self.filter {
            let _ = write!(xml, "<filterref filter='{filter}'/>");
        }
        if let Some(file) = self.rom {
            let _ = write!(xml, "<rom file='{file}'/>");
        }
        if self.link_down {
            xml.push_str("<link state='down'/>");
        }
        if let Some(name) = self.alias {
            let _ = write!(xml, "<alias name='{name}'/>");
        }
        xml.push_str("</interface>");
        xml
    }
}

impl Guest {
    /// Only for `kvm` libvirt opens vhost-net. Without ACPI's hot-plug, an empty port lets go of a
    /// NIC without a guest's help.
    pub(super) fn xml(&self) -> String {
        let nics: String = self.nics.iter().map(Nic::xml).collect();
        let ports = "<controller type='pci' model='pcie-root-port'/>".repeat(self.nics.len() + 3);
        format!(
            "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <name>{}</name><uuid>{}</uuid>\
             <memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='network'/></os>\
             <features><acpi/></features>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
             <controller type='usb' model='none'/><controller type='pci' model='pcie-root'/>{ports}{nics}\
             <memballoon model='none'/></devices>\
             <qemu:commandline><qemu:arg value='-global'/>\
             <qemu:arg value='ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'/></qemu:commandline>\
             </domain>\n",
            self.name, self.uuid
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_says_only_what_was_asked_for() {
        assert_eq!(
            Nic::bridge("br0", "52:54:00:00:00:01").xml(),
            "<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>\
             <model type='virtio'/></interface>"
        );
        assert_eq!(
            Nic::macvtap("v0", "52:54:00:00:00:02").queues(2).backend("vhost").filter("f").xml(),
            "<interface type='direct'><mac address='52:54:00:00:00:02'/><source dev='v0' mode='bridge'/>\
             <model type='virtio'/><driver name='vhost' queues='2'/><filterref filter='f'/></interface>"
        );
    }

    #[test]
    fn a_guest_has_ports_for_more_interfaces() {
        let nics = vec![Nic::ethernet("t0", "52:54:00:00:00:03").rom("/x").link_down()];
        let guest = Guest { name: "g".to_owned(), uuid: "u".to_owned(), nics };
        assert_eq!(guest.xml().matches("pcie-root-port").count(), 4);
        assert_eq!(guest.xml().matches("<interface type='ethernet'>").count(), 1);
    }
}
