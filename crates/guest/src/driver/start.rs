//! Starts a guest: opens its devices, passes them to QEMU, and verifies that QEMU holds them.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::device::Admitted;
use taptrail_kernel::proc::children;
use taptrail_kernel::process::{SpawnRequest, sandbox_after_start, spawn};
use taptrail_kernel::unix_sockets::UnixSockets;
use taptrail_ledger::{Process, Step, StepKey};
use taptrail_qmp::{Monitor, QmpError};
use taptrail_record::{DeviceKind, Event, MacAddr, Outcome, Reason};
use tracing::{info, warn};

use super::names::{free_id, free_mac, netdev_id};
use super::qemu::{Booting, Greeting, Qemu};
use super::{
    AttachedInterface, Driver, MONITOR_TIMEOUT, MonitorSocket, Port, StartError, StartOptions, UnsharedMemory,
};
use crate::account::{Account, AccountError, LedgerBatch, OpenDevice};
use crate::handover::OpenFileCounts;
use crate::host::Host;
use crate::interface::{Interface, Opened};
use crate::learning::LearntFile;
use crate::qemu::{Additions, NicOnCommandLine, Ports, VirtioBus};
use crate::qemu_devices;
use crate::request::{Inbox, Reply, Request};
use crate::spec::{Backend, NicSpec, check_unique};
use crate::state::GuestState;

/// How long QEMU may take until its monitor's greeting: it first allocates the guest's memory.
pub(super) const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// The state of a start in progress; rolled back as a whole.
struct Attempt {
    account: Account,
    host: Host,
    interfaces: Vec<Interface>,
    admitted: Vec<Admitted>,
    /// The interfaces in the ledger, opened or not.
    begun: Vec<MacAddr>,
    /// Devices that are closed again, and that the ledger has as open.
    closed: Vec<OpenDevice>,
    booting: Option<Booting>,
    qemu: Option<Qemu>,
    /// QEMU was started, and inherited the devices.
    spawned: bool,
    steps: Vec<StepKey>,
    /// The grants are on record.
    granted: bool,
    /// The user gave -S: QEMU stays paused.
    paused: bool,
    /// The client that stopped the start, and waits for its answer.
    stopped: Option<Reply<()>>,
}

pub(super) fn start(
    options: StartOptions,
    socket: MonitorSocket,
    inbox: &Inbox,
) -> Result<Driver, StartError> {
    let wanted = ports_wanted(&options);
    if wanted > Ports::LIMIT {
        return Err(StartError::Ports { wanted, most: Ports::LIMIT });
    }
    let mut host = Host::open(&options.dirs.run, options.nft.clone())?;
    if options.bpf {
        host.enable_last_closes();
    }
    let nics = complete(&options.nics, options.command.virtio_bus(), &mut host)?;
    let paused = options.command.paused;
    let mut account = Account::begin(&options.dirs.state, options.audit, options.guest.clone(), paused)?;
    account.publish_to(inbox.events());
    let step = account.intend(Step::Start, None, &options.command.to_string());
    let mut attempt = Attempt {
        account,
        host,
        interfaces: Vec::new(),
        admitted: Vec::new(),
        begun: Vec::new(),
        closed: Vec::new(),
        booting: None,
        qemu: None,
        spawned: false,
        steps: Vec::new(),
        granted: false,
        paused: false,
        stopped: None,
    };
    let up = step.map_err(StartError::Account).and_then(|step| {
        attempt.steps.push(step);
        attempt.bring_up(&options, nics, socket, inbox)
    });
    match up {
        Ok(ports) => Ok(attempt.into_driver(inbox, ports, &options)?),
        Err(error) => {
            let stopped = attempt.stopped.take();
            attempt.roll_back(&error);
            if let Some(reply) = stopped {
                super::log_if_client_gone(reply.send(Ok(())));
            }
            Err(error)
        }
    }
}

/// The number of pcie-root-ports that taptrail adds.
fn ports_wanted(options: &StartOptions) -> usize {
    if !options.command.needs_ports() {
        return 0;
    }
    let plugged = options.nics.iter().filter(|nic| !nic.has_place()).count();
    plugged + usize::from(options.hotplug_ports)
}

