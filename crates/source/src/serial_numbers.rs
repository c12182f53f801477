//! Finds the kernel's serial numbers of one host that the inputs lack.
//!
//! Lines may come in any order, so a number is not reported missing before a higher one is emitted.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use taptrail_trail::shows_boot;

use crate::runs::Run;

/// A number below the newest one is from another boot if it is later by more than this, in
/// milliseconds: the lines of one boot are less out of order.
const REORDER_WINDOW_MS: i64 = 2000;

/// Maximum number of separate spans.
const MAX_SPANS: usize = 4096;

/// Maximum number of unlogged records that are kept.
const MAX_UNLOGGED: usize = 4096;

/// The serial numbers of one host in its current boot.
#[derive(Debug, Default)]
pub(crate) struct SerialNumbers {
    /// Ranges of consecutive numbers, by their first number.
    spans: BTreeMap<u32, Span>,
    /// Missing numbers below this one were reported.
    reported_below: Option<u32>,
    /// Missing numbers of earlier boots, or removed early because there were too many spans.
    earlier: Option<MissingSerials>,
    newest: i64,
    /// Recent records that are in no log (a ledger's), by number and time in milliseconds. A log
    /// need not have them, and they don't show that it lacks others.
    unlogged: VecDeque<(u32, i64)>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    last: u32,
    since: i64,
    until: i64,
}

/// A range of missing events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MissingSerials {
    /// Times of the last event before them, and of the first after them.
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    /// First and last number; some numbers between them may be present.
    pub(crate) serials: (u32, u32),
}

impl MissingSerials {
    fn join(self, later: Self) -> Self {
        let (since, until) = (self.since.min(later.since), self.until.max(later.until));
        Self { since, until, serials: (self.serials.0, later.serials.1) }
    }
}

impl SerialNumbers {
    /// Adds numbers that are present.
    pub(crate) fn add_run(&mut self, run: &Run) {
        let Run { first, last, since, until, .. } = *run;
        let highest = self.spans.last_key_value().map(|(_, span)| span.last);
        let is_later = since.saturating_sub(self.newest) > REORDER_WINDOW_MS;
        // The lines of one event may be in two pieces, and in two files.
        if highest.is_some_and(|highest| first < highest) && is_later {
            let missing = self.missing_below(u32::MAX);
            self.defer(missing);
            self.defer(self.missing_beginning(highest, run));
            (self.spans, self.reported_below) = (BTreeMap::new(), None);
        }
        self.newest = self.newest.max(until);
        self.add(first, Span { last, since, until });
        if self.spans.len() > MAX_SPANS {
            let middle = self.spans.keys().nth(MAX_SPANS / 2).copied().unwrap_or_default();
            let missing = self.missing_below(middle);
            self.defer(missing);
        }
    }

    /// The missing first numbers of a boot, if the numbers fall to one that is too high for a boot.
    fn missing_beginning(&self, highest: Option<u32>, run: &Run) -> Option<MissingSerials> {
        let moment = |millis| Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
        let (since, until) = (moment(self.newest), moment(run.since));
        let is_boot = highest.is_some_and(|highest| shows_boot(highest, run.first));
        (!is_boot && run.first > 1).then(|| MissingSerials { since, until, serials: (1, run.first - 1) })
    }

    /// Adds the number of a record that is in no log.
    pub(crate) fn add_unlogged(&mut self, serial: u32, millis: i64) {
        if self.unlogged.len() == MAX_UNLOGGED {
            self.unlogged.pop_front();
        }
        self.unlogged.push_back((serial, millis));
    }

    /// Whether all these numbers are of unlogged records.
    fn are_unlogged(&self, first: u32, last: u32, since: i64, until: i64) -> bool {
        let mut found: Vec<u32> = self
            .unlogged
            .iter()
            .filter(|(serial, millis)| {
                (first..=last).contains(serial)
                    && (since.saturating_sub(REORDER_WINDOW_MS)..=until.saturating_add(REORDER_WINDOW_MS))
                        .contains(millis)
            })
            .map(|(serial, _)| *serial)
            .collect();
        found.sort_unstable();
        found.dedup();
        found.len() as u64 == u64::from(last - first) + 1
    }

