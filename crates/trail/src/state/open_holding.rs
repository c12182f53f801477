use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::{Descriptor, Device, DeviceKind, MacAddr};

use crate::model::entry::RecordEntry;
use crate::state::kernel_opens::KernelEvidence;
use crate::state::queues::{OpenQueue, Queues};
use crate::{Certainty, Doubt, EndedBy, Holding, Proof, State};

/// A holding that has not ended: one device of one operation.
#[derive(Debug)]
pub(crate) struct OpenHolding {
    pub(crate) holding: Holding,
    /// The open(2)s not yet closed, by queue. libvirt's records name no queue.
    open: Queues,
    /// When the last closed one was closed.
    closed: Option<Timestamp>,
    /// How many of its descriptors were seen in QEMU: the watcher will record the close of each.
    seen_descriptors: u32,
    /// Whether QEMU got it and no record has given its number yet.
    pub(crate) number_pending: bool,
    /// Whether records of its grant or its end may be missing.
    records_lost: bool,
    /// Whether its hand-over is in progress: true if a ledger shows so, false if only the trail
    /// ends soon after the open.
    in_progress: Option<bool>,
    /// Why its grant is not certain, where that is known before its end.
    doubt: Option<Doubt>,
    /// When QEMU certainly did not have it any more, whether or not it ever had it.
    latest_end: Option<Timestamp>,
}

impl OpenHolding {
    /// A tap has no more queues (`MAX_TAP_QUEUES`, linux/if_tap.h and drivers/net/tun.c).
    const MAX_QUEUES: usize = 256;

    /// A device just opened.
    pub(crate) fn from_open(entry: &RecordEntry<'_>, opened: &RecordedOpen<'_>) -> Self {
        let mut holding = holding(entry, opened.mac, opened.device, State::NeverGranted, opened.kernel);
        holding.queues = match (opened.queue, opened.kernel) {
            (Some(_), _) => Some(1),
            (None, evidence) => evidence.map(|evidence| evidence.opens).filter(|opens| *opens > 0),
        };
        Self::new(holding, Queues::one(opened.queue))
    }

    fn new(holding: Holding, open: Queues) -> Self {
        Self {
            holding,
            open,
            closed: None,
            seen_descriptors: 0,
            number_pending: false,
            records_lost: false,
            in_progress: None,
            doubt: None,
            latest_end: None,
        }
    }

    /// What QEMU has for an interface that it got by this entry, where no record shows an open.
    ///
    /// `possible`: a device that its manager opened, as the kernel recorded, and that may be it.
    pub(crate) fn unrecorded(
        entry: &RecordEntry<'_>,
        mac: MacAddr,
        possible: Option<&(Device, Proof)>,
    ) -> Self {
        let device = possible.map_or_else(|| Device::new("?", None, None), |(device, _)| device.clone());
        let mut holding = holding(entry, mac, &device, State::NeverGranted, None);
        holding.opened = possible.map(|(_, opened)| opened.time);
        holding.proof.splice(..0, possible.map(|(_, opened)| opened.clone()));
        let mut open_holding = Self::new(holding, Queues::one(None));
        open_holding.doubt_grant(Doubt::DeviceUnknown);
        open_holding
    }

    /// Another device that its interface may have, as these records show.
    pub(crate) fn alternative(&self, path: &str, proof: Vec<Proof>) -> Self {
        let mut holding = self.holding.clone();
        (holding.device, holding.opened, holding.proof) = (Device::new(path, None, None), None, proof);
        let mut open_holding = Self::new(holding, Queues::one(None));
        open_holding.doubt_grant(Doubt::DeviceUnknown);
        open_holding
    }

    /// Whether no record shows that it is its interface's.
    pub(crate) fn is_unrecorded(&self) -> bool {
        self.doubt == Some(Doubt::DeviceUnknown) && !self.is_granted()
    }

    /// A device that a guest has had since before the trail begins: only its interface is known.
    pub(crate) fn from_before_trail(entry: &RecordEntry<'_>, mac: MacAddr) -> Self {
        let mut holding = holding(entry, mac, &Device::new("?", None, None), State::Held, None);
        (holding.queues, holding.opened, holding.certainty) = (None, None, Certainty::Inferred);
        Self::new(holding, Queues::one(None))
    }

