//! `coverage`: the times of which each host's records are there, cut at midnight.

use std::cmp::Ordering;

use arrow_schema::FieldRef;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use taptrail_trail::{Coverage, Span};

use super::columns::{Micros, int, maybe_int, maybe_time, micros, text, time, timestamp};
use crate::{Day, Row, Table, Text};

/// A span, a gap or a start of a [`Coverage`], or the part of it that lies on one day.
///
/// A part that goes on until midnight has the next day's first moment as its end, and the part of
/// the next day begins there: `until` of one is `since` of the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageRow {
    /// The host.
    pub host: Text,
    /// [`SPAN`](Self::SPAN), [`GAP`](Self::GAP) or [`START`](Self::START).
    pub what: Text,
    /// Its first moment.
    pub since: Micros,
    /// Its last moment.
    pub until: Micros,
    /// Records of guests and their network devices within it; 0 for a gap and a start.
    pub records: i64,
    /// The serial number of the first line within it, where the input has serial numbers.
    pub first_serial: Option<i64>,
    /// The serial number of its last line.
    pub last_serial: Option<i64>,
    /// When the host wrote it, by the host's own clock, where it is the host that archives.
    pub written: Option<Micros>,
}

/// What the logs within a span show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpanLogs {
    /// Records of guests and their network devices.
    pub records: i64,
    /// The serial number with which the span begins, if its log has all of the kernel's.
    pub first_serial: Option<u32>,
    /// The serial number with which it ends.
    pub last_serial: Option<u32>,
}

impl CoverageRow {
    /// The inputs cover this time.
    pub const SPAN: &'static str = "span";
    /// Records of this time may be missing.
    pub const GAP: &'static str = "gap";
    /// No device was held at this time without a record.
    pub const START: &'static str = "start";

    /// The rows of a host's coverage, with the day of each.
    pub fn all_of(coverage: &Coverage) -> Vec<(Day, Self)> {
        Self::all_with(coverage, |_| SpanLogs::default())
    }

    /// The same, with what the logs of each span show: its first row has the records and the serial
    /// number with which it begins, its last row the one with which it ends.
    pub fn all_with(coverage: &Coverage, logs: impl Fn(&Span) -> SpanLogs) -> Vec<(Day, Self)> {
        let mut rows = Vec::new();
        for span in &coverage.spans {
            let SpanLogs { records, first_serial, last_serial } = logs(span);
            let begin = rows.len();
            rows.extend(Self::parts(coverage, Self::SPAN, span));
            if let [(_, first), ..] = &mut rows[begin..] {
                (first.records, first.first_serial) = (records, first_serial.map(i64::from));
            }
            if let [.., (_, last)] = &mut rows[begin..] {
                last.last_serial = last_serial.map(i64::from);
            }
        }
        rows.extend(coverage.gaps.iter().flat_map(|gap| Self::parts(coverage, Self::GAP, gap)));
        for start in &coverage.starts {
            let moment = Span { from: *start, until: *start };
            rows.push((Day::of(*start), Self::of(coverage, Self::START, moment)));
        }
        rows
    }

    /// The rows of a host's coverage, not cut at midnight.
    pub(crate) fn uncut(coverage: &Coverage) -> Vec<Self> {
        let spans = coverage.spans.iter().map(|span| Self::of(coverage, Self::SPAN, *span));
        let gaps = coverage.gaps.iter().map(|gap| Self::of(coverage, Self::GAP, *gap));
        let starts = coverage.starts.iter().map(|start| Span { from: *start, until: *start });
        spans.chain(gaps).chain(starts.map(|start| Self::of(coverage, Self::START, start))).collect()
    }

    /// The rows of a range, which is cut at each midnight.
    fn parts(coverage: &Coverage, what: &str, range: &Span) -> impl Iterator<Item = (Day, Self)> {
        by_day(*range).map(move |(day, part)| (day, Self::of(coverage, what, part)))
    }

    fn of(coverage: &Coverage, what: &str, part: Span) -> Self {
        Self {
            host: Text::from(&*coverage.host),
            what: what.into(),
            since: micros(part.from),
            until: micros(part.until),
            records: 0,
            first_serial: None,
            last_serial: None,
            written: None,
        }
    }

