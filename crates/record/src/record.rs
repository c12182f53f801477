use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::{CloseDoubt, Device, FilterAddress, GuestId, MacAddr, Reason, RecordType};

/// One audit record about a guest or one of its network devices.
///
/// Serialised, and read again, as archives store it: flat, with the pairs of its [`Event`] among its
/// own, and without those that it does not have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// The guest.
    pub guest: GuestId,
    /// The operation.
    pub event: Event,
    /// Whether the operation succeeded.
    pub outcome: Outcome,
    /// The client that requested the operation, if it was not the writer of the record itself.
    pub requester: Option<Requester>,
    /// Why it failed (`errno(3)`), if the writer knows. libvirt never writes it.
    pub errno: Option<i32>,
    /// Set if nobody saw the event happen: the latest time at which it had not happened yet, in
    /// milliseconds since 1970. The record's own time is the earliest at which it had happened.
    /// Written by the process that takes over the account of a supervisor that ended before its
    /// guest.
    pub last_seen: Option<u64>,
    /// Of a close: why it does not show that nobody holds the device any more.
    pub doubt: Option<CloseDoubt>,
}

impl Record {
    /// A record of a success, without a requester.
    pub fn success(guest: GuestId, event: Event) -> Self {
        Self {
            guest,
            event,
            outcome: Outcome::Success,
            requester: None,
            errno: None,
            last_seen: None,
            doubt: None,
        }
    }

    /// A record of a failure, without a requester.
    pub fn failed(guest: GuestId, event: Event, errno: Option<i32>) -> Self {
        Self { guest, event, outcome: Outcome::Failed, requester: None, errno, last_seen: None, doubt: None }
    }

    /// The record type for the kernel's audit.
    pub fn record_type(&self) -> RecordType {
        match self.event {
            Event::GuestStart { .. } | Event::GuestStop { .. } | Event::GuestGone { .. } => {
                RecordType::VIRT_CONTROL
            }
            _ => RecordType::VIRT_RESOURCE,
        }
    }
}

/// An operation, done or attempted.
///
/// `vm_pid` is QEMU's process id, `fds` a number of descriptors. libvirt's interface records have
/// neither, nor `queue`, [`Keep`](Self::Keep) and [`Close`](Self::Close). The records of a watcher,
/// which is not the guest's manager, are [`Seen`](Self::Seen), [`Gone`](Self::Gone) and
/// [`GuestGone`](Self::GuestGone).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// One open(2) of a device for the guest's interface `mac`.
    Open {
        /// The guest's interface.
        mac: MacAddr,
        /// What was opened.
        device: Device,
        /// Which of the interface's queues it serves, from 0.
        queue: Option<u32>,
    },
    /// QEMU has the interface's descriptors since its start.
    Start {
        /// The guest's interface.
        mac: MacAddr,
        /// The process id of QEMU.
        vm_pid: Option<u32>,
        /// How many it got.
        fds: Option<u32>,
    },
    /// QEMU has the interface's descriptors by hot-plug.
    Attach {
        /// The guest's interface.
        mac: MacAddr,
        /// The process id of QEMU.
        vm_pid: Option<u32>,
        /// How many it got.
        fds: Option<u32>,
    },
    /// QEMU closed the interface's descriptors.
    Detach {
        /// The guest's interface.
        mac: MacAddr,
        /// The process id of QEMU.
        vm_pid: Option<u32>,
        /// How many it gave up.
        fds: Option<u32>,
        /// Whether they were revoked: taken while the guest still had the interface plugged in.
        forced: bool,
    },
    /// After a failed attach QEMU still holds this device, and it can't be taken back.
    Keep {
        /// The guest's interface.
        mac: MacAddr,
        /// What it still holds.
        device: Device,
        /// Which of the interface's queues it serves, from 0.
        queue: Option<u32>,
        /// The process id of QEMU.
        vm_pid: Option<u32>,
    },
    /// The definitive end of one open(2): nobody holds the device any more.
    Close {
        /// The guest's interface.
        mac: MacAddr,
        /// As in its open record.
        device: Device,
        /// As in its open record.
        queue: Option<u32>,
    },
    /// The filter of the guest's interface is in force again, or another one is (success), or none
    /// is any longer (failed).
    Filter {
        /// The guest's interface.
        mac: MacAddr,
        /// The device whose link has the filter.
        device: Device,
        /// The address that made it another one, where the filter learns addresses.
        address: Option<FilterAddress>,
    },
    /// The link of the guest's interface has its configured MAC again (success), or had another
    /// (failed).
    Mac {
        /// The guest's interface.
        mac: MacAddr,
        /// The device whose link it is.
        device: Device,
    },
    /// The settings of the guest's interface are about to be changed, or were (success), or are as
    /// they were before (failed).
    Update {
        /// The guest's interface.
        mac: MacAddr,
        /// The first of its devices.
        device: Device,
        /// Whether the change is about to begin, or has ended.
        phase: UpdatePhase,
        /// What is changed: keys and values as in a SPEC, `vlan=7,link=up`.
        settings: CompactString,
    },
    /// A watcher saw that QEMU holds this descriptor.
    Seen(Descriptor),
    /// A watcher saw that QEMU no longer holds this descriptor: the definitive end of one open(2).
    Gone(Descriptor),
    /// The guest runs.
    GuestStart {
        /// `booted` for ours.
        reason: Reason,
        /// QEMU; none (0 in the text) if it did not start.
        vm_pid: Option<u32>,
    },
    /// The guest has ended, and its devices are closed.
    GuestStop {
        /// `shutdown`, `destroyed`, `crashed` or `failed` for ours.
        reason: Reason,
        /// QEMU; libvirt always writes none (0 in the text).
        vm_pid: Option<u32>,
    },
    /// A watcher saw that QEMU's process has ended; its devices are closed.
    GuestGone {
        /// The process id of QEMU.
        vm_pid: u32,
    },
}

