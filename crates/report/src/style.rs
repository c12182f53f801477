use compact_str::CompactString;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::span::Span;
use crate::text::NONE;

/// How long the day and the blank after it are.
const DAY: usize = "2026-11-23 ".len();

/// How a table looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal; where a table needs more, its columns are stacked. None: as wide as
    /// needed.
    pub width: Option<u16>,
    /// Whether to colour, by ANSI escapes.
    pub color: bool,
    /// Times in UTC, else in the system's zone.
    pub utc: bool,
    /// The time that is asked for: what was held then only possibly is marked.
    pub at: Option<Span>,
}

/// Times of one table, in its zone.
#[derive(Debug)]
pub(crate) struct Clock(TimeZone);

impl Clock {
    pub(crate) fn new(style: &Style) -> Self {
        Self(if style.utc { TimeZone::UTC } else { TimeZone::system() })
    }

    /// Day and time, to the millisecond.
    pub(crate) fn full(&self, time: Timestamp) -> CompactString {
        let (text, _) = self.written(time);
        text
    }

    /// The same, if it is known.
    pub(crate) fn maybe(&self, time: Option<Timestamp>) -> CompactString {
        time.map_or(NONE.into(), |time| self.full(time))
    }

    /// The same, without the day when that is `since`'s.
    pub(crate) fn after(&self, since: Option<Timestamp>, time: Option<Timestamp>) -> CompactString {
        let Some(time) = time else { return NONE.into() };
        let (mut text, day) = self.written(time);
        if since.is_some_and(|since| self.0.to_datetime(since).date() == day) {
            text.replace_range(..DAY, "");
        }
        text
    }

    /// A large table has many times, and this is most of its cost: no general formatting.
    fn written(&self, time: Timestamp) -> (CompactString, Date) {
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
    fn a_day_is_told_once() {
        let clock = Clock::new(&Style { utc: true, ..Style::default() });
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let opened = time("2026-11-23T23:59:59.5Z");
        assert_eq!(clock.full(opened), "2026-11-23 23:59:59.500");
        assert_eq!(clock.after(Some(opened), Some(time("2026-11-23T23:59:59.501Z"))), "23:59:59.501");
        assert_eq!(clock.after(Some(opened), Some(time("2026-11-24T00:00:00Z"))), "2026-11-24 00:00:00.000");
        assert_eq!(clock.after(Some(opened), None), "-");
    }
}
