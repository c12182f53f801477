//! One host: its guests, and what is told of more than one of them.

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::{Event, Fragment, GuestId, KernelOpen, Outcome, Record};
use uuid::Uuid;

use crate::model::entry::RecordEntry;
use crate::output::unnumbered::UnnumberedGrant;
use crate::output::{GuestRef, Output, device_name};
use crate::state::foreign::ForeignPrograms;
use crate::state::guest::Guest;
use crate::state::ingest::{apply_to_guest, fragment_finding, gap_finding, recorded_device};
use crate::state::instances::{GuestInstances, RestartedDaemons};
use crate::state::kernel_opens::{self, KernelEvidence, KernelOpens, PendingOpen, RecentOpen};
use crate::state::mac_index::MacIndex;
use crate::state::open_holding::OpenHolding;
use crate::state::serials::{Continuity, Serials};
use crate::{Content, EndedBy, Entry, Finding, FindingKind, Gap, GapReason, Holding, Proof, StepsInProgress};

/// What is alive on one host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: Arc<str>,
    pub(crate) guests: HashMap<Uuid, GuestInstances>,
    mac_index: MacIndex,
    /// The QEMUs, by their process ids.
    pids: HashMap<u32, Uuid>,
    kernel_opens: KernelOpens,
    daemons: RestartedDaemons,
    foreign: ForeignPrograms,
    serials: Serials,
    /// When it was last told of.
    last_time: Option<Timestamp>,
    /// The last stretch of which records may be missing.
    last_gap: Option<(Timestamp, Timestamp)>,
    /// The last stretch of which the lines are not in order.
    disordered: Option<(Timestamp, Timestamp)>,
}

impl Host {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            guests: HashMap::new(),
            mac_index: MacIndex::default(),
            pids: HashMap::new(),
            kernel_opens: KernelOpens::default(),
            daemons: RestartedDaemons::default(),
            foreign: ForeignPrograms::default(),
            serials: Serials::default(),
            last_time: None,
            last_gap: None,
            disordered: None,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.guests.is_empty()
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = &Holding> {
        let guests = self.guests.values().flat_map(GuestInstances::iter);
        let operations = guests.flat_map(|guest| guest.interfaces.iter()).flat_map(|one| &one.operations);
        let open_holdings = operations.flat_map(|operation| &operation.open_holdings);
        open_holdings
            .filter(|open_holding| open_holding.is_granted() && open_holding.is_open())
            .map(|open_holding| &open_holding.holding)
    }

    pub(crate) fn feed(&mut self, entry: &Entry, out: &mut Output) {
        if let Content::Boot = entry.content {
            self.serials.reset(entry.serial, entry.time);
            self.on_reboot(&entry.proof(), out);
            self.last_time = Some(entry.time);
            return;
        }
        match entry.serial.map(|serial| self.serials.observe(serial, entry.time)) {
            Some(Continuity::NewBoot) => self.on_reboot(&entry.proof(), out),
            Some(Continuity::Unknown) => self.on_serials_fell(entry, out),
            Some(Continuity::SameBoot) | None => {}
        }
        self.report_overdue_opens(entry.time, out);
        let last = self.last_time.replace(entry.time);
        match &entry.content {
            Content::Record(record) => self.apply_record(&RecordEntry { entry, record }, out),
            Content::KernelOpen(open) => self.kernel_opened(entry, open, out),
            Content::Truncated(fragment) => {
                self.apply_fragment(FindingKind::TruncatedRecord, entry, fragment, out)
            }
            Content::Unsent(fragment) => {
                self.apply_fragment(FindingKind::RecordNotSent, entry, fragment, out)
            }
            Content::Missing(fragment) => self.apply_fragment(FindingKind::SerialGap, entry, fragment, out),
            Content::Gap(gap) => {
                let since = gap.since.or(last).unwrap_or(entry.time);
                // Of one stretch many lines may show that they are not in order.
                let known =
                    self.disordered.filter(|(_, until)| gap.why == GapReason::Disordered && since <= *until);
                if gap.why == GapReason::Disordered {
                    let (from, until) = known.unwrap_or((since, entry.time));
                    self.disordered = Some((from.min(since), until.max(entry.time)));
                }
                self.mark_records_lost(since, entry.time);
                if known.is_none() {
                    out.findings.push(gap_finding(entry, gap));
                }
            }
            Content::Foreign { exe } => self.foreign.count(entry, exe),
            Content::Boot | Content::RecordingStopped(_) | Content::RecordingResumed(_) => {}
        }
    }

