//! The arguments of `taptrail archive`.

use std::path::PathBuf;

use clap::Args;

use super::format::OutputFormat;
use super::queries::{OUTPUT_HEADING, Sources};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taptrail archive /srv/logs --to s3://audit-lake/kvm\n  taptrail archive --to \
                  file:///srv/lake --checkpoint /var/lib/taptrail-archive/checkpoint.json\n\n`taptrail trail --help` \
                  says what FILE may be. Credentials, region and endpoint of the object store come from the \
                  environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; GOOGLE_…; AZURE_…) \
                  or from the machine's own identity in the cloud.\n\nSending the same input again adds nothing.\n\nExit \
                  codes: 0 success; 1 the object store can't be written; 2 wrong arguments, or input that can't be read."
)]
pub(crate) struct Archive {
    #[command(flatten)]
    pub(crate) sources: Sources,

    /// The lake: file:///DIRECTORY, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    #[arg(long, value_name = "URL", help_heading = "Destination")]
    pub(crate) to: String,

    /// Remember in this file what was sent, and send only what is new
    #[arg(long, value_name = "FILE", help_heading = "Destination")]
    pub(crate) checkpoint: Option<PathBuf>,

    #[command(flatten, next_help_heading = OUTPUT_HEADING)]
    pub(crate) output: OutputFormat,
}
