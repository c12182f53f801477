//! Which of the kernel's serial numbers one input lacks of one host.
//!
//! Lines may come in any order, so nothing is taken for missing before its place in the order is told.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use taptrail_trail::shows_boot;

use crate::runs::Run;

/// A number below the newest one is of another boot when it is so much later, in milliseconds: the lines of one
/// boot are less out of order.
const DISORDER: i64 = 2000;

/// How many spans may be apart from each other at one time.
const MAX_SPANS: usize = 4096;

/// How many numbers of records that are in no log are remembered.
const MAX_ELSEWHERE: usize = 4096;

/// The serial numbers that one input has of one host in its current boot.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// Numbers without a gap between, by the first of each span.
    spans: BTreeMap<u32, Span>,
    /// What lies below this number was told.
    told: Option<u32>,
    /// What is missing of boots before, or was told early because too many spans were apart.
    earlier: Option<Missing>,
    newest: i64,
    /// The latest records that are in no log, by number and time in milliseconds: a log need not have them, and
    /// they show nothing of what else it lacks.
    elsewhere: VecDeque<(u32, i64)>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    last: u32,
    since: i64,
    until: i64,
}

/// Events that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The last event before them, and the first one after them.
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    /// The numbers of the first and the last of them; others between may be there.
    pub(crate) serials: (u32, u32),
}

impl Missing {
    fn and(self, later: Self) -> Self {
        let (since, until) = (self.since.min(later.since), self.until.max(later.until));
        Self { since, until, serials: (self.serials.0, later.serials.1) }
    }
}

impl Numbers {
    /// Takes numbers that are there.
    pub(crate) fn take(&mut self, run: &Run) {
        let Run { first, last, since, until, .. } = *run;
        let highest = self.spans.last_key_value().map(|(_, span)| span.last);
        let is_later = since.saturating_sub(self.newest) > DISORDER;
        // The lines of one event may be in two pieces, and in two files.
        if highest.is_some_and(|highest| first < highest) && is_later {
            let missing = self.missing_below(u32::MAX);
            self.keep(missing);
            self.keep(self.missing_beginning(highest, run));
            (self.spans, self.told) = (BTreeMap::new(), None);
        }
        self.newest = self.newest.max(until);
        self.add(first, Span { last, since, until });
        if self.spans.len() > MAX_SPANS {
            let middle = self.spans.keys().nth(MAX_SPANS / 2).copied().unwrap_or_default();
            let missing = self.missing_below(middle);
            self.keep(missing);
        }
    }

    /// What is missing where numbers fall, and not as after a boot.
    fn missing_beginning(&self, highest: Option<u32>, run: &Run) -> Option<Missing> {
        let moment = |millis| Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
        let (since, until) = (moment(self.newest), moment(run.since));
        let is_boot = highest.is_some_and(|highest| shows_boot(highest, run.first));
        (!is_boot && run.first > 1).then(|| Missing { since, until, serials: (1, run.first - 1) })
    }

    /// Takes the number of a record that is in no log.
    pub(crate) fn take_elsewhere(&mut self, serial: u32, millis: i64) {
        if self.elsewhere.len() == MAX_ELSEWHERE {
            self.elsewhere.pop_front();
        }
        self.elsewhere.push_back((serial, millis));
    }

    /// Whether all of these numbers are those of records in no log.
    fn are_elsewhere(&self, first: u32, last: u32, since: i64, until: i64) -> bool {
        let mut found: Vec<u32> = self
            .elsewhere
            .iter()
            .filter(|(serial, millis)| {
                (first..=last).contains(serial)
                    && (since.saturating_sub(DISORDER)..=until.saturating_add(DISORDER)).contains(millis)
            })
            .map(|(serial, _)| *serial)
            .collect();
        found.sort_unstable();
        found.dedup();
        found.len() as u64 == u64::from(last - first) + 1
    }

    fn keep(&mut self, missing: Option<Missing>) {
        self.earlier = match (self.earlier.take(), missing) {
            (Some(before), Some(missing)) => Some(before.and(missing)),
            (before, missing) => before.or(missing),
        };
    }

    fn add(&mut self, mut first: u32, mut span: Span) {
        if let Some((&start, before)) = self.spans.range_mut(..=first).next_back()
            && first <= before.last.saturating_add(1)
        {
            if span.last <= before.last {
                return;
            }
            (first, span.since) = (start, before.since);
            span.until = span.until.max(before.until);
        }
        // Those that it touches are one with it.
        while let Some((&start, after)) = self.spans.range(first..).next()
            && start <= span.last.saturating_add(1)
        {
            if after.last > span.last {
                (span.last, span.until) = (after.last, span.until.max(after.until));
            }
            self.spans.remove(&start);
        }
        self.spans.insert(first, span);
    }

