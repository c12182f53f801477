//! Times in JSON: RFC 3339, UTC, milliseconds (`2026-11-23T20:31:05.017Z`). And sums of times from
//! logs, which may exceed the calendar's range.

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use serde::Serializer;
use serde::ser::Error as _;

pub(crate) fn after(at: Timestamp, within: SignedDuration) -> Timestamp {
    at.checked_add(within).unwrap_or(Timestamp::MAX)
}

pub(crate) mod exact {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        match digits(*time) {
            Some(text) => to.serialize_str(std::str::from_utf8(&text).map_err(S::Error::custom)?),
            None => to.collect_str(&format_args!("{time:.3}")),
        }
    }
}

/// The time as text; none before the year 0.
///
/// A large trail has millions of times, and jiff's own formatting takes several times as long.
fn digits(time: Timestamp) -> Option<[u8; 24]> {
    let time = Offset::UTC.to_datetime(time);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut put = |end: usize, number: u32| {
        let mut rest = number;
        for digit in text[..end].iter_mut().rev().take_while(|digit| digit.is_ascii_digit()) {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
    };
    put(4, u32::try_from(time.year()).ok()?);
    let two =
        [(7, time.month()), (10, time.day()), (13, time.hour()), (16, time.minute()), (19, time.second())];
    for (end, number) in two {
        put(end, u32::from(number.unsigned_abs()));
    }
    put(23, time.millisecond().unsigned_abs().into());
    Some(text)
}

pub(crate) mod maybe {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => exact::serialize(time, to),
            None => to.serialize_none(),
        }
    }
}

pub(crate) fn each<S: Serializer>(times: &[Timestamp], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(times.iter().map(|time| format!("{time:.3}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_jiff_writes_them() {
        let seconds = [Timestamp::MIN.as_second(), -62_167_219_201, -62_167_219_200, -1, 0, 1_795_460_022];
        let leap_days = [951_782_399, 951_782_400, 1_709_251_199, 253_402_207_200];
        for second in seconds.into_iter().chain(leap_days) {
            for nanos in [0, 1, 999_999, 1_000_000, 944_600_000, 999_999_999] {
                let time = Timestamp::new(second, nanos).unwrap();
                let text = exact::serialize(&time, serde_json::value::Serializer).unwrap();
                assert_eq!(text, format!("{time:.3}"));
            }
        }
        assert_eq!(digits(Timestamp::UNIX_EPOCH), Some(*b"1970-01-01T00:00:00.000Z"));
        assert_eq!(digits(Timestamp::MIN), None, "before the year 0");
    }
}
