//! The last rows of holdings and runs, which have all that is known of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::Span;

use super::parts::PartDays;
use super::pieces::{GENERATION, Of, Piece};
use super::{LakeReader, Question, When};
use crate::lasting::Lasting;
use crate::{Conditions, Day, LakeError, ObjectEntry, Row, Test};

/// Holdings or runs that go on after a day up to which they are followed.
const MAX_FOLLOWED: usize = 256;

/// Rows up to which they are kept until it is clear that all can be followed.
const MAX_KEPT: usize = 16 * 1024;

/// Hosts that are named to an object, which compares each row with all of them.
const MAX_NAMED: usize = 16;

/// Days of a generation that are read at most to find what a batch has in its place.
const MAX_SUPERSEDED: usize = 62;

/// Rows, each with the path of its object.
type Located<R> = Vec<(Arc<str>, R)>;

/// What goes over from one part of its host to the next.
struct Crossing<R> {
    /// What no later part has, and is not certain from then on.
    lost: Located<R>,
    /// All of it that is a last row.
    last: Vec<R>,
}

/// The summary's rows of holdings or runs.
struct Summary<'a, R> {
    objects: Vec<&'a ObjectEntry>,
    /// The first day of which the generation has rows.
    kept: Day,
    /// Last rows of the generation that do not count, in their order.
    superseded: Vec<R>,
}

impl LakeReader {
    /// Passes on the last row of each holding or run.
    pub(super) fn last_rows<R: Lasting, E: From<LakeError>>(
        &self,
        question: &Question,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        let conditions = self.conditions(question);
        let Crossing { lost, last } = self.crossing::<R>(&conditions)?;
        lost.into_iter().try_for_each(|(path, row)| take(&path, row))?;
        let since = match question.when {
            When::Any => None,
            // Few objects have rows of one subject: all are read, also for what had not ended.
            When::Since(_) if conditions.name_a_subject() => None,
            When::Since(since) => Some(since),
            When::At(at) => Some(at.from),
        };
        let last_rows = conditions.clone().and(vec![Test::Set("last")]);
        if let Some(since) = since
            && let Some(summary) = self.summary::<R>(last, &last_rows)?
        {
            match question.when {
                When::At(at) => {
                    if let Some(rows) = self.last_rows_at(&summary, &conditions, at)? {
                        return rows.into_iter().try_for_each(|(path, row)| take(&path, row));
                    }
                }
                _ => return self.last_rows_since(&summary, &last_rows, since, take),
            }
        }
        let days = self.days(R::TABLE, since, None);
        let pieces = if conditions.name_a_subject() {
            self.pieces(R::TABLE, days)
        } else {
            days.map(|day| Piece::Day(day, Of::All)).collect()
        };
        if let Some(since) = since {
            // A month has the rows of its earlier days, too: they are passed on once.
            let first = pieces.first().and_then(Piece::first_day);
            let day = Day::of(since);
            let day = first.map_or(day, |first| first.min(day));
            self.possibly_later(&last_rows, Of::All, day, take)?;
        }
        self.last_rows_of(&pieces, &last_rows, take)
    }

