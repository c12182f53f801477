//! The kernel's word on last closes, where it is asked (docs/bpf.md).
//!
//! A look tells what QEMU shows, by numbers. The kernel tells which file is behind a number, and when nobody has
//! that file any more, whoever had it meanwhile. Where it tells, that is the end of a descriptor; where it does
//! not, or something of it got lost, all is as it is without.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use jiff::Timestamp;
use taptrail_bpf::{FileId, Held, Kernel, Lost, What};
use taptrail_kernel::proc::ProcessId;
use tracing::warn;

use super::Watcher;
use super::books::Slot;
use super::guest::{Guest, Qemu, tap_name};
use super::known::{Known, Word};
use super::sight::{self, Glance};

/// How often the kernel is asked for more at once: the events of one call after the other that it can hold.
const MAX_POLLS: usize = 4;

/// The kernel, and up to when it was heard.
#[derive(Debug)]
pub(super) struct Closes {
    kernel: Kernel,
    /// What was lost up to now.
    lost: Lost,
    /// When all was last heard that it told.
    heard: Timestamp,
    complained: bool,
}

/// What the kernel told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Which files were closed, and when.
    pub(super) closed: HashMap<FileId, Timestamp>,
    pub(super) rest: Rest,
}

/// What is known of files that are not told to be closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// They are open.
    #[default]
    Open,
    /// They have to be asked for: events were lost. All were heard up to this time.
    Ask(Timestamp),
    /// Nothing.
    Lost,
}

impl Closes {
    pub(super) fn awaited(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }

    /// What the kernel told since the last call.
    fn take(&mut self) -> Told {
        let now = Timestamp::now();
        let mut told = Told::default();
        let mut is_all = false;
        for _ in 0..MAX_POLLS {
            let events = self.kernel.poll();
            is_all = events.is_empty();
            if is_all {
                break;
            }
            for event in events {
                if let (What::Closed { file, .. }, Ok(at)) = (event.what, Timestamp::try_from(event.time))
                    && let Some(id) = file.id
                {
                    told.closed.insert(id, at);
                }
            }
        }
        let Ok(lost) = self.kernel.lost() else {
            told.rest = Rest::Lost;
            return told;
        };
        let before = std::mem::replace(&mut self.lost, lost);
        if is_all && lost == before {
            self.heard = now;
            return told;
        }
        // What is lost of other kinds leaves doubts of what the kernel can be asked for.
        let is_known = lost == Lost { events: lost.events, ..before };
        told.rest = if is_known { Rest::Ask(self.heard) } else { Rest::Lost };
        if lost != before && !std::mem::replace(&mut self.complained, true) {
            warn!(
                "The BPF program sent events faster than they were read: taptrail_bpf_events_lost_total counts the lost ones"
            );
        }
        told
    }

    /// What the kernel says of a file when it is asked.
    fn ask(&self, file: FileId, heard: Timestamp) -> Option<Word> {
        match self.kernel.is_open(file) {
            Ok(true) => None,
            Ok(false) => Some(Word::ClosedUnheard(heard)),
            Err(_) => Some(Word::Lost),
        }
    }

    fn descriptors(&mut self) -> Option<Vec<Held>> {
        let failed =
            |error: &std::io::Error| warn!("The kernel's list of descriptors can't be read: {error}");
        self.kernel.descriptors().inspect_err(failed).ok()
    }
}

impl Watcher {
    /// From now on a descriptor ends with the last close of its file, by the kernel's word and at its time.
    pub fn ask(&mut self, kernel: Kernel) {
        let lost = kernel.lost().unwrap_or_default();
        self.closes = Some(Closes { kernel, lost, heard: Timestamp::now(), complained: false });
    }

    /// How much of what the kernel told was lost; none where it is not asked.
    pub fn lost_events(&self) -> Option<u64> {
        self.closes.as_ref().map(|closes| closes.lost.total())
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
        let Some(held) = closes.descriptors() else { return };
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
        let Some(before) = closes.descriptors() else { return };
        let glances: Vec<_> = asked.iter().filter_map(|slot| glance(*slot, self.guests.get(slot)?)).collect();
        let Some(after) = closes.descriptors() else { return };
        let before: HashSet<Held> = before.into_iter().collect();
        let same: Vec<Held> = after.into_iter().filter(|held| before.contains(held)).collect();
        for (slot, glance) in glances {
            if let Some(guest) = self.guests.get_mut(&slot) {
                guest.identify(&same, &glance, Timestamp::now());
            }
        }
    }
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
    pub(super) fn hear(&mut self, told: &Told, ask: &dyn Fn(FileId, Timestamp) -> Option<Word>) -> bool {
        let (mut is_any, mut is_changed) = (false, false);
        for known in self.all_known() {
            let Word::Open { file, since } = known.word else { continue };
            let word = match (told.closed.get(&file), told.rest) {
                // Clocks are set: it was open when it was seen.
                (Some(at), _) => Some(Word::Closed((*at).max(since))),
                (None, Rest::Open) => None,
                (None, Rest::Ask(heard)) => ask(file, heard.max(since)),
                (None, Rest::Lost) => Some(Word::Lost),
            };
            let Some(word) = word else { continue };
            known.word = word;
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
            let Word::Open { file, .. } = known.word else { continue };
            let of = held.iter().filter(|held| held.process == process && held.thread == process.pid);
            let numbers: Vec<u32> =
                of.filter(|held| held.file.id == Some(file)).map(|held| held.fd).collect();
            if !numbers.is_empty() {
                known.fds = numbers;
            }
        }
    }

    fn has_unidentified(&self) -> bool {
        let is = |word| matches!(word, Word::None | Word::Lost);
        self.process().is_some() && self.held.iter().any(|known| is(known.word))
    }

    pub(super) fn identify(&mut self, held: &[Held], glance: &Glance, since: Timestamp) {
        let Some(process) = self.process() else { return };
        for known in &mut self.held {
            if !matches!(known.word, Word::None | Word::Lost) {
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
                known.word = Word::Open { file, since };
            }
        }
    }
}