/// Gives every interface a MAC and an id, all unique, and the machine's virtio NIC.
fn complete(
    specs: &[NicSpec],
    virtio_bus: VirtioBus,
    host: &mut Host,
) -> Result<Vec<(NicSpec, MacAddr, String)>, StartError> {
    let mut specs = specs.to_vec();
    for spec in &mut specs {
        virtio_bus.settle(spec)?;
        spec.mac = spec.mac.or_else(|| host.mac_of(spec));
    }
    check_unique(&specs)?;
    let mut macs: BTreeSet<MacAddr> = specs.iter().filter_map(|spec| spec.mac).collect();
    let mut ids: BTreeSet<String> =
        specs.iter().filter_map(|spec| Some(spec.id.as_ref()?.to_string())).collect();
    let mut complete = Vec::with_capacity(specs.len());
    for mut spec in specs {
        let mac = match spec.mac {
            Some(mac) => mac,
            None => free_mac(|mac| macs.contains(&mac)).map_err(StartError::Random)?,
        };
        macs.insert(mac);
        spec.mac = Some(mac);
        let id = spec.id.as_ref().map_or_else(|| free_id(|id| ids.contains(id)), ToString::to_string);
        ids.insert(id.clone());
        complete.push((spec, mac, id));
    }
    Ok(complete)
}

impl Attempt {
    fn bring_up(
        &mut self,
        options: &StartOptions,
        nics: Vec<(NicSpec, MacAddr, String)>,
        socket: MonitorSocket,
        inbox: &Inbox,
    ) -> Result<Vec<Port>, StartError> {
        crash_point!("start::intended");
        self.account.ready()?;
        if nics.iter().any(|(spec, ..)| matches!(spec.backend, Backend::VhostUser(_))) {
            // Without the kernel's list nothing shows the connection, nor its release.
            UnixSockets::list().map_err(StartError::Look)?;
        }
        for (spec, mac, id) in nics {
            self.begun.push(mac);
            match self.host.open_interface(spec, mac, id, &mut self.account, None) {
                Ok(Opened { interface, admitted, steps }) => {
                    self.interfaces.push(interface);
                    self.admitted.extend(admitted);
                    self.steps.extend(steps);
                }
                Err(failed) => {
                    self.closed.extend(failed.closed);
                    self.steps.extend(failed.steps);
                    return Err(failed.error.into());
                }
            }
        }
        self.check_sockets()?;
        let ports = self.run_qemu(options, socket, inbox)?;
        crash_point!("start::greeted");
        self.check_memory()?;
        self.prove()?;
        crash_point!("start::proved");
        self.grant()?;
        crash_point!("start::granted");
        // Only QEMU keeps a granted device alive.
        self.admitted.clear();
        sandbox_after_start(self.host.needs_bpf()).map_err(StartError::Restrain)?;
        self.paused = options.command.paused;
        if let Some(qemu) = &mut self.qemu {
            for interface in self.interfaces.iter().filter(|interface| interface.spec.host.link_down) {
                qemu.monitor.set_link(&interface.id, false, MONITOR_TIMEOUT)?;
            }
        }
        if let Some(qemu) = &mut self.qemu
            && !self.paused
        {
            qemu.monitor.cont(MONITOR_TIMEOUT)?;
        }
        Ok(ports)
    }

    /// Starts QEMU, paused, with the descriptors, and connects to its monitor.
    fn run_qemu(
        &mut self,
        options: &StartOptions,
        socket: MonitorSocket,
        inbox: &Inbox,
    ) -> Result<Vec<Port>, StartError> {
        // Connected before QEMU starts, as QEMU waits for its monitor's client.
        let monitor = |source| QmpError::Connect { path: socket.path.clone(), source };
        let stream = UnixStream::connect(&socket.path).map_err(monitor)?;
        let (ports, arguments) = self.arguments(options, socket.listener.as_fd().as_raw_fd());
        let program = options.command.program.clone();
        // QEMU connects to a vhost-user backend by its path.
        let devices: Vec<&Admitted> =
            self.admitted.iter().filter(|device| device.socket_path().is_none()).collect();
        let child = spawn(SpawnRequest {
            devices: &devices,
            monitor: Some(&socket.listener),
            credentials: options.user.as_ref(),
            environment: Some(&options.environment),
            limits: &options.limits,
            dev: options.dev.as_ref(),
            ..SpawnRequest::new(&program, &arguments)
        })
        .map_err(|source| StartError::Spawn { program, source })?;
        self.spawned = true;
        crash_point!("start::spawned");
        let booting = Booting::of(child).map_err(StartError::Look)?;
        let process = Process { pid: booting.id.pid, start: booting.id.start_time };
        let booting = self.booting.insert(booting);
        self.account.update_ledger(|tx, guest| tx.guest_runs(guest, process))?;
        crash_point!("start::on-record");

        // QEMU has the only copy now: when QEMU ends, so does the stream.
        drop(socket.listener);
        let deadline = Instant::now() + BOOT_TIMEOUT;
        loop {
            match booting.await_greeting(&stream, inbox, deadline).map_err(StartError::Look)? {
                Greeting::Ready => break,
                Greeting::Ended => break,
                Greeting::TimedOut => return Err(StartError::Silent),
                Greeting::Request => {
                    // Other requests wait until the guest runs.
                    if let Some(Request::Stop { reply, .. }) = inbox.next(Request::is_stop) {
                        self.stopped = reply;
                        return Err(StartError::Stopped);
                    }
                }
            }
        }
        // The greeting has begun: its rest gets the timeout of a command.
        let monitor = match Monitor::from_stream(stream, Instant::now() + MONITOR_TIMEOUT) {
            Ok(monitor) => monitor,
            // The reason is on its standard error; only its exit status is left to report.
            Err(QmpError::Closed | QmpError::Io { .. }) => {
                return match self.booting.take().map(Booting::end) {
                    Some(Ok(status)) => Err(StartError::Refused(status)),
                    _ => Err(QmpError::Closed.into()),
                };
            }
            Err(error) => return Err(error.into()),
        };
        self.qemu = self.booting.take().map(|booting| booting.with_monitor(monitor));
        Ok(ports)
    }

