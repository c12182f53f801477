//! What supervisors are about right now, as the ledger has it: a step that is intended and has no outcome.

use taptrail_kernel::proc::{HeldKind, ProcessId, boot_id};
use taptrail_ledger::{Guest, Ledger, LedgerError, Process, Step};
use taptrail_record::{Device, DeviceKind};

use super::{Held, Holder, Sources};

/// A guest that is being given devices by its supervisor, which lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// Who opens them.
    pub supervisor: ProcessId,
    /// Who gets them, once it runs.
    pub qemu: Option<ProcessId>,
    /// What is open on record and not granted yet.
    pub opened: Vec<Device>,
}

impl UnderWay {
    /// Whether this is why a process holds a device.
    pub fn explains(&self, holder: &Holder, held: &Held) -> bool {
        let HeldKind::Raw(kind) = held.kind else { return false };
        // A supervisor holds nothing but what it is about to hand over.
        if holder.process == self.supervisor {
            return true;
        }
        let is_it = |opened: &Device| match kind {
            DeviceKind::Tun => opened.dev.as_deref() == held.ifname.as_ref().map(|name| name.as_str()),
            DeviceKind::Macvtap => opened.rdev == Some(held.rdev),
            _ => opened.kind == kind,
        };
        Some(holder.process) == self.qemu && self.opened.iter().any(|of| of.kind == kind && is_it(of))
    }
}

/// What is under way. What can't be read tells nothing.
pub(super) fn read(sources: &Sources) -> Vec<UnderWay> {
    let Some(ledger) = sources.state.as_deref().and_then(|state| Ledger::open_to_read(state).ok()) else {
        return Vec::new();
    };
    let (Ok(guests), Ok(boot)) = (ledger.live_guests(), boot_id()) else { return Vec::new() };
    let boot = boot.to_string();
    let ours = guests.into_iter().filter(|guest| !guest.watched && guest.boot_id == boot);
    ours.filter_map(|guest| of_guest(&ledger, &guest).ok().flatten()).collect()
}

fn of_guest(ledger: &Ledger, guest: &Guest) -> Result<Option<UnderWay>, LedgerError> {
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
    Ok(Some(UnderWay { supervisor, qemu: guest.qemu.map(process), opened }))
}

fn process(of: Process) -> ProcessId {
    ProcessId { pid: of.pid, start_time: of.start }
}
