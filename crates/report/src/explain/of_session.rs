//! Which findings stand below which session.

use std::collections::HashMap;

use taptrail_record::MacAddr;
use taptrail_trail::Finding;
use uuid::Uuid;

use crate::Session;

/// Findings by the session below which they stand, each once.
pub(super) struct FindingsOf<'a> {
    /// For each session, in the order of time.
    pub(super) sessions: Vec<Vec<&'a Finding>>,
    /// Those that concern no session.
    pub(super) rest: Vec<&'a Finding>,
}

/// A host, a guest and its interface.
type Interface<'a> = (&'a str, Uuid, MacAddr);

impl<'a> FindingsOf<'a> {
    /// A finding stands below the session whose proof has its last line, or else below the last one
    /// of its interface that had begun and not ended.
    pub(super) fn new(sessions: &[Session<'a>], findings: &'a [Finding]) -> Self {
        let mut by_line: HashMap<(&str, u64), usize> = HashMap::new();
        let mut by_interface: HashMap<Interface<'_>, Vec<usize>> = HashMap::new();
        let ranges: Vec<_> = sessions.iter().map(Session::range).collect();
        for (at, session) in sessions.iter().enumerate() {
            for proof in session.holdings.iter().flat_map(|of| &of.proof) {
                by_line.entry((&proof.source, proof.line)).or_insert(at);
            }
            let interface = (session.host(), session.guest().uuid, session.mac());
            by_interface.entry(interface).or_default().push(at);
        }
        by_interface.values_mut().for_each(|of| of.sort_by_key(|at| ranges[*at].0));
        let session_of = |finding: &Finding| {
            let line = finding.proof.last().and_then(|last| by_line.get(&(&*last.source, last.line)));
            line.copied().or_else(|| {
                let interface = (&*finding.host, finding.guest.as_ref()?.uuid, finding.mac?);
                let of = by_interface.get(&interface)?;
                let begun = of.partition_point(|at| ranges[*at].0 <= finding.time);
                // Of those that have begun: two interfaces may have one MAC.
                of[..begun].iter().rev().take(MAX_AT_ONCE).copied().find(|at| finding.time <= ranges[*at].1)
            })
        };
        let mut of = Self { sessions: vec![Vec::new(); sessions.len()], rest: Vec::new() };
        for finding in findings {
            match session_of(finding) {
                Some(at) => of.sessions[at].push(finding),
                None => of.rest.push(finding),
            }
        }
        of
    }
}

/// Sessions of one interface that may last at once.
const MAX_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{finding, holding};

    #[test]
    fn a_finding_is_told_with_the_session_that_it_is_about() {
        let holdings = [
            holding("web1", 1, 10, Some(40)),
            holding("web1", 1, 20, Some(30)),
            holding("web1", 2, 20, None),
        ];
        let sessions = Session::group(&holdings);
        assert_eq!(sessions.len(), 3);
        let findings = [
            // The proof of `finding` has its time as its line: this line is the first session's.
            finding(Some("web2"), None, 11),
            finding(Some("web1"), Some(1), 15),
            finding(Some("web1"), Some(1), 25),
            finding(Some("web1"), Some(1), 35),
            finding(Some("web1"), Some(1), 45),
            finding(Some("web1"), None, 25),
            finding(Some("web1"), Some(2), 99),
            finding(None, None, 25),
        ];
        let of = FindingsOf::new(&sessions, &findings);
        let times = |of: &[&Finding]| of.iter().map(|of| of.time.as_second()).collect::<Vec<_>>();
        assert_eq!(
            of.sessions.iter().map(|of| times(of)).collect::<Vec<_>>(),
            [vec![11, 15, 35], vec![25], vec![99]]
        );
        assert_eq!(times(&of.rest), [45, 25, 25]);
    }
}
