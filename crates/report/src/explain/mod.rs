//! Explanations: a statement about each session, and the records that prove it. Auditors
//! otherwise search a log backwards for this by hand.

mod coverage;
mod evidence;
mod json;
mod look_up;
mod nearest;
mod of_session;
mod page;
mod records;
pub(crate) mod sentences;
mod statement;
mod text;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use taptrail_record::{GuestId, MacAddr};
use taptrail_trail::{BridgeTap, Finding, Holding, Input, Proof, Report};

pub use self::evidence::{CitedSources, LineReader, SourceKind};
use self::nearest::Nearest;
pub(crate) use self::page::names;
pub(crate) use self::text::summary;
use crate::sink::{TrailConsumer, sort_by_time};
use crate::span::{RelatedTimes, Scope};
use crate::style::TimeFormat;
use crate::{Columns, Filter, Session, Style, who};

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
    nearest: Nearest,
    maybe_matching: u64,
}

impl Explainer {
    /// An explanation of what the filter selects.
    pub fn new(filter: Filter) -> Self {
        Self { filter, ..Self::default() }
    }

    /// Whether no holding, and no tap of a bridge helper's, matched the filter.
    pub fn is_empty(&self) -> bool {
        self.report.holdings.is_empty() && self.report.bridge_taps.is_empty()
    }

    /// Holdings whose records lack what the filter compares.
    pub fn maybe_matching(&self) -> u64 {
        self.maybe_matching
    }

    /// All that the filter selected.
    pub fn finish(mut self, input: Input) -> Explanation {
        for finding in std::mem::take(&mut self.maybe_related) {
            if self.related.contains(&finding) {
                self.report.findings.push(finding);
            }
        }
        sort_by_time(&mut self.report);
        let report = Report { input, ..self.report };
        Explanation { report, filter: self.filter, nearest: self.nearest }
    }
}

impl TrailConsumer for Explainer {
    fn wants_nearest(&self) -> bool {
        self.report.holdings.is_empty() && self.filter.subject.is_some()
    }

    fn holding(&mut self, holding: Holding) -> io::Result<()> {
        if self.filter.matches_holding(&holding) {
            self.related.add(&holding);
            self.report.holdings.push(holding);
            return Ok(());
        }
        self.maybe_matching += u64::from(self.filter.may_match(&holding));
        // What was found needs nothing that is near.
        if self.report.holdings.is_empty() {
            self.nearest.add(&holding, &self.filter);
        }
        Ok(())
    }

    fn bridge_tap(&mut self, tap: BridgeTap) -> io::Result<()> {
        if self.filter.matches_bridge_tap(&tap) {
            self.report.bridge_taps.push(tap);
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

/// The records that an explanation prints with each session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// None: their locations alone are printed.
    None,
    /// Their fields, aligned.
    Decoded,
    /// Their lines as they are.
    Raw,
}

/// Holdings and findings, with their proofs.
#[derive(Debug)]
pub struct Explanation {
    pub(crate) report: Report,
    pub(crate) filter: Filter,
    nearest: Nearest,
}

/// Holdings and findings of one interface; without a MAC, of a whole guest; without a guest, of a
/// host.
#[derive(Debug)]
struct Interface<'a> {
    host: &'a Arc<str>,
    guest: Option<&'a GuestId>,
    mac: Option<MacAddr>,
    holdings: Vec<&'a Holding>,
    findings: Vec<&'a Finding>,
}

fn by_interface(explanation: &Explanation) -> Vec<Interface<'_>> {
    let mut interfaces: Vec<Interface<'_>> = Vec::new();
    let mut indices: HashMap<Scope, usize> = HashMap::new();
    for holding in &explanation.report.holdings {
        let (host, guest, mac) = (&holding.host, Some(&holding.guest), Some(holding.mac));
        of_interface(host, guest, mac, &mut interfaces, &mut indices).holdings.push(holding);
    }
    for finding in &explanation.report.findings {
        let (host, guest, mac) = (&finding.host, finding.guest.as_ref(), finding.mac);
        of_interface(host, guest, mac, &mut interfaces, &mut indices).findings.push(finding);
    }
    interfaces
}

fn of_interface<'i, 'a>(
    host: &'a Arc<str>,
    guest: Option<&'a GuestId>,
    mac: Option<MacAddr>,
    interfaces: &'i mut Vec<Interface<'a>>,
    indices: &mut HashMap<Scope, usize>,
) -> &'i mut Interface<'a> {
    let key = (Arc::clone(host), guest.map(|guest| guest.uuid), mac);
    let at = *indices.entry(key).or_insert_with(|| {
        interfaces.push(Interface { host, guest, mac, holdings: Vec::new(), findings: Vec::new() });
        interfaces.len() - 1
    });
    &mut interfaces[at]
}

impl Explanation {
    /// The locations of all lines that it rests on, so that they can be read again in one pass.
    pub fn proofs(&self) -> impl Iterator<Item = &Proof> {
        let holdings = self.report.holdings.iter().flat_map(|holding| &holding.proof);
        let taps = self.report.bridge_taps.iter().flat_map(|tap| &tap.proof);
        holdings.chain(taps).chain(self.report.findings.iter().flat_map(|finding| &finding.proof))
    }

    /// The hosts of its holdings and findings.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        let Report { holdings, findings, bridge_taps, .. } = &self.report;
        let taps = bridge_taps.iter().map(|of| &*of.host);
        holdings.iter().map(|of| &*of.host).chain(findings.iter().map(|of| &*of.host)).chain(taps)
    }

    /// Whether it has no holding and no finding.
    pub fn is_empty(&self) -> bool {
        self.has_no_holding() && self.report.findings.is_empty()
    }

    /// Whether it has no holding, and no tap of a bridge helper's.
    pub fn has_no_holding(&self) -> bool {
        self.report.holdings.is_empty() && self.report.bridge_taps.is_empty()
    }

    /// The number of its sessions, and of a bridge helper's taps.
    pub fn sessions(&self) -> usize {
        Session::group(&self.report.holdings).len() + self.report.bridge_taps.len()
    }

    /// By which reading of the subject something was found, if it has several.
    pub(crate) fn readings(&self) -> Option<String> {
        self.filter.subject.as_ref()?.readings(self.report.holdings.iter())
    }

    /// The sessions as a table, one row each; of a single session, or with `all` of each, a
    /// statement, unless columns are asked for.
    pub fn who(
        &self,
        style: &Style,
        evidence: CitedSources<'_>,
        all: bool,
        columns: Option<&Columns>,
    ) -> String {
        if self.has_no_holding() {
            return text::nothing(self, style);
        }
        if all || (columns.is_none() && self.sessions() == 1) {
            return text::text(self, style, evidence, Records::None);
        }
        who::answer(self, columns.unwrap_or(&Columns::Sessions), style)
    }

    /// A statement about each session, with its records.
    pub fn text(&self, style: &Style, evidence: CitedSources<'_>, records: Records) -> String {
        text::text(self, style, evidence, records)
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
