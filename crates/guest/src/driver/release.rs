//! What is taken from QEMU, checked and recorded. Hot-unplug and revocation are [`Driver::release`];
//! an attach that failed (`attach.rs`), one that was cut off (`adopt.rs`), and devices that QEMU
//! closes by itself (`guard.rs`) close in QEMU what they have to, and share the rest.
//!
//! ```text
//!   close in QEMU ──▶ check (ReleaseCheck) ──▶ CheckedDevices ──▶ link and filter removed
//!                                                │ kept, closed        (if nothing is kept, or by force)
//!                                                ▼
//!                             close records, the cause, the interface's end: one LedgerBatch
//! ```

use std::time::{Duration, Instant};

use taptrail_ledger::{LiveStep, Step};
use taptrail_qmp::{ErrorClass, QmpError};
use taptrail_record::{Event, MacAddr, Outcome, Requester};
use tracing::{info, warn};

use super::names::{descriptor_name, netdev_id};
use super::{Driver, MONITOR_TIMEOUT, PlugState, log_error};
use crate::account::{Account, LedgerBatch};
use crate::handover::{self, CheckedDevices, Evidence, OpenFileCounts, ReleaseCheck};
use crate::host_link::{HostLink, LinkLocation};
use crate::interface::Interface;
use crate::request::Failure;
use crate::spec::{Backend, NicSpec};
use crate::state::InterfaceInfo;

/// What a [`Step::Release`] is about, as its detail in the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReleaseKind {
    /// The guest is asked to release the NIC; then QEMU closes the devices.
    Unplug,
    /// QEMU closes the devices: the guest has released the NIC.
    Close,
    /// QEMU closes the devices with the NIC still plugged.
    Revoke,
}

impl ReleaseKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unplug => "unplug",
            Self::Close => "release",
            Self::Revoke => "revoke",
        }
    }

    /// That of a step on record; a detail of an older version counts as a close.
    pub(crate) fn of(step: &LiveStep) -> Self {
        let known = [Self::Unplug, Self::Revoke];
        known.into_iter().find(|kind| kind.as_str() == step.detail).unwrap_or(Self::Close)
    }
}

/// The records of an attach that failed, and of the devices that QEMU keeps in spite of that.
pub(super) fn failed_attach(
    checked: &CheckedDevices,
    mac: MacAddr,
    qemu: u32,
    account: &Account,
    requester: Option<Requester>,
) -> LedgerBatch {
    let event = Event::Attach { mac, vm_pid: Some(qemu), fds: u32::try_from(checked.kept.len()).ok() };
    let failed = LedgerBatch::default().record(account.record(event, Outcome::Failed, requester));
    checked.kept.iter().fold(failed, |batch, device| {
        let keep = account.record(device.keep(qemu), Outcome::Success, None);
        batch.grant(keep, [device])
    })
}

/// The state of an interface that QEMU should have given up.
pub(super) fn state_after(checked: &CheckedDevices) -> PlugState {
    if checked.all_closed() { PlugState::Revoked } else { PlugState::Kept }
}

impl Driver {
    /// Takes an interface's devices from QEMU, checks that they are released, and records it.
    pub(super) fn release(
        &mut self,
        index: usize,
        forced: bool,
        requester: Option<Requester>,
    ) -> Result<InterfaceInfo, Failure> {
        let mac = self.interfaces[index].interface.mac;
        let step = match self.interfaces[index].state {
            PlugState::Unplugging { step } => step,
            // Devices are taken from QEMU even if the ledger can't be written.
            _ => {
                let kind = if forced { ReleaseKind::Revoke } else { ReleaseKind::Close };
                let step = self.account.intend(Step::Release, Some(mac), kind.as_str());
                step.inspect_err(|error| warn!("{}", crate::chain(error))).ok()
            }
        };
        crash_point!("release::intended");
        self.note_cut(index);
        let refused = self.close_in_qemu(index);
        crash_point!("release::let-go");
        let evidence = self.check_released(index, true, handover::RELEASE_GRACE);
        let attached = &mut self.interfaces[index];
        let mut info = attached.info();
        let checked = CheckedDevices::new(std::mem::take(&mut attached.interface.devices), evidence);
        for (device, queue, doubt) in checked.closed.iter().map(|gone| (&gone.device, gone.queue, gone.doubt))
        {
            let released =
                info.devices.iter_mut().filter(|held| held.device == *device && held.queue == queue);
            released.for_each(|held| held.doubt = doubt);
        }
        let outcome = if checked.all_closed() { Outcome::Success } else { Outcome::Failed };
        // A revocation does not depend on QEMU.
        checked.undo(mac, &mut attached.interface.resources, &mut self.host, forced);
        crash_point!("release::undone");
        let fds = u32::try_from(checked.closed.len()).ok();
        let event = Event::Detach { mac, vm_pid: Some(self.qemu.id.pid), fds, forced };
        let last = self.account.record(event, outcome, requester);
        let ended = checked.ended(attached.interface.key, attached.nic);
        let batch = LedgerBatch::default().close_devices(&self.account, &checked.closed);
        let batch = batch.record(last).end_interfaces(ended);
        log_error(self.account.post(batch.complete_steps(&step, outcome.as_str())));
        if !checked.all_closed() {
            let count = checked.kept.len();
            attached.interface.devices = checked.kept;
            attached.state = PlugState::Kept;
            let why = refused.map(|error| format!(": {}", crate::chain(&error))).unwrap_or_default();
            let cut = match attached.interface.resources.cut {
                true => "; their link is deleted, so that no frame passes by it",
                false => "",
            };
            return Err(Failure::Failed(format!(
                "QEMU still holds {count} of the devices of {mac}{why}{cut}"
            )));
        }
        info!("{mac}: '{}' released, {} closed", info.ifname, crate::descriptors(checked.closed.len()));
        if attached.nic {
            attached.state = PlugState::Revoked;
            // The guest may release the dead NIC at any time; nobody waits for that.
            let id = attached.interface.id.clone();
            match self.qemu.monitor.device_del(&id, MONITOR_TIMEOUT) {
                Err(QmpError::Refused { class: ErrorClass::DeviceNotFound, .. }) => {
                    self.forget_unplugged(index)
                }
                Err(error) => {
                    info!("{mac}: NIC stays plugged without its devices: {}", crate::chain(&error));
                }
                Ok(()) => {}
            }
        } else {
            self.remove(index);
        }
        Ok(info)
    }

