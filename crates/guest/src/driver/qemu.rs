//! The QEMU process and its monitor.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use taptrail_kernel::proc::{PidFd, ProcessId, Signal, children};
use taptrail_qmp::{Monitor, QmpError};
use tracing::warn;

use super::QUIT;
use crate::request::Inbox;

/// A QEMU that is there, running or ended.
#[derive(Debug)]
pub(crate) struct Qemu {
    /// None of one that another supervisor started.
    child: Option<Child>,
    pub(crate) id: ProcessId,
    pub(crate) pidfd: PidFd,
    pub(crate) monitor: Monitor,
    complained: bool,
    /// The monitor failed while QEMU ran.
    deaf: bool,
}

/// QEMU's process, before its monitor has answered.
#[derive(Debug)]
pub(crate) struct Booting {
    child: Child,
    pub(crate) id: ProcessId,
    pidfd: PidFd,
}

/// What came first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    Speaks,
    Ended,
    Asked,
    TimedOut,
}

impl Booting {
    pub(crate) fn of(mut child: Child) -> io::Result<Self> {
        // A child that was not waited for keeps its pid, so neither can mean another process.
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

    /// Waits until the monitor speaks, QEMU ends, somebody asks for something, or it is too late.
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
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) | Ok(0) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            return Ok(match fds.each_ref().map(|fd| !fd.revents().is_empty()) {
                [true, ..] => Greeting::Ended,
                [_, true, _] => Greeting::Speaks,
                _ => Greeting::Asked,
            });
        }
    }

    pub(crate) fn with_monitor(self, monitor: Monitor) -> Qemu {
        Qemu {
            child: Some(self.child),
            id: self.id,
            pidfd: self.pidfd,
            monitor,
            complained: false,
            deaf: false,
        }
    }

    /// Ends QEMU for good; tells how it ended.
    pub(crate) fn end(mut self) -> io::Result<ExitStatus> {
        end_descendants(self.id.pid);
        // Fails only when it has ended already.
        let _ = self.child.kill();
        self.child.wait()
    }
}

/// Ends a process that may be no child of ours, and waits until it is gone.
pub(crate) fn end_process(process: ProcessId) -> io::Result<()> {
    end_descendants(process.pid);
    let pidfd = match PidFd::open(process) {
        Ok(pidfd) => pidfd,
        Err(_) if !process.is_alive() => return Ok(()),
        Err(error) => return Err(error),
    };
    let _ = pidfd.send_signal(Signal::KILL);
    if pidfd.wait_exit(QUIT)? { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

/// Ends what a wrapper has started: it holds the devices, too, and goes first, while it can be found.
fn end_descendants(pid: u32) {
    for child in descendants(pid) {
        if let Ok(pidfd) = ProcessId::of(child).and_then(PidFd::open) {
            let _ = pidfd.send_signal(Signal::KILL);
            let _ = pidfd.wait_exit(QUIT);
        }
    }
}

/// The children of a process and theirs, the eldest last.
fn descendants(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for child in children(pid).unwrap_or_default() {
        all.extend(descendants(child));
        all.push(child);
    }
    all
}

/// How QEMU ended, as far as it can be seen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Exit {
    Seen(ExitStatus),
    /// Only a parent is told.
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
        Self { child: None, id, pidfd, monitor, complained: false, deaf: false }
    }

    /// How QEMU ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<Exit> {
        match &mut self.child {
            Some(child) => child.try_wait().ok().flatten().map(Exit::Seen),
            None => self.pidfd.wait_exit(Duration::ZERO).is_ok_and(|ended| ended).then_some(Exit::Unseen),
        }
    }

    /// Its monitor was of use to the end.
    pub(crate) fn was_heard(&self) -> bool {
        !self.deaf
    }

    pub(crate) fn kill(&self) {
        // Fails only when it has ended already.
        let _ = self.pidfd.send_signal(Signal::KILL);
    }

    /// Says once that the monitor is of no more use.
    pub(crate) fn monitor_failed(&mut self, error: &QmpError) {
        if !self.complained {
            self.complained = true;
            // At QEMU's end its monitor closes first, which is no news; and what made it useless before
            // was said by who met it.
            if !matches!(error, QmpError::Closed | QmpError::Poisoned { .. }) {
                self.deaf = true;
                warn!("the guest runs on without its monitor: {}", crate::chain(error));
            }
        }
    }

    /// Ends a QEMU for good that we started.
    pub(crate) fn end(self) -> io::Result<()> {
        match self.child {
            Some(child) => Booting { child, id: self.id, pidfd: self.pidfd }.end().map(drop),
            None => end_process(self.id),
        }
    }
}
