//! Whose rows of a host and day count: each day those of one part.

use std::collections::{BTreeMap, HashMap};

use crate::{CoverageRow, Day, Micros, Text};

/// The part of each host and day.
#[derive(Debug)]
pub(super) enum Parts {
    /// There is only one.
    One,
    /// The days of each host, in their order.
    Several(HashMap<Text, Vec<PartDays>>),
}

/// Days of one host that are of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartDays {
    part: usize,
    first: Day,
    last: Day,
}

impl Parts {
    /// Whether a row of a part counts. What is outside of all coverage is of the part beside it.
    pub(super) fn counts(&self, part: usize, host: &str, day: Day) -> bool {
        let Self::Several(hosts) = self else { return true };
        let Some(days) = hosts.get(host) else { return true };
        let at = days.partition_point(|of| of.last < day).min(days.len().saturating_sub(1));
        days.get(at).is_none_or(|of| of.part == part)
    }

    /// The hosts that go over to another part after this day, with the first day of that.
    pub(super) fn ends(&self, day: Day) -> HashMap<&str, Day> {
        let Self::Several(hosts) = self else { return HashMap::new() };
        let next = |days: &[PartDays]| {
            days.iter().zip(days.iter().skip(1)).find(|(of, _)| of.last == day).map(|(_, next)| next.first)
        };
        hosts.iter().filter_map(|(host, days)| Some((host.as_str(), next(days)?))).collect()
    }

    /// Whether of each host the same part counts from one day to another, and on the day after.
    pub(super) fn are_only(&self, part: usize, first: Day, last: Day) -> bool {
        let Self::Several(hosts) = self else { return true };
        let is_only = |days: &Vec<PartDays>| {
            let at = |day: Day| days.partition_point(|of| of.last < day).min(days.len().saturating_sub(1));
            let until = last.next().unwrap_or(last);
            at(first) == at(until) && days.get(at(first)).is_none_or(|of| of.part == part)
        };
        hosts.values().all(is_only)
    }

    /// How many hosts have several.
    pub(super) fn divided_hosts(&self) -> usize {
        match self {
            Self::One => 0,
            Self::Several(hosts) => hosts.values().filter(|days| days.len() > 1).count(),
        }
    }
}

/// What each part covers of each host.
pub(super) struct Covered {
    parts: usize,
    hosts: HashMap<Text, Vec<BTreeMap<Day, Micros>>>,
}

impl Covered {
    pub(super) fn new(parts: usize) -> Self {
        Self { parts, hosts: HashMap::new() }
    }

    pub(super) fn add(&mut self, part: usize, day: Day, row: &CoverageRow) {
        if !self.hosts.contains_key(&row.host) {
            self.hosts.insert(row.host.clone(), vec![BTreeMap::new(); self.parts]);
        }
        let long = row.until.saturating_sub(row.since).max(0);
        let covered = match row.what.as_str() {
            // A moment counts, too.
            CoverageRow::SPAN => long.saturating_add(1),
            CoverageRow::GAP => -long,
            _ => 0,
        };
        if let Some(of_part) = self.hosts.get_mut(&row.host).and_then(|parts| parts.get_mut(part)) {
            let of_day = of_part.entry(day).or_default();
            *of_day = of_day.saturating_add(covered);
        }
    }

    pub(super) fn parts(self) -> Parts {
        Parts::Several(self.hosts.into_iter().map(|(host, parts)| (host, choose(&parts))).collect())
    }
}

/// Chooses a part for each day from the first to the last that any has: of those that are there, the
/// one that covers most of the day; of equals the one that goes on longest, covers most, comes first.
fn choose(parts: &[BTreeMap<Day, Micros>]) -> Vec<PartDays> {
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
                chosen.push(PartDays { part, first: day, last: day });
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
        choose(parts).iter().map(|of| (of.part, of.first, of.last)).collect()
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
            let days = choose(&parts);
            for (of, next) in days.iter().zip(days.iter().skip(1)) {
                prop_assert!(of.first <= of.last && of.last.next() == Some(next.first), "{days:?}");
            }
            let several = Parts::Several(HashMap::from([("h".into(), days)]));
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