/// Which of the two records of an update it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpdatePhase {
    /// `updating`: nothing is changed yet.
    Begin,
    /// `update`: the outcome.
    End,
}

impl UpdatePhase {
    /// The word of `reason=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "updating",
            Self::End => "update",
        }
    }
}

/// One descriptor of a raw network device in a QEMU, as `/proc/PID/fd` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// The guest's interface that it serves, if known.
    pub mac: Option<MacAddr>,
    /// The device: node, number, and the host interface behind it.
    pub device: Device,
    /// The index, from 0, among the descriptors of this device, in the order of their numbers.
    pub queue: Option<u32>,
    /// QEMU's process id.
    pub vm_pid: u32,
    /// The descriptor's number in QEMU.
    pub fd: u32,
}

impl Event {
    /// The interface it is about; none for events about the whole guest.
    pub fn mac(&self) -> Option<MacAddr> {
        match self {
            Self::Open { mac, .. }
            | Self::Start { mac, .. }
            | Self::Attach { mac, .. }
            | Self::Detach { mac, .. }
            | Self::Keep { mac, .. }
            | Self::Close { mac, .. }
            | Self::Filter { mac, .. }
            | Self::Update { mac, .. }
            | Self::Mac { mac, .. } => Some(*mac),
            Self::Seen(descriptor) | Self::Gone(descriptor) => descriptor.mac,
            Self::GuestStart { .. } | Self::GuestStop { .. } | Self::GuestGone { .. } => None,
        }
    }

    /// The device it names, if it names one.
    pub fn device(&self) -> Option<&Device> {
        match self {
            Self::Open { device, .. }
            | Self::Keep { device, .. }
            | Self::Close { device, .. }
            | Self::Filter { device, .. }
            | Self::Update { device, .. }
            | Self::Mac { device, .. } => Some(device),
            Self::Seen(descriptor) | Self::Gone(descriptor) => Some(&descriptor.device),
            _ => None,
        }
    }

    /// Whether it is a watcher's observation, rather than an operation of a guest's manager.
    pub fn is_observation(&self) -> bool {
        matches!(self, Self::Seen(_) | Self::Gone(_) | Self::GuestGone { .. })
    }
}

/// How an operation ended: `res=` of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// `res=success`
    Success,
    /// `res=failed`
    Failed,
}

crate::word_table! {
    Outcome:
    /// Both outcomes.
    ALL,
    /// The word in the record.
    as_str,
    {
        Success = "success",
        Failed = "failed",
    }
}

/// The client that requested an operation: the peer of the supervisor's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requester {
    /// User id of the peer.
    pub uid: u32,
    /// Login uid of the peer, which su(1) and sudo(8) don't change; [`Requester::UNSET`] for a
    /// daemon.
    pub auid: u32,
    /// Process id of the peer at the time of the request.
    pub pid: u32,
}

impl Requester {
    /// The login uid of a process without a login (`AUDIT_UID_UNSET`, linux/audit.h).
    pub const UNSET: u32 = u32::MAX;
}
