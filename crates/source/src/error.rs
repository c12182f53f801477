use std::io;
use std::path::PathBuf;

/// Why an input can't be read at all. A line that can't be believed is no error: it is counted and
/// located, and reading goes on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The input can't be opened.
    #[error("{path} can't be opened")]
    Open {
        /// The input.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory's names can't be read.
    #[error("Directory {path} can't be read")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory has no logs.
    #[error("Directory {path} has no logs: no file in it is named like 'audit.log' or 'audit.log.1'")]
    NoLogs {
        /// The directory.
        path: PathBuf,
    },
    /// The input stopped giving bytes, or they can't be decompressed.
    #[error("{name} can't be read on from byte {at}")]
    Read {
        /// The input.
        name: String,
        /// How many bytes of it were read before, decompressed.
        at: u64,
        /// Why.
        source: io::Error,
    },
    /// systemd's binary journal, which only its own library reads.
    #[error(
        "{name} is a binary journal: read it by 'journalctl --file {name} -o export _TRANSPORT=audit | taptrail trail -'"
    )]
    BinaryJournal {
        /// The input.
        name: String,
    },
}
