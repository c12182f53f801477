//! One guest's driver: the only thing that acts on the guest.
//!
//! ```text
//!               start()                    QEMU is gone
//!   Starting ─────────────▶ Running ───────────────────────────▶ Stopped
//!      │                    │  ▲ ▲                                  ▲
//!      │ any step fails     │  │ └── stop unanswered, GiveUp ──┐    │
//!      ▼                    │  │                              │    │
//!   rolled back,       detach│  │DEVICE_DELETED,               │    │
//!   `op=start failed`        ▼  │unplug refused, time out      │    │
//!                         Unplugging        stop ────────▶ Stopping ┘
//! ```
//!
//! Happy path: devices are opened, entered in the books, handed to QEMU, seen there by kcmp(2);
//! then the driver waits in one poll(2) for QEMU's events, QEMU's end and requests, and does one
//! request at a time. A stop is taken at any time, and ends an unplug that waits.
//!
//! Failures: what a step did is undone beside it, and what can't be undone is on record as still
//! held. A monitor that fails leaves the guest running and its devices held; only requests that
//! need it fail. QEMU's end, however it comes, closes every device's account.

mod adopt;
mod attach;
mod detach;
mod guard;
mod manager;
mod qemu;
mod start;
mod stop;

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use taptrail_kernel::changes::Changes;
use taptrail_kernel::process::{Credentials, Limit, PrivateDev, release_text_pages};
use taptrail_ledger::StepKey;
use taptrail_qmp::Event;
use taptrail_record::{GuestId, MacAddr, Reason, Requester};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::account::{Account, AccountError, AuditMode};
use crate::host::Host;
use crate::interface::Interface;
use crate::qemu::CommandLine;
use crate::request::{Failure, HeldDevice, Inbox, InterfaceInfo, OnTimeout, Reply, Request};
use crate::run_dir::Dirs;
use crate::spec::NicSpec;

pub use adopt::{AdoptError, AdoptOptions};
pub(crate) use adopt::{check_callers, orphan};
pub(crate) use qemu::end_process;
pub use start::StartError;

/// How long QEMU may take to answer one command of its monitor.
const ANSWER: Duration = Duration::from_secs(10);

/// What the step of a revocation has noted: a release with the NIC still plugged.
pub(crate) const REVOKE: &str = "revoke";

/// How long QEMU may take to end after `quit`, before it is killed.
const QUIT: Duration = Duration::from_secs(5);

/// How long nothing is to happen until the code that the last work took is given back.
const REST: Duration = Duration::from_secs(1);

/// How many events are taken between two looks at requests: a QEMU that floods us with events
/// must not keep its devices by that.
const EVENTS: usize = 64;

/// What a guest is started with.
#[derive(Debug)]
pub struct Options {
    /// Who it is.
    pub guest: GuestId,
    /// Its interfaces.
    pub nics: Vec<NicSpec>,
    /// QEMU's program and the user's own arguments, checked.
    pub command: CommandLine,
    /// As whom QEMU runs; as us when `None`.
    pub user: Option<Credentials>,
    /// QEMU's own `/dev`; the host's when `None`.
    pub dev: Option<PrivateDev>,
    /// QEMU's whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// QEMU's resource limits.
    pub limits: Vec<Limit>,
    /// How much the kernel's audit is asked for.
    pub audit: AuditMode,
    /// Where things lie.
    pub dirs: Dirs,
    /// The nft program, where it is not the system's.
    pub nft: Option<PathBuf>,
    /// Add QEMU's sandbox, unless the user's own arguments say something of it.
    pub sandbox: bool,
    /// How many free ports for later hot-plug, where the machine needs them.
    pub hotplug_ports: u8,
    /// Users who may call the API, besides root and our own.
    pub allow: Vec<u32>,
    /// Revoke an interface whose filter is not in force any more and can't be set again.
    pub revoke_unfiltered: bool,
    /// Have the kernel tell last closes by BPF, where it may be asked.
    pub bpf: bool,
}

