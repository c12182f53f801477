use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::poll_timeout;

pub use rustix::process::Signal;

use super::ProcessId;

/// A descriptor of one process, which no later one reuses, and which is readable after the exit:
/// pidfd_open(2).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens this very process, not a later one with its pid.
    ///
    /// # Errors
    ///
    /// ENOENT or ESRCH if the process has ended.
    pub fn open(process: ProcessId) -> io::Result<Self> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        // Checked after the open: from here on, a reuse of the pid can't be confused with it.
        if ProcessId::of(process.pid)? == process { Ok(Self(fd)) } else { Err(gone()) }
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// ESRCH if the process has exited and was waited for.
    pub fn send_signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(&self.0, signal)?)
    }

    /// Waits until the process has exited (true), or until the timeout (false).
    ///
    /// # Errors
    ///
    /// poll(2) fails.
    pub fn wait_exit(&self, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match rustix::event::poll(&mut polled, poll_timeout(left).as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// For tokio's `AsyncFd`.
impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_pidfd_sees_the_exit_and_signals_its_process_only() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        let pidfd = PidFd::open(process).unwrap();
        assert!(!pidfd.wait_exit(Duration::from_millis(1)).unwrap());
        pidfd.send_signal(Signal::TERM).unwrap();
        assert!(pidfd.wait_exit(Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        let error = pidfd.send_signal(Signal::TERM).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        assert!(PidFd::open(process).is_err());
    }

    #[test]
    fn a_process_with_another_start_time_is_not_opened() {
        let own = ProcessId::of(std::process::id()).unwrap();
        let former = ProcessId { start_time: own.start_time - 1, ..own };
        assert!(PidFd::open(own).is_ok());
        assert_eq!(PidFd::open(former).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
