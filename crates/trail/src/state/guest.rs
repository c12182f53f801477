use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, DeviceKind, Event, GuestId, MacAddr, UpdatePhase};

use crate::model::entry::RecordEntry;
use crate::model::holding::MAX_OPEN_TO_GRANT;
use crate::output::incidents::is_backend;
use crate::output::{GuestRef, Output, device_name, errno_suffix, subject_name};
use crate::state::interface::Interface;
use crate::state::interfaces::Interfaces;
use crate::state::kernel_opens::KernelOpens;
use crate::state::open_holding::{self, OpenHolding, RecordedOpen};
use crate::state::operation::{GrantMethod, Operation, Phase, SAME_OPEN_WINDOW};
use crate::state::run::OpenRun;
use crate::time::after;
use crate::{Certainty, Doubt, EndedBy, Entry, Finding, FindingKind, Incident, Proof};

/// One guest on one host under one daemon, while the trail tracks it. The records of its interfaces
/// are applied here, those of the whole guest in [`crate::state::lifecycle`].
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) host: Arc<str>,
    pub(crate) id: GuestId,
    /// The process that writes its records: a daemon or a supervisor.
    pub(crate) writer: Option<u32>,
    /// Whether another instance of the same guest is tracked beside it, and no record has shown yet
    /// which of the two goes on.
    pub(crate) tentative: bool,
    /// Whether it is known to run: then a start record begins a new run.
    pub(crate) running: bool,
    /// Whether the trail has this run from its start.
    pub(crate) from_start: bool,
    pub(crate) pid: Option<u32>,
    /// When its QEMU got a fatal signal.
    pub(crate) crashed: Option<Timestamp>,
    /// Its run, if runs are asked for: there is one as long as it is `running`.
    pub(crate) run: Option<OpenRun>,
    pub(crate) interfaces: Interfaces,
    pub(crate) pending_detach: Option<PendingDetach>,
    /// The time of its manager's last record that shows that it had not ended.
    pub(crate) last_time: Timestamp,
    /// Whether its manager has recorded more than opens: some managers record no grants at all.
    pub(crate) grants_recorded: bool,
    /// Whether a watcher looks into its QEMU.
    pub(crate) watched: bool,
    /// Until when records of it may be missing.
    pub(crate) lost_until: Option<Timestamp>,
    /// Grants without an open. If a watcher looks into QEMU and sees no device, there was none.
    bare_grants: Vec<Finding>,
    /// Updates of interfaces whose outcome is not recorded: at most one of each MAC, and some.
    open_updates: Vec<Finding>,
}

/// How long a watcher may take to see a granted device.
const BARE_GRANT_TIMEOUT: SignedDuration = SignedDuration::from_secs(5);

/// libvirt's detach record, while the next record may be an attach of the same MAC: libvirt records
/// a change of bridge so, and it ends nothing.
#[derive(Debug)]
pub(crate) struct PendingDetach {
    pub(crate) mac: MacAddr,
    at: Proof,
    /// Whether that attach failed: QEMU still has its devices, with no bridge behind them.
    pub(crate) attach_failed: bool,
    /// Whether that attach may be among missing records.
    attach_may_be_lost: bool,
}

/// The two records of a change of bridge come within this time; a later attach is another
/// interface.
const BRIDGE_CHANGE_WINDOW: SignedDuration = SignedDuration::from_secs(5);

impl PendingDetach {
    /// Whether an attach of this MAC is the second record of a change of bridge.
    fn is_completed_by(&self, entry: &RecordEntry<'_>, mac: MacAddr) -> bool {
        self.mac == mac && entry.time.duration_since(self.at.time).abs() <= BRIDGE_CHANGE_WINDOW
    }
}

/// How many MACs of one guest are tracked: QEMU has fewer slots.
const MAX_INTERFACES: usize = 1024;

