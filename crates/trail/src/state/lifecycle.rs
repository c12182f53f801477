//! Records of a whole guest: its starts and stops, and the boots of its host.

use jiff::Timestamp;

use taptrail_record::MacAddr;

use crate::model::entry::RecordEntry;
use crate::output::{GuestRef, Output, device_name, errno_suffix, start_stop_reason, subject_name};
use crate::state::guest::Guest;
use crate::state::operation::{Operation, Phase};
use crate::{Doubt, EndedBy, FindingKind, Proof};

impl Guest {
    /// A record shows that the guest runs.
    pub(crate) fn on_start(&mut self, entry: &RecordEntry<'_>, pid: Option<u32>, out: &mut Output) {
        self.settle_detach(out);
        if self.running {
            self.end_previous_run(entry, out);
        }
        (self.running, self.from_start) = (true, true);
        (self.pid, self.crashed) = (pid, None);
        let proof = entry.proof();
        for (_, interface) in self.interfaces.iter_mut() {
            // There is no hot-plug before a guest runs: what its start did not grant will not be
            // granted. But the record of that grant may be missing, and some managers write none.
            let missed = |operation: &mut Operation| {
                operation.phase == Phase::Opening
                    && self.grants_recorded
                    && !operation.expects_closes()
                    && !operation.may_lack_records()
            };
            for missed in interface.operations.extract_if(.., missed) {
                missed.end(EndedBy::Close, Some(&proof), out);
            }
        }
        self.confirm_boot(entry, out);
        self.remove_all_ended(&|| entry.proof(), out);
    }

    /// The guest did not start: its interfaces' start records are withdrawn, unless their writer
    /// had seen the descriptors in QEMU.
    pub(crate) fn on_start_failed(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        self.settle_detach(out);
        let mut incident = out.incidents.failed(entry, None);
        out.in_attempt(&mut incident, |out| self.undo_start(entry, out));
        self.remove_all_ended(&|| entry.proof(), out);
        self.running = self.interfaces.iter().flat_map(|i| &i.operations).any(Operation::is_plugged);
        if !self.running {
            self.pid = None;
        }
    }

    /// Withdraws what the failed start gave the guest, and reports it.
    fn undo_start(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        let is_withdrawn =
            |operation: &Operation| operation.phase == Phase::Booted && !operation.writer_saw_descriptors();
        let operations = self.interfaces.iter().flat_map(|interface| &interface.operations);
        if !operations.into_iter().any(is_withdrawn) {
            let text = format!(
                "{} did not start ({}){}",
                subject_name(entry),
                start_stop_reason(&entry.record.event),
                errno_suffix(entry)
            );
            out.report(FindingKind::StartFailed, entry, text);
        }
        let proof = entry.proof();
        let mut bare = Vec::new();
        for (mac, interface) in self.interfaces.iter_mut() {
            for mut operation in interface.operations.extract_if(.., |o| o.phase != Phase::Granted) {
                if is_withdrawn(&operation) {
                    let name = &entry.record.guest.name;
                    let text = format!("{mac} is recorded as started, but guest '{name}' did not start");
                    if !operation.is_held() {
                        // No device was opened: there is nothing that it may have had.
                        operation.drop_unknown();
                    }
                    bare.push((mac, out.report_for_mac(FindingKind::FalseStart, entry, Some(mac), text)));
                    operation.open_holdings.iter_mut().for_each(|open_holding| open_holding.withdraw_grant());
                }
                operation.doubt_grant(Doubt::Failed);
                operation.end(EndedBy::Stop, Some(&proof), out);
            }
            // QEMU ran for a moment, and its devices are closed: this record gives the reason.
            interface.end_closed(EndedBy::Stop, Some(&proof), out);
        }
        bare.into_iter().for_each(|(mac, incident)| self.set_bare_grant_incident(mac, incident));
    }

    /// The guest has ended, and all that it held.
    pub(crate) fn on_stop(mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        self.settle_detach(out);
        self.report_bare_grants(None, out);
        self.report_open_updates(out);
        self.stop_run(entry, out);
        let proof = entry.proof();
        for (mac, interface) in self.interfaces {
            out.remove_from_mac_index(mac, interface.indexed_count);
            for mut operation in interface.operations {
                // A stop without a start is of a QEMU that ran for a moment.
                if !self.grants_recorded {
                    operation.doubt_grant(Doubt::NoGrantsRecorded);
                }
                operation.end(EndedBy::Stop, Some(&proof), out);
            }
        }
    }

    pub(crate) fn on_stop_failed(entry: &RecordEntry<'_>, out: &mut Output) {
        let text = format!(
            "{} could not be stopped ({}){}",
            subject_name(entry),
            start_stop_reason(&entry.record.event),
            errno_suffix(entry)
        );
        out.report(FindingKind::StopFailed, entry, text);
    }

