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
//! Happy path: the driver opens devices, records the opens, passes the descriptors to QEMU, and
//! verifies with kcmp(2) that QEMU holds them. Then it waits in one poll(2) for QEMU's events,
//! QEMU's end and requests, and carries out one request at a time. It takes a stop at any time, and
//! a stop ends a pending unplug.
//!
//! Failures: each step undoes what it did, and records as still held what it can't undo. When the
//! monitor fails, the guest runs on with its devices; only requests that need the monitor fail.
//! When QEMU ends, in whatever way, all its devices are closed in the account.

mod adopt;
mod attach;
mod attached;
mod detach;
mod error;
mod guard;
mod learning;
mod manager;
mod names;
mod options;
mod qemu;
mod release;
mod start;
mod stop;
mod update;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use taptrail_kernel::changes::Changes;
use taptrail_kernel::poll_timeout;
use taptrail_kernel::process::release_text_pages;
use taptrail_ledger::StepKey;
use taptrail_qmp::Event;
use taptrail_record::{MacAddr, Reason, Requester};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::account::{Account, AccountError};
use crate::host::Host;
use crate::learning::LearntFile;
use crate::qemu::VirtioBus;
use crate::request::{Failure, Inbox, OnTimeout, Reply, Request};
use crate::state::{GuestState, InterfaceInfo};

pub(crate) use adopt::{check_callers, orphan};
pub use error::{AdoptError, StartError, UnsharedMemory};
pub use options::{AdoptOptions, StartOptions};
pub(crate) use qemu::kill_process;
pub(crate) use release::ReleaseKind;

use attached::{AttachedInterface, PlugState, Port};

/// How long QEMU may take to answer one command of its monitor.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(10);

/// How long QEMU may take to end after `quit`, before it is killed.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the driver must be idle before it releases the pages of code that it has used.
const IDLE_BEFORE_TRIM: Duration = Duration::from_secs(1);

/// Events of QEMU that are handled before the next request: a QEMU that floods us with events must
/// not delay its own revocation.
const MAX_EVENTS_PER_TURN: usize = 64;

/// How a guest ended.
#[derive(Debug)]
pub struct Ended {
    /// QEMU's exit status; `None` for an adopted QEMU, which is not our child.
    pub status: Option<ExitStatus>,
    /// `shutdown`, `destroyed` or `crashed`; `unknown` where QEMU's monitor had failed.
    pub reason: Reason,
    /// Whether the account was closed.
    pub account: Result<(), AccountError>,
    /// The clients that wait for the stop.
    stopped: Vec<Reply<()>>,
}

impl Ended {
    /// Answers the clients that wait for the stop. To be called once the guest's name can be
    /// reused.
    pub(crate) fn answer(&mut self) {
        for reply in self.stopped.drain(..) {
            log_if_client_gone(reply.send(match &self.account {
                Ok(()) => Ok(()),
                Err(error) => Err(Failure::Failed(format!(
                    "The guest has ended, but its account could not be closed: {}",
                    crate::chain(error)
                ))),
            }));
        }
    }
}

/// A request that waits for the guest.
#[derive(Debug)]
enum Pending {
    Detach { id: String, deadline: Instant, requester: Option<Requester>, reply: Reply<InterfaceInfo> },
    Stop(Vec<StopWait>),
}

/// A client that waits for the guest's stop, with its own deadline.
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

    /// Whether it waits for the guest to release the NIC with this id.
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
    interfaces: Vec<AttachedInterface>,
    ports: Vec<Port>,
    virtio_bus: VirtioBus,
    pending: Option<Pending>,
    /// The guest's virtual CPUs don't run.
    paused: bool,
    /// We forced QEMU to end.
    forced: bool,
    /// The intent to stop the guest.
    stop: Option<StepKey>,
    /// The client that requested the stop.
    stopped_by: Option<Requester>,
    /// The reason in QEMU's SHUTDOWN event.
    shutdown: Option<Shutdown>,
    /// When the devices that QEMU holds were last checked, by the monotonic and by the wall clock.
    last_check: Instant,
    last_check_time: Timestamp,
    /// Since when notifications of the kernel may be unread; `None` when one of them has just ended
    /// a sleep.
    unread_since: Option<Timestamp>,
    /// Revoke an interface whose filter can't be set again.
    revoke_unfiltered: bool,
    /// The addresses that the filters of interfaces have learnt.
    learnt: LearntFile,
}

