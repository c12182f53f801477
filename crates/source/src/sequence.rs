//! Detects serial numbers of two hosts that were assigned to one.
//!
//! The kernel numbers a host's audit events one by one from each boot, so one host's numbers rise
//! in the order of an input's lines, except at boots. If two hosts are mixed, numbers fall and
//! continue where they were before, although time has passed; or two logs have different numbers
//! for the same time.
//!
//! A host's clock may be set, its log may have gaps, and the input may be a selection of its
//! records: none of that must look like two hosts.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use taptrail_trail::MAX_FIRST_SERIAL;

use crate::runs::{CLOCK_JUMP_MS, Run};

/// Events of one host are out of order by less than this, in milliseconds.
const REORDER_WINDOW_MS: i64 = 5000;

/// A number higher by at most this continues the one before.
const MAX_SERIAL_STEP: u32 = 64;

/// A late number is below the newest one by less than this: so many records may wait for auditd.
pub(crate) const MAX_LATE_SERIALS: u32 = 16_384;

/// Maximum number of stretches kept per input, and of runs per log.
const MAX_STRETCHES: usize = 16;
const MAX_RUNS: usize = 4096;

/// How many returns to earlier numbers show two hosts in a selection of records, where numbers may
/// be close by chance; and how many runs must contradict another log's.
const MIN_RETURNS: u32 = 3;
const MIN_CONTRADICTIONS: u32 = 2;

/// A log continues in the next one within this time, in milliseconds.
const MAX_ROTATION_PAUSE_MS: i64 = 60_000;

/// Runs by the time and serial number of their first event.
type ByTime = BTreeMap<(i64, u32), (Run, LineLocation)>;

/// The serial numbers of one host, in the order of the lines of each input.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    inputs: HashMap<u32, InputSerials>,
    /// The runs of each log with its rotations, by time.
    logs: HashMap<Arc<str>, ByTime>,
    contradictions: u32,
    /// Whether the host's clock was set back: then times can't show a contradiction.
    clock_was_set: bool,
    /// Serial number and time of the earliest event.
    earliest: Option<(u32, i64)>,
    newest: Option<(u32, i64, LineLocation)>,
}

/// The location of a line.
#[derive(Debug, Clone)]
pub(crate) struct LineLocation {
    pub(crate) input: u32,
    /// Whether it is a raw audit line, with the event's exact time.
    pub(crate) is_raw: bool,
    /// The path that the input shares with its rotations.
    pub(crate) family: Arc<str>,
    pub(crate) source: Arc<str>,
    pub(crate) line: u64,
}

impl fmt::Display for LineLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

impl Sequence {
    /// Notes a boot in an input.
    pub(crate) fn note_boot(&mut self, input: u32) {
        self.inputs.entry(input).or_default().stretches.clear();
    }

    /// Takes the next run of an input. Returns an earlier line if the two can't be from one host.
    /// `has_all_events`: the input has the lines of all events, not only of guests.
    pub(crate) fn take(&mut self, run: &Run, at: LineLocation, has_all_events: bool) -> Option<LineLocation> {
        // The entry time of a system call does not show where its number belongs.
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
        let returned = of.take(run, &at, has_all_events);
        let contradicted = self.contradicts(run, at);
        returned.or(contradicted)
    }

    /// Whether another log has different numbers for the same time.
    fn contradicts(&mut self, run: &Run, at: LineLocation) -> Option<LineLocation> {
        if self.clock_was_set {
            return None;
        }
        let is_raw = at.is_raw;
        let others = self.logs.iter().filter(|(family, _)| **family != at.family);
        let earlier = others
            .flat_map(|(_, runs)| {
                runs.range((run.since.saturating_sub(MAX_ROTATION_PAUSE_MS), 0)..=(run.until, u32::MAX))
            })
            .find(|(_, (other, at))| contradict(run, other, is_raw && at.is_raw))
            .map(|(_, (_, at))| at.clone());
        let runs = self.logs.entry(Arc::clone(&at.family)).or_default();
        if runs.len() == MAX_RUNS {
            runs.pop_first();
        }
        runs.insert((run.since, run.first), (run.clone(), at));
        self.contradictions += u32::from(earlier.is_some());
        earlier.filter(|_| self.contradictions >= MIN_CONTRADICTIONS)
    }

    /// The serial number of the earliest event.
    pub(crate) fn first(&self) -> Option<u32> {
        self.earliest.map(|(first, _)| first)
    }

    /// The serial number that would come next.
    pub(crate) fn next(&self) -> Option<u32> {
        self.newest.as_ref().map(|(last, ..)| last.wrapping_add(1))
    }

