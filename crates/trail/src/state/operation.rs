use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, DeviceKind};

use crate::model::entry::RecordEntry;
use crate::output::unnumbered::UnnumberedGrant;
use crate::output::{Output, device_name};
use crate::state::open_holding::{OpenHolding, RecordedOpen};
use crate::{Certainty, Doubt, EndedBy, FindingKind, Proof};

/// One attempt to give one interface its devices: its opens, and their outcome.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) phase: Phase,
    pub(crate) open_holdings: Vec<OpenHolding>,
    /// The record that shows that QEMU got it, if none shows a device: it ends without a finding.
    bare: Option<Proof>,
    /// Whether records of it may be missing.
    records_lost: bool,
    /// Whether its supervisor's step is in progress, if a ledger shows that.
    in_progress: Option<bool>,
    /// The time of a release that may have been of this operation or of another.
    pub(crate) perhaps_ended_at: Option<Timestamp>,
    /// Opens recorded as failed and as successful: QEMU is taken not to hold them, and may for a
    /// moment.
    contradicted: Vec<OpenHolding>,
    /// The open(2)s that failed, in records without a queue.
    failed_opens: Vec<FailedOpen>,
    /// The incident of the findings about it, if there are any so far.
    pub(crate) incident: Option<u64>,
}

#[derive(Debug)]
struct FailedOpen {
    path: CompactString,
    proof: Proof,
    incident: u64,
}

/// How far an operation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Devices are being opened.
    Opening,
    /// QEMU, or its manager, refused the interface.
    Refused,
    /// A record shows that QEMU has them, and none yet whether its guest runs.
    Booted,
    /// QEMU has them.
    Granted,
}

/// The two ways in which QEMU gets an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GrantMethod {
    Start,
    Attach,
}

/// Two records of one open come within this time; farther apart they are two attempts.
pub(crate) const SAME_OPEN_WINDOW: SignedDuration = SignedDuration::from_secs(1);

/// A manager that gives a device to QEMU records that within this time: a hot-plug waits for QEMU's
/// reply.
const GRANT_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// A backend and a vhost-net.
const TYPICAL_DEVICES: usize = 2;
/// An open beyond this belongs to another attempt.
const MAX_DEVICES: usize = 8;

