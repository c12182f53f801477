//! The taps of one host that the bridge helper passed, and that have not ended.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::{BridgeClose, BridgeOpen, Outcome};

use crate::model::bridge_tap::{BridgeTap, BridgeTapEnd};
use crate::output::Output;
use crate::{Entry, Proof, State};

/// How many taps of one host may be open. Without a watcher no record shows their ends, so the
/// oldest are emitted as unknown.
const MAX_OPEN: usize = 4096;

/// The open taps, oldest first.
#[derive(Debug, Default)]
pub(crate) struct BridgeTaps(VecDeque<OpenTap>);

#[derive(Debug)]
struct OpenTap {
    open: BridgeOpen,
    passed: Timestamp,
    /// Whether the helper's own record was read.
    requested: bool,
    /// Whether a watcher's was.
    watched: bool,
    uncertain_since: Option<Timestamp>,
    proof: Vec<Proof>,
}

/// How an open tap ends.
#[derive(Debug, Clone, Copy)]
struct End {
    by: BridgeTapEnd,
    released: Timestamp,
    last_seen: Option<Timestamp>,
}

impl BridgeTaps {
    /// The helper, or a watcher, recorded a request.
    pub(crate) fn on_open(&mut self, entry: &Entry, open: &BridgeOpen, out: &mut Output) {
        // Or a later one of this name and caller.
        let known = self.0.iter().position(|tap| tap.open.is_same_tap(open));
        if open.outcome == Outcome::Failed {
            // After a success, this is the failure to pass it.
            let passed = known.filter(|_| open.refusal.as_deref() == Some("hand-over"));
            if let Some(tap) = passed.and_then(|at| self.0.remove(at)) {
                out.bridge_taps.push(tap.never_passed(entry));
            }
            return;
        }
        if open.dev().is_none() {
            return;
        }
        // The helper writes one record of a tap, and the watcher another.
        let other = |tap: &OpenTap| if open.ifindex.is_some() { !tap.watched } else { !tap.requested };
        if let Some(tap) = known.and_then(|at| self.0.get_mut(at)).filter(|tap| other(tap)) {
            (tap.watched, tap.requested) = (true, true);
            entry.proof().add_to(&mut tap.proof);
            return;
        }
        let end = End { by: BridgeTapEnd::NameReused, released: entry.time, last_seen: None };
        while let Some(at) = self.0.iter().position(|tap| tap.has_name_of(open)) {
            let Some(tap) = self.0.remove(at) else { break };
            let last_seen = Some(tap.passed);
            out.bridge_taps.push(tap.end(&entry.host, End { last_seen, ..end }, Some(entry)));
        }
        self.0.push_back(OpenTap {
            open: open.clone(),
            passed: entry.time,
            requested: open.ifindex.is_none(),
            watched: open.ifindex.is_some(),
            uncertain_since: None,
            proof: vec![entry.proof()],
        });
        if self.0.len() > MAX_OPEN
            && let Some(oldest) = self.0.pop_front()
        {
            out.bridge_taps.push(oldest.without_end(&entry.host, State::Unknown));
        }
    }

    /// A watcher recorded a close.
    pub(crate) fn on_close(&mut self, entry: &Entry, close: &BridgeClose, out: &mut Output) {
        let is_its = |tap: &OpenTap| close.is_of(&tap.open) && tap.passed <= entry.time;
        // The kernel's audit and the ledger have one each: the second finds nothing.
        let Some(tap) = self.0.iter().position(is_its).and_then(|at| self.0.remove(at)) else { return };
        let last_seen = close.last_seen.and_then(|time| Timestamp::from_millisecond(time.cast_signed()).ok());
        let end = End { by: BridgeTapEnd::Close, released: entry.time, last_seen };
        out.bridge_taps.push(tap.end(&entry.host, end, Some(entry)));
    }

    /// Records from `since` on may be missing.
    pub(crate) fn mark_records_lost(&mut self, since: Timestamp) {
        for tap in &mut self.0 {
            tap.uncertain_since.get_or_insert(since.max(tap.passed));
        }
    }

    /// The host booted.
    pub(crate) fn on_reboot(
        &mut self,
        host: &Arc<str>,
        last: Option<Timestamp>,
        at: &Proof,
        out: &mut Output,
    ) {
        for mut tap in std::mem::take(&mut self.0) {
            at.clone().add_to(&mut tap.proof);
            let last_seen =
                last.map(|last| last.max(tap.passed)).filter(|_| tap.watched).or(Some(tap.passed));
            let end = End { by: BridgeTapEnd::Reboot, released: at.time, last_seen };
            out.bridge_taps.push(tap.end(host, end, None));
        }
    }

    /// The trail ends.
    pub(crate) fn finish(&mut self, host: &Arc<str>, out: &mut Output) {
        for tap in std::mem::take(&mut self.0) {
            let state = if tap.watched { State::Held } else { State::Unknown };
            out.bridge_taps.push(tap.without_end(host, state));
        }
    }
}

impl OpenTap {
    /// Whether a tap that was passed now has its name: a network namespace has each name once.
    fn has_name_of(&self, open: &BridgeOpen) -> bool {
        let same_netns = self.open.netns.is_some() && self.open.netns == open.netns;
        self.open.dev() == open.dev() && (same_netns || self.open.is_same_tap(open))
    }

    fn end(mut self, host: &Arc<str>, end: End, entry: Option<&Entry>) -> BridgeTap {
        if let Some(entry) = entry {
            entry.proof().add_to(&mut self.proof);
        }
        let mut tap = self.without_end(host, State::Released);
        (tap.released, tap.last_seen, tap.ended_by) = (Some(end.released), end.last_seen, Some(end.by));
        tap
    }

    fn never_passed(mut self, entry: &Entry) -> BridgeTap {
        entry.proof().add_to(&mut self.proof);
        BridgeTap { released: Some(entry.time), ..self.without_end(&entry.host, State::NeverGranted) }
    }

    fn without_end(self, host: &Arc<str>, state: State) -> BridgeTap {
        let Self { open, passed, uncertain_since, proof, .. } = self;
        BridgeTap {
            host: Arc::clone(host),
            bridge: open.bridge,
            device: open.device.unwrap_or_else(|| taptrail_record::Device::new("", None, None)),
            requester: open.requester,
            start_time: open.start_time,
            claimed_name: open.claimed_name,
            claimed_uuid: open.claimed_uuid,
            passed,
            released: None,
            last_seen: None,
            uncertain_since: uncertain_since.filter(|_| state != State::Released),
            state,
            ended_by: None,
            proof,
        }
    }
}
