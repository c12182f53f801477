//! The figure's time axis: round times of the zone, so many as there is room for.

use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::element::Svg;
use super::{GUTTER, LINE, MUTED, TEXT, WIDTH};
use crate::style::TimeFormat;

/// How many ticks there are at most.
const MAX_TICKS: i64 = 9;

/// The distances of ticks, in milliseconds; longer ones are whole days.
const STEPS: [i64; 20] = [
    1,
    10,
    100,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    30_000,
    60_000,
    2 * 60_000,
    5 * 60_000,
    10 * 60_000,
    30 * 60_000,
    HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    7 * DAY,
];
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

#[derive(Debug)]
pub(super) struct Axis {
    from: Timestamp,
    until: Timestamp,
    left: f64,
    right: f64,
    zone: TimeZone,
}

impl Axis {
    pub(super) fn new(
        from: Timestamp,
        until: Timestamp,
        (left, right): (f64, f64),
        clock: &TimeFormat,
    ) -> Self {
        Self { from, until, left, right, zone: clock.zone().clone() }
    }

    /// The place of a time; one outside is at the edge.
    #[allow(clippy::cast_precision_loss)] // Of pixels.
    pub(super) fn x(&self, time: Timestamp) -> f64 {
        let all = (self.until.as_millisecond() - self.from.as_millisecond()) as f64;
        let since = (time.as_millisecond() - self.from.as_millisecond()) as f64;
        self.left + (since / all).clamp(0.0, 1.0) * (self.right - self.left)
    }

    pub(super) fn draw(&self, svg: &mut Svg, top: f64, bottom: f64) {
        let mut last_day = None;
        for (time, local, step) in self.ticks() {
            let x = self.x(time);
            svg.line(&[(x, top), (x, bottom)], "stroke=\"#edf0f5\"");
            let day = local.date();
            let text = if step >= DAY { day.to_string() } else { clock_text(local, step) };
            svg.text(x, top - 8.0, &text, &format!("text-anchor=\"middle\" fill=\"{MUTED}\""));
            if step < DAY && last_day != Some(day) {
                let look = format!("text-anchor=\"middle\" font-weight=\"600\" fill=\"{TEXT}\"");
                svg.text(x, top - 24.0, &day.to_string(), &look);
            }
            last_day = Some(day);
        }
        svg.line(&[(0.0, top), (WIDTH, top)], &format!("stroke=\"{LINE}\""));
        svg.line(&[(GUTTER, top), (GUTTER, bottom)], &format!("stroke=\"{LINE}\""));
        svg.line(&[(0.0, bottom), (WIDTH, bottom)], &format!("stroke=\"{LINE}\""));
    }

    /// Round times of the zone, each with its local time and the distance between two.
    fn ticks(&self) -> Vec<(Timestamp, DateTime, i64)> {
        let all = self.until.as_millisecond() - self.from.as_millisecond();
        let fits = |step: &&i64| all / **step <= MAX_TICKS;
        let step = STEPS.iter().find(fits).copied();
        let step = step.unwrap_or_else(|| (all / DAY / MAX_TICKS + 1) * DAY);
        let first = self.zone.to_datetime(self.from);
        let epoch = date(1970, 1, 1).at(0, 0, 0, 0);
        let since = first.duration_since(epoch).as_millis();
        let step_wide = i128::from(step);
        let mut ticks = Vec::new();
        for nth in 0..=MAX_TICKS + 1 {
            let at = (since.div_euclid(step_wide) + i128::from(nth)) * step_wide;
            let Ok(at) = i64::try_from(at) else { break };
            let Ok(local) = epoch.checked_add(at.milliseconds()) else { break };
            let Ok(time) = self.zone.to_timestamp(local) else { continue };
            if time >= self.from && time <= self.until {
                ticks.push((time, local, step));
            }
        }
        ticks
    }
}

fn clock_text(time: DateTime, step: i64) -> String {
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    match step {
        60_000.. => format!("{hour:02}:{minute:02}"),
        1_000.. => format!("{hour:02}:{minute:02}:{second:02}"),
        _ => format!("{hour:02}:{minute:02}:{second:02}.{:03}", time.millisecond()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Style;

    fn ticks(from: &str, until: &str) -> Vec<String> {
        let clock = TimeFormat::new(&Style { utc: true, ..Style::default() });
        let axis = Axis::new(from.parse().unwrap(), until.parse().unwrap(), (0.0, 100.0), &clock);
        axis.ticks().iter().map(|(_, local, step)| clock_text(*local, *step)).collect()
    }

    #[test]
    fn ticks_are_at_round_times() {
        assert_eq!(
            ticks("2026-11-23T18:53:49.9Z", "2026-11-23T18:54:31Z"),
            [
                "18:53:50", "18:53:55", "18:54:00", "18:54:05", "18:54:10", "18:54:15", "18:54:20",
                "18:54:25", "18:54:30"
            ]
        );
        assert_eq!(ticks("2026-11-23T18:53:00Z", "2026-11-24T01:00:00Z").len(), 7);
        assert_eq!(ticks("2020-11-23T18:53:00Z", "2026-11-24T01:00:00Z").len(), 9);
        assert_eq!(ticks("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.003Z").len(), 4);
    }

    #[test]
    fn times_outside_are_at_the_edges() {
        let clock = TimeFormat::new(&Style { utc: true, ..Style::default() });
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let (from, until) = (time("2026-11-23T18:00:00Z"), time("2026-11-23T20:00:00Z"));
        let axis = Axis::new(from, until, (10.0, 110.0), &clock);
        assert_eq!(axis.x(time("2026-11-23T19:00:00Z")), 60.0);
        assert_eq!((axis.x(Timestamp::MIN), axis.x(Timestamp::MAX)), (10.0, 110.0));
    }
}
