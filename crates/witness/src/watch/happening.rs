use jiff::Timestamp;
use taptrail_record::{Descriptor, Device, GuestId, MacAddr, Outcome, Reason};
use taptrail_trail::{Finding, Holding};

/// Something that happened to a guest's devices, and is in the ledger where the guest is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// When.
    pub time: Timestamp,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A device was opened for a guest's interface, or the open failed.
    Opened {
        /// Whose.
        guest: GuestId,
        /// For which interface.
        mac: MacAddr,
        /// What, as its record names it.
        device: Device,
        /// Whether it was opened.
        outcome: Outcome,
    },
    /// QEMU has an interface.
    Granted {
        /// Whose.
        guest: GuestId,
        /// Which interface.
        mac: MacAddr,
        /// QEMU.
        vm_pid: Option<u32>,
        /// What it was seen to hold for it. None of a guest of ours, whose supervisor has seen it, and of an
        /// interface that needs no such device.
        descriptors: Vec<Descriptor>,
    },
    /// QEMU has a device no more.
    Released(Box<Holding>),
    /// A tap that QEMU holds is a port of another bridge than before, or of none. Nothing was
    /// released.
    BridgeChanged {
        /// Whose.
        guest: GuestId,
        /// Which interface, where it is known.
        mac: Option<MacAddr>,
        /// The tap.
        device: Device,
        /// QEMU.
        vm_pid: u32,
        /// The bridge that it was a port of, if any.
        from: Option<String>,
        /// The bridge that it is a port of now, if any.
        to: Option<String>,
    },
    /// The trail is wrong, incomplete or worth a look.
    Found(Box<Finding>),
    /// A guest runs, or is gone.
    Guest {
        /// Which.
        guest: GuestId,
        /// What became of it.
        state: GuestState,
    },
}

/// What became of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestState {
    /// It runs, as its manager tells.
    Started {
        /// QEMU, where told.
        vm_pid: Option<u32>,
    },
    /// It did not come up.
    Failed,
    /// It is gone, as its manager tells.
    Stopped {
        /// Why.
        reason: Reason,
    },
    /// Its QEMU has ended. Whether somebody else holds what it held is looked for; why it ended, its manager may say yet.
    Ended {
        /// QEMU.
        vm_pid: u32,
    },
    /// Its QEMU has ended, and its manager has not said so.
    Gone {
        /// QEMU.
        vm_pid: u32,
    },
}
