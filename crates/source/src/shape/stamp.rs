//! Parses the times at the beginning of lines, as many programs write them.

use bstr::ByteSlice as _;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;

use super::months;
use crate::parsed_line::LineTime;

const MONTHS: [&[u8]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// A decimal number without sign.
pub(super) fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The time at the beginning of a line, and the text after it.
///
/// `May 12 12:48:00`, with or without a fraction, with or without a year before the time, in any
/// language of [`months`], or with the day first (`12 mai 12:48:00`);
/// `2026-05-12T12:48:00.123456+02:00`, with a blank for the T, with or without fraction and offset;
/// `Wed 2026-11-25 02:02:25 UTC`; `Wed Nov 25 02:02:25 2026`; `1795460308.832000`; each after a
/// `<PRI>`, a severity's name or neither.
pub(super) fn front(line: &[u8]) -> Option<(LineTime, &[u8])> {
    let line = priority(line).or_else(|| named_priority(line)).unwrap_or(line);
    let (when, rest) = match line.first()? {
        b'0'..=b'9' => {
            iso(line).or_else(|| seconds(line)).or_else(|| day_first(line)).or_else(|| numbered(line))?
        }
        b' ' => numbered(&line[1..])?,
        _ => month(line, false).or_else(|| weekday(line)).or_else(|| asctime(line))?,
    };
    matches!(rest.first(), Some(b' ' | b':')).then_some((when, rest))
}

/// Parses a text that is exactly `Mon Sep 19 18:16:45 2022`.
pub(super) fn whole(text: &[u8]) -> Option<LineTime> {
    let (when, rest) = asctime(text)?;
    (rest.is_empty() && matches!(when, LineTime::Civil(_))).then_some(when)
}

/// Seconds since 1970 with a fraction.
pub(super) fn unix(text: &[u8]) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once_str(b".")?;
    let (nanos, rest) = digits_of_second(fraction)?;
    rest.is_empty().then(|| Timestamp::new(number(seconds)?, nanos).ok()).flatten()
}

/// Skips `<134>`, and RFC 5424's version after it.
fn priority(line: &[u8]) -> Option<&[u8]> {
    let (number, rest) = line.strip_prefix(b"<")?.split_once_str(b">")?;
    (matches!(number.len(), 1..=3) && number.iter().all(u8::is_ascii_digit))
        .then(|| rest.strip_prefix(b"1 ").unwrap_or(rest))
}

fn seconds(line: &[u8]) -> Option<(LineTime, &[u8])> {
    let end = line.find_byte(b' ')?;
    Some((LineTime::Exact(unix(&line[..end])?), &line[end..]))
}

/// Skips `kern.notice ` or `info `: a severity's name before the time, as some rsyslog templates
/// write it.
fn named_priority(line: &[u8]) -> Option<&[u8]> {
    let head = &line[..line.len().min(32)];
    let (word, _) = head.split_once_str(b" ")?;
    (is_severity(word) || is_priority(word)).then(|| &line[word.len() + 1..])
}

/// Whether a word is like `kern.notice`.
pub(super) fn is_priority(word: &[u8]) -> bool {
    let Some((facility, severity)) = word.split_once_str(b".") else { return false };
    let is_local = || matches!(facility, [b'l', b'o', b'c', b'a', b'l', b'0'..=b'7']);
    let named = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    ];
    is_severity(severity) && (named.iter().any(|name| name.as_bytes() == facility) || is_local())
}

/// Whether a word is the name of a severity (syslog(3)).
pub(super) fn is_severity(word: &[u8]) -> bool {
    matches!(
        word,
        b"emerg"
            | b"panic"
            | b"alert"
            | b"crit"
            | b"err"
            | b"error"
            | b"warning"
            | b"warn"
            | b"notice"
            | b"info"
            | b"debug"
    )
}

/// The month with this name, in any language.
pub(super) fn month_of(name: &[u8]) -> Option<i8> {
    let english = (1i8..).zip(MONTHS).find_map(|(month, known)| (known == name).then_some(month));
    english.or_else(|| months::month(name))
}

/// Parses `May 12 12:48:00`, `May  2 12:48:00.123456` and `May 12 2026 12:48:00`; after a weekday
/// also `May 12 12:48:00 2026`.
fn month(line: &[u8], behind_weekday: bool) -> Option<(LineTime, &[u8])> {
    let (name, rest) = word(line)?;
    let month = month_of(name)?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let (day, rest) = rest.split_once_str(b" ")?;
    dated(month, day, rest, behind_weekday)
}

