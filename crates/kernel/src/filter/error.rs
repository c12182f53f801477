use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::link::LinkError;

/// What went wrong with a filter.
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
        /// Its path.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Talking to the program failed.
    #[error("{program} can't be talked to")]
    Talk {
        /// Its path.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The program took too long, and was killed.
    #[error("{program} took longer than {} ms and was killed", timeout.as_millis())]
    Late {
        /// Its path.
        program: PathBuf,
        /// What it was given.
        timeout: Duration,
    },
    /// The program said more than it can have to say, and was killed.
    #[error("{program} gave more than {limit} bytes and was killed")]
    Chatter {
        /// Its path.
        program: PathBuf,
        /// The most it may say.
        limit: usize,
    },
    /// The program failed.
    #[error("{program} failed ({status}): {stderr}")]
    Refused {
        /// Its path.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// The request can't be written as JSON.
    #[error("The filter of '{table}' can't be written as JSON")]
    Write {
        /// The table.
        table: String,
        /// The reason.
        source: serde_json::Error,
    },
    /// What the program read back is not what it should print.
    #[error("What nft read back of table '{table}' can't be understood")]
    Read {
        /// The table.
        table: String,
        /// The reason.
        source: serde_json::Error,
    },
    /// What is set is not what was asked for.
    #[error("The filter read back from table '{table}' is not the one set: {what}")]
    Differs {
        /// The table.
        table: String,
        /// What is other than it should be.
        what: String,
    },
    /// The kernel can't be asked what filters are hooked to.
    #[error("What filters are hooked to can't be read")]
    Hooks(#[source] std::io::Error),
    /// The interface is not there (any more), or is another one by now.
    #[error("There is no interface '{ifname}' of number {ifindex} to filter")]
    NoInterface {
        /// Its name.
        ifname: String,
        /// Its number.
        ifindex: u32,
    },
    /// The links can't be looked at.
    #[error("Network links can't be read")]
    Link(#[from] LinkError),
    /// nftables would read the interface's name as something else.
    #[error(
        "Interface '{ifname}' can't be filtered: nftables reads '*', '\"' and '\\' in names as more than letters"
    )]
    Name {
        /// The interface.
        ifname: String,
    },
    /// The filter failed, and its table can't be removed either.
    #[error("The filter failed, and its table '{table}' may be left, since it can't be removed: {removal}")]
    Left {
        /// The table.
        table: String,
        /// Why it can't be removed.
        removal: Box<FilterError>,
        /// Why the filter failed.
        source: Box<FilterError>,
    },
}
