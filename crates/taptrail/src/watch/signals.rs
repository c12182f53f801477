//! Signals, as something to wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::Signal;
use signal_hook::low_level::pipe;

/// What we were asked to by signals.
pub(super) struct Signals {
    stop: UnixStream,
}

impl Signals {
    /// From now on SIGTERM and SIGINT ask to stop, and SIGHUP does nothing: auditd sends it to its plugins
    /// when its configuration changes, and systemd's users expect a reload to be harmless.
    pub(super) fn new() -> io::Result<Self> {
        let (stop, tell) = UnixStream::pair()?;
        stop.set_nonblocking(true)?;
        for signal in [Signal::TERM, Signal::INT] {
            pipe::register(signal.as_raw(), tell.try_clone()?)?;
        }
        signal_hook::flag::register(Signal::HUP.as_raw(), Arc::default())?;
        Ok(Self { stop })
    }

    /// Whether we were asked to stop.
    pub(super) fn stop(&self) -> bool {
        let mut asked = [0; 16];
        match rustix::io::read(&self.stop, &mut asked) {
            Ok(count) => count > 0,
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => true,
        }
    }
}

impl AsFd for Signals {
    /// Readable when we were asked to stop.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }
}