/// Parses `12 mai 12:48:00`.
fn day_first(line: &[u8]) -> Option<(LineTime, &[u8])> {
    let (day, rest) = word(line)?;
    let (name, rest) = word(rest)?;
    dated(month_of(name)?, day, rest, false)
}

/// Parses `5月 12 12:48:00`: Chinese, Japanese and Korean have numbers for months.
fn numbered(line: &[u8]) -> Option<(LineTime, &[u8])> {
    let (name, rest) = word(line)?;
    let number_of = name.strip_suffix("月".as_bytes()).or_else(|| name.strip_suffix("월".as_bytes()))?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let (day, rest) = rest.split_once_str(b" ")?;
    let day = day.strip_suffix("日".as_bytes()).or_else(|| day.strip_suffix("일".as_bytes())).unwrap_or(day);
    dated(number(number_of)?, day, rest, false)
}

/// Combines a month and a day with the rest: the time, and perhaps a year before or after it.
fn dated<'a>(month: i8, day: &[u8], rest: &'a [u8], year_last: bool) -> Option<(LineTime, &'a [u8])> {
    let year_of = |text: &[u8]| (text.len() == 4).then(|| number::<i16>(text))?;
    let (mut year, rest) = match rest.split_once_str(b" ") {
        Some((word, after)) if year_of(word).is_some() => (year_of(word), after),
        _ => (None, rest),
    };
    let (time, mut rest) = time_of_day(rest)?;
    if year_last
        && year.is_none()
        && let Some((after, tail)) = rest.strip_prefix(b" ").and_then(|rest| rest.split_at_checked(4))
        && matches!(tail.first(), None | Some(b' ' | b':'))
    {
        (year, rest) = (Some(year_of(after)?), tail);
    }
    let day = (day.len() <= 2).then(|| number(day))??;
    let date = Date::new(year.unwrap_or(0), month, day).ok()?.to_datetime(time);
    Some((if year.is_some() { LineTime::Civil(date) } else { LineTime::Yearless(date) }, rest))
}

/// The first word of a line, in any language, and the text after the blank behind it.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().take(20).position(|&byte| byte == b' ')?;
    Some((&line[..end], &line[end + 1..]))
}

/// The text after a weekday, in any language.
fn behind_weekday(line: &[u8]) -> Option<&[u8]> {
    let (name, rest) = word(line)?;
    let bare = name.strip_suffix(b".").or_else(|| name.strip_suffix(b",")).unwrap_or(name);
    let is_name = |byte: &u8| byte.is_ascii_alphabetic() || !byte.is_ascii();
    (!bare.is_empty() && bare.iter().all(is_name)).then_some(rest)
}

/// Parses `Wed Nov 25 02:02:25 2026`.
fn asctime(line: &[u8]) -> Option<(LineTime, &[u8])> {
    month(behind_weekday(line)?, true)
}

/// Parses `Wed 2026-11-25 02:02:25 UTC`.
fn weekday(line: &[u8]) -> Option<(LineTime, &[u8])> {
    let (civil, rest) = civil(behind_weekday(line)?)?;
    let rest = rest.strip_prefix(b" ")?;
    let end = rest.find_byte(b' ')?;
    let (zone, rest) = rest.split_at(end);
    let when = match zone {
        b"UTC" | b"GMT" => LineTime::Exact(Offset::UTC.to_timestamp(civil).ok()?),
        // A zone's abbreviation is ambiguous: it is ignored.
        _ if zone.iter().all(u8::is_ascii_alphabetic) => LineTime::Civil(civil),
        _ => {
            let (moment, rest) = with_offset(civil, zone)?;
            rest.is_empty().then_some(moment)?
        }
    };
    Some((when, rest))
}

