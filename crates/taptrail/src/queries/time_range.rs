//! Times as people and ausearch write them.
//!
//! A text names a time range: a day, a minute, a second, or as described below. As `--start` it
//! means the beginning of the range, as `--end` its end, so that the range is included; as `--at`
//! it means all of it.
//!
//! A time of day that occurs twice, or never, because clocks are put back or forward, is refused:
//! the error names the possible moments.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp, ToSpan as _, ZonedDateTime};

/// What [`parse`] accepts, for help and errors.
pub(crate) const ACCEPTED: &str = "\
now, recent (10 minutes ago), today, yesterday, this-hour, this-week, week-ago, this-month, this-year, boot; \
2026-11-23, '2026-11-23 20:31:05', 2026-11-23T20:31:05Z, 11/23/2026, '11/23/2026 20:31:05', 20:31, 20:31:05; \
1795460022.944 (seconds since 1970), @1795460022; '2 hours ago', '90m ago'";

/// A time range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeRange {
    /// Its first moment.
    pub(crate) from: Timestamp,
    /// The first moment after it.
    pub(crate) to: Timestamp,
}

/// The text is not a valid time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TimeError {
    /// It has no known format.
    #[error("'{0}' is no time; one of these is needed: {ACCEPTED}")]
    Unknown(String),
    /// It has a known format, and no such time exists.
    #[error("'{0}' is not a valid time")]
    Impossible(String),
    /// It occurred twice, as clocks were put back.
    #[error("'{text}' was twice in zone {zone}: write {first} for the first, or {second}")]
    Repeated {
        /// As it was written.
        text: String,
        /// The zone that was assumed.
        zone: String,
        /// The time with the offset before the change.
        first: String,
        /// The time with the offset after the change.
        second: String,
    },
    /// It never occurred, as clocks were put forward.
    #[error(
        "'{text}' never was in zone {zone}, where clocks were put forward over it: write {first}, or {second}"
    )]
    Skipped {
        /// As it was written.
        text: String,
        /// The zone that was assumed.
        zone: String,
        /// The moment by the clock before the change, written with the offset after it.
        first: String,
        /// The moment by the clock after the change, written with the offset before it.
        second: String,
    },
    /// `boot`, where /proc/stat can't be read.
    #[error("The time of this system's boot can't be read")]
    Boot,
}

/// Parses a time. Without a zone it is in that of `now`; `boot` is when this system booted.
///
/// The range of a word begins as in ausearch (a week on Sunday) and ends with `now`; that of a day
/// ends at its midnight.
pub(crate) fn parse(
    text: &str,
    now: &ZonedDateTime,
    boot: Option<Timestamp>,
) -> Result<TimeRange, TimeError> {
    let text = text.trim();
    let impossible = |_| TimeError::Impossible(text.chars().take(64).collect());
    if text == "boot" {
        return boot.map(moment).ok_or(TimeError::Boot);
    }
    if let Some(found) = word(text, now) {
        return found.map_err(impossible);
    }
    if let Some(found) = epoch(text) {
        return found.map_err(impossible);
    }
    if let Some(found) = ago(text, now) {
        return found.map_err(impossible);
    }
    if let Some(found) = clock(text, now) {
        return found;
    }
    Err(TimeError::Unknown(text.chars().take(64).collect()))
}

type Found = Option<Result<TimeRange, jiff::Error>>;

fn moment(time: Timestamp) -> TimeRange {
    TimeRange { from: time, to: time }
}

/// ausearch(8), `--start`.
fn word(text: &str, now: &ZonedDateTime) -> Found {
    let since = |from: Result<ZonedDateTime, jiff::Error>| {
        Some(from.map(|from| TimeRange { from: from.timestamp(), to: now.timestamp() }))
    };
    let midnight =
        |day: Result<Date, jiff::Error>| day?.to_zoned_datetime(now.time_zone().clone())?.start_of_day();
    let today = now.date();
    match text {
        "now" => Some(Ok(moment(now.timestamp()))),
        "recent" => Some(now.checked_sub(10.minutes()).map(|time| moment(time.timestamp()))),
        "today" => Some(day(today, now.time_zone())),
        "yesterday" => Some(today.yesterday().and_then(|date| day(date, now.time_zone()))),
        "this-hour" => since(now.with().minute(0).second(0).subsec_nanosecond(0).build()),
        "this-week" => {
            let days = i64::from(today.weekday().to_sunday_zero_offset());
            since(midnight(today.checked_sub(days.days())))
        }
        "week-ago" => since(midnight(today.checked_sub(7.days()))),
        "this-month" => since(midnight(Ok(today.first_of_month()))),
        "this-year" => since(midnight(Ok(today.first_of_year()))),
        _ => None,
    }
}

