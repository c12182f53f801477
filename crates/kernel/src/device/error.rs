use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use taptrail_record::{IfName, MacAddr, Rdev};

use super::NodeType;
use crate::link::LinkError;

/// Why a device can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// open(2) of the device failed.
    #[error("{path} can't be opened (queue {queue})")]
    Open {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The queue, from 0.
        queue: u32,
        /// The errno of open(2).
        source: Errno,
    },
    /// fstat(2) of the open device failed.
    #[error("{path} can't be examined")]
    Look {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The errno of fstat(2).
        source: Errno,
    },
    /// The file at the path is not the tun device.
    #[error("{path} is {found}, not the tun device (character device 10:200)")]
    NotTun {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The type of the file.
        found: NodeType,
    },
    /// The file at the path is not vhost-net, which would make QEMU fail an assertion.
    #[error("{path} is {found}, not vhost-net (character device 10:238)")]
    NotVhostNet {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The type of the file.
        found: NodeType,
    },
    /// The file at the path is not a vDPA device, which would make QEMU crash.
    #[error("{path} is {found}, not a vDPA device (a character device of the driver vhost-vdpa)")]
    NotVdpa {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The type of the file.
        found: NodeType,
    },
    /// The file at the path of a vhost-user backend is no socket.
    #[error("{path} is {found}, not the socket of a vhost-user backend")]
    NotSocket {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The type of the file.
        found: NodeType,
    },
    /// The vDPA device is no network card.
    #[error("{path} is a vDPA device of virtio type {id}, not a network card (type 1)")]
    NotNetwork {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The type of virtio device.
        id: u32,
    },
    /// The vDPA device has a MAC of its own, which the guest would see whatever is asked for.
    #[error("{path} has MAC {has}, not {asked}: give its own, mac={has}")]
    VdpaMac {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The MAC of the device.
        has: MacAddr,
        /// The MAC that was asked for.
        asked: MacAddr,
    },
    /// The vDPA device does not report its type, its features or its MAC.
    #[error("{path} doesn't report what it is")]
    Query {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The ioctl's errno.
        source: Errno,
    },
    /// The file at the path is not the macvtap's node.
    #[error("{path} is {found}, not the node of macvtap '{ifname}' ({})", number(*wanted))]
    NotMacvtap {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The name of the macvtap.
        ifname: IfName,
        /// Its device number, where it is known.
        wanted: Option<Rdev>,
        /// The type of the file.
        found: NodeType,
    },
    /// The macvtap's node did not appear in time.
    #[error("{path}, the node of macvtap '{ifname}', did not appear within {} ms", waited.as_millis())]
    MacvtapNodeMissing {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The name of the macvtap.
        ifname: IfName,
        /// How long it was awaited.
        waited: Duration,
        /// The errno of the last open(2).
        source: Errno,
    },
    /// The link's name asked for can't be one.
    #[error("'{pattern}' can't name a tap: up to 15 bytes, with '%d' once, are needed")]
    Pattern {
        /// The pattern of a name, with `%d`, that was asked for.
        pattern: String,
    },
    /// A tap of a new name was asked for, and something has that name.
    #[error("A link named '{name}' exists already")]
    NameTaken {
        /// The name that was asked for.
        name: IfName,
    },
    /// An existing tap was asked for, and there is none of that name.
    #[error("There is no tap '{name}'")]
    NoSuchTap {
        /// The name that was asked for.
        name: IfName,
    },
    /// An existing tap was asked for, and the link of that name is something else.
    #[error("Link '{name}' is not a tap but {what}")]
    NotATap {
        /// The name that was asked for.
        name: IfName,
        /// The kind of the link.
        what: String,
    },
    /// An existing tap has queues otherwise than asked for.
    #[error(
        "Tap '{name}' was made {}, and {queues} asked for need{} it otherwise",
        if *multi_queue { "for several queues" } else { "for one queue" },
        if *queues == 1 { "s" } else { "" }
    )]
    QueuesDiffer {
        /// The name that was asked for.
        name: IfName,
        /// Whether the tap takes several queues.
        multi_queue: bool,
        /// How many were asked for.
        queues: u16,
    },
    /// The kernel refused to make the open device a tap's queue (`TUNSETIFF`).
    #[error("{path} can't be made queue {queue} of '{name}'")]
    Attach {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The interface, or the pattern of its name.
        name: String,
        /// The queue, from 0.
        queue: u32,
        /// The ioctl's errno.
        source: Errno,
    },
    /// The kernel refused to set a new tap's owner and group (`TUNSETOWNER`, `TUNSETGROUP`).
    #[error("'{name}' can't be closed to other programs")]
    CloseToOthers {
        /// The name of the tap.
        name: String,
        /// The ioctl's errno.
        source: Errno,
    },
    /// The interface of the open device can't be queried (`TUNGETIFF`).
    #[error("{path} doesn't report its interface (queue {queue})")]
    Identify {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The queue, from 0.
        queue: u32,
        /// The ioctl's errno.
        source: Errno,
    },
    /// The open device is another interface than asked for, or a queue of another kind.
    #[error("{path} opened {found} instead of {wanted} (queue {queue})")]
    Differs {
        /// The path that was given to open(2).
        path: PathBuf,
        /// The queue, from 0.
        queue: u32,
        /// The requested interface.
        wanted: String,
        /// The interface that was opened.
        found: String,
    },
    /// The links can't be read.
    #[error("Network links can't be read")]
    Link(#[from] LinkError),
}

impl DeviceError {
    /// Whether there is no such device here: its node or its driver is missing. `vhost=auto`
    /// continues without it.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Open { source: Errno::NOENT | Errno::NODEV | Errno::NXIO, .. }
                | Self::MacvtapNodeMissing { .. }
        )
    }
}

fn number(rdev: Option<Rdev>) -> String {
    rdev.map_or_else(
        || "a character device".to_owned(),
        |Rdev { major, minor }| format!("character device {major}:{minor}"),
    )
}
