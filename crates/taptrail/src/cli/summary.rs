//! The arguments of `taptrail summary`.

use clap::{Args, ValueEnum};
use taptrail_report::GroupBy;

use super::format::OutputFormat;
use super::queries::{Inputs, OUTPUT_HEADING, Selection, Times};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taptrail summary --start this-week\n  taptrail summary --by host /srv/logs\n  taptrail \
                  summary --by host --start tuesday --end tuesday /srv/logs\n  taptrail summary --by day --guest web1 \
                  --format json\n\n--by host has a row for each host that was read, with the time that its logs \
                  cover, and in how many time ranges within records may be missing; 'Losses' has those times. With \
                  --start or --end, standard error names the hosts whose logs don't cover all of that time.\n\n\
                  `taptrail trail --help` says what FILE and TIME may be.\n\nExit codes: 0 success; 2 wrong arguments, or input that can't be read."
)]
pub(crate) struct Summary {
    #[command(flatten)]
    pub(crate) sources: Inputs,

    #[command(flatten)]
    pub(crate) selection: Selection,

    #[command(flatten)]
    pub(crate) times: Times,

    /// Add a row for each guest, host, day or device
    #[arg(long, value_enum, value_name = "KEY", help_heading = OUTPUT_HEADING)]
    pub(crate) by: Option<By>,

    #[command(flatten, next_help_heading = OUTPUT_HEADING)]
    pub(crate) output: OutputFormat,

    /// Use UTC for the times in the output, and for TIME without a zone
    #[arg(long, help_heading = OUTPUT_HEADING)]
    pub(crate) utc: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// Guests, by name and UUID
    Guest,
    /// Hosts
    Host,
    /// Days on which a session began
    Day,
    /// Devices, by their kind, interface or path
    Device,
}

impl From<By> for GroupBy {
    fn from(by: By) -> Self {
        match by {
            By::Guest => Self::Guest,
            By::Host => Self::Host,
            By::Day => Self::Day,
            By::Device => Self::Device,
        }
    }
}