    fn defer(&mut self, missing: Option<MissingSerials>) {
        self.earlier = match (self.earlier.take(), missing) {
            (Some(before), Some(missing)) => Some(before.join(missing)),
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
        // Join the spans that it touches.
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

    /// Whether no missing numbers are left to report.
    pub(crate) fn is_complete(&self) -> bool {
        self.spans.len() <= 1 && self.earlier.is_none()
    }

    /// The missing numbers before this one that were not reported before.
    pub(crate) fn missing_before(&mut self, serial: u32) -> Option<MissingSerials> {
        let missing = self.missing_below(serial);
        self.defer(missing);
        self.earlier.take()
    }

    /// All missing numbers not reported yet: the input has ended.
    pub(crate) fn take_remaining(&mut self) -> Option<MissingSerials> {
        self.missing_before(u32::MAX)
    }

    fn missing_below(&mut self, serial: u32) -> Option<MissingSerials> {
        if self.reported_below.is_some_and(|reported_below| serial <= reported_below) {
            return None;
        }
        self.reported_below = Some(serial);
        let mut missing: Option<MissingSerials> = None;
        while self.spans.len() > 1 {
            let mut two = self.spans.iter();
            let (Some((&first, before)), Some((&next, after))) = (two.next(), two.next()) else { break };
            if next > serial {
                break;
            }
            let serials = (before.last.saturating_add(1), next.saturating_sub(1));
            if self.are_unlogged(serials.0, serials.1, before.until, after.since) {
                self.spans.remove(&first);
                continue;
            }
            let moment = |millis| Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
            let since = moment(before.until);
            let gap = MissingSerials { since, until: moment(after.since).max(since), serials };
            missing = Some(missing.map_or(gap, |before| before.join(gap)));
            self.spans.remove(&first);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(runs: &[(u32, u32)]) -> SerialNumbers {
        let mut numbers = SerialNumbers::default();
        for &(first, last) in runs {
            numbers.add_run(&run(first, last, i64::from(first)));
        }
        numbers
    }

    fn run(first: u32, last: u32, since: i64) -> Run {
        Run::of(first, last, since)
    }

    #[test]
    fn numbers_in_any_order_that_are_all_there_lack_nothing() {
        let mut all = numbers(&[(5, 9), (20, 30), (12, 12), (10, 11), (13, 19), (7, 15)]);
        assert!(all.is_complete());
        assert_eq!(all.take_remaining(), None);
    }

    #[test]
    fn a_missing_range_is_reported_once_before_the_next_number() {
        let mut some = numbers(&[(5, 9), (12, 15), (20, 30)]);
        assert!(!some.is_complete());
        assert_eq!(some.missing_before(9), None);
        assert_eq!(some.missing_before(13).map(|missing| missing.serials), Some((10, 11)));
        assert_eq!(some.missing_before(14), None);
        let rest = some.take_remaining().unwrap();
        assert_eq!(
            (rest.serials, rest.since.as_millisecond(), rest.until.as_millisecond()),
            ((16, 19), 12, 20)
        );
        assert_eq!(some.take_remaining(), None);
    }

    #[test]
    fn several_missing_ranges_at_once_are_reported_as_one() {
        let mut some = numbers(&[(5, 5), (7, 7), (9, 9)]);
        assert_eq!(some.missing_before(9).map(|missing| missing.serials), Some((6, 8)));
    }

    #[test]
    fn a_boot_restarts_the_numbers_and_earlier_gaps_are_reported() {
        let mut two = numbers(&[(90_000, 90_100), (90_105, 90_106)]);
        two.add_run(&run(1, 50, 100_000));
        assert_eq!(two.missing_before(1).map(|missing| missing.serials), Some((90_101, 90_104)));
        assert_eq!(two.take_remaining(), None);
    }

    #[test]
    fn an_unlogged_record_shows_no_gap() {
        let mut none = SerialNumbers::default();
        [5, 90, 300].iter().for_each(|&serial| none.add_unlogged(serial, i64::from(serial)));
        assert_eq!(none.take_remaining(), None);
        let mut log = numbers(&[(5, 9), (12, 15), (18, 20), (23, 30)]);
        [10, 11, 11, 17, 400].iter().for_each(|&serial| log.add_unlogged(serial, i64::from(serial)));
        // From another boot.
        [21, 22].iter().for_each(|&serial| log.add_unlogged(serial, 900_000));
        assert_eq!(log.missing_before(13), None);
        assert_eq!(log.missing_before(18).map(|missing| missing.serials), Some((16, 17)));
        assert_eq!(log.take_remaining().map(|missing| missing.serials), Some((21, 22)));
    }

    #[test]
    fn an_event_in_two_pieces_is_no_boot() {
        let mut two = numbers(&[(90_000, 90_100)]);
        two.add_run(&run(90_100, 90_200, 900_000));
        assert!(two.is_complete());
        assert_eq!(two.take_remaining(), None);
    }

    #[test]
    fn no_number_of_spans_takes_more_than_its_memory() {
        let mut many = SerialNumbers::default();
        (0..100_000).for_each(|number| many.add_run(&run(number * 2, number * 2, i64::from(number))));
        assert!(many.spans.len() <= MAX_SPANS);
        assert_eq!(many.take_remaining().map(|missing| missing.serials), Some((1, 199_997)));
    }
}
