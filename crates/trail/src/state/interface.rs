//! One interface of a guest: the attempts and grants for one MAC, oldest first.

use jiff::Timestamp;
use taptrail_record::{Descriptor, Device, MacAddr};

use crate::output::{GuestRef, Output};
use crate::state::open_holding::OpenHolding;
use crate::state::operation::{GrantMethod, Operation, Phase};
use crate::{EndedBy, FindingKind, Proof};

/// How many attempts for one MAC may wait for their grant; the oldest beyond it count as given up.
const MAX_ATTEMPTS: usize = 64;
/// How many interfaces of one guest with one MAC are tracked: no QEMU has as many.
const MAX_SAME_MAC: usize = 256;

/// What one guest has for one MAC. Usually that is one operation, but a guest can have two
/// interfaces with one MAC.
#[derive(Debug, Default)]
pub(crate) struct Interface {
    pub(crate) operations: Vec<Operation>,
    /// How many of the operations with `perhaps_ended_at` have ended.
    ambiguous_releases: usize,
    /// Detaches of one of several interfaces; a watcher's records will show which one ended.
    unresolved_detaches: Vec<(EndedBy, Proof)>,
    /// The incident of several with this MAC being plugged in at once, while that lasts.
    duplicates: Option<u64>,
    /// How many were plugged in when the host's MAC index was last updated.
    pub(crate) indexed_count: usize,
}

impl Interface {
    /// The operation that an open belongs to: the newest, or a new one.
    pub(crate) fn current_operation(
        &mut self,
        now: Timestamp,
        accepts: impl Fn(&Operation) -> bool,
        out: &mut Output,
    ) -> &mut Operation {
        if !self.operations.last().is_some_and(accepts) {
            self.evict_oldest(now, out);
            if self.operations.is_empty() {
                self.operations.reserve_exact(1);
            }
            self.operations.push(Operation::new(Phase::Opening));
        }
        let newest = self.operations.len() - 1;
        &mut self.operations[newest]
    }

    /// Adds an operation that did not begin with an open.
    pub(crate) fn add(&mut self, operation: Operation, now: Timestamp, out: &mut Output) {
        self.evict_oldest(now, out);
        self.operations.push(operation);
    }

    /// Emits the oldest operations as they are, if there are more than any real guest has.
    fn evict_oldest(&mut self, now: Timestamp, out: &mut Output) {
        if self.operations.len() < MAX_ATTEMPTS {
            return;
        }
        let opening = |operation: &mut Operation| operation.phase == Phase::Opening;
        let attempts = self.operations.iter().filter(|operation| operation.phase == Phase::Opening).count();
        let surplus = (attempts + 1).saturating_sub(MAX_ATTEMPTS);
        for mut oldest in self.operations.extract_if(.., opening).take(surplus) {
            oldest.set_latest_end(now);
            oldest.end(EndedBy::Close, None, out);
        }
        let surplus = (self.operations.len() + 1).saturating_sub(MAX_SAME_MAC + MAX_ATTEMPTS);
        for mut oldest in self.operations.drain(..surplus) {
            oldest.perhaps_ended_at.get_or_insert(now);
            oldest.into_open_holdings().into_iter().for_each(|open_holding| out.emit_unclosed(open_holding));
        }
    }

    /// The operation that a grant or refusal is about. At a start all interfaces are opened first,
    /// and granted in the same order; a hot-plug is about the newest open.
    pub(crate) fn find_opening(&self, method: GrantMethod) -> Option<usize> {
        let opening = |operation: &Operation| operation.phase == Phase::Opening;
        match method {
            GrantMethod::Start => self.operations.iter().position(opening),
            GrantMethod::Attach => self.operations.iter().rposition(opening),
        }
    }

    /// If records of an attempt are missing, the grant or refusal of `operations[at]` may be
    /// another attempt's.
    pub(crate) fn doubt_other_attempts(&mut self, at: usize, time: Timestamp) {
        let opens = |operation: &Operation| operation.phase == Phase::Opening;
        if !self.operations.iter().any(|operation| opens(operation) && operation.may_lack_records()) {
            return;
        }
        let others = self.operations.iter_mut().enumerate().filter(|(other, _)| *other != at);
        others.filter(|(_, other)| opens(other)).for_each(|(_, other)| other.mark_records_lost(time));
    }

    /// The operations that a detach without a device may mean.
    fn detachable(&self) -> impl Fn(&Operation) -> bool + use<> {
        let plugged = self.operations.iter().any(Operation::is_plugged);
        move |operation| if plugged { operation.is_plugged() } else { operation.is_held() }
    }

