//! Uses the kernel's report of last closes, if it is available (docs/bpf.md).
//!
//! A look at QEMU shows descriptor numbers. The kernel's report says which file is behind a number,
//! and when the last reference to that file was closed, whichever process had it. That is the end
//! of a descriptor. If the report is not available, or part of it got lost, the watcher works as
//! without it.

use std::collections::HashSet;
use std::time::Instant;

use jiff::Timestamp;
use taptrail_bpf::{FileChanges, FileId, FileState, Held, LastCloses, RemainingFiles};
use taptrail_kernel::proc::ProcessId;
use tracing::warn;

use super::Watcher;
use super::guest::{GuestInstance, GuestInstanceId, Qemu};
use super::known::KnownDescriptor;
use super::observe::{self, FdSummary};
use super::reconcile::tap_name;

impl Watcher {
    /// From now on a descriptor ends with the last close of its file, at the kernel's time.
    pub fn use_last_closes(&mut self, closes: LastCloses) {
        self.closes = Some(closes);
    }

    /// How many of the kernel's events were lost; none if its report is not used.
    pub fn lost_events(&self) -> Option<u64> {
        self.closes.as_ref().map(LastCloses::lost)
    }

    /// Takes the kernel's events.
    pub(super) fn receive_closes(&mut self) {
        let Some(closes) = &mut self.closes else { return };
        let heard = closes.poll();
        if heard.closed.is_empty() && heard.rest == RemainingFiles::Open {
            return;
        }
        let now = Instant::now();
        for guest in self.guests.values_mut() {
            if guest.apply_closes(&heard, &|file, heard| closes.query(file, heard)) {
                guest.due = now;
            }
        }
    }

    /// Looks up the numbers in QEMU of known files that may have moved.
    pub(super) fn find_numbers(&mut self, due: &[GuestInstanceId]) {
        let has_moved =
            |instance: &GuestInstanceId| self.guests.get(instance).is_some_and(GuestInstance::has_moved);
        let moved: Vec<GuestInstanceId> = due.iter().copied().filter(has_moved).collect();
        let Some(closes) = self.closes.as_mut().filter(|_| !moved.is_empty()) else { return };
        let Some(held) = descriptors(closes) else { return };
        for instance in moved {
            if let Some(guest) = self.guests.get_mut(&instance) {
                guest.renumber(&held);
            }
        }
    }

    /// Identifies the files behind descriptors that were seen and are not identified yet.
    pub(super) fn identify(&mut self, due: &[GuestInstanceId]) {
        let has_unidentified = |instance: &GuestInstanceId| {
            self.guests.get(instance).is_some_and(GuestInstance::has_unidentified)
        };
        let unidentified: Vec<GuestInstanceId> = due.iter().copied().filter(has_unidentified).collect();
        let Some(closes) = self.closes.as_mut().filter(|_| !unidentified.is_empty()) else { return };
        // A descriptor that was the same before and after the scan was the same during it.
        let Some(before) = descriptors(closes) else { return };
        let summaries: Vec<_> = unidentified
            .iter()
            .filter_map(|instance| summary_of(*instance, self.guests.get(instance)?))
            .collect();
        let Some(after) = descriptors(closes) else { return };
        let before: HashSet<Held> = before.into_iter().collect();
        let same: Vec<Held> = after.into_iter().filter(|held| before.contains(held)).collect();
        for (instance, summary) in summaries {
            if let Some(guest) = self.guests.get_mut(&instance) {
                guest.identify(&same, &summary, Timestamp::now());
            }
        }
    }
}

fn descriptors(closes: &mut LastCloses) -> Option<Vec<Held>> {
    let failed = |error: &std::io::Error| warn!("The kernel's list of descriptors can't be read: {error}");
    closes.descriptors().inspect_err(failed).ok()
}

/// A quick scan of a guest's QEMU.
fn summary_of(instance: GuestInstanceId, guest: &GuestInstance) -> Option<(GuestInstanceId, FdSummary)> {
    observe::quick_scan(guest.process()?).ok().map(|summary| (instance, summary))
}

impl GuestInstance {
    fn process(&self) -> Option<ProcessId> {
        match &self.qemu {
            Qemu::Runs { process, .. } => Some(*process),
            _ => None,
        }
    }

    /// Applies the kernel's events, and `ask` for files whose events were lost. Returns whether a
    /// file of this guest was closed.
    pub(super) fn apply_closes(
        &mut self,
        heard: &FileChanges,
        ask: &dyn Fn(FileId, Timestamp) -> Option<FileState>,
    ) -> bool {
        let (mut is_any, mut is_changed) = (false, false);
        for known in self.all_known() {
            if !known.file.update(heard, ask) {
                continue;
            }
            is_any |= known.is_closed();
            is_changed = true;
        }
        // A file whose state changed is matched again by the next full scan.
        self.needs_full_look |= is_changed;
        is_any
    }

    /// Whether QEMU may have a known file under another number.
    fn has_moved(&self) -> bool {
        let Some(process) = self.process() else { return false };
        if !self.held.iter().any(KnownDescriptor::is_open) && !self.has_open_vanished() {
            return false;
        }
        // If a quick scan shows what is known, nothing has moved.
        !observe::quick_scan(process).is_ok_and(|summary| self.is_as_known(&summary))
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

    pub(super) fn identify(&mut self, held: &[Held], summary: &FdSummary, since: Timestamp) {
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
                    && summary.iter().any(shows)
            };
            if let Some(file) = held.iter().find(is_it).and_then(|held| held.file.id) {
                known.file = FileState::Open { file, since };
            }
        }
    }
}
