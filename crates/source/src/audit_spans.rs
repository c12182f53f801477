//! Time ranges covered by each audit log: they distinguish a record missing in a log from a missing
//! log.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use crate::ordered_entry::Origin;

/// The time range of each audit log, for each host, and which rotations are read.
#[derive(Debug, Default)]
pub(crate) struct AuditSpans {
    /// The rotations that are read. If one of several is not read, its time is not covered.
    rotations: BTreeSet<u32>,
    hosts: HashMap<Arc<str>, Vec<LogSpan>>,
}

/// The time range that one log covers for one host.
#[derive(Debug)]
struct LogSpan {
    of: Origin,
    from: Timestamp,
    to: Timestamp,
}

impl AuditSpans {
    /// Notes that a rotation is read.
    pub(crate) fn add_rotation(&mut self, rotation: u32) {
        self.rotations.insert(rotation);
    }

    /// Notes that a rotation can't be read, or not to its end.
    pub(crate) fn remove_rotation(&mut self, rotation: u32) {
        self.rotations.remove(&rotation);
    }

    /// Extends the range of a log to an event of `host` at `time`.
    pub(crate) fn add(&mut self, host: &Arc<str>, of: Origin, time: Timestamp) {
        let spans = match self.hosts.get_mut(host) {
            Some(spans) => spans,
            None => self.hosts.entry(Arc::clone(host)).or_default(),
        };
        // The newest range is the most likely one.
        match spans.iter_mut().rfind(|span| span.of.id == of.id) {
            Some(span) => span.to = span.to.max(time),
            None => spans.push(LogSpan { of, from: time, to: time }),
        }
    }

    /// Whether the audit logs cover this time for `host`: one log has events before and after it,
    /// or two logs do and all rotations between them are read.
    pub(crate) fn covers(&self, host: &Arc<str>, time: Timestamp) -> bool {
        let Some(spans) = self.hosts.get(host) else { return false };
        if spans.iter().any(|span| span.from < time && time < span.to) {
            return true;
        }
        let before = spans.iter().filter(|span| span.to < time).max_by_key(|span| span.to);
        let after = spans.iter().filter(|span| time < span.from).min_by_key(|span| span.from);
        before.zip(after).is_some_and(|(before, after)| {
            let (older, newer) = (before.of.rotation, after.of.rotation);
            let between = || self.rotations.range(newer..=older).count();
            older.checked_sub(newer).is_some_and(|steps| between() as u64 == u64::from(steps) + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The covered seconds from 0 to 100. The rotations have events at 10-20, 40-50 and 70-80.
    fn covered(rotations: &[u32; 3], lost: Option<u32>) -> Vec<i64> {
        let (mut coverage, host) = (AuditSpans::default(), Arc::from("h1"));
        let at = |second| Timestamp::from_second(second).unwrap();
        for ((id, rotation), from) in (0..).zip(rotations).zip([10, 40, 70]) {
            coverage.add_rotation(*rotation);
            for second in from..=from + 10 {
                coverage.add(&host, Origin { id, is_rows: false, rotation: *rotation }, at(second));
            }
        }
        lost.into_iter().for_each(|rotation| coverage.remove_rotation(rotation));
        assert!(!coverage.covers(&Arc::from("h2"), at(15)));
        (0..100).filter(|second| coverage.covers(&host, at(*second))).collect()
    }

    #[test]
    fn all_rotations_together_cover_what_is_between() {
        let inner = |second: &i64| ![20, 70].contains(second);
        assert_eq!(covered(&[2, 1, 0], None), Vec::from_iter((11..80).filter(inner)));
    }

    #[test]
    fn a_rotation_that_is_not_there_leaves_a_gap() {
        let inner = |second: &i64| ![20, 40].contains(second);
        let covers = Vec::from_iter((11..50).filter(inner).chain(71..80));
        assert_eq!(covered(&[4, 3, 1], None), covers);
        assert_eq!(covered(&[2, 1, 0], Some(0)), covers);
        let apart = Vec::from_iter((11..20).chain(41..50).chain(71..80));
        assert_eq!(covered(&[2, 1, 0], Some(1)), apart);
        assert_eq!(covered(&[0, 1, 2], None), apart, "a newer rotation is not before an older one");
    }
}
