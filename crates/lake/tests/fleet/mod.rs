//! A lake like that of a fleet of KVM hosts, identical for the same options, by the lake's own
//! writer.
//!
//! Among its guests are cases that questions are about: live migrations, one MAC in two guests (at
//! once, and one after the other), hosts that fall silent, a clock that is ahead, devices that no
//! QEMU got, interfaces without a recorded open, ends that nobody saw, and names of guests that try
//! to be SQL.
//!
//! The first generation has an object with rows that the second one has not: whoever reads
//! superseded objects gives wrong answers.

#![allow(unreachable_pub)] // A part of several programs.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;
use taptrail_lake::{
    CoverageRow, Day, FindingRow, Generation, GenerationManifest, HeldRow, LakeError, ObjectEntry,
    ObjectWriter, Root, Row, Store, VERSION, sha256, write_months, write_summary,
};
use taptrail_record::{Device, DeviceKind, GuestId, MacAddr};
use taptrail_trail::{
    Certainty, Doubt, EndedBy, Finding, FindingKind, Holding, Incident, PossiblyHeld, Proof, State,
};
use uuid::Uuid;

/// How large the fleet is.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hosts, 8 at least.
    pub hosts: u64,
    /// Days, 4 at least.
    pub days: u64,
    /// Guests of each host, with two interfaces each, and a tap and a vhost-net for each of these.
    pub guests: u64,
    /// The first day.
    pub first_day: Day,
    /// Another number makes another fleet.
    pub seed: u64,
}

pub type Error = Box<dyn std::error::Error>;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// splitmix64: small, and the same everywhere.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: i64) -> i64 {
        i64::try_from(self.next() % limit.unsigned_abs().max(1)).unwrap_or_default()
    }
}

/// How a session's devices were held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Usual,
    /// It ran before the records begin.
    BeforeRecords,
    NeverGranted,
    OpenFailed,
    /// Its end was not seen: only that it lasted until an hour before.
    EndUnseen,
    /// Records of its last hour may be missing.
    Uncertain,
    /// No record shows an open: only that QEMU got the interface.
    Unrecorded,
}

/// One run of a guest with its interfaces.
#[derive(Debug, Clone)]
struct Session {
    guest: GuestId,
    macs: Vec<MacAddr>,
    from: i64,
    until: i64,
    case: Case,
    number: i64,
}

/// A guest that starts and ends again and again.
struct Guest {
    random: Random,
    session: Session,
}

impl Guest {
    fn next(&mut self) {
        let random = &mut self.random;
        let from = self.session.until + 10 * SECOND + random.below(4 * HOUR);
        let case = match random.below(400) {
            0 => Case::NeverGranted,
            1 => Case::OpenFailed,
            2 => Case::EndUnseen,
            3 => Case::Uncertain,
            _ => Case::Usual,
        };
        let length = match case {
            Case::NeverGranted | Case::OpenFailed => SECOND + random.below(SECOND),
            _ => 2 * HOUR + random.below(36 * HOUR),
        };
        let number = self.session.number + 1;
        self.session = Session { from, until: from + length, case, number, ..self.session.clone() };
    }
}

struct Host {
    name: String,
    guests: Vec<Guest>,
    /// Sessions that are not of the simulation.
    planted: Vec<Session>,
    /// Its records end here.
    last: i64,
    /// No records of this time.
    silent: Option<(i64, i64)>,
    has_start: bool,
    random: Random,
}

fn uuid(random: &mut Random) -> Uuid {
    uuid::Builder::from_random_bytes(
        (u128::from(random.next()) << 64 | u128::from(random.next())).to_be_bytes(),
    )
    .into_uuid()
}

fn mac(random: &mut Random) -> MacAddr {
    let [_, _, _, _, _, a, b, c] = random.next().to_be_bytes();
    MacAddr([0x52, 0x54, 0, a, b, c])
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_default()
}

/// Names that break a query that does not quote them.
const HOSTILE: [&str; 8] = [
    "'; DROP TABLE held; --",
    "\\' OR 1=1 --",
    "${env:HOME} ${spark.master}",
    "{{condition}} {a,b} %s $1 ?",
    "läuft 🦀 \"quoted\" `back`",
    "line one\nline two\ttab \u{1b}[31m",
    "\\u0027 \\x27 \\N",
    "/* web */ -- 'x' \\",
];

