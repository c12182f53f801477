//! From options to a guest that runs: opens, hands over, proves.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::device::Admitted;
use taptrail_kernel::link::LinkError;
use taptrail_kernel::proc::children;
use taptrail_kernel::process::{SpawnRequest, sandbox_after_start, spawn};
use taptrail_ledger::{Process, Step, StepKey};
use taptrail_qmp::{Monitor, QmpError};
use taptrail_record::{DeviceKind, Event, MacAddr, Outcome, Reason};
use tracing::{info, warn};

use super::qemu::{Booting, Greeting, Qemu};
use super::{ANSWER, Driver, Options, Place, Plugged, Port};
use crate::account::{Account, AccountError, OpenDevice, Posting};
use crate::handover::{self, Counts};
use crate::host::Host;
use crate::interface::{Interface, OpenError, Opened};
use crate::qemu::{Additions, NicOnCommandLine, Ports};
use crate::request::{Inbox, Reply, Request};
use crate::spec::{NicSpec, SpecError, check_unique, random_mac};

/// How long QEMU may take until its monitor speaks: a large guest's memory is allocated first.
const BOOT: Duration = Duration::from_secs(60);

/// A guest did not start; nothing of it is left over.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The SPECs contradict each other.
    #[error("Interfaces can't be started together")]
    Spec(#[from] SpecError),
    /// The host's links can't be asked for.
    #[error("The host's network links can't be reached")]
    Links(#[from] LinkError),
    /// The account can't be opened, or not as it must be.
    #[error("The guest's account can't be written")]
    Account(#[from] AccountError),
    /// An interface can't be opened.
    #[error("Interface can't be opened")]
    Open(#[from] OpenError),
    /// No random number, no MAC.
    #[error("A random MAC address can't be made")]
    Random(#[source] io::Error),
    /// The program can't be run.
    #[error("QEMU can't be run as {program}", program = program.display())]
    Spawn {
        /// Its path.
        program: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU ended by itself; it has said why on its standard error.
    #[error("QEMU refused to start the guest: it ended with {0}")]
    Refused(std::process::ExitStatus),
    /// QEMU's monitor is silent.
    #[error("QEMU's monitor did not speak within {} s", BOOT.as_secs())]
    Silent,
    /// A stop came first.
    #[error("Start was stopped")]
    Stopped,
    /// The monitor fails.
    #[error("QEMU's monitor can't be used")]
    Monitor(#[from] QmpError),
    /// QEMU's descriptors can't be read.
    #[error("QEMU's descriptors can't be read")]
    Look(#[source] io::Error),
    /// QEMU does not hold what it was given.
    #[error("QEMU doesn't hold {path} of interface {mac}")]
    NotHeld {
        /// The device.
        path: String,
        /// The interface.
        mac: MacAddr,
    },
    /// The program is not QEMU itself.
    #[error(
        "QEMU has a child process ({pid}), which would keep its devices: if the program is a wrapper, have it exec QEMU"
    )]
    Child {
        /// The child's.
        pid: u32,
    },
    /// More interfaces and free ports than the machine takes.
    #[error(
        "{wanted} PCIe ports are needed for the interfaces and --hotplug-ports, but a machine takes {most}"
    )]
    Ports {
        /// How many.
        wanted: usize,
        /// The limit.
        most: usize,
    },
    /// Rights can't be given up.
    #[error("Privileges can't be dropped")]
    Restrain(#[source] io::Error),
    /// QEMU holds what it was not given.
    #[error(
        "QEMU opened {path} by itself, on no record: use --nic, or take the argument that makes it do so away"
    )]
    Stranger {
        /// The device.
        path: String,
    },
}

/// What stands so far; rolled back as a whole.
struct Attempt {
    account: Account,
    host: Host,
    interfaces: Vec<Interface>,
    admitted: Vec<Admitted>,
    /// The interfaces begun, opened or not.
    begun: Vec<MacAddr>,
    /// On record as open and closed again.
    closed: Vec<OpenDevice>,
    booting: Option<Booting>,
    qemu: Option<Qemu>,
    /// QEMU was started, and inherited the devices.
    spawned: bool,
    steps: Vec<StepKey>,
    /// The grants are on record.
    granted: bool,
    /// The user's own -S.
    paused: bool,
    /// Who stopped the start and waits for it.
    stopped: Option<Reply<()>>,
}

pub(super) fn start(options: Options, place: Place, inbox: &Inbox) -> Result<Driver, StartError> {
    let wanted = ports_wanted(&options);
    if wanted > Ports::LIMIT {
        return Err(StartError::Ports { wanted, most: Ports::LIMIT });
    }
    let mut host = Host::open(options.nft.clone())?;
    if options.bpf {
        host.ask_for_last_closes();
    }
    let nics = complete(&options.nics, &mut host)?;
    let paused = options.command.paused;
    let mut account = Account::begin(&options.dirs.state, options.audit, options.guest.clone(), paused)?;
    account.tell_to(inbox.events());
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
        attempt.bring_up(&options, nics, place, inbox)
    });
    match up {
        Ok(ports) => Ok(attempt.into_driver(inbox, ports, options.revoke_unfiltered)?),
        Err(error) => {
            let stopped = attempt.stopped.take();
            attempt.roll_back();
            if let Some(reply) = stopped {
                super::answered(reply.send(Ok(())));
            }
            Err(error)
        }
    }
}

