//! `engines`: the questions of a lake, asked by engines, and compared row by row with the answers
//! that taptrail gives without them.
//!
//! | File | What |
//! |---|---|
//! | `store` | the S3 server, and its bucket mounted as a directory |
//! | `spark` | a cluster: a master and two workers, each a process of its own |
//!
//! ClickHouse reads from the S3 server itself. Spark and DuckDB read the bucket as a directory,
//! mounted by s3fs, so that their requests go to the S3 server, too: the jars of Spark's own client
//! (hadoop-aws) are in no package of PyPI or Debian, and DuckDB's comes from its own site.

mod spark;
mod store;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use self::spark::Cluster;
use self::store::{Bucket, Mount};
use crate::cli::EnginesArguments;
use crate::interrupt;
use crate::programs::{need, output_of, words};
use crate::python::{ENGINES, Python};

/// One way to ask all questions.
struct Asked<'a> {
    name: &'a str,
    arguments: &'a [&'a str],
}

/// Questions with parameters, as one command line asks them.
const ASKED: [Asked<'static>; 6] = [
    Asked { name: "findings", arguments: &["findings", "findings-by-kind"] },
    Asked {
        name: "one MAC",
        arguments: &[
            "who",
            "device",
            "trail",
            "count",
            "mac-on-two-hosts",
            "unknown-hosts",
            "--mac",
            "{mac}",
            "--at",
            "{at}",
            "--device",
            "vhost-net",
        ],
    },
    Asked {
        name: "all",
        arguments: &[
            "device",
            "trail",
            "never-granted",
            "count",
            "mac-on-two-hosts",
            "silent-hosts",
            "clock-skew",
            "findings",
            "findings-by-kind",
            "unknown-hosts",
            "--device",
            "tun",
            "--at",
            "{at}",
            "--end",
            "{end}",
        ],
    },
    Asked {
        name: "a range, grave",
        arguments: &[
            "trail",
            "never-granted",
            "count",
            "findings",
            "findings-by-kind",
            "silent-hosts",
            "clock-skew",
            "--start",
            "{at}",
            "--end",
            "{end}",
            "--host",
            "kvm0006",
            "--severity",
            "grave",
            "--at",
            "{end}",
            "--longer-than",
            "2h",
        ],
    },
    Asked {
        name: "a range that ends before some began",
        arguments: &["trail", "never-granted", "count", "--start", "{begin}", "--end", "{at}"],
    },
    Asked {
        name: "no days",
        arguments: &["count", "findings", "mac-on-two-hosts", "--start", "{end}", "--end", "{end}"],
    },
];

/// Questions that keep the cluster busy while a worker is killed.
const LONG: [&str; 15] = [
    "trail",
    "count",
    "mac-on-two-hosts",
    "never-granted",
    "findings",
    "trail",
    "count",
    "mac-on-two-hosts",
    "never-granted",
    "findings",
    "trail",
    "count",
    "mac-on-two-hosts",
    "never-granted",
    "findings",
];

pub(crate) fn run(arguments: &EnginesArguments) -> Result<ExitCode> {
    interrupt::catch()?;
    need(&["/usr/bin/java", store::S3FS], "default-jre-headless s3fs")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = fs::canonicalize(root)?.join("target/engines");
    fs::create_dir_all(&target)?;
    let taptrail = fs::canonicalize(&arguments.taptrail)
        .with_context(|| format!("{} (cargo build -p taptrail)", arguments.taptrail.display()))?;
    let dir = tempfile::Builder::new().prefix("run.").tempdir_in(&target)?;
    say("the virtual environment, in target/engines/venv");
    let python = Python::prepare(&target, ENGINES)?;
    say("the S3 server, and the lake in it");
    let bucket = Bucket::start(&python, dir.path())?;
    let truth = make_lake(&bucket, arguments)?;
    let mount = Mount::of(&bucket, dir.path())?;
    let bench = Bench { taptrail, python: &python, bucket: &bucket, mount: &mount, truth };
    let mut failed = bench.compare_embedded()?;

    say("Spark: a master and two workers");
    let cluster = Cluster::start(&python, dir.path())?;
    let (more, environment) = (bench.spark(&cluster), cluster.environment());
    let run = |arguments: &[String]| {
        let mut command = bench.command("spark", arguments, &more);
        command.envs(environment.clone());
        command
    };
    failed += bench.compare("spark", &|arguments| bench.answers(&mut run(arguments)))?;
    say("Spark, with a worker killed in the middle");
    let long: Vec<String> = LONG.iter().map(|word| (*word).to_owned()).collect();
    let native = bench.native(&long)?;
    let answers = spark::with_a_killed_worker(cluster, run(&long))?;
    failed += difference("spark, a worker killed", "long", &native, &parse(&answers)?);
    if failed > 0 {
        bail!("{failed} answers differ");
    }
    println("All answers are equal, row by row")?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the lake into the bucket. Returns where its cases are.
fn make_lake(bucket: &Bucket, arguments: &EnginesArguments) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").context("This chore is for `cargo xtask`")?;
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--locked", "-p", "taptrail-lake", "--example", "make_lake", "--"]);
    command.args([
        &bucket.url(),
        "--hosts",
        &arguments.hosts.to_string(),
        "--days",
        &arguments.days.to_string(),
    ]);
    let truth: Value = serde_json::from_str(&output_of(command.envs(bucket.environment()))?)?;
    println(&format!(
        "{} hosts, {} days: {} rows, {} bytes",
        arguments.hosts, arguments.days, truth["rows"], truth["bytes"]
    ))?;
    Ok(truth)
}

