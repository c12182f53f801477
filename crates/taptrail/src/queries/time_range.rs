//! Times as people and ausearch write them.
//!
//! A text names a time range: a day, a minute, a second, or as described below. As `--start` it
//! means the beginning of the range, as `--end` its end, so that the range is included; as `--at`
//! it means all of it.
//!
//! A time of day that occurs twice, or never, because clocks are put back or forward, is refused:
//! the error names the possible moments.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp, ToSpan as _, ZonedDateTime};

/// What [`parse`] accepts, for help and errors.
pub(crate) const ACCEPTED: &str = "\
now, recent (10 minutes ago), today, yesterday, this-hour, this-week, week-ago, this-month, this-year, boot; \
2026-11-23, '2026-11-23 20:31:05', 2026-11-23T20:31:05Z, 23.11.2026, '23.11.2026 20:31', 11/23/2026, \
'11/23/2026 20:31:05', 20:31, 20:31:05; tuesday, 'tue 14:05' (the last one); \
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
    /// It is written as a date, and there is no such day.
    #[error(
        "There is no day '{0}': with '/', the month is first (11/23/2026), and with '.', the day (23.11.2026)"
    )]
    NoDay(String),
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
    let date = text.split([' ', 'T', 't']).next().unwrap_or_default();
    if is_like_date(date) && civil_date(date).is_none() {
        return Err(TimeError::NoDay(date.to_owned()));
    }
    Err(TimeError::Unknown(text.chars().take(64).collect()))
}

/// Whether a text is written as one of the dates that are read, whatever its numbers.
fn is_like_date(text: &str) -> bool {
    let lengths = |separator: char| -> Vec<usize> {
        let parts: Vec<&str> = text.split(separator).collect();
        let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if parts.iter().all(is_number) { parts.iter().map(|part| part.len()).collect() } else { Vec::new() }
    };
    matches!(lengths('-')[..], [4, 2, 2])
        || matches!(lengths('.')[..], [1 | 2, 1 | 2, 4])
        || matches!(lengths('/')[..], [1 | 2, 1 | 2, 2 | 4])
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
    if let Some((weekday, time)) = weekday(text) {
        return last_weekday(text, weekday, time, now);
    }
    let (date, time) = match text.split_once([' ', 'T', 't']) {
        Some((date, time)) => (Some(date), Some(time.trim_start())),
        None if text.contains(':') => (None, Some(text)),
        None => (Some(text), None),
    };
    let date = date.map_or(Some(now.date()), civil_date)?;
    clock_of(text, date, time, now)
}

/// A weekday's name or its first three letters, and what follows it.
fn weekday(text: &str) -> Option<(Weekday, Option<&str>)> {
    const NAMES: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let (word, time) = match text.split_once(' ') {
        Some((word, time)) => (word, Some(time.trim_start())),
        None => (text, None),
    };
    let is_named = |name: &&str| word.eq_ignore_ascii_case(name) || word.eq_ignore_ascii_case(&name[..3]);
    let at = NAMES.iter().position(is_named)?;
    let weekday = Weekday::from_monday_zero_offset(i8::try_from(at).ok()?).ok()?;
    Some((weekday, time))
}

/// The last such day, or time on such a day, that has begun: today's, too.
fn last_weekday(
    text: &str,
    weekday: Weekday,
    time: Option<&str>,
    now: &ZonedDateTime,
) -> Option<Result<TimeRange, TimeError>> {
    let today = now.date();
    let ago = i64::from(weekday.until(today.weekday()));
    let of = |days: i64| match today.checked_sub(days.days()) {
        Ok(date) => clock_of(text, date, time, now),
        Err(_) => Some(Err(TimeError::Impossible(text.chars().take(64).collect()))),
    };
    // Of a time that clocks show twice today, the question is whether it was reached.
    let is_later = time.and_then(|time| time.parse::<Time>().ok()).is_some_and(|time| time > now.time());
    if ago == 0 && is_later {
        return of(7);
    }
    match of(ago)? {
        Ok(range) if range.from > now.timestamp() => of(ago + 7),
        found => Some(found),
    }
}

/// A time of a day, or all of the day.
fn clock_of(
    text: &str,
    date: Date,
    time: Option<&str>,
    now: &ZonedDateTime,
) -> Option<Result<TimeRange, TimeError>> {
    let impossible = |_| TimeError::Impossible(text.chars().take(64).collect());
    let Some(time) = time else { return Some(day(date, now.time_zone()).map_err(impossible)) };
    // As the answers print it.
    let (time, zone) = match time.strip_suffix(" UTC") {
        Some(time) => (time, Some("Z")),
        None => (time, None),
    };
    let zone_at = time.find(['Z', 'z', '+', '-']);
    let (time, zone) = match zone {
        Some(_) if zone_at.is_some() => return None,
        Some(zone) => (time, zone),
        None => time.split_at(zone_at.unwrap_or(time.len())),
    };
    let time = time.trim_end();
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

/// `2026-11-23`, `23.11.2026`, or as ausearch takes it in most places, `11/23/2026` or `11/23/26`.
fn civil_date(text: &str) -> Option<Date> {
    if let Some((_, year)) = text.rsplit_once('.') {
        // With two digits, it could be the day of a year before the month.
        let is_year = year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit());
        return if is_year { Date::strptime("%d.%m.%Y", text).ok() } else { None };
    }
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
mod tests;
