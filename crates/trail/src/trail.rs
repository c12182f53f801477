use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::output::Output;
use crate::output::unnumbered::UnnumberedGrant;
use crate::state::host::Host;
use crate::state::run::Runs;
use crate::time::after;
use crate::{BridgeTap, Content, Entry, Finding, GuestRun, Holding, Input, Proof, Report, StepsInProgress};

/// How many devices may wait for a record with their numbers.
const MAX_UNNUMBERED: usize = 1024;

/// Reads records in their order, and derives holdings and findings.
///
/// Memory grows with the number of guests that run at one time, with the number of hosts, and with
/// what is not yet fetched by [`drain_ended`](Self::drain_ended),
/// [`drain_findings`](Self::drain_findings) and [`drain_bridge_taps`](Self::drain_bridge_taps).
#[derive(Debug, Default)]
pub struct Trail {
    hosts: Vec<Host>,
    names: HashMap<Arc<str>, usize>,
    /// The host of the last entry: most entries come from the same.
    last: Option<(Arc<str>, usize)>,
    out: Output,
    /// Granted devices whose number no record has given so far.
    unnumbered: VecDeque<UnnumberedGrant>,
    /// Until when the logs of each host go on.
    covered: HashMap<Arc<str>, Timestamp>,
    /// The time of the last entry.
    now: Timestamp,
    records: u64,
}

impl Trail {
    /// A trail without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// A trail for a watcher, which looks into QEMU itself: a grant without an open is reported at
    /// once, and the watcher decides whether it is a finding.
    pub fn for_watcher() -> Self {
        let mut trail = Self::default();
        trail.out.reports_bare_grants_at_once = true;
        trail
    }

    /// A trail that also collects the runs of guests, for [`drain_runs`](Self::drain_runs).
    pub fn with_runs() -> Self {
        let mut trail = Self::default();
        trail.out.runs = Some(Runs::default());
        trail
    }

    /// Takes the next entry. The entries of one host must come in the order in which they were
    /// written.
    pub fn feed(&mut self, entry: &Entry) {
        self.records += u64::from(matches!(entry.content, Content::Record(_)));
        self.now = entry.time;
        let host = self.host(&entry.host);
        if let Some(runs) = &mut self.out.runs {
            runs.advance(entry.time);
        }
        self.hosts[host].feed(entry, &mut self.out);
        self.unnumbered.extend(self.out.unnumbered.drain(..));
        self.report_overdue_unnumbered(entry.time);
        while self.unnumbered.len() > MAX_UNNUMBERED {
            let Some(oldest) = self.unnumbered.pop_front() else { break };
            self.report_unnumbered(&oldest);
        }
    }

    /// Ends the waits whose time is up, where a trail is followed as it is written: the time is
    /// `now`, and all entries written before then have been fed. For logs read afterwards the next
    /// entry's time does this.
    pub fn advance(&mut self, now: Timestamp) {
        for host in &mut self.hosts {
            host.advance(now, &mut self.out);
        }
        self.report_overdue_unnumbered(now);
    }

    /// When the next [`advance`](Self::advance) has something to do, if no entry comes before.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let unnumbered = self.unnumbered.front().map(UnnumberedGrant::deadline);
        let deadline = self.hosts.iter().filter_map(Host::deadline).chain(unnumbered).min()?;
        // A wait ends when its deadline has passed.
        Some(after(deadline, SignedDuration::from_millis(1)))
    }

    fn report_overdue_unnumbered(&mut self, now: Timestamp) {
        while let Some(overdue) = self.unnumbered.pop_front_if(|oldest| oldest.deadline() < now) {
            self.report_unnumbered(&overdue);
        }
    }

    fn report_unnumbered(&mut self, of: &UnnumberedGrant) {
        let host = self.host(&of.host);
        self.hosts[host].report_unnumbered(of, &mut self.out);
    }

    fn host(&mut self, name: &Arc<str>) -> usize {
        if let Some((last, host)) = &self.last
            && last == name
        {
            return *host;
        }
        let host = match self.names.get(name) {
            Some(host) => *host,
            None => {
                self.hosts.push(Host::new(Arc::clone(name)));
                self.names.insert(Arc::clone(name), self.hosts.len() - 1);
                self.hosts.len() - 1
            }
        };
        self.last = Some((Arc::clone(name), host));
        host
    }

    /// Whether no guest runs, as far as the records go.
    pub fn is_idle(&self) -> bool {
        self.hosts.iter().all(Host::is_idle)
    }

    /// The devices that QEMUs hold now, as far as the records go.
    pub fn held(&self) -> impl Iterator<Item = &Holding> {
        self.hosts.iter().flat_map(Host::held)
    }

    /// Takes the holdings that have ended since the last call, in the order of their ends.
    pub fn drain_ended(&mut self) -> impl Iterator<Item = Holding> {
        self.out.holdings.drain(..)
    }

    /// Takes the findings made since the last call, oldest first.
    pub fn drain_findings(&mut self) -> impl Iterator<Item = Finding> {
        self.out.findings.drain(..)
    }

    /// Takes the bridge helper's taps that have ended since the last call, in the order of their ends.
    pub fn drain_bridge_taps(&mut self) -> impl Iterator<Item = BridgeTap> {
        self.out.bridge_taps.drain(..)
    }

    /// Takes the runs of guests that have ended since the last call, in the order of their ends.
    /// None without [`with_runs`](Self::with_runs).
    pub fn drain_runs(&mut self) -> impl Iterator<Item = GuestRun> {
        self.out.runs.iter_mut().flat_map(|runs| runs.ended.drain(..))
    }

    /// The log of this host goes on until then at least, whether or not it has entries.
    pub fn cover(&mut self, host: &Arc<str>, until: Timestamp) {
        let until = self.covered.get(host).map_or(until, |before| until.max(*before));
        self.covered.insert(Arc::clone(host), until);
    }

    /// The logs of all hosts fed so far go on until then at least.
    pub fn cover_all(&mut self, until: Timestamp) {
        for name in self.hosts.iter().map(|host| Arc::clone(&host.name)).collect::<Vec<_>>() {
            self.cover(&name, until);
        }
    }

    /// The ledger of a host lists its supervisors' steps in progress. To be called once all of the
    /// ledger has been fed.
    pub fn set_steps_in_progress(&mut self, steps: &StepsInProgress) {
        if let Some(host) = self.names.get(&steps.host) {
            self.hosts[*host].set_steps_in_progress(steps);
        }
    }

    /// The rest: the devices still held, and what was not drained. Newest last.
    pub fn finish(self) -> Report {
        self.finish_with_runs().0
    }

    /// The same, and the runs that were not drained: the last are those that have not ended.
    pub fn finish_with_runs(mut self) -> (Report, Vec<GuestRun>) {
        for host in self.hosts {
            let covered = self.covered.get(&host.name).copied();
            host.finish(covered, &mut self.out);
        }
        for ending in self.out.pending_releases.take_all() {
            self.out.emit_pending(ending, self.now);
        }
        let Output { mut holdings, findings, mut bridge_taps, runs, .. } = self.out;
        bridge_taps.sort_by_key(|tap| (tap.passed, tap.proof.first().map(Proof::order)));
        holdings.sort_by_key(|holding| (holding.begun(), holding.proof.first().map(Proof::order)));
        let input = Input { records: self.records, ..Input::default() };
        (Report { holdings, findings, bridge_taps, input }, runs.map(Runs::take_all).unwrap_or_default())
    }
}