    /// QEMU's arguments, the user's own and ours; and the ports, with those in use marked as taken.
    fn arguments(&mut self, options: &StartOptions, monitor: i32) -> (Vec<Port>, Vec<std::ffi::OsString>) {
        let names = Ports::new(ports_wanted(options));
        let mut ports: Vec<Port> =
            names.names.iter().map(|name| Port { name: name.clone(), taken: false }).collect();
        let mut admitted = self.admitted.iter();
        let mut nics = Vec::with_capacity(self.interfaces.len());
        let mut free = ports.iter_mut();
        for interface in &mut self.interfaces {
            if !interface.spec.has_place()
                && let Some(port) = free.next()
            {
                port.taken = true;
                interface.port = Some(port.name.clone());
            }
            let ours: Vec<_> = admitted.by_ref().take(interface.devices.len()).collect();
            let numbers = |vhost: bool| {
                ours.iter()
                    .filter(|device| device.socket_path().is_none())
                    .filter(|device| (device.facts().kind == DeviceKind::VhostNet) == vhost)
                    .map(|device| device.as_fd().as_raw_fd())
                    .collect()
            };
            nics.push(NicOnCommandLine {
                id: interface.id.clone(),
                netdev_id: netdev_id(&interface.id),
                spec: interface.spec.clone(),
                mac: interface.mac,
                fds: numbers(false),
                vhost_fds: numbers(true),
                bus: interface.port.clone(),
            });
        }
        let arguments = options.command.with(&Additions {
            guest: &options.guest,
            monitor_fd: monitor,
            nics: &nics,
            ports: &names,
            sandbox: options.sandbox,
        });
        (ports, arguments)
    }

    /// Refuses one socket for two interfaces, by whatever paths: which of two connections to it is whose
    /// could not be told.
    fn check_sockets(&self) -> Result<(), StartError> {
        let of = |interface: &Interface| interface.devices.iter().find_map(|device| device.socket.clone());
        let sockets: Vec<_> =
            self.interfaces.iter().filter_map(|interface| Some((interface.mac, of(interface)?))).collect();
        for (index, (mac, socket)) in sockets.iter().enumerate() {
            if let Some((other, _)) = sockets[..index].iter().find(|(_, other)| other.id() == socket.id()) {
                let path = socket.path().display().to_string();
                return Err(StartError::SocketInUse { path, mac: *mac, other: *other });
            }
        }
        Ok(())
    }

    /// Refuses memory that the backends of vhost-user interfaces could not map.
    fn check_memory(&mut self) -> Result<(), StartError> {
        let Some(qemu) = &mut self.qemu else { return Err(QmpError::Closed.into()) };
        let is_vhost_user = |of: &&Interface| matches!(of.spec.backend, Backend::VhostUser(_));
        if let Some(interface) = self.interfaces.iter().find(is_vhost_user)
            && let Some(error) =
                UnsharedMemory::of(interface.mac, qemu.monitor.unshared_memory(MONITOR_TIMEOUT)?)
        {
            return Err(error.into());
        }
        Ok(())
    }

    /// Verifies that QEMU holds each descriptor, and no other raw network device.
    fn prove(&mut self) -> Result<(), StartError> {
        let Some(qemu) = &self.qemu else { return Err(QmpError::Closed.into()) };
        let found = qemu_devices::find(&qemu.id, &self.admitted, &[]).map_err(StartError::Look)?;
        let mut found = found.into_iter();
        for interface in &mut self.interfaces {
            for device in &mut interface.devices {
                match found.next().flatten() {
                    Some(found) => device.is_found(found),
                    None => {
                        let path = device.device.path.clone();
                        return Err(StartError::NotHeld { path: path.into(), mac: interface.mac });
                    }
                }
            }
        }
        let known: Vec<_> = self.devices().cloned().collect();
        // A child would have copies of QEMU's descriptors, and may outlive QEMU.
        if let Some(child) = children(qemu.id.pid).map_err(StartError::Look)?.first() {
            return Err(StartError::Child { pid: *child });
        }
        match qemu_devices::unexpected_devices(&qemu.id, &known).map_err(StartError::Look)?.first() {
            Some(device) => Err(StartError::UnexpectedDevice { path: device.path.display().to_string() }),
            None => Ok(()),
        }
    }

