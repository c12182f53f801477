//! Hot-unplug and revocation: takes devices from QEMU, and verifies that they are released.
//!
//! The guest releases the NIC (`device_del`, DEVICE_DELETED), which may take forever; then QEMU
//! closes the devices (`netdev_del`), which is the moment of release. Revoking does the second
//! without waiting for the first.

use std::time::{Duration, Instant};

use taptrail_ledger::Step;
use taptrail_qmp::{ErrorClass, QmpError};
use taptrail_record::{Event, MacAddr, Outcome, Requester};
use tracing::{info, warn};

use super::release::ReleaseKind;
use super::{Driver, MONITOR_TIMEOUT, Pending, PlugState, UnplugFailure, log_error, log_if_client_gone};
use crate::account::LedgerBatch;
use crate::request::{Failure, Reply};
use crate::spec::Backend;
use crate::state::InterfaceInfo;

impl Driver {
    pub(super) fn detach(
        &mut self,
        mac: MacAddr,
        patience: Duration,
        requester: Option<Requester>,
        reply: Reply<InterfaceInfo>,
    ) {
        let Some(index) = self.holder(mac) else { return self.nothing_held(mac, reply) };
        let attached = &self.interfaces[index];
        if attached.state == PlugState::Kept && !attached.waits_for_unplug() {
            // There is no NIC that the guest could release.
            return self.take(index, false, requester, reply);
        }
        match self.ask_to_unplug(index) {
            Ok(()) => {
                let id = self.interfaces[index].interface.id.clone();
                let deadline = Instant::now() + patience;
                self.pending = Some(Pending::Detach { id, deadline, requester, reply });
            }
            // The NIC is already gone: there is nothing to wait for.
            Err(QmpError::Refused { class: ErrorClass::DeviceNotFound, .. }) => {
                self.interfaces[index].nic = false;
                let answer = self.release(index, false, requester);
                self.publish();
                log_if_client_gone(reply.send(answer));
            }
            Err(error) => {
                self.post_failed_detach(mac, requester);
                log_if_client_gone(reply.send(Err(Failure::Failed(crate::chain(&error)))));
            }
        }
    }

    pub(super) fn revoke(&mut self, mac: MacAddr, requester: Option<Requester>, reply: Reply<InterfaceInfo>) {
        match self.holder(mac) {
            Some(index) if self.interfaces[index].waits_for_unplug() => {
                let what = match self.interfaces[index].interface.spec.backend {
                    Backend::VhostUser(_) => "vhost-user connection",
                    _ => "vDPA device",
                };
                log_if_client_gone(reply.send(Err(Failure::Refused(format!(
                    "QEMU can't close the {what} of {mac} while the guest has the NIC: detach it without --force, or stop the guest"
                )))));
            }
            Some(index) => self.take(index, true, requester, reply),
            None => self.nothing_held(mac, reply),
        }
    }

    /// Releases an interface at once, and answers.
    fn take(
        &mut self,
        index: usize,
        forced: bool,
        requester: Option<Requester>,
        reply: Reply<InterfaceInfo>,
    ) {
        self.cancel_detach(&self.interfaces[index].interface.id.clone());
        let answer = self.release(index, forced, requester);
        self.publish();
        log_if_client_gone(reply.send(answer));
    }

    fn nothing_held(&mut self, mac: MacAddr, reply: Reply<InterfaceInfo>) {
        let answer = self.retry_unplug(mac);
        self.publish();
        log_if_client_gone(reply.send(answer));
    }

    /// Handles a MAC for which QEMU holds nothing: unknown, or revoked; then the guest is asked
    /// again to release the NIC.
    fn retry_unplug(&mut self, mac: MacAddr) -> Result<InterfaceInfo, Failure> {
        let Some(index) = self.interfaces.iter().position(|attached| attached.interface.mac == mac) else {
            return Err(Failure::Refused(format!(
                "This guest has no interface {mac}: `taptrail nics` lists them"
            )));
        };
        let id = self.interfaces[index].interface.id.clone();
        match self.qemu.monitor.device_del(&id, MONITOR_TIMEOUT) {
            Err(QmpError::Refused { class: ErrorClass::DeviceNotFound, .. }) => {
                let info = self.interfaces[index].info();
                self.forget_unplugged(index);
                Ok(info)
            }
            _ => Err(Failure::Refused(format!(
                "The devices of {mac} are taken already; the guest was asked once more to let go of the NIC itself"
            ))),
        }
    }

    /// Ends a pending detach of this NIC, before a revocation.
    pub(super) fn cancel_detach(&mut self, id: &str) {
        if let Some(Pending::Detach { requester, reply, .. }) =
            self.pending.take_if(|pending| pending.is_detach_of(id))
        {
            self.unplug_failed(id, requester, UnplugFailure::Revoked, reply);
        }
    }

