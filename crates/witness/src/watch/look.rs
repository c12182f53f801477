//! A look: finds the QEMUs of guests, scans them, and records the result.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use taptrail_kernel::proc::{ProcessId, is_gone};
use taptrail_record::{Event, GuestId, MacAddr, Record};
use tracing::warn;

use super::evidence::{Doubt, Evidence};
use super::find::{self, FoundQemu, RecordedProcess};
use super::guest::{GuestInstance, GuestInstanceId, LookContext, Observation, Qemu};
use super::interfaces::OpenedDevice;
use super::known::KnownDescriptor;
use super::observe::{self, ObservedDescriptor};
use super::{
    EndedInstance, EventKind, GuestState, LAST_SEEN_INTERVAL, MAX_GUESTS, WatchEvent, Watcher, command_line,
};
use crate::scan::{IdentitySource, Scan};

/// How soon a state that may be transient is checked again.
pub(super) const PENDING_LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Watcher {
    /// The guests whose QEMU has ended.
    pub(super) fn ended_qemus(&self) -> Vec<GuestInstanceId> {
        let running = self.guests.iter().filter_map(|(instance, guest)| match &guest.qemu {
            Qemu::Runs { pidfd, .. } => Some((*instance, pidfd)),
            _ => None,
        });
        let (instances, mut polled): (Vec<GuestInstanceId>, Vec<PollFd<'_>>) =
            running.map(|(instance, pidfd)| (instance, PollFd::new(pidfd, PollFlags::IN))).unzip();
        if polled.is_empty() || rustix::event::poll(&mut polled, Some(&Timespec::default())).is_err() {
            return Vec::new();
        }
        let gone = instances.into_iter().zip(polled).filter(|(_, polled)| !polled.revents().is_empty());
        gone.map(|(instance, _)| instance).collect()
    }

    /// Finds the QEMUs of guests that run by their records: by the recorded pid, or without one by
    /// the guest's uuid.
    pub(super) fn find_qemus(&mut self, due: &[GuestInstanceId]) {
        let mut scanned: Option<Rc<Scan>> = None;
        for &instance in due {
            let Some(guest) = self.guests.get(&instance) else { continue };
            let (id, writer) = (guest.id.clone(), guest.writer);
            let is_its_device = |observed: &ObservedDescriptor| guest.has_record_of(observed);
            let scanner = &mut self.scanner;
            let mut scan = || match &scanned {
                Some(scan) => Ok(Rc::clone(scan)),
                None => scanner.scan().map(|scan| Rc::clone(scanned.insert(Rc::new(scan)))),
            };
            let found = match guest.qemu {
                Qemu::Recorded { pid, at } => {
                    find::recorded_process((pid, at), id.uuid, writer, is_its_device, scan)
                }
                Qemu::Unknown if guest.running && !guest.is_stopped() => scan().and_then(|scan| {
                    let process = find::find_by_uuid(&scan.holders, id.uuid, None, is_its_device);
                    let found = process.map_or(Ok(None), find::open_process)?;
                    Ok(found.map_or(RecordedProcess::Unsure, RecordedProcess::Runs))
                }),
                _ => continue,
            };
            match found {
                Ok(RecordedProcess::Runs(found)) => self.set_qemu(instance, found),
                Ok(RecordedProcess::Ended) => {
                    if let Some(guest) = self.guests.get_mut(&instance) {
                        guest.mark_lost();
                    }
                }
                Ok(RecordedProcess::Unsure) => {
                    if let Some(pid) = self.guests.get_mut(&instance).and_then(GuestInstance::unwarned_pid) {
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

    /// Finds libvirt's guests that the log does not have: at the first look of all, and after a gap
    /// in the log.
    pub(super) fn discover_unlogged_guests(&mut self) {
        if !std::mem::take(&mut self.discovery_due) {
            return;
        }
        let Ok(scan) = self.scanner.scan().inspect_err(|error| warn!("Processes can't be seen: {error}"))
        else {
            return;
        };
        for holder in scan.holders {
            let Some(guest) = holder.guest.filter(|guest| guest.by == IdentitySource::Libvirt) else {
                continue;
            };
            let (Some(name), Some(uuid)) = (guest.name, guest.uuid) else { continue };
            if self.current.contains_key(&uuid) || self.guests.len() >= MAX_GUESTS {
                continue;
            }
            let begun = Timestamp::try_from(holder.process.started()).unwrap_or_else(|_| Timestamp::now());
            let instance = self.begin(&GuestId { name, uuid }, begun);
            if let Some(guest) = self.guests.get_mut(&instance) {
                guest.running = true;
            }
            if let Ok(Some(found)) = find::open_process(holder.process) {
                self.set_qemu(instance, found);
            }
        }
    }

    fn set_qemu(&mut self, instance: GuestInstanceId, found: FoundQemu) {
        let Some(guest) = self.guests.get_mut(&instance) else { return };
        let claims_guest = found.is_named(guest.id.uuid);
        let FoundQemu { process, pidfd, arguments } = found;
        guest.started_with = command_line::descriptors(&arguments);
        guest.netdevs = command_line::netdevs(&arguments);
        guest.qemu = Qemu::Runs { process, pidfd, seen_running: false, claims_guest };
        self.pids.insert(process.pid, instance);
        self.ledger_writer.set_qemu(instance, process);
    }

    pub(super) fn look_at_guest(
        &mut self,
        instance: GuestInstanceId,
        gone: bool,
        awake: bool,
        now: LookContext,
        evidence: &mut Evidence,
        observations: &mut Vec<Observation>,
    ) {
        let mut at_end = |known: &KnownDescriptor| evidence.check_end(known, None);
        let Some(guest) = self.guests.get_mut(&instance) else { return };
        match &mut guest.qemu {
            Qemu::Runs { process, seen_running, .. } if gone => {
                let (pid, seen_running) = (process.pid, *seen_running && awake);
                self.pids.remove(&pid);
                guest.qemu_ended(guest.pid_on_record(pid), seen_running, now, &mut at_end, observations);
            }
            Qemu::Lost { pid } => {
                let pid = *pid;
                guest.qemu_ended(guest.pid_on_record(pid), false, now, &mut at_end, observations);
            }
            Qemu::Runs { process, seen_running, .. } => {
                let process = *process;
                *seen_running = true;
                match scan_qemu(guest, &self.options.libvirt, process) {
                    Ok(None) => guest.mark_unchanged(now),
                    Ok(Some(seen)) => {
                        let pid = guest.pid_on_record(process.pid);
                        let mut end = |known: &KnownDescriptor| evidence.check_end(known, Some(process.pid));
                        guest.reconcile(pid, seen, now, &mut end, &mut self.number, observations);
                    }
                    // Its pidfd will show its end.
                    Err(error) if is_gone(&error) => guest.postpone_look(now),
                    Err(error) => {
                        warn!("QEMU of guest '{}' can't be looked into: {error}", guest.id.name);
                        guest.postpone_look(now);
                    }
                }
            }
            _ => {
                guest.postpone_look(now);
                guest.look_for_vanished(now, &mut at_end, observations);
            }
        }
        if let Some(guest) = self.guests.get_mut(&instance) {
            guest.settle_end(now, observations);
        }
    }

    /// Records what a look has found.
    pub(super) fn record_observations(&mut self, instance: GuestInstanceId, observations: Vec<Observation>) {
        let Some((id, writer)) = self.guests.get(&instance).map(|guest| (guest.id.clone(), guest.writer))
        else {
            return;
        };
        let record = |event, last_seen: Option<Timestamp>| {
            let last_seen = last_seen.and_then(|at| u64::try_from(at.as_millisecond()).ok());
            Record { last_seen, ..Record::success(id.clone(), event) }
        };
        for observation in observations {
            match observation {
                Observation::Seen { number, descriptor, open, link } => {
                    let record = record(Event::Seen(descriptor), None);
                    self.ledger_writer.record_seen(instance, record, number, open);
                    if let Some(link) = link {
                        self.ledger_writer.record_link(instance, number, link);
                    }
                }
                Observation::LinkMoved { number, link } => {
                    self.ledger_writer.record_link(instance, number, link);
                }
                Observation::StillHeld(descriptor) => {
                    self.ledger_writer.record(instance, record(Event::Seen(descriptor), None))
                }
                Observation::Gone { number, descriptor, at, last_seen, doubt } => {
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
                    self.ledger_writer.record_gone(instance, record, number, at);
                }
                Observation::QemuEnded { pid } => {
                    self.emit_guest_state(&id, GuestState::Ended { vm_pid: pid });
                }
                Observation::GuestGone { pid, last_seen } => {
                    self.ledger_writer.record(instance, record(Event::GuestGone { vm_pid: pid }, last_seen));
                    self.emit_guest_state(&id, GuestState::Gone { vm_pid: pid });
                }
                Observation::Granted { mac, pid, descriptors } => {
                    self.emit(EventKind::Granted { guest: id.clone(), mac, vm_pid: Some(pid), descriptors });
                }
                Observation::AccountEnds(reason) => {
                    self.ledger_writer.end_guest(instance, reason);
                    if let Some(GuestInstance { qemu: Qemu::Runs { process, .. }, .. }) =
                        self.guests.remove(&instance)
                        && self.pids.get(&process.pid) == Some(&instance)
                    {
                        self.pids.remove(&process.pid);
                    }
                    if let Some(instances) = self.current.get_mut(&id.uuid) {
                        instances.retain(|other| *other != instance);
                        if instances.is_empty() {
                            self.current.remove(&id.uuid);
                        }
                    }
                    self.ended.push_back(EndedInstance { uuid: id.uuid, instance, writer });
                }
            }
        }
    }

    fn emit_guest_state(&mut self, guest: &GuestId, state: GuestState) {
        self.emit(EventKind::Guest { guest: guest.clone(), state });
    }

    pub(super) fn emit(&mut self, kind: EventKind) {
        self.events.push(WatchEvent { time: Timestamp::now(), kind });
    }

    /// Writes from time to time when the guests were last inspected.
    pub(super) fn write_last_seen_if_due(&mut self, now: LookContext) {
        if now.time.duration_since(self.last_seen_written) >= LAST_SEEN_INTERVAL {
            self.last_seen_written = now.time;
            self.write_last_seen();
        }
    }
}

/// Scans a QEMU; none if all is as known.
fn scan_qemu(
    guest: &GuestInstance,
    libvirt: &Path,
    process: ProcessId,
) -> std::io::Result<Option<Vec<ObservedDescriptor>>> {
    if guest.all_seen_at.is_some() && guest.is_as_known(&observe::quick_scan(process)?) {
        return Ok(None);
    }
    observe::full_scan(process, libvirt, &guest.id.name).map(Some)
}

impl GuestInstance {
    /// Whether a descriptor in QEMU belongs to a recorded interface, by the MAC or name of the host
    /// interface behind it.
    fn has_record_of(&self, observed: &ObservedDescriptor) -> bool {
        let made_from = |mac: MacAddr| {
            observed.address.is_some_and(|address| {
                address == mac || (address.0[0] == 0xFE && address.0[1..] == mac.0[1..])
            })
        };
        let names = |opened: &OpenedDevice| Some(&opened.device.path) == observed.device.dev.as_ref();
        let mut interfaces = self.interfaces.all.iter();
        interfaces.any(|interface| made_from(interface.mac) || interface.opened.iter().any(names))
    }
}
