use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use taptrail_kernel::device::Admitted;

use crate::descriptors::check_name;
use crate::error::{QmpError, excerpt};
use crate::monitor::Monitor;

/// The path of devices with an id in QEMU's object model.
const PERIPHERAL: &str = "/machine/peripheral";

/// A `tap` netdev with descriptors that were passed by [`Monitor::getfd`], one for each queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetdevTap {
    /// Its id, for `device_add`'s `netdev` and for [`Monitor::netdev_del`].
    pub id: String,
    /// Names of the tap or macvtap descriptors; at least one.
    pub fds: Vec<String>,
    /// Names of the vhost-net descriptors: as many as `fds`, or none.
    pub vhost_fds: Vec<String>,
    /// Bytes that may wait in the tap's socket (`sndbuf`); `None`: QEMU's default, no limit.
    pub send_buffer: Option<u32>,
}

impl NetdevTap {
    fn arguments(&self) -> Result<Value, QmpError> {
        const COMMAND: &str = "netdev_add";
        let wrong = |why: String| QmpError::BadArguments { command: COMMAND.to_owned(), why };
        for name in self.fds.iter().chain(&self.vhost_fds) {
            check_name(COMMAND, name)?;
        }
        let (taps, vhosts) = (self.fds.len(), self.vhost_fds.len());
        // QEMU would refuse it, too, but only after it has taken some of the descriptors.
        if taps == 0 || (vhosts != 0 && vhosts != taps) {
            return Err(wrong(format!("{taps} tap and {vhosts} vhost-net descriptors don't go together")));
        }
        let mut arguments = Map::new();
        arguments.insert("type".to_owned(), "tap".into());
        arguments.insert("id".to_owned(), self.id.as_str().into());
        let (tap, vhost) = if taps == 1 { ("fd", "vhostfd") } else { ("fds", "vhostfds") };
        arguments.insert(tap.to_owned(), self.fds.join(":").into());
        // Always explicit, or QEMU could open /dev/vhost-net itself, unaudited.
        arguments.insert("vhost".to_owned(), (vhosts > 0).into());
        if vhosts > 0 {
            arguments.insert(vhost.to_owned(), self.vhost_fds.join(":").into());
            // Without it, QEMU 7.2 only warns of a vhost-net that does not work, and then fails an
            // assertion (net/tap.c, net/net.c). Later versions refuse the command either way.
            arguments.insert("vhostforce".to_owned(), true.into());
        }
        if let Some(bytes) = self.send_buffer {
            arguments.insert("sndbuf".to_owned(), bytes.into());
        }
        Ok(Value::Object(arguments))
    }
}

/// A `vhost-vdpa` netdev with a descriptor that was passed by [`Monitor::getfd`] (QEMU 7.2 and newer).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetdevVdpa {
    /// Its id, as that of a [`NetdevTap`].
    pub id: String,
    /// The name of the vDPA device's descriptor.
    pub fd: String,
    /// Pairs of queues (`queues`).
    pub queues: u16,
}

/// A `vhost-user` netdev on a connection that [`Monitor::connect_vhost_user`] has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetdevVhostUser {
    /// Its id, as that of a [`NetdevTap`].
    pub id: String,
    /// The connection's id.
    pub chardev: String,
    /// Pairs of queues (`queues`).
    pub queues: u16,
}

/// The machine that a guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// QEMU's architecture: `x86_64`, `s390x`, …
    pub architecture: String,
    /// The type with its version: `pc-q35-7.2`, `microvm`, …
    pub kind: String,
    /// PCI Express is switched on by the option `pcie` of a machine that has it.
    pub pcie: bool,
}

/// Whether the guest runs (QEMU's `query-status`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStatus {
    /// `running`, `paused`, `prelaunch`, `shutdown`, … (QEMU's `RunState`).
    pub status: String,
    /// Whether its CPUs run.
    pub running: bool,
}

