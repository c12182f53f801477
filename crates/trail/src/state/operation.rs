use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use taptrail_record::Device;

use crate::model::entry::RecordEntry;
use crate::output::unnumbered::UnnumberedGrant;
use crate::output::{Output, device_name};
use crate::state::open_holding::{OpenHolding, RecordedOpen};
use crate::{Certainty, Doubt, EndedBy, FindingKind, Proof};

/// One try to give one interface its devices: its opens, and what became of them.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) phase: Phase,
    pub(crate) open_holdings: Vec<OpenHolding>,
    /// Whether QEMU is told to have got it with no device: it ends unseen, and in order.
    bare: bool,
    /// Whether records may be missing that tell of it.
    records_lost: bool,
    /// Whether its supervisor has it in hand, where a ledger knows.
    in_progress: Option<bool>,
    /// When a release was told that may have been this one's or another's.
    pub(crate) perhaps_ended_at: Option<Timestamp>,
    /// One open told as failed and as done: QEMU is not believed to hold it, and may for a moment.
    contradicted: Vec<OpenHolding>,
    /// Paths whose open(2) failed, without a queue told, and the record of it.
    failed_opens: Vec<(CompactString, Proof)>,
}

/// How far an operation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Devices are being opened.
    Opening,
    /// QEMU was refused them, or refused.
    Refused,
    /// QEMU is said to have them, but whether its guest runs is not told yet.
    Booted,
    /// QEMU has them.
    Granted,
}

/// Two records of one open come at once; farther apart they are two tries.
pub(crate) const SAME_OPEN_WINDOW: SignedDuration = SignedDuration::from_secs(1);

/// A manager that gives a device to QEMU records that within this time: a hot-plug waits for QEMU's answer.
const GRANT_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// An interface has a backend and an accelerator.
const TYPICAL_DEVICES: usize = 2;
/// What is beyond this is another try.
const MAX_DEVICES: usize = 8;

