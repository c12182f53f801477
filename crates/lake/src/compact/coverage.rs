//! What several readings cover of one host, together.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_trail::{Coverage, Span};

use crate::{CoverageRow, Day, SpanLogs};

/// What one reading covers of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Covered {
    /// What it covers, the earliest first.
    pub(crate) spans: Vec<CoveredSpan>,
    /// The gaps within, the earliest first.
    pub(crate) gaps: Vec<Span>,
    /// When nothing was held without a record, the earliest first.
    pub(crate) starts: Vec<Timestamp>,
}

/// What several readings cover of one host, by their numbers. Readings that know nothing of it are
/// not among them: there may be one of each host of a large fleet.
pub(crate) type Readings = BTreeMap<usize, Covered>;

/// A time range that a reading covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CoveredSpan {
    pub(crate) span: Span,
    pub(crate) logs: SpanLogs,
}

/// The coverage of several readings together, and what lies between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) covered: Covered,
    /// The times between spans that do not continue each other: records may be missing.
    pub(crate) holes: Vec<Span>,
}

impl Covered {
    /// Its rows, with their days.
    pub(crate) fn rows(&self, host: &Arc<str>) -> Vec<(Day, CoverageRow)> {
        let spans = self.spans.iter().map(|of| of.span).collect();
        let coverage =
            Coverage { host: Arc::clone(host), spans, gaps: self.gaps.clone(), starts: self.starts.clone() };
        let logs = |span: &Span| self.spans.iter().find(|of| of.span == *span).map(|of| of.logs);
        CoverageRow::all_with(&coverage, |span| logs(span).unwrap_or_default())
    }

    /// Whether all of a range is covered without a gap.
    fn has(&self, range: Span) -> bool {
        let within = |of: &CoveredSpan| of.span.from <= range.from && range.until <= of.span.until;
        let touches = |gap: &Span| gap.from <= range.until && range.from <= gap.until;
        self.spans.iter().any(within) && !self.gaps.iter().any(touches)
    }

    /// Whether it knows all that another knows. Numbers of records show that only where both cover
    /// the same times: a longer log may have more records, and lack those of a ledger that the other
    /// was made of, too.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        let spans = self.spans.iter().map(|of| of.span).eq(other.spans.iter().map(|of| of.span));
        let gaps = self.gaps.iter().all(|gap| other.gaps.contains(gap));
        let records = |of: &Self| of.spans.iter().map(|of| of.logs.records).sum::<i64>();
        let starts = other.starts.iter().all(|start| self.starts.contains(start));
        spans && gaps && starts && records(self) >= records(other)
    }

    /// Whether a gap of this reading is none, because another reading covers it.
    pub(crate) fn fills(others: &Readings, own: usize, gap: Span) -> bool {
        others.iter().any(|(number, other)| *number != own && other.has(gap))
    }
}

/// Joins what readings cover.
pub(crate) fn join(readings: &Readings) -> Joined {
    let mut spans: Vec<CoveredSpan> = readings.values().flat_map(|of| of.spans.iter().copied()).collect();
    spans.sort_by_key(|of| of.span);
    let mut joined: Vec<CoveredSpan> = Vec::new();
    for next in spans {
        match joined.last_mut() {
            Some(last) if next.span.from <= last.span.until || continues(last, &next) => {
                if next.span.until > last.span.until {
                    last.span.until = next.span.until;
                    last.logs.last_serial = next.logs.last_serial;
                }
                last.logs.records = last.logs.records.max(next.logs.records);
            }
            _ => joined.push(next),
        }
    }
    let holes =
        joined.windows(2).map(|two| Span { from: two[0].span.until, until: two[1].span.from }).collect();
    let own_gaps = readings.iter().flat_map(|(own, of)| of.gaps.iter().map(|gap| (*own, *gap)));
    let mut gaps: Vec<Span> =
        own_gaps.filter(|(own, gap)| !Covered::fills(readings, *own, *gap)).map(|(_, gap)| gap).collect();
    gaps.sort_unstable();
    gaps.dedup();
    let mut starts: Vec<Timestamp> = readings.values().flat_map(|of| of.starts.iter().copied()).collect();
    starts.sort_unstable();
    starts.dedup();
    Joined { covered: Covered { spans: joined, gaps, starts }, holes }
}

/// Whether a span goes on where another ends: the kernel numbers events one by one, and a log may be
/// cut within an event.
fn continues(last: &CoveredSpan, next: &CoveredSpan) -> bool {
    let (Some(last), Some(next)) = (last.logs.last_serial, next.logs.first_serial) else { return false };
    last == next || last.checked_add(1) == Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn range(from: i64, until: i64) -> Span {
        Span { from: at(from), until: at(until) }
    }

    fn covered(spans: &[(i64, i64)], gaps: &[(i64, i64)]) -> Covered {
        let span = |(from, until): &(i64, i64)| {
            let serial = |second: i64| u32::try_from(second).ok();
            CoveredSpan {
                span: range(*from, *until),
                logs: SpanLogs { records: 1, first_serial: serial(*from), last_serial: serial(*until) },
            }
        };
        Covered {
            spans: spans.iter().map(span).collect(),
            gaps: gaps.iter().map(|(from, until)| range(*from, *until)).collect(),
            starts: Vec::new(),
        }
    }

    fn join<const N: usize>(readings: [Covered; N]) -> Joined {
        super::join(&readings.into_iter().enumerate().collect())
    }

    #[test]
    fn readings_that_overlap_or_continue_each_other_are_one() {
        let joined = join([covered(&[(10, 20)], &[]), covered(&[(15, 30)], &[]), covered(&[(31, 40)], &[])]);
        assert_eq!(joined.covered.spans.len(), 1);
        assert_eq!(joined.covered.spans[0].span, range(10, 40));
        assert!(joined.holes.is_empty());
        let joined = join([covered(&[(10, 20)], &[]), covered(&[(25, 30)], &[])]);
        assert_eq!(joined.holes, [range(20, 25)]);
    }

    #[test]
    fn a_gap_is_none_where_another_reading_has_the_time() {
        let gap = covered(&[(10, 40)], &[(20, 25)]);
        let joined = |other: Covered| join([gap.clone(), other]).covered.gaps;
        assert!(joined(covered(&[(15, 30)], &[])).is_empty());
        assert_eq!(joined(covered(&[(15, 22)], &[])), [range(20, 25)]);
        assert_eq!(joined(covered(&[(15, 30)], &[(24, 26)])).len(), 2);
    }

    #[test]
    fn a_reading_contains_another_of_the_same_times_alone() {
        let (long, short) = (covered(&[(10, 40)], &[(20, 25)]), covered(&[(10, 30)], &[(20, 25)]));
        assert!(long.contains(&long) && !short.contains(&long));
        assert!(!long.contains(&short), "the other may have records of another log");
        assert!(!long.contains(&covered(&[(10, 40)], &[])), "the other has what is missing here");
        let mut more = long.clone();
        more.spans[0].logs.records += 1;
        assert!(more.contains(&long) && !long.contains(&more));
    }
}
