use std::sync::Arc;

use compact_str::CompactString;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use taptrail_trail::{Content, Credentials};

/// A parsed line, before its host and time are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParsedLine {
    pub(crate) when: LineTime,
    /// The kernel's serial number of the event.
    pub(crate) serial: Option<u32>,
    /// The host that the line names.
    pub(crate) host: Option<CompactString>,
    /// The pid that sent the record, as recorded by the kernel.
    pub(crate) writer: Option<u32>,
    /// The credentials of that process, likewise.
    pub(crate) credentials: Option<Credentials>,
    /// The program that wrote the line.
    pub(crate) program: LogProgram,
    /// Whether the line is not authenticated: in a text log any local user can write such lines.
    pub(crate) is_unauthenticated: bool,
    /// The host's boot id, if a journal names it.
    pub(crate) boot: Option<u128>,
    /// The host's machine id, if a journal names it.
    pub(crate) machine: Option<u128>,
    /// The line or lines that it was parsed from, if they are kept: see
    /// [`Entry::text`](taptrail_trail::Entry::text).
    pub(crate) text: Option<Arc<[u8]>>,
    pub(crate) content: Content,
}

/// Maximum size of a text that is kept, in bytes. A journal entry with all fields of a record has
/// about 20 kB.
pub(crate) const MAX_TEXT_BYTES: usize = 64 * 1024;

impl ParsedLine {
    /// Keeps the line that it was parsed from, unless it is too long.
    pub(crate) fn with_text(mut self, text: &[u8]) -> Self {
        self.text = (text.len() <= MAX_TEXT_BYTES).then(|| text.into());
        self
    }

    /// A line that names neither serial number, host, writer, boot nor machine.
    pub(crate) fn new(when: LineTime, program: LogProgram, content: Content) -> Self {
        Self {
            when,
            serial: None,
            host: None,
            writer: None,
            credentials: None,
            program,
            is_unauthenticated: false,
            boot: None,
            machine: None,
            text: None,
            content,
        }
    }
}

/// The program that wrote a line. One input may have each event once from each program, e.g. a
/// journal that has an audit record both from the kernel's audit and from the kernel's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LogProgram {
    /// auditd, or a program that prints its log.
    Auditd,
    /// A dispatcher of auditd, such as audisp-syslog.
    Dispatcher,
    /// journald, which receives audit records from the kernel itself.
    Journald,
    /// The kernel, in its own log.
    Kernel,
    /// A guest manager (libvirtd), in its own log.
    Manager,
}

/// The time that a line names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineTime {
    /// An exact time.
    Exact(Timestamp),
    /// Local time in the writer's zone, which is assumed to be the reader's.
    Civil(DateTime),
    /// The same, with a date like 08/05/2014, in which the month or the day may be first.
    Slashed { first: i8, second: i8, year: i16, time: Time },
    /// Local time without a year (which is 0 here).
    Yearless(DateTime),
    /// No time: that of the line before, if known.
    Unknown,
}

impl LineTime {
    /// Resolves the time, by the lines that `clock` has seen before.
    pub(crate) fn resolve(&self, clock: &mut Clock) -> Timestamp {
        let moment = match *self {
            Self::Exact(moment) => moment,
            Self::Civil(civil) => clock.moment(civil),
            Self::Slashed { first, second, year, time } => clock.slashed(first, second, year, time),
            Self::Yearless(civil) => clock.yearless(civil),
            Self::Unknown => return clock.last.unwrap_or(Timestamp::MIN),
        };
        clock.last = Some(moment);
        moment
    }
}

/// Resolves the times of one source's lines, line after line.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    zone: TimeZone,
    /// No line is later: the file's modification time plus a day, in case clocks differ.
    limit: Timestamp,
    /// Time of the line before.
    last: Option<Timestamp>,
    /// Whether 08/05 is the 8th of May; set once a line shows it.
    day_first: Option<bool>,
    /// Whether a year was inferred for a line.
    pub(crate) year_inferred: bool,
    /// Whether a date like 08/05 was read as August or as May without proof.
    pub(crate) date_guessed: bool,
}

/// Lines of several writers are slightly out of order: going back by less is no new year.
const YEAR_ROLLOVER_SLACK: SignedDuration = SignedDuration::from_hours(24);

/// In the hour that a clock repeats, going back by more begins the second round.
const FOLD_SLACK: SignedDuration = SignedDuration::from_mins(10);

/// Years between two leap days, at most (1896-1904).
const MAX_YEARS_BETWEEN_LEAP_DAYS: i16 = 8;

impl Clock {
    /// Local times are in `zone`; no line is later than `limit`.
    pub(crate) fn new(zone: TimeZone, limit: Timestamp) -> Self {
        Self { zone, limit, last: None, day_first: None, year_inferred: false, date_guessed: false }
    }

