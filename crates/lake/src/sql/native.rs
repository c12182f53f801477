//! The same answers without an engine: a pass over the objects that a question reads.
//!
//! What is held when, and what is covered, is decided by the code that decides it for logs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::socket_path;
use taptrail_trail::{Holding, State, is_same_host};

use super::{Answer, DeviceIs, Moment, Parameters, Question, Value};
use crate::{
    CoverageRow, Day, FindingRow, HeldRow, LakeError, Limits, Micros, ObjectEntry, ObjectReader, Row, Store,
    Text,
};

/// The answer to a question, from the objects of a generation. The rows have no order.
///
/// # Errors
///
/// An object can't be read. A parameter that the question [lacks](Question::lacks) counts as one
/// that nothing matches.
pub fn answer(
    store: &Arc<Store>,
    objects: &[ObjectEntry],
    question: Question,
    parameters: &Parameters,
) -> Result<Answer, LakeError> {
    let lake = Lake { store, objects, question, parameters };
    match question {
        Question::Who => lake.who(),
        Question::Device => lake.device(),
        Question::Trail => lake.trail(),
        Question::NeverGranted => lake.never_granted(),
        Question::Count => lake.count(),
        Question::MacOnTwoHosts => lake.mac_on_two_hosts(),
        Question::SilentHosts => lake.silent_hosts(),
        Question::ClockSkew => lake.clock_skew(),
        Question::Findings => lake.findings(),
        Question::FindingsByKind => lake.findings_by_kind(),
        Question::UnknownHosts => lake.unknown_hosts(),
    }
}

struct Lake<'a> {
    store: &'a Arc<Store>,
    objects: &'a [ObjectEntry],
    question: Question,
    parameters: &'a Parameters,
}

/// A guest's interface on a host: host, guest, uuid.
type Interface = (String, String, String);

/// A time range; the end is excluded.
type Range = (Micros, Micros);

