//! The broker's side.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketAddrUnix,
    SocketFlags, accept_with, bind, connect, listen, recvmsg, send, sockopt,
};
use rustix::thread::CapabilitySet;
use taptrail_kernel::link::{LinkError, Links};
use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::{ProcessId, has_capability, raw_devices};
use taptrail_kernel::process::peer_credentials;
use taptrail_record::{BridgeOpen, Device, DeviceKind, Outcome};

use super::{Challenge, SOCKET, Verdict, socket};
use crate::caller::Caller;

/// How many connections are open at one time, in all and of one user.
const MAX_CONNECTIONS: usize = 64;
const MAX_CONNECTIONS_PER_USER: usize = 8;
/// How many wait to be accepted.
const BACKLOG: i32 = 64;
/// How many connections are accepted at once.
const MAX_ACCEPTS_PER_TURN: usize = 32;
/// How long a client may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The socket can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Somebody listens there.
    #[error("Another process listens on {path}", path = path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("Socket {path} can't be opened", path = path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The error that the system call returned.
        source: io::Error,
    },
    /// The links of this network namespace can't be read.
    #[error("Network links can't be read")]
    Links(#[from] LinkError),
}

/// Why nothing is recorded for a client. Each is a sentence for the helper's user.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("the process that connected does not run the bridge helper")]
    NoHelper,
    #[error("the helper has ended, or sent something else than was asked for")]
    Answer,
    #[error("the helper's tap is in another network namespace than `taptrail watch`")]
    Elsewhere,
    #[error("the helper holds no tap that is a port of a bridge")]
    NoTap,
    #[error("{0}")]
    System(#[from] io::Error),
    #[error("{0}")]
    Link(#[from] LinkError),
}

/// Listens for helpers, and finds out what they hold. It never blocks.
#[derive(Debug)]
pub struct Broker {
    listener: OwnedFd,
    connections: Vec<Connection>,
    links: Links,
    netns: u64,
}

/// A process that connected, and has yet to answer.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    process: ProcessId,
    uid: u32,
    challenge: Challenge,
    until: Instant,
}

impl Broker {
    /// Listens on [`SOCKET`], which every user may connect to.
    ///
    /// # Errors
    ///
    /// Another process listens there, or a system call fails.
    pub fn listen() -> Result<Self, BrokerError> {
        Self::listen_at(Path::new(SOCKET))
    }

