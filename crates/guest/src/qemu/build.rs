use std::ffi::OsString;
use std::os::fd::RawFd;

use serde_json::{Map, Value};
use taptrail_record::{GuestId, MacAddr};

use super::check::CommandLine;
use crate::spec::{Backend, NicSpec};

/// The id of the monitor's socket on QEMU's command line.
pub(crate) const MONITOR: &str = "taptrail-monitor";

/// As libvirt sets it. Descriptors are passed to QEMU, so it need not start any program.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// pcie-root-ports for NICs, which must exist from the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// Their ids, for a NIC's `bus`.
    pub names: Vec<String>,
}

impl Ports {
    /// As many as fit: a PCI Express root bus has 32 slots, some of them the machine's own.
    pub const LIMIT: usize = 24;

    /// `count` ports, at most [`LIMIT`](Self::LIMIT).
    pub fn new(count: usize) -> Self {
        Self { names: (0..count.min(Self::LIMIT)).map(|n| format!("taptrail-port{n}")).collect() }
    }
}

/// A NIC that the guest starts with, and its descriptors as QEMU inherits them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicOnCommandLine {
    /// The device's id.
    pub id: String,
    /// The backend's id, and that of the connection to a vhost-user backend.
    pub netdev_id: String,
    /// What the device and its backend are set to.
    pub spec: NicSpec,
    /// Its own address.
    pub mac: MacAddr,
    /// Taps or macvtaps, one for each queue; or the vDPA device. None for a vhost-user backend.
    pub fds: Vec<RawFd>,
    /// vhost-nets, one for each queue, or none at all.
    pub vhost_fds: Vec<RawFd>,
    /// The port that it is plugged into; `None`: wherever QEMU puts it.
    pub bus: Option<String>,
}

/// The arguments that taptrail adds to the user's.
#[derive(Debug, Clone, Copy)]
pub struct Additions<'a> {
    /// Its name and uuid.
    pub guest: &'a GuestId,
    /// A listening Unix socket that QEMU inherits, for its monitor.
    pub monitor_fd: RawFd,
    /// The NICs that QEMU has from its start.
    pub nics: &'a [NicOnCommandLine],
    /// Ports, those of its NICs and free ones.
    pub ports: &'a Ports,
    /// QEMU's sandbox, unless the user has settled it.
    pub sandbox: bool,
}

impl CommandLine {
    /// QEMU's arguments: the user's own, then what taptrail adds. Behind them, so that the user's
    /// devices keep the slots that they would have had.
    pub fn with(&self, additions: &Additions<'_>) -> Vec<OsString> {
        let mut added = Vec::new();
        let mut add = |option: &str, value: String| added.extend([option.to_owned(), value]);
        let Additions { guest, monitor_fd, nics, ports, sandbox } = *additions;
        add("-name", format!("guest={}", doubled(&guest.name)));
        add("-uuid", guest.uuid.to_string());
        // The client is connected before QEMU starts. Without `wait` one thread accepts it while
        // another prepares the monitor, which then greets twice, or never answers.
        add("-chardev", format!("socket,id={MONITOR},fd={monitor_fd},server=on,wait=on"));
        add("-mon", format!("chardev={MONITOR},mode=control"));
        for (index, port) in ports.names.iter().enumerate() {
            // Numbered from the top, which users rarely use: chassis and slot must be unique.
            let number = 255 - index;
            add("-device", format!("pcie-root-port,id={port},bus=pcie.0,chassis={number},slot={number}"));
        }
        for nic in nics {
            if let Backend::VhostUser(socket) = &nic.spec.backend {
                let (id, path) = (doubled(&nic.netdev_id), doubled(socket.as_str()));
                add("-chardev", format!("socket,id={id},path={path}"));
            }
            add("-netdev", nic.netdev());
            add("-device", nic.device());
        }
        if sandbox && !self.sandbox {
            add("-sandbox", SANDBOX.to_owned());
        }
        if !self.paused {
            added.push("-S".to_owned());
        }
        self.args.iter().cloned().chain(added.into_iter().map(OsString::from)).collect()
    }
}

impl NicOnCommandLine {
    fn netdev(&self) -> String {
        let numbers = |fds: &[RawFd]| fds.iter().map(RawFd::to_string).collect::<Vec<_>>().join(":");
        let id = doubled(&self.netdev_id);
        if let Backend::Vdpa(_) = self.spec.backend {
            let mut value = format!("vhost-vdpa,id={id},vhostfd={}", numbers(&self.fds));
            if self.spec.queues.get() > 1 {
                value.push_str(&format!(",queues={}", self.spec.queues));
            }
            return value;
        }
        if let Backend::VhostUser(_) = self.spec.backend {
            let mut value = format!("vhost-user,id={id},chardev={id}");
            if self.spec.queues.get() > 1 {
                value.push_str(&format!(",queues={}", self.spec.queues));
            }
            return value;
        }
        let (fd, vhostfd) = if self.fds.len() == 1 { ("fd", "vhostfd") } else { ("fds", "vhostfds") };
        let mut value = format!("tap,id={id},{fd}={}", numbers(&self.fds));
        if self.vhost_fds.is_empty() {
            value.push_str(",vhost=off");
        } else {
            // With vhostforce: otherwise QEMU 7.2 only warns of a vhost that does not work, and
            // then fails an assertion (its net/tap.c and net/net.c).
            value.push_str(&format!(",vhost=on,vhostforce=on,{vhostfd}={}", numbers(&self.vhost_fds)));
        }
        if let Some(bytes) = self.spec.host.send_buffer {
            value.push_str(&format!(",sndbuf={bytes}"));
        }
        value
    }

    fn device(&self) -> String {
        let Self { id, netdev_id, spec, mac, bus, .. } = self;
        let properties = device_properties(id, netdev_id, spec, *mac, bus.as_deref());
        let word = |(name, value): (String, Value)| match value {
            Value::String(text) => format!("{name}={}", doubled(&text)),
            Value::Bool(state) => format!("{name}={}", if state { "on" } else { "off" }),
            other => format!("{name}={other}"),
        };
        properties.into_iter().map(word).collect::<Vec<_>>().join(",")
    }
}

/// A NIC's properties, for `-device` and for `device_add`; the driver first.
pub fn device_properties(
    id: &str,
    netdev_id: &str,
    spec: &NicSpec,
    mac: MacAddr,
    bus: Option<&str>,
) -> Map<String, Value> {
    let model = &spec.model;
    let mut properties = Map::new();
    let mut set = |name: &str, value: Value| {
        properties.insert(name.to_owned(), value);
    };
    set("driver", model.qemu_driver().into());
    set("id", id.into());
    set("netdev", netdev_id.into());
    set("mac", mac.to_string().into());
    let queues = u32::from(spec.queues.get());
    if queues > 1 && model.multi_queue() {
        set("mq", true.into());
        if model.has_vectors() {
            // One for each direction of each queue, one for configuration changes, one for the
            // control queue.
            set("vectors", (2 * queues + 2).into());
        }
    }
    if let Some(mtu) = spec.mtu
        && model.has_host_mtu()
    {
        set("host_mtu", mtu.into());
    }
    if let Some(bus) = bus
        && model.is_pci()
    {
        set("bus", bus.into());
    }
    for (property, value) in &spec.properties {
        set(property.qemu_name(), property.qemu_value(value));
    }
    properties
}

/// A value in QEMU's `name=value` lists.
fn doubled(text: &str) -> String {
    text.replace(',', ",,")
}
