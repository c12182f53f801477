//! What the supervisor keeps of an interface that learns its addresses.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use serde::{Deserialize, Serialize};
use taptrail_kernel::filter::Attachment;
use taptrail_kernel::packet::{FrameKind, open_packet_socket};
use taptrail_kernel::process::spawn_unprivileged;
use taptrail_record::{AddressChange, FilterAddress};
use tracing::warn;

use super::{FrameReader, Method, Sighting, report};
use crate::run_dir::{Dirs, LEARNT_FILE};

/// How many addresses an interface can learn.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// How many sightings are taken within the window: each may be a transaction of nftables and a
/// record.
const MAX_SIGHTINGS: u32 = 12;
const SIGHTINGS_WINDOW: Duration = Duration::from_secs(60);

/// Changes that wait for nftables before further sightings are taken.
const MAX_PENDING: usize = 64;

/// How long to wait before what failed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// The size of the file of addresses that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The process that reads frames can't be started.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The kernel gives no packet socket.
    #[error("No packet socket can be opened, which CAP_NET_RAW is needed for")]
    Socket(#[source] io::Error),
    /// The process can't be started.
    #[error("The process that reads frames can't be started")]
    Start(#[source] io::Error),
}

/// An address that an interface has learnt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LearntAddress {
    pub(crate) address: Ipv4Addr,
    /// The DHCP server that gave it; `None` if the guest took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<Ipv4Addr>,
    /// When its lease ends, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Timestamp>,
}

/// An interface that learns its addresses.
#[derive(Debug)]
pub(crate) struct Learning {
    pub(crate) reader: FrameReader,
    attachment: Attachment,
    ifindex: u32,
    pub(crate) addresses: Vec<LearntAddress>,
    /// Changes of addresses that are not in force, or not on record yet.
    pub(crate) pending: Vec<FilterAddress>,
    /// When to try again what failed.
    pub(crate) retry: Option<Instant>,
    /// The limit on addresses was reached, and logged.
    pub(crate) is_full: bool,
    process: Option<Process>,
    /// Since when sightings are counted, and how many there were.
    window: (Instant, u32),
}

/// What a process that reads frames has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Sighting(Sighting),
    /// Nothing, or nothing that is taken now.
    None,
    /// It has ended, or sends what it can't have seen.
    Ended,
}

impl Learning {
    /// Nothing is learnt before it is started.
    pub(crate) fn new(reader: FrameReader, attachment: Attachment, ifindex: u32) -> Self {
        Self {
            reader,
            attachment,
            ifindex,
            addresses: Vec::new(),
            pending: Vec::new(),
            retry: None,
            is_full: false,
            process: None,
            window: (Instant::now(), 0),
        }
    }

    /// Starts the process that reads frames, unless it runs, or nothing is left to be learnt.
    ///
    /// # Errors
    ///
    /// It can't be started.
    pub(crate) fn start(&mut self) -> Result<(), LearnError> {
        if self.process.is_none() && !self.is_over() {
            self.process = Some(Process::start(&self.reader, self.attachment, self.ifindex)?);
        }
        Ok(())
    }

    /// The same; what can't be started is tried again later.
    pub(crate) fn start_or_retry(&mut self) {
        if let Err(error) = self.start() {
            warn!("{}: addresses are not learnt now: {}", self.reader.mac, crate::chain(&error));
            self.failed();
        }
    }

    /// Whether an address is known that is never replaced by another.
    fn is_over(&self) -> bool {
        self.reader.method == Method::Any && !self.addresses.is_empty()
    }

    /// Ends the process if nothing is left to be learnt.
    pub(crate) fn stop_if_over(&mut self) {
        if self.is_over() {
            self.process = None;
        }
    }

    /// Ends the process that failed; it is started again later.
    pub(crate) fn failed(&mut self) {
        self.process = None;
        self.retry_later();
    }

    pub(crate) fn retry_later(&mut self) {
        self.retry = Some(Instant::now() + RETRY_DELAY);
    }

    /// The values of `$IP`.
    pub(crate) fn values(&self) -> Vec<Ipv4Addr> {
        self.addresses.iter().map(|learnt| learnt.address).collect()
    }

