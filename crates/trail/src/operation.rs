use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, MacAddr};

use crate::draft::Draft;
use crate::entry::Claim;
use crate::out::{Out, named};
use crate::{Certainty, EndedBy, FindingKind, Proof};

/// One try to give one interface its devices: its opens, and what became of them.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) phase: Phase,
    pub(crate) drafts: Vec<Draft>,
    /// Paths whose open(2) failed, without a queue told, and when.
    failed: Vec<(CompactString, Timestamp)>,
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
const ONE_TRY: SignedDuration = SignedDuration::from_secs(1);

impl Operation {
    pub(crate) fn new(phase: Phase) -> Self {
        Self { phase, drafts: Vec::new(), failed: Vec::new() }
    }

    /// Whether another open can belong to it.
    pub(crate) fn takes(&self, device: &Device, queue: Option<u32>) -> bool {
        self.phase == Phase::Opening && !self.drafts.iter().any(|draft| draft.excludes(device, queue))
    }

    pub(crate) fn opened(
        &mut self,
        entry: &Claim<'_>,
        mac: MacAddr,
        device: &Device,
        queue: Option<u32>,
        out: &mut Out,
    ) {
        if let Some(draft) = self.drafts.iter_mut().find(|draft| draft.takes(device, queue)) {
            return draft.add(entry, queue);
        }
        let draft = Draft::opened(entry, mac, device, queue);
        let just = |at: &Timestamp| entry.time.duration_since(*at).abs() <= ONE_TRY;
        if queue.is_none() && self.failed.iter().any(|(path, at)| *path == device.path && just(at)) {
            return contradicted(draft, None, out);
        }
        self.drafts.push(draft);
    }

    pub(crate) fn open_failed(
        &mut self,
        entry: &Claim<'_>,
        device: &Device,
        queue: Option<u32>,
        out: &mut Out,
    ) {
        if queue.is_some() {
            return;
        }
        let just = |draft: &Draft| {
            draft.holding.opened.is_some_and(|opened| entry.time.duration_since(opened).abs() <= ONE_TRY)
        };
        if let Some(at) = self.drafts.iter().position(|draft| draft.has(&device.path, None) && just(draft)) {
            contradicted(self.drafts.remove(at), Some(&entry.proof()), out);
        }
        self.failed.retain(|(path, _)| *path != device.path);
        self.failed.push((device.path.clone(), entry.time));
    }

    pub(crate) fn closes_follow(&self) -> bool {
        self.drafts.iter().any(Draft::closes_follow)
    }

    /// Whether QEMU has some of it still.
    pub(crate) fn is_held(&self) -> bool {
        self.drafts.iter().any(|draft| draft.is_granted() && draft.is_open())
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
        self.drafts.is_empty() && (self.failed.is_empty() || self.phase != Phase::Opening)
    }

    pub(crate) fn grant(&mut self, phase: Phase, entry: &Claim<'_>, pid: Option<u32>, certainty: Certainty) {
        self.phase = phase;
        for draft in self.drafts.iter_mut().filter(|draft| draft.is_open()) {
            draft.grant(entry, pid, certainty);
        }
    }

    pub(crate) fn prove(&mut self, proof: &Proof) {
        for draft in &mut self.drafts {
            draft.prove(proof);
        }
    }

    /// All of it is over.
    pub(crate) fn end(self, cause: EndedBy, at: Option<&Proof>, out: &mut Out) {
        for draft in self.drafts {
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
fn contradicted(mut draft: Draft, at: Option<&Proof>, out: &mut Out) {
    draft.doubt(Certainty::Doubtful);
    let text = format!(
        "The open of {} for {} is told both as failed and as done",
        named(&draft.holding.device),
        draft.holding.mac
    );
    let holding = draft.end(EndedBy::Close, at);
    out.of(FindingKind::ContradictoryOpen, &holding, text);
    out.holdings.push(holding);
}