/// How a guest ended.
#[derive(Debug)]
pub struct Ended {
    /// QEMU's own; of a QEMU that was adopted it can't be seen.
    pub status: Option<ExitStatus>,
    /// `shutdown`, `destroyed` or `crashed`; `unknown` where nothing was heard of it.
    pub reason: Reason,
    /// Why the account could not be closed, if so.
    pub account: Result<(), AccountError>,
    /// Who asked for the stop and waits for it.
    stopped: Vec<Reply<()>>,
}

impl Ended {
    /// Answers who waits for the stop: once its name is free, and nothing of it is left.
    pub(crate) fn answer(&mut self) {
        for reply in self.stopped.drain(..) {
            answered(reply.send(match &self.account {
                Ok(()) => Ok(()),
                Err(error) => Err(Failure::Failed(format!(
                    "The guest has ended, but its account could not be closed: {}",
                    crate::chain(error)
                ))),
            }));
        }
    }
}

/// An interface as its guest has it now.
#[derive(Debug)]
struct Plugged {
    interface: Interface,
    state: PlugState,
    /// The NIC is there in QEMU, with or without its devices.
    nic: bool,
    since: Timestamp,
    mac_changes: guard::MacChanges,
}

/// How an interface stands with QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlugState {
    /// QEMU holds its devices.
    Held,
    /// As `Held`, and the guest was asked to let go of the NIC.
    Unplugging {
        /// Its intent, where it could be noted.
        step: Option<StepKey>,
    },
    /// Its devices are gone, but the NIC is still plugged.
    Revoked,
    /// A failed attach left QEMU holding some of its devices.
    Kept,
}

impl PlugState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Unplugging { .. } => "unplugging",
            Self::Revoked => "revoked",
            Self::Kept => "kept",
        }
    }
}

/// What waits for the guest.
#[derive(Debug)]
enum Pending {
    Detach { id: String, deadline: Instant, requester: Option<Requester>, reply: Reply<InterfaceInfo> },
    Stop(Vec<StopWait>),
}

/// One who waits for the guest's stop; each with a patience of its own.
#[derive(Debug)]
struct StopWait {
    deadline: Instant,
    then: OnTimeout,
    reply: Option<Reply<()>>,
}

impl Pending {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Detach { deadline, .. } => Some(*deadline),
            Self::Stop(waits) => waits.iter().map(|wait| wait.deadline).min(),
        }
    }

    /// Does it wait for the guest to let go of the NIC with this id?
    fn is_detach_of(&self, nic: &str) -> bool {
        matches!(self, Self::Detach { id, .. } if id == nic)
    }
}

/// A running guest's driver.
#[derive(Debug)]
pub(crate) struct Driver {
    account: Account,
    host: Host,
    qemu: qemu::Qemu,
    inbox: Inbox,
    interfaces: Vec<Plugged>,
    ports: Vec<Port>,
    pending: Option<Pending>,
    /// The guest's processors don't run.
    paused: bool,
    /// We ended QEMU.
    forced: bool,
    /// The intent to stop the guest.
    stop: Option<StepKey>,
    /// Who asked for the stop.
    stopped_by: Option<Requester>,
    /// QEMU's own word for its end.
    shutdown: Option<Shutdown>,
    /// When what QEMU holds was looked at, by the clock that never jumps and by the one that records have.
    looked_at: Instant,
    looked: Timestamp,
    /// Since when the kernel's announcements may wait to be heard; none when one of them ended a sleep.
    unheard_since: Option<Timestamp>,
    /// Take an interface's devices when its filter can't be set again.
    revoke_unfiltered: bool,
}

/// A pcie-root-port that we put there.
#[derive(Debug)]
struct Port {
    name: String,
    taken: bool,
}

/// What QEMU's SHUTDOWN event said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    ByGuest,
    ByHost,
    Panic,
}

/// The claimed guest: what `run` needs besides the options.
#[derive(Debug)]
pub(crate) struct Place {
    /// Where QEMU's monitor listens.
    pub(crate) monitor: std::os::unix::net::UnixListener,
    /// Its path.
    pub(crate) monitor_path: PathBuf,
}

/// Starts the guest and drives it until it ends. `ready` is called once QEMU runs it.
pub(crate) fn run(
    options: Options,
    place: Place,
    inbox: &Inbox,
    ready: impl FnOnce(&Driver),
) -> Result<Ended, StartError> {
    let mut driver = start::start(options, place, inbox)?;
    driver.look_at_all();
    ready(&driver);
    Ok(driver.serve())
}