struct Fleet {
    hosts: Vec<Host>,
    begin: i64,
    end: i64,
}

fn fleet(arguments: &Options) -> (Fleet, serde_json::Value) {
    let begin = arguments.first_day.start().as_microsecond();
    let days = i64::try_from(arguments.days).unwrap_or(1);
    let end = begin + days * DAY;
    let mut random = Random(arguments.seed);
    let mut hosts: Vec<Host> = (0..arguments.hosts)
        .map(|number| {
            let mut random = Random(random.next());
            let guests = (0..arguments.guests).map(|_| {
                let mut random = Random(random.next());
                let id = uuid(&mut random);
                let guest = GuestId { name: format!("vm-{:08x}", id.as_u128() >> 96).into(), uuid: id };
                let macs = vec![mac(&mut random), mac(&mut random)];
                let until = begin + 60 * SECOND - random.below(DAY) % (60 * SECOND);
                let session = Session { guest, macs, from: begin, until, case: Case::Usual, number: 0 };
                let mut guest = Guest { random, session };
                guest.next();
                guest
            });
            Host {
                // Some hosts' names have their domain.
                name: format!("kvm{number:04}{}", if number % 3 == 0 { ".example.org" } else { "" }),
                guests: guests.collect(),
                planted: Vec::new(),
                // A log rarely ends at midnight.
                last: end - SECOND,
                silent: None,
                has_start: true,
                random,
            }
        })
        .collect();
    let mut session = |case, from: i64, until: i64, name: Option<&str>| {
        let id = uuid(&mut random);
        let name = name.map_or_else(|| format!("planted-{:08x}", id.as_u128() >> 96), str::to_owned);
        let guest = GuestId { name: name.into(), uuid: id };
        Session { guest, macs: vec![mac(&mut random)], from, until, case, number: 0 }
    };
    let at = |day: i64, hour: i64| begin + day * DAY + hour * HOUR;

    // A live migration: the guest is on both hosts for two seconds.
    let mut migration = session(Case::Usual, at(0, 5), at(1, 12) + 2 * SECOND, None);
    let migrated = json!({"mac": migration.macs[0].to_string(), "uuid": migration.guest.uuid, "from": hosts[0].name, "to": hosts[1].name});
    hosts[0].planted.push(migration.clone());
    migration = Session { from: at(1, 12), until: at(3, 1), ..migration };
    hosts[1].planted.push(migration);

    // One MAC in two guests: a long holding, two short ones within it on another host, and one on a
    // third host after its end.
    let long = session(Case::Usual, at(0, 3), at(2, 20), None);
    let copied = json!({"mac": long.macs[0].to_string(), "host": hosts[2].name, "other_host": hosts[3].name});
    for (host, from, until) in [(3, at(1, 8), at(1, 11)), (3, at(2, 1), at(2, 2)), (4, at(2, 21), at(3, 4))] {
        let short = session(Case::Usual, from, until, None);
        hosts[host].planted.push(Session { macs: long.macs.clone(), ..short });
    }
    let asked_mac = long.macs[0].to_string();
    hosts[2].planted.push(long);

    for (number, name) in HOSTILE.iter().enumerate() {
        let hour = i64::try_from(number).unwrap_or_default();
        let host = number % hosts.len();
        hosts[host].planted.push(session(Case::Usual, at(0, 1 + hour), at(2, hour), Some(name)));
    }
    for (case, length) in [
        (Case::NeverGranted, SECOND),
        (Case::OpenFailed, SECOND),
        (Case::EndUnseen, 40 * HOUR),
        (Case::Uncertain, 30 * HOUR),
    ] {
        hosts[5].planted.push(session(case, at(0, 4), at(0, 4) + length, None));
        // Opened before midnight, and given up after it.
        hosts[6].planted.push(session(case, at(1, 0) - SECOND / 2, at(1, 0) - SECOND / 2 + length, None));
    }
    hosts[6].planted.push(session(Case::BeforeRecords, begin - DAY, at(1, 3), None));
    hosts[6].planted.push(session(Case::BeforeRecords, begin - DAY, end + DAY, None));
    hosts[6].has_start = false;
    let unrecorded = session(Case::Unrecorded, at(1, 20), at(2, 6), None);
    let unrecorded_mac = unrecorded.macs[0].to_string();
    hosts[6].planted.push(unrecorded);

    hosts[4].silent = Some((at(1, 10), at(1, 13)));
    hosts[5].last = at(2, 12);
    hosts[7].last = end + 2 * HOUR;
    let truth = json!({
        "migration": migrated,
        "copied": copied,
        "silent": [
            {"host": hosts[4].name, "since": time(at(1, 10)), "until": time(at(1, 13))},
            {"host": hosts[5].name, "since": time(at(2, 12)), "until": null},
        ],
        "ahead": [hosts[7].name],
        "no_start": [hosts[6].name],
        "hostile": HOSTILE,
        "begin": time(begin),
        "end": time(end),
        "mac": asked_mac,
        "unrecorded": unrecorded_mac,
        "at": time(at(1, 9)),
    });
    (Fleet { hosts, begin, end }, truth)
}

