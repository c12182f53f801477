//! What is looked at: which guests, where their QEMUs are, and what comes of it.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use taptrail_kernel::proc::ProcessId;
use taptrail_record::{Event, GuestId, Record};
use tracing::warn;

use super::books::Slot;
use super::find::{self, Found, ToldProcess};
use super::guest::{Act, Guest, Now, Qemu};
use super::known::Known;
use super::release::{Doubt, Evidence};
use super::{EndedLife, GUESTS, GuestState, Happening, NOTED, Watcher, What, command_line, sight};
use crate::scan::{KnownBy, Scan};

/// How soon is looked again at what may not last.
pub(super) const PENDING_LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Watcher {
    /// The guests whose QEMU has ended.
    pub(super) fn gone(&self) -> Vec<Slot> {
        let running = self.guests.iter().filter_map(|(slot, guest)| match &guest.qemu {
            Qemu::Runs { pidfd, .. } => Some((*slot, pidfd)),
            _ => None,
        });
        let (slots, mut polled): (Vec<Slot>, Vec<PollFd<'_>>) =
            running.map(|(slot, pidfd)| (slot, PollFd::new(pidfd, PollFlags::IN))).unzip();
        if polled.is_empty() || rustix::event::poll(&mut polled, Some(&Timespec::default())).is_err() {
            return Vec::new();
        }
        let gone = slots.into_iter().zip(polled).filter(|(_, polled)| !polled.revents().is_empty());
        gone.map(|(slot, _)| slot).collect()
    }

    /// Finds the QEMUs of guests that are told to run: by the pid that a record tells, or where none does, by the
    /// guest's uuid.
    pub(super) fn search(&mut self, due: &[Slot]) {
        let mut scanned: Option<Rc<Scan>> = None;
        for &slot in due {
            let Some(guest) = self.guests.get(&slot) else { continue };
            let (id, writer) = (guest.id.clone(), guest.writer);
            let is_told = |sighted: &sight::Sighted| guest.plugs.tell_of(sighted);
            let scanner = &mut self.scanner;
            let mut scan = || match &scanned {
                Some(scan) => Ok(Rc::clone(scan)),
                None => scanner.scan().map(|scan| Rc::clone(scanned.insert(Rc::new(scan)))),
            };
            let found = match guest.qemu {
                Qemu::Told { pid, at } => find::told((pid, at), id.uuid, writer, is_told, scan),
                Qemu::Unknown if guest.running && !guest.is_stopped() => scan().and_then(|scan| {
                    let process = find::by_uuid(&scan.holders, id.uuid, None, is_told);
                    let found = process.map_or(Ok(None), find::open)?;
                    Ok(found.map_or(ToldProcess::Unsure, ToldProcess::Runs))
                }),
                _ => continue,
            };
            match found {
                Ok(ToldProcess::Runs(found)) => self.has_found(slot, found),
                Ok(ToldProcess::Ended) => {
                    if let Some(guest) = self.guests.get_mut(&slot) {
                        guest.is_lost();
                    }
                }
                Ok(ToldProcess::Unsure) => {
                    if let Some(pid) = self.guests.get_mut(&slot).and_then(Guest::complain) {
                        warn!(
                            "QEMU of guest '{}' is not known: its manager calls it process {pid}, maybe by a \
                             container's number, and no process shows that it is the one",
                            id.name
                        );
                    }
                }
                Err(error) => warn!("QEMU of guest '{}' can't be looked for: {error}", id.name),
            }
        }
    }

    /// At the first look of all, and after a gap in the log: the guests of libvirt's of which it has not told.
    pub(super) fn meet_strangers(&mut self) {
        if !std::mem::take(&mut self.strangers) {
            return;
        }
        let Ok(scan) = self.scanner.scan().inspect_err(|error| warn!("Processes can't be seen: {error}"))
        else {
            return;
        };
        for holder in scan.holders {
            let Some(guest) = holder.guest.filter(|guest| guest.by == KnownBy::Libvirt) else {
                continue;
            };
            let (Some(name), Some(uuid)) = (guest.name, guest.uuid) else { continue };
            if self.current.contains_key(&uuid) || self.guests.len() >= GUESTS {
                continue;
            }
            let begun = Timestamp::try_from(holder.process.started()).unwrap_or_else(|_| Timestamp::now());
            let slot = self.begin(&GuestId { name, uuid }, begun);
            if let Some(guest) = self.guests.get_mut(&slot) {
                guest.running = true;
            }
            if let Ok(Some(found)) = find::open(holder.process) {
                self.has_found(slot, found);
            }
        }
    }

    fn has_found(&mut self, slot: Slot, found: Found) {
        let Some(guest) = self.guests.get_mut(&slot) else { return };
        let named = found.is_named(guest.id.uuid);
        let Found { process, pidfd, arguments } = found;
        guest.started_with = command_line::descriptors(&arguments);
        guest.netdevs = command_line::netdevs(&arguments);
        guest.qemu = Qemu::Runs { process, pidfd, attended: false, named };
        self.pids.insert(process.pid, slot);
        self.books.runs(slot, process);
    }

    pub(super) fn look_at(
        &mut self,
        slot: Slot,
        gone: bool,
        awake: bool,
        now: Now,
        evidence: &mut Evidence,
        acts: &mut Vec<Act>,
    ) {
        let mut at_end = |known: &Known| evidence.of_end(known, None);
        let Some(guest) = self.guests.get_mut(&slot) else { return };
        match &mut guest.qemu {
            Qemu::Runs { process, attended, .. } if gone => {
                let (pid, attended) = (process.pid, *attended && awake);
                self.pids.remove(&pid);
                guest.ended(guest.on_record(pid), attended, now, &mut at_end, acts);
            }
            Qemu::Lost { pid } => {
                let pid = *pid;
                guest.ended(guest.on_record(pid), false, now, &mut at_end, acts);
            }
            Qemu::Runs { process, attended, .. } => {
                let process = *process;
                *attended = true;
                match see(guest, &self.options.libvirt, process) {
                    Ok(None) => guest.is_seen(now),
                    Ok(Some(seen)) => {
                        let pid = guest.on_record(process.pid);
                        let mut end = |known: &Known| evidence.of_end(known, Some(process.pid));
                        guest.look(pid, seen, now, &mut end, &mut self.number, acts);
                    }
                    // Its pidfd will tell.
                    Err(error) if find::is_gone(&error) => guest.later(now),
                    Err(error) => {
                        warn!("QEMU of guest '{}' can't be looked into: {error}", guest.id.name);
                        guest.later(now);
                    }
                }
            }
            _ => {
                guest.later(now);
                guest.look_for_vanished(now, &mut at_end, acts);
            }
        }
        if let Some(guest) = self.guests.get_mut(&slot) {
            guest.settle_end(now, acts);
        }
    }

    /// Puts on record what a look brought to light.
    pub(super) fn act(&mut self, slot: Slot, acts: Vec<Act>) {
        let Some((id, writer)) = self.guests.get(&slot).map(|guest| (guest.id.clone(), guest.writer)) else {
            return;
        };
        let record = |event, last_seen: Option<Timestamp>| {
            let last_seen = last_seen.and_then(|at| u64::try_from(at.as_millisecond()).ok());
            Record { last_seen, ..Record::success(id.clone(), event) }
        };
        for act in acts {
            match act {
                Act::Seen { number, descriptor, open, link } => {
                    let record = record(Event::Seen(descriptor), None);
                    self.books.seen(slot, record, number, open);
                    if let Some(link) = link {
                        self.books.placed(slot, number, link);
                    }
                }
                Act::Placed { number, link } => self.books.placed(slot, number, link),
                Act::Still(descriptor) => self.books.says(slot, record(Event::Seen(descriptor), None)),
                Act::Gone { number, descriptor, at, last_seen, doubt } => {
                    if let Some(Doubt { why, holder }) = doubt {
                        let holder =
                            holder.map(|pid| format!(": process {pid} holds one")).unwrap_or_default();
                        warn!(
                            "QEMU of guest '{}' shows {} no more, and that nobody holds it is not certain ({why}){holder}",
                            id.name, descriptor.device.path
                        );
                    }
                    let doubt = doubt.map(|doubt| doubt.why);
                    let record = Record { doubt, ..record(Event::Gone(descriptor), last_seen) };
                    self.books.gone(slot, record, number, at);
                }
                Act::Ended { pid } => self.became(&id, GuestState::Ended { vm_pid: pid }),
                Act::GuestGone { pid, last_seen } => {
                    self.books.says(slot, record(Event::GuestGone { vm_pid: pid }, last_seen));
                    self.became(&id, GuestState::Gone { vm_pid: pid });
                }
                Act::Granted { mac, pid, descriptors } => {
                    self.happens(What::Granted { guest: id.clone(), mac, vm_pid: Some(pid), descriptors });
                }
                Act::Ends(reason) => {
                    self.books.ends(slot, reason);
                    if let Some(Guest { qemu: Qemu::Runs { process, .. }, .. }) = self.guests.remove(&slot)
                        && self.pids.get(&process.pid) == Some(&slot)
                    {
                        self.pids.remove(&process.pid);
                    }
                    if let Some(lives) = self.current.get_mut(&id.uuid) {
                        lives.retain(|life| *life != slot);
                        if lives.is_empty() {
                            self.current.remove(&id.uuid);
                        }
                    }
                    self.ended.push_back(EndedLife { uuid: id.uuid, slot, writer });
                }
            }
        }
    }

    fn became(&mut self, guest: &GuestId, state: GuestState) {
        self.happens(What::Guest { guest: guest.clone(), state });
    }

    pub(super) fn happens(&mut self, what: What) {
        self.happened.push(Happening { time: Timestamp::now(), what });
    }

    /// Lets the ledger know now and then up to when all was there.
    pub(super) fn note(&mut self, now: Now) {
        if now.time.duration_since(self.noted) >= NOTED {
            self.noted = now.time;
            self.note_looked();
        }
    }
}

/// Looks into a QEMU: none when all is as it is known.
fn see(guest: &Guest, libvirt: &Path, process: ProcessId) -> std::io::Result<Option<sight::Sight>> {
    if guest.looked.is_some() && guest.is_as_known(&sight::glance(process)?) {
        return Ok(None);
    }
    sight::look(process, libvirt, &guest.id.name).map(Some)
}