struct Bench<'a> {
    taptrail: PathBuf,
    python: &'a Python,
    bucket: &'a Bucket,
    mount: &'a Mount,
    truth: Value,
}

/// The rows of each question, sorted.
type Answers = Vec<(String, Vec<String>)>;

impl Bench<'_> {
    fn command(&self, engine: &str, arguments: &[String], more: &[String]) -> Command {
        let mut command = Command::new(&self.taptrail);
        command.args(["lake", "sql", &self.bucket.url()]).args(arguments);
        command.args(["--run", "--json", "--quiet", "--engine", engine]).args(more);
        // A zone that is not UTC: answers must not depend on it.
        command.env("TZ", "Asia/Tokyo").envs(self.bucket.environment()).stdin(Stdio::null());
        command
    }

    fn answers(&self, command: &mut Command) -> Result<Answers> {
        parse(&output_of(command)?)
    }

    fn native(&self, arguments: &[String]) -> Result<Answers> {
        self.answers(&mut self.command("taptrail", arguments, &[]))
    }

    fn client(&self) -> [String; 2] {
        ["--client".to_owned(), self.python.program().display().to_string()]
    }

    fn spark(&self, cluster: &Cluster) -> Vec<String> {
        let url = format!("file://{}", self.mount.lake().display());
        [&self.client()[..], &["--server".to_owned(), cluster.url(), "--engine-url".to_owned(), url]].concat()
    }

    /// DuckDB on the mounted bucket, ClickHouse on S3. Returns how many answers differ.
    fn compare_embedded(&self) -> Result<usize> {
        let mut failed = 0;
        let ways =
            [("duckdb", self.mount.lake().display().to_string()), ("clickhouse", self.bucket.http_url())];
        for (engine, url) in ways {
            say(engine);
            let more = [&self.client()[..], &["--engine-url".to_owned(), url]].concat();
            failed +=
                self.compare(engine, &|arguments| self.answers(&mut self.command(engine, arguments, &more)))?;
        }
        Ok(failed)
    }

    /// Asks everything, and compares with the native answers.
    fn compare(&self, engine: &str, ask: &dyn Fn(&[String]) -> Result<Answers>) -> Result<usize> {
        let mut failed = 0;
        let text = |name: &str| self.truth[name].as_str().unwrap_or_default().to_owned();
        let words: BTreeMap<String, String> =
            ["mac", "begin", "at", "end"].map(|name| (format!("{{{name}}}"), text(name))).into();
        for Asked { name, arguments } in ASKED {
            let filled =
                arguments.iter().map(|word| words.get(*word).cloned().unwrap_or_else(|| (*word).to_owned()));
            let filled: Vec<String> = filled.collect();
            failed += difference(engine, name, &self.native(&filled)?, &ask(&filled)?);
        }
        // A cluster takes some seconds for each: those with escapes of its own.
        let is_asked = |name: &&str| engine != "spark" || name.contains(['$', '\\']);
        for name in
            self.truth["hostile"].as_array().into_iter().flatten().filter_map(Value::as_str).filter(is_asked)
        {
            let arguments = ["trail", "--guest", name].map(str::to_owned);
            let native = self.native(&arguments)?;
            ensure!(native.first().is_some_and(|(_, rows)| rows.len() == 2), "{name:?}: {native:?}");
            failed += difference(engine, "a hostile name", &native, &ask(&arguments)?);
        }
        Ok(failed)
    }
}

/// The answers in JSON.
fn parse(text: &str) -> Result<Answers> {
    let json: Value = serde_json::from_str(text)?;
    let rows = |rows: &Value| {
        let mut rows: Vec<String> = rows.as_array().into_iter().flatten().map(ToString::to_string).collect();
        rows.sort_unstable();
        rows
    };
    let each = json["answers"].as_array().context("no answers")?;
    let mut all: Answers = each
        .iter()
        .map(|one| (one["question"].as_str().unwrap_or_default().to_owned(), rows(&one["rows"])))
        .collect();
    all.push(("(unknown hosts)".to_owned(), rows(&json["unknown_hosts"])));
    Ok(all)
}

/// Says what differs; returns the number of answers that do.
fn difference(engine: &str, asked: &str, native: &Answers, other: &Answers) -> usize {
    let mut failed = 0;
    if native.len() != other.len() {
        say(&format!("{engine}, {asked}: {} answers, not {}", other.len(), native.len()));
        return 1;
    }
    for ((question, native), (_, other)) in native.iter().zip(other) {
        let is_equal = native == other;
        let (rows, result) = (native.len(), if is_equal { "equal" } else { "DIFFERENT" });
        let _ = println(&format!("{engine:24} {asked:16} {question:18} {rows:8} rows  {result}"));
        if !is_equal {
            failed += 1;
            let lacks = native.iter().filter(|row| other.binary_search(row).is_err()).take(3);
            lacks.for_each(|row| say(&format!("  lacks {row}")));
            let more = other.iter().filter(|row| native.binary_search(row).is_err()).take(3);
            more.for_each(|row| say(&format!("  has {row}")));
        }
    }
    failed
}

fn println(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("Standard output can't be written")
}

/// Says what is done next.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "engines: {what}");
}

/// Runs a command that must succeed, with its output kept for an error.
fn quietly(command: &mut Command) -> Result<()> {
    output_of(command).map(drop).with_context(|| words(command))
}
