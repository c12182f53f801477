//! Hot-plug: adds an interface to a running guest, or rolls back completely.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use taptrail_kernel::device::Admitted;
use taptrail_kernel::unix_sockets::UnixSockets;
use taptrail_ledger::StepKey;
use taptrail_qmp::{NetdevTap, NetdevVdpa, NetdevVhostUser, QmpError};
use taptrail_record::{DeviceKind, Event, MacAddr, Outcome, Requester};
use tracing::{info, warn};

use super::names::{descriptor_name, free_id, free_mac, netdev_id};
use super::release::{failed_attach, state_after};
use super::start::granted;
use super::{AttachedInterface, Driver, MONITOR_TIMEOUT, PlugState, UnsharedMemory, log_error};
use crate::account::{AccountError, LedgerBatch};
use crate::handover::{self, CheckedDevices, Evidence, OpenFileCounts, ReleaseCheck};
use crate::interface::{Interface, Opened};
use crate::qemu::device_properties;
use crate::qemu_devices::{self, FoundDescriptor};
use crate::request::Failure;
use crate::spec::{Backend, NicSpec};
use crate::state::InterfaceInfo;

/// Timeout of further commands to a QEMU that has just not answered one.
const UNANSWERED_TIMEOUT: Duration = Duration::from_millis(100);

/// Passing an interface to QEMU failed.
#[derive(Debug, thiserror::Error)]
enum HandOverError {
    #[error("QEMU refused the interface")]
    Monitor(#[from] QmpError),
    #[error("QEMU's descriptors can't be read")]
    Look(#[source] std::io::Error),
    #[error("QEMU reported the interface as added, but doesn't hold {path}")]
    NotHeld { path: String },
    #[error(
        "{path} is the socket of another interface of this guest: name another backend, or detach that interface first"
    )]
    SocketInUse { path: String },
    #[error("Grant can't be recorded")]
    Account(#[from] AccountError),
}

/// What was passed to QEMU, and has to be rolled back after a failure.
#[derive(Debug, Default)]
struct HandedOver {
    names: Vec<String>,
    /// QEMU's sockets before it connected to a vhost-user backend: none of them is that connection.
    earlier_sockets: Vec<u64>,
    chardev: bool,
    netdev: bool,
    nic: bool,
    /// QEMU did not answer a command, and may still carry it out.
    unanswered: bool,
}

impl Driver {
    pub(super) fn attach(
        &mut self,
        spec: NicSpec,
        requester: Option<Requester>,
    ) -> Result<InterfaceInfo, Failure> {
        // Released devices are recorded first: indexes and names are reused.
        self.check_devices();
        let (spec, mac, id) = self.complete_spec(spec)?;
        let port = if spec.has_place() { None } else { self.port()? };
        if let Backend::VhostUser(_) = spec.backend {
            let unshared = self.qemu.monitor.unshared_memory(MONITOR_TIMEOUT);
            let unshared = unshared.map_err(|error| Failure::Failed(crate::chain(&error)))?;
            if let Some(error) = UnsharedMemory::of(mac, unshared) {
                return Err(Failure::Refused(error.to_string()));
            }
            // Without the kernel's list nothing shows the connection, nor its release.
            UnixSockets::list().map_err(|error| Failure::Failed(crate::chain(&error)))?;
        }
        self.account.ready().map_err(|error| Failure::Refused(crate::chain(&error)))?;
        let opened = match self.host.open_interface(spec, mac, id, &mut self.account, requester) {
            Ok(opened) => opened,
            Err(failed) => {
                let event = Event::Attach { mac, vm_pid: Some(self.qemu.id.pid), fds: None };
                let record = self.account.record(event, Outcome::Failed, requester);
                let cause = crate::chain(&failed.error);
                let batch = LedgerBatch::default()
                    .record(record)
                    .caused_by(cause.clone())
                    .close_devices(&self.account, &failed.closed)
                    .end_interfaces(failed.key);
                log_error(self.account.post(batch.complete_steps(&failed.steps, "failed")));
                return Err(Failure::Failed(cause));
            }
        };
        let Opened { mut interface, admitted, steps } = opened;
        interface.port = port.map(|index| self.ports[index].name.clone());
        let mut handed_over = HandedOver::default();
        match self.hand_over(&mut interface, &admitted, &mut handed_over, &steps, requester) {
            Ok(()) => {
                crash_point!("attach::granted");
                // Only QEMU keeps a granted device alive.
                drop(admitted);
                if let Some(index) = port {
                    self.ports[index].taken = true;
                }
                info!("{}", granted(&interface, self.qemu.id.pid));
                let attached = AttachedInterface::new(interface);
                let info = attached.info();
                self.interfaces.push(attached);
                Ok(info)
            }
            Err(error) => {
                let mut text = crate::chain(&error);
                handed_over.unanswered =
                    matches!(error, HandOverError::Monitor(ref error) if error.leaves_outcome_open());
                if let Some(kept) =
                    self.roll_back_attach(interface, admitted, &handed_over, &steps, requester, &text)
                {
                    text.push_str(&kept);
                }
                Err(Failure::Failed(text))
            }
        }
    }

