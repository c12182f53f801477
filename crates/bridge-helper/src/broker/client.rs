//! The helper's side.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrUnix, connect, recv, send, sockopt};
use taptrail_kernel::poll_timeout;

use super::{CLIENT_TIMEOUT, Challenge, MAX_VERDICT_BYTES, SOCKET, Verdict, socket};

/// How long the helper waits before it knocks again at a broker whose queue is full.
const KNOCK_INTERVAL: Duration = Duration::from_millis(5);

/// The tap is not in the ledger, although there is a broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnounceError {
    /// A system call on the socket failed.
    #[error("The tap is not in the ledger, only in the kernel's audit: {SOCKET} can't be used")]
    Socket(#[source] io::Error),
    /// Whoever listens there is not root.
    #[error("The tap is not in the ledger, only in the kernel's audit: {SOCKET} is user {0}'s, not root's")]
    NotRoot(u32),
    /// The queue of the broker was full all the time.
    #[error(
        "The tap is not in the ledger, only in the kernel's audit: too many helpers wait for `taptrail watch`"
    )]
    Crowded,
    /// The broker did not answer in time.
    #[error(
        "The tap is not in the ledger, only in the kernel's audit: `taptrail watch` has not answered within \
         {} s", CLIENT_TIMEOUT.as_secs()
    )]
    Late,
    /// The broker has hung up, or speaks another version.
    #[error(
        "The tap is not in the ledger, only in the kernel's audit: `taptrail watch` refuses the connection"
    )]
    HungUp,
    /// The broker did not record the tap.
    #[error("The tap is not in the ledger, only in the kernel's audit: {0}")]
    Refused(String),
}

impl From<Errno> for AnnounceError {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno.into())
    }
}

/// Has the broker record the tap that this process holds. `Ok` if it did, and if there is no
/// broker.
pub(crate) fn announce() -> Result<(), AnnounceError> {
    announce_at(Path::new(SOCKET), CLIENT_TIMEOUT)
}

pub(super) fn announce_at(path: &Path, timeout: Duration) -> Result<(), AnnounceError> {
    let until = Instant::now() + timeout;
    let Some(socket) = reach(path, until)? else { return Ok(()) };
    let listener = sockopt::socket_peercred(&socket)?.uid;
    if !listener.is_root() {
        return Err(AnnounceError::NotRoot(listener.as_raw()));
    }
    let mut message = [0; MAX_VERDICT_BYTES];
    let challenge = receive(&socket, &mut message, until)?;
    let challenge = Challenge::parse(challenge).ok_or(AnnounceError::HungUp)?;
    send(&socket, challenge.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    match Verdict::parse(receive(&socket, &mut message, until)?) {
        Verdict::Recorded => Ok(()),
        Verdict::Refused(why) => Err(AnnounceError::Refused(why)),
    }
}

/// A connection to the broker; none if no watcher runs.
fn reach(path: &Path, until: Instant) -> Result<Option<OwnedFd>, AnnounceError> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket()?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => return Ok(Some(socket)),
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            // Its queue is full: any user can fill it, and the broker empties it.
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AnnounceError::Crowded);
        }
        std::thread::sleep(left.min(KNOCK_INTERVAL));
    }
}

/// The next message, which is never empty.
fn receive<'m>(socket: &OwnedFd, message: &'m mut [u8], until: Instant) -> Result<&'m [u8], AnnounceError> {
    loop {
        match recv(socket, &mut *message, RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(AnnounceError::HungUp),
            Ok((_, length)) => return Ok(&message[..length.min(message.len())]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AnnounceError::Late);
        }
        let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut polled, poll_timeout(left).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
