//! Of which times audit logs tell, so that what one lacks can be told from what nobody kept.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use crate::track::Origin;

/// From when to when the audit logs of each host tell, and which rotations lie between.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    /// The rotations that are read: one of several that is not leaves a gap.
    rotations: BTreeSet<u32>,
    hosts: HashMap<Arc<str>, Vec<Stretch>>,
}

/// What one log tells of one host.
#[derive(Debug)]
struct Stretch {
    of: Origin,
    from: Timestamp,
    to: Timestamp,
}

impl Coverage {
    /// A rotation is read.
    pub(crate) fn has(&mut self, rotation: u32) {
        self.rotations.insert(rotation);
    }

    /// A rotation can't be read, or not to its end.
    pub(crate) fn lost(&mut self, rotation: u32) {
        self.rotations.remove(&rotation);
    }

    /// A log tells of a host at this time.
    pub(crate) fn tells(&mut self, host: &Arc<str>, of: Origin, time: Timestamp) {
        let stretches = match self.hosts.get_mut(host) {
            Some(stretches) => stretches,
            None => self.hosts.entry(Arc::clone(host)).or_default(),
        };
        // The one that was begun last is the most likely.
        match stretches.iter_mut().rfind(|stretch| stretch.of.id == of.id) {
            Some(stretch) => stretch.to = stretch.to.max(time),
            None => stretches.push(Stretch { of, from: time, to: time }),
        }
    }

    /// Whether an audit log would have told of this host at this time: its records are before and
    /// after, and all rotations between are read.
    pub(crate) fn covers(&self, host: &Arc<str>, time: Timestamp) -> bool {
        let Some(stretches) = self.hosts.get(host) else { return false };
        if stretches.iter().any(|stretch| stretch.from < time && time < stretch.to) {
            return true;
        }
        let before = stretches.iter().filter(|stretch| stretch.to < time).max_by_key(|stretch| stretch.to);
        let after = stretches.iter().filter(|stretch| time < stretch.from).min_by_key(|stretch| stretch.from);
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

    /// The seconds from 0 to 100 that are covered by rotations which tell of 10-20, 40-50 and 70-80.
    fn covered(rotations: &[u32; 3], lost: Option<u32>) -> Vec<i64> {
        let (mut coverage, host) = (Coverage::default(), Arc::from("h1"));
        let at = |second| Timestamp::from_second(second).unwrap();
        for ((id, rotation), from) in (0..).zip(rotations).zip([10, 40, 70]) {
            coverage.has(*rotation);
            for second in from..=from + 10 {
                coverage.tells(&host, Origin { id, is_rows: false, rotation: *rotation }, at(second));
            }
        }
        lost.into_iter().for_each(|rotation| coverage.lost(rotation));
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
