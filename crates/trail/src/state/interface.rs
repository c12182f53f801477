//! One interface of a guest: what was tried and given for one MAC, oldest first.

use jiff::Timestamp;
use taptrail_record::{Descriptor, Device, MacAddr};

use crate::output::{Out, Whose};
use crate::state::guest::By;
use crate::state::open_holding::Draft;
use crate::state::operation::{Operation, Phase};
use crate::{EndedBy, FindingKind, Proof};

/// The tries of one MAC that may wait for their grant; older ones were given up without a word.
const MOST_TRIES: usize = 64;
/// How many interfaces of one guest with one MAC are followed: no QEMU has as many.
const MOST_ALIKE: usize = 256;

/// What one guest has, or is to have, by one MAC. Most often that is one operation; a guest can have
/// two interfaces with one MAC.
#[derive(Debug, Default)]
pub(crate) struct Interface {
    pub(crate) operations: Vec<Operation>,
    /// How many of those marked `perhaps_over` are over.
    owed: usize,
    /// The detaches of one of several, of which whoever watches will tell which it was.
    detached: Vec<(EndedBy, Proof)>,
    /// How many were plugged in when the host's index of MACs was last told.
    pub(crate) listed: usize,
}

impl Interface {
    /// The operation that an open belongs to: the newest, or a new one.
    pub(crate) fn current(
        &mut self,
        now: Timestamp,
        takes: impl Fn(&Operation) -> bool,
        out: &mut Out,
    ) -> &mut Operation {
        if !self.operations.last().is_some_and(takes) {
            self.make_room(now, out);
            if self.operations.is_empty() {
                self.operations.reserve_exact(1);
            }
            self.operations.push(Operation::new(Phase::Opening));
        }
        let newest = self.operations.len() - 1;
        &mut self.operations[newest]
    }

    /// QEMU got it, and no open of a device is told.
    pub(crate) fn granted_bare(&mut self, phase: Phase, now: Timestamp, out: &mut Out) {
        self.add(Operation::bare(phase), now, out);
    }

    /// Takes an operation that no open began.
    pub(crate) fn add(&mut self, operation: Operation, now: Timestamp, out: &mut Out) {
        self.make_room(now, out);
        self.operations.push(operation);
    }

    /// Tells the oldest as they stand where no real guest could have as many.
    fn make_room(&mut self, now: Timestamp, out: &mut Out) {
        if self.operations.len() < MOST_TRIES {
            return;
        }
        let opening = |operation: &mut Operation| operation.phase == Phase::Opening;
        let tries = self.operations.iter().filter(|operation| operation.phase == Phase::Opening).count();
        let surplus = (tries + 1).saturating_sub(MOST_TRIES);
        for mut oldest in self.operations.extract_if(.., opening).take(surplus) {
            oldest.is_over_by(now);
            oldest.end(EndedBy::Close, None, out);
        }
        let surplus = (self.operations.len() + 1).saturating_sub(MOST_ALIKE + MOST_TRIES);
        for mut oldest in self.operations.drain(..surplus) {
            oldest.perhaps_over.get_or_insert(now);
            oldest.into_drafts().into_iter().for_each(|draft| out.as_it_stands(draft));
        }
    }

    /// The operation whose opens a grant or refusal means. At a start all interfaces are opened first,
    /// and given in the same order; a hot-plug is of what was opened last.
    pub(crate) fn opening(&self, by: By) -> Option<usize> {
        let opening = |operation: &Operation| operation.phase == Phase::Opening;
        match by {
            By::Start => self.operations.iter().position(opening),
            By::Attach => self.operations.iter().rposition(opening),
        }
    }

    /// What becomes of `operations[at]` may be meant for another that opens, where records of one are missing.
    pub(crate) fn doubt_others(&mut self, at: usize, time: Timestamp) {
        let opens = |operation: &Operation| operation.phase == Phase::Opening;
        if !self.operations.iter().any(|operation| opens(operation) && operation.is_lost()) {
            return;
        }
        let others = self.operations.iter_mut().enumerate().filter(|(other, _)| *other != at);
        others.filter(|(_, other)| opens(other)).for_each(|(_, other)| other.lose(time));
    }

