use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::MacAddr;
use taptrail_trail::{Finding, GuestRun, Holding, Input, PossiblyHeld, State};
use uuid::Uuid;

/// A time range; an unknown end is [`Timestamp::MIN`] or [`Timestamp::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueryRange {
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it; equal to `from` for a single moment.
    pub to: Timestamp,
}

impl QueryRange {
    /// From a device's open, or the failure of it, to its end.
    pub(crate) fn of(holding: &Holding) -> Self {
        let from = holding.begun().unwrap_or(Timestamp::MIN);
        Self { from, to: end(holding).max(from) }
    }

    /// From a guest's start to its end, each as far as it is known.
    pub(crate) fn of_run(run: &GuestRun) -> Self {
        let from = run.started.unwrap_or(Timestamp::MIN);
        Self { from, to: run.ended.unwrap_or(Timestamp::MAX).max(from) }
    }

    /// A single moment.
    pub fn at(time: Timestamp) -> Self {
        Self { from: time, to: time }
    }

    /// Whether it overlaps the range from `from` to before `until`.
    pub(crate) fn touches(self, from: Timestamp, until: Timestamp) -> bool {
        let last = if self.to > self.from { self.to - SignedDuration::from_nanos(1) } else { self.from };
        from <= last && self.from < until
    }
}

/// Whether QEMU held a device at some moment of a time range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// It did.
    Yes,
    /// It may have, and no record says so.
    Possibly,
    /// It did not.
    No,
}

/// Whether QEMU held a device at some moment of `at`.
pub(crate) fn holds(holding: &Holding, at: QueryRange) -> Holds {
    if holding.certainly_held().is_some_and(|(from, until)| at.touches(from, until)) {
        return Holds::Yes;
    }
    let possibly = |PossiblyHeld { from, until, .. }: &PossiblyHeld| {
        at.touches(from.unwrap_or(Timestamp::MIN), until.unwrap_or(Timestamp::MAX))
    };
    if holding.possibly_held.iter().any(possibly) { Holds::Possibly } else { Holds::No }
}

/// The same, with respect to the log's coverage: a device held as the log ends may have been
/// released before a later time.
pub(crate) fn holds_within_coverage(holding: &Holding, at: QueryRange, input: &Input) -> Holds {
    let covered = input.coverage.binary_search_by(|of| of.host.cmp(&holding.host)).ok();
    let last = covered.and_then(|of| input.coverage[of].spans.last());
    match holds(holding, at) {
        Holds::Yes if holding.state == State::Held && last.is_some_and(|last| last.until < at.from) => {
            Holds::Possibly
        }
        holds => holds,
    }
}

/// The latest time of its end: that of its last record, where no record shows the end.
fn end(holding: &Holding) -> Timestamp {
    if holding.state == State::Held {
        return Timestamp::MAX;
    }
    let last = holding.proof.last().map(|proof| proof.time);
    holding.released.or(last).unwrap_or(Timestamp::MAX)
}

/// The times of some holdings, to select the findings that concern them: those of the same host, in
/// the time of a holding, that name no other guest or interface than the holding's.
#[derive(Debug, Default)]
pub(crate) struct RelatedTimes {
    times: HashMap<Scope, Vec<QueryRange>>,
    /// Whether `times` are sorted and do not overlap.
    merged: bool,
}

/// A host, optionally one of its guests, optionally an interface of that.
pub(crate) type Scope = (Arc<str>, Option<Uuid>, Option<MacAddr>);

impl RelatedTimes {
    /// Adds a holding.
    pub(crate) fn add(&mut self, holding: &Holding) {
        self.merged = false;
        let span = QueryRange::of(holding);
        let (guest, mac) = (Some(holding.guest.uuid), Some(holding.mac));
        for (guest, mac) in [(None, None), (None, mac), (guest, None), (guest, mac)] {
            let times = self.times.entry((Arc::clone(&holding.host), guest, mac)).or_default();
            match times.last_mut() {
                // Holdings in the order of time are merged at once, so that memory grows only with
                // gaps.
                Some(last) if last.from <= span.from && span.from <= last.to => {
                    last.to = last.to.max(span.to)
                }
                _ => times.push(span),
            }
        }
    }

    /// Whether a finding concerns one of the holdings added.
    pub(crate) fn contains(&mut self, finding: &Finding) -> bool {
        if !self.merged {
            self.times.values_mut().for_each(merge_overlapping);
            self.merged = true;
        }
        let guest = finding.guest.as_ref().map(|guest| guest.uuid);
        let about = (Arc::clone(&finding.host), guest, finding.mac);
        let Some(times) = self.times.get(&about) else { return false };
        let next = times.partition_point(|span| span.from <= finding.time);
        next.checked_sub(1).is_some_and(|last| finding.time <= times[last].to)
    }
}

/// Sorts the ranges and merges those that overlap.
fn merge_overlapping(times: &mut Vec<QueryRange>) {
    times.sort_unstable();
    times.dedup_by(|later, earlier| {
        let one = later.from <= earlier.to;
        if one {
            earlier.to = earlier.to.max(later.to);
        }
        one
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{finding, holding};

    #[test]
    fn findings_concern_holdings_of_their_time_that_they_do_not_exclude() {
        let mut related = RelatedTimes::default();
        for (mac, opened, released) in
            [(1, 10, Some(20)), (1, 30, Some(40)), (2, 15, Some(32)), (1, 12, Some(13))]
        {
            related.add(&holding("web1", mac, opened, released));
        }
        let mut times = |name, mac| -> Vec<i64> {
            (8..44).step_by(2).filter(|time| related.contains(&finding(name, mac, *time))).collect()
        };
        assert_eq!(times(Some("web1"), Some(1)), [10, 12, 14, 16, 18, 20, 30, 32, 34, 36, 38, 40]);
        assert_eq!(times(Some("web1"), Some(2)), [16, 18, 20, 22, 24, 26, 28, 30, 32]);
        assert_eq!(times(Some("web1"), None), Vec::from_iter((10..=40).step_by(2)));
        assert_eq!(times(None, None), times(Some("web1"), None));
        assert_eq!(times(None, Some(2)), times(Some("web1"), Some(2)));
        assert!(times(Some("db"), Some(1)).is_empty());
        assert!(times(Some("web1"), Some(3)).is_empty());
    }
}