    /// A device that QEMU was seen to hold, and no record shows its grant.
    pub(crate) fn from_descriptor(entry: &RecordEntry<'_>, mac: MacAddr, descriptor: &Descriptor) -> Self {
        let mut holding = holding(entry, mac, &descriptor.device, State::Held, None);
        (holding.queues, holding.opened) = (None, None);
        let mut open_holding = Self::new(holding, Queues::none());
        open_holding.add_descriptor(entry, descriptor);
        open_holding
    }

    /// Whether an open(2) of it is not closed.
    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether QEMU got it.
    pub(crate) fn is_granted(&self) -> bool {
        self.holding.state == State::Held
    }

    /// Whether QEMU got it, and an open(2) of it is not closed.
    pub(crate) fn is_held(&self) -> bool {
        self.is_granted() && self.is_open()
    }

    /// Whether its writer names queues, and so will record the close of each.
    pub(crate) fn expects_closes(&self) -> bool {
        self.open.iter().any(|open| open.queue.is_some())
    }

    /// Whether another open can't be of the same operation: an interface has one backend, and opens
    /// none of its queues twice.
    pub(crate) fn excludes(&self, device: &Device, queue: Option<u32>) -> bool {
        let again = self.is_open_of(&device.path, queue);
        let backend = self.is_backend() && device.kind != DeviceKind::VhostNet;
        !self.accepts_queue(device, queue) && (again || backend || self.open.len() >= Self::MAX_QUEUES)
    }

    /// Whether it is the interface's backend, and not the vhost-net beside it. An interface has
    /// one.
    fn is_backend(&self) -> bool {
        self.holding.device.kind != DeviceKind::VhostNet
    }

    /// Whether an open is of another queue of the same device.
    pub(crate) fn accepts_queue(&self, device: &Device, queue: Option<u32>) -> bool {
        queue.is_some()
            && self.open.len() < Self::MAX_QUEUES
            && !self.open.contains(queue)
            && self.open.iter().all(|open| open.queue.is_some())
            && is_same_device(&self.holding.device, device)
    }

    pub(crate) fn add_queue(&mut self, entry: &RecordEntry<'_>, opened: &RecordedOpen<'_>) {
        self.open.push(opened.queue);
        self.holding.queues = self.holding.queues.map(|queues| queues + 1);
        if let Some(evidence) = opened.kernel {
            evidence.proof.iter().for_each(|proof| self.add_proof(proof));
        }
        self.add_proof(&entry.proof());
    }

    /// Adds the kernel's event of its open, which was read after its record.
    pub(crate) fn add_kernel_event(&mut self, evidence: KernelEvidence) {
        if let Some(device) = evidence.device {
            self.holding.device = device;
        }
        evidence.proof.iter().for_each(|proof| self.add_proof(proof));
    }

    /// The count of the kernel's events turned out to be uncertain.
    pub(crate) fn clear_queue_count(&mut self) {
        self.holding.queues = None;
    }

    pub(crate) fn is_open_of(&self, path: &str, queue: Option<u32>) -> bool {
        self.holding.device.path == path && self.open.contains(queue)
    }

    /// How well it matches a record with this device and queue; less is better.
    pub(crate) fn record_rank(&self, device: &Device, queue: Option<u32>) -> Option<u8> {
        let exact = self.holding.device == *device;
        let queue = if self.open.contains(queue) {
            0
        } else if queue.is_none() && self.is_open() {
            2
        } else {
            return None;
        };
        (exact || is_same_device(&self.holding.device, device)).then_some(queue + u8::from(!exact))
    }

    /// Whether its descriptors were seen in QEMU.
    pub(crate) fn is_seen_in_qemu(&self) -> bool {
        self.seen_descriptors > 0
    }

    /// Whether this very descriptor of it was seen and is not closed.
    pub(crate) fn has_descriptor(&self, descriptor: &Descriptor) -> bool {
        self.open.has_fd(descriptor.fd)
            && self.holding.pid == Some(descriptor.vm_pid)
            && self.holding.device.kind == descriptor.device.kind
            && equal_or_unknown(&self.holding.device.dev, &descriptor.device.dev)
    }

    /// Whether a descriptor is a further one of the same device, of which others were seen.
    pub(crate) fn accepts_descriptor(&self, descriptor: &Descriptor) -> bool {
        self.is_seen_in_qemu()
            && self.open.len() < Self::MAX_QUEUES
            && self.holding.pid == Some(descriptor.vm_pid)
            && is_same_device(&self.holding.device, &descriptor.device)
    }

