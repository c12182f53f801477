//! Time ranges that the inputs cover for each host, and the gaps within.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::{Coverage, InputFile, Span};

/// Collects the gaps of each host, and which inputs are logs.
#[derive(Debug, Default)]
pub(crate) struct CoverageBuilder {
    gaps: HashMap<Arc<str>, Vec<Span>>,
    starts: HashMap<Arc<str>, VecDeque<Timestamp>>,
    /// Time of the first record in the earliest ledger of each host.
    ledgers: HashMap<Arc<str>, Timestamp>,
    logs: HashMap<u32, Log>,
    /// Number of rotations of each log.
    families: HashMap<Arc<str>, u32>,
    /// Inputs that are raw audit logs: they have all of the kernel's serial numbers.
    numbered: HashSet<u32>,
}

/// A log, or a rotation of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Log {
    family: Arc<str>,
    rotation: u32,
}

impl CoverageBuilder {
    /// Adds an input that is a log, or a rotation of one. `family`: the path that the rotations
    /// share.
    pub(crate) fn add_log(&mut self, id: u32, family: Arc<str>, rotation: u32) {
        *self.families.entry(Arc::clone(&family)).or_default() += 1;
        self.logs.insert(id, Log { family, rotation });
    }

    /// The family of an input, if that has several rotations.
    pub(crate) fn rotation_family(&self, id: u32) -> Option<Arc<str>> {
        let family = &self.logs.get(&id)?.family;
        (self.families.get(family).is_some_and(|rotations| *rotations > 1)).then(|| Arc::clone(family))
    }

    /// Whether an input belongs to this family.
    pub(crate) fn is_in_family(&self, id: u32, family: &str) -> bool {
        self.logs.get(&id).is_some_and(|log| *log.family == *family)
    }

    /// Marks an input as a raw audit log.
    pub(crate) fn add_numbered(&mut self, id: u32) {
        self.numbered.insert(id);
    }

    /// Whether an input is a raw audit log.
    pub(crate) fn is_numbered(&self, id: u32) -> bool {
        self.numbered.contains(&id)
    }

    /// Adds a gap: records of a host from `since` to `until` may be missing.
    pub(crate) fn add_gap(&mut self, host: &Arc<str>, since: Timestamp, until: Timestamp) {
        let gaps = self.gaps.entry(Arc::clone(host)).or_default();
        let full = gaps.len() >= Coverage::MAX_GAPS;
        match gaps.last_mut() {
            Some(last) if since <= last.until && last.from <= until => {
                *last = Span { from: last.from.min(since), until: last.until.max(until) };
            }
            // At the limit, the new gap is merged into the last one.
            Some(last) if full => last.until = last.until.max(until),
            _ => gaps.push(Span { from: since, until }),
        }
    }

    /// Whether a host has gaps.
    pub(crate) fn has_gaps(&self, host: &Arc<str>) -> bool {
        self.gaps.contains_key(host)
    }

    /// Adds the time of the first record in a ledger.
    pub(crate) fn add_ledger_start(&mut self, host: &Arc<str>, time: Timestamp) {
        let begins = self.ledgers.entry(Arc::clone(host)).or_insert(time);
        *begins = time.min(*begins);
    }

    /// Adds a start: what the host's guests hold at this time is fully recorded, because the host
    /// boots or a watcher begins.
    pub(crate) fn add_start(&mut self, host: &Arc<str>, time: Timestamp) {
        let starts = self.starts.entry(Arc::clone(host)).or_default();
        if starts.len() == Coverage::MAX_STARTS {
            starts.pop_front();
        }
        starts.push_back(time);
    }

    /// Whether another input is a raw audit log that covers a host from `since` to `until`. Records
    /// that it lacks show in its serial numbers.
    pub(crate) fn is_covered_elsewhere(
        &self,
        files: &[InputFile],
        id: u32,
        host: &Arc<str>,
        since: Timestamp,
        until: Timestamp,
    ) -> bool {
        (0..).zip(files).any(|(other, file)| {
            let mut spans = file.hosts.iter().filter(|span| span.host == *host);
            other != id
                && self.numbered.contains(&other)
                && spans.any(|span| span.from <= since && until <= span.until)
        })
    }

    /// The coverage of each host by all inputs together.
    pub(crate) fn build(&self, files: &[InputFile]) -> Vec<Coverage> {
        let mut hosts: Vec<Coverage> = Vec::new();
        let mut spans: HashMap<Arc<str>, Vec<(Span, Option<&Log>)>> = HashMap::new();
        let mut logged: HashSet<Arc<str>> = HashSet::new();
        for (id, file) in (0..).zip(files) {
            if self.logs.contains_key(&id) {
                logged.extend(file.hosts.iter().map(|span| Arc::clone(&span.host)));
            }
            for host in &file.hosts {
                let span = Span { from: host.from, until: host.until };
                spans.entry(Arc::clone(&host.host)).or_default().push((span, self.logs.get(&id)));
            }
        }
        for (host, mut spans) in spans {
            spans.sort_by_key(|(span, _)| *span);
            let mut joined: Vec<Span> = Vec::new();
            // The logs in the last span: where a rotation and its copy are both read, the next
            // rotation of either goes on from there.
            let mut within: HashSet<&Log> = HashSet::new();
            for (span, log) in spans {
                match joined.last_mut() {
                    Some(last) if span.from <= last.until || follows_one_of(&within, log) => {
                        last.until = last.until.max(span.until);
                    }
                    _ => {
                        within.clear();
                        joined.push(span);
                    }
                }
                within.extend(log);
            }
            let gaps = self.gaps.get(&host).cloned().unwrap_or_default();
            let mut starts: Vec<_> = self.starts.get(&host).into_iter().flatten().copied().collect();
            if !logged.contains(&host) {
                starts.extend(self.ledgers.get(&host));
            }
            starts.sort_unstable();
            hosts.push(Coverage { host, spans: joined, gaps, starts });
        }
        hosts.sort_by(|a, b| a.host.cmp(&b.host));
        hosts
    }
}

