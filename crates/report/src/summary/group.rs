//! A row for each guest, host, day or device.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use taptrail_trail::{Report, State};

use super::{SessionCounts, earliest};
use crate::sessions::{device_name, real_devices};
use crate::style::TimeFormat;
use crate::{Session, Style};

/// What a row of a summary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupBy {
    /// A guest of a host, by its name and UUID.
    Guest,
    /// A host.
    Host,
    /// A day. A session is of the day on which it began.
    Day,
    /// A device of a host: its kind, and its interface or path where the records have one.
    Device,
}

/// Sessions and findings of one guest, host, day or device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The host; empty for days.
    pub host: String,
    /// The guest, day or device; empty for hosts.
    pub name: String,
    /// The guest's UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Sessions; for devices, holdings.
    #[serde(flatten)]
    pub sessions: SessionCounts,
    /// Findings.
    pub findings: u64,
    /// The first time of a session or finding.
    #[serde(serialize_with = "millis")]
    pub first: Option<Timestamp>,
    /// The last time of one; none while a session is held.
    #[serde(serialize_with = "millis")]
    pub last: Option<Timestamp>,
}

/// Host, name and UUID.
type Key = (String, String, Option<String>);

/// The rows. `all_hosts` have a row each with [`GroupBy::Host`], also without sessions and findings.
pub(super) fn group(
    report: &Report,
    sessions: &[Session<'_>],
    by: GroupBy,
    all_hosts: &[Arc<str>],
    style: &Style,
) -> Vec<Group> {
    let clock = TimeFormat::new(style);
    let mut groups = Groups(BTreeMap::new());
    if by == GroupBy::Host {
        for host in all_hosts {
            groups.of((host.to_string(), String::new(), None), None);
        }
    }
    for session in sessions {
        let host = session.host().to_owned();
        let begin = session.opened().or(session.granted());
        let begin = begin.or_else(|| session.first().proof.first().map(|proof| proof.time));
        let guest = session.guest();
        match by {
            GroupBy::Guest => {
                groups.session((host, guest.name.to_string(), Some(guest.uuid.to_string())), session, begin);
            }
            GroupBy::Host => groups.session((host, String::new(), None), session, begin),
            GroupBy::Day => groups.session((String::new(), day(begin, &clock), None), session, begin),
            GroupBy::Device => {
                for holding in real_devices(session) {
                    let name = device_name(&holding.device).to_string();
                    let one = Session { holdings: vec![holding] };
                    groups.session((host.clone(), name, None), &one, begin);
                }
            }
        }
    }
    for finding in &report.findings {
        let host = finding.host.to_string();
        let key = match by {
            GroupBy::Guest => finding
                .guest
                .as_ref()
                .map(|guest| (host, guest.name.to_string(), Some(guest.uuid.to_string()))),
            GroupBy::Host => Some((host, String::new(), None)),
            GroupBy::Day => Some((String::new(), day(Some(finding.time), &clock), None)),
            GroupBy::Device => {
                finding.device.as_ref().map(|device| (host, device_name(device).to_string(), None))
            }
        };
        if let Some(key) = key {
            groups.finding(key, finding.time);
        }
    }
    groups.0.into_values().collect()
}

fn day(time: Option<Timestamp>, clock: &TimeFormat) -> String {
    time.map_or_else(|| "unknown".to_owned(), |time| clock.date(time).to_string())
}

struct Groups(BTreeMap<Key, Group>);

impl Groups {
    fn of(&mut self, key: Key, time: Option<Timestamp>) -> &mut Group {
        let (host, name, uuid) = key.clone();
        let new = || Group {
            host,
            name,
            uuid,
            sessions: SessionCounts::default(),
            findings: 0,
            first: None,
            last: None,
        };
        let group = self.0.entry(key).or_insert_with(new);
        group.first = earliest(group.first, time);
        group.last = group.last.max(time);
        group
    }

    fn session(&mut self, key: Key, session: &Session<'_>, begin: Option<Timestamp>) {
        let group = self.of(key, begin);
        group.sessions.add(session);
        if session.state() != State::Held {
            group.last = group.last.max(session.released());
        }
    }

    fn finding(&mut self, key: Key, time: Timestamp) {
        self.of(key, Some(time)).findings += 1;
    }
}

fn millis<S: serde::Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    crate::nics::millis::serialize(time, to)
}