fn proof(host: &str, time_of: i64, number: i64) -> Proof {
    Proof {
        serial: Some(u32::try_from(time_of / SECOND % 4_000_000_000).unwrap_or_default()),
        time: time(time_of),
        source: format!("/srv/logs/{host}/audit.log").into(),
        line: number.unsigned_abs() + (time_of / SECOND % 1_000_000).unsigned_abs(),
        copies: Vec::new(),
        unauthenticated: false,
    }
}

/// The rows of a session on one day: `None` if it did not live on it.
fn rows(session: &Session, host: &Host, day: Day, rows: &mut Vec<HeldRow>) {
    let (start, end) = (day.start().as_microsecond(), day.end().as_microsecond());
    let until = session.until;
    if session.from >= end || until <= start || start >= host.last {
        return;
    }
    let has_ended = until < host.last;
    let is_last = if has_ended { until <= end } else { host.last <= end };
    let ended = has_ended && is_last;
    let before = session.case == Case::BeforeRecords;
    let first_day = if before { Day::of(host_begin(host, session)) } else { Day::of(time(session.from)) };
    let granted = session.from + 30_000;
    let is_unrecorded = session.case == Case::Unrecorded;
    let is_held = !is_unrecorded && !matches!(session.case, Case::NeverGranted | Case::OpenFailed);
    for (index, mac) in session.macs.iter().enumerate() {
        for kind in [DeviceKind::Tun, DeviceKind::VhostNet] {
            let is_tun = kind == DeviceKind::Tun;
            if is_unrecorded && !is_tun {
                continue;
            }
            let tap =
                format!("vnet{}", (session.number * 7 + i64::try_from(index).unwrap_or_default()) % 300);
            let device = Device {
                kind,
                path: if is_tun { "/dev/net/tun" } else { "/dev/vhost-net" }.into(),
                rdev: if is_tun { "0A:C8" } else { "0A:EE" }.parse().ok(),
                dev: is_tun.then(|| tap.into()),
            };
            let device = if is_unrecorded { Device::new("?", None, None) } else { device };
            let state = match (session.case, ended) {
                (Case::Unrecorded, _) => State::Unknown,
                (Case::OpenFailed, _) => State::OpenFailed,
                (Case::NeverGranted, true) => State::NeverGranted,
                (Case::NeverGranted, false) => State::Opening,
                (_, true) => State::Released,
                (_, false) => State::Held,
            };
            let mut proofs = if before {
                vec![proof(
                    &host.name,
                    host_begin(host, session).as_microsecond() + 5 * SECOND,
                    session.number,
                )]
            } else if is_unrecorded {
                vec![proof(&host.name, session.from, session.number)]
            } else {
                vec![
                    proof(&host.name, session.from, session.number),
                    proof(&host.name, granted, session.number),
                ]
            };
            if ended {
                proofs.push(proof(&host.name, until, session.number));
            }
            let seen = until - HOUR;
            let range = |from: Option<i64>, until: Option<i64>, why| PossiblyHeld {
                from: from.map(time),
                until: until.map(time),
                why,
            };
            let mut possibly = match session.case {
                Case::NeverGranted => {
                    vec![range(Some(session.from), ended.then_some(until), Doubt::NothingFollowed)]
                }
                Case::Unrecorded => {
                    vec![range(Some(session.from), ended.then_some(until), Doubt::DeviceUnknown)]
                }
                Case::OpenFailed => Vec::new(),
                Case::BeforeRecords => {
                    vec![range(
                        None,
                        proofs.first().map(|proof| proof.time.as_microsecond()),
                        Doubt::BeforeTrail,
                    )]
                }
                _ => vec![range(Some(session.from), Some(granted), Doubt::BeforeGrant)],
            };
            if ended && session.case == Case::EndUnseen {
                possibly.push(range(Some(seen), Some(until), Doubt::EndUnseen));
            }
            if ended && session.case == Case::Uncertain {
                possibly.push(range(Some(seen), Some(until), Doubt::RecordsLost));
            }
            let holding = Holding {
                host: host.name.as_str().into(),
                guest: session.guest.clone(),
                mac: *mac,
                device,
                queues: None,
                opened: (!before && !is_unrecorded).then(|| time(session.from)),
                granted: (is_held && !before).then(|| time(granted)),
                released: (ended && !is_unrecorded).then(|| time(until)),
                last_seen: (ended && session.case == Case::EndUnseen).then(|| time(seen)),
                end_doubt: None,
                uncertain_since: (ended && session.case == Case::Uncertain).then(|| time(seen)),
                possibly_held: possibly,
                state,
                ended_by: (ended && is_held).then_some(EndedBy::Stop),
                certainty: if matches!(session.case, Case::Uncertain | Case::Unrecorded) {
                    Certainty::Incomplete
                } else {
                    Certainty::Definitive
                },
                pid: is_held
                    .then(|| 1000 + u32::try_from(session.from / SECOND % 3_000_000).unwrap_or_default()),
                proof: proofs,
            };
            rows.push(HeldRow::of(&holding, first_day == day, is_last));
        }
    }
}

