use proptest::prelude::*;

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
        assert!(error.contains(text) && error.contains(what) && error.contains("Europe/Berlin"), "{error}");
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
        "23.11.26",
        "23.11.12026",
        "23.11.+026",
        "23.11.2026 20",
        "tuesda",
        "tu",
        "tue 25:00",
        "tue x",
        "tue tue",
        "tuesday14:05",
        "2026-11-23 20",
        "2026-11-23 25:00",
        "2026-11-23 20:31:05:17",
        "2026-11-23 20:31:05 Europe/Berlin",
        "2026-11-23 20:31:05+",
        "2026-11-23 20:31 CET",
        "2026-11-23 20:31+01:00 UTC",
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
fn a_day_that_is_not_in_the_calendar_is_named() {
    for text in
        ["32.11.2026", "11.23.2026", "2026-02-30", "2026-11-31 10:00", "13/40/2026", "24/11/2026 14:05"]
    {
        let error = read(text).unwrap_err();
        assert!(matches!(error, TimeError::NoDay(_)), "{text}: {error:?}");
    }
}

#[test]
fn a_zone_may_stand_apart() {
    names("2026-11-23 20:31:05.017 UTC", "2026-11-23T20:31:05.017Z", "2026-11-23T20:31:05.018Z");
    names("2026-11-23 20:31 +05:30", "2026-11-23T15:01:00Z", "2026-11-23T15:02:00Z");
    names("mon 18:00 UTC", "2026-11-23T18:00:00Z", "2026-11-23T18:01:00Z");
}

#[test]
fn times_beyond_the_calendar_are_refused() {
    for text in ["@999999999999999999999", "1795460022944", "7000000 days ago", "9999-12-31"] {
        assert!(matches!(read(text), Err(TimeError::Impossible(_))), "{text}: {:?}", read(text));
    }
}

#[test]
fn a_weekday_is_the_last_one() {
    // Now is Monday, 20:31 in Berlin.
    names("monday", "2026-11-22T23:00:00Z", "2026-11-23T23:00:00Z");
    names("Mon", "2026-11-22T23:00:00Z", "2026-11-23T23:00:00Z");
    names("tuesday", "2026-11-16T23:00:00Z", "2026-11-17T23:00:00Z");
    names("SUNDAY", "2026-11-21T23:00:00Z", "2026-11-22T23:00:00Z");
    names("tue 14:05", "2026-11-17T13:05:00Z", "2026-11-17T13:06:00Z");
    names("saturday  14:05:07", "2026-11-21T13:05:07Z", "2026-11-21T13:05:08Z");
    names("mon 20:30", "2026-11-23T19:30:00Z", "2026-11-23T19:31:00Z");
    // It has not come yet.
    names("mon 20:32", "2026-11-16T19:32:00Z", "2026-11-16T19:33:00Z");
    names("mon 20:32Z", "2026-11-16T20:32:00Z", "2026-11-16T20:33:00Z");
    names("thu 12:00+01:00", "2026-11-19T11:00:00Z", "2026-11-19T11:01:00Z");
}

#[test]
fn a_weekday_with_a_changed_clock() {
    let parse_at = |text: &str, now: &str| parse(text, &now.parse().unwrap(), None);
    let sunday = "2026-10-25T01:10:00+02:00[Europe/Berlin]";
    // 02:30 will be twice today, and was once a week ago.
    let range = TimeRange { from: at("2026-10-18T00:30:00Z"), to: at("2026-10-18T00:31:00Z") };
    assert_eq!(parse_at("sun 02:30", sunday), Ok(range));
    let monday = "2026-10-26T09:00:00+01:00[Europe/Berlin]";
    assert!(matches!(parse_at("sun 02:30", monday), Err(TimeError::Repeated { .. })));
    let range = TimeRange { from: at("2026-10-24T22:00:00Z"), to: at("2026-10-25T23:00:00Z") };
    assert_eq!(parse_at("sun", monday), Ok(range));
}