    /// How well a recorded device that was not seen yet matches a descriptor; less is better.
    pub(crate) fn descriptor_rank(&self, descriptor: &Descriptor) -> Option<u8> {
        let (recorded, seen) = (&self.holding.device, &descriptor.device);
        if self.is_seen_in_qemu() || !self.is_open() || !equal_or_unknown(&recorded.dev, &seen.dev) {
            return None;
        }
        match recorded.kind {
            // libvirt names it by its interface.
            DeviceKind::Macvtap if recorded.rdev.is_none() && !recorded.path.starts_with('/') => {
                let named = seen.dev.as_ref() == Some(&recorded.path);
                (named || (seen.dev.is_none() && seen.kind == recorded.kind)).then_some(u8::from(!named))
            }
            _ if is_same_device(recorded, seen) => Some(0),
            DeviceKind::Tun | DeviceKind::VhostNet => (recorded.kind == seen.kind).then_some(1),
            DeviceKind::Macvtap | DeviceKind::VhostVdpa | DeviceKind::VhostUser | DeviceKind::Unknown => None,
        }
    }

    /// A watcher saw a descriptor of it in QEMU.
    pub(crate) fn add_descriptor(&mut self, entry: &RecordEntry<'_>, descriptor: &Descriptor) {
        self.holding.device = descriptor.device.clone();
        self.holding.pid = Some(descriptor.vm_pid);
        self.open.add_seen(OpenQueue { queue: descriptor.queue, fd: Some(descriptor.fd) });
        self.seen_descriptors += 1;
        self.holding.queues = self.holding.queues.max(Some(self.seen_descriptors));
        if self.holding.certainty == Certainty::Inferred {
            self.holding.certainty = Certainty::Definitive;
        }
        self.number_pending &= self.holding.device.rdev.is_none();
        self.add_proof(&entry.proof());
    }

    /// A watcher saw that QEMU closed a descriptor of it.
    pub(crate) fn close_descriptor(&mut self, entry: &RecordEntry<'_>, descriptor: &Descriptor) {
        // It was recorded and not seen, so this was its descriptor.
        if !self.is_seen_in_qemu() {
            self.add_descriptor(entry, descriptor);
        }
        self.open.take_fd(descriptor.fd);
        self.closed = Some(entry.time);
        self.apply_close_limits(entry);
        self.add_proof(&entry.proof());
    }

    /// QEMU got it.
    pub(crate) fn grant(&mut self, entry: &RecordEntry<'_>, pid: Option<u32>, certainty: Certainty) {
        self.holding.granted = Some(entry.time);
        self.holding.pid = pid;
        self.holding.state = State::Held;
        self.holding.certainty = certainty;
        self.add_proof(&entry.proof());
    }

    /// QEMU got it by this record, which a watcher has shown to mean this device.
    pub(crate) fn grant_unrecorded(&mut self, grant: &Proof, pid: Option<u32>) {
        self.holding.granted = Some(grant.time);
        self.holding.pid = pid;
        self.holding.state = State::Held;
        self.doubt = None;
        self.add_proof(grant);
        self.holding.proof.sort_by_key(Proof::order);
    }

    /// The record of its grant was wrong.
    pub(crate) fn withdraw_grant(&mut self) {
        self.holding.granted = None;
        self.holding.pid = None;
        self.holding.state = State::NeverGranted;
    }

    /// One of its open(2)s was closed; with the last of them it ends.
    pub(crate) fn close(&mut self, entry: &RecordEntry<'_>, queue: Option<u32>) {
        self.open.take(queue);
        self.closed = Some(entry.time);
        self.apply_close_limits(entry);
        self.add_proof(&entry.proof());
    }

    /// Takes over what a close record says about itself: when the device was last seen open, and a
    /// doubt.
    fn apply_close_limits(&mut self, entry: &RecordEntry<'_>) {
        let at = entry.record.last_seen.and_then(|time| i64::try_from(time).ok());
        self.holding.last_seen = at.and_then(|time| Timestamp::from_millisecond(time).ok());
        if let Some(doubt) = entry.record.doubt {
            // The worst of all queues: the variants are in that order.
            let known = self.holding.end_doubt.get_or_insert(doubt);
            *known = doubt.min(*known);
            self.weaken_to_inferred();
        }
    }