/// When the records of a session's host begin, which runs since before.
fn host_begin(_: &Host, session: &Session) -> Timestamp {
    time(session.from + DAY)
}

fn coverage(host: &Host, fleet: &Fleet, day: Day, rows: &mut Vec<CoverageRow>) {
    let (start, end) = (day.start().as_microsecond(), day.end().as_microsecond());
    let mut row = |what: &str, since: i64, until: i64| {
        rows.push(CoverageRow {
            host: host.name.as_str().into(),
            what: what.into(),
            since,
            until,
            records: i64::from(what == CoverageRow::SPAN) * 40,
            first_serial: Some(since / SECOND % 1_000_000),
            last_serial: Some(until / SECOND % 1_000_000),
            written: None,
        });
    };
    let until = end.min(host.last);
    if start >= until {
        return;
    }
    match host.silent {
        Some((from, to)) if from >= start && to <= end => {
            row(CoverageRow::SPAN, start, from);
            row(CoverageRow::SPAN, to, until);
        }
        _ => row(CoverageRow::SPAN, start, until),
    }
    if start == fleet.begin && host.has_start {
        row(CoverageRow::START, start, start);
    }
    // Records of ten minutes are missing of a host.
    if host.name.ends_with('1') && host.name.len() < 9 && start == fleet.begin + DAY {
        row(CoverageRow::GAP, start + 6 * HOUR, start + 6 * HOUR + 600 * SECOND);
    }
}

fn findings(host: &mut Host, day: Day, rows: &mut Vec<FindingRow>) {
    if day.start().as_microsecond() >= host.last {
        return;
    }
    for number in 0..host.random.below(4) {
        let kind = FindingKind::ALL[usize::try_from(
            host.random.below(i64::try_from(FindingKind::ALL.len()).unwrap_or(1)),
        )
        .unwrap_or_default()];
        let when = day.start().as_microsecond() + host.random.below(12 * HOUR);
        let guest = &host.guests.first().map(|guest| guest.session.clone());
        let about = guest.as_ref().filter(|_| !host.random.0.is_multiple_of(3));
        rows.push(FindingRow::of(&Finding {
            kind,
            host: host.name.as_str().into(),
            guest: about.map(|session| session.guest.clone()),
            mac: about.map(|session| session.macs[0]),
            device: None,
            time: time(when),
            text: format!("{} (it's number {number})", kind.summary()),
            proof: vec![proof(&host.name, when, number)],
            incident: Incident { number: number.unsigned_abs() + 1, follows: false },
        }));
    }
}