#[test]
fn a_date_may_have_its_day_first_with_points() {
    names("23.11.2026", "2026-11-22T23:00:00Z", "2026-11-23T23:00:00Z");
    names("1.2.2026", "2026-01-31T23:00:00Z", "2026-02-01T23:00:00Z");
    names("03.04.2026 05:06", "2026-04-03T03:06:00Z", "2026-04-03T03:07:00Z");
    names("23.11.2026 20:31:05", "2026-11-23T19:31:05Z", "2026-11-23T19:31:06Z");
    names("23.11.2026T20:31:05Z", "2026-11-23T20:31:05Z", "2026-11-23T20:31:06Z");
}

/// Zones with different rules: an hour, half an hour and no change; a midnight that is not there.
const ZONES: [&str; 5] =
    ["Europe/Berlin", "Australia/Lord_Howe", "UTC", "America/Santiago", "Asia/Kathmandu"];

/// Some moment from 2000 to 2037, in some zone.
fn some_now() -> impl Strategy<Value = ZonedDateTime> {
    (946_684_800_i64..2_145_916_800, 0..ZONES.len()).prop_map(|(second, zone)| {
        let zone = TimeZone::get(ZONES[zone]).unwrap();
        Timestamp::from_second(second).unwrap().to_zoned_datetime(zone)
    })
}

proptest! {
    #[test]
    fn a_day_is_all_of_it_however_it_is_written(now in some_now(), ago in 0_i64..4000) {
        let date = now.date().checked_sub(ago.days()).unwrap();
        let day = parse(&date.to_string(), &now, None).unwrap();
        for format in ["%d.%m.%Y", "%-d.%-m.%Y", "%m/%d/%Y"] {
            prop_assert_eq!(parse(&date.strftime(format).to_string(), &now, None), Ok(day));
        }
        let zone = |time: Timestamp| time.to_zoned_datetime(now.time_zone().clone());
        let last = day.to - SignedDuration::from_nanos(1);
        prop_assert_eq!((zone(day.from).date(), zone(last).date()), (date, date));
        prop_assert!(zone(day.from - SignedDuration::from_nanos(1)).date() < date);
        prop_assert!(zone(day.to).date() > date);
    }

    #[test]
    fn a_minute_is_sixty_seconds_and_shows_as_it_was_written(
        now in some_now(), ago in 0_i64..4000, hour in 0_i8..24, minute in 0_i8..60,
    ) {
        let date = now.date().checked_sub(ago.days()).unwrap();
        let written = date.at(hour, minute, 0, 0);
        let text = written.strftime("%Y-%m-%d %H:%M").to_string();
        match parse(&text, &now, None) {
            Ok(range) => {
                prop_assert_eq!(range.to.duration_since(range.from), SignedDuration::from_secs(60));
                prop_assert_eq!(range.from.to_zoned_datetime(now.time_zone().clone()).datetime(), written);
            }
            Err(TimeError::Repeated { first, second, .. } | TimeError::Skipped { first, second, .. }) => {
                let both = [first, second].map(|text| parse(&text, &now, None).unwrap().from);
                prop_assert!(both[0] < both[1], "{both:?}");
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
        let points = written.strftime("%d.%m.%Y %H:%M").to_string();
        prop_assert_eq!(parse(&points, &now, None).ok(), parse(&text, &now, None).ok());
    }

    #[test]
    fn a_weekday_is_within_a_week_and_has_begun(now in some_now(), ago in 0_i64..7, hour in 0_i8..24) {
        let date = now.date().checked_sub(ago.days()).unwrap();
        let name = date.strftime("%A").to_string();
        for text in [name.clone(), name.to_lowercase(), name[..3].to_owned()] {
            let day = parse(&date.to_string(), &now, None);
            prop_assert_eq!(parse(&text, &now, None), day);
            if let Ok(range) = parse(&format!("{text} {hour:02}:00"), &now, None) {
                let then = range.from.to_zoned_datetime(now.time_zone().clone());
                prop_assert_eq!((then.weekday(), then.hour()), (date.weekday(), hour));
                prop_assert!(range.from <= now.timestamp());
                prop_assert!(now.date().since(then.date()).unwrap().get_days() <= 7);
            }
        }
    }

    #[test]
    fn no_text_is_a_panic(text in "\\PC{0,24}", now in some_now()) {
        let _ = parse(&text, &now, None);
    }
}
