//! One host: its guests, and what is told of more than one of them.

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::{Event, Fragment, GuestId, KernelOpen, Outcome, Record};
use uuid::Uuid;

use crate::model::entry::Claim;
use crate::output::unnumbered::Unnumbered;
use crate::output::{Out, Whose, named};
use crate::state::foreign::Foreign;
use crate::state::guest::Guest;
use crate::state::ingest::{self, recorded, tell};
use crate::state::instances::{Daemons, Lives};
use crate::state::kernel_opens::{self, KernelOpens, Recent, Seen, Waiting};
use crate::state::mac_index::Macs;
use crate::state::open_holding::Draft;
use crate::state::serials::{Before, Serials};
use crate::{Content, EndedBy, Entry, Finding, FindingKind, Gap, Holding, InHand, Lost, Proof};

/// What is alive on one host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: Arc<str>,
    pub(crate) guests: HashMap<Uuid, Lives>,
    macs: Macs,
    /// The QEMUs, by their process ids.
    pids: HashMap<u32, Uuid>,
    opens: KernelOpens,
    daemons: Daemons,
    foreign: Foreign,
    serials: Serials,
    /// When it was last told of.
    last: Option<Timestamp>,
    /// The last stretch of which records may be missing.
    lost: Option<(Timestamp, Timestamp)>,
    /// The last stretch of which the lines are not in order.
    disordered: Option<(Timestamp, Timestamp)>,
}

impl Host {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            guests: HashMap::new(),
            macs: Macs::default(),
            pids: HashMap::new(),
            opens: KernelOpens::default(),
            daemons: Daemons::default(),
            foreign: Foreign::default(),
            serials: Serials::default(),
            last: None,
            lost: None,
            disordered: None,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.guests.is_empty()
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = &Holding> {
        let guests = self.guests.values().flat_map(Lives::iter);
        let operations = guests.flat_map(|guest| guest.interfaces.iter()).flat_map(|one| &one.operations);
        let drafts = operations.flat_map(|operation| &operation.drafts);
        drafts.filter(|draft| draft.is_granted() && draft.is_open()).map(|draft| &draft.holding)
    }

    pub(crate) fn feed(&mut self, entry: &Entry, out: &mut Out) {
        if let Content::Boot = entry.content {
            self.serials.restart(entry.serial, entry.time);
            self.rebooted(&entry.proof(), out);
            self.last = Some(entry.time);
            return;
        }
        match entry.serial.map(|serial| self.serials.take(serial, entry.time)) {
            Some(Before::Boot) => self.rebooted(&entry.proof(), out),
            Some(Before::Unknown) => self.fell(entry, out),
            Some(Before::Same) | None => {}
        }
        self.open_overdue(entry.time, out);
        let last = self.last.replace(entry.time);
        match &entry.content {
            Content::Record(record) => self.claim(&Claim { entry, record }, out),
            Content::KernelOpen(open) => self.kernel_opened(entry, open, out),
            Content::Truncated(fragment) => self.fragment(FindingKind::TruncatedRecord, entry, fragment, out),
            Content::Unsent(fragment) => self.fragment(FindingKind::RecordNotSent, entry, fragment, out),
            Content::Missing(fragment) => self.fragment(FindingKind::SerialGap, entry, fragment, out),
            Content::Gap(gap) => {
                let since = gap.since.or(last).unwrap_or(entry.time);
                // Of one stretch many lines may show that they are not in order.
                let known =
                    self.disordered.filter(|(_, until)| gap.why == Lost::Disordered && since <= *until);
                if gap.why == Lost::Disordered {
                    let (from, until) = known.unwrap_or((since, entry.time));
                    self.disordered = Some((from.min(since), until.max(entry.time)));
                }
                self.lose(since, entry.time);
                if known.is_none() {
                    out.findings.push(ingest::gap(entry, gap));
                }
            }
            Content::Foreign { exe } => self.foreign.count(entry, exe),
            Content::Boot | Content::RecordingStopped(_) | Content::RecordingResumed(_) => {}
        }
    }

    /// Records from `since` to `until` may be missing: what is alive is not certain from then on.
    fn lose(&mut self, since: Timestamp, until: Timestamp) {
        for guest in self.guests.values_mut().flat_map(Lives::iter_mut) {
            guest.lose(since, until);
        }
        self.opens.lose(until);
        self.lost = Some((since, until));
    }

