//! What is told of a guest as a whole: it starts, stops, or its host does.

use crate::entry::Claim;
use crate::guest::Guest;
use crate::operation::{Operation, Phase};
use crate::out::{Out, named, reason, whose, why};
use crate::{EndedBy, FindingKind, Proof, State};

impl Guest {
    /// The guest runs.
    pub(crate) fn started(&mut self, entry: &Claim<'_>, pid: Option<u32>, out: &mut Out) {
        self.settle_unplugged(out);
        if self.running {
            self.restart(entry, out);
        }
        self.running = true;
        self.pid = pid;
        for operations in self.interfaces.values_mut() {
            // Before a guest runs there is no hot-plug: what its start did not give it, nobody will.
            let missed =
                |operation: &mut Operation| operation.phase == Phase::Opening && !operation.closes_follow();
            for missed in operations.extract_if(.., missed) {
                missed.end(EndedBy::Close, Some(&entry.proof()), out);
            }
            for operation in operations.iter_mut().filter(|operation| operation.phase == Phase::Booted) {
                operation.phase = Phase::Granted;
                for draft in &mut operation.drafts {
                    draft.holding.pid = draft.holding.pid.or(pid);
                }
            }
        }
    }

    /// The guest did not come up: the starts of its interfaces that were told before are not true,
    /// unless their writer had seen the descriptors in QEMU.
    pub(crate) fn start_failed(&mut self, entry: &Claim<'_>, out: &mut Out) {
        self.settle_unplugged(out);
        let proof = entry.proof();
        let mut cancelled = false;
        for (mac, operations) in &mut self.interfaces {
            for mut operation in operations.extract_if(.., |o| o.phase != Phase::Granted) {
                if operation.phase == Phase::Booted && !operation.was_seen() {
                    cancelled = true;
                    let name = &entry.record.guest.name;
                    let text = format!("{mac} is told as started, but guest '{name}' did not start");
                    out.say_for(FindingKind::FalseStart, entry, Some(*mac), text);
                    operation.drafts.iter_mut().for_each(|draft| draft.withdraw());
                }
                operation.end(EndedBy::Stop, Some(&proof), out);
            }
            // It ran for a moment, and its devices are closed: that is why.
            for operation in operations.iter_mut() {
                operation.end_closed(EndedBy::Stop, Some(&proof), out);
            }
        }
        self.running = self.interfaces.values().flatten().any(Operation::is_held);
        if !cancelled {
            let text =
                format!("{} did not start ({}){}", whose(entry), reason(&entry.record.event), why(entry));
            out.say(FindingKind::StartFailed, entry, text);
        }
    }

    /// The guest is gone, and all it held with it.
    pub(crate) fn stopped(mut self, entry: &Claim<'_>, out: &mut Out) {
        self.settle_unplugged(out);
        for operation in self.interfaces.into_values().flatten() {
            operation.end(EndedBy::Stop, Some(&entry.proof()), out);
        }
    }

    pub(crate) fn stop_failed(entry: &Claim<'_>, out: &mut Out) {
        let text =
            format!("{} could not be stopped ({}){}", whose(entry), reason(&entry.record.event), why(entry));
        out.say(FindingKind::StopFailed, entry, text);
    }

    /// Its host started anew.
    pub(crate) fn rebooted(mut self, at: &Proof, out: &mut Out) {
        self.settle_unplugged(out);
        for operation in self.interfaces.into_values().flatten() {
            for draft in operation.drafts {
                if draft.is_granted() && draft.is_open() {
                    let text = format!(
                        "The host started anew while {} held {}",
                        draft.holding.mac,
                        named(&draft.holding.device)
                    );
                    out.of(FindingKind::ReleaseByReboot, &draft.holding, text);
                }
                out.end(draft, EndedBy::Reboot, Some(at));
            }
        }
    }

    /// A new life begins, and no record told the end of the last.
    pub(crate) fn restart(&mut self, entry: &Claim<'_>, out: &mut Out) {
        self.settle_unplugged(out);
        self.running = false;
        self.pid = None;
        let proof = entry.proof();
        for operations in self.interfaces.values_mut() {
            let old = |operation: &mut Operation| matches!(operation.phase, Phase::Granted | Phase::Refused);
            for operation in operations.extract_if(.., old) {
                for draft in operation.drafts {
                    if draft.is_granted() && draft.is_open() {
                        let text = format!(
                            "Guest '{}' started anew while {} held {}",
                            entry.record.guest.name,
                            draft.holding.mac,
                            named(&draft.holding.device)
                        );
                        out.of(FindingKind::ReleaseByRestart, &draft.holding, text);
                    }
                    out.end(draft, EndedBy::Restart, Some(&proof));
                }
            }
        }
    }

    /// Nothing more is told: what QEMU has it still has.
    pub(crate) fn finish(mut self, out: &mut Out) {
        self.settle_unplugged(out);
        for draft in self.interfaces.into_values().flatten().flat_map(|operation| operation.drafts) {
            if draft.is_granted() && draft.is_open() {
                debug_assert_eq!(draft.holding.state, State::Held);
                out.holdings.push(draft.holding);
            } else {
                out.end(draft, EndedBy::Close, None);
            }
        }
    }
}