    /// The input with the last line, if `later` continues at once with the next number.
    pub(crate) fn continues_in(&self, later: &Self) -> Option<Arc<str>> {
        let ((_, until, at), (first, since)) = (self.newest.as_ref()?, later.earliest?);
        let at_once = (0..=MAX_ROTATION_PAUSE_MS).contains(&since.saturating_sub(*until));
        (self.next() == Some(first) && first > MAX_SERIAL_STEP && at_once).then(|| Arc::clone(&at.source))
    }
}

/// Whether two runs can't be from one host: they have different numbers for the same time.
fn contradict(one: &Run, other: &Run, are_exact: bool) -> bool {
    // An event has only one time.
    let of_one_time = (one.since - other.since).abs() <= REORDER_WINDOW_MS * 2;
    if are_exact && one.first == other.first && one.since != other.since && of_one_time {
        return true;
    }
    let apart = one.last < other.first || other.last < one.first;
    let within = |inner: &Run, outer: &Run| {
        outer.since.saturating_add(REORDER_WINDOW_MS) < inner.since
            && inner.until < outer.until.saturating_sub(REORDER_WINDOW_MS)
    };
    let both = one.until.min(other.until).saturating_sub(one.since.max(other.since));
    apart && (both > REORDER_WINDOW_MS || within(one, other) || within(other, one))
}

/// The serial numbers in one input.
#[derive(Debug, Default)]
struct InputSerials {
    /// Stretches of rising numbers. The one that grew last is the last.
    stretches: VecDeque<SerialStretch>,
    /// How often numbers fell, and how often they then continued an earlier stretch.
    falls: u32,
    returns: u32,
    /// The last serial number and its time.
    last: Option<(u32, i64)>,
}

#[derive(Debug)]
struct SerialStretch {
    first: u32,
    last: u32,
    /// When its numbers began or resumed, in milliseconds since 1970.
    resumed_at: i64,
    /// Its newest runs, newest last: first and last number, and time.
    steps: VecDeque<(u32, u32, i64)>,
    /// The line of its newest run.
    at: LineLocation,
}

impl InputSerials {
    /// Whether the next number has an earlier time: the clock was set back.
    fn sets_clock(&mut self, run: &Run) -> bool {
        let before = self.last.replace((run.last, run.until));
        before.is_some_and(|(last, until)| {
            (1..=MAX_SERIAL_STEP).contains(&run.first.wrapping_sub(last))
                && run.since < until.saturating_sub(CLOCK_JUMP_MS)
        })
    }

    fn take(&mut self, run: &Run, at: &LineLocation, has_all_events: bool) -> Option<LineLocation> {
        let Some(newest) = self.stretches.back() else {
            self.push(run, at);
            return None;
        };
        if run.last <= newest.last && newest.is_late(run) {
            return None;
        }
        if newest.continues_with(run) {
            self.stretches.back_mut()?.add(run, at);
            return None;
        }
        let falls = run.last < newest.last;
        if falls {
            // Low numbers show a boot, unless they directly continue an earlier stretch.
            let is_next = |old: &SerialStretch| old.last.checked_add(1) == Some(run.first);
            if run.first <= MAX_FIRST_SERIAL && !self.stretches.iter().any(is_next) {
                self.stretches.clear();
                self.push(run, at);
                return None;
            }
            self.falls += 1;
        }
        let time_passed = run.until > newest.resumed_at.saturating_add(REORDER_WINDOW_MS);
        let enough = |returns, falls| has_all_events || (returns >= MIN_RETURNS && returns * 2 >= falls);
        // Numbers above the newest ones may pass where an earlier boot ended.
        let Some(old) = self.stretches.iter().rposition(|old| old.continues_with(run)) else {
            let lacks = self.stretches.iter().find(|old| falls && has_all_events && old.lacks(run));
            let lacks = lacks.map(|old| old.at.clone());
            self.returns += u32::from(lacks.is_some());
            self.push(run, at);
            return lacks.filter(|_| enough(self.returns, self.falls));
        };
        let mut old = self.stretches.remove(old)?;
        let before = old.at.clone();
        old.add(run, at);
        if !time_passed {
            // The run is late.
            self.stretches.push_front(old);
            return None;
        }
        old.resumed_at = run.since;
        self.stretches.push_back(old);
        self.returns += u32::from(falls);
        (falls && enough(self.returns, self.falls)).then_some(before)
    }

    fn push(&mut self, run: &Run, at: &LineLocation) {
        if self.stretches.len() == MAX_STRETCHES {
            self.stretches.pop_front();
        }
        let Run { first, last, since, until, .. } = *run;
        let steps = VecDeque::from([(first, last, until)]);
        self.stretches.push_back(SerialStretch { first, last, resumed_at: since, steps, at: at.clone() });
    }
}