    /// How many operations a detach may mean.
    pub(crate) fn count_detachable(&self) -> usize {
        let detachable = self.detachable();
        self.operations.iter().filter(|operation| detachable(operation)).count()
    }

    /// How many interfaces with this MAC are plugged in, as far as the records go.
    pub(crate) fn count_plugged(&self) -> usize {
        let plugged = self.operations.iter().filter(|operation| operation.is_plugged()).count();
        plugged.saturating_sub(self.ambiguous_releases + self.unresolved_detaches.len())
    }

    /// The same, without interfaces of whose end a record may be missing.
    pub(crate) fn count_certainly_plugged(&self) -> usize {
        let sure = |operation: &&Operation| operation.is_plugged() && !operation.may_lack_records();
        self.operations.iter().filter(sure).count().min(self.count_plugged())
    }

    /// QEMU gave up one interface, and no record names its devices.
    ///
    /// If it has several with this MAC, no record shows which. If all were seen in QEMU, the
    /// watcher's records will show it. Otherwise all stay held and *ambiguous*, until as many are
    /// given up as there are.
    pub(crate) fn release(
        &mut self,
        guest_ref: GuestRef<'_>,
        mac: MacAddr,
        cause: EndedBy,
        at: &Proof,
        out: &mut Output,
    ) {
        let detachable = self.detachable();
        let count = self.operations.iter().filter(|operation| detachable(operation)).count();
        if count == 0 {
            return;
        }
        let mut candidates = self.operations.iter().filter(|operation| detachable(operation));
        if self.ambiguous_releases == 0
            && self.unresolved_detaches.len() + 1 < count
            && candidates.all(Operation::is_seen_in_qemu)
        {
            return self.unresolved_detaches.push((cause, at.clone()));
        }
        if count > 1 && self.unresolved_detaches.len() + 1 < count {
            for operation in self.operations.iter_mut().filter(|operation| detachable(operation)) {
                operation.perhaps_ended_at.get_or_insert(at.time);
                operation.add_proof(at);
            }
            self.ambiguous_releases += 1;
            if self.ambiguous_releases < count {
                let left = count - self.ambiguous_releases;
                let text = format!(
                    "Guest '{}' gave up one of {count} interfaces with the MAC {mac}: no record shows which {left} it still has",
                    guest_ref.guest.name
                );
                return out.in_attempt(&mut self.duplicates, |out| {
                    out.report_for_guest(FindingKind::AmbiguousRelease, guest_ref, Some(mac), at, text);
                });
            }
        }
        self.ambiguous_releases = 0;
        self.unresolved_detaches.clear();
        for operation in self.operations.extract_if(.., |operation| detachable(operation)) {
            operation.end(cause, Some(at), out);
        }
    }

    /// The trail ends, and no watcher's record has shown which of several interfaces was given up.
    pub(crate) fn report_unresolved_detaches(
        &mut self,
        guest_ref: GuestRef<'_>,
        mac: MacAddr,
        out: &mut Output,
    ) {
        let unresolved_detaches = std::mem::take(&mut self.unresolved_detaches);
        let detachable = self.detachable();
        if unresolved_detaches.is_empty() {
            return;
        }
        let operations = self.operations.iter_mut().filter(|operation| detachable(operation));
        let since = unresolved_detaches.first().map_or(Timestamp::MAX, |(_, at)| at.time);
        operations.for_each(|operation| _ = operation.perhaps_ended_at.get_or_insert(since));
        for (_, at) in unresolved_detaches {
            let text = format!(
                "Guest '{}' gave up one of several interfaces with the MAC {mac}: no record shows which",
                guest_ref.guest.name
            );
            out.in_attempt(&mut self.duplicates, |out| {
                out.report_for_guest(FindingKind::AmbiguousRelease, guest_ref, Some(mac), &at, text);
            });
        }
    }

    /// Takes the oldest unresolved detach, for a descriptor that a watcher saw closed, or still
    /// open.
    pub(crate) fn take_unresolved_detach(&mut self) -> Option<(EndedBy, Proof)> {
        (!self.unresolved_detaches.is_empty()).then(|| self.unresolved_detaches.remove(0))
    }

    /// Ends the closed devices that wait for their cause, with this one.
    pub(crate) fn end_closed(&mut self, cause: EndedBy, at: Option<&Proof>, out: &mut Output) {
        for operation in &mut self.operations {
            operation.end_closed(cause, at, out);
        }
        self.remove_ended();
    }