impl Guest {
    pub(crate) fn new(entry: &RecordEntry<'_>, tentative: bool) -> Self {
        Self {
            host: Arc::clone(&entry.host),
            id: entry.record.guest.clone(),
            writer: entry.writer,
            tentative,
            running: false,
            from_start: false,
            pid: None,
            crashed: None,
            run: None,
            interfaces: Interfaces::default(),
            pending_detach: None,
            last_time: entry.time,
            grants_recorded: false,
            watched: false,
            lost_until: None,
            bare_grants: Vec::new(),
            open_updates: Vec::new(),
        }
    }

    /// Records from `since` to `until` may be missing.
    pub(crate) fn mark_records_lost(&mut self, since: Timestamp, until: Timestamp) {
        for (_, interface) in self.interfaces.iter_mut() {
            interface.operations.iter_mut().for_each(|operation| operation.mark_records_lost(since));
        }
        if let Some(pending_detach) = &mut self.pending_detach {
            pending_detach.attach_may_be_lost = true;
        }
        if let Some(run) = &mut self.run {
            run.mark_records_lost(since);
        }
        // A device that it gives up from now on may have been granted meanwhile.
        self.from_start = false;
        self.lost_until = Some(until);
    }

    /// Whether the record of this grant's open may be missing.
    fn may_have_lost_open(&self, grant: Timestamp) -> bool {
        self.lost_until.is_some_and(|until| grant.duration_since(until) <= MAX_OPEN_TO_GRANT)
    }

    /// Reports the grants without an open for which the wait is over: all of them, without `now`.
    pub(crate) fn report_bare_grants(&mut self, now: Option<Timestamp>, out: &mut Output) {
        let is_due =
            |finding: &mut Finding| now.is_none_or(|now| after(finding.time, BARE_GRANT_TIMEOUT) < now);
        for finding in self.bare_grants.extract_if(.., is_due) {
            let interface = finding.mac.and_then(|mac| self.interfaces.get_mut(mac));
            let operations = interface.into_iter().flat_map(|interface| &mut interface.operations);
            let mut may_hold = !self.watched;
            if self.watched {
                // A watcher that looks into QEMU and sees no device of the interface shows that it has
                // none. It does not look for PCI devices, and does not guess whose a vDPA device is.
                for operation in operations {
                    operation.drop_unknown();
                    may_hold |= operation.open_holdings.iter().any(OpenHolding::is_unrecorded);
                }
            }
            if may_hold {
                report_bare_grant(finding, out);
            }
        }
    }

    /// It got one of the host's PCI devices at its start, as interfaces without a recorded open may
    /// be.
    pub(crate) fn on_host_device_started(&mut self, entry: &Entry, address: &str) {
        let proof = entry.proof();
        for (mac, interface) in self.interfaces.iter_mut() {
            let mut is_possible = false;
            for operation in &mut interface.operations {
                is_possible |= operation.add_host_device(address, &proof);
            }
            if !is_possible {
                continue;
            }
            for finding in self.bare_grants.iter_mut().filter(|finding| finding.mac == Some(mac)) {
                finding.text += &match finding.kind {
                    FindingKind::PossibleDevice => format!(", or {address}"),
                    _ => format!(". Its guest got the host's PCI device {address}, which may be its device"),
                };
                finding.kind = FindingKind::PossibleDevice;
                proof.clone().add_to(&mut finding.proof);
            }
        }
    }

    /// It gave up one of the host's PCI devices.
    pub(crate) fn on_host_device_detached(&mut self, entry: &Entry, address: &str, out: &mut Output) {
        let operations = self.interfaces.iter_mut().flat_map(|(_, interface)| &mut interface.operations);
        operations.for_each(|operation| operation.remove_host_device(address, &entry.proof(), out));
    }

    /// The settings of an interface are about to be changed, or were.
    pub(crate) fn on_update(
        &mut self,
        entry: &RecordEntry<'_>,
        mac: MacAddr,
        phase: UpdatePhase,
        settings: &str,
        out: &mut Output,
    ) {
        let known = self.open_updates.iter().position(|of| of.mac == Some(mac));
        let open = known.map(|at| self.open_updates.remove(at));
        if phase == UpdatePhase::End {
            return;
        }
        if self.open_updates.len() >= MAX_INTERFACES {
            self.report_open_updates(out);
        }
        open.into_iter().for_each(|finding| out.report_alone(finding));
        let text = format!(
            "{} for {} was to be changed ({settings}), and whether it was is not known",
            entry.record.event.device().map(device_name).unwrap_or_default(),
            subject_name(entry),
        );
        self.open_updates.push(out.finding(FindingKind::UpdateUnknown, entry, text));
    }

