//! Whether serial numbers that seem to be of one host are of one.
//!
//! The kernel numbers the audit events of a host one by one from each boot. In the order of an input's lines the
//! numbers of one host rise, but for its boots. Where the records of two hosts are taken for one host's, they fall and
//! go on where they stood before, though time has passed; or two logs tell of the same time by other numbers.
//!
//! A host's clock may be set, its log may lack stretches, and what is left of it may be a selection: none of that may
//! look like two hosts.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use taptrail_trail::MAX_FIRST_SERIAL;

use crate::runs::{JUMP, Run};

/// Events of one host are out of order by less than this, in milliseconds.
const SKEW: i64 = 5000;

/// A number this little above another goes on with it.
const NEXT: u32 = 64;

/// A late number is below the newest one by less than this: as many records wait for auditd.
pub(crate) const LATE: u32 = 16_384;

/// How many stretches of numbers of one input are remembered, and how many runs of each log.
const STRETCHES: usize = 16;
const RUNS: usize = 4096;

/// How many returns show two hosts in a selection of records, where a number may be near another by chance; and how
/// many runs that contradict another log's.
const RETURNS: u32 = 3;
const CONTRADICTIONS: u32 = 2;

/// One log goes on in the next within so many milliseconds.
const ONE_ROTATION: i64 = 60_000;

/// Runs by the time and number of their first event.
type ByTime = BTreeMap<(i64, u32), (Run, At)>;

/// The serial numbers of one host, in the order of the lines of each input.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    inputs: HashMap<u32, InOrder>,
    /// What each log and its rotations tell, by time.
    logs: HashMap<Arc<str>, ByTime>,
    contradictions: u32,
    /// Whether the host's clock was set back: then times tell nothing of whose numbers they are.
    clock_was_set: bool,
    /// The number and time of the earliest event.
    earliest: Option<(u32, i64)>,
    newest: Option<(u32, i64, At)>,
}

/// Where a run of numbers is.
#[derive(Debug, Clone)]
pub(crate) struct At {
    pub(crate) input: u32,
    /// Whether it is an audit log's own line, with the very time of the event.
    pub(crate) is_raw: bool,
    /// What the input has in common with its rotations.
    pub(crate) family: Arc<str>,
    pub(crate) source: Arc<str>,
    pub(crate) line: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

impl Sequence {
    /// The host starts anew here, as an input tells.
    pub(crate) fn boots(&mut self, input: u32) {
        self.inputs.entry(input).or_default().stretches.clear();
    }

    /// Takes the next numbers of an input. An earlier line if the two can't be of one host. `is_whole`: the input has
    /// the lines of all events, not only of guests'.
    pub(crate) fn take(&mut self, run: &Run, at: At, is_whole: bool) -> Option<At> {
        // When a system call was entered tells nothing of where its number belongs.
        if run.entered {
            return None;
        }
        if self.earliest.is_none_or(|(_, earliest)| run.since < earliest) {
            self.earliest = Some((run.first, run.since));
        }
        if self.newest.as_ref().is_none_or(|(_, newest, _)| *newest <= run.until) {
            self.newest = Some((run.last, run.until, at.clone()));
        }
        let of = self.inputs.entry(at.input).or_default();
        self.clock_was_set |= of.sets_clock(run);
        let returned = of.take(run, &at, is_whole);
        let contradicted = self.contradicts(run, at);
        returned.or(contradicted)
    }

    /// Whether another log tells of the same time by other numbers.
    fn contradicts(&mut self, run: &Run, at: At) -> Option<At> {
        if self.clock_was_set {
            return None;
        }
        let is_raw = at.is_raw;
        let others = self.logs.iter().filter(|(family, _)| **family != at.family);
        let earlier = others
            .flat_map(|(_, runs)| {
                runs.range((run.since.saturating_sub(ONE_ROTATION), 0)..=(run.until, u32::MAX))
            })
            .find(|(_, (other, at))| contradict(run, other, is_raw && at.is_raw))
            .map(|(_, (_, at))| at.clone());
        let runs = self.logs.entry(Arc::clone(&at.family)).or_default();
        if runs.len() == RUNS {
            runs.pop_first();
        }
        runs.insert((run.since, run.first), (run.clone(), at));
        self.contradictions += u32::from(earlier.is_some());
        earlier.filter(|_| self.contradictions >= CONTRADICTIONS)
    }

    /// The number of the earliest event.
    pub(crate) fn first(&self) -> Option<u32> {
        self.earliest.map(|(first, _)| first)
    }

    /// The number that would come next.
    pub(crate) fn next(&self) -> Option<u32> {
        self.newest.as_ref().map(|(last, ..)| last.wrapping_add(1))
    }