/// Whether `newer` is the rotation directly after one of these, of the same log.
fn follows_one_of(older: &HashSet<&Log>, newer: Option<&Log>) -> bool {
    newer.is_some_and(|Log { family, rotation }| {
        let before = rotation.checked_add(1).map(|rotation| Log { family: Arc::clone(family), rotation });
        before.is_some_and(|before| older.contains(&before))
    })
}

#[cfg(test)]
mod tests {
    use taptrail_trail::HostSpan;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn file(from: i64, until: i64) -> InputFile {
        let host = HostSpan { host: "h".into(), from: at(from), until: at(until), records: 1 };
        InputFile { hosts: vec![host], ..InputFile::default() }
    }

    fn span(from: i64, until: i64) -> Span {
        Span { from: at(from), until: at(until) }
    }

    #[test]
    fn rotations_that_follow_each_other_cover_what_is_between() {
        let mut covered = CoverageBuilder::default();
        for (id, rotation) in [(0, 2), (1, 1), (2, 0)] {
            covered.add_log(id, "audit.log".into(), rotation);
        }
        let files = [file(10, 20), file(30, 40), file(45, 50)];
        assert_eq!(covered.build(&files)[0].spans, [span(10, 50)]);
        covered.add_log(1, "audit.log".into(), 5);
        assert_eq!(covered.build(&files)[0].spans, [span(10, 20), span(30, 40), span(45, 50)]);
    }

    #[test]
    fn copies_of_rotations_do_not_part_what_follows_each_other() {
        let mut covered = CoverageBuilder::default();
        for (id, family, rotation) in
            [(0, "a/audit.log", 1), (1, "b/audit.log", 1), (2, "a/audit.log", 0), (3, "b/audit.log", 0)]
        {
            covered.add_log(id, family.into(), rotation);
        }
        let files = [file(10, 20), file(10, 20), file(30, 40), file(30, 40)];
        assert_eq!(covered.build(&files)[0].spans, [span(10, 40)]);
        let files = [file(10, 20), InputFile::default(), InputFile::default(), file(30, 40)];
        assert_eq!(covered.build(&files)[0].spans, [span(10, 20), span(30, 40)]);
    }

    #[test]
    fn a_loss_of_one_log_may_be_covered_by_an_audit_log() {
        let mut covered = CoverageBuilder::default();
        let host = Arc::from("h");
        let files = [file(10, 20), file(11, 30)];
        let elsewhere =
            |covered: &CoverageBuilder, id| covered.is_covered_elsewhere(&files, id, &host, at(12), at(14));
        assert!(!elsewhere(&covered, 0));
        covered.add_numbered(1);
        assert!(elsewhere(&covered, 0) && !elsewhere(&covered, 1));
        covered.add_gap(&host, at(12), at(14));
        covered.add_gap(&host, at(13), at(15));
        assert_eq!(covered.build(&files)[0].gaps, [span(12, 15)]);
    }

    #[test]
    fn a_time_range_is_covered_unless_it_touches_a_gap() {
        let (spans, gaps, starts) = (vec![span(10, 20)], vec![span(12, 14)], vec![at(15)]);
        let coverage = Coverage { host: "h".into(), spans, gaps, starts };
        let covers = |from, until| coverage.covers(at(from), at(until));
        assert!(covers(10, 12) && covers(14, 20) && covers(15, 15) && covers(20, 20));
        assert!(!covers(9, 9) && !covers(12, 13) && !covers(11, 13) && !covers(19, 22) && !covers(13, 13));
    }

    #[test]
    fn what_began_before_the_first_start_or_in_a_gap_is_not_known() {
        let (spans, gaps) = (vec![span(10, 20), span(30, 40)], vec![span(14, 14)]);
        let coverage = Coverage { host: "h".into(), spans, gaps, starts: vec![at(12), at(16)] };
        let known: Vec<i64> = (0..50).filter(|second| coverage.knows_all(at(*second), at(*second))).collect();
        assert_eq!(known, [12, 13, 16, 17, 18, 19, 20]);
        assert!(coverage.knows_all(at(16), at(20)) && !coverage.knows_all(at(13), at(15)));
        assert!(!Coverage { starts: Vec::new(), ..coverage }.knows_all(at(17), at(17)));
    }

    #[test]
    fn no_number_of_gaps_takes_more_than_its_memory() {
        let mut covered = CoverageBuilder::default();
        let host = Arc::from("h");
        (0..100_000).for_each(|second| covered.add_gap(&host, at(second * 2), at(second * 2)));
        assert_eq!(covered.gaps[&host].len(), Coverage::MAX_GAPS);
    }
}
