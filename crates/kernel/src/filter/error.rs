use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::link::LinkError;

/// Why a filter can't be set, checked or removed.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is no `nft` program in its usual places.
    #[error("The nft program is in none of its places: {}", places.join(", "))]
    NoProgram {
        /// Where it was looked for.
        places: &'static [&'static str],
    },
    /// The program can't be started.
    #[error("{program} can't be started")]
    Start {
        /// The path of the nft program.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Communicating with the program failed.
    #[error("{program} can't be talked to")]
    Communicate {
        /// The path of the nft program.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The program took too long, and was killed.
    #[error("{program} took longer than {} ms and was killed", timeout.as_millis())]
    TimedOut {
        /// The path of the nft program.
        program: PathBuf,
        /// The time limit.
        timeout: Duration,
    },
    /// The program printed too much, and was killed.
    #[error("{program} gave more than {limit} bytes and was killed")]
    TooMuchOutput {
        /// The path of the nft program.
        program: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// The program failed.
    #[error("{program} failed ({status}): {stderr}")]
    Refused {
        /// The path of the nft program.
        program: PathBuf,
        /// Its exit status.
        status: ExitStatus,
        /// Its error output.
        stderr: String,
    },
    /// The program's listing of the table can't be parsed.
    #[error("What nft read back of table '{table}' can't be understood")]
    Read {
        /// The name of the nftables table.
        table: String,
        /// The error of the JSON parser or writer.
        source: serde_json::Error,
    },
    /// The filter in the kernel is not the requested one.
    #[error("The filter read back from table '{table}' is not the one set: {what}")]
    Differs {
        /// The name of the nftables table.
        table: String,
        /// The first difference that was found.
        what: String,
    },
    /// The hooks of filters can't be read from the kernel.
    #[error("What filters are hooked to can't be read")]
    Hooks(#[source] std::io::Error),
    /// The interface is not there (any more), or is another one by now.
    #[error("There is no interface '{ifname}' of number {ifindex} to filter")]
    NoInterface {
        /// The name of the interface.
        ifname: String,
        /// The ifindex of the interface.
        ifindex: u32,
    },
    /// The links can't be read.
    #[error("Network links can't be read")]
    Link(#[from] LinkError),
    /// nftables would read the interface's name as something else.
    #[error(
        "Interface '{ifname}' can't be filtered: nftables reads '*', '\"' and '\\' in names as more than letters"
    )]
    Name {
        /// The name of the interface.
        ifname: String,
    },
    /// The filter failed, and its table can't be removed either.
    #[error("The filter failed, and its table '{table}' may be left, since it can't be removed: {removal}")]
    TableLeft {
        /// The name of the nftables table.
        table: String,
        /// Why it can't be removed.
        removal: Box<FilterError>,
        /// Why the filter failed.
        source: Box<FilterError>,
    },
}
