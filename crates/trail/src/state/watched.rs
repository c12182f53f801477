//! Records of a watcher, which is not the guest's manager and records only the descriptors in QEMU.

use std::collections::hash_map;

use taptrail_record::{Descriptor, Event, GuestId, MacAddr, Outcome};

use crate::model::entry::RecordEntry;
use crate::output::{Output, device_name};
use crate::state::guest::{Guest, report_unmatched};
use crate::state::host::Host;
use crate::state::instances::GuestInstances;
use crate::state::open_holding::OpenHolding;
use crate::state::operation::{Operation, Phase};
use crate::{Certainty, EndedBy, FindingKind};

impl Host {
    pub(crate) fn apply_watcher_record(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        if entry.record.outcome != Outcome::Success {
            return;
        }
        let uuid = entry.record.guest.uuid;
        match &entry.record.event {
            Event::Seen(descriptor) => self.on_seen(entry, descriptor, out),
            Event::Gone(descriptor) => self.on_gone(entry, descriptor, out),
            Event::GuestGone { vm_pid } => {
                let Some(instances) = self.guests.get_mut(&uuid) else { return };
                let Some(guest) = instances.remove_running_as(*vm_pid) else { return };
                if instances.is_empty() {
                    self.guests.remove(&uuid);
                }
                self.forget_pid(guest.pid, uuid);
                self.gone.add(*vm_pid, &guest.id, entry.time);
                guest.on_stop(entry, out);
            }
            _ => {}
        }
        self.update_mac_index(entry, uuid, out);
    }

    fn on_seen(&mut self, entry: &RecordEntry<'_>, descriptor: &Descriptor, out: &mut Output) {
        let guest = &entry.record.guest;
        let held = match descriptor.mac {
            Some(mac) => {
                let pending_end = out.pending_releases.take_by_descriptor(&self.name, guest.uuid, descriptor);
                let instances = match self.guests.entry(guest.uuid) {
                    hash_map::Entry::Occupied(instances) => instances.into_mut(),
                    hash_map::Entry::Vacant(none) => none.insert(GuestInstances::default()),
                };
                let guest =
                    instances.get_or_add_running(entry, descriptor.vm_pid, pending_end.is_some(), out);
                guest.check_crash(entry);
                let before = guest.pid.replace(descriptor.vm_pid);
                (guest.running, guest.watched) = (true, true);
                match pending_end {
                    // A record shows its release, and QEMU still holds it.
                    Some(pending_end) => {
                        guest.on_held_after_release(entry, mac, pending_end.open_holding, out)
                    }
                    None => guest.on_descriptor_seen(entry, mac, descriptor, out),
                }
                guest.remove_ended(mac, &|| entry.proof(), out);
                guest.follow_run(entry, out);
                before
            }
            None => {
                let text = format!("{}, and no record grants it", holds_text(guest, descriptor));
                out.report(FindingKind::UnaccountedDevice, entry, text);
                return;
            }
        };
        if held != Some(descriptor.vm_pid) {
            self.forget_pid(held, guest.uuid);
            self.assign_pid(entry, descriptor.vm_pid, out);
        }
    }

    fn on_gone(&mut self, entry: &RecordEntry<'_>, descriptor: &Descriptor, out: &mut Output) {
        let Some(mac) = descriptor.mac else { return };
        let uuid = entry.record.guest.uuid;
        let guest = self.guests.get_mut(&uuid).and_then(|instances| instances.get_by_pid(descriptor.vm_pid));
        if let Some(guest) = guest
            && guest.pending_detach.as_ref().is_some_and(|pending_detach| pending_detach.mac == mac)
        {
            // This is the descriptor of the detached interface: no attach need be awaited.
            guest.settle_detach(out);
        }
        if let Some(mut pending_end) = out.pending_releases.take_by_descriptor(&self.name, uuid, descriptor) {
            pending_end.open_holding.close_descriptor(entry, descriptor);
            return out.end_or_defer(pending_end.open_holding, pending_end.cause, pending_end.at.as_ref());
        }
        let guest = self.guests.get_mut(&uuid).and_then(|instances| instances.get_by_pid(descriptor.vm_pid));
        let known = guest.is_some_and(|guest| guest.on_descriptor_gone(entry, mac, descriptor, out));
        if !known {
            report_unmatched(entry, out);
        }
        if let Some(instances) = self.guests.get_mut(&uuid)
            && instances.remove_idle()
        {
            self.guests.remove(&uuid);
        }
    }
}

