//! The questions.

use std::fmt;

use crate::{Day, Table};

use super::Parameters;

/// A question that one SQL text answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    /// Who held a MAC at a time.
    Who,
    /// Who held a device at a time.
    Device,
    /// Whole holdings of a guest, interface or host, or all.
    Trail,
    /// Devices that no QEMU got.
    NeverGranted,
    /// Holdings of each kind and day.
    Count,
    /// One MAC on two hosts at once.
    MacOnTwoHosts,
    /// Hosts without records for longer than a time.
    SilentHosts,
    /// Hosts whose clock is ahead.
    ClockSkew,
    /// Findings, the gravest first.
    Findings,
    /// How many findings there are of each kind.
    FindingsByKind,
    /// Hosts of which nothing is known at a time.
    UnknownHosts,
}

/// A column of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it has.
    pub column_type: ColumnType,
}

/// What a column has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// Text.
    Text,
    /// Numbers.
    Int,
    /// Times.
    Time,
    /// Days: text, as `2026-11-29`.
    Day,
}

/// The days whose objects a question reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Days {
    /// All of the lake.
    All,
    /// Those of the time asked for.
    At,
    /// The day of the time asked for, and later ones.
    FromAt,
    /// Those of the time range.
    Range,
    /// Those before the end of the time range.
    UntilEnd,
    /// Those since the beginning of the time range.
    FromStart,
}

const HOST: Column = text("host");
const GUEST: [Column; 3] = [text("guest"), text("uuid"), text("mac")];
const DEVICE: [Column; 2] = [text("kind"), text("path")];

const fn text(name: &'static str) -> Column {
    Column { name, column_type: ColumnType::Text }
}

const fn int(name: &'static str) -> Column {
    Column { name, column_type: ColumnType::Int }
}

const fn time(name: &'static str) -> Column {
    Column { name, column_type: ColumnType::Time }
}

impl Question {
    /// All questions.
    pub const ALL: [Self; 11] = [
        Self::Who,
        Self::Device,
        Self::Trail,
        Self::NeverGranted,
        Self::Count,
        Self::MacOnTwoHosts,
        Self::SilentHosts,
        Self::ClockSkew,
        Self::Findings,
        Self::FindingsByKind,
        Self::UnknownHosts,
    ];

