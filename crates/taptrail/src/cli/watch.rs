//! The arguments of `watch`.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use taptrail_guest::duration;
use taptrail_source::follow::Begin;

use crate::output::Failure;
use crate::watch::{JOURNAL, Program, Rule, Url};

const FOLLOWED: &str = "What is followed";
const TOLD: &str = "Who is told";

/// Watch the guests of another manager, libvirt's for one: hold what its records say against what their QEMUs
/// hold, as it happens.
///
/// The audit log is followed across its rotations, from where it was left. At each open, grant and release the
/// guest's QEMU is looked into; what it holds and gives up goes into the ledger, and so becomes definitive what
/// its manager's records only say in part. Taptrail's own guests are left to their supervisors.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: a service beside libvirtd is packaged as taptrail-watch.service; by hand:\n  taptrail watch --json\n\nExit codes: 0 it was asked to end, or what it follows has ended; 1 it failed; 2 it could not begin."
)]
pub(crate) struct Watch {
    /// The audit log, where auditd.conf does not say
    #[arg(long, value_name = "FILE", env = "TAPTRAIL_AUDIT_LOG", hide_env_values = true, help_heading = FOLLOWED)]
    pub(crate) log: Option<PathBuf>,

    /// Follow the kernel's own broadcast, on a host without auditd: what is told while nobody listens is lost, and
    /// told as a gap
    #[arg(long, conflicts_with = "stdin", help_heading = FOLLOWED)]
    pub(crate) kernel: bool,

    /// Follow standard input, as a plugin of auditd (packaging/taptrail-auditd.conf)
    #[arg(long, help_heading = FOLLOWED)]
    pub(crate) stdin: bool,

    /// Where to begin when no watcher was here before
    #[arg(long, value_enum, default_value_t, value_name = "WHERE", help_heading = FOLLOWED)]
    pub(crate) begin: Where,

    /// How often to look into a guest of which nothing is told
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, help_heading = FOLLOWED)]
    pub(crate) every: Duration,

    /// Write what is seen and found into the kernel's audit, too
    #[arg(long, help_heading = TOLD)]
    pub(crate) emit_audit: bool,

    /// Tell what happens as lines of JSON
    #[arg(long, conflicts_with = "silent", help_heading = TOLD)]
    pub(crate) json: bool,

    /// Tell nothing on standard output
    #[arg(long, help_heading = TOLD)]
    pub(crate) silent: bool,

    /// Tell journald, each fact as a field (journalctl TAPTRAIL_GUEST=web1)
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, default_missing_value = JOURNAL, help_heading = TOLD)]
    pub(crate) journald: Option<PathBuf>,

    /// Run this program, by its absolute path, for each finding of this kind, or 'any'; the finding is on its
    /// standard input as JSON (repeatable)
    #[arg(long, value_name = "KIND=PROGRAM", help_heading = TOLD)]
    pub(crate) on_finding: Vec<Rule<Program>>,

    /// Send each finding of this kind, or 'any', to this address as JSON; @FILE has one in its first line (repeatable)
    #[arg(long, value_name = "KIND=URL", help_heading = TOLD)]
    pub(crate) webhook: Vec<Rule<Url>>,

    /// Write the numbers for Prometheus to this file, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE", help_heading = TOLD)]
    pub(crate) metrics_file: Option<PathBuf>,

    /// Serve them at http://ADDRESS/metrics
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = TOLD)]
    pub(crate) metrics_listen: Option<SocketAddr>,

    /// Serve them on an address that other hosts reach: they have the guests' names
    #[arg(long, requires = "metrics_listen", help_heading = TOLD)]
    pub(crate) metrics_for_all: bool,

    /// Where libvirt keeps the state of running guests
    #[arg(long, value_name = "DIR", default_value = taptrail_witness::scan::LIBVIRT, hide = true)]
    pub(crate) libvirt: PathBuf,
}

/// All arguments, with those of `watch` that lie in a file: `@FILE` stands for its lines, one argument each.
/// auditd gives a plugin two arguments at most.
pub(crate) fn arguments(given: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, Failure> {
    let (mut all, mut watch) = (Vec::new(), false);
    for argument in given {
        match argument.as_encoded_bytes().strip_prefix(b"@") {
            Some(_) if watch => {
                let file = PathBuf::from(argument.to_string_lossy().split_at(1).1);
                let text = fs::read_to_string(&file)
                    .with_context(|| format!("File {} of arguments can't be read", file.display()))
                    .map_err(Failure::input)?;
                let lines = text.lines().map(str::trim);
                all.extend(
                    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(OsString::from),
                );
            }
            _ => {
                watch |= all.len() == 1 && argument == "watch";
                all.push(argument);
            }
        }
    }
    Ok(all)
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Where {
    /// With the oldest rotation: so that guests are known that run already
    #[default]
    Rotations,
    /// With the log as it is now, without its rotations
    Log,
    /// With what is written from now on
    End,
}

impl From<Where> for Begin {
    fn from(begin: Where) -> Self {
        match begin {
            Where::Rotations => Self::Rotations,
            Where::Log => Self::Log,
            Where::End => Self::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_arguments_of_watch_and_of_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# as a plugin\n--stdin\n\n  --on-finding=any=/opt/my tool\n").unwrap();
        let at = format!("@{}", file.path().display());
        let told = |given: &[&str]| {
            arguments(given.iter().map(OsString::from)).map(|all| {
                all.into_iter().map(|argument| argument.into_string().unwrap()).collect::<Vec<_>>()
            })
        };
        let read = told(&["taptrail", "watch", &at, "--json"]).unwrap();
        assert_eq!(read, ["taptrail", "watch", "--stdin", "--on-finding=any=/opt/my tool", "--json"]);
        assert_eq!(told(&["taptrail", "trail", &at]).unwrap()[2], at);
        assert!(told(&["taptrail", "watch", "@/no/file"]).unwrap_err().line().contains("/no/file"));
    }
}