    /// Passes on rows that are the last ones and do not go over to another part.
    fn last_rows_of<R: Lasting, E: From<LakeError>>(
        &self,
        pieces: &[Piece<'_>],
        last_rows: &Conditions,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        self.of_pieces::<R, E>(pieces, last_rows, &mut |path, day, row| {
            if self.crosses(&row, day) { Ok(()) } else { take(path, row) }
        })
    }

    /// Whether a row of a day is of something that a later part of its host may have, too.
    fn crosses<R: Lasting>(&self, row: &R, day: Day) -> bool {
        self.parts.before_going_over(row.host(), day).is_some_and(|of| {
            // What is open where a part ends has no later row in it.
            let is_there = if row.is_last() { row.is_open() && of.covered <= day } else { day == of.seam() };
            is_there && day <= of.seam()
        })
    }

    /// What goes over from one part to the next, of all hosts.
    fn crossing<R: Lasting>(&self, conditions: &Conditions) -> Result<Crossing<R>, LakeError> {
        let mut crossing = Crossing { lost: Vec::new(), last: Vec::new() };
        for (covered, ends) in self.parts.ends() {
            let few = (ends.len() <= MAX_NAMED).then(|| of_hosts(ends.keys()));
            let conditions = few.into_iter().fold(conditions.clone(), Conditions::and);
            let parts: BTreeSet<usize> = ends.values().map(|of| of.part).collect();
            let until = ends.values().map(PartDays::seam).max().unwrap_or(*covered);
            let mut open: Vec<(Arc<str>, Day, R)> = Vec::new();
            for day in self.days_between(R::TABLE, *covered, until) {
                let ends_here = |part| parts.contains(&part);
                self.each_row(day, ends_here, &conditions, |part, path, row: R| {
                    let of_host = ends.get(row.host());
                    let ends_now = of_host.is_some_and(|of| of.part == part && day <= of.seam());
                    if ends_now && self.crosses(&row, day) {
                        open.push((Arc::clone(path), day, row));
                    }
                })?;
            }
            let continued = self.continued(&open)?;
            let last = open.iter().map(|(.., row)| row).filter(|row| row.is_last());
            crossing.last.extend(last.cloned());
            for (path, day, mut row) in open {
                if !continued.contains(&row.key_text()) {
                    row.make_uncertain(self.covered_until(row.host(), day));
                    crossing.lost.push((path, row));
                }
            }
        }
        Ok(crossing)
    }

    /// The summary of the generation, and which of its rows do not count: `crossing`, what goes over
    /// to another part, and what a batch has in its place. None if there is no summary, or it can't
    /// be known from few days.
    fn summary<R: Lasting>(
        &self,
        crossing: Vec<R>,
        last_rows: &Conditions,
    ) -> Result<Option<Summary<'_, R>>, LakeError> {
        let of_table = |of: &&ObjectEntry| of.table == R::TABLE;
        let objects: Vec<&ObjectEntry> = self.snapshot.summary().iter().filter(of_table).collect();
        if self.snapshot.summary().is_empty() || !self.parts.is_never_resumed(GENERATION) {
            return Ok(None);
        }
        let days = |since| {
            let of_table = self.days(R::TABLE, since, None);
            of_table.filter(|day| self.objects_of(R::TABLE, *day, Of::Generation).next().is_some())
        };
        let kept = days(None).next().unwrap_or_else(|| Day::of(Timestamp::MIN));
        let mut superseded = crossing;
        if let Some(first) = self.parts.first_without(GENERATION) {
            let days: Vec<Day> = days(Some(first.start())).take(MAX_SUPERSEDED + 1).collect();
            if days.len() > MAX_SUPERSEDED {
                return Ok(None);
            }
            for day in days {
                let is_generation = |part| part == GENERATION;
                self.each_row(day, is_generation, last_rows, |part, _, row: R| {
                    // The summary has no others.
                    if !self.parts.counts(part, row.host(), day) && row.may_be_elsewhere(day, kept) {
                        superseded.push(row);
                    }
                })?;
            }
        }
        superseded.sort_by(Row::order);
        Ok(Some(Summary { objects, kept, superseded }))
    }

    /// Passes on the rows of the summary that count.
    fn rows_of_summary<R: Lasting, E: From<LakeError>>(
        &self,
        summary: &Summary<'_, R>,
        conditions: &Conditions,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        for object in &summary.objects {
            let path = Arc::from(object.path.as_str());
            for row in self.open_object::<R>(object, conditions)? {
                let row = row?;
                let counts = self.parts.has(GENERATION, row.host())
                    && summary.superseded.binary_search_by(|of| of.order(&row)).is_err();
                if counts {
                    take(&path, row)?;
                }
            }
        }
        Ok(())
    }

    /// Passes on the last rows of what had not ended before a time: those that the summary has, those
    /// of the days since, and what batches have that may have gone on.
    fn last_rows_since<R: Lasting, E: From<LakeError>>(
        &self,
        summary: &Summary<'_, R>,
        last_rows: &Conditions,
        since: Timestamp,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        self.rows_of_summary(summary, last_rows, take)?;
        let days = |of: Of| self.days(R::TABLE, Some(since), None).map(move |day| Piece::Day(day, of));
        let compacted: Vec<_> = days(Of::Generation).collect();
        self.of_pieces::<R, E>(&compacted, last_rows, &mut |path, day, row| {
            // Others were found in the summary.
            let is_passed = self.crosses(&row, day) || row.may_be_elsewhere(day, summary.kept);
            if is_passed { Ok(()) } else { take(path, row) }
        })?;
        self.waiting_since(last_rows, since, take)
    }

    /// Passes on the last rows that batches have of what had not ended before a time.
    fn waiting_since<R: Lasting, E: From<LakeError>>(
        &self,
        last_rows: &Conditions,
        since: Timestamp,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.snapshot.batches.is_empty() {
            return Ok(());
        }
        self.possibly_later(last_rows, Of::Batches, Day::of(since), take)?;
        let days = self.days(R::TABLE, Some(since), None);
        let waiting: Vec<_> = days.map(|day| Piece::Day(day, Of::Batches)).collect();
        self.last_rows_of(&waiting, last_rows, take)
    }

