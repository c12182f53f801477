use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use taptrail_record::Device;

use crate::model::entry::Claim;
use crate::output::unnumbered::Unnumbered;
use crate::output::{Out, named};
use crate::state::open_holding::{Draft, Opened};
use crate::{Certainty, Doubt, EndedBy, FindingKind, Proof};

/// One try to give one interface its devices: its opens, and what became of them.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) phase: Phase,
    pub(crate) drafts: Vec<Draft>,
    /// Whether QEMU is told to have got it with no device: it ends unseen, and in order.
    bare: bool,
    /// Whether records may be missing that tell of it.
    lost: bool,
    /// Whether its supervisor has it in hand, where a ledger knows.
    in_hand: Option<bool>,
    /// When a release was told that may have been this one's or another's.
    pub(crate) perhaps_over: Option<Timestamp>,
    /// One open told as failed and as done: QEMU is not believed to hold it, and may for a moment.
    contradicted: Vec<Draft>,
    /// Paths whose open(2) failed, without a queue told, and the record of it.
    failed: Vec<(CompactString, Proof)>,
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
pub(crate) const ONE_TRY: SignedDuration = SignedDuration::from_secs(1);

/// A manager that gives a device to QEMU records that within this time: a hot-plug waits for QEMU's answer.
const FOLLOWED_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// An interface has a backend and an accelerator.
const USUAL_DEVICES: usize = 2;
/// What is beyond this is another try.
const MOST_DEVICES: usize = 8;