/// Seconds since 1970, at least nine digits: eight may be meant as a date.
fn epoch(text: &str) -> Found {
    let (marked, number) = match text.strip_prefix('@') {
        Some(number) => (true, number),
        None => (false, text),
    };
    let (seconds, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || !(marked || seconds.len() >= 9) {
        return None;
    }
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |sum, digit| sum * 10 + i32::from(digit - b'0'));
    let whole = !number.contains('.');
    // A number that does not fit into an i64 is refused like the greatest.
    let from = Timestamp::new(seconds.parse().unwrap_or(i64::MAX), nanos);
    Some(from.and_then(|from| lasting(from, precision(whole))))
}

/// The length of the range of a time that is given to the second, or more exactly.
fn precision(whole: bool) -> SignedDuration {
    if whole { SignedDuration::from_secs(1) } else { SignedDuration::from_millis(1) }
}

fn lasting(from: Timestamp, long: SignedDuration) -> Result<TimeRange, jiff::Error> {
    Ok(TimeRange { from, to: from.checked_add(long)? })
}

/// `2 hours ago`, `90m ago`.
fn ago(text: &str, now: &ZonedDateTime) -> Found {
    if !text.ends_with("ago") {
        return None;
    }
    let span: Span = text.parse().ok()?;
    Some(now.checked_add(span).map(|time| moment(time.timestamp())))
}

/// A day, a time of day, or both, with a zone or without.
fn clock(text: &str, now: &ZonedDateTime) -> Option<Result<TimeRange, TimeError>> {
    let impossible = |_| TimeError::Impossible(text.chars().take(64).collect());
    let (date, time) = match text.split_once([' ', 'T', 't']) {
        Some((date, time)) => (Some(date), Some(time.trim_start())),
        None if text.contains(':') => (None, Some(text)),
        None => (Some(text), None),
    };
    let date = date.map_or(Some(now.date()), civil_date)?;
    let Some(time) = time else { return Some(day(date, now.time_zone()).map_err(impossible)) };
    let zone_at = time.find(['Z', 'z', '+', '-']);
    let (time, zone) = time.split_at(zone_at.unwrap_or(time.len()));
    let long = match (time.contains('.'), time.bytes().filter(|b| *b == b':').count()) {
        (false, 1) => SignedDuration::from_mins(1),
        (true, 2) => precision(false),
        (false, 2) => precision(true),
        _ => return None,
    };
    let time: Time = time.parse().ok()?;
    let then = DateTime::from_parts(date, time);
    let from = if zone.is_empty() {
        moment_of(text, then, now.time_zone())
    } else {
        // The zone is parsed as in RFC 3339; all else is known to be valid.
        let text = format!("{then}{}", zone.to_ascii_uppercase());
        Ok(text.parse().ok()?)
    };
    Some(from.and_then(|from| lasting(from, long).map_err(impossible)))
}

/// The only moment at which clocks of a zone show a time.
fn moment_of(text: &str, then: DateTime, zone: &TimeZone) -> Result<Timestamp, TimeError> {
    let text: String = text.chars().take(64).collect();
    let ambiguous = zone.to_ambiguous_timestamp(then);
    let named = zone.iana_name().unwrap_or("of this host").to_owned();
    // With its offset, as a user can write it.
    let at = |moment: Result<Timestamp, jiff::Error>| {
        moment.map(|moment| moment.display_with_offset(zone.to_offset(moment)).to_string())
    };
    let (earlier, later) = (at(ambiguous.earlier()), at(ambiguous.later()));
    match (ambiguous.offset(), earlier, later) {
        (AmbiguousOffset::Fold { .. }, Ok(first), Ok(second)) => {
            Err(TimeError::Repeated { text, zone: named, first, second })
        }
        (AmbiguousOffset::Gap { .. }, Ok(first), Ok(second)) => {
            Err(TimeError::Skipped { text, zone: named, first, second })
        }
        _ => ambiguous.unambiguous().map_err(|_| TimeError::Impossible(text)),
    }
}