    /// Records from `since` to `until` may be missing: what is alive is not certain from then on.
    fn mark_records_lost(&mut self, since: Timestamp, until: Timestamp) {
        for guest in self.guests.values_mut().flat_map(GuestInstances::iter_mut) {
            guest.mark_records_lost(since, until);
        }
        self.kernel_opens.mark_records_lost(until);
        self.last_gap = Some((since, until));
    }

    /// The serial numbers fell, and not to those of a boot.
    fn on_serials_fell(&mut self, entry: &Entry, out: &mut Output) {
        let since = self.last_time.unwrap_or(entry.time);
        // The log's own numbers may have told.
        if self.last_gap.is_none_or(|(_, until)| until < since) {
            let gap = Gap { since: Some(since), serials: None, why: GapReason::SerialsFell };
            out.findings.push(gap_finding(entry, &gap));
        }
        self.mark_records_lost(since, entry.time);
    }

    fn apply_record(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        if entry.record.event.is_watched() {
            return self.apply_watcher_record(entry, out);
        }
        let Record { guest, event, outcome, .. } = entry.record;
        let (uuid, done) = (guest.uuid, *outcome == Outcome::Success);
        let stops = done && matches!(event, Event::GuestStop { .. });
        let mut instances = match self.guests.entry(uuid) {
            hash_map::Entry::Occupied(instances) => instances,
            hash_map::Entry::Vacant(_) if stops => return,
            hash_map::Entry::Vacant(none) => none.insert_entry(GuestInstances::default()),
        };
        let at = instances.get_mut().find_or_add(entry, &mut self.daemons, out);
        // Where lines are not in order, what comes next may have come before.
        let disordered = self.disordered.filter(|(_, until)| entry.time < *until);
        if let Some((since, until)) = disordered {
            instances.get_mut().iter_mut().for_each(|guest| guest.mark_records_lost(since, until));
        }
        let guest = instances.get_mut().get_mut(at);
        guest.report_bare_grants(Some(entry.time), out);
        // That it runs or has stopped tells nothing of its interfaces.
        guest.grants_recorded |= match event {
            Event::Open { .. } => false,
            Event::GuestStart { .. } | Event::GuestStop { .. } => !done,
            _ => true,
        };
        let pid = guest.pid;
        let (mut ended, mut uncertain) = (Vec::new(), None);
        let pid_now = if stops {
            instances.get_mut().remove(at).on_stop(entry, out);
            None
        } else {
            uncertain = apply_to_guest(guest, entry, done, self.last_gap, &mut self.kernel_opens, out);
            if let Some((since, until)) = disordered {
                guest.mark_records_lost(since, until);
            }
            guest.last_time = entry.time;
            let idle = guest.is_idle();
            let now = if idle { None } else { guest.pid };
            if done && matches!(event, Event::GuestStart { .. }) {
                ended = instances.get_mut().take_replaced(at, entry);
            } else if idle {
                instances.get_mut().remove(at).report_bare_grants(None, out);
            }
            now
        };
        if instances.get().is_empty() {
            instances.remove();
        }
        for guest in ended {
            self.forget_pid(guest.pid, uuid);
            guest.end_unseen(EndedBy::Restart, None, &entry.proof(), out);
        }
        if let Some(open_holding) = uncertain.and_then(|earlier| find_opened(&mut self.guests, &earlier)) {
            open_holding.clear_queue_count();
        }
        if pid != pid_now {
            self.forget_pid(pid, uuid);
            if let Some(now) = pid_now {
                self.assign_pid(entry, now, out);
            }
        }
        self.update_mac_index(entry, uuid, out);
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
    pub(crate) fn assign_pid(&mut self, entry: &RecordEntry<'_>, pid: u32, out: &mut Output) {
        let guest = &entry.record.guest;
        if let Some(other) = self.pids.insert(pid, guest.uuid)
            && other != guest.uuid
            && let Some(instances) = self.guests.get_mut(&other)
            && let Some(gone) = instances.remove_by_pid(pid)
        {
            if instances.is_empty() {
                self.guests.remove(&other);
            }
            let own = std::mem::take(&mut out.mac_changes);
            gone.end_unseen(EndedBy::PidReused, None, &entry.proof(), out);
            self.update_mac_index(entry, other, out);
            out.mac_changes.extend(own);
        }
        for waiting in self.kernel_opens.take_of_process(pid) {
            let finding = unmanaged_open_finding(&self.name, Some(guest), waiting);
            out.findings.push(finding);
        }
    }

    /// Keeps the index of MACs, and tells of those that two guests have.
    pub(crate) fn update_mac_index(&mut self, entry: &RecordEntry<'_>, uuid: Uuid, out: &mut Output) {
        if out.mac_changes.is_empty() {
            return;
        }
        let mut mac_changes = std::mem::take(&mut out.mac_changes);
        for (mac, joins) in mac_changes.drain(..) {
            if !joins {
                self.mac_index.remove(mac, uuid);
                continue;
            }
            let Some((some, others)) = self.mac_index.add(mac, uuid) else { continue };
            // Who unplugged it just before may plug it in again, and until then does not have it.
            let mut has = some.iter().filter_map(|other| self.guests.get(other));
            let Some(other) = has.find(|other| other.iter().any(|guest| guest.certainly_has(mac))) else {
                continue;
            };
            let name = other.newest().map_or("?", |other| &other.name);
            let more = if others > 1 { format!(" and {} more", others - 1) } else { String::new() };
            let text = format!(
                "Guest '{}' runs with the MAC {mac}, which guest '{name}'{more} has at the same time",
                entry.record.guest.name
            );
            let guest_ref = GuestRef { host: &entry.host, guest: &entry.record.guest };
            out.report_for_guest(FindingKind::DuplicateMac, guest_ref, Some(mac), &entry.proof(), text);
            let granted = other.iter().find_map(|guest| guest.grant_proof(mac));
            if let (Some(granted), Some(finding)) = (granted, out.findings.last_mut()) {
                finding.proof.insert(0, granted.clone());
            }
        }
        out.mac_changes = mac_changes;
    }

    fn kernel_opened(&mut self, entry: &Entry, open: &KernelOpen, out: &mut Output) {
        if !kernel_opens::is_relevant(open) {
            return;
        }
        if open.errno.is_none()
            && let Some(record) = self.kernel_opens.match_earlier_record(entry, open)
            && let Some(open_holding) = find_opened(&mut self.guests, &record)
        {
            let seen = KernelEvidence::after_record(entry, open, &open_holding.holding.device);
            return open_holding.add_kernel_event(seen);
        }
        let guest = |pid: u32| self.guests.get(self.pids.get(&pid)?).and_then(GuestInstances::newest);
        if let Some(guest) = guest(open.pid).or_else(|| guest(open.ppid?)) {
            let waiting = PendingOpen::new(open, entry.proof());
            let finding = unmanaged_open_finding(&self.name, Some(guest), waiting);
            return out.findings.push(finding);
        }
        if let Some(oldest) = self.kernel_opens.add(open, entry.proof()) {
            self.report_unmanaged(oldest, out);
        }
    }

    /// No record told soon the number of what a guest got.
    pub(crate) fn report_unnumbered(&mut self, of: &UnnumberedGrant, out: &mut Output) {
        let Some(instances) = self.guests.get_mut(&of.guest) else { return };
        let interfaces = instances.iter_mut().filter_map(|guest| guest.interfaces.get_mut(of.mac));
        for open_holding in
            interfaces.flat_map(|one| &mut one.operations).flat_map(|one| &mut one.open_holdings)
        {
            out.report_unnumbered(open_holding);
            open_holding.number_pending = false;
        }
    }

    fn report_unmanaged(&self, waiting: PendingOpen, out: &mut Output) {
        if waiting.succeeded() {
            out.findings.push(unmanaged_open_finding(&self.name, None, waiting));
        }
    }

    fn apply_fragment(&mut self, kind: FindingKind, entry: &Entry, fragment: &Fragment, out: &mut Output) {
        if let Some(device) = &fragment.device {
            self.kernel_opens.match_record(entry, &recorded_device(device, None), None);
        }
        let instances = fragment.uuid.and_then(|uuid| self.guests.get(&uuid));
        out.findings.push(fragment_finding(
            kind,
            entry,
            fragment,
            instances.and_then(GuestInstances::newest),
        ));
        // What a log lacks and another source has is told by that one; of others nobody knows what they said.
        if kind == FindingKind::SerialGap {
            return;
        }
        match fragment.uuid.map(|uuid| self.guests.get_mut(&uuid)) {
            Some(instances) => {
                let instances = instances.into_iter().flat_map(GuestInstances::iter_mut);
                instances.for_each(|guest| guest.mark_records_lost(entry.time, entry.time));
            }
            None => self.mark_records_lost(entry.time, entry.time),
        }
    }

    /// The host started anew: all that its guests held is over.
    fn on_reboot(&mut self, at: &Proof, out: &mut Output) {
        for guest in self.take_guests() {
            guest.end_unseen(EndedBy::Reboot, self.last_time, at, out);
        }
        out.mac_changes.clear();
        self.mac_index.clear();
        self.pids.clear();
        self.daemons = RestartedDaemons::default();
        for waiting in self.kernel_opens.take_all() {
            self.report_unmanaged(waiting, out);
        }
    }

    /// It is `now`, and what was written before then has been told.
    pub(crate) fn advance(&mut self, now: Timestamp, out: &mut Output) {
        self.report_overdue_opens(now, out);
        let is_due = |guest: &Guest| guest.deadline().is_some_and(|deadline| deadline < now);
        let deadline = self.guests.iter().filter(|(_, instances)| instances.iter().any(is_due));
        let mut deadline: Vec<Uuid> = deadline.map(|(uuid, _)| *uuid).collect();
        // In an order that does not depend on chance.
        deadline.sort_unstable();
        for uuid in deadline {
            let hash_map::Entry::Occupied(mut instances) = self.guests.entry(uuid) else { continue };
            let pending_detach = instances.get_mut().iter_mut().filter(|guest| is_due(guest));
            pending_detach.for_each(|guest| {
                guest.settle_detach(out);
                guest.report_bare_grants(Some(now), out);
            });
            if instances.get_mut().remove_idle() {
                instances.remove();
            }
            // What is unplugged joins nothing.
            out.mac_changes.drain(..).for_each(|(mac, _)| self.mac_index.remove(mac, uuid));
        }
    }

    /// When the next [`advance`](Self::pass) has something to tell.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let pending_detach = self.guests.values().flat_map(GuestInstances::iter).filter_map(Guest::deadline);
        pending_detach.chain(self.kernel_opens.deadline()).min()
    }