impl Lake<'_> {
    /// Passes on each row of the question's table that meets the conditions, with its day, one day
    /// after the other.
    fn each<R: Row>(&self, mut take: impl FnMut(Day, R) -> Result<(), LakeError>) -> Result<(), LakeError> {
        let mut chosen: Vec<_> = self.objects.iter().filter(|object| object.table == R::TABLE).collect();
        chosen.retain(|object| self.question.days().has(object.day, self.parameters));
        chosen.sort_by_key(|object| object.day);
        for ObjectEntry { day, path, bytes, .. } in chosen {
            for row in ObjectReader::<R>::open(self.store, path, *bytes, Limits::default())?.rows()? {
                take(*day, row?)?;
            }
        }
        Ok(())
    }

    /// Whether a host is the one asked for.
    fn is_host(&self, host: &str) -> bool {
        self.parameters.host.as_ref().is_none_or(|asked| is_same_host(asked, host))
    }

    fn is_about(&self, row: &HeldRow) -> bool {
        let Parameters { mac, uuid, guest, device, .. } = self.parameters;
        let is_device = |device: &DeviceIs| match device {
            DeviceIs::Kind(kind) => row.kind == *kind,
            DeviceIs::Path(path) => socket_path(&row.path) == path,
            DeviceIs::Number(number) => row.rdev.as_ref().is_some_and(|rdev| rdev == number),
            DeviceIs::Interface(name) => row.dev.as_ref().is_some_and(|dev| dev == name) || row.path == *name,
        };
        self.is_host(&row.host)
            && mac.is_none_or(|mac| row.mac == mac.to_string())
            && uuid.is_none_or(|uuid| row.uuid == uuid.to_string())
            && guest.as_ref().is_none_or(|guest| row.guest == *guest)
            && device.as_ref().is_none_or(is_device)
    }

    /// What there is to say of each whole holding that meets the conditions, which is its last row; in
    /// the order of the values.
    fn of_whole(
        &self,
        values: impl Fn(HeldRow) -> Result<Option<Vec<Value>>, LakeError>,
    ) -> Result<Answer, LakeError> {
        let mut answer = Answer::new();
        self.each(|_, row: HeldRow| {
            if row.last && self.is_about(&row) {
                answer.extend(values(row)?);
            }
            Ok(())
        })?;
        answer.sort_unstable();
        Ok(answer)
    }

    fn start(&self) -> Micros {
        self.parameters.start.unwrap_or(Micros::MIN)
    }

    fn end(&self) -> Micros {
        self.parameters.end.unwrap_or(Micros::MAX)
    }

    /// Whether a holding was in the time range, or may have been.
    fn overlaps(&self, row: &HeldRow) -> Result<bool, LakeError> {
        let holding = holding(row)?;
        let from = holding.begun().map(|begun| begun.as_microsecond());
        let last = holding.proof.last().map(|proof| proof.time.as_microsecond());
        let to = if holding.state == State::Held { None } else { row.released.or(last) };
        let to = to.unwrap_or(Micros::MAX);
        let lived = to.max(from.unwrap_or(to)) >= self.start() && from.is_none_or(|from| from < self.end());
        Ok(lived || holds(&holding, Moment::range(self.start(), self.end())).is_some())
    }

    fn who(&self) -> Result<Answer, LakeError> {
        let Some(at) = self.parameters.at else { return Ok(Vec::new()) };
        self.of_whole(|row| {
            let holds = match holds(&holding(&row)?, at) {
                Some(true) => "yes",
                Some(false) => "possibly",
                None => return Ok(None),
            };
            let mut values = subject(&row);
            values.extend([
                maybe_text(row.dev),
                maybe_time(row.opened),
                maybe_time(row.granted),
                maybe_time(row.released),
                maybe_time(row.last_seen),
                Value::Text(row.state.into()),
                Value::Text(row.certainty.into()),
                Value::Text(holds.to_owned()),
            ]);
            Ok(Some(values))
        })
    }

    fn device(&self) -> Result<Answer, LakeError> {
        let Some(at) = self.parameters.at else { return Ok(Vec::new()) };
        let mut all = BTreeSet::new();
        self.each(|_, row: HeldRow| {
            if self.is_about(&row) && holds(&holding(&row)?, at).is_some() {
                let mut values = subject(&row);
                values.extend([
                    maybe_text(row.rdev),
                    maybe_text(row.dev),
                    maybe_time(row.opened),
                    maybe_time(row.granted),
                ]);
                all.insert(values);
            }
            Ok(())
        })?;
        Ok(all.into_iter().collect())
    }

    fn trail(&self) -> Result<Answer, LakeError> {
        self.of_whole(|row| {
            if !self.overlaps(&row)? {
                return Ok(None);
            }
            let mut values = subject(&row);
            values.extend([
                maybe_text(row.rdev),
                maybe_text(row.dev),
                Value::Text(row.state.into()),
                Value::Text(row.certainty.into()),
                maybe_text(row.ended_by),
                maybe_text(row.end_doubt),
                row.queues.map_or(Value::Null, Value::Int),
                row.pid.map_or(Value::Null, Value::Int),
                maybe_time(row.opened),
                maybe_time(row.granted),
                maybe_time(row.released),
                maybe_time(row.last_seen),
                maybe_time(row.uncertain_since),
            ]);
            Ok(Some(values))
        })
    }

    fn never_granted(&self) -> Result<Answer, LakeError> {
        self.of_whole(|row| {
            if row.state != State::NeverGranted.as_str() || !self.overlaps(&row)? {
                return Ok(None);
            }
            let mut values = subject(&row);
            values.extend([
                maybe_text(row.dev),
                maybe_time(row.opened),
                maybe_time(row.released),
                Value::Text(row.certainty.into()),
            ]);
            Ok(Some(values))
        })
    }

    fn count(&self) -> Result<Answer, LakeError> {
        let mut counts: BTreeMap<(String, String), (i64, i64)> = BTreeMap::new();
        self.each(|day, row: HeldRow| {
            if self.is_about(&row) {
                let (lived, began) = counts.entry((day.to_string(), row.kind.into())).or_default();
                *lived += 1;
                *began += i64::from(row.first);
            }
            Ok(())
        })?;
        let row = |((day, kind), (lived, began))| {
            vec![Value::Text(day), Value::Text(kind), Value::Int(lived), Value::Int(began)]
        };
        Ok(counts.into_iter().map(row).collect())
    }

    fn mac_on_two_hosts(&self) -> Result<Answer, LakeError> {
        // The rows of a day come in the order of their MACs: those of one at a time are kept.
        let mut pairs: BTreeMap<(String, Interface, Interface), Range> = BTreeMap::new();
        let mut one_mac: Option<(Day, String)> = None;
        let mut alive: BTreeSet<(Interface, Range)> = BTreeSet::new();
        self.each(|day, row: HeldRow| {
            if !self.is_about(&row) {
                return Ok(());
            }
            let current = (day, row.mac.to_string());
            if one_mac.as_ref() != Some(&current) {
                if let Some((_, mac)) = one_mac.replace(current) {
                    add_pairs(&mac, &alive, &mut pairs);
                }
                alive.clear();
            }
            if let Some((since, until)) = holding(&row)?.certainly_held() {
                let since = since.max(day.start()).as_microsecond();
                let until = until.min(day.end()).as_microsecond();
                alive.insert(((row.host.into(), row.guest.into(), row.uuid.into()), (since, until)));
            }
            Ok(())
        })?;
        if let Some((_, mac)) = one_mac {
            add_pairs(&mac, &alive, &mut pairs);
        }
        let row = |((mac, one, two), (since, until)): ((String, Interface, Interface), Range)| {
            let what = if one.2 == two.2 { "migration" } else { "two-guests" };
            let texts = [mac, one.0, one.1, one.2, two.0, two.1, two.2, what.to_owned()];
            texts.map(Value::Text).into_iter().chain([Value::Time(since), Value::Time(until)]).collect()
        };
        Ok(pairs.into_iter().map(row).collect())
    }

    /// The coverage rows of the question's hosts.
    fn coverage(&self) -> Result<Vec<CoverageRow>, LakeError> {
        let mut all = Vec::new();
        self.each(|_, row: CoverageRow| {
            if self.is_host(&row.host) {
                all.push(row);
            }
            Ok(())
        })?;
        Ok(all)
    }

    fn silent_hosts(&self) -> Result<Answer, LakeError> {
        let mut spans: BTreeMap<String, Vec<Range>> = BTreeMap::new();
        for row in self.coverage()? {
            if row.what == CoverageRow::SPAN && row.since < self.end() {
                spans.entry(row.host.into()).or_default().push((row.since, row.until));
            }
        }
        let limit = Micros::from(self.parameters.longer_than.unwrap_or(0)) * 1_000_000;
        let mut answer = Answer::new();
        for (host, mut spans) in spans {
            spans.sort_unstable();
            let mut reached = Micros::MIN;
            for (index, (_, until)) in spans.iter().enumerate() {
                reached = reached.max(*until);
                let resumed = spans.get(index + 1).map(|(since, _)| *since);
                let is_silent = resumed.unwrap_or(self.end()).saturating_sub(limit) > reached;
                if is_silent && resumed.is_none_or(|resumed| resumed > self.start()) {
                    answer.push(vec![Value::Text(host.clone()), Value::Time(reached), maybe_time(resumed)]);
                }
            }
        }
        Ok(answer)
    }

    fn clock_skew(&self) -> Result<Answer, LakeError> {
        let Some(at) = self.parameters.at else { return Ok(Vec::new()) };
        let limit = Micros::from(self.parameters.longer_than.unwrap_or(0)) * 1_000_000;
        let mut latest: BTreeMap<String, Micros> = BTreeMap::new();
        for row in self.coverage()? {
            let of_host = latest.entry(row.host.into()).or_insert(row.until);
            *of_host = row.until.max(*of_host);
        }
        latest.retain(|_, latest| *latest > at.last.saturating_add(limit));
        Ok(latest.into_iter().map(|(host, latest)| vec![Value::Text(host), Value::Time(latest)]).collect())
    }

    fn each_finding(&self, mut take: impl FnMut(FindingRow)) -> Result<(), LakeError> {
        let Parameters { mac, uuid, guest, device, severities, .. } = self.parameters;
        self.each(|_, row: FindingRow| {
            let is = |value: &Option<Text>, asked: &str| value.as_deref() == Some(asked);
            let is_device = |device: &DeviceIs| match device {
                DeviceIs::Kind(kind) => is(&row.device_kind, kind),
                DeviceIs::Path(path) => row.path.as_deref().is_some_and(|of| socket_path(of) == path),
                DeviceIs::Number(number) => is(&row.rdev, number),
                DeviceIs::Interface(name) => is(&row.dev, name) || is(&row.path, name),
            };
            if (self.start()..self.end()).contains(&row.time)
                && self.is_host(&row.host)
                && mac.is_none_or(|mac| is(&row.mac, &mac.to_string()))
                && uuid.is_none_or(|uuid| is(&row.uuid, &uuid.to_string()))
                && guest.as_ref().is_none_or(|guest| is(&row.guest, guest))
                && device.as_ref().is_none_or(is_device)
                && (severities.is_empty() || severities.contains(&row.severity.as_str()))
            {
                take(row);
            }
            Ok(())
        })
    }

    fn findings(&self) -> Result<Answer, LakeError> {
        let mut answer = Answer::new();
        self.each_finding(|row| {
            answer.push(vec![
                Value::Text(row.severity.into()),
                Value::Text(row.kind.into()),
                Value::Text(row.host.into()),
                Value::Time(row.time),
                maybe_text(row.guest),
                maybe_text(row.uuid),
                maybe_text(row.mac),
                maybe_text(row.device_kind),
                maybe_text(row.path),
                maybe_text(row.dev),
                Value::Text(row.text),
            ]);
        })?;
        Ok(answer)
    }

    fn findings_by_kind(&self) -> Result<Answer, LakeError> {
        let mut counts: BTreeMap<(String, String), (i64, BTreeSet<String>)> = BTreeMap::new();
        self.each_finding(|row| {
            let (total, hosts) = counts.entry((row.severity.into(), row.kind.into())).or_default();
            *total += 1;
            hosts.insert(row.host.to_string());
        })?;
        let row = |((severity, kind), (total, hosts)): (_, (i64, BTreeSet<String>))| {
            let hosts = i64::try_from(hosts.len()).unwrap_or(i64::MAX);
            vec![Value::Text(severity), Value::Text(kind), Value::Int(total), Value::Int(hosts)]
        };
        Ok(counts.into_iter().map(row).collect())
    }

    fn unknown_hosts(&self) -> Result<Answer, LakeError> {
        let Some(at) = self.parameters.at else { return Ok(Vec::new()) };
        let rows = self.coverage()?;
        let all = CoverageRow::coverage(rows).ok_or_else(out_of_range)?;
        let (first, last) = (time(at.first)?, time(at.last)?);
        // The range ends before the next microsecond.
        let until = if at.first == at.last { first } else { last + jiff::SignedDuration::from_micros(1) };
        let mut answer = Answer::new();
        for of in all {
            let why = match (of.covers(first, until), of.knows_all(first, until)) {
                (false, _) => "not-covered",
                (true, false) => "no-start",
                (true, true) => continue,
            };
            let micros = |time: Option<Timestamp>| maybe_time(time.map(Timestamp::as_microsecond));
            let begin = micros(of.spans.iter().map(|span| span.from).min());
            let end = micros(of.spans.iter().map(|span| span.until).max());
            answer.push(vec![Value::Text(of.host.to_string()), Value::Text(why.to_owned()), begin, end]);
        }
        Ok(answer)
    }
}