/// `2026-11-23`, or as ausearch takes it in most places, `11/23/2026` or `11/23/26`.
fn civil_date(text: &str) -> Option<Date> {
    if text.contains('/') {
        let format = if text.len() > "11/23/26".len() { "%m/%d/%Y" } else { "%m/%d/%y" };
        return Date::strptime(format, text).ok();
    }
    let plain = text.len() == "2026-11-23".len() && !text.starts_with(['+', '-']);
    if plain { text.parse().ok() } else { None }
}

fn day(date: Date, zone: &TimeZone) -> Result<TimeRange, jiff::Error> {
    let from = date.to_zoned_datetime(zone.clone())?.start_of_day()?;
    let to = date.tomorrow()?.to_zoned_datetime(zone.clone())?.start_of_day()?;
    Ok(TimeRange { from: from.timestamp(), to: to.timestamp() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Monday in Berlin, an hour before UTC.
    fn now() -> ZonedDateTime {
        "2026-11-23T20:31:05.017+01:00[Europe/Berlin]".parse().unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn read(text: &str) -> Result<TimeRange, TimeError> {
        parse(text, &now(), Some(at("2026-11-20T06:00:01Z")))
    }

    fn names(text: &str, from: &str, to: &str) {
        assert_eq!(read(text), Ok(TimeRange { from: at(from), to: at(to) }), "{text}");
    }

    #[test]
    fn the_words_of_ausearch_are_known() {
        let now = "2026-11-23T19:31:05.017Z";
        names("now", now, now);
        names("recent", "2026-11-23T19:21:05.017Z", "2026-11-23T19:21:05.017Z");
        names("today", "2026-11-22T23:00:00Z", "2026-11-23T23:00:00Z");
        names("yesterday", "2026-11-21T23:00:00Z", "2026-11-22T23:00:00Z");
        names("this-hour", "2026-11-23T19:00:00Z", now);
        names("this-week", "2026-11-21T23:00:00Z", now);
        names("week-ago", "2026-11-15T23:00:00Z", now);
        names("this-month", "2026-10-31T23:00:00Z", now);
        names("this-year", "2025-12-31T23:00:00Z", now);
        names("boot", "2026-11-20T06:00:01Z", "2026-11-20T06:00:01Z");
        assert_eq!(parse("boot", &self::now(), None), Err(TimeError::Boot));
    }

    #[test]
    fn a_week_begins_on_sunday() {
        let sunday = "2026-11-22T00:00:00+01:00[Europe/Berlin]".parse().unwrap();
        assert_eq!(parse("this-week", &sunday, None).unwrap().from, at("2026-11-21T23:00:00Z"));
    }

    #[test]
    fn a_day_a_minute_and_a_second_are_named_whole() {
        names("2026-11-23", "2026-11-22T23:00:00Z", "2026-11-23T23:00:00Z");
        names("2026-11-23 20:31", "2026-11-23T19:31:00Z", "2026-11-23T19:32:00Z");
        names("2026-11-23T20:31:05", "2026-11-23T19:31:05Z", "2026-11-23T19:31:06Z");
        names("2026-11-23 20:31:05.017", "2026-11-23T19:31:05.017Z", "2026-11-23T19:31:05.018Z");
        names(" 2026-11-23  20:31 ", "2026-11-23T19:31:00Z", "2026-11-23T19:32:00Z");
    }

    #[test]
    fn a_time_alone_is_todays() {
        names("08:05", "2026-11-23T07:05:00Z", "2026-11-23T07:06:00Z");
        names("08:05:59", "2026-11-23T07:05:59Z", "2026-11-23T07:06:00Z");
    }

    #[test]
    fn days_are_read_as_ausearch_has_them_too() {
        names("11/02/2026", "2026-11-01T23:00:00Z", "2026-11-02T23:00:00Z");
        names("11/02/26", "2026-11-01T23:00:00Z", "2026-11-02T23:00:00Z");
        names("10/24/2005 18:00:00", "2005-10-24T16:00:00Z", "2005-10-24T16:00:01Z");
    }

    #[test]
    fn a_zone_that_is_given_counts() {
        names("2026-11-23T20:31:05Z", "2026-11-23T20:31:05Z", "2026-11-23T20:31:06Z");
        names("2026-11-23t20:31:05.017z", "2026-11-23T20:31:05.017Z", "2026-11-23T20:31:05.018Z");
        names("2026-11-23 20:31:05+05:30", "2026-11-23T15:01:05Z", "2026-11-23T15:01:06Z");
        names("2026-11-23T20:31-08:00", "2026-11-24T04:31:00Z", "2026-11-24T04:32:00Z");
    }

    #[test]
    fn seconds_since_1970_are_recognized_by_their_length_or_mark() {
        names("1795460022", "2026-11-23T18:53:42Z", "2026-11-23T18:53:43Z");
        names("1795460022.944", "2026-11-23T18:53:42.944Z", "2026-11-23T18:53:42.945Z");
        names("@1795460022.9", "2026-11-23T18:53:42.9Z", "2026-11-23T18:53:42.901Z");
        names("@0", "1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z");
    }

    #[test]
    fn times_back_from_now_are_read() {
        names("2 hours ago", "2026-11-23T17:31:05.017Z", "2026-11-23T17:31:05.017Z");
        names("90m ago", "2026-11-23T18:01:05.017Z", "2026-11-23T18:01:05.017Z");
        names("1h 30m ago", "2026-11-23T18:01:05.017Z", "2026-11-23T18:01:05.017Z");
        // Over the end of summer time: the same time of day.
        names("30 days ago", "2026-10-24T18:31:05.017Z", "2026-10-24T18:31:05.017Z");
    }

    #[test]
    fn days_with_a_changed_clock_have_their_own_length() {
        names("2026-10-25", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
        names("2026-03-29", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        // On both sides of the hours that are there never, and twice.
        names("2026-03-29 01:59", "2026-03-29T00:59:00Z", "2026-03-29T01:00:00Z");
        names("2026-03-29 03:00", "2026-03-29T01:00:00Z", "2026-03-29T01:01:00Z");
        names("2026-10-25 01:59:59", "2026-10-24T23:59:59Z", "2026-10-25T00:00:00Z");
        names("2026-10-25 03:00", "2026-10-25T02:00:00Z", "2026-10-25T02:01:00Z");
    }

    #[test]
    fn a_time_that_clocks_show_twice_or_never_is_refused_with_what_may_be_meant() {
        for (text, what, moments) in [
            ("2026-10-25 02:30", "was twice", ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"]),
            ("10/25/2026 02:00:00", "was twice", ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"]),
            (
                "2026-10-25 02:59:59.9",
                "was twice",
                ["2026-10-25T02:59:59.9+02:00", "2026-10-25T02:59:59.9+01:00"],
            ),
            ("2026-03-29 02:30", "never was", ["2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"]),
            ("2026-03-29T02:00:00", "never was", ["2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"]),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.contains(text) && error.contains(what) && error.contains("Europe/Berlin"),
                "{error}"
            );
            for moment in moments {
                assert!(error.contains(moment), "{error}");
                // The suggestions are accepted.
                let when = read(moment).unwrap();
                assert_eq!(when.from, at(moment), "{moment}");
            }
        }
        // Only on the day of the change.
        let late: ZonedDateTime = "2026-10-25T04:00:00+01:00[Europe/Berlin]".parse().unwrap();
        assert!(matches!(parse("02:30", &late, None), Err(TimeError::Repeated { .. })));
        names("02:30", "2026-11-23T01:30:00Z", "2026-11-23T01:31:00Z");
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_is() {
        for text in [
            "",
            "checkpoint",
            "tomorrow",
            "TODAY",
            "20261123",
            "2026",
            "2026-11",
            "23.11.2026",
            "2026-11-23 20",
            "2026-11-23 25:00",
            "2026-11-23 20:31:05:17",
            "2026-11-23 20:31:05 Europe/Berlin",
            "2026-11-23 20:31:05+",
            "2026-02-30",
            "13/40/2026",
            "2 hours",
            "hours ago",
            "ago",
            "1795460022.",
            "@",
            "@-1",
            "é",
            "--",
            "+",
            "T",
            ":",
        ] {
            let error = read(text).unwrap_err();
            assert!(matches!(error, TimeError::Unknown(_)), "{text}: {error:?}");
            assert!(error.to_string().contains("yesterday"), "{error}");
        }
    }

    #[test]
    fn times_beyond_the_calendar_are_refused() {
        for text in ["@999999999999999999999", "1795460022944", "7000000 days ago", "9999-12-31"] {
            assert!(matches!(read(text), Err(TimeError::Impossible(_))), "{text}: {:?}", read(text));
        }
    }
}