    /// Whether nothing is missing that was not told.
    pub(crate) fn is_whole(&self) -> bool {
        self.spans.len() <= 1 && self.earlier.is_none()
    }

    /// What is missing before this number, which is told next, and was not told before.
    pub(crate) fn missing_before(&mut self, serial: u32) -> Option<Missing> {
        let missing = self.missing_below(serial);
        self.keep(missing);
        self.earlier.take()
    }

    /// What is missing and was not told: nothing more comes.
    pub(crate) fn rest(&mut self) -> Option<Missing> {
        self.missing_before(u32::MAX)
    }

    fn missing_below(&mut self, serial: u32) -> Option<Missing> {
        if self.told.is_some_and(|told| serial <= told) {
            return None;
        }
        self.told = Some(serial);
        let mut missing: Option<Missing> = None;
        while self.spans.len() > 1 {
            let mut two = self.spans.iter();
            let (Some((&first, before)), Some((&next, after))) = (two.next(), two.next()) else { break };
            if next > serial {
                break;
            }
            let serials = (before.last.saturating_add(1), next.saturating_sub(1));
            if self.are_elsewhere(serials.0, serials.1, before.until, after.since) {
                self.spans.remove(&first);
                continue;
            }
            let moment = |millis| Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
            let since = moment(before.until);
            let gap = Missing { since, until: moment(after.since).max(since), serials };
            missing = Some(missing.map_or(gap, |before| before.and(gap)));
            self.spans.remove(&first);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(runs: &[(u32, u32)]) -> Numbers {
        let mut numbers = Numbers::default();
        for &(first, last) in runs {
            numbers.take(&run(first, last, i64::from(first)));
        }
        numbers
    }

    fn run(first: u32, last: u32, since: i64) -> Run {
        Run::of(first, last, since)
    }

    #[test]
    fn numbers_in_any_order_that_are_all_there_lack_nothing() {
        let mut all = numbers(&[(5, 9), (20, 30), (12, 12), (10, 11), (13, 19), (7, 15)]);
        assert!(all.is_whole());
        assert_eq!(all.rest(), None);
    }

    #[test]
    fn what_is_missing_is_told_once_before_what_comes_after_it() {
        let mut some = numbers(&[(5, 9), (12, 15), (20, 30)]);
        assert!(!some.is_whole());
        assert_eq!(some.missing_before(9), None);
        assert_eq!(some.missing_before(13).map(|missing| missing.serials), Some((10, 11)));
        assert_eq!(some.missing_before(14), None);
        let rest = some.rest().unwrap();
        assert_eq!(
            (rest.serials, rest.since.as_millisecond(), rest.until.as_millisecond()),
            ((16, 19), 12, 20)
        );
        assert_eq!(some.rest(), None);
    }

    #[test]
    fn several_stretches_at_once_are_told_as_one() {
        let mut some = numbers(&[(5, 5), (7, 7), (9, 9)]);
        assert_eq!(some.missing_before(9).map(|missing| missing.serials), Some((6, 8)));
    }

    #[test]
    fn a_boot_begins_again_and_what_was_missing_before_it_is_told() {
        let mut two = numbers(&[(90_000, 90_100), (90_105, 90_106)]);
        two.take(&run(1, 50, 100_000));
        assert_eq!(two.missing_before(1).map(|missing| missing.serials), Some((90_101, 90_104)));
        assert_eq!(two.rest(), None);
    }

    #[test]
    fn a_record_elsewhere_shows_nothing_but_itself() {
        let mut none = Numbers::default();
        [5, 90, 300].iter().for_each(|&serial| none.take_elsewhere(serial, i64::from(serial)));
        assert_eq!(none.rest(), None);
        let mut log = numbers(&[(5, 9), (12, 15), (18, 20), (23, 30)]);
        [10, 11, 11, 17, 400].iter().for_each(|&serial| log.take_elsewhere(serial, i64::from(serial)));
        // Of another boot.
        [21, 22].iter().for_each(|&serial| log.take_elsewhere(serial, 900_000));
        assert_eq!(log.missing_before(13), None);
        assert_eq!(log.missing_before(18).map(|missing| missing.serials), Some((16, 17)));
        assert_eq!(log.rest().map(|missing| missing.serials), Some((21, 22)));
    }

    #[test]
    fn an_event_in_two_pieces_is_no_boot() {
        let mut two = numbers(&[(90_000, 90_100)]);
        two.take(&run(90_100, 90_200, 900_000));
        assert!(two.is_whole());
        assert_eq!(two.rest(), None);
    }

    #[test]
    fn no_number_of_spans_takes_more_than_its_memory() {
        let mut many = Numbers::default();
        (0..100_000).for_each(|number| many.take(&run(number * 2, number * 2, i64::from(number))));
        assert!(many.spans.len() <= MAX_SPANS);
        assert_eq!(many.rest().map(|missing| missing.serials), Some((1, 199_997)));
    }
}
