use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use taptrail_record::{DeviceKind, IfName, Rdev};

use super::DeviceError;
use super::gate::{Attempt, OpenFacts};
use crate::unix_sockets::SocketFile;

/// The type of the file at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeType {
    /// A character device.
    Character(Rdev),
    /// A block device.
    Block(Rdev),
    /// Something else, as `stat` calls it.
    Other(&'static str),
}

impl NodeType {
    pub(super) const SOCKET: Self = Self::Other("a socket");

    pub(super) fn of(stat: &Stat) -> Self {
        let rdev = Rdev { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => Self::Character(rdev),
            FileType::BlockDevice => Self::Block(rdev),
            FileType::RegularFile => Self::Other("a regular file"),
            FileType::Directory => Self::Other("a directory"),
            FileType::Fifo => Self::Other("a fifo"),
            FileType::Socket => Self::SOCKET,
            FileType::Symlink => Self::Other("a symbolic link"),
            FileType::Unknown => Self::Other("something unknown"),
        }
    }

    pub(super) fn rdev(self) -> Option<Rdev> {
        match self {
            Self::Character(rdev) | Self::Block(rdev) => Some(rdev),
            Self::Other(_) => None,
        }
    }
}

impl fmt::Display for NodeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character(Rdev { major, minor }) => write!(f, "the character device {major}:{minor}"),
            Self::Block(Rdev { major, minor }) => write!(f, "the block device {major}:{minor}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// The type of the file at a path; `None` if stat(2) fails.
pub(super) fn look(path: &Path) -> Option<NodeType> {
    rustix::fs::stat(path).ok().map(|stat| NodeType::of(&stat))
}

/// A device that a request opens, once for each queue.
pub(super) struct Node<'a> {
    pub(super) kind: DeviceKind,
    pub(super) path: &'a Path,
    pub(super) flags: OFlags,
    /// The interface behind it, where it is known before the open.
    pub(super) dev: Option<&'a IfName>,
}

impl Node<'_> {
    /// Makes one open(2) and the steps that follow it; the attempt is kept, also if they fail.
    pub(super) fn open(
        &self,
        queue: u32,
        attempts: &mut Vec<Attempt>,
        then: impl FnOnce(BorrowedFd<'_>, NodeType, &mut OpenFacts) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let mut facts = OpenFacts {
            kind: self.kind,
            path: self.path.to_owned(),
            rdev: None,
            socket: None,
            dev: self.dev.cloned(),
            queue,
            outcome: Ok(()),
        };
        // A custom path must not become the controlling terminal.
        let flags = self.flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = match rustix::fs::open(self.path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(source) => {
                facts.rdev = look(self.path).and_then(|node| self.number(node));
                facts.outcome = Err(source);
                attempts.push(Attempt::failed(facts));
                return Err(DeviceError::Open { path: self.path.to_owned(), queue, source });
            }
        };
        let done = match rustix::fs::fstat(&fd) {
            Ok(stat) => {
                let node = NodeType::of(&stat);
                facts.rdev = self.number(node);
                if self.kind == DeviceKind::VhostUser && node == NodeType::SOCKET {
                    facts.socket = Some(SocketFile::of(&stat, self.path));
                }
                then(fd.as_fd(), node, &mut facts)
            }
            Err(source) => Err(DeviceError::Look { path: self.path.to_owned(), source }),
        };
        attempts.push(Attempt::opened(facts, fd));
        done
    }

    /// The device number that goes on record: what was opened by its path alone, as a socket is, is
    /// no device, whatever is there.
    fn number(&self, node: NodeType) -> Option<Rdev> {
        node.rdev().filter(|_| self.kind != DeviceKind::VhostUser)
    }
}
