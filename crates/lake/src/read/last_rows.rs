//! The last rows of holdings and runs, which have all that is known of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::Span;

use super::pieces::Piece;
use super::{LakeReader, Question, When};
use crate::lasting::Lasting;
use crate::{Conditions, Day, LakeError, ObjectEntry, Test};

/// Holdings or runs that go on after a day up to which they are followed.
const MAX_FOLLOWED: usize = 256;

/// Rows up to which they are kept until it is clear that all can be followed.
const MAX_KEPT: usize = 16 * 1024;

/// Rows, each with the path of its object.
type Located<R> = Vec<(Arc<str>, R)>;

impl LakeReader {
    /// Passes on the last row of each holding or run.
    pub(super) fn last_rows<R: Lasting, E: From<LakeError>>(
        &self,
        question: &Question,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        let conditions = self.conditions(question);
        if let When::At(at) = question.when
            && let Some(rows) = self.last_rows_at::<R>(&conditions, at)?
        {
            return rows.into_iter().try_for_each(|(path, row)| take(&path, row));
        }
        let since = match question.when {
            When::Any => None,
            // Few objects have rows of one subject: all are read, also for what had not ended.
            When::Since(_) if conditions.name_a_subject() => None,
            When::Since(since) => Some(since),
            When::At(at) => Some(at.from),
        };
        let last_rows = conditions.clone().and(vec![Test::Set("last")]);
        if let (When::Since(_), Some(since), Some(summary)) = (question.when, since, self.summary()) {
            return self.last_rows_since(summary, &last_rows, since, take);
        }
        let days = self.days(R::TABLE, since, None);
        let pieces = if conditions.name_a_subject() {
            self.pieces(R::TABLE, days)
        } else {
            days.map(Piece::Day).collect()
        };
        if let Some(since) = since {
            // A month has the rows of its earlier days, too: they are passed on once.
            let first = pieces.first().and_then(Piece::first_day);
            let day = Day::of(since);
            self.possibly_later(&last_rows, first.map_or(day, |first| first.min(day)), take)?;
        }
        if self.parts.divided_hosts() == 0 {
            return self.of_pieces::<R, E>(&pieces, &last_rows, &mut |path, _, row| take(path, row));
        }
        for piece in &pieces {
            let Piece::Day(day) = *piece else {
                let take = &mut |path: &Arc<str>, _, row| take(path, row);
                self.of_pieces::<R, E>(std::slice::from_ref(piece), &last_rows, take)?;
                continue;
            };
            let ends = self.parts.ends(day);
            if ends.is_empty() {
                for (path, rows) in self.rows::<R>(day, &last_rows)? {
                    for row in rows {
                        take(&path, row?)?;
                    }
                }
                continue;
            }
            let mut open: Located<R> = Vec::new();
            for (path, rows) in self.rows::<R>(day, &conditions)? {
                for row in rows {
                    let row = row?;
                    let goes_over = ends.contains_key(row.host());
                    match row.is_last() {
                        true if goes_over && row.is_open() => open.push((Arc::clone(&path), row)),
                        true => take(&path, row)?,
                        false if goes_over => open.push((Arc::clone(&path), row)),
                        false => {}
                    }
                }
            }
            let continued = self.continued(&open, &ends)?;
            for (path, mut row) in open {
                if !continued.contains(&row.key_text()) {
                    row.make_uncertain(self.covered_until(row.host(), day));
                    take(&path, row)?;
                }
            }
        }
        Ok(())
    }

    /// Passes on the last rows of what had not ended before a time: those that the summary has, and
    /// those of the days since.
    fn last_rows_since<R: Lasting, E: From<LakeError>>(
        &self,
        summary: &[ObjectEntry],
        last_rows: &Conditions,
        since: Timestamp,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        for object in summary.iter().filter(|object| object.table == R::TABLE) {
            let path = Arc::from(object.path.as_str());
            for row in self.open_object::<R>(object, last_rows)? {
                take(&path, row?)?;
            }
        }
        let Some(first) = self.days(R::TABLE, None, None).next() else { return Ok(()) };
        let days: Vec<_> = self.days(R::TABLE, Some(since), None).map(Piece::Day).collect();
        self.of_pieces::<R, E>(&days, last_rows, &mut |path, day, row| {
            // Others were found in the summary.
            if row.may_be_elsewhere(day, first) { Ok(()) } else { take(path, row) }
        })
    }

