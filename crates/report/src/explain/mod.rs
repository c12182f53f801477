//! The search backwards that auditors do by hand, told: each open, what followed, and which lines
//! prove it.

mod json;
mod sentences;
mod text;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use taptrail_record::{GuestId, MacAddr};
use taptrail_trail::{Finding, Holding, Input, Proof, Report};

use crate::sink::{Take, sort};
use crate::span::{About, Concerns};
use crate::style::Clock;
use crate::{Filter, Style};

/// Reads a proof's line again, if that is possible.
pub type Lines<'a> = dyn Fn(&Proof) -> Option<String> + 'a;

/// Takes what is told and keeps what is asked for, with the findings that concern it: besides those
/// about the interface or guest itself, those about its guest or host as a whole in its time.
#[derive(Debug, Default)]
pub struct Explainer {
    filter: Filter,
    kept: Report,
    /// Findings that may concern what is asked for.
    beside: Vec<Finding>,
    concerns: Concerns,
}

impl Explainer {
    /// An explanation of what the filter asks for.
    pub fn new(filter: Filter) -> Self {
        Self { filter, ..Self::default() }
    }

    /// Whether no holding that is asked for was told.
    pub fn is_empty(&self) -> bool {
        self.kept.holdings.is_empty()
    }

    /// All that was asked for, by interface.
    pub fn finish(mut self, input: Input) -> Explanation {
        for finding in std::mem::take(&mut self.beside) {
            if self.concerns.concern(&finding) {
                self.kept.findings.push(finding);
            }
        }
        sort(&mut self.kept);
        Explanation { interfaces: by_interface(self.kept), input }
    }
}

impl Take for Explainer {
    fn holding(&mut self, holding: Holding) -> io::Result<()> {
        if self.filter.keeps_holding(&holding) {
            self.concerns.add(&holding);
            self.kept.holdings.push(holding);
        }
        Ok(())
    }

    fn finding(&mut self, finding: Finding) -> io::Result<()> {
        if self.filter.keeps_finding(&finding) && !self.filter.follows_holdings() {
            self.kept.findings.push(finding);
        } else if self.filter.may_concern(&finding) {
            self.beside.push(finding);
        }
        Ok(())
    }
}

/// What is told of some interfaces, with what shows it.
#[derive(Debug)]
pub struct Explanation {
    interfaces: Vec<Interface>,
    input: Input,
}

/// What is told of one interface; without a MAC, of a guest as a whole; without a guest, of a host.
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
    let mut places: HashMap<About, usize> = HashMap::new();
    let mut place = |host: &Arc<str>, guest: Option<&GuestId>, mac, interfaces: &mut Vec<Interface>| {
        let key = (Arc::clone(host), guest.map(|guest| guest.uuid), mac);
        *places.entry(key).or_insert_with(|| {
            let (host, guest) = (Arc::clone(host), guest.cloned());
            interfaces.push(Interface { host, guest, mac, holdings: Vec::new(), findings: Vec::new() });
            interfaces.len() - 1
        })
    };
    for holding in report.holdings {
        let at = place(&holding.host, Some(&holding.guest), Some(holding.mac), &mut interfaces);
        interfaces[at].holdings.push(holding);
    }
    for finding in report.findings {
        let at = place(&finding.host, finding.guest.as_ref(), finding.mac, &mut interfaces);
        interfaces[at].findings.push(finding);
    }
    interfaces
}

impl Explanation {
    /// The places of all lines that it rests on, so that they can be read again in one go.
    pub fn proofs(&self) -> impl Iterator<Item = &Proof> {
        self.interfaces.iter().flat_map(|interface| {
            let holdings = interface.holdings.iter().flat_map(|holding| &holding.proof);
            holdings.chain(interface.findings.iter().flat_map(|finding| &finding.proof))
        })
    }

    /// Whether nothing is told.
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_empty()
    }

    /// Told in sentences, interface by interface, each with its lines.
    pub fn text(&self, style: &Style, lines: &Lines<'_>) -> String {
        text::text(self, style, lines)
    }

    /// The same as JSON: `interfaces`, each with `host`, `guest`, `mac`, `holdings` and `findings`, and
    /// `input`. A holding or finding stands beside its `told` sentences and its `lines`.
    ///
    /// # Errors
    ///
    /// None for these types.
    pub fn json(&self, style: &Style, lines: &Lines<'_>) -> Result<String, serde_json::Error> {
        json::json(self, &Clock::new(style), lines)
    }
}