    /// Records the grants of all interfaces and the start of the guest.
    fn grant(&mut self) -> Result<(), StartError> {
        let pid = self.qemu.as_ref().map(|qemu| qemu.id.pid);
        let mut batch = LedgerBatch::default().complete_steps(&self.steps, "success");
        for interface in &self.interfaces {
            let fds = u32::try_from(interface.devices.len()).ok();
            let event = Event::Start { mac: interface.mac, vm_pid: pid, fds };
            let record = self.account.record(event, Outcome::Success, None);
            batch = batch.grant(record, &interface.devices);
        }
        let booted = Event::GuestStart { reason: Reason::BOOTED, vm_pid: pid };
        self.account.post_or_refuse(batch.record(self.account.record(booted, Outcome::Success, None)))?;
        self.steps.clear();
        self.granted = true;
        Ok(())
    }

    fn devices(&self) -> impl Iterator<Item = &OpenDevice> {
        self.interfaces.iter().flat_map(|interface| &interface.devices)
    }

    fn into_driver(
        self,
        inbox: &Inbox,
        ports: Vec<Port>,
        options: &StartOptions,
    ) -> Result<Driver, StartError> {
        let Some(qemu) = self.qemu else { return Err(QmpError::Closed.into()) };
        for interface in &self.interfaces {
            info!("{}", granted(interface, qemu.id.pid));
        }
        let pid = qemu.id.pid;
        inbox.publish(|snapshot| {
            snapshot.state = GuestState::Running;
            snapshot.pid = Some(pid);
            snapshot.since = Some(Timestamp::now());
        });
        let driver = Driver {
            account: self.account,
            host: self.host,
            qemu,
            inbox: inbox.clone(),
            interfaces: self.interfaces.into_iter().map(AttachedInterface::new).collect(),
            ports,
            virtio_bus: options.command.virtio_bus(),
            pending: None,
            paused: self.paused,
            forced: false,
            stop: None,
            stopped_by: None,
            shutdown: None,
            last_check: Instant::now(),
            last_check_time: Timestamp::now(),
            unread_since: Some(Timestamp::now()),
            revoke_unfiltered: options.revoke_unfiltered,
            learnt: LearntFile::of(&options.dirs, &options.guest.name),
        };
        driver.publish();
        Ok(driver)
    }

    /// Undoes everything, and records it.
    fn roll_back(mut self, cause: &StartError) {
        let pid = self.qemu.as_ref().map(|qemu| qemu.id.pid);
        let fds = self.spawned.then_some(0);
        let ended = match (self.qemu.take(), self.booting.take()) {
            (Some(qemu), _) => qemu.end(),
            (None, Some(booting)) => booting.end().map(drop),
            (None, None) => Ok(()),
        };
        if let Err(error) = ended {
            warn!("QEMU's end can't be seen: {error}");
        }
        self.admitted.clear();
        let mut devices = std::mem::take(&mut self.closed);
        let mut counts = OpenFileCounts::default();
        for interface in &mut self.interfaces {
            devices.extend(interface.end(&mut self.host, &mut counts));
        }
        let account = &mut self.account;
        let failed = |event| account.record(event, Outcome::Failed, None);
        let mut batch = LedgerBatch::default();
        if !self.granted {
            for mac in &self.begun {
                batch = batch.record(failed(Event::Start { mac: *mac, vm_pid: pid, fds }));
            }
        }
        batch = batch.close_devices(account, &devices);
        // After the grant the guest was started: it stops. Before, its start has failed.
        batch = batch.record(if self.granted {
            account.record(Event::GuestStop { reason: Reason::FAILED, vm_pid: pid }, Outcome::Success, None)
        } else {
            failed(Event::GuestStart { reason: Reason::BOOTED, vm_pid: pid })
        });
        let ended = account.end(batch.complete_steps(&self.steps, "failed").end_guest(&Reason::FAILED));
        // What made the start fail may well make its record fail, and is reported already.
        let is_cause = |error: &AccountError| crate::chain(cause).ends_with(&crate::chain(error));
        super::log_error(ended.or_else(|error| if is_cause(&error) { Ok(()) } else { Err(error) }));
    }
}

/// The log message of a grant.
pub(super) fn granted(interface: &Interface, pid: u32) -> String {
    let vhost = if interface.devices.iter().any(|held| held.device.kind == DeviceKind::VhostNet) {
        " with vhost-net"
    } else {
        ""
    };
    format!(
        "{}: '{}'{vhost} granted, {} in QEMU (pid {pid})",
        interface.mac,
        interface.ifname,
        crate::descriptors(interface.devices.len())
    )
}
