//! `held`: a row for each holding and UTC day on which it lived.

use std::cmp::Ordering;
use std::fmt;

use arrow_schema::FieldRef;
use compact_str::ToCompactString as _;
use serde::{Deserialize, Serialize};
use taptrail_record::{CloseDoubt, Device, DeviceKind, GuestId};
use taptrail_trail::{Certainty, Doubt, EndedBy, Holding, PossiblyHeld, State};

use super::columns::{
    Micros, ProofRow, all_proofs, flag, list, maybe_int, maybe_text, maybe_time, maybe_timestamp, maybe_word,
    micros, proofs, text,
};
use crate::{Row, Table, Text};

/// A holding on one day.
///
/// The row of the last day has all that is known of the holding; those of earlier days have what
/// was known as the day ended: it is held, and its end is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The columns are `Holding`'s fields, and documented there.
pub struct HeldRow {
    pub host: Text,
    pub guest: Text,
    pub uuid: Text,
    pub mac: Text,
    pub kind: Text,
    pub path: Text,
    pub rdev: Option<Text>,
    pub dev: Option<Text>,
    pub state: Text,
    pub certainty: Text,
    pub ended_by: Option<Text>,
    pub end_doubt: Option<Text>,
    pub queues: Option<i64>,
    pub pid: Option<i64>,
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
    pub why: Text,
}

impl HeldRow {
    /// The row of a holding.
    pub fn of(holding: &Holding, first: bool, last: bool) -> Self {
        let Holding { host, guest, mac, device, .. } = holding;
        Self {
            host: host.to_compact_string(),
            guest: Text::from(&*guest.name),
            uuid: guest.uuid.to_compact_string(),
            mac: mac.to_compact_string(),
            kind: device.kind.to_compact_string(),
            path: Text::from(&*device.path),
            rdev: device.rdev.map(|rdev| rdev.to_compact_string()),
            dev: device.dev.as_ref().map(|value| value.to_compact_string()),
            state: holding.state.as_str().into(),
            certainty: holding.certainty.as_str().into(),
            ended_by: holding.ended_by.map(|cause| cause.as_str().into()),
            end_doubt: holding.end_doubt.map(|doubt| doubt.as_str().into()),
            queues: holding.queues.map(i64::from),
            pid: holding.pid.map(i64::from),
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

    /// The holding; none if a value is out of range.
    pub fn holding(self) -> Option<Holding> {
        Some(Holding {
            host: self.host.into(),
            guest: GuestId { name: self.guest, uuid: self.uuid.parse().ok()? },
            mac: self.mac.parse().ok()?,
            device: Device {
                kind: DeviceKind::from_word(self.kind)?,
                path: self.path,
                rdev: self.rdev.map(|rdev| rdev.parse()).transpose().ok()?,
                dev: self.dev,
            },
            queues: self.queues.map(u32::try_from).transpose().ok()?,
            opened: maybe_timestamp(self.opened)?,
            granted: maybe_timestamp(self.granted)?,
            released: maybe_timestamp(self.released)?,
            last_seen: maybe_timestamp(self.last_seen)?,
            end_doubt: maybe_word(self.end_doubt, |word| CloseDoubt::from_word(word))?,
            uncertain_since: maybe_timestamp(self.uncertain_since)?,
            possibly_held: self
                .possibly_held
                .into_iter()
                .map(PossibleRow::possibly_held)
                .collect::<Option<_>>()?,
            state: State::from_word(self.state)?,
            ended_by: maybe_word(self.ended_by, |word| EndedBy::from_word(word))?,
            certainty: Certainty::from_word(self.certainty)?,
            pid: self.pid.map(u32::try_from).transpose().ok()?,
            proof: all_proofs(self.proof)?,
        })
    }

    /// What identifies the holding, the same on all its days and in every reading of its records.
    ///
    /// The device is no part of it: its node or number may be learned days after the grant. Nor is
    /// a file's name or a line's number: a log is rotated. Several holdings may have one key: those
    /// of queues that were closed at different times, and devices that were opened in the same
    /// moment by records without serial numbers. A whole holding is its [`last`](Self::last) row.
    pub fn key(&self) -> impl Ord + fmt::Debug + use<'_> {
        let Self { host, uuid, mac, opened, proof, .. } = self;
        (host, uuid, mac, opened, proof.first().map(ProofRow::event))
    }
}

impl PossibleRow {
    fn of(possibly: &PossiblyHeld) -> Self {
        Self {
            from: possibly.from.map(micros),
            until: possibly.until.map(micros),
            why: possibly.why.as_str().into(),
        }
    }

    fn possibly_held(self) -> Option<PossiblyHeld> {
        Some(PossiblyHeld {
            from: maybe_timestamp(self.from)?,
            until: maybe_timestamp(self.until)?,
            why: Doubt::from_word(self.why)?,
        })
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
            maybe_int("queues"),
            maybe_int("pid"),
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

    fn host(&self) -> &str {
        &self.host
    }

    fn proofs(&mut self) -> &mut [ProofRow] {
        &mut self.proof
    }

    fn order(&self, other: &Self) -> Ordering {
        fn rest(row: &HeldRow) -> impl Ord + use<'_> {
            let HeldRow { kind, path, rdev, dev, queues, released, first, last, proof, .. } = row;
            (kind, path, rdev, dev, queues, released, first, last, proof)
        }
        let times = |row: &Self| (row.granted, row.opened);
        self.mac
            .cmp(&other.mac)
            .then_with(|| times(self).cmp(&times(other)))
            .then_with(|| self.key().cmp(&other.key()))
            .then_with(|| rest(self).cmp(&rest(other)))
    }
}
