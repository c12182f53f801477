use jiff::Timestamp;
use jiff::tz::TimeZone;

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
}

/// Times of one table, in its zone.
#[derive(Debug)]
pub(crate) struct Clock(TimeZone);

impl Clock {
    pub(crate) fn new(style: &Style) -> Self {
        Self(if style.utc { TimeZone::UTC } else { TimeZone::system() })
    }

    /// Day and time, to the millisecond.
    pub(crate) fn full(&self, time: Timestamp) -> String {
        time.to_zoned_datetime(self.0.clone()).strftime("%F %T%.3f").to_string()
    }

    /// The same, if it is known.
    pub(crate) fn maybe(&self, time: Option<Timestamp>) -> String {
        time.map_or(crate::text::NONE.to_owned(), |time| self.full(time))
    }

    /// The same, without the day when that is `since`'s.
    pub(crate) fn after(&self, since: Option<Timestamp>, time: Option<Timestamp>) -> String {
        let Some(time) = time else { return crate::text::NONE.to_owned() };
        let Some(since) = since else { return self.full(time) };
        let (since, then) = (since.to_zoned_datetime(self.0.clone()), time.to_zoned_datetime(self.0.clone()));
        if since.date() == then.date() { then.strftime("%T%.3f").to_string() } else { self.full(time) }
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
