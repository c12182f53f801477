//! One host: its guests, and the records that are about more than one of them.

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::{
    BridgeOpen, DeviceKind, Event, Fragment, GuestId, KernelOpen, Outcome, Record, ResourceChange,
};
use uuid::Uuid;

use crate::model::entry::RecordEntry;
use crate::output::unnumbered::UnnumberedGrant;
use crate::output::{GuestRef, Output, device_name};
use crate::state::bridge_taps::BridgeTaps;
use crate::state::foreign::ForeignPrograms;
use crate::state::guest::Guest;
use crate::state::ingest::{apply_to_guest, fragment_finding, gap_finding, recorded_device};
use crate::state::instances::{GuestInstances, RestartedDaemons};
use crate::state::kernel_opens::{self, KernelEvidence, KernelOpens, PendingOpen, RecentOpen};
use crate::state::mac_index::MacIndex;
use crate::state::open_holding::OpenHolding;
use crate::state::process_records::{Denials, GoneProcesses};
use crate::state::run::stop_of_unknown_guest;
use crate::state::serials::{Continuity, Serials};
use crate::{
    Content, EndedBy, Entry, Finding, FindingKind, Gap, GapReason, Holding, Incident, Proof, StepsInProgress,
};

/// The guests of one host, and what is known of the host itself.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: Arc<str>,
    pub(crate) guests: HashMap<Uuid, GuestInstances>,
    mac_index: MacIndex,
    /// The guest of each QEMU process.
    pub(crate) pids: HashMap<u32, Uuid>,
    kernel_opens: KernelOpens,
    bridge_taps: BridgeTaps,
    pub(crate) denials: Denials,
    pub(crate) gone: GoneProcesses,
    daemons: RestartedDaemons,
    foreign: ForeignPrograms,
    serials: Serials,
    /// The time of its last entry.
    last_time: Option<Timestamp>,
    /// The last time range of which records may be missing.
    last_gap: Option<(Timestamp, Timestamp)>,
    /// The last time range in which lines are not in order.
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
            bridge_taps: BridgeTaps::default(),
            denials: Denials::default(),
            gone: GoneProcesses::default(),
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
        open_holdings.filter(|open_holding| open_holding.is_held()).map(|open_holding| &open_holding.holding)
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
            Content::BridgeOpen(open) => self.bridge_opened(entry, open, out),
            Content::BridgeClose(close) => self.bridge_taps.on_close(entry, close, out),
            Content::Abend(abend) => self.on_abend(entry, abend, out),
            Content::Denial(denial) => self.on_denial(entry, denial, out),
            Content::Truncated(fragment) => {
                self.apply_fragment(FindingKind::TruncatedRecord, entry, fragment, out)
            }
            Content::Unsent(fragment) => {
                self.apply_fragment(FindingKind::RecordNotSent, entry, fragment, out)
            }
            Content::Missing(fragment) => self.apply_fragment(FindingKind::SerialGap, entry, fragment, out),
            Content::Gap(gap) => {
                let since = gap.since.or(last).unwrap_or(entry.time);
                // Many lines may show that one time range is not in order.
                let known =
                    self.disordered.filter(|(_, until)| gap.why == GapReason::Disordered && since <= *until);
                if gap.why == GapReason::Disordered {
                    let (from, until) = known.unwrap_or((since, entry.time));
                    self.disordered = Some((from.min(since), until.max(entry.time)));
                }
                self.mark_records_lost(since, entry.time);
                if known.is_none() {
                    out.report_alone(gap_finding(entry, gap));
                }
            }
            Content::Foreign { exe } => self.foreign.count(entry, exe),
            Content::Resource(change) => self.on_host_device(entry, change, out),
            Content::Boot | Content::RecordingStopped(_) | Content::RecordingResumed(_) => {}
        }
    }

    /// A guest got one of the host's PCI devices, or gave it up: it may be a network card.
    fn on_host_device(&mut self, entry: &Entry, change: &ResourceChange, out: &mut Output) {
        let Some(address) = change.host_pci().filter(|_| change.outcome == Outcome::Success) else { return };
        let instances = self.guests.get_mut(&change.guest.uuid);
        let Some(guest) = instances.and_then(|all| all.newest_of(entry.writer)) else { return };
        match &*change.reason {
            "start" => guest.on_host_device_started(entry, address),
            "detach" => guest.on_host_device_detached(entry, address, out),
            // The record of a hot-plug comes without one of its interface.
            _ => {}
        }
    }

    /// Records from `since` to `until` may be missing: all holdings are uncertain from then on.
    fn mark_records_lost(&mut self, since: Timestamp, until: Timestamp) {
        for guest in self.guests.values_mut().flat_map(GuestInstances::iter_mut) {
            guest.mark_records_lost(since, until);
        }
        self.kernel_opens.mark_records_lost(until);
        self.bridge_taps.mark_records_lost(since);
        self.last_gap = Some((since, until));
    }

    /// The serial numbers fell, and not to those of a boot.
    fn on_serials_fell(&mut self, entry: &Entry, out: &mut Output) {
        let since = self.last_time.unwrap_or(entry.time);
        // The log may have reported this gap already.
        if self.last_gap.is_none_or(|(_, until)| until < since) {
            let gap = Gap { since: Some(since), serials: None, why: GapReason::SerialsFell };
            out.report_alone(gap_finding(entry, &gap));
        }
        self.mark_records_lost(since, entry.time);
    }

    fn apply_record(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        if entry.record.event.is_observation() {
            return self.apply_watcher_record(entry, out);
        }
        let Record { guest, event, outcome, .. } = entry.record;
        let (uuid, done) = (guest.uuid, *outcome == Outcome::Success);
        let stops = done && matches!(event, Event::GuestStop { .. });
        let mut instances = match self.guests.entry(uuid) {
            hash_map::Entry::Occupied(instances) => instances,
            hash_map::Entry::Vacant(_) if stops => {
                out.incidents.forget_failed(entry);
                return stop_of_unknown_guest(entry, out);
            }
            hash_map::Entry::Vacant(none) => none.insert_entry(GuestInstances::default()),
        };
        let at = instances.get_mut().find_or_add(entry, &mut self.daemons, out);
        // Where lines are not in order, the next one may have come earlier.
        let disordered = self.disordered.filter(|(_, until)| entry.time < *until);
        if let Some((since, until)) = disordered {
            instances.get_mut().iter_mut().for_each(|guest| guest.mark_records_lost(since, until));
        }
        let guest = instances.get_mut().get_mut(at);
        guest.report_bare_grants(Some(entry.time), out);
        guest.check_crash(entry);
        // A start or stop record says nothing about grants.
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
            guest.follow_run(entry, out);
            // An open or start may be of a new run: it does not show that the last one had not ended.
            if !matches!(event, Event::Open { .. } | Event::Start { .. }) {
                guest.last_time = entry.time;
            }
            let idle = guest.is_idle();
            let now = if idle { None } else { guest.pid };
            if done && matches!(event, Event::GuestStart { .. }) {
                ended = instances.get_mut().take_replaced(at, entry);
            } else if idle {
                let mut guest = instances.get_mut().remove(at);
                guest.report_bare_grants(None, out);
                guest.report_open_updates(out);
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
        out.incidents.forget_failed(entry);
        self.update_mac_index(entry, uuid, out);
    }

    pub(crate) fn forget_pid(&mut self, pid: Option<u32>, uuid: Uuid) {
        if let Some(pid) = pid
            && self.pids.get(&pid) == Some(&uuid)
        {
            self.pids.remove(&pid);
        }
    }

    /// A record shows the pid of a guest's QEMU. Another guest with this pid has ended, and opens
    /// that the kernel recorded for this process were the guest's.
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
            let this_guests = std::mem::take(&mut out.mac_changes);
            gone.end_unseen(EndedBy::PidReused, None, &entry.proof(), out);
            self.update_mac_index(entry, other, out);
            out.mac_changes.extend(this_guests);
        }
        self.denials.assign_pid(&self.name, guest, pid, out);
        for pending_open in self.kernel_opens.take_of_process(pid) {
            let finding = unmanaged_open_finding(&self.name, Some(guest), pending_open);
            out.report_alone(finding);
        }
    }

    /// Updates the MAC index, and reports MACs that two guests have.
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
            // A guest with a pending detach of this MAC counts as without it.
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
            let evidence = KernelEvidence::after_record(entry, open, &open_holding.holding.device);
            return open_holding.add_kernel_event(evidence);
        }
        let guest = |pid: u32| self.guests.get(self.pids.get(&pid)?).and_then(GuestInstances::newest);
        if let Some(guest) = guest(open.pid).or_else(|| guest(open.ppid?)) {
            let pending_open = PendingOpen::new(open, entry.proof());
            let finding = unmanaged_open_finding(&self.name, Some(guest), pending_open);
            return out.report_alone(finding);
        }
        if let Some(oldest) = self.kernel_opens.add(open, entry.proof()) {
            self.report_unmanaged(oldest, out);
        }
    }

    /// The bridge helper's record accounts for the open(2) that the kernel recorded.
    fn bridge_opened(&mut self, entry: &Entry, open: &BridgeOpen, out: &mut Output) {
        if let Some(device) = &open.device {
            self.kernel_opens.match_record(entry, device, Some(0));
        }
        self.bridge_taps.on_open(entry, open, out);
    }

    /// No record gave the number of a granted device in time.
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

    fn report_unmanaged(&self, pending_open: PendingOpen, out: &mut Output) {
        // libvirt opens vDPA devices without a record, and which interface one is for can't be known.
        let is_silent = pending_open.open.device.kind == DeviceKind::VhostVdpa;
        if pending_open.succeeded() && !is_silent {
            out.report_alone(unmanaged_open_finding(&self.name, None, pending_open));
        }
    }

    fn apply_fragment(&mut self, kind: FindingKind, entry: &Entry, fragment: &Fragment, out: &mut Output) {
        if let Some(device) = &fragment.device {
            self.kernel_opens.match_record(entry, &recorded_device(device, None), None);
        }
        let instances = fragment.uuid.and_then(|uuid| self.guests.get(&uuid));
        let newest = instances.and_then(GuestInstances::newest);
        out.report_alone(fragment_finding(kind, entry, fragment, newest));
        // A record that the log lacks comes from the other source; the content of other fragments
        // is unknown.
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

    /// The host booted: all that its guests held has ended.
    fn on_reboot(&mut self, at: &Proof, out: &mut Output) {
        for guest in self.take_guests() {
            guest.end_unseen(EndedBy::Reboot, self.last_time, at, out);
        }
        self.bridge_taps.on_reboot(&self.name, self.last_time, at, out);
        out.mac_changes.clear();
        self.mac_index.clear();
        self.pids.clear();
        self.daemons = RestartedDaemons::default();
        self.denials.report_overdue(&self.name, None, out);
        self.denials = Denials::default();
        self.gone = GoneProcesses::default();
        for pending_open in self.kernel_opens.take_all() {
            self.report_unmanaged(pending_open, out);
        }
    }

    /// The time is `now`, and all entries written before then have been fed.
    pub(crate) fn advance(&mut self, now: Timestamp, out: &mut Output) {
        self.report_overdue_opens(now, out);
        let is_due = |guest: &Guest| guest.deadline().is_some_and(|deadline| deadline < now);
        let due = self.guests.iter().filter(|(_, instances)| instances.iter().any(is_due));
        let mut due: Vec<Uuid> = due.map(|(uuid, _)| *uuid).collect();
        // In an order that does not depend on hashing.
        due.sort_unstable();
        for uuid in due {
            let hash_map::Entry::Occupied(mut instances) = self.guests.entry(uuid) else { continue };
            let guests = instances.get_mut().iter_mut().filter(|guest| is_due(guest));
            guests.for_each(|guest| {
                guest.settle_detach(out);
                guest.report_bare_grants(Some(now), out);
            });
            if instances.get_mut().remove_idle() {
                instances.remove();
            }
            // A guest that ends leaves the MAC index.
            out.mac_changes.drain(..).for_each(|(mac, _)| self.mac_index.remove(mac, uuid));
        }
    }

    /// When the next [`advance`](Self::advance) has something to do.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let guests = self.guests.values().flat_map(GuestInstances::iter).filter_map(Guest::deadline);
        guests.chain(self.kernel_opens.deadline()).chain(self.denials.deadline()).min()
    }

    fn report_overdue_opens(&mut self, now: Timestamp, out: &mut Output) {
        self.denials.report_overdue(&self.name, Some(now), out);
        while let Some(pending_open) = self.kernel_opens.pop_overdue(now) {
            self.report_unmanaged(pending_open, out);
        }
    }

    /// The host's ledger lists the steps in progress.
    pub(crate) fn set_steps_in_progress(&mut self, steps: &StepsInProgress) {
        for (uuid, instances) in &mut self.guests {
            let listed = |mac| {
                steps.steps.iter().any(|(of, for_mac)| of == uuid && for_mac.is_none_or(|of| of == mac))
            };
            instances.iter_mut().for_each(|guest| guest.set_steps_in_progress(&steps.ledger, listed));
        }
    }

    /// The trail ends. `covered` is until when the host's log goes on, where that is known.
    pub(crate) fn finish(mut self, covered: Option<Timestamp>, out: &mut Output) {
        let until = covered.max(self.last_time).unwrap_or(Timestamp::MIN);
        for guest in self.take_guests() {
            guest.finish(until, out);
        }
        self.bridge_taps.finish(&self.name, out);
        self.denials.report_overdue(&self.name, None, out);
        for pending_open in self.kernel_opens.take_all() {
            self.report_unmanaged(pending_open, out);
        }
        self.foreign.findings(&self.name).for_each(|finding| out.report_alone(finding));
    }

    /// All guests, in an order that does not depend on hashing.
    fn take_guests(&mut self) -> Vec<Guest> {
        let mut all: Vec<_> = std::mem::take(&mut self.guests).into_iter().collect();
        all.sort_by_key(|(uuid, _)| *uuid);
        all.into_iter().flat_map(|(_, instances)| instances.into_guests()).collect()
    }
}

/// The open holding of a recent open record.
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

/// The finding for an open that the kernel recorded and no manager did, or that failed in a guest's
/// QEMU.
fn unmanaged_open_finding(host: &Arc<str>, guest: Option<&GuestId>, pending_open: PendingOpen) -> Finding {
    let done = pending_open.succeeded();
    let PendingOpen { open, proof, .. } = pending_open;
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
        incident: Incident::default(),
    }
}