/// Writes a day's rows as an object of a generation.
fn write<R: Row>(
    store: &Store,
    generation: Generation,
    day: Day,
    mut rows: Vec<R>,
) -> Result<Option<ObjectEntry>, LakeError> {
    if rows.is_empty() {
        return Ok(None);
    }
    rows.sort_unstable_by(R::order);
    let mut writer = ObjectWriter::new()?;
    rows.into_iter().try_for_each(|row| writer.push(row))?;
    let rows = writer.rows();
    let content = writer.finish()?;
    let sha256 = sha256(&content);
    let path = generation.object(R::TABLE, day, &sha256);
    let bytes = content.len() as u64;
    store.put_new(&path, content)?;
    Ok(Some(ObjectEntry { table: R::TABLE, day, path, sha256, bytes, rows }))
}

fn put_generation(
    store: &Arc<Store>,
    generation: Generation,
    previous: Option<Root>,
    mut objects: Vec<ObjectEntry>,
) -> Result<Root, Error> {
    objects.sort_by(|one, two| one.path.cmp(&two.path));
    let scratch = tempfile::tempdir()?;
    let summary = write_summary(store, None, &objects, generation, scratch.path())?;
    let months = write_months(store, None, &objects, generation)?;
    let batches = Vec::new();
    let manifest =
        GenerationManifest { version: VERSION, generation, previous, objects, summary, months, batches };
    let content = serde_json::to_vec_pretty(&manifest)?;
    let sha256 = sha256(&content);
    store.put_new(&generation.manifest(), content.into())?;
    Ok(Root { generation, sha256 })
}

/// Some MACs that are held, each with a time at which it is.
fn samples(held: &[HeldRow]) -> serde_json::Value {
    let granted: Vec<_> = held.iter().filter_map(|row| Some((&row.mac, row.granted?))).collect();
    let each = granted.iter().step_by((granted.len() / 5).max(1));
    each.map(|(mac, granted)| json!({"mac": mac, "at": time(granted + SECOND)})).collect()
}

/// Writes the lake. Returns where the cases are.
pub fn write_lake(store: &Arc<Store>, options: &Options) -> Result<serde_json::Value, Error> {
    let (mut fleet, mut truth) = fleet(options);
    let mut objects = Vec::new();
    let (mut total, mut superseded, mut number) = (0, None, 0);
    let mut day = options.first_day;
    // The clock that is ahead is so on the day after the last.
    while day.start().as_microsecond() <= fleet.end {
        let (mut held, mut covered, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..fleet.hosts.len() {
            coverage(&fleet.hosts[index], &fleet, day, &mut covered);
            let host = &mut fleet.hosts[index];
            if day.start().as_microsecond() < fleet.end {
                findings(host, day, &mut found);
            }
            let end = day.end().as_microsecond();
            for index in 0..host.guests.len() {
                loop {
                    let session = host.guests[index].session.clone();
                    rows(&session, host, day, &mut held);
                    if session.until > end {
                        break;
                    }
                    host.guests[index].next();
                }
            }
            let planted = host.planted.clone();
            planted.iter().for_each(|session| rows(session, host, day, &mut held));
        }
        if superseded.is_none() {
            let mut wrong: Vec<HeldRow> = held.clone();
            wrong.iter_mut().for_each(|row| row.host = "superseded".into());
            superseded = write(store, Generation(1), day, wrong)?;
        }
        number += 1;
        if number == options.days / 2 {
            truth["samples"] = samples(&held);
        }
        total += held.len();
        objects.extend(write(store, Generation(2), day, held)?);
        objects.extend(write(store, Generation(2), day, covered)?);
        objects.extend(write(store, Generation(2), day, found)?);
        let Some(next) = day.next() else { break };
        day = next;
    }
    let bytes: u64 = objects.iter().map(|object| object.bytes).sum();
    let first = put_generation(store, Generation(1), None, superseded.into_iter().collect())?;
    put_generation(store, Generation(2), Some(first), objects)?;
    truth["rows"] = json!(total);
    truth["bytes"] = json!(bytes);
    Ok(truth)
}
