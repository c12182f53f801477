use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, Event, GuestId, MacAddr};

use crate::model::entry::Claim;
use crate::output::{Out, Whose, named, whose, why};
use crate::state::interface::Interface;
use crate::state::interfaces::Interfaces;
use crate::state::open_holding::{self, Draft, Opened};
use crate::state::operation::{ONE_TRY, Operation, Phase};
use crate::time::after;
use crate::{Certainty, Doubt, EndedBy, Finding, FindingKind, Proof};

/// One guest on one host under one daemon, as far as it is alive. What is told of its interfaces is
/// here, what is told of it as a whole in [`crate::state::lifecycle`].
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) host: Arc<str>,
    pub(crate) id: GuestId,
    /// The process that speaks for it: a daemon or a supervisor.
    pub(crate) writer: Option<u32>,
    /// Whether it stands beside another life of the same guest, and which of the two goes on is not
    /// told yet.
    pub(crate) tentative: bool,
    /// Whether it is known to run: then a start is a new life.
    pub(crate) running: bool,
    /// Whether the trail has this life from its start.
    pub(crate) from_start: bool,
    pub(crate) pid: Option<u32>,
    pub(crate) interfaces: Interfaces,
    pub(crate) unplugged: Option<Unplugged>,
    /// When its manager last told of it.
    pub(crate) last: Timestamp,
    /// Whether its manager recorded more of it than opens: some record no grants at all.
    pub(crate) grants_told: bool,
    /// Whether a watcher looks at what its QEMU holds.
    pub(crate) watched: bool,
    /// Until when records of it may be missing.
    pub(crate) lost_until: Option<Timestamp>,
    /// Grants without an open. A watcher that looks and sees nothing shows that there was none.
    bare: Vec<Finding>,
}

/// How long a watcher may take to see what QEMU got.
const SEEN_WITHIN: SignedDuration = SignedDuration::from_secs(5);

/// An open comes before its grant, within the time that a guest takes to start.
const OPENED_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// libvirt's detach record, as long as the very next may be an attach of the same: a change of bridge is
/// told so, and nothing ended at all.
#[derive(Debug)]
pub(crate) struct Unplugged {
    pub(crate) mac: MacAddr,
    at: Proof,
    /// Whether that attach failed: QEMU still has what it had, with no bridge behind it.
    pub(crate) refused: bool,
    /// Whether that attach may be among records that are missing.
    lost: bool,
}

/// The two records of a change of bridge come at once; an attach farther apart is another interface.
const ONE_CHANGE: SignedDuration = SignedDuration::from_secs(5);

impl Unplugged {
    /// Whether an attach of this MAC is the other half of a change of bridge.
    fn is_changed_by(&self, entry: &Claim<'_>, mac: MacAddr) -> bool {
        self.mac == mac && entry.time.duration_since(self.at.time).abs() <= ONE_CHANGE
    }
}

/// The two ways in which QEMU gets an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Start,
    Attach,
}

/// How many MACs of one guest are followed: QEMU has not as many slots.
const MOST_INTERFACES: usize = 1024;

impl Guest {
    pub(crate) fn new(entry: &Claim<'_>, tentative: bool) -> Self {
        Self {
            host: Arc::clone(&entry.host),
            id: entry.record.guest.clone(),
            writer: entry.writer,
            tentative,
            running: false,
            from_start: false,
            pid: None,
            interfaces: Interfaces::default(),
            unplugged: None,
            last: entry.time,
            grants_told: false,
            watched: false,
            lost_until: None,
            bare: Vec::new(),
        }
    }

    /// Records from `since` to `until` may be missing.
    pub(crate) fn lose(&mut self, since: Timestamp, until: Timestamp) {
        for (_, interface) in self.interfaces.iter_mut() {
            interface.operations.iter_mut().for_each(|operation| operation.lose(since));
        }
        if let Some(unplugged) = &mut self.unplugged {
            unplugged.lost = true;
        }
        // What it is told to give up from now on it may have got meanwhile.
        self.from_start = false;
        self.lost_until = Some(until);
    }

