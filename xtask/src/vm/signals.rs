//! Signals that end this program, as a descriptor to poll.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// While this value exists, SIGINT, SIGTERM and SIGHUP do not end the program by themselves.
#[derive(Debug)]
pub(super) struct Signals {
    fd: SignalFd,
    set: SigSet,
}

impl Signals {
    pub(super) fn catch() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, set })
    }

    /// The signal's number, if one came.
    pub(super) fn came(&self) -> Result<Option<u8>> {
        let signal = self.fd.read_signal()?;
        Ok(signal.and_then(|signal| u8::try_from(signal.ssi_signo).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.set.thread_unblock();
    }
}
