//! The arguments of `watch`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use taptrail_guest::duration;
use taptrail_source::follow::StartPosition;

use super::format::StreamFormat;
use crate::output::Failure;
use crate::watch::{JOURNAL, Program, Rule, Url};

const RECORDS_HEADING: &str = "Audit records";
const NOTIFICATIONS_HEADING: &str = "Notifications";

/// Bytes of a file of arguments.
const MAX_ARGUMENTS_BYTES: u64 = 64 * 1024;

/// Follow another manager's audit records (e.g. libvirt's) and compare them with the devices its
/// guests hold
///
/// taptrail follows the audit log across its rotations and goes on where the previous watcher
/// stopped. At each open, grant and release it looks at the descriptors of the guest's QEMU, and
/// writes to the ledger what QEMU holds and gives up. So the ledger is definitive where the
/// manager's records are not. taptrail's own guests are left to their supervisors. At its start it
/// logs which file it follows, from where, and what it waits for.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: as a service, beside libvirtd:\n  systemctl enable --now taptrail-watch\nBy hand:\n  taptrail watch --json\n\nExit codes: 0 a signal ended it, or its input ended; 1 it failed; 2 it could not start."
)]
pub(crate) struct Watch {
    /// Audit log to follow [default: as auditd.conf says]
    #[arg(long, value_name = "FILE", env = "TAPTRAIL_AUDIT_LOG", hide_env_values = true, help_heading = RECORDS_HEADING)]
    pub(crate) log: Option<PathBuf>,

    /// Follow the kernel's own audit broadcast, on a host without auditd: records that are sent
    /// while nobody listens are lost, and are reported as a gap
    #[arg(long, conflicts_with = "stdin", help_heading = RECORDS_HEADING)]
    pub(crate) kernel: bool,

    /// Follow standard input, as a plugin of auditd (/usr/share/taptrail/audit/taptrail-auditd.conf)
    #[arg(long, help_heading = RECORDS_HEADING)]
    pub(crate) stdin: bool,

    /// Where to begin when the ledger has no checkpoint of a previous watcher
    #[arg(long, value_enum, default_value_t, value_name = "WHERE", help_heading = RECORDS_HEADING)]
    pub(crate) begin: Where,

    /// How often to look at a guest, and at the bridges of all guests' taps, without a record
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, help_heading = RECORDS_HEADING)]
    pub(crate) every: Duration,

    /// Report each last close by a BPF program in the kernel: a descriptor ends when nobody has its
    /// file open any more (needs Linux 6.1, CAP_BPF and CAP_PERFMON; otherwise the watcher runs
    /// without it)
    #[arg(long, help_heading = RECORDS_HEADING)]
    pub(crate) bpf: bool,

    /// Keep accounts of the taps that taptrail-bridge-helper passes to users' QEMUs
    ///
    /// Helpers connect to /run/taptrail-watch/bridge-taps. The ledger gets a record when a tap is
    /// passed, and another when the kernel shows that nobody holds it any more.
    #[arg(long, help_heading = RECORDS_HEADING)]
    pub(crate) bridge_taps: bool,

    /// Write observations and findings to the kernel's audit log, too
    #[arg(long, help_heading = NOTIFICATIONS_HEADING)]
    pub(crate) emit_audit: bool,

    #[command(flatten, next_help_heading = NOTIFICATIONS_HEADING)]
    pub(crate) output: StreamFormat,

    /// Print no events
    #[arg(long, conflicts_with_all = ["format", "json"], help_heading = NOTIFICATIONS_HEADING)]
    pub(crate) silent: bool,

    /// Send events to journald, with a field for each fact (journalctl TAPTRAIL_GUEST=web1)
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, default_missing_value = JOURNAL, help_heading = NOTIFICATIONS_HEADING)]
    pub(crate) journald: Option<PathBuf>,

    /// Run this program, by its absolute path, for each finding of this kind, or 'any'; it gets the
    /// finding as JSON on standard input (repeatable)
    #[arg(long, value_name = "KIND=PROGRAM", help_heading = NOTIFICATIONS_HEADING)]
    pub(crate) on_finding: Vec<Rule<Program>>,

    /// Send each finding of this kind, or 'any', to this URL as JSON; @FILE reads the URL from the
    /// first line of FILE (repeatable)
    #[arg(long, value_name = "KIND=URL", help_heading = NOTIFICATIONS_HEADING)]
    pub(crate) webhook: Vec<Rule<Url>>,

    /// Write Prometheus metrics to this file, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE", help_heading = NOTIFICATIONS_HEADING)]
    pub(crate) metrics_file: Option<PathBuf>,

    /// Serve Prometheus metrics at http://ADDRESS/metrics
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = NOTIFICATIONS_HEADING)]
    pub(crate) metrics_listen: Option<SocketAddr>,

    /// Allow --metrics-listen on an address that other hosts reach: the metrics have the guests'
    /// names
    #[arg(long, requires = "metrics_listen", help_heading = NOTIFICATIONS_HEADING)]
    pub(crate) metrics_for_all: bool,

    /// Where libvirt keeps the state of running guests
    #[arg(long, value_name = "DIR", default_value = taptrail_witness::scan::LIBVIRT_STATE_DIR, hide = true)]
    pub(crate) libvirt: PathBuf,
}

/// Expands `@FILE` in the arguments of `watch` to the lines of FILE, one argument each. auditd
/// passes two arguments at most to a plugin.
pub(crate) fn arguments(given: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, Failure> {
    let (mut all, mut watch) = (Vec::new(), false);
    for argument in given {
        match argument.as_encoded_bytes().strip_prefix(b"@") {
            Some(_) if watch => {
                let file = PathBuf::from(argument.to_string_lossy().split_at(1).1);
                let text = read(&file)
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

/// The text of a file of arguments.
fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MAX_ARGUMENTS_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_ARGUMENTS_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_ARGUMENTS_BYTES} bytes")));
    }
    Ok(text)
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Where {
    /// With the oldest rotation, to know guests that run already
    #[default]
    Rotations,
    /// With the log itself, without its rotations
    Log,
    /// With records that are written from now on
    End,
}

impl From<Where> for StartPosition {
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
        std::fs::write(file.path(), "# as a plugin\n--stdin\n\n  --on-finding=any=/opt/my tool\n").unwrap();
        let at = format!("@{}", file.path().display());
        let expand = |given: &[&str]| {
            arguments(given.iter().map(OsString::from)).map(|all| {
                all.into_iter().map(|argument| argument.into_string().unwrap()).collect::<Vec<_>>()
            })
        };
        let read = expand(&["taptrail", "watch", &at, "--json"]).unwrap();
        assert_eq!(read, ["taptrail", "watch", "--stdin", "--on-finding=any=/opt/my tool", "--json"]);
        assert_eq!(expand(&["taptrail", "trail", &at]).unwrap()[2], at);
        assert!(expand(&["taptrail", "watch", "@/no/file"]).unwrap_err().line().contains("/no/file"));
        let endless = expand(&["taptrail", "watch", "@/dev/zero"]).unwrap_err();
        assert!(endless.line().contains("it has more than 65536 bytes"), "{}", endless.line());
    }
}