    /// Sets whether 08/05 is the 8th of May, as shown by another date of the source.
    pub(crate) fn set_day_first(&mut self, day_first: bool) {
        self.day_first = Some(day_first);
    }

    /// Sets a later limit, as time goes on.
    pub(crate) fn set_limit(&mut self, limit: Timestamp) {
        self.limit = limit;
    }

    /// The same clock, for lines of which none is later than `limit` either.
    pub(crate) fn limited_to(&self, limit: Timestamp) -> Self {
        Self { limit: limit.min(self.limit), ..self.clone() }
    }

    /// Resolves a local time. If a change of clocks skipped it, it is read as if the clocks had not
    /// changed; if they repeat it, it is the round that does not go back.
    fn moment(&self, civil: DateTime) -> Timestamp {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        if let AmbiguousOffset::Fold { .. } = ambiguous.offset()
            && let Some(last) = self.last
            && let (Ok(earlier), Ok(later)) = (ambiguous.earlier(), ambiguous.later())
        {
            let second_round =
                last.duration_since(earlier) > FOLD_SLACK && last.duration_since(later) <= FOLD_SLACK;
            return if second_round { later } else { earlier };
        }
        let beyond = if civil.year() < 1970 { Timestamp::MIN } else { Timestamp::MAX };
        ambiguous.compatible().unwrap_or(beyond)
    }

    /// Whether a line may have this time: not after the limit, and not before the previous line.
    fn fits(&self, moment: Timestamp) -> bool {
        moment <= self.limit
            && self.last.is_none_or(|last| last.duration_since(moment) <= YEAR_ROLLOVER_SLACK)
    }

    fn slashed(&mut self, first: i8, second: i8, year: i16, time: Time) -> Timestamp {
        let read = |day_first| {
            let (month, day) = if day_first { (second, first) } else { (first, second) };
            Date::new(year, month, day).ok().map(|date| self.moment(date.to_datetime(time)))
        };
        match (read(false), read(true)) {
            (Some(month_first), Some(day_first)) if first != second => {
                if let Some(known) = self.day_first {
                    return if known { day_first } else { month_first };
                }
                self.date_guessed = true;
                // ausearch writes the month first unless the locale differs.
                if !self.fits(month_first) && self.fits(day_first) { day_first } else { month_first }
            }
            (Some(moment), Some(_)) => moment,
            (Some(moment), None) => {
                self.day_first = Some(false);
                moment
            }
            (None, Some(moment)) => {
                self.day_first = Some(true);
                moment
            }
            // Unreachable: the parser has checked that one order is a date.
            (None, None) => self.last.unwrap_or(self.limit),
        }
    }