    /// A part of it is not in any record.
    pub(crate) fn weaken_to_inferred(&mut self) {
        if self.holding.certainty == Certainty::Definitive {
            self.holding.certainty = Certainty::Inferred;
        }
    }

    /// Splits one queue from the others.
    pub(crate) fn split(&mut self, queue: Option<u32>) -> Self {
        let queue = self.open.take(queue).and_then(|open| open.queue);
        // libvirt's one record may stand for several queues.
        let all = queue.is_none() && self.open.is_empty() && self.closed.is_none();
        let queues = if all { self.holding.queues } else { Some(1) };
        self.holding.queues = self.holding.queues.zip(queues).map(|(all, taken)| all - taken);
        let mut holding = self.holding.clone();
        holding.queues = queues;
        Self::new(holding, Queues::one(queue))
    }

    /// Whether [`split`](Self::split) left nothing of it.
    pub(crate) fn is_empty_after_split(&self) -> bool {
        !self.is_open()
            && self.closed.is_none_or(|_| self.holding.queues == Some(0))
            && self.holding.queues.is_none_or(|left| left == 0)
    }

    /// Merges another part of the same device back in.
    pub(crate) fn merge(&mut self, other: Self) {
        self.holding.queues = self.holding.queues.zip(other.holding.queues).map(|(one, more)| one + more);
        self.open.extend(other.open);
        for proof in other.holding.proof {
            self.add_proof(&proof);
        }
    }

    pub(crate) fn add_proof(&mut self, proof: &Proof) {
        proof.clone().add_to(&mut self.holding.proof);
    }

    pub(crate) fn set_certainty(&mut self, certainty: Certainty) {
        self.holding.certainty = certainty;
    }

    /// Records from `since` on may be missing: its grant or its end may be among them.
    pub(crate) fn mark_records_lost(&mut self, since: Timestamp) {
        self.records_lost = true;
        self.set_uncertain_since(since);
    }

    /// It is not certain from `time` on that QEMU holds it.
    pub(crate) fn set_uncertain_since(&mut self, time: Timestamp) {
        let before = self.holding.uncertain_since;
        self.holding.uncertain_since = Some(before.map_or(time, |before| before.min(time)));
    }

    /// Its end was not seen: at `last_seen` it had not ended.
    pub(crate) fn set_last_seen(&mut self, last_seen: Option<Timestamp>) {
        let granted = self.holding.granted;
        self.holding.last_seen = self.holding.last_seen.or(last_seen.max(granted));
    }

    /// Its hand-over is in progress: `by_ledger` if a ledger shows so, otherwise as far as the
    /// trail goes.
    pub(crate) fn set_in_progress(&mut self, by_ledger: bool) {
        self.in_progress = Some(by_ledger);
        self.doubt_grant(Doubt::TrailEnds);
    }

    /// It is not certain whether QEMU got it, for this reason.
    pub(crate) fn doubt_grant(&mut self, why: Doubt) {
        self.doubt.get_or_insert(why);
    }

    /// QEMU does not have it any more at `time`, whether or not it ever had it.
    pub(crate) fn set_latest_end(&mut self, time: Timestamp) {
        self.latest_end.get_or_insert(time);
    }

    /// Emits it as it is, without an end.
    pub(crate) fn into_unended(mut self) -> Holding {
        self.resolve_doubts(false);
        self.holding
    }

    /// Sets its state, certainty and possible times by what the records leave open.
    fn resolve_doubts(&mut self, closed: bool) {
        let holding = &mut self.holding;
        let mut doubt = self.doubt;
        match holding.state {
            State::NeverGranted if closed || holding.certainty == Certainty::Doubtful => {}
            State::NeverGranted if self.records_lost => {
                doubt = doubt.filter(|why| *why == Doubt::DeviceUnknown).or(Some(Doubt::RecordsLost));
                (holding.state, holding.certainty) = (State::Unknown, Certainty::Incomplete);
            }
            State::NeverGranted if let Some(by_ledger) = self.in_progress => {
                holding.state = State::Opening;
                holding.certainty = if by_ledger { Certainty::Definitive } else { Certainty::Incomplete };
            }
            State::NeverGranted => {
                let unknown =
                    [Doubt::NoGrantsRecorded, Doubt::TrailEnds, Doubt::RecordsLost, Doubt::DeviceUnknown];
                if doubt.is_some_and(|doubt| unknown.contains(&doubt)) {
                    (holding.state, holding.certainty) = (State::Unknown, Certainty::Incomplete);
                }
            }
            State::Held | State::Released => {
                doubt = None;
                if holding.certainty == Certainty::Ambiguous {
                    doubt = Some(Doubt::Ambiguous);
                }
                if self.records_lost {
                    doubt = Some(Doubt::RecordsLost);
                    holding.certainty = Certainty::Incomplete;
                }
            }
            State::OpenFailed | State::Opening | State::Unknown => {}
        }
        holding.fill_possibly_held(doubt, self.latest_end.or(self.closed));
    }