/// The reason in QEMU's SHUTDOWN event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    ByGuest,
    ByHost,
    Panic,
}

/// The socket of QEMU's monitor.
#[derive(Debug)]
pub(crate) struct MonitorSocket {
    /// The listening socket, which QEMU inherits.
    pub(crate) listener: std::os::unix::net::UnixListener,
    pub(crate) path: PathBuf,
}

/// Starts the guest and drives it until it ends. `ready` is called once QEMU runs it.
pub(crate) fn run(
    options: StartOptions,
    socket: MonitorSocket,
    inbox: &Inbox,
    ready: impl FnOnce(&Driver),
) -> Result<Ended, StartError> {
    let mut driver = start::start(options, socket, inbox)?;
    // Another guest of its name may have left some.
    driver.keep_addresses();
    driver.check_all_links();
    ready(&driver);
    Ok(driver.serve())
}

/// Adopts a guest that runs without a supervisor, and drives it until it ends. `ready` is called
/// once it is adopted.
pub(crate) fn adopt(
    options: &AdoptOptions,
    monitor: &Path,
    inbox: &Inbox,
    ready: impl FnOnce(&Driver),
) -> Result<Ended, AdoptError> {
    let mut driver = adopt::adopt(options, monitor, inbox)?;
    driver.resume_learning();
    driver.check_all_links();
    driver.start_learning();
    driver.publish();
    ready(&driver);
    Ok(driver.serve())
}

impl Driver {
    pub(crate) fn qemu_pid(&self) -> u32 {
        self.qemu.id.pid
    }

    /// The guest's uuid.
    pub(crate) fn uuid(&self) -> Uuid {
        self.account.guest().uuid
    }

    fn serve(mut self) -> Ended {
        // Whether the pages of code were released since the last work.
        let mut trimmed = false;
        let mut manager = manager::Manager::new();
        loop {
            manager.ping();
            self.check_changes();
            self.check_last_closes();
            if self.next_check().is_some_and(|left| left.is_zero()) {
                self.check_devices();
            }
            self.check_learning();
            let more = self.take_events(MAX_EVENTS_PER_TURN);
            self.expire();
            if let Some(exit) = self.qemu.ended() {
                manager.stopping();
                return self.end(exit);
            }
            // The monitor may have read events together with a command's answer: they are handled
            // before any sleep.
            if self.take_request() || more {
                trimmed = false;
                continue;
            }
            self.publish();
            manager.update(&self);
            let at_most = if trimmed { None } else { Some(IDLE_BEFORE_TRIM) };
            let at_most = manager.next_ping().into_iter().chain(at_most).chain(self.next_check());
            let at_most = at_most.chain(self.next_learning()).min();
            let quiet = self.wait(at_most);
            if quiet
                && !trimmed
                && let Err(error) = release_text_pages()
            {
                debug!("code stays mapped: {error}");
            }
            trimmed = quiet;
        }
    }