    /// Infers the year: the first in which the line is not before the previous one or, if that is
    /// after the limit or there is no previous line, the last year within the limit.
    fn yearless(&mut self, civil: DateTime) -> Timestamp {
        self.year_inferred = true;
        let in_year = |year: i16| {
            let date = Date::new(year, civil.month(), civil.day()).ok()?;
            Some(self.moment(date.to_datetime(civil.time()))).filter(|moment| *moment <= self.limit)
        };
        let year_of = |moment: Timestamp| self.zone.to_datetime(moment).year();
        if let Some(last) = self.last {
            let from = last.checked_sub(YEAR_ROLLOVER_SLACK).unwrap_or(last);
            let year = year_of(from);
            let next = (year..=year.saturating_add(MAX_YEARS_BETWEEN_LEAP_DAYS))
                .find_map(|year| in_year(year).filter(|t| *t >= from));
            if let Some(moment) = next {
                return moment;
            }
        }
        // A day beyond the limit can be in the next year of another zone.
        let year = year_of(self.limit);
        (year.saturating_sub(MAX_YEARS_BETWEEN_LEAP_DAYS)..=year)
            .rev()
            .find_map(in_year)
            .unwrap_or(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn yearless(clock: &mut Clock, text: &str) -> String {
        let civil: DateTime = format!("0000-{text}").parse().unwrap();
        LineTime::Yearless(civil).resolve(clock).to_string()
    }

    fn slashed(clock: &mut Clock, first: i8, second: i8) -> String {
        let when = LineTime::Slashed { first, second, year: 2026, time: Time::midnight() };
        when.resolve(clock).strftime("%F").to_string()
    }

    #[test]
    fn a_year_is_the_latest_that_does_not_pass_the_limit() {
        let mut clock = Clock::new(TimeZone::UTC, at("2026-03-02T00:00:00Z"));
        assert!(!clock.year_inferred);
        assert_eq!(yearless(&mut clock, "11-30T10:00:00"), "2025-11-30T10:00:00Z");
        assert!(clock.year_inferred);
        assert_eq!(yearless(&mut clock, "12-31T23:59:59"), "2025-12-31T23:59:59Z");
        assert_eq!(yearless(&mut clock, "01-01T00:00:01"), "2026-01-01T00:00:01Z");
        assert_eq!(yearless(&mut clock, "12-31T23:59:58"), "2025-12-31T23:59:58Z", "a late line");
        assert_eq!(yearless(&mut clock, "03-01T23:00:00"), "2026-03-01T23:00:00Z");
    }

    #[test]
    fn a_leap_day_finds_a_leap_year_and_leads_those_after_it() {
        let mut clock = Clock::new(TimeZone::UTC, at("2027-03-02T00:00:00Z"));
        assert_eq!(yearless(&mut clock, "02-29T10:00:00"), "2024-02-29T10:00:00Z");
        assert_eq!(yearless(&mut clock, "03-01T10:00:00"), "2024-03-01T10:00:00Z");
        assert_eq!(yearless(&mut clock, "02-01T10:00:00"), "2025-02-01T10:00:00Z");
        let mut clock = Clock::new(TimeZone::UTC, at("1903-01-01T00:00:00Z"));
        assert_eq!(yearless(&mut clock, "02-29T10:00:00"), "1896-02-29T10:00:00Z");
    }

    #[test]
    fn an_exact_line_before_leads_too() {
        let mut clock = Clock::new(TimeZone::UTC, at("2030-01-01T00:00:00Z"));
        LineTime::Exact(at("2014-08-05T00:00:00Z")).resolve(&mut clock);
        assert_eq!(yearless(&mut clock, "08-06T00:00:00"), "2014-08-06T00:00:00Z");
    }

    #[test]
    fn a_time_the_clocks_skip_or_repeat_is_a_moment_too() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let mut clock = Clock::new(zone, Timestamp::MAX);
        let mut civil = |text: &str| {
            LineTime::Civil(text.parse().unwrap()).resolve(&mut clock).strftime("%T").to_string()
        };
        assert_eq!(civil("2026-03-29T02:30:00"), "01:30:00");
        assert_eq!(civil("2026-10-25T02:10:00"), "00:10:00");
        assert_eq!(civil("2026-10-25T02:50:00"), "00:50:00");
        assert_eq!(civil("2026-10-25T02:49:59"), "00:49:59", "a late line");
        assert_eq!(civil("2026-10-25T02:10:00"), "01:10:00", "the second round");
        assert_eq!(civil("2026-10-25T02:20:00"), "01:20:00");
        assert_eq!(civil("2026-10-25T03:00:00"), "02:00:00");
    }

    #[test]
    fn slashes_mean_what_a_line_before_showed() {
        let mut clock = Clock::new(TimeZone::UTC, at("2026-12-31T00:00:00Z"));
        assert_eq!(slashed(&mut clock, 8, 5), "2026-08-05");
        assert!(clock.date_guessed);
        assert_eq!(slashed(&mut clock, 8, 20), "2026-08-20");
        assert_eq!(slashed(&mut clock, 9, 10), "2026-09-10");
        let mut clock = Clock::new(TimeZone::UTC, at("2026-12-31T00:00:00Z"));
        assert_eq!(slashed(&mut clock, 25, 11), "2026-11-25");
        assert_eq!(slashed(&mut clock, 1, 12), "2026-12-01");
        assert_eq!(slashed(&mut clock, 12, 12), "2026-12-12");
        assert!(!clock.date_guessed);
    }

    #[test]
    fn slashes_that_would_pass_the_limit_or_go_back_are_read_the_other_way() {
        let mut clock = Clock::new(TimeZone::UTC, at("2026-06-08T00:00:00Z"));
        assert_eq!(slashed(&mut clock, 7, 6), "2026-06-07");
        let mut clock = Clock::new(TimeZone::UTC, at("2026-12-08T00:00:00Z"));
        LineTime::Exact(at("2026-07-06T00:00:00Z")).resolve(&mut clock);
        assert_eq!(slashed(&mut clock, 6, 8), "2026-08-06");
    }

    #[test]
    fn times_at_the_ends_of_time_are_taken() {
        for limit in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            for zone in [TimeZone::UTC, TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()] {
                let mut clock = Clock::new(zone, limit);
                for when in [
                    LineTime::Yearless("0000-02-29T23:59:59".parse().unwrap()),
                    LineTime::Civil(DateTime::MAX),
                    LineTime::Yearless("0000-12-31T23:59:59".parse().unwrap()),
                    LineTime::Civil(DateTime::MIN),
                    LineTime::Slashed { first: 1, second: 2, year: 9999, time: Time::MAX },
                    LineTime::Slashed { first: 99, second: 99, year: 9999, time: Time::MAX },
                    LineTime::Exact(Timestamp::MAX),
                    LineTime::Yearless("0000-02-29T23:59:59".parse().unwrap()),
                    LineTime::Exact(Timestamp::MIN),
                    LineTime::Yearless("0000-01-01T00:00:00".parse().unwrap()),
                    LineTime::Slashed { first: 3, second: 4, year: -9999, time: Time::MIN },
                ] {
                    when.resolve(&mut clock);
                }
            }
        }
    }
}