/// Adds the pairs of two hosts' interfaces with one MAC that were alive at the same time.
fn add_pairs(
    mac: &str,
    alive: &BTreeSet<(Interface, Range)>,
    pairs: &mut BTreeMap<(String, Interface, Interface), Range>,
) {
    for (one, (since, until)) in alive {
        for (two, (other_since, other_until)) in alive {
            let both = (*since.max(other_since), *until.min(other_until));
            if one.0 < two.0 && both.0 < both.1 {
                let known = pairs.entry((mac.to_owned(), one.clone(), two.clone())).or_insert(both);
                *known = (known.0.min(both.0), known.1.max(both.1));
            }
        }
    }
}

/// Whether a holding was held at a time: true if it certainly was, false if it possibly was.
fn holds(holding: &Holding, at: Moment) -> Option<bool> {
    let touches = |from: Option<Timestamp>, until: Option<Timestamp>| {
        from.is_none_or(|from| from.as_microsecond() <= at.last)
            && until.is_none_or(|until| at.first < until.as_microsecond())
    };
    let certainly = holding.certainly_held().is_some_and(|(from, until)| touches(Some(from), Some(until)));
    let possibly = || holding.possibly_held.iter().any(|range| touches(range.from, range.until));
    if certainly {
        Some(true)
    } else if possibly() {
        Some(false)
    } else {
        None
    }
}

fn holding(row: &HeldRow) -> Result<Holding, LakeError> {
    row.clone().holding().ok_or_else(out_of_range)
}

fn time(micros: Micros) -> Result<Timestamp, LakeError> {
    Timestamp::from_microsecond(micros).map_err(|_| out_of_range())
}

fn out_of_range() -> LakeError {
    LakeError::damaged(&Arc::from("a row"), "a value is out of its range")
}

fn subject(row: &HeldRow) -> Vec<Value> {
    [&row.host, &row.guest, &row.uuid, &row.mac, &row.kind, &row.path]
        .map(|text| Value::Text(text.to_string()))
        .to_vec()
}

fn maybe_text(text: Option<Text>) -> Value {
    text.map_or(Value::Null, |text| Value::Text(text.into()))
}

fn maybe_time(time: Option<Micros>) -> Value {
    time.map_or(Value::Null, Value::Time)
}