    /// Whether an open that is not told may be among records that are missing.
    fn may_have_lost_open(&self, grant: Timestamp) -> bool {
        self.lost_until.is_some_and(|until| grant.duration_since(until) <= OPENED_WITHIN)
    }

    /// Tells of grants without an open for which nothing more is to be waited for.
    pub(crate) fn judge_bare(&mut self, now: Option<Timestamp>, out: &mut Out) {
        let due = |finding: &mut Finding| now.is_none_or(|now| after(finding.time, SEEN_WITHIN) < now);
        // Whoever looks into QEMU and sees no device of an interface shows that it has none.
        out.findings.extend(self.bare.extract_if(.., due).filter(|_| !self.watched));
    }

    /// A watcher saw a device of this interface, of which no open is told.
    pub(crate) fn confirm_bare(&mut self, mac: MacAddr, out: &mut Out) {
        out.findings.extend(self.bare.extract_if(.., |finding| finding.mac == Some(mac)));
    }

    /// One that was seen to run, and of which no manager has told.
    pub(crate) fn seen(entry: &Claim<'_>) -> Self {
        Self { writer: None, running: true, ..Self::new(entry, false) }
    }

    /// The interface with this MAC, told of for the first time or again.
    pub(crate) fn interface(&mut self, mac: MacAddr, out: &mut Out) -> &mut Interface {
        if self.interfaces.len() >= MOST_INTERFACES
            && self.interfaces.get(mac).is_none()
            && let Some((mac, one)) = self.interfaces.pop_last()
        {
            out.unlist(mac, one.listed);
            let drafts = one.operations.into_iter().flat_map(Operation::into_drafts);
            drafts.for_each(|draft| out.as_it_stands(draft));
        }
        self.interfaces.get_or_new(mac)
    }

    /// `lost` is the last stretch of which records may be missing.
    pub(crate) fn opened(
        &mut self,
        entry: &Claim<'_>,
        opened: &Opened<'_>,
        lost: Option<(Timestamp, Timestamp)>,
        out: &mut Out,
    ) {
        self.settle_unplugged(out);
        let interface = self.interface(opened.mac, out);
        // Nobody said why these were closed, and now the interface's next life begins.
        interface.end_closed(EndedBy::Close, None, out);
        interface
            .current(entry.time, |operation| operation.takes(opened.device, opened.queue), out)
            .opened(entry, opened, out);
        // The failure that contradicts it comes just before it: it may be missing.
        if let Some((since, until)) = lost
            && opened.may_be_told_twice()
            && entry.time.duration_since(until) <= ONE_TRY
        {
            interface.operations.iter_mut().rev().take(1).for_each(|newest| newest.lose(since));
        }
    }

    pub(crate) fn open_failed(&mut self, entry: &Claim<'_>, opened: &Opened<'_>, out: &mut Out) {
        self.settle_unplugged(out);
        let holding = open_holding::failed(entry, opened);
        let (mac, device) = (opened.mac, named(opened.device));
        let text = match opened.seen {
            Some(_) => {
                format!("A step after the open of {device} for {mac} failed: the kernel had opened it")
            }
            None => format!("The open of {device} for {mac} failed{}", why(entry)),
        };
        match opened.seen {
            Some(_) => out.of(FindingKind::OpenFailed, &holding, text),
            None => out.say(FindingKind::OpenFailed, entry, text),
        }
        out.holdings.push(holding);
        self.interface(mac, out)
            .current(entry.time, Operation::takes_failed, out)
            .open_failed(entry, opened, out);
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
        let (phase, pid) = match by {
            By::Start => {
                if self.running {
                    self.restart(entry, out);
                }
                self.from_start = true;
                // The pid known so far is that of an earlier life.
                (Phase::Booted, told)
            }
            By::Attach => {
                self.running = true;
                self.boot_is_told(entry, out);
                self.pid = told.or(self.pid);
                (Phase::Granted, self.pid)
            }
        };
        let certainty = if told.is_some() { Certainty::Definitive } else { Certainty::Inferred };
        if self.interface(mac, out).opening(by).is_none()
            && by == By::Attach
            && let Some(unplugged) = self.unplugged.take_if(|one| one.is_changed_by(entry, mac) && !one.lost)
        {
            return self.reattached(entry, mac, &unplugged.at, out);
        }
        self.settle_unplugged(out);
        let interface = self.interface(mac, out);
        let Some(at) = interface.opening(by) else {
            if by == By::Start || interface.plugged() == 0 {
                interface.granted_bare(phase, entry.time, out);
            }
            if !self.may_have_lost_open(entry.time) {
                let text = format!("QEMU got {mac}, and no record shows an open of a device for it");
                let finding = out.finding(FindingKind::GrantWithoutOpen, entry, text);
                let found = if out.looks_itself { &mut out.findings } else { &mut self.bare };
                found.push(finding);
            }
            return;
        };
        interface.doubt_others(at, entry.time);
        interface.operations[at].grant(phase, entry, pid, certainty);
        if by == By::Attach {
            interface.operations[at].await_numbers(entry, out);
            // Tries before it, of which no record tells the end.
            let given_up = |operation: &mut Operation| operation.phase == Phase::Opening;
            interface.operations[at].end_contradicted(&entry.proof(), out);
            for mut given_up in interface.operations.extract_if(..at, given_up) {
                given_up.is_over_by(entry.time);
                given_up.end(EndedBy::Close, None, out);
            }
        }
    }

