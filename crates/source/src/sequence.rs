//! Whether serial numbers that seem to be of one host are of one.
//!
//! The kernel numbers the audit events of a host one by one from each boot. In the order of their lines the numbers
//! of one host rise, but for its boots and a little disorder. Where the records of two hosts are taken for one
//! host's, they fall and go on again where they stood before, or two logs tell of the same time by other numbers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::runs::Run;

/// Events of one host are out of order by less than this, in milliseconds.
const SKEW: i64 = 5000;

/// A number this little above another goes on with it, unless thousands of events are missing.
const NEAR: u32 = 4096;

/// One log goes on in the next within so many milliseconds.
const ONE_ROTATION: i64 = 60_000;

/// How many stretches of numbers are remembered.
const REMEMBERED: usize = 16;

/// A number that is hardly near another by chance.
const NEXT: u32 = 64;

/// How much a return shows to the next number or almost, and to one near it: after a boot and a loss, a number may be
/// near another by chance.
const EXACT: u8 = 3;
const CLOSE: u8 = 1;
/// So much shows two hosts.
const ENOUGH: u8 = 3;

/// The serial numbers of one host, in the order of their lines.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// Stretches of numbers that go on with each other; the one that went on last is the last.
    stretches: VecDeque<Stretch>,
    shown: u8,
    /// The number and time of the earliest event.
    earliest: Option<(u32, i64)>,
}

#[derive(Debug)]
struct Stretch {
    first: u32,
    last: u32,
    /// The times of its events, in milliseconds since 1970.
    since: i64,
    until: i64,
    /// When its numbers began to come, or came again.
    again: i64,
    /// The input that tells it; none where several do.
    input: Option<u32>,
    /// The line of its newest run.
    at: At,
}

/// Where a run of numbers is, to be named.
#[derive(Debug, Clone)]
pub(crate) struct At {
    pub(crate) input: u32,
    pub(crate) source: Arc<str>,
    pub(crate) line: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

impl Sequence {
    /// Takes the next numbers. An earlier line if the two can't be of one host.
    pub(crate) fn take(&mut self, run: &Run, at: At) -> Option<At> {
        let Run { first, last, since, until, .. } = *run;
        // When a system call was entered tells nothing of where its number belongs.
        if run.entered {
            return None;
        }
        if self.earliest.is_none_or(|(_, earliest)| since < earliest) {
            self.earliest = Some((first, since));
        }
        if let Some(same) = self.stretches.iter().rposition(|stretch| stretch.has(run)) {
            let stretch = &mut self.stretches[same];
            stretch.first = first.min(stretch.first);
            stretch.widen(run, &at);
            return None;
        }
        // Of a log that is one run, others may have told parts before.
        self.stretches.retain(|stretch| !is_within(stretch, run));
        let newest = self.stretches.len().checked_sub(1);
        let goes_on = |stretch: usize| self.stretches[stretch].distance(run);
        let next = match newest.filter(|&newest| goes_on(newest).is_some()) {
            Some(newest) => Some(newest),
            None => (0..self.stretches.len())
                .filter(|&old| goes_on(old).is_some())
                .min_by_key(|&old| goes_on(old)),
        };
        let Some(next) = next else {
            let overlapped = self.stretches.iter().find(|stretch| stretch.overlaps(run, &at));
            let earlier = overlapped.map(|stretch| stretch.at.clone());
            if self.stretches.len() == REMEMBERED {
                self.stretches.pop_front();
            }
            let input = Some(at.input);
            self.stretches.push_back(Stretch { first, last, since, until, again: since, input, at });
            return earlier;
        };
        let is_newest = Some(next) == newest;
        // What comes late is older than what came before it.
        let comes_back = !is_newest
            && newest.is_some_and(|newest| until > self.stretches[newest].again.saturating_add(SKEW));
        let mut stretch = self.stretches.remove(next)?;
        let before = stretch.at.clone();
        let exact = stretch.distance(run).is_some_and(|distance| distance <= NEXT);
        stretch.last = last;
        stretch.widen(run, &at);
        if is_newest || comes_back {
            if comes_back {
                stretch.again = until;
            }
            self.stretches.push_back(stretch);
        } else {
            self.stretches.insert(next, stretch);
        }
        if comes_back {
            self.shown = self.shown.saturating_add(if exact { EXACT } else { CLOSE });
        }
        (comes_back && self.shown >= ENOUGH).then_some(before)
    }
}

impl Sequence {
    /// The number of the earliest event.
    pub(crate) fn first(&self) -> Option<u32> {
        self.earliest.map(|(first, _)| first)
    }

