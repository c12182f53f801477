//! Timeouts as users write them.

use std::time::Duration;

/// The longest timeout.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// The text is not a duration, or is longer than a day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a time: write 30s, 500ms or 2m")]
pub struct DurationError(String);

/// Parses `30s`, `500ms` or `1m 30s`; a day at most.
///
/// # Errors
/// See [`DurationError`].
pub fn duration(text: &str) -> Result<Duration, DurationError> {
    let time = || {
        let time: jiff::SignedDuration = text.parse().ok()?;
        Duration::try_from(time).ok().filter(|time| *time <= MAX_DURATION)
    };
    time().ok_or_else(|| DurationError(crate::spec::quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_do() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "30", "-1s", "x", "2 days", "25h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
