use std::collections::BTreeMap;

use taptrail_record::{Device, MacAddr};

use crate::draft::{self, Draft};
use crate::entry::Claim;
use crate::operation::{Operation, Phase};
use crate::out::{Out, named, whose, why};
use crate::{Certainty, EndedBy, FindingKind, Proof};

/// One guest on one host, as far as it is alive. What is told of its interfaces is here, what is told
/// of it as a whole in [`crate::life`].
#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// Whether it is known to run: then a start is a new life.
    pub(crate) running: bool,
    pub(crate) pid: Option<u32>,
    pub(crate) interfaces: BTreeMap<MacAddr, Vec<Operation>>,
    pub(crate) unplugged: Option<Unplugged>,
}

/// What libvirt's detach record ended, as long as the very next may be an attach of the same: a
/// change of bridge is told so, and nothing ended at all.
#[derive(Debug)]
pub(crate) struct Unplugged {
    mac: MacAddr,
    operation: Operation,
    at: Proof,
}

/// The two ways in which QEMU gets an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Start,
    Attach,
}

impl Guest {
    pub(crate) fn opened(
        &mut self,
        entry: &Claim<'_>,
        mac: MacAddr,
        device: &Device,
        queue: Option<u32>,
        out: &mut Out,
    ) {
        self.settle_unplugged(out);
        let operations = self.interfaces.entry(mac).or_default();
        for operation in operations.iter_mut() {
            // Nobody said why these were closed, and now the interface's next life begins.
            operation.end_closed(EndedBy::Close, None, out);
        }
        current(operations, |operation| operation.takes(device, queue))
            .opened(entry, mac, device, queue, out);
    }

    pub(crate) fn open_failed(
        &mut self,
        entry: &Claim<'_>,
        mac: MacAddr,
        device: &Device,
        queue: Option<u32>,
        out: &mut Out,
    ) {
        self.settle_unplugged(out);
        out.holdings.push(draft::failed(entry, mac, device));
        let text = format!("The open of {} for {mac} failed{}", named(device), why(entry));
        out.say(FindingKind::OpenFailed, entry, text);
        let operations = self.interfaces.entry(mac).or_default();
        current(operations, |operation| operation.phase == Phase::Opening)
            .open_failed(entry, device, queue, out);
    }

    /// QEMU got an interface. `told` is QEMU's pid in the record itself, which only a writer gives that
    /// has seen the descriptors there.
    pub(crate) fn granted(
        &mut self,
        entry: &Claim<'_>,
        mac: MacAddr,
        by: By,
        told: Option<u32>,
        out: &mut Out,
    ) {
        match by {
            By::Start if self.running => self.restart(entry, out),
            By::Start => {}
            By::Attach => self.running = true,
        }
        let (phase, pid) = match by {
            // The pid known so far is that of an earlier life.
            By::Start => (Phase::Booted, told),
            By::Attach => (Phase::Granted, told.or(self.pid)),
        };
        let certainty = if told.is_some() { Certainty::Definitive } else { Certainty::Inferred };
        let operations = self.interfaces.entry(mac).or_default();
        if let Some(at) = next(operations, by) {
            operations[at].grant(phase, entry, pid, certainty);
            if by == By::Attach {
                // Tries before it, of which no record tells the end.
                for given_up in operations.extract_if(..at, |operation| operation.phase == Phase::Opening) {
                    given_up.end(EndedBy::Close, None, out);
                }
            }
            return self.settle_unplugged(out);
        }
        match self.unplugged.take_if(|unplugged| by == By::Attach && unplugged.mac == mac) {
            Some(Unplugged { mut operation, at, .. }) => {
                operation.prove(&at);
                operation.prove(&entry.proof());
                operations.push(operation);
                let text = format!(
                    "{mac} was unplugged and plugged in again with no open between: QEMU kept its devices"
                );
                out.say(FindingKind::ReattachedWithoutOpen, entry, text);
            }
            None => {
                if by == By::Start {
                    operations.push(Operation::new(phase));
                }
                let text = format!("QEMU got {mac}, and no open of a device is told for it");
                out.say(FindingKind::GrantWithoutOpen, entry, text);
                self.settle_unplugged(out);
            }
        }
    }

    /// QEMU did not get an interface.
    pub(crate) fn refused(&mut self, entry: &Claim<'_>, mac: MacAddr, by: By, out: &mut Out) {
        let (kind, what) = match by {
            By::Start => (FindingKind::StartFailed, "given to QEMU at its start"),
            By::Attach => (FindingKind::AttachFailed, "plugged in"),
        };
        out.say(kind, entry, format!("{mac} could not be {what}{}", why(entry)));
        let Some(operations) = self.interfaces.get_mut(&mac) else { return };
        let Some(at) = next(operations, by) else { return };
        if operations[at].closes_follow() {
            operations[at].phase = Phase::Refused;
            operations[at].prove(&entry.proof());
        } else {
            operations.remove(at).end(EndedBy::Close, Some(&entry.proof()), out);
        }
    }