    /// The number that would come next.
    pub(crate) fn next(&self) -> Option<u32> {
        self.stretches.back().map(|last| last.last.wrapping_add(1))
    }

    /// The input that has the last line of this, if another goes on at once with the next number.
    pub(crate) fn goes_on_in(&self, later: &Self) -> Option<Arc<str>> {
        let (last, (first, since)) = (self.stretches.back()?, later.earliest?);
        let at_once = (0..=ONE_ROTATION).contains(&since.saturating_sub(last.until));
        (self.next() == Some(first) && first > NEXT && at_once).then(|| Arc::clone(&last.at.source))
    }
}

impl Stretch {
    /// Whether these numbers came before, or are late.
    fn has(&self, run: &Run) -> bool {
        let is_of_its_time =
            self.since.saturating_sub(SKEW) <= run.since && run.until <= self.until.saturating_add(SKEW);
        // Lines of one event may have several times.
        let is_newest = run.first == self.last && run.last == self.last;
        let is_late = run.last <= self.last && self.first.saturating_sub(run.first) <= NEAR;
        is_newest || (is_late && is_of_its_time)
    }

    /// How far above its last number a run goes on, if that is near. What overlaps it is of the same time.
    fn distance(&self, run: &Run) -> Option<u32> {
        match run.first.checked_sub(self.last) {
            Some(distance @ 1..) => Some(distance).filter(|distance| *distance <= NEAR),
            _ => {
                let same = self.first <= run.first
                    && self.last < run.last
                    && run.since <= self.until.saturating_add(SKEW);
                same.then_some(0)
            }
        }
    }

    fn widen(&mut self, run: &Run, at: &At) {
        (self.since, self.until) = (self.since.min(run.since), self.until.max(run.until));
        self.input = self.input.filter(|input| *input == at.input);
        self.at = at.clone();
    }