    /// Completes the SPEC with a MAC, an id and the machine's virtio NIC; refuses those that the guest
    /// already uses, and a place that the machine does not have.
    fn complete_spec(&mut self, mut spec: NicSpec) -> Result<(NicSpec, MacAddr, String), Failure> {
        self.virtio_bus.settle(&mut spec).map_err(|error| Failure::Refused(error.to_string()))?;
        let mac = match spec.mac.or_else(|| self.host.mac_of(&spec)) {
            Some(mac) => mac,
            None => free_mac(|mac| self.interfaces.iter().any(|attached| attached.interface.mac == mac))
                .map_err(|error| Failure::Failed(format!("A random MAC address can't be made: {error}")))?,
        };
        // A revoked NIC holds nothing: its MAC may be attached again.
        if let Some(index) = self.holder(mac) {
            let state = self.interfaces[index].state.shown().as_str();
            return Err(Failure::Refused(format!(
                "MAC {mac} is in use by this guest ({state}): choose another, or detach that interface first"
            )));
        }
        let has_socket = |attached: &AttachedInterface| {
            attached.state != PlugState::Revoked && attached.interface.spec.backend == spec.backend
        };
        if let Backend::VhostUser(socket) = &spec.backend
            && let Some(attached) = self.interfaces.iter().find(|attached| has_socket(attached))
        {
            return Err(Failure::Refused(format!(
                "Socket {socket} is in use by this guest's interface {}: name another backend, or detach that interface first",
                attached.interface.mac
            )));
        }
        spec.mac = Some(mac);
        let taken = |id: &str| self.interfaces.iter().any(|attached| attached.interface.id == id);
        let id = match &spec.id {
            Some(id) if taken(id.as_str()) => {
                return Err(Failure::Refused(format!("Id '{id}' is in use by this guest: choose another")));
            }
            Some(id) => id.to_string(),
            None => free_id(taken),
        };
        Ok((spec, mac, id))
    }

    /// The index of a free port, if this machine needs one.
    fn port(&self) -> Result<Option<usize>, Failure> {
        if self.ports.is_empty() {
            return Ok(None);
        }
        match self.ports.iter().position(|port| !port.taken) {
            Some(index) => Ok(Some(index)),
            None => Err(Failure::Refused(format!(
                "All {} ports of this guest are taken: detach an interface, or start the guest with more by --hotplug-ports",
                self.ports.len()
            ))),
        }
    }

    fn hand_over(
        &mut self,
        interface: &mut Interface,
        admitted: &[Admitted],
        handed_over: &mut HandedOver,
        steps: &[StepKey],
        requester: Option<Requester>,
    ) -> Result<(), HandOverError> {
        // Those of other interfaces also where QEMU's sockets can't be seen.
        handed_over.earlier_sockets = self.connections();
        if let Backend::VhostUser(_) = interface.spec.backend {
            let held = qemu_devices::connections_of(&self.qemu.id).map_err(HandOverError::Look)?;
            handed_over.earlier_sockets.extend(held.into_iter().map(|(_, inode)| inode));
        }
        self.check_socket(admitted)?;
        self.pass_descriptors(interface, admitted, handed_over)?;
        crash_point!("attach::nic-added");
        self.verify_held(interface, admitted, &handed_over.earlier_sockets)?;
        self.post_attach(interface, steps, requester)
    }

    /// Refuses a socket to which another interface is connected, by whatever path: which of two
    /// connections to it is whose could not be told.
    fn check_socket(&self, admitted: &[Admitted]) -> Result<(), HandOverError> {
        let Some(file) = admitted.iter().find_map(Admitted::socket_file) else { return Ok(()) };
        let others = self.connections();
        let sockets = UnixSockets::of(others.iter().copied()).map_err(HandOverError::Look)?;
        let is_connected = || sockets.connected_to(file).any(|inode| others.contains(&inode));
        // The connection of one that is kept may not be known.
        let is_its = |attached: &AttachedInterface| {
            let sockets = attached.interface.devices.iter().filter_map(|device| device.socket.as_ref());
            attached.state != PlugState::Revoked
                && sockets.filter_map(|socket| socket.id()).any(|id| Some(id) == file.id())
        };
        if is_connected() || self.interfaces.iter().any(is_its) {
            return Err(HandOverError::SocketInUse { path: file.path().display().to_string() });
        }
        Ok(())
    }