    /// The guest runs, so what it was given at its start it has.
    pub(crate) fn boot_is_told(&mut self, entry: &Claim<'_>, out: &mut Out) {
        let pid = self.pid;
        for (_, interface) in self.interfaces.iter_mut() {
            let booted = |operation: &&mut Operation| operation.phase == Phase::Booted;
            for operation in interface.operations.iter_mut().filter(booted) {
                operation.phase = Phase::Granted;
                for draft in &mut operation.drafts {
                    draft.holding.pid = draft.holding.pid.or(pid);
                }
                operation.await_numbers(entry, out);
                operation.end_contradicted(&entry.proof(), out);
            }
        }
    }

    /// The interface that was told as unplugged never was.
    fn reattached(&mut self, entry: &Claim<'_>, mac: MacAddr, detached: &Proof, out: &mut Out) {
        for operation in &mut self.interface(mac, out).operations {
            if operation.is_held() {
                operation.prove(detached);
                operation.prove(&entry.proof());
            }
        }
        let text =
            format!("{mac} was unplugged and plugged in again with no open between: QEMU kept its devices");
        out.say(FindingKind::ReattachedWithoutOpen, entry, text);
    }

    /// QEMU did not get an interface.
    pub(crate) fn refused(&mut self, entry: &Claim<'_>, mac: MacAddr, by: By, out: &mut Out) {
        let (kind, what) = match by {
            By::Start => (FindingKind::StartFailed, "given to QEMU at its start"),
            By::Attach => (FindingKind::AttachFailed, "plugged in"),
        };
        let opening = self.interfaces.get(mac).and_then(|interface| interface.opening(by));
        let changes = |unplugged: &&mut Unplugged| by == By::Attach && unplugged.is_changed_by(entry, mac);
        if opening.is_none()
            && let Some(unplugged) = self.unplugged.as_mut().filter(changes)
        {
            unplugged.refused = true;
            let text = format!("{mac} could not be given another bridge, and QEMU still has its devices");
            return out.say(kind, entry, text);
        }
        out.say(kind, entry, format!("{mac} could not be {what}{}", why(entry)));
        let Some((interface, at)) = self.interfaces.get_mut(mac).zip(opening) else { return };
        interface.doubt_others(at, entry.time);
        let operations = &mut interface.operations;
        // Its writer tells how many QEMU still holds, from when on they are on their way to it.
        if let Event::Start { fds: Some(_), .. } | Event::Attach { fds: Some(_), .. } = entry.record.event {
            operations[at].was_on_its_way();
        }
        if operations[at].closes_follow() {
            operations[at].phase = Phase::Refused;
            operations[at].prove(&entry.proof());
        } else {
            let mut refused = operations.remove(at);
            refused.doubt_grant(Doubt::Failed);
            refused.end(EndedBy::Close, Some(&entry.proof()), out);
        }
    }