    /// A new run of the same guest begins, and no record showed the end of the last. What was
    /// opened for the new run stays.
    pub(crate) fn end_previous_run(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        self.settle_detach(out);
        (self.running, self.pid, self.crashed) = (false, None, None);
        let proof = entry.proof();
        self.end_run_unseen(EndedBy::Restart, None, &proof, out);
        for (_, interface) in self.interfaces.iter_mut() {
            let old = |operation: &mut Operation| matches!(operation.phase, Phase::Granted | Phase::Refused);
            for mut operation in interface.operations.extract_if(.., old) {
                operation.set_last_seen(Some(self.last_time));
                end_unseen(operation, EndedBy::Restart, &proof, out);
            }
        }
        self.remove_all_ended(&|| entry.proof(), out);
    }

    /// The guest has ended without a record: something else shows that. At `last_seen` its host had
    /// an entry, and the guest had not ended.
    pub(crate) fn end_unseen(
        mut self,
        cause: EndedBy,
        last_seen: Option<Timestamp>,
        at: &Proof,
        out: &mut Output,
    ) {
        self.settle_detach(out);
        self.report_bare_grants(None, out);
        self.report_open_updates(out);
        self.end_run_unseen(cause, last_seen, at, out);
        for (mac, interface) in self.interfaces {
            out.remove_from_mac_index(mac, interface.indexed_count);
            for mut operation in interface.operations {
                operation.set_last_seen(last_seen.or(Some(self.last_time)));
                if !self.grants_recorded {
                    operation.doubt_grant(Doubt::NoGrantsRecorded);
                }
                end_unseen(operation, cause, at, out);
            }
        }
    }

    /// A ledger lists the interfaces of which a supervisor has a step in progress.
    pub(crate) fn set_steps_in_progress(&mut self, ledger: &str, listed: impl Fn(MacAddr) -> bool) {
        for (mac, interface) in self.interfaces.iter_mut() {
            interface
                .operations
                .iter_mut()
                .for_each(|operation| operation.set_in_progress(ledger, listed(mac)));
        }
    }

    /// The trail ends at `until`: QEMU still has its devices, and recent opens are in progress.
    pub(crate) fn finish(mut self, until: Timestamp, out: &mut Output) {
        let operations = self.interfaces.iter_mut().flat_map(|(_, interface)| &mut interface.operations);
        operations.for_each(|operation| operation.on_trail_end(until));
        self.stop_tracking(until, out);
    }

    /// The guest is not tracked any further from `until` on: QEMU still has its devices.
    pub(crate) fn stop_tracking(mut self, until: Timestamp, out: &mut Output) {
        self.doubt_pending_detach(until);
        self.settle_detach(out);
        self.report_bare_grants(None, out);
        self.report_open_updates(out);
        self.leave_run(out);
        let grants_recorded = self.grants_recorded;
        for (mac, mut interface) in self.interfaces {
            let guest_ref = GuestRef { host: &self.host, guest: &self.id };
            interface.report_unresolved_detaches(guest_ref, mac, out);
            out.remove_from_mac_index(mac, interface.indexed_count);
            for mut operation in interface.operations {
                if operation.phase == Phase::Booted && !operation.writer_saw_descriptors() {
                    // A manager records an interface's start before it knows whether the guest
                    // started.
                    operation.open_holdings.iter_mut().for_each(|open_holding| open_holding.withdraw_grant());
                    operation.doubt_grant(Doubt::TrailEnds);
                } else if !grants_recorded {
                    operation.doubt_grant(Doubt::NoGrantsRecorded);
                }
                operation
                    .into_open_holdings()
                    .into_iter()
                    .for_each(|open_holding| out.emit_unclosed(open_holding));
            }
        }
    }
}

/// Ends an operation whose end was not seen.
fn end_unseen(operation: Operation, cause: EndedBy, at: &Proof, out: &mut Output) {
    for mut open_holding in operation.into_open_holdings() {
        if open_holding.is_held() {
            let (guest, mac) = (&open_holding.holding.guest.name, open_holding.holding.mac);
            let device = device_name(&open_holding.holding.device);
            let (kind, text) = match cause {
                EndedBy::Reboot => {
                    (FindingKind::ReleaseByReboot, format!("The host rebooted while {mac} held {device}"))
                }
                EndedBy::PidReused => (
                    FindingKind::NeverReleased,
                    format!(
                        "{mac} held {device}, and the process id of guest '{guest}' is another guest's by now"
                    ),
                ),
                _ => (
                    FindingKind::ReleaseByRestart,
                    format!("Guest '{guest}' started again while {mac} held {device}"),
                ),
            };
            open_holding.add_proof(at);
            out.report_end(kind, &open_holding.holding, Some(at), text);
        }
        out.end_or_defer(open_holding, cause, Some(at));
    }
}