    /// Reports the updates whose outcome no record will show.
    pub(crate) fn report_open_updates(&mut self, out: &mut Output) {
        self.open_updates.drain(..).for_each(|finding| out.report_alone(finding));
    }

    /// A watcher saw a device of this interface, for which no open is recorded. Managers other than
    /// taptrail never record that of a vDPA device.
    pub(crate) fn settle_bare_grant_of(&mut self, mac: MacAddr, seen: DeviceKind, out: &mut Output) {
        let is_its = |finding: &mut Finding| finding.mac == Some(mac);
        for finding in self.bare_grants.extract_if(.., is_its).filter(|_| seen != DeviceKind::VhostVdpa) {
            report_bare_grant(finding, out);
        }
    }

    /// The start of this guest failed, and with it the grant that no open led to.
    pub(crate) fn set_bare_grant_incident(&mut self, mac: MacAddr, number: u64) {
        for finding in self.bare_grants.iter_mut().filter(|finding| finding.mac == Some(mac)) {
            finding.incident = Incident { number, follows: true };
        }
    }

    /// A guest that a watcher saw running, and of which no manager has written a record.
    pub(crate) fn running(entry: &RecordEntry<'_>) -> Self {
        Self { writer: None, running: true, ..Self::new(entry, false) }
    }

    /// The interface with this MAC, added if it is new.
    pub(crate) fn interface(&mut self, mac: MacAddr, out: &mut Output) -> &mut Interface {
        if self.interfaces.len() >= MAX_INTERFACES
            && self.interfaces.get(mac).is_none()
            && let Some((mac, one)) = self.interfaces.pop_last()
        {
            out.remove_from_mac_index(mac, one.indexed_count);
            let open_holdings = one.operations.into_iter().flat_map(Operation::into_open_holdings);
            open_holdings.for_each(|open_holding| out.emit_unclosed(open_holding));
        }
        self.interfaces.get_or_new(mac)
    }

    /// A device was opened. `lost` is the last time range of which records may be missing.
    pub(crate) fn on_open(
        &mut self,
        entry: &RecordEntry<'_>,
        opened: &RecordedOpen<'_>,
        lost: Option<(Timestamp, Timestamp)>,
        out: &mut Output,
    ) {
        self.settle_detach(out);
        let interface = self.interface(opened.mac, out);
        // No record gave the reason of these closes, and a new run of the interface begins.
        interface.end_closed(EndedBy::Close, None, out);
        interface
            .current_operation(entry.time, |operation| operation.accepts(opened.device, opened.queue), out)
            .add_open(entry, opened, out);
        // The record of a contradicting failure would come just before: it may be missing.
        if let Some((since, until)) = lost
            && opened.may_be_recorded_twice()
            && entry.time.duration_since(until) <= SAME_OPEN_WINDOW
        {
            interface.operations.iter_mut().rev().take(1).for_each(|newest| newest.mark_records_lost(since));
        }
    }

    pub(crate) fn on_open_failed(
        &mut self,
        entry: &RecordEntry<'_>,
        opened: &RecordedOpen<'_>,
        out: &mut Output,
    ) {
        self.settle_detach(out);
        let holding = open_holding::failed_open(entry, opened);
        let (mac, device) = (opened.mac, device_name(opened.device));
        let text = match opened.kernel {
            Some(_) => {
                format!("A step after the open of {device} for {mac} failed: the kernel had opened it")
            }
            None => format!("The open of {device} for {mac} failed{}", errno_suffix(entry)),
        };
        let incident = match opened.kernel {
            Some(_) => out.report_for_holding(FindingKind::OpenFailed, &holding, text),
            None => out.report(FindingKind::OpenFailed, entry, text),
        };
        out.holdings.push(holding);
        if is_backend(opened.device) {
            out.incidents.remember_failed(entry, mac, incident);
        }
        self.interface(mac, out)
            .current_operation(entry.time, Operation::accepts_failed, out)
            .add_failed_open(entry, opened, incident, out);
    }

