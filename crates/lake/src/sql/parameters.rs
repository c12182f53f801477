//! What a question is about.

use jiff::Timestamp;
use taptrail_record::MacAddr;
use uuid::Uuid;

use crate::{Day, Micros};

/// A moment, or a time range that is taken as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Its first microsecond.
    pub first: Micros,
    /// Its last one; the same for a single moment.
    pub last: Micros,
}

impl Moment {
    /// The time from `start` to before `end`.
    pub(super) fn range(start: Micros, end: Micros) -> Self {
        Self { first: start, last: end.saturating_sub(1) }
    }
}

/// A device, as a question names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceIs {
    /// By its kind: `tun`, `macvtap`, `vhost-net`.
    Kind(String),
    /// By the path that was opened.
    Path(String),
    /// By its device number.
    Number(String),
    /// By the host interface behind it.
    Interface(String),
}

/// What a question is about. A question uses what it has a use for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The interface's address.
    pub mac: Option<MacAddr>,
    /// The guest's uuid.
    pub uuid: Option<Uuid>,
    /// The guest's name.
    pub guest: Option<String>,
    /// The host, with or without its domain.
    pub host: Option<String>,
    /// The device.
    pub device: Option<DeviceIs>,
    /// The time asked for.
    pub at: Option<Moment>,
    /// The first moment of a time range; the lake's first if none.
    pub start: Option<Micros>,
    /// The first moment after a time range; the lake's last if none.
    pub end: Option<Micros>,
    /// Seconds that a silence, or the advance of a clock, must exceed.
    pub longer_than: Option<u32>,
    /// Severities of findings; any when empty.
    pub severities: Vec<&'static str>,
}

/// The day of a time. One that no calendar has counts as the nearest that one has.
pub(super) fn day_of(micros: Micros) -> Day {
    let far = if micros < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Day::of(Timestamp::from_microsecond(micros).unwrap_or(far))
}
