//! Hot-unplug and revocation: devices out of QEMU, and the proof that they are gone.
//!
//! The guest lets go of the NIC (`device_del`, DEVICE_DELETED), which may take for ever; QEMU
//! lets go of the devices (`netdev_del`), which is the moment of release. Revoking does the
//! second without waiting for the first.

use std::time::{Duration, Instant};

use taptrail_ledger::Step;
use taptrail_qmp::{ErrorClass, QmpError};
use taptrail_record::{Event, MacAddr, Outcome, Requester};
use tracing::{info, warn};

use super::start::netdev_id;
use super::{ANSWER, Driver, Pending, PlugState, Unanswered, answered, said};
use crate::handover;
use crate::request::{Failure, InterfaceInfo, Reply};

impl Driver {
    pub(super) fn detach(
        &mut self,
        mac: MacAddr,
        patience: Duration,
        force: bool,
        requester: Option<Requester>,
        reply: Reply<InterfaceInfo>,
    ) {
        let Some(index) = self.holder(mac) else {
            let revoked = self.interfaces.iter().any(|plugged| plugged.interface.mac == mac);
            let text = if revoked {
                format!(
                    "The devices of {mac} are taken already; the guest has yet to let go of the NIC itself"
                )
            } else {
                format!("This guest has no interface {mac}: `taptrail nics` lists them")
            };
            return answered(reply.send(Err(Failure::Refused(text))));
        };
        let state = self.interfaces[index].state;
        if force || state == PlugState::Kept {
            let answer = self.release(index, force, requester);
            self.publish();
            return answered(reply.send(answer));
        }
        match self.ask_to_unplug(index) {
            Ok(()) => {
                let deadline = Instant::now() + patience;
                self.pending = Some(Pending::Detach { mac, deadline, requester, reply });
            }
            // The NIC is gone already, and with it whom to ask.
            Err(QmpError::Refused { class: ErrorClass::DeviceNotFound, .. }) => {
                let answer = self.release(index, false, requester);
                self.publish();
                answered(reply.send(answer));
            }
            Err(error) => {
                self.post_failed_detach(mac, requester);
                answered(reply.send(Err(Failure::Failed(crate::chain(&error)))));
            }
        }
    }