impl Operation {
    pub(crate) fn new(phase: Phase) -> Self {
        let (drafts, contradicted, failed) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            phase,
            drafts,
            bare: false,
            lost: false,
            in_hand: None,
            perhaps_over: None,
            contradicted,
            failed,
        }
    }

    /// One of which no open is told, though QEMU got the interface.
    pub(crate) fn bare(phase: Phase) -> Self {
        Self { bare: true, ..Self::new(phase) }
    }

    /// One whose beginning is before that of the trail.
    pub(crate) fn from_before(draft: Draft) -> Self {
        Self { drafts: vec![draft], ..Self::new(Phase::Granted) }
    }

    /// One that QEMU has with no interface plugged in, as far as is told.
    pub(crate) fn kept(draft: Draft) -> Self {
        Self { drafts: vec![draft], ..Self::new(Phase::Refused) }
    }

    /// Whether another open can belong to it. What became of an older try may be among records that are missing.
    pub(crate) fn takes(&self, device: &Device, queue: Option<u32>) -> bool {
        self.phase == Phase::Opening
            && !self.lost
            && self.drafts.len() < MOST_DEVICES
            && !self.drafts.iter().any(|draft| draft.excludes(device, queue))
    }

    /// Whether another failed open can belong to it.
    pub(crate) fn takes_failed(&self) -> bool {
        self.phase == Phase::Opening && self.failed.len() < MOST_DEVICES
    }

    pub(crate) fn opened(&mut self, entry: &Claim<'_>, opened: &Opened<'_>, out: &mut Out) {
        let takes = |draft: &&mut Draft| draft.takes(opened.device, opened.queue);
        if let Some(draft) = self.drafts.iter_mut().find(takes) {
            return draft.add(entry, opened);
        }
        let draft = Draft::opened(entry, opened);
        let just = |failed: &Proof| entry.time.duration_since(failed.time).abs() <= ONE_TRY;
        let same = |(path, failed): &&(CompactString, Proof)| *path == opened.device.path && just(failed);
        if opened.may_be_told_twice()
            && let Some((_, failed)) = self.failed.iter().find(same)
        {
            let draft = contradicted(draft, failed, out);
            return self.contradicted.push(draft);
        }
        if self.drafts.is_empty() {
            self.drafts.reserve_exact(USUAL_DEVICES);
        }
        self.drafts.push(draft);
    }

    pub(crate) fn open_failed(&mut self, entry: &Claim<'_>, opened: &Opened<'_>, out: &mut Out) {
        if opened.queue.is_some() {
            return;
        }
        let path = &opened.device.path;
        let just = |draft: &Draft| {
            draft.holding.opened.is_some_and(|opened| entry.time.duration_since(opened).abs() <= ONE_TRY)
        };
        if opened.may_be_told_twice()
            && let Some(at) = self.drafts.iter().position(|draft| draft.is_told(path, None) && just(draft))
        {
            let draft = contradicted(self.drafts.remove(at), &entry.proof(), out);
            self.contradicted.push(draft);
        }
        self.failed.retain(|(of, _)| of != path);
        self.failed.push((path.clone(), entry.proof()));
    }

    pub(crate) fn closes_follow(&self) -> bool {
        self.drafts.iter().any(Draft::closes_follow)
    }

    /// Whether QEMU has some of it still.
    pub(crate) fn is_held(&self) -> bool {
        self.drafts.iter().any(|draft| draft.is_granted() && draft.is_open())
    }

    /// Whether QEMU has the interface, with devices or without.
    pub(crate) fn is_plugged(&self) -> bool {
        self.phase == Phase::Granted && (self.bare || self.is_held())
    }

    /// Whether some of it was closed and no record has said yet why.
    pub(crate) fn awaits_cause(&self) -> bool {
        self.drafts.iter().any(|draft| draft.is_granted() && !draft.is_open())
    }

    /// Whether its writer has seen the descriptors in QEMU.
    pub(crate) fn was_seen(&self) -> bool {
        let seen = |draft: &Draft| draft.is_granted() && draft.holding.certainty == Certainty::Definitive;
        self.drafts.iter().any(seen)
    }

    /// Whether nothing more can come of it.
    pub(crate) fn is_over(&self) -> bool {
        let waits = match self.phase {
            Phase::Opening => !self.failed.is_empty(),
            Phase::Refused => false,
            Phase::Booted => true,
            Phase::Granted => self.bare,
        };
        self.drafts.is_empty() && self.contradicted.is_empty() && !waits
    }

    pub(crate) fn grant(&mut self, phase: Phase, entry: &Claim<'_>, pid: Option<u32>, certainty: Certainty) {
        self.phase = phase;
        for draft in self.drafts.iter_mut().filter(|draft| draft.is_open()) {
            draft.grant(entry, pid, certainty);
        }
        self.bare = !self.is_held();
        self.failed.clear();
    }

    /// QEMU has it, and its guest runs: of what no record tells the number, it is told when none does soon.
    pub(crate) fn await_numbers(&mut self, entry: &Claim<'_>, out: &mut Out) {
        for draft in &mut self.drafts {
            if draft.is_granted() && draft.holding.device.rdev.is_none() && draft.holding.opened.is_some() {
                draft.unnumbered = true;
                out.unnumbered.push(Unnumbered::new(entry, draft.holding.mac));
            }
        }
    }

    /// All of it was seen in QEMU: whoever saw it will tell its end.
    pub(crate) fn is_seen(&self) -> bool {
        let mut held = self.drafts.iter().filter(|draft| draft.is_granted() && draft.is_open()).peekable();
        held.peek().is_some() && held.all(Draft::is_seen)
    }

    /// Takes what QEMU was seen to hold, though no record tells of a device of this one.
    pub(crate) fn takes_sighted(&self) -> bool {
        self.bare && self.phase == Phase::Granted && self.drafts.len() < MOST_DEVICES
    }

    pub(crate) fn sighted(&mut self, draft: Draft) {
        self.bare = false;
        self.drafts.push(draft);
    }

    pub(crate) fn prove(&mut self, proof: &Proof) {
        for draft in &mut self.drafts {
            draft.prove(proof);
        }
    }

    /// Records from `since` on may be missing: what is told of it is not certain any more.
    pub(crate) fn lose(&mut self, since: Timestamp) {
        self.lost = true;
        for draft in self.drafts.iter_mut().chain(&mut self.contradicted) {
            draft.lose(since);
        }
    }

    /// Whether records may be missing that tell of it.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// QEMU has what it got, and its guest runs: the opens that contradicted themselves gave it nothing.
    pub(crate) fn end_contradicted(&mut self, at: &Proof, out: &mut Out) {
        for mut draft in self.contradicted.drain(..) {
            draft.is_over_by(at.time);
            out.close(draft, EndedBy::Close, None);
        }
    }

    /// A ledger knows of what is in it whether a supervisor has it in hand: it does if it is `listed`.
    pub(crate) fn is_in_hand(&mut self, ledger: &str, listed: bool) {
        let is_in = |draft: &Draft| draft.holding.proof.iter().any(|proof| proof.is_in(ledger));
        if self.closes_follow() && self.drafts.iter().any(is_in) {
            self.in_hand = Some(listed);
        }
    }

    /// When something of it was told last.
    fn last_told(&self) -> Option<Timestamp> {
        self.drafts.iter().filter_map(|draft| draft.holding.proof.last()).map(|proof| proof.time).max()
    }

    /// The trail ends, and QEMU is not known to have it. Whether it is on its way to it, or nothing came of it: its
    /// ledger tells, else how long ago it was opened.
    pub(crate) fn trail_ends(&mut self, until: Timestamp) {
        let recent = |last: Timestamp| until.duration_since(last) <= FOLLOWED_WITHIN;
        let under_way = self.in_hand.unwrap_or_else(|| self.last_told().is_some_and(recent));
        if under_way && matches!(self.phase, Phase::Opening | Phase::Booted) {
            let told = self.in_hand.is_some();
            self.drafts.iter_mut().for_each(|draft| draft.is_under_way(told));
        }
    }

    /// Why its grant is not certain, as far as it is not told.
    pub(crate) fn doubt_grant(&mut self, why: Doubt) {
        let ungranted = self.drafts.iter_mut().filter(|draft| !draft.is_granted());
        ungranted.chain(&mut self.contradicted).for_each(|draft| draft.doubt_grant(why));
    }

    /// QEMU may have had it, whatever became of the hand-over.
    pub(crate) fn was_on_its_way(&mut self) {
        for draft in self.drafts.iter_mut().filter(|draft| !draft.is_granted()) {
            draft.doubt_grant(Doubt::Failed);
            draft.is_inferred();
        }
    }

    /// It ends unseen; up to `time` it had not ended.
    pub(crate) fn ends_unseen(&mut self, time: Option<Timestamp>) {
        self.drafts.iter_mut().filter(|draft| draft.is_granted()).for_each(|draft| draft.ends_unseen(time));
    }

    /// It is over by then, whether or not QEMU ever had it.
    pub(crate) fn is_over_by(&mut self, time: Timestamp) {
        self.drafts.iter_mut().chain(&mut self.contradicted).for_each(|draft| draft.is_over_by(time));
    }

    /// Its devices, with what is doubtful about them all.
    pub(crate) fn into_drafts(mut self) -> Vec<Draft> {
        if let Some(since) = self.perhaps_over {
            for draft in self.drafts.iter_mut().filter(|draft| draft.is_granted() && draft.is_open()) {
                draft.doubt(Certainty::Ambiguous);
                draft.is_uncertain_since(since);
            }
        }
        self.drafts.append(&mut self.contradicted);
        self.drafts
    }

    /// All of it is over.
    pub(crate) fn end(self, cause: EndedBy, at: Option<&Proof>, out: &mut Out) {
        for draft in self.into_drafts() {
            out.end(draft, cause, at);
        }
    }

    /// What was closed is over for this cause; the rest goes on.
    pub(crate) fn end_closed(&mut self, cause: EndedBy, at: Option<&Proof>, out: &mut Out) {
        for draft in self.drafts.extract_if(.., |draft| !draft.is_open()) {
            out.end(draft, cause, at);
        }
    }
}

/// One open told as failed and as done: QEMU is not believed to hold it.
fn contradicted(mut draft: Draft, other: &Proof, out: &mut Out) -> Draft {
    draft.doubt(Certainty::Doubtful);
    draft.doubt_grant(Doubt::Contradicted);
    draft.prove(other);
    draft.holding.proof.sort_by_key(Proof::order);
    let text = format!(
        "The open of {} for {} is recorded both as failed and as successful",
        named(&draft.holding.device),
        draft.holding.mac
    );
    out.of(FindingKind::ContradictoryOpen, &draft.holding, text);
    draft
}