    pub(crate) fn detached(&mut self, entry: &Claim<'_>, mac: MacAddr, forced: bool, out: &mut Out) {
        self.settle_unplugged(out);
        self.running = true;
        self.boot_is_told(entry, out);
        let cause = if forced { EndedBy::Revoke } else { EndedBy::Detach };
        let proof = entry.proof();
        let from_start = self.from_start;
        let interface = self.interface(mac, out);
        if interface.operations.iter().any(Operation::awaits_cause) {
            for operation in interface.operations.extract_if(.., |operation| operation.awaits_cause()) {
                operation.end(cause, Some(&proof), out);
            }
            return;
        }
        if interface.count_detachable() == 0 {
            if from_start {
                let text = format!("{mac} was unplugged, and no record shows it plugged in");
                return out.say(FindingKind::DetachWithoutGrant, entry, text);
            }
            interface.operations.push(Operation::from_before(Draft::from_before(entry, mac)));
        }
        if !forced {
            self.unplugged = Some(Unplugged { mac, at: proof, refused: false, lost: false });
        } else if let Some(interface) = self.interfaces.get_mut(mac) {
            let whose = Whose { host: &self.host, guest: &self.id };
            interface.release(whose, mac, cause, &proof, out);
        }
    }

    pub(crate) fn detach_failed(&mut self, entry: &Claim<'_>, mac: MacAddr, out: &mut Out) {
        self.settle_unplugged(out);
        out.say(FindingKind::DetachFailed, entry, format!("{mac} could not be unplugged{}", why(entry)));
        if let Some(interface) = self.interfaces.get_mut(mac) {
            interface.end_closed(EndedBy::Close, Some(&entry.proof()), out);
        }
    }

    /// After a failed attach QEMU still holds a device.
    pub(crate) fn kept(&mut self, entry: &Claim<'_>, opened: &Opened<'_>, pid: Option<u32>, out: &mut Out) {
        self.settle_unplugged(out);
        let Opened { mac, device, queue, .. } = *opened;
        let text = format!("QEMU still holds {}, which it got for {mac}", named(device));
        out.say(FindingKind::AttachFailed, entry, text);
        let pid = pid.or(self.pid);
        let interface = self.interface(mac, out);
        let Some((operation, draft)) = interface.find(device, queue) else {
            return unmatched(entry, out);
        };
        let Operation { phase, drafts, .. } = &mut interface.operations[operation];
        if drafts[draft].is_granted() {
            return drafts[draft].prove(&entry.proof());
        }
        // It speaks of a hot-plug that failed, even if that record is lost.
        *phase = Phase::Refused;
        let mut kept = drafts[draft].split(queue);
        if !drafts[draft].is_open() {
            let rest = drafts.remove(draft);
            if !rest.is_spent() {
                out.end(rest, EndedBy::Close, None);
            }
        }
        kept.grant(entry, pid, Certainty::Definitive);
        match drafts.iter_mut().find(|other| other.is_granted() && other.takes(device, queue)) {
            Some(other) => other.join(kept),
            None => drafts.push(kept),
        }
    }

    pub(crate) fn closed(&mut self, entry: &Claim<'_>, opened: &Opened<'_>, out: &mut Out) {
        self.settle_unplugged(out);
        let interface = self.interface(opened.mac, out);
        let Some((operation, draft)) = interface.find(opened.device, opened.queue) else {
            return unmatched(entry, out);
        };
        let drafts = &mut interface.operations[operation].drafts;
        drafts[draft].close(entry, opened.queue);
        if !drafts[draft].is_open() && !drafts[draft].is_granted() {
            out.end(drafts.remove(draft), EndedBy::Close, None);
        }
    }

    /// Whether a record that names a device means one of this guest's.
    pub(crate) fn knows(&self, mac: MacAddr, device: &Device, queue: Option<u32>) -> bool {
        self.interfaces.get(mac).is_some_and(|interface| interface.find(device, queue).is_some())
    }