    /// Whether another input tells of the same time by other numbers.
    fn overlaps(&self, run: &Run, at: &At) -> bool {
        let both = self.until.min(run.until).saturating_sub(self.since.max(run.since));
        let apart = self.last < run.first || run.last < self.first;
        self.input.is_some_and(|input| input != at.input) && apart && both > SKEW
    }
}

/// Whether a stretch is all within a run.
fn is_within(stretch: &Stretch, run: &Run) -> bool {
    run.first <= stretch.first
        && stretch.last <= run.last
        && run.since.saturating_sub(SKEW) <= stretch.since
        && stretch.until <= run.until.saturating_add(SKEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which run, from 0, a conflict shows: first and last number, seconds, and input of each.
    fn conflict(runs: impl IntoIterator<Item = (u32, u32, i64, i64, u32)>) -> Option<usize> {
        let mut sequence = Sequence::default();
        runs.into_iter().position(|(first, last, since, until, input)| {
            let mut run = Run::of(first, last, since * 1000);
            run.until = until * 1000;
            sequence.take(&run, At { input, source: "a.log".into(), line: 1 }).is_some()
        })
    }

    fn single(numbers: impl IntoIterator<Item = (u32, i64)>) -> Option<usize> {
        conflict(numbers.into_iter().map(|(number, second)| (number, number, second, second, 0)))
    }

    #[test]
    fn one_host_with_boots_and_a_little_disorder_is_one() {
        assert_eq!(single([(900, 0), (901, 1), (899, 2), (902, 3), (5, 60), (6, 61), (7, 62)]), None);
        assert_eq!(single([(u32::MAX - 1, 0), (3, 60), (4, 61)]), None, "a wrap");
        assert_eq!(single((0..20_000).map(|n| (n % 7000 + 1, i64::from(n) * 10))), None, "boots");
        assert_eq!(single([(101, 0), (900_000, 1), (900_001, 2)]), None, "a loss");
        let overlapping = [(29, 36, 0, 9, 0), (33, 37, 8, 10, 0), (37, 38, 10, 11, 0), (38, 39, 11, 15, 0)];
        assert_eq!(conflict(overlapping), None);
        // Boots that lose and count past where the one before ended.
        let boots = [(1, 0), (9000, 50), (1, 100), (8000, 150), (9003, 160), (20_000, 200), (1, 300)];
        assert_eq!(single(boots), None);
        // A number that waited for auditd has its own, earlier time.
        assert_eq!(single([(500, 0), (8000, 60), (501, 1), (8001, 61), (502, 2), (8002, 62)]), None);
    }

    #[test]
    fn several_logs_of_one_host_are_one_hosts() {
        // Parts of a log, then the whole; rotations; boots in them.
        let parts =
            [(50, 50, 10, 10, 0), (7000, 7002, 500, 501, 0), (1, 9000, 0, 700, 1), (9001, 9002, 701, 702, 0)];
        assert_eq!(conflict(parts), None);
        let rotations = [(1, 9000, 0, 1000, 0), (9001, 9500, 1001, 2000, 1), (1, 400, 3000, 3100, 1)];
        assert_eq!(conflict(rotations), None);
        let lossy = [(1, 100, 0, 100, 0), (9000, 9100, 200, 300, 0), (5000, 5100, 120, 180, 1)];
        assert_eq!(conflict(lossy), None);
    }

    #[test]
    fn two_hosts_whose_records_alternate_are_two() {
        let two = |gap: u32| (0..100_u32).map(move |n| (n / 2 + (n % 2) * gap + 100, i64::from(n) * 10));
        assert_eq!(single(two(50_000)), Some(2));
        assert_eq!(single(two(4200)), Some(2), "also where their numbers are near");
        let sparse = (0..100_u32).map(|n| (n / 2 * 700 + (n % 2) * 900_000 + 100, i64::from(n) * 10));
        assert!(single(sparse).is_some(), "of records that were selected");
    }

    #[test]
    fn a_log_goes_on_in_another_with_the_next_number() {
        let sequence = |first, last, since| {
            let mut sequence = Sequence::default();
            sequence.take(&Run::of(first, last, since), At { input: 0, source: "a".into(), line: 1 });
            sequence
        };
        let log = sequence(1000, 2000, 5000);
        assert!(log.goes_on_in(&sequence(2001, 3000, 6000)).is_some());
        assert!(log.goes_on_in(&sequence(2002, 3000, 6000)).is_none());
        assert!(log.goes_on_in(&sequence(2001, 3000, 600_000)).is_none());
        assert!(sequence(2001, 3000, 6000).goes_on_in(&log).is_none());
    }

    #[test]
    fn two_logs_that_tell_of_one_time_by_other_numbers_are_two_hosts() {
        assert_eq!(conflict([(500, 510, 0, 100, 0), (90_000, 90_050, 20, 80, 1)]), Some(1));
        assert_eq!(conflict([(90_000, 90_050, 20, 80, 0), (500, 510, 0, 100, 1)]), Some(1));
        let booted = [(500, 510, 0, 100, 0), (70_000, 70_050, 0, 20, 1), (1, 50, 40, 100, 1)];
        assert_eq!(conflict(booted), Some(1));
    }
}