    /// QEMU got an interface. `pid_in_record` is QEMU's pid in this very record: only a writer that
    /// has seen the descriptors in QEMU gives it.
    pub(crate) fn on_grant(
        &mut self,
        entry: &RecordEntry<'_>,
        mac: MacAddr,
        method: GrantMethod,
        pid_in_record: Option<u32>,
        kernel_opens: &KernelOpens,
        out: &mut Output,
    ) {
        let (phase, pid) = match method {
            GrantMethod::Start => {
                if self.running {
                    self.end_previous_run(entry, out);
                }
                self.from_start = true;
                // The pid known so far is that of an earlier run.
                (Phase::Booted, pid_in_record)
            }
            GrantMethod::Attach => {
                self.running = true;
                self.confirm_boot(entry, out);
                self.pid = pid_in_record.or(self.pid);
                (Phase::Granted, self.pid)
            }
        };
        let certainty = if pid_in_record.is_some() { Certainty::Definitive } else { Certainty::Inferred };
        if self.interface(mac, out).find_opening(method).is_none()
            && method == GrantMethod::Attach
            && let Some(pending_detach) =
                self.pending_detach.take_if(|one| one.is_completed_by(entry, mac) && !one.attach_may_be_lost)
        {
            return self.on_reattach(entry, mac, &pending_detach.at, out);
        }
        self.settle_detach(out);
        let interface = self.interface(mac, out);
        let Some(at) = interface.find_opening(method) else {
            let mut possible = Vec::new();
            if method == GrantMethod::Start || interface.count_plugged() == 0 {
                possible = kernel_opens.unrecorded_vdpa(entry.writer, entry.time);
                let unrecorded = |possible| OpenHolding::unrecorded(entry, mac, possible);
                let unrecorded = match &possible[..] {
                    [] => vec![unrecorded(None)],
                    some => some.iter().map(|one| unrecorded(Some(one))).collect(),
                };
                interface.add(Operation::bare(phase, entry.proof(), unrecorded), entry.time, out);
            }
            if !self.may_have_lost_open(entry.time) {
                let finding = bare_grant_finding(entry, mac, &possible, out);
                if out.reports_bare_grants_at_once {
                    out.report_alone(finding);
                } else {
                    self.bare_grants.push(finding);
                }
            }
            return;
        };
        interface.doubt_other_attempts(at, entry.time);
        interface.operations[at].grant(phase, entry, pid, certainty);
        if method == GrantMethod::Attach {
            interface.operations[at].await_numbers(entry, out);
            // Earlier attempts, of which no record shows the end.
            let given_up = |operation: &mut Operation| operation.phase == Phase::Opening;
            interface.operations[at].end_contradicted(&entry.proof(), out);
            for mut given_up in interface.operations.extract_if(..at, given_up) {
                given_up.set_latest_end(entry.time);
                given_up.end(EndedBy::Close, None, out);
            }
        }
    }

    /// The guest runs, so it has what it was given at its start.
    pub(crate) fn confirm_boot(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        let pid = self.pid;
        for (_, interface) in self.interfaces.iter_mut() {
            let booted = |operation: &&mut Operation| operation.phase == Phase::Booted;
            for operation in interface.operations.iter_mut().filter(booted) {
                operation.phase = Phase::Granted;
                for open_holding in &mut operation.open_holdings {
                    open_holding.holding.pid = open_holding.holding.pid.or(pid);
                }
                operation.await_numbers(entry, out);
                operation.end_contradicted(&entry.proof(), out);
            }
        }
    }

    /// The interface was recorded as unplugged, and was not.
    fn on_reattach(&mut self, entry: &RecordEntry<'_>, mac: MacAddr, detached: &Proof, out: &mut Output) {
        for operation in &mut self.interface(mac, out).operations {
            if operation.is_held() {
                operation.add_proof(detached);
                operation.add_proof(&entry.proof());
            }
        }
        let text =
            format!("{mac} was unplugged and plugged in again with no open between: QEMU kept its devices");
        out.report(FindingKind::ReattachedWithoutOpen, entry, text);
    }

