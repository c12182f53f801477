//! The arguments of `who` and `explain`.

use clap::Args;
use taptrail_report::{Columns, Subject, SubjectError};

use super::format::OutputFormat;
use super::queries::{Inputs, OUTPUT_HEADING, Output, Scope, with_notes};

/// The exit codes of both, as grep's.
macro_rules! exit_codes {
    () => {
        "\n\nExit codes: 0 found; 1 nothing found, and the logs cover it; 2 wrong arguments, or input that can't be \
         read; 4 not known: the logs do not cover it. What is shown as nearest is not the answer."
    };
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: who held /dev/tap198 at half past eight\n  taptrail who /dev/tap198 --at 20:30",
    after_long_help = with_notes!(
        "Examples:\n  taptrail who /dev/tap198 --at 20:30\n  taptrail who 52:54:00:12:34:56 --at 'tue 14:05' \
         /var/log/audit\n  taptrail who web1 --explain\n  taptrail who vnet0 --format json\n\nOne hit is told in full: \
         host, guest, devices, times, the record of each step, how sure it is and why. Several hits are one row each. \
         A word that is both a MAC without separators (525400123456) or a device, and a guest's name, is taken for \
         both.\n\nlibvirt records a macvtap by its interface (macvtap4); records of the kernel and of taptrail add its \
         /dev/tapN. libvirt does not record the interface of a tap.",
        exit_codes!()
    )
)]
pub(crate) struct Who {
    /// MAC of a guest's interface (52:54:00:12:34:56, 52-54-00-12-34-56, 5254.0012.3456,
    /// 525400123456), device (/dev/tap198, vnet0, macvtap4, 0A:C8, tun, macvtap, vhost-net,
    /// vhost-vdpa, vhost-user), or name or UUID of a guest
    #[arg(value_name = "MAC|DEVICE|GUEST", help_heading = None::<&'static str>, value_parser = subject)]
    pub(crate) what: Subject,

    #[command(flatten)]
    pub(crate) sources: Inputs,

    #[command(flatten)]
    pub(crate) scope: Scope,

    /// Tell each of several hits in full
    #[arg(long, conflicts_with_all = ["format", "json", "columns"], help_heading = OUTPUT_HEADING)]
    pub(crate) explain: bool,

    /// A row for each hit, also for a single one, with these columns, as of `taptrail trail`
    #[arg(short = 'o', long, value_name = "COLUMNS", conflicts_with_all = ["format", "json"], help_heading = OUTPUT_HEADING)]
    pub(crate) columns: Option<Columns>,

    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: each open for an interface, what followed, and the records that prove it\n  taptrail \
                  explain 52:54:00:12:34:56",
    after_long_help = with_notes!(
        "Examples:\n  taptrail explain 52:54:00:12:34:56\n  taptrail explain web1 --at yesterday \
         /var/log/audit\n  taptrail explain 2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e --raw\n\nEach session (the devices \
         of one interface in one plug) is told as by `taptrail who`, with its findings; below it are its records, \
         decoded. taptrail reads the lines from their files again; lines from standard input are not shown.",
        exit_codes!()
    )
)]
pub(crate) struct Explain {
    /// MAC of a guest's interface, device (/dev/tap198, vnet0, macvtap4, 0A:C8, tun, macvtap,
    /// vhost-net, vhost-vdpa, vhost-user), or name or UUID of a guest
    #[arg(value_name = "MAC|DEVICE|GUEST", help_heading = None::<&'static str>, value_parser = subject)]
    pub(crate) what: Subject,

    #[command(flatten)]
    pub(crate) sources: Inputs,

    #[command(flatten)]
    pub(crate) scope: Scope,

    /// Show the lines of the records as they are
    #[arg(long, conflicts_with_all = ["format", "json"], help_heading = OUTPUT_HEADING)]
    pub(crate) raw: bool,

    #[command(flatten, next_help_heading = OUTPUT_HEADING)]
    pub(crate) output: OutputFormat,

    /// Add the SHA-256 of each input to JSON (`input.files[].sha256`): of the file's bytes as they
    /// are stored, compressed or not, as sha256sum prints it. Each file is read a second time for
    /// that. It is null, with the reason in `no_sha256`, for standard input, pipes and ledgers, and
    /// for a file that changed while it was read
    #[arg(long, help_heading = OUTPUT_HEADING)]
    pub(crate) hash: bool,

    /// Use UTC for the times in the output, and for TIME without a zone
    #[arg(long, help_heading = OUTPUT_HEADING)]
    pub(crate) utc: bool,
}

fn subject(text: &str) -> Result<Subject, SubjectError> {
    text.parse()
}
