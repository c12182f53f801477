//! `cargo xtask bench-fleet`: what a lake costs to which each host of a fleet sends its own log.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::timing::{self, TIME};
use super::{Place, say, table};
use crate::cli::FleetArguments;
use crate::interrupt;
use crate::programs::{need, output_of};

/// When the generated logs begin, in seconds since 1970: a moment before a day begins.
const BEGIN: u64 = 1_795_000_000;

const DAY: u64 = 86_400;

struct Bench {
    place: Place,
    make_log: PathBuf,
    url: String,
}

/// What a day of all hosts cost.
#[derive(Debug)]
struct Cost {
    archive_seconds: f64,
    compact_seconds: f64,
    compact_mib: u64,
    /// Objects and manifests that the batches added, and their bytes.
    added: (u64, u64),
    /// What the lake has after it was compacted.
    compacted: Value,
}

pub(crate) fn run(arguments: &FleetArguments) -> Result<ExitCode> {
    need(&[TIME], "time")?;
    let place = Place::prepare(&arguments.common)?;
    let make_log = place.example("taptrail-source", "make_log")?;
    let url = format!("file://{}", place.path("lake").display());
    let bench = Bench { place, make_log, url };
    say(&format!("making the logs of {} hosts and {} days", arguments.hosts, arguments.days));
    let lines = bench.make_logs(arguments)?;
    let mut costs = Vec::new();
    for day in 0..arguments.days {
        say(&format!("day {} of {}", day + 1, arguments.days));
        costs.push(bench.day(arguments.hosts, day)?);
    }
    let day = |cost: &Cost| {
        json!({
            "archive_seconds": cost.archive_seconds,
            "objects_added": cost.added.0,
            "bytes_added": cost.added.1,
            "compact_seconds": cost.compact_seconds,
            "compact_mib": cost.compact_mib,
            "compacted": cost.compacted,
        })
    };
    let figures = json!({
        "hosts": arguments.hosts,
        "days": arguments.days,
        "lines": lines,
        "each_day": costs.iter().map(day).collect::<Value>(),
        "lake": bench.lake_size()?,
    });
    bench.place.write(&format!("fleet-{}x{}.json", arguments.hosts, arguments.days), &figures)?;
    print(arguments.hosts, &costs)?;
    table::print(&format!("\n{lines} lines; the lake at the end: {}", figures["lake"]))?;
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    fn host(&self, number: u64) -> PathBuf {
        self.place.path(&format!("hosts/kvm{number:05}"))
    }

    /// Writes each host's log, a file for each day. Returns the number of lines.
    fn make_logs(&self, arguments: &FleetArguments) -> Result<u64> {
        let mut lines = 0;
        for host in 0..arguments.hosts {
            interrupt::check()?;
            let directory = self.host(host);
            fs::create_dir_all(&directory)?;
            let bytes = arguments.log * 1000 * arguments.days;
            // One of libvirt's actions is about 3,800 bytes.
            let pause = 2 * 1000 * DAY * 3800 / (arguments.log * 1000);
            let mut make = Command::new(&self.make_log);
            make.args([bytes.to_string().as_str(), "--mix", "1", "--guests", "30"]);
            make.args(["--seed", &host.to_string(), "--pause", &pause.to_string()]);
            let mut child = make.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("make_log")?;
            let made = BufReader::new(child.stdout.take().context("no output")?);
            let mut files: Vec<BufWriter<File>> = Vec::new();
            for line in made.lines() {
                let line = line?;
                let day = seconds(&line).context("a line without a time")?.saturating_sub(BEGIN) / DAY;
                // What goes on after the last day is of no day.
                let Some(day) = usize::try_from(day).ok().filter(|day| (*day as u64) < arguments.days) else {
                    continue;
                };
                while files.len() <= day {
                    let file = File::create(directory.join(format!("day{}", files.len())))?;
                    files.push(BufWriter::new(file));
                }
                writeln!(files[day], "{line}")?;
                lines += 1;
            }
            ensure!(child.wait()?.success(), "make_log failed");
        }
        Ok(lines)
    }

    /// Each host archives its log, which has grown by a day. Then the lake is compacted.
    fn day(&self, hosts: u64, day: u64) -> Result<Cost> {
        let before = self.lake_size()?;
        let mut archive_seconds = 0.0;
        for host in 0..hosts {
            let (directory, name) = (self.host(host), format!("kvm{host:05}"));
            let grown = fs::read(directory.join(format!("day{day}"))).unwrap_or_default();
            let log = directory.join("audit.log");
            File::options().append(true).create(true).open(&log)?.write_all(&grown)?;
            let checkpoint = directory.join("checkpoint");
            let mut archive = self.place.taptrail(["archive", "--to", &self.url, "--assume-host", &name]);
            archive.arg("--checkpoint").arg(checkpoint).arg("--quiet").arg(log);
            let begun = Instant::now();
            output_of(&mut archive)?;
            archive_seconds += begun.elapsed().as_secs_f64();
            interrupt::check()?;
        }
        let after = self.lake_size()?;
        let added = |name: &str| {
            after[name].as_u64().unwrap_or_default().saturating_sub(before[name].as_u64().unwrap_or_default())
        };
        let compact = self.place.taptrail(["lake", "compact", &self.url, "--json"]);
        let (json, seconds, mib) = timing::measured(&compact, &self.place.path("kib"))?;
        let added = (added("objects"), added("bytes"));
        let compacted = serde_json::from_str(&json)?;
        Ok(Cost { archive_seconds, compact_seconds: seconds, compact_mib: mib, added, compacted })
    }

    /// The objects of the lake, and their bytes.
    fn lake_size(&self) -> Result<Value> {
        let (mut objects, mut bytes) = (0_u64, 0_u64);
        let mut folders: Vec<PathBuf> = vec![self.place.path("lake")];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    objects += 1;
                    bytes += entry.metadata()?.len();
                }
            }
        }
        Ok(json!({ "objects": objects, "bytes": bytes }))
    }
}

/// The time of an audit record, in seconds since 1970.
fn seconds(line: &str) -> Option<u64> {
    line.split_once("audit(")?.1.split_once('.')?.0.parse().ok()
}

fn print(hosts: u64, costs: &[Cost]) -> Result<()> {
    let hosts = f64::from(u32::try_from(hosts)?);
    table::head(&["Day", "An archive, ms", "Objects", "Bytes", "Compacted, s", "Memory, MiB"])?;
    for (day, cost) in costs.iter().enumerate() {
        table::row([
            (day + 1).to_string(),
            format!("{:.1}", cost.archive_seconds * 1000.0 / hosts),
            cost.added.0.to_string(),
            cost.added.1.to_string(),
            format!("{:.1}", cost.compact_seconds),
            cost.compact_mib.to_string(),
        ])?;
    }
    Ok(())
}