    /// Asks the guest to let go of the NIC; once more if it was asked before.
    fn ask_to_unplug(&mut self, index: usize) -> Result<(), QmpError> {
        let (id, mac) = {
            let interface = &self.interfaces[index].interface;
            (interface.id.clone(), interface.mac)
        };
        let asked_before = matches!(self.interfaces[index].state, PlugState::Unplugging { .. });
        if !asked_before {
            match self.account.intend(Step::Release, Some(mac), "unplug") {
                Ok(step) => self.interfaces[index].state = PlugState::Unplugging { step },
                Err(error) => {
                    return Err(QmpError::BadArguments {
                        command: "device_del".to_owned(),
                        why: crate::chain(&error),
                    });
                }
            }
        }
        match self.qemu.monitor.device_del(&id, ANSWER) {
            // QEMU says so while an unplug it was asked for goes on.
            Err(QmpError::Refused { class: ErrorClass::Generic, .. }) if asked_before => Ok(()),
            Err(error) => {
                if !asked_before {
                    self.unplug_is_over(index, "failed");
                }
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// An asked-for unplug will not happen: the interface is held as before.
    fn unplug_is_over(&mut self, index: usize, outcome: &str) {
        let plugged = &mut self.interfaces[index];
        if let PlugState::Unplugging { step } = plugged.state {
            plugged.state = PlugState::Held;
            said(self.account.note(|tx, _| tx.done(step, outcome)));
        }
    }

    /// DEVICE_DELETED: the guest has let go of a NIC, asked or not.
    pub(super) fn unplugged(&mut self, id: &str) {
        let Some(index) = self.interfaces.iter().position(|plugged| plugged.interface.id == id) else {
            return;
        };
        let mac = self.interfaces[index].interface.mac;
        if self.interfaces[index].state == PlugState::Revoked {
            let gone = self.interfaces.remove(index);
            self.free_port(gone.interface.port.as_deref());
            info!("{mac}: the guest has let go of the revoked NIC");
            return;
        }
        let waiting =
            self.pending.take_if(|pending| matches!(pending, Pending::Detach { mac: of, .. } if *of == mac));
        let (requester, reply) = match waiting {
            Some(Pending::Detach { requester, reply, .. }) => (requester, Some(reply)),
            _ => (None, None),
        };
        let answer = self.release(index, false, requester);
        self.publish();
        match reply {
            Some(reply) => answered(reply.send(answer)),
            None => match answer {
                Ok(_) => info!("{mac}: the guest has let go of the NIC by itself; its devices are released"),
                Err(error) => warn!("{mac}: {error}"),
            },
        }
    }

    /// DEVICE_UNPLUG_GUEST_ERROR: the guest keeps the NIC.
    pub(super) fn unplug_refused(&mut self, id: &str) {
        let Some(index) = self.interfaces.iter().position(|plugged| plugged.interface.id == id) else {
            return;
        };
        let mac = self.interfaces[index].interface.mac;
        self.unplug_is_over(index, "refused");
        if let Some(Pending::Detach { requester, reply, .. }) =
            self.pending.take_if(|pending| matches!(pending, Pending::Detach { mac: of, .. } if *of == mac))
        {
            self.unplug_failed(mac, requester, Unanswered::Refused, reply);
        }
    }

    /// Posts a detach that did not happen, and answers who waits for it.
    pub(super) fn unplug_failed(
        &mut self,
        mac: MacAddr,
        requester: Option<Requester>,
        why: Unanswered,
        reply: Reply<InterfaceInfo>,
    ) {
        self.post_failed_detach(mac, requester);
        let failure = match why {
            Unanswered::TimedOut => Failure::TimedOut(format!(
                "The guest did not let go of {mac} in time, and holds it still: try again, or revoke its devices with --force"
            )),
            Unanswered::Refused => Failure::Failed(format!(
                "The guest refused to let go of {mac}, and holds it still: revoke its devices with --force"
            )),
            Unanswered::Stopping => {
                Failure::Refused(format!("The guest is being stopped; {mac} is released with it"))
            }
        };
        answered(reply.send(Err(failure)));
    }

    fn post_failed_detach(&mut self, mac: MacAddr, requester: Option<Requester>) {
        let event = Event::Detach { mac, vm_pid: Some(self.qemu.id.pid), fds: None, forced: false };
        let record = self.account.record(event, Outcome::Failed, requester);
        said(self.account.post(&[record], |_, _, _| Ok(())));
    }

    /// Takes an interface's devices from QEMU, looks that they are gone, and posts it.
    fn release(
        &mut self,
        index: usize,
        forced: bool,
        requester: Option<Requester>,
    ) -> Result<InterfaceInfo, Failure> {
        let mac = self.interfaces[index].interface.mac;
        let step = match self.interfaces[index].state {
            PlugState::Unplugging { step } => step,
            // Without a ledger nothing new is given; but what is to be taken is taken even so.
            _ => {
                match self.account.intend(Step::Release, Some(mac), if forced { "revoke" } else { "release" })
                {
                    Ok(step) => step,
                    Err(error) => return Err(Failure::Failed(crate::chain(&error))),
                }
            }
        };
        let netdev = netdev_id(&self.interfaces[index].interface.id);
        let refused = self.qemu.monitor.netdev_del(&netdev, ANSWER).err();
        let held = match handover::gone(&self.qemu.id, &self.interfaces[index].interface.devices) {
            Ok(held) => held,
            Err(error) => {
                warn!("{mac}: what QEMU holds can't be seen: {error}");
                vec![true; self.interfaces[index].interface.devices.len()]
            }
        };
        let plugged = &mut self.interfaces[index];
        let info = plugged.info();
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for (device, held) in std::mem::take(&mut plugged.interface.devices).into_iter().zip(held) {
            if held { kept.push(device) } else { gone.push(device) }
        }
        let outcome = if kept.is_empty() { Outcome::Success } else { Outcome::Failed };
        if kept.is_empty() {
            self.host.undo(mac, &mut plugged.interface.lasting);
        }
        let event = Event::Detach {
            mac,
            vm_pid: Some(self.qemu.id.pid),
            fds: u32::try_from(gone.len()).ok(),
            forced,
        };
        let last = self.account.record(event, outcome, requester);
        let posted = self.account.close(Vec::new(), &gone, vec![last], |tx, _, _| {
            tx.done(step, if outcome == Outcome::Success { "success" } else { "failed" })
        });
        if let Err(error) = posted {
            warn!("{}", crate::chain(&error));
            if error.is_unwritten() {
                self.owed.append(&mut gone);
            }
        }
        if !kept.is_empty() {
            let count = kept.len();
            plugged.interface.devices = kept;
            plugged.state = PlugState::Kept;
            let why = refused.map(|error| format!(": {}", crate::chain(&error))).unwrap_or_default();
            return Err(Failure::Failed(format!("QEMU still holds {count} devices of {mac}{why}")));
        }
        if forced {
            plugged.state = PlugState::Revoked;
            // The dead NIC may go when the guest lets it; nobody waits for that.
            let id = plugged.interface.id.clone();
            if let Err(error) = self.qemu.monitor.device_del(&id, ANSWER) {
                info!("{mac}: NIC stays plugged without its devices: {}", crate::chain(&error));
            }
        } else {
            let gone = self.interfaces.remove(index);
            self.free_port(gone.interface.port.as_deref());
        }
        info!("{mac}: '{}' released, {} devices closed", info.ifname, info.devices.len());
        Ok(info)
    }
}
