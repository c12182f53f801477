//! The arguments of `taptrail serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::queries::{OUTPUT_HEADING, Selection, Sources, Times};

/// Serve the page of `taptrail report` to browsers, and keep it up to date
///
/// The page is read-only. It is loaded again when the trail has changed. Requests are answered only
/// under the names of the address that taptrail listens on, so that no other site's page can read
/// them.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taptrail serve\n  taptrail serve --listen 127.0.0.1:8000 /srv/logs\n  taptrail serve \
                  --listen 192.0.2.7:7420 --token-file /etc/taptrail/token --allow-host kvm1.example.org\n\nA browser \
                  opens the address with the token once, and keeps the token as a cookie. The connection is not \
                  encrypted: put a proxy with TLS in front of any address but a loopback one."
)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) sources: Sources,

    #[command(flatten)]
    pub(crate) selection: Selection,

    #[command(flatten)]
    pub(crate) times: Times,

    /// Address and port to listen on; port 0 is any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7420", help_heading = "Network")]
    pub(crate) listen: SocketAddr,

    /// File with the token that clients must have, of at least 16 characters [default: a random one,
    /// which is printed]
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    pub(crate) token_file: Option<PathBuf>,

    /// Let every user of this host read the page, without a token; only on a loopback address
    #[arg(long, help_heading = "Network", conflicts_with = "token_file")]
    pub(crate) no_token: bool,

    /// Answer under this host name, too (repeatable)
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub(crate) allow_host: Vec<String>,

    /// Use UTC for the times on the page, and for TIME without a zone
    #[arg(long, help_heading = OUTPUT_HEADING)]
    pub(crate) utc: bool,
}
