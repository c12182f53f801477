use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::host_side::{list, written_address, written_limit, written_route};
use super::parse::escaped;
use super::{Backend, HostSide, Key, MacvtapMode, NicSpec};
use crate::filter::FilterChoice;
use crate::qemu::model::Model;

/// A SPEC in canonical form, with the place of each value.
#[derive(Default)]
pub(super) struct Canonical {
    pub(super) text: String,
    pub(super) values: Vec<(Key, Range<usize>)>,
}

impl Canonical {
    fn put(&mut self, key: Key, value: &str) {
        if !self.text.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(key.as_str());
        self.text.push('=');
        let start = self.text.len();
        self.text.push_str(&escaped(value));
        self.values.push((key, start..self.text.len()));
    }

    fn put_backend(&mut self, backend: &Backend) {
        match backend {
            Backend::Bridge(name) => self.put(Key::Bridge, name.as_str()),
            Backend::Tap(name) => self.put(Key::Tap, name.as_str()),
            Backend::NewTap => self.put(Key::NewTap, "on"),
            Backend::Vdpa(node) => self.put(Key::Vdpa, &node.to_string()),
            Backend::VhostUser(socket) => self.put(Key::VhostUser, socket.as_str()),
            Backend::Macvtap { lower, mode } => {
                self.put(Key::Macvtap, lower.as_str());
                if *mode != MacvtapMode::default() {
                    self.put(Key::Mode, mode.as_str());
                }
            }
        }
    }

    /// The place of the value of `key`.
    pub(super) fn span(&self, key: Key) -> Option<Range<usize>> {
        self.values.iter().find_map(|(other, span)| (*other == key).then(|| span.clone()))
    }
}

impl From<&NicSpec> for Canonical {
    /// The keys in their order, each once, without those at their defaults.
    fn from(spec: &NicSpec) -> Self {
        let mut canonical = Self::default();
        canonical.put_backend(&spec.backend);
        let mut put = |key, value: Option<&str>| {
            if let Some(value) = value {
                canonical.put(key, value);
            }
        };
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let default_vhost = spec.backend.default_vhost(&spec.model);
        put(Key::Mac, spec.mac.map(|mac| mac.to_string()).as_deref());
        put(Key::Model, (spec.model != Model::default()).then(|| spec.model.to_string()).as_deref());
        put(Key::Queues, (spec.queues.get() > 1).then(|| spec.queues.to_string()).as_deref());
        put(Key::Vhost, (spec.vhost != default_vhost).then(|| spec.vhost.as_str()));
        put(Key::Mtu, spec.mtu.map(|mtu| mtu.to_string()).as_deref());
        put(Key::Ifname, spec.ifname.as_ref().map(|name| name.as_str()));
        for (key, value) in spec.filter.iter().flat_map(FilterChoice::keys) {
            put(key, Some(&value));
        }
        put(Key::Isolated, spec.isolated.then_some("on"));
        put(Key::Vlan, spec.vlan.map(|vlan| vlan.to_string()).as_deref());
        put(Key::Id, spec.id.as_ref().map(|id| id.as_str()));
        put(Key::TunPath, spec.tun_path.as_deref().map(path).as_deref());
        put(Key::VhostPath, spec.vhost_path.as_deref().map(path).as_deref());
        let HostSide { link_down, send_buffer, trunk, native_tagged, ovs, .. } = &spec.host;
        let HostSide { rx_frames, inbound, outbound, addresses, routes, script, downscript, .. } = &spec.host;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let number = |value: Option<u32>| value.map(|value| value.to_string());
        put(Key::LinkState, link_down.then_some("down"));
        put(Key::SendBuffer, number(*send_buffer).as_deref());
        put(Key::Trunk, some(list(trunk, u16::to_string)).as_deref());
        put(Key::VlanMode, native_tagged.then_some("tagged"));
        let ovs_id = ovs.as_ref().map(|ovs| ovs.interface_id.map_or("on".to_owned(), |id| id.to_string()));
        put(Key::Ovs, ovs_id.as_deref());
        put(Key::OvsProfile, ovs.as_ref().and_then(|ovs| ovs.profile.as_deref()));
        put(Key::RxFrames, number(*rx_frames).as_deref());
        put(Key::Inbound, inbound.as_ref().map(written_limit).as_deref());
        put(Key::Outbound, outbound.as_ref().map(written_limit).as_deref());
        put(Key::HostIp, some(list(addresses, written_address)).as_deref());
        put(Key::HostRoute, some(list(routes, written_route)).as_deref());
        put(Key::Script, script.as_deref().map(path).as_deref());
        put(Key::Downscript, downscript.as_deref().map(path).as_deref());
        for (property, value) in &spec.properties {
            put(Key::Device(*property), Some(value));
        }
        canonical
    }
}

impl fmt::Display for Backend {
    /// The backend as in a canonical SPEC: `bridge=br0`, `macvtap=eth0,mode=vepa`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut canonical = Canonical::default();
        canonical.put_backend(self);
        f.pad(&canonical.text)
    }
}

impl fmt::Display for NicSpec {
    /// The canonical SPEC, which reads back as the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&Canonical::from(self).text)
    }
}

impl From<NicSpec> for String {
    fn from(spec: NicSpec) -> Self {
        spec.to_string()
    }
}
