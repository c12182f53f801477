//! The times of whole commands.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::interrupt;
use crate::programs::{output_of, words};

/// Of the package `time`.
pub(super) const TIME: &str = "/usr/bin/time";

/// The most memory that a command had, in MiB. `file` is written.
pub(super) fn mebibytes(measured: &Command, file: &Path) -> Result<u64> {
    let mut time = with_memory(measured, file);
    let _ = time.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    interrupt::check()?;
    memory(&time, file)
}

/// Runs a command that must succeed, once. Returns its output, the seconds that it took, and the
/// most memory that it had, in MiB. `file` is written.
pub(super) fn measured(measured: &Command, file: &Path) -> Result<(String, f64, u64)> {
    let mut time = with_memory(measured, file);
    let begun = Instant::now();
    let output = output_of(time.stdin(Stdio::null()))?;
    Ok((output, begun.elapsed().as_secs_f64(), memory(&time, file)?))
}

fn with_memory(measured: &Command, file: &Path) -> Command {
    let mut time = Command::new(TIME);
    time.args(["--format", "%M", "--output"]).arg(file);
    time.arg(measured.get_program()).args(measured.get_args());
    if let Some(directory) = measured.get_current_dir() {
        time.current_dir(directory);
    }
    for (name, value) in measured.get_envs() {
        time.env(name, value.unwrap_or_default());
    }
    time
}

fn memory(time: &Command, file: &Path) -> Result<u64> {
    // An exit status that is not 0 has a line of its own.
    let kib = fs::read_to_string(file)?.lines().last().and_then(|kib| kib.parse::<u64>().ok());
    let kib = kib.with_context(|| format!("{}: no memory is known", words(time)))?;
    Ok((kib + 512) / 1024)
}

/// How often a command is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs {
    /// Runs before the timed ones.
    pub(super) warm_up: usize,
    pub(super) timed: usize,
    /// Whether this exit status is that of a run that did its work.
    pub(super) accepts: fn(&ExitStatus) -> bool,
}

impl Runs {
    /// Milliseconds from the start of each run until its end was waited for. `before` is called
    /// before each run, and is not timed. What the command prints is lost.
    pub(super) fn time(
        self,
        command: &mut Command,
        mut before: impl FnMut(&mut Command) -> Result<()>,
    ) -> Result<Vec<f64>> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut times = Vec::with_capacity(self.timed);
        for run in 0..self.warm_up + self.timed {
            before(command)?;
            let begun = Instant::now();
            let status = command.status().with_context(|| format!("Can't run {}", words(command)))?;
            let took = begun.elapsed();
            interrupt::check()?;
            ensure!((self.accepts)(&status), "{}: {status}", words(command));
            if run >= self.warm_up {
                times.push(took.as_secs_f64() * 1e3);
            }
        }
        Ok(times)
    }
}

/// Milliseconds that commands took, by the commands' names.
#[derive(Debug, Default)]
pub(super) struct Samples(pub(super) Vec<(String, Vec<f64>)>);

impl Samples {
    /// Adds times to those of the same name.
    pub(super) fn add(&mut self, name: &str, times: Vec<f64>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.extend(times),
            None => self.0.push((name.to_owned(), times)),
        }
    }

    /// An object for each name, which is its `key`.
    pub(super) fn json(&self, key: &str) -> Value {
        self.0.iter().map(|(name, times)| json!({ key: name, "times_ms": times })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: Runs = Runs { warm_up: 1, timed: 2, accepts: ExitStatus::success };

    #[test]
    fn only_timed_runs_are_counted() {
        let mut count = 0;
        let times = RUNS.time(&mut Command::new("/bin/true"), |_| {
            count += 1;
            Ok(())
        });
        assert_eq!((times.unwrap().len(), count), (2, 3));
    }

    #[test]
    fn a_run_that_fails_is_no_measurement() {
        let refused = RUNS.time(&mut Command::new("/bin/false"), |_| Ok(())).unwrap_err();
        assert!(refused.to_string().contains("/bin/false"), "{refused}");
        let all = Runs { accepts: |_| true, ..RUNS };
        assert_eq!(all.time(&mut Command::new("/bin/false"), |_| Ok(())).unwrap().len(), 2);
    }

    #[test]
    fn rounds_of_a_command_are_one_sample() {
        let mut samples = Samples::default();
        samples.add("b", vec![1.5]);
        samples.add("a", vec![3.0]);
        samples.add("b", vec![2.0]);
        let expected = json!([{"name": "b", "times_ms": [1.5, 2.0]}, {"name": "a", "times_ms": [3.0]}]);
        assert_eq!(samples.json("name"), expected);
    }
}