    /// Passes the descriptors to QEMU, and adds the netdev and the NIC.
    fn pass_descriptors(
        &mut self,
        interface: &Interface,
        admitted: &[Admitted],
        handed_over: &mut HandedOver,
    ) -> Result<(), HandOverError> {
        let netdev = netdev_id(&interface.id);
        let mut fds = Vec::new();
        let mut vhost_fds = Vec::new();
        for (index, device) in admitted.iter().enumerate() {
            if device.socket_path().is_some() {
                handed_over.chardev = true;
                self.qemu.monitor.connect_vhost_user(&netdev, device, MONITOR_TIMEOUT)?;
                continue;
            }
            let name = descriptor_name(&interface.id, index);
            handed_over.names.push(name.clone());
            self.qemu.monitor.getfd(&name, device, MONITOR_TIMEOUT)?;
            match device.facts().kind {
                DeviceKind::VhostNet => vhost_fds.push(name),
                _ => fds.push(name),
            }
        }
        crash_point!("attach::given");
        handed_over.netdev = true;
        let (monitor, id) = (&mut self.qemu.monitor, netdev.clone());
        match (&interface.spec.backend, &mut fds[..]) {
            (Backend::Vdpa(_), [fd]) => {
                let fd = std::mem::take(fd);
                let queues = interface.spec.queues.get();
                monitor.netdev_add_vdpa(&NetdevVdpa { id, fd, queues }, MONITOR_TIMEOUT)?;
            }
            (Backend::VhostUser(_), _) => {
                let queues = interface.spec.queues.get();
                let netdev = NetdevVhostUser { chardev: id.clone(), id, queues };
                monitor.netdev_add_vhost_user(&netdev, MONITOR_TIMEOUT)?;
            }
            _ => {
                let send_buffer = interface.spec.host.send_buffer;
                let tap = NetdevTap { id, fds, vhost_fds, send_buffer };
                monitor.netdev_add(&tap, MONITOR_TIMEOUT)?;
            }
        }
        let link_down = interface.spec.host.link_down;
        if link_down {
            // Before there is a NIC, so that no frame passes meanwhile.
            self.qemu.monitor.set_link(&netdev, false, MONITOR_TIMEOUT)?;
        }
        crash_point!("attach::netdev");
        let properties: Map<String, Value> = device_properties(
            &interface.id,
            &netdev,
            &interface.spec,
            interface.mac,
            interface.port.as_deref(),
        );
        let added = self.qemu.monitor.device_add(&properties, MONITOR_TIMEOUT);
        // Without an answer the NIC may have been added.
        handed_over.nic = !matches!(added, Err(QmpError::Refused { .. }));
        added?;
        if link_down {
            // The guest sees the NIC's own.
            self.qemu.monitor.set_link(&interface.id, false, MONITOR_TIMEOUT)?;
        }
        Ok(())
    }

    /// Verifies that QEMU holds each descriptor.
    fn verify_held(
        &mut self,
        interface: &mut Interface,
        admitted: &[Admitted],
        earlier_sockets: &[u64],
    ) -> Result<(), HandOverError> {
        let found = qemu_devices::find(&self.qemu.id, admitted, earlier_sockets);
        for (device, found) in interface.devices.iter_mut().zip(found.map_err(HandOverError::Look)?) {
            match found {
                Some(found) => device.is_found(found),
                None => return Err(HandOverError::NotHeld { path: device.device.path.to_string() }),
            }
        }
        Ok(())
    }

    /// QEMU's connections to vhost-user backends.
    fn connections(&self) -> Vec<u64> {
        let devices = self.interfaces.iter().flat_map(|attached| &attached.interface.devices);
        devices.filter_map(|device| device.connection).collect()
    }

    fn post_attach(
        &mut self,
        interface: &Interface,
        steps: &[StepKey],
        requester: Option<Requester>,
    ) -> Result<(), HandOverError> {
        let event = Event::Attach {
            mac: interface.mac,
            vm_pid: Some(self.qemu.id.pid),
            fds: u32::try_from(interface.devices.len()).ok(),
        };
        let record = self.account.record(event, Outcome::Success, requester);
        let batch = LedgerBatch::default().grant(record, &interface.devices).complete_steps(steps, "success");
        Ok(self.account.post_or_refuse(batch)?)
    }