    /// The serial numbers fell, and not to those of a boot.
    fn fell(&mut self, entry: &Entry, out: &mut Out) {
        let since = self.last.unwrap_or(entry.time);
        // The log's own numbers may have told.
        if self.lost.is_none_or(|(_, until)| until < since) {
            let gap = Gap { since: Some(since), serials: None, why: Lost::Fell };
            out.findings.push(ingest::gap(entry, &gap));
        }
        self.lose(since, entry.time);
    }

    fn claim(&mut self, entry: &Claim<'_>, out: &mut Out) {
        if entry.record.event.is_watched() {
            return self.watched(entry, out);
        }
        let Record { guest, event, outcome, .. } = entry.record;
        let (uuid, done) = (guest.uuid, *outcome == Outcome::Success);
        let stops = done && matches!(event, Event::GuestStop { .. });
        let mut lives = match self.guests.entry(uuid) {
            hash_map::Entry::Occupied(lives) => lives,
            hash_map::Entry::Vacant(_) if stops => return,
            hash_map::Entry::Vacant(none) => none.insert_entry(Lives::default()),
        };
        let at = lives.get_mut().of(entry, &mut self.daemons, out);
        // Where lines are not in order, what comes next may have come before.
        let disordered = self.disordered.filter(|(_, until)| entry.time < *until);
        if let Some((since, until)) = disordered {
            lives.get_mut().iter_mut().for_each(|guest| guest.lose(since, until));
        }
        let guest = lives.get_mut().get(at);
        guest.judge_bare(Some(entry.time), out);
        // That it runs or has stopped tells nothing of its interfaces.
        guest.grants_told |= match event {
            Event::Open { .. } => false,
            Event::GuestStart { .. } | Event::GuestStop { .. } => !done,
            _ => true,
        };
        let pid = guest.pid;
        let (mut ended, mut uncertain) = (Vec::new(), None);
        let pid_now = if stops {
            lives.get_mut().remove(at).stopped(entry, out);
            None
        } else {
            uncertain = tell(guest, entry, done, self.lost, &mut self.opens, out);
            if let Some((since, until)) = disordered {
                guest.lose(since, until);
            }
            guest.last = entry.time;
            let idle = guest.is_idle();
            let now = if idle { None } else { guest.pid };
            if done && matches!(event, Event::GuestStart { .. }) {
                ended = lives.get_mut().ran(at, entry);
            } else if idle {
                lives.get_mut().remove(at).judge_bare(None, out);
            }
            now
        };
        if lives.get().is_empty() {
            lives.remove();
        }
        for guest in ended {
            self.forget_pid(guest.pid, uuid);
            guest.lost(EndedBy::Restart, None, &entry.proof(), out);
        }
        if let Some(draft) = uncertain.and_then(|earlier| opened_by(&mut self.guests, &earlier)) {
            draft.uncount();
        }
        if pid != pid_now {
            self.forget_pid(pid, uuid);
            if let Some(now) = pid_now {
                self.has_pid(entry, now, out);
            }
        }
        self.index(entry, uuid, out);
    }

    pub(crate) fn forget_pid(&mut self, pid: Option<u32>, uuid: Uuid) {
        if let Some(pid) = pid
            && self.pids.get(&pid) == Some(&uuid)
        {
            self.pids.remove(&pid);
        }
    }

    /// A guest's QEMU is told. Another with the same process id is gone, and what the kernel saw this
    /// process open was opened by a guest.
    pub(crate) fn has_pid(&mut self, entry: &Claim<'_>, pid: u32, out: &mut Out) {
        let guest = &entry.record.guest;
        if let Some(other) = self.pids.insert(pid, guest.uuid)
            && other != guest.uuid
            && let Some(lives) = self.guests.get_mut(&other)
            && let Some(gone) = lives.remove_pid(pid)
        {
            if lives.is_empty() {
                self.guests.remove(&other);
            }
            let own = std::mem::take(&mut out.shifts);
            gone.lost(EndedBy::PidReused, None, &entry.proof(), out);
            self.index(entry, other, out);
            out.shifts.extend(own);
        }
        for waiting in self.opens.of_process(pid) {
            let finding = by_itself(&self.name, Some(guest), waiting);
            out.findings.push(finding);
        }
    }

