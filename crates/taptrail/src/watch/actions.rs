//! Actions for findings: runs programs, and calls webhooks.
//!
//! A few threads run them, so that they never block the watcher. When too many are queued, further
//! ones are dropped and counted.

mod command;
mod leftovers;
mod webhook;

use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use taptrail_trail::FindingKind;
use tracing::warn;

pub(crate) use self::command::Program;
pub(crate) use self::webhook::Url;

/// Actions that are queued.
const MAX_QUEUED_JOBS: usize = 256;

/// How long to wait at the end for queued and running actions.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// An action for findings of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Rule<T> {
    /// The kind; `None` for all kinds.
    pub(crate) kind: Option<FindingKind>,
    pub(crate) action: T,
}

impl<T> FromStr for Rule<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    type Err = String;

    /// `KIND=WHAT`, or `any=WHAT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, action) = text.split_once('=').ok_or("it is not KIND=…: a kind of finding, or 'any'")?;
        let kind = match kind {
            "any" => None,
            kind => Some(FindingKind::from_word(kind).ok_or_else(|| {
                format!("there is no kind of finding '{kind}': docs/findings.md has them, 'any' is all")
            })?),
        };
        Ok(Self { kind, action: action.parse().map_err(|error: T::Err| error.to_string())? })
    }
}

/// An action for a finding.
trait Action: Send + 'static {
    /// Runs the action; `json` is the finding as an event. Returns in a limited time.
    fn run(&mut self, finding: FindingKind, json: &str) -> Result<(), String>;
}

/// A finding with the rule for it.
struct Job {
    /// The index of the rule.
    rule: usize,
    finding: FindingKind,
    json: Arc<str>,
}

/// Threads that run the actions of rules.
pub(super) struct Workers {
    kinds: Vec<Option<FindingKind>>,
    jobs: Option<SyncSender<Job>>,
    counts: Arc<Counts>,
}

/// Counts of outcomes.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) done: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Dropped: too many were queued.
    pub(super) missed: AtomicU64,
    /// Queued or running.
    open: AtomicU64,
}

impl Workers {
    /// Starts `threads` threads of this name.
    fn new<T: Action + Clone>(name: &'static str, threads: usize, rules: Vec<Rule<T>>) -> io::Result<Self> {
        let kinds: Vec<_> = rules.iter().map(|rule| rule.kind).collect();
        let actions: Vec<_> = rules.into_iter().map(|rule| rule.action).collect();
        let (jobs, waiting) = sync_channel(MAX_QUEUED_JOBS);
        let (waiting, counts) = (Arc::new(Mutex::new(waiting)), Arc::new(Counts::default()));
        for _ in 0..if kinds.is_empty() { 0 } else { threads } {
            let (waiting, counts, actions) = (Arc::clone(&waiting), Arc::clone(&counts), actions.clone());
            let work = move || work(name, &waiting, &counts, actions);
            std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        }
        Ok(Self { kinds, jobs: Some(jobs), counts })
    }

    /// Programs, four at a time.
    pub(super) fn programs(rules: Vec<Rule<Program>>) -> io::Result<Self> {
        if !rules.is_empty()
            && let Err(error) = leftovers::adopt()
        {
            warn!(
                "Processes that programs for findings leave in sessions of their own are not killed: {error}"
            );
        }
        Self::new("program", 4, rules)
    }

    /// Webhooks, two at a time.
    pub(super) fn webhooks(rules: Vec<Rule<Url>>) -> io::Result<Self> {
        Self::new("webhook", 2, rules)
    }

    /// Queues the actions of all rules for a finding.
    pub(super) fn queue(&self, finding: FindingKind, json: &Arc<str>) {
        let Some(jobs) = &self.jobs else { return };
        for (rule, kind) in self.kinds.iter().enumerate() {
            if kind.is_some_and(|kind| kind != finding) {
                continue;
            }
            self.counts.open.fetch_add(1, Ordering::AcqRel);
            if jobs.try_send(Job { rule, finding, json: Arc::clone(json) }).is_err() {
                self.counts.open.fetch_sub(1, Ordering::AcqRel);
                self.counts.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether there are any rules.
    pub(super) fn is_any(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// Whether actions are queued or running.
    pub(super) fn is_busy(&self) -> bool {
        self.counts.open.load(Ordering::Acquire) > 0
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        while self.is_busy() {
            if Instant::now() > deadline {
                warn!("Actions for the last findings did not finish in time");
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn work<T: Action>(name: &str, waiting: &Mutex<Receiver<Job>>, counts: &Counts, mut actions: Vec<T>) {
    loop {
        // A poisoned lock leaves a valid queue.
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { rule, finding, json }) = job else { return };
        let Some(action) = actions.get_mut(rule) else { continue };
        match action.run(finding, &json) {
            Ok(()) => counts.done.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                warn!("The {name} for a finding '{}' failed: {error}", finding.as_str());
                counts.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
        counts.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Slow(Arc<Mutex<Vec<String>>>, Duration);

    impl Action for Slow {
        fn run(&mut self, finding: FindingKind, json: &str) -> Result<(), String> {
            std::thread::sleep(self.1);
            self.0.lock().unwrap().push(format!("{} {json}", finding.as_str()));
            if json == "bad" { Err("it is bad".to_owned()) } else { Ok(()) }
        }
    }

    #[test]
    fn each_rule_is_for_its_kind_and_the_end_waits_for_what_was_begun() {
        let (one, all) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let rule = |kind, to: &Arc<_>| Rule { kind, action: Slow(Arc::clone(to), Duration::from_millis(20)) };
        let rules = vec![rule(Some(FindingKind::LogGap), &one), rule(None, &all)];
        let workers = Workers::new("test", 2, rules).unwrap();
        let counts = Arc::clone(&workers.counts);
        workers.queue(FindingKind::LogGap, &"x".into());
        workers.queue(FindingKind::OpenFailed, &"bad".into());
        drop(workers);
        assert_eq!(*one.lock().unwrap(), ["log-gap x"]);
        let mut all = all.lock().unwrap().clone();
        all.sort();
        assert_eq!(all, ["log-gap x", "open-failed bad"]);
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!((count(&counts.done), count(&counts.failed), count(&counts.missed)), (2, 1, 0));
    }

    // Shows 13.30.
    #[test]
    fn a_flood_of_findings_waits_for_nobody() {
        let done = Arc::<Mutex<Vec<_>>>::default();
        let rules = vec![Rule { kind: None, action: Slow(Arc::clone(&done), Duration::from_millis(1)) }];
        let workers = Workers::new("test", 1, rules).unwrap();
        let counts = Arc::clone(&workers.counts);
        (0..10_000).for_each(|_| workers.queue(FindingKind::LogGap, &"x".into()));
        let missed = counts.missed.load(Ordering::Relaxed);
        drop(workers);
        assert!(missed > 0);
        assert_eq!(counts.done.load(Ordering::Relaxed) + missed, 10_000);
    }

    #[test]
    fn a_rule_names_a_kind_that_there_is() {
        let rule = |text: &str| text.parse::<Rule<Program>>().map(|rule| rule.kind);
        assert_eq!(rule("log-gap=/bin/true"), Ok(Some(FindingKind::LogGap)));
        assert_eq!(rule("any=/bin/true"), Ok(None));
        assert!(rule("gap=/bin/true").unwrap_err().contains("no kind of finding 'gap'"));
        assert!(rule("/bin/true").unwrap_err().contains("KIND="));
        assert!(rule("any=true").unwrap_err().contains("absolute"));
    }
}