/// Takes up a guest that runs without a supervisor, and drives it until it ends. `ready` is called once that is done.
pub(crate) fn adopt(
    options: &AdoptOptions,
    monitor: &Path,
    inbox: &Inbox,
    ready: impl FnOnce(&Driver),
) -> Result<Ended, AdoptError> {
    let mut driver = adopt::adopt(options, monitor, inbox)?;
    driver.look_at_all();
    ready(&driver);
    Ok(driver.serve())
}

impl Driver {
    /// QEMU's pid.
    pub(crate) fn qemu_pid(&self) -> u32 {
        self.qemu.id.pid
    }

    /// The guest's uuid.
    pub(crate) fn uuid(&self) -> Uuid {
        self.account.guest().uuid
    }

    fn serve(mut self) -> Ended {
        // Whether what the last work took has been given back since.
        let mut shed = false;
        let mut manager = manager::Manager::new();
        loop {
            manager.ping();
            self.look_at_changes();
            self.look_at_last_closes();
            if self.next_look().is_some_and(|left| left.is_zero()) {
                self.look_at_devices();
            }
            let more = self.take_events(EVENTS);
            self.expire();
            if let Some(exit) = self.qemu.ended() {
                manager.stopping();
                return self.end(exit);
            }
            // A request's commands may have read events along: they come before any sleep.
            if self.take_request() || more {
                shed = false;
                continue;
            }
            self.publish();
            manager.look_at(&self);
            let at_most = if shed { None } else { Some(REST) };
            let at_most = manager.next_ping().into_iter().chain(at_most).chain(self.next_look()).min();
            let quiet = self.wait(at_most);
            if quiet
                && !shed
                && let Err(error) = release_text_pages()
            {
                debug!("code stays mapped: {error}");
            }
            shed = quiet;
        }
    }

    /// Does the next request. While one waits for the guest, only a stop is taken, or a revocation
    /// while that is no stop.
    fn take_request(&mut self) -> bool {
        let request = match &self.pending {
            None => self.inbox.next(|_| true),
            Some(Pending::Detach { .. }) => {
                self.inbox.next(|request| request.is_stop() || request.is_revocation())
            }
            Some(Pending::Stop(_)) => self.inbox.next(Request::is_stop),
        };
        match request {
            None => return false,
            Some(Request::Attach { spec, requester, reply }) => {
                let begun = Instant::now();
                let answer = self.attach(*spec, requester);
                debug!("attach took {:?} from request to proof", begun.elapsed());
                // Who sees the answer sees its effect.
                self.publish();
                answered(reply.send(answer));
            }
            Some(Request::Detach { mac, patience, requester, reply }) => {
                self.detach(mac, patience, requester, reply);
            }
            Some(Request::Revoke { mac, requester, reply }) => self.revoke(mac, requester, reply),
            Some(Request::Stop { patience, then, requester, reply }) => {
                self.stop(patience, then, requester, reply);
            }
        }
        true
    }

    /// Takes up to `most` of QEMU's events; are there more?
    fn take_events(&mut self, most: usize) -> bool {
        for _ in 0..most {
            match self.qemu.monitor.pending_event() {
                Ok(Some(event)) => self.event(&event),
                Ok(None) => return false,
                Err(error) => {
                    self.qemu.monitor_failed(&error);
                    return false;
                }
            }
        }
        true
    }

    fn event(&mut self, event: &Event) {
        match event.name.as_str() {
            "DEVICE_DELETED" => {
                if let Some(id) = event.text("device") {
                    self.unplugged(id);
                }
            }
            "DEVICE_UNPLUG_GUEST_ERROR" => {
                if let Some(id) = event.text("device") {
                    self.unplug_refused(id);
                }
            }
            "SHUTDOWN" => self.shutting_down(event),
            "STOP" => self.paused = true,
            "RESUME" => self.paused = false,
            _ => {}
        }
    }

