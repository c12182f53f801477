//! The figures of docs/performance.md, measured on this machine.
//!
//! | File | What |
//! |---|---|
//! | `cost`, `criterion` | `bench`: an open, an attach, a start |
//! | `fleet` | `bench-fleet`: a lake to which each host sends its log |
//! | `lake` | `bench-lake`: questions to a lake of a fleet, and archiving |
//! | `reading` | `bench-reading`: trails of large logs |
//! | `verify` | `bench-verify`: a host with many guests |
//! | `watch`, `watcher` | `bench-watch`: a log that grows, and guests at rest |
//! | `timing`, `table` | the times of whole commands, and how they are shown |
//!
//! Each peer is measured in the same run. Raw figures go to files, and a table of them to standard
//! output.

pub(crate) mod cost;
mod criterion;
pub(crate) mod fleet;
pub(crate) mod lake;
pub(crate) mod reading;
mod table;
mod timing;
pub(crate) mod verify;
pub(crate) mod watch;
mod watcher;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::BenchArguments;
use crate::interrupt;
use crate::programs::{IP, must, output_of};

/// Where a measurement finds its programs and leaves its files.
#[derive(Debug)]
struct Place {
    taptrail: PathBuf,
    /// Cargo's target directory.
    target: PathBuf,
    /// Where the raw figures go.
    out: PathBuf,
    /// A directory beside the build, so that a commit of the ledger reaches a real disk.
    dir: TempDir,
}

impl Place {
    fn prepare(arguments: &BenchArguments) -> Result<Self> {
        interrupt::catch()?;
        let taptrail = &arguments.taptrail;
        let taptrail = fs::canonicalize(taptrail).with_context(|| taptrail.display().to_string())?;
        let metadata = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
        let metadata: Value = serde_json::from_str(&output_of(cargo()?.args(metadata))?)?;
        let target = metadata["target_directory"].as_str().context("Cargo has no target directory")?;
        let target = PathBuf::from(target);
        let out = arguments.out.clone().unwrap_or_else(|| target.join("performance"));
        let temporary = target.join("tmp");
        for directory in [&out, &temporary] {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        let dir = tempfile::Builder::new().prefix("bench.").tempdir_in(temporary)?;
        Ok(Self { taptrail, target, out, dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// taptrail, with directories of its own.
    fn taptrail<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.taptrail);
        command
            .args(arguments)
            .env("TAPTRAIL_STATE_DIR", self.path("state"))
            .env("TAPTRAIL_RUN_DIR", self.path("run"));
        command
    }

    /// Builds an example program, as for a release.
    fn example(&self, package: &str, name: &str) -> Result<PathBuf> {
        let words = ["build", "--quiet", "--locked", "--release", "-p", package, "--example", name];
        output_of(cargo()?.args(words))?;
        Ok(self.target.join("release/examples").join(name))
    }

    fn write(&self, name: &str, figures: &Value) -> Result<()> {
        let path = self.out.join(name);
        fs::write(&path, format!("{figures:#}\n")).with_context(|| path.display().to_string())
    }
}

/// The Cargo that runs this program.
fn cargo() -> Result<Command> {
    let cargo = std::env::var_os("CARGO").context("Benchmarks are for `cargo xtask`")?;
    let mut command = Command::new(cargo);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    Ok(command)
}

fn need_root() -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    ensure!(is_root, "Root is needed: the benchmark opens /dev/net/tun and makes a network namespace");
    Ok(())
}

/// From here on this program, and what it runs, have a network of their own.
fn enter_own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("Can't make a network namespace")?;
    must(IP, &["link", "set", "lo", "up"]).map(drop)
}

fn add_bridge(name: &str) -> Result<()> {
    must(IP, &["link", "add", name, "type", "bridge"])?;
    must(IP, &["link", "set", name, "up"]).map(drop)
}

/// The mean number of processes that ran or wanted to, over the last minute.
fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    text.split(' ').next().and_then(|load| load.parse().ok()).context("/proc/loadavg has no number")
}

/// Says what is measured next.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "bench: {what}");
}
