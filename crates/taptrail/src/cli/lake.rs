//! The arguments of `lake`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use taptrail_lake::Root;

use super::LakeSql;
use super::format::OutputFormat;

/// Look after a lake: the archived trails of many hosts
///
/// A lake is a directory or an object store that `taptrail archive` fills. URL is file:///DIRECTORY,
/// s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX; region, endpoint and credentials
/// are taken from the environment (AWS_REGION, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID …) or from the
/// machine's role.
#[derive(Debug, Subcommand)]
pub(crate) enum LakeCommand {
    /// Make one object of each day, with all batches that came since
    Compact(Compact),
    /// List what only all hosts together show
    Findings(FleetFindings),
    /// Remove days that need not be kept, and objects that nothing needs
    Prune(PruneLake),
    /// Check that a lake is as it was written
    Check(CheckLake),
    /// Print a question to a lake as SQL for an engine, or ask it
    Sql(Box<LakeSql>),
}

/// Where the key that signs manifests is.
#[derive(Debug, Args)]
pub(crate) struct Signing {
    /// Sign the new manifest with this secret key (`minisign -G -W` makes one); without it, the systemd
    /// credential lake.key, if there is one
    #[arg(long, value_name = "FILE", env = "TAPTRAIL_LAKE_KEY")]
    pub(crate) sign_key: Option<PathBuf>,
}

/// Make one object of each day, with all batches that came since
///
/// What several readings have of one host is merged, and everything is derived from the merged
/// records again. Objects that are not changed stay. The last line is the lake's root: keep it
/// elsewhere, and `lake check --root` shows later whether anything up to then was altered.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taptrail lake compact file:///var/lib/taptrail/lake\n  \
                        taptrail lake compact s3://audit/taptrail --sign-key /etc/taptrail/lake.key")]
pub(crate) struct Compact {
    /// The lake
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) signing: Signing,
    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

/// List what only all hosts together show
///
/// One MAC or one guest on two hosts at once, distinguished from migrations, with the number that
/// chance alone makes; hosts without records; clocks that are ahead; device numbers that one host
/// had twice. Only what is compacted is read, and only certain times count. Exit code 1: there are
/// findings.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taptrail lake findings s3://audit/taptrail --start '30 days ago'\n  \
                        taptrail lake findings file:///var/lib/taptrail/lake --silence 15min --json")]
pub(crate) struct FleetFindings {
    /// The lake
    pub(crate) url: String,
    /// From the UTC day of this time on
    #[arg(long, value_name = "TIME")]
    pub(crate) start: Option<String>,
    /// To the UTC day of this time
    #[arg(long, value_name = "TIME")]
    pub(crate) end: Option<String>,
    /// Only these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kinds())]
    pub(crate) kind: Vec<String>,
    /// How long a host may have no records
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub(crate) silence: jiff::SignedDuration,
    /// How long one guest may be on two hosts in a migration
    #[arg(long, value_name = "DURATION", default_value = "15min")]
    pub(crate) migration: jiff::SignedDuration,
    #[command(flatten)]
    pub(crate) output: super::format::StreamFormat,
}

fn kinds() -> clap::builder::PossibleValuesParser {
    taptrail_lake::FleetKind::ALL.map(taptrail_lake::FleetKind::as_str).into()
}

/// Remove days that need not be kept, and objects that nothing needs
///
/// Days before --before are left out of the next generation. Objects that no manifest names are
/// deleted, once that is so for the grace time. Manifests stay: they show what was removed when.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taptrail lake prune s3://audit/taptrail --before '400 days ago'")]
pub(crate) struct PruneLake {
    /// The lake
    pub(crate) url: String,
    /// Remove the UTC days before that of this time
    #[arg(long, value_name = "TIME")]
    pub(crate) before: Option<String>,
    /// How long an object stays that no manifest names
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub(crate) grace: jiff::SignedDuration,
    #[command(flatten)]
    pub(crate) signing: Signing,
    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

/// Check that a lake is as it was written
///
/// Each object is compared with the SHA-256, the size and the order of rows that its manifest has,
/// summaries and objects of months with the objects of days, each generation with its predecessor,
/// and the signatures with --key. Exit code 1: something is missing, altered, out of order or
/// inconsistent. Who can write the whole lake and has no key can also write
/// matching manifests: only signatures, or a root that was kept elsewhere, show that.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taptrail lake check s3://audit/taptrail --key lake.pub\n  \
                        taptrail lake check file:///var/lib/taptrail/lake --root 12:3fd6…")]
pub(crate) struct CheckLake {
    /// The lake
    pub(crate) url: String,
    /// Verify signatures with this public key: a minisign file, or the key itself
    #[arg(long, value_name = "FILE|KEY")]
    pub(crate) key: Option<String>,
    /// A root that was printed earlier: that generation must be there, as it was
    #[arg(long, value_name = "ROOT")]
    pub(crate) root: Option<Root>,
    /// Check only that the objects are there and have their sizes; read none of them
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) output: OutputFormat,
}
