//! `held`: a row for each holding and UTC day on which it lived.

use std::cmp::Ordering;

use arrow_schema::FieldRef;
use serde::{Deserialize, Serialize};
use taptrail_trail::{Holding, PossiblyHeld};

use super::columns::{
    Micros, ProofRow, flag, list, maybe_small, maybe_text, maybe_time, micros, proofs, text,
};
use crate::{Row, Table};

/// A holding on one day.
///
/// The row of the last day has all that is known of the holding; those of earlier days have what
/// was known as the day ended: it is held, and its end is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The columns are `Holding`'s fields, and documented there.
pub struct HeldRow {
    pub host: String,
    pub guest: String,
    pub uuid: String,
    pub mac: String,
    pub kind: String,
    pub path: String,
    pub rdev: Option<String>,
    pub dev: Option<String>,
    pub state: String,
    pub certainty: String,
    pub ended_by: Option<String>,
    pub end_doubt: Option<String>,
    pub queues: Option<i32>,
    pub pid: Option<i32>,
    pub opened: Option<Micros>,
    pub granted: Option<Micros>,
    pub released: Option<Micros>,
    pub last_seen: Option<Micros>,
    pub uncertain_since: Option<Micros>,
    /// It began on this day: the rows to count for totals.
    pub first: bool,
    /// No later day has a row of it.
    pub last: bool,
    pub possibly_held: Vec<PossibleRow>,
    pub proof: Vec<ProofRow>,
}

/// A [`PossiblyHeld`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PossibleRow {
    pub from: Option<Micros>,
    pub until: Option<Micros>,
    pub why: String,
}

impl HeldRow {
    /// The row of a holding.
    pub fn of(holding: &Holding, first: bool, last: bool) -> Self {
        let Holding { host, guest, mac, device, .. } = holding;
        Self {
            host: host.to_string(),
            guest: guest.name.to_string(),
            uuid: guest.uuid.to_string(),
            mac: mac.to_string(),
            kind: device.kind.to_string(),
            path: device.path.to_string(),
            rdev: device.rdev.map(|rdev| rdev.to_string()),
            dev: device.dev.as_ref().map(ToString::to_string),
            state: holding.state.as_str().to_owned(),
            certainty: holding.certainty.as_str().to_owned(),
            ended_by: holding.ended_by.map(|cause| cause.as_str().to_owned()),
            end_doubt: holding.end_doubt.map(|doubt| doubt.as_str().to_owned()),
            queues: holding.queues.and_then(|queues| queues.try_into().ok()),
            pid: holding.pid.and_then(|pid| pid.try_into().ok()),
            opened: holding.opened.map(micros),
            granted: holding.granted.map(micros),
            released: holding.released.map(micros),
            last_seen: holding.last_seen.map(micros),
            uncertain_since: holding.uncertain_since.map(micros),
            first,
            last,
            possibly_held: holding.possibly_held.iter().map(PossibleRow::of).collect(),
            proof: holding.proof.iter().map(ProofRow::of).collect(),
        }
    }

    /// What identifies the holding, the same on all its days.
    pub fn key(&self) -> impl Ord + use<'_> {
        let Self { host, uuid, mac, kind, path, opened, granted, proof, .. } = self;
        (host, uuid, mac, kind, path, opened, granted, proof.first())
    }
}

impl PossibleRow {
    fn of(possibly: &PossiblyHeld) -> Self {
        Self {
            from: possibly.from.map(micros),
            until: possibly.until.map(micros),
            why: possibly.why.as_str().to_owned(),
        }
    }
}

impl Row for HeldRow {
    const TABLE: Table = Table::Held;

    fn columns() -> Vec<FieldRef> {
        vec![
            text("host"),
            text("guest"),
            text("uuid"),
            text("mac"),
            text("kind"),
            text("path"),
            maybe_text("rdev"),
            maybe_text("dev"),
            text("state"),
            text("certainty"),
            maybe_text("ended_by"),
            maybe_text("end_doubt"),
            maybe_small("queues"),
            maybe_small("pid"),
            maybe_time("opened"),
            maybe_time("granted"),
            maybe_time("released"),
            maybe_time("last_seen"),
            maybe_time("uncertain_since"),
            flag("first"),
            flag("last"),
            list("possibly_held", vec![maybe_time("from"), maybe_time("until"), text("why")]),
            proofs("proof"),
        ]
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |row: &Self| (row.granted, row.opened);
        self.mac
            .cmp(&other.mac)
            .then_with(|| key(self).cmp(&key(other)))
            .then_with(|| self.key().cmp(&other.key()))
    }
}