    /// QEMU did not get an interface.
    pub(crate) fn on_refusal(
        &mut self,
        entry: &RecordEntry<'_>,
        mac: MacAddr,
        method: GrantMethod,
        out: &mut Output,
    ) {
        let (kind, what) = match method {
            GrantMethod::Start => (FindingKind::StartFailed, "given to QEMU at its start"),
            GrantMethod::Attach => (FindingKind::AttachFailed, "plugged in"),
        };
        let opening = self.interfaces.get(mac).and_then(|interface| interface.find_opening(method));
        let changes = |pending_detach: &&mut PendingDetach| {
            method == GrantMethod::Attach && pending_detach.is_completed_by(entry, mac)
        };
        if opening.is_none()
            && let Some(pending_detach) = self.pending_detach.as_mut().filter(changes)
        {
            pending_detach.attach_failed = true;
            let text = format!("{mac} could not be given another bridge, and QEMU still has its devices");
            out.report(kind, entry, text);
            return;
        }
        // The interfaces of a guest fail to start together; a hot-plug fails alone.
        let attempt = Some(mac).filter(|_| method == GrantMethod::Attach);
        let mut incident = out.incidents.failed(entry, attempt);
        out.in_attempt(&mut incident, |out| {
            out.report(kind, entry, format!("{mac} could not be {what}{}", errno_suffix(entry)))
        });
        if let (GrantMethod::Start, Some(incident)) = (method, incident) {
            out.incidents.remember_failed(entry, mac, incident);
        }
        let Some((interface, at)) = self.interfaces.get_mut(mac).zip(opening) else { return };
        interface.doubt_other_attempts(at, entry.time);
        let operations = &mut interface.operations;
        // A record with a count of descriptors means that they were on their way to QEMU.
        if let Event::Start { fds: Some(_), .. } | Event::Attach { fds: Some(_), .. } = entry.record.event {
            operations[at].mark_possibly_passed();
        }
        operations[at].incident = incident;
        if operations[at].expects_closes() {
            operations[at].phase = Phase::Refused;
            operations[at].add_proof(&entry.proof());
        } else {
            let mut refused = operations.remove(at);
            refused.doubt_grant(Doubt::Failed);
            refused.end(EndedBy::Close, Some(&entry.proof()), out);
        }
    }

