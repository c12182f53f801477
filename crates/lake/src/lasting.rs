//! What lives from day to day: holdings and runs.

use jiff::Timestamp;
use taptrail_trail::{Certainty, Doubt, RunState, Span, State};

use crate::slice::MAX_DAYS;
use crate::tables::columns::{micros, timestamp};
use crate::{Day, HeldRow, Micros, PossibleRow, ProofRow, Row, RunRow, Test, Text};

/// A row of what has a row for each day on which it lived.
pub(crate) trait Lasting: Row + Clone + PartialEq {
    /// Whether it is the last row.
    fn is_last(&self) -> bool;

    /// Whether no end of it is known.
    fn is_open(&self) -> bool;

    /// Its key, which is the same on all its days.
    fn key_text(&self) -> String;

    /// What happened to it from this time on is not known.
    fn make_uncertain(&mut self, since: Timestamp);

    /// Which last rows may be of something that went on.
    fn may_go_on() -> Vec<Test>;

    /// Its first day; none if it is not known.
    fn first_day(&self) -> Option<Day>;

    /// The times in which it certainly or possibly was, as the last row has them; none if a value
    /// is out of range.
    fn times(&self) -> Option<Vec<Span>>;

    /// Whether it may have been on a day that it has no row of. It is asked of the last row, which
    /// is of this day. `kept`: the first day of which the lake has rows; earlier ones may have gone.
    fn may_be_elsewhere(&self, last: Day, kept: Day) -> bool {
        let (Some(first), Some(times)) = (self.first_day(), self.times()) else { return true };
        let first = first.max(kept);
        // Of very long ones, days are left out.
        first.days_until(last) >= MAX_DAYS
            || times.iter().any(|time| time.from < first.start() || time.until > last.end())
    }
}

/// The day of the earliest of these times.
fn first_day(begun: Option<Micros>, proof: &[ProofRow]) -> Option<Day> {
    let shown = || proof.iter().map(|proof| proof.event().0).min();
    begun.or_else(shown).and_then(timestamp).map(Day::of)
}

/// Sets the columns of what is not known from this time on. Returns the time.
fn make_uncertain(column: &mut Option<Micros>, certainty: &mut Text, since: Timestamp) -> Micros {
    let since = micros(since);
    *column = Some(column.map_or(since, |known| known.min(since)));
    *certainty = Certainty::Incomplete.as_str().into();
    since
}

impl Lasting for HeldRow {
    fn is_last(&self) -> bool {
        self.last
    }

    fn is_open(&self) -> bool {
        let is = |state: State| self.state == state.as_str();
        let may_go_on = || self.possibly_held.iter().any(|possibly| possibly.until.is_none());
        is(State::Held) || is(State::Opening) || !is(State::Released) && may_go_on()
    }

    fn key_text(&self) -> String {
        format!("{:?}", self.key())
    }

    fn make_uncertain(&mut self, since: Timestamp) {
        let since = make_uncertain(&mut self.uncertain_since, &mut self.certainty, since);
        self.possibly_held.push(PossibleRow {
            from: Some(since),
            until: None,
            why: Doubt::RecordsLost.as_str().into(),
        });
    }

    fn may_go_on() -> Vec<Test> {
        let state = |state: State| Test::Is("state", state.as_str().to_owned());
        vec![
            Test::Some("end_doubt"),
            Test::Some("last_seen"),
            Test::Some("uncertain_since"),
            state(State::Held),
            state(State::NeverGranted),
            state(State::Opening),
            state(State::Unknown),
        ]
    }

    fn first_day(&self) -> Option<Day> {
        first_day(self.opened.or(self.granted), &self.proof)
    }

    fn times(&self) -> Option<Vec<Span>> {
        let holding = self.clone().holding()?;
        let certainly = holding.certainly_held().map(|(from, until)| Span { from, until });
        let possibly = holding.possibly_held.iter().map(|possibly| Span {
            from: possibly.from.unwrap_or(Timestamp::MIN),
            until: possibly.until.unwrap_or(Timestamp::MAX),
        });
        Some(certainly.into_iter().chain(possibly).collect())
    }
}

impl Lasting for RunRow {
    fn is_last(&self) -> bool {
        self.last
    }

    fn is_open(&self) -> bool {
        self.state == RunState::Running.as_str()
    }

    fn key_text(&self) -> String {
        format!("{:?}", self.key())
    }

    fn make_uncertain(&mut self, since: Timestamp) {
        make_uncertain(&mut self.uncertain_since, &mut self.certainty, since);
    }

    fn may_go_on() -> Vec<Test> {
        vec![Test::None("ended")]
    }

    fn first_day(&self) -> Option<Day> {
        first_day(self.started, &self.proof)
    }

    fn times(&self) -> Option<Vec<Span>> {
        let from = self.started.map_or(Some(Timestamp::MIN), timestamp)?;
        let until = self.ended.map_or(Some(Timestamp::MAX), timestamp)?;
        Some(vec![Span { from, until: until.max(from) }])
    }
}
