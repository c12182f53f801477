//! `findings`: a row for each finding, on the day of its time.

use std::cmp::Ordering;

use arrow_schema::FieldRef;
use compact_str::ToCompactString as _;
use serde::{Deserialize, Serialize};
use taptrail_record::{Device, DeviceKind, GuestId};
use taptrail_trail::{Finding, FindingKind, Incident};

use super::columns::{
    Micros, ProofRow, all_proofs, flag, int, maybe_text, micros, proofs, text, time, timestamp,
};
use crate::{Row, Table, Text};

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The columns are `Finding`'s fields, and documented there.
pub struct FindingRow {
    pub host: Text,
    pub time: Micros,
    /// Its place in the order in which its host's findings were made: of one incident, the first is
    /// what the others follow from.
    pub position: i64,
    pub kind: Text,
    pub severity: Text,
    pub guest: Option<Text>,
    pub uuid: Option<Text>,
    pub mac: Option<Text>,
    pub device_kind: Option<Text>,
    pub path: Option<Text>,
    pub rdev: Option<Text>,
    pub dev: Option<Text>,
    pub text: String,
    pub incident: i64,
    pub follows: bool,
    pub proof: Vec<ProofRow>,
}

impl FindingRow {
    /// The row of a finding, the first of its host and day.
    pub fn of(finding: &Finding) -> Self {
        let guest = finding.guest.as_ref();
        let device = finding.device.as_ref();
        Self {
            host: Text::from(&*finding.host),
            time: micros(finding.time),
            position: 0,
            kind: finding.kind.as_str().into(),
            severity: finding.kind.severity().as_str().into(),
            guest: guest.map(|guest| Text::from(&*guest.name)),
            uuid: guest.map(|guest| guest.uuid.to_compact_string()),
            mac: finding.mac.map(|mac| mac.to_compact_string()),
            device_kind: device.map(|device| device.kind.to_compact_string()),
            path: device.map(|device| Text::from(&*device.path)),
            rdev: device.and_then(|device| device.rdev).map(|rdev| rdev.to_compact_string()),
            dev: device.and_then(|device| device.dev.as_ref()).map(|value| value.to_compact_string()),
            text: finding.text.clone(),
            incident: i64::try_from(finding.incident.number).unwrap_or(i64::MAX),
            follows: finding.incident.follows,
            proof: finding.proof.iter().map(ProofRow::of).collect(),
        }
    }

    /// The finding; none if a value is out of range.
    pub fn finding(self) -> Option<Finding> {
        let guest = match (self.guest, self.uuid) {
            (Some(name), Some(uuid)) => Some(GuestId { name, uuid: uuid.parse().ok()? }),
            (None, None) => None,
            _ => return None,
        };
        let device = match (self.device_kind, self.path) {
            (Some(kind), Some(path)) => Some(Device {
                kind: DeviceKind::from_word(kind)?,
                path,
                rdev: self.rdev.map(|rdev| rdev.parse()).transpose().ok()?,
                dev: self.dev,
            }),
            (None, None) => None,
            _ => return None,
        };
        Some(Finding {
            kind: FindingKind::from_word(&self.kind)?,
            host: self.host.into(),
            guest,
            mac: self.mac.map(|mac| mac.parse()).transpose().ok()?,
            device,
            time: timestamp(self.time)?,
            text: self.text,
            proof: all_proofs(self.proof)?,
            incident: Incident { number: self.incident.try_into().ok()?, follows: self.follows },
        })
    }
}

impl Row for FindingRow {
    const TABLE: Table = Table::Findings;

    fn columns() -> Vec<FieldRef> {
        vec![
            text("host"),
            time("time"),
            int("position"),
            text("kind"),
            text("severity"),
            maybe_text("guest"),
            maybe_text("uuid"),
            maybe_text("mac"),
            maybe_text("device_kind"),
            maybe_text("path"),
            maybe_text("rdev"),
            maybe_text("dev"),
            text("text"),
            int("incident"),
            flag("follows"),
            proofs("proof"),
        ]
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn proofs(&mut self) -> &mut [ProofRow] {
        &mut self.proof
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |row: &Self| (row.incident, row.follows);
        self.host
            .cmp(&other.host)
            .then_with(|| self.time.cmp(&other.time))
            .then_with(|| self.position.cmp(&other.position))
            .then_with(|| self.kind.cmp(&other.kind))
            .then_with(|| key(self).cmp(&key(other)))
            .then_with(|| (&self.text, &self.proof).cmp(&(&other.text, &other.proof)))
    }
}