impl SerialStretch {
    /// Whether a run that is not above the last number is late: its time is before those of the
    /// numbers above it.
    fn is_late(&self, run: &Run) -> bool {
        let above = self.steps.get(self.steps.partition_point(|(_, last, _)| *last <= run.last));
        // Lines of one event may have several times.
        run.last == self.last
            || (self.first.saturating_sub(run.first) <= MAX_LATE_SERIALS
                && above.is_none_or(|(.., time)| run.since <= time.saturating_add(REORDER_WINDOW_MS)))
    }

    /// Whether a run fills a gap in the stretch although the numbers above the gap came before.
    fn lacks(&self, run: &Run) -> bool {
        let above = self.steps.partition_point(|(first, ..)| *first <= run.first);
        let below = above.checked_sub(1).and_then(|below| self.steps.get(below));
        below.zip(self.steps.get(above)).is_some_and(|((_, below, _), (above, _, time))| {
            *below < run.first
                && run.first - below <= MAX_SERIAL_STEP
                && run.last < *above
                && run.since > time.saturating_add(REORDER_WINDOW_MS)
        })
    }

    fn continues_with(&self, run: &Run) -> bool {
        self.last < run.last
            && self.first <= run.first
            && run.first.saturating_sub(self.last) <= MAX_SERIAL_STEP
    }

    fn add(&mut self, run: &Run, at: &LineLocation) {
        self.last = run.last;
        if self.steps.len() == MAX_RUNS {
            self.steps.pop_front();
        }
        self.steps.push_back((run.first, run.last, run.until));
        self.at = at.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serial number and time in seconds of each line.
    type Lines = Vec<(u32, i64)>;

    /// The run, from 0, at which a conflict is detected.
    fn conflict(
        runs: impl IntoIterator<Item = (u32, u32, i64, i64, u32)>,
        has_all_events: bool,
    ) -> Option<usize> {
        let mut sequence = Sequence::default();
        runs.into_iter().position(|(first, last, since, until, input)| {
            let mut run = Run::of(first, last, since * 1000);
            run.until = until * 1000;
            let at = LineLocation {
                input,
                is_raw: true,
                family: input.to_string().into(),
                source: "a.log".into(),
                line: 1,
            };
            sequence.take(&run, at, has_all_events).is_some()
        })
    }

    fn single(numbers: impl IntoIterator<Item = (u32, i64)>) -> Option<usize> {
        conflict(numbers.into_iter().map(|(number, second)| (number, number, second, second, 0)), true)
    }

    fn selected(numbers: impl IntoIterator<Item = (u32, i64)>) -> Option<usize> {
        conflict(numbers.into_iter().map(|(number, second)| (number, number, second, second, 0)), false)
    }

    /// A pseudo-random generator.
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
        // Events that waited for auditd keep their own, earlier times.
        assert_eq!(single([(500, 0), (8000, 60), (501, 1), (8001, 61), (502, 2), (8002, 62)]), None);
    }

    // Shows 10.42.
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

    // Shows 10.42.
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
                    // The start of a guest writes several records.
                    lines.extend((0..5).map(|n| (number + n, second)));
                    number += 5 + roll();
                }
            }
            assert_eq!(selected(lines), None, "{seed}");
        }
    }

    // Shows 10.42.
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
        // Parts of a log beside the complete log.
        let whole = |n: u32| (n * 100 + 1, n * 100 + 100, i64::from(n) * 50, i64::from(n) * 50 + 49, 1);
        let part = |n: u32| (n * 100 + 7, n * 100 + 9, i64::from(n) * 50 + 10, i64::from(n) * 50 + 10, 0);
        assert_eq!(conflict((0..40).flat_map(|n| [part(n), whole(n)]), true), None);
        // Each lacks what the other has.
        let lossy = |n: u32| (n * 100 + 1, n * 100 + 100, i64::from(n) * 50, i64::from(n) * 50 + 49, n % 2);
        assert_eq!(conflict((0..40).map(lossy), true), None);
    }

    // Shows 10.23.
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
            let at = LineLocation { input: 0, is_raw: true, family: "a".into(), source: "a".into(), line: 1 };
            sequence.take(&Run::of(first, last, since), at, true);
            sequence
        };
        let log = sequence(1000, 2000, 5000);
        assert!(log.continues_in(&sequence(2001, 3000, 6000)).is_some());
        assert!(log.continues_in(&sequence(2002, 3000, 6000)).is_none());
        assert!(log.continues_in(&sequence(2001, 3000, 600_000)).is_none());
        assert!(sequence(2001, 3000, 6000).continues_in(&log).is_none());
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
    fn two_logs_with_other_numbers_for_one_time_are_of_two_hosts() {
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
