//! `taptrail schema`: prints the JSON Schemas of all outputs.

use std::fmt::Write as _;

use taptrail_report::Schema;

use crate::CommandResult;
use crate::cli;
use crate::output::{print, print_json};

pub(crate) fn schema(arguments: &cli::Schema) -> CommandResult {
    if let Some(schema) = arguments.name.as_deref().and_then(Schema::named) {
        return print_json(&schema.standalone()?);
    }
    let width = Schema::ALL.iter().map(|schema| schema.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for schema in Schema::ALL {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{:width$}  {}", schema.name, schema.title()?);
    }
    print(&text)
}
