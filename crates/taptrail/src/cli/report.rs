//! The arguments of `report`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::queries::{Inputs, OUTPUT_HEADING, Selection, Times, with_notes};

/// Write a trail as a page for a browser, or as a picture
///
/// The page is one file that loads nothing: a timeline of each interface of each guest, the same as
/// a table, the lines that prove it, and from what it was made, with the inputs' SHA-256. A file is
/// complete or not there; only its owner can read it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: a page about this host\n  taptrail report -o report.html",
    after_long_help = with_notes!(
        "Examples:\n  taptrail report -o report.html\n  taptrail report --guest web1 --start this-week -o web1.html \
         /var/log/audit\n  taptrail report --format svg -o - saved.log.xz > figure.svg\n\nExit codes: 0 success; \
         2 wrong arguments, or input that can't be read; 4 not known: the logs do not cover the time in question."
    )
)]
pub(crate) struct Report {
    #[command(flatten)]
    pub(crate) sources: Inputs,

    #[command(flatten)]
    pub(crate) selection: Selection,

    #[command(flatten)]
    pub(crate) times: Times,

    /// File to write, or - for standard output; a file of that name is replaced
    #[arg(short, long, value_name = "PATH", help_heading = OUTPUT_HEADING)]
    pub(crate) output: PathBuf,

    /// Output format
    #[arg(long, value_enum, default_value_t = PictureFormat::Html, help_heading = OUTPUT_HEADING)]
    pub(crate) format: PictureFormat,

    /// Use UTC for the times in the output, and for TIME without a zone
    #[arg(long, help_heading = OUTPUT_HEADING)]
    pub(crate) utc: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PictureFormat {
    /// A page for a browser, with everything in it
    Html,
    /// A trace for <https://ui.perfetto.dev>, in the JSON of Chrome's trace events
    Perfetto,
    /// A figure for a document, of 60 rows at most
    Svg,
}
