//! The kernel's records about a guest's process: fatal signals, and accesses to devices that a
//! security module refused. They name a process, and no guest.

use std::collections::VecDeque;
use std::sync::Arc;

use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Abend, Denial, DeviceKind, Event, GuestId};

use crate::model::entry::RecordEntry;
use crate::output::{GuestRef, Output, device_name};
use crate::state::guest::Guest;
use crate::state::host::Host;
use crate::state::instances::GuestInstances;
use crate::time::after;
use crate::{Crash, Entry, Finding, FindingKind, Incident, Proof};

/// How long a refusal waits for the record that shows whose QEMU its process is: at a boot that
/// record comes last.
const UNMATCHED_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
/// How many refusals of one host may wait.
const MAX_PENDING: usize = 256;
/// How many refusals of one host are remembered, so that each is reported once.
const MAX_REPORTED: usize = 256;

/// A manager may write a record of a hot-plug so long after QEMU has got a fatal signal.
const MAX_LATE_RECORD: SignedDuration = SignedDuration::from_secs(60);

/// The refusals of one host.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    /// Those whose process is not known to be a guest's.
    pending: VecDeque<(Denial, Proof)>,
    /// Those that were reported: a process may try the same again and again.
    reported: VecDeque<(u32, DeviceKind, CompactString)>,
}

impl Denials {
    /// Whether it is the first of this process, kind of device and access.
    fn is_new(&mut self, denial: &Denial) -> bool {
        let key = (denial.pid, denial.device.kind, denial.access.clone());
        if self.reported.contains(&key) {
            return false;
        }
        if self.reported.len() == MAX_REPORTED {
            self.reported.pop_front();
        }
        self.reported.push_back(key);
        true
    }

    fn report(
        &mut self,
        host: &Arc<str>,
        guest: Option<&GuestId>,
        denial: Denial,
        at: Proof,
        out: &mut Output,
    ) {
        if !self.is_new(&denial) {
            return;
        }
        let of = match guest {
            Some(guest) => format!("QEMU of guest '{}' (process {})", guest.name, denial.pid),
            None => {
                format!("{} (process {}), which runs a guest that is not known,", denial.comm, denial.pid)
            }
        };
        let (access, label, device) = (&denial.access, &denial.label, device_name(&denial.device));
        let text = format!("{of} was refused '{access}' of {device}, as {label}");
        out.report_alone(Finding {
            kind: FindingKind::AccessDenied,
            host: Arc::clone(host),
            guest: guest.cloned(),
            mac: None,
            device: Some(denial.device),
            time: at.time,
            text,
            proof: vec![at],
            incident: Incident::default(),
        });
    }

    /// A record shows the guest of a process.
    pub(crate) fn assign_pid(&mut self, host: &Arc<str>, guest: &GuestId, pid: u32, out: &mut Output) {
        // A number that another process had.
        self.reported.retain(|(reported, ..)| *reported != pid);
        while let Some(at) = self.pending.iter().position(|(denial, _)| denial.pid == pid) {
            let Some((denial, proof)) = self.pending.remove(at) else { return };
            self.report(host, Some(guest), denial, proof, out);
        }
    }

    /// Reports those that have waited too long, if their process seems to run a guest. All of them
    /// without `now`.
    pub(crate) fn report_overdue(&mut self, host: &Arc<str>, now: Option<Timestamp>, out: &mut Output) {
        let is_overdue =
            |(_, at): &mut (Denial, Proof)| now.is_none_or(|now| after(at.time, UNMATCHED_TIMEOUT) < now);
        while let Some((denial, at)) = self.pending.pop_front_if(is_overdue) {
            if denial.is_by_hypervisor() {
                self.report(host, None, denial, at, out);
            }
        }
    }

    /// Until when a record may still show whose process the oldest is of.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.pending.front().map(|(_, at)| after(at.time, UNMATCHED_TIMEOUT))
    }
}

/// The processes of which a watcher saw the end. It may see that before it reads the kernel's
/// record of the cause.
#[derive(Debug, Default)]
pub(crate) struct GoneProcesses(VecDeque<(u32, GuestId, Timestamp)>);

impl GoneProcesses {
    /// How many are remembered.
    const MAX: usize = 64;

    pub(crate) fn add(&mut self, pid: u32, guest: &GuestId, time: Timestamp) {
        if self.0.len() == Self::MAX {
            self.0.pop_front();
        }
        self.0.push_back((pid, guest.clone(), time));
    }