    /// Readable when the process has sent something, if that is taken now.
    pub(crate) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().filter(|_| self.is_open()).map(|process| process.socket.as_fd())
    }

    /// Whether a sighting is taken now.
    fn is_open(&self) -> bool {
        self.pending.len() < MAX_PENDING && self.window_left().is_none()
    }

    /// How long no sighting is taken, because there were many.
    fn window_left(&self) -> Option<Duration> {
        let left = SIGHTINGS_WINDOW.checked_sub(self.window.0.elapsed());
        left.filter(|_| self.window.1 >= MAX_SIGHTINGS)
    }

    /// The next message of the process.
    pub(crate) fn receive(&mut self) -> Received {
        let Some(process) = self.process.as_ref().filter(|_| self.is_open()) else { return Received::None };
        let message = process.receive();
        if let Received::Sighting(sighting) = message {
            if !self.reader.can_say(sighting) {
                return Received::Ended;
            }
            if self.window.0.elapsed() >= SIGHTINGS_WINDOW {
                self.window = (Instant::now(), 0);
            }
            self.window.1 += 1;
        }
        message
    }

    /// How long until there is something to do without a message; `None` if there will be nothing.
    pub(crate) fn next_check(&self, now: Timestamp) -> Option<Duration> {
        let left = |until: Timestamp| {
            let left = until.duration_since(now).max(SignedDuration::ZERO);
            Duration::try_from(left).unwrap_or_default()
        };
        let lapse = self.addresses.iter().filter_map(|learnt| learnt.until).min().map(left);
        let retry = self.retry.map(|at| at.saturating_duration_since(Instant::now()));
        [lapse, retry, self.window_left()].into_iter().flatten().min()
    }

    /// Removes the addresses whose leases have ended by `now`.
    pub(crate) fn lapse(&mut self, now: Timestamp) {
        let is_over = |learnt: &mut LearntAddress| learnt.until.is_some_and(|until| until <= now);
        let over = self.addresses.extract_if(.., is_over).map(|learnt| learnt.address);
        self.pending.extend(over.map(|ip| FilterAddress { ip, change: AddressChange::Expired }));
        self.is_full &= self.addresses.len() >= MAX_ADDRESSES;
    }
}

/// The process that reads frames. It ends with this value, and by itself when the supervisor has
/// ended.
#[derive(Debug)]
struct Process {
    child: Child,
    socket: OwnedFd,
}

impl Process {
    fn start(reader: &FrameReader, attachment: Attachment, ifindex: u32) -> Result<Self, LearnError> {
        let kind = match reader.method {
            Method::Dhcp => FrameKind::Dhcp,
            Method::Any => FrameKind::ArpAndIpv4,
        };
        let frames = open_packet_socket(ifindex, kind).map_err(LearnError::Socket)?;
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|error| LearnError::Start(error.into()))?;
        let child = spawn_unprivileged(&arguments(reader, attachment), frames, theirs);
        Ok(Self { child: child.map_err(LearnError::Start)?, socket })
    }

    fn receive(&self) -> Received {
        // One byte more than a message: a longer one is none.
        let mut bytes = [0; report::LENGTH + 1];
        match recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Received::Ended,
            Ok((length, _)) => {
                let sighting = bytes.get(..length).and_then(Sighting::from_bytes);
                sighting.map_or(Received::Ended, Received::Sighting)
            }
            Err(Errno::AGAIN | Errno::INTR) => Received::None,
            Err(_) => Received::Ended,
        }
    }
}

/// The arguments of `taptrail` by which the process knows what it reads.
fn arguments(reader: &FrameReader, attachment: Attachment) -> Vec<OsString> {
    let device = match attachment {
        Attachment::Tap => "tap",
        Attachment::Macvtap => "macvtap",
    };
    let words = ["learn-addresses".to_owned(), device.to_owned(), reader.method.as_str().to_owned()];
    let servers = reader.servers.iter().map(ToString::to_string);
    words.into_iter().chain([reader.mac.to_string()]).chain(servers).map(OsString::from).collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is kept of an interface.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct KeptAddresses {
    /// By whom they were learnt.
    #[serde(flatten)]
    pub(crate) reader: KeptReader,
    pub(crate) addresses: Vec<LearntAddress>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pending: Vec<FilterAddress>,
}

/// What makes a reader another one, for the next supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptReader {
    method: Option<Method>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    servers: Vec<Ipv4Addr>,
}

impl KeptReader {
    fn of(reader: &FrameReader) -> Self {
        Self { method: Some(reader.method), servers: reader.servers.clone() }
    }

    pub(crate) fn is(&self, reader: &FrameReader) -> bool {
        *self == Self::of(reader)
    }
}

/// The learnt addresses of a guest, in its run directory: by them the next supervisor continues.
#[derive(Debug, Clone)]
pub(crate) struct LearntFile {
    path: PathBuf,
}

impl LearntFile {
    pub(crate) fn of(dirs: &Dirs, guest: &str) -> Self {
        Self { path: dirs.run.join(guest).join(LEARNT_FILE) }
    }

    /// The addresses by interface; none if there is no such file.
    ///
    /// # Errors
    ///
    /// The file can't be read, or has other contents.
    pub(crate) fn read(&self) -> io::Result<BTreeMap<String, KeptAddresses>> {
        let text = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Ok(found) if found.len() > MAX_FILE_BYTES => {
                return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
            }
            _ => std::fs::read_to_string(&self.path)?,
        };
        serde_json::from_str(&text).map_err(io::Error::other)
    }

    /// Replaces the addresses. Without any interface that learns some, there is no file.
    ///
    /// # Errors
    ///
    /// The file can't be written; then the old one stays.
    pub(crate) fn write<'l>(&self, learnt: impl Iterator<Item = &'l Learning>) -> io::Result<()> {
        let kept = |learning: &Learning| {
            let Learning { reader, addresses, pending, .. } = learning;
            KeptAddresses {
                reader: KeptReader::of(reader),
                addresses: addresses.clone(),
                pending: pending.clone(),
            }
        };
        let all: BTreeMap<String, KeptAddresses> =
            learnt.map(|learning| (learning.reader.mac.to_string(), kept(learning))).collect();
        if all.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let new = self.path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&all).map_err(io::Error::other)?)?;
        std::fs::rename(&new, &self.path)
    }
}