impl Operation {
    pub(crate) fn new(phase: Phase) -> Self {
        let (open_holdings, contradicted, failed_opens) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            phase,
            open_holdings,
            bare: None,
            records_lost: false,
            in_progress: None,
            perhaps_ended_at: None,
            contradicted,
            failed_opens,
            incident: None,
        }
    }

    /// An operation without a recorded open, though a record shows that QEMU got the interface.
    /// `unrecorded`: what it may have.
    pub(crate) fn bare(phase: Phase, grant: Proof, unrecorded: Vec<OpenHolding>) -> Self {
        Self { bare: Some(grant), open_holdings: unrecorded, ..Self::new(phase) }
    }

    /// An operation that began before the trail.
    pub(crate) fn from_before_trail(open_holding: OpenHolding) -> Self {
        Self { open_holdings: vec![open_holding], ..Self::new(Phase::Granted) }
    }

    /// An operation whose device QEMU holds with no interface plugged in, as far as the records go.
    pub(crate) fn kept(open_holding: OpenHolding) -> Self {
        Self { open_holdings: vec![open_holding], ..Self::new(Phase::Refused) }
    }

    /// Whether another open can belong to it. If records are missing, the outcome of this attempt
    /// may be among them, and the open belongs to a new one.
    pub(crate) fn accepts(&self, device: &Device, queue: Option<u32>) -> bool {
        self.phase == Phase::Opening
            && !self.records_lost
            && self.open_holdings.len() < MAX_DEVICES
            && !self.open_holdings.iter().any(|open_holding| open_holding.excludes(device, queue))
    }

    /// Whether another failed open can belong to it.
    pub(crate) fn accepts_failed(&self) -> bool {
        self.phase == Phase::Opening && self.failed_opens.len() < MAX_DEVICES
    }

    pub(crate) fn add_open(&mut self, entry: &RecordEntry<'_>, opened: &RecordedOpen<'_>, out: &mut Output) {
        let accepts =
            |open_holding: &&mut OpenHolding| open_holding.accepts_queue(opened.device, opened.queue);
        if let Some(open_holding) = self.open_holdings.iter_mut().find(accepts) {
            return open_holding.add_queue(entry, opened);
        }
        let open_holding = OpenHolding::from_open(entry, opened);
        let is_same_time =
            |failed: &FailedOpen| entry.time.duration_since(failed.proof.time).abs() <= SAME_OPEN_WINDOW;
        let is_same_open = |failed: &&FailedOpen| failed.path == opened.device.path && is_same_time(failed);
        if opened.may_be_recorded_twice()
            && let Some(FailedOpen { proof, incident, .. }) = self.failed_opens.iter().find(is_same_open)
        {
            let open_holding = contradicted(open_holding, proof, *incident, out);
            return self.contradicted.push(open_holding);
        }
        if self.open_holdings.is_empty() {
            self.open_holdings.reserve_exact(TYPICAL_DEVICES);
        }
        self.open_holdings.push(open_holding);
    }

    pub(crate) fn add_failed_open(
        &mut self,
        entry: &RecordEntry<'_>,
        opened: &RecordedOpen<'_>,
        incident: u64,
        out: &mut Output,
    ) {
        if opened.queue.is_some() {
            return;
        }
        let path = &opened.device.path;
        let is_same_time = |open_holding: &OpenHolding| {
            open_holding
                .holding
                .opened
                .is_some_and(|opened| entry.time.duration_since(opened).abs() <= SAME_OPEN_WINDOW)
        };
        if opened.may_be_recorded_twice()
            && let Some(at) = self
                .open_holdings
                .iter()
                .position(|open_holding| open_holding.is_open_of(path, None) && is_same_time(open_holding))
        {
            let open_holding = contradicted(self.open_holdings.remove(at), &entry.proof(), incident, out);
            self.contradicted.push(open_holding);
        }
        self.failed_opens.retain(|failed| failed.path != *path);
        self.failed_opens.push(FailedOpen { path: path.clone(), proof: entry.proof(), incident });
    }

    pub(crate) fn expects_closes(&self) -> bool {
        self.open_holdings.iter().any(OpenHolding::expects_closes)
    }

    /// Whether QEMU still has a device of it.
    pub(crate) fn is_held(&self) -> bool {
        self.open_holdings.iter().any(|open_holding| open_holding.is_held())
    }

    /// Whether QEMU has the interface, with devices or without.
    pub(crate) fn is_plugged(&self) -> bool {
        self.phase == Phase::Granted && (self.bare.is_some() || self.is_held())
    }

    /// Whether a device of it was closed and no record has given the reason yet.
    pub(crate) fn awaits_cause(&self) -> bool {
        self.open_holdings.iter().any(|open_holding| open_holding.is_granted() && !open_holding.is_open())
    }

    /// Whether the writer of its grant has seen the descriptors in QEMU.
    pub(crate) fn writer_saw_descriptors(&self) -> bool {
        let seen = |open_holding: &OpenHolding| {
            open_holding.is_granted() && open_holding.holding.certainty == Certainty::Definitive
        };
        self.open_holdings.iter().any(seen)
    }

    /// Whether it has no devices and no records are awaited.
    pub(crate) fn has_ended(&self) -> bool {
        let waits = match self.phase {
            Phase::Opening => !self.failed_opens.is_empty(),
            Phase::Refused => false,
            Phase::Booted => true,
            Phase::Granted => self.bare.is_some(),
        };
        self.open_holdings.is_empty() && self.contradicted.is_empty() && !waits
    }

    pub(crate) fn grant(
        &mut self,
        phase: Phase,
        entry: &RecordEntry<'_>,
        pid: Option<u32>,
        certainty: Certainty,
    ) {
        self.phase = phase;
        for open_holding in self.open_holdings.iter_mut().filter(|open_holding| open_holding.is_open()) {
            open_holding.grant(entry, pid, certainty);
        }
        self.bare = (!self.is_held()).then(|| entry.proof());
        self.failed_opens.clear();
    }

    /// QEMU has it, and its guest runs: a device without a number is reported if no record gives it
    /// soon.
    pub(crate) fn await_numbers(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        for open_holding in &mut self.open_holdings {
            if open_holding.is_granted()
                && open_holding.holding.device.rdev.is_none()
                // A socket has no number.
                && open_holding.holding.device.kind != DeviceKind::VhostUser
                && open_holding.holding.opened.is_some()
            {
                open_holding.number_pending = true;
                out.unnumbered.push(UnnumberedGrant::new(entry, open_holding.holding.mac));
            }
        }
    }

    /// Whether all of it was seen in QEMU: then a watcher will record its end.
    pub(crate) fn is_seen_in_qemu(&self) -> bool {
        let mut held = self.open_holdings.iter().filter(|open_holding| open_holding.is_held()).peekable();
        held.peek().is_some() && held.all(OpenHolding::is_seen_in_qemu)
    }

    /// Whether a device that QEMU was seen to hold can belong to it, as no record shows its device.
    pub(crate) fn accepts_unrecorded(&self) -> bool {
        self.bare.is_some() && self.is_granted() && self.open_holdings.len() < MAX_DEVICES
    }

    /// Whether QEMU got it, also before its guest is on record as running.
    fn is_granted(&self) -> bool {
        matches!(self.phase, Phase::Booted | Phase::Granted)
    }

    pub(crate) fn add_unrecorded(&mut self, mut open_holding: OpenHolding) {
        if let Some(grant) = self.bare.take() {
            self.drop_unrecorded();
            // Managers record the opens of taps and macvtaps: QEMU may have got it long after that.
            if open_holding.holding.device.kind == DeviceKind::VhostVdpa {
                open_holding.grant_unrecorded(&grant, open_holding.holding.pid);
            }
        }
        self.open_holdings.push(open_holding);
    }

    /// A watcher saw that QEMU holds one of the devices that its manager recorded for no interface.
    /// Returns whether its grant is on record.
    pub(crate) fn confirm_unrecorded(&mut self, index: usize, pid: u32) -> bool {
        let is_granted = self.is_granted();
        let Some(grant) = self.bare.take_if(|_| is_granted) else { return false };
        self.open_holdings[index].grant_unrecorded(&grant, Some(pid));
        // The interface has one backend.
        self.drop_unrecorded();
        true
    }

    /// It has no device of which nothing at all is known.
    pub(crate) fn drop_unknown(&mut self) {
        self.open_holdings.retain(|one| !one.is_unrecorded() || one.holding.device.path != "?");
    }

    /// Its guest got one of the host's PCI devices at its start, which may be the interface's.
    /// Returns whether it may.
    pub(crate) fn add_host_device(&mut self, address: &str, at: &Proof) -> bool {
        let unrecorded = self.open_holdings.iter().find(|one| one.is_unrecorded());
        let Some((unrecorded, grant)) = unrecorded.zip(self.bare.as_ref()) else { return false };
        if self.phase != Phase::Booted || self.open_holdings.len() >= MAX_DEVICES {
            return false;
        }
        let device = unrecorded.alternative(address, vec![grant.clone(), at.clone()]);
        self.drop_unknown();
        self.open_holdings.push(device);
        true
    }

    /// Its guest gave up one of the host's PCI devices. If that was the only one that it may have
    /// had, it has gone, or has another.
    pub(crate) fn remove_host_device(&mut self, address: &str, at: &Proof, out: &mut Output) {
        let is_it = |one: &mut OpenHolding| one.is_unrecorded() && one.holding.device.path == address;
        for device in self.open_holdings.extract_if(.., is_it).collect::<Vec<_>>() {
            if self.bare.is_some() && self.open_holdings.is_empty() {
                self.open_holdings.push(device.alternative("?", vec![at.clone()]));
            }
            out.end_or_defer(device, EndedBy::Detach, Some(at));
        }
    }

    /// What no record shows to be its own is not.
    pub(crate) fn drop_unrecorded(&mut self) {
        self.open_holdings.retain(|open_holding| !open_holding.is_unrecorded());
    }

    pub(crate) fn add_proof(&mut self, proof: &Proof) {
        for open_holding in &mut self.open_holdings {
            open_holding.add_proof(proof);
        }
    }

    /// Records from `since` on may be missing: its state is uncertain from then on.
    pub(crate) fn mark_records_lost(&mut self, since: Timestamp) {
        self.records_lost = true;
        for open_holding in self.open_holdings.iter_mut().chain(&mut self.contradicted) {
            open_holding.mark_records_lost(since);
        }
    }

    /// Whether records of it may be missing.
    pub(crate) fn may_lack_records(&self) -> bool {
        self.records_lost
    }

    /// QEMU has its devices, and its guest runs: opens with contradictory records gave it nothing.
    pub(crate) fn end_contradicted(&mut self, at: &Proof, out: &mut Output) {
        for mut open_holding in self.contradicted.drain(..) {
            open_holding.set_latest_end(at.time);
            out.emit_ended(open_holding, EndedBy::Close, None);
        }
    }

    /// The ledger with its records shows whether its supervisor's step is in progress: if it is
    /// `listed`.
    pub(crate) fn set_in_progress(&mut self, ledger: &str, listed: bool) {
        let is_in =
            |open_holding: &OpenHolding| open_holding.holding.proof.iter().any(|proof| proof.is_in(ledger));
        if self.expects_closes() && self.open_holdings.iter().any(is_in) {
            self.in_progress = Some(listed);
        }
    }

    /// The time of its last record.
    fn last_record_time(&self) -> Option<Timestamp> {
        self.open_holdings
            .iter()
            .filter_map(|open_holding| open_holding.holding.proof.last())
            .map(|proof| proof.time)
            .max()
    }

    /// The trail ends, and QEMU is not known to have it. Whether the hand-over is in progress
    /// follows from the ledger, otherwise from the age of its last record.
    pub(crate) fn on_trail_end(&mut self, until: Timestamp) {
        let recent = |last: Timestamp| until.duration_since(last) <= GRANT_TIMEOUT;
        let in_progress = self.in_progress.unwrap_or_else(|| self.last_record_time().is_some_and(recent));
        if in_progress && matches!(self.phase, Phase::Opening | Phase::Booted) {
            let by_ledger = self.in_progress.is_some();
            self.open_holdings.iter_mut().for_each(|open_holding| open_holding.set_in_progress(by_ledger));
        }
    }

    /// The grant of its devices that have none is not certain, for this reason.
    pub(crate) fn doubt_grant(&mut self, why: Doubt) {
        let ungranted = self.open_holdings.iter_mut().filter(|open_holding| !open_holding.is_granted());
        ungranted.chain(&mut self.contradicted).for_each(|open_holding| open_holding.doubt_grant(why));
    }

    /// QEMU may have had its devices, although the hand-over failed.
    pub(crate) fn mark_possibly_passed(&mut self) {
        for open_holding in self.open_holdings.iter_mut().filter(|open_holding| !open_holding.is_granted()) {
            open_holding.doubt_grant(Doubt::Failed);
            open_holding.weaken_to_inferred();
        }
    }

    /// Its end was not seen: at `time` it had not ended.
    pub(crate) fn set_last_seen(&mut self, time: Option<Timestamp>) {
        self.open_holdings
            .iter_mut()
            .filter(|open_holding| open_holding.is_granted())
            .for_each(|open_holding| open_holding.set_last_seen(time));
    }

    /// It has ended by `time`, whether or not QEMU ever had it.
    pub(crate) fn set_latest_end(&mut self, time: Timestamp) {
        self.open_holdings
            .iter_mut()
            .chain(&mut self.contradicted)
            .for_each(|open_holding| open_holding.set_latest_end(time));
    }

    /// Its devices, with the doubts that concern all of them.
    pub(crate) fn into_open_holdings(mut self) -> Vec<OpenHolding> {
        if let Some(since) = self.perhaps_ended_at {
            for open_holding in self.open_holdings.iter_mut().filter(|open_holding| open_holding.is_held()) {
                open_holding.set_certainty(Certainty::Ambiguous);
                open_holding.set_uncertain_since(since);
            }
        }
        self.open_holdings.append(&mut self.contradicted);
        self.open_holdings
    }

    /// Ends all its devices.
    pub(crate) fn end(mut self, cause: EndedBy, at: Option<&Proof>, out: &mut Output) {
        let mut incident = self.incident.take();
        out.in_attempt(&mut incident, |out| {
            for open_holding in self.into_open_holdings() {
                out.end_or_defer(open_holding, cause, at);
            }
        });
    }

    /// Ends its closed devices with this cause; the others go on.
    pub(crate) fn end_closed(&mut self, cause: EndedBy, at: Option<&Proof>, out: &mut Output) {
        out.in_attempt(&mut self.incident, |out| {
            for open_holding in self.open_holdings.extract_if(.., |open_holding| !open_holding.is_open()) {
                out.end_or_defer(open_holding, cause, at);
            }
        });
    }
}

/// Marks an open as recorded both as failed and as successful: QEMU is taken not to hold it.
/// The failed open has this incident.
fn contradicted(
    mut open_holding: OpenHolding,
    other: &Proof,
    incident: u64,
    out: &mut Output,
) -> OpenHolding {
    open_holding.set_certainty(Certainty::Doubtful);
    open_holding.doubt_grant(Doubt::Contradicted);
    open_holding.add_proof(other);
    open_holding.holding.proof.sort_by_key(Proof::order);
    let text = format!(
        "The open of {} for {} is recorded both as failed and as successful",
        device_name(&open_holding.holding.device),
        open_holding.holding.mac
    );
    out.in_attempt(&mut Some(incident), |out| {
        out.report_for_holding(FindingKind::ContradictoryOpen, &open_holding.holding, text)
    });
    open_holding
}
