//! Signals as a descriptor for poll(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::Signal;
use signal_hook::low_level::pipe;

/// Receives the signals that request a stop.
pub(super) struct Signals {
    stop: UnixStream,
}

impl Signals {
    /// From now on SIGTERM and SIGINT request a stop, and SIGHUP does nothing: auditd sends it to
    /// its plugins when its configuration changes, and systemd's users expect a reload to be
    /// harmless.
    pub(super) fn new() -> io::Result<Self> {
        let (stop, wake) = UnixStream::pair()?;
        stop.set_nonblocking(true)?;
        for signal in [Signal::TERM, Signal::INT] {
            pipe::register(signal.as_raw(), wake.try_clone()?)?;
        }
        signal_hook::flag::register(Signal::HUP.as_raw(), Arc::default())?;
        Ok(Self { stop })
    }

    /// Whether a stop was requested.
    pub(super) fn stop(&self) -> bool {
        let mut buffer = [0; 16];
        match rustix::io::read(&self.stop, &mut buffer) {
            Ok(count) => count > 0,
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => true,
        }
    }
}

impl AsFd for Signals {
    /// Readable when a stop was requested.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }
}