    /// Its name on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Who => "who",
            Self::Device => "device",
            Self::Trail => "trail",
            Self::NeverGranted => "never-granted",
            Self::Count => "count",
            Self::MacOnTwoHosts => "mac-on-two-hosts",
            Self::SilentHosts => "silent-hosts",
            Self::ClockSkew => "clock-skew",
            Self::Findings => "findings",
            Self::FindingsByKind => "findings-by-kind",
            Self::UnknownHosts => "unknown-hosts",
        }
    }

    /// What it asks, in one line.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Who => "Who held the MAC of --mac at --at, and where",
            Self::Device => "Who held the device of --device at --at: all vhost-nets, for example",
            Self::Trail => {
                "Whole holdings of a guest, MAC, device or host, or all, with what is known of each"
            }
            Self::NeverGranted => "Devices that were opened, and that QEMU never got",
            Self::Count => "Holdings of each day and kind of device",
            Self::MacOnTwoHosts => "MACs that two hosts had at once: live migrations, and copied addresses",
            Self::SilentHosts => "Hosts without records for longer than --longer-than",
            Self::ClockSkew => "Hosts whose clock is ahead of the object store's",
            Self::Findings => "Findings, the gravest first",
            Self::FindingsByKind => "Number of findings of each kind, and of their hosts",
            Self::UnknownHosts => "Hosts of which it is not known what was held at --at",
        }
    }

    /// Its text, for all engines: what is in `{{…}}` differs between them.
    pub fn template(self) -> &'static str {
        match self {
            Self::Who => include_str!("questions/who.sql"),
            Self::Device => include_str!("questions/device.sql"),
            Self::Trail => include_str!("questions/trail.sql"),
            Self::NeverGranted => include_str!("questions/never_granted.sql"),
            Self::Count => include_str!("questions/count.sql"),
            Self::MacOnTwoHosts => include_str!("questions/mac_on_two_hosts.sql"),
            Self::SilentHosts => include_str!("questions/silent_hosts.sql"),
            Self::ClockSkew => include_str!("questions/clock_skew.sql"),
            Self::Findings => include_str!("questions/findings.sql"),
            Self::FindingsByKind => include_str!("questions/findings_by_kind.sql"),
            Self::UnknownHosts => include_str!("questions/unknown_hosts.sql"),
        }
    }

    /// The table that it reads.
    pub fn table(self) -> Table {
        match self {
            Self::Who
            | Self::Device
            | Self::Trail
            | Self::NeverGranted
            | Self::Count
            | Self::MacOnTwoHosts => Table::Held,
            Self::SilentHosts | Self::ClockSkew | Self::UnknownHosts => Table::Coverage,
            Self::Findings | Self::FindingsByKind => Table::Findings,
        }
    }

    /// The days whose objects it reads.
    pub(super) fn days(self) -> Days {
        match self {
            // A holding's last row has all that is known of it.
            Self::Who | Self::Trail | Self::UnknownHosts => Days::All,
            Self::Device => Days::At,
            Self::NeverGranted => Days::FromStart,
            Self::Count | Self::MacOnTwoHosts | Self::Findings | Self::FindingsByKind => Days::Range,
            Self::SilentHosts => Days::UntilEnd,
            Self::ClockSkew => Days::FromAt,
        }
    }

    /// Whether its answer is about one time.
    pub fn needs_time(self) -> bool {
        matches!(self, Self::Who | Self::Device | Self::ClockSkew | Self::UnknownHosts)
    }

    /// What its parameters lack, if they lack something that it needs.
    pub fn lacks(self, parameters: &Parameters) -> Option<&'static str> {
        match self {
            _ if self.needs_time() && parameters.at.is_none() => Some("a time"),
            Self::Who if parameters.mac.is_none() => Some("a MAC"),
            Self::Device if parameters.device.is_none() => Some("a device"),
            _ => None,
        }
    }

    /// The columns of its answer.
    pub fn columns(self) -> Vec<Column> {
        let holding = || [&[HOST], &GUEST[..], &DEVICE].concat();
        match self {
            Self::Who => {
                let more = [time("opened"), time("granted"), time("released"), time("last_seen")];
                let words = [text("state"), text("certainty"), text("holds")];
                [&holding()[..], &[text("dev")], &more, &words].concat()
            }
            Self::Device => {
                let more = [text("rdev"), text("dev"), time("opened"), time("granted")];
                [&holding()[..], &more].concat()
            }
            Self::Trail => {
                let words = ["rdev", "dev", "state", "certainty", "ended_by", "end_doubt"].map(text);
                let times = ["opened", "granted", "released", "last_seen", "uncertain_since"].map(time);
                [&holding()[..], &words, &[int("queues"), int("pid")], &times].concat()
            }
            Self::NeverGranted => {
                let more = [text("dev"), time("opened"), time("released"), text("certainty")];
                [&holding()[..], &more].concat()
            }
            Self::Count => {
                let day = Column { name: "day", column_type: ColumnType::Day };
                vec![day, text("kind"), int("lived"), int("began")]
            }
            Self::MacOnTwoHosts => {
                let names =
                    ["mac", "host", "guest", "uuid", "other_host", "other_guest", "other_uuid", "what"];
                [&names.map(text)[..], &[time("since"), time("until")]].concat()
            }
            Self::SilentHosts => vec![HOST, time("since"), time("until")],
            Self::ClockSkew => vec![HOST, time("latest_record")],
            Self::Findings => {
                let about = ["guest", "uuid", "mac", "device_kind", "path", "dev", "text"].map(text);
                [&[text("severity"), text("kind"), HOST, time("time")], &about[..]].concat()
            }
            Self::FindingsByKind => {
                vec![text("severity"), text("kind"), int("total"), int("hosts")]
            }
            Self::UnknownHosts => {
                vec![HOST, text("why"), time("records_from"), time("records_until")]
            }
        }
    }
}

impl Days {
    /// Whether the objects of a day are read.
    pub(super) fn has(self, day: Day, parameters: &Parameters) -> bool {
        let of = |micros| super::parameters::day_of(micros);
        let from_start = || parameters.start.is_none_or(|start| day >= of(start));
        let until_end = || parameters.end.is_none_or(|end| day <= of(end.saturating_sub(1)));
        match self {
            Self::All => true,
            Self::At => parameters.at.is_some_and(|at| (of(at.first)..=of(at.last)).contains(&day)),
            Self::FromAt => parameters.at.is_some_and(|at| day >= of(at.last)),
            Self::Range => from_start() && until_end(),
            Self::UntilEnd => until_end(),
            Self::FromStart => from_start(),
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
