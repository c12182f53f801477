//! The names of objects.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// A table of the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// A row for each holding and day on which it lived.
    Held,
    /// A row for each run of a guest and day on which it ran.
    Runs,
    /// Findings.
    Findings,
    /// The times of which each host's records are there.
    Coverage,
    /// The entries from which everything else is derived.
    Records,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 5] = [Self::Held, Self::Runs, Self::Findings, Self::Coverage, Self::Records];

    /// Its name in paths and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Runs => "runs",
            Self::Findings => "findings",
            Self::Coverage => "coverage",
            Self::Records => "records",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A day, in UTC: the partition of every table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(Date);

impl Day {
    /// The day of a time.
    pub fn of(time: Timestamp) -> Self {
        Self(time.to_zoned_datetime(TimeZone::UTC).date())
    }

    /// Its first moment.
    pub fn start(self) -> Timestamp {
        // The calendar has one day more at each end than times have.
        let outside = if self.0.year() < 0 { Timestamp::MIN } else { Timestamp::MAX };
        TimeZone::UTC.to_timestamp(self.0.into()).unwrap_or(outside)
    }

    /// The first moment of the next day.
    pub fn end(self) -> Timestamp {
        self.next().map_or(Timestamp::MAX, Self::start)
    }

    /// The next day, if the calendar has one.
    pub fn next(self) -> Option<Self> {
        self.0.tomorrow().ok().map(Self)
    }

    /// The first day of its month.
    pub(crate) fn first_of_month(self) -> Self {
        Self(self.0.first_of_month())
    }

    /// The last day of its month.
    pub(crate) fn last_of_month(self) -> Self {
        Self(self.0.last_of_month())
    }

    /// How many days later another day is; 0 if it is earlier.
    pub(crate) fn days_until(self, other: Self) -> usize {
        let days = (other.0 - self.0).get_days();
        usize::try_from(days).unwrap_or(0)
    }

    /// The day before, if the calendar has one.
    pub fn previous(self) -> Option<Self> {
        self.0.yesterday().ok().map(Self)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Day {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        text.parse().map(Self)
    }
}

/// The name of a batch: the first half of the SHA-256 over its objects, in hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(String);

impl BatchId {
    /// The number of hex digits.
    const DIGITS: usize = 32;

    /// The batch with these objects' SHA-256 sums, in the order of their names.
    pub fn of<'a>(sums: impl Iterator<Item = &'a str>) -> Self {
        let mut all = ring::digest::Context::new(&ring::digest::SHA256);
        sums.for_each(|sum| all.update(sum.as_bytes()));
        let mut name = hex(all.finish().as_ref());
        name.truncate(Self::DIGITS);
        Self(name)
    }

    /// The name in a path, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (text.len() == Self::DIGITS && is_hex).then(|| Self(text.to_owned()))
    }

    /// The batch of a manifest's path, if it is one.
    pub fn of_manifest(path: &str) -> Option<Self> {
        Self::parse(path.strip_prefix(BATCHES)?.strip_prefix('/')?.strip_suffix(".json")?)
    }

    /// The path of its manifest.
    pub fn manifest(&self) -> String {
        format!("{BATCHES}/{}.json", self.0)
    }

    /// The path of an object of a batch, with this SHA-256 in hex. Two batches may have it.
    pub fn object(table: Table, day: Day, sha256: &str) -> String {
        format!("{INBOX}/{table}/day={day}/{}.parquet", sha256.get(..Self::DIGITS).unwrap_or(sha256))
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The number of a snapshot of the compacted tables, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl Generation {
    /// The generation of a manifest's path, if it is one.
    pub fn of_manifest(path: &str) -> Option<Self> {
        let number = path.strip_prefix(GENERATIONS)?.strip_prefix('/')?.strip_suffix(".json")?;
        (number.len() == 8).then(|| number.parse().ok()).flatten().map(Self)
    }

    /// The path of its manifest.
    pub fn manifest(self) -> String {
        format!("{GENERATIONS}/{:08}.json", self.0)
    }

    /// The path of its object of a table and day, with this SHA-256 in hex: two that compact at the
    /// same time do not write the same object.
    pub fn object(self, table: Table, day: Day, sha256: &str) -> String {
        let sum = sha256.get(..16).unwrap_or(sha256);
        format!("{table}/day={day}/g{:08}-{sum}.parquet", self.0)
    }

    /// The path of an object of a month, with this SHA-256 in hex. `first`: the month's first day.
    pub(crate) fn month(self, table: Table, first: Day, sha256: &str) -> String {
        let sum = sha256.get(..16).unwrap_or(sha256);
        format!("{}g{:08}-{sum}.parquet", month_folder(table, first), self.0)
    }

    /// The path of an object of its summary, with this SHA-256 in hex.
    pub fn summary(self, table: Table, sha256: &str) -> String {
        let sum = sha256.get(..16).unwrap_or(sha256);
        format!("{SUMMARIES}/{table}/g{:08}-{sum}.parquet", self.0)
    }
}

/// The folder of what is not compacted.
pub const INBOX: &str = "inbox";

/// The folder of the batches' manifests.
pub const BATCHES: &str = "inbox/batches";

/// The folder of the snapshots' summaries.
pub const SUMMARIES: &str = "summaries";

/// The folder of what months have.
pub const MONTHS: &str = "months";

/// The folder of a table's objects of one month, which begins with this day.
pub(crate) fn month_folder(table: Table, first: Day) -> String {
    format!("{MONTHS}/{table}/month={}/", first.0.strftime("%Y-%m"))
}

/// The folder of the snapshots' manifests.
pub const GENERATIONS: &str = "generations";

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let day: Day = "2026-11-29".parse().unwrap();
        assert_eq!(day.end(), "2026-11-30T00:00:00Z".parse().unwrap());
        assert_eq!((Day::of(day.start()), day.next().and_then(Day::previous)), (day, Some(day)));
        let batch = BatchId::of(["aa", "bb"].into_iter());
        assert_eq!(BatchId::parse(&batch.to_string()), Some(batch.clone()));
        let path = BatchId::object(Table::Held, day, "0123456789abcdef0123456789abcdef0");
        assert_eq!(path, "inbox/held/day=2026-11-29/0123456789abcdef0123456789abcdef.parquet");
        let path = Generation(7).object(Table::Runs, day, "0123456789abcdef0123456789abcdef");
        assert_eq!(path, "runs/day=2026-11-29/g00000007-0123456789abcdef.parquet");
        let path = Generation(7).month(Table::Runs, day.first_of_month(), "0123456789abcdef0123456789abcdef");
        assert_eq!(path, "months/runs/month=2026-11/g00000007-0123456789abcdef.parquet");
        assert_eq!(BatchId::of_manifest(&batch.manifest()), Some(batch.clone()));
        assert_eq!(Generation::of_manifest(&Generation(7).manifest()), Some(Generation(7)));
        for other in ["generations/7.json", "generations/00000007.json.minisig", "x/00000007.json"] {
            assert_eq!(Generation::of_manifest(other), None, "{other}");
        }
        assert_eq!(BatchId::parse("../../x"), None);
    }
}
