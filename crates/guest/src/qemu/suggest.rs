//! The `--nic` that does what a refused `-netdev` would have done.

use taptrail_record::{IfName, MacAddr};

use super::fields::Fields;
use super::model::Model;
use crate::spec::VdpaNode;

/// QEMU's bridge when none is named (`DEFAULT_BRIDGE_INTERFACE`, its net/net.c).
const DEFAULT_BRIDGE: &str = "br0";

/// QEMU's vDPA device when none is named (`net_init_vhost_vdpa()`, its net/vhost-vdpa.c).
const DEFAULT_VDPA: &str = "/dev/vhost-vdpa-0";
const VDPA_NODE: &str = "/dev/vhost-vdpa-N";

/// The most queues of a tap (`MAX_TAP_QUEUES`, the kernel's drivers/net/tun.c).
const MAX_QUEUES: usize = 256;

/// A SPEC from the backend's fields and, where one is found, those of the NIC on it. Capitals mark
/// what the user has to fill in.
pub(super) fn spec(backend: &Fields, nic: Option<&Fields>) -> String {
    let mut spec = place(backend);
    let nic_field = |names: [&'static str; 2]| {
        [Some(backend), nic]
            .into_iter()
            .flatten()
            .find_map(|fields| names.iter().find_map(|name| fields.get(name)))
    };
    if let Some(mac) = nic_field(["mac", "macaddr"]).and_then(|text| text.parse::<MacAddr>().ok()) {
        spec.push_str(&format!(",mac={mac}"));
    }
    if let Some(model) = nic_field(["model", "driver"]).and_then(|text| Model::parse(text).ok())
        // Where a machine has virtio on PCI, which nearly all have, virtio-net-pci is the default.
        && model.qemu_driver() != Model::default().qemu_driver()
    {
        spec.push_str(&format!(",model={model}"));
    }
    if let Some(queues) = queues(backend) {
        spec.push_str(&format!(",queues={queues}"));
    }
    if let Some(vhost) = vhost(backend).filter(|_| backend.get("type") != Some("vhost-vdpa")) {
        spec.push_str(if vhost { ",vhost=on" } else { ",vhost=off" });
    }
    spec
}

fn place(backend: &Fields) -> String {
    let name = |key| backend.get(key).and_then(|text| text.parse::<IfName>().ok());
    if backend.get("type") == Some("vhost-vdpa") {
        // Of a descriptor, the number alone is known.
        let node = backend.get("vhostdev").unwrap_or(DEFAULT_VDPA);
        let node =
            if VdpaNode::new(node).is_some() && backend.get("vhostfd").is_none() { node } else { VDPA_NODE };
        return format!("vdpa={node}");
    }
    let is_bridge = backend.all("type").any(|kind| kind == "bridge");
    if let Some(bridge) = name("br") {
        return format!("bridge={bridge}");
    }
    if is_bridge || backend.get("helper").is_some() {
        return format!("bridge={DEFAULT_BRIDGE}");
    }
    if backend.get("fd").is_some() || backend.get("fds").is_some() {
        return "tap=NAME".to_owned();
    }
    // Any other script would have put the tap where it belongs.
    let no_script = backend.get("script") == Some("no");
    match name("ifname") {
        Some(tap) if no_script => format!("tap={tap}"),
        Some(tap) => format!("bridge=BRIDGE,ifname={tap}"),
        None => "bridge=BRIDGE".to_owned(),
    }
}

fn queues(backend: &Fields) -> Option<usize> {
    let count = match (backend.get("queues"), backend.get("fds")) {
        (Some(queues), _) => queues.parse().ok()?,
        (None, fds) => fds?.split(':').count(),
    };
    (2..=MAX_QUEUES).contains(&count).then_some(count)
}

fn vhost(backend: &Fields) -> Option<bool> {
    let switch = |key| match backend.get(key)? {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    };
    let descriptor = backend.get("vhostfd").or(backend.get("vhostfds")).map(|_| true);
    switch("vhost").or(descriptor).or(switch("vhostforce").filter(|&force| force))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggested(backend: &str, nic: Option<&str>) -> String {
        let fields = |text, implied| Fields::parse(text, implied).unwrap();
        spec(&fields(backend, "type"), nic.map(|nic| fields(nic, "driver")).as_ref())
    }

    #[test]
    fn a_suggestion_keeps_what_was_said() {
        for (backend, spec) in [
            ("tap,id=n0,ifname=vnet5,script=no", "tap=vnet5"),
            ("tap,id=n0,ifname=vnet5", "bridge=BRIDGE,ifname=vnet5"),
            ("tap,id=n0", "bridge=BRIDGE"),
            ("tap,id=n0,script=no,ifname=a name", "bridge=BRIDGE"),
            ("tap,id=n0,helper=/usr/lib/qemu/qemu-bridge-helper", "bridge=br0"),
            ("tap,id=n0,br=br-lan,helper=x", "bridge=br-lan"),
            ("bridge,id=n0", "bridge=br0"),
            ("bridge,id=n0,br=br1", "bridge=br1"),
            ("tap,id=n0,fd=7", "tap=NAME"),
            ("tap,id=n0,fds=7:8,vhostfds=9:10", "tap=NAME,queues=2,vhost=on"),
            ("vhost-vdpa,id=n0", "vdpa=/dev/vhost-vdpa-0"),
            ("vhost-vdpa,id=n0,vhostdev=/dev/vhost-vdpa-3,queues=2", "vdpa=/dev/vhost-vdpa-3,queues=2"),
            ("vhost-vdpa,id=n0,vhostdev=/dev/fdset/1", "vdpa=/dev/vhost-vdpa-N"),
            ("vhost-vdpa,id=n0,vhostfd=7", "vdpa=/dev/vhost-vdpa-N"),
            ("tap,ifname=v,script=no,queues=4,vhost=off", "tap=v,queues=4,vhost=off"),
            ("tap,ifname=v,script=no,queues=1,vhost", "tap=v,vhost=on"),
            ("tap,ifname=v,script=no,queues=9999,vhostforce=on", "tap=v,vhost=on"),
            (
                "tap,ifname=v,script=no,mac=52:54:00:00:00:01,model=e1000",
                "tap=v,mac=52:54:00:00:00:01,model=e1000",
            ),
        ] {
            assert_eq!(suggested(backend, None), spec, "{backend}");
        }
    }

    #[test]
    fn the_nic_on_the_backend_is_carried_along() {
        let nic = "e1000e,netdev=n0,mac=52:54:00:AA:00:01";
        assert_eq!(suggested("bridge,id=n0", Some(nic)), "bridge=br0,mac=52:54:00:aa:00:01,model=e1000e");
        let nic = "virtio-net,netdev=n0,mac=no";
        assert_eq!(suggested("bridge,id=n0", Some(nic)), "bridge=br0");
        assert_eq!(suggested("bridge,id=n0", Some("virtio-net-pci,netdev=n0")), "bridge=br0");
    }
}