impl Guest {
    /// A watcher saw that QEMU holds a granted device, or one more.
    fn on_descriptor_seen(
        &mut self,
        entry: &RecordEntry<'_>,
        mac: MacAddr,
        descriptor: &Descriptor,
        out: &mut Output,
    ) {
        let from_start = self.from_start;
        let detach_pending =
            self.pending_detach.as_ref().is_some_and(|one| one.mac == mac && !one.attach_failed);
        let interface = self.interface(mac, out);
        if let Some((operation, index)) = interface.find_seen(descriptor) {
            // The watcher records a descriptor again only if it should be gone.
            if detach_pending || interface.take_unresolved_detach().is_some() {
                let what = holds_text(&entry.record.guest, descriptor);
                let text = format!("{what}, although a record shows that {mac} released it");
                out.report(FindingKind::HeldAfterRelease, entry, text);
            }
            interface.operations[operation].open_holdings[index].add_proof(&entry.proof());
            self.pending_detach.take_if(|_| detach_pending);
            return;
        }
        let is_granted = |(operation, index): (usize, usize)| {
            interface.operations[operation].open_holdings[index].is_granted()
        };
        if detach_pending && !interface.find_unseen(descriptor).is_some_and(is_granted) {
            // It is another interface than the one that was unplugged.
            self.settle_detach(out);
        }
        let interface = self.interface(mac, out);
        if let Some((operation, index)) = interface.find_unseen(descriptor) {
            if interface.operations[operation].confirm_unrecorded(index, descriptor.vm_pid) {
                interface.operations[operation].open_holdings[0].add_descriptor(entry, descriptor);
                return self.settle_bare_grant_of(mac, descriptor.device.kind, out);
            }
            let Operation { phase, open_holdings, incident, .. } = &mut interface.operations[operation];
            if !open_holdings[index].is_granted() {
                *phase = Phase::Granted;
                let text = format!(
                    "{} for {mac}, and no record grants it",
                    holds_text(&entry.record.guest, descriptor)
                );
                out.in_attempt(incident, |out| out.report(FindingKind::AttachFailed, entry, text));
                open_holdings[index].grant(entry, Some(descriptor.vm_pid), Certainty::Definitive);
            }
            open_holdings[index].add_descriptor(entry, descriptor);
        } else {
            self.settle_bare_grant_of(mac, descriptor.device.kind, out);
            let interface = self.interface(mac, out);
            let open_holding = OpenHolding::from_descriptor(entry, mac, descriptor);
            match interface.operations.iter_mut().rev().find(|operation| operation.accepts_unrecorded()) {
                Some(operation) => operation.add_unrecorded(open_holding),
                None if from_start => {
                    let what = holds_text(&entry.record.guest, descriptor);
                    let text = format!("{what} for {mac}, and no record grants it");
                    out.report(FindingKind::UnaccountedDevice, entry, text);
                    interface.add(Operation::kept(open_holding), entry.time, out);
                }
                None => interface.add(Operation::from_before_trail(open_holding), entry.time, out),
            }
        }
    }

    /// A record shows its release, and a watcher saw that QEMU still holds it.
    fn on_held_after_release(
        &mut self,
        entry: &RecordEntry<'_>,
        mac: MacAddr,
        mut open_holding: OpenHolding,
        out: &mut Output,
    ) {
        open_holding.add_proof(&entry.proof());
        let (guest, device) = (&open_holding.holding.guest.name, device_name(&open_holding.holding.device));
        let text =
            format!("QEMU of guest '{guest}' holds {device}, although a record shows that {mac} released it");
        out.report(FindingKind::HeldAfterRelease, entry, text);
        self.interface(mac, out).add(Operation::kept(open_holding), entry.time, out);
    }

    /// A watcher saw that a descriptor is gone. Returns whether it was known.
    fn on_descriptor_gone(
        &mut self,
        entry: &RecordEntry<'_>,
        mac: MacAddr,
        descriptor: &Descriptor,
        out: &mut Output,
    ) -> bool {
        let Some(interface) = self.interfaces.get_mut(mac) else { return false };
        let found = interface.find_seen(descriptor).or_else(|| interface.find_unseen(descriptor));
        let Some((operation, index)) = found else { return false };
        let Operation { open_holdings, incident, .. } = &mut interface.operations[operation];
        open_holdings[index].close_descriptor(entry, descriptor);
        if !open_holdings[index].is_open() && !open_holdings[index].is_granted() {
            let closed = open_holdings.remove(index);
            out.in_attempt(incident, |out| out.end_or_defer(closed, EndedBy::Close, None));
        } else if let Some((cause, at)) = interface.take_unresolved_detach() {
            // Of several interfaces with this MAC, this one was unplugged.
            interface.operations.remove(operation).end(cause, Some(&at), out);
        }
        self.remove_ended(mac, &|| entry.proof(), out);
        true
    }
}

fn holds_text(guest: &GuestId, descriptor: &Descriptor) -> String {
    let (pid, device) = (descriptor.vm_pid, device_name(&descriptor.device));
    format!("QEMU of guest '{}' (process {pid}) holds {device}", guest.name)
}
