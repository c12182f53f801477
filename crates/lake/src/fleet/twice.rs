//! One MAC, guest or device number in two places at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array as _, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use jiff::{SignedDuration, Timestamp};
use taptrail_record::DeviceKind;

use super::{FleetFinding, FleetKind, FleetLimits};
use crate::object::{Limits, ObjectReader};
use crate::tables::columns::{micros, timestamp};
use crate::{Day, HeldRow, LakeError, Snapshot, Store, Table};

/// The columns that are read.
const COLUMNS: [&str; 10] =
    ["host", "guest", "uuid", "mac", "kind", "rdev", "granted", "released", "last_seen", "uncertain_since"];

/// The characters of a vendor's prefix: `52:54:00`.
const PREFIX: usize = 8;

/// A device that one guest certainly held on one day.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    mac: String,
    host: String,
    uuid: String,
    guest: String,
    rdev: Option<String>,
    from: i64,
    until: i64,
    is_open: bool,
}

/// Two holdings at once that are not finished: the same two places on the next day continue it.
#[derive(Debug)]
struct Pair {
    from: i64,
    until: i64,
    /// Whether both were held until the end of the day.
    is_open: bool,
    guests: [String; 2],
    expected: Option<f64>,
}

/// The two places, and what they share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PairKey {
    kind: Shared,
    value: String,
    hosts: [String; 2],
    uuids: [String; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shared {
    Mac,
    Guest,
    Rdev,
}

/// What the devices of one day show.
#[derive(Debug, Default)]
struct DayPairs {
    /// The MAC of the row before, and devices with it.
    mac: String,
    group: Vec<Held>,
    pairs: BTreeMap<PairKey, Pair>,
    /// How many different MACs have a vendor's prefix.
    macs: HashMap<[u8; PREFIX], u64>,
    /// The macvtaps of each host and device number.
    numbers: HashMap<(String, String), Vec<Held>>,
}

pub(super) fn find<E: From<LakeError>>(
    store: &Arc<Store>,
    snapshot: &Snapshot,
    within: &dyn Fn(Day) -> bool,
    limits: FleetLimits,
    found: &mut impl FnMut(FleetFinding) -> Result<(), E>,
) -> Result<(), E> {
    let mut open: BTreeMap<PairKey, Pair> = BTreeMap::new();
    let mut last: Option<Day> = None;
    for object in snapshot.compacted(Table::Held).into_iter().filter(|object| within(object.day)) {
        let day = object.day;
        if last.and_then(Day::next) != Some(day) {
            std::mem::take(&mut open)
                .into_iter()
                .try_for_each(|(key, pair)| found(finding(key, pair, limits)))?;
        }
        last = Some(day);
        let reader = ObjectReader::<HeldRow>::open(store, &object.path, object.bytes, Limits::default())?;
        let mut of_day = DayPairs::default();
        for batch in reader.columns(&COLUMNS)? {
            of_day.add(&batch?, day, &object.path)?;
        }
        let mut pairs = of_day.finish();
        for (key, before) in std::mem::take(&mut open) {
            match pairs.get_mut(&key) {
                Some(now) if before.is_open && now.from <= micros(day.start()) => {
                    now.from = before.from;
                    now.expected = now.expected.or(before.expected);
                }
                _ => found(finding(key, before, limits))?,
            }
        }
        let (still, ended): (BTreeMap<_, _>, BTreeMap<_, _>) =
            pairs.into_iter().partition(|(_, pair)| pair.is_open);
        open = still;
        ended.into_iter().try_for_each(|(key, pair)| found(finding(key, pair, limits)))?;
    }
    open.into_iter().try_for_each(|(key, pair)| found(finding(key, pair, limits)))
}

impl DayPairs {
    fn add(&mut self, batch: &RecordBatch, day: Day, object: &str) -> Result<(), LakeError> {
        let columns = Columns::of(batch).ok_or_else(|| {
            LakeError::damaged(&Arc::from(object), "its columns are of other types than those of this table")
        })?;
        let rows = batch.num_rows();
        let mut begin = 0;
        while begin < rows {
            let mac = columns.mac.value(begin);
            let end = (begin + 1..rows).find(|row| columns.mac.value(*row) != mac).unwrap_or(rows);
            if self.mac != mac {
                self.end_group();
                mac.clone_into(&mut self.mac);
                if let Some(prefix) = mac.as_bytes().first_chunk() {
                    *self.macs.entry(*prefix).or_default() += 1;
                }
            }
            // The rows of most MACs are of one host: they are not copied.
            let is_alone = self.group.is_empty() && end < rows;
            let host = columns.host.value(begin);
            if !is_alone || (begin + 1..end).any(|row| columns.host.value(row) != host) {
                self.group.extend((begin..end).filter_map(|row| columns.held(row, day)));
            }
            for held in
                (begin..end).filter(|row| columns.is_numbered(*row)).filter_map(|row| columns.held(row, day))
            {
                let key = (held.host.clone(), held.rdev.clone().unwrap_or_default());
                self.numbers.entry(key).or_default().push(held);
            }
            begin = end;
        }
        Ok(())
    }

    /// Compares the devices with one MAC.
    fn end_group(&mut self) {
        let group = std::mem::take(&mut self.group);
        for (number, one) in group.iter().enumerate() {
            for other in group[number + 1..].iter().filter(|other| other.host != one.host) {
                let kind = if one.uuid == other.uuid { Shared::Guest } else { Shared::Mac };
                self.add_pair(kind, one, other);
            }
        }
    }

    fn add_pair(&mut self, kind: Shared, one: &Held, other: &Held) {
        let (from, until) = (one.from.max(other.from), one.until.min(other.until));
        if from >= until {
            return;
        }
        let (one, other) =
            if (&one.host, &one.uuid) <= (&other.host, &other.uuid) { (one, other) } else { (other, one) };
        let value = match kind {
            Shared::Mac => one.mac.clone(),
            Shared::Guest => one.uuid.clone(),
            Shared::Rdev => one.rdev.clone().unwrap_or_default(),
        };
        let key = PairKey {
            kind,
            value,
            hosts: [one.host.clone(), other.host.clone()],
            uuids: [one.uuid.clone(), other.uuid.clone()],
        };
        let is_open = one.is_open && other.is_open;
        let guests = [one.guest.clone(), other.guest.clone()];
        let pair = self.pairs.entry(key).or_insert(Pair { from, until, is_open, guests, expected: None });
        pair.from = pair.from.min(from);
        pair.until = pair.until.max(until);
        pair.is_open |= is_open;
    }

    fn finish(mut self) -> BTreeMap<PairKey, Pair> {
        self.end_group();
        for of_number in std::mem::take(&mut self.numbers).into_values() {
            for (number, one) in of_number.iter().enumerate() {
                for other in of_number[number + 1..]
                    .iter()
                    .filter(|other| (&other.mac, &other.uuid) != (&one.mac, &one.uuid))
                {
                    self.add_pair(Shared::Rdev, one, other);
                }
            }
        }
        for (key, pair) in &mut self.pairs {
            if key.kind == Shared::Mac {
                let prefix = key.value.as_bytes().first_chunk::<PREFIX>();
                pair.expected = prefix.and_then(|prefix| self.macs.get(prefix)).map(|macs| by_chance(*macs));
            }
        }
        self.pairs
    }
}

/// How many pairs of equal MACs are expected among so many with 24 random bits each.
#[allow(clippy::cast_precision_loss)] // Fleets have fewer MACs than a float counts exactly.
fn by_chance(macs: u64) -> f64 {
    let macs = macs as f64;
    macs * (macs - 1.0) / 2.0 / f64::from(1_u32 << 24)
}

/// The columns of some rows.
struct Columns<'a> {
    host: &'a StringViewArray,
    guest: &'a StringViewArray,
    uuid: &'a StringViewArray,
    mac: &'a StringViewArray,
    kind: &'a StringViewArray,
    rdev: &'a StringViewArray,
    granted: &'a TimestampMicrosecondArray,
    released: &'a TimestampMicrosecondArray,
    last_seen: &'a TimestampMicrosecondArray,
    uncertain_since: &'a TimestampMicrosecondArray,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        let text = |name| batch.column_by_name(name)?.as_string_view_opt();
        let time = |name| batch.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>();
        Some(Self {
            host: text("host")?,
            guest: text("guest")?,
            uuid: text("uuid")?,
            mac: text("mac")?,
            kind: text("kind")?,
            rdev: text("rdev")?,
            granted: time("granted")?,
            released: time("released")?,
            last_seen: time("last_seen")?,
            uncertain_since: time("uncertain_since")?,
        })
    }

    /// Whether it is a macvtap with a device number of its own.
    fn is_numbered(&self, row: usize) -> bool {
        !self.rdev.is_null(row) && self.kind.value(row) == DeviceKind::Macvtap.as_str()
    }

    /// The device, if it was certainly held at some time of the day.
    fn held(&self, row: usize, day: Day) -> Option<Held> {
        let time = |column: &TimestampMicrosecondArray| (!column.is_null(row)).then(|| column.value(row));
        let (start, end) = (micros(day.start()), micros(day.end()));
        let from = time(self.granted)?.max(start);
        let ends = [self.released, self.last_seen, self.uncertain_since];
        let ended = ends.into_iter().filter_map(time).min();
        let until = ended.unwrap_or(end).min(end);
        (from < until).then(|| Held {
            mac: self.mac.value(row).to_owned(),
            host: self.host.value(row).to_owned(),
            uuid: self.uuid.value(row).to_owned(),
            guest: self.guest.value(row).to_owned(),
            rdev: self.is_numbered(row).then(|| self.rdev.value(row).to_owned()),
            from,
            until,
            is_open: until == end,
        })
    }
}

