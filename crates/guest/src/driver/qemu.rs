//! The QEMU process and its monitor.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use taptrail_kernel::poll_timeout;
use taptrail_kernel::proc::{PidFd, ProcessId, Signal, children};
use taptrail_qmp::{Monitor, QmpError};
use tracing::warn;

use super::QUIT_TIMEOUT;
use crate::request::Inbox;

/// A QEMU process, running or ended, with its monitor.
#[derive(Debug)]
pub(crate) struct Qemu {
    /// `None` for a QEMU that another supervisor started.
    child: Option<Child>,
    pub(crate) id: ProcessId,
    pub(crate) pidfd: PidFd,
    pub(crate) monitor: Monitor,
    warned: bool,
    /// The monitor failed while QEMU ran.
    monitor_lost: bool,
}

/// QEMU's process, before its monitor has answered.
#[derive(Debug)]
pub(crate) struct Booting {
    child: Child,
    pub(crate) id: ProcessId,
    pidfd: PidFd,
}

/// What happened first while waiting for the monitor's greeting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    Ready,
    Ended,
    Request,
    TimedOut,
}

impl Booting {
    pub(crate) fn of(mut child: Child) -> io::Result<Self> {
        // A child that was not reaped keeps its pid, so both refer to it.
        let pid = child.id();
        match ProcessId::of(pid).and_then(|id| Ok((id, PidFd::open(id)?))) {
            Ok((id, pidfd)) => Ok(Self { child, id, pidfd }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Waits until the monitor sends its greeting, QEMU ends, a request comes, or the deadline
    /// passes.
    pub(crate) fn await_greeting(
        &self,
        stream: &UnixStream,
        inbox: &Inbox,
        deadline: Instant,
    ) -> io::Result<Greeting> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Greeting::TimedOut);
            }
            let mut fds = [
                PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(inbox.wake_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, poll_timeout(left).as_ref()) {
                Err(rustix::io::Errno::INTR) | Ok(0) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            return Ok(match fds.each_ref().map(|fd| !fd.revents().is_empty()) {
                [true, ..] => Greeting::Ended,
                [_, true, _] => Greeting::Ready,
                _ => Greeting::Request,
            });
        }
    }

    pub(crate) fn with_monitor(self, monitor: Monitor) -> Qemu {
        Qemu {
            child: Some(self.child),
            id: self.id,
            pidfd: self.pidfd,
            monitor,
            warned: false,
            monitor_lost: false,
        }
    }

    /// Kills QEMU; returns its exit status.
    pub(crate) fn end(mut self) -> io::Result<ExitStatus> {
        kill_descendants(self.id.pid);
        // Fails only if it has already ended.
        let _ = self.child.kill();
        self.child.wait()
    }
}

/// Kills a process, which need not be our child, and waits until it has ended.
pub(crate) fn kill_process(process: ProcessId) -> io::Result<()> {
    kill_descendants(process.pid);
    let pidfd = match PidFd::open(process) {
        Ok(pidfd) => pidfd,
        Err(_) if !process.is_alive() => return Ok(()),
        Err(error) => return Err(error),
    };
    let _ = pidfd.send_signal(Signal::KILL);
    if pidfd.wait_exit(QUIT_TIMEOUT)? { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

/// Kills the descendants of a wrapper: they hold the devices, too, and can be found only while the
/// wrapper runs.
fn kill_descendants(pid: u32) {
    for child in descendants(pid) {
        if let Ok(pidfd) = ProcessId::of(child).and_then(PidFd::open) {
            let _ = pidfd.send_signal(Signal::KILL);
            let _ = pidfd.wait_exit(QUIT_TIMEOUT);
        }
    }
}

/// All descendants of a process, each before its parent.
fn descendants(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for child in children(pid).unwrap_or_default() {
        all.extend(descendants(child));
        all.push(child);
    }
    all
}

/// How QEMU ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Exit {
    Seen(ExitStatus),
    /// QEMU is not our child: its exit status is not known.
    Unseen,
}

impl Exit {
    pub(crate) fn status(self) -> Option<ExitStatus> {
        match self {
            Self::Seen(status) => Some(status),
            Self::Unseen => None,
        }
    }
}

impl Qemu {
    /// A QEMU that another supervisor started.
    pub(crate) fn adopted(id: ProcessId, pidfd: PidFd, monitor: Monitor) -> Self {
        Self { child: None, id, pidfd, monitor, warned: false, monitor_lost: false }
    }

    /// How QEMU ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<Exit> {
        match &mut self.child {
            Some(child) => child.try_wait().ok().flatten().map(Exit::Seen),
            None => self.pidfd.wait_exit(Duration::ZERO).is_ok_and(|ended| ended).then_some(Exit::Unseen),
        }
    }

    /// Whether its monitor worked until QEMU's end.
    pub(crate) fn monitor_worked(&self) -> bool {
        !self.monitor_lost
    }

    pub(crate) fn kill(&self) {
        // Fails only if it has already ended.
        let _ = self.pidfd.send_signal(Signal::KILL);
    }

    /// Logs once that the monitor can't be used any more.
    pub(crate) fn monitor_failed(&mut self, error: &QmpError) {
        if !self.warned {
            self.warned = true;
            // At QEMU's end its monitor closes first, which is expected; and an error that poisoned
            // it was reported with its command.
            if !matches!(error, QmpError::Closed | QmpError::Poisoned { .. }) {
                self.monitor_lost = true;
                warn!("the guest runs on without its monitor: {}", crate::chain(error));
            }
        }
    }

    /// Kills QEMU, and waits until it has ended.
    pub(crate) fn end(self) -> io::Result<()> {
        match self.child {
            Some(child) => Booting { child, id: self.id, pidfd: self.pidfd }.end().map(drop),
            None => kill_process(self.id),
        }
    }
}
