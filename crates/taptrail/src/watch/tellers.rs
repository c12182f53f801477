//! All who are told what happened, once it is in the ledger.

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

/// See the module.
pub(super) struct Tellers {
    lines: Option<Lines>,
    journal: Option<Journal>,
    programs: Workers,
    webhooks: Workers,
    /// Whether there are numbers for somebody to look at.
    measured: bool,
    told: Told,
}

/// Where, how it went, how often.
pub(super) type Counts = Vec<(&'static str, &'static str, u64)>;

/// How often it was told, and was not.
#[derive(Debug, Default)]
struct Told {
    lines: u64,
    lines_missed: u64,
    journal: u64,
    journal_missed: u64,
    /// Whether journald took the last.
    journal_fails: bool,
}

impl Tellers {
    pub(super) fn new(arguments: &Watch) -> anyhow::Result<Self> {
        let lines = if arguments.silent { None } else { Some(Lines::new(arguments.output.is_json())?) };
        let journal = arguments.journald.as_deref().map(Journal::new).transpose();
        Ok(Self {
            lines,
            journal: journal.context("No socket for journald can be had")?,
            programs: Workers::programs(arguments.on_finding.clone())?,
            webhooks: Workers::webhooks(arguments.webhook.clone())?,
            measured: arguments.metrics_file.is_some() || arguments.metrics_listen.is_some(),
            told: Told::default(),
        })
    }

    pub(super) fn tell(&mut self, happening: &WatchEvent) {
        let event = Event::of(happening);
        let json: Arc<str> = event.json().into();
        if let Some(lines) = &self.lines {
            let line = if lines.is_json() { json.to_string() } else { event.line() };
            *(if lines.tell(line) { &mut self.told.lines } else { &mut self.told.lines_missed }) += 1;
        }
        if let Some(journal) = &self.journal {
            match journal.tell(&event, &json) {
                Ok(()) => {
                    self.told.journal += 1;
                    self.told.journal_fails = false;
                }
                Err(error) => {
                    self.told.journal_missed += 1;
                    if !std::mem::replace(&mut self.told.journal_fails, true) {
                        warn!("Events can't be sent to journald: {error}");
                    }
                }
            }
        }
        if let Some(kind) = event.finding {
            self.programs.found(kind, &json);
            self.webhooks.found(kind, &json);
        }
    }

    /// Whether it was told to who read standard output, who does so no more, and to nobody else.
    pub(super) fn is_for_nobody(&self) -> bool {
        let others =
            self.journal.is_some() || self.measured || self.programs.is_any() || self.webhooks.is_any();
        !others && self.lines.as_ref().is_some_and(Lines::is_gone)
    }

    /// Whether programs or webhooks are under way.
    pub(super) fn is_busy(&self) -> bool {
        self.programs.is_busy() || self.webhooks.is_busy()
    }

    pub(super) fn counts(&self) -> Counts {
        let mut all = Vec::new();
        if self.lines.is_some() {
            all.extend([("stdout", "done", self.told.lines), ("stdout", "missed", self.told.lines_missed)]);
        }
        if self.journal.is_some() {
            all.extend([
                ("journald", "done", self.told.journal),
                ("journald", "missed", self.told.journal_missed),
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
