//! Cuts holdings and runs into days.
//!
//! The row of the last day is all that is known. Those of earlier days lack what came later: the
//! end, and the records that show it. Certainty is that of the whole.

use jiff::Timestamp;
use taptrail_trail::{GuestRun, Holding, Proof, RunState, State};

use crate::tables::columns::micros;
use crate::{Day, HeldRow, RunRow};

/// The rows of a holding, the earliest first. `end`: until when its host's records go on; a device
/// that is held lives until then.
pub fn held_rows(holding: &Holding, end: Timestamp) -> Vec<(Day, HeldRow)> {
    let first = holding.opened.or(holding.granted).or_else(|| first_proof(&holding.proof));
    // As far as records show, where nothing shows that it was held.
    let shown = || holding.released.or_else(|| holding.proof.last().map(|proof| proof.time));
    let last = match holding.state {
        State::Released => holding.released,
        State::Held => Some(end),
        // It may be held for as long as that can't be excluded.
        State::Opening | State::Unknown => {
            let until = holding.possibly_held.iter().map(|possibly| possibly.until.unwrap_or(end));
            until.max().max(shown())
        }
        State::NeverGranted | State::OpenFailed => {
            holding.possibly_held.iter().filter_map(|possibly| possibly.until).max().max(shown())
        }
    };
    let days = days(first, last, &holding.proof);
    cut(days, |first, last| HeldRow::of(holding, first, last), HeldRow::cut_at)
}

/// The rows of a run, as [`held_rows`].
pub fn run_rows(run: &GuestRun, end: Timestamp) -> Vec<(Day, RunRow)> {
    let first = run.started.or_else(|| first_proof(&run.proof));
    let last = match run.state {
        RunState::Running => Some(end),
        RunState::Ended => run.ended,
    };
    let days = days(first, last, &run.proof);
    cut(days, |first, last| RunRow::of(run, first, last), RunRow::cut_at)
}

/// The row of each day: `row` makes it, for the first and the last of the days, and `cut_at` removes
/// what came after the day.
fn cut<R>(days: Vec<Day>, row: impl Fn(bool, bool) -> R, cut_at: fn(&mut R, Day)) -> Vec<(Day, R)> {
    let all = days.len();
    let rows = days.into_iter().zip(1..).map(|(day, number)| {
        let mut row = row(number == 1, number == all);
        if number < all {
            cut_at(&mut row, day);
        }
        (day, row)
    });
    rows.collect()
}

fn first_proof(proof: &[Proof]) -> Option<Timestamp> {
    proof.iter().map(|proof| proof.time).min()
}

/// The days from a first to a last time. No record is older than the century: a log's times may be
/// invented.
fn days(first: Option<Timestamp>, last: Option<Timestamp>, proof: &[Proof]) -> Vec<Day> {
    let Some(first) = first.or(last) else { return Vec::new() };
    let shown = proof.iter().map(|proof| proof.time).max().unwrap_or(first);
    let last = last.unwrap_or(shown).max(first);
    let days = std::iter::successors(Some(Day::of(first)), |day| day.next());
    let mut all: Vec<Day> = days.take_while(|day| *day <= Day::of(last)).take(MAX_DAYS).collect();
    // However long it was, its last day has its end.
    if let Some(end) = all.last_mut() {
        *end = Day::of(last);
    }
    all
}

/// Days that one holding has rows of at most: what is written for a time that a log invents must not
/// fill the disk.
pub(crate) const MAX_DAYS: usize = 20 * 366;

impl HeldRow {
    /// Removes what came after a day.
    fn cut_at(&mut self, day: Day) {
        let end = micros(day.end());
        if self.state == State::Released.as_str() && self.released.is_some_and(|released| released >= end) {
            self.state = State::Held.as_str().into();
        }
        if self.granted.is_some_and(|granted| granted >= end) {
            self.granted = None;
            self.state = State::Opening.as_str().into();
        }
        (self.released, self.last_seen, self.ended_by, self.end_doubt) = (None, None, None, None);
        self.uncertain_since = self.uncertain_since.filter(|since| *since < end);
        self.possibly_held.retain(|possibly| possibly.from.is_none_or(|from| from < end));
        self.possibly_held
            .iter_mut()
            .for_each(|possibly| possibly.until = possibly.until.filter(|until| *until < end));
        self.proof.retain(|proof| proof.event().0 < end);
    }
}

impl RunRow {
    /// Removes what came after a day.
    fn cut_at(&mut self, day: Day) {
        let end = micros(day.end());
        self.state = RunState::Running.as_str().into();
        (self.ended, self.last_seen, self.ended_by, self.end_reason) = (None, None, None, None);
        (self.stopped_by, self.stopped_by_uid, self.stopped_by_auid) = (None, None, None);
        (self.stopped_by_ses, self.stopped_by_pid) = (None, None);
        (self.crashed, self.crash_signal) = (None, None);
        self.uncertain_since = self.uncertain_since.filter(|since| *since < end);
        self.proof.retain(|proof| proof.event().0 < end);
    }
}
