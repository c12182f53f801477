//! Converts arguments into a filter.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use taptrail_report::{Filter, QueryRange};

use super::boot_time::booted;
use super::time_range::{TimeRange, parse};
use crate::cli::{Scope, Selection, Times};
use crate::output::Failure;

/// The moment that an option's value names.
pub(crate) fn moment(option: &str, text: &str) -> Result<Timestamp, Failure> {
    Ok(Query::new(false).time(option, Some(text))?.map_or(Timestamp::MIN, |when| when.from))
}

/// A filter in the making.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) filter: Filter,
    /// The current time, in the zone for times without one.
    now: ZonedDateTime,
}

impl Query {
    pub(crate) fn new(utc: bool) -> Self {
        let zone = if utc { TimeZone::UTC } else { TimeZone::system() };
        Self { filter: Filter::default(), now: Timestamp::now().to_zoned_datetime(zone) }
    }

    pub(crate) fn about(&mut self, selection: &Selection) {
        let Selection { guest, mac, device, host } = selection;
        self.filter.guests.clone_from(guest);
        self.filter.mac = *mac;
        self.filter.device.clone_from(device);
        self.filter.host.clone_from(host);
    }

    pub(super) fn range(&mut self, start: Option<&str>, end: Option<&str>) -> Result<(), Failure> {
        self.filter.start = self.time("--start", start)?.map(|when| when.from);
        self.filter.end = self.time("--end", end)?.map(|when| when.to);
        if let Some((start, end)) = self.filter.start.zip(self.filter.end)
            && end < start
        {
            return Err(Failure::input(anyhow::anyhow!(
                "--end is before --start: {end:.3} is before {start:.3}"
            )));
        }
        Ok(())
    }

    pub(crate) fn times(&mut self, times: &Times) -> Result<(), Failure> {
        self.range(times.start.as_deref(), times.end.as_deref())
    }

    pub(crate) fn at(&mut self, at: Option<&str>) -> Result<(), Failure> {
        self.filter.at = self.time("--at", at)?.map(|TimeRange { from, to }| QueryRange { from, to });
        Ok(())
    }

    pub(super) fn scope(&mut self, scope: &Scope) -> Result<(), Failure> {
        self.filter.host.clone_from(&scope.host);
        self.at(scope.at.as_deref())
    }

    /// Whether a text is a time.
    pub(super) fn is_time(&self, text: &str) -> bool {
        parse(text, &self.now, booted()).is_ok()
    }

    fn time(&self, option: &str, text: Option<&str>) -> Result<Option<TimeRange>, Failure> {
        let Some(text) = text else { return Ok(None) };
        match parse(text, &self.now, booted()) {
            Ok(when) => Ok(Some(when)),
            Err(error) => {
                Err(Failure::input(anyhow::Error::new(error).context(format!("{option} can't be used"))))
            }
        }
    }
}