/// How many ports this guest's machine is to have from us.
fn ports_wanted(options: &Options) -> usize {
    if options.command.needs_ports() { options.nics.len() + usize::from(options.hotplug_ports) } else { 0 }
}

/// Gives every interface its MAC and id; afterwards no two have the same.
fn complete(specs: &[NicSpec], host: &mut Host) -> Result<Vec<(NicSpec, MacAddr, String)>, StartError> {
    let mut specs = specs.to_vec();
    for spec in &mut specs {
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

/// The first of `nic0`, `nic1` … that is not taken.
pub(super) fn free_id(taken: impl Fn(&str) -> bool) -> String {
    let mut number = 0_u32;
    loop {
        let id = format!("nic{number}");
        if !taken(&id) {
            return id;
        }
        number += 1;
    }
}

/// A random MAC that is not taken.
pub(super) fn free_mac(taken: impl Fn(MacAddr) -> bool) -> io::Result<MacAddr> {
    loop {
        let mac = random_mac()?;
        if !taken(mac) {
            return Ok(mac);
        }
    }
}

impl Attempt {
    fn bring_up(
        &mut self,
        options: &Options,
        nics: Vec<(NicSpec, MacAddr, String)>,
        place: Place,
        inbox: &Inbox,
    ) -> Result<Vec<Port>, StartError> {
        crash_point!("start::intended");
        self.account.ready()?;
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
        let ports = self.run_qemu(options, place, inbox)?;
        crash_point!("start::greeted");
        self.prove()?;
        crash_point!("start::proved");
        self.grant()?;
        crash_point!("start::granted");
        // Only QEMU keeps a granted device alive.
        self.admitted.clear();
        sandbox_after_start(self.host.needs_bpf()).map_err(StartError::Restrain)?;
        self.paused = options.command.paused;
        if let Some(qemu) = &mut self.qemu
            && !self.paused
        {
            qemu.monitor.cont(ANSWER)?;
        }
        Ok(ports)
    }

    /// Runs QEMU, paused, with the descriptors, and talks to its monitor.
    fn run_qemu(&mut self, options: &Options, place: Place, inbox: &Inbox) -> Result<Vec<Port>, StartError> {
        // Before QEMU is there, which waits for its monitor's client.
        let monitor = |source| QmpError::Connect { path: place.monitor_path.clone(), source };
        let stream = UnixStream::connect(&place.monitor_path).map_err(monitor)?;
        let (ports, arguments) = self.arguments(options, place.monitor.as_fd().as_raw_fd());
        let program = options.command.program.clone();
        let devices: Vec<&Admitted> = self.admitted.iter().collect();
        let child = spawn(SpawnRequest {
            devices: &devices,
            monitor: Some(&place.monitor),
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
        self.account.note(|tx, guest| tx.guest_runs(guest, process))?;
        crash_point!("start::on-record");

        // QEMU's copy is the only one now: when QEMU ends, the stream does too.
        drop(place.monitor);
        let deadline = Instant::now() + BOOT;
        loop {
            match booting.await_greeting(&stream, inbox, deadline).map_err(StartError::Look)? {
                Greeting::Speaks => break,
                Greeting::Ended => break,
                Greeting::TimedOut => return Err(StartError::Silent),
                Greeting::Asked => {
                    // Whatever else is asked for waits until the guest runs.
                    if let Some(Request::Stop { reply, .. }) = inbox.next(Request::is_stop) {
                        self.stopped = reply;
                        return Err(StartError::Stopped);
                    }
                }
            }
        }
        // It has begun to speak: the rest of its greeting is not worth the patience of a boot.
        let monitor = match Monitor::from_stream(stream, Instant::now() + ANSWER) {
            Ok(monitor) => monitor,
            // It has said why on its standard error; its status is all that's left to tell.
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

    /// QEMU's arguments: the user's own and ours; and the ports left free.
    fn arguments(&mut self, options: &Options, monitor: i32) -> (Vec<Port>, Vec<std::ffi::OsString>) {
        let names = Ports::new(ports_wanted(options));
        let mut ports: Vec<Port> =
            names.names.iter().map(|name| Port { name: name.clone(), taken: false }).collect();
        let mut admitted = self.admitted.iter();
        let mut nics = Vec::with_capacity(self.interfaces.len());
        for (interface, port) in
            self.interfaces.iter_mut().zip(ports.iter_mut().map(Some).chain(std::iter::repeat_with(|| None)))
        {
            if let Some(port) = port {
                port.taken = true;
                interface.port = Some(port.name.clone());
            }
            let ours: Vec<_> = admitted.by_ref().take(interface.devices.len()).collect();
            let numbers = |vhost: bool| {
                ours.iter()
                    .filter(|device| (device.facts().kind == DeviceKind::VhostNet) == vhost)
                    .map(|device| device.as_fd().as_raw_fd())
                    .collect()
            };
            nics.push(NicOnCommandLine {
                id: interface.id.clone(),
                netdev_id: netdev_id(&interface.id),
                model: interface.spec.model.clone(),
                mac: interface.mac,
                queues: interface.spec.queues,
                fds: numbers(false),
                vhost_fds: numbers(true),
                bus: interface.port.clone(),
                mtu: interface.spec.mtu,
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

    /// Shows that QEMU holds each descriptor, and no other raw network device.
    fn prove(&mut self) -> Result<(), StartError> {
        let Some(qemu) = &self.qemu else { return Err(QmpError::Closed.into()) };
        let found = handover::find(&qemu.id, &self.admitted).map_err(StartError::Look)?;
        let mut found = found.into_iter();
        for interface in &mut self.interfaces {
            for device in &mut interface.devices {
                device.qemu_fd = found.next().flatten();
                if device.qemu_fd.is_none() {
                    let path = device.device.path.clone();
                    return Err(StartError::NotHeld { path: path.into(), mac: interface.mac });
                }
            }
        }
        let known: Vec<_> = self.devices().cloned().collect();
        // A child would hold copies of what QEMU inherited, and outlive its end.
        if let Some(child) = children(qemu.id.pid).map_err(StartError::Look)?.first() {
            return Err(StartError::Child { pid: *child });
        }
        match handover::strangers(&qemu.id, &known).map_err(StartError::Look)?.first() {
            Some(stranger) => Err(StartError::Stranger { path: stranger.path.display().to_string() }),
            None => Ok(()),
        }
    }

    /// Posts that QEMU has the interfaces, and that the guest is there.
    fn grant(&mut self) -> Result<(), StartError> {
        let pid = self.qemu.as_ref().map(|qemu| qemu.id.pid);
        let mut posting = Posting::default().done(&self.steps, "success");
        for interface in &self.interfaces {
            let fds = u32::try_from(interface.devices.len()).ok();
            let event = Event::Start { mac: interface.mac, vm_pid: pid, fds };
            let record = self.account.record(event, Outcome::Success, None);
            posting = posting.grants(record, &interface.devices);
        }
        let booted = Event::GuestStart { reason: Reason::BOOTED, vm_pid: pid };
        self.account.post_or_refuse(posting.says(self.account.record(booted, Outcome::Success, None)))?;
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
        revoke_unfiltered: bool,
    ) -> Result<Driver, StartError> {
        let Some(qemu) = self.qemu else { return Err(QmpError::Closed.into()) };
        for interface in &self.interfaces {
            info!("{}", granted(interface, qemu.id.pid));
        }
        let pid = qemu.id.pid;
        inbox.publish(|snapshot| {
            snapshot.state = "running";
            snapshot.pid = Some(pid);
            snapshot.since = Some(Timestamp::now());
        });
        let driver = Driver {
            account: self.account,
            host: self.host,
            qemu,
            inbox: inbox.clone(),
            interfaces: self.interfaces.into_iter().map(Plugged::new).collect(),
            ports,
            pending: None,
            paused: self.paused,
            forced: false,
            stop: None,
            stopped_by: None,
            shutdown: None,
            looked_at: Instant::now(),
            looked: Timestamp::now(),
            unheard_since: Some(Timestamp::now()),
            revoke_unfiltered,
        };
        driver.publish();
        Ok(driver)
    }

    /// Undoes what stands, and leaves the record of it.
    fn roll_back(mut self) {
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
        let mut counts = Counts::default();
        for interface in &mut self.interfaces {
            let held = std::mem::take(&mut interface.devices);
            let lasting = &mut interface.lasting;
            devices.extend(handover::end(interface.mac, held, lasting, true, &mut self.host, &mut counts));
        }
        let account = &mut self.account;
        let failed = |event| account.record(event, Outcome::Failed, None);
        let mut posting = Posting::default();
        if !self.granted {
            for mac in &self.begun {
                posting = posting.says(failed(Event::Start { mac: *mac, vm_pid: pid, fds }));
            }
        }
        posting = posting.closes(account, &devices);
        // A guest that has been there stops; one that has not, never started.
        posting = posting.says(if self.granted {
            account.record(Event::GuestStop { reason: Reason::FAILED, vm_pid: pid }, Outcome::Success, None)
        } else {
            failed(Event::GuestStart { reason: Reason::BOOTED, vm_pid: pid })
        });
        super::said(account.end(posting.done(&self.steps, "failed").ends(&Reason::FAILED)));
    }
}

/// The id of an interface's host side in QEMU.
pub(super) fn netdev_id(id: &str) -> String {
    format!("host-{id}")
}

/// What to tell the operator of a grant.
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