/// Parses `2026-05-12T12:48:00.123456+02:00`.
pub(super) fn iso(line: &[u8]) -> Option<(LineTime, &[u8])> {
    let (civil, rest) = civil(line)?;
    Some(match rest.first() {
        Some(b'Z') => (LineTime::Exact(Offset::UTC.to_timestamp(civil).ok()?), &rest[1..]),
        Some(b'+' | b'-') => with_offset(civil, rest)?,
        _ => (LineTime::Civil(civil), rest),
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

/// Parses `12:48:00` and `12:48:00.123456`.
pub(super) fn time_of_day(text: &[u8]) -> Option<(Time, &[u8])> {
    let ([h1, h2, b':', m1, m2, b':', s1, s2], rest) = text.split_first_chunk()? else { return None };
    let (nanos, rest) = match rest.strip_prefix(b".").or_else(|| rest.strip_prefix(b",")) {
        Some(fraction) => digits_of_second(fraction)?,
        None => (0, rest),
    };
    // A leap second is read as the second before it.
    let second = number::<i8>(&[*s1, *s2])?;
    let second = if second == 60 { 59 } else { second };
    Some((Time::new(number(&[*h1, *h2])?, number(&[*m1, *m2])?, second, nanos).ok()?, rest))
}

/// The digits of a fraction as nanoseconds. Those after the sixth are ignored: no time is finer than
/// a microsecond, which is what journals and archives have, so that one event's time is the same
/// wherever it was kept.
fn digits_of_second(text: &[u8]) -> Option<(i32, &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let micros = digits.iter().chain(std::iter::repeat(&b'0')).take(6);
    Some((micros.fold(0, |micros, digit| micros * 10 + i32::from(digit - b'0')) * 1000, rest))
}

/// Parses `+02:00`, `+0200` and `+02`.
fn with_offset(civil: DateTime, text: &[u8]) -> Option<(LineTime, &[u8])> {
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
    Some((LineTime::Exact(moment), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(String, String)> {
        let (when, rest) = front(line.as_bytes())?;
        let when = match when {
            LineTime::Exact(moment) => moment.to_string(),
            LineTime::Civil(civil) | LineTime::Yearless(civil) => civil.to_string(),
            LineTime::Slashed { .. } | LineTime::Unknown => unreachable!(),
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
            ("2026-05-12T12:48:00.123456789Z h", "2026-05-12T12:48:00.123456Z", " h"),
            ("1795460022.9999999999 h", "2026-11-23T18:53:42.999999Z", " h"),
            ("2026-05-12T12:48:00-0230 h", "2026-05-12T15:18:00Z", " h"),
            ("<134>1 2026-05-12T12:48:00.5Z h", "2026-05-12T12:48:00.5Z", " h"),
            ("2026-05-12T12:48:60 h", "2026-05-12T12:48:59", " h"),
            ("2026-11-23 18:53:42.703+0000: 26269: info", "2026-11-23T18:53:42.703Z", ": 26269: info"),
            ("2011-11-23 18:53:42.703: 26269: info", "2011-11-23T18:53:42.703", ": 26269: info"),
            ("Wed 2026-11-25 02:02:25 UTC h", "2026-11-25T02:02:25Z", " h"),
            ("Wed 2026-11-25 02:02:25.000001 CET h", "2026-11-25T02:02:25.000001", " h"),
            ("Wed 2026-11-25 02:02:25 +03 h", "2026-11-24T23:02:25Z", " h"),
            ("1795460308.832000 host1 audit", "2026-11-23T18:58:28.832Z", " host1 audit"),
            ("mai 12 12:48:00 h", "0000-05-12T12:48:00", " h"),
            ("Mär  2 12:48:00 h", "0000-03-02T12:48:00", " h"),
            ("сен 19 18:16:45 h", "0000-09-19T18:16:45", " h"),
            (" 9月 19 18:16:45 h", "0000-09-19T18:16:45", " h"),
            ("12月  9 18:16:45 h", "0000-12-09T18:16:45", " h"),
            ("9월 19 18:16:45 h", "0000-09-19T18:16:45", " h"),
            ("19 sept. 18:16:45 h", "0000-09-19T18:16:45", " h"),
            ("Sep 19 2022 18:16:45 h", "2022-09-19T18:16:45", " h"),
            ("Mon Sep 19 18:16:45 2022 h", "2022-09-19T18:16:45", " h"),
            ("lun. 2022-09-19 18:16:45 CEST h", "2022-09-19T18:16:45", " h"),
            ("kern.notice Sep 19 18:16:45 h", "0000-09-19T18:16:45", " h"),
            ("local3.warning 2022-09-19T18:16:45 h", "2022-09-19T18:16:45", " h"),
            ("info Sep 19 18:16:45 h", "0000-09-19T18:16:45", " h"),
        ] {
            assert_eq!(parsed(line), Some((when.to_owned(), rest.to_owned())), "{line}");
        }
    }

    #[test]
    fn invalid_times_are_refused() {
        for line in [
            "",
            "May",
            "May 12",
            "May 12 12:48:00",
            "May 12 12:48:00x",
            "May 32 12:48:00 h",
            "Mey 12 12:48:00 h",
            "13月 12 12:48:00 h",
            "kern.loud Sep 19 18:16:45 h",
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
            assert_eq!(parsed(line), None, "{line}");
        }
    }
}