    /// Its first and its last day; none if a value is out of range.
    pub(crate) fn days(&self) -> Option<(Day, Day)> {
        Some((Day::of(timestamp(self.since)?), Day::of(timestamp(self.until)?)))
    }

    /// The parts of a row that is not cut at midnight, each with its first day: one of all the days
    /// before this day and before the last one, and one for each day after. None if a value is out of
    /// range.
    pub(crate) fn by_day_from(self, day: Day) -> Option<impl Iterator<Item = (Day, Self)>> {
        let (from, until) = (timestamp(self.since)?, timestamp(self.until)?);
        let is_range = [Self::SPAN, Self::GAP].contains(&&*self.what);
        // One that is of one moment is not cut.
        let until = if is_range { until.max(from) } else { from };
        let cut = day.min(Day::of(until)).start().max(from);
        let before = (from < cut).then_some((Day::of(from), Span { from, until: cut }));
        let part = move |(day, part): (Day, Span)| {
            (day, Self { since: micros(part.from), until: micros(part.until), ..self.clone() })
        };
        Some(before.into_iter().chain(by_day(Span { from: cut, until })).map(part))
    }

    /// The coverage of each host, by name, from rows of any days in any order; none if a value is
    /// out of range. What continues over midnight is one range again.
    pub fn coverage(mut rows: Vec<Self>) -> Option<Vec<Coverage>> {
        rows.sort_by(Self::order);
        let mut all: Vec<Coverage> = Vec::new();
        for row in rows {
            if all.last().is_none_or(|last| *last.host != *row.host) {
                let host = row.host.as_str().into();
                all.push(Coverage { host, spans: Vec::new(), gaps: Vec::new(), starts: Vec::new() });
            }
            row.continue_with(all.last_mut()?)?;
        }
        Some(all)
    }

    /// Adds it to its host's coverage, the rows of which come in their order; none if a value is out
    /// of range.
    pub(crate) fn continue_with(&self, of_host: &mut Coverage) -> Option<()> {
        let part = Span { from: timestamp(self.since)?, until: timestamp(self.until)? };
        match self.what.as_str() {
            Self::SPAN => add(&mut of_host.spans, part),
            Self::GAP => add(&mut of_host.gaps, part),
            Self::START => of_host.starts.push(part.from),
            // A later version's: what it means is not known here.
            _ => {}
        }
        Some(())
    }
}

/// The parts of a range that lie on each day.
fn by_day(range: Span) -> impl Iterator<Item = (Day, Span)> {
    let mut rest = Some(range.from);
    std::iter::from_fn(move || {
        let from = rest.take()?;
        let day = Day::of(from);
        let goes_on = from < range.until && day < Day::of(range.until);
        let until = if goes_on { day.end() } else { range.until };
        rest = goes_on.then_some(until);
        Some((day, Span { from, until }))
    })
}

/// Adds a range, or continues the last one if it was cut at midnight.
fn add(ranges: &mut Vec<Span>, part: Span) {
    let is_midnight = |time: Timestamp| Day::of(time).start() == time;
    match ranges.last_mut() {
        Some(last) if last.until == part.from && is_midnight(part.from) => last.until = part.until,
        _ => ranges.push(part),
    }
}

impl Row for CoverageRow {
    const TABLE: Table = Table::Coverage;

    fn columns() -> Vec<FieldRef> {
        vec![
            text("host"),
            text("what"),
            time("since"),
            time("until"),
            int("records"),
            maybe_int("first_serial"),
            maybe_int("last_serial"),
            maybe_time("written"),
        ]
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn order(&self, other: &Self) -> Ordering {
        let key =
            |row: &Self| (row.since, row.until, row.records, row.first_serial, row.last_serial, row.written);
        self.host
            .cmp(&other.host)
            .then_with(|| self.since.cmp(&other.since))
            .then_with(|| self.what.cmp(&other.what))
            .then_with(|| key(self).cmp(&key(other)))
    }
}
