//! The arguments of `guests`.

use clap::Args;
use taptrail_report::GuestFilter;

use super::queries::{Inputs, Output, SELECTION_HEADING, guest, with_notes};

#[derive(Debug, Args)]
#[command(
    after_help = "Example: which guests ran this week, and why they ended\n  taptrail guests --start this-week",
    after_long_help = with_notes!(
        "Examples:\n  taptrail guests --start this-week\n  taptrail guests --at '2026-11-23 20:31' \
         /var/log/audit\n  taptrail guests --guest web1 --all-events --format csv saved.log.xz > events.csv\n\nBY is who is on record \
         for the start and the end: the client that taptrail's own record names; else the guest's manager, which is the \
         process that wrote the record. libvirt does not record who asked it.\n\nExit codes: 0 success; 2 wrong \
         arguments, or input that can't be read; 4 not known: the logs do not cover the time in question."
    )
)]
pub(crate) struct Guests {
    #[command(flatten)]
    pub(crate) sources: Inputs,

    /// Only guests with this name or UUID (repeatable)
    #[arg(
        long,
        visible_aliases = ["vm", "uuid"],
        value_name = "NAME|UUID",
        value_parser = guest,
        help_heading = SELECTION_HEADING
    )]
    pub(crate) guest: Vec<GuestFilter>,

    /// Only on this host
    #[arg(long, value_name = "HOST", visible_alias = "node", help_heading = SELECTION_HEADING)]
    pub(crate) host: Option<String>,

    /// Only runs that had not ended before this time
    #[arg(long, value_name = "TIME", help_heading = SELECTION_HEADING)]
    pub(crate) start: Option<String>,

    /// Only runs that had begun by this time
    #[arg(long, value_name = "TIME", help_heading = SELECTION_HEADING)]
    pub(crate) end: Option<String>,

    /// Only guests that ran, or possibly ran, at this time
    #[arg(long, value_name = "TIME", help_heading = SELECTION_HEADING)]
    pub(crate) at: Option<String>,

    /// List every record instead of runs: starts, stops, all resources (network devices, disks,
    /// memory, processors, host devices …), and what the kernel recorded of a guest's process
    #[arg(long, help_heading = SELECTION_HEADING)]
    pub(crate) all_events: bool,

    #[command(flatten)]
    pub(crate) output: Output,
}