    /// The input that has the last line of this, if another goes on at once with the next number.
    pub(crate) fn goes_on_in(&self, later: &Self) -> Option<Arc<str>> {
        let ((_, until, at), (first, since)) = (self.newest.as_ref()?, later.earliest?);
        let at_once = (0..=ONE_ROTATION).contains(&since.saturating_sub(*until));
        (self.next() == Some(first) && first > NEXT && at_once).then(|| Arc::clone(&at.source))
    }
}

/// Whether two runs can't be of one host: one of them tells of the time of the other by numbers of its own.
fn contradict(one: &Run, other: &Run, are_exact: bool) -> bool {
    // The kernel gives an event one time.
    let of_one_time = (one.since - other.since).abs() <= SKEW * 2;
    if are_exact && one.first == other.first && one.since != other.since && of_one_time {
        return true;
    }
    let apart = one.last < other.first || other.last < one.first;
    let within = |inner: &Run, outer: &Run| {
        outer.since.saturating_add(SKEW) < inner.since && inner.until < outer.until.saturating_sub(SKEW)
    };
    let both = one.until.min(other.until).saturating_sub(one.since.max(other.since));
    apart && (both > SKEW || within(one, other) || within(other, one))
}

/// The numbers of one input.
#[derive(Debug, Default)]
struct InOrder {
    /// Stretches of numbers that go on with each other; the one that went on last is the last.
    stretches: VecDeque<Stretch>,
    /// How often numbers fell as time passed, and how often such a fall went on where numbers had stood.
    falls: u32,
    returns: u32,
    /// The last number and its time.
    last: Option<(u32, i64)>,
}

#[derive(Debug)]
struct Stretch {
    first: u32,
    last: u32,
    /// When its numbers began to come, or came again, in milliseconds since 1970.
    again: i64,
    /// Its newest runs, the newest last: first and last number, and time.
    steps: VecDeque<(u32, u32, i64)>,
    /// The line of its newest run.
    at: At,
}

impl InOrder {
    /// Whether the next number has an earlier time.
    fn sets_clock(&mut self, run: &Run) -> bool {
        let before = self.last.replace((run.last, run.until));
        before.is_some_and(|(last, until)| {
            (1..=NEXT).contains(&run.first.wrapping_sub(last)) && run.since < until.saturating_sub(JUMP)
        })
    }

    fn take(&mut self, run: &Run, at: &At, is_whole: bool) -> Option<At> {
        let Some(newest) = self.stretches.back() else {
            self.push(run, at);
            return None;
        };
        if run.last <= newest.last && newest.is_late(run) {
            return None;
        }
        if newest.goes_on(run) {
            self.stretches.back_mut()?.add(run, at);
            return None;
        }
        let falls = run.last < newest.last;
        if falls {
            // A host that has just booted may have numbers like those of a boot still.
            let is_next = |old: &Stretch| old.last.checked_add(1) == Some(run.first);
            if run.first <= MAX_FIRST_SERIAL && !self.stretches.iter().any(is_next) {
                self.stretches.clear();
                self.push(run, at);
                return None;
            }
            self.falls += 1;
        }
        let time_passed = run.until > newest.again.saturating_add(SKEW);
        let enough = |returns, falls| is_whole || (returns >= RETURNS && returns * 2 >= falls);
        // What goes on above the newest may have passed where a boot before ended.
        let Some(old) = self.stretches.iter().rposition(|old| old.goes_on(run)) else {
            let lacks = self.stretches.iter().find(|old| falls && is_whole && old.lacks(run));
            let lacks = lacks.map(|old| old.at.clone());
            self.returns += u32::from(lacks.is_some());
            self.push(run, at);
            return lacks.filter(|_| enough(self.returns, self.falls));
        };
        let mut old = self.stretches.remove(old)?;
        let before = old.at.clone();
        old.add(run, at);
        if !time_passed {
            // It comes late.
            self.stretches.push_front(old);
            return None;
        }
        old.again = run.since;
        self.stretches.push_back(old);
        self.returns += u32::from(falls);
        (falls && enough(self.returns, self.falls)).then_some(before)
    }

    fn push(&mut self, run: &Run, at: &At) {
        if self.stretches.len() == STRETCHES {
            self.stretches.pop_front();
        }
        let Run { first, last, since, until, .. } = *run;
        let steps = VecDeque::from([(first, last, until)]);
        self.stretches.push_back(Stretch { first, last, again: since, steps, at: at.clone() });
    }
}

impl Stretch {
    /// Whether numbers that are not above its last are late: their time is before those above them.
    fn is_late(&self, run: &Run) -> bool {
        let above = self.steps.get(self.steps.partition_point(|(_, last, _)| *last <= run.last));
        // Lines of one event may have several times.
        run.last == self.last
            || (self.first.saturating_sub(run.first) <= LATE
                && above.is_none_or(|(.., time)| run.since <= time.saturating_add(SKEW)))
    }

