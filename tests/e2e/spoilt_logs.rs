//! Lines of real logs are lost, doubled or out of order, and no claim of the trail is false.
//!
//! Each log of a real libvirt has the truth beside it: which descriptors each QEMU held, and when.
//! Lines are left out, repeated and moved at random. *Definitive* and *inferred* holdings of the
//! rest have to agree with the truth. Unknown, ambiguous and possible holdings claim nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use taptrail_record::MacAddr;
use taptrail_source::{Input, ReadOptions, SourceError, read};
use taptrail_trail::{Certainty, EndedBy, Holding, State, Trail};

/// The number of variants of each log.
const VARIANTS: u64 = 60;

/// Tolerances in seconds between a record and the observation in QEMU: after a release, after a
/// stop, and at a grant. libvirt notices a QEMU's end within two seconds, on a slow machine later.
const LATE_END: f64 = 3.0;
const LATE_STOP: f64 = 10.0;
const EARLY_START: f64 = 0.2;

// Shows 10.21.
#[test]
fn no_claim_about_a_spoilt_log_is_false() {
    let mut claims = 0;
    for folder in folders() {
        let log = std::fs::read(folder.join("audit.log")).unwrap();
        let lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
        let truth = Truth::of(&folder);
        for seed in 0..VARIANTS {
            let spoilt = spoil(&lines, seed);
            for holding in read_holdings(&spoilt) {
                if let Err(why) = truth.check(&holding) {
                    let text = String::from_utf8_lossy(&spoilt).into_owned();
                    panic!("{}, variant {seed}: {why}\n{holding:#?}\n{text}", folder.display());
                }
                claims += u64::from(claims_something(&holding));
            }
        }
    }
    assert!(claims > 1000, "too few claims to check: {claims}");
}

// Shows 10.21.
#[test]
fn no_claim_about_a_complete_log_is_false() {
    for folder in folders() {
        let log = std::fs::read(folder.join("audit.log")).unwrap();
        let truth = Truth::of(&folder);
        for holding in read_holdings(&log) {
            truth.check(&holding).unwrap_or_else(|why| panic!("{}: {why}\n{holding:#?}", folder.display()));
        }
    }
}

