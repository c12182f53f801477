//! Findings that have one cause.

use std::collections::HashMap;
use std::sync::Arc;

use taptrail_trail::{Finding, Severity};

/// An incident, as far as its findings were selected.
#[derive(Debug, Clone)]
pub(super) struct IncidentFindings<'a> {
    /// Its cause, or the first of those that were selected.
    pub(super) lead: &'a Finding,
    /// The findings that follow from it, or from the same record.
    pub(super) followers: Vec<&'a Finding>,
}

impl<'a> IncidentFindings<'a> {
    /// All its findings, the lead first.
    pub(super) fn findings(&self) -> impl Iterator<Item = &'a Finding> {
        std::iter::once(self.lead).chain(self.followers.iter().copied())
    }

    /// That of its gravest finding.
    pub(super) fn severity(&self) -> Severity {
        self.findings().map(|finding| finding.kind.severity()).fold(Severity::Notice, Severity::max)
    }
}

/// The incidents of findings, in the order in which the first finding of each comes.
pub(super) fn incidents(findings: &[Finding]) -> Vec<IncidentFindings<'_>> {
    let mut incidents: Vec<IncidentFindings<'_>> = Vec::new();
    let mut known: HashMap<(&str, u64), usize> = HashMap::new();
    for finding in findings {
        let at = *known.entry((&*finding.host, finding.incident.number)).or_insert(incidents.len());
        match incidents.get_mut(at) {
            None => incidents.push(IncidentFindings { lead: finding, followers: Vec::new() }),
            // The record that shows a cause may come after the one that shows what follows from it.
            Some(incident) if incident.lead.incident.follows && !finding.incident.follows => {
                let first = std::mem::replace(&mut incident.lead, finding);
                incident.followers.insert(0, first);
            }
            Some(incident) => incident.followers.push(finding),
        }
    }
    incidents
}

/// How many incidents there are.
pub(crate) fn count_incidents(findings: &[Finding]) -> u64 {
    incidents(findings).len() as u64
}

/// Sorts findings that are sorted by time, so that those of one incident stand together, its lead
/// first.
pub(crate) fn group_incidents(findings: &mut [Finding]) {
    let key = |finding: &Finding| (Arc::clone(&finding.host), finding.incident.number);
    let mut first: HashMap<(Arc<str>, u64), usize> = HashMap::new();
    for (at, finding) in findings.iter().enumerate() {
        first.entry(key(finding)).or_insert(at);
    }
    findings.sort_by_cached_key(|finding| (first.get(&key(finding)).copied(), finding.incident.follows));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use taptrail_trail::{FindingKind, Incident};

    use super::*;
    use crate::sample::finding;

    fn of(number: u64, follows: bool, kind: FindingKind, time: i64) -> Finding {
        Finding { kind, incident: Incident { number, follows }, ..finding(Some("web1"), Some(1), time) }
    }

    #[test]
    fn a_cause_leads_also_where_its_record_comes_later() {
        let findings = [
            of(1, true, FindingKind::GrantWithoutOpen, 1),
            of(2, false, FindingKind::LogGap, 2),
            of(1, false, FindingKind::FalseStart, 3),
            of(1, true, FindingKind::OpenWithoutGrant, 3),
        ];
        let incidents = incidents(&findings);
        let kinds = |at: usize| incidents[at].findings().map(|finding| finding.kind).collect::<Vec<_>>();
        assert_eq!(
            kinds(0),
            [FindingKind::FalseStart, FindingKind::GrantWithoutOpen, FindingKind::OpenWithoutGrant]
        );
        assert_eq!(kinds(1), [FindingKind::LogGap]);
        assert_eq!(incidents[0].severity(), Severity::Grave);
        let mut sorted = findings.to_vec();
        group_incidents(&mut sorted);
        assert_eq!(sorted.iter().map(|of| of.incident.number).collect::<Vec<_>>(), [1, 1, 1, 2]);
    }

    #[test]
    fn each_host_has_its_own_incidents() {
        let one = of(1, false, FindingKind::LogGap, 1);
        let other = Finding { host: "h2".into(), ..one.clone() };
        assert_eq!(count_incidents(&[one, other]), 2);
    }

    #[test]
    fn what_follows_from_a_cause_that_was_not_selected_leads() {
        let findings =
            [of(7, true, FindingKind::OpenWithoutGrant, 1), of(7, true, FindingKind::FalseStart, 2)];
        let incidents = incidents(&findings);
        assert_eq!((incidents.len(), incidents[0].lead.kind), (1, FindingKind::OpenWithoutGrant));
    }

    proptest! {
        #[test]
        fn every_finding_is_in_exactly_one_incident(
            all in prop::collection::vec((1..9_u64, any::<bool>(), 0..9_i64), 0..40)
        ) {
            let findings: Vec<Finding> =
                all.iter().map(|(number, follows, time)| of(*number, *follows, FindingKind::LogGap, *time)).collect();
            let key = |finding: &Finding| (finding.incident.number, finding.incident.follows, finding.time);
            let mut sorted = findings.clone();
            group_incidents(&mut sorted);
            let mut both = [&findings, &sorted].map(|all| all.iter().map(key).collect::<Vec<_>>());
            both.iter_mut().for_each(|all| all.sort_unstable());
            prop_assert_eq!(&both[0], &both[1]);
            for incident in incidents(&findings) {
                prop_assert!(incident.findings().all(|of| of.incident.number == incident.lead.incident.number));
            }
        }
    }
}