    /// Whether these numbers follow one that is there, and those above them came before.
    fn lacks(&self, run: &Run) -> bool {
        let above = self.steps.partition_point(|(first, ..)| *first <= run.first);
        let below = above.checked_sub(1).and_then(|below| self.steps.get(below));
        below.zip(self.steps.get(above)).is_some_and(|((_, below, _), (above, _, time))| {
            *below < run.first
                && run.first - below <= NEXT
                && run.last < *above
                && run.since > time.saturating_add(SKEW)
        })
    }

    fn goes_on(&self, run: &Run) -> bool {
        self.last < run.last && self.first <= run.first && run.first.saturating_sub(self.last) <= NEXT
    }

    fn add(&mut self, run: &Run, at: &At) {
        self.last = run.last;
        if self.steps.len() == RUNS {
            self.steps.pop_front();
        }
        self.steps.push_back((run.first, run.last, run.until));
        self.at = at.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of one line each, and when, in seconds.
    type Lines = Vec<(u32, i64)>;

    /// At which run, from 0, a conflict shows.
    fn conflict(runs: impl IntoIterator<Item = (u32, u32, i64, i64, u32)>, is_whole: bool) -> Option<usize> {
        let mut sequence = Sequence::default();
        runs.into_iter().position(|(first, last, since, until, input)| {
            let mut run = Run::of(first, last, since * 1000);
            run.until = until * 1000;
            let at =
                At { input, is_raw: true, family: input.to_string().into(), source: "a.log".into(), line: 1 };
            sequence.take(&run, at, is_whole).is_some()
        })
    }

    fn single(numbers: impl IntoIterator<Item = (u32, i64)>) -> Option<usize> {
        conflict(numbers.into_iter().map(|(number, second)| (number, number, second, second, 0)), true)
    }

    fn selected(numbers: impl IntoIterator<Item = (u32, i64)>) -> Option<usize> {
        conflict(numbers.into_iter().map(|(number, second)| (number, number, second, second, 0)), false)
    }

    /// A few numbers that look random.
    fn random(seed: u64, below: u32) -> impl FnMut() -> u32 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u32::try_from(state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % below
        }
    }

    #[test]
    fn one_host_with_boots_and_a_little_disorder_is_one() {
        assert_eq!(single([(900, 0), (901, 1), (899, 2), (902, 3), (5, 60), (6, 61), (7, 62)]), None);
        assert_eq!(single([(u32::MAX - 1, 0), (3, 60), (4, 61)]), None, "a wrap");
        assert_eq!(single((0..20_000).map(|n| (n % 7000 + 1, i64::from(n) * 10))), None, "boots");
        assert_eq!(single([(101, 0), (900_000, 1), (900_001, 2)]), None, "a loss");
        let overlapping = [(29, 36, 0, 9, 0), (33, 37, 8, 10, 0), (37, 38, 10, 11, 0), (38, 39, 11, 15, 0)];
        assert_eq!(conflict(overlapping, true), None);
        // Numbers that waited for auditd have their own, earlier times.
        assert_eq!(single([(500, 0), (8000, 60), (501, 1), (8001, 61), (502, 2), (8002, 62)]), None);
    }

    #[test]
    fn one_host_that_loses_and_boots_is_one() {
        for seed in 0..200 {
            let mut roll = random(seed, 6000);
            let mut lines = Lines::new();
            let mut second = 0;
            for _ in 0..20 {
                let (mut number, lost_at) = (1 + roll() % 20, 1 + roll());
                while number < 9000 {
                    second += 1;
                    lines.push((number, second));
                    number += if number == lost_at {
                        2000 + roll()
                    } else {
                        1 + u32::from(roll() < 60) * (roll() % 9)
                    };
                }
                second += 60;
            }
            assert_eq!(single(lines), None, "{seed}");
        }
    }

    #[test]
    fn one_host_whose_records_were_selected_is_one() {
        for seed in 0..300 {
            let gap = [300, 2000, 5000, 30_000][usize::try_from(seed % 4).unwrap()];
            let mut roll = random(seed, gap);
            let mut lines = Lines::new();
            let mut second = 0;
            for _ in 0..2 + seed % 9 {
                let mut number = 70 + roll();
                for _ in 0..30 {
                    second += 600;
                    // A start of a guest is some records.
                    lines.extend((0..5).map(|n| (number + n, second)));
                    number += 5 + roll();
                }
            }
            assert_eq!(selected(lines), None, "{seed}");
        }
    }