    /// Ends it: by its own close records, otherwise by the record `at` of its interface or guest.
    pub(crate) fn end(mut self, cause: EndedBy, at: Option<&Proof>) -> Holding {
        if let Some(at) = at {
            self.add_proof(at);
            self.set_latest_end(at.time);
        }
        let closed = !self.is_open();
        let holding = &mut self.holding;
        holding.ended_by = match (closed, cause) {
            // Its close came before the guest or host started again, so that did not cause it.
            (true, EndedBy::Restart | EndedBy::Reboot | EndedBy::PidReused) => Some(EndedBy::Close),
            (true, _) if holding.state != State::Held => Some(EndedBy::Close),
            (true, cause) => Some(cause),
            (false, _) if holding.state != State::Held => None,
            (false, cause) => Some(cause),
        };
        if !closed && holding.certainty == Certainty::Definitive {
            holding.certainty = Certainty::Inferred;
        }
        if closed {
            holding.released = self.closed;
        }
        if holding.state == State::Held {
            holding.state = State::Released;
            holding.released = holding.released.or(at.map(|at| at.time));
        }
        self.resolve_doubts(closed);
        self.holding
    }
}

/// One open(2), as a record shows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordedOpen<'a> {
    pub(crate) mac: MacAddr,
    pub(crate) device: &'a Device,
    pub(crate) queue: Option<u32>,
    /// The kernel's own events of it, where audit rules have the kernel record them.
    pub(crate) kernel: Option<&'a KernelEvidence>,
}

impl RecordedOpen<'_> {
    /// Whether two records may mean one open: libvirt records a vhost-net that it could not open as
    /// failed and as successful. Two records of a backend are two attempts.
    pub(crate) fn may_be_recorded_twice(&self) -> bool {
        self.queue.is_none() && matches!(self.device.kind, DeviceKind::VhostNet | DeviceKind::Unknown)
    }
}

/// The holding of a failed open(2), which has ended at once.
pub(crate) fn failed_open(entry: &RecordEntry<'_>, opened: &RecordedOpen<'_>) -> Holding {
    let holding = holding(entry, opened.mac, opened.device, State::OpenFailed, opened.kernel);
    Holding { queues: opened.queue.map(|_| 1), ..holding }
}

fn holding(
    entry: &RecordEntry<'_>,
    mac: MacAddr,
    device: &Device,
    state: State,
    kernel: Option<&KernelEvidence>,
) -> Holding {
    // Most have the records of an open, a grant and an end.
    let mut proof = Vec::with_capacity(3);
    proof.extend(kernel.into_iter().flat_map(|evidence| evidence.proof.iter().cloned()));
    proof.push(entry.proof());
    Holding {
        host: Arc::clone(&entry.host),
        guest: entry.record.guest.clone(),
        mac,
        device: kernel.and_then(|evidence| evidence.device.as_ref()).unwrap_or(device).clone(),
        // libvirt writes one record for all queues.
        queues: None,
        opened: Some(entry.time),
        granted: None,
        released: None,
        last_seen: None,
        end_doubt: None,
        uncertain_since: None,
        possibly_held: Vec::new(),
        state,
        ended_by: None,
        certainty: Certainty::Definitive,
        pid: None,
        proof,
    }
}

fn equal_or_unknown<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
    a.is_none() || b.is_none() || a == b
}

/// Whether two records mean one device. A field that one of them lacks does not distinguish them.
fn is_same_device(a: &Device, b: &Device) -> bool {
    a.path == b.path && equal_or_unknown(&a.rdev, &b.rdev) && equal_or_unknown(&a.dev, &b.dev)
}