    /// Takes back the NIC, the netdev and the descriptors, checks what QEMU still holds, and
    /// records what is released and what QEMU keeps. Returns and logs a text if QEMU keeps
    /// something.
    fn roll_back_attach(
        &mut self,
        mut interface: Interface,
        admitted: Vec<Admitted>,
        handed_over: &HandedOver,
        steps: &[StepKey],
        requester: Option<Requester>,
        cause: &str,
    ) -> Option<String> {
        // After an unanswered command, the next ones get a short timeout.
        let patience = if handed_over.unanswered { UNANSWERED_TIMEOUT } else { MONITOR_TIMEOUT };
        // QEMU may refuse each, because that step was not reached: what counts is the check below.
        let mut answered = !handed_over.unanswered;
        let mut heard = |result: Result<(), QmpError>| {
            answered |= !result.is_err_and(|error| error.leaves_outcome_open());
        };
        if handed_over.nic {
            heard(self.qemu.monitor.device_del(&interface.id, patience));
        }
        if handed_over.netdev {
            heard(self.delete_netdev(&interface.spec, &interface.id, patience));
        }
        if handed_over.chardev {
            // Removed with the netdev, if there was one.
            heard(self.qemu.monitor.chardev_remove(&netdev_id(&interface.id), patience));
        }
        for name in &handed_over.names {
            heard(self.qemu.monitor.closefd(name, patience));
        }
        // A QEMU that has ended does not answer, and holds nothing either.
        let in_flight = !answered && self.qemu.id.is_alive();
        let evidence =
            self.wait_until_released(&mut interface, admitted, in_flight, &handed_over.earlier_sockets);
        let mac = interface.mac;
        let checked = CheckedDevices::new(std::mem::take(&mut interface.devices), evidence);
        checked.undo(mac, &mut interface.resources, &mut self.host, true);
        let outcome = if checked.all_closed() { "failed" } else { "kept" };
        let batch = failed_attach(&checked, mac, self.qemu.id.pid, &self.account, requester)
            .caused_by(cause.to_owned())
            .close_devices(&self.account, &checked.closed)
            .end_interfaces(checked.ended(interface.key, handed_over.nic))
            .complete_steps(steps, outcome);
        log_error(self.account.post(batch));
        let text = (!checked.all_closed()).then(|| {
            let text = format!(
                "; QEMU still holds {} of its descriptors, which nothing takes back while it runs: they are on record as held",
                checked.kept.len()
            );
            warn!("{mac}{text}");
            text
        });
        if text.is_some() || handed_over.nic {
            if handed_over.nic
                && let Some(index) = self.port_named(interface.port.as_deref())
            {
                self.ports[index].taken = true;
            }
            let state = state_after(&checked);
            interface.devices = checked.kept;
            self.interfaces.push(AttachedInterface {
                state,
                nic: handed_over.nic,
                ..AttachedInterface::new(interface)
            });
        }
        text
    }

    /// Waits for a moment until QEMU has closed an interface's devices, and returns the evidence.
    /// Closes our own copies, which would count as open files.
    fn wait_until_released(
        &mut self,
        interface: &mut Interface,
        admitted: Vec<Admitted>,
        in_flight: bool,
        earlier_sockets: &[u64],
    ) -> Vec<Evidence> {
        let end = Instant::now() + handover::RELEASE_GRACE;
        // While we hold copies, kcmp(2) identifies QEMU's descriptors, whatever their numbers.
        let found = loop {
            match qemu_devices::find(&self.qemu.id, &admitted, earlier_sockets) {
                Ok(found) if Instant::now() >= end || found.iter().all(Option::is_none) => break found,
                Ok(_) => std::thread::sleep(Duration::from_millis(1)),
                // We may be out of descriptors; closing our copies frees some.
                Err(error) => {
                    warn!("what QEMU holds can't be compared: {error}");
                    break vec![None; admitted.len()];
                }
            }
        };
        drop(admitted);
        let connects = matches!(interface.spec.backend, Backend::VhostUser(_));
        if connects {
            // What it is connected to shows whether it is released, whatever is at the path by now.
            for (device, found) in interface.devices.iter_mut().zip(&found) {
                found.iter().for_each(|found| device.is_found(*found));
            }
        }
        let others: Vec<_> =
            self.interfaces.iter().flat_map(|attached| attached.interface.devices.clone()).collect();
        let release = ReleaseCheck {
            qemu: Some(&self.qemu.id),
            devices: &interface.devices,
            link: interface.resources.link.as_ref(),
            link_shows: true,
            cut: false,
            asked: true,
            others: &others,
            earlier_sockets,
            grace: end.saturating_duration_since(Instant::now()),
        };
        let shown = release.run(&mut self.host, &mut OpenFileCounts::default());
        let worst = |(shown, found): (Evidence, Option<FoundDescriptor>)| match (shown, found) {
            (Evidence::Held(None) | Evidence::Doubtful(_), Some(found)) => Evidence::Held(Some(found.fd)),
            // The descriptor may be in flight to QEMU: without proof it does not count as released.
            (Evidence::Doubtful(_), None) if in_flight => Evidence::Held(None),
            // QEMU may connect still.
            (Evidence::Released(_), None) if in_flight && connects => Evidence::Held(None),
            (shown, _) => shown,
        };
        shown.into_iter().zip(found).map(worst).collect()
    }
}