    /// Those that a detach may mean which names no device.
    fn detachable(&self) -> impl Fn(&Operation) -> bool + use<> {
        let plugged = self.operations.iter().any(Operation::is_plugged);
        move |operation| if plugged { operation.is_plugged() } else { operation.is_held() }
    }

    /// How many interfaces a detach may mean.
    pub(crate) fn count_detachable(&self) -> usize {
        let detachable = self.detachable();
        self.operations.iter().filter(|operation| detachable(operation)).count()
    }

    /// How many interfaces with this MAC are plugged in, as far as is told.
    pub(crate) fn plugged(&self) -> usize {
        let plugged = self.operations.iter().filter(|operation| operation.is_plugged()).count();
        plugged.saturating_sub(self.owed + self.detached.len())
    }

    /// The same, without those of whose end a record may be missing.
    pub(crate) fn surely_plugged(&self) -> usize {
        let sure = |operation: &&Operation| operation.is_plugged() && !operation.is_lost();
        self.operations.iter().filter(sure).count().min(self.plugged())
    }

    /// QEMU gave up one interface, and no record names its devices.
    ///
    /// When it has more than one with this MAC, none tells which. Where all were seen in QEMU, whoever saw them
    /// will tell. Else all stay as they are, each of them doubtful, until as many are given up as there are.
    pub(crate) fn release(
        &mut self,
        whose: Whose<'_>,
        mac: MacAddr,
        cause: EndedBy,
        at: &Proof,
        out: &mut Out,
    ) {
        let detachable = self.detachable();
        let alike = self.operations.iter().filter(|operation| detachable(operation)).count();
        if alike == 0 {
            return;
        }
        let mut meant = self.operations.iter().filter(|operation| detachable(operation));
        if self.owed == 0 && self.detached.len() + 1 < alike && meant.all(Operation::is_seen) {
            return self.detached.push((cause, at.clone()));
        }
        if alike > 1 && self.detached.len() + 1 < alike {
            for operation in self.operations.iter_mut().filter(|operation| detachable(operation)) {
                operation.perhaps_over.get_or_insert(at.time);
                operation.prove(at);
            }
            self.owed += 1;
            if self.owed < alike {
                let left = alike - self.owed;
                let text = format!(
                    "Guest '{}' gave up one of {alike} interfaces with the MAC {mac}: no record shows which {left} it still has",
                    whose.guest.name
                );
                return out.tell(FindingKind::AmbiguousRelease, whose, Some(mac), at, text);
            }
        }
        self.owed = 0;
        self.detached.clear();
        for operation in self.operations.extract_if(.., |operation| detachable(operation)) {
            operation.end(cause, Some(at), out);
        }
    }

    /// Which of several was given up is not told by whoever watches, and so by nobody.
    pub(crate) fn doubt(&mut self, whose: Whose<'_>, mac: MacAddr, out: &mut Out) {
        let detached = std::mem::take(&mut self.detached);
        let (seen, detachable) = (detached.len(), self.detachable());
        if seen == 0 {
            return;
        }
        let alike = self.operations.iter_mut().filter(|operation| detachable(operation));
        let since = detached.first().map_or(Timestamp::MAX, |(_, at)| at.time);
        alike.for_each(|operation| _ = operation.perhaps_over.get_or_insert(since));
        for (_, at) in detached {
            let text = format!(
                "Guest '{}' gave up one of several interfaces with the MAC {mac}: no record shows which",
                whose.guest.name
            );
            out.tell(FindingKind::AmbiguousRelease, whose, Some(mac), &at, text);
        }
    }

    /// Takes the detach that may be of what was seen to go, or seen to stay.
    pub(crate) fn take_detached(&mut self) -> Option<(EndedBy, Proof)> {
        (!self.detached.is_empty()).then(|| self.detached.remove(0))
    }

    /// What was closed and waits for its cause has this one.
    pub(crate) fn end_closed(&mut self, cause: EndedBy, at: Option<&Proof>, out: &mut Out) {
        for operation in &mut self.operations {
            operation.end_closed(cause, at, out);
        }
        self.tidy();
    }