    /// Carries out the next request. While a detach waits for the guest, only stops and revocations
    /// are taken; while a stop waits, only stops.
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
                // Another interface of its MAC may have left some.
                self.keep_addresses();
                // Published first: a client that has its answer must see the effect.
                self.publish();
                log_if_client_gone(reply.send(answer));
            }
            Some(Request::Detach { mac, patience, requester, reply }) => {
                self.detach(mac, patience, requester, reply);
            }
            Some(Request::Revoke { mac, requester, reply }) => self.revoke(mac, requester, reply),
            Some(Request::Update { mac, change, requester, reply }) => {
                let answer = self.update(mac, &change, requester);
                self.keep_addresses();
                self.publish();
                log_if_client_gone(reply.send(answer));
            }
            Some(Request::Stop { patience, then, requester, reply }) => {
                self.stop(patience, then, requester, reply);
            }
        }
        true
    }

    /// Handles up to `most` of QEMU's events; returns whether there may be more.
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

    /// Ends a pending request whose deadline has passed.
    fn expire(&mut self) {
        let now = Instant::now();
        if self.pending.as_ref().and_then(Pending::deadline).is_none_or(|deadline| deadline > now) {
            return;
        }
        match self.pending.take() {
            Some(Pending::Detach { id, requester, reply, .. }) => {
                self.unplug_failed(&id, requester, UnplugFailure::TimedOut, reply);
            }
            Some(Pending::Stop(waits)) => self.stop_timed_out(waits, now),
            None => {}
        }
    }

    /// Sleeps until there is something to do, or for at most `at_most`; returns true if that time
    /// has passed.
    fn wait(&mut self, at_most: Option<Duration>) -> bool {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let deadline = self.pending.as_ref().and_then(Pending::deadline);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.into_iter().chain(at_most).min();
        let timeout = left.and_then(|left| poll_timeout(left + Duration::from_millis(1)));
        let announced_by = self.host.changes.iter().flat_map(Changes::descriptors).count();
        let mut fds: Vec<PollFd<'_>> =
            self.wait_fds().into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        // Read while a link was looked up.
        if self.host.changes.as_ref().is_some_and(Changes::is_waiting) {
            return false;
        }
        // After EINTR and the like the loop checks everything again anyway.
        if poll(&mut fds, Some(&NOW)) != Ok(0) {
            return false;
        }
        // Notifications of the kernel that come from here on end the sleep, and are read at once.
        let quiet = poll(&mut fds, timeout.as_ref()) == Ok(0);
        let announced = fds.iter().rev().take(announced_by).any(|fd| !fd.revents().is_empty());
        self.unread_since = (!announced).then(Timestamp::now);
        quiet
    }

    /// The descriptors that end a sleep; those of the kernel's notifications come last.
    fn wait_fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.inbox.wake_fd(), self.qemu.pidfd.as_fd()];
        if self.qemu.monitor.poisoned().is_none() {
            fds.push(self.qemu.monitor.as_fd());
        }
        fds.extend(self.interfaces.iter().filter_map(AttachedInterface::learning_fd));
        fds.extend(self.host.changes.iter().flat_map(Changes::descriptors));
        fds.extend(self.host.close_events_fd());
        fds
    }

    /// Publishes the guest's current state.
    fn publish(&self) {
        let interfaces: Vec<_> = self.interfaces.iter().map(AttachedInterface::info).collect();
        let state = match self.pending {
            Some(Pending::Stop(_)) => GuestState::Stopping,
            _ if self.paused => GuestState::Paused,
            _ => GuestState::Running,
        };
        self.inbox.publish(|snapshot| {
            snapshot.state = state;
            snapshot.interfaces = interfaces;
        });
    }

    /// The index of the interface with this MAC for which QEMU holds devices.
    fn holder(&self, mac: MacAddr) -> Option<usize> {
        self.interfaces
            .iter()
            .position(|attached| attached.interface.mac == mac && attached.state != PlugState::Revoked)
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

/// Why an unplug failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnplugFailure {
    TimedOut,
    Refused,
    Stopping,
    Revoked,
}

/// Logs that a client has left before its answer.
fn log_if_client_gone<T>(sent: Result<(), T>) {
    if sent.is_err() {
        info!("a client left before its answer");
    }
}

/// Logs an error of the account where no client gets it.
fn log_error(result: Result<(), AccountError>) {
    if let Err(error) = result {
        warn!("{}", crate::chain(&error));
    }
}
