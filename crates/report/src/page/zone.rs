//! A time zone as a page needs it: a browser may not know the host's.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

/// How many changes of the offset a page has at most.
const MAX_CHANGES: usize = 2000;

/// A zone's name, and its offsets in some time.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Zone {
    name: String,
    /// From when on which offset is in force: milliseconds since 1970 (the first is null), seconds
    /// east of UTC, and the abbreviation.
    offsets: Vec<(Option<i64>, i32, String)>,
}

impl Zone {
    pub(super) fn of(zone: &TimeZone, from: Timestamp, until: Timestamp) -> Self {
        let offset = |at: Timestamp| {
            let info = zone.to_offset_info(at);
            (info.offset().seconds(), info.abbreviation().to_owned())
        };
        let (seconds, abbreviation) = offset(from);
        let mut offsets = vec![(None, seconds, abbreviation)];
        for change in zone.following(from).take_while(|change| change.timestamp() <= until).take(MAX_CHANGES)
        {
            let (seconds, abbreviation) = offset(change.timestamp());
            offsets.push((Some(change.timestamp().as_millisecond()), seconds, abbreviation));
        }
        Self { name: name(zone), offsets }
    }
}

/// The zone's name; its offset now, where it has none.
pub(super) fn name(zone: &TimeZone) -> String {
    match zone.iana_name() {
        Some(name) => name.to_owned(),
        None if *zone == TimeZone::UTC => "UTC".to_owned(),
        None => "this host's zone".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_has_the_changes_of_the_time_in_question() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let zone = Zone::of(&berlin, time("2026-01-01T00:00:00Z"), time("2026-12-31T00:00:00Z"));
        let expected = [
            (None, 3600, "CET"),
            (Some(time("2026-03-29T01:00:00Z").as_millisecond()), 7200, "CEST"),
            (Some(time("2026-10-25T01:00:00Z").as_millisecond()), 3600, "CET"),
        ];
        assert_eq!(zone.name, "Europe/Berlin");
        assert_eq!(zone.offsets, expected.map(|(at, seconds, name)| (at, seconds, name.to_owned())));
        let utc = Zone::of(&TimeZone::UTC, Timestamp::MIN, Timestamp::MAX);
        assert_eq!((utc.name.as_str(), utc.offsets.len()), ("UTC", 1));
    }
}
