//! The arguments of `taptrail man`.

use std::path::PathBuf;

use clap::Args;
use jiff::civil::Date;

/// Write the manual pages of all commands, for packages
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taptrail man target/man --date 2026-11-30")]
pub(crate) struct Man {
    /// Directory for them; the pages are in man1 there
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// Date to print on the pages: year, month and day [default: of SOURCE_DATE_EPOCH, or today]
    #[arg(long, value_name = "DATE")]
    pub(crate) date: Option<Date>,
}
