//! The arguments of `schema`.

use clap::Args;
use clap::builder::PossibleValuesParser;

/// Print the JSON Schema of an output
///
/// taptrail prints a schema (draft 2020-12) that refers to no other file: what each field means, its
/// type, and whether it may be missing. Without NAME, it lists the schemas. The number in a schema's
/// $id is its version: as long as that stays, fields and words are only added.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taptrail schema\n  taptrail schema trail")]
pub(crate) struct Schema {
    /// Name of the schema
    #[arg(value_parser = names(), hide_possible_values = true)]
    pub(crate) name: Option<String>,
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(taptrail_report::Schema::ALL.iter().map(|schema| schema.name))
}
