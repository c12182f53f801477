//! `cargo xtask bench-reading`: how fast trails are read, against wc, auvirt and ausearch on the
//! same logs in the same run.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{fs, str};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::timing::{self, Runs, Samples, TIME};
use super::{Place, say, table};
use crate::cli::ReadingArguments;
use crate::interrupt;
use crate::programs::need;

const AUSEARCH: &str = "/sbin/ausearch";
const AUVIRT: &str = "/usr/bin/auvirt";
const WC: &str = "/usr/bin/wc";

/// The logs' names, and make_log's arguments.
const LOGS: [(&str, &str); 7] = [
    ("mixed", "1000000000 --mix 75"),
    ("virt-10M", "10000000 --mix 1"),
    ("virt-20M", "20000000 --mix 1"),
    ("virt-100M", "100000000 --mix 1"),
    ("virt-400M", "400000000 --mix 1"),
    ("8000-100M", "100000000 --mix 1 --guests 8000 --stop-in-order"),
    ("8000-200M", "200000000 --mix 1 --guests 8000 --stop-in-order"),
];

// The commands, which run in the logs' directory.
const QUICK: &[&str] = &["wc -l mixed", "taptrail trail --utc mixed", "taptrail trail --utc --held mixed"];
const VIRT: &[&str] = &[
    "taptrail trail --utc --held virt-100M",
    "taptrail trail --utc --held virt-400M",
    "taptrail trail --utc --format csv virt-400M",
    "taptrail trail --utc --held 8000-100M",
    "taptrail trail --utc --held 8000-200M",
    "wc -l virt-400M",
];
const PEERS: &[&str] = &[
    "ausearch --input mixed -m VIRT_RESOURCE,VIRT_CONTROL --raw",
    "auvirt --file virt-10M",
    "auvirt --file virt-20M",
    "taptrail trail --utc virt-10M",
    "taptrail trail --utc virt-20M",
];
const SLOW_PEER: &[&str] = &["auvirt --file mixed"];
const MEMORY: &[&str] = &[
    "taptrail trail --utc mixed",
    "taptrail trail --utc --held virt-100M",
    "taptrail trail --utc --held virt-400M",
    "taptrail trail --utc --format csv virt-400M",
    "taptrail trail --utc --format csv 8000-200M",
    "auvirt --file mixed",
    "ausearch --input mixed -m VIRT_RESOURCE --raw",
];

/// Measures it all and prints two tables.
pub(crate) fn run(arguments: &ReadingArguments) -> Result<ExitCode> {
    need(&[AUVIRT, AUSEARCH, TIME], "auditd time")?;
    let place = Place::prepare(&arguments.common)?;
    let make_log = place.example("taptrail-source", "make_log")?;
    say("making logs");
    let mut logs = Vec::new();
    for (name, words) in LOGS {
        logs.push(make(&place, &make_log, name, &smaller(words, arguments.divisor))?);
    }
    place.write("reading-logs.json", &logs.into())?;

    say("whole commands");
    let mut samples = Samples::default();
    // The quick ones take turns, because the machine's speed varies.
    for _ in 0..arguments.rounds {
        measure(&place, QUICK, 10, &mut samples)?;
        measure(&place, VIRT, 5, &mut samples)?;
    }
    measure(&place, PEERS, 3, &mut samples)?;
    measure(&place, SLOW_PEER, 1, &mut samples)?;
    place.write("reading.json", &samples.json("command"))?;

    say("memory");
    let mut memory = Vec::new();
    for line in MEMORY {
        memory.push((*line, timing::mebibytes(&command(&place, line), &place.path("kib"))?));
    }
    let figures = memory.iter().map(|(command, mib)| json!({ "command": command, "mib": mib }));
    place.write("reading-memory.json", &figures.collect())?;

    let rows = samples.0.iter().map(|(name, times)| (format!("`{name}`"), &times[..]));
    table::of_times(&["Command", "Median, ms", "Least", "Most", "Runs"], rows, 1)?;
    table::print("")?;
    table::head(&["Command", "Memory, MiB"])?;
    for (command, mib) in memory {
        table::row([format!("`{command}`"), mib.to_string()])?;
    }
    Ok(ExitCode::SUCCESS)
}

/// make_log's arguments, for a log that many times smaller.
fn smaller(words: &str, divisor: u64) -> Vec<String> {
    let divide = |word: &str| match word.parse::<u64>() {
        // The other numbers are small.
        Ok(bytes) if bytes > 1_000_000 => (bytes / divisor).to_string(),
        _ => word.to_owned(),
    };
    words.split(' ').map(divide).collect()
}

/// Makes a log, reads it once, so that it is in memory, and counts its lines.
fn make(place: &Place, make_log: &Path, name: &str, arguments: &[String]) -> Result<Value> {
    let path = place.path(name);
    let status =
        Command::new(make_log).args(arguments).stdin(Stdio::null()).stdout(File::create(&path)?).status();
    let status = status.context("Can't run make_log")?;
    interrupt::check()?;
    ensure!(status.success(), "make_log: {status}");
    let mut counter = Counter::default();
    io::copy(&mut File::open(&path)?, &mut counter)?;
    Ok(json!({ "log": name, "lines": counter.lines, "bytes": fs::metadata(&path)?.len() }))
}

/// Counts the lines that are written to it.
#[derive(Debug, Default)]
struct Counter {
    lines: usize,
}

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A command of the lists above.
fn command(place: &Place, line: &str) -> Command {
    let (name, arguments) = line.split_once(' ').unwrap_or((line, ""));
    let program = match name {
        "taptrail" => place.taptrail.clone(),
        "ausearch" => PathBuf::from(AUSEARCH),
        "auvirt" => PathBuf::from(AUVIRT),
        _ => PathBuf::from(WC),
    };
    let mut command = Command::new(program);
    command.args(arguments.split(' ')).current_dir(place.dir.path());
    command
}

fn measure(place: &Place, lines: &[&str], timed: usize, samples: &mut Samples) -> Result<()> {
    // A trail with findings ends with 1, as does a search without an event.
    let runs = Runs { warm_up: 1, timed, accepts: |_| true };
    for line in lines {
        samples.add(line, runs.time(&mut command(place, line), |_| Ok(()))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_logs_have_the_same_guests() {
        assert_eq!(
            smaller("100000000 --mix 1 --guests 8000", 100),
            ["1000000", "--mix", "1", "--guests", "8000"]
        );
        assert_eq!(smaller("10000000 --mix 75", 1), ["10000000", "--mix", "75"]);
    }
}
