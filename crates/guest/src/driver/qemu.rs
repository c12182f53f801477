//! The QEMU process and its monitor.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use taptrail_kernel::proc::{PidFd, ProcessId, Signal, children};
use taptrail_qmp::{Monitor, QmpError};
use tracing::warn;

use super::QUIT;
use crate::request::Inbox;

/// A QEMU that is there, running or ended.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    pub(crate) id: ProcessId,
    pub(crate) pidfd: PidFd,
    pub(crate) monitor: Monitor,
    complained: bool,
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
        Qemu { child: self.child, id: self.id, pidfd: self.pidfd, monitor, complained: false }
    }

    /// Ends QEMU for good; tells how it ended.
    pub(crate) fn end(mut self) -> io::Result<ExitStatus> {
        // What a wrapper started holds the devices, too: it goes first, while it can be found.
        for child in descendants(self.id.pid) {
            if let Ok(pidfd) = ProcessId::of(child).and_then(PidFd::open) {
                let _ = pidfd.send_signal(Signal::KILL);
                let _ = pidfd.wait_exit(QUIT);
            }
        }
        // Fails only when it has ended already.
        let _ = self.child.kill();
        self.child.wait()
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

impl Qemu {
    /// QEMU's exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
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
                warn!("the guest runs on without its monitor: {}", crate::chain(error));
            }
        }
    }

    /// Ends QEMU for good.
    pub(crate) fn end(self) -> io::Result<ExitStatus> {
        Booting { child: self.child, id: self.id, pidfd: self.pidfd }.end()
    }
}
