use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::output::Output;
use crate::output::unnumbered::UnnumberedGrant;
use crate::state::host::Host;
use crate::time::after;
use crate::{Content, Entry, Finding, Holding, Input, Proof, Report, StepsInProgress};

/// How many devices may wait for a record that tells their numbers.
const MAX_UNNUMBERED: usize = 1024;

/// Reads records in their order and tells who held what.
///
/// Memory grows with what is alive at one time, with the number of hosts, and with what is told and not
/// yet fetched by [`drain_ended`](Self::drain_ended) and [`drain_findings`](Self::drain_findings).
#[derive(Debug, Default)]
pub struct Trail {
    hosts: Vec<Host>,
    names: HashMap<Arc<str>, usize>,
    /// The host of the last entry: most come from the same.
    last: Option<(Arc<str>, usize)>,
    out: Output,
    /// What some guests got and no record has told the number of so far.
    unnumbered: VecDeque<UnnumberedGrant>,
    /// Until when the logs of hosts go on.
    covered: HashMap<Arc<str>, Timestamp>,
    /// When the last entry was.
    now: Timestamp,
    records: u64,
}

impl Trail {
    /// A trail of which nothing is told yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One for a watcher, which looks into QEMU itself: a grant without an open is reported at once, for it to judge.
    pub fn for_watcher() -> Self {
        let mut trail = Self::default();
        trail.out.reports_bare_grants_at_once = true;
        trail
    }

    /// Takes the next entry. Those of one host must come in the order in which they were written.
    pub fn feed(&mut self, entry: &Entry) {
        self.records += u64::from(matches!(entry.content, Content::Record(_)));
        self.now = entry.time;
        let host = self.host(&entry.host);
        self.hosts[host].feed(entry, &mut self.out);
        self.unnumbered.extend(self.out.unnumbered.drain(..));
        self.report_overdue_unnumbered(entry.time);
        while self.unnumbered.len() > MAX_UNNUMBERED {
            let Some(oldest) = self.unnumbered.pop_front() else { break };
            self.report_unnumbered(&oldest);
        }
    }

    /// Tells what nothing more is to be waited for, where a trail is followed as it is written: it is `now`, and all
    /// that was written before then has been fed. Of what is read afterwards the next entry's time shows that.
    pub fn advance(&mut self, now: Timestamp) {
        for host in &mut self.hosts {
            host.advance(now, &mut self.out);
        }
        self.report_overdue_unnumbered(now);
    }

    /// When the next [`advance`](Self::pass) has something to tell, if no entry does before.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let unnumbered = self.unnumbered.front().map(UnnumberedGrant::deadline);
        let deadline = self.hosts.iter().filter_map(Host::deadline).chain(unnumbered).min()?;
        // What is due has to be past.
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

    /// Whether no guest is alive, as far as is told.
    pub fn is_idle(&self) -> bool {
        self.hosts.iter().all(Host::is_idle)
    }

    /// What QEMUs hold now, as far as is told.
    pub fn held(&self) -> impl Iterator<Item = &Holding> {
        self.hosts.iter().flat_map(Host::held)
    }

    /// Gives away the holdings that are over and not yet given, in the order of their ends.
    pub fn drain_ended(&mut self) -> impl Iterator<Item = Holding> {
        self.out.holdings.drain(..)
    }

    /// Gives away the findings not yet given, in the order in which they showed.
    pub fn drain_findings(&mut self) -> impl Iterator<Item = Finding> {
        self.out.findings.drain(..)
    }

    /// The log of this host goes on until then at least, whatever it tells.
    pub fn cover(&mut self, host: &Arc<str>, until: Timestamp) {
        let until = self.covered.get(host).map_or(until, |before| until.max(*before));
        self.covered.insert(Arc::clone(host), until);
    }

    /// The logs of all hosts told of so far go on until then at least.
    pub fn cover_all(&mut self, until: Timestamp) {
        for name in self.hosts.iter().map(|host| Arc::clone(&host.name)).collect::<Vec<_>>() {
            self.cover(&name, until);
        }
    }

    /// A ledger of a host tells what its supervisors have in hand, once all of it has been fed.
    pub fn set_steps_in_progress(&mut self, steps: &StepsInProgress) {
        if let Some(host) = self.names.get(&steps.host) {
            self.hosts[*host].set_steps_in_progress(steps);
        }
    }

    /// Tells the rest: what is held still, and what was not drained. Newest last.
    pub fn finish(mut self) -> Report {
        for host in self.hosts {
            let covered = self.covered.get(&host.name).copied();
            host.finish(covered, &mut self.out);
        }
        for ending in self.out.pending_releases.take_all() {
            self.out.emit_pending(ending, self.now);
        }
        let Output { mut holdings, findings, .. } = self.out;
        holdings.sort_by_key(|holding| (holding.opened, holding.proof.first().map(Proof::order)));
        Report { holdings, findings, input: Input { records: self.records, ..Input::default() } }
    }
}
