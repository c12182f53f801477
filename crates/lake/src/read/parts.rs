//! Whose rows of a host and day count: each day those of one part.

use std::collections::{BTreeMap, HashMap};

use crate::{CoverageRow, Day, Micros, Text};

/// The part of each host and day.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// The days of each host; of none, where there is one part alone.
    hosts: HashMap<Text, Vec<PartDays>>,
    /// Where hosts go over from one part to the next, by the last day that the one covers.
    ends: BTreeMap<Day, HashMap<Text, PartDays>>,
}

/// Days of one host that are of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartDays {
    pub(super) part: usize,
    pub(super) first: Day,
    /// The last of them that the part covers. Days after it are covered by none.
    pub(super) covered: Day,
    pub(super) last: Day,
}

impl PartDays {
    /// The last day on which something that goes over has a row: what lives until the end of what is
    /// covered may have one of the next day, where that ends at midnight.
    pub(super) fn seam(&self) -> Day {
        self.covered.next().unwrap_or(self.covered).min(self.last)
    }
}

impl Parts {
    pub(super) fn of(hosts: HashMap<Text, Vec<PartDays>>) -> Self {
        let mut ends: BTreeMap<Day, HashMap<Text, PartDays>> = BTreeMap::new();
        for (host, days) in &hosts {
            for of in days.iter().take(days.len().saturating_sub(1)) {
                ends.entry(of.covered).or_default().insert(host.clone(), *of);
            }
        }
        Self { hosts, ends }
    }

    /// Whether a row of a part counts.
    pub(super) fn counts(&self, part: usize, host: &str, day: Day) -> bool {
        self.hosts.get(host).is_none_or(|days| part_of(days, day).is_none_or(|of| of == part))
    }

    /// The days that parts end with from which hosts go over to another: by the last that is covered.
    pub(super) fn ends(&self) -> &BTreeMap<Day, HashMap<Text, PartDays>> {
        &self.ends
    }

    /// The days of a host with which this one is, if it goes over to another part after them.
    pub(super) fn before_going_over(&self, host: &str, day: Day) -> Option<&PartDays> {
        let days = self.hosts.get(host)?;
        let (_, but_last) = days.split_last()?;
        but_last.get(days.partition_point(|of| of.last < day))
    }

    /// The parts that a host goes over to after a day, each with its first day.
    pub(super) fn later(&self, host: &str, day: Day) -> impl Iterator<Item = (Day, usize)> {
        let days = self.hosts.get(host).into_iter().flatten();
        days.filter(move |of| of.first > day).map(|of| (of.first, of.part))
    }

    /// Whether no host goes over from one part to another from one day to the day after another, and
    /// this part is that of all that have one.
    pub(super) fn are_only(&self, part: usize, first: Day, last: Day) -> bool {
        let until = last.next().unwrap_or(last);
        let others = |of: &&PartDays| of.part != part && of.first <= until && first <= of.last;
        !self.hosts.values().flatten().any(|of| others(&of))
    }

    /// Whether any row of a part counts, for this host.
    pub(super) fn has(&self, part: usize, host: &str) -> bool {
        self.hosts.get(host).is_none_or(|days| days.iter().any(|of| of.part == part))
    }

    /// Whether a part counts again for no host after another part counted.
    pub(super) fn is_never_resumed(&self, part: usize) -> bool {
        self.hosts.values().all(|days| days.iter().skip(1).all(|of| of.part != part))
    }

    /// The first day of which rows of a part do not count, of hosts of which some do; none if all do.
    pub(super) fn first_without(&self, part: usize) -> Option<Day> {
        let first = |days: &Vec<PartDays>| {
            let has = days.iter().any(|of| of.part == part);
            days.iter().find(|of| has && of.part != part).map(|of| of.first)
        };
        // Before the first of these days it is the first part that counts.
        self.hosts.values().filter_map(first).min()
    }

    /// How many hosts have several.
    pub(super) fn divided_hosts(&self) -> usize {
        self.hosts.values().filter(|days| days.len() > 1).count()
    }
}

/// The part that has a day. What is outside of all coverage is of the part beside it.
pub(super) fn part_of(days: &[PartDays], day: Day) -> Option<usize> {
    let at = days.partition_point(|of| of.last < day).min(days.len().saturating_sub(1));
    days.get(at).map(|of| of.part)
}

/// What each part covers of one host.
#[derive(Debug, Default)]
pub(super) struct Covered(BTreeMap<usize, BTreeMap<Day, Micros>>);

impl Covered {
    /// Adds a row of a day.
    pub(super) fn add(&mut self, part: usize, day: Day, row: &CoverageRow) {
        let long = row.until.saturating_sub(row.since).max(0);
        let covered = match row.what.as_str() {
            // A moment counts, too.
            CoverageRow::SPAN => long.saturating_add(1),
            CoverageRow::GAP => -long,
            _ => 0,
        };
        let of_day = self.0.entry(part).or_default().entry(day).or_default();
        *of_day = of_day.saturating_add(covered);
    }

