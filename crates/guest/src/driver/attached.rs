//! An interface of the running guest, and the port that it is plugged into.

use std::os::fd::BorrowedFd;

use jiff::Timestamp;
use taptrail_ledger::StepKey;

use super::guard::MacChanges;
use crate::interface::Interface;
use crate::state::{HeldDevice, InterfaceInfo, InterfaceState};

/// An interface of the running guest.
#[derive(Debug)]
pub(super) struct AttachedInterface {
    pub(super) interface: Interface,
    pub(super) state: PlugState,
    /// The NIC is plugged in QEMU, with or without its devices.
    pub(super) nic: bool,
    pub(super) since: Timestamp,
    pub(super) mac_changes: MacChanges,
}

/// The driver's state of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlugState {
    /// QEMU holds its devices.
    Held,
    /// As `Held`, and the guest was asked to release the NIC.
    Unplugging {
        /// The intent of the release, if the ledger has it.
        step: Option<StepKey>,
    },
    /// Its devices are released, but the NIC is still plugged.
    Revoked,
    /// QEMU holds some of its devices after a failed attach or release.
    Kept,
}

impl PlugState {
    /// The state that clients see.
    pub(super) fn shown(self) -> InterfaceState {
        match self {
            Self::Held => InterfaceState::Held,
            Self::Unplugging { .. } => InterfaceState::Unplugging,
            Self::Revoked => InterfaceState::Revoked,
            Self::Kept => InterfaceState::Kept,
        }
    }
}

impl AttachedInterface {
    pub(super) fn new(interface: Interface) -> Self {
        Self {
            interface,
            state: PlugState::Held,
            nic: true,
            since: Timestamp::now(),
            mac_changes: MacChanges::default(),
        }
    }

    /// Whether QEMU can close its device only once the guest has released the NIC.
    pub(super) fn waits_for_unplug(&self) -> bool {
        self.nic && self.interface.spec.closes_after_unplug()
    }

    /// Readable when there is something to be learnt about its addresses.
    pub(super) fn learning_fd(&self) -> Option<BorrowedFd<'_>> {
        self.interface.resources.learning.as_ref()?.wait_fd()
    }

    pub(super) fn info(&self) -> InterfaceInfo {
        let interface = &self.interface;
        InterfaceInfo {
            mac: interface.mac,
            spec: interface.spec.clone(),
            ifname: interface.ifname.to_string(),
            state: self.state.shown(),
            since: self.since,
            devices: interface
                .devices
                .iter()
                .map(|held| HeldDevice {
                    device: held.device.clone(),
                    queue: held.queue,
                    qemu_fd: held.qemu_fd,
                    doubt: held.doubt,
                })
                .collect(),
            addresses: interface.resources.learning.as_ref().map(|learning| learning.addresses.clone()),
        }
    }
}

/// A pcie-root-port that taptrail added.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) taken: bool,
}
