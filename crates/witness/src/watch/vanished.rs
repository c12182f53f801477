//! Descriptors that QEMU does not show any more: whether they are back, under another number, or
//! closed.

use jiff::SignedDuration;
use taptrail_bpf::FileState;
use taptrail_record::{CloseDoubt, DeviceKind};

use super::evidence::{Doubt, EndCheck};
use super::guest::{BACKOFF_FACTOR, GuestInstance, LookContext, MAX_LOOK_DELAY, Observation, Qemu};
use super::interfaces::ManagedInterface;
use super::known::{Absence, KnownDescriptor, Vanished};
use super::observe::{LinkId, ObservedDescriptor};

/// How far apart an end and its record may be for the end to count as seen in time.
pub(super) const IN_TIME_TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

impl GuestInstance {
    /// Recognizes descriptors under other numbers, at once or later: QEMU may duplicate a
    /// descriptor before it closes the known one.
    pub(super) fn match_moved(
        &mut self,
        gone: &mut Vec<KnownDescriptor>,
        unbound: &mut Vec<ObservedDescriptor>,
        now: LookContext,
        observations: &mut Vec<Observation>,
    ) {
        let mut back: Vec<KnownDescriptor> =
            gone.extract_if(.., |known| take_moved(known, unbound, observations)).collect();
        for mut vanished in std::mem::take(&mut self.vanished) {
            // `bind` decides whether a vhost-net is back.
            let may_be_back = !vanished.is_unidentified_vhost();
            let known = &mut vanished.known;
            let is = |observed: &ObservedDescriptor| !known.is_closed() && known.is(observed);
            let again = unbound.iter().position(is).filter(|_| may_be_back);
            let is_back = match again.map(|at| unbound.remove(at)) {
                Some(observed) => {
                    known.fds = observed.fds;
                    update_link(known, observed.link, observations);
                    true
                }
                None => take_moved(known, unbound, observations),
            };
            if !is_back {
                self.vanished.push(vanished);
                continue;
            }
            self.report_back(&vanished, now, observations);
            back.push(vanished.known);
        }
        self.held.append(&mut back);
    }

    /// Reports that a vanished descriptor is back if a record said that it was given up, and the
    /// watcher believed it.
    fn report_back(&self, vanished: &Vanished, now: LookContext, observations: &mut Vec<Observation>) {
        let Vanished { known, at, .. } = vanished;
        let is_its = |interface: &ManagedInterface| Some(interface.number) == known.interface;
        if now.time > *at && !self.interfaces.all.iter().any(is_its) {
            observations.push(Observation::StillHeld(known.descriptor.clone()));
        }
    }

    /// Ends the vanished descriptors that the kernel shows to be closed, and after some patience
    /// the others, with a doubt. `may_have_moved`: whether QEMU may have a vanished vhost-net under
    /// another number; then it waits.
    pub(super) fn settle_vanished(
        &mut self,
        may_have_moved: impl Fn(&Self, &Vanished) -> bool,
        now: LookContext,
        end: &mut EndCheck<'_>,
        observations: &mut Vec<Observation>,
    ) {
        for vanished in std::mem::take(&mut self.vanished) {
            let shown = match vanished.known.file {
                // Another process holds it. Its end is the last close, whichever process has it
                // then.
                FileState::Open { .. } => {
                    self.vanished.push(vanished);
                    continue;
                }
                FileState::Closed(_) | FileState::ClosedUnseen(_) => Ok(()),
                FileState::Unknown | FileState::Lost if vanished.absence == Absence::ByRecords => {
                    Err(CloseDoubt::Uncounted.into())
                }
                FileState::Unknown | FileState::Lost
                    if vanished.is_lost_vhost() && may_have_moved(self, &vanished) =>
                {
                    self.vanished.push(vanished);
                    continue;
                }
                FileState::Unknown | FileState::Lost => end(&vanished.known),
            };
            match shown {
                Err(_) if now.instant.duration_since(vanished.since) < now.patience => {
                    self.vanished.push(vanished);
                }
                shown => observations.push(vanished.observation(now, shown.err())),
            }
        }
    }

    /// Whether a vhost-net that waits for its records may be a vanished one. If it has an open
    /// record, it may only be that of an interface that still has its tap: others go with theirs.
    pub(super) fn may_be_unbound(&self, vanished: &Vanished) -> bool {
        let mut vhosts = self.unbound.iter().filter(|unbound| unbound.device.kind == DeviceKind::VhostNet);
        vhosts.any(|unbound| !unbound.is_opened || self.is_backed(&vanished.known))
    }

    /// Whether the interface that a descriptor serves still has its backend.
    fn is_backed(&self, of: &KnownDescriptor) -> bool {
        of.interface.is_some()
            && self.held.iter().any(|known| known.interface == of.interface && !known.is_vhost())
    }