    /// The last rows of what may have been at some moment of a time, by the summary: those that the
    /// summary has, those that lie on the days of that time, and of what goes on after these, those
    /// that are found by following it; and those of batches. None if there are too many rows.
    fn last_rows_at<R: Lasting>(
        &self,
        summary: &Summary<'_, R>,
        conditions: &Conditions,
        at: Span,
    ) -> Result<Option<Located<R>>, LakeError> {
        let mut found = Kept(Vec::new());
        let last_rows = conditions.clone().and(vec![Test::Set("last")]);
        let kept = self
            .rows_of_summary(summary, conditions, &mut |path, row| found.push(path, row))
            .and_then(|()| self.waiting_since(&last_rows, at.from, &mut |path, row| found.push(path, row)));
        match kept {
            Ok(()) => {}
            Err(TooMany::Rows) => return Ok(None),
            Err(TooMany::Failed(error)) => return Err(error),
        }
        let Kept(mut found) = found;
        let (mut goes_on, mut kept): (HashMap<String, usize>, usize) = (HashMap::new(), found.len());
        // Others were found in the summary, or go over to another part.
        let is_new = |day: Day, row: &R| !self.crosses(row, day) && !row.may_be_elsewhere(day, summary.kept);
        for day in self.days(R::TABLE, Some(at.from), Some(at.until)) {
            goes_on.clear();
            for (path, rows) in self.rows::<R>(day, Of::Generation, conditions)? {
                for row in rows {
                    let row = row?;
                    if !row.is_last() && !self.crosses(&row, day) {
                        *goes_on.entry(row.key_text()).or_default() += 1;
                    } else if row.is_last() && is_new(day, &row) {
                        found.push((Arc::clone(&path), row));
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
            for (path, rows) in self.rows::<R>(day, Of::Generation, conditions)? {
                for row in rows {
                    let row = row?;
                    if !goes_on.contains_key(&row.key_text()) {
                        continue;
                    }
                    if row.is_last() || self.crosses(&row, day) {
                        of_day.last.push((Arc::clone(&path), row));
                    } else {
                        of_day.goes_on += 1;
                    }
                }
            }
            Ok::<_, LakeError>(of_day)
        };
        let mut ends = Vec::new();
        if !follow(&later, all, all, &mut probe, &mut ends)? {
            return Ok(None);
        }
        found.extend(ends.into_iter().filter(|(day, (_, row))| is_new(*day, row)).map(|(_, of)| of));
        Ok(Some(found))
    }

    /// Passes on what ended before a day, and may have been held on it nevertheless.
    fn possibly_later<R: Lasting, E: From<LakeError>>(
        &self,
        last_rows: &Conditions,
        of: Of,
        day: Day,
        take: &mut impl FnMut(&Arc<str>, R) -> Result<(), E>,
    ) -> Result<(), E> {
        let conditions = last_rows.clone().and(R::may_go_on());
        let days = self.days(R::TABLE, None, None).take_while(|before| *before < day);
        let earlier: Vec<_> = days.map(|day| Piece::Day(day, of)).collect();
        self.last_rows_of(&earlier, &conditions, take)
    }

    /// The keys of those of some rows that a later part of their host has, too.
    fn continued<R: Lasting>(&self, open: &[(Arc<str>, Day, R)]) -> Result<HashSet<String>, LakeError> {
        let mut later: BTreeMap<(Day, usize), Vec<&R>> = BTreeMap::new();
        for (_, day, row) in open {
            self.parts.later(row.host(), *day).for_each(|part| later.entry(part).or_default().push(row));
        }
        let mut continued = HashSet::new();
        for ((day, part), rows) in later {
            let wanted: HashSet<String> = rows.iter().map(|row| row.key_text()).collect();
            let hosts: BTreeSet<&str> = rows.iter().map(|row| row.host()).collect();
            let few = (hosts.len() <= MAX_NAMED).then(|| of_hosts(hosts));
            let conditions = Conditions(few.into_iter().collect());
            self.each_row(
                day,
                |of| of == part,
                &conditions,
                |_, _, row: R| {
                    continued.extend(Some(row.key_text()).filter(|key| wanted.contains(key)));
                },
            )?;
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

/// Rows, not too many of them.
struct Kept<R>(Located<R>);

/// Why rows are not kept.
enum TooMany {
    /// There are too many.
    Rows,
    /// They can't be read.
    Failed(LakeError),
}

impl<R> Kept<R> {
    fn push(&mut self, path: &Arc<str>, row: R) -> Result<(), TooMany> {
        if self.0.len() >= MAX_KEPT {
            return Err(TooMany::Rows);
        }
        self.0.push((Arc::clone(path), row));
        Ok(())
    }
}

impl From<LakeError> for TooMany {
    fn from(error: LakeError) -> Self {
        Self::Failed(error)
    }
}

/// What rows of one of these hosts meet.
fn of_hosts<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>) -> Vec<Test> {
    hosts.into_iter().map(|host| Test::Is("host", host.as_ref().to_owned())).collect()
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