    /// The last rows of what may have been at some moment of a time, by the summary: those that the
    /// summary has, those that lie on the days of that time, and of what goes on after these, those
    /// that are found by following it. None if there is no summary, or there are too many rows.
    fn last_rows_at<R: Lasting>(
        &self,
        conditions: &Conditions,
        at: Span,
    ) -> Result<Option<Located<R>>, LakeError> {
        let Some(summary) = self.summary() else { return Ok(None) };
        let mut found: Located<R> = Vec::new();
        for object in summary.iter().filter(|object| object.table == R::TABLE) {
            let path = Arc::from(object.path.as_str());
            for row in self.open_object::<R>(object, conditions)? {
                found.push((Arc::clone(&path), row?));
                if found.len() > MAX_KEPT {
                    return Ok(None);
                }
            }
        }
        let (mut goes_on, mut kept): (HashMap<String, usize>, usize) = (HashMap::new(), found.len());
        let Some(first) = self.days(R::TABLE, None, None).next() else { return Ok(Some(found)) };
        let mut found_on = |day: Day, path: &Arc<str>, row: R| {
            // Others were found in the summary.
            if !row.may_be_elsewhere(day, first) {
                found.push((Arc::clone(path), row));
            }
        };
        for day in self.days(R::TABLE, Some(at.from), Some(at.until)) {
            goes_on.clear();
            for (path, rows) in self.rows::<R>(day, conditions)? {
                for row in rows {
                    let row = row?;
                    if row.is_last() {
                        found_on(day, &path, row);
                    } else {
                        *goes_on.entry(row.key_text()).or_default() += 1;
                    }
                    kept += 1;
                    if kept > MAX_KEPT || goes_on.len() > MAX_FOLLOWED {
                        return Ok(None);
                    }
                }
            }
        }
        let later: Vec<Day> = Day::of(at.until)
            .next()
            .into_iter()
            .flat_map(|day| self.days(R::TABLE, Some(day.start()), None))
            .collect();
        let all = goes_on.values().sum();
        let mut probe = |day: Day| {
            let mut of_day = Probe { last: Vec::new(), goes_on: 0 };
            for (path, rows) in self.rows::<R>(day, conditions)? {
                for row in rows {
                    let row = row?;
                    match row.is_last() {
                        _ if !goes_on.contains_key(&row.key_text()) => {}
                        true => of_day.last.push((Arc::clone(&path), row)),
                        false => of_day.goes_on += 1,
                    }
                }
            }
            Ok(of_day)
        };
        let mut ends = Vec::new();
        if !follow(&later, all, all, &mut probe, &mut ends)? {
            return Ok(None);
        }
        ends.into_iter().for_each(|(day, (path, row))| found_on(day, &path, row));
        Ok(Some(found))
    }

    /// Passes on what ended before a day, and may have been held on it nevertheless.
    fn possibly_later<R: Lasting, E: From<LakeError>>(
        &self,
        last_rows: &Conditions,
        day: Day,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        let conditions = last_rows.clone().and(R::may_go_on());
        for before in self.days(R::TABLE, None, None).take_while(|before| *before < day) {
            let ends = self.parts.ends(before);
            for (path, rows) in self.rows::<R>(before, &conditions)? {
                for row in rows {
                    let mut row = row?;
                    if ends.contains_key(row.host()) && row.is_open() {
                        row.make_uncertain(self.covered_until(row.host(), before));
                    }
                    take(&path, row)?;
                }
            }
        }
        Ok(())
    }