    /// Keeps the index of MACs, and tells of those that two guests have.
    pub(crate) fn index(&mut self, entry: &Claim<'_>, uuid: Uuid, out: &mut Out) {
        if out.shifts.is_empty() {
            return;
        }
        let mut shifts = std::mem::take(&mut out.shifts);
        for (mac, joins) in shifts.drain(..) {
            if !joins {
                self.macs.leave(mac, uuid);
                continue;
            }
            let Some((some, others)) = self.macs.join(mac, uuid) else { continue };
            // Who unplugged it just before may plug it in again, and until then does not have it.
            let mut has = some.iter().filter_map(|other| self.guests.get(other));
            let Some(other) = has.find(|other| other.iter().any(|guest| guest.surely_has(mac))) else {
                continue;
            };
            let name = other.newest().map_or("?", |other| &other.name);
            let more = if others > 1 { format!(" and {} more", others - 1) } else { String::new() };
            let text = format!(
                "Guest '{}' runs with the MAC {mac}, which guest '{name}'{more} has at the same time",
                entry.record.guest.name
            );
            let whose = Whose { host: &entry.host, guest: &entry.record.guest };
            out.tell(FindingKind::DuplicateMac, whose, Some(mac), &entry.proof(), text);
            let granted = other.iter().find_map(|guest| guest.grant_of(mac));
            if let (Some(granted), Some(finding)) = (granted, out.findings.last_mut()) {
                finding.proof.insert(0, granted.clone());
            }
        }
        out.shifts = shifts;
    }

    fn kernel_opened(&mut self, entry: &Entry, open: &KernelOpen, out: &mut Out) {
        if !kernel_opens::matters(open) {
            return;
        }
        if open.errno.is_none()
            && let Some(record) = self.opens.told_before(entry, open)
            && let Some(draft) = opened_by(&mut self.guests, &record)
        {
            let seen = Seen::late(entry, open, &draft.holding.device);
            return draft.seen_late(seen);
        }
        let guest = |pid: u32| self.guests.get(self.pids.get(&pid)?).and_then(Lives::newest);
        if let Some(guest) = guest(open.pid).or_else(|| guest(open.ppid?)) {
            let waiting = Waiting::new(open, entry.proof());
            let finding = by_itself(&self.name, Some(guest), waiting);
            return out.findings.push(finding);
        }
        if let Some(oldest) = self.opens.wait(open, entry.proof()) {
            self.unaudited(oldest, out);
        }
    }

    /// No record told soon the number of what a guest got.
    pub(crate) fn tell_unnumbered(&mut self, of: &Unnumbered, out: &mut Out) {
        let Some(lives) = self.guests.get_mut(&of.guest) else { return };
        let interfaces = lives.iter_mut().filter_map(|guest| guest.interfaces.get_mut(of.mac));
        for draft in interfaces.flat_map(|one| &mut one.operations).flat_map(|one| &mut one.drafts) {
            out.tell_unnumbered(draft);
            draft.unnumbered = false;
        }
    }

    fn unaudited(&self, waiting: Waiting, out: &mut Out) {
        if waiting.succeeded() {
            out.findings.push(by_itself(&self.name, None, waiting));
        }
    }

    fn fragment(&mut self, kind: FindingKind, entry: &Entry, fragment: &Fragment, out: &mut Out) {
        if let Some(device) = &fragment.device {
            self.opens.admit(entry, &recorded(device, None), None);
        }
        let lives = fragment.uuid.and_then(|uuid| self.guests.get(&uuid));
        out.findings.push(ingest::fragment(kind, entry, fragment, lives.and_then(Lives::newest)));
        // What a log lacks and another source has is told by that one; of others nobody knows what they said.
        if kind == FindingKind::SerialGap {
            return;
        }
        match fragment.uuid.map(|uuid| self.guests.get_mut(&uuid)) {
            Some(lives) => {
                let lives = lives.into_iter().flat_map(Lives::iter_mut);
                lives.for_each(|guest| guest.lose(entry.time, entry.time));
            }
            None => self.lose(entry.time, entry.time),
        }
    }

    /// The host started anew: all that its guests held is over.
    fn rebooted(&mut self, at: &Proof, out: &mut Out) {
        for guest in self.take_guests() {
            guest.lost(EndedBy::Reboot, self.last, at, out);
        }
        out.shifts.clear();
        self.macs.clear();
        self.pids.clear();
        self.daemons = Daemons::default();
        for waiting in self.opens.rest() {
            self.unaudited(waiting, out);
        }
    }