/// The lines of two real logs in the order of their times, as if they were one host's: their serial
/// numbers may be far apart, near or the same.
// Shows 10.37.
#[test]
fn two_hosts_taken_for_one_are_refused_or_claim_no_more_than_each_alone() {
    let logs: Vec<Vec<Stamped>> = folders().iter().map(|folder| Stamped::of(folder)).collect();
    let (mut refused, mut claims) = (0, 0);
    for seed in 0..400_u64 {
        let mut random = Random((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let any = |random: &mut Random| usize::try_from(random.roll(logs.len() as u64)).unwrap();
        let (one, other) = (any(&mut random), any(&mut random));
        let (one, mut other) = (logs[one].clone(), logs[other].clone());
        // One guest does not run on two hosts.
        let guests = |log: &[Stamped]| log.iter().filter_map(Stamped::guest).collect::<BTreeSet<_>>();
        if !guests(&one).is_disjoint(&guests(&other)) {
            continue;
        }
        let middle = one[one.len() / 2].millis;
        let begin =
            [middle, one[0].millis + random.roll(10_000), one[one.len() - 1].millis + random.roll(100_000)];
        let begin = begin[usize::try_from(random.roll(3)).unwrap()];
        let number =
            one[0].serial + [0, random.roll(300), 50_000, 900_000][usize::try_from(random.roll(4)).unwrap()];
        let (first, since) = (other[0].serial, other[0].millis);
        for line in &mut other {
            line.millis = line.millis - since + begin;
            line.serial = line.serial - first + number;
        }
        let mut both: Vec<&Stamped> = one.iter().chain(&other).collect();
        both.sort_by_key(|line| line.millis);
        let text = |lines: &[&Stamped]| lines.iter().map(|line| line.text()).collect::<String>();
        let Ok(both_as_one) = read_all(text(&both).as_bytes()) else {
            refused += 1;
            continue;
        };
        let alone = [&one, &other]
            .map(|log| read_holdings(text(&log.iter().collect::<Vec<_>>()).as_bytes()))
            .concat();
        for holding in both_as_one.iter().filter(|holding| claims_something(holding)) {
            claims += 1;
            let same = |alone: &&Holding| {
                alone.guest == holding.guest && alone.mac == holding.mac && alone.released == holding.released
            };
            // Which open it was may be unknown now.
            let known = |alone: &Holding| {
                alone.device.kind == holding.device.kind
                    && alone.opened == holding.opened
                    && alone.ended_by == holding.ended_by
            };
            let agrees = alone.iter().filter(same).any(|alone| known(alone) || holding.opened.is_none());
            assert!(agrees, "seed {seed}: {holding:#?}\n{}", text(&both));
        }
    }
    assert!(refused > 30 && claims > 300, "{refused} refused, {claims} claims");
}

/// A line of an audit log whose time and serial number may be changed.
#[derive(Clone)]
struct Stamped {
    millis: u64,
    serial: u64,
    before: String,
    after: String,
}

impl Stamped {
    fn of(folder: &Path) -> Vec<Self> {
        let log = std::fs::read(folder.join("audit.log")).unwrap();
        let log = String::from_utf8_lossy(&log);
        let line = |line: &str| {
            let (before, rest) = line.split_once("audit(")?;
            let (stamp, after) = rest.split_once(')')?;
            let (time, serial) = stamp.split_once(':')?;
            let (seconds, millis) = time.split_once('.')?;
            let number = |text: &str| text.parse::<u64>().unwrap();
            let millis = number(seconds) * 1000 + number(millis);
            let serial = number(serial);
            Some(Self { millis, serial, before: before.to_owned(), after: after.to_owned() })
        };
        log.lines().filter(|line| !line.starts_with("type=DAEMON_")).filter_map(line).collect()
    }

    fn guest(&self) -> Option<String> {
        self.after.split_once("uuid=").map(|(_, rest)| rest.split(' ').next().unwrap().to_owned())
    }

    fn text(&self) -> String {
        let Self { millis, serial, before, after } = self;
        format!("{before}audit({}.{:03}:{serial}){after}\n", millis / 1000, millis % 1000)
    }
}

/// Numbers that look random, the same for each seed.
struct Random(u64);

impl Random {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    }
}

/// Leaves lines out, repeats some and moves some.
fn spoil(lines: &[&[u8]], seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    // From a few lines lost to a few kept; every third variant has only guests' records.
    let kept = [995, 990, 950, 900, 700, 400, 100][usize::try_from(seed % 7).unwrap()];
    let guests_alone = seed % 3 == 2;
    let mut some: Vec<&[u8]> = lines
        .iter()
        .filter(|line| !guests_alone || line.starts_with(b"type=VIRT_"))
        .filter(|_| random.roll(1000) < kept)
        .copied()
        .collect();
    match seed % 4 {
        0 => {}
        1 => {
            let all = some.clone();
            for line in all {
                if random.roll(5) == 0 {
                    let at = usize::try_from(random.roll(some.len() as u64 + 1)).unwrap();
                    some.insert(at, line);
                }
            }
        }
        2 => {
            for at in 1..some.len() {
                let back = usize::try_from(random.roll(8)).unwrap().min(at);
                some.swap(at, at - back);
            }
        }
        _ => {
            for at in (1..some.len()).rev() {
                some.swap(at, usize::try_from(random.roll(at as u64 + 1)).unwrap());
            }
        }
    }
    some.concat()
}

fn read_holdings(log: &[u8]) -> Vec<Holding> {
    read_all(log).unwrap_or_else(|refused| panic!("{refused}"))
}

/// The holdings of a log, unless it is refused as the log of two hosts.
fn read_all(log: &[u8]) -> Result<Vec<Holding>, SourceError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(log).unwrap();
    let mut trail = Trail::new();
    let options = ReadOptions { zone: TimeZone::UTC, ..ReadOptions::default() };
    let outcome = read(vec![Input::File(file.path().to_owned())], options, &mut |entry| {
        trail.feed(entry);
        ControlFlow::Continue(())
    });
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    if let Some(refused) = outcome.refused {
        return Err(refused);
    }
    for coverage in &outcome.input.coverage {
        trail.cover(&coverage.host, coverage.spans.last().unwrap().until);
    }
    let mut holdings: Vec<Holding> = trail.drain_ended().collect();
    holdings.extend(trail.finish().holdings);
    Ok(holdings)
}

fn is_certain(holding: &Holding) -> bool {
    matches!(holding.certainty, Certainty::Definitive | Certainty::Inferred)
}

fn claims_something(holding: &Holding) -> bool {
    is_certain(holding) && (holding.state == State::NeverGranted || holding.certainly_held().is_some())
}

struct Truth {
    /// The devices that QEMUs held.
    held: Vec<HeldInterval>,
    /// The times without a daemon, in seconds since 1970.
    downtimes: Vec<(f64, f64)>,
    /// The time of the last observation, in seconds since 1970.
    end: f64,
}

#[derive(Debug)]
struct HeldInterval {
    uuid: String,
    mac: Option<MacAddr>,
    kind: String,
    from: f64,
    to: f64,
    /// The end of the command that took it, in seconds since 1970.
    done: f64,
}

