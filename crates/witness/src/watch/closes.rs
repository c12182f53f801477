//! The kernel's word on last closes, where it is asked (docs/bpf.md).
//!
//! A look tells what QEMU shows, by numbers. The kernel tells which file is behind a number, and when nobody has
//! that file any more, whoever had it meanwhile. Where it tells, that is the end of a descriptor; where it does
//! not, or something of it got lost, all is as it is without.

use std::collections::HashSet;
use std::time::Instant;

use jiff::Timestamp;
use taptrail_bpf::{FileId, FileState, Heard, Held, LastCloses, Rest};
use taptrail_kernel::proc::ProcessId;
use tracing::warn;

use super::Watcher;
use super::books::Slot;
use super::guest::{Guest, Qemu, tap_name};
use super::known::Known;
use super::sight::{self, Glance};

impl Watcher {
    /// From now on a descriptor ends with the last close of its file, by the kernel's word and at its time.
    pub fn hear_from(&mut self, closes: LastCloses) {
        self.closes = Some(closes);
    }

    /// How much of what the kernel told was lost; none where it is not asked.
    pub fn lost_events(&self) -> Option<u64> {
        self.closes.as_ref().map(LastCloses::lost)
    }

    /// Takes what the kernel tells.
    pub(super) fn hear(&mut self) {
        let Some(closes) = &mut self.closes else { return };
        let told = closes.take();
        if told.closed.is_empty() && told.rest == Rest::Open {
            return;
        }
        let now = Instant::now();
        for guest in self.guests.values_mut() {
            if guest.hear(&told, &|file, heard| closes.ask(file, heard)) {
                guest.due = now;
            }
        }
    }

    /// Of files that are known and may have other numbers in QEMU by now, finds these.
    pub(super) fn find_numbers(&mut self, due: &[Slot]) {
        let is_asked = |slot: &Slot| self.guests.get(slot).is_some_and(Guest::has_moved);
        let asked: Vec<Slot> = due.iter().copied().filter(is_asked).collect();
        let Some(closes) = self.closes.as_mut().filter(|_| !asked.is_empty()) else { return };
        let Some(held) = descriptors(closes) else { return };
        for slot in asked {
            if let Some(guest) = self.guests.get_mut(&slot) {
                guest.renumber(&held);
            }
        }
    }

    /// Finds which files those are that were seen and are not known yet.
    pub(super) fn identify(&mut self, due: &[Slot]) {
        let is_asked = |slot: &Slot| self.guests.get(slot).is_some_and(Guest::has_unidentified);
        let asked: Vec<Slot> = due.iter().copied().filter(is_asked).collect();
        let Some(closes) = self.closes.as_mut().filter(|_| !asked.is_empty()) else { return };
        // What was the same before and after is the same between.
        let Some(before) = descriptors(closes) else { return };
        let glances: Vec<_> = asked.iter().filter_map(|slot| glance(*slot, self.guests.get(slot)?)).collect();
        let Some(after) = descriptors(closes) else { return };
        let before: HashSet<Held> = before.into_iter().collect();
        let same: Vec<Held> = after.into_iter().filter(|held| before.contains(held)).collect();
        for (slot, glance) in glances {
            if let Some(guest) = self.guests.get_mut(&slot) {
                guest.identify(&same, &glance, Timestamp::now());
            }
        }
    }
}

fn descriptors(closes: &mut LastCloses) -> Option<Vec<Held>> {
    let failed = |error: &std::io::Error| warn!("The kernel's list of descriptors can't be read: {error}");
    closes.descriptors().inspect_err(failed).ok()
}

/// What a guest's QEMU shows.
fn glance(slot: Slot, guest: &Guest) -> Option<(Slot, Glance)> {
    sight::glance(guest.process()?).ok().map(|glance| (slot, glance))
}

impl Guest {
    fn process(&self) -> Option<ProcessId> {
        match &self.qemu {
            Qemu::Runs { process, .. } => Some(*process),
            _ => None,
        }
    }

    /// Takes what the kernel told, with `ask` for what it did not. Whether a file of this guest's was closed.
    pub(super) fn hear(
        &mut self,
        told: &Heard,
        ask: &dyn Fn(FileId, Timestamp) -> Option<FileState>,
    ) -> bool {
        let (mut is_any, mut is_changed) = (false, false);
        for known in self.all_known() {
            if !known.file.hear(told, ask) {
                continue;
            }
            is_any |= known.is_closed();
            is_changed = true;
        }
        // What is in doubt is found again when it is looked for next.
        self.needs_full_look |= is_changed;
        is_any
    }

    /// Whether QEMU has a file that is known, maybe under another number.
    fn has_moved(&self) -> bool {
        let Some(process) = self.process() else { return false };
        if !self.held.iter().any(Known::is_open) && !self.has_open_vanished() {
            return false;
        }
        // What a glance shows as it was has not moved.
        !sight::glance(process).is_ok_and(|glance| self.is_as_known(&glance))
    }

    pub(super) fn renumber(&mut self, held: &[Held]) {
        let Some(process) = self.process() else { return };
        for known in self.all_known() {
            let FileState::Open { file, .. } = known.file else { continue };
            let of = held.iter().filter(|held| held.process == process && held.thread == process.pid);
            let numbers: Vec<u32> =
                of.filter(|held| held.file.id == Some(file)).map(|held| held.fd).collect();
            if !numbers.is_empty() {
                known.fds = numbers;
            }
        }
    }

    fn has_unidentified(&self) -> bool {
        let is = |file| matches!(file, FileState::Unknown | FileState::Lost);
        self.process().is_some() && self.held.iter().any(|known| is(known.file))
    }

    pub(super) fn identify(&mut self, held: &[Held], glance: &Glance, since: Timestamp) {
        let Some(process) = self.process() else { return };
        for known in &mut self.held {
            if !matches!(known.file, FileState::Unknown | FileState::Lost) {
                continue;
            }
            let device = &known.descriptor.device;
            let is_it = |held: &&Held| {
                let shows = |(fd, kind, rdev, name): &(u32, _, _, Option<String>)| {
                    let known = (device.kind, device.rdev, tap_name(device));
                    *fd == held.fd && (*kind, Some(*rdev), name.as_deref()) == known
                };
                held.process == process
                    && held.thread == process.pid
                    && known.fds.contains(&held.fd)
                    && held.file.kind == device.kind
                    && glance.iter().any(shows)
            };
            if let Some(file) = held.iter().find(is_it).and_then(|held| held.file.id) {
                known.file = FileState::Open { file, since };
            }
        }
    }
}
