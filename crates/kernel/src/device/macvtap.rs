use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use taptrail_record::{DeviceKind, IfName, Rdev};

use super::gate::OpenFacts;
use super::ifreq;
use super::node::{Node, NodeType, look};
use super::{DeviceError, Opening};
use crate::sysfs;

/// The interval of checking for the node. devtmpfs creates it at once, udev takes milliseconds.
const NODE_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// An existing macvtap to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacvtapRequest<'a> {
    /// The name of the macvtap.
    pub ifname: &'a IfName,
    /// Its ifindex, the N of its node `/dev/tapN`.
    pub ifindex: u32,
    /// Its device number ([`Links::macvtap_rdev`](crate::link::Links::macvtap_rdev)), if known.
    pub rdev: Option<Rdev>,
    /// The number of queues, each with its own open(2); the kernel allows 256.
    pub queues: NonZeroU16,
    /// Whether each frame has a `struct virtio_net_hdr` in front.
    pub vnet_hdr: bool,
    /// How long to wait for the node.
    pub wait: Duration,
}

impl MacvtapRequest<'_> {
    /// The macvtap's node.
    pub fn path(&self) -> PathBuf {
        sysfs::macvtap_node(self.ifindex)
    }
}

/// Opens a macvtap of the calling thread's network namespace, one descriptor for each queue.
///
/// 1. It waits until the node has the macvtap's device number. If no node appears, it makes one
///    open(2) nevertheless, so that the failure is recorded. A different node is *not* opened, and
///    there is no record: it may be the macvtap of another network namespace, and opening it would
///    take frames from its guest.
/// 2. For each queue: open(2), fstat(2), `TUNGETIFF` to check that it is this macvtap, `TUNSETIFF`
///    to set its flags.
pub fn open_macvtap(request: &MacvtapRequest<'_>) -> Opening {
    let path = request.path();
    let node =
        Node { kind: DeviceKind::Macvtap, path: &path, flags: OFlags::NONBLOCK, dev: Some(request.ifname) };
    Opening::run(|attempts| {
        let macvtap = Macvtap { request, path: &path };
        macvtap.await_node()?;
        for queue in 0..u32::from(request.queues.get()) {
            node.open(queue, attempts, |fd, found, facts| macvtap.configure(fd, found, facts))
                .map_err(|error| macvtap.missing(error))?;
        }
        Ok(())
    })
}

struct Macvtap<'a> {
    request: &'a MacvtapRequest<'a>,
    path: &'a Path,
}

impl Macvtap<'_> {
    fn await_node(&self) -> Result<(), DeviceError> {
        let start = Instant::now();
        loop {
            match look(self.path) {
                Some(found) if self.is(found) => return Ok(()),
                found if start.elapsed() >= self.request.wait => {
                    return found.map_or(Ok(()), |found| Err(self.other(found)));
                }
                _ => sleep(NODE_POLL_INTERVAL),
            }
        }
    }

    fn is(&self, found: NodeType) -> bool {
        match (found, self.request.rdev) {
            (NodeType::Character(rdev), Some(wanted)) => rdev == wanted,
            (NodeType::Character(_), None) => true,
            _ => false,
        }
    }

    fn other(&self, found: NodeType) -> DeviceError {
        let (path, ifname) = (self.path.to_owned(), self.request.ifname.clone());
        DeviceError::NotMacvtap { path, ifname, wanted: self.request.rdev, found }
    }

    fn missing(&self, error: DeviceError) -> DeviceError {
        match error {
            DeviceError::Open { path, source: source @ Errno::NOENT, .. } => {
                let ifname = self.request.ifname.clone();
                DeviceError::MacvtapNodeMissing { path, ifname, waited: self.request.wait, source }
            }
            error => error,
        }
    }

    fn configure(&self, fd: BorrowedFd<'_>, found: NodeType, facts: &OpenFacts) -> Result<(), DeviceError> {
        if !self.is(found) {
            return Err(self.other(found));
        }
        let ifname = self.request.ifname.as_str();
        let (path, queue) = (|| self.path.to_owned(), facts.queue);
        let identify =
            || ifreq::identify(fd).map_err(|source| DeviceError::Identify { path: path(), queue, source });
        let differs = |wanted, found| DeviceError::Differs { path: path(), queue, wanted, found };

        let seen = identify()?;
        if seen.name != ifname {
            return Err(differs(format!("'{ifname}'"), format!("'{}'", seen.name)));
        }
        let flags = ifreq::queue_flags(self.request.vnet_hdr, self.request.queues);
        ifreq::set_flags(fd, flags).map_err(|source| DeviceError::Attach {
            path: path(),
            name: ifname.to_owned(),
            queue,
            source,
        })?;
        let seen = identify()?;
        if seen.flags != flags {
            let with = |flags| format!("'{ifname}' with flags {flags:#06x}");
            return Err(differs(with(flags), with(seen.flags)));
        }
        Ok(())
    }
}