impl Monitor {
    /// Creates a netdev (`netdev_add`); uses up the names of its descriptors.
    ///
    /// # Errors
    ///
    /// [`QmpError::Refused`] does **not** mean that QEMU has closed the descriptors.
    /// [`closefd`](Self::closefd) closes those behind the bad one. QEMU 7.2 keeps those before it:
    /// no command closes them, and the id stays in use. Only deleting their link makes them
    /// useless. Others as for every operation.
    pub fn netdev_add(&mut self, tap: &NetdevTap, timeout: Duration) -> Result<(), QmpError> {
        self.execute("netdev_add", tap.arguments()?, timeout).map(drop)
    }

    /// Creates a netdev on a vDPA device; uses up the name of its descriptor.
    ///
    /// # Errors
    ///
    /// [`QmpError::Refused`] does not mean that QEMU has closed the descriptor; others as for every
    /// operation.
    pub fn netdev_add_vdpa(&mut self, vdpa: &NetdevVdpa, timeout: Duration) -> Result<(), QmpError> {
        const COMMAND: &str = "netdev_add";
        check_name(COMMAND, &vdpa.fd)?;
        // Always a descriptor, or QEMU would open /dev/vhost-vdpa-0 itself, unaudited.
        let mut arguments = json!({ "type": "vhost-vdpa", "id": vdpa.id, "vhostfd": vdpa.fd });
        if vdpa.queues > 1 {
            arguments["queues"] = vdpa.queues.into();
        }
        self.execute(COMMAND, arguments, timeout).map(drop)
    }

