//! Delivers events to all destinations, once they are in the ledger.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use taptrail_witness::watch::WatchEvent;
use tracing::warn;

use super::actions::{self, Workers};
use super::event::Event;
use super::journal::Journal;
use super::stdout::Lines;
use crate::cli::Watch;

/// The destinations: see the module.
pub(super) struct Notifiers {
    lines: Option<Lines>,
    journal: Option<Journal>,
    programs: Workers,
    webhooks: Workers,
    /// Whether metrics are served or written.
    measured: bool,
    counts: DeliveryCounts,
}

/// Destination, outcome, count.
pub(super) type Counts = Vec<(&'static str, &'static str, u64)>;

/// Counts of deliveries to standard output and journald.
#[derive(Debug, Default)]
struct DeliveryCounts {
    lines: u64,
    lines_missed: u64,
    journal: u64,
    journal_missed: u64,
    /// Whether the last delivery to journald failed.
    journal_fails: bool,
}

impl Notifiers {
    pub(super) fn new(arguments: &Watch) -> anyhow::Result<Self> {
        let lines = if arguments.silent { None } else { Some(Lines::new(arguments.output.is_json())?) };
        let journal = arguments.journald.as_deref().map(Journal::new).transpose();
        Ok(Self {
            lines,
            journal: journal.context("A socket for journald can't be created")?,
            programs: Workers::programs(arguments.on_finding.clone())?,
            webhooks: Workers::webhooks(arguments.webhook.clone())?,
            measured: arguments.metrics_file.is_some() || arguments.metrics_listen.is_some(),
            counts: DeliveryCounts::default(),
        })
    }

    pub(super) fn notify(&mut self, happening: &WatchEvent) {
        let event = Event::of(happening);
        let json: Arc<str> = event.json().into();
        if let Some(lines) = &self.lines {
            let line = if lines.is_json() { json.to_string() } else { event.line() };
            *(if lines.send(line) { &mut self.counts.lines } else { &mut self.counts.lines_missed }) += 1;
        }
        if let Some(journal) = &self.journal {
            match journal.send(&event, &json) {
                Ok(()) => {
                    self.counts.journal += 1;
                    self.counts.journal_fails = false;
                }
                Err(error) => {
                    self.counts.journal_missed += 1;
                    if !std::mem::replace(&mut self.counts.journal_fails, true) {
                        warn!("Events can't be sent to journald: {error}");
                    }
                }
            }
        }
        if let Some(kind) = event.finding {
            self.programs.queue(kind, &json);
            self.webhooks.queue(kind, &json);
        }
    }

    /// Whether standard output was the only destination, and its reader is gone.
    pub(super) fn is_unused(&self) -> bool {
        let others =
            self.journal.is_some() || self.measured || self.programs.is_any() || self.webhooks.is_any();
        !others && self.lines.as_ref().is_some_and(Lines::is_gone)
    }

    /// Whether programs or webhooks are running or queued.
    pub(super) fn is_busy(&self) -> bool {
        self.programs.is_busy() || self.webhooks.is_busy()
    }

    pub(super) fn counts(&self) -> Counts {
        let mut all = Vec::new();
        if self.lines.is_some() {
            all.extend([
                ("stdout", "done", self.counts.lines),
                ("stdout", "missed", self.counts.lines_missed),
            ]);
        }
        if self.journal.is_some() {
            all.extend([
                ("journald", "done", self.counts.journal),
                ("journald", "missed", self.counts.journal_missed),
            ]);
        }
        for (name, workers) in [("program", &self.programs), ("webhook", &self.webhooks)] {
            let actions::Counts { done, failed, missed, .. } = workers.counts();
            if workers.is_any() {
                let each = [("done", done), ("failed", failed), ("missed", missed)];
                all.extend(each.map(|(outcome, count)| (name, outcome, count.load(Ordering::Relaxed))));
            }
        }
        all
    }
}