    /// Ends what has waited long enough.
    fn expire(&mut self) {
        let now = Instant::now();
        if self.pending.as_ref().and_then(Pending::deadline).is_none_or(|deadline| deadline > now) {
            return;
        }
        match self.pending.take() {
            Some(Pending::Detach { id, requester, reply, .. }) => {
                self.unplug_failed(&id, requester, Unanswered::TimedOut, reply);
            }
            Some(Pending::Stop(waits)) => self.stop_timed_out(waits, now),
            None => {}
        }
    }

    /// Sleeps until there is something to do, or for so long: then it is true that nothing came.
    fn wait(&mut self, at_most: Option<Duration>) -> bool {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let deadline = self.pending.as_ref().and_then(Pending::deadline);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.into_iter().chain(at_most).min().map(|left| {
            let left = left + Duration::from_millis(1);
            Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let announced_by = self.host.changes.iter().flat_map(Changes::descriptors).count();
        let mut fds: Vec<PollFd<'_>> =
            self.awaited().into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        // Heard while a link was looked for.
        if self.host.changes.as_ref().is_some_and(Changes::is_waiting) {
            return false;
        }
        // EINTR and the like: the loop looks at everything again anyway.
        if poll(&mut fds, Some(&NOW)) != Ok(0) {
            return false;
        }
        // What the kernel announces from here on ends the sleep, and is heard at once.
        let quiet = poll(&mut fds, timeout.as_ref()) == Ok(0);
        let announced = fds.iter().rev().take(announced_by).any(|fd| !fd.revents().is_empty());
        self.unheard_since = (!announced).then(Timestamp::now);
        quiet
    }

    /// What ends a sleep; the kernel's announcements stand last.
    fn awaited(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.inbox.wake_fd(), self.qemu.pidfd.as_fd()];
        if self.qemu.monitor.poisoned().is_none() {
            fds.push(self.qemu.monitor.as_fd());
        }
        fds.extend(self.host.changes.iter().flat_map(Changes::descriptors));
        fds.extend(self.host.awaited());
        fds
    }

    /// Shows clients what the guest is like now.
    fn publish(&self) {
        let interfaces: Vec<_> = self.interfaces.iter().map(Plugged::info).collect();
        let state = match self.pending {
            Some(Pending::Stop(_)) => "stopping",
            _ if self.paused => "paused",
            _ => "running",
        };
        self.inbox.publish(|snapshot| {
            snapshot.state = state;
            snapshot.interfaces = interfaces;
        });
    }

    /// The interface of this MAC for which QEMU holds devices.
    fn holder(&self, mac: MacAddr) -> Option<usize> {
        self.interfaces
            .iter()
            .position(|plugged| plugged.interface.mac == mac && plugged.state != PlugState::Revoked)
    }

    fn port_named(&self, name: Option<&str>) -> Option<usize> {
        self.ports.iter().position(|port| Some(port.name.as_str()) == name)
    }

    fn free_port(&mut self, name: Option<&str>) {
        if let Some(index) = self.port_named(name) {
            self.ports[index].taken = false;
        }
    }
}

/// Why an unplug did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unanswered {
    TimedOut,
    Refused,
    Stopping,
    Revoked,
}

impl Plugged {
    fn new(interface: Interface) -> Self {
        Self {
            interface,
            state: PlugState::Held,
            nic: true,
            since: Timestamp::now(),
            mac_changes: guard::MacChanges::default(),
        }
    }

    fn info(&self) -> InterfaceInfo {
        let interface = &self.interface;
        InterfaceInfo {
            mac: interface.mac,
            spec: interface.spec.clone(),
            ifname: interface.ifname.to_string(),
            state: self.state.as_str(),
            since: self.since,
            devices: interface
                .devices
                .iter()
                .map(|held| HeldDevice {
                    device: held.device.clone(),
                    queue: held.queue,
                    qemu_fd: held.qemu_fd,
                    doubt: held.doubt,
                })
                .collect(),
        }
    }
}

/// A client that does not wait for its answer any more is no concern of the guest's.
fn answered<T>(sent: Result<(), T>) {
    if sent.is_err() {
        info!("a client left before its answer");
    }
}

/// Says an error of the account that nothing waits for.
fn said(result: Result<(), AccountError>) {
    if let Err(error) = result {
        warn!("{}", crate::chain(&error));
    }
}
