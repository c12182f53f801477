//! Parses dates in a locale's format, as printed by `ausearch -i` and `audisp-syslog`.

use bstr::ByteSlice as _;
use jiff::civil::{Date, Time};

use super::stamp::{month_of, number, time_of_day};
use crate::parsed_line::LineTime;

/// Parses a date in a locale's format, and a time of day with a fraction.
pub(super) fn local(date: &[u8], time: &[u8]) -> Option<LineTime> {
    let (time, rest) = time_of_day(time)?;
    // The longest date has a weekday in brackets.
    if !rest.is_empty() || date.len() > 64 {
        return None;
    }
    if date.is_ascii() { plain(date, time, false) } else { foreign(date.to_str().ok()?, time) }
}

/// Parses digits and separators. `year_first`: a year of two digits comes first.
fn plain(date: &[u8], time: Time, year_first: bool) -> Option<LineTime> {
    let date = date.trim_with(|c| c == ' ');
    let separator = *date.iter().find(|byte| !byte.is_ascii_digit())?;
    if separator == b' ' || !date.first().is_some_and(u8::is_ascii_digit) {
        return worded(date, time);
    }
    let mut parts = date.split(|byte| *byte == separator);
    let (a, b, c) = (parts.next()?, parts.next()?, parts.next()?);
    // "25.11.2026." and the like end with a separator.
    if parts.any(|rest| !rest.is_empty()) {
        return None;
    }
    let civil = |year, month, day| Some(LineTime::Civil(Date::new(year, month, day).ok()?.to_datetime(time)));
    match (a.len(), separator) {
        (4, _) => civil(year(a)?, number(b)?, number(c)?),
        (2, _) if year_first => civil(year(a)?, number(b)?, number(c)?),
        (1 | 2, b'.' | b'-') => civil(year(c)?, number(b)?, number(a)?),
        (1 | 2, b'/') => {
            let (first, second, year) = (number(a)?, number(b)?, year(c)?);
            let is_date = Date::new(year, first, second).is_ok() || Date::new(year, second, first).is_ok();
            is_date.then_some(LineTime::Slashed { first, second, year, time })
        }
        _ => None,
    }
}

/// Parses `19 Sep, 2022` and `Sep 19, 2022`, in any language.
fn worded(date: &[u8], time: Time) -> Option<LineTime> {
    let mut words = date.split_str(b" ").filter(|word| !word.is_empty());
    let (a, b, c) = (words.next()?, words.next()?, words.next()?);
    let bare = |word: &'_ [u8]| word.trim_end_with(|c| matches!(c, ',' | '\u{60c}')).len();
    let (a, b) = (&a[..bare(a)], &b[..bare(b)]);
    let (month, day) = match (month_of(a), month_of(b)) {
        (Some(month), None) => (month, number(b)?),
        (None, Some(month)) => (month, number(a)?),
        _ => return None,
    };
    let date = Date::new(year(c)?, month, day).ok()?;
    words.next().is_none().then(|| LineTime::Civil(date.to_datetime(time)))
}

/// Parses a date with non-ASCII digits, or with words for year, month and day.
fn foreign(date: &str, time: Time) -> Option<LineTime> {
    let (mut text, mut persian, mut bracket) = (String::new(), false, false);
    for c in date.chars() {
        match c {
            '(' | '（' => bracket = true,
            ')' | '）' => bracket = false,
            _ if bracket => {}
            '年' | '月' | '년' | '월' => text.push('-'),
            // The words for day and era, direction marks, and blanks after such words.
            '日' | '일' | '西' | '元' | '\u{200e}' | '\u{200f}' => {}
            ' ' if text.ends_with('-') || text.is_empty() => {}
            _ => match digit(c) {
                Some(digit) => {
                    persian |= ('\u{6f0}'..='\u{6f9}').contains(&c);
                    text.push(digit);
                }
                None => text.push(c),
            },
        }
    }
    plain(text.trim_end_matches([' ', '-']).as_bytes(), time, persian)
}

/// The digits of some scripts, each ten in a row: Arabic, Persian, Devanagari, Bengali, Thai.
fn digit(c: char) -> Option<char> {
    let value = ['\u{660}', '\u{6f0}', '\u{966}', '\u{9e6}', '\u{e50}']
        .iter()
        .find_map(|zero| u32::from(c).checked_sub(u32::from(*zero)).filter(|value| *value < 10))?;
    char::from_digit(value, 10)
}

/// Years by which the Buddhist era is ahead.
const BUDDHIST_ERA_YEARS: i16 = 543;

/// Parses a year of four digits, or of two like strptime(3). 2443 and later are of the Buddhist
/// era.
fn year(text: &[u8]) -> Option<i16> {
    match (text.len(), number(text)?) {
        (4, year @ 2443..=2742) => Some(year - BUDDHIST_ERA_YEARS),
        (4, year) => Some(year),
        (2, year @ 0..69) => Some(2000 + year),
        (2, year) => Some(1900 + year),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_locales_write_them() {
        let civil = |date: &str| match local(date.as_bytes(), b"17:01:05.891") {
            Some(LineTime::Civil(civil)) => Some(civil.to_string()),
            Some(LineTime::Slashed { first, second, year, .. }) => Some(format!("{first}/{second}/{year}")),
            _ => None,
        };
        for (date, expected) in [
            ("08/05/2014", "8/5/2014"),
            ("25/11/26", "25/11/2026"),
            ("11/25/69", "11/25/1969"),
            ("25.11.2026", "2026-11-25T17:01:05.891"),
            ("25.11.2026.", "2026-11-25T17:01:05.891"),
            ("25-11-26", "2026-11-25T17:01:05.891"),
            ("2026-11-25", "2026-11-25T17:01:05.891"),
            ("2026/11/25", "2026-11-25T17:01:05.891"),
            ("2022年09月19日", "2022-09-19T17:01:05.891"),
            ("西元2022年09月19日 (週一)", "2022-09-19T17:01:05.891"),
            ("2022년 09월 19일", "2022-09-19T17:01:05.891"),
            ("۲۲/۰۹/۱۹", "2022-09-19T17:01:05.891"),
            ("۲۰۲۲/۰۹/۱۹", "2022-09-19T17:01:05.891"),
            ("١٩/٠٩/٢٠٢٢", "19/9/2022"),
            ("19/09/2565", "19/9/2022"),
            ("๑๙/๐๙/๒๕๖๕", "19/9/2022"),
            ("19 سبتمبر, 2022", "2022-09-19T17:01:05.891"),
            ("19 sept. 2022", "2022-09-19T17:01:05.891"),
            ("Sep 19, 2022", "2022-09-19T17:01:05.891"),
        ] {
            assert_eq!(civil(date).as_deref(), Some(expected), "{date}");
        }
        for date in
            ["", "/", "13/13/2014", "30/02/2014", "1/2", "08/05/2014/1", "08/05/201", "123/1/2014", "a/b/c"]
        {
            assert_eq!(civil(date), None, "{date}");
        }
    }
}