    /// Removes ended operations. An end that names its device counts as one of the ambiguous
    /// releases.
    pub(crate) fn remove_ended(&mut self) {
        self.operations.retain(|operation| !operation.has_ended());
        self.unresolved_detaches.truncate(self.operations.len().saturating_sub(1));
        if self.ambiguous_releases > 0 {
            let doubtful =
                self.operations.iter().filter(|operation| operation.perhaps_ended_at.is_some()).count();
            self.ambiguous_releases = self.ambiguous_releases.min(doubtful.saturating_sub(1));
            if self.ambiguous_releases == 0 {
                self.operations.iter_mut().for_each(|operation| operation.perhaps_ended_at = None);
            }
        }
    }

    /// Updates the host's MAC index when the first interface was plugged in or the last has gone,
    /// and reports two at once.
    pub(crate) fn update_mac_index(
        &mut self,
        guest_ref: GuestRef<'_>,
        mac: MacAddr,
        at: &dyn Fn() -> Proof,
        out: &mut Output,
    ) {
        let plugged = self.count_plugged();
        match (self.indexed_count, plugged) {
            (0, 1..) => out.mac_changes.push((mac, true)),
            (1.., 0) => out.mac_changes.push((mac, false)),
            _ => {}
        }
        if plugged < 2 {
            self.duplicates = None;
        }
        if self.indexed_count < 2 && plugged >= 2 && self.count_certainly_plugged() >= 2 {
            let text = format!(
                "Guest '{}' has {plugged} interfaces with the MAC {mac} at once",
                guest_ref.guest.name
            );
            out.in_attempt(&mut self.duplicates, |out| {
                out.report_for_guest(FindingKind::DuplicateMac, guest_ref, Some(mac), &at(), text);
            });
        }
        self.indexed_count = plugged;
    }

    /// The operation and open holding that a record with a device means.
    pub(crate) fn find(&self, device: &Device, queue: Option<u32>) -> Option<(usize, usize)> {
        self.find_by(|open_holding| open_holding.record_rank(device, queue)).map(|(at, _)| at)
    }

    /// The first of the best matches; less is better.
    fn find_by<T: Ord>(&self, fits: impl Fn(&OpenHolding) -> Option<T>) -> Option<((usize, usize), T)> {
        let fits = |(at, open_holding): ((usize, usize), &OpenHolding)| Some((at, fits(open_holding)?));
        self.open_holdings().filter_map(fits).min_by(|(_, a), (_, b)| a.cmp(b))
    }

    fn open_holdings(&self) -> impl Iterator<Item = ((usize, usize), &OpenHolding)> {
        self.operations.iter().enumerate().flat_map(|(at, operation)| {
            operation
                .open_holdings
                .iter()
                .enumerate()
                .map(move |(index, open_holding)| ((at, index), open_holding))
        })
    }

    /// The operation and open holding of which this very descriptor was seen.
    pub(crate) fn find_seen(&self, descriptor: &Descriptor) -> Option<(usize, usize)> {
        self.find_by(|open_holding| open_holding.has_descriptor(descriptor).then_some(())).map(|(at, ())| at)
    }

    /// The operation and open holding of a descriptor that was not seen before.
    ///
    /// A recorded grant ranks before a mere open. Of several devices alike, the watcher sees the
    /// first descriptor of each before the next device's, so a further one is of the device seen
    /// last.
    pub(crate) fn find_unseen(&self, descriptor: &Descriptor) -> Option<(usize, usize)> {
        let first = descriptor.queue.unwrap_or(0) == 0;
        let continued = || {
            let fits = |open_holding: &OpenHolding| open_holding.accepts_descriptor(descriptor).then_some(());
            self.open_holdings()
                .filter(|(_, open_holding)| fits(open_holding).is_some())
                .last()
                .map(|(at, _)| at)
        };
        let begun = || {
            let held = |at: usize| matches!(self.operations[at].phase, Phase::Booted | Phase::Granted);
            let fits = |(at, open_holding): ((usize, usize), &OpenHolding)| {
                Some(((!held(at.0), open_holding.descriptor_rank(descriptor)?, at), at))
            };
            self.open_holdings().filter_map(fits).min_by_key(|(rank, _)| *rank).map(|(_, at)| at)
        };
        if first { begun().or_else(continued) } else { continued().or_else(begun) }
    }

    /// Adds the operations that were tracked for the same interface under another writer.
    pub(crate) fn merge(&mut self, other: Self) {
        self.operations.extend(other.operations);
        self.ambiguous_releases += other.ambiguous_releases;
        self.unresolved_detaches.extend(other.unresolved_detaches);
    }
}