    #[test]
    fn one_host_whose_clock_is_set_is_one() {
        for back in [3, 10, 60, 3600] {
            for rate in [1, 20, 1000] {
                let time = |n: u32| i64::from(n / rate) - if n > 5000 { back } else { 0 };
                assert_eq!(single((100..20_000).map(|n| (n, time(n)))), None, "{back} s, {rate} a second");
                let lossy = (100..20_000).filter(|n| n % 701 != 0).map(|n| (n, time(n)));
                assert_eq!(single(lossy), None, "{back} s, {rate} a second, with losses");
            }
        }
        // It boots with its clock behind.
        let boots = (5000..5100).map(|n| (n, i64::from(n))).chain((1..90).map(|n| (n, 4971 + i64::from(n))));
        assert_eq!(single(boots), None);
    }

    #[test]
    fn several_logs_of_one_host_are_one_hosts() {
        // Parts of a log beside the whole.
        let whole = |n: u32| (n * 100 + 1, n * 100 + 100, i64::from(n) * 50, i64::from(n) * 50 + 49, 1);
        let part = |n: u32| (n * 100 + 7, n * 100 + 9, i64::from(n) * 50 + 10, i64::from(n) * 50 + 10, 0);
        assert_eq!(conflict((0..40).flat_map(|n| [part(n), whole(n)]), true), None);
        // Each lacks what the other has.
        let lossy = |n: u32| (n * 100 + 1, n * 100 + 100, i64::from(n) * 50, i64::from(n) * 50 + 49, n % 2);
        assert_eq!(conflict((0..40).map(lossy), true), None);
    }

    #[test]
    fn two_hosts_whose_records_alternate_are_two() {
        let two = |gap: u32| (0..100_u32).map(move |n| (n / 2 + (n % 2) * gap + 100, i64::from(n) * 10));
        assert_eq!(single(two(50_000)), Some(2));
        assert_eq!(single(two(900)), Some(2), "also where their numbers are near");
        assert!(single(two(5)).is_some(), "or nearer");
        assert!(selected(two(50_000)).is_some());
        let booted = [(5, 0), (6, 10), (50_000, 11), (50_001, 15), (7, 30), (50_002, 31)];
        assert_eq!(single(booted), Some(4), "one has just booted");
    }

    #[test]
    fn a_log_goes_on_in_another_with_the_next_number() {
        let sequence = |first, last, since| {
            let mut sequence = Sequence::default();
            let at = At { input: 0, is_raw: true, family: "a".into(), source: "a".into(), line: 1 };
            sequence.take(&Run::of(first, last, since), at, true);
            sequence
        };
        let log = sequence(1000, 2000, 5000);
        assert!(log.goes_on_in(&sequence(2001, 3000, 6000)).is_some());
        assert!(log.goes_on_in(&sequence(2002, 3000, 6000)).is_none());
        assert!(log.goes_on_in(&sequence(2001, 3000, 600_000)).is_none());
        assert!(sequence(2001, 3000, 6000).goes_on_in(&log).is_none());
    }

    #[test]
    fn one_number_has_one_time() {
        let log = |input: u32| {
            move |n: u32| {
                (n * 50, n * 50 + 49, i64::from(n) * 50 + i64::from(input), i64::from(n) * 50 + 49, input)
            }
        };
        assert!(conflict((1..10).flat_map(|n| [log(0)(n), log(1)(n)]), true).is_some());
        assert!(conflict((1..10).flat_map(|n| [log(0)(n), log(0)(n)]), true).is_none());
    }

    #[test]
    fn two_logs_that_tell_of_one_time_by_other_numbers_are_two_hosts() {
        let log = |from: u32, input: u32| {
            move |n: u32| {
                (from + n * 50, from + n * 50 + 49, i64::from(n) * 50, i64::from(n) * 50 + 49, input)
            }
        };
        for from in [90_000, 1000, 300] {
            assert!(
                conflict((0..10).map(log(500, 0)).chain((0..10).map(log(from, 1))), true).is_some(),
                "{from}"
            );
        }
        // A clock that was set back explains it.
        let set = [(400, 449, 900, 949, 0), (450, 499, 0, 49, 0)];
        assert_eq!(
            conflict(set.into_iter().chain((0..10).map(log(500, 0))).chain((0..10).map(log(900, 1))), true),
            None
        );
    }
}