    /// The days of each part that counts.
    pub(super) fn choose(&self) -> Vec<PartDays> {
        let (numbers, parts): (Vec<usize>, Vec<&BTreeMap<Day, Micros>>) =
            self.0.iter().map(|(number, days)| (*number, days)).unzip();
        let mut days = choose(&parts);
        for of in &mut days {
            let last = parts[of.part].last_key_value().map(|(last, _)| *last);
            of.covered = last.map_or(of.last, |last| last.min(of.last));
            of.part = numbers[of.part];
        }
        days
    }
}

/// Chooses a part for each day from the first to the last that any has: of those that are there, the
/// one that covers most of the day; of equals the one that goes on longest, covers most, comes first.
fn choose(parts: &[&BTreeMap<Day, Micros>]) -> Vec<PartDays> {
    let mut chosen: Vec<PartDays> = Vec::new();
    let whole: Vec<_> = parts
        .iter()
        .map(|days| {
            let (first, _) = days.first_key_value()?;
            let (last, _) = days.last_key_value()?;
            let all = days.values().fold(0_i64, |all, of_day| all.saturating_add(*of_day));
            Some((*first, *last, all))
        })
        .collect();
    // Only where a part begins, ends or has rows can another be chosen than for the day before.
    let mut changes: Vec<Day> = parts.iter().flat_map(|days| days.keys().copied()).collect();
    changes.extend(whole.iter().flatten().filter_map(|(_, last, _)| last.next()));
    changes.extend(parts.iter().flat_map(|days| days.keys().filter_map(|day| day.next())));
    changes.sort_unstable();
    changes.dedup();
    for day in changes {
        let best = (0..parts.len())
            .filter_map(|part| {
                let (first, last, all) = whole[part]?;
                let is_there = first <= day && day <= last;
                let of_day = parts[part].get(&day).copied().unwrap_or(0);
                is_there.then_some((of_day, last, all, std::cmp::Reverse(part)))
            })
            .max();
        match (best, chosen.last_mut()) {
            (None, Some(of)) => of.last = of.last.max(day.previous().unwrap_or(day)),
            (None, None) => {}
            (Some((.., std::cmp::Reverse(part))), Some(of)) if of.part == part => of.last = day,
            (Some((.., std::cmp::Reverse(part))), before) => {
                if let Some(before) = before {
                    before.last = before.last.max(day.previous().unwrap_or(day));
                }
                chosen.push(PartDays { part, first: day, covered: day, last: day });
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(number: u32) -> Day {
        format!("2026-11-{:02}", number + 1).parse().unwrap()
    }

    fn part(days: &[(u32, Micros)]) -> BTreeMap<Day, Micros> {
        days.iter().map(|(number, covered)| (day(*number), *covered)).collect()
    }

    fn chosen(parts: &[BTreeMap<Day, Micros>]) -> Vec<(usize, Day, Day)> {
        let parts: Vec<_> = parts.iter().collect();
        choose(&parts).iter().map(|of| (of.part, of.first, of.last)).collect()
    }

    #[test]
    fn the_fuller_part_of_a_day_counts() {
        let early = part(&[(0, 9), (1, 9), (2, 4)]);
        let late = part(&[(2, 9), (3, 9)]);
        assert_eq!(chosen(&[early.clone(), late.clone()]), [(0, day(0), day(1)), (1, day(2), day(3))]);
        // The same, read again later: all of it is of the longer one.
        let again = part(&[(0, 9), (1, 9), (2, 9), (3, 2)]);
        assert_eq!(chosen(&[early, again.clone()]), [(1, day(0), day(3))]);
        // Days without any rows are of the part that is there, or of the one before.
        assert_eq!(chosen(&[part(&[(0, 1), (5, 1)])]), [(0, day(0), day(5))]);
        assert_eq!(chosen(&[part(&[(0, 1)]), part(&[(5, 1)])]), [(0, day(0), day(4)), (1, day(5), day(5))]);
    }

    proptest! {
        #[test]
        fn each_day_has_one_part(
            parts in proptest::collection::vec(
                proptest::collection::btree_map(0..20_u32, 0..5_i64, 0..8), 1..4),
        ) {
            let parts: Vec<_> =
                parts.iter().map(|days| part(&days.iter().map(|(a, b)| (*a, *b)).collect::<Vec<_>>())).collect();
            let days = choose(&parts.iter().collect::<Vec<_>>());
            for (of, next) in days.iter().zip(days.iter().skip(1)) {
                prop_assert!(of.first <= of.last && of.last.next() == Some(next.first), "{days:?}");
            }
            let several = Parts::of(HashMap::from([("h".into(), days)]));
            for number in 0..20 {
                let covered = |part: &BTreeMap<Day, Micros>| part.get(&day(number)).copied();
                let most = parts.iter().filter_map(covered).max();
                let counting: Vec<usize> =
                    (0..parts.len()).filter(|of| several.counts(*of, "h", day(number))).collect();
                if let Some(most) = most.filter(|most| *most > 0) {
                    prop_assert_eq!(counting.len(), 1);
                    prop_assert_eq!(covered(&parts[counting[0]]), Some(most));
                }
            }
        }
    }
}