    pub(crate) fn on_detach(
        &mut self,
        entry: &RecordEntry<'_>,
        mac: MacAddr,
        forced: bool,
        out: &mut Output,
    ) {
        self.settle_detach(out);
        self.running = true;
        self.confirm_boot(entry, out);
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
                out.report(FindingKind::DetachWithoutGrant, entry, text);
                return;
            }
            interface
                .operations
                .push(Operation::from_before_trail(OpenHolding::from_before_trail(entry, mac)));
        }
        if !forced {
            self.pending_detach =
                Some(PendingDetach { mac, at: proof, attach_failed: false, attach_may_be_lost: false });
        } else if let Some(interface) = self.interfaces.get_mut(mac) {
            let guest_ref = GuestRef { host: &self.host, guest: &self.id };
            interface.release(guest_ref, mac, cause, &proof, out);
        }
    }

    pub(crate) fn on_detach_failed(&mut self, entry: &RecordEntry<'_>, mac: MacAddr, out: &mut Output) {
        self.settle_detach(out);
        out.report(
            FindingKind::DetachFailed,
            entry,
            format!("{mac} could not be unplugged{}", errno_suffix(entry)),
        );
        if let Some(interface) = self.interfaces.get_mut(mac) {
            interface.end_closed(EndedBy::Close, Some(&entry.proof()), out);
        }
    }

    /// QEMU still holds a device after a failed attach.
    pub(crate) fn on_keep(
        &mut self,
        entry: &RecordEntry<'_>,
        opened: &RecordedOpen<'_>,
        pid: Option<u32>,
        out: &mut Output,
    ) {
        self.settle_detach(out);
        let RecordedOpen { mac, device, queue, .. } = *opened;
        let text = format!("QEMU still holds {}, which it got for {mac}", device_name(device));
        let pid = pid.or(self.pid);
        let interface = self.interface(mac, out);
        let Some((operation, index)) = interface.find(device, queue) else {
            out.report(FindingKind::AttachFailed, entry, text);
            return report_unmatched(entry, out);
        };
        let Operation { phase, open_holdings, incident, .. } = &mut interface.operations[operation];
        out.in_attempt(incident, |out| out.report(FindingKind::AttachFailed, entry, text));
        if open_holdings[index].is_granted() {
            return open_holdings[index].add_proof(&entry.proof());
        }
        // A keep record means that the hot-plug failed, even if the record of that is missing.
        *phase = Phase::Refused;
        let mut kept = open_holdings[index].split(queue);
        if !open_holdings[index].is_open() {
            let rest = open_holdings.remove(index);
            if !rest.is_empty_after_split() {
                out.in_attempt(incident, |out| out.end_or_defer(rest, EndedBy::Close, None));
            }
        }
        kept.grant(entry, pid, Certainty::Definitive);
        match open_holdings.iter_mut().find(|other| other.is_granted() && other.accepts_queue(device, queue))
        {
            Some(other) => other.merge(kept),
            None => open_holdings.push(kept),
        }
    }

    pub(crate) fn on_close(&mut self, entry: &RecordEntry<'_>, opened: &RecordedOpen<'_>, out: &mut Output) {
        self.settle_detach(out);
        let interface = self.interface(opened.mac, out);
        let Some((operation, index)) = interface.find(opened.device, opened.queue) else {
            return report_unmatched(entry, out);
        };
        let Operation { open_holdings, incident, .. } = &mut interface.operations[operation];
        open_holdings[index].close(entry, opened.queue);
        if !open_holdings[index].is_open() && !open_holdings[index].is_granted() {
            let closed = open_holdings.remove(index);
            out.in_attempt(incident, |out| out.end_or_defer(closed, EndedBy::Close, None));
        }
    }

    /// Whether a record that names a device means one of this guest's.
    pub(crate) fn has_open(&self, mac: MacAddr, device: &Device, queue: Option<u32>) -> bool {
        self.interfaces.get(mac).is_some_and(|interface| interface.find(device, queue).is_some())
    }

    /// The record by which QEMU got an interface that it still has.
    pub(crate) fn grant_proof(&self, mac: MacAddr) -> Option<&Proof> {
        let operations = &self.interfaces.get(mac)?.operations;
        let open_holdings =
            operations.iter().filter(|operation| operation.is_plugged()).flat_map(|o| &o.open_holdings);
        open_holdings.filter_map(|open_holding| open_holding.holding.proof.last()).next()
    }

    /// Whether it does not run, and no record of its interfaces is awaited.
    pub(crate) fn is_idle(&self) -> bool {
        self.interfaces.is_empty() && self.pending_detach.is_none() && !self.running
    }

    /// When the first of its waits is over: for the second record of a change of bridge, or for a
    /// watcher.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let pending_detach = self
            .pending_detach
            .as_ref()
            .map(|pending_detach| after(pending_detach.at.time, BRIDGE_CHANGE_WINDOW));
        let bare_grants = self.bare_grants.first().map(|finding| after(finding.time, BARE_GRANT_TIMEOUT));
        pending_detach.into_iter().chain(bare_grants).min()
    }

    /// The records end at `until`: the second record of a change of bridge may have come later.
    pub(crate) fn doubt_pending_detach(&mut self, until: Timestamp) {
        if let Some(pending_detach) = &mut self.pending_detach {
            pending_detach.attach_may_be_lost |=
                until.duration_since(pending_detach.at.time) <= BRIDGE_CHANGE_WINDOW;
        }
    }

    /// No attach followed at once: the detach ended the interface.
    pub(crate) fn settle_detach(&mut self, out: &mut Output) {
        let Some(PendingDetach { mac, at, attach_failed, attach_may_be_lost }) = self.pending_detach.take()
        else {
            return;
        };
        let Some(interface) = self.interfaces.get_mut(mac) else { return };
        if attach_failed {
            let held = interface.operations.iter_mut().filter(|operation| operation.is_held());
            return held.for_each(|operation| operation.add_proof(&at));
        }
        let guest_ref = GuestRef { host: &self.host, guest: &self.id };
        if attach_may_be_lost {
            // libvirt records a change of bridge as a detach and an attach: the attach may be
            // missing.
            interface.operations.iter_mut().for_each(|operation| operation.mark_records_lost(at.time));
        }
        interface.release(guest_ref, mac, EndedBy::Detach, &at, out);
        self.remove_ended(mac, &|| at.clone(), out);
    }

    /// Whether it has an interface with this MAC, by its last record. An interface with a pending
    /// detach counts as gone, although a change of bridge is possible.
    pub(crate) fn has_interface(&self, mac: MacAddr) -> bool {
        let gone = self
            .pending_detach
            .as_ref()
            .is_some_and(|pending_detach| pending_detach.mac == mac && !pending_detach.attach_failed);
        self.interfaces.get(mac).is_some_and(|interface| interface.count_plugged() > usize::from(gone))
    }

    /// The same, without interfaces of whose end a record may be missing.
    pub(crate) fn certainly_has(&self, mac: MacAddr) -> bool {
        self.has_interface(mac)
            && self.interfaces.get(mac).is_some_and(|interface| interface.count_certainly_plugged() > 0)
    }

    /// Removes the ended operations of an interface, and updates the host's MAC index.
    pub(crate) fn remove_ended(&mut self, mac: MacAddr, at: &dyn Fn() -> Proof, out: &mut Output) {
        let Some(interface) = self.interfaces.get_mut(mac) else { return };
        interface.remove_ended();
        let guest_ref = GuestRef { host: &self.host, guest: &self.id };
        interface.update_mac_index(guest_ref, mac, at, out);
        if interface.operations.is_empty() {
            self.interfaces.remove(mac);
        }
    }

    /// The same for all interfaces, after a record of the whole guest.
    pub(crate) fn remove_all_ended(&mut self, at: &dyn Fn() -> Proof, out: &mut Output) {
        let guest_ref = GuestRef { host: &self.host, guest: &self.id };
        self.interfaces.retain_mut(|mac, interface| {
            interface.remove_ended();
            interface.update_mac_index(guest_ref, mac, at, out);
            !interface.operations.is_empty()
        });
    }
}

