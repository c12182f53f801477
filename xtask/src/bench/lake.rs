//! `cargo xtask bench-lake`: questions to a lake of a fleet, beside DuckDB on the same objects in the
//! same run, and the archiving of a log.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::timing::{self, Runs, Samples, TIME};
use super::{Place, say, table};
use crate::cli::LakeArguments;
use crate::interrupt;
use crate::programs::{need, output_of};
use crate::python::{DUCKDB, Python};

/// How often a question is asked.
const TIMES: usize = 9;

/// Runs a query several times in one DuckDB, and prints the milliseconds of each as JSON: what
/// starting Python and loading DuckDB takes does not count. The first run is a warm-up.
const PEER: &str = "
import json, sys, time
import duckdb
query, times = sys.argv[1], int(sys.argv[2])
database = duckdb.connect()
database.execute('SET enable_progress_bar = false')
took = []
for run in range(times + 1):
    begun = time.perf_counter()
    for statement in database.extract_statements(query):
        database.execute(statement).fetchall()
    took.append((time.perf_counter() - begun) * 1000)
print(json.dumps(took[1:]))
";

struct Bench {
    place: Place,
    python: Python,
    url: String,
    samples: Samples,
    memory: Vec<(String, u64)>,
}

/// Measures it all and prints two tables.
pub(crate) fn run(arguments: &LakeArguments) -> Result<ExitCode> {
    need(&[TIME], "time")?;
    let place = Place::prepare(&arguments.common)?;
    let python = Python::prepare(&place.target.join("duckdb"), DUCKDB)?;
    let make_lake = place.example("taptrail-lake", "make_lake")?;
    let make_log = place.example("taptrail-source", "make_log")?;

    say(&format!("making a lake of {} hosts and {} days", arguments.hosts, arguments.days));
    let url = format!("file://{}", place.path("lake").display());
    let (hosts, days) = (arguments.hosts.to_string(), arguments.days.to_string());
    let mut make = Command::new(make_lake);
    make.args([url.as_str(), "--hosts", &hosts, "--days", &days]).env("TMPDIR", place.dir.path());
    let lake: Value = serde_json::from_str(&output_of(&mut make)?)?;
    let mut bench = Bench { place, python, url, samples: Samples::default(), memory: Vec::new() };

    say("questions");
    let example = lake["samples"].as_array().and_then(|samples| samples.first());
    let example = example.context("the lake has no samples")?;
    let (mac, at) = (&example["mac"], &example["at"]);
    let (mac, at) = (mac.as_str().context("no MAC")?, at.as_str().context("no time")?);
    let (begin, end) = (lake["begin"].as_str().context("no begin")?, lake["end"].as_str().context("no end")?);
    bench.ask("who at a time", &["who", mac, "--at", at], &["who", "--mac", mac, "--at", at])?;
    let days = format!("a MAC, {} days", arguments.days);
    bench.ask(&days, &["trail", "--mac", mac], &["trail", "--mac", mac])?;
    let both = ["--start", begin, "--end", end];
    let whole = format!("all hosts' findings, {} days", arguments.days);
    bench.fleet_findings(&whole, &[&["mac-on-two-hosts"][..], &both].concat())?;

    say("archiving");
    let archived =
        [("1", "libvirt's records alone"), ("75", "one of libvirt's records in 75")].map(|(mix, name)| {
            let mut figures = bench.archive(&make_log, arguments.log, mix)?;
            figures["log"] = name.into();
            Ok(figures)
        });
    let archived = archived.into_iter().collect::<Result<Value>>()?;
    let figures = json!({
        "lake": lake,
        "questions": bench.samples.json("question"),
        "memory": bench.memory.iter().map(|(question, mib)| json!({"question": question, "mib": mib})).collect::<Value>(),
        "archive": archived,
    });
    bench.place.write("lake.json", &figures)?;
    bench.print(&lake, &archived)?;
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    fn lake_command(&self, words: &[&str]) -> Command {
        let mut command = self.place.taptrail(words);
        command.args(["--lake", &self.url, "--utc"]);
        command
    }

    /// Asks taptrail's own reader, and DuckDB.
    fn ask(&mut self, name: &str, own: &[&str], question: &[&str]) -> Result<()> {
        let mut command = self.lake_command(own);
        self.own(name, &mut command)?;
        self.peer(name, question)
    }

    fn fleet_findings(&mut self, name: &str, question: &[&str]) -> Result<()> {
        let mut command = self.place.taptrail(["lake", "findings", &self.url]);
        self.own(name, &mut command)?;
        self.peer(name, question)
    }

    fn own(&mut self, name: &str, command: &mut Command) -> Result<()> {
        // Findings are found: that ends with 1.
        let runs = Runs { warm_up: 1, timed: TIMES, accepts: |status| matches!(status.code(), Some(0 | 1)) };
        let name = format!("{name}: taptrail");
        self.samples.add(&name, runs.time(command, |_| Ok(()))?);
        self.memory.push((name, timing::mebibytes(command, &self.place.path("kib"))?));
        Ok(())
    }

    fn peer(&mut self, name: &str, question: &[&str]) -> Result<()> {
        let mut sql = self.place.taptrail(["lake", "sql", &self.url, "--engine", "duckdb"]);
        let query = output_of(sql.args(question))?;
        let peer = |times: usize| {
            let mut peer = Command::new(self.python.program());
            peer.args(["-c", PEER, &query, &times.to_string()]);
            peer
        };
        let times: Vec<f64> = serde_json::from_str(&output_of(&mut peer(TIMES))?)?;
        let name = format!("{name}: DuckDB");
        let mib = timing::mebibytes(&peer(0), &self.place.path("kib"))?;
        self.samples.add(&name, times);
        self.memory.push((name, mib));
        Ok(())
    }

    /// Archives a log of libvirt's records into a lake of its own.
    fn archive(&self, make_log: &Path, megabytes: u64, mix: &str) -> Result<Value> {
        let log = self.place.path("archived.log");
        let bytes = (megabytes * 1_000_000).to_string();
        let mut make = Command::new(make_log);
        make.args([bytes.as_str(), "--mix", mix]).stdin(Stdio::null()).stdout(File::create(&log)?);
        let status = make.status().context("Can't run make_log")?;
        interrupt::check()?;
        ensure!(status.success(), "make_log: {status}");
        let url = format!("file://{}", self.place.path("archive").display());
        let mut command = self.place.taptrail(["archive", "--to", &url, "--assume-host", "kvm1"]);
        command.arg(&log).env("TMPDIR", self.place.dir.path());
        let begun = Instant::now();
        output_of(command.arg("--quiet"))?;
        let seconds = begun.elapsed().as_secs_f64();
        fs::remove_dir_all(self.place.path("archive"))?;
        let mib = timing::mebibytes(&command, &self.place.path("kib"))?;
        fs::remove_dir_all(self.place.path("archive"))?;
        let text = fs::read(&log)?;
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        Ok(json!({ "seconds": seconds, "mib": mib, "bytes": text.len(), "lines": lines }))
    }

    fn print(&self, lake: &Value, archived: &Value) -> Result<()> {
        let figure = |name: &str| lake[name].to_string();
        table::print(&format!("{} rows, {} bytes\n", figure("rows"), figure("bytes")))?;
        let rows = self.samples.0.iter().map(|(name, times)| (name.clone(), &times[..]));
        table::of_times(&["Question", "Median, ms", "Least", "Most", "Runs"], rows, 1)?;
        table::print("")?;
        table::head(&["Question", "Memory, MiB"])?;
        for (name, mib) in &self.memory {
            table::row([name.clone(), mib.to_string()])?;
        }
        table::print("")?;
        table::head(&["Archived", "Lines", "Seconds", "Memory, MiB"])?;
        for of in archived.as_array().into_iter().flatten() {
            let log = of["log"].as_str().unwrap_or_default().to_owned();
            let figures = ["lines", "seconds", "mib"].map(|name| of[name].to_string());
            table::row([log].into_iter().chain(figures))?;
        }
        Ok(())
    }
}
