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

use super::attach::descriptor_name;
use super::start::netdev_id;
use super::{ANSWER, Driver, Pending, PlugState, REVOKE, Unanswered, answered, said};
use crate::account::Posting;
use crate::handover::{self, Counts, Release, Shown};
use crate::host_link::{HostLink, Sight};
use crate::request::{Failure, InterfaceInfo, Reply};

impl Driver {
    pub(super) fn detach(
        &mut self,
        mac: MacAddr,
        patience: Duration,
        requester: Option<Requester>,
        reply: Reply<InterfaceInfo>,
    ) {
        let Some(index) = self.holder(mac) else { return self.nothing_held(mac, reply) };
        if self.interfaces[index].state == PlugState::Kept {
            // There is no NIC to ask the guest for.
            return self.take(index, false, requester, reply);
        }
        match self.ask_to_unplug(index) {
            Ok(()) => {
                let id = self.interfaces[index].interface.id.clone();
                let deadline = Instant::now() + patience;
                self.pending = Some(Pending::Detach { id, deadline, requester, reply });
            }
            // The NIC is gone already, and with it whom to ask.
            Err(QmpError::Refused { class: ErrorClass::DeviceNotFound, .. }) => {
                self.interfaces[index].nic = false;
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

    pub(super) fn revoke(&mut self, mac: MacAddr, requester: Option<Requester>, reply: Reply<InterfaceInfo>) {
        match self.holder(mac) {
            Some(index) => self.take(index, true, requester, reply),
            None => self.nothing_held(mac, reply),
        }
    }

    /// Releases an interface now, and answers.
    fn take(
        &mut self,
        index: usize,
        forced: bool,
        requester: Option<Requester>,
        reply: Reply<InterfaceInfo>,
    ) {
        self.overtake(&self.interfaces[index].interface.id.clone());
        let answer = self.release(index, forced, requester);
        self.publish();
        answered(reply.send(answer));
    }

    fn nothing_held(&mut self, mac: MacAddr, reply: Reply<InterfaceInfo>) {
        let answer = self.ask_again(mac);
        self.publish();
        answered(reply.send(answer));
    }

    /// A MAC for which QEMU holds nothing: unknown, or revoked, and then its NIC is asked for again.
    fn ask_again(&mut self, mac: MacAddr) -> Result<InterfaceInfo, Failure> {
        let Some(index) = self.interfaces.iter().position(|plugged| plugged.interface.mac == mac) else {
            return Err(Failure::Refused(format!(
                "This guest has no interface {mac}: `taptrail nics` lists them"
            )));
        };
        let id = self.interfaces[index].interface.id.clone();
        match self.qemu.monitor.device_del(&id, ANSWER) {
            Err(QmpError::Refused { class: ErrorClass::DeviceNotFound, .. }) => {
                let info = self.interfaces[index].info();
                self.nic_is_gone(index);
                Ok(info)
            }
            _ => Err(Failure::Refused(format!(
                "The devices of {mac} are taken already; the guest was asked once more to let go of the NIC itself"
            ))),
        }
    }

    /// Ends a detach of this NIC that waits: a revocation does not.
    pub(super) fn overtake(&mut self, id: &str) {
        if let Some(Pending::Detach { requester, reply, .. }) =
            self.pending.take_if(|pending| pending.is_detach_of(id))
        {
            self.unplug_failed(id, requester, Unanswered::Revoked, reply);
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
            // What is to be taken is taken even without a ledger.
            match self.account.intend(Step::Release, Some(mac), "unplug") {
                Ok(step) => self.interfaces[index].state = PlugState::Unplugging { step: Some(step) },
                Err(error) => {
                    warn!("{}", crate::chain(&error));
                    self.interfaces[index].state = PlugState::Unplugging { step: None };
                }
            }
        }
        crash_point!("detach::intended");
        let asked = self.qemu.monitor.device_del(&id, ANSWER);
        crash_point!("detach::asked");
        match asked {
            // QEMU says so while an unplug it was asked for goes on.
            Err(QmpError::Refused { class: ErrorClass::Generic, .. }) if asked_before => Ok(()),
            Err(QmpError::Refused { class: ErrorClass::DeviceNotFound, command, desc }) => {
                // The step goes on with the release.
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

    /// An asked-for unplug will not happen: the interface is held as before.
    pub(super) fn unplug_is_over(&mut self, index: usize, outcome: &str) {
        let plugged = &mut self.interfaces[index];
        if let PlugState::Unplugging { step } = plugged.state {
            plugged.state = PlugState::Held;
            said(self.account.post(Posting::default().done(&step, outcome)));
        }
    }

    /// DEVICE_DELETED: the guest has let go of a NIC, asked or not.
    pub(super) fn unplugged(&mut self, id: &str) {
        let Some(index) = self.interfaces.iter().position(|plugged| plugged.interface.id == id) else {
            return;
        };
        // QEMU says it once the last reference is dropped, which may be after another NIC got the id.
        if self.qemu.monitor.netdev_id(id, ANSWER).is_ok() {
            return;
        }
        let mac = self.interfaces[index].interface.mac;
        self.interfaces[index].nic = false;
        match self.interfaces[index].state {
            PlugState::Revoked => {
                self.nic_is_gone(index);
                return info!("{mac}: the guest has let go of the revoked NIC");
            }
            // What QEMU keeps of it has nothing to do with the NIC.
            PlugState::Kept => return,
            PlugState::Held | PlugState::Unplugging { .. } => {}
        }
        let (requester, reply) = match self.pending.take_if(|pending| pending.is_detach_of(id)) {
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
        self.unplug_is_over(index, "refused");
        if let Some(Pending::Detach { requester, reply, .. }) =
            self.pending.take_if(|pending| pending.is_detach_of(id))
        {
            self.unplug_failed(id, requester, Unanswered::Refused, reply);
        }
    }

    /// Posts a detach that did not happen, and answers who waits for it.
    pub(super) fn unplug_failed(
        &mut self,
        id: &str,
        requester: Option<Requester>,
        why: Unanswered,
        reply: Reply<InterfaceInfo>,
    ) {
        let Some(plugged) = self.interfaces.iter().find(|plugged| plugged.interface.id == id) else { return };
        let mac = plugged.interface.mac;
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
            Unanswered::Revoked => {
                Failure::Refused(format!("The guest did not let go of {mac} before it was revoked"))
            }
        };
        answered(reply.send(Err(failure)));
    }

    fn post_failed_detach(&mut self, mac: MacAddr, requester: Option<Requester>) {
        let event = Event::Detach { mac, vm_pid: Some(self.qemu.id.pid), fds: None, forced: false };
        let record = self.account.record(event, Outcome::Failed, requester);
        said(self.account.post(Posting::default().says(record)));
    }

    /// Takes an interface's devices from QEMU, looks that they are gone, and posts it.
    pub(super) fn release(
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
                let detail = if forced { REVOKE } else { "release" };
                let step = self.account.intend(Step::Release, Some(mac), detail);
                step.inspect_err(|error| warn!("{}", crate::chain(error))).ok()
            }
        };
        crash_point!("release::intended");
        self.note_cut(index);
        let refused = self.let_go(index);
        crash_point!("release::let-go");
        let shown = self.look(index, true, handover::RELEASE_GRACE);
        let plugged = &mut self.interfaces[index];
        let mut info = plugged.info();
        let (kept, gone) = handover::part(std::mem::take(&mut plugged.interface.devices), shown);
        for (device, queue, doubt) in gone.iter().map(|gone| (&gone.device, gone.queue, gone.doubt)) {
            let released =
                info.devices.iter_mut().filter(|told| told.device == *device && told.queue == queue);
            released.for_each(|told| told.doubt = doubt);
        }
        let outcome = if kept.is_empty() { Outcome::Success } else { Outcome::Failed };
        // A revocation does not wait for QEMU: without its link a kept descriptor passes no frame. A link of others stays,
        // and with it its filter.
        let lasting = &mut plugged.interface.lasting;
        if kept.is_empty() || (forced && lasting.link.as_ref().is_some_and(HostLink::is_ours)) {
            self.host.undo(mac, lasting);
            lasting.cut |= !kept.is_empty() && lasting.link.is_none();
        }
        crash_point!("release::undone");
        let fds = u32::try_from(gone.len()).ok();
        let event = Event::Detach { mac, vm_pid: Some(self.qemu.id.pid), fds, forced };
        let last = self.account.record(event, outcome, requester);
        // A NIC that is plugged still has yet to go.
        let over = (kept.is_empty() && !plugged.nic).then_some(plugged.interface.key);
        let posting = Posting::default().closes(&self.account, &gone).says(last).over(over);
        said(self.account.post(posting.done(&step, outcome.as_str())));
        if !kept.is_empty() {
            let count = kept.len();
            plugged.interface.devices = kept;
            plugged.state = PlugState::Kept;
            let why = refused.map(|error| format!(": {}", crate::chain(&error))).unwrap_or_default();
            let cut = match plugged.interface.lasting.cut {
                true => "; their link is deleted, so that no frame passes by it",
                false => "",
            };
            return Err(Failure::Failed(format!(
                "QEMU still holds {count} of the devices of {mac}{why}{cut}"
            )));
        }
        info!("{mac}: '{}' released, {} closed", info.ifname, crate::descriptors(gone.len()));
        if plugged.nic {
            plugged.state = PlugState::Revoked;
            // The dead NIC may go when the guest lets it; nobody waits for that.
            let id = plugged.interface.id.clone();
            match self.qemu.monitor.device_del(&id, ANSWER) {
                Err(QmpError::Refused { class: ErrorClass::DeviceNotFound, .. }) => self.nic_is_gone(index),
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

    /// Notes whether an interface's link was deleted though its devices are held.
    pub(super) fn note_cut(&mut self, index: usize) {
        let lasting = &mut self.interfaces[index].interface.lasting;
        let gone = |link: &HostLink| matches!(self.host.find_link(link), Ok(Sight::Gone));
        lasting.cut |= lasting.link.as_ref().is_some_and(gone);
    }

    /// Looks what is shown of an interface's devices that QEMU should have given up; `asked` as in [`Release`].
    pub(super) fn look(&mut self, index: usize, asked: bool, grace: Duration) -> Vec<Shown> {
        let (before, rest) = self.interfaces.split_at(index);
        let Some((plugged, after)) = rest.split_first() else { return Vec::new() };
        let others: Vec<_> =
            before.iter().chain(after).flat_map(|other| other.interface.devices.clone()).collect();
        let release = Release {
            qemu: Some(&self.qemu.id),
            devices: &plugged.interface.devices,
            link: plugged.interface.lasting.link.as_ref(),
            link_shows: true,
            cut: plugged.interface.lasting.cut,
            asked,
            others: &others,
            grace,
        };
        release.look(&mut self.host, &mut Counts::default())
    }

    /// Has QEMU close an interface's devices; the reason why not, if it says one.
    fn let_go(&mut self, index: usize) -> Option<QmpError> {
        let plugged = &self.interfaces[index];
        let id = plugged.interface.id.clone();
        if plugged.state == PlugState::Kept {
            // Of a hand-over that failed half-way, some may still wait under their names.
            for number in 0..2 * usize::from(plugged.interface.spec.queues.get()) {
                match self.qemu.monitor.closefd(&descriptor_name(&id, number), ANSWER) {
                    Err(error) if error.leaves_outcome_open() => return Some(error),
                    _ => {}
                }
            }
        }
        self.qemu.monitor.netdev_del(&netdev_id(&id), ANSWER).err()
    }

    /// A revoked interface's NIC has gone, too.
    fn nic_is_gone(&mut self, index: usize) {
        let key = self.interfaces[index].interface.key;
        said(self.account.post(Posting::default().over([key])));
        self.remove(index);
    }

    /// Forgets an interface of which QEMU has nothing more.
    pub(super) fn remove(&mut self, index: usize) {
        let gone = self.interfaces.remove(index);
        self.free_port(gone.interface.port.as_deref());
    }
}
