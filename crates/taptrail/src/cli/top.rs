//! The arguments of `taptrail top`.

use clap::Args;

use super::queries::{OUTPUT_HEADING, Selection, Sources};

/// Show who holds what now, and what happened last, as it changes
///
/// taptrail reads the trail again when its files have changed: it shows what the records say. What
/// processes hold is shown by `taptrail verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Keys: q quits, the arrows and PgUp, PgDn move, / filters by guest, MAC or device, Esc clears the \
                  filter, f shows findings alone.\n\nExamples:\n  taptrail top\n  taptrail top --host kvm07 /srv/logs"
)]
pub(crate) struct Top {
    #[command(flatten)]
    pub(crate) sources: Sources,

    #[command(flatten)]
    pub(crate) selection: Selection,

    /// Use UTC for the times in the output
    #[arg(long, help_heading = OUTPUT_HEADING)]
    pub(crate) utc: bool,
}
