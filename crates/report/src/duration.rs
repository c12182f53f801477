use std::fmt::{self, Display};

use jiff::SignedDuration;

/// A length of time in its two largest units: `2.752 s`, `3 min 20 s`, `4 h 5 min`, `12 d 3 h`.
pub(crate) fn duration(length: SignedDuration) -> impl Display {
    let (seconds, millis) = (length.as_secs().unsigned_abs(), length.subsec_millis().unsigned_abs());
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    fmt::from_fn(move |f| match () {
        () if minutes == 0 => write!(f, "{seconds}.{millis:03} s"),
        () if hours == 0 => write!(f, "{minutes} min {} s", seconds % 60),
        () if days == 0 => write!(f, "{hours} h {} min", minutes % 60),
        () => write!(f, "{days} d {} h", hours % 24),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_its_two_largest_units() {
        for (millis, text) in [
            (0, "0.000 s"),
            (2_752, "2.752 s"),
            (59_999, "59.999 s"),
            (60_000, "1 min 0 s"),
            (3_599_999, "59 min 59 s"),
            (3_600_000, "1 h 0 min"),
            (86_399_999, "23 h 59 min"),
            (86_400_000, "1 d 0 h"),
            (400 * 86_400_000 + 7_200_000, "400 d 2 h"),
        ] {
            assert_eq!(duration(SignedDuration::from_millis(millis)).to_string(), text);
        }
    }
}
