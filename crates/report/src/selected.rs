use std::io;

use taptrail_trail::{BridgeTap, Finding, Holding, Input, Report};

use crate::Filter;
use crate::sink::{TrailConsumer, sort_by_time};
use crate::span::RelatedTimes;

/// Collects the holdings and findings that a filter selects, as a table shows them.
#[derive(Debug, Default)]
pub struct Selected {
    filter: Filter,
    report: Report,
    maybe_matching: u64,
    /// Findings that may concern a selected holding.
    maybe_related: Vec<Finding>,
    related: RelatedTimes,
}

impl Selected {
    /// What the filter selects.
    pub fn new(filter: Filter) -> Self {
        Self { filter, ..Self::default() }
    }

    /// Whether no holding matched the filter.
    pub fn is_empty(&self) -> bool {
        self.report.holdings.is_empty()
    }

    /// How many holdings lack what the filter compares.
    pub fn maybe_matching(&self) -> u64 {
        self.maybe_matching
    }

    /// All that the filter selected, sorted by time.
    pub fn finish(mut self, input: Input) -> Report {
        for finding in std::mem::take(&mut self.maybe_related) {
            if self.related.contains(&finding) {
                self.report.findings.push(finding);
            }
        }
        sort_by_time(&mut self.report);
        Report { input, ..self.report }
    }
}

impl TrailConsumer for Selected {
    fn holding(&mut self, holding: Holding) -> io::Result<()> {
        if !self.filter.matches_holding(&holding) {
            self.maybe_matching += u64::from(self.filter.may_match(&holding));
            return Ok(());
        }
        if self.filter.depends_on_holdings() {
            self.related.add(&holding);
        }
        self.report.holdings.push(holding);
        Ok(())
    }

    fn bridge_tap(&mut self, tap: BridgeTap) -> io::Result<()> {
        if self.filter.matches_bridge_tap(&tap) {
            self.report.bridge_taps.push(tap);
        }
        Ok(())
    }

    fn finding(&mut self, finding: Finding) -> io::Result<()> {
        if self.filter.depends_on_holdings() {
            if self.filter.may_concern(&finding) {
                self.maybe_related.push(finding);
            }
        } else if self.filter.matches_finding(&finding) {
            self.report.findings.push(finding);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{at, finding, holding};

    #[test]
    fn what_matches_is_sorted_by_time() {
        let mac = Some("52:54:00:00:00:01".parse().unwrap());
        for (filter, holdings, findings) in [
            (Filter::default(), &[at(10), at(20)][..], &[at(22), at(40)][..]),
            (Filter { mac, ..Filter::default() }, &[at(10)], &[at(40)]),
            (Filter { held: true, ..Filter::default() }, &[at(20)], &[at(22)]),
        ] {
            let mut selected = Selected::new(filter);
            selected.holding(holding("web1", 2, 20, None)).unwrap();
            selected.finding(finding(Some("web1"), Some(1), 40)).unwrap();
            selected.finding(finding(Some("web1"), Some(2), 22)).unwrap();
            selected.holding(holding("web1", 1, 10, Some(30))).unwrap();
            let report = selected.finish(Input::default());
            let opened: Vec<_> = report.holdings.iter().filter_map(|of| of.opened).collect();
            let found: Vec<_> = report.findings.iter().map(|of| of.time).collect();
            assert_eq!((&opened[..], &found[..]), (holdings, findings));
        }
    }
}
