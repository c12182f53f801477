//! A `taptrail watch` whose cost is measured: its own metrics, and what the kernel says of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Place;
use crate::interrupt;
use crate::programs::Background;

/// The network namespace is ours, and so are its ports.
const METRICS: &str = "127.0.0.1:9464";

#[derive(Debug)]
pub(super) struct Watcher {
    process: Background,
    /// Milliseconds on a processor until [`Watcher::begin`].
    spent_before: f64,
}

impl Watcher {
    /// Starts it, with its directories below `state`, and waits until it answers.
    pub(super) fn start<A: AsRef<OsStr>>(
        place: &Place,
        state: &Path,
        options: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let errors = state.with_extension("errors");
        let mut command = place.taptrail(["watch", "--silent", "--metrics-listen", METRICS]);
        command.arg("--state-dir").arg(state).arg("--run-dir").arg(state.join("run")).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&errors)?);
        let mut process = Background::start(&mut command)?;
        while number("taptrail_build_info").unwrap_or(0) == 0 {
            let ended = process.child().try_wait()?;
            ensure!(
                ended.is_none(),
                "The watcher ended: {}",
                fs::read_to_string(&errors).unwrap_or_default()
            );
            interrupt::sleep(Duration::from_millis(50))?;
        }
        Ok(Self { process, spent_before: 0.0 })
    }

    /// What is spent is counted from here on.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.spent_before = spent(self.process.id())?;
        Ok(())
    }

    /// Milliseconds on a processor.
    pub(super) fn spent(&self) -> Result<f64> {
        Ok(spent(self.process.id())? - self.spent_before)
    }

    /// A number of `/proc/PID/status` in KiB, as MiB: `VmRSS`, or `VmHWM` for its maximum.
    pub(super) fn memory(&self, name: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = kib.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        Ok(kib.with_context(|| format!("The kernel has no {name}"))? / 1024.0)
    }

    /// How often its threads gave up a processor or lost it.
    pub(super) fn wakeups(&self) -> Result<u64> {
        let switches = |text: String| {
            let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
            lines.filter_map(|line| line.rsplit('\t').next()?.parse::<u64>().ok()).sum::<u64>()
        };
        Ok(of_threads(self.process.id(), "status")?.into_iter().map(switches).sum())
    }
}

/// Milliseconds on a processor, of all threads of a process.
pub(super) fn spent(pid: u32) -> Result<f64> {
    let nanoseconds = |text: String| text.split(' ').next().and_then(|first| first.parse::<f64>().ok());
    Ok(of_threads(pid, "schedstat")?.into_iter().filter_map(nanoseconds).sum::<f64>() / 1e6)
}

/// A file of `/proc`, of each thread of a process.
fn of_threads(pid: u32, file: &str) -> Result<Vec<String>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).context("A measured process ended")?;
    Ok(threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join(file)).ok()).collect())
}

/// The sum of the metrics whose lines begin like this.
pub(super) fn number(begin: &str) -> Result<u64> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(sum(&answer, begin))
}

fn sum(metrics: &str, begin: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(begin));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_its_labels() {
        let metrics = "HTTP/1.0 200 OK\r\n\r\n# TYPE taptrail_holdings gauge\n\
            taptrail_holdings{kind=\"tun\"} 5\ntaptrail_holdings{kind=\"macvtap\"} 2\ntaptrail_log_lag_bytes 7\n";
        assert_eq!(sum(metrics, "taptrail_holdings{"), 7);
        assert_eq!(sum(metrics, "taptrail_log_lag_bytes "), 7);
        assert_eq!(sum(metrics, "taptrail_log_"), 7);
        assert_eq!(sum(metrics, "nothing"), 0);
    }

    #[test]
    fn a_process_has_spent_something() {
        assert!(spent(std::process::id()).unwrap() > 0.0);
        assert!(spent(u32::MAX).is_err());
    }
}