fn finding(key: PairKey, pair: Pair, limits: FleetLimits) -> FleetFinding {
    let PairKey { kind, value, hosts, uuids } = key;
    let Pair { from, until, is_open, guests, expected } = pair;
    let lasted = SignedDuration::from_micros(until.saturating_sub(from));
    let [one, other] = &hosts;
    let [guest, other_guest] = &guests;
    let (kind, text) = match kind {
        Shared::Mac => {
            let chance = expected.map_or_else(String::new, |expected| {
                format!("; chance makes {expected:.1} such pairs on such a day")
            });
            let text =
                format!("{guest} on {one} and {other_guest} on {other} had the MAC {value} at once{chance}");
            (FleetKind::MacOnTwoHosts, text)
        }
        Shared::Guest if !is_open && lasted <= limits.migration => {
            (FleetKind::Migration, format!("{guest} was on {one} and {other} at once, as in a migration"))
        }
        Shared::Guest => {
            let text = format!("{guest} was on {one} and {other} at once, longer than a migration takes");
            (FleetKind::GuestOnTwoHosts, text)
        }
        Shared::Rdev => {
            let text = format!("{guest} and {other_guest} on {one} had the device number {value} at once");
            (FleetKind::DeviceNumberTwice, text)
        }
    };
    let is_about_mac = kind == FleetKind::MacOnTwoHosts;
    let is_about_number = kind == FleetKind::DeviceNumberTwice;
    let mut hosts = hosts.to_vec();
    hosts.dedup();
    FleetFinding {
        kind,
        severity: kind.severity(),
        hosts,
        guests: guests.to_vec(),
        uuids: uuids.to_vec(),
        mac: is_about_mac.then(|| value.clone()),
        rdev: is_about_number.then_some(value),
        from: timestamp(from).unwrap_or(Timestamp::MIN),
        until: if is_open { None } else { timestamp(until) },
        expected_by_chance: expected,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_makes_as_many_pairs_as_measured() {
        // 60,000 interfaces at once.
        assert!((by_chance(60_000) - 107.3).abs() < 0.1);
        assert!(by_chance(1).abs() < f64::EPSILON);
    }
}