    pub(super) fn listen_at(path: &Path) -> Result<Self, BrokerError> {
        let failed = |source: io::Error| BrokerError::Socket { path: path.to_owned(), source };
        let address = SocketAddrUnix::new(path).map_err(|errno| failed(errno.into()))?;
        if let Some(directory) = path.parent() {
            match fs::DirBuilder::new().mode(0o755).create(directory) {
                // The umask may have taken what users need.
                Ok(()) => fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).map_err(failed)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
        if is_served(&address).map_err(|errno| failed(errno.into()))? {
            return Err(BrokerError::Taken { path: path.to_owned() });
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = open_listener(&address).map_err(|errno| failed(errno.into()))?;
        fs::set_permissions(path, PermissionsExt::from_mode(0o666)).map_err(failed)?;
        let netns = NetNs::own().map_err(failed)?.inode();
        Ok(Self { listener, connections: Vec::new(), links: Links::open()?, netns })
    }

    /// The descriptors that become readable when there is something to do.
    pub fn awaited(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let connections = self.connections.iter().map(|connection| connection.socket.as_fd());
        std::iter::once(self.listener.as_fd()).chain(connections)
    }

    /// When [`turn`](Self::turn) should be called even if no descriptor is readable.
    pub fn deadline(&self) -> Option<Instant> {
        self.connections.iter().map(|connection| connection.until).min()
    }

    /// Accepts, challenges and answers. `account` records a tap that a helper holds; its error is
    /// the reason for the helper's user.
    pub fn turn(&mut self, mut account: impl FnMut(&BridgeOpen) -> Result<(), String>) {
        let now = Instant::now();
        for connection in std::mem::take(&mut self.connections) {
            match connection.answer() {
                Ok(false) if now < connection.until => self.connections.push(connection),
                Ok(false) => {}
                Ok(true) => {
                    let seen = self.look(&connection).map_err(|denied| denied.to_string());
                    let verdict = match seen.and_then(|open| account(&open)) {
                        Ok(()) => Verdict::Recorded,
                        Err(why) => Verdict::Refused(why),
                    };
                    connection.send(&verdict);
                }
                Err(denied) => connection.send(&Verdict::Refused(denied.to_string())),
            }
        }
        for _ in 0..MAX_ACCEPTS_PER_TURN {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = accept_with(&self.listener, flags) else { return };
            // What is dropped here learns it by the end of its connection.
            if let Ok(Some(connection)) = self.welcome(socket) {
                self.connections.push(connection);
            }
        }
    }

    /// Challenges a client that runs the helper; none if it does not, or there are too many.
    fn welcome(&self, socket: OwnedFd) -> io::Result<Option<Connection>> {
        let peer = peer_credentials(&socket)?;
        let of_user = self.connections.iter().filter(|connection| connection.uid == peer.uid).count();
        if self.connections.len() >= MAX_CONNECTIONS || of_user >= MAX_CONNECTIONS_PER_USER {
            return Ok(None);
        }
        let process = ProcessId::of(peer.pid)?;
        let until = Instant::now() + ANSWER_TIMEOUT;
        let connection =
            Connection { socket, process, uid: peer.uid, challenge: Challenge::random()?, until };
        if !connection.runs_helper() {
            connection.send(&Verdict::Refused(Denied::NoHelper.to_string()));
            return Ok(None);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(&connection.socket, connection.challenge.as_bytes(), flags)?;
        Ok(Some(connection))
    }

    /// The tap of a helper, as the kernel shows it.
    fn look(&mut self, connection: &Connection) -> Result<BridgeOpen, Denied> {
        let pid = connection.process.pid;
        let caller = Caller::of(pid)?;
        let held = raw_devices(pid)?;
        let mut taps = held.iter().filter(|held| held.kind == DeviceKind::Tun && held.ifname.is_some());
        // The helper opens one.
        let (Some(tap), None) = (taps.next(), taps.next()) else { return Err(Denied::NoTap) };
        let Some(name) = &tap.ifname else { return Err(Denied::NoTap) };
        if NetNs::of_tap(connection.process, tap.fd)?.inode() != self.netns {
            return Err(Denied::Elsewhere);
        }
        let link = self.links.find(name)?.filter(|link| link.tun.is_some()).ok_or(Denied::NoTap)?;
        let bridge = match link.master {
            Some(index) => self.links.by_index(index)?,
            None => None,
        };
        let bridge = bridge.filter(|of| of.kind.as_deref() == Some("bridge")).ok_or(Denied::NoTap)?;
        // All of this was the helper's, if it is the helper still.
        if !connection.runs_helper() || caller.is_gone {
            return Err(Denied::Answer);
        }
        Ok(BridgeOpen {
            bridge: bridge.name.into(),
            device: Some(Device {
                kind: tap.kind,
                path: tap.path.to_string_lossy().into(),
                rdev: Some(tap.rdev),
                dev: Some(name.as_str().into()),
            }),
            refusal: None,
            errno: None,
            requester: caller.requester,
            start_time: caller.start_time,
            claimed_name: caller.claims.name,
            claimed_uuid: caller.claims.uuid,
            netns: Some(self.netns),
            ifindex: Some(link.index),
            outcome: Outcome::Success,
        })
    }
}

impl Connection {
    /// Whether its process is still the one that connected, and has the helper's right, which the
    /// helper's caller has not.
    fn runs_helper(&self) -> bool {
        let has_right = || has_capability(self.process.pid, CapabilitySet::NET_ADMIN).unwrap_or(false);
        self.process.is_alive() && has_right()
    }

    /// Whether the process has answered the challenge; false while nothing has come.
    fn answer(&self) -> Result<bool, Denied> {
        // One byte more, so that a longer message is not taken for the answer.
        let mut message = [0; Challenge::BYTES + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(&mut message)];
        let received = match recvmsg(&self.socket, &mut parts, &mut ancillary, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(_) => return Err(Denied::Answer),
        };
        let mut sender = None;
        // A descriptor that somebody sends is closed right here.
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmCredentials(credentials) = part {
                sender = Some(credentials.pid.as_raw_nonzero().get().unsigned_abs());
            }
        }
        let is_whole = !received.flags.contains(ReturnFlags::TRUNC);
        let is_answer = is_whole && message[..received.bytes] == *self.challenge.as_bytes();
        // Another process may have the socket, too.
        if is_answer && sender == Some(self.process.pid) { Ok(true) } else { Err(Denied::Answer) }
    }

    fn send(&self, verdict: &Verdict) {
        // Whoever does not read it does not need it.
        let _ = send(&self.socket, &verdict.to_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

fn open_listener(address: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let listener = socket()?;
    // Its connections have that from their first message on.
    sockopt::set_socket_passcred(&listener, true)?;
    bind(&listener, address)?;
    listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Whether a process listens on a socket.
fn is_served(address: &SocketAddrUnix) -> Result<bool, Errno> {
    let socket = socket()?;
    match connect(&socket, address) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(false),
        Err(errno) => Err(errno),
    }
}
