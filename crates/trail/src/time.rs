//! Times in JSON: RFC 3339, UTC, milliseconds (`2026-11-23T20:31:05.017Z`). And sums of times from
//! logs, which may exceed the calendar's range.

use jiff::{SignedDuration, Timestamp};
use serde::Serializer;

pub(crate) fn after(at: Timestamp, within: SignedDuration) -> Timestamp {
    at.checked_add(within).unwrap_or(Timestamp::MAX)
}

pub(crate) mod exact {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{time:.3}"))
    }
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