    /// It is `now`, and what was written before then has been told.
    pub(crate) fn pass(&mut self, now: Timestamp, out: &mut Out) {
        self.open_overdue(now, out);
        let is_due = |guest: &Guest| guest.due().is_some_and(|due| due < now);
        let due = self.guests.iter().filter(|(_, lives)| lives.iter().any(is_due));
        let mut due: Vec<Uuid> = due.map(|(uuid, _)| *uuid).collect();
        // In an order that does not depend on chance.
        due.sort_unstable();
        for uuid in due {
            let hash_map::Entry::Occupied(mut lives) = self.guests.entry(uuid) else { continue };
            let unplugged = lives.get_mut().iter_mut().filter(|guest| is_due(guest));
            unplugged.for_each(|guest| {
                guest.settle_unplugged(out);
                guest.judge_bare(Some(now), out);
            });
            if lives.get_mut().forget_idle() {
                lives.remove();
            }
            // What is unplugged joins nothing.
            out.shifts.drain(..).for_each(|(mac, _)| self.macs.leave(mac, uuid));
        }
    }

    /// When the next [`pass`](Self::pass) has something to tell.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let unplugged = self.guests.values().flat_map(Lives::iter).filter_map(Guest::due);
        unplugged.chain(self.opens.due()).min()
    }

    fn open_overdue(&mut self, now: Timestamp, out: &mut Out) {
        while let Some(waiting) = self.opens.overdue(now) {
            self.unaudited(waiting, out);
        }
    }

    /// Its ledger tells which steps are in hand.
    pub(crate) fn in_hand(&mut self, steps: &InHand) {
        for (uuid, lives) in &mut self.guests {
            let listed = |mac| {
                steps.steps.iter().any(|(of, for_mac)| of == uuid && for_mac.is_none_or(|of| of == mac))
            };
            lives.iter_mut().for_each(|guest| guest.in_hand(&steps.ledger, listed));
        }
    }

    /// Nothing more is told. `covered` is until when its log goes on, where that is known.
    pub(crate) fn finish(mut self, covered: Option<Timestamp>, out: &mut Out) {
        let until = covered.max(self.last).unwrap_or(Timestamp::MIN);
        for guest in self.take_guests() {
            guest.finish(until, out);
        }
        for waiting in self.opens.rest() {
            self.unaudited(waiting, out);
        }
        out.findings.extend(self.foreign.findings(&self.name));
    }

    /// All guests, in an order that does not depend on chance.
    fn take_guests(&mut self) -> Vec<Guest> {
        let mut all: Vec<_> = std::mem::take(&mut self.guests).into_iter().collect();
        all.sort_by_key(|(uuid, _)| *uuid);
        all.into_iter().flat_map(|(_, lives)| lives.into_guests()).collect()
    }
}

/// What is in the making of an open that a record told not long ago.
fn opened_by<'a>(guests: &'a mut HashMap<Uuid, Lives>, record: &Recent) -> Option<&'a mut Draft> {
    let interfaces = guests.get_mut(&record.guest)?.iter_mut().map(|guest| &mut guest.interfaces);
    let operations = interfaces.filter_map(|all| all.get_mut(record.mac)).flat_map(|one| &mut one.operations);
    operations
        .flat_map(|operation| &mut operation.drafts)
        .find(|draft| draft.holding.opened == Some(record.time) && draft.holding.device.kind == record.kind)
}

/// The kernel saw an open that no record admits, or one of a guest's that failed.
fn by_itself(host: &Arc<str>, guest: Option<&GuestId>, waiting: Waiting) -> Finding {
    let done = waiting.succeeded();
    let Waiting { open, proof, .. } = waiting;
    let device = named(&open.device);
    let opener = match (&*open.exe, open.pid) {
        ("", pid) => format!("Process {pid}"),
        (exe, pid) => format!("{exe} (process {pid})"),
    };
    let of = guest
        .map_or(String::new(), |guest| format!(", the QEMU of guest '{}' or a child of it,", guest.name));
    let text = if open.fd.is_some() {
        format!("{opener}{of} opened {device}, and no record grants it")
    } else if done {
        format!("{opener}{of} asked io_uring to open {device}, and no record grants it")
    } else {
        let why = open
            .errno
            .map_or(String::new(), |errno| format!(": {}", std::io::Error::from_raw_os_error(errno)));
        format!("{opener}{of} tried to open {device} by itself, and was refused{why}")
    };
    Finding {
        kind: if done { FindingKind::UnmanagedOpen } else { FindingKind::RefusedOpen },
        host: Arc::clone(host),
        guest: guest.cloned(),
        mac: None,
        device: Some(open.device),
        time: proof.time,
        text,
        proof: vec![proof],
    }
}
