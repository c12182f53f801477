//! What a watcher saw of a guest: it is not the guest's manager, and speaks of descriptors alone.

use std::collections::hash_map;

use taptrail_record::{Descriptor, Event, GuestId, MacAddr, Outcome};

use crate::model::entry::Claim;
use crate::output::{Out, named};
use crate::state::guest::{Guest, unmatched};
use crate::state::host::Host;
use crate::state::instances::Lives;
use crate::state::open_holding::Draft;
use crate::state::operation::{Operation, Phase};
use crate::{Certainty, EndedBy, FindingKind};

impl Host {
    pub(crate) fn watched(&mut self, entry: &Claim<'_>, out: &mut Out) {
        if entry.record.outcome != Outcome::Success {
            return;
        }
        let uuid = entry.record.guest.uuid;
        match &entry.record.event {
            Event::Seen(descriptor) => self.seen(entry, descriptor, out),
            Event::Gone(descriptor) => self.gone(entry, descriptor, out),
            Event::GuestGone { vm_pid } => {
                let Some(lives) = self.guests.get_mut(&uuid) else { return };
                let Some(guest) = lives.remove_of(*vm_pid) else { return };
                if lives.is_empty() {
                    self.guests.remove(&uuid);
                }
                self.forget_pid(guest.pid, uuid);
                guest.stopped(entry, out);
            }
            _ => {}
        }
        self.index(entry, uuid, out);
    }

    fn seen(&mut self, entry: &Claim<'_>, descriptor: &Descriptor, out: &mut Out) {
        let guest = &entry.record.guest;
        let held = match descriptor.mac {
            Some(mac) => {
                let late = out.late.take(&self.name, guest.uuid, descriptor);
                let lives = match self.guests.entry(guest.uuid) {
                    hash_map::Entry::Occupied(lives) => lives.into_mut(),
                    hash_map::Entry::Vacant(none) => none.insert(Lives::default()),
                };
                let guest = lives.seen(entry, descriptor.vm_pid, late.is_some(), out);
                let before = guest.pid.replace(descriptor.vm_pid);
                (guest.running, guest.watched) = (true, true);
                match late {
                    // It is told to be given up, and is not.
                    Some(ending) => guest.still_held(entry, mac, ending.draft, out),
                    None => guest.sighted(entry, mac, descriptor, out),
                }
                guest.tidy(mac, &|| entry.proof(), out);
                before
            }
            None => {
                let text = format!("{}, and no record grants it", holds(guest, descriptor));
                return out.say(FindingKind::UnaccountedDevice, entry, text);
            }
        };
        if held != Some(descriptor.vm_pid) {
            self.forget_pid(held, guest.uuid);
            self.has_pid(entry, descriptor.vm_pid, out);
        }
    }

    fn gone(&mut self, entry: &Claim<'_>, descriptor: &Descriptor, out: &mut Out) {
        let Some(mac) = descriptor.mac else { return };
        let uuid = entry.record.guest.uuid;
        let guest = self.guests.get_mut(&uuid).and_then(|lives| lives.of_pid(descriptor.vm_pid));
        if let Some(guest) = guest
            && guest.unplugged.as_ref().is_some_and(|unplugged| unplugged.mac == mac)
        {
            // Nothing more is to be waited for: this is what it gave up.
            guest.settle_unplugged(out);
        }
        if let Some(mut ending) = out.late.take(&self.name, uuid, descriptor) {
            ending.draft.close_seen(entry, descriptor);
            return out.end(ending.draft, ending.cause, ending.at.as_ref());
        }
        let guest = self.guests.get_mut(&uuid).and_then(|lives| lives.of_pid(descriptor.vm_pid));
        let known = guest.is_some_and(|guest| guest.gone(entry, mac, descriptor, out));
        if !known {
            unmatched(entry, out);
        }
        if let Some(lives) = self.guests.get_mut(&uuid)
            && lives.forget_idle()
        {
            self.guests.remove(&uuid);
        }
    }
}

