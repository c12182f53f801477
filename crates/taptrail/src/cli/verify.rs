//! The arguments of `verify`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use taptrail_guest::duration;

use super::Sources;
use super::format::OutputFormat;

const SELECTION_HEADING: &str = "Selection";
const OUTPUT_HEADING: &str = "Output";

/// The text below the examples.
const NOTES: &str = "\
Verdicts:
  accounted           a record grants the device to the process that holds it
  unaccounted         a process holds the device, and no record grants it
  missing             the trail says that a guest holds it, and no process does
  unknown             the same, and the guest's process could not be seen
  held-after-release  the trail says that it was released, and a process holds it
  held-by-another     granted to one process, held by another: a leaked copy, a
                      forked child, a container
  unaudited-kind      a kind that its manager does not audit: vhost-vsock, vfio,
                      vhost-vdpa of others than taptrail
  ignored             no record grants it, and --ignore names its program

Without FILE, taptrail reads this host's audit log, its rotations and the ledger. The log and the \
processes are not read at one moment, so taptrail looks at a difference again, and reports it when it \
lasts.

Exit codes:
  0  every device is accounted for
  1  there are differences, even if something could not be seen
  2  no differences, but something could not be seen; or the trail could not be
     read; or wrong arguments";

/// Compare the audit trail with the devices that processes hold now
#[derive(Debug, Args)]
#[command(
    after_help = "Example: is every device of this host accounted for?\n  taptrail verify --ignore /usr/sbin/openvpn",
    after_long_help = format!(
        "Examples:\n  taptrail verify\n  taptrail verify --guest web1 --format json\n  taptrail verify --ignore \
         /usr/sbin/openvpn --ignore /usr/bin/passt\n\n{NOTES}"
    )
)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) sources: Sources,

    /// Only devices of this guest, by its name or uuid (repeatable)
    #[arg(long, value_name = "GUEST", help_heading = SELECTION_HEADING)]
    pub(crate) guest: Vec<String>,

    /// Only devices of this process (repeatable)
    #[arg(long, value_name = "PID", help_heading = SELECTION_HEADING)]
    pub(crate) pid: Vec<u32>,

    /// Only devices in this network namespace: a name as `ip netns` lists it, or a path such as
    /// /proc/PID/ns/net
    #[arg(long, value_name = "NAME|PATH", help_heading = SELECTION_HEADING)]
    pub(crate) netns: Option<PathBuf>,

    /// Ignore devices of this program, by its absolute path (repeatable); a guest's device in its
    /// hands is reported all the same
    #[arg(long, value_name = "EXE", help_heading = SELECTION_HEADING, value_parser = absolute)]
    pub(crate) ignore: Vec<PathBuf>,

    /// Ignore devices of this process, and that it can't be seen (repeatable)
    #[arg(long, value_name = "PID", help_heading = SELECTION_HEADING)]
    pub(crate) ignore_pid: Vec<u32>,

    /// Name of this host in the trail [default: its node name]
    #[arg(long, value_name = "HOST", visible_alias = "node", help_heading = SELECTION_HEADING)]
    pub(crate) host: Option<String>,

    /// How long a difference must last to be reported
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration, help_heading = SELECTION_HEADING)]
    pub(crate) settle: Duration,

    #[command(flatten, next_help_heading = OUTPUT_HEADING)]
    pub(crate) output: OutputFormat,
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("an absolute path is needed, as in /proc/PID/exe".to_owned())
    }
}