impl Operation {
    pub(crate) fn new(phase: Phase) -> Self {
        let (open_holdings, contradicted, failed_opens) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            phase,
            open_holdings,
            bare: false,
            records_lost: false,
            in_progress: None,
            perhaps_ended_at: None,
            contradicted,
            failed_opens,
        }
    }

    /// One of which no open is told, though QEMU got the interface.
    pub(crate) fn bare(phase: Phase) -> Self {
        Self { bare: true, ..Self::new(phase) }
    }

    /// One whose beginning is before that of the trail.
    pub(crate) fn from_before_trail(open_holding: OpenHolding) -> Self {
        Self { open_holdings: vec![open_holding], ..Self::new(Phase::Granted) }
    }

    /// One that QEMU has with no interface plugged in, as far as is told.
    pub(crate) fn kept(open_holding: OpenHolding) -> Self {
        Self { open_holdings: vec![open_holding], ..Self::new(Phase::Refused) }
    }

    /// Whether another open can belong to it. What became of an older try may be among records that are missing.
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
        let takes = |open_holding: &&mut OpenHolding| open_holding.accepts_queue(opened.device, opened.queue);
        if let Some(open_holding) = self.open_holdings.iter_mut().find(takes) {
            return open_holding.add_queue(entry, opened);
        }
        let open_holding = OpenHolding::opened(entry, opened);
        let just = |failed: &Proof| entry.time.duration_since(failed.time).abs() <= SAME_OPEN_WINDOW;
        let same = |(path, failed): &&(CompactString, Proof)| *path == opened.device.path && just(failed);
        if opened.may_be_recorded_twice()
            && let Some((_, failed)) = self.failed_opens.iter().find(same)
        {
            let open_holding = contradicted(open_holding, failed, out);
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
        out: &mut Output,
    ) {
        if opened.queue.is_some() {
            return;
        }
        let path = &opened.device.path;
        let just = |open_holding: &OpenHolding| {
            open_holding
                .holding
                .opened
                .is_some_and(|opened| entry.time.duration_since(opened).abs() <= SAME_OPEN_WINDOW)
        };
        if opened.may_be_recorded_twice()
            && let Some(at) = self
                .open_holdings
                .iter()
                .position(|open_holding| open_holding.is_open_of(path, None) && just(open_holding))
        {
            let open_holding = contradicted(self.open_holdings.remove(at), &entry.proof(), out);
            self.contradicted.push(open_holding);
        }
        self.failed_opens.retain(|(of, _)| of != path);
        self.failed_opens.push((path.clone(), entry.proof()));
    }

    pub(crate) fn expects_closes(&self) -> bool {
        self.open_holdings.iter().any(OpenHolding::expects_closes)
    }

    /// Whether QEMU has some of it still.
    pub(crate) fn is_held(&self) -> bool {
        self.open_holdings.iter().any(|open_holding| open_holding.is_granted() && open_holding.is_open())
    }

    /// Whether QEMU has the interface, with devices or without.
    pub(crate) fn is_plugged(&self) -> bool {
        self.phase == Phase::Granted && (self.bare || self.is_held())
    }

    /// Whether some of it was closed and no record has said yet why.
    pub(crate) fn awaits_cause(&self) -> bool {
        self.open_holdings.iter().any(|open_holding| open_holding.is_granted() && !open_holding.is_open())
    }

    /// Whether its writer has seen the descriptors in QEMU.
    pub(crate) fn writer_saw_descriptors(&self) -> bool {
        let seen = |open_holding: &OpenHolding| {
            open_holding.is_granted() && open_holding.holding.certainty == Certainty::Definitive
        };
        self.open_holdings.iter().any(seen)
    }

    /// Whether nothing more can come of it.
    pub(crate) fn has_ended(&self) -> bool {
        let waits = match self.phase {
            Phase::Opening => !self.failed_opens.is_empty(),
            Phase::Refused => false,
            Phase::Booted => true,
            Phase::Granted => self.bare,
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
        self.bare = !self.is_held();
        self.failed_opens.clear();
    }

    /// QEMU has it, and its guest runs: of what no record tells the number, it is told when none does soon.
    pub(crate) fn await_numbers(&mut self, entry: &RecordEntry<'_>, out: &mut Output) {
        for open_holding in &mut self.open_holdings {
            if open_holding.is_granted()
                && open_holding.holding.device.rdev.is_none()
                && open_holding.holding.opened.is_some()
            {
                open_holding.number_pending = true;
                out.unnumbered.push(UnnumberedGrant::new(entry, open_holding.holding.mac));
            }
        }
    }

    /// All of it was seen in QEMU: whoever saw it will tell its end.
    pub(crate) fn is_seen_in_qemu(&self) -> bool {
        let mut held = self
            .open_holdings
            .iter()
            .filter(|open_holding| open_holding.is_granted() && open_holding.is_open())
            .peekable();
        held.peek().is_some() && held.all(OpenHolding::is_seen_in_qemu)
    }

    /// Takes what QEMU was seen to hold, though no record tells of a device of this one.
    pub(crate) fn accepts_unrecorded(&self) -> bool {
        self.bare && self.phase == Phase::Granted && self.open_holdings.len() < MAX_DEVICES
    }

    pub(crate) fn add_unrecorded(&mut self, open_holding: OpenHolding) {
        self.bare = false;
        self.open_holdings.push(open_holding);
    }

    pub(crate) fn add_proof(&mut self, proof: &Proof) {
        for open_holding in &mut self.open_holdings {
            open_holding.add_proof(proof);
        }
    }

    /// Records from `since` on may be missing: what is told of it is not certain any more.
    pub(crate) fn mark_records_lost(&mut self, since: Timestamp) {
        self.records_lost = true;
        for open_holding in self.open_holdings.iter_mut().chain(&mut self.contradicted) {
            open_holding.mark_records_lost(since);
        }
    }

    /// Whether records may be missing that tell of it.
    pub(crate) fn may_lack_records(&self) -> bool {
        self.records_lost
    }

    /// QEMU has what it got, and its guest runs: the opens that contradicted themselves gave it nothing.
    pub(crate) fn end_contradicted(&mut self, at: &Proof, out: &mut Output) {
        for mut open_holding in self.contradicted.drain(..) {
            open_holding.set_latest_end(at.time);
            out.emit_ended(open_holding, EndedBy::Close, None);
        }
    }

    /// A ledger knows of what is in it whether a supervisor has it in hand: it does if it is `listed`.
    pub(crate) fn set_in_progress(&mut self, ledger: &str, listed: bool) {
        let is_in =
            |open_holding: &OpenHolding| open_holding.holding.proof.iter().any(|proof| proof.is_in(ledger));
        if self.expects_closes() && self.open_holdings.iter().any(is_in) {
            self.in_progress = Some(listed);
        }
    }

    /// When something of it was told last.
    fn last_record_time(&self) -> Option<Timestamp> {
        self.open_holdings
            .iter()
            .filter_map(|open_holding| open_holding.holding.proof.last())
            .map(|proof| proof.time)
            .max()
    }

    /// The trail ends, and QEMU is not known to have it. Whether it is on its way to it, or nothing came of it: its
    /// ledger tells, else how long ago it was opened.
    pub(crate) fn on_trail_end(&mut self, until: Timestamp) {
        let recent = |last: Timestamp| until.duration_since(last) <= GRANT_TIMEOUT;
        let under_way = self.in_progress.unwrap_or_else(|| self.last_record_time().is_some_and(recent));
        if under_way && matches!(self.phase, Phase::Opening | Phase::Booted) {
            let told = self.in_progress.is_some();
            self.open_holdings.iter_mut().for_each(|open_holding| open_holding.set_in_progress(told));
        }
    }

    /// Why its grant is not certain, as far as it is not told.
    pub(crate) fn doubt_grant(&mut self, why: Doubt) {
        let ungranted = self.open_holdings.iter_mut().filter(|open_holding| !open_holding.is_granted());
        ungranted.chain(&mut self.contradicted).for_each(|open_holding| open_holding.doubt_grant(why));
    }

    /// QEMU may have had it, whatever became of the hand-over.
    pub(crate) fn mark_possibly_passed(&mut self) {
        for open_holding in self.open_holdings.iter_mut().filter(|open_holding| !open_holding.is_granted()) {
            open_holding.doubt_grant(Doubt::Failed);
            open_holding.weaken_to_inferred();
        }
    }

    /// It ends unseen; up to `time` it had not ended.
    pub(crate) fn set_last_seen(&mut self, time: Option<Timestamp>) {
        self.open_holdings
            .iter_mut()
            .filter(|open_holding| open_holding.is_granted())
            .for_each(|open_holding| open_holding.set_last_seen(time));
    }

    /// It is over by then, whether or not QEMU ever had it.
    pub(crate) fn set_latest_end(&mut self, time: Timestamp) {
        self.open_holdings
            .iter_mut()
            .chain(&mut self.contradicted)
            .for_each(|open_holding| open_holding.set_latest_end(time));
    }

    /// Its devices, with what is doubtful about them all.
    pub(crate) fn into_open_holdings(mut self) -> Vec<OpenHolding> {
        if let Some(since) = self.perhaps_ended_at {
            for open_holding in self
                .open_holdings
                .iter_mut()
                .filter(|open_holding| open_holding.is_granted() && open_holding.is_open())
            {
                open_holding.set_certainty(Certainty::Ambiguous);
                open_holding.set_uncertain_since(since);
            }
        }
        self.open_holdings.append(&mut self.contradicted);
        self.open_holdings
    }

    /// All of it is over.
    pub(crate) fn end(self, cause: EndedBy, at: Option<&Proof>, out: &mut Output) {
        for open_holding in self.into_open_holdings() {
            out.end_or_defer(open_holding, cause, at);
        }
    }

    /// What was closed is over for this cause; the rest goes on.
    pub(crate) fn end_closed(&mut self, cause: EndedBy, at: Option<&Proof>, out: &mut Output) {
        for open_holding in self.open_holdings.extract_if(.., |open_holding| !open_holding.is_open()) {
            out.end_or_defer(open_holding, cause, at);
        }
    }
}

/// One open told as failed and as done: QEMU is not believed to hold it.
fn contradicted(mut open_holding: OpenHolding, other: &Proof, out: &mut Output) -> OpenHolding {
    open_holding.set_certainty(Certainty::Doubtful);
    open_holding.doubt_grant(Doubt::Contradicted);
    open_holding.add_proof(other);
    open_holding.holding.proof.sort_by_key(Proof::order);
    let text = format!(
        "The open of {} for {} is recorded both as failed and as successful",
        device_name(&open_holding.holding.device),
        open_holding.holding.mac
    );
    out.report_for_holding(FindingKind::ContradictoryOpen, &open_holding.holding, text);
    open_holding
}