    fn report_overdue_opens(&mut self, now: Timestamp, out: &mut Output) {
        while let Some(waiting) = self.kernel_opens.pop_overdue(now) {
            self.report_unmanaged(waiting, out);
        }
    }

    /// Its ledger tells which steps are in hand.
    pub(crate) fn set_steps_in_progress(&mut self, steps: &StepsInProgress) {
        for (uuid, instances) in &mut self.guests {
            let listed = |mac| {
                steps.steps.iter().any(|(of, for_mac)| of == uuid && for_mac.is_none_or(|of| of == mac))
            };
            instances.iter_mut().for_each(|guest| guest.set_steps_in_progress(&steps.ledger, listed));
        }
    }

    /// Nothing more is told. `covered` is until when its log goes on, where that is known.
    pub(crate) fn finish(mut self, covered: Option<Timestamp>, out: &mut Output) {
        let until = covered.max(self.last_time).unwrap_or(Timestamp::MIN);
        for guest in self.take_guests() {
            guest.finish(until, out);
        }
        for waiting in self.kernel_opens.take_all() {
            self.report_unmanaged(waiting, out);
        }
        out.findings.extend(self.foreign.findings(&self.name));
    }

    /// All guests, in an order that does not depend on chance.
    fn take_guests(&mut self) -> Vec<Guest> {
        let mut all: Vec<_> = std::mem::take(&mut self.guests).into_iter().collect();
        all.sort_by_key(|(uuid, _)| *uuid);
        all.into_iter().flat_map(|(_, instances)| instances.into_guests()).collect()
    }
}

/// What is in the making of an open that a record told not long ago.
fn find_opened<'a>(
    guests: &'a mut HashMap<Uuid, GuestInstances>,
    record: &RecentOpen,
) -> Option<&'a mut OpenHolding> {
    let interfaces = guests.get_mut(&record.guest)?.iter_mut().map(|guest| &mut guest.interfaces);
    let operations = interfaces.filter_map(|all| all.get_mut(record.mac)).flat_map(|one| &mut one.operations);
    operations.flat_map(|operation| &mut operation.open_holdings).find(|open_holding| {
        open_holding.holding.opened == Some(record.time) && open_holding.holding.device.kind == record.kind
    })
}

/// The kernel saw an open that no record admits, or one of a guest's that failed.
fn unmanaged_open_finding(host: &Arc<str>, guest: Option<&GuestId>, waiting: PendingOpen) -> Finding {
    let done = waiting.succeeded();
    let PendingOpen { open, proof, .. } = waiting;
    let device = device_name(&open.device);
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
