//! What clients may know of a guest at any time, without a request to its driver.

use jiff::Timestamp;
use taptrail_record::{CloseDoubt, Device, DeviceKind, MacAddr, Reason};

use crate::learning::LearntAddress;
use crate::spec::NicSpec;

/// The state of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestState {
    /// Its devices are being opened, or QEMU has not answered yet.
    Starting,
    Running,
    /// Its virtual CPUs don't run.
    Paused,
    /// It was asked to shut down, or QEMU is being ended.
    Stopping,
    /// QEMU has ended.
    Stopped,
}

impl GuestState {
    /// The state as it is printed.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// The state of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InterfaceState {
    /// QEMU holds its devices.
    Held,
    /// QEMU holds its devices, and the guest was asked to release the NIC.
    Unplugging,
    /// Its devices are released, and the NIC is still plugged.
    Revoked,
    /// QEMU still holds devices that it should not hold: after a failed attach, or a release that
    /// it did not carry out.
    Kept,
    /// Nothing is left of it. Only events have this state.
    Gone,
}

impl InterfaceState {
    /// The state as it is printed.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Unplugging => "unplugging",
            Self::Revoked => "revoked",
            Self::Kept => "kept",
            Self::Gone => "gone",
        }
    }
}

/// An interface of a guest, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterfaceInfo {
    /// Its address, which identifies it.
    pub(crate) mac: MacAddr,
    /// Its SPEC, with the MAC and id that were chosen.
    pub(crate) spec: NicSpec,
    /// The host interface behind it.
    pub(crate) ifname: String,
    pub(crate) state: InterfaceState,
    /// When QEMU was first seen to hold its devices.
    pub(crate) since: Timestamp,
    /// Its devices, one for each open(2).
    pub(crate) devices: Vec<HeldDevice>,
    /// The addresses that its filter has learnt; `None` where it learns none.
    pub(crate) addresses: Option<Vec<LearntAddress>>,
}

impl InterfaceInfo {
    /// Whether QEMU has vhost-net for it.
    pub(crate) fn vhost(&self) -> bool {
        self.devices.iter().any(|held| held.device.kind == DeviceKind::VhostNet)
    }
}

/// One device that QEMU holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldDevice {
    /// Its path, number and host interface.
    pub(crate) device: Device,
    /// Its queue, from 0.
    pub(crate) queue: u32,
    /// Its descriptor's number in QEMU.
    pub(crate) qemu_fd: Option<i32>,
    /// Of a released device: why its close does not show that nobody holds it any more.
    pub(crate) doubt: Option<CloseDoubt>,
}

/// The state of a guest, as its driver published it last.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) state: GuestState,
    pub(crate) pid: Option<u32>,
    /// When QEMU began to run the guest.
    pub(crate) since: Option<Timestamp>,
    pub(crate) interfaces: Vec<InterfaceInfo>,
    /// Why it has stopped, once it has.
    pub(crate) reason: Option<Reason>,
}
