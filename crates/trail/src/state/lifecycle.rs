//! What is told of a guest as a whole: it starts, stops, or its host does.

use jiff::Timestamp;

use taptrail_record::MacAddr;

use crate::model::entry::Claim;
use crate::output::{Out, Whose, named, reason, whose, why};
use crate::state::guest::Guest;
use crate::state::operation::{Operation, Phase};
use crate::{Doubt, EndedBy, FindingKind, Proof};

impl Guest {
    /// The guest runs.
    pub(crate) fn started(&mut self, entry: &Claim<'_>, pid: Option<u32>, out: &mut Out) {
        self.settle_unplugged(out);
        if self.running {
            self.restart(entry, out);
        }
        (self.running, self.from_start) = (true, true);
        self.pid = pid;
        let proof = entry.proof();
        for (_, interface) in self.interfaces.iter_mut() {
            // Before a guest runs there is no hot-plug: what its start did not give it, nobody will. But the
            // record that gave it may be missing, and some managers write none.
            let missed = |operation: &mut Operation| {
                operation.phase == Phase::Opening
                    && self.grants_told
                    && !operation.closes_follow()
                    && !operation.is_lost()
            };
            for missed in interface.operations.extract_if(.., missed) {
                missed.end(EndedBy::Close, Some(&proof), out);
            }
        }
        self.boot_is_told(entry, out);
        self.tidy_all(&|| entry.proof(), out);
    }

    /// The guest did not come up: the starts of its interfaces that were told before are not true,
    /// unless their writer had seen the descriptors in QEMU.
    pub(crate) fn start_failed(&mut self, entry: &Claim<'_>, out: &mut Out) {
        self.settle_unplugged(out);
        let proof = entry.proof();
        let mut cancelled = false;
        for (mac, interface) in self.interfaces.iter_mut() {
            for mut operation in interface.operations.extract_if(.., |o| o.phase != Phase::Granted) {
                if operation.phase == Phase::Booted && !operation.was_seen() {
                    cancelled = true;
                    let name = &entry.record.guest.name;
                    let text = format!("{mac} is recorded as started, but guest '{name}' did not start");
                    out.say_for(FindingKind::FalseStart, entry, Some(mac), text);
                    operation.drafts.iter_mut().for_each(|draft| draft.withdraw());
                }
                operation.doubt_grant(Doubt::Failed);
                operation.end(EndedBy::Stop, Some(&proof), out);
            }
            // It ran for a moment, and its devices are closed: that is why.
            interface.end_closed(EndedBy::Stop, Some(&proof), out);
        }
        self.tidy_all(&|| entry.proof(), out);
        self.running = self.interfaces.iter().flat_map(|i| &i.operations).any(Operation::is_plugged);
        if !self.running {
            self.pid = None;
        }
        if !cancelled {
            let text =
                format!("{} did not start ({}){}", whose(entry), reason(&entry.record.event), why(entry));
            out.say(FindingKind::StartFailed, entry, text);
        }
    }

    /// The guest is gone, and all it held with it.
    pub(crate) fn stopped(mut self, entry: &Claim<'_>, out: &mut Out) {
        self.settle_unplugged(out);
        self.judge_bare(None, out);
        let proof = entry.proof();
        for (mac, interface) in self.interfaces {
            out.unlist(mac, interface.listed);
            for mut operation in interface.operations {
                // A stop that no start preceded is of a QEMU that came up all the same, for a moment.
                if !self.grants_told {
                    operation.doubt_grant(Doubt::NoGrantsRecorded);
                }
                operation.end(EndedBy::Stop, Some(&proof), out);
            }
        }
    }

    pub(crate) fn stop_failed(entry: &Claim<'_>, out: &mut Out) {
        let text =
            format!("{} could not be stopped ({}){}", whose(entry), reason(&entry.record.event), why(entry));
        out.say(FindingKind::StopFailed, entry, text);
    }

    /// A new life of the same guest begins, and no record told the end of the last. What was opened
    /// for the new one stays.
    pub(crate) fn restart(&mut self, entry: &Claim<'_>, out: &mut Out) {
        self.settle_unplugged(out);
        (self.running, self.pid) = (false, None);
        let proof = entry.proof();
        for (_, interface) in self.interfaces.iter_mut() {
            let old = |operation: &mut Operation| matches!(operation.phase, Phase::Granted | Phase::Refused);
            for mut operation in interface.operations.extract_if(.., old) {
                operation.ends_unseen(Some(self.last));
                lost(operation, EndedBy::Restart, &proof, out);
            }
        }
        self.tidy_all(&|| entry.proof(), out);
    }

    /// It is over, and no record told its end: something else shows that it must be. Up to `last_seen` its
    /// host was told of and it had not ended.
    pub(crate) fn lost(mut self, cause: EndedBy, last_seen: Option<Timestamp>, at: &Proof, out: &mut Out) {
        self.settle_unplugged(out);
        self.judge_bare(None, out);
        for (mac, interface) in self.interfaces {
            out.unlist(mac, interface.listed);
            for mut operation in interface.operations {
                operation.ends_unseen(last_seen.or(Some(self.last)));
                if !self.grants_told {
                    operation.doubt_grant(Doubt::NoGrantsRecorded);
                }
                lost(operation, cause, at, out);
            }
        }
    }

    /// A ledger tells which of its interfaces a supervisor has in hand.
    pub(crate) fn in_hand(&mut self, ledger: &str, listed: impl Fn(MacAddr) -> bool) {
        for (mac, interface) in self.interfaces.iter_mut() {
            interface.operations.iter_mut().for_each(|operation| operation.is_in_hand(ledger, listed(mac)));
        }
    }

    /// The trail ends, at `until`: what QEMU has it still has, and what it is about to get is under way.
    pub(crate) fn finish(mut self, until: Timestamp, out: &mut Out) {
        let operations = self.interfaces.iter_mut().flat_map(|(_, interface)| &mut interface.operations);
        operations.for_each(|operation| operation.trail_ends(until));
        self.forget(until, out);
    }

    /// It is followed no further from `until` on: what QEMU has it still has.
    pub(crate) fn forget(mut self, until: Timestamp, out: &mut Out) {
        self.doubt_unplugged(until);
        self.settle_unplugged(out);
        self.judge_bare(None, out);
        let grants_told = self.grants_told;
        for (mac, mut interface) in self.interfaces {
            let whose = Whose { host: &self.host, guest: &self.id };
            interface.doubt(whose, mac, out);
            out.unlist(mac, interface.listed);
            for mut operation in interface.operations {
                if operation.phase == Phase::Booted && !operation.was_seen() {
                    // A manager tells of a start before it knows whether the guest came up.
                    operation.drafts.iter_mut().for_each(|draft| draft.withdraw());
                    operation.doubt_grant(Doubt::TrailEnds);
                } else if !grants_told {
                    operation.doubt_grant(Doubt::NoGrantsRecorded);
                }
                operation.into_drafts().into_iter().for_each(|draft| out.as_it_stands(draft));
            }
        }
    }
}

/// An operation ended unseen.
fn lost(operation: Operation, cause: EndedBy, at: &Proof, out: &mut Out) {
    for mut draft in operation.into_drafts() {
        if draft.is_granted() && draft.is_open() {
            let (guest, mac) = (&draft.holding.guest.name, draft.holding.mac);
            let device = named(&draft.holding.device);
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
            draft.prove(at);
            out.of(kind, &draft.holding, text);
        }
        out.end(draft, cause, Some(at));
    }
}
