use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::descriptors::check_name;
use crate::error::{QmpError, excerpt};
use crate::monitor::Monitor;

/// Where QEMU's object model has the devices that were given an id.
const PERIPHERAL: &str = "/machine/peripheral";

/// A `tap` backend over descriptors that [`Monitor::getfd`] gave, one for each queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetdevTap {
    /// Its id, for `device_add`'s `netdev` and for [`Monitor::netdev_del`].
    pub id: String,
    /// Names of the tap or macvtap descriptors; at least one.
    pub fds: Vec<String>,
    /// Names of the vhost-net descriptors: as many, or none at all.
    pub vhost_fds: Vec<String>,
}

impl NetdevTap {
    fn arguments(&self) -> Result<Value, QmpError> {
        const COMMAND: &str = "netdev_add";
        let wrong = |why: String| QmpError::BadArguments { command: COMMAND.to_owned(), why };
        for name in self.fds.iter().chain(&self.vhost_fds) {
            check_name(COMMAND, name)?;
        }
        let (taps, vhosts) = (self.fds.len(), self.vhost_fds.len());
        // QEMU would find out too, but only after it has taken some of them.
        if taps == 0 || (vhosts != 0 && vhosts != taps) {
            return Err(wrong(format!("{taps} tap and {vhosts} vhost-net descriptors don't go together")));
        }
        let mut arguments = Map::new();
        arguments.insert("type".to_owned(), "tap".into());
        arguments.insert("id".to_owned(), self.id.as_str().into());
        let (tap, vhost) = if taps == 1 { ("fd", "vhostfd") } else { ("fds", "vhostfds") };
        arguments.insert(tap.to_owned(), self.fds.join(":").into());
        // Said aloud, or QEMU could open /dev/vhost-net by itself, unaudited.
        arguments.insert("vhost".to_owned(), (vhosts > 0).into());
        if vhosts > 0 {
            arguments.insert(vhost.to_owned(), self.vhost_fds.join(":").into());
            // Without it QEMU 7.2 takes a vhost-net that does not work for a warning, and then dies
            // of an assertion (net/tap.c, net/net.c). Later versions refuse either way.
            arguments.insert("vhostforce".to_owned(), true.into());
        }
        Ok(Value::Object(arguments))
    }
}

/// Whether the guest runs (QEMU's `query-status`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStatus {
    /// `running`, `paused`, `prelaunch`, `shutdown`, … (QEMU's `RunState`).
    pub status: String,
    /// Its CPUs run.
    pub running: bool,
}

impl Monitor {
    /// Makes a backend; uses up the names of its descriptors.
    ///
    /// # Errors
    /// [`QmpError::Refused`] does **not** mean that QEMU has closed them. [`closefd`](Self::closefd)
    /// takes back those whose turn had not come; those before the bad one, 7.2 keeps: no command
    /// closes them and the id stays taken. Only deleting their link makes them useless. Others as
    /// for every operation.
    pub fn netdev_add(&mut self, tap: &NetdevTap, timeout: Duration) -> Result<(), QmpError> {
        self.execute("netdev_add", tap.arguments()?, timeout).map(drop)
    }

    /// Removes a backend and closes its descriptors, even while a device is on it.
    ///
    /// # Errors
    /// [`QmpError::Refused`] when there is none; others as for every operation.
    pub fn netdev_del(&mut self, id: &str, timeout: Duration) -> Result<(), QmpError> {
        self.execute("netdev_del", json!({ "id": id }), timeout).map(drop)
    }

    /// Plugs a device: `driver`, `id`, and its properties.
    ///
    /// # Errors
    /// As for every operation.
    pub fn device_add(&mut self, properties: &Map<String, Value>, timeout: Duration) -> Result<(), QmpError> {
        self.execute("device_add", properties, timeout).map(drop)
    }

    /// Asks the guest to let go of a device. `DEVICE_DELETED` tells that it is gone,
    /// `DEVICE_UNPLUG_GUEST_ERROR` that the guest will not.
    ///
    /// # Errors
    /// [`QmpError::Refused`] with [`DeviceNotFound`](crate::ErrorClass::DeviceNotFound) when there
    /// is none; others as for every operation.
    pub fn device_del(&mut self, id: &str, timeout: Duration) -> Result<(), QmpError> {
        self.execute("device_del", json!({ "id": id }), timeout).map(drop)
    }

    /// The ids of the devices that were given one, in QEMU's order.
    ///
    /// # Errors
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

    /// The id of the device on whose bus this one is plugged, if that was given one.
    ///
    /// # Errors
    /// As for every operation.
    pub fn port_of(&mut self, id: &str, timeout: Duration) -> Result<Option<String>, QmpError> {
        let arguments = json!({ "path": format!("{PERIPHERAL}/{id}"), "property": "parent_bus" });
        let value = self.execute("qom-get", arguments, timeout)?;
        let bus = value.as_str().ok_or_else(|| self.unexpected("a bus", &value))?;
        let port = bus.strip_prefix(PERIPHERAL).and_then(|path| path.strip_prefix('/')?.split('/').next());
        Ok(port.map(str::to_owned))
    }

    /// The id of the backend on which this device is, if it is a NIC; a NIC whose backend is gone tells it still.
    ///
    /// # Errors
    /// [`QmpError::Refused`] when there is none of that id, or it is no NIC; others as for every operation.
    pub fn backend_of(&mut self, id: &str, timeout: Duration) -> Result<String, QmpError> {
        let arguments = json!({ "path": format!("{PERIPHERAL}/{id}"), "property": "netdev" });
        let value = self.execute("qom-get", arguments, timeout)?;
        value.as_str().map(str::to_owned).ok_or_else(|| self.unexpected("a backend", &value))
    }

    /// Lets a paused guest run.
    ///
    /// # Errors
    /// As for every operation.
    pub fn cont(&mut self, timeout: Duration) -> Result<(), QmpError> {
        self.execute("cont", Value::Null, timeout).map(drop)
    }

    /// Asks the guest's system to shut down, as its power button would.
    ///
    /// # Errors
    /// As for every operation.
    pub fn system_powerdown(&mut self, timeout: Duration) -> Result<(), QmpError> {
        self.execute("system_powerdown", Value::Null, timeout).map(drop)
    }

    /// Ends QEMU. It may be gone before its reply is: that is no error.
    ///
    /// # Errors
    /// As for every operation, [`QmpError::Closed`] excepted.
    pub fn quit(&mut self, timeout: Duration) -> Result<(), QmpError> {
        match self.execute("quit", Value::Null, timeout) {
            Ok(_) | Err(QmpError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the guest runs.
    ///
    /// # Errors
    /// As for every operation.
    pub fn query_status(&mut self, timeout: Duration) -> Result<RunStatus, QmpError> {
        let value = self.execute("query-status", Value::Null, timeout)?;
        let status = value.get("status").and_then(Value::as_str);
        let running = value.get("running").and_then(Value::as_bool);
        match (status, running) {
            (Some(status), Some(running)) => Ok(RunStatus { status: crate::error::prose(status), running }),
            _ => Err(self.unexpected("a status", &value)),
        }
    }

    fn unexpected(&mut self, expected: &str, value: &Value) -> QmpError {
        self.poisoned_by(QmpError::Unexpected {
            expected: expected.to_owned(),
            excerpt: excerpt(value.to_string().as_bytes()),
        })
    }
}
