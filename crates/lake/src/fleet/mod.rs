//! What only all hosts together show: one MAC or guest on two hosts, hosts that fell silent, device
//! numbers that one host had twice.

mod silence;
mod twice;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use taptrail_trail::Severity;

use crate::{Day, LakeError, Snapshot, Store};

/// Something that the trails of all hosts show together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FleetFinding {
    /// The kind.
    pub kind: FleetKind,
    /// How much it matters.
    pub severity: Severity,
    /// The hosts, in the order of their names.
    pub hosts: Vec<String>,
    /// The guests' names, in the order of the hosts.
    pub guests: Vec<String>,
    /// The guests' uuids, in the order of the hosts.
    pub uuids: Vec<String>,
    /// The MAC, if it is about one.
    pub mac: Option<String>,
    /// The device number, if it is about one.
    pub rdev: Option<String>,
    /// Its first moment.
    #[serde(serialize_with = "exact")]
    pub from: Timestamp,
    /// The first moment after it; none if it has not ended.
    #[serde(serialize_with = "maybe")]
    pub until: Option<Timestamp>,
    /// For a MAC on two hosts: how many such pairs chance alone is expected to make on a day with
    /// as many MACs of this vendor's prefix, if each has 24 random bits, as libvirt's have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_by_chance: Option<f64>,
    /// One sentence for people.
    pub text: String,
}

/// The kind of a [`FleetFinding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FleetKind {
    /// Two guests on two hosts had one MAC at once.
    MacOnTwoHosts,
    /// One guest ran on two hosts at once, longer than a migration takes.
    GuestOnTwoHosts,
    /// One guest was on two hosts for as long as a migration takes.
    Migration,
    /// No record of a host is there for a time between others, or to the end.
    HostSilent,
    /// A host has records of a time after the end of all others: its clock is ahead.
    ClockAhead,
    /// Two interfaces of one host had one macvtap's device number at once, which no kernel gives.
    DeviceNumberTwice,
}

impl FleetKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::MacOnTwoHosts,
        Self::GuestOnTwoHosts,
        Self::Migration,
        Self::HostSilent,
        Self::ClockAhead,
        Self::DeviceNumberTwice,
    ];

    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MacOnTwoHosts => "mac-on-two-hosts",
            Self::GuestOnTwoHosts => "guest-on-two-hosts",
            Self::Migration => "migration",
            Self::HostSilent => "host-silent",
            Self::ClockAhead => "clock-ahead",
            Self::DeviceNumberTwice => "device-number-twice",
        }
    }

    /// How much it matters.
    pub fn severity(self) -> Severity {
        match self {
            Self::MacOnTwoHosts | Self::GuestOnTwoHosts | Self::DeviceNumberTwice => Severity::Grave,
            Self::HostSilent | Self::ClockAhead => Severity::Warning,
            Self::Migration => Severity::Notice,
        }
    }
}

/// Where the lines are drawn.
#[derive(Debug, Clone, Copy)]
pub struct FleetLimits {
    /// A host without records for longer than this is silent.
    pub silence: SignedDuration,
    /// One guest on two hosts for at most this long is a migration.
    pub migration: SignedDuration,
}

impl Default for FleetLimits {
    fn default() -> Self {
        Self { silence: SignedDuration::from_hours(1), migration: SignedDuration::from_mins(15) }
    }
}

/// Finds what all hosts together show, from one day to another, both included; of all days if these
/// are not given. Findings come as they end, day by day.
///
/// Only certain times count: a device that may have been held is no finding. Memory is bounded by
/// what is open on a day.
///
/// # Errors
///
/// An object is damaged, the store fails, or `found` does.
pub fn fleet_findings<E: From<LakeError>>(
    store: &Arc<Store>,
    snapshot: &Snapshot,
    days: (Option<Day>, Option<Day>),
    limits: FleetLimits,
    found: &mut impl FnMut(FleetFinding) -> Result<(), E>,
) -> Result<(), E> {
    let within = |day: Day| days.0.is_none_or(|first| first <= day) && days.1.is_none_or(|last| day <= last);
    twice::find(store, snapshot, &within, limits, found)?;
    silence::find(store, snapshot, &within, limits, found)
}

fn exact<S: serde::Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{time:.3}"))
}

#[allow(clippy::ref_option)] // As serde calls it.
fn maybe<S: serde::Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => exact(time, to),
        None => to.serialize_none(),
    }
}
