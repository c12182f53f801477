//! `--format` of the commands that have no table of holdings: `--json` is short for its JSON.

use clap::{Args, ValueEnum};

/// The output of a command that prints once.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputFormat {
    /// Output format
    #[arg(long, value_enum, default_value_t = TextOrJson::Table)]
    format: TextOrJson,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl OutputFormat {
    pub(crate) fn is_json(self) -> bool {
        self.json || self.format == TextOrJson::Json
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TextOrJson {
    /// A table or sentences for people
    Table,
    /// JSON
    Json,
}

/// The output of a command that prints events as they happen.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct StreamFormat {
    /// Output format
    #[arg(long, value_enum, default_value_t = LinesOrJson::Table)]
    format: LinesOrJson,

    /// The same as --format jsonl
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl StreamFormat {
    pub(crate) fn is_json(self) -> bool {
        self.json || self.format == LinesOrJson::Jsonl
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LinesOrJson {
    /// A line of text for each event
    Table,
    /// A JSON object on each line
    #[value(alias = "json")]
    Jsonl,
}
