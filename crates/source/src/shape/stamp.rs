//! The times at a line's front, as the many programs write them.

use bstr::ByteSlice as _;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;

use crate::found::When;

const MONTHS: [&[u8]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

const WEEKDAYS: [&[u8]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];

/// A plain decimal number.
pub(super) fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The time that a line begins with, and what follows it from the byte after on.
///
/// `May 12 12:48:00`, with a fraction or without; `2026-05-12T12:48:00.123456+02:00`, with a blank for the
/// T, a fraction and an offset or without; `Wed 2026-11-25 02:02:25 UTC`; `1795460308.832000`; each of them
/// behind a `<PRI>` or without.
pub(super) fn front(line: &[u8]) -> Option<(When, &[u8])> {
    let line = priority(line).unwrap_or(line);
    let (when, rest) = match line.first()? {
        b'0'..=b'9' => iso(line).or_else(|| seconds(line))?,
        _ => month(line).or_else(|| weekday(line))?,
    };
    matches!(rest.first(), Some(b' ' | b':')).then_some((when, rest))
}

/// Seconds since 1970 with a fraction.
pub(super) fn unix(text: &[u8]) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once_str(b".")?;
    let (nanos, rest) = digits_of_second(fraction)?;
    rest.is_empty().then(|| Timestamp::new(number(seconds)?, nanos).ok()).flatten()
}

/// A date in a locale's own way, and a time of the day with a fraction.
pub(super) fn local(date: &[u8], time: &[u8]) -> Option<When> {
    let (time, rest) = time_of_day(time)?;
    if !rest.is_empty() {
        return None;
    }
    let date = date.trim_with(|c| c == ' ');
    let separator = *date.iter().find(|byte| !byte.is_ascii_digit())?;
    let mut parts = date.split(|byte| *byte == separator);
    let (a, b, c) = (parts.next()?, parts.next()?, parts.next()?);
    // "25.11.2026." and the like have an end of their own.
    if parts.any(|rest| !rest.is_empty()) {
        return None;
    }
    let civil = |year, month, day| Some(When::Civil(Date::new(year, month, day).ok()?.to_datetime(time)));
    match (a.len(), separator) {
        (4, _) => civil(number(a)?, number(b)?, number(c)?),
        (1 | 2, b'.' | b'-') => civil(year(c)?, number(b)?, number(a)?),
        (1 | 2, b'/') => {
            let (first, second, year) = (number(a)?, number(b)?, year(c)?);
            let is_date = Date::new(year, first, second).is_ok() || Date::new(year, second, first).is_ok();
            is_date.then_some(When::Slashed { first, second, year, time })
        }
        _ => None,
    }
}

/// A year of four digits, or of two as strptime(3) takes them.
fn year(text: &[u8]) -> Option<i16> {
    match (text.len(), number(text)?) {
        (4, year) => Some(year),
        (2, year @ 0..69) => Some(2000 + year),
        (2, year) => Some(1900 + year),
        _ => None,
    }
}

/// `<134>`, and RFC 5424's version after it.
fn priority(line: &[u8]) -> Option<&[u8]> {
    let (number, rest) = line.strip_prefix(b"<")?.split_once_str(b">")?;
    (matches!(number.len(), 1..=3) && number.iter().all(u8::is_ascii_digit))
        .then(|| rest.strip_prefix(b"1 ").unwrap_or(rest))
}

fn seconds(line: &[u8]) -> Option<(When, &[u8])> {
    let end = line.find_byte(b' ')?;
    Some((When::Exact(unix(&line[..end])?), &line[end..]))
}

/// `May 12 12:48:00`, `May  2 12:48:00.123456`
fn month(line: &[u8]) -> Option<(When, &[u8])> {
    let (name, rest) = line.split_at_checked(3)?;
    let month = (1i8..).zip(MONTHS).find_map(|(month, known)| (known == name).then_some(month))?;
    let rest = rest.strip_prefix(b" ")?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let (day, rest) = rest.split_once_str(b" ")?;
    let (time, rest) = time_of_day(rest)?;
    let day = (day.len() <= 2).then(|| number(day))??;
    Some((When::Yearless(Date::new(0, month, day).ok()?.to_datetime(time)), rest))
}

