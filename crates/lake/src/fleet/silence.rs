//! Hosts without records.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::{FleetFinding, FleetKind, FleetLimits};
use crate::object::{Limits, ObjectReader};
use crate::tables::columns::timestamp;
use crate::{CoverageRow, Day, LakeError, Snapshot, Store, Table, Text};

pub(super) fn find<E: From<LakeError>>(
    store: &Arc<Store>,
    snapshot: &Snapshot,
    within: &dyn Fn(Day) -> bool,
    limits: FleetLimits,
    found: &mut impl FnMut(FleetFinding) -> Result<(), E>,
) -> Result<(), E> {
    let mut ends: BTreeMap<Text, i64> = BTreeMap::new();
    for object in snapshot.compacted(Table::Coverage).into_iter().filter(|object| within(object.day)) {
        let reader = ObjectReader::<CoverageRow>::open(store, &object.path, object.bytes, Limits::default())?;
        for row in reader.rows()? {
            let row = row?;
            if row.what != CoverageRow::SPAN {
                continue;
            }
            match ends.get_mut(&row.host) {
                None => {
                    ends.insert(row.host, row.until);
                }
                Some(end) => {
                    let (before, since) = (*end, row.since);
                    *end = row.until.max(before);
                    if let Some(finding) = silent(&row.host, before, Some(since), limits) {
                        found(finding)?;
                    }
                }
            }
        }
    }
    // The time until which most hosts have records: one host alone may have a wrong clock.
    let mut sorted: Vec<i64> = ends.values().copied().collect();
    sorted.sort_unstable();
    let Some(usual) = sorted.get(sorted.len() / 2).copied() else { return Ok(()) };
    for (host, end) in ends {
        if let Some(finding) = silent(&host, end, None, limits).filter(|_| lasts(end, usual, limits)) {
            found(finding)?;
        }
        if lasts(usual, end, limits) && sorted.len() > 2 {
            found(ahead(&host, usual, end))?;
        }
    }
    Ok(())
}

fn lasts(from: i64, until: i64, limits: FleetLimits) -> bool {
    i128::from(until) - i128::from(from) > limits.silence.as_micros()
}

fn silent(host: &str, before: i64, since: Option<i64>, limits: FleetLimits) -> Option<FleetFinding> {
    if since.is_some_and(|since| !lasts(before, since, limits)) {
        return None;
    }
    let from = timestamp(before)?;
    let until = since.and_then(timestamp);
    let text = match until {
        Some(until) => format!("{host} has no records from {from:.3} to {until:.3}"),
        None => format!("{host} has no records since {from:.3}"),
    };
    Some(about(FleetKind::HostSilent, host, from, until, text))
}

fn ahead(host: &str, usual: i64, end: i64) -> FleetFinding {
    let from = timestamp(usual).unwrap_or(Timestamp::MIN);
    let until = timestamp(end);
    let text =
        format!("{host} has records after {from:.3}, when those of most hosts end: its clock may be ahead");
    about(FleetKind::ClockAhead, host, from, until, text)
}

fn about(
    kind: FleetKind,
    host: &str,
    from: Timestamp,
    until: Option<Timestamp>,
    text: String,
) -> FleetFinding {
    FleetFinding {
        kind,
        severity: kind.severity(),
        hosts: vec![host.to_owned()],
        guests: Vec::new(),
        uuids: Vec::new(),
        mac: None,
        rdev: None,
        from,
        until,
        expected_by_chance: None,
        text,
    }
}