impl Truth {
    fn of(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("truth.json")).unwrap();
        let truth: Value = serde_json::from_str(&text).unwrap();
        let number = |value: &Value| value.as_f64();
        let ends = |cmd: &str| -> Vec<f64> {
            let steps = truth["steps"].as_array().unwrap().iter();
            steps.filter(|step| step["cmd"] == cmd).filter_map(|step| number(&step["t_end"])).collect()
        };
        let downtimes = ends("kill -9 of libvirtd").into_iter().zip(ends("libvirtd started")).collect();
        let mut devices: BTreeMap<(u64, String, String), HeldInterval> = BTreeMap::new();
        for seen in truth["fd_intervals"].as_array().unwrap() {
            let text = |key: &str| seen[key].as_str().unwrap_or_default().to_owned();
            let (from, to) = (number(&seen["first"]).unwrap(), number(&seen["last"]).unwrap());
            let name = text("ifname") + &text("netdev") + &text("guest_mac");
            let key = (seen["pid"].as_u64().unwrap(), text("link"), name);
            let one = HeldInterval {
                uuid: text("uuid"),
                mac: seen["guest_mac"].as_str().and_then(|mac| mac.parse().ok()),
                kind: kind(&text("link"), &text("rdev")).to_owned(),
                from,
                to,
                done: to,
            };
            match devices.get_mut(&key).filter(|device| from <= device.to) {
                Some(device) => {
                    device.to = device.to.max(to);
                }
                None => {
                    let key = (key.0, key.1, format!("{} {from}", key.2));
                    devices.insert(key, one);
                }
            }
        }
        let mut held: Vec<HeldInterval> = devices.into_values().collect();
        // A command that was under way then ended later, on a slow machine many seconds later.
        for seen in &mut held {
            let steps = truth["steps"].as_array().unwrap().iter();
            let ends = steps.filter_map(|step| Some((number(&step["t"])?, number(&step["t_end"])?)));
            let during = ends.filter(|(begin, end)| (*begin..=*end).contains(&seen.to));
            seen.done = during.map(|(_, end)| end).fold(seen.to, f64::max);
        }
        let end = held.iter().map(|seen| seen.to).fold(0.0, f64::max);
        Self { held, downtimes, end }
    }

    fn of_interface<'a>(&'a self, holding: &'a Holding) -> impl Iterator<Item = &'a HeldInterval> {
        self.held.iter().filter(move |seen| {
            seen.uuid == holding.guest.uuid.to_string()
                && seen.mac.is_none_or(|mac| mac == holding.mac)
                && (seen.kind == holding.device.kind.as_str() || holding.device.kind.as_str() == "unknown")
        })
    }

    /// Checks a holding's claims against the truth.
    fn check(&self, holding: &Holding) -> Result<(), String> {
        if !is_certain(holding) {
            return Ok(());
        }
        if let Some((from, until)) = holding.certainly_held() {
            let from = seconds(from) + EARLY_START;
            // A device that is held as the log ends was observed until the end of the observation.
            let late = if holding.ended_by == Some(EndedBy::Stop) { LATE_STOP } else { LATE_END };
            let until = if until == Timestamp::MAX { self.end } else { seconds(until) } - late;
            let unseen =
                |seen: &HeldInterval| self.downtimes.iter().any(|(down, up)| (*down..*up).contains(&seen.to));
            let covers = |seen: &HeldInterval| seen.from <= from && (until <= seen.done || unseen(seen));
            if from < until && !self.of_interface(holding).any(covers) {
                return Err(format!("it was not held from {from:.3} to {until:.3}"));
            }
        }
        if holding.state == State::NeverGranted
            && let Some(opened) = holding.opened.map(seconds)
        {
            let possibly = |at: f64| {
                holding.possibly_held.iter().any(|stretch| {
                    let from = stretch.from.map_or(f64::MIN, seconds) - 0.5;
                    let until = stretch.until.map_or(f64::MAX, seconds) + LATE_END;
                    (from..until).contains(&at)
                })
            };
            // Devices that were opened for this try, and not for the next.
            let own =
                self.of_interface(holding).filter(|seen| (opened - 0.5..opened + 0.6).contains(&seen.from));
            let mut others = own.filter(|seen| !possibly(seen.from) || !possibly(seen.to));
            if let Some(seen) = others.next()
                && !self.has_several_devices(holding)
            {
                return Err(format!("it was given to QEMU: {seen:?}"));
            }
        }
        Ok(())
    }

    /// Whether the MAC has several devices of one kind: then an observed device may belong to
    /// another holding.
    fn has_several_devices(&self, holding: &Holding) -> bool {
        self.of_interface(holding).count() > 1
    }
}

fn kind(link: &str, rdev: &str) -> &'static str {
    match rdev {
        "0A:C8" => "tun",
        "0A:EE" => "vhost-net",
        _ if link.starts_with("/dev/tap") => "macvtap",
        _ => "?",
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

fn folders() -> Vec<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt");
    let inside = |folder: &Path| {
        let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let mut folders: Vec<_> = inside(&data).iter().flat_map(|set| inside(set)).collect();
    folders.sort();
    folders
}