/// `Wed 2026-11-25 02:02:25 UTC`
fn weekday(line: &[u8]) -> Option<(When, &[u8])> {
    let (name, rest) = line.split_at_checked(3)?;
    if !WEEKDAYS.contains(&name) {
        return None;
    }
    let (civil, rest) = civil(rest.strip_prefix(b" ")?)?;
    let rest = rest.strip_prefix(b" ")?;
    let end = rest.find_byte(b' ')?;
    let (zone, rest) = rest.split_at(end);
    let when = match zone {
        b"UTC" | b"GMT" => When::Exact(Offset::UTC.to_timestamp(civil).ok()?),
        // The zones of this name are many: as a time without one.
        _ if zone.iter().all(u8::is_ascii_alphabetic) => When::Civil(civil),
        _ => {
            let (moment, rest) = with_offset(civil, zone)?;
            rest.is_empty().then_some(moment)?
        }
    };
    Some((when, rest))
}

/// `2026-05-12T12:48:00.123456+02:00`
fn iso(line: &[u8]) -> Option<(When, &[u8])> {
    let (civil, rest) = civil(line)?;
    Some(match rest.first() {
        Some(b'Z') => (When::Exact(Offset::UTC.to_timestamp(civil).ok()?), &rest[1..]),
        Some(b'+' | b'-') => with_offset(civil, rest)?,
        _ => (When::Civil(civil), rest),
    })
}

fn civil(text: &[u8]) -> Option<(DateTime, &[u8])> {
    let (date, rest) = text.split_at_checked(10)?;
    let date = match date {
        [y @ .., b'-', m1, m2, b'-', d1, d2] => {
            Date::new(number(y)?, number(&[*m1, *m2])?, number(&[*d1, *d2])?).ok()?
        }
        _ => return None,
    };
    let rest = rest.strip_prefix(b"T").or_else(|| rest.strip_prefix(b" "))?;
    let (time, rest) = time_of_day(rest)?;
    Some((date.to_datetime(time), rest))
}

/// `12:48:00`, `12:48:00.123456`
fn time_of_day(text: &[u8]) -> Option<(Time, &[u8])> {
    let ([h1, h2, b':', m1, m2, b':', s1, s2], rest) = text.split_first_chunk()? else { return None };
    let (nanos, rest) = match rest.strip_prefix(b".").or_else(|| rest.strip_prefix(b",")) {
        Some(fraction) => digits_of_second(fraction)?,
        None => (0, rest),
    };
    // A leap second is the second before it, once more.
    let second = number::<i8>(&[*s1, *s2])?;
    let second = if second == 60 { 59 } else { second };
    Some((Time::new(number(&[*h1, *h2])?, number(&[*m1, *m2])?, second, nanos).ok()?, rest))
}

/// The digits of a fraction as nanoseconds; those after the ninth tell nothing.
fn digits_of_second(text: &[u8]) -> Option<(i32, &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let nanos = digits.iter().chain(std::iter::repeat(&b'0')).take(9);
    Some((nanos.fold(0, |nanos, digit| nanos * 10 + i32::from(digit - b'0')), rest))
}