    /// Forgets what is over. An end that names its device is one of those owed.
    pub(crate) fn tidy(&mut self) {
        self.operations.retain(|operation| !operation.is_over());
        self.detached.truncate(self.operations.len().saturating_sub(1));
        if self.owed > 0 {
            let doubtful =
                self.operations.iter().filter(|operation| operation.perhaps_over.is_some()).count();
            self.owed = self.owed.min(doubtful.saturating_sub(1));
            if self.owed == 0 {
                self.operations.iter_mut().for_each(|operation| operation.perhaps_over = None);
            }
        }
    }

    /// Tells the host's index of MACs when the first was plugged in or the last is gone, and of two at
    /// once.
    pub(crate) fn list(&mut self, whose: Whose<'_>, mac: MacAddr, at: &dyn Fn() -> Proof, out: &mut Out) {
        let plugged = self.plugged();
        match (self.listed, plugged) {
            (0, 1..) => out.shifts.push((mac, true)),
            (1.., 0) => out.shifts.push((mac, false)),
            _ => {}
        }
        if self.listed < 2 && plugged >= 2 && self.surely_plugged() >= 2 {
            let text =
                format!("Guest '{}' has {plugged} interfaces with the MAC {mac} at once", whose.guest.name);
            out.tell(FindingKind::DuplicateMac, whose, Some(mac), &at(), text);
        }
        self.listed = plugged;
    }

    /// The operation and draft that a record means which names a device.
    pub(crate) fn find(&self, device: &Device, queue: Option<u32>) -> Option<(usize, usize)> {
        self.find_by(|draft| draft.distance(device, queue)).map(|(at, _)| at)
    }

    /// The first of those that fit best; less is better.
    fn find_by<T: Ord>(&self, fits: impl Fn(&Draft) -> Option<T>) -> Option<((usize, usize), T)> {
        let fits = |(at, draft): ((usize, usize), &Draft)| Some((at, fits(draft)?));
        self.drafts().filter_map(fits).min_by(|(_, a), (_, b)| a.cmp(b))
    }

    fn drafts(&self) -> impl Iterator<Item = ((usize, usize), &Draft)> {
        self.operations.iter().enumerate().flat_map(|(at, operation)| {
            operation.drafts.iter().enumerate().map(move |(draft, found)| ((at, draft), found))
        })
    }

    /// The operation and draft of which this very descriptor was seen.
    pub(crate) fn find_seen(&self, descriptor: &Descriptor) -> Option<(usize, usize)> {
        self.find_by(|draft| draft.has(descriptor).then_some(())).map(|(at, ())| at)
    }

    /// The operation and draft that a descriptor is of which was not seen before.
    ///
    /// What QEMU is told to have comes before what was only opened. Of several devices alike the first descriptor
    /// of each is seen before the next device's, so a further one is of the device seen last.
    pub(crate) fn find_unseen(&self, descriptor: &Descriptor) -> Option<(usize, usize)> {
        let first = descriptor.queue.unwrap_or(0) == 0;
        let continued = || {
            let fits = |draft: &Draft| draft.continues(descriptor).then_some(());
            self.drafts().filter(|(_, draft)| fits(draft).is_some()).last().map(|(at, _)| at)
        };
        let begun = || {
            let held = |at: usize| matches!(self.operations[at].phase, Phase::Booted | Phase::Granted);
            let fits = |(at, draft): ((usize, usize), &Draft)| {
                Some(((!held(at.0), draft.fits(descriptor)?, at), at))
            };
            self.drafts().filter_map(fits).min_by_key(|(rank, _)| *rank).map(|(_, at)| at)
        };
        if first { begun().or_else(continued) } else { continued().or_else(begun) }
    }

    /// Takes over what was told of the same interface elsewhere.
    pub(crate) fn join(&mut self, other: Self) {
        self.operations.extend(other.operations);
        self.owed += other.owed;
        self.detached.extend(other.detached);
    }
}
