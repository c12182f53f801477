use crate::{CloseDoubt, Device, GuestId, MacAddr, Reason, RecordType};

/// What one audit record says of a guest or of a network device of its.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Whom it is about.
    pub guest: GuestId,
    /// What was done, or tried.
    pub event: Event,
    /// Whether it was done.
    pub outcome: Outcome,
    /// Who asked, when it was not the writer of the record itself.
    pub requester: Option<Requester>,
    /// Why it failed (`errno(3)`), where the writer knows. libvirt never tells.
    pub errno: Option<i32>,
    /// Nobody saw it happen: this is the latest time, in milliseconds since 1970, at which it had not
    /// happened yet, and the record's own the earliest at which it had. Written by who takes up the
    /// account of a supervisor that ended before its guest.
    pub last_seen: Option<u64>,
    /// Of a close: why it is no proof that nobody holds the device any more.
    pub doubt: Option<CloseDoubt>,
}

impl Record {
    /// A record of a success on the writer's own account.
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

    /// A record of a failure on the writer's own account.
    pub fn failed(guest: GuestId, event: Event, errno: Option<i32>) -> Self {
        Self { guest, event, outcome: Outcome::Failed, requester: None, errno, last_seen: None, doubt: None }
    }

    /// The type under which it goes to the kernel.
    pub fn record_type(&self) -> RecordType {
        match self.event {
            Event::GuestStart { .. } | Event::GuestStop { .. } | Event::GuestGone { .. } => {
                RecordType::VIRT_CONTROL
            }
            _ => RecordType::VIRT_RESOURCE,
        }
    }
}

/// What was done, or tried.
///
/// `vm_pid` is QEMU's process, `fds` a number of descriptors. Both are missing from libvirt's
/// interface records, as are `queue`, [`Keep`](Self::Keep) and [`Close`](Self::Close). What a watcher saw, who
/// is not the guest's manager, is [`Seen`](Self::Seen), [`Gone`](Self::Gone) and [`GuestGone`](Self::GuestGone).
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
        /// QEMU.
        vm_pid: Option<u32>,
        /// How many it got.
        fds: Option<u32>,
    },
    /// QEMU has the interface's descriptors by hot-plug.
    Attach {
        /// The guest's interface.
        mac: MacAddr,
        /// QEMU.
        vm_pid: Option<u32>,
        /// How many it got.
        fds: Option<u32>,
    },
    /// QEMU gave the interface's descriptors up.
    Detach {
        /// The guest's interface.
        mac: MacAddr,
        /// QEMU.
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
        /// QEMU.
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
    /// The filter of the guest's interface is in force again (success), or is not any more (failed).
    Filter {
        /// The guest's interface.
        mac: MacAddr,
        /// The device whose link the filter is of.
        device: Device,
    },
    /// The link of the guest's interface has the MAC again that it is to have (success), or had another (failed).
    Mac {
        /// The guest's interface.
        mac: MacAddr,
        /// The device whose link it is.
        device: Device,
    },
    /// QEMU was seen to hold this descriptor.
    Seen(Descriptor),
    /// QEMU was seen to hold this descriptor no more: the definitive end of one open(2).
    Gone(Descriptor),
    /// The guest runs.
    GuestStart {
        /// `booted` for ours.
        reason: Reason,
        /// QEMU; none (0 in the text) when it did not come up.
        vm_pid: Option<u32>,
    },
    /// The guest is gone, and all it held with it.
    GuestStop {
        /// `shutdown`, `destroyed`, `crashed` or `failed` for ours.
        reason: Reason,
        /// QEMU; libvirt always writes none (0 in the text).
        vm_pid: Option<u32>,
    },
    /// QEMU's process was seen to have ended, and all it held with it.
    GuestGone {
        /// QEMU.
        vm_pid: u32,
    },
}

/// One descriptor of a raw network device in a QEMU, as `/proc/PID/fd` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// The guest's interface it serves; none where nothing tells.
    pub mac: Option<MacAddr>,
    /// What it is a descriptor of: node, number, and the host's interface behind it.
    pub device: Device,
    /// Which descriptor of this device it is, from 0, in the order of their numbers.
    pub queue: Option<u32>,
    /// QEMU.
    pub vm_pid: u32,
    /// Its number in QEMU.
    pub fd: u32,
}

impl Event {
    /// The interface it is about; none for those about the whole guest.
    pub fn mac(&self) -> Option<MacAddr> {
        match self {
            Self::Open { mac, .. }
            | Self::Start { mac, .. }
            | Self::Attach { mac, .. }
            | Self::Detach { mac, .. }
            | Self::Keep { mac, .. }
            | Self::Close { mac, .. }
            | Self::Filter { mac, .. }
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
            | Self::Mac { device, .. } => Some(device),
            Self::Seen(descriptor) | Self::Gone(descriptor) => Some(&descriptor.device),
            _ => None,
        }
    }

    /// Whether it is what a watcher saw, rather than what a guest's manager did.
    pub fn is_watched(&self) -> bool {
        matches!(self, Self::Seen(_) | Self::Gone(_) | Self::GuestGone { .. })
    }
}

/// How an operation ended: `res=` of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// `res=success`
    Success,
    /// `res=failed`
    Failed,
}

impl Outcome {
    /// The word in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }
}

/// Who asked for an operation: the peer of the supervisor's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Requester {
    /// User id of the peer.
    pub uid: u32,
    /// Login uid of the peer, which su(1) and sudo(8) don't change; [`Requester::UNSET`] for a daemon.
    pub auid: u32,
    /// Process id of the peer when it asked.
    pub pid: u32,
}

impl Requester {
    /// The login uid of a process that no login led to (`AUDIT_UID_UNSET`, linux/audit.h).
    pub const UNSET: u32 = u32::MAX;
}