    pub(crate) fn detached(&mut self, entry: &Claim<'_>, mac: MacAddr, forced: bool, out: &mut Out) {
        self.settle_unplugged(out);
        self.running = true;
        let cause = if forced { EndedBy::Revoke } else { EndedBy::Detach };
        let proof = entry.proof();
        let operations = self.interfaces.entry(mac).or_default();
        if operations.iter().any(Operation::awaits_cause) {
            for operation in operations.extract_if(.., |operation| operation.awaits_cause()) {
                operation.end(cause, Some(&proof), out);
            }
            return;
        }
        let held = operations.iter().filter(|operation| operation.is_held()).count();
        let Some(first) = operations.iter().position(Operation::is_held) else {
            let text = format!("{mac} was unplugged, and no record shows it plugged in");
            return out.say(FindingKind::DetachWithoutGrant, entry, text);
        };
        if held > 1 {
            let alike = operations.iter_mut().filter(|operation| operation.is_held());
            alike
                .flat_map(|operation| &mut operation.drafts)
                .for_each(|draft| draft.doubt(Certainty::Ambiguous));
        }
        let operation = operations.remove(first);
        if held > 1 || forced {
            operation.end(cause, Some(&proof), out);
        } else {
            self.unplugged = Some(Unplugged { mac, operation, at: proof });
        }
    }

    pub(crate) fn detach_failed(&mut self, entry: &Claim<'_>, mac: MacAddr, out: &mut Out) {
        self.settle_unplugged(out);
        out.say(FindingKind::DetachFailed, entry, format!("{mac} could not be unplugged{}", why(entry)));
        for operation in self.interfaces.entry(mac).or_default() {
            operation.end_closed(EndedBy::Close, Some(&entry.proof()), out);
        }
    }

    /// After a failed attach QEMU still holds a device.
    pub(crate) fn kept(
        &mut self,
        entry: &Claim<'_>,
        mac: MacAddr,
        device: &Device,
        queue: Option<u32>,
        pid: Option<u32>,
        out: &mut Out,
    ) {
        self.settle_unplugged(out);
        let text = format!("QEMU still holds {}, which it got for {mac}", named(device));
        out.say(FindingKind::AttachFailed, entry, text);
        let operations = self.interfaces.entry(mac).or_default();
        let Some((operation, draft)) = find(operations, device, queue) else {
            return unmatched(entry, out);
        };
        let Operation { phase, drafts, .. } = &mut operations[operation];
        if drafts[draft].is_granted() {
            return drafts[draft].prove(&entry.proof());
        }
        // It speaks of a hot-plug that failed, even if that record is lost.
        *phase = Phase::Refused;
        let mut kept = drafts[draft].split(queue);
        if !drafts[draft].is_open() {
            let rest = drafts.remove(draft);
            if rest.holding.queues > 0 {
                out.end(rest, EndedBy::Close, None);
            }
        }
        kept.grant(entry, pid.or(self.pid), Certainty::Definitive);
        match drafts.iter_mut().find(|other| other.is_granted() && other.takes(device, queue)) {
            Some(other) => other.join(kept),
            None => drafts.push(kept),
        }
    }

    pub(crate) fn closed(
        &mut self,
        entry: &Claim<'_>,
        mac: MacAddr,
        device: &Device,
        queue: Option<u32>,
        out: &mut Out,
    ) {
        self.settle_unplugged(out);
        let operations = self.interfaces.entry(mac).or_default();
        let Some((operation, draft)) = find(operations, device, queue) else {
            return unmatched(entry, out);
        };
        let drafts = &mut operations[operation].drafts;
        drafts[draft].close(entry, queue);
        if !drafts[draft].is_open() && !drafts[draft].is_granted() {
            out.end(drafts.remove(draft), EndedBy::Close, None);
        }
    }

    /// Nothing about the guest's interfaces is left to wait for.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.interfaces.retain(|_, operations| {
            operations.retain(|operation| !operation.is_over() || operation.phase == Phase::Booted);
            !operations.is_empty()
        });
        self.interfaces.is_empty() && self.unplugged.is_none() && !self.running
    }

    /// What was unplugged did end: no attach followed at once.
    pub(crate) fn settle_unplugged(&mut self, out: &mut Out) {
        if let Some(Unplugged { operation, at, .. }) = self.unplugged.take() {
            operation.end(EndedBy::Detach, Some(&at), out);
        }
    }
}

/// The operation that an open belongs to: the newest, or a new one.
fn current(operations: &mut Vec<Operation>, takes: impl Fn(&Operation) -> bool) -> &mut Operation {
    if !operations.last().is_some_and(takes) {
        operations.push(Operation::new(Phase::Opening));
    }
    let newest = operations.len() - 1;
    &mut operations[newest]
}

/// The operation whose opens a grant or refusal means. At a start all interfaces are opened first,
/// and given in the same order; a hot-plug is of what was opened last.
fn next(operations: &[Operation], by: By) -> Option<usize> {
    let opening = |operation: &Operation| operation.phase == Phase::Opening;
    match by {
        By::Start => operations.iter().position(opening),
        By::Attach => operations.iter().rposition(opening),
    }
}

/// The operation and draft that a record means which names a device.
fn find(operations: &[Operation], device: &Device, queue: Option<u32>) -> Option<(usize, usize)> {
    let drafts = operations.iter().enumerate().flat_map(|(at, operation)| {
        operation.drafts.iter().enumerate().map(move |(draft, found)| ((at, draft), found))
    });
    let fits = |(at, draft): (_, &Draft)| Some((draft.distance(device, queue)?, at));
    drafts.filter_map(fits).min().map(|(_, at)| at)
}

fn unmatched(entry: &Claim<'_>, out: &mut Out) {
    let device = entry.record.event.device().map(named).unwrap_or_default();
    let text = format!("The end or keeping of {device} is told for {}, and no open of it", whose(entry));
    out.say(FindingKind::CloseWithoutOpen, entry, text);
}