    /// Takes the guest of a process that had not ended at `time`.
    fn take(&mut self, pid: u32, time: Timestamp) -> Option<GuestId> {
        let at = self.0.iter().position(|(gone, _, ended)| *gone == pid && time <= *ended)?;
        self.0.remove(at).map(|(_, guest, _)| guest)
    }
}

impl Host {
    /// A security module refused a process the access to a device.
    pub(crate) fn on_denial(&mut self, entry: &Entry, denial: &Denial, out: &mut Output) {
        let by_pid = self.pids.get(&denial.pid).and_then(|uuid| self.guests.get(uuid));
        let by_pid = by_pid.filter(|guests| guests.iter().any(|guest| guest.pid == Some(denial.pid)));
        let by_label = || denial.guest().and_then(|uuid| self.guests.get(&uuid));
        let guest = by_pid.or_else(by_label).and_then(GuestInstances::newest);
        if guest.is_some() {
            return self.denials.report(&self.name, guest, denial.clone(), entry.proof(), out);
        }
        self.denials.pending.push_back((denial.clone(), entry.proof()));
        if self.denials.pending.len() > MAX_PENDING
            && let Some((oldest, at)) = self.denials.pending.pop_front()
            && oldest.is_by_hypervisor()
        {
            self.denials.report(&self.name, None, oldest, at, out);
        }
    }

    /// A process got a fatal signal. It is a guest's QEMU if it has its process id, and no record
    /// has shown its end; the program was checked when the record was read.
    pub(crate) fn on_abend(&mut self, entry: &Entry, abend: &Abend, out: &mut Output) {
        let instances = self.pids.get(&abend.pid).and_then(|uuid| self.guests.get_mut(uuid));
        let is_its = |guest: &&mut Guest| guest.running && guest.pid == Some(abend.pid);
        if let Some(guest) = instances.and_then(|instances| instances.iter_mut().find(is_its)) {
            guest.on_abend(entry, abend, out);
        } else if let Some(guest) = self.gone.take(abend.pid, entry.time) {
            let (crash, guest_ref) = (Crash::of(entry, abend), GuestRef { host: &self.name, guest: &guest });
            report_crash(guest_ref, abend.pid, crash, &entry.proof(), out);
        }
    }
}

impl Guest {
    /// Its QEMU got a fatal signal: it ends now or after this. What it holds is held until now at
    /// least. Its manager's stop record comes later, or never.
    fn on_abend(&mut self, entry: &Entry, abend: &Abend, out: &mut Output) {
        if self.crashed.is_some() {
            return;
        }
        self.crashed = Some(entry.time);
        let (crash, proof) = (Crash::of(entry, abend), entry.proof());
        if let Some(run) = &mut self.run {
            run.crashed(crash, proof.clone());
        }
        for (_, interface) in self.interfaces.iter_mut() {
            for operation in interface.operations.iter_mut().filter(|operation| operation.is_held()) {
                operation.set_last_seen(Some(entry.time));
                operation.add_proof(&proof);
            }
        }
        let guest_ref = GuestRef { host: &self.host, guest: &self.id };
        report_crash(guest_ref, abend.pid, crash, &proof, out);
    }

    /// A record shows that its QEMU runs long after a fatal signal: that was of another process
    /// with its number.
    pub(crate) fn check_crash(&mut self, entry: &RecordEntry<'_>) {
        let Some(crashed) = self.crashed else { return };
        let shows_life = matches!(entry.record.event, Event::Attach { .. } | Event::Seen(_));
        if !shows_life || entry.time.duration_since(crashed) <= MAX_LATE_RECORD {
            return;
        }
        self.crashed = None;
        if let Some(run) = &mut self.run {
            run.withdraw_crash();
        }
        let operations = self.interfaces.iter_mut().flat_map(|(_, interface)| &mut interface.operations);
        for open_holding in operations.flat_map(|operation| &mut operation.open_holdings) {
            open_holding.holding.last_seen.take_if(|last_seen| *last_seen == crashed);
        }
    }
}

impl Crash {
    fn of(entry: &Entry, abend: &Abend) -> Self {
        Self { time: entry.time, signal: abend.signal }
    }
}

fn report_crash(guest_ref: GuestRef<'_>, pid: u32, crash: Crash, at: &Proof, out: &mut Output) {
    let signal = match crash.signal_name() {
        Some(name) => name.to_owned(),
        None => format!("signal {}", crash.signal),
    };
    let text = format!("QEMU of guest '{}' (process {pid}) was ended by {signal}", guest_ref.guest.name);
    out.report_for_guest(FindingKind::QemuCrashed, guest_ref, None, at, text);
}