    /// The keys of some rows that the next part of their host continues.
    fn continued<R: Lasting>(
        &self,
        open: &[(Arc<str>, R)],
        ends: &HashMap<&str, Day>,
    ) -> Result<HashSet<String>, LakeError> {
        let mut continued = HashSet::new();
        let next_days: BTreeSet<Day> =
            open.iter().filter_map(|(_, row)| ends.get(row.host())).copied().collect();
        for next in next_days {
            let on_day = |row: &R| ends.get(row.host()) == Some(&next);
            let wanted: HashSet<String> =
                open.iter().map(|(_, row)| row).filter(|row| on_day(row)).map(R::key_text).collect();
            let hosts: BTreeSet<&str> =
                open.iter().map(|(_, row)| row).filter(|row| on_day(row)).map(R::host).collect();
            let of_hosts = hosts.into_iter().map(|host| Test::Is("host", host.to_owned())).collect();
            for (_, rows) in self.rows::<R>(next, &Conditions(vec![of_hosts]))? {
                for row in rows {
                    let key = row?.key_text();
                    if wanted.contains(&key) {
                        continued.insert(key);
                    }
                }
            }
        }
        Ok(continued)
    }

    /// Until when a host's records of a day go on.
    fn covered_until(&self, host: &str, day: Day) -> Timestamp {
        let of_host = self.coverage.binary_search_by(|of| (*of.host).cmp(host)).ok();
        let spans = of_host.map_or(&[][..], |at| &self.coverage[at].spans[..]);
        let last = spans.iter().rev().find(|span| span.from < day.end());
        last.map_or(day.start(), |last| last.until.min(day.end()))
    }
}

/// What one day has of what is followed.
struct Probe<T> {
    /// The last rows.
    last: Vec<T>,
    /// How many rows are not the last one.
    goes_on: usize,
}

/// Finds the last rows of what lives from day to day, each without a gap: `ends` of them are on these
/// days. `alive`: how many of those that are followed were there before. Most end soon: the steps
/// from day to day are small at first. False if the rows do not add up.
fn follow<T, E>(
    days: &[Day],
    mut alive: usize,
    mut ends: usize,
    probe: &mut impl FnMut(Day) -> Result<Probe<T>, E>,
    found: &mut Vec<(Day, T)>,
) -> Result<bool, E> {
    let (mut rest, mut step) = (days, 1);
    while ends > 0 {
        let Some(at) = step.min(rest.len()).checked_sub(1) else { return Ok(false) };
        let Probe { last, goes_on } = probe(rest[at])?;
        let Some(between) = alive.checked_sub(last.len() + goes_on) else { return Ok(false) };
        if between > ends || !follow(&rest[..at], alive, between, probe, found)? {
            return Ok(false);
        }
        let Some(left) = ends.checked_sub(between + last.len()) else { return Ok(false) };
        (ends, alive) = (left, goes_on);
        found.extend(last.into_iter().map(|row| (rest[at], row)));
        (rest, step) = (&rest[at + 1..], step * 2);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_followed_ends_on_its_last_day(lives in proptest::collection::vec(0..400_usize, 0..12)) {
            // Each lives from before the first day to the day of its number.
            let begin: Day = "2026-01-01".parse().unwrap();
            let days: Vec<Day> = std::iter::successors(Some(begin), |day| day.next()).take(400).collect();
            let mut probes = 0;
            let mut probe = |day: Day| {
                probes += 1;
                let at = begin.days_until(day);
                let last = (0..lives.len()).filter(|of| lives[*of] == at).collect();
                Ok::<_, LakeError>(Probe { last, goes_on: lives.iter().filter(|end| **end > at).count() })
            };
            let mut found = Vec::new();
            prop_assert!(follow(&days, lives.len(), lives.len(), &mut probe, &mut found).unwrap());
            found.sort_by_key(|(_, of)| *of);
            let ends: Vec<usize> = found.iter().map(|(day, _)| begin.days_until(*day)).collect();
            prop_assert_eq!(&ends, &lives);
            prop_assert!(probes <= lives.len() * 60, "{probes} days were read");
        }
    }

    #[test]
    fn rows_that_do_not_add_up_are_not_followed() {
        let days: Vec<Day> = ["2026-01-01", "2026-01-02"].map(|day| day.parse().unwrap()).into();
        for (last, goes_on) in [(vec![], 0), (vec![1, 2, 3], 0), (vec![], 3), (vec![], 2)] {
            let mut probe = |_| Ok::<_, LakeError>(Probe { last: last.clone(), goes_on });
            assert!(!follow(&days, 2, 2, &mut probe, &mut Vec::new()).unwrap());
        }
    }
}
