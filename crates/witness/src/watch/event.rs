//! The events that a watcher returns.

use jiff::Timestamp;
use taptrail_record::{Descriptor, Device, GuestId, MacAddr, Outcome, Reason};
use taptrail_trail::{Finding, Holding};

/// An event about a guest or its devices. It is in the ledger, unless the guest has a supervisor of
/// ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// The time of the log entry that shows it, or else of the look that showed it.
    pub time: Timestamp,
    /// What has happened, and to which guest.
    pub kind: EventKind,
}

/// What a watcher has learned of a guest, a device or the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// A device was opened for a guest's interface, or the open failed.
    Opened {
        /// The guest that the event is about.
        guest: GuestId,
        /// The MAC of the interface.
        mac: MacAddr,
        /// The device, as its record names it.
        device: Device,
        /// Whether the open succeeded.
        outcome: Outcome,
    },
    /// QEMU has an interface.
    Granted {
        /// The guest that the event is about.
        guest: GuestId,
        /// The MAC of the interface.
        mac: MacAddr,
        /// QEMU's pid, where the watcher knows it.
        vm_pid: Option<u32>,
        /// The descriptors that the watcher saw in QEMU for it. Empty for a guest with a supervisor
        /// of ours, which has seen them itself, and for an interface that needs no such device.
        descriptors: Vec<Descriptor>,
    },
    /// QEMU gave a device up.
    Released(Box<Holding>),
    /// A tap that QEMU holds is a port of another bridge than before, or of none. Nothing was
    /// released.
    BridgeChanged {
        /// The guest that the event is about.
        guest: GuestId,
        /// The MAC of the interface, where it is known.
        mac: Option<MacAddr>,
        /// The tap, as it was recorded when it was first seen.
        device: Device,
        /// The pid of QEMU, as the records have it.
        vm_pid: u32,
        /// The bridge that it was a port of, if any.
        from: Option<String>,
        /// The bridge that it is a port of now, if any.
        to: Option<String>,
    },
    /// A finding: an error, a gap or a suspicious entry in the trail.
    Found(Box<Finding>),
    /// A guest started or ended.
    Guest {
        /// The guest that the event is about.
        guest: GuestId,
        /// The state that begins with this event.
        state: GuestState,
    },
}

/// The new state of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestState {
    /// It runs, by its manager's record.
    Started {
        /// QEMU's pid, if the record has it.
        vm_pid: Option<u32>,
    },
    /// Its manager recorded that its start failed.
    Failed,
    /// It stopped, by its manager's record.
    Stopped {
        /// The reason that the record gives.
        reason: Reason,
    },
    /// Its QEMU has ended. The watcher still checks whether another process holds its devices, and
    /// its manager may still say why it ended.
    Ended {
        /// The pid of QEMU, as the records have it.
        vm_pid: u32,
    },
    /// Its QEMU has ended, and its manager wrote no record of it.
    Gone {
        /// The pid of QEMU, as the records have it.
        vm_pid: u32,
    },
}
