//! `bridge_taps`: a row for each tap that the bridge helper passed and UTC day on which it lived.

use std::cmp::Ordering;
use std::fmt;

use arrow_schema::FieldRef;
use compact_str::ToCompactString as _;
use serde::{Deserialize, Serialize};
use taptrail_record::{Device, DeviceKind, Requester};
use taptrail_trail::{BridgeTap, BridgeTapEnd, State};

use super::columns::{
    Micros, ProofRow, all_proofs, flag, int, maybe_int, maybe_text, maybe_time, maybe_timestamp, maybe_word,
    micros, proofs, text, time, timestamp,
};
use crate::{Row, Table, Text};

/// A tap of the bridge helper on one day.
///
/// As with [`HeldRow`](crate::HeldRow), the row of the last day has all that is known of the tap;
/// those of earlier days have what was known as the day ended. A tap whose end nobody was to record
/// has one row, of the day on which it was passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The columns are `BridgeTap`'s fields, and documented there.
pub struct BridgeTapRow {
    pub host: Text,
    pub bridge: Text,
    pub kind: Text,
    pub path: Text,
    pub rdev: Option<Text>,
    pub dev: Option<Text>,
    pub uid: i64,
    /// None if nobody was logged in.
    pub auid: Option<i64>,
    pub pid: i64,
    /// Clock ticks since boot. The bits of a number without a sign: no clock has so many that it shows.
    pub start_time: Option<i64>,
    pub claimed_name: Option<Text>,
    pub claimed_uuid: Option<Text>,
    pub passed: Micros,
    pub released: Option<Micros>,
    pub last_seen: Option<Micros>,
    pub uncertain_since: Option<Micros>,
    pub state: Text,
    pub ended_by: Option<Text>,
    /// It was passed on this day: the rows to count for totals.
    pub first: bool,
    /// No later day has a row of it.
    pub last: bool,
    pub proof: Vec<ProofRow>,
}

impl BridgeTapRow {
    /// The row of a tap.
    pub fn of(tap: &BridgeTap, first: bool, last: bool) -> Self {
        let BridgeTap { host, bridge, device, requester: Requester { uid, auid, pid }, .. } = tap;
        Self {
            host: host.to_compact_string(),
            bridge: bridge.clone(),
            kind: device.kind.to_compact_string(),
            path: device.path.clone(),
            rdev: device.rdev.map(|rdev| rdev.to_compact_string()),
            dev: device.dev.clone(),
            uid: (*uid).into(),
            auid: (*auid != Requester::UNSET).then_some((*auid).into()),
            pid: (*pid).into(),
            start_time: tap.start_time.map(u64::cast_signed),
            claimed_name: tap.claimed_name.clone(),
            claimed_uuid: tap.claimed_uuid.map(|uuid| uuid.to_compact_string()),
            passed: micros(tap.passed),
            released: tap.released.map(micros),
            last_seen: tap.last_seen.map(micros),
            uncertain_since: tap.uncertain_since.map(micros),
            state: tap.state.as_str().into(),
            ended_by: tap.ended_by.map(|end| end.as_str().into()),
            first,
            last,
            proof: tap.proof.iter().map(ProofRow::of).collect(),
        }
    }

    /// The tap; none if a value is out of range.
    pub fn tap(self) -> Option<BridgeTap> {
        Some(BridgeTap {
            host: self.host.into(),
            bridge: self.bridge,
            device: Device {
                kind: DeviceKind::from_word(self.kind)?,
                path: self.path,
                rdev: self.rdev.map(|rdev| rdev.parse()).transpose().ok()?,
                dev: self.dev,
            },
            requester: Requester {
                uid: self.uid.try_into().ok()?,
                auid: self.auid.map_or(Some(Requester::UNSET), |auid| auid.try_into().ok())?,
                pid: self.pid.try_into().ok()?,
            },
            start_time: self.start_time.map(i64::cast_unsigned),
            claimed_name: self.claimed_name,
            claimed_uuid: self.claimed_uuid.map(|uuid| uuid.parse()).transpose().ok()?,
            passed: timestamp(self.passed)?,
            released: maybe_timestamp(self.released)?,
            last_seen: maybe_timestamp(self.last_seen)?,
            uncertain_since: maybe_timestamp(self.uncertain_since)?,
            state: State::from_word(self.state)?,
            ended_by: maybe_word(self.ended_by, |word| BridgeTapEnd::from_word(word))?,
            proof: all_proofs(self.proof)?,
        })
    }

    /// What identifies the tap, the same on all its days and in every reading of its records.
    pub fn key(&self) -> impl Ord + fmt::Debug + use<'_> {
        let Self { host, dev, pid, start_time, passed, proof, .. } = self;
        (host, passed, dev, pid, start_time, proof.first().map(ProofRow::event))
    }
}

impl Row for BridgeTapRow {
    const TABLE: Table = Table::BridgeTaps;

    fn columns() -> Vec<FieldRef> {
        vec![
            text("host"),
            text("bridge"),
            text("kind"),
            text("path"),
            maybe_text("rdev"),
            maybe_text("dev"),
            int("uid"),
            maybe_int("auid"),
            int("pid"),
            maybe_int("start_time"),
            maybe_text("claimed_name"),
            maybe_text("claimed_uuid"),
            time("passed"),
            maybe_time("released"),
            maybe_time("last_seen"),
            maybe_time("uncertain_since"),
            text("state"),
            maybe_text("ended_by"),
            flag("first"),
            flag("last"),
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
        fn rest(row: &BridgeTapRow) -> impl Ord + use<'_> {
            let BridgeTapRow { bridge, path, released, state, first, last, proof, .. } = row;
            (bridge, path, released, state, first, last, proof)
        }
        self.key().cmp(&other.key()).then_with(|| rest(self).cmp(&rest(other)))
    }
}