    /// Remembers if an interface's link was deleted while its devices are held.
    pub(super) fn note_cut(&mut self, index: usize) {
        let resources = &mut self.interfaces[index].interface.resources;
        let gone = |link: &HostLink| matches!(self.host.find_link(link), Ok(LinkLocation::Gone));
        resources.cut |= resources.link.as_ref().is_some_and(gone);
    }

    /// Returns the evidence for an interface's devices that QEMU should have released; `asked` as
    /// in [`ReleaseCheck`].
    pub(super) fn check_released(&mut self, index: usize, asked: bool, grace: Duration) -> Vec<Evidence> {
        let (before, rest) = self.interfaces.split_at(index);
        let Some((attached, after)) = rest.split_first() else { return Vec::new() };
        let others: Vec<_> =
            before.iter().chain(after).flat_map(|other| other.interface.devices.clone()).collect();
        let release = ReleaseCheck {
            qemu: Some(&self.qemu.id),
            devices: &attached.interface.devices,
            link: attached.interface.resources.link.as_ref(),
            link_shows: true,
            cut: attached.interface.resources.cut,
            asked,
            others: &others,
            earlier_sockets: &[],
            grace,
        };
        release.run(&mut self.host, &mut OpenFileCounts::default())
    }

    /// Has QEMU close an interface's devices; returns QEMU's error, if any.
    fn close_in_qemu(&mut self, index: usize) -> Option<QmpError> {
        let attached = &self.interfaces[index];
        let id = attached.interface.id.clone();
        if attached.state == PlugState::Kept {
            // After a failed attach QEMU may still have some descriptors by name (`getfd`).
            for number in 0..2 * usize::from(attached.interface.spec.queues.get()) {
                match self.qemu.monitor.closefd(&descriptor_name(&id, number), MONITOR_TIMEOUT) {
                    Err(error) if error.leaves_outcome_open() => return Some(error),
                    _ => {}
                }
            }
        }
        let refused = self.qemu.monitor.netdev_del(&netdev_id(&id), MONITOR_TIMEOUT).err();
        if refused.is_some() && matches!(self.interfaces[index].interface.spec.backend, Backend::VhostUser(_))
        {
            // After a failed attach there may be no netdev that would have closed it.
            let _ = self.qemu.monitor.chardev_remove(&netdev_id(&id), MONITOR_TIMEOUT);
        }
        refused
    }

    /// Removes the netdev of a NIC that was asked to go. That of a vDPA device only once the NIC is
    /// gone, for which it waits a moment: QEMU would not close the device before its own end.
    pub(super) fn delete_netdev(
        &mut self,
        spec: &NicSpec,
        id: &str,
        timeout: Duration,
    ) -> Result<(), QmpError> {
        let end = Instant::now() + handover::RELEASE_GRACE;
        while spec.closes_after_unplug() {
            match self.qemu.monitor.netdev_id(id, timeout) {
                Err(QmpError::Refused { .. }) => break,
                Err(error) => return Err(error),
                // When the guest releases the NIC, its device is released.
                Ok(_) if Instant::now() >= end => return Ok(()),
                Ok(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        self.qemu.monitor.netdev_del(&netdev_id(id), timeout)
    }

    /// Ends a revoked interface whose NIC is unplugged, too.
    pub(super) fn forget_unplugged(&mut self, index: usize) {
        let Interface { key, ref spec, ref id, .. } = self.interfaces[index].interface;
        if spec.closes_after_unplug() {
            // QEMU closed the device by itself, and has the netdev still.
            let _ = self.qemu.monitor.netdev_del(&netdev_id(id), MONITOR_TIMEOUT);
        }
        log_error(self.account.post(LedgerBatch::default().end_interfaces([key])));
        self.remove(index);
    }

    /// Removes an interface that has nothing left in QEMU.
    pub(super) fn remove(&mut self, index: usize) {
        let gone = self.interfaces.remove(index);
        self.free_port(gone.interface.port.as_deref());
        if gone.interface.resources.learning.is_some() {
            // The next interface with its MAC is another one.
            self.keep_addresses();
        }
    }
}