impl Guest {
    /// QEMU was seen to hold what one of its interfaces is told to have been given, or more.
    fn sighted(&mut self, entry: &Claim<'_>, mac: MacAddr, descriptor: &Descriptor, out: &mut Out) {
        let from_start = self.from_start;
        let unplugged = self.unplugged.as_ref().is_some_and(|one| one.mac == mac && !one.refused);
        let interface = self.interface(mac, out);
        if let Some((operation, draft)) = interface.find_seen(descriptor) {
            // Who has seen it before says so again only because it should be gone.
            if unplugged || interface.take_detached().is_some() {
                let what = holds(&entry.record.guest, descriptor);
                let text = format!("{what}, although a record shows that {mac} released it");
                out.say(FindingKind::HeldAfterRelease, entry, text);
            }
            interface.operations[operation].drafts[draft].prove(&entry.proof());
            self.unplugged.take_if(|_| unplugged);
            return;
        }
        let is_granted =
            |(operation, draft): (usize, usize)| interface.operations[operation].drafts[draft].is_granted();
        if unplugged && !interface.find_unseen(descriptor).is_some_and(is_granted) {
            // It is another than the one that was unplugged.
            self.settle_unplugged(out);
        }
        let interface = self.interface(mac, out);
        if let Some((operation, draft)) = interface.find_unseen(descriptor) {
            let Operation { phase, drafts, .. } = &mut interface.operations[operation];
            if !drafts[draft].is_granted() {
                *phase = Phase::Granted;
                let text =
                    format!("{} for {mac}, and no record grants it", holds(&entry.record.guest, descriptor));
                out.say(FindingKind::AttachFailed, entry, text);
                drafts[draft].grant(entry, Some(descriptor.vm_pid), Certainty::Definitive);
            }
            drafts[draft].see(entry, descriptor);
        } else {
            self.confirm_bare(mac, out);
            let interface = self.interface(mac, out);
            let draft = Draft::sighted(entry, mac, descriptor);
            match interface.operations.iter_mut().rev().find(|operation| operation.takes_sighted()) {
                Some(operation) => operation.sighted(draft),
                None if from_start => {
                    let what = holds(&entry.record.guest, descriptor);
                    let text = format!("{what} for {mac}, and no record grants it");
                    out.say(FindingKind::UnaccountedDevice, entry, text);
                    interface.add(Operation::kept(draft), entry.time, out);
                }
                None => interface.add(Operation::from_before(draft), entry.time, out),
            }
        }
    }

    /// It was told to be given up, and QEMU is seen to hold it.
    fn still_held(&mut self, entry: &Claim<'_>, mac: MacAddr, mut draft: Draft, out: &mut Out) {
        draft.prove(&entry.proof());
        let (guest, device) = (&draft.holding.guest.name, named(&draft.holding.device));
        let text =
            format!("QEMU of guest '{guest}' holds {device}, although a record shows that {mac} released it");
        out.say(FindingKind::HeldAfterRelease, entry, text);
        self.interface(mac, out).add(Operation::kept(draft), entry.time, out);
    }

    /// One of its descriptors is gone. Whether it was known.
    fn gone(&mut self, entry: &Claim<'_>, mac: MacAddr, descriptor: &Descriptor, out: &mut Out) -> bool {
        let Some(interface) = self.interfaces.get_mut(mac) else { return false };
        let found = interface.find_seen(descriptor).or_else(|| interface.find_unseen(descriptor));
        let Some((operation, draft)) = found else { return false };
        let drafts = &mut interface.operations[operation].drafts;
        drafts[draft].close_seen(entry, descriptor);
        if !drafts[draft].is_open() && !drafts[draft].is_granted() {
            out.end(drafts.remove(draft), EndedBy::Close, None);
        } else if let Some((cause, at)) = interface.take_detached() {
            // Of several with this MAC it is this one that was unplugged.
            interface.operations.remove(operation).end(cause, Some(&at), out);
        }
        self.tidy(mac, &|| entry.proof(), out);
        true
    }
}

fn holds(guest: &GuestId, descriptor: &Descriptor) -> String {
    let (pid, device) = (descriptor.vm_pid, named(&descriptor.device));
    format!("QEMU of guest '{}' (process {pid}) holds {device}", guest.name)
}
