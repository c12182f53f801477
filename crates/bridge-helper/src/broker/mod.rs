//! How the helper's taps get into the ledger: a socket of `taptrail watch`, the broker.
//!
//! Any local user may connect, so the broker believes nothing that a client says. A connection only
//! says "look at me", and what is recorded is what the kernel shows of the process that connected:
//! that it runs the helper (it has CAP_NET_ADMIN in the host's user namespace, which its caller does
//! not have), its user, its parent, the tap that it holds, and the tap's bridge. No descriptor is
//! passed: in a broker that hangs, it would keep the tap alive.
//!
//! ```text
//!   helper                                broker
//!     │ ─────────── connect ───────────────▶ │ does that process run the helper?
//!     │ ◀────────── challenge ────────────── │ 1 byte of version, 16 random bytes
//!     │ ─────────── the same ──────────────▶ │ is it still that process? its tap, its bridge, its parent
//!     │ ◀────────── verdict ──────────────── │ the ledger has it, or why not
//! ```
//!
//! A process that connects and becomes the helper afterwards, by execve(2), does not know the
//! challenge and can't have answered it before: the helper never answers on a connection that it
//! inherited.
//!
//! The helper passes the tap to QEMU whatever the broker does, after [`CLIENT_TIMEOUT`] at the
//! latest: its record in the kernel's audit does not depend on the broker.

mod client;
mod server;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::rand::{GetRandomFlags, getrandom};

pub(crate) use self::client::announce;
pub use self::server::{Broker, BrokerError};

/// The broker's socket.
pub const SOCKET: &str = "/run/taptrail-watch/bridge-taps";

/// How long the helper waits for the broker in all.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// The version of the protocol.
const VERSION: u8 = 1;

/// The longest verdict, in bytes.
const MAX_VERDICT_BYTES: usize = 256;

/// A socket of either end, which waits for nothing.
fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// What the broker sends first, and gets back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge([u8; Self::BYTES]);

impl Challenge {
    const BYTES: usize = 17;

    /// Another one each time.
    fn random() -> Result<Self, Errno> {
        let mut bytes = [0; Self::BYTES];
        let read = getrandom(&mut bytes[1..], GetRandomFlags::empty())?;
        bytes[0] = VERSION;
        // Less than 256 bytes come all at once: getrandom(2).
        if read == Self::BYTES - 1 { Ok(Self(bytes)) } else { Err(Errno::IO) }
    }

    /// As the helper reads it; none if it is of another version, or no challenge.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let bytes: [u8; Self::BYTES] = message.try_into().ok()?;
        (bytes[0] == VERSION).then_some(Self(bytes))
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What the broker says in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The ledger has the tap.
    Recorded,
    /// It does not, and why.
    Refused(String),
}

impl Verdict {
    const RECORDED: &[u8] = b"recorded";

    /// As the helper reads it. A verdict that is cut off or unknown is a refusal.
    pub fn parse(message: &[u8]) -> Self {
        match message {
            Self::RECORDED => Self::Recorded,
            other => {
                let cut = &other[..other.len().min(MAX_VERDICT_BYTES)];
                Self::Refused(String::from_utf8_lossy(cut).into_owned())
            }
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Recorded => Self::RECORDED.to_vec(),
            Self::Refused(why) => {
                let mut bytes = why.clone().into_bytes();
                bytes.truncate(MAX_VERDICT_BYTES);
                bytes
            }
        }
    }
}