/// The finding for a grant without an open. `possible`: the devices that its manager opened and
/// recorded for no interface.
fn bare_grant_finding(
    entry: &RecordEntry<'_>,
    mac: MacAddr,
    possible: &[(Device, Proof)],
    out: &Output,
) -> Finding {
    let text = format!("QEMU got {mac}, and no record shows an open of a device for it");
    if possible.is_empty() {
        return out.finding(FindingKind::GrantWithoutOpen, entry, text);
    }
    let devices: Vec<String> = possible.iter().map(|(device, _)| device_name(device)).collect();
    let which = if devices.len() == 1 { "which" } else { "one of which" };
    let text = format!("{text}. Its manager opened {}, {which} may be its device", devices.join(", "));
    let mut finding = out.finding(FindingKind::PossibleDevice, entry, text);
    if let [(device, _)] = possible {
        finding.device = Some(device.clone());
    }
    finding.proof.splice(..0, possible.iter().map(|(_, opened)| opened.clone()));
    finding
}

/// Reports a grant without an open, as a part of the failed start that it is of, or alone.
fn report_bare_grant(finding: Finding, out: &mut Output) {
    if finding.incident.follows { out.findings.push(finding) } else { out.report_alone(finding) }
}

pub(crate) fn report_unmatched(entry: &RecordEntry<'_>, out: &mut Output) {
    // A close with `last_seen` may come after a reboot that already ended the holding: no finding.
    if entry.record.last_seen.is_some() {
        return;
    }
    let device = entry.record.event.device().map(device_name).unwrap_or_default();
    let text = format!(
        "A record shows the close or keep of {device} for {}, and none its open",
        subject_name(entry)
    );
    out.report(FindingKind::CloseWithoutOpen, entry, text);
}
