//! Hand-overs that are under way: in the ledger, a step has its intent and no outcome yet.

use taptrail_kernel::proc::{ProcessId, boot_id};
use taptrail_ledger::{Guest, Ledger, LedgerError, Process, Step};
use taptrail_record::{Device, DeviceKind};

use super::{Holder, ScannedDevice, Sources};

/// A guest whose supervisor is giving devices to it now. The supervisor is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingHandOver {
    /// The supervisor, which opens the devices.
    pub supervisor: ProcessId,
    /// The QEMU that gets them, once it runs.
    pub qemu: Option<ProcessId>,
    /// Devices with a recorded open and no grant yet.
    pub opened: Vec<Device>,
}

impl PendingHandOver {
    /// Whether this hand-over explains why a process holds a device.
    pub fn explains(&self, holder: &Holder, held: &ScannedDevice) -> bool {
        let Some(kind) = held.kind.raw() else { return false };
        // A supervisor holds only devices that it is about to hand over.
        if holder.process == self.supervisor {
            return true;
        }
        let is_it = |opened: &Device| match kind {
            DeviceKind::Tun => opened.dev.as_deref() == held.ifname.as_ref().map(|name| name.as_str()),
            DeviceKind::Macvtap | DeviceKind::VhostVdpa => opened.rdev == Some(held.rdev),
            _ => opened.kind == kind,
        };
        Some(holder.process) == self.qemu && self.opened.iter().any(|of| of.kind == kind && is_it(of))
    }
}

/// Reads the hand-overs from the ledger; none if it can't be read.
pub(super) fn read(sources: &Sources) -> Vec<PendingHandOver> {
    let Some(ledger) = sources.state.as_deref().and_then(|state| Ledger::open_to_read(state).ok()) else {
        return Vec::new();
    };
    let (Ok(guests), Ok(boot)) = (ledger.live_guests(), boot_id()) else { return Vec::new() };
    let boot = boot.to_string();
    let ours = guests.into_iter().filter(|guest| !guest.watched && guest.boot_id == boot);
    ours.filter_map(|guest| of_guest(&ledger, &guest).ok().flatten()).collect()
}

fn of_guest(ledger: &Ledger, guest: &Guest) -> Result<Option<PendingHandOver>, LedgerError> {
    let gives = |step| matches!(step, Step::Start | Step::Open | Step::HandOver);
    if !ledger.live_steps(guest.key)?.iter().any(|step| gives(step.step)) {
        return Ok(None);
    }
    let supervisor = process(guest.supervisor);
    if !supervisor.is_alive() {
        return Ok(None);
    }
    let opened = ledger.live_devices(guest.key)?.into_iter().filter(|device| !device.granted);
    let opened = opened.map(|device| device.device).collect();
    Ok(Some(PendingHandOver { supervisor, qemu: guest.qemu.map(process), opened }))
}

fn process(of: Process) -> ProcessId {
    ProcessId { pid: of.pid, start_time: of.start }
}
