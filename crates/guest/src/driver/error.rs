//! Why a guest can't be started or adopted.

use std::io;

use taptrail_kernel::link::LinkError;
use taptrail_ledger::LedgerError;
use taptrail_qmp::QmpError;
use taptrail_record::MacAddr;

use crate::account::AccountError;
use crate::interface::OpenError;
use crate::qemu::NoSuchBus;
use crate::spec::SpecError;

/// The guest's memory is no file that a vhost-user backend can map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "The vhost-user backend of {mac} can't reach the guest's memory: '{memory}' is not shared; start QEMU with `-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem`, SIZE as with -m"
)]
pub struct UnsharedMemory {
    mac: MacAddr,
    /// The id of the object that is not shared.
    memory: String,
}

impl UnsharedMemory {
    /// The error for these objects; none without any.
    pub(super) fn of(mac: MacAddr, unshared: Vec<String>) -> Option<Self> {
        unshared.into_iter().next().map(|memory| Self { mac, memory })
    }
}

/// A guest did not start; everything was rolled back.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The SPECs contradict each other.
    #[error("Interfaces can't be started together")]
    Spec(#[from] SpecError),
    /// The host's links can't be listed.
    #[error("The host's network links can't be reached")]
    Links(#[from] LinkError),
    /// The account can't be written as required.
    #[error("The guest's account can't be written")]
    Account(#[from] AccountError),
    /// An interface can't be opened.
    #[error("Interface can't be opened")]
    Open(#[from] OpenError),
    /// getrandom(2) gave no bytes for a MAC address.
    #[error("A random MAC address can't be made")]
    Random(#[source] io::Error),
    /// The program can't be run.
    #[error("QEMU can't be run as {program}", program = program.display())]
    Spawn {
        /// The path of the program.
        program: std::path::PathBuf,
        /// The system's error, which says why.
        source: io::Error,
    },
    /// QEMU ended by itself; its standard error has the reason.
    #[error("QEMU refused to start the guest: it ended with {0}")]
    Refused(std::process::ExitStatus),
    /// QEMU's monitor sent no greeting in time.
    #[error("QEMU's monitor did not speak within {} s", super::start::BOOT_TIMEOUT.as_secs())]
    Silent,
    /// A stop was requested meanwhile.
    #[error("Start was stopped")]
    Stopped,
    /// The monitor fails.
    #[error("QEMU's monitor can't be used")]
    Monitor(#[from] QmpError),
    /// QEMU's descriptors can't be read.
    #[error("QEMU's descriptors can't be read")]
    Look(#[source] io::Error),
    /// A vhost-user backend could not reach the guest's memory.
    #[error(transparent)]
    Memory(#[from] UnsharedMemory),
    /// Two interfaces name one vhost-user socket by different paths.
    #[error("{path} of interface {mac} is the socket of interface {other}: each needs a backend of its own")]
    SocketInUse {
        /// The path of the socket.
        path: String,
        /// The MAC of the interface.
        mac: MacAddr,
        /// The MAC of the other interface.
        other: MacAddr,
    },
    /// QEMU does not hold a device that was passed to it.
    #[error("QEMU doesn't hold {path} of interface {mac}")]
    NotHeld {
        /// The path of the device.
        path: String,
        /// The MAC of the interface.
        mac: MacAddr,
    },
    /// The program is not QEMU itself.
    #[error(
        "QEMU has a child process ({pid}), which would keep its devices: if the program is a wrapper, have it exec QEMU"
    )]
    Child {
        /// The pid of the child.
        pid: u32,
    },
    /// An interface's place is on a bus that the machine does not have.
    #[error(transparent)]
    Place(#[from] NoSuchBus),
    /// More interfaces and free ports than the machine takes.
    #[error(
        "{wanted} PCIe ports are needed for the interfaces and --hotplug-ports, but a machine takes {most}"
    )]
    Ports {
        /// How many ports are needed.
        wanted: usize,
        /// How many ports a machine takes at most.
        most: usize,
    },
    /// Privileges can't be dropped.
    #[error("Privileges can't be dropped")]
    Restrain(#[source] io::Error),
    /// QEMU holds a device that was not passed to it.
    #[error(
        "QEMU opened {path} by itself, on no record: use --nic, or take the argument that makes it do so away"
    )]
    UnexpectedDevice {
        /// The path of the device.
        path: String,
    },
}

/// A guest can't be adopted; it runs on as before.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The ledger can't be read.
    #[error("The guest's records can't be read")]
    Ledger(#[from] LedgerError),
    /// No guest of this name has an open account.
    #[error("No guest '{0}' is on record as running: `taptrail list` shows those that are")]
    Unknown(String),
    /// QEMU has just ended.
    #[error("QEMU of guest '{0}' has ended: `taptrail recover` closes its account")]
    Ended(String),
    /// Its start was interrupted.
    #[error("The start of guest '{0}' was interrupted: `taptrail recover` takes it back")]
    Unfinished(String),
    /// QEMU's own user may not call the API: a QEMU that was taken over could attach interfaces.
    #[error("User {0} can't be allowed to call: QEMU runs as this user, and would call too")]
    Caller(u32),
    /// Its links are in another network namespace.
    #[error("Guest '{name}' has its links in another network namespace ({netns}): adopt it from there")]
    Elsewhere {
        /// The guest's name.
        name: String,
        /// The inode of its namespace.
        netns: u64,
    },
    /// The account can't be written.
    #[error("The guest's account can't be written")]
    Account(#[from] AccountError),
    /// The host's links can't be listed.
    #[error("The host's network links can't be reached")]
    Links(#[from] LinkError),
    /// Its monitor can't be used.
    #[error("QEMU's monitor can't be used")]
    Monitor(#[from] QmpError),
    /// QEMU's process or descriptors can't be read.
    #[error("QEMU's descriptors can't be read")]
    Look(#[source] io::Error),
    /// Privileges can't be dropped.
    #[error("Privileges can't be dropped")]
    Restrain(#[source] io::Error),
    /// The SPEC of an interface in the ledger is invalid.
    #[error("The record of interface {mac} is invalid")]
    Spec {
        /// The MAC of the interface.
        mac: MacAddr,
        /// What is wrong with it.
        source: SpecError,
    },
    /// The ledger has an invalid link name for an interface.
    #[error("Interface {mac} is on record with link '{name}', which is no name of a link")]
    IfName {
        /// The MAC of the interface.
        mac: MacAddr,
        /// The name, cut at 64 characters.
        name: String,
    },
}