    /// Checks the vanished descriptors again when QEMU can't be inspected any more.
    pub(super) fn look_for_vanished(
        &mut self,
        now: LookContext,
        end: &mut EndCheck<'_>,
        observations: &mut Vec<Observation>,
    ) {
        self.settle_vanished(Self::may_be_unbound, now, end, observations);
        if self.awaits_vanished() {
            self.due = now.instant + self.look_delay;
            self.look_delay = (self.look_delay * BACKOFF_FACTOR).min(MAX_LOOK_DELAY);
        } else if let (Qemu::Gone { .. }, Some(since)) = (&self.qemu, self.waiting_since) {
            // Until then its manager may record the reason.
            self.due = self.due.min(since + now.patience);
        }
    }

    /// Takes a vhost-net that no record explains for a vanished one: for that with its number, or
    /// for one whose interface still has its tap. Returns whether there is one. Otherwise it may be
    /// any of those that have vanished.
    pub(super) fn take_for_vanished(
        &mut self,
        observed: &ObservedDescriptor,
        now: LookContext,
        observations: &mut Vec<Observation>,
    ) -> bool {
        if observed.device.kind != DeviceKind::VhostNet {
            return false;
        }
        let find = |is: &dyn Fn(&KnownDescriptor) -> bool| {
            let may_be =
                |Vanished { known, .. }: &Vanished| known.is_vhost() && !known.is_closed() && is(known);
            self.vanished.iter().position(may_be)
        };
        let at = find(&|known| known.is(observed)).or_else(|| find(&|known| self.is_backed(known)));
        if let Some(at) = at {
            let mut vanished = self.vanished.remove(at);
            self.report_back(&vanished, now, observations);
            if !vanished.known.is(observed) {
                vanished.known.move_to(observed);
            }
            self.held.push(vanished.known);
            return true;
        }
        for vanished in self.vanished.extract_if(.., |vanished| vanished.is_lost_vhost()) {
            observations.push(vanished.observation(now, Some(CloseDoubt::Uncounted.into())));
        }
        false
    }

    /// Ends the vanished descriptors with the number and device of a new one: without an end, a
    /// reader of the records takes both for one.
    pub(super) fn end_same_vanished(
        &mut self,
        new: &KnownDescriptor,
        now: LookContext,
        observations: &mut Vec<Observation>,
    ) {
        let is_same = |vanished: &mut Vanished| {
            let before = &vanished.known.descriptor;
            before.fd == new.descriptor.fd && before.device == new.descriptor.device
        };
        for vanished in self.vanished.extract_if(.., is_same) {
            observations.push(vanished.observation(now, Some(CloseDoubt::Uncounted.into())));
        }
    }

    /// All known descriptors, whether QEMU shows them or not.
    pub(super) fn all_known(&mut self) -> impl Iterator<Item = &mut KnownDescriptor> {
        let vanished = self.vanished.iter_mut().map(|vanished| &mut vanished.known);
        self.held.iter_mut().chain(vanished)
    }

    /// Whether the kernel says that a vanished descriptor is still open in another process.
    pub(super) fn has_open_vanished(&self) -> bool {
        self.vanished.iter().any(|vanished| vanished.known.is_open())
    }

    /// Whether vanished descriptors must be checked again. Those that are open have their end
    /// reported by the kernel.
    pub(super) fn awaits_vanished(&self) -> bool {
        self.vanished.iter().any(|vanished| !vanished.known.is_open())
    }
}

impl Vanished {
    /// The observation of its end, now; with a doubt if the kernel does not show it.
    pub(super) fn observation(self, now: LookContext, doubt: Option<Doubt>) -> Observation {
        // If it took long to show its end, it ended at some time since it was last seen.
        let is_late = now.time.duration_since(self.at) > IN_TIME_TOLERANCE;
        let last_seen = if is_late { self.last_seen.or(self.all_seen_at) } else { self.last_seen };
        let KnownDescriptor { number, descriptor, file, .. } = self.known;
        let (at, last_seen) = match file {
            FileState::Closed(at) => (Some(at), None),
            FileState::ClosedUnseen(open) => (None, Some(open)),
            FileState::Unknown | FileState::Open { .. } | FileState::Lost => (None, last_seen),
        };
        Observation::Gone { number, descriptor, at, last_seen, doubt }
    }
}

/// Updates the place of the link behind a descriptor.
pub(super) fn update_link(
    known: &mut KnownDescriptor,
    link: Option<LinkId>,
    observations: &mut Vec<Observation>,
) {
    if let Some(link) = link.filter(|link| Some(*link) != known.link) {
        known.link = Some(link);
        observations.push(Observation::LinkMoved { number: known.number, link });
    }
}

/// Finds a known descriptor among the unbound ones under other numbers, and takes it from there.
fn take_moved(
    known: &mut KnownDescriptor,
    unbound: &mut Vec<ObservedDescriptor>,
    observations: &mut Vec<Observation>,
) -> bool {
    let at = unbound.iter().position(|observed| known.has_moved_to(observed));
    let Some(observed) = at.map(|at| unbound.remove(at)) else { return false };
    known.move_to(&observed);
    update_link(known, observed.link, observations);
    true
}