    /// Has QEMU connect to the backend that listens on a recorded socket, by the socket's path.
    ///
    /// QEMU takes no connection that was made for it: on one that it gets as a descriptor it can't
    /// pass descriptors itself, which vhost-user needs.
    ///
    /// # Errors
    ///
    /// [`QmpError::Refused`] if nothing listens, or QEMU's user may not connect;
    /// [`QmpError::BadArguments`] for another device than such a socket; others as for every
    /// operation.
    pub fn connect_vhost_user(
        &mut self,
        id: &str,
        socket: &Admitted,
        timeout: Duration,
    ) -> Result<(), QmpError> {
        const COMMAND: &str = "chardev-add";
        let Some(path) = socket.socket_path().and_then(Path::to_str) else {
            let why = format!("{} is no vhost-user socket", socket.facts().path.display());
            return Err(QmpError::BadArguments { command: COMMAND.to_owned(), why });
        };
        let address = json!({ "type": "unix", "data": { "path": path } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        self.execute(COMMAND, json!({ "id": id, "backend": backend }), timeout).map(drop)
    }

    /// Closes a connection that no netdev uses. A netdev closes its own when it is removed.
    ///
    /// # Errors
    ///
    /// [`QmpError::Refused`] if there is none, or it is in use; others as for every operation.
    pub fn chardev_remove(&mut self, id: &str, timeout: Duration) -> Result<(), QmpError> {
        self.execute("chardev-remove", json!({ "id": id }), timeout).map(drop)
    }

    /// Creates a netdev on a connection to a vhost-user backend.
    ///
    /// QEMU waits for the backend's answers, for ever if it gives none.
    ///
    /// # Errors
    ///
    /// As for every operation.
    pub fn netdev_add_vhost_user(
        &mut self,
        netdev: &NetdevVhostUser,
        timeout: Duration,
    ) -> Result<(), QmpError> {
        let mut arguments = json!({ "type": "vhost-user", "id": netdev.id, "chardev": netdev.chardev });
        if netdev.queues > 1 {
            arguments["queues"] = netdev.queues.into();
        }
        self.execute("netdev_add", arguments, timeout).map(drop)
    }

    /// The ids of the objects of the guest's memory that no other process can map, as a vhost-user
    /// backend has to; none if all can be mapped.
    ///
    /// # Errors
    ///
    /// As for every operation.
    pub fn unshared_memory(&mut self, timeout: Duration) -> Result<Vec<String>, QmpError> {
        let objects = self.execute("qom-list", json!({ "path": "/objects" }), timeout)?;
        // Shared or not, it has no file.
        let is_anonymous = |id: &Value| {
            objects.as_array().into_iter().flatten().any(|object| {
                object.get("name") == Some(id)
                    && object.get("type").and_then(Value::as_str) == Some("child<memory-backend-ram>")
            })
        };
        let value = self.execute("query-memdev", Value::Null, timeout)?;
        let Some(all) = value.as_array() else { return Err(self.unexpected("a list of memory", &value)) };
        let is_shared = |memory: &&Value| {
            memory.get("share").and_then(Value::as_bool) == Some(true)
                && !memory.get("id").is_some_and(is_anonymous)
        };
        let id = |memory: &Value| {
            let id = memory.get("id").and_then(Value::as_str).unwrap_or("?");
            crate::error::escape_text(id)
        };
        match all.len() {
            // The memory of a machine that has no object for it.
            0 => Ok(vec!["?".to_owned()]),
            _ => Ok(all.iter().filter(|memory| !is_shared(memory)).map(id).collect()),
        }
    }

    /// Removes a netdev and closes its descriptors, even while a NIC uses it.
    ///
    /// That of a vDPA device is closed only if no NIC uses it: otherwise QEMU 7.2 forgets the netdev
    /// and keeps the descriptor until it ends (`vhost_vdpa_cleanup()`, its net/vhost-vdpa.c).
    ///
    /// # Errors
    ///
    /// [`QmpError::Refused`] if there is none; others as for every operation.
    pub fn netdev_del(&mut self, id: &str, timeout: Duration) -> Result<(), QmpError> {
        self.execute("netdev_del", json!({ "id": id }), timeout).map(drop)
    }

    /// Switches the carrier of a NIC, or of a netdev and of the NIC on it.
    ///
    /// # Errors
    ///
    /// [`QmpError::Refused`] if there is none; others as for every operation.
    pub fn set_link(&mut self, id: &str, up: bool, timeout: Duration) -> Result<(), QmpError> {
        self.execute("set_link", json!({ "name": id, "up": up }), timeout).map(drop)
    }

    /// Hot-plugs a device: `driver`, `id`, and its properties.
    ///
    /// # Errors
    ///
    /// As for every operation.
    pub fn device_add(&mut self, properties: &Map<String, Value>, timeout: Duration) -> Result<(), QmpError> {
        self.execute("device_add", properties, timeout).map(drop)
    }

    /// Requests the hot-unplug of a device. QEMU sends `DEVICE_DELETED` when the guest has released
    /// it, and `DEVICE_UNPLUG_GUEST_ERROR` if the guest refuses.
    ///
    /// # Errors
    ///
    /// [`QmpError::Refused`] with [`DeviceNotFound`](crate::ErrorClass::DeviceNotFound) if there is
    /// none; others as for every operation.
    pub fn device_del(&mut self, id: &str, timeout: Duration) -> Result<(), QmpError> {
        self.execute("device_del", json!({ "id": id }), timeout).map(drop)
    }

    /// The machine, by its type's name in QEMU's object model; none if QEMU does not say it.
    ///
    /// # Errors
    ///
    /// As for every operation.
    pub fn machine(&mut self, timeout: Duration) -> Result<Option<Machine>, QmpError> {
        let mut answer = |command, arguments| match self.execute(command, arguments, timeout) {
            Err(QmpError::Refused { .. }) => Ok(Value::Null),
            answered => answered,
        };
        let property = |name: &str| json!({ "path": "/machine", "property": name });
        let target = answer("query-target", Value::Null)?;
        let kind = answer("qom-get", property("type"))?;
        // Most machines have no such option.
        let pcie = answer("qom-get", property("pcie"))?.as_str() == Some("on");
        let architecture = target.get("arch").and_then(Value::as_str);
        Ok(architecture.zip(kind.as_str()).map(|(architecture, kind)| Machine {
            architecture: architecture.to_owned(),
            kind: kind.strip_suffix("-machine").unwrap_or(kind).to_owned(),
            pcie,
        }))
    }

    /// The ids of all devices with an id, in QEMU's order.
    ///
    /// # Errors
    ///
    /// As for every operation.
    pub fn device_ids(&mut self, timeout: Duration) -> Result<Vec<String>, QmpError> {
        let value = self.execute("qom-list", json!({ "path": PERIPHERAL }), timeout)?;
        let ids = value.as_array().map(|all| {
            let is_child = |property: &&Value| {
                property.get("type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("child<"))
            };
            let name = |property: &Value| property.get("name").and_then(Value::as_str).map(str::to_owned);
            all.iter().filter(is_child).filter_map(name).collect()
        });
        ids.ok_or_else(|| self.unexpected("a list of devices", &value))
    }

    /// The id of the device (a PCI port) that has this one on its bus, if it has an id.
    ///
    /// # Errors
    ///
    /// As for every operation.
    pub fn parent_device_id(&mut self, id: &str, timeout: Duration) -> Result<Option<String>, QmpError> {
        let arguments = json!({ "path": format!("{PERIPHERAL}/{id}"), "property": "parent_bus" });
        let value = self.execute("qom-get", arguments, timeout)?;
        let bus = value.as_str().ok_or_else(|| self.unexpected("a bus", &value))?;
        let port = bus.strip_prefix(PERIPHERAL).and_then(|path| path.strip_prefix('/')?.split('/').next());
        Ok(port.map(str::to_owned))
    }

    /// The id of a NIC's netdev. QEMU returns it even after the netdev was removed.
    ///
    /// # Errors
    ///
    /// [`QmpError::Refused`] if there is no device with that id, or it is not a NIC; others as for
    /// every operation.
    pub fn netdev_id(&mut self, id: &str, timeout: Duration) -> Result<String, QmpError> {
        let arguments = json!({ "path": format!("{PERIPHERAL}/{id}"), "property": "netdev" });
        let value = self.execute("qom-get", arguments, timeout)?;
        value.as_str().map(str::to_owned).ok_or_else(|| self.unexpected("a backend", &value))
    }

    /// Lets a paused guest run.
    ///
    /// # Errors
    ///
    /// As for every operation.
    pub fn cont(&mut self, timeout: Duration) -> Result<(), QmpError> {
        self.execute("cont", Value::Null, timeout).map(drop)
    }

    /// Requests a shutdown of the guest, like its power button.
    ///
    /// # Errors
    ///
    /// As for every operation.
    pub fn system_powerdown(&mut self, timeout: Duration) -> Result<(), QmpError> {
        self.execute("system_powerdown", Value::Null, timeout).map(drop)
    }

    /// Ends QEMU. It is not an error if QEMU exits before it replies.
    ///
    /// # Errors
    ///
    /// As for every operation, except [`QmpError::Closed`].
    pub fn quit(&mut self, timeout: Duration) -> Result<(), QmpError> {
        match self.execute("quit", Value::Null, timeout) {
            Ok(_) | Err(QmpError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Queries whether the guest runs.
    ///
    /// # Errors
    ///
    /// As for every operation.
    pub fn query_status(&mut self, timeout: Duration) -> Result<RunStatus, QmpError> {
        let value = self.execute("query-status", Value::Null, timeout)?;
        let status = value.get("status").and_then(Value::as_str);
        let running = value.get("running").and_then(Value::as_bool);
        match (status, running) {
            (Some(status), Some(running)) => {
                Ok(RunStatus { status: crate::error::escape_text(status), running })
            }
            _ => Err(self.unexpected("a status", &value)),
        }
    }

    fn unexpected(&mut self, expected: &str, value: &Value) -> QmpError {
        self.poison_with(QmpError::Unexpected {
            expected: expected.to_owned(),
            excerpt: excerpt(value.to_string().as_bytes()),
        })
    }
}
