use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use taptrail_record::{DeviceKind, IfName, Rdev};

use super::gate::OpenFacts;
use super::ifreq::{self, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_TUN_EXCL, IFF_VNET_HDR};
use super::node::{Node, NodeType};
use super::{DeviceError, Opening};
use crate::link::{Link, Links};

/// The tun device.
pub const DEV_NET_TUN: &str = "/dev/net/tun";

/// The name of a requested tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapName<'a> {
    /// A new one, with the first free name of a pattern such as `vnet%d`.
    Pattern(&'a str),
    /// A new one of this name.
    New(&'a IfName),
    /// An existing persistent one (`ip tuntap add`).
    Existing(&'a IfName),
}

/// A tap to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapRequest<'a> {
    /// The tun device: [`DEV_NET_TUN`], or a node of the same number elsewhere.
    pub path: &'a Path,
    /// The name of the tap, existing or new.
    pub name: TapName<'a>,
    /// The number of queues, each with its own open(2); the kernel allows 256.
    pub queues: NonZeroU16,
    /// Whether each frame has a `struct virtio_net_hdr` in front.
    pub vnet_hdr: bool,
}

/// Opens a tap, one descriptor for each queue, in the calling thread's network namespace.
///
/// A new tap vanishes with its last descriptor. An existing one stays persistent.
///
/// 1. For an existing tap, checks that it is a tap with the requested kind of queues.
/// 2. For each queue: open(2), fstat(2) to check that it is the tun device, `TUNSETIFF`, and
///    `TUNGETIFF` to check the result. A new tap is then closed to further queues of programs
///    without CAP_NET_ADMIN.
pub fn open_tap(request: &TapRequest<'_>) -> Opening {
    Opening::run(|attempts| {
        let before = match request.name {
            TapName::Pattern(pattern) => check(pattern).map(|()| None)?,
            TapName::New(_) => None,
            TapName::Existing(name) => Some(existing(name, request.queues)?),
        };
        let node = Node { kind: DeviceKind::Tun, path: request.path, flags: OFlags::NONBLOCK, dev: None };
        let mut tap = Tap { request, name: None };
        for queue in 0..u32::from(request.queues.get()) {
            node.open(queue, attempts, |fd, found, facts| tap.attach(fd, found, facts))?;
        }
        match (before, request.name) {
            (Some(before), TapName::Existing(name)) => unchanged(&before, name),
            _ => Ok(()),
        }
    })
}

/// The tap as far as it is opened.
struct Tap<'a> {
    request: &'a TapRequest<'a>,
    /// Its name, once its first queue has it.
    name: Option<IfName>,
}

impl Tap<'_> {
    /// Makes an open descriptor the tap's next queue.
    fn attach(
        &mut self,
        fd: BorrowedFd<'_>,
        found: NodeType,
        facts: &mut OpenFacts,
    ) -> Result<(), DeviceError> {
        let path = || self.request.path.to_owned();
        if found != NodeType::Character(Rdev::TUN) {
            return Err(DeviceError::NotTun { path: path(), found });
        }
        let wanted = match (&self.name, self.request.name) {
            (Some(name), _) | (None, TapName::New(name) | TapName::Existing(name)) => name.as_str(),
            (None, TapName::Pattern(pattern)) => pattern,
        };
        let kind = ifreq::queue_flags(self.request.vnet_hdr, self.request.queues);
        // The first queue of a new tap must create it: an existing link of that name is not ours.
        let makes = self.name.is_none() && !matches!(self.request.name, TapName::Existing(_));
        let flags = if makes { kind | IFF_TUN_EXCL } else { kind };
        let name = match (ifreq::attach(fd, wanted, flags), self.request.name) {
            (Ok(name), _) => name,
            (Err(Errno::BUSY), TapName::New(name)) if makes => {
                return Err(DeviceError::NameTaken { name: name.clone() });
            }
            (Err(source), _) => {
                let name = wanted.to_owned();
                return Err(DeviceError::Attach { path: path(), name, queue: facts.queue, source });
            }
        };
        facts.dev = name.parse().ok();

        let seen = ifreq::identify(fd).map_err(|source| DeviceError::Identify {
            path: path(),
            queue: facts.queue,
            source,
        })?;
        let as_asked = match &self.name {
            Some(first) => seen.name == first.as_str(),
            None => seen.name == name,
        };
        if !as_asked || seen.flags & (IFF_TAP | IFF_VNET_HDR | IFF_MULTI_QUEUE) != kind & !IFF_NO_PI {
            return Err(DeviceError::Differs {
                path: path(),
                queue: facts.queue,
                wanted: format!("'{name}' with flags {kind:#06x}"),
                found: format!("'{}' with flags {:#06x}", seen.name, seen.flags),
            });
        }
        self.name = facts.dev.clone();
        if makes {
            ifreq::close_to_others(fd).map_err(|source| DeviceError::CloseToOthers { name, source })?;
        }
        Ok(())
    }
}

/// Checks a pattern as `TUNSETIFF` and `dev_alloc_name()` would.
fn check(pattern: &str) -> Result<(), DeviceError> {
    let refuse = || DeviceError::Pattern { pattern: pattern.to_owned() };
    if pattern.len() >= libc::IFNAMSIZ {
        return Err(refuse());
    }
    let (head, tail) = pattern.split_once("%d").ok_or_else(refuse)?;
    format!("{head}0{tail}").parse::<IfName>().map_err(|_| refuse())?;
    Ok(())
}

/// Checks an existing tap before a device is opened for it.
fn existing(name: &IfName, queues: NonZeroU16) -> Result<Link, DeviceError> {
    let link = Links::open()?.find(name)?.ok_or_else(|| DeviceError::NoSuchTap { name: name.clone() })?;
    let Some(tun) = link.tun.filter(|tun| tun.tap) else {
        let what = match (&link.tun, &link.kind) {
            (Some(_), _) => "a tun, which carries IP packets".to_owned(),
            (None, Some(kind)) => format!("a {kind}"),
            (None, None) => "hardware".to_owned(),
        };
        return Err(DeviceError::NotATap { name: name.clone(), what });
    };
    if tun.multi_queue != (queues.get() > 1) {
        let (multi_queue, queues) = (tun.multi_queue, queues.get());
        return Err(DeviceError::QueuesDiffer { name: name.clone(), multi_queue, queues });
    }
    Ok(link)
}

/// Checks that the opened tap is the one that was checked before: `TUNSETIFF` creates a new one if
/// that vanished in between.
fn unchanged(before: &Link, name: &IfName) -> Result<(), DeviceError> {
    match Links::open()?.find(name)? {
        Some(after) if after.index == before.index => Ok(()),
        _ => Err(DeviceError::NoSuchTap { name: name.clone() }),
    }
}
