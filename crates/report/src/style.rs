use compact_str::{CompactString, ToCompactString as _};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::span::QueryRange;
use crate::text::NONE;

/// Length of the date and the blank after it, in bytes.
const DATE_PREFIX_LEN: usize = "2026-11-23 ".len();

/// Length of the year and the hyphen after it, in bytes.
const YEAR_PREFIX_LEN: usize = "2026-".len();

/// Length of the milliseconds and the point before them, in bytes.
const MILLIS_SUFFIX_LEN: usize = ".000".len();

/// How a table looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal; the columns of a wider table are stacked. None: no limit.
    pub width: Option<u16>,
    /// Whether to colour, by ANSI escapes.
    pub color: bool,
    /// Whether times are in UTC, else in the system's zone.
    pub utc: bool,
    /// The filter's time: devices that were only possibly held then are marked.
    pub at: Option<QueryRange>,
}

/// Writes the times and numbers of sentences.
pub(crate) trait Clock {
    /// Date and time, to the millisecond.
    fn full(&self, time: Timestamp) -> CompactString;

    /// The same, without the date when that is `since`'s; `-` for none.
    fn after(&self, since: Option<Timestamp>, time: Option<Timestamp>) -> CompactString;

    /// As [`full`](Self::full); `-` for none.
    fn optional(&self, time: Option<Timestamp>) -> CompactString {
        time.map_or(NONE.into(), |time| self.full(time))
    }

    /// A process id.
    fn pid(&self, pid: u32) -> CompactString {
        pid.to_compact_string()
    }
}

/// Formats the times of one table, in its zone.
#[derive(Debug)]
pub(crate) struct TimeFormat(TimeZone);

impl Clock for TimeFormat {
    fn full(&self, time: Timestamp) -> CompactString {
        let (text, _) = self.format(time);
        text
    }

    fn after(&self, since: Option<Timestamp>, time: Option<Timestamp>) -> CompactString {
        let Some(time) = time else { return NONE.into() };
        let (mut text, day) = self.format(time);
        if since.is_some_and(|since| self.0.to_datetime(since).date() == day) {
            text.replace_range(..DATE_PREFIX_LEN, "");
        }
        text
    }
}

impl TimeFormat {
    pub(crate) fn new(style: &Style) -> Self {
        Self(if style.utc { TimeZone::UTC } else { TimeZone::system() })
    }

    /// Whether two times are of one day.
    pub(crate) fn is_one_day(&self, one: Timestamp, other: Timestamp) -> bool {
        self.0.to_datetime(one).date() == self.0.to_datetime(other).date()
    }

    /// The zone.
    pub(crate) fn zone(&self) -> &TimeZone {
        &self.0
    }

    /// The day of a time.
    pub(crate) fn date(&self, time: Timestamp) -> Date {
        self.0.to_datetime(time).date()
    }

    /// A day with the zone, as it stands above the times of that day.
    pub(crate) fn day(&self, day: Date) -> String {
        match day.at(12, 0, 0, 0).to_zoned_datetime(self.0.clone()) {
            Ok(noon) => noon.strftime("%Y-%m-%d %Z").to_string(),
            Err(_) => day.to_string(),
        }
    }

    /// The time of day, to the second; with month and day where it is not of this day, with the
    /// year where it is not of this year.
    pub(crate) fn short(&self, time: Timestamp, day: Option<Date>) -> CompactString {
        let (text, date) = self.format(time);
        let from = match day {
            Some(day) if day == date => DATE_PREFIX_LEN,
            Some(day) if day.year() == date.year() => YEAR_PREFIX_LEN,
            _ => 0,
        };
        text[from..text.len() - MILLIS_SUFFIX_LEN].into()
    }

    /// Date and time, to the second; `-` for none.
    pub(crate) fn optional_short(&self, time: Option<Timestamp>) -> CompactString {
        time.map_or(NONE.into(), |time| self.short(time, None))
    }

    /// The abbreviation of the zone at a time: `UTC`, `CET`.
    pub(crate) fn zone_abbreviation(&self, time: Timestamp) -> String {
        self.0.to_offset_info(time).abbreviation().to_owned()
    }

    /// Formats by hand: a large table has many times, and they are most of its cost.
    fn format(&self, time: Timestamp) -> (CompactString, Date) {
        let then = self.0.to_datetime(time);
        let mut text = *b"0000-00-00 00:00:00.000";
        let mut put = |at: std::ops::Range<usize>, value: i16| {
            let mut value = value.unsigned_abs();
            for place in text[at].iter_mut().rev() {
                *place += (value % 10).to_le_bytes()[0];
                value /= 10;
            }
        };
        put(0..4, then.year());
        put(5..7, then.month().into());
        put(8..10, then.day().into());
        put(11..13, then.hour().into());
        put(14..16, then.minute().into());
        put(17..19, then.second().into());
        put(20..23, then.millisecond());
        let text = std::str::from_utf8(&text).map_or(NONE.into(), CompactString::new);
        (text, then.date())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_shown_once() {
        let clock = TimeFormat::new(&Style { utc: true, ..Style::default() });
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let opened = time("2026-11-23T23:59:59.5Z");
        assert_eq!(clock.full(opened), "2026-11-23 23:59:59.500");
        assert_eq!(clock.after(Some(opened), Some(time("2026-11-23T23:59:59.501Z"))), "23:59:59.501");
        assert_eq!(clock.after(Some(opened), Some(time("2026-11-24T00:00:00Z"))), "2026-11-24 00:00:00.000");
        assert_eq!(clock.after(Some(opened), None), "-");
    }

    #[test]
    fn below_a_day_a_time_has_the_date_that_differs() {
        let clock = TimeFormat::new(&Style { utc: true, ..Style::default() });
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let date = clock.date(time("2026-11-23T12:00:00Z"));
        let day = Some(date);
        assert_eq!(clock.short(time("2026-11-23T23:59:59.9Z"), day), "23:59:59");
        assert_eq!(clock.short(time("2026-11-24T00:00:01Z"), day), "11-24 00:00:01");
        assert_eq!(clock.short(time("2027-01-01T00:00:01Z"), day), "2027-01-01 00:00:01");
        assert_eq!(clock.short(time("2026-11-23T12:00:00Z"), None), "2026-11-23 12:00:00");
        assert_eq!(clock.day(date), "2026-11-23 UTC");
    }
}