/// `+02:00`, `+0200`, `+02`
fn with_offset(civil: DateTime, text: &[u8]) -> Option<(When, &[u8])> {
    let (sign, text) = text.split_first()?;
    let (hours, rest) = text.split_at_checked(2)?;
    let after = rest.strip_prefix(b":").unwrap_or(rest);
    let (minutes, rest) = match after.split_at_checked(2) {
        Some((minutes, rest)) if minutes.iter().all(u8::is_ascii_digit) => (number(minutes)?, rest),
        _ => (0, rest),
    };
    let seconds = (number::<i32>(hours)? * 60 + minutes) * 60;
    let seconds = if *sign == b'-' { -seconds } else { seconds };
    let moment = Offset::from_seconds(seconds).ok()?.to_timestamp(civil).ok()?;
    Some((When::Exact(moment), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Option<(String, String)> {
        let (when, rest) = front(line.as_bytes())?;
        let when = match when {
            When::Exact(moment) => moment.to_string(),
            When::Civil(civil) | When::Yearless(civil) => civil.to_string(),
            When::Slashed { .. } | When::Unknown => unreachable!(),
        };
        Some((when, rest.to_str_lossy().into_owned()))
    }

    #[test]
    fn a_front_is_read_as_the_programs_write_it() {
        for (line, when, rest) in [
            ("May 12 12:48:00 host1 x", "0000-05-12T12:48:00", " host1 x"),
            ("Feb 29 02:48:00 h", "0000-02-29T02:48:00", " h"),
            ("May  2 12:48:00.123456 host1", "0000-05-02T12:48:00.123456", " host1"),
            ("<86>May  2 12:48:00 h", "0000-05-02T12:48:00", " h"),
            ("2026-05-12T12:48:00.123456+02:00 h", "2026-05-12T10:48:00.123456Z", " h"),
            ("2026-05-12T12:48:00-0230 h", "2026-05-12T15:18:00Z", " h"),
            ("<134>1 2026-05-12T12:48:00.5Z h", "2026-05-12T12:48:00.5Z", " h"),
            ("2026-05-12T12:48:60 h", "2026-05-12T12:48:59", " h"),
            ("2026-11-23 18:53:42.703+0000: 26269: info", "2026-11-23T18:53:42.703Z", ": 26269: info"),
            ("2011-11-23 18:53:42.703: 26269: info", "2011-11-23T18:53:42.703", ": 26269: info"),
            ("Wed 2026-11-25 02:02:25 UTC h", "2026-11-25T02:02:25Z", " h"),
            ("Wed 2026-11-25 02:02:25.000001 CET h", "2026-11-25T02:02:25.000001", " h"),
            ("Wed 2026-11-25 02:02:25 +03 h", "2026-11-24T23:02:25Z", " h"),
            ("1795460308.832000 host1 audit", "2026-11-23T18:58:28.832Z", " host1 audit"),
        ] {
            assert_eq!(told(line), Some((when.to_owned(), rest.to_owned())), "{line}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for line in [
            "",
            "May",
            "May 12",
            "May 12 12:48:00",
            "May 12 12:48:00x",
            "May 32 12:48:00 h",
            "Mai 12 12:48:00 h",
            "Feb 30 12:48:00 h",
            "2026-02-29T12:48:00 h",
            "2026-05-12T24:48:00 h",
            "2026-05-12T12:48:00+99:00 h",
            "2026-05-12T12:48:00. h",
            "2026-05-12T12:48:00+ h",
            "+026-05-12T12:48:00 h",
            "99999999999999999999.000 h",
            "9999999999999.000 h",
            "1795460308 h",
            "<1000>May  2 12:48:00 h",
            "Wed 2026-11-25 02:02:25 UTC",
            "Wed 2026-11-25 02:02:25 +03x h",
            "\u{e4}\u{f6}\u{fc} 12 12:48:00 h",
        ] {
            assert_eq!(told(line), None, "{line}");
        }
    }

    #[test]
    fn dates_are_read_as_locales_write_them() {
        let civil = |date: &str| match local(date.as_bytes(), b"17:01:05.891") {
            Some(When::Civil(civil)) => Some(civil.to_string()),
            Some(When::Slashed { first, second, year, .. }) => Some(format!("{first}/{second}/{year}")),
            _ => None,
        };
        for (date, told) in [
            ("08/05/2014", "8/5/2014"),
            ("25/11/26", "25/11/2026"),
            ("11/25/69", "11/25/1969"),
            ("25.11.2026", "2026-11-25T17:01:05.891"),
            ("25.11.2026.", "2026-11-25T17:01:05.891"),
            ("25-11-26", "2026-11-25T17:01:05.891"),
            ("2026-11-25", "2026-11-25T17:01:05.891"),
            ("2026/11/25", "2026-11-25T17:01:05.891"),
        ] {
            assert_eq!(civil(date).as_deref(), Some(told), "{date}");
        }
        for date in
            ["", "/", "13/13/2014", "30/02/2014", "1/2", "08/05/2014/1", "08/05/201", "123/1/2014", "a/b/c"]
        {
            assert_eq!(civil(date), None, "{date}");
        }
    }
}
