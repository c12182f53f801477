use std::collections::HashMap;
use std::sync::Arc;

use crate::host::Host;
use crate::out::Out;
use crate::{Content, Entry, Finding, Holding, Input, Proof, Report};

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
    out: Out,
    records: u64,
}

impl Trail {
    /// A trail of which nothing is told yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next entry. Those of one host must come in the order in which they were written.
    pub fn feed(&mut self, entry: &Entry) {
        self.records += u64::from(matches!(entry.content, Content::Record(_)));
        let host = self.host(&entry.host);
        self.hosts[host].feed(entry, &mut self.out);
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

    /// Gives away the holdings that are over and not yet given, in the order of their ends.
    pub fn drain_ended(&mut self) -> impl Iterator<Item = Holding> {
        self.out.holdings.drain(..)
    }

    /// Gives away the findings not yet given, in the order in which they showed.
    pub fn drain_findings(&mut self) -> impl Iterator<Item = Finding> {
        self.out.findings.drain(..)
    }

    /// Tells the rest: what is held still, and what was not drained. Newest last.
    pub fn finish(mut self) -> Report {
        for host in self.hosts {
            host.finish(&mut self.out);
        }
        let Out { mut holdings, findings, .. } = self.out;
        holdings.sort_by_key(|holding| (holding.opened, holding.proof.first().map(Proof::order)));
        Report { holdings, findings, input: Input { records: self.records, ..Input::default() } }
    }
}
