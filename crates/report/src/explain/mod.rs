//! Explanations in sentences: each open, what followed it, and the lines that prove it. Auditors
//! otherwise search a log backwards for this by hand.

mod json;
pub(crate) mod sentences;
mod text;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use taptrail_record::{GuestId, MacAddr};
use taptrail_trail::{Finding, Holding, Input, Proof, Report};

use crate::sink::{TrailConsumer, sort_by_time};
use crate::span::{RelatedTimes, Scope};
use crate::style::TimeFormat;
use crate::{Filter, Style};

/// Reads the line of a proof from its source again; none when that is not possible.
pub type LineReader<'a> = dyn Fn(&Proof) -> Option<String> + 'a;

/// Collects the holdings and findings that a filter selects, for an [`Explanation`].
///
/// Findings are those about the interface or guest itself, and those about its whole guest or host
/// at the time of a holding.
#[derive(Debug, Default)]
pub struct Explainer {
    filter: Filter,
    report: Report,
    /// Findings that may concern a selected holding.
    maybe_related: Vec<Finding>,
    related: RelatedTimes,
}

impl Explainer {
    /// An explanation of what the filter selects.
    pub fn new(filter: Filter) -> Self {
        Self { filter, ..Self::default() }
    }

    /// Whether no holding matched the filter.
    pub fn is_empty(&self) -> bool {
        self.report.holdings.is_empty()
    }

    /// All that the filter selected, grouped by interface.
    pub fn finish(mut self, input: Input) -> Explanation {
        for finding in std::mem::take(&mut self.maybe_related) {
            if self.related.contains(&finding) {
                self.report.findings.push(finding);
            }
        }
        sort_by_time(&mut self.report);
        Explanation { interfaces: by_interface(self.report), input }
    }
}

impl TrailConsumer for Explainer {
    fn holding(&mut self, holding: Holding) -> io::Result<()> {
        if self.filter.matches_holding(&holding) {
            self.related.add(&holding);
            self.report.holdings.push(holding);
        }
        Ok(())
    }

    fn finding(&mut self, finding: Finding) -> io::Result<()> {
        if self.filter.matches_finding(&finding) && !self.filter.depends_on_holdings() {
            self.report.findings.push(finding);
        } else if self.filter.may_concern(&finding) {
            self.maybe_related.push(finding);
        }
        Ok(())
    }
}

/// Holdings and findings of some interfaces, with their proofs.
#[derive(Debug)]
pub struct Explanation {
    interfaces: Vec<Interface>,
    input: Input,
}

/// Holdings and findings of one interface; without a MAC, of a whole guest; without a guest, of a
/// host.
#[derive(Debug)]
struct Interface {
    host: Arc<str>,
    guest: Option<GuestId>,
    mac: Option<MacAddr>,
    holdings: Vec<Holding>,
    findings: Vec<Finding>,
}

fn by_interface(report: Report) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut indices: HashMap<Scope, usize> = HashMap::new();
    let mut index = |host: &Arc<str>, guest: Option<&GuestId>, mac, interfaces: &mut Vec<Interface>| {
        let key = (Arc::clone(host), guest.map(|guest| guest.uuid), mac);
        *indices.entry(key).or_insert_with(|| {
            let (host, guest) = (Arc::clone(host), guest.cloned());
            interfaces.push(Interface { host, guest, mac, holdings: Vec::new(), findings: Vec::new() });
            interfaces.len() - 1
        })
    };
    for holding in report.holdings {
        let at = index(&holding.host, Some(&holding.guest), Some(holding.mac), &mut interfaces);
        interfaces[at].holdings.push(holding);
    }
    for finding in report.findings {
        let at = index(&finding.host, finding.guest.as_ref(), finding.mac, &mut interfaces);
        interfaces[at].findings.push(finding);
    }
    interfaces
}

impl Explanation {
    /// The locations of all lines that it rests on, so that they can be read again in one pass.
    pub fn proofs(&self) -> impl Iterator<Item = &Proof> {
        self.interfaces.iter().flat_map(|interface| {
            let holdings = interface.holdings.iter().flat_map(|holding| &holding.proof);
            holdings.chain(interface.findings.iter().flat_map(|finding| &finding.proof))
        })
    }

    /// Whether it has no holding and no finding.
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_empty()
    }

    /// The explanation in sentences, interface by interface, each with its lines.
    pub fn text(&self, style: &Style, lines: &LineReader<'_>) -> String {
        text::text(self, style, lines)
    }

    /// The same as JSON: `interfaces`, each with `host`, `guest`, `mac`, `holdings` and `findings`,
    /// and `input`. A holding or finding stands beside its `told` sentences and its `lines`.
    ///
    /// # Errors
    ///
    /// None for these types.
    pub fn json(&self, style: &Style, lines: &LineReader<'_>) -> Result<String, serde_json::Error> {
        json::json(self, &TimeFormat::new(style), lines)
    }
}