    /// Asks the guest to release the NIC; again if it was asked before.
    fn ask_to_unplug(&mut self, index: usize) -> Result<(), QmpError> {
        let (id, mac) = {
            let interface = &self.interfaces[index].interface;
            (interface.id.clone(), interface.mac)
        };
        let asked_before = matches!(self.interfaces[index].state, PlugState::Unplugging { .. });
        if !asked_before {
            // Devices are taken from QEMU even if the ledger can't be written.
            match self.account.intend(Step::Release, Some(mac), ReleaseKind::Unplug.as_str()) {
                Ok(step) => self.interfaces[index].state = PlugState::Unplugging { step: Some(step) },
                Err(error) => {
                    warn!("{}", crate::chain(&error));
                    self.interfaces[index].state = PlugState::Unplugging { step: None };
                }
            }
        }
        crash_point!("detach::intended");
        let asked = self.qemu.monitor.device_del(&id, MONITOR_TIMEOUT);
        crash_point!("detach::asked");
        match asked {
            // QEMU's answer while an earlier unplug is under way.
            Err(QmpError::Refused { class: ErrorClass::Generic, .. }) if asked_before => Ok(()),
            Err(QmpError::Refused { class: ErrorClass::DeviceNotFound, command, desc }) => {
                // The step is completed by the release.
                Err(QmpError::Refused { class: ErrorClass::DeviceNotFound, command, desc })
            }
            Err(error) => {
                if !asked_before {
                    self.unplug_is_over(index, "failed");
                }
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// An unplug has failed: the interface is held as before.
    pub(super) fn unplug_is_over(&mut self, index: usize, outcome: &str) {
        let attached = &mut self.interfaces[index];
        if let PlugState::Unplugging { step } = attached.state {
            attached.state = PlugState::Held;
            log_error(self.account.post(LedgerBatch::default().complete_steps(&step, outcome)));
        }
    }

    /// DEVICE_DELETED: the guest has released a NIC, requested or not.
    pub(super) fn unplugged(&mut self, id: &str) {
        let Some(index) = self.interfaces.iter().position(|attached| attached.interface.id == id) else {
            return;
        };
        // QEMU emits it once the last reference is dropped, which may be after another NIC got the
        // id.
        if self.qemu.monitor.netdev_id(id, MONITOR_TIMEOUT).is_ok() {
            return;
        }
        let mac = self.interfaces[index].interface.mac;
        self.interfaces[index].nic = false;
        match self.interfaces[index].state {
            PlugState::Revoked => {
                self.forget_unplugged(index);
                return info!("{mac}: the guest has let go of the revoked NIC");
            }
            // The devices that QEMU keeps don't depend on the NIC.
            PlugState::Kept if !self.interfaces[index].interface.spec.closes_after_unplug() => return,
            PlugState::Kept | PlugState::Held | PlugState::Unplugging { .. } => {}
        }
        let (requester, reply) = match self.pending.take_if(|pending| pending.is_detach_of(id)) {
            Some(Pending::Detach { requester, reply, .. }) => (requester, Some(reply)),
            _ => (None, None),
        };
        let answer = self.release(index, false, requester);
        self.publish();
        match reply {
            Some(reply) => log_if_client_gone(reply.send(answer)),
            None => match answer {
                Ok(_) => info!("{mac}: the guest has let go of the NIC by itself; its devices are released"),
                Err(error) => warn!("{mac}: {error}"),
            },
        }
    }

    /// DEVICE_UNPLUG_GUEST_ERROR: the guest keeps the NIC.
    pub(super) fn unplug_refused(&mut self, id: &str) {
        let Some(index) = self.interfaces.iter().position(|attached| attached.interface.id == id) else {
            return;
        };
        self.unplug_is_over(index, "refused");
        if let Some(Pending::Detach { requester, reply, .. }) =
            self.pending.take_if(|pending| pending.is_detach_of(id))
        {
            self.unplug_failed(id, requester, UnplugFailure::Refused, reply);
        }
    }

    /// Records a failed detach, and answers its client.
    pub(super) fn unplug_failed(
        &mut self,
        id: &str,
        requester: Option<Requester>,
        why: UnplugFailure,
        reply: Reply<InterfaceInfo>,
    ) {
        let Some(attached) = self.interfaces.iter().find(|attached| attached.interface.id == id) else {
            return;
        };
        let mac = attached.interface.mac;
        self.post_failed_detach(mac, requester);
        let failure = match why {
            UnplugFailure::TimedOut => Failure::TimedOut(format!(
                "The guest did not let go of {mac} in time, and holds it still: try again, or revoke its devices with --force"
            )),
            UnplugFailure::Refused => Failure::Failed(format!(
                "The guest refused to let go of {mac}, and holds it still: revoke its devices with --force"
            )),
            UnplugFailure::Stopping => {
                Failure::Refused(format!("The guest is being stopped; {mac} is released with it"))
            }
            UnplugFailure::Revoked => {
                Failure::Refused(format!("The guest did not let go of {mac} before it was revoked"))
            }
        };
        log_if_client_gone(reply.send(Err(failure)));
    }

    fn post_failed_detach(&mut self, mac: MacAddr, requester: Option<Requester>) {
        let event = Event::Detach { mac, vm_pid: Some(self.qemu.id.pid), fds: None, forced: false };
        let record = self.account.record(event, Outcome::Failed, requester);
        log_error(self.account.post(LedgerBatch::default().record(record)));
    }
}
