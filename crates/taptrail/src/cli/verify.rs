//! The arguments of `verify`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use taptrail_guest::duration;

use super::{Page, Sources};

const ASKED: &str = "What is asked for";
const SHOWN: &str = "How it is shown";

/// What stands below the examples.
const NOTES: &str = "\
All processes of this host are looked at, whatever they run: who holds a tap, macvtap or vhost-net, and does a record \
grant it?\n\n  accounted           a record grants it to the process that holds it\n  unaccounted         it is held, and no \
record grants it\n  missing             it is told as held, and nobody holds it\n  held-after-release  it is told as \
released, and is held\n  held-by-another     it is granted to one process, and another has it: a leaked copy, a forked \
child, a container\n  not-audited         a device of which no trail tells: vhost-vsock, vhost-vdpa, vfio, ipvtap\n  \
ignored             nobody accounts for it, and --ignore names its program\n\nWithout FILE this host's audit log, its \
rotations and the ledger are read. Log and processes are not read at one moment: what differs is looked at again, and \
told when it lasts.\n\nExit codes: 0 all is accounted for; 1 there are differences; 2 something could not be seen or \
read, or unusable arguments.";

/// Hold the trail against what processes really hold.
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

    /// Only of this guest, by its name or uuid; may be given several times
    #[arg(long, value_name = "GUEST", help_heading = ASKED)]
    pub(crate) guest: Vec<String>,

    /// Only of this process; may be given several times
    #[arg(long, value_name = "PID", help_heading = ASKED)]
    pub(crate) pid: Vec<u32>,

    /// Only in this network namespace: a name as `ip netns` has it, or a path such as /proc/PID/ns/net
    #[arg(long, value_name = "NAME|PATH", help_heading = ASKED)]
    pub(crate) netns: Option<PathBuf>,

    /// A program that is known to hold devices of its own, by its absolute path; may be given several times. A guest's
    /// device in its hands is told all the same
    #[arg(long, value_name = "EXE", help_heading = ASKED, value_parser = absolute)]
    pub(crate) ignore: Vec<PathBuf>,

    /// A process that is known in the same way, or known as one that can't be looked into; may be given several times
    #[arg(long, value_name = "PID", help_heading = ASKED)]
    pub(crate) ignore_pid: Vec<u32>,

    /// What the trail calls this host, where that is not its name
    #[arg(long, value_name = "HOST", help_heading = ASKED)]
    pub(crate) node: Option<String>,

    /// How long a difference has to last before it is told
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration, help_heading = ASKED)]
    pub(crate) settle: Duration,

    /// How to tell it
    #[arg(long, value_enum, default_value_t = Page::Table, help_heading = SHOWN)]
    pub(crate) format: Page,
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("an absolute path is needed, as in /proc/PID/exe".to_owned())
    }
}