    /// The record by which QEMU got an interface that it has.
    pub(crate) fn grant_of(&self, mac: MacAddr) -> Option<&Proof> {
        let operations = &self.interfaces.get(mac)?.operations;
        let drafts = operations.iter().filter(|operation| operation.is_plugged()).flat_map(|o| &o.drafts);
        drafts.filter_map(|draft| draft.holding.proof.last()).next()
    }

    /// Nothing about the guest's interfaces is left to wait for.
    pub(crate) fn is_idle(&self) -> bool {
        self.interfaces.is_empty() && self.unplugged.is_none() && !self.running
    }

    /// Until when what was unplugged may be plugged in again as another half of a change of bridge.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let unplugged = self.unplugged.as_ref().map(|unplugged| after(unplugged.at.time, ONE_CHANGE));
        let bare = self.bare.first().map(|finding| after(finding.time, SEEN_WITHIN));
        unplugged.into_iter().chain(bare).min()
    }

    /// Nothing more is told: a change of bridge whose second half would come now may be one.
    pub(crate) fn doubt_unplugged(&mut self, until: Timestamp) {
        if let Some(unplugged) = &mut self.unplugged {
            unplugged.lost |= until.duration_since(unplugged.at.time) <= ONE_CHANGE;
        }
    }

    /// What was unplugged did end: no attach followed at once.
    pub(crate) fn settle_unplugged(&mut self, out: &mut Out) {
        let Some(Unplugged { mac, at, refused, lost }) = self.unplugged.take() else { return };
        let Some(interface) = self.interfaces.get_mut(mac) else { return };
        if refused {
            let held = interface.operations.iter_mut().filter(|operation| operation.is_held());
            return held.for_each(|operation| operation.prove(&at));
        }
        let whose = Whose { host: &self.host, guest: &self.id };
        if lost {
            // A change of bridge is told as an unplug and a plug: the second may be missing.
            interface.operations.iter_mut().for_each(|operation| operation.lose(at.time));
        }
        interface.release(whose, mac, EndedBy::Detach, &at, out);
        self.tidy(mac, &|| at.clone(), out);
    }

    /// Whether it has an interface with this MAC, as far as its last record tells: what was unplugged
    /// last may be plugged in again, but that is not to be expected.
    pub(crate) fn has(&self, mac: MacAddr) -> bool {
        let gone =
            self.unplugged.as_ref().is_some_and(|unplugged| unplugged.mac == mac && !unplugged.refused);
        self.interfaces.get(mac).is_some_and(|interface| interface.plugged() > usize::from(gone))
    }

    /// The same, where no record of its end may be missing.
    pub(crate) fn surely_has(&self, mac: MacAddr) -> bool {
        self.has(mac) && self.interfaces.get(mac).is_some_and(|interface| interface.surely_plugged() > 0)
    }

    /// Forgets what is over of an interface, and tells the host's index of MACs what changed.
    pub(crate) fn tidy(&mut self, mac: MacAddr, at: &dyn Fn() -> Proof, out: &mut Out) {
        let Some(interface) = self.interfaces.get_mut(mac) else { return };
        interface.tidy();
        let whose = Whose { host: &self.host, guest: &self.id };
        interface.list(whose, mac, at, out);
        if interface.operations.is_empty() {
            self.interfaces.remove(mac);
        }
    }

    /// The same for all interfaces, after what is told of the guest as a whole.
    pub(crate) fn tidy_all(&mut self, at: &dyn Fn() -> Proof, out: &mut Out) {
        let whose = Whose { host: &self.host, guest: &self.id };
        self.interfaces.retain_mut(|mac, interface| {
            interface.tidy();
            interface.list(whose, mac, at, out);
            !interface.operations.is_empty()
        });
    }
}

pub(crate) fn unmatched(entry: &Claim<'_>, out: &mut Out) {
    // Who closes an account late, after a reboot that ended it for the reader, says nothing new.
    if entry.record.last_seen.is_some() {
        return;
    }
    let device = entry.record.event.device().map(named).unwrap_or_default();
    let text =
        format!("A record shows the close or keep of {device} for {}, and none its open", whose(entry));
    out.say(FindingKind::CloseWithoutOpen, entry, text);
}
