use std::collections::BTreeMap;
use std::sync::Arc;

use taptrail_record::{Event, Outcome};
use uuid::Uuid;

use crate::entry::Claim;
use crate::guest::{By, Guest};
use crate::out::{Out, named, whose, why};
use crate::{Content, Entry, Finding, FindingKind, Holding, Input, Proof, Report};

/// Reads records in their order and tells who held what.
///
/// Memory grows with what is alive at one time, and with what is told and not yet fetched by
/// [`drain_ended`](Self::drain_ended) and [`drain_findings`](Self::drain_findings).
#[derive(Debug, Default)]
pub struct Trail {
    guests: BTreeMap<(Arc<str>, Uuid), Guest>,
    out: Out,
    records: u64,
}

impl Trail {
    /// A trail of which nothing is told yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next record. Those of one host must come in the order in which they were written.
    pub fn feed(&mut self, entry: &Entry) {
        match &entry.content {
            Content::Record(record) => self.claim(&Claim { entry, record }),
            Content::Boot => self.host_rebooted(&entry.host, &entry.proof()),
            _ => {}
        }
    }

    fn claim(&mut self, entry: &Claim<'_>) {
        self.records += 1;
        let key = (Arc::clone(&entry.host), entry.record.guest.uuid);
        let out = &mut self.out;
        let done = entry.record.outcome == Outcome::Success;
        if let (Event::GuestStop { .. }, true) = (&entry.record.event, done) {
            if let Some(guest) = self.guests.remove(&key) {
                guest.stopped(entry, out);
            }
            return;
        }
        let guest = self.guests.entry(key.clone()).or_default();
        match (&entry.record.event, done) {
            (Event::Open { mac, device, queue }, true) => guest.opened(entry, *mac, device, *queue, out),
            (Event::Open { mac, device, queue }, false) => {
                guest.open_failed(entry, *mac, device, *queue, out);
            }
            (Event::Start { mac, vm_pid, .. }, true) => guest.granted(entry, *mac, By::Start, *vm_pid, out),
            (Event::Start { mac, .. }, false) => guest.refused(entry, *mac, By::Start, out),
            (Event::Attach { mac, vm_pid, .. }, true) => guest.granted(entry, *mac, By::Attach, *vm_pid, out),
            (Event::Attach { mac, .. }, false) => guest.refused(entry, *mac, By::Attach, out),
            (Event::Detach { mac, forced, .. }, true) => guest.detached(entry, *mac, *forced, out),
            (Event::Detach { mac, .. }, false) => guest.detach_failed(entry, *mac, out),
            (Event::Keep { mac, device, queue, vm_pid }, _) => {
                guest.kept(entry, *mac, device, *queue, *vm_pid, out);
            }
            (Event::Close { mac, device, queue }, true) => guest.closed(entry, *mac, device, *queue, out),
            (Event::Close { device, .. }, false) => {
                let text = format!("{} of {} could not be closed{}", named(device), whose(entry), why(entry));
                out.say(FindingKind::CloseFailed, entry, text);
            }
            (Event::GuestStart { vm_pid, .. }, true) => guest.started(entry, *vm_pid, out),
            (Event::GuestStart { .. }, false) => guest.start_failed(entry, out),
            (Event::GuestStop { .. }, _) => Guest::stop_failed(entry, out),
        }
        if guest.is_idle() {
            self.guests.remove(&key);
        }
    }

    /// A host started anew: all that its guests held is over.
    fn host_rebooted(&mut self, host: &str, at: &Proof) {
        for (_, guest) in self.guests.extract_if(.., |(of, _), _| **of == *host) {
            guest.rebooted(at, &mut self.out);
        }
    }

    /// Whether no guest is alive, as far as is told.
    pub fn is_idle(&self) -> bool {
        self.guests.is_empty()
    }

    /// Gives away the holdings that are over and not yet given, in the order of their ends.
    pub fn drain_ended(&mut self) -> impl Iterator<Item = Holding> {
        self.out.holdings.drain(..)
    }

    /// Gives away the findings not yet given, oldest first.
    pub fn drain_findings(&mut self) -> impl Iterator<Item = Finding> {
        self.out.findings.drain(..)
    }

    /// Tells the rest: what is held still, and what was not drained. Newest last.
    pub fn finish(mut self) -> Report {
        for guest in std::mem::take(&mut self.guests).into_values() {
            guest.finish(&mut self.out);
        }
        let Out { mut holdings, findings } = self.out;
        holdings.sort_by_key(|holding| (holding.opened, holding.proof.first().map(|proof| proof.line)));
        Report { holdings, findings, input: Input { records: self.records, ..Input::default() } }
    }
}
