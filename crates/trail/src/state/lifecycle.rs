//! What is told of a guest as a whole: it starts, stops, or its host does.

use jiff::Timestamp;

use taptrail_record::MacAddr;

use crate::model::entry::RecordEntry;
use crate::output::{GuestRef, Output, device_name, errno_suffix, start_stop_reason, subject_name};
use crate::state::guest::Guest;
use crate::state::operation::{Operation, Phase};
use crate::{Doubt, EndedBy, FindingKind, Proof};

impl Guest {
    /// The guest runs.
    pub(crate) fn on_start(&mut self, entry: &RecordEntry<'_>, pid: Option<u32>, out: &mut Output) {
        self.settle_detach(out);
        if self.running {
            self.end_previous_run(entry, out);
        }
        (self.running, self.from_start) = (true, true);
        self.pid = pid;
        let proof = entry.proof();
        for (_, interface) in self.interfaces.iter_mut() {
            // Before a guest runs there is no hot-plug: what its start did not give it, nobody will. But the
            // record that gave it may be missing, and some managers write none.
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

    /// The guest did not come up: the starts of its interfaces that were told before are not true,
    /// unless their writer had seen the descriptors in QEMU.
    pub(crate) fn on_start_failed(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        self.settle_detach(out);
        let proof = entry.proof();
        let mut cancelled = false;
        for (mac, interface) in self.interfaces.iter_mut() {
            for mut operation in interface.operations.extract_if(.., |o| o.phase != Phase::Granted) {
                if operation.phase == Phase::Booted && !operation.writer_saw_descriptors() {
                    cancelled = true;
                    let name = &entry.record.guest.name;
                    let text = format!("{mac} is recorded as started, but guest '{name}' did not start");
                    out.report_for_mac(FindingKind::FalseStart, entry, Some(mac), text);
                    operation.open_holdings.iter_mut().for_each(|open_holding| open_holding.withdraw_grant());
                }
                operation.doubt_grant(Doubt::Failed);
                operation.end(EndedBy::Stop, Some(&proof), out);
            }
            // It ran for a moment, and its devices are closed: that is why.
            interface.end_closed(EndedBy::Stop, Some(&proof), out);
        }
        self.remove_all_ended(&|| entry.proof(), out);
        self.running = self.interfaces.iter().flat_map(|i| &i.operations).any(Operation::is_plugged);
        if !self.running {
            self.pid = None;
        }
        if !cancelled {
            let text = format!(
                "{} did not start ({}){}",
                subject_name(entry),
                start_stop_reason(&entry.record.event),
                errno_suffix(entry)
            );
            out.report(FindingKind::StartFailed, entry, text);
        }
    }

    /// The guest is gone, and all it held with it.
    pub(crate) fn on_stop(mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        self.settle_detach(out);
        self.report_bare_grants(None, out);
        let proof = entry.proof();
        for (mac, interface) in self.interfaces {
            out.remove_from_mac_index(mac, interface.indexed_count);
            for mut operation in interface.operations {
                // A stop that no start preceded is of a QEMU that came up all the same, for a moment.
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

    /// A new life of the same guest begins, and no record told the end of the last. What was opened
    /// for the new one stays.
    pub(crate) fn end_previous_run(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        self.settle_detach(out);
        (self.running, self.pid) = (false, None);
        let proof = entry.proof();
        for (_, interface) in self.interfaces.iter_mut() {
            let old = |operation: &mut Operation| matches!(operation.phase, Phase::Granted | Phase::Refused);
            for mut operation in interface.operations.extract_if(.., old) {
                operation.set_last_seen(Some(self.last_time));
                end_unseen(operation, EndedBy::Restart, &proof, out);
            }
        }
        self.remove_all_ended(&|| entry.proof(), out);
    }

    /// It is over, and no record told its end: something else shows that it must be. Up to `last_seen` its
    /// host was told of and it had not ended.
    pub(crate) fn end_unseen(
        mut self,
        cause: EndedBy,
        last_seen: Option<Timestamp>,
        at: &Proof,
        out: &mut Output,
    ) {
        self.settle_detach(out);
        self.report_bare_grants(None, out);
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

    /// A ledger tells which of its interfaces a supervisor has in hand.
    pub(crate) fn set_steps_in_progress(&mut self, ledger: &str, listed: impl Fn(MacAddr) -> bool) {
        for (mac, interface) in self.interfaces.iter_mut() {
            interface
                .operations
                .iter_mut()
                .for_each(|operation| operation.set_in_progress(ledger, listed(mac)));
        }
    }

    /// The trail ends, at `until`: what QEMU has it still has, and what it is about to get is under way.
    pub(crate) fn finish(mut self, until: Timestamp, out: &mut Output) {
        let operations = self.interfaces.iter_mut().flat_map(|(_, interface)| &mut interface.operations);
        operations.for_each(|operation| operation.on_trail_end(until));
        self.stop_tracking(until, out);
    }

    /// It is followed no further from `until` on: what QEMU has it still has.
    pub(crate) fn stop_tracking(mut self, until: Timestamp, out: &mut Output) {
        self.doubt_pending_detach(until);
        self.settle_detach(out);
        self.report_bare_grants(None, out);
        let grants_recorded = self.grants_recorded;
        for (mac, mut interface) in self.interfaces {
            let guest_ref = GuestRef { host: &self.host, guest: &self.id };
            interface.report_unresolved_detaches(guest_ref, mac, out);
            out.remove_from_mac_index(mac, interface.indexed_count);
            for mut operation in interface.operations {
                if operation.phase == Phase::Booted && !operation.writer_saw_descriptors() {
                    // A manager tells of a start before it knows whether the guest came up.
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

/// An operation ended unseen.
fn end_unseen(operation: Operation, cause: EndedBy, at: &Proof, out: &mut Output) {
    for mut open_holding in operation.into_open_holdings() {
        if open_holding.is_granted() && open_holding.is_open() {
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
            out.report_for_holding(kind, &open_holding.holding, text);
        }
        out.end_or_defer(open_holding, cause, Some(at));
    }
}
